package verifier_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/agent"
	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// unpaused is an enforcer without a pause.
type unpaused struct{}

func (unpaused) Alive(context.Context) (failsafe.Status, error) {
	return failsafe.Status{Latch: appraise.LatchClear}, nil
}
func (c unpaused) Pause(ctx context.Context, _ failsafe.PauseRequest) (failsafe.Status, error) {
	return c.Alive(ctx)
}
func (c unpaused) Resume(ctx context.Context, _ []byte) (failsafe.Status, error) { return c.Alive(ctx) }

// wire is a spool, a broker and the verifier behind it.
type wire struct {
	fleet *verifiertest.Fleet
	id    attest.UEID
	mu    sync.Mutex
	agent *agent.Agent
	seen  chan *verifier.Device // after each report
}

func (w *wire) Append(_ spool.Class, topic string, payload []byte) (spool.ID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	reply, err := w.fleet.Handle(w.fleet.Now, verifier.Delivery{Device: w.id.String(), Kind: topic, Payload: payload})
	if err != nil || reply.Refused != nil {
		w.fleet.Errorf("%s: %v %+v", topic, err, reply.Refused)
		return 1, nil
	}
	if reply.Down != nil {
		w.agent.Deliver(reply.Down)
	}
	d, err := w.fleet.Device(w.fleet.Now, w.id)
	if err != nil {
		return 0, err
	}
	select {
	case w.seen <- d:
	default:
	}
	return 1, nil
}

func (w *wire) Keep(spool.ID) error { return nil }

func (w *wire) Stats() spool.Stats { return spool.Stats{} }

type readings struct {
	cadence facts.Cadence
	list    []facts.Reading
}

func (r readings) Name() string           { return r.list[0].Value.String() }
func (r readings) Cadence() facts.Cadence { return r.cadence }
func (r readings) Keys() []facts.Key {
	var keys []facts.Key
	for _, x := range r.list {
		keys = append(keys, x.Key)
	}
	return keys
}
func (r readings) Read(dst []facts.Reading) []facts.Reading { return append(dst, r.list...) }

// The device's own code and the verifier's, with a TPM between them that has
// measured a boot: what the agent sends is appraised as affirming, list and all,
// though the list does not fit into one message.
func TestAgentToVerifier(t *testing.T) {
	a := recordedBoot(t, "edk2")
	m := manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd")
	f := verifiertest.Of(t, m)
	signed, err := reference.SignManifest(&m, f.World.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := f.World.Trust(t).OpenManifest(signed, reference.Want{}, reference.At(referencetest.Now))
	if err != nil {
		t.Fatal(err)
	}
	if f.Verifier, err = verifier.New(verifier.Config{References: []*reference.Reference{ref}, Result: f.World.Result}, f.Store); err != nil {
		t.Fatal(err)
	}
	x := newMachine(f, a)
	list := newList(t, a)
	for i := range 1500 {
		digest := fileDigest("/usr/bin/factsd")
		list.add("sha256", strings.Repeat("/", 1+i%100)+string(fileDigestHex(i))+"/factsd", digest)
	}
	x.measures(list)

	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	w := &wire{fleet: f, id: x.UEID, seen: make(chan *verifier.Device, 64)}
	boot := time.Now().Add(-time.Minute)
	w.agent, err = agent.New(agent.Config{
		StateDir: filepath.Join(dir, "state"), ManifestPath: write("manifest", signed),
		KeyLists: []string{write("mkeys", f.World.ManufacturerKeys), write("okeys", f.World.OperatorKeys)},
		Roots:    []reference.Root{{Key: f.World.ManufacturerRoot.Public(), Owner: reference.Manufacturer}, {Key: f.World.OperatorRoot.Public(), Owner: reference.Operator}},
		UEID:     x.UEID, Vendor: m.Vendor, Model: m.Model, Version: "0.1.0", BootID: [16]byte{7}, Signer: x.Signer, Protection: x.Protection, TPM: x.TPM, Identity: x.Identity,
		Logs: []agent.LogFile{{Log: attest.LogFirmware, Path: write("bios", a.data)}, {Log: attest.LogUserspace, Path: filepath.Join(dir, "none")}, {Log: attest.LogIMA, Path: write("ima", list.data)}},
		Sources: []facts.Source{
			readings{facts.Boot, []facts.Reading{{Key: 6, Value: facts.IntValue(9000)}, {Key: 9, Value: facts.IntValue(4)}, {Key: 13, Value: facts.TextValue(a.cmdline)}}},
			readings{facts.Fast, []facts.Reading{{Key: 20, Value: facts.IntValue(100)}, {Key: 70, Value: facts.SetValue([]string{"tcp/0.0.0.0:22"})}, {Key: 1000, Value: facts.IntValue(100)}}},
		},
		Period: 20 * time.Millisecond, Now: func() reference.Interval { return reference.At(referencetest.Now) },
		Uptime: func() int64 { return time.Since(boot).Milliseconds() }, Enforcer: unpaused{}, Spool: w, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.agent.Deliver(verifiertest.Encode(t, attest.Down{Enrolled: true}))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.agent.Run(ctx) }()
	var last *verifier.Device
	for last == nil || last.Boot == nil || last.Boot.Files == nil || last.Boot.Files.Allowed != 1500 || last.Tier != verifier.TierAffirming {
		select {
		case last = <-w.seen:
		case <-ctx.Done():
			t.Fatalf("after a minute: %+v", last)
		}
	}
	cancel()
	<-done
	if s := last.Boot.Logs[attest.LogIMA]; s.Bytes != uint64(len(list.data)) || last.Sequence < 2 {
		t.Errorf("%d of %d bytes in %d reports", s.Bytes, len(list.data), last.Sequence)
	}
}

func fileDigestHex(i int) []byte {
	const digits = "0123456789abcdef"
	var out []byte
	for _, b := range fileDigest(string(rune(i))) {
		out = append(out, digits[b>>4], digits[b&15])
	}
	return out
}
