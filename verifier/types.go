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
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/label"
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
	Retired  Enrolled = 5 // decommissioned for good: no request of it is taken any more
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
	case Retired:
		return "decommissioned"
	}
	return fmt.Sprintf("enrolled(%d)", uint8(e))
}

// A Device is what is known of one device. The keys are those of its stored form.
type Device struct {
	UEID       attest.UEID       `cbor:"1,keyasint"`
	Vendor     string            `cbor:"2,keyasint"`
	Model      string            `cbor:"3,keyasint"`
	Serial     string            `cbor:"4,keyasint,omitempty"`
	Key        *cose.PublicKey   `cbor:"5,keyasint"`
	Protection attest.Protection `cbor:"6,keyasint"`
	Identity   *attest.Identity  `cbor:"7,keyasint,omitempty"` // nil for a key file
	Enrolled   Enrolled          `cbor:"8,keyasint"`
	AskedAt    int64             `cbor:"9,keyasint"` // Unix seconds, as all times here
	ProvedAt   int64             `cbor:"10,keyasint,omitempty"`
	ApprovedAt int64             `cbor:"11,keyasint,omitempty"`
	ApprovedBy string            `cbor:"12,keyasint,omitempty"`
	RevokedAt  int64             `cbor:"13,keyasint,omitempty"` // also of the enrolment that this one replaced
	EKProblem  string            `cbor:"14,keyasint,omitempty"` // why the endorsement certificate proves nothing; "" when it does
	Secret     []byte            `cbor:"15,keyasint,omitempty"` // in the credential that its TPM has still to open, 32 bytes

	// Chain counts approvals. A device that lost its state begins a new chain of
	// reports; without an approval that is a fork.
	Chain   uint64 `cbor:"16,keyasint,omitempty"`
	First   uint64 `cbor:"17,keyasint,omitempty"` // lowest sequence of the chain that came
	Missing uint64 `cbor:"18,keyasint,omitempty"` // reports between First and Sequence that did not come
	GapAt   int64  `cbor:"19,keyasint,omitempty"` // when Missing rose last

	// Of the newest report by sequence; zero before the first.
	Sequence uint64          `cbor:"20,keyasint,omitempty"`
	Digest   [32]byte        `cbor:"21,keyasint"`
	LastSeen int64           `cbor:"22,keyasint,omitempty"` // when the newest message was accepted
	Stage    reference.Stage `cbor:"23,keyasint,omitempty"`
	Tier     Tier            `cbor:"24,keyasint,omitempty"`
	Findings []Finding       `cbor:"25,keyasint,omitempty"`
	Pause    *attest.Pause   `cbor:"26,keyasint,omitempty"` // when paused
	Manifest *attest.Edition `cbor:"27,keyasint,omitempty"` // the reference it used
	Boot     *Boot           `cbor:"28,keyasint,omitempty"`
	Dropped  uint64          `cbor:"29,keyasint,omitempty"` // reports it ever dropped, as it says

	Clock      *Clock          `cbor:"30,keyasint,omitempty"` // of its TPM, in the newest quote
	Crossing   *attest.History `cbor:"32,keyasint,omitempty"` // of the newest alarm, until the device operates again
	Crossed    *Crossed        `cbor:"33,keyasint,omitempty"` // names the fact of Crossing; nil when no manifest did
	Deferral   *Deferral       `cbor:"34,keyasint,omitempty"` // of Pause
	Maintained int64           `cbor:"39,keyasint,omitempty"` // when the maintenance ends at the latest
	Challenge  *Challenge      `cbor:"31,keyasint,omitempty"` // not yet answered

	RetiredAt  int64        `cbor:"35,keyasint,omitempty"` // decommissioned
	RetiredBy  string       `cbor:"36,keyasint,omitempty"` // the operator's name
	ReplacedBy *attest.UEID `cbor:"37,keyasint,omitempty"` // the machine whose new TPM or key makes it another device
	Replaces   *attest.UEID `cbor:"38,keyasint,omitempty"` //

	Renewal   *Challenge `cbor:"41,keyasint,omitempty"` // order to renew the key, not yet followed
	RenewalBy string     `cbor:"42,keyasint,omitempty"` // who gave the newest
	Renewed   *Renewed   `cbor:"43,keyasint,omitempty"` // the key that Key took the place of; nil when it never did
	Renewals  uint64     `cbor:"44,keyasint,omitempty"` // how often that was

	Seen      *Seen       `cbor:"40,keyasint,omitempty"` // what its life is told from
	Inspected *Inspection `cbor:"45,keyasint,omitempty"` // its last; nil before the first that was recorded
	Life      *Life       `cbor:"-"`                     // at the time for which it was asked; nil without labels
}

// An Inspection was made by the hospital, as an operator recorded it.
type Inspection struct {
	On label.Day `cbor:"1,keyasint"` // the day on which it was made
	By string    `cbor:"2,keyasint"` // who answers for it
	At int64     `cbor:"3,keyasint"` // when it was recorded, Unix seconds
}

// A Boot is what the reports of one boot have shown.
type Boot struct {
	Seed   []byte `cbor:"1,keyasint"` // boot_id, 16 bytes
	Count  uint64 `cbor:"2,keyasint,omitempty"`
	Uptime uint64 `cbor:"3,keyasint,omitempty"` // seconds, in the newest report
	// Quoted says that a valid quote came in this boot; State is what it showed.
	Quoted bool     `cbor:"4,keyasint,omitempty"`
	State  *Finding `cbor:"5,keyasint,omitempty"` // nil: the PCRs are among the accepted ones, or the events say more

	PCRs     []attest.PCR             `cbor:"6,keyasint,omitempty"`  // of the newest quote
	Logs     map[attest.Log]*LogState `cbor:"7,keyasint,omitempty"`  // how much came
	Judged   []byte                   `cbor:"8,keyasint,omitempty"`  // names what Found was made of
	Found    []Finding                `cbor:"9,keyasint,omitempty"`  // in the events of the boot
	Versions []string                 `cbor:"10,keyasint,omitempty"` // that booted: "system 1.2.0"; where something deviates, the nearest
	Files    *Files                   `cbor:"11,keyasint,omitempty"` // what IMA measured
	Stale    string                   `cbor:"12,keyasint,omitempty"` // why the newest quote may be old; "" when an epoch or challenge says that it is not

	SecureBoot string `cbor:"15,keyasint,omitempty"` // "on" or "off", as the event log and the quoted PCR 7 prove; "" where they do not
}

// A LogState is how much is known of one log of a boot.
type LogState struct {
	Bytes uint64      `cbor:"1,keyasint,omitempty"`
	More  bool        `cbor:"2,keyasint,omitempty"` // the device had more when it sent the newest part
	Gap   *attest.Gap `cbor:"3,keyasint,omitempty"` // why the device cannot send it
	Again bool        `cbor:"4,keyasint,omitempty"` // it led nowhere, and the device was asked for it anew
}

// Files is what was made of the files that IMA measured in a boot.
type Files struct {
	Manifest   []byte    `cbor:"1,keyasint,omitempty"`  // SHA-256 of the manifest that judged them
	Offset     uint64    `cbor:"2,keyasint,omitempty"`  // bytes of the list that a quote has proved
	Replay     []byte    `cbor:"3,keyasint,omitempty"`  // ima.State behind them
	Found      []Finding `cbor:"4,keyasint,omitempty"`  // in them
	Told       uint64    `cbor:"5,keyasint,omitempty"`  // findings beyond those that are kept
	Allowed    uint64    `cbor:"6,keyasint,omitempty"`  // entries by verdict
	Signed     uint64    `cbor:"7,keyasint,omitempty"`  //
	Excluded   uint64    `cbor:"8,keyasint,omitempty"`  //
	Violations uint64    `cbor:"9,keyasint,omitempty"`  //
	Open       []Finding `cbor:"10,keyasint,omitempty"` // about the list as it stands, made anew each time
	Summary    []Finding `cbor:"11,keyasint,omitempty"` // what was not looked at
}

// A Clock is what a quote says of its TPM's clock (TPM 2.0 part 2, 10.11.1).
type Clock struct {
	Sequence     uint64 `cbor:"1,keyasint"` // of the report with the quote
	Clock        uint64 `cbor:"2,keyasint"` // ms
	ResetCount   uint32 `cbor:"3,keyasint"`
	RestartCount uint32 `cbor:"4,keyasint"`
	Safe         bool   `cbor:"5,keyasint"`           // false: it may have gone back after a power cut
	Seed         []byte `cbor:"6,keyasint,omitempty"` // boot_id of the report, 16 bytes
}

// A Crossed names the number that crossed.
type Crossed struct {
	Name string `cbor:"1,keyasint"`
	Unit string `cbor:"2,keyasint,omitempty"`
}

// A Deferral is how the application put a pause off, by the verifier's clock.
type Deferral struct {
	Until  int64        `cbor:"1,keyasint"`           // when it ends at the latest
	Lasted int64        `cbor:"2,keyasint,omitempty"` // ms; 0 while it lasts
	Why    attest.Ended `cbor:"3,keyasint,omitempty"` // it ended
}

// String tells the deferral as it follows on the reason of a pause.
func (d *Deferral) String() string {
	if d.Why == 0 {
		return "deferred by the application until " + stamp(d.Until)
	}
	return fmt.Sprintf("was deferred by the application for %.1f s, until %s", float64(d.Lasted)/1000, d.Why)
}

func stamp(at int64) string { return time.Unix(at, 0).UTC().Format("2006-01-02 15:04:05 UTC") }

// A Challenge waits for its answer.
type Challenge struct {
	Nonce []byte `cbor:"1,keyasint"` // 16 bytes
	At    int64  `cbor:"2,keyasint"`
}

// A Finding is one thing that a person should know, in words.
type Finding struct {
	Code Reason `cbor:"1,keyasint"`           // machine-readable
	Tier Tier   `cbor:"2,keyasint,omitempty"` // what it makes of the device
	Text string `cbor:"3,keyasint"`           // fact, value, limit, stage
}

// A Record is one accepted report.
type Record struct {
	Device     attest.UEID
	Chain      uint64
	Sequence   uint64
	Digest     [32]byte // of the signed report
	Previous   [32]byte // zero in the first
	BootSeed   [16]byte
	Kind       attest.Kind
	Stage      reference.Stage
	ReceivedAt int64
	Quoted     bool   // a valid quote is bound to it
	Message    []byte // as it came; empty once it was dropped as too old
	Tier       Tier
	Findings   []Finding
	Result     []byte      // signed EAR
	Logs       []LogChange // what it adds to the logs of its boot
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
