package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// Limits of the application socket.
const (
	maxAppDatagram = 2048
	maxAppRate     = 200              // datagrams a second; more are dropped
	appStale       = 10 * time.Second // a number that was not handed in for this long says nothing about now
)

// An appSource takes the numbers that the medical application hands in: Unix
// datagrams of lines "app.name number". It takes the declared facts only, in
// their declared range, from the allowed users only.
type appSource struct {
	conn  *net.UnixConn
	defs  []facts.Def
	uids  []uint32
	now   func() time.Time
	spoke func(facts.Key) // called with a fact of this source when there is something new
	log   *slog.Logger
	mu    sync.Mutex
	state []appState
}

type appState struct {
	at    time.Time // zero before the first
	value int64
	bad   string // why the newest line is malformed
}

// listenApp opens the socket at path for the facts defs. uids may hand in; none
// allows everybody who may open the socket. Each datagram calls
// spoke with one of the facts.
func listenApp(path string, defs []facts.Def, uids []uint32, now func() time.Time, spoke func(facts.Key), log *slog.Logger) (*appSource, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot open application socket: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("cannot open application socket: %w", err)
	}
	if err := passCredentials(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot open application socket %s: %w", path, err)
	}
	// Whoever may reach the directory may write; who counts is decided by the
	// sender's credentials.
	if err := os.Chmod(path, 0o666); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot open application socket: %w", err)
	}
	return &appSource{conn: conn, defs: defs, uids: uids, now: now, spoke: spoke, log: log, state: make([]appState, len(defs))}, nil
}

func passCredentials(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) }); err != nil {
		return err
	}
	return serr
}

// serve takes datagrams until the socket is closed.
func (a *appSource) serve() {
	buf, oob := make([]byte, maxAppDatagram), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	var second time.Time
	count := 0
	for {
		n, oobn, flags, _, err := a.conn.ReadMsgUnix(buf, oob)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				a.log.Error("cannot read application socket", "err", err)
			}
			return
		}
		now := a.now()
		if now.Sub(second) >= time.Second {
			second, count = now, 0
		}
		if count++; count > maxAppRate {
			if count == maxAppRate+1 {
				a.log.Warn("application hands in too much: dropped", "limit per second", maxAppRate)
			}
			continue
		}
		if err := a.allowed(oob[:oobn]); err != nil {
			a.log.Warn("refused facts from the application socket", "err", err)
			continue
		}
		if flags&unix.MSG_TRUNC != 0 {
			a.log.Warn("refused facts from the application socket", "err", fmt.Sprintf("datagram above %d bytes", maxAppDatagram))
			continue
		}
		a.take(buf[:n], now)
		a.spoke(a.defs[0].Key)
	}
}

func (a *appSource) allowed(oob []byte) error {
	if len(a.uids) == 0 {
		return nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("cannot read sender: %w", err)
	}
	for _, m := range msgs {
		cred, err := unix.ParseUnixCredentials(&m)
		if err != nil {
			continue
		}
		if slices.Contains(a.uids, cred.Uid) {
			return nil
		}
		return fmt.Errorf("user %d may not hand in facts (process %d)", cred.Uid, cred.Pid)
	}
	return errors.New("sender is unknown")
}

// take takes the lines of one datagram.
func (a *appSource) take(data []byte, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for line := range bytes.SplitSeq(data, []byte{'\n'}) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		name, number, _ := bytes.Cut(line, []byte{' '})
		i := slices.IndexFunc(a.defs, func(d facts.Def) bool { return d.Name == string(name) })
		if i < 0 {
			a.log.Debug("application hands in an undeclared fact", "name", string(name))
			continue
		}
		d, s := a.defs[i], &a.state[i]
		s.at, s.bad = now, ""
		n, err := strconv.ParseInt(string(bytes.TrimSpace(number)), 10, 64)
		switch {
		case err != nil:
			s.bad = "not an integer"
		case n < d.Min || n > d.Max:
			s.bad = fmt.Sprintf("%d is outside the declared %d to %d", n, d.Min, d.Max)
		default:
			s.value = n
		}
	}
}

// close ends serve and removes the socket.
func (a *appSource) close() { a.conn.Close() }

func (a *appSource) Name() string { return "application" }

// Cadence is Fast, although what the application says is read when it comes: its
// silence is noticed by looking.
func (a *appSource) Cadence() facts.Cadence { return facts.Fast }

func (a *appSource) Keys() []facts.Key {
	keys := make([]facts.Key, len(a.defs))
	for i, d := range a.defs {
		keys[i] = d.Key
	}
	return keys
}

func (a *appSource) Read(dst []facts.Reading) []facts.Reading {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, s := range a.state {
		x := facts.Reading{Key: a.defs[i].Key}
		switch age := now.Sub(s.at); {
		case s.at.IsZero():
			x.Status, x.Reason = facts.Absent, "the application has not spoken yet"
		case age > appStale:
			x.Status, x.Reason = facts.Stale, fmt.Sprintf("the application has not spoken for %d s", int(age.Seconds()))
		case s.bad != "":
			x.Status, x.Reason = facts.Malformed, s.bad
		default:
			x.Value = facts.IntValue(s.value)
		}
		dst = append(dst, x)
	}
	return dst
}
