package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/attest/cose"
)

func newInitCommand() *cobra.Command {
	var hosts []string
	c := &cobra.Command{
		Use:   "init DIR",
		Short: "Make keys, certificates and a configuration for a new verifier",
		Long: `Makes in DIR, which may exist already:

  factsverifier.toml            the configuration, to be completed
  ca.pem, ca.key                an authority for the broker's certificate; devices
                                get ca.pem, ca.key belongs off this machine
  server.pem, server.key        the broker's certificate for the names in --host
  result.key, result.key.pub    signs attestation results
  command.key, command.key.pub  signs challenges

It overwrites nothing. It prints what to add to the operator's key list, which the
operator's root signs with factsctl keys sign.`,
		Example: `  factsverifier init /etc/miotfacts --host verifier.hospital.example --host 192.0.2.7`,
		Args:    cobra.ExactArgs(1),
		RunE:    func(c *cobra.Command, args []string) error { return initialise(c, args[0], hosts) },
	}
	c.Flags().StringArrayVar(&hosts, "host", nil, "`NAME` or address by which devices reach the broker; may be repeated (required)")
	cobra.CheckErr(c.MarkFlagRequired("host"))
	return c
}

// noExpiry says that a certificate does not end (RFC 5280 section 4.1.2.5). What
// ends these is their removal from devices: one that ended by date would silence
// a fleet, and devices without a clock cannot tell dates.
var noExpiry = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

func initialise(c *cobra.Command, dir string, hosts []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(exitNeeds, "", fmt.Errorf("cannot make %s: %w", dir, err))
	}
	ca, caKey, err := certificate(&x509.Certificate{
		Subject: pkix.Name{CommonName: "miotfacts verifier"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: hosts[0]}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	server, serverKey, err := certificate(template, ca, caKey)
	if err != nil {
		return err
	}
	files := []file{
		{"ca.pem", encodePEM("CERTIFICATE", ca.Raw), 0o644},
		{"server.pem", encodePEM("CERTIFICATE", server.Raw), 0o644},
	}
	keys := map[string]crypto.Signer{"ca.key": caKey, "server.key": serverKey}
	for _, name := range []string{"result.key", "command.key"} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("cannot make key: %w", err)
		}
		public, err := cose.NewPublicKey(key.Public())
		if err != nil {
			return err
		}
		text, err := public.PEM()
		if err != nil {
			return err
		}
		keys[name] = key
		files = append(files, file{name + ".pub", text, 0o644})
	}
	for name, key := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("cannot encode key: %w", err)
		}
		files = append(files, file{name, encodePEM("PRIVATE KEY", der), 0o600})
	}
	files = append(files, file{"factsverifier.toml", []byte(firstConfig), 0o644})
	if err := create(dir, files); err != nil {
		return err
	}
	out := c.OutOrStdout()
	fmt.Fprintf(out, "# Add to the operator's key list, then sign it with factsctl keys sign:\n")
	from := time.Now().UTC()
	for _, k := range []struct{ role, name string }{{"command", "verifier, challenges"}, {"result", "verifier, results"}} {
		path, err := filepath.Abs(filepath.Join(dir, k.role+".key.pub"))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "\n[[key]]\nfile = %q\nrole = %q\nname = %q\nvalid = { from = %s, until = %s }\n",
			path, k.role, k.name, from.Format(time.DateOnly), from.AddDate(10, 0, 0).Format(time.DateOnly))
	}
	fmt.Fprintf(c.ErrOrStderr(), "made %s; name your manifests in %s, give devices %s, and take %s off this machine\n",
		dir, filepath.Join(dir, "factsverifier.toml"), filepath.Join(dir, "ca.pem"), filepath.Join(dir, "ca.key"))
	return nil
}

// certificate makes a key and its certificate, signed by parent, or by itself.
func certificate(template, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make key: %w", err)
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	// Devices that woke without a clock believe that it is 1970.
	template.NotBefore, template.NotAfter = time.Unix(0, 0), noExpiry
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, nil, fmt.Errorf("cannot make certificate: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

type file struct {
	name string
	data []byte
	mode fs.FileMode
}

// create writes new files, all or none.
func create(dir string, files []file) error {
	for i, f := range files {
		err := createOne(filepath.Join(dir, f.name), f)
		if err == nil {
			continue
		}
		for _, made := range files[:i] {
			os.Remove(filepath.Join(dir, made.name))
		}
		if errors.Is(err, fs.ErrExist) {
			return fail(exitUsage, "use another directory, or move the old files away", fmt.Errorf("cannot overwrite: %w", err))
		}
		return fail(exitNeeds, "", err)
	}
	return nil
}

func createOne(path string, f file) error {
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
	if err != nil {
		return err
	}
	_, err = w.Write(f.data)
	return errors.Join(err, w.Sync(), w.Close())
}

// firstConfig is what init writes: what a new verifier has to decide, and the
// files that init made.
const firstConfig = `# Configuration of factsverifier. Every key is explained in the example
# configuration. Relative paths count from this file's folder.

store = "fleet.db"

[reference]
# The manufacturer's signed manifests, key list and root. Without a manifest
# factsverifier does not start.
manifests = []
key_lists = []
manufacturer_roots = []

[keys]
result = "result.key"
command = "command.key"

[broker]
listen = ":8883"
certificate = "server.pem"
key = "server.key"

[web]
listen = "127.0.0.1:8443"

[admin]
socket = "admin.sock"
`
