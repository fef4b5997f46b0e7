// Package confine gives up system calls, files and ports, for this process and for
// good: it looks into no process and changes nothing of the machine, and where it
// faces the network it starts no program, writes to its own files only and connects
// to its own ports. What it starts inherits that.
//
// It protects against whoever takes the process over, as far as the kernel holds:
// what is given up fails with EPERM or EACCES. It takes no rights to files or sockets
// that are open. seccomp(2), SECCOMP_SET_MODE_FILTER; landlock(7).
package confine

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// always are the system calls that are given up in any case. io_uring is among
// them because what comes through it passes no filter.
func always() []uint32 {
	return []uint32{
		unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV,
		unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_SETNS, unix.SYS_UNSHARE,
		unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
		unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_BPF, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
		unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ACCT, unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_USERFAULTFD,
		unix.SYS_IO_URING_SETUP,
	}
}

// auditArch returns how the kernel names this machine to a filter (linux/audit.h).
func auditArch() (uint32, bool) {
	arch, ok := map[string]uint32{
		"386": unix.AUDIT_ARCH_I386, "amd64": unix.AUDIT_ARCH_X86_64, "arm": unix.AUDIT_ARCH_ARM,
		"arm64": unix.AUDIT_ARCH_AARCH64, "riscv64": unix.AUDIT_ARCH_RISCV64,
	}[runtime.GOARCH]
	return arch, ok
}

// filter returns a program for seccomp(2) over struct seccomp_data: calls of
// another architecture end the process, forbidden ones fail with EPERM.
func filter(arch uint32, calls []uint32) []unix.SockFilter {
	const nr, archAt = 0, 4 // offsets in struct seccomp_data
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	ret := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	f := []unix.SockFilter{
		load(archAt), jump(unix.BPF_JEQ, arch, 1, 0), ret(unix.SECCOMP_RET_KILL_PROCESS),
		load(nr),
		// The x32 calls of amd64 have this bit; nobody makes them.
		jump(unix.BPF_JGE, 0x40000000, uint8(len(calls)+1), 0),
	}
	for i, call := range calls {
		f = append(f, jump(unix.BPF_JEQ, call, uint8(len(calls)-i), 0))
	}
	return append(f, ret(unix.SECCOMP_RET_ALLOW), ret(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)))
}

// Programs returns the calls that start a program.
func Programs() []uint32 { return []uint32{unix.SYS_EXECVE, unix.SYS_EXECVEAT} }

// Network returns the calls that make and join sockets. On 386 Go makes them
// through socketcall(2), which stays open because open sockets need it too.
func Network() []uint32 {
	return []uint32{unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_ACCEPT4}
}

// Confine gives up system calls, those of more among them, in all threads.
func Confine(more ...uint32) error {
	arch, ok := auditArch()
	if !ok {
		return fmt.Errorf("cannot filter system calls: not known on %s", runtime.GOARCH)
	}
	// The filter is accepted from a thread that has renounced new privileges.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot filter system calls: %w", err)
	}
	f := filter(arch, append(always(), more...))
	p := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	tid, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&p)))
	switch {
	case errno != 0:
		return fmt.Errorf("cannot filter system calls: %w", errno)
	case tid != 0:
		return fmt.Errorf("cannot filter system calls: thread %d has a filter of its own", tid)
	}
	return nil
}
