package tpm

import (
	"crypto/sha256"
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

// Quote lets the attestation key sign the PCRs and extra, at most 32 bytes.
// What it returns passes VerifyQuote.
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
	rsp, err := tpm2.Quote{
		SignHandle:     t.ak.auth(),
		QualifyingData: tpm2.TPM2BData{Buffer: extra},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      pcrSelection(pcrs),
	}.Execute(t.link)
	if err != nil {
		return nil, err
	}
	values, err := t.readPCRs(pcrs)
	if err != nil {
		return nil, err
	}
	q := &Quote{
		Attestation: Attestation{Attest: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature)},
		Bank:        algSHA256,
		PCRs:        values,
	}
	if _, err := VerifyQuote(*q, t.ak.public, extra, pcrs); err != nil {
		if errors.Is(err, ReasonSignature) {
			err = fmt.Errorf("%w: %w", errOtherKey, err)
		}
		return nil, err
	}
	return q, nil
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
	h := sha256.New()
	for _, v := range values {
		h.Write(v.Digest)
	}
	return h.Sum(nil), nil
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
	pcrs = slices.Compact(slices.Sorted(slices.Values(pcrs)))
	if len(pcrs) == 0 {
		return nil, errors.New("no PCRs selected")
	}
	if first, last := pcrs[0], pcrs[len(pcrs)-1]; first < 0 || last >= maxPCRs {
		return nil, fmt.Errorf("PCRs %d to %d are not within 0 to %d", first, last, maxPCRs-1)
	}
	return pcrs, nil
}

func pcrSelection(pcrs []int) tpm2.TPMLPCRSelection {
	mask := make([]byte, maxPCRs/8)
	for _, p := range pcrs {
		mask[p/8] |= 1 << (p % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: mask}}}
}
