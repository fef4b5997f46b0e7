package eventlog_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	. "github.com/miotfacts/miotfacts/attest/eventlog"
)

func tlv(kind byte, values ...[]byte) []byte {
	value := slices.Concat(values...)
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(value))), value...)
}

func tlvRecord(number, register, pcr byte, content []byte, hashed []byte) []byte {
	return slices.Concat(tlv(0, make([]byte, 7), []byte{number}), tlv(register, []byte{pcr}), tlv(3, tlv(byte(SHA256), sum(SHA256, hashed))), content)
}

// tlvLog has the event of a firmware, one of a container in a register of TDX,
// and one in an NV index.
func tlvLog() []byte {
	image := tlv(0, []byte("example.com/pump:1"))
	return slices.Concat(
		tlvRecord(0, 1, 4, tlv(5, tlv(0, []byte{0x80, 0, 0, 7}), tlv(1, []byte("go"))), []byte("go")),
		tlvRecord(0, 108, 3, tlv(80, image), image),
		tlvRecord(1, 108, 3, tlv(200, []byte("x")), []byte("y")),
		tlvRecord(0, 2, 9, tlv(4, []byte("v")), nil))
}

func TestTLV(t *testing.T) {
	log := parsed(t, tlvLog())
	if log.Format != CEL || len(log.Events) != 4 {
		t.Fatalf("%v with %d events", log.Format, len(log.Events))
	}
	extend := func(value []byte, digest []byte) []byte {
		d := sha256.Sum256(slices.Concat(value, digest))
		return d[:]
	}
	image := tlv(0, []byte("example.com/pump:1"))
	replay := log.Replay()[SHA256]
	if want := extend(make([]byte, 32), sum(SHA256, []byte("go"))); !bytes.Equal(replay[4], want) {
		t.Errorf("PCR 4 is %x, want %x", replay[4], want)
	}
	if want := extend(extend(make([]byte, 32), sum(SHA256, image)), sum(SHA256, []byte("y"))); !bytes.Equal(replay[3], want) || len(replay) != 2 {
		t.Errorf("register 3 is %x, want %x", replay[3], want)
	}
	var lines []string
	for _, l := range log.Explain() {
		lines = append(lines, l.String())
	}
	if want := []string{"PCR 4: go", "PCR 3: container: 0000000012", "PCR 3: content 200: x [by its digest; the words are the log's]"}; len(lines) != 3 || lines[0] != want[0] || !strings.HasPrefix(lines[1], want[1]) && !strings.HasPrefix(lines[1], "PCR 3: container: ") || lines[2] != want[2] {
		t.Errorf("%q", lines)
	}
}

func TestTLVRefused(t *testing.T) {
	good := tlvLog()
	image := tlv(0, []byte("x"))
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"cut":                 {good[:len(good)-1], "cut in its field 3"},
		"cut in a length":     {good[:len(good)-4], "cut in its field 3"},
		"number again":        {slices.Concat(good, tlvRecord(1, 108, 3, tlv(80, image), image)), "record number 1 after 1"},
		"PCR 32":              {slices.Concat(good, tlvRecord(9, 1, 32, tlv(80, image), image)), "PCR 32, the highest is 31"},
		"no register":         {slices.Concat(good, tlvRecord(9, 7, 3, tlv(80, image), image)), "field of type 7 instead of a register"},
		"content is a number": {slices.Concat(good, tlvRecord(9, 1, 3, tlv(1, image), image)), "field of type 1 instead of its content"},
		"no type":             {slices.Concat(good, tlvRecord(9, 1, 3, tlv(5, image), image)), "content is no event type and data"},
		"short digest":        {slices.Concat(good, tlv(0, []byte{9}), tlv(1, []byte{3}), tlv(3, tlv(byte(SHA256), make([]byte, 20))), tlv(80, image)), "digest of 20 bytes in bank sha256"},
		"bank twice":          {slices.Concat(good, tlv(0, []byte{9}), tlv(1, []byte{3}), tlv(3, tlv(4, make([]byte, 20)), tlv(4, make([]byte, 20))), tlv(80, image)), "two digests in bank sha1"},
		"no digests":          {slices.Concat(good, tlv(0, []byte{9}), tlv(1, []byte{3}), tlv(3), tlv(80, image)), "no digests"},
		"garbage behind":      {append(slices.Clone(good), "garbage"...), "cut in its field 0"},
	} {
		if _, err := Parse(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// The vectors of GB/T 32905-2016, annex A: the data hash to the digest.
func TestSM3(t *testing.T) {
	for data, digest := range map[string]string{
		"abc":                      "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
		strings.Repeat("abcd", 16): "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732",
	} {
		value, err := hex.DecodeString(digest)
		if err != nil {
			t.Fatal(err)
		}
		bank := []Bank{SM3}
		rec := record(bank, event{4, EFIAction, []byte(data)}, []byte(data))
		rec = bytes.Replace(rec, sum(SM3, []byte(data)), value, 1)
		if got := parsed(t, append(header(bank), rec...)).Events[1].Proof(SM3); got != Proved {
			t.Errorf("%.3q is %v", data, got)
		}
	}
}

// What real machines leave in the header of their logs, and files beside them.
func TestHeaderAndTable(t *testing.T) {
	log := agile([]Bank{SHA256}, event{0, SCRTMVersion, []byte("v")})
	log[10] = 1
	parsed(t, log)
	for _, name := range []string{"CCEL", "TPM2", "TCPA"} {
		table := append([]byte(name), make([]byte, 52)...)
		table[4] = byte(len(table))
		if _, err := Parse(table); err == nil || !strings.Contains(err.Error(), "ACPI table") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
