package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cmw"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// save writes data into a file and returns its path.
func save(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func public(t testing.TB, k *cose.PublicKey) []byte {
	t.Helper()
	text, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestReportShow(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice()
	d.Set(verifiertest.Listening, facts.SetValue([]string{"tcp/0.0.0.0:22", "tcp/0.0.0.0:4444", "x\x1b[31m\u202e"}))
	d.Status(verifiertest.CPUUsage, facts.Unreadable)
	r := d.Report(attest.KindBoot)
	r.IssuedAt, r.Body.Notes, r.Body.Dropped = referencetest.Now, []string{"the clock\x1b[2J is late"}, 2
	r.Body.Inventory = &attest.Inventory{Vendor: "Example Medical", Model: "pump-1", Services: []string{"pump.service"}}
	message := verifiertest.Encode(t, d.Seal(r))
	sealed := d.Seal(d.Report(attest.KindRoutine))

	manifest := referencetest.Example()
	sign := func(m reference.Manifest) []byte {
		data, err := reference.SignManifest(&m, f.World.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	other := manifest
	other.Sequence = 4
	flipped := bytes.Clone(message)
	flipped[len(flipped)/2] ^= 1

	dir := t.TempDir()
	file := save(t, dir, "message.cbor", message)
	bare := save(t, dir, "bare.cbor", sealed.Report)
	wrap := func(name string, r cmw.Record) string {
		data, err := cmw.Wrap(r)
		if err != nil {
			t.Fatal(err)
		}
		return save(t, dir, name, data)
	}
	wrapped := wrap("bare.cmw", cmw.Record{Format: cmw.EAT, Value: sealed.Report, Kind: cmw.EvidenceKind})
	alien := wrap("alien.cmw", cmw.Record{Type: "text/plain", Value: []byte("sound")})
	bad := save(t, dir, "flipped.cbor", flipped)
	large := save(t, dir, "large.cbor", make([]byte, attest.MaxMessageSize+1))
	empty := save(t, dir, "empty.cbor", nil)
	key := save(t, dir, "device.pub", public(t, d.Signer.Public()))
	stranger := save(t, dir, "stranger.pub", public(t, referencetest.Signer(t).Public()))
	edition := save(t, dir, "pump.manifest", sign(manifest))
	otherEdition := save(t, dir, "other.manifest", sign(other))
	root := save(t, dir, "root.pub", public(t, f.World.ManufacturerRoot.Public()))
	otherRoot := save(t, dir, "operator.pub", public(t, f.World.OperatorRoot.Public()))
	keys := save(t, dir, "keys.signed", f.World.ManufacturerKeys)
	const vector = "../../testdata/vectors/report/alarm.cbor"

	for _, tt := range []struct {
		name string
		args []string
		code int
		want string // parts, one a line
	}{
		{"unchecked", []string{file}, 0, "NOT CHECKED; it claims to be by key " + d.Signer.Public().ID().String() + "\nkey file, no TPM\nthe first report\ncpu.usage          unreadable: test\nboot.total         12000 ms\nTPM quote   none\n2 reports, ever"},
		{"unchecked app fact", []string{file}, 0, "fact 1000          120"},
		{"checked", []string{file, "--key", key}, 0, "valid, by key " + d.Signer.Public().ID().String()},
		{"signed report alone", []string{bare, "--key", key}, 0, "report 2 of device " + d.UEID.String() + "\nvalid, by key"},
		{"conceptual message", []string{wrapped, "--key", key}, 0, "report 2 of device " + d.UEID.String() + "\nvalid, by key"},
		{"conceptual message of another type", []string{alien, "--key", key}, exitRefused, "is no report: it is a conceptual message of type text/plain, want application/eat+cwt"},
		{"another key", []string{file, "--key", stranger}, exitRefused, "signed by another key"},
		{"no key at all", []string{file, "--key", file}, exitUsage, "no PEM block"},
		{"flipped", []string{bad, "--key", key}, exitRefused, "error: "},
		{"too large", []string{large}, exitRefused, "is no report"},
		{"empty", []string{empty}, exitRefused, "is no report"},
		{"not there", []string{filepath.Join(dir, "none")}, exitIO, "check the path"},
		{"explained", []string{file, "--manifest", edition, "--root", root, "--keys", keys}, 0, ", verified\ndeviates       operating: network.listening has tcp/0.0.0.0:4444, x\nwhich nobody declared\nnot appraised  operating: cpu.usage is unreadable\npasses         integration: boot.total is 12000 ms, as expected: 1000 to 30000 ms\napp.flow           120 ml/h"},
		{"manifest without trust", []string{file, "--manifest", edition}, 0, "manifest not verified, so the comparison is not told in words: give --root and --keys\noperating rule 1"},
		{"another edition", []string{file, "--manifest", otherEdition, "--root", root, "--keys", keys}, exitRefused, "the manifest is edition 4"},
		{"another root", []string{file, "--manifest", edition, "--root", otherRoot, "--keys", keys}, exitRefused, "in no key list"},
		{"root without keys", []string{file, "--manifest", edition, "--root", root}, exitUsage, "keys"},
		{"expired", []string{file, "--manifest", edition, "--root", root, "--keys", keys, "--at", "2040-01-01"}, exitRefused, "validity has ended"},
		{"paused", []string{vector}, 0, "paused by fail-safe since 2027-01-15 08:00:00 UTC: app.flow is 620 ml/h\ndone   freeze medical.slice: frozen 1, after 3 ms\nenergy.battery     absent: no battery\ncpu.usage          304 permille (300 to 304)"},
		{"deferred", []string{"../../testdata/vectors/report/deferral.cbor"}, 0, "deferred  for 5.5 s by the application, until the application let it come"},
		{"history without a manifest", []string{"../../testdata/vectors/report/history.cbor"}, 0, "fact 1000 over the last minute, from -120 to 620, then 620"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := strings.Split(tt.want, "\n")
			got := ctl(t, tt.code, append([]string{"report", "show"}, tt.args...)...)
			for _, w := range want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in\n%s", w, got)
				}
			}
			if strings.ContainsAny(got, "\x1b\u202e") {
				t.Errorf("the device controls the terminal: %q", got)
			}
		})
	}

	for _, tt := range []struct {
		edit func(*attest.Report)
		args []string
		want string
	}{
		{func(r *attest.Report) {}, nil, "deferred  by the application until 2027-01-15 08:05:00 UTC by the device's clock"},
		{func(r *attest.Report) { r.IssuedAt = 0 }, nil, "deferred  by the application until "},
		{func(r *attest.Report) {}, []string{"--manifest", edition, "--root", root, "--keys", keys}, "app.flow over the last minute, from 120 ml/h to 620 ml/h, then 620 ml/h"},
	} {
		r := d.Report(attest.KindAlarm)
		r.IssuedAt, r.Body.Stage = referencetest.Now, reference.StagePaused
		r.Body.Pause = &attest.Pause{ID: make([]byte, 16), Reason: "fail-safe"}
		r.Body.Deferral = &attest.Deferral{Began: r.Body.End, Until: r.Body.End + 300_000}
		r.Body.History = &attest.History{Fact: 1000, Samples: []attest.Sample{{At: r.Body.End - 1000, Value: 120}, {At: r.Body.End, Value: 620}}}
		tt.edit(r)
		file := save(t, dir, "deferred.cbor", verifiertest.Encode(t, d.Seal(r)))
		if got := ctl(t, 0, append([]string{"report", "show", file}, tt.args...)...); !strings.Contains(got, tt.want) {
			t.Errorf("no %q in\n%s", tt.want, got)
		}
	}

	var s shownReport
	if err := json.Unmarshal([]byte(ctl(t, 0, "report", "show", vector, "--json")), &s); err != nil {
		t.Fatal(err)
	}
	if s.Signature != "not checked" || s.Pause == nil || s.Pause.Effects[0].Observed != "frozen 1" || len(s.Results) != 5 || s.Results[4].Lasted != 3000 || *s.Facts[4].Max != 620 {
		t.Errorf("JSON says %+v", s)
	}
}
