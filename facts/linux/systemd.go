package linux

import (
	"bytes"
	"context"
	"strconv"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/miotfacts/miotfacts/facts"
)

const (
	busTimeout = 2 * time.Second // for all of one conversation with systemd
	busName    = "org.freedesktop.systemd1"
	busPath    = "/org/freedesktop/systemd1"
	manager    = "org.freedesktop.systemd1.Manager"

	finishStamp = "FinishTimestampMonotonic"
)

// onBus runs fn with systemd's manager object on the system bus.
func (r *Root) onBus(fn func(ctx context.Context, m dbus.BusObject) error) fault {
	ctx, cancel := context.WithTimeout(context.Background(), busTimeout)
	defer cancel()
	c, err := dbus.Connect(r.bus, dbus.WithContext(ctx))
	if err == nil {
		defer c.Close()
		err = fn(ctx, c.Object(busName, busPath))
	}
	if err != nil {
		return fault{facts.Unreadable, "D-Bus: " + err.Error()}
	}
	return fault{}
}

// systemd reports whether systemd is the service manager, as sd_booted(3) does;
// of a fixture, whether it holds systemd's answers.
func (r *Root) systemd() bool {
	if r.Live() {
		return r.exists("run/systemd/system")
	}
	return r.exists(".calls/systemd")
}

// Stamps are systemd's times of the boot, in µs of CLOCK_MONOTONIC; 0 where it
// has none. Firmware and loader count back from the start of the kernel
// (org.freedesktop.systemd1(5)).
type stamps struct {
	firmware, loader, initrd, userspace, finish uint64

	security   uint64 // 0 in a container, where the other stamps are the host's
	softReboot uint64 // 0 when user space was not started anew without the kernel
}

func (s *stamps) fields() map[string]*uint64 {
	return map[string]*uint64{
		"FirmwareTimestampMonotonic":        &s.firmware,
		"LoaderTimestampMonotonic":          &s.loader,
		"InitRDTimestampMonotonic":          &s.initrd,
		"UserspaceTimestampMonotonic":       &s.userspace,
		finishStamp:                         &s.finish,
		"SecurityStartTimestampMonotonic":   &s.security,
		"SoftRebootStartTimestampMonotonic": &s.softReboot,
	}
}

func (r *Root) bootStamps() (s stamps, f fault) {
	fields := s.fields()
	if !r.Live() {
		answers, f := r.call("systemd")
		if f.is() {
			return s, f
		}
		for name, to := range fields {
			text, ok := answers[name]
			if !ok && name == finishStamp {
				return s, malformed("systemd: there is no " + name)
			}
			if !ok {
				continue
			}
			n, err := strconv.ParseUint(text, 10, 63)
			if err != nil {
				return s, malformed("systemd: " + name + " is not a number")
			}
			*to = n
		}
		return s, fault{}
	}
	props := map[string]dbus.Variant{}
	if f := r.onBus(func(ctx context.Context, m dbus.BusObject) error {
		return m.CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", 0, manager).Store(&props)
	}); f.is() {
		return s, f
	}
	for name, to := range fields {
		v, ok := props[name]
		if !ok && name == finishStamp {
			return s, malformed("systemd: there is no " + name)
		}
		if !ok { // newer than this systemd
			continue
		}
		n, ok := v.Value().(uint64)
		if !ok {
			return s, malformed("systemd: " + name + " is not of type t")
		}
		*to = n
	}
	return s, fault{}
}

// A phase is one time of the boot in ms, or why there is none.
type phase struct {
	ms int64
	fault
}

// phases computes boot.firmware, loader, kernel, initrd, userspace and total.
func (s *stamps) phases() [6]phase {
	all := func(f fault) (p [6]phase) {
		for i := range p {
			p[i].fault = f
		}
		return p
	}
	between := func(from, to uint64) phase {
		if to < from || to > 1<<62 {
			return phase{fault: malformed("systemd: a later stage of the boot has an earlier time")}
		}
		return phase{ms: int64((to - from) / 1000)}
	}
	if s.finish == 0 {
		return all(pending("the boot has not finished"))
	}
	if s.softReboot > 0 || s.security == 0 {
		why, begin := "systemd runs in a container", s.userspace
		if s.softReboot > 0 {
			why, begin = "user space was restarted without the kernel", s.softReboot
		}
		p := all(absent(why))
		if s.userspace > 0 {
			p[4], p[5] = between(s.userspace, s.finish), between(begin, s.finish)
		}
		return p
	}
	p := all(absent("systemd has no time of it"))
	if s.firmware > 0 {
		p[0] = between(s.loader, s.firmware)
	}
	if s.loader > 0 {
		p[1] = between(0, s.loader)
	}
	kernel := s.userspace
	if s.initrd > 0 {
		kernel = s.initrd
		p[3] = between(s.initrd, s.userspace)
	}
	p[2] = between(0, kernel)
	p[4] = between(s.userspace, s.finish)
	p[5] = between(0, max(s.firmware, s.loader)+s.finish)
	return p
}

// A unit is what ListUnitsByPatterns tells of one, in the order of its
// signature a(ssssssouso).
type unit struct {
	Name, Description, LoadState, ActiveState, SubState, Followed string
	Path                                                          dbus.ObjectPath
	JobID                                                         uint32
	JobType                                                       string
	JobPath                                                       dbus.ObjectPath
}

func (r *Root) activeAndFailed() (active, failed []string, f fault) {
	active, failed = []string{}, []string{}
	sort := func(name, state string) {
		switch state {
		case "active":
			active = append(active, name)
		case "failed":
			failed = append(failed, name)
		}
	}
	if !r.Live() {
		b, f := r.readFile(".calls/systemd-units")
		if f.is() {
			return nil, nil, f
		}
		for line := range bytes.Lines(b) {
			name, rest := field(line)
			state, rest := field(rest)
			if len(state) == 0 || len(bytes.TrimSpace(rest)) != 0 {
				return nil, nil, malformed("systemd-units: a line is not a name and a state")
			}
			sort(string(name), string(state))
		}
		if len(b) == 0 {
			return nil, nil, malformed("systemd-units is empty")
		}
		return active, failed, fault{}
	}
	var units []unit
	if f := r.onBus(func(ctx context.Context, m dbus.BusObject) error {
		return m.CallWithContext(ctx, manager+".ListUnitsByPatterns", 0, []string{"active", "failed"}, []string{"*.service"}).Store(&units)
	}); f.is() {
		return nil, nil, f
	}
	for _, u := range units {
		sort(u.Name, u.ActiveState)
	}
	return active, failed, fault{}
}

// services keeps an answer for half a period, or until an event: one that came
// after the round's deadline serves the next round.
type services struct {
	root   *Root
	on     bool
	events *Events // nil when nothing watches

	active, failed []string
	fault          fault
	at             int64
	news           int64 // count of events before it was asked
	asked          bool
}

func (s *services) read(o *out) {
	switch {
	case !s.on:
		o.faults(absent("services are not asked for"))
		return
	case !s.root.systemd():
		s.openRC(o)
		return
	}
	if now, news := s.root.now(), s.events.ofServices(); !s.asked || news != s.news || now-s.at > int64(facts.SlowPeriod/2) {
		s.active, s.failed, s.fault = s.root.activeAndFailed()
		s.at, s.asked, s.news = s.root.now(), true, news
	}
	if s.fault.is() {
		o.faults(s.fault)
		return
	}
	o.set(0, s.active)
	o.set(1, s.failed)
}

// openRC reports what OpenRC has started and what failed to start: it keeps a
// link for each service (OpenRC, librc).
func (s *services) openRC(o *out) {
	const dir = "run/openrc/"
	if !s.root.exists(dir + "started") {
		o.faults(absent("neither systemd nor OpenRC runs here"))
		return
	}
	for i, state := range []string{"started", "failed"} {
		names, f := s.root.list(dir + state)
		if f.is() && (f.status != facts.Absent || state == "started") {
			o.fault(i, f)
			continue
		}
		o.set(i, append([]string{}, names...))
	}
}
