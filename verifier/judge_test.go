package verifier_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// claim sets the verdict that the device claims for a rule.
func claim(r *attest.Report, stage reference.Stage, rule int, v appraise.Verdict) {
	for i := range r.MeasRes {
		if r.MeasRes[i].Name == attest.SystemName(stage) {
			r.MeasRes[i].Results[rule].Verdict = v
		}
	}
}

func paused(r *attest.Report) {
	r.Body.Stage = reference.StagePaused
	r.Body.Pause = &attest.Pause{ID: make([]byte, 16), Reason: "flow above 500 ml/h", Effects: []attest.Effect{
		{Kind: reference.Freeze, Target: "medical.slice", Observed: "not frozen after 2 s"},
	}}
}

func TestFindings(t *testing.T) {
	const (
		none, good, warn, contra = verifier.TierNone, verifier.TierAffirming, verifier.TierWarning, verifier.TierContraindicated
		integration, operating   = reference.StageIntegration, reference.StageOperating
		failSafe                 = reference.StagePaused
	)
	for _, c := range []struct {
		name   string
		device func(d *verifiertest.Device)
		report func(r *attest.Report)
		kind   attest.Kind // routine after a boot report unless set
		code   verifier.Reason
		tier   verifier.Tier // of the finding
		words  string
		whole  verifier.Tier // of the record
	}{
		{name: "sound", code: verifier.ReasonKeyFile, tier: none, words: "file", whole: good},
		{name: "operating deviates", device: func(d *verifiertest.Device) {
			d.Set(verifiertest.Listening, facts.SetValue([]string{"tcp/0.0.0.0:23"}))
		},
			code: verifier.ReasonDeviates, tier: warn, words: "tcp/0.0.0.0:23, which nobody declared", whole: warn},
		{name: "deviates for its hold", device: func(d *verifiertest.Device) { d.Set(verifiertest.CPUUsage, facts.IntValue(950)) },
			code: verifier.ReasonDeviates, tier: warn, words: "cpu.usage is 950 permille; expected at most 800", whole: warn},
		{name: "unreadable", device: func(d *verifiertest.Device) { d.Status(verifiertest.Listening, facts.Unreadable) },
			code: verifier.ReasonNotAppraised, tier: warn, words: "network.listening is unreadable", whole: warn},
		{name: "absent, which the rule allows", device: func(d *verifiertest.Device) { d.Status(verifiertest.AppFlow, facts.Absent) },
			code: verifier.ReasonNotAppraised, tier: none, words: "app.flow is absent", whole: good},
		{name: "absent, which the rule does not allow", device: func(d *verifiertest.Device) { d.Status(verifiertest.Listening, facts.Absent) },
			code: verifier.ReasonDeviates, tier: warn, words: "network.listening is absent", whole: warn},
		{name: "extreme", device: func(d *verifiertest.Device) { d.Set(verifiertest.AppFlow, facts.IntValue(700)) }, report: paused,
			code: verifier.ReasonExtreme, tier: contra, words: "fail-safe: app.flow is 700 ml/h; expected at most 500 ml/h", whole: contra},
		{name: "paused", report: paused,
			code: verifier.ReasonPaused, tier: contra, words: "flow above 500 ml/h; steps without their effect: freeze medical.slice: not frozen", whole: contra},
		{name: "maintenance", report: func(r *attest.Report) {
			r.Body.Stage, r.Body.Maintain = reference.StageMaintenance, &attest.Maintenance{Began: 1000, Until: r.Body.End + 3_600_000}
		},
			code: verifier.ReasonMaintenance, tier: contra, words: "in maintenance until 20", whole: contra},
		{name: "pause deferred", report: func(r *attest.Report) {
			paused(r)
			r.Body.Deferral = &attest.Deferral{Began: r.Body.End - 1000, Until: r.Body.End + 240_000}
		},
			code: verifier.ReasonPaused, tier: contra, words: "flow above 500 ml/h; deferred by the application until 20", whole: contra},
		{name: "pause was deferred", report: func(r *attest.Report) {
			paused(r)
			r.Body.Deferral = &attest.Deferral{Began: 1000, Until: 301_000, Ended: 62_500, Why: attest.EndedApplication}
		},
			code: verifier.ReasonPaused, tier: contra, words: "was deferred by the application for 61.5 s, until the application let it come", whole: contra},
		{name: "pause not confirmed", report: func(r *attest.Report) { paused(r); r.Body.Pause.ID = nil },
			code: verifier.ReasonPaused, tier: contra, words: "not confirmed", whole: contra},
		{name: "not admitted yet", report: func(r *attest.Report) { r.Body.Stage = integration },
			code: verifier.ReasonIntegration, tier: warn, words: "yet", whole: warn},
		{name: "integration failed", kind: attest.KindBoot, device: func(d *verifiertest.Device) { d.Set(verifiertest.BootTotal, facts.IntValue(60_000)) },
			report: func(r *attest.Report) { r.Body.Stage = integration },
			code:   verifier.ReasonIntegration, tier: contra, words: "failed", whole: contra},
		{name: "no manifest", device: func(d *verifiertest.Device) { d.Ref = nil },
			code: verifier.ReasonNoReference, tier: warn, words: "no valid manifest", whole: warn},
		{name: "note", report: func(r *attest.Report) { r.Body.Notes = []string{"the enforcer does not answer"} },
			code: verifier.ReasonNote, tier: warn, words: "the enforcer does not answer", whole: warn},
		{name: "dropped", report: func(r *attest.Report) { r.Body.Dropped = 7 },
			code: verifier.ReasonDropped, tier: warn, words: "7 reports", whole: warn},
		{name: "another boot, the same count", device: func(d *verifiertest.Device) { d.Reboot(); d.Boots-- }, kind: attest.KindBoot,
			code: verifier.ReasonBootHistory, tier: warn, words: "another boot with boot count 1 after 1", whole: warn},
		{name: "the same boot, another count", device: func(d *verifiertest.Device) { d.Boots++ },
			code: verifier.ReasonBootHistory, tier: warn, words: "within one boot", whole: warn},
		{name: "uptime goes back", report: func(r *attest.Report) { r.Uptime = 1 },
			code: verifier.ReasonBootHistory, tier: warn, words: "uptime went back", whole: warn},

		// What the device claims is held against its facts.
		{name: "claims to pass, its facts deviate", device: func(d *verifiertest.Device) {
			d.Set(verifiertest.Listening, facts.SetValue([]string{"tcp/0.0.0.0:23"}))
		},
			report: func(r *attest.Report) { claim(r, operating, 1, appraise.Passes) },
			code:   verifier.ReasonClaim, tier: contra, words: "claims that a rule passes, its facts say that it deviates", whole: contra},
		{name: "claims to pass, its facts deviate for the whole hold", device: func(d *verifiertest.Device) { d.Set(verifiertest.AppFlow, facts.IntValue(700)) },
			report: func(r *attest.Report) { claim(r, failSafe, 0, appraise.Passes) },
			code:   verifier.ReasonClaim, tier: contra, words: "deviates: fail-safe: app.flow", whole: contra},
		{name: "claims that a fact was not read that it reports", device: func(d *verifiertest.Device) {
			d.Set(verifiertest.Listening, facts.SetValue([]string{"tcp/0.0.0.0:23"}))
		},
			report: func(r *attest.Report) { claim(r, operating, 1, appraise.NotAppraised) },
			code:   verifier.ReasonClaim, tier: contra, words: "not appraised", whole: contra},
		{name: "claims that a fact passes that was not read", device: func(d *verifiertest.Device) { d.Status(verifiertest.Listening, facts.Unreadable) },
			report: func(r *attest.Report) { claim(r, operating, 1, appraise.Passes) },
			code:   verifier.ReasonClaim, tier: contra, words: "unreadable", whole: contra},
		{name: "claims absence of a fact that was not read", device: func(d *verifiertest.Device) { d.Status(verifiertest.AppFlow, facts.Unreadable) },
			report: func(r *attest.Report) { claim(r, failSafe, 0, appraise.AbsentHere) },
			code:   verifier.ReasonClaim, tier: contra, words: "absent", whole: contra},
		{name: "claims to deviate, its facts pass", report: func(r *attest.Report) { claim(r, operating, 1, appraise.Deviates) },
			code: verifier.ReasonClaim, tier: warn, words: "its facts say that it passes", whole: warn},
		{name: "routine report hides what the boot report has shown", device: func(d *verifiertest.Device) {
			d.Reboot()
			d.Set(verifiertest.BootTotal, facts.IntValue(60_000))
			boot := d.Report(attest.KindBoot)
			boot.Body.Stage = integration
			d.Accepted(verifiertest.Encode(d.Fleet, d.Seal(boot)))
		}, report: func(r *attest.Report) { claim(r, integration, 0, appraise.Passes) },
			code: verifier.ReasonClaim, tier: contra, words: "its facts say that it deviates: integration: boot.total is 60000 ms", whole: contra},
		{name: "routine report is worse than the boot report", report: func(r *attest.Report) { claim(r, integration, 0, appraise.Deviates) },
			code: verifier.ReasonClaim, tier: warn, words: "boot.total is 12000 ms", whole: warn},
		{name: "operates though an extreme is crossed", device: func(d *verifiertest.Device) { d.Set(verifiertest.AppFlow, facts.IntValue(700)) },
			code: verifier.ReasonClaim, tier: contra, words: "claims to operate, and a fail-safe extreme", whole: contra},
		{name: "operates though its boot deviates", kind: attest.KindBoot, device: func(d *verifiertest.Device) { d.Set(verifiertest.BootTotal, facts.IntValue(60_000)) },
			code: verifier.ReasonClaim, tier: contra, words: "claims to operate, and its boot deviates: integration: boot.total is 60000 ms", whole: contra},
		{name: "boot report came before the fact was read", device: func(d *verifiertest.Device) {
			d.Reboot()
			boot := d.Report(attest.KindBoot)
			delete(boot.Body.Facts, verifiertest.BootTotal)
			boot.Body.Gaps = map[facts.Key]attest.Gap{verifiertest.BootTotal: {Status: facts.Stale, Reason: "no answer within 100ms"}}
			claim(boot, integration, 0, appraise.NotAppraised)
			boot.Body.Stage = integration
			d.Accepted(verifiertest.Encode(d.Fleet, d.Seal(boot)))
		}, code: verifier.ReasonNotAppraised, tier: warn, words: "1 rules rest on the device's word", whole: warn},
		{name: "boot report is missing", device: func(d *verifiertest.Device) { d.Reboot() },
			code: verifier.ReasonNotAppraised, tier: warn, words: "1 rules rest on the device's word", whole: warn},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := verifiertest.New(t)
			d := f.NewDevice().Enrolled()
			if r := d.Accepted(d.Message(attest.KindBoot)); r.Tier != good {
				t.Fatalf("a sound boot: %+v", r.Findings)
			}
			if c.device != nil {
				c.device(d)
			}
			if c.kind == 0 {
				c.kind = attest.KindRoutine
			}
			report := d.Report(c.kind)
			if c.report != nil {
				c.report(report)
			}
			r := d.Accepted(verifiertest.Encode(t, d.Seal(report)))
			if !slices.ContainsFunc(r.Findings, func(f verifier.Finding) bool {
				return f.Code == c.code && f.Tier == c.tier && strings.Contains(f.Text, c.words)
			}) {
				t.Errorf("no finding %s %s %q in\n%+v", c.code, c.tier, c.words, r.Findings)
			}
			if r.Tier != c.whole {
				t.Errorf("tier %s, want %s: %+v", r.Tier, c.whole, r.Findings)
			}
			result, err := verifier.OpenResult(r.Result, f.World.Result.Public())
			if err != nil {
				t.Fatal(err)
			}
			if a := result.Submods[d.UEID.String()]; a.Status != r.Tier {
				t.Errorf("result %s, record %s: %+v", a.Status, r.Tier, a)
			}
			if v := d.View(); v.Tier != r.Tier || v.Stage != report.Body.Stage || v.LastSeen != f.Now {
				t.Errorf("device: %+v", v)
			}
		})
	}
}

// Hundreds of rules that deviate are counted, not all told.
func TestManyFindings(t *testing.T) {
	m := referencetest.Example()
	limit := int64(100)
	for k := verifiertest.AppFlow + 1; k < verifiertest.AppFlow+60; k++ {
		m.Apps = append(m.Apps, reference.AppFact{Key: k, Name: fmt.Sprintf("app.f%d", k), Unit: "1", Max: 1000})
		rule := reference.Rule{Fact: k, Op: reference.Range, Max: &limit}
		m.Integration, m.Operating = append(m.Integration, rule), append(m.Operating, rule)
	}
	f := verifiertest.Of(t, m)
	d := f.NewDevice().Enrolled()
	for _, a := range m.Apps[1:] {
		d.Set(a.Key, facts.IntValue(500))
	}
	d.Accepted(d.Message(attest.KindBoot))
	r := d.Report(attest.KindRoutine)
	paused(r)
	rec := d.Accepted(verifiertest.Encode(t, d.Seal(r)))
	if len(rec.Findings) != 100 || rec.Findings[0].Code != verifier.ReasonPaused || !has(rec.Findings, verifier.ReasonMore, verifier.TierWarning) {
		t.Errorf("%d findings, first %+v, last %+v", len(rec.Findings), rec.Findings[0], rec.Findings[len(rec.Findings)-1])
	}
	if _, err := verifier.OpenResult(rec.Result, f.World.Result.Public()); err != nil {
		t.Error(err)
	}
}

// Where nobody can tell for how long the device watched, a hold proves nothing.
func TestHoldsThatCannotBeTold(t *testing.T) {
	for name, change := range map[string]func(r *attest.Report){
		"after a resume":      func(r *attest.Report) { r.Body.Stage = reference.StageIntegration },
		"after a suspension":  func(r *attest.Report) { r.Body.End += 200_000 },
		"in a short interval": func(r *attest.Report) { r.Body.Begin = r.Body.End - 6000 },
	} {
		f := verifiertest.New(t)
		d := f.NewDevice().Enrolled()
		d.Accepted(d.Message(attest.KindBoot))
		d.Set(verifiertest.CPUUsage, facts.IntValue(950)) // has a hold of 5 s
		r := d.Report(attest.KindRoutine)
		claim(r, reference.StageOperating, 0, appraise.Passes)
		change(r)
		if rec := d.Accepted(verifiertest.Encode(t, d.Seal(r))); has(rec.Findings, verifier.ReasonClaim, verifier.TierContraindicated) {
			t.Errorf("%s: %+v", name, rec.Findings)
		}
	}
}

// An alarm can come before the agent knows its boot count.
func TestBootCountNotKnownYet(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	d.Accepted(d.Message(attest.KindBoot))
	d.Reboot()
	early := d.Report(attest.KindAlarm)
	early.BootCount = 0
	d.Accepted(verifiertest.Encode(t, d.Seal(early)))
	if r := d.Accepted(d.Message(attest.KindBoot)); has(r.Findings, verifier.ReasonBootHistory, verifier.TierWarning) {
		t.Errorf("%+v", r.Findings)
	}
}

func TestEditions(t *testing.T) {
	newer := referencetest.Example()
	newer.Sequence++
	f := verifiertest.New(t)
	refs := []*reference.Reference{f.Ref, f.World.Open(t, newer)}
	var err error
	if f.Verifier, err = verifier.New(verifier.Config{References: refs, Result: f.World.Result}, f.Store); err != nil {
		t.Fatal(err)
	}
	d := f.NewDevice().Enrolled()
	if r := d.Accepted(d.Message(attest.KindBoot)); !has(r.Findings, verifier.ReasonOldManifest, verifier.TierWarning) {
		t.Errorf("%+v", r.Findings)
	}
	d.Ref = refs[1]
	if r := d.Accepted(d.Message(attest.KindBoot)); r.Tier != verifier.TierAffirming {
		t.Errorf("%+v", r.Findings)
	}
	f.Now = newer.NotAfter + 86400
	if r := d.Accepted(d.Message(attest.KindRoutine)); !has(r.Findings, verifier.ReasonOldManifest, verifier.TierWarning) {
		t.Errorf("ended: %+v", r.Findings)
	}
}

// Alarms overtake: reports come in any order, a gap shows and closes again.
func TestOutOfOrder(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	var m [][]byte
	for i := range 6 {
		kind := attest.KindRoutine
		if i == 0 {
			kind = attest.KindBoot
		}
		m = append(m, d.Message(kind))
	}
	gap := func() (verifier.Finding, bool) {
		v := d.View()
		i := slices.IndexFunc(v.Findings, func(f verifier.Finding) bool { return f.Code == verifier.ReasonGap })
		if i < 0 {
			return verifier.Finding{}, false
		}
		return v.Findings[i], true
	}
	for _, step := range []struct {
		message int
		gap     string
		newest  uint64
	}{
		{1, "", 2}, // what came before the first is not known to be missing
		{4, "2 reports between 2 and 5", 5},
		{0, "2 reports between 1 and 5", 5},
		{3, "1 reports between 1 and 5", 5},
		{5, "1 reports between 1 and 6", 6},
		{2, "", 6},
	} {
		d.Accepted(m[step.message])
		found, ok := gap()
		if ok != (step.gap != "") || !strings.HasPrefix(found.Text, step.gap) {
			t.Errorf("after report %d: %q, want %q", step.message+1, found.Text, step.gap)
		}
		if v := d.View(); v.Sequence != step.newest {
			t.Errorf("after report %d: newest %d, want %d", step.message+1, v.Sequence, step.newest)
		}
	}
	if v := d.View(); v.Missing != 0 || v.First != 1 {
		t.Errorf("%d missing since %d", v.Missing, v.First)
	}
	d.Sequence += 3
	d.Digest = bytes.Repeat([]byte{1}, 32)
	d.Accepted(d.Message(attest.KindRoutine))
	if _, ok := gap(); !ok {
		t.Error("no gap")
	}
	f.Now += 24*3600 + 1
	if found, ok := gap(); ok {
		t.Errorf("a day later: %q", found.Text)
	}
}

// A late alarm does not make an operating device look paused.
func TestLateReportDoesNotBecomeTheNewest(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	d.Accepted(d.Message(attest.KindBoot))
	alarm := d.Report(attest.KindAlarm)
	paused(alarm)
	late := verifiertest.Encode(t, d.Seal(alarm))
	d.Accepted(d.Message(attest.KindRoutine))
	if r := d.Accepted(late); r.Tier != verifier.TierContraindicated {
		t.Errorf("the alarm itself: %s", r.Tier)
	}
	if v := d.View(); v.Stage != reference.StageOperating || v.Pause != nil || v.Tier != verifier.TierAffirming {
		t.Errorf("%s %+v %s", v.Stage, v.Pause, v.Tier)
	}
}

func TestSilence(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	silent := func() bool { return has(d.View().Findings, verifier.ReasonSilent, verifier.TierWarning) }
	const limit = 3*60 + 60 // three times the manifest's report_every, and a reboot
	approved := f.Now
	if f.Now = approved + limit; silent() {
		t.Error("silent at once after approval")
	}
	if f.Now++; !silent() {
		t.Error("never a report, and not silent")
	}
	d.Accepted(d.Message(attest.KindBoot))
	if silent() {
		t.Error("silent though it reports")
	}
	f.Now += limit + 1
	// A restart of the verifier knows as much.
	var err error
	if f.Verifier, err = verifier.New(verifier.Config{References: []*reference.Reference{f.Ref}, Result: f.World.Result}, f.Store); err != nil {
		t.Fatal(err)
	}
	if !silent() || d.View().Tier != verifier.TierWarning {
		t.Error("not silent after a restart")
	}
	all, err := f.Devices(f.Now)
	if err != nil || len(all) != 1 || !has(all[0].Findings, verifier.ReasonSilent, verifier.TierWarning) {
		t.Errorf("%+v %v", all, err)
	}
}

func TestBootState(t *testing.T) {
	e := tpmtest.New(t)
	m := referencetest.Example()
	m.Boot = &reference.Boot{PCRs: []int{0, 7}}
	f := verifiertest.Of(t, m)
	d := f.NewTPMDevice(e.Addr).Enrolled()

	// Reports of a boot that no quote has proved.
	r := d.Accepted(d.Message(attest.KindRoutine))
	if !has(r.Findings, verifier.ReasonBootUnknown, verifier.TierWarning) {
		t.Errorf("no quote yet: %+v", r.Findings)
	}
	boot := d.Report(attest.KindBoot)
	unquoted := d.Seal(boot)
	unquoted.Quote = nil
	r = d.Accepted(verifiertest.Encode(t, unquoted))
	if r.Quoted || !has(r.Findings, verifier.ReasonBootUnknown, verifier.TierWarning) {
		t.Errorf("boot report without a quote: %+v", r.Findings)
	}
	// A manifest that accepts nothing: visible, and no reproach.
	r = d.Accepted(d.Message(attest.KindBoot))
	if !r.Quoted || r.Tier != verifier.TierAffirming || !has(r.Findings, verifier.ReasonNotAppraised, verifier.TierNone) {
		t.Errorf("nothing to accept: %s %+v", r.Tier, r.Findings)
	}
	// It holds for the reports of the same boot that come without a quote.
	r = d.Accepted(d.Message(attest.KindRoutine))
	if r.Quoted || has(r.Findings, verifier.ReasonBootUnknown, verifier.TierWarning) {
		t.Errorf("after the quote: %+v", r.Findings)
	}

	// The right digest, then a wrong one, in new editions of the manifest.
	digest, err := d.TPM.PCRDigest([]int{0, 7})
	if err != nil {
		t.Fatal(err)
	}
	edition := func(accept []byte) {
		m.Sequence++
		m.Boot.Accept = [][]byte{accept}
		d.Ref = f.World.Open(t, m)
		cfg := verifier.Config{References: []*reference.Reference{d.Ref}, Result: f.World.Result, Command: f.World.Command}
		if f.Verifier, err = verifier.New(cfg, f.Store); err != nil {
			t.Fatal(err)
		}
	}
	d.Set(verifiertest.PCRDigest, facts.BytesValue(digest))
	edition(digest)
	r = d.Accepted(d.Message(attest.KindBoot))
	result, err := verifier.OpenResult(r.Result, f.World.Result.Public())
	if err != nil {
		t.Fatal(err)
	}
	if r.Tier != verifier.TierAffirming || result.Submods[d.UEID.String()].Vector[verifier.Executables] != 3 {
		t.Errorf("accepted boot: %+v %+v", r.Findings, result)
	}
	edition(bytes.Repeat([]byte{1}, 32))
	d.Accepted(d.Message(attest.KindBoot))
	r = d.Accepted(d.Message(attest.KindRoutine)) // still of that boot
	if r.Tier != verifier.TierContraindicated || !has(r.Findings, verifier.ReasonBootState, verifier.TierContraindicated) {
		t.Errorf("another boot state: %+v", r.Findings)
	}
	// A device that says it operates with such a boot did not compare.
	if !has(r.Findings, verifier.ReasonClaim, verifier.TierContraindicated) {
		t.Errorf("operating with another boot state: %+v", r.Findings)
	}

	// A quote over other PCRs, over other bytes, by another key.
	for name, spoil := range map[string]func(m *attest.Message){
		"other PCRs":    func(m *attest.Message) { m.Quote = d.Quote(nil, m.Report, []int{0}) },
		"other report":  func(m *attest.Message) { m.Quote = d.Quote(nil, []byte("x"), []int{0, 7}) },
		"other nonce":   func(m *attest.Message) { m.Quote = d.Quote(make([]byte, 16), m.Report, []int{0, 7}) },
		"other TPM":     func(m *attest.Message) { m.Quote = f.NewTPMDevice(tpmtest.Start(t)).Quote(nil, m.Report, []int{0, 7}) },
		"changed value": func(m *attest.Message) { m.Quote.PCRs[0].Digest[0] ^= 1 },
		"value missing": func(m *attest.Message) { m.Quote.PCRs = m.Quote.PCRs[1:] },
		"SHA-1 bank":    func(m *attest.Message) { m.Quote.Bank = 4 },
	} {
		t.Run(name, func(t *testing.T) {
			sequence, digest := d.Sequence, d.Digest
			defer func() { d.Sequence, d.Digest = sequence, digest }()
			m := d.Seal(d.Report(attest.KindBoot))
			spoil(m)
			wantRefused(f, d.Delivery(verifiertest.Encode(t, m)), verifier.ReasonQuote)
		})
	}
	t.Run("challenge without a quote", func(t *testing.T) {
		answer := d.Report(attest.KindChallenge)
		answer.Nonce = d.Challenge()
		m := d.Seal(answer)
		m.Quote = nil
		wantRefused(f, d.Delivery(verifiertest.Encode(t, m)), verifier.ReasonNoQuote)
	})
}

// A power cut sets the TPM's clock back, and that is no attack; a reset count
// that goes back is one.
func TestTPMClock(t *testing.T) {
	e := tpmtest.New(t)
	f := verifiertest.New(t)
	d := f.NewTPMDevice(e.Addr).Enrolled()
	d.Accepted(d.Message(attest.KindBoot))

	e.Kill()
	e.PowerOn()
	d2 := f.NewTPMDevice(e.Addr)
	if d2.UEID != d.UEID {
		t.Fatal("the TPM has another identity after a power cut")
	}
	d.TPM, d.Signer = d2.TPM, d2.Signer
	d.Reboot()
	r := d.Accepted(d.Message(attest.KindBoot))
	if r.Tier != verifier.TierAffirming {
		t.Errorf("after a power cut: %+v", r.Findings)
	}

	rewind := func(change func(c *verifier.Clock)) *verifier.Record {
		t.Helper()
		known, err := f.Store.Device(d.UEID)
		if err != nil {
			t.Fatal(err)
		}
		change(known.Clock)
		if err := f.Store.Save(known); err != nil {
			t.Fatal(err)
		}
		return d.Accepted(d.Message(attest.KindBoot))
	}
	r = rewind(func(c *verifier.Clock) { c.ResetCount++ })
	if !has(r.Findings, verifier.ReasonTPMRewind, verifier.TierWarning) {
		t.Errorf("reset count went back: %+v", r.Findings)
	}
	r = rewind(func(c *verifier.Clock) { c.RestartCount++ })
	if !has(r.Findings, verifier.ReasonTPMRewind, verifier.TierWarning) {
		t.Errorf("restart count went back: %+v", r.Findings)
	}
	if r = d.Accepted(d.Message(attest.KindBoot)); r.Tier != verifier.TierAffirming {
		t.Errorf("told once: %+v", r.Findings)
	}
}

func TestQuoteOfAKeyFileDevice(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	m := d.Seal(d.Report(attest.KindBoot))
	m.Quote = f.NewTPMDevice(tpmtest.Start(t)).Quote(nil, m.Report, []int{0, 1, 2, 3, 4, 5, 6, 7})
	wantRefused(f, d.Delivery(verifiertest.Encode(t, m)), verifier.ReasonQuote)
}

func TestEvents(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	f.Events()
	d.Accepted(d.Message(attest.KindBoot))
	f.Take(d.Delivery([]byte("garbage")))
	if events := f.Events(); len(events) != 2 || events[0].Device != d.UEID.String() || events[0].Sequence != 1 || events[1].Refused == nil {
		t.Errorf("%+v", events)
	}
}

// Facts that a report does not repeat are judged as the report has them that it
// names, in whatever order both come.
func TestFactsAsBefore(t *testing.T) {
	f := verifiertest.New(t)
	d := f.NewDevice().Enrolled()
	short := func(base *attest.Report) *attest.Report {
		t.Helper()
		r := d.Report(attest.KindRoutine)
		if r.LeaveOut(base); r.Body.Same == nil || !r.Body.Same.Has(verifiertest.AppFlow) {
			t.Fatalf("left out %+v", r.Body.Same)
		}
		return r
	}
	boot := d.Report(attest.KindBoot)
	d.Accepted(verifiertest.Encode(t, d.Seal(boot)))
	if r := d.Accepted(verifiertest.Encode(t, d.Seal(short(boot)))); r.Tier != verifier.TierAffirming {
		t.Errorf("as in the boot report: %s, %+v", r.Tier, r.Findings)
	}
	// The numbers of the report it names count, not what the device makes of them.
	d.Set(verifiertest.AppFlow, facts.IntValue(700))
	d.Reboot()
	bad := d.Report(attest.KindBoot)
	d.Accepted(verifiertest.Encode(t, d.Seal(bad)))
	if r := d.Accepted(verifiertest.Encode(t, d.Seal(short(bad)))); r.Tier != verifier.TierContraindicated {
		t.Errorf("an extreme is crossed as in the boot report: %s, %+v", r.Tier, r.Findings)
	}
	// Two whole reports of a boot: the one that is named counts, not the newer.
	d.Set(verifiertest.AppFlow, facts.IntValue(120))
	d.Reboot()
	first := d.Report(attest.KindBoot)
	d.Accepted(verifiertest.Encode(t, d.Seal(first)))
	late := verifiertest.Encode(t, d.Seal(short(first)))
	d.Set(verifiertest.AppFlow, facts.IntValue(130))
	second := d.Report(attest.KindBoot)
	d.Accepted(verifiertest.Encode(t, d.Seal(second)))
	if r := d.Accepted(late); r.Tier >= verifier.TierWarning {
		t.Errorf("as in the first of two: %s, %+v", r.Tier, r.Findings)
	}
	// The report that is named never came.
	d.Reboot()
	lost := d.Report(attest.KindBoot)
	d.Seal(lost)
	r := d.Accepted(verifiertest.Encode(t, d.Seal(short(lost))))
	wants(t, r.Findings, verifier.ReasonNotAppraised, verifier.TierWarning, "rest on the device's word")
	if r.Tier != verifier.TierWarning {
		t.Errorf("as in a report that did not come: %s, %+v", r.Tier, r.Findings)
	}
}
