package main

import (
	"fmt"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier/web"
	"github.com/spf13/cobra"
)

func newCommandCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "command",
		Short: "Give a device a signed order",
		Long: `Signs the orders that an operator gives to one device. The order that ends a pause is
factsctl resume.`,
	}
	c.AddCommand(newMaintenanceCommand())
	return c
}

// A servicing is what command maintenance is asked to do.
type servicing struct {
	device, keyFile, out string
	lasts, valid, wait   time.Duration
	end, yes             bool
	verifier             verifierFlags
	passphrase           *passphrase
}

func newMaintenanceCommand() *cobra.Command {
	s := new(servicing)
	c := &cobra.Command{
		Use:   "maintenance --device ID --key KEY (--for TIME | --end)",
		Short: "Take a device into maintenance, or out of it",
		Long: `Signs the order that begins or ends maintenance of one device. While it lasts, what
crosses a fail-safe extreme alarms and does not pause the device, which does not count as
operating. The device takes the order once, in its time, from a key with the role
"resume", if its manifest allows maintenance, for that long. Some manifests want two
operators to sign: each for himself; the shorter time counts, and one is enough to end it.

Maintenance ends with its time, with an order (--end), and when the device or its enforcer
starts anew. It ends no pause. After it the device compares itself with the manifest anew.

With --verifier it sends the order and waits until the device has taken or refused it.
Without, it writes the order to --out, to be sent from elsewhere or taken
to the device, where factsd resume FILE takes it.`,
		Example: `  factsctl command maintenance --for 2h --verifier http://127.0.0.1:8443 --device ID --key op.key
  factsctl command maintenance --end --verifier http://127.0.0.1:8443 --device ID --key op.key
  factsctl command maintenance --for 30m --device ID --key op.key --out order.cbor`,
		Args: cobra.NoArgs,
	}
	s.passphrase = passphraseFlag(c)
	s.verifier.add(c)
	f := c.Flags()
	f.StringVar(&s.device, "device", "", "device `id`, 32 hexadecimal digits")
	f.DurationVar(&s.lasts, "for", 0, "how long maintenance lasts, from when the device takes the order")
	f.BoolVar(&s.end, "end", false, "end maintenance")
	f.StringVar(&s.keyFile, "key", "", "the operator's private key `file`")
	f.StringVar(&s.out, "out", "", "`file` for the order, - for standard output")
	f.DurationVar(&s.valid, "valid", 10*time.Minute, "`time` in which the device may take the order, up to a minute of it before now")
	f.DurationVar(&s.wait, "wait", time.Minute, "longest `time` to wait for the device")
	f.BoolVar(&s.yes, "yes", false, "do not ask for confirmation")
	required(c, "device", "key")
	c.MarkFlagsMutuallyExclusive("for", "end")
	c.MarkFlagsOneRequired("for", "end")
	c.MarkFlagsMutuallyExclusive("verifier", "out")
	c.MarkFlagsOneRequired("verifier", "out")
	c.RunE = func(c *cobra.Command, _ []string) error { return s.run(c) }
	return c
}

func (s *servicing) run(c *cobra.Command) error {
	id, err := attest.ParseUEID(s.device)
	if err != nil {
		return fail(exitUsage, "it stands on the verifier's page", "%w", err)
	}
	if !s.end && (s.lasts < time.Second || s.lasts > reference.MaxMaintenance*time.Second) {
		return fail(exitUsage, "give --for 1s to 24h, and not more than the manifest allows", "cannot order maintenance of %v", s.lasts)
	}
	if err := checkValid(s.valid, s.wait); err != nil {
		return err
	}
	if s.verifier.url != "" {
		return s.online(c, id)
	}
	order, err := s.sign(id)
	if err != nil {
		return err
	}
	return write(c, s.out, order)
}

func (s *servicing) sign(id attest.UEID) ([]byte, error) {
	order := reference.Command{Kind: reference.Maintenance, Device: id[:], Lasts: uint32(s.lasts / time.Second), End: s.end}
	return signOrder(order, s.keyFile, s.passphrase, s.valid)
}

func (s *servicing) online(c *cobra.Command, id attest.UEID) error {
	client, err := s.verifier.client()
	if err != nil {
		return err
	}
	d, err := client.device(c.Context(), id.String())
	if err != nil {
		return err
	}
	in := func(d *web.Device) bool { return d.Stage == reference.StageMaintenance.String() }
	switch {
	case s.end && !in(d):
		return fail(exitRefused, "see factsctl watch "+d.ID, "device %s is not in maintenance: %s", d.ID, d.State())
	case !s.end && in(d):
		return fail(exitRefused, "end it first, with --end", "device %s is in maintenance already", d.ID)
	case !s.end && d.Pause != nil:
		return fail(exitRefused, "maintenance ends no pause: factsctl resume does", "device %s is paused: %s", d.ID, d.Pause.Why())
	}
	note(c, "%s, %s, %s: %s", d.Name(), web.Clean(d.Vendor), d.KeyLabel(), d.State())
	if !s.end && !s.yes {
		if err := confirm(c, fmt.Sprintf("For %v nothing will pause this device. Is no patient connected? Type yes: ", s.lasts), "give --yes when no patient is connected", "nothing has changed on the device"); err != nil {
			return err
		}
	}
	order, err := s.sign(id)
	if err != nil {
		return err
	}
	after, err := sendOrder(c, client, d, order, s.wait, reference.Maintenance, func(d *web.Device) bool { return in(d) != s.end })
	if err != nil {
		return err
	}
	if in(after) {
		_, err = fmt.Fprintf(c.OutOrStdout(), "in maintenance until %s at the latest\n", web.Stamp(after.Maintained))
	} else {
		_, err = fmt.Fprintf(c.OutOrStdout(), "maintenance is over; the device says: %s\n", after.State())
	}
	return err
}
