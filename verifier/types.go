// Package verifier is the hospital's side: it enrols devices, checks what they
// send, appraises their facts anew with the code the devices use, and says what
// it found as an attestation result. It never takes a device's word.
//
// The package decides; package verifier/store remembers and package
// verifier/web shows. A policy that checks nothing cannot be constructed, and
// what was not appraised is a visible result.
package verifier

import (
	"fmt"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// Tier is the status of a device in an attestation result (draft-ietf-rats-ar4si).
type Tier uint8

// The tiers, with their EAR numbers.
const (
	TierNone            Tier = 0  // nothing was appraised
	TierAffirming       Tier = 2  // all that was appraised is as the manufacturer says
	TierWarning         Tier = 32 // something deviates, or could not be appraised though it should be
	TierContraindicated Tier = 96 // do not rely on this device
)

func (t Tier) String() string {
	switch t {
	case TierNone:
		return "none"
	case TierAffirming:
		return "affirming"
	case TierWarning:
		return "warning"
	case TierContraindicated:
		return "contraindicated"
	}
	return fmt.Sprintf("tier(%d)", uint8(t))
}

// Enrolled is how far a device's enrolment is.
type Enrolled uint8

// The states of enrolment. Reports count from Approved on.
const (
	Asked    Enrolled = 1 // a signed request came
	Proved   Enrolled = 2 // its TPM opened the credential; for a key file the same as Asked
	Approved Enrolled = 3 // an operator said yes
	Revoked  Enrolled = 4 // an operator said no, or no longer
)

func (e Enrolled) String() string {
	switch e {
	case Asked:
		return "asked"
	case Proved:
		return "waits for approval"
	case Approved:
		return "approved"
	case Revoked:
		return "revoked"
	}
	return fmt.Sprintf("enrolled(%d)", uint8(e))
}

// A Device is what is known of one device.
type Device struct {
	UEID       attest.UEID
	Vendor     string
	Model      string
	Serial     string
	Key        *cose.PublicKey
	Protection attest.Protection
	Identity   *attest.Identity // nil for a key file
	Enrolled   Enrolled
	AskedAt    int64 // Unix seconds, as all times here
	ApprovedAt int64
	ApprovedBy string

	// Of the newest report by sequence; zero before the first.
	Sequence uint64
	Digest   [32]byte
	LastSeen int64 // when the newest message was accepted
	Stage    reference.Stage
	Tier     Tier
	Findings []Finding
	Pause    *attest.Pause // when paused
}

// A Finding is one thing that a person should know, in words.
type Finding struct {
	Code Reason // machine-readable
	Tier Tier   // what it makes of the device
	Text string // fact, value, limit, stage
}

// A Record is one accepted report.
type Record struct {
	Device     attest.UEID
	Sequence   uint64
	Digest     [32]byte // of the signed report
	Previous   [32]byte // zero in the first
	Kind       attest.Kind
	Stage      reference.Stage
	ReceivedAt int64
	Quoted     bool   // a valid quote is bound to it
	Message    []byte // as it came
	Tier       Tier
	Findings   []Finding
	Result     []byte // signed EAR
}

// A Refused message is one that was not accepted, and why.
type Refused struct {
	At     int64
	Device string // the name in its topic; foreign until proved
	Topic  string
	Reason Reason
	Text   string
	Size   int
}
