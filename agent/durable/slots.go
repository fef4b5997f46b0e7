package durable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Slots keep a small state that changes often, in a file of two slots that is
// never made larger or smaller. Write replaces the older one in place: one write
// and one fdatasync, where Write of a whole file also makes the file system
// change directories. A write that the power cut off leaves the other slot, which
// holds what was written before.
//
// A slot begins with the number of the write, the length and the CRC-32C of all
// that, in 8, 4 and 4 bytes, big endian. Slots are not safe for concurrent use.
type Slots struct {
	path  string
	limit int // of the content, bytes
	mode  fs.FileMode

	f      *os.File // nil before the first Write
	number uint64   // of the newest write; it is in slot number % 2
	frame  []byte
}

const (
	slotHeader = 16
	slotAlign  = 4096 // two slots share no block of the disk
)

// NewSlots returns the slots in the file at path, which need not be there yet.
func NewSlots(path string, limit int, mode fs.FileMode) *Slots {
	return &Slots{path: path, limit: limit, mode: mode}
}

// size is that of one slot.
func (s *Slots) size() int { return (slotHeader + s.limit + slotAlign - 1) / slotAlign * slotAlign }

// Read returns what was written last, and whether one of the slots is damaged: a
// write was cut off then, or the medium has failed. The error wraps
// fs.ErrNotExist when nothing was ever written, and ErrDamaged when nothing whole
// is left.
func (s *Slots) Read() (data []byte, damaged bool, err error) {
	s.number = 0
	all, err := s.readAll()
	if err != nil {
		return nil, false, fmt.Errorf("cannot read state: %w", err)
	}
	var numbers [2]uint64
	for i := range 2 {
		number, content, err := parseSlot(all[i*s.size():][:s.size()], s.limit)
		numbers[i] = number
		switch {
		case err != nil || number != 0 && number%2 != uint64(i):
			damaged = true
		case number > s.number:
			s.number, data = number, content
		}
	}
	switch {
	case s.number > 0:
		// The other slot has the write before; an empty one has lost it.
		return data, damaged || numbers[(s.number+1)%2] != s.number-1, nil
	case damaged:
		return nil, true, fmt.Errorf("cannot read %s: %w: no slot is whole", s.path, ErrDamaged)
	}
	return nil, false, fmt.Errorf("cannot read %s: nothing was written yet: %w", s.path, fs.ErrNotExist)
}

func (s *Slots) readAll() ([]byte, error) {
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != int64(2*s.size()) {
		return nil, fmt.Errorf("%s: %w: size %d, must be %d", s.path, ErrDamaged, info.Size(), 2*s.size())
	}
	all, err := os.ReadFile(s.path)
	if err == nil && len(all) != 2*s.size() {
		err = fmt.Errorf("%s: %w: %d bytes, must be %d", s.path, ErrDamaged, len(all), 2*s.size())
	}
	return all, err
}

// parseSlot returns number 0 for a slot that was never written.
func parseSlot(slot []byte, limit int) (number uint64, data []byte, err error) {
	number = binary.BigEndian.Uint64(slot)
	length := binary.BigEndian.Uint32(slot[8:])
	sum := binary.BigEndian.Uint32(slot[12:])
	if number == 0 && length == 0 && sum == 0 {
		return 0, nil, nil
	}
	if number == 0 || int64(length) > int64(limit) {
		return 0, nil, ErrDamaged
	}
	data = slot[slotHeader : slotHeader+int(length)]
	if slotSum(slot[:12], data) != sum {
		return 0, nil, ErrDamaged
	}
	return number, data, nil
}

func slotSum(header, data []byte) uint32 {
	return checksumOn(checksum(header), data)
}

// Write replaces the content by data, of at most the limit. When it returns nil,
// data survives a power cut; when it returns an error, the old content does.
func (s *Slots) Write(data []byte) error {
	if len(data) > s.limit {
		return fmt.Errorf("cannot write %s: %d bytes, the limit is %d", s.path, len(data), s.limit)
	}
	if err := s.open(); err != nil {
		return fmt.Errorf("cannot write %s: %w", s.path, err)
	}
	s.frame = binary.BigEndian.AppendUint64(s.frame[:0], s.number+1)
	s.frame = binary.BigEndian.AppendUint32(s.frame, uint32(len(data)))
	s.frame = binary.BigEndian.AppendUint32(s.frame, slotSum(s.frame, data))
	s.frame = append(s.frame, data...)
	_, err := s.f.WriteAt(s.frame, int64(s.number+1)%2*int64(s.size()))
	if err == nil {
		err = fdatasync(s.f)
	}
	if err != nil {
		// The next Write goes to the same slot: the other one is still whole.
		return fmt.Errorf("cannot write %s: %w", s.path, err)
	}
	s.number++
	return nil
}

// open makes the file where it is not there, also where somebody removed it: what
// is written to a file without a name does not survive.
func (s *Slots) open() error {
	if s.f != nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(s.f.Fd()), &st); err == nil && st.Nlink > 0 {
			return nil
		}
		s.f.Close()
		s.f = nil
	}
	_, _, err := s.Read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrDamaged) {
		return err // it may be whole, and cannot be read now
	}
	if err != nil {
		// Absent, damaged or never written. The blocks are taken now, not in the
		// middle of a write in place.
		if err := replace(s.path, make([]byte, 2*s.size()), s.mode); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.f = f
	return nil
}

// Close closes the file; it may be written again.
func (s *Slots) Close() error {
	if s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}

func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if err != unix.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
