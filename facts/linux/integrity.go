package linux

import (
	"bytes"
	"crypto/sha256"
	"fmt"

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
		o.fault(1, f)
		b, f := r.readFile("proc/device-tree/chosen/bootloader/signed")
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

func readCmdline(r *Root, o *out) {
	b, f := r.readFile("proc/cmdline")
	o.text(0, b, f)
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
