package appraise_test

import (
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/reference"
)

// A world is a device as a whole: the measuring process with its stage machine,
// the enforcer with its latch, and what happens around them. It is small enough
// to visit every state it can be in.
type world struct {
	// The measuring process.
	state appraise.State
	view  appraise.Latch // what it heard of the enforcer last
	asked bool           // it asked for a pause that was not confirmed yet
	reply appraise.Latch // an answer of the enforcer that has not arrived yet; LatchUnknown for none

	// The enforcer. Its latch is on disk: it survives that the process is down.
	up       bool
	latched  bool
	mending  bool // maintenance: in memory only
	accepted int8 // resumes accepted for the present pause; 0 or 1
	pauses   int8 // pauses that began, up to 2
	resumes  int8 // resumes accepted, up to 2

	// Around them.
	extreme     bool
	reference   bool
	integration appraise.Outcome
	enforce     reference.Enforce

	// What an observer remembers.
	alarmed bool // the present pause had its alarm, in this run of the process
	ran     bool // the stage machine has stepped since the last change of the latch
}

type event struct {
	name string
	do   func(world) (world, bool) // false: it cannot happen here
}

func events() []event {
	out := []event{
		{"step", func(w world) (world, bool) { return step(w), true }},
		// One question at a time is on its way, so answers do not overtake; but
		// the latch can change while one is under way.
		{"the enforcer answers", func(w world) (world, bool) {
			if !w.up || w.reply != appraise.LatchUnknown {
				return w, false
			}
			w.reply = w.says()
			return w, true
		}},
		{"the answer arrives", func(w world) (world, bool) {
			if w.reply == appraise.LatchUnknown {
				return w, false
			}
			w.view, w.reply = w.reply, appraise.LatchUnknown
			return w, true
		}},
		{"the measuring process is silent for too long", func(w world) (world, bool) {
			if !w.up || w.latched || w.mending || w.enforce != reference.Pause {
				return w, false
			}
			w.latched, w.accepted, w.ran = true, 0, false
			w.pauses = min(w.pauses+1, 2)
			return w, true
		}},
		{"the enforcer is silent for too long", func(w world) (world, bool) { w.view = appraise.LatchUnknown; return w, true }},
		{"the enforcer is killed", func(w world) (world, bool) {
			was := w.up
			w.up, w.mending, w.reply = false, false, appraise.LatchUnknown
			return w, was
		}},
		{"operators begin maintenance", func(w world) (world, bool) {
			if !w.up || w.latched || w.mending {
				return w, false
			}
			w.mending, w.ran = true, false
			return w, true
		}},
		{"maintenance ends", func(w world) (world, bool) { was := w.mending; w.mending, w.ran = false, false; return w, was }},
		{"the enforcer starts", func(w world) (world, bool) { was := w.up; w.up = true; return w, !was }},
		{"the measuring process starts anew", func(w world) (world, bool) {
			w.state, w.view, w.reply, w.asked, w.alarmed, w.ran = appraise.State{}, appraise.LatchUnknown, appraise.LatchUnknown, false, false, false
			return w, true
		}},
		{"the request reaches the enforcer", func(w world) (world, bool) {
			if !w.asked || !w.up || w.reply != appraise.LatchUnknown {
				return w, false
			}
			if w.mending {
				w.reply = w.says() // refused: it is asked for again
				return w, true
			}
			w.asked = false
			if !w.latched {
				w.latched, w.accepted, w.ran = true, 0, false
				w.pauses = min(w.pauses+1, 2)
			}
			w.reply = appraise.LatchPaused
			return w, true
		}},
		{"an operator resumes", func(w world) (world, bool) {
			if !w.up || !w.latched || w.accepted > 0 {
				return w, false
			}
			w.latched, w.accepted, w.ran = false, 1, false
			w.resumes = min(w.resumes+1, 2)
			return w, true
		}},
		{"the extreme is crossed", func(w world) (world, bool) { was := w.extreme; w.extreme = true; return w, !was }},
		{"the extreme is over", func(w world) (world, bool) { was := w.extreme; w.extreme = false; return w, was }},
		{"the manifest expires", func(w world) (world, bool) { was := w.reference; w.reference = false; return w, was }},
		{"a manifest is valid", func(w world) (world, bool) { was := w.reference; w.reference = true; return w, !was }},
	}
	for o := appraise.Undecided; o <= appraise.Failed; o++ {
		out = append(out, event{"integration " + o.String(), func(w world) (world, bool) { was := w.integration; w.integration = o; return w, was != o }})
	}
	return out
}

// says returns what the enforcer answers.
func (w world) says() appraise.Latch {
	switch {
	case w.latched:
		return appraise.LatchPaused
	case w.mending:
		return appraise.LatchMaintenance
	}
	return appraise.LatchClear
}

func step(w world) world {
	next, do := appraise.Step(w.state, appraise.Input{
		Reference: w.reference, Enforce: w.enforce, Latch: w.view, Integration: w.integration, Extreme: w.extreme,
	})
	w.state, w.ran = next, true
	if do.RequestPause {
		w.asked = true
	}
	if next.Stage != reference.StagePaused {
		w.asked, w.alarmed = false, false
	} else if do.Alarm {
		w.alarmed = true
	}
	return w
}

// TestExplore visits every state of the world, from power on, under every order
// of events, for each degree of enforcement.
func TestExplore(t *testing.T) {
	states, transitions := 0, 0
	for _, enforce := range []reference.Enforce{reference.Observe, reference.Alarm, reference.Pause} {
		seen := map[world]bool{}
		start := world{up: true, reference: true, enforce: enforce}
		seen[start] = true
		queue := []world{start}
		for len(queue) > 0 {
			w := queue[0]
			queue = queue[1:]
			for _, e := range events() {
				next, possible := e.do(w)
				if !possible {
					continue
				}
				transitions++
				check(t, w, next, e.name)
				if !seen[next] {
					seen[next] = true
					queue = append(queue, next)
				}
			}
			if t.Failed() {
				t.FailNow()
			}
		}
		states += len(seen)
		for w := range seen {
			mustRecover(t, w)
		}
	}
	t.Logf("%d states, %d transitions", states, transitions)
	if transitions < 100_000 {
		t.Errorf("only %d transitions were visited", transitions)
	}
}

// check holds the properties of docs/stages.md over one transition.
func check(t *testing.T, w, next world, name string) {
	t.Helper()
	fail := func(why string) { t.Errorf("%s: %+v\n becomes %+v: %s", name, w, next, why) }
	if next.state.Stage == reference.StageOperating && name == "step" {
		switch {
		case next.view != appraise.LatchClear:
			fail("it operates without having heard that the latch is clear")
		case !next.reference:
			fail("it operates without a valid reference")
		case next.extreme && next.enforce == reference.Pause:
			fail("it operates beyond an extreme")
		case w.state.Stage != reference.StageOperating && next.integration != appraise.Passed:
			fail("it began to operate without having passed integration")
		case w.state.Stage == reference.StagePaused:
			fail("it went from paused to operating")
		case w.state.Stage == reference.StageMaintenance:
			fail("it went from maintenance to operating")
		}
	}
	switch {
	case next.view == appraise.LatchPaused && next.ran && name == "step" && next.state.Stage != reference.StagePaused:
		fail("it heard of a pause and is not paused")
	case next.state.Stage == reference.StagePaused && name == "step" && !next.alarmed:
		fail("a pause had no alarm")
	case w.latched && !next.latched && name != "an operator resumes":
		fail("the latch was cleared by something else than a resume")
	case !w.latched && next.latched && name != "the request reaches the enforcer" && name != "the measuring process is silent for too long":
		fail("the latch was set by nobody")
	case next.accepted > 1:
		fail("one pause was resumed twice")
	case next.latched && next.mending:
		fail("paused and in maintenance")
	case !w.latched && next.latched && w.mending:
		fail("a pause began in maintenance")
	case name == "step" && next.state.Stage == reference.StageMaintenance && next.view != appraise.LatchMaintenance:
		fail("maintenance that the enforcer does not speak of")
	case name == "step" && next.state.Stage == reference.StageMaintenance && next.reference && next.extreme && next.enforce >= reference.Alarm && !next.state.Alarmed:
		fail("an extreme in maintenance had no alarm")
	case next.latched && next.enforce != reference.Pause:
		fail("a pause although the manifest does not want pauses")
	case next.state.Stage == reference.StagePaused && !next.state.Latched && name == "step" && !next.asked:
		fail("paused, not latched, and nobody was asked")
	}
}

// mustRecover holds that from every state the device can be brought back into
// operation: maintenance and the extreme are over, a valid manifest is there, both processes run,
// the operator resumes whatever is latched.
func mustRecover(t *testing.T, w world) {
	t.Helper()
	from := w
	w.up, w.extreme, w.reference, w.integration = true, false, true, appraise.Passed
	all := map[string]func(world) (world, bool){}
	for _, e := range events() {
		all[e.name] = e.do
	}
	for range 8 {
		for _, name := range []string{"the answer arrives", "the request reaches the enforcer", "the answer arrives", "step", "the enforcer answers", "the answer arrives", "step",
			"an operator resumes", "maintenance ends", "the enforcer answers", "the answer arrives", "step"} {
			if next, possible := all[name](w); possible {
				w = next
			}
		}
		if w.state.Stage == reference.StageOperating && !w.latched {
			return
		}
	}
	t.Errorf("stuck: from %+v it came to %+v", from, w)
}
