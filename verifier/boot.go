package verifier

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/eventlog"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// factCmdline is the wire key of boot.cmdline: what the device says of its kernel
// command line counts as far as it hashes to what was measured.
const factCmdline facts.Key = 13

// maxHeads bounds how many ends of userspace's log are tried: it goes on while a
// quote is taken, by a few phases of the boot at most.
const maxHeads = 32

// componentReasons are the reason codes of what deviates in a boot.
var componentReasons = map[eventlog.Component]Reason{
	eventlog.Other: ReasonBootEvent, eventlog.Firmware: ReasonBootFirmware, eventlog.Settings: ReasonBootSettings, eventlog.Keys: ReasonBootKeys,
	eventlog.Loader: ReasonBootLoader, eventlog.Kernel: ReasonBootKernel, eventlog.Initrd: ReasonBootInitrd, eventlog.CommandLine: ReasonBootCmdline,
	eventlog.Userspace: ReasonBootUserspace,
}

// A LogChange is what a report adds to a log of its boot.
type LogChange struct {
	Log   attest.Log
	Reset bool         // what there was is dropped before
	Part  *attest.Part // nil: nothing is added; else its offset is where the log ended
}

// logs are a boot's logs: those that are stored, and what the report brings.
type logs struct {
	store   Reports
	device  *Device
	seed    [16]byte
	changes []LogChange
}

// bytes returns what there is of a log from the given byte on.
func (l *logs) bytes(log attest.Log, from uint64) ([]byte, error) {
	parts, err := l.store.Log(l.device.UEID, l.device.Chain, l.seed, log, from)
	if err != nil {
		return nil, err
	}
	for _, c := range l.changes {
		if c.Log == log && c.Reset {
			parts = nil
		}
		if c.Log == log && c.Part != nil {
			parts = append(parts, *c.Part)
		}
	}
	var out []byte
	for _, p := range parts {
		data, err := p.Bytes()
		if err != nil {
			return nil, err
		}
		if skip := int64(from) - int64(p.Offset); skip > 0 {
			data = data[min(skip, int64(len(data))):]
		}
		out = append(out, data...)
	}
	return out, nil
}

// take adds the report's parts to the boot's logs, as far as they go on from what
// there is. It returns the logs about which the device is to be told.
func (l *logs) take(j *judge, boot *Boot) map[attest.Log]bool {
	tell := map[attest.Log]bool{}
	for _, p := range j.verified.UnverifiedParts() {
		tell[p.Log] = true
		s := boot.log(p.Log)
		s.Gap = nil
		data, err := p.Bytes()
		if err != nil {
			j.find(ReasonBootLog, TierWarning, "%v", err)
			continue
		}
		end := p.Offset + uint64(len(data))
		if p.Offset > s.Bytes || end < s.Bytes {
			continue // something is missing in between, or it is older
		}
		s.More = p.More
		if end == s.Bytes {
			continue
		}
		part := p
		if p.Offset < s.Bytes {
			if part, err = attest.Pack(p.Log, s.Bytes, data[s.Bytes-p.Offset:], p.More, 2*attest.MaxPart); err != nil {
				j.find(ReasonBootLog, TierWarning, "%v", err)
				continue
			}
		}
		s.Bytes = end
		l.changes = append(l.changes, LogChange{Log: p.Log, Part: &part})
	}
	for log, g := range j.report.Body.NoLogs {
		if s := boot.log(log); s.Bytes == 0 {
			s.Gap = &attest.Gap{Status: g.Status, Reason: g.Reason}
		}
	}
	if j.quote != nil {
		// A verifier that lost its memory has to ask.
		for _, log := range []attest.Log{attest.LogFirmware, attest.LogIMA} {
			if s := boot.log(log); s.Gap == nil && (s.Bytes == 0 || s.More) {
				tell[log] = true
			}
		}
	}
	return tell
}

// reset drops a log that leads nowhere, so that the device sends it anew: it may
// have been changed on its way. Only a quote makes it do so, lest both sides go
// round in a circle.
func (l *logs) reset(j *judge, boot *Boot, log attest.Log, tell map[attest.Log]bool) {
	if s := boot.log(log); j.quote != nil && s.Bytes > 0 {
		l.changes = slices.DeleteFunc(l.changes, func(c LogChange) bool { return c.Log == log })
		l.changes = append(l.changes, LogChange{Log: log, Reset: true})
		*s = LogState{Again: true}
		tell[log] = true
	}
}

func (b *Boot) log(log attest.Log) *LogState {
	if b.Logs == nil {
		b.Logs = map[attest.Log]*LogState{}
	}
	if b.Logs[log] == nil {
		b.Logs[log] = &LogState{}
	}
	return b.Logs[log]
}

// have tells the device how much of its logs and which PCR values are here; nil
// when there is nothing to tell.
func (b *Boot) have(tell map[attest.Log]bool, values bool) ([]byte, error) {
	if len(tell) == 0 && !values {
		return nil, nil
	}
	h := attest.Have{BootSeed: b.Seed}
	for log := range tell {
		if h.Bytes == nil {
			h.Bytes = map[attest.Log]uint64{}
		}
		h.Bytes[log] = b.log(log).Bytes
	}
	if values {
		h.PCRs = attest.PCRDigest(b.PCRs)
	}
	return cose.Encode(attest.Down{Have: &h})
}

// boot takes a report's quote and logs into what is known of its boot, and
// appraises what is new in that.
func (v *Verifier) boot(j *judge, boot *Boot, newest bool) ([]LogChange, []byte, error) {
	newer := j.quote != nil && (!boot.Quoted || j.report.Body.Sequence == j.device.Clock.Sequence)
	if newer {
		boot.Quoted, boot.PCRs = true, nil
		pcrs := j.quote.PCRs()
		for _, p := range slices.Sorted(maps.Keys(pcrs)) {
			boot.PCRs = append(boot.PCRs, attest.PCR{Index: p, Digest: pcrs[p]})
		}
		boot.State, boot.Stale = j.quotedState(j.quote), v.stale(j.now, j.report)
	}
	if j.device.Identity == nil || !newest && boot != j.device.Boot {
		return nil, nil, nil // nothing would prove a log, or the boot is past
	}
	if j.valueless {
		j.find(ReasonBootValues, TierWarning, "a quote came without its PCR values, and they are not those that came before: the device is asked for them")
	}
	l := &logs{store: v.store, device: j.device, seed: [16]byte(boot.Seed)}
	tell := l.take(j, boot)
	if boot.Quoted && j.ref != nil && j.ref.Manifest().Boot != nil {
		if err := j.events(l, boot, tell); err != nil {
			return nil, nil, err
		}
		if err := j.files(l, boot, j.policy.files[j.ref.Digest()], tell); err != nil {
			return nil, nil, err
		}
	}
	down, err := boot.have(tell, newer && j.verified.HasPCRs() || j.valueless)
	return l.changes, down, err
}

func (b *Boot) pcrs() map[int][]byte {
	m := map[int][]byte{}
	for _, p := range b.PCRs {
		m[p.Index] = p.Digest
	}
	return m
}

// accepted reports whether the quoted values as a whole are among the accepted
// ones.
func (b *Boot) accepted(ref *reference.Boot) bool {
	digest := attest.PCRDigest(b.PCRs)
	return slices.ContainsFunc(ref.Accept, func(a []byte) bool { return bytes.Equal(a, digest) })
}

// events appraises the boot by the events of its logs.
func (j *judge) events(l *logs, boot *Boot, tell map[attest.Log]bool) error {
	m := j.ref.Manifest()
	if len(m.BootEvents) == 0 || boot.accepted(m.Boot) {
		boot.Found, boot.Versions, boot.Judged = nil, nil, nil
		return nil
	}
	boot.State = nil // the events say more
	if boot.log(attest.LogFirmware).Again && boot.waits(attest.LogFirmware) != "" {
		return nil // what was found stands until the log is here again
	}
	judged := j.judged(boot)
	if bytes.Equal(judged, boot.Judged) {
		return nil
	}
	found := j.found
	j.found = nil
	explained, err := j.matchEvents(l, boot, m)
	boot.Found, j.found, boot.Judged = j.found, found, judged
	if err != nil {
		return err
	}
	if !explained {
		l.reset(j, boot, attest.LogFirmware, tell)
		l.reset(j, boot, attest.LogUserspace, tell)
		boot.Judged = nil
	}
	return nil
}

// judged names all that the judgement of the events depends on.
func (j *judge) judged(boot *Boot) []byte {
	h := sha256.New()
	digest := j.ref.Digest()
	h.Write(digest[:])
	for _, p := range boot.PCRs {
		if p.Index != 10 {
			h.Write([]byte{byte(p.Index)})
			h.Write(p.Digest)
		}
	}
	for _, log := range []attest.Log{attest.LogFirmware, attest.LogUserspace} {
		s := boot.log(log)
		h.Write(binary.BigEndian.AppendUint64(nil, s.Bytes))
		h.Write(fmt.Append(nil, s.More, s.Gap != nil))
	}
	h.Write([]byte(j.cmdline()))
	return h.Sum(nil)
}

func (j *judge) cmdline() string {
	if j.checked.boot == nil {
		return ""
	}
	return j.checked.boot.Reading(factCmdline).Value.Text()
}

// waits says why a log cannot be looked at yet; "" when it can.
func (b *Boot) waits(log attest.Log) string {
	s := b.log(log)
	switch {
	case s.Gap != nil:
		return fmt.Sprintf("the device cannot send its %s, which is %s: %s", log, s.Gap.Status, s.Gap.Reason)
	case s.Bytes == 0:
		return fmt.Sprintf("its %s has not come yet", log)
	case s.More:
		return fmt.Sprintf("of its %s %d bytes have come, and not yet the rest", log, s.Bytes)
	}
	return ""
}

// matchEvents compares the logs with the PCRs and then with the reference. It
// reports whether the logs are what they claim.
func (j *judge) matchEvents(l *logs, boot *Boot, m *reference.Manifest) (bool, error) {
	boot.Versions, boot.SecureBoot = nil, ""
	if why := boot.waits(attest.LogFirmware); why != "" {
		j.find(ReasonBootLog, TierWarning, "boot state not appraised: %s", why)
		return true, nil
	}
	if boot.log(attest.LogUserspace).More {
		j.find(ReasonBootLog, TierWarning, "boot state not appraised: %s", boot.waits(attest.LogUserspace))
		return true, nil
	}
	log, known, err := j.bootLog(l, boot)
	if err != nil || log == nil {
		return false, err
	}
	pcrs := boot.pcrs()
	delete(pcrs, 10)
	if len(pcrs) == 0 {
		return true, nil
	}
	// Userspace's log may be ahead of the quote, never behind it.
	var best *eventlog.Verified
	for n := len(log.Events); n >= known && len(log.Events)-n <= maxHeads; n-- {
		x, err := log.Head(n).Verify(eventlog.SHA256, pcrs)
		if err != nil {
			j.find(ReasonBootLog, TierContraindicated, "the event log proves nothing: %v", err)
			return false, nil
		}
		if best == nil || len(x.Unexplained()) < len(best.Unexplained()) {
			best = x
		}
		if best.Complete() {
			break
		}
	}
	why := best.Unexplained()
	for _, pcr := range slices.Sorted(maps.Keys(why)) {
		j.find(ReasonBootLog, TierContraindicated, "the event log does not explain PCR %d: %s", pcr, why[pcr])
	}
	match := best.Match(BootGroups(m.BootEvents), j.cmdline())
	boot.Versions = match.Versions
	for _, e := range best.Record(func(pcr int) bool { return pcr == 7 }) {
		if e.Subject == "Secure Boot" {
			boot.SecureBoot = e.Value
		}
	}
	for i, d := range match.Deviations {
		if i == maxFindings/2 {
			j.find(ReasonMore, TierContraindicated, "and %d more events of the boot deviate", len(match.Deviations)-i)
			break
		}
		j.find(componentReasons[d.Component], TierContraindicated, "PCR %d: %s", d.PCR, d.Text)
	}
	for i, text := range match.False {
		if i == maxFindings/4 {
			j.find(ReasonMore, TierContraindicated, "and %d more events are not what the log says", len(match.False)-i)
			break
		}
		j.find(ReasonBootLog, TierContraindicated, "the event log says what was not measured: %s", text)
	}
	for i, text := range match.Any {
		if i == maxFindings/4 {
			j.find(ReasonMore, TierNone, "and %d more events are accepted whatever they are", len(match.Any)-i)
			break
		}
		j.find(ReasonNotAppraised, TierNone, "the manifest accepts whatever is measured here: %s", text)
	}
	return best.Complete() && len(match.False) == 0, nil
}

// bootLog reads the firmware's log with userspace's behind it, and how many events
// the first has. A log that cannot be read is a finding, and nil.
func (j *judge) bootLog(l *logs, boot *Boot) (*eventlog.Log, int, error) {
	data, err := l.bytes(attest.LogFirmware, 0)
	if err != nil {
		return nil, 0, err
	}
	log, err := eventlog.Parse(data)
	if err != nil {
		j.find(ReasonBootLog, TierContraindicated, "the firmware's event log cannot be read: %v", err)
		return nil, 0, nil
	}
	known := len(log.Events)
	if boot.log(attest.LogUserspace).Bytes == 0 || boot.waits(attest.LogUserspace) != "" {
		return log, known, nil
	}
	if data, err = l.bytes(attest.LogUserspace, 0); err != nil {
		return nil, 0, err
	}
	after, err := eventlog.Parse(data)
	if err != nil {
		j.find(ReasonBootLog, TierContraindicated, "userspace's event log cannot be read: %v", err)
		return nil, 0, nil
	}
	return after.After(log), known, nil
}

// BootGroups returns the manifest's references as package eventlog compares them.
func BootGroups(groups []reference.BootGroup) []eventlog.Group {
	var out []eventlog.Group
	for _, g := range groups {
		x := eventlog.Group{Name: g.Name}
		for _, v := range g.Versions {
			y := eventlog.Version{Name: v.Name}
			for _, e := range v.Events {
				n := eventlog.Expected{PCR: int(e.PCR), Component: eventlog.Component(e.What), Subject: e.Subject, Value: e.Value, Optional: e.Optional}
				if len(e.Digest) > 0 {
					n.Digest = e.Digest
				}
				y.Events = append(y.Events, n)
			}
			x.Versions = append(x.Versions, y)
		}
		out = append(out, x)
	}
	return out
}
