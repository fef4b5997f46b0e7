package tpm_test

import (
	"bytes"
	"testing"

	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

func open(t testing.TB, addr string) *tpm.TPM {
	t.Helper()
	d, err := tpm.Open(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestSmoke(t *testing.T) {
	d := open(t, tpmtest.Start(t))
	id, err := d.Provision()
	if err != nil {
		t.Fatal(err)
	}
	q, err := d.Quote([]byte("nonce"), []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 10})
	if err != nil {
		t.Fatal(err)
	}
	v, err := tpm.VerifyQuote(*q, id.AKPublic, []byte("nonce"), []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(v, d.Signer().Public())
	name, err := tpm.Name(id.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	c, s, err := tpm.MakeCredential(id.EKPublic, name, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Activate(c, s)
	if err != nil || !bytes.Equal(got, []byte("secret")) {
		t.Fatal(got, err)
	}
	if err := d.DefineLatch(); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteLatch(tpm.LatchRecord{Paused: true, Floor: 3}); err != nil {
		t.Fatal(err)
	}
	t.Log(d.ReadLatch())
}

func TestManufacture(t *testing.T) {
	e, roots := tpmtest.Manufacture(t)
	d := open(t, e.Addr)
	id, err := d.Provision()
	if err != nil {
		t.Fatal(err)
	}
	if err := tpm.VerifyEKCert(id.EKCert, id.EKPublic, roots); err != nil {
		t.Fatal(err)
	}
}
