package failsafe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Times of what is asked of the application, and how much of its answers is read.
const (
	answerTime = 500 * time.Millisecond // for the first answer to "prepare"
	holdTime   = 100 * time.Millisecond // of the deadline of "prepare", kept for "hold"
	maxLine    = 64                     // bytes of one answer
	maxLines   = 32                     // answers in one conversation
)

// A conversation is one connection to the application.
type conversation struct {
	conn  *net.UnixConn
	read  *bufio.Reader
	lines int
	stop  func() bool
}

// converse connects to the application. The conversation ends with ctx at the
// latest.
func (h *hands) converse(ctx context.Context) (*conversation, error) { return h.converseFor(ctx, ctx) }

// converseFor connects until dial ends.
func (h *hands) converseFor(ctx, dial context.Context) (*conversation, error) {
	if h.appSocket == "" {
		return nil, errors.New("no application socket is configured")
	}
	var d net.Dialer
	conn, err := d.DialContext(dial, "unix", h.appSocket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the application: %w", err)
	}
	c := &conversation{conn: conn.(*net.UnixConn), read: bufio.NewReaderSize(conn, maxLine)}
	c.stop = context.AfterFunc(ctx, func() { conn.Close() })
	if h.halted(c.conn) {
		c.close()
		return nil, errors.New("the application is frozen or stopped already and cannot be told")
	}
	return c, nil
}

func (c *conversation) close() {
	c.stop()
	c.conn.Close()
}

func (c *conversation) say(line string) error {
	if _, err := io.WriteString(c.conn, line); err != nil {
		return fmt.Errorf("cannot tell the application: %w", err)
	}
	return nil
}

// errLate says that no answer came in its time.
var errLate = errors.New("the application did not answer in time")

// hear returns the next line of the application, without its end, and waits for
// it until end.
func (c *conversation) hear(ctx context.Context, end time.Time) (string, error) {
	if err := c.conn.SetReadDeadline(end); err != nil && ctx.Err() == nil {
		return "", fmt.Errorf("cannot read the application's answer: %w", err)
	}
	line, err := c.read.ReadSlice('\n')
	switch {
	case err == nil && c.lines >= maxLines:
		return "", fmt.Errorf("the application answered more than %d lines", maxLines)
	case err != nil && (ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded)):
		return "", errLate
	case err != nil:
		return "", fmt.Errorf("cannot read the application's answer: %w", err)
	}
	c.lines++
	return string(line[:len(line)-1]), nil
}

// confirm waits for the line "ok".
func (c *conversation) confirm(ctx context.Context) error {
	end, _ := ctx.Deadline()
	switch answer, err := c.hear(ctx, end); {
	case err != nil:
		return err
	case answer != "ok":
		return fmt.Errorf("the application answered %q", answer)
	}
	return nil
}

// tell sends one line to the application and waits for the line "ok".
func (h *hands) tell(ctx context.Context, line string) (string, error) {
	c, err := h.converse(ctx)
	if err != nil {
		return "", err
	}
	defer c.close()
	if err := errors.Join(c.say(line), c.confirm(ctx)); err != nil {
		return "", err
	}
	return "the application answered ok", nil
}

// prepare tells the application that a pause comes, waits at most limit until it
// says that it is in a safe state, and tells it then, whatever it said, that the
// pause holds:
//
//	> prepare ID MS   a pause comes, in MS ms at the latest
//	< wait MS         it needs so much; again if it needs more
//	< ready           it is in a safe state
//	> hold ID         the pause goes on now
//	< ok
//
// The first answer has to come within answerTime.
func (h *hands) prepare(ctx context.Context, id []byte, limit time.Duration) (string, error) {
	start := time.Now()
	c, err := h.converse(ctx)
	if err != nil {
		return "", err
	}
	defer c.close()
	words, err := c.untilReady(ctx, id, start, limit-min(holdTime, limit/2))
	if herr := errors.Join(c.say(fmt.Sprintf("hold %x\n", id)), c.confirmHold(ctx)); herr != nil {
		err = errors.Join(err, fmt.Errorf("told to hold: %w", herr))
	}
	return words, err
}

// confirmHold waits for the line "ok". What the application said to "prepare" may
// come first: it had not read of the hold yet.
func (c *conversation) confirmHold(ctx context.Context) error {
	end, _ := ctx.Deadline()
	for {
		answer, err := c.hear(ctx, end)
		switch {
		case err != nil:
			return err
		case answer == "ok":
			return nil
		case answer != "ready" && !strings.HasPrefix(answer, "wait "):
			return fmt.Errorf("the application answered %q", answer)
		}
	}
}

// untilReady waits until the application is ready. It returns what it said.
func (c *conversation) untilReady(ctx context.Context, id []byte, start time.Time, limit time.Duration) (string, error) {
	if err := c.say(fmt.Sprintf("prepare %x %d\n", id, limit.Milliseconds())); err != nil {
		return "", err
	}
	last := start.Add(limit)
	end, asked := start.Add(min(answerTime, limit)), ""
	for {
		answer, err := c.hear(ctx, end)
		took := time.Since(start).Milliseconds()
		if err != nil {
			return "", fmt.Errorf("not ready after %d ms%s: %w", took, asked, err)
		}
		if answer == "ready" {
			return fmt.Sprintf("ready after %d ms%s, and told to hold", took, asked), nil
		}
		wait, ok := strings.CutPrefix(answer, "wait ")
		ms, err := strconv.ParseUint(wait, 10, 31)
		if !ok || err != nil {
			return "", fmt.Errorf("not ready after %d ms%s: the application answered %q", took, asked, answer)
		}
		asked = fmt.Sprintf(", it asked for %d ms", ms)
		if end = time.Now().Add(time.Duration(ms) * time.Millisecond); end.After(last) {
			end = last
		}
	}
}

// halted reports whether the process that listens on the other end is frozen or
// stopped. What is written to it now would wait, and a line of the pause would
// be read after the resume.
func (h *hands) halted(conn *net.UnixConn) bool {
	cred, err := peer(conn)
	if err != nil {
		return false
	}
	data, err := os.ReadFile(filepath.Join(h.proc, strconv.Itoa(int(cred.Pid)), "cgroup"))
	if err != nil {
		return false
	}
	events, err := os.ReadFile(filepath.Join(h.cgroups, cgroup2Of(data), "cgroup.events"))
	if err == nil && bytes.Contains(events, []byte("frozen 1")) {
		return true
	}
	is, err := h.stopped(int(cred.Pid))
	return err == nil && is
}
