package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// config is the configuration file of both processes. Every key is documented
// in configs/factsd.toml.
type config struct {
	Device struct {
		Vendor string `toml:"vendor"`
		Model  string `toml:"model"`
		Serial string `toml:"serial"`

		TamperLines []string `toml:"tamper_lines"`
	} `toml:"device"`
	State     string `toml:"state"`
	Sandbox   bool   `toml:"sandbox"`
	Root      string `toml:"root"`
	Reference struct {
		Manifest          string   `toml:"manifest"`
		KeyLists          []string `toml:"key_lists"`
		ManufacturerRoots []string `toml:"manufacturer_roots"`
		OperatorRoots     []string `toml:"operator_roots"`
	} `toml:"reference"`
	Key struct {
		TPM                 string `toml:"tpm"`
		EndorsementPassword string `toml:"endorsement_password_file"`
		OwnerPassword       string `toml:"owner_password_file"`
		File                string `toml:"file"`
	} `toml:"key"`
	Clock struct {
		Trusted bool `toml:"trusted"`
	} `toml:"clock"`
	Broker struct {
		URL         string `toml:"url"`
		CA          string `toml:"ca"`
		Certificate string `toml:"certificate"`
		Prefix      string `toml:"prefix"`
		Ack         string `toml:"ack"`
	} `toml:"broker"`
	Spool struct {
		MaxBytes int64 `toml:"max_bytes"`
	} `toml:"spool"`
	Application struct {
		FactsSocket string `toml:"facts_socket"`
		Users       []any  `toml:"users"`
		TellSocket  string `toml:"tell_socket"`

		Cgroup    string   `toml:"cgroup"`
		Processes []string `toml:"processes"`
	} `toml:"application"`
	Enforcer struct {
		Socket     string   `toml:"socket"`
		Users      []any    `toml:"users"`
		CgroupRoot string   `toml:"cgroup_root"`
		NeverTouch []string `toml:"never_touch"`
		Verifier   []string `toml:"verifier"`
		Sysfs      []string `toml:"sysfs"`
		Watchdog   string   `toml:"watchdog"`
		NV         bool     `toml:"nv"`
		Priority   int      `toml:"priority"`
	} `toml:"enforcer"`
	Log struct {
		Level string `toml:"level"`
	} `toml:"log"`

	applicationUIDs, enforcerUIDs []uint32 // application.users and enforcer.users as numbers
}

// readConfig reads the file at path over the defaults and refuses unknown keys.
func readConfig(path string) (*config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	c := new(config)
	c.Root, c.State = "/", "/var/lib/miotfacts"
	c.Broker.Prefix, c.Broker.Ack = "miotfacts", "receipt"
	c.Spool.MaxBytes = 16 << 20
	c.Enforcer.Socket, c.Enforcer.CgroupRoot = "/run/miotfacts/enforce.sock", "/sys/fs/cgroup"
	c.Log.Level = "info"
	c.Sandbox, c.Enforcer.Priority = true, 1
	d := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			row, _ := strict.Errors[0].Position()
			return nil, fmt.Errorf("cannot read configuration %s: line %d: unknown key %q", path, row, strings.Join(strict.Errors[0].Key(), "."))
		}
		var bad *toml.DecodeError
		if errors.As(err, &bad) {
			row, _ := bad.Position()
			return nil, fmt.Errorf("cannot read configuration %s: line %d: %w", path, row, bad)
		}
		return nil, fmt.Errorf("cannot read configuration %s: %w", path, err)
	}
	if err := c.check(path); err != nil {
		return nil, err
	}
	for _, u := range []struct {
		key   string
		users []any
		uids  *[]uint32
	}{{"application.users", c.Application.Users, &c.applicationUIDs}, {"enforcer.users", c.Enforcer.Users, &c.enforcerUIDs}} {
		if *u.uids, err = uids(u.users); err != nil {
			return nil, fmt.Errorf("cannot use configuration %s: %s: %w", path, u.key, err)
		}
	}
	return c, nil
}

// uids returns the numbers of users that are written as numbers or as names.
func uids(users []any) ([]uint32, error) {
	var out []uint32
	for _, u := range users {
		n, ok := u.(int64)
		if name, isName := u.(string); isName {
			found, err := user.Lookup(name)
			if err != nil {
				return nil, fmt.Errorf("no user %q: %w", name, err)
			}
			if n, err = strconv.ParseInt(found.Uid, 10, 64); err != nil {
				return nil, fmt.Errorf("user %q: %w", name, err)
			}
			ok = true
		}
		// The highest number stands for no user (chown(2)).
		if !ok || n < 0 || n >= math.MaxUint32 {
			return nil, fmt.Errorf("%v is neither a name nor a number of a user", u)
		}
		out = append(out, uint32(n))
	}
	return out, nil
}

func (c *config) check(path string) error {
	for _, k := range []struct {
		name, value string
	}{
		{"device.vendor", c.Device.Vendor}, {"device.model", c.Device.Model}, {"state", c.State},
		{"reference.manifest", c.Reference.Manifest}, {"enforcer.socket", c.Enforcer.Socket},
	} {
		if k.value == "" {
			return fmt.Errorf("cannot use configuration %s: %s is not set", path, k.name)
		}
	}
	switch {
	case len(c.Reference.ManufacturerRoots) == 0:
		return fmt.Errorf("cannot use configuration %s: reference.manufacturer_roots is empty: no manifest could be trusted", path)
	case (c.Key.TPM == "") == (c.Key.File == ""):
		return fmt.Errorf("cannot use configuration %s: set key.tpm or key.file, and not both", path)
	case c.Broker.Ack != "receipt" && c.Broker.Ack != "puback":
		return fmt.Errorf("cannot use configuration %s: broker.ack %q is neither \"receipt\" nor \"puback\"", path, c.Broker.Ack)
	case c.Broker.URL != "" && c.Broker.CA == "":
		return fmt.Errorf("cannot use configuration %s: broker.ca is not set: the broker could not be told from another", path)
	case c.Application.Cgroup != "" && !filepath.IsLocal(c.Application.Cgroup):
		return fmt.Errorf("cannot use configuration %s: application.cgroup %q is no path below enforcer.cgroup_root", path, c.Application.Cgroup)
	case slices.Contains(c.Application.Processes, ""):
		return fmt.Errorf("cannot use configuration %s: application.processes names one that is empty", path)
	case c.Enforcer.Priority < 0 || c.Enforcer.Priority > 99:
		return fmt.Errorf("cannot use configuration %s: enforcer.priority %d is not in 0 to 99", path, c.Enforcer.Priority)
	case c.Spool.MaxBytes < 1<<20:
		return fmt.Errorf("cannot use configuration %s: spool.max_bytes %d is below 1048576", path, c.Spool.MaxBytes)
	}
	return nil
}

// below returns a path below the directory that facts are read from.
func (c *config) below(path string) string { return filepath.Join(c.Root, path) }

func (c *config) stateOf(part string) string { return filepath.Join(c.State, part) }

// roots reads the root keys of both owners.
func (c *config) roots() ([]reference.Root, error) {
	var out []reference.Root
	for _, g := range []struct {
		owner reference.Owner
		files []string
	}{{reference.Manufacturer, c.Reference.ManufacturerRoots}, {reference.Operator, c.Reference.OperatorRoots}} {
		for _, f := range g.files {
			data, err := os.ReadFile(f)
			if err != nil {
				return nil, fmt.Errorf("cannot read root key of the %s: %w", g.owner, err)
			}
			key, err := cose.ParsePublicKey(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			out = append(out, reference.Root{Key: key, Owner: g.owner})
		}
	}
	return out, nil
}
