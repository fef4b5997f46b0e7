package capture_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/miotfacts/miotfacts/talk"
	"github.com/miotfacts/miotfacts/talk/capture"
)

// ip is a UDP datagram over IPv4 in 28 bytes.
var ip = []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 1, 10, 203, 0, 113, 5, 0x9c, 0x40, 1, 0xbb, 0, 8, 0, 0}

// pcap makes a file with one frame.
func pcap(order binary.ByteOrder, magic uint32, link uint32, frame []byte) []byte {
	var b bytes.Buffer
	for _, v := range []any{magic, uint16(2), uint16(4), int32(0), uint32(0), uint32(65535), link, uint32(1798761600), uint32(5), uint32(len(frame)), uint32(len(frame)), frame} {
		if err := binary.Write(&b, order, v); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

// An appendOrder can do both.
type appendOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

// pcapng makes a file with one frame.
func pcapng(o appendOrder, link uint16, resolution []byte, stamp uint64, frame []byte) []byte {
	return bytes.Join([][]byte{
		block(o, 0x0a0d0d0a, uint32(0x1a2b3c4d), uint16(1), uint16(0), int64(-1)),
		block(o, 1, link, uint16(0), uint32(0), resolution),
		block(o, 5, uint32(0), uint64(0)), // statistics, passed over
		block(o, 6, uint32(0), uint32(stamp>>32), uint32(stamp), uint32(len(frame)), uint32(len(frame)), frame),
	}, nil)
}

// block makes a block of pcapng.
func block(o appendOrder, kind uint32, body ...any) []byte {
	var b bytes.Buffer
	for _, v := range body {
		if err := binary.Write(&b, o, v); err != nil {
			panic(err)
		}
	}
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
	out := o.AppendUint32(nil, kind)
	out = o.AppendUint32(out, uint32(b.Len()+12))
	out = append(out, b.Bytes()...)
	return o.AppendUint32(out, uint32(b.Len()+12))
}

func ethernet(tags ...byte) []byte {
	f := append(make([]byte, 12), tags...)
	return append(append(f, 8, 0), ip...)
}

func sll(kind, device byte) []byte {
	f := make([]byte, 16)
	f[1], f[3], f[14] = kind, device, 8
	return append(f, ip...)
}

func sll2(kind byte) []byte {
	f := make([]byte, 20)
	f[0], f[9], f[10] = 8, 1, kind
	return append(f, ip...)
}

func TestForms(t *testing.T) {
	const second = int64(1798761600) * 1e9
	le, be := binary.LittleEndian, binary.BigEndian
	for _, c := range []struct {
		what string
		file []byte
		at   int64
		way  talk.Way
	}{
		{"microseconds", pcap(le, 0xa1b2c3d4, 1, ethernet()), second + 5000, 0},
		{"nanoseconds, big endian", pcap(be, 0xa1b23c4d, 1, ethernet()), second + 5, 0},
		{"VLAN", pcap(le, 0xa1b2c3d4, 1, ethernet(0x88, 0xa8, 0, 7, 0x81, 0, 0, 8)), second + 5000, 0},
		{"raw", pcap(le, 0xa1b2c3d4, 101, ip), second + 5000, 0},
		{"loopback of BSD", pcap(le, 0xa1b2c3d4, 0, append([]byte{2, 0, 0, 0}, ip...)), second + 5000, 0},
		{"cooked, out", pcap(le, 0xa1b2c3d4, 113, sll(4, 1)), second + 5000, talk.Sent},
		{"cooked, in", pcap(le, 0xa1b2c3d4, 276, sll2(0)), second + 5000, talk.Received},
		{"pcapng", pcapng(le, 1, nil, 1798761600*1e6+7, ethernet()), second + 7000, 0},
		{"pcapng, nanoseconds", pcapng(be, 276, []byte{0, 9, 0, 1, 9, 0, 0, 0}, 1798761600*1e9+7, sll2(4)), second + 7, talk.Sent},
		{"pcapng, 2^-10 s", pcapng(le, 101, []byte{9, 0, 1, 0, 0x8a, 0, 0, 0}, 1798761600<<10+512, ip), second + 5e8, 0},
	} {
		r, err := capture.NewReader(bytes.NewReader(c.file))
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		p, err := r.Next()
		if err != nil || !bytes.Equal(p.Data, ip) || p.Length != len(ip) || p.At != c.at || p.Way != c.way {
			t.Errorf("%s: %+v, %v", c.what, p, err)
		}
		if _, err := r.Next(); err != io.EOF {
			t.Errorf("%s: end: %v", c.what, err)
		}
		for cut := range len(c.file) {
			r, err := capture.NewReader(bytes.NewReader(c.file[:cut]))
			for err == nil {
				_, err = r.Next()
			}
			if err != io.EOF && !errors.Is(err, capture.ErrFormat) {
				t.Fatalf("%s cut at %d: %v", c.what, cut, err)
			}
		}
	}
}

func TestNotIPIsCounted(t *testing.T) {
	arp := append(make([]byte, 12), 8, 6, 0, 1)
	r, err := capture.NewReader(bytes.NewReader(pcap(binary.LittleEndian, 0xa1b2c3d4, 1, arp)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != io.EOF || r.NotIP != 1 {
		t.Errorf("%v, %d left out", err, r.NotIP)
	}
}

func TestRefused(t *testing.T) {
	huge := pcap(binary.LittleEndian, 0xa1b2c3d4, 1, ethernet())
	binary.LittleEndian.PutUint32(huge[24+8:], 1<<30)
	ng := pcapng(binary.LittleEndian, 1, nil, 0, ethernet())
	other := append([]byte(nil), ng...)
	other[len(other)-4] ^= 4
	for what, file := range map[string][]byte{"empty": nil, "text": []byte("this is not a capture at all"), "huge packet": huge, "lengths that differ": other} {
		r, err := capture.NewReader(bytes.NewReader(file))
		for err == nil {
			_, err = r.Next()
		}
		if !errors.Is(err, capture.ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzCapture(f *testing.F) {
	f.Add(pcap(binary.LittleEndian, 0xa1b2c3d4, 1, ethernet(0x81, 0, 0, 8)))
	f.Add(pcap(binary.BigEndian, 0xa1b23c4d, 113, sll(4, 1)))
	f.Add(pcapng(binary.LittleEndian, 276, []byte{9, 0, 1, 0, 0x8a, 0, 0, 0}, 1, sll2(0)))
	f.Add(pcapng(binary.BigEndian, 1, []byte{0, 9, 0, 1, 9, 0, 0, 0}, 1, ethernet()))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := capture.NewReader(bytes.NewReader(data))
		for n := 0; err == nil; n++ {
			var p talk.Packet
			if p, err = r.Next(); err == nil && (len(p.Data) > len(data) || p.At < 0) {
				t.Fatalf("packet of %d bytes at %d", len(p.Data), p.At)
			}
			if n > len(data) {
				t.Fatal("it does not end")
			}
		}
		if err != io.EOF && !errors.Is(err, capture.ErrFormat) {
			t.Fatal(err)
		}
	})
}
