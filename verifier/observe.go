package verifier

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/maturity"
	"github.com/miotfacts/miotfacts/reference"
)

// A Chronicle tells, in the order in which they came, when reports of a device
// were accepted since a time, and in which stage it was; store.Store is one.
type Chronicle interface {
	Stages(id attest.UEID, since int64) ([]Moment, error)
}

// A Moment is what one report said.
type Moment struct {
	At    int64 // when it was accepted
	Stage reference.Stage
	Alarm bool
}

// Criticality is how much depends on a device, as its holder sees it.
type Criticality uint8

// The degrees (Table IV of Gleissner et al.).
const (
	Low    Criticality = 1
	Medium Criticality = 2
	High   Criticality = 3
)

// A Survey says over what is counted.
type Survey struct {
	Inventory    int64                  // medical IoT devices that the facility has
	From         int64                  // Unix seconds; 0 for the first report
	Criticality  map[string]Criticality // by model; without one, downtimes of the model are not told
	Certificates bool                   // the broker lets nobody in without a certificate
	Talk         []Talk                 // records of whom devices talk to
}

// Talk is what one device's record of its peers says of their protection.
type Talk struct {
	Lowest int64 // TLS version times ten; 0: no TLS was seen
	Plain  int64 // connections without TLS
	Unseen int64 // whose beginning or version was not seen, lost ones included
}

// Counted is what the maturity model can know from a verifier's store.
type Counted struct {
	Data  *maturity.Data
	Notes []string // what is not told, and why; events, which people add to those of the facility
}

// Observations counts over the approved devices that have reported, for the
// maturity model. A device of which something is not known keeps the fleet from
// proving it; one of which the contrary is known contradicts, whatever the others
// are. So a share with unknown devices in it takes them for good, and is told only
// where some are known to be bad.
func (v *Verifier) Observations(now int64, h Chronicle, s Survey) (*Counted, error) {
	all, err := v.Devices(now)
	if err != nil {
		return nil, err
	}
	c := &census{now: now, survey: s, values: map[string]int64{}}
	first := now
	for i := range all {
		d := &all[i]
		if d.Enrolled != Approved || d.Sequence == 0 {
			continue
		}
		moments, err := h.Stages(d.UEID, s.From)
		if err != nil {
			return nil, err
		}
		if len(moments) == 0 {
			continue
		}
		first = min(first, moments[0].At)
		c.devices = append(c.devices, surveyed{Device: d, moments: moments, ref: v.policy.Load().referenceOf(d), silence: 3*v.reportEvery(d) + silenceSlack})
	}
	switch n := int64(len(c.devices)); {
	case n == 0:
		return nil, errors.New("cannot count: no approved device has reported in this time")
	case n > s.Inventory:
		return nil, fmt.Errorf("cannot count: %d devices have reported, more than the inventory of %d", n, s.Inventory)
	}
	c.identity(all)
	c.boot()
	c.runtime()
	c.tampering()
	c.software()
	c.talk()
	c.downtime(first)
	c.events()
	return &Counted{Notes: c.notes, Data: &maturity.Data{
		Source: v.cfg.Build, From: day(first), Until: day(now), Inventory: s.Inventory, Devices: int64(len(c.devices)), Values: c.values,
	}}, nil
}

func day(unix int64) time.Time { return time.Unix(unix, 0).UTC().Truncate(24 * time.Hour) }

// A surveyed device is one that counts.
type surveyed struct {
	*Device
	moments []Moment
	ref     *reference.Reference // nil when the manifest it uses is not known
	silence int64                // seconds without a report after which nobody knows how it is
}

// A census collects observations.
type census struct {
	now     int64
	survey  Survey
	devices []surveyed
	values  map[string]int64
	notes   []string
}

func (c *census) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// answer is what is known of one device.
type answer uint8

const (
	yes     answer = 1
	no      answer = 2
	unknown answer = 3
)

func known(b bool) answer {
	if b {
		return yes
	}
	return no
}

// share tells the share of devices, in per mille, rounded down.
func (c *census) share(id string, of func(d *surveyed) answer) {
	counts := map[answer]int64{}
	for i := range c.devices {
		counts[of(&c.devices[i])]++
	}
	if counts[unknown] > 0 && counts[no] == 0 {
		c.note("%s: not known of %d devices of %d", id, counts[unknown], len(c.devices))
		return
	}
	if counts[unknown] > 0 {
		c.note("%s: at most; not known of %d devices of %d", id, counts[unknown], len(c.devices))
	}
	n := int64(len(c.devices))
	c.values[id] = (n - counts[no]) * 1000 / n
}

// count adds numbers up. What is not known of a device is left out of the sum,
// which then proves nothing and is told only above 0.
func (c *census) count(id string, of func(d *surveyed) (int64, bool)) {
	sum, open := int64(0), 0
	for i := range c.devices {
		n, ok := of(&c.devices[i])
		sum += n
		if !ok {
			open++
		}
	}
	if open > 0 {
		c.note("%s: not known of %d devices of %d", id, open, len(c.devices))
		if sum == 0 {
			return
		}
	}
	c.values[id] = min(sum, 1_000_000)
}

func (c *census) identity(all []Device) {
	c.share("tpm_backed_share", func(d *surveyed) answer { return known(d.Identity != nil) })
	c.share("hardware_identity_share", func(d *surveyed) answer { return known(d.Identity != nil && d.EKProblem == "") })
	if c.survey.Certificates {
		c.values["certificate_share"] = 1000
	} else {
		c.note("certificate_share: how devices authenticate at the broker outside is not known here")
	}
	users := map[cose.KeyID]int64{}
	for i := range all {
		if all[i].Key != nil {
			users[all[i].Key.ID()]++
		}
	}
	shared := int64(0)
	for n := range maps.Values(users) {
		if n > 1 {
			shared++
		}
	}
	c.values["shared_keys"] = shared
}

func (c *census) boot() {
	c.share("boot_evidence_share", func(d *surveyed) answer {
		b := d.Boot
		return known(d.Identity != nil && b != nil && b.Quoted && b.State == nil && worst(b.Found) < TierWarning)
	})
	c.share("secure_boot_share", func(d *surveyed) answer {
		if b := d.Boot; b != nil && b.Quoted && b.SecureBoot != "" {
			return known(b.SecureBoot == "on")
		}
		return truth(d, factSecureBoot)
	})
}

// truth returns a fact of yes or no.
func truth(d *surveyed, k facts.Key) answer {
	v, why := d.Seen.reading(k)
	if why != "" || v.Kind() != facts.Bool {
		return unknown
	}
	return known(v.Bool())
}

func (c *census) runtime() {
	c.share("runtime_appraised_share", func(d *surveyed) answer {
		return known(d.ref != nil && d.ref.Manifest().Enforce == reference.Pause && len(d.ref.Manifest().Operating) > 0 && len(d.ref.Manifest().FailSafe) > 0)
	})
	c.count("undeclared_services", func(d *surveyed) (int64, bool) {
		v, why := d.Seen.reading(factListening)
		if why != "" || d.Life == nil || d.Life.Label.Label == nil {
			return 0, false
		}
		return int64(len(undeclared(d.Life.Label.Label, d.ref, v.Set()))), true
	})
}

// tampering is the opening of the case. A device without a sensor of it cannot
// raise an alarm; whether its tampering would be logged nobody knows.
func (c *census) tampering() {
	sensed := func(d *surveyed) bool {
		_, why := d.Seen.reading(factTamper)
		return why == ""
	}
	c.share("tamper_logged_share", func(d *surveyed) answer {
		switch {
		case d.Missing > 0 || d.Dropped > 0:
			return no
		case !sensed(d):
			return unknown
		}
		return yes
	})
	c.share("tamper_alarm_share", func(d *surveyed) answer {
		return known(sensed(d) && d.ref != nil && d.ref.Manifest().Enforce >= reference.Alarm &&
			slices.ContainsFunc(d.ref.Manifest().FailSafe, func(r reference.Rule) bool { return r.Fact == factTamper }))
	})
}

func (c *census) software() {
	c.count("unexplained_updates", func(d *surveyed) (int64, bool) {
		if d.Seen == nil || len(d.Seen.Versions) == 0 {
			return 0, false
		}
		return int64(d.Seen.Unexplained), true
	})
	c.share("updated_in_cycle_share", func(d *surveyed) answer {
		if d.Life == nil {
			return unknown
		}
		for _, x := range d.Life.Checks {
			if x.Code == ReasonLabelUpdates && x.Verdict != Open {
				return known(x.Verdict == Fits)
			}
		}
		return unknown
	})
}

// talk tells what records of peers show. Fewer records than devices prove nothing.
func (c *census) talk() {
	if len(c.survey.Talk) == 0 {
		c.note("tls_min_version, plaintext_connections: no record of whom devices talk to was given; with this verifier all speak TLS 1.3 or what the broker outside demands")
		return
	}
	lowest, plain, unseen := int64(0), int64(0), int64(0)
	for _, t := range c.survey.Talk {
		if t.Lowest != 0 && (lowest == 0 || t.Lowest < lowest) {
			lowest = t.Lowest
		}
		plain += t.Plain
		unseen += t.Unseen
	}
	whole := unseen == 0 && len(c.survey.Talk) >= len(c.devices)
	if !whole {
		c.note("tls_min_version, plaintext_connections: %d records for %d devices, %d connections of which the beginning was not seen: told only where they contradict", len(c.survey.Talk), len(c.devices), unseen)
	}
	if lowest != 0 && (whole || lowest < 12) {
		c.values["tls_min_version"] = lowest
	}
	if whole || plain > 0 {
		c.values["plaintext_connections"] = min(plain, 1_000_000)
	}
}

// downtime tells the longest time in which a device was not known to operate.
func (c *census) downtime(first int64) {
	longest, strange := map[Criticality]int64{}, map[string]bool{}
	for i := range c.devices {
		d := &c.devices[i]
		degree, ok := c.survey.Criticality[d.Model]
		if !ok {
			strange[d.Model] = true
			continue
		}
		longest[degree] = max(longest[degree], down(d.moments, d.silence, c.now))
	}
	if len(strange) > 0 {
		c.note("downtimes: the criticality of %s was not said, so none is told", strings.Join(slices.Sorted(maps.Keys(strange)), ", "))
		return
	}
	for degree, id := range map[Criticality]string{Low: "downtime_low_hours", Medium: "downtime_medium_hours", High: "downtime_high_hours"} {
		if seconds, ok := longest[degree]; ok {
			c.values[id] = min((seconds+3599)/3600, 366*24)
		}
	}
	if c.now-first < 365*86400 {
		c.note("downtimes: %d days were watched; less than a year proves nothing", (c.now-first)/86400)
	}
}

// down returns the longest time, in seconds, between a report of an operating
// device and the next one, in which it said something else or was silent for
// longer than it may. What it says later of such a time does not count.
func down(moments []Moment, silence, now int64) int64 {
	longest, since, other := int64(0), int64(0), false
	end := func(at int64) {
		if since != 0 && (other || at-since > silence) {
			longest = max(longest, at-since)
		}
	}
	for _, m := range moments {
		switch {
		case m.Stage == reference.StageOperating:
			end(m.At)
			since, other = m.At, false
		case since == 0:
			since, other = m.At, true // it was down when the time began
		default:
			other = true
		}
	}
	end(now)
	return longest
}

// events are those that this verifier knows of. The model asks for those of the
// whole facility, so they are only a note.
func (c *census) events() {
	alarms, pauses := 0, 0
	for i := range c.devices {
		paused := false
		for _, m := range c.devices[i].moments {
			if m.Alarm {
				alarms++
			}
			if m.Stage == reference.StagePaused && !paused {
				pauses++
			}
			paused = m.Stage == reference.StagePaused
		}
	}
	c.note("security_events: this verifier counted %d alarms and %d pauses; the facility's own books have the others", alarms, pauses)
}
