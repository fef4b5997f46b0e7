package mqtt_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/facts/linux"
)

// farAddress is the broker's at the other end of a cable.
var farAddress = net.IPv4(192, 0, 2, 1)

// inNamespace says that the test runs in a network namespace that may be changed.
const inNamespace = "MIOTFACTS_NETWORK_NAMESPACE"

// apart runs the test or benchmark that calls it once more, in a network
// namespace of its own, and reports whether it is there.
func apart(t testing.TB, flags ...string) bool {
	if os.Getenv(inNamespace) != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: a network namespace needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("ip is missing: install the package iproute2")
	}
	cmd := exec.CommandContext(t.Context(), "unshare", append([]string{"--net", os.Args[0]}, flags...)...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	out, err := cmd.CombinedOutput()
	if t.Logf("%s", out); err != nil {
		t.Error(err)
	}
	return false
}

// A cable connects this network namespace with that of a broker.
type cable struct {
	t      testing.TB
	broker *mosquitto
}

func newCable(t testing.TB, ca *pki) *cable {
	t.Helper()
	// The broker listens before there is an address.
	b := newMosquittoAt(t, ca, "0.0.0.0:8883")
	b.apart = true
	b.start()
	b.address = net.JoinHostPort(farAddress.String(), "8883")
	c := &cable{t, b}
	c.ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", fmt.Sprint(b.cmd.Process.Pid))
	t.Cleanup(func() { c.ip("link", "delete", "near") })
	c.far("address", "add", farAddress.String()+"/24", "dev", "far")
	return c
}

func (c *cable) ip(args ...string) {
	c.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		c.t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

// far is ip at the broker's end.
func (c *cable) far(args ...string) {
	c.t.Helper()
	c.farTool("ip", args...)
}

// farTool runs a tool at the broker's end.
func (c *cable) farTool(tool string, args ...string) {
	c.t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		c.t.Fatalf("%s is missing: install the packages iproute2 and nftables", tool)
	}
	args = append([]string{fmt.Sprint("--net=/proc/", c.broker.cmd.Process.Pid, "/ns/net"), tool}, args...)
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		c.t.Fatalf("nsenter %v: %v\n%s", args, err, out)
	}
}

// watchNetwork is what factsd has: the kernel tells of changes.
func watchNetwork(t testing.TB) <-chan struct{} {
	t.Helper()
	root, err := linux.OpenRoot("/")
	if err != nil {
		t.Fatal(err)
	}
	events := linux.NewEvents(root, linux.Options{}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	ended, opened := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		defer close(ended)
		events.Watch(ctx, func(facts.Key) {
			select {
			case opened <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	<-opened
	return events.Network()
}

// TestReportsOnceTheNetworkIsThere gives a device its network while it would wait
// for minutes: it is told of the change, and reports.
func TestReportsOnceTheNetworkIsThere(t *testing.T) {
	if !apart(t, "-test.run=^TestReportsOnceTheNetworkIsThere$", "-test.v", "-test.timeout=2m") {
		return
	}
	for _, tt := range []struct {
		name   string
		before func(c *cable)
		then   func(c *cable)
		failed bool // there is a failure before the network is there; else an attempt hangs
	}{
		{"an address comes", func(c *cable) { c.far("link", "set", "far", "up"); c.ip("link", "set", "near", "up") },
			func(c *cable) { c.ip("address", "add", "192.0.2.2/24", "dev", "near") }, true},
		{"a link comes up", func(c *cable) {
			c.far("link", "set", "far", "up")
			c.ip("address", "add", "192.0.2.2/24", "dev", "near")
		}, func(c *cable) { c.ip("link", "set", "near", "up") }, true},
		{"a cable is plugged in", func(c *cable) {
			c.ip("address", "add", "192.0.2.2/24", "dev", "near")
			c.ip("link", "set", "near", "up")
		}, func(c *cable) { c.far("link", "set", "far", "up") }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ca := newPKI(t)
			c := newCable(t, ca)
			tt.before(c)
			sp := newSpool(t)
			add(t, sp, spool.Routine, "report", "the first")
			cfg := config(c.broker.addr(), ca)
			cfg.MinBackoff, cfg.MaxBackoff = 10*time.Minute, 10*time.Minute
			cfg.Changed = watchNetwork(t)
			r := start(t, cfg, sp, nil)
			until(t, "an attempt", func() bool {
				if tt.failed {
					return r.Stats().Failures > 0
				}
				return slices.ContainsFunc(strings.Split(procTCP(t), "\n"), func(line string) bool {
					f := strings.Fields(line)
					return len(f) > 3 && f[3] == "02" // SYN_SENT, proc_net(5)
				})
			})
			began := time.Now()
			tt.then(c)
			until(t, "the first report", func() bool { return left(sp) == 0 })
			t.Logf("the first report after %v", time.Since(began).Round(time.Millisecond))
		})
	}
}

// TestFindsDeadConnection loses a connection in the network, as a firewall does that
// forgot it: what was sent on it is missed before a ping would be, and arrives on the
// next connection.
func TestFindsDeadConnection(t *testing.T) {
	if !apart(t, "-test.run=^TestFindsDeadConnection$", "-test.v", "-test.timeout=2m") {
		return
	}
	ca := newPKI(t)
	c := newCable(t, ca)
	c.far("link", "set", "far", "up")
	c.ip("address", "add", "192.0.2.2/24", "dev", "near")
	c.ip("link", "set", "near", "up")
	sp := newSpool(t)
	cfg := config(c.broker.addr(), ca)
	cfg.KeepAlive = time.Minute / 4
	r := start(t, cfg, sp, nil)
	add(t, sp, spool.Routine, "report", "before")
	until(t, "a connection in use", func() bool { return r.Stats().Done == 1 })

	var port uint16
	for line := range strings.Lines(procTCP(t)) {
		f := strings.Fields(line)
		if len(f) > 3 && f[3] == "01" { // ESTABLISHED, proc_net(5)
			if _, err := fmt.Sscanf(f[1][strings.Index(f[1], ":")+1:], "%x", &port); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, rule := range []string{"add table ip lost", "add chain ip lost in { type filter hook input priority 0; }", fmt.Sprintf("add rule ip lost in tcp sport %d drop", port)} {
		c.farTool("nft", rule)
	}
	add(t, sp, spool.Alarm, "report", "the alarm")
	until(t, "the end of the dead connection", func() bool { return r.Stats().Err != "" })
	if said := r.Stats().Err; !strings.Contains(said, "connection timed out") {
		t.Errorf("the connection ended by %q, want TCP's own time-out", said)
	}
	until(t, "the alarm", func() bool { return left(sp) == 0 })
}

func procTCP(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// BenchmarkFirstReport measures from the network's being there to the broker's
// acknowledgement of the first report.
func BenchmarkFirstReport(b *testing.B) {
	if !apart(b, "-test.run=^$", "-test.bench=^BenchmarkFirstReport$", "-test.benchtime=20x") {
		return
	}
	ca := newPKI(b)
	c := newCable(b, ca)
	c.far("link", "set", "far", "up")
	changed := watchNetwork(b)
	var took []time.Duration
	for b.Loop() {
		c.ip("link", "set", "near", "down")
		sp := newSpool(b)
		add(b, sp, spool.Routine, "report", "the first")
		cfg := config(c.broker.addr(), ca)
		cfg.MinBackoff, cfg.MaxBackoff = 10*time.Minute, 10*time.Minute
		cfg.Changed = changed
		r := start(b, cfg, sp, nil)
		until(b, "an attempt", func() bool { return r.Stats().Failures > 0 })
		c.ip("address", "replace", "192.0.2.2/24", "dev", "near")
		began := time.Now()
		c.ip("link", "set", "near", "up")
		until(b, "the first report", func() bool { return left(sp) == 0 })
		took = append(took, time.Since(began))
		r.stop()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms/median")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms/longest")
	b.ReportMetric(0, "ns/op")
}
