package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Algorithms, structure tags, attributes (part 2, 6.3, 6.9, 8.3).
const (
	algRSA    = 0x0001
	algAES    = 0x0006
	algSHA256 = 0x000b
	algSHA384 = 0x000c
	algNull   = 0x0010
	algECDSA  = 0x0018
	algECC    = 0x0023
	algCFB    = 0x0043
	curveP256 = 0x0003
	curveP384 = 0x0004

	generated     = 0xff544347 // TPM_GENERATED_VALUE
	attestCertify = 0x8017
	attestQuote   = 0x8018
	rhEndorsement = 0x4000000b

	fixedTPM            = 1 << 1
	fixedParent         = 1 << 4
	sensitiveDataOrigin = 1 << 5
	userWithAuth        = 1 << 6
	adminWithPolicy     = 1 << 7
	noDA                = 1 << 10
	restricted          = 1 << 16
	decrypt             = 1 << 17
	sign                = 1 << 18

	maxPCRs      = 24
	maxStructure = 2048 // bytes of any structure here: a public area of RSA-2048 has about 320
)

// A reader reads the TPM's canonical form: big-endian numbers and sized buffers.
// After a read beyond the end it returns zeros and is cut.
type reader struct {
	rest []byte
	cut  bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.cut, r.rest = true, nil
		return make([]byte, n)
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u8() byte      { return r.take(1)[0] }
func (r *reader) u16() uint16   { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32   { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64   { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) sized() []byte { return r.take(int(r.u16())) } // TPM2B

// end refuses structures that were cut or go on.
func (r *reader) end(what string) error {
	if r.cut {
		return fmt.Errorf("%w: %s is cut", ReasonMalformed, what)
	}
	if len(r.rest) > 0 {
		return fmt.Errorf("%w: %d after %s", ReasonTrailing, len(r.rest), what)
	}
	return nil
}

func open(b []byte, what string) (*reader, error) {
	if len(b) > maxStructure {
		return nil, fmt.Errorf("%w: %s of %d bytes, the limit is %d", ReasonMalformed, what, len(b), maxStructure)
	}
	return &reader{rest: b}, nil
}

// wrap and unwrap put bytes into a TPM2B and take them out.
func wrap(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

func unwrap(b []byte) ([]byte, error) {
	r, err := open(b, "sized buffer")
	if err != nil {
		return nil, err
	}
	data := r.sized()
	return data, r.end("sized buffer")
}

// A public is a TPMT_PUBLIC (part 2, 12.2.4) of an asymmetric key.
type public struct {
	kind, nameAlg uint16
	attributes    uint32
	policy        []byte
	symmetric     struct{ alg, bits, mode uint16 }
	scheme, hash  uint16
	curve         uint16 // ECC
	x, y          []byte
	bits          uint16 // RSA
	exponent      uint32
	modulus       []byte
}

func parsePublic(b []byte) (*public, error) {
	r, err := open(b, "public area")
	if err != nil {
		return nil, err
	}
	p := &public{kind: r.u16(), nameAlg: r.u16(), attributes: r.u32(), policy: r.sized()}
	if r.cut {
		return nil, r.end("public area")
	}
	if p.kind != algECC && p.kind != algRSA {
		return nil, fmt.Errorf("%w: type %#04x", ReasonKeyType, p.kind)
	}
	if p.symmetric.alg = r.u16(); p.symmetric.alg != algNull {
		p.symmetric.bits, p.symmetric.mode = r.u16(), r.u16()
	}
	switch p.scheme = r.u16(); p.scheme {
	case algNull:
	case algECDSA:
		p.hash = r.u16()
	default:
		return nil, fmt.Errorf("%w: scheme %#04x", ReasonKeyType, p.scheme)
	}
	if p.kind == algECC {
		p.curve = r.u16()
		if kdf := r.u16(); kdf != algNull && !r.cut {
			return nil, fmt.Errorf("%w: key derivation %#04x", ReasonKeyType, kdf)
		}
		p.x, p.y = r.sized(), r.sized()
	} else {
		p.bits, p.exponent, p.modulus = r.u16(), r.u32(), r.sized()
	}
	return p, r.end("public area")
}

// point returns the key as one of P-256 or P-384; the point is on the curve.
func (p *public) point() (*ecdsa.PublicKey, error) {
	var curve elliptic.Curve
	switch {
	case p.kind == algECC && p.curve == curveP256:
		curve = elliptic.P256()
	case p.kind == algECC && p.curve == curveP384:
		curve = elliptic.P384()
	default:
		return nil, fmt.Errorf("%w: type %#04x, curve %#04x", ReasonKeyType, p.kind, p.curve)
	}
	size := curve.Params().BitSize / 8
	if len(p.x) > size || len(p.y) > size {
		return nil, fmt.Errorf("%w: coordinates of %d and %d bytes", ReasonMalformed, len(p.x), len(p.y))
	}
	// Some TPMs leave out leading zeros.
	point := make([]byte, 1+2*size)
	point[0] = 4
	copy(point[1+size-len(p.x):1+size], p.x)
	copy(point[1+2*size-len(p.y):], p.y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ReasonMalformed, err)
	}
	return key, nil
}

// signing returns the key if it can sign nothing but ECDSA with SHA-256.
func (p *public) signing() (*ecdsa.PublicKey, error) {
	if p.kind == algECC && p.curve != curveP256 {
		return nil, fmt.Errorf("%w: curve %#04x", ReasonKeyType, p.curve)
	}
	key, err := p.point()
	if err != nil {
		return nil, err
	}
	if p.nameAlg != algSHA256 || p.scheme != algECDSA || p.hash != algSHA256 || p.symmetric.alg != algNull {
		return nil, fmt.Errorf("%w: name algorithm %#04x, scheme %#04x with %#04x", ReasonKeyType, p.nameAlg, p.scheme, p.hash)
	}
	return key, nil
}

// PublicKey returns the key of a TPMT_PUBLIC: ECDSA P-256 with SHA-256, nothing
// else.
func PublicKey(public []byte) (*ecdsa.PublicKey, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("cannot use public area: %w", err)
	}
	key, err := p.signing()
	if err != nil {
		return nil, fmt.Errorf("cannot use public area: %w", err)
	}
	return key, nil
}

// Name returns the Name of the key with this TPMT_PUBLIC (part 1, 16):
// TPM_ALG_SHA256 and the SHA-256 of it, 34 bytes.
func Name(public []byte) ([]byte, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("cannot name public area: %w", err)
	}
	if p.nameAlg != algSHA256 {
		return nil, fmt.Errorf("cannot name public area: %w: name algorithm %#04x", ReasonKeyType, p.nameAlg)
	}
	return nameOf(public), nil
}

func nameOf(b []byte) []byte {
	digest := sha256.Sum256(b)
	return append([]byte{0, algSHA256}, digest[:]...)
}

// qualifiedName is that of a primary key of the endorsement hierarchy (part 1,
// 16): a hash over the hierarchy and the Name.
func qualifiedName(name []byte) []byte {
	return nameOf(append(binary.BigEndian.AppendUint32(nil, rhEndorsement), name...))
}

// parseSignature returns a TPMT_SIGNATURE of ECDSA with SHA-256 in ASN.1.
func parseSignature(b []byte) ([]byte, error) {
	r, err := open(b, "signature")
	if err != nil {
		return nil, err
	}
	if scheme, hash := r.u16(), r.u16(); !r.cut && (scheme != algECDSA || hash != algSHA256) {
		return nil, fmt.Errorf("%w: %#04x with %#04x", ReasonScheme, scheme, hash)
	}
	x, y := bytes.TrimLeft(r.sized(), "\x00"), bytes.TrimLeft(r.sized(), "\x00")
	if err := r.end("signature"); err != nil {
		return nil, err
	}
	if len(x) > 32 || len(y) > 32 {
		return nil, fmt.Errorf("%w: its numbers have %d and %d bytes", ReasonSignature, len(x), len(y))
	}
	// By hand, as each of two integers of up to 33 bytes: package asn1 costs more
	// than everything else that is read of a quote.
	sig := make([]byte, 2, 72)
	for _, n := range [][]byte{x, y} {
		if len(n) == 0 || n[0]&0x80 != 0 {
			sig = append(sig, 2, byte(len(n)+1), 0)
		} else {
			sig = append(sig, 2, byte(len(n)))
		}
		sig = append(sig, n...)
	}
	sig[0], sig[1] = 0x30, byte(len(sig)-2)
	return sig, nil
}

// An attest is a TPMS_ATTEST (part 2, 10.12.12) up to what was attested.
type attest struct {
	signer, extra []byte
	clock         uint64
	resets        uint32
	restarts      uint32
	safe          bool
	firmware      uint64
}

// parseAttest leaves in the reader what was attested. The structure begins with
// the two fields that say what it is: the wrong kind is refused as such.
func parseAttest(b []byte, kind uint16) (*attest, *reader, error) {
	r, err := open(b, "attestation")
	if err != nil {
		return nil, nil, err
	}
	if magic := r.u32(); !r.cut && magic != generated {
		return nil, nil, fmt.Errorf("%w: %#08x", ReasonMagic, magic)
	}
	if got := r.u16(); !r.cut && got != kind {
		return nil, nil, fmt.Errorf("%w: %#04x, want %#04x", ReasonType, got, kind)
	}
	a := &attest{signer: r.sized(), extra: r.sized(), clock: r.u64(), resets: r.u32(), restarts: r.u32()}
	safe := r.u8()
	a.safe, a.firmware = safe == 1, r.u64()
	if safe > 1 {
		return nil, nil, fmt.Errorf("%w: safe is %d", ReasonMalformed, safe)
	}
	return a, r, nil
}

// A quoted is a TPMS_QUOTE_INFO (part 2, 10.12.4).
type quoted struct {
	selections []pcrSelect
	digest     []byte
}

type pcrSelect struct {
	bank uint16
	pcrs []int
}

func parseQuoted(r *reader) (*quoted, error) {
	q := new(quoted)
	count := r.u32()
	if count > 16 { // HASH_COUNT of any TPM is lower
		return nil, fmt.Errorf("%w: selection of %d banks", ReasonMalformed, count)
	}
	for range count {
		s := pcrSelect{bank: r.u16(), pcrs: make([]int, 0, maxPCRs)}
		for i, b := range r.take(int(r.u8())) {
			for bit := range 8 {
				if b&(1<<bit) != 0 {
					s.pcrs = append(s.pcrs, 8*i+bit)
				}
			}
		}
		q.selections = append(q.selections, s)
	}
	q.digest = bytes.Clone(r.sized())
	return q, r.end("attestation")
}
