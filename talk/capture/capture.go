// Package capture reads files with captured packets, pcap and pcapng, as tcpdump,
// Wireshark and phones write them, and hands on the IP packets in them. It holds
// one packet at a time. A file may come from anybody.
//
// It reads Ethernet (with VLAN tags), Linux cooked captures (SLL and SLL2), raw IP
// and the loopback of BSD. Packets of other link types and other than IP are
// counted and left out.
//
// pcap: draft-ietf-opsawg-pcap; pcapng: draft-ietf-opsawg-pcapng.
package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/miotfacts/miotfacts/talk"
)

// Limits of a file.
const (
	maxPacket     = 256 << 10 // bytes of one packet: the largest that tcpdump writes
	maxBlock      = 1 << 20   // bytes of one block of pcapng
	maxInterfaces = 1024
)

// ErrFormat says that a file is no capture, or a damaged one.
var ErrFormat = errors.New("not a capture in pcap or pcapng form, or damaged")

// A link is how packets of one interface are written down.
type link struct {
	kind    uint16 // LINKTYPE, as registered at tcpdump.org
	perUnit int64  // nanoseconds of a unit of time, or 0
	units   uint64 // units of a second, where perUnit is 0
	offset  int64  // seconds
}

// A Reader reads one file.
type Reader struct {
	r     *bufio.Reader
	order binary.ByteOrder
	ng    bool
	links []link
	buf   []byte

	// NotIP counts packets that were left out: not IP, or of a link type that is
	// not read.
	NotIP uint64
}

// Magic numbers.
const (
	magicMicro   = 0xa1b2c3d4
	magicNano    = 0xa1b23c4d
	magicSection = 0x0a0d0d0a
	magicOrder   = 0x1a2b3c4d
)

// NewReader reads the head of a file.
func NewReader(r io.Reader) (*Reader, error) {
	c := &Reader{r: bufio.NewReaderSize(r, 1<<16), order: binary.LittleEndian}
	var head [24]byte
	peek, err := c.r.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("cannot read capture: %w: shorter than its head", ErrFormat)
	}
	if binary.LittleEndian.Uint32(peek) == magicSection {
		c.ng = true
		return c, nil
	}
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return nil, fmt.Errorf("cannot read capture: %w: shorter than its head", ErrFormat)
	}
	perUnit := int64(0)
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(head[:]) {
		case magicMicro:
			perUnit, c.order = 1000, order
		case magicNano:
			perUnit, c.order = 1, order
		}
	}
	if perUnit == 0 {
		return nil, fmt.Errorf("cannot read capture: %w: it begins with %x", ErrFormat, head[:4])
	}
	// The upper bits tell of checksums at the end of frames, which do no harm.
	c.links = []link{{kind: uint16(c.order.Uint32(head[20:])), perUnit: perUnit}}
	return c, nil
}

// Next returns the next IP packet, or io.EOF. Its data hold until the next call.
// A file that ends in the middle of a packet, as one does whose writer was
// stopped, gives an error that wraps ErrFormat.
func (c *Reader) Next() (talk.Packet, error) {
	for {
		p, l, err := c.frame()
		if err != nil {
			return talk.Packet{}, err
		}
		if p.Data == nil {
			continue // a block without a packet
		}
		if !unwrap(&p, l.kind) {
			c.NotIP++
			continue
		}
		return p, nil
	}
}

// frame returns the next frame; one without data stands for a block that holds
// none.
func (c *Reader) frame() (p talk.Packet, l link, err error) {
	if c.ng {
		return c.block()
	}
	var head [16]byte
	if err := c.full(head[:]); err != nil {
		return p, l, err
	}
	captured, wire := c.order.Uint32(head[8:]), c.order.Uint32(head[12:])
	if captured > maxPacket {
		return p, l, fmt.Errorf("cannot read capture: %w: packet of %d bytes, the limit is %d", ErrFormat, captured, maxPacket)
	}
	if err := c.body(int(captured)); err != nil {
		return p, l, err
	}
	l = c.links[0]
	at := int64(c.order.Uint32(head[0:]))*1e9 + int64(c.order.Uint32(head[4:]))*l.perUnit
	return talk.Packet{At: at, Data: c.buf, Length: int(min(wire, maxPacket*8))}, l, nil
}

// full fills b. The end of the file is only good at the beginning of b.
func (c *Reader) full(b []byte) error {
	n, err := io.ReadFull(c.r, b)
	switch {
	case err == io.EOF && n == 0:
		return io.EOF
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return fmt.Errorf("cannot read capture: %w: it ends in the middle of a packet", ErrFormat)
	case err != nil:
		return fmt.Errorf("cannot read capture: %w", err)
	}
	return nil
}

// body reads n bytes into buf, which grows with what is really there.
func (c *Reader) body(n int) error {
	if cap(c.buf) < n {
		c.buf = make([]byte, max(n, 4096))
	}
	c.buf = c.buf[:n]
	if err := c.full(c.buf); err != nil {
		if err == io.EOF {
			return fmt.Errorf("cannot read capture: %w: it ends in the middle of a packet", ErrFormat)
		}
		return err
	}
	return nil
}

// Types of blocks of pcapng.
const (
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
)

// block reads one block of pcapng.
func (c *Reader) block() (p talk.Packet, l link, err error) {
	bad := func(format string, args ...any) (talk.Packet, link, error) {
		return talk.Packet{}, link{}, fmt.Errorf("cannot read capture: %w: "+format, append([]any{ErrFormat}, args...)...)
	}
	var head [8]byte
	if err := c.full(head[:]); err != nil {
		return p, l, err
	}
	kind := c.order.Uint32(head[:])
	if binary.LittleEndian.Uint32(head[:]) == magicSection {
		order, err := c.r.Peek(4)
		if err != nil {
			return bad("it ends in the middle of a block")
		}
		switch uint32(magicOrder) {
		case binary.LittleEndian.Uint32(order):
			c.order = binary.LittleEndian
		case binary.BigEndian.Uint32(order):
			c.order = binary.BigEndian
		default:
			return bad("section in no byte order: %x", order)
		}
		kind, c.links = magicSection, nil
	}
	size := c.order.Uint32(head[4:])
	if size < 12 || size%4 != 0 || size > maxBlock {
		return bad("block of %d bytes", size)
	}
	if err := c.body(int(size) - 8); err != nil {
		return p, l, err
	}
	b := c.buf[:len(c.buf)-4]
	if again := c.order.Uint32(c.buf[len(b):]); again != size {
		return bad("block of %d bytes that ends as one of %d", size, again)
	}
	switch kind {
	case blockInterface:
		if len(b) < 8 || len(c.links) >= maxInterfaces {
			return bad("interface that is too short, or one too many")
		}
		l, ok := c.describe(b)
		if !ok {
			return bad("options of an interface")
		}
		c.links = append(c.links, l)
	case blockEnhanced, blockPacket:
		if len(b) < 20 {
			return bad("packet without head")
		}
		id := c.order.Uint32(b)
		if kind == blockPacket {
			id = uint32(c.order.Uint16(b))
		}
		stamp := uint64(c.order.Uint32(b[4:]))<<32 | uint64(c.order.Uint32(b[8:]))
		captured, wire := c.order.Uint32(b[12:]), c.order.Uint32(b[16:])
		if uint64(id) >= uint64(len(c.links)) || uint64(captured) > uint64(len(b)-20) || captured > maxPacket {
			return bad("packet of %d bytes from interface %d", captured, id)
		}
		l = c.links[id]
		return talk.Packet{At: l.time(stamp), Data: b[20 : 20+captured : 20+captured], Length: int(min(wire, maxPacket*8))}, l, nil
	case blockSimple:
		if len(b) < 4 || len(c.links) == 0 {
			return bad("packet without head")
		}
		wire := c.order.Uint32(b)
		// It says no time: the one of the epoch is as good as any.
		return talk.Packet{Data: b[4 : 4+min(uint64(wire), uint64(len(b)-4))], Length: int(min(wire, maxPacket*8))}, c.links[0], nil
	}
	return p, l, nil
}

// describe reads an interface's description.
func (c *Reader) describe(b []byte) (link, bool) {
	l := link{kind: c.order.Uint16(b), perUnit: 1000}
	for b = b[8:]; len(b) >= 4; {
		code, n := c.order.Uint16(b), int(c.order.Uint16(b[2:]))
		if code == 0 {
			break
		}
		padded := (n + 3) &^ 3
		if len(b) < 4+padded {
			return l, false
		}
		value := b[4 : 4+n]
		b = b[4+padded:]
		switch {
		case code == 9 && n == 1: // if_tsresol
			l.perUnit = 0
			exponent := value[0] & 0x7f
			if value[0]&0x80 != 0 {
				if exponent > 62 {
					return l, false
				}
				l.units = 1 << exponent
				break
			}
			if exponent > 18 {
				return l, false
			}
			l.units = 1
			for range exponent {
				l.units *= 10
			}
		case code == 14 && n == 8: // if_tsoffset
			l.offset = int64(c.order.Uint64(value))
			if l.offset < -1<<33 || l.offset > 1<<33 {
				return l, false
			}
		}
	}
	return l, true
}

// time returns a stamp in Unix nanoseconds; a stamp beyond the year 2262 is 0.
func (l link) time(stamp uint64) int64 {
	s, ns := stamp, uint64(0)
	if l.perUnit != 0 {
		units := uint64(1e9 / l.perUnit)
		s, ns = stamp/units, stamp%units*uint64(l.perUnit)
	} else {
		s = stamp / l.units
		hi, lo := bits.Mul64(stamp%l.units, 1e9)
		ns, _ = bits.Div64(hi, lo, l.units)
	}
	if s > 1<<33 || int64(s)+l.offset < 0 || int64(s)+l.offset > 1<<33 {
		return 0
	}
	return (int64(s)+l.offset)*1e9 + int64(ns)
}

// Link types, tcpdump.org/linktypes.html.
const (
	linkNull     = 0
	linkEthernet = 1
	linkRaw12    = 12 // raw IP, as some systems write it
	linkRaw14    = 14
	linkRaw      = 101
	linkLoop     = 108
	linkSLL      = 113
	linkIPv4     = 228
	linkIPv6     = 229
	linkSLL2     = 276
)

// Types of frames, IEEE 802.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
)

const maxTags = 4

// unwrap removes what stands before the IP header.
func unwrap(p *talk.Packet, kind uint16) bool {
	b := p.Data
	head, ether := 0, uint16(0)
	switch kind {
	case linkRaw, linkRaw12, linkRaw14, linkIPv4, linkIPv6:
		return len(b) > 0 && (b[0]>>4 == 4 || b[0]>>4 == 6)
	case linkNull, linkLoop: // the family in some byte order; the IP header says the same
		if len(b) < 5 || b[4]>>4 != 4 && b[4]>>4 != 6 {
			return false
		}
		p.Data, p.Length = b[4:], p.Length-4
		return true
	case linkEthernet:
		head = 14
	case linkSLL:
		head = 16
	case linkSLL2:
		head = 20
	default:
		return false
	}
	if len(b) < head {
		return false
	}
	switch kind {
	case linkSLL2:
		ether = binary.BigEndian.Uint16(b)
		p.Way = way(uint16(b[10]), binary.BigEndian.Uint16(b[8:]))
	case linkSLL:
		ether = binary.BigEndian.Uint16(b[14:])
		p.Way = way(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	default:
		ether = binary.BigEndian.Uint16(b[12:])
	}
	for range maxTags {
		if ether != etherVLAN && ether != etherQinQ || len(b) < head+4 {
			break
		}
		ether = binary.BigEndian.Uint16(b[head+2:])
		head += 4
	}
	if ether != etherIPv4 && ether != etherIPv6 {
		return false
	}
	p.Data, p.Length = b[head:], p.Length-head
	return true
}

// way reads the type of a cooked packet: 4 went out, below that it came in. On
// the loopback, device type 772, it tells nothing: each packet does both.
func way(kind, device uint16) talk.Way {
	switch {
	case device == 772:
	case kind == 4:
		return talk.Sent
	case kind < 3:
		return talk.Received
	}
	return talk.WayUnknown // or between others
}
