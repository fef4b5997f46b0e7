package appraise

import "github.com/miotfacts/miotfacts/reference"

// Latch is what the enforcer says of the pause.
type Latch uint8

// The states of the latch. Unknown, when the enforcer does not answer, is never
// operating.
const (
	LatchUnknown Latch = iota
	LatchClear
	LatchPaused
	LatchMaintenance // clear, and the enforcer takes no pause for a while
)

func (l Latch) String() string {
	return [...]string{"unknown", "clear", "paused", "maintenance"}[min(l, 3)]
}

// A State is where the stage machine stands. The zero State is that of power on.
type State struct {
	Stage   reference.Stage // StageUnknown at power on
	Latched bool            // in StagePaused: the enforcer has confirmed the pause
	Alarmed bool            // the present crossing has had its alarm
}

// An Input is all that a step depends on.
type Input struct {
	Reference   bool              // a valid manifest is open
	Enforce     reference.Enforce // its degree
	Latch       Latch             // as the enforcer says
	Integration Outcome           // of the integration rules
	Extreme     bool              // a fail-safe rule deviates
}

// Effects are what the caller must do after a step, in the order of the fields.
type Effects struct {
	RequestPause bool // ask the enforcer for a pause, before anything else
	Alarm        bool // send an alarm
	Report       bool // the stage changed: send a report
	Restart      bool // begin the comparison anew: what was seen before the pause says nothing about now
}

// Step is the stage machine (docs/stages.md).
//
//	power on -> integration
//	integration -> operating   when the comparison passed, the latch is clear and the reference is valid
//	operating -> integration   when the reference is no longer valid or the latch unknown
//	any -> paused              when an extreme is crossed and enforce is pause, or the latch is paused
//	paused -> integration      when the latch was confirmed and then cleared, which only a resume does
//	any -> maintenance         when the enforcer says so, but for a paused stage
//	maintenance -> integration when the enforcer no longer says so
func Step(s State, in Input) (State, Effects) {
	next, e := s, Effects{}
	pause := in.Reference && in.Extreme && in.Enforce == reference.Pause

	switch {
	case in.Latch == LatchPaused:
		next.Stage, next.Latched = reference.StagePaused, true
	case s.Stage == reference.StagePaused && !s.Latched:
		// Asked for and not confirmed: ask again until it is.
		e.RequestPause = true
	case s.Stage == reference.StagePaused && in.Latch == LatchUnknown:
		// The pause holds whatever the enforcer does not say.
	case s.Stage == reference.StagePaused:
		// Resumed. An extreme that is still crossed shows in the new comparison.
		next.Stage, e.Restart = reference.StageIntegration, true
	case in.Latch == LatchMaintenance:
		next.Stage = reference.StageMaintenance
	case s.Stage == reference.StageMaintenance:
		// What was seen while somebody worked on the device says nothing about now.
		next.Stage, e.Restart = reference.StageIntegration, true
	case pause:
		next.Stage, next.Latched = reference.StagePaused, false
		e.RequestPause = true
	case in.Reference && in.Latch == LatchClear && in.Integration == Passed && s.Stage == reference.StageIntegration:
		next.Stage = reference.StageOperating
	case in.Reference && in.Latch == LatchClear && s.Stage == reference.StageOperating:
	default:
		next.Stage, next.Latched = reference.StageIntegration, false
	}
	if next.Stage != reference.StagePaused {
		next.Latched = false
	}

	switch {
	case !in.Reference || !in.Extreme || e.Restart:
		next.Alarmed = false
	case !s.Alarmed && in.Enforce >= reference.Alarm:
		next.Alarmed, e.Alarm = true, true
	}
	if next.Stage == reference.StagePaused && s.Stage != reference.StagePaused {
		e.Alarm = true // every pause has its alarm, whoever asked for it
	}
	e.Report = next.Stage != s.Stage
	return next, e
}
