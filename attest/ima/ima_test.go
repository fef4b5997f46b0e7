package ima_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	. "github.com/miotfacts/miotfacts/attest/ima"
)

// A boot is a recorded one.
type boot struct {
	name string
	data []byte
	pcrs map[int][]byte
}

func recorded(t testing.TB) []boot {
	t.Helper()
	files, err := filepath.Glob("../../testdata/boot/*/ima.bin")
	if err != nil || len(files) < 6 {
		t.Fatalf("found %d recorded boots, %v", len(files), err)
	}
	var list []boot
	for _, file := range files {
		dir := filepath.Dir(file)
		b := boot{filepath.Base(dir), readFile(t, file), map[int][]byte{}}
		for line := range strings.Lines(string(readFile(t, filepath.Join(dir, "pcrs.txt")))) {
			number, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			pcr, err1 := strconv.Atoi(number)
			digest, err2 := hex.DecodeString(value)
			if err1 != nil || err2 != nil {
				t.Fatalf("%s: %q", dir, line)
			}
			b.pcrs[pcr] = digest
		}
		list = append(list, b)
	}
	return list
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parsed(t testing.TB, data []byte) *List {
	t.Helper()
	list, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Real machines: PCR 10 as the TPM had it proves all entries but those that came
// later, and the first of them is over the other PCRs.
func TestRecordedBoots(t *testing.T) {
	proved := map[string]int{"edk2": 17, "secboot": 17, "uboot": 17, "uki-edk2": 17, "uki-uboot": 17, "systemd": 0}
	for _, b := range recorded(t) {
		list := parsed(t, b.data)
		p, err := list.Prefix(State{}, SHA256, b.pcrs[10])
		if err != nil {
			t.Errorf("%s: %v", b.name, err)
			continue
		}
		if want := proved[b.name]; p.Extend != Hashed || want > 0 && p.Entries != want || p.Entries < 17 || p.Entries >= len(list.Entries) {
			t.Errorf("%s: %d of %d entries proved, %v", b.name, p.Entries, len(list.Entries), p.Extend)
		}
		f, ok := list.BootAggregate()
		want, err := Aggregate(SHA256, b.pcrs)
		if !ok || err != nil || f.Hash != "sha256" || !bytes.Equal(f.Digest, want) {
			t.Errorf("%s: boot_aggregate %s:%x, want %x, %v", b.name, f.Hash, f.Digest, want, err)
		}
		if n := list.Violations(); n != 0 {
			t.Errorf("%s: %d violations", b.name, n)
		}
		// In two parts, with the state on the disk between them.
		half := p.Entries / 2
		first, second := &List{Bank: SHA1, Entries: list.Entries[:half]}, &List{Bank: SHA1, Entries: list.Entries[half:]}
		kept, err := first.Replay(State{}).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var state State
		if err := state.UnmarshalBinary(kept); err != nil {
			t.Fatal(err)
		}
		q, err := second.Prefix(state, SHA256, b.pcrs[10])
		if err != nil || q.Entries != p.Entries-half || q.State.Entries != p.Entries {
			t.Errorf("%s: in two parts %d entries proved, %v", b.name, q.Entries, err)
		}
		if state.Entries != half {
			t.Errorf("%s: a replay changed the state it began with", b.name)
		}
	}
}

func sum(b Bank, parts ...[]byte) []byte {
	data := slices.Concat(parts...)
	switch b {
	case SHA1:
		d := sha1.Sum(data)
		return d[:]
	case SHA256:
		d := sha256.Sum256(data)
		return d[:]
	case SHA384:
		d := sha512.Sum384(data)
		return d[:]
	}
	d := sha512.Sum512(data)
	return d[:]
}

func u32(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }

func fields(list ...string) []byte {
	var data []byte
	for _, f := range list {
		data = slices.Concat(data, u32(len(f)), []byte(f))
	}
	return data
}

// entry is one in binary form, its digest of bank b over its data.
func entry(b Bank, template string, data []byte) []byte {
	return withDigest(sum(b, data), template, data)
}

func withDigest(digest []byte, template string, data []byte) []byte {
	return slices.Concat(u32(10), digest, u32(len(template)), []byte(template), u32(len(data)), data)
}

// old is an entry of template ima: digest and name without lengths of fields,
// hashed with the name filled up to 256 bytes.
func old(digest []byte, name string) []byte {
	padded := make([]byte, 256)
	copy(padded, name)
	return slices.Concat(u32(10), sum(SHA1, digest, padded), u32(3), []byte("ima"), digest, u32(len(name)), []byte(name))
}

var (
	fileDigest = sum(SHA256, []byte("content"))
	dNG        = "sha256:\x00" + string(fileDigest)
)

// Each template that Linux has, in both forms.
func TestTemplates(t *testing.T) {
	file := hex.EncodeToString(fileDigest)
	for name, c := range map[string]struct {
		template string
		data     []byte
		text     string // fields of the text form; empty: it has none
		names    string
		hash     string
	}{
		"ima-ng":        {"ima-ng", fields(dNG, "/bin/a\x00"), "sha256:" + file + " /bin/a", "d-ng n-ng", "sha256"},
		"ima-ngv2":      {"ima-ngv2", fields("verity:"+dNG, "/bin/a\x00"), "verity:sha256:" + file + " /bin/a", "d-ngv2 n-ng", "verity:sha256"},
		"ima-sig":       {"ima-sig", fields(dNG, "/bin/a\x00", "\x03\x02"), "sha256:" + file + " /bin/a 0302", "d-ng n-ng sig", "sha256"},
		"ima-sig, none": {"ima-sig", fields(dNG, "/bin/a\x00", ""), "sha256:" + file + " /bin/a ", "d-ng n-ng sig", "sha256"},
		"ima-sigv2":     {"ima-sigv2", fields("ima:"+dNG, "/bin/a\x00", "\x03"), "ima:sha256:" + file + " /bin/a 03", "d-ngv2 n-ng sig", "ima:sha256"},
		"ima-buf":       {"ima-buf", fields(dNG, "kexec-cmdline\x00", "quiet"), "sha256:" + file + " kexec-cmdline 7175696574", "d-ng n-ng buf", "sha256"},
		"ima-modsig":    {"ima-modsig", fields(dNG, "/m.ko\x00", "", dNG, "\x30"), "sha256:" + file + " /m.ko  sha256:" + file + " 30", "d-ng n-ng sig d-modsig modsig", "sha256"},
		"evm-sig":       {"evm-sig", fields(dNG, "/bin/a\x00", "s", "x", "1", "v", "u", "g", "m"), "", "d-ng n-ng evmsig xattrnames xattrlengths xattrvalues iuid igid imode", "sha256"},
		"device mapper": {"ima-buf", fields(dNG, "dm_table_load\x00", "dm_version=4.45.0;name=v"), "sha256:" + file + " dm_table_load " + hex.EncodeToString([]byte("dm_version=4.45.0;name=v")), "d-ng n-ng buf", "sha256"},
		"field list":    {"d-ng|n-ng", fields(dNG, "/bin/a\x00"), "sha256:" + file + " /bin/a", "d-ng n-ng", "sha256"},
		"unknown":       {"vendor-x", fields("a", "b"), "", " ", ""},
		"unknown, raw":  {"vendor-y", []byte("raw"), "", "", ""},
	} {
		for _, b := range Banks() {
			list := parsed(t, entry(b, c.template, c.data))
			if list.Bank != b || len(list.Entries) != 1 {
				t.Errorf("%s: bank %v, want %v", name, list.Bank, b)
				continue
			}
			e := list.Entries[0]
			var names []string
			got, err := e.Fields()
			for _, f := range got {
				names = append(names, f.Name)
			}
			if name != "unknown, raw" && (err != nil || strings.Join(names, " ") != c.names) || name == "unknown, raw" && err == nil {
				t.Errorf("%s: fields %q, %v", name, names, err)
			}
			f, err := e.File()
			if c.hash == "" && err == nil || c.hash != "" && (err != nil || f.Hash != c.hash || !bytes.Equal(f.Digest, fileDigest)) {
				t.Errorf("%s: file %+v, %v", name, f, err)
			}
			state := list.Replay(State{})
			for _, bank := range Banks() {
				zero := make([]byte, bank.Size())
				if got, want := state.PCR(PCR, bank, Hashed), sum(bank, zero, sum(bank, c.data)); !bytes.Equal(got, want) {
					t.Errorf("%s: PCR 10 of %v is %x, want %x", name, bank, got, want)
				}
				short := append(sum(SHA1, c.data), make([]byte, bank.Size()-20)...)
				if got, want := state.PCR(PCR, bank, Padded), sum(bank, zero, short); !bytes.Equal(got, want) {
					t.Errorf("%s: PCR 10 of %v, padded, is %x, want %x", name, bank, got, want)
				}
			}
			if c.text == "" {
				continue
			}
			line := fmt.Sprintf("10 %x %s %s\n", sum(b, c.data), c.template, c.text)
			again := parsed(t, []byte(line))
			if again.Bank != b || !bytes.Equal(again.Entries[0].Data, c.data) {
				t.Errorf("%s: text form gives %x, want %x", name, again.Entries[0].Data, c.data)
			}
		}
	}
}

func TestTemplateIMA(t *testing.T) {
	digest := sum(SHA1, []byte("content"))
	list := parsed(t, slices.Concat(old(make([]byte, 20), "boot_aggregate"), old(digest, "/bin/a")))
	f, err := list.Entries[1].File()
	if err != nil || f.Name != "/bin/a" || f.Hash != "sha1" || !bytes.Equal(f.Digest, digest) {
		t.Errorf("%+v, %v", f, err)
	}
	hashed := func(d []byte, name string) []byte {
		padded := make([]byte, 256)
		copy(padded, name)
		return append(slices.Clone(d), padded...)
	}
	state := list.Replay(State{})
	for _, b := range Banks() {
		want := sum(b, sum(b, make([]byte, b.Size()), sum(b, hashed(make([]byte, 20), "boot_aggregate"))), sum(b, hashed(digest, "/bin/a")))
		if got := state.PCR(PCR, b, Hashed); !bytes.Equal(got, want) {
			t.Errorf("PCR 10 of %v is %x, want %x", b, got, want)
		}
	}
	padded := make([]byte, 256)
	copy(padded, "/bin/a")
	text := parsed(t, fmt.Appendf(nil, "10 %x ima %x /bin/a\n", sum(SHA1, digest, padded), digest))
	if got := text.Replay(State{}).PCR(PCR, SHA1, Hashed); !bytes.Equal(got, sum(SHA1, make([]byte, 20), sum(SHA1, digest, padded))) {
		t.Errorf("text form: PCR 10 is %x", got)
	}
}

// A violation extends ones, is counted, and is never the file it names.
func TestViolations(t *testing.T) {
	clean := entry(SHA1, "ima-ng", fields(dNG, "/bin/a\x00"))
	violation := withDigest(make([]byte, 20), "ima-ng", fields("sha256:\x00"+string(make([]byte, 32)), "/bin/b\x00"))
	list := parsed(t, slices.Concat(clean, violation))
	state := list.Replay(State{})
	if list.Violations() != 1 || !list.Entries[1].Violation || list.Entries[0].Violation || state.Violations != 1 || state.Entries != 2 {
		t.Errorf("%d violations, state %d of %d", list.Violations(), state.Violations, state.Entries)
	}
	for _, b := range Banks() {
		ones := bytes.Repeat([]byte{0xff}, b.Size())
		for _, x := range []Extend{Hashed, Padded} {
			first := parsed(t, clean).Replay(State{}).PCR(PCR, b, x)
			if got, want := state.PCR(PCR, b, x), sum(b, first, ones); !bytes.Equal(got, want) {
				t.Errorf("%v, %v: PCR 10 is %x, want %x", b, x, got, want)
			}
		}
	}
	p, err := list.Prefix(State{}, SHA256, state.PCR(PCR, SHA256, Hashed))
	if err != nil || p.Entries != 2 || p.State.Violations != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	if _, ok := parsed(t, violation).BootAggregate(); ok {
		t.Error("a violation for boot_aggregate")
	}
}

func TestPrefix(t *testing.T) {
	list := parsed(t, slices.Concat(entry(SHA1, "ima-ng", fields(dNG, "a\x00")), entry(SHA1, "ima-ng", fields(dNG, "b\x00"))))
	one := (&List{Bank: SHA1, Entries: list.Entries[:1]}).Replay(State{})
	for name, c := range map[string]struct {
		bank    Bank
		value   []byte
		entries int
		extend  Extend
		err     string
	}{
		"nothing extended": {SHA256, make([]byte, 32), 0, Hashed, ""},
		"one":              {SHA256, one.PCR(PCR, SHA256, Hashed), 1, Hashed, ""},
		"one, padded":      {SHA256, one.PCR(PCR, SHA256, Padded), 1, Padded, ""},
		"SHA-1":            {SHA1, one.PCR(PCR, SHA1, Hashed), 1, Hashed, ""},
		"all":              {SHA512, list.Replay(State{}).PCR(PCR, SHA512, Hashed), 2, Hashed, ""},
		"another value":    {SHA256, fileDigest, 0, 0, "none of 2 entries leads to"},
		"another bank":     {SHA256, one.PCR(PCR, SHA1, Hashed), 0, 0, "20 bytes are no value of bank sha256"},
		"no bank":          {0x12, fileDigest, 0, 0, "no value of bank 0x0012"},
	} {
		p, err := list.Prefix(State{}, c.bank, c.value)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil || p.Entries != c.entries || p.Extend != c.extend || p.State.Entries != c.entries {
			t.Errorf("%s: %d entries, %v, %v", name, p.Entries, p.Extend, err)
		}
	}
}

func TestRefused(t *testing.T) {
	good := entry(SHA1, "ima-ng", fields(dNG, "/bin/a\x00"))
	edit := func(offset int, b ...byte) []byte {
		out := slices.Clone(good)
		copy(out[offset:], b)
		return out
	}
	line := fmt.Sprintf("10 %x ima-ng sha256:%x /bin/a\n", sum(SHA1, fields(dNG, "/bin/a\x00")), fileDigest)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":             {nil, "empty"},
		"too large":         {make([]byte, MaxSize+1), "more than"},
		"zeros":             {make([]byte, 200), "no template's name"},
		"text":              {[]byte("some text about lists, and more of it than a header has"), "no template's name"},
		"cut":               {good[:len(good)-1], "entry 0 at offset 0: cut"},
		"second cut":        {append(slices.Clone(good), good[:30]...), fmt.Sprintf("entry 1 at offset %d: cut", len(good))},
		"cut in header":     {append(slices.Clone(good), 10, 0), "cut in its header"},
		"PCR":               {edit(0, 99), "PCR 99, the highest is 31"},
		"digest":            {edit(4, ^good[4]), "do not hash to"},
		"name":              {append(slices.Clone(good), edit(28, '!')...), `template name "!ma-ng"`},
		"no name":           {append(slices.Clone(good), edit(24, 0)...), "template name of 0 bytes"},
		"long name":         {append(slices.Clone(good), edit(24, 0, 1)...), "template name of 256 bytes"},
		"huge data":         {append(slices.Clone(good), edit(34, 0, 0, 0, 0x7f)...), "the limit is 1048576"},
		"field cut":         {entry(SHA1, "ima-ng", append(fields(dNG), 1)), "field 1 of template \"ima-ng\" is cut"},
		"field missing":     {entry(SHA1, "ima-sig", fields(dNG, "/bin/a\x00")), "2 fields, want 3"},
		"long path":         {old(make([]byte, 20), strings.Repeat("x", 256)), "path of 256 bytes"},
		"line cut":          {[]byte(line[:len(line)-1]), "not a whole line"},
		"line, PCR":         {[]byte("99" + line[2:]), "PCR 99"},
		"line, digest":      {[]byte("10 00" + line[5:]), "do not hash to"},
		"line, odd digest":  {[]byte("10 0" + line[3:]), "template digest"},
		"line, fields":      {[]byte(strings.Replace(line, " /bin/a", " /bin/a 00", 1)), "3 fields, want 2"},
		"line, hexadecimal": {[]byte(strings.Replace(line, "sha256:", "sha256:x", 1)), "is no digest"},
		"line, other bank":  {fmt.Appendf(nil, "%s10 %x ima-ng sha256:%x /bin/a\n", line, sum(SHA256, fields(dNG, "/bin/a\x00")), fileDigest), "bank sha256 after bank sha1"},
		"line, no text":     {fmt.Appendf(nil, "10 %x evm-sig sha256:00 a 00 x 1 v u g m\n", fileDigest[:20]), "take the binary list"},
	} {
		if list, err := Parse(c.data); err == nil || list != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if p := ParsePartial(append(slices.Clone(good), 1)); len(p.Entries) != 1 || p.Fault == nil {
		t.Errorf("%d entries, %v", len(p.Entries), p.Fault)
	}
}

// Each change of a real list is refused or leads elsewhere, except in the names
// of templates, which no digest covers. A list that is cut proves no more than
// before.
func TestEachByteAndEachLength(t *testing.T) {
	for _, b := range recorded(t) {
		if b.name != "edk2" {
			continue
		}
		p, err := parsed(t, b.data).Prefix(State{}, SHA256, b.pcrs[10])
		if err != nil {
			t.Fatal(err)
		}
		good := fmt.Sprintf("%x", parsed(t, b.data).Replay(State{}).PCR(PCR, SHA256, Hashed))
		uncovered := map[int]bool{}
		offset := 0
		for _, e := range parsed(t, b.data).Entries {
			for i := range e.Template {
				uncovered[offset+28+i] = true
			}
			offset += 28 + len(e.Template) + 4 + len(e.Data)
		}
		unnoticed := 0
		for i := range b.data {
			for _, flip := range []byte{0x01, 0x80, 0xff} {
				changed := slices.Clone(b.data)
				changed[i] ^= flip
				list, err := Parse(changed)
				if err != nil || fmt.Sprintf("%x", list.Replay(State{}).PCR(PCR, SHA256, Hashed)) != good {
					continue
				}
				unnoticed++
				if !uncovered[i] {
					t.Errorf("byte %d flipped by %#02x: not noticed", i, flip)
				}
				files := 0
				for j := range list.Entries {
					if _, err := list.Entries[j].File(); err == nil {
						files++
					}
				}
				if files == len(list.Entries) {
					t.Errorf("byte %d flipped by %#02x: an entry is read as another template", i, flip)
				}
			}
		}
		if unnoticed == 0 {
			t.Error("names of templates are covered now: change the package's comment")
		}
		for n := range b.data {
			list, err := Parse(b.data[:n])
			if err != nil {
				continue
			}
			if q, err := list.Prefix(State{}, SHA256, b.pcrs[10]); (err == nil) != (len(list.Entries) >= p.Entries) || err == nil && q.Entries != p.Entries {
				t.Errorf("cut to %d bytes: %d entries proved, %v", n, q.Entries, err)
			}
		}
	}
}

func TestBootAggregate(t *testing.T) {
	zero := parsed(t, entry(SHA1, "ima-ng", fields("sha256:\x00"+string(make([]byte, 32)), "boot_aggregate\x00")))
	if f, ok := zero.BootAggregate(); !ok || !bytes.Equal(f.Digest, make([]byte, 32)) {
		t.Errorf("%+v, %v", f, ok)
	}
	if _, ok := parsed(t, entry(SHA1, "ima-ng", fields(dNG, "/bin/a\x00"))).BootAggregate(); ok {
		t.Error("a file for boot_aggregate")
	}
	pcrs := map[int][]byte{}
	for i := range 10 {
		pcrs[i] = sum(SHA1, []byte{byte(i)})
	}
	var eight []byte
	for i := range 8 {
		eight = append(eight, pcrs[i]...)
	}
	if got, err := Aggregate(SHA1, pcrs); err != nil || !bytes.Equal(got, sum(SHA1, eight)) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := Aggregate(SHA256, pcrs); err == nil {
		t.Error("SHA-1 values for bank sha256")
	}
	delete(pcrs, 3)
	if _, err := Aggregate(SHA1, pcrs); err == nil || !strings.Contains(err.Error(), "for PCR 3") {
		t.Error(err)
	}
}

func TestStateRefused(t *testing.T) {
	good, err := parsed(t, entry(SHA1, "ima-ng", fields(dNG, "a\x00"))).Replay(State{}).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for n := range good {
		var s State
		// A cut between two values cannot be told from fewer values; whoever
		// keeps a state keeps its checksum.
		if err := s.UnmarshalBinary(good[:n]); err == nil {
			if again, err := s.MarshalBinary(); err != nil || !bytes.Equal(again, good[:n]) {
				t.Errorf("cut to %d bytes: read as %x", n, again)
			}
		}
	}
	for name, data := range map[string][]byte{
		"value twice":     append(slices.Clone(good), good[16:16+23]...),
		"bank":            append(slices.Clone(good), 10, 99, 0),
		"more violations": append([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2}, good[16:]...),
	} {
		var s State
		if err := s.UnmarshalBinary(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	head := func(data []byte) []byte { // a whole list makes the fuzzer try once a second
		n := 0
		for _, e := range parsed(f, data).Entries[:10] {
			n += e.Size
		}
		return data[:n]
	}
	for _, b := range recorded(f) {
		f.Add(head(b.data))
	}
	f.Add(old(make([]byte, 20), "boot_aggregate"))
	f.Add(entry(SHA256, "ima-sig", fields(dNG, "/bin/a\x00", "")))
	f.Add(withDigest(make([]byte, 20), "ima-ng", fields(dNG, "/bin/b\x00")))
	f.Add(fmt.Appendf(nil, "10 %x ima-ng sha256:%x /bin/a\n", sum(SHA1, fields(dNG, "/bin/a\x00")), fileDigest))
	f.Add(bigEndian(f, head(recorded(f)[0].data)))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Parse(data)
		p := ParsePartial(data)
		if (err == nil) != (p.Fault == nil) || err == nil && len(p.Entries) != len(list.Entries) {
			t.Fatalf("Parse: %v, ParsePartial: %v", err, p.Fault)
		}
		if err != nil {
			return
		}
		if len(list.Entries) == 0 || !Detect(data) {
			t.Fatalf("%d entries, detected %v", len(list.Entries), Detect(data))
		}
		for i := range list.Entries {
			_, _ = list.Entries[i].File()
		}
		list.BootAggregate()
		state := list.Replay(State{})
		if state.Entries != len(list.Entries) || state.Violations != list.Violations() {
			t.Fatalf("state of %d entries", state.Entries)
		}
		prefix, err := list.Prefix(State{}, SHA256, state.PCR(PCR, SHA256, Hashed))
		if err != nil || !bytes.Equal(prefix.State.PCR(PCR, SHA256, Hashed), state.PCR(PCR, SHA256, Hashed)) {
			t.Fatalf("a list does not lead to its own replay: %v", err)
		}
	})
}

func BenchmarkReplay(b *testing.B) {
	var entries []Entry
	for _, r := range recorded(b) {
		if r.name == "systemd" {
			entries = parsed(b, r.data).Entries
		}
	}
	list := &List{Bank: SHA1, Entries: entries}
	for b.Loop() {
		list.Replay(State{})
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(entries)), "ns/entry")
}
