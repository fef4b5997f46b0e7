package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/miotfacts/miotfacts/agent/mqtt"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/verifier"
)

// ExternalConfig is what a connection to another broker needs beyond Config.
type ExternalConfig struct {
	URL      string      // tls://host:port
	TLS      *tls.Config // roots, and a client certificate where the broker wants one
	ClientID string      // each verifier has its own; the broker keeps messages for it
	Username string      // "" for none
	Password string      //
	Group    string      // of a shared subscription, "" for a plain one. Verifiers in one group share the messages
}

// Intervals of an external connection.
const (
	reconnectAt = 30 * time.Second // at the latest
	handleAgain = time.Second      // after the verifier could not store a message
)

// External is a client of another broker.
type External struct {
	cfg    Config
	ext    ExternalConfig
	client paho.Client
	inbox  chan paho.Message
}

// Connect checks the configuration. Nothing is connected before Run.
func Connect(cfg Config, ext ExternalConfig) (*External, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("cannot use broker: %w", err)
	}
	if ext.ClientID == "" || ext.TLS == nil || ext.TLS.InsecureSkipVerify {
		return nil, errors.New("cannot use broker: no client id, or its certificate would not be verified")
	}
	x := &External{cfg: cfg, ext: ext, inbox: make(chan paho.Message, maxInflight)}
	conf := ext.TLS.Clone()
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS13)
	x.client = paho.NewClient(paho.NewClientOptions().
		AddBroker(ext.URL).SetTLSConfig(conf).
		SetClientID(ext.ClientID).SetUsername(ext.Username).SetPassword(ext.Password).
		SetProtocolVersion(4).
		SetCleanSession(false). // the broker keeps what comes while this verifier is away
		SetStore(paho.NewMemoryStore()).
		SetAutoAckDisabled(true). // acknowledged when it is stored
		SetOrderMatters(true).
		SetConnectRetry(true).SetConnectRetryInterval(time.Second).
		SetAutoReconnect(true).SetMaxReconnectInterval(reconnectAt).
		SetKeepAlive(30 * time.Second).SetWriteTimeout(10 * time.Second).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { x.inbox <- m }).
		SetConnectionLostHandler(func(_ paho.Client, err error) { cfg.Log.Warn("connection to the broker lost", "err", err) }).
		SetOnConnectHandler(x.subscribe))
	return x, nil
}

// subscribe asks for the devices' messages on each new connection.
func (x *External) subscribe(c paho.Client) {
	filters := map[string]byte{}
	for _, kind := range kinds {
		filter := x.cfg.topic("+", kind)
		if x.ext.Group != "" {
			filter = "$share/" + x.ext.Group + "/" + filter
		}
		filters[filter] = 1
	}
	token := c.SubscribeMultiple(filters, nil).(*paho.SubscribeToken)
	go func() {
		token.Wait()
		err := token.Error()
		for filter, code := range token.Result() {
			if err == nil && code > 2 {
				err = fmt.Errorf("broker refuses the subscription %q", filter)
			}
		}
		if err != nil {
			x.cfg.Log.Error("cannot subscribe", "err", err)
			return
		}
		x.cfg.Log.Info("connected to the broker", "broker", x.ext.URL)
	}()
}

// Run connects, and connects again, until ctx ends.
func (x *External) Run(ctx context.Context) error {
	x.client.Connect() // goes on trying
	defer x.client.Disconnect(250)
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-x.inbox:
			if !x.handle(ctx, m) {
				return nil
			}
		}
	}
}

// handle deals with one message for as long as it takes. It returns false when
// ctx ended first; the broker then has the message still.
func (x *External) handle(ctx context.Context, m paho.Message) bool {
	device, kind, ok := x.cfg.split(m.Topic())
	if !ok {
		m.Ack()
		return true
	}
	for {
		out, err := x.cfg.deal(verifier.Delivery{Device: device, Kind: kind, Payload: m.Payload()})
		if err == nil {
			for _, p := range out {
				x.client.Publish(p.topic, 1, false, p.payload)
			}
			m.Ack()
			return true
		}
		x.cfg.Log.Error("cannot deal with a message", "device", device, "kind", kind, "err", err)
		again := time.NewTimer(handleAgain)
		select {
		case <-ctx.Done():
			again.Stop()
			return false
		case <-again.C:
		}
	}
}

// Send publishes a message on a device's command topic. Whether it waits for a
// device that is not connected is the broker's affair.
func (x *External) Send(id attest.UEID, payload []byte, _ time.Time) error {
	if err := x.publish(x.cfg.topic(id.String(), mqtt.TopicCommand), false, payload); err != nil {
		return fmt.Errorf("cannot send command to device %s: %w", id, err)
	}
	return nil
}

// Announce publishes a message to all devices. Whether those that connect later
// get it at once is the broker's affair.
func (x *External) Announce(payload []byte) error {
	if err := x.publish(x.cfg.epochTopic(), true, payload); err != nil {
		return fmt.Errorf("cannot announce: %w", err)
	}
	return nil
}

func (x *External) publish(topic string, retain bool, payload []byte) error {
	token := x.client.Publish(topic, 1, retain, payload)
	if !token.WaitTimeout(10 * time.Second) {
		return errors.New("the broker does not acknowledge")
	}
	return token.Error()
}

// Drop does nothing: the connection is another broker's. Its messages are
// refused all the same.
func (x *External) Drop(attest.UEID) {}
