package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Reach is what a process keeps of files and TCP when it gives up the rest.
// What it may read, and what it has open, stays.
type Reach struct {
	Write []string // folders with all below, files and devices it may write to; what is not there is left out
	Ports []uint16 // TCP ports it may connect to; where the kernel tells them apart
}

// Landlock gives up writing to other files and devices, making and removing them,
// starting programs, and TCP to other ports, for this process and for good
// (landlock(7)). It returns the kernel's version of Landlock: below 4 TCP stays as it
// is. Reading is left alone: what cannot be read would not be measured.
func Landlock(r Reach) (version int, err error) {
	if version, err = landlock(r); err != nil {
		return version, fmt.Errorf("cannot give up files: %w", err)
	}
	return version, nil
}

func landlock(r Reach) (int, error) {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("no Landlock here: %w", errno)
	}
	const file = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE
	attr := unix.LandlockRulesetAttr{
		Handled_access_fs: file | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR |
			unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK |
			unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_SYM,
	}
	onFile := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE)
	if version >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
		onFile |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	set, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return 0, errno
	}
	defer unix.Close(int(set))
	for _, path := range r.Write {
		if err := allowBelow(set, path, onFile, attr.Handled_access_fs&^unix.LANDLOCK_ACCESS_FS_EXECUTE); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
	}
	for _, port := range r.Ports {
		if version < 4 {
			break
		}
		rule := struct{ access, port uint64 }{unix.LANDLOCK_ACCESS_NET_CONNECT_TCP, uint64(port)} // struct landlock_net_port_attr
		const netPort = 2                                                                         // LANDLOCK_RULE_NET_PORT
		if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, set, netPort, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
			return 0, fmt.Errorf("port %d: %w", port, errno)
		}
	}
	return int(version), restrict(set)
}

// allowBelow allows to write to a file, or to do all of within below a folder.
func allowBelow(set uintptr, path string, onFile, within uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: onFile, Parent_fd: int32(fd)}
	if info.IsDir() {
		rule.Allowed_access = within
	}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, set, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// restrict puts all threads into a domain, each into one of its own that says the
// same: the kernel has a call for all of them only since Linux 7.0. Threads that come
// later inherit it.
func restrict(set uintptr) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, set, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
