package eventlog_test

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	. "github.com/miotfacts/miotfacts/attest/eventlog"
)

const boots = "../../testdata/boot"

// A boot is a recorded one.
type boot struct {
	name    string
	data    []byte
	pcrs    map[int][]byte
	cmdline string
}

func recorded(t testing.TB) []boot {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(boots, "*", "bios.bin"))
	if err != nil || len(files) < 6 {
		t.Fatalf("found %d recorded boots, %v", len(files), err)
	}
	var list []boot
	for _, file := range files {
		dir := filepath.Dir(file)
		b := boot{name: filepath.Base(dir), data: readFile(t, file), pcrs: map[int][]byte{}}
		b.cmdline = strings.TrimSpace(string(readFile(t, filepath.Join(dir, "cmdline.txt"))))
		for line := range strings.Lines(string(readFile(t, filepath.Join(dir, "pcrs.txt")))) {
			number, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			pcr, err1 := strconv.Atoi(number)
			digest, err2 := hex.DecodeString(value)
			if err1 != nil || err2 != nil {
				t.Fatalf("%s: %q", dir, line)
			}
			if pcr != 10 { // IMA's
				b.pcrs[pcr] = digest
			}
		}
		list = append(list, b)
	}
	return list
}

func byName(t testing.TB, name string) boot {
	t.Helper()
	for _, b := range recorded(t) {
		if b.name == name {
			return b
		}
	}
	t.Fatalf("no recorded boot %s", name)
	return boot{}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func parsed(t testing.TB, data []byte) *Log {
	t.Helper()
	log, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// Real machines: the log leads to what their TPMs had.
func TestRecordedBootsReplay(t *testing.T) {
	for _, b := range recorded(t) {
		log := parsed(t, b.data)
		replay := log.Replay()[SHA256]
		for _, pcr := range []int{0, 1, 2, 3, 4, 5, 6, 7, 9} {
			if !bytes.Equal(replay[pcr], b.pcrs[pcr]) {
				t.Errorf("%s: PCR %d replays to %x, the TPM had %x", b.name, pcr, replay[pcr], b.pcrs[pcr])
			}
		}
		v, err := log.Verify(SHA256, b.pcrs)
		if err != nil {
			t.Fatal(err)
		}
		if !v.Complete() || len(v.Explained()) != len(b.pcrs) {
			t.Errorf("%s: explained %v, not %v", b.name, v.Explained(), v.Unexplained())
		}
		for _, e := range v.Events() {
			if e.Proof == Contradicted || e.Proof == NotExtended {
				t.Errorf("%s: %v in PCR %d is %v", b.name, e.Type, e.PCR, e.Proof)
			}
		}
		if want := "PCR 9: kernel command line: " + b.cmdline; !slices.ContainsFunc(v.Explain(b.cmdline), func(l Line) bool { return l.String() == want }) {
			t.Errorf("%s: no line %q", b.name, want)
		}
	}
}

// An independent implementation computes the same. tpm2-tools 5.4 knows no
// startup locality and extends EV_NO_ACTION, so the built log has neither.
func TestAgreesWithTPM2Tools(t *testing.T) {
	if _, err := exec.LookPath("tpm2_eventlog"); err != nil {
		t.Fatalf("%v (Debian package tpm2-tools)", err)
	}
	logs := map[string][]byte{
		"four banks": agile(all,
			event{0, SCRTMVersion, []byte("v1\x00")}, event{7, Separator, make([]byte, 4)},
			event{4, EFIAction, []byte("Calling EFI Application from Boot Option")}, event{14, IPL, []byte("MokList\x00")}, event{8, IPL, []byte("grub_cmd: ls\x00")}),
		"SM3":   agile([]Bank{SHA256, SM3}, event{0, SCRTMVersion, []byte("v1\x00")}, event{0, PostCode, []byte("code")}, event{14, IPL, []byte("MokList\x00")}),
		"SHA-1": legacy(event{0, SCRTMVersion, []byte("v1\x00")}, event{5, EFIAction, []byte("Exit Boot Services Invocation")}, event{0, Separator, make([]byte, 4)}),
	}
	for _, b := range recorded(t) {
		logs[b.name] = b.data
	}
	for name, data := range logs {
		file := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("tpm2_eventlog", file).Output()
		if err != nil {
			t.Fatalf("%s: tpm2_eventlog: %v", name, err)
		}
		want := toolPCRs(t, out)
		got := map[string]map[int]string{}
		for bank, pcrs := range parsed(t, data).Replay() {
			got[bank.String()] = map[int]string{}
			for pcr, value := range pcrs {
				got[bank.String()][pcr] = hex.EncodeToString(value)
			}
		}
		if len(want) == 0 || !maps.EqualFunc(got, want, maps.Equal) {
			t.Errorf("%s: replay\n%v, tpm2_eventlog\n%v", name, got, want)
		}
	}
}

// toolPCRs reads the end of tpm2_eventlog's output.
func toolPCRs(t *testing.T, out []byte) map[string]map[int]string {
	t.Helper()
	all := map[string]map[int]string{}
	bank, inside := "", false
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		line := s.Text()
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case line == "pcrs:":
			inside = true
		case inside && value == "":
			bank = name
			all[bank] = map[int]string{}
		case inside:
			pcr, err := strconv.Atoi(strings.TrimSpace(name))
			if err != nil {
				t.Fatalf("tpm2_eventlog: line %q", line)
			}
			all[bank][pcr] = strings.TrimPrefix(strings.TrimSpace(value), "0x")
		}
	}
	return all
}

// An event of a built log; its digests are over its data.
type event struct {
	pcr  uint32
	kind Type
	data []byte
}

var all = []Bank{SHA1, SHA256, SHA384, SHA512}

func sum(b Bank, data []byte) []byte {
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
	case SHA512:
		d := sha512.Sum512(data)
		return d[:]
	case SM3: // stands for it: any 32 bytes are a digest
		d := sha256.Sum256(data)
		return d[:]
	}
	panic(fmt.Sprintf("no hash for %v", b))
}

func u16(n int) []byte               { return binary.LittleEndian.AppendUint16(nil, uint16(n)) }
func u32[N int | uint32](n N) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }
func u64(n int) []byte               { return binary.LittleEndian.AppendUint64(nil, uint64(n)) }

func wide(text string) []byte {
	var b []byte
	for _, r := range text {
		b = append(b, u16(int(r))...)
	}
	return b
}

// header is a Spec ID Event03 for banks.
func header(banks []Bank) []byte {
	data := slices.Concat([]byte("Spec ID Event03\x00"), u32(0), []byte{0, 2, 0, 2}, u32(len(banks)))
	for _, b := range banks {
		data = slices.Concat(data, u16(int(b)), u16(len(sum(b, nil))))
	}
	data = append(data, 0)
	return slices.Concat(u32(0), u32(int(NoAction)), make([]byte, 20), u32(len(data)), data)
}

func agile(banks []Bank, events ...event) []byte {
	log := header(banks)
	for _, e := range events {
		log = append(log, record(banks, e, e.data)...)
	}
	return log
}

// record is a TCG_PCR_EVENT2 with digests over hashed.
func record(banks []Bank, e event, hashed []byte) []byte {
	out := slices.Concat(u32(int(e.pcr)), u32(int(e.kind)), u32(len(banks)))
	for _, b := range banks {
		digest := sum(b, hashed)
		if e.kind == NoAction {
			clear(digest)
		}
		out = slices.Concat(out, u16(int(b)), digest)
	}
	return slices.Concat(out, u32(len(e.data)), e.data)
}

func legacy(events ...event) []byte {
	var log []byte
	for _, e := range events {
		log = slices.Concat(log, u32(int(e.pcr)), u32(int(e.kind)), sum(SHA1, e.data), u32(len(e.data)), e.data)
	}
	return log
}

// extended is the value of a PCR that begins with first and takes digests of data.
func extended(first byte, data ...string) []byte {
	value := make([]byte, 32)
	value[31] = first
	for _, d := range data {
		value = sum(SHA256, append(value, sum(SHA256, []byte(d))...))
	}
	return value
}

func TestReplayRules(t *testing.T) {
	sha := []Bank{SHA256}
	locality := func(n byte) event { return event{0, NoAction, append([]byte("StartupLocality\x00"), n)} }
	version := event{0, SCRTMVersion, []byte("v")}
	for name, c := range map[string]struct {
		log   []byte
		value []byte // of PCR 0
	}{
		"plain":              {agile(sha, version), extended(0, "v")},
		"locality 3":         {agile(sha, locality(3), version), extended(3, "v")},
		"late locality":      {agile(sha, version, locality(3)), extended(3, "v")},
		"H-CRTM":             {agile(sha, event{0, EFIHCRTMEvent, []byte("HCRTM")}, version), extended(4, "HCRTM", "v")},
		"H-CRTM, locality 4": {agile(sha, locality(4), event{0, EFIHCRTMEvent, []byte("HCRTM")}), extended(4, "HCRTM")},
		"no action":          {agile(sha, event{0, NoAction, []byte("x")}, version, event{0xffffffff, NoAction, []byte("WBCL")}), extended(0, "v")},
		"unknown type":       {agile(sha, version, event{0, 0x12345678, []byte("?")}), extended(0, "v", "?")},
		"padding":            {append(agile(sha, version), make([]byte, 100)...), extended(0, "v")},
		"padding of ones":    {append(agile(sha, version), bytes.Repeat([]byte{0xff}, 100)...), extended(0, "v")},
	} {
		if got := parsed(t, c.log).Replay()[SHA256][0]; !bytes.Equal(got, c.value) {
			t.Errorf("%s: PCR 0 is %x, want %x", name, got, c.value)
		}
	}
	// SHA-1 begins in the same way.
	log := parsed(t, legacy(event{2, EFIAction, []byte("x")}))
	first := make([]byte, 20)
	if got, want := log.Replay()[SHA1][2], sum(SHA1, append(first, sum(SHA1, []byte("x"))...)); log.Format != TCG1 || !bytes.Equal(got, want) {
		t.Errorf("%s: PCR 2 is %x, want %x", log.Format, got, want)
	}
}

func TestRefused(t *testing.T) {
	sha := []Bank{SHA256}
	version := event{0, SCRTMVersion, []byte("v")}
	good := agile(sha, version)
	edit := func(offset int, b ...byte) []byte {
		out := slices.Clone(good)
		copy(out[offset:], b)
		return out
	}
	first := len(header(sha)) // offset of the first event
	locality := func(n ...byte) event { return event{0, NoAction, append([]byte("StartupLocality\x00"), n...)} }
	for name, c := range map[string]struct {
		log  []byte
		want string
	}{
		"empty":                {nil, "empty"},
		"zeros":                {make([]byte, 100), "nothing is measured"},
		"header alone":         {header(sha), "nothing is measured"},
		"too large":            {make([]byte, MaxSize+1), "more than 16777216 bytes"},
		"text":                 {[]byte("not a log, but some text about logs"), "event 0 at offset 0: PCR 544501614"},
		"cut":                  {good[:len(good)-1], fmt.Sprintf("event 1 at offset %d: cut: data of 1 bytes, 0 are left", first)},
		"cut in header":        {good[:first+7], "cut in its header"},
		"cut in digest":        {good[:first+30], "cut in its digests"},
		"few zeros":            {append(slices.Clone(good), 0, 0, 0, 0), "cut in its header"},
		"garbage behind":       {append(slices.Clone(good), "garbage garbage"...), "event 2"},
		"padding not clean":    {slices.Concat(good, make([]byte, 100), []byte{1}), "0 digests, the header has 1 banks"},
		"PCR 32":               {edit(first, 32), "PCR 32, the highest is 31"},
		"no digest":            {edit(first+8, 0), "0 digests"},
		"more digests":         {edit(first+8, 2), "2 digests, the header has 1 banks"},
		"other bank":           {edit(first+12, 4), "a digest in bank sha1, which the header does not have"},
		"bank twice":           {slices.Concat(header([]Bank{SHA1, SHA256}), u32(0), u32(8), u32(2), u16(4), make([]byte, 20), u16(4), make([]byte, 20), u32(0)), "two digests in bank sha1"},
		"huge data":            {edit(first+46, 0, 0, 0, 0x40), "the limit is 1048576"},
		"second header":        {append(slices.Clone(good), record(sha, event{0, NoAction, header(sha)[32:]}, nil)...), "a second header"},
		"header, no banks":     {edit(32+24, 0), "header with 0 banks"},
		"header, many banks":   {edit(32+24, 255, 255, 255, 255), "header with 4294967295 banks"},
		"header, size of bank": {edit(32+30, 20), "header with 20 bytes for bank sha256"},
		"header, bank twice":   {header([]Bank{SHA1, SHA1}), "bank sha1 twice"},
		"header, vendor":       {edit(32+32, 1), "does not fit 1 banks"},
		"locality, cut":        {agile(sha, locality(), version), "startup locality with 16 bytes"},
		"two localities":       {agile(sha, locality(0), locality(3), version), "two different startup localities"},
	} {
		log, err := Parse(c.log)
		if err == nil || log != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestLimitOfEvents(t *testing.T) {
	one := legacy(event{0, EFIAction, nil})
	if _, err := Parse(bytes.Repeat(one, 1<<16)); err != nil {
		t.Error(err)
	}
	if _, err := Parse(bytes.Repeat(one, 1<<16+1)); err == nil || !strings.Contains(err.Error(), "more than 65536 events") {
		t.Error(err)
	}
}

func TestPartial(t *testing.T) {
	b := byName(t, "edk2")
	p := ParsePartial(b.data[:len(b.data)-1])
	if len(p.Events) != 23 || p.Fault == nil || !strings.Contains(p.Fault.Error(), "event 23 at offset") {
		t.Errorf("%d events, %v", len(p.Events), p.Fault)
	}
	if p := ParsePartial(b.data); len(p.Events) != 24 || p.Fault != nil {
		t.Errorf("%d events, %v", len(p.Events), p.Fault)
	}
}

// What no digest covers in a log. Everything else that is changed is noticed:
// by the parser, by the replay, or because the data no longer hash to their
// digest.
var uncovered = map[string]string{
	"header": "the log's header: platform class, versions, size of UINTN, its PCR",
	"type":   "what an event is said to be: known by its digest only where that is over data of a known form",
	"name":   "what is around a value whose digest is over the value alone: GUID and name of a boot variable",
	"words":  "data whose digest is over something else, such as the path of a file",
}

func TestEachByteAndEachLength(t *testing.T) {
	b := byName(t, "edk2")
	log := parsed(t, b.data)
	good := fmt.Sprint(log.Replay())
	fields := make([]string, len(b.data))
	for i := range fields {
		fields[i] = "covered"
	}
	mark := func(from, to int, name string) {
		for i := from; i < to; i++ {
			fields[i] = name
		}
	}
	for i := range log.Events {
		e := &log.Events[i]
		data := e.Offset + 8 + 4 + 2 + 32 + 4
		switch {
		case i == 0:
			mark(0, log.Events[1].Offset, "header")
			continue
		case e.Proof(SHA256) == NotCovered:
			mark(data, data+len(e.Data), "words")
		case e.Proof(SHA256) == ValueProved:
			mark(data, data+len(e.Data), "name")
		}
		mark(e.Offset+4, e.Offset+8, "type")
	}
	harmless := map[string]int{}
	for i := range b.data {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			changed := slices.Clone(b.data)
			changed[i] ^= flip
			other, err := Parse(changed)
			if err != nil || fmt.Sprint(other.Replay()) != good {
				continue
			}
			proofs := false
			for j := range other.Events {
				proofs = proofs || other.Events[j].Proof(SHA256) != log.Events[j].Proof(SHA256)
			}
			if proofs {
				continue
			}
			harmless[fields[i]]++
			if uncovered[fields[i]] == "" {
				t.Errorf("byte %d flipped by %#02x: not noticed", i, flip)
			}
		}
	}
	for name, why := range uncovered {
		if harmless[name] == 0 {
			t.Errorf("no change of %s went unnoticed (%s): take it out of the table", name, why)
		}
	}
	for n := range b.data {
		if other, err := Parse(b.data[:n]); err == nil && fmt.Sprint(other.Replay()) == good {
			t.Errorf("cut to %d bytes: not noticed", n)
		}
	}
}

func TestVerify(t *testing.T) {
	b := byName(t, "uki-edk2")
	log := parsed(t, b.data)
	with := func(pcr int, value []byte) map[int][]byte {
		pcrs := maps.Clone(b.pcrs)
		pcrs[pcr] = value
		return pcrs
	}
	ones := bytes.Repeat([]byte{0xff}, 32)
	for name, c := range map[string]struct {
		bank Bank
		pcrs map[int][]byte
		err  string
		open []int // PCRs that are not explained
	}{
		"good":                   {SHA256, b.pcrs, "", nil},
		"one PCR":                {SHA256, map[int][]byte{4: b.pcrs[4]}, "", nil},
		"another value":          {SHA256, with(4, b.pcrs[7]), "", []int{4}},
		"not extended":           {SHA256, with(4, make([]byte, 32)), "", []int{4}},
		"log has nothing for it": {SHA256, with(14, b.pcrs[7]), "", []int{14}},
		"ones":                   {SHA256, with(14, ones), "", []int{14}},
		"ones, dynamic":          {SHA256, with(17, ones), "", nil},
		"nothing to compare":     {SHA256, nil, "no PCR values", nil},
		"bank not there":         {SHA1, b.pcrs, "it has banks [sha256], not sha1", nil},
		"bank without hash":      {0x1234, b.pcrs, "no hash for bank 0x1234", nil},
		"short value":            {SHA256, with(4, b.pcrs[4][:20]), "value of 20 bytes for PCR 4", nil},
		"no such PCR":            {SHA256, with(32, ones), "for PCR 32", nil},
	} {
		v, err := log.Verify(c.bank, c.pcrs)
		if c.err != "" {
			if err == nil || v != nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if open := slices.Sorted(maps.Keys(v.Unexplained())); !slices.Equal(open, c.open) || v.Complete() != (len(c.open) == 0) {
			t.Errorf("%s: not explained %v, want %v", name, v.Unexplained(), c.open)
		}
		for _, e := range v.Events() {
			if slices.Contains(c.open, e.PCR) || c.pcrs[e.PCR] == nil {
				t.Errorf("%s: event of PCR %d among the proved ones", name, e.PCR)
			}
		}
		for _, l := range v.Explain() {
			if slices.Contains(c.open, l.PCR) || c.pcrs[l.PCR] == nil {
				t.Errorf("%s: explains %v", name, l)
			}
		}
	}
}

func TestProof(t *testing.T) {
	sha := []Bank{SHA256}
	variable := func(name, value string) []byte {
		return slices.Concat(make([]byte, 16), u64(len(name)), u64(len(value)), wide(name), []byte(value))
	}
	for name, c := range map[string]struct {
		kind   Type
		pcr    uint32
		data   []byte
		hashed []byte
		want   Proof
	}{
		"version":                 {SCRTMVersion, 0, []byte("v1"), []byte("v1"), Proved},
		"false version":           {SCRTMVersion, 0, []byte("v2"), []byte("v1"), NotCovered},
		"separator":               {Separator, 0, make([]byte, 4), make([]byte, 4), Proved},
		"separator after error":   {Separator, 0, []byte("disk on fire"), []byte{1, 0, 0, 0}, ValueProved},
		"false separator":         {Separator, 0, make([]byte, 4), []byte{2, 0, 0, 0}, Contradicted},
		"variable":                {EFIVariableDriverConfig, 7, variable("PK", "x"), variable("PK", "x"), Proved},
		"value of variable":       {EFIVariableDriverConfig, 7, variable("PK", "x"), []byte("x"), Contradicted},
		"boot variable":           {EFIVariableBoot, 1, variable("Boot0000", "x"), []byte("x"), ValueProved},
		"boot variable, whole":    {EFIVariableBoot, 1, variable("Boot0000", "x"), variable("Boot0000", "x"), Proved},
		"boot variable 2":         {EFIVariableBoot2, 1, variable("Boot0000", "x"), []byte("x"), Contradicted},
		"authority":               {EFIVariableAuthority, 7, variable("db", "x"), variable("db", "x"), Proved},
		"authority of shim 15":    {EFIVariableAuthority, 7, append(variable("Shim", "x"), 0, 0xaf), append(variable("Shim", "x"), 0), ValueProved},
		"authority cut":           {EFIVariableAuthority, 7, variable("Shim", "x"), variable("Shim", "x")[:len(variable("Shim", "x"))-1], Contradicted},
		"action":                  {EFIAction, 4, []byte("go"), []byte("stop"), Contradicted},
		"GPT":                     {EFIGPTEvent, 5, []byte("x"), []byte("y"), Contradicted},
		"application":             {EFIBootServicesApplication, 4, []byte("path"), []byte("code"), NotCovered},
		"tag":                     {EventTag, 9, slices.Concat(u32(1), u32(2), []byte("id")), []byte("id"), ValueProved},
		"tag over something else": {EventTag, 9, slices.Concat(u32(1), u32(2), []byte("id")), []byte("file"), NotCovered},
		"GRUB":                    {IPL, 8, []byte("grub_cmd: ls\x00"), []byte("ls"), ValueProved},
		"GRUB of Red Hat":         {IPL, 8, []byte("grub_cmd ls\x00"), []byte("ls\x00"), ValueProved},
		"file":                    {IPL, 9, []byte("/vmlinuz\x00"), []byte("code"), NotCovered},
		"section's name":          {IPL, 11, wide(".linux\x00"), []byte(".linux\x00"), ValueProved},
		"section":                 {IPL, 11, wide(".linux\x00"), []byte("code"), NotCovered},
		"unknown type":            {0x1234, 11, []byte("x"), []byte("y"), NotCovered},
		"note":                    {NoAction, 0, []byte("x"), nil, NotExtended},
	} {
		log := parsed(t, slices.Concat(agile(sha, event{15, SCRTMVersion, nil}), record(sha, event{c.pcr, c.kind, c.data}, c.hashed)))
		if got := log.Events[2].Proof(SHA256); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if got := log.Events[2].Proof(SHA1); got != NotExtended {
			t.Errorf("%s: in a bank without digest: %v", name, got)
		}
	}
}

// An event without a digest in a bank is seen, and is not among what that bank
// proves.
func TestGaps(t *testing.T) {
	both := []Bank{SHA1, SHA256}
	log := parsed(t, slices.Concat(agile(both, event{0, SCRTMVersion, []byte("v")}), record(both[:1], event{0, EFIAction, []byte("x")}, []byte("x"))))
	if gaps := log.Gaps(); !slices.Equal(gaps, []Bank{SHA256}) {
		t.Errorf("gaps %v", gaps)
	}
	v, err := log.Verify(SHA256, map[int][]byte{0: extended(0, "v")})
	if err != nil || !v.Complete() || len(v.Events()) != 1 {
		t.Errorf("%v, %d events", err, len(v.Events()))
	}
}

func FuzzParse(f *testing.F) {
	for _, b := range recorded(f) {
		f.Add(b.data)
	}
	f.Add(legacy(event{0, SCRTMVersion, []byte("v")}))
	f.Add(agile(all, event{0, NoAction, []byte("StartupLocality\x00\x03")}, event{0, SCRTMVersion, []byte("v")}))
	f.Add([]byte(systemdLog))
	f.Add([]byte(celLog))
	f.Add(tlvLog())
	f.Add(cborLog(true))
	f.Add(cborLog(false))
	f.Add(agile([]Bank{SM3}, event{0, SCRTMVersion, []byte("v")}))
	reference := parsed(f, byName(f, "secboot").data)
	f.Fuzz(func(t *testing.T, data []byte) {
		log, err := Parse(data)
		p := ParsePartial(data)
		if (err == nil) != (p.Fault == nil) || err == nil && len(p.Events) != len(log.Events) {
			t.Fatalf("Parse: %v, ParsePartial: %v", err, p.Fault)
		}
		if err != nil {
			return
		}
		for bank, pcrs := range log.Replay() {
			if len(pcrs) == 0 && !slices.Contains(log.Gaps(), bank) {
				t.Fatal("a log that measures nothing")
			}
			if len(pcrs) > 0 {
				v, err := log.Verify(bank, pcrs)
				if err != nil || !v.Complete() {
					t.Fatalf("a log does not explain its own replay: %v, %v", err, v.Unexplained())
				}
			}
		}
		for _, l := range log.Explain("quiet") {
			_ = l.String()
		}
		if changes, err := Difference(log, log); err == nil && len(changes) > 0 {
			t.Fatalf("a log differs from itself: %v", changes)
		}
		_, _ = Difference(reference, log)
	})
}
