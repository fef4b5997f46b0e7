package linux

import (
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

// powerSensors are the hwmon power sensors, in µW: the instantaneous value, or
// the average where the driver gives only that.
func powerSensors(root *Root) *sensorSet {
	return hwmonSet(root, nil, func(d *hwmonDevice, kind string, n int, suffix string) bool {
		if kind != "power" {
			return false
		}
		return suffix == "_input" || suffix == "_average" && !d.has("power", n, "_input")
	}, nil)
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
		b, f := root.readFile(zone + "/name")
		if f.is() {
			return nil, f
		}
		name, f := parseText(b)
		if f.is() {
			return nil, malformed("/" + zone + "/name: " + f.reason)
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

// energy reports power in mW and energy in mJ.
type energy struct {
	root     *Root
	power    *sensorSet
	counters *sensorSet

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
	sensors, f := s.power.each(func(_ int, n int64) { microwatt += n })
	grown, ns, cf := s.count()
	o.outcome(1, s.used/1000, cf)
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

// readBattery reports the charge of the emptiest battery. Batteries of
// peripherals (scope Device: a mouse) and empty slots do not count.
func readBattery(r *Root, o *out) {
	names, f := r.list(supplyClass)
	if f.is() {
		o.fault(0, f)
		return
	}
	low, seen := int64(0), false
	for _, n := range names {
		dir := supplyClass + "/" + n
		kind, f := r.readFile(dir + "/type")
		if f.status == facts.Absent {
			continue
		}
		if !f.is() {
			kind, f = parseText(kind)
		}
		if f.is() {
			o.fault(0, f)
			return
		}
		if string(kind) != "Battery" {
			continue
		}
		scope, f := r.readFile(dir + "/scope")
		if f.is() && f.status != facts.Absent {
			o.fault(0, f)
			return
		}
		if strings.TrimSpace(string(scope)) == "Device" {
			continue
		}
		present, f := r.readInt(dir + "/present")
		if f.is() && f.status != facts.Absent {
			o.fault(0, f)
			return
		}
		if !f.is() && present == 0 {
			continue
		}
		charge, f := r.readInt(dir + "/capacity")
		if f.status == facts.Absent {
			continue
		}
		if !f.is() && (charge < 0 || charge > 100) {
			f = malformed("/" + dir + "/capacity: not a percentage")
		}
		if f.is() {
			o.fault(0, f)
			return
		}
		if !seen || charge < low {
			low, seen = charge, true
		}
	}
	if !seen {
		o.fault(0, absent("there is no battery"))
		return
	}
	o.num(0, low*10)
}
