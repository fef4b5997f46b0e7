package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

// Attributes of the keys that Provision makes (TPMA_OBJECT, part 2, 8.3).
const (
	akAttributes     = 1<<1 | 1<<4 | 1<<5 | 1<<6 | 1<<10 | 1<<16 | 1<<18
	deviceAttributes = akAttributes &^ (1 << 16)
)

// softKey is a key outside any TPM: it can sign what no TPM would. It is always
// the same, so that seeds stay good.
func softKey(t testing.TB, n byte) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{n}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func softCert(t testing.TB) tls.Certificate { return selfSigned(t, softKey(t, 3)) }

func u16(n int) []byte      { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
func u32(n uint32) []byte   { return binary.BigEndian.AppendUint32(nil, n) }
func sized(b []byte) []byte { return append(u16(len(b)), b...) }

// area is a TPMT_PUBLIC of an ECDSA P-256 key.
func area(t testing.TB, key *ecdsa.PrivateKey, attributes uint32) []byte {
	t.Helper()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(u16(0x23), u16(0x0b), u32(attributes), sized(nil), u16(0x10), u16(0x18), u16(0x0b), u16(3), u16(0x10), sized(point[1:33]), sized(point[33:]))
}

func name(public []byte) []byte {
	h := sha256.Sum256(public)
	return append(u16(0x0b), h[:]...)
}

func qualified(hierarchy uint32, public []byte) []byte {
	return name(append(u32(hierarchy), name(public)...))
}

// signed is a TPMT_SIGNATURE over b.
func signed(t testing.TB, key *ecdsa.PrivateKey, b []byte) []byte {
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
	return slices.Concat(u16(0x18), u16(0x0b), sized(rs.R.Bytes()), sized(rs.S.Bytes()))
}

// forged is an attestation in pieces, and the key that signs it.
type forged struct {
	magic     uint32
	kind      int
	signer    []byte
	extra     []byte
	safe      byte
	body      []byte // what is attested
	tail      []byte
	ak        []byte // TPMT_PUBLIC
	signature func([]byte) []byte
}

func (f *forged) bytes() []byte {
	clock := make([]byte, 16)
	return slices.Concat(u32(f.magic), u16(f.kind), sized(f.signer), sized(f.extra), clock, []byte{f.safe}, make([]byte, 8), f.body, f.tail)
}

func forge(t testing.TB, kind int, attributes uint32) *forged {
	key := softKey(t, 1)
	f := &forged{magic: 0xff544347, kind: kind, safe: 1, ak: area(t, key, attributes)}
	f.signer = qualified(0x4000000b, f.ak)
	f.signature = func(b []byte) []byte { return signed(t, key, b) }
	return f
}

func (f *forged) sign() tpm.Attestation {
	b := f.bytes()
	return tpm.Attestation{Attest: b, Signature: f.signature(b)}
}

// A quote in pieces.
type forgedQuote struct {
	*forged
	selection []byte
	digest    []byte
	pcrs      []tpm.PCR
	bank      uint16
	nonce     []byte // that the verifier expects
	want      []int  // and the PCRs
}

func (q *forgedQuote) verify() error {
	q.body = append(bytes.Clone(q.selection), sized(q.digest)...)
	_, err := tpm.VerifyQuote(tpm.Quote{Attestation: q.sign(), Bank: q.bank, PCRs: q.pcrs}, q.ak, q.nonce, q.want)
	return err
}

func goodQuote(t testing.TB) *forgedQuote {
	q := &forgedQuote{
		forged:    forge(t, 0x8018, akAttributes),
		selection: slices.Concat(u32(1), u16(0x0b), []byte{3, 0b10001, 0, 0b1}),
		bank:      0x0b, nonce: []byte("nonce"), want: []int{0, 4, 16},
	}
	q.extra = q.nonce
	h := sha256.New()
	for _, p := range q.want {
		value := bytes.Repeat([]byte{byte(p)}, 32)
		q.pcrs = append(q.pcrs, tpm.PCR{Index: p, Digest: value})
		h.Write(value)
	}
	q.digest = h.Sum(nil)
	return q
}

// Each case has one fault and is signed with the right key unless it is about
// the signature.
func TestVerifyQuoteRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason tpm.Reason
		fault  func(q *forgedQuote)
	}{
		{"nothing", "", func(q *forgedQuote) {}},
		{"wider selection with zeros", "", func(q *forgedQuote) {
			q.selection = slices.Concat(u32(1), u16(0x0b), []byte{4, 0b10001, 0, 0b1, 0})
		}},

		{"magic", tpm.ReasonMagic, func(q *forgedQuote) { q.magic = 0xff544348 }},
		{"a Certify", tpm.ReasonType, func(q *forgedQuote) { q.kind = 0x8017 }},
		{"an NV certify", tpm.ReasonType, func(q *forgedQuote) { q.kind = 0x8014 }},
		{"other nonce", tpm.ReasonNonce, func(q *forgedQuote) { q.extra = []byte("Nonce") }},
		{"no nonce", tpm.ReasonNonce, func(q *forgedQuote) { q.extra = nil }},
		{"nonce where none is wanted", tpm.ReasonNonce, func(q *forgedQuote) { q.nonce = nil }},
		{"fewer PCRs", tpm.ReasonSelection, func(q *forgedQuote) { q.want = []int{0, 4} }},
		{"more PCRs", tpm.ReasonSelection, func(q *forgedQuote) { q.want = []int{0, 4, 10, 16} }},
		{"other PCRs", tpm.ReasonSelection, func(q *forgedQuote) { q.want = []int{0, 4, 17} }},
		{"no bank", tpm.ReasonSelection, func(q *forgedQuote) { q.selection = u32(0) }},
		{"two banks", tpm.ReasonSelection, func(q *forgedQuote) {
			q.selection = slices.Concat(u32(2), q.selection[4:], u16(0x04), []byte{3, 0b10001, 0, 0b1})
		}},
		{"PCR beyond the last", tpm.ReasonSelection, func(q *forgedQuote) {
			q.selection = slices.Concat(u32(1), u16(0x0b), []byte{4, 0b10001, 0, 0b1, 1})
		}},
		{"nothing wanted", tpm.ReasonSelection, func(q *forgedQuote) { q.want = nil }},
		{"nothing wanted and nothing signed", tpm.ReasonSelection, func(q *forgedQuote) {
			q.want, q.pcrs = nil, nil
			q.selection = slices.Concat(u32(1), u16(0x0b), []byte{3, 0, 0, 0})
			empty := sha256.Sum256(nil)
			q.digest = empty[:]
		}},
		{"SHA-1 bank signed", tpm.ReasonBank, func(q *forgedQuote) { q.selection[5] = 0x04 }},
		{"SHA-1 bank stated", tpm.ReasonBank, func(q *forgedQuote) { q.bank = 0x04 }},
		{"a value too many", tpm.ReasonPCROutside, func(q *forgedQuote) {
			q.pcrs = append(q.pcrs, tpm.PCR{Index: 17, Digest: make([]byte, 32)})
		}},
		{"a value of another PCR", tpm.ReasonPCROutside, func(q *forgedQuote) { q.pcrs[1].Index = 5 }},
		{"a value missing", tpm.ReasonPCRMissing, func(q *forgedQuote) { q.pcrs = q.pcrs[:2] }},
		{"no values", tpm.ReasonPCRMissing, func(q *forgedQuote) { q.pcrs = nil }},
		{"a value twice", tpm.ReasonMalformed, func(q *forgedQuote) { q.pcrs = append(q.pcrs, q.pcrs[2]) }},
		{"values in another order", tpm.ReasonMalformed, func(q *forgedQuote) { q.pcrs[0], q.pcrs[1] = q.pcrs[1], q.pcrs[0] }},
		{"a long value", tpm.ReasonMalformed, func(q *forgedQuote) { q.pcrs[0].Digest = make([]byte, 33) }},
		{"values of 48 and 16 bytes", tpm.ReasonMalformed, func(q *forgedQuote) {
			all := append(bytes.Clone(q.pcrs[0].Digest), q.pcrs[1].Digest...)
			q.pcrs[0].Digest, q.pcrs[1].Digest = all[:48], all[48:]
		}},
		{"changed value", tpm.ReasonPCRDigest, func(q *forgedQuote) { q.pcrs[2].Digest = make([]byte, 32) }},
		{"changed digest", tpm.ReasonPCRDigest, func(q *forgedQuote) { q.digest[31] ^= 1 }},
		{"no digest", tpm.ReasonPCRDigest, func(q *forgedQuote) { q.digest = nil }},

		{"RSA signature", tpm.ReasonScheme, func(q *forgedQuote) {
			q.signature = func([]byte) []byte { return slices.Concat(u16(0x14), u16(0x0b), sized(make([]byte, 256))) }
		}},
		{"signature with SHA-1", tpm.ReasonScheme, func(q *forgedQuote) {
			q.signature = func([]byte) []byte { return slices.Concat(u16(0x18), u16(0x04), sized([]byte{1}), sized([]byte{1})) }
		}},
		{"other key's signature", tpm.ReasonSignature, func(q *forgedQuote) {
			q.signature = func(b []byte) []byte { return signed(t, softKey(t, 2), b) }
		}},
		{"signature of other bytes", tpm.ReasonSignature, func(q *forgedQuote) {
			sign := q.signature
			q.signature = func(b []byte) []byte { return sign(append([]byte{0}, b...)) }
		}},
		{"signature of zeros", tpm.ReasonSignature, func(q *forgedQuote) {
			q.signature = func([]byte) []byte {
				return slices.Concat(u16(0x18), u16(0x0b), sized(make([]byte, 32)), sized(make([]byte, 32)))
			}
		}},
		{"signature without numbers", tpm.ReasonSignature, func(q *forgedQuote) {
			q.signature = func([]byte) []byte { return slices.Concat(u16(0x18), u16(0x0b), sized(nil), sized(nil)) }
		}},
		{"no signature", tpm.ReasonMalformed, func(q *forgedQuote) { q.signature = func([]byte) []byte { return nil } }},
		{"byte after the signature", tpm.ReasonTrailing, func(q *forgedQuote) {
			sign := q.signature
			q.signature = func(b []byte) []byte { return append(sign(b), 0) }
		}},

		{"AK not restricted", tpm.ReasonNotRestricted, attributes(t, 1<<16, false)},
		{"AK not fixed to the TPM", tpm.ReasonNotFixedTPM, attributes(t, 1<<1, false)},
		{"AK not fixed to its parent", tpm.ReasonNotFixedParent, attributes(t, 1<<4, false)},
		{"AK made elsewhere", tpm.ReasonNotSensitiveDataOrigin, attributes(t, 1<<5, false)},
		{"AK does not sign", tpm.ReasonNotSigning, attributes(t, 1<<18, false)},
		{"AK decrypts", tpm.ReasonNotSigning, attributes(t, 1<<17, true)},
		{"AK can be locked out", tpm.ReasonLockout, attributes(t, 1<<10, false)},
		{"AK of P-384", tpm.ReasonKeyType, func(q *forgedQuote) { q.ak[17] = 4 }},
		{"AK of another scheme", tpm.ReasonKeyType, func(q *forgedQuote) { q.ak[13] = 0x1a }},
		{"AK with SHA-1", tpm.ReasonKeyType, func(q *forgedQuote) { q.ak[15] = 0x04 }},
		{"AK with a SHA-1 Name", tpm.ReasonKeyType, func(q *forgedQuote) { q.ak[3] = 0x04 }},
		{"AK with key derivation", tpm.ReasonKeyType, func(q *forgedQuote) { q.ak[19] = 0x20 }},
		{"AK with a long coordinate", tpm.ReasonMalformed, func(q *forgedQuote) {
			q.ak = slices.Concat(q.ak[:20], sized(append([]byte{0}, q.ak[22:54]...)), q.ak[54:])
		}},
		{"AK of another type", tpm.ReasonKeyType, func(q *forgedQuote) { q.ak[1] = 0x08 }},
		{"AK not on the curve", tpm.ReasonMalformed, func(q *forgedQuote) { q.ak[len(q.ak)-1] ^= 1 }},
		{"AK of owner hierarchy", tpm.ReasonHierarchy, func(q *forgedQuote) { q.signer = qualified(0x40000001, q.ak) }},
		{"AK under a parent", tpm.ReasonHierarchy, func(q *forgedQuote) { q.signer = name([]byte("parent")) }},
		{"byte after the AK", tpm.ReasonTrailing, func(q *forgedQuote) { q.ak = append(q.ak, 0) }},
		{"AK is cut", tpm.ReasonMalformed, func(q *forgedQuote) { q.ak = q.ak[:len(q.ak)-1] }},
		{"no AK", tpm.ReasonMalformed, func(q *forgedQuote) { q.ak = nil }},
		{"huge AK", tpm.ReasonMalformed, func(q *forgedQuote) { q.ak = make([]byte, 1<<20) }},

		{"byte after the attestation", tpm.ReasonTrailing, func(q *forgedQuote) { q.tail = []byte{0} }},
		{"safe is no boolean", tpm.ReasonMalformed, func(q *forgedQuote) { q.safe = 2 }},
		{"number of banks", tpm.ReasonMalformed, func(q *forgedQuote) { q.selection = slices.Concat(u32(1<<32-1), q.selection[4:]) }},
		{"selection is cut", tpm.ReasonMalformed, func(q *forgedQuote) { q.selection = slices.Concat(u32(1), u16(0x0b), []byte{255}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := goodQuote(t)
			c.fault(q)
			err := q.verify()
			if c.reason == "" && err != nil || c.reason != "" && !errors.Is(err, c.reason) {
				t.Errorf("error %v, want %v", err, c.reason)
			}
		})
	}
}

// attributes changes those of the AK; the Name of the key goes with them.
func attributes(t testing.TB, bit uint32, set bool) func(q *forgedQuote) {
	return func(q *forgedQuote) {
		a := uint32(akAttributes)
		if set {
			a |= bit
		} else {
			a &^= bit
		}
		f := forge(t, q.kind, a)
		f.extra = q.extra
		q.forged = f
	}
}

func TestEveryCutAndBitFlipOfAQuoteIsRefused(t *testing.T) {
	q := goodQuote(t)
	if err := q.verify(); err != nil {
		t.Fatal(err)
	}
	att := q.sign()
	sound := tpm.Quote{Attestation: att, Bank: q.bank, PCRs: q.pcrs}
	refused := func(what string, quote tpm.Quote, ak []byte) {
		if _, err := tpm.VerifyQuote(quote, ak, q.nonce, q.want); err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	for i := range att.Attest {
		// Signed anew: the structure itself has to be refused.
		cut := sound
		cut.Attest = att.Attest[:i]
		cut.Signature = q.signature(cut.Attest)
		refused("cut attestation", cut, q.ak)
		flipped := sound
		flipped.Attest = bytes.Clone(att.Attest)
		flipped.Attest[i] ^= 1
		refused("changed attestation", flipped, q.ak)
	}
	for i := range att.Signature {
		cut := sound
		cut.Signature = att.Signature[:i]
		refused("cut signature", cut, q.ak)
		cut.Signature = bytes.Clone(att.Signature)
		cut.Signature[i] ^= 1
		refused("changed signature", cut, q.ak)
	}
	for i := range q.ak {
		refused("cut AK", sound, q.ak[:i])
		ak := bytes.Clone(q.ak)
		ak[i] ^= 1
		refused("changed AK", sound, ak)
	}
}

// What a real TPM makes and must not pass for our quote.
func TestVerifyQuoteRefusesOtherAttestationsOfATPM(t *testing.T) {
	addr := raw(tpmtest.Start(t))
	d := open(t, string(addr))
	id := provision(t, d)
	if _, err := tpm.VerifyQuote(tpm.Quote{Attestation: id.Certify, Bank: 0x0b}, id.AKPublic, nil, []int{0}); !errors.Is(err, tpm.ReasonType) {
		t.Errorf("certification passes for a quote: %v", err)
	}
	// The same template in the owner hierarchy, quoting the SHA-256 bank; and in
	// ours, quoting SHA-1.
	template, err := tpm2.Unmarshal[tpm2.TPMTPublic](id.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		hierarchy tpm2.TPMHandle
		bank      tpm2.TPMAlgID
		reason    tpm.Reason
	}{
		{tpm2.TPMRHOwner, tpm2.TPMAlgSHA256, tpm.ReasonHierarchy},
		{tpm2.TPMRHEndorsement, tpm2.TPMAlgSHA1, tpm.ReasonBank},
	} {
		key, err := tpm2.CreatePrimary{PrimaryHandle: c.hierarchy, InPublic: tpm2.New2B(*template)}.Execute(addr)
		if err != nil {
			t.Fatal(err)
		}
		rsp, err := tpm2.Quote{
			SignHandle: tpm2.AuthHandle{Handle: key.ObjectHandle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:  tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: c.bank, PCRSelect: []byte{1, 0, 0}}}},
		}.Execute(addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (tpm2.FlushContext{FlushHandle: key.ObjectHandle}).Execute(addr); err != nil {
			t.Fatal(err)
		}
		q := tpm.Quote{
			Attestation: tpm.Attestation{Attest: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature)},
			Bank:        0x0b, PCRs: []tpm.PCR{{Index: 0, Digest: make([]byte, 32)}},
		}
		if _, err := tpm.VerifyQuote(q, key.OutPublic.Bytes(), nil, []int{0}); !errors.Is(err, c.reason) {
			t.Errorf("%v in %v: %v, want %v", c.bank, c.hierarchy, err, c.reason)
		}
	}
}

// A certification in pieces.
type forgedCertify struct {
	*forged
	device    []byte // TPMT_PUBLIC
	name      []byte
	qualified []byte
}

func (c *forgedCertify) identity() tpm.Identity {
	c.body = append(sized(c.name), sized(c.qualified)...)
	return tpm.Identity{AKPublic: c.ak, DevicePublic: c.device, Certify: c.sign()}
}

func goodCertify(t testing.TB, attributes uint32) *forgedCertify {
	c := &forgedCertify{forged: forge(t, 0x8017, akAttributes), device: area(t, softKey(t, 2), attributes)}
	c.name, c.qualified = name(c.device), qualified(0x4000000b, c.device)
	return c
}

func TestVerifyCertifyRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason tpm.Reason
		device uint32 // attributes
		fault  func(c *forgedCertify)
	}{
		{"nothing", "", deviceAttributes, func(c *forgedCertify) {}},

		{"magic", tpm.ReasonMagic, deviceAttributes, func(c *forgedCertify) { c.magic++ }},
		{"a quote", tpm.ReasonType, deviceAttributes, func(c *forgedCertify) { c.kind = 0x8018 }},
		{"qualifying data", tpm.ReasonNonce, deviceAttributes, func(c *forgedCertify) { c.extra = []byte{0} }},
		{"other key", tpm.ReasonName, deviceAttributes, func(c *forgedCertify) { c.device = area(t, softKey(t, 3), deviceAttributes) }},
		{"same key, other attributes", tpm.ReasonName, deviceAttributes, func(c *forgedCertify) { c.device[7] ^= 1 << 2 }},
		{"no key", tpm.ReasonName, deviceAttributes, func(c *forgedCertify) { c.device = nil }},
		{"name of SHA-1", tpm.ReasonName, deviceAttributes, func(c *forgedCertify) { c.name[1] = 4 }},
		{"device key in the owner hierarchy", tpm.ReasonHierarchy, deviceAttributes, func(c *forgedCertify) { c.qualified = qualified(0x40000001, c.device) }},
		{"AK in the owner hierarchy", tpm.ReasonHierarchy, deviceAttributes, func(c *forgedCertify) { c.signer = qualified(0x40000001, c.ak) }},
		{"byte after it", tpm.ReasonTrailing, deviceAttributes, func(c *forgedCertify) { c.tail = []byte{1} }},
		{"signature", tpm.ReasonSignature, deviceAttributes, func(c *forgedCertify) {
			c.signature = func(b []byte) []byte { return signed(t, softKey(t, 2), b) }
		}},
		{"scheme", tpm.ReasonScheme, deviceAttributes, func(c *forgedCertify) { c.signature = func(b []byte) []byte { return u32(0x0014000b) } }},
		{"AK not restricted", tpm.ReasonNotRestricted, deviceAttributes, func(c *forgedCertify) {
			c.forged = forge(t, 0x8017, deviceAttributes)
		}},

		{"device key not fixed to the TPM", tpm.ReasonNotFixedTPM, deviceAttributes &^ (1 << 1), nil},
		{"device key not fixed to its parent", tpm.ReasonNotFixedParent, deviceAttributes &^ (1 << 4), nil},
		{"device key made elsewhere", tpm.ReasonNotSensitiveDataOrigin, deviceAttributes &^ (1 << 5), nil},
		{"device key can be locked out", tpm.ReasonLockout, deviceAttributes &^ (1 << 10), nil},
		{"device key does not sign", tpm.ReasonNotSigning, deviceAttributes &^ (1 << 18), nil},
		{"device key decrypts", tpm.ReasonNotSigning, deviceAttributes | 1<<17, nil},
		{"device key restricted", tpm.ReasonRestricted, akAttributes, nil},
		{"device key of P-384", tpm.ReasonKeyType, deviceAttributes, func(c *forgedCertify) {
			c.device[17] = 4
			c.name, c.qualified = name(c.device), qualified(0x4000000b, c.device)
		}},
		{"byte after the device key", tpm.ReasonTrailing, deviceAttributes, func(c *forgedCertify) {
			c.device = append(c.device, 0)
			c.name, c.qualified = name(c.device), qualified(0x4000000b, c.device)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := goodCertify(t, c.device)
			if c.fault != nil {
				c.fault(f)
			}
			key, err := tpm.VerifyCertify(f.identity())
			if c.reason == "" && (err != nil || !key.Equal(&softKey(t, 2).PublicKey)) || c.reason != "" && !errors.Is(err, c.reason) {
				t.Errorf("key %v, error %v, want %v", key, err, c.reason)
			}
		})
	}
}

func TestNameIsTheTPMs(t *testing.T) {
	addr := raw(tpmtest.Start(t))
	id := provision(t, open(t, string(addr)))
	for _, public := range [][]byte{id.EKPublic, id.AKPublic, id.DevicePublic} {
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
		if err != nil {
			t.Fatal(err)
		}
		want, err := tpm2.ObjectName(area)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tpm.Name(public); err != nil || !bytes.Equal(got, want.Buffer) {
			t.Errorf("name %x, want %x: %v", got, want.Buffer, err)
		}
	}
	if _, err := tpm.PublicKey(id.EKPublic); !errors.Is(err, tpm.ReasonKeyType) {
		t.Errorf("endorsement key as a signing key: %v", err)
	}
	sha1 := bytes.Clone(id.AKPublic)
	sha1[3] = 0x04
	if _, err := tpm.Name(sha1); !errors.Is(err, tpm.ReasonKeyType) {
		t.Errorf("name with SHA-1: %v", err)
	}
	if _, err := tpm.Name(nil); !errors.Is(err, tpm.ReasonMalformed) {
		t.Errorf("name of nothing: %v", err)
	}
}

// Some TPMs leave out leading zeros of coordinates.
func TestPublicKeyWithShortCoordinate(t *testing.T) {
	// Nearly each 128th key has one.
	for n := range 1 << 14 {
		scalar := make([]byte, 32)
		binary.BigEndian.PutUint32(scalar[28:], uint32(n+1))
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
		if err != nil {
			t.Fatal(err)
		}
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		x, y := bytes.TrimLeft(point[1:33], "\x00"), bytes.TrimLeft(point[33:], "\x00")
		if len(x) == 32 && len(y) == 32 {
			continue
		}
		full := area(t, key, akAttributes)
		short := slices.Concat(full[:20], sized(x), sized(y))
		got, err := tpm.PublicKey(short)
		if err != nil || !got.Equal(&key.PublicKey) {
			t.Errorf("key %v: %v", got, err)
		}
		return
	}
	t.Fatal("no key with a short coordinate")
}

// FuzzVerifyQuote lets the fuzzer choose what is signed, so that it gets beyond
// the signature, and what the keys and PCRs are.
func FuzzVerifyQuote(f *testing.F) {
	key := softKey(f, 1)
	ak := area(f, key, akAttributes)
	f.Fuzz(func(t *testing.T, attest, signature, public, values []byte) {
		pcrs := []tpm.PCR{}
		for i := 0; len(values) > 0 && i < 24; i++ {
			n := min(len(values), 33)
			pcrs = append(pcrs, tpm.PCR{Index: int(values[0]), Digest: values[1:n]})
			values = values[n:]
		}
		q := tpm.Quote{Attestation: tpm.Attestation{Attest: attest, Signature: signature}, Bank: 0x0b, PCRs: pcrs}
		if _, err := tpm.VerifyQuote(q, public, []byte("nonce"), []int{0, 4, 16}); err == nil {
			canonical(t, public, attest, signature)
		}
		q.Signature = signed(t, key, attest)
		if _, err := tpm.VerifyQuote(q, ak, []byte("nonce"), []int{0, 4, 16}); err == nil {
			canonical(t, ak, attest, q.Signature)
		}
	})
}

// canonical checks with another parser that accepted structures are what they
// seem: well-formed, without bytes left over, of a TPM.
func canonical(t *testing.T, public, attest, signature []byte) {
	t.Helper()
	p, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil || !bytes.Equal(tpm2.Marshal(p), public) {
		t.Fatalf("accepted the public area %x: %v", public, err)
	}
	a, err := tpm2.Unmarshal[tpm2.TPMSAttest](attest)
	if err != nil || !bytes.Equal(tpm2.Marshal(a), attest) || a.Magic != tpm2.TPMGeneratedValue {
		t.Fatalf("accepted the attestation %x: %v", attest, err)
	}
	s, err := tpm2.Unmarshal[tpm2.TPMTSignature](signature)
	if err != nil || !bytes.Equal(tpm2.Marshal(s), signature) {
		t.Fatalf("accepted the signature %x: %v", signature, err)
	}
}

func FuzzVerifyCertify(f *testing.F) {
	key := softKey(f, 1)
	ak := area(f, key, akAttributes)
	f.Fuzz(func(t *testing.T, attest, signature, public, device []byte) {
		id := tpm.Identity{AKPublic: public, DevicePublic: device, Certify: tpm.Attestation{Attest: attest, Signature: signature}}
		if _, err := tpm.VerifyCertify(id); err == nil {
			canonical(t, public, attest, signature)
			canonical(t, device, attest, signature)
		}
		id.AKPublic, id.Certify.Signature = ak, signed(t, key, attest)
		if _, err := tpm.VerifyCertify(id); err == nil {
			canonical(t, device, attest, id.Certify.Signature)
		}
	})
}

func BenchmarkVerifyQuote(b *testing.B) {
	q := goodQuote(b)
	if err := q.verify(); err != nil {
		b.Fatal(err)
	}
	quote := tpm.Quote{Attestation: q.sign(), Bank: q.bank, PCRs: q.pcrs}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tpm.VerifyQuote(quote, q.ak, q.nonce, q.want); err != nil {
			b.Fatal(err)
		}
	}
}
