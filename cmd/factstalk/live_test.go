package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/talk"
	"golang.org/x/sys/unix"
)

// A namespace is a network of its own.
type namespace struct{ file *os.File }

// newNamespace makes one. Its thread ends with the goroutine that was locked to it.
func newNamespace(t testing.TB) namespace {
	t.Helper()
	type made struct {
		file *os.File
		err  error
	}
	ready := make(chan made)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- made{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		ready <- made{f, err}
	}()
	m := <-ready
	if m.err != nil {
		t.Skipf("NOT RUN: cannot make a network of its own: %v", m.err)
	}
	t.Cleanup(func() { m.file.Close() })
	return namespace{m.file}
}

// command is a program that will run in the namespace.
func (n namespace) command(name string, args ...string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{"--net=/proc/self/fd/3", name}, args...)...)
	c.ExtraFiles = []*os.File{n.file}
	return c
}

// in runs f on a thread in the namespace. A socket stays where it was made.
func (n namespace) in(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A lab is a device and the world that it talks to, joined by a cable that cuts
// what is long into segments, before anybody hears it.
type lab struct {
	device, world namespace
	dir, program  string
}

func newLab(t testing.TB) *lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: networks of its own need root")
	}
	l := &lab{device: newNamespace(t), world: newNamespace(t)}
	var err error
	if l.dir, err = os.MkdirTemp("", "miotfacts-talk-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(l.dir) })
	state := filepath.Join(l.dir, "state")
	if err := errors.Join(os.Chmod(l.dir, 0o755), os.Mkdir(state, 0o700), os.Chown(state, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	l.program = build(t)
	join := l.device.command("sh", "-ec", `ip link set lo up
ip link add device type veth peer name world
ip link set world netns /proc/self/fd/4
ip addr add 10.77.0.2/24 dev device
ip addr add fd77::2/64 dev device nodad
ip link set device gso_max_segs 1 up
ip route add default via 10.77.0.1`)
	join.ExtraFiles = append(join.ExtraFiles, l.world.file)
	for _, c := range []*exec.Cmd{join, l.world.command("sh", "-ec", `ip link set lo up
ip addr add 10.77.0.1/24 dev world
ip addr add fd77::1/64 dev world nodad
for i in 5 6 7 8; do ip addr add 203.0.113.$i/32 dev world; done
ip link set world gso_max_segs 1 up`)} {
		if out, err := c.CombinedOutput(); err != nil {
			t.Skipf("NOT RUN: cannot join two networks here: %v\n%s", err, out)
		}
	}
	return l
}

// build builds factstalk as it is shipped: without cgo.
func build(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "miotfacts-talk-") // others than root have to reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "factstalk")
	c := exec.Command("go", "build", "-o", bin, ".")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// A recording is a running factstalk.
type recording struct {
	cmd  *exec.Cmd
	file string
	said *bytes.Buffer
	ends chan error
}

// record starts factstalk in the device and waits until it listens.
func (l *lab) record(t testing.TB, extra string) *recording {
	t.Helper()
	r := &recording{file: filepath.Join(l.dir, "state/talk.record"), said: new(bytes.Buffer), ends: make(chan error, 1)}
	config := filepath.Join(l.dir, "factstalk.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "record = %q\nuser = \"nobody\"\n%s\n", r.file, extra), 0o644); err != nil {
		t.Fatal(err)
	}
	r.cmd = l.device.command(l.program, "run", "-config", config)
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan bool, 1)
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(r.said, lines.Text())
			if strings.Contains(lines.Text(), "msg=recording") {
				listening <- true
			}
		}
		r.ends <- r.cmd.Wait()
	}()
	select {
	case <-listening:
	case err := <-r.ends:
		t.Fatalf("factstalk: %v\n%s", err, r.said)
	case <-time.After(20 * time.Second):
		t.Fatal("factstalk does not listen")
	}
	t.Cleanup(func() { r.cmd.Process.Kill() })
	return r
}

// end ends it and returns what is in the file then.
func (r *recording) end(t testing.TB, s os.Signal) *talk.Record {
	t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	if err := <-r.ends; err != nil && s != os.Kill {
		t.Fatalf("factstalk: %v\n%s", err, r.said)
	}
	return r.read(t)
}

func (r *recording) read(t testing.TB) *talk.Record {
	t.Helper()
	data, err := durable.Read(r.file, talk.MaxRecord)
	if err != nil {
		t.Fatal(err)
	}
	record, err := talk.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// now lets it write and returns what it wrote.
func (r *recording) now(t testing.TB) *talk.Record {
	t.Helper()
	inode := func() uint64 {
		info, err := os.Stat(r.file)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	before := inode()
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a new file", func() bool { return inode() != before })
	return r.read(t)
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("no %s after 20 s", what)
		}
	}
}

// find returns the peer with an address and a port.
func find(t *testing.T, r *talk.Record, at string) talk.Peer {
	t.Helper()
	want := netip.MustParseAddrPort(at)
	for _, p := range r.Peers {
		if p.Address.Addr() == want.Addr() && p.Port == want.Port() {
			return p
		}
	}
	t.Errorf("no peer %s in %+v", at, r.Peers)
	return talk.Peer{}
}

// unit makes a cgroup with a name, if this machine lets us.
func unit(t *testing.T) (folder *os.File, name string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if before, after, ok := strings.Cut(line, " - "); ok && strings.HasPrefix(after, "cgroup2 ") {
			name = fmt.Sprintf("miotfacts-talk-%d.service", os.Getpid())
			path := filepath.Join(strings.Fields(before)[4], name)
			if err := os.Mkdir(path, 0o755); err != nil {
				t.Logf("NOT RUN: whether the unit is right: %v", err)
				return nil, ""
			}
			t.Cleanup(func() { waitFor(t, "empty cgroup", func() bool { return os.Remove(path) == nil }) })
			if folder, err = os.Open(path); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { folder.Close() })
			return folder, name
		}
	}
	t.Log("NOT RUN: whether the unit is right: no cgroup v2 here")
	return nil, ""
}

// A device talks to servers of openssl in both versions of TLS, to one without
// TLS that it found by DNS, by QUIC, and is called itself: all of it stands in
// the record, with the program that talked.
func TestWhomTheDeviceTalksTo(t *testing.T) {
	l := newLab(t)
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("openssl is not here (Debian package openssl)")
	}
	certify := exec.Command("sh", "-ec", `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj '/C=NL/O=Example Trust/CN=Example CA 1' 2>&1
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=cloud.maker.example 2>&1
i=0; names=DNS:cloud.maker.example; while [ $i -lt 150 ]; do i=$((i + 1)); names=$names,DNS:name-$i.maker.example; done
echo subjectAltName=$names > names.cnf # a certificate of several segments
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names.cnf -out server.pem 2>&1`)
	certify.Dir = l.dir
	if out, err := certify.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, args := range [][]string{{"203.0.113.5:443", "-tls1_2"}, {"203.0.113.6:443", "-tls1_3"}} {
		c := l.world.command(openssl, append([]string{"s_server", "-cert", "server.pem", "-key", "server.key", "-rev", "-quiet", "-accept"}, args...)...)
		c.Dir = l.dir
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	}
	plain, names := l.servers(t)
	defer plain.Close()
	defer names.Close()
	for _, address := range []string{"203.0.113.5:443", "203.0.113.6:443"} { // before anybody listens
		waitFor(t, "server "+address, func() bool {
			up := false
			l.device.in(t, func() error {
				conn, err := net.Dial("tcp", address)
				if err == nil {
					up = true
					conn.Close()
				}
				return nil
			})
			return up
		})
	}

	// Nor is there anything left of those connections that would still be heard.
	waitFor(t, "quiet", func() bool {
		table, err := l.device.command("cat", "/proc/net/tcp").Output()
		lines := strings.Split(strings.TrimSpace(string(table)), "\n")
		return err == nil && !slices.ContainsFunc(lines[1:], func(line string) bool { return strings.Fields(line)[3] != "06" }) // TIME_WAIT
	})

	r := l.record(t, "")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("factstalk keeps privileges: no %q", want)
		}
	}
	folder, name := unit(t)
	session := func(address, host string) {
		c := l.device.command(openssl, "s_client", "-connect", address, "-servername", host, "-quiet", "-no_ign_eof")
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 0}}
		if folder != nil {
			c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(folder.Fd())}
		}
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "olleh\n" {
			t.Fatalf("%s says %q, %v", address, line, err)
		}
		r.now(t) // the owner is asked for while there is one
		in.Close()
		c.Wait()
	}
	session("203.0.113.5:443", "Old.Maker.example")
	session("203.0.113.6:443", "cloud.maker.example")

	question := query("plain.maker.example")
	reply := bytesOf(512)
	size := 0
	l.device.in(t, func() error {
		conn, err := net.Dial("udp", "10.77.0.1:53")
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write(question); err != nil {
			return err
		}
		size, err = conn.Read(reply)
		return err
	})
	l.device.in(t, func() error {
		conn, err := net.Dial("tcp", "203.0.113.7:1883")
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "hello"); err != nil {
			return err
		}
		_, err = io.ReadFull(conn, bytesOf(7))
		return err
	})
	var six net.Listener
	l.world.in(t, func() (err error) { six, err = net.Listen("tcp", "[fd77::1]:1884"); return err })
	defer six.Close()
	l.device.in(t, func() error {
		conn, err := net.Dial("tcp", "[fd77::1]:1884")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.WriteString(conn, "hello")
		return err
	})
	if conn, err := six.Accept(); err != nil {
		t.Fatal(err)
	} else if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Fatal(err)
	} else {
		conn.Close()
	}
	l.device.in(t, func() error { // QUIC of RFC 9001, appendix A.2, which asks for example.com
		text, err := os.ReadFile("../../talk/testdata/quic-initial.hex")
		if err != nil {
			return err
		}
		first, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
		if err != nil {
			return err
		}
		conn, err := net.Dial("udp", "203.0.113.8:443")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write(first)
		return err
	})
	var called net.Listener
	l.device.in(t, func() (err error) { called, err = net.Listen("tcp", "10.77.0.2:2222"); return err })
	defer called.Close()
	l.world.in(t, func() error {
		conn, err := net.Dial("tcp", "10.77.0.2:2222")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = io.WriteString(conn, "SSH-2.0-x\r\n")
		return err
	})
	if conn, err := called.Accept(); err != nil {
		t.Fatal(err)
	} else if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Fatal(err)
	} else {
		conn.Close()
	}

	got := r.end(t, syscall.SIGTERM)
	process := ""
	if folder != nil {
		process = "openssl"
	}
	old := find(t, got, "203.0.113.5:443")
	if old.Name != "old.maker.example" || old.NameFrom != talk.FromSNI || old.TLS != talk.VersionTLS12 || old.Security != talk.SecurityTLS ||
		old.Issuer != "CN=Example CA 1,O=Example Trust,C=NL" || old.Process != process || old.Unit != name || !old.Counted || old.Out < 200 || old.In < 4000 || old.Attempts != 1 {
		t.Errorf("TLS 1.2: %+v", old)
	}
	modern := find(t, got, "203.0.113.6:443")
	if modern.Name != "cloud.maker.example" || modern.TLS != talk.VersionTLS13 || modern.Cipher>>8 != 0x13 || modern.Issuer != "" || modern.Process != process || modern.Unit != name || !modern.Counted || modern.Attempts != 1 {
		t.Errorf("TLS 1.3: %+v", modern)
	}
	if p := find(t, got, "203.0.113.7:1883"); p.Name != "plain.maker.example" || p.NameFrom != talk.FromDNS || p.Security != talk.SecurityNone || p.Out != 5 || p.In != 7 || p.Answered != 1 {
		t.Errorf("without TLS: %+v", p)
	}
	if p := find(t, got, "10.77.0.1:53"); p.Protocol != talk.UDP || p.Inbound || !p.Counted || p.Out != uint64(len(question)) || p.In != uint64(size) {
		t.Errorf("DNS: %+v, want %d and %d bytes", p, len(question), size)
	}
	if p := find(t, got, "203.0.113.8:443"); p.Name != "example.com" || p.Security != talk.SecurityQUIC || p.Counted {
		t.Errorf("QUIC: %+v", p)
	}
	if p := find(t, got, "10.77.0.1:2222"); !p.Inbound || p.In != 11 || p.Out != 0 || p.Name != "" {
		t.Errorf("called: %+v", p)
	}
	if p := find(t, got, "[fd77::1]:1884"); p.Out != 5 || p.In != 0 || p.Security != talk.SecurityNone || p.Inbound {
		t.Errorf("IPv6: %+v", p)
	}
	if len(got.Peers) != 7 || got.Loss.Dropped != 0 || got.Loss.Broken != 0 || got.Loss.Hellos != 0 {
		t.Errorf("%d peers, loss %+v", len(got.Peers), got.Loss)
	}
	if info, err := os.Stat(r.file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the record is open to others: %v, %v", info.Mode(), err)
	}
}

// servers are one without TLS and one for names.
func (l *lab) servers(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	var plain net.Listener
	var names net.PacketConn
	l.world.in(t, func() (err error) { plain, err = net.Listen("tcp", "203.0.113.7:1883"); return err })
	l.world.in(t, func() (err error) { names, err = net.ListenPacket("udp", "10.77.0.1:53"); return err })
	go func() {
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			io.ReadFull(conn, bytesOf(5))
			io.WriteString(conn, "welcome")
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	go func() {
		b := bytesOf(512)
		for {
			n, from, err := names.ReadFrom(b)
			if err != nil {
				return
			}
			answer := append([]byte(nil), b[:n]...)
			answer[2], answer[3], answer[7] = 0x81, 0x80, 1
			answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 7)
			names.WriteTo(answer, from)
		}
	}()
	return plain, names
}

func bytesOf(n int) []byte { return make([]byte, n) }

func query(name string) []byte {
	b := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0, 0, 1, 0, 1)
}

// An interface that is not there at the start is listened to when it has come,
// and no other is.
func TestInterfaceThatComesLater(t *testing.T) {
	l := newLab(t)
	knock := func(port int) {
		l.device.in(t, func() error {
			if conn, err := net.Dial("tcp", fmt.Sprintf("203.0.113.5:%d", port)); err == nil {
				conn.Close()
			}
			return nil
		})
	}
	r := l.record(t, `interfaces = ["later"]`)
	knock(1001)
	if got := r.now(t); len(got.Peers) != 0 || got.Loss.Packets != 0 {
		t.Errorf("another interface is heard: %+v", got)
	}
	if out, err := l.device.command("sh", "-ec", "ip link set device down; ip link set device name later; ip link set later up; ip route add default via 10.77.0.1").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.now(t) // it looks again
	knock(1002)
	// An address that is new as well is the device's.
	if out, err := l.device.command("ip", "addr", "add", "10.77.0.3/24", "dev", "later").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l.device.in(t, func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 77, 0, 3)}}
		if conn, err := d.Dial("tcp", "203.0.113.5:1003"); err == nil {
			conn.Close()
		}
		return nil
	})
	got := r.end(t, syscall.SIGTERM)
	if p := find(t, got, "203.0.113.5:1002"); p.Attempts != 1 || len(got.Peers) != 2 {
		t.Errorf("%+v", got)
	}
	if p := find(t, got, "203.0.113.5:1003"); p.Attempts != 1 || p.Inbound {
		t.Errorf("from a new address: %+v", p)
	}
	if !strings.Contains(r.said.String(), "interfaces are not there") {
		t.Errorf("it does not say so: %s", r.said)
	}
}

// More packets than the ring has room for, while nobody reads them: what is not
// in the record is counted in it.
func TestLossIsCounted(t *testing.T) {
	l := newLab(t)
	r := l.record(t, "")
	before := r.now(t).Loss
	signal := func(s os.Signal, state string) {
		if err := r.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "state "+state, func() bool {
			stat, err := os.ReadFile("/proc/" + strconv.Itoa(r.cmd.Process.Pid) + "/stat")
			return err == nil && strings.Contains(state, strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[0])
		})
	}
	signal(syscall.SIGSTOP, "T")
	const sent = 30000
	l.device.in(t, func() error {
		conn, err := net.ListenPacket("udp", "10.77.0.2:5000")
		if err != nil {
			return err
		}
		defer conn.Close()
		to := &net.UDPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 9} // nobody
		for i := range sent {
			if _, err := conn.WriteTo(binary.BigEndian.AppendUint32(nil, uint32(i)), to); err != nil {
				return err
			}
		}
		return nil
	})
	signal(syscall.SIGCONT, "SR")
	loss := r.end(t, syscall.SIGTERM).Loss
	if got := loss.Packets - before.Packets + loss.Dropped; loss.Dropped == 0 || got < sent || got > sent+50 {
		t.Errorf("%d packets seen and %d lost of %d", loss.Packets-before.Packets, loss.Dropped, sent)
	}
	t.Logf("%d of %d packets had no room in the ring while nobody read it", loss.Dropped, sent)
	if !strings.Contains(r.said.String(), "packets were lost") {
		t.Errorf("it does not say so: %s", r.said)
	}
}

// The file is bounded, goes on after a kill, and is whole whenever it comes.
func TestRecordSurvivesAndIsBounded(t *testing.T) {
	l := newLab(t)
	knock := func(from, to int) {
		l.device.in(t, func() error {
			for port := from; port < to; port++ {
				if conn, err := net.Dial("tcp", fmt.Sprintf("203.0.113.5:%d", port)); err == nil {
					conn.Close()
				}
			}
			return nil
		})
	}
	r := l.record(t, "rows = 5")
	knock(1000, 1040)
	first := r.now(t)
	if len(first.Peers) != 5 || first.Loss.Peers < 30 {
		t.Errorf("%d rows, loss %+v", len(first.Peers), first.Loss)
	}
	knock(2000, 2001)
	if after := r.end(t, os.Kill); after.Until != first.Until || len(after.Peers) != 5 {
		t.Errorf("after a kill the file is not what was written: %+v, %+v", first, after)
	}
	for i := range 8 {
		r = l.record(t, "rows = 5")
		knock(3000+i, 3001+i)
		for range i {
			if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		r.end(t, os.Kill)
	}
	r = l.record(t, "rows = 5")
	last := r.end(t, syscall.SIGTERM)
	if last.From != first.From || len(last.Peers) != 5 || last.Loss.Peers < first.Loss.Peers {
		t.Errorf("it does not go on: %+v, then %+v", first, last)
	}
	if info, err := os.Stat(r.file); err != nil || info.Size() > 5*200+200 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}

	// A damaged one is laid aside and said.
	if err := os.WriteFile(r.file, []byte("what was not written by us"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(r.file, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	r = l.record(t, "")
	if anew := r.end(t, syscall.SIGTERM); anew.Loss.Peers != 0 || len(anew.Peers) != 0 || !strings.Contains(r.said.String(), "the record is damaged") {
		t.Errorf("%+v\n%s", anew, r.said)
	}
	if data, err := os.ReadFile(r.file + ".damaged"); err != nil || string(data) != "what was not written by us" {
		t.Errorf("laid aside: %q, %v", data, err)
	}
}
