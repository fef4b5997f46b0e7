package talk

import (
	"encoding/binary"
	"net/netip"
)

// A Way is the direction of a packet as the capture knows it.
type Way uint8

// The ways.
const (
	WayUnknown Way = iota
	Sent           // by the device that is watched
	Received
)

// A Packet is one IP packet.
type Packet struct {
	At     int64  // Unix nanoseconds
	Data   []byte // from the first byte of the IP header; may be cut short; not kept
	Length int    // bytes that were on the wire, from the IP header
	Way    Way
}

// Numbers of protocols, IANA.
const (
	TCP = 6
	UDP = 17

	hopByHop    = 0
	routing     = 43
	fragmented  = 44
	destination = 60
)

// maxExtensions is how many extension headers of IPv6 are walked through.
const maxExtensions = 8

// A result of parsing a packet.
type result uint8

const (
	good     result = iota
	broken          // contradicts itself, or is cut before the ports
	fragment        // of a datagram: what it belongs to is not known
	other           // neither TCP nor UDP
)

// Flags of a TCP header, RFC 9293, section 3.1.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	_
	flagACK
)

// A segment is a TCP segment or a UDP datagram.
type segment struct {
	src, dst netip.AddrPort
	proto    uint8
	flags    uint8
	seq      uint32
	payload  []byte // as much as was captured
	size     int    // bytes of the payload on the wire
}

// parse reads the headers of an IP packet (RFC 791, RFC 8200), of TCP (RFC 9293)
// and of UDP (RFC 768). Checksums are not looked at: a capture on the sending
// machine sees them before they are computed.
func parse(b []byte, wire int) (s segment, r result) {
	if len(b) == 0 {
		return s, broken
	}
	var src, dst netip.Addr
	switch b[0] >> 4 {
	case 4:
		head := int(b[0]&15) * 4
		if len(b) < head || head < 20 {
			return s, broken
		}
		total := int(binary.BigEndian.Uint16(b[2:]))
		if total == 0 {
			total = wire // a packet that the card is going to cut up has none
		}
		if total < head {
			return s, broken
		}
		if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
			return s, fragment
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		s.proto, s.size = b[9], total-head
		b = b[head:]
	case 6:
		if len(b) < 40 {
			return s, broken
		}
		s.size = int(binary.BigEndian.Uint16(b[4:]))
		if s.size == 0 {
			s.size = max(wire-40, 0)
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		s.proto = b[6]
		b = b[40:]
		for range maxExtensions {
			if s.proto == fragmented {
				return s, fragment
			}
			if s.proto != hopByHop && s.proto != routing && s.proto != destination {
				break
			}
			if len(b) < 2 {
				return s, broken
			}
			n := 8 + int(b[1])*8
			if len(b) < n || s.size < n {
				return s, broken
			}
			s.proto = b[0]
			s.size -= n
			b = b[n:]
		}
	default:
		return s, broken
	}
	if len(b) > s.size {
		b = b[:s.size] // padding of the frame
	}
	head := 8
	switch s.proto {
	case TCP:
		if len(b) < 20 {
			return s, broken
		}
		head = int(b[12]>>4) * 4
		if head < 20 || s.size < head {
			return s, broken
		}
		s.seq, s.flags = binary.BigEndian.Uint32(b[4:]), b[13]
	case UDP:
		if len(b) < 8 || s.size < 8 {
			return s, broken
		}
	default:
		return s, other
	}
	s.src = netip.AddrPortFrom(src.Unmap(), binary.BigEndian.Uint16(b))
	s.dst = netip.AddrPortFrom(dst.Unmap(), binary.BigEndian.Uint16(b[2:]))
	s.size -= head
	s.payload = b[min(head, len(b)):]
	return s, good
}
