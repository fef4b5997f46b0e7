package ima

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// textLine is a line of ascii_runtime_measurements: PCR, template digest,
// template, and its fields. The kernel writes no spaces into names.
var textLine = regexp.MustCompile(`^ ?([0-9]{1,2}) ([0-9a-f]{40,128}) ([a-zA-Z0-9|._-]+) (.*)$`)

// textFields are the fields whose text says all of them.
var textFields = []string{"d", "n", "d-ng", "d-ngv2", "n-ng", "sig", "buf", "d-modsig", "modsig", "evmsig"}

func isText(data []byte) bool {
	line, _, _ := bytes.Cut(data[:min(len(data), 4096)], []byte("\n"))
	return textLine.Match(line) && !eventLine.Match(line)
}

// eventLine is a line of the firmware's ascii_bios_measurements, which looks much
// the same: a number in hexadecimal and a name in brackets.
var eventLine = regexp.MustCompile(`^ *[0-9]{1,2} [0-9a-f]{40} [0-9a-f]{2,8} \[`)

func (l *List) parseText(data []byte) error {
	offset, big := 0, false
	for text := range bytes.Lines(data) {
		if len(l.Entries) == maxEntries {
			return fmt.Errorf("offset %d: more than %d entries", offset, maxEntries)
		}
		e, bank, err := readLine(text, big)
		if err == nil && len(l.Entries) > 0 && bank != l.Bank {
			err = fmt.Errorf("template digest of bank %v after bank %v", bank, l.Bank)
		}
		if err == nil {
			l.Bank = bank
			err = e.check(bank)
		}
		if err != nil && len(l.Entries) == 0 && !big {
			// The text does not tell the byte order of the lengths, the digest does.
			if other, bank, wrong := readLine(text, true); wrong == nil && other.check(bank) == nil {
				e, err, big = other, nil, true
			}
		}
		if err != nil {
			return fmt.Errorf("entry %d at offset %d: %w", len(l.Entries), offset, err)
		}
		l.Entries = append(l.Entries, e)
		offset += len(text)
	}
	return nil
}

// readLine makes the template data anew. Whether they are what the kernel had,
// the template digest decides.
func readLine(text []byte, big bool) (e Entry, bank Bank, err error) {
	e.BigEndian = big
	line, whole := bytes.CutSuffix(text, []byte("\n"))
	m := textLine.FindSubmatch(line)
	if m == nil || !whole {
		return e, 0, fmt.Errorf("not a whole line of PCR, digest, template and fields")
	}
	if e.PCR, err = strconv.Atoi(string(m[1])); err != nil || e.PCR > maxPCR {
		return e, 0, fmt.Errorf("PCR %s, the highest is %d", m[1], maxPCR)
	}
	if e.Digest, err = hex.DecodeString(string(m[2])); err != nil {
		return e, 0, fmt.Errorf("template digest: %w", err)
	}
	i := slices.IndexFunc(Banks(), func(b Bank) bool { return b.Size() == len(e.Digest) })
	if i < 0 {
		return e, 0, fmt.Errorf("template digest of %d bytes", len(e.Digest))
	}
	bank, e.Template = Banks()[i], string(m[3])
	names := strings.Split(e.Template, "|")
	if list, known := templates[e.Template]; known {
		names = strings.Split(list, "|")
	}
	values := strings.Split(string(m[4]), " ")
	if len(values) > len(names) {
		return e, 0, fmt.Errorf("template %q with %d fields, want %d", e.Template, len(values), len(names))
	}
	for i, name := range names {
		value := "" // a signature that is not there, at the end of the line
		if i < len(values) {
			value = values[i]
		}
		data, err := readField(name, value)
		if err != nil {
			return e, 0, err
		}
		if name != "d" || e.Template != "ima" {
			e.Data = appendUint32(e.Data, uint32(len(data)), big)
		}
		e.Data = append(e.Data, data...)
	}
	if e.Template == "ima" && len(e.Data) > 20+4+maxPath || len(e.Data) > maxData {
		return e, 0, fmt.Errorf("template data of %d bytes", len(e.Data))
	}
	return e, bank, nil
}

func appendUint32(b []byte, n uint32, big bool) []byte {
	if big {
		return binary.BigEndian.AppendUint32(b, n)
	}
	return binary.LittleEndian.AppendUint32(b, n)
}

func readField(name, value string) ([]byte, error) {
	if !slices.Contains(textFields, name) {
		return nil, fmt.Errorf("field %q, whose text does not tell its bytes: take the binary list", name)
	}
	prefix := ""
	switch name {
	case "n":
		return []byte(value), nil
	case "n-ng":
		return append([]byte(value), 0), nil
	case "d-ng", "d-ngv2", "d-modsig":
		if i := strings.LastIndexByte(value, ':'); i >= 0 {
			prefix, value = value[:i+1]+"\x00", value[i+1:]
		}
	}
	data, err := hex.DecodeString(value)
	if err != nil || name == "d" && len(data) != 20 {
		return nil, fmt.Errorf("field %s: %.80q is no digest", name, value)
	}
	return append([]byte(prefix), data...), nil
}
