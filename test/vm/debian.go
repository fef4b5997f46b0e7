package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// What the machine is made of, Debian packages for arm64. The cloud kernel is
// the one that has the driver of QEMU's TPM, as a module.
const kernelPackage = "linux-image-6.12-cloud-arm64"

func rootPackages() []string {
	return strings.Fields(`systemd systemd-sysv udev dbus tpm-udev kmod procps iproute2 base-files base-passwd coreutils
		dash bash sed grep mawk util-linux login passwd libc-bin dpkg tar gzip xz-utils diffutils findutils nftables`)
}

func bootPackages() []string { return []string{"busybox-static", "systemd-boot-efi"} }

// A cache keeps what was downloaded and unpacked. Removing it costs a download.
type cache struct {
	dir string
}

func openCache() (*cache, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("cannot find a cache folder: %w", err)
		}
		base = filepath.Join(home, ".cache")
	}
	c := &cache{dir: filepath.Join(base, "miotfacts-vm")}
	return c, os.MkdirAll(c.dir, 0o755)
}

func (c *cache) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// trees returns the folders with the unpacked root and the unpacked boot files
// (kernel, modules, busybox, EFI stub). They are made once for each list of
// packages; remove the cache folder to have newer ones.
func (c *cache) trees(ctx context.Context) (root, boot string, err error) {
	list := append(append(rootPackages(), bootPackages()...), kernelPackage)
	key := fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(list, " ")+treeVersion)))[:12]
	root, boot = c.path("root-"+key), c.path("boot-"+key)
	if _, err := os.Stat(c.path("made-" + key)); err == nil {
		return root, boot, nil
	}
	fmt.Fprintln(os.Stderr, "downloading Debian packages for arm64 into", c.dir)
	apt, err := c.isolatedApt()
	if err != nil {
		return "", "", err
	}
	if err := apt(ctx, "update"); err != nil {
		return "", "", err
	}
	unpack := func(dir, kind string, packages []string) error {
		archives := c.path("archives-" + kind)
		if err := errors.Join(os.RemoveAll(archives), os.MkdirAll(archives+"/partial", 0o755)); err != nil {
			return err
		}
		if err := apt(ctx, append([]string{"-y", "-o", "Dir::Cache::archives=" + archives, "--download-only", "install"}, packages...)...); err != nil {
			return err
		}
		debs, err := filepath.Glob(archives + "/*.deb")
		if err != nil || len(debs) == 0 {
			return fmt.Errorf("cannot unpack: apt downloaded nothing for %v", packages)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if kind == "boot" {
			// Only these, not what they depend on.
			debs = slices.DeleteFunc(debs, func(p string) bool {
				b := filepath.Base(p)
				return !strings.HasPrefix(b, "linux-image-") && !strings.HasPrefix(b, "busybox-static_") && !strings.HasPrefix(b, "systemd-boot-efi_")
			})
		}
		if err := extract(ctx, dir, debs); err != nil {
			return err
		}
		return os.RemoveAll(archives)
	}
	if err := unpack(root, "root", rootPackages()); err != nil {
		return "", "", err
	}
	if err := unpack(boot, "boot", append(bootPackages(), kernelPackage)); err != nil {
		return "", "", err
	}
	if err := finishRoot(ctx, root, boot); err != nil {
		return "", "", err
	}
	return root, boot, os.WriteFile(c.path("made-"+key), nil, 0o644)
}

// otherKernel is another one than the machines'.
const otherKernel = "linux-image-cloud-arm64"

// other returns the folder with the unpacked other kernel, made once.
func (c *cache) other(ctx context.Context) (string, error) {
	dir := c.path("other-" + otherKernel)
	if _, err := os.Stat(dir + ".made"); err == nil {
		return dir, nil
	}
	apt, err := c.isolatedApt()
	if err != nil {
		return "", err
	}
	archives := c.path("archives-other")
	defer os.RemoveAll(archives)
	if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(archives), os.MkdirAll(archives+"/partial", 0o755), apt(ctx, "update"),
		apt(ctx, "-y", "-o", "Dir::Cache::archives="+archives, "--download-only", "install", otherKernel)); err != nil {
		return "", err
	}
	deb, err := one(archives + "/linux-image-[0-9]*.deb")
	if err != nil {
		return "", err
	}
	if err := extract(ctx, dir, []string{deb}); err != nil {
		return "", err
	}
	return dir, os.WriteFile(dir+".made", nil, 0o644)
}

// isolatedApt returns an apt-get for arm64 with lists, status and archives of
// its own, so that this machine's stay as they are.
func (c *cache) isolatedApt() (func(context.Context, ...string) error, error) {
	dir := c.path("apt")
	for _, d := range []string{"lists/partial", "cache/archives/partial", "conf.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(dir+"/status", nil, 0o644); err != nil {
		return nil, err
	}
	// This machine's way to its mirrors, without what it does after an update.
	parts, err := filepath.Glob("/etc/apt/apt.conf.d/*")
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		data, err := os.ReadFile(p)
		if err != nil || strings.Contains(string(data), "-Invoke") || strings.Contains(string(data), "AutoRemove") {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "conf.d", filepath.Base(p)), data, 0o644); err != nil {
			return nil, err
		}
	}
	options := []string{
		"-qq", "-o", "Dir::Etc::parts=" + dir + "/conf.d", "-o", "Dir::State::Lists=" + dir + "/lists", "-o", "Dir::State::status=" + dir + "/status",
		"-o", "Dir::Cache=" + dir + "/cache", "-o", "Dir::Log=" + dir,
		"-o", "APT::Architecture=arm64", "-o", "APT::Architectures=arm64", "-o", "APT::Install-Recommends=0", "-o", "APT::Sandbox::User=root",
		"-o", "Acquire::Languages=none", "-o", "Debug::NoLocking=1",
	}
	return func(ctx context.Context, args ...string) error {
		return program(ctx, nil, "apt-get", append(slices.Clone(options), args...)...)
	}, nil
}

// extract unpacks packages into dir without running anything of them.
func extract(ctx context.Context, dir string, debs []string) error {
	for _, d := range []string{"usr/bin", "usr/sbin", "usr/lib"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(d, filepath.Join(dir, filepath.Base(d))); err != nil {
			return err
		}
	}
	for _, deb := range debs {
		pack := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
		pipe, err := pack.StdoutPipe()
		if err != nil {
			return err
		}
		if err := pack.Start(); err != nil {
			return fmt.Errorf("cannot unpack %s: %w", deb, err)
		}
		err = program(ctx, pipe, "tar", "-x", "-C", dir, "--keep-directory-symlink", "--exclude=./usr/share/doc", "--exclude=./usr/share/man",
			"--exclude=./usr/share/locale", "--exclude=./usr/share/info", "--exclude=./usr/share/i18n")
		if err := errors.Join(err, pack.Wait()); err != nil {
			return fmt.Errorf("cannot unpack %s: %w", filepath.Base(deb), err)
		}
	}
	return nil
}

// treeVersion changes when finishRoot does.
const treeVersion = "3"

// finishRoot does what the packages' own scripts would have done, as far as the
// machine needs it.
func finishRoot(ctx context.Context, root, boot string) error {
	at := func(name string) string { return filepath.Join(root, name) }
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "root", "opt", "var/tmp", "var/lib/dpkg/info", "var/lib/dpkg/updates", "etc/systemd/system/multi-user.target.wants", "etc/systemd/system/systemd-udev-trigger.service.d"} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			return err
		}
	}
	for _, f := range []struct{ name, from string }{
		{"etc/passwd", "usr/share/base-passwd/passwd.master"}, {"etc/group", "usr/share/base-passwd/group.master"},
	} {
		data, err := os.ReadFile(at(f.from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(at(f.name), data, 0o644); err != nil {
			return err
		}
	}
	for _, l := range []struct{ name, to string }{
		{"bin/sh", "dash"}, {"bin/awk", "mawk"}, {"etc/os-release", "../usr/lib/os-release"}, {"etc/mtab", "../proc/self/mounts"},
		{"etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target"},
	} {
		if err := os.Symlink(l.to, at(l.name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/hostname": "gateway\n", "etc/fstab": "", "etc/machine-id": "", "var/lib/dpkg/status": "", "var/lib/dpkg/available": "",
		"etc/profile": "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPS1='\\h:\\w\\$ '\nexport PATH PS1\n",
		// Only what has a rule that matters here: all devices cost 20 s of emulation.
		"etc/systemd/system/systemd-udev-trigger.service.d/few.conf": "[Service]\nExecStart=\nExecStart=udevadm trigger --subsystem-match=tpmrm --subsystem-match=tpm --subsystem-match=watchdog\n",
		"usr/lib/sysusers.d/vm-packages.conf":                        "u messagebus - - /run/dbus\nu tss - \"TPM software stack\" /var/lib/tpm\n",
	} {
		if err := os.WriteFile(at(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(at("tmp"), 0o777|fs.ModeSticky); err != nil {
		return err
	}
	if err := program(ctx, nil, "systemd-sysusers", "--root="+root); err != nil {
		return err
	}
	// What a machine without a person in front of it does not start.
	for _, unit := range strings.Fields(`e2scrub_reap.service e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer fstrim.timer dpkg-db-backup.timer
		systemd-logind.service systemd-pstore.service getty@.service serial-getty@.service console-getty.service systemd-timesyncd.service
		systemd-networkd.service systemd-update-utmp.service systemd-update-utmp-runlevel.service sys-kernel-debug.mount sys-kernel-tracing.mount
		dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount systemd-hwdb-update.service systemd-firstboot.service
		modprobe@.service systemd-modules-load.service systemd-sysusers.service systemd-random-seed.service systemd-initctl.socket
		systemd-ask-password-console.path systemd-ask-password-wall.path cryptsetup.target veritysetup.target integritysetup.target`) {
		if err := os.Symlink("/dev/null", at("etc/systemd/system/"+unit)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"var/lib/apt", "usr/share/zoneinfo", "usr/share/bash-completion", "usr/share/zsh", "usr/lib/aarch64-linux-gnu/gconv", "usr/lib/udev/hwdb.d"} {
		if err := os.RemoveAll(at(dir)); err != nil {
			return err
		}
	}
	return copyModules(boot, filepath.Join(root, "usr/lib/modules"), []string{"softdog", "nf_tables", "nft_ct", "vfat", "nls_cp437", "nls_ascii"})
}
