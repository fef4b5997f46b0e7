package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/fxamacker/cbor/v2"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/sys/unix"
)

const (
	kindBare   = "bare"   // reads, encodes, signs and publishes, once a second
	kindStored = "stored" // and has each report on the disk before it is sent
)

// bareFloor measures the least that the agent's work can cost in Go with the
// libraries that it uses, in a process that does nothing else: no comparison, no
// enforcer, no chain, no receipt of the verifier.
func bareFloor(self, kind string) (cost, error) {
	dir, err := os.MkdirTemp("", "benchfacts-")
	if err != nil {
		return cost{}, err
	}
	defer os.RemoveAll(dir)
	address, stop, err := plainBroker(filepath.Join(dir, "root.der"))
	if err != nil {
		return cost{}, fmt.Errorf("cannot start broker: %w", err)
	}
	defer stop()
	runtime.LockOSThread() // not given back: the thread ends with its slack
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0); err != nil {
		return cost{}, fmt.Errorf("cannot set timer slack: %w", err)
	}
	cmd := exec.Command(self, kind, address, dir)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // as factsd run has it
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return cost{}, fmt.Errorf("cannot measure %s: %w", kind, err)
	}
	var c cost
	return c, json.Unmarshal(out, &c)
}

// plainBroker runs an MQTT broker that lets everybody in, and writes its
// certificate to a file.
func plainBroker(root string) (address string, stop func() error, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", nil, err
	}
	if err := os.WriteFile(root, certificate, 0o600); err != nil {
		return "", nil, err
	}
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(openDoor), nil); err != nil {
		return "", nil, err
	}
	l := listeners.NewTCP(listeners.Config{ID: "tls", Address: "127.0.0.1:0", TLSConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
	}})
	if err := server.AddListener(l); err != nil {
		return "", nil, err
	}
	return l.Address(), server.Close, server.Serve()
}

// An openDoor lets everybody in and forbids nothing.
type openDoor struct{ mochi.HookBase }

func (*openDoor) ID() string { return "open" }
func (*openDoor) Provides(event byte) bool {
	return event == mochi.OnConnectAuthenticate || event == mochi.OnACLCheck
}
func (*openDoor) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (*openDoor) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

// measureBare does the work of the floor in this process, for as many rounds as
// the agent is measured.
func measureBare(kind, address, dir string) (cost, error) {
	r, err := newRounds(kindSockets)
	if err != nil {
		return cost{}, err
	}
	defer r.close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cost{}, err
	}
	client, err := connectBare(address, filepath.Join(dir, "root.der"))
	if err != nil {
		return cost{}, err
	}
	defer client.Disconnect(0)
	stored, err := os.Create(filepath.Join(dir, "stored"))
	if err != nil {
		return cost{}, err
	}
	defer stored.Close()
	values := map[int]int64{}
	var report []byte
	round := func() error {
		if err := r.do(); err != nil {
			return err
		}
		for i := range 60 {
			values[i] = time.Now().UnixNano()>>i | 1<<20
		}
		payload, err := cbor.Marshal(values)
		if err != nil {
			return err
		}
		digest := sha256.Sum256(payload)
		signature, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		if err != nil {
			return err
		}
		report = append(append(report[:0], payload...), signature...)
		if kind == kindStored {
			if _, err := stored.WriteAt(report, 0); err != nil {
				return err
			}
			if err := unix.Fdatasync(int(stored.Fd())); err != nil {
				return err
			}
		}
		t := client.Publish("floor", 1, false, bytes.Clone(report))
		if !t.WaitTimeout(10 * time.Second) {
			return errors.New("the broker does not acknowledge")
		}
		return t.Error()
	}
	next := time.NewTicker(time.Second)
	defer next.Stop()
	rounds := func(n int) error {
		for range n {
			<-next.C
			if err := round(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := rounds(5); err != nil {
		return cost{}, err
	}
	runtime.GC()
	before, err := threadTime("self")
	if err != nil {
		return cost{}, err
	}
	if err := rounds(agentRounds); err != nil {
		return cost{}, err
	}
	after, err := threadTime("self")
	if err != nil {
		return cost{}, err
	}
	memory, err := rss("self")
	return cost{Rounds: agentRounds, CPU: after - before, RSS: memory, What: fmt.Sprintf("%s, 60 numbers in %d B", r.what, len(report))}, err
}

func connectBare(address, root string) (paho.Client, error) {
	der, err := os.ReadFile(root)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	client := paho.NewClient(paho.NewClientOptions().AddBroker("tls://" + address).SetClientID("floor").SetTLSConfig(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}))
	t := client.Connect()
	if !t.WaitTimeout(10 * time.Second) {
		return nil, errors.New("the broker does not answer")
	}
	return client, t.Error()
}
