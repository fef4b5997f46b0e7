package failsafe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hookEnd is how long the output of a hook may stay open when it has ended.
const hookEnd = 100 * time.Millisecond

// hook runs a program that the device's maker has put into the folder of hooks,
// with one fixed word and nothing else from outside: no shell, no environment, no
// input. It ends with the step's deadline, together with the processes of its
// group. What it may do is what the enforcer's unit leaves to it. Its success is
// the observed effect, with the first line it says.
func (h *hands) hook(ctx context.Context, name, word string) (string, error) {
	path := filepath.Join(h.hooks, name)
	if h.hooks == "" {
		return "", errors.New("this device has no hooks")
	}
	if err := soundHook(path); err != nil {
		return "", err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer null.Close()
	out, in, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer out.Close()
	// The death signal follows the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	urgent := beOrdinary()
	pid, err := syscall.ForkExec(path, []string{path, word}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: []uintptr{null.Fd(), in.Fd(), in.Fd()},
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	urgent()
	in.Close()
	if err != nil {
		return "", fmt.Errorf("cannot run hook: %w", err)
	}
	said := make(chan string, 1)
	go func() { said <- firstLine(out) }()
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-pid, syscall.SIGKILL) })
	// While it is not yet waited for, its number is its own: also what it left
	// behind ends with it.
	for {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	late := !stop()
	syscall.Kill(-pid, syscall.SIGKILL)
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	out.SetReadDeadline(time.Now().Add(hookEnd)) // somebody who left the group may keep it open
	line := <-said
	switch {
	case late:
		return "", errors.New("the hook did not end in time")
	case err != nil:
		return "", fmt.Errorf("cannot wait for the hook: %w", err)
	case !status.Exited() || status.ExitStatus() != 0:
		return "", fmt.Errorf("the hook ended with status %d: %s", status.ExitStatus(), line)
	}
	return strings.TrimSuffix("the hook succeeded: "+line, ": "), nil
}

// beOrdinary takes the real-time priority away from this thread, so that what it
// starts does not inherit it. The function that it returns brings it back.
func beOrdinary() (undo func()) {
	had, err := unix.SchedGetAttr(0, 0)
	if err != nil || had.Policy == 0 { // SCHED_OTHER
		return func() {}
	}
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0); err != nil {
		return func() {}
	}
	return func() { unix.SchedSetAttr(0, had, 0) }
}

// soundHook refuses a program that others than root could have put there.
func soundHook(path string) error {
	for p := path; ; p = filepath.Dir(p) {
		info, err := os.Lstat(p)
		if err != nil {
			return fmt.Errorf("cannot run hook: %w", err)
		}
		mode, owner := info.Mode(), info.Sys().(*syscall.Stat_t).Uid
		switch {
		case owner != 0:
			return fmt.Errorf("cannot run hook: %s belongs to user %d, not to root", p, owner)
		case p == path && !mode.IsRegular(), p != path && !mode.IsDir():
			return fmt.Errorf("cannot run hook: %s is of type %v", p, mode.Type())
		case mode&0o022 != 0 && (p == path || mode&fs.ModeSticky == 0):
			return fmt.Errorf("cannot run hook: others may write to %s", p)
		case p == path && mode&0o100 == 0:
			return fmt.Errorf("cannot run hook: %s is not executable", p)
		}
		if p == "/" {
			return nil
		}
	}
}

// firstLine returns the first line of r, and reads on until nobody writes.
func firstLine(r io.Reader) string {
	data, _ := io.ReadAll(io.LimitReader(r, maxObserved))
	io.Copy(io.Discard, r)
	line, _, _ := strings.Cut(string(data), "\n")
	return clip(line, maxObserved)
}
