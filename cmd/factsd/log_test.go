package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestLogHoldsUpNothing writes more than a pipe takes that nobody reads, and
// reads it then.
func TestLogHoldsUpNothing(t *testing.T) {
	r, p, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := newLateWriter(p)
	log, err := newLogger("info", w)
	if err != nil {
		t.Fatal(err)
	}
	const lines = 20000
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := range lines {
			log.Info("step", "number", i)
		}
	}()
	select {
	case <-written:
	case <-time.After(20 * time.Second):
		t.Fatal("writing the log waits for its reader")
	}
	go func() { w.close(20 * time.Second); p.Close() }()
	seen, dropped := 0, 0
	for s := bufio.NewScanner(r); s.Scan(); {
		if _, n, ok := strings.Cut(s.Text(), "log lines dropped: nobody took them in time\" lines="); ok {
			var d int
			fmt.Sscan(n, &d)
			dropped += d
			continue
		}
		seen++
	}
	if seen+dropped != lines || dropped == 0 || seen == 0 {
		t.Errorf("%d lines and %d dropped, of %d", seen, dropped, lines)
	}
}
