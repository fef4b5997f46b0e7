package linux

import (
	"bytes"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

// processRescan is how long the processes are left alone after a look for one
// that is missing.
const processRescan = int64(5 * time.Second)

// processes watches over those that are to run where no service manager tells:
// each by its name (proc(5), comm), or by its executable where the name begins
// with a slash. One that was found costs one read a round; a look through all of
// them is taken only while one is missing.
type processes struct {
	root  *Root
	names []string
	found []*file // /proc/PID/stat of each, nil while it is missing
	once  []bool  // it was found before
	again int64   // restarts: found anew after it was missing
	next  int64   // ns, when to look again
	fault fault   // of the last look
	value facts.Value
	stale bool // value is not of found
}

func newProcesses(root *Root, names []string) reader {
	if len(names) == 0 {
		return none("no processes are configured")
	}
	return &processes{root: root, names: names, found: make([]*file, len(names)), once: make([]bool, len(names)), stale: true}
}

func (s *processes) read(o *out) {
	missing := false
	for i, f := range s.found {
		if f != nil && !s.runs(f) {
			f.close()
			s.found[i], s.stale = nil, true
		}
		missing = missing || s.found[i] == nil
	}
	if now := s.root.now(); missing && now >= s.next {
		s.next = now + processRescan
		s.fault = s.look()
	}
	if s.fault.is() {
		o.faults(s.fault)
		return
	}
	if s.stale {
		gone := []string{}
		for i, f := range s.found {
			if f == nil {
				gone = append(gone, s.names[i])
			}
		}
		s.value, s.stale = facts.SetValue(gone), false
	}
	o.ok(0, s.value)
	o.num(1, s.again)
}

// runs reports whether the process behind f is alive: not gone, and no zombie.
func (s *processes) runs(f *file) bool {
	b, bad := f.read()
	if bad.is() {
		return false
	}
	i := bytes.LastIndexByte(b, ')')
	return i >= 0 && len(b) > i+2 && b[i+2] != 'Z' && b[i+2] != 'X'
}

// look goes through all processes for those that are missing.
func (s *processes) look() fault {
	pids, f := s.root.list("proc")
	if f.is() {
		return f
	}
	for _, pid := range pids {
		if pid[0] < '1' || pid[0] > '9' {
			continue
		}
		stat := newFile(s.root, "proc/"+pid+"/stat", value, 512)
		b, f := stat.read()
		var name []byte
		if !f.is() {
			name, _, f = parsePidStat(b)
		}
		use := false
		for i, want := range s.names {
			if f.is() || s.found[i] != nil {
				continue
			}
			var same bool
			if same, f = s.is(pid, string(name), want); !same || !s.runs(stat) {
				continue
			}
			if s.once[i] {
				s.again++
			}
			s.found[i], s.once[i], s.stale, use = stat, true, true, true
			break
		}
		if !use {
			stat.close()
		}
		if f.is() && f.status != facts.Absent { // absent: it ended since the listing
			return f
		}
	}
	return fault{}
}

// is reports whether the process pid is the one that is wanted. The link to an
// executable may be read by few; the first argument stands in, which the process
// can set, as it can its name: they tell who runs, not that it is genuine.
func (s *processes) is(pid, name, want string) (bool, fault) {
	if !strings.HasPrefix(want, "/") {
		return name == want, fault{}
	}
	if exe := s.root.readlink("proc/" + pid + "/exe"); exe != "" {
		return exe == want, fault{}
	}
	b, f := s.root.readFile("proc/" + pid + "/cmdline")
	first, _, _ := bytes.Cut(b, []byte{0})
	return !f.is() && string(first) == want, f
}
