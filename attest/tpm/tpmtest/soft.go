package tpmtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"slices"
	"testing"

	"github.com/miotfacts/miotfacts/attest/tpm"
)

// Key returns a key outside any TPM, always the same for a number: it signs what
// no TPM would.
func Key(t testing.TB, n byte) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Attributes that keys must have (TPMA_OBJECT, part 2, 8.3).
const (
	AKAttributes     = 1<<1 | 1<<4 | 1<<5 | 1<<6 | 1<<10 | 1<<16 | 1<<18
	DeviceAttributes = AKAttributes &^ (1 << 16)
)

func u16(n int) []byte      { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func u32(n uint32) []byte   { return binary.BigEndian.AppendUint32(nil, n) }
func sized(b []byte) []byte { return append(u16(len(b)), b...) }

// SigningArea returns the TPMT_PUBLIC of an ECDSA P-256 key.
func SigningArea(t testing.TB, key *ecdsa.PrivateKey, attributes uint32) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(u16(0x23), u16(0x0b), u32(attributes), sized(nil), u16(0x10), u16(0x18), u16(0x0b), u16(3), u16(0x10), sized(point[1:33]), sized(point[33:]))
}

// EKArea returns the TPMT_PUBLIC of a P-256 endorsement key, template L-2.
func EKArea(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b := SigningArea(t, key, 0x000300b2)
	return slices.Concat(b[:8], sized(bytes.Repeat([]byte{0x83}, 32)), u16(0x06), u16(128), u16(0x43), u16(0x10), b[16:])
}

func nameOf(b []byte) []byte {
	h := sha256.Sum256(b)
	return append(u16(0x0b), h[:]...)
}

// An Attest is a TPMS_ATTEST (part 2, 10.12.12) in pieces, for a key outside any
// TPM to sign.
type Attest struct {
	Magic     uint32
	Kind      int
	Hierarchy uint32 // of the key that signs
	AK        []byte // its TPMT_PUBLIC
	Extra     []byte
	Clock     uint64
	Safe      byte
	Body      []byte // what is attested
}

// QuoteOver returns the pieces of a sound quote by ak over PCRs of the SHA-256 bank.
func QuoteOver(ak, extra []byte, pcrs []tpm.PCR) Attest {
	mask := make([]byte, 3)
	h := sha256.New()
	for _, p := range pcrs {
		mask[p.Index/8] |= 1 << (p.Index % 8)
		h.Write(p.Digest)
	}
	return Attest{Magic: 0xff544347, Kind: 0x8018, Hierarchy: 0x4000000b, AK: ak, Extra: extra, Clock: 1000, Safe: 1, Body: Quoted(h.Sum(nil), Bank(0x0b, mask...))}
}

// Bank is one selection of a quote: a TPMS_PCR_SELECTION (part 2, 10.6.2).
func Bank(alg int, mask ...byte) []byte {
	return slices.Concat(u16(alg), []byte{byte(len(mask))}, mask)
}

// Quoted is a TPMS_QUOTE_INFO (part 2, 10.12.4).
func Quoted(digest []byte, banks ...[]byte) []byte {
	return slices.Concat(u32(uint32(len(banks))), slices.Concat(banks...), sized(digest))
}

// CertifyOf returns the pieces of a sound certification of a key by ak.
func CertifyOf(ak, public []byte) Attest {
	name := nameOf(public)
	return Attest{Magic: 0xff544347, Kind: 0x8017, Hierarchy: 0x4000000b, AK: ak, Safe: 1, Body: slices.Concat(sized(name), sized(nameOf(append(u32(0x4000000b), name...))))}
}

// Bytes returns the structure.
func (a Attest) Bytes() []byte {
	signer := nameOf(append(u32(a.Hierarchy), nameOf(a.AK)...))
	return slices.Concat(u32(a.Magic), u16(a.Kind), sized(signer), sized(a.Extra), binary.BigEndian.AppendUint64(nil, a.Clock), make([]byte, 8), []byte{a.Safe}, make([]byte, 8), a.Body)
}

// Sign returns the structure, signed.
func (a Attest) Sign(t testing.TB, key *ecdsa.PrivateKey) tpm.Attestation {
	t.Helper()
	b := a.Bytes()
	return tpm.Attestation{Attest: b, Signature: Sign(t, key, b)}
}

// Sign returns a TPMT_SIGNATURE of ECDSA with SHA-256 over b.
func Sign(t testing.TB, key *ecdsa.PrivateKey, b []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(b)
	der, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		t.Fatal(err)
	}
	return slices.Concat(u16(0x18), u16(0x0b), sized(rs.R.FillBytes(make([]byte, 32))), sized(rs.S.FillBytes(make([]byte, 32))))
}
