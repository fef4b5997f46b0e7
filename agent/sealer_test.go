package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/facts"
)

// full is a spool on a disk that has no room for some attempts.
type full struct {
	memory
	left atomic.Int32
}

func (f *full) Append(class spool.Class, topic string, payload []byte) (spool.ID, error) {
	if f.left.Add(-1) >= 0 {
		return 0, errors.New("no space left on device")
	}
	return f.memory.Append(class, topic, payload)
}

// TestFullDiskDelaysReports has both writes of a report fail for a while: the
// chain's and the spool's. Nothing is sent that the chain does not know, no
// number is given twice, nothing is lost.
func TestFullDiskDelaysReports(t *testing.T) {
	b := newBench(t, nil)
	synctest.Test(t, func(t *testing.T) {
		b.agent.sealer = newSealer(&b.cfg, b.agent.store) // its channel must be of this bubble
		disk := &full{memory: memory{added: make(chan struct{}, 1)}}
		disk.left.Store(3)
		b.agent.sealer.spool = disk
		// A directory in the place of the temporary file makes the write fail.
		block := filepath.Join(b.cfg.StateDir, "chain.new")
		if err := os.Mkdir(block, 0o700); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { b.agent.sealer.run(ctx); close(done) }()
		report := b.agent.build(2, nil, b.enforcer.status)
		b.agent.sealer.put(sealJob{report: report, class: spool.Routine, topic: "report"})
		time.Sleep(5 * diskAgain)
		synctest.Wait()
		if n := len(disk.all()); n != 0 || disk.left.Load() != 3 {
			t.Errorf("%d messages were sent while the chain could not be stored", n)
		}
		if err := os.Remove(block); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * diskAgain)
		synctest.Wait()
		if n := len(disk.all()); n != 1 {
			t.Errorf("%d messages after the disk had room again, want 1", n)
		}
		cancel()
		<-done
	})
	if b.agent.store.end.Sequence != 1 {
		t.Errorf("the chain ends at %d, want 1", b.agent.store.end.Sequence)
	}
}

// careful is a spool that wants to know what the chain holds at each call.
type careful struct {
	memory
	chain func() uint64 // sequence of its end on the disk
	fails int           // of the first calls of Keep
	calls []string
}

func (c *careful) Append(class spool.Class, topic string, payload []byte) (spool.ID, error) {
	id, err := c.memory.Append(class, topic, payload)
	c.calls = append(c.calls, fmt.Sprintf("append %d at %d", id, c.chain()))
	return id, err
}

func (c *careful) Keep(id spool.ID) error {
	c.calls = append(c.calls, fmt.Sprintf("keep %d at %d", id, c.chain()))
	if c.fails--; c.fails >= 0 {
		return errors.New("input/output error")
	}
	return nil
}

// TestAlwaysOnDisk: each report is on the disk at any moment, in the chain's end
// or in the spool: before the end is replaced, the spool keeps it. Where it
// cannot, it is stored anew.
func TestAlwaysOnDisk(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fails int
		want  []string
	}{
		{"good disk", 0, []string{"append 1 at 1", "keep 1 at 1", "append 2 at 2", "keep 2 at 2", "append 3 at 3"}},
		{"failing disk", 1, []string{"append 1 at 1", "keep 1 at 1", "append 2 at 1", "keep 2 at 1", "append 3 at 2", "keep 3 at 2", "append 4 at 3"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, nil)
			disk := &careful{memory: memory{added: make(chan struct{}, 1)}, fails: tc.fails}
			disk.chain = func() uint64 {
				s, err := openState(b.cfg.StateDir)
				if err != nil {
					t.Fatal(err)
				}
				return s.end.Sequence
			}
			s := b.agent.sealer
			s.spool = disk
			for range 3 {
				if !s.do(t.Context(), sealJob{report: b.agent.build(2, nil, b.enforcer.status), class: spool.Routine, topic: "report"}) {
					t.Fatal("not stored")
				}
			}
			if !slices.Equal(disk.calls, tc.want) {
				t.Errorf("%q\nwant %q", disk.calls, tc.want)
			}
			if got := disk.all(); tc.fails > 0 && !bytes.Equal(got[1].Payload, got[0].Payload) {
				t.Error("what was stored anew is not the report that could not be kept")
			}
		})
	}
}

// What is as the boot report has it does not go again; what is not, does.
func TestReportsRepeatNothing(t *testing.T) {
	b := newLogBench(t)
	b.until(1)
	boot := b.reports()[0]
	b.imaCount(2)
	b.now = b.now.Add(quoteEvery)
	b.until(2)
	r := b.reports()[1]
	if r.Body.Same == nil || r.Body.Same.Sequence != boot.Body.Sequence || len(r.Body.Same.Keys()) == 0 {
		t.Fatalf("report %d repeats what report %d has: %+v", r.Body.Sequence, boot.Body.Sequence, r.Body)
	}
	if r.Body.Same.Has(factIMACount) {
		t.Error("a fact that changed is as before")
	}
	if _, ok := r.Body.Facts[factIMACount]; !ok {
		t.Error("a fact that changed is missing")
	}
	whole, err := r.FillIn(boot)
	if err != nil {
		t.Fatal(err)
	}
	for k := range boot.Body.Facts {
		def, _ := b.agent.vocab.ByKey(k)
		if _, ok := whole.Body.Facts[k]; !ok && def.Cadence != facts.Boot {
			t.Errorf("%s is missing", def.Name)
		}
	}
}
