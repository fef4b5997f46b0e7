package verifier

import (
	"fmt"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
)

// ResultProfile is the EAT profile of results (draft-ietf-rats-ear-03).
const ResultProfile = "tag:ietf.org,2026:rats/ear#03"

// MaxResultSize bounds a signed result in bytes: at most 102 findings of 512
// bytes, and usually below 1000 bytes in all.
const MaxResultSize = 64 << 10

// A Result is an attestation result (EAR) about one device, as relying parties
// get it. docs/result.cddl has the same.
type Result struct {
	IssuedAt int64                `cbor:"6,keyasint"`    // Unix seconds
	Profile  string               `cbor:"265,keyasint"`  // ResultProfile
	Submods  map[string]Appraisal `cbor:"266,keyasint"`  // one: UEID in hexadecimal
	Verifier VerifierID           `cbor:"1004,keyasint"` //
}

// A VerifierID says which software appraised.
type VerifierID struct {
	Developer string `cbor:"0,keyasint"`
	Build     string `cbor:"1,keyasint"`
}

// An Appraisal is what was made of one report.
type Appraisal struct {
	Nonce    []byte               `cbor:"10,keyasint,omitempty"`   // of the challenge that the report answers
	Status   Tier                 `cbor:"1000,keyasint"`           // never better than the worst entry of the vector
	Vector   map[Trustworthy]int8 `cbor:"1001,keyasint,omitempty"` // entries without an assertion are left out
	Policies []string             `cbor:"1003,keyasint,omitempty"` // the manifest that was the reference
	Details  Details              `cbor:"-65538,keyasint"`         // private claim
}

// Details is what EAR has no claim for.
type Details struct {
	Sequence   uint64            `cbor:"1,keyasint"` // of the report
	Digest     []byte            `cbor:"2,keyasint"` // SHA-256 of the signed report
	Stage      reference.Stage   `cbor:"3,keyasint"`
	Protection attest.Protection `cbor:"4,keyasint"` // where the device key lives
	Quoted     bool              `cbor:"5,keyasint"` // a TPM quote is bound to the report
	Findings   []ResultFinding   `cbor:"6,keyasint,omitempty"`
	Label      *ResultLabel      `cbor:"7,keyasint,omitempty"` // nil where the verifier was given no labels
}

// A ResultLabel is what was made of the label of the device's model. Its
// contradictions are findings.
type ResultLabel struct {
	State    LabelState         `cbor:"1,keyasint"`
	Sequence uint64             `cbor:"2,keyasint,omitempty"` // edition
	SHA256   []byte             `cbor:"3,keyasint,omitempty"` // of the signed label
	Checks   map[Reason]Verdict `cbor:"4,keyasint,omitempty"`
	Inspect  label.Day          `cbor:"5,keyasint,omitempty"` // best-before-inspection date, RFC 8943; missing where it is not known
}

// resultLabel returns what a result says of a life; nil of none.
func resultLabel(l *Life) *ResultLabel {
	if l == nil {
		return nil
	}
	r := &ResultLabel{State: l.Label.State}
	if l.Label.State != LabelMissing {
		r.Sequence, r.SHA256 = l.Label.Sequence, l.Label.SHA256[:]
	}
	for _, c := range l.Checks {
		if r.Checks == nil {
			r.Checks = map[Reason]Verdict{}
		}
		r.Checks[c.Code] = c.Verdict
	}
	if l.NoDate == "" {
		r.Inspect = l.Date.Inspect
	}
	return r
}

// A ResultFinding is a finding in a result.
type ResultFinding struct {
	_    struct{} `cbor:",toarray"`
	Code Reason
	Tier Tier
	Text string
}

// Trustworthy is an entry of the trustworthiness vector (draft-ietf-rats-ar4si).
type Trustworthy uint8

// The entries that this verifier makes claims about.
const (
	InstanceIdentity Trustworthy = 0
	Configuration    Trustworthy = 1
	Executables      Trustworthy = 2
	Hardware         Trustworthy = 4
)

// Values of the vector. Those below 0 are this verifier's own; their tier
// follows from the range (AR4SI section 2.3.3).
const (
	trusted        = 2    // recognised, and not known to be compromised; for the configuration: as approved
	approvedBoot   = 3    // executables: approved files were loaded at boot time
	keyInFile      = -2   // instance identity: recognised by a key in a file
	aDeviation     = -33  // configuration: a value is out of its operating range
	notAppraised   = -34  // configuration: something could not be appraised
	noReference    = -35  // configuration: there is no manifest
	oldReference   = -36  // configuration: the manifest is not the newest, or ended
	reportsMissing = -37  // configuration: reports are missing or were dropped
	degraded       = -38  // configuration: the device told of a degraded mode, or is not admitted yet
	bootUnproved   = -39  // executables: no quote proves the state of this boot
	wentBack       = -40  // hardware: TPM clock or boot history went back
	anExtreme      = -97  // configuration: a fail-safe extreme is crossed
	notAdmitted    = -98  // configuration: the integration comparison failed
	isPaused       = -99  // configuration: the device is paused
	inMaintenance  = -106 // configuration: the device is in maintenance
	falseClaim     = -100 // executables: the device's claim is better than its facts
	unknownBoot    = -101 // executables: the quoted PCRs are not among the accepted ones
	strangeFile    = -102 // executables: a file ran, or something booted, that is not in the reference
	strangeBoot    = -103 // configuration: command line, Secure Boot keys or settings are not those of the reference
	strangeMachine = -104 // hardware: the firmware is none of the reference
	falseLog       = -105 // executables: a log of the boot does not lead to the quoted PCRs, or these prove nothing
	fileUnproved   = -42  // executables: what was executed is not known, or not proved
	labelDiffers   = -43  // configuration: the device is not as its label says, or the label does not count
	doubtfulClaim  = -41  // executables: the device's claim is worse than its facts
)

// tierOf returns the tier of a value of the vector.
func tierOf(value int8) Tier {
	switch {
	case value >= 96 || value <= -97:
		return TierContraindicated
	case value >= 32 || value <= -33:
		return TierWarning
	case value >= 2 || value <= -2:
		return TierAffirming
	}
	return TierNone
}

// entries says which entry of the vector a finding goes to, as warning and as
// contraindication; 0 stands for none.
var entries = map[Reason]struct {
	entry                     Trustworthy
	warning, contraindication int8
}{
	ReasonDeviates:      {Configuration, aDeviation, 0},
	ReasonNotAppraised:  {Configuration, notAppraised, 0},
	ReasonExtreme:       {Configuration, 0, anExtreme},
	ReasonPaused:        {Configuration, 0, isPaused},
	ReasonMaintenance:   {Configuration, 0, inMaintenance},
	ReasonIntegration:   {Configuration, degraded, notAdmitted},
	ReasonClaim:         {Executables, doubtfulClaim, falseClaim},
	ReasonGap:           {Configuration, reportsMissing, 0},
	ReasonDropped:       {Configuration, reportsMissing, 0},
	ReasonNoReference:   {Configuration, noReference, 0},
	ReasonOldManifest:   {Configuration, oldReference, 0},
	ReasonBootState:     {Executables, 0, unknownBoot},
	ReasonBootUnknown:   {Executables, bootUnproved, 0},
	ReasonBootHistory:   {Hardware, wentBack, 0},
	ReasonTPMRewind:     {Hardware, wentBack, 0},
	ReasonNote:          {Configuration, degraded, 0},
	ReasonEpoch:         {Executables, bootUnproved, 0},
	ReasonBootLog:       {Executables, bootUnproved, falseLog},
	ReasonBootFirmware:  {Hardware, 0, strangeMachine},
	ReasonBootSettings:  {Configuration, 0, strangeBoot},
	ReasonBootKeys:      {Configuration, 0, strangeBoot},
	ReasonBootCmdline:   {Configuration, 0, strangeBoot},
	ReasonBootLoader:    {Executables, 0, strangeFile},
	ReasonBootKernel:    {Executables, 0, strangeFile},
	ReasonBootInitrd:    {Executables, 0, strangeFile},
	ReasonBootUserspace: {Executables, 0, strangeFile},
	ReasonBootEvent:     {Executables, 0, strangeFile},
	ReasonFile:          {Executables, 0, strangeFile},
	ReasonFileViolation: {Executables, fileUnproved, 0},
	ReasonFileList:      {Executables, fileUnproved, falseLog},
	ReasonFileTPM:       {Executables, fileUnproved, falseLog},
	ReasonMore:          {Configuration, aDeviation, anExtreme},

	ReasonLabelRefused:   {Configuration, labelDiffers, 0},
	ReasonLabelRevoked:   {Configuration, labelDiffers, 0},
	ReasonLabelExpired:   {Configuration, labelDiffers, 0},
	ReasonLabelRadio:     {Configuration, labelDiffers, 0},
	ReasonLabelBluetooth: {Configuration, labelDiffers, 0},
	ReasonLabelNetwork:   {Configuration, labelDiffers, 0},
	ReasonLabelCloud:     {Configuration, labelDiffers, 0},
	ReasonLabelService:   {Configuration, labelDiffers, 0},
	ReasonLabelRange:     {Configuration, labelDiffers, 0},
	ReasonLabelBoot:      {Configuration, labelDiffers, 0},
	ReasonLabelProtected: {Configuration, labelDiffers, 0},
	ReasonLabelSBOM:      {Configuration, labelDiffers, 0},
	ReasonLabelUpdates:   {Configuration, labelDiffers, 0},
	ReasonLabelSupport:   {Configuration, labelDiffers, 0},
}

// vector returns the trustworthiness vector: what is good first, then the worst
// of what was found in its place.
func (j *judge) vector(boot *Boot) map[Trustworthy]int8 {
	d := j.device
	vec := map[Trustworthy]int8{InstanceIdentity: keyInFile}
	if d.Identity != nil {
		vec[InstanceIdentity] = trusted
		if d.EKProblem == "" {
			vec[Hardware] = trusted
		}
		if boot.Quoted && boot.State == nil {
			vec[Executables] = approvedBoot
			if f := boot.Files; f != nil && f.Offset > 0 {
				vec[Executables] = trusted // and what ran after it
			}
		}
	}
	if j.ref != nil {
		vec[Configuration] = trusted
	}
	for _, f := range j.found {
		e, ok := entries[f.Code]
		if !ok || f.Tier < TierWarning {
			continue
		}
		value := e.warning
		if f.Tier == TierContraindicated {
			value = e.contraindication
		}
		if old, set := vec[e.entry]; value != 0 && (!set || tierOf(value) > tierOf(old)) {
			vec[e.entry] = value
		}
	}
	return vec
}

// result returns the attestation result of a judged report.
func (j *judge) result(build string, tier Tier, boot *Boot) *Result {
	d, b := j.device, &j.report.Body
	digest := j.verified.Digest()
	a := Appraisal{
		Nonce: j.nonce(), Status: tier, Vector: j.vector(boot),
		Details: Details{Sequence: b.Sequence, Digest: digest[:], Stage: b.Stage, Protection: d.Protection, Quoted: j.quote != nil},
	}
	for _, value := range a.Vector {
		a.Status = max(a.Status, tierOf(value))
	}
	if j.ref != nil {
		m := j.ref.Manifest()
		a.Policies = []string{fmt.Sprintf("manifest %s %s %d sha-256 %x", m.Vendor, m.Model, m.Sequence, j.ref.Digest())}
	}
	for _, f := range j.found {
		a.Details.Findings = append(a.Details.Findings, ResultFinding{Code: f.Code, Tier: f.Tier, Text: f.Text})
	}
	a.Details.Label = resultLabel(j.life)
	return &Result{
		IssuedAt: j.now, Profile: ResultProfile, Submods: map[string]Appraisal{d.UEID.String(): a},
		Verifier: VerifierID{Developer: "miotfacts", Build: build},
	}
}

// nonce is that of the challenge which the report answers.
func (j *judge) nonce() []byte {
	if j.report.Body.Kind == attest.KindChallenge {
		return j.report.Nonce
	}
	return nil
}

func (v *Verifier) sign(r *Result) ([]byte, error) {
	payload, err := cose.Encode(r)
	if err != nil {
		return nil, fmt.Errorf("cannot sign result: %w", err)
	}
	return v.cfg.Result.Sign(cose.Result, payload)
}

// OpenResult verifies a signed result with the verifier's key, for relying
// parties and tests.
func OpenResult(data []byte, key *cose.PublicKey) (*Result, error) {
	u, err := cose.Parse(data, MaxResultSize)
	if err != nil {
		return nil, fmt.Errorf("cannot open result: %w", err)
	}
	payload, err := u.Verify(cose.Result, key)
	if err != nil {
		return nil, fmt.Errorf("cannot open result: %w", err)
	}
	r := new(Result)
	if err := cose.Decode(payload, MaxResultSize, r); err != nil {
		return nil, fmt.Errorf("cannot open result: %w", err)
	}
	if r.Profile != ResultProfile || len(r.Submods) != 1 {
		return nil, fmt.Errorf("cannot open result: profile %q with %d submodules", r.Profile, len(r.Submods))
	}
	for _, a := range r.Submods {
		switch a.Status {
		case TierNone, TierAffirming, TierWarning, TierContraindicated:
		default:
			return nil, fmt.Errorf("cannot open result: status %s is not one", a.Status)
		}
		for entry, value := range a.Vector {
			if tierOf(value) > a.Status {
				return nil, fmt.Errorf("cannot open result: status %s is better than entry %d of the vector, %d", a.Status, entry, value)
			}
		}
	}
	return r, nil
}
