package eventlog

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	recordSeparator = 0x1e             // RFC 7464, 2.2
	maxDepth        = 16               // of nested JSON; records seen have 4
	maxRecord       = 2*maxData + 4096 // bytes of JSON: the data in hexadecimal
)

// A celRecord is a record of the Canonical Event Log 1.0, section 5.1, in JSON.
// systemd writes no record number and adds nv_index; tpm2-tss writes type and
// sub_event for content_type and content.
type celRecord struct {
	RecNum  *uint64 `json:"recnum"`
	PCR     *uint32 `json:"pcr"`
	NVIndex *uint64 `json:"nv_index"`
	Digests []struct {
		HashAlg nameOrNumber `json:"hashAlg"`
		Digest  string       `json:"digest"`
	} `json:"digests"`
	ContentType nameOrNumber    `json:"content_type"`
	Type        nameOrNumber    `json:"type"`
	Content     json.RawMessage `json:"content"`
	SubEvent    json.RawMessage `json:"sub_event"`
}

// A nameOrNumber is what CEL in JSON writes either way.
type nameOrNumber struct {
	name   string
	number uint16
}

func (n *nameOrNumber) UnmarshalJSON(data []byte) error {
	if data[0] == '"' {
		return json.Unmarshal(data, &n.name)
	}
	return json.Unmarshal(data, &n.number)
}

func (n nameOrNumber) bank() (Bank, bool) {
	if n.name != "" {
		return bankNamed(n.name)
	}
	return Bank(n.number), Bank(n.number).Replayable()
}

func (n nameOrNumber) kind() string {
	if n.name != "" || n.number == 0 {
		return n.name
	}
	if name := celContents[byte(n.number)]; name != "" && n.number <= 0xff {
		return name
	}
	return fmt.Sprintf("content %d", n.number)
}

func (l *Log) parseCEL(data []byte) error {
	l.Format = CEL
	numbers := map[int]uint64{} // the last record number by PCR
	for _, text := range splitSequence(data) {
		dec := json.NewDecoder(bytes.NewReader(text.json))
		records := 0
		for ; ; records++ {
			var raw json.RawMessage
			err := dec.Decode(&raw)
			if err == io.EOF && !(text.sequence && records == 0) {
				break
			}
			offset := text.offset + int(dec.InputOffset()) - len(raw)
			if err == nil && text.sequence && (records > 0 || !bytes.HasSuffix(text.json, []byte("\n"))) {
				err = errors.New("not one whole JSON text")
			}
			if err != nil {
				return fmt.Errorf("record %d at offset %d: %w", len(l.Events), offset, noEOF(err))
			}
			if err := l.addRecords(raw, offset, numbers, !text.sequence); err != nil {
				return fmt.Errorf("record %d at offset %d: %w", len(l.Events), offset, err)
			}
		}
	}
	if slices.ContainsFunc(l.Events, func(e Event) bool { return e.Kind == "systemd" || strings.HasPrefix(e.Kind, "systemd:") }) {
		l.Format = Systemd
	}
	return nil
}

// addRecords takes a record, or where lists are allowed a list of them, one by
// one: the first fault or the limit ends it before all of it is held again.
func (l *Log) addRecords(raw json.RawMessage, offset int, numbers map[int]uint64, lists bool) error {
	if !lists || raw[0] != '[' {
		return l.addRecord(raw, offset, numbers)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if _, err := dec.Token(); err != nil {
		return err
	}
	for dec.More() {
		var record json.RawMessage
		if err := dec.Decode(&record); err != nil {
			return err
		}
		if err := l.addRecord(record, offset+int(dec.InputOffset())-len(record), numbers); err != nil {
			return err
		}
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("cut")
	}
	return err
}

type sequenceText struct {
	offset   int
	json     []byte
	sequence bool // follows a record separator: one JSON text and a line feed
}

func splitSequence(data []byte) []sequenceText {
	if !bytes.Contains(data, []byte{recordSeparator}) {
		return []sequenceText{{0, data, false}}
	}
	var list []sequenceText
	offset := 0
	for i, part := range bytes.Split(data, []byte{recordSeparator}) {
		if i > 0 || len(bytes.TrimSpace(part)) > 0 {
			list = append(list, sequenceText{offset, part, true})
		}
		offset += len(part) + 1
	}
	return list
}

// strictJSON refuses an object with a key twice, which two readers can read as
// two things, and deep nesting.
func strictJSON(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	type level struct {
		keys  map[string]bool // nil in an array
		isKey bool
	}
	var stack []level
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if delim, ok := token.(json.Delim); ok && (delim == '}' || delim == ']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if len(stack) > 0 {
			top := &stack[len(stack)-1]
			if key, ok := token.(string); ok && top.isKey {
				if key = strings.ToLower(key); top.keys[key] { // encoding/json ignores case
					return fmt.Errorf("key %q twice", key)
				}
				top.keys[key] = true
				top.isKey = false
				continue
			}
			top.isKey = top.keys != nil
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, level{map[string]bool{}, true})
		case json.Delim('['):
			stack = append(stack, level{})
		}
		if len(stack) > maxDepth {
			return fmt.Errorf("nested deeper than %d", maxDepth)
		}
	}
}

func (l *Log) addRecord(raw []byte, offset int, numbers map[int]uint64) error {
	if len(l.Events) == maxEvents {
		return fmt.Errorf("more than %d records", maxEvents)
	}
	if len(raw) > maxRecord {
		return fmt.Errorf("record of %d bytes, the limit is %d", len(raw), maxRecord)
	}
	if err := strictJSON(raw); err != nil {
		return err
	}
	var r celRecord
	if err := json.Unmarshal(raw, &r); err != nil {
		return err
	}
	e := Event{Offset: offset, PCR: NoPCR}
	switch {
	case r.PCR != nil && r.NVIndex != nil || r.PCR == nil && r.NVIndex == nil:
		return errors.New("want pcr or nv_index")
	case r.PCR != nil && *r.PCR > maxPCR:
		return fmt.Errorf("PCR %d, the highest is %d", *r.PCR, maxPCR)
	case r.PCR != nil:
		e.PCR = int(*r.PCR)
	}
	if r.RecNum != nil {
		if last, ok := numbers[e.PCR]; ok && *r.RecNum <= last {
			return fmt.Errorf("record number %d after %d", *r.RecNum, last)
		}
		numbers[e.PCR] = *r.RecNum
	}
	for _, d := range r.Digests {
		bank, ok := d.HashAlg.bank()
		if !ok {
			return fmt.Errorf("unknown hash %q", d.HashAlg.name)
		}
		value, err := hex.DecodeString(d.Digest)
		if err != nil || len(value) != banks[bank.index()].size {
			return fmt.Errorf("digest %.140q is none of bank %v", d.Digest, bank)
		}
		if e.Digest(bank) != nil {
			return fmt.Errorf("two digests in bank %v", bank)
		}
		e.Digests = append(e.Digests, Digest{bank, value})
		if !slices.Contains(l.Banks, bank) {
			l.Banks = append(l.Banks, bank)
		}
	}
	if err := e.readContent(r); err != nil {
		return err
	}
	if len(e.Digests) == 0 && e.extends() {
		return errors.New("no digests")
	}
	if len(e.Data) > maxData {
		return fmt.Errorf("data of %d bytes, the limit is %d", len(e.Data), maxData)
	}
	l.Events = append(l.Events, e)
	return nil
}

// readContent takes over what a record says beyond its digests. Contents that
// are not known here stay as they are.
func (e *Event) readContent(r celRecord) error {
	e.Kind, e.Data = r.ContentType.kind(), r.Content
	if e.Kind == "" {
		e.Kind, e.Data = r.Type.kind(), r.SubEvent
	}
	switch e.Kind {
	case "systemd":
		var c struct {
			String    *string `json:"string"`
			EventType string  `json:"eventType"`
		}
		if err := json.Unmarshal(e.Data, &c); err != nil {
			return fmt.Errorf("content: %w", err)
		}
		e.Data = nil
		if c.String != nil { // absent for what is secret
			e.Data = []byte(*c.String)
		}
		if c.EventType != "" {
			e.Kind += ":" + c.EventType
		}
	case "pcclient_std":
		var c struct {
			Type json.RawMessage `json:"event_type"`
			Data string          `json:"event_data"`
		}
		if err := json.Unmarshal(e.Data, &c); err != nil {
			return fmt.Errorf("content: %w", err)
		}
		known := false
		if json.Unmarshal(c.Type, (*uint32)(&e.Type)) == nil {
			known = true
		} else {
			var name string
			if json.Unmarshal(c.Type, &name) == nil {
				e.Type, known = typeNamed(name)
			}
		}
		data, err := hex.DecodeString(c.Data)
		if err != nil {
			data, err = base64.StdEncoding.DecodeString(c.Data)
		}
		if !known || err != nil {
			return fmt.Errorf("content with event type %.60s and data %.60q", c.Type, c.Data)
		}
		e.Data = data
	}
	return nil
}

func typeNamed(name string) (Type, bool) {
	name = strings.ToUpper(name) // CEL 1.0 has both
	for t, row := range types {
		if row.name == name || row.name == "EV_"+name {
			return t, true
		}
	}
	return 0, false
}
