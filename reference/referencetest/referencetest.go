// Package referencetest makes signed documents for tests: a whole small PKI in
// memory.
package referencetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// Now is the time at which everything made here is valid, in Unix seconds.
const Now = 1_800_000_000

// A World has the roots of both owners and one key for each role, all listed.
type World struct {
	ManufacturerRoot, OperatorRoot *cose.Signer
	Manifest, Label                *cose.Signer
	Resume, Resume2                *cose.Signer
	Command, Result                *cose.Signer
	ManufacturerKeys, OperatorKeys []byte // the signed key lists
}

// Signer returns a new Ed25519 signer.
func Signer(t testing.TB) *cose.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := cose.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// New returns a new world.
func New(t testing.TB) *World {
	t.Helper()
	w := &World{
		ManufacturerRoot: Signer(t), OperatorRoot: Signer(t), Manifest: Signer(t), Label: Signer(t),
		Resume: Signer(t), Resume2: Signer(t), Command: Signer(t), Result: Signer(t),
	}
	listed := func(s *cose.Signer, role reference.Role) reference.ListedKey {
		return reference.ListedKey{Key: s.Public(), Role: role, Name: role.String(), NotBefore: 1, NotAfter: 4_000_000_000}
	}
	w.ManufacturerKeys = sign(t, w.ManufacturerRoot, reference.Keys{Version: 1, Owner: reference.Manufacturer, Sequence: 1, Keys: []reference.ListedKey{
		listed(w.Manifest, reference.RoleManifest), listed(w.Label, reference.RoleLabel),
	}})
	w.OperatorKeys = sign(t, w.OperatorRoot, reference.Keys{Version: 1, Owner: reference.Operator, Sequence: 1, Keys: []reference.ListedKey{
		listed(w.Resume, reference.RoleResume), listed(w.Resume2, reference.RoleResume),
		listed(w.Command, reference.RoleCommand), listed(w.Result, reference.RoleResult),
	}})
	return w
}

func sign(t testing.TB, root *cose.Signer, l reference.Keys) []byte {
	t.Helper()
	data, err := reference.SignKeys(&l, root)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Trust returns a device's trust in this world, key lists taken.
func (w *World) Trust(t testing.TB) *reference.Trust {
	t.Helper()
	trust, err := reference.NewTrust(
		reference.Root{Key: w.ManufacturerRoot.Public(), Owner: reference.Manufacturer},
		reference.Root{Key: w.OperatorRoot.Public(), Owner: reference.Operator})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range [][]byte{w.ManufacturerKeys, w.OperatorKeys} {
		if _, err := trust.AddKeys(l); err != nil {
			t.Fatal(err)
		}
	}
	return trust
}

// Example returns a valid manifest with a rule in each stage: boot.total in
// integration, cpu.usage and network.listening in operating, app.flow (key
// 1000) as fail-safe extreme with a hold of 3 s.
func Example() reference.Manifest {
	num := func(n int64) *int64 { return &n }
	return reference.Manifest{
		Version: 1, Vendor: "Example Medical", Model: "pump-1", Sequence: 3, NotBefore: 1_700_000_000, NotAfter: 2_000_000_000,
		MinAgent: "0.1.0", Enforce: reference.Pause, ReportEvery: 60,
		Resume: reference.ResumePolicy{Signers: 1, Lifetime: 3600},
		Apps:   []reference.AppFact{{Key: 1000, Name: "app.flow", Unit: "ml/h", Min: 0, Max: 1000}},
		Integration: []reference.Rule{
			{Fact: 6, Op: reference.Range, Min: num(1000), Max: num(30000), Why: "20 boots took 9 to 14 s"},
		},
		Operating: []reference.Rule{
			{Fact: 20, Op: reference.Range, Max: num(800), Hold: 5000},
			{Fact: 70, Op: reference.SubsetOf, Values: []facts.Value{facts.SetValue([]string{"tcp/0.0.0.0:22"})}},
			{Fact: 1000, Op: reference.Range, Min: num(0), Max: num(300), Absent: reference.AbsentNotAppraised},
		},
		FailSafe: []reference.Rule{
			{Fact: 1000, Op: reference.Range, Max: num(500), Hold: 3000, Absent: reference.AbsentNotAppraised, Why: "above 500 ml/h the infusion harms"},
		},
		Reaction: []reference.Reaction{
			{Do: reference.Tell, Deadline: 500},
			{Do: reference.Freeze, Target: "medical.slice", Deadline: 2000},
		},
		Silence: &reference.Silence{After: 30000, Then: reference.Alarm},
	}
}

// Open signs m with the world's manifest key and opens it again.
func (w *World) Open(t testing.TB, m reference.Manifest) *reference.Reference {
	t.Helper()
	data, err := reference.SignManifest(&m, w.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.Trust(t).OpenManifest(data, reference.Want{Vendor: m.Vendor, Model: m.Model}, reference.At(Now))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
