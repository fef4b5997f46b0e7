package listen

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits of one look. A device has tens of units and some hundred processes.
const (
	maxUnits     = 4096
	maxProcesses = 8192
	lookAgain    = 5 * time.Second
)

// Programs finds the unit and the process behind a socket. Which process holds a
// socket only its owner and who may trace it can see (/proc/PID/fd), so the
// process is named where all processes that it can be have one name: those of
// the unit that belong to the socket's user, or all of the unit where none does;
// without cgroups all of that user.
// It is not safe for use by several goroutines.
type Programs struct {
	proc   string
	cgroup string // where cgroup v2 is mounted, "" nowhere
	units  map[uint64]string
	looked time.Time // at units
	named  map[owner]name
	now    func() time.Time
}

type owner struct {
	cgroup uint64
	uid    uint32
}

type name struct {
	text string
	at   time.Time
}

// NewPrograms looks below the root of the file system.
func NewPrograms(root string) *Programs {
	proc := filepath.Join(root, "proc")
	p := &Programs{proc: proc, named: map[owner]name{}, now: time.Now}
	if at := cgroupMount(filepath.Join(proc, "self/mountinfo")); at != "" {
		p.cgroup = filepath.Join(root, at)
	}
	return p
}

// cgroupMount returns where cgroup v2 is mounted (proc_pid_mountinfo(5)).
func cgroupMount(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if ok && strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 {
			return f[4]
		}
	}
	return ""
}

// Of returns the process and the unit of a socket, each "" where it is not known.
func (p *Programs) Of(s Socket) (process, unit string) {
	unit = p.unit(s.Cgroup)
	at := p.now()
	key := owner{s.Cgroup, s.UID}
	if n, ok := p.named[key]; ok && at.Sub(n.at) < lookAgain {
		return n.text, unit
	}
	if len(p.named) > maxUnits {
		clear(p.named)
	}
	text := p.process(unit, s.UID)
	p.named[key] = name{text, at}
	return text, unit
}

// unit returns the path of a cgroup: its number is that of its directory.
func (p *Programs) unit(id uint64) string {
	if id == 0 || p.cgroup == "" {
		return ""
	}
	path, ok := p.units[id]
	if at := p.now(); !ok && at.Sub(p.looked) >= time.Second {
		p.looked = at
		p.look()
		path, ok = p.units[id]
	}
	if !ok {
		return p.units[uint64(uint32(id))] // a kernel of 32 bits shows the lower half
	}
	return path
}

func (p *Programs) look() {
	p.units = map[uint64]string{}
	seen := 0
	// What cannot be read has no unit, which is what is reported of it.
	_ = filepath.WalkDir(p.cgroup, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if seen++; seen > maxUnits {
			return filepath.SkipAll
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			p.units[st.Ino] = strings.TrimPrefix(strings.TrimPrefix(path, p.cgroup), "/") // of the root ""
		}
		return nil
	})
}

func (p *Programs) process(unit string, uid uint32) string {
	own, all := common{}, common{}
	for _, pid := range p.candidates(unit) {
		text, uids, ok := p.status(pid)
		if !ok {
			continue // it has ended
		}
		all.add(text)
		if slices.Contains(uids, strconv.FormatUint(uint64(uid), 10)) {
			own.add(text)
		}
	}
	// A service that opened its socket as root and became another user has no
	// process of the socket's user. Without a unit that says nothing.
	if own.count == 0 && unit != "" {
		own = all
	}
	if own.differ {
		return ""
	}
	return own.text
}

// common is the name that all processes of a kind have.
type common struct {
	text   string
	count  int
	differ bool
}

func (c *common) add(text string) {
	c.differ = c.differ || c.count > 0 && text != c.text
	c.text = text
	c.count++
}

// status returns the name of a process and its four users (proc_pid_status(5)).
func (p *Programs) status(pid string) (text string, uids []string, ok bool) {
	data, err := os.ReadFile(filepath.Join(p.proc, pid, "status"))
	if err != nil {
		return "", nil, false
	}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		switch key {
		case "Name":
			text = strings.TrimPrefix(value, "\t")
		case "Uid":
			return text, strings.Fields(value), text != ""
		}
	}
	return "", nil, false
}

// candidates returns the processes of a unit, or all.
func (p *Programs) candidates(unit string) (pids []string) {
	if unit != "" {
		data, err := os.ReadFile(filepath.Join(p.cgroup, unit, "cgroup.procs"))
		if err != nil {
			return nil
		}
		return strings.Fields(string(data))
	}
	entries, err := os.ReadDir(p.proc)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil && len(pids) < maxProcesses {
			pids = append(pids, e.Name())
		}
	}
	return pids
}
