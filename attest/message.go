package attest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
)

// cwtTag is the CWT tag 61 (RFC 8392 section 6), which precedes COSE_Sign1.
var cwtTag = []byte{0xd8, 0x3d}

// ErrTooLarge says that a report is beyond MaxReportSize: see Report.Shrink.
var ErrTooLarge = errors.New("report is too large")

// Seal returns r as a signed report. The error wraps ErrTooLarge before anything
// is signed.
func Seal(r *Report, key *cose.Signer) ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("cannot seal report: %w", err)
	}
	payload, err := cose.Encode(r)
	if err != nil {
		return nil, err
	}
	if len(payload) > MaxReportSize-overhead {
		return nil, fmt.Errorf("cannot seal report: %w: %d bytes, the limit is %d", ErrTooLarge, len(payload), MaxReportSize-overhead)
	}
	signed, err := key.Sign(cose.Report, payload)
	if err != nil {
		return nil, err
	}
	return append(bytes.Clone(cwtTag), signed...), nil
}

// overhead is more than what tags, headers and signature add to the payload.
const overhead = 256

// A Message carries one signed report, the quote that is bound to it, and what is
// new in the logs that the quote proves.
type Message struct {
	Report []byte `cbor:"1,keyasint"`           // CWT-tagged COSE_Sign1
	Quote  *Quote `cbor:"2,keyasint,omitempty"` //
	Parts  []Part `cbor:"3,keyasint,omitempty"` // what is new in the boot's logs, ascending by log
}

// A Quote is a TPM quote with the PCR values it covers.
type Quote struct {
	Attest    []byte `cbor:"1,keyasint"`           // TPMS_ATTEST (TPM 2.0 part 2, 10.12.12)
	Signature []byte `cbor:"2,keyasint"`           // TPMT_SIGNATURE (11.3.4)
	Bank      uint16 `cbor:"3,keyasint"`           // TPM_ALG_ID of the PCR bank
	PCRs      []PCR  `cbor:"4,keyasint,omitempty"` // ascending; missing where the verifier said that it has them
}

// A PCR is the value of one PCR.
type PCR struct {
	_      struct{} `cbor:",toarray"`
	Index  int
	Digest []byte
}

// QuoteOf returns q in its wire form.
func QuoteOf(q *tpm.Quote) *Quote {
	w := &Quote{Attest: q.Attest, Signature: q.Signature, Bank: q.Bank}
	for _, p := range q.PCRs {
		w.PCRs = append(w.PCRs, PCR{Index: p.Index, Digest: p.Digest})
	}
	return w
}

// tpm returns q as package tpm verifies it, with the given values.
func (q *Quote) tpm(pcrs []PCR) tpm.Quote {
	w := tpm.Quote{Attestation: tpm.Attestation{Attest: q.Attest, Signature: q.Signature}, Bank: q.Bank}
	for _, p := range pcrs {
		w.PCRs = append(w.PCRs, tpm.PCR{Index: p.Index, Digest: p.Digest})
	}
	return w
}

// PCRDigest returns the SHA-256 over PCR values, as a quote signs it.
func PCRDigest(pcrs []PCR) []byte {
	h := sha256.New()
	for _, p := range pcrs {
		h.Write(p.Digest)
	}
	return h.Sum(nil)
}

// ErrNoPCRs says that a quote came without the PCR values it covers, and that
// they are not those of an earlier one.
var ErrNoPCRs = errors.New("the quote is over PCR values that did not come with it")

// ExtraData is what a quote over a signed report must carry as qualifying data,
// so that quote and report cannot be mixed:
// SHA-256("miotfacts quote 1" || length of nonce in one byte || nonce || SHA-256(report)).
func ExtraData(nonce, report []byte) []byte { return extraData(nonce, sha256.Sum256(report)) }

func extraData(nonce []byte, digest [32]byte) []byte {
	h := sha256.New()
	h.Write([]byte("miotfacts quote 1"))
	h.Write([]byte{byte(len(nonce))})
	h.Write(nonce)
	h.Write(digest[:])
	return h.Sum(nil)
}

// An Unverified message was decoded; nothing it says has been checked.
type Unverified struct {
	message Message
	signed  *cose.Unverified
	report  Report
}

// Decode decodes a message and the report in it.
func Decode(data []byte) (*Unverified, error) {
	u := new(Unverified)
	if err := cose.Decode(data, MaxMessageSize, &u.message); err != nil {
		return nil, fmt.Errorf("cannot decode message: %w", err)
	}
	signed, ok := bytes.CutPrefix(u.message.Report, cwtTag)
	if !ok {
		return nil, errors.New("cannot decode message: the report has no CWT tag 61")
	}
	var err error
	if u.signed, err = cose.Parse(signed, MaxReportSize); err != nil {
		return nil, fmt.Errorf("cannot decode message: %w", err)
	}
	if err := cose.Decode(u.signed.UnverifiedPayload(), MaxReportSize, &u.report); err != nil {
		return nil, fmt.Errorf("cannot decode message: report: %w", err)
	}
	if err := u.report.check(); err != nil {
		return nil, fmt.Errorf("cannot decode message: report: %w", err)
	}
	if q := u.message.Quote; q != nil && len(q.PCRs) > 24 {
		return nil, fmt.Errorf("cannot decode message: quote with %d PCRs, the limit is 24", len(q.PCRs))
	}
	if err := checkParts(u.message.Parts); err != nil {
		return nil, fmt.Errorf("cannot decode message: %w", err)
	}
	return u, nil
}

// Unverified returns the report for display, or to find the device's key by
// what it says. No decision may depend on it.
func (u *Unverified) Unverified() *Report { return &u.report }

// KeyID returns the key the report claims to be signed with.
func (u *Unverified) KeyID() cose.KeyID { return u.signed.KeyID() }

// A Verified message has a report that the device's key signed. Only Verify
// makes one.
type Verified struct {
	report Report
	quote  *Quote
	parts  []Part
	digest [32]byte
}

// Verify checks the signature with key, the device's. The quote is not looked
// at: see VerifyQuote.
func (u *Unverified) Verify(key *cose.PublicKey) (*Verified, error) {
	if _, err := u.signed.Verify(cose.Report, key); err != nil {
		return nil, err
	}
	return &Verified{report: u.report, quote: u.message.Quote, parts: u.message.Parts, digest: sha256.Sum256(u.message.Report)}, nil
}

// Report returns the verified claims. The caller must not change them.
func (v *Verified) Report() *Report { return &v.report }

// Digest returns the SHA-256 of the signed report; the next report carries it.
func (v *Verified) Digest() [32]byte { return v.digest }

// HasQuote reports whether a quote came with the report.
func (v *Verified) HasQuote() bool { return v.quote != nil }

// UnverifiedParts returns what came of the boot's logs. No signature covers it:
// it counts as far as a quote proves it.
func (v *Verified) UnverifiedParts() []Part { return v.parts }

// HasPCRs reports whether the quote came with the PCR values it covers.
func (v *Verified) HasPCRs() bool { return v.quote != nil && v.quote.PCRs != nil }

// VerifyQuote checks that the quote is bound to this report and made by the
// attestation key over the PCRs of want. Known are values of an earlier quote of
// this boot, which may have come without its own: the error wraps ErrNoPCRs when
// all but the values is right.
func (v *Verified) VerifyQuote(ak []byte, want []int, known []PCR) (*tpm.VerifiedQuote, error) {
	if v.quote == nil {
		return nil, errors.New("cannot verify quote: the report came without one")
	}
	pcrs := v.quote.PCRs
	if pcrs == nil {
		pcrs = known
	}
	q, err := tpm.VerifyQuote(v.quote.tpm(pcrs), ak, extraData(v.report.Nonce, v.digest), want)
	var reason tpm.Reason
	if v.quote.PCRs == nil && errors.As(err, &reason) && (reason == tpm.ReasonPCRDigest || reason == tpm.ReasonPCRMissing || reason == tpm.ReasonPCROutside) {
		err = ErrNoPCRs
	}
	return q, err
}
