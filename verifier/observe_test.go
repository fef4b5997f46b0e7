package verifier_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/maturity"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// tampering returns a manifest whose fail-safe stage begins when the case is opened.
func tampering() reference.Manifest {
	m := referencetest.Example()
	m.FailSafe = append(m.FailSafe, reference.Rule{Fact: 95, Op: reference.Equal, Values: []facts.Value{facts.BoolValue(false)}})
	return m
}

func counted(t testing.TB, f *verifiertest.Fleet, s verifier.Survey) *verifier.Counted {
	t.Helper()
	c, err := f.Observations(f.Now, f.Store, s)
	if err != nil {
		t.Fatal(err)
	}
	// What is written is what the maturity model reads.
	data, err := c.Data.JSON()
	if err != nil {
		t.Fatal(err)
	}
	read, err := maturity.ReadData(data)
	if err != nil || !maps.Equal(read.Values, c.Data.Values) {
		t.Fatalf("%v: %s", err, data)
	}
	return c
}

// What the store knows speaks about criteria; what it does not know says nothing,
// and what is known to be bad of one device speaks in spite of the others.
func TestObservations(t *testing.T) {
	w := referencetest.New(t)
	f := labelled(t, w, tampering(), []verifier.LabelFile{{Name: "a", Data: signLabel(t, w.Label, pumpLabel(t, func(l *label.Label) { l.Updates.Every = 60 }))}})
	survey := verifier.Survey{Inventory: 3, Criticality: map[string]verifier.Criticality{"pump-1": verifier.Medium}, Certificates: true}
	if _, err := f.Observations(f.Now, f.Store, survey); err == nil || !strings.Contains(err.Error(), "no approved device has reported") {
		t.Errorf("an empty fleet: %v", err)
	}
	d := f.NewDevice().Enrolled()
	plain(d)
	d.Set(10, facts.BoolValue(true))
	d.Set(95, facts.BoolValue(false))
	d.Accepted(d.Message(attest.KindBoot))
	day := f.Now
	for range 3 {
		f.Now += 60
		d.Accepted(d.Message(attest.KindRoutine))
	}
	f.NewDevice().Enrolled() // has not reported, so nothing is about it
	for _, tt := range []struct {
		id   string
		want int64 // -1: not told
	}{
		{"boot_evidence_share", 0}, {"certificate_share", 1000}, {"downtime_medium_hours", 0}, {"downtime_high_hours", -1}, {"downtime_low_hours", -1},
		{"hardware_identity_share", 0}, {"plaintext_connections", -1}, {"runtime_appraised_share", 1000}, {"secure_boot_share", 1000}, {"security_events", -1},
		{"shared_keys", 0}, {"tamper_alarm_share", 1000}, {"tamper_logged_share", 1000}, {"tls_min_version", -1}, {"tpm_backed_share", 0},
		{"undeclared_services", 0}, {"unexplained_updates", 0}, {"updated_in_cycle_share", -1}, {"security_budget", -1}, {"unchecked_links", -1},
	} {
		got, told := counted(t, f, survey).Data.Values[tt.id]
		if told != (tt.want >= 0) || told && got != tt.want {
			t.Errorf("%s: %d (told: %t), want %d", tt.id, got, told, tt.want)
		}
	}
	c := counted(t, f, survey)
	if c.Data.Devices != 1 || c.Data.Inventory != 3 || !c.Data.From.Equal(time.Unix(day, 0).UTC().Truncate(24*time.Hour)) {
		t.Errorf("%+v", c.Data)
	}
	for _, note := range []string{"updated_in_cycle_share: not known of 1 devices", "0 alarms and 0 pauses", "no record of whom devices talk to", "less than a year proves nothing"} {
		if !slices.ContainsFunc(c.Notes, func(n string) bool { return strings.Contains(n, note) }) {
			t.Errorf("no note says %q: %q", note, c.Notes)
		}
	}

	// Another device: software without a word of the manufacturer, a service, an open
	// case that nobody sees, reports that did not come, and no secure boot.
	e := f.NewDevice().Enrolled()
	plain(e)
	e.Set(10, facts.BoolValue(false))
	e.Set(verifiertest.Listening, facts.SetValue([]string{"tcp/0.0.0.0:22", "tcp/0.0.0.0:23"}))
	e.Accepted(e.Message(attest.KindBoot))
	e.Set(111, facts.TextValue("debian 13"))
	e.Reboot()
	e.Accepted(e.Message(attest.KindBoot))
	e.Message(attest.KindRoutine) // lost
	alarm := e.Report(attest.KindAlarm)
	e.Accepted(verifiertest.Encode(t, e.Seal(alarm)))
	values := counted(t, f, survey).Data.Values
	for id, want := range map[string]int64{
		"secure_boot_share": 500, "tamper_logged_share": 500, "tamper_alarm_share": 500, "undeclared_services": 1, "unexplained_updates": 1, "updated_in_cycle_share": -1,
	} {
		if got, told := values[id]; told != (want >= 0) || told && got != want {
			t.Errorf("%s: %d (told: %t), want %d", id, got, told, want)
		}
	}
	if _, err := f.Observations(f.Now, f.Store, verifier.Survey{Inventory: 1}); err == nil || !strings.Contains(err.Error(), "more than the inventory") {
		t.Errorf("more devices than there are: %v", err)
	}
	delete(survey.Criticality, "pump-1")
	c = counted(t, f, survey)
	if _, told := c.Data.Values["downtime_medium_hours"]; told || !slices.ContainsFunc(c.Notes, func(n string) bool { return strings.Contains(n, "criticality of pump-1 was not said") }) {
		t.Errorf("downtime without criticality: %v", c.Notes)
	}
	if !slices.ContainsFunc(c.Notes, func(n string) bool { return strings.Contains(n, "1 alarms and 0 pauses") }) {
		t.Errorf("events: %q", c.Notes)
	}
}

// A device with a TPM proves what the model asks of TPMs; it does so end to end.
func TestObservationsProve(t *testing.T) {
	m := tampering()
	addr := tpmtest.Start(t)
	w := referencetest.New(t)
	f := labelled(t, w, m, []verifier.LabelFile{{Name: "a", Data: signLabel(t, w.Label, pumpLabel(t))}})
	d := f.NewTPMDevice(addr).Enrolled()
	plain(d)
	d.Set(10, facts.BoolValue(true))
	d.Set(95, facts.BoolValue(false))
	d.Accepted(d.Message(attest.KindBoot))
	c := counted(t, f, verifier.Survey{Inventory: 1, Certificates: true, Talk: []verifier.Talk{{Lowest: 12}}})
	text, err := os.ReadFile(filepath.Join("..", "configs", "maturity-example.toml"))
	if err != nil {
		t.Fatal(err)
	}
	a, problems := maturity.Read(text)
	if a == nil {
		t.Fatal(problems)
	}
	a.Date = c.Data.Until
	standings := map[string]string{}
	for _, s := range maturity.Evaluate(a, c.Data).Results {
		standings[s.Criterion.ID] = string(s.Standing)
	}
	for id, want := range map[string]string{
		"structure.data.3.tpm": "proved", "structure.data.1.crypto_coprocessor": "proved", "structure.data.4.secure_boot": "proved",
		"process.malfunction.2.log_tampering": "proved", "process.malfunction.3.tamper_alerts": "proved", "process.malfunction.1.runtime_protection": "proved",
		"structure.authentication.4.multi_factor": "proved", "structure.organisation.3.device_identifier": "contradicted",
		"structure.data.3.protocol_versions": "open", // nobody checked the links that are not IP
	} {
		if standings[id] != want {
			t.Errorf("%s is %s, want %s: %v", id, standings[id], want, c.Data.Values)
		}
	}
}

// Records of peers prove only when they are whole and there is one for each device.
func TestObservedTalk(t *testing.T) {
	f := verifiertest.New(t)
	for range 2 {
		d := f.NewDevice().Enrolled()
		d.Accepted(d.Message(attest.KindBoot))
	}
	for _, tt := range []struct {
		name       string
		talk       []verifier.Talk
		tls, plain int64 // -1: not told
	}{
		{"none", nil, -1, -1},
		{"both", []verifier.Talk{{Lowest: 13}, {Lowest: 12}}, 12, 0},
		{"one of two", []verifier.Talk{{Lowest: 13}}, -1, -1},
		{"one of two, and it is bad", []verifier.Talk{{Lowest: 11, Plain: 2}}, 11, 2},
		{"not all seen", []verifier.Talk{{Lowest: 13}, {Lowest: 12, Unseen: 1}}, -1, -1},
		{"no TLS at all", []verifier.Talk{{Plain: 1}, {}}, -1, 1},
	} {
		v := counted(t, f, verifier.Survey{Inventory: 2, Talk: tt.talk}).Data.Values
		for id, want := range map[string]int64{"tls_min_version": tt.tls, "plaintext_connections": tt.plain} {
			if got, told := v[id]; told != (want >= 0) || told && got != want {
				t.Errorf("%s: %s is %d (told: %t), want %d", tt.name, id, got, told, want)
			}
		}
	}
}

// The longest downtime is from the last operating report to the next.
func TestDowntime(t *testing.T) {
	type report struct {
		after int64 // seconds after the one before
		stage reference.Stage
	}
	const o, p = reference.StageOperating, reference.StagePaused
	for _, tt := range []struct {
		name    string
		reports []report
		until   int64
		hours   int64
	}{
		{"operating", []report{{60, o}, {60, o}, {60, o}}, 10, 0},
		{"silent for as long as it may", []report{{60, o}, {239, o}}, 10, 0},
		{"silent", []report{{60, o}, {7200, o}}, 10, 2},
		{"paused for a moment", []report{{60, o}, {60, p}, {60, o}}, 10, 1},
		{"paused", []report{{60, o}, {60, p}, {5000, p}, {5000, o}, {100, p}, {100, o}}, 10, 3},
		{"still paused", []report{{60, o}, {60, p}}, 40_000, 12},
		{"still silent", []report{{60, o}}, 86_400, 24},
		{"down from the beginning", []report{{60, p}, {7200, o}}, 10, 2},
		{"never up", []report{{60, p}}, 3600, 1},
	} {
		f := verifiertest.New(t)
		d := f.NewDevice().Enrolled()
		for i, r := range tt.reports {
			f.Now += r.after - 1 // Send adds one
			kind := attest.KindRoutine
			if i == 0 {
				kind = attest.KindBoot
			}
			x := d.Report(kind)
			if x.Body.Stage = r.stage; r.stage == p {
				x.Body.Pause = &attest.Pause{Reason: "test"}
			}
			d.Accepted(verifiertest.Encode(t, d.Seal(x)))
		}
		f.Now += tt.until
		v := counted(t, f, verifier.Survey{Inventory: 1, Criticality: map[string]verifier.Criticality{"pump-1": verifier.High}}).Data.Values
		if got := v["downtime_high_hours"]; got != tt.hours {
			t.Errorf("%s: down for %d hours begun, want %d", tt.name, got, tt.hours)
		}
	}
}
