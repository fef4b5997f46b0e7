package web_test

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/advisory"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/verifier"
)

// labelled returns a device whose label does not fit, and whose day has come.
func labelled(t testing.TB, b byte) verifier.Device {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "configs", "label-example.toml"))
	if err != nil {
		t.Fatal(err)
	}
	l, problems := label.Author(data)
	if l == nil {
		t.Fatal(problems)
		return verifier.Device{}
	}
	date, err := l.BestBefore(label.Observation{On: label.DayOf(now), Amounts: map[label.Kind]uint32{
		label.CriticalFlaws: 2, label.HotHours: 1000, label.UpdateObserved: 90,
	}})
	if err != nil {
		t.Fatal(err)
	}
	d := operating(t, b)
	d.Tier = verifier.TierWarning
	d.Life = &verifier.Life{
		Label: verifier.Shelved{File: "wearable.label", State: verifier.LabelValid, Vendor: l.Vendor, Model: l.Model, Sequence: 1, Label: l},
		Date:  date,
		Checks: []verifier.Check{
			{Code: verifier.ReasonLabelRadio, About: "wireless", Verdict: verifier.Contradicts, Text: "the label declares no wireless; the device has wlan0"},
			{Code: verifier.ReasonLabelBluetooth, About: "Bluetooth", Verdict: verifier.Fits, Text: "declared, and the device has hci0"},
			{Code: verifier.ReasonLabelUpdates, About: "updates", Verdict: verifier.Open, Text: "no report has told its software"},
		},
	}
	for _, text := range label.Tasks(label.English) {
		d.Life.Tasks = append(d.Life.Tasks, verifier.Task{Text: text})
	}
	d.Life.Tasks[0].Known = "debian 12; last change seen on 2026-01-02; its manifest, 3, is the newest here"
	d.Life.Software = &verifier.Software{Software: &label.Software{
		BOM: &advisory.BOM{Components: make([]advisory.Component, 214)},
		Flaws: &advisory.Result{Documents: 3, Vulnerabilities: []advisory.Vulnerability{
			{ID: "CVE-2026-0001", Aliases: []string{"EXAMPLE-1"}, Severity: advisory.Critical, State: advisory.Affected, Where: []string{"example-tls 1.4.1"}, Source: "CVE-2026-0001"},
			{ID: "CVE-2026-0002", State: advisory.Investigated, Where: []string{"example-mqtt 2.0", hostile}, Why: hostile, Source: "EXAMPLE-VEX-1"},
			{ID: "CVE-2026-0003", Severity: advisory.High, State: advisory.NotAffected, Where: []string{"example-shell 1.36"}, Why: "vulnerable code not in execute path", Source: "EXAMPLE-VEX-1"},
		}},
	}}
	d.Findings = []verifier.Finding{
		{Code: verifier.ReasonLabelRadio, Tier: verifier.TierWarning, Text: "label, wireless: the label declares no wireless; the device has wlan0"},
		{Code: verifier.ReasonLabelOpen, Text: "of the label not appraised: updates"},
		{Code: verifier.ReasonInspection, Text: "the best-before-inspection day was " + date.Inspect.String() + ": inspect the device; its page has the tasks"},
	}
	return d
}

// shelf returns a label of each state.
func shelf() []verifier.Shelved {
	why := "cannot open label: "
	return []verifier.Shelved{
		{File: "altered.label", State: verifier.LabelRefused, Why: why + "signature is not valid", Vendor: "Example Medical", Model: "pump-2", Sequence: 4},
		{File: "early.label", State: verifier.LabelNotYet, Why: why + "validity has not begun", Vendor: "Example Medical", Model: "pump-2", Sequence: 6},
		{File: "lost.label", State: verifier.LabelRevoked, Why: why + "key was revoked", Vendor: "Example Medical", Model: "pump-3", Sequence: 1},
		{File: "old.label", State: verifier.LabelExpired, Why: why + "validity has ended", Vendor: "Example Medical", Model: "pump-1", Sequence: 2},
		{File: "torn.label", State: verifier.LabelUnreadable, Why: "cannot read label: " + hostile},
		{File: "wearable.label", State: verifier.LabelValid, Vendor: "Example Medical", Model: "wearable-1", Sequence: 1, Label: &label.Label{Example: true}},
	}
}

func TestNoLabels(t *testing.T) {
	w := httptest.NewRecorder()
	m := newMemory()
	m.handler().ServeHTTP(w, httptest.NewRequest("GET", "/labels", nil))
	if !strings.Contains(w.Body.String(), "reference.labels") {
		t.Errorf("the empty page does not say what to do:\n%s", w.Body)
	}
	m.put(operating(t, 1))
	w = httptest.NewRecorder()
	m.handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	calendar := httptest.NewRecorder()
	m.handler().ServeHTTP(calendar, httptest.NewRequest("GET", "/api/tasks.ics", nil))
	if calendar.Code != 404 {
		t.Errorf("a calendar without an entry, which is none: %d", calendar.Code)
	}
	if strings.Contains(w.Body.String(), "Inspect") {
		t.Error("a fleet without labels has days of inspection")
	}
}
