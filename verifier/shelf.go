package verifier

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
)

// A LabelFile is one file of the folder of signed labels.
type LabelFile struct {
	Name string
	Data []byte
	Err  error // why it could not be read; Data is then empty
}

// LabelState is what became of a label. Whatever it is, it is shown.
type LabelState uint8

// The states. Only a valid label is held against a device.
const (
	LabelMissing    LabelState = 0 // none of the model is here
	LabelUnreadable LabelState = 1 // the file could not be read, or is no label
	LabelRefused    LabelState = 2 // altered, or signed by a key that may not
	LabelRevoked    LabelState = 3 // its key was revoked
	LabelExpired    LabelState = 4 // its validity, or that of its key, has ended
	LabelNotYet     LabelState = 5 // or has not begun
	LabelValid      LabelState = 6
)

func (s LabelState) String() string {
	names := []string{"missing", "unreadable", "refused", "revoked", "expired", "not yet valid", "valid"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("label(%d)", uint8(s))
}

// A Shelved label is a file of the folder, as it was opened at some time.
type Shelved struct {
	File          string
	State         LabelState
	Why           string       // in words; "" of a valid one
	Vendor, Model string       // what it claims to be of, verified only in a valid one; "" when unreadable
	Sequence      uint64       // edition, as far as that is known
	SHA256        [32]byte     // of the file
	Label         *label.Label // of a valid one only
}

// A shelf has the labels, and opens them anew each minute: keys and labels end.
type shelf struct {
	files []LabelFile
	trust *reference.Trust

	boms, advisories []LabelFile

	mu       sync.Mutex
	minute   int64
	opened   []Shelved
	compared map[[32]byte]*Software // by the digest of a label
}

// software returns what is known of the software that a valid label names. It is
// compared once: neither label nor files change.
func (s *shelf) software(l *Shelved) *Software {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.compared[l.SHA256]
	if known == nil {
		if s.compared == nil {
			s.compared = map[[32]byte]*Software{}
		}
		known = softwareOf(l.Label, s.boms, s.advisories)
		s.compared[l.SHA256] = known
	}
	return known
}

// at returns all labels as they are at now, in the order of their files.
func (s *shelf) at(now int64) []Shelved {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened != nil && s.minute == now/60 {
		return s.opened
	}
	opened := make([]Shelved, len(s.files))
	for i := range s.files {
		opened[i] = openLabel(&s.files[i], s.trust, now)
	}
	refuseTwins(opened)
	s.minute, s.opened = now/60, opened
	return opened
}

// openLabel opens one file. What is refused is still decoded where that is
// possible, so that a person can see whose label it claims to be.
func openLabel(f *LabelFile, trust *reference.Trust, now int64) Shelved {
	s := Shelved{File: f.Name, State: LabelUnreadable, SHA256: sha256.Sum256(f.Data)}
	if f.Err != nil {
		s.Why = f.Err.Error()
		return s
	}
	claimed, _, err := label.Parse(f.Data)
	if err != nil {
		s.Why = err.Error()
		return s
	}
	s.Vendor, s.Model, s.Sequence = claimed.Vendor, claimed.Model, claimed.Sequence
	v, err := label.Open(f.Data, trust, reference.At(now))
	switch {
	case err == nil:
		s.State, s.Label = LabelValid, v.Label()
		return s
	case errors.Is(err, reference.ErrRevoked):
		s.State = LabelRevoked
	case errors.Is(err, reference.ErrExpired):
		s.State = LabelExpired
	case errors.Is(err, reference.ErrNotYet):
		s.State = LabelNotYet
	default:
		s.State = LabelRefused
	}
	s.Why = err.Error()
	return s
}

// refuseTwins refuses valid labels of one model that differ and have one
// sequence: nothing says which of them counts.
func refuseTwins(all []Shelved) {
	for i := range all {
		var twins []string
		for j := range all {
			a, b := &all[i], &all[j]
			if a.State == LabelValid && b.Label != nil && a.Vendor == b.Vendor && a.Model == b.Model && a.Sequence == b.Sequence && a.SHA256 != b.SHA256 {
				twins = append(twins, b.File)
			}
		}
		if len(twins) > 0 {
			all[i].State, all[i].Why = LabelRefused, fmt.Sprintf("another label of this model has sequence %d too: %s", all[i].Sequence, strings.Join(twins, ", "))
		}
	}
	for i := range all {
		if all[i].State != LabelValid {
			all[i].Label = nil
		}
	}
}

// pick returns the label of a model: the newest valid one, else the best of
// those that claim to be of it, else one that is missing and says so.
func pick(all []Shelved, vendor, model string) Shelved {
	best := Shelved{Vendor: vendor, Model: model}
	for i := range all {
		s := &all[i]
		if s.State == LabelUnreadable || s.Vendor != vendor || s.Model != model {
			continue
		}
		if s.State > best.State || s.State == best.State && s.Sequence > best.Sequence {
			best = *s
		}
	}
	if best.State == LabelMissing {
		unreadable := 0
		for i := range all {
			if all[i].State == LabelUnreadable {
				unreadable++
			}
		}
		best.Why = fmt.Sprintf("no label of %s %s is here", vendor, model)
		if unreadable > 0 {
			best.Why += fmt.Sprintf("; %d files could not be read as labels", unreadable)
		}
	}
	return best
}

// Labels returns what became of each label at now, in the order of their files.
func (v *Verifier) Labels(now int64) []Shelved {
	p := v.policy.Load()
	if p.shelf == nil {
		return nil
	}
	return slices.Clone(p.shelf.at(now))
}
