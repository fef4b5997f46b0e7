package linux

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// How often a set looks for devices that were added, and how soon again after a
// device left or the look failed.
const (
	rescan      = int64(time.Minute)
	rescanAfter = int64(5 * time.Second)
)

// A sensor is one attribute that holds a number.
type sensor struct {
	// label names the sensor by the driver's name and the device's path,
	// because hwmon numbers change from boot to boot: "ina226 at
	// platform/soc/1c2b000.i2c/i2c-1/1-0040, power1".
	label string
	input *file
	fault *file // its _fault attribute, nil where there is none; 1: do not trust input
	times *file // what the number is multiplied by: the voltage beside a current; nil where there is none
	wrap  int64 // a counter continues at 0 after this number; 0 where none is told
}

func newSensor(root *Root, label, path string) sensor {
	s := sensor{label: label, input: newFile(root, path, value, 32)}
	s.input.name = label
	return s
}

func (s *sensor) close() {
	s.input.close()
	if s.fault != nil {
		s.fault.close()
	}
	if s.times != nil {
		s.times.close()
	}
}

// read returns the number; use is false when the sensor says itself that it has
// none to trust.
func (s *sensor) read() (n int64, use bool, f fault) {
	if s.fault != nil {
		b, f := s.fault.readInt()
		if f.is() {
			return 0, false, f
		}
		if b != 0 {
			return 0, false, fault{}
		}
	}
	n, f = s.input.readInt()
	if s.input.errno == unix.ENODATA {
		return 0, false, fault{} // hwmon and thermal: switched off, or asleep
	}
	if s.times == nil || f.is() {
		return n, !f.is(), f
	}
	m, f := s.times.readInt()
	switch {
	case s.times.errno == unix.ENODATA:
		return 0, false, fault{}
	case f.is():
		return 0, false, f
	case max(n, -n, m, -m) > maxFactor:
		return 0, false, s.input.malformed("the current or its voltage is beyond what a sensor shows")
	}
	return n * m, true, fault{}
}

// maxFactor bounds a current in mA and a voltage in mV: 10 kA and 10 kV.
const maxFactor = 10_000_000

// A sensorSet is all sensors of one sort on the machine.
type sensorSet struct {
	root *Root
	dirs []string // below the root; their entries are the devices
	// find returns the sensors of the devices names in dir.
	find func(dir string, names []string) ([]sensor, fault)

	sensors []sensor
	names   [][]string // entries of dirs at the last scan
	failed  fault      // of the last scan
	stale   bool       // a device is gone
	scanned bool
	next    int64
}

// each calls fn with the number of every sensor that is to be trusted and
// returns how many there were; fn's i counts sensors and is the same for one
// sensor until the next scan. One sensor that cannot be read makes the whole
// unreadable: the highest of the others would pass for the highest of all.
func (s *sensorSet) each(fn func(i int, n int64)) (used int, f fault) {
	s.scan()
	if s.failed.is() {
		return 0, s.failed
	}
	for i := range s.sensors {
		n, use, bad := s.sensors[i].read()
		if bad.is() {
			if bad.status == facts.Absent { // the device left
				s.stale = true
				s.next = min(s.next, s.root.now()+rescanAfter)
			}
			if !f.is() {
				f = bad
			}
			continue
		}
		if use {
			fn(i, n)
			used++
		}
	}
	if f.is() {
		return 0, f
	}
	if used == 0 && len(s.sensors) > 0 {
		return 0, fault{facts.Unreadable, "every sensor says that its value is not to be trusted"}
	}
	return used, fault{}
}

// scan looks for devices when its time has come.
func (s *sensorSet) scan() {
	now := s.root.now()
	if s.scanned && now < s.next {
		return
	}
	s.next = now + rescan
	names := make([][]string, len(s.dirs))
	for i, dir := range s.dirs {
		var f fault
		names[i], f = s.root.list(dir)
		if f.is() && f.status != facts.Absent {
			s.fail(f, now)
			return
		}
	}
	if s.scanned && !s.stale && !s.failed.is() && slices.EqualFunc(names, s.names, slices.Equal[[]string]) {
		return
	}
	s.reset()
	for i, dir := range s.dirs {
		found, f := s.find(dir, names[i])
		if f.is() {
			s.fail(f, now)
			return
		}
		s.sensors = append(s.sensors, found...)
	}
	s.names = names
}

func (s *sensorSet) reset() {
	for i := range s.sensors {
		s.sensors[i].close()
	}
	s.sensors, s.names, s.failed, s.stale, s.scanned = nil, nil, fault{}, false, true
}

func (s *sensorSet) fail(f fault, now int64) {
	s.reset()
	s.failed, s.next = f, now+rescanAfter
}

const hwmonClass = "sys/class/hwmon"

// hwmonSet returns the attributes of hwmon devices that match tells to take.
// It gets the driver's name and the attribute's kind, number and suffix: "in",
// 0, "_lcrit_alarm". A number of -1 means that there is none.
func hwmonSet(root *Root, dirs []string, match func(d *hwmonDevice, kind string, n int, suffix string) bool, others func(dir string, names []string) ([]sensor, fault)) *sensorSet {
	s := &sensorSet{root: root, dirs: append([]string{hwmonClass}, dirs...)}
	s.find = func(dir string, names []string) ([]sensor, fault) {
		if dir != hwmonClass {
			return others(dir, names)
		}
		var found []sensor
		for _, n := range names {
			d, f := openHwmon(root, dir+"/"+n)
			if f.status == facts.Absent {
				continue // it left since the listing
			}
			if f.is() {
				return nil, f
			}
			for _, attr := range d.attrs {
				kind, num, suffix := splitAttr(attr)
				if num < 0 || !match(d, kind, num, suffix) {
					continue
				}
				x := newSensor(root, d.label+", "+strings.TrimSuffix(attr, suffix), d.dir+"/"+attr)
				bad := strings.TrimSuffix(attr, suffix) + "_fault"
				if suffix == "_input" && slices.Contains(d.attrs, bad) {
					x.fault = newFile(root, d.dir+"/"+bad, value, 32)
					x.fault.name = x.label + "_fault"
				}
				if kind == "curr" { // wanted for the power
					x.times = newFile(root, d.dir+"/in"+strconv.Itoa(d.voltageOf(num))+"_input", value, 32)
					x.times.name = x.label + ", its voltage"
				}
				found = append(found, x)
			}
			if d.bad.is() {
				return nil, d.bad
			}
		}
		return found, fault{}
	}
	return s
}

// A hwmonDevice is one directory of /sys/class/hwmon (kernel,
// hwmon/sysfs-interface).
type hwmonDevice struct {
	root  *Root
	dir   string
	name  string
	label string
	attrs []string
	zone  bool  // it repeats a thermal zone
	bad   fault // a label could not be read
}

func openHwmon(root *Root, dir string) (*hwmonDevice, fault) {
	name, f := root.readText(dir + "/name")
	if f.is() {
		return nil, f
	}
	attrs, f := root.list(dir)
	if f.is() {
		return nil, f
	}
	d := &hwmonDevice{root: root, dir: dir, name: string(name), attrs: attrs}
	link := root.readlink(dir)
	d.zone = strings.Contains(link, "/thermal/thermal_zone")
	d.label = d.name + " at " + devicePath(dir, link)
	return d, fault{}
}

// devicePath turns the link of a class directory into the path of the device.
func devicePath(dir, link string) string {
	if link == "" {
		return dir[strings.LastIndexByte(dir, '/')+1:]
	}
	_, path, ok := strings.Cut(link, "devices/")
	if !ok {
		return link
	}
	if i := strings.Index(path, "/hwmon/"); i >= 0 {
		path = path[:i]
	}
	return path
}

// splitAttr cuts "temp12_input" into "temp", 12 and "_input"; n is -1 for
// another form.
func splitAttr(attr string) (kind string, n int, suffix string) {
	i := strings.IndexAny(attr, "0123456789")
	if i <= 0 {
		return "", -1, ""
	}
	j := i
	for j < len(attr) && attr[j] >= '0' && attr[j] <= '9' {
		j++
	}
	num, ok := parseInt([]byte(attr[i:j]))
	if !ok || j == len(attr) || attr[j] != '_' {
		return "", -1, ""
	}
	return attr[:i], int(num), attr[j:]
}

// hwmonAlarms are the alarm attributes of one kind and suffix of all devices.
func hwmonAlarms(root *Root, kind, suffix string) *sensorSet {
	return hwmonSet(root, nil, func(_ *hwmonDevice, k string, _ int, s string) bool {
		return k == kind && s == suffix
	}, nil)
}

// temperatures are the thermal zones and the hwmon sensors, in m°C. A hwmon
// device that repeats a zone is left out.
func temperatures(root *Root) *sensorSet {
	return hwmonSet(root, []string{"sys/class/thermal"}, func(d *hwmonDevice, kind string, _ int, suffix string) bool {
		return kind == "temp" && suffix == "_input" && !d.zone
	}, func(dir string, names []string) ([]sensor, fault) {
		var found []sensor
		for _, n := range names {
			path := dir + "/" + n + "/temp"
			if strings.HasPrefix(n, "thermal_zone") && root.exists(path) {
				found = append(found, newSensor(root, n, path))
			}
		}
		return found, fault{}
	})
}

// highest reports the highest number of a set.
type highest struct {
	set  *sensorSet
	none string // the reason when there is no such sensor
}

func (h *highest) read(o *out) {
	var top int64
	seen := false
	used, f := h.set.each(func(_ int, n int64) {
		if !seen || n > top {
			seen, top = true, n
		}
	})
	if !f.is() && used == 0 {
		f = absent(h.none)
	}
	o.outcome(0, top, f)
}

// anyAlarm reports whether any of a set is 1.
type anyAlarm struct {
	set  *sensorSet
	none string // the reason when there is no such sensor
}

func (a *anyAlarm) read(o *out) {
	var on, odd bool
	used, f := a.set.each(func(_ int, n int64) {
		on = on || n == 1
		odd = odd || n != 0 && n != 1
	})
	switch {
	case f.is():
		o.fault(0, f)
	case used == 0:
		o.fault(0, absent(a.none))
	case odd:
		o.fault(0, malformed("an alarm is neither 0 nor 1"))
	default:
		o.ok(0, facts.BoolValue(on))
	}
}

func (d *hwmonDevice) has(kind string, n int, suffix string) bool {
	return slices.Contains(d.attrs, kind+strconv.Itoa(n)+suffix)
}

// channelLabel returns what the driver or the board calls a channel, in lower
// case; "" where it has no label. One that cannot be read makes the device bad.
func (d *hwmonDevice) channelLabel(kind string, n int) string {
	if !d.has(kind, n, "_label") {
		return ""
	}
	b, f := d.root.readText(d.dir + "/" + kind + strconv.Itoa(n) + "_label")
	if f.is() && !d.bad.is() {
		d.bad = f
	}
	return strings.ToLower(strings.TrimSpace(string(b)))
}

// voltageOf returns the channel of the voltage that a current flows at, -1 where
// that is not known: the same of an INA3221 (kernel, hwmon/ina3221); of others the
// one that is labelled alike, as PMBus drivers label iin and vin, iout1 and vout1
// (kernel, hwmon/pmbus-core).
func (d *hwmonDevice) voltageOf(current int) int {
	if d.name == "ina3221" {
		if current >= 1 && current <= 3 && d.has("in", current, "_input") {
			return current
		}
		return -1
	}
	name, ok := strings.CutPrefix(d.channelLabel("curr", current), "i")
	if !ok {
		return -1
	}
	for _, attr := range d.attrs {
		if kind, n, suffix := splitAttr(attr); kind == "in" && suffix == "_input" && d.channelLabel("in", n) == "v"+name {
			return n
		}
	}
	return -1
}

// feeds reports whether a power counts: it is that of the input, or no power of
// the device is called so. The other channels are fed by the input.
func (d *hwmonDevice) feeds(kind string, n int) bool {
	if d.isInput(kind, n) {
		return true
	}
	for _, attr := range d.attrs {
		if k, other, suffix := splitAttr(attr); k == kind && (suffix == "_input" || suffix == "_average") && d.isInput(kind, other) {
			return false
		}
	}
	return true
}

// isInput reports whether a channel is labelled as what feeds the device: pin, iin
// and vin by PMBus drivers, VDD_IN and the like by boards, who label the voltages.
func (d *hwmonDevice) isInput(kind string, n int) bool {
	label := d.channelLabel(kind, n)
	if kind == "curr" && label == "" {
		v := d.voltageOf(n)
		if v < 0 {
			return false
		}
		label = d.channelLabel("in", v)
	}
	return len(label) > 2 && label[1:3] == "in" && strings.IndexByte("piv", label[0]) >= 0 || strings.HasSuffix(label, "_in")
}
