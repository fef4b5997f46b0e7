// Package tpmtest gives tests a real TPM 2.0 in software: swtpm, one process for
// each, with its state in a folder of the test. It needs the Debian packages
// swtpm and swtpm-tools and fails the test without them.
package tpmtest

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// An Emulator is a running swtpm.
type Emulator struct {
	Addr string // for tpm.Open; the same over power cycles

	t      testing.TB
	state  string
	socket string
	log    bytes.Buffer

	mu  sync.Mutex // a test kills it from anywhere
	cmd *exec.Cmd  // nil while it is off
}

// Start starts a new TPM that lives as long as the test, and returns its address
// for tpm.Open.
func Start(t testing.TB) string {
	t.Helper()
	return New(t).Addr
}

// New starts a new TPM that lives as long as the test.
func New(t testing.TB) *Emulator {
	t.Helper()
	return start(t, folder(t))
}

// Manufacture starts a TPM with an RSA-2048 endorsement key certificate in NV, as
// swtpm_setup makes it, and returns the authority that issued it.
func Manufacture(t testing.TB) (*Emulator, *x509.CertPool) {
	t.Helper()
	ca, state := folder(t), folder(t)
	for name, text := range map[string]string{
		"setup.conf": fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\nactive_pcr_banks = sha256\n",
			program(t, "swtpm_localca", "swtpm-tools"), filepath.Join(ca, "localca.conf"), filepath.Join(ca, "localca.options")),
		"localca.conf":    fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", ca),
		"localca.options": "--platform-manufacturer Example\n--platform-version 1.0\n--platform-model pump\n",
	} {
		if err := os.WriteFile(filepath.Join(ca, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	setup := exec.Command(program(t, "swtpm_setup", "swtpm-tools"), "--tpm2", "--tpmstate", state, "--create-ek-cert",
		"--pcr-banks", "sha256", "--config", filepath.Join(ca, "setup.conf"), "--lock-nvram")
	if out, err := setup.CombinedOutput(); err != nil {
		t.Fatalf("cannot manufacture TPM: %v\n%s", err, out)
	}
	roots := x509.NewCertPool()
	for _, name := range []string{"issuercert.pem", "swtpm-localca-rootca-cert.pem"} {
		data, err := os.ReadFile(filepath.Join(ca, name))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(data)
		if block == nil || !roots.AppendCertsFromPEM(data) {
			t.Fatalf("no certificate in %s", name)
		}
	}
	return start(t, state), roots
}

// folder is a new one for the time of the test. That of t.TempDir has the test's
// name in it: too long for a socket, and swtpm trips over commas.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func start(t testing.TB, state string) *Emulator {
	t.Helper()
	e := &Emulator{t: t, state: state, socket: filepath.Join(state, "s")}
	e.Addr = "unix:" + e.socket
	t.Cleanup(func() {
		e.Kill()
		if t.Failed() && e.log.Len() > 0 {
			t.Logf("swtpm: %s", e.log.Bytes())
		}
	})
	e.PowerOn()
	return e
}

// PowerOn starts a TPM that was killed, with the state it had: a TPM reset.
func (e *Emulator) PowerOn() {
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	// swtpm inherits a socket that listens already: nobody has to wait for it.
	os.Remove(e.socket)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: e.socket})
	if err != nil {
		e.t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	defer listener.Close()
	file, err := listener.File()
	if err != nil {
		e.t.Fatal(err)
	}
	defer file.Close()
	e.cmd = exec.Command(program(e.t, "swtpm", "swtpm"), "socket", "--tpm2", "--server", "type=unixio,fd=3",
		"--flags", "not-need-init,startup-clear", "--tpmstate", "dir="+e.state)
	e.cmd.ExtraFiles = []*os.File{file}
	e.cmd.Stdout, e.cmd.Stderr = &e.log, &e.log
	if err := e.cmd.Start(); err != nil {
		e.t.Fatalf("cannot start swtpm: %v", err)
	}
}

// Kill cuts the TPM's power: there is no orderly shutdown. Killing it twice does
// nothing.
func (e *Emulator) Kill() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cmd == nil {
		return
	}
	e.cmd.Process.Kill()
	e.cmd.Wait()
	e.cmd = nil
}

// Stop makes the TPM hang: it takes commands and does not answer, until it is
// killed or told to continue.
func (e *Emulator) Stop() { e.signal(syscall.SIGSTOP) }

// Continue ends Stop.
func (e *Emulator) Continue() { e.signal(syscall.SIGCONT) }

func (e *Emulator) signal(s syscall.Signal) {
	e.t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.cmd.Process.Signal(s); err != nil {
		e.t.Fatal(err)
	}
}

func program(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("cannot find %s: install the Debian package %s", name, debian)
	}
	return path
}
