package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// The exit codes. Scripts branch on them; they do not change.
const (
	exitOK      = 0
	exitRefused = 1
	exitUsage   = 2
	exitIO      = 3
)

const exitCodesHelp = `factsctl ends with one of these exit codes:

  0  done; what was checked is in order
  1  refused: the answer is no. A manifest with problems, a signature, key,
     validity, sequence or model that does not hold
  2  usage or bad input: an unknown command or flag, a file that is not what it
     should be, a missing or wrong passphrase, a file that would be overwritten
  3  input or output failed: a file or a machine cannot be reached`

// A failure is an error with its exit code and what to do about it.
type failure struct {
	code int
	hint string
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(code int, hint, format string, args ...any) error {
	return &failure{code, hint, fmt.Errorf(format, args...)}
}

// report prints err as error and hint lines and returns its exit code. What has
// no code of its own comes from cobra: wrong usage.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	f, ok := errors.AsType[*failure](err)
	if !ok {
		f = &failure{exitUsage, "see factsctl --help", err}
	}
	fmt.Fprintf(w, "error: %v\n", err)
	if f.hint != "" {
		fmt.Fprintf(w, "hint: %s\n", f.hint)
	}
	return f.code
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "factsctl",
		Short: "Make, check and sign runtime facts of medical devices",
		Long: `factsctl is the workbench for runtime facts: reference values that a
manufacturer signs for the integration, operating and fail-safe stage of a
device, and what devices show and say about themselves.

Data goes to standard output, messages to standard error. Where a program may
read the output, --json makes it JSON. See factsctl help exit-codes.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.AddCommand(
		newKeyCommand(),
		newKeysCommand(),
		newManifestCommand(),
		newProvisionCommand(),
		newRecordCommand(),
		newSimulateCommand(),
		newEnergyCommand(),
		newFactsCommand(),
		newEvidenceCommand(),
		newBootCommand(),
		newLabelCommand(),
		newReportCommand(),
		newResumeCommand(),
		newCommandCommand(),
		newWatchCommand(),
		newMaturityCommand(),
		newTalkCommand(),
		newManCommand(),
		&cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesHelp},
	)
	return root
}

// newGroup returns a command that only holds others.
func newGroup(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		return fail(exitUsage, "see "+c.CommandPath()+" --help", "%s needs a subcommand", c.CommandPath())
	}}
	c.AddCommand(commands...)
	return c
}

// version is what the build says; a build outside of version control is a
// development build.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && strings.HasPrefix(info.Main.Version, "v") {
		return strings.TrimPrefix(info.Main.Version, "v")
	}
	return "0.1.0-dev"
}

// read returns the content of the file called name, "-" for standard input. It
// reads one byte more than limit at most, so that what is too large is refused
// by its reader and never held.
func read(c *cobra.Command, name string, limit int64) ([]byte, error) {
	in := c.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, ioFailure(err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, ioFailure(err)
	}
	return data, nil
}

func ioFailure(err error) error {
	hint := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = "check the path"
	case errors.Is(err, fs.ErrPermission):
		hint = "run as a user who may, or change the permissions"
	}
	return fail(exitIO, hint, "%w", err)
}

// write puts data into the file called name, whole or not at all; "-" and ""
// are standard output.
func write(c *cobra.Command, name string, data []byte) error {
	if name == "-" || name == "" {
		if _, err := c.OutOrStdout().Write(data); err != nil {
			return ioFailure(err)
		}
		return nil
	}
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() { // a device or pipe stays what it is
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return ioFailure(err)
		}
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".factsctl-*")
	if err != nil {
		return ioFailure(err)
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return ioFailure(fmt.Errorf("cannot write %s: %w", name, err))
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return ioFailure(err)
	}
	return nil
}

// note prints a message for people on standard error.
func note(c *cobra.Command, format string, args ...any) {
	fmt.Fprintf(c.ErrOrStderr(), format+"\n", args...)
}

// lint checks files one by one and prints what check found, or that it found
// nothing. check also says whether the file may be used as it is.
func lint(c *cobra.Command, names []string, limit int64, asJSON bool, wrongWords string, check func(name string, data []byte) (ok bool, found []finding)) error {
	all := []finding{}
	wrong := 0
	for _, name := range names {
		data, err := read(c, name, limit)
		if err != nil {
			return err
		}
		ok, found := check(name, data)
		if !ok {
			wrong++
		}
		all = append(all, found...)
		if len(found) == 0 && !asJSON {
			fmt.Fprintf(c.OutOrStdout(), "%s: no complaint\n", name)
		}
	}
	if asJSON {
		if err := printJSON(c.OutOrStdout(), all); err != nil {
			return err
		}
	} else {
		for _, f := range all {
			f.print(c.OutOrStdout())
		}
	}
	if wrong > 0 {
		return fail(exitRefused, "correct what is listed, then run lint again", "%d of %d "+wrongWords, wrong, len(names))
	}
	return nil
}
