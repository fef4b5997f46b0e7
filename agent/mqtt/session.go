package mqtt

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/miotfacts/miotfacts/agent/spool"
)

// classes of messages, the most urgent first.
var classes = [...]spool.Class{spool.Alarm, spool.Evidence, spool.Routine}

// subscriptions is how many topics a session subscribes to.
const subscriptions = 3

// A session is one connection. All its state is used by one goroutine, the
// pump; the library's goroutines reach it through channels only.
type session struct {
	*Client
	log      *slog.Logger
	conn     *conn
	paho     paho.Client
	lost     chan error       // the library gave the connection up
	over     chan struct{}    // closed at the end
	acks     chan ack         // PUBACKs
	receipts chan []byte      // payloads of the receipt topic
	after    [3]spool.ID      // by class: sent up to here
	onWay    [3]int           // by class: how many of sent
	sent     map[spool.ID]out // not done
	due      *time.Timer      // the oldest of sent may be overdue; stopped if there is none
}

// An out is a message on its way.
type out struct {
	class  spool.Class
	digest [DigestSize]byte
	at     time.Time // last sent
}

type ack struct {
	id  spool.ID
	err error
}

// session makes one connection and uses it until it is lost or ctx ends. It
// returns how long it was up and why it ended.
func (c *Client) session(ctx context.Context, log *slog.Logger) (up time.Duration, err error) {
	s := &session{
		Client:   c,
		log:      log,
		lost:     make(chan error, 1),
		over:     make(chan struct{}),
		acks:     make(chan ack, len(classes)*window),
		receipts: make(chan []byte, inboxSize),
		sent:     map[spool.ID]out{},
		due:      time.NewTimer(c.cfg.AckTimeout),
	}
	s.due.Stop()
	defer close(s.over)
	defer s.due.Stop()
	if err := s.connect(ctx); err != nil {
		return 0, fmt.Errorf("cannot connect to broker: %w", err)
	}
	// Whatever still waits for the broker when time is up ends with the connection.
	unhook := context.AfterFunc(ctx, func() { time.AfterFunc(farewell, func() { s.conn.Close() }) })
	defer unhook()
	defer s.conn.Close()

	c.connected()
	began := time.Now()
	log.Info("connected to the broker")
	err = s.pump(ctx)
	if ctx.Err() != nil {
		s.publish(TopicState, []byte(StateOffline)).WaitTimeout(farewell)
	}
	s.paho.Disconnect(uint(farewell / time.Millisecond))
	return time.Since(began), fmt.Errorf("connection to broker lost: %w", err)
}

func (s *session) connect(ctx context.Context) error {
	var cause error // why there was no connection to say CONNECT on
	unhook := func() bool { return true }
	open := func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		dialing, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		raw, err := (&tls.Dialer{Config: s.cfg.TLS}).DialContext(dialing, "tcp", s.server.Host)
		if err != nil {
			cause = err
			return nil, err
		}
		s.conn = newConn(raw)
		unhook = context.AfterFunc(ctx, func() { s.conn.Close() })
		return s.conn, nil
	}
	// One client for one connection: then a completed token means a PUBACK on
	// this connection, and the library neither stores nor repeats anything.
	s.paho = paho.NewClient(paho.NewClientOptions().
		AddBroker(s.server.String()).
		SetCustomOpenConnectionFn(open).
		SetClientID(s.cfg.ClientID).
		SetProtocolVersion(4). // MQTT 3.1.1, and no second attempt with 3.1
		SetCleanSession(true).
		SetStore(paho.NewMemoryStore()).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetConnectTimeout(connectTimeout).
		SetWriteTimeout(writeTimeout).
		SetKeepAlive(s.cfg.KeepAlive).
		SetOrderMatters(true). // receive never blocks
		SetDefaultPublishHandler(s.receive).
		SetConnectionLostHandler(func(_ paho.Client, err error) { s.lost <- err }).
		SetBinaryWill(s.cfg.topic(TopicState), []byte(StateLost), 1, true))
	token := s.paho.Connect()
	<-token.Done() // within connectTimeout
	unhook()
	err := token.Error()
	switch {
	case err == nil:
		return nil
	case cause != nil:
		return cause
	case s.conn.reason() != nil:
		// With TLS 1.3 a broker judges the client's certificate after the
		// client's side of the handshake: this is where its refusal shows.
		return fmt.Errorf("it ended the connection instead of accepting it, does it accept this client's certificate?: %w", s.conn.reason())
	}
	return err
}

// pump keeps messages going until the connection is lost or ctx ends.
func (s *session) pump(ctx context.Context) error {
	// The broker takes packets in order: whatever answers what is sent below
	// finds the subscriptions made.
	sub := s.paho.SubscribeMultiple(map[string]byte{
		s.cfg.topic(TopicCommand): 1,
		s.cfg.topic(TopicReceipt): 1,
		s.cfg.epochTopic():        1,
	}, nil).(*paho.SubscribeToken)
	subscribed := sub.Done()
	s.publish(TopicState, []byte(StateOnline))
	for {
		for s.sendNext() {
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.conn.lost:
			return s.conn.err
		case err := <-s.lost:
			return err
		case <-s.queue.Added():
		case a := <-s.acks:
			if a.err != nil {
				return cmp.Or(s.conn.reason(), a.err)
			}
			s.done(a.id)
		case data := <-s.receipts:
			s.receipt(data)
		case <-s.due.C:
			if err := s.overdue(); err != nil {
				return err
			}
		case <-subscribed:
			subscribed = nil
			s.checkSubscriptions(sub)
		}
	}
}

// sendNext sends the most urgent message that is not on its way yet. Classes
// have windows of their own, so that routine messages nobody acknowledges do
// not hold an alarm.
func (s *session) sendNext() bool {
	for _, class := range classes {
		if s.onWay[class] == window {
			continue
		}
		m, ok := s.queue.Next(class, s.after[class])
		if !ok {
			continue
		}
		s.after[class] = m.ID
		if !isLevel(m.Topic) {
			// A broker would end each connection on which it sees this.
			s.log.Error("cannot publish message: not a topic", "id", m.ID, "topic", m.Topic)
			s.remove(m.ID)
			return true
		}
		s.onWay[class]++
		s.send(m)
		return true
	}
	return false
}

func (s *session) send(m spool.Message) {
	o := out{class: m.Class, at: time.Now()}
	if s.cfg.Ack == Receipt {
		o.digest = Digest(m.Payload)
	}
	s.sent[m.ID] = o
	if len(s.sent) == 1 {
		s.due.Reset(s.cfg.AckTimeout)
	}
	token := s.publish(m.Topic, m.Payload)
	s.note(func(st *Stats) { st.Sent++; st.InFlight = len(s.sent) })
	if s.cfg.Ack == Receipt {
		return
	}
	go func() {
		select {
		case <-token.Done():
			s.acks <- ack{m.ID, token.Error()} // has room for all that is on its way
		case <-s.over:
		}
	}()
}

func (s *session) publish(last string, payload []byte) paho.Token {
	retained := last == TopicState || last == TopicLabel
	return s.paho.Publish(s.cfg.topic(last), 1, retained, payload)
}

// forget takes a message out of what is on its way.
func (s *session) forget(id spool.ID) bool {
	o, ok := s.sent[id]
	if ok {
		delete(s.sent, id)
		s.onWay[o.class]--
		s.note(func(st *Stats) { st.InFlight = len(s.sent) })
	}
	return ok
}

func (s *session) done(id spool.ID) {
	if s.forget(id) {
		s.remove(id)
	}
}

func (s *session) remove(id spool.ID) {
	if err := s.queue.Done(id); err != nil {
		s.log.Error("cannot remove a delivered message", "err", err)
	}
	s.note(func(st *Stats) { st.Done++ })
}

// receipt removes the messages that a receipt names. What it names and this
// connection did not send will be sent, and get a receipt again.
func (s *session) receipt(data []byte) {
	digests, err := DecodeReceipt(data)
	if err != nil {
		s.log.Warn("receipt ignored", "err", err)
		return
	}
	if s.cfg.Ack != Receipt {
		return
	}
	named := make(map[[DigestSize]byte]bool, len(digests))
	for _, d := range digests {
		named[d] = true
	}
	for id, o := range s.sent {
		if named[o.digest] {
			s.done(id)
		}
	}
}

// overdue deals with messages that nothing was heard of for AckTimeout. The
// broker owes a PUBACK: without it the connection is no good. A receipt comes
// from further away: the message is sent again.
func (s *session) overdue() error {
	now, oldest := time.Now(), time.Time{}
	var late []spool.ID
	for id, o := range s.sent {
		if now.Sub(o.at) >= s.cfg.AckTimeout {
			late = append(late, id)
		} else if oldest.IsZero() || o.at.Before(oldest) {
			oldest = o.at
		}
	}
	if len(late) > 0 && s.cfg.Ack == Puback {
		return fmt.Errorf("broker did not acknowledge %d messages within %v", len(late), s.cfg.AckTimeout)
	}
	if len(late) > 0 {
		s.log.Warn("no receipt, sending again", "messages", len(late), "after", s.cfg.AckTimeout)
	}
	slices.SortFunc(late, func(a, b spool.ID) int {
		return cmp.Or(cmp.Compare(s.sent[a].class, s.sent[b].class), cmp.Compare(a, b))
	})
	for _, id := range late {
		m, ok := s.queue.Next(s.sent[id].class, id-1)
		if !ok || m.ID != id { // dropped meanwhile: the queue was full
			s.forget(id)
			continue
		}
		s.send(m)
	}
	if len(s.sent) > 0 {
		if oldest.IsZero() {
			oldest = now
		}
		s.due.Reset(time.Until(oldest.Add(s.cfg.AckTimeout)))
	}
	return nil
}

// checkSubscriptions says what the broker did not grant. Messages go up all the
// same.
func (s *session) checkSubscriptions(token *paho.SubscribeToken) {
	if token.Error() != nil {
		return // the connection is lost, which is told elsewhere
	}
	granted := token.Result()
	for _, topic := range []string{s.cfg.topic(TopicCommand), s.cfg.topic(TopicReceipt), s.cfg.epochTopic()} {
		if code, ok := granted[topic]; !ok || code > 2 { // MQTT 3.1.1 section 3.9.3
			s.log.Error("broker refuses a subscription", "topic", topic)
		}
	}
}

// receive takes what the broker sends. It runs in the library's reader, which
// must not wait.
func (s *session) receive(_ paho.Client, m paho.Message) {
	last := ""
	switch m.Topic() {
	case s.cfg.topic(TopicReceipt):
		select {
		case s.receipts <- m.Payload():
		default: // the messages will be sent again, and get a receipt again
		}
		return
	case s.cfg.topic(TopicCommand):
		last = TopicCommand
	case s.cfg.epochTopic():
		last = TopicEpoch
	default:
		return // not subscribed to
	}
	select {
	case s.inbox <- message{last, m.Payload()}:
	default:
		s.note(func(st *Stats) { st.Overrun++ })
		s.log.Error("message dropped, too many wait", "topic", last, "limit", inboxSize)
	}
}
