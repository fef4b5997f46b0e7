// Package ima reads the measurement list of Linux's Integrity Measurement
// Architecture and replays it.
//
// A list is a claim. Prefix says how many of its entries a PCR value out of a
// verified quote proves; what stands behind them is proved by nothing, and the
// kernel goes on appending while a quote is taken. The package does not check
// quotes, reads no files and knows no good digests.
//
// Two things are covered by no digest even in a proved entry: the name of its
// template, and the data of a violation. Whoever renames a template can make an
// entry unreadable, not another file: an entry whose File is an error, like a
// violation, is an unknown file and must never be left out.
//
// Formats: binary_runtime_measurements of securityfs, in either byte order, with
// SHA-1 or another hash as template digest (Linux, Documentation/security/
// IMA-templates.rst, security/integrity/ima/ima_fs.c), and
// ascii_runtime_measurements for the templates that lose nothing in it.
package ima

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"strings"
)

// Limits. A list of a busy server has 100,000 entries of 150 bytes; an entry is
// large when it carries a buffer, such as a key or a kexec command line.
const (
	MaxSize    = 64 << 20 // bytes of a list
	maxEntries = 1 << 20
	maxData    = 1 << 20 // bytes of one entry's template data
	maxName    = 255     // bytes of a template's name or field list
	maxPath    = 255     // IMA_EVENT_NAME_LEN_MAX
	maxPCR     = 31
)

// PCR is where the kernel extends unless it was built or told otherwise
// (CONFIG_IMA_MEASURE_PCR_IDX).
const PCR = 10

// A Bank is a TPM_ALG_ID of a hash (TCG Algorithm Registry).
type Bank uint16

const (
	SHA1   Bank = 0x04
	SHA256 Bank = 0x0b
	SHA384 Bank = 0x0c
	SHA512 Bank = 0x0d
)

// Banks lists the banks that are replayed.
func Banks() []Bank { return []Bank{SHA1, SHA256, SHA384, SHA512} }

func (b Bank) String() string {
	switch b {
	case SHA1:
		return "sha1"
	case SHA256:
		return "sha256"
	case SHA384:
		return "sha384"
	case SHA512:
		return "sha512"
	}
	return fmt.Sprintf("%#04x", uint16(b))
}

// Size is the length of a digest in bytes, 0 of an unknown bank.
func (b Bank) Size() int {
	switch b {
	case SHA1:
		return sha1.Size
	case SHA256:
		return sha256.Size
	case SHA384:
		return sha512.Size384
	case SHA512:
		return sha512.Size
	}
	return 0
}

func (b Bank) hash() hash.Hash {
	switch b {
	case SHA1:
		return sha1.New()
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	}
	return sha512.New()
}

func (b Bank) sum(parts ...[]byte) []byte {
	h := b.hash()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// An Entry is one measurement.
type Entry struct {
	PCR       int
	Template  string // "ima-ng", or the field list of a template without a name; covered by no digest
	Digest    []byte // template digest as the list has it; zero of a violation
	Violation bool   // the file was written while it was open to be measured: nothing is known of it
	Data      []byte // template data as the list has them; shares memory with what was parsed
	Size      int    // bytes that the entry takes in the list
	BigEndian bool   // numbers in the list and in Data are, as on s390 without ima_canonical_fmt
}

// order is the byte order of the lengths in Data, which the digest covers.
func (e *Entry) order() binary.ByteOrder {
	if e.BigEndian {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// A Field is a part of the template data.
type Field struct {
	Name string // as in IMA-templates.rst: "d-ng", "n-ng"; empty when the template is not known
	Data []byte
}

// templates are the field lists of the templates that Linux names.
var templates = map[string]string{
	"ima":        "d|n",
	"ima-ng":     "d-ng|n-ng",
	"ima-ngv2":   "d-ngv2|n-ng",
	"ima-sig":    "d-ng|n-ng|sig",
	"ima-sigv2":  "d-ngv2|n-ng|sig",
	"ima-buf":    "d-ng|n-ng|buf",
	"ima-modsig": "d-ng|n-ng|sig|d-modsig|modsig",
	"evm-sig":    "d-ng|n-ng|evmsig|xattrnames|xattrlengths|xattrvalues|iuid|igid|imode",
}

// Fields takes the template data apart. Of an unknown template they have no
// names; data that are not a list of fields are an error.
func (e *Entry) Fields() ([]Field, error) {
	if e.Template == "ima" {
		return []Field{{"d", e.Data[:sha1.Size]}, {"n", e.Data[sha1.Size+4:]}}, nil
	}
	var fields []Field
	for rest := e.Data; len(rest) > 0; {
		if len(rest) < 4 || uint64(e.order().Uint32(rest)) > uint64(len(rest)-4) {
			return nil, fmt.Errorf("field %d of template %q is cut", len(fields), e.Template)
		}
		n := 4 + int(e.order().Uint32(rest))
		fields = append(fields, Field{Data: rest[4:n:n]})
		rest = rest[n:]
	}
	list, known := templates[e.Template]
	if !known && strings.Contains(e.Template, "|") {
		list, known = e.Template, true
	}
	if !known {
		return fields, nil
	}
	names := strings.Split(list, "|")
	if len(names) != len(fields) {
		return nil, fmt.Errorf("template %q with %d fields, want %d", e.Template, len(fields), len(names))
	}
	for i := range fields {
		fields[i].Name = names[i]
	}
	return fields, nil
}

// A File is what an entry says was measured.
type File struct {
	Hash   string // "sha256"; of template ima, "sha1" (or MD5 on old kernels, which it does not tell)
	Digest []byte // of the content; zero of a violation
	Name   string // a path as the process saw it, or the kernel's name for what is no file
}

// File reads the fields that nearly each template has.
func (e *Entry) File() (File, error) {
	fields, err := e.Fields()
	if err != nil {
		return File{}, err
	}
	var f File
	named := false
	for _, field := range fields {
		switch field.Name {
		case "d":
			f.Hash, f.Digest = "sha1", field.Data
		case "d-ng", "d-ngv2":
			// "sha256:\0" before the digest; d-ngv2 has "verity:sha256:\0".
			prefix, digest, ok := bytes.Cut(field.Data, []byte(":\x00"))
			if !ok {
				return File{}, fmt.Errorf("field %s without a hash's name", field.Name)
			}
			f.Hash, f.Digest = string(prefix), digest
		case "n", "n-ng":
			f.Name, named = string(bytes.TrimSuffix(field.Data, []byte{0})), true
		}
	}
	if f.Digest == nil || !named {
		return File{}, fmt.Errorf("template %q has no digest and name", e.Template)
	}
	return f, nil
}

// hashed is what a template digest is taken over: the template data, except
// that template ima pads the name and has no lengths.
func (e *Entry) hashed() [][]byte {
	if e.Template != "ima" {
		return [][]byte{e.Data}
	}
	name := make([]byte, maxPath+1)
	copy(name, e.Data[sha1.Size+4:])
	return [][]byte{e.Data[:sha1.Size], name}
}

// A List is a measurement list, or a later part of one, read whole.
type List struct {
	Bank    Bank // of the template digests
	Entries []Entry
}

// Parse reads a list in the binary or the text form. A list that cannot be read
// to its end, or an entry whose data do not hash to its digest, is an error: the
// data would be proved by nothing. An empty list is one, as the kernel always
// writes boot_aggregate.
func Parse(data []byte) (*List, error) {
	list, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("cannot parse IMA list: %w", err)
	}
	return list, nil
}

// A Partial list is what stands before a fault. It is for people to look at: it
// cannot be replayed.
type Partial struct {
	Entries []Entry
	Fault   error // nil when the list is whole
}

// ErrCut says that a list ends within an entry: what came before is whole.
var ErrCut = errors.New("cut")

// ParseNext reads a binary list that goes on, from the start of an entry: all
// whole entries in data. What is left is the beginning of an entry, or nothing.
func ParseNext(data []byte) (*List, error) {
	if len(data) == 0 {
		return &List{Bank: SHA1}, nil
	}
	if isText(data) {
		return nil, fmt.Errorf("cannot parse IMA list: it is the text form, which proves less: send the binary one")
	}
	list, err := parse(data)
	if errors.Is(err, ErrCut) {
		return list, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot parse IMA list: %w", err)
	}
	return list, nil
}

// ParsePartial reads as much as it can.
func ParsePartial(data []byte) Partial {
	list, err := parse(data)
	return Partial{list.Entries, err}
}

// Detect says whether data begin as a measurement list does.
func Detect(data []byte) bool {
	return isText(data) || digestBank(data, binary.LittleEndian) != 0 || digestBank(data, binary.BigEndian) != 0
}

func parse(data []byte) (*List, error) {
	list := &List{Bank: SHA1}
	if len(data) > MaxSize {
		return list, fmt.Errorf("more than %d bytes", MaxSize)
	}
	if len(data) == 0 {
		return list, fmt.Errorf("empty")
	}
	if isText(data) {
		return list, list.parseText(data)
	}
	big := false
	if list.Bank = digestBank(data, binary.LittleEndian); list.Bank == 0 {
		list.Bank = digestBank(data, binary.BigEndian)
		big = list.Bank != 0
	}
	if list.Bank == 0 && len(data) < 4+64+4+maxName {
		list.Bank = SHA1 // may be the beginning of an entry
		return list, fmt.Errorf("entry 0 at offset 0: no template's name where one must be, or it is %w", ErrCut)
	}
	if list.Bank == 0 {
		return list, fmt.Errorf("entry 0 at offset 0: no template's name where one must be")
	}
	for offset := 0; offset < len(data); {
		if len(list.Entries) == maxEntries {
			return list, fmt.Errorf("offset %d: more than %d entries", offset, maxEntries)
		}
		e, n, err := readEntry(data[offset:], list.Bank, big)
		if err == nil {
			err = e.check(list.Bank)
		}
		if err != nil {
			return list, fmt.Errorf("entry %d at offset %d: %w", len(list.Entries), offset, err)
		}
		list.Entries = append(list.Entries, e)
		offset += n
	}
	return list, nil
}

// digestBank finds out how long template digests are: a template's name has to
// follow. Newer kernels write a list for each bank.
func digestBank(data []byte, order binary.ByteOrder) Bank {
	for _, b := range Banks() {
		at := 4 + b.Size()
		if len(data) < at+4 {
			break
		}
		n := order.Uint32(data[at:])
		if rest := data[at+4:]; n > 0 && n <= maxName && int(n) <= len(rest) && isName(rest[:n]) {
			return b
		}
	}
	return 0
}

// isName says whether b is the name or field list of a template.
func isName(b []byte) bool {
	letters := false
	for _, c := range b {
		switch {
		case c >= 'a' && c <= 'z':
			letters = true
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c == '-', c == '_', c == '|', c == '.':
		default:
			return false
		}
	}
	return letters
}

// readEntry reads one entry and its length in bytes.
func readEntry(data []byte, bank Bank, big bool) (Entry, int, error) {
	e := Entry{BigEndian: big}
	pos, short := 0, false
	take := func(n uint64) []byte {
		if short || n > uint64(len(data)-pos) {
			short = true
			return nil
		}
		b := data[pos : pos+int(n) : pos+int(n)]
		pos += int(n)
		return b
	}
	u32 := func() uint32 {
		if b := take(4); b != nil {
			return e.order().Uint32(b)
		}
		return 0
	}
	pcr := u32()
	e.Digest = take(uint64(bank.Size()))
	size := u32()
	switch {
	case short:
		return e, 0, fmt.Errorf("%w in its header", ErrCut)
	case pcr > maxPCR:
		return e, 0, fmt.Errorf("PCR %d, the highest is %d", pcr, maxPCR)
	case size == 0 || size > maxName:
		return e, 0, fmt.Errorf("template name of %d bytes, want 1 to %d", size, maxName)
	}
	e.PCR = int(pcr)
	name := take(uint64(size))
	if !short && !isName(name) {
		return e, 0, fmt.Errorf("template name %q", name)
	}
	e.Template = string(name)
	if e.Template == "ima" { // a digest and a name, without the length of both
		start := pos
		take(sha1.Size)
		if size = u32(); size > maxPath {
			return e, 0, fmt.Errorf("path of %d bytes, the limit is %d", size, maxPath)
		}
		take(uint64(size))
		e.Data = data[start:pos:pos]
	} else {
		if size = u32(); size > maxData {
			return e, 0, fmt.Errorf("template data of %d bytes, the limit is %d", size, maxData)
		}
		e.Data = take(uint64(size))
	}
	if short {
		return e, 0, fmt.Errorf("%w: %d bytes are left", ErrCut, len(data)-pos)
	}
	e.Size = pos
	return e, pos, nil
}

// check finds out whether the entry is a violation, and refuses data that are
// not what was extended. A violation's data are covered by nothing.
func (e *Entry) check(bank Bank) error {
	e.Violation = bytes.Equal(e.Digest, make([]byte, len(e.Digest)))
	if _, err := e.Fields(); err != nil {
		if _, known := templates[e.Template]; known {
			return err
		}
	}
	if !e.Violation && !bytes.Equal(bank.sum(e.hashed()...), e.Digest) {
		return fmt.Errorf("template data do not hash to %x", e.Digest)
	}
	return nil
}

// Violations counts the entries that are violations.
func (l *List) Violations() int {
	n := 0
	for _, e := range l.Entries {
		if e.Violation {
			n++
		}
	}
	return n
}
