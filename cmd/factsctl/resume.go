package main

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier/web"
	"github.com/spf13/cobra"
)

// A resumption is what resume is asked to do.
type resumption struct {
	device, pause, keyFile, out string
	valid, wait                 time.Duration
	yes                         bool
	verifier                    verifierFlags
	passphrase                  *passphrase
}

func newResumeCommand() *cobra.Command {
	r := new(resumption)
	c := &cobra.Command{
		Use:   "resume --device ID --key KEY",
		Short: "End the pause of a device",
		Long: `Signs the order to end one pause of one device. The device takes it once, in its time,
from a key with the role "resume" in the operator's key list, and compares itself with
the manifest anew before it operates.

With --verifier it asks there for the present pause, says why the device paused, asks
for confirmation, sends the order, and waits until the device has resumed or refused.
Without, it signs for --pause and writes the order to --out, to be sent from elsewhere or
taken to the device, where factsd resume FILE takes it. For a device without network see
factsctl resume scan.
Some pauses need two operators: each signs for himself, in any order.`,
		Example: `  factsctl resume --verifier http://127.0.0.1:8443 --device ID --key operator.key
  factsctl resume --device ID --pause PAUSE --key operator.key --valid 10m --out order.cbor
  curl -H 'Content-Type: application/cose' --data-binary @order.cbor URL/api/devices/ID/commands`,
		Args: cobra.NoArgs,
	}
	r.passphrase = passphraseFlag(c)
	r.verifier.add(c)
	f := c.Flags()
	f.StringVar(&r.device, "device", "", "device `id`, 32 hexadecimal digits")
	f.StringVar(&r.pause, "pause", "", "pause `id`, 32 hexadecimal digits (with --verifier: the present one, unless given)")
	f.StringVar(&r.keyFile, "key", "", "the operator's private key `file`")
	f.StringVar(&r.out, "out", "", "`file` for the order, - for standard output")
	f.DurationVar(&r.valid, "valid", 10*time.Minute, "`time` in which the order counts, up to a minute of it before now")
	f.DurationVar(&r.wait, "wait", time.Minute, "longest `time` to wait for the device")
	f.BoolVar(&r.yes, "yes", false, "do not ask for confirmation")
	c.AddCommand(newResumeScanCommand())
	required(c, "device", "key")
	c.MarkFlagsMutuallyExclusive("verifier", "out")
	c.MarkFlagsOneRequired("verifier", "out")
	c.RunE = func(c *cobra.Command, _ []string) error {
		id, err := attest.ParseUEID(r.device)
		if err != nil {
			return fail(exitUsage, "it stands on the verifier's page", "%w", err)
		}
		if err := checkValid(r.valid, r.wait); err != nil {
			return err
		}
		if r.verifier.url != "" {
			return r.online(c, id)
		}
		pause, err := hex.DecodeString(r.pause)
		if err != nil || len(pause) != 16 {
			return fail(exitUsage, "give --pause, as it stands on the verifier's page", "pause id %q is not 32 hexadecimal digits", r.pause)
		}
		order, err := r.sign(id, pause)
		if err != nil {
			return err
		}
		return write(c, r.out, order)
	}
	return c
}

// sign makes the order.
func (r *resumption) sign(id attest.UEID, pause []byte) ([]byte, error) {
	return signOrder(reference.Command{Kind: reference.Resume, Device: id[:], Pause: pause}, r.keyFile, r.passphrase, r.valid)
}

// online ends the present pause of a device through a verifier.
func (r *resumption) online(c *cobra.Command, id attest.UEID) error {
	client, err := r.verifier.client()
	if err != nil {
		return err
	}
	d, err := client.device(c.Context(), id.String())
	if err != nil {
		return err
	}
	switch {
	case d.Pause == nil:
		return fail(exitRefused, "see factsctl watch "+d.ID, "device %s is not paused: %s", d.ID, d.State())
	case d.Pause.ID == "":
		return fail(exitRefused, "try again when it is", "the pause of device %s is not confirmed yet: %s", d.ID, d.Pause.Why())
	case r.pause != "" && !strings.EqualFold(r.pause, d.Pause.ID):
		return fail(exitRefused, "look at why it paused again", "device %s is in another pause: %s", d.ID, d.Pause.ID)
	}
	pause, err := hex.DecodeString(d.Pause.ID)
	if err != nil || len(pause) != 16 {
		return fail(exitIO, "check that --verifier is the address of a factsverifier", "the verifier tells a pause id of %q", web.Clean(d.Pause.ID))
	}
	r.explain(c, d)
	if err := r.confirm(c); err != nil {
		return err
	}
	order, err := r.sign(id, pause)
	if err != nil {
		return err
	}
	return r.send(c, client, d, order)
}

// explain says what the operator is about to end.
func (r *resumption) explain(c *cobra.Command, d *web.Device) {
	note(c, "%s, %s, %s", d.Name(), web.Clean(d.Vendor), d.KeyLabel())
	note(c, "paused by fail-safe %s: %s", web.Ago(time.Now().Unix(), d.Pause.Since), d.Pause.Why())
	for _, e := range d.Pause.Effects {
		note(c, "  %s: %s", e.Title(), web.Clean(e.Observed))
	}
	for _, f := range d.Findings {
		note(c, "  %s", findingWords(f))
	}
}

func (r *resumption) confirm(c *cobra.Command) error {
	if r.yes {
		return nil
	}
	return confirm(c, "Is the cause dealt with? Type yes to end this pause: ", "give --yes when the cause is dealt with", "the device stays paused")
}

// send sends the order and waits for what the device makes of it.
func (r *resumption) send(c *cobra.Command, client *verifierClient, before *web.Device, order []byte) error {
	after, err := sendOrder(c, client, before, order, r.wait, reference.Resume, func(d *web.Device) bool { return d.Pause == nil || d.Pause.ID != before.Pause.ID })
	if err != nil {
		return err
	}
	if after.Pause != nil {
		return fail(exitRefused, "deal with the cause first", "the pause is over, and the device has paused again: %s", after.Pause.Why())
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "the pause is over; the device says: %s\n", after.State())
	return err
}
