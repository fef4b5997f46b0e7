package ima

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"strings"
)

// A Policy says which files may be measured. A digest counts whatever the file
// is called, since an entry's name is what the process said; names only choose
// the words.
type Policy struct {
	files   map[string]string // name, by hash and digest
	names   map[string]bool
	signers []crypto.PublicKey
	exclude []string
}

// hashes are those that a reference may use, by length: SHA-1 is none of them.
var hashes = map[int]string{32: "sha256", 48: "sha384", 64: "sha512"}

// NewPolicy returns a policy without files.
func NewPolicy() *Policy { return &Policy{files: map[string]string{}, names: map[string]bool{}} }

// Allow adds a file: SHA-256, SHA-384 or SHA-512 of its content, and a name.
func (p *Policy) Allow(name string, digest []byte) error {
	hash, ok := hashes[len(digest)]
	if !ok {
		return fmt.Errorf("cannot allow file %q: digest of %d bytes, want 32, 48 or 64", name, len(digest))
	}
	p.files[hash+string(digest)] = name
	p.names[name] = true
	return nil
}

// Sign adds a key whose signatures are enough: a SubjectPublicKeyInfo in DER,
// RSA of at least 2048 bits or ECDSA.
func (p *Policy) Sign(der []byte) error {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return fmt.Errorf("cannot read key of IMA signer: %w", err)
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
	case *rsa.PublicKey:
		if n := k.N.BitLen(); n < 2048 {
			return fmt.Errorf("cannot read key of IMA signer: RSA with %d bits, want 2048", n)
		}
	default:
		return fmt.Errorf("cannot read key of IMA signer: %T is neither RSA nor ECDSA", key)
	}
	p.signers = append(p.signers, key)
	return nil
}

// Exclude leaves out files whose names begin with prefix, such as what a device
// writes itself. Violations are never left out: nothing proves their names.
func (p *Policy) Exclude(prefix string) { p.exclude = append(p.exclude, prefix) }

// A Verdict is what a policy says of an entry.
type Verdict uint8

// The verdicts.
const (
	Unknown  Verdict = iota // neither allowed nor signed
	Allowed                 // its digest is in the policy
	Signed                  // a signer of the policy signed its digest
	Excluded                // not looked at
	Violated                // a violation: nothing is known of the file
	Kernel                  // boot_aggregate, which is for the caller to compare
)

func (v Verdict) String() string {
	return [...]string{"unknown", "allowed", "signed", "excluded", "violation", "kernel"}[v]
}

// Look judges one entry. The text says in words what it is, and is empty for
// what is as it should be.
func (p *Policy) Look(e *Entry) (Verdict, string) {
	f, err := e.File()
	switch {
	case e.Violation && err != nil:
		return Violated, "violation: a file was written while it was measured"
	case e.Violation:
		return Violated, fmt.Sprintf("violation: %s was written while it was measured, so nobody knows what was run or read", printable(f.Name))
	case err != nil:
		return Unknown, fmt.Sprintf("entry that cannot be read: %v", err)
	case f.Name == "boot_aggregate":
		return Kernel, ""
	}
	if _, ok := p.files[f.Hash+string(f.Digest)]; ok {
		return Allowed, ""
	}
	problem := p.signature(e, f)
	if problem == "" {
		return Signed, ""
	}
	for _, prefix := range p.exclude {
		if strings.HasPrefix(f.Name, prefix) {
			return Excluded, ""
		}
	}
	if p.names[f.Name] {
		return Unknown, fmt.Sprintf("another content of %s: %s:%.8x, %s", printable(f.Name), printable(f.Hash), f.Digest, problem)
	}
	return Unknown, fmt.Sprintf("unknown file executed or read: %s, %s:%.8x, %s", printable(f.Name), printable(f.Hash), f.Digest, problem)
}

// Types and versions of signatures (Linux, security/integrity/integrity.h).
const (
	imaSignature    = 3 // EVM_IMA_XATTR_DIGSIG
	veritySignature = 6 // IMA_VERITY_DIGSIG
)

// algorithms are the kernel's numbers of hashes (include/uapi/linux/hash_info.h).
var algorithms = map[byte]struct {
	name string
	hash crypto.Hash
}{4: {"sha256", crypto.SHA256}, 5: {"sha384", crypto.SHA384}, 6: {"sha512", crypto.SHA512}}

// signature says why an entry's signature does not count; "" when it does.
func (p *Policy) signature(e *Entry, f File) string {
	fields, err := e.Fields()
	if err != nil {
		return "unsigned"
	}
	for _, field := range fields {
		if field.Name != "sig" || len(field.Data) == 0 {
			continue
		}
		// struct signature_v2_hdr: type, version, hash, key id, length, signature.
		s := field.Data
		if len(s) < 9 || int(binary.BigEndian.Uint16(s[7:9])) != len(s)-9 {
			return "with a signature that cannot be read"
		}
		if len(p.signers) == 0 {
			return "signed, and the policy has no signer"
		}
		kind, version, alg, sig := s[0], s[1], s[2], s[9:]
		a, known := algorithms[alg]
		if !known {
			return fmt.Sprintf("with a signature over hash %d, which is not accepted", alg)
		}
		digest := f.Digest
		switch {
		case version == 2 && kind == imaSignature && f.Hash == a.name:
		case version == 3 && (kind == imaSignature && f.Hash == a.name || kind == veritySignature && f.Hash == "verity:"+a.name):
			// struct ima_file_id: type, hash, digest.
			h := a.hash.New()
			h.Write([]byte{kind, alg})
			h.Write(f.Digest)
			digest = h.Sum(nil)
		default:
			return fmt.Sprintf("with a signature of type %d, version %d, over %s", kind, version, a.name)
		}
		if len(digest) != a.hash.Size() {
			return "with a signature that cannot be read"
		}
		for _, key := range p.signers {
			switch k := key.(type) {
			case *ecdsa.PublicKey:
				if ecdsa.VerifyASN1(k, digest, sig) {
					return ""
				}
			case *rsa.PublicKey:
				if rsa.VerifyPKCS1v15(k, a.hash, digest, sig) == nil {
					return ""
				}
			}
		}
		return "signed by nobody whom the policy names"
	}
	return "unsigned"
}

// printable makes a name fit to be shown.
func printable(name string) string {
	text := fmt.Sprintf("%q", name)
	if plain := text[1 : len(text)-1]; !strings.ContainsAny(plain, ` \`) && len(plain) <= 200 {
		return plain
	}
	if len(text) > 200 {
		return text[:200] + `..."`
	}
	return text
}

// IsZero says whether a digest is all zeros, as boot_aggregate's is when IMA
// found no TPM.
func (f File) IsZero() bool {
	return len(f.Digest) > 0 && bytes.Count(f.Digest, []byte{0}) == len(f.Digest)
}
