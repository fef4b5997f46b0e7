package eventlog_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	. "github.com/miotfacts/miotfacts/attest/eventlog"
)

// measured is a kernel command line as Linux's EFI stub measures it.
func measured(text string) []byte {
	return sum(SHA256, wide(text+"\x00"))
}

// verified verifies a log against the PCRs that it leads to: those of a TPM
// that measured what it says.
func verified(t testing.TB, data []byte) *Verified {
	t.Helper()
	log := parsed(t, data)
	pcrs := log.Replay()[SHA256]
	delete(pcrs, 1) // boot options differ between sound machines
	delete(pcrs, 5)
	v, err := log.Verify(SHA256, pcrs)
	if err != nil || !v.Complete() {
		t.Fatalf("%v, %v", err, v)
	}
	return v
}

// digestOf returns the digest of the only event of the component in the PCR.
func digestOf(t testing.TB, v *Verified, pcr int, c Component) []byte {
	t.Helper()
	var found []byte
	for _, e := range v.Record(func(p int) bool { return p == pcr }) {
		if e.Component == c && e.Subject != "separator" {
			found = e.Digest
		}
	}
	if found == nil {
		t.Fatalf("no %s in PCR %d", c, pcr)
	}
	return found
}

func everyPCR(int) bool { return true }

// system says whether an event belongs to the operating system.
func system(e Expected) bool {
	return slices.Contains([]Component{Loader, Kernel, Initrd, CommandLine, Userspace}, e.Component)
}

// referenceOf makes groups as factsctl does: the system, and all below it.
func referenceOf(v *Verified, name, cmdline string) []Group {
	all := v.Record(everyPCR, cmdline)
	below := slices.DeleteFunc(slices.Clone(all), system)
	all = slices.DeleteFunc(all, func(e Expected) bool { return !system(e) })
	return []Group{{"firmware", []Version{{"1", below}}}, {"system", []Version{{name, all}}}}
}

func TestReferencesSurviveUpdates(t *testing.T) {
	b := byName(t, "edk2")
	const more = " quiet"
	now := verified(t, b.data)
	update := bytes.ReplaceAll(b.data, digestOf(t, now, 9, CommandLine), measured(b.cmdline+more))
	update = bytes.ReplaceAll(update, digestOf(t, now, 4, Kernel), bytes.Repeat([]byte{0x66}, 32))
	then := verified(t, update)
	both := referenceOf(now, "A", b.cmdline)
	onlyA := slices.Clone(both)
	both[1].Versions = append(slices.Clone(both[1].Versions), referenceOf(then, "B", b.cmdline+more)[1].Versions...)

	for _, c := range []struct {
		name      string
		log       *Verified
		reference []Group
		claim     string
		versions  []string
		want      []Deviation // Text: what it must have
	}{
		{name: "A", log: now, reference: both, claim: b.cmdline, versions: []string{"firmware 1", "system A"}},
		{name: "B", log: then, reference: both, claim: b.cmdline + more, versions: []string{"firmware 1", "system B"}},
		{name: "B, unknown", log: then, reference: onlyA, claim: b.cmdline + more, versions: []string{"firmware 1", "system A"}, want: []Deviation{
			{4, Kernel, "another kernel, which the log calls "}, {9, CommandLine, "the kernel command line gained quiet"}}},
		// Kernel of one version with the command line of the other.
		{name: "mixed", log: verified(t, bytes.ReplaceAll(b.data, digestOf(t, now, 4, Kernel), bytes.Repeat([]byte{0x66}, 32))), reference: both, claim: b.cmdline,
			versions: []string{"firmware 1", "system A"}, want: []Deviation{{4, Kernel, "another kernel"}}},
		{name: "init", log: verified(t, bytes.ReplaceAll(b.data, digestOf(t, now, 9, CommandLine), measured(b.cmdline+" init=/bin/sh"))), reference: both,
			claim: b.cmdline + " init=/bin/sh", versions: []string{"firmware 1", "system A"},
			want: []Deviation{{9, CommandLine, "the kernel command line gained init=/bin/sh"}}},
		{name: "a command line that the device is silent about", log: verified(t, bytes.ReplaceAll(b.data, digestOf(t, now, 9, CommandLine), measured("evil"))), reference: both,
			claim: b.cmdline, versions: []string{"firmware 1", "system A"},
			want: []Deviation{{9, CommandLine, "what the device says of it does not hash to it"}}},
		{name: "initrd", log: verified(t, bytes.ReplaceAll(b.data, digestOf(t, now, 9, Initrd), bytes.Repeat([]byte{0x77}, 32))), reference: both, claim: b.cmdline,
			versions: []string{"firmware 1", "system A"}, want: []Deviation{{9, Initrd, "another initrd: digest 7777777777777777 instead of"}}},
		{name: "firmware", log: verified(t, bytes.ReplaceAll(b.data, digestOf(t, now, 0, Firmware), bytes.Repeat([]byte{0x77}, 32))), reference: both, claim: b.cmdline,
			versions: []string{"firmware 1", "system A"}, want: []Deviation{{0, Firmware, "another "}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := c.log.Match(c.reference, c.claim)
			if !slices.Equal(m.Versions, c.versions) {
				t.Errorf("versions %q, want %q", m.Versions, c.versions)
			}
			if len(m.Deviations) != len(c.want) {
				t.Fatalf("deviations %+v, want %+v", m.Deviations, c.want)
			}
			for i, d := range m.Deviations {
				if w := c.want[i]; d.PCR != w.PCR || d.Component != w.Component || !strings.Contains(d.Text, w.Text) {
					t.Errorf("%+v, want %+v", d, w)
				}
			}
		})
	}
}

// The key set is a reference of its own: Secure Boot off is not Secure Boot on.
func TestKeysDeviate(t *testing.T) {
	on, off := byName(t, "secboot"), byName(t, "edk2")
	texts := ""
	for _, d := range verified(t, off.data).Match(referenceOf(verified(t, on.data), "A", on.cmdline), off.cmdline).Deviations {
		if d.PCR == 7 && d.Component != Keys {
			t.Errorf("%+v", d)
		}
		texts += d.Text + "\n"
	}
	for _, want := range []string{"Secure Boot changed from on to off", "PK (platform key) changed from 1 certificate (O=SnakeOil", "dbx (forbidden signers) changed from 1 hash to empty", "missing: authority from db"} {
		if !strings.Contains(texts, want) {
			t.Errorf("no %q in\n%s", want, texts)
		}
	}
}

func TestEachRecordedBootIsItsOwnReference(t *testing.T) {
	for _, b := range recorded(t) {
		v, err := parsed(t, b.data).Verify(SHA256, b.pcrs)
		if err != nil {
			t.Fatal(err)
		}
		reference := []Group{{"all", []Version{{"1", v.Record(everyPCR, b.cmdline)}}}}
		if m := v.Match(reference, b.cmdline); len(m.Deviations) != 0 || len(m.Any) != 0 {
			t.Errorf("%s: %+v", b.name, m)
		}
		if m := v.Match(nil, b.cmdline); len(m.Deviations) == 0 {
			t.Errorf("%s: no reference, no deviation", b.name)
		}
		// Each event in turn is not in the reference, or no longer in the log.
		for i := range reference[0].Versions[0].Events {
			less := slices.Delete(slices.Clone(reference[0].Versions[0].Events), i, i+1)
			if m := v.Match([]Group{{"all", []Version{{"1", less}}}}, b.cmdline); len(m.Deviations) == 0 {
				t.Errorf("%s: event %d is in no version, and nothing deviates", b.name, i)
			}
			more := append(slices.Clone(reference[0].Versions[0].Events), reference[0].Versions[0].Events[i])
			if m := v.Match([]Group{{"all", []Version{{"1", more}}}}, b.cmdline); len(m.Deviations) == 0 {
				t.Errorf("%s: event %d is missing, and nothing deviates", b.name, i)
			}
		}
	}
}

func TestExpectedInOtherWays(t *testing.T) {
	b := byName(t, "edk2")
	v := verified(t, b.data)
	events := v.Record(everyPCR, b.cmdline)
	at := slices.IndexFunc(events, func(e Expected) bool { return e.Component == Initrd })
	whatever := slices.Clone(events)
	whatever[at].Digest = nil
	if m := v.Match([]Group{{"all", []Version{{"1", whatever}}}}, b.cmdline); len(m.Deviations) != 0 || len(m.Any) != 1 {
		t.Errorf("any initrd: %+v", m)
	}
	optional := append(slices.Clone(events), Expected{PCR: 9, Component: Userspace, Digest: make([]byte, 32), Subject: "boot phase", Value: "ready", Optional: true},
		Expected{PCR: 9, Component: Userspace, Subject: "machine id", Optional: true})
	if m := v.Match([]Group{{"all", []Version{{"1", optional}}}}, b.cmdline); len(m.Deviations) != 0 {
		t.Errorf("a phase that is yet to come: %+v", m)
	}
	other := slices.Clone(events)
	slices.Reverse(other)
	if m := v.Match([]Group{{"all", []Version{{"1", other}}}}, b.cmdline); len(m.Deviations) == 0 || !strings.Contains(m.Deviations[0].Text, "in another order") {
		t.Errorf("another order: %+v", m)
	}
}

func TestMistakenForLogs(t *testing.T) {
	for text, want := range map[string]string{
		" 0 b2a83b0ebf2f8374299a5b2bdfc31ea955ad7236 08 [S-CRTM Version]\n":                      "take binary_bios_measurements",
		string([]byte{0, 0, 0, 0, 0, 0, 0, 3}) + strings.Repeat("\x00", 20) + "\x00\x00\x00\x25": "big-endian",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
