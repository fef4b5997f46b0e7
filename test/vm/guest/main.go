// Command guest is the test's hand inside the machine: it carries out what comes
// over the virtio port miotfacts.test, one JSON object a line. It is no part of the
// product, trusts whoever is at the other end, and is in no image but this test's.
// It also is the machine's medical application, SIMULATED.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/test/lab"
)

// A Request runs a script.
type request struct {
	ID      int    `json:"id"`
	Script  string `json:"script"`
	Stdin   []byte `json:"stdin"`
	Seconds int    `json:"seconds"` // at most that long
}

type answer struct {
	ID     int    `json:"id"`     // 0 greets
	Boot   string `json:"boot"`   // the kernel's id of this boot, in a greeting
	Output []byte `json:"output"` // both streams
	Code   int    `json:"code"`   // -1 when it did not end by itself
}

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == "infusion":
		err = lab.Infusion(os.Args[2])
	case len(os.Args) == 1:
		err = serve()
	default:
		err = errors.New("usage: guest [infusion DIR]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func serve() error {
	ports, err := filepath.Glob("/dev/vport*p*")
	if err != nil || len(ports) != 1 {
		return fmt.Errorf("want one virtio port, have %q", ports)
	}
	port, err := os.OpenFile(ports[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer port.Close()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	out := json.NewEncoder(port)
	if err := out.Encode(answer{Boot: strings.TrimSpace(string(boot))}); err != nil {
		return err
	}
	in := json.NewDecoder(port)
	for {
		var r request
		if err := in.Decode(&r); err != nil {
			return err
		}
		if err := out.Encode(carryOut(r)); err != nil {
			return err
		}
	}
}

func carryOut(r request) answer {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Seconds)*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", r.Script)
	var both bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(r.Stdin), &both, &both
	cmd.WaitDelay = time.Second // what it left in the background may hold the streams
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0", "LC_ALL=C")
	a := answer{ID: r.ID}
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		a.Code = -1
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Exited() {
			a.Code = exit.ExitCode()
		}
	}
	a.Output = both.Bytes()
	return a
}
