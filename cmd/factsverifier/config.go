package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// config is the configuration file. Every key is documented in
// configs/factsverifier.toml. Relative paths count from the file's folder.
type config struct {
	Store     string `toml:"store"`
	Reference struct {
		Manifests         []string `toml:"manifests"`
		KeyLists          []string `toml:"key_lists"`
		ManufacturerRoots []string `toml:"manufacturer_roots"`
		Files             []string `toml:"files"`
		Without           bool     `toml:"without"`
		Labels            string   `toml:"labels"`
		SBOMs             string   `toml:"sboms"`
		Advisories        string   `toml:"advisories"`
		Observed          string   `toml:"observed"`
		OwnNetworks       []string `toml:"own_networks"`
	} `toml:"reference"`
	Keys struct {
		Result  string `toml:"result"`
		Command string `toml:"command"`
	} `toml:"keys"`
	Enrolment struct {
		EKRoots              []string `toml:"ek_roots"`
		RequireEKCertificate bool     `toml:"require_ek_certificate"`
		MaxWaiting           int      `toml:"max_waiting"`
		RenewDays            int      `toml:"renew_days"`
	} `toml:"enrolment"`
	Freshness struct {
		Epoch int `toml:"epoch"`
	} `toml:"freshness"`
	Broker struct {
		Prefix      string `toml:"prefix"`
		Listen      string `toml:"listen"`
		Certificate string `toml:"certificate"`
		Key         string `toml:"key"`
		MaxClients  int    `toml:"max_clients"`
		URL         string `toml:"url"`
		CA          string `toml:"ca"`
		ClientID    string `toml:"client_id"`
		Username    string `toml:"username"`
		Password    string `toml:"password_file"`
		Group       string `toml:"group"`
	} `toml:"broker"`
	Web struct {
		Listen      string `toml:"listen"`
		Certificate string `toml:"certificate"`
		Key         string `toml:"key"`
		URL         string `toml:"url"`
	} `toml:"web"`
	Admin struct {
		Socket string `toml:"socket"`
	} `toml:"admin"`
	Retention struct {
		RoutineDays int `toml:"routine_days"`
	} `toml:"retention"`
	Log struct {
		Level string `toml:"level"`
	} `toml:"log"`

	dir string // of the file
}

// readConfig reads the file at path over the defaults and refuses unknown keys.
func readConfig(path string) (*config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fail(exitNeeds, "make one with factsverifier init", fmt.Errorf("cannot read configuration: %w", err))
	}
	c := new(config)
	c.Store, c.Admin.Socket = "fleet.db", "admin.sock"
	c.Broker.Prefix, c.Broker.MaxClients, c.Broker.ClientID = "miotfacts", 1000, "factsverifier"
	c.Enrolment.MaxWaiting = 1000
	c.Web.Listen, c.Log.Level = "127.0.0.1:8443", "info"
	if c.dir, err = filepath.Abs(filepath.Dir(path)); err != nil {
		return nil, err
	}
	err = toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields().Decode(c)
	var strict *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		row, _ := strict.Errors[0].Position()
		err = fmt.Errorf("line %d: unknown key %q", row, strings.Join(strict.Errors[0].Key(), "."))
	case errors.As(err, &bad):
		row, _ := bad.Position()
		err = fmt.Errorf("line %d: %w", row, bad)
	}
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, fail(exitUsage, "every key is explained in configs/factsverifier.toml", fmt.Errorf("cannot use configuration %s: %w", path, err))
	}
	return c, nil
}

func (c *config) check() error {
	r, b := &c.Reference, &c.Broker
	switch {
	case c.Keys.Result == "":
		return errors.New("keys.result is not set: results could not be signed")
	case len(r.Manifests) == 0 && !r.Without:
		return errors.New("reference.manifests is empty: nothing would be appraised. Name the manifests of your devices, or write without = true")
	case len(r.Manifests) > 0 && r.Without:
		return errors.New("reference.without = true contradicts reference.manifests")
	case len(r.Manifests) > 0 && (len(r.ManufacturerRoots) == 0 || len(r.KeyLists) == 0):
		return errors.New("reference.manufacturer_roots or reference.key_lists is empty: no manifest could be trusted")
	case r.Labels != "" && (len(r.ManufacturerRoots) == 0 || len(r.KeyLists) == 0):
		return errors.New("reference.manufacturer_roots or reference.key_lists is empty: no label could be trusted")
	case r.Labels == "" && (r.Observed != "" || r.SBOMs != "" || r.Advisories != ""):
		return errors.New("reference.observed, reference.sboms or reference.advisories without reference.labels: without a label there is no inspection date and nothing to compare")
	case r.Advisories != "" && r.SBOMs == "":
		return errors.New("reference.advisories without reference.sboms: flaws are looked for in bills of materials")
	case c.Enrolment.RenewDays < 0 || c.Enrolment.RenewDays > 0 && c.Keys.Command == "":
		return errors.New("enrolment.renew_days needs keys.command, and is 0 or more")
	case c.Freshness.Epoch != 0 && (c.Keys.Command == "" || c.Freshness.Epoch < 10 || c.Freshness.Epoch > 86400):
		return errors.New("freshness.epoch needs keys.command, and is 0 or 10 to 86400 s")
	case c.Enrolment.RequireEKCertificate && len(c.Enrolment.EKRoots) == 0:
		return errors.New("enrolment.require_ek_certificate without enrolment.ek_roots: no TPM could be enrolled")
	case (b.Listen == "") == (b.URL == ""):
		return errors.New("set broker.listen for the embedded broker or broker.url for another one, and not both")
	case b.Listen != "" && (b.Certificate == "" || b.Key == ""):
		return errors.New("broker.certificate or broker.key is not set")
	case b.URL != "" && b.CA == "":
		return errors.New("broker.ca is not set: the broker could not be told from another")
	case (b.URL != "" && b.Certificate == "") != (b.URL != "" && b.Key == ""):
		return errors.New("broker.certificate and broker.key belong together")
	case b.MaxClients < 1 || c.Enrolment.MaxWaiting < 1 || c.Retention.RoutineDays < 0:
		return errors.New("broker.max_clients, enrolment.max_waiting or retention.routine_days is too low")
	case (c.Web.Certificate == "") != (c.Web.Key == ""):
		return errors.New("web.certificate and web.key belong together")
	case c.Web.Listen != "" && c.Web.Certificate == "" && !loopback(c.Web.Listen):
		return fmt.Errorf("web.listen %q can be reached from elsewhere: set web.certificate and web.key", c.Web.Listen)
	}
	for _, text := range r.OwnNetworks {
		if _, err := netip.ParsePrefix(text); err != nil {
			return fmt.Errorf("reference.own_networks: %w", err)
		}
	}
	_, err := c.level()
	return err
}

func (c *config) level() (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(c.Log.Level))); err != nil {
		return 0, fmt.Errorf("log.level %q is not one of debug, info, warn, error", c.Log.Level)
	}
	return l, nil
}

// loopback reports whether only this machine reaches the address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// path returns a path of the configuration.
func (c *config) path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.dir, p)
}

func (c *config) read(key, p string) ([]byte, error) {
	data, err := os.ReadFile(c.path(p))
	if err != nil {
		return nil, fail(exitNeeds, "check "+key, fmt.Errorf("cannot read %s: %w", key, err))
	}
	return data, nil
}

func (c *config) signer(key, p string) (*cose.Signer, error) {
	data, err := c.read(key, p)
	if err != nil {
		return nil, err
	}
	private, err := cose.ParsePrivateKey(data)
	if err != nil {
		return nil, fail(exitUsage, "check "+key, fmt.Errorf("%s: %w", p, err))
	}
	return cose.NewSigner(private)
}

func (c *config) certificates(key string, files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, f := range files {
		data, err := c.read(key, f)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(data) {
			return nil, fail(exitUsage, "it must hold certificates in PEM", fmt.Errorf("cannot use %s %s: no certificate in it", key, f))
		}
	}
	return pool, nil
}

func (c *config) keyPair(key, certificate, private string) (tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.path(certificate), c.path(private))
	if err != nil {
		return tls.Certificate{}, fail(exitNeeds, "check "+key+".certificate and "+key+".key", fmt.Errorf("cannot use %s certificate: %w", key, err))
	}
	return pair, nil
}

// files reads the lists of files that manifests name.
func (c *config) files() ([][]byte, error) {
	var out [][]byte
	for _, f := range c.Reference.Files {
		data, err := c.read("reference.files", f)
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

// references opens the manifests. One whose validity has ended is left out: a
// date must not stop the verifier, and what uses it is refused.
func (c *config) references(now int64, log *slog.Logger) ([]*reference.Reference, error) {
	if c.Reference.Without {
		log.Warn("no manifests: nothing that devices measure is appraised")
		return nil, nil
	}
	trust, err := c.trust()
	if err != nil {
		return nil, err
	}
	var refs []*reference.Reference
	for _, f := range c.Reference.Manifests {
		data, err := c.read("reference.manifests", f)
		if err != nil {
			return nil, err
		}
		ref, err := trust.OpenManifest(data, reference.Want{}, reference.At(now))
		if errors.Is(err, reference.ErrExpired) {
			log.Error("a manifest is left out: devices that use it are refused", "file", f, "err", err)
			continue
		}
		if err != nil {
			return nil, fail(exitUsage, "factsctl manifest verify says more", fmt.Errorf("%s: %w", f, err))
		}
		m := ref.Manifest()
		log.Info("manifest", "vendor", m.Vendor, "model", m.Model, "sequence", m.Sequence, "file", f)
		refs = append(refs, ref)
	}
	if len(refs) == 0 {
		return nil, fail(exitUsage, "ask the manufacturer for a newer one", errors.New("every manifest has ended: nothing would be appraised"))
	}
	return refs, nil
}

// trust reads the roots and key lists of the manufacturers.
func (c *config) trust() (*reference.Trust, error) {
	var roots []reference.Root
	for _, f := range c.Reference.ManufacturerRoots {
		data, err := c.read("reference.manufacturer_roots", f)
		if err != nil {
			return nil, err
		}
		key, err := cose.ParsePublicKey(data)
		if err != nil {
			return nil, fail(exitUsage, "it must be a public key in PEM", fmt.Errorf("%s: %w", f, err))
		}
		roots = append(roots, reference.Root{Key: key, Owner: reference.Manufacturer})
	}
	trust, err := reference.NewTrust(roots...)
	if err != nil {
		return nil, fail(exitUsage, "check reference.manufacturer_roots", err)
	}
	for _, f := range c.Reference.KeyLists {
		data, err := c.read("reference.key_lists", f)
		if err != nil {
			return nil, err
		}
		if _, err := trust.AddKeys(data); err != nil {
			return nil, fail(exitUsage, "check reference.key_lists: a root in manufacturer_roots must have signed it", fmt.Errorf("%s: %w", f, err))
		}
	}
	return trust, nil
}
