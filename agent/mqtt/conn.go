package mqtt

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// A conn is a connection to a broker, as packets. One goroutine reads, one
// writes.
//
// It checks what the broker sends before the library decodes it: the library
// would allocate whatever length a packet claims (256 MB).
type conn struct {
	net.Conn
	in *bufio.Reader
}

func newConn(c net.Conn) *conn { return &conn{Conn: c, in: bufio.NewReader(c)} }

// write sends one packet within writeTimeout.
func (c *conn) write(p packets.ControlPacket) error {
	c.SetWriteDeadline(time.Now().Add(writeTimeout))
	return p.Write(c.Conn)
}

// read returns the next packet, of those that a client like this can get.
func (c *conn) read() (packets.ControlPacket, error) {
	first, err := c.in.ReadByte()
	if err != nil {
		return nil, err
	}
	length, err := c.length()
	if err != nil {
		return nil, err
	}
	if !due(first, length) {
		return nil, fmt.Errorf("broker sent packet %#02x of %d bytes, which is not due or above the limit of %d", first, length, maxPacket)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return nil, err
	}
	p, err := packets.NewControlPacketWithHeader(packets.FixedHeader{
		MessageType: first >> 4, Dup: first&8 != 0, Qos: first >> 1 & 3, Retain: first&1 != 0, RemainingLength: length,
	})
	if err != nil {
		return nil, err
	}
	if err := p.Unpack(bytes.NewReader(body)); err != nil {
		return nil, fmt.Errorf("cannot decode packet %#02x of the broker: %w", first, err)
	}
	return p, nil
}

// length reads the remaining length of a packet (MQTT 3.1.1 section 2.2.3).
func (c *conn) length() (int, error) {
	length := 0
	for shift := 0; ; shift += 7 {
		b, err := c.in.ReadByte()
		if err != nil {
			return 0, err
		}
		length |= int(b&0x7f) << shift
		if length > maxPacket || b&0x80 != 0 && shift == 21 {
			return 0, fmt.Errorf("broker sent a packet of more than %d bytes", maxPacket)
		}
		if b&0x80 == 0 {
			return length, nil
		}
	}
}

// due reports whether a broker has reason to send a packet with this first byte
// and length to a client that subscribes once, to the given number of topics, and
// publishes with QoS 1.
func due(first byte, length int) bool {
	switch first {
	case 0x20, 0x40: // CONNACK, PUBACK
		return length == 2
	case 0x90: // SUBACK: a code for each topic
		return length == 2+subscriptions
	case 0xd0: // PINGRESP
		return length == 0
	case 0x30, 0x31, 0x32, 0x33, 0x3a, 0x3b: // PUBLISH with QoS 0 and 1
		return true
	}
	return false
}
