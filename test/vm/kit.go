package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/miotfacts/miotfacts/test/lab"
)

// cmdline is what every kernel here is started with. With rootfstype=ramfs IMA
// measures the initial root as well; panic=-1 starts anew at once.
const cmdline = "console=ttyAMA0 loglevel=4 quiet panic=-1 ima_policy=tcb rootfstype=ramfs systemd.show_status=0"

// units are this test's own in the machine: its hand, its network, and the medical application, which holds back while the latch is not clear, as
// configs/systemd/medical-application.conf has it.
func units() map[string]string {
	return map[string]string{
		"guest.service": `[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service
[Service]
ExecStart=/opt/guest
Restart=always
RestartSec=100ms
StartLimitIntervalSec=0
[Install]
WantedBy=multi-user.target
`,
		"network-up.service": `[Unit]
DefaultDependencies=no
Wants=network.target
Before=network.target network-online.target
After=systemd-remount-fs.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2'
[Install]
WantedBy=multi-user.target
`,
		"medical.service": `[Unit]
Description=SIMULATED infusion monitor
[Service]
RuntimeDirectory=medical
ExecStartPre=/bin/sh -c 'ln -sf /run/miotfacts/app/facts.sock /run/medical/app.sock; cp /etc/flow /run/medical/flow'
ExecStart=/opt/guest infusion /run/medical
ExecStartPost=/bin/sh -c 'cat /proc/sys/kernel/random/boot_id >>/var/lib/medical-started'
[Install]
WantedBy=multi-user.target
`,
	}
}

// A kit is what all machines of a run are put together from.
type kit struct {
	source string // of this repository
	dir    string // temporary
	bin    string // the commands, for this machine
	boot   string // unpacked boot packages
	kernel string
	initrd string
	root   string // image with systemd
	busy   string // image with busybox's init
}

// newKit builds commands, packages and images in dir.
func newKit(ctx context.Context, repo, dir string) (*kit, error) {
	c, err := openCache()
	if err != nil {
		return nil, err
	}
	rootTree, boot, err := c.trees(ctx)
	if err != nil {
		return nil, err
	}
	k := &kit{source: repo, dir: dir, bin: filepath.Join(dir, "bin"), boot: boot, kernel: filepath.Join(dir, "kernel"), initrd: filepath.Join(dir, "initrd")}
	l := &lab.Lab{Ctx: ctx, Dir: k.bin}
	if err := errors.Join(os.MkdirAll(k.bin, 0o755), l.Build()); err != nil {
		return nil, err
	}
	kernels, err := filepath.Glob(filepath.Join(boot, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return nil, fmt.Errorf("cannot find the kernel: %q, %v", kernels, err)
	}
	if err := program(ctx, nil, "cp", kernels[0], k.kernel); err != nil {
		return nil, err
	}
	data, err := initrd(boot, "")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(k.initrd, data, 0o644); err != nil {
		return nil, err
	}
	debs := filepath.Join(dir, "deb")
	if err := program(ctx, nil, "go", "run", "-C", repo, "./test/packaging/dist", "-out", debs, "-kinds", "deb", "-ports", "arm64,armv7", "-xz", "0"); err != nil {
		return nil, err
	}
	guest := filepath.Join(dir, "guest")
	if err := program(ctx, nil, "env", "CGO_ENABLED=0", "GOARCH=arm64", "go", "build", "-C", repo, "-trimpath", "-ldflags", "-s -w", "-o", guest, "./test/vm/guest"); err != nil {
		return nil, err
	}
	k.root, k.busy = filepath.Join(dir, "root.img"), filepath.Join(dir, "busybox.img")
	if err := k.systemdRoot(ctx, rootTree, debs, guest); err != nil {
		return nil, err
	}
	return k, k.busyboxRoot(ctx, repo, debs, guest)
}

// other returns another kernel than the machines', and its initial root.
func (k *kit) other(ctx context.Context) (kernel, root string, err error) {
	c, err := openCache()
	if err != nil {
		return "", "", err
	}
	boot, err := c.other(ctx)
	if err != nil {
		return "", "", err
	}
	image, err := one(boot + "/boot/vmlinuz-*")
	if err != nil {
		return "", "", err
	}
	// busybox is the same.
	if err := errors.Join(os.MkdirAll(boot+"/usr/bin", 0o755), program(ctx, nil, "cp", filepath.Join(k.boot, "bin/busybox"), boot+"/bin/busybox")); err != nil {
		return "", "", err
	}
	data, err := initrd(boot, "")
	if err != nil {
		return "", "", err
	}
	kernel, root = filepath.Join(k.dir, "other-kernel"), filepath.Join(k.dir, "other-initrd")
	return kernel, root, errors.Join(program(ctx, nil, "cp", image, kernel), os.WriteFile(root, data, 0o644))
}

// one returns the one file that a pattern finds.
func one(pattern string) (string, error) {
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("not one file %s: %q, %v", pattern, found, err)
	}
	return found[0], nil
}

// systemdRoot makes the image with Debian's systemd and what our package for
// arm64 has in it.
func (k *kit) systemdRoot(ctx context.Context, tree, debs, guest string) error {
	dir := filepath.Join(k.dir, "root")
	if err := program(ctx, nil, "cp", "-a", tree, dir); err != nil {
		return err
	}
	deb, err := one(debs + "/factsd_*_arm64.deb")
	if err != nil {
		return err
	}
	if err := extractInto(ctx, dir, deb); err != nil {
		return err
	}
	if err := program(ctx, nil, "systemd-sysusers", "--root="+dir); err != nil {
		return err
	}
	for name, text := range units() {
		if err := os.WriteFile(filepath.Join(dir, "etc/systemd/system", name), []byte(text), 0o644); err != nil {
			return err
		}
		if name == "medical.service" {
			continue
		}
		if err := os.Symlink("../"+name, filepath.Join(dir, "etc/systemd/system/multi-user.target.wants", name)); err != nil {
			return err
		}
	}
	if err := k.packages(ctx, dir, debs); err != nil {
		return err
	}
	if err := program(ctx, nil, "cp", guest, filepath.Join(dir, "opt/guest")); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return mkroot(ctx, dir, k.root, 512<<20)
}

// packages puts our packages and the agent for 32 bits into a root.
func (k *kit) packages(ctx context.Context, dir, debs string) error {
	if err := os.MkdirAll(filepath.Join(dir, "opt/packages"), 0o755); err != nil {
		return err
	}
	deb, err := one(debs + "/factsd_*_arm64.deb")
	if err != nil {
		return err
	}
	if err := program(ctx, nil, "cp", deb, filepath.Join(dir, "opt/packages/factsd.deb")); err != nil {
		return err
	}
	if err := k.next(ctx, deb, filepath.Join(dir, "opt/packages/factsd-next.deb")); err != nil {
		return err
	}
	armhf, err := one(debs + "/factsd_*_armhf.deb")
	if err != nil {
		return err
	}
	other := filepath.Join(k.dir, "armhf")
	if err := program(ctx, nil, "dpkg-deb", "-x", armhf, other); err != nil {
		return err
	}
	return program(ctx, nil, "cp", other+"/usr/bin/factsd", filepath.Join(dir, "opt/factsd-armv7"))
}

// next makes a later version of a package, with an agent that says so.
func (k *kit) next(ctx context.Context, deb, to string) error {
	dir := filepath.Join(k.dir, "next")
	defer os.RemoveAll(dir)
	if err := program(ctx, nil, "dpkg-deb", "-R", deb, dir); err != nil {
		return err
	}
	if err := program(ctx, nil, "sed", "-i", "s/^Version: .*/Version: 0.2.0-1/", dir+"/DEBIAN/control"); err != nil {
		return err
	}
	if err := program(ctx, nil, "env", "CGO_ENABLED=0", "GOARCH=arm64", "go", "build", "-C", k.source, "-trimpath", "-ldflags", "-s -w -X main.version=0.2.0", "-o", dir+"/usr/bin/factsd", "./cmd/factsd"); err != nil {
		return err
	}
	return program(ctx, nil, "dpkg-deb", "-Znone", "--root-owner-group", "-b", dir, to)
}

// extractInto unpacks a package over a root whose /lib is a link.
func extractInto(ctx context.Context, dir, deb string) error {
	plain, err := output(ctx, nil, "dpkg-deb", "--fsys-tarfile", deb)
	if err != nil {
		return err
	}
	return program(ctx, strings.NewReader(string(plain)), "tar", "-x", "-C", dir, "--keep-directory-symlink")
}

// busyboxRoot makes the image without systemd: busybox, one static binary, and
// the init script of configs/busybox.
func (k *kit) busyboxRoot(ctx context.Context, repo, debs, guest string) error {
	dir := filepath.Join(k.dir, "busy")
	defer os.RemoveAll(dir)
	for _, d := range []string{"bin", "sbin", "usr/bin", "usr/sbin", "etc/init.d", "etc/miotfacts", "dev", "proc", "sys", "run", "tmp", "root", "opt", "var/lib"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	busybox := filepath.Join(k.boot, "bin/busybox")
	if err := program(ctx, nil, "cp", busybox, dir+"/bin/busybox"); err != nil {
		return err
	}
	for _, a := range strings.Fields(`sh cat ls mount umount mkdir chmod chown rm ln cp mv date dirname sleep kill ps ip grep sed start-stop-daemon su hostname
		setpriv id tar sync base64 head tail tr wc test touch hwclock dmesg printf pidof readlink seq uptime env nohup cut sort awk`) {
		if err := os.Symlink("/bin/busybox", filepath.Join(dir, "bin", a)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nfactsd:x:100:100:miotfacts agent:/var/lib/miotfacts:/bin/false\n",
		"etc/group":  "root:x:0:\nfactsd:x:100:\ntss:x:101:factsd\n",
		"etc/inittab": `::sysinit:/etc/init.d/rcS
::respawn:/opt/guest
`,
		"etc/init.d/rcS": `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t securityfs security /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=0755 tmpfs /run
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
[ -c /dev/tpmrm0 ] && chown root:tss /dev/tpmrm0 && chmod 0660 /dev/tpmrm0
for script in /etc/init.d/S*; do [ -x "$script" ] && "$script" start; done
`,
		// The medical application, in a cgroup of its own.
		"opt/medical.init": `#!/bin/sh
[ "$1" = start ] || exit 0
mkdir -p /run/medical /sys/fs/cgroup/medical
ln -sf /run/miotfacts/app/facts.sock /run/medical/app.sock
cp /etc/flow /run/medical/flow
echo "$(/usr/bin/factsd status | grep latch) $(cat /proc/sys/kernel/random/boot_id)" >>/var/lib/medical-started
start-stop-daemon -S -b -m -p /run/medical.pid -x /bin/sh -- -c 'echo $$ >/sys/fs/cgroup/medical/cgroup.procs; exec /opt/guest infusion /run/medical'
`,
	} {
		mode := fs.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			return err
		}
	}
	if err := os.Symlink("/bin/busybox", dir+"/sbin/init"); err != nil {
		return err
	}
	deb, err := one(debs + "/factsd_*_arm64.deb")
	if err != nil {
		return err
	}
	other := filepath.Join(k.dir, "arm64")
	if err := program(ctx, nil, "dpkg-deb", "-x", deb, other); err != nil {
		return err
	}
	for from, to := range map[string]string{other + "/usr/bin/factsd": "usr/bin/factsd", repo + "/configs/busybox/factsd.init": "opt/factsd.init", guest: "opt/guest"} {
		if err := program(ctx, nil, "cp", from, filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	return mkroot(ctx, dir, k.busy, 96<<20)
}
