// Command benchfailsafe measures how long it takes from a value that crosses a
// fail-safe extreme, in the kernel, until the kernel says that the application's
// cgroup is frozen. The shipped programs run as on a device, with a verifier. An
// event fact crosses by a datagram to the application's socket, a fast fact by
// the end of a socket that listens. Beside them, in the same run, a bare write to
// cgroup.freeze of the same cgroup.
//
// It trusts the clock and the kernel's word in cgroup.events. The figures are of
// this machine and of the moment, with whatever else runs on it: compare lines of
// one run.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/test/lab"
)

// What is promised.
const (
	goalMedian = 20 * time.Millisecond
	goalWorst  = 100 * time.Millisecond
	period     = time.Second // of sampling; a fast fact may take one more
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "infusion":
			application(os.Args[2])
			return
		case "spin":
			for n := uint64(1); n != 0; n++ { // until it is killed
			}
		case "rewrite":
			rewrite(os.Args[2])
		}
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// application is told to pause and says ok. Its facts come from the bench.
func application(dir string) {
	l, err := net.Listen("unix", dir+"/tell.sock")
	if err == nil {
		err = os.WriteFile(dir+"/beats", []byte("0"), 0o600)
	}
	for err == nil {
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			line := make([]byte, 128)
			c.Read(line)
			fmt.Fprintln(c, "ok")
			c.Close()
		}
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	os.Exit(1)
}

// rewrite takes so many bytes of memory and writes to all its pages, over and over.
func rewrite(size string) {
	n, err := strconv.Atoi(size)
	if err != nil {
		os.Exit(2)
	}
	for b, v := make([]byte, n), byte(0); ; v++ {
		for i := 0; i < n; i += os.Getpagesize() {
			b[i] = v
		}
	}
}

// A load is what else the machine does meanwhile.
type load struct {
	name  string
	start func() ([]*exec.Cmd, error)
}

func loads(self string) []load {
	several := func(n int, argv ...string) ([]*exec.Cmd, error) {
		var all []*exec.Cmd
		for range n {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				return all, err
			}
			all = append(all, cmd)
		}
		return all, nil
	}
	return []load{
		{"idle", func() ([]*exec.Cmd, error) { return nil, nil }},
		{"cpu", func() ([]*exec.Cmd, error) { return several(runtime.NumCPU(), self, "spin") }},
		{"memory", func() ([]*exec.Cmd, error) {
			n, err := available()
			if err != nil {
				return nil, err
			}
			return several(1, self, "rewrite", strconv.Itoa(n/2))
		}},
		{"processes", func() ([]*exec.Cmd, error) {
			// In a namespace of their own they end with its first process.
			return several(1, "unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "i=0; while [ $i -lt 10000 ]; do sleep 3600 & i=$((i+1)); done; wait")
		}},
	}
}

// available returns the memory that is free for new work, in bytes.
func available() (int, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), "MemAvailable:")
	n, err := strconv.Atoi(strings.Fields(rest + " x")[0])
	return n << 10, err
}

// A bench is a device that is made to pause over and over.
type bench struct {
	*lab.Lab
	id      string
	enforce *failsafe.Client
	to      *net.UnixConn // the application's socket of factsd
	listens string        // address of the socket that has to be there
	socket  net.Listener
	events  *os.File
}

func run() (err error) {
	n := flag.Int("n", 200, "how many pauses for each line")
	only := flag.String("loads", "idle,cpu,memory,processes", "what else the machine does")
	kinds := flag.String("facts", "event,fast", "what crosses")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	l, err := lab.New(ctx)
	if err != nil {
		return err
	}
	defer l.Clean()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// As /run is on a device: in memory. The rest is where TMPDIR says.
	if l.Runtime, err = os.MkdirTemp("/dev/shm", "miotfacts-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(l.Runtime)
	b := &bench{Lab: l}
	if err := b.setUp(self); err != nil {
		return err
	}
	defer func() {
		if err != nil { // what the device said of itself
			for _, name := range []string{"run.log", "enforce.log"} {
				data, _ := os.ReadFile(b.Path(name))
				fmt.Fprintf(os.Stderr, "%s:\n%s\n", name, data[max(0, len(data)-4000):])
			}
		}
	}()
	fmt.Printf("From a crossing to the kernel's word that the application is frozen, %d pauses for each line.\n", *n)
	fmt.Printf("Goals: event fact median %v, worst %v; fast fact one period (%v) more.\n\n", goalMedian, goalWorst, period)
	fmt.Printf("%-10s %-22s %10s %10s %10s\n", "load", "what", "median", "p99", "worst")
	for _, load := range loads(self) {
		if !slices.Contains(strings.Split(*only, ","), load.name) {
			continue
		}
		if err := b.under(ctx, load, strings.Split(*kinds, ","), *n); err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
	}
	return nil
}

func (b *bench) under(ctx context.Context, load load, kinds []string, n int) error {
	procs, err := load.start()
	defer func() {
		for _, p := range procs {
			p.Process.Kill()
			p.Wait()
		}
	}()
	if err != nil {
		return err
	}
	if load.name == "processes" && !b.Until("10,000 processes", time.Minute, func() bool {
		data, _ := os.ReadFile("/proc/loadavg")
		_, count, _ := strings.Cut(strings.Fields(string(data) + " x x x x")[3], "/")
		have, _ := strconv.Atoi(count)
		return have > 10000
	}) {
		return errors.New("they did not start")
	}
	for _, what := range []struct {
		name string
		do   func() error
		undo func() error
		more time.Duration
	}{
		{"event", func() error { return b.say(620) }, func() error { return b.say(120) }, 0},
		{"fast", b.socket0, b.listen, period},
	} {
		if !slices.Contains(kinds, what.name) {
			continue
		}
		var took, bare []time.Duration
		worst := ""
		for range n {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			d, way, err := b.pause(ctx, what.do, what.undo)
			if err != nil {
				return err
			}
			if len(took) == 0 || d > slices.Max(took) {
				worst = way
			}
			took = append(took, d)
			if d, err = b.bare(); err != nil {
				return err
			}
			bare = append(bare, d)
		}
		show(load.name, what.name+" fact", took, what.more)
		fmt.Printf("%-10s   worst: %s\n", load.name, worst)
		show(load.name, "  cgroup.freeze alone", bare, -1)
	}
	return nil
}

func show(load, what string, took []time.Duration, more time.Duration) {
	slices.Sort(took)
	at := func(permille int) time.Duration {
		return took[min(len(took)-1, len(took)*permille/1000)].Round(10 * time.Microsecond)
	}
	verdict := ""
	if more >= 0 {
		verdict = "  within the goals"
		if at(500) > goalMedian+more || at(1000) > goalWorst+more {
			verdict = fmt.Sprintf("  NOT within %v and %v", goalMedian+more, goalWorst+more)
		}
	}
	fmt.Printf("%-10s %-22s %10v %10v %10v%s\n", load, what, at(500), at(990), at(1000), verdict)
}

// pause makes a value cross, and returns how long it took, and what the logs say
// of the way. Then it resumes.
func (b *bench) pause(ctx context.Context, do, undo func() error) (took time.Duration, way string, err error) {
	begin := time.Now()
	if err = do(); err != nil {
		return 0, "", err
	}
	if took, err = b.frozen(begin); err != nil {
		return 0, "", err
	}
	if err = undo(); err != nil {
		return 0, "", err
	}
	admitted := b.admitted()
	s, err := b.paused(ctx)
	if err != nil {
		return 0, "", err
	}
	way = b.way(begin)
	return took, way, b.resume(ctx, s, admitted)
}

// way tells from the logs, in ms after begin, when the measuring process stepped
// into the pause, when the enforcer had latched it, and when each step was done.
func (b *bench) way(begin time.Time) string {
	var words []string
	for _, at := range []struct{ log, line, word string }{{"run.log", "to=paused", "seen"}, {"enforce.log", "msg=paused", "latched"}, {"enforce.log", "do=tell", "told"}, {"enforce.log", "do=freeze", "frozen"}} {
		data, _ := os.ReadFile(b.Path(at.log))
		i := bytes.LastIndex(data, []byte(at.line))
		line := data[bytes.LastIndexByte(data[:max(i, 0)], '\n')+1:]
		stamp, _, _ := strings.Cut(strings.TrimPrefix(string(line[:min(len(line), 60)]), "time="), " ")
		if t, err := time.Parse(time.RFC3339Nano, stamp); err == nil && i >= 0 {
			words = append(words, fmt.Sprintf("%s %d", at.word, t.Sub(begin).Milliseconds()))
		}
	}
	return strings.Join(words, ", ") + " ms"
}

// resume ends pause s, and waits until the device operates again.
func (b *bench) resume(ctx context.Context, s failsafe.Status, admitted int) error {
	out := b.Path("resume.cbor")
	if _, err := b.Ctl("factsctl", "resume", "--device", b.id, "--pause", hex.EncodeToString(s.PauseID[:]), "--key", b.Path("resume.key"), "--out", out); err != nil {
		return err
	}
	order, err := os.ReadFile(out)
	os.Remove(out)
	if err == nil {
		_, err = b.enforce.Resume(ctx, order)
	}
	if err != nil {
		return err
	}
	if !b.Until("", 30*time.Second, func() bool { return b.admitted() > admitted }) {
		return errors.New("the device did not come back into operation")
	}
	// The crossings fall on any moment of a period.
	var moment [1]byte
	rand.Read(moment[:])
	time.Sleep(period * time.Duration(moment[0]) / 256)
	return nil
}

func (b *bench) paused(ctx context.Context) (failsafe.Status, error) {
	for {
		s, err := b.enforce.Status(ctx)
		if err != nil || s.Phase == failsafe.PhasePaused {
			return s, err
		}
		if s.Latch != appraise.LatchPaused {
			return s, errors.New("frozen and not latched")
		}
	}
}

// admitted counts how often the device came into operation.
func (b *bench) admitted() int {
	data, err := os.ReadFile(b.Path("run.log"))
	if err != nil {
		return 0
	}
	return bytes.Count(data, []byte("to=operating"))
}

// frozen waits for the kernel's word.
func (b *bench) frozen(begin time.Time) (time.Duration, error) {
	buf := make([]byte, 128)
	for {
		n, err := b.events.ReadAt(buf, 0)
		now := time.Since(begin)
		switch {
		case n == 0 && err != nil:
			return 0, err
		case bytes.Contains(buf[:n], []byte("frozen 1")):
			return now, nil
		case now > 30*time.Second:
			return 0, errors.New("not frozen after 30 s")
		}
		time.Sleep(200 * time.Microsecond)
	}
}

func (b *bench) bare() (time.Duration, error) {
	control := filepath.Join(b.Cgroup, "cgroup.freeze")
	begin := time.Now()
	if err := os.WriteFile(control, []byte("1"), 0); err != nil {
		return 0, err
	}
	took, err := b.frozen(begin)
	return took, errors.Join(err, os.WriteFile(control, []byte("0"), 0))
}

func (b *bench) say(flow int) error {
	_, err := fmt.Fprintf(b.to, "app.flow %d\n", flow)
	return err
}

func (b *bench) listen() (err error) {
	b.socket, err = net.Listen("tcp", b.listens)
	return err
}

func (b *bench) socket0() error { return b.socket.Close() }

func (b *bench) setUp(self string) error {
	port, err := lab.FreePort()
	if err != nil {
		return err
	}
	b.listens = "127.0.0.1:" + port
	if err := b.listen(); err != nil {
		return err
	}
	for _, step := range []func() error{
		b.Build, func() error { return b.StartWorkload(self) }, b.MakeKeys, b.InitVerifier, b.ConfigureVerifier, b.SignKeyLists,
		func() error { return b.Draft(2 * time.Second) }, b.FinishManifest, b.manifest, b.StartVerifier,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if b.Cgroup == "" {
		return errors.New("cannot measure without root and cgroup v2")
	}
	if b.id, err = b.Provision(); err != nil {
		return err
	}
	if _, err := b.StartEnforce(); err != nil {
		return err
	}
	if _, err := b.StartRun(); err != nil {
		return err
	}
	if err := b.Enrol(b.id); err != nil {
		return err
	}
	if !b.Until("operating", 30*time.Second, func() bool { return b.admitted() > 0 }) {
		return errors.New("the device did not come into operation")
	}
	b.enforce = failsafe.Dial(b.EnforceSocket())
	if b.to, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: b.Path("app.sock"), Net: "unixgram"}); err != nil {
		return err
	}
	b.events, err = os.Open(filepath.Join(b.Cgroup, "cgroup.events"))
	return err
}

// manifest makes the extremes of the lab's manifest count at once, and adds one
// of a fast fact: a socket that has to listen.
func (b *bench) manifest() error {
	path := b.Path("manifest.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var kept []string
	for i, t := range strings.Split(string(data), "\n[[") {
		if strings.Contains(t, `"network.listening"`) {
			continue
		}
		if i > 0 {
			t = "[[" + t
		}
		if strings.HasPrefix(t, "[[fail_safe]]") {
			t = strings.Replace(t, "hold = \"1s\"\n", "", 1)
		}
		kept = append(kept, t)
	}
	kept = append(kept, fmt.Sprintf("[[fail_safe]]\nfact = \"network.listening\"\nsuperset_of = [\"tcp/%s\"]\nwhy = \"the bench closes it\"\n", b.listens))
	if err := os.WriteFile(path, []byte(strings.Join(kept, "\n")), 0o600); err != nil {
		return err
	}
	_, err = b.Ctl("factsctl", "manifest", "sign", path, "--key", b.Path("manifest.key"), "--out", b.Path("manifest.cbor"))
	return err
}
