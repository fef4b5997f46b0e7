package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// Names of the files, and the most that they hold.
const (
	agentFile  = "agent"
	agentLimit = 64 << 10
	chainFile  = "chain"
	chainLimit = attest.MaxMessageSize + 1024
)

// maxNonces bounds the challenges an agent remembers; older ones have expired.
const maxNonces = 64

// remembered is what an agent must not forget, beside the chain.
type remembered struct {
	Floor    uint64                     `cbor:"1,keyasint,omitempty"` // highest manifest sequence seen
	Keys     map[reference.Owner]uint64 `cbor:"2,keyasint,omitempty"` // highest key list sequence seen
	Enrolled bool                       `cbor:"3,keyasint,omitempty"` // an operator approved
	Nonces   [][]byte                   `cbor:"4,keyasint,omitempty"` // challenges answered, oldest first
}

// chainEnd is the newest report. Its message is kept so that a report that was
// numbered and not yet spooled when the power went is spooled again: numbers
// are never given twice.
type chainEnd struct {
	Sequence uint64      `cbor:"1,keyasint"`
	Digest   []byte      `cbor:"2,keyasint"`
	Class    spool.Class `cbor:"3,keyasint"`
	Topic    string      `cbor:"4,keyasint"`
	Message  []byte      `cbor:"5,keyasint"`
}

// A stateStore keeps an agent's state in two files, of which the chain changes
// with each report.
type stateStore struct {
	dir   string
	chain *durable.Slots
	notes []string // damage that was found

	mu  sync.Mutex
	mem remembered
	end chainEnd
}

func openState(dir string) (*stateStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot open state: %w", err)
	}
	s := &stateStore{dir: dir, chain: durable.NewSlots(filepath.Join(dir, chainFile), chainLimit, 0o600)}
	data, err := durable.Read(filepath.Join(dir, agentFile), agentLimit)
	if err == nil {
		err = cose.Decode(data, agentLimit, &s.mem)
	}
	if anew, err := s.judge(agentFile, data, err); err != nil {
		return nil, err
	} else if anew {
		s.mem = remembered{}
	}
	data, damaged, err := s.chain.Read()
	if err == nil {
		err = cose.Decode(data, chainLimit, &s.end)
	}
	if anew, err := s.judge(chainFile, data, err); err != nil {
		return nil, err
	} else if anew {
		s.end = chainEnd{}
	} else if damaged {
		s.notes = append(s.notes, "the newest write of state "+chainFile+" is not whole: the one before it counts")
	}
	return s, nil
}

// judge tells absence from damage, which is moved aside and noted: the agent
// begins anew, and the verifier sees the break in the chain.
func (s *stateStore) judge(name string, data []byte, err error) (anew bool, _ error) {
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, durable.ErrDamaged) || data != nil:
		s.notes = append(s.notes, fmt.Sprintf("state %s was damaged and is begun anew: %v", name, err))
		path := filepath.Join(s.dir, name)
		if err := os.Rename(path, path+".damaged"); err != nil {
			return false, fmt.Errorf("cannot move damaged state aside: %w", err)
		}
		return true, nil
	}
	return false, err
}

// save stores what must not be forgotten beside the chain; mu is held.
func (s *stateStore) save() error {
	data, err := cose.Encode(s.mem)
	if err != nil {
		return err
	}
	return durable.Write(filepath.Join(s.dir, agentFile), data, 0o600)
}

// setEnd stores the end of the chain; only the sealer calls it.
func (s *stateStore) setEnd(end *chainEnd) error {
	data, err := cose.Encode(end)
	if err != nil {
		return err
	}
	if err := s.chain.Write(data); err != nil {
		return err
	}
	s.end = *end
	return nil
}

func (s *stateStore) raiseFloor(sequence uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sequence <= s.mem.Floor {
		return nil
	}
	s.mem.Floor = sequence
	return s.save()
}

func (s *stateStore) floor() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mem.Floor
}

// raiseKeys refuses a key list older than one seen before.
func (s *stateStore) raiseKeys(o reference.Owner, sequence uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.mem.Keys[o]
	if sequence < have {
		return fmt.Errorf("cannot accept key list of the %s: %w: %d, have seen %d", o, reference.ErrRollback, sequence, have)
	}
	if sequence == have {
		return nil
	}
	if s.mem.Keys == nil {
		s.mem.Keys = map[reference.Owner]uint64{}
	}
	s.mem.Keys[o] = sequence
	return s.save()
}

func (s *stateStore) enrolled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mem.Enrolled
}

func (s *stateStore) setEnrolled() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mem.Enrolled {
		return nil
	}
	s.mem.Enrolled = true
	return s.save()
}

// useNonce remembers a challenge, durably. It reports whether it is new.
func (s *stateStore) useNonce(nonce []byte) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.mem.Nonces, func(n []byte) bool { return string(n) == string(nonce) }) {
		return false, nil
	}
	s.mem.Nonces = append(s.mem.Nonces, nonce)
	if len(s.mem.Nonces) > maxNonces {
		s.mem.Nonces = slices.Delete(s.mem.Nonces, 0, len(s.mem.Nonces)-maxNonces)
	}
	return true, s.save()
}

// openReference opens key lists and manifest with the floors of the state.
func openReference(cfg *Config, s *stateStore) (*reference.Trust, *reference.Reference, error) {
	trust, err := reference.NewTrust(cfg.Roots...)
	if err != nil {
		return nil, nil, err
	}
	for _, path := range cfg.KeyLists {
		data, err := readLimited(path, reference.MaxKeyListSize)
		if err != nil {
			return trust, nil, fmt.Errorf("cannot read key list: %w", err)
		}
		l, err := trust.AddKeys(data)
		if err != nil {
			return trust, nil, fmt.Errorf("%s: %w", path, err)
		}
		if err := s.raiseKeys(l.Owner, l.Sequence); err != nil {
			return trust, nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	data, err := readLimited(cfg.ManifestPath, reference.MaxManifestSize)
	if err != nil {
		return trust, nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	want := reference.Want{Vendor: cfg.Vendor, Model: cfg.Model, AgentVersion: cfg.Version, Floor: s.floor()}
	ref, err := trust.OpenManifest(data, want, cfg.Now())
	return trust, ref, err
}

// readLimited reads a file that must not be larger than limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, the limit is %d", path, info.Size(), limit)
	}
	return os.ReadFile(path)
}
