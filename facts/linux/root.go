package linux

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// maxFile bounds what is read of one file: some 20,000 lines of /proc/net/tcp.
const maxFile = 4 << 20

// systemBus is where the reference implementation of D-Bus listens, as the
// specification's default DBUS_SYSTEM_BUS_ADDRESS has it.
const systemBus = "unix:path=/run/dbus/system_bus_socket"

// A Root is the directory that facts are read under.
type Root struct {
	tree *os.Root     // nil when the root is "/": links in /sys may lead anywhere in it
	now  func() int64 // ns on a clock that never goes back
	bus  string       // D-Bus address of the system bus

	mu   sync.Mutex
	kept map[int]bool // descriptors that sources keep open
}

// OpenRoot opens dir, "/" or a fixture. No link in a fixture leads out of it. A
// dir that is not a directory is refused.
func OpenRoot(dir string) (*Root, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open root directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("cannot open root directory %s: it is not a directory", dir)
	}
	start := time.Now()
	r := &Root{bus: systemBus, kept: map[int]bool{}, now: func() int64 { return int64(time.Since(start)) }}
	slash, err := os.Stat("/")
	if err != nil {
		return nil, fmt.Errorf("cannot open root directory: %w", err)
	}
	if os.SameFile(info, slash) {
		return r, nil
	}
	if r.tree, err = os.OpenRoot(dir); err != nil {
		return nil, fmt.Errorf("cannot open root directory: %w", err)
	}
	return r, nil
}

// Live reports whether the root is "/", so that the running system may be asked
// as well.
func (r *Root) Live() bool { return r.tree == nil }

// Close releases the directory and what sources keep open. No source may be
// reading, or be read afterwards.
func (r *Root) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for fd := range r.kept {
		unix.Close(fd)
	}
	clear(r.kept)
	if r.tree == nil {
		return nil
	}
	return r.tree.Close()
}

func (r *Root) keep(fd int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept[fd] = true
	return fd
}

// drop closes a descriptor that was kept and returns -1, the one of no file.
func (r *Root) drop(fd int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept[fd] {
		delete(r.kept, fd)
		unix.Close(fd)
	}
	return -1
}

// Uptime returns the time since boot in ms, time in suspend included
// (CLOCK_BOOTTIME, clock_gettime(2)).
func Uptime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("linux: CLOCK_BOOTTIME, which every supported kernel has, is missing: " + err.Error())
	}
	return ts.Nano() / int64(time.Millisecond)
}

// uptime is Uptime for the machine under r.
func (r *Root) uptime() (int64, fault) {
	if r.Live() {
		return Uptime(), fault{}
	}
	b, f := r.readFile("proc/uptime")
	if f.is() {
		return 0, f
	}
	return parseUptime(b)
}

// open opens the file at path, which has no leading slash, for reading.
func (r *Root) open(path string) (int, error) {
	if r.tree == nil {
		for {
			fd, err := unix.Open("/"+path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
			if err != unix.EINTR {
				return fd, err
			}
		}
	}
	f, err := r.tree.Open(path)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// readFile reads the whole file at path, for sources that are not fast.
func (r *Root) readFile(path string) ([]byte, fault) {
	f := newFile(r, path, records, 4096)
	defer f.close()
	return f.read()
}

// readInt reads the file at path, which holds one decimal number.
func (r *Root) readInt(path string) (int64, fault) {
	f := newFile(r, path, value, 64)
	defer f.close()
	return f.readInt()
}

func (r *Root) openDir(path string) (*os.File, error) {
	if r.tree == nil {
		return os.OpenFile("/"+path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	return r.tree.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// list returns the names in the directory at path in ascending order.
func (r *Root) list(path string) ([]string, fault) {
	d, err := r.openDir(path)
	if err != nil {
		return nil, faultOf("/"+path, err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, faultOf("/"+path, err)
	}
	slices.Sort(names)
	return names, fault{}
}

// stat tells of the file at path, and follows links.
func (r *Root) stat(path string) (os.FileInfo, error) {
	if r.tree == nil {
		return os.Stat("/" + path)
	}
	return r.tree.Stat(path)
}

// exists reports whether there is something at path, even something that cannot
// be looked at.
func (r *Root) exists(path string) bool {
	_, err := r.stat(path)
	return err == nil || faultOf("/"+path, err).status != facts.Absent
}

// readlink returns where the link at path leads, "" when it is no link.
func (r *Root) readlink(path string) string {
	var s string
	var err error
	if r.tree == nil {
		s, err = os.Readlink("/" + path)
	} else {
		s, err = r.tree.Readlink(path)
	}
	if err != nil {
		return ""
	}
	return s
}

// call returns the values that a fixture holds in place of the answer of the
// running system to the call name, in lines "key=value".
func (r *Root) call(name string) (map[string]string, fault) {
	b, f := r.readFile(".calls/" + name)
	if f.is() {
		return nil, f
	}
	return parsePairs(b)
}

// faultOf tells what an error of opening or reading the thing called name means:
// there is no such thing on this machine, or it is there and cannot be read.
func faultOf(name string, err error) fault {
	why := err.Error()
	var perr *os.PathError
	if errors.As(err, &perr) {
		why = perr.Err.Error()
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		switch errno {
		case unix.ENOENT, unix.ENODEV, unix.ENXIO, unix.EOPNOTSUPP, unix.ESRCH: // the last of a process
			return absent(name + ": " + why)
		}
	}
	return fault{facts.Unreadable, name + ": " + why}
}

func parsePairs(b []byte) (map[string]string, fault) {
	pairs := map[string]string{}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok || k == "" {
			return nil, malformed("a line is not key=value")
		}
		pairs[k] = v
	}
	if len(pairs) == 0 {
		return nil, malformed("there is no line key=value")
	}
	return pairs, fault{}
}
