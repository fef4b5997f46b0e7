// Package tpmtest gives tests a real TPM 2.0 in software: swtpm, one process for
// each, with its state in a folder of the test. It needs the Debian packages
// swtpm and swtpm-tools and fails the test without them.
package tpmtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
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

// A Spec says how a TPM is manufactured.
type Spec struct {
	EK    string // with a certificate: "RSA-2048" (template L-1), "P-256" (L-2, padded) or "P-384" (H-3)
	Banks string // active PCR banks, as swtpm_setup takes them; "" for sha256
}

// Banks of a TPM as it comes when nobody chose.
const FourBanks = "sha1,sha256,sha384,sha512"

// Manufacture starts a TPM with certificates of an RSA-2048 and a P-384
// endorsement key in NV, as swtpm_setup makes it, and returns the authority that
// issued them.
func Manufacture(t testing.TB) (*Emulator, *x509.CertPool) {
	t.Helper()
	return Spec{}.Manufacture(t)
}

// Manufacture starts a TPM of this kind and returns the authority that issued its
// certificate.
func (s Spec) Manufacture(t testing.TB) (*Emulator, *x509.CertPool) {
	t.Helper()
	banks := s.Banks
	if banks == "" {
		banks = "sha256"
	}
	ca, state := folder(t), folder(t)
	for name, text := range map[string]string{
		"setup.conf": fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\nactive_pcr_banks = %s\n",
			program(t, "swtpm_localca", "swtpm-tools"), filepath.Join(ca, "localca.conf"), filepath.Join(ca, "localca.options"), banks),
		"localca.conf":    fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n", ca),
		"localca.options": "--platform-manufacturer Example\n--platform-version 1.0\n--platform-model pump\n",
	} {
		if err := os.WriteFile(filepath.Join(ca, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	setup := exec.Command(program(t, "swtpm_setup", "swtpm-tools"), "--tpm2", "--tpmstate", state, "--create-ek-cert",
		"--pcr-banks", banks, "--config", filepath.Join(ca, "setup.conf"))
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
	e := start(t, state)
	switch s.EK {
	case "":
	case "RSA-2048":
		e.undefine(ekCertP384)
	case "P-384":
		e.undefine(ekCertRSA)
	case "P-256":
		e.undefine(ekCertRSA)
		e.undefine(ekCertP384)
		roots = e.certifyP256()
	default:
		t.Fatalf("no endorsement key %q", s.EK)
	}
	return e, roots
}

// NV indices of certificates (EK Credential Profile 2.5, 2.2.1).
const (
	ekCertRSA  tpm2.TPMHandle = 0x01c00002
	ekCertP256 tpm2.TPMHandle = 0x01c0000a
	ekCertP384 tpm2.TPMHandle = 0x01c00016
)

// Send talks to the TPM beside the code under test.
func (e *Emulator) Send(command []byte) ([]byte, error) {
	conn, err := net.Dial("unix", e.socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, 10)
	if _, err := io.ReadFull(conn, response); err != nil {
		return nil, err
	}
	response = append(response, make([]byte, binary.BigEndian.Uint32(response[2:])-10)...)
	_, err = io.ReadFull(conn, response[10:])
	return response, err
}

// Clear clears the TPM as its owner can: all that was made from its endorsement
// primaries stays, as the seed does; objects and indices of the owner go.
func (e *Emulator) Clear() {
	e.t.Helper()
	if _, err := (tpm2.Clear{AuthHandle: tpm2.TPMRHLockout}).Execute(e); err != nil {
		e.t.Fatal(err)
	}
}

func (e *Emulator) undefine(index tpm2.TPMHandle) {
	e.t.Helper()
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(e)
	if err == nil {
		_, err = tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHPlatform, NVIndex: tpm2.NamedHandle{Handle: index, Name: rsp.NVName}}.Execute(e)
	}
	if err != nil {
		e.t.Fatalf("cannot undefine NV index %#x: %v", uint32(index), err)
	}
}

// certifyP256 puts a certificate of the P-256 endorsement key into NV, in an index
// that is longer than it, as some makers do.
func (e *Emulator) certifyP256() *x509.CertPool {
	e.t.Helper()
	must := func(err error) {
		e.t.Helper()
		if err != nil {
			e.t.Fatalf("cannot certify endorsement key: %v", err)
		}
	}
	ek, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.ECCEKTemplate)}.Execute(e)
	must(err)
	_, err = tpm2.FlushContext{FlushHandle: ek.ObjectHandle}.Execute(e)
	must(err)
	area, err := ek.OutPublic.Contents()
	must(err)
	point, err := area.Unique.ECC()
	must(err)
	raw := append([]byte{4}, append(bytes.Clone(point.X.Buffer), point.Y.Buffer...)...)
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "EK CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	must(err)
	ca, err = x509.ParseCertificate(der)
	must(err)
	der, err = x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "EK"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
	}, ca, public, key)
	must(err)
	der = append(der, bytes.Repeat([]byte{0xff}, 300)...)
	index := tpm2.TPMSNVPublic{
		NVIndex: ekCertP256, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(der)),
		Attributes: tpm2.TPMANV{PPWrite: true, PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true, PlatformCreate: true, NT: tpm2.TPMNTOrdinary},
	}
	_, err = tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHPlatform, PublicInfo: tpm2.New2B(index)}.Execute(e)
	must(err)
	for at := 0; at < len(der); at += 512 {
		rsp, err := tpm2.NVReadPublic{NVIndex: ekCertP256}.Execute(e)
		must(err)
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHPlatform, NVIndex: tpm2.NamedHandle{Handle: ekCertP256, Name: rsp.NVName},
			Data: tpm2.TPM2BMaxNVBuffer{Buffer: der[at:min(at+512, len(der))]}, Offset: uint16(at),
		}.Execute(e)
		must(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	return roots
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
