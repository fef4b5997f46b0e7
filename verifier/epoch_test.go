package verifier_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

const epochLength = 600

func newEpochs(t *testing.T) *verifiertest.Fleet {
	return verifiertest.New(t, func(c *verifier.Config) { c.Epoch = epochLength * time.Second })
}

// epoch returns the nonce of the present epoch as a device learns it.
func epoch(f *verifiertest.Fleet) []byte {
	f.Helper()
	message, until, err := f.Epoch(f.Now)
	if err != nil {
		f.Fatal(err)
	}
	if until <= f.Now || until > f.Now+epochLength {
		f.Fatalf("the epoch at %d ends at %d", f.Now, until)
	}
	order, err := f.World.Trust(f).OpenCommand(f.Down(message).Command, reference.Epoch, nil, "pump-1", reference.At(f.Now))
	if err != nil {
		f.Fatal(err)
	}
	return order.Command().Nonce
}

func message(d *verifiertest.Device, kind attest.Kind, nonce []byte) []byte {
	d.Fleet.Helper()
	r := d.Report(kind)
	r.Nonce = nonce
	return verifiertest.Encode(d.Fleet, d.Seal(r))
}

func old(findings []verifier.Finding) string {
	if i := slices.IndexFunc(findings, func(x verifier.Finding) bool { return x.Code == verifier.ReasonEpoch }); i >= 0 {
		return findings[i].Text
	}
	return ""
}

func TestEpochsFollowEachOther(t *testing.T) {
	f := newEpochs(t)
	first := epoch(f)
	f.Now += epochLength - 1
	if !bytes.Equal(epoch(f), first) {
		t.Error("another epoch before the first has ended")
	}
	f.Now++
	second := epoch(f)
	if bytes.Equal(first, second) {
		t.Error("the same nonce in two epochs")
	}
	// A verifier that starts anew goes on with the epoch that it had.
	var err error
	if f.Verifier, err = verifier.New(verifier.Config{References: []*reference.Reference{f.Ref}, Result: f.World.Result, Command: f.World.Command, Epoch: epochLength * time.Second}, f.Store); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(epoch(f), second) {
		t.Error("another epoch after a restart")
	}
	if all, err := f.Store.Epochs(); err != nil || len(all) != 2 || all[0].End != all[1].Begin {
		t.Errorf("stored %+v, %v", all, err)
	}
	f.Now += verifier.EpochMemory + 3*epochLength
	epoch(f)
	if all, err := f.Store.Epochs(); err != nil || len(all) != 1 {
		t.Errorf("%d epochs are remembered, %v", len(all), err)
	}
}

// The present epoch and the last one are fresh; an older one is named and makes the
// device no better than warning; one that never was is refused.
func TestEpochOfAQuote(t *testing.T) {
	f := newEpochs(t)
	d := f.NewTPMDevice(tpmtest.Start(t)).Enrolled()
	first := epoch(f)
	if r := d.Accepted(message(d, attest.KindBoot, nil)); !strings.Contains(old(r.Findings), "names no epoch") || r.Tier < verifier.TierWarning {
		t.Errorf("a quote of no epoch: %s %+v", r.Tier, r.Findings)
	}
	quoted := func(kind attest.Kind, nonce []byte) *verifier.Record {
		t.Helper()
		r := d.Report(kind)
		r.Nonce = nonce
		m := d.Seal(r)
		m.Quote = d.Quote(nonce, m.Report, []int{0, 1, 2, 3, 4, 5, 6, 7})
		return d.Accepted(verifiertest.Encode(t, m))
	}
	if r := quoted(attest.KindRoutine, first); old(r.Findings) != "" {
		t.Errorf("the present epoch: %s", old(r.Findings))
	}
	f.Now += epochLength
	second := epoch(f)
	if r := quoted(attest.KindRoutine, first); old(r.Findings) != "" {
		t.Errorf("the last epoch: %s", old(r.Findings))
	}
	f.Now += epochLength
	epoch(f)
	if r := quoted(attest.KindRoutine, second); old(r.Findings) != "" {
		t.Errorf("the last epoch: %s", old(r.Findings))
	}
	r := quoted(attest.KindRoutine, first)
	if text := old(r.Findings); !strings.Contains(text, "does not prove the present") || !strings.Contains(text, "ended at") || r.Tier < verifier.TierWarning {
		t.Errorf("an epoch before the last one: %s %q", r.Tier, text)
	}
	result, err := verifier.OpenResult(r.Result, f.World.Result.Public())
	if err != nil {
		t.Fatal(err)
	}
	if a := result.Submods[d.UEID.String()]; a.Status < verifier.TierWarning || a.Nonce != nil {
		t.Errorf("result %s with nonce %x", a.Status, a.Nonce)
	}
	if v := d.View(); v.Tier < verifier.TierWarning || old(v.Findings) == "" {
		t.Errorf("the device stands as %s: %+v", v.Tier, v.Findings)
	}
	wantRefused(f, d.Delivery(message(d, attest.KindRoutine, bytes.Repeat([]byte{9}, 16))), verifier.ReasonEpoch)
	d.Sequence, d.Digest = r.Sequence, r.Digest[:]

	// The answer to a challenge is fresh whatever epoch it is.
	nonce := d.Challenge()
	if r := d.Accepted(message(d, attest.KindChallenge, nonce)); old(r.Findings) != "" {
		t.Errorf("the answer to a challenge: %s", old(r.Findings))
	}
	// An epoch's nonce answers no challenge, and a challenge's is no epoch.
	nonce = d.Challenge()
	quoted(attest.KindRoutine, epoch(f))
	if d.View().Challenge == nil {
		t.Error("a report of the epoch has answered the challenge")
	}
	wantRefused(f, d.Delivery(message(d, attest.KindRoutine, nonce)), verifier.ReasonEpoch)
}

// Without a TPM it is the report itself that is of an epoch.
func TestEpochOfAReport(t *testing.T) {
	f := newEpochs(t)
	d := f.NewDevice().Enrolled()
	first := epoch(f)
	d.Accepted(message(d, attest.KindBoot, first))
	if text := old(d.View().Findings); text != "" {
		t.Errorf("the present epoch: %s", text)
	}
	f.Now += epochLength
	epoch(f)
	f.Now += epochLength
	epoch(f)
	d.Accepted(message(d, attest.KindRoutine, first))
	if text := old(d.View().Findings); !strings.Contains(text, "ended at") {
		t.Errorf("an epoch before the last one: %q", text)
	}
	d.Accepted(message(d, attest.KindRoutine, epoch(f)))
	if text := old(d.View().Findings); text != "" {
		t.Errorf("the present epoch again: %s", text)
	}
}

// While nobody tells the time there is no next epoch, and the last one goes on
// being the last: a verifier that stood still does not call its devices old.
func TestEpochWhileTheVerifierIsAway(t *testing.T) {
	f := newEpochs(t)
	d := f.NewDevice().Enrolled()
	first := epoch(f)
	f.Now += 10 * epochLength
	d.Accepted(message(d, attest.KindBoot, first))
	if text := old(d.View().Findings); text != "" {
		t.Errorf("%s", text)
	}
	epoch(f)
	d.Accepted(message(d, attest.KindRoutine, first))
	if text := old(d.View().Findings); text != "" {
		t.Errorf("the device has not heard of the new one yet: %s", text)
	}
}

func TestNoEpochs(t *testing.T) {
	f := verifiertest.New(t)
	if _, _, err := f.Epoch(f.Now); err == nil {
		t.Error("an epoch without a length")
	}
	d := f.NewDevice().Enrolled()
	d.Accepted(d.Message(attest.KindBoot))
	if text := old(d.View().Findings); text != "" {
		t.Errorf("epochs that nobody wants: %s", text)
	}
	for name, change := range map[string]func(*verifier.Config){
		"no key":     func(c *verifier.Config) { c.Command = nil },
		"too short":  func(c *verifier.Config) { c.Epoch = 9 * time.Second },
		"fractional": func(c *verifier.Config) { c.Epoch += time.Millisecond },
	} {
		cfg := verifier.Config{References: []*reference.Reference{f.Ref}, Result: f.World.Result, Command: f.World.Command, Epoch: time.Minute}
		change(&cfg)
		if _, err := verifier.New(cfg, f.Store); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
