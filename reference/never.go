package reference

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// ErrNeverTouch says that a step must not be done, whatever a manifest says.
var ErrNeverTouch = errors.New("never to be touched")

// NeverTouch is what the configuration of a device protects from every manifest:
// units, cgroups, executables (absolute paths), GPIO lines ("gpiochip0:17") and
// whole chips, files and folders of /sys and /dev, hooks (as paths), USB devices
// ("usb:1-1.2"), and "network" for the network as a whole.
//
// What the machine needs to hold a pause and to tell of it is protected without
// being listed. A login such as sshd.service is not: whether somebody can reach
// a paused device is for those to decide who write the list.
type NeverTouch []string

// MachineUnits are the units that are protected on every device: systemd's own,
// the bus that stops units, and both processes of factsd.
func MachineUnits() []string {
	return []string{
		"init.scope", "dbus.service", "dbus.socket", "dbus-broker.service",
		"systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-udevd.service",
		"factsd.service", "factsd-enforce.service",
	}
}

// MachineSlices hold what is protected on every device beside other units: they
// are protected themselves, and not every unit in them.
func MachineSlices() []string {
	return []string{"-.slice", "system.slice", "sysinit.target", "basic.target"}
}

func machineExecutables() []string {
	return []string{
		"/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd",
		"/lib/systemd/systemd-journald", "/usr/lib/systemd/systemd-journald",
		"/usr/bin/dbus-daemon", "/usr/bin/dbus-broker", "/usr/bin/factsd",
	}
}

// Forbids refuses a step by the names in it. The device also looks at what they
// stand for there: aliases, what lies in a cgroup, where a link leads.
func (n NeverTouch) Forbids(r Reaction) error {
	no := func(entry string) error {
		return fmt.Errorf("%s: %w: %s is on the list", r, ErrNeverTouch, entry)
	}
	switch r.Do {
	case Freeze:
		target := path.Clean("/" + r.Target)
		if target == "/" || target != "/"+r.Target {
			return fmt.Errorf("freeze %q: %w: it is the root, or not a clean path", r.Target, ErrNeverTouch)
		}
		if slices.Contains(MachineSlices(), r.Target) {
			return no(r.Target)
		}
		for _, e := range n {
			if other := path.Clean("/" + e); isBelow(other, target) || isBelow(target, other) {
				return no(e)
			}
		}
		for _, element := range strings.Split(r.Target, "/") {
			if slices.Contains(n, element) || slices.Contains(MachineUnits(), element) {
				return no(element)
			}
		}
	case Signal:
		if slices.Contains(n, r.Target) || slices.Contains(machineExecutables(), r.Target) {
			return no(r.Target)
		}
	case StopUnit, MaskUnit:
		// A unit may also be listed as the last element of its cgroup.
		for _, e := range n {
			if slices.Contains(strings.Split(e, "/"), r.Target) {
				return no(e)
			}
		}
		if slices.Contains(MachineUnits(), r.Target) || slices.Contains(MachineSlices(), r.Target) {
			return no(r.Target)
		}
	case Quarantine:
		if slices.Contains(n, "network") {
			return no("network")
		}
	case GPIO:
		chip, _, _ := strings.Cut(r.Target, ":")
		for _, e := range []string{r.Target, chip} {
			if slices.Contains(n, e) {
				return no(e)
			}
		}
	case LED:
		return n.forbidsPath(r, "/sys/class/leds/"+r.Target)
	case Beep:
		return n.forbidsPath(r, "/dev/input/"+r.Target)
	case Sysfs:
		return n.forbidsPath(r, r.Target)
	case Hook:
		return n.forbidsPath(r, HookDir+"/"+r.Target)
	}
	return nil
}

// HookDir is where the hooks of a device are.
const HookDir = "/etc/miotfacts/hooks"

func (n NeverTouch) forbidsPath(r Reaction, path string) error {
	for _, e := range n {
		if isBelow(path, e) {
			return fmt.Errorf("%s: %w: %s is on the list", r, ErrNeverTouch, e)
		}
	}
	return nil
}

// isBelow reports whether the clean absolute path p is dir or below it.
func isBelow(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// neverTouched complains of the steps that n or the machine forbid.
func (m *Manifest) neverTouched(n NeverTouch) []Problem {
	var found []Problem
	for i, r := range m.Reaction {
		if _, _, err := r.check(); err != nil {
			continue // complained of already
		}
		if err := n.Forbids(r); err != nil {
			found = append(found, Problem{
				Path: fmt.Sprintf("reaction[%d].target", i), Message: err.Error(),
				Fix: "name something else: the device refuses this step and goes on with the next",
			})
		}
	}
	return found
}
