package verifier

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/ima"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
)

// ErrNotFound says that a store does not have what was asked for.
var ErrNotFound = errors.New("not found")

// Devices remembers who is known. What a method of a store has returned without
// an error survives a crash and a loss of power.
type Devices interface {
	Device(id attest.UEID) (*Device, error) // ErrNotFound
	Devices() ([]Device, error)             // in the order of their UEIDs
	Save(d *Device) error
}

// Reports remembers what devices said.
type Reports interface {
	// Neighbours finds the report with this digest, in any chain of the device,
	// and those at and around sequence in the chain.
	Neighbours(id attest.UEID, chain, sequence uint64, digest [32]byte) (Neighbours, error)
	// BootReport returns the message of a boot report or challenge answer of a boot:
	// these carry all facts. Sequence 0 asks for the newest. ErrNotFound.
	BootReport(id attest.UEID, chain uint64, seed [16]byte, sequence uint64) ([]byte, error)
	// Log returns the parts of a log of a boot, in order and without a gap, from the
	// one on that has the given byte.
	Log(id attest.UEID, chain uint64, seed [16]byte, log attest.Log, from uint64) ([]attest.Part, error)
	// Accept stores a report and what the device has become, both or neither.
	Accept(d *Device, r *Record) error
}

// Refusals remembers what was not accepted, as far back as it likes.
type Refusals interface {
	Refuse(r *Refused) error
}

// A Store remembers the fleet; store.Store is one.
type Store interface {
	Devices
	Reports
	Refusals
	Epochs
}

// Neighbours are what is stored around a report.
type Neighbours struct {
	Known             bool // this very report
	Before, At, After *Link
}

// A Link is a report's place in the chain.
type Link struct {
	Sequence         uint64
	Digest, Previous [32]byte
}

// Config is a verifier's policy and its keys.
type Config struct {
	// References are the editions of manifests that devices may use, opened under
	// the manufacturers' keys. The newest of a vendor and model is the one they
	// should use.
	References []*reference.Reference
	// NoReferences says that reports are to be accepted without any manifest. It
	// has to be said: a verifier that appraises nothing is a decision.
	NoReferences bool

	// Files are lists of files that manifests name by their digest.
	Files [][]byte

	// Labels are the signed labels of the devices' models, whatever is in them,
	// and LabelTrust opens them. Without LabelTrust no labels are looked at.
	Labels     []LabelFile
	LabelTrust *reference.Trust
	// BOMs are bills of materials in CycloneDX, of which a label names its own by
	// its digest, and Advisories what is known of flaws: OSV, CSAF or CycloneDX.
	BOMs, Advisories []LabelFile
	// Observed is what people wrote down of a device: the day of purchase, flaws.
	Observed map[attest.UEID]label.Observation
	// OwnNetworks are the hospital's public addresses, which are no cloud.
	OwnNetworks []netip.Prefix

	EKRoots       *x509.CertPool // that sign endorsement certificates; nil for none
	RequireEKCert bool           // refuse TPMs whose certificate is missing or of an unknown root

	Result  *cose.Signer  // signs results
	Command *cose.Signer  // signs challenges and epochs; nil: none can be made
	Epoch   time.Duration // how long an epoch lasts, whole seconds; 0: there are none, and age is told by challenges only
	Build   string        // name and version, for results

	MaxWaiting int         // devices that wait for approval at a time; 0 for 1000
	Changed    func(Event) // called after each change is stored; may be nil, must not block
}

// An Event tells that something changed.
type Event struct {
	Device   string   // UEID in hexadecimal; "" with Refused
	Sequence uint64   // of the newest report
	Refused  *Refused // or what was refused
}

// ChallengeLife is how long after a challenge its answer counts.
const ChallengeLife = 5 * time.Minute

// In seconds. A challenge is signed as valid from a little earlier, for devices
// whose clocks lag.
const (
	challengeLife = int64(ChallengeLife / time.Second)
	clockSkew     = 300
)

// A Verifier checks, appraises and decides. It is safe for concurrent use.
type Verifier struct {
	cfg    Config
	store  Store
	policy atomic.Pointer[policy]

	locks   [64]sync.Mutex // by device, so that one report of it is judged at a time
	mu      sync.Mutex
	waiting map[attest.UEID]bool
	epochs  []Epoch // by their beginning
}

type model struct{ vendor, model string }

// A policy is what devices are held against. It is replaced as a whole, never
// changed, so that whatever is judged is judged by one.
type policy struct {
	byHash      map[[32]byte]*reference.Reference
	newest      map[model]*reference.Reference
	files       map[[32]byte]*ima.Policy // by manifest
	shelf       *shelf                   // nil without labels
	observed    map[attest.UEID]label.Observation
	ownNetworks []netip.Prefix
}

func newPolicy(cfg *Config) (*policy, error) {
	if len(cfg.References) == 0 && !cfg.NoReferences {
		return nil, errors.New("cannot verify without a manifest: nothing would be appraised")
	}
	p := &policy{byHash: map[[32]byte]*reference.Reference{}, newest: map[model]*reference.Reference{}, files: map[[32]byte]*ima.Policy{},
		observed: cfg.Observed, ownNetworks: cfg.OwnNetworks}
	for _, r := range cfg.References {
		m := r.Manifest()
		k := model{m.Vendor, m.Model}
		p.byHash[r.Digest()] = r
		files, err := policyOf(r, cfg.Files)
		if err != nil {
			return nil, err
		}
		p.files[r.Digest()] = files
		old := p.newest[k]
		if old != nil && old.Manifest().Sequence == m.Sequence && old.Digest() != r.Digest() {
			return nil, fmt.Errorf("cannot verify with two manifests of %s %s that both have sequence %d", m.Vendor, m.Model, m.Sequence)
		}
		if old == nil || m.Sequence > old.Manifest().Sequence {
			p.newest[k] = r
		}
	}
	if cfg.LabelTrust != nil {
		p.shelf = &shelf{files: cfg.Labels, trust: cfg.LabelTrust, boms: cfg.BOMs, advisories: cfg.Advisories}
	} else if len(cfg.Labels) > 0 {
		return nil, errors.New("cannot compare labels without keys that may sign them")
	}
	return p, nil
}

// Reload takes over what of cfg devices are held against: manifests and the files
// that they name, labels and what belongs to them, observations, own networks.
// What is being judged goes on under what held when that began. On an error all
// stays as it is.
func (v *Verifier) Reload(cfg Config) error {
	p, err := newPolicy(&cfg)
	if err != nil {
		return err
	}
	v.policy.Store(p)
	return nil
}

// New returns a verifier over what store remembers. It refuses a policy that
// checks nothing.
func New(cfg Config, store Store) (*Verifier, error) {
	switch {
	case store == nil:
		return nil, errors.New("cannot verify without a store")
	case cfg.Result == nil:
		return nil, errors.New("cannot verify without a key that signs results")
	case cfg.Epoch != 0 && (cfg.Command == nil || cfg.Epoch < 10*time.Second || cfg.Epoch%time.Second != 0):
		return nil, errors.New("cannot begin epochs without a key that signs commands, or of less than 10 s")
	case cfg.RequireEKCert && cfg.EKRoots == nil:
		return nil, errors.New("cannot require endorsement certificates without their roots")
	}
	if cfg.MaxWaiting == 0 {
		cfg.MaxWaiting = 1000
	}
	p, err := newPolicy(&cfg)
	if err != nil {
		return nil, err
	}
	v := &Verifier{cfg: cfg, store: store, waiting: map[attest.UEID]bool{}}
	v.policy.Store(p)
	if v.epochs, err = store.Epochs(); err != nil {
		return nil, fmt.Errorf("cannot read epochs: %w", err)
	}
	known, err := store.Devices()
	if err != nil {
		return nil, fmt.Errorf("cannot read devices: %w", err)
	}
	for i := range known {
		v.wait(&known[i])
	}
	return v, nil
}

// wait counts the devices that wait for approval.
func (v *Verifier) wait(d *Device) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if d.Enrolled == Asked || d.Enrolled == Proved {
		v.waiting[d.UEID] = true
	} else {
		delete(v.waiting, d.UEID)
	}
}

func (v *Verifier) full(id attest.UEID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.waiting) >= v.cfg.MaxWaiting && !v.waiting[id]
}

func (v *Verifier) lock(id attest.UEID) func() {
	m := &v.locks[id[len(id)-1]%byte(len(v.locks))]
	m.Lock()
	return m.Unlock
}

// save stores d, and tells.
func (v *Verifier) save(d *Device) error {
	if err := v.store.Save(d); err != nil {
		return fmt.Errorf("cannot store device %s: %w", d.UEID, err)
	}
	v.wait(d)
	v.tell(Event{Device: d.UEID.String(), Sequence: d.Sequence})
	return nil
}

func (v *Verifier) tell(e Event) {
	if v.cfg.Changed != nil {
		v.cfg.Changed(e)
	}
}

// A Delivery is one message as a broker handed it over.
type Delivery struct {
	Client  string // the device that the broker authenticated; "" when it does not
	Device  string // the second last element of the topic
	Kind    string // the last element: "report", "alarm", "evidence" or "enrol"
	Payload []byte
}

// A Reply is what is to happen after a message was dealt with.
type Reply struct {
	// Receipt says that the device need not keep the message: it is stored, or it
	// will never be accepted.
	Receipt bool
	Down    []byte   // for the device's command topic, an attest.Down; nil for none
	Refused *Refused // why the message was not accepted; nil when it was
}

// A refusal is why a message is not accepted.
type refusal struct {
	reason Reason
	text   string
}

func (r *refusal) Error() string { return string(r.reason) + ": " + r.text }

func refuse(reason Reason, format string, args ...any) error {
	return &refusal{reason, attest.Clip(fmt.Sprintf(format, args...), maxFinding)} // a stranger's bytes may be in it
}

// Handle deals with one message from a device that came at now. A message that
// is not accepted is no error: it is stored as refused. After an error nothing
// is known to be stored, and the message must not be acknowledged.
func (v *Verifier) Handle(now int64, m Delivery) (Reply, error) {
	var reply Reply
	var err error
	switch m.Kind {
	case "report", "alarm", "evidence":
		reply.Down, err = v.report(now, m)
	case "enrol":
		reply.Down, err = v.enrol(now, m)
	default:
		err = refuse(ReasonTopic, "%q is no kind of message", clip(m.Kind))
	}
	var r *refusal
	switch {
	case err == nil:
		reply.Receipt = true
		return reply, nil
	case !errors.As(err, &r):
		return Reply{}, err
	}
	reply.Refused = &Refused{At: now, Device: clip(m.Device), Topic: clip(m.Kind), Reason: r.reason, Text: r.text, Size: len(m.Payload)}
	if err := v.store.Refuse(reply.Refused); err != nil {
		return Reply{}, fmt.Errorf("cannot store refusal: %w", err)
	}
	v.tell(Event{Refused: reply.Refused})
	switch r.reason {
	case ReasonUnknown, ReasonUnapproved, ReasonRevoked, ReasonManifest, ReasonFull:
		// An operator may change that; until then the device keeps the message.
	default:
		reply.Receipt = true
	}
	return reply, nil
}

// clip bounds text from a stranger.
func clip(s string) string { return attest.Clip(s, 64) }

// Approve lets a device's reports count, from a new chain on. by is the
// operator's name. It returns the message that tells the device.
func (v *Verifier) Approve(now int64, id attest.UEID, by string) ([]byte, error) {
	return v.approve(now, id, by, nil)
}

func (v *Verifier) approve(now int64, id attest.UEID, by string, replaces *attest.UEID) ([]byte, error) {
	defer v.lock(id)()
	d, err := v.store.Device(id)
	if err != nil {
		return nil, fmt.Errorf("cannot approve device %s: %w", id, err)
	}
	switch {
	case d.Enrolled == Approved:
		return nil, fmt.Errorf("cannot approve device %s: %w: it is approved already", id, ErrState)
	case d.Enrolled == Retired:
		return nil, fmt.Errorf("cannot approve device %s: %w: it is decommissioned", id, ErrState)
	case d.ProvedAt == 0:
		return nil, fmt.Errorf("cannot approve device %s: %w: its TPM has not opened the credential yet", id, ErrState)
	case by == "" || len(by) > 64:
		return nil, fmt.Errorf("cannot approve device %s: %w: say who approves, in at most 64 bytes", id, ErrState)
	}
	d.Enrolled, d.ApprovedAt, d.ApprovedBy, d.RevokedAt = Approved, now, by, 0
	if replaces != nil {
		d.Replaces = replaces
	}
	d.Chain++
	d.First, d.Missing, d.GapAt, d.Sequence, d.Digest, d.LastSeen = 0, 0, 0, 0, [32]byte{}, 0
	d.Stage, d.Tier, d.Findings, d.Pause, d.Manifest, d.Boot, d.Dropped = 0, 0, nil, nil, nil, nil, 0
	d.Deferral, d.Maintained = nil, 0
	d.Clock, d.Challenge, d.Renewal, d.Renewed = nil, nil, nil, nil
	if err := v.save(d); err != nil {
		return nil, err
	}
	return cose.Encode(attest.Down{Enrolled: true})
}

// ErrState says that what was asked for does not fit how far the device's
// enrolment is.
var ErrState = errors.New("not possible now")

// Revoke takes an enrolment back. Nothing from the device counts any more.
func (v *Verifier) Revoke(now int64, id attest.UEID) error {
	defer v.lock(id)()
	d, err := v.store.Device(id)
	if err != nil {
		return fmt.Errorf("cannot revoke device %s: %w", id, err)
	}
	if d.Enrolled == Retired {
		return fmt.Errorf("cannot revoke device %s: %w: it is decommissioned", id, ErrState)
	}
	d.Enrolled, d.RevokedAt, d.Challenge, d.Renewal, d.Secret = Revoked, now, nil, nil, nil
	return v.save(d)
}

// Decommission ends a device's enrolment for good: it was sold, given back or
// destroyed. What it said is kept; nothing from it is taken any more.
func (v *Verifier) Decommission(now int64, id attest.UEID, by string) error {
	if by == "" || len(by) > 64 {
		return fmt.Errorf("cannot decommission device %s: %w: say who does, in at most 64 bytes", id, ErrState)
	}
	return v.retire(now, id, by, nil)
}

func (v *Verifier) retire(now int64, id attest.UEID, by string, replacedBy *attest.UEID) error {
	defer v.lock(id)()
	d, err := v.store.Device(id)
	if err != nil {
		return fmt.Errorf("cannot decommission device %s: %w", id, err)
	}
	if d.Enrolled == Retired {
		return fmt.Errorf("cannot decommission device %s: %w: it is decommissioned already", id, ErrState)
	}
	d.Enrolled, d.RetiredAt, d.RetiredBy, d.ReplacedBy, d.Challenge, d.Secret = Retired, now, by, replacedBy, nil, nil
	return v.save(d)
}

// Replace approves a device in the place of another of the same vendor and model,
// which is decommissioned: a machine with a new mainboard has another TPM and is
// another device. It returns the message that tells the new one. An interrupted
// replacement can be given again.
func (v *Verifier) Replace(now int64, old, with attest.UEID, by string) ([]byte, error) {
	fail := func(err error) ([]byte, error) {
		return nil, fmt.Errorf("cannot replace device %s by %s: %w", old, with, err)
	}
	was, err := v.store.Device(old)
	if err != nil {
		return fail(err)
	}
	is, err := v.store.Device(with)
	if err != nil {
		return fail(err)
	}
	again := was.Enrolled == Retired && was.ReplacedBy != nil && *was.ReplacedBy == with
	switch {
	case old == with:
		return fail(fmt.Errorf("%w: it is the same device", ErrState))
	case was.Vendor != is.Vendor || was.Model != is.Model:
		return fail(fmt.Errorf("%w: one is a %s %s, the other a %s %s", ErrState, was.Vendor, was.Model, is.Vendor, is.Model))
	case was.Enrolled == Retired && !again:
		return fail(fmt.Errorf("%w: it is decommissioned already", ErrState))
	case is.Enrolled != Proved || by == "" || len(by) > 64:
		// What approves it would refuse; nothing is to be decommissioned for that.
		return fail(fmt.Errorf("%w: the enrolment of %s is %q, and somebody must approve it, in at most 64 bytes", ErrState, with, is.Enrolled))
	}
	if !again {
		if err := v.retire(now, old, by, &with); err != nil {
			return nil, err
		}
	}
	return v.approve(now, with, by, &old)
}

// Inspected records that the hospital inspected a device on a day, not after now, and
// who answers for that: the term of its best-before-inspection date begins anew. A
// record takes the place of the last one, so that a wrong one can be put right.
func (v *Verifier) Inspected(now int64, id attest.UEID, on label.Day, by string) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("cannot record inspection of device %s: %w", id, fmt.Errorf(format, args...))
	}
	defer v.lock(id)()
	d, err := v.store.Device(id)
	switch {
	case err != nil:
		return fail("%w", err)
	case d.Enrolled != Approved:
		return fail("%w: its enrolment is %q", ErrState, d.Enrolled)
	case by == "" || len(by) > 64 || printable(by) != by:
		return fail("%w: say who inspected it, in at most 64 bytes that can be printed", ErrState)
	case on <= 0 || on > label.DayOf(now):
		return fail("%w: %s is not a day until today, %s", ErrState, on, label.DayOf(now))
	}
	d.Inspected = &Inspection{On: on, By: by, At: now}
	return v.save(d)
}

// Challenge makes a signed challenge. Its answer, with a quote where there is a
// TPM, must come within five minutes. A second challenge replaces the first.
func (v *Verifier) Challenge(now int64, id attest.UEID) ([]byte, error) {
	defer v.lock(id)()
	if v.cfg.Command == nil {
		return nil, fmt.Errorf("cannot challenge device %s: %w: no key for commands is configured", id, ErrState)
	}
	d, err := v.store.Device(id)
	if err != nil {
		return nil, fmt.Errorf("cannot challenge device %s: %w", id, err)
	}
	if d.Enrolled != Approved {
		return nil, fmt.Errorf("cannot challenge device %s: %w: its enrolment is %q", id, ErrState, d.Enrolled)
	}
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails
	command, err := reference.SignCommand(&reference.Command{
		Version: 1, Kind: reference.Challenge, Device: id[:], Nonce: nonce, NotBefore: now - clockSkew, NotAfter: now + challengeLife,
	}, v.cfg.Command)
	if err != nil {
		return nil, fmt.Errorf("cannot challenge device %s: %w", id, err)
	}
	d.Challenge = &Challenge{Nonce: nonce, At: now}
	if err := v.save(d); err != nil {
		return nil, err
	}
	return cose.Encode(attest.Down{Command: command})
}

// Command wraps a signed command of an operator for a device. Its signature is
// for the device to check: here only its form is.
func (v *Verifier) Command(id attest.UEID, document []byte) ([]byte, error) {
	d, err := v.store.Device(id)
	if err != nil {
		return nil, fmt.Errorf("cannot forward command to device %s: %w", id, err)
	}
	if d.Enrolled != Approved {
		return nil, fmt.Errorf("cannot forward command to device %s: %w: its enrolment is %q", id, ErrState, d.Enrolled)
	}
	u, err := cose.Parse(document, reference.MaxCommandSize)
	if err != nil {
		return nil, fmt.Errorf("cannot forward command to device %s: %w", id, err)
	}
	if u.Type() != cose.Command {
		return nil, fmt.Errorf("cannot forward command to device %s: %w: %s", id, cose.ErrType, u.Type())
	}
	return cose.Encode(attest.Down{Command: document})
}
