package main

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg" // registers the decoder for scan
	_ "image/png"  // registers the decoder for scan
	"path/filepath"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/spf13/cobra"
)

// Bounds of what is read: a photograph of a label in bytes and in pixels.
const (
	maxImage  = 32 << 20
	maxPixels = 64 << 20
)

func newLabelCommand() *cobra.Command {
	return newGroup("label", "Write, sign, draw and scan the components facts label",
		`A components facts label says what is in a device, where its data go, who answers
for it, how long it is looked after and when to inspect it next. It is written as
TOML (configs/label-example.toml), signed into CBOR, and carried whole in a QR
code, so that it is verified without a network.`,
		newLabelLintCommand(), newLabelSignCommand(), newLabelShowCommand(),
		newLabelRenderCommand(), newLabelScanCommand(), newLabelPageCommand(), newLabelDateCommand(), newLabelRankCommand())
}

func newLabelLintCommand() *cobra.Command {
	var asJSON, strict bool
	c := &cobra.Command{
		Use:   "lint FILE.toml...",
		Short: "Check labels and say what to correct",
		Long: `Checks labels in TOML and prints each problem with its line and what to do about it:
missing rows, contradictions, a QR code too fine to be scanned. Errors make it end
with exit code 1; warnings only with --strict.`,
		Example: `  factsctl label lint wearable-1.toml
  factsctl label lint --strict --json wearable-1.toml`,
		Args: cobra.MinimumNArgs(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of problems")
	c.Flags().BoolVar(&strict, "strict", false, "warnings count as errors")
	c.RunE = func(c *cobra.Command, args []string) error {
		return lint(c, args, maxAuthored, asJSON, "labels must not be signed", func(name string, data []byte) (bool, []finding) {
			v, problems := label.Author(data)
			var found []finding
			for _, p := range problems {
				found = append(found, newFinding(name, p))
			}
			return v != nil && !(strict && len(problems) > 0), found
		})
	}
	return c
}

func newLabelSignCommand() *cobra.Command {
	var keyFile, out string
	c := &cobra.Command{
		Use:   "sign FILE.toml --key KEY --out FILE",
		Short: "Sign a label",
		Long: `Checks a label in TOML and signs it. A label with errors is not signed; warnings
are printed. It counts where the key is in the manufacturer's key list with the
role "label".`,
		Example: `  factsctl label sign wearable-1.toml --key label.key --out wearable-1.label`,
		Args:    cobra.ExactArgs(1),
	}
	p := passphraseFlag(c)
	c.Flags().StringVar(&keyFile, "key", "", "private key `file`")
	c.Flags().StringVar(&out, "out", "", "`file` for the signed label")
	required(c, "key", "out")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := read(c, args[0], maxAuthored)
		if err != nil {
			return err
		}
		l, problems := label.Author(data)
		for _, p := range problems {
			newFinding(args[0], p).print(c.ErrOrStderr())
		}
		if l == nil {
			return fail(exitRefused, "correct what is listed above", "%s must not be signed", args[0])
		}
		key, err := loadSigner(keyFile, p)
		if err != nil {
			return err
		}
		signed, err := label.Sign(l, key)
		if err != nil {
			return fail(exitRefused, "shorten the label", "%s: %w", args[0], err)
		}
		text, err := label.Text(signed)
		if err != nil {
			return fail(exitRefused, "shorten the label", "%s: %w", args[0], err)
		}
		code, err := label.NewCode(text)
		if err != nil {
			return fail(exitRefused, "shorten the label", "%s: %w", args[0], err)
		}
		if err := write(c, out, signed); err != nil {
			return err
		}
		note(c, "signed label of %s %s, edition %d, by %s: %d bytes, %d characters, QR version %d, level %s", l.Vendor, l.Model, l.Sequence, key.Public().ID(), len(signed), len(text), code.Version, code.Level)
		return nil
	}
	return c
}

// A shownLabel is a label as --json prints it.
type shownLabel struct {
	Verified bool           `json:"verified"`
	Signer   string         `json:"signer"` // key id; what the document claims when not verified
	Digest   string         `json:"sha256"`
	Size     int            `json:"size"` // bytes
	Vendor   string         `json:"vendor"`
	Model    string         `json:"model"`
	Edition  uint64         `json:"edition"`
	From     string         `json:"from"`
	Until    string         `json:"until"`
	Example  bool           `json:"example"`
	Inspect  string         `json:"best_before_inspection,omitempty"` // "" where it counts from the purchase
	Sections []shownSection `json:"sections"`
	Software *shownSoftware `json:"software,omitempty"`
}

type shownSection struct {
	Title string     `json:"title"`
	Rows  [][]string `json:"rows"`
}

func newShownLabel(l *label.Label, signed []byte, signer cose.KeyID, verified bool, lang label.Lang) shownLabel {
	s := shownLabel{
		Verified: verified, Signer: signer.String(), Digest: digest(signed), Size: len(signed),
		Vendor: l.Vendor, Model: l.Model, Edition: l.Sequence, From: l.From.String(), Until: l.Until.String(), Example: l.Example,
	}
	if d, err := l.BestBefore(label.Observation{}); err == nil {
		s.Inspect = d.Inspect.String()
	}
	for _, x := range l.Sheet(lang).Sections {
		s.Sections = append(s.Sections, shownSection{x.Title, x.Rows})
	}
	return s
}

func (s *shownLabel) print(c *cobra.Command, lang label.Lang, l *label.Label, asJSON bool) error {
	if asJSON {
		return printJSON(c.OutOrStdout(), s)
	}
	var out strings.Builder
	if s.Verified {
		fmt.Fprintf(&out, "VERIFIED, signed by %s\n", s.Signer)
	} else {
		fmt.Fprintf(&out, "NOT VERIFIED. It claims to be signed by %s.\n", s.Signer)
	}
	sheet := l.Sheet(lang)
	fmt.Fprintf(&out, "sha256 %s, %d bytes\n\n%s\n%s %s\n%s\n", s.Digest, s.Size, sheet.Title, s.Vendor, s.Model, sheet.Validity)
	if sheet.Example != "" {
		fmt.Fprintln(&out, sheet.Example)
	}
	for _, x := range sheet.Sections {
		title := x.Title
		if x.Stages {
			title += " (" + strings.Join(x.Head[1:], " | ") + ")"
		} else if x.Note != "" {
			title += " (" + x.Note + ")"
		}
		fmt.Fprintf(&out, "\n%s\n", title)
		for _, r := range x.Rows {
			fmt.Fprintf(&out, "  %s", r[0])
			if rest := strings.Join(r[1:], " | "); strings.Trim(rest, " |") != "" {
				fmt.Fprintf(&out, ": %s", rest)
			}
			fmt.Fprintln(&out)
		}
	}
	fmt.Fprintf(&out, "\n%s: %s\n  %s\n", sheet.Inspect, sheet.Date, sheet.DateNote)
	return write(c, "", []byte(out.String()))
}

func labelLangFlag(c *cobra.Command) *string {
	return c.Flags().String("lang", "en", "`language`: en or de")
}

func parseLabelLang(s string) (label.Lang, error) {
	lang, err := label.ParseLang(s)
	if err != nil {
		return 0, fail(exitUsage, "give --lang en or --lang de", "%w", err)
	}
	return lang, nil
}

func newLabelShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a signed label says, without verifying it",
		Long: `Prints a signed label. It does not verify the signature and says so; use factsctl
label scan to know who signed it. With --sbom it says whether the file is the bill of
materials that the label names, and with --vulnerabilities which are open.`,
		Example: `  factsctl label show wearable-1.label
  factsctl label show wearable-1.label --sbom wearable-1.cdx.json --lang de`,
		Args: cobra.ExactArgs(1),
	}
	files := softwareFlags(c)
	language := labelLangFlag(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		lang, err := parseLabelLang(*language)
		if err != nil {
			return err
		}
		data, l, signer, err := readLabel(c, args[0])
		if err != nil {
			return err
		}
		software, err := files.load(c, l)
		if err != nil {
			return err
		}
		s := newShownLabel(l, data, signer, false, lang)
		s.Software = newShownSoftware(software, lang)
		if err := s.print(c, lang, l, asJSON); err != nil || asJSON || software == nil {
			return err
		}
		text, err := software.Text(lang)
		if err != nil {
			return err
		}
		return write(c, "", []byte("\n"+text))
	}
	return c
}

// readLabel reads a signed label, which stays unverified.
func readLabel(c *cobra.Command, name string) ([]byte, *label.Label, cose.KeyID, error) {
	data, err := read(c, name, label.MaxSize)
	if err != nil {
		return nil, nil, cose.KeyID{}, err
	}
	l, signer, err := label.Parse(data)
	if err != nil {
		return nil, nil, cose.KeyID{}, fail(exitRefused, "give a file that factsctl label sign wrote", "%s is no signed label: %w", name, err)
	}
	return data, l, signer, nil
}

func newLabelRenderCommand() *cobra.Command {
	var out, size string
	c := &cobra.Command{
		Use:   "render FILE --out FILE.svg|png|pdf|html",
		Short: "Draw a signed label for people",
		Long: `Draws a signed label in the look of a nutrition label, with the QR code that holds
it whole: as PDF, SVG or PNG (300 dots an inch) for print on A6 or 40 x 60 mm, as
HTML for a page. The same label always gives the same bytes. It does not verify the
label. On a page, --sbom and --vulnerabilities add what is known of the software.`,
		Example: `  factsctl label render wearable-1.label --out wearable-1.png
  factsctl label render wearable-1.label --out wearable-1.svg --size 40x60 --lang de`,
		Args: cobra.ExactArgs(1),
	}
	language, files := labelLangFlag(c), softwareFlags(c)
	c.Flags().StringVar(&out, "out", "", "`file` to write; its name ends with .svg, .png, .pdf or .html")
	c.Flags().StringVar(&size, "size", "a6", "`size` of PDF, SVG and PNG: a6 or 40x60 (millimetres)")
	required(c, "out")
	c.RunE = func(c *cobra.Command, args []string) error {
		lang, err := parseLabelLang(*language)
		if err != nil {
			return err
		}
		format, err := label.ParseFormat(size)
		if err != nil {
			return fail(exitUsage, "give --size a6 or --size 40x60", "%w", err)
		}
		kind := filepath.Ext(out)
		if !slices.Contains([]string{".svg", ".png", ".pdf", ".html"}, kind) {
			return fail(exitUsage, "name a file that ends with .svg, .png, .pdf or .html", "cannot draw %s", out)
		}
		data, l, _, err := readLabel(c, args[0])
		if err != nil {
			return err
		}
		software, err := files.load(c, l)
		if err != nil {
			return err
		}
		if software != nil && kind != ".html" {
			return fail(exitUsage, "name a file that ends with .html", "--sbom has a place on a page only")
		}
		var picture []byte
		if kind == ".html" {
			picture, err = label.HTML(data, lang, software)
		} else {
			var d *label.Drawing
			d, err = label.Draw(data, format, lang)
			switch {
			case err != nil:
			case kind == ".svg":
				picture = d.SVG()
			case kind == ".png":
				picture, err = d.PNG()
			default:
				picture, err = d.PDF()
			}
		}
		if err != nil {
			return fail(exitRefused, "choose a larger size, or shorten the label", "%s: %w", args[0], err)
		}
		return write(c, out, picture)
	}
	return c
}

func newLabelScanCommand() *cobra.Command {
	var root, keys, at, out string
	var asJSON bool
	c := &cobra.Command{
		Use:   "scan IMAGE|- --root PUB --keys FILE",
		Short: "Read a label's QR code and verify it, offline",
		Long: `Finds the QR code in an image (PNG or JPEG), or takes its text ("MF2:...") as a
scanner of codes gives it, and verifies the label in it: the key list by the
root, the signature by a key that the list gives the role "label", its validity
and content. It needs no network. A label that does not hold is refused with the
reason, and nothing of it is shown.`,
		Example: `  factsctl label scan photo.jpg --root root.key.pub --keys keys.signed
  zbarimg -q --raw photo.jpg | factsctl label scan - --root root.key.pub --keys keys.signed`,
		Args: cobra.ExactArgs(1),
	}
	language := labelLangFlag(c)
	f := c.Flags()
	f.StringVar(&root, "root", "", "the manufacturer's root public key `file`")
	f.StringVar(&keys, "keys", "", "signed key list `file`")
	f.StringVar(&at, "at", "", "verify for this `time`, 2027-01-01 or 2027-01-01T12:00:00Z (default now)")
	f.StringVar(&out, "out", "", "`file` for the signed label, once it is verified")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	required(c, "root", "keys")
	c.RunE = func(c *cobra.Command, args []string) error {
		lang, err := parseLabelLang(*language)
		if err != nil {
			return err
		}
		now, err := parseTime(at)
		if err != nil {
			return err
		}
		trust, err := loadTrust(c, reference.Manufacturer, root, keys)
		if err != nil {
			return err
		}
		data, err := read(c, args[0], maxImage)
		if err != nil {
			return err
		}
		text, err := scanned(data)
		if err != nil {
			return fail(exitUsage, "take a sharper picture in better light, or give the text of the code", "%s: %w", args[0], err)
		}
		signed, err := label.FromText(text)
		if err != nil {
			return fail(exitRefused, "it is no label of this kind, or damaged: scan again", "REFUSED: %s: %w", args[0], err)
		}
		v, err := label.Open(signed, trust, reference.At(now))
		if err != nil {
			return fail(exitRefused, refusalHint(err), "REFUSED: %s: %w", args[0], err)
		}
		if out != "" {
			if err := write(c, out, signed); err != nil {
				return err
			}
		}
		s := newShownLabel(v.Label(), signed, v.Signer(), true, lang)
		return s.print(c, lang, v.Label(), asJSON)
	}
	return c
}

// scanned returns the text of a label's code from an image or from the text.
func scanned(data []byte) (string, error) {
	// A scanner that sees the label also sees the code with its link.
	for line := range strings.Lines(string(data[:min(len(data), 4*label.MaxSize)])) {
		if text := strings.TrimRight(line, "\r\n"); label.IsText(text) {
			return text, nil
		}
	}
	return scannedImage(data)
}

// scannedImage returns the text of a code in an image.
func scannedImage(data []byte) (string, error) {
	if len(data) > maxImage {
		return "", fmt.Errorf("cannot read image: more than %d bytes", maxImage)
	}
	size, _, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return "", fmt.Errorf("cannot read image: %w", err)
	}
	if size.Width < 1 || size.Height < 1 || size.Width > maxPixels/size.Height {
		return "", fmt.Errorf("cannot read image: %d x %d pixels, the limit is %d in all", size.Width, size.Height, maxPixels)
	}
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return "", fmt.Errorf("cannot read image: %w", err)
	}
	return label.Scan(img)
}

func newLabelPageCommand() *cobra.Command {
	var roots, keys []string
	var out string
	c := &cobra.Command{
		Use:   "page --out FILE.html",
		Short: "Write the page that verifies labels in a browser, offline",
		Long: `Writes one HTML file that reads labels from a picture or the camera and verifies
them. It needs no server and no network. With --root and --keys, once for each
issuer, it trusts them as soon as it is opened; without, the user loads them.`,
		Example: `  factsctl label page --root root.key.pub --keys keys.signed --out verify.html`,
		Args:    cobra.NoArgs,
	}
	c.Flags().StringArrayVar(&roots, "root", nil, "a manufacturer's root public key `file`")
	c.Flags().StringArrayVar(&keys, "keys", nil, "the signed key list `file` of the same manufacturer")
	c.Flags().StringVar(&out, "out", "", "`file` to write")
	required(c, "out")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(roots) != len(keys) {
			return fail(exitUsage, "give --root and --keys once for each issuer", "%d roots, but %d key lists", len(roots), len(keys))
		}
		var issuers []label.Issuer
		for i := range roots {
			if _, err := loadTrust(c, reference.Manufacturer, roots[i], keys[i]); err != nil {
				return err
			}
			root, err := loadPublic(roots[i])
			if err != nil {
				return err
			}
			list, err := read(c, keys[i], reference.MaxKeyListSize)
			if err != nil {
				return err
			}
			issuers = append(issuers, label.Issuer{Root: root, Lists: [][]byte{list}})
		}
		page, err := label.Page(issuers...)
		if err != nil {
			return err
		}
		return write(c, out, page)
	}
	return c
}

// readObserved reads what is known of a device from one file or several.
func readObserved(c *cobra.Command, names []string) (label.Observation, error) {
	var all label.Observation
	for _, name := range names {
		data, err := read(c, name, maxAuthored)
		if err != nil {
			return all, err
		}
		o, err := label.ReadObserved(data)
		if err == nil {
			all, err = all.Join(o)
		}
		if err != nil {
			return all, fail(exitUsage, "docs/best-before.md shows the form", "%s: %w", name, err)
		}
	}
	return all, nil
}

type shownDate struct {
	Start    string         `json:"start"`
	Inspect  string         `json:"best_before_inspection"`
	Steps    []shownStep    `json:"steps"` // start plus the days of all is the date
	Negative []string       `json:"negative"`
	Tasks    []string       `json:"tasks"`
	Software *shownSoftware `json:"software,omitempty"`
}

type shownStep struct {
	What  string `json:"what"`
	Days  int64  `json:"days"`
	Known bool   `json:"known"`
	Why   string `json:"why"`
}

func newLabelDateCommand() *cobra.Command {
	var observed []string
	var ics string
	var asJSON bool
	c := &cobra.Command{
		Use:   "date FILE",
		Short: "Compute the best-before-inspection date, line by line",
		Long: `Computes the day on which a device with this label is to be inspected, and says for
each line why. --observed names a file with what is known of the one device, written by a
person (TOML) or exported by a program (JSON),
--vulnerabilities a file or a folder with advisories (OSV, CSAF, CycloneDX VEX) for
the bill of materials of --sbom; docs/best-before.md describes them. --ics writes the
day and its tasks for a calendar. It does not verify the label.`,
		Example: `  factsctl label date wearable-1.label
  factsctl label date wearable-1.label --observed bed-7.toml --ics bed-7.ics
  factsctl label date wearable-1.label --sbom w.cdx.json --vulnerabilities osv/`,
		Args: cobra.ExactArgs(1),
	}
	language, files := labelLangFlag(c), softwareFlags(c)
	c.Flags().StringArrayVar(&observed, "observed", nil, "`file`, TOML or JSON, with what is known of the device; may be given several times")
	c.Flags().StringVar(&ics, "ics", "", "iCalendar `file` to write")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		lang, err := parseLabelLang(*language)
		if err != nil {
			return err
		}
		_, l, _, err := readLabel(c, args[0])
		if err != nil {
			return err
		}
		o, err := readObserved(c, observed)
		if err != nil {
			return err
		}
		software, err := files.load(c, l)
		if err != nil {
			return err
		}
		if software != nil {
			o.Flaws = software.Flaws
		}
		d, err := l.BestBefore(o)
		if errors.Is(err, label.ErrModel) {
			return fail(exitRefused, "give the observation of a device of this label", "%s: %w", args[0], err)
		}
		if errors.Is(err, label.ErrNoStart) {
			return fail(exitRefused, "write purchased = 2026-05-04 in the file of --observed", "%s: %w", args[0], err)
		}
		if err != nil {
			return fail(exitRefused, "correct the file of --observed", "%s: %w", args[0], err)
		}
		if ics != "" {
			stamp := o.On
			if stamp == 0 {
				stamp = l.From
			}
			if err := write(c, ics, l.Calendar(d, o.Device, stamp, lang)); err != nil {
				return err
			}
		}
		s := shownDate{Start: d.Start.String(), Inspect: d.Inspect.String(), Negative: append([]string{}, d.Negative...), Tasks: label.Tasks(lang), Software: newShownSoftware(software, lang)}
		for _, x := range d.Steps {
			s.Steps = append(s.Steps, shownStep(x))
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), s)
		}
		var out strings.Builder
		out.WriteString(d.Explain())
		if software != nil {
			text, err := software.Text(lang)
			if err != nil {
				return err
			}
			out.WriteString("\n" + text)
		}
		fmt.Fprintln(&out)
		for _, t := range s.Tasks {
			fmt.Fprintf(&out, "- %s\n", t)
		}
		return write(c, "", []byte(out.String()))
	}
	return c
}
