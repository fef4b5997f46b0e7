// Command demolabel shows the components facts label on this machine, from the text
// that a manufacturer writes to the day on which a hospital inspects: the device of
// Table I and the two scanners of section VI of Gleissner et al., "Improving IT
// Security of Medical IoT Devices".
//
// The program that it runs is the shipped one, the devices are EXAMPLES, and it says
// so. What it prints is what it saw; it ends with the number of checks, and fails
// when one fails. OUT=DIR keeps what it makes.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := demo(ctx, os.Getenv("OUT"), os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// A story is a run of the demo.
type story struct {
	ctx            context.Context
	out            io.Writer
	root, dir      string // of the repository; where all is made
	program        string
	checks, failed int
}

func demo(ctx context.Context, keep string, out io.Writer) (ok bool, err error) {
	s := &story{ctx: ctx, out: out, dir: keep}
	if keep == "" {
		if s.dir, err = os.MkdirTemp("", "miotfacts-label-"); err != nil {
			return false, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	} else if err = os.Mkdir(keep, 0o755); err != nil {
		return false, fmt.Errorf("OUT must name a new folder: %w", err)
	}
	bin, err := os.MkdirTemp("", "miotfacts-label-bin-")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(bin)) }()
	s.program = filepath.Join(bin, "factsctl")
	s.say("miotfacts label demo. All devices, companies and flaws in it are EXAMPLES: the device of Table I and the two")
	s.say("scanners of section VI of the paper, where their rows are open filled with made-up values. The program is the real one.")
	if err := s.build(); err != nil {
		return false, err
	}
	for _, part := range []func() error{s.sign, s.render, s.scan, s.date, s.talk, s.rank} {
		if err := part(); err != nil {
			return false, err
		}
	}
	s.say("\n%d of %d checks passed. All of it is an EXAMPLE.", s.checks-s.failed, s.checks)
	return s.failed == 0, nil
}

func (s *story) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

func (s *story) check(ok bool, format string, args ...any) {
	mark := "ok  "
	s.checks++
	if !ok {
		s.failed++
		mark = "FAIL"
	}
	s.say("  %s "+format, append([]any{mark}, args...)...)
}

func (s *story) path(name string) string { return filepath.Join(s.dir, name) }

// build makes the program and brings the examples.
func (s *story) build() error {
	mod, err := exec.CommandContext(s.ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("cannot find the repository: %w", err)
	}
	s.root = filepath.Dir(strings.TrimSpace(string(mod)))
	cmd := exec.CommandContext(s.ctx, "go", "build", "-o", s.program, "./cmd/factsctl")
	cmd.Dir = s.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build factsctl: %w\n%s", err, out)
	}
	for from, to := range map[string]string{
		"configs/label-example.toml": "wearable.toml", "configs/label-scanner-wired.toml": "wired.toml", "configs/label-scanner-wireless.toml": "wireless.toml",
		"configs/label-example.cdx.json": "wearable.cdx.json", "configs/label-example-vulnerabilities/osv.json": "advisories/osv.json",
		"configs/label-example-vulnerabilities/vex.json": "advisories/vex.json", "configs/talk-parties-example.toml": "parties.toml",
		"testdata/talk/networks.mmdb": "networks.mmdb", "testdata/talk/wired.pcap": "wired.pcap", "testdata/talk/wireless.pcap": "wireless.pcap",
	} {
		data, err := os.ReadFile(filepath.Join(s.root, from))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(s.path(to)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(s.path(to), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// An answer is what the program said, and its exit code.
type answer struct {
	out, errs string
	code      int
}

// factsctl runs the program as people do, and shows the command.
func (s *story) factsctl(args ...string) (answer, error) {
	s.say("\n  $ factsctl %s", strings.Join(args, " "))
	cmd := exec.CommandContext(s.ctx, s.program, args...)
	cmd.Dir = s.dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && s.ctx.Err() == nil {
		return answer{out.String(), errs.String(), exit.ExitCode()}, nil
	}
	return answer{out.String(), errs.String(), 0}, err
}

// show prints what the program said.
func (s *story) show(text string) {
	for line := range strings.Lines(text) {
		s.say("  | %s", strings.TrimRight(line, "\n"))
	}
}
