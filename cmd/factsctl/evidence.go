package main

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/miotfacts/miotfacts/attest/eventlog"
	"github.com/miotfacts/miotfacts/attest/ima"
	"github.com/spf13/cobra"
)

const evidenceHelp = `FILE is a log of any origin, "-" for standard input:

  - the TCG event log of the firmware, binary, SHA-1 or crypto-agile
    (/sys/kernel/security/tpm0/binary_bios_measurements)
  - the Canonical Event Log in JSON, CBOR or TLV, and systemd's own log
    (/run/log/systemd/tpm2-measure.log)
  - the log of a confidential machine, with registers in place of PCRs
    (/sys/firmware/acpi/tables/data/CCEL)
  - the list of Linux IMA, binary or text
    (/sys/kernel/security/ima/binary_runtime_measurements)

It may be compressed by gzip or bzip2. A log that cannot be read whole is refused with exit code 1.`

const evidenceHint = "FILE must be a whole TCG event log, CEL in JSON, CBOR or TLV, systemd's tpm2-measure.log, or an IMA list"

func newEvidenceCommand() *cobra.Command {
	return newGroup("evidence", "Verify, replay and explain boot evidence",
		`Reads the logs that a boot leaves and computes or says in words what they claim.
A log is a claim: it proves something only where its replay equals PCR values
out of a verified quote.

`+evidenceHelp,
		newEvidenceVerifyCommand(), newEvidenceReplayCommand(), newEvidenceExplainCommand(), newEvidenceShowCommand())
}

// An evidence is one log; one of the two is set.
type evidence struct {
	log  *eventlog.Log
	list *ima.List
}

func parseEvidence(data []byte) (evidence, error) {
	if ima.Detect(data) {
		list, err := ima.Parse(data)
		return evidence{list: list}, err
	}
	log, err := eventlog.Parse(data)
	return evidence{log: log}, err
}

// readLog reads a log, compressed or not.
func readLog(c *cobra.Command, name string) ([]byte, error) {
	data, err := read(c, name, ima.MaxSize)
	if err != nil {
		return nil, err
	}
	var unpacked io.Reader
	switch has := func(magic string) bool { return bytes.HasPrefix(data, []byte(magic)) }; {
	case has("\x1f\x8b\x08"):
		unpacked, err = gzip.NewReader(bytes.NewReader(data))
	case has("BZh"):
		unpacked = bzip2.NewReader(bytes.NewReader(data))
	case has("\xfd7zXZ\x00"):
		return nil, fail(exitRefused, "unxz it first", "%s is compressed by xz", name)
	case has("\x28\xb5\x2f\xfd"):
		return nil, fail(exitRefused, "unzstd it first", "%s is compressed by zstd", name)
	default:
		return data, nil
	}
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(unpacked, ima.MaxSize+1))
	}
	if err != nil {
		return nil, fail(exitRefused, "give a whole file", "%s: cannot unpack log: %w", name, err)
	}
	return data, nil
}

func readEvidence(c *cobra.Command, name string) (evidence, error) {
	data, err := readLog(c, name)
	if err != nil {
		return evidence{}, err
	}
	e, err := parseEvidence(data)
	if err != nil {
		return evidence{}, fail(exitRefused, evidenceHint, "%s: %w", name, err)
	}
	return e, nil
}

// An evidenceError is what --json prints for a log that is refused, so that
// nobody takes an empty answer for a good one.
type evidenceError struct {
	Error string `json:"error"`
}

// evidenceRun calls run and, with --json, repeats its error as JSON.
func evidenceRun(asJSON *bool, run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		err := run(c, args)
		if _, answered := errors.AsType[*refusedAnswer](err); err != nil && *asJSON && !answered {
			if err := printJSON(c.OutOrStdout(), evidenceError{err.Error()}); err != nil {
				return err
			}
		}
		return err
	}
}

// hexPCRs is a replay by bank and PCR.
type hexPCRs map[string]map[string]string

func (h hexPCRs) set(bank string, pcr int, value []byte) {
	if h[bank] == nil {
		h[bank] = map[string]string{}
	}
	h[bank][strconv.Itoa(pcr)] = hex.EncodeToString(value)
}

func (h hexPCRs) print(w io.Writer) {
	for _, bank := range slices.Sorted(maps.Keys(h)) {
		fmt.Fprintf(w, "%s\n", bank)
		pcrs := slices.SortedFunc(maps.Keys(h[bank]), func(a, b string) int {
			if len(a) != len(b) {
				return len(a) - len(b)
			}
			return slices.Compare([]byte(a), []byte(b))
		})
		for _, pcr := range pcrs {
			fmt.Fprintf(w, "  %-2s %s\n", pcr, h[bank][pcr])
		}
	}
}

// A logReplay is the replay of an event log as --json prints it.
type logReplay struct {
	Format       string   `json:"format"`                 // "tcg1", "tcg2", "cel" or "systemd"
	Events       int      `json:"events"`                 // records, those that extend nothing included
	PCRs         hexPCRs  `json:"pcrs"`                   // by bank and PCR; only PCRs that the log extends
	Unreplayed   []string `json:"unreplayed,omitempty"`   // banks in the log whose hash factsctl does not have
	Gaps         []string `json:"gaps,omitempty"`         // banks in which some events have no digest
	Contradicted []int    `json:"contradicted,omitempty"` // events, from 0, whose data must hash to their digest and do not
	Padding      int      `json:"padding,omitempty"`      // unused bytes after the last event
}

func newLogReplay(l *eventlog.Log) logReplay {
	r := logReplay{Format: string(l.Format), Events: len(l.Events), PCRs: hexPCRs{}, Padding: l.Padding}
	for bank, pcrs := range l.Replay() {
		r.PCRs[bank.String()] = map[string]string{}
		for pcr, value := range pcrs {
			r.PCRs.set(bank.String(), pcr, value)
		}
	}
	for _, b := range l.Banks {
		if !b.Replayable() {
			r.Unreplayed = append(r.Unreplayed, b.String())
		}
	}
	for _, b := range l.Gaps() {
		r.Gaps = append(r.Gaps, b.String())
	}
	for i := range l.Events {
		if slices.ContainsFunc(l.Banks, func(b eventlog.Bank) bool { return l.Events[i].Proof(b) == eventlog.Contradicted }) {
			r.Contradicted = append(r.Contradicted, i)
		}
	}
	return r
}

// A listReplay is the replay of an IMA list as --json prints it.
type listReplay struct {
	Format        string         `json:"format"` // "ima"
	Entries       int            `json:"entries"`
	Violations    int            `json:"violations"`
	Templates     map[string]int `json:"templates"`      // entries of each
	PCRs          hexPCRs        `json:"pcrs"`           // as Linux from 5.8 extends: each bank's own hash
	Padded        hexPCRs        `json:"pcrs_padded"`    // as earlier ones do: SHA-1, filled up with zeros
	BootAggregate *string        `json:"boot_aggregate"` // "sha256:..."; null when the first entry is another
}

func newListReplay(l *ima.List) listReplay {
	state := l.Replay(ima.State{})
	r := listReplay{Format: "ima", Entries: len(l.Entries), Violations: l.Violations(), Templates: map[string]int{}, PCRs: hexPCRs{}, Padded: hexPCRs{}}
	for _, e := range l.Entries {
		r.Templates[e.Template]++
	}
	for _, bank := range ima.Banks() {
		for _, pcr := range state.PCRs() {
			r.PCRs.set(bank.String(), pcr, state.PCR(pcr, bank, ima.Hashed))
			r.Padded.set(bank.String(), pcr, state.PCR(pcr, bank, ima.Padded))
		}
	}
	if f, ok := l.BootAggregate(); ok {
		text := fmt.Sprintf("%s:%x", f.Hash, f.Digest)
		r.BootAggregate = &text
	}
	return r
}

func newEvidenceReplayCommand() *cobra.Command {
	var asJSON bool
	var after string
	c := &cobra.Command{
		Use:   "replay FILE",
		Short: "Compute the PCR values that a log leads to",
		Long: `Computes the value of each PCR that the log extends, in each bank.

` + evidenceHelp,
		Example: `  factsctl evidence replay /sys/kernel/security/tpm0/binary_bios_measurements
  factsctl evidence replay tpm2-measure.log --after binary_bios_measurements
  factsctl evidence replay binary_runtime_measurements --json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: format, counts, and PCRs by bank")
	c.Flags().StringVar(&after, "after", "", "`file` with the event log that this one goes on from: systemd's after the firmware's")
	c.RunE = evidenceRun(&asJSON, func(c *cobra.Command, args []string) error {
		e, err := readEvidence(c, args[0])
		if err != nil {
			return err
		}
		if after != "" {
			earlier, err := readEventLog(c, after)
			if err != nil {
				return err
			}
			if e.log == nil {
				return fail(exitUsage, "IMA lists go on from nothing", "%s is an IMA list", args[0])
			}
			e.log = e.log.After(earlier)
		}
		out := c.OutOrStdout()
		if e.list != nil {
			r := newListReplay(e.list)
			if asJSON {
				return printJSON(out, r)
			}
			r.PCRs.print(out)
			if r.Violations > 0 {
				note(c, "note: %d of %d entries are violations", r.Violations, r.Entries)
			}
			return nil
		}
		r := newLogReplay(e.log)
		if len(r.PCRs) == 0 {
			return fail(exitRefused, "", "%s: cannot replay: no hash here for its banks %s", args[0], strings.Join(r.Unreplayed, ", "))
		}
		if asJSON {
			return printJSON(out, r)
		}
		r.PCRs.print(out)
		for _, bank := range r.Unreplayed {
			note(c, "note: bank %s is in the log and was not replayed", bank)
		}
		for _, bank := range r.Gaps {
			note(c, "note: bank %s is missing in some events", bank)
		}
		for _, i := range r.Contradicted {
			note(c, "note: the data of event %d do not hash to its digest", i)
		}
		return nil
	})
	return c
}

func readEventLog(c *cobra.Command, name string) (*eventlog.Log, error) {
	e, err := readEvidence(c, name)
	if err == nil && e.log == nil {
		err = fail(exitUsage, "give the firmware's event log", "%s is an IMA list", name)
	}
	return e.log, err
}

// A shownLine is a line of an explanation as --json prints it.
type shownLine struct {
	PCR   int    `json:"pcr"`
	Text  string `json:"text"`
	Proof string `json:"proof"` // "proved", "not covered", "contradicted" or "not extended"
}

// An explanation is what evidence explain --json prints.
type explanation struct {
	Format  string      `json:"format"`
	Lines   []shownLine `json:"lines"`
	Changes []shownLine `json:"changes"` // against the reference; null without one
}

func newEvidenceExplainCommand() *cobra.Command {
	var asJSON bool
	var against string
	var claims []string
	c := &cobra.Command{
		Use:   "explain FILE",
		Short: "Say in words what a log claims was booted",
		Long: `Says in words what a log claims was booted, each line with its PCR, and with
--against how that differs from another boot. Where an event's digest does not
cover its words, the line says so.

A log often has only a digest of the kernel command line. With --claim, a text
that hashes to it gives the event its words.

` + evidenceHelp,
		Example: `  factsctl evidence explain binary_bios_measurements --claim "$(cat /proc/cmdline)"
  factsctl evidence explain today.bin --against reference.bin`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: lines with PCR, text and proof")
	c.Flags().StringVar(&against, "against", "", "`file` with the event log of the boot to compare with")
	c.Flags().StringArrayVar(&claims, "claim", nil, "a `text` that may have been measured; can be repeated")
	c.RunE = evidenceRun(&asJSON, func(c *cobra.Command, args []string) error {
		e, err := readEvidence(c, args[0])
		if err != nil {
			return err
		}
		var x explanation
		if e.list != nil {
			if against != "" {
				return fail(exitUsage, "IMA lists are compared entry by entry: see factsctl evidence show", "%s is an IMA list", args[0])
			}
			x = explanation{Format: "ima", Lines: explainList(e.list)}
		} else {
			x.Format = string(e.log.Format)
			x.Lines = []shownLine{}
			for _, l := range e.log.Explain(claims...) {
				x.Lines = append(x.Lines, shownLine{l.PCR, l.String(), l.Proof.String()})
			}
		}
		if against != "" {
			reference, err := readEventLog(c, against)
			if err != nil {
				return err
			}
			changes, err := eventlog.Difference(reference, e.log, claims...)
			if err != nil {
				return fail(exitRefused, "record both boots with the same banks", "%w", err)
			}
			x.Changes = []shownLine{}
			for _, change := range changes {
				x.Changes = append(x.Changes, shownLine{change.PCR, change.String(), eventlog.Proved.String()})
			}
		}
		out := c.OutOrStdout()
		switch {
		case asJSON:
			return printJSON(out, x)
		case against == "":
			for _, l := range x.Lines {
				fmt.Fprintln(out, l.Text)
			}
		case len(x.Changes) == 0:
			fmt.Fprintln(out, "no difference")
		default:
			for _, l := range x.Changes {
				fmt.Fprintln(out, l.Text)
			}
		}
		return nil
	})
	return c
}

func explainList(l *ima.List) []shownLine {
	lines := []shownLine{}
	add := func(pcr int, proof eventlog.Proof, format string, args ...any) {
		lines = append(lines, shownLine{pcr, fmt.Sprintf("PCR %d: ", pcr) + fmt.Sprintf(format, args...), proof.String()})
	}
	for i := range l.Entries {
		e := &l.Entries[i]
		f, err := e.File()
		switch {
		case e.Violation:
			add(e.PCR, eventlog.NotCovered, "violation at %q: written while it was measured, its content is unknown", f.Name)
		case err != nil:
			add(e.PCR, eventlog.Proved, "%s with %d bytes of template data", e.Template, len(e.Data))
		case f.Name == "boot_aggregate" && isZero(f.Digest):
			add(e.PCR, eventlog.Proved, "boot_aggregate is zero: IMA found no TPM when it started, and extends nothing")
		case f.Name == "boot_aggregate":
			add(e.PCR, eventlog.Proved, "boot_aggregate %s:%x over the firmware's PCRs", f.Hash, f.Digest)
		default:
			add(e.PCR, eventlog.Proved, "%q %s:%x", f.Name, f.Hash, f.Digest)
		}
	}
	return lines
}

func isZero(b []byte) bool {
	return !slices.ContainsFunc(b, func(x byte) bool { return x != 0 })
}

// A shownEvent is a record as --json prints it.
type shownEvent struct {
	Number  int               `json:"number"`
	PCR     int               `json:"pcr"` // -1: none
	Type    string            `json:"type"`
	Digests map[string]string `json:"digests"`
	Data    string            `json:"data"` // hexadecimal
}

// A shownLog is what evidence show --json prints.
type shownLog struct {
	Records []shownEvent `json:"records"`
	Error   string       `json:"error,omitempty"` // what stands behind the records
}

func newEvidenceShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "List the records of a log",
		Long: `Lists the records of a log as they are. Of a damaged log, it lists what stands
before the damage, says what is wrong, and ends with exit code 1.

` + evidenceHelp,
		Example: `  factsctl evidence show binary_bios_measurements
  factsctl evidence show binary_runtime_measurements --json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: records with digests and data")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := readLog(c, args[0])
		if err != nil {
			return err
		}
		shown, fault := showEvidence(data)
		out := c.OutOrStdout()
		if asJSON {
			if fault != nil {
				shown.Error = fault.Error()
			}
			if err := printJSON(out, shown); err != nil {
				return err
			}
		} else {
			w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "number\tPCR\ttype\tbytes\tdigests")
			for _, e := range shown.Records {
				pcr := strconv.Itoa(e.PCR)
				if e.PCR == eventlog.NoPCR {
					pcr = "-"
				}
				fmt.Fprintf(w, "%d\t%s\t%s\t%d\t", e.Number, pcr, e.Type, len(e.Data)/2)
				for _, bank := range slices.Sorted(maps.Keys(e.Digests)) {
					fmt.Fprintf(w, "%s:%s ", bank, e.Digests[bank])
				}
				fmt.Fprintln(w)
			}
			if err := w.Flush(); err != nil {
				return ioFailure(err)
			}
		}
		if fault != nil {
			return fail(exitRefused, evidenceHint, "%s: cannot read log after %d records: %w", args[0], len(shown.Records), fault)
		}
		return nil
	}
	return c
}

func showEvidence(data []byte) (shownLog, error) {
	shown := shownLog{Records: []shownEvent{}}
	if ima.Detect(data) {
		list := ima.ParsePartial(data)
		for i, e := range list.Entries {
			shown.Records = append(shown.Records, shownEvent{i, e.PCR, e.Template, map[string]string{"template": hex.EncodeToString(e.Digest)}, hex.EncodeToString(e.Data)})
		}
		return shown, list.Fault
	}
	log := eventlog.ParsePartial(data)
	for i, e := range log.Events {
		digests := map[string]string{}
		for _, d := range e.Digests {
			digests[d.Bank.String()] = hex.EncodeToString(d.Value)
		}
		kind := e.Type.String()
		if e.Kind != "" {
			kind = fmt.Sprintf("%.60q", e.Kind)
		}
		shown.Records = append(shown.Records, shownEvent{i, e.PCR, kind, digests, hex.EncodeToString(e.Data)})
	}
	return shown, log.Fault
}
