package mqtt

import (
	"fmt"
	"net"
	"sync"
)

// A conn is the connection that the MQTT library gets to see.
//
// It checks what the broker sends before the library does: the library would
// allocate whatever length a packet claims (256 MB) and panics on some packets
// that no broker sends in earnest.
//
// It also is where the loss of the connection is noticed. The library sees a
// connection that was closed by this side and takes what is written: it would
// otherwise stop its workers at once, and a Publish under way would wait for its
// timeout.
type conn struct {
	net.Conn
	in   inspector
	once sync.Once
	lost chan struct{}
	err  error // why; to be read after lost is closed
}

func newConn(c net.Conn) *conn {
	return &conn{Conn: c, lost: make(chan struct{})}
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bad := c.in.inspect(p[:n]); bad != nil {
		n, err = 0, bad
	}
	if err != nil {
		c.fail(err)
		err = net.ErrClosed
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(p); err != nil {
		c.fail(err)
	}
	return len(p), nil
}

// Close closes the connection for a reason of this side.
func (c *conn) Close() error {
	c.fail(net.ErrClosed)
	return nil
}

func (c *conn) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.lost)
	})
	// Outside of the once: tls.Conn.Close may wait for a writer that is about
	// to fail.
	c.Conn.Close()
}

// reason returns why the connection was lost; nil if it is not, or if this side
// closed it.
func (c *conn) reason() error {
	select {
	case <-c.lost:
		if c.err != net.ErrClosed {
			return c.err
		}
	default:
	}
	return nil
}

// An inspector follows the fixed headers of the packets from a broker (MQTT
// 3.1.1 section 2.2).
type inspector struct {
	packet byte // type and flags
	state  byte // what the next byte is
	shift  int
	length int // so far; then what is left of the body
}

const (
	atType = iota
	atLength
	atBody
)

// inspect refuses what a broker has no reason to send to a client that
// subscribes once, to the given number of topics, and publishes with QoS 1.
func (in *inspector) inspect(p []byte) error {
	for len(p) > 0 {
		switch in.state {
		case atType:
			in.packet, in.length, in.shift, in.state = p[0], 0, 0, atLength
			p = p[1:]
		case atLength:
			in.length |= int(p[0]&0x7f) << in.shift
			in.shift += 7
			if p[0]&0x80 == 0 {
				in.state = atBody
				if err := in.check(); err != nil {
					return err
				}
			} else if in.length > maxPacket || in.shift > 21 {
				return fmt.Errorf("broker sent a packet of more than %d bytes", maxPacket)
			}
			p = p[1:]
		case atBody:
		}
		if in.state == atBody {
			n := min(in.length, len(p))
			in.length -= n
			p = p[n:]
			if in.length == 0 {
				in.state = atType
			}
		}
	}
	return nil
}

func (in *inspector) check() error {
	sound := false
	switch in.packet {
	case 0x20, 0x40: // CONNACK, PUBACK
		sound = in.length == 2
	case 0x90: // SUBACK: a code for each topic, or the library panics
		sound = in.length == 2+subscriptions
	case 0xd0: // PINGRESP
		sound = in.length == 0
	case 0x30, 0x31, 0x32, 0x33, 0x3a, 0x3b: // PUBLISH with QoS 0 and 1
		sound = in.length <= maxPacket
	}
	if !sound {
		return fmt.Errorf("broker sent packet %#02x of %d bytes, which is not due or above the limit of %d", in.packet, in.length, maxPacket)
	}
	return nil
}
