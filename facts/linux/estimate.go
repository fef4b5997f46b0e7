package linux

import "time"

// An EnergyModel estimates what the machine draws.
type EnergyModel struct {
	Idle    int64 // mW
	CPU     int64 // mJ for a second of one processor's time
	Network int64 // nJ for a byte received or sent
}

// estimate reports power in mW and energy in mJ as a model has them: of the CPU
// time and the bytes between two rounds.
type estimate struct {
	root  *Root
	model func() (EnergyModel, bool)
	stat  *file
	dev   traffic

	busy int64 // ticks, of the last round that had all
	at   int64 // ns of it
	seen bool
	used int64 // µJ since the first
}

func (s *estimate) read(o *out) {
	var m EnergyModel
	ok := s.model != nil
	if ok {
		m, ok = s.model()
	}
	if !ok {
		o.faults(absent("the manifest has no energy model"))
		return
	}
	b, f := s.stat.read()
	var t cpuTimes
	if !f.is() {
		t, f = parseStat(b)
	}
	var rx, tx int64
	if !f.is() {
		rx, tx, _, f = s.dev.sample()
	}
	if f.is() {
		o.faults(f)
		return
	}
	now := s.root.now()
	ns, ticks := now-s.at, t.busy()-s.busy
	if !s.seen || ns <= 0 || ticks < 0 {
		if !s.seen || ticks < 0 { // the first round, or a processor left
			s.busy, s.at, s.seen = t.busy(), now, true
		}
		o.fault(0, pending(secondSample))
		o.num(1, s.used/1000)
		return
	}
	// mW times ns are pJ, mJ/s times a tick of 10 ms are 10 µJ.
	grown := scale(m.Idle, ns, int64(time.Millisecond)) + scale(m.CPU, ticks*(1e6/userHZ), 1000) + scale(m.Network, rx+tx, 1000)
	s.used += grown
	s.busy, s.at = t.busy(), now
	o.num(0, scale(grown, int64(time.Second)/1000, ns))
	o.num(1, s.used/1000)
}
