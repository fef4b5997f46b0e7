package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"

	"github.com/miotfacts/miotfacts/reference"
	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
)

// A seed is what all devices of one image have in common; factsd provision adds
// on each device what is its own. Nothing of it is secret.
type seed struct {
	manifest, root, keys, operatorRoot, operatorKeys string // files
	broker, ca, keyFile, tpm                         string
	at                                               string
}

// seedDirectory is where the files of an image lie on the device. It is part of
// the image, so that an update brings a new manifest with the system it describes.
const seedDirectory = "/etc/miotfacts"

// maxCertificates is the largest file of CA certificates, in bytes.
const maxCertificates = 256 << 10

func newProvisionCommand() *cobra.Command {
	var s seed
	var out string
	c := &cobra.Command{
		Use:   "provision --out DIR --manifest FILE --root PUB --keys FILE",
		Short: "Make the files that an image of devices starts with",
		Long: `Verifies what devices of an image will trust, and writes it with a configuration as
a tree to lay over the image's root: etc/miotfacts with the manifest, the key lists,
the public roots and factsd.toml. The manifest must be one that a device takes today.

Nothing in the tree is secret and nothing belongs to one device: private keys are
refused. What is a device's own, its identity and without a TPM its key, factsd
provision makes at the first start.

Without an operator's root and key list no pause can be ended. They can be added on
the device later; the command says so when they are left out.`,
		Example: `  factsctl provision --out rootfs-overlay --manifest pump-1.manifest \
    --root root.key.pub --keys keys.signed \
    --operator-root hospital.key.pub --operator-keys hospital.signed \
    --broker tls://verifier.hospital.example:8883 --ca ca.pem`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&out, "out", "", "`folder` for the tree; files in it are not replaced")
	f.StringVar(&s.manifest, "manifest", "", "signed manifest `file`")
	f.StringVar(&s.root, "root", "", "the manufacturer's root public key `file`")
	f.StringVar(&s.keys, "keys", "", "the manufacturer's signed key list `file`")
	f.StringVar(&s.operatorRoot, "operator-root", "", "the operator's root public key `file`")
	f.StringVar(&s.operatorKeys, "operator-keys", "", "the operator's signed key list `file`")
	f.StringVar(&s.broker, "broker", "", "`URL` of the broker, tls://host:port; without it reports stay on the device")
	f.StringVar(&s.ca, "ca", "", "`file` with the certificates that sign the broker's")
	f.StringVar(&s.tpm, "tpm", "/dev/tpmrm0", "`device` of the TPM")
	f.StringVar(&s.keyFile, "key-file", "", "`path` on the device of a key file, where there is no TPM")
	f.StringVar(&s.at, "at", "", "verify for this `time`, 2027-01-01 or 2027-01-01T12:00:00Z (default now)")
	required(c, "out", "manifest", "root", "keys")
	c.MarkFlagsMutuallyExclusive("tpm", "key-file")
	c.MarkFlagsRequiredTogether("operator-root", "operator-keys")
	c.MarkFlagsRequiredTogether("broker", "ca")
	c.RunE = func(c *cobra.Command, _ []string) error {
		now, err := parseTime(s.at)
		if err != nil {
			return err
		}
		files, err := s.files(c, now)
		if err != nil {
			return err
		}
		dir := filepath.Join(out, filepath.FromSlash(seedDirectory))
		for _, file := range files {
			if _, err := os.Lstat(filepath.Join(dir, file.name)); !errors.Is(err, fs.ErrNotExist) {
				return fail(exitIO, "give an empty folder", "%s is there already", filepath.Join(dir, file.name))
			}
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return ioFailure(err)
		}
		for _, file := range files {
			if err := write(c, filepath.Join(dir, file.name), file.data); err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), filepath.Join(dir, file.name))
		}
		if s.operatorRoot == "" {
			note(c, "warning: there is no operator's root, so no pause of these devices can be ended before they get one")
		}
		return nil
	}
	return c
}

type seedFile struct {
	name string
	data []byte
}

// files verifies what the seed names and returns the files of the tree.
func (s *seed) files(c *cobra.Command, now int64) ([]seedFile, error) {
	trust, err := loadTrust(c, reference.Manufacturer, s.root, s.keys)
	if err != nil {
		return nil, err
	}
	signed, err := read(c, s.manifest, reference.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	ref, err := trust.OpenManifest(signed, reference.Want{}, reference.At(now))
	if err == nil { // as a device of that model does
		ref, err = trust.OpenManifest(signed, reference.Want{Vendor: ref.Manifest().Vendor, Model: ref.Manifest().Model}, reference.At(now))
	}
	if err != nil {
		return nil, fail(exitRefused, refusalHint(err), "%s: %w", s.manifest, err)
	}
	files := []seedFile{{"manifest.cbor", signed}}
	conf := seedConfig{State: "/var/lib/miotfacts"}
	conf.Device.Vendor, conf.Device.Model = ref.Manifest().Vendor, ref.Manifest().Model
	conf.Reference.Manifest = path.Join(seedDirectory, "manifest.cbor")
	conf.Reference.OperatorRoots = []string{}
	add := func(owner string, roots *[]string, root, keys string) error {
		k, err := loadPublic(root)
		if err != nil {
			return err
		}
		public, err := k.PEM() // and not the file, which may hold more
		if err != nil {
			return fail(exitUsage, "", "%s: %w", root, err)
		}
		list, err := read(c, keys, reference.MaxKeyListSize)
		if err != nil {
			return err
		}
		files = append(files, seedFile{owner + "-keys.cbor", list}, seedFile{owner + "-root.pub", public})
		conf.Reference.KeyLists = append(conf.Reference.KeyLists, path.Join(seedDirectory, owner+"-keys.cbor"))
		*roots = append(*roots, path.Join(seedDirectory, owner+"-root.pub"))
		return nil
	}
	if err := add("manufacturer", &conf.Reference.ManufacturerRoots, s.root, s.keys); err != nil {
		return nil, err
	}
	if s.operatorRoot != "" {
		if _, err := loadTrust(c, reference.Operator, s.operatorRoot, s.operatorKeys); err != nil {
			return nil, err
		}
		if err := add("operator", &conf.Reference.OperatorRoots, s.operatorRoot, s.operatorKeys); err != nil {
			return nil, err
		}
	}
	if s.broker != "" {
		if u, err := url.Parse(s.broker); err != nil || u.Scheme != "tls" || u.Hostname() == "" {
			return nil, fail(exitUsage, "give tls://host:port", "broker %q is no such URL", s.broker)
		}
		data, err := read(c, s.ca, maxCertificates)
		if err != nil {
			return nil, err
		}
		if err := onlyCertificates(data); err != nil {
			return nil, fail(exitRefused, "give the CA certificates in PEM, and nothing else", "%s: %w", s.ca, err)
		}
		files = append(files, seedFile{"broker-ca.pem", data})
		conf.Broker.URL, conf.Broker.CA = s.broker, path.Join(seedDirectory, "broker-ca.pem")
	}
	conf.Key.TPM, conf.Key.File = s.tpm, s.keyFile
	if s.keyFile != "" {
		if !path.IsAbs(s.keyFile) {
			return nil, fail(exitUsage, "give an absolute path on the device", "key file %q", s.keyFile)
		}
		conf.Key.TPM = ""
	}
	conf.Enforcer.Users = []string{"factsd"}
	text, err := toml.Marshal(conf)
	if err != nil {
		return nil, fmt.Errorf("cannot write configuration: %w", err)
	}
	head := "# Made by factsctl provision for all devices of one image. configs/factsd.toml\n# explains each key; what is not here has its default.\n"
	return append(files, seedFile{"factsd.toml", append([]byte(head), text...)}), nil
}

// onlyCertificates refuses what is anything but certificates in PEM, a private key
// above all.
func onlyCertificates(data []byte) error {
	if len(data) > maxCertificates {
		return fmt.Errorf("it has more than %d bytes", maxCertificates)
	}
	n := 0
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("it holds a %s", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d: %w", n+1, err)
		}
		n, data = n+1, rest
	}
	switch {
	case n == 0:
		return errors.New("it holds no certificate")
	case bytes.Contains(data, []byte("-----BEGIN")):
		return errors.New("it holds something that is not PEM")
	}
	return nil
}

// A seedConfig is the part of factsd's configuration that an image decides.
type seedConfig struct {
	State  string `toml:"state"`
	Device struct {
		Vendor string `toml:"vendor"`
		Model  string `toml:"model"`
	} `toml:"device"`
	Reference struct {
		Manifest          string   `toml:"manifest"`
		KeyLists          []string `toml:"key_lists"`
		ManufacturerRoots []string `toml:"manufacturer_roots"`
		OperatorRoots     []string `toml:"operator_roots"`
	} `toml:"reference"`
	Key struct {
		TPM  string `toml:"tpm,omitempty"`
		File string `toml:"file,omitempty"`
	} `toml:"key"`
	Broker struct {
		URL string `toml:"url"`
		CA  string `toml:"ca"`
	} `toml:"broker"`
	Enforcer struct {
		Users []string `toml:"users"`
	} `toml:"enforcer"`
}
