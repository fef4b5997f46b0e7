package talk

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/miotfacts/miotfacts/attest/cose"
)

// Limits of a record as it is kept.
const (
	MaxRecord = 4 << 20 // bytes
	MaxPeers  = 8192
	MaxText   = 256 // bytes of a process, a unit or an issuer
)

// A Record is whom a device talked to. It is not signed: it is the device's own
// notebook, and docs/talk.cddl is its form.
type Record struct {
	Version uint   `cbor:"1,keyasint"` // of this format: 1
	From    int64  `cbor:"2,keyasint"` // Unix seconds: nothing before was seen
	Until   int64  `cbor:"3,keyasint"` // Unix seconds
	Peers   []Peer `cbor:"4,keyasint"` // by name, address and port
	Loss    Loss   `cbor:"5,keyasint"`
}

// A Peer is one service of another machine, or with Inbound another machine that
// came to a service of the device.
type Peer struct {
	Protocol uint8    `cbor:"1,keyasint"`            // TCP or UDP
	Address  Address  `cbor:"2,keyasint"`            // of the other machine
	Port     uint16   `cbor:"3,keyasint"`            // of the service
	Inbound  bool     `cbor:"4,keyasint,omitempty"`  // the other machine began
	Name     string   `cbor:"5,keyasint,omitempty"`  // of the other machine, in lower case
	NameFrom Source   `cbor:"6,keyasint,omitempty"`  //
	First    int64    `cbor:"7,keyasint"`            // Unix seconds
	Last     int64    `cbor:"8,keyasint"`            // Unix seconds
	Attempts uint64   `cbor:"9,keyasint"`            // connections begun; of UDP, exchanges with no pause of two minutes
	Answered uint64   `cbor:"10,keyasint,omitempty"` // of those
	Counted  bool     `cbor:"11,keyasint,omitempty"` // Out and In are known for at least one of those
	Out      uint64   `cbor:"12,keyasint,omitempty"` // bytes that the device sent, without headers and repetitions
	In       uint64   `cbor:"13,keyasint,omitempty"` // bytes that the device got
	Security Security `cbor:"14,keyasint,omitempty"` //
	TLS      uint16   `cbor:"15,keyasint,omitempty"` // version, RFC 8446, section 4.2.1; 0 not seen
	Cipher   uint16   `cbor:"16,keyasint,omitempty"` // of the last handshake, from the TLS registry of IANA
	Issuer   string   `cbor:"17,keyasint,omitempty"` // of the last certificate seen, RFC 4514; only up to TLS 1.2
	Process  string   `cbor:"18,keyasint,omitempty"` // the last one, as the kernel names it
	Unit     string   `cbor:"19,keyasint,omitempty"` // the last one: path of its cgroup
}

// An Address has 4 or 16 bytes.
type Address []byte

// Addr returns the address, which is valid in a record that Decode returned.
func (a Address) Addr() netip.Addr {
	addr, _ := netip.AddrFromSlice(a)
	return addr
}

// A Source is where a name was seen.
type Source uint8

// The sources.
const (
	FromDNS Source = 1 // in an answer to a question for it
	FromSNI Source = 2 // in the TLS hello of the device
)

// Security is how a connection began.
type Security uint8

// What can be seen of it.
const (
	SecurityUnknown Security = 0 // its beginning was not seen
	SecurityTLS     Security = 1 // with a TLS handshake
	SecurityNone    Security = 2 // with something else: it is readable on its way, or protects itself later
	SecurityRefused Security = 3 // with a TLS hello that was refused
	SecurityQUIC    Security = 4 // with QUIC, which has TLS 1.3 inside
)

// Loss counts what the record does not show. Nothing is left out silently.
type Loss struct {
	Packets   uint64 `cbor:"1,keyasint"`            // looked at
	Dropped   uint64 `cbor:"2,keyasint,omitempty"`  // that the kernel could not hand over
	Broken    uint64 `cbor:"3,keyasint,omitempty"`  // that contradict themselves or are cut before the ports
	Fragments uint64 `cbor:"4,keyasint,omitempty"`  // not looked into
	Other     uint64 `cbor:"5,keyasint,omitempty"`  // neither TCP nor UDP
	Flows     uint64 `cbor:"6,keyasint,omitempty"`  // connections no longer watched before their end, to make room
	Hellos    uint64 `cbor:"7,keyasint,omitempty"`  // beginnings not read, for want of room or because a part was missing
	Peers     uint64 `cbor:"8,keyasint,omitempty"`  // rows forgotten to make room
	Names     uint64 `cbor:"9,keyasint,omitempty"`  // names forgotten to make room
	Knocks    uint64 `cbor:"10,keyasint,omitempty"` // connections from outside that the device did not answer
	Expired   uint64 `cbor:"11,keyasint,omitempty"` // rows forgotten because their time was over
}

func (l *Loss) add(m Loss) {
	l.Packets += m.Packets
	l.Dropped += m.Dropped
	l.Broken += m.Broken
	l.Fragments += m.Fragments
	l.Other += m.Other
	l.Flows += m.Flows
	l.Hellos += m.Hellos
	l.Peers += m.Peers
	l.Names += m.Names
	l.Knocks += m.Knocks
	l.Expired += m.Expired
}

// Encode returns the one encoding of the record.
func (r *Record) Encode() ([]byte, error) {
	data, err := cose.Encode(r)
	if err != nil {
		return nil, fmt.Errorf("cannot encode record of peers: %w", err)
	}
	return data, nil
}

// Decode reads a record and refuses one that no Table wrote.
func Decode(data []byte) (*Record, error) {
	r := new(Record)
	if err := cose.Decode(data, MaxRecord, r); err != nil {
		return nil, fmt.Errorf("cannot decode record of peers: %w", err)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("cannot use record of peers: %w", err)
	}
	return r, nil
}

func (r *Record) check() error {
	switch {
	case r.Version != 1:
		return fmt.Errorf("version %d, this program reads version 1", r.Version)
	case r.From < 0 || r.Until < r.From:
		return fmt.Errorf("from %d until %d is no time", r.From, r.Until)
	case len(r.Peers) > MaxPeers:
		return fmt.Errorf("%d peers, the limit is %d", len(r.Peers), MaxPeers)
	}
	for i := range r.Peers {
		if err := r.Peers[i].check(); err != nil {
			return fmt.Errorf("peer %d: %w", i, err)
		}
		if i > 0 && r.Peers[i-1].compare(&r.Peers[i]) >= 0 {
			return fmt.Errorf("peer %d is not in order, or stands there twice", i)
		}
	}
	return nil
}

func (p *Peer) check() error {
	addr, ok := netip.AddrFromSlice(p.Address)
	switch {
	case p.Protocol != TCP && p.Protocol != UDP:
		return fmt.Errorf("protocol %d is neither TCP nor UDP", p.Protocol)
	case !ok || addr.Is4In6():
		return fmt.Errorf("address %x is none", []byte(p.Address))
	case p.First < 0 || p.Last < p.First:
		return fmt.Errorf("first %d, last %d is no time", p.First, p.Last)
	case p.Answered > p.Attempts:
		return fmt.Errorf("%d of %d attempts answered", p.Answered, p.Attempts)
	case !p.Counted && (p.Out != 0 || p.In != 0):
		return errors.New("bytes that were not counted")
	case p.Security > SecurityQUIC:
		return fmt.Errorf("security %d is not known", p.Security)
	case p.NameFrom > FromSNI || (p.NameFrom == 0) != (p.Name == ""):
		return errors.New("a name and where it was seen go together")
	}
	if p.Name != "" {
		if name, ok := hostName([]byte(p.Name)); !ok || name != p.Name {
			return fmt.Errorf("%.60q is no name of a machine", p.Name)
		}
	}
	for _, text := range []string{p.Issuer, p.Process, p.Unit} {
		if len(text) > MaxText || text != printable(text) {
			return fmt.Errorf("%.60q is no text of at most %d bytes for printing", text, MaxText)
		}
	}
	return nil
}

// key orders peers and tells them apart. A version of TLS has a row of its own,
// so that a weaker one does not hide behind the usual one.
type key struct {
	name     string
	addr     netip.Addr
	port     uint16
	protocol uint8
	inbound  bool
	tls      uint16
}

func (p *Peer) key() key {
	return key{p.Name, p.Address.Addr(), p.Port, p.Protocol, p.Inbound, p.TLS}
}

func (p *Peer) compare(q *Peer) int {
	a, b := p.key(), q.key()
	return cmp.Or(cmp.Compare(a.name, b.name), a.addr.Compare(b.addr), cmp.Compare(a.port, b.port), cmp.Compare(a.protocol, b.protocol),
		cmp.Compare(number(a.inbound), number(b.inbound)), cmp.Compare(a.tls, b.tls))
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// add puts what was seen of one row at another time into p.
func (p *Peer) add(q *Peer) {
	p.First, p.Last = min(p.First, q.First), max(p.Last, q.Last)
	p.Attempts += q.Attempts
	p.Answered += q.Answered
	p.Counted = p.Counted || q.Counted
	p.Out += q.Out
	p.In += q.In
	p.NameFrom = max(p.NameFrom, q.NameFrom)
	p.Cipher = cmp.Or(q.Cipher, p.Cipher)
	p.Issuer = cmp.Or(q.Issuer, p.Issuer)
	p.Process = cmp.Or(q.Process, p.Process)
	p.Unit = cmp.Or(q.Unit, p.Unit)
	// What began without TLS once must not be covered by what came after.
	if p.Security == SecurityUnknown || q.Security == SecurityNone {
		p.Security = q.Security
	}
}

func sorted(rows map[key]*Peer) []Peer {
	out := make([]Peer, 0, len(rows))
	for _, p := range rows {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Peer) int { return a.compare(&b) })
	return out
}
