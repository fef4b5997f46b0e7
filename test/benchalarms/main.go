// Command benchalarms asks whether factsctl tells the truth about false alarms,
// and how soon rules see what is wrong. It records this machine with the factsctl
// that it is given, drafts manifests from some of the runs, predicts how many of
// others deviate, and counts. Then it does to the machine what an attack or a
// fault would do, records that, does the same to a service of a systemd in a
// container, and puts into sound runs what it cannot do.
//
// The runs are real, of this machine and of the present hour. Chance decides of
// each whether the draft sees it or is tried on it, so that what changes on the
// machine in that hour is in both, and a run of either kind is as likely to stand
// beside one that the draft saw. The runs made later have no such luck.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "wait" { // the watched process
		time.Sleep(math.MaxInt64)
	}
	if len(os.Args) == 2 && os.Args[1] == "burn" {
		for time.Now().Year() > 0 {
		}
	}
	b := &bench{out: os.Stdout, after: 5 * time.Second, sick: 12 * time.Second}
	flag.IntVar(&b.runs, "runs", 60, "golden runs, and as many fresh and later ones; 59 cover 95 % of all with 95 % confidence")
	flag.DurationVar(&b.length, "for", 4*time.Second, "length of a run")
	flag.DurationVar(&b.period, "period", 500*time.Millisecond, "time between two rounds")
	flag.DurationVar(&b.long, "long", 150*time.Second, "length of the runs that anomalies are put into")
	flag.IntVar(&b.repeats, "repeats", 5, "how often each anomaly is made")
	flag.IntVar(&b.sound, "sound", 20, "sound runs of a service in a container")
	only := flag.Bool("services", false, "only do to a service of systemd, in a container, what is done there")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "benchalarms: give the path of a factsctl")
		os.Exit(2)
	}
	b.factsctl = flag.Arg(0)
	var err error
	if b.self, err = os.Executable(); err == nil {
		err = b.within(func() error {
			if *only {
				return b.services()
			}
			return b.run()
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchalarms:", err)
		os.Exit(1)
	}
}

// A bench records into dir.
type bench struct {
	factsctl             string
	runs, repeats, sound int
	length, period, long time.Duration
	after, sick          time.Duration // when an anomaly is made, since the recording was started, and how long that is
	out                  io.Writer

	self   string // this program
	dir    string
	waiter string    // executable of the watched process
	held   *exec.Cmd // that process
}

// startup is by how much at most a recording begins after its program was started:
// what is told as time since the onset of an anomaly is up to that much too long.
const startup = 300 * time.Millisecond

// within does what is to be done in a folder that does not stay.
func (b *bench) within(do func() error) (err error) {
	if b.dir, err = os.MkdirTemp("", "benchalarms-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	return do()
}

func (b *bench) run() error {
	b.waiter = filepath.Join(b.dir, "watched")
	if err := os.Link(b.self, b.waiter); err != nil {
		if err := copyFile(b.self, b.waiter); err != nil {
			return err
		}
	}
	if err := b.hold(); err != nil {
		return err
	}
	defer func() { end(b.held) }()

	host, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Fprintf(b.out, "%d processors, Linux %s; runs of %v with a round every %v\n", runtime.NumCPU(), strings.TrimSpace(string(host)), b.length, b.period)
	fmt.Fprintf(b.out, "%d runs, of which chance made %d golden and %d fresh; then %d runs later\n", 2*b.runs, b.runs, b.runs, b.runs)
	for i, n := range rand.Perm(2 * b.runs) {
		name := "golden.jsonl"
		if n < b.runs {
			name = "fresh.jsonl"
		}
		if err := b.record(name, b.length); err != nil {
			return err
		}
		if (i+1)%20 == 0 {
			fmt.Fprintf(os.Stderr, "benchalarms: %d of %d runs\n", i+1, 2*b.runs)
		}
	}
	for range b.runs {
		if err := b.record("later.jsonl", b.length); err != nil {
			return err
		}
	}
	for _, margin := range []int{25, 1} {
		draft := fmt.Sprintf("draft%d.toml", margin)
		if _, err := b.ctl("manifest", "draft", "golden.jsonl", "--vendor", "bench", "--model", "this machine", "--margin", strconv.Itoa(margin), "--out", draft); err != nil {
			return err
		}
		if err := b.unproposed(draft); err != nil {
			return err
		}
		for _, fresh := range []string{"fresh", "later"} {
			out, err := b.ctl("simulate", draft, "golden.jsonl", "--leave-one-out", "--margin", strconv.Itoa(margin), "--fresh", fresh+".jsonl")
			if err != nil {
				return err
			}
			_, table, _ := strings.Cut(out, "\npredicted from")
			fmt.Fprintf(b.out, "\nmargin %d %%, %s runs: predicted from%s", margin, fresh, table)
		}
	}
	if err := b.anomalies("draft25.toml"); err != nil {
		return err
	}
	return b.services()
}

// unproposed prints for which facts a draft has no rule because they could not be
// read in every round: nothing sees an anomaly of those.
func (b *bench) unproposed(draft string) error {
	text, err := os.ReadFile(filepath.Join(b.dir, draft))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "#   "); ok && strings.Contains(rest, "could not be read") {
			fmt.Fprintf(b.out, "%s has no rule of %s", draft, rest)
		}
	}
	return nil
}

// anomalies says how soon the rules of a draft saw what was done to this machine,
// and would have seen what was put into its recordings.
func (b *bench) anomalies(draft string) error {
	fmt.Fprintf(b.out, "\nanomalies that were made, %d times each, and recorded (times up to %v too long):\n", b.repeats, startup)
	for _, x := range []struct {
		name string
		make func() (undo func(), err error)
	}{
		{"a-port-is-opened", b.openPort},
		{"a-watched-process-is-killed", b.kill},
		{"every-processor-is-taken", b.burn},
	} {
		name := x.name + ".jsonl"
		for range b.repeats {
			done := make(chan error, 1)
			go func() { done <- b.record(name, b.sick) }()
			time.Sleep(b.after)
			undo, err := x.make()
			err = errors.Join(err, <-done)
			if undo != nil {
				undo()
			}
			if err != nil {
				return fmt.Errorf("%s: %w", x.name, err)
			}
			if err := b.record("rest.jsonl", b.after/2); err != nil { // it dies away
				return err
			}
		}
		if err := b.detections(draft, name, "fresh.jsonl", b.after-startup); err != nil {
			return err
		}
	}
	fmt.Fprintf(b.out, "\nanomalies that were put into two sound runs of %v, by factsctl simulate --inject:\n", b.long)
	for range 2 {
		if err := b.record("long.jsonl", b.long); err != nil {
			return err
		}
	}
	return b.detections(draft, "jump,drift,stuck,service-stopped,new-listener,process-load", "long.jsonl", b.long/4)
}

// detections prints the part of a simulation that is about anomalies.
func (b *bench) detections(draft, what, recording string, onset time.Duration) error {
	out, err := b.ctl("simulate", draft, recording, "--inject", what, "--onset", onset.String())
	if err != nil {
		return err
	}
	shown := false
	for line := range strings.Lines(out) {
		shown = shown || strings.HasPrefix(line, "recorded: ") || strings.HasPrefix(line, "injected: ")
		if shown {
			fmt.Fprint(b.out, line)
		}
	}
	if !shown {
		return fmt.Errorf("factsctl said nothing of %s:\n%s", what, out)
	}
	return nil
}

func (b *bench) record(name string, length time.Duration) error {
	_, err := b.ctl("record", "--out", name, "--append", "--for", length.String(), "--period", b.period.String(), "--process", b.waiter)
	return err
}

func (b *bench) ctl(args ...string) (string, error) {
	cmd := exec.Command(b.factsctl, args...)
	cmd.Dir = b.dir
	var out, problems strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("factsctl %s: %w: %s", strings.Join(args, " "), err, problems.String())
	}
	return out.String(), nil
}

// hold starts the watched process.
func (b *bench) hold() error {
	b.held = exec.Command(b.waiter, "wait")
	b.held.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return b.held.Start()
}

func end(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

func (b *bench) openPort() (func(), error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return func() { l.Close() }, nil
}

func (b *bench) kill() (func(), error) {
	end(b.held)
	return func() {
		if err := b.hold(); err != nil {
			fmt.Fprintln(os.Stderr, "benchalarms:", err)
		}
	}, nil
}

func (b *bench) burn() (func(), error) {
	var all []*exec.Cmd
	undo := func() {
		for _, cmd := range all {
			end(cmd)
		}
	}
	for range runtime.NumCPU() {
		cmd := exec.Command(b.self, "burn")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			undo()
			return nil, err
		}
		all = append(all, cmd)
	}
	return undo, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
