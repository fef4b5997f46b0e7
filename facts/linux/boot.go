package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

// bootFacts are the facts of the boot record, in the order of its readings. All
// but the count are measured when the boot is complete.
var bootFacts = []string{"boot.firmware", "boot.loader", "boot.kernel", "boot.initrd", "boot.userspace", "boot.total", "boot.cpu_time", "boot.energy", "boot.count"}

// Indexes into bootFacts.
const (
	bootFirmware  = 0
	bootLoader    = 1
	bootKernel    = 2
	bootInitrd    = 3
	bootUserspace = 4
	bootTotal     = 5
	bootCPU       = 6
	bootEnergy    = 7
	bootCount     = 8
	bootPhases    = 6
	bootRecords   = 9
)

// bootWindow is how long after boot-complete the CPU time and the energy still
// tell about the boot; without systemd, how long after the start of the kernel
// the agent's first round can pass for boot-complete.
const bootWindow = 10 * time.Minute

// boot takes the boot record once for each boot, when the boot is complete, and
// keeps it in the state directory: an agent that starts again reports the same.
//
// Boot-complete is systemd's FinishTimestamp. Without systemd it is the agent's
// first round in this boot, so that the place of the agent among the started
// programs decides, and boot.total is the uptime then; that needs the state
// directory, which tells a first round from a later start of the agent.
//
// The count rises with the first round, before the boot is complete: boots that
// never complete are counted too.
type boot struct {
	root   *Root
	dir    string
	energy *sensorSet

	rec  bootRecord
	took bool // rec is complete
}

type bootRecord struct {
	id       string // boot_id
	count    int64
	counted  phase              // what boot.count shows when it could be kept
	readings [bootRecords]phase // a number in the unit of its fact, or why there is none
	complete bool
}

func (b *boot) read(o *out) {
	if !b.took {
		b.take()
	}
	for i, p := range b.rec.readings {
		o.outcome(i, p.ms, p.fault)
	}
}

func (b *boot) take() {
	id, f := b.root.bootID()
	if f.is() {
		b.rec.measure(b)
		b.rec.readings[bootCount].fault = f
		b.took = b.rec.complete
		return
	}
	if b.dir == "" {
		b.rec.measure(b)
		b.rec.readings[bootCount].fault = absent("no state directory is configured")
		b.took = b.rec.complete
		return
	}
	if b.rec.id != id { // the first round of this process
		if b.begin(id); b.rec.id == "" {
			return
		}
	}
	if b.rec.complete {
		b.took = true
		return
	}
	b.rec.measure(b)
	if b.rec.complete {
		b.took = true
		// Without systemd's answer the next start of the agent tries again.
		if b.rec.readings[bootTotal].status != facts.Unreadable {
			b.save()
		}
	}
}

// begin loads the record of this boot, or counts the boot.
func (b *boot) begin(id string) {
	pairs, err := loadState(b.dir, "boot")
	var rec bootRecord
	if err == nil && pairs != nil {
		rec, err = decodeBoot(pairs)
	}
	switch {
	case err == nil && rec.id == id:
		b.rec = rec
		return
	case err == nil:
		b.rec = bootRecord{id: id, count: rec.count + 1, counted: phase{ms: rec.count + 1}}
	case errors.Is(err, errState):
		// Told for the whole of this boot; the next one counts on from 1.
		b.rec = bootRecord{id: id, count: 1, counted: phase{fault: malformed("the count begins anew: " + err.Error())}}
	default:
		// What cannot be read now may be sound, and must not be overwritten.
		b.rec = bootRecord{}
		b.rec.measure(b)
		b.rec.readings[bootCount].fault = fault{facts.Unreadable, err.Error()}
		b.took = b.rec.complete
		return
	}
	b.rec.pending()
	b.save()
}

// save makes a count that could not be kept unreadable: the next boot would
// have the same.
func (b *boot) save() {
	b.rec.readings[bootCount] = b.rec.counted
	if err := saveState(b.dir, "boot", b.rec.encode()); err != nil {
		b.rec.readings[bootCount].fault = fault{facts.Unreadable, err.Error()}
	}
}

func (r *bootRecord) pending() { r.all(pending("the boot has not finished")) }

// all gives all but the count the same fault.
func (r *bootRecord) all(f fault) {
	for i := range bootCount {
		r.readings[i] = phase{fault: f}
	}
}

// measure takes all but the count, or leaves it pending.
func (r *bootRecord) measure(b *boot) {
	r.pending()
	up, f := b.root.uptime()
	if f.is() {
		r.all(f)
		r.complete = true
		return
	}
	var since int64 // ms from boot-complete to now
	if b.root.systemd() {
		s, f := b.root.bootStamps()
		if f.is() {
			if f.status == facts.Unreadable && b.root.Live() && up < bootWindow.Milliseconds() {
				f = pending(f.reason) // the bus starts late
			}
			r.all(f)
			r.complete = f.status != facts.Pending
			return
		}
		p := s.phases()
		copy(r.readings[:], p[:])
		if p[bootTotal].status == facts.Pending {
			return
		}
		since = up - int64(s.finish/1000)
	} else {
		r.all(absent("systemd, which measures it, does not run here"))
		made := b.root.processStart()
		r.readings[bootKernel] = made
		firmware := phase{fault: made.fault} // of a container it would be the host's
		if firmware.is() {
			r.readings[bootFirmware], r.readings[bootLoader] = firmware, firmware
		} else {
			r.readings[bootFirmware], r.readings[bootLoader] = b.root.firmwareTime()
			firmware = r.readings[bootLoader]
		}
		switch {
		case r.id == "":
			r.readings[bootTotal].fault = absent("no state directory keeps when the boot was complete")
		case up > bootWindow.Milliseconds():
			r.readings[bootTotal].fault = absent(fmt.Sprintf("the agent first ran %d s after the kernel started", up/1000))
		default:
			r.readings[bootTotal] = phase{ms: up}
			if !firmware.is() {
				r.readings[bootTotal].ms += r.readings[bootFirmware].ms + firmware.ms
			}
		}
		if !made.is() {
			r.kernelPhases(b.root, up)
		}
		since = up
	}
	r.complete = true
	if since > bootWindow.Milliseconds() {
		late := absent(fmt.Sprintf("the agent first ran %d s after the boot", since/1000))
		r.readings[bootCPU], r.readings[bootEnergy] = phase{fault: late}, phase{fault: late}
		return
	}
	stat, f := b.root.readFile("proc/stat")
	var t cpuTimes
	if !f.is() {
		t, f = parseStat(stat)
	}
	r.readings[bootCPU] = phase{t.busy() * (1000 / userHZ), f}
	n, f := total(b.energy)
	r.readings[bootEnergy] = phase{n, f}
}

// encode gives the record as lines: boot_id, count, and of a complete one a
// line for each reading, "boot.total ok 5120" or "boot.initrd absent reason".
func (r *bootRecord) encode() []pair {
	pairs := []pair{{"boot_id", r.id}, {"count", strconv.FormatInt(r.count, 10)}}
	for i, name := range bootFacts {
		if p := r.readings[i]; p.is() && p.status != facts.Pending {
			pairs = append(pairs, pair{name, p.status.String() + " " + p.reason})
		} else if !p.is() {
			pairs = append(pairs, pair{name, facts.OK.String() + " " + strconv.FormatInt(p.ms, 10)})
		}
	}
	return pairs
}

// decodeBoot is the inverse of encode. A record without boot.total is one whose
// boot was not complete.
func decodeBoot(pairs []pair) (r bootRecord, err error) {
	r.id = lookup(pairs, "boot_id")
	n, ok := parseInt([]byte(lookup(pairs, "count")))
	if r.id == "" || !ok || n < 1 {
		return bootRecord{}, fmt.Errorf("%w: it has no boot_id or no count", errState)
	}
	r.count = n
	r.pending()
	for i, name := range bootFacts {
		text := lookup(pairs, name)
		if text == "" {
			if i == bootCount {
				return bootRecord{}, fmt.Errorf("%w: it has no %s", errState, name)
			}
			continue
		}
		status, rest, _ := strings.Cut(text, " ")
		p := phase{fault: fault{reason: rest}}
		for p.status = facts.OK; p.status.Known() && p.status.String() != status; p.status++ {
		}
		if p.status == facts.OK {
			p.reason = ""
			p.ms, ok = parseInt([]byte(rest))
		}
		if !ok || !p.status.Known() || p.status == facts.Pending {
			return bootRecord{}, fmt.Errorf("%w: %s %q is no reading", errState, name, text)
		}
		r.readings[i] = p
	}
	r.counted = r.readings[bootCount]
	r.complete = r.readings[bootTotal].status != facts.Pending
	return r, nil
}

func (r *Root) bootID() (string, fault) {
	b, f := r.readFile("proc/sys/kernel/random/boot_id")
	if f.is() {
		return "", f
	}
	id := string(bytes.TrimSpace(b))
	if len(id) != 36 || strings.ContainsAny(id, " \n") {
		return "", malformed("boot_id is not a UUID")
	}
	return id, fault{}
}

// processStart is when the kernel made process 1. In a container process 1
// starts when the container does; there, process 2 is not the kernel's.
func (r *Root) processStart() phase {
	b, f := r.readFile("proc/2/stat")
	if !f.is() {
		var name []byte
		if name, _, f = parsePidStat(b); !f.is() && string(name) != "kthreadd" {
			f = absent("the agent runs in a container")
		}
	}
	if f.is() {
		return phase{fault: f}
	}
	b, f = r.readFile("proc/1/stat")
	if f.is() {
		return phase{fault: f}
	}
	_, start, f := parsePidStat(b)
	return phase{start * (1000 / userHZ), f}
}

// firmwareTime is when the firmware started the boot loader, and from there to
// when the loader handed over to the kernel: by the loader's own EFI variables
// (systemd, BOOT_LOADER_INTERFACE), else the firmware's table, else U-Boot's stages
// in the device tree, which count from where U-Boot's clock began.
func (r *Root) firmwareTime() (firmware, loader phase) {
	if begin, f := r.loaderTime("LoaderTimeInitUSec"); f.status != facts.Absent {
		end, g := r.loaderTime("LoaderTimeExecUSec")
		if !f.is() && !g.is() && end < begin {
			f = malformed("LoaderTimeExecUSec is before LoaderTimeInitUSec")
		}
		if f.is() {
			g = f
		}
		return phase{begin / 1000, f}, phase{(end - begin) / 1000, g}
	}
	firmware, loader = r.firmwareTable()
	if loader.status == facts.Absent {
		if stage, f := r.bootstage(); f.status != facts.Absent {
			loader = phase{stage / 1000, f}
		}
	}
	return firmware, loader
}

// loaderVendor ends the names of the boot loader's EFI variables.
const loaderVendor = "-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// loaderTime returns a time in µs that the boot loader left in an EFI variable.
func (r *Root) loaderTime(name string) (int64, fault) {
	b, f := r.readFile(efivars + name + loaderVendor)
	if f.is() {
		return 0, f
	}
	return parseLoaderTime(b)
}

// parseLoaderTime reads a number in decimal that is text in UTF-16.
func parseLoaderTime(b []byte) (int64, fault) {
	text, f := parseEFIText(b)
	n, ok := parseInt([]byte(text))
	if f.is() || !ok || n < 0 || n > int64(time.Hour/time.Microsecond) {
		return 0, malformed("the EFI variable is no time in µs")
	}
	return n, fault{}
}

// parseEFIText returns a text as efivarfs shows it: four bytes of attributes and
// UTF-16 that ends with NUL.
func parseEFIText(b []byte) (string, fault) {
	bad := malformed("the EFI variable is no text in UTF-16")
	if len(b) < 6 || len(b)%2 != 0 || b[len(b)-1] != 0 || b[len(b)-2] != 0 {
		return "", bad
	}
	text := make([]byte, 0, len(b)/2)
	for i := 4; i < len(b)-2; i += 2 {
		if b[i+1] != 0 || b[i] < ' ' || b[i] > '~' { // what loaders write is ASCII
			return "", bad
		}
		text = append(text, b[i])
	}
	return string(text), fault{}
}

// bootstage returns the last time in µs that U-Boot left in the device tree, a
// word of big endian (U-Boot, CONFIG_BOOTSTAGE_FDT).
func (r *Root) bootstage() (last int64, f fault) {
	const dir = "proc/device-tree/bootstage"
	names, f := r.list(dir)
	if f.is() {
		return 0, f
	}
	f = absent("the boot loader left no times in the device tree")
	for _, n := range names {
		b, g := r.readFile(dir + "/" + n + "/mark")
		switch {
		case g.status == facts.Absent: // a time that was added up
		case g.is():
			return 0, g
		case len(b) != 4:
			return 0, malformed("/" + dir + ": a mark is not four bytes")
		default:
			last, f = max(last, int64(binary.BigEndian.Uint32(b))), fault{}
		}
	}
	return last, f
}

// firmwareTable is what the Firmware Performance Data Table tells (ACPI
// specification, FPDT; kernel, ABI/testing/sysfs-firmware-acpi). Firmware that was not asked to hand over, as on a boot
// without UEFI, has no second stamp, and then the first says nothing either.
func (r *Root) firmwareTable() (firmware, loader phase) {
	const dir = "sys/firmware/acpi/fpdt/boot/"
	launch, f := r.readInt(dir + "bootloader_launch_ns")
	var exit int64
	if !f.is() {
		exit, f = r.readInt(dir + "exitbootservice_end_ns")
	}
	switch {
	case f.status == facts.Absent:
		f = absent("neither systemd, the boot loader nor a Firmware Performance Data Table tells it")
	case f.is():
	case launch == 0 || exit == 0:
		f = absent("the Firmware Performance Data Table has no time of it")
	case launch < 0 || exit < launch || exit > int64(time.Hour):
		f = malformed("the Firmware Performance Data Table: a stage has no sound time")
	}
	if f.is() {
		return phase{fault: f}, phase{fault: f}
	}
	return phase{ms: launch / int64(time.Millisecond)}, phase{ms: (exit - launch) / int64(time.Millisecond)}
}

// parsePidStat returns the name and the start time in ticks since boot, field
// 22 of /proc/pid/stat (proc(5)). A name may hold spaces and parentheses.
func parsePidStat(b []byte) (name []byte, start int64, f fault) {
	bad := malformed("/proc/pid/stat has not the form of proc(5)")
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || shut < open {
		return nil, 0, bad
	}
	rest := b[shut+1:]
	for range 22 - 3 { // fields 3 to 21
		var skipped []byte
		if skipped, rest = field(rest); len(skipped) == 0 {
			return nil, 0, bad
		}
	}
	start, _, ok := intField(rest)
	if !ok || start < 0 || start > 1<<50 {
		return nil, 0, bad
	}
	return b[open+1 : shut], start, fault{}
}

// hoursPeriod is how often the operating hours are written, and so how much of
// them a power cut costs.
const hoursPeriod = 10 * time.Minute

// hours adds up the uptimes of all boots in which the agent ran.
type hours struct {
	root *Root
	dir  string

	id     string
	before int64 // ms of the boots before this one
	told   fault // for the whole of this boot
	saved  int64 // uptime in ms when last written
	loaded bool
}

func (h *hours) read(o *out) {
	if h.dir == "" {
		o.fault(0, absent("no state directory is configured"))
		return
	}
	up, f := h.root.uptime()
	if !f.is() && !h.loaded {
		f = h.load()
	}
	if f.is() {
		o.fault(0, f)
		return
	}
	if h.saved < 0 || up-h.saved >= hoursPeriod.Milliseconds() {
		if err := saveState(h.dir, "hours", []pair{
			{"boot_id", h.id}, {"before_ms", strconv.FormatInt(h.before, 10)}, {"uptime_ms", strconv.FormatInt(up, 10)}, {"told", h.told.reason},
		}); err != nil {
			o.fault(0, fault{facts.Unreadable, err.Error()})
			return
		}
		h.saved = up
	}
	o.outcome(0, (h.before+up)/time.Hour.Milliseconds(), h.told)
}

func (h *hours) load() fault {
	id, f := h.root.bootID()
	if f.is() {
		return f
	}
	pairs, err := loadState(h.dir, "hours")
	if err != nil && !errors.Is(err, errState) {
		return fault{facts.Unreadable, err.Error()}
	}
	h.id, h.saved, h.loaded = id, -1, true
	if err == nil && pairs != nil {
		before, ok1 := parseInt([]byte(lookup(pairs, "before_ms")))
		up, ok2 := parseInt([]byte(lookup(pairs, "uptime_ms")))
		switch {
		case !ok1 || !ok2 || before < 0 || up < 0:
			err = fmt.Errorf("%w: a time is not a number", errState)
		case lookup(pairs, "boot_id") != id:
			h.before = before + up
		default:
			h.before = before
			if told := lookup(pairs, "told"); told != "" {
				h.told = malformed(told)
			}
		}
	}
	if err != nil {
		h.told = malformed("the hours begin anew: " + err.Error())
	}
	return fault{}
}
