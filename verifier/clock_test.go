package verifier_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// A quote of a real TPM after what the verifier remembers of it: an unclean stop
// is not called a rollback, a rollback not an unclean stop.
func TestClocksAndCounters(t *testing.T) {
	const minute = 60_000
	f := verifiertest.New(t)
	machine := func(unclean bool) *verifiertest.Device {
		e := tpmtest.New(t)
		d := f.NewTPMDevice(e.Addr).Enrolled()
		d.Accepted(d.Message(attest.KindBoot))
		if unclean {
			e.Kill()
			e.PowerOn()
			d.Reboot()
		}
		d.Accepted(d.Message(attest.KindBoot))
		if safe := d.View().Clock.Safe; safe == unclean {
			t.Fatalf("the TPM calls its clock safe: %v", safe)
		}
		return d
	}
	clean, cut := machine(false), machine(true)
	const warn, bad, none = verifier.TierWarning, verifier.TierContraindicated, verifier.TierNone
	for _, c := range []struct {
		name   string
		device *verifiertest.Device
		before func(c *verifier.Clock) // what the verifier remembers, from what the TPM will say
		reboot bool                    // between both
		code   verifier.Reason         // "": nothing is told
		tier   verifier.Tier
	}{
		{name: "the same boot goes on", device: clean, before: func(c *verifier.Clock) {}},
		{name: "reboot", device: clean, reboot: true, before: func(c *verifier.Clock) { c.ResetCount-- }},
		{name: "hundred reboots that were not heard of", device: clean, reboot: true, before: func(c *verifier.Clock) { c.ResetCount = 0 }},
		{name: "power cut that lost nothing", device: cut, reboot: true, before: func(c *verifier.Clock) { c.ResetCount-- }},
		{name: "power cut", device: cut, reboot: true, before: func(c *verifier.Clock) { c.ResetCount--; c.Clock += 10 * minute }, code: verifier.ReasonUnclean, tier: none},
		{name: "power cut just before the clock was saved", device: cut, reboot: true, before: func(c *verifier.Clock) { c.ResetCount--; c.Clock += 1<<22 - minute }, code: verifier.ReasonUnclean, tier: none},
		{name: "rollback that looks like a power cut", device: cut, reboot: true, before: func(c *verifier.Clock) { c.ResetCount--; c.Clock += 24 * 60 * minute }, code: verifier.ReasonTPMRewind, tier: warn},
		{name: "rollback by a snapshot", device: clean, reboot: true, before: func(c *verifier.Clock) { c.ResetCount--; c.Clock += minute }, code: verifier.ReasonTPMRewind, tier: warn},
		{name: "rollback over boots", device: cut, reboot: true, before: func(c *verifier.Clock) { c.ResetCount += 3 }, code: verifier.ReasonTPMRewind, tier: warn},
		{name: "rollback within a boot", device: cut, before: func(c *verifier.Clock) { c.Clock += minute }, code: verifier.ReasonTPMRewind, tier: warn},
		{name: "restart count goes back", device: clean, before: func(c *verifier.Clock) { c.RestartCount++ }, code: verifier.ReasonTPMRewind, tier: warn},
		{name: "TPM cleared or replaced", device: clean, reboot: true, before: func(c *verifier.Clock) { c.ResetCount, c.Clock = 4000, 1e12 }, code: verifier.ReasonTPMRewind, tier: warn},
		{name: "TPM reset while the machine ran on", device: clean, before: func(c *verifier.Clock) { c.ResetCount-- }, code: verifier.ReasonTPMReset, tier: bad},
		{name: "machine reset and the TPM not", device: clean, reboot: true, before: func(c *verifier.Clock) {}, code: verifier.ReasonTPMReset, tier: warn},
		{name: "remembered without its boot", device: clean, reboot: true, before: func(c *verifier.Clock) { c.Seed = nil }},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := c.device
			known, err := f.Store.Device(d.UEID)
			if err != nil {
				t.Fatal(err)
			}
			c.before(known.Clock)
			if err := f.Store.Save(known); err != nil {
				t.Fatal(err)
			}
			if c.reboot {
				d.Reboot()
			}
			r := d.Accepted(d.Message(attest.KindBoot))
			if c.code != "" && !has(r.Findings, c.code, c.tier) {
				t.Errorf("no %s %s in %+v", c.code, c.tier, r.Findings)
			}
			for _, code := range []verifier.Reason{verifier.ReasonTPMRewind, verifier.ReasonTPMReset, verifier.ReasonUnclean} {
				if code != c.code && slices.ContainsFunc(r.Findings, func(f verifier.Finding) bool { return f.Code == code }) {
					t.Errorf("called %s: %+v", code, r.Findings)
				}
			}
			if next := d.Accepted(d.Message(attest.KindBoot)); has(next.Findings, c.code, c.tier) {
				t.Errorf("told twice: %+v", next.Findings)
			}
		})
	}
}

// A disk or a machine that was copied shows in the chain: both tell of the same
// place, or one of a place that is taken.
func TestCopies(t *testing.T) {
	for _, c := range []struct {
		name string
		tpm  bool
		copy func(t *testing.T, f *verifiertest.Fleet, d *verifiertest.Device) *verifiertest.Device // taken after the first report
		want verifier.Reason
	}{
		{"key file and chain on a second device", false, func(_ *testing.T, _ *verifiertest.Fleet, d *verifiertest.Device) *verifiertest.Device {
			x := *d
			return &x
		}, verifier.ReasonFork},
		{"disk of a device with a TPM in one with another", true, func(t *testing.T, f *verifiertest.Fleet, d *verifiertest.Device) *verifiertest.Device {
			x := f.NewTPMDevice(tpmtest.New(t).Addr)
			x.UEID, x.Sequence, x.Digest, x.Seed, x.Boots = d.UEID, d.Sequence, bytes.Clone(d.Digest), d.Seed, d.Boots
			return x
		}, verifier.ReasonKey},
		{"TPM and disk both", true, func(_ *testing.T, _ *verifiertest.Fleet, d *verifiertest.Device) *verifiertest.Device {
			x := *d
			return &x
		}, verifier.ReasonFork},
		{"the chain begun anew", false, func(_ *testing.T, _ *verifiertest.Fleet, d *verifiertest.Device) *verifiertest.Device {
			x := *d
			x.Sequence, x.Digest = 0, nil
			return &x
		}, verifier.ReasonFork},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := verifiertest.New(t)
			d := f.NewDevice()
			if c.tpm {
				d = f.NewTPMDevice(tpmtest.New(t).Addr)
			}
			d.Enrolled()
			d.Accepted(d.Message(attest.KindBoot))
			copied := c.copy(t, f, d)
			d.Accepted(d.Message(attest.KindRoutine))
			copied.Uptime += 5000
			wantRefused(f, copied.Delivery(copied.Message(attest.KindBoot)), c.want)
			if r := d.Accepted(d.Message(attest.KindRoutine)); r.Tier != verifier.TierAffirming {
				t.Errorf("the device itself: %+v", r.Findings)
			}
			// The copy was first: then the device is the fork, and is seen.
			second := *d
			copied.Sequence, copied.Digest, copied.Signer, copied.TPM = second.Sequence, second.Digest, d.Signer, d.TPM
			copied.Accepted(copied.Message(attest.KindRoutine))
			second.Uptime += 9000
			wantRefused(f, second.Delivery(second.Message(attest.KindRoutine)), verifier.ReasonFork)
		})
	}
}
