package verifier

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// An Epoch is a while in which all devices put the same nonce into their reports
// (RFC 9334 section 10.3). Whoever had not seen its nonce could not make such a
// report, so it was made after the epoch began.
type Epoch struct {
	Nonce [16]byte
	Begin int64 // Unix seconds
	End   int64 // when the next one begins
}

// EpochMemory is how long in seconds an epoch is remembered after its end, so that
// a report that was long on its way is told from one that names no epoch at all.
const EpochMemory = 90 * 86400

// Epochs remembers epochs.
type Epochs interface {
	Epochs() ([]Epoch, error) // by their beginning
	// AddEpoch stores an epoch and forgets those that ended before a time.
	AddEpoch(e Epoch, before int64) error
}

// Epoch returns the message for all devices that says which epoch it is, and until
// when. It begins a new one when the last has ended; their length is the
// configuration's.
func (v *Verifier) Epoch(now int64) (message []byte, until int64, err error) {
	if v.cfg.Command == nil || v.cfg.Epoch < time.Second {
		return nil, 0, errors.New("cannot begin an epoch: no key for commands, or no length, is configured")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	var e Epoch
	if n := len(v.epochs); n > 0 && v.epochs[n-1].Begin <= now && now < v.epochs[n-1].End {
		e = v.epochs[n-1]
	} else {
		e = Epoch{Begin: now, End: now + int64(v.cfg.Epoch/time.Second)}
		rand.Read(e.Nonce[:]) // never fails
		if err := v.store.AddEpoch(e, now-EpochMemory); err != nil {
			return nil, 0, fmt.Errorf("cannot begin an epoch: %w", err)
		}
		v.epochs = append(v.epochs, e)
	}
	// It is current until the next one has come to all, and its reports count as
	// long as that one is.
	command, err := reference.SignCommand(&reference.Command{
		Version: 1, Kind: reference.Epoch, Nonce: e.Nonce[:], NotBefore: e.Begin - clockSkew, NotAfter: e.End + (e.End - e.Begin) + clockSkew,
	}, v.cfg.Command)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot begin an epoch: %w", err)
	}
	message, err = cose.Encode(attest.Down{Command: command})
	return message, e.End, err
}

// checkEpoch refuses a report that names an epoch which never was.
func (v *Verifier) checkEpoch(d *Device, r *attest.Report) error {
	if _, _, ok := v.epochOf(r.Nonce); !ok {
		return refuse(ReasonEpoch, "report %d of device %s names an epoch that this verifier did not begin: %x", r.Body.Sequence, d.UEID, r.Nonce)
	}
	return nil
}

// epochOf finds an epoch, and which one follows on it, if any.
func (v *Verifier) epochOf(nonce []byte) (e Epoch, after *Epoch, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := len(v.epochs) - 1; i >= 0; i-- {
		if subtle.ConstantTimeCompare(v.epochs[i].Nonce[:], nonce) == 1 {
			if i+1 < len(v.epochs) {
				next := v.epochs[i+1]
				after = &next
			}
			return v.epochs[i], after, true
		}
	}
	return Epoch{}, nil, false
}

// stale says why a report may be older than it seems: it is of an epoch before the
// last one, or of none. It is "" for a report that is fresh, for the answer to a
// challenge, and where there are no epochs.
//
// Such a report is kept: a device that was cut off has old ones to tell. But it
// shows what was, and not what is.
func (v *Verifier) stale(now int64, r *attest.Report) string {
	if v.cfg.Epoch == 0 || r.Body.Kind == attest.KindChallenge {
		return ""
	}
	if len(r.Nonce) == 0 {
		return fmt.Sprintf("report %d names no epoch, so it may have been made long ago", r.Body.Sequence)
	}
	e, after, ok := v.epochOf(r.Nonce)
	if ok && (after == nil || now < after.End) {
		return ""
	}
	return fmt.Sprintf("report %d is of the epoch %x, which began at %s and ended at %s: it may have been made long ago", r.Body.Sequence, e.Nonce, stamp(e.Begin), stamp(e.End))
}
