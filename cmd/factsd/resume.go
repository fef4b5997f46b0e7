package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/handover"
	"github.com/miotfacts/miotfacts/reference"
)

// resume hands a signed order to the enforcer, which judges it: from a file, or
// typed at this console by who was shown the challenge.
func resume(c *config, args []string, in io.Reader, out io.Writer) error {
	client := failsafe.Dial(c.Enforcer.Socket)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	s, err := client.Status(ctx)
	if err != nil {
		return fail(exitNeeds, "is factsd enforce running, and may this user ask it?", err)
	}
	challenge := handover.Challenge{Pause: s.PauseID}
	ueid, err := readIdentity(c)
	if err != nil {
		return fail(exitNeeds, "run factsd provision first", err)
	}
	challenge.Device = ueid
	var document []byte
	switch {
	case len(args) > 0:
		document, err = orderFile(args[0], in, &challenge)
	case s.Latch != appraise.LatchPaused:
		return fmt.Errorf("nothing is paused: the latch is %s", s.Latch)
	default:
		fmt.Fprintf(out, "paused: %s\n\n%s\n", s.Reason, challenge.Code().Text())
		for _, line := range challenge.Lines() {
			fmt.Fprintln(out, line)
		}
		fmt.Fprintf(out, "\nThe operator reads this with: factsctl resume scan\nType or paste the %d lines of the answer.\n", handover.OrderLines)
		document, err = typed(in, out, &challenge)
	}
	if err != nil {
		return err
	}
	if s, err = client.Resume(ctx, document); err != nil {
		return err
	}
	fmt.Fprintf(out, "accepted: %s\n", s.Phase)
	return nil
}

// orderFile reads an order from a file, - for in: the signed document, or its lines.
func orderFile(path string, in io.Reader, c *handover.Challenge) ([]byte, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fail(exitNeeds, "", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, reference.MaxCommandSize+1))
	if err != nil {
		return nil, fail(exitNeeds, "", err)
	}
	if _, err := cose.Parse(data, reference.MaxCommandSize); err == nil {
		return data, nil
	}
	return c.ReadOrder(string(data))
}

// typed reads an order line by line. A wrong line is asked for again.
func typed(in io.Reader, out io.Writer, c *handover.Challenge) ([]byte, error) {
	whole, n := "", 0
	for scan := bufio.NewScanner(in); n < handover.OrderLines; {
		fmt.Fprintf(out, "line %d of %d: ", n+1, handover.OrderLines)
		if !scan.Scan() {
			return nil, errors.Join(errors.New("the order is not whole"), scan.Err())
		}
		for text := handover.Plain(scan.Text()); text != "" && n < handover.OrderLines; n++ {
			line := text[:min(32, len(text))]
			if _, err := handover.Line(n, line); err != nil {
				fmt.Fprintln(out, err)
				break
			}
			whole, text = whole+line, text[len(line):]
		}
	}
	return c.ReadOrder(whole)
}
