package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/attest/eventlog"
	"github.com/miotfacts/miotfacts/attest/image"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/spf13/cobra"
)

// A predictedPhase is PCR 11 after systemd has extended a phase.
type predictedPhase struct {
	Phase string `json:"phase"` // with those before it: "enter-initrd:leave-initrd"
	PCR11 string `json:"pcr11"`
}

// A prediction is what boot predict --json prints.
type prediction struct {
	PCRs   hexPCRs          `json:"pcrs"`   // when the kernel starts; only values that are certain
	Phases []predictedPhase `json:"phases"` // of a unified kernel image
	Notes  []string         `json:"notes"`  // what is not certain
}

func newBootPredictCommand() *cobra.Command {
	var uki, kernel, initrd, cmdline, base, name, firmwareName, out string
	var bootm, asJSON bool
	var pcrs []int
	c := &cobra.Command{
		Use:   "predict",
		Short: "Write references for a boot from its image, before any device runs it",
		Long: `Computes what a boot of an image will measure and writes it as boot record does: the
part of a manifest in TOML that accepts such a boot. An update predicted so does not
turn a fleet red.

  --uki      a unified kernel image with systemd-stub: PCRs 4, 9, 11, and 12 and 13,
             into which nothing goes that is not in the image
  --kernel   a kernel with an EFI stub, started by EDK2 or by U-Boot's bootefi: 4, 9
  --bootm    the same files, started by U-Boot's bootm or booti with
             CONFIG_MEASURED_BOOT: 8, 9, and 1 with --firmware-log

What the image cannot know, such as the firmware's own measurements and their order,
comes from --firmware-log: the event log of a device of the same model that was
started in the same way, whatever the version of its system. Without it PCR 4 is as
the specification has it; U-Boot, and firmware with boot menus, measure otherwise.
PCR 9 is as Linux 6.12 has it.`,
		Example: `  factsctl boot predict --uki pump-1.3.0.efi --name 1.3.0 --firmware-log bios.bin
  factsctl boot predict --kernel Image --initrd initrd --cmdline cmdline.txt --name 1.3.0
  factsctl boot predict --uki pump-1.3.0.efi --name 1.3.0 --json`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&uki, "uki", "", "unified kernel image, `file`")
	f.StringVar(&kernel, "kernel", "", "kernel as it is started, `file`")
	f.StringVar(&initrd, "initrd", "", "its initial RAM disk, `file`")
	f.StringVar(&cmdline, "cmdline", "", "its command line, `file`")
	f.BoolVar(&bootm, "bootm", false, "U-Boot starts the kernel by bootm or booti")
	f.StringVar(&base, "firmware-log", "", "event log of a device of this model, `file`")
	f.StringVar(&name, "name", "", "`name` of this version of the system: \"1.3.0\", \"slot B\"")
	f.StringVar(&firmwareName, "firmware-name", "1", "`name` of the version of the firmware")
	f.IntSliceVar(&pcrs, "pcrs", nil, "`numbers` of the PCRs; by default those that are alike on all devices of a model, as far as they are known")
	f.StringVar(&out, "out", "", "`file` to write to, instead of standard output")
	f.BoolVar(&asJSON, "json", false, "print JSON: PCR values, PCR 11 after each phase, notes")
	required(c, "name")
	c.MarkFlagsOneRequired("uki", "kernel")
	for _, other := range []string{"kernel", "initrd", "cmdline", "bootm"} {
		c.MarkFlagsMutuallyExclusive("uki", other)
	}
	c.RunE = evidenceRun(&asJSON, func(c *cobra.Command, _ []string) error {
		files := map[string][]byte{}
		for _, name := range []string{uki, kernel, initrd, cmdline} {
			if name == "" {
				continue
			}
			data, err := read(c, name, image.MaxSize)
			if err != nil {
				return err
			}
			files[name] = data
		}
		text := strings.TrimRight(string(files[cmdline]), "\r\n")
		var firmware *eventlog.Log
		var err error
		if base != "" {
			if firmware, err = readEventLog(c, base); err != nil {
				return err
			}
			if !slices.Contains(firmware.Banks, eventlog.SHA256) {
				return fail(exitRefused, "the bank SHA-256 must be active in the firmware", "%s has banks %v", base, firmware.Banks)
			}
		}
		var b *image.Boot
		switch {
		case uki != "":
			b, err = image.UKI(files[uki])
		case bootm:
			b = image.Bootm(files[kernel], files[initrd], text)
		default:
			b, err = image.Kernel(files[kernel], files[initrd], text, firmware)
		}
		if err != nil {
			return fail(exitRefused, "give the file that the firmware starts", "%s: %w", uki+kernel, err)
		}
		if base == "" {
			b.PCRs = slices.DeleteFunc(b.PCRs, func(pcr int) bool { return pcr == 1 })
			b.Notes = append(b.Notes, "without --firmware-log PCR 4 is as the specification has it, and no PCR of the firmware is among the references")
		}
		if !c.Flags().Changed("pcrs") {
			pcrs = stablePCRs
			if base == "" {
				pcrs = b.PCRs
			}
		}
		for _, text := range b.Notes {
			note(c, "note: %s", text)
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), predict(b, firmware))
		}
		groups, quoted, err := predictedGroups(b, firmware, pcrs, firmwareName, name)
		if err != nil {
			return err
		}
		header := fmt.Sprintf("# Predicted by factsctl boot predict. Look at it before you sign it.\nboot = { pcrs = %s }\n", strings.ReplaceAll(fmt.Sprint(quoted), " ", ", "))
		return write(c, out, append([]byte(header), reference.FormatBoot(groups, nil)...))
	})
	return c
}

// predictedGroups makes references of all that a boot may measure.
func predictedGroups(b *image.Boot, firmware *eventlog.Log, pcrs []int, firmwareName, name string) ([]reference.BootGroup, []int, error) {
	var system []eventlog.Event
	special := map[string]image.Event{}
	at := func(pcr int, digest []byte) string { return fmt.Sprintf("%d %x", pcr, digest) }
	for _, e := range b.Events {
		system = append(system, e.Event)
		special[at(e.PCR, e.Digest(eventlog.SHA256))] = e
	}
	log := eventlog.Predict(firmware, system)
	v, err := log.Verify(eventlog.SHA256, log.Replay()[eventlog.SHA256]) // of itself: a prediction is what is trusted here
	if err != nil {
		return nil, nil, fail(exitRefused, "", "cannot predict: %w", err)
	}
	events := v.Record(func(pcr int) bool { return slices.Contains(pcrs, pcr) }, b.Cmdline)
	quoted := []int{}
	for _, pcr := range slices.Compact(slices.Sorted(slices.Values(pcrs))) {
		if slices.Contains(b.PCRs, pcr) || slices.ContainsFunc(events, func(e eventlog.Expected) bool { return e.PCR == pcr }) {
			quoted = append(quoted, pcr)
		}
	}
	for i := range events {
		x, ok := special[at(events[i].PCR, events[i].Digest)]
		if !ok {
			continue
		}
		events[i].Optional = events[i].Optional || x.Optional
		if x.Any {
			events[i].Digest, events[i].Value = nil, ""
		}
	}
	return groupsOf(events, firmwareName, name), quoted, nil
}

// predict computes values, of what is certain to be measured.
func predict(b *image.Boot, firmware *eventlog.Log) prediction {
	p := prediction{PCRs: hexPCRs{}, Phases: []predictedPhase{}, Notes: append([]string{}, b.Notes...)}
	const bank = "sha256"
	var system []eventlog.Event
	unknown := map[int]bool{}
	for _, e := range b.Events {
		switch {
		case e.Kind != "": // a phase
		case e.Any || e.Optional && e.PCR == 11:
			unknown[e.PCR] = true
		case !e.Optional:
			system = append(system, e.Event)
		}
	}
	for pcr, value := range eventlog.Predict(firmware, system).Replay()[eventlog.SHA256] {
		if !unknown[pcr] {
			p.PCRs.set(bank, pcr, value)
		}
	}
	for _, pcr := range b.PCRs {
		if p.PCRs[bank][fmt.Sprint(pcr)] == "" && !unknown[pcr] {
			p.PCRs.set(bank, pcr, make([]byte, sha256.Size))
		}
	}
	value, err := hex.DecodeString(p.PCRs[bank]["11"])
	if err != nil || len(value) == 0 {
		return p
	}
	path := ""
	for _, e := range b.Events {
		if e.Kind == "" {
			continue
		}
		sum := sha256.Sum256(slices.Concat(value, e.Digest(eventlog.SHA256)))
		value = sum[:]
		path = strings.TrimPrefix(path+":"+string(e.Data), ":")
		p.Phases = append(p.Phases, predictedPhase{path, hex.EncodeToString(value)})
	}
	return p
}
