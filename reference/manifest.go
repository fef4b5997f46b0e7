// Package reference is what a manufacturer says about a sound device, and who
// may say it: the manifest with its rules for the three stages, key lists and
// the roots they hang from, and the commands an operator may give.
//
// Bytes that come in are foreign until a Trust has opened them; what it opened
// has a type of its own (Reference, Order) that nothing else can make. A
// manifest is authored as TOML (Author), linted (Check), and signed into CBOR
// (docs/manifest.cddl). The package does no I/O and reads no clock.
package reference

import (
	"fmt"
	"slices"

	"github.com/miotfacts/miotfacts/facts"
)

// Limits of a manifest. A real one has some tens of rules and a few kilobytes.
const (
	MaxManifestSize = 64 << 10
	MaxRules        = 256 // in one stage
	MaxApps         = 64
	MaxReactions    = 32
	MaxValues       = 256 // of one rule
	MaxUnit         = 16
	MaxName         = 128
	MaxWhy          = 256
)

// A Manifest is the signed statement of a manufacturer: a sound device of this
// model shows these values in these stages, and this is to happen when it does
// not. The struct is the specification of the wire form: integer keys that are
// never reused, no floats, and a field that is not set costs no bytes.
type Manifest struct {
	Version     uint         `cbor:"1,keyasint"`            // of this format: 1
	Vendor      string       `cbor:"2,keyasint"`            // manufacturer's name
	Model       string       `cbor:"3,keyasint"`            // device model it applies to
	Sequence    uint64       `cbor:"4,keyasint"`            // only ever rises for a model; a device refuses a lower one
	NotBefore   int64        `cbor:"5,keyasint"`            // Unix seconds
	NotAfter    int64        `cbor:"6,keyasint"`            // Unix seconds, the last one of validity
	MinAgent    string       `cbor:"7,keyasint,omitempty"`  // lowest agent version that understands it, "0.1.0"
	Enforce     Enforce      `cbor:"8,keyasint"`            // what a crossed extreme leads to
	Apps        []AppFact    `cbor:"9,keyasint,omitempty"`  // facts the medical application hands in
	Integration []Rule       `cbor:"10,keyasint,omitempty"` // must hold before the device may operate
	Operating   []Rule       `cbor:"11,keyasint,omitempty"` // a deviation is reported, the device keeps working
	FailSafe    []Rule       `cbor:"12,keyasint,omitempty"` // a deviation for its hold forces the pause
	Reaction    []Reaction   `cbor:"13,keyasint,omitempty"` // the steps of a pause, in order
	Silence     *Silence     `cbor:"14,keyasint,omitempty"` // what silence of the measuring process means
	Boot        *Boot        `cbor:"15,keyasint,omitempty"` // boot state that the TPM must prove
	ReportEvery uint32       `cbor:"16,keyasint"`           // seconds between routine reports, 1 to 3600
	Resume      ResumePolicy `cbor:"17,keyasint"`           // who may end a pause
	BootEvents  []BootGroup  `cbor:"18,keyasint,omitempty"` // sound boots by the events of their logs, beside Boot.Accept
	Leeway      *Leeway      `cbor:"19,keyasint,omitempty"` // what may hold a pause back
	Energy      *EnergyModel `cbor:"20,keyasint,omitempty"` // for devices without a power sensor
	Files       *Files       `cbor:"21,keyasint,omitempty"` // files that IMA may measure
}

// Enforce is the manufacturer's decision what the agent does when a fail-safe
// extreme is crossed.
type Enforce uint8

// The degrees of enforcement.
const (
	Observe Enforce = 1 // report it like any deviation
	Alarm   Enforce = 2 // send an alarm, keep operating
	Pause   Enforce = 3 // alarm, latch, and run the reaction chain
)

// A Stage is a stage of a device's life (Gleissner et al., section V).
type Stage uint8

// The stages, with their wire numbers. Unknown is never operating.
const (
	StageUnknown     Stage = 0
	StageIntegration Stage = 1
	StageOperating   Stage = 2
	StagePaused      Stage = 3 // the fail-safe stage was entered and holds
	StageMaintenance Stage = 4 // somebody works on it: an extreme alarms and does not pause
)

// An AppFact declares a number that the medical application hands in.
type AppFact struct {
	Key  facts.Key `cbor:"1,keyasint"` // facts.AppKeyMin to facts.AppKeyMax
	Name string    `cbor:"2,keyasint"` // "app." and lower-case letters, digits or _
	Unit string    `cbor:"3,keyasint"` // as people read it, "ml/h"
	Min  int64     `cbor:"4,keyasint"` // a number outside Min to Max is malformed
	Max  int64     `cbor:"5,keyasint"`
}

// Op is how a rule compares.
type Op uint8

// The expectations a rule can have.
const (
	Range      Op = 1 // Min <= value <= Max; one of the two may be missing
	Equal      Op = 2 // the value is Values[0]
	OneOf      Op = 3 // the value is one of Values
	SubsetOf   Op = 4 // every member of the set is in the set Values[0]
	SupersetOf Op = 5 // every member of the set Values[0] is in the set
	IsAbsent   Op = 6 // the fact is absent on a sound device
)

// AbsentPolicy is what an absent fact means for a rule. Unreadable, stale and
// malformed readings are never absent: they leave the rule not appraised.
type AbsentPolicy uint8

// The policies. The zero value is the strict one.
const (
	AbsentDeviates     AbsentPolicy = 0 // a sound device has this fact
	AbsentNotAppraised AbsentPolicy = 1 // devices without it exist; shown as not appraised
)

// A Rule is one expectation of one fact in one stage.
type Rule struct {
	Fact   facts.Key     `cbor:"1,keyasint"`
	Op     Op            `cbor:"2,keyasint"`
	Min    *int64        `cbor:"3,keyasint,omitempty"` // Range, in the fact's unit
	Max    *int64        `cbor:"4,keyasint,omitempty"` // Range, in the fact's unit
	Values []facts.Value `cbor:"5,keyasint,omitempty"` // the other comparisons
	Hold   uint32        `cbor:"6,keyasint,omitempty"` // ms a crossing must last without a break, at most 1 h
	Absent AbsentPolicy  `cbor:"7,keyasint,omitempty"`
	Why    string        `cbor:"8,keyasint,omitempty"` // the manufacturer's reason for the numbers
}

// Silence says what the enforcer makes of a measuring process that no longer
// gives a sign of life.
type Silence struct {
	After uint32  `cbor:"1,keyasint"` // ms without a heart-beat, 1000 to 3600000
	Then  Enforce `cbor:"2,keyasint"` // Observe, Alarm or Pause
}

// Boot is the boot state that a quote must prove.
type Boot struct {
	PCRs []int `cbor:"1,keyasint"` // selection in the SHA-256 bank, ascending, 0 to 23
	// SHA-256 over the selected values, any of several sound boots. Alone it is a rule
	// of integration as well. Empty: the selection is reported and not appraised.
	Accept [][]byte `cbor:"2,keyasint"`
}

// ResumePolicy says what it takes to end a pause.
type ResumePolicy struct {
	Signers  uint8  `cbor:"1,keyasint"` // different operator keys that must sign: 1 or 2
	Lifetime uint32 `cbor:"2,keyasint"` // longest validity of a resume in seconds, 60 to 604800
}

// Rules returns the rules of the three comparisons by the stage they belong to:
// integration, operating, or paused for the fail-safe extremes. To those of
// integration belongs, after all others, the one that Boot.Accept means.
func (m *Manifest) Rules(s Stage) []Rule {
	switch s {
	case StageIntegration:
		if r, ok := m.bootRule(); ok {
			return append(slices.Clip(m.Integration), r)
		}
		return m.Integration
	case StageOperating:
		return m.Operating
	case StagePaused:
		return m.FailSafe
	}
	return nil
}

// factPCRDigest is the wire key of boot.pcr_digest.
const factPCRDigest facts.Key = 12

// bootRule returns the rule by which the device itself is not admitted with a boot
// that Boot.Accept does not name. There is none where BootEvents can be enough,
// which only the verifier looks at, and where the manifest has a rule of its own.
func (m *Manifest) bootRule() (Rule, bool) {
	own := func(r Rule) bool { return r.Fact == factPCRDigest }
	if m.Boot == nil || len(m.Boot.Accept) == 0 || len(m.BootEvents) > 0 || slices.ContainsFunc(m.Integration, own) {
		return Rule{}, false
	}
	r := Rule{Fact: factPCRDigest, Op: OneOf, Why: "boot.accept"}
	for _, d := range m.Boot.Accept {
		r.Values = append(r.Values, facts.BytesValue(d))
	}
	return r, true
}

// Vocabulary returns the catalogue with the manifest's application facts.
func (m *Manifest) Vocabulary() (*facts.Vocabulary, error) {
	defs := make([]facts.Def, 0, len(m.Apps))
	for _, a := range m.Apps {
		defs = append(defs, facts.Def{
			Name: a.Name, Key: a.Key, Unit: a.Unit, Kind: facts.Int, Cadence: facts.Event,
			Min: a.Min, Max: a.Max,
		})
	}
	return facts.NewVocabulary(defs)
}

func name(names []string, i int, kind string) string {
	if i > 0 && i < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", kind, i)
}

// The names of the enumerations, as authored in TOML; index 0 is not valid.
var (
	enforceNames  = []string{"", "observe", "alarm", "pause"}
	opNames       = []string{"", "range", "equal", "one_of", "subset_of", "superset_of", "absent"}
	reactionNames = []string{"", "tell", "freeze", "signal", "stop-unit", "quarantine", "mask-unit", "block-usb", "gpio", "led", "beep", "sysfs", "hook", "prepare"}
	onlyIfNames   = []string{"", "failed"}
	absentNames   = []string{"", "deviates", "not-appraised"} // AbsentPolicy + 1
	stageNames    = []string{"unknown", "integration", "operating", "paused", "maintenance"}
)

func (e Enforce) String() string      { return name(enforceNames, int(e), "enforce") }
func (o Op) String() string           { return name(opNames, int(o), "op") }
func (k ReactionKind) String() string { return name(reactionNames, int(k), "reaction") }

func (s Stage) String() string {
	if int(s) < len(stageNames) {
		return stageNames[s]
	}
	return fmt.Sprintf("stage(%d)", uint8(s))
}
