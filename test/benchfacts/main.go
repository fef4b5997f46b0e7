// Command benchfacts measures what a sampling period costs on this machine: the
// fast round of facts/linux under the collector, beside the least that reading
// the same files and sockets can cost, and beside other agents where they are
// installed. It prints a table; what it could not measure it says.
//
// The numbers are of this machine and of the moment: compare lines of one run,
// not runs.
package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/facts/linux"
)

const (
	hot     = 3000                  // rounds back to back
	repeats = 4                     // of which the best counts
	cold    = 200                   // rounds with a pause before each
	pause   = 20 * time.Millisecond // that pause
	traced  = 500                   // rounds under strace

	goalCPU      = 250 * time.Microsecond
	goalFloor    = 2.0
	goalSyscalls = 40.0
)

// A cost is what one kind of round costs.
type cost struct {
	Rounds int           `json:"rounds"`
	CPU    time.Duration `json:"cpu_ns"` // of all rounds, user and system
	Allocs uint64        `json:"allocs"` // of all rounds
	RSS    int64         `json:"rss_kib"`
	What   string        `json:"what"` // what a round reads
}

func (c cost) round() time.Duration { return c.CPU / time.Duration(max(c.Rounds, 1)) }

// The kinds of rounds that this program can do itself.
const (
	kindFacts   = "facts"   // the agent's fast round
	kindFiles   = "files"   // pread(2) of the files that it keeps open
	kindSockets = "sockets" // that, and its dumps of sockets
	kindCrowd   = "crowd"   // the fast round, alone and in a crowd
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "benchfacts:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if len(args) == 2 && args[0] == "agent" { // that part alone
		return agent(self, args[1])
	}
	if len(args) == 3 && (args[0] == kindBare || args[0] == kindStored) {
		c, err := measureBare(args[0], args[1], args[2])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(c)
	}
	if len(args) == 3 && args[0] == kindCrowd {
		return inside(self, args[2])
	}
	if len(args) == 3 { // a process of its own for each kind: memory and CPU are its own then
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		wait, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		c, err := measure(args[0], n, wait)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(c)
	}
	if len(args) != 1 {
		return errors.New("give the path of a factsd")
	}
	fmt.Printf("%-34s %12s %14s %13s %14s %9s\n", "", "CPU hot", "CPU paced", "allocations", "system calls", "RSS")
	fmt.Printf("%-34s %12s %14s %13s %14s %9s\n", "", "us a round", "us a round", "a round", "a round", "KiB")
	costs := map[string]cost{}
	calls := map[string]float64{}
	for _, x := range []struct{ kind, name string }{
		{kindFacts, "miotfacts, fast round"}, {kindFiles, "floor: pread of its files"}, {kindSockets, "floor: and its dumps of sockets"},
	} {
		c, err := best(self, x.kind)
		if err != nil {
			return err
		}
		p, err := child(self, x.kind, cold, pause)
		if err != nil {
			return err
		}
		n, err := syscalls(self, x.kind)
		if err != nil && !errors.Is(err, exec.ErrNotFound) {
			return err
		}
		costs[x.kind], calls[x.kind] = c, n
		shown := "not counted"
		if err == nil {
			shown = fmt.Sprintf("%.1f", n)
		}
		fmt.Printf("%-34s %12.1f %14.1f %13.2f %14s %9d   %s\n", x.name, micro(c.round()), micro(p.round()), float64(c.Allocs)/float64(c.Rounds), shown, c.RSS, c.What)
	}
	for _, other := range []func() (string, error){
		func() (string, error) { return nodeExporter(true) }, func() (string, error) { return nodeExporter(false) }, collectd, telegraf,
	} {
		line, err := other()
		if err != nil {
			return err
		}
		fmt.Println(line)
	}
	f := costs[kindFacts]
	ratio := float64(f.round()) / float64(costs[kindSockets].round())
	fmt.Printf("\nhot: one round after the other, the best of %d times %d; paced: %v apart, with cold caches.\n", repeats, hot, pause)
	fmt.Printf("goal %4.0f us CPU a hot round: %.1f, %s\n", micro(goalCPU), micro(f.round()), met(f.round() <= goalCPU))
	fmt.Printf("goal %4.1f times the floor of the same files and sockets: %.2f, %s\n", goalFloor, ratio, met(ratio <= goalFloor))
	fmt.Printf("          times the floor of the same files without the sockets: %.2f\n", float64(f.round())/float64(costs[kindFiles].round()))
	fmt.Printf("goal    0 allocations: %d in %d rounds, %s\n", f.Allocs, f.Rounds, met(f.Allocs < uint64(f.Rounds)/100))
	if calls[kindFacts] > 0 {
		fmt.Printf("goal %4.0f system calls: %.1f, %s\n", goalSyscalls, calls[kindFacts], met(calls[kindFacts] <= goalSyscalls))
	} else {
		fmt.Println("system calls: NOT COUNTED, install the package strace")
	}
	if err := crowd(self); err != nil {
		return err
	}
	return agent(self, args[0])
}

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "MISSED"
}

// best is the cheapest of some measurements of hot rounds: what others do on the
// machine only ever adds.
func best(self, kind string) (cost, error) {
	least, err := child(self, kind, hot, 0)
	for range repeats - 1 {
		c, again := child(self, kind, hot, 0)
		err = errors.Join(err, again)
		if c.CPU < least.CPU {
			least = c
		}
	}
	return least, err
}

// child measures in a process of its own.
func child(self, kind string, n int, wait time.Duration) (cost, error) {
	cmd := exec.Command(self, kind, strconv.Itoa(n), wait.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return cost{}, fmt.Errorf("cannot measure %s: %w", kind, err)
	}
	var c cost
	if err := json.Unmarshal(out, &c); err != nil {
		return cost{}, fmt.Errorf("cannot measure %s: %w", kind, err)
	}
	return c, nil
}

// syscalls counts with strace what a round adds: two runs of different length
// have the same start and end.
func syscalls(self, kind string) (float64, error) {
	tool, err := exec.LookPath("strace")
	if err != nil {
		return 0, err
	}
	var totals [2]float64
	for i := range totals {
		f, err := os.CreateTemp("", "benchfacts-*")
		if err != nil {
			return 0, err
		}
		f.Close()
		defer os.Remove(f.Name())
		cmd := exec.Command(tool, "-f", "-c", "-o", f.Name(), self, kind, strconv.Itoa(50+i*traced), "0s")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("strace: %w: %s", err, out)
		}
		table, err := os.ReadFile(f.Name())
		if err != nil {
			return 0, err
		}
		if totals[i], err = parseTotal(table); err != nil {
			return 0, err
		}
	}
	return (totals[1] - totals[0]) / traced, nil
}

// parseTotal returns the calls in the last line of a table of strace -c: share
// of time, seconds, µs a call, calls, errors where there were any, "total".
func parseTotal(table []byte) (float64, error) {
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 5 || f[len(f)-1] != "total" {
			continue
		}
		return strconv.ParseFloat(f[3], 64)
	}
	return 0, fmt.Errorf("strace told no total:\n%s", table)
}

// measure does n rounds of a kind in this process, each after a pause of wait.
func measure(kind string, n int, wait time.Duration) (cost, error) {
	if n < 1 {
		return cost{}, errors.New("give at least one round")
	}
	r, err := newRounds(kind)
	if err != nil {
		return cost{}, err
	}
	defer r.close()
	for range 3 { // files are opened, buffers grow, rates get their second sample
		if err := r.do(); err != nil {
			return cost{}, err
		}
	}
	runtime.GC()
	var before, after runtime.MemStats
	var begin, end unix.Rusage
	runtime.ReadMemStats(&before)
	if err := unix.Getrusage(unix.RUSAGE_SELF, &begin); err != nil {
		return cost{}, err
	}
	for range n {
		if wait > 0 {
			time.Sleep(wait)
		}
		if err := r.do(); err != nil {
			return cost{}, err
		}
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &end); err != nil {
		return cost{}, err
	}
	runtime.ReadMemStats(&after)
	c := cost{Rounds: n, Allocs: after.Mallocs - before.Mallocs, What: r.what}
	c.CPU = time.Duration(end.Utime.Nano() + end.Stime.Nano() - begin.Utime.Nano() - begin.Stime.Nano())
	c.RSS, err = rss("self")
	return c, err
}

// rss returns VmRSS of a process in KiB.
func rss(pid string) (int64, error) {
	b, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(b, []byte("VmRSS:"))
	f := bytes.Fields(rest)
	if len(f) == 0 {
		return 0, fmt.Errorf("/proc/%s/status has no VmRSS", pid)
	}
	return strconv.ParseInt(string(f[0]), 10, 64)
}

// rounds are rounds of one kind.
type rounds struct {
	do    func() error
	close func()
	what  string
}

func newRounds(kind string) (*rounds, error) {
	root, err := linux.OpenRoot("/")
	if err != nil {
		return nil, err
	}
	sources, err := linux.Sources(root, linux.Options{})
	if err != nil {
		return nil, err
	}
	c, err := facts.NewCollector(sources, time.Second, linux.Uptime)
	if err != nil {
		return nil, err
	}
	now := time.Now() // one and the same: slow facts are due in the first round only
	stop := func() {
		c.Close()
		root.Close()
	}
	if kind == kindFacts {
		all, ok := 0, 0
		c.Collect(now)
		snapshot := c.Collect(now)
		for _, d := range facts.Catalogue() {
			if d.Cadence != facts.Fast {
				continue
			}
			all++
			if s := snapshot.Reading(d.Key).Status; s == facts.OK || s == facts.Pending {
				ok++
			}
		}
		return &rounds{do: func() error { c.Collect(now); return nil }, close: stop, what: fmt.Sprintf("%d fast facts, %d of them on this machine", all, ok)}, nil
	}
	c.Collect(now)
	paths, err := keptOpen()
	stop()
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindFiles:
		return newFloor(paths, nil)
	case kindSockets:
		return newFloor(paths, [][2]byte{{unix.AF_INET, unix.IPPROTO_TCP}, {unix.AF_INET6, unix.IPPROTO_TCP}, {unix.AF_INET, unix.IPPROTO_UDP}, {unix.AF_INET6, unix.IPPROTO_UDP}})
	}
	return nil, fmt.Errorf("no rounds of kind %q", kind)
}

// keptOpen returns the files of the kernel that this process keeps open.
func keptOpen() ([]string, error) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && (strings.HasPrefix(to, "/proc/") || strings.HasPrefix(to, "/sys/")) && !strings.HasSuffix(to, "/fd") {
			paths = append(paths, to)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// newFloor reads files, and dumps the listening sockets of each family and
// protocol, with the fewest system calls that get all of it, and parses nothing.
func newFloor(paths []string, dumps [][2]byte) (*rounds, error) {
	var fds []int
	stop := func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	for _, p := range paths {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			stop()
			return nil, fmt.Errorf("cannot open %s: %w", p, err)
		}
		fds = append(fds, fd)
	}
	files := len(fds)
	buf := make([]byte, 64<<10)
	if len(dumps) > 0 {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		if err != nil {
			stop()
			return nil, fmt.Errorf("cannot open sock_diag: %w", err)
		}
		fds = append(fds, fd)
	}
	req := make([]byte, 72) // struct nlmsghdr and inet_diag_req_v2, sock_diag(7)
	return &rounds{what: fmt.Sprintf("%d files, %d dumps", files, len(dumps)), close: stop, do: func() error {
		for _, fd := range fds[:files] {
			// The kernel hands out long files in pieces of a page: a shorter piece is the last.
			for at, n := 0, 4096; n >= 3072; at += n {
				var err error
				if n, err = unix.Pread(fd, buf[:], int64(at)); err != nil {
					return err
				}
			}
		}
		for _, d := range dumps {
			ne := binary.NativeEndian
			ne.PutUint32(req, uint32(len(req)))
			ne.PutUint16(req[4:], unix.SOCK_DIAG_BY_FAMILY)
			ne.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
			req[16], req[17] = d[0], d[1]
			state := uint32(1 << 10) // TCP_LISTEN; a bound UDP socket is in TCP_CLOSE
			if d[1] == unix.IPPROTO_UDP {
				state = 1 << 7
			}
			ne.PutUint32(req[20:], state)
			if _, err := unix.Write(fds[files], req); err != nil {
				return err
			}
			for done := false; !done; {
				n, err := unix.Read(fds[files], buf)
				if err != nil {
					return err
				}
				// The end is a message of its own, the last of its datagram.
				for b := buf[:n]; len(b) >= 16; b = b[min(int(ne.Uint32(b)+3)&^3, len(b)):] {
					if kind := ne.Uint16(b[4:]); kind == unix.NLMSG_DONE || kind == unix.NLMSG_ERROR {
						done = true
					}
					if ne.Uint32(b) < 16 {
						return unix.EBADMSG
					}
				}
			}
		}
		return nil
	}}, nil
}

// row formats a line of another agent, whose allocations and calls are not counted.
func row(name string, cpu time.Duration, rounds int, rss int64, what string) string {
	return fmt.Sprintf("%-34s %12s %14.1f %13s %14s %9d   %s", name, "", micro(cpu)/float64(rounds), "", "", rss, what)
}

// nodeExporter measures Prometheus' node_exporter, with the collectors that come
// closest to ours or with its own choice; a scrape is a round.
func nodeExporter(ours bool) (string, error) {
	name := "node_exporter, a scrape"
	if !ours {
		name = "node_exporter as it comes, a scrape"
	}
	tool, err := exec.LookPath("prometheus-node-exporter")
	if err != nil {
		if tool, err = exec.LookPath("node_exporter"); err != nil {
			return fmt.Sprintf("%-34s NOT RUN: it is not installed", name), nil
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	address := l.Addr().String()
	l.Close()
	groups := []string{"cpu", "cpufreq", "hwmon", "loadavg", "meminfo", "netdev", "netstat", "pressure", "stat", "thermal_zone", "vmstat"}
	args := []string{"--web.listen-address=" + address, "--web.disable-exporter-metrics", "--log.level=error"}
	what := "its default collectors"
	if ours {
		args, what = append(args, "--collector.disable-defaults"), "collectors "+strings.Join(groups, " ")
		for _, g := range groups {
			args = append(args, "--collector."+g)
		}
	}
	cmd := exec.Command(tool, args...)
	if ours { // its own choice complains of each scrape where there is no systemd
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("node_exporter: %w", err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	scrape := func() error {
		r, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		_, err = io.Copy(io.Discard, r.Body)
		return err
	}
	for begin := time.Now(); ; time.Sleep(pause) {
		if err := scrape(); err == nil {
			break
		} else if time.Since(begin) > 5*time.Second {
			return "", fmt.Errorf("node_exporter does not answer: %w", err)
		}
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	begin, err := cpuTime(pid)
	if err != nil {
		return "", err
	}
	for range cold {
		time.Sleep(pause)
		if err := scrape(); err != nil {
			return "", err
		}
	}
	end, err := cpuTime(pid)
	if err != nil {
		return "", err
	}
	memory, err := rss(pid)
	return row(name, end-begin, cold, memory, what), err
}

// collectd measures collectd with the plugins that come closest to ours. It
// hands its values to nobody.
func collectd() (string, error) {
	const name = "collectd, an interval"
	tool, err := exec.LookPath("collectd")
	if err != nil {
		return fmt.Sprintf("%-34s NOT RUN: it is not installed", name), nil
	}
	dir, err := os.MkdirTemp("", "benchfacts-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	plugins := []string{"cpu", "cpufreq", "interface", "load", "memory", "processes", "sensors", "swap", "tcpconns", "thermal", "vmem"}
	var conf bytes.Buffer
	fmt.Fprintf(&conf, "Hostname \"here\"\nBaseDir %q\nPIDFile %q\nInterval %.3f\n", dir, filepath.Join(dir, "pid"), pause.Seconds())
	lib := filepath.Join(filepath.Dir(tool), "..", "lib", "collectd")
	fmt.Fprintf(&conf, "PluginDir %q\nTypesDB %q\n", lib, filepath.Join(filepath.Dir(tool), "..", "share", "collectd", "types.db"))
	loaded := []string{}
	for _, p := range plugins {
		if _, err := os.Stat(filepath.Join(lib, p+".so")); err == nil {
			loaded = append(loaded, p)
			fmt.Fprintf(&conf, "LoadPlugin %s\n", p)
		}
	}
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, conf.Bytes(), 0o600); err != nil {
		return "", err
	}
	cmd := exec.Command(tool, "-f", "-C", file)
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("collectd: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	defer func() {
		cmd.Process.Kill()
		<-exited
	}()
	select {
	case err := <-exited:
		exited <- err
		return fmt.Sprintf("%-34s NOT RUN: it ended at once: %v", name, err), nil
	case <-time.After(time.Second): // it loads its plugins
	}
	pid := strconv.Itoa(cmd.Process.Pid)
	begin, err := cpuTime(pid)
	if err != nil {
		return "", err
	}
	time.Sleep(cold * pause)
	end, err := cpuTime(pid)
	if err != nil {
		return "", err
	}
	memory, err := rss(pid)
	return row(name, end-begin, cold, memory, "plugins "+strings.Join(loaded, " ")), err
}

// cpuTime is what a process used, in steps of 10 ms (proc(5), utime and stime).
func cpuTime(pid string) (time.Duration, error) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%s/stat has not the form of proc(5)", pid)
	}
	user, err1 := strconv.ParseInt(string(f[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(f[12]), 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}
