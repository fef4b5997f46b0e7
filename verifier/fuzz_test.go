package verifier_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/store"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// forgetful does not write refusals: fuzzing is not about the disk.
type forgetful struct{ *store.Store }

func (forgetful) Refuse(*verifier.Refused) error { return nil }

var kindsOfMessages = []string{"report", "alarm", "evidence", "enrol", "state"}

// Whatever bytes come, the verifier does not panic and believes nothing: only
// what a device's key signed is accepted, and all of that came before.
func FuzzHandle(f *testing.F) {
	fleet := verifiertest.New(f)
	v, err := verifier.New(verifier.Config{References: []*reference.Reference{fleet.Ref}, Result: fleet.World.Result}, forgetful{fleet.Store})
	if err != nil {
		f.Fatal(err)
	}
	d := fleet.NewDevice()
	d.Signer, d.UEID = fixedKey(f, "miotfacts fuzz device"), attest.NewUEID([16]byte{1, 2, 3})
	enrolment := d.SealEnrolment(d.Enrolment(nil)).Payload
	d.Enrolled()
	var seeds [][]byte
	for _, kind := range []attest.Kind{attest.KindBoot, attest.KindRoutine, attest.KindAlarm} {
		m := d.Message(kind)
		d.Accepted(m)
		seeds = append(seeds, m)
	}
	quoted := d.Report(attest.KindBoot)
	signed := d.Seal(quoted)
	signed.Quote = &attest.Quote{Attest: []byte{0xff, 'T', 'C', 'G', 0x80, 0x18}, Signature: []byte{0, 0x18, 0, 0xb}, Bank: 0xb, PCRs: []attest.PCR{{Index: 0, Digest: make([]byte, 32)}}}
	seeds = append(seeds, verifiertest.Encode(f, signed))
	seeds = append(seeds, enrolment, nil)
	for i, s := range seeds {
		kind := uint8(0)
		if i == len(seeds)-2 {
			kind = 3
		}
		f.Add(kind, s)
		if *update {
			writeSeed(f, fmt.Sprintf("seed-%d", i), kind, s)
		}
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		m := verifier.Delivery{Device: d.UEID.String(), Kind: kindsOfMessages[int(kind)%len(kindsOfMessages)], Payload: data}
		reply, err := v.Handle(referencetest.Now, m)
		switch {
		case err != nil:
			t.Fatalf("an error of the verifier's own: %v", err)
		case reply.Refused != nil:
		case m.Kind != "enrol":
			t.Fatalf("accepted %s %x", m.Kind, data)
		default:
			if _, err := attest.OpenEnrolment(data); err != nil {
				t.Fatalf("accepted an enrolment that does not open: %v", err)
			}
		}
	})
}

func writeSeed(f *testing.F, name string, kind uint8, data []byte) {
	f.Helper()
	dir := filepath.Join("testdata", "fuzz", "FuzzHandle")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.Fatal(err)
	}
	text := fmt.Sprintf("go test fuzz v1\nbyte('\\x%02x')\n[]byte(%+q)\n", kind, data)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		f.Fatal(err)
	}
}

// FuzzOpenResult: what opens is whole and was signed by the key.
func FuzzOpenResult(f *testing.F) {
	key := fixedKey(f, "miotfacts fuzz result")
	r := exampleResult()
	data, err := key.Sign(cose.Result, verifiertest.Encode(f, &r))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	if *update {
		dir := filepath.Join("testdata", "fuzz", "FuzzOpenResult")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "seed"), fmt.Appendf(nil, "go test fuzz v1\n[]byte(%+q)\n", data), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := verifier.OpenResult(data, key.Public())
		if err == nil && string(verifiertest.Encode(t, got)) != string(verifiertest.Encode(t, &r)) {
			t.Fatalf("opened what was never signed: %+v", got)
		}
	})
}
