package talk

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"strings"
	"unicode"
)

// Versions of TLS as they stand in a ServerHello.
const (
	VersionSSL30 = 0x0300
	VersionTLS10 = 0x0301
	VersionTLS11 = 0x0302
	VersionTLS12 = 0x0303
	VersionTLS13 = 0x0304
)

// Numbers of RFC 8446: records, messages, extensions.
const (
	recordAlert     = 21
	recordHandshake = 22

	messageClientHello = 1
	messageServerHello = 2
	messageCertificate = 11
	messageServerDone  = 14

	extensionServerName = 0
	extensionVersions   = 43
)

// maxIssuer bounds the issuer's name, which the other side wrote.
const maxIssuer = 256

// A progress of reading the beginning of a stream.
type progress uint8

const (
	needMore progress = iota // it can still become something
	finished                 // all that can be seen was seen
	foreign                  // this is not TLS
	alerted                  // an alert instead of a handshake
)

// A reader takes fields with a length from the front of bytes.
type reader []byte

func (r *reader) take(n int) (reader, bool) {
	if n < 0 || n > len(*r) {
		return nil, false
	}
	b := (*r)[:n]
	*r = (*r)[n:]
	return b, true
}

func (r *reader) number(size int) (n int, ok bool) {
	b, ok := r.take(size)
	for _, c := range b {
		n = n<<8 | int(c)
	}
	return n, ok
}

// field takes what stands behind its length of size bytes.
func (r *reader) field(size int) (reader, bool) {
	n, ok := r.number(size)
	if !ok {
		return nil, false
	}
	return r.take(n)
}

// messages appends the handshake messages in the records at the front of b to
// dst: the records of the handshake until another kind or until b ends, in the
// middle of one too. For dst to do without allocation, give one with room.
func messages(dst, b []byte) (out []byte, p progress) {
	for first := true; ; first = false {
		if len(b) == 0 {
			return dst, needMore
		}
		if b[0] != recordHandshake {
			switch {
			case !first:
				return dst, finished
			case b[0] == recordAlert && len(b) >= 3 && b[1] == 3:
				return dst, alerted
			}
			return dst, foreign
		}
		if len(b) > 1 && b[1] != 3 || len(b) > 2 && b[2] > 4 {
			return dst, foreign
		}
		if len(b) < 5 {
			return dst, needMore
		}
		n := int(binary.BigEndian.Uint16(b[3:]))
		if n == 0 || n > 1<<14+256 {
			return dst, foreign
		}
		b = b[5:]
		dst = append(dst, b[:min(n, len(b))]...)
		b = b[min(n, len(b)):]
	}
}

// message splits the first message off. whole is false when its end is missing.
func message(b []byte) (kind uint8, body, rest reader, whole bool) {
	if len(b) < 4 {
		return 0, nil, nil, false
	}
	n := int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	body = b[4:]
	if n > len(body) {
		return b[0], body, nil, false
	}
	return b[0], body[:n], body[n:], true
}

// clientHello returns the name that a client asks for (RFC 6066, section 3).
// Of a hello that is not whole it reads what is there; ok is false while the name
// could still come.
func clientHello(body reader, whole bool) (name string, ok bool) {
	if _, ok = body.take(2 + 32); !ok { // version, random
		return "", false
	}
	for _, size := range [...]int{1, 2, 1} { // session, ciphers, compressions
		if _, ok = body.field(size); !ok {
			return "", false
		}
	}
	all, ok := body.number(2)
	if !ok {
		return "", whole // a hello without extensions ends here
	}
	body = body[:min(all, len(body))]
	for len(body) > 0 {
		kind, _ := body.number(2)
		data, ok := body.field(2)
		if !ok {
			return "", false
		}
		if kind != extensionServerName {
			continue
		}
		list, ok := data.field(2)
		for ok && len(list) > 0 {
			var entry reader
			if kind, ok = list.number(1); !ok {
				break
			}
			if entry, ok = list.field(2); ok && kind == 0 {
				name, ok = hostName(entry)
				return name, ok
			}
		}
		return "", ok
	}
	return "", whole
}

// serverHello returns the version and cipher that a server chose. In TLS 1.3
// the version stands in an extension (RFC 8446, section 4.2.1).
func serverHello(body reader) (version, cipher uint16, ok bool) {
	v, ok := body.number(2)
	if !ok {
		return 0, 0, false
	}
	if _, ok = body.take(32); !ok {
		return 0, 0, false
	}
	if _, ok = body.field(1); !ok {
		return 0, 0, false
	}
	c, ok := body.number(2)
	if !ok {
		return 0, 0, false
	}
	body.take(1)
	extensions, ok := body.field(2)
	if !ok {
		return uint16(v), uint16(c), len(body) == 0 // old servers have none
	}
	for len(extensions) > 0 {
		kind, ok := extensions.number(2)
		if !ok {
			return 0, 0, false
		}
		data, ok := extensions.field(2)
		if !ok {
			return 0, 0, false
		}
		if kind == extensionVersions {
			if v, ok = data.number(2); !ok {
				return 0, 0, false
			}
		}
	}
	return uint16(v), uint16(c), true
}

// issuer returns who issued the first certificate of a Certificate message up to
// TLS 1.2 (RFC 5246, section 7.4.2). The message and the certificate may be cut
// behind the issuer, which stands near the front (RFC 5280, section 4.1).
func issuer(body reader) (string, bool) {
	if _, ok := body.take(3 + 3); !ok { // lengths of the list and of the first
		return "", false
	}
	certificate, ok := derInside(body, 0x30)
	if !ok {
		return "", false
	}
	tbs, ok := derInside(certificate, 0x30)
	if !ok {
		return "", false
	}
	if len(tbs) > 0 && tbs[0] == 0xa0 { // version
		if tbs, ok = derSkip(tbs); !ok {
			return "", false
		}
	}
	for range 2 { // serial number, algorithm of the signature
		if tbs, ok = derSkip(tbs); !ok {
			return "", false
		}
	}
	rest, ok := derSkip(tbs)
	if !ok {
		return "", false
	}
	var names pkix.RDNSequence
	if tail, err := asn1.Unmarshal(tbs[:len(tbs)-len(rest)], &names); err != nil || len(tail) != 0 {
		return "", false
	}
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, names.String())
	if len(text) > maxIssuer {
		text = strings.ToValidUTF8(text[:maxIssuer], "")
	}
	return text, text != ""
}

// derHead returns the length of the content of a DER element and of what stands
// before it.
func derHead(b []byte) (size, head int, ok bool) {
	if len(b) < 2 {
		return 0, 0, false
	}
	if b[1] < 0x80 {
		return int(b[1]), 2, true
	}
	n := int(b[1] & 0x7f)
	if n == 0 || n > 3 || len(b) < 2+n {
		return 0, 0, false
	}
	for _, c := range b[2 : 2+n] {
		size = size<<8 | int(c)
	}
	return size, 2 + n, true
}

// derInside returns the content of an element as far as it is there.
func derInside(b []byte, tag byte) ([]byte, bool) {
	size, head, ok := derHead(b)
	if !ok || b[0] != tag {
		return nil, false
	}
	b = b[head:]
	return b[:min(size, len(b))], true
}

// derSkip returns what stands behind an element that is there whole.
func derSkip(b []byte) ([]byte, bool) {
	size, head, ok := derHead(b)
	if !ok || head+size > len(b) {
		return nil, false
	}
	return b[head+size:], true
}
