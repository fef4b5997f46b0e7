package verifier_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/eventlog"
	"github.com/miotfacts/miotfacts/attest/ima"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// harmlessInBundle are the parts of a bundle that no decision depends on, with the
// reason. What is flipped anywhere else must be refused, or make the device deviate.
var harmlessInBundle = map[string]string{
	"packed":  "the log's parts in the message: the bundle has their logs, and takes no part twice",
	"header":  "the event log's header: platform class, versions, size of UINTN, its PCR",
	"type":    "what an event is said to be, where its digest is over something else",
	"words":   "data of an event whose digest is over something else, such as the path of a file",
	"version": "the firmware's version in words, which some firmware hashes otherwise: the digest is compared",
	"name":    "what is around a value whose digest is over the value alone: GUID and name of a boot variable",
}

// Every byte of a good bundle with its event log and its IMA list flipped once, and
// each length cut once: refused, or it deviates, or the byte is in the list above
// and the verifier says the same as before.
func TestEveryByteOfABundleWithLogs(t *testing.T) {
	a := recordedBoot(t, "edk2")
	m := manifestOf(t, map[string]bootLog{"A": a}, "/usr/bin/factsd")
	f := verifiertest.Of(t, m)
	d := newMachine(f, a)
	list := newList(t, a)
	list.add("sha256", "/usr/bin/factsd", fileDigest("/usr/bin/factsd"))
	d.measures(list)
	if r := d.quotes(); r.Tier != verifier.TierAffirming {
		t.Fatalf("%+v", r.Findings)
	}
	good, err := f.Evidence(d.UEID)
	if err != nil {
		t.Fatal(err)
	}
	key := d.Signer.Public()
	cfg := verifier.Config{References: []*reference.Reference{d.Ref}, Result: newSetting(t).result}
	b, err := attest.DecodeBundle(good)
	if err != nil {
		t.Fatal(err)
	}
	ak := sha256.Sum256(b.AK)
	// outcome is what is said of a bundle whose keys the caller knows.
	outcome := func(data []byte) string {
		b, err := attest.DecodeBundle(data)
		if err != nil {
			return "refused"
		}
		if sum := sha256.Sum256(b.AK); b.Key.ID() != key.ID() || sum != ak {
			return "refused"
		}
		o, err := verifier.CheckBundle(cfg, f.Now, b)
		if err != nil || o.Reply.Refused != nil || o.Record.Tier != verifier.TierAffirming {
			return "refused"
		}
		return fmt.Sprint(o.Device.UEID, o.Record.Sequence, o.Record.Quoted, o.Device.Boot.Versions, o.Record.Findings)
	}
	want := outcome(good)
	if want == "refused" {
		t.Fatal("the good bundle is refused")
	}
	fields := bundleFields(t, good, b)
	count := map[string]int{}
	refused := 0
	for i := range good {
		changed := bytes.Clone(good)
		changed[i] ^= 1 << (i % 8)
		switch got := outcome(changed); {
		case got == "refused":
			refused++
		case got != want:
			t.Errorf("byte %d flipped: the verifier says %s instead of %s", i, got, want)
		case harmlessInBundle[fields[i]] == "":
			t.Errorf("byte %d flipped (%s): not noticed", i, fields[i])
		default:
			count[fields[i]]++
		}
	}
	for n := range good {
		if outcome(good[:n]) != "refused" {
			t.Errorf("cut to %d of %d bytes: accepted", n, len(good))
		}
	}
	for name := range harmlessInBundle {
		if count[name] == 0 {
			t.Errorf("no change of %q went unnoticed: take it out of the table", name)
		}
	}
	t.Logf("a bundle of %d bytes with logs: %d flips and %d cuts refused, %v harmless", len(good), refused, len(good), count)
}

// bundleFields says of each byte of a bundle where it is.
func bundleFields(t *testing.T, data []byte, b *attest.Bundle) []string {
	t.Helper()
	fields := slices.Repeat([]string{"bundle"}, len(data))
	mark := func(part []byte, from, to int, name string) {
		at := bytes.Index(data, part)
		if at < 0 {
			t.Fatalf("no %s in the bundle", name)
		}
		for i := at + from; i < at+to; i++ {
			fields[i] = name
		}
	}
	u, err := attest.Decode(b.Message)
	if err != nil {
		t.Fatal(err)
	}
	v, err := u.Verify(b.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range v.UnverifiedParts() {
		mark(p.Packed, 0, len(p.Packed), "packed")
	}
	events := b.Logs[attest.LogFirmware]
	log, err := eventlog.Parse(events)
	if err != nil {
		t.Fatal(err)
	}
	for i := range log.Events {
		e := &log.Events[i]
		at := e.Offset + 8 + 4 + 2 + 32 + 4
		switch {
		case i == 0:
			mark(events, 0, log.Events[1].Offset, "header")
			continue
		case e.Type == eventlog.SCRTMVersion:
			mark(events, at, at+len(e.Data), "version")
		case e.Proof(eventlog.SHA256) == eventlog.NotCovered:
			mark(events, at, at+len(e.Data), "words")
		case e.Proof(eventlog.SHA256) == eventlog.ValueProved:
			mark(events, at, at+len(e.Data), "name")
		}
		mark(events, e.Offset+4, e.Offset+8, "type")
	}
	if _, err := ima.Parse(b.Logs[attest.LogIMA]); err != nil {
		t.Fatal(err)
	}
	return fields
}
