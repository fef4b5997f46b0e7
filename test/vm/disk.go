package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mkroot makes an ext4 image with the label root from a folder.
func mkroot(ctx context.Context, dir, image string, size int64) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return program(ctx, nil, "mkfs.ext4", "-q", "-F", "-L", "root", "-U", "6d696f74-6661-6374-7300-000000000001", "-d", dir, image)
}

// ESP is where the EFI system partition begins, in bytes.
const espStart, espSize = 1 << 20, 98 << 20

// mkesp makes a GPT disk with an EFI system partition and copies files into it,
// by their path in the partition.
func mkesp(ctx context.Context, image string, files map[string]string) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	if err := f.Truncate(espStart + espSize + 1<<20); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	table := fmt.Sprintf("label: gpt\nlabel-id: 6d696f74-6661-6374-7300-000000000002\nstart=%d, size=%d, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=6d696f74-6661-6374-7300-000000000003, bootable, name=ESP\n", espStart/512, espSize/512)
	if err := program(ctx, strings.NewReader(table), "sfdisk", "-q", image); err != nil {
		return err
	}
	if err := program(ctx, nil, "mkfs.vfat", "-F", "32", "-i", "6d696f74", "-n", "ESP", "--offset", fmt.Sprint(espStart/512), image, fmt.Sprint(espSize/1024)); err != nil {
		return err
	}
	partition := image + "@@" + fmt.Sprint(espStart)
	made := map[string]bool{}
	for to, from := range files {
		for i, c := range to {
			if c == '/' && !made[to[:i]] {
				made[to[:i]] = true
				if err := program(ctx, nil, "mmd", "-i", partition, "::"+to[:i]); err != nil {
					return err
				}
			}
		}
		if err := program(ctx, nil, "mcopy", "-i", partition, from, "::"+to); err != nil {
			return err
		}
	}
	return nil
}

// mkuki puts kernel, initrd and command line behind systemd's EFI stub: a unified
// kernel image (UAPI group specification).
func mkuki(ctx context.Context, boot, kernel, initrd, cmdline, to string) error {
	for name, text := range map[string]string{".cmdline": cmdline, ".osrel": "ID=miotfacts-vm\nVERSION_ID=1\n"} {
		if err := os.WriteFile(to+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return program(ctx, nil, "aarch64-linux-gnu-objcopy",
		"--add-section", ".osrel="+to+".osrel", "--change-section-vma", ".osrel=0x20000",
		"--add-section", ".cmdline="+to+".cmdline", "--change-section-vma", ".cmdline=0x30000",
		"--add-section", ".linux="+kernel, "--change-section-vma", ".linux=0x1000000",
		"--add-section", ".initrd="+initrd, "--change-section-vma", ".initrd=0x6000000",
		filepath.Join(boot, "usr/lib/systemd/boot/efi/linuxaa64.efi.stub"), to)
}

// mkscript makes U-Boot's boot script, which starts the kernel as an EFI program:
// only so it is measured.
func mkscript(ctx context.Context, cmdline, to string) error {
	text := `setenv bootargs "` + cmdline + ` initrd=\\initrd"
tpm2 init
load ${devtype} ${devnum}:${distro_bootpart} ${kernel_addr_r} kernel
bootefi ${kernel_addr_r} ${fdtcontroladdr}
`
	if err := os.WriteFile(to+".txt", []byte(text), 0o644); err != nil {
		return err
	}
	return program(ctx, nil, "mkimage", "-A", "arm64", "-T", "script", "-C", "none", "-n", "boot", "-d", to+".txt", to)
}

// sign signs an EFI program with the key that Debian's test firmware trusts.
func sign(ctx context.Context, dir, from, to string) error {
	key := filepath.Join(dir, "snakeoil.key")
	if err := program(ctx, nil, "openssl", "rsa", "-in", "/usr/share/qemu-efi-aarch64/PkKek-1-snakeoil.key", "-passin", "pass:snakeoil", "-out", key); err != nil {
		return err
	}
	return program(ctx, nil, "sbsign", "--key", key, "--cert", "/usr/share/qemu-efi-aarch64/PkKek-1-snakeoil.pem", "--output", to, from)
}
