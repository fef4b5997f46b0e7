package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/talk"
	"github.com/miotfacts/miotfacts/verifier"
)

// counted is what POST /admin/observations answers to a verifier.Survey.
type counted struct {
	File  []byte   // as factsctl maturity reads it
	Notes []string // what is not told, and why
}

func (a *admin) observations(w http.ResponseWriter, r *http.Request) (int, error) {
	var s verifier.Survey
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&s); err != nil {
		return http.StatusBadRequest, fmt.Errorf("cannot read what to count: %w", err)
	}
	s.Certificates = a.certificates
	c, err := a.verifier.Observations(time.Now().Unix(), a.chronicle, s)
	if err != nil {
		return http.StatusConflict, err
	}
	var out counted
	if out.File, err = c.Data.JSON(); err != nil {
		return http.StatusInternalServerError, err
	}
	out.Notes = c.Notes
	w.Header().Set("Content-Type", "application/json")
	return http.StatusOK, json.NewEncoder(w).Encode(out)
}

func newObservationsCommand() *cobra.Command {
	var p place
	var out, from string
	var s verifier.Survey
	models := map[verifier.Criticality]*[]string{verifier.Low: {}, verifier.Medium: {}, verifier.High: {}}
	var records []string
	c := &cobra.Command{
		Use:   "observations --inventory N --out FILE",
		Short: "Count what the maturity model can know from the store",
		Long: `Counts over the approved devices that have reported, and writes the file that
factsctl maturity takes as --data: TPMs, boot evidence, secure boot, tampering,
updates, services, downtimes. What is not known of a device is not told, and standard
error says so. docs/maturity.md explains each number.

How critical a model is, its holder says: --low, --medium and --high name models.
Whom devices talk to, their own records say (factstalk); --talk reads one for each
device.`,
		Example: `  factsverifier observations --inventory 42 --high pump-1 --low wearable-1 --out clinic-2026.json
  factsctl maturity assess clinic-2026.toml --data clinic-2026.json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if from != "" {
				at, err := time.Parse(time.DateOnly, from)
				if err != nil {
					return fail(exitUsage, "write a date such as 2026-01-31", fmt.Errorf("cannot use --from: %w", err))
				}
				s.From = at.Unix()
			}
			s.Criticality = map[string]verifier.Criticality{}
			for degree, list := range models {
				for _, model := range *list {
					if _, twice := s.Criticality[model]; twice {
						return fail(exitUsage, "name each model once", fmt.Errorf("cannot use %q with two criticalities", model))
					}
					s.Criticality[model] = degree
				}
			}
			for _, name := range records {
				t, err := readTalk(name)
				if err != nil {
					return err
				}
				s.Talk = append(s.Talk, t)
			}
			answer, err := p.ask(c.Context(), http.MethodPost, "/admin/observations", s)
			if err != nil {
				return err
			}
			var got counted
			if err := json.Unmarshal(answer, &got); err != nil {
				return fail(exitFailed, "", fmt.Errorf("cannot read the verifier's answer: %w", err))
			}
			for _, n := range got.Notes {
				fmt.Fprintf(c.ErrOrStderr(), "note: %s\n", n)
			}
			if out == "-" {
				_, err := c.OutOrStdout().Write(got.File)
				return err
			}
			if err := os.WriteFile(out, got.File, 0o644); err != nil {
				return fail(exitNeeds, "", fmt.Errorf("cannot write observations: %w", err))
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&out, "out", "", "`FILE` to write; - for standard output (required)")
	f.Int64Var(&s.Inventory, "inventory", 0, "`NUMBER` of medical IoT devices that the facility has (required)")
	f.StringVar(&from, "from", "", "first `DAY` that counts, 2026-01-31; default: that of the first report")
	f.StringArrayVar(models[verifier.Low], "low", nil, "`MODEL` of low criticality; may be repeated")
	f.StringArrayVar(models[verifier.Medium], "medium", nil, "`MODEL` of medium criticality; may be repeated")
	f.StringArrayVar(models[verifier.High], "high", nil, "`MODEL` of high criticality; may be repeated")
	f.StringArrayVar(&records, "talk", nil, "`FILE` with a device's record of its peers; may be repeated")
	cobra.CheckErr(c.MarkFlagRequired("out"))
	cobra.CheckErr(c.MarkFlagRequired("inventory"))
	return p.flags(c)
}

// readTalk reads a device's record of its peers.
func readTalk(name string) (verifier.Talk, error) {
	f, err := os.Open(name)
	if err != nil {
		return verifier.Talk{}, fail(exitNeeds, "", fmt.Errorf("cannot read record of peers: %w", err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, talk.MaxRecord+1))
	if err != nil {
		return verifier.Talk{}, fail(exitNeeds, "", fmt.Errorf("cannot read record of peers: %w", err))
	}
	r, err := talk.Decode(data)
	if err != nil {
		return verifier.Talk{}, fail(exitUsage, "give the file that factstalk writes", fmt.Errorf("%s: %w", name, err))
	}
	p := r.Protection()
	t := verifier.Talk{Plain: int64(min(p.Plain, 1<<40)), Unseen: int64(min(p.Unseen, 1<<40))}
	if p.Lowest >= 0x0301 { // TLS 1.0 (RFC 8446, section 4.2.1)
		t.Lowest = int64(p.Lowest-0x0301) + 10
	} else if p.Lowest != 0 {
		t.Lowest = 1 // SSL
	}
	return t, nil
}
