package appraise_test

import (
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/reference"
)

// inputs returns every input there is.
func inputs() []appraise.Input {
	var all []appraise.Input
	for _, ref := range []bool{false, true} {
		for _, enforce := range []reference.Enforce{0, reference.Observe, reference.Alarm, reference.Pause} {
			for latch := appraise.LatchUnknown; latch <= appraise.LatchMaintenance; latch++ {
				for integration := appraise.Undecided; integration <= appraise.Failed; integration++ {
					for _, extreme := range []bool{false, true} {
						all = append(all, appraise.Input{Reference: ref, Enforce: enforce, Latch: latch, Integration: integration, Extreme: extreme})
					}
				}
			}
		}
	}
	return all
}

// TestStepProperties visits every state that can be reached with every input.
func TestStepProperties(t *testing.T) {
	seen := map[appraise.State]bool{{}: true}
	queue := []appraise.State{{}}
	transitions := 0
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		for _, in := range inputs() {
			next, e := appraise.Step(s, in)
			transitions++
			fail := func(why string) { t.Errorf("%+v with %+v gave %+v %+v: %s", s, in, next, e, why) }
			switch {
			case next.Stage == reference.StageUnknown:
				fail("a step leaves no unknown stage")
			case next.Stage == reference.StageOperating && (in.Latch != appraise.LatchClear || !in.Reference):
				fail("operating without a clear latch and a valid reference")
			case next.Stage == reference.StageOperating && s.Stage != reference.StageOperating && (s.Stage != reference.StageIntegration || in.Integration != appraise.Passed):
				fail("operating without having passed integration")
			case next.Stage == reference.StageOperating && in.Extreme && in.Enforce == reference.Pause:
				fail("operating beyond an extreme")
			case in.Latch == appraise.LatchPaused && next.Stage != reference.StagePaused:
				fail("the latch is paused")
			case s.Stage == reference.StagePaused && next.Stage != reference.StagePaused && !(s.Latched && (in.Latch == appraise.LatchClear || in.Latch == appraise.LatchMaintenance)):
				fail("a pause ended without a confirmed latch that was cleared")
			case s.Stage == reference.StagePaused && next.Stage == reference.StageOperating:
				fail("a pause ended without integration")
			case next.Stage == reference.StagePaused && s.Stage != reference.StagePaused && !e.Alarm:
				fail("a pause without its alarm")
			case next.Stage == reference.StagePaused && !next.Latched && !e.RequestPause:
				fail("a pause that nobody was asked to enforce")
			case e.RequestPause && next.Stage != reference.StagePaused:
				fail("asked for a pause without pausing")
			case next.Latched && !s.Latched && in.Latch != appraise.LatchPaused:
				fail("a pause that the enforcer has not confirmed counts as confirmed")
			case e.Report != (next.Stage != s.Stage):
				fail("stage change and report differ")
			case next.Latched && next.Stage != reference.StagePaused:
				fail("latched outside of a pause")
			case next.Stage == reference.StagePaused && s.Stage != reference.StagePaused && in.Latch != appraise.LatchPaused &&
				!(in.Reference && in.Extreme && in.Enforce == reference.Pause):
				fail("a pause that neither the latch nor an extreme asks for")
			case s.Stage == reference.StagePaused && next.Stage != reference.StagePaused && next.Stage != reference.StageIntegration:
				fail("a pause ended without integration")
			case (next.Stage == reference.StageMaintenance) != (in.Latch == appraise.LatchMaintenance && s.Stage != reference.StagePaused):
				fail("maintenance is what the enforcer says, but for a pause")
			case s.Stage == reference.StageMaintenance && next.Stage == reference.StageOperating:
				fail("maintenance ended without integration")
			case next.Stage == reference.StageMaintenance && e.RequestPause:
				fail("a pause was asked for in maintenance")
			case next.Stage == reference.StageMaintenance && in.Reference && in.Extreme && in.Enforce >= reference.Alarm && !s.Alarmed && !e.Alarm:
				fail("an extreme in maintenance without its alarm")
			case e.Restart != (s.Stage == reference.StagePaused && next.Stage != reference.StagePaused || s.Stage == reference.StageMaintenance && next.Stage == reference.StageIntegration):
				fail("the comparison begins anew after a pause and after maintenance, and only then")
			case e.Alarm && in.Enforce < reference.Alarm && !(next.Stage == reference.StagePaused && s.Stage != reference.StagePaused):
				fail("an alarm although the manifest only observes")
			}
			if !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
		}
	}
	// Nothing gets stuck: from each state operating can be reached again.
	for s := range seen {
		c := s
		for _, in := range []appraise.Input{
			{Reference: true, Enforce: reference.Pause, Latch: appraise.LatchPaused, Integration: appraise.Passed},
			{Reference: true, Enforce: reference.Pause, Latch: appraise.LatchClear, Integration: appraise.Passed},
			{Reference: true, Enforce: reference.Pause, Latch: appraise.LatchClear, Integration: appraise.Passed},
		} {
			c, _ = appraise.Step(c, in)
		}
		if c.Stage != reference.StageOperating {
			t.Errorf("from %+v a pause, a resume and a passed comparison lead to %+v", s, c)
		}
	}
	t.Logf("%d states, %d transitions", len(seen), transitions)
	if len(seen) < 8 {
		t.Errorf("only %d states were reached", len(seen))
	}
}

func TestAlarmOncePerCrossing(t *testing.T) {
	in := appraise.Input{Reference: true, Enforce: reference.Alarm, Latch: appraise.LatchClear, Integration: appraise.Passed}
	s := appraise.State{Stage: reference.StageOperating}
	alarms := 0
	for _, extreme := range []bool{false, true, true, true, false, true} {
		in.Extreme = extreme
		var e appraise.Effects
		s, e = appraise.Step(s, in)
		if e.Alarm {
			alarms++
		}
		if s.Stage != reference.StageOperating {
			t.Fatalf("enforce = alarm left operating: %+v", s)
		}
	}
	if alarms != 2 {
		t.Errorf("%d alarms for two crossings", alarms)
	}
}
