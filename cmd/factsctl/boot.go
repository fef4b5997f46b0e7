package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/attest/eventlog"
	"github.com/miotfacts/miotfacts/attest/ima"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
)

func newBootCommand() *cobra.Command {
	return newGroup("boot", "Make references of boots, and compare boots with them",
		`Works with the logs that a boot leaves, on the device itself or as files: event log of
the firmware, systemd's log, IMA list, kernel command line.

References by events survive updates: each version of a part that is replaced as a
whole is a reference, and both slots of an A/B pair are.`,
		newBootRecordCommand(), newBootPredictCommand(), newBootDiffCommand())
}

// bootFiles are where the logs of a boot are read. What was not named and is not
// there is left out.
type bootFiles struct {
	firmware, userspace, cmdline, pcrs string
	named                              func(flag string) bool
}

func (b *bootFiles) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&b.firmware, "firmware", "/sys/kernel/security/tpm0/binary_bios_measurements", "event log of the firmware, `file`")
	f.StringVar(&b.userspace, "userspace", "/run/log/systemd/tpm2-measure.log", "event log of systemd, `file`; left out where there is none")
	f.StringVar(&b.cmdline, "cmdline", "/proc/cmdline", "kernel command line, `file`: gives the events their words")
	f.StringVar(&b.pcrs, "pcr-values", "/sys/class/tpm/tpm0/pcr-sha256", "`directory` with the TPM's PCR values, one file each, or a file with lines \"number value\"; left out where there is none")
	b.named = func(flag string) bool { return c.Flags().Changed(flag) }
}

// optional reads a file that need not be there unless it was named.
func (b *bootFiles) optional(c *cobra.Command, flag, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	data, err := read(c, name, ima.MaxSize)
	if errors.Is(err, fs.ErrNotExist) && !b.named(flag) {
		return nil, nil
	}
	return data, err
}

// A boot is what the files say.
type boot struct {
	verified *eventlog.Verified
	compared bool // with the TPM's own values
	cmdline  string
}

// read reads the logs and compares them with the TPM, where its values are to be
// had. PCRs that the log does not explain are left out and told.
func (b *bootFiles) read(c *cobra.Command) (*boot, error) {
	// A file that was named without the rest is of another machine.
	foreign := b.named("firmware")
	log, err := readEventLog(c, b.firmware)
	if err != nil {
		return nil, err
	}
	if !foreign || b.named("userspace") {
		data, err := b.optional(c, "userspace", b.userspace)
		if err != nil {
			return nil, err
		}
		if data != nil {
			after, err := eventlog.Parse(data)
			if err != nil {
				return nil, fail(exitRefused, evidenceHint, "%s: %w", b.userspace, err)
			}
			log = after.After(log)
		}
	}
	out := new(boot)
	if !foreign || b.named("cmdline") {
		data, err := b.optional(c, "cmdline", b.cmdline)
		if err != nil {
			return nil, err
		}
		out.cmdline = strings.TrimSpace(string(data))
	}
	values := map[int][]byte{}
	if !foreign || b.named("pcr-values") {
		if values, err = b.values(c); err != nil {
			return nil, err
		}
	}
	delete(values, ima.PCR)
	if out.compared = len(values) > 0; !out.compared {
		note(c, "note: the log was not compared with a TPM: what it says is taken on trust")
		values = log.Replay()[eventlog.SHA256]
	}
	if out.verified, err = log.Verify(eventlog.SHA256, values); err != nil {
		return nil, fail(exitRefused, "the bank SHA-256 must be active in the firmware", "%s: %w", b.firmware, err)
	}
	why := out.verified.Unexplained()
	for _, pcr := range slices.Sorted(maps.Keys(why)) {
		note(c, "note: PCR %d is left out, the log does not explain it: %s", pcr, why[pcr])
	}
	return out, nil
}

// values reads PCR values.
func (b *bootFiles) values(c *cobra.Command) (map[int][]byte, error) {
	values := map[int][]byte{}
	info, err := os.Stat(b.pcrs)
	if errors.Is(err, fs.ErrNotExist) && !b.named("pcr-values") {
		return values, nil
	}
	if err != nil {
		return nil, ioFailure(err)
	}
	add := func(number, value string) error {
		pcr, err := strconv.Atoi(number)
		digest, err2 := hex.DecodeString(strings.ToLower(strings.TrimSpace(value)))
		if err != nil || err2 != nil || pcr < 0 || pcr > 23 || len(digest) != 32 {
			return fail(exitUsage, "values of the bank SHA-256, 64 hexadecimal digits each", "%s: %.20q %.80q is no PCR", b.pcrs, number, value)
		}
		values[pcr] = digest
		return nil
	}
	if !info.IsDir() {
		data, err := read(c, b.pcrs, 64<<10)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			number, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			if err := add(number, value); err != nil {
				return nil, err
			}
		}
		return values, nil
	}
	for pcr := range 24 {
		data, err := os.ReadFile(filepath.Join(b.pcrs, strconv.Itoa(pcr)))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, ioFailure(err)
		}
		if err := add(strconv.Itoa(pcr), string(data)); err != nil {
			return nil, err
		}
	}
	return values, nil
}

// stablePCRs are those that are the same on sound devices of one model: 1, 5 and 6
// have serial numbers and disks in them.
var stablePCRs = []int{0, 2, 3, 4, 7, 8, 9, 11, 12, 13, 14}

func newBootRecordCommand() *cobra.Command {
	var files bootFiles
	var name, firmwareName, list, out string
	var pcrs []int
	c := &cobra.Command{
		Use:   "record",
		Short: "Write the present boot as references for a manifest",
		Long: `Reads the logs of this machine's boot, or of files, and writes them as the part of a
manifest in TOML that accepts such a boot: boot, [[boot_group]] firmware and system
and, with --ima, [files].

Run it on a device that boots as it should, and again after an update with another
--name: then add the new [[boot_group.version]] beside the old one. Look at what it
wrote before you sign it: whatever was measured is accepted.`,
		Example: `  factsctl boot record --name 1.2.0 > boot.toml
  factsctl boot record --name 1.2.0 --ima --pcrs 0,1,2,3,4,5,6,7,8,9
  factsctl boot record --name 1.2.0 --firmware bios.bin --cmdline cmdline.txt \
    --pcr-values pcrs.txt`,
		Args: cobra.NoArgs,
	}
	files.flags(c)
	f := c.Flags()
	f.StringVar(&name, "name", "", "`name` of this version of the system: \"1.2.0\", \"slot A\"")
	f.StringVar(&firmwareName, "firmware-name", "1", "`name` of this version of the firmware")
	f.StringVar(&list, "ima", "", "write [files] from this IMA list; without a `file` from the kernel's")
	f.Lookup("ima").NoOptDefVal = "/sys/kernel/security/ima/binary_runtime_measurements"
	f.IntSliceVar(&pcrs, "pcrs", nil, "`numbers` of the PCRs; by default those that are alike on all devices of a model, as far as the log has them")
	f.StringVar(&out, "out", "", "`file` to write to, instead of standard output")
	required(c, "name")
	c.RunE = func(c *cobra.Command, _ []string) error {
		b, err := files.read(c)
		if err != nil {
			return err
		}
		if pcrs == nil {
			pcrs = stablePCRs
		}
		explained := b.verified.Explained()
		events := b.verified.Record(func(pcr int) bool { return slices.Contains(pcrs, pcr) }, b.cmdline)
		var quoted []int
		for _, pcr := range slices.Compact(slices.Sorted(slices.Values(pcrs))) {
			if slices.ContainsFunc(events, func(e eventlog.Expected) bool { return e.PCR == pcr }) || c.Flags().Changed("pcrs") && slices.Contains(explained, pcr) {
				quoted = append(quoted, pcr)
			}
		}
		if len(events) == 0 {
			return fail(exitRefused, "choose other --pcrs", "the log has nothing for PCRs %v", pcrs)
		}
		m := &reference.Manifest{BootEvents: groupsOf(events, firmwareName, name)}
		if list != "" {
			if m.Files, err = filesOf(c, list); err != nil {
				return err
			}
			quoted = append(quoted, ima.PCR)
			slices.Sort(quoted)
		}
		text := fmt.Sprintf("# Recorded by factsctl boot record%s. Look at it before you sign it.\nboot = { pcrs = %s }\n",
			map[bool]string{true: ", compared with the TPM", false: ", not compared with a TPM"}[b.compared], strings.ReplaceAll(fmt.Sprint(quoted), " ", ", "))
		return write(c, out, append([]byte(text), reference.FormatBoot(m.BootEvents, m.Files)...))
	}
	return c
}

// groupsOf divides events by what is replaced as a whole.
func groupsOf(events []eventlog.Expected, firmware, system string) []reference.BootGroup {
	groups := []reference.BootGroup{
		{Name: "firmware", Versions: []reference.BootVersion{{Name: firmware}}},
		{Name: "system", Versions: []reference.BootVersion{{Name: system}}},
	}
	for _, e := range events {
		g := &groups[0]
		if e.Component >= eventlog.Loader {
			g = &groups[1]
		}
		g.Versions[0].Events = append(g.Versions[0].Events, reference.BootEvent{
			PCR: uint8(e.PCR), What: reference.BootComponent(e.Component), Digest: e.Digest, Subject: clip(e.Subject, reference.MaxName),
			Value: clip(e.Value, reference.MaxBootText), Optional: e.Optional,
		})
	}
	return slices.DeleteFunc(groups, func(g reference.BootGroup) bool { return len(g.Versions[0].Events) == 0 })
}

// clip shortens what only people read.
func clip(text string, n int) string {
	for len(text) > n {
		r := []rune(text)
		text = string(r[:len(r)-1])
	}
	return text
}

// filesOf allows the files of an IMA list, each once, by name.
func filesOf(c *cobra.Command, name string) (*reference.Files, error) {
	data, err := read(c, name, ima.MaxSize)
	if err != nil {
		return nil, err
	}
	list, err := ima.Parse(data)
	if err != nil {
		return nil, fail(exitRefused, evidenceHint, "%s: %w", name, err)
	}
	f := new(reference.Files)
	weak, violations := 0, 0
	for i := range list.Entries {
		e := &list.Entries[i]
		file, err := e.File()
		switch {
		case e.Violation:
			violations++
		case err != nil:
			return nil, fail(exitRefused, "leave --ima out, or have a template that Linux names", "%s: entry %d: %w", name, i, err)
		case file.Name == "boot_aggregate":
		case file.Hash != "sha256" && file.Hash != "sha384" && file.Hash != "sha512":
			weak++
		default:
			f.Allow = append(f.Allow, reference.File{Name: clip(file.Name, 255), Digest: file.Digest})
		}
	}
	slices.SortStableFunc(f.Allow, func(a, b reference.File) int { return strings.Compare(a.Name, b.Name) })
	f.Allow = slices.CompactFunc(f.Allow, func(a, b reference.File) bool { return a.Name == b.Name && string(a.Digest) == string(b.Digest) })
	if weak > 0 {
		note(c, "note: %d files are left out, measured by a hash that is not accepted: boot with ima_hash=sha256", weak)
	}
	if violations > 0 {
		note(c, "note: %d violations: files that were written while they were measured are not in the list", violations)
	}
	if len(f.Allow) > reference.MaxFiles {
		note(c, "note: %d files are too many for a manifest: write them with sha256sum and name the digest as attachment", len(f.Allow))
	}
	if len(f.Allow) == 0 {
		return nil, fail(exitRefused, "", "%s: no file in it can be a reference", name)
	}
	return f, nil
}

// A bootDifference is what boot diff --json prints.
type bootDifference struct {
	Versions   []string        `json:"versions"`   // that fit best: "system 1.2.0"
	Deviations []bootDeviation `json:"deviations"` // none: the boot is in the references
	Accepted   []string        `json:"accepted"`   // whatever they are
	Compared   bool            `json:"compared"`   // with PCR values
	Left       []int           `json:"unexplained"`
}

type bootDeviation struct {
	PCR  int    `json:"pcr"`
	What string `json:"what"`
	Text string `json:"text"`
}

func newBootDiffCommand() *cobra.Command {
	var files bootFiles
	var asJSON bool
	c := &cobra.Command{
		Use:   "diff MANIFEST",
		Short: "Say in words how a boot differs from a manifest's references",
		Long: `Compares the present boot of this machine, or the logs in files, with the references by
events in a manifest: TOML, or signed (the signature is not verified). It prints what
deviates and ends with exit code 1 then.

It looks at the PCRs that the manifest names, as the verifier does. To compare two
logs, see factsctl evidence explain --against.`,
		Example: `  factsctl boot diff pump-1.toml
  factsctl boot diff pump-1.manifest --firmware bios.bin --cmdline cmdline.txt \
    --pcr-values pcrs.txt --json`,
		Args: cobra.ExactArgs(1),
	}
	files.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: versions, deviations with PCR and component")
	c.RunE = evidenceRun(&asJSON, func(c *cobra.Command, args []string) error {
		m, err := readReferences(c, args[0])
		if err != nil {
			return err
		}
		b, err := files.read(c)
		if err != nil {
			return err
		}
		match := b.verified.Only(m.Boot.PCRs).Match(verifier.BootGroups(m.BootEvents), b.cmdline)
		d := bootDifference{Versions: match.Versions, Deviations: []bootDeviation{}, Accepted: append([]string{}, match.Any...), Compared: b.compared, Left: []int{}}
		for _, x := range match.Deviations {
			d.Deviations = append(d.Deviations, bootDeviation{x.PCR, x.Component.String(), x.Text})
		}
		for _, text := range match.False {
			d.Deviations = append(d.Deviations, bootDeviation{eventlog.NoPCR, eventlog.Other.String(), "the log says what was not measured: " + text})
		}
		for pcr := range b.verified.Unexplained() {
			if slices.Contains(m.Boot.PCRs, pcr) {
				d.Left = append(d.Left, pcr)
			}
		}
		slices.Sort(d.Left)
		if asJSON {
			if err := printJSON(c.OutOrStdout(), d); err != nil {
				return err
			}
		} else {
			for _, x := range d.Deviations {
				if x.PCR == eventlog.NoPCR {
					fmt.Fprintln(c.OutOrStdout(), x.Text)
					continue
				}
				fmt.Fprintf(c.OutOrStdout(), "PCR %d: %s\n", x.PCR, x.Text)
			}
			if len(d.Deviations) == 0 {
				fmt.Fprintf(c.OutOrStdout(), "as the manifest says: %s\n", strings.Join(d.Versions, ", "))
			}
		}
		if n := len(d.Deviations); n > 0 {
			return &refusedAnswer{fail(exitRefused, "record the boot as another version if it is a sound one", "%d deviations from %s", n, strings.Join(d.Versions, ", "))}
		}
		if len(d.Left) > 0 {
			return &refusedAnswer{fail(exitRefused, "the log is not of this boot, or not whole", "PCRs %v are not explained by the log", d.Left)}
		}
		return nil
	})
	return c
}

// A refusedAnswer is an error that follows an answer: the answer stands on
// standard output already.
type refusedAnswer struct{ error }

func (r *refusedAnswer) Unwrap() error { return r.error }

// readReferences reads a manifest that has references by events.
func readReferences(c *cobra.Command, name string) (*reference.Manifest, error) {
	m, err := readManifest(c, name)
	if err == nil && (m.Boot == nil || len(m.BootEvents) == 0) {
		err = fail(exitRefused, "make some: factsctl boot record", "%s has no references by events", name)
	}
	return m, err
}
