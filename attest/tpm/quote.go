package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// A Quote is a TPM2_Quote (part 3, 18.4) and the PCR values that it covers.
type Quote struct {
	Attestation
	Bank uint16 // TPM_ALG_ID (part 2, 6.3) of the PCR bank: SHA-256, 0x000b
	PCRs []PCR  // ascending
}

// A PCR is the value of one PCR.
type PCR struct {
	Index  int    // 0 to 23
	Digest []byte // 32 bytes
}

// maxQuotes bounds how often a quote is taken anew because a PCR moved.
const maxQuotes = 8

// Quote lets the attestation key sign the PCRs and extra, at most 32 bytes. It is
// one command to the TPM unless a PCR has another value than last time.
func (t *TPM) Quote(extra []byte, pcrs []int) (*Quote, error) {
	if err := t.lock(); err != nil {
		return nil, fmt.Errorf("cannot quote: %w", err)
	}
	defer t.mu.Unlock()
	q, err := t.quote(extra, pcrs)
	if err != nil {
		return nil, fmt.Errorf("cannot quote: %w", err)
	}
	return q, nil
}

func (t *TPM) quote(extra []byte, pcrs []int) (*Quote, error) {
	pcrs, err := selection(pcrs)
	if err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		var q *Quote
		err := t.use(func() error {
			var err error
			q, err = t.quoteOnce(extra, pcrs)
			return err
		}, &t.ak)
		// IMA moves PCR 10 at any time: between the quote and the reading too.
		if errors.Is(err, ReasonPCRDigest) && n < maxQuotes {
			continue
		}
		if errors.Is(err, ReasonPCRDigest) {
			return nil, fmt.Errorf("a PCR moved during each of %d attempts: %w", n, err)
		}
		return q, err
	}
}

func (t *TPM) quoteOnce(extra []byte, pcrs []int) (*Quote, error) {
	q := &Quote{Bank: algSHA256}
	var err error
	if q.Attestation, err = t.sendQuote(extra, pcrs); err != nil {
		return nil, err
	}
	signed, err := t.quoted(q.Attest, extra, pcrs)
	if err != nil {
		return nil, err
	}
	// The PCRs of the boot stand still: as long as their digest is that of the
	// values known from before, nobody has to ask the TPM for them.
	if q.PCRs = known(t.pcrs, pcrs); !bytes.Equal(digestOf(q.PCRs), signed) {
		if q.PCRs, err = t.readPCRs(pcrs); err != nil {
			return nil, err
		}
		if !bytes.Equal(digestOf(q.PCRs), signed) {
			return nil, ReasonPCRDigest
		}
		t.pcrs = known(q.PCRs, pcrs)
	}
	return q, nil
}

// sendQuote is TPM2_Quote (part 3, 18.4) byte by byte: it is sent again and again,
// and the general way takes a fifth of the time that a fast TPM needs for it.
func (t *TPM) sendQuote(extra []byte, pcrs []int) (Attestation, error) {
	mask := pcrMask(pcrs)
	c := binary.BigEndian.AppendUint16(make([]byte, 0, 128), 0x8002) // TPM_ST_SESSIONS
	c = binary.BigEndian.AppendUint32(c, uint32(10+4+4+9+2+len(extra)+2+4+3+len(mask)))
	c = binary.BigEndian.AppendUint32(c, uint32(tpm2.TPMCCQuote))
	c = binary.BigEndian.AppendUint32(c, uint32(t.ak.handle))
	c = binary.BigEndian.AppendUint32(c, 9) // bytes of authorization: an empty password
	c = binary.BigEndian.AppendUint32(c, uint32(tpm2.TPMRSPW))
	c = append(c, 0, 0, 0, 0, 0)
	c = append(binary.BigEndian.AppendUint16(c, uint16(len(extra))), extra...)
	c = binary.BigEndian.AppendUint16(c, algNull) // the key's own scheme
	c = binary.BigEndian.AppendUint32(c, 1)
	c = binary.BigEndian.AppendUint16(c, algSHA256)
	c = append(append(c, byte(len(mask))), mask...)
	response, err := t.link.Send(c)
	if err != nil {
		return Attestation{}, err
	}
	r, err := open(response, "response")
	if err != nil {
		return Attestation{}, err
	}
	r.take(6) // tag and size: the link has looked at them
	if rc := tpm2.TPMRC(r.u32()); rc != tpm2.TPMRCSuccess {
		return Attestation{}, rc
	}
	p := &reader{rest: r.take(int(r.u32()))}
	a := Attestation{Attest: p.sized()}
	if r.cut || p.cut {
		return Attestation{}, fmt.Errorf("%w: response of %d bytes is cut", ReasonMalformed, len(response))
	}
	a.Signature = p.rest
	return a, nil
}

// quoted returns the digest of the PCR values that a quote is over. Its signature
// is for the verifier to check; here the name of the signer tells whether the
// handle still was the attestation key's.
func (t *TPM) quoted(b, extra []byte, pcrs []int) ([]byte, error) {
	a, r, err := parseAttest(b, attestQuote)
	if err != nil {
		return nil, err
	}
	info, err := parseQuoted(r)
	if err != nil {
		return nil, err
	}
	switch {
	case !bytes.Equal(a.signer, qualifiedName(t.ak.name.Buffer)):
		return nil, errOtherKey
	case !bytes.Equal(a.extra, extra):
		return nil, ReasonNonce
	case len(info.selections) != 1 || info.selections[0].bank != algSHA256 || !slices.Equal(info.selections[0].pcrs, pcrs):
		return nil, fmt.Errorf("%w: is the SHA-256 bank active?", ReasonSelection)
	}
	return info.digest, nil
}

// known returns the values of pcrs, or nil when they are not all among values.
func known(values []PCR, pcrs []int) []PCR {
	var found []PCR
	for _, v := range values {
		if slices.Contains(pcrs, v.Index) {
			found = append(found, PCR{Index: v.Index, Digest: bytes.Clone(v.Digest)})
		}
	}
	if len(found) != len(pcrs) {
		return nil
	}
	return found
}

// digestOf returns the SHA-256 over the values, as a quote of them signs it.
func digestOf(values []PCR) []byte {
	h := sha256.New()
	for _, v := range values {
		h.Write(v.Digest)
	}
	return h.Sum(nil)
}

// PCRDigest returns the SHA-256 over the values of the PCRs, ascending, in the
// SHA-256 bank: what a quote of them would sign. It proves nothing.
func (t *TPM) PCRDigest(pcrs []int) ([]byte, error) {
	if err := t.lock(); err != nil {
		return nil, fmt.Errorf("cannot read PCRs: %w", err)
	}
	defer t.mu.Unlock()
	pcrs, err := selection(pcrs)
	if err != nil {
		return nil, fmt.Errorf("cannot read PCRs: %w", err)
	}
	values, err := t.readPCRs(pcrs)
	if err != nil {
		return nil, err
	}
	return digestOf(values), nil
}

// readPCRs reads PCRs with TPM2_PCR_Read (part 3, 22.4), which gives at most
// eight values at a time.
func (t *TPM) readPCRs(pcrs []int) ([]PCR, error) {
	var values []PCR
	for len(pcrs) > 0 {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: pcrSelection(pcrs)}.Execute(t.link)
		if err != nil {
			return nil, fmt.Errorf("cannot read PCRs: %w", err)
		}
		digests := rsp.PCRValues.Digests
		if len(digests) == 0 || len(digests) > len(pcrs) {
			return nil, fmt.Errorf("cannot read PCRs: %d values for %d PCRs: is the SHA-256 bank active?", len(digests), len(pcrs))
		}
		for i, d := range digests {
			values = append(values, PCR{Index: pcrs[i], Digest: d.Buffer})
		}
		pcrs = pcrs[len(digests):]
	}
	return values, nil
}

// selection returns pcrs ascending and each once.
func selection(pcrs []int) ([]int, error) {
	if !ascending(pcrs) {
		pcrs = slices.Compact(slices.Sorted(slices.Values(pcrs)))
	}
	if len(pcrs) == 0 {
		return nil, errors.New("no PCRs selected")
	}
	if first, last := pcrs[0], pcrs[len(pcrs)-1]; first < 0 || last >= maxPCRs {
		return nil, fmt.Errorf("PCRs %d to %d are not within 0 to %d", first, last, maxPCRs-1)
	}
	return pcrs, nil
}

func ascending(pcrs []int) bool {
	for i := range pcrs {
		if i > 0 && pcrs[i] <= pcrs[i-1] {
			return false
		}
	}
	return true
}

func pcrMask(pcrs []int) []byte {
	mask := make([]byte, maxPCRs/8)
	for _, p := range pcrs {
		mask[p/8] |= 1 << (p % 8)
	}
	return mask
}

func pcrSelection(pcrs []int) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: pcrMask(pcrs)}}}
}
