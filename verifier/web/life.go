package web

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/verifier"
)

// A Life is what a device's label says and what became of it.
type Life struct {
	Label      Label       `json:"label"`
	Checks     []Check     `json:"checks"`     // in the order of their codes; empty without a valid label
	Inspection *Inspection `json:"inspection"` // null without a date
	Tasks      []Task      `json:"tasks"`      // of the inspection; empty without a date
	NoDate     string      `json:"no_date"`    // why there is none
	Software   *Software   `json:"software"`   // null where the bill of materials that the label names is not here
}

// A Software is what the bill of materials and advisories say of a device.
type Software struct {
	SHA256     string   `json:"sha256"` // of the bill of materials, hexadecimal
	Components int      `json:"components"`
	NoFlaws    string   `json:"no_flaws"` // why it was compared with no advisories; "" when it was
	Flaws      []Flaw   `json:"flaws"`    // open ones first, the worst first
	Notes      []string `json:"notes"`    // what was compared and what was not
}

// A Flaw is a known vulnerability, open or taken out by a statement (VEX).
type Flaw struct {
	ID       string   `json:"id"`
	Aliases  []string `json:"aliases"`
	Severity string   `json:"severity"` // "not appraised", "low", "medium", "high" or "critical"
	Open     bool     `json:"open"`
	State    string   `json:"state"` // "affected", "under investigation", "not affected" or "fixed"
	Where    []string `json:"where"`
	Why      string   `json:"why"`
	Source   string   `json:"source"` // the document that says so
}

func newSoftware(s *verifier.Software) *Software {
	if s == nil || s.Software == nil {
		return nil
	}
	v := &Software{SHA256: hex.EncodeToString(s.BOM.SHA256[:]), Components: len(s.BOM.Components), NoFlaws: s.NoFlaws, Flaws: []Flaw{}, Notes: s.Notes(label.English)}
	if s.Flaws == nil {
		return v
	}
	for _, x := range s.Flaws.Vulnerabilities {
		v.Flaws = append(v.Flaws, Flaw{x.ID, append([]string{}, x.Aliases...), x.Severity.String(), x.State.Open(), x.State.String(), append([]string{}, x.Where...), x.Why, x.Source})
	}
	return v
}

// Symbol returns the name of the symbol of a flaw's state.
func (f Flaw) Symbol() string {
	if f.Open {
		return verifier.TierWarning.String()
	}
	return verifier.TierAffirming.String()
}

// A Label is what became of a label.
type Label struct {
	File     string `json:"file"`  // its name; "" when none is here
	State    string `json:"state"` // "missing", "unreadable", "refused", "revoked", "expired", "not yet valid" or "valid"
	Why      string `json:"why"`
	Vendor   string `json:"vendor"` // as it claims, when it is not valid
	Model    string `json:"model"`
	Sequence uint64 `json:"sequence"`
	SHA256   string `json:"sha256"`  // of the file, hexadecimal; "" when none is here
	Example  bool   `json:"example"` // it says of itself that it is made up
}

// A Check is one thing that the label says, held against manifest and facts.
type Check struct {
	Code    string `json:"code"` // of the finding that a contradiction makes
	About   string `json:"about"`
	Verdict string `json:"verdict"` // "fits", "contradicts" or "not appraised"
	Text    string `json:"text"`
}

// An Inspection is the best-before-inspection date with its explanation.
type Inspection struct {
	On       string   `json:"on"` // 2028-08-28
	Due      bool     `json:"due"`
	Start    string   `json:"start"`
	Steps    []Step   `json:"steps"` // their days and the start make the date
	Negative []string `json:"negative"`
}

// A Step is one line of the explanation.
type Step struct {
	What  string `json:"what"`
	Days  int64  `json:"days"`
	Known bool   `json:"known"` // false: no amount is known, it moves nothing
	Why   string `json:"why"`
}

func newLife(l *verifier.Life, now int64) *Life {
	if l == nil {
		return nil
	}
	v := &Life{Label: newLabel(&l.Label), Checks: []Check{}, Tasks: []Task{}, NoDate: l.NoDate, Software: newSoftware(l.Software)}
	for _, c := range l.Checks {
		v.Checks = append(v.Checks, Check{string(c.Code), c.About, c.Verdict.String(), c.Text})
	}
	if l.NoDate != "" {
		return v
	}
	v.Inspection = &Inspection{On: l.Date.Inspect.String(), Due: l.Due(now), Start: l.Date.Start.String(), Negative: append([]string{}, l.Date.Negative...)}
	for _, s := range l.Date.Steps {
		v.Inspection.Steps = append(v.Inspection.Steps, Step(s))
	}
	for _, t := range l.Tasks {
		v.Tasks = append(v.Tasks, Task(t))
	}
	return v
}

func newLabel(s *verifier.Shelved) Label {
	l := Label{File: s.File, State: s.State.String(), Why: s.Why, Vendor: s.Vendor, Model: s.Model, Sequence: s.Sequence}
	if s.State != verifier.LabelMissing {
		l.SHA256 = hex.EncodeToString(s.SHA256[:])
	}
	l.Example = s.Label != nil && s.Label.Example
	return l
}

// Tier returns the tier that the label's state makes of a device, for symbols.
func (l Label) Tier() string {
	switch l.State {
	case verifier.LabelValid.String():
		return verifier.TierAffirming.String()
	case verifier.LabelMissing.String():
		return verifier.TierNone.String()
	}
	return verifier.TierWarning.String()
}

// Symbol returns the name of the verdict's symbol.
func (c Check) Symbol() string {
	switch c.Verdict {
	case verifier.Fits.String():
		return verifier.TierAffirming.String()
	case verifier.Contradicts.String():
		return verifier.TierWarning.String()
	}
	return verifier.TierNone.String()
}

// Tasks are what is to be done with a device on its day of inspection.
type Tasks struct {
	Device string `json:"device"` // UEID
	Vendor string `json:"vendor"`
	Model  string `json:"model"`
	Serial string `json:"serial"`
	On     string `json:"on"`  // the day
	Due    bool   `json:"due"` // it has come
	Tasks  []Task `json:"tasks"`
}

// A Task is one of them.
type Task struct {
	Text  string `json:"text"`
	Known string `json:"known"` // what the verifier knows of it already; may be ""
}

// newTasks returns the tasks of a device with a day of inspection.
func newTasks(d *verifier.Device, now int64) Tasks {
	t := Tasks{Device: d.UEID.String(), Vendor: d.Vendor, Model: d.Model, Serial: d.Serial, On: d.Life.Date.Inspect.String(), Due: d.Life.Due(now)}
	for _, x := range d.Life.Tasks {
		t.Tasks = append(t.Tasks, Task(x))
	}
	return t
}

// undated returns why a device has no day of inspection; nil when it has one.
func undated(d *verifier.Device) error {
	switch {
	case d.Life == nil:
		return &problem{http.StatusNotFound, fmt.Sprintf("device %s has no day of inspection: it is not held against a label", d.UEID), "approve it, and name a folder of labels as reference.labels"}
	case d.Life.NoDate != "":
		return &problem{http.StatusNotFound, fmt.Sprintf("device %s has no day of inspection: %s", d.UEID, d.Life.NoDate), "see its page and /labels"}
	}
	return nil
}

func (s *site) tasks(w http.ResponseWriter, r *http.Request) error {
	d, err := s.lookup(r)
	if err == nil {
		err = undated(d)
	}
	if err != nil {
		return err
	}
	return answer(w, newTasks(d, s.now()))
}

func (s *site) observed(w http.ResponseWriter, r *http.Request) error {
	d, err := s.lookup(r)
	if err != nil {
		return err
	}
	o, err := s.Labels.Observed(s.now(), d.UEID)
	if err != nil {
		return err
	}
	return answer(w, o)
}

func (s *site) allTasks(w http.ResponseWriter, _ *http.Request) error {
	all, err := s.dated()
	if err != nil {
		return err
	}
	list := []Tasks{}
	for i := range all {
		list = append(list, newTasks(&all[i], s.now()))
	}
	return answer(w, list)
}

// dated returns the devices with a day of inspection, the earliest first.
func (s *site) dated() ([]verifier.Device, error) {
	all, err := s.Fleet.Devices(s.now())
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(d verifier.Device) bool { return undated(&d) != nil })
	slices.SortStableFunc(all, func(a, b verifier.Device) int { return int(a.Life.Date.Inspect - b.Life.Date.Inspect) })
	return all, nil
}

func (s *site) deviceCalendar(w http.ResponseWriter, r *http.Request) error {
	d, err := s.lookup(r)
	if err == nil {
		err = undated(d)
	}
	if err != nil {
		return err
	}
	return s.calendar(w, r, []verifier.Device{*d})
}

func (s *site) fleetCalendar(w http.ResponseWriter, r *http.Request) error {
	all, err := s.dated()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return &problem{http.StatusNotFound, "no device has a day of inspection, and a calendar without entries is none", "see /labels"}
	}
	return s.calendar(w, r, all)
}

// calendar answers with the days of devices as iCalendar; ?lang= en or de.
func (s *site) calendar(w http.ResponseWriter, r *http.Request, all []verifier.Device) error {
	lang := label.English
	if text := r.URL.Query().Get("lang"); text != "" {
		var err error
		if lang, err = label.ParseLang(attest.Clip(text, 16)); err != nil {
			return &problem{http.StatusBadRequest, err.Error(), ""}
		}
	}
	var due []label.Due
	for _, d := range all {
		due = append(due, label.Due{Label: d.Life.Label.Label, Date: d.Life.Date, Device: Clean(d.Serial), ID: d.UEID.String()})
	}
	w.Header().Set("Content-Type", "text/calendar; charset=utf-8")
	w.Header().Set("Content-Disposition", `attachment; filename="inspections.ics"`)
	_, _ = w.Write(label.Calendar(due, label.DayOf(s.now()), lang)) // the connection is gone: nobody to tell
	return nil
}

type labelsPage struct {
	frame
	Labels []Label
}

func (s *site) labelsPage(w http.ResponseWriter, _ *http.Request) error {
	p := labelsPage{frame: s.frame("", "Labels")}
	for _, l := range s.Labels.Labels(s.now()) {
		p.Labels = append(p.Labels, newLabel(&l))
	}
	s.show(w, http.StatusOK, "labels", p)
	return nil
}

func (s *site) labels(w http.ResponseWriter, _ *http.Request) error {
	list := []Label{}
	for _, l := range s.Labels.Labels(s.now()) {
		list = append(list, newLabel(&l))
	}
	return answer(w, list)
}
