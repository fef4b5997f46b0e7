package reference_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// a small manifest without a complaint; tests change one line of it.
const small = `version = 1
vendor = "Example Medical"
model = "pump-1"
sequence = 3
valid = { from = 2026-01-01, until = 2028-12-31 }
enforce = "pause"
report_every = "60s"
resume = { signers = 1, lifetime = "1h" }

[[app]]
key = 1000
name = "app.flow"
unit = "ml/h"
min = 0
max = 1000

[[integration]]
fact = "boot.total"
max = "30s"

[[operating]]
fact = "energy.power"
max = "1.5W"

[[fail_safe]]
fact = "app.flow"
max = "500 ml/h"
hold = "3s"

[[reaction]]
do = "freeze"
target = "medical.slice"
within = "2s"
`

func TestAuthor(t *testing.T) {
	m, ps := reference.Author([]byte(small))
	if len(ps) != 0 {
		t.Fatal(ps)
	}
	num := func(n int64) *int64 { return &n }
	want := &reference.Manifest{
		Version: 1, Vendor: "Example Medical", Model: "pump-1", Sequence: 3,
		NotBefore: 1767225600, NotAfter: 1861919999, // date -u -d 2026-01-01 +%s; one less than 2029-01-01
		Enforce: reference.Pause, ReportEvery: 60, Resume: reference.ResumePolicy{Signers: 1, Lifetime: 3600},
		Apps:        []reference.AppFact{{Key: 1000, Name: "app.flow", Unit: "ml/h", Max: 1000}},
		Integration: []reference.Rule{{Fact: 6, Op: reference.Range, Max: num(30000)}},
		Operating:   []reference.Rule{{Fact: 40, Op: reference.Range, Max: num(1500)}},
		FailSafe:    []reference.Rule{{Fact: 1000, Op: reference.Range, Max: num(500), Hold: 3000}},
		Reaction:    []reference.Reaction{{Do: reference.Freeze, Target: "medical.slice", Deadline: 2000}},
	}
	if a, b := encode(t, m), encode(t, want); !bytes.Equal(a, b) {
		t.Errorf("read as\n%x, want\n%x", a, b)
	}
}

func encode(t testing.TB, m *reference.Manifest) []byte {
	t.Helper()
	data, err := cose.Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAuthorUnits(t *testing.T) {
	for _, tt := range []struct {
		fact, text string
		want       int64 // -1: refused
	}{
		{"boot.total", `"1s"`, 1000}, {"boot.total", `"1.5s"`, 1500}, {"boot.total", `"0.001 s"`, 1}, {"boot.total", `"2min"`, 120000},
		{"boot.total", `0x10`, 16}, {"boot.total", `1_000`, 1000},
		{"energy.power", `"1.5W"`, 1500}, {"energy.power", `"2 kW"`, 2000000}, {"energy.used", `"1Wh"`, 3600000},
		{"thermal.max", `"85°C"`, 85000}, {"memory.available", `"64MiB"`, 65536}, {"memory.available", `"0.5MiB"`, 512},
		{"memory.used", `"80%"`, 800}, {"memory.used", `"0.1%"`, 1}, {"network.rx", `"1MB/s"`, 1000000},
		{"cpu.frequency", `"1.5GHz"`, 1500000}, {"time.operating_hours", `"2d"`, 48}, {"cpu.throttled", `"5 1/s"`, 5},
		{"boot.total", `"0.0001s"`, -1}, {"boot.total", `"1.5W"`, -1}, {"boot.total", `"s"`, -1}, {"boot.total", `"1e3s"`, -1},
		{"boot.total", `"1/2s"`, -1}, {"boot.total", `"1.s"`, -1}, {"boot.total", `1.0`, -1}, {"boot.total", `"9999999999999999d"`, -1},
		{"boot.total", `true`, -1}, {"process.count", `"5"`, -1}, {"memory.available", `"1kB"`, -1}, {"memory.used", `"0.01%"`, -1},
	} {
		m, ps := reference.Author([]byte(strings.Replace(small, "fact = \"energy.power\"\nmax = \"1.5W\"", "fact = \""+tt.fact+"\"\nmax = "+tt.text, 1)))
		var got int64 = -1
		for _, p := range ps {
			if !p.Warning && p.Path != "operating[0].max" {
				t.Errorf("%s: %v", tt.text, p)
			}
		}
		if m != nil {
			got = *m.Operating[0].Max
		}
		if got != tt.want {
			t.Errorf("%s max = %s read as %d, want %d (%v)", tt.fact, tt.text, got, tt.want, ps)
		}
	}
}

// TestFormatRoundTrip holds that what Format writes is read back as the same
// manifest, whatever passes Check.
func TestFormatRoundTrip(t *testing.T) {
	example := referencetest.Example()
	roundTrip(t, &example)
	r := rand.New(rand.NewPCG(1, 2))
	tried, kept := 0, 0
	for ; kept < 300 && tried < 20000; tried++ {
		m := random(r)
		if !slicesOK(m.Check()) {
			continue
		}
		kept++
		roundTrip(t, m)
	}
	if kept < 300 {
		t.Errorf("only %d of %d random manifests passed Check", kept, tried)
	}
}

func slicesOK(ps []reference.Problem) bool {
	for _, p := range ps {
		if !p.Warning {
			return false
		}
	}
	return true
}

func roundTrip(t testing.TB, m *reference.Manifest) {
	t.Helper()
	text := reference.Format(m)
	again, ps := reference.Author(text)
	if again == nil {
		t.Fatalf("%v in\n%s", ps, text)
	}
	if a, b := encode(t, again), encode(t, m); !bytes.Equal(a, b) {
		t.Fatalf("read back as\n%x, was\n%x from\n%s", a, b, text)
	}
}

func random(r *rand.Rand) *reference.Manifest {
	m := &reference.Manifest{
		Version: 1, Vendor: text(r, 1), Model: text(r, 1), Sequence: 1 + r.Uint64()>>uint(1+r.IntN(63)),
		NotBefore: 1 + r.Int64N(1e10), NotAfter: r.Int64N(2e11), Enforce: reference.Enforce(1 + r.IntN(3)), ReportEvery: 1 + uint32(r.IntN(3600)),
		Resume: reference.ResumePolicy{Signers: uint8(1 + r.IntN(2)), Lifetime: 60 + uint32(r.IntN(604000))},
	}
	if r.IntN(2) == 0 {
		m.NotBefore, m.NotAfter = m.NotBefore/86400*86400+86400, m.NotAfter/86400*86400+86399
	}
	if r.IntN(2) == 0 {
		m.MinAgent = "1.2.3"
	}
	if r.IntN(2) == 0 {
		m.Silence = &reference.Silence{After: 1000 + uint32(r.IntN(3_599_000)), Then: reference.Enforce(1 + r.IntN(3))}
	}
	if r.IntN(2) == 0 {
		m.Leeway = &reference.Leeway{Defer: &reference.Deferral{
			Most: 1 + uint32(r.IntN(3600)), Total: 3600 + uint32(r.IntN(80000)), User: "pump", Answer: 1 + uint32(r.IntN(1000)), NeverIntegrity: r.IntN(2) == 0,
		}}
		if r.IntN(2) == 0 {
			m.Leeway.Maintenance = &reference.MaintenancePolicy{Most: 60 + uint32(r.IntN(86000)), Signers: uint8(1 + r.IntN(2))}
		}
	}
	if r.IntN(2) == 0 {
		m.Energy = &reference.EnergyModel{Idle: 1 + uint32(r.IntN(1e6)), CPU: uint32(r.IntN(1e6)), Network: uint32(r.IntN(1e6)), Error: uint32(r.IntN(1000))}
	}
	if r.IntN(2) == 0 {
		m.Boot = &reference.Boot{PCRs: []int{r.IntN(5), 5 + r.IntN(19)}, Accept: [][]byte{}}
		for range r.IntN(3) {
			m.Boot.Accept = append(m.Boot.Accept, raw(r, 32))
		}
	}
	for i := range r.IntN(4) {
		m.Apps = append(m.Apps, reference.AppFact{
			Key: facts.AppKeyMin + facts.Key(i), Name: "app.x" + strings.Repeat("y", i), Unit: text(r, 1), Min: -r.Int64(), Max: r.Int64(),
		})
	}
	vocab, err := m.Vocabulary()
	if err != nil {
		return m
	}
	for _, stage := range []*[]reference.Rule{&m.Integration, &m.Operating, &m.FailSafe} {
		for range 1 + r.IntN(3) {
			*stage = append(*stage, randomRule(r, vocab))
		}
	}
	for range 1 + r.IntN(3) {
		m.Reaction = append(m.Reaction, []reference.Reaction{
			{Do: reference.Tell, Deadline: 1 + uint32(r.IntN(60000))},
			{Do: reference.Freeze, Target: "medical.slice/a b", Deadline: 1000},
			{Do: reference.Signal, Target: "/usr/bin/flöw \"x\"", Signal: 15, Deadline: 60000},
			{Do: reference.StopUnit, Target: "pump@1.service", Deadline: 1},
		}[r.IntN(4)])
	}
	return m
}

func randomRule(r *rand.Rand, vocab *facts.Vocabulary) reference.Rule {
	d := vocab.Defs()[r.IntN(len(vocab.Defs()))]
	x := reference.Rule{Fact: d.Key, Op: reference.Op(1 + r.IntN(6)), Absent: reference.AbsentPolicy(r.IntN(2)), Why: text(r, 0)}
	if r.IntN(2) == 0 {
		x.Hold = uint32(r.IntN(3_600_000))
	}
	value := func() facts.Value {
		switch d.Kind {
		case facts.Int:
			return facts.IntValue(int64(r.Uint64()))
		case facts.Bool:
			return facts.BoolValue(r.IntN(2) == 0)
		case facts.Text:
			return facts.TextValue(text(r, 0))
		case facts.Bytes:
			return facts.BytesValue(raw(r, r.IntN(40)))
		}
		members := make([]string, r.IntN(5))
		for i := range members {
			members[i] = text(r, 0)
		}
		return facts.SetValue(members)
	}
	switch x.Op {
	case reference.Range:
		low, high := int64(r.Uint64()), int64(r.Uint64())
		if low > high {
			low, high = high, low
		}
		if n := r.IntN(3); n != 0 {
			x.Min = &low
			if n == 1 {
				x.Max = &high
			}
		} else {
			x.Max = &high
		}
	case reference.OneOf:
		for range 1 + r.IntN(3) {
			x.Values = append(x.Values, value())
		}
	case reference.Equal, reference.SubsetOf, reference.SupersetOf:
		x.Values = []facts.Value{value()}
	}
	return x
}

// text is of at least least runes that a careless quoting would get wrong.
func text(r *rand.Rand, least int) string {
	runes := []rune("aZ0 \"\\'#=[]\t\n\r\x00\x1f\x7f\u0085\u2028é€𝄞%")
	var b strings.Builder
	for range least + r.IntN(5) {
		b.WriteRune(runes[r.IntN(len(runes))])
	}
	return b.String()
}

func raw(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
