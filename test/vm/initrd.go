package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A moduleTree finds modules of a kernel and what they depend on.
type moduleTree struct {
	dir  string              // .../lib/modules/VERSION
	deps map[string][]string // path below dir: paths, in the order of modules.dep
}

func openModules(boot string) (*moduleTree, error) {
	dirs, err := filepath.Glob(filepath.Join(boot, "usr/lib/modules/*"))
	if err != nil || len(dirs) != 1 {
		return nil, fmt.Errorf("cannot find the kernel's modules: %q, %v", dirs, err)
	}
	t := &moduleTree{dir: dirs[0], deps: map[string][]string{}}
	list := filepath.Join(t.dir, "modules.dep")
	if _, err := os.Stat(list); errors.Is(err, fs.ErrNotExist) {
		if err := program(context.Background(), nil, "depmod", "-b", filepath.Join(boot, "usr"), filepath.Base(t.dir)); err != nil {
			return nil, err
		}
	}
	data, err := os.ReadFile(list)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		name, needs, ok := strings.Cut(lines.Text(), ":")
		if !ok {
			return nil, fmt.Errorf("cannot read %s: %q", list, lines.Text())
		}
		t.deps[name] = strings.Fields(needs)
	}
	return t, lines.Err()
}

// closure returns the modules and what they depend on, in the order in which
// they can be loaded. What is built into the kernel is left out.
func (t *moduleTree) closure(names []string) []string {
	var out []string
	add := func(path string) {
		if !slices.Contains(out, path) {
			out = append(out, path)
		}
	}
	for _, name := range names {
		for path, needs := range t.deps {
			base := filepath.Base(path)
			if strings.ReplaceAll(base[:strings.Index(base, ".ko")], "-", "_") != name {
				continue
			}
			for _, n := range slices.Backward(needs) {
				add(n)
			}
			add(path)
		}
	}
	return out
}

// copyModules copies modules for modprobe on the root.
func copyModules(boot, to string, names []string) error {
	t, err := openModules(boot)
	if err != nil {
		return err
	}
	version := filepath.Base(t.dir)
	files := append(t.closure(names), "modules.builtin", "modules.builtin.modinfo", "modules.order")
	for _, path := range files {
		data, err := os.ReadFile(filepath.Join(t.dir, path))
		if err != nil {
			return err
		}
		dest := filepath.Join(to, version, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(dest), 0o755), os.WriteFile(dest, data, 0o644)); err != nil {
			return err
		}
	}
	return program(context.Background(), nil, "depmod", "-b", filepath.Dir(filepath.Dir(to)), version)
}

// hook is run by the kernel itself whenever it wants a module. The first time is
// in the self-test of its random numbers, long before IMA starts, and IMA uses a
// TPM only if it is there by then. Under lockdown signatures cannot be checked
// that early: so it tries again at each call until the driver is in.
const hook = `#!/bin/busybox sh
[ -e /tpm-loaded ] && exit 1
/bin/busybox mkdir /tpm-loading 2>/dev/null || exit 1
loaded=yes
while read -r module; do
	[ -e "/$module.in" ] && continue
	if /bin/busybox insmod "/modules/$module" 2>/dev/null; then : >"/$module.in"; else loaded=no; fi
done </modules/early
[ $loaded = yes ] && : >/tpm-loaded
/bin/busybox rmdir /tpm-loading
exit 1
`

// initScript is the first process. The root is an ext4 disk with the label root.
const initScript = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
/sbin/modprobe # where nothing asked for a module before
while read -r module; do $b insmod "/modules/$module" 2>/dev/null; done </modules/late
init=/sbin/init
for word in $($b cat /proc/cmdline); do
	case $word in vm.init=*) init=${word#vm.init=} ;; esac
done
i=0
until root=$($b findfs LABEL=root) && [ -b "$root" ]; do
	i=$((i + 1))
	[ $i -lt 200 ] || { echo "vm: no disk with the label root"; exec $b sh; }
	$b usleep 50000
done
$b mount -t ext4 -o rw,noatime "$root" /new || exec $b sh
$b umount /sys
$b umount /proc
$b mount -o move /dev /new/dev
exec $b switch_root /new "$init"
`

// initrd returns the initial root: busybox, the drivers of the machine, a hook
// that loads the TPM's driver before IMA starts, and an init. extra is put into
// a file, so that another initrd differs in something.
func initrd(boot, extra string) ([]byte, error) {
	t, err := openModules(boot)
	if err != nil {
		return nil, err
	}
	var a archive
	for _, d := range []string{"bin", "sbin", "dev", "proc", "sys", "new", "modules", "tmp"} {
		a.add(d, fs.ModeDir|0o755, nil)
	}
	busybox, err := os.ReadFile(filepath.Join(boot, "bin/busybox"))
	if err != nil {
		return nil, err
	}
	a.add("bin/busybox", 0o755, busybox)
	a.add("sbin/modprobe", 0o755, []byte(hook))
	a.add("init", 0o755, []byte(initScript))
	lists := map[string][]string{
		"early": t.closure([]string{"sha512_generic", "tpm_tis_core", "tpm_tis"}),
		"late":  t.closure([]string{"virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_mmio"}),
	}
	done := map[string]bool{}
	for _, name := range []string{"early", "late"} {
		var list strings.Builder
		for _, path := range lists[name] {
			plain := strings.TrimSuffix(filepath.Base(path), ".xz")
			fmt.Fprintln(&list, plain)
			if done[plain] {
				continue
			}
			done[plain] = true
			data, err := os.ReadFile(filepath.Join(t.dir, path))
			if err != nil {
				return nil, err
			}
			if strings.HasSuffix(path, ".xz") {
				if data, err = output(context.Background(), bytes.NewReader(data), "xz", "-dc"); err != nil {
					return nil, err
				}
			}
			a.add("modules/"+plain, 0o644, data)
		}
		a.add("modules/"+name, 0o644, []byte(list.String()))
	}
	a.add("edition", 0o644, []byte(extra+"\n"))
	return output(context.Background(), bytes.NewReader(a.end()), "zstd", "-q", "-3", "-c")
}

// An archive is a cpio archive in the form that the kernel reads ("newc",
// Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	buf  bytes.Buffer
	next int
}

func (a *archive) add(name string, mode fs.FileMode, data []byte) {
	kind := 0o100000
	if mode.IsDir() {
		kind = 0o040000
	}
	a.next++
	a.record(name, kind|int(mode.Perm()), a.next, data)
}

func (a *archive) record(name string, mode, inode int, data []byte) {
	fmt.Fprintf(&a.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.buf.WriteString(name + "\x00")
	a.pad()
	a.buf.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

func (a *archive) end() []byte {
	a.record("TRAILER!!!", 0, 0, nil)
	return a.buf.Bytes()
}
