package verifier

import (
	"bytes"
	"crypto/subtle"
	"errors"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/reference"
)

// maxSequence is the highest sequence that every reader of JSON and every
// database takes; a device that reports each second needs a hundred million years.
const maxSequence = 1<<53 - 1

// report deals with a report: it checks in the order of the reasons, appraises,
// signs a result and stores all of it. It returns what the device is to be told.
func (v *Verifier) report(now int64, m Delivery) ([]byte, error) {
	if len(m.Payload) > attest.MaxMessageSize {
		return nil, refuse(ReasonSize, "message of %d bytes, the limit is %d", len(m.Payload), attest.MaxMessageSize)
	}
	u, err := attest.Decode(m.Payload)
	if err != nil {
		return nil, refuse(ReasonDecode, "%v", err)
	}
	if n := u.Unverified().Body.Sequence; n > maxSequence {
		return nil, refuse(ReasonDecode, "sequence %d is above %d", n, uint64(maxSequence))
	}
	id := attest.UEID(u.Unverified().UEID)
	defer v.lock(id)()
	d, err := v.store.Device(id)
	if errors.Is(err, ErrNotFound) {
		return nil, refuse(ReasonUnknown, "device %s never asked to be enrolled", id)
	}
	if err != nil {
		return nil, err
	}
	if err := approved(d); err != nil {
		return nil, err
	}
	if err := fromDevice(m, id); err != nil {
		return nil, err
	}
	r, err := d.verify(now, u)
	switch {
	case errors.Is(err, cose.ErrType):
		return nil, refuse(ReasonDecode, "%v", err)
	case errors.Is(err, cose.ErrKey):
		return nil, refuse(ReasonKey, "%v", err)
	case err != nil:
		return nil, refuse(ReasonSignature, "%v", err)
	}
	c, err := v.check(now, d, r)
	if err != nil {
		return nil, err
	}
	rec, down, err := v.judge(now, d, c, m.Payload)
	if err != nil {
		return nil, err
	}
	if err := v.store.Accept(d, rec); err != nil {
		return nil, err
	}
	v.tell(Event{Device: id.String(), Sequence: d.Sequence})
	return down, nil
}

// approved refuses what comes from a device that nobody approved.
func approved(d *Device) error {
	switch d.Enrolled {
	case Approved:
		return nil
	case Revoked:
		return refuse(ReasonRevoked, "device %s was revoked", d.UEID)
	case Retired:
		return refuse(ReasonRetired, "device %s was decommissioned", d.UEID)
	}
	return refuse(ReasonUnapproved, "device %s: its enrolment is %q", d.UEID, d.Enrolled)
}

// A checked report passed all checks: what it says was said by the device, now,
// once, and any quote is bound to it. Whether it is good is still open.
type checked struct {
	policy     *policy
	verified   *attest.Verified
	report     *attest.Report
	ref        *reference.Reference // nil when the device has none
	quote      *tpm.VerifiedQuote   // nil when none came, or not its values
	valueless  bool                 // a valid quote came over values that are not known
	boot       *attest.Report       // the newest report of this boot with the boot facts; nil when none came
	neighbours Neighbours
}

// check refuses what must not be believed, in the order of the reasons.
func (v *Verifier) check(now int64, d *Device, r *attest.Verified) (*checked, error) {
	c := &checked{policy: v.policy.Load(), verified: r, report: r.Report()}
	b := &c.report.Body
	if b.Protection != d.Protection {
		return nil, refuse(ReasonProtection, "device %s enrolled with %q, now claims %q", d.UEID, d.Protection, b.Protection)
	}
	var err error
	if c.neighbours, err = v.store.Neighbours(d.UEID, d.Chain, b.Sequence, r.Digest()); err != nil {
		return nil, err
	}
	if err := checkChain(c.neighbours, d, r); err != nil {
		return nil, err
	}
	if b.Kind == attest.KindChallenge {
		err = checkNonce(now, d, c.report)
	} else if len(c.report.Nonce) > 0 {
		err = v.checkEpoch(d, c.report)
	}
	if err != nil {
		return nil, err
	}
	known := true
	if b.Manifest != nil {
		c.ref, known = c.policy.byHash[[32]byte(b.Manifest.Digest)]
	}
	if r.HasQuote() && known {
		if c.quote, err = checkQuote(d, r, c.ref); errors.Is(err, attest.ErrNoPCRs) {
			c.valueless = true
		} else if err != nil {
			return nil, err
		}
	}
	if b.Kind == attest.KindChallenge && d.Identity != nil && !r.HasQuote() {
		return nil, refuse(ReasonNoQuote, "report %d answers a challenge without a quote", b.Sequence)
	}
	if err := v.checkReference(d, c, known); err != nil {
		return nil, err
	}
	if c.boot, err = v.bootReport(d, c, 0); err != nil {
		return nil, err
	}
	if same := c.report.Body.Same; same != nil {
		base := c.boot
		if base != nil && base.Body.Sequence != same.Sequence {
			if base, err = v.bootReport(d, c, same.Sequence); err != nil {
				return nil, err
			}
		}
		// What it leaves out stays unknown when that report has not come.
		if filled, err := c.report.FillIn(base); err == nil {
			c.report = filled
		}
	}
	return c, nil
}

// checkChain holds that each sequence is there once and follows its
// predecessor. Reports may come out of order, since alarms overtake.
func checkChain(n Neighbours, d *Device, r *attest.Verified) error {
	b := &r.Report().Body
	digest := r.Digest()
	switch {
	case n.Known:
		return refuse(ReasonReplay, "report %d of device %s was received before", b.Sequence, d.UEID)
	case n.At != nil:
		return refuse(ReasonFork, "another report %d of device %s is known", b.Sequence, d.UEID)
	case n.Before != nil && !bytes.Equal(b.Previous, n.Before.Digest[:]):
		return refuse(ReasonFork, "report %d of device %s follows %.8x, report %d is %.8x", b.Sequence, d.UEID, b.Previous, n.Before.Sequence, n.Before.Digest)
	case n.After != nil && n.After.Previous != digest:
		return refuse(ReasonFork, "report %d of device %s is %.8x, report %d follows %.8x", b.Sequence, d.UEID, digest, n.After.Sequence, n.After.Previous)
	}
	return nil
}

// checkNonce holds that an answer belongs to the challenge that is open.
func checkNonce(now int64, d *Device, r *attest.Report) error {
	open := d.Challenge
	switch {
	case open == nil:
		return refuse(ReasonNonce, "report %d of device %s answers a challenge, and none is open", r.Body.Sequence, d.UEID)
	case subtle.ConstantTimeCompare(open.Nonce, r.Nonce) != 1:
		return refuse(ReasonNonce, "report %d of device %s answers another challenge than the open one", r.Body.Sequence, d.UEID)
	case now > open.At+challengeLife:
		return refuse(ReasonNonce, "report %d of device %s answers a challenge after %d s, the limit is %d s", r.Body.Sequence, d.UEID, now-open.At, challengeLife)
	}
	return nil
}

// wantPCRs returns the selection that a quote must have: the manifest's, or the
// PCRs of firmware and boot loader.
func wantPCRs(ref *reference.Reference) []int {
	if ref != nil && ref.Manifest().Boot != nil {
		return ref.Manifest().Boot.PCRs
	}
	return []int{0, 1, 2, 3, 4, 5, 6, 7}
}

// checkQuote returns ErrNoPCRs for a quote that is right but for its values,
// which did not come: it proves nothing, and the device is asked for them.
func checkQuote(d *Device, r *attest.Verified, ref *reference.Reference) (*tpm.VerifiedQuote, error) {
	if d.Identity == nil {
		return nil, refuse(ReasonQuote, "device %s enrolled without a TPM and sends a quote", d.UEID)
	}
	// A boot report and an answer to a challenge stand for themselves.
	var known []attest.PCR
	if d.Boot != nil && bytes.Equal(d.Boot.Seed, r.Report().BootSeed) && !r.Report().Whole() {
		known = d.Boot.PCRs
	}
	q, err := r.VerifyQuote(d.Identity.AK, wantPCRs(ref), known)
	if errors.Is(err, attest.ErrNoPCRs) && !r.Report().Whole() {
		return nil, err
	}
	if err != nil {
		return nil, refuse(ReasonQuote, "report %d of device %s: %v", r.Report().Body.Sequence, d.UEID, err)
	}
	return q, nil
}

// checkReference holds that the claimed comparison fits the manifest it names:
// each rule once, none left out.
func (v *Verifier) checkReference(d *Device, c *checked, known bool) error {
	b := &c.report.Body
	if b.Manifest == nil {
		return nil
	}
	if !known {
		return refuse(ReasonManifest, "report %d of device %s names manifest %d (%.8x), which is not loaded here", b.Sequence, d.UEID, b.Manifest.Sequence, b.Manifest.Digest)
	}
	m := c.ref.Manifest()
	if m.Sequence != b.Manifest.Sequence {
		return refuse(ReasonManifest, "report %d of device %s names manifest %d, its digest is that of %d", b.Sequence, d.UEID, b.Manifest.Sequence, m.Sequence)
	}
	if m.Vendor != d.Vendor || m.Model != d.Model {
		return refuse(ReasonManifest, "device %s is a %s %s and uses a manifest of %s %s", d.UEID, d.Vendor, d.Model, m.Vendor, m.Model)
	}
	claimed, err := c.report.Results(c.ref)
	if err != nil {
		return refuse(ReasonMeasRes, "report %d of device %s: %v", b.Sequence, d.UEID, err)
	}
	// Decode has refused rules that are named twice.
	if rules := len(m.Rules(reference.StageIntegration)) + len(m.Operating) + len(m.FailSafe); len(claimed) != rules {
		return refuse(ReasonMeasRes, "report %d of device %s has results of %d rules, the manifest has %d", b.Sequence, d.UEID, len(claimed), rules)
	}
	return nil
}

// bootReport returns the report of this boot that has all facts, which routine
// reports leave out: that with this sequence, or the newest for 0.
func (v *Verifier) bootReport(d *Device, c *checked, sequence uint64) (*attest.Report, error) {
	if c.report.Whole() {
		return c.report, nil
	}
	data, err := v.store.BootReport(d.UEID, d.Chain, [16]byte(c.report.BootSeed), sequence)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	u, err := attest.Decode(data)
	if err != nil {
		return nil, err
	}
	r, err := u.Verify(d.keyOf(u.KeyID())) // what comes from the disk is checked like what comes from the network
	if errors.Is(err, cose.ErrKey) {
		return nil, nil // of a key before the last one
	}
	if err != nil {
		return nil, err
	}
	return r.Report(), nil
}
