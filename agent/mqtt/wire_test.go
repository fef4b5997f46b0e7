package mqtt

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/fxamacker/cbor/v2"

	"github.com/miotfacts/miotfacts/agent/spool"
)

func digests(n int) [][DigestSize]byte {
	var list [][DigestSize]byte
	for i := range n {
		list = append(list, Digest([]byte{byte(i)}))
	}
	return list
}

// Receipts are CBOR to others, and only the deterministic encoding is one.
func TestReceipt(t *testing.T) {
	for _, n := range []int{1, 2, 23, 24, 25, 255} {
		data, err := EncodeReceipt(digests(n))
		if err != nil {
			t.Fatal(err)
		}
		var items [][]byte
		if err := cbor.Unmarshal(data, &items); err != nil || len(items) != n {
			t.Fatalf("%d digests: CBOR has %d items, %v", n, len(items), err)
		}
		other, err := cbor.Marshal(items)
		if err != nil || !bytes.Equal(other, data) {
			t.Errorf("%d digests: another encoder gives %x, %v", n, other, err)
		}
		for i, item := range items {
			if sum := sha256.Sum256([]byte{byte(i)}); !bytes.Equal(item, sum[:16]) {
				t.Errorf("%d digests: item %d is %x", n, i, item)
			}
		}
		back, err := DecodeReceipt(data)
		if err != nil || len(back) != n || back[n-1] != digests(n)[n-1] {
			t.Errorf("%d digests came back as %d, %v", n, len(back), err)
		}
		for cut := range data {
			if _, err := DecodeReceipt(data[:cut]); err == nil {
				t.Errorf("%d digests cut to %d bytes were accepted", n, cut)
			}
		}
	}
	for _, n := range []int{0, 256} {
		if _, err := EncodeReceipt(digests(n)); err == nil {
			t.Errorf("%d digests were encoded", n)
		}
	}
}

func TestReceiptRefuses(t *testing.T) {
	item := append([]byte{0x50}, make([]byte, 16)...)
	for name, data := range map[string][]byte{
		"nothing":             {},
		"an empty array":      {0x80},
		"no array":            item,
		"trailing byte":       append(append([]byte{0x81}, item...), 0),
		"longer head":         append([]byte{0x98, 1}, item...),
		"longest head":        append([]byte{0x9b, 0, 0, 0, 0, 0, 0, 0, 1}, item...),
		"indefinite length":   append(append([]byte{0x9f}, item...), 0xff),
		"text":                append([]byte{0x81, 0x70}, make([]byte, 16)...),
		"a shorter string":    append([]byte{0x81, 0x4f}, make([]byte, 15)...),
		"a longer string":     append([]byte{0x81, 0x51}, make([]byte, 17)...),
		"more than there is":  append([]byte{0x82}, item...),
		"less than there is":  append(append([]byte{0x81}, item...), item...),
		"256 digests":         append([]byte{0x99, 1, 0}, bytes.Repeat(item, 256)...),
		"one of two is wrong": append(append([]byte{0x82}, item...), append([]byte{0x41}, make([]byte, 16)...)...),
	} {
		if d, err := DecodeReceipt(data); err == nil {
			t.Errorf("%s was accepted as %d digests", name, len(d))
		}
	}
}

func FuzzReceipt(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := DecodeReceipt(data)
		if err != nil {
			return
		}
		again, err := EncodeReceipt(list)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x decodes and encodes as %x, %v", data, again, err)
		}
	})
}

// piped returns a connection that reads what is written to the other end.
func piped(t testing.TB) (net.Conn, *conn) {
	server, client := net.Pipe()
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, newConn(client)
}

// FuzzPackets reads the broker's bytes.
func FuzzPackets(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		server, c := piped(t)
		go func() {
			server.Write(data)
			server.Close()
		}()
		for {
			p, err := c.read()
			if err != nil {
				return
			}
			switch p := p.(type) {
			case *packets.SubackPacket:
				if len(p.ReturnCodes) != subscriptions {
					t.Fatalf("SUBACK with %d codes", len(p.ReturnCodes))
				}
			case *packets.PublishPacket:
				if p.Qos > 1 || len(p.Payload) > maxPacket {
					t.Fatalf("PUBLISH with QoS %d and %d bytes", p.Qos, len(p.Payload))
				}
			case *packets.ConnackPacket, *packets.PubackPacket, *packets.PingrespPacket:
			default:
				t.Fatalf("%T got through", p)
			}
		}
	})
}

// Packets may come in any pieces, and whole ones before a bad one still count.
func TestPacketsInPieces(t *testing.T) {
	var stream bytes.Buffer
	packets.NewControlPacket(packets.Connack).Write(&stream)
	publish := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	publish.TopicName, publish.Qos, publish.MessageID, publish.Payload = "t", 1, 1, make([]byte, 300)
	publish.Write(&stream)
	packets.NewControlPacket(packets.Pingresp).Write(&stream)
	stream.Write([]byte{0x30, 0x81, 0x80, 0x10}) // one byte above the limit
	for size := 1; size <= stream.Len(); size++ {
		server, c := piped(t)
		go func() {
			for piece := range slices.Chunk(stream.Bytes(), size) {
				server.Write(piece)
			}
		}()
		for i := range 3 {
			if p, err := c.read(); err != nil {
				t.Fatalf("pieces of %d bytes: packet %d: %v", size, i, err)
			} else if got, ok := p.(*packets.PublishPacket); ok && len(got.Payload) != 300 {
				t.Fatalf("pieces of %d bytes: payload of %d bytes", size, len(got.Payload))
			}
		}
		if _, err := c.read(); err == nil {
			t.Fatalf("pieces of %d bytes: a packet of %d bytes was accepted", size, maxPacket+1)
		}
	}
}

// What could not be written is still in the queue.
func TestFailedPublishIsNoAck(t *testing.T) {
	sp, err := spool.Open(t.TempDir(), spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	if _, err := sp.Append(spool.Alarm, "alarm", []byte("x")); err != nil {
		t.Fatal(err)
	}
	server, c := piped(t)
	server.Close()
	cfg := Config{Prefix: "p", ClientID: "d", Ack: Puback, AckTimeout: time.Minute, KeepAlive: time.Minute}
	s := newSession(&Client{cfg: cfg, queue: sp}, slog.Default(), c)
	if err := s.pump(t.Context()); err != io.ErrClosedPipe {
		t.Errorf("pump ended with %v", err)
	}
	if n := sp.Stats().Pending[spool.Alarm]; n != 1 {
		t.Errorf("%d messages are left", n)
	}
}

// A packet ID is free again with its PUBACK, and 0 is none.
func TestPacketIDs(t *testing.T) {
	s := &session{packet: 65533, owed: map[uint16]spool.ID{65535: 1, 1: 2, 3: 3}}
	var got []uint16
	for range 4 {
		got = append(got, s.next())
	}
	if want := []uint16{65534, 2, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("IDs %v, want %v", got, want)
	}
}

// A broker that says nothing, not even to pings, is left.
func TestSilentBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sp, err := spool.Open(t.TempDir(), spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer sp.Close()
		server, c := piped(t)
		var pings int
		go func() {
			for {
				p, err := packets.ReadPacket(server)
				if err != nil {
					return
				}
				if _, ok := p.(*packets.PingreqPacket); !ok {
					continue
				}
				if pings++; pings <= 3 {
					packets.NewControlPacket(packets.Pingresp).Write(server)
				}
			}
		}()
		cfg := Config{Prefix: "p", ClientID: "d", Ack: Puback, AckTimeout: time.Minute, KeepAlive: 30 * time.Second}
		s := newSession(&Client{cfg: cfg, queue: sp}, slog.Default(), c)
		go s.read()
		began := time.Now()
		err = s.pump(t.Context())
		c.Close()
		// Three answers, at 30, 60 and 90 s, and then 45 s of nothing.
		if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || took != 135*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
