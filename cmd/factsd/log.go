package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// logRoom is how many bytes of log wait for whoever reads them.
const logRoom = 256 << 10

// A lateWriter never lets its caller wait: a full disk or a log daemon that hangs
// must hold up neither a round nor a pause. What finds no room is dropped, and
// how much is said.
type lateWriter struct {
	to      io.Writer
	mu      sync.Mutex
	waiting []byte
	dropped int
	closed  bool
	wake    chan struct{} // room for one
	idle    chan struct{} // closed when all is written after close
}

func newLateWriter(to io.Writer) *lateWriter {
	w := &lateWriter{to: to, wake: make(chan struct{}, 1), idle: make(chan struct{})}
	go w.run()
	return w
}

func (w *lateWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	if len(w.waiting)+len(line) > logRoom {
		w.dropped++
	} else {
		w.waiting = append(w.waiting, line...)
	}
	w.mu.Unlock()
	w.kick()
	return len(line), nil
}

func (w *lateWriter) kick() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *lateWriter) run() {
	defer close(w.idle)
	var spare []byte
	for range w.wake {
		w.mu.Lock()
		lines, dropped, closed := w.waiting, w.dropped, w.closed
		w.waiting, w.dropped = spare[:0], 0
		w.mu.Unlock()
		w.to.Write(lines)
		if dropped > 0 {
			fmt.Fprintf(w.to, "level=ERROR msg=\"log lines dropped: nobody took them in time\" lines=%d\n", dropped)
		}
		spare = lines
		if closed {
			return
		}
	}
}

// close writes what waits, for at most limit.
func (w *lateWriter) close(limit time.Duration) {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.kick()
	select {
	case <-w.idle:
	case <-time.After(limit):
	}
}
