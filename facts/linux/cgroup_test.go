package linux

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

const (
	pump    = "sys/fs/cgroup/system.slice/pump.service/"
	idA     = "0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9"
	idB     = "b0b1b2b3b4b5b6b7b8b9babbbcbdbebfb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
	control = "sys/fs/cgroup/cgroup.controllers"
)

func TestApplication(t *testing.T) {
	x := newTree(t, map[string]string{control: "cpu io memory\n"})
	x.round(0, map[string]string{"application.cpu": "absent", "application.memory": "absent", "application.running": "ok false", "application.frozen": "ok false"})

	// Its unit starts: the facts are there after some seconds.
	unit := func(usage, total, bytes int) map[string]string {
		return map[string]string{
			pump + "cpu.stat": fmt.Sprintf("usage_usec %d\nuser_usec 1\n", usage), pump + "cpu.pressure": psi(total), pump + "memory.pressure": psi(total / 2),
			pump + "io.stat": fmt.Sprintf("179:0 rbytes=%d wbytes=%d rios=1 wios=1\n", bytes, bytes), pump + "memory.current": "1049600\n", pump + "cgroup.events": "populated 1\nfrozen 1\n",
		}
	}
	x.write(unit(1_000_000, 0, 0))
	x.round(time.Second, map[string]string{"application.cpu": "absent", "application.running": "ok true", "application.frozen": "ok true"})
	x.round(time.Second, map[string]string{"application.cpu": "pending", "application.memory": "ok 1025"})
	x.write(unit(4_000_000, 500_000, 3000))
	x.round(2*time.Second, map[string]string{"application.cpu": "ok 1500", "application.cpu_pressure": "ok 250", "application.memory_pressure": "ok 125", "application.io": "ok 3000"})
	x.write(map[string]string{pump + "cpu.stat": "?\n", pump + "memory.current": "-1\n", pump + "cgroup.events": "populated\n"})
	x.round(time.Second, map[string]string{"application.cpu": "malformed", "application.memory": "malformed", "application.running": "malformed", "application.frozen": "malformed"})

	none := newTree(t, nil)
	none.round(0, map[string]string{"application.running": "absent", "application.frozen": "absent", "container.count": "absent", "container.names": "absent"})
}

func TestContainers(t *testing.T) {
	const docker, podman = "sys/fs/cgroup/system.slice/docker-" + idA + ".scope/", "sys/fs/cgroup/machine.slice/libpod-" + idB + ".scope/"
	x := newTree(t, map[string]string{
		control: "", "sys/fs/cgroup/system.slice/ssh.service/cgroup.procs": "",
		"sys/fs/cgroup/machine.slice/libpod-conmon-" + idB + ".scope/cgroup.procs": "", // its monitor is none
	})
	x.round(0, map[string]string{"container.count": "ok 0", "container.names": "ok {}"})
	x.write(map[string]string{docker + "init/cgroup.procs": "", podman + "container/cgroup.procs": ""})
	x.round(0, map[string]string{"container.count": "ok 2", "container.names": "unreadable"})
	x.write(map[string]string{
		"var/lib/docker/containers/" + idA + "/config.v2.json":          `{"Name":"/web","Config":{"Labels":{"miotfacts.name":"viewer"}}}`,
		"var/lib/containers/storage/overlay-containers/containers.json": `[{"id":"` + idB + `","names":["dicom"]}]`,
	})
	x.round(0, map[string]string{"container.count": "ok 2", "container.names": "unreadable"}) // it may have an annotation
	oci := "var/lib/containers/storage/overlay-containers/" + idB + "/userdata/config.json"
	x.write(map[string]string{oci: `{"ociVersion":"1.0.2","annotations":{"io.container.manager":"libpod"}}`})
	x.round(0, map[string]string{"container.count": "ok 2", "container.names": "ok {docker viewer, podman dicom}"})
	x.write(map[string]string{oci: `{"ociVersion":"1.0.2","annotations":{"miotfacts.name":"pacs"}}`})
	x.round(0, map[string]string{"container.names": "ok {docker viewer, podman pacs}"})
	x.write(map[string]string{oci: `{}`})
	x.round(0, map[string]string{"container.names": "malformed"})
	x.write(map[string]string{"var/lib/containers/storage/overlay-containers/containers.json": `[]`})
	x.round(0, map[string]string{"container.count": "ok 2", "container.names": "malformed"})

	// That of a user runs, and its name is nobody's to read.
	y := newTree(t, map[string]string{control: "", "sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + idB + ".scope/cgroup.procs": ""})
	y.round(0, map[string]string{"container.count": "ok 1", "container.names": "unreadable"})
}

func TestOwnerOf(t *testing.T) {
	for path, want := range map[string]string{
		"system.slice/ssh.service":                          "ssh.service true",
		"system.slice/ssh.service/sub":                      "ssh.service true",
		"init.scope":                                        "init.scope true",
		"user.slice/user-1000.slice/session-3.scope":        "/user.slice/user-1000.slice/session-3.scope false",
		"user.slice/user-0.slice/user@0.service/init.scope": "init.scope true",
		"user.slice/user-0.slice/user@0.service/tmp":        "/user.slice/user-0.slice/user@0.service/tmp false",
		"system.slice/docker-" + idA + ".scope/x":           "docker 0a1b2c3d4e5f true",
		"docker/" + idA:                                     "docker 0a1b2c3d4e5f true",
		"docker/" + idA[:63]:                                "/docker/" + idA[:63] + " false",
		"machine.slice/libpod-conmon-" + idB + ".scope":     "/machine.slice/libpod-conmon-" + idB + ".scope false",
		"kubepods.slice/cri-containerd-" + idB + ".scope":   "containerd b0b1b2b3b4b5 true",
		"openrc.sshd":                                       "openrc.sshd true",
		"":                                                  "/ false",
	} {
		owner, known := ownerOf(path)
		if got := fmt.Sprint(owner, " ", known); got != want {
			t.Errorf("%q: %s, want %s", path, got, want)
		}
	}
}

func TestProcesses(t *testing.T) {
	stat := func(pid int, name, state string) string {
		return fmt.Sprintf("%d (%s) %s 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 500 0 0\n", pid, name, state)
	}
	x := newTree(t, map[string]string{"proc/2/stat": stat(2, "kthreadd", "S"), "proc/40/stat": stat(40, "pumpd", "S"), "proc/40/cmdline": "/usr/sbin/other\x00pumpd\x00"})
	x.round(0, map[string]string{"process.missing": "ok {/usr/bin/pumpd}", "process.restarts": "ok 0"})
	x.write(map[string]string{"proc/41/stat": stat(41, "pump", "S"), "proc/41/cmdline": "/usr/bin/pumpd\x00-v\x00"})
	x.round(time.Second, map[string]string{"process.missing": "ok {/usr/bin/pumpd}"}) // not looked for again yet
	x.round(5*time.Second, map[string]string{"process.missing": "ok {}", "process.restarts": "ok 0"})

	// A zombie does not run; the one that comes in its place is a restart.
	x.write(map[string]string{"proc/41/stat": stat(41, "pump", "Z")})
	x.round(time.Second, map[string]string{"process.missing": "ok {/usr/bin/pumpd}"})
	x.write(map[string]string{"proc/42/stat": stat(42, "pump", "R")})
	if err := os.MkdirAll(filepath.Join(x.dir, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr/bin/pumpd", filepath.Join(x.dir, "proc/42/exe")); err != nil {
		t.Fatal(err)
	}
	x.round(5*time.Second, map[string]string{"process.missing": "ok {}", "process.restarts": "ok 1"})
	x.write(map[string]string{"proc/42/stat": "?\n"})
	x.round(5*time.Second, map[string]string{"process.missing": "malformed", "process.restarts": "malformed"})
}

// ownCgroup makes a cgroup for the test and returns where cgroup v2 is mounted,
// below /.
func ownCgroup(t *testing.T, name string) (mount string) {
	t.Helper()
	for _, mount := range []string{"sys/fs/cgroup", "sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if unix.Statfs("/"+mount, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir := filepath.Join("/", mount, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skip("NOT RUN: making a cgroup needs root: ", err)
		}
		t.Cleanup(func() { os.Remove(dir) })
		return mount
	}
	t.Skip("NOT RUN: cgroup v2 is not mounted")
	return ""
}

// enter moves this process into a cgroup and returns how it goes back.
func enter(t *testing.T, mount, name string) (leave func()) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	before := "/"
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "0::"); ok {
			before = strings.TrimSpace(rest)
		}
	}
	move := func(to string) error {
		return os.WriteFile(filepath.Join("/", mount, to, "cgroup.procs"), []byte(fmt.Sprint(os.Getpid())), 0)
	}
	if err := move(name); err != nil {
		t.Skip("NOT RUN: this process may not change its cgroup: ", err)
	}
	return func() {
		if err := move(before); err != nil {
			t.Fatal(err)
		}
	}
}

// TestOwnersLive makes a socket in the cgroup of a service and one outside of it,
// and looks at what the kernel tells.
func TestOwnersLive(t *testing.T) {
	const unit = "miotfacts-test.service"
	mount := ownCgroup(t, unit)
	root := openRoot(t, "/")
	opt := Options{Cgroups: mount, Application: unit}
	sources := mustSources(t, root, opt)
	first := readAll(t, sources, 1)
	if r := first["network.unowned"]; r.Status != facts.OK {
		t.Fatalf("network.unowned is %s %s; the kernel needs CONFIG_INET_DIAG and CONFIG_SOCK_CGROUP_DATA", r.Status, r.Reason)
	}
	if r := first["application.running"]; r.Status != facts.OK || r.Value.Bool() {
		t.Errorf("application.running is %s %v with an empty cgroup", r.Status, r.Value)
	}
	leave := enter(t, mount, unit)
	in, err := net.Listen("tcp", "127.0.0.1:0")
	running := readAll(t, sources, 1)
	leave()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if r := running["application.running"]; r.Status != facts.OK || !r.Value.Bool() {
		t.Errorf("application.running is %s %v with this process in its cgroup", r.Status, r.Value)
	}
	for _, name := range []string{"application.cpu", "application.frozen"} {
		if r := running[name]; r.Status != facts.OK && r.Status != facts.Pending {
			t.Errorf("%s is %s %s", name, r.Status, r.Reason)
		}
	}
	out, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	got := readAll(t, mustSources(t, root, opt), 1)
	owned := got["network.owners"].Value.Set()
	if want := "tcp/" + in.Addr().String() + " " + unit; !slices.Contains(owned, want) {
		t.Errorf("network.owners has no %q: %v %s", want, owned, got["network.owners"].Reason)
	}
	if i := slices.IndexFunc(owned, func(m string) bool { return strings.HasPrefix(m, "tcp/"+out.Addr().String()) }); i < 0 || strings.HasSuffix(owned[i], ".service") {
		t.Errorf("network.owners of %s: %v", out.Addr(), owned)
	}
	if n := got["network.unowned"].Value.Int(); n < 1 {
		t.Errorf("%d sockets without an owner, and %s is one", n, out.Addr())
	}
}
