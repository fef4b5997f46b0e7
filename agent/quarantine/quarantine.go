// Package quarantine closes the network of a machine but for loopback and named
// peers, by one table of its own in the kernel's packet filter (nf_tables), which
// it puts there, looks at and takes away over netlink. It runs no program.
//
// It trusts the kernel it talks to. It never names another table, so it neither
// flushes nor changes what others have put there; a packet that it lets through
// has still to pass theirs. It knows the table by its name only: one of that name
// that says something else is replaced. It reaches the network namespace of the
// calling thread or of a socket that it is given, and no protocols beside IPv4 and IPv6.
//
// The messages are those of linux/netfilter/nf_tables.h (nfnetlink).
package quarantine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// A Peer stays reachable, in both directions.
type Peer struct {
	Net  netip.Prefix // one address as a full-length prefix, or a network
	Port uint16       // TCP and UDP port on the peer's side; 0 for all of IP
}

func (p Peer) String() string {
	text := p.Net.String()
	if p.Net.IsSingleIP() {
		text = p.Net.Addr().String()
	}
	if p.Port == 0 {
		return text
	}
	return netip.AddrPortFrom(p.Net.Addr(), p.Port).String()
}

// Reasons that a caller tells apart.
var (
	ErrAbsent    = errors.New("this kernel has no nf_tables")
	ErrForbidden = errors.New("no right to change the packet filter: CAP_NET_ADMIN is missing")
)

// Table is the name of the table, in the family inet.
const Table = "miotfacts_quarantine"

// A Network is the one that is closed, and through which socket. The zero value is
// that of the calling thread.
type Network struct {
	// Socket is of netlink's family netfilter and stays open. Its network is the one
	// in which it was made: who holds it need not be there. One use at a time.
	Socket *os.File
}

// Close closes the network but for the peers, in one step and idempotently: flows
// that are established end too. Where the table says so already it does nothing.
func (n Network) Close(ctx context.Context, peers []Peer) error {
	return n.with(ctx, func(c *conn) error {
		same, err := c.same(peers)
		if err != nil || same {
			return err
		}
		return c.commit(build(peers))
	})
}

// Open takes the table away. Without it nothing of a quarantine is left.
func (n Network) Open(ctx context.Context) error {
	return n.with(ctx, func(c *conn) error {
		// Added first, so that one which is not there can be deleted.
		return c.commit([]message{tableMessage(unix.NFT_MSG_NEWTABLE), tableMessage(unix.NFT_MSG_DELTABLE)})
	})
}

// Closed looks whether the kernel holds the table, and just as Close(peers)
// puts it there.
func (n Network) Closed(ctx context.Context, peers []Peer) (closed bool, err error) {
	err = n.with(ctx, func(c *conn) error { closed, err = c.same(peers); return err })
	return closed, err
}

// Present looks whether the kernel holds the table, whatever it says.
func (n Network) Present(ctx context.Context) (present bool, err error) {
	err = n.with(ctx, func(c *conn) error { present, err = c.present(); return err })
	return present, err
}

func (n Network) with(ctx context.Context, f func(*conn) error) error {
	c, err := n.dial(ctx)
	if err == nil {
		err = f(c)
		if n.Socket == nil {
			unix.Close(c.fd)
		}
	}
	return explain(err)
}

func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", ErrAbsent, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	return err
}

// The chains, one for each hook of a packet's way through the machine.
var chains = []struct {
	name string
	hook uint32
}{{"input", unix.NF_INET_LOCAL_IN}, {"forward", unix.NF_INET_FORWARD}, {"output", unix.NF_INET_LOCAL_OUT}}

// What becomes of a packet (linux/netfilter.h).
const (
	dropped  = 0
	accepted = 1
)

// loopback is the index of lo in every network namespace (LOOPBACK_IFINDEX).
const loopback = 1

// rules returns the rules of a chain; what none of them accepts is dropped.
func rules(hook uint32, peers []Peer) [][]attr {
	var out [][]attr
	accept := func(matches ...[]attr) {
		var all []attr
		for _, m := range matches {
			all = append(all, m...)
		}
		out = append(out, append(all, verdict(accepted)))
	}
	in, forward := hook == unix.NF_INET_LOCAL_IN, hook == unix.NF_INET_FORWARD
	if !forward {
		key := uint32(unix.NFT_META_OIF)
		if in {
			key = unix.NFT_META_IIF
		}
		accept(meta(key, unix.NFT_CMP_EQ, binary.NativeEndian.AppendUint32(nil, loopback)))
		// Without neighbour discovery no IPv6 peer is found (RFC 4861: 133 to 136,
		// solicitations and advertisements). ARP is of another family.
		accept(protocol(unix.IPPROTO_ICMPV6), transport(0, 1, unix.NFT_CMP_GTE, []byte{133}), transport(0, 1, unix.NFT_CMP_LTE, []byte{136}))
	}
	if in {
		// A way with a smaller packet size must be able to say so.
		accept(protocol(unix.IPPROTO_ICMPV6), transport(0, 1, unix.NFT_CMP_EQ, []byte{2}))
		accept(protocol(unix.IPPROTO_ICMP), transport(0, 2, unix.NFT_CMP_EQ, []byte{3, 4}))
	}
	for _, p := range peers {
		if in || forward {
			peer(accept, p, false)
		}
		if !in {
			peer(accept, p, true)
		}
	}
	return out
}

// peer accepts what comes from p, or what goes to it.
func peer(accept func(...[]attr), p Peer, to bool) {
	family, offset, port := byte(unix.NFPROTO_IPV4), uint32(12), uint32(0)
	if p.Net.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, 8
	}
	address := p.Net.Masked().Addr().AsSlice()
	size := uint32(len(address))
	if to {
		offset, port = offset+size, 2
	}
	match := append(meta(unix.NFT_META_NFPROTO, unix.NFT_CMP_EQ, []byte{family}), load(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, size))
	if bits := p.Net.Bits(); bits < p.Net.Addr().BitLen() {
		match = append(match, mask(bits, size))
	}
	match = append(match, compare(unix.NFT_CMP_EQ, address))
	if p.Port == 0 {
		accept(match)
		return
	}
	for _, l4 := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		accept(match, protocol(l4), transport(port, 2, unix.NFT_CMP_EQ, binary.BigEndian.AppendUint16(nil, p.Port)))
	}
}

// The expressions of nf_tables that the rules are made of. Each loads register 1
// or compares it.

func expression(name string, data ...attr) attr {
	return nest(unix.NFTA_LIST_ELEM, text(unix.NFTA_EXPR_NAME, name), nest(unix.NFTA_EXPR_DATA, data...))
}

func compare(op uint32, value []byte) attr {
	return expression("cmp", number(unix.NFTA_CMP_SREG, unix.NFT_REG_1), number(unix.NFTA_CMP_OP, op), nest(unix.NFTA_CMP_DATA, raw(unix.NFTA_DATA_VALUE, value)))
}

func meta(key, op uint32, value []byte) []attr {
	return []attr{expression("meta", number(unix.NFTA_META_KEY, key), number(unix.NFTA_META_DREG, unix.NFT_REG_1)), compare(op, value)}
}

func protocol(l4 byte) []attr { return meta(unix.NFT_META_L4PROTO, unix.NFT_CMP_EQ, []byte{l4}) }

func load(base, offset, size uint32) attr {
	return expression("payload", number(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1), number(unix.NFTA_PAYLOAD_BASE, base),
		number(unix.NFTA_PAYLOAD_OFFSET, offset), number(unix.NFTA_PAYLOAD_LEN, size))
}

func transport(offset, size, op uint32, value []byte) []attr {
	return []attr{load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, offset, size), compare(op, value)}
}

func mask(bits int, size uint32) attr {
	m := make([]byte, size)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return expression("bitwise", number(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), number(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1), number(unix.NFTA_BITWISE_LEN, size),
		nest(unix.NFTA_BITWISE_MASK, raw(unix.NFTA_DATA_VALUE, m)), nest(unix.NFTA_BITWISE_XOR, raw(unix.NFTA_DATA_VALUE, make([]byte, size))))
}

func verdict(code uint32) attr {
	return expression("immediate", number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
		nest(unix.NFTA_IMMEDIATE_DATA, nest(unix.NFTA_DATA_VERDICT, number(unix.NFTA_VERDICT_CODE, code))))
}

func tableMessage(kind uint16) message {
	return message{kind: kind, attrs: []attr{text(unix.NFTA_TABLE_NAME, Table)}}
}

// build returns the messages that replace whatever table there is by that for
// peers. The kernel carries them out together or not at all.
func build(peers []Peer) []message {
	out := []message{tableMessage(unix.NFT_MSG_NEWTABLE), tableMessage(unix.NFT_MSG_DELTABLE), tableMessage(unix.NFT_MSG_NEWTABLE)}
	for _, c := range chains {
		out = append(out, message{kind: unix.NFT_MSG_NEWCHAIN, attrs: append([]attr{text(unix.NFTA_CHAIN_TABLE, Table)}, chain(c.name, c.hook)...)})
	}
	for _, c := range chains {
		for _, r := range rules(c.hook, peers) {
			out = append(out, message{kind: unix.NFT_MSG_NEWRULE, append: true, attrs: []attr{
				text(unix.NFTA_RULE_TABLE, Table), text(unix.NFTA_RULE_CHAIN, c.name), nest(unix.NFTA_RULE_EXPRESSIONS, r...)}})
		}
	}
	return out
}

// chain returns what a chain says of itself. Its priority is that of filtering:
// a drop is final wherever in the order it is spoken.
func chain(name string, hook uint32) []attr {
	return []attr{
		text(unix.NFTA_CHAIN_NAME, name), number(unix.NFTA_CHAIN_POLICY, dropped), text(unix.NFTA_CHAIN_TYPE, "filter"),
		nest(unix.NFTA_CHAIN_HOOK, number(unix.NFTA_HOOK_HOOKNUM, hook), number(unix.NFTA_HOOK_PRIORITY, 0)),
	}
}

// present looks for the table.
func (c *conn) present() (bool, error) {
	got, err := c.query(unix.NFT_MSG_GETTABLE, false, text(unix.NFTA_TABLE_NAME, Table))
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the packet filter: %w", err)
	}
	return len(got) == 1, nil
}

// same looks whether the kernel holds all that build(peers) says and nothing
// else in the table.
func (c *conn) same(peers []Peer) (bool, error) {
	there, err := c.present()
	if err != nil || !there {
		return false, err
	}
	tables, err := c.query(unix.NFT_MSG_GETTABLE, false, text(unix.NFTA_TABLE_NAME, Table))
	if err != nil || len(tables) != 1 || !contains(tables[0], number(unix.NFTA_TABLE_FLAGS, 0)) { // a dormant table filters nothing
		return false, err
	}
	list, err := c.query(unix.NFT_MSG_GETCHAIN, true, text(unix.NFTA_CHAIN_TABLE, Table))
	if err != nil {
		return false, fmt.Errorf("cannot read the packet filter: %w", err)
	}
	list = only(list, text(unix.NFTA_CHAIN_TABLE, Table))
	if len(list) != len(chains) {
		return false, nil
	}
	for _, want := range chains {
		if len(only(list, chain(want.name, want.hook)...)) != 1 {
			return false, nil
		}
	}
	if list, err = c.query(unix.NFT_MSG_GETRULE, true, text(unix.NFTA_RULE_TABLE, Table)); err != nil {
		return false, fmt.Errorf("cannot read the packet filter: %w", err)
	}
	list = only(list, text(unix.NFTA_RULE_TABLE, Table))
	for _, ch := range chains {
		got := only(list, text(unix.NFTA_RULE_CHAIN, ch.name))
		want := rules(ch.hook, peers)
		if len(got) != len(want) {
			return false, nil
		}
		for i, r := range want {
			if !contains(got[i], nest(unix.NFTA_RULE_EXPRESSIONS, r...)) || count(got[i], unix.NFTA_RULE_EXPRESSIONS) != len(r) {
				return false, nil
			}
		}
	}
	return true, nil
}

// only returns the messages that contain want.
func only(list [][]byte, want ...attr) [][]byte {
	var out [][]byte
	for _, m := range list {
		if contains(m, want...) {
			out = append(out, m)
		}
	}
	return out
}

// contains reports whether the attributes in data say at least what want says:
// kernels add attributes of their own. Several of one kind are a list.
func contains(data []byte, want ...attr) bool {
	for _, w := range want {
		seen := map[uint16]int{}
		for rest := []byte(w); len(rest) > 0; {
			kind, nested, in, more := next(rest)
			have, ok := find(data, kind, seen[kind])
			if !ok || nested && !contains(have, in) || !nested && !bytes.Equal(have, in) {
				return false
			}
			seen[kind]++
			rest = more
		}
	}
	return true
}

// count returns how many members the list called outer has.
func count(data []byte, outer uint16) int {
	list, _ := find(data, outer, 0)
	n := 0
	for ok := true; ok; n++ {
		_, ok = find(list, unix.NFTA_LIST_ELEM, n)
	}
	return n - 1
}
