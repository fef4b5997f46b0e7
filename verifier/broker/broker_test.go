package broker_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/miotfacts/miotfacts/agent/mqtt"
	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/broker"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func certificate(t testing.TB, name string, key crypto.Signer) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func pool(t testing.TB, c tls.Certificate) *x509.CertPool {
	t.Helper()
	cert, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	p := x509.NewCertPool()
	p.AddCert(cert)
	return p
}

// A hospital is a fleet with its embedded broker.
type hospital struct {
	*verifiertest.Fleet
	broker *broker.Embedded
	ca     *x509.CertPool
	url    string
}

func newHospital(t testing.TB, change ...func(*broker.Config, *broker.EmbeddedConfig)) *hospital {
	t.Helper()
	h := &hospital{Fleet: verifiertest.New(t)}
	server := certificate(t, "broker", newKey(t))
	h.ca = pool(t, server)
	cfg := broker.Config{Prefix: "ward/miotfacts", Handler: h, Now: func() time.Time { return time.Unix(h.Now, 0) }, Log: quiet()}
	embedded := broker.EmbeddedConfig{Address: "127.0.0.1:0", TLS: server, Devices: h.Store}
	for _, c := range change {
		c(&cfg, &embedded)
	}
	var err error
	if h.broker, err = broker.Listen(cfg, embedded); err != nil {
		t.Fatal(err)
	}
	h.url = "tls://" + h.broker.Addr().String()
	run(t, h.broker.Run)
	return h
}

// run runs f until the test ends.
func run(t testing.TB, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// A keyed device has its key at hand for TLS.
type keyed struct {
	*verifiertest.Device
	key  *ecdsa.PrivateKey
	cert tls.Certificate
}

func (h *hospital) keyed() *keyed {
	h.Helper()
	k := &keyed{Device: h.NewDevice(), key: newKey(h)}
	var err error
	if k.Signer, err = cose.NewSigner(k.key); err != nil {
		h.Fatal(err)
	}
	k.cert = certificate(h, k.UEID.String(), k.key)
	return k
}

func (k *keyed) tls(ca *x509.CertPool) *tls.Config {
	return &tls.Config{RootCAs: ca, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{k.cert}}
}

// agent connects the device as factsd does.
func (h *hospital) agent(k *keyed) (*spool.Spool, *mqtt.Client, <-chan *attest.Down) {
	h.Helper()
	queue, err := spool.Open(filepath.Join(h.TempDir(), "spool"), spool.Options{})
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { queue.Close() })
	downs := make(chan *attest.Down, 16)
	c, err := mqtt.New(mqtt.Config{Broker: h.url, ClientID: k.UEID.String(), TLS: k.tls(h.ca), Prefix: "ward/miotfacts", Ack: mqtt.Receipt, MinBackoff: 10 * time.Millisecond, Logger: quiet()},
		queue, func(topic string, payload []byte) {
			d, err := attest.DecodeDown(payload)
			if err != nil {
				h.Errorf("%s: %v", topic, err)
				return
			}
			downs <- d
		})
	if err != nil {
		h.Fatal(err)
	}
	run(h, c.Run)
	return queue, c, downs
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for: %s", patience, what)
		}
		<-tick.C
	}
}

func receive(t testing.TB, c <-chan *attest.Down) *attest.Down {
	t.Helper()
	select {
	case d := <-c:
		return d
	case <-time.After(patience):
		t.Fatalf("waited %v for a message from the verifier", patience)
		return nil
	}
}

func empty(q *spool.Spool) bool {
	for _, n := range q.Stats().Pending {
		if n != 0 {
			return false
		}
	}
	return true
}

// The agent's own client, from enrolment to a challenge.
func TestAgentEndToEnd(t *testing.T) {
	h := newHospital(t)
	k := h.keyed()
	queue, _, downs := h.agent(k)
	put := func(class spool.Class, topic string, payload []byte) {
		t.Helper()
		if _, err := queue.Append(class, topic, payload); err != nil {
			t.Fatal(err)
		}
	}
	put(spool.Evidence, "enrol", k.SealEnrolment(k.Enrolment(nil)).Payload)
	until(t, "enrolment and its receipt", func() bool { return empty(queue) })
	if v := k.View(); v.Enrolled != verifier.Proved {
		t.Fatalf("%s", v.Enrolled)
	}

	data, err := h.Approve(h.Now, k.UEID, "ward 3")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.broker.Send(k.UEID, data, time.Unix(h.Now+60, 0)); err != nil {
		t.Fatal(err)
	}
	if d := receive(t, downs); !d.Enrolled {
		t.Errorf("%+v", d)
	}
	// The connection that a stranger had is now the device's.
	put(spool.Evidence, "evidence", k.Message(attest.KindBoot))
	put(spool.Routine, "report", k.Message(attest.KindRoutine))
	until(t, "two reports", func() bool { return empty(queue) && k.View().Sequence == 2 })

	if data, err = h.Challenge(h.Now, k.UEID); err != nil {
		t.Fatal(err)
	}
	if err := h.broker.Send(k.UEID, data, time.Unix(h.Now+60, 0)); err != nil {
		t.Fatal(err)
	}
	if d := receive(t, downs); d.Command == nil {
		t.Errorf("%+v", d)
	}
	if n := h.broker.Denied(); n != 0 {
		t.Errorf("denied %d times", n)
	}

	// A revocation counts at once.
	if err := h.Revoke(h.Now, k.UEID); err != nil {
		t.Fatal(err)
	}
	h.broker.Drop(k.UEID)
	until(t, "a refused connection", func() bool { return h.broker.Denied() > 0 })
}

// Who is connected hears what is announced at once, who comes later when it comes.
func TestAnnounce(t *testing.T) {
	h := newHospital(t)
	early, late := h.keyed(), h.keyed()
	early.Device.Enrolled()
	late.Device.Enrolled()
	_, _, first := h.agent(early)
	announce := func(n byte) {
		t.Helper()
		if err := h.broker.Announce(verifiertest.Encode(t, attest.Down{Command: []byte{n}})); err != nil {
			t.Fatal(err)
		}
	}
	announce(1)
	if d := receive(t, first); len(d.Command) != 1 || d.Command[0] != 1 {
		t.Errorf("%+v", d)
	}
	announce(2)
	if d := receive(t, first); len(d.Command) != 1 || d.Command[0] != 2 {
		t.Errorf("%+v", d)
	}
	_, _, second := h.agent(late)
	if d := receive(t, second); len(d.Command) != 1 || d.Command[0] != 2 {
		t.Errorf("who came later heard %+v", d)
	}
}

func TestCommandsWaitForTheDevice(t *testing.T) {
	h := newHospital(t)
	k := h.keyed()
	k.Device.Enrolled()
	for i, until := range []int64{h.Now + 60, h.Now - 1} {
		data := verifiertest.Encode(t, attest.Down{Command: []byte{byte(i)}})
		if err := h.broker.Send(k.UEID, data, time.Unix(until, 0)); err != nil {
			t.Fatal(err)
		}
	}
	queue, _, downs := h.agent(k)
	if d := receive(t, downs); len(d.Command) != 1 || d.Command[0] != 0 {
		t.Errorf("%+v", d)
	}
	if _, err := queue.Append(spool.Evidence, "evidence", k.Message(attest.KindBoot)); err != nil {
		t.Fatal(err)
	}
	until(t, "a report", func() bool { return empty(queue) })
	select {
	case d := <-downs:
		t.Errorf("a command that had lapsed: %+v", d)
	default:
	}
	absent := h.keyed()
	var err error
	for range 17 {
		err = h.broker.Send(absent.UEID, []byte{0xa0}, time.Unix(h.Now+60, 0))
	}
	if err == nil {
		t.Error("any number of commands waits")
	}
}

// client is any MQTT client.
func (h *hospital) client(id string, conf *tls.Config, change func(*paho.ClientOptions)) (paho.Client, error) {
	o := paho.NewClientOptions().AddBroker(h.url).SetClientID(id).SetTLSConfig(conf).SetProtocolVersion(4).SetAutoReconnect(false).
		SetConnectTimeout(patience)
	if change != nil {
		change(o)
	}
	c := paho.NewClient(o)
	t := c.Connect()
	if !t.WaitTimeout(patience) {
		return nil, errors.New("no answer")
	}
	if t.Error() == nil {
		h.Cleanup(func() { c.Disconnect(0) })
	}
	return c, t.Error()
}

func TestWhoMayConnect(t *testing.T) {
	h := newHospital(t)
	approved, stranger := h.keyed(), h.keyed()
	approved.Device.Enrolled()
	revoked := h.keyed()
	revoked.Device.Enrolled()
	if err := h.Revoke(h.Now, revoked.UEID); err != nil {
		t.Fatal(err)
	}
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		id     string
		tls    *tls.Config
		change func(*paho.ClientOptions)
		ok     bool
	}{
		{"approved", approved.UEID.String(), approved.tls(h.ca), nil, true},
		{"stranger", stranger.UEID.String(), stranger.tls(h.ca), nil, true},
		{"stranger under an approved name", approved.UEID.String(), stranger.tls(h.ca), nil, false},
		{"revoked", revoked.UEID.String(), revoked.tls(h.ca), nil, false},
		{"revoked, with another key", revoked.UEID.String(), stranger.tls(h.ca), nil, true},
		{"no certificate", stranger.UEID.String(), &tls.Config{RootCAs: h.ca}, nil, false},
		{"TLS 1.2", stranger.UEID.String(), func() *tls.Config {
			c := stranger.tls(h.ca)
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
			return c
		}(), nil, false},
		{"RSA key", stranger.UEID.String(), &tls.Config{RootCAs: h.ca, Certificates: []tls.Certificate{certificate(t, "rsa", foreign)}}, nil, false},
		{"name that is none", "factsd", stranger.tls(h.ca), nil, false},
		{"name in capitals", strings.ToUpper(stranger.UEID.String()[:31]) + "A", stranger.tls(h.ca), nil, false},
		{"MQTT 3.1", stranger.UEID.String()[:23], stranger.tls(h.ca), func(o *paho.ClientOptions) { o.SetProtocolVersion(3) }, false},
		{"no keep-alive", stranger.UEID.String(), stranger.tls(h.ca), func(o *paho.ClientOptions) { o.SetKeepAlive(0) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := h.broker.Denied()
			_, err := h.client(c.id, c.tls, c.change)
			if (err == nil) != c.ok {
				t.Errorf("error %v", err)
			}
			if c.ok && h.broker.Denied() != before {
				t.Error("counted as denied")
			}
		})
	}
}

func TestOwnTopicsOnly(t *testing.T) {
	h := newHospital(t)
	approved, stranger, victim := h.keyed(), h.keyed(), h.keyed()
	approved.Device.Enrolled()
	victim.Device.Enrolled()
	topic := func(k *keyed, last string) string { return "ward/miotfacts/" + k.UEID.String() + "/" + last }
	type attempt struct {
		who   *keyed
		topic string
		ok    bool
	}
	for _, a := range []attempt{
		{approved, topic(approved, "command"), true},
		{approved, topic(approved, "receipt"), true},
		{approved, "ward/miotfacts/epoch", true},
		{stranger, topic(stranger, "command"), true},
		{stranger, topic(stranger, "receipt"), true},
		{stranger, "ward/miotfacts/epoch", true},
		{approved, topic(victim, "command"), false},
		{approved, topic(victim, "receipt"), false},
		{approved, topic(approved, "report"), false},
		{approved, topic(approved, "#"), false},
		{approved, topic(approved, "+"), false},
		{approved, "#", false},
		{approved, "ward/miotfacts/+/report", false},
		{approved, "$share/x/" + topic(victim, "command"), false},
		{approved, "$SYS/#", false},
	} {
		c, err := h.client(a.who.UEID.String(), a.who.tls(h.ca), nil)
		if err != nil {
			t.Fatal(err)
		}
		before := h.broker.Denied()
		if !c.Subscribe(a.topic, 1, nil).WaitTimeout(patience) {
			t.Fatal("no answer")
		}
		if denied := h.broker.Denied() - before; (denied == 0) != a.ok {
			t.Errorf("subscribe %s: denied %d times, want %v", a.topic, denied, !a.ok)
		}
	}
	for _, a := range []attempt{
		{approved, topic(approved, "report"), true},
		{approved, topic(approved, "alarm"), true},
		{approved, topic(approved, "evidence"), true},
		{approved, topic(approved, "enrol"), true},
		{approved, topic(approved, "state"), true},
		{approved, topic(approved, "label"), true},
		{stranger, topic(stranger, "enrol"), true},
		{stranger, topic(stranger, "state"), true},
		{stranger, topic(stranger, "label"), true},
		{stranger, topic(stranger, "report"), false},
		{stranger, topic(stranger, "alarm"), false},
		{stranger, topic(stranger, "evidence"), false},
		{stranger, topic(victim, "enrol"), false},
		{approved, topic(victim, "report"), false},
		{approved, topic(victim, "command"), false},
		{approved, topic(approved, "command"), false},
		{approved, topic(approved, "receipt"), false},
		{approved, "ward/miotfacts/epoch", false},
		{approved, "ward/miotfacts/" + approved.UEID.String(), false},
		{approved, topic(approved, "report/x"), false},
		{approved, "other/" + approved.UEID.String() + "/report", false},
	} {
		before := h.broker.Denied()
		lost := make(chan struct{})
		c, err := h.client(a.who.UEID.String(), a.who.tls(h.ca), func(o *paho.ClientOptions) {
			o.SetConnectionLostHandler(func(paho.Client, error) { close(lost) })
		})
		if err != nil {
			t.Fatal(err)
		}
		token := c.Publish(a.topic, 1, true, []byte("x"))
		select {
		case <-token.Done():
		case <-lost:
		case <-time.After(patience):
			t.Fatalf("publish %s: no answer", a.topic)
		}
		denied := h.broker.Denied() - before
		if (denied == 0) != a.ok {
			t.Errorf("publish %s: denied %d times, want %v", a.topic, denied, !a.ok)
		}
	}
}

// A message that could not be stored is not acknowledged: the device keeps it.
func TestNoAcknowledgementBeforeItIsStored(t *testing.T) {
	var fault faulty
	h := newHospital(t, func(c *broker.Config, _ *broker.EmbeddedConfig) {
		fault.Handler = c.Handler
		c.Handler = &fault
	})
	k := h.keyed()
	k.Device.Enrolled()
	fault.set(errors.New("disk full"))
	queue, client, _ := h.agent(k)
	if _, err := queue.Append(spool.Evidence, "evidence", k.Message(attest.KindBoot)); err != nil {
		t.Fatal(err)
	}
	until(t, "two attempts", func() bool { return fault.calls() >= 2 })
	if empty(queue) || client.Stats().Done != 0 {
		t.Error("acknowledged though it was not stored")
	}
	fault.set(nil)
	until(t, "the report", func() bool { return empty(queue) && k.View().Sequence == 1 })
}

type faulty struct {
	broker.Handler
	mu  sync.Mutex
	err error
	n   int
}

func (f *faulty) set(err error) { f.mu.Lock(); defer f.mu.Unlock(); f.err = err }
func (f *faulty) calls() int    { f.mu.Lock(); defer f.mu.Unlock(); return f.n }

func (f *faulty) Handle(now int64, m verifier.Delivery) (verifier.Reply, error) {
	f.mu.Lock()
	f.n++
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return verifier.Reply{}, err
	}
	return f.Handler.Handle(now, m)
}

func TestLimits(t *testing.T) {
	h := newHospital(t, func(_ *broker.Config, e *broker.EmbeddedConfig) { e.MaxClients = 2 })
	k := h.keyed()
	k.Device.Enrolled()
	lost := make(chan struct{})
	c, err := h.client(k.UEID.String(), k.tls(h.ca), func(o *paho.ClientOptions) {
		o.SetConnectionLostHandler(func(paho.Client, error) { close(lost) })
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Publish("ward/miotfacts/"+k.UEID.String()+"/report", 1, false, make([]byte, attest.MaxMessageSize+1024))
	select {
	case <-lost:
	case <-time.After(patience):
		t.Error("a packet above the limit did not end the connection")
	}
	// Connections that say nothing take their places, and no more.
	var held []net.Conn
	for range 2 {
		n, err := net.Dial("tcp", h.broker.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		held = append(held, n)
	}
	until(t, "a refused connection", func() bool {
		_, err := h.client(k.UEID.String(), k.tls(h.ca), nil)
		return err != nil
	})
	for _, n := range held {
		n.Close()
	}
	until(t, "a place", func() bool {
		_, err := h.client(k.UEID.String(), k.tls(h.ca), nil)
		return err == nil
	})
}

// Whoever asks to be enrolled does not keep the fleet out.
func TestStrangersLeaveRoom(t *testing.T) {
	h := newHospital(t, func(_ *broker.Config, e *broker.EmbeddedConfig) { e.MaxClients = 8 })
	var strangers []*keyed
	for range 2 {
		k := h.keyed()
		strangers = append(strangers, k)
		if _, err := h.client(k.UEID.String(), k.tls(h.ca), nil); err != nil {
			t.Fatal(err)
		}
	}
	third := h.keyed()
	if _, err := h.client(third.UEID.String(), third.tls(h.ca), nil); err == nil {
		t.Error("a quarter of the places are for strangers, all of them were taken")
	}
	for range 5 {
		k := h.keyed()
		k.Device.Enrolled()
		if _, err := h.client(k.UEID.String(), k.tls(h.ca), nil); err != nil {
			t.Fatal(err)
		}
	}
	// One that was approved meanwhile, and comes again, is none any more.
	strangers[0].Device.Enrolled()
	if _, err := h.client(strangers[0].UEID.String(), strangers[0].tls(h.ca), nil); err != nil {
		t.Fatal(err)
	}
	until(t, "a place", func() bool {
		_, err := h.client(third.UEID.String(), third.tls(h.ca), nil)
		return err == nil
	})
}

func TestConfigurations(t *testing.T) {
	h := newHospital(t)
	server := certificate(t, "broker", newKey(t))
	sound := broker.Config{Prefix: "miotfacts", Handler: h}
	for name, prefix := range map[string]string{"empty": "", "wildcard": "a/+", "empty level": "a//b", "system": "$SYS"} {
		cfg := sound
		cfg.Prefix = prefix
		if _, err := broker.Listen(cfg, broker.EmbeddedConfig{Address: "127.0.0.1:0", TLS: server, Devices: h.Store}); err == nil {
			t.Errorf("%s prefix: accepted", name)
		}
		if _, err := broker.Connect(cfg, broker.ExternalConfig{ClientID: "v", TLS: &tls.Config{}}); err == nil {
			t.Errorf("%s prefix: accepted", name)
		}
	}
	if _, err := broker.Listen(sound, broker.EmbeddedConfig{Address: "127.0.0.1:0", TLS: server}); err == nil {
		t.Error("no directory: accepted")
	}
	if _, err := broker.Connect(sound, broker.ExternalConfig{ClientID: "v", TLS: &tls.Config{InsecureSkipVerify: true}}); err == nil {
		t.Error("any certificate: accepted")
	}
	if _, err := broker.Connect(broker.Config{Prefix: "x"}, broker.ExternalConfig{ClientID: "v", TLS: &tls.Config{}}); err == nil {
		t.Error("no handler: accepted")
	}
}
