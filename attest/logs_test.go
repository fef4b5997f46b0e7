package attest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
)

func TestPartsOfRealLogs(t *testing.T) {
	for _, c := range []struct {
		file string
		log  attest.Log
	}{{"edk2/bios.bin", attest.LogFirmware}, {"secboot/bios.bin", attest.LogFirmware}, {"systemd/ima.bin", attest.LogIMA}} {
		data, err := os.ReadFile("../testdata/boot/" + c.file)
		if err != nil {
			t.Fatal(err)
		}
		for _, limit := range []int{1024, 4096, 64 << 10} {
			var whole []byte
			packed := 0
			for {
				p, err := attest.Pack(c.log, uint64(len(whole)), data[len(whole):], false, limit)
				if err != nil {
					t.Fatal(err)
				}
				part, err := p.Bytes()
				if err != nil || len(p.Packed) > limit || p.Offset != uint64(len(whole)) || len(part) == 0 {
					t.Fatalf("%s: %d bytes packed into %d at %d: %v", c.file, len(part), len(p.Packed), p.Offset, err)
				}
				whole, packed = append(whole, part...), packed+len(p.Packed)
				if !p.More {
					break
				}
			}
			if !bytes.Equal(whole, data) {
				t.Errorf("%s: came as %d bytes, went as %d", c.file, len(whole), len(data))
			}
			t.Logf("%s: %d bytes in parts of at most %d: %d bytes", c.file, len(data), limit, packed)
		}
	}
}

// A log that does not pack is cut, one that packs too well is cut as well.
func TestPartsAreBounded(t *testing.T) {
	noise := make([]byte, 0, 100<<10)
	for i := range cap(noise) / 32 {
		h := sha256.Sum256(binary.BigEndian.AppendUint32(nil, uint32(i)))
		noise = append(noise, h[:]...)
	}
	p, err := attest.Pack(attest.LogIMA, 7, noise, false, 20<<10)
	if err != nil || !p.More || len(p.Packed) > 20<<10 || p.Size < 10<<10 {
		t.Errorf("noise: %d bytes in %d, %v", p.Size, len(p.Packed), err)
	}
	p, err = attest.Pack(attest.LogIMA, 0, make([]byte, 1<<20), false, 20<<10)
	if err != nil || !p.More || p.Size != attest.MaxPart {
		t.Errorf("zeros: %d bytes, %v", p.Size, err)
	}
	if _, err := attest.Pack(attest.LogIMA, 0, []byte("x"), false, 1); err == nil {
		t.Error("packed into one byte")
	}
}

func TestPartsThatLie(t *testing.T) {
	good, err := attest.Pack(attest.LogIMA, 0, bytes.Repeat([]byte("list"), 100), false, 4096)
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(p *attest.Part){
		"smaller":  func(p *attest.Part) { p.Size-- },
		"larger":   func(p *attest.Part) { p.Size++ },
		"cut":      func(p *attest.Part) { p.Packed = p.Packed[:len(p.Packed)-1] },
		"trailing": func(p *attest.Part) { p.Packed = append(bytes.Clone(p.Packed), 0) },
		"empty":    func(p *attest.Part) { p.Packed = nil },
	} {
		p := good
		edit(&p)
		if data, err := p.Bytes(); err == nil {
			t.Errorf("%s: %d bytes", name, len(data))
		}
	}
}

// stored is "log\n" as a stored block of DEFLATE, which every version of every
// packer would unpack the same.
var stored = []byte{0x01, 4, 0, 0xfb, 0xff, 'l', 'o', 'g', '\n'}

func TestMessagesWithParts(t *testing.T) {
	r := example(t)
	r.Body.NoLogs = map[attest.Log]attest.Gap{attest.LogUserspace: {Status: facts.Absent, Reason: "no such file"}}
	signed, err := attest.Seal(r, fixedSigner(t))
	if err != nil {
		t.Fatal(err)
	}
	part := func(log attest.Log) attest.Part { return attest.Part{Log: log, Offset: 10, Size: 4, Packed: stored} }
	for _, c := range []struct {
		name  string
		parts []attest.Part
		want  string // of the refusal
	}{
		{name: "logs", parts: []attest.Part{part(attest.LogFirmware), part(attest.LogIMA)}},
		{name: "unknown log", parts: []attest.Part{part(9)}, want: "unknown log 9"},
		{name: "logs out of order", parts: []attest.Part{part(attest.LogIMA), part(attest.LogFirmware)}, want: "follows"},
		{name: "log twice", parts: []attest.Part{part(attest.LogIMA), part(attest.LogIMA)}, want: "follows"},
		{name: "large part", parts: []attest.Part{{Log: attest.LogIMA, Size: attest.MaxPart + 1, Packed: stored}}, want: "the limit is"},
		{name: "log without end", parts: []attest.Part{{Log: attest.LogFirmware, Offset: 16 << 20, Size: 1, Packed: stored}}, want: "more than 16777216 bytes"},
		{name: "log beyond all numbers", parts: []attest.Part{{Log: attest.LogFirmware, Offset: 1<<64 - 1, Size: 2, Packed: stored}}, want: "more than 16777216 bytes"},
	} {
		data, err := cose.Encode(attest.Message{Report: signed, Parts: c.parts})
		if err != nil {
			t.Fatal(err)
		}
		diag, err := cbor.Diagnose(data)
		if err != nil {
			t.Fatal(err)
		}
		name, head := c.name, ""
		u, err := attest.Decode(data)
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			name, head = "refused-"+strings.ReplaceAll(c.name, " ", "-"), "/ refused: "+err.Error()+" /\n"
		} else {
			if err != nil {
				t.Fatal(err)
			}
			v, err := u.Verify(fixedSigner(t).Public())
			if err != nil || len(v.UnverifiedParts()) != 2 || v.Report().Body.NoLogs[attest.LogUserspace].Status != facts.Absent {
				t.Errorf("came as %+v, %v", v, err)
			}
			if got, err := v.UnverifiedParts()[1].Bytes(); string(got) != "log\n" {
				t.Errorf("%q, %v", got, err)
			}
		}
		golden(t, name+".cbor", data)
		golden(t, name+".diag", []byte(head+diag+"\n"))
	}
}

func TestHave(t *testing.T) {
	seed := make([]byte, 16)
	for name, h := range map[string]attest.Have{
		"no seed":     {Bytes: map[attest.Log]uint64{attest.LogIMA: 1}},
		"no log":      {BootSeed: seed, Bytes: map[attest.Log]uint64{}},
		"unknown log": {BootSeed: seed, Bytes: map[attest.Log]uint64{0: 1}},
		"too much":    {BootSeed: seed, Bytes: map[attest.Log]uint64{attest.LogIMA: 1 << 40}},
	} {
		data, err := cose.Encode(attest.Down{Have: &h})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := attest.DecodeDown(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzPart(f *testing.F) {
	f.Add(stored, uint32(4))
	f.Add(stored[:5], uint32(1))
	f.Fuzz(func(t *testing.T, packed []byte, size uint32) {
		p := attest.Part{Log: attest.LogIMA, Size: size % (attest.MaxPart + 1), Packed: packed}
		if data, err := p.Bytes(); err == nil && len(data) != int(p.Size) {
			t.Fatalf("%d bytes, want %d", len(data), p.Size)
		}
	})
}
