// Package cose is the one profile of COSE_Sign1 (RFC 9052) for everything this
// project signs: manifest, key list, command, report, result and label.
//
// The profile: tag 18; protected header with exactly alg (1), kid (4) and typ
// (16, RFC 9596), unprotected header empty, payload attached; external_aad is
// "miotfacts " and the typ, so that no document passes for one of another type
// even under the same key. Algorithms are ES256 and EdDSA with Ed25519; the
// fully specified identifiers of RFC 9864 are accepted as well and never
// written. ECDSA signatures carry the lower of the two possible s values, so
// that a signed document has one encoding only.
//
// A payload is reachable only through Verify, or through a method whose name
// says that it was not verified.
package cose

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"

	gocose "github.com/veraison/go-cose"
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

func external(t Type) []byte { return []byte("miotfacts " + string(t)) }

// Sign returns payload as a signed document of type t.
func (s *Signer) Sign(t Type, payload []byte) ([]byte, error) {
	m := gocose.NewSign1Message()
	if _, err := m.Headers.Protected.SetType(string(t)); err != nil {
		return nil, fmt.Errorf("cannot sign %s: %w", t, err)
	}
	data, err := s.sign(m, payload, external(t))
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
	m := gocose.NewSign1Message()
	m.Headers.Protected[gocose.HeaderLabelContentType] = f.Content
	m.Headers.Protected[f.Label] = f.Header
	data, err := s.sign(m, payload, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot sign %s: %w", f.Content, err)
	}
	return data, nil
}

func (s *Signer) sign(m *gocose.Sign1Message, payload, aad []byte) ([]byte, error) {
	alg := gocose.AlgorithmES256
	if s.public.Algorithm() == "Ed25519" {
		alg = gocose.AlgorithmEdDSA
	}
	signer, err := gocose.NewSigner(alg, s.key)
	if err != nil {
		return nil, err
	}
	m.Headers.Protected.SetAlgorithm(alg)
	m.Headers.Protected[gocose.HeaderLabelKeyID] = s.public.id[:]
	m.Payload = payload
	if err := m.Sign(rand.Reader, aad, signer); err != nil {
		return nil, err
	}
	if alg == gocose.AlgorithmES256 {
		lowerS(m.Signature)
	}
	return m.MarshalCBOR()
}

// lowerS replaces s by n - s where that is lower; both verify.
func lowerS(sig []byte) {
	n := elliptic.P256().Params().N
	s := new(big.Int).SetBytes(sig[32:])
	if s.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
		s.Sub(n, s).FillBytes(sig[32:])
	}
}

// An Unverified document was parsed; nothing it says has been checked.
type Unverified struct {
	msg *gocose.Sign1Message
	typ Type
	kid KeyID
}

// Parse parses a signed document of at most limit bytes. It refuses whatever
// is not in the profile: trailing bytes, other headers, other algorithms,
// detached payloads, encodings that are not deterministic.
func Parse(data []byte, limit int) (*Unverified, error) {
	if len(data) > limit {
		return nil, fmt.Errorf("cannot parse signed document: %d bytes, the limit is %d", len(data), limit)
	}
	m := new(gocose.Sign1Message)
	if err := m.UnmarshalCBOR(data); err != nil {
		return nil, fmt.Errorf("cannot parse signed document: %w", err)
	}
	h := m.Headers.Protected
	alg, err := h.Algorithm()
	if err != nil {
		return nil, fmt.Errorf("cannot parse signed document: %w", err)
	}
	switch alg {
	case gocose.AlgorithmES256, gocose.AlgorithmEdDSA, esp256, ed25519ID:
	default:
		return nil, fmt.Errorf("cannot parse signed document: algorithm %d is not one of -7, -8, -9, -19", alg)
	}
	kid, _ := h[gocose.HeaderLabelKeyID].([]byte)
	typ, _ := h[gocose.HeaderLabelType].(string)
	switch {
	case len(kid) != len(KeyID{}):
		return nil, fmt.Errorf("cannot parse signed document: kid has %d bytes, want %d", len(kid), len(KeyID{}))
	case typ == "":
		return nil, errors.New("cannot parse signed document: no typ in the protected header")
	case len(h) != 3:
		return nil, fmt.Errorf("cannot parse signed document: %d protected header parameters, want alg, kid and typ only", len(h))
	case len(m.Headers.Unprotected) != 0:
		return nil, errors.New("cannot parse signed document: the unprotected header is not empty")
	case len(m.Payload) == 0:
		return nil, errors.New("cannot parse signed document: no payload")
	}
	again, err := m.MarshalCBOR()
	if err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("cannot parse signed document: %w", ErrNotDeterministic)
	}
	u := &Unverified{msg: m, typ: Type(typ)}
	copy(u.kid[:], kid)
	return u, nil
}

// Fully specified identifiers, RFC 9864.
const (
	esp256    gocose.Algorithm = -9
	ed25519ID gocose.Algorithm = -19
)

// Type returns the type the document claims to have.
func (u *Unverified) Type() Type { return u.typ }

// KeyID returns the key the document claims to be signed with.
func (u *Unverified) KeyID() KeyID { return u.kid }

// UnverifiedPayload returns the payload for display, or to find the key by what
// it says. No decision may depend on it before Verify.
func (u *Unverified) UnverifiedPayload() []byte { return u.msg.Payload }

// Verify checks that the document has type t and was signed by key, and returns
// its payload. The error wraps ErrType, ErrKey or ErrSignature.
func (u *Unverified) Verify(t Type, key *PublicKey) ([]byte, error) {
	if u.typ != t {
		return nil, fmt.Errorf("cannot verify %s: %w: %s", t, ErrType, u.typ)
	}
	if u.kid != key.id {
		return nil, fmt.Errorf("cannot verify %s: %w: %s, want %s", t, ErrKey, u.kid, key.id)
	}
	alg, full := gocose.AlgorithmEdDSA, ed25519ID
	if key.Algorithm() == "ES256" {
		alg, full = gocose.AlgorithmES256, esp256
		if err := checkLowS(u.msg.Signature); err != nil {
			return nil, fmt.Errorf("cannot verify %s: %w: %w", t, ErrSignature, err)
		}
	}
	if err := u.verifyAs(alg, full, key.key); err != nil {
		return nil, fmt.Errorf("cannot verify %s: %w: %w", t, ErrSignature, err)
	}
	return u.msg.Payload, nil
}

func checkLowS(sig []byte) error {
	if len(sig) != 64 {
		return fmt.Errorf("it has %d bytes, want 64", len(sig))
	}
	half := new(big.Int).Rsh(elliptic.P256().Params().N, 1)
	if new(big.Int).SetBytes(sig[32:]).Cmp(half) > 0 {
		return errors.New("s is not the lower of its two values")
	}
	return nil
}

// verifyAs checks the signature under alg; a document that carries the fully
// specified identifier is checked as what it is, under the same primitive.
func (u *Unverified) verifyAs(alg, full gocose.Algorithm, key crypto.PublicKey) error {
	v, err := gocose.NewVerifier(alg, key)
	if err != nil {
		return err
	}
	got, err := u.msg.Headers.Protected.Algorithm()
	if err != nil {
		return err
	}
	if got == full {
		v = renamed{v, full}
	}
	return u.msg.Verify(external(u.typ), v)
}

// renamed is a verifier under the fully specified identifier of its algorithm.
type renamed struct {
	gocose.Verifier
	alg gocose.Algorithm
}

func (r renamed) Algorithm() gocose.Algorithm { return r.alg }
