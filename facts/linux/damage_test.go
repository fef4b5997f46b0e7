package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// A damage is one way in which a file is not as it should be. The way of a file
// that never answers has a test of its own.
type damage struct {
	name   string
	do     func(path string, sound []byte) error
	status facts.Status // that every fact gets which depends on the file
	hidden bool         // its mode forbids to read it
}

var damages = []damage{
	{name: "cut", do: func(p string, b []byte) error { return os.WriteFile(p, b[:len(b)/2], 0o644) }, status: facts.Malformed},
	{name: "empty", do: func(p string, _ []byte) error { return os.WriteFile(p, nil, 0o644) }, status: facts.Malformed},
	{name: "garbage", do: func(p string, _ []byte) error {
		return os.WriteFile(p, []byte("\xff\xfe\x00garbage \x80[none\n\n=:=\xc3("), 0o644)
	}, status: facts.Malformed},
	{name: "long", do: func(p string, _ []byte) error {
		return os.WriteFile(p, bytes.Repeat([]byte{'9'}, 1<<16), 0o644)
	}, status: facts.Malformed},
	{name: "directory", do: func(p string, _ []byte) error { return os.Mkdir(p, 0o755) }, status: facts.Unreadable},
	{name: "loop", do: func(p string, _ []byte) error { return os.Symlink(filepath.Base(p), p) }, status: facts.Unreadable},
	{name: "escape", do: func(p string, _ []byte) error { return os.Symlink("/etc/passwd", p) }, status: facts.Unreadable},
	{name: "unreadable", do: func(p string, b []byte) error {
		if err := os.WriteFile(p, b, 0o644); err != nil {
			return err
		}
		return os.Chmod(p, 0)
	}, status: facts.Unreadable, hidden: true},
}

// lawful reports whether a kernel could show a file like this: then it is no damage.
func lawful(path, damage string) bool {
	switch path {
	case "proc/modules", "proc/net/ipv6_route": // none is loaded, there
		return damage == "empty"
	case "dev/kmsg": // closed to the agent, or its beginning
		return damage == "unreadable" || damage == "cut"
	case "etc/resolv.conf": // what has not the form of a line is none (resolv.conf(5))
		return damage == "empty" || damage == "long" || damage == "cut"
	}
	switch {
	case slices.ContainsFunc(unitDirs, func(dir string) bool { return strings.HasPrefix(path, dir) }): // any content is one, and any link
		return damage != "unreadable"
	case strings.HasSuffix(path, "/io.stat"): // it did none yet
		return damage == "empty"
	case strings.HasSuffix(path, "/cmdline") && path != "proc/cmdline": // a process writes it as it likes
		return damage == "empty" || damage == "long" || damage == "cut" || damage == "garbage"
	case strings.HasPrefix(path, "etc/"), strings.HasPrefix(path, ".calls/"), strings.HasSuffix(path, "/security/lsm"): // nothing ends these files
		return damage == "cut"
	}
	return strings.HasSuffix(path, "/dm/uuid") // a mapping of any name, or none
}

// A victim is a fixture whose copies a test damages.
type victim struct {
	t       *testing.T
	sound   string              // a copy that nobody damages
	readers map[string][]string // by file below the fixture: names of the sources that open it
}

func newVictim(t *testing.T, name string) *victim {
	t.Helper()
	v := &victim{t: t, sound: filepath.Join(t.TempDir(), "root")}
	if err := os.CopyFS(v.sound, os.DirFS(filepath.Join(devices, name))); err != nil {
		t.Fatal(err)
	}
	v.watch()
	return v
}

// copy returns a copy of the fixture. Its files are links to the sound ones,
// which costs less: a file is to be replaced, not to be changed.
func (v *victim) copy() (dir string) {
	v.t.Helper()
	dir = filepath.Join(v.t.TempDir(), "root")
	if err := filepath.WalkDir(v.sound, func(p string, d fs.DirEntry, err error) error {
		to := filepath.Join(dir, strings.TrimPrefix(p, v.sound))
		if err == nil && d.IsDir() {
			return os.Mkdir(to, 0o755)
		}
		if err == nil {
			err = os.Link(p, to)
		}
		return err
	}); err != nil {
		v.t.Fatal(err)
	}
	return dir
}

// watch finds out who opens what, by inotify(7): each file is damaged for those
// who read it only, which leaves the time to damage all of them.
func (v *victim) watch() {
	v.t.Helper()
	v.readers = map[string][]string{}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		v.t.Fatal(err)
	}
	defer unix.Close(fd)
	paths := map[int32]string{}
	for _, p := range files(v.t, v.sound) {
		wd, err := unix.InotifyAddWatch(fd, p, unix.IN_OPEN)
		if err != nil {
			v.t.Fatal(err)
		}
		paths[int32(wd)], _ = filepath.Rel(v.sound, p)
	}
	root := openRoot(v.t, v.sound)
	defer root.Close()
	buf := make([]byte, 64<<10)
	for _, s := range mustSources(v.t, root, fixtureOptions) {
		s.Read(nil)
		for {
			n, err := unix.Read(fd, buf)
			if err == unix.EAGAIN {
				break
			}
			if err != nil {
				v.t.Fatal(err)
			}
			for b := buf[:n]; len(b) > 0; b = b[unix.SizeofInotifyEvent+binary.NativeEndian.Uint32(b[12:]):] {
				p := paths[int32(binary.NativeEndian.Uint32(b))]
				if !slices.Contains(v.readers[p], s.Name()) {
					v.readers[p] = append(v.readers[p], s.Name())
				}
			}
		}
	}
}

// of returns the sources of root with these names.
func (v *victim) of(root *Root, names []string) (list []facts.Source) {
	for _, s := range mustSources(v.t, root, fixtureOptions) {
		if slices.Contains(names, s.Name()) {
			list = append(list, s)
		}
	}
	return list
}

// read reads the sources with these names twice, a second apart; hidden, without
// the right to read what its mode forbids.
func (v *victim) read(dir string, names []string, hidden bool) map[string]facts.Reading {
	root := openRoot(v.t, dir)
	defer root.Close()
	if hidden && os.Getuid() == 0 {
		// On this thread only; it takes the rights over files along (credentials(7)).
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		unix.Setfsuid(65534)
		defer unix.Setfsuid(0)
	}
	now := int64(0)
	root.now = func() int64 { return now }
	list := v.of(root, names)
	readAll(v.t, list, 1)
	now += int64(time.Second)
	return readAll(v.t, list, 1)
}

// TestDamagedTrees damages each file of each fixture in each way. Nothing
// panics, every fact is reported, a fact whose file is damaged says so with the
// right status, and no damage passes unseen.
func TestDamagedTrees(t *testing.T) {
	for _, name := range deviceNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t, name)
			dir := v.copy()
			for _, rel := range slices.Sorted(maps.Keys(v.readers)) {
				path := filepath.Join(dir, rel)
				content, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				sound := v.read(dir, v.readers[rel], false)
				for _, d := range damages {
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
					if err := d.do(path, content); err != nil {
						t.Fatal(err)
					}
					got := v.read(dir, v.readers[rel], d.hidden)
					seen := d.name == "cut" || lawful(rel, d.name) // what is left may hold all that counts
					for fact, r := range got {
						if was := sound[fact]; r.Status == was.Status && r.Value.String() == was.Value.String() {
							continue
						}
						seen = seen || r.Status == d.status
						if r.Status != d.status && !lawful(rel, d.name) {
							t.Errorf("%s %s: %s is %s %v %s", rel, d.name, fact, r.Status, r.Value, r.Reason)
						}
					}
					if !seen {
						t.Errorf("%s %s: no fact of %v says so", rel, d.name, v.readers[rel])
					}
					if err := os.RemoveAll(path); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, content, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// TestWithout takes features from each fixture, one by one and all at once: no
// systemd, no hwmon, no cgroup and so on. Each fact is ok or absent then, none
// is unreadable and none is guessed: it keeps its value, or has no other than
// what the catalogue says it is read from instead.
func TestWithout(t *testing.T) {
	features := []struct {
		paths   []string
		instead string // facts that the catalogue reads elsewhere then
	}{
		{[]string{".calls/systemd", ".calls/systemd-units"}, "boot.firmware boot.loader boot.kernel boot.initrd boot.userspace boot.total boot.cpu_time boot.energy"},
		{[]string{"dev/kmsg"}, "boot.kernel"},
		{[]string{"sys/class/hwmon"}, "thermal.max energy.power energy.used energy.gaps energy.voltage boot.energy"},
		{[]string{"sys/class/thermal"}, "thermal.max"},
		{[]string{"sys/class/powercap"}, ""},
		{[]string{"sys/class/power_supply"}, "energy.voltage"},
		{[]string{"sys/fs/cgroup"}, ""},
		{[]string{"proc/device-tree"}, ""},
		{[]string{"sys/firmware"}, "boot.secure"},
		{[]string{"sys/class/dmi"}, ""},
		{[]string{"sys/kernel/security"}, ""},
		{[]string{"sys/devices/system/cpu"}, ""},
		{[]string{"proc/pressure", "proc/schedstat"}, ""},
		{[]string{"proc/net/tcp6", "proc/net/udp6", "proc/net/ipv6_route"}, "network.listening network.peers network.default_route"},
		{[]string{"sys/bus", "sys/class/bluetooth", "sys/class/rtc"}, "network.bluetooth"}, // a kernel without Bluetooth has no adapter
		{[]string{"sys/block"}, ""},
		{[]string{"proc/modules", "sys/module"}, ""},
		{[]string{"etc", "usr"}, ""},
	}
	for _, name := range deviceNames(t) {
		v := newVictim(t, name)
		sound := readTwice(t, openRoot(t, v.copy()))
		bare, instead := v.copy(), ""
		without := func(dir, what, instead string) {
			for fact, r := range readTwice(t, openRoot(t, dir)) {
				was := sound[fact]
				switch {
				case r.Status == was.Status && r.Value.String() == was.Value.String(), r.Status == facts.Absent:
				case r.Status == facts.OK && slices.Contains(strings.Fields(instead), fact):
				default:
					t.Errorf("%s without %s: %s is %s %v %s; it was %s %v", name, what, fact, r.Status, r.Value, r.Reason, was.Status, was.Value)
				}
			}
		}
		for _, f := range features {
			dir := v.copy()
			for _, p := range f.paths {
				if err := errors.Join(os.RemoveAll(filepath.Join(dir, p)), os.RemoveAll(filepath.Join(bare, p))); err != nil {
					t.Fatal(err)
				}
			}
			instead += " " + f.instead
			without(dir, strings.Join(f.paths, ", "), f.instead)
		}
		without(bare, "all of it", instead)
	}
}

// files returns the regular files below dir.
func files(t *testing.T, dir string) (paths []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			paths = append(paths, p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return paths
}

// apart yields the files in groups of at most n that no source reads two of.
func (v *victim) apart(n int) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		left := slices.Sorted(maps.Keys(v.readers))
		for len(left) > 0 {
			var group, taken, later []string
			for _, rel := range left {
				readers := v.readers[rel]
				if len(group) == n || slices.ContainsFunc(readers, func(s string) bool { return slices.Contains(taken, s) }) {
					later = append(later, rel)
					continue
				}
				group, taken = append(group, rel), append(taken, readers...)
			}
			if !yield(group) {
				return
			}
			left = later
		}
	}
}

// TestFilesThatNeverAnswer puts a FIFO in the place of each file of each fixture.
// The facts of the sources that read it are stale, all others are read, and each
// round ends: a stuck read costs its deadline once.
func TestFilesThatNeverAnswer(t *testing.T) {
	const (
		deadline = time.Second
		atOnce   = 64 // they wait and do nothing
	)
	bystanders := []string{"meminfo", "passwd", "voltage", "software"}
	for _, name := range deviceNames(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t, name)
			slots := make(chan struct{}, atOnce)
			var wait sync.WaitGroup
			for rels := range v.apart(3) {
				dir := v.copy()
				var readers []string
				for _, rel := range rels {
					readers = append(readers, v.readers[rel]...)
					path := filepath.Join(dir, rel)
					if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
						t.Fatal(err)
					}
				}
				root, err := OpenRoot(dir)
				if err != nil {
					t.Fatal(err)
				}
				list := v.of(root, append(slices.Clone(bystanders), readers...))
				c, err := facts.NewCollector(list, deadline, Uptime)
				if err != nil {
					t.Fatal(err)
				}
				slots <- struct{}{}
				wait.Go(func() {
					defer func() { <-slots }()
					for round := range 2 {
						s := c.Collect(time.Now())
						for _, src := range list {
							for _, k := range src.Keys() {
								r := s.Reading(k)
								stuck := slices.Contains(readers, src.Name())
								// The second round does not wait for what is stuck.
								if (r.Status == facts.Stale) != stuck || stuck && (r.Reason == "the read before has not come back") != (round > 0) {
									t.Errorf("%v, round %d: fact %d of %s is %s %s", rels, round, k, src.Name(), r.Status, r.Reason)
								}
							}
						}
					}
					// A writer that comes and goes lets the reads return, so that no goroutine is left behind.
					for _, rel := range rels {
						w, err := os.OpenFile(filepath.Join(dir, rel), os.O_WRONLY|unix.O_NONBLOCK, 0)
						if err != nil {
							t.Errorf("nothing is reading %s: %v", rel, err)
							continue
						}
						defer w.Close()
					}
					c.Close()
				})
			}
			wait.Wait()
		})
	}
}
