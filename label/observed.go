package label

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// Observed is what was seen of one device, as a person writes it in TOML and as a
// program that watches devices exports it in JSON. All of it may be missing.
type Observed struct {
	Version      int               `json:"version" toml:"-"`                            // of this form in JSON: 1
	Model        string            `json:"model,omitempty" toml:"model"`                // as in the label; "" fits any
	Device       string            `json:"device,omitempty" toml:"device"`              // its name for people; no patient's
	On           Day               `json:"on,omitzero" toml:"on"`                       // the day of the observation
	Purchased    Day               `json:"purchased,omitzero" toml:"purchased"`         // the start where the label has no day of manufacture
	SupportEnded Day               `json:"support_ended,omitzero" toml:"support_ended"` // the day on which support has ended, if before what was promised
	Inspected    Day               `json:"inspected,omitzero" toml:"inspected"`         // the day of the last inspection
	InspectedBy  string            `json:"inspected_by,omitempty" toml:"inspected_by"`  // who answers for it, with inspected
	Firmware     []FirmwareSeen    `json:"firmware,omitempty" toml:"firmware"`          // in the order of their days
	Temperature  []HoursAbove      `json:"temperature,omitempty" toml:"temperature"`    // its history, the lowest bound first
	Amounts      map[string]uint32 `json:"amounts,omitempty" toml:"amounts"`            // by the name of a kind, in its unit
}

// FirmwareSeen is a version of the firmware and the day on which it was seen first.
type FirmwareSeen struct {
	Version   string `json:"version" toml:"version"`
	FirstSeen Day    `json:"first_seen" toml:"first_seen"`
}

// HoursAbove is how long the device was above a temperature, since it was made.
type HoursAbove struct {
	Celsius int32  `json:"celsius" toml:"celsius"`
	Hours   uint32 `json:"hours" toml:"hours"`
}

const maxObserved = 1024 // elements of one list

// ReadObserved reads what was seen of a device: JSON where it begins with a brace,
// else TOML (docs/best-before.md).
func ReadObserved(data []byte) (Observation, error) {
	var in Observed
	err := in.decode(data)
	if err != nil {
		return Observation{}, fmt.Errorf("cannot read observation: %w", err)
	}
	o, err := in.Observation()
	if err != nil {
		return Observation{}, fmt.Errorf("cannot read observation: %w", err)
	}
	return o, nil
}

func (in *Observed) decode(data []byte) error {
	if len(data) > maxAuthored {
		return fmt.Errorf("more than %d bytes", maxAuthored)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return decode(data, in)
	}
	if !json.Valid(data) { // and not nested without end
		return json.Unmarshal(data, in)
	}
	if err := once(json.NewDecoder(bytes.NewReader(data)), ""); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more behind its end")
	}
	if in.Version != 1 {
		return fmt.Errorf("version: %d is not 1", in.Version)
	}
	return nil
}

// once refuses a member that stands in an object twice: two readers would take
// different ones.
func once(d *json.Decoder, at string) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	kind, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		inside := at
		if kind == '{' {
			name, err := d.Token()
			if err != nil {
				return err
			}
			key := strings.ToLower(fmt.Sprint(name)) // as the decoder compares names
			if seen[key] {
				return fmt.Errorf("%.40q stands there twice", at+key)
			}
			seen[key] = true
			inside += key + "."
		}
		if err := once(d, inside); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// Observation checks what was seen and turns it into what the date is made from.
func (in *Observed) Observation() (Observation, error) {
	o := Observation{Model: in.Model, Device: in.Device, On: in.On, Purchased: in.Purchased, SupportEnded: in.SupportEnded, Inspected: in.Inspected, InspectedBy: in.InspectedBy, Amounts: map[Kind]uint32{}, basis: map[Kind]basis{}}
	for _, d := range []struct {
		name string
		day  Day
	}{{"on", in.On}, {"purchased", in.Purchased}, {"support_ended", in.SupportEnded}, {"inspected", in.Inspected}} {
		if d.day < 0 {
			return o, fmt.Errorf("%s is no date from 1971 on such as 2026-01-31, without quotes", d.name)
		}
	}
	for name, s := range map[string]string{"device": in.Device, "model": in.Model, "inspected_by": in.InspectedBy} {
		if !plain(s) {
			return o, fmt.Errorf("%s: %.40q is not plain text of at most %d bytes", name, s, MaxText)
		}
	}
	if (in.Inspected == 0) != (in.InspectedBy == "") {
		return o, errors.New("inspected and inspected_by stand together: the day, and who answers for the inspection")
	}
	for name, n := range in.Amounts {
		var k Kind
		switch err := k.UnmarshalText([]byte(name)); {
		case err != nil:
			return o, fmt.Errorf("amounts: %w", err)
		case k == UpdatePromised:
			return o, errors.New("amounts: update_promised stands in the label; what is seen is update_observed")
		}
		o.Amounts[k] = n
	}
	if err := in.firmware(&o); err != nil {
		return o, err
	}
	return o, in.temperature(&o)
}

func plain(s string) bool {
	return len(s) <= MaxText && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// firmware finds the longest time between two versions, the one that runs on the day
// of the observation included: a promise is broken by the longest.
func (in *Observed) firmware(o *Observation) error {
	list := in.Firmware
	if len(list) > maxObserved {
		return fmt.Errorf("firmware: %d versions, the limit is %d", len(list), maxObserved)
	}
	seen := map[string]bool{}
	for i, f := range list {
		switch {
		case f.Version == "" || !plain(f.Version):
			return fmt.Errorf("firmware[%d].version: %.40q is not plain text of 1 to %d bytes", i, f.Version, MaxText)
		case seen[f.Version]:
			return fmt.Errorf("firmware[%d].version: %s stands there twice; first_seen is the first day", i, f.Version)
		case f.FirstSeen <= 0:
			return fmt.Errorf("firmware[%d].first_seen is no date from 1971 on", i)
		case i > 0 && f.FirstSeen < list[i-1].FirstSeen:
			return fmt.Errorf("firmware[%d].first_seen: %s is before that of the version above it", i, f.FirstSeen)
		case in.On != 0 && f.FirstSeen > in.On:
			return fmt.Errorf("firmware[%d].first_seen: %s is after the day of the observation", i, f.FirstSeen)
		}
		seen[f.Version] = true
	}
	if len(list) == 0 || len(list) == 1 && in.On == 0 {
		return nil
	}
	if _, twice := o.Amounts[UpdateObserved]; twice {
		return errors.New("amounts: update_observed follows from firmware; leave one of them out")
	}
	longest := Day(-1)
	for i, f := range list {
		end, until := in.On, "none since, until "+in.On.String()
		if i+1 < len(list) {
			end, until = list[i+1].FirstSeen, list[i+1].Version+" on "+list[i+1].FirstSeen.String()
		} else if in.On == 0 {
			break
		}
		if end-f.FirstSeen > longest {
			longest = end - f.FirstSeen
			why := fmt.Sprintf("the longest wait: %s on %s, %s", f.Version, f.FirstSeen, until)
			o.basis[UpdateObserved] = basis{uint32(longest), why}
		}
	}
	o.Amounts[UpdateObserved] = uint32(longest)
	return nil
}

func (in *Observed) temperature(o *Observation) error {
	if len(in.Temperature) > maxObserved {
		return fmt.Errorf("temperature: %d rows, the limit is %d", len(in.Temperature), maxObserved)
	}
	for i, t := range in.Temperature {
		switch {
		case t.Celsius < -273 || t.Celsius > 1000:
			return fmt.Errorf("temperature[%d].celsius: %d is outside -273 to 1000", i, t.Celsius)
		case i > 0 && t.Celsius <= in.Temperature[i-1].Celsius:
			return fmt.Errorf("temperature[%d].celsius: %d is not above the row before it", i, t.Celsius)
		case i > 0 && t.Hours > in.Temperature[i-1].Hours:
			return fmt.Errorf("temperature[%d].hours: %d above %d °C, but %d above %d °C", i, t.Hours, t.Celsius, in.Temperature[i-1].Hours, in.Temperature[i-1].Celsius)
		}
	}
	if _, twice := o.Amounts[HotHours]; twice && len(in.Temperature) > 0 {
		return errors.New("amounts: hot_hours follows from temperature; leave one of them out")
	}
	o.Temperature = in.Temperature
	return nil
}

// celsius is how the reason of hot_hours names its temperature.
var celsius = regexp.MustCompile(`(-?[0-9]{1,3}) ?°C`)

// hot returns how long the device was above the temperature that a reason names. A
// history that has not that very bound tells by the one below it, which is longer.
func (o Observation) hot(reason string) (uint32, string, bool) {
	m := celsius.FindStringSubmatch(reason)
	if m == nil || len(o.Temperature) == 0 {
		return 0, "", false
	}
	bound, err := strconv.Atoi(m[1])
	if err != nil {
		return 0, "", false
	}
	found := -1
	for i, t := range o.Temperature {
		if int(t.Celsius) <= bound {
			found = i
		}
	}
	if found < 0 {
		return 0, "", false
	}
	t := o.Temperature[found]
	return t.Hours, fmt.Sprintf("hours above %d °C", t.Celsius), true
}

// Join adds what another file says of the same device. Each thing is said once.
func (o Observation) Join(p Observation) (Observation, error) {
	twice := func(what string) (Observation, error) {
		return Observation{}, fmt.Errorf("cannot join observations: %s stands in both", what)
	}
	sum := Observation{Amounts: map[Kind]uint32{}, basis: map[Kind]basis{}}
	for _, x := range []Observation{o, p} {
		for _, s := range []struct {
			name string
			into *string
			from string
		}{{"model", &sum.Model, x.Model}, {"device", &sum.Device, x.Device}, {"inspection", &sum.InspectedBy, x.InspectedBy}} {
			if s.from != "" && *s.into != "" && s.from != *s.into {
				return Observation{}, fmt.Errorf("cannot join observations: of %s %s and of %s", s.name, *s.into, s.from)
			}
			if s.from != "" {
				*s.into = s.from
			}
		}
		for _, d := range []struct {
			name string
			into *Day
			from Day
		}{{"on", &sum.On, x.On}, {"purchased", &sum.Purchased, x.Purchased}, {"support_ended", &sum.SupportEnded, x.SupportEnded}, {"inspected", &sum.Inspected, x.Inspected}} {
			if d.from != 0 && *d.into != 0 && d.from != *d.into {
				return twice(d.name)
			}
			if d.from != 0 {
				*d.into = d.from
			}
		}
		for k, n := range x.Amounts {
			if _, ok := sum.Amounts[k]; ok {
				return twice(k.String())
			}
			sum.Amounts[k] = n
		}
		for k, why := range x.basis {
			sum.basis[k] = why
		}
		if x.Temperature != nil {
			if sum.Temperature != nil {
				return twice("temperature")
			}
			sum.Temperature = x.Temperature
		}
	}
	if _, ok := sum.Amounts[HotHours]; ok && len(sum.Temperature) > 0 {
		return twice("hot_hours, by temperature too,")
	}
	return sum, nil
}
