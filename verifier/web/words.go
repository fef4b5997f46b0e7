package web

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
)

// Clean returns foreign text fit for a person's eyes: characters that do not
// print, and those that turn the direction of writing, become U+FFFD. Text that
// goes into a page is escaped besides.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsPrint(r):
			return r
		case unicode.IsSpace(r):
			return ' '
		}
		return unicode.ReplacementChar
	}, s)
}

// Name returns what a person calls the device.
func (d *Device) Name() string {
	name := strings.TrimSpace(Clean(d.Model + " " + d.Serial))
	if name == "" {
		return d.ID
	}
	return name
}

// State returns where the device stands in its life, in words.
func (d *Device) State() string {
	switch {
	case d.Enrolled == verifier.Revoked.String() || d.Enrolled == verifier.Retired.String():
		return d.Enrolled
	case d.Enrolled == verifier.Asked.String():
		return "asked to be enrolled, its TPM has still to answer"
	case d.Enrolled == verifier.Proved.String():
		return "waits for an operator's approval"
	case d.Sequence == 0:
		return "approved, no report yet"
	}
	switch d.Stage {
	case reference.StageOperating.String():
		return "operating"
	case reference.StageIntegration.String():
		return "integration: not admitted to operation"
	case reference.StageMaintenance.String():
		return "maintenance: extremes alarm and do not pause"
	case reference.StagePaused.String():
		if d.Pause != nil && d.Pause.ID == "" {
			return "pause asked for, not confirmed yet"
		}
		if d.Pause != nil && d.Pause.Deferral != nil && d.Pause.Deferral.Why == "" {
			return "pause deferred"
		}
		return "paused by fail-safe"
	}
	return "stage not known"
}

// KeyLabel returns how the device's key is protected, as it must stand wherever
// the device is shown.
func (d *Device) KeyLabel() string {
	if d.EKProblem != "" {
		return Clean(d.Protection) + ", maker not proved"
	}
	return Clean(d.Protection)
}

// TierWords returns what a tier means for who relies on the device.
func TierWords(tier string) string {
	switch tier {
	case verifier.TierNone.String():
		return "not appraised"
	case verifier.TierAffirming.String():
		return "as specified"
	case verifier.TierWarning.String():
		return "warning"
	case verifier.TierContraindicated.String():
		return "do not rely on it"
	}
	return "unknown tier"
}

// Why returns the reason of a pause, as it follows on "paused by fail-safe".
func (p *Pause) Why() string { return strings.TrimPrefix(Clean(p.Reason), "fail-safe: ") }

// Words tells a deferral as it follows on a pause.
func (d *Deferral) Words() string {
	if d.Why == "" {
		return "deferred by the application until " + Stamp(d.Until)
	}
	return fmt.Sprintf("was deferred by the application for %.1f s, until %s", float64(d.Lasted)/1000, Clean(d.Why))
}

// Title returns what the number is called.
func (c *Crossing) Title() string {
	if c.Name == "" {
		return fmt.Sprintf("fact %d", c.Fact)
	}
	return Clean(c.Name)
}

// In returns a value with the unit.
func (c *Crossing) In(v int64) string {
	if c.Unit == "" || c.Unit == "1" {
		return strconv.FormatInt(v, 10)
	}
	return fmt.Sprintf("%d %s", v, Clean(c.Unit))
}

// Bounds returns the least and the greatest value.
func (c *Crossing) Bounds() (low, high int64) {
	low, high = c.Samples[0].Value, c.Samples[0].Value
	for _, s := range c.Samples {
		low, high = min(low, s.Value), max(high, s.Value)
	}
	return low, high
}

// Last returns the value that crossed.
func (c *Crossing) Last() int64 { return c.Samples[len(c.Samples)-1].Value }

// Low and High are the bounds, for the page.
func (c *Crossing) Low() int64  { low, _ := c.Bounds(); return low }
func (c *Crossing) High() int64 { _, high := c.Bounds(); return high }

// level places a value between the bounds, from 0 to 1.
func (c *Crossing) level(v int64) float64 {
	low, high := c.Bounds()
	if low == high {
		return 0.5
	}
	return (float64(v) - float64(low)) / (float64(high) - float64(low))
}

// Points returns the values as points of a line, 60 s wide and 20 high.
func (c *Crossing) Points() string {
	var b strings.Builder
	for _, s := range c.Samples {
		fmt.Fprintf(&b, "%.1f,%.1f ", 60-float64(s.Before)/1000, 20-20*c.level(s.Value))
	}
	return strings.TrimSpace(b.String())
}

// Spark returns the values as a line of text.
func (c *Crossing) Spark() string {
	bars := []rune("▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, s := range c.Samples {
		b.WriteRune(bars[min(int(c.level(s.Value)*float64(len(bars))), len(bars)-1)])
	}
	return b.String()
}

// Title returns a step of the reaction chain in words.
func (e *Effect) Title() string {
	target := Clean(e.Target)
	switch e.Kind {
	case reference.Tell.String():
		return "tell the application"
	case reference.Prepare.String():
		return "let the application prepare"
	case reference.Freeze.String():
		return "freeze " + target
	case reference.Signal.String():
		return "signal " + target
	case reference.StopUnit.String():
		return "stop " + target
	}
	return strings.TrimSpace(Clean(e.Kind) + " " + target)
}

// Ago returns how long before now a time was, in Unix seconds both.
func Ago(now, at int64) string {
	s := now - at
	switch {
	case at == 0:
		return "never"
	case s < -5:
		return "in the future"
	case s < 5:
		return "just now"
	case s < 120:
		return fmt.Sprintf("%d s ago", s)
	case s < 2*3600:
		return fmt.Sprintf("%d min ago", s/60)
	case s < 48*3600:
		return fmt.Sprintf("%d h ago", s/3600)
	}
	return fmt.Sprintf("%d days ago", s/86400)
}

// Stamp returns a time for people.
func Stamp(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02 15:04:05 UTC") }
