package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
)

// maxJobs bounds reports that wait for the TPM or the disk.
const maxJobs = 64

// partsOverhead is more than what the encoding adds to the packed parts.
const partsOverhead = 128

// diskAgain is the pause before a message that could not be stored is tried again.
const diskAgain = 2 * time.Second

// A sealJob is one thing to sign: a report, an enrolment, or a credential that
// the TPM is to open; or what was signed already.
type sealJob struct {
	report     *attest.Report
	quote      []int // PCRs of the quote to bind to the report; nil without one
	logs       bool  // send what is new in the logs of the boot
	demand     bool  // and send again what was sent a moment ago
	enrol      *attest.Enrolment
	sealed     []byte
	credential *attest.Credential
	activated  func(secret []byte)
	class      spool.Class
	topic      string
}

// A sealer numbers, signs and stores reports, one at a time, alarms first. A
// slow TPM or a full disk delays reports, never the sampling loop.
type sealer struct {
	signer *cose.Signer
	tpm    TPM
	spool  Spool
	store  *stateStore
	logs   *bootLogs
	log    *slog.Logger
	ready  chan struct{}
	whole  *attest.Report // the newest that has all facts; nil before the first of this process
	newest spool.ID       // of the chain's end in the spool; 0 when it needs no Keep

	mu      sync.Mutex
	jobs    []sealJob
	dropped uint64
	pcrs    []byte // digest of the values that the verifier has; nil when it did not say
	omitted []byte // that of the newest quote, when it went without its values
}

func newSealer(cfg *Config, store *stateStore) *sealer {
	return &sealer{signer: cfg.Signer, tpm: cfg.TPM, spool: cfg.Spool, store: store, logs: newBootLogs(cfg.Logs, cfg.Log), log: cfg.Log, ready: make(chan struct{}, 1)}
}

// put queues a job; an alarm goes before all that is no alarm. It reports
// whether there was room.
func (s *sealer) put(j sealJob) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs) >= maxJobs && j.class != spool.Alarm {
		s.dropped++
		s.log.Error("dropped a report: too many wait to be signed and stored", "limit", maxJobs)
		return false
	}
	at := len(s.jobs)
	if j.class == spool.Alarm {
		for at > 0 && s.jobs[at-1].class != spool.Alarm {
			at--
		}
	}
	s.jobs = append(s.jobs, sealJob{})
	copy(s.jobs[at+1:], s.jobs[at:])
	s.jobs[at] = j
	notify(s.ready)
	return true
}

func (s *sealer) next() (sealJob, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.jobs) == 0 {
		return sealJob{}, false
	}
	j := s.jobs[0]
	s.jobs = append(s.jobs[:0], s.jobs[1:]...)
	return j, true
}

// acknowledge takes over what the verifier says that it has. It reports whether
// it misses logs that the device has, or values that a quote left out.
func (s *sealer) acknowledge(h *attest.Have) (logs, values bool) {
	logs = s.logs.acknowledge(h.Bytes)
	if h.PCRs == nil {
		return logs, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pcrs = h.PCRs
	return logs, s.omitted != nil && !bytes.Equal(s.omitted, s.pcrs)
}

// quote returns q for a message. Values that the verifier has stay away from all
// reports but those that stand for themselves.
func (s *sealer) quote(q *tpm.Quote, kind attest.Kind) *attest.Quote {
	w := attest.QuoteOf(q)
	digest := attest.PCRDigest(w.PCRs)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.omitted = nil
	if kind != attest.KindBoot && kind != attest.KindChallenge && bytes.Equal(digest, s.pcrs) {
		w.PCRs, s.omitted = nil, digest
	}
	return w
}

// run works until ctx ends. The newest report of the run before is stored once
// more: whether it had been is not known, and the verifier takes it once.
func (s *sealer) run(ctx context.Context) {
	if end := s.store.end; end.Sequence > 0 && !s.deliver(ctx, end.Class, end.Topic, end.Message) {
		return
	}
	for {
		j, ok := s.next()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-s.ready:
			}
			continue
		}
		if !s.do(ctx, j) {
			return
		}
	}
}

// do works on one job. It returns false when ctx ended before it was stored.
func (s *sealer) do(ctx context.Context, j sealJob) bool {
	switch {
	case j.credential != nil:
		if s.tpm == nil {
			s.log.Warn("refused a credential: this device has no TPM")
			return true
		}
		secret, err := s.tpm.Activate(j.credential.Blob, j.credential.Secret)
		if err != nil {
			s.log.Error("the TPM did not open the verifier's credential", "err", err)
			return true
		}
		j.activated(secret)
		return true
	case j.sealed != nil:
		return s.deliver(ctx, j.class, j.topic, j.sealed)
	case j.enrol != nil:
		data, err := attest.SealEnrolment(j.enrol, s.signer)
		if err != nil {
			s.log.Error("cannot ask to be enrolled", "err", err)
			return true
		}
		return s.deliver(ctx, j.class, j.topic, data)
	}
	end, err := s.seal(j)
	if err != nil {
		s.log.Error("cannot make report", "err", err)
		s.mu.Lock()
		s.dropped++
		s.mu.Unlock()
		return true
	}
	// The chain's end holds its own message, until it is replaced.
	if !s.keep(ctx) {
		return false
	}
	for {
		if err := s.store.setEnd(end); err == nil {
			break
		} else if !s.wait(ctx, "cannot store the chain; nothing is sent until it is", err) {
			return false
		}
	}
	if j.report.Whole() {
		s.whole = j.report
	}
	var stored bool
	s.newest, stored = s.append(ctx, j.class, j.topic, end.Message)
	return stored
}

// seal numbers and signs a report.
func (s *sealer) seal(j sealJob) (*chainEnd, error) {
	last := s.store.end
	b := &j.report.Body
	b.Sequence, b.Previous = last.Sequence+1, last.Digest
	if s.whole != nil {
		j.report.LeaveOut(s.whole)
	}
	s.mu.Lock()
	b.Dropped = s.dropped
	s.mu.Unlock()
	for _, gap := range s.spool.Stats().Dropped {
		b.Dropped += gap.Count
	}
	if j.quote != nil {
		b.NoLogs = s.logs.missing()
	}
	signed, err := attest.Seal(j.report, s.signer)
	for errors.Is(err, attest.ErrTooLarge) && j.report.Shrink() {
		signed, err = attest.Seal(j.report, s.signer)
	}
	if err != nil {
		return nil, err
	}
	m := attest.Message{Report: signed}
	if j.quote != nil && s.tpm != nil {
		// A quote that fails is seen to be missing; it holds nothing up.
		if q, err := s.tpm.Quote(attest.ExtraData(j.report.Nonce, signed), j.quote); err != nil {
			s.log.Error("cannot quote the boot state: the report goes without", "err", err)
		} else {
			m.Quote = s.quote(q, j.report.Body.Kind)
		}
	}
	data, err := cose.Encode(m)
	if err != nil {
		return nil, err
	}
	if j.logs {
		// After the quote: the list then has all that the quote covers.
		if m.Parts = s.logs.parts(time.Now(), attest.MaxMessageSize-len(data)-partsOverhead, j.demand); len(m.Parts) > 0 {
			if data, err = cose.Encode(m); err != nil {
				return nil, err
			}
			debug.FreeOSMemory() // reading and packing took a megabyte, and are rare
		}
	}
	if len(data) > attest.MaxMessageSize {
		return nil, fmt.Errorf("cannot make message: %d bytes, the limit is %d", len(data), attest.MaxMessageSize)
	}
	return &chainEnd{Sequence: b.Sequence, Digest: digestOf(signed), Class: j.class, Topic: j.topic, Message: data}, nil
}

// keep makes sure that the newest report survives without the chain's end. Most
// are with the verifier by then, and the disk is spared.
func (s *sealer) keep(ctx context.Context) bool {
	id := s.newest
	if s.newest = 0; id == 0 {
		return true
	}
	err := s.spool.Keep(id)
	if err == nil {
		return true
	}
	s.log.Error("cannot keep a message; it is stored anew", "err", err)
	end := s.store.end
	return s.deliver(ctx, end.Class, end.Topic, end.Message)
}

// deliver stores a message that nothing else holds.
func (s *sealer) deliver(ctx context.Context, class spool.Class, topic string, data []byte) bool {
	for {
		id, ok := s.append(ctx, class, topic, data)
		if !ok {
			return false
		}
		if err := s.spool.Keep(id); err == nil {
			return true
		} else if !s.wait(ctx, "cannot store a message", err) {
			return false
		}
	}
}

// append stores a message, however long the disk refuses.
func (s *sealer) append(ctx context.Context, class spool.Class, topic string, data []byte) (spool.ID, bool) {
	for {
		if id, err := s.spool.Append(class, topic, data); err == nil {
			return id, true
		} else if !s.wait(ctx, "cannot store a message", err) {
			return 0, false
		}
	}
}

func (s *sealer) wait(ctx context.Context, what string, err error) bool {
	s.log.Error(what, "err", err, "again in", diskAgain)
	t := time.NewTimer(diskAgain)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
