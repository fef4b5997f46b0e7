// Package cose is the one profile of COSE_Sign1 (RFC 9052) for everything this
// project signs: manifest, key list, command, report, result and label.
//
// The profile: tag 18; protected header with exactly alg (1), kid (4) and typ
// (16, RFC 9596), unprotected header empty, payload attached; external_aad is
// "miotfacts " and the typ, so that no document passes for one of another type
// even under the same key. Algorithms are ES256 and EdDSA with Ed25519; the
// fully specified identifiers of RFC 9864 are accepted as well and never
// written. ECDSA signatures carry the lower of the two possible s values, so
// that a signed document has one encoding only. The profile has one shape, so the
// one decoder of everything else (Decode) reads it too; go-cose reads what is
// written here, and the other way round, in the tests.
//
// A payload is reachable only through Verify, or through a method whose name
// says that it was not verified.
package cose

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

// A Type names a kind of document by its media type. It is the typ header and
// part of what is signed.
type Type string

// The types of all documents. They stand here together so that no two
// documents share one. A report is an EAT and has the media type of RFC 9782.
const (
	Manifest Type = "application/vnd.miotfacts.manifest+cose"
	KeyList  Type = "application/vnd.miotfacts.keys+cose"
	Command  Type = "application/vnd.miotfacts.command+cose"
	Report   Type = "application/eat+cwt"
	Enrol    Type = "application/vnd.miotfacts.enrol+cose"
	Renewal  Type = "application/vnd.miotfacts.renewal+cose"
	Result   Type = "application/vnd.miotfacts.result+cose"
	Label    Type = "application/vnd.miotfacts.label+cose"
)

// Reasons for which a signed document is refused. Callers name them in
// findings and results.
var (
	ErrType      = errors.New("document is of another type")
	ErrKey       = errors.New("document is signed by another key")
	ErrSignature = errors.New("signature is not valid")
)

// A Signer signs documents with one private key.
type Signer struct {
	key    crypto.Signer
	public *PublicKey
}

// NewSigner returns a signer for key, which may live in a TPM. It must be
// Ed25519 or ECDSA P-256.
func NewSigner(key crypto.Signer) (*Signer, error) {
	p, err := NewPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	return &Signer{key: key, public: p}, nil
}

// Public returns the key that verifies what s signs.
func (s *Signer) Public() *PublicKey { return s.public }

// The identifiers of algorithms: RFC 9053, and fully specified ones of RFC 9864.
const (
	es256     = -7
	eddsa     = -8
	esp256    = -9
	ed25519ID = -19
)

// tag is the CBOR tag 18 of COSE_Sign1.
const tag = 0xd2

// A sign1 is COSE_Sign1 (RFC 9052 section 4.2).
type sign1 struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte   // header, encoded
	Unprotected struct{} // empty
	Payload     []byte
	Signature   []byte
}

// A header is the protected one, with all that the profile allows.
type header struct {
	Algorithm int    `cbor:"1,keyasint,omitempty"`
	KeyID     []byte `cbor:"4,keyasint,omitempty"`
	Type      string `cbor:"16,keyasint,omitempty"`
}

// A sigStructure is what is signed (RFC 9052 section 4.4).
type sigStructure struct {
	_         struct{} `cbor:",toarray"`
	Context   string
	Protected []byte
	External  []byte
	Payload   []byte
}

// toBeSigned returns the bytes that the signature is over.
func (s *sign1) toBeSigned(external []byte) ([]byte, error) {
	return Encode(&sigStructure{Context: "Signature1", Protected: s.Protected, External: external, Payload: s.Payload})
}

func external(t Type) []byte { return []byte("miotfacts " + string(t)) }

// Sign returns payload as a signed document of type t.
func (s *Signer) Sign(t Type, payload []byte) ([]byte, error) {
	data, err := s.sign(header{Algorithm: s.algorithm(), KeyID: s.public.id[:], Type: string(t)}, payload, external(t))
	if err != nil {
		return nil, fmt.Errorf("cannot sign %s: %w", t, err)
	}
	return data, nil
}

// A Foreign profile is that of documents for readers of others: a content type and
// one more protected header. Their external_aad is empty, so that none of them
// passes for a document of ours, nor one of ours for them.
type Foreign struct {
	Content string // media type of the payload
	Label   int64  // of the header
	Header  []byte
}

// SignForeign returns payload signed in a profile of others. Nothing here reads it.
func (s *Signer) SignForeign(f Foreign, payload []byte) ([]byte, error) {
	data, err := s.sign(map[int64]any{1: s.algorithm(), 3: f.Content, 4: s.public.id[:], f.Label: f.Header}, payload, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot sign %s: %w", f.Content, err)
	}
	return data, nil
}

func (s *Signer) algorithm() int {
	if _, ok := s.public.key.(ed25519.PublicKey); ok {
		return eddsa
	}
	return es256
}

// Assemble returns the document that Sign makes of these parts. The signature is not
// checked: Parse and Verify do.
func Assemble(algorithm int, key KeyID, t Type, payload, signature []byte) ([]byte, error) {
	protected, err := Encode(header{Algorithm: algorithm, KeyID: key[:], Type: string(t)})
	if err != nil {
		return nil, fmt.Errorf("cannot assemble %s: %w", t, err)
	}
	return (&sign1{Protected: protected, Payload: payload, Signature: signature}).encode()
}

func (s *sign1) encode() ([]byte, error) {
	data, err := Encode(s)
	if err != nil {
		return nil, err
	}
	return append([]byte{tag}, data...), nil
}

func (s *Signer) sign(protected any, payload, external []byte) ([]byte, error) {
	m := sign1{Payload: payload}
	var err error
	if m.Protected, err = Encode(protected); err != nil {
		return nil, err
	}
	data, err := m.toBeSigned(external)
	if err != nil {
		return nil, err
	}
	if m.Signature, err = s.signature(data); err != nil {
		return nil, err
	}
	return m.encode()
}

// signature returns the signature over data as COSE writes it.
func (s *Signer) signature(data []byte) ([]byte, error) {
	if s.algorithm() == eddsa {
		return s.key.Sign(rand.Reader, data, crypto.Hash(0))
	}
	digest := sha256.Sum256(data)
	der, err := s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	var rs struct{ R, S *big.Int } // as every crypto.Signer gives it
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) > 0 || !inRange(rs.R) || !inRange(rs.S) {
		return nil, fmt.Errorf("the key gave no ECDSA signature: %x", der)
	}
	// Both s and n - s verify; the lower one is the profile's.
	sig := make([]byte, 64)
	rs.R.FillBytes(sig[:32])
	if rs.S.FillBytes(sig[32:]); isHigh(sig) {
		rs.S.Sub(elliptic.P256().Params().N, rs.S).FillBytes(sig[32:])
	}
	return sig, nil
}

func inRange(x *big.Int) bool {
	return x.Sign() > 0 && x.Cmp(elliptic.P256().Params().N) < 0
}

// halfOrder is the highest s that is the lower one, 32 bytes. It never changes.
var halfOrder = new(big.Int).Rsh(elliptic.P256().Params().N, 1).FillBytes(make([]byte, 32))

// isHigh says whether s is the higher of its two values.
func isHigh(sig []byte) bool { return bytes.Compare(sig[32:], halfOrder) > 0 }

// inASN1 returns r and s as package ecdsa takes them, by hand: two integers of at
// most 33 bytes.
func inASN1(sig []byte) []byte {
	out := make([]byte, 2, 72)
	for _, n := range [][]byte{sig[:32], sig[32:]} {
		if n = bytes.TrimLeft(n, "\x00"); len(n) == 0 || n[0]&0x80 != 0 {
			out = append(out, 2, byte(len(n)+1), 0)
		} else {
			out = append(out, 2, byte(len(n)))
		}
		out = append(out, n...)
	}
	out[0], out[1] = 0x30, byte(len(out)-2)
	return out
}

// An Unverified document was parsed; nothing it says has been checked.
type Unverified struct {
	msg    sign1
	header header
}

// Parse parses a signed document of at most limit bytes. It refuses whatever
// is not in the profile: trailing bytes, other headers, other algorithms,
// detached payloads, encodings that are not deterministic.
func Parse(data []byte, limit int) (*Unverified, error) {
	u, err := parse(data, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot parse signed document: %w", err)
	}
	return u, nil
}

func parse(data []byte, limit int) (*Unverified, error) {
	if len(data) > limit {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), limit)
	}
	if len(data) == 0 || data[0] != tag {
		return nil, errors.New("it is no COSE_Sign1 with tag 18")
	}
	u := new(Unverified)
	if err := Decode(data[1:], limit, &u.msg); err != nil {
		return nil, err
	}
	if err := Decode(u.msg.Protected, limit, &u.header); err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	switch h := &u.header; {
	case h.Algorithm != es256 && h.Algorithm != eddsa && h.Algorithm != esp256 && h.Algorithm != ed25519ID:
		return nil, fmt.Errorf("algorithm %d is not one of -7, -8, -9, -19", h.Algorithm)
	case len(h.KeyID) != len(KeyID{}):
		return nil, fmt.Errorf("kid has %d bytes, want %d", len(h.KeyID), len(KeyID{}))
	case h.Type == "":
		return nil, errors.New("no typ in the protected header")
	case len(u.msg.Payload) == 0:
		return nil, errors.New("no payload")
	case len(u.msg.Signature) == 0:
		return nil, errors.New("no signature")
	}
	return u, nil
}

// Type returns the type the document claims to have.
func (u *Unverified) Type() Type { return Type(u.header.Type) }

// KeyID returns the key the document claims to be signed with.
func (u *Unverified) KeyID() KeyID { return KeyID(u.header.KeyID) }

// UnverifiedPayload returns the payload for display, or to find the key by what
// it says. No decision may depend on it before Verify.
func (u *Unverified) UnverifiedPayload() []byte { return u.msg.Payload }

// Verify checks that the document has type t and was signed by key, and returns
// its payload. The error wraps ErrType, ErrKey or ErrSignature.
func (u *Unverified) Verify(t Type, key *PublicKey) ([]byte, error) {
	if u.Type() != t {
		return nil, fmt.Errorf("cannot verify %s: %w: %s", t, ErrType, u.Type())
	}
	if u.KeyID() != key.id {
		return nil, fmt.Errorf("cannot verify %s: %w: %s, want %s", t, ErrKey, u.KeyID(), key.id)
	}
	data, err := u.msg.toBeSigned(external(t))
	if err != nil {
		return nil, fmt.Errorf("cannot verify %s: %w", t, err)
	}
	if err := u.verify(data, key.key); err != nil {
		return nil, fmt.Errorf("cannot verify %s: %w: %w", t, ErrSignature, err)
	}
	return u.msg.Payload, nil
}

// verify checks the signature over data. The algorithm is the key's: what the
// header says can only be another name of it.
func (u *Unverified) verify(data []byte, key crypto.PublicKey) error {
	alg, sig := u.header.Algorithm, u.msg.Signature
	if len(sig) != 64 {
		return fmt.Errorf("it has %d bytes, want 64", len(sig))
	}
	valid := false
	switch k := key.(type) {
	case ed25519.PublicKey:
		if alg != eddsa && alg != ed25519ID {
			return fmt.Errorf("the header says algorithm %d, the key is Ed25519", alg)
		}
		valid = ed25519.Verify(k, data, sig)
	case *ecdsa.PublicKey:
		if alg != es256 && alg != esp256 {
			return fmt.Errorf("the header says algorithm %d, the key is ECDSA P-256", alg)
		}
		if isHigh(sig) {
			return errors.New("s is not the lower of its two values")
		}
		digest := sha256.Sum256(data)
		valid = ecdsa.VerifyASN1(k, digest[:], inASN1(sig))
	}
	if !valid {
		return errors.New("verification error")
	}
	return nil
}
