// Package attest makes and opens what a device says about itself: the report,
// an Entity Attestation Token (RFC 9711) that is signed and chained, the message
// that carries it together with a TPM quote bound to it, and the enrolment
// request.
//
// Bytes that come in are Unverified until a key has verified them; a Verified
// report can be made in no other way. Verified means that the holder of the key
// said it, not that it is true: the verifier appraises the facts anew.
// The wire forms are described in docs/report.cddl.
package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// Limits of what a device sends.
const (
	MaxReportSize  = 48 << 10 // signed report; a routine one of 60 facts has about 700 bytes
	MaxMessageSize = 64 << 10 // report with its quote and parts of logs
	MaxEffects     = 64       // steps of a reaction chain with their observed effects
	MaxNotes       = 32       // degraded modes the device reports of itself
	MaxNote        = 256      // bytes of one
	MaxHistory     = 60       // samples, and seconds that they cover
)

// Profile names the EAT profile of reports (RFC 9711 section 6): CBOR in core
// deterministic encoding, CWT tag 61 over COSE_Sign1 as in package cose, key by
// kid, freshness by sequence, boot seed and uptime, and by nonce: of the challenge in
// the answer to it, of the epoch in other reports.
const Profile = "tag:github.com,2026:miotfacts/report/1"

// A UEID names a device for its life: type RAND (0x01) and 16 bytes (RFC 9711
// section 4.2.1).
type UEID [17]byte

// NewUEID returns the UEID with these 16 bytes.
func NewUEID(id [16]byte) UEID {
	u := UEID{1}
	copy(u[1:], id[:])
	return u
}

// String returns the 16 bytes in hexadecimal; it is the device's name in topics
// and on pages.
func (u UEID) String() string { return hex.EncodeToString(u[1:]) }

// ParseUEID parses what String gives.
func ParseUEID(s string) (UEID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 16 {
		return UEID{}, fmt.Errorf("cannot parse device id %q: want 32 hexadecimal digits", s)
	}
	return NewUEID([16]byte(b)), nil
}

// Kind is why a report was made.
type Kind uint8

// The kinds of reports.
const (
	KindBoot      Kind = 1 // first report of a boot, with the boot facts and the inventory
	KindRoutine   Kind = 2 // the interval has passed
	KindAlarm     Kind = 3 // an extreme was crossed
	KindStage     Kind = 4 // the stage changed
	KindChallenge Kind = 5 // the verifier asked; carries its nonce and a quote
	KindFinding   Kind = 6 // a rule began or ceased to deviate
)

var kindNames = []string{"", "boot", "routine", "alarm", "stage", "challenge", "finding"}

func (k Kind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Protection is where the device key lives. It is shown wherever a device is.
type Protection uint8

// The protections.
const (
	ProtectionTPM  Protection = 1 // in a TPM, certified by its attestation key
	ProtectionFile Protection = 2 // in a file: whoever reads the file is the device
)

func (p Protection) String() string {
	switch p {
	case ProtectionTPM:
		return "TPM"
	case ProtectionFile:
		return "key file, no TPM"
	}
	return fmt.Sprintf("protection(%d)", uint8(p))
}

// A Report is the claims-set of one report. Integer keys are never reused; a
// claim that is not set costs no bytes.
type Report struct {
	IssuedAt  int64    `cbor:"6,keyasint,omitempty"`  // iat, Unix seconds; missing when the clock is not synchronised
	Nonce     []byte   `cbor:"10,keyasint,omitempty"` // in the answer to a challenge its own, else that of the newest epoch; 8 to 64 bytes
	UEID      []byte   `cbor:"256,keyasint"`          // 17 bytes
	Uptime    uint64   `cbor:"261,keyasint"`          // seconds since boot
	Profile   string   `cbor:"265,keyasint"`          // Profile
	BootCount uint64   `cbor:"267,keyasint"`          // boots the agent has seen
	BootSeed  []byte   `cbor:"268,keyasint"`          // 16 bytes, differs between boots (boot_id)
	SWName    string   `cbor:"270,keyasint"`          // "factsd"
	SWVersion []string `cbor:"271,keyasint"`          // [version]
	MeasRes   []System `cbor:"274,keyasint"`          // the device's comparison with its reference, one System a stage
	Body      Body     `cbor:"-65537,keyasint"`       // all that EAT has no claim for
}

// A System is one stage of the measres claim.
type System struct {
	_       struct{} `cbor:",toarray"`
	Name    string   // "integration", "operating" or "fail-safe"
	Results []Individual
}

// An Individual is the result of one rule. Rule is the rule's index in its stage.
type Individual struct {
	_       struct{} `cbor:",toarray"`
	Rule    [1]byte  // as a byte string: an array, so that rules cost no allocation each
	Verdict appraise.Verdict
}

// A Body is the private claim.
type Body struct {
	Kind       Kind               `cbor:"1,keyasint"`
	Sequence   uint64             `cbor:"2,keyasint"`           // counts reports over all boots, from 1
	Previous   []byte             `cbor:"3,keyasint,omitempty"` // SHA-256 of the signed report before; missing in the first
	Stage      reference.Stage    `cbor:"4,keyasint"`
	Protection Protection         `cbor:"5,keyasint"`
	Manifest   *Edition           `cbor:"6,keyasint,omitempty"` // the reference in force; missing without a valid one
	Begin      int64              `cbor:"7,keyasint"`           // uptime in ms of the first round that is folded in
	End        int64              `cbor:"8,keyasint"`           // and of the last
	Facts      map[facts.Key]Fact `cbor:"9,keyasint,omitempty"`
	Gaps       map[facts.Key]Gap  `cbor:"10,keyasint,omitempty"` // facts without a value, and why
	Lasted     map[uint16]int64   `cbor:"11,keyasint,omitempty"` // stage*256+rule -> ms outside, for rules that deviate
	Pause      *Pause             `cbor:"12,keyasint,omitempty"`
	Dropped    uint64             `cbor:"13,keyasint,omitempty"` // reports ever dropped from a full spool
	Same       *Same              `cbor:"19,keyasint,omitempty"` // facts that are as an earlier report of the boot has them
	Inventory  *Inventory         `cbor:"14,keyasint,omitempty"` // in boot reports
	Notes      []string           `cbor:"15,keyasint,omitempty"` // degraded modes, in words
	History    *History           `cbor:"20,keyasint,omitempty"` // in alarms: the last minute of the number that crossed
	Unalarmed  uint64             `cbor:"21,keyasint,omitempty"` // crossings since the report before that made no alarm: more than four a minute
	Deferral   *Deferral          `cbor:"17,keyasint,omitempty"` // of the pause, when the application put it off
	Maintain   *Maintenance       `cbor:"18,keyasint,omitempty"` // in maintenance, and only there
	NoLogs     map[Log]Gap        `cbor:"16,keyasint,omitempty"` // logs of the boot that the device cannot send, and why
}

// An Edition names one signed manifest.
type Edition struct {
	_        struct{} `cbor:",toarray"`
	Sequence uint64
	Digest   []byte // SHA-256 of the signed bytes
}

// A Gap says why a fact has no value.
type Gap struct {
	_      struct{} `cbor:",toarray"`
	Status facts.Status
	Reason string
}

// A History is what a fact was until the report, oldest first. What could not
// be read is missing.
type History struct {
	Fact    facts.Key `cbor:"1,keyasint"`
	Samples []Sample  `cbor:"2,keyasint"` // 1 to MaxHistory, within MaxHistory seconds
}

// A Sample is one value of a number.
type Sample struct {
	_     struct{} `cbor:",toarray"`
	At    int64    // uptime, ms; ascending
	Value int64    // in the unit of the fact
}

func (h *History) check(end int64) error {
	if len(h.Samples) == 0 || len(h.Samples) > MaxHistory {
		return fmt.Errorf("history of %d samples, the limit is %d", len(h.Samples), MaxHistory)
	}
	for i, s := range h.Samples {
		if s.At < 0 || i > 0 && s.At <= h.Samples[i-1].At {
			return fmt.Errorf("history: sample %d at %d ms does not follow the one before", i, s.At)
		}
	}
	first, last := h.Samples[0].At, h.Samples[len(h.Samples)-1].At
	if last > end || last-first >= MaxHistory*1000 {
		return fmt.Errorf("history from %d to %d ms is not of the last %d s before %d ms", first, last, MaxHistory, end)
	}
	return nil
}

// A Pause is a pause that holds, or was asked for and not yet confirmed.
type Pause struct {
	ID      []byte   `cbor:"1,keyasint,omitempty"` // 16 bytes; missing until the enforcer has confirmed
	Since   int64    `cbor:"2,keyasint,omitempty"` // Unix seconds as far as the device knows
	Reason  string   `cbor:"3,keyasint"`           // in words
	Effects []Effect `cbor:"4,keyasint,omitempty"`
}

// An Effect is what a step of the reaction chain was observed to do.
type Effect struct {
	_        struct{} `cbor:",toarray"`
	Kind     reference.ReactionKind
	Target   string
	Done     bool   // the effect was observed
	Observed string // in words
	Millis   int64  // until it was observed, or given up
}

// An Inventory is what a network's owner wants to know of a device, in the way
// of IoTAG (Hinterberger et al. 2020): the field names are ours.
type Inventory struct {
	Vendor   string   `cbor:"1,keyasint"`
	Model    string   `cbor:"2,keyasint"`           // exact device name
	Serial   string   `cbor:"3,keyasint,omitempty"` // manufacturer's serial number
	Firmware string   `cbor:"4,keyasint,omitempty"`
	Services []string `cbor:"5,keyasint,omitempty"` // active services
	Crypto   []string `cbor:"6,keyasint,omitempty"` // cryptographic methods in use
}

// A Fact is a fact's newest value, and for numbers the extremes of the interval.
// On the wire: the value alone, or [last, min, max] when the three differ.
type Fact struct {
	Value    facts.Value
	Min, Max int64 // of Int values
}

// spread is the form of a number that moved.
type spread struct {
	_              struct{} `cbor:",toarray"`
	Last, Min, Max int64
}

// MarshalCBOR encodes the fact.
func (f Fact) MarshalCBOR() ([]byte, error) {
	if f.Value.Kind() == facts.Int && (f.Min != f.Value.Int() || f.Max != f.Value.Int()) {
		return cose.Encode(spread{Last: f.Value.Int(), Min: f.Min, Max: f.Max})
	}
	return f.Value.MarshalCBOR()
}

// UnmarshalCBOR decodes what MarshalCBOR encodes and refuses all else.
func (f *Fact) UnmarshalCBOR(data []byte) error {
	// An array that begins with an integer is a spread; a set begins with a text.
	if len(data) > 1 && data[0] == 0x83 && data[1]>>5 <= 1 {
		var s spread
		if err := cose.Decode(data, 32, &s); err != nil {
			return fmt.Errorf("cannot decode fact: %w", err)
		}
		if s.Min > s.Last || s.Last > s.Max || s.Min == s.Max {
			return fmt.Errorf("cannot decode fact: last %d, minimum %d, maximum %d do not fit together", s.Last, s.Min, s.Max)
		}
		*f = Fact{Value: facts.IntValue(s.Last), Min: s.Min, Max: s.Max}
		return nil
	}
	var v facts.Value
	if err := v.UnmarshalCBOR(data); err != nil {
		return err
	}
	*f = Fact{Value: v, Min: v.Int(), Max: v.Int()}
	return nil
}

// SystemName returns the name of a stage's rules in measres.
func SystemName(s reference.Stage) string {
	if s == reference.StagePaused {
		return "fail-safe"
	}
	return s.String()
}

var stages = []reference.Stage{reference.StageIntegration, reference.StageOperating, reference.StagePaused}

// SetResults fills the measres claim and Body.Lasted from results.
func (r *Report) SetResults(results []appraise.Result) {
	r.MeasRes, r.Body.Lasted = []System{}, nil
	for _, stage := range stages {
		var s System
		for _, x := range results {
			if x.Stage != stage {
				continue
			}
			s.Results = append(s.Results, Individual{Rule: [1]byte{byte(x.Index)}, Verdict: x.Verdict})
			if x.Verdict == appraise.Deviates {
				if r.Body.Lasted == nil {
					r.Body.Lasted = map[uint16]int64{}
				}
				r.Body.Lasted[uint16(stage)<<8|uint16(x.Index)] = x.Lasted
			}
		}
		if s.Results != nil {
			s.Name = SystemName(stage)
			r.MeasRes = append(r.MeasRes, s)
		}
	}
}

// Results returns the measres claim as results; their readings come from the
// report's facts. ref must be the reference that the report names.
func (r *Report) Results(ref *reference.Reference) ([]appraise.Result, error) {
	var out []appraise.Result
	for _, sys := range r.MeasRes {
		i := slices.IndexFunc(stages, func(s reference.Stage) bool { return SystemName(s) == sys.Name })
		if i < 0 {
			return nil, fmt.Errorf("measres names %q, which is no stage", sys.Name)
		}
		rules := ref.Manifest().Rules(stages[i])
		for _, x := range sys.Results {
			index := int(x.Rule[0])
			if index >= len(rules) {
				return nil, fmt.Errorf("measres names rule %d of %s, the manifest has %d", index, sys.Name, len(rules))
			}
			out = append(out, appraise.Result{
				Stage: stages[i], Index: index, Verdict: x.Verdict,
				Reading: r.Reading(rules[index].Fact),
				Lasted:  r.Body.Lasted[uint16(stages[i])<<8|uint16(index)],
			})
		}
	}
	return out, nil
}

// SetFacts takes over folded facts; keep says which.
func (r *Report) SetFacts(fold *facts.Fold, keep func(facts.Key) bool) {
	b := &r.Body
	b.Begin, b.End = fold.Begin, fold.End
	all := fold.Facts()
	b.Facts, b.Gaps = make(map[facts.Key]Fact, len(all)), map[facts.Key]Gap{}
	for _, x := range all {
		switch {
		case !keep(x.Key):
		case x.Status == facts.OK && x.Value.Check() != nil:
			b.Gaps[x.Key] = Gap{Status: facts.Malformed, Reason: Clip(x.Value.Check().Error(), MaxNote)}
		case x.Status == facts.OK:
			f := Fact{Value: x.Value.Clone()} // sources reuse their buffers
			if x.Value.Kind() == facts.Int {
				f.Min, f.Max = x.Min, x.Max
			}
			b.Facts[x.Key] = f
		default:
			b.Gaps[x.Key] = Gap{Status: x.Status, Reason: Clip(x.Reason, MaxNote)}
		}
	}
}

// Shrink leaves out the largest fact and says so in its place, for a report that
// is too large: a machine that was flooded with sockets must still report. It
// reports whether there was anything to leave out.
func (r *Report) Shrink() bool {
	largest, size := facts.Key(0), 256 // a smaller one would not help
	for k, f := range r.Body.Facts {
		n := len(f.Value.Text()) + len(f.Value.Bytes())
		for _, m := range f.Value.Set() {
			n += len(m) + 2
		}
		if n > size || n == size && k < largest {
			largest, size = k, n
		}
	}
	if largest == 0 {
		return false
	}
	delete(r.Body.Facts, largest)
	if r.Body.Gaps == nil {
		r.Body.Gaps = map[facts.Key]Gap{}
	}
	r.Body.Gaps[largest] = Gap{Status: facts.Malformed, Reason: fmt.Sprintf("left out, the report would be too large: %d bytes", size)}
	return true
}

// Clip makes s valid UTF-8 of at most n bytes, cut at a rune boundary.
func Clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}

// Folded returns what the report says of fact k.
func (r *Report) Folded(k facts.Key) facts.Folded {
	if f, ok := r.Body.Facts[k]; ok {
		return facts.Folded{Reading: facts.Reading{Key: k, Value: f.Value}, Min: f.Min, Max: f.Max, Samples: 1}
	}
	if g, ok := r.Body.Gaps[k]; ok {
		return facts.Folded{Reading: facts.Reading{Key: k, Status: g.Status, Reason: g.Reason}}
	}
	if r.Body.Same.Has(k) {
		return facts.Folded{Reading: facts.Reading{Key: k, Status: facts.Pending, Reason: fmt.Sprintf("as in report %d", r.Body.Same.Sequence)}}
	}
	return facts.Folded{Reading: facts.Reading{Key: k, Status: facts.Absent, Reason: "not in the report"}}
}

// Reading returns the newest reading of fact k in the report.
func (r *Report) Reading(k facts.Key) facts.Reading { return r.Folded(k).Reading }

// check refuses a report that breaks a rule of the form which its types do not
// hold already.
func (r *Report) check() error {
	b := &r.Body
	switch {
	case len(r.UEID) != len(UEID{}) || r.UEID[0] != 1:
		return fmt.Errorf("ueid %x is not of type RAND with 16 bytes", r.UEID)
	case r.Profile != Profile:
		return fmt.Errorf("profile %q is not %q", r.Profile, Profile)
	case len(r.Nonce) != 0 && (len(r.Nonce) < 8 || len(r.Nonce) > 64):
		return fmt.Errorf("nonce of %d bytes, want 8 to 64", len(r.Nonce))
	case len(r.BootSeed) != 16:
		return fmt.Errorf("bootseed of %d bytes, want 16", len(r.BootSeed))
	case r.IssuedAt < 0:
		return fmt.Errorf("iat %d is negative", r.IssuedAt)
	case len(r.SWVersion) != 1 || len(r.SWName) > 64 || len(r.SWVersion[0]) > 64:
		return errors.New("swname and swversion must be one text each of at most 64 bytes")
	case b.Kind < KindBoot || b.Kind > KindFinding:
		return fmt.Errorf("unknown kind %d", b.Kind)
	case b.Sequence == 0:
		return errors.New("sequence 0 is below 1")
	case b.Sequence == 1 && len(b.Previous) != 0 || b.Sequence > 1 && len(b.Previous) != sha256.Size:
		return fmt.Errorf("report %d has a chain digest of %d bytes", b.Sequence, len(b.Previous))
	case b.Stage > reference.StageMaintenance:
		return fmt.Errorf("unknown stage %d", b.Stage)
	case b.Protection != ProtectionTPM && b.Protection != ProtectionFile:
		return fmt.Errorf("unknown key protection %d", b.Protection)
	case b.Begin < 0 || b.End < b.Begin:
		return fmt.Errorf("interval from %d to %d ms is not one", b.Begin, b.End)
	case b.Kind == KindChallenge && len(r.Nonce) == 0:
		return errors.New("answer to a challenge without its nonce")
	case b.Manifest != nil && len(b.Manifest.Digest) != sha256.Size:
		return fmt.Errorf("manifest digest of %d bytes, want %d", len(b.Manifest.Digest), sha256.Size)
	case b.Manifest == nil && len(r.MeasRes) != 0:
		return errors.New("results without a reference")
	case b.Manifest == nil && b.Stage == reference.StageOperating:
		return errors.New("operating without a reference")
	case (b.Stage == reference.StagePaused) != (b.Pause != nil):
		return fmt.Errorf("stage %s does not fit the pause claim", b.Stage)
	case (b.Stage == reference.StageMaintenance) != (b.Maintain != nil):
		return fmt.Errorf("stage %s does not fit the maintenance claim", b.Stage)
	case b.Pause != nil && len(b.Pause.ID) != 0 && len(b.Pause.ID) != 16:
		return fmt.Errorf("pause id of %d bytes, want 16", len(b.Pause.ID))
	case b.Pause != nil && (len(b.Pause.Effects) > MaxEffects || len(b.Pause.Reason) > facts.MaxText):
		return errors.New("pause claim is too long")
	case len(b.Notes) > MaxNotes:
		return fmt.Errorf("%d notes, the limit is %d", len(b.Notes), MaxNotes)
	}
	if b.History != nil {
		if b.Kind != KindAlarm {
			return fmt.Errorf("history in a report of kind %s", b.Kind)
		}
		if err := b.History.check(b.End); err != nil {
			return err
		}
	}
	if b.Maintain != nil {
		if err := b.Maintain.check(); err != nil {
			return err
		}
	}
	if b.Deferral != nil {
		if b.Pause == nil || len(b.Pause.ID) == 0 {
			return errors.New("deferral of no pause")
		}
		if err := b.Deferral.check(); err != nil {
			return err
		}
	}
	if b.Same != nil {
		if err := b.Same.check(r); err != nil {
			return err
		}
	}
	for k, g := range b.Gaps {
		if _, both := b.Facts[k]; both || g.Status == facts.OK || !g.Status.Known() || len(g.Reason) > MaxNote {
			return fmt.Errorf("gap of fact %d: status %d does not fit", k, g.Status)
		}
	}
	for l, g := range b.NoLogs {
		if !l.Known() || g.Status == facts.OK || !g.Status.Known() || len(g.Reason) > MaxNote {
			return fmt.Errorf("gap of log %d: status %d does not fit", l, g.Status)
		}
	}
	for i, s := range r.MeasRes {
		if slices.ContainsFunc(r.MeasRes[:i], func(x System) bool { return x.Name == s.Name }) || !slices.ContainsFunc(stages, func(x reference.Stage) bool { return SystemName(x) == s.Name }) {
			return fmt.Errorf("measres names %q twice, or it is no stage", s.Name)
		}
		for i, x := range s.Results {
			if x.Verdict < appraise.Passes || x.Verdict > appraise.AbsentHere {
				return fmt.Errorf("measres of %s: result %d is malformed", s.Name, i)
			}
			if i > 0 && x.Rule[0] <= s.Results[i-1].Rule[0] {
				return fmt.Errorf("measres of %s: rule %d does not follow rule %d", s.Name, x.Rule[0], s.Results[i-1].Rule[0])
			}
		}
	}
	return nil
}
