package durable_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/agent/durable"
)

const slotLimit = 5000

func newSlots(t *testing.T) (*durable.Slots, string) {
	path := filepath.Join(t.TempDir(), "slots")
	s := durable.NewSlots(path, slotLimit, 0o600)
	t.Cleanup(func() { s.Close() })
	return s, path
}

func TestSlots(t *testing.T) {
	s, path := newSlots(t)
	if _, _, err := s.Read(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	var size int64
	for i, want := range []string{"one", "", "three", strings.Repeat("x", slotLimit), "a later one"} {
		if err := s.Write([]byte(want)); err != nil {
			t.Fatal(err)
		}
		// Another process reads it after this one has ended.
		got, damaged, err := durable.NewSlots(path, slotLimit, 0o600).Read()
		if err != nil || damaged || string(got) != want {
			t.Errorf("%d: %.9q came back as %.9q, damaged %v, %v", i, want, got, damaged, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && info.Size() != size {
			t.Errorf("write %d changed the size from %d to %d", i, size, info.Size())
		}
		size = info.Size()
	}
	if err := s.Write(make([]byte, slotLimit+1)); err == nil {
		t.Error("more than the limit was written")
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A writer that never read goes on from what is there.
func TestSlotsOfAnotherProcess(t *testing.T) {
	s, path := newSlots(t)
	for _, text := range []string{"one", "two", "three"} {
		if err := s.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s = durable.NewSlots(path, slotLimit, 0o600)
	}
	if got, _, err := s.Read(); err != nil || string(got) != "three" {
		t.Errorf("%q, %v", got, err)
	}
}

// A write is cut off after each of its bytes: the one before it is there.
func TestSlotsCutOff(t *testing.T) {
	s, path := newSlots(t)
	for _, text := range []string{"first", "the second", "the third one"} {
		before, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		old, _, err := s.Read()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if err := s.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if before == nil {
			continue
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		first, last := 0, len(after)
		for after[first] == before[first] {
			first++
		}
		for after[last-1] == before[last-1] {
			last--
		}
		for cut := first; cut <= last; cut++ {
			torn := append(bytes.Clone(after[:cut]), before[cut:]...)
			if err := os.WriteFile(path, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			other := durable.NewSlots(path, slotLimit, 0o600)
			got, damaged, err := other.Read()
			want, torned := string(old), cut > first
			if cut == last {
				want, torned = text, false
			}
			if err != nil || string(got) != want || damaged != torned {
				t.Fatalf("cut after %d of %d to %d: %q, damaged %v, %v; want %q", cut, first, last, got, damaged, err, want)
			}
			// And whoever goes on from there has its write whole.
			if err := other.Write([]byte("next")); err != nil {
				t.Fatal(err)
			}
			if got, damaged, err := other.Read(); err != nil || damaged || string(got) != "next" {
				t.Fatalf("cut after %d, then written: %q, damaged %v, %v", cut, got, damaged, err)
			}
			other.Close()
		}
		if err := os.WriteFile(path, after, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSlotsDamaged(t *testing.T) {
	s, path := newSlots(t)
	for _, text := range []string{"one", "two"} {
		if err := s.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	half := len(good) / 2
	for i := range 16 + 3 {
		bad := bytes.Clone(good)
		bad[i] ^= 0x10 // "two", written second, is in the first slot
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, damaged, err := s.Read(); err != nil || !damaged || string(got) != "one" {
			t.Errorf("byte %d changed: %q, damaged %v, %v", i, got, damaged, err)
		}
		bad[half+i] ^= 0x10
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, err := s.Read(); !errors.Is(err, durable.ErrDamaged) {
			t.Errorf("byte %d of both changed: %q, %v", i, got, err)
		}
	}
	// A medium that gives zeros back: the older slot counts, and it is said.
	zeros := append(make([]byte, half), good[half:]...)
	if err := os.WriteFile(path, zeros, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _, err := s.Read(); err != nil || string(got) != "one" {
		t.Errorf("the newest is gone: %q, %v", got, err)
	}
	if err := s.Write([]byte("two")); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]byte("three")); err != nil {
		t.Fatal(err)
	}
	three, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(three[half:]) // where "three" is
	if err := os.WriteFile(path, three, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, damaged, err := s.Read(); err != nil || string(got) != "two" || !damaged {
		t.Errorf("the newest of three is gone: %q, damaged %v, %v", got, damaged, err)
	}
	for _, bad := range [][]byte{nil, good[:half], append(bytes.Clone(good), 0), append(bytes.Clone(good[half:]), good[:half]...)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, err := s.Read(); !errors.Is(err, durable.ErrDamaged) {
			t.Errorf("%d bytes: %q, %v", len(bad), got, err)
		}
	}
}

// Somebody removes the file of a running process, or gives the process another
// file system to write to: it does not write to where nobody looks.
func TestSlotsRemoved(t *testing.T) {
	s, path := newSlots(t)
	if err := s.Write([]byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]byte("two")); err != nil {
		t.Fatal(err)
	}
	if got, damaged, err := durable.NewSlots(path, slotLimit, 0o600).Read(); err != nil || damaged || string(got) != "two" {
		t.Errorf("%q, damaged %v, %v", got, damaged, err)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := s.Write([]byte("three")); err == nil {
		t.Error("wrote into a folder that is gone")
	}
}
