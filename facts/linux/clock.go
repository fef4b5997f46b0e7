package linux

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// readSynchronised asks adjtimex(2) without changing anything, or another where
// this process may not.
func readSynchronised(r *Root, other func() (bool, error), o *out) {
	var status int64
	if r.Live() {
		var tx unix.Timex
		_, err := unix.Adjtimex(&tx)
		if errors.Is(err, unix.EPERM) && other != nil {
			is, err := other()
			if err != nil {
				o.fault(0, fault{facts.Unreadable, "adjtimex: not permitted, and " + err.Error()})
				return
			}
			o.ok(0, facts.BoolValue(is))
			return
		}
		if err != nil {
			o.fault(0, fault{facts.Unreadable, "adjtimex: " + err.Error()})
			return
		}
		status = int64(tx.Status)
	} else {
		tx, f := r.call("adjtimex")
		if f.is() {
			o.fault(0, f)
			return
		}
		var ok bool
		if status, ok = parseInt([]byte(tx["status"])); !ok {
			o.fault(0, malformed("adjtimex: status is not a number"))
			return
		}
	}
	o.ok(0, facts.BoolValue(status&unix.STA_UNSYNC == 0))
}

// A clock tells when this boot began by the wall clock, in ms since 1970: the
// difference of CLOCK_REALTIME and CLOCK_BOOTTIME, which changes when somebody
// sets the clock. Of a fixture it is the number in .calls/clock.
type clock struct {
	root *Root
	call *file // of a fixture
}

func newClock(root *Root) clock {
	return clock{root: root, call: newFile(root, ".calls/clock", value, 32)}
}

func (c *clock) began() (int64, fault) {
	if !c.root.Live() {
		return c.call.readInt()
	}
	var wall unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &wall); err != nil {
		return 0, fault{facts.Unreadable, "clock_gettime: " + err.Error()}
	}
	return wall.Nano()/int64(time.Millisecond) - Uptime(), fault{}
}

// jumps counts how often the wall clock was set since the agent started. A
// clock that is slewed drifts by at most a tenth (chronyd's limit of 83333 ppm);
// what changes faster, and by more than half a second, was a step.
type jumps struct {
	clock clock
	seen  bool
	began int64 // of the last round
	at    int64 // ns of the root's clock
	count int64
}

func (j *jumps) read(o *out) {
	began, f := j.clock.began()
	if f.is() {
		o.fault(0, f)
		return
	}
	now := j.clock.root.now()
	if j.seen && max(began-j.began, j.began-began) > 500+(now-j.at)/int64(time.Millisecond)/10 {
		j.count++
	}
	j.seen, j.began, j.at = true, began, now
	o.num(0, j.count)
}

// readRTC reports by how much the first real-time clock is ahead of the wall
// clock. One that lost its time, for lack of a battery, cannot be read or is
// years behind.
func readRTC(r *Root, o *out) {
	rtc, f := r.readInt("sys/class/rtc/rtc0/since_epoch")
	if f.is() {
		o.fault(0, f)
		return
	}
	c := newClock(r)
	defer c.call.close()
	began, f := c.began()
	var up int64
	if !f.is() {
		up, f = r.uptime()
	}
	if !f.is() && (rtc < 0 || rtc > 1<<40) {
		f = malformed(fmt.Sprintf("since_epoch: %d s is no time", rtc))
	}
	o.outcome(0, rtc-(began+up)/1000, f)
}
