// Package listen hears on the device what package talk reads: packets as they
// pass, and whose program has a connection.
//
// Packets come from AF_PACKET, cooked, through a filter in the kernel that copies
// headers, answers of DNS and unencrypted messages of handshakes and nothing else
// (filter.go), into a ring shared with the kernel (packet(7), TPACKET_V3). What a
// full ring has no room for is counted. Programs come from sock_diag(7), cgroups
// and the names of processes.
//
// The kernel is trusted. Bytes of packets are only copied here, not understood.
// Opening needs CAP_NET_RAW; nothing that follows does. It sends nothing to
// anybody, and does not see what the device forwards for others as its own.
package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/miotfacts/miotfacts/talk"
	"golang.org/x/sys/unix"
)

// The ring. The kernel hands over a block when it is full, or after blockWait.
const (
	blocks    = 8
	blockSize = 128 << 10
	frameSize = 2 << 10 // of no effect in this version, but checked
	blockWait = 40      // milliseconds
)

// HeldBack is how long a packet may lie in the ring before it can be read.
const HeldBack = 2 * blockWait * time.Millisecond

// Offsets in struct tpacket_block_desc, tpacket3_hdr and sockaddr_ll
// (linux/if_packet.h).
const (
	blockStatus  = 8
	blockPackets = 12
	blockFirst   = 16

	packetNext    = 0
	packetSeconds = 4
	packetNanos   = 8
	packetCopied  = 12
	packetLength  = 16
	packetStatus  = 20
	packetData    = 24
	packetHeader  = 48

	addressDevice = 4
	addressLink   = 8
	addressKind   = 10

	statusUser   = 1 // TP_STATUS_USER
	statusLosing = 4 // TP_STATUS_LOSING
)

// A Listener hears packets. It is not safe for use by several goroutines.
type Listener struct {
	fd      int
	route   int // rtnetlink(7), opened once: later there is no right to
	ring    []byte
	next    int // block
	names   []string
	numbers []uint32
	own     map[netip.Addr]bool
	asks    uint32
	asked   int64 // when own was read, Unix nanoseconds
	losing  bool
	Passing uint64 // packets that the device forwards for others, left out
}

// Open begins to listen on the named interfaces, or with none on all but the
// loopback. An interface that is not there yet may come later, see Look.
func Open(interfaces []string) (*Listener, error) {
	// No protocol: nothing is heard before the filter is there.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open packet socket: %w", err)
	}
	l := &Listener{fd: fd, route: -1, names: interfaces}
	if err := l.start(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Listener) start() error {
	if err := unix.SetsockoptInt(l.fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("cannot use ring of packets: %w", err)
	}
	r := unix.TpacketReq3{Block_size: blockSize, Block_nr: blocks, Frame_size: frameSize, Frame_nr: blocks * blockSize / frameSize, Retire_blk_tov: blockWait}
	if err := unix.SetsockoptTpacketReq3(l.fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &r); err != nil {
		return fmt.Errorf("cannot make ring of packets: %w", err)
	}
	var err error
	if l.ring, err = unix.Mmap(l.fd, 0, blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return fmt.Errorf("cannot map ring of packets: %w", err)
	}
	l.numbers = l.numbersOf()
	if err := l.filter(); err != nil {
		return err
	}
	if l.route, err = openNetlink(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if err := l.readOwn(); err != nil {
		return err
	}
	if err := unix.Bind(l.fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL)}); err != nil {
		return fmt.Errorf("cannot bind packet socket: %w", err)
	}
	return nil
}

func bigEndian(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

func (l *Listener) filter() error {
	numbers := l.numbers
	if len(l.names) > 0 && numbers == nil {
		numbers = []uint32{} // none of them is there: nothing is heard
	}
	f, err := assemble(append(link(numbers), packets()...))
	if err != nil {
		return err
	}
	if err := unix.SetsockoptSockFprog(l.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}); err != nil {
		return fmt.Errorf("cannot set filter of packets: %w", err)
	}
	return nil
}

// numbersOf returns the numbers of the named interfaces that are there.
func (l *Listener) numbersOf() (numbers []uint32) {
	for _, name := range l.names {
		r, err := unix.NewIfreq(name)
		if err == nil && unix.IoctlIfreq(l.fd, unix.SIOCGIFINDEX, r) == nil {
			numbers = append(numbers, r.Uint32())
		}
	}
	return numbers
}

// Look finds named interfaces that have come or gone. It returns the names of
// those that are not there.
func (l *Listener) Look() (missing int, err error) {
	if numbers := l.numbersOf(); !slices.Equal(numbers, l.numbers) {
		l.numbers = numbers
		err = l.filter()
	}
	return len(l.names) - len(l.numbers), err
}

// Everywhere reports whether it listens on all interfaces.
func (l *Listener) Everywhere() bool { return len(l.names) == 0 }

// Wait waits until there are packets, until stop can be read or hangs up, or
// until the time is over. It reports whether stop was the reason.
func (l *Listener) Wait(stop int, d time.Duration) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}, {Fd: int32(stop), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, int(max(d, 0).Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return false, fmt.Errorf("cannot wait for packets: %w", err)
	}
	return err == nil && fds[1].Revents != 0, nil
}

// Read hands over all packets that are there. Their bytes are valid until each
// returns.
func (l *Listener) Read(each func(talk.Packet)) {
	for range blocks { // not for ever: others have to have their turn in a flood
		b := l.ring[l.next*blockSize:][:blockSize]
		status := (*uint32)(unsafe.Pointer(&b[blockStatus]))
		if atomic.LoadUint32(status)&statusUser == 0 {
			return
		}
		l.block(b, each)
		atomic.StoreUint32(status, 0) // the kernel's again
		l.next = (l.next + 1) % blocks
	}
}

func (l *Listener) block(b []byte, each func(talk.Packet)) {
	ne := binary.NativeEndian
	at := int(ne.Uint32(b[blockFirst:]))
	for range ne.Uint32(b[blockPackets:]) {
		if at < 0 || at+packetHeader+unix.SizeofSockaddrLinklayer > len(b) {
			return
		}
		h := b[at:]
		start, size := int(ne.Uint16(h[packetData:])), int(ne.Uint32(h[packetCopied:]))
		if size < 0 || start+size > len(h) {
			return
		}
		l.losing = l.losing || ne.Uint32(h[packetStatus:])&statusLosing != 0
		p := talk.Packet{
			At:     int64(ne.Uint32(h[packetSeconds:]))*int64(time.Second) + int64(ne.Uint32(h[packetNanos:])),
			Data:   h[start : start+size],
			Length: int(ne.Uint32(h[packetLength:])),
		}
		if ne.Uint16(h[packetHeader+addressLink:]) != aLoopback {
			p.Way = talk.Received
			if h[packetHeader+addressKind] == fromUs {
				p.Way = talk.Sent
			}
		}
		if l.concerns(&p) {
			each(p)
		} else {
			l.Passing++
		}
		at += int(ne.Uint32(h[packetNext:]))
	}
}

// concerns reports whether a packet is the device's: what it forwards for others
// comes in and goes out as well.
func (l *Listener) concerns(p *talk.Packet) bool {
	if p.Way == talk.WayUnknown {
		return true
	}
	var src, dst netip.Addr
	switch b := p.Data; {
	case len(b) >= 20 && b[0]>>4 == 4:
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 40 && b[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return true // package talk counts it as broken
	}
	mine := dst
	if p.Way == talk.Sent {
		mine = src
	}
	if l.own[mine] {
		return true
	}
	// Addresses come and go; not more than one look a second.
	if since := p.At - l.asked; since >= 0 && since < int64(time.Second) {
		return false
	}
	l.asked = p.At
	return l.readOwn() == nil && l.own[mine]
}

// readOwn reads the addresses of this machine (rtnetlink(7), RTM_GETADDR).
func (l *Listener) readOwn() error {
	request := make([]byte, unix.NLMSG_HDRLEN+unix.SizeofRtGenmsg)
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.RTM_GETADDR)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	l.asks++
	binary.NativeEndian.PutUint32(request[8:], l.asks)
	if _, err := unix.Write(l.route, request); err != nil {
		return fmt.Errorf("cannot ask for addresses: %w", err)
	}
	own := map[netip.Addr]bool{}
	for buf := make([]byte, diagBuffer); ; {
		n, err := unix.Read(l.route, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot read addresses: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("cannot read addresses: %w", err)
		}
		done, err := addresses(messages, l.asks, own)
		if err != nil {
			return err
		}
		if done {
			l.own = own
			return nil
		}
	}
}

// addresses takes the addresses in one datagram of the answer to a question.
func addresses(messages []syscall.NetlinkMessage, asked uint32, own map[netip.Addr]bool) (done bool, err error) {
	for i := range messages {
		if messages[i].Header.Seq != asked {
			continue // the answer to a question that was given up
		}
		switch messages[i].Header.Type {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			return false, errors.New("cannot read addresses: the kernel refuses")
		case unix.RTM_NEWADDR:
		default:
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&messages[i])
		if err != nil {
			return false, fmt.Errorf("cannot read addresses: %w", err)
		}
		var local, address []byte
		for _, a := range attributes {
			switch a.Attr.Type {
			case syscall.IFA_LOCAL:
				local = a.Value
			case syscall.IFA_ADDRESS:
				address = a.Value
			}
		}
		if local == nil { // of a point-to-point link the other is the peer's
			local = address
		}
		if addr, ok := netip.AddrFromSlice(local); ok {
			own[addr] = true
		}
	}
	return false, nil
}

// Losing reports whether packets were lost since Dropped was called.
func (l *Listener) Losing() bool { return l.losing }

// Dropped returns how many packets the kernel had no room for since the last call.
func (l *Listener) Dropped() (uint64, error) {
	s, err := unix.GetsockoptTpacketStatsV3(l.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("cannot count lost packets: %w", err)
	}
	l.losing = false
	return uint64(s.Drops), nil
}

// Close ends it.
func (l *Listener) Close() error {
	var err error
	if l.ring != nil {
		err = unix.Munmap(l.ring)
	}
	if l.route >= 0 {
		err = errors.Join(err, unix.Close(l.route))
	}
	return errors.Join(err, unix.Close(l.fd))
}
