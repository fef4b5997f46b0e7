package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/web"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// signOrder signs an order that counts for the time valid. Part of it lies before
// now: the clock of the device may be a little late.
func signOrder(order reference.Command, keyFile string, p *passphrase, valid time.Duration) ([]byte, error) {
	key, err := loadSigner(keyFile, p)
	if err != nil {
		return nil, err
	}
	order.Version, order.Nonce = 1, make([]byte, 16)
	rand.Read(order.Nonce) // never fails
	from := time.Now().Add(-min(time.Minute, valid/4))
	order.NotBefore, order.NotAfter = from.Unix(), from.Add(valid).Unix()
	data, err := reference.SignCommand(&order, key)
	if err != nil {
		return nil, fmt.Errorf("cannot sign order: %w", err)
	}
	return data, nil
}

// checkValid refuses what no device would take, or nobody should make.
func checkValid(valid, wait time.Duration) error {
	if valid < time.Minute || valid > 7*24*time.Hour {
		return fail(exitUsage, "give --valid 1m to 168h", "cannot make an order that counts for %v", valid)
	}
	if wait <= 0 {
		return fail(exitUsage, "give --wait 1m", "cannot wait for %v", wait)
	}
	return nil
}

// confirm asks a person, who has to type yes.
func confirm(c *cobra.Command, question, hint, otherwise string) error {
	in, ok := c.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return fail(exitUsage, hint, "this needs a confirmation and there is no terminal to ask on")
	}
	fmt.Fprint(c.ErrOrStderr(), question)
	line, err := bufio.NewReader(in).ReadString('\n')
	if strings.TrimSpace(line) != "yes" {
		return errors.Join(fail(exitRefused, "", "not confirmed: %s", otherwise), err)
	}
	return nil
}

// errDone ends the waiting.
var errDone = errors.New("the device has done it")

// sendOrder sends an order and waits until the device shows that it is done. The
// stream is open before the order goes out, so that no answer is missed.
func sendOrder(c *cobra.Command, client *verifierClient, before *web.Device, order []byte, wait time.Duration, kind reference.Kind, done func(*web.Device) bool) (*web.Device, error) {
	late := fmt.Errorf("no answer within %v", wait)
	ctx, cancel := context.WithTimeoutCause(c.Context(), wait, late)
	defer cancel()
	sent := false
	var after *web.Device
	err := client.follow(ctx, func(e streamed) error {
		if !sent {
			sent = true
			answer, err := client.ask(ctx, http.MethodPost, "/api/devices/"+before.ID+"/commands", order, http.StatusAccepted)
			if err != nil {
				return err
			}
			answer.Body.Close()
			note(c, "sent; waiting for the device")
		}
		if e.kind == "device" && e.change.ID != before.ID {
			return nil
		}
		d, err := client.device(ctx, before.ID)
		if err != nil {
			return err
		}
		if after = d; done(d) {
			return errDone
		}
		return refusal(ctx, client, before, kind)
	})
	switch {
	case errors.Is(err, errDone):
		return after, nil
	case errors.Is(context.Cause(ctx), late):
		return nil, fail(exitIO, "the device may be offline; the order counts until its time is over: see factsctl watch "+before.ID, "%w", late)
	case ctx.Err() != nil:
		return nil, fail(exitIO, "see factsctl watch "+before.ID, "interrupted before the device has answered")
	}
	return nil, err
}

// refusal returns what a report since then says of a refused order. A device
// says it once, so the newest state alone may not show it.
func refusal(ctx context.Context, client *verifierClient, before *web.Device, kind reference.Kind) error {
	reports, err := client.reports(ctx, before.ID, 20)
	if err != nil {
		return err
	}
	for _, report := range reports {
		if report.Sequence <= before.Sequence {
			break
		}
		for _, f := range report.Findings {
			if f.Code == string(verifier.ReasonNote) && strings.Contains(f.Text, kind.String()+" refused") {
				return fail(exitRefused, "nothing has changed on the device; its reason says what is missing", "%s", web.Clean(f.Text))
			}
		}
	}
	return nil
}
