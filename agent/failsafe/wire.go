package failsafe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// Limits of the socket. Each message is one packet.
const (
	maxRequest  = 16 << 10 // a set of 512 short texts, or a resume
	maxResponse = 64 << 10 // 128 effects and some notes
	maxObserved = 256      // bytes of an effect's words
	maxNotes    = 32       // degraded modes
)

// A PauseRequest names the fail-safe rule that was crossed. It carries no path
// and no command: what happens is in the enforcer's own copy of the manifest.
type PauseRequest struct {
	Rule     int           // index in the manifest's fail-safe rules
	Fact     facts.Key     // of that rule
	Reading  facts.Reading // that crossed it
	Lasted   int64         // ms the crossing has lasted
	Manifest [32]byte      // SHA-256 of the manifest that the measuring process uses
}

// A Status is what the enforcer says.
type Status struct {
	Latch    appraise.Latch `cbor:"1,keyasint"`            // Clear only with a valid manifest and nothing latched
	Phase    Phase          `cbor:"2,keyasint"`            // Pausing, Paused and Resuming are all LatchPaused
	PauseID  [16]byte       `cbor:"3,keyasint"`            // of the present pause; zero when clear
	Since    int64          `cbor:"4,keyasint,omitempty"`  // Unix seconds as far as the device knows
	Uptime   int64          `cbor:"5,keyasint,omitempty"`  // ms since the boot in which the pause began (CLOCK_BOOTTIME)
	Reason   string         `cbor:"6,keyasint,omitempty"`  // of the pause, or why the latch is unknown; in words
	Effects  []Effect       `cbor:"7,keyasint,omitempty"`  // of the steps of the present pause, or of the last resume
	Degraded []string       `cbor:"8,keyasint,omitempty"`  // what does not work as it should; in words
	Manifest [32]byte       `cbor:"9,keyasint"`            // SHA-256 of the manifest it enforces; zero without one
	Sequence uint64         `cbor:"10,keyasint,omitempty"` // of that manifest
	Deferral *Deferral      `cbor:"11,keyasint,omitempty"` // of the present pause; nil without one

	Maintenance *Maintenance `cbor:"12,keyasint,omitempty"` // with LatchMaintenance

	// Clock is 1 when no time source disciplines the kernel's clock, 2 when one does,
	// 0 when that is not known: the measuring process may not ask the kernel.
	Clock uint8 `cbor:"13,keyasint,omitempty"`
}

// An Effect is what a step was observed to do.
type Effect struct {
	_        struct{}               `cbor:",toarray"`
	Kind     reference.ReactionKind //
	Target   string                 // as in the manifest
	Done     bool                   // the effect was observed
	Observed string                 // in words
	Millis   int64                  // until it was observed, or given up
}

// Reasons for which the enforcer refuses. Client returns errors that wrap them,
// and those of packages reference and cose, as if the enforcer had been called.
var (
	ErrRefused   = errors.New("refused by the enforcer")
	ErrRule      = errors.New("no rule of the manifest asks for this pause")
	ErrNotPaused = errors.New("nothing is paused")
	ErrPause     = errors.New("made for another pause")
	ErrReplayed  = errors.New("this resume was used before")
	ErrLifetime  = errors.New("validity is longer than the manifest allows")
	ErrSigners   = errors.New("another operator has to sign as well")

	ErrNotAllowed    = errors.New("the manifest allows no maintenance")
	ErrPaused        = errors.New("the device is paused, and maintenance ends no pause")
	ErrMaintenance   = errors.New("the device is in maintenance")
	ErrNoMaintenance = errors.New("the device is not in maintenance")
)

// refusals are the reasons with their numbers on the socket, from 1.
func refusals() []error {
	return []error{
		ErrRefused, ErrRule, ErrNotPaused, ErrPause, ErrReplayed, ErrLifetime, ErrSigners,
		reference.ErrUnknownKey, reference.ErrRole, reference.ErrRevoked, reference.ErrExpired, reference.ErrNotYet,
		reference.ErrModel, reference.ErrContent, reference.ErrDevice, cose.ErrType, cose.ErrSignature,
		ErrNotAllowed, ErrPaused, ErrMaintenance, ErrNoMaintenance,
	}
}

// A remoteError is a refusal that came over the socket.
type remoteError struct {
	text   string
	reason error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.reason }

// What is asked.
const (
	askAlive  uint8 = 1 // a sign of life of the measuring process
	askStatus uint8 = 2 // by people; no sign of life
	askPause  uint8 = 3
	askResume uint8 = 4
)

type request struct {
	Ask      uint8      `cbor:"1,keyasint"`
	Pause    *wirePause `cbor:"2,keyasint,omitempty"`
	Document []byte     `cbor:"3,keyasint,omitempty"`
}

type wirePause struct {
	Rule     uint16       `cbor:"1,keyasint"`
	Fact     facts.Key    `cbor:"2,keyasint"`
	Status   facts.Status `cbor:"3,keyasint"`
	Value    *facts.Value `cbor:"4,keyasint,omitempty"`
	Reason   string       `cbor:"5,keyasint,omitempty"` // why there is no value
	Lasted   int64        `cbor:"6,keyasint"`
	Manifest [32]byte     `cbor:"7,keyasint"`
}

type response struct {
	Refused uint8  `cbor:"1,keyasint,omitempty"` // index in refusals, from 1
	Text    string `cbor:"2,keyasint,omitempty"`
	Status  Status `cbor:"3,keyasint"`
}

func decodeRequest(data []byte) (request, error) {
	var r request
	if err := cose.Decode(data, maxRequest, &r); err != nil {
		return request{}, err
	}
	switch {
	case r.Ask < askAlive || r.Ask > askResume:
		return request{}, fmt.Errorf("cannot decode request: unknown kind %d", r.Ask)
	case (r.Ask == askPause) != (r.Pause != nil), (r.Ask == askResume) != (len(r.Document) > 0):
		return request{}, fmt.Errorf("cannot decode request: kind %d with the content of another", r.Ask)
	case r.Pause != nil && (r.Pause.Lasted < 0 || !r.Pause.Status.Known() || (r.Pause.Status == facts.OK) != (r.Pause.Value != nil)):
		return request{}, errors.New("cannot decode request: the reading is none")
	}
	return r, nil
}

func (w *wirePause) request() PauseRequest {
	p := PauseRequest{Rule: int(w.Rule), Fact: w.Fact, Lasted: w.Lasted, Manifest: w.Manifest}
	p.Reading = facts.Reading{Key: w.Fact, Status: w.Status, Reason: w.Reason}
	if w.Value != nil {
		p.Reading.Value = *w.Value
	}
	return p
}

func encodeResponse(s Status, err error) ([]byte, error) {
	r := response{Status: s}
	if err != nil {
		r.Refused, r.Text = 1, clip(err.Error(), maxReason)
		for i, reason := range refusals() {
			if errors.Is(err, reason) {
				r.Refused = uint8(i + 1)
			}
		}
	}
	return cose.Encode(r)
}

func decodeResponse(data []byte) (Status, error) {
	var r response
	if err := cose.Decode(data, maxResponse, &r); err != nil {
		return Status{}, err
	}
	if r.Refused == 0 {
		return r.Status, nil
	}
	reason := ErrRefused
	if all := refusals(); int(r.Refused) <= len(all) {
		reason = all[r.Refused-1]
	}
	return r.Status, &remoteError{r.Text, reason}
}

// A Client talks to the enforcer. It connects when first asked and again when
// the connection was lost. It is safe for concurrent use.
type Client struct {
	socket string
	mu     sync.Mutex
	conn   *net.UnixConn // nil without a connection
	buf    []byte        // of one answer
	last   []byte        // the last answer that was no refusal, most are the same
	status Status        // what it said
	clock  atomic.Uint32 // as the last answer on conn has it; 0 without one. Not under mu: who looks does not wait for an answer
}

// Dial returns a client of the enforcer that listens at socket.
func Dial(socket string) *Client { return &Client{socket: socket, buf: make([]byte, maxResponse+1)} }

// Alive gives a sign of life of the measuring process.
func (c *Client) Alive(ctx context.Context) (Status, error) {
	return c.ask(ctx, request{Ask: askAlive})
}

// Status asks without giving a sign of life.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return c.ask(ctx, request{Ask: askStatus})
}

// Pause asks for a pause. When it returns a Status with LatchPaused, the pause
// is latched and survives a restart; its steps may still be running.
func (c *Client) Pause(ctx context.Context, r PauseRequest) (Status, error) {
	if r.Rule < 0 || r.Rule >= reference.MaxRules {
		return Status{}, fmt.Errorf("cannot ask for a pause: %w: index %d", ErrRule, r.Rule)
	}
	w := &wirePause{Rule: uint16(r.Rule), Fact: r.Fact, Status: r.Reading.Status, Reason: clip(r.Reading.Reason, maxObserved), Lasted: max(r.Lasted, 0), Manifest: r.Manifest}
	if w.Status == facts.OK {
		w.Value = &r.Reading.Value
	}
	return c.ask(ctx, request{Ask: askPause, Pause: w})
}

// Resume presents a signed order: a resume, or one of maintenance. When it returns
// no error, it was accepted; the status is clear when the reverse chain of a resume
// has run.
func (c *Client) Resume(ctx context.Context, document []byte) (Status, error) {
	return c.ask(ctx, request{Ask: askResume, Document: document})
}

// Close closes the connection. The client may be used again.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
}

func (c *Client) drop() {
	c.clock.Store(0)
	c.last = c.last[:0]
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

func (c *Client) ask(ctx context.Context, r request) (Status, error) {
	data, err := cose.Encode(r)
	if err == nil && len(data) > maxRequest {
		err = fmt.Errorf("request of %d bytes, the limit is %d", len(data), maxRequest)
	}
	if err != nil {
		return Status{}, fmt.Errorf("cannot ask the enforcer: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	answer, err := c.exchange(ctx, data)
	if err != nil {
		c.drop()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return Status{}, fmt.Errorf("cannot ask the enforcer: %w", err)
	}
	if len(c.last) > 0 && bytes.Equal(answer, c.last) {
		return c.status, nil
	}
	s, err := decodeResponse(answer)
	c.clock.Store(uint32(s.Clock))
	if c.last = c.last[:0]; err == nil {
		c.last, c.status = append(c.last, answer...), s
	}
	return s, err
}

// Synchronised reports whether a time source disciplines the kernel's clock, as the
// enforcer said last.
func (c *Client) Synchronised() (bool, error) {
	clock := c.clock.Load()
	if clock == 0 {
		return false, errors.New("the enforcer has not said whether the clock is synchronised")
	}
	return clock == 2, nil
}

func (c *Client) exchange(ctx context.Context, data []byte) ([]byte, error) {
	fresh := c.conn == nil
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, c.interrupt(c.conn))
	defer func() { stop() }()
	_, err := c.conn.Write(data)
	if err != nil && !fresh && ctx.Err() == nil {
		// The enforcer was restarted since: nothing was sent, so ask again.
		stop()
		c.drop()
		if err := c.connect(ctx); err != nil {
			return nil, err
		}
		stop = context.AfterFunc(ctx, c.interrupt(c.conn))
		_, err = c.conn.Write(data)
	}
	if err != nil {
		return nil, err
	}
	return readPacket(c.conn, c.buf)
}

func (c *Client) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", c.socket)
	if err != nil {
		return err
	}
	c.conn = conn.(*net.UnixConn)
	return nil
}

// interrupt returns a function that ends what conn is waiting for. The
// connection is not used again after it.
func (c *Client) interrupt(conn *net.UnixConn) func() { return func() { conn.Close() } }

// readPacket reads one message that is shorter than buf into it. io.EOF says that the
// other end has closed.
func readPacket(conn *net.UnixConn, buf []byte) ([]byte, error) {
	n, err := conn.Read(buf)
	switch {
	case err != nil:
		return nil, err
	case n == len(buf):
		return nil, fmt.Errorf("message is longer than %d bytes", len(buf)-1)
	}
	return buf[:n], nil
}

// clip shortens s to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n-3] + "..."
	}
	return strings.ToValidUTF8(s, "")
}

// listen opens the socket at path for users of group gid (-1: leave it).
func listen(path string, gid int) (*net.UnixListener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("cannot listen: %s is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("cannot listen: %w", err)
		}
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	// Until here only credentials decide; they do for every connection.
	if err := errors.Join(os.Chmod(path, 0o660), os.Chown(path, -1, gid)); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot listen at %s: %w", path, err)
	}
	return l, nil
}
