package baseline_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference/baseline"
)

// TestInject wants each kind to change what it says that it changes, not before
// its onset, and what is read once a minute only when it is read again.
func TestInject(t *testing.T) {
	v, err := facts.NewVocabulary(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := baseline.NewRecorder(v, "boot", "2026-01-01T00:00:00Z", 1000)
	const rounds, onset = 100, 30
	value := map[string]facts.Value{
		"cpu.usage": facts.IntValue(300), "cpu.load": facts.IntValue(500), "process.count": facts.IntValue(90), "memory.available": facts.IntValue(1000),
		"network.listening": facts.SetValue([]string{"tcp/0.0.0.0:22"}), "network.unowned": facts.IntValue(0), "network.owners": facts.SetValue([]string{"tcp/0.0.0.0:22 ssh.service"}),
		"service.active": facts.SetValue([]string{"a.service", "ssh.service"}), "boot.total": facts.IntValue(9000),
	}
	for i := range rounds {
		var readings []facts.Reading
		for _, d := range v.Defs() {
			if x, ok := value[d.Name]; ok {
				if d.Name == "service.active" && i == 5 { // a.service was restarted
					x = facts.SetValue([]string{"ssh.service"})
				}
				readings = append(readings, facts.Reading{Key: d.Key, Value: x})
			}
		}
		r.Add(facts.Snapshot{Uptime: int64(i) * 1000, Readings: readings})
	}
	run := r.Run()
	for _, x := range []struct {
		a    baseline.Anomaly
		last map[string]string // of the facts that it changed, in the last round
		slow []string          // of those, that show it at the next minute
	}{
		{baseline.Anomaly{Kind: baseline.Jump, Fact: "cpu.load", Size: 70}, map[string]string{"cpu.load": "570"}, nil},
		{baseline.Anomaly{Kind: baseline.Jump, Fact: "memory.available", Size: -2000}, map[string]string{"memory.available": "0"}, nil},
		{baseline.Anomaly{Kind: baseline.Drift, Fact: "cpu.load", Size: 60}, map[string]string{"cpu.load": "569"}, nil},
		{baseline.Anomaly{Kind: baseline.Stuck, Fact: "cpu.load"}, map[string]string{}, nil},
		{baseline.Anomaly{Kind: baseline.ServiceStopped}, map[string]string{"service.active": "{a.service}", "network.owners": "{}"}, []string{"network.owners"}},
		{baseline.Anomaly{Kind: baseline.NewListener}, map[string]string{"network.listening": "{tcp/0.0.0.0:22, tcp/0.0.0.0:31337}", "network.unowned": "1",
			"network.owners": "{tcp/0.0.0.0:22 ssh.service, tcp/0.0.0.0:31337 /}", "process.count": "91"}, []string{"network.owners"}},
		{baseline.Anomaly{Kind: baseline.ProcessLoad}, map[string]string{"cpu.usage": "1000", "cpu.load": "1183", "process.count": "91"}, nil},
	} {
		x.a.Onset = onset * 1000
		snapshots, err := x.a.Inject(&run, v)
		if err != nil {
			t.Fatalf("%s: %v", x.a.Kind, err)
		}
		first, last := map[string]int64{}, map[string]string{}
		for s := range snapshots {
			for _, y := range s.Readings {
				name := v.Name(y.Key)
				if y.Value.Equal(value[name]) || s.Uptime == 5000 {
					continue
				}
				if last[name] = y.Value.String(); first[name] == 0 {
					first[name] = s.Uptime
				}
			}
		}
		if !maps.Equal(last, x.last) {
			t.Errorf("%s: %v, want %v", x.a.Kind, last, x.last)
		}
		for name, at := range first {
			want := int64(onset) * 1000
			if x.a.Kind == baseline.Drift || x.a.Kind == baseline.ProcessLoad && name == "cpu.load" { // they begin with nothing
				want += 1000
			}
			if slices.Contains(x.slow, name) {
				want = 60_000
			}
			if at != want {
				t.Errorf("%s: %s shows it at %d ms, want %d", x.a.Kind, name, at, want)
			}
			if !slices.Contains(x.a.Facts(), name) {
				t.Errorf("%s is not among the facts of %s", name, x.a.Kind)
			}
		}
	}
	for _, a := range []baseline.Anomaly{{}, {Kind: "flood"}, {Kind: baseline.Jump, Fact: "boot.total"}, {Kind: baseline.Stuck, Fact: "service.active"}, {Kind: baseline.Drift, Fact: "cpu.phase"}} {
		if _, err := a.Inject(&run, v); err == nil {
			t.Errorf("%+v was injected", a)
		}
	}
}
