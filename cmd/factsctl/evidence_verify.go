package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cmw"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
)

// A verifiedEvidence is what evidence verify --json prints.
type verifiedEvidence struct {
	Device   string          `json:"device"`   // UEID
	Sequence uint64          `json:"sequence"` // of the report
	Quoted   bool            `json:"quoted"`   // a valid quote is bound to it
	KeyID    string          `json:"key_id"`   // of the device key in the bundle
	AK       string          `json:"ak"`       // SHA-256 of the attestation key (TPMT_PUBLIC) in the bundle; "" without a TPM
	Pinned   bool            `json:"pinned"`   // both were named by the caller
	Tier     string          `json:"tier"`     // "none", "affirming", "warning" or "contraindicated"
	Refused  string          `json:"refused"`  // why the message is not believed; "" when it is
	Versions []string        `json:"versions"` // that booted
	Vector   map[string]int8 `json:"vector"`   // trustworthiness vector of EAR
	Findings []shownFinding  `json:"findings"`
	Untold   []string        `json:"not_told"` // what a bundle alone cannot tell
}

type shownFinding struct {
	Code string `json:"code"`
	Tier string `json:"tier"`
	Text string `json:"text"`
}

// untold is what needs a verifier that remembers the device.
var untold = []string{"freshness", "place in the chain of reports", "clock and counters of the TPM against earlier quotes", "endorsement of the TPM"}

func newEvidenceVerifyCommand() *cobra.Command {
	var manifest, root, keys, keyID, ak, at string
	var files []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify FILE --manifest FILE --root PUB --keys FILE",
		Short: "Verify a bundle of report, quote and logs against a manifest, offline",
		Long: `Verifies a bundle of evidence as factsverifier does: the report's signature, the quote
and its binding to the report, event logs and IMA list against the quoted PCRs, and all
of it against the manifest. FILE comes from factsverifier:

  curl https://verifier/api/devices/DEVICE/evidence > FILE

It may be a conceptual message (CMW, RFC 9999), as the verifier answers with
Accept: application/cmw+cbor.

The keys in a bundle are the word of whoever made it. Name those that you know to be
the device's with --key-id and --ak, as the device's page shows them; without both, the
answer is a refusal, whatever else is in order.

A bundle alone does not tell whether it is fresh. It ends with exit code 0 only if all
that can be told is as the manifest says.`,
		Example: `  factsctl evidence verify pump.evidence --manifest pump-1.manifest \
    --root root.key.pub --keys keys.signed --key-id 7a5086ef6b5d66c820a567bc163dd7f1 --ak SHA-256`,
		Args: cobra.ExactArgs(1),
	}
	f := c.Flags()
	f.StringVar(&manifest, "manifest", "", "signed manifest, `file`")
	f.StringVar(&root, "root", "", "the manufacturer's root public key `file`")
	f.StringVar(&keys, "keys", "", "the manufacturer's signed key list, `file`")
	f.StringArrayVar(&files, "files", nil, "list of files that the manifest names by its digest, `file`; can be repeated")
	f.StringVar(&keyID, "key-id", "", "`id` of the device key, 32 hexadecimal digits")
	f.StringVar(&ak, "ak", "", "SHA-256 of the attestation key, 64 hexadecimal `digits`")
	f.StringVar(&at, "at", "", "verify for this `time`, 2027-01-01 or 2027-01-01T12:00:00Z (default now)")
	f.BoolVar(&asJSON, "json", false, "print JSON: tier, findings, vector, versions")
	required(c, "manifest", "root", "keys")
	c.RunE = evidenceRun(&asJSON, func(c *cobra.Command, args []string) error {
		now, err := parseTime(at)
		if err != nil {
			return err
		}
		trust, err := loadTrust(c, reference.Manufacturer, root, keys)
		if err != nil {
			return err
		}
		data, err := read(c, manifest, reference.MaxManifestSize)
		if err != nil {
			return err
		}
		ref, err := trust.OpenManifest(data, reference.Want{}, reference.At(now))
		if err != nil {
			return fail(exitRefused, refusalHint(err), "%s: %w", manifest, err)
		}
		cfg := verifier.Config{References: []*reference.Reference{ref}, Build: "factsctl " + version()}
		for _, name := range files {
			data, err := read(c, name, reference.MaxFilesSize)
			if err != nil {
				return err
			}
			cfg.Files = append(cfg.Files, data)
		}
		if data, err = read(c, args[0], attest.MaxBundleSize); err != nil {
			return err
		}
		if cmw.Is(data) {
			r, err := cmw.Unwrap(data, attest.MaxBundleSize)
			if err == nil && r.Type != cmw.Evidence {
				err = fmt.Errorf("it is a conceptual message of %v, want %s", r, cmw.Evidence)
			}
			if err != nil {
				return fail(exitRefused, "give what factsverifier's /api/devices/DEVICE/evidence answered", "%s: %w", args[0], err)
			}
			data = r.Value
		}
		v, err := verifyBundle(cfg, now, data, keyID, ak)
		if err != nil {
			return fail(exitRefused, "give what factsverifier's /api/devices/DEVICE/evidence answered", "%s: %w", args[0], err)
		}
		if asJSON {
			err = printJSON(c.OutOrStdout(), v)
		} else {
			v.print(c)
		}
		if err != nil {
			return err
		}
		switch {
		case v.Refused != "":
			return &refusedAnswer{fail(exitRefused, "", "the message is not believed: %s", v.Refused)}
		case v.Tier != verifier.TierAffirming.String():
			return &refusedAnswer{fail(exitRefused, "see the findings", "%s: %s", args[0], v.Tier)}
		case !v.Pinned:
			return &refusedAnswer{fail(exitRefused, "name the device's keys with --key-id and --ak, as the device's page shows them", "the keys are the bundle's own: nobody says that they are the device's")}
		}
		return nil
	})
	return c
}

// verifyBundle checks a bundle and whether its keys are those named.
func verifyBundle(cfg verifier.Config, now int64, data []byte, keyID, ak string) (*verifiedEvidence, error) {
	b, err := attest.DecodeBundle(data)
	if err != nil {
		return nil, err
	}
	v := &verifiedEvidence{KeyID: b.Key.ID().String(), Tier: verifier.TierNone.String(), Versions: []string{}, Findings: []shownFinding{}, Vector: map[string]int8{}, Untold: untold}
	if b.AK != nil {
		sum := sha256.Sum256(b.AK)
		v.AK = hex.EncodeToString(sum[:])
	}
	if keyID != "" && !strings.EqualFold(keyID, v.KeyID) || ak != "" && !strings.EqualFold(ak, v.AK) {
		v.Refused = fmt.Sprintf("its keys are %s and %s, not those named", v.KeyID, v.AK)
		return v, nil
	}
	v.Pinned = keyID != "" && (ak != "" || v.AK == "")
	// Nobody reads this result but the lines below: its key lives as long.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if cfg.Result, err = cose.NewSigner(key); err != nil {
		return nil, err
	}
	o, err := verifier.CheckBundle(cfg, now, b)
	if err != nil {
		return nil, err
	}
	v.Device = o.Device.UEID.String()
	if r := o.Reply.Refused; r != nil {
		v.Refused = fmt.Sprintf("%s: %s", r.Reason, r.Text)
		return v, nil
	}
	result, err := verifier.OpenResult(o.Record.Result, cfg.Result.Public())
	if err != nil {
		return nil, err
	}
	for _, a := range result.Submods {
		for entry, value := range a.Vector {
			v.Vector[vectorNames[entry]] = value
		}
	}
	v.Sequence, v.Quoted, v.Tier = o.Record.Sequence, o.Record.Quoted, o.Record.Tier.String()
	v.Versions = append(v.Versions, o.Device.Boot.Versions...)
	for _, f := range o.Record.Findings {
		v.Findings = append(v.Findings, shownFinding{string(f.Code), f.Tier.String(), f.Text})
	}
	return v, nil
}

// vectorNames are those of draft-ietf-rats-ar4si.
var vectorNames = map[verifier.Trustworthy]string{
	verifier.InstanceIdentity: "instance-identity", verifier.Configuration: "configuration", verifier.Executables: "executables", verifier.Hardware: "hardware",
}

func (v *verifiedEvidence) print(c *cobra.Command) {
	out := c.OutOrStdout()
	if v.Refused != "" {
		return // the error says why
	}
	fmt.Fprintf(out, "device %s, report %d, %s\n", v.Device, v.Sequence, map[bool]string{true: "with a valid quote", false: "without a quote"}[v.Quoted])
	fmt.Fprintf(out, "key %s, attestation key %s\n", v.KeyID, map[bool]string{true: "none", false: v.AK}[v.AK == ""])
	if len(v.Versions) > 0 {
		fmt.Fprintf(out, "booted: %s\n", strings.Join(v.Versions, ", "))
	}
	for _, f := range v.Findings {
		fmt.Fprintf(out, "%s: %s (%s)\n", f.Tier, f.Text, f.Code)
	}
	fmt.Fprintf(out, "%s", v.Tier)
	for _, name := range slices.Sorted(maps.Keys(v.Vector)) {
		fmt.Fprintf(out, ", %s %d", name, v.Vector[name])
	}
	fmt.Fprintf(out, "\nnot told: %s\n", strings.Join(v.Untold, "; "))
}
