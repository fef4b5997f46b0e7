package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cmw"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier/web"
	"github.com/spf13/cobra"
)

func newReportCommand() *cobra.Command {
	return newGroup("report", "Look into reports of devices",
		"A report is what a device says of itself: facts, their comparison with the manifest,\nstage, and the place in its chain of reports, signed with the device key.",
		newReportShowCommand())
}

// A shownReport is a report as --json prints it, and the source of the words.
type shownReport struct {
	Signature  string        `json:"signature"` // "valid" or "not checked"
	Signer     string        `json:"signer"`    // key id; what the report claims when not checked
	Digest     string        `json:"sha256"`    // of the signed report; the next one carries it
	Device     string        `json:"device"`
	Kind       string        `json:"kind"`
	Sequence   uint64        `json:"sequence"`
	Previous   string        `json:"previous"` // sha256 of the report before, "" in the first
	Stage      string        `json:"stage"`
	Protection string        `json:"protection"` // of the device key
	IssuedAt   int64         `json:"issued_at"`  // Unix seconds, 0 when the device's clock was not synchronised
	Uptime     uint64        `json:"uptime"`     // seconds
	BootCount  uint64        `json:"boot_count"`
	BootSeed   string        `json:"boot_seed"`
	Software   string        `json:"software"`
	Nonce      string        `json:"nonce,omitempty"` // of the challenge that an answer is to, else of the epoch
	Quote      *shownQuote   `json:"quote"`           // null without one
	Manifest   *web.Manifest `json:"manifest"`        // the edition that the device compared with
	Verified   bool          `json:"manifest_verified"`
	Pause      *web.Pause    `json:"pause"`
	Deferral   *shownDelay   `json:"deferral,omitempty"`  // how the application put the pause off
	Crossing   *web.Crossing `json:"crossing,omitempty"`  // in alarms: the last minute of the number that crossed
	Unalarmed  uint64        `json:"unalarmed,omitempty"` // crossings since the report before without an alarm
	Results    []shownResult `json:"results"`             // the device's own comparison
	Begin      int64         `json:"begin"`               // uptime in ms of the first round in the report
	End        int64         `json:"end"`
	Facts      []shownFolded `json:"facts"`
	Same       *shownSame    `json:"same,omitempty"` // facts that it does not repeat
	Inventory  *shownStock   `json:"inventory,omitempty"`
	Notes      []string      `json:"notes"`
	Dropped    uint64        `json:"dropped"` // reports that the device ever dropped
}

type shownQuote struct {
	PCRs []int `json:"pcrs"`
}

// A shownResult is what the device made of one rule.
type shownResult struct {
	Stage   string `json:"stage"` // "integration", "operating" or "fail-safe"
	Rule    int    `json:"rule"`
	Verdict string `json:"verdict"`
	Lasted  int64  `json:"lasted_ms,omitempty"`
	Text    string `json:"text,omitempty"` // in words, when the manifest is verified
}

// A shownFolded is a fact over the interval of the report.
type shownFolded struct {
	shownReading
	Min *int64 `json:"min,omitempty"` // of numbers that moved
	Max *int64 `json:"max,omitempty"`
	def facts.Def
	raw facts.Value
}

// shownSame names facts that are as an earlier report has them.
type shownSame struct {
	Report uint64   `json:"report"`
	Facts  []string `json:"facts"`
}

// A shownDelay is how the application put the pause off, in ms since boot.
type shownDelay struct {
	Began int64  `json:"began_ms"`
	Until int64  `json:"until_ms"`           // when it ends at the latest
	Ended int64  `json:"ended_ms,omitempty"` // missing while it lasts
	Why   string `json:"why,omitempty"`      // it ended
	At    int64  `json:"until,omitempty"`    // Until by the device's clock, where it knew the time
}

func newShownDelay(d *attest.Deferral, r *attest.Report) *shownDelay {
	s := &shownDelay{Began: d.Began, Until: d.Until, Ended: d.Ended}
	if d.Why != 0 {
		s.Why = d.Why.String()
	}
	if r.IssuedAt != 0 {
		s.At = r.IssuedAt + (d.Until-r.Body.End)/1000
	}
	return s
}

func (d *shownDelay) words() string {
	switch {
	case d.Ended != 0:
		return fmt.Sprintf("for %.1f s by the application, until %s", float64(d.Ended-d.Began)/1000, d.Why)
	case d.At != 0:
		return "by the application until " + web.Stamp(d.At) + " by the device's clock"
	}
	return fmt.Sprintf("by the application until %v after boot", time.Duration(d.Until)*time.Millisecond)
}

type shownStock struct {
	Vendor   string   `json:"vendor"`
	Model    string   `json:"model"`
	Serial   string   `json:"serial,omitempty"`
	Firmware string   `json:"firmware,omitempty"`
	Services []string `json:"services,omitempty"`
	Crypto   []string `json:"crypto,omitempty"`
}

func newReportShowCommand() *cobra.Command {
	var manifest, root, keys, at, key string
	var asJSON bool
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a report says, in words",
		Long: `Shows a report's claims: a message as the verifier keeps it, the signed report alone,
or a conceptual message (CMW, RFC 9999) around it; - for standard input. With the
device's public key (--key) the signature is checked; without it nothing is, and the
output says so.

The device's comparison is told in words with the manifest that it used (--manifest),
which has to verify under the manufacturer's root and key list (--root, --keys). The
comparison is the device's own word: what the verifier made of it is on its page.`,
		Example: `  factsctl report show 42.cbor --key device.key.pub
  factsctl report show 42.cbor --manifest pump-1.manifest --root root.key.pub --keys keys.signed
  curl -s http://127.0.0.1:8443/api/devices/ID/reports/42 | factsctl report show - --json`,
		Args: cobra.ExactArgs(1),
	}
	f := c.Flags()
	f.StringVar(&key, "key", "", "the device's public key `file`: check the signature")
	f.StringVar(&manifest, "manifest", "", "signed manifest `file` that the device compared with")
	f.StringVar(&root, "root", "", "the manufacturer's root public key `file`")
	f.StringVar(&keys, "keys", "", "the manufacturer's signed key list `file`")
	f.StringVar(&at, "at", "", "verify the manifest for this `time`, 2027-01-01 or 2027-01-01T12:00:00Z (default now)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	c.MarkFlagsRequiredTogether("root", "keys")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := read(c, args[0], attest.MaxMessageSize)
		if err != nil {
			return err
		}
		m, u, err := openReport(data)
		if err != nil {
			return fail(exitRefused, "give a message from a device's chain, as the verifier's page offers it", "%s is no report: %w", args[0], err)
		}
		signature := "not checked"
		if key != "" {
			k, err := loadPublic(key)
			if err != nil {
				return err
			}
			if _, err := u.Verify(k); err != nil {
				return fail(exitRefused, refusalHint(err), "%s: %w", args[0], err)
			}
			signature = "valid"
		}
		var ref *reference.Reference
		if manifest != "" && root == "" {
			note(c, "manifest not verified, so the comparison is not told in words: give --root and --keys")
		} else if manifest != "" {
			if ref, err = openReference(c, manifest, root, keys, at); err != nil {
				return err
			}
		}
		s, err := newShownReport(m, u, ref)
		if err != nil {
			return fail(exitRefused, "give the edition that the report names", "%s: %w", args[0], err)
		}
		s.Signature = signature
		if asJSON {
			return printJSON(c.OutOrStdout(), s)
		}
		return s.print(c.OutOrStdout())
	}
	return c
}

// openReport decodes a message, or a signed report without one, or a conceptual
// message with a report.
func openReport(data []byte) (*attest.Message, *attest.Unverified, error) {
	if cmw.Is(data) {
		r, err := cmw.Unwrap(data, attest.MaxMessageSize)
		if err == nil && r.Format != cmw.EAT && r.Type != "application/eat+cwt" {
			err = fmt.Errorf("it is a conceptual message of %v, want application/eat+cwt", r)
		}
		if err != nil {
			return nil, nil, err
		}
		data = r.Value
	}
	if bytes.HasPrefix(data, []byte{0xd8, 0x3d}) { // tag 61: no message begins so
		message, err := cose.Encode(attest.Message{Report: data})
		if err != nil {
			return nil, nil, err
		}
		data = message
	}
	u, err := attest.Decode(data)
	if err != nil {
		return nil, nil, err
	}
	m := new(attest.Message)
	return m, u, cose.Decode(data, attest.MaxMessageSize, m)
}

func openReference(c *cobra.Command, manifest, root, keys, at string) (*reference.Reference, error) {
	now, err := parseTime(at)
	if err != nil {
		return nil, err
	}
	trust, err := loadTrust(c, reference.Manufacturer, root, keys)
	if err != nil {
		return nil, err
	}
	data, err := read(c, manifest, reference.MaxManifestSize)
	if err != nil {
		return nil, err
	}
	ref, err := trust.OpenManifest(data, reference.Want{}, reference.At(now))
	if err != nil {
		return nil, fail(exitRefused, refusalHint(err), "%s: %w", manifest, err)
	}
	return ref, nil
}

// newShownReport tells a report; ref may be nil. It refuses a ref that is not
// the edition which the report names: its rules are others.
func newShownReport(m *attest.Message, u *attest.Unverified, ref *reference.Reference) (*shownReport, error) {
	r := u.Unverified()
	b := &r.Body
	s := &shownReport{
		Signer: u.KeyID().String(), Digest: digest(m.Report), Device: attest.UEID(r.UEID).String(), Kind: b.Kind.String(), Sequence: b.Sequence,
		Previous: hex.EncodeToString(b.Previous), Stage: b.Stage.String(), Protection: b.Protection.String(), IssuedAt: r.IssuedAt, Uptime: r.Uptime,
		BootCount: r.BootCount, BootSeed: hex.EncodeToString(r.BootSeed), Software: r.SWName + " " + r.SWVersion[0], Nonce: hex.EncodeToString(r.Nonce),
		Begin: b.Begin, End: b.End, Notes: append([]string{}, b.Notes...), Dropped: b.Dropped, Results: []shownResult{}, Facts: []shownFolded{},
	}
	if q := m.Quote; q != nil {
		s.Quote = &shownQuote{PCRs: []int{}}
		for _, p := range q.PCRs {
			s.Quote.PCRs = append(s.Quote.PCRs, p.Index)
		}
	}
	if e := b.Manifest; e != nil {
		s.Manifest = &web.Manifest{Sequence: e.Sequence, Digest: hex.EncodeToString(e.Digest)}
	}
	if p := b.Pause; p != nil {
		s.Pause = &web.Pause{ID: hex.EncodeToString(p.ID), Since: p.Since, Reason: p.Reason, Effects: []web.Effect{}}
		for _, e := range p.Effects {
			s.Pause.Effects = append(s.Pause.Effects, web.Effect{Kind: e.Kind.String(), Target: e.Target, Done: e.Done, Observed: e.Observed, Millis: e.Millis})
		}
	}
	if d := b.Deferral; d != nil {
		s.Deferral = newShownDelay(d, r)
	}
	s.Crossing, s.Unalarmed = web.NewCrossing(b.History), b.Unalarmed
	if i := b.Inventory; i != nil {
		s.Inventory = &shownStock{i.Vendor, i.Model, i.Serial, i.Firmware, i.Services, i.Crypto}
	}
	if err := s.compare(r, ref); err != nil {
		return nil, err
	}
	return s, s.measure(r, ref)
}

// compare tells the measres claim.
func (s *shownReport) compare(r *attest.Report, ref *reference.Reference) error {
	for _, sys := range r.MeasRes {
		for _, x := range sys.Results {
			s.Results = append(s.Results, shownResult{Stage: sys.Name, Rule: int(x.Rule[0]), Verdict: x.Verdict.String()})
		}
	}
	for key, ms := range r.Body.Lasted {
		i := slices.IndexFunc(s.Results, func(x shownResult) bool {
			return x.Stage == attest.SystemName(reference.Stage(key>>8)) && x.Rule == int(key&0xff)
		})
		if i >= 0 {
			s.Results[i].Lasted = ms
		}
	}
	if ref == nil {
		return nil
	}
	if d := ref.Digest(); r.Body.Manifest == nil {
		return errors.New("it was compared with no manifest")
	} else if !bytes.Equal(d[:], r.Body.Manifest.Digest) {
		return fmt.Errorf("it was compared with edition %d, sha256 %x; the manifest is edition %d, sha256 %x", r.Body.Manifest.Sequence, r.Body.Manifest.Digest, ref.Manifest().Sequence, d)
	}
	results, err := r.Results(ref)
	if err != nil {
		return err
	}
	for i, x := range results { // in the order of measres
		s.Results[i].Text = appraise.Explain(ref, x)
	}
	s.Verified = true
	return nil
}

// measure tells the facts, in the order of their keys.
func (s *shownReport) measure(r *attest.Report, ref *reference.Reference) error {
	vocabulary, err := facts.NewVocabulary(nil)
	if err != nil {
		return err
	}
	if ref != nil {
		vocabulary = ref.Vocabulary()
	}
	keys := slices.AppendSeq(slices.Collect(maps.Keys(r.Body.Facts)), maps.Keys(r.Body.Gaps))
	slices.Sort(keys)
	if c := s.Crossing; c != nil {
		if def, ok := vocabulary.ByKey(facts.Key(c.Fact)); ok {
			c.Name, c.Unit = def.Name, def.Unit
		}
	}
	for _, k := range keys {
		def, ok := vocabulary.ByKey(k)
		if !ok {
			def = facts.Def{Key: k, Name: fmt.Sprintf("fact %d", k)}
		}
		x := r.Folded(k)
		f := shownFolded{shownReading: newShownReading(def, x.Reading), def: def, raw: x.Value}
		if x.Status == facts.OK && x.Value.Kind() == facts.Int && x.Min != x.Max {
			f.Min, f.Max = &x.Min, &x.Max
		}
		s.Facts = append(s.Facts, f)
	}
	if same := r.Body.Same; same != nil {
		s.Same = &shownSame{Report: same.Sequence}
		for _, k := range same.Keys() {
			name := fmt.Sprintf("fact %d", k)
			if def, ok := vocabulary.ByKey(k); ok {
				name = def.Name
			}
			s.Same.Facts = append(s.Same.Facts, name)
		}
	}
	return nil
}

func (s *shownReport) print(out io.Writer) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	row("report %d of device %s", s.Sequence, s.Device)
	if s.Signature == "valid" {
		row("  signature\tvalid, by key %s", s.Signer)
	} else {
		row("  signature\tNOT CHECKED; it claims to be by key %s (give --key)", s.Signer)
	}
	row("  device key\t%s", s.Protection)
	row("  kind\t%s", s.Kind)
	row("  stage\t%s", s.Stage)
	made := "at a time that the device did not know"
	if s.IssuedAt != 0 {
		made = web.Stamp(s.IssuedAt) + " by the device's clock"
	}
	row("  made\t%s, %v after boot %d", made, time.Duration(s.Uptime)*time.Second, s.BootCount)
	row("  by\t%s", web.Clean(s.Software))
	if s.Manifest == nil {
		row("  manifest\tnone: nothing was compared")
	} else {
		row("  manifest\tedition %d, sha256 %s, %s", s.Manifest.Sequence, s.Manifest.Digest, map[bool]string{true: "verified", false: "not verified"}[s.Verified])
	}
	if s.Previous == "" {
		row("  chain\tthe first report; sha256 %s", s.Digest)
	} else {
		row("  chain\tafter %s; sha256 %s", s.Previous, s.Digest)
	}
	if s.Nonce != "" {
		if s.Kind == attest.KindChallenge.String() {
			row("  answers\tthe challenge %s", s.Nonce)
		} else {
			row("  made in\tthe epoch %s", s.Nonce)
		}
	}
	if s.Quote != nil {
		over := fmt.Sprintf("over PCRs %v", s.Quote.PCRs)
		if len(s.Quote.PCRs) == 0 {
			over = "over values that came with an earlier one of this boot"
		}
		row("  TPM quote\t%s, not checked here", over)
	} else {
		row("  TPM quote\tnone")
	}
	if s.Dropped > 0 {
		row("  dropped\t%d reports, ever", s.Dropped)
	}
	if p := s.Pause; p != nil {
		since := ""
		if p.Since != 0 {
			since = " since " + web.Stamp(p.Since)
		}
		if p.ID == "" {
			row("\npause asked for, not confirmed yet: %s", p.Why())
		} else {
			row("\npaused by fail-safe%s: %s", since, p.Why())
			row("  pause\t%s", p.ID)
		}
		if s.Deferral != nil {
			row("  deferred\t%s", s.Deferral.words())
		}
		for _, e := range p.Effects {
			row("  %s\t%s: %s, after %d ms", map[bool]string{true: "done", false: "NO EFFECT"}[e.Done], e.Title(), web.Clean(e.Observed), e.Millis)
		}
	}
	if c := s.Crossing; c != nil {
		low, high := c.Bounds()
		row("\n%s over the last minute, from %s to %s, then %s", c.Title(), c.In(low), c.In(high), c.In(c.Last()))
		row("  %s", c.Spark())
	}
	if s.Unalarmed > 0 {
		row("\n%d more crossings since the report before made no alarm of their own", s.Unalarmed)
	}
	if len(s.Results) > 0 {
		row("\ncomparison, as the device says")
		// What deviates first; what passes is many.
		for _, verdict := range []appraise.Verdict{appraise.Deviates, appraise.NotAppraised, appraise.AbsentHere, appraise.Passes} {
			for _, x := range s.Results {
				if x.Verdict == verdict.String() {
					row("  %s\t%s", x.Verdict, x.words())
				}
			}
		}
	}
	row("\nfacts, from %v to %v after boot", time.Duration(s.Begin)*time.Millisecond, time.Duration(s.End)*time.Millisecond)
	for _, f := range s.Facts {
		row("  %s\t%s", web.Clean(f.Name), f.words())
	}
	if s.Same != nil {
		row("\nas in report %d, and not moved", s.Same.Report)
		row("  %s", web.Clean(strings.Join(s.Same.Facts, ", ")))
	}
	if i := s.Inventory; i != nil {
		row("\ninventory")
		for _, x := range [][2]string{{"vendor", i.Vendor}, {"model", i.Model}, {"serial", i.Serial}, {"firmware", i.Firmware}, {"services", strings.Join(i.Services, ", ")}, {"crypto", strings.Join(i.Crypto, ", ")}} {
			if x[1] != "" {
				row("  %s\t%s", x[0], web.Clean(x[1]))
			}
		}
	}
	if len(s.Notes) > 0 {
		row("\nthe device says")
		for _, n := range s.Notes {
			row("  %s", web.Clean(n))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if _, err := io.WriteString(out, b.String()); err != nil {
		return ioFailure(err)
	}
	return nil
}

func (x *shownResult) words() string {
	if x.Text != "" {
		return web.Clean(x.Text)
	}
	text := fmt.Sprintf("%s rule %d", x.Stage, x.Rule)
	if x.Lasted > 0 {
		text += fmt.Sprintf(", outside for %.1f s", float64(x.Lasted)/1000)
	}
	return text
}

func (f *shownFolded) words() string {
	if f.Status != facts.OK.String() {
		if f.Reason == "" {
			return f.Status
		}
		return f.Status + ": " + web.Clean(f.Reason)
	}
	text := appraise.Show(f.def, f.raw)
	if f.Min != nil {
		text += fmt.Sprintf(" (%d to %d)", *f.Min, *f.Max)
	}
	return web.Clean(text)
}
