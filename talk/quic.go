package talk

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
)

// Versions of QUIC whose first packet can be read, RFC 9000 and RFC 9369.
const (
	quicV1 = 1
	quicV2 = 0x6b3343cf
)

// maxCrypto bounds the hello in a first packet.
const maxCrypto = 1500

// quic reads a client's first packet. Its keys follow from what stands in it in
// the clear (RFC 9001, section 5.2), so anybody on the way can read the hello.
func (t *Table) quic(f *flow, s segment) {
	h, ok := parseQUIC(s.payload)
	if !ok {
		return
	}
	f.security = SecurityQUIC
	if s.src != f.Local {
		return // the server's answer is recognised, and what it says is not needed
	}
	f.inbound, f.sure = false, true
	f.version = VersionTLS13
	if hello, ok := h.open(); ok {
		if kind, body, _, whole := message(hello); kind == messageClientHello {
			if text, ok := clientHello(body, whole); ok {
				f.asked(text)
			}
		}
	}
}

// An initial is the first packet of a QUIC connection.
type initial struct {
	version uint32
	id      []byte // the destination's, from which the keys follow
	packet  []byte // up to its end
	number  int    // where the packet's number stands
}

// parseQUIC recognises a first packet, RFC 9000, section 17.2.2.
func parseQUIC(b []byte) (h initial, ok bool) {
	if len(b) < 7 || b[0]&0xc0 != 0xc0 {
		return h, false
	}
	h.version = binary.BigEndian.Uint32(b[1:])
	kind := b[0] >> 4 & 3
	if !(h.version == quicV1 && kind == 0 || h.version == quicV2 && kind == 1) {
		return h, false
	}
	r := reader(b[5:])
	id, ok := r.field(1)
	if !ok || len(id) > 20 {
		return h, false
	}
	if source, ok := r.field(1); !ok || len(source) > 20 {
		return h, false
	}
	token, ok := r.varint()
	if !ok {
		return h, false
	}
	if _, ok = r.take(token); !ok {
		return h, false
	}
	size, ok := r.varint()
	if !ok {
		return h, false
	}
	h.id, h.number = id, len(b)-len(r)
	if size > len(r) {
		h.packet = nil // cut: it is recognised, and cannot be opened
		return h, true
	}
	h.packet = b[:h.number+size]
	return h, true
}

// varint takes a number of 1 to 8 bytes, RFC 9000, section 16.
func (r *reader) varint() (int, bool) {
	if len(*r) == 0 {
		return 0, false
	}
	size := 1 << ((*r)[0] >> 6)
	b, ok := r.take(size)
	if !ok {
		return 0, false
	}
	n := uint64(b[0] & 0x3f)
	for _, c := range b[1:] {
		n = n<<8 | uint64(c)
	}
	if n > 1<<20 {
		return 0, false // more than any packet holds
	}
	return int(n), true
}

// The salts of RFC 9001, section 5.2, and RFC 9369, section 3.3.1.
var (
	saltV1 = []byte{0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a}
	saltV2 = []byte{0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9}
)

// open removes the protection that everybody can remove and returns the
// handshake from its first byte, as far as this packet has it.
func (h initial) open() ([]byte, bool) {
	salt, prefix := saltV1, "quic "
	if h.version == quicV2 {
		salt, prefix = saltV2, "quicv2 "
	}
	secret, err := hkdf.Extract(sha256.New, h.id, salt)
	if err != nil {
		return nil, false
	}
	var keys [3][]byte
	if secret, err = expand(secret, "client in", 32); err != nil {
		return nil, false
	}
	for i, k := range []struct {
		label string
		size  int
	}{{"key", 16}, {"iv", 12}, {"hp", 16}} {
		if keys[i], err = expand(secret, prefix+k.label, k.size); err != nil {
			return nil, false
		}
	}
	if len(h.packet) < h.number+4+16 {
		return nil, false
	}
	mask := make([]byte, 16)
	header, err := aes.NewCipher(keys[2])
	if err != nil {
		return nil, false
	}
	header.Encrypt(mask, h.packet[h.number+4:h.number+20])
	p := append([]byte(nil), h.packet...)
	p[0] ^= mask[0] & 0x0f
	n := int(p[0]&3) + 1
	nonce := keys[1]
	for i := range n {
		p[h.number+i] ^= mask[1+i]
		nonce[len(nonce)-n+i] ^= p[h.number+i]
	}
	block, err := aes.NewCipher(keys[0])
	if err != nil {
		return nil, false
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, false
	}
	body := p[h.number+n:]
	plain, err := aead.Open(body[:0], nonce, body, p[:h.number+n])
	if err != nil {
		return nil, false
	}
	return crypto(plain)
}

// expand is HKDF-Expand-Label of RFC 8446, section 7.1, without a context.
func expand(secret []byte, label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{byte(size >> 8), byte(size), byte(len(label))}, label...)
	return hkdf.Expand(sha256.New, secret, string(append(info, 0)), size)
}

// crypto puts the CRYPTO frames of a first packet together, which clients like
// to scatter (RFC 9000, section 19.6), up to the first gap.
func crypto(frames reader) ([]byte, bool) {
	var out [maxCrypto]byte
	var have [maxCrypto]bool
	for len(frames) > 0 {
		kind, ok := frames.varint()
		if !ok {
			return nil, false
		}
		switch kind {
		case 0, 1: // PADDING, PING
		case 6:
			at, ok := frames.varint()
			if !ok {
				return nil, false
			}
			size, ok := frames.varint()
			if !ok {
				return nil, false
			}
			data, ok := frames.take(size)
			if !ok {
				return nil, false
			}
			for i, c := range data {
				if at+i < maxCrypto {
					out[at+i], have[at+i] = c, true
				}
			}
		default:
			return nil, false
		}
	}
	n := 0
	for n < maxCrypto && have[n] {
		n++
	}
	return out[:n], n > 0
}
