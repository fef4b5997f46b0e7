package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"slices"
)

// A Reason says why the verifier's half refuses. Errors wrap one:
// errors.Is(err, tpm.ReasonMagic).
type Reason string

// The reasons, in the order in which they are looked for.
const (
	ReasonMalformed Reason = "structure is malformed"
	ReasonTrailing  Reason = "bytes are left over"

	// Keys.
	ReasonKeyType                Reason = "key is not ECDSA P-256 with SHA-256"
	ReasonNotFixedTPM            Reason = "key is not fixed to its TPM (fixedTPM)"
	ReasonNotFixedParent         Reason = "key is not fixed to its parent (fixedParent)"
	ReasonNotSensitiveDataOrigin Reason = "key was not made by the TPM (sensitiveDataOrigin)"
	ReasonNotSigning             Reason = "key is not for signing only (sign, decrypt)"
	ReasonNotRestricted          Reason = "attestation key signs other things than the TPM's own (restricted)"
	ReasonRestricted             Reason = "device key is restricted"
	ReasonLockout                Reason = "key can be locked out by failed authorizations (noDA)"

	// The signature, before anything signed is believed.
	ReasonScheme    Reason = "signature is not ECDSA with SHA-256"
	ReasonSignature Reason = "signature is not valid"

	// What was signed.
	ReasonMagic      Reason = "attestation was not made by a TPM (magic)"
	ReasonType       Reason = "attestation is of another type"
	ReasonHierarchy  Reason = "key is not a primary key of the endorsement hierarchy"
	ReasonNonce      Reason = "nonce differs"
	ReasonName       Reason = "another key is certified"
	ReasonSelection  Reason = "PCR selection differs"
	ReasonBank       Reason = "PCR bank is not SHA-256"
	ReasonPCROutside Reason = "PCR value is outside the signed selection"
	ReasonPCRMissing Reason = "PCR value of the signed selection is missing"
	ReasonPCRDigest  Reason = "PCR values do not have the signed digest"

	// Endorsement keys.
	ReasonEK     Reason = "not an endorsement key of a known template"
	ReasonEKCert Reason = "endorsement key certificate is not valid"
)

func (r Reason) Error() string { return string(r) }

// A VerifiedQuote is what a TPM vouches for. Only VerifyQuote makes one.
type VerifiedQuote struct {
	pcrs   []PCR
	digest []byte
	attest attest
}

// PCRs returns the values of the quoted PCRs in the SHA-256 bank.
func (v *VerifiedQuote) PCRs() map[int][]byte {
	pcrs := make(map[int][]byte, len(v.pcrs))
	for _, p := range v.pcrs {
		pcrs[p.Index] = bytes.Clone(p.Digest)
	}
	return pcrs
}

// Digest returns the SHA-256 over the quoted values, ascending.
func (v *VerifiedQuote) Digest() []byte { return bytes.Clone(v.digest) }

// Clock returns the time in ms that the TPM had power since it was last cleared.
// After an unclean stop it may have gone back, by up to 70 minutes in the
// reference code: see Safe (part 1, 36.3).
func (v *VerifiedQuote) Clock() uint64 { return v.attest.clock }

// ResetCount returns how often the TPM was reset since it was last cleared: it
// differs between boots.
func (v *VerifiedQuote) ResetCount() uint32 { return v.attest.resets }

// RestartCount returns how often the TPM was restarted or resumed since its reset.
func (v *VerifiedQuote) RestartCount() uint32 { return v.attest.restarts }

// Safe reports that no higher clock than this can have been reported before.
func (v *VerifiedQuote) Safe() bool { return v.attest.safe }

// FirmwareVersion returns the TPM's, in its vendor's own form.
func (v *VerifiedQuote) FirmwareVersion() uint64 { return v.attest.firmware }

// VerifyQuote checks that q was made by the TPM with the attestation key
// akPublic (TPMT_PUBLIC) over exactly the PCRs of want, and carries extra. The
// caller must have pinned the attestation key; see VerifyCertify and
// MakeCredential.
func VerifyQuote(q Quote, akPublic, extra []byte, want []int) (*VerifiedQuote, error) {
	v, err := verifyQuote(q, akPublic, extra, want)
	if err != nil {
		return nil, fmt.Errorf("cannot verify quote: %w", err)
	}
	return v, nil
}

func verifyQuote(q Quote, akPublic, extra []byte, want []int) (*VerifiedQuote, error) {
	// A check of nothing is a mistake of the caller, and must not pass.
	want, err := selection(want)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ReasonSelection, err)
	}
	a, r, err := verifyAttestation(q.Attestation, akPublic, attestQuote)
	if err != nil {
		return nil, err
	}
	info, err := parseQuoted(r)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(a.extra, extra) {
		return nil, fmt.Errorf("%w: signed %x, want %x", ReasonNonce, a.extra, extra)
	}
	if len(info.selections) != 1 {
		return nil, fmt.Errorf("%w: %d banks, want one", ReasonSelection, len(info.selections))
	}
	signed := info.selections[0]
	if !slices.Equal(signed.pcrs, want) {
		return nil, fmt.Errorf("%w: signed %v, want %v", ReasonSelection, signed.pcrs, want)
	}
	if signed.bank != algSHA256 || q.Bank != algSHA256 {
		return nil, fmt.Errorf("%w: signed %#04x, stated %#04x", ReasonBank, signed.bank, q.Bank)
	}
	h := sha256.New()
	for i, p := range q.PCRs {
		switch {
		case i > 0 && p.Index <= q.PCRs[i-1].Index:
			return nil, fmt.Errorf("%w: PCR %d follows PCR %d", ReasonMalformed, p.Index, q.PCRs[i-1].Index)
		case !slices.Contains(want, p.Index):
			return nil, fmt.Errorf("%w: PCR %d", ReasonPCROutside, p.Index)
		case len(p.Digest) != sha256.Size:
			return nil, fmt.Errorf("%w: PCR %d has %d bytes", ReasonMalformed, p.Index, len(p.Digest))
		}
		h.Write(p.Digest)
	}
	// They ascend and are all among those that are wanted: where one is missing,
	// another stands in its place, or none.
	for i, p := range want {
		if i >= len(q.PCRs) || q.PCRs[i].Index != p {
			return nil, fmt.Errorf("%w: PCR %d", ReasonPCRMissing, p)
		}
	}
	if digest := h.Sum(nil); !bytes.Equal(digest, info.digest) {
		return nil, fmt.Errorf("%w: they have %x, signed %x", ReasonPCRDigest, digest, info.digest)
	}
	return &VerifiedQuote{pcrs: slices.Clone(q.PCRs), digest: info.digest, attest: *a}, nil
}

// VerifyCertify checks that the attestation key of id certifies its device key,
// and that both are what Provision makes. It returns the device key. That the
// attestation key is in a real TPM is for MakeCredential to find out.
func VerifyCertify(id Identity) (*ecdsa.PublicKey, error) {
	key, err := verifyCertify(id)
	if err != nil {
		return nil, fmt.Errorf("cannot verify certification of device key: %w", err)
	}
	return key, nil
}

func verifyCertify(id Identity) (*ecdsa.PublicKey, error) {
	a, r, err := verifyAttestation(id.Certify, id.AKPublic, attestCertify)
	if err != nil {
		return nil, err
	}
	name, qualified := r.sized(), r.sized() // TPMS_CERTIFY_INFO (part 2, 10.12.3)
	if err := r.end("attestation"); err != nil {
		return nil, err
	}
	if len(a.extra) != 0 {
		return nil, fmt.Errorf("%w: signed %x, want none", ReasonNonce, a.extra)
	}
	if !bytes.Equal(name, nameOf(id.DevicePublic)) {
		return nil, fmt.Errorf("%w: %x, the device key is %x", ReasonName, name, nameOf(id.DevicePublic))
	}
	if !bytes.Equal(qualified, qualifiedName(name)) {
		return nil, fmt.Errorf("device key: %w", ReasonHierarchy)
	}
	p, err := parsePublic(id.DevicePublic)
	if err != nil {
		return nil, fmt.Errorf("device key: %w", err)
	}
	key, err := p.signing()
	if err != nil {
		return nil, fmt.Errorf("device key: %w", err)
	}
	if err := p.check(false); err != nil {
		return nil, fmt.Errorf("device key: %w", err)
	}
	return key, nil
}

// verifyAttestation checks the attestation key and its signature, and only then
// looks into what it signed.
func verifyAttestation(att Attestation, akPublic []byte, kind uint16) (*attest, *reader, error) {
	p, err := parsePublic(akPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("attestation key: %w", err)
	}
	key, err := p.signing()
	if err != nil {
		return nil, nil, fmt.Errorf("attestation key: %w", err)
	}
	if err := p.check(true); err != nil {
		return nil, nil, fmt.Errorf("attestation key: %w", err)
	}
	signature, err := parseSignature(att.Signature)
	if err != nil {
		return nil, nil, err
	}
	if digest := sha256.Sum256(att.Attest); !ecdsa.VerifyASN1(key, digest[:], signature) {
		return nil, nil, ReasonSignature
	}
	a, r, err := parseAttest(att.Attest, kind)
	if err != nil {
		return nil, nil, err
	}
	// The signature is this key's, so another signer is this key elsewhere.
	if !bytes.Equal(a.signer, qualifiedName(nameOf(akPublic))) {
		return nil, nil, fmt.Errorf("attestation key: %w", ReasonHierarchy)
	}
	return a, r, nil
}

// check refuses a signing key with other attributes than Provision asks for.
func (p *public) check(attestation bool) error {
	wrongRestriction := ReasonRestricted
	if attestation {
		wrongRestriction = ReasonNotRestricted
	}
	for _, c := range []struct {
		bits   uint32
		set    bool
		reason Reason
	}{
		{fixedTPM, true, ReasonNotFixedTPM},
		{fixedParent, true, ReasonNotFixedParent},
		{sensitiveDataOrigin, true, ReasonNotSensitiveDataOrigin},
		{sign, true, ReasonNotSigning},
		{decrypt, false, ReasonNotSigning},
		{restricted, attestation, wrongRestriction},
		{noDA, true, ReasonLockout},
	} {
		if (p.attributes&c.bits != 0) != c.set {
			return fmt.Errorf("%w: attributes %#08x", c.reason, p.attributes)
		}
	}
	return nil
}
