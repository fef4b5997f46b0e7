// Command factstalk keeps a record, on the device, of whom the device talks to.
// It is optional and off until somebody enables it.
//
// It stands apart from factsd, because it parses bytes that anybody may send: it
// has no key and no way to the enforcer, and gives up all privileges before it
// reads the first packet. It keeps no payload, sends nothing to anybody, and
// trusts nothing that it hears. `factsctl talk --record` shows what it wrote.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
)

// version is set at link time.
var version = "0.1.0"

// Exit codes, part of the interface; the same as those of factsd.
const (
	exitOK     = 0
	exitFailed = 1 // it ran and ended with an error
	exitUsage  = 2 // wrong use or configuration
	exitNeeds  = 3 // something it needs is missing: the right to listen, a user, a folder
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

const usage = `Usage: factstalk COMMAND -config FILE

Commands:
  run        listen and keep the record, until SIGTERM; SIGHUP writes it at once
  version    print the version

Examples:
  factstalk run -config /etc/miotfacts/factstalk.toml
  kill -HUP PID && factsctl talk --record /var/lib/factstalk/talk.record

Exit codes: 0 success, 1 ended with an error, 2 wrong use or configuration,
3 something needed is missing (CAP_NET_RAW, user, folder).
`

func main() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1) // there is one thing to do
	}
	debug.SetGCPercent(50)
	err := dispatch(os.Args[1:], os.Stdout, os.Stderr)
	if err == nil {
		os.Exit(exitOK)
	}
	fmt.Fprintf(os.Stderr, "error: %v\n", err)
	var f *failure
	if errors.As(err, &f) {
		if f.hint != "" {
			fmt.Fprintf(os.Stderr, "hint: %s\n", f.hint)
		}
		os.Exit(f.code)
	}
	os.Exit(exitFailed)
}

func dispatch(args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return fail(exitUsage, "run factstalk -h", errors.New("no command"))
	}
	switch args[0] {
	case "-h", "-help", "--help", "help":
		fmt.Fprint(stdout, usage)
		return nil
	case "version", "-version", "--version":
		fmt.Fprintln(stdout, version)
		return nil
	case "run":
	default:
		return fail(exitUsage, "run factstalk -h", fmt.Errorf("unknown command %q", args[0]))
	}
	flags := flag.NewFlagSet("factstalk run", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	path := flags.String("config", "/etc/miotfacts/factstalk.toml", "configuration file")
	if err := flags.Parse(args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return fail(exitUsage, "run factstalk -h", err)
	}
	if flags.NArg() > 0 {
		return fail(exitUsage, "run factstalk -h", fmt.Errorf("unexpected argument %q", flags.Arg(0)))
	}
	c, err := readConfig(*path)
	if err != nil {
		return fail(exitUsage, "every key is explained in configs/factstalk.toml", err)
	}
	return run(c, slog.New(slog.NewTextHandler(stderr, nil)))
}
