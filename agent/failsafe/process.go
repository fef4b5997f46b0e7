package failsafe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	sigStop = uint8(unix.SIGSTOP)
	sigCont = uint8(unix.SIGCONT)
)

// executables returns the names under which the kernel may know target: as it
// is, and with symbolic links resolved.
func executables(target string) []string {
	names := []string{target}
	if real, err := filepath.EvalSymlinks(target); err == nil && real != target {
		names = append(names, real)
	}
	return names
}

// A process is held by a pidfd, so that a signal never reaches another one that
// has got its number since.
type process struct {
	pid int
	fd  int
}

// find returns all processes that run one of the executables. The caller closes
// them, also those that are found where the error says that others cannot be told.
func (h *hands) find(exes []string) ([]process, error) {
	entries, err := os.ReadDir(h.proc)
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var out []process
	var unknown error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		fd, err := h.hold(pid, exes)
		switch {
		case err != nil:
			unknown = err // one of them will do
		case fd >= 0:
			out = append(out, process{pid, fd})
		}
	}
	return out, unknown
}

// hold returns a descriptor of the process pid, -1 when it runs none of the
// executables.
func (h *hands) hold(pid int, exes []string) (int, error) {
	if runs, err := h.runs(pid, exes); err != nil || !runs {
		return -1, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("cannot open process %d: %w", pid, err)
	}
	// Looked at again while it is held: now the number cannot change hands.
	if runs, err := h.runs(pid, exes); err != nil || !runs {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func closeAll(ps []process) {
	for _, p := range ps {
		unix.Close(p.fd)
	}
}

// runs reports whether pid runs one of the executables. An executable that was
// replaced on the disk counts under its old name. Zombies and the kernel's threads
// have none, and what is gone neither.
func (h *hands) runs(pid int, exes []string) (bool, error) {
	exe, err := h.executable(pid)
	return slices.Contains(exes, exe), err
}

// executable returns what a process runs, "" when that is nothing.
func (h *hands) executable(pid int) (string, error) {
	exe, err := os.Readlink(filepath.Join(h.proc, strconv.Itoa(pid), "exe"))
	if err != nil && !isGone(err) {
		return "", fmt.Errorf("cannot tell what process %d runs: %w", pid, err)
	}
	return strings.TrimSuffix(exe, " (deleted)"), nil
}

func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// stopped reports whether the process is in state T (proc_pid_stat(5)).
func (h *hands) stopped(pid int) (bool, error) {
	data, err := os.ReadFile(filepath.Join(h.proc, strconv.Itoa(pid), "stat"))
	if err != nil && !isGone(err) {
		return false, fmt.Errorf("cannot tell whether process %d is stopped: %w", pid, err)
	}
	// The name in parentheses may itself hold parentheses.
	_, rest, ok := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	return ok && strings.HasPrefix(rest, "T"), nil
}

// lookEvery is how often processes are looked at while a signal takes effect:
// the kernel does not announce a stop to anybody but the parent.
const lookEvery = 2 * time.Millisecond

// signal signals every process of an executable until a look at all of them
// finds none that is not as it should be: stopped, running again, or gone.
// Processes that appear in between are signalled too.
func (h *hands) signal(ctx context.Context, target string, sig uint8) (string, error) {
	exes := executables(target)
	sent := map[int]bool{}
	for {
		// Who is found is signalled, whatever of others cannot be told.
		ps, err := h.find(exes)
		left := 0
		for _, p := range ps {
			if sig == sigStop || sig == sigCont {
				is, serr := h.stopped(p.pid)
				if serr != nil {
					err = serr
				} else if is == (sig == sigStop) {
					continue
				}
			}
			left++
			if sent[p.pid] && sig != sigStop && sig != sigCont {
				continue // it has its time to end
			}
			if serr := unix.PidfdSendSignal(p.fd, unix.Signal(sig), nil, 0); serr != nil && !errors.Is(serr, unix.ESRCH) {
				err = fmt.Errorf("cannot signal process %d: %w", p.pid, serr)
			}
			sent[p.pid] = true
		}
		closeAll(ps)
		switch {
		case err != nil:
			return "", err
		case left == 0:
			return h.signalled(sig, len(ps), len(sent)), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%d of %d processes were not as they should be in time", left, len(ps))
		case <-time.After(lookEvery):
		}
	}
}

func (h *hands) signalled(sig uint8, here, sent int) string {
	switch sig {
	case sigStop:
		return fmt.Sprintf("%d processes stopped", here)
	case sigCont:
		return fmt.Sprintf("%d processes run again", here)
	}
	return fmt.Sprintf("%d processes ended, none is left", sent)
}

// waitChange waits until the kernel announces a change of a cgroup file since
// it was last read, or limit is over, or ctx ends.
func waitChange(ctx context.Context, f *os.File, limit time.Duration) error {
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot wait: %w", err)
	}
	wake := os.NewFile(uintptr(end), "eventfd")
	defer wake.Close()
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}, {Fd: int32(end), Events: unix.POLLIN}}
		switch _, err := unix.Poll(fds, int(limit.Milliseconds())); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("cannot wait: %w", err)
		default:
			return ctx.Err()
		}
	}
}
