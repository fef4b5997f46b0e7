package talk

import (
	"encoding/binary"
	"net/netip"
)

// Limits of a DNS message. It may come from anybody.
const (
	maxAnswers = 64  // records that are looked at
	maxName    = 253 // characters, RFC 1035, section 2.3.4
	maxLabels  = 128 // labels and pointers of one name
)

// Types of DNS records, RFC 1035 and RFC 3596.
const (
	typeA     = 1
	typeCNAME = 5
	typeAAAA  = 28
)

// An answer is the name somebody asked for and the addresses that it has.
type answer struct {
	name  string
	addrs []netip.Addr
}

// parseDNS reads an answer (RFC 1035, section 4). It follows the chain of
// CNAMEs from the name of the question, so that records about other names are
// not believed.
func parseDNS(b []byte) (a answer, ok bool) {
	if len(b) < 12 {
		return a, false
	}
	flags := binary.BigEndian.Uint16(b[2:])
	const response, opcode, code = 1 << 15, 15 << 11, 15
	if flags&response == 0 || flags&(opcode|code) != 0 || binary.BigEndian.Uint16(b[4:]) != 1 {
		return a, false
	}
	count := int(binary.BigEndian.Uint16(b[6:]))
	name, at, ok := dnsName(b, 12)
	if !ok || at+4 > len(b) {
		return a, false
	}
	a.name = name
	at += 4
	for range min(count, maxAnswers) {
		var owner string
		if owner, at, ok = dnsName(b, at); !ok || at+10 > len(b) {
			return a, len(a.addrs) > 0 // cut short: what came before holds
		}
		kind, class := binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:])
		n := int(binary.BigEndian.Uint16(b[at+8:]))
		at += 10
		if at+n > len(b) {
			return a, len(a.addrs) > 0
		}
		data := b[at : at+n]
		switch {
		case class != 1 || owner != name:
		case kind == typeCNAME:
			if to, _, ok := dnsName(b, at); ok {
				name = to
			}
		case kind == typeA && n == 4:
			a.addrs = append(a.addrs, netip.AddrFrom4([4]byte(data)))
		case kind == typeAAAA && n == 16:
			a.addrs = append(a.addrs, netip.AddrFrom16([16]byte(data)).Unmap())
		}
		at += n
	}
	return a, true
}

// dnsName reads the name at b[at:] and returns it as hostName does, and where it
// ends. Pointers only lead backwards, so it ends.
func dnsName(b []byte, at int) (name string, end int, ok bool) {
	var out [maxName + 1]byte
	n, limit := 0, at
	for range maxLabels {
		if at >= len(b) {
			return "", 0, false
		}
		size := int(b[at])
		switch {
		case size == 0:
			if end == 0 {
				end = at + 1
			}
			if n == 0 {
				return "", end, true
			}
			name, ok = hostName(out[:n-1])
			return name, end, ok
		case size >= 0xc0:
			if at+2 > len(b) {
				return "", 0, false
			}
			if end == 0 {
				end = at + 2
			}
			at = int(binary.BigEndian.Uint16(b[at:]) & 0x3fff)
			if at >= limit {
				return "", 0, false
			}
			limit = at
		case size >= 0x40 || at+1+size > len(b) || n+size+1 > len(out):
			return "", 0, false
		default:
			n += copy(out[n:], b[at+1:at+1+size])
			out[n] = '.'
			n++
			at += 1 + size
		}
	}
	return "", 0, false
}

// hostName returns a name in lower case, if it has only the characters that
// names of machines have. Others come from somebody who is up to something, or
// are for no machine; they must not reach a terminal or a page.
func hostName(b []byte) (string, bool) {
	if len(b) > 0 && b[len(b)-1] == '.' {
		b = b[:len(b)-1]
	}
	if len(b) == 0 || len(b) > maxName {
		return "", false
	}
	out := make([]byte, len(b))
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return "", false
		}
		out[i] = c
	}
	return string(out), true
}
