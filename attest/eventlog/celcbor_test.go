package eventlog_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	. "github.com/miotfacts/miotfacts/attest/eventlog"
)

type keys = map[int]any

// inCBOR returns a record with what changes it; a key set to nil is left out.
func inCBOR(number, pcr int, kind int, content any, hashed []byte, change ...keys) []byte {
	r := keys{0: number, 1: pcr, 3: []keys{{0: SHA256, 1: sum(SHA256, hashed)}}, 9: kind, 10: content}
	for _, c := range change {
		maps.Copy(r, c)
		maps.DeleteFunc(r, func(_ int, v any) bool { return v == nil })
	}
	data, err := cbor.EncOptions{Sort: cbor.SortCoreDeterministic}.EncMode()
	if err != nil {
		panic(err)
	}
	out, err := data.Marshal(r)
	if err != nil {
		panic(err)
	}
	return out
}

func inList(records ...[]byte) []byte {
	return slices.Concat(append([][]byte{{0x80 + byte(len(records))}}, records...)...)
}

// cborRecords has the event of a firmware, with its type as number and as name,
// of IMA, of systemd, something unknown, and one in an NV index.
func cborRecords() [][]byte {
	return [][]byte{
		inCBOR(0, 4, 5, keys{0: EFIAction, 1: []byte("go")}, []byte("go")),
		inCBOR(1, 4, 5, keys{0: "EV_EFI_ACTION", 1: []byte("on")}, []byte("on")),
		inCBOR(0, 10, 7, keys{0: "ima-ng", 1: []byte("template")}, []byte("template")),
		inCBOR(0, 11, 11, []byte("enter-initrd"), []byte("enter-initrd")),
		inCBOR(1, 11, 200, keys{0: "x"}, []byte("y")),
		inCBOR(0, 0, 4, keys{0: 1, 1: keys{0: 1, 1: 0}}, nil, keys{1: nil, 2: 0x1d10200}),
	}
}

func cborLog(list bool) []byte {
	if list {
		return inList(cborRecords()...)
	}
	return slices.Concat(cborRecords()...)
}

func TestCBOR(t *testing.T) {
	want := slices.Concat(extended(0, "go"))
	want = sum(SHA256, append(want, sum(SHA256, []byte("on"))...))
	for name, data := range map[string][]byte{"list": cborLog(true), "sequence": cborLog(false)} {
		log := parsed(t, data)
		if log.Format != CEL || len(log.Events) != 6 || log.Events[0].Type != EFIAction || log.Events[1].Type != EFIAction || log.Events[5].PCR != NoPCR {
			t.Fatalf("%s: %v with %+v", name, log.Format, log.Events)
		}
		replay := log.Replay()[SHA256]
		if len(replay) != 3 || !bytes.Equal(replay[4], want) {
			t.Errorf("%s: %x", name, replay)
		}
		var lines []string
		for _, l := range log.Explain() {
			lines = append(lines, l.String())
		}
		if want := []string{
			"PCR 4: go", "PCR 4: on", "PCR 10: ima_template: template", "PCR 11: systemd: enter-initrd", "PCR 11: content 200: a1006178 [by its digest; the words are the log's]",
		}; !slices.Equal(lines, want) {
			t.Errorf("%s: %q", name, lines)
		}
	}
}

// What real machines logged leads to the same PCRs in each encoding of CEL, that
// of a TPM started from locality 3 as well.
func TestRecordedBootsInCEL(t *testing.T) {
	logs := map[string][]byte{"locality": agile([]Bank{SHA256}, event{0, NoAction, []byte("StartupLocality\x00\x03")}, event{0, SCRTMVersion, []byte("v")})}
	for _, b := range recorded(t) {
		logs[b.name] = b.data
	}
	for name, data := range logs {
		log := parsed(t, data)
		var records, lines [][]byte
		numbers := map[int]int{}
		for _, e := range log.Events[1:] { // the header has no place in CEL
			var digests []keys
			var fields []byte
			for _, d := range e.Digests {
				digests = append(digests, keys{0: d.Bank, 1: d.Value})
				fields = append(fields, tlv(byte(d.Bank), d.Value)...)
			}
			number := numbers[e.PCR]
			numbers[e.PCR]++
			records = append(records, inCBOR(number, e.PCR, 5, keys{0: e.Type, 1: append([]byte{}, e.Data...)}, nil, keys{3: digests}))
			lines = append(lines, slices.Concat(tlv(0, binary.BigEndian.AppendUint64(nil, uint64(number))), tlv(1, []byte{byte(e.PCR)}), tlv(3, fields),
				tlv(5, tlv(0, binary.BigEndian.AppendUint32(nil, uint32(e.Type))), tlv(1, e.Data))))
		}
		want := log.Replay()
		for how, converted := range map[string][]byte{"CBOR": slices.Concat(records...), "TLV": slices.Concat(lines...)} {
			got := parsed(t, converted).Replay()
			for bank := range want {
				if !maps.EqualFunc(got[bank], want[bank], bytes.Equal) {
					t.Errorf("%s in %s, bank %v: %x, want %x", name, how, bank, got[bank], want[bank])
				}
			}
		}
	}
}

func TestCBORRefused(t *testing.T) {
	good := cborLog(true)
	record := func(change keys) []byte {
		return inList(inCBOR(0, 4, 5, keys{0: 7, 1: []byte("go")}, []byte("go"), change))
	}
	digest := sum(SHA256, []byte("go"))
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"cut":                   {good[:len(good)-1], "record 5 at offset"},
		"cut in the sequence":   {cborLog(false)[:len(cborLog(false))-1], "cut"},
		"one record too few":    {append([]byte{0x87}, good[1:]...), "cut"},
		"one record too many":   {append([]byte{0x85}, good[1:]...), "bytes after the list of 5 records"},
		"garbage behind":        {append(slices.Clone(good), 0), "1 bytes after the list"},
		"endless list":          {slices.Concat([]byte{0x9f}, good[1:], []byte{0xff}), "event 0 at offset 0"},
		"endless record":        {slices.Concat([]byte{0xbf, 0, 0}, good[4:]), "indefinite"},
		"list of no records":    {[]byte{0x80}, "cannot parse event log"},
		"PCR 32":                {record(keys{1: 32}), "PCR 32, the highest is 31"},
		"PCR -1":                {record(keys{1: -1}), "record 0 at offset 1"},
		"PCR beyond 32 bits":    {record(keys{1: uint64(1) << 33}), "record 0 at offset 1"},
		"PCR with a fraction":   {record(keys{1: 4.5}), "record 0 at offset 1"},
		"PCR of nothing":        {slices.Concat([]byte{0x81, 0xa5, 0, 0, 1, 0xf6}, record(nil)[6:]), "want a PCR or an NV index"},
		"PCR and NV":            {record(keys{2: 1}), "want a PCR or an NV index"},
		"neither":               {record(keys{1: nil}), "want a PCR or an NV index"},
		"no content":            {record(keys{10: nil}), "no content"},
		"no kind of content":    {record(keys{9: nil}), "no content"},
		"kind of another field": {record(keys{9: 3}), "content of type 3"},
		"unknown key":           {record(keys{11: 1}), "unknown"},
		"PCR twice":             {slices.Concat([]byte{0x81, 0xa6, 0, 0, 1, 4}, record(nil)[4:]), "duplicate"},
		"number again":          {inList(append(cborRecords(), cborRecords()[0])...), "record number 0 after 1"},
		"short digest":          {record(keys{3: []keys{{0: SHA256, 1: digest[1:]}}}), "digest of 31 bytes in bank sha256"},
		"long digest":           {record(keys{3: []keys{{0: 0x7777, 1: make([]byte, 65)}}}), "digest of 65 bytes in bank 0x7777"},
		"bank twice":            {record(keys{3: []keys{{0: SHA256, 1: digest}, {0: SHA256, 1: digest}}}), "two digests in bank sha256"},
		"no bank":               {record(keys{3: []keys{{1: digest}}}), "digest of no bank"},
		"no digests":            {record(keys{3: []keys{}}), "no digests"},
		"no data":               {record(keys{10: keys{0: 7}}), "no event type and data"},
		"no type":               {record(keys{10: keys{1: []byte("go")}}), "no event type and data"},
		"unknown type":          {record(keys{10: keys{0: "EV_WHAT", 1: []byte("go")}}), "no event type and data"},
		"data as text":          {record(keys{10: keys{0: 7, 1: "go"}}), "content:"},
		"template of no name":   {record(keys{9: 7, 10: keys{1: []byte("go")}}), "no template and its data"},
		"systemd as a map":      {record(keys{9: 11, 10: keys{0: "go"}}), "content:"},
		"bytes behind content":  {record(keys{9: 200, 10: cbor.RawMessage{0xd8, 0x18, 0x40}}), "tag"},
		"deep":                  {record(keys{9: 200, 10: cbor.RawMessage(append(bytes.Repeat([]byte{0x81}, 20), 0))}), "nested"},
		"nothing but marks":     {inList(cborRecords()[5]), "nothing is measured"},
	} {
		if log, err := Parse(c.data); err == nil || log != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
