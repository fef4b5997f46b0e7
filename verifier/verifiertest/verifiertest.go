// Package verifiertest makes fleets for tests: a verifier over a real store, and
// devices that speak as agents do, with key files or software TPMs.
package verifiertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/store"
)

// Wire keys of the facts in referencetest.Example.
const (
	BootTotal facts.Key = 6
	PCRDigest facts.Key = 12
	CPUUsage  facts.Key = 20
	Listening facts.Key = 70
	AppFlow   facts.Key = 1000
)

// A Fleet is a verifier over a real store, and the world its keys are of.
type Fleet struct {
	testing.TB
	World *referencetest.World
	Ref   *reference.Reference
	Store *store.Store
	File  string // of the store
	*verifier.Verifier
	Now int64 // Unix seconds

	mu     sync.Mutex
	events []verifier.Event
}

// Events returns what the verifier has told since the last call.
func (f *Fleet) Events() []verifier.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	events := f.events
	f.events = nil
	return events
}

// New returns a fleet without devices under the example manifest; change
// changes the verifier's policy.
func New(t testing.TB, change ...func(*verifier.Config)) *Fleet {
	return Of(t, referencetest.Example(), change...)
}

// Of returns a fleet under another manifest.
func Of(t testing.TB, m reference.Manifest, change ...func(*verifier.Config)) *Fleet {
	t.Helper()
	return In(t, referencetest.New(t), m, change...)
}

// In returns a fleet under a manifest that a world's key signs.
func In(t testing.TB, w *referencetest.World, m reference.Manifest, change ...func(*verifier.Config)) *Fleet {
	t.Helper()
	f := &Fleet{TB: t, World: w, Now: referencetest.Now}
	f.Ref = f.World.Open(t, m)
	f.File = filepath.Join(t.TempDir(), "fleet.db")
	s, err := store.Open(f.File)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	f.Store = s
	cfg := verifier.Config{
		References: []*reference.Reference{f.Ref}, Result: f.World.Result, Command: f.World.Command, Build: "test",
		Changed: func(e verifier.Event) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, e)
		},
	}
	for _, c := range change {
		c(&cfg)
	}
	if f.Verifier, err = verifier.New(cfg, s); err != nil {
		t.Fatal(err)
	}
	return f
}

// A Device makes messages as an agent does.
type Device struct {
	Fleet      *Fleet
	UEID       attest.UEID
	Signer     *cose.Signer
	Protection attest.Protection
	TPM        *tpm.TPM         // nil for a key file
	Identity   *attest.Identity // nil for a key file
	Sequence   uint64           // of the newest report
	Digest     []byte           // of the newest report
	Ref        *reference.Reference
	Seed       [16]byte
	Boots      uint64
	Uptime     int64 // ms
	facts      map[facts.Key]facts.Reading
}

// NewKey returns a new device key in memory.
func NewKey(t testing.TB) *cose.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := cose.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// NewDevice returns a sound device of the example's model with a key file.
func (f *Fleet) NewDevice() *Device {
	f.Helper()
	d := &Device{Fleet: f, Signer: NewKey(f), Protection: attest.ProtectionFile, Ref: f.Ref}
	var id [16]byte
	rand.Read(id[:])
	d.UEID = attest.NewUEID(id)
	d.Reboot()
	d.Set(BootTotal, facts.IntValue(12_000))
	d.Set(CPUUsage, facts.IntValue(100))
	d.Set(Listening, facts.SetValue([]string{"tcp/0.0.0.0:22"}))
	d.Set(AppFlow, facts.IntValue(120))
	return d
}

// NewTPMDevice returns a device with the software TPM at addr.
func (f *Fleet) NewTPMDevice(addr string) *Device {
	f.Helper()
	d := f.NewDevice()
	t, err := tpm.Open(addr)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { t.Close() })
	id, err := t.Provision()
	if err != nil {
		f.Fatal(err)
	}
	if d.Signer, err = cose.NewSigner(t.Signer()); err != nil {
		f.Fatal(err)
	}
	d.TPM, d.Identity, d.Protection, d.UEID = t, attest.IdentityOf(id), attest.ProtectionTPM, attest.UEIDOfEK(id.EKPublic)
	return d
}

// Set sets what the device measures.
func (d *Device) Set(k facts.Key, v facts.Value) {
	if d.facts == nil {
		d.facts = map[facts.Key]facts.Reading{}
	}
	d.facts[k] = facts.Reading{Key: k, Value: v}
}

// Status sets why the device cannot measure a fact.
func (d *Device) Status(k facts.Key, s facts.Status) {
	d.facts[k] = facts.Reading{Key: k, Status: s, Reason: "test"}
}

// Reboot begins another boot.
func (d *Device) Reboot() {
	rand.Read(d.Seed[:])
	d.Boots++
	d.Uptime = 60_000
}

func (d *Device) snapshot() facts.Snapshot {
	s := facts.Snapshot{Uptime: d.Uptime}
	for _, r := range d.facts {
		s.Readings = append(s.Readings, r)
	}
	slices.SortFunc(s.Readings, func(a, b facts.Reading) int { return int(a.Key) - int(b.Key) })
	return s
}

// Report returns a sound report, after 10 s in which nothing changed.
func (d *Device) Report(kind attest.Kind) *attest.Report {
	var fold facts.Fold
	compare := appraise.NewComparison(d.Fleet.Ref)
	if d.Ref != nil {
		compare = appraise.NewComparison(d.Ref)
	}
	var results []appraise.Result
	for range 11 {
		s := d.snapshot()
		results = compare.Compare(s)
		fold.Add(s)
		d.Uptime += 1000
	}
	r := &attest.Report{
		UEID: d.UEID[:], Uptime: uint64(d.Uptime / 1000), Profile: attest.Profile, BootCount: d.Boots, BootSeed: slices.Clone(d.Seed[:]),
		SWName: "factsd", SWVersion: []string{"0.1.0"}, MeasRes: []attest.System{},
	}
	b := &r.Body
	b.Kind, b.Stage, b.Protection = kind, reference.StageOperating, d.Protection
	if d.Ref != nil {
		digest := d.Ref.Digest()
		b.Manifest = &attest.Edition{Sequence: d.Ref.Manifest().Sequence, Digest: digest[:]}
		r.SetResults(results)
	} else {
		b.Stage = reference.StageIntegration
	}
	whole := kind == attest.KindBoot || kind == attest.KindChallenge
	r.SetFacts(&fold, func(k facts.Key) bool { return whole || k != BootTotal && k != PCRDigest })
	b.Sequence, b.Previous = d.Sequence+1, d.Digest
	return r
}

// Seal signs a report, takes it into the device's chain, and quotes where an
// agent with a TPM would.
func (d *Device) Seal(r *attest.Report) *attest.Message {
	d.Fleet.Helper()
	signed, err := attest.Seal(r, d.Signer)
	if err != nil {
		d.Fleet.Fatal(err)
	}
	digest := sha256.Sum256(signed)
	d.Sequence, d.Digest = r.Body.Sequence, digest[:]
	m := &attest.Message{Report: signed}
	if d.TPM != nil && (r.Body.Kind == attest.KindBoot || r.Body.Kind == attest.KindChallenge) {
		m.Quote = d.Quote(r.Nonce, signed, pcrs(d.Ref))
	}
	return m
}

func pcrs(ref *reference.Reference) []int {
	if ref != nil && ref.Manifest().Boot != nil {
		return ref.Manifest().Boot.PCRs
	}
	return []int{0, 1, 2, 3, 4, 5, 6, 7}
}

// Quote returns a quote over a signed report.
func (d *Device) Quote(nonce, signed []byte, pcrs []int) *attest.Quote {
	d.Fleet.Helper()
	q, err := d.TPM.Quote(attest.ExtraData(nonce, signed), pcrs)
	if err != nil {
		d.Fleet.Fatal(err)
	}
	return attest.QuoteOf(q)
}

// Encode returns v in CBOR.
func Encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := cose.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Message returns a sound message.
func (d *Device) Message(kind attest.Kind) []byte {
	return Encode(d.Fleet, d.Seal(d.Report(kind)))
}

// Delivery returns a payload as a broker hands it over.
func (d *Device) Delivery(payload []byte) verifier.Delivery {
	return verifier.Delivery{Client: d.UEID.String(), Device: d.UEID.String(), Kind: "report", Payload: payload}
}

// Send hands in a message and returns what became of it.
func (d *Device) Send(payload []byte) verifier.Reply {
	d.Fleet.Helper()
	d.Fleet.Now++
	return d.Fleet.Take(d.Delivery(payload))
}

// Take hands a message to the verifier.
func (f *Fleet) Take(m verifier.Delivery) verifier.Reply {
	f.Helper()
	reply, err := f.Handle(f.Now, m)
	if err != nil {
		f.Fatal(err)
	}
	return reply
}

// Accepted hands in a message that must be accepted, and returns its record.
func (d *Device) Accepted(payload []byte) *verifier.Record {
	d.Fleet.Helper()
	if reply := d.Send(payload); reply.Refused != nil {
		d.Fleet.Fatalf("refused: %s: %s", reply.Refused.Reason, reply.Refused.Text)
	}
	u, err := attest.Decode(payload)
	if err != nil {
		d.Fleet.Fatal(err)
	}
	r, err := d.Fleet.Store.Report(d.UEID, u.Unverified().Body.Sequence)
	if err != nil {
		d.Fleet.Fatal(err)
	}
	return r
}

// Enrolment returns a request to be enrolled.
func (d *Device) Enrolment(secret []byte) *attest.Enrolment {
	return &attest.Enrolment{
		Version: 1, UEID: d.UEID[:], Vendor: "Example Medical", Model: "pump-1", Serial: "0001",
		Key: d.Signer.Public(), Protection: d.Protection, TPM: d.Identity, Secret: secret,
	}
}

// SealEnrolment returns a signed request as a broker hands it over.
func (d *Device) SealEnrolment(e *attest.Enrolment) verifier.Delivery {
	d.Fleet.Helper()
	data, err := attest.SealEnrolment(e, d.Signer)
	if err != nil {
		d.Fleet.Fatal(err)
	}
	m := d.Delivery(data)
	m.Kind = "enrol"
	return m
}

// Down returns the message for the device in a reply.
func (f *Fleet) Down(data []byte) *attest.Down {
	f.Helper()
	m, err := attest.DecodeDown(data)
	if err != nil {
		f.Fatal(err)
	}
	return m
}

// Prove asks for enrolment, with the TPM's proof where there is one.
func (d *Device) Prove() {
	d.Fleet.Helper()
	reply := d.Fleet.Take(d.SealEnrolment(d.Enrolment(nil)))
	if reply.Refused != nil {
		d.Fleet.Fatalf("enrolment refused: %s: %s", reply.Refused.Reason, reply.Refused.Text)
	}
	if d.TPM == nil {
		return
	}
	c := d.Fleet.Down(reply.Down).Credential
	secret, err := d.TPM.Activate(c.Blob, c.Secret)
	if err != nil {
		d.Fleet.Fatal(err)
	}
	if reply := d.Fleet.Take(d.SealEnrolment(d.Enrolment(secret))); reply.Refused != nil {
		d.Fleet.Fatalf("proof refused: %s: %s", reply.Refused.Reason, reply.Refused.Text)
	}
}

// Approve approves the device.
func (d *Device) Approve() {
	d.Fleet.Helper()
	if _, err := d.Fleet.Approve(d.Fleet.Now, d.UEID, "ward 3"); err != nil {
		d.Fleet.Fatal(err)
	}
}

// Enrolled returns d, approved.
func (d *Device) Enrolled() *Device {
	d.Fleet.Helper()
	d.Prove()
	d.Approve()
	return d
}

// Challenge asks the device for proof, and returns the nonce.
func (d *Device) Challenge() []byte {
	d.Fleet.Helper()
	data, err := d.Fleet.Challenge(d.Fleet.Now, d.UEID)
	if err != nil {
		d.Fleet.Fatal(err)
	}
	order, err := d.Fleet.World.Trust(d.Fleet).OpenCommand(d.Fleet.Down(data).Command, reference.Challenge, d.UEID[:], "pump-1", reference.At(d.Fleet.Now))
	if err != nil {
		d.Fleet.Fatal(err)
	}
	return order.Command().Nonce
}

// View returns what the verifier shows of the device.
func (d *Device) View() *verifier.Device {
	d.Fleet.Helper()
	v, err := d.Fleet.Device(d.Fleet.Now, d.UEID)
	if err != nil {
		d.Fleet.Fatal(err)
	}
	return v
}
