package mqtt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
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

// FuzzPackets reads the broker's bytes as the MQTT library does.
func FuzzPackets(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		server, client := net.Pipe()
		defer server.Close()
		go func() {
			server.Write(data)
			server.Close()
		}()
		c := newConn(client)
		for {
			p, err := packets.ReadPacket(c)
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
				t.Fatalf("%T reached the library", p)
			}
		}
	})
}

// Packets may come in any pieces, and whole ones before a bad one still count.
func TestInspectorInPieces(t *testing.T) {
	var stream bytes.Buffer
	packets.NewControlPacket(packets.Connack).Write(&stream)
	publish := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	publish.TopicName, publish.Qos, publish.MessageID, publish.Payload = "t", 1, 1, make([]byte, 300)
	publish.Write(&stream)
	packets.NewControlPacket(packets.Pingresp).Write(&stream)
	good := stream.Len()
	stream.Write([]byte{0x30, 0x81, 0x80, 0x10}) // one byte above the limit
	for size := 1; size <= good; size++ {
		var in inspector
		at := 0
		for ; at < good; at += size {
			if err := in.inspect(stream.Bytes()[at:min(at+size, good)]); err != nil {
				t.Fatalf("pieces of %d bytes: %v", size, err)
			}
		}
		if err := in.inspect(stream.Bytes()[good:]); err == nil {
			t.Fatalf("pieces of %d bytes: a packet of %d bytes was accepted", size, maxPacket+1)
		}
	}
}

func TestLostConnection(t *testing.T) {
	server, client := net.Pipe()
	c := newConn(client)
	if c.reason() != nil {
		t.Error("lost from the start")
	}
	server.Close()
	if _, err := c.Read(make([]byte, 1)); err != net.ErrClosed {
		t.Errorf("read gives %v", err)
	}
	if n, err := c.Write([]byte("abc")); n != 3 || err != nil {
		t.Errorf("write gives %d, %v", n, err)
	}
	c.Close()
	<-c.lost
	if c.reason() != io.EOF {
		t.Errorf("reason %v", c.reason())
	}
}

// The library completes a token also when it gives up.
func TestFailedPublishIsNoAck(t *testing.T) {
	sp, err := spool.Open(t.TempDir(), spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	if _, err := sp.Append(spool.Alarm, "alarm", []byte("x")); err != nil {
		t.Fatal(err)
	}
	server, client := net.Pipe()
	defer server.Close()
	s := &session{
		Client: &Client{cfg: Config{Prefix: "p", ClientID: "d", Ack: Puback, AckTimeout: time.Minute}, queue: sp},
		conn:   newConn(client),
		paho:   paho.NewClient(paho.NewClientOptions()), // never connected
		over:   make(chan struct{}),
		acks:   make(chan ack, window),
		sent:   map[spool.ID]out{},
		due:    time.NewTimer(time.Minute),
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.pump(ctx); err != paho.ErrNotConnected {
		t.Errorf("pump ended with %v", err)
	}
	if n := sp.Stats().Pending[spool.Alarm]; n != 1 {
		t.Errorf("%d messages are left", n)
	}
}

func TestBackoff(t *testing.T) {
	const first, longest = 500 * time.Millisecond, 30 * time.Second
	for failures, want := range map[int]time.Duration{
		0: first, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: longest, 7: longest, 31: longest, 63: longest, 1 << 30: longest,
	} {
		spread := map[time.Duration]bool{}
		for range 100 {
			d := backoff(failures, first, longest)
			if d < want/2 || d > want {
				t.Errorf("after %d failures %v, want %v to %v", failures, d, want/2, want)
			}
			spread[d] = true
		}
		if len(spread) < 50 {
			t.Errorf("after %d failures only %d different waits", failures, len(spread))
		}
	}
}

// How often a broker that is not there is asked in an hour.
func TestAttemptsInAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, attempts := time.Now(), 0
		for time.Since(began) < time.Hour {
			time.Sleep(backoff(attempts, 500*time.Millisecond, 30*time.Second))
			attempts++
		}
		if attempts < 120 || attempts > 250 {
			t.Errorf("%d attempts", attempts)
		}
	})
}
