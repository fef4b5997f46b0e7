package failsafe

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/reference"
)

// A Phase is where the latch stands.
type Phase uint8

// The phases, with their numbers in files and on the socket.
const (
	PhaseClear    Phase = 1
	PhasePausing  Phase = 2 // latched; the chain runs
	PhasePaused   Phase = 3 // latched; the chain has run
	PhaseResuming Phase = 4 // a resume was accepted; the reverse chain runs
)

func (p Phase) String() string {
	switch p {
	case PhaseClear:
		return "clear"
	case PhasePausing:
		return "pausing"
	case PhasePaused:
		return "paused"
	case PhaseResuming:
		return "resuming"
	}
	return fmt.Sprintf("phase(%d)", uint8(p))
}

func (p Phase) latched() bool { return p == PhasePausing || p == PhasePaused }

// strictness orders what two copies say: the stricter one wins.
func (p Phase) strictness() int {
	switch {
	case p.latched():
		return 2
	case p == PhaseResuming:
		return 1
	}
	return 0
}

// Limits of the latch record.
const (
	maxSteps  = 2 * reference.MaxReactions // a pause may see two manifests
	maxReason = 512                        // bytes
	maxRecord = 32 << 10                   // maxSteps steps with the longest targets, values and peers stay below 20 KiB
	maxUndo   = 10 << 10                   // bytes that all steps together remember of what was before
)

// A step is one reaction of the present pause.
type step struct {
	Reaction reference.Reaction `cbor:"1,keyasint"`
	Undo     bool               `cbor:"2,keyasint,omitempty"` // resume has something to undo
	Was      []string           `cbor:"3,keyasint,omitempty"` // what there was before, as the step reads it
}

// A record is the latch as it is written to both copies.
type record struct {
	Version    uint                   `cbor:"1,keyasint"`            // of this format: 1
	Generation uint64                 `cbor:"2,keyasint"`            // counts the writes
	Phase      Phase                  `cbor:"3,keyasint"`            //
	PauseID    []byte                 `cbor:"4,keyasint,omitempty"`  // 16 random bytes; none when clear
	Since      int64                  `cbor:"5,keyasint,omitempty"`  // Unix seconds as far as the device knows
	Uptime     int64                  `cbor:"6,keyasint,omitempty"`  // ms since the boot in which the pause began
	Reason     string                 `cbor:"7,keyasint,omitempty"`  // in words
	Manifest   []byte                 `cbor:"8,keyasint,omitempty"`  // SHA-256 of the manifest that the steps are from
	Resume     reference.ResumePolicy `cbor:"9,keyasint"`            // of that manifest; zero without one
	Steps      []step                 `cbor:"10,keyasint,omitempty"` // in order; undone in reverse; when clear, those that a resume could not undo
}

func (r *record) check() error {
	switch {
	case r.Version != 1:
		return fmt.Errorf("version %d is not 1", r.Version)
	case r.Phase < PhaseClear || r.Phase > PhaseResuming:
		return fmt.Errorf("unknown phase %d", r.Phase)
	case r.Phase == PhaseClear && len(r.PauseID) != 0:
		return errors.New("it is clear and has a pause id")
	case r.Phase != PhaseClear && len(r.PauseID) != 16:
		return fmt.Errorf("pause id of %d bytes, want 16", len(r.PauseID))
	case len(r.Steps) > maxSteps:
		return fmt.Errorf("%d steps, the limit is %d", len(r.Steps), maxSteps)
	case len(r.Reason) > maxReason:
		return fmt.Errorf("reason of %d bytes, the limit is %d", len(r.Reason), maxReason)
	case len(r.Manifest) != 0 && len(r.Manifest) != 32:
		return fmt.Errorf("manifest digest of %d bytes, want 32", len(r.Manifest))
	}
	return nil
}

func decodeRecord(data []byte) (record, error) {
	var r record
	if err := cose.Decode(data, maxRecord, &r); err != nil {
		return record{}, err
	}
	if err := r.check(); err != nil {
		return record{}, fmt.Errorf("cannot use latch: %w", err)
	}
	return r, nil
}

// The files of a state directory.
const (
	fileMarker = "provisioned" // there since the first start: without a latch the state was lost
	fileUsed   = "used"        // nonces of resumes
	fileFloors = "floors"      // sequences that only rise
	fileRef    = "manifest"    // the newest manifest that opened
	fileKeys   = "keys."       // the newest key list of each owner
)

var copyNames = [2]string{"latch.a", "latch.b"}

// found is what reading one copy came to: a record, fs.ErrNotExist, or damage.
type found struct {
	rec record
	err error
}

func (f found) missing() bool { return errors.Is(f.err, fs.ErrNotExist) }

// reconcile decides what the copies in the files and in the TPM mean together:
// the stricter one wins, and what is not known is paused. known says that the
// directory has been in use. The notes say what was wrong. A record without a
// pause id that is latched gets one from the caller.
func reconcile(copies [2]found, known bool, nv nvLatch) (record, []string) {
	var notes []string
	best, valid, damaged := record{}, false, false
	for i, c := range copies {
		switch {
		case c.err == nil:
			if !valid || c.rec.Phase.strictness() > best.Phase.strictness() ||
				c.rec.Phase.strictness() == best.Phase.strictness() && c.rec.Generation > best.Generation {
				best, valid = c.rec, true
			}
		case !c.missing():
			damaged = true
			notes = append(notes, fmt.Sprintf("latch copy %s is damaged: %v", copyNames[i], c.err))
		case known:
			notes = append(notes, fmt.Sprintf("latch copy %s is missing", copyNames[i]))
		}
	}
	paused := func(why string) {
		notes = append(notes, why)
		best = record{Version: 1, Generation: max(copies[0].rec.Generation, copies[1].rec.Generation), Phase: PhasePausing, PauseID: nv.pauseID, Reason: why}
	}
	switch {
	case valid && best.Phase.latched():
	case !valid && damaged:
		paused("state damaged: no copy of the latch can be read")
	case !valid && known:
		paused("state damaged: both copies of the latch are missing")
	case nv.state == nvDamaged:
		paused("state damaged: the latch in the TPM cannot be understood")
	case nv.state == nvPaused && valid && bytes.Equal(best.PauseID, nv.pauseID):
		// A resume was accepted and did not get far: before anything is undone
		// the TPM is cleared.
		notes = append(notes, "the latch in the TPM says paused, the files say that a resume was accepted: the resume is void")
		best.Phase = PhasePausing
	case nv.state == nvPaused:
		paused("the latch in the TPM says paused, the files say otherwise")
	case !valid:
		notes = append(notes, "no earlier state was found: taken as a new device")
		best = record{Version: 1, Phase: PhaseClear}
	}
	return best, notes
}

// A latchStore keeps both copies. A pause is latched when one copy has it, a
// resume counts when both have it.
type latchStore struct {
	dir string

	mu         sync.Mutex
	generation uint64
	written    [2]uint64 // generation of each copy
}

func (s *latchStore) read() [2]found {
	var copies [2]found
	for i, name := range copyNames {
		data, err := durable.Read(filepath.Join(s.dir, name), maxRecord)
		if err == nil {
			copies[i].rec, err = decodeRecord(data)
		}
		copies[i].err = err
		s.generation = max(s.generation, copies[i].rec.Generation)
	}
	return copies
}

// known reports whether the directory has been in use. A first write that was
// cut off leaves a temporary file and nothing else.
func (s *latchStore) known() (bool, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return true, fmt.Errorf("cannot read state directory: %w", err)
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != copyNames[0]+".new" }), nil
}

// begin gives r the next generation and writes one copy of it.
func (s *latchStore) begin(r *record) error {
	s.number(r)
	return s.first(*r)
}

// number gives r the next generation.
func (s *latchStore) number(r *record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	r.Generation = s.generation
}

// first writes one copy of r, whichever takes it.
func (s *latchStore) first(r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.write(0, r)
	if err == nil {
		return nil
	}
	return errors.Join(err, s.write(1, r))
}

// finish writes r to the copies that do not have it yet, unless a newer record
// has come in between.
func (s *latchStore) finish(r record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.generation != r.Generation {
		return nil
	}
	var errs []error
	for i := range copyNames {
		if s.written[i] != r.Generation {
			errs = append(errs, s.write(i, r))
		}
	}
	return errors.Join(errs...)
}

// write writes one copy. A copy that cannot take a pause is removed: when both
// are gone in a directory that was in use, the device comes back paused. This
// also works on a full disk.
func (s *latchStore) write(i int, r record) error {
	path := filepath.Join(s.dir, copyNames[i])
	data, err := cose.Encode(r)
	if err == nil {
		err = durable.Write(path, data, 0o600)
	}
	if err == nil {
		s.written[i] = r.Generation
		return nil
	}
	if r.Phase.latched() {
		err = errors.Join(err, removeDurably(path))
	}
	return err
}

func removeDurably(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// An NV keeps a short record in the TPM's non-volatile memory, which neither a
// lost file system nor an old copy of the disk changes. tpm.TPM is one.
type NV interface {
	DefineLatch() error
	ReadLatch() (tpm.LatchRecord, error)
	WriteLatch(tpm.LatchRecord) error
}

// nvLatch is what the TPM says of the latch.
type nvLatch struct {
	state   nvState
	pauseID []byte
}

type nvState uint8

const (
	nvNone    nvState = iota // no TPM, or no index: the files alone hold the latch
	nvUnread                 // there should be one, and it cannot be read: so do they
	nvClear                  //
	nvPaused                 //
	nvDamaged                // the index is there and holds no record
)

// readNV tells what the TPM says. A TPM without a latch gets one, and the error
// says so: it is new, or it was cleared. The error is for people.
func readNV(nv NV) (nvLatch, tpm.LatchRecord, error) {
	r, err := nv.ReadLatch()
	switch {
	case errors.Is(err, tpm.ErrNVDamaged):
		return nvLatch{state: nvDamaged}, tpm.LatchRecord{}, err
	case errors.Is(err, tpm.ErrNVAbsent):
		if derr := nv.DefineLatch(); derr != nil {
			return nvLatch{}, tpm.LatchRecord{}, fmt.Errorf("the files alone hold the latch: %w", derr)
		}
		return nvLatch{}, tpm.LatchRecord{}, errors.New("the TPM had no latch, it is new or was cleared: defined anew")
	case err != nil:
		return nvLatch{state: nvUnread}, tpm.LatchRecord{}, fmt.Errorf("the files alone hold the latch: %w", err)
	case r.Paused:
		return nvLatch{state: nvPaused, pauseID: r.PauseID[:]}, r, nil
	}
	return nvLatch{state: nvClear}, r, nil
}
