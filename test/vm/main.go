// Command vm puts an ARM64 machine together from Debian's packages and boots it:
// firmware that measures, a software TPM, kernel, systemd, factsd with its real
// units, and a SIMULATED infusion monitor as medical application. The verifier runs
// on this machine, which the other one finds at 10.0.2.2. Its tests do the same with
// other firmware, init and agent, and press the reset button.
//
// Packages are downloaded by an apt of their own and only unpacked; nothing of them
// runs here. This machine stays as it is but for a cache folder, and nothing is left
// running. It needs root, because files of a root file system belong to root. The
// reset button loses what Linux has not written; what it has written stays, as on a
// disk without a cache of its own. Nothing here is part of the product.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := interactive(ctx, os.Getenv("VARIANT")); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// interactive boots a variant, brings it into operation, and leaves its console to
// the person at this terminal.
func interactive(ctx context.Context, name string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("cannot make the machine: only root can lay a root file system")
	}
	if name == "" {
		name = "edk2"
	}
	var v variant
	var names []string
	for _, each := range variants() {
		names = append(names, each.name)
		if each.name == name {
			v = each
		}
	}
	if v.name == "" {
		return fmt.Errorf("cannot make variant %q: there are %s", name, strings.Join(names, ", "))
	}
	dir, err := os.MkdirTemp("", "miotfacts-vm-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	say("Variant %s: %s. Others: VARIANT=... of %s.", v.name, v.says, strings.Join(names, ", "))
	k, err := newKit(ctx, ".", dir)
	if err != nil {
		return err
	}
	d, err := newDevice(ctx, k, v)
	if err != nil {
		return err
	}
	defer d.close()
	say("Booting; it takes about 20 s on a free core. The console's log is %s.", d.m.path("console.log"))
	if err := d.m.start(ctx); err != nil {
		return err
	}
	if err := d.m.up(ctx); err != nil {
		return err
	}
	if !v.busybox {
		if err := d.m.awaits(ctx, 5*time.Minute, "systemd is running", "systemctl is-system-running --wait"); err != nil {
			return err
		}
	}
	if err := d.sign(ctx, 1); err != nil {
		return err
	}
	if err := d.hospital(); err != nil {
		return err
	}
	if err := d.provision(ctx); err != nil {
		return err
	}
	if err := d.admit(); err != nil {
		return err
	}
	say(`
Device %s is operating. The hospital sees it at
    %s/devices/%s
Type commands for the machine, each on a line; they run there as root. Try
    factsd status
    journalctl -u factsd -n 20
    echo 600 >/run/medical/flow      # beyond the extreme: it is paused and frozen
    reset                            # this word presses the machine's reset button
The operator's signature ends a pause (in another terminal; PAUSE is on the page):
    %s resume --device %s --pause PAUSE --key %s --out /tmp/resume.cbor
    curl --data-binary @/tmp/resume.cbor %s/api/devices/%s/commands
An empty line or the end of input switches it off.
`, d.id, d.Web, d.id, filepath.Join(k.bin, "factsctl"), d.id, d.Path("resume.key"), d.Web, d.id)
	return d.converse(ctx, os.Stdin, os.Stdout)
}
