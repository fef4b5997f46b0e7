package failsafe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/reference"
)

// get reads a file of /sys, and put writes one and reads it back.
func get(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

func put(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0) // what is not there is not made
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func putAndLook(path, value string) error {
	if err := put(path, value); err != nil {
		return err
	}
	now, err := get(path)
	if err == nil && now != value {
		err = fmt.Errorf("%s is %q after %q was written", path, now, value)
	}
	return err
}

// write writes to a file that the device's configuration lists.
func (h *hands) write(r reference.Reaction, before func(...string) error) (string, error) {
	path, err := h.listed(r.Target)
	if err != nil {
		return "", err
	}
	now, err := get(path)
	if err != nil {
		return "", err
	}
	if now != r.Value {
		if err := before(now); err != nil {
			return "", err
		}
		if err := putAndLook(path, r.Value); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("reads %q", r.Value), nil
}

func (h *hands) listed(target string) (string, error) {
	if !slices.Contains(h.sysfs, target) {
		return "", fmt.Errorf("%s is not on the device's list of files that may be written", target)
	}
	top, err := filepath.EvalSymlinks(h.sys)
	if err != nil {
		return "", err
	}
	path, err := filepath.EvalSymlinks(filepath.Join(h.sys, strings.TrimPrefix(target, "/sys")))
	if err == nil && !within(path, top) {
		err = fmt.Errorf("%s leads out of /sys, to %s", target, path)
	}
	return path, err
}

func (h *hands) rewrite(r reference.Reaction, was []string) (string, error) {
	path, err := h.listed(r.Target)
	switch {
	case err != nil:
		return "", err
	case len(was) != 1:
		return "", errors.New("what there was before is not known")
	}
	if err := putAndLook(path, was[0]); err != nil {
		return "", err
	}
	return fmt.Sprintf("reads %q again", was[0]), nil
}

// light takes a LED from its trigger and sets its brightness
// (Documentation/leds/leds-class.rst).
func (h *hands) light(r reference.Reaction, before func(...string) error) (string, error) {
	dir := filepath.Join(h.sys, "class/leds", r.Target)
	trigger, brightness, err := ledState(dir)
	if err != nil {
		return "", err
	}
	if trigger != "none" || brightness != r.Value {
		if err := before(trigger, brightness); err != nil {
			return "", err
		}
	}
	if trigger != "none" {
		if err := put(filepath.Join(dir, "trigger"), "none"); err != nil {
			return "", err
		}
	}
	if err := put(filepath.Join(dir, "brightness"), r.Value); err != nil {
		return "", err
	}
	if trigger, brightness, err = ledState(dir); err == nil && (trigger != "none" || brightness != r.Value) {
		err = fmt.Errorf("the LED has brightness %s and trigger %s", brightness, trigger)
	}
	if err != nil {
		return "", err
	}
	return "brightness is " + brightness, nil
}

func ledState(dir string) (trigger, brightness string, err error) {
	all, err := get(filepath.Join(dir, "trigger"))
	if err != nil {
		return "", "", err
	}
	trigger = "none"
	for t := range strings.FieldsSeq(all) { // the present one is in brackets
		if strings.HasPrefix(t, "[") && strings.HasSuffix(t, "]") {
			trigger = strings.Trim(t, "[]")
		}
	}
	brightness, err = get(filepath.Join(dir, "brightness"))
	return trigger, brightness, err
}

func (h *hands) unlight(r reference.Reaction, was []string) (string, error) {
	if len(was) != 2 {
		return "", errors.New("what there was before is not known")
	}
	dir := filepath.Join(h.sys, "class/leds", r.Target)
	if err := put(filepath.Join(dir, "brightness"), was[1]); err != nil {
		return "", err
	}
	if was[0] != "none" {
		if err := put(filepath.Join(dir, "trigger"), was[0]); err != nil {
			return "", err
		}
	}
	trigger, brightness, err := ledState(dir)
	if err == nil && (trigger != was[0] || trigger == "none" && brightness != was[1]) {
		err = fmt.Errorf("the LED has brightness %s and trigger %s", brightness, trigger)
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("trigger is %s, brightness %s", trigger, brightness), nil
}

// A usbSwitch is a file that lets USB devices work or not
// (Documentation/usb/authorization.rst), and its present value.
type usbSwitch struct{ name, value string }

// usbSwitches returns what blocking USB has to switch off: what new devices
// become at each root hub, and the devices that can be removed. Hubs stay, and so
// do devices that are built in or protected; one of which nothing is known counts
// as removable when it stores data.
func (h *hands) usbSwitches() ([]usbSwitch, error) {
	dir := filepath.Join(h.sys, "bus/usb/devices")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if _, serr := os.Stat(filepath.Join(h.sys, "bus")); serr == nil {
			return nil, nil // no USB here
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list USB devices: %w", err)
	}
	var hubs, devices []usbSwitch
	for _, e := range entries {
		name := e.Name()
		file, into := name+"/authorized", &devices
		switch {
		case strings.Contains(name, ":"), slices.Contains(h.neverTouch, "usb:"+name):
			continue // an interface, or protected
		case strings.HasPrefix(name, "usb"):
			file, into = name+"/authorized_default", &hubs
		case !h.isRemovable(dir, name, entries):
			continue
		}
		value, err := get(filepath.Join(dir, file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // unplugged in between
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look at a USB device: %w", err)
		}
		*into = append(*into, usbSwitch{file, value})
	}
	return append(hubs, devices...), nil
}

func (h *hands) isRemovable(dir, name string, entries []os.DirEntry) bool {
	if class, _ := get(filepath.Join(dir, name, "bDeviceClass")); class == "09" {
		return false
	}
	switch removable, _ := get(filepath.Join(dir, name, "removable")); removable {
	case "removable":
		return true
	case "fixed":
		return false
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		if !strings.HasPrefix(e.Name(), name+":") {
			return false
		}
		class, _ := get(filepath.Join(dir, e.Name(), "bInterfaceClass"))
		return class == "08"
	})
}

func (h *hands) blockUSB(before func(...string) error) (string, error) {
	all, err := h.usbSwitches()
	if err != nil {
		return "", err
	}
	var was []string
	for _, s := range all {
		if s.value != "0" {
			was = append(was, s.name+"="+s.value)
		}
	}
	if len(was) > 0 {
		if err := before(was...); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(h.sys, "bus/usb/devices")
	var errs []error
	devices := 0
	for _, s := range all {
		if s.value != "0" {
			if err := putAndLook(filepath.Join(dir, s.name), "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		if strings.HasSuffix(s.name, "/authorized") {
			devices++
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "there is no USB here", nil
	}
	return fmt.Sprintf("%d root hubs admit no new device, %d devices are cut off", len(all)-devices, devices), nil
}

// admitUSB puts every switch back that blocking has changed, in reverse order.
// What was plugged in meanwhile has to be plugged in again.
func (h *hands) admitUSB(was []string) (string, error) {
	var errs []error
	n := 0
	for _, s := range slices.Backward(was) {
		name, value, ok := strings.Cut(s, "=")
		if !ok || !filepath.IsLocal(name) {
			errs = append(errs, fmt.Errorf("%q is no switch", s))
			continue
		}
		err := putAndLook(filepath.Join(h.sys, "bus/usb/devices", name), value)
		switch {
		case err == nil:
			n++
		case !errors.Is(err, fs.ErrNotExist): // unplugged meanwhile
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d of %d switches are as before", n, len(was)), nil
}
