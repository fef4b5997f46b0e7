// Package facts is the vocabulary of runtime facts: what can be measured on a
// device, under which name and wire key, in which unit, and how a measurement
// that did not succeed is told. It also collects from sources under a deadline
// and folds samples between two reports.
//
// It measures nothing itself (package facts/linux does) and judges nothing
// (package appraise does). Nothing here is trusted: a reading is what this
// machine says about itself.
//
// No patient data can enter: the vocabulary is closed, and what the medical
// application hands in are numbers in ranges that the manufacturer declared.
package facts

import (
	"fmt"
	"slices"
	"strings"
)

// Key identifies a fact on the wire. Keys are never reused and never change
// their meaning, because signed documents outlive the software that made them.
type Key uint32

// AppKeyMin and AppKeyMax bound the keys of app.* facts, which a manifest
// declares. All keys below are the catalogue's.
const (
	AppKeyMin Key = 1000
	AppKeyMax Key = 1999
)

// Status tells how a reading came out. Absent, unreadable and wrong are never
// conflated: a flaky read must not pause a device, and a missing row must not
// hide an attack.
type Status uint8

// The statuses, with their wire numbers.
const (
	OK         Status = 0 // Value is what was measured
	Absent     Status = 1 // there is no such sensor or feature on this machine
	Unreadable Status = 2 // it is here, and reading it failed; Reason says how
	Stale      Status = 3 // the source did not answer in time; there is no value of this round
	Malformed  Status = 4 // it was read, and its content has not the documented form
	Pending    Status = 5 // not yet: a rate before its second sample, a boot that has not finished
)

var statusNames = [...]string{"ok", "absent", "unreadable", "stale", "malformed", "pending"}

func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// Known reports whether s is a status of this version.
func (s Status) Known() bool { return int(s) < len(statusNames) }

// Cadence says when a fact is read.
type Cadence uint8

// The cadences.
const (
	Boot  Cadence = 1 + iota // once a boot, when boot is complete
	Fast                     // every sampling period, 1 s by default
	Slow                     // every 60 s
	Event                    // when the kernel or systemd says so, and every 60 s in case it did not
)

func (c Cadence) String() string {
	switch c {
	case Boot:
		return "boot"
	case Fast:
		return "fast"
	case Slow:
		return "slow"
	case Event:
		return "event"
	}
	return fmt.Sprintf("cadence(%d)", uint8(c))
}

// A Def defines one fact.
type Def struct {
	Name    string  // group.name, lower case
	Key     Key     // wire key
	Unit    string  // "ms", "mW", ...; "" where the kind has none
	Kind    Kind    //
	Cadence Cadence //
	// Min and Max bound an app.* fact; both 0 for catalogue facts.
	Min, Max int64

	_ [0]func() // nobody compares definitions: how to would cost factsd 1.7 kB
}

// Group returns the part of the name before the first dot.
func (d Def) Group() string {
	g, _, _ := strings.Cut(d.Name, ".")
	return g
}

// A Vocabulary maps names and wire keys to definitions: the catalogue, plus
// the app.* facts that a manifest declares. It is immutable.
type Vocabulary struct {
	defs []Def // ascending by key
}

// NewVocabulary returns the catalogue together with the declared app facts. It
// refuses an app fact whose name, key, kind or range cannot be one.
func NewVocabulary(app []Def) (*Vocabulary, error) {
	defs := Catalogue()
	for _, d := range app {
		switch {
		case !strings.HasPrefix(d.Name, "app.") || !validName(d.Name):
			return nil, fmt.Errorf("application fact %q: the name must be \"app.\" and lower-case letters, digits or _", d.Name)
		case d.Key < AppKeyMin || d.Key > AppKeyMax:
			return nil, fmt.Errorf("application fact %s: key %d is outside %d to %d", d.Name, d.Key, AppKeyMin, AppKeyMax)
		case d.Kind != Int:
			return nil, fmt.Errorf("application fact %s: kind %s is not int; only declared numbers may be handed in", d.Name, d.Kind)
		case d.Min >= d.Max:
			return nil, fmt.Errorf("application fact %s: range %d to %d is empty", d.Name, d.Min, d.Max)
		}
		defs = append(defs, d)
	}
	slices.SortStableFunc(defs, func(a, b Def) int { return int(int64(a.Key) - int64(b.Key)) })
	names := make(map[string]bool, len(defs))
	for i, d := range defs {
		if i > 0 && defs[i-1].Key == d.Key {
			return nil, fmt.Errorf("facts %s and %s share key %d", defs[i-1].Name, d.Name, d.Key)
		}
		if names[d.Name] {
			return nil, fmt.Errorf("fact %s is defined twice", d.Name)
		}
		names[d.Name] = true
	}
	return &Vocabulary{defs: defs}, nil
}

// ByKey returns the definition with wire key k.
func (v *Vocabulary) ByKey(k Key) (Def, bool) {
	i, ok := slices.BinarySearchFunc(v.defs, k, func(d Def, k Key) int { return int(int64(d.Key) - int64(k)) })
	if !ok {
		return Def{}, false
	}
	return v.defs[i], true
}

// ByName returns the definition called name.
func (v *Vocabulary) ByName(name string) (Def, bool) {
	for _, d := range v.defs {
		if d.Name == name {
			return d, true
		}
	}
	return Def{}, false
}

// Defs returns all definitions in ascending order of their keys. The caller
// must not change them.
func (v *Vocabulary) Defs() []Def { return v.defs }

// Name returns the fact's name, or "fact N" for a key that is not in v.
func (v *Vocabulary) Name(k Key) string {
	if d, ok := v.ByKey(k); ok {
		return d.Name
	}
	return fmt.Sprintf("fact %d", k)
}

func validName(s string) bool {
	group, name, ok := strings.Cut(s, ".")
	if !ok || group == "" || name == "" || len(s) > 48 {
		return false
	}
	for _, r := range group + name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' {
			return false
		}
	}
	return true
}

// A Reading is the outcome of reading one fact once.
type Reading struct {
	Key    Key
	Status Status
	Value  Value  // set when Status is OK
	Reason string // why not, in a few words; "" when OK
}

// A Snapshot is what one round yielded: at most one reading for each fact, in
// ascending order of keys.
type Snapshot struct {
	Uptime   int64 // ms since boot including suspend (CLOCK_BOOTTIME) at the end of the round
	Readings []Reading
}

// Reading returns the reading of fact k. A fact that no source reported is
// Absent with a reason of its own, never a silent success.
func (s Snapshot) Reading(k Key) Reading {
	i, ok := slices.BinarySearchFunc(s.Readings, k, func(r Reading, k Key) int { return int(int64(r.Key) - int64(k)) })
	if !ok {
		return Reading{Key: k, Status: Absent, Reason: "no source reports it"}
	}
	return s.Readings[i]
}
