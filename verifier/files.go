package verifier

import (
	"bytes"
	"fmt"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/eventlog"
	"github.com/miotfacts/miotfacts/attest/ima"
	"github.com/miotfacts/miotfacts/reference"
)

// maxFileFindings bounds what is told of one boot's files; the others are counted.
const maxFileFindings = 40

// policyOf returns what a manifest says of files, nil when it says nothing.
// attachments are the lists that the verifier was given.
func policyOf(ref *reference.Reference, attachments [][]byte) (*ima.Policy, error) {
	m := ref.Manifest()
	f := m.Files
	if f == nil {
		return nil, nil
	}
	p := ima.NewPolicy()
	allow := f.Allow
	if len(f.Attachment) > 0 {
		var more []reference.File
		err := fmt.Errorf("list %x, which the manifest names, is not configured", f.Attachment)
		for _, data := range attachments {
			if more, err = f.OpenFiles(data); err == nil {
				break
			}
		}
		if err != nil {
			return nil, fmt.Errorf("cannot appraise files of %s %s by manifest %d: %w", m.Vendor, m.Model, m.Sequence, err)
		}
		allow = append(allow[:len(allow):len(allow)], more...)
	}
	for _, x := range allow {
		if err := p.Allow(x.Name, x.Digest); err != nil {
			return nil, err
		}
	}
	for _, s := range f.Signers {
		if err := p.Sign(s); err != nil {
			return nil, fmt.Errorf("manifest %d of %s %s: %w", m.Sequence, m.Vendor, m.Model, err)
		}
	}
	for _, x := range f.Exclude {
		p.Exclude(x)
	}
	return p, nil
}

// files appraises what is new in the IMA list and proved by the newest quote.
// What was appraised stays so until the manifest changes.
func (j *judge) files(l *logs, boot *Boot, p *ima.Policy, tell map[attest.Log]bool) error {
	if p == nil {
		boot.Files = nil
		if s := boot.log(attest.LogIMA); s.Bytes > 0 {
			boot.Files = &Files{Found: []Finding{{Code: ReasonNotAppraised, Text: "the files that IMA measured are not appraised: the manifest says nothing of files"}}}
		}
		return nil
	}
	digest := j.ref.Digest()
	f := boot.Files
	if f == nil || !bytes.Equal(f.Manifest, digest[:]) {
		f = &Files{Manifest: digest[:]}
		boot.Files = f
	}
	if boot.log(attest.LogIMA).Again && boot.waits(attest.LogIMA) != "" {
		return nil // what was found stands until the list is here again
	}
	found := j.found
	j.found = nil
	proved, err := j.provedFiles(l, boot, f, p)
	f.Open, j.found = j.found, found
	if err != nil {
		return err
	}
	if !proved {
		l.reset(j, boot, attest.LogIMA, tell)
		if boot.log(attest.LogIMA).Bytes == 0 {
			f.Offset, f.Replay, f.Found, f.Told, f.Allowed, f.Signed, f.Excluded, f.Violations = 0, nil, nil, 0, 0, 0, 0, 0
		}
	}
	return nil
}

// provedFiles judges the entries that the quoted PCR proves. It reports false for
// a list that leads nowhere.
func (j *judge) provedFiles(l *logs, boot *Boot, f *Files, p *ima.Policy) (bool, error) {
	pcrs := boot.pcrs()
	value, quoted := pcrs[ima.PCR]
	if !quoted {
		j.find(ReasonFileList, TierWarning, "files not appraised: the newest quote does not cover PCR %d", ima.PCR)
		return true, nil
	}
	s := boot.log(attest.LogIMA)
	if s.Gap != nil || s.Bytes == 0 {
		j.find(ReasonFileList, TierWarning, "files not appraised: %s", boot.waits(attest.LogIMA))
		return true, nil
	}
	data, err := l.bytes(attest.LogIMA, f.Offset)
	if err != nil {
		return false, err
	}
	list, err := ima.ParseNext(data)
	if err != nil {
		j.find(ReasonFileList, TierContraindicated, "the IMA list cannot be read: %v", err)
		return false, nil
	}
	var state ima.State
	if f.Replay != nil {
		if err := state.UnmarshalBinary(f.Replay); err != nil {
			return false, err
		}
	}
	if isZero(value) && state.Entries == 0 {
		return true, j.bypass(list)
	}
	prefix, err := list.Prefix(state, ima.SHA256, value)
	if err != nil && s.More {
		j.find(ReasonFileList, TierWarning, "files not appraised: %s", boot.waits(attest.LogIMA))
		return true, nil
	}
	if err != nil {
		j.find(ReasonFileList, TierContraindicated, "the IMA list does not lead to the quoted PCR: %v", err)
		return false, nil
	}
	early, err := early(l, boot, pcrs)
	if err != nil {
		return false, err
	}
	for i := range list.Entries[:prefix.Entries] {
		j.file(f, p, &list.Entries[i], state.Entries+i, pcrs, early)
		f.Offset += uint64(list.Entries[i].Size)
	}
	f.Replay, err = prefix.State.MarshalBinary()
	f.sum(j.ref.Manifest().Files.Violations)
	return true, err
}

// bypass is about a list that is not in the PCR at all.
func (j *judge) bypass(list *ima.List) error {
	if a, ok := list.BootAggregate(); ok && a.IsZero() {
		j.find(ReasonFileTPM, TierWarning, "files not appraised: IMA found no TPM when it started (TPM-bypass), so nothing proves its list")
		return nil
	}
	j.find(ReasonFileTPM, TierContraindicated, "PCR %d was never extended, and the IMA list says that it was", ima.PCR)
	return nil
}

func isZero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

func (f *Files) find(code Reason, tier Tier, format string, args ...any) {
	if len(f.Found) >= maxFileFindings {
		f.Told++
		return
	}
	f.Found = append(f.Found, Finding{Code: code, Tier: tier, Text: attest.Clip(fmt.Sprintf(format, args...), maxFinding)})
}

// file judges one entry, the nth of the boot from 0.
func (j *judge) file(f *Files, p *ima.Policy, e *ima.Entry, n int, pcrs, early map[int][]byte) {
	verdict, text := p.Look(e)
	if n == 0 && verdict != ima.Kernel {
		f.find(ReasonFileList, TierContraindicated, "the IMA list does not begin with boot_aggregate, but with: %s", text)
	}
	switch verdict {
	case ima.Allowed:
		f.Allowed++
	case ima.Signed:
		f.Signed++
	case ima.Excluded:
		f.Excluded++
	case ima.Violated:
		f.Violations++
		if f.Violations > uint64(j.ref.Manifest().Files.Violations) {
			f.find(ReasonFileViolation, TierWarning, "%s", text)
		}
	case ima.Kernel:
		aggregate(f, e, pcrs, early)
	default:
		f.find(ReasonFile, TierContraindicated, "%s", text)
	}
}

// early returns the quoted PCRs as they were when the kernel started, which is when
// IMA takes boot_aggregate: userspace extends some of them later. It is nil where
// userspace's log shows no such thing, or the logs are not proved.
func early(l *logs, boot *Boot, pcrs map[int][]byte) (map[int][]byte, error) {
	if boot.Judged == nil || boot.log(attest.LogUserspace).Bytes == 0 {
		return nil, nil
	}
	data, err := l.bytes(attest.LogFirmware, 0)
	if err != nil {
		return nil, err
	}
	log, err := eventlog.Parse(data)
	if err != nil {
		return nil, nil // told elsewhere
	}
	replay := log.Replay()[eventlog.SHA256]
	out := map[int][]byte{}
	for pcr := range pcrs {
		if out[pcr] = replay[pcr]; out[pcr] == nil {
			out[pcr] = make([]byte, 32)
		}
	}
	return out, nil
}

// aggregate compares boot_aggregate with the quoted PCRs, or with what they were
// before userspace extended them: a list of another boot has another one.
func aggregate(f *Files, e *ima.Entry, pcrs, early map[int][]byte) {
	a, err := e.File()
	if err != nil {
		f.find(ReasonFileList, TierContraindicated, "boot_aggregate cannot be read: %v", err)
		return
	}
	want, err := ima.Aggregate(ima.SHA256, pcrs)
	switch {
	case a.Hash != "sha256":
		f.find(ReasonNotAppraised, TierNone, "boot_aggregate is not compared: it is %s over another bank than the quoted SHA-256", a.Hash)
	case err != nil:
		f.find(ReasonNotAppraised, TierNone, "boot_aggregate is not compared: the quote does not cover PCR 0 to 9")
	case bytes.Equal(a.Digest, want):
	default:
		if then, err := ima.Aggregate(ima.SHA256, early); err == nil && bytes.Equal(a.Digest, then) {
			return
		}
		f.find(ReasonFileList, TierContraindicated, "boot_aggregate is %x, the quoted PCR 0 to 9 give %x: the IMA list is of another boot", a.Digest, want)
	}
}

// sum says what was not looked at.
func (f *Files) sum(tolerated uint32) {
	f.Summary = nil
	add := func(code Reason, tier Tier, format string, args ...any) {
		f.Summary = append(f.Summary, Finding{Code: code, Tier: tier, Text: fmt.Sprintf(format, args...)})
	}
	if f.Excluded > 0 {
		add(ReasonNotAppraised, TierNone, "%d files are not appraised: the manifest leaves their names out", f.Excluded)
	}
	if n := min(f.Violations, uint64(tolerated)); n > 0 {
		add(ReasonNotAppraised, TierNone, "%d violations of IMA are not told: the manifest tolerates %d", n, tolerated)
	}
	if f.Told > 0 {
		add(ReasonMore, TierContraindicated, "and %d more files", f.Told)
	}
}
