package mqtt

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent/spool"
)

// classes of messages, the most urgent first.
var classes = [...]spool.Class{spool.Alarm, spool.Evidence, spool.Routine}

// subscriptions is how many topics a session subscribes to.
const subscriptions = 3

// A session is one connection. All its state is used by one goroutine, the
// pump; another one reads and passes on what the broker sent.
type session struct {
	*Client
	log    *slog.Logger
	conn   *conn
	in     chan packets.ControlPacket // from the broker; closed when the connection is lost
	lost   error                      // why; to be read after in is closed
	over   chan struct{}              // closed at the end
	after  [3]spool.ID                // by class: sent up to here
	onWay  [3]int                     // by class: how many of sent
	sent   map[spool.ID]out           // not done
	owed   map[uint16]spool.ID        // PUBACKs to come; no ID: not from the queue
	packet uint16                     // the last packet ID
	due    *time.Timer                // the oldest of sent may be overdue; stopped if there is none
}

// An out is a message on its way.
type out struct {
	class  spool.Class
	digest [DigestSize]byte
	at     time.Time // last sent
}

// session makes one connection and uses it until it is lost or ctx ends. It
// returns how long it was up and why it ended.
func (c *Client) session(ctx context.Context, log *slog.Logger) (up time.Duration, err error) {
	nc, err := c.connect(ctx)
	if err != nil {
		return 0, fmt.Errorf("cannot connect to broker: %w", err)
	}
	s := newSession(c, log, nc)
	defer s.due.Stop()
	var reading sync.WaitGroup
	reading.Go(s.read)
	defer reading.Wait()
	defer s.conn.Close()
	defer close(s.over)
	// Whatever still waits for the broker when time is up ends with the connection.
	unhook := context.AfterFunc(ctx, func() { time.AfterFunc(farewell, func() { s.conn.Close() }) })
	defer unhook()

	c.connected()
	began := time.Now()
	log.Info("connected to the broker")
	err = s.pump(ctx)
	if ctx.Err() != nil {
		s.goodbye()
	}
	return time.Since(began), fmt.Errorf("connection to broker lost: %w", err)
}

func newSession(c *Client, log *slog.Logger, nc *conn) *session {
	s := &session{
		Client: c,
		log:    log,
		conn:   nc,
		in:     make(chan packets.ControlPacket, window),
		over:   make(chan struct{}),
		sent:   map[spool.ID]out{},
		owed:   map[uint16]spool.ID{},
		due:    time.NewTimer(c.cfg.AckTimeout),
	}
	s.due.Stop()
	return s
}

// connect opens a connection that the broker accepted.
func (c *Client) connect(ctx context.Context) (*conn, error) {
	raw, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	unhook := context.AfterFunc(ctx, func() { raw.Close() })
	defer unhook()
	raw.SetDeadline(time.Now().Add(connectTimeout))
	secure := tls.Client(raw, c.cfg.TLS)
	nc := newConn(secure)
	if err = secure.Handshake(); err == nil {
		err = c.handshake(nc)
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	raw.SetDeadline(time.Time{})
	return nc, nil
}

// dial opens a connection by TCP. One that was begun before the network changed
// would go on only when TCP sends again, up to 8 s later: another takes its place.
func (c *Client) dial(ctx context.Context) (raw net.Conn, err error) {
	// What is sent and not acknowledged by the other end's TCP ends the connection
	// sooner than a ping that nobody answers: an alarm may be in it (tcp(7), RFC 5482).
	patience := int(c.cfg.KeepAlive / 3 / time.Millisecond)
	dialer := net.Dialer{Timeout: connectTimeout, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if no := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, patience)
		}); no != nil {
			return no
		}
		return err
	}}
	for c.pace.during(ctx, func(ctx context.Context) { raw, err = dialer.DialContext(ctx, "tcp", c.server.Host) }) && raw == nil {
	}
	if raw != nil {
		c.pace.due = time.Time{} // it has what it was to hurry for
	}
	return raw, err
}

func (c *Client) handshake(nc *conn) error {
	hello := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	hello.ProtocolName, hello.ProtocolVersion = "MQTT", 4 // MQTT 3.1.1
	hello.CleanSession = true
	hello.ClientIdentifier = c.cfg.ClientID
	hello.Keepalive = uint16(c.cfg.KeepAlive / time.Second)
	hello.WillFlag, hello.WillRetain, hello.WillQos = true, true, 1
	hello.WillTopic, hello.WillMessage = c.cfg.topic(TopicState), []byte(StateLost)
	err := nc.write(hello)
	var answer packets.ControlPacket
	if err == nil {
		answer, err = nc.read()
	}
	if err != nil {
		// With TLS 1.3 a broker judges the client's certificate after the
		// client's side of the handshake: this is where its refusal shows.
		return fmt.Errorf("it ended the connection instead of accepting it, does it accept this client's certificate?: %w", err)
	}
	ack, ok := answer.(*packets.ConnackPacket)
	if !ok {
		return fmt.Errorf("it answered CONNECT with %T", answer)
	}
	if ack.ReturnCode != packets.Accepted { // MQTT 3.1.1 section 3.2.2.3
		return fmt.Errorf("it refuses: %w", cmp.Or(packets.ConnErrors[ack.ReturnCode], packets.ErrorProtocolViolation))
	}
	return nil
}

// read passes on what the broker sends. A broker that has nothing to say still
// answers pings.
func (s *session) read() {
	defer close(s.in)
	for {
		s.conn.SetReadDeadline(time.Now().Add(s.cfg.KeepAlive * 3 / 2))
		p, err := s.conn.read()
		if err != nil {
			s.lost = err
			return
		}
		select {
		case s.in <- p:
		case <-s.over:
			return
		}
	}
}

// pump keeps messages going until the connection is lost or ctx ends.
func (s *session) pump(ctx context.Context) error {
	// The broker takes packets in order: whatever answers what is sent below
	// finds the subscriptions made.
	if err := s.subscribe(); err != nil {
		return err
	}
	if err := s.publish(TopicState, []byte(StateOnline), 0); err != nil {
		return err
	}
	ping := time.NewTicker(s.cfg.KeepAlive)
	defer ping.Stop()
	for {
		for more := true; more; {
			var err error
			if more, err = s.sendNext(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p, ok := <-s.in:
			if !ok {
				return s.lost
			}
			if err := s.take(p); err != nil {
				return err
			}
		case <-s.queue.Added():
		case <-s.due.C:
			if err := s.overdue(); err != nil {
				return err
			}
		case <-ping.C:
			if err := s.conn.write(packets.NewControlPacket(packets.Pingreq)); err != nil {
				return err
			}
		}
	}
}

// take deals with a packet of the broker.
func (s *session) take(p packets.ControlPacket) error {
	switch p := p.(type) {
	case *packets.PubackPacket:
		id, ok := s.owed[p.MessageID]
		delete(s.owed, p.MessageID)
		if ok && id != 0 && s.cfg.Ack == Puback {
			s.done(id)
		}
	case *packets.PublishPacket:
		s.receive(p)
		if p.Qos == 1 {
			ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
			ack.MessageID = p.MessageID
			return s.conn.write(ack)
		}
	case *packets.SubackPacket:
		for i, topic := range s.topics() {
			if p.ReturnCodes[i] > 2 { // MQTT 3.1.1 section 3.9.3
				// Messages go up all the same.
				s.log.Error("broker refuses a subscription", "topic", topic)
			}
		}
	}
	return nil
}

// goodbye says that the device leaves on purpose, as far as the time for it
// suffices.
func (s *session) goodbye() {
	if s.publish(TopicState, []byte(StateOffline), 0) != nil {
		return
	}
	last := s.packet
	for p := range s.in { // ends with the connection
		if ack, ok := p.(*packets.PubackPacket); ok && ack.MessageID == last {
			s.conn.write(packets.NewControlPacket(packets.Disconnect))
			return
		}
	}
}

func (s *session) topics() [subscriptions]string {
	return [...]string{s.cfg.topic(TopicCommand), s.cfg.topic(TopicReceipt), s.cfg.epochTopic()}
}

func (s *session) subscribe() error {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID = s.next()
	for _, topic := range s.topics() {
		qos := byte(1)
		if topic == s.cfg.topic(TopicReceipt) {
			qos = 0 // one that is lost is made up for by sending again
		}
		p.Topics, p.Qoss = append(p.Topics, topic), append(p.Qoss, qos)
	}
	return s.conn.write(p)
}

// next returns a packet ID that no PUBACK is owed for (MQTT 3.1.1 section 2.3.1).
func (s *session) next() uint16 {
	for {
		s.packet++
		if _, taken := s.owed[s.packet]; s.packet != 0 && !taken {
			return s.packet
		}
	}
}

// sendNext sends the most urgent message that is not on its way yet. Classes
// have windows of their own, so that routine messages nobody acknowledges do
// not hold an alarm.
func (s *session) sendNext() (bool, error) {
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
			return true, nil
		}
		s.onWay[class]++
		return true, s.send(m)
	}
	return false, nil
}

func (s *session) send(m spool.Message) error {
	o := out{class: m.Class, at: time.Now()}
	if s.cfg.Ack == Receipt {
		o.digest = Digest(m.Payload)
	}
	s.sent[m.ID] = o
	if len(s.sent) == 1 {
		s.due.Reset(s.cfg.AckTimeout)
	}
	s.note(func(st *Stats) { st.Sent++; st.InFlight = len(s.sent) })
	return s.publish(m.Topic, m.Payload, m.ID)
}

// publish sends a message; id is its number in the queue, 0 if it is not from there.
func (s *session) publish(last string, payload []byte, id spool.ID) error {
	if len(s.owed) == maxOwed {
		return fmt.Errorf("broker owes %d acknowledgements", maxOwed)
	}
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.Qos = s.cfg.topic(last), payload, 1
	p.Retain = last == TopicState || last == TopicLabel
	p.MessageID = s.next()
	s.owed[p.MessageID] = id
	return s.conn.write(p)
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
		if err := s.send(m); err != nil {
			return err
		}
	}
	if len(s.sent) > 0 {
		if oldest.IsZero() {
			oldest = now
		}
		s.due.Reset(time.Until(oldest.Add(s.cfg.AckTimeout)))
	}
	return nil
}

// receive takes what was published. It never waits for those who use it.
func (s *session) receive(p *packets.PublishPacket) {
	last := ""
	switch p.TopicName {
	case s.cfg.topic(TopicReceipt):
		s.receipt(p.Payload)
		return
	case s.cfg.topic(TopicCommand):
		last = TopicCommand
	case s.cfg.epochTopic():
		last = TopicEpoch
	default:
		return // not subscribed to
	}
	select {
	case s.inbox <- message{last, p.Payload}:
	default:
		s.note(func(st *Stats) { st.Overrun++ })
		s.log.Error("message dropped, too many wait", "topic", last, "limit", inboxSize)
	}
}
