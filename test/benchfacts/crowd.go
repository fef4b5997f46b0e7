package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What stands around the device in a crowd, none of it watched.
const (
	crowdProcesses = 5000
	crowdSockets   = 10000 // connected, both ends counted
	crowdGroups    = 200   // control groups, as units have
	crowdMounts    = 100

	goalCrowd = 1.3
)

// crowd compares the fast round in quiet namespaces with the same round in a
// crowd. Everything is in namespaces of its own and ends with them.
func crowd(self string) error {
	if os.Geteuid() != 0 {
		fmt.Println("\nin a crowd: NOT RUN, it takes root to make namespaces")
		return nil
	}
	groups, err := os.MkdirTemp(cgroup2(), "benchfacts-")
	if err != nil {
		fmt.Printf("\nin a crowd: NOT RUN, there is no writable cgroup v2: %v\n", err)
		return nil
	}
	defer func() {
		for i := range crowdGroups {
			os.Remove(filepath.Join(groups, strconv.Itoa(i)))
		}
		os.Remove(groups)
	}()
	cmd := exec.Command(self, kindCrowd, "1", groups)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("cannot measure in a crowd: %w", err)
	}
	var costs [2]cost
	if err := json.Unmarshal(out, &costs); err != nil {
		return fmt.Errorf("cannot measure in a crowd: %w", err)
	}
	ratio := float64(costs[1].round()) / float64(costs[0].round())
	fmt.Printf("\nin quiet namespaces %.1f us a hot round; with %s %.1f us\n", micro(costs[0].round()), costs[1].What, micro(costs[1].round()))
	fmt.Printf("goal %4.1f times the quiet round: %.2f, %s\n", goalCrowd, ratio, met(ratio <= goalCrowd))
	return nil
}

// cgroup2 returns where cgroup v2 is mounted, "/nowhere" where it is not.
func cgroup2() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(dir + "/cgroup.controllers"); err == nil {
			return dir
		}
	}
	return "/nowhere"
}

// inside is the first process of the namespaces: it measures, makes the crowd,
// and measures again. With it everything ends.
func inside(self, groups string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("cannot mount /proc: %w", err)
	}
	if err := loopback(); err != nil {
		return err
	}
	quiet, err := best(self, kindFacts)
	if err != nil {
		return err
	}
	var held []io.Closer // until the measurement is over
	for _, make := range []func() error{processes, func() error { return sockets(&held) }, func() error { return controlGroups(groups) }, mounts} {
		if err := make(); err != nil {
			return fmt.Errorf("cannot make the crowd: %w", err)
		}
	}
	crowded, err := best(self, kindFacts)
	if err != nil {
		return err
	}
	after, err := census(groups)
	if err != nil {
		return err
	}
	if err := after.enough(); err != nil {
		return err
	}
	for _, c := range held {
		c.Close()
	}
	crowded.What = after.String()
	return json.NewEncoder(os.Stdout).Encode([2]cost{quiet, crowded})
}

// A population is what the kernel counts in the namespaces.
type population struct{ processes, sockets, groups, mounts int }

func (p population) String() string {
	return fmt.Sprintf("%d processes, %d sockets, %d control groups, %d mounts, as counted after it", p.processes, p.sockets, p.groups, p.mounts)
}

// enough refuses a crowd of which a part is missing.
func (p population) enough() error {
	if p.processes < crowdProcesses || p.sockets < crowdSockets || p.groups < crowdGroups || p.mounts < crowdMounts {
		return fmt.Errorf("the crowd is not there: %s", p)
	}
	return nil
}

// census counts the processes and mounts that /proc shows, the TCP sockets of the
// network namespace (proc(5), net/sockstat) and the control groups below dir.
func census(dir string) (p population, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return p, err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			p.processes++
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return p, err
	}
	p.mounts = bytes.Count(mounts, []byte("\n"))
	stat, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(stat)) {
		if rest, ok := strings.CutPrefix(line, "TCP: inuse "); ok {
			if _, err := fmt.Sscan(rest, &p.sockets); err != nil {
				return p, fmt.Errorf("cannot read /proc/net/sockstat: %w", err)
			}
		}
	}
	groups, err := os.ReadDir(dir)
	for _, e := range groups {
		if e.IsDir() {
			p.groups++
		}
	}
	return p, err
}

// loopback brings lo up (netdevice(7)).
func loopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("cannot bring lo up: %w", err)
	}
	return nil
}

func processes() error {
	tool, err := exec.LookPath("sleep")
	if err != nil {
		return err
	}
	for range crowdProcesses {
		if err := exec.Command(tool, "infinity").Start(); err != nil {
			return err
		}
	}
	return nil
}

func sockets(held *[]io.Closer) error {
	limit := unix.Rlimit{Cur: crowdSockets + 1000, Max: crowdSockets + 1000}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	for range crowdSockets / 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		s, err := l.Accept()
		if err != nil {
			return err
		}
		*held = append(*held, c, s)
	}
	return nil
}

func controlGroups(dir string) error {
	for i := range crowdGroups {
		if err := os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o755); err != nil {
			return err
		}
	}
	return nil
}

func mounts() error {
	if err := unix.Mount("tmpfs", "/mnt", "tmpfs", 0, ""); err != nil {
		return err
	}
	for i := range crowdMounts - 1 {
		dir := filepath.Join("/mnt", strconv.Itoa(i))
		if err := errors.Join(os.Mkdir(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, "")); err != nil {
			return err
		}
	}
	return nil
}
