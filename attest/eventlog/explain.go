package eventlog

import (
	"bytes"
	"fmt"
	"strings"
)

// A Line is one event in words.
type Line struct {
	PCR     int
	Event   int    // its place among the log's events
	Subject string // what was measured, the same words in another boot: "kernel command line"
	Value   string // what it was; empty when the log shows nothing but a digest
	Proof   Proof  // what is known about Value
	Digest  []byte // in the bank that was looked at; nil when nothing was extended

	Component Component // the part of the machine that it is about

	text string
}

// String is the line for people: "PCR 7: Secure Boot is on". What the digest
// does not prove is marked.
func (l Line) String() string {
	text := fmt.Sprintf("PCR %d: %s", l.PCR, l.Text())
	switch {
	case l.Proof == Contradicted:
		return text + " [false: the data do not hash to the digest]"
	case l.Proof == NotExtended:
		return text + " [a note, extended nothing]"
	case l.Proof == NotCovered && l.Value != "":
		return text + " [by its digest; the words are the log's]"
	}
	return text
}

// Text is the line without its PCR.
func (l Line) Text() string {
	switch {
	case l.text != "":
		return l.text
	case l.Value != "":
		return l.Subject + ": " + l.Value
	}
	return l.Subject
}

// Explain says what the log claims, in words and in order. Claims are texts
// that the device states elsewhere, such as its kernel command line: where one
// hashes to an event's digest, it is what was measured, and gives the event
// its words. Nothing of it is verified; (*Verified).Explain is.
func (l *Log) Explain(claims ...string) []Line {
	bank, ok := l.strongest(l.Banks)
	if !ok {
		return nil
	}
	return l.explain(bank, nil, claims)
}

// Explain says what booted, for the PCRs that are explained.
func (v *Verified) Explain(claims ...string) []Line {
	return v.log.explain(v.bank, v.explained, claims)
}

// strongest is the best of list that the log has without gaps.
func (l *Log) strongest(list []Bank) (Bank, bool) {
	for _, want := range []Bank{SHA256, SHA384, SHA512, SHA3256, SHA3384, SHA3512, SM3, SHA1} {
		for _, b := range list {
			if b == want {
				return b, true
			}
		}
	}
	return 0, false
}

// explain takes only PCRs of only, if that is not nil, and then nothing that
// extended nothing.
func (l *Log) explain(bank Bank, only map[int]bool, claims []string) []Line {
	claimed := map[string]string{}
	for _, text := range claims {
		for _, b := range encodings(text) {
			claimed[string(bank.sum(b))] = text
		}
	}
	var lines []Line
	components := l.components()
	for i := range l.Events {
		e := &l.Events[i]
		line := e.words()
		line.Component = components[i]
		if line.Component == CommandLine && e.Type == PlatformConfigFlags {
			line.Subject = "kernel command line"
		}
		line.PCR, line.Event, line.Proof = e.PCR, i, e.Proof(bank)
		if line.Proof != NotExtended {
			line.Digest = e.Digest(bank)
		}
		if only != nil && (!only[e.PCR] || line.Digest == nil) || e.PCR == NoPCR {
			continue
		}
		if line.Proof == NotCovered {
			if text, ok := claimed[string(line.Digest)]; ok {
				line.Value, line.Proof, line.text = clean(text), ValueProved, ""
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// words describes an event: subject, value and, where these two with a colon
// do not make a sentence, the text.
func (e *Event) words() Line {
	if e.Kind != "" && e.Kind != "pcclient_std" {
		return e.recordWords()
	}
	switch e.Type {
	case NoAction:
		switch {
		case bytes.HasPrefix(e.Data, specID03):
			return Line{Subject: "header of the log"}
		case bytes.HasPrefix(e.Data, locality) && len(e.Data) > len(locality):
			return Line{Subject: "TPM started from locality", Value: fmt.Sprint(e.Data[len(locality)])}
		}
		return Line{Subject: "note", Value: textOf(e.Data)}
	case Separator:
		if e.isError() {
			return Line{Subject: "separator", Value: textOf(e.Data), text: "the firmware reports an error instead of handing over: " + textOf(e.Data)}
		}
		return Line{Subject: "separator", Value: hexOf(e.Data), text: "here the firmware hands over"}
	case SCRTMVersion:
		return Line{Subject: "firmware version", Value: textOf(e.Data)}
	case SCRTMContents:
		return Line{Subject: "first code of the firmware", Value: textOf(e.Data)}
	case PostCode, PostCode2:
		if text, ok := blob(e.Data, false); ok {
			return Line{Subject: "firmware code", Value: text}
		}
		if text, ok := blob(e.Data, true); ok {
			return Line{Subject: "firmware code", Value: text}
		}
		return Line{Subject: "firmware code", Value: textOf(e.Data)}
	case EFIPlatformFirmwareBlob, EFIPlatformFirmwareBlob2:
		return e.line("firmware code", func(b []byte) (string, bool) { return blob(b, e.Type == EFIPlatformFirmwareBlob2) })
	case CPUMicrocode:
		return Line{Subject: "processor microcode", Value: textOf(e.Data)}
	case EFIHCRTMEvent:
		return Line{Subject: "hardware root of trust", Value: textOf(e.Data)}
	case PlatformConfigFlags:
		return Line{Subject: "platform configuration", Value: textOf(e.Data)}
	case TableOfDevices:
		return Line{Subject: "table of devices", Value: textOf(e.Data)}
	case NonhostCode, NonhostConfig, NonhostInfo:
		return Line{Subject: "firmware of another processor", Value: textOf(e.Data)}
	case EFIHandoffTables:
		return Line{Subject: "tables for the operating system"}
	case EFIHandoffTables2:
		return e.line("tables for the operating system", func(b []byte) (string, bool) {
			c := &cursor{data: b}
			name := c.bytes(uint64(c.u8()))
			return textOf(name), !c.short
		})
	case EFIBootServicesApplication:
		return e.line("boot application", imagePath)
	case EFIBootServicesDriver, EFIRuntimeServicesDriver:
		return e.line("firmware driver", imagePath)
	case EFIVariableDriverConfig, EFIVariableBoot, EFIVariableBoot2, EFISPDMDevicePolicy:
		return e.variableWords()
	case EFIVariableAuthority, EFISPDMDeviceAuthority:
		return e.authorityWords()
	case EFIGPTEvent, EFIGPTEvent2:
		return e.line("partition table", partitions)
	case EFIAction, Action, OmitBootDeviceEvents:
		return Line{Subject: "action", Value: textOf(e.Data), text: textOf(e.Data)}
	case EventTag:
		return e.tagWords()
	case IPL, CompactHash, IPLPartitionData:
		return e.loaderWords()
	}
	return Line{Subject: e.Type.String(), Value: textOf(e.Data)}
}

// line is a Line whose value read makes of the data.
func (e *Event) line(subject string, read func([]byte) (string, bool)) Line {
	if text, ok := read(e.Data); ok {
		return Line{Subject: subject, Value: text}
	}
	return Line{Subject: subject, Value: fmt.Sprintf("%s that cannot be read", hexOf(e.Data))}
}

func (e *Event) variableWords() Line {
	v, ok := readVariable(e.Data)
	if !ok {
		// As some firmware of TPM 1.2 has it: nothing but a value.
		return Line{Subject: "firmware variable", Value: textOf(e.Data)}
	}
	line := Line{Subject: "variable " + clean(v.name), Value: textOf(v.data)}
	switch v.name {
	case "SecureBoot", "SetupMode", "AuditMode", "DeployedMode":
		if len(v.data) != 1 || v.data[0] > 1 {
			break
		}
		line.Subject = map[string]string{"SecureBoot": "Secure Boot", "SetupMode": "Secure Boot's setup mode", "AuditMode": "Secure Boot's audit mode", "DeployedMode": "Secure Boot's deployed mode"}[v.name]
		line.Value = [...]string{"off", "on"}[v.data[0]]
		line.text = line.Subject + " is " + line.Value
	case "PK", "KEK", "db", "dbx", "dbr", "dbt":
		meaning := map[string]string{"PK": "platform key", "KEK": "key exchange keys", "db": "allowed signers", "dbx": "forbidden signers", "dbr": "recovery signers", "dbt": "time stamp signers"}[v.name]
		line.Subject = fmt.Sprintf("%s (%s)", v.name, meaning)
		line.Value = signersInWords(v.data)
	case "BootOrder":
		if text, ok := bootOrder(v.data); ok {
			line.Subject, line.Value = "boot order", text
		}
	default:
		if number, ok := strings.CutPrefix(v.name, "Boot"); ok && len(number) == 4 {
			if text, ok := bootOption(v.data); ok {
				line.Subject, line.Value = "boot option "+clean(number), text
			}
		}
	}
	return line
}

// authorityWords names what allowed an image to run (10.4.2, table 27): an
// EFI_SIGNATURE_DATA of db, or what shim measures under names of its own.
func (e *Event) authorityWords() Line {
	v, ok := readVariable(e.Data)
	if !ok {
		return Line{Subject: "authority", Value: textOf(e.Data)}
	}
	line := Line{Subject: "authority from " + clean(v.name), Value: textOf(v.data)}
	if len(v.data) > 16 {
		der := v.data
		if der[0] != 0x30 || v.name == "db" {
			der = der[16:]
		}
		if der[0] == 0x30 && len(der) > 64 {
			line.Value = certificate(der)
			line.text = fmt.Sprintf("the image was signed under %s from %s", line.Value, clean(v.name))
		} else if v.name == "db" {
			line.Value = signer{guidSHA256, der}.String()
		}
	}
	return line
}

func (e *Event) tagWords() Line {
	t, ok := readTag(e.Data)
	if !ok {
		return Line{Subject: "tagged event", Value: textOf(e.Data)}
	}
	switch t.id {
	case tagLoadOptions:
		return Line{Subject: "kernel command line"}
	case tagInitrd:
		return Line{Subject: "initial RAM disk"}
	}
	return Line{Subject: fmt.Sprintf("tagged event %#08x", t.id), Value: textOf(t.data)}
}

// loaderWords is about EV_IPL, whose meaning depends on who measures where.
func (e *Event) loaderWords() Line {
	text := string(bytes.TrimRight(e.Data, "\x00"))
	for _, p := range grubPrefixes {
		if rest, ok := strings.CutPrefix(text, p.prefix); ok {
			return Line{Subject: p.subject, Value: clean(rest)}
		}
	}
	if wide, ok := decodeUTF16(e.Data); ok && !isText(text) {
		switch {
		case e.PCR == 11: // systemd-stub measures the name, then the content
			if e.provedBySome() {
				return Line{Subject: "name of UKI section", Value: clean(wide)}
			}
			if wide == ".cmdline" {
				return Line{Subject: "UKI's command line"}
			}
			return Line{Subject: "UKI section " + clean(wide)}
		case e.PCR == 8 || e.PCR == 12: // systemd-boot, systemd-stub
			return Line{Subject: "kernel command line", Value: clean(wide)}
		}
		return Line{Subject: "loader", Value: clean(wide)}
	}
	switch {
	case e.PCR == 8 && text == "linux": // U-Boot, CONFIG_MEASURED_BOOT
		return Line{Subject: "kernel"}
	case e.PCR == 9 && text == "initrd":
		return Line{Subject: "initial RAM disk"}
	case e.PCR == 9:
		return Line{Subject: "file read by the loader", Value: textOf(e.Data)}
	case e.PCR == 14:
		return Line{Subject: "shim's " + textOf(e.Data)}
	}
	return Line{Subject: "loader", Value: textOf(e.Data)}
}

// provedBySome says whether some bank proves the data.
func (e *Event) provedBySome() bool {
	for _, d := range e.Digests {
		if p := e.Proof(d.Bank); p == Proved || p == ValueProved {
			return true
		}
	}
	return false
}

// recordWords is about records of CEL that are no TCG events.
func (e *Event) recordWords() Line {
	text := textOf(e.Data)
	kind, _ := strings.CutPrefix(e.Kind, "systemd:")
	switch kind {
	case "phase":
		return Line{Subject: "boot phase", Value: text}
	case "machine-id":
		return Line{Subject: "machine id", Value: strings.TrimPrefix(text, "machine-id:")}
	case "filesystem":
		return Line{Subject: "file system", Value: text}
	case "volume-key":
		return Line{Subject: "volume key", Value: text}
	}
	return Line{Subject: clean(kind), Value: text}
}
