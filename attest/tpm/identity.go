package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
)

// An Identity is what a TPM says of its keys.
type Identity struct {
	EKPublic     []byte      // TPMT_PUBLIC (part 2, 12.2.4) of the endorsement key
	EKCert       []byte      // its certificate, DER; nil when none is provisioned
	AKPublic     []byte      // TPMT_PUBLIC of the attestation key
	DevicePublic []byte      // TPMT_PUBLIC of the device key
	Certify      Attestation // TPM2_Certify (part 3, 18.2) of the device key by the attestation key
}

// An Attestation is what a TPM signed, as the TPM made it.
type Attestation struct {
	Attest    []byte // TPMS_ATTEST (part 2, 10.12.12)
	Signature []byte // TPMT_SIGNATURE (part 2, 11.3.4)
}

// signingTemplate is an ECDSA P-256 key. What is unique to it tells keys with
// the same seed apart; changing it changes the identity of every device.
func signingTemplate(unique string, restricted bool) tpm2.TPMTPublic {
	x := sha256.Sum256([]byte(unique))
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: restricted, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: x[:]},
			Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		}),
	}
}

// The attestation key signs only what the TPM itself made. It is in the
// endorsement hierarchy because the TPM obscures reset counts to keys elsewhere
// (part 1, 36.7).
func akTemplate() tpm2.TPMTPublic { return signingTemplate("miotfacts attestation key 1", true) }

// The device key signs what software hands it: reports and TLS handshakes.
func deviceTemplate(generation uint64) tpm2.TPMTPublic {
	return signingTemplate(fmt.Sprintf("miotfacts device key %d", generation+1), false)
}

// Provision makes the keys and lets the attestation key certify the device key.
// It stores nothing, and gives the same keys each time.
func (t *TPM) Provision() (*Identity, error) {
	if err := t.lock(); err != nil {
		return nil, fmt.Errorf("cannot provision: %w", err)
	}
	defer t.mu.Unlock()
	id, err := t.provision()
	if err != nil {
		return nil, fmt.Errorf("cannot provision: %w", err)
	}
	return id, nil
}

func (t *TPM) provision() (*Identity, error) {
	ek, cert, err := t.endorsementKey()
	if err != nil {
		return nil, err
	}
	if err := t.flush(ek); err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	var certify Attestation
	err = t.use(func() error {
		rsp, err := tpm2.Certify{
			ObjectHandle: t.device.auth(),
			SignHandle:   t.ak.auth(),
			InScheme:     tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(t.link)
		if err != nil {
			return fmt.Errorf("cannot certify device key: %w", err)
		}
		certify = Attestation{Attest: rsp.CertifyInfo.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}
		return nil
	}, &t.ak, &t.device)
	if err != nil {
		return nil, err
	}
	if _, err := t.sweep([]tpm2.TPMHandle{t.ak.handle, t.device.handle}, ek.name, t.ak.name, t.device.name); err != nil {
		return nil, err
	}
	id := &Identity{EKPublic: ek.public, EKCert: cert, AKPublic: t.ak.public, DevicePublic: t.device.public, Certify: certify}
	// A TPM that does not keep to its specification is found out here, not by
	// the verifier.
	if _, err := VerifyCertify(*id); err != nil {
		return nil, err
	}
	return id, nil
}

// Activate opens a credential that MakeCredential made for this TPM's
// endorsement key and attestation key (TPM2_ActivateCredential, part 3, 12.5),
// and returns the secret in it.
func (t *TPM) Activate(credential, secret []byte) ([]byte, error) {
	blob, err := unwrap(credential)
	if err != nil {
		return nil, fmt.Errorf("cannot activate credential: %w", err)
	}
	seed, err := unwrap(secret)
	if err != nil {
		return nil, fmt.Errorf("cannot activate credential: encrypted secret: %w", err)
	}
	if err := t.lock(); err != nil {
		return nil, fmt.Errorf("cannot activate credential: %w", err)
	}
	defer t.mu.Unlock()
	opened, err := t.activate(blob, seed)
	if err != nil {
		return nil, fmt.Errorf("cannot activate credential: %w", err)
	}
	return opened, nil
}

func (t *TPM) activate(blob, seed []byte) (opened []byte, err error) {
	ek, _, err := t.endorsementKey()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.flush(ek)) }()
	err = t.use(func() error {
		session, done, err := t.endorsementSession(ek)
		if err != nil {
			return err
		}
		rsp, err := tpm2.ActivateCredential{
			ActivateHandle: t.ak.auth(),
			KeyHandle:      tpm2.AuthHandle{Handle: ek.handle, Name: ek.name, Auth: session},
			CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob},
			Secret:         tpm2.TPM2BEncryptedSecret{Buffer: seed},
		}.Execute(t.link)
		if err := errors.Join(err, done()); err != nil {
			return err
		}
		opened = rsp.CertInfo.Buffer
		return nil
	}, &t.ak, ek)
	return opened, err
}

// endorsementSession is one in which the endorsement key may be used. What comes
// back in it is encrypted to a session key that travelled under the endorsement
// key itself: who listens on the bus to a discrete TPM does not learn the secret.
// The caller ends it with done, whatever became of it.
func (t *TPM) endorsementSession(ek *key) (session tpm2.Session, done func() error, err error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.public)
	if err != nil {
		return nil, nil, err
	}
	private := []tpm2.AuthOption{tpm2.Salted(ek.handle, *public), tpm2.AESEncryption(128, tpm2.EncryptOut)}
	if ek.template.ObjectAttributes.UserWithAuth { // high range: an empty password
		session, done, err = tpm2.HMACSession(t.link, tpm2.TPMAlgSHA256, 16, private...)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot start session: %w", err)
		}
		return session, done, nil
	}
	// Low range: TPM2_PolicySecret with the endorsement hierarchy (EK Credential
	// Profile 2.5, B.3.3).
	session, done, err = tpm2.PolicySession(t.link, tpm2.TPMAlgSHA256, 16, private...)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot start session: %w", err)
	}
	_, err = tpm2.PolicySecret{
		AuthHandle:    t.endorsement(),
		PolicySession: session.Handle(),
		NonceTPM:      session.NonceTPM(),
	}.Execute(t.link)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot use endorsement hierarchy: %w", err), done())
	}
	return session, done, nil
}

// Signer returns the device key, or nil before Provision has succeeded. It makes
// ASN.1 ECDSA signatures over SHA-256 digests.
func (t *TPM) Signer() crypto.Signer {
	t.mu.Lock()
	defer t.mu.Unlock()
	public, err := PublicKey(t.device.public)
	if err != nil {
		return nil
	}
	return &signer{tpm: t, public: public}
}

type signer struct {
	tpm    *TPM
	public *ecdsa.PublicKey
}

// Public returns the device key's public half, an *ecdsa.PublicKey.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs a SHA-256 digest with TPM2_Sign (part 3, 20.2).
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	hash := crypto.SHA256 // without options the digest's size tells
	if opts != nil {
		hash = opts.HashFunc()
	}
	if hash != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("cannot sign digest of %d bytes made with %s: want SHA-256", len(digest), hash)
	}
	t := s.tpm
	if err := t.lock(); err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	defer t.mu.Unlock()
	var signature []byte
	err := t.use(func() error {
		rsp, err := tpm2.Sign{
			KeyHandle:  t.device.auth(),
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(t.link)
		if err != nil {
			return err
		}
		if signature, err = parseSignature(tpm2.Marshal(rsp.Signature)); err != nil {
			return err
		}
		if !ecdsa.VerifyASN1(s.public, digest, signature) {
			return errOtherKey
		}
		return nil
	}, &t.device)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	return signature, nil
}
