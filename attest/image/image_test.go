package image_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/miotfacts/miotfacts/attest/eventlog"
	. "github.com/miotfacts/miotfacts/attest/image"
	"github.com/miotfacts/miotfacts/attest/image/imagetest"
)

// sections are those of the images here; a real stub has .sbat itself.
func sections(cmdline string) []imagetest.Section {
	return []imagetest.Section{
		{Name: ".initrd", Data: []byte("initial RAM disk")}, {Name: ".osrel", Data: []byte("ID=pump\n")}, {Name: ".cmdline", Data: []byte(cmdline)},
		{Name: ".linux", Data: imagetest.Kernel("kernel")}, {Name: ".sbat", Data: []byte("sbat,1\n")}, {Name: ".uname", Data: []byte("6.12")},
	}
}

// words says of each event what it is, and how certain.
func words(b *Boot) []string {
	var list []string
	var events []eventlog.Event
	for _, e := range b.Events {
		events = append(events, e.Event)
	}
	for i, l := range eventlog.Predict(nil, events).Explain(b.Cmdline)[2:] {
		e := b.Events[i]
		text := fmt.Sprintf("%d %s", l.PCR, l.Subject)
		for mark, is := range map[string]bool{" ?": e.Optional, " *": e.Any} {
			if is {
				text += mark
			}
		}
		list = append(list, text)
	}
	return list
}

func TestUKI(t *testing.T) {
	phases := []string{"11 boot phase ?", "11 boot phase ?", "11 boot phase ?", "11 boot phase ?"}
	// The names of sections in 16 bits, then what is in them, in the stub's order.
	old := []string{"4 boot application", "11 name of UKI section", "11 UKI section .linux", "11 name of UKI section", "11 UKI section .osrel", "11 name of UKI section",
		"11 UKI's command line", "11 name of UKI section", "11 UKI section .initrd"}
	newer := slices.Concat(old, []string{"11 name of UKI section", "11 UKI section .uname", "11 name of UKI section", "11 UKI section .sbat"})
	for name, c := range map[string]struct {
		image []byte
		want  []string
	}{
		"252": {imagetest.UKI("252.39-1~deb12u2", sections("quiet")...), slices.Concat(old, []string{"4 boot application", "9 kernel command line", "9 initial RAM disk"}, phases)},
		"255": {imagetest.UKI("255", sections("quiet")...), slices.Concat(newer, []string{"4 boot application", "9 kernel command line", "9 initial RAM disk"}, phases)},
		"257": {imagetest.UKI("257.3", sections("quiet")...), slices.Concat(newer, []string{"4 boot application ?", "9 kernel command line", "9 initial RAM disk *"}, phases)},
		"signed policy": {imagetest.UKI("252", append(sections("quiet"), imagetest.Section{Name: ".pcrsig", Data: []byte("{}")})...),
			slices.Concat(old, []string{"4 boot application", "9 kernel command line", "9 initial RAM disk *"}, phases)},
	} {
		boot, err := UKI(c.image)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := words(boot); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
		if boot.Cmdline != "quiet" || !slices.Equal(boot.PCRs, []int{4, 9, 11, 12, 13}) {
			t.Errorf("%s: %q, PCRs %v", name, boot.Cmdline, boot.PCRs)
		}
	}
}

// The command line is handed on as the stub does, and measured as it stands in the image.
func TestCmdline(t *testing.T) {
	for section, want := range map[string]string{"quiet\n": "quiet", "a\tb  \n": "a b", "a\x00b": "a", "\n": "", "": ""} {
		list := slices.DeleteFunc(sections(section), func(s imagetest.Section) bool { return s.Name == ".cmdline" && section == "" })
		boot, err := UKI(imagetest.UKI("252", list...))
		if err != nil {
			t.Fatal(err)
		}
		var raw, wide []byte
		for _, u := range utf16.Encode([]rune(want + "\x00")) {
			wide = binary.LittleEndian.AppendUint16(wide, u)
		}
		raw = []byte(section)
		has := func(pcr int, data []byte) bool {
			digest := sha256.Sum256(data)
			return slices.ContainsFunc(boot.Events, func(e Event) bool { return e.PCR == pcr && bytes.Equal(e.Digest(eventlog.SHA256), digest[:]) && !e.Any })
		}
		if boot.Cmdline != want || want != "" && !has(9, wide) || len(raw) > 0 && !has(11, raw) {
			t.Errorf("%q: %q, PCR 9 %v, PCR 11 %v", section, boot.Cmdline, has(9, wide), has(11, raw))
		}
		if open := slices.ContainsFunc(boot.Events, func(e Event) bool { return e.PCR == 9 && e.Any }); open != (want == "") || slices.Contains(boot.PCRs, 12) == open {
			t.Errorf("%q: any command line %v, PCRs %v", section, open, boot.PCRs)
		}
	}
}

// Signatures, the checksum, and what is behind the sections.
func TestAuthenticode(t *testing.T) {
	plain := imagetest.Kernel("kernel")
	hash := func(data []byte) string {
		digest, err := Authenticode(data)
		if err != nil {
			t.Fatal(err)
		}
		return string(digest)
	}
	const checksum, table = 0x40 + 24 + 64, 0x40 + 24 + 112 + 4*8
	signed := append(slices.Clone(plain), "a signature of 24 bytes."...)
	binary.LittleEndian.PutUint32(signed[table:], uint32(len(plain)))
	binary.LittleEndian.PutUint32(signed[table+4:], 24)
	if hash(signed) != hash(plain) {
		t.Error("a signature changes the hash")
	}
	if other := slices.Clone(plain); hash(func() []byte { other[checksum]++; return other }()) != hash(plain) {
		t.Error("the checksum changes the hash")
	}
	if hash(append(slices.Clone(plain), 0)) == hash(plain) {
		t.Error("a byte behind the sections does not change the hash")
	}
	for i := range plain {
		if i >= checksum && i < checksum+4 || i >= table && i < table+8 {
			continue
		}
		other := slices.Clone(plain)
		other[i] ^= 1
		if digest, err := Authenticode(other); err == nil && string(digest) == hash(plain) {
			t.Errorf("byte %d does not change the hash", i)
		}
	}
}

func TestRefused(t *testing.T) {
	uki := imagetest.UKI("252", sections("quiet")...)
	edit := func(at int, b ...byte) []byte {
		data := slices.Clone(uki)
		copy(data[at:], b)
		return data
	}
	with := func(version string, more ...imagetest.Section) []byte {
		return imagetest.UKI(version, append(sections("quiet"), more...)...)
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":           {nil, "does not begin with MZ"},
		"a text":          {bytes.Repeat([]byte("no image "), 20), "does not begin with MZ"},
		"cut":             {uki[:len(uki)-600], "the file has"},
		"no header":       {edit(0x3c, 0xff, 0xff, 0xff, 0xff), "no PE header at 0xffffffff"},
		"no sections":     {edit(0x46, 0, 0), "with 0 sections"},
		"many sections":   {edit(0x46, 0xff, 0xff), "with 65535 sections"},
		"magic":           {edit(0x58, 0), "magic 0x200"},
		"headers":         {edit(0x58+60, 0xff, 0xff, 0xff, 0xff), "4294967295 bytes of headers"},
		"huge section":    {edit(0x40+24+240+2*40+8, 0, 0, 0, 1), "section .initrd with 16777216 bytes in memory, 512 in the file"},
		"no stub":         {imagetest.Kernel("kernel"), "it has no systemd-stub"},
		"old stub":        {with("251"), "want 252 or later"},
		"stub of nothing": {with("x"), "want 252 or later"},
		"profiles":        {with("257", imagetest.Section{Name: ".profile", Data: []byte("ID=a")}), "the machine chooses"},
		"twice":           {with("252", imagetest.Section{Name: ".osrel", Data: []byte("x")}), "section .osrel twice"},
		"no kernel":       {imagetest.UKI("252"), "no section .linux"},
		"kernel is none":  {imagetest.UKI("252", imagetest.Section{Name: ".linux", Data: []byte("x")}), "section .linux: cannot hash image"},
	} {
		if _, err := UKI(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestKernel(t *testing.T) {
	boot, err := Kernel(imagetest.Kernel("kernel"), []byte("initrd"), "quiet", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := words(boot), []string{"4 boot application", "9 kernel command line", "9 initial RAM disk"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	// U-Boot's bootefi leaves reading the disk to the kernel, which does not measure it then.
	if boot, err = Kernel(imagetest.Kernel("kernel"), []byte("initrd"), `quiet initrd=\initrd`, nil); err != nil || !boot.Events[2].Optional {
		t.Errorf("%v", err)
	}
	for name, want := range map[string]int{"edk2": 3, "uboot": 2} {
		data, err := os.ReadFile("../../testdata/boot/" + name + "/bios.bin")
		if err != nil {
			t.Fatal(err)
		}
		other, err := eventlog.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		boot, err := Kernel(imagetest.Kernel("kernel"), []byte("initrd"), "quiet initrd=initrd", other)
		if err != nil || len(boot.Events) != want || boot.Events[want-1].Optional {
			t.Errorf("as %s: %d events, %v", name, len(boot.Events), err)
		}
	}
	b := Bootm([]byte("kernel"), []byte("initrd"), "quiet")
	var got []string
	for _, e := range b.Events {
		got = append(got, fmt.Sprintf("%d %v %q", e.PCR, e.Type, e.Data))
	}
	if want := []string{`8 EV_COMPACT_HASH "linux\x00"`, `9 EV_COMPACT_HASH "initrd\x00"`, `1 EV_PLATFORM_CONFIG_FLAGS "quiet\x00"`}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A prediction over the log of a recorded machine is that machine's log again, with
// the system's digests: the firmware's part stays, in its order.
func TestPredictOverRecorded(t *testing.T) {
	for _, name := range []string{"uki-edk2", "uki-uboot"} {
		data, err := os.ReadFile("../../testdata/boot/" + name + "/bios.bin")
		if err != nil {
			t.Fatal(err)
		}
		base, err := eventlog.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		// The same system, from its log, must come to the same PCRs.
		var system []eventlog.Event
		for _, e := range base.Events {
			if e.PCR == 11 || e.PCR == 9 && e.Type == eventlog.EventTag || e.Type == eventlog.EFIBootServicesApplication {
				system = append(system, e)
			}
		}
		was, is := base.Replay()[eventlog.SHA256], eventlog.Predict(base, system).Replay()[eventlog.SHA256]
		for pcr := range was {
			if !bytes.Equal(was[pcr], is[pcr]) {
				t.Errorf("%s: PCR %d", name, pcr)
			}
		}
		boot, err := UKI(imagetest.UKI("252", sections("quiet")...))
		if err != nil {
			t.Fatal(err)
		}
		system = nil
		for _, e := range boot.Events {
			system = append(system, e.Event)
		}
		predicted := eventlog.Predict(base, system)
		is = predicted.Replay()[eventlog.SHA256]
		for _, pcr := range []int{0, 1, 2, 3, 5, 6, 7} {
			if !bytes.Equal(was[pcr], is[pcr]) {
				t.Errorf("%s: PCR %d of the firmware changed", name, pcr)
			}
		}
		var order []string
		for _, e := range predicted.Events {
			if e.PCR == 4 {
				order = append(order, e.Type.String())
			}
		}
		var before []string
		for _, e := range base.Events {
			if e.PCR == 4 {
				before = append(before, e.Type.String())
			}
		}
		if !slices.Equal(order, before) {
			t.Errorf("%s: PCR 4 has %v, want %v", name, order, before)
		}
	}
}

func FuzzUKI(f *testing.F) {
	f.Add(imagetest.UKI("252.39", sections("quiet")...))
	f.Add(imagetest.UKI("257", sections("")...))
	f.Add(imagetest.Kernel("kernel"))
	f.Fuzz(func(t *testing.T, data []byte) {
		boot, err := UKI(data)
		if err != nil {
			return
		}
		for _, e := range boot.Events {
			if len(e.Digest(eventlog.SHA256)) != 32 {
				t.Fatal("an event without a digest")
			}
		}
		_, _ = Kernel(data, nil, boot.Cmdline, nil)
	})
}
