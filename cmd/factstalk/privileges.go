package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// account returns the numbers of a user that is not root.
func account(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot become user %q: %w", name, err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, fmt.Errorf("cannot become user %q: %w", name, err)
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		return 0, 0, fmt.Errorf("cannot become user %q: %w", name, err)
	}
	if uid == 0 {
		return 0, 0, fmt.Errorf("cannot become user %q: it is root", name)
	}
	return uid, gid, nil
}

// become makes this process another user's, in all its threads.
func become(uid, gid int) error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"groups", func() error { return syscall.Setgroups(nil) }},
		{"group", func() error { return syscall.Setgid(gid) }},
		{"user", func() error { return syscall.Setuid(uid) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("cannot change %s: %w", step.what, err)
		}
	}
	return nil
}

// renounce gives up all capabilities, in all threads and for all programs that
// they could start, and makes sure that they are gone.
func renounce() error {
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("cannot renounce new privileges: %w", errno)
	}
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); errno != 0 && errno != unix.EINVAL { // Linux before 4.3 has none
		return fmt.Errorf("cannot renounce capabilities: %w", errno)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none)), 0); errno != 0 {
		return fmt.Errorf("cannot renounce capabilities: %w", errno)
	}
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return fmt.Errorf("cannot see own capabilities: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		for _, set := range []string{"CapPrm:", "CapEff:", "CapAmb:"} {
			if rest, ok := strings.CutPrefix(line, set); ok && strings.Trim(rest, "0 \t\n") != "" {
				return fmt.Errorf("cannot renounce capabilities: %s", strings.TrimSpace(line))
			}
		}
	}
	return nil
}
