package talk_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/talk"
	"github.com/miotfacts/miotfacts/talk/capture"
)

// program returns the path of a program, or fails naming its Debian package.
func program(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/bin/" + name
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("%s is not here (Debian package %s)", name, debian)
		}
	}
	return path
}

// certificates makes an authority and a server's certificate with openssl.
func certificates(t testing.TB, openssl, dir, issuer string) {
	t.Helper()
	for _, line := range []string{
		"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj " + issuer,
		"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=cloud.maker.example",
		"x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -out server.pem",
	} {
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "+", " ")
		}
		c := exec.Command(openssl, args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", line, err, out)
		}
	}
}

// serve starts openssl's server and returns its port.
func serve(t testing.TB, openssl, dir string, args ...string) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	c := exec.Command(openssl, append([]string{"s_server", "-accept", fmt.Sprintf("127.0.0.1:%d", port), "-cert", "server.pem", "-key", "server.key", "-rev", "-quiet"}, args...)...)
	c.Dir = dir
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return port
}

// talkTo speaks with a server of openssl, which gives the line back reversed.
func talkTo(t testing.TB, port int, config *tls.Config) {
	t.Helper()
	var conn *tls.Conn
	for deadline := time.Now().Add(20 * time.Second); ; {
		var err error
		if conn, err = tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), config); err == nil {
			break
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) && time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := io.ReadFull(conn, line); err != nil || string(line) != "olleh\n" {
		t.Fatalf("server says %q, %v", line, err)
	}
}

// read runs a whole capture through a table.
func read(t testing.TB, r io.Reader) *talk.Record {
	t.Helper()
	c, err := capture.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	table := talk.NewTable(talk.Workbench())
	for {
		p, err := c.Next()
		if err == io.EOF {
			return table.Record(0)
		}
		if err != nil {
			t.Fatal(err)
		}
		table.Add(p)
	}
}

// Sessions with openssl's server in both versions, captured by tcpdump: names,
// versions, ciphers and the issuer are those that both ends agreed on.
func TestSessionsWithOpenSSL(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: tcpdump has to be root")
	}
	openssl, tcpdump := program(t, "openssl", "openssl"), program(t, "tcpdump", "tcpdump")
	dir := t.TempDir()
	certificates(t, openssl, dir, "/C=NL/O=Example+Trust/CN=Example+CA+1")
	old := serve(t, openssl, dir, "-tls1_2")
	modern := serve(t, openssl, dir, "-tls1_3")
	for _, port := range []int{old, modern} { // both are up before the capture begins
		talkTo(t, port, &tls.Config{InsecureSkipVerify: true})
	}
	// tcpdump says that it listens before it does. What goes to the marker's port
	// shows when it is true.
	marker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer marker.Close()
	mark := marker.Addr().(*net.TCPAddr).Port

	for _, format := range []string{"any", "lo"} {
		file := filepath.Join(dir, format+".pcap")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		c := exec.CommandContext(ctx, tcpdump, "-i", format, "-w", file, "-U", "--immediate-mode", "-s", "4096", "-B", "16384", fmt.Sprintf("tcp port %d or tcp port %d or tcp port %d", old, modern, mark))
		said := new(bytes.Buffer)
		c.Stderr = said
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		for ctx.Err() == nil && !ended(file, mark) {
			if conn, err := net.Dial("tcp", marker.Addr().String()); err == nil {
				conn.Close()
			}
		}
		talkTo(t, old, &tls.Config{InsecureSkipVerify: true, ServerName: "Old.Maker.example", CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}})
		talkTo(t, modern, &tls.Config{InsecureSkipVerify: true, ServerName: "cloud.maker.example"})
		for ctx.Err() == nil && !(ended(file, old) && ended(file, modern)) {
		}
		if ctx.Err() != nil {
			t.Fatalf("%s: the capture has no end of the connections", format)
		}
		c.Process.Signal(os.Interrupt)
		c.Wait()
		if t.Failed() {
			t.Log(said)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r := read(t, bytes.NewReader(data))
		r.Peers = slices.DeleteFunc(r.Peers, func(p talk.Peer) bool { return int(p.Port) != old && int(p.Port) != modern })
		if len(r.Peers) != 2 {
			t.Fatalf("%s: %d peers, want 2: %+v", format, len(r.Peers), r.Peers)
		}
		for i, want := range []talk.Peer{
			{Name: "cloud.maker.example", Port: uint16(modern), TLS: talk.VersionTLS13, Cipher: r.Peers[0].Cipher},
			{Name: "old.maker.example", Port: uint16(old), TLS: talk.VersionTLS12, Cipher: tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, Issuer: "CN=Example CA 1,O=Example Trust,C=NL"},
		} {
			p := r.Peers[i]
			if p.Name != want.Name || p.NameFrom != talk.FromSNI || p.Port != want.Port || p.TLS != want.TLS || p.Cipher != want.Cipher || p.Issuer != want.Issuer ||
				p.Security != talk.SecurityTLS || p.Inbound || p.Attempts != 1 || p.Answered != 1 || !p.Counted || p.Out < 200 || p.In < 200 || p.Address.Addr() != netip.MustParseAddr("127.0.0.1") {
				t.Errorf("%s: peer %d is %+v, want %+v", format, i, p, want)
			}
		}
		if tls.CipherSuiteName(r.Peers[0].Cipher)[:4] != "TLS_" || r.Peers[0].Cipher>>8 != 0x13 {
			t.Errorf("%s: cipher %#x is none of TLS 1.3", format, r.Peers[0].Cipher)
		}
	}
}

// ended tells whether a capture that is still written has the end of a client's
// connection to a port.
func ended(file string, port int) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	c, err := capture.NewReader(f)
	if err != nil {
		return false
	}
	for {
		p, err := c.Next()
		if err != nil {
			return false
		}
		if len(p.Data) >= 40 && p.Data[33]&5 != 0 && int(binary.BigEndian.Uint16(p.Data[22:])) == port {
			return true
		}
	}
}
