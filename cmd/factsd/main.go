// Command factsd measures a medical device, compares it with what its
// manufacturer signed, reports to the hospital's verifier, and makes the device
// pause when an extreme is crossed.
//
// It is one binary with two processes: `factsd run` faces the network without
// privileges, `factsd enforce` has the rights to freeze and stop and no network.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
)

// version is set at link time; reference.ParseVersion reads it.
var version = "0.1.0"

// Exit codes, part of the interface.
const (
	exitOK     = 0
	exitFailed = 1 // it ran and ended with an error
	exitUsage  = 2 // wrong use or configuration
	exitNeeds  = 3 // something it needs is missing: TPM, key, state, socket
)

// A failure is an error with its exit code and what to do about it.
type failure struct {
	code int
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func fail(code int, hint string, err error) error { return &failure{code: code, err: err, hint: hint} }

const usage = `Usage: factsd COMMAND -config FILE

Commands:
  run        measure, compare and report (unprivileged, faces the network)
  enforce    hold the pause and carry it out (privileged, no network)
  provision  give this device its identity and, without a TPM, its key; idempotent
  csr        print a certificate request for the device key (for other brokers)
  status     ask the enforcer for the state of the pause
  version    print the version

Examples:
  factsd provision -config /etc/miotfacts/factsd.toml
  factsd enforce -config /etc/miotfacts/factsd.toml
  factsd run -config /etc/miotfacts/factsd.toml

Exit codes: 0 success, 1 ended with an error, 2 wrong use or configuration,
3 something needed is missing (TPM, key, state, socket).
`

func main() {
	if os.Getenv("GOMAXPROCS") == "" {
		// There is never enough to do for a second processor, and handing work
		// to it costs more than the work.
		runtime.GOMAXPROCS(1)
	}
	os.Exit(mainCode(os.Args[1:], os.Stdout, os.Stderr))
}

func mainCode(args []string, stdout, stderr io.Writer) int {
	err := dispatch(args, stdout, stderr)
	if err == nil || errors.Is(err, context.Canceled) {
		return exitOK
	}
	fmt.Fprintf(stderr, "error: %v\n", err)
	var f *failure
	if errors.As(err, &f) {
		if f.hint != "" {
			fmt.Fprintf(stderr, "hint: %s\n", f.hint)
		}
		return f.code
	}
	return exitFailed
}

func dispatch(args []string, stdout, stderr io.Writer) error {
	commands := map[string]func(context.Context, *config, *slog.Logger, io.Writer) error{
		"run": run, "enforce": enforce, "provision": provision, "status": status, "csr": csr,
	}
	if len(args) == 0 {
		return fail(exitUsage, "run factsd -h", errors.New("no command"))
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return nil
	case "version", "-version", "--version":
		fmt.Fprintln(stdout, version)
		return nil
	}
	command, ok := commands[args[0]]
	if !ok {
		return fail(exitUsage, "run factsd -h", fmt.Errorf("unknown command %q", args[0]))
	}
	flags := flag.NewFlagSet("factsd "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	path := flags.String("config", "/etc/miotfacts/factsd.toml", "configuration file")
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return fail(exitUsage, "run factsd -h", err)
	}
	if flags.NArg() > 0 {
		return fail(exitUsage, "run factsd -h", fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	c, err := readConfig(*path)
	if err != nil {
		return fail(exitUsage, "every key is explained in configs/factsd.toml", err)
	}
	log, err := newLogger(c.Log.Level, stderr)
	if err != nil {
		return fail(exitUsage, "write debug, info, warn or error", err)
	}
	// A small heap that is collected often beats a large one on a device
	// with 64 MiB for everything beside the medical application.
	debug.SetGCPercent(50)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return command(ctx, c, log, stdout)
}

func newLogger(level string, w io.Writer) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, fmt.Errorf("cannot use log.level %q: %w", level, err)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}
