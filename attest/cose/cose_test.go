package cose_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"

	gocose "github.com/veraison/go-cose"

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

// byOthers verifies a document with another implementation.
func byOthers(data []byte, k *cose.PublicKey, aad string) (*gocose.Sign1Message, error) {
	m := new(gocose.Sign1Message)
	if err := m.UnmarshalCBOR(data); err != nil {
		return nil, err
	}
	alg := gocose.AlgorithmES256
	if k.Algorithm() == "Ed25519" {
		alg = gocose.AlgorithmEdDSA
	}
	v, err := gocose.NewVerifier(alg, k.Key())
	if err != nil {
		return nil, err
	}
	return m, m.Verify([]byte(aad), v)
}

// What is signed here another implementation verifies, and the other way round.
func TestAnotherImplementation(t *testing.T) {
	for alg, k := range keys(t) {
		s := newSigner(t, k)
		data, err := s.Sign(cose.Report, []byte("payload"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := byOthers(data, s.Public(), "miotfacts application/eat+cwt")
		if err != nil || string(m.Payload) != "payload" {
			t.Errorf("%s: go-cose: %v", alg, err)
		}
		if data, err = s.SignForeign(cose.Foreign{Content: "application/example", Label: 8, Header: []byte{1}}, []byte("payload")); err != nil {
			t.Fatal(err)
		}
		if m, err = byOthers(data, s.Public(), ""); err != nil || m.Headers.Protected[gocose.HeaderLabelContentType] != "application/example" || m.Headers.Protected[int64(8)] == nil {
			t.Errorf("%s: go-cose, foreign: %v", alg, err)
		}
		if _, err := cose.Parse(data, 1000); err == nil {
			t.Errorf("%s: a document for others passed for ours", alg)
		}

		id := s.Public().ID()
		m = gocose.NewSign1Message()
		algorithm := gocose.AlgorithmES256
		if alg == "Ed25519" {
			algorithm = gocose.AlgorithmEdDSA
		}
		m.Headers.Protected.SetAlgorithm(algorithm)
		m.Headers.Protected[gocose.HeaderLabelKeyID] = id[:]
		if _, err := m.Headers.Protected.SetType(string(cose.Report)); err != nil {
			t.Fatal(err)
		}
		m.Payload = []byte("payload")
		signer, err := gocose.NewSigner(algorithm, k)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 { // of ECDSA every second one has the higher s
			m.Signature = nil
			if err := m.Sign(rand.Reader, []byte("miotfacts application/eat+cwt"), signer); err != nil {
				t.Fatal(err)
			}
			if data, err = m.MarshalCBOR(); err != nil {
				t.Fatal(err)
			}
			u, err := cose.Parse(data, 1000)
			if err != nil {
				t.Fatalf("%s: signed by go-cose: %v", alg, err)
			}
			if _, err := u.Verify(cose.Report, s.Public()); err != nil && !strings.Contains(err.Error(), "lower") {
				t.Errorf("%s: signed by go-cose: %v", alg, err)
			}
		}
	}
}

// The fully specified names of the algorithms are taken, those of other kinds are not.
func TestAlgorithmNames(t *testing.T) {
	for alg, k := range keys(t) {
		s := newSigner(t, k)
		for _, number := range []int{-7, -8, -9, -19, -35} {
			u, err := cose.Parse(signedAs(t, k, s.Public(), number), 1000)
			if number == -35 {
				if err == nil || !strings.Contains(err.Error(), "algorithm -35 is not one of") {
					t.Errorf("%s as %d: %v", alg, number, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = u.Verify(cose.Report, s.Public())
			if ok := (alg == "ES256") == (number == -7 || number == -9); ok && err != nil || !ok && !errors.Is(err, cose.ErrSignature) {
				t.Errorf("%s as %d: %v", alg, number, err)
			}
		}
	}
}

// signedAs returns a document whose header names this algorithm; the signature is
// over just that.
func signedAs(t *testing.T, k crypto.Signer, public *cose.PublicKey, alg int) []byte {
	t.Helper()
	encode := func(v any) []byte {
		data, err := cose.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	id := public.ID()
	protected := encode(map[int]any{1: alg, 4: id[:], 16: string(cose.Report)})
	tbs := encode([]any{"Signature1", protected, []byte("miotfacts application/eat+cwt"), []byte("payload")})
	var sig []byte
	if _, ok := k.(ed25519.PrivateKey); ok {
		sig = ed25519.Sign(k.(ed25519.PrivateKey), tbs)
	} else {
		digest := sha256.Sum256(tbs)
		r, s, err := ecdsa.Sign(rand.Reader, k.(*ecdsa.PrivateKey), digest[:])
		if err != nil {
			t.Fatal(err)
		}
		if n := elliptic.P256().Params().N; s.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
			s.Sub(n, s)
		}
		sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	}
	return append([]byte{0xd2}, encode([]any{protected, map[int]int{}, []byte("payload"), sig})...)
}

func TestParseRefuses(t *testing.T) {
	encode := func(v any) []byte {
		data, err := cose.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	header := map[int]any{1: -7, 4: make([]byte, 16), 16: "t"}
	with := func(label int, v any) map[int]any {
		h := maps.Clone(header)
		if h[label] = v; v == nil {
			delete(h, label)
		}
		return h
	}
	document := func(h any, more ...any) []byte {
		elements := []any{encode(h), map[int]int{}, []byte("p"), make([]byte, 64)}
		for i := 0; i < len(more); i += 2 {
			elements[more[i].(int)] = more[i+1]
		}
		return append([]byte{0xd2}, encode(elements)...)
	}
	if _, err := cose.Parse(document(header), 1000); err != nil {
		t.Fatal(err)
	}
	bare := document(header)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":                    {nil, "tag 18"},
		"no tag":                   {bare[1:], "tag 18"},
		"another tag":              {append([]byte{0xd1}, bare[1:]...), "tag 18"},
		"tag with a long number":   {append([]byte{0xd8, 18}, bare[1:]...), "tag 18"},
		"five elements":            {append([]byte{0xd2}, encode([]any{encode(header), map[int]int{}, []byte("p"), make([]byte, 64), 1})...), "cannot decode"},
		"no kid":                   {document(with(4, nil)), "kid has 0 bytes"},
		"short kid":                {document(with(4, make([]byte, 15))), "kid has 15 bytes"},
		"no typ":                   {document(with(16, nil)), "no typ"},
		"typ as a number":          {document(with(16, 61)), "protected header"},
		"no algorithm":             {document(with(1, nil)), "algorithm 0 is not one"},
		"algorithm as text":        {document(with(1, "ES256")), "protected header"},
		"another header":           {document(with(2, []int{16})), "unknown field"},
		"content type":             {document(with(3, "x")), "unknown field"},
		"unprotected header":       {document(header, 1, map[int]int{1: -7}), "unknown field"},
		"header as a map":          {document(header, 0, header), "cannot decode"},
		"empty header":             {document(header, 0, []byte{}), "protected header"},
		"header not deterministic": {document(header, 0, append([]byte{0xb8, 3}, encode(header)[1:]...)), "not the core deterministic"},
		"header out of order":      {document(header, 0, slices.Concat([]byte{0xa3, 4, 0x50}, make([]byte, 16), []byte{1, 0x26, 0x10, 0x61, 't'})), "not the core deterministic"},
		"header twice":             {document(header, 0, slices.Concat([]byte{0xa4, 1, 0x26, 1, 0x26}, encode(header)[3:])), "duplicate"},
		"bytes behind the header":  {document(header, 0, append(encode(header), 0)), "protected header"},
		"detached":                 {document(header, 2, nil), "not the core deterministic"},
		"no payload":               {document(header, 2, []byte{}), "no payload"},
		"payload as text":          {document(header, 2, "p"), "cannot decode"},
		"no signature":             {document(header, 3, []byte{}), "no signature"},
		"long length":              {slices.Concat([]byte{0xd2, 0x98, 4}, bare[2:]), "not the core deterministic"},
		"endless":                  {slices.Concat([]byte{0xd2, 0x9f}, bare[2:], []byte{0xff}), "indefinite"},
	} {
		if _, err := cose.Parse(c.data, 1000); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
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
			got, err := u.Verify(u.Type(), s.Public())
			if err == nil && string(got) != "payload" {
				t.Fatalf("forged payload %q", got)
			}
			// Another implementation takes it too, but for the names that it does not know.
			m, other := byOthers(data, s.Public(), "miotfacts "+string(u.Type()))
			if m == nil && u.Type() == cose.Report { // it is particular about media types
				t.Fatalf("go-cose does not read what was read here: %v", other)
			}
			if err == nil && other != nil && !errors.Is(other, gocose.ErrAlgorithmMismatch) {
				t.Fatalf("go-cose refuses what was verified here: %v", other)
			}
		}
	})
}
