// Package broker is the way between devices and the verifier: an MQTT 3.1.1
// broker inside the verifier's process (Embedded), or a connection to one that
// stands elsewhere (External).
//
// A message is acknowledged, by PUBACK and by a receipt, after the verifier has
// stored what became of it. The embedded broker knows a device by the key of its
// TLS client certificate, which it must have enrolled with; a stranger may ask
// to be enrolled and nothing else. It never passes anything from one device to
// another. An external broker has to keep devices apart itself; what it lets
// through by mistake fails on the signatures.
//
// The package does not look into messages. Commands for a device that is not
// connected wait in memory until they lapse; after a restart an operator gives
// them again.
package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/agent/mqtt"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/verifier"
)

// A Handler deals with messages of devices; *verifier.Verifier is one.
type Handler interface {
	Handle(now int64, m verifier.Delivery) (verifier.Reply, error)
}

// Config is what both kinds of broker need.
type Config struct {
	Prefix  string           // of all topics, "miotfacts"
	Handler Handler          //
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: slog.Default()
}

// Kinds of messages that a device sends: the last element of their topics.
var kinds = []string{"report", "alarm", "evidence", "enrol"}

func (c *Config) check() error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Handler == nil {
		return errors.New("no handler of messages")
	}
	for _, level := range strings.Split(c.Prefix, "/") {
		if level == "" || level[0] == '$' || strings.ContainsAny(level, "+#\x00") {
			return fmt.Errorf("prefix %q: a level must not be empty, begin with $ or contain + #", c.Prefix)
		}
	}
	return nil
}

func (c *Config) epochTopic() string { return c.Prefix + "/" + mqtt.TopicEpoch }

func (c *Config) topic(device, last string) string { return c.Prefix + "/" + device + "/" + last }

// split returns device and kind of a topic.
func (c *Config) split(topic string) (device, kind string, ok bool) {
	rest, ok := strings.CutPrefix(topic, c.Prefix+"/")
	if !ok {
		return "", "", false
	}
	device, kind, ok = strings.Cut(rest, "/")
	return device, kind, ok && !strings.Contains(kind, "/")
}

// A publication is a message for a device.
type publication struct {
	topic   string
	payload []byte
}

// deal hands a message to the verifier, and returns what to publish then.
func (c *Config) deal(m verifier.Delivery) ([]publication, error) {
	reply, err := c.Handler.Handle(c.Now().Unix(), m)
	if err != nil {
		return nil, err
	}
	if r := reply.Refused; r != nil && r.Reason != verifier.ReasonReplay {
		c.Log.Warn("refused a message", "device", r.Device, "topic", r.Topic, "reason", r.Reason, "text", r.Text)
	}
	// A receipt for a name that is none would go to somebody else's topic.
	id, err := attest.ParseUEID(m.Device)
	if err != nil || id.String() != m.Device {
		return nil, nil
	}
	var out []publication
	if reply.Down != nil {
		out = append(out, publication{c.topic(m.Device, mqtt.TopicCommand), reply.Down})
	}
	if reply.Receipt {
		receipt, err := mqtt.EncodeReceipt([][mqtt.DigestSize]byte{mqtt.Digest(m.Payload)})
		if err != nil {
			return nil, err
		}
		out = append(out, publication{c.topic(m.Device, mqtt.TopicReceipt), receipt})
	}
	return out, nil
}
