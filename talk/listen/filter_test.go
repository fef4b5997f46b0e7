package listen

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/miotfacts/miotfacts/talk"
	"golang.org/x/sys/unix"
)

// through sends a packet through the filter as the kernel runs it and returns
// what comes out.
func through(t *testing.T, filter []unix.SockFilter, packet []byte) []byte {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if err := unix.SetsockoptSockFprog(fds[1], unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fds[0], packet); err != nil && err != unix.EPERM { // nothing came through
		t.Fatal(err)
	}
	out := make([]byte, 1<<16)
	n, err := unix.Read(fds[1], out)
	if err == unix.EAGAIN {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return out[:n]
}

func tcp(flags byte, options int, payload ...byte) []byte {
	b := make([]byte, 20+options)
	binary.BigEndian.PutUint16(b, 40000)
	binary.BigEndian.PutUint16(b[2:], 443)
	b[12], b[13] = byte((20+options)/4)<<4, flags
	return append(b, payload...)
}

func udp(from, to uint16, payload ...byte) []byte {
	b := make([]byte, 8)
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return append(b, payload...)
}

func TestFilterOfPackets(t *testing.T) {
	filter, err := assemble(packets())
	if err != nil {
		t.Fatal(err)
	}
	data := slices.Repeat([]byte{0xaa}, 1000)
	with := func(head ...byte) []byte { return append(head, data...) }
	dnsTCP := tcp(16, 0, data...)
	binary.BigEndian.PutUint16(dnsTCP, 53)
	const fin, syn, rst, push, ack = 1, 2, 4, 8, 16
	const all, headers, nothing = -1, -2, 0
	for _, c := range []struct {
		what     string
		protocol byte
		segment  []byte
		want     int
	}{
		{"SYN", 6, tcp(syn, 20), headers},
		{"SYN with data", 6, tcp(syn, 20, data...), headers},
		{"the end, with data", 6, tcp(fin|ack, 12, data...), headers},
		{"reset", 6, tcp(rst, 0), headers},
		{"acknowledgement", 6, tcp(ack, 12), nothing},
		{"payload", 6, tcp(push|ack, 12, data...), nothing},
		{"little payload", 6, tcp(push|ack, 12, 22, 3, 1), nothing},
		{"TLS data", 6, tcp(push|ack, 12, with(23, 3, 3, 3, 0xe8)...), nothing},
		{"ClientHello", 6, tcp(push|ack, 12, with(22, 3, 1, 3, 0xe8, 1)...), all},
		{"ServerHello", 6, tcp(ack, 0, with(22, 3, 3, 3, 0xe8, 2)...), all},
		{"Certificate", 6, tcp(ack, 40, with(22, 3, 3, 3, 0xe8, 11)...), all},
		{"Finished", 6, tcp(ack, 12, with(22, 3, 3, 3, 0xe8, 20)...), nothing},
		{"what is no record", 6, tcp(ack, 12, with(22, 9, 3, 3, 0xe8, 1)...), nothing},
		{"alert", 6, tcp(push|ack, 12, 21, 3, 3, 0, 2, 2, 40), all},
		{"alert with the end", 6, tcp(fin|ack, 12, 21, 3, 3, 0, 2, 2, 40), all},
		{"encrypted alert", 6, tcp(push|ack, 12, with(21, 3, 3, 0, 26)...), nothing},
		{"DNS over TCP", 6, dnsTCP, all},
		{"answer of DNS", 17, udp(53, 40000, data...), all},
		{"question of DNS", 17, udp(40000, 53, data...), headers},
		{"time", 17, udp(40000, 123, data[:48]...), headers},
		{"nothing in it", 17, udp(40000, 123), headers},
		{"QUIC, beginning", 17, udp(40000, 443, with(0xc3, 0, 0, 0, 1)...), all},
		{"QUIC version 2", 17, udp(40000, 9000, with(0xd3, 0x6b, 0x33, 0x43, 0xcf)...), all},
		{"QUIC, another version", 17, udp(40000, 443, with(0xc3, 1, 2, 3, 4)...), headers},
		{"QUIC, data", 17, udp(40000, 443, with(0x43)...), nothing},
		{"QUIC, data back", 17, udp(443, 40000, with(0x43)...), nothing},
		{"the like elsewhere", 17, udp(40000, 5004, with(0x43)...), headers},
		{"WireGuard", 17, udp(40000, 443, with(4, 0, 0, 0)...), headers},
		{"ICMP", 1, data, nothing},
	} {
		for _, options := range []int{0, 8} {
			ip := make([]byte, 20+options)
			ip[0], ip[9] = 0x40|byte(len(ip)/4), c.protocol
			check(t, c.what+" over IPv4", through(t, filter, append(ip, c.segment...)), ip, c.segment, c.want)
		}
		ip := make([]byte, 40)
		ip[0], ip[6] = 0x60, c.protocol
		if c.protocol == 1 {
			ip[6] = 58
		}
		check(t, c.what+" over IPv6", through(t, filter, append(ip, c.segment...)), ip, c.segment, c.want)
	}
	for what, c := range map[string]struct {
		change func(ip []byte)
		want   int
	}{
		"first fragment":        {func(ip []byte) { ip[6] = 0x20 }, 80},
		"last fragment":         {func(ip []byte) { ip[7] = 9 }, 80},
		"may not be fragmented": {func(ip []byte) { ip[6] = 0x40 }, 28},
		"neither 4 nor 6":       {func(ip []byte) { ip[0] = 0x55 }, 0},
	} {
		ip := make([]byte, 20)
		ip[0], ip[9] = 0x45, 17
		c.change(ip)
		if got := through(t, filter, append(ip, udp(40000, 123, data...)...)); len(got) != c.want {
			t.Errorf("%s: %d bytes, want %d", what, len(got), c.want)
		}
	}
	six := make([]byte, 40)
	six[0], six[6] = 0x60, 44
	if got := through(t, filter, append(six, data...)); len(got) != 80 {
		t.Errorf("fragment of IPv6: %d bytes", len(got))
	}
	long := make([]byte, 20)
	long[0], long[9] = 0x45, 6
	if got := through(t, filter, append(long, tcp(ack, 0, append([]byte{22, 3, 1, 3, 0xe8, 1}, make([]byte, 9000)...)...)...)); len(got) != maxWhole {
		t.Errorf("a long hello: %d bytes, want %d", len(got), maxWhole)
	}
}

func check(t *testing.T, what string, got, ip, segment []byte, want int) {
	t.Helper()
	switch want {
	case -1:
		want = len(ip) + len(segment)
	case -2:
		want = len(ip) + 8
		if ip[0]>>4 == 4 && ip[9] == 6 || ip[0]>>4 == 6 && ip[6] == 6 {
			want = len(ip) + int(segment[12]>>4)*4
		}
	}
	if len(got) != want {
		t.Errorf("%s: %d bytes, want %d", what, len(got), want)
	}
}

func TestAssembleRefuses(t *testing.T) {
	for _, lines := range [][]line{{{code: ifEqual, yes: "nowhere"}}, {{at: "back", code: give}, {code: ifEqual, no: "back"}}, append([]line{{code: ifEqual, yes: "far"}}, append(make([]line, 300), line{at: "far"})...)} {
		if _, err := assemble(lines); err == nil {
			t.Errorf("%+v passes", lines[0])
		}
	}
	for _, interfaces := range [][]uint32{nil, {}, {1}, slices.Repeat([]uint32{7}, 32)} {
		if _, err := assemble(append(link(interfaces), packets()...)); err != nil {
			t.Errorf("%d interfaces: %v", len(interfaces), err)
		}
	}
}

// What the device forwards for others comes in and goes out; it is not its own.
func TestConcerns(t *testing.T) {
	l := &Listener{own: map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true, netip.MustParseAddr("2001:db8::1"): true}, asked: 5}
	packet := func(src, dst string, way talk.Way) *talk.Packet {
		a, b := netip.MustParseAddr(src), netip.MustParseAddr(dst)
		ip := make([]byte, 20)
		ip[0] = 0x45
		if a.Is6() {
			ip = make([]byte, 40)
			ip[0] = 0x60
			copy(ip[8:], a.AsSlice())
			copy(ip[24:], b.AsSlice())
		} else {
			copy(ip[12:], a.AsSlice())
			copy(ip[16:], b.AsSlice())
		}
		return &talk.Packet{At: 5, Data: ip, Way: way}
	}
	for _, c := range []struct {
		src, dst string
		way      talk.Way
		want     bool
	}{
		{"192.0.2.1", "198.51.100.1", talk.Sent, true},
		{"198.51.100.1", "192.0.2.1", talk.Received, true},
		{"2001:db8::1", "2001:db8::2", talk.Sent, true},
		{"192.168.7.7", "198.51.100.1", talk.Received, false},
		{"192.168.7.7", "198.51.100.1", talk.Sent, false},
		{"2001:db8::7", "2001:db8::2", talk.Received, false},
		{"127.0.0.1", "127.0.0.1", talk.WayUnknown, true},
	} {
		if got := l.concerns(packet(c.src, c.dst, c.way)); got != c.want {
			t.Errorf("%s to %s, way %d: %t", c.src, c.dst, c.way, got)
		}
	}
	if !l.concerns(&talk.Packet{Data: []byte{0x45}, Way: talk.Sent}) {
		t.Error("what is broken is not counted")
	}
}
