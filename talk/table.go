// Package talk finds out whom a device talks to from the packets that pass: the
// name, address and port of the other side, when, how often and how much, and
// what a TLS handshake shows of itself: the version, the cipher, the name asked
// for, the issuer of the certificate.
//
// It watches and never takes part: no connection is opened, changed or decrypted,
// and no payload is kept. So it sees no content, no issuer in TLS 1.3 (the
// certificate is encrypted there), no name in a hello that is encrypted, and no
// name of an address that was asked for over encrypted DNS.
//
// Nothing is trusted: each byte comes from the network. Names are what somebody
// said. All that is kept is bounded, and what had to be left out is counted.
//
// DNS: RFC 1035; TLS: RFC 5246 and RFC 8446; QUIC: RFC 9000 and RFC 9001.
package talk

import (
	"container/list"
	"math"
	"net/netip"
	"strings"
	"time"
	"unicode"
)

// Options of a Table. Each limit bounds memory.
type Options struct {
	Flows int           // connections watched at a time; at least 1
	Peers int           // rows kept; 1 to MaxPeers
	Names int           // addresses whose names are remembered; at least 1
	Begin int           // bytes of beginnings held at a time, of all connections
	Keep  time.Duration // a row that was not seen so long is forgotten; 0: never
	// Sparse says that a filter in the kernel hands in of TCP only the answers of
	// DNS, the beginnings of handshakes and the ends of connections, and of QUIC
	// only long headers.
	Sparse bool
}

// Workbench returns options for a file with a capture.
func Workbench() Options {
	return Options{Flows: 1 << 16, Peers: MaxPeers, Names: 1 << 16, Begin: 64 << 20}
}

const (
	portDNS  = 53
	portQUIC = 443 // where a filter takes short headers for those of QUIC
)

// How long a connection without packets is watched, in nanoseconds.
const (
	idleUDP    = int64(2 * time.Minute)
	idleClosed = int64(10 * time.Second) // for what comes late
	idleLost   = int64(2 * time.Minute)
	sweepEvery = int64(5 * time.Second)
)

// A Conn names a connection.
type Conn struct {
	Protocol      uint8
	Local, Remote netip.AddrPort
}

// A flow is a connection that is watched.
type flow struct {
	Conn
	inbound  bool
	sure     bool // inbound was seen, not guessed
	started  bool // its first packet was seen
	answered bool
	closed   bool
	ends     [2]bool // FIN of each direction
	first    int64
	last     int64
	sent     stream
	received stream
	out, in  uint64 // bytes of UDP
	told     bool   // the kernel told the bytes
	dropped  uint64 // packets lost before it began
	security Security
	name     string
	from     Source
	version  uint16
	cipher   uint16
	issuer   string
	process  string
	unit     string
	place    *list.Element
}

type name struct {
	addr netip.Addr
	text string
}

// A Table watches connections and keeps a row for each peer. It is not safe for
// use by several goroutines.
type Table struct {
	options Options
	flows   map[Conn]*flow // under the lower of both ends first, see place
	recent  *list.List     // of flows, the last seen at the back
	names   map[netip.Addr]*list.Element
	asked   *list.List // of names, the last seen at the back
	peers   map[key]*Peer
	held    int // bytes of beginnings
	loss    Loss
	from    int64 // Unix nanoseconds of the first and last packet
	until   int64
	swept   int64
	scratch []byte
}

// NewTable returns an empty table.
func NewTable(o Options) *Table {
	return &Table{options: o, flows: map[Conn]*flow{}, recent: list.New(), names: map[netip.Addr]*list.Element{}, asked: list.New(), peers: map[key]*Peer{}}
}

// Restore takes up the rows of a record of before.
func (t *Table) Restore(r *Record) {
	for i := range r.Peers {
		p := r.Peers[i]
		t.keep(&p)
	}
	t.loss.add(r.Loss)
	t.from, t.until = r.From*int64(time.Second), r.Until*int64(time.Second)
}

// Dropped counts packets that the kernel could not hand over.
func (t *Table) Dropped(n uint64) { t.loss.Dropped += n }

// place returns the key of a connection and whether a is the lower of its ends.
func place(proto uint8, a, b netip.AddrPort) (Conn, bool) {
	if a.Compare(b) <= 0 {
		return Conn{proto, a, b}, true
	}
	return Conn{proto, b, a}, false
}

// Add takes a packet. It returns the connection that began with it, if one did.
func (t *Table) Add(p Packet) (began Conn, ok bool) {
	t.loss.Packets++
	t.see(p.At)
	s, r := parse(p.Data, p.Length)
	switch r {
	case broken:
		t.loss.Broken++
		return began, false
	case fragment:
		t.loss.Fragments++
		return began, false
	case other:
		t.loss.Other++
		return began, false
	}
	k, _ := place(s.proto, s.src, s.dst)
	f := t.flows[k]
	opens := s.proto == TCP && s.flags&(flagSYN|flagACK) == flagSYN
	if f != nil && opens && f.over(s) {
		t.end(f) // the port is used again
		f = nil
	}
	// Anybody can send an answer; a name has to be asked for.
	if s.proto == UDP && s.src.Port() == portDNS && f != nil && s.dst == f.Local && f.out > 0 {
		t.answer(s.payload)
	}
	if f == nil {
		if s.proto == TCP && s.flags&flagRST != 0 {
			return began, false // nothing begins with that
		}
		f = t.begin(s, p)
		ok = true
	}
	f.last = max(f.last, p.At)
	t.recent.MoveToBack(f.place)
	if s.proto == UDP {
		t.datagram(f, s)
	} else {
		t.segment(f, s)
	}
	return f.Conn, ok
}

// over reports whether a segment that opens a connection opens another one than f:
// the end of f was not seen, or f was only told of. Sent again it is the same.
func (f *flow) over(s segment) bool {
	d := &f.sent
	if s.src != f.Local {
		d = &f.received
	}
	return f.closed || !f.started || d.known && d.base != s.seq+1
}

// see moves the time forward and now and then ends what is over.
func (t *Table) see(at int64) {
	if t.from == 0 || at < t.from {
		t.from = at
	}
	t.until = max(t.until, at)
	if at-t.swept >= sweepEvery {
		t.swept = at
		for e := t.recent.Front(); e != nil; {
			f := e.Value.(*flow)
			e = e.Next()
			if idle := at - f.last; f.closed && idle > idleClosed || f.Protocol == UDP && idle > idleUDP {
				t.end(f)
			}
		}
	}
}

// begin makes the flow of a packet that belongs to none.
func (t *Table) begin(s segment, p Packet) *flow {
	opens := s.proto == TCP && s.flags&(flagSYN|flagACK) == flagSYN
	accepts := s.proto == TCP && s.flags&(flagSYN|flagACK) == flagSYN|flagACK
	local := t.isLocal(s.src, s.dst, p.Way, opens, accepts)
	c := Conn{s.proto, s.src, s.dst}
	if !local {
		c.Local, c.Remote = s.dst, s.src
	}
	f := t.watch(c, p.At)
	f.started = opens || accepts || s.proto == UDP
	switch {
	case opens:
		f.inbound, f.sure = !local, true
	case accepts:
		f.inbound, f.sure = local, true
	default:
		f.inbound = c.Local.Port() < c.Remote.Port()
	}
	return f
}

// watch makes a flow and, where all places are taken, ends the one that was
// silent for longest.
func (t *Table) watch(c Conn, at int64) *flow {
	if len(t.flows) >= t.options.Flows {
		oldest := t.recent.Front().Value.(*flow)
		if !oldest.closed {
			t.loss.Flows++
		}
		t.end(oldest)
	}
	f := &flow{Conn: c, first: at, last: at, dropped: t.loss.Dropped}
	if e := t.names[c.Remote.Addr()]; e != nil {
		f.name, f.from = e.Value.(name).text, FromDNS
	}
	f.place = t.recent.PushBack(f)
	k, _ := place(c.Protocol, c.Local, c.Remote)
	t.flows[k] = f
	return f
}

// isLocal reports whether src is the device's end. What a packet's Way does not
// say is guessed: private addresses before public ones, who begins before who is
// called.
func (t *Table) isLocal(src, dst netip.AddrPort, way Way, opens, accepts bool) bool {
	if way != WayUnknown {
		return way == Sent
	}
	if a, b := Private(src.Addr()), Private(dst.Addr()); a != b {
		return a
	}
	switch {
	case opens:
		return true
	case accepts:
		return false
	}
	return src.Port() > dst.Port()
}

// Private reports whether an address is of no use beyond its own network.
func Private(a netip.Addr) bool {
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (t *Table) datagram(f *flow, s segment) {
	if s.src == f.Local {
		f.out += uint64(s.size)
	} else {
		f.in += uint64(s.size)
		f.answered = f.answered || !f.inbound
	}
	if s.src == f.Local && f.inbound {
		f.answered = true
	}
	if f.security == SecurityUnknown || f.security == SecurityQUIC && f.from != FromSNI {
		t.quic(f, s)
	}
}

func (t *Table) segment(f *flow, s segment) {
	d, back := &f.sent, &f.received
	end := 0
	if s.src != f.Local {
		d, back = back, d
		end = 1
	}
	if s.flags&flagSYN != 0 {
		if !d.known {
			d.known, d.base = true, s.seq+1
		}
		if s.flags&flagACK != 0 {
			f.answered = true
		}
		return
	}
	if s.flags&flagRST != 0 {
		f.closed = true
		t.read(f, d, true)
		t.read(f, back, true)
		return
	}
	if s.size > 0 && !d.known {
		d.known, d.base = true, s.seq
	}
	if d.known {
		d.count(s.seq, s.size)
	}
	if s.size > 0 {
		f.answered = true
		if len(s.payload) > 0 && !d.done {
			t.collect(f, d, s)
		}
	}
	if s.flags&flagFIN != 0 {
		f.ends[end] = true
		f.closed = f.ends[0] && f.ends[1]
		t.read(f, d, true)
	}
}

// collect takes a payload into the beginning of its direction and reads it.
func (t *Table) collect(f *flow, d *stream, s segment) {
	if !f.started && len(d.data) == 0 && !looksLikeTLS(s.payload) {
		d.done = true // the middle of a connection tells nothing of its beginning
		return
	}
	held, grown := d.add(s.seq, s.payload, t.options.Begin-t.held)
	t.held += held
	if held == 0 && !grown {
		if t.held+len(s.payload) > t.options.Begin {
			t.loss.Hellos++
			t.held -= d.drop()
		}
		return
	}
	if grown {
		t.read(f, d, false)
	}
}

func looksLikeTLS(b []byte) bool { return len(b) > 2 && b[0] == recordHandshake && b[1] == 3 }

// read makes out what a direction began with. Once that is clear, or with last,
// the beginning is forgotten.
func (t *Table) read(f *flow, d *stream, last bool) {
	if d.done || len(d.data) == 0 && !last {
		return
	}
	if len(d.data) == 0 {
		t.held -= d.drop()
		return
	}
	all, p := messages(t.scratch[:0], d.data)
	t.scratch = all[:0]
	if p == needMore {
		p = t.hello(f, d, all)
	} else if p == finished {
		t.hello(f, d, all)
	}
	switch p {
	case foreign:
		if f.started && f.security == SecurityUnknown {
			f.security = SecurityNone
			t.dns(f, d)
		}
	case alerted:
		if f.version == 0 {
			f.security = SecurityRefused
		}
	case needMore:
		if !last && len(d.data) < maxBegin {
			return
		}
		t.loss.Hellos++
	}
	t.held -= d.drop()
}

// dns reads an answer of DNS over TCP: its length stands before it.
func (t *Table) dns(f *flow, d *stream) {
	if f.Remote.Port() == portDNS && d == &f.received && len(d.data) > 2 {
		t.answer(d.data[2:])
	}
}

// hello reads the handshake messages of one direction.
func (t *Table) hello(f *flow, d *stream, all []byte) progress {
	for len(all) > 0 {
		kind, body, rest, whole := message(all)
		if body == nil {
			return needMore
		}
		switch kind {
		case messageClientHello:
			f.client(d == &f.received)
			if text, ok := clientHello(body, whole); ok {
				f.asked(text)
				return finished
			}
			if whole {
				return finished
			}
			return needMore
		case messageServerHello:
			version, cipher, ok := serverHello(body)
			if !whole || !ok {
				if whole {
					return foreign
				}
				return needMore
			}
			f.client(d == &f.sent)
			f.version, f.cipher, f.answered = version, cipher, true
			if version >= VersionTLS13 {
				return finished // the certificate is encrypted
			}
		case messageCertificate:
			if text, ok := issuer(body); ok {
				f.issuer = text
				return finished
			}
			if whole {
				return finished
			}
			return needMore
		case messageServerDone:
			return finished
		default:
			if !whole {
				return needMore
			}
			if f.version == 0 {
				return foreign // no handshake begins with it
			}
		}
		all = rest
	}
	return needMore
}

// client notes who sent the client's hello: the device, or with inbound the
// other side.
func (f *flow) client(inbound bool) {
	if !f.sure {
		f.inbound, f.sure = inbound, true
	}
	if f.security != SecurityQUIC {
		f.security = SecurityTLS
	}
}

// asked notes the name in a hello. Towards the device it is the device's name,
// not the other side's.
func (f *flow) asked(text string) {
	if text != "" && !f.inbound {
		f.name, f.from = text, FromSNI
	}
}

// answer remembers the addresses in an answer of DNS.
func (t *Table) answer(message []byte) {
	a, ok := parseDNS(message)
	if !ok || a.name == "" { // the root has no name
		return
	}
	for _, addr := range a.addrs {
		if e := t.names[addr]; e != nil {
			e.Value = name{addr, a.name}
			t.asked.MoveToBack(e)
			continue
		}
		if len(t.names) >= t.options.Names {
			oldest := t.asked.Front()
			delete(t.names, oldest.Value.(name).addr)
			t.asked.Remove(oldest)
			t.loss.Names++
		}
		t.names[addr] = t.asked.PushBack(name{addr, a.name})
	}
}

// A Socket is what the kernel says of a connection.
type Socket struct {
	Conn
	Inbound bool // the socket was accepted; only of a connection that was not seen to begin
	Process string
	Unit    string
	Counted bool   // Out and In are set
	Out, In uint64 // bytes since the connection began
}

// Tell takes what the kernel says of a connection at a time in Unix nanoseconds,
// and so learns of connections that began before anybody listened.
func (t *Table) Tell(at int64, s Socket) {
	t.see(at)
	k, _ := place(s.Protocol, s.Local, s.Remote)
	f := t.flows[k]
	if f == nil {
		f = t.watch(s.Conn, at)
		f.inbound, f.answered = s.Inbound, s.Protocol == TCP
	}
	f.last = max(f.last, at)
	t.recent.MoveToBack(f.place)
	if s.Process != "" {
		f.process = clip(s.Process)
	}
	if s.Unit != "" {
		f.unit = clip(s.Unit)
	}
	if s.Counted {
		f.told = true
		f.sent.high, f.received.high = max(f.sent.high, s.Out), max(f.received.high, s.In)
	}
}

// Lost ends the TCP connections that were silent for a while and that the kernel
// no longer has: the end of one that breaks off is no packet. at is in Unix
// nanoseconds.
func (t *Table) Lost(at int64, has func(Conn) bool) {
	t.see(at)
	for e := t.recent.Front(); e != nil; {
		f := e.Value.(*flow)
		e = e.Next()
		if at-f.last < idleLost {
			return // those behind it were seen later
		}
		if f.Protocol == TCP && !has(f.Conn) {
			t.end(f)
		}
	}
}

// Watches reports whether a connection is watched.
func (t *Table) Watches(c Conn) bool {
	k, _ := place(c.Protocol, c.Local, c.Remote)
	return t.flows[k] != nil
}

func clip(s string) string {
	s = printable(s)
	if len(s) > MaxText {
		s = strings.ToValidUTF8(s[:MaxText], "")
	}
	return s
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
}

// end puts a connection into its row and forgets it.
func (t *Table) end(f *flow) {
	k, _ := place(f.Protocol, f.Local, f.Remote)
	delete(t.flows, k)
	t.recent.Remove(f.place)
	t.held -= f.sent.drop() + f.received.drop()
	if p, ok := t.row(f); ok {
		t.keep(p)
	} else {
		t.loss.Knocks++
	}
}

// row returns the row of one connection. Who knocks from outside and gets no
// answer has none: a scan of ports would fill the table.
func (t *Table) row(f *flow) (*Peer, bool) {
	if f.inbound && !f.answered {
		return nil, false
	}
	p := &Peer{
		Protocol: f.Protocol, Address: f.Remote.Addr().WithZone("").AsSlice(), Port: f.Remote.Port(), Inbound: f.inbound,
		Name: f.name, NameFrom: f.from, First: seconds(f.first), Last: seconds(f.last), Attempts: 1, Answered: uint64(number(f.answered)),
		Security: f.security, TLS: f.version, Cipher: f.cipher, Issuer: f.issuer, Process: f.process, Unit: f.unit,
	}
	if f.inbound {
		p.Port = f.Local.Port()
	}
	out, in := f.out, f.in
	if f.Protocol == TCP {
		out, in = f.sent.high, f.received.high
	}
	// Between what a filter lets through there are bytes that nobody counted,
	// unless both ends of the connection were seen, or the kernel was asked.
	p.Counted = !t.options.Sparse || f.told
	switch f.Protocol {
	case TCP:
		p.Counted = p.Counted || f.started && f.ends[0] && f.ends[1]
	case UDP:
		p.Counted = p.Counted || f.security != SecurityQUIC && f.Local.Port() != portQUIC && f.Remote.Port() != portQUIC
	}
	if p.Counted {
		p.Out, p.In = out, in
		// The filter lets each handshake through, unless it was lost.
		if t.options.Sparse && f.Protocol == TCP && f.started && out+in > 0 && p.Security == SecurityUnknown && f.dropped == t.loss.Dropped {
			p.Security = SecurityNone
		}
	}
	return p, true
}

func seconds(ns int64) int64 { return max(ns, 0) / int64(time.Second) }

// keep adds to a row, and forgets the row that was silent for longest where all
// are taken.
func (t *Table) keep(p *Peer) {
	k := p.key()
	if have := t.peers[k]; have != nil {
		have.add(p)
		return
	}
	if len(t.peers) >= t.options.Peers {
		oldest, last := key{}, int64(math.MaxInt64)
		for k, p := range t.peers {
			if p.Last < last {
				oldest, last = k, p.Last
			}
		}
		delete(t.peers, oldest)
		t.loss.Peers++
	}
	t.peers[k] = p
}

// Record returns all rows up to a time in Unix nanoseconds, those of connections
// that are still open as far as they are known. at 0 is the time of the last
// packet.
func (t *Table) Record(at int64) *Record {
	if at > 0 {
		t.see(at)
	}
	if t.options.Keep > 0 {
		for k, p := range t.peers {
			if p.Last < seconds(t.until-int64(t.options.Keep)) {
				delete(t.peers, k)
				t.loss.Expired++
			}
		}
	}
	rows := make(map[key]*Peer, len(t.peers)+len(t.flows))
	for k, p := range t.peers {
		row := *p
		rows[k] = &row
	}
	loss := t.loss
	for e := t.recent.Back(); e != nil; e = e.Prev() {
		p, ok := t.row(e.Value.(*flow))
		if !ok {
			continue
		}
		if have := rows[p.key()]; have != nil {
			have.add(p)
		} else if len(rows) < t.options.Peers {
			rows[p.key()] = p
		} else {
			loss.Peers++
		}
	}
	return &Record{Version: 1, From: seconds(t.from), Until: seconds(t.until), Peers: sorted(rows), Loss: loss}
}
