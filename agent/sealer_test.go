package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
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
