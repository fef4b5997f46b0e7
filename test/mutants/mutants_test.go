// Package mutants holds that the tests of the stage machine would notice a
// mistake in it: each mutant is one plausible mistake, and one test at least
// must fail on it.
package mutants

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A mutant replaces one text of appraise/step.go by another.
type mutant struct{ name, old, new string }

func mutants() []mutant {
	const (
		heard    = "case in.Latch == LatchPaused:\n\t\tnext.Stage, next.Latched = reference.StagePaused, true"
		again    = "case s.Stage == reference.StagePaused && !s.Latched:\n\t\t// Asked for and not confirmed: ask again until it is.\n\t\te.RequestPause = true"
		quiet    = "case s.Stage == reference.StagePaused && in.Latch == LatchUnknown:"
		resumed  = "// Resumed. An extreme that is still crossed shows in the new comparison.\n\t\tnext.Stage, e.Restart = reference.StageIntegration, true"
		mending  = "case in.Latch == LatchMaintenance:\n\t\tnext.Stage = reference.StageMaintenance"
		mended   = "case s.Stage == reference.StageMaintenance:\n\t\t// What was seen while somebody worked on the device says nothing about now.\n\t\tnext.Stage, e.Restart = reference.StageIntegration, true"
		crossed  = "case pause:\n\t\tnext.Stage, next.Latched = reference.StagePaused, false\n\t\te.RequestPause = true"
		admit    = "case in.Reference && in.Latch == LatchClear && in.Integration == Passed && s.Stage == reference.StageIntegration:"
		stay     = "case in.Reference && in.Latch == LatchClear && s.Stage == reference.StageOperating:"
		otherwis = "default:\n\t\tnext.Stage, next.Latched = reference.StageIntegration, false"
		decide   = "pause := in.Reference && in.Extreme && in.Enforce == reference.Pause"
		forget   = "case !in.Reference || !in.Extreme || e.Restart:"
		alarm    = "case !s.Alarmed && in.Enforce >= reference.Alarm:"
		always   = "if next.Stage == reference.StagePaused && s.Stage != reference.StagePaused {\n\t\te.Alarm = true"
		report   = "e.Report = next.Stage != s.Stage"
		unlatch  = "if next.Stage != reference.StagePaused {\n\t\tnext.Latched = false"
	)
	return []mutant{
		{"a paused latch is not heard", heard, "case false:\n\t\tnext.Stage, next.Latched = reference.StagePaused, true"},
		{"a paused latch is heard and not confirmed", heard, strings.Replace(heard, "reference.StagePaused, true", "reference.StagePaused, false", 1)},
		{"a paused latch leads to integration", heard, strings.Replace(heard, "reference.StagePaused, true", "reference.StageIntegration, false", 1)},
		{"an unknown latch counts as paused", heard, strings.Replace(heard, "in.Latch == LatchPaused", "in.Latch != LatchClear", 1)},
		{"a clear latch counts as paused", heard, strings.Replace(heard, "in.Latch == LatchPaused", "in.Latch == LatchClear", 1)},
		{"only an operating device hears of a pause", heard, strings.Replace(heard, "in.Latch == LatchPaused", "in.Latch == LatchPaused && s.Stage == reference.StageOperating", 1)},
		{"an unconfirmed pause is not asked for again", again, strings.Replace(again, "e.RequestPause = true", "", 1)},
		{"an unconfirmed pause ends on a clear latch", again, strings.Replace(again, "&& !s.Latched", "&& !s.Latched && in.Latch != LatchClear", 1)},
		{"a confirmed pause is asked for again", again, strings.Replace(again, "&& !s.Latched", "&& (!s.Latched || in.Latch == LatchClear)", 1)},
		{"a silent enforcer ends a pause", quiet, strings.Replace(quiet, "in.Latch == LatchUnknown", "false", 1)},
		{"a clear latch does not end a pause", quiet, strings.Replace(quiet, "&& in.Latch == LatchUnknown", "", 1)},
		{"a resume leads to operating", resumed, "next.Stage, e.Restart = reference.StageOperating, true"},
		{"a resume keeps the pause", resumed, "e.Restart = true"},
		{"a resume does not begin the comparison anew", resumed, "next.Stage = reference.StageIntegration"},
		{"maintenance is not heard", mending, "case false:"},
		{"maintenance operates", mending, strings.Replace(mending, "next.Stage = reference.StageMaintenance", "next.Stage = reference.StageOperating", 1)},
		{"an unknown latch is maintenance", mending, strings.Replace(mending, "in.Latch == LatchMaintenance", "in.Latch == LatchMaintenance || in.Latch == LatchUnknown", 1)},
		{"an operating device hears of no maintenance", mending, strings.Replace(mending, "in.Latch == LatchMaintenance", "in.Latch == LatchMaintenance && s.Stage != reference.StageOperating", 1)},
		{"maintenance ends in operating", mended, strings.Replace(mended, "reference.StageIntegration", "reference.StageOperating", 1)},
		{"maintenance never ends", mended, strings.Replace(mended, "next.Stage, e.Restart = reference.StageIntegration, true", "", 1)},
		{"maintenance ends without a new comparison", mended, strings.Replace(mended, "next.Stage, e.Restart = reference.StageIntegration, true", "next.Stage = reference.StageIntegration", 1)},
		{"an extreme does not pause", crossed, strings.Replace(crossed, "case pause:", "case pause && false:", 1)},
		{"an extreme pauses and nobody is asked", crossed, strings.Replace(crossed, "e.RequestPause = true", "", 1)},
		{"an extreme asks and does not pause", crossed, strings.Replace(crossed, "next.Stage, next.Latched = reference.StagePaused, false", "", 1)},
		{"an extreme counts as confirmed", crossed, strings.Replace(crossed, "reference.StagePaused, false", "reference.StagePaused, true", 1)},
		{"an extreme counts while operating only", crossed, strings.Replace(crossed, "case pause:", "case pause && s.Stage == reference.StageOperating:", 1)},
		{"admitted without a reference", admit, strings.Replace(admit, "in.Reference && ", "", 1)},
		{"admitted without a latch", admit, strings.Replace(admit, "in.Latch == LatchClear && ", "", 1)},
		{"admitted on an undecided comparison", admit, strings.Replace(admit, "in.Integration == Passed", "in.Integration != Failed", 1)},
		{"admitted on a failed comparison", admit, strings.Replace(admit, "in.Integration == Passed", "in.Integration != Undecided", 1)},
		{"admitted at power on", admit, strings.Replace(admit, " && s.Stage == reference.StageIntegration", "", 1)},
		{"never admitted", admit, "case false:"},
		{"operates on without a reference", stay, strings.Replace(stay, "in.Reference && ", "", 1)},
		{"operates on without a latch", stay, strings.Replace(stay, "in.Latch == LatchClear && ", "", 1)},
		{"whatever else happens is operating", otherwis, strings.Replace(otherwis, "reference.StageIntegration", "reference.StageOperating", 1)},
		{"whatever else happens changes nothing", otherwis, "default:"},
		{"an alarm pauses", decide, strings.Replace(decide, "in.Enforce == reference.Pause", "in.Enforce >= reference.Alarm", 1)},
		{"pauses without an extreme", decide, strings.Replace(decide, "in.Extreme && ", "", 1)},
		{"pauses never", decide, strings.Replace(decide, "in.Enforce == reference.Pause", "in.Enforce > reference.Pause", 1)},
		{"one alarm for ever", forget, "case false:"},
		{"an alarm at every step", alarm, strings.Replace(alarm, "!s.Alarmed && ", "", 1)},
		{"observing alarms", alarm, strings.Replace(alarm, ">= reference.Alarm", ">= reference.Observe", 1)},
		{"a pause by the latch has no alarm", always, strings.Replace(always, "e.Alarm = true", "", 1)},
		{"a stage change is not reported", report, "e.Report = false"},
		{"everything is reported", report, "e.Report = true"},
		{"latched outside of a pause", unlatch, strings.Replace(unlatch, "next.Latched = false", "next.Latched = s.Latched", 1)},
	}
}

func TestMutantsAreCaught(t *testing.T) {
	source, err := filepath.Abs(filepath.Join("..", "..", "appraise", "step.go"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	slots := make(chan struct{}, 2)
	for _, m := range mutants() {
		if strings.Count(string(text), m.old) != 1 || m.old == m.new {
			t.Errorf("%s: its place in step.go is gone, or it changes nothing", m.name)
			continue
		}
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			dir := t.TempDir()
			changed := filepath.Join(dir, "step.go")
			if err := os.WriteFile(changed, []byte(strings.Replace(string(text), m.old, m.new, 1)), 0o600); err != nil {
				t.Error(err)
				return
			}
			overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: changed}})
			if err != nil {
				t.Error(err)
				return
			}
			file := filepath.Join(dir, "overlay.json")
			if err := os.WriteFile(file, overlay, 0o600); err != nil {
				t.Error(err)
				return
			}
			out, err := exec.Command("go", "test", "-vet=off", "-overlay", file, "-run", "Step|Alarm|Explore", "github.com/miotfacts/miotfacts/appraise").CombinedOutput()
			switch {
			case err == nil:
				t.Errorf("%s: no test noticed it", m.name)
			case strings.Contains(string(out), "[build failed]"):
				t.Errorf("%s: does not compile:\n%s", m.name, out)
			}
		})
	}
	wait.Wait()
	t.Logf("%d mutants", len(mutants()))
}
