package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// schedRR is SCHED_RR of linux/sched.h, sched(7).
const schedRR = 2

// comeFirst gives all threads of this process the real-time priority, of 1 to 99,
// so that a pause waits for no ordinary process, whatever their number and group.
// Threads that are made later have it from the one that makes them.
func comeFirst(priority int) error {
	for again := true; again; {
		again = false
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("cannot list threads: %w", err)
		}
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			have, err := unix.SchedGetAttr(tid, 0)
			if errors.Is(err, unix.ESRCH) || err == nil && have.Policy == schedRR && have.Priority == uint32(priority) {
				continue
			}
			if err == nil {
				err = unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: schedRR, Priority: uint32(priority)}, 0)
			}
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("cannot take real-time priority %d: %w", priority, err)
			}
			again = true // it may have made another one before
		}
	}
	return nil
}

// stayInMemory keeps the program in memory, and what it uses from now on once it
// has been used, so that a pause does not wait for a disk when memory is short.
func stayInMemory() error {
	// With a limit a later allocation could fail, and end the process.
	if err := lockAnything(); err != nil {
		return fmt.Errorf("cannot stay in memory: %w", err)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("cannot stay in memory: %w", err)
	}
	return eachMapping(func(begin, end uintptr) error {
		if _, _, no := unix.Syscall(unix.SYS_MLOCK, begin, end-begin, 0); no != 0 {
			return fmt.Errorf("cannot stay in memory: %w", no)
		}
		return nil
	})
}

// lockAnything makes sure that no limit holds for locked memory (mlock(2)).
func lockAnything() error {
	var caps [2]unix.CapUserData
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err == nil && caps[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0 {
		return nil
	}
	infinite := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &have); err != nil || have.Cur == infinite.Cur {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &infinite); err != nil {
		return fmt.Errorf("at most %d bytes may be locked: %w", have.Cur, err)
	}
	return nil
}

// eachMapping calls f with each mapping of the program's own file
// (proc_pid_maps(5)).
func eachMapping(f func(begin, end uintptr) error) error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("cannot tell the own executable: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("cannot list mappings: %w", err)
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		if !strings.HasSuffix(lines.Text(), " "+exe) {
			continue
		}
		var begin, end uintptr
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x ", &begin, &end); err != nil {
			return fmt.Errorf("cannot read mapping %q: %w", lines.Text(), err)
		}
		if err := f(begin, end); err != nil {
			return err
		}
	}
	return lines.Err()
}
