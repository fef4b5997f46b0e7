package linux

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// An endpoint is one end of a socket.
type endpoint struct {
	proto uint8 // IPPROTO_TCP or IPPROTO_UDP
	v6    bool
	port  uint16
	addr  [16]byte // an IPv4 address in the first four

	cgroup uint64 // id of the cgroup that made it; 0 where it is not told
}

func (e endpoint) address() netip.Addr {
	if e.v6 {
		return netip.AddrFrom16(e.addr)
	}
	return netip.AddrFrom4([4]byte(e.addr[:4]))
}

func (e endpoint) compare(f endpoint) int {
	if c := cmp.Compare(e.proto, f.proto); c != 0 {
		return c
	}
	if e.v6 != f.v6 {
		if f.v6 {
			return -1
		}
		return 1
	}
	if c := bytes.Compare(e.addr[:], f.addr[:]); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(e.port, f.port), cmp.Compare(e.cgroup, f.cgroup))
}

// Socket states of the kernel, include/net/tcp_states.h. A bound UDP socket
// without a peer is in state close.
const (
	stateEstablished = 1
	stateClose       = 7
	stateListen      = 10
)

// A query selects sockets for a dump, and which of their ends counts.
type query struct {
	proto, family uint8
	state         uint8
	remote        bool
	text          string // the file in /proc/net that lists the same sockets
	dump          dumping
}

// A dumping says how the kernel is asked for what a query selects.
type dumping uint8

const (
	byFamily  dumping = iota
	allOfTCP          // both families at once
	withOther         // not at all: the query before it brings these sockets, too
)

// sockets dumps sockets by sock_diag(7), or reads them from /proc/net where the
// kernel is built without it and in a fixture.
type sockets struct {
	root *Root
	fd   int // -1 when not open
	seq  uint32
	req  [diagRequest]byte
	buf  []byte

	noDiag bool // the kernel has no sock_diag for one of the protocols
}

func newSockets(root *Root) sockets {
	return sockets{root: root, fd: -1, noDiag: !root.Live()}
}

// dump appends what all queries select to dst.
func (s *sockets) dump(dst []endpoint, queries []query) ([]endpoint, fault) {
	start := len(dst)
	if !s.noDiag {
		var err error
		for _, q := range queries {
			if q.dump == withOther {
				continue
			}
			if dst, err = s.diag(dst, q); err != nil {
				break
			}
		}
		switch err {
		case nil:
			return dst, fault{}
		case unix.ENOENT, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EOPNOTSUPP: // the last is for allOfTCP
			s.noDiag = true
			dst = dst[:start]
		default:
			return dst, fault{facts.Unreadable, "sock_diag: " + err.Error()}
		}
	}
	listed := false
	for _, q := range queries {
		b, f := s.root.readFile("proc/net/" + q.text)
		if f.status == facts.Absent && (q.family == unix.AF_INET6 || q.proto == unix.IPPROTO_UDP) {
			continue // a kernel without IPv6
		}
		if f.is() {
			return dst, f
		}
		if dst, f = parseProcNet(dst, b, q); f.is() {
			return dst, f
		}
		listed = true
	}
	if !listed {
		return dst, absent("the kernel has neither sock_diag nor /proc/net/tcp")
	}
	return dst, fault{}
}

const (
	diagHeader  = 16                 // struct nlmsghdr, netlink(7)
	diagRequest = diagHeader + 60    // and struct inet_diag_req; inet_diag_req_v2 of sock_diag(7) is 56
	diagMessage = 72                 // struct inet_diag_msg
	diagBuffer  = 32 << 10           // the most that the kernel puts into one datagram of a dump
	diagTimeout = int64(time.Second) // for an answer that never ends

	tcpDiagGetSock = 18 // TCPDIAG_GETSOCK, include/uapi/linux/inet_diag.h
)

// diag sends one dump request and reads its answer.
func (s *sockets) diag(dst []endpoint, q query) ([]endpoint, error) {
	if s.fd < 0 {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		if err != nil {
			return dst, err
		}
		tv := unix.NsecToTimeval(diagTimeout)
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
			unix.Close(fd)
			return dst, err
		}
		s.fd = s.root.keep(fd)
		if s.buf == nil {
			s.buf = make([]byte, diagBuffer)
		}
	}
	s.seq++
	if _, err := unix.Write(s.fd, diagAsk(&s.req, s.seq, q)); err != nil { // an unconnected netlink socket writes to the kernel
		return dst, s.drop(err)
	}
	for {
		n, err := unix.Read(s.fd, s.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return dst, s.drop(err)
		}
		var done bool
		if dst, done, err = parseDiag(dst, s.buf[:n], s.seq, q); err != nil {
			return dst, s.drop(err)
		}
		if done {
			return dst, nil
		}
	}
}

// drop closes the socket: the rest of an answer could still be in it.
func (s *sockets) drop(err error) error {
	s.fd = s.root.drop(s.fd)
	return err
}

// diagAsk makes a request in b. For TCP the kernel still knows the request that
// sock_diag(7) has replaced: it has no field for a family and gets both with one walk
// over the table, which is most of what a dump costs (net/ipv4/inet_diag.c,
// inet_diag_dump_compat; include/uapi/linux/inet_diag.h).
func diagAsk(b *[diagRequest]byte, seq uint32, q query) []byte {
	clear(b[:])
	ne, ask := binary.NativeEndian, b[:diagHeader+56]
	kind, states := uint16(unix.SOCK_DIAG_BY_FAMILY), diagHeader+4
	if q.dump == allOfTCP {
		ask, kind, states = b[:], tcpDiagGetSock, diagHeader+52
	} else {
		b[diagHeader], b[diagHeader+1] = q.family, q.proto
	}
	ne.PutUint32(b[0:], uint32(len(ask)))
	ne.PutUint16(b[4:], kind)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	ne.PutUint32(b[8:], seq)
	ne.PutUint32(b[states:], 1<<q.state)
	return ask
}

// parseDiag appends the sockets in one datagram of the answer seq to q. An
// error of the kernel comes back as its unix.Errno.
func parseDiag(dst []endpoint, b []byte, seq uint32, q query) (_ []endpoint, done bool, err error) {
	ne := binary.NativeEndian
	for len(b) > 0 {
		if len(b) < diagHeader {
			return dst, false, unix.EBADMSG
		}
		size := int(ne.Uint32(b))
		if size < diagHeader || size > len(b) {
			return dst, false, unix.EBADMSG
		}
		body := b[diagHeader:size]
		kind, flags, of := ne.Uint16(b[4:]), ne.Uint16(b[6:]), ne.Uint32(b[8:])
		b = b[min((size+3)&^3, len(b)):]
		if of != seq {
			continue
		}
		if flags&unix.NLM_F_DUMP_INTR != 0 {
			return dst, false, unix.EINTR
		}
		switch kind {
		case unix.NLMSG_DONE:
			return dst, true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return dst, false, unix.EBADMSG
			}
			return dst, false, unix.Errno(-int32(ne.Uint32(body)))
		case unix.SOCK_DIAG_BY_FAMILY, tcpDiagGetSock:
			if len(body) < diagMessage {
				return dst, false, unix.EBADMSG
			}
			if body[1] != q.state {
				continue
			}
			e := endpoint{proto: q.proto, v6: body[0] == unix.AF_INET6}
			port, addr := body[4:6], body[8:24]
			if q.remote {
				port, addr = body[6:8], body[24:40]
			}
			e.port = binary.BigEndian.Uint16(port)
			if n := 16; e.v6 {
				copy(e.addr[:n], addr)
			} else {
				copy(e.addr[:4], addr)
			}
			if !q.remote { // of peers, only who they are counts
				e.cgroup = diagCgroup(body[diagMessage:])
			}
			if e.port != 0 {
				dst = append(dst, e)
			}
		}
	}
	return dst, false, nil
}

// diagCgroup returns the id of a socket's cgroup in the attributes of its
// message, struct rtattr each (INET_DIAG_CGROUP_ID, include/uapi/linux/inet_diag.h).
func diagCgroup(b []byte) uint64 {
	const cgroupID = 21
	ne := binary.NativeEndian
	for len(b) >= 4 {
		size := int(ne.Uint16(b))
		if size < 4 || size > len(b) {
			return 0
		}
		if ne.Uint16(b[2:]) == cgroupID && size >= 12 {
			return ne.Uint64(b[4:])
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return 0
}

// parseProcNet appends the sockets of /proc/net/tcp, tcp6, udp or udp6 that q
// selects (proc(5)). Addresses are in words of the machine's byte order.
func parseProcNet(dst []endpoint, b []byte, q query) ([]endpoint, fault) {
	bad := malformed("/proc/net/" + q.text + " has not the form of proc(5)")
	head, b, whole := bytes.Cut(b, []byte("\n"))
	if first, _ := field(head); string(first) != "sl" || !whole {
		return dst, bad
	}
	for len(b) > 0 {
		var line []byte
		line, b, whole = bytes.Cut(b, []byte("\n"))
		slot, rest := field(line)
		local, rest := field(rest)
		remote, rest := field(rest)
		state, rest := field(rest)
		if !whole || len(slot) < 2 || slot[len(slot)-1] != ':' || len(rest) == 0 {
			return dst, bad
		}
		l, ok1 := parseEndpoint(local, q)
		r, ok2 := parseEndpoint(remote, q)
		var st [1]byte
		if len(state) != 2 || !ok1 || !ok2 {
			return dst, bad
		}
		if _, err := hex.Decode(st[:], state); err != nil {
			return dst, bad
		}
		if st[0] != q.state {
			continue
		}
		if q.remote {
			l = r
		}
		if l.port != 0 {
			dst = append(dst, l)
		}
	}
	return dst, fault{}
}

func parseEndpoint(b []byte, q query) (endpoint, bool) {
	e := endpoint{proto: q.proto, v6: q.family == unix.AF_INET6}
	n := 4
	if e.v6 {
		n = 16
	}
	addr, port, ok := bytes.Cut(b, []byte(":"))
	if !ok || len(addr) != 2*n || len(port) != 4 {
		return e, false
	}
	var p [2]byte
	if _, err := hex.Decode(e.addr[:n], addr); err != nil {
		return e, false
	}
	if _, err := hex.Decode(p[:], port); err != nil {
		return e, false
	}
	for i := 0; i < n; i += 4 {
		binary.NativeEndian.PutUint32(e.addr[i:], binary.BigEndian.Uint32(e.addr[i:]))
	}
	e.port = binary.BigEndian.Uint16(p[:])
	return e, true
}

var listening = [...]query{
	{proto: unix.IPPROTO_TCP, family: unix.AF_INET, state: stateListen, text: "tcp", dump: allOfTCP},
	{proto: unix.IPPROTO_TCP, family: unix.AF_INET6, state: stateListen, text: "tcp6", dump: withOther},
	{proto: unix.IPPROTO_UDP, family: unix.AF_INET, state: stateClose, text: "udp"},
	{proto: unix.IPPROTO_UDP, family: unix.AF_INET6, state: stateClose, text: "udp6"},
}

var established = [...]query{
	{proto: unix.IPPROTO_TCP, family: unix.AF_INET, state: stateEstablished, remote: true, text: "tcp", dump: allOfTCP},
	{proto: unix.IPPROTO_TCP, family: unix.AF_INET6, state: stateEstablished, remote: true, text: "tcp6", dump: withOther},
}

// listeners makes a new set only when the sockets have changed.
type listeners struct {
	sockets   sockets
	ownership ownership

	unowned int64
	told    fault // why unowned is not known
	now     []endpoint
	last    []endpoint
	value   facts.Value
	failed  fault
	made    bool
}

func (s *listeners) read(o *out) {
	var f fault
	s.now, f = s.sockets.dump(s.now[:0], listening[:])
	if f.is() {
		o.faults(f)
		return
	}
	slices.SortStableFunc(s.now, endpoint.compare) // the smaller code, and quick with what is nearly sorted
	s.now = slices.Compact(s.now)
	changed := !s.made || !slices.Equal(s.now, s.last)
	if changed {
		s.now, s.last, s.made = s.last, s.now, true
		members := make([]string, len(s.last))
		for i, e := range s.last {
			members[i] = e.member()
		}
		if s.failed = checkSet(members); !s.failed.is() {
			s.value = facts.SetValue(members)
		}
	}
	if s.failed.is() {
		o.fault(0, s.failed)
	} else {
		o.ok(0, s.value)
	}
	if s.sockets.noDiag {
		o.fault(1, absent(noOwners))
		return
	}
	if s.ownership.learn(s.last) || changed {
		s.unowned, s.told = s.ownership.count(s.last)
	}
	o.outcome(1, s.unowned, s.told)
}

// peers are the remote ends of connections that leave the machine.
type peers struct{ sockets sockets }

func (s *peers) read(o *out) {
	found, f := s.sockets.dump(nil, established[:])
	if f.is() {
		o.fault(0, f)
		return
	}
	members := make([]string, 0, len(found))
	for _, e := range found {
		if a := e.address().Unmap(); !a.IsLoopback() {
			members = append(members, netip.AddrPortFrom(a, e.port).String())
		}
	}
	o.set(0, members)
}

// An iface is what one interface has counted.
type iface struct {
	name   [unix.IFNAMSIZ]byte
	rx, tx int64
}

// parseNetDev appends the interfaces of /proc/net/dev but the loopback.
func parseNetDev(dst []iface, b []byte) ([]iface, fault) {
	bad := malformed("/proc/net/dev has not the form of proc(5)")
	for i := range 2 { // the two lines of the heading
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if !whole || bytes.IndexByte(line, '|') < 0 {
			return dst, bad
		}
		if i == 1 && !bytes.Contains(line, []byte("bytes")) {
			return dst, bad
		}
		b = rest
	}
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		b = rest
		name, counts, ok := bytes.Cut(line, []byte(":"))
		name = bytes.TrimSpace(name)
		if !ok || !whole || len(name) == 0 || len(name) >= unix.IFNAMSIZ {
			return dst, bad
		}
		var x iface
		copy(x.name[:], name)
		for i := range 16 {
			n, rest, ok := intField(counts)
			if !ok || n < 0 {
				return dst, bad
			}
			counts = rest
			switch i {
			case 0:
				x.rx = n
			case 8:
				x.tx = n
			}
		}
		if string(name) != "lo" {
			dst = append(dst, x)
		}
	}
	return dst, fault{}
}

// traffic adds up the interfaces that were there in the round before: one that
// comes or goes must not look like a burst.
type traffic struct {
	root *Root
	file *file
	now  []iface
	last []iface
	at   int64
	seen bool
}

func (s *traffic) read(o *out) {
	rx, tx, ns, f := s.sample()
	if f.is() {
		o.faults(f)
		return
	}
	if ns <= 0 {
		o.faults(pending(secondSample))
		return
	}
	o.num(0, scale(rx, int64(time.Second), ns))
	o.num(1, scale(tx, int64(time.Second), ns))
}

// sample returns the bytes since the sample before, and for how long that was; 0
// for the first.
func (s *traffic) sample() (rx, tx, ns int64, f fault) {
	b, f := s.file.read()
	if f.is() {
		return 0, 0, 0, f
	}
	if s.now, f = parseNetDev(s.now[:0], b); f.is() {
		return 0, 0, 0, f
	}
	now := s.root.now()
	if s.seen {
		ns = now - s.at
		for i := range s.now {
			x := &s.now[i]
			if l := s.before(i); l != nil {
				rx += max(x.rx-l.rx, 0)
				tx += max(x.tx-l.tx, 0)
			}
		}
	}
	s.now, s.last, s.at, s.seen = s.last, s.now, now, true
	return rx, tx, ns, fault{}
}

// before returns what interface i of this round had counted in the last one;
// most often it is in the same place.
func (s *traffic) before(i int) *iface {
	if i < len(s.last) && s.last[i].name == s.now[i].name {
		return &s.last[i]
	}
	for j := range s.last {
		if s.last[j].name == s.now[i].name {
			return &s.last[j]
		}
	}
	return nil
}
