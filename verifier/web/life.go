package web

import (
	"encoding/hex"
	"net/http"

	"github.com/miotfacts/miotfacts/verifier"
)

// A Life is what a device's label says and what became of it.
type Life struct {
	Label      Label       `json:"label"`
	Checks     []Check     `json:"checks"`     // in the order of their codes; empty without a valid label
	Inspection *Inspection `json:"inspection"` // null without a date
	NoDate     string      `json:"no_date"`    // why there is none
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
	v := &Life{Label: newLabel(&l.Label), Checks: []Check{}, NoDate: l.NoDate}
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
