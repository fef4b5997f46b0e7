package mqtt_test

import (
	"bufio"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// A pki is a certification authority for one test.
type pki struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newPKI(t testing.TB) *pki {
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	p := &pki{t: t, cert: cert, key: key, pool: x509.NewCertPool()}
	p.pool.AddCert(cert)
	return p
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signer hides the kind of the key, as a TPM does.
type signer struct{ crypto.Signer }

func (p *pki) issue(name string) tls.Certificate { return p.issueFor(name, signer{newKey(p.t)}) }

func (p *pki) issueFor(name string, key crypto.Signer) tls.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), farAddress},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, key.Public(), p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (p *pki) client(name string) *tls.Config {
	return &tls.Config{RootCAs: p.pool, Certificates: []tls.Certificate{p.issue(name)}}
}

func (p *pki) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{p.issue("broker")},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.pool,
	}
}

// A broker is a real one, on an address that stays the same.
type broker interface {
	addr() string
	start()
	kill() // without a goodbye
}

func brokers(t *testing.T, test func(t *testing.T, ca *pki, b broker)) {
	for name, start := range map[string]func(testing.TB, *pki) broker{
		"mosquitto": func(t testing.TB, ca *pki) broker { return newMosquitto(t, ca) },
		"mochi":     func(t testing.TB, ca *pki) broker { return newMochi(t, ca) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := newPKI(t)
			test(t, ca, start(t, ca))
		})
	}
}

// freeAddr returns an address that nobody listens on. Its port is below those
// that the kernel gives to connections, so that it stays free.
func freeAddr(t testing.TB) string {
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10000+mathrand.N(20000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

type mosquitto struct {
	t       testing.TB
	address string
	config  string
	apart   bool // in a network namespace of its own
	cmd     *exec.Cmd
	ended   chan struct{}
}

// newMosquitto configures a broker. It is started and killed by the test.
func newMosquitto(t testing.TB, ca *pki) *mosquitto {
	t.Helper()
	return newMosquittoAt(t, ca, freeAddr(t))
}

func newMosquittoAt(t testing.TB, ca *pki, address string) *mosquitto {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert := ca.issue("broker")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey.(signer).Signer)
	if err != nil {
		t.Fatal(err)
	}
	m := &mosquitto{t: t, address: address, config: filepath.Join(dir, "mosquitto.conf")}
	host, port, err := net.SplitHostPort(m.address)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Join([]string{
		"listener " + port + " " + host,
		"cafile " + write("ca.pem", "CERTIFICATE", ca.cert.Raw),
		"certfile " + write("cert.pem", "CERTIFICATE", cert.Certificate[0]),
		"keyfile " + write("key.pem", "PRIVATE KEY", key),
		"require_certificate true",
		"use_identity_as_username true",
		"tls_version tlsv1.3",
		"allow_anonymous true",
		"persistence false",
		"log_dest stderr",
		"log_type all",
	}, "\n") + "\n"
	if os.Getuid() == 0 {
		config += "user root\n" // to read the files above
	}
	if err := os.WriteFile(m.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.kill)
	return m
}

func (m *mosquitto) addr() string { return m.address }

func (m *mosquitto) start() {
	m.t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto" // not on every user's PATH
	}
	m.cmd = exec.Command(path, "-c", m.config)
	if m.apart {
		m.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNET}
	}
	log, err := m.cmd.StderrPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatalf("cannot start mosquitto (apt install mosquitto): %v", err)
	}
	running := make(chan bool)
	m.ended = make(chan struct{})
	go func() {
		defer close(m.ended)
		said := false
		var text strings.Builder
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if !said && strings.HasSuffix(lines.Text(), " running") {
				said = true
				running <- true
			}
			if !said {
				text.WriteString(lines.Text() + "\n")
			}
		}
		if !said {
			m.t.Log(text.String())
			running <- false
		}
	}()
	if !<-running {
		m.t.Fatal("mosquitto does not start")
	}
}

func (m *mosquitto) kill() {
	if m.cmd == nil {
		return
	}
	m.cmd.Process.Kill()
	<-m.ended
	m.cmd.Wait()
	m.cmd = nil
}

type mochiBroker struct {
	t        testing.TB
	address  string
	tls      *tls.Config
	server   *mochi.Server
	listener *cutter

	mu       sync.Mutex
	received map[string]int // payloads, before they are acknowledged
}

func newMochi(t testing.TB, ca *pki) *mochiBroker {
	b := &mochiBroker{t: t, address: freeAddr(t), tls: ca.server(), received: map[string]int{}}
	t.Cleanup(b.kill)
	return b
}

func (b *mochiBroker) addr() string { return b.address }

func (b *mochiBroker) start() {
	b.t.Helper()
	b.server = mochi.New(&mochi.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err := b.server.AddHook(&recorder{broker: b}, nil); err != nil {
		b.t.Fatal(err)
	}
	l, err := net.Listen("tcp", b.address)
	if err != nil {
		b.t.Fatal(err)
	}
	b.listener = &cutter{Listener: l}
	if err := b.server.AddListener(listeners.NewNet("tls", tls.NewListener(b.listener, b.tls))); err != nil {
		b.t.Fatal(err)
	}
	if err := b.server.Serve(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *mochiBroker) kill() {
	if b.server == nil {
		return
	}
	b.listener.Close()
	b.listener.cut()
	b.server.Close()
	b.server = nil
}

func (b *mochiBroker) has(payload string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.received[payload] > 0
}

// A recorder lets everybody in and sees each publish before it is acknowledged.
type recorder struct {
	mochi.HookBase
	broker *mochiBroker
}

func (r *recorder) ID() string { return "recorder" }

func (r *recorder) Provides(b byte) bool {
	return b == mochi.OnConnectAuthenticate || b == mochi.OnACLCheck || b == mochi.OnPublish
}

func (r *recorder) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (r *recorder) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

func (r *recorder) OnPublish(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	r.broker.mu.Lock()
	defer r.broker.mu.Unlock()
	r.broker.received[string(pk.Payload)]++
	return pk, nil
}

// A cutter is a listener that can end all its connections without a goodbye.
type cutter struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		conn.(*net.TCPConn).SetLinger(0) // with a reset, as when a link breaks
		conn.Close()
	}
	c.conns = nil
}
