// Package linux reads the facts of the catalogue from a Linux system: from the
// kernel's files under a root directory, from sock_diag(7) and adjtimex(2), and
// from systemd over D-Bus.
//
// The root is "/" or a fixture, a directory tree in the form of a device. What
// no tree can hold (statfs, adjtimex, systemd's answers, modification times) is
// asked of the running system only when the root is "/"; a fixture holds the
// answers as files in its folder .calls, or the facts are absent. A fixture
// never shows a value of the machine that reads it.
//
// Fast sources open their files once and read them again with pread(2) into
// buffers they keep. They run no program, call no bus and make no garbage.
//
// Nothing read here is trusted: contents are parsed strictly, and what has not
// the documented form is malformed, never a guess. Absent (no such file, device
// or kernel feature), unreadable (it is there and reading it failed) and
// malformed are told apart in every source. The package judges no value.
//
// Forms of the files: proc(5), and the kernel's documentation named in the
// catalogue for each fact.
package linux

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/miotfacts/miotfacts/facts"
)

// Options says what a root directory cannot.
type Options struct {
	// AgentVersion is software.agent; "" makes the fact absent.
	AgentVersion string
	// StateDir keeps the boot record and the operating hours over restarts. It
	// is a directory of the running system, also when the root is a fixture. ""
	// makes boot.count and time.operating_hours absent.
	StateDir string
	// PCRDigest reads the TPM for boot.pcr_digest, which is 32 bytes; nil makes
	// the fact absent.
	PCRDigest func() ([]byte, error)
	// Events watches for changes; nil makes the facts about it absent.
	Events *Events
	// Services asks systemd for service.active and service.failed; without it
	// they are absent.
	Services bool
	// Cgroups is where cgroup v2 is mounted below the root; "" stands for
	// sys/fs/cgroup.
	Cgroups string
	// Application is the cgroup of the medical application below Cgroups, such as
	// "system.slice/pump.service"; "" makes the facts about it absent.
	Application string
	// Processes are to run, each by its name or by the path of its executable; none
	// makes the facts about them absent.
	Processes []string
	// TamperLines are GPIO inputs; nil makes the facts about them absent.
	TamperLines *Lines
	// EnergyModel tells the model of energy.estimated_power; nil, and false, make the
	// facts about it absent.
	EnergyModel func() (EnergyModel, bool)
	// Synchronised is asked for time.synchronised where this process may not ask the
	// kernel (adjtimex(2)); nil makes the fact unreadable then.
	Synchronised func() (bool, error)
}

func (o Options) cgroups() string { return cmp.Or(o.Cgroups, "sys/fs/cgroup") }

// Sources returns a source for every fact of the catalogue over root. It reads
// nothing yet: files are opened when a source is first read, so that a file
// that does not answer costs its own source its deadline.
func Sources(root *Root, opt Options) ([]facts.Source, error) {
	b := builder{defs: map[string]facts.Def{}}
	for _, d := range facts.Catalogue() {
		b.defs[d.Name] = d
	}

	b.add("stat", &cpuUsage{stat: newFile(root, "proc/stat", head, 512)}, cpuFacts...)
	b.add("schedstat", &schedWait{root: root, file: newFile(root, "proc/schedstat", records, 4096)}, "cpu.wait")
	b.add("loadavg", &loadavg{newFile(root, "proc/loadavg", value, 128)}, "cpu.load", "process.count")
	b.add("cpufreq", &highest{set: cpuFrequencies(root), none: "there is no processor that tells its frequency"}, "cpu.frequency")
	b.add("thermal_throttle", &throttling{root: root, set: throttleCounts(root)}, "cpu.throttled")
	b.add("pressure/cpu", &pressure{root: root, file: newFile(root, "proc/pressure/cpu", value, 256)}, "cpu.pressure")
	b.add("pressure/memory", &pressure{root: root, file: newFile(root, "proc/pressure/memory", value, 256)}, "memory.pressure")
	b.add("meminfo", &meminfo{newFile(root, "proc/meminfo", value, 4096)}, "memory.available", "memory.used", "memory.swap_used")
	b.add("vmstat", &vmstat{newFile(root, "proc/vmstat", records, 8192)}, "memory.oom_kills")
	b.add("energy", &energy{root: root, power: powerSensors(root), counters: energyCounters(root)}, "energy.power", "energy.used", "energy.gaps", "energy.computed")
	b.add("estimate", &estimate{root: root, model: opt.EnergyModel, stat: newFile(root, "proc/stat", head, 512), dev: traffic{root: root, file: newFile(root, "proc/net/dev", records, 4096)}}, "energy.estimated_power", "energy.estimated_used")
	b.add("voltage", &lowest{set: supplyVoltages(root), none: "there is no sensor of a supply voltage"}, "energy.voltage")
	b.add("undervoltage", &anyAlarm{set: hwmonAlarms(root, "in", "_lcrit_alarm"), none: "there is no undervoltage alarm"}, "energy.undervoltage")
	b.add("temperature", &highest{set: temperatures(root), none: "there is no temperature sensor"}, "thermal.max")
	b.add("intrusion", &anyAlarm{set: hwmonAlarms(root, "intrusion", "_alarm"), none: "there is no intrusion input"}, "integrity.tamper")
	b.add("listeners", &listeners{sockets: newSockets(root), ownership: ownership{root: root, dir: opt.cgroups()}}, "network.listening", "network.unowned")
	b.add("net/dev", &traffic{root: root, file: newFile(root, "proc/net/dev", records, 4096)}, "network.rx", "network.tx")
	b.add("tainted", &tainted{newFile(root, "proc/sys/kernel/tainted", value, 32)}, "integrity.taint")
	b.add("jumps", &jumps{clock: newClock(root)}, "time.jumps")
	b.add("processes", newProcesses(root, opt.Processes), "process.missing", "process.restarts")
	b.addApplication(root, opt)

	b.add("supplies", slow{root, readSupplies}, "energy.battery", "energy.mains", "energy.battery_health", "energy.cycles")
	b.add("statfs", slow{root, readUsage}, "storage.used")
	b.add("emmc", slow{root, readWear}, "storage.wear")
	b.add("mountinfo", slow{root, readMounts}, "storage.root_readonly", "storage.mounts")
	b.add("device-mapper", slow{root, readVerity}, "storage.verity")
	b.add("owners", &owners{sockets: newSockets(root), ownership: ownership{root: root, dir: opt.cgroups()}}, "network.owners")
	b.add("containers", slow{root, func(r *Root, o *out) { readContainers(r, opt, o) }}, "container.count", "container.names")
	b.add("peers", &peers{sockets: newSockets(root)}, "network.peers")
	b.add("addresses", slow{root, readAddresses}, "network.addresses")
	b.add("route", slow{root, readDefaultRoutes}, "network.default_route")
	b.add("resolv.conf", slow{root, readResolv}, "network.dns")
	b.add("wireless", slow{root, readWireless}, "network.wireless")
	b.add("bluetooth", slow{root, readBluetooth}, "network.bluetooth")
	b.add("services", &services{root: root, on: opt.Services, events: opt.Events}, "service.active", "service.failed")
	b.add("unit files", &unitFiles{root: root}, "service.files")
	b.add("events", &eventCounts{opt.Events}, "events.lost", "events.held")
	b.add("channels", &eventChannels{opt.Events}, "events.channels")
	b.add("tamper lines", tamper{opt.TamperLines, opt.Events}, "integrity.tamper_lines", "integrity.tamper_edges")
	b.add("ima", slow{root, readIMA}, "integrity.ima_count", "integrity.ima_violations")
	b.add("modules", slow{root, readModules}, "integrity.modules")
	b.add("lockdown", slow{root, readLockdown}, "integrity.lockdown")
	b.add("lsm", slow{root, readLSM}, "integrity.lsm")
	b.add("hardening", slow{root, readHardening}, "integrity.module_signatures", "integrity.modules_disabled", "integrity.kexec_disabled", "storage.verity_signatures", "integrity.ptrace_scope", "integrity.core_pattern")
	b.add("passwd", slow{root, readAccounts}, "integrity.accounts")
	b.add("usb", slow{root, readDevices}, "integrity.devices")
	b.add("rtc", slow{root, readRTC}, "time.rtc")
	b.add("adjtimex", slow{root, func(r *Root, o *out) { readSynchronised(r, opt.Synchronised, o) }}, "time.synchronised")
	b.add("hours", &hours{root: root, dir: opt.StateDir}, "time.operating_hours")
	b.add("updates", slow{root, readLastUpdate}, "software.last_update")

	b.add("boot", &boot{root: root, dir: opt.StateDir, energy: energyCounters(root)}, bootFacts...)
	b.add("secureboot", slow{root, readSecureBoot}, "boot.secure", "boot.loader_verified")
	b.add("pcr", &pcrDigest{ask: opt.PCRDigest}, "boot.pcr_digest")
	b.add("cmdline", slow{root, readCmdline}, "boot.cmdline", "boot.rauc_slot", "boot.roothash")
	b.add("software", &software{root: root, agent: opt.AgentVersion}, "software.kernel", "software.os", "software.firmware", "boot.loader_version", "software.agent", "boot.fit")

	if b.err != nil {
		return nil, fmt.Errorf("cannot make sources: %w", b.err)
	}
	return b.sources, nil
}

// A builder names sources after facts of the catalogue, which also tells their
// keys and their cadence.
type builder struct {
	defs    map[string]facts.Def
	sources []facts.Source
	err     error
}

func (b *builder) add(name string, r reader, names ...string) {
	s := &source{name: name, reader: r, mute: "source " + name + " did not report it"}
	for _, n := range names {
		d, ok := b.defs[n]
		switch {
		case b.err != nil:
		case !ok:
			b.err = fmt.Errorf("source %s: the catalogue has no fact %s", name, n)
		case s.cadence != 0 && s.cadence != d.Cadence:
			b.err = fmt.Errorf("source %s: fact %s has cadence %s, the facts before it %s", name, n, d.Cadence, s.cadence)
		}
		s.cadence = d.Cadence
		s.out.keys = append(s.out.keys, d.Key)
	}
	b.sources = append(b.sources, s)
}

// A reader reports each of its facts to an out, by their index in the call of
// add that named them.
type reader interface{ read(o *out) }

type source struct {
	name    string
	cadence facts.Cadence
	reader  reader
	mute    string // why a fact has no value that the reader left out
	out     out
}

func (s *source) Name() string           { return s.name }
func (s *source) Cadence() facts.Cadence { return s.cadence }
func (s *source) Keys() []facts.Key      { return s.out.keys }

func (s *source) Read(dst []facts.Reading) []facts.Reading {
	s.out.base = len(dst)
	for _, k := range s.out.keys {
		dst = append(dst, facts.Reading{Key: k, Status: facts.Malformed, Reason: s.mute})
	}
	s.out.dst = dst
	s.reader.read(&s.out)
	dst = s.out.dst
	s.out.dst = nil
	return dst
}

// An out takes the readings of one source. A fact that is not set stays
// malformed.
type out struct {
	keys []facts.Key
	dst  []facts.Reading
	base int
}

func (o *out) ok(i int, v facts.Value) {
	o.dst[o.base+i] = facts.Reading{Key: o.keys[i], Value: v}
}

func (o *out) num(i int, n int64) { o.ok(i, facts.IntValue(n)) }

func (o *out) fault(i int, f fault) {
	o.dst[o.base+i] = facts.Reading{Key: o.keys[i], Status: f.status, Reason: f.reason}
}

func (o *out) faults(f fault) {
	for i := range o.keys {
		o.fault(i, f)
	}
}

// outcome reports n, or f where there is one.
func (o *out) outcome(i int, n int64, f fault) {
	if f.is() {
		o.fault(i, f)
		return
	}
	o.num(i, n)
}

// text reports s as a text, without the line feed or NUL that ends it.
func (o *out) text(i int, s []byte, f fault) {
	if !f.is() {
		s, f = parseText(s)
	}
	if f.is() {
		o.fault(i, f)
		return
	}
	o.ok(i, facts.TextValue(string(s)))
}

// set reports members, which it keeps.
func (o *out) set(i int, members []string) {
	slices.Sort(members)
	members = slices.Compact(members)
	if f := checkSet(members); f.is() {
		o.fault(i, f)
		return
	}
	o.ok(i, facts.SetValue(members))
}

// A fault says why a fact has no value; the zero fault is none.
type fault struct {
	status facts.Status
	reason string
}

func (f fault) is() bool { return f.status != facts.OK }

func absent(reason string) fault    { return fault{facts.Absent, reason} }
func pending(reason string) fault   { return fault{facts.Pending, reason} }
func malformed(reason string) fault { return fault{facts.Malformed, reason} }

// slow reads with a plain function, for facts that are not read every period.
type slow struct {
	root *Root
	fn   func(r *Root, o *out)
}

func (s slow) read(o *out) { s.fn(s.root, o) }
