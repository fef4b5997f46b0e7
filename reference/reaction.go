package reference

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Limits of a step.
const (
	MaxPeers = 16
	MaxWrite = 64 // bytes of Value
)

// ReactionKind is what a step of the reaction chain does. The set is closed; what
// a hook runs is in the hands of who owns the device, not of the manifest.
type ReactionKind uint8

// The kinds of steps.
const (
	Tell       ReactionKind = 1  // tell the application over its socket
	Freeze     ReactionKind = 2  // freeze the cgroup (v2) Target; thawed on resume
	Signal     ReactionKind = 3  // signal every process whose executable is Target
	StopUnit   ReactionKind = 4  // stop the systemd unit Target; started again on resume
	Quarantine ReactionKind = 5  // close the network but for loopback, the verifier and Peers; opened on resume
	MaskUnit   ReactionKind = 6  // mask the systemd unit Target until the next boot; unmasked on resume
	BlockUSB   ReactionKind = 7  // cut removable USB devices off and admit no new ones; undone on resume
	GPIO       ReactionKind = 8  // drive the GPIO line Target to Value; put back on resume
	LED        ReactionKind = 9  // set the brightness of the LED Target to Value; put back on resume
	Beep       ReactionKind = 10 // sound the input device Target with Value Hz, again and again until the resume
	Sysfs      ReactionKind = 11 // write Value to the file Target that the device's configuration lists; put back on resume
	Hook       ReactionKind = 12 // run the hook Target of the device with the word "pause"; with "resume" on resume
	Prepare    ReactionKind = 13 // tell the application that a pause comes, let it reach a safe state until Deadline, tell it that the pause holds; first step only
)

// OnlyIf is a condition under which a step is done at all.
type OnlyIf uint8

// The conditions. Without one a step is always done.
const (
	IfFailed OnlyIf = 1 // the effect of the step before was not observed
)

// A Reaction is one step of the chain that makes a device pause. Steps run in
// order; a step that fails or misses its deadline does not stop the next.
type Reaction struct {
	Do       ReactionKind `cbor:"1,keyasint"`
	Target   string       `cbor:"2,keyasint,omitempty"` // Freeze: cgroup path below the cgroup root; Signal: absolute path of an executable; StopUnit, MaskUnit: unit name; GPIO: "gpiochip0:17"; LED: name; Beep: path below /dev/input; Sysfs: path; Hook: name
	Deadline uint32       `cbor:"3,keyasint"`           // ms in which the effect must be observed, 1 to 60000
	Signal   uint8        `cbor:"4,keyasint,omitempty"` // Signal: 9 (KILL), 15 (TERM) or 19 (STOP, continued on resume)
	Peers    []string     `cbor:"5,keyasint,omitempty"` // Quarantine: who stays reachable beside the verifier, as ParsePeer reads it; at most MaxPeers
	Value    string       `cbor:"6,keyasint,omitempty"` // GPIO: "0" or "1"; LED: brightness; Beep: Hz, 20 to 20000; Sysfs: what is written, at most MaxWrite bytes
	OnlyIf   OnlyIf       `cbor:"7,keyasint,omitempty"` // not in the first step
}

// Equal reports whether both are the same step.
func (r Reaction) Equal(o Reaction) bool {
	peers := slices.Equal(r.Peers, o.Peers)
	return peers && r.Do == o.Do && r.Target == o.Target && r.Deadline == o.Deadline && r.Signal == o.Signal && r.Value == o.Value && r.OnlyIf == o.OnlyIf
}

// String names the step for people.
func (r Reaction) String() string { return strings.TrimSpace(r.Do.String() + " " + r.Target) }

// ParsePeer reads who stays reachable in a quarantine: an address, a network, or
// an address with the port on its side ("192.0.2.1", "2001:db8::/64",
// "192.0.2.1:8883", "[2001:db8::1]:8883"). It takes the usual spelling only.
func ParsePeer(s string) (network netip.Prefix, port uint16, err error) {
	if a, aerr := netip.ParseAddr(s); aerr == nil {
		network = netip.PrefixFrom(a, a.BitLen())
		err = spelled(s, a.String())
	} else if ap, aerr := netip.ParseAddrPort(s); aerr == nil {
		network, port = netip.PrefixFrom(ap.Addr(), ap.Addr().BitLen()), ap.Port()
		if err = spelled(s, ap.String()); port == 0 {
			err = fmt.Errorf("%q has port 0", s)
		}
	} else if network, err = netip.ParsePrefix(s); err == nil {
		err = spelled(s, network.Masked().String())
	}
	a := network.Addr()
	switch {
	case err != nil:
		return netip.Prefix{}, 0, fmt.Errorf("cannot read peer: %w", err)
	case a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || network.Bits() == 0:
		return netip.Prefix{}, 0, fmt.Errorf("cannot read peer: %q names no other machine", s)
	}
	return network, port, nil
}

func spelled(s, want string) error {
	if s != want {
		return fmt.Errorf("%q is written %q", s, want)
	}
	return nil
}

// isPlain reports whether s is made of ASCII letters and digits, and of more
// behind the first.
func isPlain(s, more string) bool {
	for i, c := range []byte(s) {
		if letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'; !letter && (i == 0 || !strings.ContainsRune(more, rune(c))) {
			return false
		}
	}
	return s != ""
}

// isLine reports whether s is a chip and a line of it, "gpiochip0:17".
func isLine(s string) bool {
	chip, line, _ := strings.Cut(s, ":")
	number, ok := strings.CutPrefix(chip, "gpiochip")
	return ok && between(number, 0, 9999) && between(line, 0, 65535)
}

func isUnit(s string) bool {
	return strings.Contains(s, ".") && !strings.ContainsAny(s, "/ \x00") && len(s) <= MaxName
}

// check returns what is wrong, in which field, and what to do about it.
func (r Reaction) check() (field, fix string, err error) {
	switch r.Do {
	case Tell, Prepare, Quarantine, BlockUSB:
		if r.Target != "" {
			return "target", "remove target", fmt.Errorf("%s has no target: what it means is configured on the device", r.Do)
		}
	case Freeze:
		if r.Target == "" || len(r.Target) > MaxName || path.Clean("/"+r.Target) != "/"+r.Target {
			return "target", `write target = "medical.slice"`, fmt.Errorf("freeze: %q is not a clean cgroup path below the root", r.Target)
		}
	case Signal:
		if !path.IsAbs(r.Target) || path.Clean(r.Target) != r.Target || len(r.Target) > MaxName {
			return "target", `write target = "/usr/bin/pump"`, fmt.Errorf("signal: %q is not the clean absolute path of an executable", r.Target)
		}
		if !slices.Contains([]uint8{9, 15, 19}, r.Signal) {
			return "signal", "write signal = 15 (TERM), 9 (KILL) or 19 (STOP)", fmt.Errorf("signal %d is not one of 9, 15, 19", r.Signal)
		}
	case StopUnit, MaskUnit:
		if !isUnit(r.Target) {
			return "target", `write target = "pump.service"`, fmt.Errorf("%s: %q is not a unit name", r.Do, r.Target)
		}
	case GPIO:
		if !isLine(r.Target) {
			return "target", `write target = "gpiochip0:17"`, fmt.Errorf("gpio: %q is not a chip and a line", r.Target)
		}
	case LED:
		if !isPlain(r.Target, "._:-") || len(r.Target) > MaxName {
			return "target", `write target = "red:alarm", a name in /sys/class/leds`, fmt.Errorf("led: %q is not the name of a LED", r.Target)
		}
	case Beep:
		if r.Target == "" || len(r.Target) > MaxName || path.Clean("/"+r.Target) != "/"+r.Target {
			return "target", `write target = "event0", or a path below /dev/input`, fmt.Errorf("beep: %q is not a clean path below /dev/input", r.Target)
		}
	case Sysfs:
		if !isBelow(r.Target, "/sys") || path.Clean(r.Target) != r.Target || len(r.Target) > MaxName {
			return "target", `write target = "/sys/..."`, fmt.Errorf("sysfs: %q is not a clean path below /sys", r.Target)
		}
	case Hook:
		if !isPlain(r.Target, "-") || strings.ToLower(r.Target) != r.Target || len(r.Target) > 32 {
			return "target", `write target = "relay": lower-case letters, digits and -`, fmt.Errorf("hook: %q is not the name of a hook", r.Target)
		}
	default:
		return "do", `write do = "` + strings.Join(reactionNames[1:], `", "`) + `"`, fmt.Errorf("unknown step %d", r.Do)
	}
	if r.Do != Signal && r.Signal != 0 {
		return "signal", "remove signal", fmt.Errorf("%s takes no signal", r.Do)
	}
	if err := r.checkPeers(); err != nil {
		return "peers", `write peers = ["192.0.2.7", "2001:db8::/64"], in a quarantine`, err
	}
	if err := r.checkValue(); err != nil {
		return "value", "write the value that the step needs, as text", err
	}
	return "", "", nil
}

func (r Reaction) checkPeers() error {
	if len(r.Peers) > 0 && r.Do != Quarantine {
		return fmt.Errorf("%s has no peers", r.Do)
	}
	if len(r.Peers) > MaxPeers {
		return fmt.Errorf("%d peers, the limit is %d", len(r.Peers), MaxPeers)
	}
	for _, p := range r.Peers {
		if _, _, err := ParsePeer(p); err != nil {
			return err
		}
	}
	return nil
}

// between reports whether s is a number in its usual spelling from low to high.
func between(s string, low, high int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && strconv.Itoa(n) == s && n >= low && n <= high
}

func (r Reaction) checkValue() error {
	switch r.Do {
	case GPIO:
		if !between(r.Value, 0, 1) {
			return fmt.Errorf("gpio: %q is neither 0 nor 1", r.Value)
		}
	case LED:
		if !between(r.Value, 0, 65535) {
			return fmt.Errorf("led: brightness %q is outside 0 to 65535", r.Value)
		}
	case Beep:
		if !between(r.Value, 20, 20000) {
			return fmt.Errorf("beep: %q Hz is outside 20 to 20000", r.Value)
		}
	case Sysfs:
		if r.Value == "" || len(r.Value) > MaxWrite || strings.TrimSpace(r.Value) != r.Value || strings.ContainsFunc(r.Value, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return fmt.Errorf("sysfs: %q is not one line of 1 to %d bytes without spaces around it", r.Value, MaxWrite)
		}
	default:
		if r.Value != "" {
			return errors.New(r.Do.String() + " has no value")
		}
	}
	return nil
}
