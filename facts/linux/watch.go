package linux

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openMountEvents waits for changes of the mounts, which the kernel tells whoever
// polls the list of them (proc(5)).
func openMountEvents() (*channel, error) {
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	t := of(topicMounts)
	return &channel{name: "mountinfo", fd: fd, poll: unix.EPOLLPRI, topics: t, take: func(int, []byte) (hits, bool, error) { return t, false, nil }}, nil
}

// pressureTriggers ask to be told when tasks waited that long (µs) within a window
// (µs). The kernel looks ten times a window and tells at most once in each, and of a
// stall that begins at rest 50 ms later at the earliest, with the shortest window that
// there is. From who opened the file without CAP_SYS_RESOURCE it takes only windows
// of 2 s, and looks only when it makes its averages, every 2 s (kernel,
// accounting/psi; kernel/sched/psi.c).
var pressureTriggers = []string{"some 25000 500000", "some 200000 2000000"}

// pressureEvents waits for the stalls of a resource, "cpu" or "memory".
type pressureEvents struct {
	resource string
	topic    topic
	passed   int // descriptor of the file, opened by who may have the short window; -1 without
}

// open sets a trigger on the file of pressure stall information.
func (p *pressureEvents) open() (*channel, error) {
	path := "/proc/pressure/" + p.resource
	fd, err := p.passed, error(nil)
	p.passed = -1 // a broken one is closed, and cannot be had again
	if fd < 0 {
		if fd, err = unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return nil, err
		}
	}
	// A file that has a trigger already takes no other, and is used as it is.
	if err := setTrigger(fd); err != nil && err != unix.EBUSY {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot set trigger on %s: %w", path, err)
	}
	t := of(p.topic)
	return &channel{name: "pressure", fd: fd, poll: unix.EPOLLPRI, topics: t, take: func(int, []byte) (hits, bool, error) { return t, false, nil }}, nil
}

func setTrigger(fd int) (err error) {
	for _, s := range pressureTriggers {
		if _, err = unix.Write(fd, append([]byte(s), 0)); err == nil {
			return nil
		}
	}
	return err
}

// passed returns the descriptor that the service manager opened and passed to this
// process under name (sd_listen_fds(3)), -1 without one.
func passed(name string) int {
	const first = 3 // SD_LISTEN_FDS_START
	i := slices.Index(strings.Split(os.Getenv("LISTEN_FDNAMES"), ":"), name)
	if i < 0 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return -1
	}
	unix.CloseOnExec(first + i)
	return first + i
}

const (
	// An entry of a directory that was written and closed, came, went, or got
	// other rights. A file that is being written is not looked at half done.
	entryMask = unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_ATTRIB | unix.IN_ONLYDIR
	// maxWatches bounds the directories that are watched.
	maxWatches = 512
)

// A fileWatch watches directories by inotify(7): the file systems' names, not
// the files, so that one that is replaced is seen as well.
type fileWatch struct {
	fd    int
	wants []wantedFile
	names map[int32]map[string]hits // by watch descriptor and name; "" is any name
}

type wantedFile struct {
	path   string // of a file; of a directory with a slash at its end
	topics hits
	how    watchMode
}

// A watchMode is what else is watched.
type watchMode uint8

const (
	nameOnly watchMode = iota
	within             // the directories in it as well
	itself             // the file, whose changes the kernel tells of nowhere else
)

func newFileWatch(opt Options) *fileWatch {
	w := &fileWatch{wants: []wantedFile{
		{path: "/etc/passwd", topics: of(topicAccounts)},
		{path: "/etc/resolv.conf", topics: of(topicResolv)},
		{path: "/etc/os-release", topics: of(topicUpdates)},
		{path: "/var/lib/dpkg/status", topics: of(topicUpdates)},
		{path: "/var/lib/opkg/status", topics: of(topicUpdates)},
		{path: "/run/openrc/started/", topics: of(topicServices)},
		{path: "/run/openrc/failed/", topics: of(topicServices)},
	}}
	cgroups := "/" + opt.cgroups() + "/"
	if opt.Application != "" {
		// Its directory comes with the unit (cgroup-v2, cgroup.events).
		w.wants = append(w.wants, wantedFile{path: cgroups + opt.Application, topics: of(topicApplication)},
			wantedFile{cgroups + opt.Application + "/cgroup.events", of(topicApplication), itself})
	}
	for _, dir := range []string{"system.slice/", "machine.slice/", "docker/"} {
		w.wants = append(w.wants, wantedFile{path: cgroups + dir, topics: of(topicContainers)})
	}
	for _, dir := range unitDirs {
		x := wantedFile{"/" + dir + "/", of(topicUnitFiles), within}
		if strings.HasSuffix(dir, "inittab") {
			x = wantedFile{path: "/" + dir, topics: of(topicUnitFiles)}
		}
		w.wants = append(w.wants, x)
	}
	return w
}

func (w *fileWatch) open() (*channel, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	w.fd = fd
	w.add()
	all := hits(0)
	for _, x := range w.wants {
		all |= x.topics
	}
	return &channel{name: "inotify", fd: fd, poll: unix.EPOLLIN, topics: all, take: w.take}, nil
}

// add watches all directories that there are. One that is watched already
// stays so; a link that leads elsewhere now is followed.
func (w *fileWatch) add() {
	w.names = map[int32]map[string]hits{}
	for _, x := range w.wants {
		switch x.how {
		case itself:
			w.put(x.path, "", x.topics, unix.IN_MODIFY)
			continue
		case within:
			entries, _ := os.ReadDir(x.path)
			for _, e := range entries {
				if e.IsDir() {
					w.watch(x.path+e.Name()+"/", x.topics)
				}
			}
		}
		w.watch(x.path, x.topics)
		if to, err := filepath.EvalSymlinks(x.path); err == nil && to != filepath.Clean(x.path) {
			w.watch(to, x.topics)
		}
	}
}

func (w *fileWatch) watch(path string, h hits) {
	dir, name := filepath.Split(path)
	w.put(dir, name, h, entryMask)
}

// put watches the file at path; name is the entry in it that counts, "" for any.
func (w *fileWatch) put(path, name string, h hits, mask uint32) {
	if len(w.names) >= maxWatches {
		return
	}
	wd, err := unix.InotifyAddWatch(w.fd, path, mask)
	if err != nil {
		return // not there, or not to be seen: the facts are read every minute anyway
	}
	names := w.names[int32(wd)]
	if names == nil {
		names = map[string]hits{}
		w.names[int32(wd)] = names
	}
	names[name] |= h
}

func (w *fileWatch) take(fd int, buf []byte) (h hits, lost bool, err error) {
	n, err := unix.Read(fd, buf)
	if err == unix.EAGAIN || err == unix.EINTR {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	again := false
	lost = !parseInotify(buf[:n], func(wd int32, mask uint32, name string) {
		if mask&unix.IN_Q_OVERFLOW != 0 {
			lost = true
		}
		topics := w.names[wd]
		h |= topics[name] | topics[""]
		// A directory went, came, or a link leads elsewhere.
		again = again || mask&(unix.IN_IGNORED|unix.IN_ISDIR) != 0 || topics[name] != 0
	}) || lost
	if again || lost {
		w.add()
	}
	return h, lost, nil
}

// parseInotify calls fn for each event in b, struct inotify_event of
// inotify(7). It reports whether b has that form.
func parseInotify(b []byte, fn func(wd int32, mask uint32, name string)) bool {
	for len(b) > 0 {
		if len(b) < unix.SizeofInotifyEvent {
			return false
		}
		ne := binary.NativeEndian
		size := int(ne.Uint32(b[12:]))
		if size < 0 || size > len(b)-unix.SizeofInotifyEvent {
			return false
		}
		name, _, _ := bytes.Cut(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], []byte{0})
		fn(int32(ne.Uint32(b)), ne.Uint32(b[4:]), string(name))
		b = b[unix.SizeofInotifyEvent+size:]
	}
	return true
}
