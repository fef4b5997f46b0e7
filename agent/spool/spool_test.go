package spool

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func open(t testing.TB, dir string, opt Options) *Spool {
	t.Helper()
	s, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustAppend(t testing.TB, s *Spool, class Class, payload string) ID {
	t.Helper()
	id, err := s.Append(class, "topic", []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func mustDone(t testing.TB, s *Spool, ids ...ID) {
	t.Helper()
	for _, id := range ids {
		if err := s.Done(id); err != nil {
			t.Fatal(err)
		}
	}
}

// pending returns what would be delivered, in order, without taking it.
func pending(s *Spool) []Message {
	var list []Message
	for class := range Class(classes) {
		for after := ID(0); ; {
			m, ok := s.Next(class, after)
			if !ok {
				break
			}
			list = append(list, m)
			after = m.ID
		}
	}
	return list
}

func payloads(s *Spool) string {
	var words []string
	for _, m := range pending(s) {
		words = append(words, string(m.Payload))
	}
	return strings.Join(words, " ")
}

func TestOrder(t *testing.T) {
	for _, tt := range []struct {
		name   string
		append string // class letters, numbered from 1
		done   []int
		want   string
	}{
		{"empty", "", nil, ""},
		{"one class", "rrr", nil, "r1 r2 r3"},
		{"alarms, evidence, routine", "rerara", nil, "a4 a6 e2 r1 r3 r5"},
		{"the first done", "rrr", []int{1}, "r2 r3"},
		{"the middle done", "rrr", []int{2}, "r1 r3"},
		{"the last done", "rrr", []int{3}, "r1 r2"},
		{"all done backwards", "rrr", []int{3, 2, 1}, ""},
		{"done twice", "aer", []int{2, 2, 2}, "a1 r3"},
		{"unknown done", "aer", []int{99}, "a1 e2 r3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, Options{})
			for i, letter := range tt.append {
				class := Class(strings.IndexRune("aer", letter))
				if id := mustAppend(t, s, class, fmt.Sprintf("%c%d", letter, i+1)); id <= ID(i) {
					t.Fatalf("message %d has ID %d", i+1, id)
				}
			}
			ids := map[string]ID{"99": 99}
			for _, m := range pending(s) {
				ids[string(m.Payload[1:])] = m.ID
			}
			for _, n := range tt.done {
				mustDone(t, s, ids[strconv.Itoa(n)])
			}
			if got := payloads(s); got != tt.want {
				t.Errorf("pending %q, want %q", got, tt.want)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			again := open(t, dir, Options{})
			if got := payloads(again); got != tt.want {
				t.Errorf("after reopening %q, want %q", got, tt.want)
			}
			if st := again.Stats(); st.Torn != 0 || st.Damaged != 0 {
				t.Errorf("nothing was damaged: %+v", st)
			}
		})
	}
}

func TestMessageComesBackWhole(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	big := bytes.Repeat([]byte(magic), 10000)
	topic := strings.Repeat("t", 255)
	id, err := s.Append(Evidence, topic, big)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := s.Next(Evidence, 0)
	if !ok || m.ID != id || m.Class != Evidence || m.Topic != topic || !bytes.Equal(m.Payload, big) {
		t.Errorf("came back as %d %v %q, %d bytes, %v", m.ID, m.Class, m.Topic, len(m.Payload), ok)
	}
}

func TestIDsRiseAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	last := ID(0)
	for range 20 {
		s := open(t, dir, Options{})
		for _, class := range []Class{Routine, Alarm} {
			id := mustAppend(t, s, class, "x")
			if id <= last {
				t.Fatalf("ID %d after %d", id, last)
			}
			last = id
			mustDone(t, s, id)
		}
		s.Close()
	}
}

func TestRefusals(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxMessage: 100})
	for _, tt := range []struct {
		class   Class
		topic   string
		payload int
		want    string
	}{
		{3, "t", 1, "class 3 does not exist"},
		{Routine, "", 1, "topic of 0 bytes, the limits are 1 and 255"},
		{Routine, strings.Repeat("t", 256), 1, "topic of 256 bytes"},
		{Alarm, "t", 100, "101 bytes, the limit is 100"},
	} {
		if _, err := s.Append(tt.class, tt.topic, make([]byte, tt.payload)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v, want %q", err, tt.want)
		}
	}
	if _, err := s.Append(Alarm, "t", make([]byte, 99)); err != nil {
		t.Error(err)
	}
	for _, opt := range []Options{{MaxBytes: 1}, {MaxBytes: -1}, {MaxMessage: -1}, {MaxBytes: 1 << 20, MaxMessage: 1<<17 + 1}} {
		if s, err := Open(t.TempDir(), opt); err == nil {
			s.Close()
			t.Errorf("%+v was accepted", opt)
		}
	}
	s.Close()
	if _, err := s.Append(Alarm, "t", nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("append to a closed spool: %v", err)
	}
	if err := s.Done(1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("done on a closed spool: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestOneProcessOnly(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	if second, err := Open(dir, Options{}); err == nil {
		second.Close()
		t.Fatal("opened twice")
	} else if !strings.Contains(err.Error(), "another process") {
		t.Error(err)
	}
	s.Close()
	open(t, dir, Options{})
}

func TestAdded(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	<-s.Added() // what Open found
	select {
	case <-s.Added():
		t.Error("signalled with nothing new")
	default:
	}
	mustAppend(t, s, Routine, "x")
	mustAppend(t, s, Routine, "x")
	<-s.Added()
}

const small = 64 << 10 // bytes of a spool in tests of being full

func TestFullDropsOldestRoutineFirst(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{MaxBytes: small})
	body := strings.Repeat("x", 1000)
	alarm := mustAppend(t, s, Alarm, body)
	evidence := mustAppend(t, s, Evidence, body)
	var routine []ID
	for range 300 {
		routine = append(routine, mustAppend(t, s, Routine, body))
		if st := s.Stats(); st.Bytes > small {
			t.Fatalf("%d bytes, the limit is %d", st.Bytes, small)
		}
	}
	check := func(s *Spool) {
		t.Helper()
		st := s.Stats()
		gap := st.Dropped[Routine]
		kept := st.Pending[Routine]
		if want := (Gap{Count: uint64(300 - kept), First: routine[0], Last: routine[300-kept-1]}); gap != want {
			t.Errorf("gap %+v, want %+v", gap, want)
		}
		if kept < 40 {
			t.Errorf("only %d messages of 1,000 bytes are left in %d", kept, small)
		}
		if st.Dropped[Alarm] != (Gap{}) || st.Dropped[Evidence] != (Gap{}) {
			t.Errorf("dropped %+v", st.Dropped)
		}
		var ids []ID
		for _, m := range pending(s) {
			ids = append(ids, m.ID)
		}
		if want := append([]ID{alarm, evidence}, routine[300-kept:]...); !slices.Equal(ids, want) {
			t.Errorf("pending %v, want %v", ids, want)
		}
	}
	check(s)
	s.Close()
	s = open(t, dir, Options{MaxBytes: small})
	check(s)
	// The gap outlives the segments that were there when it came.
	for _, m := range pending(s) {
		mustDone(t, s, m.ID)
	}
	gap := s.Stats().Dropped
	for range 3 {
		s.Close()
		s = open(t, dir, Options{MaxBytes: small})
		if st := s.Stats(); st.Dropped != gap || st.Pending != [classes]int{} {
			t.Errorf("%+v, want gap %+v", st, gap)
		}
		mustDone(t, s, mustAppend(t, s, Routine, body))
	}
}

// Power may go between the record of a gap and the removal of the segment.
func TestDroppedStayDropped(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{MaxBytes: small})
	first := mustAppend(t, s, Routine, strings.Repeat("x", 1000))
	oldest := s.logs[Routine].segs[0].file.Name()
	data, err := os.ReadFile(oldest)
	if err != nil {
		t.Fatal(err)
	}
	for s.Stats().Dropped[Routine].Count == 0 {
		mustAppend(t, s, Routine, strings.Repeat("x", 1000))
	}
	want := s.Stats()
	s.Close()
	if err := os.WriteFile(oldest, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{MaxBytes: small})
	if got := s.Stats(); got != want || pending(s)[0].ID == first {
		t.Errorf("%+v, before %+v", got, want)
	}
}

func TestFullByClass(t *testing.T) {
	body := strings.Repeat("x", 1000)
	// What a spool full of one class does with a message of another.
	for _, tt := range []struct {
		full, arriving Class
		want           error
	}{
		{Routine, Routine, nil},
		{Routine, Evidence, nil},
		{Routine, Alarm, nil},
		{Evidence, Routine, ErrFull},
		{Evidence, Evidence, nil},
		{Evidence, Alarm, nil},
		{Alarm, Routine, ErrFull},
		{Alarm, Evidence, ErrFull},
		{Alarm, Alarm, ErrFull},
	} {
		t.Run(tt.full.String()+" "+tt.arriving.String(), func(t *testing.T) {
			s := open(t, t.TempDir(), Options{MaxBytes: small})
			var first ID
			need := int64(gapSize + 2*headerSize + len("topic") + len(body))
			for s.Stats().Bytes+need <= small {
				first = cmp.Or(first, mustAppend(t, s, tt.full, body))
			}
			before := s.Stats()
			if before.Pending[tt.full] < 40 {
				t.Fatalf("full with %d messages", before.Pending[tt.full])
			}
			for range 20 {
				_, err := s.Append(tt.arriving, "topic", []byte(body))
				if !errors.Is(err, tt.want) {
					t.Fatalf("%v, want %v", err, tt.want)
				}
			}
			after := s.Stats()
			if tt.want != nil && after != before {
				t.Errorf("a refused message changed %+v to %+v", before, after)
			}
			if tt.want == nil && after.Dropped[tt.full].First != first {
				t.Errorf("dropped %+v, the first was %d", after.Dropped, first)
			}
			// A full spool takes messages again when it has been emptied.
			for _, m := range pending(s) {
				mustDone(t, s, m.ID)
			}
			for class := range Class(classes) {
				mustAppend(t, s, class, body)
			}
		})
	}
}

func TestDoneFreesTheDisk(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{MaxBytes: 1 << 20})
	for range 2000 {
		mustDone(t, s, mustAppend(t, s, Alarm, strings.Repeat("x", 1000)))
	}
	if st := s.Stats(); st.Bytes > 1<<17 {
		t.Errorf("an empty spool takes %d bytes", st.Bytes)
	}
	// One message that never gets done does not hold the rest.
	stuck := mustAppend(t, s, Alarm, "stuck")
	for range 2000 {
		mustDone(t, s, mustAppend(t, s, Alarm, strings.Repeat("x", 1000)))
	}
	if st := s.Stats(); st.Bytes > 1<<18 || st.Pending[Alarm] != 1 {
		t.Errorf("%+v", st)
	}
	s.Close()
	s = open(t, dir, Options{MaxBytes: 1 << 20})
	if m := pending(s); len(m) == 0 || m[0].ID != stuck {
		t.Errorf("%d messages pending", len(m))
	}
}

// write returns the one segment file of a spool that wrote n messages, and the
// payloads with the offset where each record ends.
func segmentOf(t testing.TB, n int) (name string, data []byte, ends []int) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	for i := range n {
		mustAppend(t, s, Routine, fmt.Sprint("message ", i))
		ends = append(ends, int(s.Stats().Bytes))
	}
	s.Close()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("segments %v, %v", files, err)
	}
	data, err = os.ReadFile(files[0])
	if err != nil || len(data) != ends[n-1] {
		t.Fatalf("segment of %d bytes, %v; want %d", len(data), err, ends[n-1])
	}
	return filepath.Base(files[0]), data, ends
}

func openBytes(t testing.TB, name string, data []byte) *Spool {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return open(t, dir, Options{})
}

// A power cut can leave any beginning of a segment.
func TestCutAtEveryByte(t *testing.T) {
	name, data, ends := segmentOf(t, 5)
	for cut := range len(data) + 1 {
		s := openBytes(t, name, data[:cut])
		whole := 0
		for whole < len(ends) && ends[whole] <= cut {
			whole++
		}
		var want []string
		for i := range whole {
			want = append(want, fmt.Sprint("message ", i))
		}
		if got := payloads(s); got != strings.Join(want, " ") {
			t.Fatalf("cut at %d: pending %q, want %q", cut, got, want)
		}
		last := gapSize
		if whole > 0 {
			last = ends[whole-1]
		}
		if st := s.Stats(); cut >= gapSize && st.Torn != int64(cut-last) || st.Damaged != 0 {
			t.Fatalf("cut at %d: %+v", cut, st)
		}
		// It goes on from there.
		id := mustAppend(t, s, Routine, "new")
		dir := s.dir.Name()
		s.Close()
		s = open(t, dir, Options{})
		list := pending(s)
		if n := len(list); n != whole+1 || list[n-1].ID != id || s.Stats().Torn != 0 {
			t.Fatalf("cut at %d: %d messages after going on, %+v", cut, n, s.Stats())
		}
		s.Close()
	}
}

// One wrong byte costs at most the record it is in.
func TestFlipEveryByte(t *testing.T) {
	name, data, ends := segmentOf(t, 5)
	for at := range data {
		bad := bytes.Clone(data)
		bad[at] ^= 0x41
		s := openBytes(t, name, bad)
		hit := slices.IndexFunc(ends, func(end int) bool { return at < end })
		if at < gapSize {
			hit = -1
		}
		var want []string
		for i := range ends {
			if i != hit {
				want = append(want, fmt.Sprint("message ", i))
			}
		}
		if got := payloads(s); got != strings.Join(want, " ") {
			t.Fatalf("byte %d wrong: pending %q, want %q", at, got, want)
		}
		if st := s.Stats(); (st.Damaged == 1) == (st.Torn > 0) {
			t.Fatalf("byte %d wrong: %+v", at, st)
		}
		id := mustAppend(t, s, Routine, "new")
		if m := pending(s); m[len(m)-1].ID != id {
			t.Fatalf("byte %d wrong: the new message is not the last", at)
		}
		s.Close()
	}
}

func TestRecordInsideAPayloadIsNoRecord(t *testing.T) {
	name, data, ends := segmentOf(t, 2)
	// The second record as the payload of a third, whose own header is damaged.
	inner := data[ends[0]:ends[1]]
	all := appendRecord(bytes.Clone(data), 1, int64(len(data)), record{kind: kindMessage, id: 9, topic: []byte("t"), payload: inner})
	all[len(data)] ^= 1
	s := openBytes(t, name, all)
	if got := payloads(s); got != "message 0 message 1" {
		t.Errorf("pending %q", got)
	}
}

// A byte that goes wrong while the spool is open costs that message only.
func TestDamageWhileOpen(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	for _, word := range []string{"one", "two", "three"} {
		mustAppend(t, s, Routine, word)
	}
	e := s.logs[Routine].queue[1]
	if _, err := e.seg.file.WriteAt([]byte{0xff}, e.at+headerSize+6); err != nil {
		t.Fatal(err)
	}
	if got := payloads(s); got != "one three" {
		t.Errorf("pending %q", got)
	}
	if st := s.Stats(); st.Damaged != 1 || st.Pending[Routine] != 2 {
		t.Errorf("%+v", st)
	}
}

func TestForeignFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	names := []string{"lost+found", "routine-1", "routine-ffffffffffffffff", "routine-0000000000000001x", "other-0000000000000001", "Routine-0000000000000001"}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, dir, Options{})
	mustAppend(t, s, Routine, "x")
	s.Close()
	for _, name := range names {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != "mine" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

// Needs root, as all tests of this repository that mount do.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("cannot mount a tmpfs (run the tests as root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	where := filepath.Join(dir, "spool")
	s := open(t, where, Options{MaxBytes: 16 << 20, MaxMessage: 8 << 10})
	var want []string
	fill := func() (err error) {
		for i := 0; err == nil; i++ {
			word := fmt.Sprintf("%d-%s", len(want), strings.Repeat("x", 3000+i%7))
			if _, err = s.Append(Routine, "t", []byte(word)); err == nil {
				want = append(want, word)
			}
		}
		return err
	}
	if err := fill(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("append on a full disk: %v", err)
	}
	if len(want) < 50 {
		t.Fatalf("full after %d messages", len(want))
	}
	// Neither can another class have its first segment.
	if _, err := s.Append(Alarm, "t", []byte(strings.Repeat("x", 5000))); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("first alarm on a full disk: %v", err)
	}
	if got := payloads(s); got != strings.Join(want, " ") {
		t.Fatalf("a full disk lost something: %d messages, want %d", len(pending(s)), len(want))
	}
	// The same after a restart on the full disk.
	s.Close()
	s = open(t, where, Options{MaxBytes: 16 << 20, MaxMessage: 8 << 10})
	if got := payloads(s); got != strings.Join(want, " ") {
		t.Fatalf("a restart on a full disk lost something: %d messages, want %d", len(pending(s)), len(want))
	}
	if st := s.Stats(); st.Torn != 0 || st.Damaged != 0 {
		t.Errorf("a refused append left something behind: %+v", st)
	}
	// There is space again.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=512k"); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, Alarm, "alarm")
	before := len(want)
	if err := fill(); !errors.Is(err, syscall.ENOSPC) || len(want) < before+50 {
		t.Fatalf("with space again: %d more messages, %v", len(want)-before, err)
	}
	if got := payloads(s); got != "alarm "+strings.Join(want, " ") {
		t.Fatal("not everything is there")
	}
	s.Close()
}

func FuzzSegment(f *testing.F) {
	name, data, _ := segmentOf(f, 3)
	f.Add(data)
	class, base, ok := parseSegmentName(name)
	if !ok {
		f.Fatal(name)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return // the same in small
		}
		checkBytes(t, class, base, data)
		checkBytes(t, class, base, mended(data, base))
	})
}

// mended gives whatever looks like a record the right check sum, so that
// fuzzing gets past it.
func mended(data []byte, base ID) []byte {
	data = bytes.Clone(data)
	for at := 0; at+headerSize <= len(data); at++ {
		rec := data[at:]
		if n := binary.BigEndian.Uint32(rec[8:]); string(rec[:4]) == magic && n >= headerSize && uint64(n) <= uint64(len(rec)) {
			binary.BigEndian.PutUint32(rec[4:], checksum(base, int64(at), rec[:n]))
			at += int(n) - 1
		}
	}
	return data
}

func checkBytes(t *testing.T, class Class, base ID, data []byte) {
	intact := 0
	damaged, end := scan(data, base, func(at int64, length int, r record) {
		if length < headerSize || at+int64(length) > int64(len(data)) || headerSize+len(r.topic)+len(r.payload) != length {
			t.Fatalf("record of %d bytes at %d", length, at)
		}
		again := appendRecord(nil, base, at, r)
		if !bytes.Equal(again, data[at:at+int64(length)]) {
			t.Fatalf("record at %d encodes as %x", at, again)
		}
		intact++
	})
	if end > len(data) || damaged > intact {
		t.Fatalf("%d damaged, %d intact, end %d of %d", damaged, intact, end, len(data))
	}
	dir := memoryDir(t)
	if err := os.WriteFile(filepath.Join(dir, segmentName(class, base)), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, Options{})
	before := pending(s)
	id, err := s.Append(class, "t", []byte("new"))
	if errors.Is(err, ErrFull) && s.next > maxID {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	after := pending(s)
	if len(after) != len(before)+1 || after[len(after)-1].ID != id || s.Stats().Torn != 0 {
		t.Fatalf("%d messages before, %d after, %+v", len(before), len(after), s.Stats())
	}
	s.Close()
}

// memoryDir returns a directory that costs no disk writes, where there is one.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "spool")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
