package main

import (
	"slices"
	"testing"
)

// TestKinds does a few rounds of each kind: the floor has to read what the
// fast round reads, or the comparison says nothing.
func TestKinds(t *testing.T) {
	for _, kind := range []string{kindFacts, kindFiles, kindSockets} {
		c, err := measure(kind, 20, 0)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if c.Rounds != 20 || c.RSS <= 0 || c.What == "" {
			t.Errorf("%s: %+v", kind, c)
		}
	}
	if _, err := measure("nothing", 1, 0); err == nil {
		t.Error("rounds of no kind were measured")
	}
	if _, err := measure(kindFacts, 0, 0); err == nil {
		t.Error("no round was measured")
	}
}

func TestKeptOpen(t *testing.T) {
	r, err := newRounds(kindFacts)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	paths, err := keptOpen()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/proc/stat", "/proc/meminfo", "/proc/loadavg", "/proc/vmstat"} {
		if !slices.Contains(paths, want) {
			t.Errorf("%s is not among %v", want, paths)
		}
	}
}

func TestParseTotal(t *testing.T) {
	const table = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 98.05    0.016204           4      3500           pread64
  1.95    0.000322           4        75         2 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.016526           4      3575         2 total
`
	if n, err := parseTotal([]byte(table)); err != nil || n != 3575 {
		t.Errorf("%v, %v", n, err)
	}
	if _, err := parseTotal([]byte("strace: failed\n")); err == nil {
		t.Error("a total was read where there is none")
	}
}
