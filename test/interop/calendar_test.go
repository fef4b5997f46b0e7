package interop

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/label"
)

// TestCalendar has python3-icalendar read the days of inspection of a fleet: texts
// come back whole, entries keep their UIDs when a date moves.
func TestCalendar(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "..", "configs", "label-example.toml"))
	if err != nil {
		t.Fatal(err)
	}
	l, problems := label.Author(source)
	if l == nil {
		t.Fatal(problems)
	}
	type entry struct{ Kind, UID, Day, Summary, Description string }
	read := func(flaws uint32) []entry {
		t.Helper()
		d, err := l.BestBefore(label.Observation{Amounts: map[label.Kind]uint32{label.CriticalFlaws: flaws}})
		if err != nil {
			t.Fatal(err)
		}
		all := []label.Due{
			{Label: l, Date: d, Device: "SN 1; a, b\\ \"ü\"", ID: "1"}, {Label: l, Date: d, Device: strings.Repeat("Prüfgerät ", 12), ID: "2"},
			{Label: l, Date: d, Device: "twin", ID: "3"}, {Label: l, Date: d, Device: "twin", ID: "4"},
		}
		cmd := exec.Command(debianPython, "days.py")
		cmd.Stdin = bytes.NewReader(label.Calendar(all, l.From, label.German))
		var faults bytes.Buffer
		cmd.Stderr = &faults
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v\n%s(package python3-icalendar)", err, faults.String())
		}
		var entries []entry
		if err := json.Unmarshal(out, &entries); err != nil {
			t.Fatal(err)
		}
		return entries
	}
	before, after := read(0), read(1)
	if len(before) != 4*(1+len(label.Tasks(label.German))) {
		t.Fatalf("%d entries", len(before))
	}
	if e := before[0]; e.Kind != "VEVENT" || e.Day != "2028-08-28" || e.Summary != `Prüfen: Example Medical wearable-1 SN 1; a, b\ "ü"` || !strings.Contains(e.Description, "\nbase +730: 730 days from 2026-03-02\n") {
		t.Errorf("%+v", e)
	}
	if e := before[1]; e.Kind != "VTODO" || e.Summary != label.Tasks(label.German)[0] {
		t.Errorf("%+v", e)
	}
	for i := range before {
		if before[i].UID != after[i].UID || before[i].Day == after[i].Day {
			t.Errorf("the date moved, and entry %d went from %+v to %+v", i, before[i], after[i])
		}
	}
}
