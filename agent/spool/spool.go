// Package spool is a durable, bounded, ordered queue of opaque messages.
//
// What Append accepted survives kill -9, and from Keep on loss of power: one
// write per message, one fdatasync for those that are not done by then, segments
// that are only appended to, a CRC-32C per record, and the directory synced when
// a segment comes or goes. Messages are taken in the order of their class, then
// of their age. When the spool is full the oldest routine messages go first, a segment at a time, and the gap is
// recorded; alarms are never dropped.
//
// A message can be delivered twice: Done is written with the next Append of its
// class or at Close, so a crash can bring a done message back. Damage is
// expected: a torn tail is cut, a corrupt record is skipped, both are counted,
// and everything intact is kept.
//
// Trusted are the directory and who may write to it; the check sums find
// accidents, not attackers. The package does not look into messages, does not
// send them, and runs nothing in the background.
package spool

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
)

// An ID names a message within its spool. IDs rise with each Append, also
// across restarts; not every number is used.
type ID uint64

// A Class is the urgency of a message.
type Class uint8

const (
	Alarm    Class = iota // overtakes everything, never dropped
	Evidence              // boot, enrolment, challenge
	Routine               // dropped first
	classes  = iota
)

func (c Class) String() string {
	if c >= classes {
		return fmt.Sprintf("class %d", uint8(c))
	}
	return [classes]string{"alarm", "evidence", "routine"}[c]
}

// A Message is one entry of the queue.
type Message struct {
	ID      ID
	Class   Class
	Topic   string // 1 to 255 bytes
	Payload []byte
}

// A Gap says what was dropped because the spool was full, since it was made.
type Gap struct {
	Count uint64 // messages dropped
	First ID     // the oldest of them; 0 if none
	Last  ID     // the newest of them; there are other classes' messages between
}

// Stats describe a spool at one moment.
type Stats struct {
	Pending [classes]int // messages not done, by class
	Bytes   int64        // size of all segments
	Dropped [classes]Gap // by class; never alarms
	Torn    int64        // bytes cut from the ends of segments by Open
	Damaged int          // places of corruption skipped since Open
}

// Options bound a spool. Zero values take the defaults.
type Options struct {
	MaxBytes   int64 // of all segments together; at least 64 KiB, default 16 MiB
	MaxMessage int   // topic and payload together; default 256 KiB, at most an eighth of MaxBytes
}

const (
	minBytes       = 64 << 10
	defaultBytes   = 16 << 20
	defaultMessage = 256 << 10
	segments       = 16 // a full spool has about so many; one is the grain of dropping
	maxTopic       = 255
	doneBatch      = 16 // Done is written after so many without an Append
	maxScratch     = 64 << 10
)

// ErrFull says that there is no room and nothing that may be dropped for this
// message.
var ErrFull = errors.New("spool is full")

// A Spool is an open queue. It is safe for concurrent use, and only one
// process can have it open.
type Spool struct {
	opt   Options
	added chan struct{}

	mu      sync.Mutex
	dir     *os.File // locked; synced when a segment comes or goes
	logs    [classes]log
	next    ID
	torn    int64
	damaged int
	closed  bool
	scratch []byte
}

// A log holds the messages of one class.
type log struct {
	segs  []*segment // by base; only the last is appended to
	queue []entry    // pending messages, by ID
	done  []ID       // not written yet
	gap   Gap
}

// An entry says where a pending message is.
type entry struct {
	id   ID
	seg  *segment
	at   int64
	size int
}

func byID(e entry, id ID) int { return cmp.Compare(e.id, id) }

// Open opens the spool in dir and makes it if it is not there. What it found
// damaged is in Stats.
func Open(dir string, opt Options) (*Spool, error) {
	if opt.MaxBytes == 0 {
		opt.MaxBytes = defaultBytes
	}
	if opt.MaxBytes < minBytes {
		return nil, fmt.Errorf("cannot open spool: limit of %d bytes, at least %d are needed", opt.MaxBytes, minBytes)
	}
	if opt.MaxMessage == 0 {
		opt.MaxMessage = int(min(defaultMessage, opt.MaxBytes/8))
	}
	if opt.MaxMessage < 0 || int64(opt.MaxMessage) > opt.MaxBytes/8 {
		return nil, fmt.Errorf("cannot open spool: messages of %d bytes in %d, at most an eighth is allowed", opt.MaxMessage, opt.MaxBytes)
	}
	s := &Spool{opt: opt, added: make(chan struct{}, 1), next: 1}
	var err error
	if s.dir, err = openDir(dir); err != nil {
		return nil, fmt.Errorf("cannot open spool: %w", err)
	}
	if err := s.recover(); err != nil {
		s.closeFiles()
		return nil, fmt.Errorf("cannot open spool: %w", err)
	}
	s.signal()
	return s, nil
}

// Append stores a message. When it returns nil the message survives the end of
// the process, and loss of power once Keep returned nil for it. On an error,
// whatever it is, what was accepted before is still there and Append can be
// called again.
func (s *Spool) Append(class Class, topic string, payload []byte) (ID, error) {
	switch {
	case class >= classes:
		return 0, fmt.Errorf("cannot append message: %v does not exist", class)
	case len(topic) < 1 || len(topic) > maxTopic:
		return 0, fmt.Errorf("cannot append %v: topic of %d bytes, the limits are 1 and %d", class, len(topic), maxTopic)
	case len(topic)+len(payload) > s.opt.MaxMessage:
		return 0, fmt.Errorf("cannot append %v: %d bytes, the limit is %d", class, len(topic)+len(payload), s.opt.MaxMessage)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.append(class, topic, payload)
	if err != nil {
		return 0, fmt.Errorf("cannot append %v: %w", class, err)
	}
	s.signal()
	return id, nil
}

func (s *Spool) append(class Class, topic string, payload []byte) (ID, error) {
	if s.closed {
		return 0, os.ErrClosed
	}
	if s.next > maxID {
		return 0, fmt.Errorf("%w: no ID is left", ErrFull) // damage that looks like a record of the highest
	}
	l := &s.logs[class]
	size := headerSize + len(topic) + len(payload)
	need := gapSize + headerSize + 8*len(l.done) + size
	if err := s.makeRoom(class, int64(need)); err != nil {
		return 0, err
	}
	seg := l.active()
	if seg == nil || seg.size >= s.opt.MaxBytes/segments {
		var err error
		if seg, err = s.addSegment(class, l.gap); err != nil {
			return 0, err
		}
	}
	// A number is used up by the attempt: should its record turn up in spite
	// of an error, it must not meet another one of the same number.
	id := s.next
	s.next++
	buf := l.appendDone(s.scratch[:0], seg)
	at := seg.size + int64(len(buf))
	buf = appendRecord(buf, seg.base, at, record{kind: kindMessage, id: id, topic: []byte(topic), payload: payload})
	if cap(buf) <= maxScratch {
		s.scratch = buf
	}
	if err := seg.write(buf); err != nil {
		return 0, err
	}
	l.done = l.done[:0]
	l.queue = append(l.queue, entry{id: id, seg: seg, at: at, size: size})
	seg.live++
	return id, nil
}

// Keep makes sure that a message survives loss of power. There is nothing to do
// for one that is done or was dropped. After an error the message is still
// pending and may not survive: append it again.
func (s *Spool) Keep(id ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("cannot keep message %d: %w", id, os.ErrClosed)
	}
	for class := range s.logs {
		l := &s.logs[class]
		i, found := slices.BinarySearchFunc(l.queue, id, byID)
		if !found {
			continue
		}
		if err := l.queue[i].seg.sync(); err != nil {
			return fmt.Errorf("cannot keep message %d: %w", id, err)
		}
	}
	return nil
}

// Next returns the oldest pending message of a class whose ID is above after.
// A message that cannot be read back is skipped and counted as damaged.
func (s *Spool) Next(class Class, after ID) (Message, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || class >= classes {
		return Message{}, false
	}
	l := &s.logs[class]
	i, found := slices.BinarySearchFunc(l.queue, after, byID)
	if found {
		i++
	}
	for i < len(l.queue) {
		e := l.queue[i]
		if r, ok := e.seg.read(e); ok {
			return Message{ID: e.id, Class: class, Topic: string(r.topic), Payload: r.payload}, true
		}
		s.damaged++
		l.remove(i)
	}
	return Message{}, false
}

// Done removes a message. Removing it again, or one that was dropped, does
// nothing. An error says that the removal is not recorded yet: the message is
// gone from the queue, and a restart can bring it back.
func (s *Spool) Done(id ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("cannot remove message %d: %w", id, os.ErrClosed)
	}
	for class := range s.logs {
		l := &s.logs[class]
		i, found := slices.BinarySearchFunc(l.queue, id, byID)
		if !found {
			continue
		}
		l.remove(i)
		l.done = append(l.done, id)
		err := s.reclaim(l)
		if err == nil && len(l.done) >= doneBatch {
			err = l.writeDone()
		}
		if err != nil {
			return fmt.Errorf("cannot record removal of message %d: %w", id, err)
		}
		return nil
	}
	return nil
}

// Added receives when messages may have come since it last did. It is for one
// receiver.
func (s *Spool) Added() <-chan struct{} { return s.added }

func (s *Spool) signal() {
	select {
	case s.added <- struct{}{}:
	default:
	}
}

// Stats returns the present state.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Bytes: s.bytes(), Torn: s.torn, Damaged: s.damaged}
	for class := range s.logs {
		st.Pending[class] = len(s.logs[class].queue)
		st.Dropped[class] = s.logs[class].gap
	}
	return st
}

// Close writes what is done and closes the spool. Everything accepted stays on
// the disk for the next Open.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	var errs []error
	for class := range s.logs {
		l := &s.logs[class]
		errs = append(errs, l.writeDone())
		for _, seg := range l.segs {
			errs = append(errs, seg.sync())
		}
	}
	s.closed = true
	errs = append(errs, s.closeFiles())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot close spool: %w", err)
	}
	return nil
}

func (s *Spool) closeFiles() error {
	var errs []error
	for class := range s.logs {
		for _, seg := range s.logs[class].segs {
			errs = append(errs, seg.file.Close())
		}
	}
	return errors.Join(append(errs, s.dir.Close())...)
}

func (s *Spool) bytes() int64 {
	var n int64
	for class := range s.logs {
		n += s.logs[class].bytes()
	}
	return n
}

// makeRoom drops what class may displace until need bytes fit.
func (s *Spool) makeRoom(class Class, need int64) error {
	total := s.bytes()
	var free int64 // could be freed
	for c := range Class(classes) {
		free += s.logs[c].removable(c, class)
	}
	if total-free+need > s.opt.MaxBytes {
		return fmt.Errorf("%w: %d bytes needed, %d of %d are taken and %d may be dropped for it", ErrFull, need, total, s.opt.MaxBytes, free)
	}
	for s.bytes()+need > s.opt.MaxBytes {
		victim := Routine
		for victim > Alarm && s.logs[victim].removable(victim, class) == 0 {
			victim--
		}
		if s.logs[victim].removable(victim, class) == 0 {
			return ErrFull
		}
		if err := s.drop(victim); err != nil {
			return fmt.Errorf("cannot drop the oldest %v messages: %w", victim, err)
		}
	}
	return nil
}

// removable returns how many bytes of l, the log of class own, an arriving
// message may displace: all routine messages, evidence unless the message is
// routine, and otherwise only what is done.
func (l *log) removable(own, arriving Class) int64 {
	switch {
	case len(l.segs) == 0:
		return 0
	case own != Alarm && own >= arriving:
		return l.bytes() - gapSize // which is what the last drop leaves
	case l.segs[0].live == 0:
		return l.segs[0].size - gapSize
	}
	return 0
}

// drop drops the oldest segment of a class. The gap is on the disk before the
// messages are gone.
func (s *Spool) drop(class Class) error {
	l := &s.logs[class]
	oldest, gap, n := l.segs[0], l.gap, 0
	for n < len(l.queue) && l.queue[n].seg == oldest {
		gap.add(l.queue[n].id)
		n++
	}
	if seg := l.active(); seg == nil || seg == oldest {
		if _, err := s.addSegment(class, gap); err != nil {
			return err
		}
	} else if err := seg.write(appendRecord(nil, seg.base, seg.size, gapRecord(gap))); err != nil {
		return err
	} else if err := seg.sync(); err != nil {
		return err
	}
	l.gap = gap
	l.queue = l.queue[n:]
	oldest.live = 0
	return s.reclaim(l)
}

func (g *Gap) add(id ID) {
	if g.Count == 0 {
		g.First = id
	}
	g.Count++
	g.Last = id
}
