package attest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

var update = flag.Bool("update", false, "write the vectors anew")

// fixedSigner signs the same bytes for the same payload, so that vectors stay.
func fixedSigner(t testing.TB) *cose.Signer {
	t.Helper()
	seed := sha256.Sum256([]byte("miotfacts test vector key"))
	s, err := cose.NewSigner(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ueid() attest.UEID {
	return attest.NewUEID([16]byte{0xd0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
}

// example returns a report with every claim that a paused device can have.
func example(t testing.TB) *attest.Report {
	w := referencetest.New(t)
	ref := w.Open(t, referencetest.Example())
	u := ueid()
	r := &attest.Report{
		IssuedAt: 1_800_000_000, UEID: u[:], Uptime: 3600, Profile: attest.Profile, BootCount: 7,
		BootSeed: bytes.Repeat([]byte{0xb5}, 16), SWName: "factsd", SWVersion: []string{"0.1.0"},
	}
	var fold facts.Fold
	c := appraise.NewComparison(ref)
	var results []appraise.Result
	for i, n := range []int64{120, 620, 620, 620, 620} {
		s := facts.Snapshot{Uptime: int64(i) * 1000, Readings: []facts.Reading{
			{Key: 6, Value: facts.IntValue(12000)},
			{Key: 20, Value: facts.IntValue(300 + int64(i))},
			{Key: 43, Status: facts.Absent, Reason: "no battery"},
			{Key: 70, Value: facts.SetValue([]string{"tcp/0.0.0.0:22"})},
			{Key: 1000, Value: facts.IntValue(n)},
		}}
		fold.Add(s)
		results = c.Compare(s)
	}
	r.SetFacts(&fold, func(facts.Key) bool { return true })
	r.SetResults(results)
	r.Body.Kind, r.Body.Sequence, r.Body.Previous = attest.KindAlarm, 42, bytes.Repeat([]byte{0xaa}, 32)
	r.Body.Stage, r.Body.Protection = reference.StagePaused, attest.ProtectionFile
	r.Body.Manifest = &attest.Edition{Sequence: 3, Digest: bytes.Repeat([]byte{0xdd}, 32)}
	r.Body.Pause = &attest.Pause{ID: bytes.Repeat([]byte{0x99}, 16), Since: 1_800_000_000, Reason: "fail-safe: app.flow is 620 ml/h",
		Effects: []attest.Effect{{Kind: reference.Freeze, Target: "medical.slice", Done: true, Observed: "frozen 1", Millis: 3}}}
	r.Body.Dropped = 2
	r.Body.Inventory = &attest.Inventory{Vendor: "Example Medical", Model: "pump-1", Services: []string{"pump.service"}, Crypto: []string{"TLS 1.3"}}
	r.Body.Notes = []string{"a note"}
	return r
}

func seal(t testing.TB, r *attest.Report) []byte {
	t.Helper()
	signed, err := attest.Seal(r, fixedSigner(t))
	if err != nil {
		t.Fatal(err)
	}
	data, err := cose.Encode(attest.Message{Report: signed})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReportRoundTrip(t *testing.T) {
	r := example(t)
	u, err := attest.Decode(seal(t, r))
	if err != nil {
		t.Fatal(err)
	}
	v, err := u.Verify(fixedSigner(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	valueEqual := cmp.Comparer(func(a, b facts.Value) bool { return a.Equal(b) })
	if diff := cmp.Diff(r, v.Report(), valueEqual, cmp.AllowUnexported(), cmp.FilterPath(func(p cmp.Path) bool {
		return p.Last().String() == "._"
	}, cmp.Ignore())); diff != "" {
		t.Errorf("report changed on the way:\n%s", diff)
	}
	if f := v.Report().Folded(1000); f.Min != 120 || f.Max != 620 || f.Value.Int() != 620 {
		t.Errorf("app.flow came as %+v", f)
	}
	if g := v.Report().Reading(43); g.Status != facts.Absent || g.Reason != "no battery" {
		t.Errorf("energy.battery came as %+v", g)
	}
	if g := v.Report().Reading(44); g.Status != facts.Absent || g.Reason == "" {
		t.Errorf("a fact that was not sent came as %+v", g)
	}
}

func TestResults(t *testing.T) {
	w := referencetest.New(t)
	ref := w.Open(t, referencetest.Example())
	got, err := example(t).Results(ref)
	if err != nil {
		t.Fatal(err)
	}
	words := ""
	for _, x := range got {
		words += attest.SystemName(x.Stage)[:1] + x.Verdict.String()[:1] + " "
	}
	if words != "ip op op od fd " {
		t.Errorf("results %s", words)
	}
	if last := got[len(got)-1]; last.Lasted != 3000 || last.Reading.Value.Int() != 620 {
		t.Errorf("the extreme came as %+v", last)
	}
	r := example(t)
	r.MeasRes[0].Results[0].Rule = [1]byte{9}
	if _, err := r.Results(ref); err == nil {
		t.Error("a rule that the manifest does not have was accepted")
	}
}

// TestVectors holds the bytes of a report: they must decode for ever.
func TestVectors(t *testing.T) {
	data := seal(t, example(t))
	u, err := attest.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	var m attest.Message
	if err := cose.Decode(data, attest.MaxMessageSize, &m); err != nil {
		t.Fatal(err)
	}
	s, err := cose.Parse(m.Report[2:], attest.MaxReportSize)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := cbor.Diagnose(s.UnverifiedPayload())
	if err != nil {
		t.Fatal(err)
	}
	outer, err := cbor.Diagnose(data)
	if err != nil {
		t.Fatal(err)
	}
	diag := "/ message: key " + u.KeyID().String() + ", Ed25519 over seed SHA-256(\"miotfacts test vector key\") /\n" + outer +
		"\n/ claims-set of the report /\n" + claims + "\n"
	golden(t, "alarm.cbor", data)
	golden(t, "alarm.diag", []byte(diag))
}

// crossed returns a history of these times.
func crossed(at ...int64) *attest.History {
	h := &attest.History{Fact: 1000}
	for _, ms := range at {
		h.Samples = append(h.Samples, attest.Sample{At: ms, Value: 620})
	}
	return h
}

// A renewal has two signatures, one in the other; each counts, and the order.
func TestRenewalRefused(t *testing.T) {
	u, next := ueid(), referencetest.Signer(t)
	request := func(secret []byte, key *cose.Signer) []byte {
		t.Helper()
		data, err := attest.SealEnrolment(&attest.Enrolment{Version: 1, UEID: u[:], Vendor: "v", Model: "m", Key: key.Public(), Protection: attest.ProtectionFile, Secret: secret}, key)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	sealed := func(request []byte) []byte {
		t.Helper()
		data, err := attest.SealRenewal(request, fixedSigner(t))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	order := make([]byte, 16)
	good := sealed(request(order, next))
	r, err := attest.OpenRenewal(good)
	if err != nil || r.Device() != u || r.KeyID() != next.Public().ID() {
		t.Fatalf("%+v, %v", r, err)
	}
	if e, err := r.Verify(fixedSigner(t).Public()); err != nil || e.Key.ID() != next.Public().ID() {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := r.Verify(next.Public()); !errors.Is(err, cose.ErrKey) {
		t.Errorf("signed by the next key only: %v", err)
	}
	spoilt := request(order, next)
	spoilt[len(spoilt)-1] ^= 1
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"an enrolment":               {request(order, next), "document is of another type"},
		"no order":                   {sealed(request(nil, next)), "no nonce of an order"},
		"a report in it":             {sealed([]byte("\xd8\x3d")), "cannot accept enrolment"},
		"nothing in it":              {sealed([]byte{0}), "cannot accept enrolment"},
		"a renewal in it":            {sealed(good), "cannot accept enrolment"},
		"not signed by the next key": {sealed(spoilt), "signature is not valid"},
		"cut":                        {good[:len(good)-1], "cannot parse signed document"},
		"beyond the limit":           {make([]byte, attest.MaxRenewalSize+1), "the limit is"},
	} {
		if _, err := attest.OpenRenewal(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		if r, err := attest.OpenRenewal(bad); err == nil {
			if _, err := r.Verify(fixedSigner(t).Public()); err == nil {
				t.Fatalf("byte %d changed, still verified", i)
			}
		}
	}
	if _, err := attest.DecodeDown([]byte("\xa1\x05\x4f the device key")); err == nil || !strings.Contains(err.Error(), "key id of 15 bytes") {
		t.Errorf("a short key id: %v", err)
	}
}

// TestEpochVector holds the bytes of a report with the nonce of an epoch.
func TestEpochVector(t *testing.T) {
	r := example(t)
	r.Nonce = bytes.Repeat([]byte{7}, 16)
	data := seal(t, r)
	u, err := attest.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if got := u.Unverified(); !bytes.Equal(got.Nonce, r.Nonce) || got.Body.Kind == attest.KindChallenge {
		t.Errorf("it came as %x in a report of kind %s", got.Nonce, got.Body.Kind)
	}
	diag, err := cbor.Diagnose(data)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "epoch.cbor", data)
	golden(t, "epoch.diag", []byte(diag+"\n"))
}

// TestHistoryVector holds the bytes of an alarm with a history.
func TestHistoryVector(t *testing.T) {
	r := example(t)
	r.Body.History, r.Body.Unalarmed = crossed(1000, 2000, 3000, 4000), 3
	r.Body.History.Samples[0].Value = -120
	data := seal(t, r)
	u, err := attest.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if b := u.Unverified().Body; b.Unalarmed != 3 || len(b.History.Samples) != 4 || b.History.Samples[0].Value != -120 || b.History.Fact != 1000 {
		t.Errorf("it came as %+v, %d", b.History, b.Unalarmed)
	}
	diag, err := cbor.Diagnose(data)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "history.cbor", data)
	golden(t, "history.diag", []byte(diag+"\n"))
}

// deferred returns a deferral that lasts, as changed.
func deferred(change func(*attest.Deferral)) func(*attest.Report) {
	return func(r *attest.Report) {
		r.Body.Deferral = &attest.Deferral{Began: 3500, Until: 303500}
		change(r.Body.Deferral)
	}
}

// TestDeferralVector holds the bytes of an alarm whose pause is put off.
func TestDeferralVector(t *testing.T) {
	r := example(t)
	deferred(func(d *attest.Deferral) { d.Ended, d.Why = 9000, attest.EndedApplication })(r)
	data := seal(t, r)
	u, err := attest.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if d := u.Unverified().Body.Deferral; d == nil || *d != *r.Body.Deferral {
		t.Errorf("it came as %+v", d)
	}
	diag, err := cbor.Diagnose(data)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "deferral.cbor", data)
	golden(t, "deferral.diag", []byte(diag+"\n"))
}

// mended returns a report in maintenance, as changed.
func mended(change func(*attest.Maintenance)) func(*attest.Report) {
	return func(r *attest.Report) {
		r.Body.Stage, r.Body.Pause, r.Body.Maintain = reference.StageMaintenance, nil, &attest.Maintenance{Began: 3500, Until: 7_203_500}
		change(r.Body.Maintain)
	}
}

// TestMaintenanceVector holds the bytes of a report in maintenance.
func TestMaintenanceVector(t *testing.T) {
	r := example(t)
	mended(func(*attest.Maintenance) {})(r)
	data := seal(t, r)
	u, err := attest.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if b := u.Unverified().Body; b.Stage != reference.StageMaintenance || *b.Maintain != *r.Body.Maintain {
		t.Errorf("it came as %s, %+v", b.Stage, b.Maintain)
	}
	diag, err := cbor.Diagnose(data)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "maintenance.cbor", data)
	golden(t, "maintenance.diag", []byte(diag+"\n"))
}

// TestRefusals changes one thing each in a good report.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*attest.Report)
		want string
	}{
		{"short ueid", func(r *attest.Report) { r.UEID = r.UEID[:16] }, "ueid"},
		{"ueid of another type", func(r *attest.Report) { r.UEID = append([]byte{2}, r.UEID[1:]...) }, "ueid"},
		{"another profile", func(r *attest.Report) { r.Profile += "x" }, "profile"},
		{"short nonce", func(r *attest.Report) { r.Nonce = []byte{1} }, "nonce of 1 bytes"},
		{"long nonce", func(r *attest.Report) { r.Nonce = make([]byte, 65) }, "nonce of 65 bytes"},
		{"short bootseed", func(r *attest.Report) { r.BootSeed = nil }, "bootseed"},
		{"negative iat", func(r *attest.Report) { r.IssuedAt = -1 }, "iat"},
		{"two versions", func(r *attest.Report) { r.SWVersion = []string{"1", "2"} }, "swversion"},
		{"unknown kind", func(r *attest.Report) { r.Body.Kind = 7 }, "unknown kind 7"},
		{"no kind", func(r *attest.Report) { r.Body.Kind = 0 }, "unknown kind 0"},
		{"sequence 0", func(r *attest.Report) { r.Body.Sequence = 0 }, "sequence 0"},
		{"first with a predecessor", func(r *attest.Report) { r.Body.Sequence = 1 }, "chain digest"},
		{"later without one", func(r *attest.Report) { r.Body.Previous = nil }, "chain digest"},
		{"unknown stage", func(r *attest.Report) { r.Body.Stage = 5 }, "unknown stage"},
		{"unknown protection", func(r *attest.Report) { r.Body.Protection = 0 }, "protection"},
		{"backward interval", func(r *attest.Report) { r.Body.Begin = r.Body.End + 1 }, "interval"},
		{"challenge without nonce", func(r *attest.Report) { r.Body.Kind = attest.KindChallenge }, "without its nonce"},
		{"short manifest digest", func(r *attest.Report) { r.Body.Manifest.Digest = nil }, "manifest digest"},
		{"results without a reference", func(r *attest.Report) { r.Body.Manifest = nil }, "without a reference"},
		{"operating without a reference", func(r *attest.Report) {
			r.Body.Manifest, r.MeasRes, r.Body.Stage, r.Body.Pause = nil, []attest.System{}, reference.StageOperating, nil
		}, "operating without"},
		{"paused without a pause", func(r *attest.Report) { r.Body.Pause = nil }, "does not fit the pause"},
		{"pause while operating", func(r *attest.Report) { r.Body.Stage = reference.StageOperating }, "does not fit the pause"},
		{"short pause id", func(r *attest.Report) { r.Body.Pause.ID = []byte{1} }, "pause id"},
		{"endless effects", func(r *attest.Report) { r.Body.Pause.Effects = make([]attest.Effect, 65) }, "too long"},
		{"endless notes", func(r *attest.Report) { r.Body.Notes = make([]string, 33) }, "33 notes"},
		{"gap that is ok", func(r *attest.Report) { r.Body.Gaps[43] = attest.Gap{} }, "gap of fact 43"},
		{"gap of an unknown status", func(r *attest.Report) { r.Body.Gaps[43] = attest.Gap{Status: 9} }, "gap of fact 43"},
		{"value and gap", func(r *attest.Report) { r.Body.Gaps[20] = attest.Gap{Status: facts.Absent} }, "gap of fact 20"},
		{"stage twice", func(r *attest.Report) { r.MeasRes = append(r.MeasRes, r.MeasRes[0]) }, "twice"},
		{"unknown system", func(r *attest.Report) { r.MeasRes[0].Name = "life" }, "no stage"},
		{"unknown verdict", func(r *attest.Report) { r.MeasRes[0].Results[0].Verdict = 5 }, "malformed"},
		{"history without samples", func(r *attest.Report) { r.Body.History = &attest.History{Fact: 1000} }, "history of 0 samples"},
		{"endless history", func(r *attest.Report) {
			r.Body.History = &attest.History{Fact: 1000, Samples: make([]attest.Sample, 61)}
		}, "history of 61 samples"},
		{"history out of order", func(r *attest.Report) { r.Body.History = crossed(2000, 1000) }, "does not follow"},
		{"history of the future", func(r *attest.Report) { r.Body.History = crossed(1000, 5000) }, "not of the last 60 s"},
		{"history beyond a minute", func(r *attest.Report) { r.Body.End, r.Body.History = 90_000, crossed(1000, 61_000) }, "not of the last 60 s"},
		{"same in an alarm", func(r *attest.Report) { r.Body.Same = &attest.Same{Sequence: 40, Facts: []byte{2}} }, "stands for itself"},
		{"same as the report itself", func(r *attest.Report) {
			r.Body.Kind, r.Body.Same = attest.KindStage, &attest.Same{Sequence: 42, Facts: []byte{2}}
		}, "not before it"},
		{"same as report 0", func(r *attest.Report) {
			r.Body.Kind, r.Body.Same = attest.KindStage, &attest.Same{Facts: []byte{2}}
		}, "not before it"},
		{"same without facts", func(r *attest.Report) { r.Body.Kind, r.Body.Same = attest.KindStage, &attest.Same{Sequence: 40} }, "malformed"},
		{"same with a zero at its end", func(r *attest.Report) {
			r.Body.Kind, r.Body.Same = attest.KindStage, &attest.Same{Sequence: 40, Facts: []byte{2, 0}}
		}, "malformed"},
		{"same with fact 0", func(r *attest.Report) {
			r.Body.Kind, r.Body.Same = attest.KindStage, &attest.Same{Sequence: 40, Facts: []byte{1}}
		}, "malformed"},
		{"endless same", func(r *attest.Report) {
			r.Body.Kind, r.Body.Same = attest.KindStage, &attest.Same{Sequence: 40, Facts: append(make([]byte, 256), 1)}
		}, "malformed"},
		{"same and a value", func(r *attest.Report) {
			r.Body.Kind, r.Body.Same = attest.KindStage, &attest.Same{Sequence: 40, Facts: []byte{0x40}}
		}, "fact 6 has a value"},
		{"same and a gap", func(r *attest.Report) {
			r.Body.Kind, r.Body.Same = attest.KindStage, &attest.Same{Sequence: 40, Facts: []byte{0, 0, 0, 0, 0, 8}}
		}, "fact 43 has no value"},
		{"history outside an alarm", func(r *attest.Report) { r.Body.Kind, r.Body.History = attest.KindStage, crossed(1000, 2000) }, "kind stage"},
		{"deferral of no pause", func(r *attest.Report) {
			r.Body.Stage, r.Body.Pause = reference.StageIntegration, nil
			deferred(func(*attest.Deferral) {})(r)
		}, "deferral of no pause"},
		{"deferral of an unconfirmed pause", func(r *attest.Report) { r.Body.Pause.ID = nil; deferred(func(*attest.Deferral) {})(r) }, "deferral of no pause"},
		{"deferral without an end", deferred(func(d *attest.Deferral) { d.Until = 3_603_501 }), "the longest is 3600000 ms"},
		{"deferral of no time", deferred(func(d *attest.Deferral) { d.Until = d.Began }), "deferral from 3500 to 3500 ms"},
		{"deferral that ended for nothing", deferred(func(d *attest.Deferral) { d.Ended = 5000 }), "ended at 5000 ms for reason 0"},
		{"deferral that ended before it began", deferred(func(d *attest.Deferral) { d.Ended, d.Why = 3500, attest.EndedTime }), "before it began"},
		{"deferral that ended for an unknown reason", deferred(func(d *attest.Deferral) { d.Ended, d.Why = 5000, 4 }), "for reason 4"},
		{"maintenance without its claim", func(r *attest.Report) { r.Body.Stage, r.Body.Pause = reference.StageMaintenance, nil }, "does not fit the maintenance claim"},
		{"maintenance while paused", func(r *attest.Report) { r.Body.Maintain = &attest.Maintenance{Began: 1, Until: 2} }, "does not fit the maintenance claim"},
		{"maintenance without an end", mended(func(m *attest.Maintenance) { m.Until = 86_403_501 }), "the longest is 86400 s"},
		{"maintenance that ended before it began", mended(func(m *attest.Maintenance) { m.Until = m.Began }), "maintenance from 3500 to 3500 ms"},
		{"rules out of order", func(r *attest.Report) { r.MeasRes[1].Results[1].Rule = [1]byte{0} }, "does not follow"},
	} {
		r := example(t)
		tt.edit(r)
		if _, err := attest.Seal(r, fixedSigner(t)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: sealing: %v, want an error with %q", tt.name, err, tt.want)
		}
		// The same bytes from a device that does not refuse to make them.
		payload, err := cose.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := fixedSigner(t).Sign(cose.Report, payload)
		if err != nil {
			t.Fatal(err)
		}
		data, err := cose.Encode(attest.Message{Report: append([]byte{0xd8, 0x3d}, signed...)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = attest.Decode(data)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: decoding: %v, want an error with %q", tt.name, err, tt.want)
			continue
		}
		claims, derr := cbor.Diagnose(payload)
		if derr != nil {
			t.Fatal(derr)
		}
		name := "refused-" + strings.ReplaceAll(tt.name, " ", "-")
		golden(t, name+".cbor", data)
		golden(t, name+".diag", []byte("/ refused: "+err.Error()+" /\n"+claims+"\n"))
	}
}

// golden compares data with a file of the vectors, or writes it with -update.
func golden(t *testing.T, name string, data []byte) {
	t.Helper()
	path := filepath.Join("..", "testdata", "vectors", "report", name)
	if *update {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, data) {
		t.Errorf("%s changed:\n got %q\nwant %q", name, data, want)
	}
}

func TestEveryByteMatters(t *testing.T) {
	data := seal(t, example(t))
	key := fixedSigner(t).Public()
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		if u, err := attest.Decode(bad); err == nil {
			if _, err := u.Verify(key); err == nil {
				t.Fatalf("byte %d changed, still verified", i)
			}
		}
		if _, err := attest.Decode(data[:i]); err == nil {
			t.Fatalf("cut to %d bytes, still decoded", i)
		}
	}
}

func TestAnotherKeyAndType(t *testing.T) {
	u, err := attest.Decode(seal(t, example(t)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Verify(referencetest.Signer(t).Public()); !errors.Is(err, cose.ErrKey) {
		t.Errorf("another key: %v", err)
	}
	payload, err := cose.Encode(example(t))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := fixedSigner(t).Sign(cose.Manifest, payload)
	if err != nil {
		t.Fatal(err)
	}
	data, err := cose.Encode(attest.Message{Report: append([]byte{0xd8, 0x3d}, signed...)})
	if err != nil {
		t.Fatal(err)
	}
	if u, err = attest.Decode(data); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Verify(fixedSigner(t).Public()); !errors.Is(err, cose.ErrType) {
		t.Errorf("a signature over another type of document: %v", err)
	}
}

func TestRoutineReportIsSmall(t *testing.T) {
	u := ueid()
	key, err := ecdsa.GenerateKey(elliptic.P256(), nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := cose.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	r := &attest.Report{IssuedAt: 1_800_000_000, UEID: u[:], Uptime: 3600, Profile: attest.Profile, BootCount: 7,
		BootSeed: make([]byte, 16), SWName: "factsd", SWVersion: []string{"0.1.0"}, MeasRes: []attest.System{}}
	var fold facts.Fold
	var readings []facts.Reading
	for k := range facts.Key(60) {
		readings = append(readings, facts.Reading{Key: k + 1, Value: facts.IntValue(int64(k) * 1000)})
	}
	fold.Add(facts.Snapshot{Readings: readings})
	r.SetFacts(&fold, func(facts.Key) bool { return true })
	r.Body.Kind, r.Body.Sequence, r.Body.Previous = attest.KindRoutine, 42, make([]byte, 32)
	r.Body.Stage, r.Body.Protection = reference.StageIntegration, attest.ProtectionTPM
	signed, err := attest.Seal(r, signer)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("60 facts: %d bytes signed", len(signed))
	if len(signed) > 700 {
		t.Errorf("%d bytes, the budget is 700", len(signed))
	}
}

func TestFloodedReportShrinks(t *testing.T) {
	r := example(t)
	for k := range facts.Key(4) {
		members := make([]string, facts.MaxSet)
		for i := range members {
			members[i] = strings.Repeat(string(rune('a'+k)), 30) + hex.EncodeToString([]byte{byte(i >> 8), byte(i)})
		}
		r.Body.Facts[200+k] = attest.Fact{Value: facts.SetValue(members)}
	}
	_, err := attest.Seal(r, fixedSigner(t))
	if !errors.Is(err, attest.ErrTooLarge) {
		t.Fatalf("four full sets: %v", err)
	}
	n := 0
	for errors.Is(err, attest.ErrTooLarge) && r.Shrink() {
		n++
		_, err = attest.Seal(r, fixedSigner(t))
	}
	if err != nil || n != 2 {
		t.Errorf("after leaving out %d facts: %v", n, err)
	}
	if g := r.Reading(200); g.Status != facts.Malformed || !strings.Contains(g.Reason, "too large") {
		t.Errorf("what was left out is %+v", g)
	}
	if f := r.Folded(1000); f.Value.Int() != 620 {
		t.Errorf("a small fact went as well: %+v", f)
	}
}

func TestForeignTextIsMadeFit(t *testing.T) {
	var fold facts.Fold
	fold.Add(facts.Snapshot{Readings: []facts.Reading{
		{Key: 13, Value: facts.TextValue("quiet \xff")},
		{Key: 22, Status: facts.Unreadable, Reason: strings.Repeat("\xffä", 200)},
	}})
	r := example(t)
	r.SetFacts(&fold, func(facts.Key) bool { return true })
	r.MeasRes, r.Body.Lasted = []attest.System{}, nil
	if g := r.Reading(13); g.Status != facts.Malformed {
		t.Errorf("text that is not UTF-8 became %+v", g)
	}
	if _, err := attest.Decode(seal(t, r)); err != nil {
		t.Errorf("the verifier could not read it: %v", err)
	}
}

func TestExtraData(t *testing.T) {
	seen := map[string]bool{}
	for _, x := range [][2]string{{"", "report"}, {"r", "eport"}, {"nonce", "report"}, {"nonce", "other"}} {
		seen[hex.EncodeToString(attest.ExtraData([]byte(x[0]), []byte(x[1])))] = true
	}
	if len(seen) != 4 {
		t.Error("two different pairs of nonce and report have one qualifying data")
	}
}

func TestDown(t *testing.T) {
	for _, d := range []attest.Down{{}, {Command: []byte{1}, Enrolled: true}} {
		data, err := cose.Encode(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := attest.DecodeDown(data); err == nil {
			t.Errorf("%+v was accepted", d)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(seal(f, example(f)))
	paths, err := filepath.Glob(filepath.Join("..", "testdata", "vectors", "report", "*.cbor"))
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, p := range paths {
		data, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	key := fixedSigner(f).Public()
	good := map[[32]byte]bool{} // what the key has signed
	for _, name := range []string{"alarm", "history", "logs", "deferral", "same", "maintenance", "epoch"} {
		data, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", "report", name+".cbor"))
		if err != nil {
			f.Fatal(err)
		}
		var m attest.Message
		if err := cose.Decode(data, attest.MaxMessageSize, &m); err != nil {
			f.Fatal(err)
		}
		good[sha256.Sum256(m.Report)] = true
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := attest.Decode(data)
		if err != nil {
			return
		}
		if v, err := u.Verify(key); err == nil && !good[v.Digest()] {
			t.Fatalf("forged message %x", data)
		}
	})
}

func FuzzEnrolment(f *testing.F) {
	u := ueid()
	s := fixedSigner(f)
	data, err := attest.SealEnrolment(&attest.Enrolment{Version: 1, UEID: u[:], Vendor: "v", Model: "m", Key: s.Public(), Protection: attest.ProtectionFile}, s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-1])
	renewal, err := attest.SealRenewal(data, s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(renewal) // without an order
	if data, err = attest.SealEnrolment(&attest.Enrolment{Version: 1, UEID: u[:], Vendor: "v", Model: "m", Key: s.Public(), Protection: attest.ProtectionFile, Secret: make([]byte, 16)}, s); err != nil {
		f.Fatal(err)
	}
	if renewal, err = attest.SealRenewal(data, s); err != nil {
		f.Fatal(err)
	}
	f.Add(renewal)
	f.Add([]byte("\xa1\x05\x50 the device key.."))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := attest.OpenRenewal(data); err == nil {
			if !attest.IsRenewal(data) || r.Device() != u {
				t.Fatalf("accepted a renewal of %s", r.Device())
			}
			if e, err := r.Verify(s.Public()); err == nil && (e.Key.ID() != s.Public().ID() || len(e.Secret) == 0) {
				t.Fatalf("verified %+v", e)
			}
		}
		e, err := attest.OpenEnrolment(data)
		if err == nil && (e.Key == nil || len(e.UEID) != 17) {
			t.Fatalf("accepted %+v", e)
		}
		if _, err := attest.DecodeDown(data); err == nil && len(data) > attest.MaxDownSize {
			t.Fatal("accepted beyond the limit")
		}
	})
}

// A rule's index is one byte, not none and not two.
func TestRuleOfOneByte(t *testing.T) {
	payload, err := cose.Encode(example(t))
	if err != nil {
		t.Fatal(err)
	}
	first := []byte("\x82\x41\x00") // the pair of rule 0 and its verdict
	if !bytes.Contains(payload, first) {
		t.Fatalf("no rule 0 in %x", payload)
	}
	for name, index := range map[string]string{"none": "\x82\x40", "two": "\x82\x42\x00\x00", "a number": "\x82\x00", "a text": "\x82\x61\x00"} {
		signed, err := fixedSigner(t).Sign(cose.Report, bytes.Replace(payload, first, []byte(index), 1))
		if err != nil {
			t.Fatal(err)
		}
		data, err := cose.Encode(attest.Message{Report: append([]byte{0xd8, 0x3d}, signed...)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := attest.Decode(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
