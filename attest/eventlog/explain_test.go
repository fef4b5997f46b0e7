package eventlog_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	. "github.com/miotfacts/miotfacts/attest/eventlog"
)

const (
	systemdLog = "\x1e" + `{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"74e6b3b6c8ee2e7a1c2d9d2c5c8e0f5a3f0e3f6f0c3f0f4f1d6f2d0f5a7b8c9d"}],"content_type":"systemd","content":{"string":"sealed","bootId":"b3a3c9c1b0e34d60a8b1d8a4b5c6d7e8","timestamp":1700000,"eventType":"volume-key"}}` + "\n" +
		"\x1e" + `{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"DIGEST"}],"content_type":"systemd","content":{"string":"enter-initrd","bootId":"b3a3c9c1b0e34d60a8b1d8a4b5c6d7e8","timestamp":1800000,"eventType":"phase"}}` + "\n"
	celLog = `[{"recnum":0,"pcr":4,"digests":[{"hashAlg":"sha256","digest":"DIGEST"}],"content_type":"pcclient_std","content":{"event_type":"EV_EFI_ACTION","event_data":"676f"}},
{"recnum":1,"nv_index":30474752,"digests":[{"hashAlg":"sha256","digest":"DIGEST"}],"content_type":"cel","content":{"x":1}}]`
)

func withDigest(log, text string) []byte {
	return []byte(strings.ReplaceAll(log, "DIGEST", fmt.Sprintf("%x", sum(SHA256, []byte(text)))))
}

func TestSystemdLog(t *testing.T) {
	log := parsed(t, withDigest(systemdLog, "enter-initrd"))
	if log.Format != Systemd || len(log.Events) != 2 {
		t.Fatalf("format %s, %d events", log.Format, len(log.Events))
	}
	lines := log.Explain()
	if got, want := lines[1].String(), "PCR 11: boot phase: enter-initrd"; got != want || lines[1].Proof != Proved {
		t.Errorf("%q, want %q", got, want)
	}
	if lines[0].Proof != NotCovered {
		t.Errorf("%v is %v", lines[0], lines[0].Proof)
	}
	// It goes on where the firmware stopped.
	b := byName(t, "uki-edk2")
	joined := log.After(parsed(t, b.data))
	want := slices.Clone(b.pcrs[11])
	for _, e := range log.Events {
		want = sum(SHA256, append(want, e.Digest(SHA256)...))
	}
	if got := joined.Replay()[SHA256][11]; !bytes.Equal(got, want) {
		t.Errorf("PCR 11 is %x, want %x", got, want)
	}
}

func TestCEL(t *testing.T) {
	log := parsed(t, withDigest(celLog, "go"))
	if log.Format != CEL || len(log.Events) != 2 || log.Events[0].Type != EFIAction || log.Events[1].PCR != NoPCR {
		t.Fatalf("%s, %+v", log.Format, log.Events)
	}
	if got := log.Explain()[0]; got.String() != "PCR 4: go" || got.Proof != Proved {
		t.Errorf("%v is %v", got, got.Proof)
	}
	if replay := log.Replay()[SHA256]; len(replay) != 1 || !bytes.Equal(replay[4], extended(0, "go")) {
		t.Errorf("%x", replay)
	}
	// One record a line, and base64.
	lines := strings.NewReplacer("}},\n", "}}\n", "}}]", "}}\n", `"676f"`, `"Z28="`).Replace(string(withDigest(celLog, "go"))[1:])
	if again := parsed(t, []byte(lines)); !bytes.Equal(again.Replay()[SHA256][4], log.Replay()[SHA256][4]) || string(again.Events[0].Data) != "go" {
		t.Errorf("as lines: %x", again.Replay())
	}
}

func TestRefusedRecords(t *testing.T) {
	cel, systemd := string(withDigest(celLog, "go")), string(withDigest(systemdLog, "enter-initrd"))
	for name, c := range map[string]struct{ log, from, to, want string }{
		"cut":               {cel, `}]`, ``, "cut"},
		"systemd, cut":      {systemd, "\"phase\"}}\n", "\"pha", "record 1 at offset"},
		"no line feed":      {systemd, "}}\n", "}}", "not one whole JSON text"},
		"two in one":        {systemd, "}}\n\x1e", "}}\n", "not one whole JSON text"},
		"nothing between":   {systemd, "\x1e", "\x1e\x1e", "cut"},
		"key twice":         {cel, `"pcr":4`, `"pcr":4,"pcr":5`, `key "pcr" twice`},
		"key twice, case":   {cel, `"pcr":4`, `"pcr":4,"PCR":5`, `key "pcr" twice`},
		"no PCR":            {cel, `"pcr":4,`, ``, "want pcr or nv_index"},
		"PCR and NV":        {cel, `"pcr":4,`, `"pcr":4,"nv_index":1,`, "want pcr or nv_index"},
		"PCR 32":            {cel, `"pcr":4`, `"pcr":32`, "PCR 32, the highest is 31"},
		"PCR -1":            {cel, `"pcr":4`, `"pcr":-1`, "record 0"},
		"number again":      {strings.ReplaceAll(cel, `"nv_index":30474752`, `"pcr":4`), `"recnum":1`, `"recnum":0`, "record number 0 after 0"},
		"unknown hash":      {cel, `"sha256"`, `"md5"`, `unknown hash "md5"`},
		"short digest":      {cel, `"digest":"`, `"digest":"00`, "is none of bank sha256"},
		"no digests":        {cel, `"digests":[{`, `"digests":[],"x":[{`, "no digests"},
		"no type":           {cel, `"EV_EFI_ACTION"`, `"EV_WHAT"`, "content with event type"},
		"no data":           {cel, `"676f"`, `"?"`, "content with event type"},
		"deep":              {cel, `"x":1`, `"x":` + strings.Repeat("[", 20) + strings.Repeat("]", 20), "nested deeper"},
		"no records":        {"[]", "", "", "nothing is measured"},
		"something else":    {`{"a":1}`, "", "", "want pcr or nv_index"},
		"not JSON":          {`{a`, "", "", "record 0 at offset"},
		"nothing but marks": {"\x1e", "", "", "cut"},
	} {
		text := strings.Replace(c.log, c.from, c.to, 1)
		if log, err := Parse([]byte(text)); err == nil || log != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	guid := make([]byte, 16)
	variable := func(name string, value []byte) []byte {
		return slices.Concat(guid, u64(len(name)), u64(len(value)), wide(name), value)
	}
	file := slices.Concat([]byte{4, 4}, u16(4+2*9), wide("\\a\\b.efi\x00"), []byte{0x7f, 0xff, 4, 0})
	image := func(path []byte) []byte { return slices.Concat(make([]byte, 24), u64(len(path)), path) }
	for _, c := range []struct {
		pcr  uint32
		kind Type
		data []byte
		want string // after "PCR n: "
	}{
		{0, SCRTMVersion, wide("1.2\x00"), "firmware version: 1.2"},
		{0, Separator, make([]byte, 4), "here the firmware hands over"},
		{0, Separator, []byte{1, 0, 0, 0}, "the firmware reports an error instead of handing over: 01000000"},
		{0, EFIPlatformFirmwareBlob2, slices.Concat([]byte{3}, []byte("PEI"), u64(0x1000), u64(16)), "firmware code: PEI 16 bytes at 0x1000"},
		{1, EFIHandoffTables2, slices.Concat([]byte{11}, []byte("SmbiosTable")), "tables for the operating system: SmbiosTable"},
		{2, EFIBootServicesDriver, image(file), "firmware driver: \\a\\b.efi"},
		{4, EFIBootServicesApplication, image(file), "boot application: \\a\\b.efi"},
		{4, EFIBootServicesApplication, []byte("short"), "boot application: 73686f7274 that cannot be read"},
		{4, EFIBootServicesApplication, image([]byte{4, 4, 200, 0, 1}), "boot application: (unreadable)"},
		{7, EFIVariableDriverConfig, variable("SecureBoot", []byte{1}), "Secure Boot is on"},
		{7, EFIVariableDriverConfig, variable("SecureBoot", []byte{2}), "variable SecureBoot: 02"},
		{7, EFIVariableDriverConfig, variable("dbx", []byte("nonsense")), "dbx (forbidden signers): 8 bytes that are no signature list"},
		{7, EFIVariableDriverConfig, variable("PK", nil), "PK (platform key): empty"},
		{7, EFIVariableAuthority, variable("SbatLevel", []byte("sbat,1,2021030218\n")), "authority from SbatLevel: sbat,1,2021030218\ufffd"},
		{1, EFIVariableBoot, variable("BootOrder", []byte{1, 0, 0, 0}), "boot order: 0001, 0000"},
		{1, EFIVariableBoot, variable("Boot0001", slices.Concat(u32(1), u16(len(file)), wide("disk\x00"), file)), "boot option 0001: \"disk\" at \\a\\b.efi"},
		{8, IPL, []byte("grub_cmd: ls\x00"), "GRUB command: ls"},
		{8, IPL, []byte("kernel_cmdline: /vmlinuz ro\x00"), "kernel command line: /vmlinuz ro"},
		{9, IPL, []byte("/boot/vmlinuz\x00"), "file read by the loader: /boot/vmlinuz"},
		{8, CompactHash, []byte("linux"), "kernel"},
		{1, PlatformConfigFlags, []byte("bootargs"), "platform configuration: bootargs"},
		{11, IPL, wide(".linux\x00"), "UKI section .linux"},
		{12, IPL, wide("quiet ro\x00"), "kernel command line: quiet ro"},
		{14, IPL, []byte("MokList\x00"), "shim's MokList"},
		{9, EventTag, slices.Concat(u32(uint32(0x8f3b22ed)), u32(4), []byte("text")), "kernel command line"},
		{13, EventTag, slices.Concat(u32(7), u32(4), []byte("text")), "tagged event 0x00000007: text"},
		{4, EFIAction, []byte("\x1b[2Jgo"), "1b5b324a676f"}, // nothing for a terminal to obey
		{3, 0x1234, []byte("x"), "event type 0x00001234: x"},
	} {
		// The digest is over something else, except where the type says it must
		// be over the data.
		hashed := []byte("something else")
		if slices.Contains([]Type{SCRTMVersion, Separator, EFIVariableDriverConfig, EFIVariableAuthority, EFIVariableBoot, EFIAction}, c.kind) {
			hashed = c.data
		}
		log := parsed(t, append(header([]Bank{SHA256}), record([]Bank{SHA256}, event{c.pcr, c.kind, c.data}, hashed)...))
		got, _, _ := strings.Cut(log.Explain()[1].String(), " [")
		if want := fmt.Sprintf("PCR %d: %s", c.pcr, c.want); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What Secure Boot was, in the words of a real log.
func TestExplainSecureBoot(t *testing.T) {
	var lines []string
	for _, l := range parsed(t, byName(t, "secboot").data).Explain() {
		lines = append(lines, l.String())
	}
	const owner = "O=SnakeOil,L=Fort Collins,ST=Colorado,C=US"
	for _, want := range []string{
		"PCR 7: Secure Boot is on",
		"PCR 7: PK (platform key): 1 certificate (" + owner + ")",
		"PCR 7: dbx (forbidden signers): 1 hash",
		"PCR 7: the image was signed under " + owner + " from db",
		"PCR 9: kernel command line",
		"PCR 9: initial RAM disk",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, strings.Join(lines, "\n"))
		}
	}
}

// A false word is called one.
func TestExplainContradiction(t *testing.T) {
	log := parsed(t, append(header([]Bank{SHA256}), record([]Bank{SHA256}, event{4, EFIAction, []byte("go")}, []byte("stop"))...))
	if got := log.Explain()[1].String(); got != "PCR 4: go [false: the data do not hash to the digest]" {
		t.Error(got)
	}
}

func TestDifference(t *testing.T) {
	edk2, systemd, secboot := byName(t, "edk2"), byName(t, "systemd"), byName(t, "secboot")
	sha := []Bank{SHA256}
	base := agile(sha, event{8, IPL, []byte("a")}, event{8, IPL, []byte("b")}, event{4, EFIAction, []byte("go")})
	cmdline := func(text string) []byte {
		return append(slices.Clone(base), record(sha, event{9, EventTag, slices.Concat(u32(uint32(0x8f3b22ed)), u32(0))}, wide(text))...)
	}
	for name, c := range map[string]struct {
		reference, log []byte
		claims         []string
		want           []string // must be there; none: no difference at all
	}{
		"none":         {edk2.data, edk2.data, nil, nil},
		"command line": {cmdline("quiet ro"), cmdline("quiet ro init=/bin/sh"), []string{"quiet ro", "quiet ro init=/bin/sh"}, []string{"PCR 9: the kernel command line gained init=/bin/sh"}},
		"replaced":     {cmdline("quiet ro"), cmdline("quiet rw"), []string{"quiet ro", "quiet rw"}, []string{"PCR 9: the kernel command line gained rw and lost ro"}},
		"reordered":    {cmdline("quiet ro"), cmdline("ro quiet"), []string{"quiet ro", "ro quiet"}, []string{"PCR 9: the kernel command line has the same words in another order"}},
		"unknown text": {cmdline("quiet ro"), cmdline("quiet rw"), nil, []string{"PCR 9: the kernel command line has another content: digest "}},
		"real command lines": {edk2.data, systemd.data, []string{edk2.cmdline, systemd.cmdline},
			[]string{"PCR 9: the kernel command line gained vm.root=/dev/vda systemd.show_status=0 quiet", "PCR 9: the initial RAM disk has another content"}},
		"Secure Boot off": {secboot.data, edk2.data, nil, []string{
			"PCR 7: Secure Boot changed from on to off", "PCR 7: PK (platform key) changed from 1 certificate (", "PCR 7: missing: the image was signed under"}},
		"new":      {base, append(slices.Clone(base), record(sha, event{4, EFIAction, []byte("again")}, []byte("again"))...), nil, []string{"PCR 4: new: again"}},
		"twice":    {base, append(slices.Clone(base), record(sha, event{4, EFIAction, []byte("go")}, []byte("go"))...), nil, []string{"PCR 4: new: go"}},
		"order":    {base, agile(sha, event{8, IPL, []byte("b")}, event{8, IPL, []byte("a")}, event{4, EFIAction, []byte("go")}), nil, []string{"PCR 8: the same was measured in another order"}},
		"locality": {base, append(agile(sha, event{0, NoAction, []byte("StartupLocality\x00\x03")}), base[len(header(sha)):]...), nil, []string{"PCR 0: the TPM started from locality 3 instead of 0"}},
	} {
		changes, err := Difference(parsed(t, c.reference), parsed(t, c.log), c.claims...)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, change := range changes {
			lines = append(lines, change.String())
		}
		if c.want == nil && len(lines) > 0 {
			t.Errorf("%s: %q", name, lines)
		}
		for _, want := range c.want {
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, want) }) {
				t.Errorf("%s: no %q in\n%s", name, want, strings.Join(lines, "\n"))
			}
		}
	}
	if _, err := Difference(parsed(t, edk2.data), parsed(t, legacy(event{0, EFIAction, []byte("x")}))); err == nil || !strings.Contains(err.Error(), "no bank in both") {
		t.Error(err)
	}
}

// Every loader that measures a command line says of it what changed, where the
// attacker gets a shell: GRUB in PCR 8, U-Boot in PCR 1, a unified kernel image
// in PCR 11, and Linux's EFI stub in PCR 9.
func TestInitOfTheAttacker(t *testing.T) {
	sha := []Bank{SHA256}
	const was, is = "root=/dev/vda ro", "root=/dev/vda ro init=/bin/sh"
	base := agile(sha, event{0, SCRTMVersion, []byte("v")}, event{1, PlatformConfigFlags, []byte("flags of the firmware\x00")})
	hashed := func(e event, data []byte) []byte { return record(sha, e, data) }
	for name, c := range map[string]struct {
		pcr  int
		what string
		log  func(cmdline string) []byte
	}{
		"GRUB": {8, "the kernel command line", func(cmdline string) []byte {
			text := "/vmlinuz " + cmdline
			return hashed(event{8, IPL, []byte("kernel_cmdline: " + text + "\x00")}, []byte(text))
		}},
		"U-Boot": {1, "the kernel command line", func(cmdline string) []byte {
			return slices.Concat(hashed(event{8, CompactHash, []byte("linux\x00")}, []byte("kernel")), hashed(event{9, CompactHash, []byte("initrd\x00")}, []byte("initrd")),
				hashed(event{1, PlatformConfigFlags, []byte(cmdline + "\x00")}, []byte(cmdline+"\x00")))
		}},
		"UKI": {11, "UKI's command line", func(cmdline string) []byte {
			return slices.Concat(hashed(event{11, IPL, wide(".cmdline\x00")}, []byte(".cmdline\x00")), hashed(event{11, IPL, wide(".cmdline\x00")}, []byte(cmdline)))
		}},
		"EFI stub": {9, "the kernel command line", func(cmdline string) []byte {
			return hashed(event{9, EventTag, slices.Concat(u32(uint32(0x8f3b22ed)), u32(0))}, wide(cmdline+"\x00"))
		}},
	} {
		before, after := parsed(t, slices.Concat(base, c.log(was))), parsed(t, slices.Concat(base, c.log(is)))
		changes, err := Difference(before, after, was, is)
		if err != nil {
			t.Fatal(err)
		}
		want := Change{c.pcr, c.what + " gained init=/bin/sh"}
		if len(changes) != 1 || changes[0] != want {
			t.Errorf("%s: %q, want %q", name, changes, want)
		}
		// The same against references, where the verifier chooses its reason by the class.
		v := verified(t, slices.Concat(base, c.log(was)))
		pcrs := after.Replay()[SHA256]
		now, err := after.Verify(SHA256, pcrs)
		if err != nil {
			t.Fatal(err)
		}
		if c.pcr == 1 {
			v, _ = before.Verify(SHA256, before.Replay()[SHA256])
		}
		match := now.Match(referenceOf(v, "A", was), is)
		for _, d := range match.Deviations {
			if d.PCR == c.pcr && (d.Component != CommandLine || d.Text != "the kernel command line gained init=/bin/sh") {
				t.Errorf("%s: %v %q", name, d.Component, d.Text)
			}
		}
		if !slices.ContainsFunc(match.Deviations, func(d Deviation) bool { return d.PCR == c.pcr }) {
			t.Errorf("%s: no deviation in PCR %d: %v", name, c.pcr, match.Deviations)
		}
	}
}
