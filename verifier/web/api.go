package web

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cmw"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
)

// A Device is what the interface says of a device. Times are Unix seconds, 0 for
// never; texts of the device are as it sent them, control characters included.
type Device struct {
	ID         string    `json:"id"` // UEID, 32 hexadecimal digits
	Vendor     string    `json:"vendor"`
	Model      string    `json:"model"`
	Serial     string    `json:"serial"`
	Protection string    `json:"protection"`           // of its key: "TPM" or "key file, no TPM"
	EKProblem  string    `json:"ek_problem,omitempty"` // why nothing proves that the TPM is a genuine one
	Key        string    `json:"key"`                  // key id, hexadecimal
	AK         string    `json:"ak,omitempty"`         // SHA-256 of the attestation key (TPMT_PUBLIC), hexadecimal; missing without a TPM
	Enrolled   string    `json:"enrolled"`             // "asked", "waits for approval", "approved", "revoked" or "decommissioned"
	AskedAt    int64     `json:"asked_at"`
	ApprovedAt int64     `json:"approved_at"`
	ApprovedBy string    `json:"approved_by"`
	RevokedAt  int64     `json:"revoked_at"`
	RetiredAt  int64     `json:"decommissioned_at"`
	RetiredBy  string    `json:"decommissioned_by"`
	ReplacedBy string    `json:"replaced_by,omitempty"` // UEID of the device that took its place
	Replaces   string    `json:"replaces,omitempty"`    // UEID of the device whose place it took
	Renewal    *Renewal  `json:"renewal"`               // of its key; null when it was neither renewed nor ordered
	Sequence   uint64    `json:"sequence"`              // of the newest report, 0 before the first
	LastSeen   int64     `json:"last_seen"`
	Stage      string    `json:"stage"`                       // "unknown", "integration", "operating", "paused" or "maintenance"
	Tier       string    `json:"tier"`                        // "none", "affirming", "warning" or "contraindicated"
	Findings   []Finding `json:"findings"`                    // worst first
	Pause      *Pause    `json:"pause"`                       // null when not paused
	Maintained int64     `json:"maintenance_until,omitempty"` // when it ends at the latest; missing when not in maintenance
	Manifest   *Manifest `json:"manifest"`                    // null without a valid one
	Boot       *Boot     `json:"boot"`                        // null before the first report, and without a TPM
	Crossing   *Crossing `json:"crossing"`                    // null without an alarm since it operated
	Life       *Life     `json:"life"`                        // null where the verifier was given no labels, and before approval
}

// A Renewal is how a device's key took the place of another.
type Renewal struct {
	OrderedBy string `json:"ordered_by"`            // the operator's name, of the newest order
	OpenSince int64  `json:"open_since,omitempty"`  // an order that the device has not followed yet
	Count     uint64 `json:"count"`                 // renewals so far
	At        int64  `json:"at,omitempty"`          // of the last
	FormerKey string `json:"former_key,omitempty"`  // key id, hexadecimal, of the key before
	From      uint64 `json:"from_report,omitempty"` // lowest report under the present key; missing while none has come
}

func newRenewal(d *verifier.Device) *Renewal {
	if d.Renewal == nil && d.Renewed == nil {
		return nil
	}
	r := &Renewal{OrderedBy: d.RenewalBy, Count: d.Renewals}
	if d.Renewal != nil {
		r.OpenSince = d.Renewal.At
	}
	if was := d.Renewed; was != nil {
		r.At, r.FormerKey, r.From = was.At, was.Key.ID().String(), was.From
	}
	return r
}

// A Crossing is the last minute of the number that crossed a fail-safe extreme.
type Crossing struct {
	Fact    int      `json:"fact"`    // wire key
	Name    string   `json:"name"`    // as the catalogue or the manifest calls it; "" when nobody does
	Unit    string   `json:"unit"`    // of the values
	Samples []Sample `json:"samples"` // oldest first
}

// A Sample is one value of it.
type Sample struct {
	Before int64 `json:"before_ms"` // before the newest
	Value  int64 `json:"value"`
}

// NewCrossing returns what is shown of a history; nil of none.
func NewCrossing(h *attest.History) *Crossing {
	if h == nil || len(h.Samples) == 0 {
		return nil
	}
	c := &Crossing{Fact: int(h.Fact)}
	last := h.Samples[len(h.Samples)-1].At
	for _, s := range h.Samples {
		c.Samples = append(c.Samples, Sample{last - s.At, s.Value})
	}
	return c
}

// A Boot is what the TPM and the logs have shown of a device's present boot.
type Boot struct {
	Quoted   bool     `json:"quoted"`   // a valid quote came in it
	Versions []string `json:"versions"` // what booted, by the manifest's references; where something deviates, the nearest
	Logs     []Log    `json:"logs"`     // what came of its logs
	Files    *Files   `json:"files"`    // what IMA measured; null where that is not appraised
}

// A Log is how much of a log is here.
type Log struct {
	Name    string `json:"name"`
	Bytes   uint64 `json:"bytes"`
	Whole   bool   `json:"whole"`   // all that the device had
	Missing string `json:"missing"` // why the device cannot send it
}

// Files counts the entries of the IMA list that a quote has proved.
type Files struct {
	Allowed    uint64 `json:"allowed"`
	Signed     uint64 `json:"signed"`
	Excluded   uint64 `json:"excluded"`   // not looked at, as the manifest says
	Violations uint64 `json:"violations"` // nobody knows what was measured
}

// A Finding is one thing that a person should know.
type Finding struct {
	Code string `json:"code"` // a verifier.Reason
	Tier string `json:"tier"` // what it makes of the device
	Text string `json:"text"`
}

// A Pause is a device's present pause, as the device tells it.
type Pause struct {
	ID      string   `json:"id"`    // hexadecimal; "" until the device's enforcer has confirmed it
	Since   int64    `json:"since"` // by the device's clock
	Reason  string   `json:"reason"`
	Effects []Effect `json:"effects"`
	// Deferral is how the application put it off; missing when it did not.
	Deferral *Deferral `json:"deferral,omitempty"`
}

// A Deferral is how the application put a pause off, which is latched meanwhile.
type Deferral struct {
	Until  int64  `json:"until"`         // when it ends at the latest
	Lasted int64  `json:"ms,omitempty"`  // how long it was; missing while it lasts
	Why    string `json:"why,omitempty"` // it ended; missing while it lasts
}

// NewDeferral returns what is shown of a deferral; nil of none.
func NewDeferral(d *verifier.Deferral) *Deferral {
	if d == nil {
		return nil
	}
	v := &Deferral{Until: d.Until, Lasted: d.Lasted}
	if d.Why != 0 {
		v.Why = d.Why.String()
	}
	return v
}

// An Effect is what a step of the reaction chain was observed to do.
type Effect struct {
	Kind     string `json:"kind"` // "tell", "freeze", "signal" or "stop-unit"
	Target   string `json:"target"`
	Done     bool   `json:"done"`
	Observed string `json:"observed"`
	Millis   int64  `json:"ms"` // until it was observed, or given up
}

// A Manifest names the edition that a device used last.
type Manifest struct {
	Sequence uint64 `json:"sequence"`
	Digest   string `json:"sha256"` // hexadecimal, of the signed bytes
}

// A Report is what the interface says of an accepted report.
type Report struct {
	Sequence   uint64    `json:"sequence"`
	Digest     string    `json:"digest"` // SHA-256 of the signed report, hexadecimal
	Kind       string    `json:"kind"`
	Stage      string    `json:"stage"`
	ReceivedAt int64     `json:"received_at"`
	Quoted     bool      `json:"quoted"` // a valid TPM quote is bound to it
	Tier       string    `json:"tier"`
	Findings   []Finding `json:"findings"`
	Size       int       `json:"size"` // bytes of the message, 0 once it was dropped as too old
}

// A Refused is a message that was not accepted.
type Refused struct {
	At     int64  `json:"at"`
	Device string `json:"device"` // the name it came under; proves nothing
	Topic  string `json:"topic"`
	Reason string `json:"reason"` // a verifier.Reason
	Text   string `json:"text"`
	Size   int    `json:"size"`
}

// A Problem is the answer that something is not possible.
type Problem struct {
	Error string `json:"error"`
	Hint  string `json:"hint"` // what to do about it; may be ""
}

func newDevice(d *verifier.Device, now int64) Device {
	v := Device{
		ID: d.UEID.String(), Vendor: d.Vendor, Model: d.Model, Serial: d.Serial,
		Protection: d.Protection.String(), EKProblem: d.EKProblem, Enrolled: d.Enrolled.String(),
		AskedAt: d.AskedAt, ApprovedAt: d.ApprovedAt, ApprovedBy: d.ApprovedBy, RevokedAt: d.RevokedAt, RetiredAt: d.RetiredAt, RetiredBy: d.RetiredBy,
		Sequence: d.Sequence, LastSeen: d.LastSeen, Stage: d.Stage.String(), Tier: d.Tier.String(), Findings: newFindings(d.Findings),
		Renewal: newRenewal(d),
	}
	if d.Key != nil {
		v.Key = d.Key.ID().String()
	}
	if d.ReplacedBy != nil {
		v.ReplacedBy = d.ReplacedBy.String()
	}
	if d.Replaces != nil {
		v.Replaces = d.Replaces.String()
	}
	if d.Identity != nil {
		sum := sha256.Sum256(d.Identity.AK)
		v.AK = hex.EncodeToString(sum[:])
	}
	if p := d.Pause; p != nil {
		v.Pause = &Pause{ID: hex.EncodeToString(p.ID), Since: p.Since, Reason: p.Reason, Effects: []Effect{}, Deferral: NewDeferral(d.Deferral)}
		for _, e := range p.Effects {
			v.Pause.Effects = append(v.Pause.Effects, Effect{e.Kind.String(), e.Target, e.Done, e.Observed, e.Millis})
		}
	}
	if d.Boot != nil && d.Identity != nil {
		v.Boot = newBoot(d.Boot)
	}
	v.Maintained = d.Maintained
	v.Crossing = NewCrossing(d.Crossing)
	if v.Crossing != nil && d.Crossed != nil {
		v.Crossing.Name, v.Crossing.Unit = d.Crossed.Name, d.Crossed.Unit
	}
	v.Life = newLife(d.Life, now)
	if m := d.Manifest; m != nil {
		v.Manifest = &Manifest{m.Sequence, hex.EncodeToString(m.Digest)}
	}
	return v
}

func newBoot(b *verifier.Boot) *Boot {
	v := &Boot{Quoted: b.Quoted, Versions: append([]string{}, b.Versions...), Logs: []Log{}}
	for _, l := range slices.Sorted(maps.Keys(b.Logs)) {
		x := Log{Name: l.String(), Bytes: b.Logs[l].Bytes, Whole: b.Logs[l].Bytes > 0 && !b.Logs[l].More}
		if g := b.Logs[l].Gap; g != nil {
			x.Missing = g.Status.String() + ": " + g.Reason
		}
		v.Logs = append(v.Logs, x)
	}
	if f := b.Files; f != nil && f.Offset > 0 {
		v.Files = &Files{f.Allowed, f.Signed, f.Excluded, f.Violations}
	}
	return v
}

func newFindings(found []verifier.Finding) []Finding {
	found = slices.Clone(found)
	slices.SortStableFunc(found, func(a, b verifier.Finding) int { return int(b.Tier) - int(a.Tier) })
	list := []Finding{} // not null in JSON
	for _, f := range found {
		list = append(list, Finding{string(f.Code), f.Tier.String(), f.Text})
	}
	return list
}

func newReport(r *verifier.Record) Report {
	return Report{
		Sequence: r.Sequence, Digest: hex.EncodeToString(r.Digest[:]), Kind: r.Kind.String(), Stage: r.Stage.String(), ReceivedAt: r.ReceivedAt,
		Quoted: r.Quoted, Tier: r.Tier.String(), Findings: newFindings(r.Findings), Size: len(r.Message),
	}
}

func newRefused(r *verifier.Refused) Refused {
	return Refused{r.At, r.Device, r.Topic, string(r.Reason), r.Text, r.Size}
}

func answer(w http.ResponseWriter, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(data, '\n')) // the connection is gone: nobody to tell
	return nil
}

// answerMessage answers with a signed message, or where the client asks for one,
// with a conceptual message (RFC 9999) around what others know of it.
func answerMessage(w http.ResponseWriter, r *http.Request, name string, data []byte, record func() (cmw.Record, error)) error {
	w.Header().Set("Vary", "Accept")
	if !strings.Contains(r.Header.Get("Accept"), cmw.MediaType) {
		return answerBytes(w, "application/octet-stream", name, data)
	}
	c, err := record()
	if err == nil {
		data, err = cmw.Wrap(c)
	}
	if err != nil {
		return err
	}
	return answerBytes(w, cmw.MediaType, name+".cmw", data)
}

func answerBytes(w http.ResponseWriter, media, name string, data []byte) error {
	w.Header().Set("Content-Type", media)
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	_, _ = w.Write(data)
	return nil
}

func (s *site) devices(w http.ResponseWriter, _ *http.Request) error {
	all, err := s.Fleet.Devices(s.now())
	if err != nil {
		return err
	}
	list := make([]Device, len(all))
	for i := range all {
		list[i] = newDevice(&all[i], s.now())
	}
	return answer(w, list)
}

func (s *site) device(w http.ResponseWriter, r *http.Request) error {
	d, err := s.lookup(r)
	if err != nil {
		return err
	}
	return answer(w, newDevice(d, s.now()))
}

func (s *site) reports(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	d, err := s.lookup(r)
	if err != nil {
		return err
	}
	records, err := s.History.Reports(d.UEID, n)
	if err != nil {
		return err
	}
	list := make([]Report, len(records))
	for i := range records {
		list[i] = newReport(&records[i])
	}
	return answer(w, list)
}

// message answers with a report's message as it came.
func (s *site) message(w http.ResponseWriter, r *http.Request) error {
	id, err := deviceID(r)
	if err != nil {
		return err
	}
	sequence, err := strconv.ParseUint(r.PathValue("sequence"), 10, 63)
	if err != nil {
		return &problem{http.StatusNotFound, "a report is named by its sequence number", ""}
	}
	record, err := s.History.Report(id, sequence)
	switch {
	case errors.Is(err, verifier.ErrNotFound):
		return &problem{http.StatusNotFound, fmt.Sprintf("report %d of device %s is not known", sequence, id), fmt.Sprintf("see /api/devices/%s/reports", id)}
	case err != nil:
		return err
	case len(record.Message) == 0:
		return &problem{http.StatusGone, fmt.Sprintf("report %d of device %s was dropped as too old; its digest is %x", sequence, id, record.Digest), ""}
	}
	return answerMessage(w, r, fmt.Sprintf("%s-%d.cbor", id, sequence), record.Message, func() (cmw.Record, error) {
		m := new(attest.Message)
		err := cose.Decode(record.Message, attest.MaxMessageSize, m)
		return cmw.Record{Format: cmw.EAT, Value: m.Report, Kind: cmw.EvidenceKind}, err
	})
}

// result answers with the signed result on the newest report.
func (s *site) result(w http.ResponseWriter, r *http.Request) error {
	d, err := s.lookup(r)
	if err != nil {
		return err
	}
	record, err := s.History.Report(d.UEID, d.Sequence)
	if errors.Is(err, verifier.ErrNotFound) || err == nil && len(record.Result) == 0 {
		return &problem{http.StatusNotFound, fmt.Sprintf("there is no result about device %s yet", d.UEID), "its first accepted report makes one"}
	}
	if err != nil {
		return err
	}
	return answerMessage(w, r, fmt.Sprintf("%s-%d.ear", d.UEID, d.Sequence), record.Result, func() (cmw.Record, error) {
		return cmw.Record{Format: cmw.EAT, Value: record.Result, Kind: cmw.AttestationResult}, nil
	})
}

func (s *site) evidence(w http.ResponseWriter, r *http.Request) error {
	d, err := s.lookup(r)
	if err != nil {
		return err
	}
	bundle, err := s.Fleet.Evidence(d.UEID)
	if errors.Is(err, verifier.ErrNotFound) {
		return &problem{http.StatusNotFound, fmt.Sprintf("there is no evidence of device %s in this boot", d.UEID), "its boot report makes some"}
	}
	if err != nil {
		return err
	}
	return answerMessage(w, r, fmt.Sprintf("%s.evidence", d.UEID), bundle, func() (cmw.Record, error) {
		return cmw.Record{Type: cmw.Evidence, Value: bundle, Kind: cmw.EvidenceKind}, nil
	})
}

func (s *site) refused(w http.ResponseWriter, r *http.Request) error {
	n, err := limit(r)
	if err != nil {
		return err
	}
	messages, err := s.History.Refused(n)
	if err != nil {
		return err
	}
	list := make([]Refused, len(messages))
	for i := range messages {
		list[i] = newRefused(&messages[i])
	}
	return answer(w, list)
}

// command forwards an operator's command. The device decides whether it counts;
// what can be told without a key is told here, where somebody reads it.
func (s *site) command(w http.ResponseWriter, r *http.Request) error {
	switch kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind {
	case "application/octet-stream", "application/cose":
		// A page elsewhere cannot send these without asking first (CORS).
	default:
		return &problem{http.StatusUnsupportedMediaType, "a command is application/cose or application/octet-stream", "send the file that factsctl resume --out wrote"}
	}
	d, err := s.lookup(r)
	if err != nil {
		return err
	}
	document, err := io.ReadAll(http.MaxBytesReader(w, r.Body, reference.MaxCommandSize))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &problem{http.StatusRequestEntityTooLarge, fmt.Sprintf("a command has at most %d bytes", reference.MaxCommandSize), "send one signed command"}
	}
	if err != nil {
		return &problem{http.StatusBadRequest, "the command did not come whole", "send it again"}
	}
	u, err := cose.Parse(document, reference.MaxCommandSize)
	if err == nil && u.Type() != cose.Command {
		err = fmt.Errorf("%w: %s", cose.ErrType, u.Type())
	}
	var c reference.Command
	if err == nil {
		err = cose.Decode(u.UnverifiedPayload(), reference.MaxCommandSize, &c)
	}
	if err != nil {
		return &problem{http.StatusBadRequest, "no signed command: " + err.Error(), "send the file that factsctl resume --out wrote"}
	}
	if string(c.Device) != string(d.UEID[:]) {
		return &problem{http.StatusConflict, fmt.Sprintf("the command is for another device than %s", d.UEID), "send it to the device that it was signed for"}
	}
	if err := s.Commands.Submit(d.UEID, document); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
