package verifier_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/eventlog"
	"github.com/miotfacts/miotfacts/attest/ima"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// A bootLog is a recorded one, changed as a test likes, and the command line of
// the boot.
type bootLog struct {
	data    []byte
	cmdline string
}

func recordedBoot(t testing.TB, name string) bootLog {
	t.Helper()
	dir := filepath.Join("..", "testdata", "boot", name)
	data, err := os.ReadFile(filepath.Join(dir, "bios.bin"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "cmdline.txt"))
	if err != nil {
		t.Fatal(err)
	}
	return bootLog{data, strings.TrimSpace(string(text))}
}

func (b bootLog) log(t testing.TB) *eventlog.Log {
	t.Helper()
	l, err := eventlog.Parse(b.data)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// events returns the log as references have it.
func (b bootLog) events(t testing.TB) []reference.BootEvent {
	t.Helper()
	l := b.log(t)
	v, err := l.Verify(eventlog.SHA256, l.Replay()[eventlog.SHA256])
	if err != nil {
		t.Fatal(err)
	}
	var out []reference.BootEvent
	for _, e := range v.Record(func(int) bool { return true }, b.cmdline) {
		out = append(out, reference.BootEvent{PCR: uint8(e.PCR), What: reference.BootComponent(e.Component), Digest: e.Digest, Subject: e.Subject, Value: e.Value, Optional: e.Optional})
	}
	return out
}

func wide(text string) []byte {
	var b []byte
	for _, r := range text + "\x00" {
		b = append(b, byte(r), byte(r>>8))
	}
	return b
}

// with returns the boot with another digest of a component in a PCR.
func (b bootLog) with(t testing.TB, pcr uint8, c eventlog.Component, digest []byte) bootLog {
	t.Helper()
	var old []byte
	for _, e := range b.events(t) {
		if e.PCR == pcr && e.What == reference.BootComponent(c) && e.Subject != "separator" {
			old = e.Digest
		}
	}
	if old == nil {
		t.Fatalf("no %s in PCR %d", c, pcr)
	}
	return bootLog{bytes.ReplaceAll(b.data, old, digest), b.cmdline}
}

func (b bootLog) withCmdline(t testing.TB, text string) bootLog {
	digest := sha256.Sum256(wide(text))
	b = b.with(t, 9, eventlog.CommandLine, digest[:])
	b.cmdline = text
	return b
}

// An imaList is a list that a test makes, with what it extends.
type imaList struct {
	data    []byte
	extends [][]byte
}

func (l *imaList) add(hash, name string, digest []byte) {
	sized := func(b []byte) []byte { return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...) }
	data := slices.Concat(sized(append([]byte(hash+":\x00"), digest...)), sized([]byte(name+"\x00")))
	short, long := sha1.Sum(data), sha256.Sum256(data)
	if name == "violation" {
		short, long = [20]byte{}, [32]byte(bytes.Repeat([]byte{0xff}, 32))
	}
	l.data = slices.Concat(l.data, binary.LittleEndian.AppendUint32(nil, 10), short[:], sized([]byte("ima-ng")), sized(data))
	l.extends = append(l.extends, long[:])
}

// newList returns a list that begins as a kernel's does after the boot.
func newList(t testing.TB, b bootLog) *imaList {
	t.Helper()
	pcrs := b.log(t).Replay()[eventlog.SHA256]
	if pcrs[8] == nil {
		pcrs[8] = make([]byte, 32)
	}
	sum, err := ima.Aggregate(ima.SHA256, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	l := new(imaList)
	l.add("sha256", "boot_aggregate", sum)
	return l
}

func fileDigest(name string) []byte {
	d := sha256.Sum256([]byte(name))
	return d[:]
}

// A machine is a device whose TPM has measured a boot, with its logs.
type machine struct {
	*verifiertest.Device
	tpm     *tpmtest.Emulator
	logs    map[attest.Log][]byte
	missing map[attest.Log]attest.Gap
	have    map[attest.Log]uint64 // what the verifier said that it has
	values  []byte                // digest of the PCR values that it said it has
	limit   int                   // of a part, packed
	late    []byte                // measured by IMA between the quote and the reading
}

func newMachine(f *verifiertest.Fleet, b bootLog) *machine {
	f.Helper()
	e := tpmtest.New(f)
	m := &machine{tpm: e, logs: map[attest.Log][]byte{attest.LogFirmware: b.data}, have: map[attest.Log]uint64{}, limit: 16 << 10}
	for _, event := range b.log(f).Events {
		if d := event.Digest(eventlog.SHA256); d != nil && event.Type != eventlog.NoAction {
			m.extend(f, event.PCR, d)
		}
	}
	m.Device = f.NewTPMDevice(e.Addr)
	m.Set(13, facts.TextValue(b.cmdline))
	m.Enrolled()
	return m
}

func (m *machine) extend(t testing.TB, pcr int, digests ...[]byte) {
	t.Helper()
	for _, d := range digests {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: d}}},
		}.Execute(m.tpm)
		if err != nil {
			t.Fatal(err)
		}
	}
}

// measures lets IMA measure what is in the list and was not yet.
func (m *machine) measures(l *imaList) {
	m.Fleet.Helper()
	m.extend(m.Fleet, 10, l.extends...)
	l.extends = nil
	m.logs[attest.LogIMA] = l.data
}

// message seals a report as an agent does, with what is new in the logs.
func (m *machine) message(r *attest.Report, quoted bool) *attest.Message {
	m.Fleet.Helper()
	r.Body.NoLogs = m.missing
	signed, err := attest.Seal(r, m.Signer)
	if err != nil {
		m.Fleet.Fatal(err)
	}
	digest := sha256.Sum256(signed)
	m.Sequence, m.Digest = r.Body.Sequence, digest[:]
	msg := &attest.Message{Report: signed}
	if quoted {
		msg.Quote = m.Quote(r.Nonce, signed, m.Ref.Manifest().Boot.PCRs)
	}
	for _, l := range []attest.Log{attest.LogFirmware, attest.LogUserspace, attest.LogIMA} {
		data := m.logs[l]
		if l == attest.LogIMA {
			data = slices.Concat(data, m.late)
		}
		if at := m.have[l]; at < uint64(len(data)) {
			p, err := attest.Pack(l, at, data[at:], false, m.limit)
			if err != nil {
				m.Fleet.Fatal(err)
			}
			msg.Parts = append(msg.Parts, p)
		}
	}
	return msg
}

// says sends a message, takes the verifier's answer as an agent does, and returns
// what the verifier made of it.
func (m *machine) says(msg *attest.Message) *verifier.Record {
	m.Fleet.Helper()
	data := verifiertest.Encode(m.Fleet, msg)
	m.Fleet.Now++
	reply := m.Fleet.Take(m.Delivery(data))
	if reply.Refused != nil {
		m.Fleet.Fatalf("refused: %+v", reply.Refused)
	}
	if reply.Down != nil {
		down := m.Fleet.Down(reply.Down)
		if down.Have == nil || !bytes.Equal(down.Have.BootSeed, m.Seed[:]) {
			m.Fleet.Fatalf("told %+v", down)
		}
		for l, n := range down.Have.Bytes {
			m.have[l] = n
		}
		if down.Have.PCRs != nil {
			m.values = down.Have.PCRs
		}
	}
	r, err := m.Fleet.Store.Report(m.UEID, m.Sequence)
	if err != nil {
		m.Fleet.Fatal(err)
	}
	return r
}

func (m *machine) quotes() *verifier.Record {
	m.Fleet.Helper()
	return m.says(m.message(m.Report(attest.KindBoot), true))
}

func (m *machine) goesOn() *verifier.Record {
	m.Fleet.Helper()
	return m.says(m.message(m.Report(attest.KindRoutine), false))
}

var allPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}

// manifestOf returns a manifest whose references are these boots of the system,
// over the firmware of the first, and in which these files may run.
func manifestOf(t testing.TB, boots map[string]bootLog, files ...string) reference.Manifest {
	t.Helper()
	m := referencetest.Example()
	m.Boot = &reference.Boot{PCRs: allPCRs, Accept: [][]byte{}}
	system := reference.BootGroup{Name: "system"}
	var firmware []reference.BootEvent
	for _, name := range slices.Sorted(mapKeys(boots)) {
		v := reference.BootVersion{Name: name}
		firmware = nil
		for _, e := range boots[name].events(t) {
			if c := eventlog.Component(e.What); c >= eventlog.Loader {
				v.Events = append(v.Events, e)
			} else {
				firmware = append(firmware, e)
			}
		}
		system.Versions = append(system.Versions, v)
	}
	m.BootEvents = []reference.BootGroup{{Name: "firmware", Versions: []reference.BootVersion{{Name: "1", Events: firmware}}}, system}
	if len(files) > 0 {
		m.Files = &reference.Files{Exclude: []string{"/var/lib/"}}
		for _, name := range files {
			m.Files.Allow = append(m.Files.Allow, reference.File{Name: name, Digest: fileDigest(name)})
		}
	}
	return m
}

func mapKeys[V any](m map[string]V) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// wants looks for a finding.
func wants(t testing.TB, found []verifier.Finding, code verifier.Reason, tier verifier.Tier, words string) {
	t.Helper()
	if !slices.ContainsFunc(found, func(f verifier.Finding) bool {
		return f.Code == code && f.Tier == tier && strings.Contains(f.Text, words)
	}) {
		t.Errorf("no %s %s with %q in %+v", code, tier, words, found)
	}
}

// trustVector returns the trustworthiness vector of a record.
func trustVector(f *verifiertest.Fleet, r *verifier.Record) map[verifier.Trustworthy]int8 {
	f.Helper()
	result, err := verifier.OpenResult(r.Result, f.World.Result.Public())
	if err != nil {
		f.Fatal(err)
	}
	return result.Submods[r.Device.String()].Vector
}

func TestBootByItsEvents(t *testing.T) {
	a := recordedBoot(t, "edk2")
	b := a.withCmdline(t, a.cmdline+" quiet").with(t, 4, eventlog.Kernel, bytes.Repeat([]byte{0x66}, 32))
	manifest := manifestOf(t, map[string]bootLog{"A": a, "B": b}, "/usr/bin/factsd")
	const bad = verifier.TierContraindicated
	for _, c := range []struct {
		name  string
		boot  bootLog
		edit  func(m *machine)
		code  verifier.Reason // "": the boot is sound
		tier  verifier.Tier
		words string
		entry verifier.Trustworthy
		value int8
	}{
		{name: "A", boot: a, entry: verifier.Executables, value: 2},
		{name: "B after an update", boot: b, entry: verifier.Executables, value: 2},
		{name: "init", boot: a.withCmdline(t, a.cmdline+" init=/bin/sh"), code: verifier.ReasonBootCmdline, tier: bad,
			words: "the kernel command line gained init=/bin/sh", entry: verifier.Configuration, value: -103},
		{name: "kernel", boot: a.with(t, 4, eventlog.Kernel, bytes.Repeat([]byte{0x67}, 32)), code: verifier.ReasonBootKernel, tier: bad,
			words: "another kernel", entry: verifier.Executables, value: -102},
		{name: "kernel of B with the rest of A", boot: a.with(t, 4, eventlog.Kernel, bytes.Repeat([]byte{0x66}, 32)), code: verifier.ReasonBootKernel, tier: bad,
			words: "another kernel", entry: verifier.Executables, value: -102},
		{name: "initrd", boot: a.with(t, 9, eventlog.Initrd, bytes.Repeat([]byte{0x67}, 32)), code: verifier.ReasonBootInitrd, tier: bad,
			words: "another initrd", entry: verifier.Executables, value: -102},
		{name: "firmware", boot: a.with(t, 0, eventlog.Firmware, bytes.Repeat([]byte{0x67}, 32)), code: verifier.ReasonBootFirmware, tier: bad,
			words: "another firmware code", entry: verifier.Hardware, value: -104},
		{name: "keys", boot: recordedBoot(t, "secboot"), code: verifier.ReasonBootKeys, tier: bad,
			words: "Secure Boot changed from off to on", entry: verifier.Configuration, value: -103},
		{name: "the log of another boot", boot: b, edit: func(m *machine) { m.logs[attest.LogFirmware] = a.data }, code: verifier.ReasonBootLog, tier: bad,
			words: "does not explain PCR 4", entry: verifier.Executables, value: -105},
		{name: "a log that leaves an event out", boot: a, edit: func(m *machine) {
			events := a.log(t).Events
			m.logs[attest.LogFirmware] = a.data[:events[len(events)-1].Offset]
		}, code: verifier.ReasonBootLog, tier: bad, words: "does not explain PCR 5", entry: verifier.Executables, value: -105},
		{name: "a log that is cut", boot: a, edit: func(m *machine) { m.logs[attest.LogFirmware] = a.data[:len(a.data)-1] },
			code: verifier.ReasonBootLog, tier: bad, words: "cannot be read", entry: verifier.Executables, value: -105},
		{name: "garbage", boot: a, edit: func(m *machine) { m.logs[attest.LogFirmware] = []byte("all is well") },
			code: verifier.ReasonBootLog, tier: bad, words: "cannot be read", entry: verifier.Executables, value: -105},
		{name: "a log in which nothing is measured", boot: a, edit: func(m *machine) { m.logs[attest.LogFirmware] = a.data[:a.log(t).Events[1].Offset] },
			code: verifier.ReasonBootLog, tier: bad, words: "nothing is measured in it", entry: verifier.Executables, value: -105},
		{name: "padding alone", boot: a, edit: func(m *machine) { m.logs[attest.LogFirmware] = make([]byte, 4096) },
			code: verifier.ReasonBootLog, tier: bad, words: "cannot be read", entry: verifier.Executables, value: -105},
		{name: "a log of SHA-1 for a quote of SHA-256", boot: a, edit: func(m *machine) {
			digest := sha1.Sum(make([]byte, 4))
			m.logs[attest.LogFirmware] = slices.Concat([]byte{0, 0, 0, 0, 4, 0, 0, 0}, digest[:], []byte{4, 0, 0, 0}, make([]byte, 4))
		}, code: verifier.ReasonBootLog, tier: bad, words: "it has banks [sha1], not sha256", entry: verifier.Executables, value: -105},
		{name: "an event whose data are not what was measured", boot: a, edit: func(m *machine) {
			m.logs[attest.LogFirmware] = bytes.Replace(a.data, []byte("Exit Boot Services Invocation"), []byte("Exit Boot Services invocation"), 1)
		}, code: verifier.ReasonBootLog, tier: bad, words: "says what was not measured: PCR 5: Exit Boot Services invocation", entry: verifier.Executables, value: -105},
		{name: "two logs, one after the other", boot: a, edit: func(m *machine) { m.logs[attest.LogFirmware] = slices.Concat(a.data, a.data) },
			code: verifier.ReasonBootLog, tier: bad, words: "cannot be read", entry: verifier.Executables, value: -105},
		{name: "no log", boot: a, edit: func(m *machine) { delete(m.logs, attest.LogFirmware) },
			code: verifier.ReasonBootLog, tier: verifier.TierWarning, words: "has not come yet", entry: verifier.Executables, value: -39},
		{name: "no log there", boot: a, edit: func(m *machine) {
			delete(m.logs, attest.LogFirmware)
			m.missing = map[attest.Log]attest.Gap{attest.LogFirmware: {Status: facts.Absent, Reason: "no such file"}}
		}, code: verifier.ReasonBootLog, tier: verifier.TierWarning, words: "absent: no such file", entry: verifier.Executables, value: -39},
		{name: "userspace that is not in the PCR", boot: a, edit: func(m *machine) {
			m.logs[attest.LogUserspace] = []byte("\x1e" + `{"pcr":11,"digests":[{"hashAlg":"sha256","digest":"` + strings.Repeat("ab", 32) + `"}],"content_type":"systemd","content":{"eventType":"phase","string":"ready"}}` + "\n")
		}, entry: verifier.Executables, value: 2}, // ahead of the quote
		{name: "userspace that cannot be read", boot: a, edit: func(m *machine) { m.logs[attest.LogUserspace] = []byte("\x1e{}\n") },
			code: verifier.ReasonBootLog, tier: bad, words: "userspace's event log cannot be read", entry: verifier.Executables, value: -105},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := verifiertest.Of(t, manifest)
			m := newMachine(f, c.boot)
			list := newList(t, c.boot)
			list.add("sha256", "/usr/bin/factsd", fileDigest("/usr/bin/factsd"))
			m.measures(list)
			if c.edit != nil {
				c.edit(m)
			}
			r := m.quotes()
			if c.code == "" {
				if r.Tier != verifier.TierAffirming {
					t.Errorf("a sound boot: %+v", r.Findings)
				}
				if v := m.View().Boot.Versions; !slices.Contains(v, "system "+c.name[:1]) && c.edit == nil {
					t.Errorf("booted %q", v)
				}
			} else {
				wants(t, r.Findings, c.code, c.tier, c.words)
				wants(t, m.View().Findings, c.code, c.tier, c.words)
				if next := m.says(m.message(m.Report(attest.KindRoutine), false)); next.Tier < c.tier {
					t.Errorf("the next report is %s: %+v", next.Tier, next.Findings)
				}
			}
			if got := trustVector(f, r)[c.entry]; got != c.value {
				t.Errorf("entry %d is %d, want %d: %+v", c.entry, got, c.value, r.Findings)
			}
		})
	}
}

func TestFilesOfABoot(t *testing.T) {
	a := recordedBoot(t, "edk2")
	manifest := manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd", "/usr/bin/pump")
	const bad, warn = verifier.TierContraindicated, verifier.TierWarning
	for _, c := range []struct {
		name  string
		list  func(l *imaList)
		edit  func(m *machine, l *imaList)
		code  verifier.Reason
		tier  verifier.Tier
		words string
	}{
		{name: "sound", list: func(l *imaList) { l.add("sha256", "/usr/bin/pump", fileDigest("/usr/bin/pump")) }},
		{name: "excluded", list: func(l *imaList) { l.add("sha256", "/var/lib/x", fileDigest("x")) },
			code: verifier.ReasonNotAppraised, words: "1 files are not appraised"},
		{name: "unknown file", list: func(l *imaList) { l.add("sha256", "/usr/bin/evil", fileDigest("x")) },
			code: verifier.ReasonFile, tier: bad, words: "unknown file executed or read: /usr/bin/evil"},
		{name: "another content", list: func(l *imaList) { l.add("sha256", "/usr/bin/factsd", fileDigest("x")) },
			code: verifier.ReasonFile, tier: bad, words: "another content of /usr/bin/factsd"},
		{name: "by SHA-1", list: func(l *imaList) { l.add("sha1", "/usr/bin/pump", make([]byte, 20)) },
			code: verifier.ReasonFile, tier: bad, words: "another content of /usr/bin/pump: sha1"},
		{name: "violation", list: func(l *imaList) { l.add("sha256", "violation", make([]byte, 32)) },
			code: verifier.ReasonFileViolation, tier: warn, words: "violation"},
		{name: "not proved yet", edit: func(m *machine, l *imaList) {
			late := new(imaList)
			late.add("sha256", "/usr/bin/evil", fileDigest("x"))
			m.late = late.data // behind the quote: nothing is known of it
		}},
		{name: "list of another boot", edit: func(m *machine, l *imaList) {
			other := newList(t, recordedBoot(t, "secboot"))
			m.extend(t, 10, other.extends...)
			m.logs[attest.LogIMA] = slices.Concat(l.data, other.data)
		}, code: verifier.ReasonFileList, tier: bad, words: "the IMA list is of another boot"},
		{name: "an entry left out", edit: func(m *machine, l *imaList) { m.extend(t, 10, fileDigest("x")) },
			code: verifier.ReasonFileList, tier: bad, words: "does not lead to the quoted PCR"},
		{name: "a changed entry", edit: func(m *machine, l *imaList) {
			m.logs[attest.LogIMA] = bytes.Replace(l.data, []byte("boot_aggregate"), []byte("boot_aggregatf"), 1)
		}, code: verifier.ReasonFileList, tier: bad, words: "do not hash to"},
		{name: "no list", edit: func(m *machine, l *imaList) { delete(m.logs, attest.LogIMA) },
			code: verifier.ReasonFileList, tier: warn, words: "has not come yet"},
		{name: "no list there", edit: func(m *machine, l *imaList) {
			delete(m.logs, attest.LogIMA)
			m.missing = map[attest.Log]attest.Gap{attest.LogIMA: {Status: facts.Unreadable, Reason: "permission denied"}}
		}, code: verifier.ReasonFileList, tier: warn, words: "unreadable: permission denied"},
		{name: "garbage", edit: func(m *machine, l *imaList) { m.logs[attest.LogIMA] = bytes.Repeat([]byte("all is well"), 100) },
			code: verifier.ReasonFileList, tier: bad, words: "cannot be read"},
		{name: "the text form", edit: func(m *machine, l *imaList) {
			m.logs[attest.LogIMA] = []byte("10 " + strings.Repeat("0", 40) + " ima-ng sha256:00 boot_aggregate\n")
		}, code: verifier.ReasonFileList, tier: bad, words: "text form"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := verifiertest.Of(t, manifest)
			m := newMachine(f, a)
			list := newList(t, a)
			if c.list != nil {
				c.list(list)
			}
			m.measures(list)
			if c.edit != nil {
				c.edit(m, list)
			}
			r := m.quotes()
			if c.code == "" || c.tier == 0 {
				if r.Tier != verifier.TierAffirming {
					t.Errorf("sound files: %+v", r.Findings)
				}
			}
			if c.code != "" {
				wants(t, r.Findings, c.code, c.tier, c.words)
			}
		})
	}
}

// Userspace extends PCR 9 after IMA has taken boot_aggregate: that is no other
// boot. Its log proves it, and the manifest has the event.
func TestUserspaceExtendsLater(t *testing.T) {
	a := recordedBoot(t, "edk2")
	manifest := manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd")
	digest := sha256.Sum256([]byte("nvpcr-init"))
	system := &manifest.BootEvents[1].Versions[0]
	system.Events = append(system.Events, reference.BootEvent{PCR: 9, What: 8, Digest: digest[:], Subject: "nvpcr-init", Optional: true})
	f := verifiertest.Of(t, manifest)
	m := newMachine(f, a)
	m.measures(newList(t, a))
	m.extend(t, 9, digest[:])
	r := m.quotes() // without userspace's log
	wants(t, r.Findings, verifier.ReasonBootLog, verifier.TierContraindicated, "does not explain PCR 9")
	wants(t, r.Findings, verifier.ReasonFileList, verifier.TierContraindicated, "is of another boot")
	m.Reboot()
	m.have = map[attest.Log]uint64{}
	m.logs[attest.LogUserspace] = fmt.Appendf(nil, "\x1e{\"pcr\":9,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\"%x\"}],\"content_type\":\"systemd\",\"content\":{\"eventType\":\"nvpcr-init\",\"string\":\"nvpcr-init\"}}\n", digest)
	if r := m.quotes(); has(r.Findings, verifier.ReasonBootLog, verifier.TierContraindicated) || has(r.Findings, verifier.ReasonFileList, verifier.TierContraindicated) {
		t.Errorf("%+v", r.Findings)
	}
}

// IMA that started without the TPM is told, and no list is believed.
func TestTPMBypass(t *testing.T) {
	a := recordedBoot(t, "edk2")
	f := verifiertest.Of(t, manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd"))
	m := newMachine(f, a)
	bypass := new(imaList)
	bypass.add("sha1", "boot_aggregate", make([]byte, 20))
	m.logs[attest.LogIMA] = bypass.data
	wants(t, m.quotes().Findings, verifier.ReasonFileTPM, verifier.TierWarning, "TPM-bypass")
	m.Reboot()
	m.have = map[attest.Log]uint64{}
	m.logs[attest.LogIMA] = newList(t, a).data
	wants(t, m.quotes().Findings, verifier.ReasonFileTPM, verifier.TierContraindicated, "was never extended")
}

// A list grows, comes in pieces with reports that have no quote, and each entry is
// judged once, as soon as a quote proves it.
func TestListsGrow(t *testing.T) {
	a := recordedBoot(t, "edk2")
	f := verifiertest.Of(t, manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd"))
	m := newMachine(f, a)
	m.limit = 1024
	list := newList(t, a)
	for i := range 100 {
		list.add("sha256", fmt.Sprintf("/proc/%d/exe", i), fileDigest("/usr/bin/factsd"))
	}
	m.measures(list)
	r := m.quotes()
	wants(t, r.Findings, verifier.ReasonFileList, verifier.TierWarning, "and not yet the rest")
	for n := 0; r.Tier != verifier.TierAffirming; n++ {
		if n > 10 {
			t.Fatalf("still %+v", r.Findings)
		}
		r = m.goesOn()
	}
	if got := m.View().Boot.Files.Allowed; got != 100 {
		t.Errorf("%d entries judged", got)
	}
	list.add("sha256", "/tmp/evil", fileDigest("x"))
	m.measures(list)
	if r := m.goesOn(); r.Tier != verifier.TierAffirming {
		t.Errorf("judged what no quote proves: %+v", r.Findings)
	}
	wants(t, m.quotes().Findings, verifier.ReasonFile, verifier.TierContraindicated, "/tmp/evil")
	if got := m.View().Boot.Files; got.Allowed != 100 || got.Offset != uint64(len(list.data)) {
		t.Errorf("%+v", got)
	}
	// It stays so, whatever comes later in this boot.
	wants(t, m.goesOn().Findings, verifier.ReasonFile, verifier.TierContraindicated, "/tmp/evil")
	// A manifest that allows the file judges all of it anew.
	newer := manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd", "x")
	newer.Sequence++
	refs := []*reference.Reference{f.Ref, f.World.Open(t, newer)}
	var err error
	if f.Verifier, err = verifier.New(verifier.Config{References: refs, Result: f.World.Result, Command: f.World.Command}, f.Store); err != nil {
		t.Fatal(err)
	}
	m.Ref = refs[1]
	if r := m.quotes(); r.Tier != verifier.TierAffirming || m.View().Boot.Files.Allowed != 101 {
		t.Errorf("under the newer manifest: %+v", r.Findings)
	}
}

// What is lost or changed on the way, or forgotten on either side, mends itself.
func TestLogsMend(t *testing.T) {
	a := recordedBoot(t, "edk2")
	f := verifiertest.Of(t, manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd"))
	m := newMachine(f, a)
	m.measures(newList(t, a))

	// Parts are changed on their way: nothing is believed, and they come again.
	msg := m.message(m.Report(attest.KindBoot), true)
	forged := bytes.Clone(a.data)
	forged[bytes.Index(forged, wide("SecureBoot")[:20])+20] ^= 1 // Secure Boot's value
	var err error
	if msg.Parts[0], err = attest.Pack(attest.LogFirmware, 0, forged, false, 16<<10); err != nil {
		t.Fatal(err)
	}
	if r := m.says(msg); r.Tier < verifier.TierWarning {
		t.Errorf("believed: %+v", r.Findings)
	}
	m.have = map[attest.Log]uint64{}
	msg = m.message(m.Report(attest.KindBoot), true)

	// The device forgets what the verifier has: all of it is sent again, and fits.
	if r := m.says(msg); r.Tier != verifier.TierAffirming {
		t.Errorf("sent again: %+v", r.Findings)
	}
	// A part is lost: the next one is not taken, and the device told.
	list := newList(t, a)
	list.add("sha256", "/usr/bin/factsd", fileDigest("/usr/bin/factsd"))
	list.extends = list.extends[1:]
	m.measures(list)
	m.have[attest.LogIMA] = uint64(len(list.data) - 10)
	r := m.quotes()
	wants(t, r.Findings, verifier.ReasonFileList, verifier.TierContraindicated, "does not lead to")
	if m.have[attest.LogIMA] != 0 {
		t.Errorf("the device was told %d", m.have[attest.LogIMA])
	}
	if r := m.goesOn(); r.Tier != verifier.TierAffirming {
		t.Errorf("after it came again: %+v", r.Findings)
	}
	// The verifier loses its memory: another one learns of the device and asks.
	d, err := f.Store.Device(m.UEID)
	if err != nil {
		t.Fatal(err)
	}
	d.Boot = nil
	if err := f.Store.Accept(d, &verifier.Record{Device: m.UEID, Chain: d.Chain, Sequence: 1000, Digest: [32]byte{1}, BootSeed: m.Seed, Kind: attest.KindRoutine,
		Logs: []verifier.LogChange{{Log: attest.LogFirmware, Reset: true}, {Log: attest.LogIMA, Reset: true}}}); err != nil {
		t.Fatal(err)
	}
	wants(t, m.quotes().Findings, verifier.ReasonBootLog, verifier.TierWarning, "has not come yet")
	if r := m.goesOn(); r.Tier != verifier.TierAffirming {
		t.Errorf("after it came again: %+v", r.Findings)
	}
}

// A quote that comes late is older than what is proved, and takes nothing back.
func TestLateQuote(t *testing.T) {
	a := recordedBoot(t, "edk2")
	f := verifiertest.Of(t, manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd"))
	m := newMachine(f, a)
	list := newList(t, a)
	m.measures(list)
	m.quotes()
	late := m.message(m.Report(attest.KindBoot), true)
	list.add("sha256", "/usr/bin/factsd", fileDigest("/usr/bin/factsd"))
	m.measures(list)
	sequence := m.Sequence
	if r := m.quotes(); r.Tier > verifier.TierWarning {
		t.Errorf("%+v", r.Findings)
	}
	m.Sequence, sequence = sequence, m.Sequence
	if r := m.says(late); has(r.Findings, verifier.ReasonFileList, verifier.TierContraindicated) {
		t.Errorf("%+v", r.Findings)
	}
	m.Sequence = sequence
	if v := m.View(); v.Tier != verifier.TierAffirming || v.Boot.Files.Allowed != 1 {
		t.Errorf("%+v", v.Findings)
	}
}

// Each byte of a good message flipped once: it is refused, or changes nothing.
func TestEachByteOfTheLogs(t *testing.T) {
	a := recordedBoot(t, "edk2")
	manifest := manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd")
	f := verifiertest.Of(t, manifest)
	m := newMachine(f, a)
	m.measures(newList(t, a))
	msg := m.message(m.Report(attest.KindBoot), true)
	good := verifiertest.Encode(t, msg)
	u, err := attest.Decode(good)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Verify(m.Signer.Public()); err != nil {
		t.Fatal(err)
	}
	start := len(verifiertest.Encode(t, attest.Message{Report: msg.Report, Quote: msg.Quote}))
	policy := ima.NewPolicy()
	if err := policy.Allow("/usr/bin/factsd", fileDigest("/usr/bin/factsd")); err != nil {
		t.Fatal(err)
	}
	pcrs := msg.Quote.PCRs
	harmless := 0
	for i := start; i < len(good); i++ {
		changed := bytes.Clone(good)
		changed[i] ^= 1 << (i % 8)
		x, err := attest.Decode(changed)
		if err != nil {
			continue
		}
		v, err := x.Verify(m.Signer.Public())
		if err != nil {
			continue
		}
		for _, p := range v.UnverifiedParts() {
			data, err := p.Bytes()
			if err != nil || p.Offset != 0 || p.More || bytes.Equal(data, m.logs[p.Log]) {
				continue // not taken, waited for, or the same bytes in another packing
			}
			switch p.Log {
			case attest.LogFirmware:
				l, err := eventlog.Parse(data)
				if err != nil {
					continue
				}
				w, err := l.Verify(eventlog.SHA256, a.log(t).Replay()[eventlog.SHA256])
				if err != nil || !w.Complete() {
					continue
				}
				match := w.Match(verifier.BootGroups(manifest.BootEvents), a.cmdline)
				if len(match.Deviations)+len(match.False) > 0 {
					continue
				}
				harmless++ // words that no digest covers: what was extended must be the same
				extends := func(l *eventlog.Log) []eventlog.Event {
					return slices.DeleteFunc(slices.Clone(l.Events), func(e eventlog.Event) bool { return e.Type == eventlog.NoAction })
				}
				if !slices.EqualFunc(extends(l), extends(a.log(t)), func(a, b eventlog.Event) bool {
					return a.PCR == b.PCR && bytes.Equal(a.Digest(eventlog.SHA256), b.Digest(eventlog.SHA256))
				}) {
					t.Errorf("byte %d: other events pass for the reference's", i)
				}
			case attest.LogIMA:
				list, err := ima.ParseNext(data)
				if err != nil {
					continue
				}
				prefix, err := list.Prefix(ima.State{}, ima.SHA256, pcrs[10].Digest)
				if err != nil {
					continue
				}
				for n := range list.Entries[:prefix.Entries] {
					if verdict, _ := policy.Look(&list.Entries[n]); verdict != ima.Unknown && !bytes.Contains(m.logs[attest.LogIMA], list.Entries[n].Data) {
						t.Errorf("byte %d: another file passes for one that is allowed", i)
					}
				}
			}
		}
	}
	t.Logf("%d bytes of parts, flipped each; %d change only words of the event log that no digest covers", len(good)-start, harmless)
}

func TestFilesNeedTheirList(t *testing.T) {
	a := recordedBoot(t, "edk2")
	text := []byte("2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae  /usr/bin/foo\n")
	digest := sha256.Sum256(text)
	m := manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd")
	m.Files.Attachment = digest[:]
	f := verifiertest.Of(t, m, func(c *verifier.Config) { c.Files = [][]byte{[]byte("other"), text} })
	cfg := verifier.Config{References: []*reference.Reference{f.Ref}, Result: f.World.Result}
	if _, err := verifier.New(cfg, f.Store); err == nil || !strings.Contains(err.Error(), "is not configured") && !strings.Contains(err.Error(), "names") {
		t.Errorf("without the list: %v", err)
	}
	d := newMachine(f, a)
	list := newList(t, a)
	list.add("sha256", "/usr/bin/foo", fileDigest("foo"))
	d.measures(list)
	if r := d.quotes(); r.Tier != verifier.TierAffirming {
		t.Errorf("%+v", r.Findings)
	}
}

// PCR values that the verifier has need not come again; a quote over others proves
// nothing until they come.
func TestQuoteWithoutValues(t *testing.T) {
	a := recordedBoot(t, "edk2")
	manifest := manifestOf(t, map[string]bootLog{"A": a})
	manifest.BootEvents = nil // no log is needed: the values alone count
	manifest.Boot.PCRs = []int{0, 7, 10}
	m := newMachine(verifiertest.Of(t, manifest), a)
	first := m.message(m.Report(attest.KindBoot), true)
	digest := attest.PCRDigest(first.Quote.PCRs)
	m.says(first)
	if !bytes.Equal(m.values, digest) {
		t.Fatalf("the verifier says that it has %x, sent were %x", m.values, digest)
	}
	quotes := func(kind attest.Kind, values bool) *verifier.Record {
		t.Helper()
		msg := m.message(m.Report(kind), true)
		if !values {
			msg.Quote.PCRs = nil
		}
		m.values = nil
		return m.says(msg)
	}
	lacks := func(r *verifier.Record) bool {
		return slices.ContainsFunc(r.Findings, func(f verifier.Finding) bool { return f.Code == verifier.ReasonBootValues })
	}
	if r := quotes(attest.KindRoutine, false); !r.Quoted || lacks(r) || m.values != nil {
		t.Errorf("the same values: quoted %v, %s, %v, told %x", r.Quoted, r.Tier, r.Findings, m.values)
	}
	m.extend(t, 10, fileDigest("a file"))
	if r := quotes(attest.KindRoutine, false); r.Quoted || !lacks(r) || r.Tier != verifier.TierWarning || !bytes.Equal(m.values, digest) {
		t.Errorf("other values: quoted %v, %s, %v, told %x", r.Quoted, r.Tier, r.Findings, m.values)
	}
	if r := quotes(attest.KindRoutine, true); !r.Quoted || lacks(r) || m.values == nil || bytes.Equal(m.values, digest) {
		t.Errorf("with them: quoted %v, %v, told %x", r.Quoted, r.Findings, m.values)
	}
	m.Seed[0]++ // another boot: what an earlier one had counts no more
	if r := quotes(attest.KindRoutine, false); r.Quoted || !lacks(r) || !bytes.Equal(m.values, attest.PCRDigest(nil)) {
		t.Errorf("in another boot: quoted %v, %v, told %x", r.Quoted, r.Findings, m.values)
	}
	msg := m.message(m.Report(attest.KindBoot), true)
	msg.Quote.PCRs = nil
	if reply := m.Fleet.Take(m.Delivery(verifiertest.Encode(t, msg))); reply.Refused == nil || reply.Refused.Reason != verifier.ReasonQuote {
		t.Errorf("a boot report without the values: %+v", reply.Refused)
	}
}
