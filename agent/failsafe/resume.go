package failsafe

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// maxUsed bounds the nonces that are remembered. When there are more, the ones
// that expire first are forgotten: their pauses are long over, and a resume
// counts for its own pause only.
const maxUsed = 64

// used remembers the nonces of accepted resumes.
type used struct {
	Nonces []usedNonce `cbor:"1,keyasint,omitempty"`
}

type usedNonce struct {
	Nonce []byte `cbor:"1,keyasint"` // 16 bytes
	Until int64  `cbor:"2,keyasint"` // Unix seconds: the document's last one
}

const maxUsedSize = 4096

func (u *used) has(nonce []byte) bool {
	return slices.ContainsFunc(u.Nonces, func(n usedNonce) bool { return bytes.Equal(n.Nonce, nonce) })
}

// with returns u with the nonces of orders, without those that have expired.
func (u *used) with(orders []*reference.Order, now reference.Interval) used {
	next := used{Nonces: slices.Clone(u.Nonces)}
	for _, o := range orders {
		next.Nonces = append(next.Nonces, usedNonce{o.Command().Nonce, o.Command().NotAfter})
	}
	next.Nonces = slices.DeleteFunc(next.Nonces, func(n usedNonce) bool { return now.Earliest > n.Until })
	if extra := len(next.Nonces) - maxUsed; extra > 0 {
		slices.SortStableFunc(next.Nonces, func(a, b usedNonce) int { return int(min(max(a.Until-b.Until, -1), 1)) })
		next.Nonces = slices.Delete(next.Nonces, 0, extra)
	}
	return next
}

// openUsed reads the nonces. Without them a resume of the present pause could
// count twice, so it then gets a new id.
func (e *Enforcer) openUsed() (lost error) {
	err := readState(e.file(fileUsed), maxUsedSize, &e.used)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// judge decides about one resume under the present trust and pause.
func (e *Enforcer) judge(document []byte, policy reference.ResumePolicy, now reference.Interval) (*reference.Order, error) {
	o, err := e.policy.trust.OpenCommand(document, reference.Resume, e.cfg.Device, e.cfg.Model, now)
	if err != nil {
		return nil, err
	}
	c := o.Command()
	switch {
	case e.used.has(c.Nonce):
		return nil, fmt.Errorf("cannot accept resume: %w: nonce %x", ErrReplayed, c.Nonce)
	case !e.rec.Phase.latched():
		return nil, fmt.Errorf("cannot accept resume: %w: the latch is %s", ErrNotPaused, e.rec.Phase)
	case !bytes.Equal(c.Pause, e.rec.PauseID):
		return nil, fmt.Errorf("cannot accept resume: %w: %x, the present one is %x", ErrPause, c.Pause, e.rec.PauseID)
	case policy.Signers == 0:
		return nil, fmt.Errorf("cannot accept resume: no manifest tells who may end this pause: %s", e.policy.note)
	case c.NotAfter-c.NotBefore > int64(policy.Lifetime):
		return nil, fmt.Errorf("cannot accept resume: %w: %d s, the limit is %d s", ErrLifetime, c.NotAfter-c.NotBefore, policy.Lifetime)
	}
	return o, nil
}

// gather adds a document to those that wait for another signer, and returns the
// orders by signer. Earlier ones are judged again: keys and time have moved on.
func (e *Enforcer) gather(waiting *[][]byte, document []byte, judge func([]byte) (*reference.Order, error)) map[cose.KeyID]*reference.Order {
	signers := map[cose.KeyID]*reference.Order{}
	kept := (*waiting)[:0:0]
	for _, d := range append(*waiting, document) {
		o, err := judge(d)
		if err != nil {
			continue
		}
		if _, twice := signers[o.Signer()]; !twice {
			signers[o.Signer()] = o
			kept = append(kept, d)
		}
	}
	*waiting = kept
	return signers
}

// use records the nonces of orders, so that each counts once.
func (e *Enforcer) use(signers map[cose.KeyID]*reference.Order, now reference.Interval) error {
	var orders []*reference.Order
	for _, o := range signers {
		orders = append(orders, o)
	}
	next := e.used.with(orders, now)
	if err := writeState(e.file(fileUsed), next); err != nil {
		return err
	}
	e.used = next
	return nil
}

// resumePolicy is the present manifest's, or without one that of the manifest
// under which the pause began.
func (e *Enforcer) resumePolicy() reference.ResumePolicy {
	if e.policy.valid {
		return e.policy.ref.Manifest().Resume
	}
	return e.rec.Resume
}

// acceptResume judges a document and, when enough different operators have
// signed for the present pause, lets the reverse chain begin. Its nonces are
// recorded before anything else, then both copies of the latch say resuming:
// from there on a restart finishes what was accepted once. Before that point a
// restart comes back paused, and the operator signs anew.
// It is called with mu held.
func (e *Enforcer) acceptResume(document []byte) error {
	now, policy := e.cfg.Now(), e.resumePolicy()
	judge := func(d []byte) (*reference.Order, error) { return e.judge(d, policy, now) }
	if _, err := judge(document); err != nil {
		return err
	}
	signers := e.gather(&e.pending, document, judge)
	if len(signers) < int(policy.Signers) {
		return fmt.Errorf("cannot resume yet: %w: %d of %d have", ErrSigners, len(signers), policy.Signers)
	}
	if err := e.use(signers, now); err != nil {
		return fmt.Errorf("cannot accept resume: %w", err)
	}
	rec := e.rec
	rec.Phase = PhaseResuming
	if err := errors.Join(e.latch.begin(&rec), e.latch.finish(rec)); err != nil {
		// One copy may say resuming already: make both say paused again.
		again := e.rec
		back := errors.Join(e.latch.begin(&again), e.latch.finish(again))
		e.rec = again
		e.degrade("latch", errors.Join(err, back))
		return fmt.Errorf("cannot accept resume: %w", err)
	}
	e.rec, e.pending, e.effects, e.deferral = rec, nil, nil, nil
	e.dropIntent()
	e.log.Warn("resume accepted", "pause", fmt.Sprintf("%x", rec.PauseID), "signers", len(signers))
	e.turn()
	return nil
}
