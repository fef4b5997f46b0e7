package failsafe

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// deferring lets the user of this test defer the pause for flow, and no pause for
// a fact of the system's integrity.
func deferring(cgroup string, change func(*reference.Deferral)) func(*reference.Manifest) {
	return func(m *reference.Manifest) {
		freezeStep(cgroup)(m)
		m.FailSafe = append(m.FailSafe, reference.Rule{Fact: 91, Op: reference.Range, Max: new(int64)})
		d := &reference.Deferral{Most: 60, Total: 600, User: strconv.Itoa(os.Getuid()), Answer: 1000, NeverIntegrity: true}
		if m.Leeway = (&reference.Leeway{Defer: d}); change != nil {
			change(d)
		}
	}
}

// tampered is what the measuring process asks with for the fact of integrity.
func tampered() PauseRequest {
	return PauseRequest{Rule: 1, Fact: 91, Reading: facts.Reading{Key: 91, Value: facts.IntValue(1)}}
}

// deferrer answers the question whether a pause is deferred, and holds the
// connection.
func deferrer(t *testing.T, d *device, answer string) (*pretender, chan net.Conn) {
	d.cfg.AppSocket = d.path("app")
	conns := make(chan net.Conn, 16)
	return pretend(t, d.cfg.AppSocket, func(line string, conn net.Conn) {
		switch {
		case strings.HasPrefix(line, "pending "):
			fmt.Fprint(conn, answer)
			conns <- conn
		default:
			fmt.Fprint(conn, "ok\n")
		}
	}), conns
}

func (r *running) untilDeferred(t *testing.T) Status {
	t.Helper()
	return r.until(t, "deferred", func(s Status) bool { return s.Deferral != nil })
}

// The application puts a pause off. It is latched at once, nothing is frozen
// before the deferral ends, and everything is frozen after.
func TestDefer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer string
		most   uint32
		end    func(*testing.T, *running, net.Conn)
		why    Ended
	}{
		{"its time is over", "defer 1200\n", 60, func(*testing.T, *running, net.Conn) {}, EndedTime},
		{"it asked for more than was signed", "defer 2000000000\n", 1, func(*testing.T, *running, net.Conn) {}, EndedTime},
		{"the application lets it come", "defer 50000\n", 60, func(_ *testing.T, _ *running, c net.Conn) { fmt.Fprint(c, "go\n") }, EndedApplication},
		{"the application goes away", "defer 50000\n", 60, func(_ *testing.T, _ *running, c net.Conn) { c.Close() }, EndedApplication},
		{"a reason that is not deferred", "defer 50000\n", 60, func(t *testing.T, r *running, _ net.Conn) {
			if _, err := r.client.Pause(ctx10(t), tampered()); err != nil {
				t.Error(err)
			}
		}, EndedReason},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cgroup := workload(t)
			d := newDevice(t, deferring(cgroup, func(l *reference.Deferral) { l.Most = tt.most }))
			p, conns := deferrer(t, d, tt.answer)
			r := d.start()
			id := r.mustPause(t).PauseID
			s := r.untilDeferred(t)
			if s.Latch != appraise.LatchPaused || s.Phase != PhasePausing || s.Deferral.Until <= s.Deferral.Began || s.Deferral.Until-s.Deferral.Began > int64(tt.most)*1000 {
				t.Errorf("%+v, %+v", s, s.Deferral)
			}
			if got := <-p.heard; got != fmt.Sprintf("pending %x %d", id, tt.most*1000) {
				t.Errorf("asked %q", got)
			}
			// What a restart would find says paused.
			for _, c := range (&latchStore{dir: d.cfg.StateDir}).read() {
				if c.err != nil || !c.rec.Phase.latched() {
					t.Errorf("on the disk: %+v, %v", c.rec, c.err)
				}
			}
			if s.Deferral.Ended == 0 && frozen(t, cgroup) && r.status().Deferral.Ended == 0 {
				t.Error("it is frozen while the pause is put off")
			}
			tt.end(t, r, <-conns)
			s = r.untilPhase(t, PhasePaused)
			if !frozen(t, cgroup) || s.Deferral.Why != tt.why || s.Deferral.Ended <= s.Deferral.Began || len(s.Effects) != 1 {
				t.Errorf("frozen %v, %+v, %+v", frozen(t, cgroup), s, s.Deferral)
			}
			if took := s.Deferral.Ended - s.Deferral.Began; tt.why == EndedTime && took < 1000 {
				t.Errorf("deferred for %d ms", took)
			}
			// Once in a pause: the looks at a paused device ask for nothing more.
			select {
			case line := <-p.heard:
				t.Errorf("said %q", line)
			default:
			}
			if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
				t.Fatal(err)
			}
			if s = r.untilPhase(t, PhaseClear); s.Deferral != nil {
				t.Errorf("after the resume: %+v", s.Deferral)
			}
		})
	}
}

// Nobody defers a pause but the application of the signed user, in its time, in
// its words, for a reason that may be deferred, and not for more than in all.
func TestDeferRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer string
		change func(*reference.Deferral)
		ask    func() PauseRequest
		before func(*testing.T, *device)
		heard  bool
	}{
		{"another user", "defer 50000\n", func(l *reference.Deferral) { l.User = strconv.Itoa(os.Getuid() + 1) }, crossing, nil, false},
		{"a user that is not there", "defer 50000\n", func(l *reference.Deferral) { l.User = "nobody-of-this-name" }, crossing, nil, false},
		{"it does not want to", "go\n", nil, crossing, nil, true},
		{"it does not understand", "ok\n", nil, crossing, nil, true},
		{"for no time", "defer 0\n", nil, crossing, nil, true},
		{"no answer in time", "", func(l *reference.Deferral) { l.Answer = 20 }, crossing, nil, true},
		{"a reason that is not deferred", "defer 50000\n", nil, tampered, nil, false},
		{"all time was given", "defer 50000\n", nil, crossing, func(t *testing.T, d *device) {
			if err := writeState(d.cfg.Socket+".deferred", grants{[]grant{{uptime() - 1000, 400_000}, {uptime() - 10, 200_000}}}); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"nobody knows what was given", "defer 50000\n", nil, crossing, func(_ *testing.T, d *device) { d.write("s.deferred", []byte("damaged")) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cgroup := workload(t)
			d := newDevice(t, deferring(cgroup, tt.change))
			p, _ := deferrer(t, d, tt.answer)
			if tt.before != nil {
				tt.before(t, d)
			}
			r := d.start()
			if s, err := r.client.Pause(ctx10(t), tt.ask()); err != nil || s.Latch != appraise.LatchPaused {
				t.Fatalf("%+v, %v", s, err)
			}
			s := r.untilPhase(t, PhasePaused)
			if s.Deferral != nil || !frozen(t, cgroup) {
				t.Errorf("frozen %v, %+v", frozen(t, cgroup), s.Deferral)
			}
			if heard := len(p.heard) > 0; heard != tt.heard {
				t.Errorf("asked %v, want %v", heard, tt.heard)
			}
		})
	}
}

// What was given counts for a day, over a restart of the enforcer.
func TestDeferralsAreCounted(t *testing.T) {
	cgroup := workload(t)
	d := newDevice(t, deferring(cgroup, func(l *reference.Deferral) { l.Total = 61 }))
	p, conns := deferrer(t, d, "defer 60000\n")
	r := d.start()
	id := r.mustPause(t).PauseID
	r.untilDeferred(t)
	fmt.Fprint(<-conns, "go\n")
	r.untilPhase(t, PhasePaused)
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(t, PhaseClear)
	r.stop()
	r = d.start()
	<-p.heard
	second := r.mustPause(t).PauseID
	if got, want := <-p.heard, fmt.Sprintf("pending %x 1000", second); got != want {
		t.Errorf("asked %q, want %q: what is left of 61 s", got, want)
	}
	g := grants{[]grant{{0, 5}, {1, 7}}}
	if recent, ms := g.since(grantsFor); len(recent) != 1 || ms != 7 {
		t.Errorf("after a day %v, %d ms", recent, ms)
	}
}

// A deferral that is interrupted by whatever restarts the enforcer is over: it
// comes up paused, and says nothing more to the application than its chain does.
func TestDeferralEndsWithARestart(t *testing.T) {
	cgroup := workload(t)
	d := newDevice(t, deferring(cgroup, nil))
	p, _ := deferrer(t, d, "defer 60000\n")
	r := d.start()
	id := r.mustPause(t).PauseID
	r.untilDeferred(t)
	<-p.heard
	r.stop()
	r = d.start() // ready when the pause is in force
	if s := r.status(); s.Phase != PhasePaused || s.PauseID != id || s.Deferral != nil || !frozen(t, cgroup) {
		t.Errorf("frozen %v, %+v", frozen(t, cgroup), s)
	}
	if len(p.heard) != 0 {
		t.Errorf("said %q", <-p.heard)
	}
}

// What a power cut would end is not put off: the disk has to have the latch.
func TestDeferNeedsTheDisk(t *testing.T) {
	d := newDevice(t, deferring("nowhere", nil))
	p, _ := deferrer(t, d, "defer 60000\n")
	r := d.start()
	for _, name := range copyNames { // a folder cannot be replaced by a file
		if err := errors.Join(os.Remove(d.path("state/"+name)), os.MkdirAll(d.path("state/"+name+"/x"), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.client.Pause(ctx10(t), crossing()); err != nil {
		t.Fatal(err)
	}
	if s := r.untilPhase(t, PhasePaused); s.Deferral != nil || len(p.heard) != 0 {
		t.Errorf("deferred without a latch on the disk: %+v", s.Deferral)
	}
	for _, name := range copyNames {
		os.RemoveAll(d.path("state/" + name))
	}
	if _, err := os.Stat(d.cfg.Socket + ".deferred"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("counted: %v", err)
	}
}
