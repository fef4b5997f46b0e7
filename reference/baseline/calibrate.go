package baseline

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// MinPoints is how many rounds a calibration takes at least.
const MinPoints = 60

// A MeterSample is what a power meter showed at a time.
type MeterSample struct {
	At    int64   // Unix ms
	Power float64 // mW
}

// ParseMeter reads lines "time,power": Unix seconds, with a fraction or without,
// and mW. A first line that holds no numbers is a heading.
func ParseMeter(data []byte) ([]MeterSample, error) {
	var samples []MeterSample
	for i, line := range bytes.Split(bytes.TrimSpace(data), []byte("\n")) {
		at, power, ok := bytes.Cut(bytes.TrimSpace(line), []byte(","))
		t, err1 := strconv.ParseFloat(string(bytes.TrimSpace(at)), 64)
		p, err2 := strconv.ParseFloat(string(bytes.TrimSpace(power)), 64)
		switch {
		case i == 0 && ok && err1 != nil && err2 != nil:
			continue
		case !ok || err1 != nil || err2 != nil || !(t >= 0 && t < 1e11) || !(p >= 0 && p <= reference.MaxEnergy*10):
			return nil, fmt.Errorf("cannot read meter: line %d is not \"Unix seconds,mW\"", i+1)
		}
		samples = append(samples, MeterSample{int64(t * 1000), p})
	}
	if !slices.IsSortedFunc(samples, func(a, b MeterSample) int { return int(min(max(a.At-b.At, -1), 1)) }) {
		return nil, errors.New("cannot read meter: its times go back")
	}
	return samples, nil
}

// A Calibration is a model, and what it is worth.
type Calibration struct {
	Model  reference.EnergyModel
	Points int     // rounds that had power, CPU usage and traffic
	Mean   float64 // mW, of the power
	RMS    float64 // mW, root mean square error
}

// A point is one round: what was drawn, and what the model makes it from.
type point struct{ power, cpu, network float64 } // mW, processors, B/s

// Calibrate fits an energy model to recordings of a device with so many
// processors by least squares: against meter, or against energy.power of the
// recordings where meter is nil. A coefficient that would be below 0 is 0.
func Calibrate(recordings []*Recording, processors int, meter []MeterSample) (*Calibration, error) {
	vocab, err := facts.NewVocabulary(nil)
	if err != nil {
		return nil, err
	}
	var points []point
	for _, rec := range recordings {
		for i := range rec.Runs {
			if points, err = rec.Runs[i].points(points, vocab, processors, meter); err != nil {
				return nil, fmt.Errorf("cannot calibrate: run %d: %w", i+1, err)
			}
		}
	}
	if len(points) < MinPoints {
		return nil, fmt.Errorf("cannot calibrate: %d rounds have power, CPU usage and traffic, want at least %d", len(points), MinPoints)
	}
	least := slices.MinFunc(points, func(a, b point) int { return int(math.Copysign(1, a.cpu-b.cpu)) }).cpu
	most := slices.MaxFunc(points, func(a, b point) int { return int(math.Copysign(1, a.cpu-b.cpu)) }).cpu
	if most-least < 0.2 {
		return nil, fmt.Errorf("cannot calibrate: the processors were busy between %.2f and %.2f, which tells too little of what they draw", least, most)
	}
	k, used := [3]float64{}, [3]bool{true, true, true}
	for {
		var ok bool
		if k, ok = solve(points, used); !ok {
			if used[2] {
				used[2] = false // there was no traffic
				continue
			}
			return nil, errors.New("cannot calibrate: the rounds do not tell the parts apart")
		}
		if worst := slices.Index(k[:], slices.Min(k[:])); k[worst] < 0 && worst > 0 {
			used[worst] = false
			continue
		}
		break
	}
	c := &Calibration{Points: len(points)}
	for _, p := range points {
		d := p.power - k[0] - k[1]*p.cpu - k[2]*p.network
		c.RMS += d * d / float64(len(points))
		c.Mean += p.power / float64(len(points))
	}
	c.RMS = math.Sqrt(c.RMS)
	numbers := [4]float64{k[0], k[1], k[2] * 1e6, 1000 * c.RMS / c.Mean} // mJ/B are 1e6 nJ/B
	for i, limit := range [4]float64{reference.MaxEnergy, reference.MaxEnergy, reference.MaxEnergy, 1000} {
		if numbers[i] = math.Round(numbers[i]); !(numbers[i] >= 0 && numbers[i] <= limit) || i == 0 && numbers[0] < 1 {
			return nil, fmt.Errorf("cannot calibrate: the model would be idle %.0f mW, %.0f mJ a second of a processor, %.0f nJ a byte, wrong by %.0f per mille", numbers[0], numbers[1], numbers[2], numbers[3])
		}
	}
	c.Model = reference.EnergyModel{Idle: uint32(numbers[0]), CPU: uint32(numbers[1]), Network: uint32(numbers[2]), Error: uint32(numbers[3])}
	return c, nil
}

// points appends the rounds of the run that have all that is needed.
func (r *Run) points(dst []point, vocab *facts.Vocabulary, processors int, meter []MeterSample) ([]point, error) {
	began, err := time.Parse(time.RFC3339, r.Began)
	if err != nil {
		return nil, fmt.Errorf("it began at %q, which is no time", r.Began)
	}
	rounds, err := r.Replay(vocab)
	if err != nil {
		return nil, err
	}
	number := func(s facts.Snapshot, name string) (float64, bool) {
		d, _ := vocab.ByName(name)
		x := facts.Reading{Status: facts.Absent}
		for _, y := range s.Readings {
			if y.Key == d.Key {
				x = y
			}
		}
		return float64(x.Value.Int()), x.Status == facts.OK
	}
	before := int64(-1)
	for s := range rounds {
		usage, ok1 := number(s, "cpu.usage")
		rx, ok2 := number(s, "network.rx")
		tx, ok3 := number(s, "network.tx")
		power, ok := number(s, "energy.power")
		if meter != nil {
			power, ok = mean(meter, began.UnixMilli()+before, began.UnixMilli()+s.Uptime)
			ok = ok && before >= 0
		}
		if ok && ok1 && ok2 && ok3 {
			dst = append(dst, point{power, usage / 1000 * float64(processors), rx + tx})
		}
		before = s.Uptime
	}
	return dst, nil
}

// mean is what the meter showed after from and until to.
func mean(meter []MeterSample, from, to int64) (float64, bool) {
	i, _ := slices.BinarySearchFunc(meter, from+1, func(m MeterSample, t int64) int { return int(min(max(m.At-t, -1), 1)) })
	sum, n := 0.0, 0
	for ; i < len(meter) && meter[i].At <= to; i++ {
		sum, n = sum+meter[i].Power, n+1
	}
	return sum / float64(max(n, 1)), n > 0
}

// solve returns the coefficients of least squares, 0 for those that are not used;
// false where the points do not tell them apart.
func solve(points []point, used [3]bool) (k [3]float64, ok bool) {
	var a [3][4]float64 // normal equations; traffic in MB/s, so that the numbers are of a size
	for _, p := range points {
		x := [4]float64{1, p.cpu, p.network / 1e6, p.power}
		for i := range 3 {
			for j := range 4 {
				a[i][j] += x[i] * x[j] / float64(len(points))
			}
		}
	}
	for i := range 3 {
		if !used[i] {
			a[i] = [4]float64{}
			a[i][i] = 1
			for j := range 3 {
				if j != i {
					a[j][i] = 0
				}
			}
		}
	}
	for i := range 3 {
		if math.Abs(a[i][i]) < 1e-9 {
			return k, false
		}
		for j := range 3 {
			if f := a[j][i] / a[i][i]; j != i {
				for c := i; c < 4; c++ {
					a[j][c] -= f * a[i][c]
				}
			}
		}
	}
	return [3]float64{a[0][3] / a[0][0], a[1][3] / a[1][1], a[2][3] / a[2][2] / 1e6}, true
}
