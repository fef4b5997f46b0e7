package listen

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// How much of a packet the filter lets through, in bytes from the IP header.
const maxWhole = 4 << 10

// A line of a filter. The jumps yes and no name the line at which to go on, ""
// the next one; so does at of itself.
type line struct {
	at      string
	code    uint16
	k       uint32
	yes, no string
}

// Codes of classic BPF (linux/filter.h). A is the accumulator, X the index.
const (
	loadByte   = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
	loadHalf   = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
	loadAt     = unix.BPF_LD | unix.BPF_W | unix.BPF_IND // behind X
	loadHalfAt = unix.BPF_LD | unix.BPF_H | unix.BPF_IND
	loadByteAt = unix.BPF_LD | unix.BPF_B | unix.BPF_IND
	loadLength = unix.BPF_LD | unix.BPF_W | unix.BPF_LEN
	loadMemory = unix.BPF_LD | unix.BPF_MEM
	saveA      = unix.BPF_ST
	aToX       = unix.BPF_MISC | unix.BPF_TAX
	xToA       = unix.BPF_MISC | unix.BPF_TXA
	setX       = unix.BPF_LDX | unix.BPF_IMM
	headerToX  = unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH // length of an IPv4 header
	and        = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	right      = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	add        = unix.BPF_ALU | unix.BPF_ADD | unix.BPF_K
	addX       = unix.BPF_ALU | unix.BPF_ADD | unix.BPF_X
	subX       = unix.BPF_ALU | unix.BPF_SUB | unix.BPF_X
	ifEqual    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	ifAtLeast  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	ifBits     = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	give       = unix.BPF_RET | unix.BPF_K
	giveA      = unix.BPF_RET | unix.BPF_A
)

// What the kernel knows of a packet beside its bytes (linux/filter.h, SKF_AD_OFF).
const (
	beside    = 0xfffff000
	protocol  = beside + 0
	kind      = beside + 4
	device    = beside + 8
	linkKind  = beside + 28
	toUs      = 0   // PACKET_HOST
	fromUs    = 4   // PACKET_OUTGOING
	aLoopback = 772 // ARPHRD_LOOPBACK
)

// link lets through what is sent by this machine or to it alone, over one of the
// interfaces with these numbers; with none, over all but the loopback. A packet
// over the loopback passes twice, and counts when it arrives.
func link(interfaces []uint32) []line {
	lines := []line{
		{code: loadByte, k: kind},
		{code: ifEqual, k: toUs, yes: "ours"},
		{code: ifEqual, k: fromUs, no: "drop"},
		{at: "ours", code: loadByte, k: linkKind},
		{code: ifEqual, k: aLoopback, no: "device"},
	}
	if interfaces == nil {
		lines = append(lines, line{code: give, k: 0}, line{at: "device", code: loadByte, k: protocol})
	} else {
		lines = append(lines, line{code: loadByte, k: kind}, line{code: ifEqual, k: fromUs, yes: "drop"}, line{at: "device", code: loadByte, k: device})
		for _, i := range interfaces {
			lines = append(lines, line{code: ifEqual, k: i, yes: "internet"})
		}
		lines = append(lines, line{code: give, k: 0}, line{at: "internet", code: loadByte, k: protocol})
	}
	return append(lines, line{code: ifEqual, k: unix.ETH_P_IP, yes: "packet"}, line{code: ifEqual, k: unix.ETH_P_IPV6, no: "drop"})
}

// packets lets through of an IP packet what package talk reads: the headers of
// what begins and ends a TCP connection, of fragments and of UDP, and whole, up to
// maxWhole, answers of DNS, messages of a TLS handshake that nothing encrypts, and
// the long headers of QUIC. Payload is not copied, and a TCP segment in the middle
// of a connection does not reach this process at all. A segment that continues a
// handshake message cannot be told from payload and is not let through.
func packets() []line {
	return []line{
		{at: "packet", code: loadByte, k: 0},
		{code: right, k: 4},
		{code: ifEqual, k: 4, yes: "four"},
		{code: ifEqual, k: 6, no: "drop"},

		{code: setX, k: 40},
		{code: loadByte, k: 6},
		{code: ifEqual, k: unix.IPPROTO_TCP, yes: "tcp"},
		{code: ifEqual, k: unix.IPPROTO_UDP, yes: "udp"},
		{code: ifEqual, k: unix.IPPROTO_FRAGMENT, yes: "head"},
		{code: ifEqual, k: unix.IPPROTO_HOPOPTS, yes: "head"},
		{code: ifEqual, k: unix.IPPROTO_ROUTING, yes: "head"},
		{code: ifEqual, k: unix.IPPROTO_DSTOPTS, yes: "head", no: "drop"},

		{at: "four", code: loadHalf, k: 6},
		{code: ifBits, k: 0x3fff, yes: "head"}, // more fragments, or not the first
		{code: headerToX, k: 0},
		{code: loadByte, k: 9},
		{code: ifEqual, k: unix.IPPROTO_TCP, yes: "tcp"},
		{code: ifEqual, k: unix.IPPROTO_UDP, yes: "udp", no: "drop"},

		{at: "tcp", code: loadHalfAt, k: 0},
		{code: ifEqual, k: 53, yes: "whole"},
		{code: loadByteAt, k: 13},
		{code: saveA, k: 0}, // the flags
		{code: loadByteAt, k: 12},
		{code: and, k: 0xf0},
		{code: right, k: 2},
		{code: addX},
		{code: saveA, k: 1}, // where the payload begins
		{code: aToX},
		{code: loadLength},
		{code: subX},
		{code: ifAtLeast, k: 7, no: "tcp-head"}, // an alert has 7 bytes
		{code: loadByteAt, k: 0},
		{code: ifEqual, k: 21, yes: "alert"},
		{code: ifEqual, k: 22, no: "tcp-head"},
		{code: loadByteAt, k: 1},
		{code: ifEqual, k: 3, no: "tcp-head"},
		{code: loadByteAt, k: 5},
		{code: ifEqual, k: 1, yes: "whole"},                  // ClientHello
		{code: ifEqual, k: 2, yes: "whole"},                  // ServerHello
		{code: ifEqual, k: 11, yes: "whole", no: "tcp-head"}, // Certificate
		{at: "alert", code: loadByteAt, k: 1},
		{code: ifEqual, k: 3, no: "tcp-head"},
		{code: loadHalfAt, k: 3},
		{code: ifEqual, k: 2, yes: "whole"}, // an encrypted one is longer
		{at: "tcp-head", code: loadMemory, k: 0},
		{code: ifBits, k: 7, no: "drop"}, // FIN, SYN, RST
		{code: loadMemory, k: 1},
		{code: giveA},

		{at: "udp", code: loadHalfAt, k: 0},
		{code: ifEqual, k: 53, yes: "whole"},
		{code: loadLength},
		{code: subX},
		{code: ifAtLeast, k: 15, no: "udp-head"},
		{code: loadByteAt, k: 8},
		{code: and, k: 0xc0},
		{code: ifEqual, k: 0x40, yes: "short"},
		{code: ifEqual, k: 0xc0, no: "udp-head"},
		{code: loadAt, k: 9},
		{code: ifEqual, k: 1, yes: "whole"},                          // QUIC, RFC 9000
		{code: ifEqual, k: 0x6b3343cf, yes: "whole", no: "udp-head"}, // version 2, RFC 9369
		// A short header of QUIC: the data of a connection that has begun.
		{at: "short", code: loadHalfAt, k: 0},
		{code: ifEqual, k: 443, yes: "drop"},
		{code: loadHalfAt, k: 2},
		{code: ifEqual, k: 443, yes: "drop"},
		{at: "udp-head", code: xToA},
		{code: add, k: 8},
		{code: giveA},

		{at: "drop", code: give, k: 0},
		{at: "head", code: give, k: 80},
		{at: "whole", code: give, k: maxWhole},
	}
}

// assemble replaces the names of lines by distances.
func assemble(lines []line) ([]unix.SockFilter, error) {
	place := map[string]int{}
	for i, l := range lines {
		if l.at != "" {
			place[l.at] = i
		}
	}
	out := make([]unix.SockFilter, len(lines))
	for i, l := range lines {
		out[i] = unix.SockFilter{Code: l.code, K: l.k}
		for _, j := range []struct {
			to   string
			into *uint8
		}{{l.yes, &out[i].Jt}, {l.no, &out[i].Jf}} {
			if j.to == "" {
				continue
			}
			to, ok := place[j.to]
			if distance := to - i - 1; ok && distance >= 0 && distance < 256 {
				*j.into = uint8(distance)
				continue
			}
			return nil, fmt.Errorf("internal error: filter cannot jump from line %d to %q", i, j.to)
		}
	}
	return out, nil
}
