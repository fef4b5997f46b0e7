// Package handover writes down what a person carries between a paused device
// without network and an operator: the challenge, which names device and pause,
// and the operator's order to resume. Both are lines of 32 characters that can be
// read out, typed and pasted; each line has a check of its own. The challenge is a
// QR code as well.
//
// It trusts nothing and checks no signature: what comes out of an order is a signed
// document (docs/command.cddl) like any other, for the enforcer to judge. No key
// comes near it. The form is in docs/command.cddl.
package handover

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// digits are those of Crockford's base 32: without I, L, O and U.
const digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

const (
	perLine   = 18 // bytes of one line, which go with a check of 2 bytes
	lineChars = 32

	challengeMark = 1
	orderMark     = 2

	challengeSize = 1 + 16 + 16
	orderSize     = 1 + 1 + 16 + 16 + 5 + 3 + 64
)

// Lines of each kind.
const (
	ChallengeLines = (challengeSize + perLine - 1) / perLine
	OrderLines     = (orderSize + perLine - 1) / perLine
)

// ErrLine says that a line is not what was written down.
var ErrLine = errors.New("a character is wrong in it, or it is another line")

// lines writes data down, in groups of four.
func lines(data []byte) []string {
	var out []string
	for n := 0; len(data) > 0; n++ {
		chunk := make([]byte, perLine)
		data = data[copy(chunk, data):]
		sum := check(n, chunk)
		chunk = append(chunk, byte(sum>>8), byte(sum))
		var b strings.Builder
		for i := range lineChars {
			if i > 0 && i%4 == 0 {
				b.WriteByte(' ')
			}
			b.WriteByte(digits[bits(chunk, i)])
		}
		out = append(out, b.String())
	}
	return out
}

// bits returns the five bits of digit i.
func bits(chunk []byte, i int) int {
	v := 0
	for b := 5 * i; b < 5*i+5; b++ {
		v = v<<1 | int(chunk[b/8]>>(7-b%8)&1)
	}
	return v
}

func check(n int, chunk []byte) uint16 {
	return uint16(crc32.ChecksumIEEE(append([]byte{byte(n)}, chunk...)))
}

// Plain returns text in capitals, without what stands between the groups, and with
// the digits for which others are read easily.
func Plain(text string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case ' ', '-', '\t', '\r', '\n':
			return -1
		case 'o', 'O':
			return '0'
		case 'i', 'I', 'l', 'L':
			return '1'
		}
		return r
	}, strings.ToUpper(text))
}

// Line reads line n, counted from 0. The error wraps ErrLine.
func Line(n int, text string) ([]byte, error) {
	text = Plain(text)
	if len(text) != lineChars {
		return nil, fmt.Errorf("line %d: %w: it has %d characters, want %d", n+1, ErrLine, len(text), lineChars)
	}
	chunk := make([]byte, lineChars*5/8)
	for i := range lineChars {
		d := strings.IndexByte(digits, text[i])
		if d < 0 {
			return nil, fmt.Errorf("line %d: %w: %q", n+1, ErrLine, text[i])
		}
		for k := range 5 {
			b := 5*i + k
			chunk[b/8] |= byte(d>>(4-k)&1) << (7 - b%8)
		}
	}
	data := chunk[:perLine]
	if check(n, data) != uint16(chunk[perLine])<<8|uint16(chunk[perLine+1]) {
		return nil, fmt.Errorf("line %d: %w", n+1, ErrLine)
	}
	return data, nil
}

// read reads text of want lines, however it is broken.
func read(text string, want int) ([]byte, error) {
	text = Plain(text)
	if len(text) != want*lineChars {
		return nil, fmt.Errorf("%d characters, want %d lines of %d", len(text), want, lineChars)
	}
	var data []byte
	for n := range want {
		line, err := Line(n, text[n*lineChars:(n+1)*lineChars])
		if err != nil {
			return nil, err
		}
		data = append(data, line...)
	}
	return data, nil
}

// A Challenge names the pause of a device that waits for its resume.
type Challenge struct {
	Device [17]byte // UEID of type RAND
	Pause  [16]byte
}

// Lines returns the challenge as it is written down.
func (c *Challenge) Lines() []string {
	data := append([]byte{challengeMark}, c.Device[1:]...)
	return lines(append(data, c.Pause[:]...))
}

// ParseChallenge reads what Lines has written, however it is broken into lines.
func ParseChallenge(text string) (*Challenge, error) {
	data, err := read(text, ChallengeLines)
	if err == nil && data[0] != challengeMark {
		err = errors.New("it is none")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read challenge: %w", err)
	}
	c := new(Challenge)
	c.Device[0] = 1
	copy(c.Device[1:], data[1:])
	copy(c.Pause[:], data[17:])
	return c, nil
}

// assemble makes the signed document of an order to this challenge from what is not
// known of it.
func (c *Challenge) assemble(order []byte) ([]byte, error) {
	number := func(b []byte) (n int64) {
		for _, x := range b {
			n = n<<8 | int64(x)
		}
		return n
	}
	kid, nonce, from, valid, signature := order[2:18], order[18:34], number(order[34:39]), number(order[39:42]), order[42:orderSize]
	payload, err := cose.Encode(reference.Command{
		Version: 1, Kind: reference.Resume, Device: c.Device[:], Pause: c.Pause[:], Nonce: nonce, NotBefore: from, NotAfter: from + valid,
	})
	if err != nil {
		return nil, err
	}
	return cose.Assemble(int(int8(order[1])), cose.KeyID(kid), cose.Command, payload, signature)
}

// Order returns a signed resume to this challenge as it is written down. It refuses
// one that the device would not make again from these lines.
func (c *Challenge) Order(document []byte) ([]string, error) {
	u, err := cose.Parse(document, reference.MaxCommandSize)
	if err != nil {
		return nil, fmt.Errorf("cannot write order down: %w", err)
	}
	var command reference.Command
	if err := cose.Decode(u.UnverifiedPayload(), reference.MaxCommandSize, &command); err != nil {
		return nil, fmt.Errorf("cannot write order down: %w", err)
	}
	kid := u.KeyID()
	for _, alg := range []int8{-7, -8, -9, -19} {
		order := append([]byte{orderMark, byte(alg)}, kid[:]...)
		order = append(order, command.Nonce...)
		for at := 32; at >= 0; at -= 8 {
			order = append(order, byte(command.NotBefore>>at))
		}
		for at := 16; at >= 0; at -= 8 {
			order = append(order, byte((command.NotAfter-command.NotBefore)>>at))
		}
		order = append(order, document[max(0, len(document)-64):]...)
		if len(order) != orderSize {
			break
		}
		if again, err := c.assemble(order); err == nil && bytes.Equal(again, document) {
			return lines(order), nil
		}
	}
	return nil, errors.New("cannot write order down: it is no resume to this challenge")
}

// ReadOrder returns the signed document that Order has written down, however it is
// broken into lines.
func (c *Challenge) ReadOrder(text string) ([]byte, error) {
	data, err := read(text, OrderLines)
	if err == nil && data[0] != orderMark {
		err = errors.New("it is none")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read order: %w", err)
	}
	return c.assemble(data)
}
