package linux

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/facts"
)

type tainted struct{ file *file }

func (s *tainted) read(o *out) {
	n, f := s.file.readInt()
	o.outcome(0, n, f)
}

func readIMA(r *Root, o *out) {
	const dir = "sys/kernel/security/ima/"
	n, f := r.readInt(dir + "runtime_measurements_count")
	o.outcome(0, n, f)
	n, f = r.readInt(dir + "violations")
	o.outcome(1, n, f)
}

// parseModules returns the names in /proc/modules.
func parseModules(b []byte) ([]string, fault) {
	names := []string{}
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		b = rest
		name, line := field(line)
		_, line, ok1 := intField(line)
		_, line = field(line) // users, "-" where modules cannot be unloaded
		by, line := field(line)
		state, _ := field(line)
		if !whole || !ok1 || len(by) == 0 || len(state) == 0 {
			return nil, malformed("/proc/modules has not the form of proc(5)")
		}
		names = append(names, string(name))
	}
	return names, fault{}
}

func readModules(r *Root, o *out) {
	b, f := r.readFile("proc/modules")
	var names []string
	if !f.is() {
		names, f = parseModules(b)
	}
	if f.is() {
		o.fault(0, f)
		return
	}
	o.set(0, names)
}

// parseLockdown returns the level in brackets: "none [integrity] confidentiality".
func parseLockdown(b []byte) (level []byte, f fault) {
	for rest := b; len(rest) > 0; {
		var word []byte
		word, rest = field(rest)
		if n := len(word); n > 2 && word[0] == '[' && word[n-1] == ']' {
			if level != nil {
				return nil, malformed("lockdown has two active levels")
			}
			level = word[1 : n-1]
		}
	}
	switch string(level) {
	case "none", "integrity", "confidentiality":
		return level, fault{}
	}
	return nil, malformed("lockdown shows no level that kernel_lockdown(7) knows")
}

func readLockdown(r *Root, o *out) {
	b, f := r.readFile("sys/kernel/security/lockdown")
	if !f.is() {
		b, f = parseLockdown(b)
	}
	o.text(0, b, f)
}

const (
	efiGlobal = "-8be4df61-93ca-11d2-aa0d-00e098032b8c" // UEFI specification, EFI_GLOBAL_VARIABLE
	efivars   = "sys/firmware/efi/efivars/"
)

// parseEFIBool returns a boolean EFI variable as efivarfs shows it: four bytes
// of attributes and one of data (kernel, filesystems/efivarfs).
func parseEFIBool(b []byte) (bool, fault) {
	if len(b) != 5 || b[4] > 1 {
		return false, malformed("the EFI variable is not one byte that is 0 or 1")
	}
	return b[4] == 1, fault{}
}

func (r *Root) efiBool(name string) (bool, fault) {
	b, f := r.readFile(efivars + name + efiGlobal)
	if f.is() {
		return false, f
	}
	return parseEFIBool(b)
}

// readSecureBoot reports Secure Boot of UEFI, or of a Raspberry Pi's boot
// loader, which tells a big-endian word that is not 0.
func readSecureBoot(r *Root, o *out) {
	secure, f := r.efiBool("SecureBoot")
	if f.status == facts.Absent {
		if r.exists(chosen + "u-boot,version") {
			f = absent("U-Boot does not tell the kernel what it verified")
		}
		o.fault(1, f)
		b, f := r.readFile(chosen + "bootloader/signed")
		switch {
		case f.status == facts.Absent:
			o.fault(0, absent("there is no SecureBoot EFI variable and no such boot loader property"))
		case f.is():
			o.fault(0, f)
		case len(b) != 4:
			o.fault(0, malformed("the property signed is not four bytes"))
		default:
			o.ok(0, facts.BoolValue(!bytes.Equal(b, []byte{0, 0, 0, 0})))
		}
		return
	}
	if f.is() {
		o.faults(f)
		return
	}
	o.ok(0, facts.BoolValue(secure))
	setup, f := r.efiBool("SetupMode")
	if f.is() {
		o.fault(1, f)
		return
	}
	o.ok(1, facts.BoolValue(secure && !setup))
}

// parameter returns the value of a parameter of the kernel command line, nil
// where it has none. Two that differ are malformed: which of them counted is not
// for this package to guess. Values in double quotes may hold spaces (kernel,
// admin-guide/kernel-parameters).
func parameter(cmdline []byte, name string) ([]byte, fault) {
	var found []byte
	quoted := false
	for _, word := range bytes.FieldsFunc(cmdline, func(c rune) bool {
		quoted = quoted != (c == '"')
		return !quoted && (c == ' ' || c == '\n' || c == '\t' || c == 0)
	}) {
		key, v, ok := bytes.Cut(bytes.Trim(word, `"`), []byte("="))
		if !ok || string(key) != name {
			continue
		}
		v = bytes.Trim(v, `"`)
		if len(v) == 0 || found != nil && !bytes.Equal(found, v) {
			return nil, malformed("/proc/cmdline: " + name + " has no value, or two")
		}
		found = v
	}
	if found == nil {
		return nil, absent("the kernel command line has no " + name)
	}
	return found, fault{}
}

// parseRootHash returns the dm-verity root hash of the command line: roothash
// (systemd-veritysetup-generator(8)), else the digest of a verity target that
// dm-mod.create sets up (kernel, admin-guide/device-mapper/dm-init and verity).
func parseRootHash(cmdline []byte) ([]byte, fault) {
	const digest = 9 // words after "verity"
	text, f := parameter(cmdline, "roothash")
	if f.status == facts.Absent {
		table, tf := parameter(cmdline, "dm-mod.create")
		words := bytes.FieldsFunc(table, func(c rune) bool { return c == ' ' || c == ',' || c == ';' })
		at := slices.IndexFunc(words, func(w []byte) bool { return string(w) == "verity" })
		if tf.is() && tf.status != facts.Absent {
			f = tf
		} else if at >= 0 {
			text, f = words[min(at+digest, len(words)-1)], fault{}
		}
	}
	if f.is() {
		return nil, f
	}
	hash, err := hex.DecodeString(string(text))
	if err != nil || len(hash) < 16 || len(hash) > facts.MaxBytes {
		return nil, malformed(fmt.Sprintf("/proc/cmdline: the root hash is not 16 to %d bytes in hexadecimal", facts.MaxBytes))
	}
	return hash, fault{}
}

func readCmdline(r *Root, o *out) {
	b, f := r.readText("proc/cmdline")
	o.text(0, b, f)
	if f.is() {
		o.faults(f)
		return
	}
	slot, f := parameter(b, "rauc.slot")
	o.text(1, slot, f)
	hash, f := parseRootHash(b)
	if f.is() {
		o.fault(2, f)
		return
	}
	o.ok(2, facts.BytesValue(hash))
}

// parseLSM returns the active security modules of /sys/kernel/security/lsm, a
// list with commas (kernel, admin-guide/LSM).
func parseLSM(b []byte) ([]string, fault) {
	members := strings.Split(strings.TrimSuffix(string(b), "\n"), ",")
	for _, m := range members {
		if m == "" || strings.Trim(m, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			return nil, malformed("the list of security modules has not the form of the kernel's admin-guide/LSM")
		}
	}
	return members, fault{}
}

func readLSM(r *Root, o *out) {
	b, f := r.readFile("sys/kernel/security/lsm")
	var members []string
	if !f.is() {
		members, f = parseLSM(b)
	}
	if f.is() {
		o.fault(0, f)
		return
	}
	o.set(0, members)
}

// parseFlag reads what the kernel shows of a boolean: 0 or 1, N or Y.
func parseFlag(b []byte) (bool, fault) {
	switch string(bytes.TrimSuffix(b, []byte("\n"))) {
	case "0", "N":
		return false, fault{}
	case "1", "Y":
		return true, fault{}
	}
	return false, malformed("the setting is none of 0, 1, N and Y")
}

// hardening are the settings of the running kernel, in the order of the facts
// that readHardening reports before integrity.ptrace_scope and
// integrity.core_pattern.
var hardening = []string{"sys/module/module/parameters/sig_enforce", "proc/sys/kernel/modules_disabled", "proc/sys/kernel/kexec_load_disabled", "sys/module/dm_verity/parameters/require_signatures"}

func readHardening(r *Root, o *out) {
	for i, path := range hardening {
		b, f := r.readFile(path)
		var on bool
		if !f.is() {
			on, f = parseFlag(b)
		}
		if f.is() {
			o.fault(i, f)
			continue
		}
		o.ok(i, facts.BoolValue(on))
	}
	scope, f := r.readInt("proc/sys/kernel/yama/ptrace_scope")
	if !f.is() && (scope < 0 || scope > 3) {
		f = malformed("ptrace_scope is not 0 to 3")
	}
	o.outcome(4, scope, f)
	const pattern = "proc/sys/kernel/core_pattern"
	if b, _ := r.readFile(pattern); string(b) == "\n" {
		o.ok(5, facts.TextValue("")) // lawful: no core file has a name (core(5))
		return
	}
	b, f := r.readText(pattern)
	o.text(5, b, f)
}

// parseAccounts returns the digest of who has an account: SHA-256 over the
// sorted lines "name:uid". No other field of passwd(5) goes in.
func parseAccounts(b []byte) ([]byte, fault) {
	var lines []string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Split(line, ":")
		if len(fields) != 7 || fields[0] == "" {
			return nil, malformed("/etc/passwd has not the form of passwd(5)")
		}
		if n, ok := parseInt([]byte(fields[2])); !ok || n < 0 || n > math.MaxUint32 {
			return nil, malformed("/etc/passwd: a user id is not a number")
		}
		lines = append(lines, fields[0]+":"+fields[2]+"\n")
	}
	if len(lines) == 0 {
		return nil, malformed("/etc/passwd has no account")
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	return sum[:], fault{}
}

func readAccounts(r *Root, o *out) {
	b, f := r.readFile("etc/passwd")
	var digest []byte
	if !f.is() {
		digest, f = parseAccounts(b)
	}
	if f.is() {
		o.fault(0, f)
		return
	}
	o.ok(0, facts.BytesValue(digest))
}

// parseUSBID checks one of idVendor and idProduct: four hexadecimal digits.
func parseUSBID(b []byte) (string, fault) {
	id := string(bytes.TrimSuffix(b, []byte("\n")))
	if len(id) != 4 || strings.Trim(id, "0123456789abcdef") != "" {
		return "", malformed("a USB identifier is not four hexadecimal digits")
	}
	return id, fault{}
}

// readDevices lists the USB devices as "port vendor:product", without the root
// hubs, which are the machine's own.
func readDevices(r *Root, o *out) {
	names, f := r.listUnder("sys/bus", "usb/devices")
	if f.is() {
		o.fault(0, f)
		return
	}
	members := []string{}
	for _, n := range names {
		if strings.HasPrefix(n, "usb") || strings.Contains(n, ":") {
			continue // a root hub, or an interface of a device
		}
		var ids [2]string
		for i, attr := range []string{"idVendor", "idProduct"} {
			b, bad := r.readFile("sys/bus/usb/devices/" + n + "/" + attr)
			if !bad.is() {
				ids[i], bad = parseUSBID(b)
			}
			if bad.is() && !f.is() {
				f = bad
			}
		}
		if f.status == facts.Absent { // it left since the listing
			f = fault{}
			continue
		}
		if f.is() {
			o.fault(0, f)
			return
		}
		members = append(members, n+" "+ids[0]+":"+ids[1])
	}
	o.set(0, members)
}

// pcrDigest asks the TPM once and keeps the answer: it takes longer than a round
// may.
type pcrDigest struct {
	ask   func() ([]byte, error)
	value facts.Value
}

func (p *pcrDigest) read(o *out) {
	if p.ask == nil {
		o.fault(0, absent("there is no TPM, or the manifest selects no PCRs"))
		return
	}
	if p.value.Kind() == 0 {
		digest, err := p.ask()
		if err != nil {
			o.fault(0, fault{facts.Unreadable, "TPM: " + err.Error()})
			return
		}
		if len(digest) != sha256.Size {
			o.fault(0, malformed(fmt.Sprintf("the PCR digest has %d bytes, not %d", len(digest), sha256.Size)))
			return
		}
		p.value = facts.BytesValue(bytes.Clone(digest))
	}
	o.ok(0, p.value)
}
