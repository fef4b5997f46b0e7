package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

var (
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// ekArea is a TPMT_PUBLIC of a P-256 endorsement key, template L-2.
func ekArea(t testing.TB, n byte) []byte {
	t.Helper()
	b := area(t, softKey(t, n), 0x000300b2)
	policy := bytes.Repeat([]byte{0x83}, 32)
	return slices.Concat(b[:8], sized(policy), u16(0x06), u16(128), u16(0x43), u16(0x10), b[16:])
}

// rsaArea is one of an RSA-2048 endorsement key, template L-1.
func rsaArea(key *rsa.PublicKey) []byte {
	policy := bytes.Repeat([]byte{0x83}, 32)
	return slices.Concat(u16(0x01), u16(0x0b), u32(0x000300b2), sized(policy), u16(0x06), u16(128), u16(0x43), u16(0x10), u16(2048), u32(0), sized(key.N.Bytes()))
}

// An authority issues endorsement key certificates.
type authority struct {
	cert  *x509.Certificate
	roots *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key := softKey(t, 9)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "EK CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, roots: x509.NewCertPool()}
	a.roots.AddCert(cert)
	return a
}

func (a *authority) issue(t testing.TB, public crypto.PublicKey, change func(c *x509.Certificate)) []byte {
	t.Helper()
	// The name of the TPM's model, as the profile wants it: an empty subject, and
	// a critical alternative name of the directory form.
	directory, err := asn1.Marshal(pkix.Name{CommonName: "id:00010000"}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: directory}})
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidEKCertificate},
		ExtraExtensions:    []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: names}},
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, public, softKey(t, 9))
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestVerifyEKCert(t *testing.T) {
	a := newAuthority(t)
	public := softKey(t, 1).Public()
	ek := ekArea(t, 1)
	issue := func(change func(c *x509.Certificate)) []byte { return a.issue(t, public, change) }
	good := issue(nil)
	for _, c := range []struct {
		name   string
		reason tpm.Reason
		der    []byte
		ek     []byte
		roots  *x509.CertPool
	}{
		{"sound", "", good, ek, a.roots},
		{"padded with zeros", "", append(bytes.Clone(good), make([]byte, 700)...), ek, a.roots},
		{"padded with ones", "", append(bytes.Clone(good), 0xff, 0xff, 0xff), ek, a.roots},
		{"without extended key usage", "", issue(func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }), ek, a.roots},
		{"expired in 1970", tpm.ReasonEKCert, issue(func(c *x509.Certificate) { c.NotAfter = time.Unix(1, 0) }), ek, a.roots},

		{"something after it", tpm.ReasonTrailing, append(bytes.Clone(good), 1), ek, a.roots},
		{"mixed padding", tpm.ReasonTrailing, append(bytes.Clone(good), 0, 0xff), ek, a.roots},
		{"another certificate after it", tpm.ReasonTrailing, append(bytes.Clone(good), good...), ek, a.roots},
		{"cut", tpm.ReasonEKCert, good[:len(good)-1], ek, a.roots},
		{"empty", tpm.ReasonEKCert, nil, ek, a.roots},
		{"huge", tpm.ReasonEKCert, append(bytes.Clone(good), make([]byte, 1<<14)...), ek, a.roots},
		{"no certificate", tpm.ReasonEKCert, []byte{0x30, 0x03, 0x02, 0x01, 0x05}, ek, a.roots},
		{"changed", tpm.ReasonEKCert, bytes.Replace(good, []byte("id:00010000"), []byte("id:00010001"), 1), ek, a.roots},
		{"for another key", tpm.ReasonEKCert, good, ekArea(t, 2), a.roots},
		{"unknown authority", tpm.ReasonEKCert, good, ek, x509.NewCertPool()},
		{"for TLS servers", tpm.ReasonEKCert, issue(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), ek, a.roots},
		{"for a platform", tpm.ReasonEKCert, issue(func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{2, 23, 133, 8, 2}}
		}), ek, a.roots},
		{"of an authority", tpm.ReasonEKCert, issue(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), ek, a.roots},
		{"unknown critical extension", tpm.ReasonEKCert, issue(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}), ek, a.roots},
		{"key is a signing key", tpm.ReasonEK, good, area(t, softKey(t, 1), akAttributes), a.roots},
		{"key is not restricted", tpm.ReasonEK, good, append(append(bytes.Clone(ek[:4]), u32(0x000200b2)...), ek[8:]...), a.roots},
		{"key is cut", tpm.ReasonMalformed, good, ek[:40], a.roots},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := tpm.VerifyEKCert(c.der, c.ek, c.roots)
			if c.reason == "" && err != nil || c.reason != "" && !errors.Is(err, c.reason) {
				t.Errorf("error %v, want %v", err, c.reason)
			}
		})
	}
}

// Without roots crypto/x509 would turn to those of the operating system.
func TestVerifyEKCertWithoutRoots(t *testing.T) {
	der := newAuthority(t).issue(t, softKey(t, 1).Public(), nil)
	if err := tpm.VerifyEKCert(der, ekArea(t, 1), nil); !errors.Is(err, tpm.ReasonEKCert) || !strings.Contains(err.Error(), "no roots given") {
		t.Errorf("error %v", err)
	}
}

// Older TPMs mark their RSA key as one for OAEP.
func TestVerifyEKCertForOAEP(t *testing.T) {
	a := newAuthority(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	plain := a.issue(t, key.Public(), nil)
	if err := tpm.VerifyEKCert(plain, rsaArea(&key.PublicKey), a.roots); err != nil {
		t.Fatal(err)
	}
	// rsaEncryption and id-RSAES-OAEP differ in their last byte; sign anew.
	var cert struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(plain, &cert); err != nil {
		t.Fatal(err)
	}
	pkcs1 := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01}
	mark := func(last byte) []byte {
		c := cert
		oaep := append(bytes.Clone(pkcs1[:8]), last)
		c.TBS.FullBytes = bytes.Replace(c.TBS.FullBytes, pkcs1, oaep, 1)
		h := crypto.SHA256.New()
		h.Write(c.TBS.FullBytes)
		signature, err := softKey(t, 9).Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		c.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
		der, err := asn1.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	if err := tpm.VerifyEKCert(mark(0x07), rsaArea(&key.PublicKey), a.roots); err != nil {
		t.Error(err)
	}
	if err := tpm.VerifyEKCert(mark(0x08), rsaArea(&key.PublicKey), a.roots); !errors.Is(err, tpm.ReasonEKCert) {
		t.Errorf("key of an unknown kind: %v", err)
	}
}

func TestManufacturedTPM(t *testing.T) {
	e, roots := tpmtest.Manufacture(t)
	id := provision(t, open(t, e.Addr))
	if err := tpm.VerifyEKCert(id.EKCert, id.EKPublic, roots); err != nil {
		t.Error(err)
	}
	plain := provision(t, open(t, tpmtest.Start(t)))
	if plain.EKCert != nil {
		t.Errorf("a TPM without a certificate has %x", plain.EKCert)
	}
	if err := tpm.VerifyEKCert(id.EKCert, plain.EKPublic, roots); !errors.Is(err, tpm.ReasonEKCert) {
		t.Errorf("certificate of another TPM: %v", err)
	}
}

func TestMakeCredentialRefuses(t *testing.T) {
	ek, ak := ekArea(t, 1), name([]byte("ak"))
	if _, _, err := tpm.MakeCredential(ek, ak, []byte("s")); err != nil {
		t.Fatal(err)
	}
	offCurve := bytes.Clone(ek)
	offCurve[len(offCurve)-1] ^= 1
	aes256 := bytes.Clone(ek)
	copy(aes256[44:], u16(256))
	weak := rsaArea(&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 1023)})
	for _, c := range []struct {
		name           string
		ek, ak, secret []byte
	}{
		{"no EK", nil, ak, []byte("s")},
		{"EK not on the curve", offCurve, ak, []byte("s")},
		{"short RSA EK", weak, ak, []byte("s")},
		{"EK with AES-256", aes256, ak, []byte("s")},
		{"signing key", area(t, softKey(t, 1), akAttributes), ak, []byte("s")},
		{"no name", ek, nil, []byte("s")},
		{"long name", ek, append(bytes.Clone(ak), 0), []byte("s")},
		{"SHA-1 name", ek, append(u16(4), ak[2:]...), []byte("s")},
		{"no secret", ek, ak, nil},
		{"long secret", ek, ak, make([]byte, 33)},
	} {
		if _, _, err := tpm.MakeCredential(c.ek, c.ak, c.secret); err == nil {
			t.Errorf("%s: made", c.name)
		}
	}
}

func FuzzVerifyEKCert(f *testing.F) {
	a := newAuthority(f)
	f.Fuzz(func(t *testing.T, der, ek []byte) {
		err := tpm.VerifyEKCert(der, ek, a.roots)
		if err == nil {
			if _, _, err := tpm.MakeCredential(ek, name(nil), []byte("s")); err != nil {
				t.Fatalf("a verified endorsement key is of no use: %v", err)
			}
		}
		var reason tpm.Reason
		if err != nil && !errors.As(err, &reason) {
			t.Fatalf("no reason in: %v", err)
		}
	})
}
