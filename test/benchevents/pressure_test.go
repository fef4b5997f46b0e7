package benchevents

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts/linux"
)

// The environment of a process that this one starts: one that is to open files,
// and the one that measures.
const (
	opening   = "BENCH_PRESSURE_OPEN"
	measuring = "BENCH_PRESSURE_AS"
)

// resources are the files of pressure, in the order in which they are passed.
// The third is for the witness.
var resources = []string{"cpu", "memory", "cpu"}

func TestMain(m *testing.M) {
	if os.Getenv(opening) != "" {
		if err := open(3); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// open opens the files and sends them over a socket.
func open(socket int) error {
	var fds []int
	for _, r := range resources {
		fd, err := unix.Open("/proc/pressure/"+r, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		fds = append(fds, fd)
	}
	return unix.Sendmsg(socket, []byte{0}, unix.UnixRights(fds...), nil, 0)
}

// openElsewhere has the files opened by a process without CAP_SYS_RESOURCE, or by
// root of another user namespace: what the kernel looks at is whether who opened
// them had it, wherever.
func openElsewhere(privileged bool) ([]*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), ""), os.NewFile(uintptr(pair[1]), "")
	defer ours.Close()
	defer theirs.Close()
	cmd := exec.Command("setpriv", "--bounding-set", "-sys_resource", os.Args[0])
	if privileged {
		cmd = exec.Command(os.Args[0])
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
	}
	cmd.Env = []string{opening + "=1"}
	cmd.ExtraFiles = []*os.File{theirs}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot open files of pressure (setpriv is in the package util-linux): %w: %s", err, out)
	}
	oob := make([]byte, unix.CmsgSpace(4*len(resources)))
	_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), make([]byte, 1), oob, 0)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("no files came: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "pressure"))
	}
	return files, nil
}

// BenchmarkPressure measures how long it takes from when more wants to run than
// there are processors until the kernel tells of it, and from then until the
// agent has compared. The agent gets files that another process opened, as systemd
// does by OpenFile=.
func BenchmarkPressure(b *testing.B) {
	if os.Getenv("BENCH_EVENTS") == "" || os.Getuid() != 0 {
		b.Skip("NOT RUN: it takes all processors, for a quarter of an hour; `make bench-pressure` does, as root")
	}
	if as := os.Getenv(measuring); as != "" {
		measurePressure(b, as)
		return
	}
	for as, privileged := range map[string]bool{"short": true, "long": false} {
		files, err := openElsewhere(privileged)
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^$' -test.bench '^BenchmarkPressure$' -test.benchtime 1x -test.timeout 60m`, os.Args[0])
		cmd.Env = append(os.Environ(), measuring+"="+as, "LISTEN_FDS=2", "LISTEN_FDNAMES=pressure-cpu:pressure-memory")
		cmd.Stderr = os.Stderr
		cmd.ExtraFiles = files
		if out, err := cmd.Output(); err != nil {
			b.Fatalf("%s: %v\n%s", as, err, out)
		}
	}
}

// A witness has a trigger of its own, to learn when the kernel told. Agent and
// witness are told in the same moment: their triggers are alike and were set
// together, so that the kernel holds both back for as long after the last time.
type witness struct {
	fd     int
	window time.Duration
	told   chan time.Time
	fifo   bool // it gets a processor at once
}

func newWitness(b *testing.B, as string) *witness {
	b.Helper()
	w := &witness{fd: 5, window: 500 * time.Millisecond, told: make(chan time.Time, 1)}
	trigger := "some 25000 500000" // as in facts/linux
	if as == "long" {
		w.window, trigger = 2*time.Second, "some 200000 2000000"
	}
	for _, fd := range []int{3, w.fd} {
		if _, err := unix.Write(fd, append([]byte(trigger), 0)); err != nil {
			b.Fatal("cannot set a trigger: ", err)
		}
	}
	started := make(chan bool)
	go func() {
		runtime.LockOSThread()
		started <- unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0) == nil
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLPRI}}, -1)
			now := time.Now()
			if n == 1 && err == nil {
				select {
				case w.told <- now:
				default:
				}
			}
		}
	}()
	w.fifo = <-started
	return w
}

// burners are processes that want to run when they are let.
func burners(b *testing.B) (run, rest func()) {
	b.Helper()
	first := exec.Command("sh", "-c", "while :; do :; done")
	all := []*exec.Cmd{first}
	first.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := first.Start(); err != nil {
		b.Fatal(err)
	}
	for range 2*runtime.NumCPU() - 1 {
		c := exec.Command("sh", "-c", "while :; do :; done")
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: first.Process.Pid, Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		all = append(all, c)
	}
	group := -first.Process.Pid
	b.Cleanup(func() {
		unix.Kill(group, unix.SIGKILL)
		for _, c := range all {
			c.Wait()
		}
	})
	unix.Kill(group, unix.SIGSTOP)
	return func() { unix.Kill(group, unix.SIGCONT) }, func() { unix.Kill(group, unix.SIGSTOP) }
}

// abreast is by how much the agent may have been faster than the witness.
const abreast = time.Millisecond

func measurePressure(b *testing.B, as string) {
	b.StopTimer()
	dir := b.TempDir()
	runtime.LockOSThread() // Pdeathsig is of the thread
	run, rest := burners(b)
	w := newWitness(b, as)
	runtime.GOMAXPROCS(2) // factsd's own, and one for the witness
	st, _ := start(b, dir, filepath.Join(dir, "app.sock"), linux.Options{Services: true})
	st.mu.Lock()
	st.watched = keyOf(b, "cpu.pressure")
	st.mu.Unlock()
	n := samples
	if s := os.Getenv("BENCH_PRESSURE_N"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	var kernel, ours, all []time.Duration
	for range n {
		// Calm for longer than a window, and never in step with the kernel.
		<-time.After(w.window + 200*time.Millisecond + rand.N(w.window))
		for len(w.told)+len(st.told) > 0 {
			select {
			case <-w.told:
			case <-st.told:
			}
		}
		begin := time.Now()
		run()
		var told time.Time
		timeout := time.After(10 * time.Second)
		select {
		case told = <-w.told:
		case <-timeout:
			b.Fatal("the kernel told nothing within 10 s")
		}
		for l := (look{}); l.read.Before(told.Add(-abreast)); {
			select {
			case l = <-st.told:
			case <-timeout:
				b.Fatal("no round saw the event within 10 s")
			}
			if !l.read.Before(told.Add(-abreast)) {
				kernel, ours, all = append(kernel, told.Sub(begin)), append(ours, max(l.compared.Sub(told), 0)), append(all, l.compared.Sub(begin))
			}
		}
		rest()
	}
	out := &bytes.Buffer{}
	how := map[string]string{"short": "files opened by who has CAP_SYS_RESOURCE, trigger of 25 ms in 500 ms", "long": "files opened by who has it not, trigger of 200 ms in 2 s"}[as]
	fmt.Fprintf(out, "%s\n%-38s %8s %12s %12s\n", how, "", "stalls", "median ms", "worst ms")
	print(out, "from the stall until the kernel tells", kernel)
	print(out, "from there to the comparison", ours)
	print(out, "both", all)
	met := "met"
	if late := ours[len(ours)-1]; late > goal {
		met = "MISSED"
	}
	fmt.Fprintf(out, "goal %.0f ms after the kernel told: %s", ms(goal), met)
	if !w.fifo {
		fmt.Fprint(out, " (no real-time scheduling for the witness: the first line is too long, the second too short)")
	}
	fmt.Fprintf(out, "\n")
	os.Stderr.Write(out.Bytes())
}
