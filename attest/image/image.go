package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/miotfacts/miotfacts/attest/eventlog"
)

// An Event is one measurement that a boot will make.
type Event struct {
	eventlog.Event
	Optional bool // some versions of what measures do not, or have not yet
	Any      bool // its digest cannot be known from the image
}

// A Boot is what an image will have measured.
type Boot struct {
	Events  []Event
	PCRs    []int    // that are the image's: beyond Events and the firmware's, nothing is extended into them
	Cmdline string   // the kernel's, "" if the image has none
	Notes   []string // what is not certain, in words
}

// Phases are what systemd-pcrphase extends into PCR 11, one after the other.
func Phases() []string { return []string{"enter-initrd", "leave-initrd", "sysinit", "ready"} }

// What Linux's EFI stub tags (drivers/firmware/efi/libstub).
const (
	tagInitrd      = 0x8f3b22ec
	tagLoadOptions = 0x8f3b22ed
)

func event(pcr int, kind eventlog.Type, data, hashed []byte) Event {
	digest := sha256.Sum256(hashed)
	return Event{Event: eventlog.Event{PCR: pcr, Type: kind, Data: data, Digests: []eventlog.Digest{{Bank: eventlog.SHA256, Value: digest[:]}}}}
}

// application is the start of an EFI program, whose event tells where it was
// loaded from, and its digest what it is.
func application(digest []byte) Event {
	e := event(4, eventlog.EFIBootServicesApplication, make([]byte, 32), nil)
	e.Digests[0].Value = digest
	return e
}

func wide(text string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(text + "\x00")) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func tagged(tag uint32, what string, hashed []byte) Event {
	data := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, tag), uint32(len(what)+1))
	return event(9, eventlog.EventTag, append(append(data, what...), 0), hashed)
}

// stub is what Linux's EFI stub measures of what it was given.
func stub(cmdline string, initrd []byte) []Event {
	var events []Event
	if cmdline != "" {
		events = append(events, tagged(tagLoadOptions, "LOADED_IMAGE::LoadOptions", wide(cmdline)))
	}
	if len(initrd) > 0 {
		events = append(events, tagged(tagInitrd, "Linux initrd", initrd))
	}
	return events
}

// A part is a section that systemd-stub measures, and the version from which on it
// does.
type part struct {
	name  string
	since int
}

// measured are these parts in the stub's order.
var measured = []part{
	{".linux", 252}, {".osrel", 252}, {".cmdline", 252}, {".initrd", 252}, {".ucode", 256}, {".splash", 252}, {".dtb", 252},
	{".uname", 254}, {".sbat", 254}, {".pcrpkey", 252}, {".hwids", 257},
}

// chosen are sections of which there can be several, for one of several machines.
var chosen = []string{".profile", ".dtbauto", ".efifw"}

// UKI predicts the boot of a unified kernel image.
func UKI(data []byte) (*Boot, error) {
	boot, err := unified(data)
	if err != nil {
		return nil, fmt.Errorf("cannot predict boot of unified kernel image: %w", err)
	}
	return boot, nil
}

func unified(data []byte) (*Boot, error) {
	p, err := parsePE(data)
	if err != nil {
		return nil, err
	}
	sections := map[string][]byte{}
	version := 0
	for i := range p.sections {
		s := &p.sections[i]
		switch _, twice := sections[s.name]; {
		case slices.Contains(chosen, s.name):
			return nil, fmt.Errorf("section %s: which of them is used, the machine chooses", s.name)
		case twice:
			return nil, fmt.Errorf("section %s twice", s.name)
		case s.name == ".pcrsig" || slices.ContainsFunc(measured, func(m part) bool { return m.name == s.name }):
			if s.virtual > s.raw+4096 { // nobody fills payloads up
				return nil, fmt.Errorf("section %s with %d bytes in memory, %d in the file", s.name, s.virtual, s.raw)
			}
			sections[s.name] = s.memory()
		case version == 0: // a part of the stub
			version, err = stubVersion(s.contents)
		}
		if err != nil {
			return nil, err
		}
	}
	if version == 0 {
		return nil, fmt.Errorf("it has no systemd-stub: what another stub measures is not known here")
	}
	if len(sections[".linux"]) == 0 {
		return nil, fmt.Errorf("no section .linux")
	}
	boot := &Boot{PCRs: []int{4, 9, 11, 12, 13}}
	note := func(format string, args ...any) { boot.Notes = append(boot.Notes, fmt.Sprintf(format, args...)) }
	self, err := p.authenticode()
	if err != nil {
		return nil, err
	}
	boot.Events = append(boot.Events, application(self))
	for _, m := range measured {
		content := sections[m.name]
		if len(content) == 0 || version < m.since && !(version == 253 && m.since == 254) {
			continue
		}
		name := event(11, eventlog.IPL, wide(m.name), append([]byte(m.name), 0))
		value := event(11, eventlog.IPL, wide(m.name), content)
		name.Optional, value.Optional = version < m.since, version < m.since
		boot.Events = append(boot.Events, name, value)
		if version < m.since {
			note("systemd-stub %d may measure %s or not", version, m.name)
		}
	}
	// The stub has the firmware load the kernel, until 257 by LoadImage.
	kernel, err := Authenticode(sections[".linux"])
	if err != nil {
		return nil, fmt.Errorf("section .linux: %w", err)
	}
	inner := application(kernel)
	if version >= 257 {
		inner.Optional = true
		note("systemd-stub %d measures the kernel in PCR 4 only where shim loads it", version)
	}
	boot.Events = append(boot.Events, inner)

	boot.Cmdline = mangle(sections[".cmdline"])
	if boot.Cmdline == "" {
		note("the image has no kernel command line: PCRs 9 and 12 depend on what the loader gives it")
		boot.PCRs = slices.DeleteFunc(boot.PCRs, func(pcr int) bool { return pcr == 12 })
	}
	events := stub(boot.Cmdline, sections[".initrd"])
	if n := len(events); boot.Cmdline == "" {
		any := tagged(tagLoadOptions, "LOADED_IMAGE::LoadOptions", nil)
		any.Any, any.Optional = true, true
		events = slices.Insert(events, 0, any)
	} else if extra := version >= 257 || len(sections[".pcrsig"]) > 0 || len(sections[".pcrpkey"]) > 0 || len(sections[".ucode"]) > 0; extra {
		note("systemd-stub adds files of its own to the initial RAM disk: PCR 9 accepts any, PCR 11 has it as it is in the image")
		if len(sections[".initrd"]) == 0 {
			events = append(events, tagged(tagInitrd, "Linux initrd", nil))
			n++
		}
		events[n-1].Any = true
	}
	boot.Events = append(boot.Events, events...)
	for _, phase := range Phases() {
		e := event(11, 0, []byte(phase), []byte(phase))
		e.Kind, e.Optional = "systemd:phase", true
		boot.Events = append(boot.Events, e)
	}
	return boot, nil
}

// stubVersion reads the version that systemd-stub carries, as its mark or as what
// it tells userspace (StubInfo, in 16 bits); 0 where it is not.
func stubVersion(part []byte) (int, error) {
	_, text, ok := bytes.Cut(part, []byte("#### LoaderInfo: systemd-stub "))
	if !ok {
		info := wide("systemd-stub ")
		_, text, ok = bytes.Cut(part, info[:len(info)-2])
		text = bytes.ReplaceAll(text[:min(len(text), 80)], []byte{0}, nil)
	}
	if !ok {
		return 0, nil
	}
	text = text[:min(len(text), 40)]
	digits := text[:len(text)-len(bytes.TrimLeft(text, "0123456789"))]
	version, err := strconv.Atoi(string(digits))
	if err != nil || version < 252 {
		return 0, fmt.Errorf("systemd-stub of version %q, want 252 or later", text)
	}
	return version, nil
}

// mangle is the command line as systemd-stub hands it on: up to a zero, control
// characters as spaces, none at the end.
func mangle(section []byte) string {
	text, _, _ := strings.Cut(string(section), "\x00")
	text = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text)
	return strings.TrimRight(text, " ")
}

// Kernel predicts the boot of a kernel with an EFI stub, which the firmware
// starts itself: EDK2, or U-Boot's bootefi. Initrd is nil without one. Where the
// kernel reads it itself, by initrd= on its command line, it is not measured: the
// log of another such boot, nil if there is none, says whether it is.
func Kernel(kernel, initrd []byte, cmdline string, other *eventlog.Log) (*Boot, error) {
	digest, err := Authenticode(kernel)
	if err != nil {
		return nil, fmt.Errorf("cannot predict boot of kernel: %w", err)
	}
	boot := &Boot{PCRs: []int{4, 9}, Cmdline: cmdline, Events: append([]Event{application(digest)}, stub(cmdline, initrd)...)}
	switch {
	case len(initrd) == 0:
	case other != nil:
		if !other.Measures(9, eventlog.Initrd) {
			boot.Notes = append(boot.Notes, "the initial RAM disk is not measured, as it was not in the log that was given")
			boot.Events = boot.Events[:len(boot.Events)-1]
		}
	case strings.Contains(" "+cmdline, " initrd="):
		boot.Notes = append(boot.Notes, "initrd= is on the command line: if the kernel reads it itself and not from the firmware, it is not measured")
		boot.Events[len(boot.Events)-1].Optional = true
	}
	return boot, nil
}

// Bootm predicts a boot by U-Boot's bootm or booti with CONFIG_MEASURED_BOOT.
// Its kernel is the image that U-Boot starts, unpacked from a FIT.
func Bootm(kernel, initrd []byte, cmdline string) *Boot {
	boot := &Boot{PCRs: []int{1, 8, 9}, Cmdline: cmdline, Events: []Event{event(8, eventlog.CompactHash, []byte("linux\x00"), kernel)}}
	if len(initrd) > 0 {
		boot.Events = append(boot.Events, event(9, eventlog.CompactHash, []byte("initrd\x00"), initrd))
	}
	text := append([]byte(cmdline), 0)
	boot.Events = append(boot.Events, event(1, eventlog.PlatformConfigFlags, text, text))
	return boot
}
