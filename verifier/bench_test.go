package verifier_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/store"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// amnesic knows devices and never a report, so that one message can be verified
// again and again without the disk.
type amnesic struct {
	*store.Store
	device []byte
}

func (a *amnesic) Device(attest.UEID) (*verifier.Device, error) {
	d := new(verifier.Device)
	return d, cose.Decode(a.device, 256<<10, d)
}

func (a *amnesic) Neighbours(attest.UEID, uint64, uint64, [32]byte) (verifier.Neighbours, error) {
	return verifier.Neighbours{}, nil
}

func (a *amnesic) Accept(*verifier.Device, *verifier.Record) error { return nil }

// Everything from the bytes of a boot report with a quote to the signed result,
// without the disk. To be compared with BenchmarkTwoECDSA in the same run.
func BenchmarkReportWithQuote(b *testing.B) {
	f := verifiertest.New(b)
	d := f.NewTPMDevice(tpmtest.Start(b)).Enrolled()
	m := d.Message(attest.KindBoot)
	known, err := f.Store.Device(d.UEID)
	if err != nil {
		b.Fatal(err)
	}
	s := &amnesic{f.Store, verifiertest.Encode(b, known)}
	v, err := verifier.New(verifier.Config{References: []*reference.Reference{f.Ref}, Result: f.World.Result}, s)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(len(m)), "B/message")
	for b.Loop() {
		if reply, err := v.Handle(f.Now, d.Delivery(m)); err != nil || reply.Refused != nil {
			b.Fatalf("%+v %v", reply.Refused, err)
		}
	}
}

// The floor: a report with a quote has two signatures.
func BenchmarkTwoECDSA(b *testing.B) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("report"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for range 2 {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
				b.Fatal("not valid")
			}
		}
	}
}

// Routine reports of one device with the store, each in its own transaction that
// is on the disk before it is acknowledged.
func BenchmarkRoutineReportStored(b *testing.B) {
	f := verifiertest.New(b)
	d := f.NewDevice().Enrolled()
	d.Accepted(d.Message(attest.KindBoot))
	var messages [][]byte
	for range 2000 {
		messages = append(messages, d.Message(attest.KindRoutine))
	}
	n := 0
	for b.Loop() {
		if n == len(messages) {
			b.StopTimer()
			messages, n = messages[:0], 0
			for range 2000 {
				messages = append(messages, d.Message(attest.KindRoutine))
			}
			b.StartTimer()
		}
		if reply, err := f.Handle(f.Now, d.Delivery(messages[n])); err != nil || reply.Refused != nil {
			b.Fatalf("%+v %v", reply.Refused, err)
		}
		n++
	}
}
