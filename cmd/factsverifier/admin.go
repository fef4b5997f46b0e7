package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/web"
)

// admin is what operators do through the socket. Who may open it may do it.
//
//	POST /admin/devices/{id}/approve    {"by": "name"}   204
//	POST /admin/devices/{id}/revoke                      204
//	POST /admin/devices/{id}/decommission    {"by": "name"}                  204
//	POST /admin/devices/{id}/replace         {"by": "name", "with": "UEID"}  204
//	POST /admin/devices/{id}/inspected       {"by": "name", "on": "2028-08-20"}  204
//	POST /admin/devices/{id}/challenge                   202
//	POST /admin/devices/{id}/renew           {"by": "name"}                  202
//	POST /admin/observations            a Survey         counted
type admin struct {
	verifier     *verifier.Verifier
	chronicle    verifier.Chronicle
	certificates bool // the broker lets nobody in without one
	bus          bus
	log          *slog.Logger
}

// handler adds the operators' part to the pages.
func (a *admin) handler(pages http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", pages)
	for action, do := range map[string]func(attest.UEID, *http.Request) (int, error){"approve": a.approve, "revoke": a.revoke, "decommission": a.decommission, "replace": a.replace, "inspected": a.inspected, "challenge": a.challenge, "renew": a.renew} {
		mux.HandleFunc("POST /admin/devices/{id}/"+action, func(w http.ResponseWriter, r *http.Request) {
			id, err := attest.ParseUEID(r.PathValue("id"))
			status := http.StatusBadRequest
			if err == nil {
				status, err = do(id, r)
			}
			if err != nil {
				a.refuse(w, action, r.PathValue("id"), status, err)
				return
			}
			a.log.Info("an operator", "action", action, "device", id)
			w.WriteHeader(status)
		})
	}
	mux.HandleFunc("POST /admin/observations", func(w http.ResponseWriter, r *http.Request) {
		if status, err := a.observations(w, r); err != nil {
			a.refuse(w, "observations", "", status, err)
		}
	})
	return mux
}

func (a *admin) refuse(w http.ResponseWriter, action, device string, status int, err error) {
	a.log.Warn("refused an operator", "action", action, "device", device, "err", err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(web.Problem{Error: err.Error()}) // the asker is gone: nobody to tell
}

// status returns the HTTP status of an error.
func status(err error) int {
	switch {
	case errors.Is(err, verifier.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, verifier.ErrState):
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

func (a *admin) approve(id attest.UEID, r *http.Request) (int, error) {
	var body struct {
		By string `json:"by"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1024)).Decode(&body); err != nil {
		return http.StatusBadRequest, fmt.Errorf("cannot read who approves: %w", err)
	}
	data, err := a.verifier.Approve(time.Now().Unix(), id, body.By)
	if err != nil {
		return status(err), err
	}
	a.tellApproved(id, data)
	return http.StatusNoContent, nil
}

// tellApproved tells a device. One that does not hear it asks again by itself.
func (a *admin) tellApproved(id attest.UEID, data []byte) {
	if err := a.bus.Send(id, data, time.Now().Add(10*time.Minute)); err != nil {
		a.log.Warn("cannot tell a device that it is approved", "device", id, "err", err)
	}
}

func (a *admin) decommission(id attest.UEID, r *http.Request) (int, error) {
	var body struct {
		By string `json:"by"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1024)).Decode(&body); err != nil {
		return http.StatusBadRequest, fmt.Errorf("cannot read who decommissions: %w", err)
	}
	if err := a.verifier.Decommission(time.Now().Unix(), id, body.By); err != nil {
		return status(err), err
	}
	a.bus.Drop(id)
	return http.StatusNoContent, nil
}

func (a *admin) replace(id attest.UEID, r *http.Request) (int, error) {
	var body struct {
		By   string `json:"by"`
		With string `json:"with"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1024)).Decode(&body); err != nil {
		return http.StatusBadRequest, fmt.Errorf("cannot read who replaces by what: %w", err)
	}
	with, err := attest.ParseUEID(body.With)
	if err != nil {
		return http.StatusBadRequest, err
	}
	data, err := a.verifier.Replace(time.Now().Unix(), id, with, body.By)
	if err != nil {
		return status(err), err
	}
	a.bus.Drop(id)
	a.tellApproved(with, data)
	return http.StatusNoContent, nil
}

func (a *admin) inspected(id attest.UEID, r *http.Request) (int, error) {
	var body struct {
		By string    `json:"by"`
		On label.Day `json:"on"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1024)).Decode(&body); err != nil {
		return http.StatusBadRequest, fmt.Errorf("cannot read who inspected it and when: %w", err)
	}
	if err := a.verifier.Inspected(time.Now().Unix(), id, body.On, body.By); err != nil {
		return status(err), err
	}
	return http.StatusNoContent, nil
}

func (a *admin) revoke(id attest.UEID, _ *http.Request) (int, error) {
	if err := a.verifier.Revoke(time.Now().Unix(), id); err != nil {
		return status(err), err
	}
	a.bus.Drop(id)
	return http.StatusNoContent, nil
}

func (a *admin) challenge(id attest.UEID, _ *http.Request) (int, error) {
	now := time.Now()
	data, err := a.verifier.Challenge(now.Unix(), id)
	if err != nil {
		return status(err), err
	}
	if err := a.bus.Send(id, data, now.Add(verifier.ChallengeLife)); err != nil {
		return http.StatusServiceUnavailable, err
	}
	return http.StatusAccepted, nil
}

func (a *admin) renew(id attest.UEID, r *http.Request) (int, error) {
	var body struct {
		By string `json:"by"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1024)).Decode(&body); err != nil {
		return http.StatusBadRequest, fmt.Errorf("cannot read who orders it: %w", err)
	}
	now := time.Now()
	data, err := a.verifier.Renew(now.Unix(), id, body.By)
	if err != nil {
		return status(err), err
	}
	if err := a.bus.Send(id, data, now.Add(verifier.RenewLife*time.Second)); err != nil {
		return http.StatusServiceUnavailable, err
	}
	return http.StatusAccepted, nil
}

// A place is where the running verifier's admin socket is.
type place struct{ config, socket string }

func (p *place) flags(c *cobra.Command) *cobra.Command {
	c.Flags().StringVar(&p.config, "config", defaultConfig, "configuration `FILE` that names the admin socket")
	c.Flags().StringVar(&p.socket, "admin", "", "admin `SOCKET`, instead of the one in --config")
	return c
}

// ask sends a request to the running verifier.
func (p *place) ask(ctx context.Context, method, path string, body any) ([]byte, error) {
	socket := p.socket
	if socket == "" {
		conf, err := readConfig(p.config)
		if err != nil {
			return nil, err
		}
		socket = conf.path(conf.Admin.Socket)
	}
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://verifier"+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(r)
	if err != nil {
		return nil, fail(exitNeeds, "is factsverifier running, and may this user open "+socket+"?", fmt.Errorf("cannot reach the verifier: %w", err))
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return nil, fail(exitNeeds, "", fmt.Errorf("cannot read the verifier's answer: %w", err))
	}
	if resp.StatusCode >= 300 {
		var problem web.Problem
		if json.Unmarshal(answer, &problem) != nil || problem.Error == "" {
			problem.Error = "the verifier answers " + resp.Status
		}
		return nil, fail(exitFailed, problem.Hint, errors.New(problem.Error))
	}
	return answer, nil
}

// device checks the name of a device before anybody is asked.
func device(name string) (string, error) {
	id, err := attest.ParseUEID(name)
	if err != nil {
		return "", fail(exitUsage, "factsverifier devices lists them", err)
	}
	return id.String(), nil
}

func newApproveCommand() *cobra.Command {
	var p place
	var by string
	c := &cobra.Command{
		Use:   "approve DEVICE",
		Short: "Let a device's reports count",
		Long: `Approves a device that has asked to be enrolled, and proved that it holds its
keys. Compare what it says with your inventory first: factsverifier devices shows
vendor, model, serial number, and where its key lives. A device that was revoked
begins a new chain of reports.`,
		Example: `  factsverifier approve 0123456789abcdef0123456789abcdef --by "M. Muster"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := device(args[0])
			if err != nil {
				return err
			}
			_, err = p.ask(c.Context(), http.MethodPost, "/admin/devices/"+id+"/approve", map[string]string{"by": by})
			return err
		},
	}
	c.Flags().StringVar(&by, "by", "", "`NAME` of who approves, kept with the device (required)")
	cobra.CheckErr(c.MarkFlagRequired("by"))
	return p.flags(c)
}

func newRevokeCommand() *cobra.Command {
	var p place
	return p.flags(&cobra.Command{
		Use:     "revoke DEVICE",
		Short:   "Let nothing from a device count any more",
		Long:    "Takes an enrolment back: a device that was lost, sold, or whose key was replaced.",
		Example: `  factsverifier revoke 0123456789abcdef0123456789abcdef`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := device(args[0])
			if err == nil {
				_, err = p.ask(c.Context(), http.MethodPost, "/admin/devices/"+id+"/revoke", nil)
			}
			return err
		},
	})
}

func newDecommissionCommand() *cobra.Command {
	var p place
	var by string
	c := &cobra.Command{
		Use:   "decommission DEVICE",
		Short: "End a device's enrolment for good",
		Long: `Ends the enrolment of a device that was sold, given back or destroyed. What it
reported is kept; no request of it is taken any more, and it cannot be approved
again. Erase its keys as well: docs/lifecycle.md says how. For a device that may
come back, take factsverifier revoke.`,
		Example: `  factsverifier decommission 0123456789abcdef0123456789abcdef --by "M. Muster"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := device(args[0])
			if err != nil {
				return err
			}
			_, err = p.ask(c.Context(), http.MethodPost, "/admin/devices/"+id+"/decommission", map[string]string{"by": by})
			return err
		},
	}
	c.Flags().StringVar(&by, "by", "", "`NAME` of who decommissions, kept with the device (required)")
	cobra.CheckErr(c.MarkFlagRequired("by"))
	return p.flags(c)
}

func newReplaceCommand() *cobra.Command {
	var p place
	var by string
	c := &cobra.Command{
		Use:   "replace OLD NEW",
		Short: "Approve a device in the place of another",
		Long: `Approves the device NEW and decommissions the device OLD, and keeps with each that
NEW took the place of OLD. A machine whose mainboard was replaced has another TPM,
so it asks to be enrolled as another device. Both must be of one vendor and model,
and NEW must have proved that it holds its keys. What OLD reported is kept under its
own name.`,
		Example: `  factsverifier replace 0123456789abcdef0123456789abcdef fedcba9876543210fedcba9876543210 --by "M. Muster"`,
		Args:    cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			old, err := device(args[0])
			if err != nil {
				return err
			}
			with, err := device(args[1])
			if err != nil {
				return err
			}
			_, err = p.ask(c.Context(), http.MethodPost, "/admin/devices/"+old+"/replace", map[string]string{"by": by, "with": with})
			return err
		},
	}
	c.Flags().StringVar(&by, "by", "", "`NAME` of who approves, kept with both devices (required)")
	cobra.CheckErr(c.MarkFlagRequired("by"))
	return p.flags(c)
}

func newInspectedCommand() *cobra.Command {
	var p place
	var by, on string
	c := &cobra.Command{
		Use:   "inspected DEVICE",
		Short: "Record that a device was inspected",
		Long: `Records an inspection that the hospital made, and who answers for it: the term of
the best-before-inspection date begins anew on that day, and the finding
inspection-due goes. What a device reports of itself never counts as an inspection,
and no label does. Recorded again, the new day takes the place of the old one.`,
		Example: `  factsverifier inspected 0123456789abcdef0123456789abcdef --by "M. Muster"
  factsverifier inspected 0123456789abcdef0123456789abcdef --by "M. Muster" --on 2028-08-20`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := device(args[0])
			if err != nil {
				return err
			}
			day := label.DayOf(time.Now().Unix())
			if on != "" {
				if err := day.UnmarshalText([]byte(on)); err != nil {
					return fail(exitUsage, "write --on 2028-08-20", err)
				}
			}
			_, err = p.ask(c.Context(), http.MethodPost, "/admin/devices/"+id+"/inspected", map[string]string{"by": by, "on": day.String()})
			return err
		},
	}
	c.Flags().StringVar(&by, "by", "", "`NAME` of who answers for the inspection, kept with the device (required)")
	c.Flags().StringVar(&on, "on", "", "`DAY` on which it was made; today where it is not given")
	cobra.CheckErr(c.MarkFlagRequired("by"))
	return p.flags(c)
}

func newChallengeCommand() *cobra.Command {
	var p place
	return p.flags(&cobra.Command{
		Use:   "challenge DEVICE",
		Short: "Ask a device for a report now",
		Long: `Sends a signed challenge. The device answers with a report, and with a quote
over its nonce where there is a TPM. The answer counts for five minutes.`,
		Example: `  factsverifier challenge 0123456789abcdef0123456789abcdef`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := device(args[0])
			if err == nil {
				_, err = p.ask(c.Context(), http.MethodPost, "/admin/devices/"+id+"/challenge", nil)
			}
			return err
		},
	})
}

func newRenewCommand() *cobra.Command {
	var p place
	var by string
	c := &cobra.Command{
		Use:   "renew DEVICE",
		Short: "Have a device make itself a new key",
		Long: `Sends a signed order. The device makes a new key, in its TPM or in a file, and has
the present one sign for it; with a TPM its attestation key certifies it. From the
first report under it the key before is refused. A device that is off has 30 days.`,
		Example: `  factsverifier renew 0123456789abcdef0123456789abcdef --by "A. Meier"`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := device(args[0])
			if err == nil {
				_, err = p.ask(c.Context(), http.MethodPost, "/admin/devices/"+id+"/renew", map[string]string{"by": by})
			}
			return err
		},
	}
	c.Flags().StringVar(&by, "by", "", "`NAME` of who orders it, kept with the device (required)")
	cobra.CheckErr(c.MarkFlagRequired("by"))
	return p.flags(c)
}

func newDevicesCommand() *cobra.Command {
	var p place
	var asJSON bool
	c := &cobra.Command{
		Use:     "devices",
		Short:   "List the devices that the verifier knows",
		Long:    "Lists the devices with their enrolment, stage and result. --json prints what GET /api/devices answers.",
		Example: `  factsverifier devices --json | jq '.[] | select(.tier != "affirming") | .id'`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			data, err := p.ask(c.Context(), http.MethodGet, "/api/devices", nil)
			if err != nil {
				return err
			}
			if asJSON {
				_, err := c.OutOrStdout().Write(data)
				return err
			}
			var all []web.Device
			if err := json.Unmarshal(data, &all); err != nil {
				return fail(exitFailed, "", fmt.Errorf("cannot read the verifier's answer: %w", err))
			}
			return printDevices(c.OutOrStdout(), all)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return p.flags(c)
}

func printDevices(w io.Writer, all []web.Device) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "DEVICE\tVENDOR\tMODEL\tSERIAL\tKEY IN\tENROLMENT\tSTAGE\tRESULT\tREPORT")
	for _, d := range all {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\n", d.ID, plain(d.Vendor), plain(d.Model), plain(d.Serial), d.Protection, d.Enrolled, d.Stage, d.Tier, d.Sequence)
	}
	return t.Flush()
}

// plain keeps what a device says of itself from moving the operator's cursor.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
