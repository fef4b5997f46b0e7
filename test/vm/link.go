package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// until waits for a condition, at most d.
func until(ctx context.Context, d time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

func dial(ctx context.Context, path string) (net.Conn, error) {
	var conn net.Conn
	var err error
	until(ctx, 10*time.Second, func() bool {
		conn, err = net.Dial("unix", path)
		return err == nil
	})
	return conn, err
}

// A link carries scripts to the guest program in the machine.
type link struct {
	conn    net.Conn
	answers chan answer
	next    int
}

// An answer is guest's.
type answer struct {
	ID     int    `json:"id"`
	Boot   string `json:"boot"`
	Output []byte `json:"output"`
	Code   int    `json:"code"`
}

func openLink(ctx context.Context, path string) (*link, error) {
	conn, err := dial(ctx, path)
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn, answers: make(chan answer, 16)}
	go l.read()
	return l, nil
}

// read passes on whole lines. A reset can cut one: what is no JSON is dropped.
func (l *link) read() {
	defer close(l.answers)
	var line []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := l.conn.Read(buf)
		for _, b := range buf[:n] {
			if b != '\n' {
				line = append(line, b)
				continue
			}
			var a answer
			start := strings.LastIndex(string(line), `{"id":`)
			if start >= 0 && json.Unmarshal(line[start:], &a) == nil {
				l.answers <- a
			}
			line = line[:0]
		}
		if err != nil {
			return
		}
	}
}

// forget drops what has come and was not waited for.
func (l *link) forget() {
	for {
		select {
		case <-l.answers:
		default:
			return
		}
	}
}

var errGone = errors.New("the machine is gone")

// greeted waits until the guest program of a boot greets, and returns the
// kernel's id of that boot.
func (l *link) greeted(ctx context.Context, d time.Duration) (string, error) {
	timeout := time.After(d)
	for {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-timeout:
			return "", fmt.Errorf("the machine did not come up within %v", d)
		case a, ok := <-l.answers:
			if !ok {
				return "", errGone
			}
			if a.Boot != "" {
				return a.Boot, nil
			}
		}
	}
}

// run runs a script in the machine.
func (l *link) run(ctx context.Context, script string, stdin []byte, d time.Duration) (string, int, error) {
	l.next++
	data, err := json.Marshal(struct {
		ID      int    `json:"id"`
		Script  string `json:"script"`
		Stdin   []byte `json:"stdin"`
		Seconds int    `json:"seconds"`
	}{l.next, script, stdin, int(d.Seconds())})
	if err != nil {
		return "", 0, err
	}
	l.conn.SetWriteDeadline(time.Now().Add(d))
	if _, err := l.conn.Write(append(data, '\n')); err != nil {
		return "", 0, err
	}
	timeout := time.After(d + 30*time.Second)
	for {
		select {
		case <-ctx.Done():
			return "", 0, ctx.Err()
		case <-timeout:
			return "", 0, fmt.Errorf("the machine did not answer within %v: %s", d, script)
		case a, ok := <-l.answers:
			switch {
			case !ok:
				return "", 0, errGone
			case a.Boot != "":
				return "", 0, errors.New("the machine was reset")
			case a.ID == l.next:
				return string(a.Output), a.Code, nil
			}
		}
	}
}

// A monitor is QEMU's (QMP).
type monitor struct {
	conn net.Conn
	in   *json.Decoder
}

func openMonitor(ctx context.Context, path string) (*monitor, error) {
	conn, err := dial(ctx, path)
	if err != nil {
		return nil, err
	}
	m := &monitor{conn: conn, in: json.NewDecoder(conn)}
	var greeting any
	if err := m.in.Decode(&greeting); err != nil {
		return nil, err
	}
	_, err = m.execute("qmp_capabilities", nil)
	return m, err
}

func (m *monitor) execute(command string, arguments any) (json.RawMessage, error) {
	m.conn.SetDeadline(time.Now().Add(2 * time.Minute))
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		return nil, err
	}
	for {
		var a struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
			Event string `json:"event"`
		}
		if err := m.in.Decode(&a); err != nil {
			return nil, fmt.Errorf("cannot execute %s: %w", command, err)
		}
		switch {
		case a.Event != "":
		case a.Error != nil:
			return nil, fmt.Errorf("cannot execute %s: %s", command, a.Error.Desc)
		default:
			return a.Return, nil
		}
	}
}
