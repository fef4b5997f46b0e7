package quarantine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// An attr is one netlink attribute, encoded and padded. One that holds others is
// marked so.
type attr []byte

func raw(kind uint16, data []byte) attr {
	a := make(attr, 4, 4+align(len(data)))
	binary.NativeEndian.PutUint16(a, uint16(4+len(data)))
	binary.NativeEndian.PutUint16(a[2:], kind)
	a = append(a, data...)
	return a[:align(len(a))]
}

func text(kind uint16, s string) attr { return raw(kind, append([]byte(s), 0)) }

// number is in network order, as nf_tables speaks.
func number(kind uint16, n uint32) attr {
	return raw(kind, []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func nest(kind uint16, in ...attr) attr {
	var data []byte
	for _, a := range in {
		data = append(data, a...)
	}
	return raw(kind|unix.NLA_F_NESTED, data)
}

func align(n int) int { return (n + 3) &^ 3 }

// next splits the first attribute off data: its kind, whether it is marked as one
// that holds others, and what is in it. It returns no rest when there is none.
func next(data []byte) (kind uint16, nested bool, in, rest []byte) {
	if len(data) < 4 {
		return 0, false, nil, nil
	}
	size := int(binary.NativeEndian.Uint16(data))
	if size < 4 || size > len(data) {
		return 0, false, nil, nil
	}
	kind = binary.NativeEndian.Uint16(data[2:])
	return kind & 0x3fff, kind&unix.NLA_F_NESTED != 0, data[4:size], data[min(align(size), len(data)):]
}

// find returns the n-th attribute of a kind in data, from 0.
func find(data []byte, kind uint16, n int) ([]byte, bool) {
	for data != nil {
		var k uint16
		var in []byte
		if k, _, in, data = next(data); k == kind && in != nil {
			if n == 0 {
				return in, true
			}
			n--
		}
	}
	return nil, false
}

// A message is one change of the table.
type message struct {
	kind   uint16 // NFT_MSG_*
	append bool   // a rule: behind those that are there
	attrs  []attr
}

// A conn is a netlink socket for one errand.
type conn struct {
	fd  int
	seq uint32
}

// dial returns a socket that waits no longer than ctx.
func (n Network) dial(ctx context.Context) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if n.Socket != nil {
		fd := int(n.Socket.Fd())
		if err := errors.Join(limit(ctx, fd), drain(fd)); err != nil {
			return nil, fmt.Errorf("cannot reach the packet filter: %w", err)
		}
		return &conn{fd: fd}, nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the packet filter: %w", err)
	}
	if err := errors.Join(limit(ctx, fd), unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot reach the packet filter: %w", err)
	}
	return &conn{fd: fd}, nil
}

// limit lets a socket wait no longer than ctx.
func limit(ctx context.Context, fd int) error {
	wait := 5 * time.Second
	if end, ok := ctx.Deadline(); ok {
		wait = max(time.Until(end), time.Millisecond)
	}
	tv := unix.NsecToTimeval(wait.Nanoseconds())
	return errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
}

// drain takes what an earlier errand has left unread. The kernel answers while it
// is asked, so nothing comes later.
func drain(fd int) error {
	buf := make([]byte, 4<<10)
	for {
		_, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// nfgenmsg is the header of nfnetlink behind that of netlink.
const nfgenmsg = 4

func (c *conn) appendMessage(b []byte, kind, flags uint16, family byte, resource uint16, attrs []attr) []byte {
	c.seq++
	begin := len(b)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = binary.NativeEndian.AppendUint32(b, c.seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = append(b, family, 0)
	b = binary.BigEndian.AppendUint16(b, resource)
	for _, a := range attrs {
		b = append(b, a...)
	}
	binary.NativeEndian.PutUint32(b[begin:], uint32(len(b)-begin))
	return b
}

const nftables = unix.NFNL_SUBSYS_NFTABLES << 8

// commit sends messages as one batch, which takes effect as a whole, and waits
// for the answer to the last.
func (c *conn) commit(messages []message) error {
	b := c.appendMessage(nil, unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	for i, m := range messages {
		flags := uint16(0)
		switch m.kind {
		case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_NEWRULE:
			flags = unix.NLM_F_CREATE
		}
		if m.append {
			flags |= unix.NLM_F_APPEND
		}
		if i == len(messages)-1 {
			flags |= unix.NLM_F_ACK
		}
		b = c.appendMessage(b, nftables|m.kind, flags, unix.NFPROTO_INET, 0, m.attrs)
	}
	last := c.seq
	b = c.appendMessage(b, unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	if err := c.send(b); err != nil {
		return err
	}
	if _, err := c.receive(last, false); err != nil {
		return fmt.Errorf("cannot change the packet filter: %w", err)
	}
	return nil
}

// query returns the attributes of each object that the kernel answers with.
func (c *conn) query(kind uint16, all bool, attrs ...attr) ([][]byte, error) {
	flags := uint16(unix.NLM_F_ACK)
	if all {
		flags = unix.NLM_F_DUMP
	}
	if err := c.send(c.appendMessage(nil, nftables|kind, flags, unix.NFPROTO_INET, 0, attrs)); err != nil {
		return nil, err
	}
	return c.receive(c.seq, all)
}

func (c *conn) send(b []byte) error {
	if err := unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("cannot ask the packet filter: %w", err)
	}
	return nil
}

// errChanged says that a list changed while it was read.
var errChanged = errors.New("it changed while it was read")

// receive reads until the request seq is answered: by an acknowledgement, or at
// the end of a list. The first error of any request counts.
func (c *conn) receive(seq uint32, list bool) ([][]byte, error) {
	var out [][]byte
	buf := make([]byte, 64<<10)
	for {
		n, from, err := unix.Recvfrom(c.fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.EAGAIN) {
			return nil, fmt.Errorf("no answer in time: %w", os.ErrDeadlineExceeded)
		}
		if err != nil {
			return nil, err
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue // not from the kernel
		}
		got, end, err := split(buf[:n], seq, list)
		if err != nil {
			return nil, err
		}
		for _, g := range got {
			out = append(out, append([]byte(nil), g...))
		}
		if end {
			return out, nil
		}
	}
}

// split reads the messages of one datagram: the attributes of objects, and
// whether the request seq is answered with it.
func split(data []byte, seq uint32, list bool) (objects [][]byte, end bool, err error) {
	for len(data) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(data))
		if size < unix.SizeofNlMsghdr || size > len(data) {
			return nil, false, fmt.Errorf("answer of %d bytes in %d", size, len(data))
		}
		kind, flags, number := binary.NativeEndian.Uint16(data[4:]), binary.NativeEndian.Uint16(data[6:]), binary.NativeEndian.Uint32(data[8:])
		body := data[unix.SizeofNlMsghdr:size]
		data = data[min(align(size), len(data)):]
		switch {
		case kind == unix.NLMSG_ERROR || kind == unix.NLMSG_DONE && len(body) >= 4:
			if len(body) < 4 {
				return nil, false, errors.New("error without its number")
			}
			if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
				return nil, false, unix.Errno(-code)
			}
			end = end || number == seq
		case kind == unix.NLMSG_DONE:
			end = end || number == seq
		case list && flags&unix.NLM_F_DUMP_INTR != 0:
			return nil, false, errChanged
		case kind>>8 == unix.NFNL_SUBSYS_NFTABLES && number == seq && len(body) >= nfgenmsg:
			objects = append(objects, body[nfgenmsg:])
		}
	}
	return objects, end, nil
}
