package listen

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/talk"
	"golang.org/x/sys/unix"
)

func sockets(t *testing.T) *Sockets {
	t.Helper()
	s, err := OpenSockets()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestSocketsOfThisProcess(t *testing.T) {
	s := sockets(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Log("NOT RUN: ", err)
			continue
		}
		defer l.Close()
		a, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for _, step := range []struct{ from, to net.Conn }{{a, b}, {b, a}} {
			if _, err := step.from.Write(make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(step.to, make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
		c := talk.Conn{Protocol: talk.TCP, Local: a.LocalAddr().(*net.TCPAddr).AddrPort(), Remote: a.RemoteAddr().(*net.TCPAddr).AddrPort()}
		x, err := s.Of(c)
		if err != nil {
			t.Fatal(err)
		}
		if x.Conn != c || x.UID != uint32(os.Getuid()) || x.State != stateEstablished || !x.Counted || x.In != 1000 {
			t.Errorf("%s: %+v", address, x)
		}
		all, listening, err := s.All()
		if err != nil {
			t.Fatal(err)
		}
		if !listening[c.Remote.Port()] || listening[c.Local.Port()] {
			t.Errorf("%s: listening %v", address, listening)
		}
		for _, want := range []talk.Conn{c, {Protocol: talk.TCP, Local: c.Remote, Remote: c.Local}} {
			if !slices.ContainsFunc(all, func(x Socket) bool { return x.Conn == want }) {
				t.Errorf("%s: no %v among all", address, want)
			}
		}
		c.Local = netip.AddrPortFrom(c.Local.Addr(), 1)
		if _, err := s.Of(c); !errors.Is(err, ErrNone) {
			t.Errorf("%s: of a connection that is not there: %v", address, err)
		}
	}
	u, err := net.Dial("udp", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	c := talk.Conn{Protocol: talk.UDP, Local: u.LocalAddr().(*net.UDPAddr).AddrPort(), Remote: u.RemoteAddr().(*net.UDPAddr).AddrPort()}
	x, err := s.Of(c)
	if errors.Is(err, ErrNone) {
		t.Fatal("no such UDP socket; the kernel needs CONFIG_INET_UDP_DIAG")
	}
	if err != nil || x.Conn != c || x.UID != uint32(os.Getuid()) {
		t.Errorf("UDP: %+v, %v", x, err)
	}
}

// A root with a unit, whose number is that of its folder.
func TestPrograms(t *testing.T) {
	root := t.TempDir()
	put := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	process := func(pid, name, uid string) {
		put("proc/"+pid+"/status", "Name:\t"+name+"\nState:\tS (sleeping)\nUid:\t"+uid+"\t"+uid+"\t"+uid+"\t"+uid+"\nGid:\t0\t0\t0\t0\n")
	}
	put("proc/self/mountinfo", "25 1 0:22 / /proc rw - proc proc rw\n30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n")
	process("10", "pumpd", "7")
	process("11", "pumpd", "7")
	process("12", "helper", "8")
	process("13", "sh", "0")
	process("14", "cron", "0")
	process("15", "alone", "9")
	put("sys/fs/cgroup/cgroup.procs", "")
	put("sys/fs/cgroup/system.slice/pump.service/cgroup.procs", "10\n11\n12\n99\n")
	put("sys/fs/cgroup/system.slice/two.service/cgroup.procs", "13\n14\n")
	number := func(path string) uint64 {
		info, err := os.Stat(filepath.Join(root, "sys/fs/cgroup", path))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	pump := number("system.slice/pump.service")
	for _, c := range []struct {
		what          string
		cgroup        uint64
		uid           uint32
		process, unit string
	}{
		{"its user's processes have one name", pump, 7, "pumpd", "system.slice/pump.service"},
		{"another user's", pump, 8, "helper", "system.slice/pump.service"},
		{"nobody's: all of the unit differ", pump, 0, "", "system.slice/pump.service"},
		{"two names", number("system.slice/two.service"), 0, "", "system.slice/two.service"},
		{"no cgroup, a user with one process", 0, 9, "alone", ""},
		{"no cgroup, a user with two", 0, 0, "", ""},
		{"no cgroup, nobody", 0, 77, "", ""},
		{"the root of cgroups", number(""), 9, "alone", ""},
		{"a cgroup that is gone", 1 << 40, 9, "alone", ""},
	} {
		process, unit := NewPrograms(root).Of(Socket{Cgroup: c.cgroup, UID: c.uid})
		if process != c.process || unit != c.unit {
			t.Errorf("%s: %q in %q, want %q in %q", c.what, process, unit, c.process, c.unit)
		}
	}
	// An answer is kept for a while, and then looked up again.
	p := NewPrograms(root)
	at := time.Unix(1, 0)
	p.now = func() time.Time { return at }
	p.Of(Socket{Cgroup: pump, UID: 7})
	process("11", "other", "7")
	if name, _ := p.Of(Socket{Cgroup: pump, UID: 7}); name != "pumpd" {
		t.Errorf("at once: %q", name)
	}
	at = at.Add(lookAgain)
	if name, _ := p.Of(Socket{Cgroup: pump, UID: 7}); name != "" {
		t.Errorf("later: %q", name)
	}
	put("sys/fs/cgroup/new.service/cgroup.procs", "15\n")
	if name, unit := p.Of(Socket{Cgroup: number("new.service"), UID: 9}); name != "alone" || unit != "new.service" {
		t.Errorf("a new unit: %q in %q", name, unit)
	}
}

// FuzzAnswers takes what the kernel would answer.
func FuzzAnswers(f *testing.F) {
	s, err := OpenSockets()
	if err != nil {
		f.Fatal(err)
	}
	defer s.Close()
	r := request{protocol: talk.TCP, states: 1<<stateEstablished | 1<<stateListen}
	if _, err := unix.Write(s.fd, r.encode(1)); err != nil {
		f.Fatal(err)
	}
	n, err := unix.Read(s.fd, s.buf)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(slices.Clone(s.buf[:n]))
	f.Add([]byte{20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		done, err := parse(b, 1, r, func(x Socket) {
			if x.Protocol != talk.TCP {
				t.Fatalf("%+v", x)
			}
		})
		if done && err != nil {
			t.Fatal(err)
		}
	})
}
