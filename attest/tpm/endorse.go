package tpm

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// parseEK accepts endorsement keys of the templates in ekKinds: storage keys,
// RSA-2048, P-256 or P-384.
func parseEK(b []byte) (*public, error) {
	p, err := parsePublic(b)
	if err != nil {
		return nil, err
	}
	nameAlg, bits := uint16(algSHA256), uint16(128)
	switch {
	case p.kind == algRSA && p.bits == 2048 && len(p.modulus) == 256 && (p.exponent == 0 || p.exponent == 65537):
	case p.kind == algECC && p.curve == curveP256:
	case p.kind == algECC && p.curve == curveP384 && p.attributes&userWithAuth != 0:
		nameAlg, bits = algSHA384, 256
	default:
		return nil, fmt.Errorf("%w: type %#04x, curve %#04x, %d bits", ReasonEK, p.kind, p.curve, p.bits)
	}
	// The high range, and it alone, lets the key be used with an empty password.
	const attributes = fixedTPM | fixedParent | sensitiveDataOrigin | adminWithPolicy | restricted | decrypt
	if p.attributes&^userWithAuth != attributes || p.nameAlg != nameAlg || p.scheme != algNull {
		return nil, fmt.Errorf("%w: attributes %#08x, name algorithm %#04x, scheme %#04x", ReasonEK, p.attributes, p.nameAlg, p.scheme)
	}
	if s := p.symmetric; s.alg != algAES || s.bits != bits || s.mode != algCFB {
		return nil, fmt.Errorf("%w: symmetric %#04x with %d bits", ReasonEK, s.alg, s.bits)
	}
	return p, nil
}

// key returns the public half, an *rsa.PublicKey or *ecdsa.PublicKey.
func (p *public) key() (crypto.PublicKey, error) {
	if p.kind == algRSA {
		return &rsa.PublicKey{N: new(big.Int).SetBytes(p.modulus), E: 65537}, nil // 0 stands for it
	}
	return p.point()
}

// MakeCredential encrypts secret, 1 to 32 bytes, so that only the TPM with this
// endorsement key opens it, and only if it also has the key with the Name akName
// (part 1, 24). It returns a TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET for
// Activate.
func MakeCredential(ekPublic, akName, secret []byte) (credential, encSecret []byte, err error) {
	if len(secret) == 0 || len(secret) > sha256.Size {
		return nil, nil, fmt.Errorf("cannot make credential: secret of %d bytes, want 1 to %d", len(secret), sha256.Size)
	}
	if len(akName) != 2+sha256.Size || !bytes.HasPrefix(akName, []byte{0, algSHA256}) {
		return nil, nil, fmt.Errorf("cannot make credential: %x is not a Name with SHA-256", akName)
	}
	p, err := parseEK(ekPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make credential: %w", err)
	}
	if _, err := p.key(); err != nil {
		return nil, nil, fmt.Errorf("cannot make credential: %w", err)
	}
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ekPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make credential: %w", err)
	}
	ek, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make credential: %w", err)
	}
	credential, encSecret, err = tpm2.CreateCredential(rand.Reader, ek, akName, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make credential: %w", err)
	}
	return wrap(credential), wrap(encSecret), nil
}

var (
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}           // tcg-kp-EKCertificate
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}               //
	oidRSAESOAEP      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 7} // RFC 4055
)

// maxCert bounds an endorsement key certificate in bytes; they have one to two
// thousand.
const maxCert = 8 << 10

// VerifyEKCert checks that the certificate is for this endorsement key
// (TPMT_PUBLIC) and that a chain leads from it to roots, which may hold
// intermediates too, valid at this time (EK Credential Profile 2.5, 3). What follows the DER, as it
// does in some NV indices, may only be padding.
func VerifyEKCert(der, ekPublic []byte, roots *x509.CertPool) error {
	if err := verifyEKCert(der, ekPublic, roots); err != nil {
		return fmt.Errorf("cannot verify endorsement key certificate: %w", err)
	}
	return nil
}

func verifyEKCert(der, ekPublic []byte, roots *x509.CertPool) error {
	if roots == nil {
		return fmt.Errorf("%w: no roots given", ReasonEKCert) // else the system's would count
	}
	p, err := parseEK(ekPublic)
	if err != nil {
		return err
	}
	want, err := p.key()
	if err != nil {
		return err
	}
	if der, err = cutCert(der); err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("%w: %w", ReasonEKCert, err)
	}
	got := cert.PublicKey
	if got == nil {
		if got, err = oaepKey(cert.RawSubjectPublicKeyInfo); err != nil {
			return fmt.Errorf("%w: %w", ReasonEKCert, err)
		}
	}
	if k, ok := want.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(got) {
		return fmt.Errorf("%w: it is for another key", ReasonEKCert)
	}
	if cert.IsCA {
		return fmt.Errorf("%w: it is an authority's", ReasonEKCert)
	}
	if len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0 && !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return fmt.Errorf("%w: its extended key usage is not tcg-kp-EKCertificate", ReasonEKCert)
	}
	// The profile makes this extension critical: it names the TPM's model in a
	// form that crypto/x509 does not know.
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("%w: %w", ReasonEKCert, err)
	}
	return nil
}

// cutCert returns the certificate at the beginning of data. An NV index may be
// longer than it: then zeros or ones follow, and nothing else may.
func cutCert(data []byte) ([]byte, error) {
	if len(data) > maxCert {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ReasonEKCert, len(data), maxCert)
	}
	var outer asn1.RawValue
	padding, err := asn1.Unmarshal(data, &outer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ReasonEKCert, err)
	}
	for _, b := range padding {
		if b != padding[0] || b != 0x00 && b != 0xff {
			return nil, fmt.Errorf("%w: %d after the certificate that are not padding", ReasonTrailing, len(padding))
		}
	}
	return data[:len(data)-len(padding)], nil
}

// oaepKey returns an RSA key that is marked as one for OAEP, as in certificates of
// older TPMs; crypto/x509 leaves it out.
func oaepKey(info []byte) (*rsa.PublicKey, error) {
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	rest, err := asn1.Unmarshal(info, &spki)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 || !spki.Algorithm.Algorithm.Equal(oidRSAESOAEP) {
		return nil, errors.New("its public key is of an unknown kind")
	}
	return x509.ParsePKCS1PublicKey(spki.Key.RightAlign())
}
