package main

import (
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/spf13/cobra"
)

//go:embed template/keys.toml
var keysTemplate []byte

func newKeysCommand() *cobra.Command {
	return newGroup("keys", "Write, sign and look at key lists",
		`A key list says which keys count, for what and how long. The root of its owner
signs it, the manufacturer's or the operator's. Only the newest list of an owner
counts, so a lost key is revoked by one new list.`,
		newKeysNewCommand(), newKeysSignCommand(), newKeysShowCommand())
}

func newKeysNewCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:     "new",
		Short:   "Print a commented key list to begin with",
		Long:    "Prints a key list in TOML with a comment for each field.",
		Example: `  factsctl keys new --out manufacturer-keys.toml`,
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return write(c, out, keysTemplate) },
	}
	c.Flags().StringVar(&out, "out", "", "`file` to write instead of standard output")
	return c
}

func newKeysSignCommand() *cobra.Command {
	var root, out string
	c := &cobra.Command{
		Use:   "sign LIST.toml --root KEY --out FILE",
		Short: "Sign a key list with a root",
		Long: `Checks a key list in TOML and signs it with the root of its owner. Paths of public
keys in the list are relative to the list.`,
		Example: `  factsctl keys sign manufacturer-keys.toml --root root.key --out keys.signed`,
		Args:    cobra.ExactArgs(1),
	}
	p := passphraseFlag(c)
	c.Flags().StringVar(&root, "root", "", "private root key `file`")
	c.Flags().StringVar(&out, "out", "", "`file` for the signed list")
	required(c, "root", "out")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := read(c, args[0], maxAuthored)
		if err != nil {
			return err
		}
		l, problems := reference.AuthorKeys(data, func(file string) (*cose.PublicKey, error) {
			if !filepath.IsAbs(file) {
				file = filepath.Join(filepath.Dir(args[0]), file)
			}
			return loadPublic(file)
		})
		for _, p := range problems {
			newFinding(args[0], p).print(c.ErrOrStderr())
		}
		if l == nil {
			return fail(exitRefused, "correct what is listed above", "%s must not be signed", args[0])
		}
		key, err := loadSigner(root, p)
		if err != nil {
			return err
		}
		for _, k := range l.Keys {
			if k.Key.ID() == key.Public().ID() {
				return fail(exitRefused, "use a key of its own for each role", "the root %s is in its own list as %s key", key.Public().ID(), k.Role)
			}
		}
		signed, err := reference.SignKeys(l, key)
		if err != nil {
			return fail(exitRefused, "correct the list", "%s: %w", args[0], err)
		}
		if err := write(c, out, signed); err != nil {
			return err
		}
		note(c, "signed key list of the %s, sequence %d, %d keys, by root %s", l.Owner, l.Sequence, len(l.Keys), key.Public().ID())
		return nil
	}
	return c
}

// A shownKeys is a key list as --json prints it.
type shownKeys struct {
	Verified bool       `json:"verified"`
	Signer   string     `json:"signer"` // key id; what the document claims when not verified
	Owner    string     `json:"owner"`
	Sequence uint64     `json:"sequence"`
	Keys     []shownKey `json:"keys"`
}

type shownKey struct {
	ID          string   `json:"id"`
	Algorithm   string   `json:"algorithm"`
	Role        string   `json:"role"`
	Name        string   `json:"name"`
	From        string   `json:"from"`
	Until       string   `json:"until"`
	Models      []string `json:"models,omitempty"`
	RevokedFrom string   `json:"revoked_from,omitempty"`
}

func newKeysShowCommand() *cobra.Command {
	var root string
	var asJSON bool
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show a signed key list",
		Long:  "Shows a signed key list. With --root it verifies the list first; without it says that it did not.",
		Example: `  factsctl keys show keys.signed --root root.key.pub
  factsctl keys show keys.signed --json`,
		Args: cobra.ExactArgs(1),
	}
	c.Flags().StringVar(&root, "root", "", "root public key `file` to verify with")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		data, err := read(c, args[0], reference.MaxKeyListSize)
		if err != nil {
			return err
		}
		u, err := cose.Parse(data, reference.MaxKeyListSize)
		l := new(reference.Keys)
		if err == nil && u.Type() != cose.KeyList {
			err = fmt.Errorf("%w: %s", cose.ErrType, u.Type())
		}
		if err == nil {
			err = cose.Decode(u.UnverifiedPayload(), reference.MaxKeyListSize, l)
		}
		if err == nil {
			err = l.Check()
		}
		if err != nil {
			return fail(exitRefused, "give a file that factsctl keys sign wrote", "%s is no signed key list: %w", args[0], err)
		}
		if root != "" {
			if _, err := loadTrust(c, l.Owner, root, args[0]); err != nil {
				return err
			}
		}
		return showKeys(c, l, u.KeyID(), root != "", asJSON)
	}
	return c
}

func showKeys(c *cobra.Command, l *reference.Keys, signer cose.KeyID, verified, asJSON bool) error {
	s := shownKeys{Verified: verified, Signer: signer.String(), Owner: l.Owner.String(), Sequence: l.Sequence, Keys: []shownKey{}}
	for _, k := range l.Keys {
		x := shownKey{
			ID: k.Key.ID().String(), Algorithm: k.Key.Algorithm(), Role: k.Role.String(), Name: k.Name,
			From: stamp(k.NotBefore), Until: stamp(k.NotAfter), Models: k.Models,
		}
		if k.RevokedFrom != 0 {
			x.RevokedFrom = stamp(k.RevokedFrom)
		}
		s.Keys = append(s.Keys, x)
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), s)
	}
	var out strings.Builder
	state := "NOT VERIFIED, it claims to be signed by root"
	if verified {
		state = "verified, signed by root"
	}
	fmt.Fprintf(&out, "key list of the %s, sequence %d\n%s %s\n", s.Owner, s.Sequence, state, s.Signer)
	for _, k := range s.Keys {
		fmt.Fprintf(&out, "\n%s  %s  %s  %q\n    valid from %s until %s\n", k.ID, k.Algorithm, k.Role, k.Name, k.From, k.Until)
		if len(k.Models) > 0 {
			fmt.Fprintf(&out, "    for models %q\n", k.Models)
		}
		if k.RevokedFrom != "" {
			fmt.Fprintf(&out, "    REVOKED from %s\n", k.RevokedFrom)
		}
	}
	if _, err := fmt.Fprint(c.OutOrStdout(), out.String()); err != nil {
		return ioFailure(errors.New("cannot write to standard output"))
	}
	return nil
}
