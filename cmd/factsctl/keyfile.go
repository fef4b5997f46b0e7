package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/spf13/cobra"
	"github.com/youmark/pkcs8"
	"golang.org/x/term"
)

const (
	maxKeyFile    = 16 << 10 // bytes of a key file
	passphraseEnv = "MIOTFACTS_PASSPHRASE_FILE"
)

// A passphrase says where the passphrase of a key file comes from.
type passphrase struct {
	file string // --passphrase-file
	in   *os.File
	out  io.Writer
}

// passphraseFlag gives c the flag --passphrase-file.
func passphraseFlag(c *cobra.Command) *passphrase {
	p := &passphrase{in: os.Stdin, out: os.Stderr}
	c.Flags().StringVar(&p.file, "passphrase-file", "", "`file` with the passphrase of the key on its first line (or $"+passphraseEnv+"; else the terminal asks)")
	return p
}

// read returns the passphrase from the file that was named, or asks for it.
func (p *passphrase) read(prompt string) ([]byte, error) {
	name := p.file
	if name == "" {
		name = os.Getenv(passphraseEnv)
	}
	if name == "" {
		return p.ask(prompt)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, ioFailure(err)
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
		return nil, fail(exitUsage, "write the passphrase on the first line of the file", "the passphrase in %s is empty", name)
	}
	return line, nil
}

func (p *passphrase) ask(prompt string) ([]byte, error) {
	fd := int(p.in.Fd())
	if !term.IsTerminal(fd) {
		return nil, fail(exitUsage, "give --passphrase-file FILE or set "+passphraseEnv, "a passphrase is needed and there is no terminal to ask on")
	}
	fmt.Fprint(p.out, prompt)
	line, err := term.ReadPassword(fd)
	fmt.Fprintln(p.out)
	if err != nil {
		return nil, ioFailure(err)
	}
	if len(line) == 0 {
		return nil, fail(exitUsage, "", "the passphrase is empty")
	}
	return line, nil
}

// loadSigner returns the private key in the PKCS #8 PEM file path. It needs p
// only if the key is encrypted.
func loadSigner(path string, p *passphrase) (*cose.Signer, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	key, err := cose.ParsePrivateKey(data)
	if errors.Is(err, cose.ErrEncrypted) {
		key, err = decryptKey(path, data, p)
	}
	if _, ok := errors.AsType[*failure](err); ok {
		return nil, err
	}
	if err != nil {
		return nil, fail(exitUsage, "give a private key made by factsctl key new", "%s: %w", path, err)
	}
	s, err := cose.NewSigner(key)
	if err != nil {
		return nil, fail(exitUsage, "give an Ed25519 or P-256 key", "%s: %w", path, err)
	}
	return s, nil
}

func decryptKey(path string, data []byte, p *passphrase) (crypto.Signer, error) {
	secret, err := p.read("passphrase of " + path + ": ")
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	key, err := pkcs8.ParsePKCS8PrivateKey(block.Bytes, secret)
	if err != nil {
		return nil, fail(exitUsage, "check the passphrase", "%s: cannot decrypt private key: the passphrase is wrong or the file is damaged", path)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%T does not sign", key)
	}
	return signer, nil
}

// loadPublic returns the public key in the PEM file path.
func loadPublic(path string) (*cose.PublicKey, error) {
	data, err := readKeyFile(path)
	if err != nil {
		return nil, err
	}
	k, err := cose.ParsePublicKey(data)
	if err != nil {
		return nil, fail(exitUsage, "give the .pub file that factsctl key new wrote beside the key", "%s: %w", path, err)
	}
	return k, nil
}

func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, ioFailure(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, ioFailure(err)
	}
	return data, nil
}

// encryption is PBES2 with AES-256 under scrypt of 16 MiB five times over; the
// 32 MiB that openssl allows by default let it pass.
func encryption() *pkcs8.Opts {
	return &pkcs8.Opts{
		Cipher:  pkcs8.AES256CBC,
		KDFOpts: pkcs8.ScryptOpts{SaltSize: 16, CostParameter: 1 << 14, BlockSize: 8, ParallelizationParameter: 5},
	}
}

// generateKey returns a new private key of alg, as PKCS #8 in PEM, encrypted
// (PBES2, RFC 8018) if secret is not nil, and its public key.
func generateKey(alg string, secret []byte) ([]byte, *cose.PublicKey, error) {
	var key crypto.Signer
	var err error
	switch alg {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "es256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	default:
		return nil, nil, fail(exitUsage, "give --alg ed25519 or --alg es256", "unknown algorithm %q", alg)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make key: %w", err)
	}
	der, err := pkcs8.MarshalPrivateKey(key, secret, encryption())
	if err != nil {
		return nil, nil, fmt.Errorf("cannot encode key: %w", err)
	}
	kind := "PRIVATE KEY"
	if secret != nil {
		kind = "ENCRYPTED PRIVATE KEY"
	}
	public, err := cose.NewPublicKey(key.Public())
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), public, nil
}

// saveKey writes the private key to path and the public one beside it. It never
// overwrites: a lost root key cannot be made again.
func saveKey(path string, private []byte, public *cose.PublicKey) error {
	text, err := public.PEM()
	if err != nil {
		return err
	}
	if err := create(path, private, 0o600); err != nil {
		return err
	}
	if err := create(path+".pub", text, 0o644); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func create(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return fail(exitUsage, "choose another name; a key is never overwritten", "%s is there already", path)
	}
	if err != nil {
		return ioFailure(err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return ioFailure(errors.Join(err, os.Remove(path)))
	}
	return nil
}
