// Command demo shows the whole of miotfacts on this machine, with nothing
// faked but the medical application: a SIMULATED infusion monitor. It records
// the machine, signs a manifest, starts verifier, enforcer and agent, walks
// through integration, operating and fail-safe, and attacks what is on the wire.
//
// It is a program for people to watch; what it says is what it observed. It
// ends with a table of checks, and fails when one fails.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/miotfacts/miotfacts/test/lab"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "infusion" {
		if err := lab.Infusion(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := demo(ctx, os.Getenv("ONCE") != "")
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(1)
	}
}

// A check is one line of the table at the end.
type check struct {
	what string
	ok   bool
	saw  string
}

type story struct {
	*lab.Lab
	id     string // of the device
	run    *lab.Proc
	checks []check
}

func (s *story) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func (s *story) check(ok bool, what, saw string) bool {
	s.checks = append(s.checks, check{what, ok, saw})
	mark := "ok  "
	if !ok {
		mark = "FAIL"
	}
	if saw != "" {
		s.say("  %s %s: %s", mark, what, saw)
	} else {
		s.say("  %s %s", mark, what)
	}
	return ok
}

func demo(ctx context.Context, once bool) (bool, error) {
	begun := time.Now()
	l, err := lab.New(ctx)
	if err != nil {
		return false, err
	}
	s := &story{Lab: l}
	defer s.Clean()
	s.say("miotfacts demo. The infusion monitor is SIMULATED; everything else is real.\n")
	for _, part := range []func() error{s.prepare, s.sign, s.boot, s.operate, s.failsafe, s.resume, s.attack} {
		if err := part(); err != nil {
			s.logs()
			return false, err
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	failed := s.table(time.Since(begun))
	if failed > 0 {
		s.logs()
	}
	if !once && failed == 0 {
		s.say("\nThe page stays up until Ctrl-C: %s", s.Web)
		<-ctx.Done()
	}
	return failed == 0, nil
}

// prepare gets what the demo needs and builds the three programs.
func (s *story) prepare() error {
	s.say("Preparation")
	if _, err := exec.LookPath("swtpm"); err != nil {
		if err := installTPM(s); err != nil {
			s.say("  no software TPM: %v", err)
		}
	}
	switch err := s.StartTPM(); err {
	case nil:
		s.say("  software TPM (swtpm) started: it shows the protocol, its keys are files of this machine")
	default:
		s.say("  going on with a key file, and every page will say so: %v", err)
	}
	if err := s.Build(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := s.StartWorkload(self); err != nil {
		return err
	}
	if s.Cgroup != "" {
		s.say("  simulated infusion monitor running in its own cgroup, pumping (nothing) at 120 ml/h")
	} else {
		s.say("  not root, or no cgroup v2: the workload will be stopped by signal, not frozen")
		s.say("  simulated infusion monitor running, pumping (nothing) at 120 ml/h")
	}
	return nil
}

// installTPM installs swtpm where that can be done without asking.
func installTPM(s *story) error {
	if os.Geteuid() != 0 {
		return errors.New("swtpm is not installed (apt-get install swtpm)")
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return errors.New("swtpm is not installed, and there is no apt-get here")
	}
	s.say("  installing swtpm with apt-get")
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", "swtpm"}} {
		cmd := exec.CommandContext(s.Ctx, apt, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, out)
		}
	}
	return nil
}

// table prints all checks and returns how many failed.
func (s *story) table(took time.Duration) int {
	failed := 0
	s.say("\n%-4s  %s", "", "Checks")
	for _, c := range s.checks {
		mark := "ok"
		if !c.ok {
			mark = "FAIL"
			failed++
		}
		s.say("%-4s  %s", mark, c.what)
	}
	key := "TPM (software TPM swtpm)"
	if s.TPM == "" {
		key = "key file, no TPM"
	}
	s.say("\n%d of %d checks passed in %.0f s; device key: %s", len(s.checks)-failed, len(s.checks), took.Seconds(), key)
	return failed
}

// logs prints what the programs said, for the case that something went wrong.
func (s *story) logs() {
	for _, p := range s.Procs {
		data, err := os.ReadFile(p.Log)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		if len(lines) > 40 {
			lines = lines[len(lines)-40:]
		}
		fmt.Fprintf(os.Stderr, "--- %s said:\n%s\n", p.Name, strings.Join(lines, "\n"))
	}
}
