package reference_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/reference"
)

const examples = "../configs/examples"

// A broken is a change to an example and the one complaint it must cause: on
// the line on which at stands (0 when at is ""), with these words and this fix.
type broken struct {
	old, new     string
	at           string
	message, fix string
}

func TestExamples(t *testing.T) {
	names, err := filepath.Glob(examples + "/*.toml")
	if err != nil || len(names) != len(brokenExamples) {
		t.Fatalf("%d examples, %d tables of broken ones, %v", len(names), len(brokenExamples), err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m, ps := reference.Author(data)
		if len(ps) != 0 {
			t.Fatalf("%s: %v", name, ps)
		}
		roundTrip(t, m)
		table := brokenExamples[filepath.Base(name)]
		if len(table) < 20 {
			t.Errorf("%s: %d broken copies, want 20", name, len(table))
		}
		for _, b := range table {
			b.try(t, filepath.Base(name), string(data))
		}
	}
}

func (b broken) try(t *testing.T, name, text string) {
	t.Helper()
	if n := strings.Count(text, b.old); n != 1 {
		t.Errorf("%s: %q stands there %d times", name, b.old, n)
		return
	}
	text = strings.Replace(text, b.old, b.new, 1)
	line := 0
	if b.at != "" {
		i := strings.Index(text, b.at)
		if i < 0 || strings.Count(text, b.at) != 1 {
			t.Errorf("%s: %q does not stand there once", name, b.at)
			return
		}
		line = 1 + strings.Count(text[:i], "\n")
	}
	m, ps := reference.Author([]byte(text))
	if len(ps) != 1 {
		t.Errorf("%s: %q: want one complaint, got %v", name, b.new, ps)
		return
	}
	p := ps[0]
	if p.Line != line || !strings.Contains(p.Error(), b.message) || !strings.Contains(p.Fix, b.fix) {
		t.Errorf("%s: %q:\n got line %d: %v\n     fix: %s\nwant line %d: %s\n     fix: %s", name, b.new, p.Line, p, p.Fix, line, b.message, b.fix)
	}
	if (m == nil) == p.Warning {
		t.Errorf("%s: %q: manifest %v with warning %v", name, b.new, m != nil, p.Warning)
	}
}

var brokenExamples = map[string][]broken{
	"gateway.toml": {
		{`version = 1`, `version = 2`, `version = 2`, "format version 2 is not 1", "write version = 1"},
		{`vendor = "Example Medical"`, ``, ``, "vendor: missing", "vendor ="},
		{`model = "ward-gateway-2"`, `model = ward-gateway-2`, `model = ward-gateway-2`, "", "correct the TOML"},
		{`sequence = 7`, `sequence = 0`, `sequence = 0`, "sequence 0 is outside", "begin with 1"},
		{`until = 2028-12-31`, `until = 2025-12-31`, `until = 2025-12-31`, "validity from 2026-01-01T00:00:00Z until 2025-12-31T23:59:59Z is empty", "later than valid.from"},
		{`enforce = "pause"`, `enforce = "stop"`, `enforce = "stop"`, `"stop" is not one of`, `"observe", "alarm", "pause"`},
		{`signers = 2`, `signers = 3`, `signers = 3`, "resume.signers: 3 signers", "write 1, or 2"},
		{`after = "45s"`, `after = "45ms"`, `after = "45ms"`, "silence.after: 45 ms is outside 1000", `write "30s"`},
		{`pcrs = [0, 2, 4, 7]`, `pcrs = [0, 4, 2, 7]`, `pcrs = [0, 4, 2, 7]`, "PCR 2 at place 2", "ascending order"},
		{`"5b6fb58e61fa475939767d68a446f97f1bff02c0e5935a3ea8bb51e6515783d8"`, `"5b6fb58e"`, `"5b6fb58e"`, "boot.accept[0]: digest of 4 bytes", "64 hexadecimal digits"},
		{`"a8cfcd74832004951b4408cdb0a5dbcd8c7e52d43f7fe244bf720582e05241da"`, `"PCR digest"`, `"PCR digest"`, "boot.accept[1]:", "hexadecimal digits"},
		{`key = 1001`, `key = 2001`, "[[app]]\nkey = 2001", "app[1]: application fact app.delay: key 2001 is outside 1000 to 1999", "key and range of its own"},
		{`min = "12s"`, `min = "12W"`, `min = "12W"`, `"12W" has not a unit that fits ms`, "ms, s, min, h, d"},
		{`fact = "boot.secure"`, `fact = "boot.secured"`, `fact = "boot.secured"`, `no fact is called "boot.secured"`, `write fact = "boot.secure"`},
		{`equal = "6.12.41-gateway"`, `equal = 6`, `equal = 6`, "want text, this is an integer", "in quotes"},
		{`superset_of = ["chronyd.service", "gateway.service", "mosquitto.service"]`, `superset_of = []`, `superset_of = []`, "every set has all members of the empty one", "list what must be there"},
		{`max = "70%"`, `max = "70.05%"`, `max = "70.05%"`, `"70.05%" is not a whole number of permille`, "an integer in permille"},
		{`max = "75°C"`, `max = "105°C"`, `max = "105°C"`, "goes above the fail-safe maximum 100000", "write max = 100000 or less"},
		{`if_absent = "not-appraised" # no pump is connected`, `if_absent = "not-apraised"`, "not-apraised", `"not-apraised" is not one of`, `write "not-appraised"`},
		{`target = "gateway.service"`, `target = "gateway"`, `target = "gateway"`, `stop-unit: "gateway" is not a unit name`, `target = "pump.service"`},
		{`within = "10s"`, `within = "2min"`, `within = "2min"`, "reaction[1].within: deadline of 120000 ms", `within = "2s"`},
	},
	"raspberry-pi-monitor.toml": {
		{`sequence = 3`, `sequense = 3`, `sequense = 3`, `unknown key "sequense"`, "write sequence"},
		{`valid = { from = 2026-01-01, until = 2027-12-31 }`, `valid = { from = "2026-01-01", until = 2027-12-31 }`, `from = "2026-01-01"`, "want a date, this is text", "without quotes"},
		{`min_agent = "0.1.0"`, `min_agent = "0.1"`, `min_agent = "0.1"`, `cannot parse version "0.1"`, `"0.1.0"`},
		{`report_every = "60s"`, `report_every = 60`, `report_every = 60`, "want text, this is an integer", "with its unit"},
		{`lifetime = "1h"`, `lifetime = "30d"`, `lifetime = "30d"`, "resume.lifetime: 2592000 s is outside 60 to 604800", `write "1h"`},
		{`then = "alarm"`, `than = "alarm"`, `than = "alarm"`, `silence.than: unknown key "than"`, "write then"},
		{`unit = "1/s"`, `unit = ""`, `unit = ""`, "app.frames: 0 bytes, want 1 to 16", "unit as people read it"},
		{`min = 9000`, `min = 9000.0`, `min = 9000.0`, "want an integer, this is a floating-point number", "an integer in ms"},
		{`max = 25000`, `max = 2500`, `min = 9000`, "boot.total: min 9000 is above max 2500", "exchange min and max"},
		{`one_of = ["6.6.51+rpt-rpi-v8", "6.6.62+rpt-rpi-v8"]`, `one_of = []`, `one_of = []`, "software.kernel: 0 values, want 1 to 256", "list the values"},
		{`equal = "debian 12"`, ``, "[[integration]]\nfact = \"software.os\"", "software.os: 0 comparisons", "one_of, subset_of"},
		{`subset_of = ["brcmfmac", `, `subset_of = [5, `, `subset_of = [5, `, "operating[2].subset_of[0]: want text, this is an integer", "in quotes"},
		{`hold = "20s"`, `hold = "2h"`, `hold = "2h"`, "cpu.usage: hold of 7200000 ms, the limit is 3600000", `at most "1h"`},
		{`min = "256MiB"`, `min = "256MB"`, `min = "256MB"`, `"256MB" has not a unit that fits KiB`, "KiB, MiB, GiB"},
		{`equal = false`, `equal = "false"`, `equal = "false"`, "want a boolean, this is text", "true or false"},
		{`min = 20`, `min = 200`, `min = 200`, "app.frames: min 200 is outside the declared 0 to 120", "declared range"},
		{`max = "12W"`, `max = "7W"`, `max = "7.5W"`, "goes above the fail-safe maximum 7000", "write max = 7000 or less"},
		{"hold = \"2s\"\n", "", "[[fail_safe]]\nfact = \"energy.power\"", "without a hold a single sample can pause the device", `hold = "3s"`},
		{`target = "medical.slice/monitor.service"`, `target = "/medical.slice/"`, `target = "/medical.slice/"`, `freeze: "/medical.slice/" is not a clean cgroup path`, `target = "medical.slice"`},
		{`signal = 19 # STOP`, `signal = 1`, `signal = 1`, "signal 1 is not one of 9, 15, 19", "15 (TERM)"},
		{`do = "tell"`, `do = "shell"`, `do = "shell"`, `"shell" is not one of`, `write "tell"`},
	},
	"virtual-machine.toml": {
		{`model = "lab-vm"`, `model = ""`, `model = ""`, "model: 0 bytes, want 1 to 128", "name the model"},
		{`sequence = 1`, `sequence = -1`, `sequence = -1`, "-1 is outside 0 to", "in the range"},
		{`from = 2026-01-01T00:00:00Z`, `from = 2026-01-01T00:00:00.5Z`, `00.5Z`, "whole seconds", "2026-01-01T12:00:00Z"},
		{`report_every = "5min"`, `report_every = "5m"`, `report_every = "5m"`, `"5m" has not a unit that fits s`, "s, min, h, d"},
		{`report_every = "5min"`, `report_every = "2h"`, `report_every = "2h"`, "7200 s is outside 1 to 3600", `write "60s"`},
		{`resume = { signers = 1, lifetime = "1h" }`, `resume = { signers = 1 }`, `resume = { signers = 1 }`, "resume.lifetime: missing", `lifetime = "1h"`},
		{`silence = { after = "1min", then = "alarm" }`, `silence = "1min"`, `silence = "1min"`, "want a table, this is text", "{ ... }"},
		{`name = "app.queue"`, `name = "queue"`, "[[app]]", `application fact "queue": the name must be "app."`, "name, key and range"},
		{"min = 0\nmax = 100000", "min = 0\nmax = 0", "[[app]]", "application fact app.queue: range 0 to 0 is empty", "range of its own"},
		{`min = "300ms"`, `minimum = "300ms"`, `minimum = "300ms"`, `unknown key "minimum"`, "known here: fact, hold"},
		{`fact = "software.os"`, `fakt = "software.os"`, `fakt = "software.os"`, `unknown key "fakt"`, "write fact"},
		{`fact = "software.os"`, `fact = "software.kernel"`, "fact = \"software.kernel\"\nequal = \"6.6.63-0-virt\"", "software.kernel has a rule of this kind in this stage already", "merge both rules"},
		{"[[operating]]\nfact = \"integrity.modules\"", "[operating]\nfact = \"integrity.modules\"", "[operating]\nfact", "operating", "correct the TOML"},
		{`equal = 0`, "equal = 0\nmax = 0", "[[operating]]\nfact = \"integrity.taint\"", "2 comparisons [range equal]", "a rule of its own"},
		{`absent = true #`, `absent = false #`, `absent = false #`, `thermal.max: "false" is not true`, "absent = true"},
		{`why = "the machine has no sensors"`, `if_absent = "not-appraised"`, `absent = true`, "cannot say what absent means", "remove if_absent"},
		{`subset_of = ["failover", "net_failover", "virtio_blk", "virtio_net"]`, `max = 4`, `max = 4`, "integrity.modules is of kind set", "subset_of"},
		{`max = 2000 #`, `subset_of = ["2000"] #`, "[[operating]]\nfact = \"cpu.load\"", "cpu.load is of kind int, sets only can be compared by subset_of", "use equal or one_of"},
		{`min = "64MiB"`, `min = "8MiB"`, `min = "8MiB"`, "goes below the fail-safe minimum 16384", "write min = 16384 or more"},
		{`hold = "2min"`, `hold = 120`, `hold = 120`, "want text, this is an integer", "with its unit"},
		{`max = 20000`, ``, "[[fail_safe]]\nfact = \"app.queue\"", "app.queue: 0 comparisons", "write min and max"},
		{`enforce = "alarm"`, `enforce = "pause"`, ``, "reaction: enforce is pause and no step makes the device pause", `enforce = "alarm"`},
		{`why = "the distribution's kernel and its own modules only"`, `why = "the distribution's`, `why = "the distribution's`, "", "correct the TOML"},
	},
}
