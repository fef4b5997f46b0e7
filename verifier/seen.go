package verifier

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
)

// Wire keys of the facts that a device's life is told from, of facts/catalogue.go.
const (
	factSecureBoot  facts.Key = 10
	factRootHash    facts.Key = 15
	factTemperature facts.Key = 50
	factWear        facts.Key = 61
	factVerity      facts.Key = 63
	factListening   facts.Key = 70
	factPeers       facts.Key = 71
	factAddresses   facts.Key = 74
	factWireless    facts.Key = 77
	factBluetooth   facts.Key = 78
	factTamper      facts.Key = 95
	factHours       facts.Key = 101
	factCycles      facts.Key = 47
	factKernel      facts.Key = 110
	factOS          facts.Key = 111
	factFirmware    facts.Key = 112
	factAgent       facts.Key = 113
	factUpdate      facts.Key = 114
)

// lifeFacts are those of which the newest reading is kept.
var lifeFacts = []facts.Key{
	factSecureBoot, factRootHash, factWear, factVerity, factListening, factPeers, factAddresses, factWireless, factBluetooth, factTamper,
	factHours, factCycles, factKernel, factOS, factFirmware, factAgent, factUpdate,
}

// softwareFacts are those of which a change is an update.
var softwareFacts = []facts.Key{factKernel, factOS, factFirmware, factAgent}

const (
	maxVersions = 64 // first and newest; an update each week for more than a year
	heatFloor   = 40 // °C of the first step of Seen.Heat
	heatStep    = 5  // °C
	heatSteps   = 18 // up to 125 °C, the end of what electronics are rated for
)

// Seen is what a device's reports have told of its life, over all its boots.
type Seen struct {
	Facts    map[facts.Key]attest.Fact `cbor:"1,keyasint,omitempty"` // newest readings
	Gaps     map[facts.Key]attest.Gap  `cbor:"2,keyasint,omitempty"` // why the newest is none
	Versions []Version                 `cbor:"3,keyasint,omitempty"` // of its software, oldest first
	Updates  uint64                    `cbor:"4,keyasint,omitempty"` // changes of version, those that were forgotten too
	// Unexplained counts changes of software that no rule of the manifest and no
	// reference of its boot spoke about.
	Unexplained uint64   `cbor:"5,keyasint,omitempty"`
	Longest     int64    `cbor:"6,keyasint,omitempty"` // seconds, the longest time between two changes
	Watched     uint64   `cbor:"7,keyasint,omitempty"` // ms in which the temperature was measured
	Heat        []uint64 `cbor:"8,keyasint,omitempty"` // ms of reports in which it reached 40 °C, 45 °C and so on
	Seed        []byte   `cbor:"9,keyasint,omitempty"` // of the boot that Counted is of
	Counted     int64    `cbor:"10,keyasint,omitempty"`
}

// A Version is software that was first seen at some time.
type Version struct {
	At       int64                `cbor:"1,keyasint"`           // Unix seconds
	Software map[facts.Key]string `cbor:"2,keyasint,omitempty"` // software.* by its key
	Manifest uint64               `cbor:"3,keyasint,omitempty"` // sequence of the manifest in force
	Changed  int64                `cbor:"4,keyasint,omitempty"` // software.last_update, Unix seconds
}

// same reports whether neither software nor manifest differ. What one of the two
// does not know is no difference.
func (v *Version) same(w *Version) bool {
	for k, text := range v.Software {
		if other, ok := w.Software[k]; ok && other != text {
			return false
		}
	}
	equal := func(a, b uint64) bool { return a == 0 || b == 0 || a == b }
	return equal(v.Manifest, w.Manifest) && equal(uint64(v.Changed), uint64(w.Changed))
}

// take learns from the device's newest report.
func (s *Seen) take(now int64, r *attest.Report, ref *reference.Reference, boot *Boot) {
	if s.Facts == nil {
		s.Facts = map[facts.Key]attest.Fact{}
	}
	for _, k := range lifeFacts {
		g, gap := r.Body.Gaps[k]
		if r.Body.Same.Has(k) { // the report that has it has not come
			g, gap = attest.Gap{Status: facts.Pending, Reason: fmt.Sprintf("as in report %d, which has not come", r.Body.Same.Sequence)}, true
		}
		if f, ok := r.Body.Facts[k]; ok {
			s.Facts[k] = f
			delete(s.Gaps, k)
		} else if gap {
			if s.Gaps == nil {
				s.Gaps = map[facts.Key]attest.Gap{}
			}
			s.Gaps[k] = g
			delete(s.Facts, k)
		}
	}
	s.heat(r)
	s.version(now, r, ref, boot)
}

// heat counts how long it was how hot. A report tells the highest temperature of
// its interval, which counts for all of it: rather too hot than too cold.
func (s *Seen) heat(r *attest.Report) {
	b := &r.Body
	if !bytes.Equal(s.Seed, r.BootSeed) {
		s.Seed, s.Counted = slices.Clone(r.BootSeed), 0
	}
	ms := b.End - max(b.Begin, s.Counted)
	s.Counted = max(s.Counted, b.End)
	f, ok := b.Facts[factTemperature]
	if !ok || ms <= 0 {
		return
	}
	s.Watched += uint64(ms)
	for i := range heatSteps {
		if f.Max < int64(heatFloor+i*heatStep)*1000 {
			break
		}
		if i == len(s.Heat) {
			s.Heat = append(s.Heat, 0)
		}
		s.Heat[i] += uint64(ms)
	}
}

// temperature returns for how many hours it was how hot; nil where no temperature
// was measured.
func (s *Seen) temperature() []label.HoursAbove {
	if s.Watched == 0 {
		return nil
	}
	var rows []label.HoursAbove
	for i := range heatSteps {
		row := label.HoursAbove{Celsius: int32(heatFloor + i*heatStep)}
		if i < len(s.Heat) {
			row.Hours = uint32(min(s.Heat[i]/3_600_000, math.MaxInt32))
		}
		rows = append(rows, row)
	}
	return rows
}

// version notes software that was not seen before. Routine reports leave out
// what is told at boot, so only what they have is compared.
func (s *Seen) version(now int64, r *attest.Report, ref *reference.Reference, boot *Boot) {
	v := Version{At: now, Software: map[facts.Key]string{}}
	for _, k := range softwareFacts {
		if f, ok := s.Facts[k]; ok && f.Value.Kind() == facts.Text {
			v.Software[k] = attest.Clip(f.Value.Text(), 128)
		}
	}
	if f, ok := s.Facts[factUpdate]; ok && f.Value.Int() > 0 && f.Value.Int() <= now {
		v.Changed = f.Value.Int()
	}
	if ref != nil {
		v.Manifest = ref.Manifest().Sequence
	}
	if len(v.Software) == 0 && v.Changed == 0 {
		return
	}
	if len(s.Versions) == 0 {
		s.Versions = append(s.Versions, v)
		return
	}
	last := &s.Versions[len(s.Versions)-1]
	if slices.ContainsFunc(s.Versions, func(old Version) bool { return v.same(&old) }) {
		for k, text := range v.Software {
			if _, known := last.Software[k]; !known && v.same(last) {
				last.Software[k] = text // told only now, so no change
			}
		}
		if last.Changed == 0 {
			last.Changed = v.Changed
		}
		return
	}
	if !explained(last, &v, ref, boot) {
		s.Unexplained++
	}
	s.Updates++
	s.Longest = max(s.Longest, now-s.lastChange())
	s.Versions = append(s.Versions, v)
	if len(s.Versions) > maxVersions {
		s.Versions = slices.Delete(s.Versions, 1, 2)
	}
}

// explained reports whether the manufacturer signed for the software that is new
// in v: another manifest came with it, or its manifest has a rule on each fact
// that changed, or the quoted boot is one of the manifest's.
func explained(old, v *Version, ref *reference.Reference, boot *Boot) bool {
	if ref == nil {
		return false
	}
	if v.Manifest != old.Manifest || boot.Quoted && boot.State == nil && len(boot.Found) == 0 && len(boot.Versions) > 0 {
		return true
	}
	m := ref.Manifest()
	for k, text := range v.Software {
		if was, ok := old.Software[k]; !ok || was == text {
			continue
		}
		about := func(r reference.Rule) bool { return r.Fact == k }
		if !slices.ContainsFunc(m.Integration, about) && !slices.ContainsFunc(m.Operating, about) {
			return false
		}
	}
	return true
}

// lastChange returns when the newest software came, as far as that was seen: of
// the first version, when the device says that it was installed.
func (s *Seen) lastChange() int64 {
	last := s.Versions[len(s.Versions)-1]
	if len(s.Versions) == 1 && last.Changed != 0 {
		return last.Changed
	}
	return last.At
}

// cycle returns the most days that passed between two updates, the time since
// the last one included. It is not ok before anything is known of the software.
func (s *Seen) cycle(now int64) (days uint32, ok bool) {
	if len(s.Versions) == 0 {
		return 0, false
	}
	return uint32(max(s.Longest, now-s.lastChange(), 0) / 86400), true
}

// name returns a version for people. No two of a device have the same.
func (v *Version) name() string {
	var parts []string
	for _, k := range softwareFacts {
		if text := v.Software[k]; text != "" {
			parts = append(parts, printable(attest.Clip(text, 24)))
		}
	}
	if v.Manifest != 0 {
		parts = append(parts, fmt.Sprintf("manifest %d", v.Manifest))
	}
	if v.Changed != 0 {
		parts = append(parts, "changed "+time.Unix(v.Changed, 0).UTC().Format(time.RFC3339))
	}
	return strings.Join(parts, ", ")
}

// printable keeps what a device says of itself fit for a label's texts.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// observed returns what the device's reports tell for its day of inspection, in
// the form in which package label takes it.
func (s *Seen) observed(now int64) *label.Observed {
	o := &label.Observed{Version: 1, On: label.DayOf(now), Amounts: map[string]uint32{}}
	if s == nil {
		return o
	}
	for k, fact := range map[label.Kind]facts.Key{label.OperatingHours: factHours, label.FlashWear: factWear, label.BatteryCycles: factCycles} {
		if v, why := s.reading(fact); why == "" && v.Int() >= 0 && v.Int() <= math.MaxInt32 {
			o.Amounts[k.String()] = uint32(v.Int())
		}
	}
	o.Temperature = s.temperature()
	names := map[string]bool{}
	for i := range s.Versions {
		v := &s.Versions[i]
		first := v.At
		if i == 0 && v.Changed != 0 {
			first = v.Changed // installed before anybody looked
		}
		names[v.name()] = true
		o.Firmware = append(o.Firmware, label.FirmwareSeen{Version: v.name(), FirstSeen: label.DayOf(first)})
	}
	if days, ok := s.cycle(now); ok && (len(names) < len(s.Versions) || s.Updates >= uint64(len(s.Versions))) {
		// Some were forgotten, or cannot be told apart in words: the count alone.
		o.Firmware, o.Amounts[label.UpdateObserved.String()] = nil, days
	}
	return o
}

// reading returns the newest reading of a fact: its value, or why there is none.
func (s *Seen) reading(k facts.Key) (facts.Value, string) {
	if s == nil {
		return facts.Value{}, "no report has told it"
	}
	if f, ok := s.Facts[k]; ok {
		return f.Value, ""
	}
	if g, ok := s.Gaps[k]; ok {
		return facts.Value{}, g.Status.String() + ": " + g.Reason
	}
	return facts.Value{}, "no report has told it"
}
