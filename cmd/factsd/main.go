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
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
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
  dry-run    say what each step of a pause would do now, and do none of them (--json
             for programs); as root, as enforce, sees what it may not otherwise
  resume     end a pause without network: show its challenge and take the operator's
             answer at this console, or hand in a signed order: resume FILE, - for stdin
  version    print the version

Examples:
  factsd provision -config /etc/miotfacts/factsd.toml
  factsd enforce -config /etc/miotfacts/factsd.toml
  factsd run -config /etc/miotfacts/factsd.toml
  factsd dry-run -config /etc/miotfacts/factsd.toml --json

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
	if len(args) > 0 && args[0] == "resume" {
		return console(args[1:], stdout)
	}
	if len(args) > 0 && args[0] == "dry-run" {
		return rehearse(args[1:], stdout, stderr)
	}
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
	path, rest, err := arguments(args[1:])
	switch {
	case errors.Is(err, errHelp):
		fmt.Fprint(stdout, usage)
		return nil
	case err != nil:
		return fail(exitUsage, "run factsd -h", err)
	case len(rest) > 0:
		return fail(exitUsage, "run factsd -h", fmt.Errorf("unexpected argument %q", rest[0]))
	}
	c, err := readConfig(path)
	if err != nil {
		return fail(exitUsage, "every key is explained in configs/factsd.toml", err)
	}
	late := newLateWriter(stderr)
	defer late.close(time.Second)
	log, err := newLogger(c.Log.Level, late)
	if err != nil {
		return fail(exitUsage, "write debug, info, warn or error", err)
	}
	// A small heap that is collected often beats a large one on a device
	// with 64 MiB for everything beside the medical application. So do small
	// pages: with transparent_hugepage=always a touch of the heap takes 2 MiB.
	debug.SetGCPercent(50)
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		log.Warn("memory may be taken in huge pages", "err", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return command(ctx, c, log, stdout)
}

// rehearse looks at the chain.
func rehearse(args []string, stdout, stderr io.Writer) error {
	isJSON := func(arg string) bool { return arg == "-json" || arg == "--json" }
	asJSON := slices.ContainsFunc(args, isJSON)
	path, rest, err := arguments(slices.DeleteFunc(slices.Clone(args), isJSON))
	switch {
	case errors.Is(err, errHelp):
		fmt.Fprint(stdout, usage)
		return nil
	case err != nil || len(rest) > 0:
		return fail(exitUsage, "run factsd -h", errors.Join(err, fmt.Errorf("cannot use arguments %q", args)))
	}
	c, err := readConfig(path)
	if err != nil {
		return fail(exitUsage, "every key is explained in configs/factsd.toml", err)
	}
	log, err := newLogger("error", stderr)
	if err != nil {
		return err
	}
	return dryRun(c, asJSON, log, stdout)
}

// console ends a pause at the console.
func console(args []string, stdout io.Writer) error {
	path, rest, err := arguments(args)
	switch {
	case errors.Is(err, errHelp):
		fmt.Fprint(stdout, usage)
		return nil
	case err != nil || len(rest) > 1:
		return fail(exitUsage, "run factsd -h", errors.Join(err, fmt.Errorf("cannot use arguments %q", args)))
	}
	c, err := readConfig(path)
	if err != nil {
		return fail(exitUsage, "every key is explained in configs/factsd.toml", err)
	}
	return resume(c, rest, os.Stdin, stdout)
}

var errHelp = errors.New("help is wanted")

// arguments takes the one flag there is from the arguments of a command, by hand:
// package flag weighs 16 kB.
func arguments(args []string) (config string, rest []string, err error) {
	config = "/etc/miotfacts/factsd.toml"
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		name, value, inline := strings.Cut(arg, "=")
		switch {
		case arg == "-h" || arg == "-help" || arg == "--help":
			return "", nil, errHelp
		case name == "-config" || name == "--config":
			if !inline {
				if len(args) == 0 {
					return "", nil, errors.New("-config needs a file")
				}
				value, args = args[0], args[1:]
			}
			config = value
		case strings.HasPrefix(arg, "-") && arg != "-":
			return "", nil, fmt.Errorf("unknown flag %q", arg)
		default:
			rest = append(rest, arg)
		}
	}
	return config, rest, nil
}

func newLogger(level string, w io.Writer) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, fmt.Errorf("cannot use log.level %q: %w", level, err)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}
