package linux

import (
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

// powerSensors are the hwmon power sensors, in µW: the instantaneous value, or
// the average where the driver gives only that. Of a monitor that measures no power
// itself they are computed, as the currents in mA times their voltages in mV.
func powerSensors(root *Root) *sensorSet {
	return hwmonSet(root, nil, func(d *hwmonDevice, kind string, n int, suffix string) bool {
		switch kind {
		case "power":
			return (suffix == "_input" || suffix == "_average" && !d.has("power", n, "_input")) && d.feeds(kind, n)
		case "curr":
			return suffix == "_input" && !d.measuresPower() && d.voltageOf(n) >= 0 && d.feeds(kind, n)
		}
		return false
	}, nil)
}

// measuresPower reports whether a monitor has a power sensor; the first is power1.
func (d *hwmonDevice) measuresPower() bool {
	return d.has("power", 1, "_input") || d.has("power", 1, "_average")
}

const powercapClass = "sys/class/powercap"

// energyCounters are the hwmon energy sensors, else the RAPL zones, in µJ.
//
// Of RAPL the zones are taken that do not contain each other: psys, which is
// the whole platform, or else the packages and the memory. The mmio control
// type counts the same packages once more.
func energyCounters(root *Root) *sensorSet {
	s := hwmonSet(root, []string{powercapClass}, func(_ *hwmonDevice, kind string, _ int, suffix string) bool {
		return kind == "energy" && suffix == "_input"
	}, nil)
	hwmon := s.find
	monitors := 0
	s.find = func(dir string, names []string) ([]sensor, fault) {
		if dir == hwmonClass {
			found, f := hwmon(dir, names)
			monitors = len(found)
			return found, f
		}
		if monitors > 0 {
			return nil, fault{}
		}
		return raplZones(root, dir, names)
	}
	return s
}

func raplZones(root *Root, dir string, names []string) ([]sensor, fault) {
	var all, platform []sensor
	for _, n := range names {
		if !strings.HasPrefix(n, "intel-rapl:") {
			continue
		}
		zone := dir + "/" + n
		name, f := root.readText(zone + "/name")
		if f.is() {
			return nil, f
		}
		sub := strings.Count(n, ":") > 1
		if sub && string(name) != "dram" {
			continue
		}
		x := newSensor(root, string(name)+" at "+n, zone+"/energy_uj")
		if x.wrap, f = root.readInt(zone + "/max_energy_range_uj"); f.is() {
			return nil, f
		}
		if string(name) == "psys" {
			platform = append(platform, x)
		} else {
			all = append(all, x)
		}
	}
	if len(platform) > 0 {
		return platform, fault{}
	}
	return all, fault{}
}

// maxGap is the longest time over which two samples of power are taken to tell
// what was drawn between them.
const maxGap = int64(10 * time.Second)

// energy reports power in mW, energy in mJ, in ms for how long the energy is not
// known, and whether the power is computed. Where nothing counts energy, power is integrated.
type energy struct {
	root     *Root
	power    *sensorSet
	counters *sensorSet

	drawn   int64 // µW, the last sample of power
	drawnAt int64 // ns, when it was taken, or was first missing
	sampled bool  // drawnAt is set
	broken  bool  // a round after it had none
	gaps    int64 // ns that used does not cover

	last    []tally // of each counter
	used    int64   // µJ since the first round
	owed    int64   // µJ of rounds in which not all counters could be read
	at      int64   // ns, of the last round that had all counters
	counted bool
}

// A tally is the last value of the counter called label; the zero tally is of none.
type tally struct {
	label string
	count int64
}

func (s *energy) read(o *out) {
	var microwatt int64
	computed := false
	sensors, f := s.power.each(func(i int, n int64) {
		microwatt += n
		computed = computed || s.power.sensors[i].times != nil
	})
	grown, ns, cf := s.count()
	switch {
	case cf.status != facts.Absent:
		o.outcome(1, s.used/1000, cf)
		o.outcome(2, 0, cf)
	case f.status == facts.Absent || !f.is() && sensors == 0:
		none := absent("there is no power sensor or energy counter")
		o.fault(1, none)
		o.fault(2, none)
	default:
		s.integrate(microwatt, f)
		o.outcome(1, s.used/1000, f)
		o.outcome(2, s.gaps/int64(time.Millisecond), f)
	}
	if f.is() || sensors == 0 {
		if !f.is() {
			f = absent("there is no power sensor")
		}
		o.fault(3, f)
	} else {
		o.ok(3, facts.BoolValue(computed))
	}
	switch {
	case f.status == facts.Absent || !f.is() && sensors == 0:
		switch {
		case cf.status == facts.Absent:
			o.fault(0, absent("there is no power sensor or energy counter"))
		case cf.is():
			o.fault(0, cf)
		case ns <= 0:
			o.fault(0, pending(secondSample))
		default:
			o.num(0, scale(grown, int64(time.Second)/1000, ns)) // µJ/ns to mW
		}
	case f.is():
		o.fault(0, f)
	default:
		o.num(0, microwatt/1000)
	}
}

// integrate adds what was drawn since the last sample, the mean of both over the
// time between, or that time to the gaps: a sample was missing, or came late.
// A gap counts when it has ended; until then the faults of the facts tell of it.
func (s *energy) integrate(microwatt int64, f fault) {
	now := s.root.now()
	if f.is() {
		if !s.sampled { // the gap began with the agent
			s.drawnAt, s.sampled = now, true
		}
		s.broken = true
		return
	}
	if ns := now - s.drawnAt; s.sampled && (s.broken || ns > maxGap) {
		s.gaps += ns
	} else if s.sampled {
		s.used += scale(max(s.drawn+microwatt, 0), ns, 2*int64(time.Second))
	}
	s.drawn, s.drawnAt, s.sampled, s.broken = microwatt, now, true, false
}

// count adds what the counters grew by since the last round; ns is 0 in the
// first. The counters keep their last values over a round that failed, so that
// the next one makes up for it.
func (s *energy) count() (grown, ns int64, f fault) {
	now := s.root.now()
	back := ""
	used, f := s.counters.each(func(i int, n int64) {
		x := &s.counters.sensors[i]
		for i >= len(s.last) {
			s.last = append(s.last, tally{})
		}
		l := &s.last[i]
		if l.label != x.label { // the first round, or a scan found other counters
			*l = tally{x.label, n}
			return
		}
		d := n - l.count
		if d < 0 {
			d += x.wrap
		}
		if d < 0 {
			back, d = x.label, 0
		}
		l.count = n
		grown += d
	})
	s.used += grown
	s.owed += grown
	if f.is() {
		return 0, 0, f
	}
	if used == 0 {
		return 0, 0, absent("there is no energy counter")
	}
	grown, s.owed = s.owed, 0
	if s.counted {
		ns = now - s.at
	}
	s.at, s.counted = now, true
	if back != "" {
		return 0, 0, malformed("the counter " + back + " went back")
	}
	return grown, ns, fault{}
}

// total returns the sum of a set's counters in mJ.
func total(set *sensorSet) (int64, fault) {
	var sum int64
	used, f := set.each(func(_ int, n int64) { sum += n })
	if !f.is() && used == 0 {
		f = absent("there is no energy counter")
	}
	return sum / 1000, f
}

const supplyClass = "sys/class/power_supply"

// supplyVoltages are the voltages of supplies: the bus voltage of hwmon supply
// monitors in mV and voltage_now of power supplies in µV. The other voltages of
// a board are made on it and say little about what feeds it.
//
// A hwmon channel measures a supply when it is in1 of an INA2xx (in0 is over
// the shunt), in1 to in3 of an INA3221, or labelled vin (PMBus).
func supplyVoltages(root *Root) *sensorSet {
	return hwmonSet(root, []string{supplyClass}, func(d *hwmonDevice, kind string, n int, suffix string) bool {
		if kind != "in" || suffix != "_input" {
			return false
		}
		switch {
		case d.name == "ina3221":
			return n >= 1 && n <= 3
		case strings.HasPrefix(d.name, "ina2"):
			return n == 1
		}
		return strings.HasPrefix(d.channelLabel("in", n), "vin")
	}, func(dir string, names []string) ([]sensor, fault) {
		var found []sensor
		for _, n := range names {
			path := dir + "/" + n + "/voltage_now"
			if root.exists(path) {
				found = append(found, newSensor(root, n, path))
			}
		}
		return found, fault{}
	})
}

// lowest reports the lowest voltage in mV.
type lowest struct {
	set  *sensorSet
	none string // the reason when there is no such sensor
}

func (l *lowest) read(o *out) {
	var low int64
	seen := false
	used, f := l.set.each(func(i int, n int64) {
		if strings.HasSuffix(l.set.sensors[i].input.path, "/voltage_now") {
			n /= 1000
		}
		if !seen || n < low {
			seen, low = true, n
		}
	})
	if !f.is() && used == 0 {
		f = absent(l.none)
	}
	o.outcome(0, low, f)
}

// A supply is a power supply of the device: not one of a peripheral (scope
// Device: a mouse), and not an empty slot.
type supply struct{ dir, kind string }

func (r *Root) supplies() ([]supply, fault) {
	names, f := r.list(supplyClass)
	if f.is() {
		return nil, f
	}
	var found []supply
	for _, n := range names {
		s := supply{dir: supplyClass + "/" + n}
		kind, f := r.readText(s.dir + "/type")
		if f.status == facts.Absent {
			continue
		}
		if f.is() {
			return nil, f
		}
		s.kind = string(kind)
		scope, f := r.readFile(s.dir + "/scope")
		if f.is() && f.status != facts.Absent {
			return nil, f
		}
		if strings.TrimSpace(string(scope)) == "Device" {
			continue
		}
		present, f := r.readInt(s.dir + "/present")
		if f.is() && f.status != facts.Absent {
			return nil, f
		}
		if f.is() || present != 0 {
			found = append(found, s)
		}
	}
	return found, fault{}
}

// charge is how full the battery is, in per mille.
func (r *Root) charge(s supply) (int64, fault) {
	n, f := r.readInt(s.dir + "/capacity")
	if !f.is() && (n < 0 || n > 100) {
		f = malformed("/" + s.dir + "/capacity: not a percentage")
	}
	return 10 * n, f
}

// health is what the battery still holds of what it was made for, in per mille;
// a new one may hold more. Drivers tell charge or energy.
func (r *Root) health(s supply) (int64, fault) {
	what := "/charge_full"
	full, f := r.readInt(s.dir + what)
	if f.status == facts.Absent {
		what = "/energy_full"
		full, f = r.readInt(s.dir + what)
	}
	if f.is() {
		return 0, f
	}
	design, f := r.readInt(s.dir + what + "_design")
	if f.is() {
		return 0, f
	}
	if full < 0 || design <= 0 {
		return 0, malformed("/" + s.dir + what + ": not the part of a capacity")
	}
	return scale(full, 1000, design), fault{}
}

func (r *Root) cycles(s supply) (int64, fault) {
	n, f := r.readInt(s.dir + "/cycle_count")
	if !f.is() && n < 0 {
		f = malformed("/" + s.dir + "/cycle_count: below 0")
	}
	return n, f
}

// online reports whether an adapter delivers power: 1, or 2 where the voltage
// can be programmed.
func (r *Root) online(s supply) (int64, fault) {
	n, f := r.readInt(s.dir + "/online")
	if !f.is() && (n < 0 || n > 2) {
		f = malformed("/" + s.dir + "/online: not 0 to 2")
	}
	return min(n, 1), f
}

// readSupplies reports the emptiest and the most worn battery, the most cycles,
// and whether any adapter delivers power.
func readSupplies(r *Root, o *out) {
	list, f := r.supplies()
	if f.is() {
		o.faults(f)
		return
	}
	for i, x := range []struct {
		battery bool
		read    func(supply) (int64, fault)
		least   bool
		none    string
	}{
		{true, r.charge, true, "there is no battery that tells its charge"},
		{false, r.online, false, "there is no adapter that tells whether it delivers"},
		{true, r.health, true, "there is no battery that tells its capacity"},
		{true, r.cycles, false, "there is no battery that counts its cycles"},
	} {
		worst, bad := int64(0), absent(x.none)
		for _, s := range list {
			if adapter := s.kind == "Mains" || s.kind == "USB" || s.kind == "Wireless"; x.battery && s.kind != "Battery" || !x.battery && !adapter {
				continue
			}
			n, f := x.read(s)
			if f.status == facts.Absent {
				continue
			}
			if f.is() {
				bad = f
				break
			}
			if bad.is() || x.least && n < worst || !x.least && n > worst {
				worst, bad = n, fault{}
			}
		}
		if i == 1 && !bad.is() {
			o.ok(i, facts.BoolValue(worst != 0))
			continue
		}
		o.outcome(i, worst, bad)
	}
}
