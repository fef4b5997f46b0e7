package mqtt_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"github.com/miotfacts/miotfacts/agent/mqtt"
	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

const (
	prefix = "hospital/miotfacts"
	device = "device-1"
)

func topic(last string) string { return prefix + "/" + device + "/" + last }

// until waits for a condition.
func until(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for tick := time.Tick(2 * time.Millisecond); !condition(); {
		select {
		case <-tick:
		case <-deadline:
			buf := make([]byte, 1<<16)
			t.Fatalf("waited in vain: %s\n%s", what, buf[:runtime.Stack(buf, true)])
		}
	}
}

func newSpool(t testing.TB) *spool.Spool {
	dir, err := os.MkdirTemp("/dev/shm", "mqtt") // in memory: what is tested here is not the disk
	if err != nil {
		dir = t.TempDir()
	}
	sp, err := spool.Open(dir, spool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		sp.Close()
		os.RemoveAll(dir)
	})
	return sp
}

func add(t testing.TB, sp *spool.Spool, class spool.Class, topic, payload string) {
	t.Helper()
	if _, err := sp.Append(class, topic, []byte(payload)); err != nil {
		t.Fatal(err)
	}
}

func left(sp *spool.Spool) int {
	n := 0
	for _, pending := range sp.Stats().Pending {
		n += pending
	}
	return n
}

// A run is a client under test.
type run struct {
	*mqtt.Client
	t      testing.TB
	cancel context.CancelFunc
	ended  chan error
	log    *syncBuffer
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func config(addr string, ca *pki) mqtt.Config {
	return mqtt.Config{
		Broker:     "tls://" + addr,
		ClientID:   device,
		TLS:        ca.client(device),
		Prefix:     prefix,
		MinBackoff: 5 * time.Millisecond,
		MaxBackoff: 50 * time.Millisecond,
	}
}

func start(t testing.TB, cfg mqtt.Config, sp *spool.Spool, onMessage func(string, []byte)) *run {
	t.Helper()
	r := &run{t: t, ended: make(chan error, 1), log: &syncBuffer{}}
	cfg.Logger = slog.New(slog.NewTextHandler(r.log, nil))
	if onMessage == nil {
		onMessage = func(topic string, _ []byte) { t.Errorf("unexpected message on %s", topic) }
	}
	var err error
	if r.Client, err = mqtt.New(cfg, sp, onMessage); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(r.stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.log.String())
		}
	})
	return r
}

// stop ends the run, which has to be prompt.
func (r *run) stop() {
	r.t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	began := time.Now()
	select {
	case err := <-r.ended:
		if !errors.Is(err, context.Canceled) {
			r.t.Errorf("run ended with %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			r.t.Errorf("ending took %v", took)
		}
	case <-time.After(20 * time.Second):
		buf := make([]byte, 1<<16)
		r.t.Fatalf("run does not end\n%s", buf[:runtime.Stack(buf, true)])
	}
	if r.Stats().Connected {
		r.t.Error("connected after the end")
	}
}

// A verifier is a subscriber to all topics that sends receipts, or not.
type verifier struct {
	t      testing.TB
	client paho.Client

	mu       sync.Mutex
	arrived  []string // topic's last element and payload, in order
	receipts func(payload string) bool
}

func newVerifier(t testing.TB, ca *pki, addr string, receipts func(payload string) bool) *verifier {
	t.Helper()
	v := &verifier{t: t, receipts: receipts}
	up := make(chan struct{}, 100)
	v.client = paho.NewClient(paho.NewClientOptions().
		AddBroker("tls://" + addr).
		SetTLSConfig(ca.client("verifier")).
		SetClientID("verifier").
		SetAutoReconnect(true).
		SetConnectRetry(true).
		SetConnectRetryInterval(10 * time.Millisecond).
		SetMaxReconnectInterval(50 * time.Millisecond).
		SetOnConnectHandler(func(c paho.Client) {
			if token := c.Subscribe(prefix+"/#", 1, v.receive); token.Wait() && token.Error() == nil {
				up <- struct{}{}
			}
		}))
	v.client.Connect()
	<-up
	t.Cleanup(func() { v.client.Disconnect(100) })
	return v
}

func (v *verifier) receive(c paho.Client, m paho.Message) {
	last := m.Topic()[strings.LastIndex(m.Topic(), "/")+1:]
	if last == "receipt" || last == "command" || last == "epoch" {
		return // an own one
	}
	v.mu.Lock()
	v.arrived = append(v.arrived, last+" "+string(m.Payload()))
	v.mu.Unlock()
	if last != "state" && v.receipts != nil && v.receipts(string(m.Payload())) {
		go v.send(m.Payload())
	}
}

func (v *verifier) send(payloads ...[]byte) {
	var digests [][mqtt.DigestSize]byte
	for _, p := range payloads {
		digests = append(digests, mqtt.Digest(p))
	}
	data, err := mqtt.EncodeReceipt(digests)
	if err != nil {
		v.t.Error(err)
	}
	// QoS 0: with more the library races with itself when it connects again, and a
	// receipt that is lost is given again.
	v.client.Publish(topic("receipt"), 0, false, data)
}

// messages returns what arrived, but for states.
func (v *verifier) messages() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(v.arrived), func(s string) bool { return strings.HasPrefix(s, "state ") })
}

func (v *verifier) states() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(v.arrived), func(s string) bool { return !strings.HasPrefix(s, "state ") })
}

func always(string) bool { return true }

func TestDelivery(t *testing.T) {
	brokers(t, func(t *testing.T, ca *pki, b broker) {
		b.start()
		for _, ack := range []mqtt.AckMode{mqtt.Puback, mqtt.Receipt} {
			t.Run(string(ack), func(t *testing.T) {
				v := newVerifier(t, ca, b.addr(), always)
				sp := newSpool(t)
				cfg := config(b.addr(), ca)
				cfg.Ack = ack
				r := start(t, cfg, sp, nil)
				var want []string
				for i := range 100 {
					add(t, sp, spool.Routine, "report", fmt.Sprint(i))
					want = append(want, fmt.Sprint("report ", i))
				}
				until(t, "the queue is empty", func() bool { return left(sp) == 0 })
				until(t, "all arrived", func() bool { return len(v.messages()) >= len(want) })
				if got := v.messages(); !slices.Equal(got, want) {
					t.Errorf("arrived %q, want %q", got, want)
				}
				if st := r.Stats(); !st.Connected || st.Sent != 100 || st.Done != 100 || st.InFlight != 0 || st.Err != "" {
					t.Errorf("%+v", st)
				}
				r.stop()
				until(t, "online, then offline", func() bool {
					got := v.states()
					at := slices.Index(got, "state online")
					return at >= 0 && slices.Contains(got[at:], "state offline")
				})
			})
		}
	})
}

// The key of the connection is in a TPM and signs each handshake there.
func TestKeyInTPM(t *testing.T) {
	brokers(t, func(t *testing.T, ca *pki, b broker) {
		dev, err := tpm.Open(tpmtest.Start(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dev.Close() })
		if _, err := dev.Provision(); err != nil {
			t.Fatal(err)
		}
		b.start()
		cfg := config(b.addr(), ca)
		cfg.TLS.Certificates = []tls.Certificate{ca.issueFor(device, dev.Signer())}
		v := newVerifier(t, ca, b.addr(), nil)
		sp := newSpool(t)
		add(t, sp, spool.Routine, "report", "by a TPM")
		start(t, cfg, sp, nil)
		until(t, "it arrived", func() bool { return slices.Equal(v.messages(), []string{"report by a TPM"}) && left(sp) == 0 })
	})
}

func TestCommandsInOrder(t *testing.T) {
	brokers(t, func(t *testing.T, ca *pki, b broker) {
		b.start()
		sp := newSpool(t)
		release := make(chan struct{})
		var mu sync.Mutex
		var got []string
		r := start(t, config(b.addr(), ca), sp, func(topic string, payload []byte) {
			<-release // a slow agent
			mu.Lock()
			defer mu.Unlock()
			got = append(got, topic+" "+string(payload))
		})
		until(t, "connected", func() bool { return r.Stats().Connected })
		// Once this has come back, the subscriptions are made.
		add(t, sp, spool.Routine, "report", "x")
		until(t, "delivered", func() bool { return left(sp) == 0 })
		v := newVerifier(t, ca, b.addr(), nil)
		var want []string
		for i := range 30 {
			last, where := "command", topic("command")
			if i%3 == 0 {
				last, where = "epoch", prefix+"/epoch"
			}
			if token := v.client.Publish(where, 1, false, fmt.Sprint(i)); token.Wait() && token.Error() != nil {
				t.Fatal(token.Error())
			}
			want = append(want, fmt.Sprint(last, " ", i))
		}
		// A handler that waits keeps nothing else from moving.
		add(t, sp, spool.Routine, "report", "y")
		until(t, "delivered while a handler waits", func() bool { return left(sp) == 0 })
		close(release)
		until(t, "all commands", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) >= len(want) })
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestCommandsOfOthersAndTooMany(t *testing.T) {
	ca := newPKI(t)
	b := newMochi(t, ca)
	b.start()
	sp := newSpool(t)
	release, handled := make(chan struct{}), make(chan string, 1000)
	r := start(t, config(b.addr(), ca), sp, func(topic string, payload []byte) {
		<-release
		handled <- string(payload)
	})
	add(t, sp, spool.Routine, "report", "x")
	until(t, "delivered", func() bool { return left(sp) == 0 })
	v := newVerifier(t, ca, b.addr(), nil)
	v.client.Publish(prefix+"/another/command", 1, false, "not mine").Wait()
	for i := range 100 {
		v.client.Publish(topic("command"), 1, false, fmt.Sprint(i)).Wait()
	}
	until(t, "too many", func() bool { return r.Stats().Overrun > 0 })
	close(release)
	if first := <-handled; first != "0" {
		t.Errorf("first command %q", first)
	}
	if !r.Stats().Connected || !strings.Contains(r.log.String(), "message dropped, too many wait") {
		t.Errorf("%+v", r.Stats())
	}
}

// The verifier stores what arrives and then sends a receipt; the broker stores
// nothing and is killed three times on the way.
func TestBrokerKilledWithReceipts(t *testing.T) {
	brokers(t, func(t *testing.T, ca *pki, b broker) {
		b.start()
		v := newVerifier(t, ca, b.addr(), always)
		sp := newSpool(t)
		cfg := config(b.addr(), ca)
		cfg.Ack, cfg.AckTimeout = mqtt.Receipt, 300*time.Millisecond
		r := start(t, cfg, sp, nil)
		const n = 400
		for i := range n {
			add(t, sp, spool.Routine, "report", fmt.Sprint(i))
			if i%100 == 50 {
				arrived := len(v.messages())
				until(t, "more arrives", func() bool { return len(v.messages()) > arrived })
				b.kill()
				add(t, sp, spool.Evidence, "evidence", fmt.Sprint("while killed ", i))
				b.start()
			}
		}
		until(t, "the queue is empty", func() bool { return left(sp) == 0 })
		arrived := map[string]bool{}
		for _, m := range v.messages() {
			arrived[m] = true
		}
		if len(arrived) != n+4 {
			t.Errorf("%d of %d messages arrived", len(arrived), n+4)
		}
		if st := r.Stats(); st.Sent < n+4 || st.Done != n+4 {
			t.Errorf("%+v", st)
		}
	})
}

// What left the queue on a PUBACK the broker had, however often connections end.
func TestCutWithPuback(t *testing.T) {
	ca := newPKI(t)
	b := newMochi(t, ca)
	b.start()
	sp := newSpool(t)
	r := start(t, config(b.addr(), ca), sp, nil)
	const n = 1000
	for i := range n {
		add(t, sp, spool.Routine, "report", fmt.Sprint(i))
		if i%50 == 25 {
			done := r.Stats().Done
			until(t, "more is delivered", func() bool { return r.Stats().Done > done })
			b.listener.cut()
		}
		if i == n/2 {
			b.kill()
			b.start()
		}
	}
	until(t, "the queue is empty", func() bool { return left(sp) == 0 })
	for i := range n {
		if !b.has(fmt.Sprint(i)) {
			t.Errorf("message %d left the queue and the broker does not have it", i)
		}
	}
	if !strings.Contains(r.log.String(), "connection to broker lost") {
		t.Error("nothing was cut")
	}
}

func TestBrokerAbsentAtStart(t *testing.T) {
	brokers(t, func(t *testing.T, ca *pki, b broker) {
		sp := newSpool(t)
		r := start(t, config(b.addr(), ca), sp, nil)
		until(t, "three attempts", func() bool { return r.Stats().Failures >= 3 })
		for i := range 500 {
			add(t, sp, spool.Routine, "report", fmt.Sprint(i))
		}
		if st := r.Stats(); st.Connected || !strings.Contains(st.Err, "cannot connect to broker: dial tcp") {
			t.Errorf("%+v", st)
		}
		if n := strings.Count(r.log.String(), "level=WARN"); n > 1 {
			t.Errorf("the same reason was logged %d times", n)
		}
		b.start()
		until(t, "the queue is empty", func() bool { return left(sp) == 0 })
		if st := r.Stats(); !st.Connected || st.Failures != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestAlarmsOvertake(t *testing.T) {
	brokers(t, func(t *testing.T, ca *pki, b broker) {
		sp := newSpool(t)
		for i := range 500 {
			add(t, sp, spool.Routine, "report", fmt.Sprint(i))
		}
		add(t, sp, spool.Evidence, "evidence", "boot")
		add(t, sp, spool.Alarm, "alarm", "first")
		b.start()
		v := newVerifier(t, ca, b.addr(), nil)
		start(t, config(b.addr(), ca), sp, nil)
		until(t, "some arrived", func() bool { return len(v.messages()) >= 100 })
		add(t, sp, spool.Alarm, "alarm", "second")
		before := len(v.messages())
		until(t, "all arrived", func() bool { return len(v.messages()) >= 503 })
		got := v.messages()
		if want := []string{"alarm first", "evidence boot", "report 0"}; !slices.Equal(got[:3], want) {
			t.Errorf("first arrived %q, want %q", got[:3], want)
		}
		t.Logf("the second alarm was put in after %d had arrived and arrived as number %d", before, slices.Index(got, "alarm second")+1)
		if at := slices.Index(got, "alarm second"); at < 0 || at == len(got)-1 {
			t.Errorf("the second alarm arrived as number %d of %d", at+1, len(got))
		}
	})
}

// Routine messages that nobody confirms do not hold an alarm.
func TestAlarmPassesAFullWindow(t *testing.T) {
	ca := newPKI(t)
	b := newMochi(t, ca)
	b.start()
	newVerifier(t, ca, b.addr(), func(payload string) bool { return payload == "alarm" })
	sp := newSpool(t)
	cfg := config(b.addr(), ca)
	cfg.Ack = mqtt.Receipt
	r := start(t, cfg, sp, nil)
	for i := range 100 {
		add(t, sp, spool.Routine, "report", fmt.Sprint(i))
	}
	until(t, "the window is full", func() bool { return r.Stats().InFlight == 16 })
	add(t, sp, spool.Alarm, "alarm", "alarm")
	until(t, "the alarm has its receipt", func() bool { return sp.Stats().Pending[spool.Alarm] == 0 })
	if st := r.Stats(); st.InFlight != 16 || st.Sent != 17 || left(sp) != 100 {
		t.Errorf("%+v, %d left", st, left(sp))
	}
}

// A verifier that lost a message gets it again without a new connection.
func TestSentAgainWithoutReceipt(t *testing.T) {
	ca := newPKI(t)
	b := newMochi(t, ca)
	b.start()
	var mu sync.Mutex
	seen := map[string]int{}
	v := newVerifier(t, ca, b.addr(), func(payload string) bool {
		mu.Lock()
		defer mu.Unlock()
		seen[payload]++
		return seen[payload] > 1
	})
	sp := newSpool(t)
	cfg := config(b.addr(), ca)
	cfg.Ack, cfg.AckTimeout = mqtt.Receipt, 50*time.Millisecond
	r := start(t, cfg, sp, nil)
	for i := range 20 {
		add(t, sp, spool.Routine, "report", fmt.Sprint(i))
	}
	until(t, "subscribed and delivering", func() bool { return r.Stats().Done > 0 })
	v.send([]byte("never sent"))
	v.client.Publish(topic("receipt"), 1, false, "no receipt").Wait()
	until(t, "the queue is empty", func() bool { return left(sp) == 0 })
	if st := r.Stats(); !st.Connected || st.Err != "" || st.Done != 20 || st.Sent < 40 {
		t.Errorf("%+v", st)
	}
	until(t, "the malformed receipt was told", func() bool { return strings.Contains(r.log.String(), "cannot decode receipt") })
}

func TestLastWill(t *testing.T) {
	ca := newPKI(t)
	b := newMosquitto(t, ca)
	b.start()
	proxy := newProxy(t, b.addr())
	start(t, config(proxy.Addr().String(), ca), newSpool(t), nil)
	v := newVerifier(t, ca, b.addr(), nil)
	until(t, "online", func() bool { return slices.Contains(v.states(), "state online") })
	proxy.cut()
	until(t, "lost and online again", func() bool {
		s := v.states()
		i := slices.Index(s, "state lost")
		return i >= 0 && slices.Contains(s[i:], "state online")
	})
}

// newProxy passes bytes on to an address until it is told to cut.
func newProxy(t testing.TB, to string) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l}
	t.Cleanup(func() {
		c.Close()
		c.cut()
	})
	go func() {
		for {
			in, err := c.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
	return c
}

func TestRefusedByTLS(t *testing.T) {
	ca, other := newPKI(t), newPKI(t)
	oldServer := ca.server()
	oldServer.MinVersion, oldServer.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	for _, tt := range []struct {
		name   string
		config *tls.Config // of the client
		broker func(t *testing.T) string
		want   string
	}{
		{"certificate of the broker from another CA", ca.client(device), func(t *testing.T) string {
			b := newMosquitto(t, other)
			b.start()
			return b.addr()
		}, "certificate signed by unknown authority"},
		{"broker has another name", func() *tls.Config {
			c := ca.client(device)
			c.ServerName = "broker.example"
			return c
		}(), func(t *testing.T) string {
			b := newMosquitto(t, ca)
			b.start()
			return b.addr()
		}, "broker.example"},
		{"TLS 1.2", ca.client(device), func(t *testing.T) string {
			b := newMochi(t, ca)
			b.tls = oldServer
			b.start()
			return b.addr()
		}, "protocol version"},
		{"certificate of the client from another CA, mosquitto", mixed(ca, other), func(t *testing.T) string {
			b := newMosquitto(t, ca)
			b.start()
			return b.addr()
		}, "does it accept this client's certificate?"},
		{"certificate of the client from another CA, mochi", mixed(ca, other), func(t *testing.T) string {
			b := newMochi(t, ca)
			b.start()
			return b.addr()
		}, "does it accept this client's certificate?"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			sp := newSpool(t)
			for i := range 20 {
				add(t, sp, spool.Routine, "report", fmt.Sprint(i))
			}
			cfg := config(tt.broker(t), ca)
			cfg.TLS = tt.config
			r := start(t, cfg, sp, nil)
			until(t, "three attempts", func() bool { return r.Stats().Failures >= 3 })
			if st := r.Stats(); st.Connected || st.Sent != 0 || !strings.Contains(st.Err, tt.want) {
				t.Errorf("%+v, want an error with %q", st, tt.want)
			}
			if left(sp) != 20 {
				t.Errorf("%d of 20 messages are left", left(sp))
			}
			t.Log(r.Stats().Err)
		})
	}
}

// mixed trusts one CA and has a certificate of another.
func mixed(trusted, issuer *pki) *tls.Config {
	c := issuer.client(device)
	c.RootCAs = trusted.pool
	return c
}

// goroutines counts the goroutines of the package under test.
func goroutines() int {
	buf := make([]byte, 1<<20)
	n := 0
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "agent/mqtt.(") {
			n++
		}
	}
	return n
}

// Not parallel: it counts goroutines.
func TestNothingIsLeftBehind(t *testing.T) {
	ca := newPKI(t)
	until(t, "none of other tests", func() bool { return goroutines() == 0 })
	for _, tt := range []struct {
		name   string
		broker func(t *testing.T) string
		ready  func(r *run, sp *spool.Spool) bool
	}{
		{"connected and idle", func(t *testing.T) string {
			b := newMosquitto(t, ca)
			b.start()
			return b.addr()
		}, func(r *run, sp *spool.Spool) bool { return left(sp) == 0 }},
		{"in the middle", func(t *testing.T) string {
			b := newMosquitto(t, ca)
			b.start()
			return b.addr()
		}, func(r *run, sp *spool.Spool) bool { return r.Stats().Done > 100 }},
		{"waiting to connect again", func(t *testing.T) string { return freeAddr(t) },
			func(r *run, sp *spool.Spool) bool { return r.Stats().Failures > 0 }},
		{"handshake hangs", func(t *testing.T) string {
			return serve(t, nil, func(net.Conn) {})
		}, func(r *run, sp *spool.Spool) bool { return true }},
		{"CONNECT hangs", func(t *testing.T) string {
			return serve(t, ca.server(), func(c net.Conn) { packets.ReadPacket(c) })
		}, func(r *run, sp *spool.Spool) bool { return true }},
		{"broker stops reading", func(t *testing.T) string {
			return serve(t, ca.server(), func(c net.Conn) { connack(c) })
		}, func(r *run, sp *spool.Spool) bool { return r.Stats().Sent > 1 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sp := newSpool(t)
			addr := tt.broker(t)
			r := start(t, config(addr, ca), sp, nil)
			body := strings.Repeat("x", 60000) // 16 of them do not fit into the buffers of a socket
			for range 200 {
				add(t, sp, spool.Routine, "report", body)
			}
			until(t, "ready", func() bool { return tt.ready(r, sp) })
			r.stop()
			until(t, "all goroutines ended", func() bool { return goroutines() == 0 })
		})
	}
}

// serve is a broker that does with each connection what the test says, and then
// nothing.
func serve(t testing.TB, config *tls.Config, handle func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		l.Close()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				handle(c)
				<-ctx.Done()
			}()
		}
	}()
	return l.Addr().String()
}

// connack takes a CONNECT and accepts it.
func connack(c net.Conn) {
	packets.ReadPacket(c)
	packets.NewControlPacket(packets.Connack).Write(c)
}

// A writer of the queue never waits for a broker that does not read.
func TestSlowBroker(t *testing.T) {
	ca := newPKI(t)
	addr := serve(t, ca.server(), func(c net.Conn) { connack(c) })
	sp := newSpool(t)
	r := start(t, config(addr, ca), sp, nil)
	body := strings.Repeat("x", 60000)
	for range 100 {
		add(t, sp, spool.Routine, "report", body)
	}
	until(t, "sending", func() bool { return r.Stats().Sent > 1 })
	began := time.Now()
	for range 100 {
		add(t, sp, spool.Alarm, "alarm", "x")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("100 appends took %v", took)
	}
	if left(sp) != 200 {
		t.Errorf("%d messages are left", left(sp))
	}
}

// A broker that takes everything and acknowledges nothing is left.
func TestNoPuback(t *testing.T) {
	ca := newPKI(t)
	var mu sync.Mutex
	connections := 0
	addr := serve(t, ca.server(), func(c net.Conn) {
		mu.Lock()
		connections++
		mu.Unlock()
		connack(c)
		io.Copy(io.Discard, c)
	})
	sp := newSpool(t)
	cfg := config(addr, ca)
	cfg.AckTimeout = 50 * time.Millisecond
	r := start(t, cfg, sp, nil)
	add(t, sp, spool.Routine, "report", "x")
	until(t, "a third connection", func() bool { mu.Lock(); defer mu.Unlock(); return connections >= 3 })
	if st := r.Stats(); !strings.Contains(st.Err, "did not acknowledge 1 messages within 50ms") || left(sp) != 1 {
		t.Errorf("%+v, %d left", st, left(sp))
	}
}

// Packets that no broker sends in earnest, or that would allocate without bounds,
// end the connection.
func TestHostileBroker(t *testing.T) {
	for _, tt := range []struct {
		name   string
		packet []byte
	}{
		{"SUBACK with too many codes", append([]byte{0x90, 12, 0, 1}, make([]byte, 10)...)},
		{"a length of 256 MB", []byte{0x30, 0xff, 0xff, 0xff, 0x7f}},
		{"a length that does not end", []byte{0x30, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{"QoS 2", []byte{0x34, 7, 0, 1, 't', 0, 1, 'p', 'p'}},
		{"a packet of a client", []byte{0xc0, 0}},
		{"an empty PUBLISH", []byte{0x30, 0}},
		{"a PUBLISH shorter than its topic", []byte{0x32, 3, 0xff, 0xff, 'x'}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ca := newPKI(t)
			addr := serve(t, ca.server(), func(c net.Conn) {
				connack(c)
				packets.ReadPacket(c) // SUBSCRIBE, with ID 1
				c.Write(tt.packet)
			})
			sp := newSpool(t)
			for range 16 {
				add(t, sp, spool.Routine, "report", "x")
			}
			r := start(t, config(addr, ca), sp, nil)
			until(t, "lost twice", func() bool { return strings.Count(r.log.String(), "connection to broker lost") >= 2 })
			t.Log(r.Stats().Err)
			if left(sp) != 16 {
				t.Errorf("%d of 16 messages are left, none was acknowledged", left(sp))
			}
		})
	}
}

func TestNotATopic(t *testing.T) {
	ca := newPKI(t)
	b := newMochi(t, ca)
	b.start()
	sp := newSpool(t)
	for _, topic := range []string{"#", "a/b", "+", "$SYS", "\xff"} {
		add(t, sp, spool.Routine, topic, "x")
	}
	add(t, sp, spool.Routine, "report", "good")
	r := start(t, config(b.addr(), ca), sp, nil)
	until(t, "the queue is empty", func() bool { return left(sp) == 0 })
	if !b.has("good") || b.has("x") || strings.Count(r.log.String(), "not a topic") != 5 {
		t.Error("not the good one only")
	}
}

func TestConfig(t *testing.T) {
	ca := newPKI(t)
	for _, tt := range []struct {
		name   string
		change func(*mqtt.Config)
		want   string
	}{
		{"good", func(*mqtt.Config) {}, ""},
		{"plain TCP", func(c *mqtt.Config) { c.Broker = "tcp://host:1883" }, "want tls://host:port"},
		{"no host", func(c *mqtt.Config) { c.Broker = "tls://:8883" }, "want tls://host:port"},
		{"a path", func(c *mqtt.Config) { c.Broker = "tls://host:8883/x" }, "want tls://host:port"},
		{"a password", func(c *mqtt.Config) { c.Broker = "tls://u:p@host" }, "want tls://host:port"},
		{"not a URL", func(c *mqtt.Config) { c.Broker = "tls://%" }, "broker:"},
		{"default port", func(c *mqtt.Config) { c.Broker = "mqtts://host" }, ""},
		{"no client ID", func(c *mqtt.Config) { c.ClientID = "" }, "client ID"},
		{"client ID with a wildcard", func(c *mqtt.Config) { c.ClientID = "+" }, "client ID"},
		{"no prefix", func(c *mqtt.Config) { c.Prefix = "" }, "prefix"},
		{"prefix with a wildcard", func(c *mqtt.Config) { c.Prefix = "a/#" }, "prefix"},
		{"prefix of the broker", func(c *mqtt.Config) { c.Prefix = "$SYS/a" }, "prefix"},
		{"prefix ends with a slash", func(c *mqtt.Config) { c.Prefix = "a/" }, "prefix"},
		{"ack", func(c *mqtt.Config) { c.Ack = "never" }, `want "puback" or "receipt"`},
		{"no TLS", func(c *mqtt.Config) { c.TLS = nil }, "no client certificate"},
		{"no client certificate", func(c *mqtt.Config) { c.TLS = &tls.Config{} }, "no client certificate"},
		{"no verification", func(c *mqtt.Config) { c.TLS.InsecureSkipVerify = true }, "not be verified"},
		{"TLS 1.2", func(c *mqtt.Config) { c.TLS.MaxVersion = tls.VersionTLS12 }, "1.3 is needed"},
		{"back-off", func(c *mqtt.Config) { c.MinBackoff = time.Hour }, "back-off"},
		{"keep-alive", func(c *mqtt.Config) { c.KeepAlive = time.Millisecond }, "keep-alive"},
	} {
		cfg := config("host:8883", ca)
		cfg.MaxBackoff = 0
		tt.change(&cfg)
		_, err := mqtt.New(cfg, newSpool(t), nil)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
