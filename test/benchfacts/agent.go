package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/test/lab"
)

const (
	agentRounds = 60
	goalAgent   = 1200 * time.Microsecond
	goalBare    = 780 * time.Microsecond // what the bare floor cost where the goal was set
)

// agent measures the shipped processes of a device at 1 Hz, each round with a
// signed report that the broker acknowledges over TLS. The key is in a file: what
// a TPM does costs its own time. factsd is the binary to measure. The floor comes
// after it: what a wake-up, a signature and a packet cost differs between machines,
// so that the goal counts as a multiple of the floor as well.
func agent(self, factsd string) error {
	used, err := device(factsd)
	if err != nil {
		return err
	}
	names := map[string]string{kindBare: "floor: read, encode, sign, publish", kindStored: "floor: and its report on the disk"}
	var floor cost
	for _, kind := range []string{kindBare, kindStored} {
		c, err := bareFloor(self, kind)
		if err != nil {
			return err
		}
		fmt.Printf("%-34s %12s %14.0f %13s %14s %9d   %s\n", names[kind], "", micro(c.round()), "", "", c.RSS, c.What)
		if kind == kindBare {
			floor = c
		}
	}
	ratio, goal := float64(used)/float64(floor.round()), float64(goalAgent)/float64(goalBare)
	fmt.Printf("goal %4.0f us CPU a round of factsd run with its report: %.0f, %s\n", micro(goalAgent), micro(used), met(used <= goalAgent))
	fmt.Printf("     that is, where the goal was set, %.2f times the bare floor (%.0f us): %.2f, %s\n", goal, micro(goalBare), ratio, met(ratio <= goal))
	return nil
}

// device returns what a round of factsd run costs.
func device(factsd string) (used time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	l, err := lab.New(ctx)
	if err != nil {
		return 0, err
	}
	defer l.Clean()
	l.ReportEvery = "1s"
	for _, step := range []func() error{
		l.Build, func() error { return install(factsd, l.Path("factsd")) }, l.MakeKeys, l.InitVerifier, l.ConfigureVerifier, l.SignKeyLists,
		func() error { return l.Draft(2 * time.Second) }, l.FinishManifest, l.StartVerifier,
	} {
		if err := step(); err != nil {
			return 0, err
		}
	}
	id, err := l.Provision()
	if err != nil {
		return 0, err
	}
	enforce, err := l.StartEnforce()
	if err != nil {
		return 0, err
	}
	run, err := startRun(l)
	if err != nil {
		return 0, err
	}
	if err := l.Enrol(id); err != nil {
		return 0, err
	}
	if !l.Until("operating", 30*time.Second, func() bool { return l.Device(id).Stage == "operating" }) {
		return 0, fmt.Errorf("the device did not come into operation")
	}
	// Some rounds later it has settled: the boot is long over.
	settled := l.Device(id).Sequence + 5
	if !l.Until("five more reports", 30*time.Second, func() bool { return l.Device(id).Sequence >= settled }) {
		return 0, fmt.Errorf("the device does not report")
	}
	processes := []*lab.Proc{run, enforce}
	var before [2]time.Duration
	first, begin := l.Device(id).Sequence, time.Now()
	for i, p := range processes {
		if before[i], err = threadTime(strconv.Itoa(p.Cmd.Process.Pid)); err != nil {
			return 0, err
		}
	}
	if !l.Until("the rounds", 2*agentRounds*time.Second, func() bool { return l.Device(id).Sequence >= first+agentRounds }) {
		return 0, fmt.Errorf("the device stopped reporting")
	}
	took := time.Since(begin)
	reports := l.Device(id).Sequence - first
	fmt.Printf("\nthe device's processes, 1 Hz, a signed report each round acknowledged over TLS, %d reports in %v, %s\n", reports, took.Round(time.Second), l.Device(id).Stage)
	for i, p := range processes {
		pid := strconv.Itoa(p.Cmd.Process.Pid)
		after, err := threadTime(pid)
		if err != nil {
			return 0, err
		}
		resident, proportional, err := rollup(pid)
		if err != nil {
			return 0, err
		}
		round := (after - before[i]) / time.Duration(reports)
		fmt.Printf("factsd %-27s %12s %14.0f %13s %14s %9d   of it %d KiB its own share (PSS)\n", p.Name, "", micro(round), "", "", resident, proportional)
		if p == run {
			used = round
		}
	}
	return used, nil
}

// timerSlack is TimerSlackNSec= of configs/systemd/factsd.service.
const timerSlack = 4 * time.Millisecond

// startRun starts factsd run as its unit does: a process has the timer slack of
// the thread that starts it.
func startRun(l *lab.Lab) (*lab.Proc, error) {
	runtime.LockOSThread() // not given back: the thread ends with its slack
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0); err != nil {
		return nil, fmt.Errorf("cannot set timer slack: %w", err)
	}
	return l.StartRun()
}

func install(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.Remove(to); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o755)
}

// threadTime is what all threads of a process ran, exactly (kernel,
// scheduler/sched-stats). Go's threads do not end.
func threadTime(pid string) (time.Duration, error) {
	files, err := filepath.Glob(filepath.Join("/proc", pid, "task/*/schedstat"))
	if err != nil {
		return 0, err
	}
	if len(files) == 0 {
		return 0, fmt.Errorf("process %s has ended", pid)
	}
	var sum time.Duration
	for _, f := range files {
		var ran int64
		data, err := os.ReadFile(f)
		if err != nil {
			return 0, err
		}
		if _, err := fmt.Sscan(string(data), &ran); err != nil {
			return 0, fmt.Errorf("cannot read %s: %w", f, err)
		}
		sum += time.Duration(ran)
	}
	return sum, nil
}

// rollup returns the resident and the proportional size of a process in KiB.
func rollup(pid string) (resident, proportional int64, err error) {
	data, err := os.ReadFile(filepath.Join("/proc", pid, "smaps_rollup"))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "Rss:":
			resident = n
		case "Pss:":
			proportional = n
		}
	}
	if resident == 0 || proportional == 0 {
		return 0, 0, fmt.Errorf("/proc/%s/smaps_rollup has no Rss or no Pss", pid)
	}
	return resident, proportional, nil
}
