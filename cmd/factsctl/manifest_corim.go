package main

import (
	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/attest/cmw"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/corim"
)

func newManifestCorimCommand() *cobra.Command {
	var out string
	var wrap bool
	c := &cobra.Command{
		Use:   "corim FILE",
		Short: "Export a manifest's reference values as CoRIM, for other verifiers",
		Long: `Writes the reference values of a manifest, in TOML or signed, as a Concise Reference
Integrity Manifest (draft-ietf-rats-corim) in CBOR: a CoMID for each stage, boot
references and files. What CoRIM has no form for, such as sets, is left out and told.

The result is unsigned (tag 501), and the signature of a signed manifest is not
verified here: see factsctl manifest verify. Sign the result as its readers expect it.
A stage is the index of the class: 1 integration, 2 operating, 3 fail-safe; 0 is what
holds in all.`,
		Example: `  factsctl manifest corim pump-1.manifest --out pump-1.corim
  factsctl manifest corim pump-1.toml --cmw --out pump-1.cmw`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&out, "out", "", "`file` to write to, instead of standard output")
	c.Flags().BoolVar(&wrap, "cmw", false, "wrap it as a conceptual message (CMW)")
	c.RunE = func(c *cobra.Command, args []string) error {
		m, err := readManifest(c, args[0])
		if err != nil {
			return err
		}
		data, left, err := corim.Export(m)
		if err != nil {
			return fail(exitRefused, "give a manifest with ranges, values or boot references", "%s: %w", args[0], err)
		}
		for _, text := range left {
			note(c, "note: left out: %s", text)
		}
		if wrap {
			if data, err = cmw.Wrap(cmw.Record{Type: corim.MediaType, Value: data, Kind: cmw.ReferenceValues}); err != nil {
				return err
			}
		}
		return write(c, out, data)
	}
	return c
}

// readManifest reads a manifest, authored or signed. It verifies no signature and
// says so.
func readManifest(c *cobra.Command, name string) (*reference.Manifest, error) {
	data, err := read(c, name, max(maxAuthored, reference.MaxManifestSize))
	if err != nil {
		return nil, err
	}
	if u, err := cose.Parse(data, reference.MaxManifestSize); err == nil && u.Type() == cose.Manifest {
		m := new(reference.Manifest)
		if err := cose.Decode(u.UnverifiedPayload(), reference.MaxManifestSize, m); err != nil {
			return nil, fail(exitRefused, "give a file that factsctl manifest sign wrote", "%s is no signed manifest: %w", name, err)
		}
		note(c, "note: the signature of %s is not verified: see factsctl manifest verify", name)
		return m, nil
	}
	m, problems := reference.Author(data)
	if m == nil {
		for _, p := range problems {
			newFinding(name, p).print(c.ErrOrStderr())
		}
		return nil, fail(exitRefused, "correct what is listed above", "%s is no manifest", name)
	}
	return m, nil
}
