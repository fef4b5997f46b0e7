package main

import (
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// A watchdog tells systemd that a process is alive, when it wants to know.
type watchdog struct {
	every time.Duration // 0 when nobody wants to know
	last  time.Time
}

func newWatchdog() *watchdog {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		every = 0
	}
	return &watchdog{every: every / 3}
}

func (w *watchdog) alive() {
	if now := time.Now(); w.every > 0 && now.Sub(w.last) >= w.every {
		w.last = now
		daemon.SdNotify(false, daemon.SdNotifyWatchdog)
	}
}

// A hardwareWatchdog is one that resets the machine when nobody writes to it in
// time (Documentation/watchdog/watchdog-api.rst). How long that is, is the
// driver's matter. The zero value is none.
type hardwareWatchdog struct{ f *os.File }

func openHardwareWatchdog(path string) (hardwareWatchdog, error) {
	if path == "" {
		return hardwareWatchdog{}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return hardwareWatchdog{}, fmt.Errorf("cannot open enforcer.watchdog: %w", err)
	}
	return hardwareWatchdog{f}, nil
}

func (w hardwareWatchdog) alive() {
	if w.f != nil {
		w.f.Write([]byte{0})
	}
}

// close ends the watch, where the driver lets it ("magic close"): who stops the
// enforcer in order must not lose the machine. One that ends otherwise has to be
// back in time.
func (w hardwareWatchdog) close() {
	if w.f != nil {
		w.f.Write([]byte{'V'})
		w.f.Close()
	}
}
