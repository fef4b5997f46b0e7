package main

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/spf13/cobra"
)

func newKeyCommand() *cobra.Command {
	return newGroup("key", "Make and look at signing keys",
		`Keys are PKCS #8 private keys in PEM with a .pub file (SubjectPublicKeyInfo)
beside them, which openssl reads as well. A key is named by its id, the first 16
bytes of its COSE Key Thumbprint (RFC 9679).`,
		newKeyNewCommand(), newKeyShowCommand())
}

func newKeyNewCommand() *cobra.Command {
	var out, alg string
	var ask bool
	c := &cobra.Command{
		Use:   "new --out FILE",
		Short: "Make a signing key",
		Long: `Makes a private key in FILE, readable by its owner only, and its public key in
FILE.pub. Neither is ever overwritten. With a passphrase the key is encrypted at
rest (PBES2 with scrypt and AES-256); do that for every key that is not thrown
away after a test.`,
		Example: `  factsctl key new --out root.key --passphrase
  factsctl key new --out release.key --alg es256 --passphrase-file secret.txt`,
		Args: cobra.NoArgs,
	}
	p := passphraseFlag(c)
	c.Flags().StringVar(&out, "out", "", "`file` for the private key")
	c.Flags().StringVar(&alg, "alg", "ed25519", "`algorithm`: ed25519 or es256")
	c.Flags().BoolVar(&ask, "passphrase", false, "encrypt the key with a passphrase, asked on the terminal")
	required(c, "out")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var secret []byte
		var err error
		switch {
		case p.file != "":
			secret, err = p.read("")
		case ask:
			secret, err = p.ask("new passphrase: ")
			if err == nil {
				var again []byte
				if again, err = p.ask("once more: "); err == nil && !bytes.Equal(secret, again) {
					err = fail(exitUsage, "", "the two passphrases differ")
				}
			}
		}
		if err != nil {
			return err
		}
		private, public, err := generateKey(alg, secret)
		if err != nil {
			return err
		}
		if err := saveKey(out, private, public); err != nil {
			return err
		}
		if secret == nil {
			note(c, "note: %s is not encrypted; whoever reads it can sign", out)
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), public.ID())
		return err
	}
	return c
}

func newKeyShowCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show a key's id and algorithm",
		Long:  "Shows the id and the algorithm of a private or public key file, never the secret.",
		Example: `  factsctl key show root.key.pub
  factsctl key show root.key --passphrase-file secret.txt`,
		Args: cobra.ExactArgs(1),
	}
	p := passphraseFlag(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := readKeyFile(args[0])
		if err != nil {
			return err
		}
		shown := struct {
			ID        string `json:"id"`
			Algorithm string `json:"algorithm"`
			Private   bool   `json:"private"`
			Encrypted bool   `json:"encrypted"`
			Public    string `json:"public"` // PEM
		}{Private: true}
		var k *cose.PublicKey
		if block, _ := pem.Decode(data); block != nil && block.Type == "PUBLIC KEY" {
			shown.Private = false
			k, err = loadPublic(args[0])
		} else {
			shown.Encrypted = block != nil && block.Type == "ENCRYPTED PRIVATE KEY"
			var s *cose.Signer
			if s, err = loadSigner(args[0], p); err == nil {
				k = s.Public()
			}
		}
		if err != nil {
			return err
		}
		text, err := k.PEM()
		if err != nil {
			return err
		}
		shown.ID, shown.Algorithm, shown.Public = k.ID().String(), k.Algorithm(), string(text)
		if asJSON {
			return printJSON(c.OutOrStdout(), shown)
		}
		kind := map[bool]string{true: "private key", false: "public key"}[shown.Private]
		if shown.Encrypted {
			kind += ", encrypted"
		}
		_, err = fmt.Fprintf(c.OutOrStdout(), "id         %s\nalgorithm  %s\nfile       %s\n", shown.ID, shown.Algorithm, kind)
		return err
	}
	return c
}

// required makes a flag required. It fails only for a flag that c has not.
func required(c *cobra.Command, flags ...string) {
	for _, f := range flags {
		if err := c.MarkFlagRequired(f); err != nil {
			panic(err)
		}
	}
}
