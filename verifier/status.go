package verifier

import (
	"fmt"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/label"
)

// silenceSlack is added to three reporting intervals before a device counts as
// silent, in seconds: a reboot takes about that long.
const silenceSlack = 60

// Device returns what is to be shown of a device at now: what is stored, and
// what follows from the time that has passed.
func (v *Verifier) Device(now int64, id attest.UEID) (*Device, error) {
	d, err := v.store.Device(id)
	if err != nil {
		return nil, err
	}
	v.asOf(now, d)
	return d, nil
}

// Observed returns what the reports of a device tell for its day of inspection.
func (v *Verifier) Observed(now int64, id attest.UEID) (*label.Observed, error) {
	d, err := v.store.Device(id)
	if err != nil {
		return nil, err
	}
	o := d.Seen.observed(now)
	o.Model, o.Device = printable(d.Model), printable(d.Serial)
	return o, nil
}

// Devices returns all devices as they are to be shown at now.
func (v *Verifier) Devices(now int64) ([]Device, error) {
	all, err := v.store.Devices()
	if err != nil {
		return nil, err
	}
	for i := range all {
		v.asOf(now, &all[i])
	}
	return all, nil
}

// asOf adds the findings that come with time, and those for the operator who
// has to approve.
func (v *Verifier) asOf(now int64, d *Device) {
	add := func(f Finding) { d.Findings, d.Tier = append(d.Findings, f), max(d.Tier, f.Tier) }
	if d.EKProblem != "" {
		add(Finding{Code: ReasonCertificate, Text: d.EKProblem})
	}
	switch d.Enrolled {
	case Approved:
	case Revoked:
		add(Finding{Code: ReasonRevoked, Tier: TierContraindicated, Text: "an operator revoked it"})
		return
	case Retired:
		text := "decommissioned"
		if d.ReplacedBy != nil {
			text += ": device " + d.ReplacedBy.String() + " took its place"
		}
		d.Findings, d.Tier = nil, TierNone // what it was is history
		add(Finding{Code: ReasonRetired, Text: text})
		return
	default:
		if d.Protection == attest.ProtectionFile {
			add(Finding{Code: ReasonKeyFile, Text: "the device key is in a file: whoever reads it is the device"})
		}
		if d.RevokedAt != 0 {
			add(Finding{Code: ReasonIdentity, Text: "takes the place of an enrolment with another key that was revoked"})
		}
		return
	}
	for _, f := range d.passing(now, d.Boot) {
		add(f)
	}
	d.Life = v.life(now, d)
	for _, f := range d.Life.findings(now) {
		add(f)
	}
	since := max(d.LastSeen, d.ApprovedAt)
	if limit := 3*v.reportEvery(d) + silenceSlack; now-since > limit {
		text := fmt.Sprintf("nothing has come for %d s, the limit is %d s", now-since, limit)
		if d.LastSeen == 0 {
			text = fmt.Sprintf("nothing has come since it was approved %d s ago, the limit is %d s", now-since, limit)
		}
		add(Finding{Code: ReasonSilent, Tier: TierWarning, Text: text})
	}
}

// reportEvery returns how often a device has to report, in seconds.
func (v *Verifier) reportEvery(d *Device) int64 {
	p := v.policy.Load()
	ref := p.referenceOf(d)
	if ref == nil {
		ref = p.newest[model{d.Vendor, d.Model}]
	}
	if ref == nil {
		return 60 // what an agent without a manifest does
	}
	return int64(ref.Manifest().ReportEvery)
}
