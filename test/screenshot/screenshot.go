// Package screenshot keeps pictures of pages in docs, for the tests of pages, and tells
// whether a picture is of the page as it is now: in each stands a digest of what the
// page showed when it was taken. It does not compare dots, which differ from one
// browser to the next, and it does not look at the picture: that is for people.
package screenshot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"

	"github.com/chromedp/chromedp"
)

// shows returns what a page shows: its texts as they are laid out, but for times that
// go by, its styles, and the size of the window.
const shows = `Promise.all(Array.from(document.querySelectorAll("link[rel=stylesheet]"), (l) => fetch(l.href).then((r) => r.text()))).then((linked) => {
	const passing = document.querySelectorAll("time");
	for (const t of passing) t.style.visibility = "hidden"; // which innerText leaves out
	const text = document.body.innerText;
	for (const t of passing) t.style.visibility = "";
	return JSON.stringify([text, linked, Array.from(document.querySelectorAll("style"), (s) => s.textContent), innerWidth]);
})`

// Keep returns an error where the picture of a page, a PNG, is missing, has more
// than limit bytes, or is of a page that showed something else than that in the tab
// of ctx does now. With update it takes the picture anew by take.
func Keep(ctx context.Context, file string, limit int64, update bool, take chromedp.Action[[]byte]) error {
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](shows, chromedp.EvalAwaitPromise))
	if err != nil {
		return fmt.Errorf("cannot read the page: %w", err)
	}
	sum := sha256.Sum256([]byte(text))
	digest := hex.EncodeToString(sum[:])
	if update {
		data, err := chromedp.Run(ctx, take)
		if err != nil {
			return fmt.Errorf("cannot take a picture: %w", err)
		}
		if data, err = stamped(data, digest); err != nil {
			return fmt.Errorf("cannot take a picture: %w", err)
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return err
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("no picture of this page: %w (run the test with -update)", err)
	}
	of, err := stamp(data)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w (run the test with -update)", file, err)
	case int64(len(data)) > limit:
		return fmt.Errorf("%s has %d bytes, the limit is %d", file, len(data), limit)
	case of != digest:
		return fmt.Errorf("%s is of the page as it was: run the test with -update, and look at it", file)
	}
	return nil
}

// The text chunk of the digest (PNG, third edition, 11.3.3.2): keyword, zero, text.
const keyword = "Page\x00"

// behind is where the chunks behind the header begin: signature and IHDR with its
// length, type and checksum.
const behind = 8 + 25

var errNoPNG = errors.New("no PNG")

// stamped adds the digest to a picture.
func stamped(png []byte, digest string) ([]byte, error) {
	if len(png) < behind {
		return nil, errNoPNG
	}
	body := "tEXt" + keyword + digest
	chunk := binary.BigEndian.AppendUint32(nil, uint32(len(body)-4))
	chunk = append(chunk, body...)
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE([]byte(body)))
	return slices.Concat(png[:behind], chunk, png[behind:]), nil
}

// stamp returns the digest in a picture.
func stamp(png []byte) (string, error) {
	if len(png) < behind {
		return "", errNoPNG
	}
	for rest := png[behind:]; len(rest) >= 12; {
		n := int(binary.BigEndian.Uint32(rest))
		if n < 0 || n > len(rest)-12 {
			return "", errNoPNG
		}
		if text, ok := bytes.CutPrefix(rest[4:8+n], []byte("tEXt"+keyword)); ok {
			return string(text), nil
		}
		rest = rest[12+n:]
	}
	return "", errors.New("a picture of nobody knows which page")
}
