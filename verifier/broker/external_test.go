package broker_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/broker"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// mosquitto starts a real broker that trusts these client certificates, and
// returns its URL and roots.
func mosquitto(t testing.TB, clients ...tls.Certificate) (string, *x509.CertPool) {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto" // not on every user's PATH
	}
	dir := t.TempDir()
	write := func(name, kind string, ders ...[]byte) string {
		t.Helper()
		var data []byte
		for _, der := range ders {
			data = append(data, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := newKey(t)
	server := certificate(t, "mosquitto", key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var roots [][]byte
	for _, c := range clients {
		roots = append(roots, c.Certificate[0])
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	lines := []string{
		"listener " + port + " 127.0.0.1", "cafile " + write("clients.pem", "CERTIFICATE", roots...),
		"certfile " + write("cert.pem", "CERTIFICATE", server.Certificate[0]), "keyfile " + write("key.pem", "PRIVATE KEY", der),
		"require_certificate true", "use_identity_as_username true", "tls_version tlsv1.3", "persistence false", "log_dest stderr",
	}
	if os.Getuid() == 0 {
		lines = append(lines, "user root") // to read the files above
	}
	config := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", config)
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot start mosquitto (Debian package mosquitto): %v", err)
	}
	running, ended := make(chan bool, 1), make(chan struct{})
	var text strings.Builder
	go func() {
		defer close(ended)
		for s := bufio.NewScanner(log); s.Scan(); {
			fmt.Fprintln(&text, s.Text())
			if strings.Contains(s.Text(), "running") {
				running <- true
			}
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		cmd.Wait()
		if t.Failed() {
			t.Logf("mosquitto: %s", text.String())
		}
	})
	select {
	case <-running:
	case <-ended:
		t.Fatalf("mosquitto ended: %s", text.String())
	case <-time.After(patience):
		t.Fatal("mosquitto does not start")
	}
	return "tls://127.0.0.1:" + port, pool(t, server)
}

// said is a log that remembers whether one line was written.
type said struct {
	slog.Handler
	text string
	done atomic.Bool
}

func (s *said) Enabled(context.Context, slog.Level) bool { return true }

func (s *said) Handle(_ context.Context, r slog.Record) error {
	if r.Message == s.text {
		s.done.Store(true)
	}
	return nil
}

func TestMosquitto(t *testing.T) {
	for name, group := range map[string]string{"plain": "", "shared": "verifiers"} {
		t.Run(name, func(t *testing.T) {
			h := &hospital{Fleet: verifiertest.New(t)}
			k := h.keyed()
			own := certificate(t, "verifier", newKey(t))
			h.url, h.ca = mosquitto(t, own, k.cert)
			var fault faulty
			fault.Handler = h
			subscribed := &said{text: "connected to the broker"}
			x, err := broker.Connect(broker.Config{Prefix: "ward/miotfacts", Handler: &fault, Now: func() time.Time { return time.Unix(h.Now, 0) }, Log: slog.New(subscribed)},
				broker.ExternalConfig{URL: h.url, ClientID: "verifier-1", Group: group, TLS: &tls.Config{RootCAs: h.ca, Certificates: []tls.Certificate{own}}})
			if err != nil {
				t.Fatal(err)
			}
			run(t, x.Run)
			// The broker drops what is published before: the device sends it again a
			// minute later.
			until(t, "the subscription", subscribed.done.Load)

			queue, _, downs := h.agent(k)
			put := func(class spool.Class, topic string, payload []byte) {
				t.Helper()
				if _, err := queue.Append(class, topic, payload); err != nil {
					t.Fatal(err)
				}
			}
			// What cannot be stored yet is neither acknowledged nor lost.
			fault.set(errors.New("disk full"))
			put(spool.Evidence, "enrol", k.SealEnrolment(k.Enrolment(nil)).Payload)
			until(t, "an attempt", func() bool { return fault.calls() > 0 })
			fault.set(nil)
			until(t, "enrolment and its receipt", func() bool { return empty(queue) })
			if v := k.View(); v.Enrolled != verifier.Proved {
				t.Fatalf("%s", v.Enrolled)
			}
			data, err := h.Approve(h.Now, k.UEID, "ward 3")
			if err != nil {
				t.Fatal(err)
			}
			if err := x.Send(k.UEID, data, time.Time{}); err != nil {
				t.Fatal(err)
			}
			if d := receive(t, downs); !d.Enrolled {
				t.Errorf("%+v", d)
			}
			if err := x.Announce(verifiertest.Encode(t, attest.Down{Command: []byte{7}})); err != nil {
				t.Fatal(err)
			}
			if d := receive(t, downs); len(d.Command) != 1 || d.Command[0] != 7 {
				t.Errorf("%+v", d)
			}
			put(spool.Alarm, "alarm", k.Message(attest.KindAlarm))
			put(spool.Evidence, "evidence", k.Message(attest.KindBoot))
			put(spool.Routine, "report", k.Message(attest.KindRoutine))
			until(t, "three reports", func() bool { return empty(queue) && k.View().Sequence == 3 })
		})
	}
}
