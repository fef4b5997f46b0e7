package verifier_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

var update = flag.Bool("update", false, "write the vectors and seeds anew")

func fixedKey(t testing.TB, name string) *cose.Signer {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	s, err := cose.NewSigner(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func exampleResult() verifier.Result {
	return verifier.Result{
		IssuedAt: 1_800_000_000, Profile: verifier.ResultProfile, Verifier: verifier.VerifierID{Developer: "miotfacts", Build: "factsverifier 0.1.0"},
		Submods: map[string]verifier.Appraisal{"00112233445566778899aabbccddeeff": {
			Nonce: []byte("challenge nonce!"), Status: verifier.TierAffirming,
			Vector: map[verifier.Trustworthy]int8{
				verifier.InstanceIdentity: 2, verifier.Configuration: 2, verifier.Executables: 3, verifier.Hardware: 2,
			},
			Policies: []string{"manifest Example Medical pump-1 3 sha-256 " + strings.Repeat("ab", 32)},
			Details: verifier.Details{
				Sequence: 42, Digest: bytes.Repeat([]byte{0xcd}, 32), Stage: reference.StageOperating, Protection: attest.ProtectionTPM, Quoted: true,
			},
		}},
	}
}

// TestResultVectors holds the wire form of results: golden bytes with their
// diagnostic notation, and one fault in each that must be refused.
func TestResultVectors(t *testing.T) {
	key, other := fixedKey(t, "miotfacts test vector result"), fixedKey(t, "miotfacts test vector command")
	change := func(f func(r *verifier.Result, a *verifier.Appraisal)) []byte {
		r := exampleResult()
		for id, a := range r.Submods {
			f(&r, &a)
			if r.Submods != nil {
				r.Submods[id] = a
			}
		}
		return sign(t, key, cose.Result, &r)
	}
	keep := func(*verifier.Result, *verifier.Appraisal) {}
	warning := func(_ *verifier.Result, a *verifier.Appraisal) {
		a.Nonce, a.Status = nil, verifier.TierWarning
		a.Vector = map[verifier.Trustworthy]int8{verifier.InstanceIdentity: -2, verifier.Configuration: -33}
		a.Details.Protection, a.Details.Quoted = attest.ProtectionFile, false
		a.Details.Findings = []verifier.ResultFinding{
			{Code: verifier.ReasonKeyFile, Text: "the device key is in a file: whoever reads it is the device"},
			{Code: verifier.ReasonDeviates, Tier: verifier.TierWarning, Text: "operating: cpu.usage is 950 permille; expected at most 800 permille"},
		}
	}
	contra := func(_ *verifier.Result, a *verifier.Appraisal) {
		warning(nil, a)
		a.Status, a.Details.Stage = verifier.TierContraindicated, reference.StagePaused
		a.Vector[verifier.Configuration] = -99
		a.Details.Findings = append(a.Details.Findings, verifier.ResultFinding{
			Code: verifier.ReasonPaused, Tier: verifier.TierContraindicated, Text: "the device is paused: fail-safe: app.flow is 700 ml/h",
		})
	}
	r := exampleResult()
	vectors := []struct {
		name  string
		data  []byte
		is    error
		words string // of the refusal; "" is accepted
	}{
		{"affirming", change(keep), nil, ""},
		{"warning", change(warning), nil, ""},
		{"contraindicated", change(contra), nil, ""},
		{"refused-better-than-vector", change(func(r *verifier.Result, a *verifier.Appraisal) {
			contra(r, a)
			a.Status = verifier.TierAffirming
		}), nil, "better than entry 1"},
		{"refused-status", change(func(_ *verifier.Result, a *verifier.Appraisal) { a.Status = 97 }), nil, "status tier(97)"},
		{"refused-profile", change(func(r *verifier.Result, _ *verifier.Appraisal) { r.Profile = "tag:github.com,2023:veraison/ear" }), nil, "profile"},
		{"refused-no-device", change(func(r *verifier.Result, _ *verifier.Appraisal) { r.Submods = nil }), nil, "0 submodules"},
		{"refused-type", sign(t, key, cose.Command, &r), cose.ErrType, "another type"},
		{"refused-key", sign(t, other, cose.Result, &r), cose.ErrKey, "another key"},
		{"refused-signature", flip(change(keep)), cose.ErrSignature, "signature"},
	}
	known := map[string]bool{}
	for _, v := range vectors {
		known[v.name] = true
		_, err := verifier.OpenResult(v.data, key.Public())
		if v.words == "" && err != nil || v.words != "" && (err == nil || !strings.Contains(err.Error(), v.words) || v.is != nil && !errors.Is(err, v.is)) {
			t.Errorf("%s: %v, want %q", v.name, err, v.words)
		}
		golden(t, filepath.Join("..", "testdata", "vectors", "result", v.name), v.data, notation(t, key, v.data, err))
	}
	files, err := filepath.Glob(filepath.Join("..", "testdata", "vectors", "result", "*"))
	if err != nil || len(files) != 2*len(vectors) {
		t.Errorf("%d files for %d vectors: %v", len(files), len(vectors), err)
	}
}

func sign(t *testing.T, key *cose.Signer, typ cose.Type, v any) []byte {
	t.Helper()
	data, err := key.Sign(typ, verifiertest.Encode(t, v))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func flip(data []byte) []byte {
	data = bytes.Clone(data)
	data[len(data)-40] ^= 1
	return data
}

func notation(t *testing.T, key *cose.Signer, data []byte, refusal error) []byte {
	t.Helper()
	head := fmt.Sprintf("/ accepted under key %s, Ed25519 over seed SHA-256(\"miotfacts test vector result\") /\n", key.Public().ID())
	if refusal != nil {
		head = "/ refused: " + refusal.Error() + " /\n"
	}
	outer, err := cbor.Diagnose(data)
	if err != nil {
		t.Fatalf("%v: %s", err, hex.EncodeToString(data))
	}
	u, err := cose.Parse(data, verifier.MaxResultSize)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := cbor.Diagnose(u.UnverifiedPayload())
	if err != nil {
		t.Fatal(err)
	}
	return []byte(head + outer + "\n/ payload /\n" + payload + "\n")
}

func golden(t *testing.T, path string, data, text []byte) {
	t.Helper()
	for ext, want := range map[string][]byte{".cbor": data, ".diag": text} {
		if *update {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path+ext, want, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path + ext)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s%s holds something else: the wire form changed", path, ext)
		}
	}
}

// The status of every signed result is that of its worst entry and finding; a
// reason that leaves no trace in the vector is one that says nothing.
func TestVectorFollowsFindings(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	d.Accepted(d.Message(attest.KindBoot))
	r := d.Report(attest.KindRoutine)
	paused(r)
	r.Body.Notes = []string{"degraded"}
	rec := d.Accepted(verifiertest.Encode(t, d.Seal(r)))
	result, err := verifier.OpenResult(rec.Result, f.World.Result.Public())
	if err != nil {
		t.Fatal(err)
	}
	a := result.Submods[d.UEID.String()]
	want := map[verifier.Trustworthy]int8{verifier.InstanceIdentity: -2, verifier.Configuration: -99}
	if !maps.Equal(a.Vector, want) || a.Status != verifier.TierContraindicated {
		t.Errorf("%v %s, want %v", a.Vector, a.Status, want)
	}
	if a.Details.Sequence != 2 || a.Details.Stage != reference.StagePaused || len(a.Details.Findings) != len(rec.Findings) || len(a.Policies) != 1 {
		t.Errorf("%+v", a)
	}
	if _, err := verifier.OpenResult(rec.Result, f.World.Command.Public()); !errors.Is(err, cose.ErrKey) {
		t.Errorf("under another key: %v", err)
	}
}
