package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/miotfacts/miotfacts/talk"
	"github.com/pelletier/go-toml/v2"
)

// Limits of the configuration.
const (
	maxInterfaces   = 32 // the filter has a jump for each
	maxInterface    = 15 // characters, IFNAMSIZ
	maxWriteMinutes = 24 * 60
	maxKeepDays     = 3650
)

// config is the configuration file. Every key is documented in
// configs/factstalk.toml.
type config struct {
	Record       string   `toml:"record"`
	User         string   `toml:"user"`
	Interfaces   []string `toml:"interfaces"`
	WriteMinutes int      `toml:"write_minutes"`
	KeepDays     int      `toml:"keep_days"`
	Rows         int      `toml:"rows"`
}

// readConfig reads the file at path over the defaults and refuses unknown keys.
func readConfig(path string) (*config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read configuration: %w", err)
	}
	c := &config{Record: "/var/lib/factstalk/talk.record", User: "factstalk", WriteMinutes: 10, KeepDays: 90, Rows: 1024}
	if err := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields().Decode(c); err != nil {
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
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("cannot use configuration %s: %w", path, err)
	}
	return c, nil
}

func (c *config) check() error {
	for _, n := range []struct {
		key            string
		value, highest int
	}{{"write_minutes", c.WriteMinutes, maxWriteMinutes}, {"keep_days", c.KeepDays, maxKeepDays}, {"rows", c.Rows, talk.MaxPeers}} {
		if n.value < 1 || n.value > n.highest {
			return fmt.Errorf("%s %d is not from 1 to %d", n.key, n.value, n.highest)
		}
	}
	switch {
	case !filepath.IsAbs(c.Record):
		return fmt.Errorf("record %q is no absolute path", c.Record)
	case c.User == "":
		return errors.New("user is not set: it would keep the rights of root")
	case len(c.Interfaces) > maxInterfaces:
		return fmt.Errorf("%d interfaces, the limit is %d", len(c.Interfaces), maxInterfaces)
	}
	for i, name := range c.Interfaces {
		if name == "" || len(name) > maxInterface {
			return fmt.Errorf("interfaces: %q is no name of an interface", name)
		}
		for _, other := range c.Interfaces[:i] {
			if other == name {
				return fmt.Errorf("interfaces: %q stands there twice", name)
			}
		}
	}
	return nil
}
