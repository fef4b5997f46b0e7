package eventlog

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// What follows reads the data of events (PFP 1.06, 10.4; UEFI 2.10). The data
// come from the device: nothing here refuses a log, what cannot be read is said
// to be so.

// A guid in the mixed byte order of UEFI (UEFI 2.10, appendix A).
type guid [16]byte

func (g guid) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[:4]), binary.LittleEndian.Uint16(g[4:6]), binary.LittleEndian.Uint16(g[6:8]), g[8:10], g[10:])
}

const (
	guidX509   = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072" // EFI_CERT_X509_GUID
	guidSHA256 = "c1c41626-504c-4092-aca9-41f936934328" // EFI_CERT_SHA256_GUID
)

// What Linux's EFI stub tags (drivers/firmware/efi/libstub).
const (
	tagInitrd      = 0x8f3b22ec
	tagLoadOptions = 0x8f3b22ed
)

// grubPrefixes stand before what GRUB measures; those without a colon are Red
// Hat's.
var grubPrefixes = []struct{ prefix, subject string }{
	{"grub_cmd: ", "GRUB command"},
	{"grub_cmd ", "GRUB command"},
	{"kernel_cmdline: ", "kernel command line"},
	{"grub_kernel_cmdline ", "kernel command line"},
	{"module_cmdline: ", "GRUB module"},
}

// clean makes text of a log fit to be shown: printable, of bounded length.
func clean(text string) string {
	const limit = 1000
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > limit {
			b.WriteRune('…')
			break
		}
		if !unicode.IsPrint(r) {
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// decodeUTF16 returns text without its terminating zeros, if data are plainly
// such text.
func decodeUTF16(data []byte) (string, bool) {
	if len(data) < 2 || len(data)%2 != 0 {
		return "", false
	}
	units := make([]uint16, len(data)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(data[2*i:])
	}
	for len(units) > 0 && units[len(units)-1] == 0 {
		units = units[:len(units)-1]
	}
	text := string(utf16.Decode(units))
	return text, text != "" && isText(text)
}

func isText(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return r == unicode.ReplacementChar || !unicode.IsPrint(r) && r != '\n' && r != '\t' && r != '\r'
	})
}

// textOf is what people would read in data: 8-bit or 16-bit text, else bytes.
func textOf(data []byte) string {
	if text := string(bytes.TrimRight(data, "\x00")); text != "" && isText(text) {
		return clean(text)
	}
	// Nearly any bytes are some text in 16 bits: take it for one if it is
	// mostly ASCII.
	if text, ok := decodeUTF16(data); ok {
		ascii := strings.Map(func(r rune) rune {
			if r > unicode.MaxASCII {
				return -1
			}
			return r
		}, text)
		if 2*len(ascii) >= utf8.RuneCountInString(text) {
			return clean(text)
		}
	}
	return hexOf(data)
}

func hexOf(data []byte) string {
	switch {
	case len(data) == 0:
		return "empty"
	case len(data) <= 32:
		return fmt.Sprintf("%x", data)
	default:
		return fmt.Sprintf("%d bytes", len(data))
	}
}

// A variable is a UEFI_VARIABLE_DATA (10.2.6).
type variable struct {
	vendor guid
	name   string
	data   []byte
	size   int // of all of it; what follows does not belong to it
}

func readVariable(data []byte) (v variable, ok bool) {
	c := &cursor{data: data}
	v.vendor = c.guid()
	units, size := c.u64(), c.u64()
	if units > maxData {
		return v, false
	}
	name := c.bytes(2 * units)
	v.data = c.bytes(size)
	if v.size = c.pos; c.short {
		return v, false
	}
	if len(name) > 0 {
		v.name, ok = decodeUTF16(name)
	}
	return v, ok
}

// A tag is a TCG_PCClientTaggedEvent (10.4.2.1).
type tag struct {
	id   uint32
	data []byte
}

func readTag(data []byte) (tag, bool) {
	c := &cursor{data: data}
	t := tag{id: c.u32()}
	t.data = c.bytes(uint64(c.u32()))
	return t, !c.short
}

// A signer is an entry of a signature list.
type signer struct {
	kind string // the GUID of its type
	data []byte
}

func (s signer) String() string {
	if s.kind == guidX509 {
		return certificate(s.data)
	}
	return fmt.Sprintf("hash %.24s", hexOf(s.data))
}

func certificate(der []byte) string {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Sprintf("a certificate of %d bytes that cannot be read", len(der))
	}
	if name := cert.Subject.CommonName; name != "" {
		return "CN=" + clean(name)
	}
	return clean(cert.Subject.String())
}

// readSigners reads EFI_SIGNATURE_LISTs (UEFI 2.10, 32.4.1).
func readSigners(data []byte) ([]signer, bool) {
	var list []signer
	for c := (&cursor{data: data}); c.left() > 0; {
		kind, size, header, each := c.guid(), c.u32(), c.u32(), c.u32()
		if c.short || size < 28 || header > size-28 || each <= 16 {
			return list, false
		}
		c.bytes(uint64(header))
		entries := &cursor{data: c.bytes(uint64(size - 28 - header))}
		if c.short || entries.left()%int(each) != 0 {
			return list, false
		}
		for entries.left() > 0 {
			list = append(list, signer{kind.String(), entries.bytes(uint64(each))[16:]})
		}
	}
	return list, true
}

// signersInWords counts hashes and names certificates.
func signersInWords(data []byte) string {
	if len(data) == 0 {
		return "empty"
	}
	list, ok := readSigners(data)
	if !ok {
		return fmt.Sprintf("%d bytes that are no signature list", len(data))
	}
	var subjects []string
	hashes := 0
	for _, s := range list {
		if s.kind == guidX509 {
			subjects = append(subjects, certificate(s.data))
		} else {
			hashes++
		}
	}
	var parts []string
	if n := len(subjects); n > 0 {
		parts = append(parts, fmt.Sprintf("%s (%s)", count(n, "certificate"), strings.Join(subjects, "; ")))
	}
	if hashes > 0 {
		parts = append(parts, count(hashes, "hash"))
	}
	return strings.Join(parts, ", ")
}

func count(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "sh"):
		return fmt.Sprintf("%d %ses", n, what)
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// devicePath writes an EFI_DEVICE_PATH_PROTOCOL (UEFI 2.10, 10.3) as text. The
// path of a file is what people know, so nodes before it are shortened.
func devicePath(data []byte) string {
	var nodes []string
	for c := (&cursor{data: data}); c.left() > 0; {
		kind, sub, size := c.u8(), c.u8(), c.u16()
		if c.short || size < 4 {
			return strings.Join(append(nodes, "(unreadable)"), "/")
		}
		body := &cursor{data: c.bytes(uint64(size - 4))}
		if c.short {
			return strings.Join(append(nodes, "(unreadable)"), "/")
		}
		if kind == 0x7f {
			break
		}
		nodes = append(nodes, deviceNode(kind, sub, body))
	}
	if len(nodes) == 0 {
		return "no path"
	}
	return strings.Join(nodes, "/")
}

func deviceNode(kind, sub uint8, c *cursor) string {
	text := ""
	switch [2]uint8{kind, sub} {
	case [2]uint8{1, 1}:
		function, device := c.u8(), c.u8()
		text = fmt.Sprintf("Pci(%#x,%#x)", device, function)
	case [2]uint8{1, 3}:
		c.u32()
		text = fmt.Sprintf("MemoryMapped(%#x,%#x)", c.u64(), c.u64())
	case [2]uint8{1, 4}, [2]uint8{3, 10}, [2]uint8{4, 3}:
		text = fmt.Sprintf("Vendor(%v)", c.guid())
	case [2]uint8{2, 1}:
		hid, uid := c.u32(), c.u32()
		if text = fmt.Sprintf("Acpi(%#x,%#x)", hid, uid); hid == 0x0a0341d0 {
			text = fmt.Sprintf("PciRoot(%#x)", uid)
		}
	case [2]uint8{3, 1}:
		secondary := c.u8()
		text = fmt.Sprintf("Ata(%d,%d,%d)", secondary, c.u8(), c.u16())
	case [2]uint8{3, 2}:
		text = fmt.Sprintf("Scsi(%d,%d)", c.u16(), c.u16())
	case [2]uint8{3, 5}:
		text = fmt.Sprintf("USB(%d,%d)", c.u8(), c.u8())
	case [2]uint8{3, 11}:
		text = fmt.Sprintf("MAC(%x)", c.bytes(6))
	case [2]uint8{3, 18}:
		text = fmt.Sprintf("Sata(%d,%d,%d)", c.u16(), c.u16(), c.u16())
	case [2]uint8{3, 23}:
		text = fmt.Sprintf("NVMe(%d)", c.u32())
	case [2]uint8{3, 24}:
		text = fmt.Sprintf("Uri(%s)", clean(string(c.rest())))
	case [2]uint8{3, 29}:
		text = fmt.Sprintf("eMMC(%d)", c.u8())
	case [2]uint8{3, 26}:
		text = fmt.Sprintf("SD(%d)", c.u8())
	case [2]uint8{4, 1}:
		partition := c.u32()
		c.bytes(16)
		signature := c.guid()
		if format := c.u8(); format == 2 {
			text = fmt.Sprintf("HD(%d,GPT,%v)", partition, signature)
		} else {
			text = fmt.Sprintf("HD(%d,MBR,%x)", partition, signature[:4])
		}
	case [2]uint8{4, 4}:
		path, ok := decodeUTF16(c.rest())
		if ok {
			text = clean(path)
		}
	case [2]uint8{4, 6}:
		text = fmt.Sprintf("FvFile(%v)", c.guid())
	case [2]uint8{4, 7}:
		text = fmt.Sprintf("Fv(%v)", c.guid())
	}
	if text == "" || c.short {
		return fmt.Sprintf("Path(%d,%d,%s)", kind, sub, hexOf(c.data))
	}
	return text
}

// imagePath reads a UEFI_IMAGE_LOAD_EVENT (10.2.3).
func imagePath(data []byte) (string, bool) {
	c := &cursor{data: data}
	c.bytes(24) // where it was loaded to
	path := c.bytes(c.u64())
	if c.short {
		return "", false
	}
	return devicePath(path), true
}

// bootOption reads an EFI_LOAD_OPTION (UEFI 2.10, 3.1.3).
func bootOption(data []byte) (string, bool) {
	c := &cursor{data: data}
	c.u32() // attributes
	size := c.u16()
	var name []byte
	for unit := c.bytes(2); unit != nil && (unit[0] != 0 || unit[1] != 0); unit = c.bytes(2) {
		name = append(name, unit...)
	}
	path := c.bytes(uint64(size))
	if c.short {
		return "", false
	}
	text, _ := decodeUTF16(name)
	return fmt.Sprintf("%q at %s", clean(text), devicePath(path)), true
}

// bootOrder reads a list of numbers of boot options.
func bootOrder(data []byte) (string, bool) {
	if len(data)%2 != 0 {
		return "", false
	}
	var list []string
	for c := (&cursor{data: data}); c.left() > 0; {
		list = append(list, fmt.Sprintf("%04X", c.u16()))
	}
	return strings.Join(list, ", "), true
}

// partitions reads a UEFI_GPT_DATA (10.2.5; UEFI 2.10, 5.3).
func partitions(data []byte) (string, bool) {
	c := &cursor{data: data}
	if string(c.bytes(8)) != "EFI PART" {
		return "", false
	}
	c.bytes(48)
	disk := c.guid()
	c.bytes(12)
	each := c.u32()
	c.u32()
	n := c.u64()
	if c.short || each < 128 || uint64(c.left()) != n*uint64(each) || n > maxData {
		return "", false
	}
	var names []string
	for range n {
		entry := c.bytes(uint64(each))
		name, ok := decodeUTF16(entry[56:128])
		if !ok {
			var id guid
			copy(id[:], entry[16:32])
			name = id.String()
		}
		names = append(names, clean(name))
	}
	return fmt.Sprintf("disk %v, %s (%s)", disk, count(int(n), "partition"), strings.Join(names, ", ")), true
}

// blob reads a UEFI_PLATFORM_FIRMWARE_BLOB or _BLOB2 (10.2.4).
func blob(data []byte, described bool) (string, bool) {
	c := &cursor{data: data}
	name := ""
	if described {
		name = textOf(c.bytes(uint64(c.u8()))) + " "
	}
	base, size := c.u64(), c.u64()
	return fmt.Sprintf("%s%d bytes at %#x", name, size, base), !c.short && c.left() == 0
}
