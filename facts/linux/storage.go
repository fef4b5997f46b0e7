package linux

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v3/disk"

	"github.com/miotfacts/miotfacts/facts"
)

// readUsage counts like df(1): what only root may still use is no free space.
// Of a fixture it takes the three numbers of statfs(2), in blocks.
func readUsage(r *Root, o *out) {
	var used, free int64
	if r.Live() {
		u, err := disk.Usage("/")
		if err != nil {
			o.fault(0, faultOf("statfs of /", err))
			return
		}
		used, free = int64(u.Used), int64(u.Free)
	} else {
		fs, f := r.call("statfs")
		if f.is() {
			o.fault(0, f)
			return
		}
		blocks, ok1 := parseInt([]byte(fs["blocks"]))
		bfree, ok2 := parseInt([]byte(fs["bfree"]))
		bavail, ok3 := parseInt([]byte(fs["bavail"]))
		if !ok1 || !ok2 || !ok3 {
			o.fault(0, malformed("statfs: blocks, bfree or bavail is not a number"))
			return
		}
		used, free = blocks-bfree, bavail
	}
	if used < 0 || free < 0 {
		o.fault(0, malformed("statfs: more blocks are free than there are"))
		return
	}
	if used+free == 0 {
		o.fault(0, absent("the root file system has no blocks"))
		return
	}
	o.num(0, scale(used, 1000, used+free))
}

// parseLifeTime returns the upper end of the more worn of an eMMC's two areas
// in per mille; 0x0b, life exceeded, gives 1100.
func parseLifeTime(b []byte) (int64, fault) {
	bad := malformed("life_time is not two steps from 0x00 to 0x0b")
	var worst int64
	for range 2 {
		var step []byte
		step, b = field(b)
		digits, ok := bytes.CutPrefix(step, []byte("0x"))
		n, err := strconv.ParseUint(string(digits), 16, 8)
		if !ok || err != nil || n > 0x0b {
			return 0, bad
		}
		worst = max(worst, int64(n)*100)
	}
	if len(bytes.TrimSpace(b)) != 0 {
		return 0, bad
	}
	if worst == 0 {
		return 0, absent("the eMMC does not define its life time")
	}
	return worst, fault{}
}

func readWear(r *Root, o *out) {
	names, f := r.list("sys/block")
	if f.is() {
		o.fault(0, f)
		return
	}
	worst, seen := int64(0), false
	for _, n := range names {
		if !strings.HasPrefix(n, "mmcblk") {
			continue
		}
		b, f := r.readFile("sys/block/" + n + "/device/life_time")
		var wear int64
		if !f.is() {
			wear, f = parseLifeTime(b)
		}
		if f.status == facts.Absent {
			continue // an SD card
		}
		if f.is() {
			o.fault(0, f)
			return
		}
		worst, seen = max(worst, wear), true
	}
	if !seen {
		o.fault(0, absent("there is no flash memory that reports its wear"))
		return
	}
	o.num(0, worst)
}

// pseudo are the file systems that show the kernel's own state and store no file.
var pseudo = []string{"autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs"}

// parseMounts reports whether the topmost mount on / is read-only, by its own
// options or those of its file system, and which mounts can be written, as
// "/var ext4". Mount points are as the kernel escapes them.
func parseMounts(b []byte) (readonly bool, writable []string, f fault) {
	bad := malformed("/proc/self/mountinfo has not the form of proc(5)")
	seen := false
	writable = []string{}
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		b = rest
		fields := bytes.Fields(line)
		dash := 6
		for dash < len(fields) && string(fields[dash]) != "-" {
			dash++
		}
		if !whole || dash+3 >= len(fields) {
			return false, nil, bad
		}
		ro := hasOption(fields[5], "ro") || hasOption(fields[dash+3], "ro")
		if kind := string(fields[dash+1]); !ro && !slices.Contains(pseudo, kind) {
			writable = append(writable, string(fields[4])+" "+kind)
		}
		if string(fields[4]) == "/" {
			seen, readonly = true, ro
		}
	}
	if !seen {
		return false, nil, malformed("/proc/self/mountinfo has no mount on /")
	}
	return readonly, writable, fault{}
}

func hasOption(options []byte, name string) bool {
	for len(options) > 0 {
		var o []byte
		o, options, _ = bytes.Cut(options, []byte(","))
		if string(o) == name {
			return true
		}
	}
	return false
}

func readMounts(r *Root, o *out) {
	b, f := r.readFile("proc/self/mountinfo")
	var readonly bool
	var writable []string
	if !f.is() {
		readonly, writable, f = parseMounts(b)
	}
	if f.is() {
		o.faults(f)
		return
	}
	o.ok(0, facts.BoolValue(readonly))
	o.set(1, writable)
}

func readVerity(r *Root, o *out) {
	names, f := r.list("sys/block")
	if f.is() {
		o.fault(0, f)
		return
	}
	active := false
	for _, n := range names {
		if !strings.HasPrefix(n, "dm-") {
			continue
		}
		uuid, f := r.readFile("sys/block/" + n + "/dm/uuid")
		if f.status == facts.Absent {
			continue // it left since the listing
		}
		if f.is() {
			o.fault(0, f)
			return
		}
		active = active || bytes.HasPrefix(uuid, []byte("CRYPT-VERITY-"))
	}
	o.ok(0, facts.BoolValue(active))
}
