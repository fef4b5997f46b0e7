package verifier_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// pumpLabel returns the label of the example manifest's model. It fits it.
func pumpLabel(t testing.TB, change ...func(*label.Label)) *label.Label {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "configs", "label-example.toml"))
	if err != nil {
		t.Fatal(err)
	}
	l, problems := label.Author(data)
	if l == nil {
		t.Fatal(problems)
		return nil
	}
	num := func(n int64) *int64 { return &n }
	l.Model, l.Boot = "pump-1", nil
	l.Connections = []label.Connection{{Protocol: "SSH", Reach: label.Local}}
	l.Cloud = []label.Place{}
	l.Runtime = []label.Runtime{
		{Fact: "boot.total", Unit: "ms", Integration: &label.Range{Min: num(1000), Max: num(30000)}},
		{Fact: "cpu.usage", Unit: "permille", Operating: &label.Range{Max: num(800)}},
	}
	for _, c := range change {
		c(l)
	}
	return l
}

// signLabel signs with the world's key for labels.
func signLabel(t testing.TB, key *cose.Signer, l *label.Label) []byte {
	t.Helper()
	data, err := label.Sign(l, key)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// labelled returns a fleet with labels.
func labelled(t testing.TB, w *referencetest.World, m reference.Manifest, files []verifier.LabelFile, change ...func(*verifier.Config)) *verifiertest.Fleet {
	t.Helper()
	return verifiertest.In(t, w, m, append(change, func(c *verifier.Config) { c.LabelTrust, c.Labels = w.Trust(t), files })...)
}

// plain makes d measure all that labels are held against; nothing of it contradicts.
func plain(d *verifiertest.Device) {
	d.Set(74, facts.SetValue([]string{"eth0 192.0.2.7/24"}))
	for _, k := range []facts.Key{71, 77, 78} {
		d.Set(k, facts.SetValue([]string{}))
	}
	d.Set(111, facts.TextValue("debian 12"))
	d.Set(114, facts.IntValue(referencetest.Now-3*86400))
}

func codes(found []verifier.Finding) []verifier.Reason {
	var out []verifier.Reason
	for _, f := range found {
		out = append(out, f.Code)
	}
	return out
}

func protected(by ...label.Protection) func(*label.Label) {
	return func(l *label.Label) { l.Boot = by }
}

// Each contradiction has a code of its own, in the words of the page, as a warning
// and in the signed result; what fits has none.
func TestLabelAgainstLife(t *testing.T) {
	num := func(n int64) *int64 { return &n }
	for _, tt := range []struct {
		name     string
		label    func(*label.Label)
		manifest func(*reference.Manifest)
		device   func(*verifiertest.Device)
		config   func(*verifier.Config)
		later    int64           // seconds until it is looked at
		want     verifier.Reason // "": all fits
		text     string
	}{
		{name: "all fits"},
		{name: "wireless", device: func(d *verifiertest.Device) { d.Set(77, facts.SetValue([]string{"wlan0"})) }, want: verifier.ReasonLabelRadio, text: "the label declares no wireless; the device has wlan0"},
		{name: "wireless declared", label: func(l *label.Label) { l.Connections[0].Protocol = "WiFi (SSH)" }, device: func(d *verifiertest.Device) { d.Set(77, facts.SetValue([]string{"wlan0"})) }},
		{name: "Bluetooth", device: func(d *verifiertest.Device) { d.Set(78, facts.SetValue([]string{"hci0"})) }, want: verifier.ReasonLabelBluetooth, text: "declares no Bluetooth; the device has hci0"},
		{name: "BLE declared", label: func(l *label.Label) { l.Connections[0].Protocol = "BLE, SSH" }, device: func(d *verifiertest.Device) { d.Set(78, facts.SetValue([]string{"hci0"})) }},
		{name: "stable is not BLE", label: func(l *label.Label) { l.Connections[0].Protocol = "stable SSH" }, device: func(d *verifiertest.Device) { d.Set(78, facts.SetValue([]string{"hci0"})) }, want: verifier.ReasonLabelBluetooth},
		{name: "no connection at all", label: func(l *label.Label) { l.Connections = []label.Connection{} }, want: verifier.ReasonLabelNetwork, text: "has addresses: eth0 192.0.2.7/24"},
		{name: "local only", device: func(d *verifiertest.Device) {
			d.Set(71, facts.SetValue([]string{"10.0.0.1:8883", "198.51.100.9:443", "[fd00::1]:443"}))
		}, want: verifier.ReasonLabelCloud, text: "is connected to 198.51.100.9:443"},
		{name: "the hospital's own address", device: func(d *verifiertest.Device) { d.Set(71, facts.SetValue([]string{"198.51.100.9:443"})) },
			config: func(c *verifier.Config) { c.OwnNetworks = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} }},
		{name: "cloud declared", label: func(l *label.Label) {
			l.Connections[0].Reach, l.Cloud = label.CloudAndLocal, []label.Place{{Country: "NL"}}
		}, device: func(d *verifiertest.Device) { d.Set(71, facts.SetValue([]string{"198.51.100.9:443"})) }},
		// The manifest declares port 22 alone, so what is beyond it deviates there too.
		{name: "a service", device: func(d *verifiertest.Device) {
			d.Set(verifiertest.Listening, facts.SetValue([]string{"tcp/0.0.0.0:22", "tcp/0.0.0.0:4444", "tcp/127.0.0.1:631", "udp/0.0.0.0:68"}))
		}, want: verifier.ReasonLabelService, text: "neither the label nor the manifest declares what listens at tcp/0.0.0.0:4444"},
		{name: "a service by its protocol", label: func(l *label.Label) { l.Connections[0].Protocol = "SSH, DICOM" }, device: func(d *verifiertest.Device) {
			d.Set(verifiertest.Listening, facts.SetValue([]string{"tcp/0.0.0.0:22", "tcp/[::]:11112", "udp/0.0.0.0:40000"}))
		}},
		{name: "a range", label: func(l *label.Label) { l.Runtime[1].Operating.Max = num(900) }, want: verifier.ReasonLabelRange, text: "cpu.usage of operating"},
		{name: "a range that nobody compares", label: func(l *label.Label) {
			l.Runtime[1].FailSafe = &label.Range{Max: num(980)}
		}, want: verifier.ReasonLabelRange, text: "the manifest does not compare it"},
		{name: "an older label", label: func(l *label.Label) { l.Runtime[1].Operating.Max, l.From = num(900), 19000 }, want: verifier.ReasonLabelRange, text: "the label is of 2022-01-08, the manifest of 2023-11-14"},
		{name: "boot to be proved by a TPM", manifest: func(m *reference.Manifest) {
			m.Boot = &reference.Boot{PCRs: []int{0, 7}, Accept: [][]byte{make([]byte, 32)}}
		}, want: verifier.ReasonLabelBoot, text: "key file, no TPM"},
		{name: "Secure Boot is off", label: protected(label.SecureBoot), device: func(d *verifiertest.Device) { d.Set(10, facts.BoolValue(false)) },
			want: verifier.ReasonLabelProtected, text: "secure boot: off, as the device says"},
		{name: "Secure Boot is said to be on", label: protected(label.SecureBoot), device: func(d *verifiertest.Device) { d.Set(10, facts.BoolValue(true)) }},
		{name: "measured boot without a TPM", label: protected(label.MeasuredBoot, label.SecureBoot), want: verifier.ReasonLabelProtected, text: "measured boot: the device has a key file, no TPM; secure boot: no report has told it"},
		{name: "no verified root", label: protected(label.VerifiedRoot), device: func(d *verifiertest.Device) { d.Set(63, facts.BoolValue(false)) },
			want: verifier.ReasonLabelProtected, text: "verified root: no dm-verity device is active"},
		{name: "verified root", label: protected(label.VerifiedRoot), device: func(d *verifiertest.Device) {
			d.Set(63, facts.BoolValue(true))
			d.Set(15, facts.BytesValue([]byte{0x12, 0x34, 0x56, 0x78, 0x9a}))
		}},
		{name: "no update", later: 70 * 86400, want: verifier.ReasonLabelUpdates, text: "promised at least every 60 days; 73 days passed without a change"},
		{name: "support", label: func(l *label.Label) { l.Updates.SupportUntil = label.DayOf(referencetest.Now) - 1 }, want: verifier.ReasonLabelSupport, text: "security support has ended on 2027-01-14"},
		{name: "end of life", label: func(l *label.Label) { l.Updates.EndOfLife = label.DayOf(referencetest.Now) - 1 }, want: verifier.ReasonLabelSupport, text: "after its end of life"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := referencetest.New(t)
			m := referencetest.Example()
			if tt.manifest != nil {
				tt.manifest(&m)
			}
			l := pumpLabel(t)
			if tt.label != nil {
				tt.label(l)
			}
			config := func(*verifier.Config) {}
			if tt.config != nil {
				config = tt.config
			}
			f := labelled(t, w, m, []verifier.LabelFile{{Name: "pump.label", Data: signLabel(t, w.Label, l)}}, config)
			d := f.NewDevice().Enrolled()
			plain(d)
			if tt.device != nil {
				tt.device(d)
			}
			d.Accepted(d.Message(attest.KindBoot))
			f.Now += tt.later
			r := d.Accepted(d.Message(attest.KindRoutine))
			v := d.View()
			for where, found := range map[string][]verifier.Finding{"record": r.Findings, "page": v.Findings} {
				var contradictions []verifier.Finding
				for _, x := range found {
					if strings.HasPrefix(string(x.Code), "label-") && x.Tier != verifier.TierNone {
						contradictions = append(contradictions, x)
					}
				}
				switch {
				case tt.want == "" && len(contradictions) > 0:
					t.Errorf("%s: %v, though all fits", where, contradictions)
				case tt.want != "" && (len(contradictions) != 1 || contradictions[0].Code != tt.want || contradictions[0].Tier != verifier.TierWarning || !strings.Contains(contradictions[0].Text, tt.text)):
					t.Errorf("%s: %v, want a warning %s with %q alone", where, contradictions, tt.want, tt.text)
				}
			}
			result, err := verifier.OpenResult(r.Result, w.Result.Public())
			if err != nil {
				t.Fatal(err)
			}
			a := result.Submods[d.UEID.String()]
			if tt.want != "" && a.Status < verifier.TierWarning {
				t.Errorf("the result is %s in spite of a contradiction", a.Status)
			}
			in := a.Details.Label
			if in == nil || in.State != verifier.LabelValid || in.Sequence != 1 || len(in.SHA256) != 32 || in.Inspect == 0 {
				t.Fatalf("the result says of the label: %+v", in)
			}
			for code, verdict := range in.Checks {
				if (verdict == verifier.Contradicts) != (code == tt.want) {
					t.Errorf("the result says of %s: %s", code, verdict)
				}
			}
		})
	}
}

// What the label says of the boot is held against the boot that a quote proves, before
// what the device says of it.
func TestLabelAgainstBoot(t *testing.T) {
	off, on := recordedBoot(t, "edk2"), recordedBoot(t, "secboot")
	for _, tt := range []struct {
		name     string
		boot     bootLog
		manifest bootLog
		claims   []label.Protection
		device   func(*machine) *verifier.Record
		want     verifier.Verdict
		text     string
	}{
		{"on, proved", on, on, []label.Protection{label.SecureBoot, label.MeasuredBoot}, (*machine).quotes, verifier.Fits, "secure boot: on, as the event log and the quoted PCR 7 prove; measured boot: a quote proves what was measured"},
		{"off, proved, whatever the device says", off, off, []label.Protection{label.SecureBoot}, func(m *machine) *verifier.Record {
			m.Set(10, facts.BoolValue(true))
			return m.quotes()
		}, verifier.Contradicts, "secure boot: off, as the event log"},
		{"off, and on in the manifest", off, on, []label.Protection{label.MeasuredBoot, label.SecureBoot}, (*machine).quotes, verifier.Contradicts, "secure boot: off, as the event log"},
		{"another boot, with Secure Boot", on, off, []label.Protection{label.SecureBoot, label.MeasuredBoot}, (*machine).quotes, verifier.Fits, "secure boot: on, as the event log"},
		{"the log is missing", on, on, []label.Protection{label.SecureBoot, label.MeasuredBoot}, func(m *machine) *verifier.Record {
			delete(m.logs, attest.LogFirmware)
			m.Set(10, facts.BoolValue(true))
			return m.quotes()
		}, verifier.Open, "secure boot: on, as the device says; no quote proves it; measured boot: a quote proves"},
		{"no quote yet", on, on, []label.Protection{label.MeasuredBoot}, func(m *machine) *verifier.Record {
			return m.says(m.message(m.Report(attest.KindRoutine), false))
		}, verifier.Open, "measured boot: no quote of the present boot has come"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := referencetest.New(t)
			f := labelled(t, w, manifestOf(t, map[string]bootLog{"A": tt.manifest}), []verifier.LabelFile{{Name: "pump.label", Data: signLabel(t, w.Label, pumpLabel(t, protected(tt.claims...)))}})
			m := newMachine(f, tt.boot)
			tt.device(m)
			i := slices.IndexFunc(m.View().Life.Checks, func(c verifier.Check) bool { return c.Code == verifier.ReasonLabelProtected })
			if c := m.View().Life.Checks[i]; c.Verdict != tt.want || !strings.Contains(c.Text, tt.text) {
				t.Errorf("%s: %s, want %s: %s", c.Verdict, c.Text, tt.want, tt.text)
			}
			want, proved := int64(1000), strings.Contains(tt.text, "as the event log")
			if strings.Contains(tt.text, "secure boot: off") {
				want = 0
			}
			if share, told := counted(t, f, verifier.Survey{Inventory: 1}).Data.Values["secure_boot_share"]; proved && (!told || share != want) {
				t.Errorf("secure_boot_share is %d (told: %t), want %d", share, told, want)
			}
		})
	}
}

// A TPM into which nothing was measured proves no boot.
func TestLabelNothingMeasured(t *testing.T) {
	w := referencetest.New(t)
	m := referencetest.Example()
	empty := make([]byte, 32)
	var values []attest.PCR
	for pcr := range 8 {
		values = append(values, attest.PCR{Index: pcr, Digest: empty})
	}
	m.Boot = &reference.Boot{PCRs: []int{0, 1, 2, 3, 4, 5, 6, 7}, Accept: [][]byte{attest.PCRDigest(values)}}
	f := labelled(t, w, m, []verifier.LabelFile{{Name: "pump.label", Data: signLabel(t, w.Label, pumpLabel(t, protected(label.MeasuredBoot, label.SecureBoot)))}})
	d := f.NewTPMDevice(tpmtest.New(t).Addr).Enrolled()
	d.Set(10, facts.BoolValue(true))
	r := d.Accepted(d.Message(attest.KindBoot))
	i := slices.IndexFunc(r.Findings, func(x verifier.Finding) bool { return x.Code == verifier.ReasonLabelProtected })
	if i < 0 || !strings.Contains(r.Findings[i].Text, "measured boot: all quoted PCRs are empty: nothing was measured; secure boot: on, as the device says, and the quoted PCR 7 is the manifest's") {
		t.Errorf("%+v", r.Findings)
	}
}

// What nothing tells is said not to be appraised, check by check and as a finding.
func TestLabelNotAppraised(t *testing.T) {
	w := referencetest.New(t)
	f := labelled(t, w, referencetest.Example(), []verifier.LabelFile{{Name: "pump.label", Data: signLabel(t, w.Label, pumpLabel(t))}})
	d := f.NewDevice().Enrolled()
	d.Set(71, facts.SetValue([]string{}))
	d.Status(77, facts.Unreadable)
	d.Accepted(d.Message(attest.KindBoot))
	v := d.View()
	open := map[verifier.Reason]string{}
	for _, c := range v.Life.Checks {
		if c.Verdict == verifier.Open {
			open[c.Code] = c.Text
		}
	}
	want := []verifier.Reason{verifier.ReasonLabelRadio, verifier.ReasonLabelBluetooth, verifier.ReasonLabelNetwork, verifier.ReasonLabelBoot, verifier.ReasonLabelProtected, verifier.ReasonLabelSBOM, verifier.ReasonLabelUpdates, verifier.ReasonLabelParts}
	if len(open) != len(want) {
		t.Errorf("not appraised: %v", open)
	}
	for _, code := range want {
		if open[code] == "" {
			t.Errorf("%s: want not appraised, with the reason", code)
		}
	}
	if !strings.Contains(open[verifier.ReasonLabelRadio], "unreadable") || !strings.Contains(open[verifier.ReasonLabelBluetooth], "no report") {
		t.Errorf("unreadable and never told are two reasons: %v", open)
	}
	i := slices.Index(codes(v.Findings), verifier.ReasonLabelOpen)
	if i < 0 || v.Findings[i].Tier != verifier.TierNone || !strings.Contains(v.Findings[i].Text, "wireless, Bluetooth") {
		t.Errorf("no finding says what was not appraised: %v", v.Findings)
	}
}

// A label that does not count is shown with its state, and why.
func TestLabelsThatDoNotCount(t *testing.T) {
	w := referencetest.New(t)
	stranger := referencetest.Signer(t)
	good := signLabel(t, w.Label, pumpLabel(t))
	altered := slices.Clone(good)
	altered[len(altered)-1] ^= 1
	at := func(sequence uint64, change ...func(*label.Label)) []byte {
		return signLabel(t, w.Label, pumpLabel(t, append(change, func(l *label.Label) { l.Sequence = sequence })...))
	}
	ended := at(2, func(l *label.Label) { l.Until = label.DayOf(referencetest.Now) - 1 })
	begins := at(2, func(l *label.Label) { l.From = label.DayOf(referencetest.Now) + 2 })
	revoked := referencetest.New(t)
	keys := reference.Keys{Version: 1, Owner: reference.Manufacturer, Sequence: 2, Keys: []reference.ListedKey{
		{Key: w.Manifest.Public(), Role: reference.RoleManifest, Name: "m", NotBefore: 1, NotAfter: 4_000_000_000},
		{Key: w.Label.Public(), Role: reference.RoleLabel, Name: "lost", NotBefore: 1, NotAfter: 4_000_000_000, RevokedFrom: 100},
	}}
	var err error
	if revoked.ManufacturerKeys, err = reference.SignKeys(&keys, w.ManufacturerRoot); err != nil {
		t.Fatal(err)
	}
	lost := *w
	lost.ManufacturerKeys = revoked.ManufacturerKeys
	for _, tt := range []struct {
		name  string
		world *referencetest.World
		files []verifier.LabelFile
		state verifier.LabelState
		code  verifier.Reason // "": the label counts
		tier  verifier.Tier
		text  string
	}{
		{"none", w, nil, verifier.LabelMissing, verifier.ReasonLabelMissing, verifier.TierNone, "no label of Example Medical pump-1 is here"},
		{"of another model", w, []verifier.LabelFile{{Name: "a", Data: at(1, func(l *label.Label) { l.Model = "pump-2" })}}, verifier.LabelMissing, verifier.ReasonLabelMissing, verifier.TierNone, "is here"},
		{"no label", w, []verifier.LabelFile{{Name: "a", Data: []byte("nothing")}}, verifier.LabelMissing, verifier.ReasonLabelMissing, verifier.TierNone, "1 files could not be read as labels"},
		{"a disk that fails", w, []verifier.LabelFile{{Name: "a", Err: errors.New("input/output error")}}, verifier.LabelMissing, verifier.ReasonLabelMissing, verifier.TierNone, "1 files could not be read"},
		{"altered", w, []verifier.LabelFile{{Name: "a", Data: altered}}, verifier.LabelRefused, verifier.ReasonLabelRefused, verifier.TierWarning, "signature is not valid"},
		{"a stranger's", w, []verifier.LabelFile{{Name: "a", Data: signLabel(t, stranger, pumpLabel(t))}}, verifier.LabelRefused, verifier.ReasonLabelRefused, verifier.TierWarning, "key is in no key list"},
		{"by the manifest's key", w, []verifier.LabelFile{{Name: "a", Data: signLabel(t, w.Manifest, pumpLabel(t))}}, verifier.LabelRefused, verifier.ReasonLabelRefused, verifier.TierWarning, "has role manifest"},
		{"ended", w, []verifier.LabelFile{{Name: "a", Data: ended}}, verifier.LabelExpired, verifier.ReasonLabelExpired, verifier.TierWarning, "is expired: cannot open label: validity has ended"},
		{"not begun", w, []verifier.LabelFile{{Name: "a", Data: begins}}, verifier.LabelNotYet, verifier.ReasonLabelExpired, verifier.TierWarning, "has not begun"},
		{"by a lost key", &lost, []verifier.LabelFile{{Name: "a", Data: good}}, verifier.LabelRevoked, verifier.ReasonLabelRevoked, verifier.TierWarning, "key was revoked"},
		{"two with one sequence", w, []verifier.LabelFile{{Name: "a", Data: good}, {Name: "b", Data: at(1, func(l *label.Label) { l.UDI = "(01)2" })}}, verifier.LabelRefused, verifier.ReasonLabelRefused, verifier.TierWarning, "another label of this model has sequence 1 too: b"},
		{"one copied", w, []verifier.LabelFile{{Name: "a", Data: good}, {Name: "b", Data: good}}, verifier.LabelValid, "", 0, ""},
		{"beside a good one", w, []verifier.LabelFile{{Name: "a", Data: altered}, {Name: "b", Data: good}, {Name: "c", Data: ended}}, verifier.LabelValid, "", 0, ""},
		{"a newer one", w, []verifier.LabelFile{{Name: "a", Data: good}, {Name: "b", Data: at(7)}}, verifier.LabelValid, "", 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := labelled(t, tt.world, referencetest.Example(), tt.files)
			d := f.NewDevice().Enrolled()
			plain(d)
			r := d.Accepted(d.Message(attest.KindBoot))
			v := d.View()
			if v.Life.Label.State != tt.state || tt.name == "a newer one" && v.Life.Label.Sequence != 7 {
				t.Errorf("the label is %s (edition %d): %s; want %s", v.Life.Label.State, v.Life.Label.Sequence, v.Life.Label.Why, tt.state)
			}
			if shown := f.Labels(f.Now); len(shown) != len(tt.files) {
				t.Errorf("%d files are shown of %d", len(shown), len(tt.files))
			}
			for where, found := range map[string][]verifier.Finding{"record": r.Findings, "page": v.Findings} {
				i := slices.IndexFunc(found, func(x verifier.Finding) bool { return x.Code == tt.code })
				switch {
				case tt.code == "":
					if slices.ContainsFunc(found, func(x verifier.Finding) bool { return x.Tier > verifier.TierNone }) {
						t.Errorf("%s: %v", where, found)
					}
				case i < 0 || found[i].Tier != tt.tier || !strings.Contains(found[i].Text, tt.text):
					t.Errorf("%s: %v, want %s with %q", where, found, tt.code, tt.text)
				}
			}
			result, err := verifier.OpenResult(r.Result, w.Result.Public())
			if err != nil {
				t.Fatal(err)
			}
			if in := result.Submods[d.UEID.String()].Details.Label; in == nil || in.State != tt.state {
				t.Errorf("the result says %+v", in)
			}
		})
	}
}

// A label ends while the verifier runs, and the page says so without a new report.
func TestLabelEnds(t *testing.T) {
	w := referencetest.New(t)
	f := labelled(t, w, referencetest.Example(), []verifier.LabelFile{{Name: "a", Data: signLabel(t, w.Label, pumpLabel(t, func(l *label.Label) { l.Until = label.DayOf(referencetest.Now) }))}})
	d := f.NewDevice().Enrolled()
	d.Accepted(d.Message(attest.KindBoot))
	if v := d.View(); v.Life.Label.State != verifier.LabelValid {
		t.Fatalf("%+v", v.Life.Label)
	}
	f.Now += 86400
	if v := d.View(); v.Life.Label.State != verifier.LabelExpired || !slices.Contains(codes(v.Findings), verifier.ReasonLabelExpired) {
		t.Errorf("after its last day: %+v, %v", v.Life.Label, v.Findings)
	}
}

// Without labels nothing is said of them, in the result as little as on the page.
func TestWithoutLabels(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	r := d.Accepted(d.Message(attest.KindBoot))
	result, err := verifier.OpenResult(r.Result, f.World.Result.Public())
	if err != nil {
		t.Fatal(err)
	}
	if v := d.View(); v.Life != nil || result.Submods[d.UEID.String()].Details.Label != nil || f.Labels(f.Now) != nil {
		t.Errorf("%+v", v.Life)
	}
	if _, err := verifier.New(verifier.Config{NoReferences: true, Result: f.World.Result, Labels: []verifier.LabelFile{{Name: "a"}}}, f.Store); err == nil {
		t.Error("labels without keys were taken")
	}
}

// The date moves with what reports tell, and when its day has come there are tasks.
func TestDayOfInspection(t *testing.T) {
	w := referencetest.New(t)
	l := pumpLabel(t, func(l *label.Label) {
		l.Inspection.Components = nil
		l.Inspection.DailyUse = 0
		l.Updates.Every, l.Updates.SupportUntil, l.Until = 400, label.DayOf(referencetest.Now)+4000, label.DayOf(referencetest.Now)+4000
		l.Made = label.DayOf(referencetest.Now) - 600
		l.Inspection.Parameters = nil
		for _, k := range []label.Kind{label.OperatingHours, label.FlashWear, label.BatteryCycles, label.UpdateObserved, label.HotHours, label.CriticalFlaws} {
			l.Inspection.Parameters = append(l.Inspection.Parameters, label.Parameter{Kind: k, Direction: label.Earlier, Per: 1, Days: 1, Limit: 10, Reason: "above 60 °C"})
		}
	})
	files := []verifier.LabelFile{{Name: "a", Data: signLabel(t, w.Label, l)}}
	written := map[attest.UEID]label.Observation{}
	f := labelled(t, w, referencetest.Example(), files, func(c *verifier.Config) { c.Observed = written })
	d := f.NewDevice().Enrolled()
	written[d.UEID] = label.Observation{Amounts: map[label.Kind]uint32{label.CriticalFlaws: 3, label.OperatingHours: 9}}
	moved := func() map[string]int64 {
		t.Helper()
		v := d.View()
		if v.Life.NoDate != "" {
			t.Fatal(v.Life.NoDate)
		}
		days := map[string]int64{}
		for _, s := range v.Life.Date.Steps {
			if s.Known {
				days[s.What] = -s.Days
			}
		}
		return days
	}
	if o, err := f.Observed(f.Now, d.UEID); err != nil || o.Version != 1 || len(o.Amounts)+len(o.Firmware)+len(o.Temperature) != 0 {
		t.Errorf("before a report: %+v, %v", o, err)
	}
	if got := moved(); got["flaws_critical"] != 3 || got["operating_hours"] != 9 || len(got) != 3 {
		t.Errorf("before a report: %v", got)
	}
	d.Set(101, facts.IntValue(5))
	d.Set(61, facts.IntValue(7))
	d.Set(47, facts.IntValue(2))
	d.Set(50, facts.IntValue(63_000))
	d.Set(111, facts.TextValue("system 1"))
	d.Accepted(d.Message(attest.KindBoot))
	if got := moved(); got["operating_hours"] != 5 || got["flash_wear"] != 7 || got["battery_cycles"] != 2 || got["hot_hours"] != 0 || got["update_observed"] != 0 {
		t.Errorf("after the first report: %v; what reports tell counts before what people wrote", got)
	}
	// Two hours at 63 °C, then one at 50 °C; what one report covers counts once.
	hour := func(temperature int64) []byte {
		d.Set(50, facts.IntValue(temperature))
		r := d.Report(attest.KindRoutine)
		r.Body.Begin, r.Body.End = d.Uptime-10_000, d.Uptime-10_000+3_600_000
		d.Uptime = r.Body.End
		return verifiertest.Encode(t, d.Seal(r))
	}
	for _, temperature := range []int64{63_000, 63_000, 50_000} {
		d.Accepted(hour(temperature))
	}
	if got := moved()["hot_hours"]; got != 1 && got != 2 {
		t.Errorf("%d hot hours, want 2 less some seconds", got)
	}
	// An update after 9 days, and none for 8 days since: 9 is the cycle.
	f.Now += 9 * 86400
	d.Set(111, facts.TextValue("system 2"))
	d.Reboot()
	d.Accepted(d.Message(attest.KindBoot))
	f.Now += 8 * 86400
	if got := moved()["update_observed"]; got != 9 {
		t.Errorf("updates come every %d days", got)
	}
	o, err := f.Observed(f.Now, d.UEID)
	if err != nil {
		t.Fatal(err)
	}
	exported, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := label.ReadObserved(exported); err != nil || read.Amounts[label.UpdateObserved] != 9 || len(o.Firmware) != 2 || o.Firmware[1].Version != "system 2, manifest 3" {
		t.Errorf("exported %s: %v", exported, err)
	}
	v := d.View()
	if v.Life.Due(f.Now) || slices.Contains(codes(v.Findings), verifier.ReasonInspection) {
		t.Fatalf("due on %s already", v.Life.Date.Inspect)
	}
	f.Now = v.Life.Date.Inspect.Start()
	d.Accepted(d.Message(attest.KindRoutine))
	v = d.View()
	if !v.Life.Due(f.Now) || !slices.Contains(codes(v.Findings), verifier.ReasonInspection) {
		t.Errorf("on its day, %s, it is not due: %v", v.Life.Date.Inspect, v.Findings)
	}
	if len(v.Life.Tasks) != len(label.Tasks(label.English)) || !strings.HasPrefix(v.Life.Tasks[0].Known, "system 2; last change seen on ") ||
		!strings.Contains(v.Life.Tasks[0].Known, "its manifest, 3, is the newest here") || v.Life.Tasks[1].Known != "in its present boot it is in stage operating; that is boot 2" || v.Life.Tasks[3].Known != "" {
		t.Errorf("tasks: %+v", v.Life.Tasks)
	}
	// The term begins anew with an inspection that an operator records, or a person
	// wrote down, whichever is later.
	was, today := v.Life.Date.Inspect, label.DayOf(f.Now)
	for _, tt := range []struct {
		on   label.Day
		by   string
		want string
	}{
		{today + 1, "M. Muster", "is not a day until today"}, {0, "M. Muster", "is not a day"}, {today, "", "say who"},
		{today, strings.Repeat("M", 65), "say who"}, {today, "M\nMuster", "say who"},
	} {
		if err := f.Inspected(f.Now, d.UEID, tt.on, tt.by); !errors.Is(err, verifier.ErrState) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("inspected on %s by %q: %v", tt.on, tt.by, err)
		}
	}
	if err := f.Inspected(f.Now, attest.UEID{9}, today, "M. Muster"); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("of nobody: %v", err)
	}
	if err := f.Inspected(f.Now, f.NewDevice().UEID, today, "M. Muster"); err == nil {
		t.Error("of a device that was not approved")
	}
	if v := d.View(); v.Life.Date.Inspect != was {
		t.Errorf("what was refused moved the day from %s to %s", was, v.Life.Date.Inspect)
	}
	begins := func(want string) {
		t.Helper()
		v := d.View()
		step := v.Life.Date.Steps[0]
		if v.Life.Due(f.Now) || slices.Contains(codes(v.Findings), verifier.ReasonInspection) || v.Life.Date.Inspect <= was || step.What != "inspected" || !strings.Contains(step.Why, want) {
			t.Errorf("want %q: %+v, %v", want, v.Life.Date, v.Findings)
		}
	}
	if err := f.Inspected(f.Now, d.UEID, today, "M. Muster"); err != nil {
		t.Fatal(err)
	}
	begins("on " + today.String() + " by M. Muster")
	written[d.UEID] = label.Observation{Inspected: today - 1, InspectedBy: "ward 3"}
	begins("by M. Muster")
	f.Now += 86400
	written[d.UEID] = label.Observation{Inspected: today + 1, InspectedBy: "ward 3"}
	begins("by ward 3")
	r := d.Accepted(d.Message(attest.KindRoutine)) // which keeps what was recorded
	delete(written, d.UEID)
	begins("by M. Muster")
	result, err := verifier.OpenResult(r.Result, w.Result.Public())
	if in := result.Submods[d.UEID.String()].Details.Label; err != nil || in == nil || in.Inspect <= was {
		t.Errorf("the result says %+v, %v", in, err)
	}
}

// Without a day to begin with there is no date, and the page says why.
func TestNoDay(t *testing.T) {
	w := referencetest.New(t)
	written := map[attest.UEID]label.Observation{}
	f := labelled(t, w, referencetest.Example(), []verifier.LabelFile{{Name: "a", Data: signLabel(t, w.Label, pumpLabel(t, func(l *label.Label) { l.Made = 0 }))}},
		func(c *verifier.Config) { c.Observed = written })
	d := f.NewDevice().Enrolled()
	if v := d.View(); !strings.Contains(v.Life.NoDate, "no day of purchase known") || len(v.Life.Tasks) > 0 || v.Life.Due(f.Now) {
		t.Errorf("%+v", v.Life)
	}
	written[d.UEID] = label.Observation{Purchased: label.DayOf(f.Now) - 3}
	if v := d.View(); v.Life.NoDate != "" || v.Life.Date.Start != label.DayOf(f.Now)-3 {
		t.Errorf("%+v", v.Life)
	}
}
