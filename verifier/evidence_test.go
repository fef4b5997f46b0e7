package verifier_test

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/store"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

const evidenceVectors = "../testdata/vectors/evidence"

// A setting is what a verifier of the vectors knows; context.json has it for
// other implementations. Its keys are outside any TPM, so that they can sign what
// no TPM would.
type setting struct {
	Now       int64                `json:"now"`       // Unix seconds
	UEID      string               `json:"ueid"`      //
	DeviceKey string               `json:"deviceKey"` // PEM
	EK        string               `json:"ek"`        // TPMT_PUBLIC, hexadecimal
	AK        string               `json:"ak"`        // TPMT_PUBLIC, hexadecimal
	Challenge string               `json:"challenge"` // nonce that is open
	PCRs      []int                `json:"pcrs"`      // that a quote must cover
	Root      string               `json:"root"`      // of the manufacturer, PEM; signs keys.cbor, which has the key of manifest.cbor
	signer    *cose.Signer         //
	ek        []byte               //
	ak        []byte               //
	akKey     *ecdsa.PrivateKey    //
	device    []byte               // TPMT_PUBLIC
	nonce     []byte               //
	ref       *reference.Reference //
	documents map[string][]byte    // manifest.cbor, keys.cbor
	result    *cose.Signer         //
}

func newSetting(t *testing.T) *setting {
	t.Helper()
	s := &setting{
		Now: referencetest.Now, nonce: []byte("challenge nonce!"), PCRs: []int{0, 4, 7},
		akKey: tpmtest.Key(t, 1), ek: tpmtest.EKArea(t, tpmtest.Key(t, 2)), device: tpmtest.SigningArea(t, tpmtest.Key(t, 3), tpmtest.DeviceAttributes),
		result: fixedKey(t, "vectors: result"),
	}
	s.ak = tpmtest.SigningArea(t, s.akKey, tpmtest.AKAttributes)
	var err error
	if s.signer, err = cose.NewSigner(tpmtest.Key(t, 3)); err != nil {
		t.Fatal(err)
	}
	root, key := fixedKey(t, "vectors: root"), fixedKey(t, "vectors: manifest")
	keys, err := reference.SignKeys(&reference.Keys{Version: 1, Owner: reference.Manufacturer, Sequence: 1, Keys: []reference.ListedKey{
		{Key: key.Public(), Role: reference.RoleManifest, Name: "manifest", NotBefore: 1, NotAfter: 4_000_000_000},
	}}, root)
	if err != nil {
		t.Fatal(err)
	}
	m := referencetest.Example()
	m.Boot = &reference.Boot{PCRs: s.PCRs}
	manifest, err := reference.SignManifest(&m, key)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := reference.NewTrust(reference.Root{Key: root.Public(), Owner: reference.Manufacturer})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.AddKeys(keys); err != nil {
		t.Fatal(err)
	}
	if s.ref, err = trust.OpenManifest(manifest, reference.Want{Vendor: m.Vendor, Model: m.Model}, reference.At(s.Now)); err != nil {
		t.Fatal(err)
	}
	s.documents = map[string][]byte{"manifest": manifest, "keys": keys}
	s.UEID, s.EK, s.AK, s.Challenge = attest.UEIDOfEK(s.ek).String(), hex.EncodeToString(s.ek), hex.EncodeToString(s.ak), hex.EncodeToString(s.nonce)
	for to, k := range map[*string]*cose.PublicKey{&s.DeviceKey: s.signer.Public(), &s.Root: root.Public()} {
		text, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		*to = string(text)
	}
	return s
}

// fleet returns a verifier that knows the device of the vectors, and has open its
// challenge.
func (s *setting) fleet(t *testing.T) *verifiertest.Fleet {
	t.Helper()
	db, err := store.Open(filepath.Join(t.TempDir(), "fleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	v, err := verifier.New(verifier.Config{References: []*reference.Reference{s.ref}, Result: s.result}, db)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Save(&verifier.Device{
		UEID: attest.UEIDOfEK(s.ek), Vendor: "Example Medical", Model: "pump-1", Key: s.signer.Public(), Protection: attest.ProtectionTPM,
		Identity: &attest.Identity{EK: s.ek, AK: s.ak, Device: s.device}, Enrolled: verifier.Approved, Chain: 1, ApprovedBy: "ward 3",
		AskedAt: s.Now, ProvedAt: s.Now, ApprovedAt: s.Now, Challenge: &verifier.Challenge{Nonce: s.nonce, At: s.Now},
	}); err != nil {
		t.Fatal(err)
	}
	return &verifiertest.Fleet{TB: t, Ref: s.ref, Store: db, Verifier: v, Now: s.Now}
}

// A bundle is a message in the making: each step can be spoiled.
type bundle struct {
	t      *testing.T
	s      *setting
	signer *cose.Signer
	report *attest.Report
	pcrs   []tpm.PCR
	quote  tpmtest.Attest
	akKey  *ecdsa.PrivateKey
	wire   *attest.Message
}

func (s *setting) bundle(t *testing.T, kind attest.Kind, sequence uint64, previous []byte) *bundle {
	t.Helper()
	d := (&verifiertest.Fleet{TB: t, Ref: s.ref}).NewDevice()
	d.UEID, d.Protection, d.Seed, d.Boots, d.Sequence, d.Digest = attest.UEIDOfEK(s.ek), attest.ProtectionTPM, [16]byte{1}, 1, sequence-1, previous
	r := d.Report(kind)
	if kind == attest.KindChallenge {
		r.Nonce = s.nonce
	}
	b := &bundle{t: t, s: s, signer: s.signer, report: r, akKey: s.akKey}
	for _, i := range s.PCRs {
		b.pcrs = append(b.pcrs, tpm.PCR{Index: i, Digest: bytes.Repeat([]byte{byte(i)}, 32)})
	}
	return b
}

// seal signs the report and makes the pieces of its quote.
func (b *bundle) seal() *bundle {
	b.t.Helper()
	signed, err := attest.Seal(b.report, b.signer)
	if err != nil {
		b.t.Fatal(err)
	}
	b.wire = &attest.Message{Report: signed}
	b.quote = tpmtest.QuoteOver(b.s.ak, attest.ExtraData(b.report.Nonce, signed), b.pcrs)
	return b
}

// sign signs the quote.
func (b *bundle) sign() *bundle {
	b.t.Helper()
	b.wire.Quote = attest.QuoteOf(&tpm.Quote{Attestation: b.quote.Sign(b.t, b.akKey), Bank: 0x0b, PCRs: b.pcrs})
	return b
}

func (b *bundle) bytes() []byte { return verifiertest.Encode(b.t, b.wire) }

// A vector is a message that must be refused, and why. The reason is the
// verifier's; text is part of its words, that of package tpm where it refuses.
type vector struct {
	name   string
	reason verifier.Reason
	text   string
	data   []byte
}

func (s *setting) vectors(t *testing.T, before []byte) []vector {
	t.Helper()
	first := [32]byte{}
	if u, err := attest.Decode(before); err != nil {
		t.Fatal(err)
	} else if v, err := u.Verify(s.signer.Public()); err != nil {
		t.Fatal(err)
	} else {
		first = v.Digest()
	}
	good := func() *bundle { return s.bundle(t, attest.KindChallenge, 2, first[:]) }
	var all []vector
	add := func(name string, reason verifier.Reason, text string, data []byte) {
		all = append(all, vector{name, reason, text, data})
	}
	// What the TPM signed.
	for _, c := range []struct {
		name  string
		text  tpm.Reason
		spoil func(b *bundle)
	}{
		{"magic", tpm.ReasonMagic, func(b *bundle) { b.quote.Magic = 0xff544348 }},
		{"magic-zero", tpm.ReasonMagic, func(b *bundle) { b.quote.Magic = 0 }},
		{"type-certify", tpm.ReasonType, func(b *bundle) { b.quote.Kind = 0x8017 }},
		{"type-nv-certify", tpm.ReasonType, func(b *bundle) { b.quote.Kind = 0x8014 }},
		{"type-time", tpm.ReasonType, func(b *bundle) { b.quote.Kind = 0x8019 }},
		{"extra-none", tpm.ReasonNonce, func(b *bundle) { b.quote.Extra = nil }},
		{"extra-of-another-nonce", tpm.ReasonNonce, func(b *bundle) { b.quote.Extra = attest.ExtraData([]byte("another nonce..."), b.wire.Report) }},
		{"extra-of-another-report", tpm.ReasonNonce, func(b *bundle) { b.quote.Extra = attest.ExtraData(s.nonce, []byte("another report")) }},
		{"extra-is-the-nonce", tpm.ReasonNonce, func(b *bundle) { b.quote.Extra = s.nonce }},
		{"extra-longer", tpm.ReasonNonce, func(b *bundle) { b.quote.Extra = append(b.quote.Extra, 0) }},
		{"selection-fewer", tpm.ReasonSelection, func(b *bundle) { b.quote.Body = tpmtest.QuoteOver(s.ak, nil, b.pcrs[:2]).Body }},
		{"selection-more", tpm.ReasonSelection, func(b *bundle) {
			b.quote.Body = tpmtest.QuoteOver(s.ak, nil, append(slices.Clone(b.pcrs), tpm.PCR{Index: 8, Digest: make([]byte, 32)})).Body
		}},
		{"selection-empty", tpm.ReasonSelection, func(b *bundle) { b.quote.Body = tpmtest.QuoteOver(s.ak, nil, nil).Body }},
		{"selection-none", tpm.ReasonSelection, func(b *bundle) { b.quote.Body = tpmtest.Quoted(make([]byte, 32)) }},
		{"selection-two-banks", tpm.ReasonSelection, func(b *bundle) {
			b.quote.Body = tpmtest.Quoted(make([]byte, 32), tpmtest.Bank(0x0b, 0x91, 0, 0), tpmtest.Bank(0x04, 0x91, 0, 0))
		}},
		{"bank-sha1", tpm.ReasonBank, func(b *bundle) { b.quote.Body = tpmtest.Quoted(make([]byte, 32), tpmtest.Bank(0x04, 0x91, 0, 0)) }},
		{"bank-sha384", tpm.ReasonBank, func(b *bundle) { b.quote.Body = tpmtest.Quoted(make([]byte, 32), tpmtest.Bank(0x0c, 0x91, 0, 0)) }},
		{"banks-too-many", tpm.ReasonMalformed, func(b *bundle) {
			b.quote.Body = tpmtest.Quoted(make([]byte, 32), slices.Repeat([][]byte{tpmtest.Bank(0x0b, 0x91, 0, 0)}, 17)...)
		}},
		{"digest-of-other-values", tpm.ReasonPCRDigest, func(b *bundle) {
			b.quote.Body = tpmtest.Quoted(bytes.Repeat([]byte{9}, 32), tpmtest.Bank(0x0b, 0x91, 0, 0))
		}},
		{"digest-none", tpm.ReasonPCRDigest, func(b *bundle) { b.quote.Body = tpmtest.Quoted(nil, tpmtest.Bank(0x0b, 0x91, 0, 0)) }},
		{"attest-cut", tpm.ReasonMalformed, func(b *bundle) { b.quote.Body = b.quote.Body[:len(b.quote.Body)-1] }},
		{"attest-goes-on", tpm.ReasonTrailing, func(b *bundle) { b.quote.Body = append(b.quote.Body, 0) }},
		{"safe-two", tpm.ReasonMalformed, func(b *bundle) { b.quote.Safe = 2 }},
		{"hierarchy-owner", tpm.ReasonHierarchy, func(b *bundle) { b.quote.Hierarchy = 0x40000001 }},
		{"hierarchy-platform", tpm.ReasonHierarchy, func(b *bundle) { b.quote.Hierarchy = 0x4000000c }},
		{"signer-is-the-device-key", tpm.ReasonHierarchy, func(b *bundle) { b.quote.AK = s.device }},
		{"signed-by-another-key", tpm.ReasonSignature, func(b *bundle) { b.akKey = tpmtest.Key(t, 4) }},
		{"signed-by-the-device-key", tpm.ReasonSignature, func(b *bundle) { b.akKey = tpmtest.Key(t, 3) }},
	} {
		b := good().seal()
		c.spoil(b)
		add("quote-"+c.name, verifier.ReasonQuote, string(c.text), b.sign().bytes())
	}
	// What came beside it.
	for _, c := range []struct {
		name  string
		text  tpm.Reason
		spoil func(q *attest.Quote)
	}{
		{"bank-stated-sha1", tpm.ReasonBank, func(q *attest.Quote) { q.Bank = 0x04 }},
		{"pcr-outside", tpm.ReasonPCROutside, func(q *attest.Quote) {
			q.PCRs = append(q.PCRs, attest.PCR{Index: 10, Digest: make([]byte, 32)})
		}},
		{"pcr-beyond-the-last", tpm.ReasonPCROutside, func(q *attest.Quote) {
			q.PCRs = append(q.PCRs, attest.PCR{Index: 24, Digest: make([]byte, 32)})
		}},
		{"pcr-missing", tpm.ReasonPCRMissing, func(q *attest.Quote) { q.PCRs = q.PCRs[1:] }},
		{"pcrs-none", tpm.Reason(attest.ErrNoPCRs.Error()), func(q *attest.Quote) { q.PCRs = nil }},
		{"pcr-twice", tpm.ReasonMalformed, func(q *attest.Quote) { q.PCRs = append(q.PCRs, q.PCRs[2]) }},
		{"pcrs-out-of-order", tpm.ReasonMalformed, func(q *attest.Quote) { q.PCRs[0], q.PCRs[1] = q.PCRs[1], q.PCRs[0] }},
		{"pcr-changed", tpm.ReasonPCRDigest, func(q *attest.Quote) { q.PCRs[1].Digest = bytes.Repeat([]byte{5}, 32) }},
		{"pcr-short", tpm.ReasonMalformed, func(q *attest.Quote) { q.PCRs[1].Digest = q.PCRs[1].Digest[:20] }},
		{"pcrs-joined", tpm.ReasonMalformed, func(q *attest.Quote) {
			q.PCRs[0].Digest = append(q.PCRs[0].Digest, q.PCRs[1].Digest...)
			q.PCRs[1].Digest = nil
		}},
		{"signature-changed", tpm.ReasonSignature, func(q *attest.Quote) { q.Signature[10] ^= 1 }},
		{"signature-r-zero", tpm.ReasonSignature, func(q *attest.Quote) { clear(q.Signature[6:38]) }},
		{"signature-s-zero", tpm.ReasonSignature, func(q *attest.Quote) { clear(q.Signature[40:]) }},
		{"signature-s-not-reduced", tpm.ReasonSignature, func(q *attest.Quote) {
			copy(q.Signature[40:], bytes.Repeat([]byte{0xff}, 32))
		}},
		{"signature-rsa", tpm.ReasonScheme, func(q *attest.Quote) { q.Signature[1] = 0x14 }},
		{"signature-sha1", tpm.ReasonScheme, func(q *attest.Quote) { q.Signature[3] = 0x04 }},
		{"signature-hmac", tpm.ReasonScheme, func(q *attest.Quote) { q.Signature[1] = 0x05 }},
		{"signature-cut", tpm.ReasonMalformed, func(q *attest.Quote) { q.Signature = q.Signature[:len(q.Signature)-1] }},
		{"signature-goes-on", tpm.ReasonTrailing, func(q *attest.Quote) { q.Signature = append(q.Signature, 0) }},
		{"signature-none", tpm.ReasonMalformed, func(q *attest.Quote) { q.Signature = []byte{} }},
		{"attest-none", tpm.ReasonSignature, func(q *attest.Quote) { q.Attest = []byte{} }},
		{"attest-changed", tpm.ReasonSignature, func(q *attest.Quote) { q.Attest[len(q.Attest)-1] ^= 1 }},
	} {
		b := good().seal().sign()
		c.spoil(b.wire.Quote)
		add("quote-"+c.name, verifier.ReasonQuote, string(c.text), b.bytes())
	}
	many := good().seal().sign()
	for i := range 25 {
		many.wire.Quote.PCRs = append(many.wire.Quote.PCRs, attest.PCR{Index: i, Digest: make([]byte, 32)})
	}
	add("quote-pcrs-too-many", verifier.ReasonDecode, "the limit is 24", many.bytes())

	// The report.
	for _, c := range []struct {
		name   string
		reason verifier.Reason
		text   string
		spoil  func(b *bundle)
	}{
		{"signed-by-a-stranger", verifier.ReasonKey, "", func(b *bundle) { b.signer = fixedKey(t, "vectors: stranger") }},
		{"key-file-claimed", verifier.ReasonProtection, "", func(b *bundle) { b.report.Body.Protection = attest.ProtectionFile }},
		{"challenge-not-open", verifier.ReasonNonce, "another challenge", func(b *bundle) { b.report.Nonce = []byte("another nonce...") }},
		{"fork-at-its-place", verifier.ReasonFork, "", func(b *bundle) { b.report.Body.Sequence, b.report.Body.Previous = 1, nil }},
		{"fork-of-its-predecessor", verifier.ReasonFork, "follows", func(b *bundle) { b.report.Body.Previous = bytes.Repeat([]byte{7}, 32) }},
		{"sequence-too-high", verifier.ReasonDecode, "is above", func(b *bundle) { b.report.Body.Sequence = 1 << 60 }},
		{"unknown-device", verifier.ReasonUnknown, "", func(b *bundle) { b.report.UEID = append([]byte{1}, make([]byte, 16)...) }},
		{"unknown-manifest", verifier.ReasonManifest, "", func(b *bundle) { b.report.Body.Manifest.Digest = make([]byte, 32) }},
		{"other-manifest-sequence", verifier.ReasonManifest, "its digest is that of", func(b *bundle) { b.report.Body.Manifest.Sequence++ }},
		{"result-left-out", verifier.ReasonMeasRes, "", func(b *bundle) { b.report.MeasRes[1].Results = b.report.MeasRes[1].Results[:1] }},
	} {
		b := good()
		c.spoil(b)
		add("report-"+c.name, c.reason, c.text, b.seal().sign().bytes())
	}
	bare := good().seal()
	add("report-answer-without-a-quote", verifier.ReasonNoQuote, "", bare.bytes())
	add("report-received-before", verifier.ReasonReplay, "", before)
	sound := good().seal().sign()
	signature := bytes.Clone(sound.bytes())
	at := bytes.Index(signature, sound.wire.Report) + len(sound.wire.Report)
	signature[at-40] ^= 1
	add("report-signature-changed", verifier.ReasonSignature, "", signature)
	add("report-goes-on", verifier.ReasonDecode, "", append(sound.bytes(), 0))
	add("report-cut", verifier.ReasonDecode, "", sound.bytes()[:100])
	add("report-empty", verifier.ReasonDecode, "", []byte{})
	endless := append([]byte{0xbf}, sound.bytes()[1:]...)
	add("report-indefinite-length", verifier.ReasonDecode, "", append(endless, 0xff))
	pair, err := cose.Encode(map[int][]byte{1: sound.wire.Report})
	if err != nil {
		t.Fatal(err)
	}
	add("report-key-twice", verifier.ReasonDecode, "", slices.Concat([]byte{0xa2}, pair[1:], pair[1:]))
	add("report-without-its-tag", verifier.ReasonDecode, "no CWT tag 61", verifiertest.Encode(t, attest.Message{Report: sound.wire.Report[2:], Quote: sound.wire.Quote}))
	payload, err := cose.Encode(good().report)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.signer.Sign(cose.Enrol, payload)
	if err != nil {
		t.Fatal(err)
	}
	add("report-signed-as-an-enrolment", verifier.ReasonDecode, "", verifiertest.Encode(t, attest.Message{Report: append([]byte{0xd8, 0x3d}, other...)}))

	// Enrolment.
	type identity struct {
		certify tpmtest.Attest
		key     *ecdsa.PrivateKey
		ak      uint32 // attributes
		device  uint32
	}
	for _, c := range []struct {
		name   string
		reason verifier.Reason
		text   tpm.Reason
		before func(i *identity)
		after  func(i *identity)
	}{
		{"ak-not-restricted", verifier.ReasonCertify, tpm.ReasonNotRestricted, func(i *identity) { i.ak &^= 1 << 16 }, nil},
		{"ak-not-fixed-to-tpm", verifier.ReasonCertify, tpm.ReasonNotFixedTPM, func(i *identity) { i.ak &^= 1 << 1 }, nil},
		{"ak-not-fixed-to-parent", verifier.ReasonCertify, tpm.ReasonNotFixedParent, func(i *identity) { i.ak &^= 1 << 4 }, nil},
		{"ak-from-outside", verifier.ReasonCertify, tpm.ReasonNotSensitiveDataOrigin, func(i *identity) { i.ak &^= 1 << 5 }, nil},
		{"ak-decrypts", verifier.ReasonCertify, tpm.ReasonNotSigning, func(i *identity) { i.ak |= 1 << 17 }, nil},
		{"ak-can-be-locked-out", verifier.ReasonCertify, tpm.ReasonLockout, func(i *identity) { i.ak &^= 1 << 10 }, nil},
		{"device-key-restricted", verifier.ReasonCertify, tpm.ReasonRestricted, func(i *identity) { i.device |= 1 << 16 }, nil},
		{"device-key-not-fixed-to-tpm", verifier.ReasonCertify, tpm.ReasonNotFixedTPM, func(i *identity) { i.device &^= 1 << 1 }, nil},
		{"device-key-can-be-locked-out", verifier.ReasonCertify, tpm.ReasonLockout, func(i *identity) { i.device &^= 1 << 10 }, nil},
		{"certify-is-a-quote", verifier.ReasonCertify, tpm.ReasonType, nil, func(i *identity) { i.certify.Kind = 0x8018 }},
		{"certify-magic", verifier.ReasonCertify, tpm.ReasonMagic, nil, func(i *identity) { i.certify.Magic++ }},
		{"certify-by-owner-hierarchy", verifier.ReasonCertify, tpm.ReasonHierarchy, nil, func(i *identity) { i.certify.Hierarchy = 0x40000001 }},
		{"certify-of-another-key", verifier.ReasonCertify, tpm.ReasonName, nil, func(i *identity) { i.certify.Body = tpmtest.CertifyOf(s.ak, s.ak).Body }},
		{"certify-with-extra-data", verifier.ReasonCertify, tpm.ReasonNonce, nil, func(i *identity) { i.certify.Extra = []byte("x") }},
		{"certify-by-another-key", verifier.ReasonCertify, tpm.ReasonSignature, nil, func(i *identity) { i.key = tpmtest.Key(t, 4) }},
		{"certify-by-the-device-key", verifier.ReasonCertify, tpm.ReasonSignature, nil, func(i *identity) { i.key = tpmtest.Key(t, 3) }},
	} {
		i := &identity{key: s.akKey, ak: tpmtest.AKAttributes, device: tpmtest.DeviceAttributes}
		if c.before != nil {
			c.before(i)
		}
		ak, device := tpmtest.SigningArea(t, s.akKey, i.ak), tpmtest.SigningArea(t, tpmtest.Key(t, 3), i.device)
		i.certify = tpmtest.CertifyOf(ak, device)
		if c.after != nil {
			c.after(i)
		}
		certify := i.certify.Sign(t, i.key)
		add("enrol-"+c.name, c.reason, string(c.text), s.enrol(t, func(e *attest.Enrolment) {
			e.TPM.AK, e.TPM.Device, e.TPM.Attest, e.TPM.Signature = ak, device, certify.Attest, certify.Signature
		}))
	}
	add("enrol-under-another-name", verifier.ReasonIdentity, "", s.enrol(t, func(e *attest.Enrolment) { e.UEID = append([]byte{1}, make([]byte, 16)...) }))
	add("enrol-goes-on", verifier.ReasonDecode, "", append(s.enrol(t, func(*attest.Enrolment) {}), 0))
	return all
}

func (s *setting) enrol(t *testing.T, spoil func(*attest.Enrolment)) []byte {
	t.Helper()
	id := attest.UEIDOfEK(s.ek)
	certify := tpmtest.CertifyOf(s.ak, s.device).Sign(t, s.akKey)
	e := &attest.Enrolment{
		Version: 1, UEID: id[:], Vendor: "Example Medical", Model: "pump-1", Key: s.signer.Public(), Protection: attest.ProtectionTPM,
		TPM: &attest.Identity{EK: s.ek, AK: s.ak, Device: s.device, Attest: certify.Attest, Signature: certify.Signature},
	}
	spoil(e)
	data, err := attest.SealEnrolment(e, s.signer)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// delivery returns a vector as a broker hands it over: under the name in it.
func (s *setting) delivery(v string, data []byte) verifier.Delivery {
	m := verifier.Delivery{Device: s.UEID, Kind: "evidence", Payload: data}
	if strings.HasPrefix(v, "refused-enrol-") {
		m.Kind = "enrol"
		if v == "refused-enrol-under-another-name" {
			m.Device = attest.UEID(append([]byte{1}, make([]byte, 16)...)).String()
		}
	}
	return m
}

// TestEvidenceVectors: each refused-*.cbor is refused for exactly the reason in the
// first line of its notation, by a verifier that has accepted before.cbor; it would
// have accepted sound.cbor.
func TestEvidenceVectors(t *testing.T) {
	s := newSetting(t)
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(evidenceVectors, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if *update {
		s.write(t)
	}
	var known setting
	if err := json.Unmarshal(read("context.json"), &known); err != nil {
		t.Fatal(err)
	}
	if known.AK != s.AK || known.UEID != s.UEID || known.Challenge != s.Challenge {
		t.Fatal("context.json is of other keys")
	}
	names := map[string]bool{}
	for _, v := range s.vectors(t, read("before.cbor")) {
		names["refused-"+v.name] = true
	}
	files, err := filepath.Glob(filepath.Join(evidenceVectors, "refused-*.cbor"))
	if err != nil || len(files) != len(names) || len(files) < 40 {
		t.Fatalf("%d vectors, want %d and at least 40: %v", len(files), len(names), err)
	}
	f := s.fleet(t)
	if reply := f.Take(s.delivery("before", read("before.cbor"))); reply.Refused != nil {
		t.Fatalf("before.cbor: %+v", reply.Refused)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".cbor")
		t.Run(name, func(t *testing.T) {
			if !names[name] {
				t.Error("nobody makes this vector")
			}
			line, _, _ := strings.Cut(string(read(name+".diag")), "\n")
			want, ok := strings.CutPrefix(line, "/ refused: ")
			want, ok2 := strings.CutSuffix(want, " /")
			if !ok || !ok2 {
				t.Fatalf("no reason in %q", line)
			}
			reason, text, _ := strings.Cut(want, ": ")
			reply := f.Take(s.delivery(name, read(name+".cbor")))
			if reply.Refused == nil || string(reply.Refused.Reason) != reason || !strings.Contains(reply.Refused.Text, text) {
				t.Errorf("refused %+v, want %q", reply.Refused, want)
			}
		})
	}
	if reply := f.Take(s.delivery("sound", read("sound.cbor"))); reply.Refused != nil {
		t.Errorf("sound.cbor: %+v", reply.Refused)
	}
}

// write makes the vectors anew.
func (s *setting) write(t *testing.T) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(evidenceVectors), os.MkdirAll(evidenceVectors, 0o755)); err != nil {
		t.Fatal(err)
	}
	file := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(evidenceVectors, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	context, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	file("context.json", append(context, '\n'))
	put := func(name, line string, data []byte) {
		t.Helper()
		file(name+".cbor", data)
		file(name+".diag", []byte(line+bundleNotation(data)))
	}
	for name, data := range s.documents {
		put(name, "", data)
	}
	before := s.bundle(t, attest.KindBoot, 1, nil).seal().sign().bytes()
	put("before", "", before)
	u, err := attest.Decode(before)
	if err != nil {
		t.Fatal(err)
	}
	v, err := u.Verify(s.signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	digest := v.Digest()
	put("sound", "", s.bundle(t, attest.KindChallenge, 2, digest[:]).seal().sign().bytes())
	for _, v := range s.vectors(t, before) {
		line := string(v.reason)
		if v.text != "" {
			line += ": " + v.text
		}
		put("refused-"+v.name, "/ refused: "+line+" /\n", v.data)
	}
}

// bundleNotation is the diagnostic notation of a message: of what decodes, and of the
// rest its bytes.
func bundleNotation(data []byte) string {
	text, err := cbor.Diagnose(data)
	if err != nil {
		return fmt.Sprintf("/ %v /\nh'%x'\n", err, data)
	}
	out := text + "\n"
	var m struct {
		Report []byte `cbor:"1,keyasint"`
	}
	if cbor.Unmarshal(data, &m) != nil || len(m.Report) < 2 {
		return out
	}
	if u, err := cose.Parse(bytes.TrimPrefix(m.Report, []byte{0xd8, 0x3d}), attest.MaxReportSize); err == nil {
		if claims, err := cbor.Diagnose(u.UnverifiedPayload()); err == nil {
			out += "/ the claims in the report /\n" + claims + "\n"
		}
	}
	return out
}

// harmless are bytes of a bundle that no decision depends on, by offset, with the
// reason. There are none: everything is signed, or compared with what is.
var harmless = map[int]string{}

// Every byte of a good bundle flipped once, each bit of it too, and each length cut
// once: refused.
func TestEveryByteOfABundle(t *testing.T) {
	s := newSetting(t)
	f := s.fleet(t)
	known, err := f.Store.Device(attest.UEIDOfEK(s.ek))
	if err != nil {
		t.Fatal(err)
	}
	v, err := verifier.New(verifier.Config{References: []*reference.Reference{s.ref}, Result: s.result}, silent{&amnesic{f.Store, verifiertest.Encode(t, known)}})
	if err != nil {
		t.Fatal(err)
	}
	good := s.bundle(t, attest.KindChallenge, 2, make([]byte, 32)).seal().sign().bytes()
	refused := func(data []byte) bool {
		t.Helper()
		reply, err := v.Handle(s.Now, s.delivery("", data))
		if err != nil {
			t.Fatal(err)
		}
		return reply.Refused != nil
	}
	if refused(good) {
		t.Fatal("the good bundle is refused")
	}
	for at := range good {
		for _, flip := range []byte{0xff, 1, 2, 4, 8, 16, 32, 64, 128} {
			b := bytes.Clone(good)
			b[at] ^= flip
			if _, listed := harmless[at]; refused(b) == listed {
				t.Errorf("byte %d ^ %#02x: refused %v, listed as harmless %v", at, flip, !listed, listed)
			}
		}
	}
	for n := range good {
		if !refused(good[:n]) {
			t.Errorf("cut to %d of %d bytes: accepted", n, len(good))
		}
	}
	t.Logf("a bundle of %d bytes: %d flips and %d cuts refused", len(good), 9*len(good), len(good))
}

// silent does not write refusals.
type silent struct{ *amnesic }

func (silent) Refuse(*verifier.Refused) error { return nil }
