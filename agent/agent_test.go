package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// enforcer stands in for the other process where a test is about the loop; the
// system tests run the real one.
type enforcer struct {
	mu       sync.Mutex
	status   failsafe.Status
	err      error
	alive    int // signs of life
	requests []failsafe.PauseRequest
	resumes  [][]byte
}

func (e *enforcer) Alive(context.Context) (failsafe.Status, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.alive++
	return e.status, e.err
}

func (e *enforcer) Pause(_ context.Context, r failsafe.PauseRequest) (failsafe.Status, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests = append(e.requests, r)
	if e.err == nil {
		e.status.Latch, e.status.PauseID, e.status.Reason = appraise.LatchPaused, [16]byte{9}, "app.flow"
	}
	return e.status, e.err
}

func (e *enforcer) Resume(_ context.Context, document []byte) (failsafe.Status, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.resumes = append(e.resumes, document)
	return e.status, errors.New("not by this test")
}

// memory is a spool that keeps everything.
type memory struct {
	mu       sync.Mutex
	added    chan struct{}
	messages []spool.Message
}

func (m *memory) Append(class spool.Class, topic string, payload []byte) (spool.ID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	notify(m.added)
	m.messages = append(m.messages, spool.Message{ID: spool.ID(len(m.messages) + 1), Class: class, Topic: topic, Payload: payload})
	return m.messages[len(m.messages)-1].ID, nil
}

func (m *memory) Keep(spool.ID) error { return nil }

func (m *memory) Stats() spool.Stats { return spool.Stats{} }

func (m *memory) all() []spool.Message {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.messages)
}

type source struct {
	cadence  facts.Cadence
	mu       sync.Mutex
	readings []facts.Reading
}

func (s *source) Name() string           { return "test" }
func (s *source) Cadence() facts.Cadence { return s.cadence }
func (s *source) Keys() []facts.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := []facts.Key{}
	for _, r := range s.readings {
		keys = append(keys, r.Key)
	}
	return keys
}
func (s *source) Read(dst []facts.Reading) []facts.Reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append(dst, s.readings...)
}

func (s *source) set(k facts.Key, v facts.Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.readings {
		if s.readings[i].Key == k {
			s.readings[i] = facts.Reading{Key: k, Value: v}
		}
	}
}

type bench struct {
	t        *testing.T
	world    *referencetest.World
	agent    *Agent
	cfg      Config
	enforcer *enforcer
	spool    *memory
	fast     *source
	uptime   int64
	now      time.Time
	unix     int64
}

func newBench(t *testing.T, edit func(*reference.Manifest)) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{t: t, world: referencetest.New(t), spool: &memory{added: make(chan struct{}, 1)}, now: time.Now(), unix: referencetest.Now,
		enforcer: &enforcer{status: failsafe.Status{Latch: appraise.LatchClear}},
		fast: &source{cadence: facts.Fast, readings: []facts.Reading{
			{Key: 20, Value: facts.IntValue(100)}, {Key: 70, Value: facts.SetValue([]string{"tcp/0.0.0.0:22"})}, {Key: 1000, Value: facts.IntValue(100)},
		}}}
	m := referencetest.Example()
	if edit != nil {
		edit(&m)
	}
	b.file(dir, "manifest", b.sign(m))
	b.file(dir, "mkeys", b.world.ManufacturerKeys)
	b.file(dir, "okeys", b.world.OperatorKeys)
	boot := &source{cadence: facts.Boot, readings: []facts.Reading{{Key: 6, Value: facts.IntValue(9000)}, {Key: 9, Value: facts.IntValue(4)}}}
	b.cfg = Config{
		StateDir: filepath.Join(dir, "state"), ManifestPath: filepath.Join(dir, "manifest"),
		KeyLists: []string{filepath.Join(dir, "mkeys"), filepath.Join(dir, "okeys")},
		Roots: []reference.Root{
			{Key: b.world.ManufacturerRoot.Public(), Owner: reference.Manufacturer},
			{Key: b.world.OperatorRoot.Public(), Owner: reference.Operator},
		},
		UEID: attest.NewUEID([16]byte{1}), Vendor: "Example Medical", Model: "pump-1", Version: "0.1.0", BootID: [16]byte{5},
		Signer: referencetest.Signer(t), Protection: attest.ProtectionFile,
		Sources: []facts.Source{b.fast, boot},
		Now:     func() reference.Interval { return reference.At(b.unix) }, Uptime: func() int64 { return b.uptime },
		Enforcer: b.enforcer, Spool: b.spool, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	b.start()
	if err := b.agent.store.setEnrolled(); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) sign(m reference.Manifest) []byte {
	b.t.Helper()
	data, err := reference.SignManifest(&m, b.world.Manifest)
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

func (b *bench) file(dir, name string, data []byte) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) start() {
	b.t.Helper()
	a, err := New(b.cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(a.collector.Close)
	a.link.now, a.started = func() time.Time { return b.now }, b.now
	b.agent = a
}

// round runs one round one second later, with the enforcer asked before and the
// reports sealed after.
func (b *bench) round() {
	b.t.Helper()
	b.now = b.now.Add(time.Second)
	b.uptime += 1000
	b.agent.link.ask(context.Background())
	if err := b.agent.round(b.now); err != nil {
		b.t.Fatal(err)
	}
	b.agent.link.ask(context.Background())
	for {
		j, ok := b.agent.sealer.next()
		if !ok {
			return
		}
		b.agent.sealer.do(context.Background(), j)
	}
}

// evidence returns all messages but the requests to be enrolled.
func (b *bench) evidence() []spool.Message {
	return slices.DeleteFunc(b.spool.all(), func(m spool.Message) bool { return m.Topic == "enrol" })
}

func (b *bench) reports() []*attest.Report {
	b.t.Helper()
	var out []*attest.Report
	for _, m := range b.evidence() {
		u, err := attest.Decode(m.Payload)
		if err != nil {
			b.t.Fatal(err)
		}
		v, err := u.Verify(b.cfg.Signer.Public())
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, v.Report())
	}
	return out
}

func (b *bench) stage(want reference.Stage) {
	b.t.Helper()
	if b.agent.state.Stage != want {
		b.t.Fatalf("stage %s, want %s", b.agent.state.Stage, want)
	}
}

func TestThreeStages(t *testing.T) {
	b := newBench(t, nil)
	b.round()
	b.stage(reference.StageIntegration)
	b.round()
	b.stage(reference.StageOperating)
	b.fast.set(70, facts.SetValue([]string{"tcp/0.0.0.0:22", "tcp/0.0.0.0:4444"}))
	for range 6 {
		b.round()
	}
	b.stage(reference.StageOperating)
	b.fast.set(1000, facts.IntValue(620))
	for range 3 {
		b.round()
		b.stage(reference.StageOperating) // the hold of 3 s is not over
	}
	b.round()
	b.stage(reference.StagePaused)
	if len(b.enforcer.requests) == 0 || b.enforcer.requests[0].Fact != 1000 || b.enforcer.requests[0].Lasted != 3000 {
		t.Fatalf("requests %+v", b.enforcer.requests)
	}
	b.round()
	if !b.agent.state.Latched {
		t.Error("the confirmed latch was not taken over")
	}
	// The enforcer accepted a resume.
	b.enforcer.mu.Lock()
	b.enforcer.status = failsafe.Status{Latch: appraise.LatchClear}
	b.enforcer.mu.Unlock()
	b.fast.set(1000, facts.IntValue(100))
	b.round()
	b.stage(reference.StageIntegration)
	b.round()
	b.stage(reference.StageOperating)

	kinds, last := "", uint64(0)
	var previous []byte
	for i, r := range b.reports() {
		kinds += r.Body.Kind.String() + ":" + r.Body.Stage.String() + " "
		if r.Body.Sequence != last+1 || i > 0 && !bytes.Equal(r.Body.Previous, previous) {
			t.Errorf("report %d has sequence %d and predecessor %x, want %x", i, r.Body.Sequence, r.Body.Previous, previous)
		}
		last = r.Body.Sequence
		var m attest.Message
		if err := cose.Decode(b.evidence()[i].Payload, attest.MaxMessageSize, &m); err != nil {
			t.Fatal(err)
		}
		previous = digestOf(m.Report)
	}
	for _, want := range []string{"boot:", "finding:operating", "alarm:paused", "stage:paused", "stage:integration", "stage:operating"} {
		if !strings.Contains(kinds, want) {
			t.Errorf("no report %q in %s", want, kinds)
		}
	}
	for _, m := range b.spool.all() {
		u, err := attest.Decode(m.Payload)
		if err != nil {
			continue
		}
		b := u.Unverified().Body
		if (b.Kind == attest.KindAlarm) != (m.Class == spool.Alarm) {
			t.Errorf("%s went as %s", b.Kind, m.Class)
		}
		// The value that crossed is the last one of its minute.
		if h := b.History; (b.Kind == attest.KindAlarm) != (h != nil) || h != nil && (h.Fact != 1000 || h.Samples[len(h.Samples)-1].Value <= 500) {
			t.Errorf("%s with the history %+v", b.Kind, h)
		}
	}
}

// A pause that is put off is told by an alarm of its own, at once; an extreme for
// which no pause waits is told to the enforcer meanwhile.
func TestDeferredPauseIsTold(t *testing.T) {
	b := newBench(t, func(m *reference.Manifest) {
		m.FailSafe = append(m.FailSafe, reference.Rule{Fact: 91, Op: reference.Range, Max: new(int64)})
		m.Leeway = &reference.Leeway{Defer: &reference.Deferral{Most: 300, Total: 900, User: "pump", Answer: 200, NeverIntegrity: true}}
	})
	b.fast.readings = append(b.fast.readings, facts.Reading{Key: 91, Value: facts.IntValue(0)})
	b.start()
	b.round()
	b.round()
	b.stage(reference.StageOperating)
	b.fast.set(1000, facts.IntValue(620))
	for range 4 {
		b.round()
	}
	b.stage(reference.StagePaused)
	alarms := func() (n int, last *attest.Deferral) {
		for _, r := range b.reports() {
			if r.Body.Kind == attest.KindAlarm {
				n, last = n+1, r.Body.Deferral
			}
		}
		return n, last
	}
	if n, d := alarms(); n != 1 || d != nil {
		t.Fatalf("%d alarms of the crossing, with %+v", n, d)
	}
	status := func(d failsafe.Deferral) {
		b.enforcer.mu.Lock()
		b.enforcer.status.Deferral = &d
		b.enforcer.mu.Unlock()
	}
	status(failsafe.Deferral{Began: 5000, Until: 305_000})
	for range 3 {
		b.round()
	}
	if n, d := alarms(); n != 2 || d == nil || *d != (attest.Deferral{Began: 5000, Until: 305_000}) {
		t.Errorf("%d alarms, the newest with %+v", n, d)
	}
	b.stage(reference.StagePaused)
	asked := len(b.enforcer.requests)
	b.fast.set(91, facts.IntValue(1))
	b.round()
	b.round()
	if len(b.enforcer.requests) == asked || b.enforcer.requests[asked].Fact != 91 {
		t.Errorf("the enforcer was not told of another extreme: %+v", b.enforcer.requests)
	}
	status(failsafe.Deferral{Began: 5000, Until: 305_000, Ended: 9000, Why: failsafe.EndedReason})
	b.enforcer.mu.Lock()
	b.enforcer.status.Effects = []failsafe.Effect{{Kind: reference.Freeze, Target: "medical.slice", Done: true, Observed: "frozen"}}
	b.enforcer.mu.Unlock()
	asked = len(b.enforcer.requests)
	b.round()
	b.round()
	rs := b.reports()
	if d := rs[len(rs)-1].Body.Deferral; d == nil || d.Why != attest.EndedReason || len(b.enforcer.requests) > asked+1 {
		t.Errorf("after it: %+v, %d requests", d, len(b.enforcer.requests)-asked)
	}
}

// In maintenance an extreme alarms and asks for no pause; after it the comparison
// begins anew.
func TestMaintenance(t *testing.T) {
	b := newBench(t, nil)
	say := func(s failsafe.Status) {
		b.enforcer.mu.Lock()
		b.enforcer.status = s
		b.enforcer.mu.Unlock()
	}
	b.round()
	b.round()
	b.stage(reference.StageOperating)
	say(failsafe.Status{Latch: appraise.LatchMaintenance, Maintenance: &failsafe.Maintenance{Began: 2000, Until: 7_202_000}})
	b.round()
	b.stage(reference.StageMaintenance)
	b.fast.set(1000, facts.IntValue(620))
	for range 5 {
		b.round()
		b.stage(reference.StageMaintenance)
	}
	if len(b.enforcer.requests) != 0 {
		t.Errorf("asked for a pause: %+v", b.enforcer.requests)
	}
	alarms := 0
	for _, r := range b.reports() {
		if (r.Body.Stage == reference.StageMaintenance) != (r.Body.Maintain != nil) {
			t.Errorf("stage %s with %+v", r.Body.Stage, r.Body.Maintain)
		}
		if r.Body.Kind == attest.KindAlarm && r.Body.Maintain.Until == 7_202_000 && r.Body.History != nil {
			alarms++
		}
	}
	if alarms != 1 {
		t.Errorf("%d alarms of one crossing", alarms)
	}
	// Its end: the crossing begins anew too.
	say(failsafe.Status{Latch: appraise.LatchClear})
	b.round()
	b.stage(reference.StageIntegration)
	for range 4 {
		b.round()
	}
	b.stage(reference.StagePaused)
	if len(b.enforcer.requests) == 0 || b.enforcer.requests[0].Lasted != 3000 {
		t.Errorf("requests %+v", b.enforcer.requests)
	}
	// What the enforcer says of maintenance without saying until when is not known.
	say(failsafe.Status{Latch: appraise.LatchMaintenance})
	b.round()
	b.stage(reference.StagePaused)
}

// resumed lets the enforcer accept a resume.
func (e *enforcer) resumed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = failsafe.Status{Latch: appraise.LatchClear}
}

// TestResumeReadsAnew wants no reading from before a resume to pause again: not
// that of a fact that is read once a minute, and not that of a fast one when an
// event comes first.
func TestResumeReadsAnew(t *testing.T) {
	for _, cadence := range []facts.Cadence{facts.Fast, facts.Slow} {
		b := newBench(t, func(m *reference.Manifest) {
			m.FailSafe = append(m.FailSafe, reference.Rule{Fact: 70, Op: reference.SubsetOf, Values: []facts.Value{facts.SetValue([]string{"tcp/0.0.0.0:22"})}})
		})
		b.fast.cadence = cadence
		b.round()
		b.round()
		b.stage(reference.StageOperating)
		b.fast.set(70, facts.SetValue([]string{"tcp/0.0.0.0:22", "tcp/0.0.0.0:4444"}))
		b.now = b.now.Add(facts.SlowPeriod)
		b.round()
		b.round()
		b.stage(reference.StagePaused)
		b.fast.set(70, facts.SetValue([]string{"tcp/0.0.0.0:22"}))
		b.enforcer.resumed()
		b.agent.link.ask(t.Context())
		for range 3 {
			b.now = b.now.Add(roundPause)
			b.agent.eventRound(b.now)
		}
		b.agent.link.ask(t.Context())
		if s := b.agent.state.Stage; s == reference.StagePaused || len(b.enforcer.requests) != 1 {
			t.Errorf("cadence %v: %s after the resume, %d requests", cadence, s, len(b.enforcer.requests))
		}
	}
}

// TestShortPause wants a pause that was resumed before the loop looked again not
// to be asked for a second time.
func TestShortPause(t *testing.T) {
	b := newBench(t, nil)
	b.round()
	b.round()
	b.stage(reference.StageOperating)
	b.fast.set(1000, facts.IntValue(620))
	for range 4 {
		b.round()
	}
	b.stage(reference.StagePaused)
	b.fast.set(1000, facts.IntValue(100))
	b.enforcer.resumed()
	for range 4 {
		b.round()
	}
	b.stage(reference.StageOperating)
	if n := len(b.enforcer.requests); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// However often an extreme is crossed, at most four alarms leave in a minute, and
// none is lost: the next report counts the others.
func TestFourAlarmsAMinute(t *testing.T) {
	b := newBench(t, func(m *reference.Manifest) {
		m.Enforce = reference.Alarm
		for i := range m.FailSafe {
			m.FailSafe[i].Hold = 0
		}
	})
	b.round()
	b.round()
	crossings := 0
	for range 75 { // two and a half minutes, a crossing every other second
		crossings++
		for _, flow := range []int64{620, 100} {
			b.fast.set(1000, facts.IntValue(flow))
			b.round()
		}
	}
	for range 70 { // what is left to be counted goes with the next report
		b.round()
	}
	var alarms []uint64
	counted := uint64(0)
	for _, r := range b.reports() {
		if r.Body.Kind == attest.KindAlarm {
			alarms = append(alarms, r.Uptime)
		}
		counted += r.Body.Unalarmed
	}
	for i := 4; i < len(alarms); i++ {
		if alarms[i]-alarms[i-4] < 60 {
			t.Errorf("five alarms from %d to %d s", alarms[i-4], alarms[i])
		}
	}
	if len(alarms) < 8 || uint64(len(alarms))+counted != uint64(crossings) {
		t.Errorf("%d alarms and %d counted of %d crossings", len(alarms), counted, crossings)
	}
}

func TestNeverOperating(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*bench)
		note string
	}{
		{"no manifest", func(b *bench) { os.Remove(b.cfg.ManifestPath) }, "cannot read manifest"},
		{"damaged manifest", func(b *bench) { b.file(filepath.Dir(b.cfg.ManifestPath), "manifest", []byte("x")) }, "cannot open manifest"},
		{"oversized manifest", func(b *bench) {
			b.file(filepath.Dir(b.cfg.ManifestPath), "manifest", make([]byte, reference.MaxManifestSize+1))
		}, "the limit is"},
		{"expired manifest", func(b *bench) { b.unix = 3_000_000_000 }, "validity has ended"},
		{"manifest of another model", func(b *bench) { b.cfg.Model = "pump-2" }, "another device model"},
		{"rolled-back manifest", func(b *bench) {
			m := referencetest.Example()
			m.Sequence = 2
			b.file(filepath.Dir(b.cfg.ManifestPath), "manifest", b.sign(m))
		}, "sequence is below"},
		{"manifest for a newer agent", func(b *bench) {
			m := referencetest.Example()
			m.Sequence, m.MinAgent = 4, "9.0.0"
			b.file(filepath.Dir(b.cfg.ManifestPath), "manifest", b.sign(m))
		}, "needs a newer agent"},
		{"no key list", func(b *bench) { os.Remove(b.cfg.KeyLists[0]) }, "cannot read key list"},
		{"the enforcer does not answer", func(b *bench) { b.enforcer.err = errors.New("no answer") }, "does not answer"},
		{"the enforcer does not know", func(b *bench) { b.enforcer.status.Latch = appraise.LatchUnknown }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, nil)
			tt.edit(b)
			b.start()
			for range 3 {
				b.round()
				b.stage(reference.StageIntegration)
			}
			rs := b.reports()
			if len(rs) == 0 {
				t.Fatal("it is not reported")
			}
			if !strings.Contains(strings.Join(rs[0].Body.Notes, "; "), tt.note) {
				t.Errorf("notes %q, want one with %q", rs[0].Body.Notes, tt.note)
			}
		})
	}
}

// Rounds come a little early and a little late; a report is due all the same.
func TestReportEveryRound(t *testing.T) {
	b := newBench(t, func(m *reference.Manifest) { m.ReportEvery = 1 })
	for range 5 {
		b.round()
	}
	before := len(b.reports())
	for i := range 20 {
		b.now = b.now.Add([]time.Duration{-3, 3}[i%2] * time.Millisecond)
		b.round()
	}
	if n := len(b.reports()) - before; n != 20 {
		t.Errorf("%d reports in 20 rounds, one is due in each", n)
	}
}

// An agent that does not sample gives no sign of life, whatever else in it runs.
func TestSignsOfLifeComeFromTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		goOn := make(chan struct{})
		var stuck atomic.Bool
		b.agent.cfg.Alive = func() {
			if stuck.Load() {
				<-goOn
			}
		}
		signs := func() int {
			b.enforcer.mu.Lock()
			defer b.enforcer.mu.Unlock()
			return b.enforcer.alive
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { b.agent.Run(ctx); close(done) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := signs(); n < 10 {
			t.Errorf("%d signs of life in 10 s, one is due in each", n)
		}
		stuck.Store(true)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		before := signs()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := signs() - before; n != 0 {
			t.Errorf("%d signs of life from an agent that hangs", n)
		}
		close(goOn)
		cancel()
		<-done
	})
}

func TestRestartKeepsTheChain(t *testing.T) {
	b := newBench(t, nil)
	b.round()
	b.round()
	last := b.agent.store.end
	if last.Sequence == 0 {
		t.Fatal("no report")
	}
	// The power went between numbering and storing: the spool lost the message.
	b.spool.messages = nil
	<-b.spool.added
	b.start()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { b.agent.sealer.run(ctx); close(done) }()
	<-b.spool.added // the newest report is stored again
	cancel()
	<-done
	b.round()
	b.round()
	rs := b.reports()
	if rs[0].Body.Sequence != last.Sequence || rs[1].Body.Sequence != last.Sequence+1 || !bytes.Equal(rs[1].Body.Previous, last.Digest) {
		t.Errorf("reports after the restart: %d, then %d", rs[0].Body.Sequence, rs[1].Body.Sequence)
	}
}

func TestDamagedStateIsSaid(t *testing.T) {
	b := newBench(t, nil)
	b.round()
	if err := os.WriteFile(filepath.Join(b.cfg.StateDir, "chain"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	if !strings.Contains(strings.Join(b.agent.notes, ";"), "state chain was damaged") {
		t.Errorf("notes %q", b.agent.notes)
	}
	if _, err := os.Stat(filepath.Join(b.cfg.StateDir, "chain.damaged")); err != nil {
		t.Errorf("the damaged file was not kept: %v", err)
	}
}

func TestNewManifestEndsTheRun(t *testing.T) {
	b := newBench(t, nil)
	b.round()
	m := referencetest.Example()
	m.Sequence++
	b.file(filepath.Dir(b.cfg.ManifestPath), "manifest", b.sign(m))
	b.agent.nextRef = b.now
	b.now = b.now.Add(time.Second)
	if err := b.agent.round(b.now); !errors.Is(err, ErrNewManifest) {
		t.Errorf("error %v", err)
	}
}

// The newest epoch is in each report from then on, and the first one calls for a
// quote; what is none, or was before, changes nothing.
func TestEpoch(t *testing.T) {
	b := newBench(t, nil)
	tpm := &quoter{}
	b.cfg.TPM = tpm
	b.start()
	b.round()
	b.round()
	tell := func(nonce byte, from int64, change func(*reference.Command), key *cose.Signer) {
		t.Helper()
		c := reference.Command{Version: 1, Kind: reference.Epoch, Nonce: bytes.Repeat([]byte{nonce}, 16), NotBefore: from, NotAfter: referencetest.Now + 600}
		if change != nil {
			change(&c)
		}
		data, err := reference.SignCommand(&c, key)
		if err != nil {
			t.Fatal(err)
		}
		down, err := cose.Encode(attest.Down{Command: data})
		if err != nil {
			t.Fatal(err)
		}
		b.agent.receive(down)
	}
	newest := func() *attest.Report {
		t.Helper()
		b.agent.nextReport = b.now
		b.round()
		all := b.reports()
		return all[len(all)-1]
	}
	if r := newest(); r.Nonce != nil {
		t.Errorf("a report before the first epoch has nonce %x", r.Nonce)
	}
	quotes := tpm.quotes
	for _, step := range []struct {
		name   string
		nonce  byte
		from   int64
		change func(*reference.Command)
		key    *cose.Signer
		want   byte
	}{
		{"the first", 1, referencetest.Now - 60, nil, b.world.Command, 1},
		{"a newer one", 2, referencetest.Now - 30, nil, b.world.Command, 2},
		{"an older one again", 1, referencetest.Now - 60, nil, b.world.Command, 2},
		{"another of the same time", 3, referencetest.Now - 30, nil, b.world.Command, 2},
		{"by a key that may not", 3, referencetest.Now, nil, b.world.Resume, 2},
		{"one that has ended", 3, referencetest.Now - 20, func(c *reference.Command) { c.NotAfter = referencetest.Now - 1 }, b.world.Command, 2},
		{"one that has not begun", 3, referencetest.Now + 10, nil, b.world.Command, 2},
		{"the newest", 4, referencetest.Now, nil, b.world.Command, 4},
	} {
		tell(step.nonce, step.from, step.change, step.key)
		r := newest()
		if !bytes.Equal(r.Nonce, bytes.Repeat([]byte{step.want}, 16)) {
			t.Errorf("%s: nonce %x, want that of epoch %d", step.name, r.Nonce, step.want)
		}
		if step.name == "the first" && tpm.quotes != quotes+1 {
			t.Errorf("%d quotes after the first epoch, want one", tpm.quotes-quotes)
		}
	}
	if n := len(b.enforcer.resumes); n != 0 {
		t.Errorf("%d epochs were handed to the enforcer", n)
	}
}

// keys stands in for the file that says which key counts.
type keys struct {
	orders  [][]byte
	renewed int
	err     error
}

func (k *keys) Renew(nonce []byte) (bool, error) {
	if k.err != nil {
		return false, k.err
	}
	fresh := !slices.ContainsFunc(k.orders, func(n []byte) bool { return bytes.Equal(n, nonce) })
	k.orders = append(k.orders, nonce)
	return fresh, nil
}

func (k *keys) Renewed() error {
	k.renewed++
	return k.err
}

// An order to renew the key ends the run once; the renewal is sent until the
// verifier says that the new key counts, which ends the run again.
func TestRenewal(t *testing.T) {
	b := newBench(t, nil)
	k := &keys{}
	b.cfg.Keys = k
	b.start()
	b.round()
	down := func(d attest.Down) error {
		t.Helper()
		data, err := cose.Encode(d)
		if err != nil {
			t.Fatal(err)
		}
		return b.agent.receive(data)
	}
	order := func(nonce byte, device []byte, key *cose.Signer) error {
		t.Helper()
		data, err := reference.SignCommand(&reference.Command{Version: 1, Kind: reference.Renew, Device: device, Nonce: bytes.Repeat([]byte{nonce}, 16),
			NotBefore: referencetest.Now - 10, NotAfter: referencetest.Now + 300}, key)
		if err != nil {
			t.Fatal(err)
		}
		return down(attest.Down{Command: data})
	}
	for name, err := range map[string]error{
		"by a key that may not": order(1, b.cfg.UEID[:], b.world.Resume),
		"for another device":    order(1, make([]byte, 17), b.world.Command),
	} {
		if err != nil || len(k.orders) != 0 {
			t.Errorf("an order %s: %v, %d followed", name, err, len(k.orders))
		}
	}
	k.err = errors.New("disk full")
	if err := order(1, b.cfg.UEID[:], b.world.Command); err != nil {
		t.Errorf("an order that could not be kept: %v", err)
	}
	k.err = nil
	if err := order(1, b.cfg.UEID[:], b.world.Command); !errors.Is(err, ErrNewKey) {
		t.Errorf("an order: %v", err)
	}
	if err := order(1, b.cfg.UEID[:], b.world.Command); err != nil {
		t.Errorf("the same order again: %v", err)
	}
	if err := down(attest.Down{Renewed: make([]byte, 16)}); err != nil || k.renewed != 0 {
		t.Errorf("a key that nobody asked for: %v, taken over %d times", err, k.renewed)
	}

	// Started anew, with the renewal.
	b.cfg.Renewal, b.cfg.NextKey = []byte("signed renewal"), cose.KeyID{7}
	b.start()
	sent := func() (n int) {
		for _, m := range b.spool.all() {
			if m.Topic == "enrol" && m.Class == spool.Evidence && string(m.Payload) == "signed renewal" {
				n++
			}
		}
		return n
	}
	b.round()
	b.round()
	if n := sent(); n != 1 {
		t.Errorf("sent %d times in two rounds, want once", n)
	}
	b.now = b.now.Add(enrolAgain)
	b.round()
	if n := sent(); n != 2 {
		t.Errorf("sent %d times after %v without an answer, want twice", n, enrolAgain)
	}
	k.err = errors.New("disk full")
	if err := down(attest.Down{Renewed: b.cfg.NextKey[:]}); err != nil || k.renewed != 1 {
		t.Errorf("taken over, and not kept: %v", err)
	}
	k.err = nil
	if err := down(attest.Down{Renewed: b.cfg.NextKey[:]}); !errors.Is(err, ErrNewKey) || k.renewed != 2 {
		t.Errorf("taken over: %v", err)
	}
}

// Where another authority's certificate names the key, the order is refused, and said.
func TestRenewalOfACertifiedKey(t *testing.T) {
	b := newBench(t, nil)
	b.round()
	b.round()
	data, err := reference.SignCommand(&reference.Command{Version: 1, Kind: reference.Renew, Device: b.cfg.UEID[:], Nonce: make([]byte, 16),
		NotBefore: referencetest.Now - 10, NotAfter: referencetest.Now + 300}, b.world.Command)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.agent.command(data); err != nil {
		t.Fatal(err)
	}
	for range 7 {
		b.round()
	}
	all := b.reports()
	if !slices.ContainsFunc(all[len(all)-1].Body.Notes, func(n string) bool { return strings.Contains(n, "broker.certificate") }) {
		t.Errorf("notes %q", all[len(all)-1].Body.Notes)
	}
}

func TestChallenge(t *testing.T) {
	b := newBench(t, nil)
	b.round()
	b.round()
	c := reference.Command{Version: 1, Kind: reference.Challenge, Device: b.cfg.UEID[:], Nonce: bytes.Repeat([]byte{7}, 16), NotBefore: referencetest.Now - 10, NotAfter: referencetest.Now + 300}
	signed := func(c reference.Command, key *cose.Signer) []byte {
		data, err := reference.SignCommand(&c, key)
		if err != nil {
			t.Fatal(err)
		}
		down, err := cose.Encode(attest.Down{Command: data})
		if err != nil {
			t.Fatal(err)
		}
		return down
	}
	count := func() (n int) {
		b.round()
		for _, r := range b.reports() {
			if r.Body.Kind == attest.KindChallenge && bytes.Equal(r.Nonce, c.Nonce) {
				n++
			}
		}
		return n
	}
	b.agent.receive(signed(c, b.world.Command))
	if n := count(); n != 1 {
		t.Fatalf("%d answers to one challenge", n)
	}
	b.agent.receive(signed(c, b.world.Command))
	if n := count(); n != 1 {
		t.Errorf("%d answers to the same challenge twice", n)
	}
	late := c
	late.Nonce, late.NotAfter = bytes.Repeat([]byte{8}, 16), referencetest.Now-1
	b.agent.receive(signed(late, b.world.Command))
	b.agent.receive(signed(reference.Command{Version: 1, Kind: reference.Challenge, Device: make([]byte, 17), Nonce: late.Nonce, NotBefore: 1, NotAfter: 4e9}, b.world.Command))
	b.agent.receive([]byte("garbage"))
	c.Nonce = late.Nonce
	if n := count(); n != 0 {
		t.Errorf("%d answers to an expired challenge and one for another device", n)
	}
	if len(b.enforcer.resumes) != 0 {
		t.Errorf("%d challenges were handed to the enforcer", len(b.enforcer.resumes))
	}
	resume := reference.Command{Version: 1, Kind: reference.Resume, Device: b.cfg.UEID[:], Pause: make([]byte, 16), Nonce: late.Nonce, NotBefore: 1, NotAfter: 4e9}
	b.agent.receive(signed(resume, b.world.Resume))
	b.round()
	if len(b.enforcer.resumes) != 1 {
		t.Errorf("a resume was not handed to the enforcer")
	}
	for range 6 {
		b.round()
	}
	notes := ""
	for _, r := range b.reports() {
		notes += strings.Join(r.Body.Notes, "; ")
	}
	if !strings.Contains(notes, "resume refused: not by this test") {
		t.Errorf("the refusal was not reported: %q", notes)
	}
}

func TestEnrolment(t *testing.T) {
	b := newBench(t, nil)
	b.cfg.StateDir = t.TempDir()
	b.start()
	b.round()
	b.round()
	if ms := b.spool.all(); len(ms) != 1 || ms[0].Topic != "enrol" {
		t.Fatalf("before enrolment %d messages", len(ms))
	}
	e, err := attest.OpenEnrolment(b.spool.all()[0].Payload)
	if err != nil || e.Model != "pump-1" || e.Protection != attest.ProtectionFile {
		t.Fatalf("%+v, %v", e, err)
	}
	down, err := cose.Encode(attest.Down{Enrolled: true})
	if err != nil {
		t.Fatal(err)
	}
	b.agent.receive(down)
	b.round()
	if rs := b.reports(); len(rs) != 1 || rs[0].Body.Kind != attest.KindBoot || rs[0].Body.Inventory == nil {
		t.Fatalf("after enrolment: %+v", rs)
	}
}

func TestAlarmsOvertake(t *testing.T) {
	s := newSealer(&Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, nil)
	for i := range maxJobs {
		s.put(sealJob{class: spool.Routine, topic: string(rune('a' + i%26))})
	}
	if s.put(sealJob{class: spool.Routine}) || s.dropped != 1 {
		t.Error("the queue has no end")
	}
	if !s.put(sealJob{class: spool.Alarm, topic: "alarm 1"}) || !s.put(sealJob{class: spool.Alarm, topic: "alarm 2"}) {
		t.Error("an alarm was refused")
	}
	for _, want := range []string{"alarm 1", "alarm 2", "a"} {
		if j, _ := s.next(); j.topic != want {
			t.Errorf("next is %q, want %q", j.topic, want)
		}
	}
}

func TestApplicationSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	now := time.Now()
	wake := make(chan struct{}, 1)
	defs := []facts.Def{{Name: "app.flow", Key: 1000, Kind: facts.Int, Min: 0, Max: 1000}}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	a, err := listenApp(path, defs, []uint32{uint32(os.Getuid())}, func() time.Time { return now }, func(facts.Key) { wake <- struct{}{} }, log)
	if err != nil {
		t.Fatal(err)
	}
	go a.serve()
	defer a.close()
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	read := func() facts.Reading { return a.Read(nil)[0] }
	if r := read(); r.Status != facts.Absent {
		t.Errorf("before the first datagram: %+v", r)
	}
	for _, tt := range []struct {
		send   string
		status facts.Status
		value  int64
	}{
		{"app.flow 120\n", facts.OK, 120},
		{"app.other 5\napp.flow 130", facts.OK, 130},
		{"app.flow 1001\n", facts.Malformed, 0},
		{"app.flow twelve\n", facts.Malformed, 0},
		{"app.flow -1\n", facts.Malformed, 0},
		{"app.flow 0\n", facts.OK, 0},
	} {
		if _, err := conn.Write([]byte(tt.send)); err != nil {
			t.Fatal(err)
		}
		<-wake
		if r := read(); r.Status != tt.status || r.Value.Int() != tt.value {
			t.Errorf("%q gave %+v", tt.send, r)
		}
	}
	now = now.Add(appStale + time.Second)
	if r := read(); r.Status != facts.Stale {
		t.Errorf("after silence: %+v", r)
	}
	a.uids = []uint32{12345}
	a.take([]byte("app.flow 7"), now)
	if err := a.allowed(nil); err == nil {
		t.Error("a sender without credentials was allowed")
	}
}

func FuzzApplication(f *testing.F) {
	f.Add([]byte("app.flow 120\n"))
	f.Add([]byte("app.flow 99999999999999999999\n\n app.flow\tx"))
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &appSource{defs: []facts.Def{{Name: "app.flow", Key: 1000, Min: 0, Max: 1000}}, state: make([]appState, 1), now: time.Now, log: log}
		a.take(data, time.Now())
		for _, r := range a.Read(nil) {
			if r.Status == facts.OK && (r.Value.Int() < 0 || r.Value.Int() > 1000) {
				t.Fatalf("%q gave %+v", data, r)
			}
		}
	})
}
