package verifier_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"path/filepath"
	"slices"
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/store"
)

// Wire keys of the facts in referencetest.Example.
const (
	bootTotal facts.Key = 6
	cpuUsage  facts.Key = 20
	listening facts.Key = 70
	appFlow   facts.Key = 1000
)

// A fleet is a verifier over a real store, and the world its keys are of.
type fleet struct {
	testing.TB
	world *referencetest.World
	ref   *reference.Reference
	store *store.Store
	*verifier.Verifier
	now    int64
	events []verifier.Event
}

func newFleet(t testing.TB, change ...func(*verifier.Config)) *fleet {
	return newFleetOf(t, referencetest.Example(), change...)
}

func newFleetOf(t testing.TB, m reference.Manifest, change ...func(*verifier.Config)) *fleet {
	t.Helper()
	f := &fleet{TB: t, world: referencetest.New(t), now: referencetest.Now}
	f.ref = f.world.Open(t, m)
	s, err := store.Open(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	f.store = s
	cfg := verifier.Config{
		References: []*reference.Reference{f.ref}, Result: f.world.Result, Command: f.world.Command, Build: "test",
		Changed: func(e verifier.Event) { f.events = append(f.events, e) },
	}
	for _, c := range change {
		c(&cfg)
	}
	if f.Verifier, err = verifier.New(cfg, s); err != nil {
		t.Fatal(err)
	}
	return f
}

// A device makes messages as an agent does.
type device struct {
	f          *fleet
	ueid       attest.UEID
	signer     *cose.Signer
	protection attest.Protection
	tpm        *tpm.TPM
	identity   *attest.Identity
	sequence   uint64
	digest     []byte
	seed       [16]byte
	boots      uint64
	uptime     int64
	facts      map[facts.Key]facts.Reading
	ref        *reference.Reference
}

func newKey(t testing.TB) *cose.Signer {
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

func (f *fleet) device() *device {
	f.Helper()
	d := &device{f: f, signer: newKey(f), protection: attest.ProtectionFile, ref: f.ref}
	var id [16]byte
	rand.Read(id[:])
	d.ueid = attest.NewUEID(id)
	d.reboot()
	d.set(bootTotal, facts.IntValue(12_000))
	d.set(cpuUsage, facts.IntValue(100))
	d.set(listening, facts.SetValue([]string{"tcp/0.0.0.0:22"}))
	d.set(appFlow, facts.IntValue(120))
	return d
}

// tpmDevice is a device with a software TPM of its own.
func (f *fleet) tpmDevice(addr string) *device {
	f.Helper()
	d := f.device()
	t, err := tpm.Open(addr)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { t.Close() })
	id, err := t.Provision()
	if err != nil {
		f.Fatal(err)
	}
	if d.signer, err = cose.NewSigner(t.Signer()); err != nil {
		f.Fatal(err)
	}
	d.tpm, d.identity, d.protection, d.ueid = t, attest.IdentityOf(id), attest.ProtectionTPM, attest.UEIDOfEK(id.EKPublic)
	return d
}

func (d *device) set(k facts.Key, v facts.Value) {
	if d.facts == nil {
		d.facts = map[facts.Key]facts.Reading{}
	}
	d.facts[k] = facts.Reading{Key: k, Value: v}
}

func (d *device) status(k facts.Key, s facts.Status) {
	d.facts[k] = facts.Reading{Key: k, Status: s, Reason: "test"}
}

func (d *device) reboot() {
	rand.Read(d.seed[:])
	d.boots++
	d.uptime = 60_000
}

func (d *device) snapshot() facts.Snapshot {
	s := facts.Snapshot{Uptime: d.uptime}
	for _, r := range d.facts {
		s.Readings = append(s.Readings, r)
	}
	slices.SortFunc(s.Readings, func(a, b facts.Reading) int { return int(a.Key) - int(b.Key) })
	return s
}

// report returns a sound report, after 10 s in which nothing changed.
func (d *device) report(kind attest.Kind) *attest.Report {
	var fold facts.Fold
	compare := appraise.NewComparison(d.f.ref)
	if d.ref != nil {
		compare = appraise.NewComparison(d.ref)
	}
	var results []appraise.Result
	for range 11 {
		s := d.snapshot()
		results = compare.Compare(s)
		fold.Add(s)
		d.uptime += 1000
	}
	r := &attest.Report{
		UEID: d.ueid[:], Uptime: uint64(d.uptime / 1000), Profile: attest.Profile, BootCount: d.boots, BootSeed: slices.Clone(d.seed[:]),
		SWName: "factsd", SWVersion: []string{"0.1.0"}, MeasRes: []attest.System{},
	}
	b := &r.Body
	b.Kind, b.Stage, b.Protection = kind, reference.StageOperating, d.protection
	if d.ref != nil {
		digest := d.ref.Digest()
		b.Manifest = &attest.Edition{Sequence: d.ref.Manifest().Sequence, Digest: digest[:]}
		r.SetResults(results)
	} else {
		b.Stage = reference.StageIntegration
	}
	whole := kind == attest.KindBoot || kind == attest.KindChallenge
	r.SetFacts(&fold, func(k facts.Key) bool { return whole || k != bootTotal })
	b.Sequence, b.Previous = d.sequence+1, d.digest
	return r
}

// seal signs a report, takes it into the device's chain, and quotes where an
// agent with a TPM would.
func (d *device) seal(r *attest.Report) *attest.Message {
	d.f.Helper()
	signed, err := attest.Seal(r, d.signer)
	if err != nil {
		d.f.Fatal(err)
	}
	digest := sha256.Sum256(signed)
	d.sequence, d.digest = r.Body.Sequence, digest[:]
	m := &attest.Message{Report: signed}
	if d.tpm != nil && (r.Body.Kind == attest.KindBoot || r.Body.Kind == attest.KindChallenge) {
		m.Quote = d.quote(r.Nonce, signed, pcrs(d.ref))
	}
	return m
}

func pcrs(ref *reference.Reference) []int {
	if ref != nil && ref.Manifest().Boot != nil {
		return ref.Manifest().Boot.PCRs
	}
	return []int{0, 1, 2, 3, 4, 5, 6, 7}
}

func (d *device) quote(nonce, signed []byte, pcrs []int) *attest.Quote {
	d.f.Helper()
	q, err := d.tpm.Quote(attest.ExtraData(nonce, signed), pcrs)
	if err != nil {
		d.f.Fatal(err)
	}
	return attest.QuoteOf(q)
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	data, err := cose.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// message returns a sound message.
func (d *device) message(kind attest.Kind) []byte {
	return encode(d.f, d.seal(d.report(kind)))
}

func (d *device) delivery(payload []byte) verifier.Delivery {
	return verifier.Delivery{Client: d.ueid.String(), Device: d.ueid.String(), Kind: "report", Payload: payload}
}

// send hands in a message and returns what became of it.
func (d *device) send(payload []byte) verifier.Reply {
	d.f.Helper()
	d.f.now++
	return d.f.handle(d.delivery(payload))
}

func (f *fleet) handle(m verifier.Delivery) verifier.Reply {
	f.Helper()
	reply, err := f.Handle(f.now, m)
	if err != nil {
		f.Fatal(err)
	}
	return reply
}

// accepted hands in a message that must be accepted, and returns its record.
func (d *device) accepted(payload []byte) *verifier.Record {
	d.f.Helper()
	if reply := d.send(payload); reply.Refused != nil {
		d.f.Fatalf("refused: %s: %s", reply.Refused.Reason, reply.Refused.Text)
	}
	u, err := attest.Decode(payload)
	if err != nil {
		d.f.Fatal(err)
	}
	r, err := d.f.store.Report(d.ueid, u.Unverified().Body.Sequence)
	if err != nil {
		d.f.Fatal(err)
	}
	return r
}

func (d *device) enrolment(secret []byte) *attest.Enrolment {
	return &attest.Enrolment{
		Version: 1, UEID: d.ueid[:], Vendor: "Example Medical", Model: "pump-1", Serial: "0001",
		Key: d.signer.Public(), Protection: d.protection, TPM: d.identity, Secret: secret,
	}
}

func (d *device) sealEnrolment(e *attest.Enrolment) verifier.Delivery {
	d.f.Helper()
	data, err := attest.SealEnrolment(e, d.signer)
	if err != nil {
		d.f.Fatal(err)
	}
	m := d.delivery(data)
	m.Kind = "enrol"
	return m
}

// down returns the message for the device in a reply.
func (f *fleet) down(data []byte) *attest.Down {
	f.Helper()
	m, err := attest.DecodeDown(data)
	if err != nil {
		f.Fatal(err)
	}
	return m
}

// prove asks for enrolment, with the TPM's proof where there is one.
func (d *device) prove() {
	d.f.Helper()
	reply := d.f.handle(d.sealEnrolment(d.enrolment(nil)))
	if reply.Refused != nil {
		d.f.Fatalf("enrolment refused: %s: %s", reply.Refused.Reason, reply.Refused.Text)
	}
	if d.tpm == nil {
		return
	}
	c := d.f.down(reply.Down).Credential
	secret, err := d.tpm.Activate(c.Blob, c.Secret)
	if err != nil {
		d.f.Fatal(err)
	}
	if reply := d.f.handle(d.sealEnrolment(d.enrolment(secret))); reply.Refused != nil {
		d.f.Fatalf("proof refused: %s: %s", reply.Refused.Reason, reply.Refused.Text)
	}
}

func (d *device) approve() {
	d.f.Helper()
	if _, err := d.f.Approve(d.f.now, d.ueid, "ward 3"); err != nil {
		d.f.Fatal(err)
	}
}

// enrolled returns d, approved.
func (d *device) enrolled() *device {
	d.f.Helper()
	d.prove()
	d.approve()
	return d
}

// challenge asks the device for proof, and returns the nonce.
func (d *device) challenge() []byte {
	d.f.Helper()
	data, err := d.f.Challenge(d.f.now, d.ueid)
	if err != nil {
		d.f.Fatal(err)
	}
	order, err := d.f.world.Trust(d.f).OpenCommand(d.f.down(data).Command, reference.Challenge, d.ueid[:], "pump-1", reference.At(d.f.now))
	if err != nil {
		d.f.Fatal(err)
	}
	return order.Command().Nonce
}

func (d *device) view() *verifier.Device {
	d.f.Helper()
	v, err := d.f.Device(d.f.now, d.ueid)
	if err != nil {
		d.f.Fatal(err)
	}
	return v
}

func swtpm(t testing.TB) string { return tpmtest.Start(t) }
