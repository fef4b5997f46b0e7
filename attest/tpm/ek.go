package tpm

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// An ekKind is a template of endorsement keys (EK Credential Profile 2.5, B.3 and
// B.4) and where the certificate of such a key lies.
type ekKind struct {
	name     string
	index    tpm2.TPMHandle // NV index of the certificate
	template tpm2.TPMTPublic
}

// ekKinds are the templates that are looked for, the ones that most TPMs come
// with first. Their order is a device's identity: it must not change.
func ekKinds() []ekKind {
	return []ekKind{
		{"L-2", 0x01c0000a, tpm2.ECCEKTemplate},
		{"L-1", 0x01c00002, tpm2.RSAEKTemplate},
		{"H-2", 0x01c00014, highTemplate(tpm2.TPMAlgSHA256, 128, tpm2.TPMECCNistP256)},
		{"H-3", 0x01c00016, highTemplate(tpm2.TPMAlgSHA384, 256, tpm2.TPMECCNistP384)},
		{"H-1", 0x01c00012, highTemplate(tpm2.TPMAlgSHA256, 128, 0)},
	}
}

// PolicyB of the high-range templates (EK Credential Profile 2.5, B.6.5):
// TPM2_PolicyOR of the endorsement hierarchy and of an NV index.
const (
	policyB256 = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
	policyB384 = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)

// highTemplate is one of the high range: of RSA-2048 without a curve.
func highTemplate(nameAlg tpm2.TPMAlgID, aesBits tpm2.TPMKeyBits, curve tpm2.TPMECCCurve) tpm2.TPMTPublic {
	policy := policyB256
	if nameAlg == tpm2.TPMAlgSHA384 {
		policy = policyB384
	}
	digest, _ := hex.DecodeString(policy) // a constant
	t := tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgRSA,
		NameAlg: nameAlg,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, AdminWithPolicy: true, Restricted: true, Decrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: digest},
	}
	aes := tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, aesBits),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
	if curve == 0 {
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: aes, KeyBits: 2048})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
		return t
	}
	t.Type = tpm2.TPMAlgECC
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: aes, CurveID: curve})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

// endorsementKey makes the first key of ekKinds that has a certificate and that
// this TPM can make, and P-256 of the low range when none has. The caller flushes
// it.
func (t *TPM) endorsementKey() (*key, []byte, error) {
	for _, kind := range ekKinds() {
		data, err := t.nvRead(kind.index)
		if errors.Is(err, ErrNVAbsent) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read endorsement key certificate: %w", err)
		}
		der, err := cutCert(data)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read endorsement key certificate in NV index %#x: %w", uint32(kind.index), err)
		}
		ek, err := t.loadEK(kind)
		if unsupported(err) { // firmware that lacks the curve or the hash
			continue
		}
		return ek, der, err
	}
	ek, err := t.loadEK(ekKinds()[0])
	return ek, nil, err
}

func (t *TPM) loadEK(kind ekKind) (*key, error) {
	ek := &key{template: kind.template}
	if err := t.use(func() error { return nil }, ek); err != nil {
		return nil, fmt.Errorf("endorsement key %s: %w", kind.name, err)
	}
	return ek, nil
}

// unsupported reports that a TPM refused a template for an algorithm that it does
// not have (part 2, 6.6.3).
func unsupported(err error) bool {
	for _, rc := range []tpm2.TPMRC{tpm2.TPMRCCurve, tpm2.TPMRCHash, tpm2.TPMRCKeySize, tpm2.TPMRCSymmetric, tpm2.TPMRCAsymmetric} {
		if errors.Is(err, rc) {
			return true
		}
	}
	return false
}
