package cose

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
)

// A KeyID is the first 16 bytes of a key's COSE Key Thumbprint with SHA-256
// (RFC 9679). It is the kid of every signature and names keys everywhere.
type KeyID [16]byte

func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// ParseKeyID parses what KeyID.String gives.
func ParseKeyID(s string) (KeyID, error) {
	var id KeyID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("cannot parse key id %q: want %d hexadecimal digits", s, 2*len(id))
	}
	copy(id[:], b)
	return id, nil
}

// A PublicKey verifies: Ed25519 or ECDSA P-256, nothing else.
type PublicKey struct {
	key crypto.PublicKey
	raw []byte // COSE_Key with the required parameters only, RFC 9679 section 4
	id  KeyID
}

type okpKey struct {
	Kty int    `cbor:"1,keyasint"`
	Crv int    `cbor:"-1,keyasint"`
	X   []byte `cbor:"-2,keyasint"`
}

type ec2Key struct {
	Kty int    `cbor:"1,keyasint"`
	Crv int    `cbor:"-1,keyasint"`
	X   []byte `cbor:"-2,keyasint"`
	Y   []byte `cbor:"-3,keyasint"`
}

// NewPublicKey returns key, an ed25519.PublicKey or a P-256 *ecdsa.PublicKey,
// as a PublicKey. It refuses every other kind and curve.
func NewPublicKey(key crypto.PublicKey) (*PublicKey, error) {
	var raw []byte
	var err error
	switch k := key.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("cannot use Ed25519 key of %d bytes", len(k))
		}
		raw, err = Encode(okpKey{Kty: 1, Crv: 6, X: k})
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("cannot use ECDSA key: the curve is not P-256")
		}
		point, perr := k.Bytes() // refuses a point that is not on the curve
		if perr != nil {
			return nil, fmt.Errorf("cannot use ECDSA key: %w", perr)
		}
		raw, err = Encode(ec2Key{Kty: 2, Crv: 1, X: point[1:33], Y: point[33:]})
	default:
		return nil, fmt.Errorf("cannot use key of type %T: want Ed25519 or ECDSA P-256", key)
	}
	if err != nil {
		return nil, err
	}
	p := &PublicKey{key: key, raw: raw}
	sum := sha256.Sum256(raw)
	copy(p.id[:], sum[:])
	return p, nil
}

// ID returns the key's identifier.
func (p *PublicKey) ID() KeyID { return p.id }

// Key returns the key as the standard library knows it.
func (p *PublicKey) Key() crypto.PublicKey { return p.key }

// Algorithm returns the name of the signature algorithm: "Ed25519" or "ES256".
func (p *PublicKey) Algorithm() string {
	if _, ok := p.key.(ed25519.PublicKey); ok {
		return "Ed25519"
	}
	return "ES256"
}

// MarshalCBOR encodes the key as a COSE_Key (RFC 9052 section 7) with the
// required parameters only.
func (p *PublicKey) MarshalCBOR() ([]byte, error) {
	if p == nil || p.raw == nil {
		return nil, errors.New("cannot encode key: there is none")
	}
	return p.raw, nil
}

// UnmarshalCBOR decodes what MarshalCBOR encodes and refuses points that are
// not on the curve.
func (p *PublicKey) UnmarshalCBOR(data []byte) error {
	var okp okpKey
	var ec2 ec2Key
	var key crypto.PublicKey
	if Decode(data, 256, &okp) == nil && okp.Kty == 1 && okp.Crv == 6 {
		key = ed25519.PublicKey(okp.X)
	} else if err := Decode(data, 256, &ec2); err != nil {
		return fmt.Errorf("cannot decode COSE key: %w", err)
	} else if ec2.Kty != 2 || ec2.Crv != 1 || len(ec2.X) != 32 || len(ec2.Y) != 32 {
		return fmt.Errorf("cannot decode COSE key: type %d on curve %d is neither Ed25519 nor P-256", ec2.Kty, ec2.Crv)
	} else if k, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), bytes.Join([][]byte{{4}, ec2.X, ec2.Y}, nil)); err != nil {
		return fmt.Errorf("cannot decode COSE key: %w", err)
	} else {
		key = k
	}
	q, err := NewPublicKey(key)
	if err != nil {
		return err
	}
	*p = *q
	return nil
}

// ErrEncrypted says that a private key needs a passphrase.
var ErrEncrypted = errors.New("private key is encrypted")

// ParsePrivateKey reads a PKCS #8 private key in PEM ("PRIVATE KEY"). For an
// encrypted one the error wraps ErrEncrypted.
func ParsePrivateKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	switch {
	case block == nil:
		return nil, errors.New("cannot parse private key: no PEM block")
	case block.Type == "ENCRYPTED PRIVATE KEY":
		return nil, fmt.Errorf("cannot parse private key: %w", ErrEncrypted)
	case block.Type != "PRIVATE KEY":
		return nil, fmt.Errorf("cannot parse private key: PEM block is %q, want \"PRIVATE KEY\"", block.Type)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot parse private key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("cannot parse private key: %T does not sign", key)
	}
	if _, err := NewPublicKey(signer.Public()); err != nil {
		return nil, err
	}
	return signer, nil
}

// ParsePublicKey reads a SubjectPublicKeyInfo in PEM ("PUBLIC KEY").
func ParsePublicKey(data []byte) (*PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("cannot parse public key: no PEM block \"PUBLIC KEY\"")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot parse public key: %w", err)
	}
	return NewPublicKey(key)
}

// PEM returns the key as a SubjectPublicKeyInfo in PEM, which ParsePublicKey
// and other tools read.
func (p *PublicKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(p.key)
	if err != nil {
		return nil, fmt.Errorf("cannot encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
