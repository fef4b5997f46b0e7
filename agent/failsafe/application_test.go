package failsafe

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/reference"
)

// A pretender is an application that answers as it is told to: each line it hears
// goes to heard, each connection is handed to answer.
type pretender struct {
	heard chan string
}

// pretend listens on path until the test ends.
func pretend(t *testing.T, path string, answer func(line string, conn net.Conn)) *pretender {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &pretender{heard: make(chan string, 64)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					p.heard <- lines.Text()
					answer(lines.Text(), conn)
				}
			}()
		}
	}()
	return p
}

// The application may ask for time before a pause, and gets what was signed and no
// more; in any case it is told to hold.
func TestPrepareThenHold(t *testing.T) {
	const deadline = 1000
	for _, tt := range []struct {
		name     string
		answers  []string // to "prepare"
		hold     string   // to "hold"
		done     bool
		observed string
		least    int64 // ms
	}{
		{"ready at once", []string{"ready\n"}, "ok\n", true, "ready after", 0},
		{"asks for time and is ready", []string{"wait 800\n", "ready\n"}, "ok\n", true, "it asked for 800 ms, and told to hold", 0},
		{"asks for time and is never ready", []string{"wait 200\n"}, "ok\n", false, "it asked for 200 ms: the application did not answer in time", 190},
		{"asks for more than was signed", []string{"wait 2000000000\n"}, "ok\n", false, "it asked for 2000000000 ms", 1},
		{"asks again and again", []string{strings.Repeat("wait 999\n", 100)}, "ok\n", false, "more than 32 lines", 0},
		{"does not answer", nil, "ok\n", false, "not ready after ", 400},
		{"refuses", []string{"no\n"}, "ok\n", false, `answered "no"`, 0},
		{"asks for less than nothing", []string{"wait -1\n"}, "ok\n", false, `answered "wait -1"`, 0},
		{"says too much", []string{strings.Repeat("x", 100)}, "ok\n", false, "cannot read", 0},
		{"is ready too late", []string{"wait 1\n"}, "ready\nwait 3\nok\n", false, "did not answer in time", 0},
		{"does not hold", []string{"ready\n"}, "no\n", false, `told to hold: the application answered "no"`, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t, func(m *reference.Manifest) {
				m.Reaction = []reference.Reaction{{Do: reference.Prepare, Deadline: deadline}, {Do: reference.Signal, Target: "/nonexistent/pump", Signal: 19, Deadline: 1000}}
			})
			d.cfg.AppSocket = d.path("app")
			p := pretend(t, d.cfg.AppSocket, func(line string, conn net.Conn) {
				switch {
				case strings.HasPrefix(line, "prepare "):
					for _, a := range tt.answers {
						fmt.Fprint(conn, a)
					}
				case strings.HasPrefix(line, "hold "):
					fmt.Fprint(conn, tt.hold)
				default:
					fmt.Fprint(conn, "ok\n")
				}
			})
			r := d.start()
			id := r.mustPause(t).PauseID
			s := r.untilPhase(t, PhasePaused)
			e := s.Effects[0]
			if e.Kind != reference.Prepare || e.Done != tt.done || !strings.Contains(e.Observed, tt.observed) || e.Millis < tt.least || e.Millis > 10*deadline {
				t.Errorf("%+v, want done %v, %q, %d ms at least", e, tt.done, tt.observed, tt.least)
			}
			if strings.HasPrefix(tt.hold, "ready") && strings.Contains(e.Observed, "told to hold: ") {
				t.Errorf("it did hold: %+v", e)
			}
			if !s.Effects[1].Done {
				t.Errorf("the chain did not go on: %+v", s.Effects)
			}
			// Its time counts from when the pause began.
			var ms int
			if got := <-p.heard; !strings.HasPrefix(got, fmt.Sprintf("prepare %x ", id)) {
				t.Errorf("told %q", got)
			} else if n, err := fmt.Sscanf(got, "prepare %x %d", new([]byte), &ms); n != 2 || err != nil || ms > deadline-100 || ms < 1 {
				t.Errorf("told %q: %v", got, err)
			}
			if got, w := <-p.heard, fmt.Sprintf("hold %x", id); got != w {
				t.Errorf("told %q, want %q", got, w)
			}
			// It is told of the resume too.
			if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
				t.Fatal(err)
			}
			r.untilPhase(t, PhaseClear)
			if got, w := <-p.heard, fmt.Sprintf("resume %x", id); got != w {
				t.Errorf("told %q, want %q", got, w)
			}
		})
	}
}

// A restart in the middle of the preparation gives no more time, and neither does
// a resume wait for it.
func TestPrepareOverRestart(t *testing.T) {
	d := newDevice(t, func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{{Do: reference.Prepare, Deadline: 60000}}
	})
	d.cfg.AppSocket = d.path("app")
	p := pretend(t, d.cfg.AppSocket, func(line string, conn net.Conn) {
		switch {
		case strings.HasPrefix(line, "prepare "):
			fmt.Fprint(conn, "wait 60000\n")
		default:
			fmt.Fprint(conn, "ok\n")
		}
	})
	r := d.start()
	id := r.mustPause(t).PauseID
	<-p.heard
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(t, PhaseClear)
	if got := <-p.heard; got != fmt.Sprintf("resume %x", id) {
		t.Errorf("told %q", got)
	}
	for _, tt := range []struct {
		deadline uint32
		age      int64
		want     uint32
	}{{1000, 0, 1000}, {1000, 400, 600}, {1000, 900, 100}, {1000, 5000, 100}, {1000, -1, 100}, {50, 0, 50}, {50, 40, 50}} {
		if got := prepareTime(tt.deadline, tt.age); got != tt.want {
			t.Errorf("%d ms, %d ms after the pause began: %d ms are left, want %d", tt.deadline, tt.age, got, tt.want)
		}
	}
}
