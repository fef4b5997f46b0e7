package quarantine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent/quarantine"
)

// A space is a network namespace of its own, and the thread that is in it.
type space struct {
	t   *testing.T
	run chan func()
	tid int
}

// newSpace returns a namespace whose loopback is up. What do runs is in it, and
// so are the programs it starts.
func newSpace(t *testing.T) *space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: a network namespace needs root")
	}
	s := &space{t: t, run: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		s.tid = unix.Gettid()
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range s.run {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(s.run) })
	s.tool("iproute2", "ip", "link", "set", "lo", "up")
	return s
}

func (s *space) do(f func()) {
	done := make(chan struct{})
	s.run <- func() { defer close(done); f() }
	<-done
}

func (s *space) tool(apt, name string, args ...string) string {
	s.t.Helper()
	var out []byte
	var err error
	s.do(func() { out, err = exec.Command(name, args...).CombinedOutput() })
	if err != nil {
		s.t.Fatalf("%s %s: %v (Debian package %s)\n%s", name, strings.Join(args, " "), err, apt, out)
	}
	return string(out)
}

func (s *space) ruleset() string { return s.tool("nftables", "nft", "-j", "list", "ruleset") }

const (
	verifier4, other4, console4 = "192.0.2.2", "192.0.2.3", "198.51.100.7"
	verifier6, other6           = "2001:db8::2", "2001:db8::3"
)

// newPair returns a device and what it can reach: the verifier, a console and
// others, by IPv4 and IPv6, at a server that echoes on each address.
func newPair(t *testing.T) (device, outside *space) {
	device, outside = newSpace(t), newSpace(t)
	device.tool("iproute2", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", fmt.Sprint(outside.tid))
	for _, a := range []string{"192.0.2.1/24", "198.51.100.1/24"} {
		device.tool("iproute2", "ip", "addr", "add", a, "dev", "v0")
	}
	device.tool("iproute2", "ip", "addr", "add", "2001:db8::1/64", "dev", "v0", "nodad")
	device.tool("iproute2", "ip", "link", "set", "v0", "up")
	for _, a := range []string{verifier4, other4, console4} {
		outside.tool("iproute2", "ip", "addr", "add", a+"/24", "dev", "v1")
	}
	for _, a := range []string{verifier6, other6} {
		outside.tool("iproute2", "ip", "addr", "add", a+"/64", "dev", "v1", "nodad")
	}
	outside.tool("iproute2", "ip", "link", "set", "v1", "up")
	for _, s := range []*space{device, outside} {
		for _, at := range []string{"0.0.0.0:8883", "0.0.0.0:22", "[::]:8883", "[::]:22"} {
			network := "tcp4"
			if at[0] == '[' {
				network = "tcp6"
			}
			s.do(func() {
				l, err := net.Listen(network, at)
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { l.Close() })
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						go func() { defer c.Close(); io.Copy(c, c) }()
					}
				}()
			})
		}
	}
	return device, outside
}

// reach connects and lets one byte go there and back.
func (s *space) reach(to string, wait time.Duration) (c net.Conn, err error) {
	s.do(func() {
		if c, err = net.DialTimeout("tcp", to, wait); err == nil {
			err = echo(c, wait)
		}
	})
	return c, err
}

func echo(c net.Conn, wait time.Duration) error {
	c.SetDeadline(time.Now().Add(wait))
	_, err := c.Write([]byte{1})
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	return err
}

const patience, impatience = 10 * time.Second, 150 * time.Millisecond

func peers() []quarantine.Peer {
	return []quarantine.Peer{
		{Net: netip.MustParsePrefix(verifier4 + "/32"), Port: 8883},
		{Net: netip.MustParsePrefix(verifier6 + "/128")},
		{Net: netip.MustParsePrefix("198.51.100.0/25")},
	}
}

const foreign = `
table inet hospital {
	chain in {
		type filter hook input priority 10; policy accept;
		tcp dport 23 drop
	}
}
table ip miotfacts_quarantine {
	set s {
		type ipv4_addr
		elements = { 203.0.113.9 }
	}
}
table ip6 nat6 {
	chain c {
		type nat hook postrouting priority 100;
	}
}
`

// TestQuarantine closes the network of a namespace and opens it again.
func TestQuarantine(t *testing.T) {
	device, outside := newPair(t)
	file := t.TempDir() + "/foreign"
	if err := os.WriteFile(file, []byte(foreign), 0o600); err != nil {
		t.Fatal(err)
	}
	device.tool("nftables", "nft", "-f", file)
	before := device.ruleset()

	established, err := device.reach(other4+":8883", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer established.Close()
	kept, err := device.reach(verifier4+":8883", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()

	for range 2 { // the second time nothing is to be done
		device.do(func() { err = (quarantine.Network{}).Close(t.Context(), peers()) })
		if err != nil {
			t.Fatal(err)
		}
		var closed bool
		device.do(func() { closed, err = (quarantine.Network{}).Closed(t.Context(), peers()) })
		if err != nil || !closed {
			t.Fatalf("read back: closed %v, %v\n%s", closed, err, device.ruleset())
		}
	}
	for _, tt := range []struct {
		from *space
		to   string
		open bool
	}{
		{device, "127.0.0.1:22", true}, {device, "[::1]:22", true}, {device, "192.0.2.1:22", true},
		{device, verifier4 + ":8883", true}, {device, verifier4 + ":22", false},
		{device, "[" + verifier6 + "]:8883", true}, {device, "[" + verifier6 + "]:22", true},
		{device, console4 + ":22", true},
		{device, other4 + ":8883", false}, {device, "[" + other6 + "]:8883", false},
		{outside, "198.51.100.1:22", true}, // from the console's address
		{outside, "192.0.2.1:22", false},   // from an address of the verifier, not from its port
	} {
		wait := patience
		if !tt.open {
			wait = impatience
		}
		c, err := tt.from.reach(tt.to, wait)
		if (err == nil) != tt.open {
			t.Errorf("to %s: %v, want open %v", tt.to, err, tt.open)
		}
		if c != nil {
			c.Close()
		}
	}
	if err := echo(established, impatience); err == nil {
		t.Error("an established flow to others goes on")
	}
	if err := echo(kept, patience); err != nil {
		t.Errorf("the established flow to the verifier: %v", err)
	}
	if now := without(device.ruleset()); now != without(before) {
		t.Errorf("foreign tables while closed:\n%s\nbefore:\n%s", now, before)
	}

	for range 2 {
		device.do(func() { err = (quarantine.Network{}).Open(t.Context()) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if after := device.ruleset(); after != before {
		t.Errorf("after:\n%s\nbefore:\n%s", after, before)
	}
	c, err := device.reach(other4+":8883", patience)
	if err != nil {
		t.Errorf("to others, opened again: %v", err)
	} else {
		c.Close()
	}
}

// without leaves out what stands in the table of the quarantine.
func without(ruleset string) string {
	var all struct {
		Objects []map[string]map[string]any `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(ruleset), &all); err != nil {
		return err.Error()
	}
	all.Objects = slices.DeleteFunc(all.Objects, func(o map[string]map[string]any) bool {
		for kind, x := range o {
			if x["family"] == "inet" && (x["table"] == quarantine.Table || kind == "table" && x["name"] == quarantine.Table) {
				return true
			}
		}
		return false
	})
	return fmt.Sprint(all.Objects)
}

// TestChanged holds that a table which says something else is noticed and put right.
func TestChanged(t *testing.T) {
	device := newSpace(t)
	name := quarantine.Table
	for _, command := range []string{
		"delete table inet " + name, "flush ruleset", "flush table inet " + name, "flush chain inet " + name + " forward",
		"insert rule inet " + name + " output accept", "add rule inet " + name + " input tcp dport 22 accept",
		"add chain inet " + name + " more", "chain inet " + name + " input { policy accept; }",
		"add table inet " + name + " { flags dormant; }",
	} {
		var closed bool
		var err error
		device.do(func() { err = (quarantine.Network{}).Close(t.Context(), peers()) })
		if err != nil {
			t.Fatal(err)
		}
		device.tool("nftables", "nft", command)
		device.do(func() { closed, err = (quarantine.Network{}).Closed(t.Context(), peers()) })
		if err != nil || closed {
			t.Errorf("%s: closed %v, %v", command, closed, err)
		}
		device.do(func() {
			if err = (quarantine.Network{}).Close(t.Context(), peers()); err == nil {
				closed, err = (quarantine.Network{}).Closed(t.Context(), peers())
			}
		})
		if err != nil || !closed {
			t.Errorf("put right after %s: closed %v, %v", command, closed, err)
		}
		device.do(func() { closed, err = (quarantine.Network{}).Closed(t.Context(), peers()[1:]) })
		if err != nil || closed {
			t.Errorf("closed for other peers: %v, %v", closed, err)
		}
	}
	var present bool
	var err error
	device.do(func() { present, err = (quarantine.Network{}).Present(t.Context()) })
	if !present || err != nil {
		t.Errorf("present %v, %v", present, err)
	}
}

// A program without the right is refused and told so.
func TestForbidden(t *testing.T) {
	device := newSpace(t)
	var err error
	device.do(func() {
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err = unix.Capget(&hdr, &data[0]); err != nil {
			return
		}
		data[0].Effective &^= 1 << unix.CAP_NET_ADMIN // of this thread, which ends with the test
		if err = unix.Capset(&hdr, &data[0]); err == nil {
			err = (quarantine.Network{}).Close(t.Context(), nil)
		}
	})
	if !errors.Is(err, quarantine.ErrForbidden) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := (quarantine.Network{}).Close(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Who holds a socket of a network closes that, and not the one it is in, as often as
// it likes and whatever was left unread.
func TestThroughASocket(t *testing.T) {
	there, here := newSpace(t), newSpace(t)
	var socket *os.File
	there.do(func() {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		}
		if err != nil {
			t.Error(err)
			return
		}
		socket = os.NewFile(uintptr(fd), "netfilter")
	})
	if socket == nil {
		t.FailNow()
	}
	defer socket.Close()
	peers := []quarantine.Peer{{Net: netip.MustParsePrefix("192.0.2.2/32"), Port: 8883}}
	through := quarantine.Network{Socket: socket}
	in := func(s *space) (present bool) {
		t.Helper()
		var err error
		s.do(func() { present, err = (quarantine.Network{}).Present(t.Context()) })
		if err != nil {
			t.Fatal(err)
		}
		return present
	}
	for range 3 {
		here.do(func() {
			if err := through.Close(t.Context(), peers); err != nil {
				t.Error(err)
			}
			if closed, err := through.Closed(t.Context(), peers); err != nil || !closed {
				t.Errorf("closed %v, %v", closed, err)
			}
		})
		if !in(there) || in(here) {
			t.Fatalf("closed there %v, here %v", in(there), in(here))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		here.do(func() {
			if _, err := through.Present(ctx); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if err := through.Open(t.Context()); err != nil {
				t.Error(err)
			}
			if present, err := through.Present(t.Context()); err != nil || present {
				t.Errorf("present %v, %v", present, err)
			}
		})
		if in(there) {
			t.Fatal("not opened")
		}
	}
}
