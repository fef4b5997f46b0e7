package handover_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"image"
	"image/color"
	"image/draw"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/handover"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

func challenge() *handover.Challenge {
	c := &handover.Challenge{Device: [17]byte{1}}
	for i := range 16 {
		c.Device[i+1], c.Pause[i] = byte(0xd0+i), byte(0x91+13*i)
	}
	return c
}

func resume(t testing.TB, key *cose.Signer, c *handover.Challenge) []byte {
	t.Helper()
	data, err := reference.SignCommand(&reference.Command{
		Version: 1, Kind: reference.Resume, Device: c.Device[:], Pause: c.Pause[:], Nonce: bytes.Repeat([]byte{0xa5}, 16),
		NotBefore: referencetest.Now, NotAfter: referencetest.Now + 604800,
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestChallenge(t *testing.T) {
	c := challenge()
	lines := c.Lines()
	if len(lines) != handover.ChallengeLines || len(lines[0]) != 39 {
		t.Fatalf("%q", lines)
	}
	for _, text := range []string{
		strings.Join(lines, "\n"), strings.Join(lines, ""), strings.ToLower(strings.Join(lines, " - ")),
		strings.NewReplacer("0", "o", "1", "l").Replace(strings.Join(lines, "\r\n")),
	} {
		if got, err := handover.ParseChallenge(text); err != nil || *got != *c {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", lines[0], lines[1] + lines[0], lines[0] + lines[0], strings.Repeat("0", 64), strings.Join(lines, "") + "0"} {
		if got, err := handover.ParseChallenge(text); err == nil {
			t.Errorf("%q is taken: %+v", text, got)
		}
	}
}

// An order goes by its lines, with each key that an operator may have, and is the
// same document again.
func TestOrder(t *testing.T) {
	c := challenge()
	w := referencetest.New(t)
	document := resume(t, w.Resume, c)
	lines, err := c.Order(document)
	if err != nil || len(lines) != handover.OrderLines {
		t.Fatalf("%q, %v", lines, err)
	}
	got, err := c.ReadOrder(strings.Join(lines, "\n"))
	if err != nil || !bytes.Equal(got, document) {
		t.Errorf("%x, %v", got, err)
	}
	trust, err := reference.NewTrust(reference.Root{Key: w.OperatorRoot.Public(), Owner: reference.Operator})
	if err == nil {
		_, err = trust.AddKeys(w.OperatorKeys)
	}
	if err == nil {
		_, err = trust.OpenCommand(got, reference.Resume, c.Device[:], "pump-1", reference.At(referencetest.Now))
	}
	if err != nil {
		t.Error(err)
	}
	// For another device or another pause the same lines are another document, which
	// nobody has signed.
	other := challenge()
	other.Pause[3]++
	if got, err := other.ReadOrder(strings.Join(lines, "")); err != nil || bytes.Equal(got, document) {
		t.Errorf("%v", err)
	} else if _, err := trust.OpenCommand(got, reference.Resume, c.Device[:], "pump-1", reference.At(referencetest.Now)); !errors.Is(err, cose.ErrSignature) {
		t.Errorf("for another pause: %v", err)
	}
	for name, document := range map[string][]byte{
		"to another challenge": resume(t, w.Resume, other), "cut": document[:len(document)-1], "nothing": nil, "no command": w.OperatorKeys,
	} {
		if lines, err := c.Order(document); err == nil {
			t.Errorf("%s: %q", name, lines)
		}
	}
}

// One wrong character anywhere is found, in its line.
func TestEveryTypingErrorIsFound(t *testing.T) {
	c := challenge()
	lines, err := c.Order(resume(t, referencetest.Signer(t), c))
	if err != nil {
		t.Fatal(err)
	}
	for n, line := range lines {
		line = handover.Plain(line)
		for i := range line {
			for _, other := range "0123456789ABCDEFGHJKMNPQRSTVWXYZU*é" {
				if string(other) == line[i:i+1] {
					continue
				}
				if _, err := handover.Line(n, line[:i]+string(other)+line[i+1:]); !errors.Is(err, handover.ErrLine) {
					t.Fatalf("line %d with %c at %d: %v", n, other, i, err)
				}
			}
			if i > 0 && line[i] != line[i-1] { // two exchanged
				swapped := line[:i-1] + line[i:i+1] + line[i-1:i] + line[i+1:]
				if _, err := handover.Line(n, swapped); !errors.Is(err, handover.ErrLine) {
					t.Fatalf("line %d with %d exchanged: %v", n, i, err)
				}
			}
		}
		if _, err := handover.Line(n+1, line); !errors.Is(err, handover.ErrLine) {
			t.Errorf("line %d passes for the next: %v", n, err)
		}
	}
}

// The code is read by another implementation, the one that reads labels.
func TestCode(t *testing.T) {
	c := challenge()
	for i := range 200 {
		c.Pause[i%16] += byte(i * 37)
		q := c.Code()
		const scale, quiet = 4, 4
		picture := image.NewGray(image.Rect(0, 0, (29+2*quiet)*scale, (29+2*quiet)*scale))
		draw.Draw(picture, picture.Bounds(), image.White, image.Point{}, draw.Src)
		for y := range picture.Bounds().Dy() {
			for x := range picture.Bounds().Dx() {
				if q.Dark(x/scale-quiet, y/scale-quiet) {
					picture.SetGray(x, y, color.Gray{})
				}
			}
		}
		text, err := label.Scan(picture)
		if err != nil {
			t.Fatalf("code %d: %v\n%s", i, err, q.Text())
		}
		if got, err := handover.ParseChallenge(text); err != nil || *got != *c {
			t.Fatalf("%q: %+v, %v", text, got, err)
		}
	}
	rows := strings.Split(strings.TrimSpace(c.Code().Text()), "\n")
	if len(rows) > 20 || strings.Count(rows[3], "\x1b") != 2 {
		t.Errorf("%d rows, %q", len(rows), rows[3])
	}
}

func FuzzOrder(f *testing.F) {
	c := challenge()
	lines, err := c.Order(resume(f, referencetest.Signer(f), c))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(strings.Join(lines, "\n"))
	f.Add(strings.Join(c.Lines(), "\n"))
	f.Add("é\x00--")
	f.Fuzz(func(t *testing.T, text string) {
		if document, err := c.ReadOrder(text); err == nil {
			if _, err := cose.Parse(document, reference.MaxCommandSize); err != nil && !strings.Contains(err.Error(), "cannot parse") {
				t.Errorf("%x: %v", document, err)
			}
		}
		if got, err := handover.ParseChallenge(text); err == nil && handover.Plain(strings.Join(got.Lines(), "")) != handover.Plain(text) {
			t.Errorf("%q is read as %q", text, got.Lines())
		}
	})
}

// TestVector holds the form: the lines of docs/command.cddl, which python3 makes of the
// same bytes.
func TestVector(t *testing.T) {
	seed := sha256.Sum256([]byte("miotfacts test vector resume"))
	key, err := cose.NewSigner(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	c := challenge()
	document := resume(t, key, c)
	order, err := c.Order(document)
	if err != nil {
		t.Fatal(err)
	}
	const script = `
import sys, zlib
digits = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
data = bytes.fromhex(sys.argv[1])
for n in range(0, len(data), 18):
    chunk = data[n:n+18].ljust(18, b"\0")
    chunk += (zlib.crc32(bytes([n // 18]) + chunk) & 0xffff).to_bytes(2, "big")
    v = int.from_bytes(chunk, "big")
    text = "".join(digits[v >> 5 * i & 31] for i in reversed(range(32)))
    print(" ".join(text[i:i+4] for i in range(0, 32, 4)))
`
	kid := key.Public().ID()
	bytesOf := map[string][]byte{
		strings.Join(c.Lines(), "\n"): slices.Concat([]byte{1}, c.Device[1:], c.Pause[:]),
		strings.Join(order, "\n"): slices.Concat([]byte{2, 0xf8}, kid[:], bytes.Repeat([]byte{0xa5}, 16),
			binary.BigEndian.AppendUint64(nil, referencetest.Now)[3:], []byte{9, 0x3a, 0x80}, document[len(document)-64:]),
	}
	for want, data := range bytesOf {
		out, err := exec.CommandContext(t.Context(), "python3", "-c", script, hex.EncodeToString(data)).CombinedOutput()
		if err != nil {
			t.Fatalf("python3 (Debian package python3): %v\n%s", err, out)
		}
		if got := strings.TrimSpace(string(out)); got != want {
			t.Errorf("python3 makes\n%s\nof what is written\n%s", got, want)
		}
	}
	if got := strings.Join(c.Lines(), "/"); got != golden {
		t.Errorf("the form has changed: %q", got)
	}
}

const golden = "078D 3MPK TKAX DNYR V7DD QQ6X VVFS 2YT3/KTNV HHEJ VZPF J1GK 40PK MHTM 0000 0CN5"
