package spool

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A segment is one file of a log. Its name is the class and the base, which is
// not above any ID in it. It begins with a record of the gap so far.
type segment struct {
	file *os.File
	base ID
	size int64
	live int  // pending messages in it
	bad  bool // not to be appended to
	late bool // something in it is not synced
	lost bool // and maybe never will be
}

// maxID is the highest ID that is given or believed; a year of a message a
// second takes 2^25 of them.
const maxID = 1 << 62

func segmentName(class Class, base ID) string {
	return fmt.Sprintf("%v-%016x", class, uint64(base))
}

func parseSegmentName(name string) (class Class, base ID, ok bool) {
	word, digits, _ := strings.Cut(name, "-")
	for class = range classes {
		if word != class.String() {
			continue
		}
		// Not by fmt.Sscanf, which weighs 28 kB.
		n, err := strconv.ParseUint(digits[:min(16, len(digits))], 16, 64)
		if err != nil || n > maxID || segmentName(class, ID(n)) != name {
			return 0, 0, false
		}
		return class, ID(n), true
	}
	return 0, 0, false
}

// openDir makes dir where it is missing, opens it and locks it against other
// processes. The kernel releases the lock when the process ends.
func openDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if os.IsNotExist(err) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return nil, err
		}
		f, err = os.Open(dir)
	}
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock %s, is another process using it: %w", dir, err)
	}
	return f, nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// write appends buf. If it does not succeed the segment is as before, or bad.
func (g *segment) write(buf []byte) error {
	g.late = true
	if _, err := g.file.WriteAt(buf, g.size); err != nil {
		if g.file.Truncate(g.size) != nil {
			g.bad = true
		}
		return err
	}
	g.size += int64(len(buf))
	return nil
}

// sync makes all that was written survive loss of power. It fails for good once
// it has failed: the kernel may have dropped the pages and tells so only once
// (fsync(2), EIO).
func (g *segment) sync() error {
	if !g.late {
		return nil
	}
	if g.lost {
		return fmt.Errorf("cannot sync %s: it failed before", g.file.Name())
	}
	if err := fdatasync(g.file); err != nil {
		g.bad, g.lost = true, true
		return err
	}
	g.late = false
	return nil
}

func fdatasync(f *os.File) error {
	for {
		err := syscall.Fdatasync(int(f.Fd()))
		if err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// read reads the message of e back.
func (g *segment) read(e entry) (record, bool) {
	buf := make([]byte, e.size)
	if _, err := g.file.ReadAt(buf, e.at); err != nil {
		return record{}, false
	}
	r, n := decodeRecord(buf, g.base, e.at)
	return r, n == e.size && r.kind == kindMessage && r.id == e.id
}

func (l *log) bytes() int64 {
	var n int64
	for _, seg := range l.segs {
		n += seg.size
	}
	return n
}

// active returns the segment to append to, nil if there is none.
func (l *log) active() *segment {
	if n := len(l.segs); n > 0 && !l.segs[n-1].bad {
		return l.segs[n-1]
	}
	return nil
}

// remove removes the message at i from the queue. Messages are done roughly in
// order, so the few before it are moved rather than the many behind it.
func (l *log) remove(i int) {
	l.queue[i].seg.live--
	copy(l.queue[1:i+1], l.queue[:i])
	l.queue[0] = entry{}
	l.queue = l.queue[1:]
}

// appendDone appends a record of what is done and not written yet, for seg.
func (l *log) appendDone(buf []byte, seg *segment) []byte {
	ids := slices.DeleteFunc(l.done, func(id ID) bool { return id < l.segs[0].base }) // gone with its segment
	l.done = ids
	if len(ids) == 0 {
		return buf
	}
	return appendRecord(buf, seg.base, seg.size+int64(len(buf)), doneRecord(ids))
}

// writeDone records what is done without an Append.
func (l *log) writeDone() error {
	seg := l.active()
	if seg == nil || len(l.done) == 0 {
		return nil
	}
	if err := seg.write(l.appendDone(nil, seg)); err != nil {
		return err
	}
	l.done = l.done[:0]
	return nil
}

// addSegment adds a segment to append to, with the gap as its first record.
func (s *Spool) addSegment(class Class, gap Gap) (*segment, error) {
	l := &s.logs[class]
	if n := len(l.segs); n > 0 && l.segs[n-1].base >= s.next {
		s.next = l.segs[n-1].base + 1
	}
	path := filepath.Join(s.dir.Name(), segmentName(class, s.next))
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	seg := &segment{file: file, base: s.next}
	err = seg.write(appendRecord(nil, seg.base, 0, gapRecord(gap)))
	if err == nil {
		err = seg.sync()
	}
	if err == nil {
		err = s.dir.Sync()
	}
	if err != nil {
		file.Close()
		os.Remove(path)
		return nil, err
	}
	l.segs = append(l.segs, seg)
	return seg, nil
}

// reclaim removes the segments in which nothing is pending. The last one stays:
// it holds the gap and the count of IDs. So does all if that one is bad.
func (s *Spool) reclaim(l *log) error {
	if l.active() == nil {
		return nil
	}
	removed := false
	for i := 0; i < len(l.segs)-1; {
		seg := l.segs[i]
		if seg.live > 0 {
			i++
			continue
		}
		if err := os.Remove(seg.file.Name()); err != nil && !os.IsNotExist(err) {
			return err
		}
		seg.file.Close()
		l.segs = slices.Delete(l.segs, i, i+1)
		removed = true
	}
	if !removed {
		return nil
	}
	return s.dir.Sync()
}

// recover reads what is in the directory.
func (s *Spool) recover() error {
	files, err := os.ReadDir(s.dir.Name()) // by name: a class's segments in order of their base
	if err != nil {
		return err
	}
	done := map[ID]bool{}
	for _, f := range files {
		if class, base, ok := parseSegmentName(f.Name()); ok && f.Type().IsRegular() {
			if err := s.load(class, base, done); err != nil {
				return err
			}
		}
	}
	for id := range done {
		s.seen(id)
	}
	for class := range s.logs {
		l := &s.logs[class]
		l.queue = slices.DeleteFunc(l.queue, func(e entry) bool {
			s.seen(e.id)
			return done[e.id] || e.id <= l.gap.Last
		})
		for _, e := range l.queue {
			e.seg.live++
		}
		s.seen(l.gap.Last)
		if err := s.reclaim(l); err != nil {
			return err
		}
	}
	return nil
}

func (s *Spool) seen(id ID) {
	if id >= s.next && id <= maxID {
		s.next = id + 1
	}
}

// load reads one segment into its log. It comes after those of a lower base.
func (s *Spool) load(class Class, base ID, done map[ID]bool) error {
	file, err := os.OpenFile(filepath.Join(s.dir.Name(), segmentName(class, base)), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.seen(base)
	data, err := io.ReadAll(file)
	if err != nil {
		s.damaged++ // the file stays as it is: another Open may read it
		return file.Close()
	}
	l := &s.logs[class]
	seg := &segment{file: file, base: base, bad: true, late: true} // bad until its gap record is seen
	l.segs = append(l.segs, seg)
	damaged, end := scan(data, base, func(at int64, length int, r record) {
		switch r.kind {
		case kindMessage:
			inOrder := r.id > 0 && r.id <= maxID && (len(l.queue) == 0 || r.id > l.queue[len(l.queue)-1].id)
			if inOrder && len(r.topic) > 0 {
				l.queue = append(l.queue, entry{id: r.id, seg: seg, at: at, size: length})
			}
		case kindDone:
			for _, id := range r.done() {
				done[id] = true
			}
		case kindGap:
			if g, ok := r.gap(); ok {
				seg.bad = false
				if g.Count >= l.gap.Count {
					l.gap = g
				}
			}
		}
	})
	s.damaged += damaged
	seg.size = int64(end)
	if end < len(data) {
		s.torn += int64(len(data) - end)
		if file.Truncate(seg.size) != nil || fdatasync(file) != nil {
			seg.bad = true
		}
	}
	return nil
}
