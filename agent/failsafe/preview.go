package failsafe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/reference"
)

// A Preview says what one step of the chain would do now.
type Preview struct {
	Do     string `json:"do"`               // as in the manifest
	Target string `json:"target,omitempty"` // as in the manifest
	Within uint32 `json:"within_ms"`        // its deadline
	Now    string `json:"now"`              // how the target is, in words; why that is not known
	Would  string `json:"would"`            // what a pause would do; "nothing" where it could not
	Undo   string `json:"undo"`             // what a resume would do
	Refuse string `json:"refuse,omitempty"` // why the step would fail or be refused; "" when it would not
}

// A Rehearsal is what the enforcer would do in a pause that begins now.
type Rehearsal struct {
	Notes []string  `json:"notes,omitempty"` // what is wrong with manifest and key lists, and which is in force instead
	Steps []Preview `json:"steps"`
}

// DryRun opens the manifest as the enforcer would, with its floors and own copies,
// and looks at each step of its chain without doing it. It writes nothing: it may
// run beside the enforcer, with the same rights.
func DryRun(ctx context.Context, cfg Config) (Rehearsal, error) {
	h, err := newHands(&cfg)
	if err != nil {
		return Rehearsal{}, fmt.Errorf("cannot look at the chain: %w", err)
	}
	return h.rehearse(ctx, cfg)
}

func (h *hands) rehearse(ctx context.Context, cfg Config) (Rehearsal, error) {
	var r Rehearsal
	var old policy
	if cfg.NV != nil {
		said, err := cfg.NV.ReadLatch()
		if err != nil {
			r.Notes = append(r.Notes, "the floor in the TPM is not known: "+err.Error())
		}
		old.nvFloor = said.Floor
	}
	p, notes, err := (&Enforcer{cfg: cfg, hands: h}).openPolicy(old, false)
	if err == nil && !p.valid {
		err = errors.New(p.note)
	}
	if err != nil {
		return Rehearsal{}, fmt.Errorf("cannot look at the chain: %w", err)
	}
	r.Notes, r.Steps = append(r.Notes, notes...), []Preview{}
	for _, step := range p.ref.Manifest().Reaction {
		r.Steps = append(r.Steps, h.preview(ctx, step))
	}
	return r, nil
}

// preview looks at one step.
func (h *hands) preview(ctx context.Context, r reference.Reaction) Preview {
	p := Preview{Do: r.Do.String(), Target: r.Target, Within: r.Deadline}
	p.Would, p.Undo = intentions(r)
	if r.OnlyIf == reference.IfFailed {
		p.Would += ", if the step before failed"
	}
	ctx, cancel := context.WithTimeout(ctx, max(lookTime, time.Duration(r.Deadline)*time.Millisecond))
	defer cancel()
	var err error
	if p.Now, err = h.look(ctx, r); err != nil {
		p.Now = "not known"
	} else {
		err = h.would(ctx, r)
	}
	if err != nil {
		p.Refuse, p.Would, p.Undo = err.Error(), "nothing", "nothing"
	}
	return p
}

// intentions says in words what a step does and what undoes it.
func intentions(r reference.Reaction) (would, undo string) {
	switch r.Do {
	case reference.Tell:
		return "tell the application that the device pauses", "tell the application that it goes on"
	case reference.Prepare:
		return fmt.Sprintf("give the application at most %d ms to prepare, then tell it to hold", r.Deadline), "tell the application that it goes on"
	case reference.Freeze:
		return "freeze all processes of the cgroup", "thaw the cgroup"
	case reference.Signal:
		if r.Signal == sigStop {
			return "stop the processes that run it", "let them run again"
		}
		return fmt.Sprintf("send signal %d to the processes that run it", r.Signal), "nothing"
	case reference.StopUnit:
		return "stop the unit", "start the unit where it was active"
	case reference.MaskUnit:
		return "mask the unit until the next boot", "take the mask away"
	case reference.Quarantine:
		return "close the network but for the verifier and the peers of the manifest", "open the network as it was"
	case reference.BlockUSB:
		return "cut off USB devices that can be removed, and admit no new ones", "put every switch back"
	case reference.GPIO:
		return "drive the line to " + r.Value, "make the line what it was"
	case reference.LED:
		return "set the brightness to " + r.Value, "give the LED back to its trigger and brightness"
	case reference.Beep:
		return "sound the beeper", "silence it"
	case reference.Sysfs:
		return fmt.Sprintf("write %q", r.Value), "write what was there"
	case reference.Hook:
		return "run the hook with the word \"pause\"", "run it with the word \"resume\""
	}
	return "nothing: the step is unknown", "nothing"
}

// look tells how the target of a step is.
func (h *hands) look(ctx context.Context, r reference.Reaction) (string, error) {
	switch r.Do {
	case reference.Tell, reference.Prepare:
		if h.appSocket == "" {
			return "", errors.New("no application socket is configured")
		}
		info, err := os.Stat(h.appSocket)
		if err == nil && info.Mode().Type() != fs.ModeSocket {
			err = fmt.Errorf("%s is no socket", h.appSocket)
		}
		return "its socket is there", err
	case reference.Freeze:
		events, err := get(filepath.Join(h.cgroups, r.Target, "cgroup.events"))
		return strings.ReplaceAll(events, "\n", ", "), err
	case reference.Signal:
		ps, err := h.find(executables(r.Target))
		defer closeAll(ps)
		stopped := 0
		for _, p := range ps {
			is, serr := h.stopped(p.pid)
			if is {
				stopped++
			}
			err = errors.Join(err, serr)
		}
		return fmt.Sprintf("%d processes, %d of them stopped", len(ps), stopped), err
	case reference.StopUnit, reference.MaskUnit:
		b, err := openUnitBus(ctx)
		if err != nil {
			return "", err
		}
		defer b.close()
		s, err := b.state(ctx, r.Target)
		return fmt.Sprintf("unit is %s, %s", s.Load, s.Active), err
	case reference.Sysfs:
		path, err := h.listed(r.Target)
		if err != nil {
			return "", err
		}
		now, err := get(path)
		return fmt.Sprintf("reads %q", now), err
	case reference.LED:
		trigger, brightness, err := ledState(filepath.Join(h.sys, "class/leds", r.Target))
		return fmt.Sprintf("trigger is %s, brightness %s", trigger, brightness), err
	case reference.BlockUSB:
		all, err := h.usbSwitches()
		var words []string
		for _, s := range all {
			words = append(words, s.name+"="+s.value)
		}
		return fmt.Sprintf("%d switches: %s", len(all), strings.Join(words, " ")), err
	case reference.GPIO:
		return h.lookLine(r.Target)
	case reference.Beep:
		_, err := os.Stat(filepath.Join(h.dev, "input", r.Target))
		return "its device is there", err
	case reference.Hook:
		if h.hooks == "" {
			return "", errors.New("this device has no hooks")
		}
		path := filepath.Join(h.hooks, r.Target)
		return path + " is sound", soundHook(path)
	case reference.Quarantine:
		peers, err := h.peers(r)
		return fmt.Sprintf("would stay reachable: %v", peers), err
	}
	return "not looked at", nil
}

// lookLine says what a GPIO line is without asking for it.
func (h *hands) lookLine(target string) (string, error) {
	name, number, _ := strings.Cut(target, ":")
	offset, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return "", err
	}
	chip, err := os.OpenFile(filepath.Join(h.dev, name), os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer chip.Close()
	info := make([]byte, 256)
	binary.NativeEndian.PutUint32(info[64:], uint32(offset))
	if err := h.ioctl(chip.Fd(), gpioLineInfo, info); err != nil {
		return "", fmt.Errorf("cannot look at %s: %w", target, err)
	}
	flags := binary.NativeEndian.Uint64(info[72:])
	user := strings.TrimRight(string(info[32:64]), "\x00")
	switch {
	case flags&gpioUsed != 0 && user != "factsd":
		return "", fmt.Errorf("%s is in use by %q", target, user)
	case flags&gpioOutput != 0:
		return "an output", nil
	}
	return "an input", nil
}

// errDry ends a step where it would begin to change something.
var errDry = errors.New("only looked at")

// would goes through what the enforcer checks before a step, and says why it
// would not be done.
func (h *hands) would(ctx context.Context, r reference.Reaction) error {
	switch r.Do {
	case reference.Freeze, reference.StopUnit, reference.MaskUnit, reference.Quarantine:
		// Each asks to be recorded after all checks and before it does anything.
		if _, err := h.pause(ctx, r, nil, func(...string) error { return errDry }); !errors.Is(err, errDry) {
			return err
		}
		return nil
	}
	return h.forbidden(r)
}
