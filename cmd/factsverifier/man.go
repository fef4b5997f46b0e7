package main

import (
	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/cmd/manual"
)

func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "man DIR",
		Short:   "Write the manual pages into a directory",
		Long:    "Writes one manual page (section 1) for each command into DIR.",
		Example: `  factsverifier man docs/man && man -l docs/man/factsverifier-run.1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := manual.Write(c.Root(), args[0], exitCodesHelp); err != nil {
				return fail(exitNeeds, "", err)
			}
			return nil
		},
	}
}
