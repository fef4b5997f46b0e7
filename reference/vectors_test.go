package reference_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

var update = flag.Bool("update", false, "write the vectors and fuzz seeds anew")

const vectors = "../testdata/vectors"

// fixed returns a signer that signs the same bytes for the same payload.
func fixed(t testing.TB, name string) *cose.Signer {
	t.Helper()
	seed := sha256.Sum256([]byte("miotfacts test vector " + name))
	s, err := cose.NewSigner(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A world of fixed keys.
type world struct {
	root, operatorRoot, manifest, label, resume, command *cose.Signer
	keys, operatorKeys                                   []byte
}

func fixedWorld(t testing.TB) *world {
	w := &world{
		root: fixed(t, "manufacturer root"), operatorRoot: fixed(t, "operator root"),
		manifest: fixed(t, "manifest"), label: fixed(t, "label"), resume: fixed(t, "resume"), command: fixed(t, "command"),
	}
	pump := listed(w.manifest, reference.RoleManifest)
	pump.Models = []string{"pump-1"}
	lost := listed(w.label, reference.RoleLabel)
	lost.RevokedFrom = now
	w.keys = encodeAndSign(t, w.root, cose.KeyList, list(reference.Manufacturer, 1, pump, lost))
	w.operatorKeys = encodeAndSign(t, w.operatorRoot, cose.KeyList, list(reference.Operator, 1,
		listed(w.resume, reference.RoleResume), listed(w.command, reference.RoleCommand)))
	return w
}

func (w *world) trust(t testing.TB) *reference.Trust {
	t.Helper()
	trust, err := reference.NewTrust(
		reference.Root{Key: w.root.Public(), Owner: reference.Manufacturer},
		reference.Root{Key: w.operatorRoot.Public(), Owner: reference.Operator})
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

// A vector is a document and what becomes of it at the time now.
type vector struct {
	name   string // path below testdata/vectors, without its ending
	data   []byte
	open   func(*testing.T, []byte) error
	reason error  // nil: accepted, or any error when words are given
	words  string // in the text of a refusal
}

func (v vector) refusal() bool { return v.reason != nil || v.words != "" }

// full is a manifest in which every field of the format is set.
func full() *reference.Manifest {
	m := referencetest.Example()
	num := func(n int64) *int64 { return &n }
	m.Boot = &reference.Boot{PCRs: []int{0, 2, 4, 7}, Accept: [][]byte{bytes.Repeat([]byte{0xab}, 32)}}
	m.Integration = append(m.Integration,
		reference.Rule{Fact: 10, Op: reference.Equal, Values: []facts.Value{facts.BoolValue(true)}},
		reference.Rule{Fact: 12, Op: reference.Equal, Values: []facts.Value{facts.BytesValue(bytes.Repeat([]byte{0xcd}, 32))}},
		reference.Rule{Fact: 110, Op: reference.OneOf, Values: []facts.Value{facts.TextValue("6.12.1"), facts.TextValue("6.12.2")}})
	m.Operating = append(m.Operating,
		reference.Rule{Fact: 80, Op: reference.SupersetOf, Values: []facts.Value{facts.SetValue([]string{"pump.service"})}},
		reference.Rule{Fact: 50, Op: reference.Range, Min: num(-5000), Max: num(75000), Hold: 10000},
		reference.Rule{Fact: 43, Op: reference.IsAbsent})
	m.Reaction = append(m.Reaction,
		reference.Reaction{Do: reference.Signal, Target: "/usr/bin/pump", Signal: 15, Deadline: 1000},
		reference.Reaction{Do: reference.StopUnit, Target: "pump.service", Deadline: 10000})
	return &m
}

// booted adds to a manifest what it can say of the boot.
func booted(m *reference.Manifest) {
	m.Boot = &reference.Boot{PCRs: []int{4, 9, 10}, Accept: [][]byte{}}
	version := func(name, cmdline string, digest byte) reference.BootVersion {
		return reference.BootVersion{Name: name, Events: []reference.BootEvent{
			{PCR: 4, What: 5, Digest: bytes.Repeat([]byte{digest}, 32), Subject: "boot application"},
			{PCR: 9, What: 7, Digest: bytes.Repeat([]byte{digest + 1}, 32), Subject: "kernel command line", Value: cmdline},
			{PCR: 9, What: 8, Digest: []byte{}, Subject: "machine id", Optional: true},
		}}
	}
	m.BootEvents = []reference.BootGroup{{Name: "system", Versions: []reference.BootVersion{version("A", "quiet", 0xa0), version("B", "quiet \"loglevel\"=3", 0xb0)}}}
	m.Files = &reference.Files{
		Allow:   []reference.File{{Name: "/usr/bin/pump", Digest: bytes.Repeat([]byte{0xf1}, 32)}, {Name: "/usr/bin/factsd", Digest: bytes.Repeat([]byte{0xf2}, 64)}},
		Signers: [][]byte{append([]byte{0x30, 0x59}, make([]byte, 89)...)}, Exclude: []string{"/var/lib/"}, Attachment: bytes.Repeat([]byte{0xf3}, 32), Violations: 1,
	}
}

// steps is a manifest with every step that a chain may have beyond those of full.
func steps() *reference.Manifest {
	m := referencetest.Example()
	m.Reaction = []reference.Reaction{
		{Do: reference.Tell, Deadline: 500},
		{Do: reference.Quarantine, Peers: []string{"192.0.2.1", "2001:db8::/64", "192.0.2.1:8883", "[2001:db8::1]:8883"}, Deadline: 1000},
		{Do: reference.StopUnit, Target: "pump.service", Deadline: 5000},
		{Do: reference.Signal, Target: "/usr/bin/pump", Signal: 9, Deadline: 1000, OnlyIf: reference.IfFailed},
		{Do: reference.MaskUnit, Target: "pump.service", Deadline: 5000},
		{Do: reference.BlockUSB, Deadline: 1000},
		{Do: reference.GPIO, Target: "gpiochip0:17", Value: "1", Deadline: 100},
		{Do: reference.LED, Target: "red:alarm", Value: "255", Deadline: 100},
		{Do: reference.Sysfs, Target: "/sys/class/hwmon/hwmon0/pwm1", Value: "0", Deadline: 100},
		{Do: reference.Hook, Target: "relay", Deadline: 2000},
		{Do: reference.Beep, Target: "event0", Value: "2000", Deadline: 1000},
	}
	return &m
}

// deferred lets the application defer a pause.
func deferred(change func(*reference.Deferral)) func(*reference.Manifest) {
	return func(m *reference.Manifest) {
		d := &reference.Deferral{Most: 300, Total: 900, User: "pump", Answer: 200, NeverIntegrity: true}
		if m.Leeway = (&reference.Leeway{Defer: d}); change != nil {
			change(d)
		}
	}
}

// maintained lets operators take the device into maintenance.
func maintained(most uint32, signers uint8) func(*reference.Manifest) {
	return func(m *reference.Manifest) {
		m.Leeway = &reference.Leeway{Maintenance: &reference.MaintenancePolicy{Most: most, Signers: signers}}
	}
}

// modelled gives a manifest a model of what the device draws.
func modelled(idle, cpu, network, off uint32) func(*reference.Manifest) {
	return func(m *reference.Manifest) {
		m.Energy = &reference.EnergyModel{Idle: idle, CPU: cpu, Network: network, Error: off}
	}
}

// prepares makes the first step of a chain one that waits for the application.
func prepares(m *reference.Manifest) {
	m.Reaction[0] = reference.Reaction{Do: reference.Prepare, Deadline: 10000}
}

// mended is an order of maintenance.
func mended() *reference.Command {
	c := command()
	c.Kind, c.Pause, c.Lasts = reference.Maintenance, nil, 7200
	return c
}

func allVectors(t *testing.T, w *world) []vector {
	manifest := func(t *testing.T, data []byte) error {
		trust := w.trust(t)
		if _, err := trust.AddKeys(w.keys); err != nil {
			t.Fatal(err)
		}
		_, err := trust.OpenManifest(data, reference.Want{Vendor: "Example Medical", Model: "pump-1", AgentVersion: "0.1.0", Floor: 3}, reference.At(now))
		return err
	}
	keys := func(t *testing.T, data []byte) error {
		_, err := w.trust(t).AddKeys(data)
		return err
	}
	device := bytes.Repeat([]byte{1}, 17)
	order := func(kind reference.Kind) func(t *testing.T, data []byte) error {
		return func(t *testing.T, data []byte) error {
			trust := w.trust(t)
			if _, err := trust.AddKeys(w.operatorKeys); err != nil {
				t.Fatal(err)
			}
			_, err := trust.OpenCommand(data, kind, device, "pump-1", reference.At(now))
			return err
		}
	}
	change := func(f func(*reference.Manifest)) []byte {
		m := full()
		f(m)
		return encodeAndSign(t, w.manifest, cose.Manifest, m)
	}
	resume := func(f func(*reference.Command)) []byte {
		c := command()
		f(c)
		return encodeAndSign(t, w.resume, cose.Command, c)
	}
	maintenance := func(f func(*reference.Command)) []byte {
		c := mended()
		f(c)
		return encodeAndSign(t, w.resume, cose.Command, c)
	}
	chain := func(f func(*reference.Manifest)) []byte {
		m := steps()
		f(m)
		return encodeAndSign(t, w.manifest, cose.Manifest, m)
	}
	signed := change(func(*reference.Manifest) {})
	small := change(func(m *reference.Manifest) {
		*m = reference.Manifest{
			Version: 1, Vendor: m.Vendor, Model: m.Model, Sequence: 3, NotBefore: m.NotBefore, NotAfter: m.NotAfter,
			Enforce: reference.Observe, ReportEvery: 60, Resume: m.Resume, Integration: m.Integration[:1],
		}
	})
	c := command()
	c.Kind, c.Pause = reference.Challenge, nil
	challenge := encodeAndSign(t, w.command, cose.Command, c)
	epochBy := func(s *cose.Signer, f func(*reference.Command)) []byte {
		c := command()
		c.Kind, c.Pause, c.Device = reference.Epoch, nil, nil
		f(c)
		return encodeAndSign(t, s, cose.Command, c)
	}
	epoch := func(f func(*reference.Command)) []byte { return epochBy(w.command, f) }
	forAll := func(t *testing.T, data []byte) error {
		trust := w.trust(t)
		if _, err := trust.AddKeys(w.operatorKeys); err != nil {
			t.Fatal(err)
		}
		_, err := trust.OpenCommand(data, reference.Epoch, nil, "pump-1", reference.At(now))
		return err
	}
	manifestBy := func(s *cose.Signer) []byte { return encodeAndSign(t, s, cose.Manifest, full()) }
	listBy := func(s *cose.Signer, l *reference.Keys) []byte { return encodeAndSign(t, s, cose.KeyList, l) }
	return []vector{
		{"manifest/full", signed, manifest, nil, ""},
		{"manifest/small", small, manifest, nil, ""},
		{"manifest/refused-unsigned", encode(t, full()), manifest, nil, "cannot parse signed document"},
		{"manifest/refused-cut", signed[:len(signed)-1], manifest, nil, "cannot parse signed document"},
		{"manifest/refused-trailing-byte", append(bytes.Clone(signed), 0), manifest, nil, "cannot parse signed document"},
		{"manifest/refused-changed", flip(signed, len(signed)/2), manifest, cose.ErrSignature, ""},
		{"manifest/refused-not-deterministic", signBytes(t, w.manifest, cose.Manifest, lengthen(t, full())), manifest, cose.ErrNotDeterministic, ""},
		{"manifest/refused-unknown-field", signBytes(t, w.manifest, cose.Manifest, extend(t, full())), manifest, nil, "unknown field"},
		{"manifest/refused-type", encodeAndSign(t, w.manifest, cose.Label, full()), manifest, cose.ErrType, ""},
		{"manifest/refused-unknown-key", manifestBy(fixed(t, "stranger")), manifest, reference.ErrUnknownKey, ""},
		{"manifest/refused-role", manifestBy(w.label), manifest, reference.ErrRole, ""},
		{"manifest/refused-root", manifestBy(w.root), manifest, reference.ErrRole, "signs key lists only"},
		{"manifest/refused-model", change(func(m *reference.Manifest) { m.Model = "pump-2" }), manifest, reference.ErrModel, ""},
		{"manifest/refused-vendor", change(func(m *reference.Manifest) { m.Vendor = "Other" }), manifest, reference.ErrModel, ""},
		{"manifest/refused-rollback", change(func(m *reference.Manifest) { m.Sequence = 2 }), manifest, reference.ErrRollback, ""},
		{"manifest/refused-expired", change(func(m *reference.Manifest) { m.NotAfter = now - 1 }), manifest, reference.ErrExpired, ""},
		{"manifest/refused-not-yet", change(func(m *reference.Manifest) { m.NotBefore = now + 1 }), manifest, reference.ErrNotYet, ""},
		{"manifest/refused-agent", change(func(m *reference.Manifest) { m.MinAgent = "0.2.0" }), manifest, reference.ErrAgent, ""},
		{"manifest/refused-content", change(func(m *reference.Manifest) { m.Integration = nil }), manifest, reference.ErrContent, "integration: no rule"},
		{"manifest/refused-nesting", change(func(m *reference.Manifest) { *m.Operating[2].Max = 501 }), manifest, reference.ErrContent, "above the fail-safe maximum 500"},
		{"manifest/boot", change(booted), manifest, nil, ""},
		{"manifest/refused-event-not-quoted", change(func(m *reference.Manifest) { booted(m); m.BootEvents[0].Versions[0].Events[0].PCR = 5 }), manifest, reference.ErrContent, "PCR 5 is not among the quoted ones"},
		{"manifest/refused-event-of-anything", change(func(m *reference.Manifest) {
			booted(m)
			m.BootEvents[0].Versions[0].Events[0] = reference.BootEvent{PCR: 4, Digest: []byte{}}
		}), manifest, reference.ErrContent, "would accept anything"},
		{"manifest/refused-events-of-no-quote", change(func(m *reference.Manifest) { booted(m); m.Boot, m.Files = nil, nil }), manifest, reference.ErrContent, "without PCRs that prove them"},
		{"manifest/refused-files-not-quoted", change(func(m *reference.Manifest) { booted(m); m.Boot.PCRs = []int{4, 9} }), manifest, reference.ErrContent, "nothing proves the list of files"},
		{"manifest/refused-files-by-sha1", change(func(m *reference.Manifest) { booted(m); m.Files.Allow[0].Digest = make([]byte, 20) }), manifest, reference.ErrContent, "digest of 20 bytes"},
		{"manifest/refused-every-file-excluded", change(func(m *reference.Manifest) { booted(m); m.Files.Exclude = []string{"/"} }), manifest, reference.ErrContent, "leaves out everything"},
		{"manifest/steps", chain(func(*reference.Manifest) {}), manifest, nil, ""},
		{"manifest/refused-peers-elsewhere", chain(func(m *reference.Manifest) { m.Reaction[0].Peers = []string{"192.0.2.1"} }), manifest, reference.ErrContent, "tell has no peers"},
		{"manifest/refused-peer-of-all", chain(func(m *reference.Manifest) { m.Reaction[1].Peers[1] = "::/0" }), manifest, reference.ErrContent, "names no other machine"},
		{"manifest/refused-peer-spelled-otherwise", chain(func(m *reference.Manifest) { m.Reaction[1].Peers[1] = "2001:DB8::/64" }), manifest, reference.ErrContent, "is written"},
		{"manifest/refused-second-quarantine", chain(func(m *reference.Manifest) { m.Reaction[5] = reference.Reaction{Do: reference.Quarantine, Deadline: 1} }), manifest, reference.ErrContent, "a second quarantine"},
		{"manifest/refused-first-step-with-a-condition", chain(func(m *reference.Manifest) { m.Reaction[0].OnlyIf = reference.IfFailed }), manifest, reference.ErrContent, "there is no step before it"},
		{"manifest/refused-unknown-condition", chain(func(m *reference.Manifest) { m.Reaction[3].OnlyIf = 2 }), manifest, reference.ErrContent, "the condition is unknown"},
		{"manifest/refused-no-unit", chain(func(m *reference.Manifest) { m.Reaction[4].Target = "pump" }), manifest, reference.ErrContent, "is not a unit name"},
		{"manifest/refused-no-line", chain(func(m *reference.Manifest) { m.Reaction[6].Target = "gpiochip0" }), manifest, reference.ErrContent, "is not a chip and a line"},
		{"manifest/refused-no-level", chain(func(m *reference.Manifest) { m.Reaction[6].Value = "2" }), manifest, reference.ErrContent, "is neither 0 nor 1"},
		{"manifest/refused-led-elsewhere", chain(func(m *reference.Manifest) { m.Reaction[7].Target = "../net" }), manifest, reference.ErrContent, "is not the name of a LED"},
		{"manifest/refused-no-brightness", chain(func(m *reference.Manifest) { m.Reaction[7].Value = "on" }), manifest, reference.ErrContent, "is outside 0 to 65535"},
		{"manifest/refused-file-elsewhere", chain(func(m *reference.Manifest) { m.Reaction[8].Target = "/sys/../etc/passwd" }), manifest, reference.ErrContent, "is not a clean path below /sys"},
		{"manifest/refused-two-lines", chain(func(m *reference.Manifest) { m.Reaction[8].Value = "0\n1" }), manifest, reference.ErrContent, "is not one line"},
		{"manifest/refused-hook-elsewhere", chain(func(m *reference.Manifest) { m.Reaction[9].Target = "../sh" }), manifest, reference.ErrContent, "is not the name of a hook"},
		{"manifest/refused-value-elsewhere", chain(func(m *reference.Manifest) { m.Reaction[9].Value = "1" }), manifest, reference.ErrContent, "hook has no value"},
		{"manifest/refused-beep-elsewhere", chain(func(m *reference.Manifest) { m.Reaction[10].Target = "../sda" }), manifest, reference.ErrContent, "is not a clean path below /dev/input"},
		{"manifest/refused-no-tone", chain(func(m *reference.Manifest) { m.Reaction[10].Value = "5" }), manifest, reference.ErrContent, "Hz is outside 20 to 20000"},
		{"manifest/refused-unknown-step", chain(func(m *reference.Manifest) { m.Reaction[10].Do = 14 }), manifest, reference.ErrContent, "unknown step 14"},
		{"manifest/prepare", chain(prepares), manifest, nil, ""},
		{"manifest/refused-prepare-later", chain(func(m *reference.Manifest) {
			m.Reaction[1] = reference.Reaction{Do: reference.Prepare, Deadline: 10000}
		}), manifest, reference.ErrContent, "may have stopped the application already"},
		{"manifest/refused-prepare-with-target", chain(func(m *reference.Manifest) { prepares(m); m.Reaction[0].Target = "pump" }), manifest, reference.ErrContent, "prepare has no target"},
		{"manifest/defer", change(deferred(nil)), manifest, nil, ""},
		{"manifest/refused-defer-endless", change(deferred(func(d *reference.Deferral) { d.Most = 3601 })), manifest, reference.ErrContent, "3601 s is outside 1 to 3600"},
		{"manifest/refused-defer-more-than-in-all", change(deferred(func(d *reference.Deferral) { d.Total = 299 })), manifest, reference.ErrContent, "299 s in 24 hours is outside 300 to 86400"},
		{"manifest/refused-defer-by-nobody", change(deferred(func(d *reference.Deferral) { d.User = "" })), manifest, reference.ErrContent, "is not the name or number of a user"},
		{"manifest/refused-defer-without-hurry", change(deferred(func(d *reference.Deferral) { d.Answer = 1001 })), manifest, reference.ErrContent, "1001 ms is outside 1 to 1000"},
		{"manifest/maintenance", change(maintained(14400, 2)), manifest, nil, ""},
		{"manifest/refused-maintenance-endless", change(maintained(86401, 2)), manifest, reference.ErrContent, "86401 s is outside 60 to 86400"},
		{"manifest/refused-maintenance-by-nobody", change(maintained(14400, 0)), manifest, reference.ErrContent, "0 signers"},
		{"manifest/refused-leeway-for-nothing", change(func(m *reference.Manifest) { m.Leeway = &reference.Leeway{} }), manifest, reference.ErrContent, "nothing in it lets a pause wait"},
		{"manifest/energy", change(modelled(1500, 900, 1000, 30)), manifest, nil, ""},
		{"manifest/refused-energy-of-nothing", change(modelled(0, 900, 0, 30)), manifest, reference.ErrContent, "0 mW is outside 1 to 1000000"},
		{"manifest/refused-energy-of-a-kiln", change(modelled(1500, 1000001, 0, 30)), manifest, reference.ErrContent, "1000001 mJ for a second of a processor is above 1000000"},
		{"manifest/refused-energy-of-a-byte", change(modelled(1500, 900, 1000001, 30)), manifest, reference.ErrContent, "1000001 nJ for a byte is above 1000000"},
		{"manifest/refused-energy-guessed", change(modelled(1500, 900, 0, 1001)), manifest, reference.ErrContent, "an error of 1001 per mille is no model"},
		{"command/maintenance", maintenance(func(*reference.Command) {}), order(reference.Maintenance), nil, ""},
		{"command/maintenance-end", maintenance(func(c *reference.Command) { c.Lasts, c.End = 0, true }), order(reference.Maintenance), nil, ""},
		{"command/refused-maintenance-without-end", maintenance(func(c *reference.Command) { c.Lasts = 0 }), order(reference.Maintenance), reference.ErrContent, "lasts 0 s, end false"},
		{"command/refused-maintenance-and-its-end", maintenance(func(c *reference.Command) { c.End = true }), order(reference.Maintenance), reference.ErrContent, "lasts 7200 s, end true"},
		{"command/refused-maintenance-beyond-a-day", maintenance(func(c *reference.Command) { c.Lasts = 86401 }), order(reference.Maintenance), reference.ErrContent, "the limit is 86400 s"},
		{"command/refused-maintenance-of-a-pause", maintenance(func(c *reference.Command) { c.Pause = bytes.Repeat([]byte{2}, 16) }), order(reference.Maintenance), reference.ErrContent, "maintenance with a pause id"},
		{"command/refused-maintenance-role", encodeAndSign(t, w.command, cose.Command, mended()), order(reference.Maintenance), reference.ErrRole, ""},
		{"command/refused-resume-that-lasts", resume(func(c *reference.Command) { c.Lasts = 60 }), order(reference.Resume), reference.ErrContent, "resume that lasts 60 s"},
		{"command/refused-resume-that-ends", resume(func(c *reference.Command) { c.End = true }), order(reference.Resume), reference.ErrContent, "end true"},
		{"keys/manufacturer", w.keys, keys, nil, ""},
		{"keys/operator", w.operatorKeys, keys, nil, ""},
		{"keys/refused-root", listBy(fixed(t, "stranger"), list(reference.Manufacturer, 1)), keys, reference.ErrUnknownKey, ""},
		{"keys/refused-owner", listBy(w.root, list(reference.Operator, 1)), keys, reference.ErrRole, ""},
		{"keys/refused-role", listBy(w.root, list(reference.Manufacturer, 1, listed(w.resume, reference.RoleResume))), keys, reference.ErrContent, "cannot have role resume"},
		{"keys/refused-twice", listBy(w.root, list(reference.Manufacturer, 1, listed(w.label, reference.RoleLabel), listed(w.label, reference.RoleManifest))), keys, reference.ErrContent, "listed twice"},
		{"keys/refused-root-as-key", listBy(w.root, list(reference.Manufacturer, 1, listed(w.operatorRoot, reference.RoleManifest))), keys, reference.ErrRole, ""},
		{"command/resume", resume(func(*reference.Command) {}), order(reference.Resume), nil, ""},
		{"command/challenge", challenge, order(reference.Challenge), nil, ""},
		{"command/refused-role", encodeAndSign(t, w.command, cose.Command, command()), order(reference.Resume), reference.ErrRole, ""},
		{"command/refused-device", resume(func(c *reference.Command) { c.Device[16] = 2 }), order(reference.Resume), reference.ErrDevice, ""},
		{"command/refused-expired", resume(func(c *reference.Command) { c.NotAfter = now - 1 }), order(reference.Resume), reference.ErrExpired, ""},
		{"command/refused-no-pause", resume(func(c *reference.Command) { c.Pause = nil }), order(reference.Resume), reference.ErrContent, "pause id"},
		{"command/refused-kind", challenge, order(reference.Resume), reference.ErrRole, ""},
		{"command/epoch", epoch(func(*reference.Command) {}), forAll, nil, ""},
		{"command/refused-epoch-of-one-device", epoch(func(c *reference.Command) { c.Device = device }), forAll, reference.ErrContent, "epoch with a device id of 17 bytes, want 0"},
		{"command/refused-epoch-of-a-pause", epoch(func(c *reference.Command) { c.Pause = bytes.Repeat([]byte{2}, 16) }), forAll, reference.ErrContent, "epoch with a pause id of 16 bytes"},
		{"command/refused-epoch-short", epoch(func(c *reference.Command) { c.Nonce = c.Nonce[:8] }), forAll, reference.ErrContent, "nonce of 8 bytes"},
		{"command/refused-epoch-that-ended", epoch(func(c *reference.Command) { c.NotAfter = now - 1 }), forAll, reference.ErrExpired, ""},
		{"command/refused-epoch-role", epochBy(w.resume, func(*reference.Command) {}), forAll, reference.ErrRole, ""},
		{"command/renewal", epoch(func(c *reference.Command) { c.Kind, c.Device = reference.Renew, device }), order(reference.Renew), nil, ""},
		{"command/refused-renewal-of-no-device", epoch(func(c *reference.Command) { c.Kind = reference.Renew }), order(reference.Renew), reference.ErrContent, "renewal with a device id of 0 bytes"},
		{"command/refused-renewal-of-another-device", epoch(func(c *reference.Command) { c.Kind, c.Device = reference.Renew, make([]byte, 17) }), order(reference.Renew), reference.ErrDevice, ""},
		{"command/refused-renewal-role", epochBy(w.resume, func(c *reference.Command) { c.Kind, c.Device = reference.Renew, device }), order(reference.Renew), reference.ErrRole, ""},
		{"command/refused-challenge-of-no-device", epoch(func(c *reference.Command) { c.Kind = reference.Challenge }), order(reference.Challenge), reference.ErrContent, "challenge with a device id of 0 bytes"},
	}
}

// TestVectors holds the wire form: the bytes of every vector are those in
// testdata, and each is accepted or refused for the reason written beside it.
func TestVectors(t *testing.T) {
	w := fixedWorld(t)
	known := map[string]bool{}
	for _, v := range allVectors(t, w) {
		known[filepath.FromSlash(v.name)] = true
		err := v.open(t, v.data)
		switch {
		case !v.refusal() && err != nil:
			t.Errorf("%s: %v", v.name, err)
		case v.refusal() && (err == nil || v.reason != nil && !errors.Is(err, v.reason) || !strings.Contains(err.Error(), v.words)):
			t.Errorf("%s: %v, want %v %s", v.name, err, v.reason, v.words)
		}
		text := notation(t, v.data, err)
		path := filepath.Join(vectors, filepath.FromSlash(v.name))
		if *update {
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path+".cbor", v.data, 0o644), os.WriteFile(path+".diag", text, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(path + ".cbor")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(golden, v.data) {
			t.Errorf("%s.cbor holds other bytes: the wire form changed", v.name)
		}
		if golden, err = os.ReadFile(path + ".diag"); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(golden, text) {
			t.Errorf("%s.diag does not say what the bytes are:\n%s", v.name, text)
		}
	}
	for _, dir := range []string{"manifest", "keys", "command"} {
		files, err := filepath.Glob(filepath.Join(vectors, dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			name, err := filepath.Rel(vectors, strings.TrimSuffix(f, filepath.Ext(f)))
			if err != nil || !known[name] {
				t.Errorf("%s is no vector of this test", f)
			}
		}
	}
}

// notation says in diagnostic notation (RFC 8949 section 8) what data is, and
// first what becomes of it.
func notation(t *testing.T, data []byte, refusal error) []byte {
	t.Helper()
	var b strings.Builder
	b.WriteString("/ accepted at " + fmt.Sprint(now) + " /\n")
	if refusal != nil {
		b.Reset()
		b.WriteString("/ refused: " + refusal.Error() + " /\n")
	}
	outer, err := cbor.Diagnose(data)
	if err != nil {
		b.WriteString("/ not one well-formed item / h'" + hex.EncodeToString(data) + "'\n")
		return []byte(b.String())
	}
	b.WriteString(outer + "\n")
	if u, err := cose.Parse(data, reference.MaxManifestSize); err == nil {
		payload, err := cbor.Diagnose(u.UnverifiedPayload())
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString("/ payload /\n" + payload + "\n")
	}
	return []byte(b.String())
}

// TestIndependentReader lets another implementation read what is signed here:
// Python's cbor2 decodes it and gives the same bytes again, openssl verifies the
// signature over the Sig_structure that the script builds from RFC 9052.
func TestIndependentReader(t *testing.T) {
	const script = `
import sys, cbor2
data = open(sys.argv[1], "rb").read()
tag = cbor2.loads(data)
assert tag.tag == 18
protected, unprotected, payload, signature = tag.value
assert unprotected == {} and set(cbor2.loads(protected)) == {1, 4, 16}
content = cbor2.loads(payload)
assert cbor2.dumps(content, canonical=True) == payload
aad = b"miotfacts " + cbor2.loads(protected)[16].encode()
open(sys.argv[2], "wb").write(cbor2.dumps(["Signature1", protected, aad, payload]))
open(sys.argv[3], "wb").write(signature)
print(content[3] if len(sys.argv) > 4 else "ok")
`
	w := fixedWorld(t)
	for _, tt := range []struct {
		name string
		key  *cose.Signer
		args []string
		want string
	}{
		{"manifest/full", w.manifest, []string{"model"}, "pump-1"},
		{"keys/manufacturer", w.root, nil, "ok"},
		{"command/resume", w.resume, nil, "ok"},
	} {
		dir := t.TempDir()
		message, signature, public := filepath.Join(dir, "message"), filepath.Join(dir, "signature"), filepath.Join(dir, "public.pem")
		text, err := tt.key.Public().PEM()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(public, text, 0o600); err != nil {
			t.Fatal(err)
		}
		args := append([]string{"-c", script, filepath.Join(vectors, filepath.FromSlash(tt.name)+".cbor"), message, signature}, tt.args...)
		out := tool(t, "python3-cbor2", "/usr/bin/python3", args...) // where Debian puts it
		if strings.TrimSpace(out) != tt.want {
			t.Errorf("%s: cbor2 reads %q, want %q", tt.name, out, tt.want)
		}
		tool(t, "openssl", "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", message, "-sigfile", signature)
	}
}

// tool runs a program of the Debian package apt and returns its output.
func tool(t *testing.T, apt, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v (Debian package %s)\n%s", name, err, apt, out)
	}
	return string(out)
}
