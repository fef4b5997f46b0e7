package talk_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/talk"
)

var (
	device = netip.MustParseAddrPort("192.168.1.10:40000")
	server = netip.MustParseAddrPort("203.0.113.5:443")
	dns    = netip.MustParseAddrPort("192.168.1.1:53")
)

const (
	fin = 1
	syn = 2
	rst = 4
	ack = 16
)

// packet makes an IP packet; flags and seq are for TCP.
func packet(proto uint8, src, dst netip.AddrPort, flags uint8, seq uint32, payload []byte) []byte {
	head := make([]byte, 20)
	if proto == talk.UDP {
		head = make([]byte, 8)
		binary.BigEndian.PutUint16(head[4:], uint16(8+len(payload)))
	} else {
		binary.BigEndian.PutUint32(head[4:], seq)
		head[12], head[13] = 5<<4, flags
	}
	binary.BigEndian.PutUint16(head, src.Port())
	binary.BigEndian.PutUint16(head[2:], dst.Port())
	body := append(head, payload...)
	if src.Addr().Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(body)))
		copy(ip[12:], src.Addr().AsSlice())
		copy(ip[16:], dst.Addr().AsSlice())
		return append(ip, body...)
	}
	ip := make([]byte, 40)
	ip[0], ip[6] = 0x60, proto
	binary.BigEndian.PutUint16(ip[4:], uint16(len(body)))
	copy(ip[8:], src.Addr().AsSlice())
	copy(ip[24:], dst.Addr().AsSlice())
	return append(ip, body...)
}

// A story is a sequence of packets, a millisecond apart.
type story struct {
	table *talk.Table
	at    int64
	send  func(talk.Packet) // nil: into the table
}

func newStory(o talk.Options) *story {
	return &story{table: talk.NewTable(o), at: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()}
}

func (s *story) raw(b []byte) (talk.Conn, bool) {
	s.at += int64(time.Millisecond)
	p := talk.Packet{At: s.at, Data: b, Length: len(b)}
	if s.send != nil {
		s.send(p)
		return talk.Conn{}, false
	}
	return s.table.Add(p)
}

func (s *story) tcp(src, dst netip.AddrPort, flags uint8, seq uint32, payload []byte) {
	s.raw(packet(talk.TCP, src, dst, flags, seq, payload))
}

func (s *story) udp(src, dst netip.AddrPort, payload []byte) {
	s.raw(packet(talk.UDP, src, dst, 0, 0, payload))
}

// session plays a connection in segments of size bytes: both directions' bytes
// after the handshake of TCP.
func (s *story) session(a, b netip.AddrPort, up, down []byte, size int) {
	s.tcp(a, b, syn, 999, nil)
	s.tcp(b, a, syn|ack, 0xffffff00, nil) // wraps around
	x, y := uint32(1000), uint32(0xffffff01)
	for _, d := range []struct {
		from, to netip.AddrPort
		seq      *uint32
		data     []byte
	}{{a, b, &x, up}, {b, a, &y, down}} {
		for len(d.data) > 0 {
			n := min(size, len(d.data))
			s.tcp(d.from, d.to, ack, *d.seq, d.data[:n])
			*d.seq += uint32(n)
			d.data = d.data[n:]
		}
	}
	s.tcp(a, b, fin|ack, x, nil)
	s.tcp(b, a, fin|ack, y, nil)
}

// only returns the one peer.
func (s *story) only(t *testing.T) talk.Peer {
	t.Helper()
	r := s.table.Record(0)
	if len(r.Peers) != 1 {
		t.Fatalf("%d peers, want one: %+v", len(r.Peers), r.Peers)
	}
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := talk.Decode(data); err != nil {
		t.Fatalf("a record that was written cannot be read: %v", err)
	}
	return r.Peers[0]
}

// handshake lets Go's client and openssl's kind of server shake hands in memory
// and returns what each sent.
func handshake(t testing.TB, client *tls.Config, version uint16) (up, down []byte) {
	t.Helper()
	a, b := net.Pipe()
	var u, d bytes.Buffer
	cert := authority(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := tls.Server(b, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: version, MaxVersion: version})
		_ = c.Handshake() // the client's end says whether it went well
		io.Copy(io.Discard, c)
	}()
	client.InsecureSkipVerify = true
	client.MinVersion = tls.VersionTLS10
	c := tls.Client(tap{a, &u, &d}, client)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	a.Close()
	<-done
	return u.Bytes(), d.Bytes()
}

type tap struct {
	net.Conn
	up, down *bytes.Buffer
}

func (t tap) Write(b []byte) (int, error) {
	t.up.Write(b)
	return t.Conn.Write(b)
}

func (t tap) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.down.Write(b[:n])
	return n, err
}

func TestHandshakes(t *testing.T) {
	for _, c := range []struct {
		version uint16
		issuer  string
	}{{tls.VersionTLS10, "CN=Test CA,O=Test"}, {tls.VersionTLS11, "CN=Test CA,O=Test"}, {tls.VersionTLS12, "CN=Test CA,O=Test"}, {tls.VersionTLS13, ""}} {
		up, down := handshake(t, &tls.Config{ServerName: "a.example"}, c.version)
		for _, size := range []int{1, 7, 100, 1460, 1 << 15} {
			s := newStory(talk.Workbench())
			s.session(device, server, up, down, size)
			p := s.only(t)
			if p.TLS != c.version || p.Issuer != c.issuer || p.Name != "a.example" || p.Security != talk.SecurityTLS || p.Cipher == 0 {
				t.Errorf("%s in segments of %d: %+v", tls.VersionName(c.version), size, p)
			}
			if p.Out != uint64(len(up)) || p.In != uint64(len(down)) || p.Attempts != 1 || p.Answered != 1 {
				t.Errorf("%s in segments of %d: %d and %d bytes, want %d and %d", tls.VersionName(c.version), size, p.Out, p.In, len(up), len(down))
			}
		}
	}
}

// Segments that come out of order, twice and overlapping are one hello still.
func TestReassembly(t *testing.T) {
	up, down := handshake(t, &tls.Config{ServerName: "a.example"}, tls.VersionTLS12)
	s := newStory(talk.Workbench())
	s.tcp(device, server, syn, 999, nil)
	s.tcp(server, device, syn|ack, 4999, nil)
	s.tcp(device, server, ack, 1000+40, up[40:90])
	s.tcp(device, server, ack, 1000+80, up[80:])
	s.tcp(device, server, ack, 1000, up[:50])
	s.tcp(device, server, ack, 1000, up[:50])
	s.tcp(server, device, ack, 5000+300, down[300:])
	s.tcp(server, device, ack, 5000, down[:310])
	if p := s.only(t); p.Name != "a.example" || p.TLS != tls.VersionTLS12 || p.Issuer == "" || p.Out != uint64(len(up)) || p.In != uint64(len(down)) {
		t.Errorf("%+v", p)
	}
	// Without the part in the middle nothing is made up.
	s = newStory(talk.Workbench())
	s.tcp(device, server, syn, 999, nil)
	s.tcp(server, device, syn|ack, 4999, nil)
	s.tcp(device, server, ack, 1000, up[:50])
	s.tcp(device, server, ack, 1000+80, up[80:])
	s.tcp(device, server, fin|ack, 1000+uint32(len(up)), nil)
	if p, r := s.only(t), s.table.Record(0); p.Name != "" || r.Loss.Hellos != 1 {
		t.Errorf("%+v, %+v", p, r.Loss)
	}
}

// answer makes an answer of DNS.
func answer(question string, records ...[2]string) []byte {
	label := func(name string) (b []byte) {
		for l := range strings.SplitSeq(name, ".") {
			b = append(append(b, byte(len(l))), l...)
		}
		return append(b, 0)
	}
	b := []byte{0, 1, 0x81, 0x80, 0, 1, 0, byte(len(records)), 0, 0, 0, 0}
	b = append(append(b, label(question)...), 0, 1, 0, 1)
	for _, r := range records {
		var data []byte
		kind := byte(5)
		if a, err := netip.ParseAddr(r[1]); err != nil {
			data = label(r[1])
		} else if data, kind = a.AsSlice(), 1; a.Is6() {
			kind = 28
		}
		b = append(b, label(r[0])...)
		b = append(b, 0, kind, 0, 1, 0, 0, 0, 60, 0, byte(len(data)))
		b = append(b, data...)
	}
	return b
}

func TestNames(t *testing.T) {
	v6 := netip.MustParseAddrPort("[2001:db8::5]:8883")
	mine := netip.MustParseAddrPort("[fd00::10]:40001")
	for _, c := range []struct {
		what   string
		answer []byte
		peer   netip.AddrPort
		want   string
	}{
		{"plain", answer("Cloud.Maker.example", [2]string{"cloud.maker.example", "203.0.113.5"}), server, "cloud.maker.example"},
		{"by aliases", answer("a.example", [2]string{"a.example", "b.example"}, [2]string{"b.example", "c.example"}, [2]string{"c.example", "203.0.113.5"}), server, "a.example"},
		{"IPv6", answer("six.example", [2]string{"six.example", "2001:db8::5"}), v6, "six.example"},
		{"another's record", answer("a.example", [2]string{"evil.example", "203.0.113.5"}), server, ""},
		{"terminal codes", answer("a\x1b[2J.example", [2]string{"a\x1b[2J.example", "203.0.113.5"}), server, ""},
		{"cut", answer("a.example", [2]string{"a.example", "203.0.113.5"})[:30], server, ""},
		{"a pointer to itself", append(answer("a.example")[:12], 0xc0, 12, 0, 1, 0, 1), server, ""},
	} {
		s := newStory(talk.Workbench())
		s.udp(device, dns, answer("a.example")) // somebody has to ask
		s.udp(dns, device, c.answer)
		from := device
		if c.peer.Addr().Is6() {
			from = mine
		}
		s.tcp(from, c.peer, syn, 1, nil)
		found := false
		for _, p := range s.table.Record(0).Peers {
			if p.Port != c.peer.Port() {
				continue
			}
			found = true
			if p.Name != c.want || (p.NameFrom == talk.FromDNS) != (c.want != "") || p.Answered != 0 || p.Attempts != 1 {
				t.Errorf("%s: %+v", c.what, p)
			}
		}
		if !found {
			t.Errorf("%s: no peer", c.what)
		}
	}
}

// The first packet of RFC 9001, appendix A.2, asks for example.com.
func TestQUIC(t *testing.T) {
	s := newStory(talk.Workbench())
	s.udp(device, server, quicInitial(t))
	p := s.only(t)
	if p.Security != talk.SecurityQUIC || p.Name != "example.com" || p.NameFrom != talk.FromSNI || p.TLS != tls.VersionTLS13 || p.Protocol != talk.UDP {
		t.Errorf("%+v", p)
	}
	b := quicInitial(t)
	b[len(b)-1] ^= 1
	s = newStory(talk.Workbench())
	s.udp(device, server, b)
	if p := s.only(t); p.Security != talk.SecurityQUIC || p.Name != "" {
		t.Errorf("altered: %+v", p)
	}
}

func quicInitial(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/quic-initial.hex")
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHowItBegins(t *testing.T) {
	for _, c := range []struct {
		what     string
		up, down []byte
		want     talk.Security
	}{
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\n"), talk.SecurityNone},
		{"the server first", nil, []byte("220 mail\r\n"), talk.SecurityNone},
		{"nothing said", nil, nil, talk.SecurityUnknown},
		{"an alert", []byte{22, 3, 1, 0, 4, 1, 0, 0, 0}, []byte{21, 3, 3, 0, 2, 2, 40}, talk.SecurityRefused},
	} {
		s := newStory(talk.Workbench())
		s.session(device, server, c.up, c.down, 1460)
		if p := s.only(t); p.Security != c.want {
			t.Errorf("%s: %+v", c.what, p)
		}
	}
	// What a filter did not let through was no handshake.
	o := talk.Workbench()
	o.Sparse = true
	s := newStory(o)
	s.tcp(device, server, syn, 999, nil)
	s.tcp(server, device, syn|ack, 4999, nil)
	s.tcp(device, server, fin|ack, 1000+300, nil)
	if p := s.only(t); p.Counted {
		t.Errorf("counted before the end: %+v", p)
	}
	s.tcp(server, device, fin|ack, 5000+70000, nil)
	if p := s.only(t); p.Security != talk.SecurityNone || p.Out != 300 || p.In != 70000 || !p.Counted {
		t.Errorf("sparse: %+v", p)
	}
}

func TestDirections(t *testing.T) {
	s := newStory(talk.Workbench())
	client := netip.MustParseAddrPort("198.51.100.7:55555")
	service := netip.MustParseAddrPort("192.168.1.10:22")
	s.session(client, service, []byte("SSH-2.0-x\r\n"), []byte("SSH-2.0-y\r\n"), 100)
	if p := s.only(t); !p.Inbound || p.Port != 22 || p.Address.Addr() != client.Addr() || p.In != 11 {
		t.Errorf("%+v", p)
	}
	// A scan from outside leaves a count and no rows.
	for port := range uint16(500) {
		s.tcp(client, netip.AddrPortFrom(service.Addr(), 1000+port), syn, 1, nil)
	}
	s.at += int64(time.Hour)
	s.tcp(client, service, ack, 1, []byte("x"))
	if n := len(s.table.Record(0).Peers); n != 1 {
		t.Errorf("%d rows after a scan", n)
	}
}

func TestBoundsAndLoss(t *testing.T) {
	o := talk.Options{Flows: 10, Peers: 5, Names: 3, Begin: 100}
	s := newStory(o)
	for i := range 100 {
		from := netip.AddrPortFrom(device.Addr(), uint16(1000+i))
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 443)
		s.udp(device, dns, answer("a.example"))
		s.udp(dns, device, answer("a.example", [2]string{"a.example", to.Addr().String()}))
		s.tcp(from, to, syn, 1, nil)
		s.tcp(to, from, syn|ack, 1, nil)
		s.tcp(from, to, ack, 2, append([]byte{22, 3, 1, 1, 0, 1, 0, 0, 200}, bytes.Repeat([]byte{255}, 60)...))
	}
	s.raw([]byte{0x45})
	s.raw(nil)
	icmp := packet(talk.UDP, device, server, 0, 0, nil)
	icmp[9] = 1
	s.raw(icmp)
	part := packet(talk.UDP, device, server, 0, 0, nil)
	part[6] = 0x20
	s.raw(part)
	six := packet(talk.UDP, netip.MustParseAddrPort("[fd00::1]:1"), netip.MustParseAddrPort("[2001:db8::1]:2"), 0, 0, nil)
	six[6] = 44
	s.raw(six)
	s.table.Dropped(7)
	r := s.table.Record(0)
	if len(r.Peers) > 5 {
		t.Errorf("%d peers, the limit is 5", len(r.Peers))
	}
	l := r.Loss
	if l.Packets != 505 || l.Broken != 2 || l.Other != 1 || l.Fragments != 2 || l.Dropped != 7 || l.Names != 97 || l.Flows == 0 || l.Hellos == 0 || l.Peers == 0 {
		t.Errorf("loss: %+v", l)
	}
}

func TestRetentionAndRestart(t *testing.T) {
	o := talk.Workbench()
	o.Keep = 24 * time.Hour
	s := newStory(o)
	s.session(device, server, []byte("GET"), []byte("no"), 10)
	r := s.table.Record(s.at + int64(time.Hour))
	if len(r.Peers) != 1 {
		t.Fatalf("%+v", r)
	}
	again := newStory(o)
	again.at = s.at + int64(2*time.Hour)
	again.table.Restore(r)
	again.session(device, server, []byte("GET"), []byte("no"), 10)
	if p := again.only(t); p.Attempts != 2 || p.Out != 6 || p.First != r.Peers[0].First {
		t.Errorf("%+v", p)
	}
	late := again.table.Record(again.at + int64(26*time.Hour))
	if len(late.Peers) != 0 || late.Loss.Expired != 1 {
		t.Errorf("kept too long: %+v", late)
	}
}

// A name that nobody asked for is nobody's.
func TestAnswerWithoutQuestion(t *testing.T) {
	s := newStory(talk.Workbench())
	s.udp(dns, device, answer("a.example", [2]string{"a.example", server.Addr().String()}))
	s.tcp(device, server, syn, 1, nil)
	for _, p := range s.table.Record(0).Peers {
		if p.Name != "" {
			t.Errorf("%+v", p)
		}
	}
}

// A port that is used again without an end that was seen is another connection;
// a SYN that is sent again is not.
func TestPortUsedAgain(t *testing.T) {
	s := newStory(talk.Workbench())
	s.tcp(device, server, syn, 1000, nil)
	s.tcp(device, server, syn, 1000, nil)
	s.tcp(server, device, syn|ack, 1, nil)
	if p := s.only(t); p.Attempts != 1 || p.Answered != 1 {
		t.Errorf("sent again: %+v", p)
	}
	s.tcp(device, server, syn, 99999, nil)
	if p := s.only(t); p.Attempts != 2 || p.Answered != 1 {
		t.Errorf("used again: %+v", p)
	}
	told := newStory(talk.Workbench())
	told.table.Tell(told.at, talk.Socket{Conn: talk.Conn{Protocol: talk.TCP, Local: device, Remote: server}})
	told.tcp(device, server, syn, 1, nil)
	if p := told.only(t); p.Attempts != 2 || p.Answered != 1 {
		t.Errorf("after one that was told of: %+v", p)
	}
}

// What breaks off has no last packet; the kernel knows that it is gone. So the
// row can expire.
func TestLost(t *testing.T) {
	o := talk.Workbench()
	o.Keep = time.Hour
	s := newStory(o)
	s.tcp(device, server, syn, 1, nil)
	s.tcp(server, device, syn|ack, 1, nil)
	there := map[talk.Conn]bool{{Protocol: talk.TCP, Local: device, Remote: server}: true}
	has := func(c talk.Conn) bool { return there[c] }
	late := s.at + int64(3*time.Hour)
	s.table.Lost(late, has)
	if r := s.table.Record(late); len(r.Peers) != 1 {
		t.Errorf("the kernel has it: %+v", r)
	}
	clear(there)
	s.table.Lost(s.at+int64(time.Minute), has)
	if !s.table.Watches(talk.Conn{Protocol: talk.TCP, Local: device, Remote: server}) {
		t.Error("given up after a minute")
	}
	s.table.Lost(late, has)
	if r := s.table.Record(late); len(r.Peers) != 0 || r.Loss.Expired != 1 {
		t.Errorf("the kernel has it no longer: %+v", r)
	}
}

// What the kernel says fills what packets do not show.
func TestTell(t *testing.T) {
	o := talk.Workbench()
	o.Sparse = true
	s := newStory(o)
	conn, began := s.raw(packet(talk.TCP, device, server, syn, 9, nil))
	if want := (talk.Conn{Protocol: talk.TCP, Local: device, Remote: server}); !began || conn != want {
		t.Fatalf("began %v %v", conn, began)
	}
	s.table.Tell(s.at, talk.Socket{Conn: conn, Process: "pump\x1b[0m", Unit: "system.slice/pump.service", Counted: true, Out: 10, In: 20})
	if p := s.only(t); p.Process != "pump?[0m" || p.Unit != "system.slice/pump.service" || !p.Counted || p.Out != 10 || p.In != 20 {
		t.Errorf("%+v", p)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := func() *talk.Record {
		s := newStory(talk.Workbench())
		s.session(device, server, []byte("GET"), []byte("no"), 10)
		s.session(netip.MustParseAddrPort("192.168.1.10:4"), dns, []byte("GET"), []byte("no"), 10)
		return s.table.Record(0)
	}
	for want, change := range map[string]func(*talk.Record){
		"":                             func(*talk.Record) {},
		"version 2":                    func(r *talk.Record) { r.Version = 2 },
		"is no time":                   func(r *talk.Record) { r.Until = 1 },
		"neither TCP nor UDP":          func(r *talk.Record) { r.Peers[0].Protocol = 1 },
		"is none":                      func(r *talk.Record) { r.Peers[0].Address = []byte{1} },
		"last 1 is no time":            func(r *talk.Record) { r.Peers[0].Last = 1 },
		"9 of 1 attempts":              func(r *talk.Record) { r.Peers[0].Answered = 9 },
		"not counted":                  func(r *talk.Record) { r.Peers[0].Counted = false },
		"security 9":                   func(r *talk.Record) { r.Peers[0].Security = 9 },
		"go together":                  func(r *talk.Record) { r.Peers[0].Name = "a" },
		"no name of a machine":         func(r *talk.Record) { r.Peers[0].Name, r.Peers[0].NameFrom = "<b>", 1 },
		"is no text":                   func(r *talk.Record) { r.Peers[0].Unit = "\x1b" },
		"not in order":                 func(r *talk.Record) { r.Peers[0], r.Peers[1] = r.Peers[1], r.Peers[0] },
		"or stands there twice":        func(r *talk.Record) { r.Peers[1] = r.Peers[0] },
		"is no text of at most 256 by": func(r *talk.Record) { r.Peers[0].Process = strings.Repeat("x", 257) },
	} {
		r := good()
		change(r)
		data, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		_, err = talk.Decode(data)
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// FuzzPackets takes packets from the network: each input is a direction's
// beginning, in both directions, and a packet as it is.
func FuzzPackets(f *testing.F) {
	up, down := handshake(f, &tls.Config{ServerName: "a.example"}, tls.VersionTLS12)
	_, modern := handshake(f, &tls.Config{ServerName: "a.example"}, tls.VersionTLS13)
	f.Add(up, uint16(100))
	f.Add(down, uint16(1460))
	f.Add(modern, uint16(33))
	f.Add(answer("a.example", [2]string{"a.example", "b.example"}, [2]string{"b.example", "203.0.113.5"}), uint16(0))
	f.Add(quicInitial(f), uint16(0))
	f.Add(packet(talk.TCP, device, server, syn, 1, nil), uint16(0))
	f.Fuzz(func(t *testing.T, data []byte, size uint16) {
		data = data[:min(len(data), 32<<10)]
		s := newStory(talk.Options{Flows: 4, Peers: 4, Names: 4, Begin: 8 << 10})
		s.raw(data)
		s.udp(device, dns, data)
		s.udp(dns, device, data)
		s.udp(device, server, data)
		s.udp(server, device, data)
		step := max(int(size), 16)
		s.session(device, server, data, nil, step)
		s.session(server, device, data, data, step)
		r := s.table.Record(0)
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := talk.Decode(b); err != nil {
			t.Fatalf("a record that was written cannot be read: %v", err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	s := newStory(talk.Workbench())
	s.session(device, server, []byte("GET"), []byte("no"), 10)
	b, err := s.table.Record(0).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := talk.Decode(data)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x encodes as %x, %v", data, again, err)
		}
	})
}
