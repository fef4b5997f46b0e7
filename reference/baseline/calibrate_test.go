package baseline_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference/baseline"
)

// drawn is a recording of a device that draws 1500 mW, 900 mJ for a second of a
// processor and 1000 nJ for a byte, and what a meter shows of it, with noise.
func drawn(rounds int, load, traffic bool) (*baseline.Recording, []baseline.MeterSample) {
	r := rand.New(rand.NewPCG(1, 2))
	began := time.Unix(1_760_000_000, 0).UTC()
	run := baseline.Run{Boot: "b", Began: began.Format(time.RFC3339), Period: 1000, Rounds: uint32(rounds), Length: int64(rounds-1) * 1000}
	cpu, rx, tx := baseline.Seen{Fact: "cpu.usage"}, baseline.Seen{Fact: "network.rx"}, baseline.Seen{Fact: "network.tx"}
	var meter []baseline.MeterSample
	for i := range rounds {
		usage, bytes := int64(100), int64(0)
		if load {
			usage = r.Int64N(900)
		}
		if traffic {
			bytes = r.Int64N(500_000)
		}
		run.Times = append(run.Times, int64(i)*1000)
		cpu.Samples = append(cpu.Samples, baseline.Sample{Round: uint32(i), Value: facts.IntValue(usage)})
		rx.Samples = append(rx.Samples, baseline.Sample{Round: uint32(i), Value: facts.IntValue(bytes / 2)})
		tx.Samples = append(tx.Samples, baseline.Sample{Round: uint32(i), Value: facts.IntValue(bytes / 2)})
		power := 1500 + 900*4*float64(usage)/1000 + float64(bytes)/1000 + 20*r.NormFloat64()
		for _, ms := range []int64{-600, -100} {
			meter = append(meter, baseline.MeterSample{At: began.UnixMilli() + int64(i)*1000 + ms, Power: power})
		}
	}
	run.Facts = []baseline.Seen{cpu, rx, tx}
	return &baseline.Recording{Runs: []baseline.Run{run}}, meter
}

func TestCalibrate(t *testing.T) {
	near := func(got uint32, want, off float64) bool { return float64(got) > want-off && float64(got) < want+off }
	rec, meter := drawn(600, true, true)
	c, err := baseline.Calibrate([]*baseline.Recording{rec}, 4, meter)
	if err != nil {
		t.Fatal(err)
	}
	if m := c.Model; !near(m.Idle, 1500, 10) || !near(m.CPU, 900, 10) || !near(m.Network, 1000, 20) || m.Error < 1 || m.Error > 15 || c.Points != 599 {
		t.Errorf("%+v", c)
	}
	// Without traffic a byte draws nothing that is known.
	rec, meter = drawn(600, true, false)
	if c, err = baseline.Calibrate([]*baseline.Recording{rec}, 4, meter); err != nil || c.Model.Network != 0 || !near(c.Model.CPU, 900, 10) {
		t.Errorf("%+v %v", c, err)
	}
	for words, try := range map[string]func() (*baseline.Recording, []baseline.MeterSample){
		"tells too little":    func() (*baseline.Recording, []baseline.MeterSample) { return drawn(600, false, true) },
		"29 rounds have":      func() (*baseline.Recording, []baseline.MeterSample) { return drawn(30, true, true) },
		"0 rounds have power": func() (*baseline.Recording, []baseline.MeterSample) { r, _ := drawn(600, true, true); return r, nil },
		"the model would be idle": func() (*baseline.Recording, []baseline.MeterSample) {
			r, m := drawn(600, true, true)
			for i := range m {
				m[i].Power = max(m[i].Power-1600, 0)
			}
			return r, m
		},
	} {
		rec, meter := try()
		if c, err := baseline.Calibrate([]*baseline.Recording{rec}, 4, meter); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %+v %v", words, c, err)
		}
	}
}

func FuzzParseMeter(f *testing.F) {
	f.Add([]byte("time,power\n1760000000.5,1500\n1760000001,1600.25\n"))
	f.Add([]byte("1,2\n0,3\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		samples, err := baseline.ParseMeter(b)
		if err != nil && !strings.Contains(err.Error(), "cannot read meter") || len(samples) > len(b) {
			t.Fatal(fmt.Sprint(samples, err))
		}
	})
}
