package main

import (
	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/attest/cmw"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/corim"
)

func newManifestCorimCommand() *cobra.Command {
	var out, keyFile string
	var wrap bool
	c := &cobra.Command{
		Use:   "corim FILE",
		Short: "Export a manifest's reference values as CoRIM, for other verifiers",
		Long: `Writes the reference values of a manifest, in TOML or signed, as a Concise Reference
Integrity Manifest (draft-ietf-rats-corim) in CBOR: a CoMID for each stage, boot
references and files. What CoRIM has no form for, such as sets, is left out and told.

With --key the result is signed (COSE_Sign1 with corim-meta), else it is not (tag 501).
The signature of a signed manifest is not verified here: see factsctl manifest verify.
A stage is the index of the class: 1 integration, 2 operating, 3 fail-safe; 0 is what
holds in all.`,
		Example: `  factsctl manifest corim pump-1.manifest --out pump-1.corim
  factsctl manifest corim pump-1.toml --key rim.key --out pump-1.corim
  factsctl manifest corim pump-1.toml --cmw --out pump-1.cmw`,
		Args: cobra.ExactArgs(1),
	}
	p := passphraseFlag(c)
	c.Flags().StringVar(&keyFile, "key", "", "sign with this private key `file`; best one of its own")
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
		media := corim.MediaType
		if keyFile != "" {
			key, err := loadSigner(keyFile, p)
			if err != nil {
				return err
			}
			if data, err = corim.Sign(m, data, key); err != nil {
				return err
			}
			media = corim.SignedMediaType
		}
		if wrap {
			if data, err = cmw.Wrap(cmw.Record{Type: media, Value: data, Kind: cmw.ReferenceValues}); err != nil {
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
