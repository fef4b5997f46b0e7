package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/miotfacts/miotfacts/agent/mqtt"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/verifier"
)

// A Directory knows devices; *store.Store is one.
type Directory interface {
	Device(id attest.UEID) (*verifier.Device, error) // verifier.ErrNotFound
}

// Limits of the embedded broker.
const (
	maxPacket    = attest.MaxMessageSize + 512 // the largest message with its topic
	maxInflight  = 64                          // messages of one client on their way
	maxKeepAlive = 1200                        // seconds; a client that wants none is refused
	connectTime  = 15 * time.Second            // for TLS, with a slow TPM's signature, and CONNECT
	maxHeld      = 16                          // commands that wait for one device
	maxHolding   = 10_000                      // devices that commands wait for
)

// EmbeddedConfig is what the embedded broker needs beyond Config.
type EmbeddedConfig struct {
	Address    string          // to listen on, "host:port"
	TLS        tls.Certificate // of the server
	MaxClients int             // connections at a time, a quarter of them of strangers; 0 for 1000. One takes about 55 KiB
	Devices    Directory       // who is enrolled, and with which key
}

// Embedded is a broker in this process.
type Embedded struct {
	cfg     Config
	devices Directory
	server  *mochi.Server
	front   *front
	denied  atomic.Uint64

	mu   sync.Mutex
	held map[string][]heldCommand // by device
}

type heldCommand struct {
	payload []byte
	until   time.Time
}

// Listen opens the listener. Nothing is answered before Run.
func Listen(cfg Config, e EmbeddedConfig) (*Embedded, error) {
	b, err := listen(cfg, e)
	if err != nil {
		return nil, fmt.Errorf("cannot start broker: %w", err)
	}
	return b, nil
}

func listen(cfg Config, e EmbeddedConfig) (*Embedded, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if e.Devices == nil || len(e.TLS.Certificate) == 0 {
		return nil, errors.New("no directory of devices, or no server certificate")
	}
	if e.MaxClients == 0 {
		e.MaxClients = 1000
	}
	b := &Embedded{cfg: cfg, devices: e.Devices, held: map[string][]heldCommand{}}
	b.server = mochi.New(&mochi.Options{
		InlineClient:             true, // publishes for the verifier
		ClientNetWriteBufferSize: 4 << 10,
		ClientNetReadBufferSize:  4 << 10,
		Logger:                   slog.New(discardBelow{cfg.Log.Handler(), slog.LevelError}),
		Capabilities: &mochi.Capabilities{
			MaximumClients: int64(e.MaxClients), MaximumClientWritesPending: maxInflight,
			MaximumPacketSize: maxPacket, ReceiveMaximum: maxInflight, MaximumInflight: maxInflight,
			MinimumProtocolVersion: 4, MaximumQos: 1,
			// The agent's last will is retained; it is accepted and dropped.
			RetainAvailable: 1, WildcardSubAvailable: 0, SharedSubAvailable: 0,
			MaximumSessionExpiryInterval: 60, MaximumMessageExpiryInterval: 3600,
		},
	})
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", e.Address)
	if err != nil {
		return nil, err
	}
	b.front = &front{
		Listener: l, log: cfg.Log, slots: make(chan struct{}, e.MaxClients),
		strangers: map[net.Conn]bool{}, maxStrangers: max(e.MaxClients/4, 1),
		// The certificate proves the key and nothing else: devices sign it themselves.
		tls: &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, Certificates: []tls.Certificate{e.TLS}},
	}
	if err := b.server.AddListener(b.front); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return b, nil
}

// Addr returns the address of the listener.
func (b *Embedded) Addr() net.Addr { return b.front.Addr() }

// Denied returns how often a client tried what it may not.
func (b *Embedded) Denied() uint64 { return b.denied.Load() }

// Run serves until ctx ends.
func (b *Embedded) Run(ctx context.Context) error {
	if err := b.server.Serve(); err != nil {
		return fmt.Errorf("cannot run broker: %w", err)
	}
	<-ctx.Done()
	if err := b.server.Close(); err != nil {
		return fmt.Errorf("cannot stop broker: %w", err)
	}
	return nil
}

// Send publishes a message on a device's command topic, now or when the device
// connects next, if that is before until.
func (b *Embedded) Send(id attest.UEID, payload []byte, until time.Time) error {
	topic := b.cfg.topic(id.String(), mqtt.TopicCommand)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.server.Topics.Subscribers(topic).Subscriptions) > 0 {
		return b.server.Publish(topic, payload, false, 1)
	}
	now := b.cfg.Now()
	for device, waiting := range b.held {
		if waiting = slices.DeleteFunc(waiting, func(h heldCommand) bool { return now.After(h.until) }); len(waiting) == 0 {
			delete(b.held, device)
		} else {
			b.held[device] = waiting
		}
	}
	waiting := b.held[id.String()]
	if len(waiting) >= maxHeld || len(waiting) == 0 && len(b.held) >= maxHolding {
		return fmt.Errorf("cannot keep command for device %s, which is not connected: too many wait", id)
	}
	b.held[id.String()] = append(waiting, heldCommand{payload, until})
	return nil
}

// release publishes what waited for a device that has subscribed.
func (b *Embedded) release(device string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.cfg.Now()
	for _, h := range b.held[device] {
		if now.After(h.until) {
			continue
		}
		if err := b.server.Publish(b.cfg.topic(device, mqtt.TopicCommand), h.payload, false, 1); err != nil {
			b.cfg.Log.Error("cannot publish command", "device", device, "err", err)
		}
	}
	delete(b.held, device)
}

// Announce publishes a message to all devices, and to each that connects later.
func (b *Embedded) Announce(payload []byte) error {
	return b.server.Publish(b.cfg.epochTopic(), payload, true, 1)
}

// Drop ends a device's connection, as after its enrolment was revoked.
func (b *Embedded) Drop(id attest.UEID) {
	if c, ok := b.server.Clients.Get(id.String()); ok {
		c.Stop(errors.New("revoked"))
	}
}

// rights are what a client may do with its own topics.
type rights uint8

const (
	nothing    rights = iota
	enrolment         // ask to be enrolled, and hear the answer
	everything        // all that a device does
)

// rights returns what a client may do now: an approval and a revocation count
// at once.
func (b *Embedded) rights(c *mochi.Client) rights {
	id, err := attest.ParseUEID(c.ID)
	if err != nil || id.String() != c.ID {
		return nothing
	}
	conn, ok := c.Net.Conn.(*tls.Conn)
	if !ok || len(conn.ConnectionState().PeerCertificates) == 0 {
		return nothing
	}
	key, err := cose.NewPublicKey(conn.ConnectionState().PeerCertificates[0].PublicKey)
	if err != nil {
		return nothing
	}
	d, err := b.devices.Device(id)
	switch {
	case errors.Is(err, verifier.ErrNotFound):
		return enrolment
	case err != nil:
		b.cfg.Log.Error("cannot look up device", "device", id, "err", err)
		return nothing
	case d.Enrolled == verifier.Approved && (d.Key.ID() == key.ID() || d.Former(key.ID())):
		b.front.known(conn)
		return everything
	case d.Enrolled == verifier.Approved, d.Enrolled == verifier.Revoked && d.ProvedAt != 0 && d.Key.ID() == key.ID():
		return nothing
	}
	return enrolment
}

// A hook decides for the MQTT server.
type hook struct {
	mochi.HookBase
	b *Embedded
}

func (h *hook) ID() string { return "verifier" }

func (h *hook) Provides(event byte) bool {
	return slices.Contains([]byte{mochi.OnConnect, mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnPublish, mochi.OnSubscribed}, event)
}

// OnConnect refuses what a device does not do: each is one way less to attack.
func (h *hook) OnConnect(c *mochi.Client, p packets.Packet) error {
	if p.ProtocolVersion != 4 || p.Connect.Keepalive == 0 || p.Connect.Keepalive > maxKeepAlive {
		h.b.denied.Add(1)
		return packets.ErrUnsupportedProtocolVersion
	}
	c.Properties.Will = mochi.Will{} // nobody else listens, and nothing of it is signed
	c.Properties.Clean = true        // nothing is kept for a client that is gone
	return nil
}

func (h *hook) OnConnectAuthenticate(c *mochi.Client, _ packets.Packet) bool {
	r := h.b.rights(c)
	if r == nothing || r == enrolment && !h.b.front.stranger(c.Net.Conn) {
		h.b.denied.Add(1)
		h.b.cfg.Log.Warn("refused a client", "client", attest.Clip(c.ID, 64), "remote", c.Net.Remote)
		return false
	}
	return true
}

// OnACLCheck keeps each client to its own topics.
func (h *hook) OnACLCheck(c *mochi.Client, topic string, write bool) bool {
	device, kind, own := h.b.cfg.split(topic)
	allowed := false
	switch {
	case !write:
		allowed = topic == h.b.cfg.epochTopic() || own && device == c.ID && (kind == mqtt.TopicCommand || kind == mqtt.TopicReceipt)
	case !own || device != c.ID:
	case kind == mqtt.TopicState || kind == mqtt.TopicLabel || kind == "enrol":
		allowed = true // whoever may connect
	case slices.Contains(kinds, kind):
		allowed = h.b.rights(c) == everything
	}
	if !allowed {
		h.b.denied.Add(1)
		h.b.cfg.Log.Warn("refused access to a topic", "client", attest.Clip(c.ID, 64), "topic", attest.Clip(topic, 128), "write", write)
	}
	return allowed
}

// OnPublish deals with a message before it is acknowledged. When that cannot be
// done the connection ends, and the device sends the message again.
func (h *hook) OnPublish(c *mochi.Client, p packets.Packet) (packets.Packet, error) {
	if c.Net.Inline {
		return p, nil
	}
	device, kind, _ := h.b.cfg.split(p.TopicName)
	if kind == mqtt.TopicState || kind == mqtt.TopicLabel {
		return p, packets.CodeSuccessIgnore
	}
	out, err := h.b.cfg.deal(verifier.Delivery{Client: c.ID, Device: device, Kind: kind, Payload: p.Payload})
	if err != nil {
		h.b.cfg.Log.Error("cannot deal with a message", "device", device, "kind", kind, "err", err)
		c.Stop(err)
		return p, packets.ErrRejectPacket
	}
	for _, m := range out {
		if err := h.b.server.Publish(m.topic, m.payload, false, 1); err != nil {
			h.b.cfg.Log.Error("cannot publish", "topic", m.topic, "err", err)
		}
	}
	return p, packets.CodeSuccessIgnore // acknowledge, and pass it on to nobody
}

func (h *hook) OnSubscribed(c *mochi.Client, p packets.Packet, codes []byte) {
	for i, f := range p.Filters {
		if f.Filter == h.b.cfg.topic(c.ID, mqtt.TopicCommand) && i < len(codes) && codes[i] <= 1 {
			h.b.release(c.ID)
		}
	}
}

// A front is the listener: TLS before anything else, deadlines before the MQTT
// server sets its own, and a bound on connections.
type front struct {
	net.Listener
	tls   *tls.Config
	log   *slog.Logger
	slots chan struct{}
	conns sync.Map // net.Conn -> true
	ended atomic.Bool

	mu           sync.Mutex
	strangers    map[net.Conn]bool // connections of devices that are not approved
	maxStrangers int
}

// stranger counts a connection as that of a stranger, and reports whether there
// is room: whoever asks to be enrolled must not keep the fleet out.
func (f *front) stranger(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.strangers) >= f.maxStrangers {
		return false
	}
	f.strangers[c] = true
	return true
}

// known takes a connection out of those of strangers.
func (f *front) known(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.strangers, c)
}

func (f *front) Init(*slog.Logger) error { return nil }
func (f *front) ID() string              { return "tls" }
func (f *front) Address() string         { return f.Listener.Addr().String() }
func (f *front) Protocol() string        { return "tls" }

func (f *front) Serve(establish listeners.EstablishFn) {
	for {
		c, err := f.Listener.Accept()
		switch {
		case f.ended.Load():
			if err == nil {
				c.Close()
			}
			return
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			f.log.Error("cannot accept a connection", "err", err)
			time.Sleep(100 * time.Millisecond) // out of file descriptors: that passes
			continue
		}
		select {
		case f.slots <- struct{}{}:
			go f.serve(c, establish)
		default:
			f.log.Warn("refused a connection: too many", "remote", c.RemoteAddr())
			c.Close()
		}
	}
}

func (f *front) serve(raw net.Conn, establish listeners.EstablishFn) {
	defer func() {
		// The MQTT library parses what strangers send. A fault in it ends their
		// connection, not the verifier.
		if fault := recover(); fault != nil {
			f.log.Error("internal error: a connection ended in a panic", "remote", raw.RemoteAddr(), "panic", fault)
		}
		raw.Close()
		f.conns.Delete(raw)
		<-f.slots
	}()
	f.conns.Store(raw, true)
	if err := raw.SetDeadline(time.Now().Add(connectTime)); err != nil {
		return
	}
	c := tls.Server(raw, f.tls)
	defer f.known(c)
	if err := c.Handshake(); err != nil {
		f.log.Debug("no TLS connection", "remote", raw.RemoteAddr(), "err", err)
		return
	}
	if err := establish(f.ID(), c); err != nil {
		f.log.Debug("a client is gone", "remote", raw.RemoteAddr(), "err", err)
	}
}

// Close ends the listener and all connections.
func (f *front) Close(closeClients listeners.CloseFn) {
	if f.ended.Swap(true) {
		return
	}
	f.Listener.Close()
	closeClients(f.ID())
	f.conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
}

// discardBelow drops what the MQTT library says below a level: it logs each
// fault of a client as a warning, and this package says what matters itself.
type discardBelow struct {
	slog.Handler
	level slog.Level
}

func (d discardBelow) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= d.level && d.Handler.Enabled(ctx, l)
}
