package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Where Debian's packages put the firmware.
const (
	firmwareEDK2   = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"
	firmwareUBoot  = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
	firmwareSecure = "/usr/share/AAVMF/AAVMF_CODE.fd"
	variables      = "/usr/share/AAVMF/AAVMF_VARS.snakeoil.fd" // Secure Boot on, with Debian's test key
)

// A hardware says what machine is put together and what it boots.
type hardware struct {
	firmware string // "edk2", "uboot", "secure", or "none": QEMU starts the kernel
	kernel   string // file; "" when the ESP has it
	initrd   string
	cmdline  string
	esp      string // image of the disk with the EFI system partition, or ""
	root     string // image of the root disk
	noTPM    bool
	port     bool // with a free PCI Express port, for what is plugged in later
}

// A machine is QEMU with its software TPM.
type machine struct {
	dir   string
	hw    hardware
	qemu  *exec.Cmd
	swtpm *exec.Cmd
	done  chan error // QEMU ended
	qmp   *monitor
	link  *link
	boot  string // the kernel's id of the present boot
	began time.Time
}

// newMachine makes the machine's disk and TPM in dir. start switches it on.
func newMachine(ctx context.Context, dir string, hw hardware) (*machine, error) {
	if err := os.MkdirAll(filepath.Join(dir, "tpm"), 0o700); err != nil {
		return nil, err
	}
	m := &machine{dir: dir, hw: hw}
	if err := program(ctx, nil, "qemu-img", "create", "-q", "-f", "qcow2", "-b", hw.root, "-F", "raw", m.path("disk.qcow2")); err != nil {
		return nil, err
	}
	if hw.firmware == "secure" {
		data, err := os.ReadFile(variables)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(m.path("variables.fd"), data, 0o600); err != nil {
			return nil, err
		}
	}
	if hw.noTPM {
		return m, nil
	}
	// Only the SHA-256 bank: the logs are a third.
	return m, program(ctx, nil, "swtpm_setup", "--tpm2", "--tpmstate", m.path("tpm"), "--pcr-banks", "sha256", "--logfile", m.path("swtpm-setup.log"))
}

func (m *machine) path(name string) string { return filepath.Join(m.dir, name) }

// start switches the machine on.
func (m *machine) start(ctx context.Context) error {
	for _, name := range []string{"tpm.sock", "qmp.sock", "link.sock"} {
		os.Remove(m.path(name))
	}
	dies := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	args := strings.Fields("-M virt -cpu cortex-a57 -smp 1 -m 768 -accel tcg,thread=multi -nodefaults -display none -rtc base=utc")
	switch m.hw.firmware {
	case "edk2":
		args = append(args, "-bios", firmwareEDK2)
	case "uboot":
		args = append(args, "-bios", firmwareUBoot)
	case "secure":
		args = append(args, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+firmwareSecure, "-drive", "if=pflash,format=raw,unit=1,file="+m.path("variables.fd"))
	}
	if m.hw.kernel != "" {
		args = append(args, "-kernel", m.hw.kernel, "-initrd", m.hw.initrd, "-append", m.hw.cmdline)
	}
	if m.hw.esp != "" {
		args = append(args, "-drive", "if=none,id=esp,format=raw,snapshot=on,file="+m.hw.esp, "-device", "virtio-blk-pci,drive=esp,bootindex=0")
	}
	args = append(args,
		"-drive", "if=none,id=root,format=qcow2,file="+m.path("disk.qcow2"), "-device", "virtio-blk-pci,drive=root",
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random",
		"-chardev", "socket,id=link,server=on,wait=off,path="+m.path("link.sock"), "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=link,name=miotfacts.test",
		"-qmp", "unix:"+m.path("qmp.sock")+",server=on,wait=off")
	args = append(args, "-serial", "file:"+m.path("console.log"))
	if m.hw.port {
		args = append(args, "-device", "pcie-root-port,id=socket,chassis=1")
	}
	if !m.hw.noTPM {
		m.swtpm = exec.Command("swtpm", "socket", "--tpm2", "--terminate", "--tpmstate", "dir="+m.path("tpm"), "--ctrl", "type=unixio,path="+m.path("tpm.sock"))
		m.swtpm.SysProcAttr = dies
		if err := m.swtpm.Start(); err != nil {
			return fmt.Errorf("cannot start swtpm: %w", err)
		}
		if !until(ctx, 10*time.Second, func() bool { _, err := os.Stat(m.path("tpm.sock")); return err == nil }) {
			return errors.New("swtpm did not start")
		}
		args = append(args, "-chardev", "socket,id=tpm,path="+m.path("tpm.sock"), "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis-device,tpmdev=tpm0")
	}
	m.qemu = exec.Command("qemu-system-aarch64", args...)
	m.qemu.SysProcAttr = dies
	errs, err := os.OpenFile(m.path("qemu.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer errs.Close()
	m.qemu.Stdout, m.qemu.Stderr = errs, errs
	m.began = time.Now()
	if err := m.qemu.Start(); err != nil {
		return fmt.Errorf("cannot start QEMU: %w", err)
	}
	m.done = make(chan error, 1)
	go func(q *exec.Cmd, done chan error) { done <- q.Wait(); close(done) }(m.qemu, m.done)
	if m.qmp, err = openMonitor(ctx, m.path("qmp.sock")); err != nil {
		return errors.Join(err, m.said())
	}
	if m.link, err = openLink(ctx, m.path("link.sock")); err != nil {
		return errors.Join(err, m.said())
	}
	return nil
}

// said returns what QEMU and the console said last, as an error.
func (m *machine) said() error {
	var all []string
	for _, name := range []string{"qemu.log", "console.log"} {
		data, err := os.ReadFile(m.path(name))
		if err != nil {
			continue
		}
		all = append(all, fmt.Sprintf("%s: %s", name, data[max(0, len(data)-3000):]))
	}
	return errors.New(strings.Join(all, "\n"))
}

// up waits until the guest program greets.
func (m *machine) up(ctx context.Context) error {
	boot, err := m.link.greeted(ctx, 10*time.Minute)
	if err != nil {
		return errors.Join(err, m.said())
	}
	m.boot = boot
	return nil
}

// run runs a script in the machine; that it fails is an error.
func (m *machine) run(ctx context.Context, script string) (string, error) {
	out, code, err := m.link.run(ctx, script, nil, 5*time.Minute)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d in the machine: %s\n%s", code, script, out)
	}
	return strings.TrimSpace(out), err
}

// holds reports whether a script succeeds in the machine.
func (m *machine) holds(ctx context.Context, script string) bool {
	_, code, err := m.link.run(ctx, script, nil, 5*time.Minute)
	return err == nil && code == 0
}

// awaits waits until a script succeeds in the machine. It asks seldom when asking
// takes long: it would take the machine's time from what is waited for.
func (m *machine) awaits(ctx context.Context, d time.Duration, what, script string) error {
	var last string
	var next time.Time
	if until(ctx, d, func() bool {
		began := time.Now()
		if began.Before(next) {
			return false
		}
		out, code, err := m.link.run(ctx, script, nil, 5*time.Minute)
		last, next = out, time.Now().Add(3*time.Since(began))
		return err == nil && code == 0
	}) {
		return nil
	}
	return fmt.Errorf("waited %v in the machine for: %s; last: %s", d, what, strings.TrimSpace(last))
}

// reset is the reset button: nothing is told, nothing is written.
func (m *machine) reset(ctx context.Context) error {
	m.began = time.Now()
	if _, err := m.qmp.execute("system_reset", nil); err != nil {
		return err
	}
	return m.up(ctx)
}

// cable plugs the network in or out.
func (m *machine) cable(in bool) error {
	_, err := m.qmp.execute("set_link", map[string]any{"name": "net", "up": in})
	return err
}

// plug puts a disk that cannot be written into the free port.
func (m *machine) plug(image string) error {
	if _, err := m.qmp.execute("blockdev-add", map[string]any{"node-name": "stick", "driver": "raw", "read-only": true, "file": map[string]any{"driver": "file", "filename": image}}); err != nil {
		return err
	}
	_, err := m.qmp.execute("device_add", map[string]any{"driver": "virtio-blk-pci", "id": "stick", "drive": "stick", "bus": "socket"})
	return err
}

// pull takes it out again. The kernel is asked, and lets go of it after some seconds.
func (m *machine) pull(ctx context.Context) error {
	if _, err := m.qmp.execute("device_del", map[string]any{"id": "stick"}); err != nil {
		return err
	}
	var err error
	if !until(ctx, time.Minute, func() bool {
		_, err = m.qmp.execute("blockdev-del", map[string]any{"node-name": "stick"})
		return err == nil
	}) {
		return fmt.Errorf("the stick is still in use after a minute: %w", err)
	}
	return nil
}

// off pulls the plug.
func (m *machine) off() {
	if m.qemu != nil && m.qemu.Process != nil {
		m.qemu.Process.Kill()
		if m.done != nil {
			<-m.done
		}
	}
	if m.swtpm != nil && m.swtpm.Process != nil {
		m.swtpm.Process.Kill()
		m.swtpm.Wait()
	}
	m.qemu, m.swtpm = nil, nil
}
