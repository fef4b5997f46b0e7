package failsafe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// A policy is what the enforcer holds true of manifest and keys. It keeps own
// copies of what it opened, because the files it is given lie in a directory
// that the measuring process can write to. A copy is verified like any other.
type policy struct {
	trust *reference.Trust
	ref   *reference.Reference // the last one that opened since the start; nil without one
	valid bool                 // it opened now
	note  string               // why it did not

	nvFloor uint64 // of manifests, as the TPM said at the start
}

// floors are sequences that only ever rise.
type floors struct {
	Manifest uint64                     `cbor:"1,keyasint,omitempty"`
	Keys     map[reference.Owner]uint64 `cbor:"2,keyasint,omitempty"`
}

const maxFloors = 256

// openPolicy opens key lists and manifest anew, and keeps own copies and floors
// if it may. It returns what was wrong on the way; only a device without roots is
// an error.
func (e *Enforcer) openPolicy(old policy, keep bool) (policy, []string, error) {
	var notes []string
	note := func(err error) {
		if err != nil {
			notes = append(notes, err.Error())
		}
	}
	have := floors{}
	if err := readState(e.file(fileFloors), maxFloors, &have); err != nil && !errors.Is(err, fs.ErrNotExist) {
		note(err)
	}
	have.Manifest = max(have.Manifest, old.nvFloor)
	p := policy{ref: old.ref, nvFloor: old.nvFloor}
	var err error
	if p.trust, err = reference.NewTrust(e.cfg.Roots...); err != nil {
		return old, nil, err
	}
	raised := floors{Manifest: have.Manifest, Keys: map[reference.Owner]uint64{}}
	lists := []string{e.file(fileKeys + "1"), e.file(fileKeys + "2")}
	for i, path := range append(lists, e.cfg.KeyLists...) {
		own := i < len(lists)
		if err := e.addKeys(p.trust, path, own, keep, have); err != nil && !(own && errors.Is(err, fs.ErrNotExist)) {
			note(err)
		}
	}
	for _, o := range []reference.Owner{reference.Manufacturer, reference.Operator} {
		if raised.Keys[o] = max(have.Keys[o], p.trust.KeySequence(o)); raised.Keys[o] == 0 {
			delete(raised.Keys, o)
		}
	}

	want := reference.Want{Vendor: e.cfg.Vendor, Model: e.cfg.Model, AgentVersion: e.cfg.AgentVersion, Floor: have.Manifest}
	now := e.cfg.Now()
	data, err := readFile(e.cfg.ManifestPath, reference.MaxManifestSize)
	var ref *reference.Reference
	if err == nil {
		ref, err = p.trust.OpenManifest(data, want, now)
	}
	switch {
	case err == nil:
		raised.Manifest = max(have.Manifest, ref.Manifest().Sequence)
		if keep {
			note(writeChanged(e.file(fileRef), data, reference.MaxManifestSize))
		}
	default:
		p.note = err.Error()
		kept, kerr := durable.Read(e.file(fileRef), reference.MaxManifestSize)
		if kerr == nil {
			ref, kerr = p.trust.OpenManifest(kept, want, now)
		}
		if kerr == nil {
			note(fmt.Errorf("%w; the last good manifest is in force", err))
		} else if !errors.Is(kerr, fs.ErrNotExist) {
			p.note += "; own copy: " + kerr.Error()
		}
	}
	if ref != nil {
		p.ref, p.valid, p.note = ref, true, ""
		for _, r := range ref.Manifest().Reaction {
			if ferr := e.hands.forbidden(r); ferr != nil {
				note(fmt.Errorf("the manifest names what it must not, the step will be refused: %w", ferr))
			}
		}
	}
	// The copies are there first: a floor above what can be opened would lock out.
	if keep && (raised.Manifest != have.Manifest || !sameKeys(raised.Keys, have.Keys)) {
		note(writeState(e.file(fileFloors), raised))
	}
	return p, notes, nil
}

// addKeys takes the key list at path, which is an own copy or a file given; that is
// copied if it may be.
func (e *Enforcer) addKeys(trust *reference.Trust, path string, own, keep bool, have floors) error {
	var data []byte
	var err error
	if own {
		data, err = durable.Read(path, reference.MaxKeyListSize)
	} else {
		data, err = readFile(path, reference.MaxKeyListSize)
	}
	if err != nil {
		return err
	}
	// First in a trust of its own: a list below the floor must leave no trace.
	alone, err := reference.NewTrust(e.cfg.Roots...)
	if err != nil {
		return err
	}
	l, err := alone.AddKeys(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if l.Sequence < have.Keys[l.Owner] {
		return fmt.Errorf("%s: cannot accept key list of the %s: %w: %d, have seen %d", path, l.Owner, reference.ErrRollback, l.Sequence, have.Keys[l.Owner])
	}
	if _, err := trust.AddKeys(data); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if own || !keep {
		return nil
	}
	return writeChanged(e.file(fmt.Sprintf("%s%d", fileKeys, l.Owner)), data, reference.MaxKeyListSize)
}

func sameKeys(a, b map[reference.Owner]uint64) bool {
	return a[reference.Manufacturer] == b[reference.Manufacturer] && a[reference.Operator] == b[reference.Operator]
}

func (e *Enforcer) file(name string) string { return filepath.Join(e.cfg.StateDir, name) }

// readFile reads a file that somebody else may have put there: never more than
// limit bytes, never from what is not a regular file.
func readFile(path string, limit int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read %s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("cannot read %s: longer than %d bytes", path, limit)
	}
	return data, nil
}

// writeChanged writes data durably unless it is there already.
func writeChanged(path string, data []byte, limit int64) error {
	if old, err := durable.Read(path, limit); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return durable.Write(path, data, 0o600)
}

func readState(path string, limit int, into any) error {
	data, err := durable.Read(path, int64(limit))
	if err != nil {
		return err
	}
	if err := cose.Decode(data, limit, into); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	return nil
}

func writeState(path string, v any) error {
	data, err := cose.Encode(v)
	if err != nil {
		return err
	}
	return durable.Write(path, data, 0o600)
}
