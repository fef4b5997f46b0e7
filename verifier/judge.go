package verifier

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// Bounds of what is said about one report, which has all of it: a set of
// listening sockets can be long, and a device can have hundreds of rules deviate.
const (
	maxFinding  = 512 // bytes of one
	maxFindings = 100 // the worst; the others are counted
)

// gapMemory is how long in seconds missing reports are told.
const gapMemory = 24 * 3600

// A judge collects findings about one report.
type judge struct {
	*checked
	now    int64
	device *Device
	life   *Life // nil without labels
	found  []Finding
}

func (j *judge) find(code Reason, tier Tier, format string, args ...any) {
	j.found = append(j.found, Finding{Code: code, Tier: tier, Text: attest.Clip(fmt.Sprintf(format, args...), maxFinding)})
}

// judge appraises a checked report, brings the device up to date and returns
// the record with its signed result, and what the device is to be told.
func (v *Verifier) judge(now int64, d *Device, c *checked, message []byte) (*Record, []byte, error) {
	b := &c.report.Body
	j := &judge{checked: c, now: now, device: d}
	newest := b.Sequence > d.Sequence
	boot := j.bootOf()
	j.protection()
	j.tpmClock()
	logs, down, err := v.boot(j, boot, newest)
	if err != nil {
		return nil, nil, err
	}
	j.bootHistory(newest)
	if text := v.stale(now, c.report); text != "" && d.Identity == nil {
		j.find(ReasonEpoch, TierWarning, "%s", text)
	}
	j.reference()
	j.comparison()
	j.notes(newest)
	d.count(now, b.Sequence)
	d.LastSeen = now
	if b.Kind == attest.KindChallenge {
		d.Challenge = nil
	}
	j.found = bounded(j.found)
	if newest {
		d.Sequence, d.Digest = b.Sequence, c.verified.Digest()
		d.Stage, d.Pause, d.Manifest, d.Dropped = b.Stage, b.Pause, b.Manifest, b.Dropped
		switch {
		case b.History != nil:
			d.Crossing, d.Crossed = b.History, j.crossed()
		case b.Stage == reference.StageOperating && b.Kind != attest.KindAlarm:
			d.Crossing, d.Crossed = nil, nil
		}
		d.Deferral, d.Maintained = j.deferral(), 0
		if b.Maintain != nil {
			d.Maintained = j.at(b.Maintain.Until)
		}
		d.Boot = boot
		boot.Uptime = c.report.Uptime
		if c.report.BootCount != 0 { // 0: not known yet
			boot.Count = c.report.BootCount
		}
		d.Tier, d.Findings = worst(j.found), j.found
		if d.Seen == nil {
			d.Seen = new(Seen)
		}
		d.Seen.take(now, c.report, c.ref, boot)
	}
	j.life = v.life(now, d)
	j.found = bounded(slices.Concat(j.found, d.passing(now, boot), j.life.findings(now)))
	tier := worst(j.found)
	r := &Record{
		Device: d.UEID, Chain: d.Chain, Sequence: b.Sequence, Digest: c.verified.Digest(), BootSeed: [16]byte(c.report.BootSeed),
		Kind: b.Kind, Stage: b.Stage, ReceivedAt: now, Quoted: c.quote != nil, Message: message, Tier: tier, Findings: j.found, Logs: logs,
	}
	copy(r.Previous[:], b.Previous)
	r.Result, err = v.sign(j.result(v.cfg.Build, tier, boot))
	return r, down, err
}

// crossed returns what the number is called whose history the report carries.
func (j *judge) crossed() *Crossed {
	vocab, err := facts.NewVocabulary(nil)
	if j.ref != nil {
		vocab, err = j.ref.Vocabulary(), nil
	}
	if err != nil {
		return nil
	}
	if d, ok := vocab.ByKey(j.report.Body.History.Fact); ok {
		return &Crossed{d.Name, d.Unit}
	}
	return nil
}

// at returns the time of an uptime, in ms, by the time of the report, or when the
// device does not know it, by that of its coming.
func (j *judge) at(uptime int64) int64 {
	at := j.report.IssuedAt
	if at == 0 {
		at = j.now
	}
	return at + (uptime-j.report.Body.End)/1000
}

// deferral returns how the pause was put off.
func (j *judge) deferral() *Deferral {
	b := &j.report.Body
	if b.Deferral == nil {
		return nil
	}
	d := &Deferral{Until: j.at(b.Deferral.Until), Why: b.Deferral.Why}
	if b.Deferral.Ended != 0 {
		d.Lasted = b.Deferral.Ended - b.Deferral.Began
	}
	return d
}

// bounded returns the worst findings, and how many more there are.
func bounded(found []Finding) []Finding {
	if len(found) <= maxFindings {
		return found
	}
	slices.SortStableFunc(found, func(a, b Finding) int { return int(b.Tier) - int(a.Tier) })
	more := found[maxFindings-1:]
	return append(found[:maxFindings-1:maxFindings-1], Finding{Code: ReasonMore, Tier: worst(more), Text: fmt.Sprintf("and %d more findings", len(more))})
}

// worst returns the tier that findings make: affirming when none is worse.
func worst(found []Finding) Tier {
	tier := TierAffirming
	for _, f := range found {
		tier = max(tier, f.Tier)
	}
	return tier
}

// bootOf returns what is known of the report's boot.
func (j *judge) bootOf() *Boot {
	if b := j.device.Boot; b != nil && bytes.Equal(b.Seed, j.report.BootSeed) {
		return b
	}
	return &Boot{Seed: j.report.BootSeed}
}

func (j *judge) protection() {
	if j.device.Protection == attest.ProtectionFile {
		j.find(ReasonKeyFile, TierNone, "the device key is in a file: whoever reads it is the device")
	}
}

// tpmClock compares the TPM's clock and counters with those of the newest quote
// before.
func (j *judge) tpmClock() {
	if j.quote == nil {
		return
	}
	q := Clock{
		Sequence: j.report.Body.Sequence, Clock: j.quote.Clock(),
		ResetCount: j.quote.ResetCount(), RestartCount: j.quote.RestartCount(), Safe: j.quote.Safe(), Seed: j.report.BootSeed,
	}
	old := j.device.Clock
	if old != nil && q.Sequence < old.Sequence {
		return
	}
	if old != nil {
		if f := clockFinding(old, &q); f != nil {
			j.found = append(j.found, *f)
		}
	}
	j.device.Clock = &q
}

func (j *judge) quotedState(q *tpm.VerifiedQuote) *Finding {
	digest := q.Digest()
	if j.ref == nil || j.ref.Manifest().Boot == nil || len(j.ref.Manifest().Boot.Accept) == 0 {
		return &Finding{Code: ReasonNotAppraised, Text: fmt.Sprintf("boot state not appraised: the manifest accepts no PCR digest; this one is %x", digest)}
	}
	if slices.ContainsFunc(j.ref.Manifest().Boot.Accept, func(a []byte) bool { return bytes.Equal(a, digest) }) {
		return nil
	}
	return &Finding{Code: ReasonBootState, Tier: TierContraindicated, Text: fmt.Sprintf("the quoted PCRs %v have digest %x, which the manifest does not accept", wantPCRs(j.ref), digest)}
}

// bootHistory holds boot count, seed and uptime against the report before.
func (j *judge) bootHistory(newest bool) {
	old, r := j.device.Boot, j.report
	if !newest || old == nil {
		return
	}
	same := bytes.Equal(old.Seed, r.BootSeed)
	switch {
	case same && r.BootCount != 0 && old.Count != 0 && r.BootCount != old.Count:
		j.find(ReasonBootHistory, TierWarning, "boot count changed from %d to %d within one boot", old.Count, r.BootCount)
	case same && r.Uptime < old.Uptime:
		j.find(ReasonBootHistory, TierWarning, "uptime went back from %d to %d s within one boot", old.Uptime, r.Uptime)
	case !same && r.BootCount != 0 && r.BootCount <= old.Count:
		j.find(ReasonBootHistory, TierWarning, "another boot with boot count %d after %d: the device lost its state, or there are two of it", r.BootCount, old.Count)
	}
}

func (j *judge) reference() {
	newest := j.policy.newest[model{j.device.Vendor, j.device.Model}]
	if j.ref == nil {
		j.find(ReasonNoReference, TierWarning, "the device has no valid manifest: nothing it measures is appraised")
		return
	}
	m := j.ref.Manifest()
	if newest != nil && newest.Manifest().Sequence > m.Sequence {
		j.find(ReasonOldManifest, TierWarning, "the device uses manifest %d, the newest is %d", m.Sequence, newest.Manifest().Sequence)
	}
	if j.now > m.NotAfter {
		j.find(ReasonOldManifest, TierWarning, "the validity of manifest %d ended %d days ago", m.Sequence, (j.now-m.NotAfter)/86400)
	}
}

// comparison appraises the facts anew and holds the device's claims against it.
func (j *judge) comparison() {
	b := &j.report.Body
	if j.ref == nil {
		j.stage(nil, appraise.Undecided)
		return
	}
	results, err := j.report.Results(j.ref)
	if err != nil {
		// checkReference has gone through the same.
		j.find(ReasonClaim, TierContraindicated, "internal error: %v", err)
		return
	}
	unchecked := 0
	for i := range results {
		x := &results[i]
		rule := j.ref.Manifest().Rules(x.Stage)[x.Index]
		folded, ms, ok := j.folded(rule, x.Verdict)
		if !ok {
			unchecked++
			x.Reading = facts.Reading{Key: rule.Fact, Status: facts.Pending, Reason: "no boot report tells it"}
			j.verdict(*x)
			continue
		}
		x.Reading = folded.Reading
		claim := *x
		truth, text := contradiction(rule, folded, ms, x.Verdict)
		if text != "" {
			tier := TierContraindicated
			if x.Verdict == appraise.Deviates {
				tier = TierWarning // worse than its facts: wrong, and nothing is hidden
			}
			x.Verdict = truth
			j.find(ReasonClaim, tier, "the device claims that a rule %s, %s: %s", claim.Verdict, text, appraise.Explain(j.ref, *x))
		}
		j.verdict(*x)
	}
	if unchecked > 0 {
		j.find(ReasonNotAppraised, TierWarning, "%d rules rest on the device's word: the report with their facts has not come, or did not know them", unchecked)
	}
	j.stage(results, appraise.Integration(results))
	if b.Stage == reference.StageOperating {
		j.admitted(results)
	}
}

// folded returns what is known of a rule's fact and over how many milliseconds.
// It is not ok when nothing that came can tell.
func (j *judge) folded(rule reference.Rule, claim appraise.Verdict) (facts.Folded, int64, bool) {
	def, _ := j.ref.Vocabulary().ByKey(rule.Fact)
	if j.report.Body.Same.Has(rule.Fact) {
		return facts.Folded{}, 0, false
	}
	if def.Cadence != facts.Boot || j.report.Whole() {
		return j.report.Folded(rule.Fact), j.watched(), true
	}
	if j.boot == nil {
		return facts.Folded{}, 0, false
	}
	x := j.boot.Folded(rule.Fact)
	// What was not known when the boot was reported may be known by now.
	if (x.Status == facts.Pending || x.Status == facts.Stale) && claim != appraise.NotAppraised {
		return facts.Folded{}, 0, false
	}
	return x, 0, true
}

// watched returns for how many milliseconds the device has surely watched its
// facts without a break, 0 where that cannot be told: a resume begins all holds
// anew, and an interval that is far too long had a break in it.
func (j *judge) watched() int64 {
	b := &j.report.Body
	ms := b.End - b.Begin
	if b.Stage == reference.StageIntegration || ms > 2000*int64(j.ref.Manifest().ReportEvery)+5000 {
		return 0
	}
	return ms
}

// contradiction holds a claimed verdict against the facts. Without a text they
// fit; with one, the verdict is what the facts say.
func contradiction(rule reference.Rule, x facts.Folded, ms int64, claim appraise.Verdict) (appraise.Verdict, string) {
	side, bound := appraise.Look(rule, x.Reading), appraise.Recheck(rule, x, ms)
	if rule.Hold == 0 && side == appraise.Outside {
		bound = appraise.MustDeviate // whatever the fact did before: without a hold the last value counts
	}
	if rule.Hold == 0 && side == appraise.Inside {
		bound = appraise.MustPass
	}
	unknown := appraise.NotAppraised
	if x.Status == facts.Absent {
		unknown = appraise.AbsentHere
	}
	switch {
	case claim == appraise.Deviates && bound == appraise.MustPass:
		return appraise.Passes, "its facts say that it passes"
	case claim == appraise.Deviates:
	case bound == appraise.MustDeviate:
		return appraise.Deviates, "its facts say that it deviates"
	case side == appraise.Unknown && claim != unknown:
		return unknown, fmt.Sprintf("the fact is %s", x.Status)
	case side != appraise.Unknown && claim != appraise.Passes:
		return appraise.Passes, "though the fact was read"
	}
	return claim, ""
}

// verdict turns the result of one rule into a finding.
func (j *judge) verdict(x appraise.Result) {
	switch x.Verdict {
	case appraise.Deviates:
		if x.Stage == reference.StagePaused {
			j.find(ReasonExtreme, TierContraindicated, "%s", appraise.Explain(j.ref, x))
			return
		}
		j.find(ReasonDeviates, TierWarning, "%s", appraise.Explain(j.ref, x))
	case appraise.NotAppraised:
		j.find(ReasonNotAppraised, TierWarning, "%s", appraise.Explain(j.ref, x))
	case appraise.AbsentHere:
		j.find(ReasonNotAppraised, TierNone, "%s", appraise.Explain(j.ref, x))
	}
}

// stage says what the device's stage makes of it.
func (j *judge) stage(results []appraise.Result, integration appraise.Outcome) {
	b := &j.report.Body
	switch b.Stage {
	case reference.StageOperating:
	case reference.StagePaused:
		text := "the device is paused: " + b.Pause.Reason
		if len(b.Pause.ID) == 0 {
			text = "the device asked for a pause that is not confirmed yet: " + b.Pause.Reason
		}
		if d := j.deferral(); d != nil {
			text += "; " + d.String()
		}
		var open []string
		for _, e := range b.Pause.Effects {
			if !e.Done {
				open = append(open, strings.TrimSpace(e.Kind.String()+" "+e.Target)+": "+e.Observed)
			}
		}
		if len(open) > 0 {
			text += "; steps without their effect: " + strings.Join(open, ", ")
		}
		j.find(ReasonPaused, TierContraindicated, "%s", text)
	case reference.StageMaintenance:
		j.find(ReasonMaintenance, TierContraindicated, "the device is in maintenance until %s at the latest: what crosses an extreme alarms and does not pause it", stamp(j.at(b.Maintain.Until)))
	default:
		if integration == appraise.Failed {
			j.find(ReasonIntegration, TierContraindicated, "not admitted to operation: the comparison of the integration stage failed")
		} else {
			j.find(ReasonIntegration, TierWarning, "not admitted to operation yet")
		}
	}
}

// admitted holds the stage operating against the results: an extreme would have
// paused the device, and a boot that deviates would not have been admitted.
func (j *judge) admitted(results []appraise.Result) {
	m := j.ref.Manifest()
	if x, crossed := appraise.Extreme(results); crossed && m.Enforce == reference.Pause {
		j.find(ReasonClaim, TierContraindicated, "the device claims to operate, and a fail-safe extreme that makes it pause is crossed: %s", appraise.Explain(j.ref, x))
	}
	for _, x := range results {
		if x.Stage != reference.StageIntegration || x.Verdict != appraise.Deviates {
			continue
		}
		// Facts of the boot stay as they were when the device was admitted.
		if def, _ := j.ref.Vocabulary().ByKey(m.Rules(x.Stage)[x.Index].Fact); def.Cadence == facts.Boot {
			j.find(ReasonClaim, TierContraindicated, "the device claims to operate, and its boot deviates: %s", appraise.Explain(j.ref, x))
		}
	}
}

func (j *judge) notes(newest bool) {
	b := &j.report.Body
	if newest && b.Dropped > j.device.Dropped {
		j.find(ReasonDropped, TierWarning, "the device dropped %d reports because it could not keep them", b.Dropped-j.device.Dropped)
	}
	for _, n := range b.Notes {
		j.find(ReasonNote, TierWarning, "the device says: %s", n)
	}
}

// count takes a new sequence into the chain.
func (d *Device) count(now int64, sequence uint64) {
	switch {
	case d.First == 0:
		d.First = sequence
	case sequence > d.Sequence:
		if n := sequence - d.Sequence - 1; n > 0 {
			d.Missing, d.GapAt = d.Missing+n, now
		}
	case sequence < d.First:
		d.Missing += d.First - sequence - 1
		d.First = sequence
	default:
		d.Missing-- // one of the missing came late
	}
}

// passing returns the findings that a message which comes late can end: they
// follow from what is stored, and are not stored themselves.
func (d *Device) passing(now int64, boot *Boot) []Finding {
	var found []Finding
	switch {
	case d.Identity == nil || boot == nil:
	case !boot.Quoted:
		found = append(found, Finding{Code: ReasonBootUnknown, Tier: TierWarning, Text: "no quote has proved the state of this boot yet"})
	case boot.State != nil:
		found = append(found, *boot.State)
	}
	if boot != nil && boot.Quoted && boot.Stale != "" {
		found = append(found, Finding{Code: ReasonEpoch, Tier: TierWarning, Text: "the newest quote does not prove the present: " + boot.Stale})
	}
	if boot != nil {
		found = append(found, boot.Found...)
		if f := boot.Files; f != nil {
			found = slices.Concat(found, f.Found, f.Open, f.Summary)
		}
	}
	// What did not come within a day will not come.
	if d.Missing > 0 && now-d.GapAt <= gapMemory {
		found = append(found, Finding{Code: ReasonGap, Tier: TierWarning, Text: fmt.Sprintf("%d reports between %d and %d have not come", d.Missing, d.First, d.Sequence)})
	}
	return found
}
