package failsafe

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"

	"github.com/miotfacts/miotfacts/reference"
)

// The manager of systemd on the system bus (org.freedesktop.systemd1(5)).
const (
	systemdName    = "org.freedesktop.systemd1"
	systemdPath    = "/org/freedesktop/systemd1"
	systemdManager = systemdName + ".Manager"
	systemdUnit    = systemdName + ".Unit"
)

// A unitBus is a connection to systemd for one step.
type unitBus struct {
	conn    *dbus.Conn
	manager dbus.BusObject
	jobs    chan *dbus.Signal
}

func openUnitBus(ctx context.Context) (*unitBus, error) {
	// godbus authenticates without looking at a context. The connection outlives
	// the deadline of the step by the last look at what really is.
	type opened struct {
		conn *dbus.Conn
		err  error
	}
	done := make(chan opened, 1)
	go func() {
		conn, err := dbus.ConnectSystemBus()
		done <- opened{conn, err}
	}()
	var conn *dbus.Conn
	select {
	case o := <-done:
		if o.err != nil {
			return nil, fmt.Errorf("cannot reach the system bus: %w", o.err)
		}
		conn = o.conn
	case <-ctx.Done():
		go func() {
			if o := <-done; o.conn != nil {
				o.conn.Close()
			}
		}()
		return nil, errors.New("the system bus did not answer in time")
	}
	b := &unitBus{conn: conn, manager: conn.Object(systemdName, systemdPath), jobs: make(chan *dbus.Signal, 64)}
	conn.Signal(b.jobs)
	err := conn.AddMatchSignalContext(ctx, dbus.WithMatchInterface(systemdManager), dbus.WithMatchMember("JobRemoved"))
	if err == nil {
		// systemd sends job signals only while somebody has subscribed.
		err = b.manager.CallWithContext(ctx, systemdManager+".Subscribe", 0).Err
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot reach systemd: %w", err)
	}
	return b, nil
}

func (b *unitBus) close() { b.conn.Close() }

// A unitState is what systemd says of a unit.
type unitState struct {
	Load, Active string
	Names        []string // and aliases
	StopsToo     []string // units that systemd stops with it
}

func (b *unitBus) state(ctx context.Context, unit string) (unitState, error) {
	var path dbus.ObjectPath
	if err := b.manager.CallWithContext(ctx, systemdManager+".LoadUnit", 0, unit).Store(&path); err != nil {
		return unitState{}, fmt.Errorf("cannot look up %s: %w", unit, err)
	}
	var props map[string]dbus.Variant
	if err := b.conn.Object(systemdName, path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", 0, systemdUnit).Store(&props); err != nil {
		return unitState{}, fmt.Errorf("cannot look at %s: %w", unit, err)
	}
	var s unitState
	for name, into := range map[string]*string{"LoadState": &s.Load, "ActiveState": &s.Active} {
		if err := props[name].Store(into); err != nil {
			return unitState{}, fmt.Errorf("cannot look at %s: %s: %w", unit, name, err)
		}
	}
	for _, name := range []string{"Names", "RequiredBy", "BoundBy", "ConsistsOf"} {
		var list []string
		if v, ok := props[name]; ok && v.Store(&list) == nil {
			if name == "Names" {
				s.Names = list
			} else {
				s.StopsToo = append(s.StopsToo, list...)
			}
		}
	}
	return s, nil
}

// job starts a job for a unit and waits until systemd is done with it.
func (b *unitBus) job(ctx context.Context, method, unit string) error {
	var job dbus.ObjectPath
	if err := b.manager.CallWithContext(ctx, systemdManager+"."+method, 0, unit, "replace").Store(&job); err != nil {
		return fmt.Errorf("cannot ask systemd for %s: %w", method, err)
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s was not done in time", method)
		case s, ok := <-b.jobs:
			if !ok {
				return errors.New("the system bus went away")
			}
			if len(s.Body) < 4 || s.Body[1] != job {
				continue
			}
			if s.Body[3] != "done" {
				return fmt.Errorf("%s ended with %q", method, s.Body[3])
			}
			return nil
		}
	}
}

// become does a job for a unit and looks whether it is then as it should be.
func (b *unitBus) become(ctx context.Context, method, unit string, is func(unitState) bool) (string, error) {
	err := b.job(ctx, method, unit)
	s, lookErr := b.after(ctx, unit)
	switch {
	case lookErr != nil:
		return "", errors.Join(err, lookErr)
	case !is(s):
		return "", stillIs(s, err)
	}
	return "unit is " + s.Active, nil
}

// after looks at a unit when something was done to it. The deadline was for the
// effect; what really is must be seen all the same.
func (b *unitBus) after(ctx context.Context, unit string) (unitState, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTime)
	defer cancel()
	return b.state(ctx, unit)
}

// maxStopsToo bounds the look at units that stop together.
const maxStopsToo = 256

// mayStop refuses to stop a unit under any of its names when it, or a unit that
// systemd would stop with it, is never to be touched.
func (h *hands) mayStop(ctx context.Context, b *unitBus, unit string, s unitState) error {
	seen := map[string]bool{unit: true}
	for queue := []unitState{s}; len(queue) > 0; queue = queue[1:] {
		for _, n := range queue[0].Names {
			if err := h.forbiddenUnit(reference.StopUnit, n); err != nil {
				return fmt.Errorf("cannot stop %s: %w", unit, err)
			}
		}
		for _, n := range queue[0].StopsToo {
			if seen[n] {
				continue
			}
			if seen[n] = true; len(seen) > maxStopsToo {
				return fmt.Errorf("cannot stop %s: more than %d units would stop with it", unit, maxStopsToo)
			}
			if err := h.forbiddenUnit(reference.StopUnit, n); err != nil {
				return fmt.Errorf("cannot stop %s, as %s would stop with it: %w", unit, n, err)
			}
			next, err := b.state(ctx, n)
			if err != nil {
				return err
			}
			queue = append(queue, next)
		}
	}
	return nil
}

// stopUnit stops a unit and looks whether it is inactive. before is called when
// the unit is active, because afterwards nobody could tell.
func (h *hands) stopUnit(ctx context.Context, unit string, before func(...string) error) (string, error) {
	b, err := openUnitBus(ctx)
	if err != nil {
		return "", err
	}
	defer b.close()
	s, err := b.state(ctx, unit)
	switch {
	case err != nil:
		return "", err
	case s.Load == "not-found":
		return "", fmt.Errorf("systemd has no unit %s", unit)
	case isStopped(s):
		return "unit is " + s.Active, nil
	}
	if err := h.mayStop(ctx, b, unit, s); err != nil {
		return "", err
	}
	if err := before(); err != nil {
		return "", err
	}
	return b.become(ctx, "StopUnit", unit, isStopped)
}

func stillIs(s unitState, err error) error {
	if err == nil {
		return fmt.Errorf("unit is %s", s.Active)
	}
	return fmt.Errorf("unit is %s: %w", s.Active, err)
}

func isStopped(s unitState) bool { return s.Active == "inactive" || s.Active == "failed" }

// startUnit starts a unit that the pause stopped.
func (h *hands) startUnit(ctx context.Context, unit string) (string, error) {
	b, err := openUnitBus(ctx)
	if err != nil {
		return "", err
	}
	defer b.close()
	return b.become(ctx, "StartUnit", unit, func(s unitState) bool { return s.Active == "active" })
}

// maskUnit masks a unit until the next boot, so that nothing starts it, and looks
// whether systemd takes it for masked: a unit file in /etc outranks the mask. It
// does not stop the unit.
func (h *hands) maskUnit(ctx context.Context, unit string, before func(...string) error) (string, error) {
	b, err := openUnitBus(ctx)
	if err != nil {
		return "", err
	}
	defer b.close()
	s, err := b.state(ctx, unit)
	switch {
	case err != nil:
		return "", err
	case s.Load == "masked":
		return "unit is masked", nil
	}
	for _, n := range s.Names {
		if err := h.forbiddenUnit(reference.MaskUnit, n); err != nil {
			return "", fmt.Errorf("cannot mask %s: %w", unit, err)
		}
	}
	if err := before(); err != nil {
		return "", err
	}
	return b.mask(ctx, "MaskUnitFiles", unit, func(load string) bool { return load == "masked" }, []string{unit}, true, false)
}

// unmaskUnit takes the mask away.
func (h *hands) unmaskUnit(ctx context.Context, unit string) (string, error) {
	b, err := openUnitBus(ctx)
	if err != nil {
		return "", err
	}
	defer b.close()
	return b.mask(ctx, "UnmaskUnitFiles", unit, func(load string) bool { return load != "masked" }, []string{unit}, true)
}

// mask changes unit files, makes systemd read them, and looks what it makes of
// the unit.
func (b *unitBus) mask(ctx context.Context, method, unit string, want func(load string) bool, args ...any) (string, error) {
	err := b.manager.CallWithContext(ctx, systemdManager+"."+method, 0, args...).Err
	if err == nil {
		err = b.manager.CallWithContext(ctx, systemdManager+".Reload", 0).Err
	}
	if err != nil {
		err = fmt.Errorf("cannot ask systemd for %s: %w", method, err)
	}
	s, lookErr := b.after(ctx, unit)
	switch {
	case lookErr != nil:
		return "", errors.Join(err, lookErr)
	case !want(s.Load) && err != nil:
		return "", fmt.Errorf("unit is %s: %w", s.Load, err)
	case !want(s.Load):
		return "", fmt.Errorf("unit is %s: a unit file in /etc outranks the mask", s.Load)
	}
	return "unit is " + s.Load, nil
}
