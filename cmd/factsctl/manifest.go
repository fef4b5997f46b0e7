package main

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
)

// maxAuthored is a little more than reference.Author reads, so that it refuses
// what is too large in its own words.
const maxAuthored = 2 << 20

//go:embed template/manifest.toml
var manifestTemplate []byte

func newManifestCommand() *cobra.Command {
	return newGroup("manifest", "Write, check, sign and verify manifests",
		`A manifest is what a manufacturer signs: the facts that a sound device of a model
shows in each stage of its life, and what is to happen when it does not. It is
written as TOML (docs/manifest.md) and signed into CBOR.`,
		newManifestNewCommand(), newManifestLintCommand(), newManifestSignCommand(),
		newManifestShowCommand(), newManifestVerifyCommand(), newManifestDraftCommand(), newManifestCorimCommand())
}

func newManifestNewCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "new",
		Short: "Print a commented manifest to begin with",
		Long:  "Prints a manifest in TOML with a comment for each field. It passes lint as it is.",
		Example: `  factsctl manifest new --out pump-1.toml
  factsctl manifest new | less`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return write(c, out, manifestTemplate) },
	}
	c.Flags().StringVar(&out, "out", "", "`file` to write instead of standard output")
	return c
}

// A finding is a problem as lint --json prints it.
type finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // 0: missing from the file
	Path    string `json:"path"`
	Level   string `json:"level"` // "error" or "warning"
	Message string `json:"message"`
	Fix     string `json:"fix"`
}

func newFinding(file string, p reference.Problem) finding {
	level := "error"
	if p.Warning {
		level = "warning"
	}
	return finding{file, p.Line, p.Path, level, p.Message, p.Fix}
}

func (f finding) print(w io.Writer) {
	at := f.File
	if f.Line > 0 {
		at = fmt.Sprintf("%s:%d", f.File, f.Line)
	}
	text := f.Message
	if f.Path != "" {
		text = f.Path + ": " + text
	}
	fmt.Fprintf(w, "%s: %s: %s\n    fix: %s\n", at, f.Level, text, f.Fix)
}

func newManifestLintCommand() *cobra.Command {
	var asJSON, strict bool
	var device string
	c := &cobra.Command{
		Use:   "lint FILE.toml...",
		Short: "Check manifests and say what to correct",
		Long: `Checks manifests in TOML and prints each problem with its line and what to do about
it. Errors make it end with exit code 1; warnings only with --strict.

A device refuses steps that touch what its own configuration protects (never_touch).
With --device lint refuses them too. What every machine needs to hold a pause, such
as systemd's own units, is refused in any case.`,
		Example: `  factsctl manifest lint pump-1.toml
  factsctl manifest lint --device factsd.toml pump-1.toml
  factsctl manifest lint --strict --json configs/examples/*.toml`,
		Args: cobra.MinimumNArgs(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of problems")
	c.Flags().BoolVar(&strict, "strict", false, "warnings count as errors")
	c.Flags().StringVar(&device, "device", "", "configuration `file` of the device, factsd.toml, whose never_touch wins over every manifest")
	c.RunE = func(c *cobra.Command, args []string) error {
		never, err := neverTouch(c, device)
		if err != nil {
			return err
		}
		return lint(c, args, maxAuthored, asJSON, "manifests must not be signed", func(name string, data []byte) (bool, []finding) {
			v, problems := reference.Author(data, never...)
			var found []finding
			for _, p := range problems {
				found = append(found, newFinding(name, p))
			}
			return v != nil && !(strict && len(problems) > 0), found
		})
	}
	return c
}

// neverTouch reads what the configuration of a device protects; "" protects
// nothing of its own.
func neverTouch(c *cobra.Command, config string) ([]string, error) {
	if config == "" {
		return nil, nil
	}
	data, err := read(c, config, maxAuthored)
	if err != nil {
		return nil, err
	}
	var device struct {
		Enforcer struct {
			NeverTouch []string `toml:"never_touch"`
		} `toml:"enforcer"`
	}
	if err := toml.Unmarshal(data, &device); err != nil {
		return nil, fail(exitUsage, "give the factsd.toml of the device", "%s: %w", config, err)
	}
	return device.Enforcer.NeverTouch, nil
}

func newManifestSignCommand() *cobra.Command {
	var keyFile, out string
	c := &cobra.Command{
		Use:   "sign FILE.toml --key KEY --out FILE",
		Short: "Sign a manifest",
		Long: `Checks a manifest in TOML and signs it. A manifest with errors is not signed;
warnings are printed. Devices take it if the key is in the manufacturer's key
list with the role "manifest".`,
		Example: `  factsctl manifest sign pump-1.toml --key release.key --out pump-1.manifest`,
		Args:    cobra.ExactArgs(1),
	}
	p := passphraseFlag(c)
	c.Flags().StringVar(&keyFile, "key", "", "private key `file`")
	c.Flags().StringVar(&out, "out", "", "`file` for the signed manifest")
	required(c, "key", "out")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := read(c, args[0], maxAuthored)
		if err != nil {
			return err
		}
		m, problems := reference.Author(data)
		for _, p := range problems {
			newFinding(args[0], p).print(c.ErrOrStderr())
		}
		if m == nil {
			return fail(exitRefused, "correct what is listed above", "%s must not be signed", args[0])
		}
		key, err := loadSigner(keyFile, p)
		if err != nil {
			return err
		}
		signed, err := reference.SignManifest(m, key)
		if err != nil {
			return fail(exitRefused, "shorten the manifest", "%s: %w", args[0], err)
		}
		if err := write(c, out, signed); err != nil {
			return err
		}
		note(c, "signed %s %s, sequence %d, by %s: %d bytes", m.Vendor, m.Model, m.Sequence, key.Public().ID(), len(signed))
		return nil
	}
	return c
}

// A shownManifest is a signed manifest as --json prints it.
type shownManifest struct {
	Verified bool   `json:"verified"`
	Signer   string `json:"signer"` // key id; what the document claims when not verified
	Digest   string `json:"sha256"`
	Size     int    `json:"size"` // bytes
	Vendor   string `json:"vendor"`
	Model    string `json:"model"`
	Sequence uint64 `json:"sequence"`
	From     string `json:"from"`
	Until    string `json:"until"`
	TOML     string `json:"toml"`
}

func (s *shownManifest) take(m *reference.Manifest) {
	s.Vendor, s.Model, s.Sequence = m.Vendor, m.Model, m.Sequence
	s.From, s.Until, s.TOML = stamp(m.NotBefore), stamp(m.NotAfter), string(reference.Format(m))
}

func stamp(unix int64) string { return time.Unix(unix, 0).UTC().Format(time.RFC3339) }

func newManifestShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what a signed manifest says, without verifying it",
		Long: `Prints a signed manifest as TOML. It does not verify the signature and says so; use
factsctl manifest verify to know who signed it.`,
		Example: `  factsctl manifest show pump-1.manifest`,
		Args:    cobra.ExactArgs(1),
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := read(c, args[0], reference.MaxManifestSize)
		if err != nil {
			return err
		}
		u, err := cose.Parse(data, reference.MaxManifestSize)
		if err == nil && u.Type() != cose.Manifest {
			err = fmt.Errorf("%w: %s", cose.ErrType, u.Type())
		}
		m := new(reference.Manifest)
		if err == nil {
			err = cose.Decode(u.UnverifiedPayload(), reference.MaxManifestSize, m)
		}
		if err != nil {
			return fail(exitRefused, "give a file that factsctl manifest sign wrote", "%s is no signed manifest: %w", args[0], err)
		}
		for _, p := range m.Check() {
			newFinding(args[0], p).print(c.ErrOrStderr())
		}
		s := shownManifest{Signer: u.KeyID().String(), Digest: digest(data), Size: len(data)}
		s.take(m)
		return s.print(c, asJSON)
	}
	return c
}

func (s *shownManifest) print(c *cobra.Command, asJSON bool) error {
	if asJSON {
		return printJSON(c.OutOrStdout(), s)
	}
	if s.Verified {
		_, err := fmt.Fprintf(c.OutOrStdout(), "verified: %s %s, sequence %d, valid from %s until %s\nsigned by %s\nsha256 %s, %d bytes\n",
			s.Vendor, s.Model, s.Sequence, s.From, s.Until, s.Signer, s.Digest, s.Size)
		return err
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "# NOT VERIFIED. It claims to be signed by %s.\n# sha256 %s, %d bytes\n%s", s.Signer, s.Digest, s.Size, s.TOML)
	return err
}

func newManifestVerifyCommand() *cobra.Command {
	var root, keys, at string
	var asJSON bool
	var want reference.Want
	c := &cobra.Command{
		Use:   "verify FILE --root PUB --keys FILE",
		Short: "Verify a signed manifest as a device does",
		Long: `Verifies a signed manifest by the same rules as a device: the key list by the root,
the signature by a key that the list gives the role "manifest", model, sequence,
validity and content.`,
		Example: `  factsctl manifest verify pump-1.manifest --root root.key.pub --keys keys.signed --model pump-1
  factsctl manifest verify pump-1.manifest --root root.key.pub --keys keys.signed --floor 3`,
		Args: cobra.ExactArgs(1),
	}
	f := c.Flags()
	f.StringVar(&root, "root", "", "the manufacturer's root public key `file`")
	f.StringVar(&keys, "keys", "", "signed key list `file`")
	f.StringVar(&want.Vendor, "vendor", "", "`vendor` of the device")
	f.StringVar(&want.Model, "model", "", "`model` of the device")
	f.StringVar(&want.AgentVersion, "agent", "", "agent `version` of the device")
	f.Uint64Var(&want.Floor, "floor", 0, "highest `sequence` the device has seen")
	f.StringVar(&at, "at", "", "verify for this `time`, 2027-01-01 or 2027-01-01T12:00:00Z (default now)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	required(c, "root", "keys")
	c.RunE = func(c *cobra.Command, args []string) error {
		now, err := parseTime(at)
		if err != nil {
			return err
		}
		trust, err := loadTrust(c, reference.Manufacturer, root, keys)
		if err != nil {
			return err
		}
		data, err := read(c, args[0], reference.MaxManifestSize)
		if err != nil {
			return err
		}
		r, err := trust.OpenManifest(data, want, reference.At(now))
		if err != nil {
			return fail(exitRefused, refusalHint(err), "%s: %w", args[0], err)
		}
		d := r.Digest()
		s := shownManifest{Verified: true, Signer: r.Signer().String(), Digest: hex.EncodeToString(d[:]), Size: len(data)}
		s.take(r.Manifest())
		return s.print(c, asJSON)
	}
	return c
}

// loadTrust returns a trust in owner's root with its key list taken.
func loadTrust(c *cobra.Command, owner reference.Owner, root, keys string) (*reference.Trust, error) {
	k, err := loadPublic(root)
	if err != nil {
		return nil, err
	}
	trust, err := reference.NewTrust(reference.Root{Key: k, Owner: owner})
	if err != nil {
		return nil, fail(exitUsage, "", "%w", err)
	}
	data, err := read(c, keys, reference.MaxKeyListSize)
	if err != nil {
		return nil, err
	}
	if _, err := trust.AddKeys(data); err != nil {
		return nil, fail(exitRefused, refusalHint(err), "%s: %w", keys, err)
	}
	return trust, nil
}

// refusalHint says what to do about a refusal of package reference.
func refusalHint(err error) string {
	for _, h := range []struct {
		is   error
		hint string
	}{
		{reference.ErrUnknownKey, "sign with a key of the list, or give the list and root that have it"},
		{reference.ErrRole, "sign with a key that has the role for it"},
		{reference.ErrRevoked, "sign again with a key that was not revoked"},
		{reference.ErrExpired, "sign a new edition with a later validity"},
		{reference.ErrNotYet, "wait, or check the clock of this machine"},
		{reference.ErrRollback, "sign an edition with a higher sequence"},
		{reference.ErrModel, "use the manifest of this model"},
		{reference.ErrAgent, "update the agent first"},
		{reference.ErrContent, "correct it with factsctl manifest lint and sign again"},
		{cose.ErrType, "give the right kind of document"},
		{cose.ErrKey, "get the document again from who signed it"},
		{cose.ErrSignature, "it was changed after it was signed: get it again from who signed it"},
	} {
		if errors.Is(err, h.is) {
			return h.hint
		}
	}
	return "it is damaged or no signed document: get it again from who signed it"
}

// parseTime returns a date or time in UTC as Unix seconds, now for "".
func parseTime(s string) (int64, error) {
	if s == "" {
		return time.Now().Unix(), nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.Unix(), nil
		}
	}
	return 0, fail(exitUsage, "write 2027-01-01 or 2027-01-01T12:00:00Z", "cannot read time %q", s)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
