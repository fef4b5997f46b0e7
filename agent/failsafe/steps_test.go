package failsafe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/reference"
)

// A tree writes files below a folder of its own: what is simulated here has no
// driver in the kernel that runs the test.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func content(t *testing.T, path string) string {
	t.Helper()
	text, err := get(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// remember takes what a step says of what was before, as the latch does.
type remember struct {
	undo bool
	was  []string
}

func (m *remember) before(was ...string) error {
	if !m.undo {
		m.undo, m.was = true, was
	}
	return nil
}

// simulatedChip is a GPIO chip and a beeper at the boundary of ioctl(2).
type simulatedChip struct {
	t      *testing.T
	output bool
	level  byte
	used   string // by whom
	stuck  bool   // the line does not follow
	silent bool   // the beeper does not sound
}

func (c *simulatedChip) ioctl(_ uintptr, request uint32, arg []byte) error {
	if size := int(request >> 16 & 0x3fff); size != len(arg) {
		c.t.Errorf("ioctl %x with %d bytes", request, len(arg))
	}
	set := func(level uint64) {
		if !c.stuck {
			c.level = byte(level & 1)
		}
	}
	switch request {
	case gpioLineInfo:
		if binary.NativeEndian.Uint32(arg[64:]) != 17 {
			return unix.EINVAL
		}
		flags := uint64(gpioInput)
		if c.output {
			flags = gpioOutput
		}
		if c.used != "" {
			flags |= gpioUsed
			copy(arg[32:], c.used)
		}
		binary.NativeEndian.PutUint64(arg[72:], flags)
	case gpioLine:
		if binary.NativeEndian.Uint32(arg) != 17 || binary.NativeEndian.Uint32(arg[560:]) != 1 || binary.NativeEndian.Uint64(arg[288:]) != 0 {
			return unix.EINVAL
		}
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			return err
		}
		binary.NativeEndian.PutUint32(arg[588:], uint32(fd))
	case gpioSetConfig:
		c.output = binary.NativeEndian.Uint64(arg) == gpioOutput
		if c.output {
			if binary.NativeEndian.Uint32(arg[8:]) != 1 || binary.NativeEndian.Uint32(arg[32:]) != gpioOutputValues || binary.NativeEndian.Uint64(arg[48:]) != 1 {
				return unix.EINVAL
			}
			set(binary.NativeEndian.Uint64(arg[40:]))
		}
	case gpioGet:
		binary.NativeEndian.PutUint64(arg, uint64(c.level))
	case soundState:
		if !c.silent {
			binary.NativeEndian.PutUint32(arg, 1<<soundTone)
		}
	default:
		return unix.ENOTTY
	}
	return nil
}

// fileChip is a GPIO chip with line 17, and a beeper, simulated for an enforcer in
// a process of its own. Each ioctl(2) is made, for something that any file takes,
// so that it can fail; what the line is stands in a file.
type fileChip struct{ dir string }

// simulatedLine is where a fileChip keeps what its line is: "in", "out=0", "out=1".
const (
	simulatedLine = "line17.is"
	fioclex       = 0x5451 // ioctl(2): close on exec
)

func (c *fileChip) ioctl(fd uintptr, request uint32, arg []byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, fioclex, 0); errno != 0 {
		return errno
	}
	path := filepath.Join(c.dir, simulatedLine)
	is, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	level := uint64(0)
	if bytes.HasPrefix(is, []byte("out=1")) {
		level = 1
	}
	switch request {
	case gpioLineInfo:
		flags := uint64(gpioInput)
		if strings.HasPrefix(string(is), "out") {
			flags = gpioOutput
		}
		binary.NativeEndian.PutUint64(arg[72:], flags)
	case gpioLine:
		line, err := unix.Open(filepath.Join(c.dir, "line17"), unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		binary.NativeEndian.PutUint32(arg[588:], uint32(line))
	case gpioSetConfig:
		now := "in   "
		if binary.NativeEndian.Uint64(arg) == gpioOutput {
			now = fmt.Sprintf("out=%d", binary.NativeEndian.Uint64(arg[40:])&1)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString(now)
		return err
	case gpioGet:
		binary.NativeEndian.PutUint64(arg, level)
	case soundState:
		binary.NativeEndian.PutUint32(arg, 1<<soundTone)
	default:
		return unix.ENOTTY
	}
	return nil
}

func TestSimulatedGPIO(t *testing.T) {
	r := reference.Reaction{Do: reference.GPIO, Target: "gpiochip0:17", Value: "1", Deadline: 1000}
	for _, tt := range []struct {
		name string
		chip simulatedChip
		was  string
		back string
		want string // refusal
	}{
		{"an input", simulatedChip{}, "in", "the line is in again", ""},
		{"an output", simulatedChip{output: true}, "out=0", "the line is out=0 again", ""},
		{"driven already", simulatedChip{output: true, level: 1}, "out=1", "the line is out=1 again", ""},
		{"in use", simulatedChip{used: "relay"}, "", "", `in use by "relay"`},
		{"stuck", simulatedChip{stuck: true}, "in", "", "the line is 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chip := tt.chip
			chip.t = t
			h := &hands{dev: tree(t, map[string]string{"gpiochip0": ""}), ioctl: chip.ioctl, lines: map[string]*os.File{}}
			var m remember
			for range 2 {
				words, err := h.pause(t.Context(), r, nil, m.before)
				if tt.want != "" {
					if err == nil || !strings.Contains(err.Error(), tt.want) {
						t.Fatalf("%q, %v", words, err)
					}
					return
				}
				if err != nil || chip.level != 1 || !chip.output || words != "the line is 1" {
					t.Fatalf("%q, %v, %+v", words, err, chip)
				}
			}
			if !slices.Equal(m.was, []string{tt.was}) {
				t.Errorf("was %q", m.was)
			}
			// A restart holds no line and asks anew.
			again := &hands{dev: h.dev, ioctl: chip.ioctl, lines: map[string]*os.File{}}
			if words, err := again.pause(t.Context(), r, nil, m.before); err != nil {
				t.Errorf("after a restart: %q, %v", words, err)
			}
			words, err := h.resume(t.Context(), r, nil, m.was)
			if err != nil || words != tt.back || chip.output != tt.chip.output || chip.output && chip.level != tt.chip.level {
				t.Errorf("%q, %v, %+v", words, err, chip)
			}
		})
	}
	h := &hands{dev: t.TempDir(), ioctl: (&simulatedChip{t: t}).ioctl, lines: map[string]*os.File{}}
	if _, err := h.pause(t.Context(), r, nil, new(remember).before); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a chip: %v", err)
	}
}

func TestSimulatedBeep(t *testing.T) {
	r := reference.Reaction{Do: reference.Beep, Target: "event0", Value: "2000", Deadline: 1000}
	chip := &simulatedChip{t: t}
	h := &hands{dev: tree(t, map[string]string{"input/event0": ""}), ioctl: chip.ioctl}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // so that nobody waits for the tone
	var m remember
	words, err := h.pause(ctx, r, nil, m.before)
	if err != nil || !m.undo || words != "the kernel says that the tone was on" {
		t.Errorf("%q, %v", words, err)
	}
	events, err := os.ReadFile(filepath.Join(h.dev, "input/event0"))
	size := len(events) / 2
	if err != nil || size < 16 {
		t.Fatalf("%x, %v", events, err)
	}
	for i, hz := range []uint32{2000, 0} {
		e := events[(i+1)*size-8:]
		if binary.NativeEndian.Uint16(e) != eventSound || binary.NativeEndian.Uint16(e[2:]) != soundTone || binary.NativeEndian.Uint32(e[4:]) != hz {
			t.Errorf("event %d: %x", i, e[:8])
		}
	}
	if _, err := h.resume(t.Context(), r, nil, nil); err != nil {
		t.Error(err)
	}
	chip.silent = true
	if _, err := h.pause(ctx, r, nil, m.before); err == nil {
		t.Error("heard a silent beeper")
	}
}

func TestSimulatedLED(t *testing.T) {
	r := reference.Reaction{Do: reference.LED, Target: "red:alarm", Value: "255", Deadline: 1000}
	h := &hands{sys: tree(t, map[string]string{"class/leds/red:alarm/trigger": "none timer [heartbeat]\n", "class/leds/red:alarm/brightness": "0\n"})}
	dir := filepath.Join(h.sys, "class/leds/red:alarm")
	var m remember
	for range 2 {
		words, err := h.pause(t.Context(), r, nil, m.before)
		if err != nil || words != "brightness is 255" || content(t, dir+"/trigger") != "none" || content(t, dir+"/brightness") != "255" {
			t.Fatalf("%q, %v", words, err)
		}
	}
	if !slices.Equal(m.was, []string{"heartbeat", "0"}) {
		t.Errorf("was %q", m.was)
	}
	if _, err := h.resume(t.Context(), r, nil, m.was); err == nil { // a file without a driver does not set brackets
		t.Error("a trigger that is not in brackets is not the present one")
	}
	if content(t, dir+"/trigger") != "heartbeat" || content(t, dir+"/brightness") != "0" {
		t.Error("not put back")
	}
	if _, err := h.pause(t.Context(), reference.Reaction{Do: reference.LED, Target: "no", Value: "1"}, nil, m.before); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such LED: %v", err)
	}
}

func TestSysfs(t *testing.T) {
	sys := tree(t, map[string]string{"devices/pump/speed": "100\n"})
	if err := errors.Join(os.MkdirAll(sys+"/class", 0o755), os.Symlink("../devices/pump", sys+"/class/pump"), os.Symlink("/etc/hostname", sys+"/class/out")); err != nil {
		t.Fatal(err)
	}
	h := &hands{sys: sys, sysfs: []string{"/sys/class/pump/speed", "/sys/class/out", "/sys/class/gone"}}
	r := reference.Reaction{Do: reference.Sysfs, Target: "/sys/class/pump/speed", Value: "0", Deadline: 1000}
	var m remember
	for range 2 {
		if words, err := h.pause(t.Context(), r, nil, m.before); err != nil || words != `reads "0"` || content(t, sys+"/devices/pump/speed") != "0" {
			t.Fatalf("%q, %v", words, err)
		}
	}
	if words, err := h.resume(t.Context(), r, nil, m.was); err != nil || content(t, sys+"/devices/pump/speed") != "100" {
		t.Errorf("%q, %v", words, err)
	}
	for target, words := range map[string]string{
		"/sys/devices/pump/speed": "not on the device's list", "/sys/class/out": "leads out of /sys", "/sys/class/gone": "no such file",
	} {
		r.Target = target
		if _, err := h.pause(t.Context(), r, nil, m.before); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", target, err)
		}
	}
}

func TestSimulatedUSB(t *testing.T) {
	sys := tree(t, map[string]string{
		"bus/usb/devices/usb1/authorized_default": "1\n", "bus/usb/devices/usb1/bDeviceClass": "09\n",
		"bus/usb/devices/usb2/authorized_default": "2\n",
		"bus/usb/devices/1-1/authorized":          "1\n", "bus/usb/devices/1-1/removable": "removable\n", "bus/usb/devices/1-1/bDeviceClass": "00\n",
		"bus/usb/devices/1-2/authorized": "1\n", "bus/usb/devices/1-2/removable": "fixed\n", "bus/usb/devices/1-2/bDeviceClass": "00\n",
		"bus/usb/devices/1-2:1.0/bInterfaceClass": "08\n",
		"bus/usb/devices/1-3/authorized":          "1\n", "bus/usb/devices/1-3/removable": "unknown\n", "bus/usb/devices/1-3/bDeviceClass": "00\n",
		"bus/usb/devices/1-3:1.0/bInterfaceClass": "08\n",
		"bus/usb/devices/1-4/authorized":          "1\n", "bus/usb/devices/1-4/removable": "unknown\n", "bus/usb/devices/1-4:1.0/bInterfaceClass": "03\n",
		"bus/usb/devices/1-5/authorized": "1\n", "bus/usb/devices/1-5/removable": "removable\n", "bus/usb/devices/1-5/bDeviceClass": "09\n",
		"bus/usb/devices/1-6/authorized": "1\n", "bus/usb/devices/1-6/removable": "removable\n",
		"bus/usb/devices/1-7/authorized": "0\n", "bus/usb/devices/1-7/removable": "removable\n",
	})
	h := &hands{sys: sys, neverTouch: []string{"usb:1-6"}}
	r := reference.Reaction{Do: reference.BlockUSB, Deadline: 1000}
	state := func() string {
		var b strings.Builder
		for _, f := range []string{"usb1/authorized_default", "usb2/authorized_default", "1-1/authorized", "1-2/authorized", "1-3/authorized", "1-4/authorized", "1-5/authorized", "1-6/authorized", "1-7/authorized"} {
			b.WriteString(content(t, filepath.Join(sys, "bus/usb/devices", f)))
		}
		return b.String()
	}
	before := state()
	var m remember
	for range 2 {
		words, err := h.pause(t.Context(), r, nil, m.before)
		if err != nil || words != "2 root hubs admit no new device, 3 devices are cut off" || state() != "000101110" {
			t.Fatalf("%q, %v, %s", words, err, state())
		}
	}
	if err := os.RemoveAll(filepath.Join(sys, "bus/usb/devices/1-3")); err != nil {
		t.Fatal(err)
	}
	words, err := h.resume(t.Context(), r, nil, m.was)
	if err != nil || words != "3 of 4 switches are as before" {
		t.Errorf("%q, %v", words, err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(sys, "bus/usb/devices/1-3"), 0o755), os.WriteFile(filepath.Join(sys, "bus/usb/devices/1-3/authorized"), []byte("1"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if state() != before {
		t.Errorf("before %s, after %s", before, state())
	}
	if words, err := h.admitUSB([]string{"../../../etc/x=1"}); err == nil {
		t.Errorf("left /sys: %q", words)
	}
	none := &hands{sys: tree(t, map[string]string{"bus/pci/x": ""})}
	if words, err := none.pause(t.Context(), r, nil, m.before); err != nil || words != "there is no USB here" {
		t.Errorf("%q, %v", words, err)
	}
	none.sys = t.TempDir()
	if _, err := none.pause(t.Context(), r, nil, m.before); err == nil {
		t.Error("without /sys")
	}
}

// A hook is a real program here.
func TestHook(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	write := func(name, script string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, []byte("#!/bin/sh\n"+script), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("LD_PRELOAD_OF_SOMEBODY", "1")
	write("relay", `echo "$# $*" >> `+log+`; env | grep -c -v -E '^(PATH|PWD|SHLVL|_)=' >> `+log+`; pwd; echo more; exit 0`, 0o755)
	write("policy", "cut -d' ' -f41 /proc/$$/stat", 0o755) // proc_pid_stat(5), (41) policy
	write("fails", "echo no relay; exit 3", 0o755)
	write("hangs", "sleep 1000 & echo $! > "+dir+"/child; wait", 0o755)
	write("leaves", "setsid sleep 5 & echo gone", 0o755)
	write("loose", "exit 0", 0o775)
	write("inert", "exit 0", 0o644)
	if err := errors.Join(os.Symlink("relay", dir+"/link"), os.WriteFile(dir+"/theirs", nil, 0o755), os.Chown(dir+"/theirs", 1000, 0)); err != nil {
		t.Fatal(err)
	}
	h := &hands{hooks: dir}
	do := func(name string, within time.Duration) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		return h.pause(ctx, reference.Reaction{Do: reference.Hook, Target: name}, nil, func(...string) error { return nil })
	}
	if words, err := do("relay", 10*time.Second); err != nil || words != "the hook succeeded: /" {
		t.Errorf("%q, %v", words, err)
	}
	if _, err := h.resume(ctx10(t), reference.Reaction{Do: reference.Hook, Target: "relay"}, nil, nil); err != nil {
		t.Error(err)
	}
	if got := content(t, log); got != "1 pause\n0\n1 resume\n0" {
		t.Errorf("it was called with, and with how many variables: %q", got)
	}
	// What the enforcer's priority is a hook does not have.
	runtime.LockOSThread()
	err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: 2, Priority: 1}, 0)
	words, herr := do("policy", 10*time.Second)
	if herr != nil || words != "the hook succeeded: 0" {
		t.Errorf("policy of a hook: %q, %v", words, herr)
	}
	if now, gerr := unix.SchedGetAttr(0, 0); err == nil && (gerr != nil || now.Policy != 2) {
		t.Errorf("the priority did not come back: %+v, %v", now, gerr)
	}
	if err == nil {
		err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0)
	}
	if err != nil && !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
	runtime.UnlockOSThread()
	if words, err := do("leaves", 3*time.Second); err != nil || words != "the hook succeeded: gone" {
		t.Errorf("%q, %v", words, err)
	}
	for name, words := range map[string]string{
		"fails": "the hook ended with status 3: no relay", "loose": "others may write", "inert": "not executable", "link": "is of type",
		"theirs": "belongs to user 1000", "gone": "no such file",
	} {
		if _, err := do(name, 10*time.Second); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := do("hangs", 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), "in time") {
		t.Errorf("hangs: %v", err)
	}
	var pid int
	if _, err := fmt.Sscan(content(t, dir+"/child"), &pid); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its child lives on")
		}
		<-time.After(time.Millisecond)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := do("relay", time.Second); err == nil || !strings.Contains(err.Error(), "others may write") {
		t.Errorf("in a folder for all: %v", err)
	}
	h.hooks = ""
	if _, err := do("relay", time.Second); err == nil {
		t.Error("without hooks")
	}
}

func TestMaskUnitOnSimulatedSystemd(t *testing.T) {
	f := startBus(t)
	f.add(t, "pump.service", "inactive", nil)
	f.add(t, "etc.service", "inactive", nil)
	f.add(t, "alias.service", "inactive", map[string][]string{"Names": {"alias.service", "ventilator.service"}})
	h := &hands{neverTouch: []string{"ventilator.service"}}
	for _, tt := range []struct{ unit, words, refused string }{
		{"pump.service", "unit is masked", ""}, {"pump.service", "unit is masked", ""},
		{"etc.service", "", "outranks the mask"}, {"alias.service", "", "never to be touched"}, {"init.scope", "", "never to be touched"},
	} {
		words, err := h.pause(ctx10(t), reference.Reaction{Do: reference.MaskUnit, Target: tt.unit}, nil, new(remember).before)
		if words != tt.words || (err == nil) != (tt.refused == "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%s: %q, %v", tt.unit, words, err)
		}
	}
	if words, err := h.resume(ctx10(t), reference.Reaction{Do: reference.MaskUnit, Target: "pump.service"}, nil, nil); err != nil || words != "unit is loaded" {
		t.Errorf("%q, %v", words, err)
	}
	if did := f.did(); !slices.Equal(did, []string{"mask pump.service", "reload", "mask etc.service", "reload", "unmask pump.service", "reload"}) {
		t.Errorf("systemd was asked to %q", did)
	}
}

// A step with a condition, and a chain that is undone in reverse with what was
// there before, over a restart of the enforcer.
func TestConditionAndReverse(t *testing.T) {
	sys := tree(t, map[string]string{"a": "1", "b": "2"})
	d := newDevice(t, func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{
			{Do: reference.Sysfs, Target: "/sys/a", Value: "paused", Deadline: 1000},
			{Do: reference.Sysfs, Target: "/sys/a", Value: "not needed", Deadline: 1000, OnlyIf: reference.IfFailed},
			{Do: reference.Sysfs, Target: "/sys/unlisted", Value: "1", Deadline: 1000},
			{Do: reference.Sysfs, Target: "/sys/b", Value: "instead", Deadline: 1000, OnlyIf: reference.IfFailed},
		}
	})
	d.sys, d.cfg.Sysfs = sys, []string{"/sys/a", "/sys/b"}
	r := d.start()
	id := r.mustPause(t).PauseID
	s := r.untilPhase(t, PhasePaused)
	for i, want := range []string{`reads "paused"`, "not needed", "not on the device's list", `reads "instead"`} {
		if !strings.Contains(s.Effects[i].Observed, want) || s.Effects[i].Done == (i == 2) {
			t.Errorf("step %d: %+v", i, s.Effects[i])
		}
	}
	if content(t, sys+"/a") != "paused" || content(t, sys+"/b") != "instead" {
		t.Error("not written")
	}
	r.stop()
	r = d.start()
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	s = r.untilPhase(t, PhaseClear)
	if len(s.Effects) != 2 || s.Effects[0].Target != "/sys/b" || s.Effects[1].Target != "/sys/a" || content(t, sys+"/a") != "1" || content(t, sys+"/b") != "2" {
		t.Errorf("%+v", s.Effects)
	}
}
