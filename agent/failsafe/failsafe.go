// Package failsafe is the enforcer of a device, `factsd enforce`: the privileged
// process without network that latches a pause, makes it so, holds it through
// restarts, and ends it on a signed resume.
//
// It trusts its configuration, its state directory and the kernel. It opens the
// signed manifest itself, with own keys, to learn what a pause does, and checks
// a resume itself. It does not trust the measuring process on the other end of
// its socket: that can cause a pause with the fixed words of a PauseRequest, and
// can neither end one nor name a step. When that process falls silent, the
// enforcer does what the manifest says about silence.
//
// A pause is latched before anything is done. Only a disk that takes longer than
// diskTime does not hold up the chain: then an intent beside the socket, in
// memory, holds the pause through a restart of the enforcer, and it is confirmed
// when the disk has it (docs/safety.md tells what a power cut does there). What the latch says when copies
// differ, are damaged or lost is decided by the rule that the stricter one wins.
// A step of the chain that fails does not stop the next, and each is followed by
// a look at what really is. While the device is paused the steps are looked at
// again and again, and done again where somebody has undone them.
//
// This is the only package that signals processes and runs a program: a hook that
// the device's maker has put there.
package failsafe

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/agent/quarantine"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// Config is all that an enforcer needs.
type Config struct {
	StateDir  string   // own, root's alone, survives reboots; its parent must exist
	Socket    string   // path of the Unix socket (SEQPACKET), mode 0660
	AllowUIDs []uint32 // users that may ask; the socket gets the group of the first that is not root

	Device                      []byte // UEID, 17 bytes
	Vendor, Model, AgentVersion string
	ManifestPath                string // signed manifest
	KeyLists                    []string
	Roots                       []reference.Root
	Now                         func() reference.Interval // what the device knows of the time
	Synchronised                func() (bool, error)      // whether a time source disciplines the clock; may be nil

	AppSocket  string   // of the application that is told; "" for none
	CgroupRoot string   // where cgroup v2 is mounted
	NeverTouch []string // what no manifest may touch, see reference.NeverTouch
	NV         NV       // nil without a TPM
	Missing    []string // what this enforcer should have and does not, in words; said in each status

	Verifier  []quarantine.Peer // stays reachable in a quarantine; none: no quarantine
	Network   string            // namespace that a quarantine closes: "/proc/1/ns/net"
	Netfilter *os.File          // netlink socket of that namespace; nil: this process is in it
	Sysfs     []string          // files of /sys that a manifest may write to
	Hooks     string            // folder of the hooks; "" for none

	Alive  func() // called once a second as long as the enforcer does its work, for a watchdog; may be nil
	Ready  func() // called once, when a pause that was latched is in force again and the socket listens; may be nil
	Logger *slog.Logger
}

// Intervals and bounds.
const (
	holdEvery   = 2 * time.Second       // a paused device is looked at again
	reloadEvery = time.Minute           // manifest and key lists are opened again
	startGrace  = time.Minute           // silence before the first sign of life after a start counts from here at the earliest
	aliveEvery  = time.Second           // a sign of life
	stuckAfter  = 75 * time.Second      // longer than any step and its last look: then there are no more
	lookTime    = 2 * time.Second       // for the last look at a unit, beyond the step's deadline
	diskTime    = 25 * time.Millisecond // for the latch, before the chain begins without waiting for the disk
	maxConns    = 8                     // connections of one user
	maxRate     = 20                    // requests a second of one user; more have to wait
)

// An Enforcer holds the pause of one device. Make it with New, run it once.
type Enforcer struct {
	cfg   Config
	log   *slog.Logger
	lock  *os.File // held while this process owns the state directory
	latch latchStore
	hands *hands

	kick   chan struct{}   // the phase changed; room for one
	nvKick chan struct{}   // the TPM may have to be written; room for one
	beat   chan struct{}   // life came back after silence; room for one
	loadMu sync.Mutex      // one reload at a time
	nvMu   sync.Mutex      // one write to the TPM at a time
	nvSaid tpm.LatchRecord // what the TPM holds, as far as known; under nvMu
	nvRead bool            // the TPM was read; under nvMu

	mu          sync.Mutex
	rec         record
	policy      policy
	used        used
	pending     [][]byte // resumes of the present pause that wait for another signer
	effects     []Effect
	intent      bool               // a pause that the disk does not have yet is in the intent
	mending     [][]byte           // orders of maintenance that wait for another signer
	may         permission         // to defer the present pause
	deferral    *Deferral          // of the present pause; nil without one
	maintenance *Maintenance       // nil without one
	hurry       context.CancelFunc // ends the deferral; nil when there was none
	ended       []byte             // the pause that was resumed last in this run
	told        []byte             // the pause of which the application was told in this run
	degraded    map[string]string  // by topic, in words
	stop        context.CancelFunc // ends the steps that run now; nil when none do
	life        time.Time          // last sign of life, or start
	alive       bool               // a sign of life came since the start
	silent      bool               // the present silence was acted upon
	worked      time.Time          // the chain was last looked at, or a step of it begun or ended

	connMu sync.Mutex
	conns  map[uint32]int
	rates  map[uint32]*bucket
}

// New takes the state directory and reads what is latched. It enforces nothing
// before Run. Only what keeps it from working at all is an error: a damaged
// latch is a pause, a missing manifest an unknown latch.
func New(cfg Config) (*Enforcer, error) {
	switch {
	case len(cfg.Device) != 17:
		return nil, fmt.Errorf("cannot start enforcer: device id of %d bytes, want 17", len(cfg.Device))
	case cfg.StateDir == "" || cfg.Socket == "" || cfg.Vendor == "" || cfg.Model == "" || cfg.Now == nil || len(cfg.AllowUIDs) == 0:
		return nil, errors.New("cannot start enforcer: state directory, socket, users, vendor, model and clock are all needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Enforcer{
		cfg: cfg, log: cfg.Logger, latch: latchStore{dir: cfg.StateDir}, degraded: map[string]string{},
		kick: make(chan struct{}, 1), nvKick: make(chan struct{}, 1), beat: make(chan struct{}, 1),
		conns: map[uint32]int{}, rates: map[uint32]*bucket{}, life: time.Now(),
	}
	var err error
	if e.hands, err = newHands(&cfg); err != nil {
		return nil, fmt.Errorf("cannot start enforcer: %w", err)
	}
	if err := e.own(); err != nil {
		return nil, fmt.Errorf("cannot start enforcer: %w", err)
	}
	if err := e.open(); err != nil {
		e.Close()
		return nil, fmt.Errorf("cannot start enforcer: %w", err)
	}
	return e, nil
}

// own makes the state directory where it is missing and takes it for this
// process alone.
func (e *Enforcer) own() error {
	if err := os.Mkdir(e.cfg.StateDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot make state directory: %w", err)
	}
	d, err := os.Open(e.cfg.StateDir)
	if err != nil {
		return fmt.Errorf("cannot open state directory: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return fmt.Errorf("cannot take state directory %s, is another enforcer running? %w", e.cfg.StateDir, err)
	}
	e.lock = d
	return nil
}

// open reads latch, TPM, nonces and policy, in this order of importance.
func (e *Enforcer) open() error {
	known, err := e.latch.known()
	if err != nil {
		return err
	}
	var nv nvLatch
	if e.cfg.NV != nil {
		nv, e.nvSaid, err = readNV(e.cfg.NV)
		e.nvRead = nv.state != nvUnread
		e.degrade("tpm at start", err)
	}
	for i, m := range e.cfg.Missing {
		e.degrade(fmt.Sprintf("missing %d", i), errors.New(m))
	}
	rec, notes := reconcile(e.latch.read(), known, nv)
	if rec.Phase.latched() && len(rec.PauseID) == 0 {
		rec.PauseID = newPauseID()
		e.since(&rec)
	}
	if why := e.openIntent(&rec); why != "" {
		notes = append(notes, why)
	}
	if lost := e.openUsed(); lost != nil {
		notes = append(notes, "nonces of used resumes are lost: "+lost.Error())
		e.used = used{}
		if rec.Phase.latched() {
			rec.PauseID = newPauseID() // so that none of them fits any more
		}
		if err := writeState(e.file(fileUsed), e.used); err != nil {
			e.degrade("used", err)
		}
	}
	if len(notes) > 0 {
		e.degrade("state", errors.New(strings.Join(notes, "; ")))
	}
	// Both copies are made to say the same, before the marker that calls
	// missing copies a loss.
	e.rec = rec
	if err := errors.Join(e.latch.begin(&e.rec), e.latch.finish(e.rec)); err != nil {
		e.degrade("latch", fmt.Errorf("the latch cannot be written, a restart may come back as before: %w", err))
	} else {
		e.dropIntent()
	}
	if _, err := os.Stat(e.file(fileMarker)); err != nil {
		if err := writeState(e.file(fileMarker), true); err != nil {
			e.degrade("latch", err)
		}
	}
	e.policy, notes, err = e.openPolicy(policy{nvFloor: e.nvSaid.Floor}, true)
	e.notePolicy(notes)
	return err
}

// Close gives the state directory back. Run does so by itself.
func (e *Enforcer) Close() {
	if e.lock != nil {
		e.lock.Close()
		e.lock = nil
	}
}

func newPauseID() []byte {
	id := make([]byte, 16)
	rand.Read(id)
	return id
}

// since sets the time at which a pause begins.
func (e *Enforcer) since(r *record) {
	now := e.cfg.Now()
	r.Since = max(now.Earliest, now.Latest)
	r.Uptime = uptime()
}

// uptime returns the ms since the boot, time in sleep included (CLOCK_BOOTTIME);
// 0 when the kernel does not say.
func uptime() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return ts.Nano() / int64(time.Millisecond)
}

// degrade notes what does not work under a topic; nil takes it back.
func (e *Enforcer) degrade(topic string, err error) {
	if err == nil {
		delete(e.degraded, topic)
		return
	}
	// Several errors become one line.
	if text := strings.ReplaceAll(err.Error(), "\n", "; "); e.degraded[topic] != text {
		e.degraded[topic] = text
		e.log.Error("degraded", "topic", topic, "err", text)
	}
}

// notePolicy replaces what was wrong with manifest and key lists.
func (e *Enforcer) notePolicy(notes []string) {
	for i := range maxNotes {
		var err error
		if i < len(notes) {
			err = errors.New(notes[i])
		}
		e.degrade(fmt.Sprintf("policy %02d", i), err)
	}
}

// reload opens manifest and key lists anew.
func (e *Enforcer) reload() {
	e.loadMu.Lock()
	defer e.loadMu.Unlock()
	e.mu.Lock()
	old := e.policy
	e.mu.Unlock()
	p, notes, err := e.openPolicy(old, true)
	if err != nil {
		return // only a device without roots, which New refuses
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.note != old.note && p.note != "" {
		e.log.Error("no valid manifest", "err", p.note)
	}
	e.policy = p
	e.notePolicy(notes)
	notify(e.nvKick) // the floor may have risen
}

// Run brings a latched pause into force again, or finishes a resume that was
// accepted, and then serves until ctx ends.
func (e *Enforcer) Run(ctx context.Context) error {
	defer e.Close()
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer func() { cancel(); all.Wait() }()
	all.Go(func() { e.keepNV(ctx) })
	all.Go(func() { e.live(ctx) })
	e.settle(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	gid, err := e.group()
	if err != nil {
		return err
	}
	l, err := listen(e.cfg.Socket, gid)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	all.Go(func() { e.work(ctx) })
	all.Go(func() { e.watch(ctx) })
	if e.cfg.Ready != nil {
		e.cfg.Ready()
	}
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED):
			e.log.Error("cannot accept a connection", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		case err != nil:
			return fmt.Errorf("cannot accept a connection: %w", err)
		default:
			all.Go(func() { e.serve(ctx, conn) })
		}
	}
}

// group returns the group of the first user that is not root, or -1.
func (e *Enforcer) group() (int, error) {
	for _, uid := range e.cfg.AllowUIDs {
		if uid == 0 {
			continue
		}
		u, err := user.LookupId(strconv.Itoa(int(uid)))
		if err != nil {
			return 0, fmt.Errorf("cannot tell the group of user %d: %w", uid, err)
		}
		gid, err := strconv.Atoi(u.Gid)
		if err != nil {
			return 0, fmt.Errorf("cannot tell the group of user %d: %w", uid, err)
		}
		return gid, nil
	}
	return -1, nil
}

// serve answers one connection until it sends something that is none of the
// fixed messages.
func (e *Enforcer) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	uid, err := e.admit(conn)
	if err != nil {
		e.log.Warn("connection refused", "err", err)
		return
	}
	defer e.leave(uid)
	buf := make([]byte, maxRequest+1)
	for {
		data, err := readPacket(conn, buf)
		if err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				e.log.Warn("connection closed", "err", err)
			}
			return
		}
		if !e.pace(ctx, uid) {
			return
		}
		r, err := decodeRequest(data)
		if err != nil {
			e.log.Warn("connection closed: it sent what is no request", "user", uid, "err", err)
			return
		}
		answer, err := encodeResponse(e.answer(r))
		if err != nil {
			e.log.Error("cannot encode answer", "err", err)
			return
		}
		conn.SetWriteDeadline(time.Now().Add(lookTime))
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// admit returns the user on the other end, or why it may not ask.
func (e *Enforcer) admit(conn *net.UnixConn) (uint32, error) {
	cred, err := peer(conn)
	if err != nil {
		return 0, err
	}
	if !slices.Contains(e.cfg.AllowUIDs, cred.Uid) {
		return 0, fmt.Errorf("user %d may not ask (process %d)", cred.Uid, cred.Pid)
	}
	e.connMu.Lock()
	defer e.connMu.Unlock()
	if e.conns[cred.Uid] >= maxConns {
		return 0, fmt.Errorf("user %d has %d connections already", cred.Uid, maxConns)
	}
	e.conns[cred.Uid]++
	if e.rates[cred.Uid] == nil {
		e.rates[cred.Uid] = new(bucket)
	}
	return cred.Uid, nil
}

// peer returns the credentials of the process on the other end (unix(7),
// SO_PEERCRED).
func peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	return cred, cerr
}

func (e *Enforcer) leave(uid uint32) {
	e.connMu.Lock()
	defer e.connMu.Unlock()
	e.conns[uid]--
}

// A bucket holds a user's requests to maxRate a second.
type bucket struct{ next time.Time }

// wait returns how long a request at now has to wait. Up to maxRate requests
// may come at once.
func (b *bucket) wait(now time.Time) time.Duration {
	const each = time.Second / maxRate
	if oldest := now.Add(-time.Second + each); b.next.Before(oldest) {
		b.next = oldest
	}
	wait := b.next.Sub(now)
	b.next = b.next.Add(each)
	return max(wait, 0)
}

func (e *Enforcer) pace(ctx context.Context, uid uint32) bool {
	e.connMu.Lock()
	wait := e.rates[uid].wait(time.Now())
	e.connMu.Unlock()
	if wait == 0 {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// answer does what a request asks for.
func (e *Enforcer) answer(r request) (Status, error) {
	var err error
	switch r.Ask {
	case askAlive:
		e.lives()
	case askPause:
		e.lives()
		err = e.acceptPause(r.Pause.request())
	case askResume:
		err = e.acceptOrder(r.Document)
	}
	if err != nil {
		e.log.Warn("request refused", "err", err)
	}
	return e.status(), err
}

func (e *Enforcer) status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := Status{Phase: e.rec.Phase, Since: e.rec.Since, Uptime: e.rec.Uptime, Reason: e.rec.Reason, Effects: slices.Clone(e.effects)}
	if e.deferral != nil {
		d := *e.deferral
		s.Deferral = &d
	}
	copy(s.PauseID[:], e.rec.PauseID)
	if e.cfg.Synchronised != nil {
		if is, err := e.cfg.Synchronised(); err == nil && is {
			s.Clock = 2
		} else if err == nil {
			s.Clock = 1
		}
	}
	if e.policy.ref != nil {
		s.Manifest, s.Sequence = e.policy.ref.Digest(), e.policy.ref.Manifest().Sequence
	}
	switch {
	case e.rec.Phase != PhaseClear:
		s.Latch = appraise.LatchPaused
	case e.policy.valid && e.maintained() > 0:
		m := *e.maintenance
		s.Latch, s.Maintenance = appraise.LatchMaintenance, &m
	case e.policy.valid:
		s.Latch = appraise.LatchClear
	default:
		s.Latch, s.Reason = appraise.LatchUnknown, clip("no valid manifest: "+e.policy.note, maxReason)
	}
	topics := make([]string, 0, len(e.degraded))
	for topic := range e.degraded {
		topics = append(topics, topic)
	}
	slices.Sort(topics)
	for _, topic := range topics[:min(len(topics), maxNotes)] {
		s.Degraded = append(s.Degraded, clip(e.degraded[topic], maxReason))
	}
	if !e.policy.valid {
		s.Degraded = append(s.Degraded, clip("no valid manifest: "+e.policy.note, maxReason))
	}
	return s
}

// acceptPause latches a pause when a fail-safe rule of the own manifest asks
// for one. Whether the reading really crosses the rule is the measuring
// process's word: who may ask can cause a pause.
func (e *Enforcer) acceptPause(p PauseRequest) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rec.Phase.latched() {
		e.another(p)
		return nil
	}
	if e.maintained() > 0 {
		return fmt.Errorf("cannot pause: %w", ErrMaintenance)
	}
	if mayPause(e.policy.ref, p) != nil {
		// The measuring process may have a newer manifest.
		e.mu.Unlock()
		e.reload()
		e.mu.Lock()
	}
	ref := e.policy.ref
	if err := mayPause(ref, p); err != nil {
		if ref == nil {
			err = fmt.Errorf("%w: %s", err, e.policy.note)
		}
		return fmt.Errorf("cannot pause: %w", err)
	}
	if e.rec.Phase.latched() {
		e.another(p)
		return nil
	}
	e.pause(appraise.Explain(ref, appraise.Result{
		Stage: reference.StagePaused, Index: p.Rule, Verdict: appraise.Deviates, Reading: p.Reading, Lasted: p.Lasted,
	}), ref.Deferral(p.Rule))
	return nil
}

// another takes a reason to pause in a pause: one that is not deferred ends a
// deferral. It is called with mu held.
func (e *Enforcer) another(p PauseRequest) {
	if ref := e.policy.ref; mayPause(ref, p) == nil && ref.Deferral(p.Rule) == nil {
		e.hasten()
	}
}

func mayPause(ref *reference.Reference, p PauseRequest) error {
	if ref == nil {
		return fmt.Errorf("%w: no manifest is open", ErrRule)
	}
	m := ref.Manifest()
	switch {
	case m.Enforce != reference.Pause:
		return fmt.Errorf("%w: enforce is %q", ErrRule, m.Enforce)
	case p.Rule >= len(m.FailSafe):
		return fmt.Errorf("%w: it has %d fail-safe rules, index %d is asked for", ErrRule, len(m.FailSafe), p.Rule)
	case m.FailSafe[p.Rule].Fact != p.Fact:
		return fmt.Errorf("%w: fail-safe rule %d is about %s, not %s", ErrRule, p.Rule, ref.Vocabulary().Name(m.FailSafe[p.Rule].Fact), ref.Vocabulary().Name(p.Fact))
	}
	def, ok := ref.Vocabulary().ByKey(p.Fact)
	if !ok || p.Reading.Status == facts.OK && p.Reading.Value.Kind() != def.Kind {
		return fmt.Errorf("%w: %s is of kind %s, the reading of kind %s", ErrRule, def.Name, def.Kind, p.Reading.Value.Kind())
	}
	return nil
}

// pause latches a pause and lets its chain begin; limit says how far it can be
// deferred, nil that it cannot. It is called with mu held and releases it for a
// while: the chain begins while the second copy is written.
func (e *Enforcer) pause(reason string, limit *reference.Deferral) {
	rec := record{Version: 1, Phase: PhasePausing, PauseID: newPauseID(), Reason: clip(reason, maxReason)}
	e.since(&rec)
	rec.Steps = e.rec.Steps // what a resume has not undone yet
	e.degrade("left", nil)
	e.plan(&rec)
	e.latch.number(&rec)
	written := make(chan error, 1)
	go func() { written <- e.latch.first(rec) }()
	var err error
	held := false // one copy has it
	patience := time.NewTimer(diskTime)
	defer patience.Stop()
	select {
	case err = <-written:
		written <- nil
		held = err == nil
	case <-patience.C:
	}
	if !held {
		err = errors.Join(err, e.intend(rec))
	}
	e.rec, e.pending, e.effects, e.deferral, e.may = rec, nil, nil, nil, permission{}
	kept := make(chan error, 1)
	if limit != nil {
		e.may = permission{rec.PauseID, *limit, kept}
	}
	e.turn()
	notify(e.nvKick)
	e.log.Error("paused", "pause", fmt.Sprintf("%x", rec.PauseID), "reason", rec.Reason)
	e.mu.Unlock()
	err = errors.Join(err, <-written, e.latch.finish(rec))
	kept <- err
	e.mu.Lock()
	e.degrade("latch", err)
	if err == nil {
		e.dropIntent()
	}
}

// intentFile is in memory, as the socket is: a reboot forgets it.
func (e *Enforcer) intentFile() string { return e.cfg.Socket + ".latch" }

// intend writes a pause that the disk does not have into the intent. It is called
// with mu held.
func (e *Enforcer) intend(rec record) error {
	e.intent = true
	if err := writeState(e.intentFile(), rec); err != nil {
		return fmt.Errorf("a restart may come back as before: %w", err)
	}
	return nil
}

// openIntent reads a pause that had begun when the enforcer ended, and that the
// disk did not have yet. It returns what was found.
func (e *Enforcer) openIntent(rec *record) string {
	data, err := durable.Read(e.intentFile(), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	e.intent = true
	var r record
	if err == nil {
		r, err = decodeRecord(data)
	}
	switch {
	case rec.Phase.latched() && (err != nil || r.Generation <= rec.Generation):
		return ""
	case err != nil:
		*rec = record{Version: 1, Phase: PhasePausing, PauseID: newPauseID(), Reason: "state damaged: a pause had begun, and its intent cannot be read"}
		e.since(rec)
		return rec.Reason
	}
	e.latch.generation = max(e.latch.generation, r.Generation)
	*rec = r
	return "a pause had begun that the disk did not have yet"
}

// dropIntent removes the intent when the disk has the latch. It is called with
// mu held.
func (e *Enforcer) dropIntent() {
	if e.intent && os.Remove(e.intentFile()) == nil {
		e.intent = false
	}
}

// plan adds the steps of the manifest in force that rec does not have yet.
func (e *Enforcer) plan(rec *record) {
	if e.policy.ref == nil {
		return
	}
	m, digest := e.policy.ref.Manifest(), e.policy.ref.Digest()
	if bytes.Equal(rec.Manifest, digest[:]) {
		return
	}
	rec.Steps = slices.Clone(rec.Steps)
	for _, r := range m.Reaction {
		if len(rec.Steps) < maxSteps && !slices.ContainsFunc(rec.Steps, func(s step) bool { return s.Reaction.Equal(r) }) {
			// A stopped unit is started again only if it was active, and
			// what was never to be touched stays as it is. An application
			// is told of the resume once.
			undo := r.Do == reference.Tell || r.Do == reference.Prepare && !slices.ContainsFunc(m.Reaction, isTell) || r.Do == reference.Freeze || r.Do == reference.Signal && r.Signal == sigStop
			rec.Steps = append(rec.Steps, step{Reaction: r, Undo: undo && e.hands.forbidden(r) == nil})
		}
	}
	rec.Manifest, rec.Resume = digest[:], m.Resume
}

func isTell(r reference.Reaction) bool { return r.Do == reference.Tell }

// turn makes the worker look at the phase anew. It is called with mu held.
func (e *Enforcer) turn() {
	if e.stop != nil {
		e.stop()
	}
	notify(e.kick)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
