package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miotfacts/miotfacts/talk"
	"golang.org/x/sys/unix"
)

// sock_diag(7): struct nlmsghdr, then inet_diag_req_v2; answers are inet_diag_msg
// with attributes (linux/inet_diag.h).
const (
	diagHeader  = 16
	diagRequest = diagHeader + 56
	diagMessage = 72
	diagBuffer  = 32 << 10
	diagTimeout = int64(time.Second)

	attributeInfo   = 2  // INET_DIAG_INFO: struct tcp_info
	attributeCgroup = 21 // INET_DIAG_CGROUP_ID, since Linux 5.9
	infoAcked       = 120
	infoReceived    = 128

	stateEstablished = 1
	stateTimeWait    = 6
	stateClose       = 7
	stateCloseWait   = 8
	stateListen      = 10
	allStates        = 1<<13 - 1

	noCookie = 0xffffffff
)

// A Socket is what the kernel knows of one connection.
type Socket struct {
	talk.Conn
	State  uint8
	UID    uint32
	Cgroup uint64 // of who made it, 0 not known
	// Bytes that the other end acknowledged and that came in; only with Counted.
	Out, In uint64
	Counted bool
}

// ErrNone says that the kernel has no such connection, or no longer.
var ErrNone = errors.New("no such connection")

// Sockets asks the kernel for connections. It is not safe for use by several
// goroutines.
type Sockets struct {
	fd  int
	seq uint32
	buf []byte
}

// OpenSockets opens the way to the kernel.
func OpenSockets() (*Sockets, error) {
	fd, err := openNetlink(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, err
	}
	return &Sockets{fd: fd, buf: make([]byte, diagBuffer)}, nil
}

// openNetlink opens a way to the kernel (netlink(7)) on which no answer is waited
// for without end.
func openNetlink(protocol int) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, fmt.Errorf("cannot open netlink socket: %w", err)
	}
	tv := unix.NsecToTimeval(diagTimeout)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return -1, errors.Join(fmt.Errorf("cannot open netlink socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// Close closes it.
func (s *Sockets) Close() error { return unix.Close(s.fd) }

// Of returns the socket of one connection, while there is one: of a connection
// that comes in and is not accepted yet the listening one.
func (s *Sockets) Of(c talk.Conn) (Socket, error) {
	here, there := c.Local, c.Remote
	if c.Protocol == talk.UDP {
		here, there = there, here // udp_dump_one looks from the other side
	}
	var found []Socket
	err := s.ask(request{protocol: c.Protocol, six: c.Local.Addr().Is6(), here: here, there: there}, func(x Socket) { found = append(found, x) })
	if errors.Is(err, unix.ENOENT) || err == nil && len(found) == 0 {
		return Socket{}, ErrNone
	}
	if err != nil {
		return Socket{}, fmt.Errorf("cannot ask for connection: %w", err)
	}
	found[0].Conn = c
	return found[0], nil
}

// Established reports whether bytes can still come in.
func (s Socket) Established() bool { return s.State == stateEstablished || s.State == stateCloseWait }

// All returns the TCP connections that have not ended, and the listening ports.
func (s *Sockets) All() (connections []Socket, listening map[uint16]bool, err error) {
	listening = map[uint16]bool{}
	for _, six := range []bool{false, true} {
		err := s.ask(request{protocol: talk.TCP, six: six, states: allStates &^ (1<<stateTimeWait | 1<<stateClose)}, func(x Socket) {
			if x.State == stateListen {
				listening[x.Local.Port()] = true
			} else {
				connections = append(connections, x)
			}
		})
		if err != nil && !(six && errors.Is(err, unix.ENOENT)) { // a kernel without IPv6
			return nil, nil, fmt.Errorf("cannot list connections: %w", err)
		}
	}
	return connections, listening, nil
}

// A request is for one connection, or with states for all in one of them.
type request struct {
	protocol    uint8
	six         bool
	states      uint32
	here, there netip.AddrPort
}

func (r request) encode(seq uint32) []byte {
	b := make([]byte, diagRequest)
	ne := binary.NativeEndian
	ne.PutUint32(b, diagRequest)
	ne.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	flags := uint16(unix.NLM_F_REQUEST)
	if r.states != 0 {
		flags |= unix.NLM_F_DUMP
	}
	ne.PutUint16(b[6:], flags)
	ne.PutUint32(b[8:], seq)
	q := b[diagHeader:]
	q[0] = unix.AF_INET
	if r.six {
		q[0] = unix.AF_INET6
	}
	q[1], q[2] = r.protocol, 1<<(attributeInfo-1)
	ne.PutUint32(q[4:], r.states)
	if r.states == 0 {
		binary.BigEndian.PutUint16(q[8:], r.here.Port())
		binary.BigEndian.PutUint16(q[10:], r.there.Port())
		copy(q[12:28], r.here.Addr().AsSlice())
		copy(q[28:44], r.there.Addr().AsSlice())
		ne.PutUint32(q[48:], noCookie)
		ne.PutUint32(q[52:], noCookie)
	}
	return b
}

func (s *Sockets) ask(r request, each func(Socket)) error {
	s.seq++
	if _, err := unix.Write(s.fd, r.encode(s.seq)); err != nil { // unconnected: to the kernel
		return err
	}
	for {
		n, err := unix.Read(s.fd, s.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		done, err := parse(s.buf[:n], s.seq, r, each)
		if done || err != nil {
			return err
		}
	}
}

// parse reads one datagram of an answer.
func parse(b []byte, seq uint32, r request, each func(Socket)) (done bool, err error) {
	ne := binary.NativeEndian
	for len(b) > 0 {
		if len(b) < diagHeader {
			return false, unix.EBADMSG
		}
		size := int(ne.Uint32(b))
		if size < diagHeader || size > len(b) {
			return false, unix.EBADMSG
		}
		body := b[diagHeader:size]
		kind, of := ne.Uint16(b[4:]), ne.Uint32(b[8:])
		b = b[min((size+3)&^3, len(b)):]
		if of != seq {
			continue // of a question that was given up
		}
		switch kind {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return false, unix.EBADMSG
			}
			if code := -int32(ne.Uint32(body)); code != 0 {
				return false, unix.Errno(code)
			}
			return true, nil
		case unix.SOCK_DIAG_BY_FAMILY:
			x, err := message(body, r.protocol)
			if err != nil {
				return false, err
			}
			each(x)
			if r.states == 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// message reads a struct inet_diag_msg and its attributes.
func message(b []byte, protocol uint8) (x Socket, err error) {
	if len(b) < diagMessage {
		return x, unix.EBADMSG
	}
	ne := binary.NativeEndian
	n := 4
	if b[0] == unix.AF_INET6 {
		n = 16
	}
	local, _ := netip.AddrFromSlice(b[8 : 8+n])
	remote, _ := netip.AddrFromSlice(b[24 : 24+n])
	x.Protocol, x.State, x.UID = protocol, b[1], ne.Uint32(b[64:])
	x.Local = netip.AddrPortFrom(local.Unmap(), binary.BigEndian.Uint16(b[4:]))
	x.Remote = netip.AddrPortFrom(remote.Unmap(), binary.BigEndian.Uint16(b[6:]))
	for b = b[diagMessage:]; len(b) >= 4; {
		size := int(ne.Uint16(b))
		if size < 4 || size > len(b) {
			return x, unix.EBADMSG
		}
		value := b[4:size]
		switch kind := ne.Uint16(b[2:]); {
		case kind == attributeCgroup && len(value) >= 8:
			x.Cgroup = ne.Uint64(value)
		case kind == attributeInfo && len(value) >= infoReceived+8 && protocol == talk.TCP:
			x.Counted, x.Out, x.In = true, ne.Uint64(value[infoAcked:]), ne.Uint64(value[infoReceived:])
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return x, nil
}
