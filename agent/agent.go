// Package agent is the measuring process of a device, `factsd run`: it collects
// facts, compares them with the reference, steps the stage machine, asks the
// enforcer for a pause where one is due, and makes signed reports for the
// verifier.
//
// It faces the network and is trusted with little: it can cause a pause, never
// end one; the enforcer (package agent/failsafe) opens the manifest and checks
// a resume itself. Sampling waits for nobody: signing, the TPM, the disk, the
// enforcer and the network each have a goroutine of their own.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// An Enforcer holds the pause; failsafe.Client is one.
type Enforcer interface {
	Alive(ctx context.Context) (failsafe.Status, error)
	Pause(ctx context.Context, r failsafe.PauseRequest) (failsafe.Status, error)
	Resume(ctx context.Context, document []byte) (failsafe.Status, error)
}

// A Spool keeps messages until the verifier has them; spool.Spool is one.
type Spool interface {
	Append(class spool.Class, topic string, payload []byte) (spool.ID, error)
	Keep(id spool.ID) error
	Stats() spool.Stats
}

// A TPM proves the boot state and the device's identity; tpm.TPM is one.
type TPM interface {
	Quote(extra []byte, pcrs []int) (*tpm.Quote, error)
	Activate(credential, secret []byte) ([]byte, error)
}

// A Watcher calls changed with facts that may have changed, from any goroutine,
// until ctx ends; linux.Events is one.
type Watcher interface {
	Watch(ctx context.Context, changed func(facts.Key)) error
}

// Keys renews the device key; the new one counts after a start.
type Keys interface {
	// Renew begins a renewal by the order with this nonce, durably. It reports
	// whether it was not begun or done before.
	Renew(nonce []byte) (bool, error)
	// Renewed takes over the new key, durably.
	Renewed() error
}

// Config is all that an agent needs.
type Config struct {
	StateDir     string           // own, writable, survives reboots
	ManifestPath string           // signed manifest
	KeyLists     []string         // signed key lists
	Roots        []reference.Root // keys the device was given

	UEID    attest.UEID
	Vendor  string
	Model   string
	Serial  string // "" when there is none
	Version string // of the agent
	BootID  [16]byte

	Signer     *cose.Signer      // device key
	Protection attest.Protection // where it lives
	TPM        TPM               // nil without one
	Identity   *attest.Identity  // nil without a TPM
	Keys       Keys              // nil when the device key cannot be renewed
	Renewal    []byte            // signed renewal that was begun; nil without one
	NextKey    cose.KeyID        // key that it asks for

	Sources   []facts.Source // all but the application's
	Logs      []LogFile      // of the boot, sent as far as they are new; read only when a report is signed
	Events    Watcher        // tells when to read which of them at once; nil when nothing does
	AppSocket string         // "" when no application hands in facts
	AppUIDs   []uint32       // users that may hand in; none: whoever can open the socket

	Period   time.Duration             // of sampling, 1 s
	Deadline time.Duration             // of one source, 100 ms
	Now      func() reference.Interval // what the device knows of the time
	Uptime   func() int64              // ms since boot

	Enforcer Enforcer
	Spool    Spool
	Notes    []string // said in the first report
	Alive    func()   // called after each round, for a watchdog; may be nil
	Log      *slog.Logger
}

// ErrNewManifest ends Run when another manifest or key list is in place: start
// anew, so that nothing of the old one remains.
var ErrNewManifest = errors.New("another manifest is in place")

// ErrNewKey ends Run when the device key changes: start anew, with it.
var ErrNewKey = errors.New("the device key is renewed")

// Intervals of the loop.
const (
	enforcerFresh  = 5 * time.Second  // an answer of the enforcer older than this is none
	findingPause   = 5 * time.Second  // at least this long between two reports of findings
	alarmsAMinute  = 4                // alarms beyond are folded into the next report
	bootPatience   = 10 * time.Minute // then the boot report goes out with what is known
	enrolAgain     = 5 * time.Minute  // an unanswered request is sent again
	quoteEvery     = 15 * time.Minute // between two quotes that nothing calls for
	quotePause     = time.Minute      // at least this long between two that IMA calls for
	sourceDeadline = 100 * time.Millisecond
	roundPause     = 20 * time.Millisecond // at least this long between two rounds
)

// An Agent is one running agent. Make it with New, run it once with Run.
type Agent struct {
	cfg       Config
	store     *stateStore
	trust     *reference.Trust
	ref       *reference.Reference // nil without a valid one
	digest    [32]byte             // of the manifest at start; zero without one
	refNote   string               // why there is no valid reference
	vocab     *facts.Vocabulary
	app       *appSource
	collector *facts.Collector
	compare   *appraise.Comparison
	link      *link
	sealer    *sealer

	state     appraise.State
	latch     appraise.Latch // as the last round saw it
	results   []appraise.Result
	snapshot  facts.Snapshot
	fold      facts.Fold
	deviating []appraise.Result // of the last report
	reason    string            // of the pause this agent asked for
	notes     []string          // said in the next report

	started     time.Time
	bootSent    bool
	nextReport  time.Time
	nextRef     time.Time
	nextEnrol   time.Time
	nextRenewal time.Time
	lastFinding time.Time
	lastQuote   time.Time // when the newest report with a quote was made
	quotedIMA   int64     // entries of the IMA list then
	quoteDue    bool      // after an alarm, which does not wait for the TPM
	logsDue     bool      // the verifier has less of the logs than the device
	alarms      []time.Time
	unalarmed   uint64 // crossings since the last report that made no alarm
	history     *history
	crossed     facts.Key             // the fact of the newest alarm; 0 without one
	maintenance *failsafe.Maintenance // as the last round saw it
	putOff      int64                 // when the newest deferral that was reported began; ms since boot
	effects     int                   // observed effects that were reported
	epoch       *reference.Command    // the newest; nil before the first of this process
	inbox       chan []byte
	wake        chan struct{}
	hurry       hurry
}

// New opens the reference and the state of an agent. A missing or refused
// manifest is no error: the agent then measures and reports, and the device is
// not admitted to operation.
func New(cfg Config) (*Agent, error) {
	if cfg.Period <= 0 {
		cfg.Period = time.Second
	}
	if cfg.Deadline <= 0 {
		cfg.Deadline = sourceDeadline
	}
	if cfg.Enforcer == nil || cfg.Spool == nil || cfg.Signer == nil || cfg.Now == nil || cfg.Uptime == nil {
		return nil, errors.New("cannot start agent: enforcer, spool, device key and clocks are all needed")
	}
	store, err := openState(cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("cannot start agent: %w", err)
	}
	a := &Agent{cfg: cfg, store: store, inbox: make(chan []byte, 16), wake: make(chan struct{}, 1)}
	a.hurry.wake = a.wake
	a.notes = append(slices.Clone(cfg.Notes), store.notes...)
	if a.trust, a.ref, err = openReference(&cfg, store); err != nil {
		a.refuseReference(err)
	}
	app := []facts.Def{}
	a.vocab, err = facts.NewVocabulary(nil)
	if err != nil {
		return nil, fmt.Errorf("cannot start agent: %w", err)
	}
	if a.ref != nil {
		a.vocab, a.digest = a.ref.Vocabulary(), a.ref.Digest()
		a.compare = appraise.NewComparison(a.ref)
		for _, d := range a.vocab.Defs() {
			if d.Key >= facts.AppKeyMin {
				app = append(app, d)
			}
		}
		if err := store.raiseFloor(a.ref.Manifest().Sequence); err != nil {
			return nil, fmt.Errorf("cannot start agent: %w", err)
		}
	}
	a.history = newHistory(a.ref)
	sources := slices.Clone(cfg.Sources)
	if cfg.AppSocket != "" && len(app) > 0 {
		if a.app, err = listenApp(cfg.AppSocket, app, cfg.AppUIDs, time.Now, a.hurry.add, cfg.Log); err != nil {
			return nil, err
		}
		sources = append(sources, a.app)
	}
	if a.collector, err = facts.NewCollector(sources, cfg.Deadline, cfg.Uptime); err != nil {
		return nil, err
	}
	a.link = &link{enforcer: cfg.Enforcer, wanted: make(chan struct{}, 1), changed: a.wake, now: time.Now, log: cfg.Log}
	a.sealer = newSealer(&cfg, store)
	return a, nil
}

func (a *Agent) refuseReference(err error) {
	a.ref, a.compare, a.refNote = nil, nil, "no valid reference: "+err.Error()
	a.cfg.Log.Error("no valid reference: the device is not admitted to operation", "err", err)
}

// Deliver hands in a message from the verifier. It never blocks; what does not
// fit into the inbox is dropped, and the verifier asks again.
func (a *Agent) Deliver(payload []byte) {
	select {
	case a.inbox <- payload:
	default:
		a.cfg.Log.Warn("dropped a message from the verifier: the inbox is full")
	}
}

// Run samples until ctx ends or another manifest is in place.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() { a.link.run(ctx) })
	ended.Go(func() { a.sealer.run(ctx) })
	if a.cfg.Events != nil {
		ended.Go(func() {
			if err := a.cfg.Events.Watch(ctx, a.hurry.add); err != nil && ctx.Err() == nil {
				a.cfg.Log.Error("events are not watched: what changes is seen within a minute", "err", err)
			}
		})
	}
	if a.app != nil {
		go a.app.serve()
		defer a.app.close()
	}
	defer a.collector.Close()
	defer func() { cancel(); ended.Wait() }()

	tick := time.NewTicker(a.cfg.Period)
	defer tick.Stop()
	a.started = time.Now()
	a.nextRef = a.started.Add(facts.SlowPeriod)
	event := false
	for {
		now := time.Now()
		if event {
			a.eventRound(now)
		} else if err := a.round(now); err != nil {
			return err
		}
		event = false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case m := <-a.inbox:
			if err := a.receive(m); err != nil {
				return err
			}
		case <-a.wake:
			// An event is looked at at once, a flood of them at most so often.
			event = true
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(roundPause - time.Since(now)):
			}
		}
	}
}

// eventRound reads what an event is about and nothing else, and goes on from
// there like every round.
func (a *Agent) eventRound(now time.Time) {
	a.judge(now, a.collector.CollectOnly(now, a.hurry.take()))
}

// round is one pass from measurement to effects.
func (a *Agent) round(now time.Time) error {
	if now.After(a.nextRef) {
		a.nextRef = now.Add(facts.SlowPeriod)
		if err := a.reopenReference(); err != nil {
			return err
		}
	}
	a.judge(now, a.collector.Collect(now))
	a.link.alive()
	return nil
}

// judge compares a snapshot with the reference and does what follows.
func (a *Agent) judge(now time.Time, snapshot facts.Snapshot) {
	a.snapshot = snapshot
	in := appraise.Input{Reference: a.ref != nil}
	in.Latch, a.maintenance = a.link.latch(now)
	a.results, a.latch = nil, in.Latch
	var extreme appraise.Result
	if a.ref != nil {
		a.results = a.compare.Compare(a.snapshot)
		in.Enforce = a.ref.Manifest().Enforce
		in.Integration = appraise.Integration(a.results)
		extreme, in.Extreme = appraise.Extreme(a.results)
	}
	before := a.state
	next, do := appraise.Step(before, in)
	if do.RequestPause {
		a.requestPause(extreme, in.Extreme)
	}
	a.state = next
	if do.Restart {
		// Also a reading from before the resume says nothing about now: an
		// event may be what comes next, and it reads its own fact only.
		a.compare.Restart()
		a.snapshot = a.collector.CollectAgain(now)
		a.results = a.compare.Compare(a.snapshot)
		a.reason, a.effects = "", 0
	}
	a.hasten()
	if do.Report {
		a.cfg.Log.Info("stage changed", "from", before.Stage, "to", next.Stage, "latch", in.Latch, "integration", in.Integration)
	}
	a.fold.Add(a.snapshot)
	a.history.add(a.snapshot)
	if do.Alarm {
		a.crossed = extreme.Reading.Key
	}
	a.report(now, before, do)
	if a.cfg.Alive != nil {
		a.cfg.Alive()
	}
}

// A hurry collects the facts that are to be read before the next period.
type hurry struct {
	wake  chan<- struct{}
	mu    sync.Mutex
	keys  []facts.Key
	taken []facts.Key
}

func (h *hurry) add(k facts.Key) {
	h.mu.Lock()
	if !slices.Contains(h.keys, k) {
		h.keys = append(h.keys, k)
	}
	h.mu.Unlock()
	notify(h.wake)
}

// take returns the facts, valid until the next call.
func (h *hurry) take() []facts.Key {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys, h.taken = h.taken[:0], h.keys
	return h.taken
}

func (a *Agent) requestPause(x appraise.Result, crossed bool) {
	if crossed {
		a.reason = appraise.Explain(a.ref, x)
		a.link.pause(failsafe.PauseRequest{Rule: x.Index, Fact: x.Reading.Key, Reading: x.Reading, Lasted: x.Lasted, Manifest: a.digest})
		return
	}
	a.link.again()
}

// hasten tells the enforcer of an extreme for which no pause waits, while one is
// put off.
func (a *Agent) hasten() {
	if a.ref == nil || !a.link.putOff() {
		return
	}
	for _, x := range a.results {
		if x.Stage == reference.StagePaused && x.Verdict == appraise.Deviates && a.ref.Deferral(x.Index) == nil {
			a.link.pause(failsafe.PauseRequest{Rule: x.Index, Fact: x.Reading.Key, Reading: x.Reading, Lasted: x.Lasted, Manifest: a.digest})
			return
		}
	}
}

// reopenReference looks whether the reference still holds and is still the one.
func (a *Agent) reopenReference() error {
	trust, ref, err := openReference(&a.cfg, a.store)
	switch {
	case err != nil && a.ref != nil:
		a.refuseReference(err)
	case err != nil:
		a.refNote = "no valid reference: " + err.Error()
	case ref.Digest() != a.digest || a.ref == nil:
		return ErrNewManifest
	default:
		a.trust = trust
	}
	return nil
}
