// Package label is the components facts label of a device: what is in it, where
// its data go, who answers for it, how long it is looked after, and when to
// inspect it next. It is authored in TOML, signed as CBOR in COSE_Sign1, carried
// whole in a QR code, and drawn for people.
//
// Trusted is a label that Open returned: its signature, the role, models and
// validity of its key and its own validity were checked, all of it offline. What
// a signed label says is the manufacturer's claim; whether a device keeps to it
// is not for this package to find out.
//
// The rows are those of Table I of Gleissner et al., "Improving IT Security of
// Medical IoT Devices", section V; the wire form is docs/label.cddl.
package label

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of a label.
const (
	MaxSize = 8 << 10 // bytes of a signed label; the largest QR code holds 2,258 compressed ones
	MaxRows = 32      // of one list; more than that is no overview
	MaxText = 160     // bytes of one text
)

// A Label is what the manufacturer says of a device model. The lists of Table I
// are written even when they are empty: an empty list says that there is none.
type Label struct {
	Version     uint         `cbor:"1,keyasint" toml:"version"`                 // of this format: 1
	Vendor      string       `cbor:"2,keyasint" toml:"vendor"`                  // as in the manifest
	Model       string       `cbor:"3,keyasint" toml:"model"`                   // as in the manifest
	Sequence    uint64       `cbor:"4,keyasint" toml:"sequence"`                // edition, only ever rises
	From        Day          `cbor:"5,keyasint" toml:"from"`                    // first day of validity
	Until       Day          `cbor:"6,keyasint" toml:"until"`                   // last day of validity
	Sensors     []Sensor     `cbor:"7,keyasint" toml:"sensor"`                  //
	Actuators   []Actuator   `cbor:"8,keyasint" toml:"actuator"`                //
	Connections []Connection `cbor:"9,keyasint" toml:"connection"`              //
	Gateways    []string     `cbor:"10,keyasint" toml:"gateway"`                // devices or apps that it needs to reach others
	Cloud       []Place      `cbor:"11,keyasint" toml:"cloud"`                  // where its data are processed
	Storage     []Place      `cbor:"12,keyasint" toml:"storage"`                // where its data are kept
	Responsible Entity       `cbor:"13,keyasint" toml:"responsible"`            //
	Attributes  []Attribute  `cbor:"14,keyasint" toml:"attribute"`              // what is stored
	Control     []Control    `cbor:"15,keyasint" toml:"user_control"`           // with what the user controls it
	Deletion    []Deletion   `cbor:"16,keyasint" toml:"deletion"`               //
	Runtime     []Runtime    `cbor:"17,keyasint" toml:"runtime"`                // the runtime facts in short
	Updates     Updates      `cbor:"18,keyasint" toml:"updates"`                //
	Inspection  Inspection   `cbor:"19,keyasint" toml:"inspection"`             // how the best-before-inspection date comes about
	Made        Day          `cbor:"20,keyasint,omitempty" toml:"manufactured"` // day of manufacture; 0: the date begins with the purchase
	SBOM        *SBOM        `cbor:"21,keyasint,omitempty" toml:"sbom"`         //
	MUD         string       `cbor:"22,keyasint,omitempty" toml:"mud"`          // URL of the MUD file, RFC 8520
	UDI         string       `cbor:"23,keyasint,omitempty" toml:"udi"`          // UDI-DI, as the issuing entity writes it
	CE          string       `cbor:"24,keyasint,omitempty" toml:"ce"`           // number of the notified body, or "self" for self-declared
	Details     string       `cbor:"25,keyasint,omitempty" toml:"details"`      // URL for people
	Example     bool         `cbor:"26,keyasint,omitempty" toml:"example"`      // made up; every picture says so
	Boot        []Protection `cbor:"27,keyasint,omitempty" toml:"boot"`         // with what its boot is protected; none: not said
}

// A Sensor measures something.
type Sensor struct {
	Name   string `cbor:"1,keyasint" toml:"name"`
	Yields string `cbor:"2,keyasint" toml:"yields"` // quantity and unit: "Temperature in Celsius"
	When   When   `cbor:"3,keyasint" toml:"when"`
}

// An Actuator does something.
type Actuator struct {
	Name string `cbor:"1,keyasint" toml:"name"`
	Does string `cbor:"2,keyasint" toml:"does"`
}

// A Connection is a protocol and how far it reaches.
type Connection struct {
	Protocol string `cbor:"1,keyasint" toml:"protocol"`
	Reach    Reach  `cbor:"2,keyasint" toml:"reach"`
}

// A Place is a country and who keeps the machines there.
type Place struct {
	Country Country `cbor:"1,keyasint" toml:"country"`
	By      string  `cbor:"2,keyasint,omitempty" toml:"by"` // company, if it is not the manufacturer
}

// A Country is an ISO 3166-1 alpha-2 code.
type Country string

// An Entity answers for the device.
type Entity struct {
	Name    string  `cbor:"1,keyasint" toml:"name"`
	Phone   string  `cbor:"2,keyasint" toml:"phone"` // E.164, spaces allowed
	Email   string  `cbor:"3,keyasint" toml:"email"`
	Country Country `cbor:"4,keyasint" toml:"country"`
}

// An Attribute is stored, once in each cycle.
type Attribute struct {
	Name  string `cbor:"1,keyasint" toml:"name"`
	Cycle Cycle  `cbor:"2,keyasint" toml:"cycle"`
}

// A Deletion says how one kind of data is deleted.
type Deletion struct {
	Of   string `cbor:"1,keyasint" toml:"of"`
	Ease Ease   `cbor:"2,keyasint" toml:"ease"`
	How  string `cbor:"3,keyasint,omitempty" toml:"how"`
}

// A Runtime row is one fact and its range in each of the three stages.
type Runtime struct {
	Fact        string `cbor:"1,keyasint" toml:"fact"` // name in the catalogue, or app.*
	Unit        string `cbor:"2,keyasint" toml:"unit"` // the fact's own, "1" for a count
	Integration *Range `cbor:"3,keyasint,omitempty" toml:"integration"`
	Operating   *Range `cbor:"4,keyasint,omitempty" toml:"operating"`
	FailSafe    *Range `cbor:"5,keyasint,omitempty" toml:"fail_safe"`
}

// A Range is from Min to Max, both within; an end that is not set is open.
type Range struct {
	Min *int64 `cbor:"1,keyasint,omitempty" toml:"min"`
	Max *int64 `cbor:"2,keyasint,omitempty" toml:"max"`
}

// Updates is what the manufacturer promises. The names of the dates are those of
// OpenEoX.
type Updates struct {
	Every        uint32 `cbor:"1,keyasint" toml:"every_days"`               // at most so many days between two updates
	SupportUntil Day    `cbor:"2,keyasint" toml:"end_of_security_support"`  // last day
	EndOfLife    Day    `cbor:"3,keyasint,omitempty" toml:"end_of_life"`    // last day
	EndOfSales   Day    `cbor:"4,keyasint,omitempty" toml:"end_of_sales"`   // last day
	Contact      string `cbor:"5,keyasint,omitempty" toml:"report_flaw_to"` // where to tell of a vulnerability
}

// An SBOM is named by where it is and what it is.
type SBOM struct {
	URL    string `cbor:"1,keyasint" toml:"url"`
	SHA256 Digest `cbor:"2,keyasint" toml:"sha256"`
}

// A Digest is a SHA-256.
type Digest []byte

// UnmarshalText reads 64 hexadecimal digits.
func (d *Digest) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != 32 {
		return errors.New("want 64 hexadecimal digits")
	}
	*d = b
	return nil
}

// A Day is a date: days since 1970-01-01 (RFC 8943). 0 is no date.
type Day int32

const (
	secondsOfDay = 24 * 60 * 60
	maxDay       = 2_932_896 // 9999-12-31
)

// DayOf returns the day, in UTC, of a time in Unix seconds.
func DayOf(unix int64) Day { return Day(unix / secondsOfDay) }

// Start returns the first second of the day in Unix seconds.
func (d Day) Start() int64 { return int64(d) * secondsOfDay }

func (d Day) String() string { return time.Unix(d.Start(), 0).UTC().Format(time.DateOnly) }

func (d Day) date() (year, month, day int) {
	t := time.Unix(d.Start(), 0).UTC()
	return t.Year(), int(t.Month()), t.Day()
}

// noDay is what was written where a date should be and is none. Check knows where
// that was, the decoder does not.
const noDay Day = -1

// UnmarshalTOML reads the date 2026-01-31, which stands without quotes. What is no
// date becomes a day that Check refuses.
func (d *Day) UnmarshalTOML(text []byte) error {
	*d = noDay
	if t, err := time.Parse(time.DateOnly, string(text)); err == nil && t.Year() > 1970 {
		*d = DayOf(t.Unix())
	}
	return nil
}

// MarshalText writes the day as 2026-01-31.
func (d Day) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads 2026-01-31, where the form has quotes around it.
func (d *Day) UnmarshalText(text []byte) error {
	t, err := time.Parse(time.DateOnly, string(text))
	if err != nil || t.Year() <= 1970 {
		return fmt.Errorf("%.40q is no date from 1971 on such as 2026-01-31", text)
	}
	*d = DayOf(t.Unix())
	return nil
}

// A Cycle is how often something is stored, in seconds; OnEvent for what is
// stored when it happens. 0 is not said.
type Cycle int32

// OnEvent is the cycle of what has none.
const OnEvent Cycle = -1

// UnmarshalText reads "90s", "1m", "24h" or "on event".
func (c *Cycle) UnmarshalText(text []byte) error {
	if string(text) == "on event" {
		*c = OnEvent
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < time.Second || d%time.Second != 0 || d > 366*24*time.Hour {
		return fmt.Errorf(`%.40q is not "on event" or a cycle from "1s" to "8784h"`, text)
	}
	*c = Cycle(d / time.Second)
	return nil
}

// When tells when a sensor's values are there.
type When uint8

// The times.
const (
	RealTime        When = 1
	PostProcessing  When = 2
	RealTimeAndPost When = 3
)

// Reach tells how far a connection goes.
type Reach uint8

// The reaches.
const (
	Cloud         Reach = 1
	Local         Reach = 2
	CloudAndLocal Reach = 3
)

// Control is with what a user controls the device and its data.
type Control uint8

// The controls.
const (
	ByApp     Control = 1
	ByDevice  Control = 2
	ByWebsite Control = 3
)

// Ease is how easy it is to have data deleted, on a scale from easy to complex.
// A step of the scale is what the user has to do, not what it feels like.
type Ease uint8

// The scale.
const (
	Easy       Ease = 1 // one action of the user, on the device or in the app, deletes it everywhere
	Steps      Ease = 2 // the user can do it alone, in several steps or places
	OnRequest  Ease = 3 // the responsible entity does it when asked
	Complex    Ease = 4 // several parties, a proof, or a visit to the device are needed
	Impossible Ease = 5 // it cannot be deleted while the device is in use
)

// Protection is with what the boot of a device is protected.
type Protection uint8

// The protections.
const (
	SecureBoot   Protection = 1 // only software that the manufacturer signed starts
	MeasuredBoot Protection = 2 // a TPM can prove what has started
	VerifiedRoot Protection = 3 // the root file system is checked against a signed digest as it is read
)

// The names by which people write the choices; place 0 is none.
func whenNames() []string    { return []string{"", "real time", "post processing", "both"} }
func reachNames() []string   { return []string{"", "cloud", "local", "both"} }
func controlNames() []string { return []string{"", "app", "device", "website"} }
func protectionNames() []string {
	return []string{"", "secure boot", "measured boot", "verified root"}
}
func easeNames() []string {
	return []string{"", "easy", "several steps", "on request", "complex", "impossible"}
}

func choose[T ~uint8](into *T, text []byte, names []string) error {
	i := slices.Index(names[1:], string(text))
	if i < 0 {
		return fmt.Errorf(`%.40q is none of "%s"`, text, strings.Join(names[1:], `", "`))
	}
	*into = T(i + 1)
	return nil
}

func nameOf(names []string, i int) string {
	if i > 0 && i < len(names) {
		return names[i]
	}
	return "unknown " + strconv.Itoa(i)
}

// UnmarshalText reads "real time", "post processing" or "both".
func (w *When) UnmarshalText(text []byte) error { return choose(w, text, whenNames()) }

// UnmarshalText reads "cloud", "local" or "both".
func (r *Reach) UnmarshalText(text []byte) error { return choose(r, text, reachNames()) }

// UnmarshalText reads "app", "device" or "website".
func (c *Control) UnmarshalText(text []byte) error { return choose(c, text, controlNames()) }

// UnmarshalText reads "secure boot", "measured boot" or "verified root".
func (p *Protection) UnmarshalText(text []byte) error { return choose(p, text, protectionNames()) }

func (p Protection) String() string { return nameOf(protectionNames(), int(p)) }

// UnmarshalText reads "easy", "several steps", "on request", "complex" or "impossible".
func (e *Ease) UnmarshalText(text []byte) error { return choose(e, text, easeNames()) }
