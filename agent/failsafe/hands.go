package failsafe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent/quarantine"
	"github.com/miotfacts/miotfacts/reference"
)

// hands do the steps of a reaction chain and look what came of them. Each step
// is idempotent: where the effect is there already, nothing is done.
type hands struct {
	proc, sys, dev string // "/proc", "/sys", "/dev"
	cgroups        string // root of cgroup v2
	appSocket      string
	neverTouch     reference.NeverTouch
	verifier       []quarantine.Peer
	network        string // namespace that a quarantine closes, "/proc/1/ns/net"
	filter         quarantine.Network
	sysfs          []string // files that steps may write
	hooks          string   // folder of the hooks

	ioctl func(fd uintptr, request uint32, arg []byte) error
	lines map[string]*os.File // GPIO lines that are held

	// The enforcer itself, which no step may stop.
	ownCgroup string // "/system.slice/factsd-enforce.service"; "" without cgroup v2
	ownExe    string
}

func newHands(cfg *Config) (*hands, error) {
	h := &hands{
		proc: "/proc", sys: "/sys", dev: "/dev", cgroups: cfg.CgroupRoot, appSocket: cfg.AppSocket, neverTouch: cfg.NeverTouch,
		verifier: cfg.Verifier, network: cfg.Network, filter: quarantine.Network{Socket: cfg.Netfilter}, sysfs: cfg.Sysfs, hooks: cfg.Hooks, ioctl: ioctl, lines: map[string]*os.File{},
	}
	var err error
	if h.ownExe, err = os.Readlink("/proc/self/exe"); err != nil {
		return nil, fmt.Errorf("cannot tell the own executable: %w", err)
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot tell the own cgroup: %w", err)
	}
	h.ownCgroup = cgroup2Of(data)
	return h, nil
}

// cgroup2Of returns the cgroup of version 2 in the content of /proc/PID/cgroup,
// "" without one (cgroups(7)).
func cgroup2Of(data []byte) string {
	for line := range strings.Lines(string(data)) {
		if own, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return own
		}
	}
	return ""
}

// forbidden refuses a step by the names in it: what the configuration or the
// machine protects, and the enforcer itself.
func (h *hands) forbidden(r reference.Reaction) error {
	self := func(what string) error {
		return fmt.Errorf("%s %s: %w: the enforcer itself is %s", r.Do, r.Target, reference.ErrNeverTouch, what)
	}
	switch r.Do {
	case reference.Freeze:
		if within(h.ownCgroup, path.Clean("/"+r.Target)) {
			return self("in it")
		}
	case reference.Signal:
		for _, exe := range executables(r.Target) {
			if exe == h.ownExe {
				return self("that executable")
			}
			if err := h.neverTouch.Forbids(reference.Reaction{Do: r.Do, Target: exe}); err != nil {
				return err
			}
		}
	case reference.StopUnit, reference.MaskUnit:
		return h.forbiddenUnit(r.Do, r.Target)
	}
	return h.neverTouch.Forbids(r)
}

// forbiddenUnit refuses a unit that is protected, by itself or as the last
// element of a cgroup, and the enforcer's own unit with the slices around it.
func (h *hands) forbiddenUnit(do reference.ReactionKind, unit string) error {
	if slices.Contains(strings.Split(h.ownCgroup, "/"), unit) {
		return fmt.Errorf("%s %s: %w: the enforcer itself runs in it", do, unit, reference.ErrNeverTouch)
	}
	return h.neverTouch.Forbids(reference.Reaction{Do: do, Target: unit})
}

// within reports whether the clean absolute path p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// isExecutable reports whether an entry of the never-touch list may be an
// executable. It may also be a cgroup that was written with a leading slash.
func isExecutable(n string) bool { return strings.HasPrefix(n, "/") }

// pause does one step. before is called before something is done that resume
// has to undo, with what was there; resume gets what the first call of a pause
// said. It returns what was observed; the error says that the effect was not.
func (h *hands) pause(ctx context.Context, r reference.Reaction, id []byte, before func(was ...string) error) (string, error) {
	if err := h.forbidden(r); err != nil {
		return "", err
	}
	switch r.Do {
	case reference.Tell:
		return h.tell(ctx, fmt.Sprintf("pause %x %d\n", id, r.Deadline))
	case reference.Prepare:
		return h.prepare(ctx, id, time.Duration(r.Deadline)*time.Millisecond)
	case reference.Freeze:
		if err := h.forbiddenBelow(r.Target); err != nil {
			return "", err
		}
		if err := before(); err != nil {
			return "", err
		}
		return h.freeze(ctx, r.Target, true)
	case reference.Signal:
		if r.Signal == sigStop {
			if err := before(); err != nil {
				return "", err
			}
		}
		return h.signal(ctx, r.Target, r.Signal)
	case reference.StopUnit:
		return h.stopUnit(ctx, r.Target, before)
	case reference.MaskUnit:
		return h.maskUnit(ctx, r.Target, before)
	case reference.Quarantine:
		return h.quarantine(ctx, r, before)
	case reference.BlockUSB:
		return h.blockUSB(before)
	case reference.GPIO:
		return h.drive(r, before)
	case reference.LED:
		return h.light(r, before)
	case reference.Beep:
		return h.beep(ctx, r, before)
	case reference.Sysfs:
		return h.write(r, before)
	case reference.Hook:
		if err := before(); err != nil {
			return "", err
		}
		return h.hook(ctx, r.Target, "pause")
	}
	return "", fmt.Errorf("step %d is unknown", r.Do)
}

// resume undoes one step; was is what there was before it. What is never to be
// touched was not touched: steps that were refused have nothing to undo.
func (h *hands) resume(ctx context.Context, r reference.Reaction, id []byte, was []string) (string, error) {
	switch r.Do {
	case reference.Tell, reference.Prepare:
		return h.tell(ctx, fmt.Sprintf("resume %x\n", id))
	case reference.Freeze:
		return h.freeze(ctx, r.Target, false)
	case reference.Signal:
		return h.signal(ctx, r.Target, sigCont)
	case reference.StopUnit:
		return h.startUnit(ctx, r.Target)
	case reference.MaskUnit:
		return h.unmaskUnit(ctx, r.Target)
	case reference.Quarantine:
		return h.open(ctx)
	case reference.BlockUSB:
		return h.admitUSB(was)
	case reference.GPIO:
		return h.release(r, was)
	case reference.LED:
		return h.unlight(r, was)
	case reference.Beep:
		return h.silence(r)
	case reference.Sysfs:
		return h.rewrite(r, was)
	case reference.Hook:
		return h.hook(ctx, r.Target, "resume")
	}
	return "", fmt.Errorf("step %d is unknown", r.Do)
}

// forbiddenBelow refuses to freeze a cgroup that holds a unit or an executable
// on the list anywhere below it.
func (h *hands) forbiddenBelow(target string) error {
	withExe := slices.ContainsFunc(h.neverTouch, isExecutable)
	top := filepath.Join(h.cgroups, target)
	err := filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			if errors.Is(err, os.ErrNotExist) {
				return nil // gone in between, or not there: freezing says so
			}
			return err
		}
		if slices.Contains(h.neverTouch, d.Name()) || slices.Contains(reference.MachineUnits(), d.Name()) {
			return fmt.Errorf("freeze %s: %w: %s in it is on the list", target, reference.ErrNeverTouch, d.Name())
		}
		if !withExe {
			return nil
		}
		procs, err := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for pid := range strings.FieldsSeq(string(procs)) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				return err
			}
			exe, err := h.executable(n)
			if err != nil {
				return err // it may be on the list
			}
			if exe != "" && slices.Contains(h.neverTouch, exe) {
				return fmt.Errorf("freeze %s: %w: process %s in it runs %s, which is on the list", target, reference.ErrNeverTouch, pid, exe)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, reference.ErrNeverTouch) {
		return fmt.Errorf("cannot look into cgroup %s: %w", target, err)
	}
	return err
}

// isCgroup2 reports whether cgroup v2 is where it should be.
func (h *hands) isCgroup2() bool {
	var fs unix.Statfs_t
	return unix.Statfs(h.cgroups, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// freeze freezes or thaws a cgroup and waits until the kernel says that it is
// so: freezing is asynchronous (Documentation/admin-guide/cgroup-v2.rst).
func (h *hands) freeze(ctx context.Context, target string, freeze bool) (string, error) {
	want, words := []byte("frozen 0"), "thawed"
	value := "0"
	if freeze {
		want, words, value = []byte("frozen 1"), "frozen", "1"
	}
	dir := filepath.Join(h.cgroups, target)
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if errors.Is(err, os.ErrNotExist) && !freeze && h.isCgroup2() {
		return "the cgroup is gone, nothing is frozen", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot reach cgroup: %w", err)
	}
	defer events.Close()
	control, err := os.OpenFile(filepath.Join(dir, "cgroup.freeze"), os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("cannot reach cgroup: %w", err)
	}
	defer control.Close()
	// Written only where it is not so yet: a frozen parent shows in the events
	// of its children, and not in their own setting.
	now := make([]byte, 8)
	if n, err := control.Read(now); err != nil || string(bytes.TrimSpace(now[:n])) != value {
		if _, err := control.WriteAt([]byte(value), 0); err != nil {
			return "", fmt.Errorf("cannot write cgroup.freeze: %w", err)
		}
	}
	buf := make([]byte, 256)
	// The kernel holds an announcement back for up to 10 ms after the one
	// before (cgroup_file_notify), so the first looks do not wait for it.
	for again := time.Millisecond; ; again = min(2*again, time.Second) {
		n, err := events.ReadAt(buf, 0)
		if err != nil && err != io.EOF {
			return "", fmt.Errorf("cannot read cgroup.events: %w", err)
		}
		if bytes.Contains(buf[:n], want) {
			return words, nil
		}
		if err := waitChange(ctx, events, again); err != nil {
			return "", fmt.Errorf("not %s in time: cgroup.events says %s", words, bytes.ReplaceAll(bytes.TrimSpace(buf[:n]), []byte("\n"), []byte(", ")))
		}
	}
}
