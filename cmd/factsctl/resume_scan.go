package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/handover"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/spf13/cobra"
)

func newResumeScanCommand() *cobra.Command {
	var keyFile, out string
	var valid time.Duration
	var yes, code bool
	c := &cobra.Command{
		Use:   "scan [FILE] --key KEY",
		Short: "Answer the challenge that a device without network shows",
		Long: `Signs the order to end a pause for a device without network. The device shows its
challenge at its console (factsd resume): a QR code, and two lines of text. This reads a
picture of the code (PNG or JPEG) or the two lines from a file, - for standard input, or
asks for the lines, and prints the order in six lines that are typed or pasted at the
device's console. Each line has a check of its own: a typing error is told at once.

The key stays here: what goes to the device is the signed order, which counts for this
pause of this device, in its time, once. Some pauses need two operators: each answers the
same challenge. --out writes the order for a stick instead: factsd resume FILE.`,
		Example: `  factsctl resume scan photo.jpg --key operator.key
  factsctl resume scan --key operator.key --valid 30m
  factsctl resume scan photo.jpg --key operator.key --out /media/stick/resume.cbor`,
		Args: cobra.MaximumNArgs(1),
	}
	p := passphraseFlag(c)
	f := c.Flags()
	f.StringVar(&keyFile, "key", "", "the operator's private key `file`")
	f.StringVar(&out, "out", "", "`file` for the signed order, instead of lines")
	f.DurationVar(&valid, "valid", 10*time.Minute, "`time` in which the order counts, up to a minute of it before now")
	f.BoolVar(&yes, "yes", false, "do not ask for confirmation")
	f.BoolVar(&code, "code", false, "show the order as a QR code too, for a reader at the device")
	required(c, "key")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := checkValid(valid, time.Minute); err != nil {
			return err
		}
		challenge, err := readChallenge(c, args)
		if err != nil {
			return err
		}
		note(c, "device %s, pause %x", attest.UEID(challenge.Device), challenge.Pause)
		if !yes {
			if err := confirm(c, "Is the cause dealt with? Type yes to sign the end of this pause: ", "give --yes when the cause is dealt with", "nothing was signed"); err != nil {
				return err
			}
		}
		order, err := signOrder(reference.Command{Kind: reference.Resume, Device: challenge.Device[:], Pause: challenge.Pause[:]}, keyFile, p, valid)
		if err != nil {
			return err
		}
		if out != "" {
			return write(c, out, order)
		}
		return printOrder(c, challenge, order, code)
	}
	return c
}

// printOrder prints an order as it is typed at the device.
func printOrder(c *cobra.Command, challenge *handover.Challenge, order []byte, code bool) error {
	lines, err := challenge.Order(order)
	if err != nil {
		return err
	}
	text := strings.Join(lines, "\n") + "\n"
	if code {
		q, err := label.NewCode(handover.Plain(text))
		if err != nil {
			return err
		}
		text += "\n" + handover.HalfBlocks(q.Size, func(x, y int) bool {
			return x >= 0 && y >= 0 && x < q.Size && y < q.Size && q.Dark(x, y)
		})
	}
	if _, err := io.WriteString(c.OutOrStdout(), text); err != nil {
		return ioFailure(err)
	}
	return nil
}

// readChallenge reads a challenge from a picture, or line by line.
func readChallenge(c *cobra.Command, args []string) (*handover.Challenge, error) {
	if len(args) > 0 {
		data, err := read(c, args[0], maxImage)
		if err != nil {
			return nil, err
		}
		if challenge, err := handover.ParseChallenge(string(data)); err == nil {
			return challenge, nil // its lines
		}
		text, err := scannedImage(data)
		if err != nil {
			return nil, fail(exitUsage, "take the picture straight and near, or give the two lines", "%s: %w", args[0], err)
		}
		challenge, err := handover.ParseChallenge(text)
		if err != nil {
			return nil, fail(exitRefused, "this is a code of something else", "%s: %w", args[0], err)
		}
		return challenge, nil
	}
	in := c.InOrStdin()
	whole, n := "", 0
	for read := bufio.NewReader(in); n < handover.ChallengeLines; {
		fmt.Fprintf(c.ErrOrStderr(), "line %d of %d: ", n+1, handover.ChallengeLines)
		typed, err := read.ReadString('\n')
		for text := handover.Plain(typed); text != "" && n < handover.ChallengeLines; n++ {
			line := text[:min(32, len(text))]
			if _, err := handover.Line(n, line); err != nil {
				fmt.Fprintln(c.ErrOrStderr(), err)
				break
			}
			whole, text = whole+line, text[len(line):]
		}
		if err != nil && n < handover.ChallengeLines {
			return nil, fail(exitUsage, "the device shows two lines of 32 characters", "the challenge is not whole")
		}
	}
	return handover.ParseChallenge(whole)
}
