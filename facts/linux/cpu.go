package linux

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// userHZ is the unit of CPU time in /proc: ticks a second on every
// architecture that this package supports.
const userHZ = 100

// cpuTimes are the ticks of the first line of /proc/stat. Guest time is part of
// user time there (proc(5)), so that it must not be added.
type cpuTimes struct {
	user   int64 // and nice
	system int64
	idle   int64
	iowait int64
	irq    int64 // and softirq
	steal  int64
}

func (t cpuTimes) busy() int64 { return t.user + t.system + t.irq + t.steal }

func parseStat(b []byte) (cpuTimes, fault) {
	line, _, whole := bytes.Cut(b, []byte("\n"))
	name, line := field(line)
	if !whole || string(name) != "cpu" {
		return cpuTimes{}, malformed("/proc/stat does not begin with a line cpu")
	}
	var t cpuTimes
	// user, nice, system, idle, iowait, irq, softirq, steal; the last four came later.
	for i := range 8 {
		n, rest, ok := intField(line)
		if !ok || n < 0 {
			if i >= 4 && len(bytes.TrimSpace(line)) == 0 {
				break
			}
			return cpuTimes{}, malformed("/proc/stat: a CPU time is not a number")
		}
		line = rest
		*[...]*int64{&t.user, &t.user, &t.system, &t.idle, &t.iowait, &t.irq, &t.irq, &t.steal}[i] += n
	}
	return t, fault{}
}

// cpuUsage reports the shares of all modes but idle, in the order of cpuFacts.
type cpuUsage struct {
	stat *file
	seen bool
	last cpuTimes
}

func (s *cpuUsage) read(o *out) {
	b, f := s.stat.read()
	if f.is() {
		o.faults(f)
		return
	}
	t, f := parseStat(b)
	if f.is() {
		o.faults(f)
		return
	}
	l := s.last
	busy, idle := t.busy()-l.busy(), t.idle-l.idle
	// iowait may shrink by a little (proc(5)), and idle time with it.
	iowait := max(t.iowait-l.iowait, 0)
	all := busy + max(idle+iowait, 0)
	parts := [...]int64{busy, t.user - l.user, t.system - l.system, min(iowait, all), t.irq - l.irq, t.steal - l.steal}
	switch {
	case !s.seen:
		o.faults(pending(secondSample))
	case slices.Min(parts[:]) < 0:
		o.faults(pending("the counters went back: a processor left"))
	case all == 0:
		o.faults(pending("the counters have not advanced"))
		return
	default:
		for i, n := range parts {
			o.num(i, scale(n, 1000, all))
		}
	}
	s.seen, s.last = true, t
}

// cpuFacts are the facts of /proc/stat, in the order of their readings.
var cpuFacts = []string{"cpu.usage", "cpu.user", "cpu.system", "cpu.iowait", "cpu.irq", "cpu.steal"}

// parseSchedstat returns the ns that tasks have waited for a processor, summed
// over all processors: the eighth number of each line cpu (kernel,
// scheduler/sched-stats, in ns since version 15).
func parseSchedstat(b []byte) (int64, fault) {
	bad := malformed("/proc/schedstat has not the form of the kernel's scheduler/sched-stats, version 15 or later")
	head, b, whole := bytes.Cut(b, []byte("\n"))
	name, rest := field(head)
	version, _, ok := intField(rest)
	if !whole || string(name) != "version" || !ok || version < 15 {
		return 0, bad
	}
	var sum int64
	seen := false
	for len(b) > 0 {
		var line []byte
		line, b, whole = bytes.Cut(b, []byte("\n"))
		if !whole {
			return 0, bad
		}
		if !bytes.HasPrefix(line, []byte("cpu")) {
			continue // timestamp, and the domains of the processor before
		}
		_, rest := field(line)
		var n int64
		for range 8 {
			if n, rest, ok = intField(rest); !ok || n < 0 {
				return 0, bad
			}
		}
		if sum += n; sum < 0 {
			return 0, bad
		}
		seen = true
	}
	if !seen {
		return 0, bad
	}
	return sum, fault{}
}

// schedWait is how long tasks waited for a processor, summed over all tasks:
// above 1000 when more than one waited all the time.
type schedWait struct {
	root *Root
	file *file
	rate rate
}

func (s *schedWait) read(o *out) {
	b, f := s.file.read()
	var sum int64
	if !f.is() {
		sum, f = parseSchedstat(b)
	}
	if f.is() {
		o.fault(0, f)
		return
	}
	grown, ns, ok := s.rate.next(sum, s.root.now())
	if !ok {
		o.fault(0, pending(secondSample))
		return
	}
	o.num(0, scale(grown, 1000, ns))
}

// parseLoadavg returns the load over one minute in per mille and the number of
// scheduling entities.
func parseLoadavg(b []byte) (load, entities int64, f fault) {
	bad := malformed("/proc/loadavg has not the form of proc(5)")
	first, rest := field(b)
	whole, cents, ok := bytes.Cut(first, []byte("."))
	w, ok1 := parseInt(whole)
	c, ok2 := parseInt(cents)
	if !ok || !ok1 || !ok2 || len(cents) != 2 || w < 0 || w > 1<<32 || c < 0 {
		return 0, 0, bad
	}
	_, rest = field(rest)
	_, rest = field(rest)
	tasks, rest := field(rest)
	_, all, ok := bytes.Cut(tasks, []byte("/"))
	n, ok1 := parseInt(all)
	if !ok || !ok1 || n < 0 || len(bytes.TrimSpace(rest)) == 0 {
		return 0, 0, bad
	}
	return w*1000 + c*10, n, fault{}
}

type loadavg struct{ file *file }

func (s *loadavg) read(o *out) {
	b, f := s.file.read()
	if f.is() {
		o.faults(f)
		return
	}
	load, entities, f := parseLoadavg(b)
	if f.is() {
		o.faults(f)
		return
	}
	o.num(0, load)
	o.num(1, entities)
}

func cpuFrequencies(root *Root) *sensorSet {
	const dir = "sys/devices/system/cpu/cpufreq"
	return &sensorSet{root: root, dirs: []string{dir}, find: func(dir string, names []string) ([]sensor, fault) {
		var found []sensor
		for _, n := range names {
			path := dir + "/" + n + "/scaling_cur_freq"
			if strings.HasPrefix(n, "policy") && root.exists(path) {
				found = append(found, newSensor(root, n, path))
			}
		}
		return found, fault{}
	}}
}

func throttleCounts(root *Root) *sensorSet {
	const dir = "sys/devices/system/cpu"
	return &sensorSet{root: root, dirs: []string{dir}, find: func(dir string, names []string) ([]sensor, fault) {
		var found []sensor
		for _, n := range names {
			if _, ok := parseInt([]byte(strings.TrimPrefix(n, "cpu"))); !ok {
				continue
			}
			path := dir + "/" + n + "/thermal_throttle/core_throttle_count"
			if root.exists(path) {
				found = append(found, newSensor(root, n, path))
			}
		}
		return found, fault{}
	}}
}

// throttling gives at least 1 when there was an event: a single one in a long
// period must not become none.
type throttling struct {
	root *Root
	set  *sensorSet
	rate rate
}

func (s *throttling) read(o *out) {
	var sum int64
	used, f := s.set.each(func(_ int, n int64) { sum += n })
	if f.is() {
		o.fault(0, f)
		return
	}
	if used == 0 {
		o.fault(0, absent("no processor counts thermal throttling"))
		return
	}
	grown, ns, ok := s.rate.next(sum, s.root.now())
	if !ok {
		o.fault(0, pending(secondSample))
		return
	}
	o.num(0, max(scale(grown, int64(time.Second), ns), min(grown, 1)))
}

// parsePressure returns the total of the line "some" in microseconds.
func parsePressure(b []byte) (int64, fault) {
	bad := malformed("the file has not the form of the kernel's accounting/psi")
	line, _, _ := bytes.Cut(b, []byte("\n"))
	name, rest := field(line)
	if string(name) != "some" {
		return 0, bad
	}
	for len(rest) > 0 {
		var kv []byte
		kv, rest = field(rest)
		if total, ok := bytes.CutPrefix(kv, []byte("total=")); ok {
			n, ok := parseInt(total)
			if !ok || n < 0 {
				return 0, bad
			}
			return n, fault{}
		}
	}
	return 0, bad
}

// pressure is the share of time in which some task waited. It takes the totals,
// not the kernel's averages, which lag.
type pressure struct {
	root *Root
	file *file
	rate rate
}

func (s *pressure) read(o *out) {
	b, f := s.file.read()
	if f.is() {
		o.fault(0, f)
		return
	}
	total, f := parsePressure(b)
	if f.is() {
		o.fault(0, f)
		return
	}
	grown, ns, ok := s.rate.next(total, s.root.now())
	if !ok {
		o.fault(0, pending(secondSample))
		return
	}
	// The kernel adds up in steps of its own, so that a short period can show a little more than all of its time.
	o.num(0, min(scale(grown, 1000*int64(time.Microsecond), ns), 1000))
}

// parseMeminfo returns MemTotal and MemAvailable in KiB.
func parseMeminfo(b []byte) (total, available int64, f fault) {
	total, f = meminfoLine(b, "MemTotal:")
	if f.is() {
		return 0, 0, f
	}
	available, f = meminfoLine(b, "MemAvailable:")
	if f.is() {
		return 0, 0, f
	}
	if total <= 0 || available > total {
		return 0, 0, malformed("/proc/meminfo: MemAvailable is more than MemTotal")
	}
	return total, available, fault{}
}

func meminfoLine(b []byte, key string) (int64, fault) {
	for len(b) > 0 {
		var line []byte
		line, b, _ = bytes.Cut(b, []byte("\n"))
		if len(line) < len(key) || string(line[:len(key)]) != key {
			continue
		}
		n, rest, ok := intField(line[len(key):])
		unit, rest := field(rest)
		if !ok || n < 0 || string(unit) != "kB" || len(rest) != 0 {
			return 0, malformed("/proc/meminfo: a line has not the form of proc(5)")
		}
		return n, fault{}
	}
	return 0, malformed("/proc/meminfo has not all lines of proc(5)")
}

// parseSwap returns the swap space in use in KiB, 0 where there is none.
func parseSwap(b []byte) (int64, fault) {
	total, f := meminfoLine(b, "SwapTotal:")
	if f.is() {
		return 0, f
	}
	free, f := meminfoLine(b, "SwapFree:")
	if !f.is() && free > total {
		f = malformed("/proc/meminfo: SwapFree is more than SwapTotal")
	}
	return total - free, f
}

type meminfo struct{ file *file }

func (s *meminfo) read(o *out) {
	b, f := s.file.read()
	if f.is() {
		o.faults(f)
		return
	}
	swap, f := parseSwap(b)
	o.outcome(2, swap, f)
	total, available, f := parseMeminfo(b)
	if f.is() {
		o.fault(0, f)
		o.fault(1, f)
		return
	}
	o.num(0, available)
	o.num(1, scale(total-available, 1000, total))
}

// parseVmstat returns the count called name; a kernel that does not count it
// makes it absent.
func parseVmstat(b []byte, name string) (int64, fault) {
	n, found, ok := flat(b, name)
	switch {
	case !ok:
		return 0, malformed("/proc/vmstat: a line is not a name and a number, or there is none")
	case !found:
		return 0, absent("this kernel does not count it (before 4.13)")
	}
	return n, fault{}
}

type vmstat struct{ file *file }

func (s *vmstat) read(o *out) {
	b, f := s.file.read()
	if f.is() {
		o.fault(0, f)
		return
	}
	n, f := parseVmstat(b, "oom_kill")
	o.outcome(0, n, f)
}

// parseUptime returns the first number of /proc/uptime in ms.
func parseUptime(b []byte) (int64, fault) {
	first, _ := field(b)
	whole, cents, ok := bytes.Cut(first, []byte("."))
	s, ok1 := parseInt(whole)
	c, ok2 := parseInt(cents)
	if !ok || !ok1 || !ok2 || len(cents) != 2 || s < 0 || s > 1<<40 || c < 0 {
		return 0, malformed("/proc/uptime has not the form of proc(5)")
	}
	return s*1000 + c*10, fault{}
}
