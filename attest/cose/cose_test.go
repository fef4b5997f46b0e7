package cose_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
)

func keys(t testing.TB) map[string]crypto.Signer {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ES256": ec, "Ed25519": ed}
}

func newSigner(t testing.TB, k crypto.Signer) *cose.Signer {
	s, err := cose.NewSigner(k)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSignVerify(t *testing.T) {
	for alg, k := range keys(t) {
		s := newSigner(t, k)
		if s.Public().Algorithm() != alg {
			t.Errorf("algorithm %s, want %s", s.Public().Algorithm(), alg)
		}
		for range 40 { // half of all ECDSA signatures have the higher s
			data, err := s.Sign(cose.Manifest, []byte("payload"))
			if err != nil {
				t.Fatal(err)
			}
			u, err := cose.Parse(data, 1000)
			if err != nil {
				t.Fatal(err)
			}
			got, err := u.Verify(cose.Manifest, s.Public())
			if err != nil || string(got) != "payload" {
				t.Fatalf("%s: %q, %v", alg, got, err)
			}
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	for alg, k := range keys(t) {
		s := newSigner(t, k)
		other := newSigner(t, keys(t)[alg])
		data, err := s.Sign(cose.Report, []byte("payload"))
		if err != nil {
			t.Fatal(err)
		}
		u, err := cose.Parse(data, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Verify(cose.Manifest, s.Public()); !errors.Is(err, cose.ErrType) {
			t.Errorf("%s: another type: %v", alg, err)
		}
		if _, err := u.Verify(cose.Report, other.Public()); !errors.Is(err, cose.ErrKey) {
			t.Errorf("%s: another key: %v", alg, err)
		}
		for i := range data {
			for bit := range 8 {
				bad := bytes.Clone(data)
				bad[i] ^= 1 << bit
				u, err := cose.Parse(bad, 1000)
				if err != nil {
					continue
				}
				if _, err := u.Verify(cose.Report, s.Public()); err == nil {
					t.Fatalf("%s: bit %d of byte %d changed, still valid", alg, bit, i)
				}
			}
			if _, err := cose.Parse(data[:i], 1000); err == nil {
				t.Fatalf("%s: cut to %d bytes, still parsed", alg, i)
			}
		}
		if _, err := cose.Parse(append(bytes.Clone(data), 0), 1000); err == nil {
			t.Errorf("%s: a trailing byte was accepted", alg)
		}
		if _, err := cose.Parse(data, len(data)-1); err == nil || !strings.Contains(err.Error(), "the limit is") {
			t.Errorf("%s: oversize: %v", alg, err)
		}
	}
}

func TestHighSIsRefused(t *testing.T) {
	s := newSigner(t, keys(t)["ES256"])
	data, err := s.Sign(cose.Report, []byte("payload"))
	if err != nil {
		t.Fatal(err)
	}
	tail := data[len(data)-32:]
	n := elliptic.P256().Params().N
	new(big.Int).Sub(n, new(big.Int).SetBytes(tail)).FillBytes(tail)
	u, err := cose.Parse(data, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Verify(cose.Report, s.Public()); !errors.Is(err, cose.ErrSignature) || !strings.Contains(err.Error(), "lower") {
		t.Errorf("the other encoding of the signature: %v", err)
	}
}

func TestKeyEncodings(t *testing.T) {
	for alg, k := range keys(t) {
		p := newSigner(t, k).Public()
		text, err := p.PEM()
		if err != nil {
			t.Fatal(err)
		}
		q, err := cose.ParsePublicKey(text)
		if err != nil || q.ID() != p.ID() {
			t.Errorf("%s: PEM came back as %v, %v", alg, q, err)
		}
		data, err := cose.Encode(p)
		if err != nil {
			t.Fatal(err)
		}
		var r cose.PublicKey
		if err := cose.Decode(data, 256, &r); err != nil || r.ID() != p.ID() {
			t.Errorf("%s: COSE_Key came back as %v, %v", alg, r.ID(), err)
		}
		if id, err := cose.ParseKeyID(p.ID().String()); err != nil || id != p.ID() {
			t.Errorf("%s: key id came back as %v, %v", alg, id, err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		s, err := cose.ParsePrivateKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if err != nil || newSigner(t, s).Public().ID() != p.ID() {
			t.Errorf("%s: private key: %v", alg, err)
		}
	}
	if _, err := cose.ParsePrivateKey(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY"})); !errors.Is(err, cose.ErrEncrypted) {
		t.Errorf("encrypted key: %v", err)
	}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cose.NewSigner(weak); err == nil {
		t.Error("P-224 was accepted")
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cose.NewSigner(r); err == nil {
		t.Error("RSA was accepted")
	}
}

func TestDecodeIsStrict(t *testing.T) {
	type doc struct {
		A int    `cbor:"1,keyasint,omitempty"`
		B string `cbor:"2,keyasint,omitempty"`
	}
	for _, tt := range []struct{ name, data string }{
		{"unknown key", "\xa1\x03\x01"},
		{"duplicate key", "\xa2\x01\x01\x01\x02"},
		{"keys out of order", "\xa2\x02\x61a\x01\x01"},
		{"long integer", "\xa1\x01\x18\x01"},
		{"float for an integer", "\xa1\x01\xf9\x3c\x00"},
		{"indefinite length", "\xbf\x01\x01\xff"},
		{"trailing byte", "\xa1\x01\x01\x00"},
		{"zero where absent is shorter", "\xa1\x01\x00"},
		{"not UTF-8", "\xa1\x02\x61\xff"},
		{"oversize", "\xa1\x02\x78\x1e" + strings.Repeat("x", 30)},
	} {
		var d doc
		if err := cose.Decode([]byte(tt.data), 24, &d); err == nil {
			t.Errorf("%s was accepted", tt.name)
		}
	}
	var l struct {
		A []byte `cbor:"1,keyasint"`
	}
	if err := cose.Decode([]byte("\xa1\x01\xf6"), 24, &l); err == nil {
		t.Error("null was accepted where empty is written")
	}
	var d doc
	if err := cose.Decode([]byte("\xa2\x01\x05\x02\x61a"), 24, &d); err != nil || d != (doc{5, "a"}) {
		t.Errorf("%+v, %v", d, err)
	}
}

func FuzzParse(f *testing.F) {
	signers := map[string]*cose.Signer{}
	for alg, k := range keys(f) {
		s := newSigner(f, k)
		signers[alg] = s
		data, err := s.Sign(cose.Report, []byte("payload"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:20])
	}
	f.Add([]byte("\xd2\x84\x43\xa1\x01\x26\xa0\x41a\x40"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := cose.Parse(data, 4096)
		if err != nil {
			return
		}
		for _, s := range signers {
			if got, err := u.Verify(u.Type(), s.Public()); err == nil && string(got) != "payload" {
				t.Fatalf("forged payload %q", got)
			}
		}
	})
}
