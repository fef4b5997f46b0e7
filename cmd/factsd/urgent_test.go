package main

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestComeFirst wants every thread to be urgent, those to come as well, and the
// program to be in memory.
func TestComeFirst(t *testing.T) {
	// In a process of its own: the test would stay urgent.
	if os.Getenv("FACTSD_URGENT") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestComeFirst$", "-test.v")
		cmd.Env = append(os.Environ(), "FACTSD_URGENT=1")
		out, err := cmd.CombinedOutput()
		switch {
		case err == nil && strings.Contains(string(out), "--- SKIP: TestComeFirst"):
			t.Skipf("%s", out)
		case err != nil || !strings.Contains(string(out), "--- PASS: TestComeFirst"):
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := errors.Join(stayInMemory(), comeFirst(1)); errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOMEM) {
		t.Skipf("NOT RUN: this user may not: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	// Threads that are held at once have to be many.
	held, end := make(chan struct{}), make(chan struct{})
	for range 8 {
		go func() {
			runtime.LockOSThread()
			held <- struct{}{}
			<-end
		}()
	}
	for range 8 {
		<-held
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) < 9 {
		t.Fatalf("%d threads, %v", len(tasks), err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		if a, err := unix.SchedGetAttr(tid, 0); err != nil || a.Policy != schedRR || a.Priority != 1 {
			t.Errorf("thread %d: %+v, %v", tid, a, err)
		}
	}
	close(end)
	// All of the program, used or not.
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	smaps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	mappings := 0
	for m := range strings.SplitSeq(string(smaps), "VmFlags:") {
		if !strings.Contains(m, " "+exe+"\n") {
			continue
		}
		mappings++
		kB := func(field string) string {
			_, rest, _ := strings.Cut(m, "\n"+field+":")
			return strings.Fields(rest + " none")[0]
		}
		if kB("Rss") != kB("Size") || kB("Locked") == "0" {
			t.Errorf("of %s kB %s are in memory, %s locked", kB("Size"), kB("Rss"), kB("Locked"))
		}
	}
	if mappings == 0 {
		t.Errorf("no mapping of %s", exe)
	}
}
