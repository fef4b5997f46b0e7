package linux

import (
	"bytes"
	"cmp"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/facts"
)

// A none reports facts that nothing was configured for.
type none string

func (n none) read(o *out) { o.faults(absent(string(n))) }

// againAfter is how soon a file of a cgroup is looked for again: it comes with
// the unit.
const againAfter = int64(2 * time.Second)

// addApplication adds the sources about the cgroup dir of the medical
// application, apart from the rest of the machine.
func (b *builder) addApplication(root *Root, opt Options) {
	dir := opt.cgroups() + "/" + opt.Application
	open := func(name string, e extent, size int) *file {
		f := newFile(root, dir+"/"+name, e, size)
		f.again = againAfter
		return f
	}
	for _, x := range []struct {
		file string
		fact string
		make func(f *file) reader
	}{
		// In µs of a processor's time, and of time: 1000 per mille are 1000 ns a µs.
		{"cpu.stat", "application.cpu", func(f *file) reader { return &growth{root: root, file: f, parse: parseUsage, scale: 1e6} }},
		{"cpu.pressure", "application.cpu_pressure", func(f *file) reader { return &pressure{root: root, file: f} }},
		{"memory.pressure", "application.memory_pressure", func(f *file) reader { return &pressure{root: root, file: f} }},
		{"io.stat", "application.io", func(f *file) reader {
			return &growth{root: root, file: f, parse: parseIOStat, scale: int64(time.Second)}
		}},
		{"memory.current", "application.memory", func(f *file) reader { return kibibytes{f} }},
	} {
		if opt.Application == "" {
			b.add(x.fact, none("no cgroup of the application is configured"), x.fact)
			continue
		}
		b.add(x.fact, x.make(open(x.file, value, 512)), x.fact)
	}
	b.add("cgroup.events", slow{root, func(r *Root, o *out) { readApplication(r, opt, o) }}, "application.running", "application.frozen")
}

// A growth reports how fast a counter rises.
type growth struct {
	root  *Root
	file  *file
	parse func(b []byte) (int64, fault)
	scale int64 // of the growth in a ns
	rate  rate
}

func (s *growth) read(o *out) {
	b, f := s.file.read()
	var count int64
	if !f.is() {
		count, f = s.parse(b)
	}
	if f.is() {
		o.fault(0, f)
		return
	}
	grown, ns, ok := s.rate.next(count, s.root.now())
	if !ok {
		o.fault(0, pending(secondSample))
		return
	}
	o.num(0, scale(grown, s.scale, ns))
}

// kibibytes reports a file that holds a number of bytes.
type kibibytes struct{ file *file }

func (s kibibytes) read(o *out) {
	n, f := s.file.readInt()
	if !f.is() && n < 0 {
		f = s.file.malformed("is below 0")
	}
	o.outcome(0, n/1024, f)
}

// flat returns the number called name in lines "name number", as the kernel
// shows counts; ok is false for another form.
func flat(b []byte, name string) (n int64, found, ok bool) {
	if len(b) == 0 {
		return 0, false, false
	}
	for len(b) > 0 {
		var line []byte
		var whole bool
		line, b, whole = bytes.Cut(b, []byte("\n"))
		key, rest := field(line)
		m, rest, isNum := intField(rest)
		if !isNum || len(rest) != 0 || !whole {
			return 0, false, false
		}
		if string(key) == name {
			return m, true, true
		}
	}
	return 0, false, true
}

// parseUsage returns usage_usec of cpu.stat in µs (kernel, admin-guide/cgroup-v2).
func parseUsage(b []byte) (int64, fault) {
	n, found, ok := flat(b, "usage_usec")
	if !ok || !found || n < 0 {
		return 0, malformed("cpu.stat has not the form of the kernel's admin-guide/cgroup-v2")
	}
	return n, fault{}
}

// parseIOStat returns the bytes read and written on all devices, 0 before the
// first.
func parseIOStat(b []byte) (int64, fault) {
	bad := malformed("io.stat has not the form of the kernel's admin-guide/cgroup-v2")
	var sum int64
	for len(b) > 0 {
		var line []byte
		var whole bool
		line, b, whole = bytes.Cut(b, []byte("\n"))
		device, rest := field(line)
		if !whole || bytes.IndexByte(device, ':') <= 0 {
			return 0, bad
		}
		for len(rest) > 0 {
			var kv []byte
			kv, rest = field(rest)
			key, v, ok := bytes.Cut(kv, []byte("="))
			if !ok {
				return 0, bad
			}
			if string(key) != "rbytes" && string(key) != "wbytes" {
				continue
			}
			n, ok := parseInt(v)
			if sum += n; !ok || n < 0 || sum < 0 {
				return 0, bad
			}
		}
	}
	return sum, fault{}
}

// parseCgroupEvents returns the flags of cgroup.events; a kernel before 5.2 does
// not tell frozen.
func parseCgroupEvents(b []byte) (populated, frozen, tellsFrozen bool, f fault) {
	p, found, ok := flat(b, "populated")
	z, tellsFrozen, ok2 := flat(b, "frozen")
	if !ok || !ok2 || !found || p>>1 != 0 || z>>1 != 0 {
		return false, false, false, malformed("cgroup.events has not the form of the kernel's admin-guide/cgroup-v2")
	}
	return p == 1, z == 1, tellsFrozen, fault{}
}

// readApplication reports whether the application's cgroup has a process, and is
// frozen. A cgroup that is not there has none.
func readApplication(r *Root, opt Options, o *out) {
	if opt.Application == "" {
		o.faults(absent("no cgroup of the application is configured"))
		return
	}
	if f := r.cgroup2(opt.cgroups()); f.is() {
		o.faults(f)
		return
	}
	b, f := r.readFile(opt.cgroups() + "/" + opt.Application + "/cgroup.events")
	var populated, frozen, told bool
	switch {
	case f.status == facts.Absent:
		f, told = fault{}, true
	case !f.is():
		populated, frozen, told, f = parseCgroupEvents(b)
	}
	if f.is() {
		o.faults(f)
		return
	}
	o.ok(0, facts.BoolValue(populated))
	if !told {
		o.fault(1, absent("this kernel does not tell it (before 5.2)"))
		return
	}
	o.ok(1, facts.BoolValue(frozen))
}

// cgroup2 tells whether cgroup v2 is mounted at dir.
func (r *Root) cgroup2(dir string) fault {
	if !r.exists(dir + "/cgroup.controllers") {
		return absent("cgroup v2 is not mounted at /" + dir)
	}
	return fault{}
}

// Bounds of a walk through the cgroups.
const (
	maxCgroups     = 4096
	maxCgroupDepth = 24
)

// walkCgroups calls visit for each cgroup below dir, with its path below dir and
// its number, which is its id on machines of 64 bits and the lower half of it on
// those of 32.
func (r *Root) walkCgroups(dir string, visit func(path string, number uint64)) fault {
	if f := r.cgroup2(dir); f.is() {
		return f
	}
	left := maxCgroups
	var walk func(path string, depth int) fault
	walk = func(path string, depth int) fault {
		d, err := r.openDir(dir + path)
		if err != nil {
			return faultOf("/"+dir+path, err)
		}
		entries, err := d.ReadDir(-1)
		d.Close()
		if err != nil {
			return faultOf("/"+dir+path, err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			if left--; left < 0 || depth == maxCgroupDepth {
				return malformed("/" + dir + ": there are more cgroups than can be looked at")
			}
			info, err := e.Info()
			if err != nil {
				continue // it left since the listing
			}
			below := path + "/" + e.Name()
			visit(below[1:], inode(info))
			if f := walk(below, depth+1); f.is() && f.status != facts.Absent {
				return f
			}
		}
		return fault{}
	}
	return walk("", 0)
}

// containerPrefixes are what the names of containers' cgroups begin with, before
// the container's id, with the engine that makes them.
var containerPrefixes = []struct{ prefix, engine string }{
	{"docker-", "docker"}, {"libpod-", "podman"}, {"crio-", "cri-o"}, {"cri-containerd-", "containerd"},
}

// containerOf returns the engine and the id of the container whose own cgroup is
// at path: "docker-ID.scope" where systemd manages cgroups, else "docker/ID".
func containerOf(path string) (engine, id string, ok bool) {
	parent, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		parent, name = path[:i], path[i+1:]
	}
	name = strings.TrimSuffix(name, ".scope")
	if parent == "docker" {
		engine = "docker"
	}
	for _, p := range containerPrefixes {
		if rest, found := strings.CutPrefix(name, p.prefix); found {
			name, engine = rest, p.engine
		}
	}
	return engine, name, engine != "" && len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}

// ownerOf returns whose processes a cgroup holds: the innermost service or
// container, or a service of OpenRC; known is false for a login, the root and all
// else that nobody declared.
func ownerOf(path string) (owner string, known bool) {
	owner = "/" + path
	for p := path; p != ""; {
		if engine, id, ok := containerOf(p); ok {
			return engine + " " + id[:12], true
		}
		i := strings.LastIndexByte(p, '/')
		name := p[i+1:]
		if strings.HasSuffix(name, ".service") && !strings.HasPrefix(name, "user@") || name == "init.scope" || strings.HasPrefix(name, "openrc.") {
			return name, true
		}
		p = p[:max(i, 0)]
	}
	return owner, false
}

// containerLabel is the label, of podman the annotation, whose value names a
// container in facts, before its name.
const containerLabel = "miotfacts.name"

// readContainers reports how many containers run, by their cgroups, and their
// names as the engines keep them on disk. No engine is asked over its socket,
// which would give the right to start containers. Those of a user are kept where
// only that user can look: they count, and their names are unreadable.
func readContainers(r *Root, opt Options, o *out) {
	seen := map[string]bool{} // "engine id"; true: a user's own
	if f := r.walkCgroups(opt.cgroups(), func(path string, _ uint64) {
		if engine, id, ok := containerOf(path); ok {
			seen[engine+" "+id] = strings.HasPrefix(path, "user.slice/")
		}
	}); f.is() {
		o.faults(f)
		return
	}
	o.num(0, int64(len(seen)))
	names := []string{}
	podman, podmanFault := map[string]string(nil), fault{}
	for key, ofUser := range seen {
		engine, id, _ := strings.Cut(key, " ")
		name, f := id[:12], fault{}
		switch {
		case ofUser && (engine == "docker" || engine == "podman"):
			f = fault{facts.Unreadable, "a container is a user's own, who alone can read its name"}
		case engine == "docker":
			name, f = r.dockerName(id)
		case engine == "podman":
			if podman == nil && !podmanFault.is() {
				podman, podmanFault = r.podmanNames()
			}
			if f = podmanFault; !f.is() {
				name, f = r.podmanName(id, podman[id])
			}
		}
		if f.is() {
			o.fault(1, f)
			return
		}
		names = append(names, engine+" "+name)
	}
	o.set(1, names)
}

// unnamed is what a file of an engine means that cannot be read: the container
// runs, so that a name that is not there is not to be seen either.
func unnamed(f fault) fault {
	if f.status == facts.Absent {
		f.status = facts.Unreadable
	}
	return f
}

// dockerName returns the name of a container by its configuration on disk.
func (r *Root) dockerName(id string) (string, fault) {
	b, f := r.readFile("var/lib/docker/containers/" + id + "/config.v2.json")
	if f.is() {
		return "", unnamed(f)
	}
	return parseDockerConfig(b)
}

// parseDockerConfig returns the label of a container, else its name.
func parseDockerConfig(b []byte) (string, fault) {
	var name, label string
	if !readJSON(b, func(path []string, v string) {
		switch {
		case len(path) == 1 && path[0] == "Name":
			name = v
		case len(path) == 3 && path[0] == "Config" && path[1] == "Labels" && path[2] == containerLabel:
			label = v
		}
	}) || name == "" {
		return "", malformed("config.v2.json is no configuration of a container")
	}
	return cmp.Or(label, strings.TrimPrefix(name, "/")), fault{}
}

// podmanNames returns the names of containers by id.
func (r *Root) podmanNames() (map[string]string, fault) {
	b, f := r.readFile(podmanStorage + "containers.json")
	if f.is() {
		return nil, unnamed(f)
	}
	return parsePodmanNames(b)
}

const podmanStorage = "var/lib/containers/storage/overlay-containers/"

// podmanName returns the annotation of a container, else its name. Labels are in
// podman's database, which is not read.
func (r *Root) podmanName(id, name string) (string, fault) {
	if name == "" {
		return "", malformed("containers.json does not name a container that runs")
	}
	b, f := r.readFile(podmanStorage + id + "/userdata/config.json")
	if f.is() {
		return "", unnamed(f)
	}
	annotation, f := parseOCIConfig(b)
	return cmp.Or(annotation, name), f
}

// parseOCIConfig returns the annotation of a container, "" where it has none (OCI
// runtime specification, config).
func parseOCIConfig(b []byte) (annotation string, f fault) {
	version := ""
	if !readJSON(b, func(path []string, v string) {
		switch {
		case len(path) == 1 && path[0] == "ociVersion":
			version = v
		case len(path) == 2 && path[0] == "annotations" && path[1] == containerLabel:
			annotation = v
		}
	}) || version == "" {
		return "", malformed("config.json is no configuration of a container")
	}
	return annotation, fault{}
}

// parsePodmanNames reads the list that containers/storage keeps: of each container
// the id, then its names.
func parsePodmanNames(b []byte) (map[string]string, fault) {
	names, id := map[string]string{}, ""
	if !readJSON(b, func(path []string, v string) {
		switch {
		case len(path) == 2 && path[1] == "id":
			id = v
		case len(path) == 3 && path[1] == "names" && names[id] == "":
			names[id] = v
		}
	}) {
		return nil, malformed("containers.json is no list of containers")
	}
	return names, fault{}
}
