package failsafe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miotfacts/miotfacts/reference"
)

// work runs the chain whenever the phase changes, and looks at a paused device
// every holdEvery.
func (e *Enforcer) work(ctx context.Context) {
	hold := time.NewTicker(holdEvery)
	defer hold.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.kick:
		case <-hold.C:
		}
		e.settle(ctx)
		e.progress()
	}
}

// progress notes that the work goes on.
func (e *Enforcer) progress() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.worked = time.Now()
}

// live gives a sign of life as long as there is progress. It takes the lock that
// all work needs: who holds it for ever ends it.
func (e *Enforcer) live(ctx context.Context) {
	if e.cfg.Alive == nil {
		return
	}
	e.progress()
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		e.mu.Lock()
		idle := time.Since(e.worked)
		if d := e.deferral; d != nil && d.Ended == 0 && uptime() < d.Until {
			idle = 0 // it waits for the application, as long as that may make it wait
		}
		e.mu.Unlock()
		if idle < stuckAfter {
			e.cfg.Alive()
		}
	}
}

// settle makes the device what the latch says, until the phase holds still.
func (e *Enforcer) settle(ctx context.Context) {
	for ctx.Err() == nil {
		e.mu.Lock()
		rec := e.rec
		if rec.Phase == PhaseClear && len(rec.Steps) == 0 {
			e.heal()
			e.mu.Unlock()
			return
		}
		job, cancel := context.WithCancel(ctx)
		e.stop = cancel
		e.mu.Unlock()
		switch rec.Phase {
		case PhaseClear:
			e.mend(job, rec)
		case PhaseResuming:
			e.undo(job, rec)
		default:
			e.apply(job, rec.PauseID)
		}
		e.mu.Lock()
		e.stop = nil
		// Held, or mended as far as it goes for now.
		same := bytes.Equal(e.rec.PauseID, rec.PauseID) && e.rec.Phase.latched() == rec.Phase.latched() && e.rec.Phase != PhaseResuming
		e.mu.Unlock()
		cancel()
		if same {
			return
		}
	}
}

// apply does the steps of pause id, or what is left of them to do.
func (e *Enforcer) apply(ctx context.Context, id []byte) {
	e.putOff(ctx, id)
	e.mu.Lock()
	if !e.rec.Phase.latched() || !bytes.Equal(e.rec.PauseID, id) || ctx.Err() != nil {
		e.mu.Unlock()
		return
	}
	// A manifest that came during the pause adds to it.
	if before := len(e.rec.Steps); e.rec.Phase.latched() {
		if e.plan(&e.rec); len(e.rec.Steps) != before {
			e.save()
		}
	}
	steps := slices.Clone(e.rec.Steps)
	told, began := bytes.Equal(e.told, id), e.rec.Uptime
	if e.deferral != nil {
		began = e.deferral.Ended
	}
	e.mu.Unlock()
	for i, s := range steps {
		if told && tells(s.Reaction) || s.Reaction.Do == reference.Hook && e.seen(i, s.Reaction) {
			continue // once in a run
		}
		var effect Effect
		if s.Reaction.OnlyIf == reference.IfFailed && i > 0 && e.seen(i-1, steps[i-1].Reaction) {
			effect = Effect{Kind: s.Reaction.Do, Target: s.Reaction.Target, Done: true, Observed: "not needed: the step before had its effect"}
		} else {
			r := s.Reaction
			if r.Do == reference.Prepare {
				r.Deadline = prepareTime(r.Deadline, uptime()-began)
			}
			effect = e.do(ctx, r, func(ctx context.Context) (string, error) {
				return e.hands.pause(ctx, r, id, func(was ...string) error { return e.mustUndo(id, i, was) })
			})
		}
		e.mu.Lock()
		if !e.rec.Phase.latched() || !bytes.Equal(e.rec.PauseID, id) || ctx.Err() != nil {
			e.mu.Unlock()
			return
		}
		e.observed(i, effect)
		e.mu.Unlock()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.told = id
	switch {
	case !bytes.Equal(e.rec.PauseID, id):
	case e.rec.Phase == PhasePausing:
		e.rec.Phase = PhasePaused
		e.save()
	case e.rec.Phase == PhasePaused:
		e.heal()
	}
}

// tells reports whether a step says something to the application: once in a run,
// and not again to one that does not listen.
func tells(r reference.Reaction) bool { return r.Do == reference.Tell || r.Do == reference.Prepare }

// prepareTime returns what is left of the time in which the application may
// prepare, in ms, when its pause began so many ms ago: a restart in between gives
// it no more. What is kept for telling it to hold is always left. An age below
// zero is that of a pause from before the boot.
func prepareTime(deadline uint32, age int64) uint32 {
	if age < 0 {
		age = int64(deadline)
	}
	least := min(int64(deadline), holdTime.Milliseconds())
	return uint32(max(int64(deadline)-age, least))
}

// save writes the present record to both copies, and where they do not take a
// pause to the intent. It is called with mu held.
func (e *Enforcer) save() {
	err := errors.Join(e.latch.begin(&e.rec), e.latch.finish(e.rec))
	switch {
	case err == nil:
		e.dropIntent()
	case e.rec.Phase.latched():
		err = errors.Join(err, e.intend(e.rec))
	}
	e.degrade("latch", err)
}

// heal writes the latch again after a write of it has failed. It is called with
// mu held.
func (e *Enforcer) heal() {
	if _, bad := e.degraded["latch"]; bad {
		e.save()
	}
}

// mustUndo records that step i of pause id has something to undo, and what there
// was before. What a pause recorded first stays. Without a record nothing is done
// that could not be put back.
func (e *Enforcer) mustUndo(id []byte, i int, was []string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !bytes.Equal(e.rec.PauseID, id) || !e.rec.Phase.latched() || e.rec.Steps[i].Undo {
		return nil
	}
	size := 0
	for _, s := range append(slices.Clone(e.rec.Steps), step{Was: was}) {
		for _, w := range s.Was {
			size += len(w) + 3
		}
	}
	if size > maxUndo {
		return fmt.Errorf("cannot remember what there is before: %d bytes, the limit is %d", size, maxUndo)
	}
	e.rec.Steps = slices.Clone(e.rec.Steps)
	e.rec.Steps[i].Undo, e.rec.Steps[i].Was = true, was
	e.save()
	return nil
}

// seen reports whether the effect of step i was observed in this run.
func (e *Enforcer) seen(i int, r reference.Reaction) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return i < len(e.effects) && e.effects[i].Kind == r.Do && e.effects[i].Target == r.Target && e.effects[i].Done
}

// observed notes the effect of step i. When a step is looked at again and
// nothing has changed, the first effect stays.
func (e *Enforcer) observed(i int, effect Effect) {
	for len(e.effects) <= i {
		e.effects = append(e.effects, Effect{})
	}
	if old := e.effects[i]; old.Kind == effect.Kind && old.Done == effect.Done {
		return
	}
	e.effects[i] = effect
	level := e.log.Info
	if !effect.Done {
		level = e.log.Error
	}
	level("step", "do", effect.Kind, "target", effect.Target, "done", effect.Done, "observed", effect.Observed, "ms", effect.Millis)
}

// Tries of one step. Telling has one: who does not listen holds up the rest.
const (
	tries    = 3
	tryAgain = 5 * time.Millisecond
)

// do runs one step within its deadline, and again when it fails.
func (e *Enforcer) do(ctx context.Context, r reference.Reaction, f func(context.Context) (string, error)) Effect {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(r.Deadline)*time.Millisecond)
	defer cancel()
	e.progress()
	defer e.progress()
	start := time.Now()
	words, err := f(ctx)
	for try := 1; err != nil && try < tries && !tells(r) && !errors.Is(err, reference.ErrNeverTouch) && ctx.Err() == nil; try++ {
		select {
		case <-ctx.Done():
		case <-time.After(tryAgain):
			words, err = f(ctx)
		}
	}
	if err != nil {
		words = err.Error()
	}
	return Effect{Kind: r.Do, Target: r.Target, Done: err == nil, Observed: clip(words, maxObserved), Millis: time.Since(start).Milliseconds()}
}

// undo runs the reverse chain of a resume that was accepted, and clears the
// latch. A step that cannot be undone is said and does not keep the device
// paused: the operator has decided, and sees it. It stays in the record, and is
// tried again.
func (e *Enforcer) undo(ctx context.Context, rec record) {
	// As long as the TPM says paused, a restart comes back paused.
	// Where it cannot be written, the resume is void then; a TPM that hangs has one try.
	begin := time.Now()
	for try := 1; !e.writeNV() && try < tries && time.Since(begin) < lookTime; try++ {
		select {
		case <-ctx.Done():
		case <-time.After(tryAgain):
		}
	}
	e.mu.Lock()
	e.effects = nil
	e.mu.Unlock()
	n := 0
	var left []step
	for _, s := range slices.Backward(rec.Steps) {
		if !s.Undo {
			continue
		}
		effect := e.do(ctx, s.Reaction, func(ctx context.Context) (string, error) {
			return e.hands.resume(ctx, s.Reaction, rec.PauseID, s.Was)
		})
		e.mu.Lock()
		if e.rec.Phase != PhaseResuming || ctx.Err() != nil {
			e.mu.Unlock()
			return
		}
		e.observed(n, effect)
		e.mu.Unlock()
		n++
		if !effect.Done && !tells(s.Reaction) {
			left = append([]step{s}, left...)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rec.Phase != PhaseResuming || ctx.Err() != nil {
		return
	}
	e.rec = record{Version: 1, Phase: PhaseClear, Steps: left}
	e.told, e.ended = nil, rec.PauseID
	delete(e.degraded, "state")
	e.save()
	e.sayLeft()
	// Silence counts anew: who does not measure by then is paused again.
	e.life, e.silent = time.Now(), false
	notify(e.beat)
	e.log.Warn("resumed", "pause", fmt.Sprintf("%x", rec.PauseID))
}

// mend tries again to undo what a resume could not.
func (e *Enforcer) mend(ctx context.Context, rec record) {
	var left []step
	for _, s := range slices.Backward(rec.Steps) {
		effect := e.do(ctx, s.Reaction, func(ctx context.Context) (string, error) { return e.hands.resume(ctx, s.Reaction, nil, s.Was) })
		if !effect.Done {
			left = append([]step{s}, left...)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rec.Phase != PhaseClear || ctx.Err() != nil {
		return
	}
	if len(left) != len(rec.Steps) {
		e.rec.Steps = left
		e.save()
	}
	e.sayLeft()
}

// sayLeft says what a resume has not undone. It is called with mu held.
func (e *Enforcer) sayLeft() {
	var err error
	for _, s := range e.rec.Steps {
		err = errors.Join(err, fmt.Errorf("resumed, and %s %s is not undone yet", s.Reaction.Do, s.Reaction.Target))
	}
	e.degrade("left", err)
}

// keepNV keeps the TPM in step with the latch. A TPM takes its time, so no step
// waits for it; only a resume does.
func (e *Enforcer) keepNV(ctx context.Context) {
	for {
		again := (<-chan time.Time)(nil)
		if !e.writeNV() {
			again = time.After(nvAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-e.nvKick:
		case <-again:
		}
	}
}

// nvAgain is when a TPM that was not written is written again.
const nvAgain = 5 * time.Second

// writeNV writes what the TPM has to say, when it changes: its cells wear. It
// reports whether the TPM says that now, or there is none.
func (e *Enforcer) writeNV() bool {
	if e.cfg.NV == nil {
		return true
	}
	e.nvMu.Lock()
	defer e.nvMu.Unlock()
	if !e.nvRead && !e.readLate() {
		return false
	}
	want := e.nvSaid
	e.mu.Lock()
	want.Paused = e.rec.Phase.latched()
	if e.rec.Phase != PhaseClear {
		copy(want.PauseID[:], e.rec.PauseID)
	}
	if e.policy.ref != nil {
		want.Floor = max(want.Floor, e.policy.ref.Manifest().Sequence)
	}
	e.mu.Unlock()
	err := e.cfg.NV.WriteLatch(want) // which writes nothing where nothing changes
	if err != nil {
		err = fmt.Errorf("the files alone hold the latch: %w", err)
	} else {
		e.nvSaid = want
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.degrade("tpm", err)
	return err == nil
}

// readLate reads a TPM that could not be read at the start, before anything is
// written to it: what it says counts as it would have then, but for a pause that
// was resumed meanwhile. It is called with nvMu held.
func (e *Enforcer) readLate() bool {
	nv, said, err := readNV(e.cfg.NV)
	e.mu.Lock()
	defer e.mu.Unlock()
	if nv.state == nvUnread {
		e.degrade("tpm", err)
		return false
	}
	e.nvRead, e.nvSaid = true, said
	e.degrade("tpm at start", err)
	e.policy.nvFloor = max(e.policy.nvFloor, said.Floor)
	switch {
	case e.rec.Phase != PhaseClear:
	case nv.state == nvDamaged:
		e.pause("state damaged: the latch in the TPM cannot be understood", nil)
	case nv.state == nvPaused && !bytes.Equal(nv.pauseID, e.ended):
		e.pause("the latch in the TPM says paused, the files say otherwise", nil)
	}
	return true
}

// lives takes a sign of life of the measuring process.
func (e *Enforcer) lives() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.alive || e.silent {
		notify(e.beat) // when to look again has changed
	}
	e.life, e.alive = time.Now(), true
	if e.silent {
		e.silent = false
		e.degrade("silence", nil)
	}
}

// watch is the dead man's switch, and opens the manifest anew from time to time.
func (e *Enforcer) watch(ctx context.Context) {
	reload := time.NewTicker(reloadEvery)
	defer reload.Stop()
	for {
		next := time.NewTimer(e.silence(time.Now()))
		select {
		case <-ctx.Done():
			next.Stop()
			return
		case <-reload.C:
			e.reload()
		case <-e.beat:
		case <-next.C:
		}
		next.Stop()
	}
}

// silence acts when the measuring process has been silent for too long. It
// returns when to look again.
func (e *Enforcer) silence(now time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	if left := e.maintained(); left > 0 {
		return time.Duration(left) * time.Millisecond
	}
	if !e.policy.valid || e.policy.ref.Manifest().Silence == nil || e.silent {
		return reloadEvery
	}
	s := e.policy.ref.Manifest().Silence
	after := time.Duration(s.After) * time.Millisecond
	if !e.alive {
		after = max(after, startGrace)
	}
	if left := e.life.Add(after).Sub(now); left > 0 {
		return left
	}
	e.silent = true
	words := fmt.Sprintf("measuring process silent for %.1f s", now.Sub(e.life).Seconds())
	e.degrade("silence", errors.New(words))
	if s.Then == reference.Pause {
		if !e.rec.Phase.latched() {
			e.pause(words+"; the manifest asks for a pause", nil)
			return reloadEvery
		}
		e.hasten() // a device that nobody measures does not wait
	}
	return reloadEvery
}
