// Package eventlog reads the logs in which firmware, boot loaders and systemd
// write down what they extended into PCRs, replays them, and says in words
// what booted.
//
// A log is a claim. Nothing in it is trusted until Verify has compared its
// replay with PCR values out of a verified quote, and then only its order and
// digests are: whether the data of an event are covered by its digest is said
// for each event (Proof). The package does not check quotes, reads no files
// and knows no good values.
//
// Formats: the binary log of the TCG PC Client Platform Firmware Profile 1.06
// (section 10; with SHA-1 only as in TPM 1.2, and crypto-agile), which TDX's
// CCEL is too, with measurement registers in place of PCRs; the Canonical Event
// Log in JSON, in CBOR and as type, length, value; and systemd's
// /run/log/systemd/tpm2-measure.log, which is a JSON text sequence (RFC 7464) of
// nearly such records.
package eventlog

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
)

// Limits. Logs seen on machines have up to 200 kB and 500 events; the largest
// single events are the contents of dbx, some 25 kB.
const (
	MaxSize   = 16 << 20 // bytes of a log, its padding included
	maxEvents = 1 << 16
	maxData   = 1 << 20 // bytes of one event's data
	maxBanks  = 16      // HASH_COUNT of the largest TPMs is below
	maxPCR    = 31      // TPM2_MAX_PCRS is 32
)

// A Bank is a TPM_ALG_ID of a hash (TCG Algorithm Registry).
type Bank uint16

const (
	SHA1    Bank = 0x04
	SHA256  Bank = 0x0b
	SHA384  Bank = 0x0c
	SHA512  Bank = 0x0d
	SM3     Bank = 0x12
	SHA3256 Bank = 0x27
	SHA3384 Bank = 0x28
	SHA3512 Bank = 0x29
)

var banks = []struct {
	bank Bank
	name string
	size int
	hash func() hash.Hash
}{
	{SHA1, "sha1", sha1.Size, sha1.New},
	{SHA256, "sha256", sha256.Size, sha256.New},
	{SHA384, "sha384", sha512.Size384, sha512.New384},
	{SHA512, "sha512", sha512.Size, sha512.New},
	{SM3, "sm3_256", 32, newSM3},
	{SHA3256, "sha3_256", 32, func() hash.Hash { return sha3.New256() }},
	{SHA3384, "sha3_384", 48, func() hash.Hash { return sha3.New384() }},
	{SHA3512, "sha3_512", 64, func() hash.Hash { return sha3.New512() }},
}

func (b Bank) index() int {
	for i := range banks {
		if banks[i].bank == b {
			return i
		}
	}
	return -1
}

// String is the name that tpm2-tools use, or the number.
func (b Bank) String() string {
	if i := b.index(); i >= 0 {
		return banks[i].name
	}
	return fmt.Sprintf("%#04x", uint16(b))
}

// Replayable says whether the hash is known here.
func (b Bank) Replayable() bool {
	return b.index() >= 0
}

// sum hashes parts, one after the other. The bank must be replayable.
func (b Bank) sum(parts ...[]byte) []byte {
	h := banks[b.index()].hash()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func bankNamed(name string) (Bank, bool) {
	for _, b := range banks {
		if b.name == name {
			return b.bank, true
		}
	}
	return 0, false
}

// A Format is how a log is written.
type Format string

const (
	TCG1    Format = "tcg1"    // TCG_PCR_EVENT, SHA-1 (PFP 1.06, 10.2.1)
	TCG2    Format = "tcg2"    // TCG_PCR_EVENT2 after a Spec ID Event03 (10.2.2)
	CEL     Format = "cel"     // Canonical Event Log: JSON, CBOR or TLV
	Systemd Format = "systemd" // tpm2-measure.log
)

// NoPCR is the PCR of an event that extends none: a mark in the log, or a
// measurement into an NV index.
const NoPCR = -1

// A Digest is the value of an event in one bank.
type Digest struct {
	Bank  Bank
	Value []byte // of the bank's size
}

// An Event is one record of a log, as the log has it.
type Event struct {
	Offset  int      // in bytes, from the start of the log
	PCR     int      // 0 to 31, or NoPCR
	Type    Type     // of a TCG log; what a CEL record says, or 0
	Digests []Digest // no bank twice; none where nothing is extended
	Data    []byte   // shares memory with what was parsed
	Kind    string   // of a CEL record: its content type, for systemd its event type; else empty
}

// Digest returns the event's value in bank b, nil when it has none.
func (e *Event) Digest(b Bank) []byte {
	for _, d := range e.Digests {
		if d.Bank == b {
			return d.Value
		}
	}
	return nil
}

// extends says whether the event changes a PCR.
func (e *Event) extends() bool { return e.PCR != NoPCR && e.Type != NoAction }

// A Log is what a log says, whole. It is unverified: see Verify.
type Log struct {
	Format  Format
	Banks   []Bank // as the log's header has them, else as they first appear
	Events  []Event
	Padding int // bytes 0x00 or 0xff after the last event

	locality int // of TPM2_Startup, which PCR 0 begins with
}

// Parse reads a log of any of the formats, whole. A log that cannot be read to
// its end, or that measures nothing, is an error.
func Parse(data []byte) (*Log, error) {
	log, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("cannot parse event log: %w", err)
	}
	return log, nil
}

// A Partial log is what stands before a fault. It is for people to look at:
// it cannot be replayed.
type Partial struct {
	Events []Event
	Fault  error // nil when the log is whole
}

// ParsePartial reads as much as it can.
func ParsePartial(data []byte) Partial {
	log, err := parse(data)
	return Partial{log.Events, err}
}

// parse returns what it has read even with an error.
func parse(data []byte) (*Log, error) {
	log := &Log{}
	if len(data) > MaxSize {
		return log, fmt.Errorf("more than %d bytes", MaxSize)
	}
	if len(data) == 0 {
		return log, fmt.Errorf("empty")
	}
	var err error
	if first := bytes.TrimLeft(data, " \t\r\n"); len(first) > 0 && (first[0] == recordSeparator || first[0] == '{' || first[0] == '[') {
		err = log.parseCEL(data)
	} else if isTLV(data) {
		err = log.parseTLV(data)
	} else if isCBOR(data) {
		err = log.parseCBOR(data)
	} else if isListing(data) {
		err = fmt.Errorf("it is ascii_bios_measurements, which leaves out what was measured: take binary_bios_measurements")
	} else if isTable(data) {
		err = fmt.Errorf("it is the ACPI table that says where the log is: take the table's data, /sys/firmware/acpi/tables/data/CCEL")
	} else if err = log.parseTCG(data); err != nil && bigEndian(data) {
		err = fmt.Errorf("it is big-endian, as no log of the specification is: %w", err)
	}
	if err == nil {
		err = log.readLocality()
	}
	if err == nil && !slices.ContainsFunc(log.Events, func(e Event) bool { return e.extends() }) {
		err = fmt.Errorf("nothing is measured in it")
	}
	return log, err
}

// isListing says whether data are the kernel's listing of a log as text: PCR,
// SHA-1, type in hexadecimal, name in brackets.
func isListing(data []byte) bool {
	line, _, _ := bytes.Cut(data[:min(len(data), 200)], []byte("\n"))
	words := bytes.Fields(line)
	if len(words) < 4 || len(words[0]) > 2 || len(words[1]) != 2*sha1.Size || words[3][0] != '[' {
		return false
	}
	_, err := hex.DecodeString(string(words[1]))
	return err == nil
}

// isTable says whether data are one of the ACPI tables that point to a log: name,
// and its own length.
func isTable(data []byte) bool {
	if len(data) < 8 || int(binary.LittleEndian.Uint32(data[4:])) != len(data) {
		return false
	}
	name := string(data[:4])
	return name == "CCEL" || name == "TPM2" || name == "TCPA"
}

// bigEndian says whether the first event has a type only in that byte order.
func bigEndian(data []byte) bool {
	if len(data) < 8 {
		return false
	}
	_, little := types[Type(binary.LittleEndian.Uint32(data[4:]))]
	_, big := types[Type(binary.BigEndian.Uint32(data[4:]))]
	return big && !little
}

// A cursor reads little-endian numbers; once it ran short, all reads are zero.
type cursor struct {
	data  []byte
	pos   int
	short bool
}

func (c *cursor) left() int { return len(c.data) - c.pos }

func (c *cursor) bytes(n uint64) []byte {
	if c.short || n > uint64(c.left()) {
		c.short = true
		return nil
	}
	b := c.data[c.pos : c.pos+int(n) : c.pos+int(n)]
	c.pos += int(n)
	return b
}

func (c *cursor) u8() uint8 {
	if b := c.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if b := c.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (c *cursor) guid() (g guid) {
	copy(g[:], c.bytes(16))
	return g
}

// rest is all that is left.
func (c *cursor) rest() []byte { return c.bytes(uint64(c.left())) }

var (
	specID03 = []byte("Spec ID Event03\x00")
	locality = []byte("StartupLocality\x00")
)

func (l *Log) parseTCG(data []byte) error {
	l.Format, l.Banks = TCG1, []Bank{SHA1}
	sizes := map[Bank]int{}
	c := &cursor{data: data}
	for c.left() > 0 {
		if blank(data[c.pos:]) {
			l.Padding = c.left()
			break
		}
		if len(l.Events) == maxEvents {
			return fmt.Errorf("offset %d: more than %d events", c.pos, maxEvents)
		}
		e, err := readEvent(c, l.Format == TCG2, sizes)
		if err != nil {
			return fmt.Errorf("event %d at offset %d: %w", len(l.Events), e.Offset, err)
		}
		if e.Type == NoAction && bytes.HasPrefix(e.Data, specID03) {
			if len(l.Events) > 0 {
				err = fmt.Errorf("a second header")
			} else {
				l.Format = TCG2
				l.Banks, err = readHeader(e, sizes)
			}
			e.Digests = nil
		}
		if err != nil {
			return fmt.Errorf("event %d at offset %d: %w", len(l.Events), e.Offset, err)
		}
		l.Events = append(l.Events, e)
	}
	return nil
}

// readLocality finds what PCR 0 begins with, in whatever encoding the log is.
func (l *Log) readLocality() error {
	startup, measured := -1, false
	for i, e := range l.Events {
		measured = measured || e.Type == EFIHCRTMEvent && e.PCR == 0
		if e.Type != NoAction || !bytes.HasPrefix(e.Data, locality) {
			continue
		}
		switch rest := e.Data[len(locality):]; {
		case len(rest) != 1 || e.PCR != 0:
			return fmt.Errorf("event %d at offset %d: startup locality with %d bytes, PCR %d", i, e.Offset, len(e.Data), e.PCR)
		case startup >= 0 && startup != int(rest[0]):
			return fmt.Errorf("event %d at offset %d: two different startup localities", i, e.Offset)
		default:
			startup = int(rest[0])
		}
	}
	if startup < 0 && measured {
		startup = 4 // TPM 2.0 part 1, 34.3: an H-CRTM leaves PCR 0 as from locality 4
	}
	l.locality = max(startup, 0)
	return nil
}

// blank says whether what follows the log is the unused rest of the memory it
// was kept in. Fewer bytes than a PCR and a type could be a cut event.
func blank(rest []byte) bool {
	if len(rest) < 8 || rest[0] != 0 && rest[0] != 0xff {
		return false
	}
	for _, b := range rest {
		if b != rest[0] {
			return false
		}
	}
	return true
}

// readEvent reads a TCG_PCR_EVENT2, or a TCG_PCR_EVENT when not agile.
func readEvent(c *cursor, agile bool, sizes map[Bank]int) (Event, error) {
	e := Event{Offset: c.pos}
	pcr := c.u32()
	e.Type = Type(c.u32())
	e.PCR = int(pcr)
	switch {
	case c.short:
		return e, fmt.Errorf("cut in its header")
	case pcr > maxPCR && e.Type == NoAction: // Windows marks with PCR 0xffffffff
		e.PCR = NoPCR
	case pcr > maxPCR:
		return e, fmt.Errorf("PCR %d, the highest is %d", pcr, maxPCR)
	}
	if !agile {
		e.Digests = []Digest{{SHA1, c.bytes(sha1.Size)}}
	} else {
		count := c.u32()
		if !c.short && (count > uint32(len(sizes)) || count == 0 && e.Type != NoAction) {
			return e, fmt.Errorf("%d digests, the header has %d banks", count, len(sizes))
		}
		for range count {
			bank := Bank(c.u16())
			size, known := sizes[bank]
			switch {
			case c.short:
				return e, fmt.Errorf("cut in its digests")
			case !known:
				return e, fmt.Errorf("a digest in bank %v, which the header does not have", bank)
			case e.Digest(bank) != nil:
				return e, fmt.Errorf("two digests in bank %v", bank)
			}
			e.Digests = append(e.Digests, Digest{bank, c.bytes(uint64(size))})
		}
	}
	size := c.u32()
	switch {
	case c.short:
		return e, fmt.Errorf("cut in its digests")
	case size > maxData:
		return e, fmt.Errorf("data of %d bytes, the limit is %d", size, maxData)
	}
	e.Data = c.bytes(uint64(size))
	if c.short {
		return e, fmt.Errorf("cut: data of %d bytes, %d are left", size, c.left())
	}
	return e, nil
}

// readHeader reads TCG_EfiSpecIDEvent (10.4.5.1) and fills in the banks' sizes.
func readHeader(e Event, sizes map[Bank]int) ([]Bank, error) {
	// Its PCR should be 0, and TDX's log of measurement registers has 1; its digest
	// should be zero, and POWER's firmware leaves another. Neither is extended.
	c := &cursor{data: e.Data[len(specID03):]}
	c.u32() // platform class
	c.u32() // version minor and major, errata, size of UINTN
	n := c.u32()
	if n == 0 || n > maxBanks {
		return nil, fmt.Errorf("header with %d banks, want 1 to %d", n, maxBanks)
	}
	var list []Bank
	for range n {
		bank, size := Bank(c.u16()), int(c.u16())
		if c.short {
			break
		}
		if _, twice := sizes[bank]; twice {
			return nil, fmt.Errorf("header with bank %v twice", bank)
		}
		if i := bank.index(); i >= 0 && banks[i].size != size || size == 0 || size > 64 {
			return nil, fmt.Errorf("header with %d bytes for bank %v", size, bank)
		}
		sizes[bank] = size
		list = append(list, bank)
	}
	c.bytes(uint64(c.u8())) // vendor information
	if c.short || c.left() != 0 {
		return nil, fmt.Errorf("header of %d bytes does not fit %d banks", len(e.Data), n)
	}
	return list, nil
}
