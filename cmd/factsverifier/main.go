// Command factsverifier is the hospital's side: devices connect to it, it checks
// and appraises what they say, and shows the fleet. Operators approve and revoke
// devices through a socket on the same machine.
//
// It trusts its configuration, the root keys in it, and who may open its admin
// socket; it trusts nothing that comes over the network.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// The exit codes. Scripts branch on them; they do not change.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitNeeds  = 3
)

const exitCodesHelp = `factsverifier ends with one of these exit codes:

  0  done; for run: it was told to stop
  1  it ran and ended with an error, or the verifier said no
  2  usage or configuration: an unknown command, flag or key, a value that
     cannot be, a file that would be overwritten, a policy that checks nothing
  3  something it needs is missing: a file, a port, the running verifier`

const defaultConfig = "/etc/miotfacts/factsverifier.toml"

// A failure is an error with its exit code and what to do about it.
type failure struct {
	code int
	hint string
	err  error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(code int, hint string, err error) error { return &failure{code, hint, err} }

func main() { os.Exit(mainCode()) }

func mainCode() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return report(os.Stderr, newRootCommand().ExecuteContext(ctx))
}

// report prints err as error and hint lines and returns its exit code. What has
// no code of its own comes from cobra: wrong usage.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	f, ok := errors.AsType[*failure](err)
	if !ok {
		f = &failure{exitUsage, "see factsverifier --help", err}
	}
	fmt.Fprintf(w, "error: %v\n", err)
	if f.hint != "" {
		fmt.Fprintf(w, "hint: %s\n", f.hint)
	}
	return f.code
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "factsverifier",
		Short: "Check what medical devices say of themselves",
		Long: `factsverifier is the hospital's side of runtime facts. Devices connect to its
broker; it checks their signatures, chains and TPM quotes, appraises their facts
anew under the manufacturer's manifest, signs a result, and shows the fleet.

Data goes to standard output, messages to standard error. See factsverifier help
exit-codes.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.AddCommand(
		newInitCommand(),
		newRunCommand(),
		newDevicesCommand(),
		newApproveCommand(),
		newRevokeCommand(),
		newDecommissionCommand(),
		newReplaceCommand(),
		newChallengeCommand(),
		newRenewCommand(),
		newLabelsCommand(),
		newTasksCommand(),
		newInspectedCommand(),
		newObservationsCommand(),
		newManCommand(),
		&cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesHelp},
	)
	return root
}

// version is what the build says; a build outside of version control is a
// development build.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && strings.HasPrefix(info.Main.Version, "v") {
		return strings.TrimPrefix(info.Main.Version, "v")
	}
	return "0.1.0-dev"
}
