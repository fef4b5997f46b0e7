package mqtt

import (
	"crypto/sha256"
	"errors"
	"fmt"
)

// A receipt is what the verifier publishes on a device's receipt topic: the
// digests of messages that it has stored. It is a CBOR array (RFC 8949) of 1 to
// MaxReceipt byte strings of DigestSize bytes, deterministically encoded.
const (
	DigestSize = 16  // bytes; enough to tell a device's own messages apart
	MaxReceipt = 255 // digests
)

// Digest returns the first half of the SHA-256 of a message's payload.
func Digest(payload []byte) [DigestSize]byte {
	sum := sha256.Sum256(payload)
	return [DigestSize]byte(sum[:])
}

const (
	cborBytes16 = 0x40 | DigestSize // head of a byte string of 16 bytes
	cborArray   = 0x80              // head of an array of up to 23 items
	cborArray8  = 0x98              // the same, with the count in the next byte
)

// EncodeReceipt encodes 1 to MaxReceipt digests.
func EncodeReceipt(digests [][DigestSize]byte) ([]byte, error) {
	n := len(digests)
	if n < 1 || n > MaxReceipt {
		return nil, fmt.Errorf("cannot encode receipt: %d digests, the limits are 1 and %d", n, MaxReceipt)
	}
	data := receiptHead(n)
	for _, d := range digests {
		data = append(data, cborBytes16)
		data = append(data, d[:]...)
	}
	return data, nil
}

func receiptHead(n int) []byte {
	if n <= 23 {
		return []byte{cborArray | byte(n)}
	}
	return []byte{cborArray8, byte(n)}
}

// DecodeReceipt decodes what EncodeReceipt gives and nothing else.
func DecodeReceipt(data []byte) ([][DigestSize]byte, error) {
	n := len(data) / (1 + DigestSize)
	if n < 1 || n > MaxReceipt {
		return nil, fmt.Errorf("cannot decode receipt: %d bytes hold %d digests, the limits are 1 and %d", len(data), n, MaxReceipt)
	}
	head := receiptHead(n)
	if len(data) != len(head)+n*(1+DigestSize) || string(data[:len(head)]) != string(head) {
		return nil, errors.New("cannot decode receipt: not an array of digests")
	}
	digests := make([][DigestSize]byte, n)
	for i := range digests {
		item := data[len(head)+i*(1+DigestSize):]
		if item[0] != cborBytes16 {
			return nil, fmt.Errorf("cannot decode receipt: item %d is not a byte string of %d bytes", i, DigestSize)
		}
		digests[i] = [DigestSize]byte(item[1:])
	}
	return digests, nil
}
