package failsafe

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent/quarantine"
	"github.com/miotfacts/miotfacts/reference"
)

func verifierPeers() []quarantine.Peer {
	return []quarantine.Peer{{Net: netip.MustParsePrefix("192.0.2.2/32"), Port: 8883}}
}

// ownNetwork runs functions in a network namespace of its own.
func ownNetwork(t *testing.T) func(func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: a network namespace needs root")
	}
	run, ready := make(chan func()), make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range run {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(run) })
	return func(f func()) {
		done := make(chan struct{})
		run <- func() { defer close(done); f() }
		<-done
	}
}

// A quarantine outlives its enforcer, is put right by the next one before it is
// ready, and ends with the resume.
func TestQuarantineOverRestart(t *testing.T) {
	in := ownNetwork(t)
	d := newDevice(t, func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{{Do: reference.Quarantine, Peers: []string{"2001:db8::7"}, Deadline: 5000}}
	})
	all := append(verifierPeers(), quarantine.Peer{Net: netip.MustParsePrefix("2001:db8::7/128")})
	closed := func() (is bool) {
		t.Helper()
		var err error
		in(func() { is, err = (quarantine.Network{}).Closed(t.Context(), all) })
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	var c *child
	in(func() { c = d.child() })
	s, err := c.client.Pause(ctx10(t), crossing())
	if err != nil {
		t.Fatal(err)
	}
	for s.Phase != PhasePaused {
		if s, err = c.client.Status(ctx10(t)); err != nil {
			t.Fatal(err)
		}
	}
	if !s.Effects[0].Done || s.Effects[0].Observed != "closed but for [192.0.2.2:8883 2001:db8::7]" || !closed() {
		t.Fatalf("%+v, closed %v", s.Effects, closed())
	}
	c.kill()
	if !closed() {
		t.Error("it ended with its enforcer")
	}
	in(func() { err = (quarantine.Network{}).Open(t.Context()) })
	if err != nil || closed() {
		t.Fatal(err)
	}
	in(func() { c = d.child() })
	if !closed() {
		t.Error("not put right when the enforcer is ready")
	}
	if _, err := c.client.Resume(ctx10(t), d.resume(s.PauseID, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	for s.Phase != PhaseClear {
		if s, err = c.client.Status(ctx10(t)); err != nil {
			t.Fatal(err)
		}
	}
	var present bool
	in(func() { present, err = (quarantine.Network{}).Present(t.Context()) })
	if present || err != nil || len(s.Effects) != 1 || s.Effects[0].Observed != "opened" {
		t.Errorf("present %v, %v, %+v", present, err, s.Effects)
	}
}

// An enforcer that is not in the device's network closes it through a socket that
// is, and refuses one of another network.
func TestQuarantineThroughASocket(t *testing.T) {
	device, own := ownNetwork(t), ownNetwork(t)
	var socket *os.File
	var network string
	device(func() {
		network = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		if fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER); err == nil {
			socket = os.NewFile(uintptr(fd), "netfilter")
		}
	})
	if socket == nil {
		t.Fatal("no socket")
	}
	defer socket.Close()
	r := reference.Reaction{Do: reference.Quarantine, Deadline: 1000}
	h := &hands{network: network, verifier: verifierPeers(), filter: quarantine.Network{Socket: socket}}
	var words string
	var err error
	own(func() { words, err = h.pause(t.Context(), r, nil, new(remember).before) })
	var there, here bool
	device(func() { there, _ = (quarantine.Network{}).Closed(t.Context(), verifierPeers()) })
	own(func() { here, _ = (quarantine.Network{}).Present(t.Context()) })
	if err != nil || !strings.HasPrefix(words, "closed but for") || !there || here {
		t.Errorf("%q, %v, closed there %v, here %v", words, err, there, here)
	}
	own(func() { words, err = h.resume(t.Context(), r, nil, nil) })
	device(func() { there, _ = (quarantine.Network{}).Present(t.Context()) })
	if err != nil || there {
		t.Errorf("%q, %v, closed there %v", words, err, there)
	}
	h.network = "/proc/self/ns/net"
	own(func() { _, err = h.pause(t.Context(), r, nil, new(remember).before) })
	if err == nil || !strings.Contains(err.Error(), "not in the device's network") {
		t.Errorf("another's socket: %v", err)
	}
}

// When the network must not be closed, it is not, and the reason is said.
func TestQuarantineRefused(t *testing.T) {
	in := ownNetwork(t)
	r := reference.Reaction{Do: reference.Quarantine, Deadline: 1000}
	for words, h := range map[string]*hands{
		"no address of the verifier":         {network: "/proc/thread-self/ns/net"},
		"not in the device's network":        {network: fmt.Sprintf("/proc/%d/ns/net", os.Getppid()), verifier: verifierPeers()},
		"cannot tell the device's network":   {network: "/nonexistent", verifier: verifierPeers()},
		"never to be touched: network is on": {network: "/proc/thread-self/ns/net", verifier: verifierPeers(), neverTouch: []string{"network"}},
	} {
		var err error
		var present bool
		in(func() {
			_, err = h.pause(t.Context(), r, nil, new(remember).before)
			present, _ = (quarantine.Network{}).Present(t.Context())
		})
		if err == nil || !strings.Contains(err.Error(), words) || present {
			t.Errorf("%s: %v, present %v", words, err, present)
		}
	}
}

func TestVerifierPeers(t *testing.T) {
	for _, tt := range []struct {
		configured []string
		broker     string
		want       string
		ok         bool
	}{
		{nil, "192.0.2.2:8883", "192.0.2.2:8883", true}, {nil, "[2001:db8::2]:8883", "[2001:db8::2]:8883", true},
		{nil, "verifier.example:8883", "", true}, {nil, "", "", true}, {nil, "127.0.0.1:8883", "", true}, {nil, "[::1]:8883", "", true},
		{[]string{"198.51.100.0/25", "192.0.2.53:53"}, "192.0.2.2:8883", "198.51.100.0/25 192.0.2.53:53", true},
		{[]string{"verifier.example"}, "", "", false}, {[]string{"0.0.0.0/0"}, "", "", false},
	} {
		got, err := VerifierPeers(tt.configured, tt.broker)
		var words []string
		for _, p := range got {
			words = append(words, p.String())
		}
		if strings.Join(words, " ") != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q, %q: %q, %v", tt.configured, tt.broker, words, err)
		}
	}
}
