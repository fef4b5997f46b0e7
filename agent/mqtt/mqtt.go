// Package mqtt moves opaque messages between a durable queue and an MQTT 3.1.1
// broker: up what is in the queue, down commands and epochs.
//
// Delivery is at least once and is this package's own: each connection is a new
// MQTT client with a clean session and nothing stored, and on each of them
// everything still in the queue is sent again, alarms first. A message leaves
// the queue when the broker acknowledged it on the same connection (PUBACK) or
// when the verifier's receipt names it. Receivers see duplicates and drop them.
//
// The connection is TLS 1.3 with a client certificate whose key may live in a
// TPM. The broker is trusted to carry messages, not with what they say: it can
// lose, delay, repeat and invent them, including receipts, and what that costs
// shows in the chain of the reports. What it sends is held to the few packets
// and the size that a client like this can get.
//
// The package does not look into messages, does not queue them, and never makes
// a writer of the queue wait.
package mqtt

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/miotfacts/miotfacts/agent/spool"
)

// A Queue holds messages until they are done; spool.Spool is one.
type Queue interface {
	// Next returns the oldest message of a class whose ID is above after.
	Next(class spool.Class, after spool.ID) (spool.Message, bool)
	// Done removes a message; one that is not there is no error.
	Done(id spool.ID) error
	// Added receives when messages may have come.
	Added() <-chan struct{}
}

// An AckMode says what proves that a message arrived.
type AckMode string

const (
	Puback  AckMode = "puback"  // the broker has it
	Receipt AckMode = "receipt" // the verifier has it
)

// Topics below <prefix>/<device>, and <prefix>/epoch for all devices.
const (
	TopicState   = "state"   // up, retained: one of the three states, a hint
	TopicLabel   = "label"   // up, retained
	TopicCommand = "command" // down
	TopicReceipt = "receipt" // down
	TopicEpoch   = "epoch"   // down
)

// What a device's state topic says. It is not signed: a hint.
const (
	StateOnline  = "online"
	StateOffline = "offline" // said goodbye
	StateLost    = "lost"    // last will
)

// Config says where messages go. Zero values take the defaults.
type Config struct {
	Broker     string        // tls://host:port; the port's default is 8883
	ClientID   string        // the device in topics and to the broker; no / + #
	TLS        *tls.Config   // roots and client certificate; at least TLS 1.3, whatever it says
	Prefix     string        // of all topics, as "hospital/miotfacts"
	Ack        AckMode       // default Puback
	KeepAlive  time.Duration // of the MQTT connection; whole seconds, default 30 s. A third of it is the longest that sent data may stay without an acknowledgement of TCP
	AckTimeout time.Duration // without an acknowledgement reconnect, without a receipt send again; default 60 s
	MinBackoff time.Duration // first wait before connecting again; default 0.5 s
	MaxBackoff time.Duration // longest; default 30 s
	// Changed receives when links, addresses or routes may have changed: a hint to
	// connect now, see pace. Optional. Buffered, so that none is missed.
	Changed <-chan struct{}
	Logger  *slog.Logger // default slog.Default()
}

const (
	window         = 16               // messages of one class on their way
	connectTimeout = 15 * time.Second // for name and TCP, and for TLS with a TPM's signature and CONNACK
	writeTimeout   = 10 * time.Second
	farewell       = 500 * time.Millisecond // for what is said at the end
	inboxSize      = 64
	maxOwed        = 1024      // PUBACKs
	maxPacket      = 256 << 10 // bytes of one packet from the broker; the largest is a manifest in a command
)

// Stats describe a client at one moment.
type Stats struct {
	Connected bool
	Since     time.Time // of the last change of Connected
	Failures  int       // to connect, since the last success
	Err       string    // why the last connection ended or failed; empty before
	InFlight  int       // sent on this connection, not done
	Sent      uint64    // messages, counting repetitions
	Done      uint64    // messages that left the queue
	Overrun   uint64    // commands and epochs dropped because onMessage was too slow
}

// A Client is one device's way to its broker.
type Client struct {
	cfg       Config
	server    *url.URL
	queue     Queue
	onMessage func(topic string, payload []byte)
	inbox     chan message
	pace      pace // Run's

	mu    sync.Mutex
	stats Stats
}

type message struct {
	topic   string
	payload []byte
}

// New checks the configuration. Nothing is connected before Run.
//
// onMessage is called with commands and epochs in the order of their arrival,
// one at a time, and with the last element of their topic. It may take its time:
// only 64 messages wait for it.
func New(cfg Config, queue Queue, onMessage func(topic string, payload []byte)) (*Client, error) {
	cfg.Ack = cmp.Or(cfg.Ack, Puback)
	cfg.KeepAlive = cmp.Or(cfg.KeepAlive, 30*time.Second)
	cfg.AckTimeout = cmp.Or(cfg.AckTimeout, 60*time.Second)
	cfg.MinBackoff = cmp.Or(cfg.MinBackoff, 500*time.Millisecond)
	cfg.MaxBackoff = cmp.Or(cfg.MaxBackoff, 30*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	server, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("cannot use MQTT configuration: %w", err)
	}
	cfg.TLS = cfg.TLS.Clone()
	cfg.TLS.MinVersion = max(cfg.TLS.MinVersion, tls.VersionTLS13)
	cfg.TLS.ServerName = cmp.Or(cfg.TLS.ServerName, server.Hostname())
	return &Client{
		cfg:       cfg,
		server:    server,
		queue:     queue,
		onMessage: onMessage,
		inbox:     make(chan message, inboxSize),
		pace:      pace{first: cfg.MinBackoff, longest: cfg.MaxBackoff, changed: cfg.Changed},
		stats:     Stats{Since: time.Now()},
	}, nil
}

func (cfg *Config) check() (*url.URL, error) {
	server, err := url.Parse(cfg.Broker)
	if err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	switch server.Scheme {
	case "tls", "ssl", "mqtts":
	default:
		return nil, fmt.Errorf("broker %q: want tls://host:port", cfg.Broker)
	}
	if server.Hostname() == "" || strings.Trim(server.Path, "/") != "" || server.User != nil {
		return nil, fmt.Errorf("broker %q: want tls://host:port", cfg.Broker)
	}
	if server.Port() == "" {
		server.Host += ":8883"
	}
	switch {
	case !isLevel(cfg.ClientID):
		return nil, fmt.Errorf("client ID %q: must not be empty, begin with $ or contain / + #", cfg.ClientID)
	case cfg.Ack != Puback && cfg.Ack != Receipt:
		return nil, fmt.Errorf("ack %q: want %q or %q", cfg.Ack, Puback, Receipt)
	case cfg.KeepAlive < time.Second || cfg.KeepAlive > 65535*time.Second || cfg.AckTimeout <= 0 || cfg.MinBackoff <= 0 || cfg.MaxBackoff < cfg.MinBackoff:
		return nil, errors.New("a time is negative, the keep-alive below 1 s or above 65535 s, or the longest back-off below the first")
	case cfg.TLS == nil || len(cfg.TLS.Certificates) == 0 && cfg.TLS.GetClientCertificate == nil:
		return nil, errors.New("TLS: there is no client certificate")
	case cfg.TLS.InsecureSkipVerify:
		return nil, errors.New("TLS: the broker's certificate would not be verified")
	case cfg.TLS.MaxVersion != 0 && cfg.TLS.MaxVersion < tls.VersionTLS13:
		return nil, errors.New("TLS: version 1.3 is needed")
	}
	for _, level := range strings.Split(cfg.Prefix, "/") {
		if !isLevel(level) {
			return nil, fmt.Errorf("prefix %q: a level must not be empty, begin with $ or contain + #", cfg.Prefix)
		}
	}
	return server, nil
}

// isLevel reports whether s can be one level of a topic that is published to
// (MQTT 3.1.1 section 4.7).
func isLevel(s string) bool {
	return s != "" && s[0] != '$' && len(s) <= 255 && utf8.ValidString(s) && !strings.ContainsAny(s, "/+#\x00")
}

// topic returns the full name of one of this device's topics.
func (cfg *Config) topic(last string) string {
	return cfg.Prefix + "/" + cfg.ClientID + "/" + last
}

func (cfg *Config) epochTopic() string { return cfg.Prefix + "/" + TopicEpoch }

// Run connects, and connects again, until ctx ends; it returns ctx's error. It
// is called once. When it returns, onMessage is not called any more.
func (c *Client) Run(ctx context.Context) error {
	var delivering sync.WaitGroup
	delivering.Go(func() { c.deliver(ctx) })
	defer delivering.Wait()
	log := c.cfg.Logger.With("broker", c.server.Host)
	said := ""
	for {
		up, err := c.session(ctx, log)
		if ctx.Err() != nil {
			c.disconnected("")
			return ctx.Err()
		}
		if up > c.cfg.MaxBackoff {
			c.pace.worked() // a broker that throws clients out at once is not hammered
		}
		wait := c.pace.next()
		level := slog.LevelWarn
		if said == err.Error() && up == 0 {
			level = slog.LevelDebug // once is enough for the same reason
		}
		said = err.Error()
		log.Log(ctx, level, "no connection to the broker", "err", err, "again in", wait.Round(time.Millisecond))
		c.disconnected(said)
		c.pace.during(ctx, func(ctx context.Context) { sleep(ctx, wait) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// deliver calls onMessage, so that a session never waits for it.
func (c *Client) deliver(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-c.inbox:
			c.onMessage(m.topic, m.payload)
		}
	}
}

// Stats returns the present state.
func (c *Client) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// note changes the stats.
func (c *Client) note(change func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.stats)
}

func (c *Client) connected() {
	c.note(func(s *Stats) { s.Connected, s.Since, s.Failures = true, time.Now(), 0 })
}

func (c *Client) disconnected(reason string) {
	c.note(func(s *Stats) {
		if s.Connected {
			s.Connected, s.Since = false, time.Now()
		} else {
			s.Failures++
		}
		s.InFlight = 0
		s.Err = cmp.Or(reason, s.Err)
	})
}
