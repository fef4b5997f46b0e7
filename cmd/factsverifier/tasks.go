package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/verifier/web"
)

func newTasksCommand() *cobra.Command {
	var p place
	var asJSON bool
	var ics, lang string
	c := &cobra.Command{
		Use:   "tasks",
		Short: "List the days of inspection, and what to do on them",
		Long: `Lists the best-before-inspection day of each device with a valid label, the earliest
first. When the day has come, it lists the tasks, with what the verifier knows of
each already. --ics writes all days and tasks for a calendar (iCalendar, RFC 5545);
written again, its entries take the place of the old ones.`,
		Example: `  factsverifier tasks
  factsverifier tasks --ics inspections.ics --lang de
  factsverifier tasks --json | jq '.[] | select(.due)'`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if ics != "" {
				data, err := p.ask(c.Context(), http.MethodGet, "/api/tasks.ics?lang="+url.QueryEscape(lang), nil)
				if err != nil {
					return err
				}
				if err := os.WriteFile(ics, data, 0o644); err != nil {
					return fail(exitNeeds, "", fmt.Errorf("cannot write calendar: %w", err))
				}
				return nil
			}
			data, err := p.ask(c.Context(), http.MethodGet, "/api/tasks", nil)
			if err != nil {
				return err
			}
			if asJSON {
				_, err := c.OutOrStdout().Write(data)
				return err
			}
			var all []web.Tasks
			if err := json.Unmarshal(data, &all); err != nil {
				return fail(exitFailed, "", fmt.Errorf("cannot read the verifier's answer: %w", err))
			}
			for _, d := range all {
				state := "inspect until"
				if d.Due {
					state = "INSPECT, due since"
				}
				fmt.Fprintf(c.OutOrStdout(), "%s  %s %s %s: %s %s\n", d.Device, plain(d.Vendor), plain(d.Model), plain(d.Serial), state, d.On)
				if !d.Due {
					continue
				}
				for _, t := range d.Tasks {
					fmt.Fprintf(c.OutOrStdout(), "  - %s\n", t.Text)
					if t.Known != "" {
						fmt.Fprintf(c.OutOrStdout(), "    %s\n", plain(t.Known))
					}
				}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: what GET /api/tasks answers")
	c.Flags().StringVar(&ics, "ics", "", "write a calendar to `FILE` instead")
	c.Flags().StringVar(&lang, "lang", "en", "language of the calendar: en or de")
	c.MarkFlagsMutuallyExclusive("json", "ics")
	return p.flags(c)
}
