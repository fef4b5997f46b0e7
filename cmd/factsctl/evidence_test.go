package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cmw"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/eventlog"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// A machine's TPM measures a recorded boot, the verifier takes its report, and the
// bundle it hands out is verified elsewhere.
func TestEvidenceVerify(t *testing.T) {
	const boot = "../../testdata/boot/edk2/"
	bios, err := os.ReadFile(boot + "bios.bin")
	if err != nil {
		t.Fatal(err)
	}
	cmdline, err := os.ReadFile(boot + "cmdline.txt")
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Parse(bios)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := log.Verify(eventlog.SHA256, log.Replay()[eventlog.SHA256])
	if err != nil {
		t.Fatal(err)
	}
	m := referencetest.Example()
	m.Boot = &reference.Boot{PCRs: []int{4, 7, 9}, Accept: [][]byte{}}
	m.BootEvents = groupsOf(verified.Record(func(pcr int) bool { return pcr == 4 || pcr == 7 || pcr == 9 }, strings.TrimSpace(string(cmdline))), "1", "A")

	e := tpmtest.New(t)
	for _, x := range log.Events {
		if d := x.Digest(eventlog.SHA256); d != nil && x.Type != eventlog.NoAction {
			_, err := tpm2.PCRExtend{
				PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(x.PCR), Auth: tpm2.PasswordAuth(nil)},
				Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: d}}},
			}.Execute(e)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	f := verifiertest.Of(t, m)
	d := f.NewTPMDevice(e.Addr).Enrolled()
	d.Set(13, facts.TextValue(strings.TrimSpace(string(cmdline))))
	msg := d.Seal(d.Report(attest.KindBoot))
	part, err := attest.Pack(attest.LogFirmware, 0, bios, false, 16<<10)
	if err != nil {
		t.Fatal(err)
	}
	msg.Parts = []attest.Part{part}
	if r := d.Accepted(verifiertest.Encode(t, msg)); len(r.Findings) > 0 {
		t.Fatalf("%+v", r.Findings)
	}
	bundle, err := f.Evidence(d.UEID)
	if err != nil {
		t.Fatal(err)
	}
	b, err := attest.DecodeBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	change := func(edit func(b *attest.Bundle)) []byte {
		c := *b
		c.Message = verifiertest.Encode(t, attest.Message{Report: msg.Report, Quote: msg.Quote}) // which had the log with it
		c.Logs = map[attest.Log][]byte{attest.LogFirmware: append([]byte{}, bios...)}
		edit(&c)
		data, err := cose.Encode(c)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	wrapped := func(media string) []byte {
		data, err := cmw.Wrap(cmw.Record{Type: media, Value: bundle, Kind: cmw.EvidenceKind})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	dir := t.TempDir()
	signed, err := reference.SignManifest(&m, f.World.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	trust := []string{"--manifest", save(t, dir, "m", signed), "--root", save(t, dir, "root.pub", public(t, f.World.ManufacturerRoot.Public())), "--keys", save(t, dir, "keys", f.World.ManufacturerKeys)}
	var shown verifiedEvidence
	good := save(t, dir, "good", bundle)
	if err := json.NewDecoder(strings.NewReader(ctl(t, exitRefused, append([]string{"evidence", "verify", good, "--json"}, trust...)...))).Decode(&shown); err != nil {
		t.Fatal(err)
	}
	if shown.Pinned || shown.Tier != "affirming" || !shown.Quoted || len(shown.AK) != 64 {
		t.Errorf("with the bundle's own keys: %+v", shown)
	}
	named := append(trust, "--key-id", shown.KeyID, "--ak", shown.AK)
	for _, c := range []struct {
		name string
		data []byte
		args []string
		code int
		want string
	}{
		{"good", bundle, named, exitOK, "booted: firmware 1, system A\naffirming, configuration 2, executables 3\nnot told: freshness"},
		{"conceptual message", wrapped(cmw.Evidence), named, exitOK, "booted: firmware 1, system A\naffirming"},
		{"conceptual message of another type", wrapped("text/plain"), named, exitRefused, "of type text/plain, want application/vnd.miotfacts.evidence+cbor"},
		{"keys of its own", bundle, trust, exitRefused, "nobody says that they are the device's"},
		{"another attestation key", bundle, append(trust, "--key-id", shown.KeyID, "--ak", strings.Repeat("0", 64)), exitRefused, "not those named"},
		{"without its log", change(func(b *attest.Bundle) { b.Logs = nil }), named, exitRefused, "has not come yet"},
		{"with another log", change(func(b *attest.Bundle) { b.Logs[attest.LogFirmware] = bios[:len(bios)-100] }), named, exitRefused, "cannot be read"},
		{"with a log that is no log", change(func(b *attest.Bundle) { b.Logs[attest.LogFirmware] = []byte("sound") }), named, exitRefused, "cannot be read"},
		{"with the report of another", change(func(b *attest.Bundle) { b.Message = verifiertest.Encode(t, attest.Message{Report: msg.Report}) }), named, exitRefused, "no quote has proved"},
		{"no bundle", []byte("bundle"), named, exitRefused, "cannot decode bundle"},
		{"of the next century", bundle, append(named, "--at", "2099-01-01"), exitRefused, "validity has ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ctl(t, c.code, append([]string{"evidence", "verify", save(t, t.TempDir(), "bundle", c.data)}, c.args...)...)
			for w := range strings.Lines(c.want) {
				if !strings.Contains(got, strings.TrimSpace(w)) {
					t.Errorf("no %q in\n%s", w, got)
				}
			}
		})
	}
}
