package agent

import (
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// Wire keys of the catalogue's facts that the report itself needs.
const (
	factBootCount facts.Key = 9
	factServices  facts.Key = 80
	factIMACount  facts.Key = 90
	factFirmware  facts.Key = 112
)

// report decides whether a report is due after a round, and of which kind. The
// most urgent reason wins; each report carries everything since the one before.
func (a *Agent) report(now time.Time, before appraise.State, did appraise.Effects) {
	// An enrolled device asks once after each start too: a verifier that lost
	// its memory learns of it again, another one just says yes.
	if !a.store.enrolled() || a.nextEnrol.IsZero() {
		a.enrol(now)
	}
	if !a.store.enrolled() {
		return
	}
	a.renew(now)
	status, refused := a.link.last()
	a.notes = append(a.notes, refused...)
	putOff := status.Deferral != nil && status.Deferral.Ended == 0 && status.Deferral.Began != a.putOff
	alarm := (did.Alarm || putOff) && a.alarmAllowed(now)
	if did.Alarm && !alarm {
		a.unalarmed++
	}
	kind := attest.Kind(0)
	switch {
	case alarm:
		kind = attest.KindAlarm
	case !a.bootSent:
		// Rates are known from the second round on.
		if a.bootKnown() && a.fold.End > a.fold.Begin || now.Sub(a.started) > bootPatience {
			kind = attest.KindBoot
		}
	case did.Report || a.state.Latched != before.Latched || putOff || a.state.Latched && len(status.Effects) != a.effects:
		kind = attest.KindStage
	case (len(a.notes) > 0 || !sameRules(a.deviating, deviations(a.results))) && now.Sub(a.lastFinding) >= findingPause:
		kind = attest.KindFinding
	// In the round that is nearest: rounds are never exactly a period apart.
	case !now.Add(a.cfg.Period/2).Before(a.nextReport) || a.quoteDue || a.logsDue && now.Sub(a.lastFinding) >= findingPause:
		kind = attest.KindRoutine
	}
	if kind == 0 {
		return
	}
	a.send(now, kind, nil, status)
}

// send makes a report and hands it to the sealer.
func (a *Agent) send(now time.Time, kind attest.Kind, nonce []byte, status failsafe.Status) {
	if len(a.fold.Facts()) == 0 {
		a.fold.Add(a.snapshot) // two reports in one round: the second has the same facts
	}
	job := sealJob{report: a.build(kind, nonce, status), class: spool.Routine, topic: "report"}
	switch {
	case kind == attest.KindAlarm:
		job.class, job.topic = spool.Alarm, "alarm"
	case kind == attest.KindBoot || kind == attest.KindChallenge:
		job.class, job.topic, job.quote = spool.Evidence, "evidence", a.PCRs()
	case a.wantQuote(now):
		job.topic, job.quote = "evidence", a.PCRs()
	}
	if kind != attest.KindAlarm {
		job.logs, job.demand = job.quote != nil || a.logsDue, a.logsDue || kind == attest.KindChallenge
	}
	if !a.sealer.put(job) {
		return // counted by the sealer, and said in the next report
	}
	if job.logs {
		a.logsDue = false
	}
	if job.quote != nil {
		a.quoteDue, a.lastQuote, a.quotedIMA = false, now, a.imaCount()
	} else if kind == attest.KindAlarm && a.cfg.TPM != nil {
		a.quoteDue = true
	}
	a.fold.Reset()
	a.notes, a.unalarmed = nil, 0
	a.deviating = slices.Clone(deviations(a.results))
	a.effects = len(status.Effects)
	if status.Deferral != nil {
		a.putOff = status.Deferral.Began
	}
	a.bootSent = a.bootSent || kind == attest.KindBoot
	a.lastFinding = now
	a.nextReport = now.Add(a.every())
}

// wantQuote reports whether a report that needs no quote for its kind gets one:
// after an alarm, when IMA has measured something new, and from time to time.
func (a *Agent) wantQuote(now time.Time) bool {
	if a.cfg.TPM == nil || !a.bootSent {
		return false
	}
	since := now.Sub(a.lastQuote)
	return a.quoteDue || since >= quoteEvery || since >= quotePause && a.imaCount() != a.quotedIMA
}

// imaCount returns how long the IMA list is, 0 when that is not known.
func (a *Agent) imaCount() int64 { return a.snapshot.Reading(factIMACount).Value.Int() }

func (a *Agent) every() time.Duration {
	if a.ref == nil {
		return time.Minute
	}
	return time.Duration(a.ref.Manifest().ReportEvery) * time.Second
}

// PCRs returns the PCRs a quote covers: the manifest's selection, or those of
// the platform's firmware and boot loader.
func (a *Agent) PCRs() []int {
	if a.ref != nil && a.ref.Manifest().Boot != nil {
		return a.ref.Manifest().Boot.PCRs
	}
	return []int{0, 1, 2, 3, 4, 5, 6, 7}
}

// EnergyModel returns the manifest's model of what the device draws, nil where it
// has none.
func (a *Agent) EnergyModel() *reference.EnergyModel {
	if a.ref == nil {
		return nil
	}
	return a.ref.Manifest().Energy
}

// alarmAllowed counts alarms of the last minute.
func (a *Agent) alarmAllowed(now time.Time) bool {
	a.alarms = slices.DeleteFunc(a.alarms, func(t time.Time) bool { return now.Sub(t) >= time.Minute })
	if len(a.alarms) >= alarmsAMinute {
		return false
	}
	a.alarms = append(a.alarms, now)
	return true
}

// bootKnown reports whether no boot fact is still to come.
func (a *Agent) bootKnown() bool {
	for _, d := range a.vocab.Defs() {
		if d.Cadence != facts.Boot {
			continue
		}
		if s := a.snapshot.Reading(d.Key).Status; s == facts.Pending || s == facts.Stale {
			return false
		}
	}
	return true
}

// deviations returns the results that deviate.
func deviations(results []appraise.Result) []appraise.Result {
	var out []appraise.Result
	for _, r := range results {
		if r.Verdict == appraise.Deviates {
			out = append(out, r)
		}
	}
	return out
}

func sameRules(a, b []appraise.Result) bool {
	return slices.EqualFunc(a, b, func(x, y appraise.Result) bool { return x.Stage == y.Stage && x.Index == y.Index })
}

// build assembles the claims. Sequence and chain digest are the sealer's.
func (a *Agent) build(kind attest.Kind, nonce []byte, status failsafe.Status) *attest.Report {
	r := &attest.Report{
		Nonce: nonce, UEID: a.cfg.UEID[:], Uptime: uint64(max(a.snapshot.Uptime, 0) / 1000), Profile: attest.Profile,
		BootCount: uint64(max(a.snapshot.Reading(factBootCount).Value.Int(), 0)), BootSeed: a.cfg.BootID[:],
		SWName: "factsd", SWVersion: []string{a.cfg.Version},
	}
	if t := a.cfg.Now(); t.Latest != 0 {
		r.IssuedAt = t.Latest
	}
	if nonce == nil && a.epoch != nil {
		r.Nonce = a.epoch.Nonce
	}
	b := &r.Body
	b.Kind, b.Stage, b.Protection = kind, a.state.Stage, a.cfg.Protection
	whole := kind == attest.KindBoot || kind == attest.KindChallenge
	r.SetFacts(&a.fold, func(k facts.Key) bool {
		d, ok := a.vocab.ByKey(k)
		return ok && (whole || d.Cadence != facts.Boot)
	})
	b.Unalarmed = a.unalarmed
	if kind == attest.KindAlarm {
		b.History = a.history.of(a.crossed)
	}
	r.MeasRes = []attest.System{}
	if a.ref != nil {
		b.Manifest = &attest.Edition{Sequence: a.ref.Manifest().Sequence, Digest: a.digest[:]}
		r.SetResults(a.results)
	}
	if b.Stage == reference.StagePaused {
		b.Pause = a.pause(status)
		if d := status.Deferral; d != nil && len(b.Pause.ID) > 0 {
			b.Deferral = &attest.Deferral{Began: d.Began, Until: d.Until, Ended: d.Ended, Why: attest.Ended(d.Why)}
		}
	}
	if m := a.maintenance; m != nil && b.Stage == reference.StageMaintenance {
		b.Maintain = &attest.Maintenance{Began: m.Began, Until: m.Until}
	}
	if whole {
		b.Inventory = a.inventory()
	}
	b.Notes = a.sayNotes(status)
	return r
}

func (a *Agent) pause(status failsafe.Status) *attest.Pause {
	p := &attest.Pause{Reason: a.reason}
	if status.Latch != appraise.LatchPaused {
		return p
	}
	p.ID, p.Since, p.Reason = status.PauseID[:], status.Since, status.Reason
	for _, e := range status.Effects {
		p.Effects = append(p.Effects, attest.Effect{Kind: e.Kind, Target: e.Target, Done: e.Done, Observed: e.Observed, Millis: e.Millis})
	}
	if len(p.Effects) > attest.MaxEffects {
		p.Effects = p.Effects[:attest.MaxEffects]
	}
	return p
}

func (a *Agent) inventory() *attest.Inventory {
	inv := &attest.Inventory{
		Vendor: a.cfg.Vendor, Model: a.cfg.Model, Serial: a.cfg.Serial,
		Firmware: a.snapshot.Reading(factFirmware).Value.Text(),
		Services: a.snapshot.Reading(factServices).Value.Set(),
		Crypto:   []string{"TLS 1.3", "COSE " + a.cfg.Signer.Public().Algorithm(), "SHA-256"},
	}
	if a.cfg.TPM != nil {
		inv.Crypto = append(inv.Crypto, "TPM 2.0 quote ECDSA P-256")
	}
	return inv
}

// sayNotes returns what the device says of itself in words.
func (a *Agent) sayNotes(status failsafe.Status) []string {
	notes := slices.Clone(a.notes)
	if a.ref == nil {
		notes = append(notes, a.refNote)
	}
	for _, d := range status.Degraded {
		notes = append(notes, "enforcer: "+d)
	}
	if a.latch == appraise.LatchUnknown {
		notes = append(notes, "the enforcer does not answer")
	}
	for i := range notes {
		notes[i] = attest.Clip(notes[i], attest.MaxNote)
	}
	if len(notes) > attest.MaxNotes {
		notes = notes[:attest.MaxNotes]
	}
	return notes
}

// enrol asks to be known until an operator has approved.
func (a *Agent) enrol(now time.Time) {
	if now.Before(a.nextEnrol) {
		return
	}
	a.nextEnrol = now.Add(enrolAgain)
	a.sendEnrolment(nil)
}

// renew asks for the new key until the verifier has taken it.
func (a *Agent) renew(now time.Time) {
	if a.cfg.Renewal == nil || now.Before(a.nextRenewal) {
		return
	}
	a.nextRenewal = now.Add(enrolAgain)
	a.sealer.put(sealJob{sealed: a.cfg.Renewal, class: spool.Evidence, topic: "enrol"})
}

func (a *Agent) sendEnrolment(secret []byte) {
	e := &attest.Enrolment{
		Version: 1, UEID: a.cfg.UEID[:], Vendor: a.cfg.Vendor, Model: a.cfg.Model, Serial: a.cfg.Serial,
		Key: a.cfg.Signer.Public(), Protection: a.cfg.Protection, TPM: a.cfg.Identity, Secret: secret,
	}
	a.sealer.put(sealJob{enrol: e, class: spool.Evidence, topic: "enrol"})
}

// receive acts on a message from the verifier. An error ends Run.
func (a *Agent) receive(data []byte) error {
	d, err := attest.DecodeDown(data)
	if err != nil {
		a.cfg.Log.Warn("refused a message from the verifier", "err", err)
		return nil
	}
	switch {
	case d.Enrolled:
		if err := a.store.setEnrolled(); err != nil {
			a.cfg.Log.Error("cannot remember the enrolment", "err", err)
		}
		a.cfg.Log.Info("enrolled: an operator approved this device")
	case d.Have != nil:
		if string(d.Have.BootSeed) == string(a.cfg.BootID[:]) {
			logs, values := a.sealer.acknowledge(d.Have)
			a.logsDue, a.quoteDue = a.logsDue || logs, a.quoteDue || values
		}
	case d.Credential != nil:
		a.sealer.put(sealJob{credential: d.Credential, activated: a.sendEnrolment})
	case d.Renewed != nil:
		return a.renewed(d.Renewed)
	default:
		return a.command(d.Command)
	}
	return nil
}

// renewed takes over the new key once the verifier has.
func (a *Agent) renewed(key []byte) error {
	if a.cfg.Renewal == nil || string(key) != string(a.cfg.NextKey[:]) {
		return nil // it is this one already
	}
	if err := a.cfg.Keys.Renewed(); err != nil {
		a.note("cannot take over the new device key: " + err.Error())
		return nil
	}
	return ErrNewKey
}

// beginRenewal follows an order to renew the device key.
func (a *Agent) beginRenewal(data []byte) error {
	order, err := a.trust.OpenCommand(data, reference.Renew, a.cfg.UEID[:], a.cfg.Model, a.cfg.Now())
	if err == nil && a.cfg.Keys == nil {
		err = errors.New("its certificate is of another authority (broker.certificate)")
	}
	fresh := false
	if err == nil {
		fresh, err = a.cfg.Keys.Renew(order.Command().Nonce)
	}
	switch {
	case err != nil:
		a.note("cannot renew the device key: " + err.Error())
		return nil
	case !fresh:
		return nil
	}
	return ErrNewKey
}

// command answers a challenge, and hands everything else to the enforcer: a
// resume is for it to judge.
func (a *Agent) command(data []byte) error {
	switch reference.UnverifiedKind(data) {
	case reference.Epoch:
		a.begin(data)
		return nil
	case reference.Renew:
		return a.beginRenewal(data)
	}
	a.order(data)
	return nil
}

func (a *Agent) order(data []byte) {
	u, err := cose.Parse(data, reference.MaxCommandSize)
	if err != nil || u.Type() != cose.Command {
		a.note("refused a command: not a signed command")
		return
	}
	order, err := a.trust.OpenCommand(data, reference.Challenge, a.cfg.UEID[:], a.cfg.Model, a.cfg.Now())
	if err != nil {
		if errors.Is(err, reference.ErrRole) || errors.Is(err, reference.ErrContent) || errors.Is(err, reference.ErrUnknownKey) || errors.Is(err, cose.ErrSignature) {
			a.link.hand(data)
			return
		}
		a.note(err.Error())
		return
	}
	fresh, err := a.store.useNonce(order.Command().Nonce)
	switch {
	case err != nil:
		a.note("cannot answer challenge: " + err.Error())
	case !fresh:
		a.note("refused a challenge: it was answered before")
	default:
		status, refused := a.link.last()
		a.notes = append(a.notes, refused...)
		a.send(time.Now(), attest.KindChallenge, order.Command().Nonce, status)
	}
}

// begin takes an epoch if it is newer than the present one. The boot report was
// made before anybody could say which epoch it is, so the first one calls for a
// quote.
func (a *Agent) begin(data []byte) {
	order, err := a.trust.OpenCommand(data, reference.Epoch, nil, a.cfg.Model, a.cfg.Now())
	switch {
	case err != nil:
		a.note(err.Error())
	case a.epoch == nil:
		a.quoteDue = a.cfg.TPM != nil
		a.epoch = order.Command()
	case order.Command().NotBefore > a.epoch.NotBefore:
		a.epoch = order.Command()
	}
}

func (a *Agent) note(text string) {
	a.cfg.Log.Warn(text)
	if len(a.notes) < attest.MaxNotes {
		a.notes = append(a.notes, text)
	}
}

// digestOf returns the chain digest of a signed report.
func digestOf(report []byte) []byte {
	d := sha256.Sum256(report)
	return d[:]
}
