package linux

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// How much of a file a read takes.
type extent uint8

const (
	value   extent = iota // the file comes in one piece: a read that does not fill the buffer has it all
	records               // the kernel hands it out in pieces (seq_file): read until the end
	head                  // only its beginning matters
)

// maxBackOff bounds how long a file that could not be opened is left alone.
const maxBackOff = int64(time.Minute)

// A file is opened once and read again and again from its beginning.
//
// Reads are direct pread(2) calls: the runtime's poller would wait for ever on
// a hwmon driver that answers EAGAIN.
type file struct {
	root   *Root
	path   string
	name   string // for messages
	extent extent
	fd     int // -1 when not open
	buf    []byte

	failed fault // of the last attempt
	errno  error // of the last failed read
	wait   int64 // ns between attempts to open
	retry  int64 // when to try next
	again  int64 // ns after which a file that is not there is looked for; maxBackOff where it is 0
}

func newFile(root *Root, path string, e extent, size int) *file {
	return &file{root: root, path: path, name: "/" + path, extent: e, fd: -1, buf: make([]byte, size)}
}

func (f *file) close() { f.fd = f.root.drop(f.fd) }

// read returns the file's content, valid until the next read.
func (f *file) read() ([]byte, fault) {
	if f.fd < 0 {
		now := f.root.now()
		if f.failed.is() && now < f.retry {
			return nil, f.failed
		}
		fd, err := f.root.open(f.path)
		if err != nil {
			f.wait = min(max(2*f.wait, int64(time.Second)), maxBackOff)
			f.retry = now + f.wait
			f.failed = faultOf(f.name, err)
			if f.failed.status == facts.Absent {
				f.retry = now + cmp.Or(f.again, maxBackOff)
			}
			return nil, f.failed
		}
		f.fd, f.wait, f.failed, f.errno = f.root.keep(fd), 0, fault{}, nil
	}
	n, interrupted := 0, 0
	for {
		m, err := unix.Pread(f.fd, f.buf[n:], int64(n))
		if err == unix.EINTR && interrupted < 3 {
			interrupted++
			continue
		}
		if err != nil {
			return nil, f.fail(err)
		}
		n += m
		switch {
		case m == 0, f.extent == head, f.extent == value && n < len(f.buf):
			f.errno = nil
			return f.buf[:n], fault{}
		case n == len(f.buf):
			if n >= maxFile {
				return nil, malformed(fmt.Sprintf("%s: longer than %d bytes", f.name, maxFile))
			}
			f.buf = append(f.buf, make([]byte, len(f.buf))...)
		}
	}
}

// fail tells about a failed read. A file whose device is gone is closed, to be
// opened anew; one that fails is not opened again for each attempt.
func (f *file) fail(err error) fault {
	if err != f.errno {
		f.errno, f.failed = err, faultOf(f.name, err)
	}
	if gone(err) {
		f.close()
		f.retry = f.root.now() + int64(time.Second)
	}
	return f.failed
}

func gone(err error) bool {
	return err == unix.ENODEV || err == unix.ENXIO || err == unix.ENOENT || err == unix.ESTALE || err == unix.ESRCH
}

// readInt reads a file that holds one decimal number. The kernel ends it with a
// line feed; one without is cut, and half a number would pass for a number.
func (f *file) readInt() (int64, fault) {
	b, bad := f.read()
	if bad.is() {
		return 0, bad
	}
	n, ok := parseInt(b)
	if !ok || b[len(b)-1] != '\n' {
		return 0, f.malformed("is not a number")
	}
	return n, fault{}
}

// malformed reuses its reason: a file that stays malformed makes no garbage.
func (f *file) malformed(what string) fault {
	if f.failed.status != facts.Malformed {
		f.failed = malformed(f.name + ": " + what)
	}
	return f.failed
}

// parseInt returns the decimal number that is all of b but white space around.
func parseInt(b []byte) (int64, bool) {
	b = bytes.TrimSpace(b)
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	if n > 1<<63-1 {
		return 0, false
	}
	if neg {
		return -int64(n), true
	}
	return int64(n), true
}

// field cuts the first field between white space off b.
func field(b []byte) (first, rest []byte) {
	b = bytes.TrimLeft(b, " \t\n")
	if i := bytes.IndexAny(b, " \t\n"); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

// intField cuts a decimal number off b.
func intField(b []byte) (n int64, rest []byte, ok bool) {
	first, rest := field(b)
	n, ok = parseInt(first)
	return n, rest, ok
}

// parseText returns b as text without the line feeds and NULs that end it.
func parseText(b []byte) ([]byte, fault) {
	b = bytes.TrimRight(b, "\n\x00")
	switch {
	case len(b) == 0:
		return nil, malformed("the text is empty")
	case len(b) > facts.MaxText:
		return nil, malformed(fmt.Sprintf("the text has %d bytes, the limit is %d", len(b), facts.MaxText))
	case !utf8.Valid(b):
		return nil, malformed("the text is not UTF-8")
	}
	return b, fault{}
}

// readText reads a file in which the kernel shows one text: sysfs and sysctl end
// it with a line feed, the device tree with NUL. One without is cut.
func (r *Root) readText(path string) ([]byte, fault) {
	b, f := r.readFile(path)
	if f.is() {
		return nil, f
	}
	if n := len(b); n > 0 && b[n-1] != '\n' && b[n-1] != 0 {
		return nil, malformed("/" + path + ": the text is cut")
	}
	if b, f = parseText(b); f.is() {
		return nil, malformed("/" + path + ": " + f.reason)
	}
	return b, fault{}
}

// checkSet refuses what would not fit into a report. A set is never cut: the
// member that was left out could be the one that matters.
func checkSet(members []string) fault {
	if len(members) > facts.MaxSet {
		return malformed(fmt.Sprintf("there are %d members, the limit is %d", len(members), facts.MaxSet))
	}
	for _, m := range members {
		if m == "" || len(m) > facts.MaxText || !utf8.ValidString(m) {
			return malformed(fmt.Sprintf("member %.64q is not a name", m))
		}
	}
	return fault{}
}

// A rate turns a counter into its growth per unit of time. A first sample and
// one after the counter went back give none.
type rate struct {
	seen     bool
	last, at int64
}

// next returns by how much the counter grew and in how many ns; ok is false
// when there is no sample to compare with.
func (r *rate) next(count, now int64) (grown, ns int64, ok bool) {
	grown, ns = count-r.last, now-r.at
	ok = r.seen && grown >= 0 && ns > 0
	if !r.seen || ns > 0 {
		r.seen, r.last, r.at = true, count, now
	}
	return grown, ns, ok
}

// secondSample is why a rate has no value yet.
const secondSample = "a rate needs a second sample"

// scale returns n*mul/div rounded down, for n, mul >= 0 and div > 0. What does
// not fit becomes the largest number.
func scale(n, mul, div int64) int64 {
	hi, lo := bits.Mul64(uint64(n), uint64(mul))
	if hi >= uint64(div) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(div))
	return int64(min(q, math.MaxInt64))
}
