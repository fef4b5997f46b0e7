package linux

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// readAddresses lists the addresses of all interfaces but the loopback. Of a
// fixture they are the lines of .calls/addresses.
func readAddresses(r *Root, o *out) {
	if !r.Live() {
		b, f := r.readFile(".calls/addresses")
		members := []string{}
		if !f.is() {
			members, f = parseAddresses(b)
		}
		if f.is() {
			o.fault(0, f)
			return
		}
		o.set(0, members)
		return
	}
	members := []string{}
	ifaces, err := net.Interfaces()
	for i := 0; i < len(ifaces) && err == nil; i++ {
		if ifaces[i].Flags&net.FlagLoopback != 0 {
			continue
		}
		var addrs []net.Addr
		addrs, err = ifaces[i].Addrs()
		for _, a := range addrs {
			members = append(members, ifaces[i].Name+" "+a.String())
		}
	}
	if err != nil {
		o.fault(0, fault{facts.Unreadable, "rtnetlink: " + err.Error()})
		return
	}
	o.set(0, members)
}

// parseAddresses reads lines "interface address/length".
func parseAddresses(b []byte) ([]string, fault) {
	members := []string{}
	for line := range bytes.Lines(b) {
		name, rest := field(line)
		text, rest := field(rest)
		p, err := netip.ParsePrefix(string(text))
		if err != nil || len(bytes.TrimSpace(rest)) != 0 || !utf8.Valid(name) {
			return nil, malformed("addresses: a line is not an interface and an address with its length")
		}
		members = append(members, string(name)+" "+p.String())
	}
	if len(members) == 0 {
		return nil, malformed("addresses is empty")
	}
	return members, fault{}
}

// Flags of a route, include/uapi/linux/route.h.
const (
	routeUp     = 0x1
	routeReject = 0x200
)

// route4 and route6 name the files in the order in which they are read.
const (
	route4 = "proc/net/route"
	route6 = "proc/net/ipv6_route"
)

// parseRoute4 returns the default routes in /proc/net/route as "interface
// gateway", or the interface alone where there is no gateway. Addresses are
// words of the machine's byte order, as in /proc/net/tcp.
func parseRoute4(b []byte) ([]string, fault) {
	bad := malformed("/proc/net/route has not the form of proc(5)")
	head, b, whole := bytes.Cut(b, []byte("\n"))
	if first, _ := field(head); string(first) != "Iface" || !whole {
		return nil, bad
	}
	members := []string{}
	for len(b) > 0 {
		var line []byte
		line, b, whole = bytes.Cut(b, []byte("\n"))
		fields := bytes.Fields(line)
		if !whole || len(fields) < 8 || len(fields[0]) >= unix.IFNAMSIZ || !utf8.Valid(fields[0]) {
			return nil, bad
		}
		target, ok1 := hexWord(fields[1])
		gateway, ok2 := hexWord(fields[2])
		flags, ok3 := hexWord(append([]byte("0000"), fields[3]...))
		mask, ok4 := hexWord(fields[7])
		if !ok1 || !ok2 || !ok3 || !ok4 {
			return nil, bad
		}
		if target != 0 || mask != 0 || flags&(routeUp|routeReject) != routeUp {
			continue
		}
		member := string(fields[0])
		if gateway != 0 {
			var a [4]byte
			binary.NativeEndian.PutUint32(a[:], gateway)
			member += " " + netip.AddrFrom4(a).String()
		}
		members = append(members, member)
	}
	return members, fault{}
}

// hexWord reads eight hexadecimal digits.
func hexWord(b []byte) (uint32, bool) {
	var w [4]byte
	if len(b) != 8 {
		return 0, false
	}
	if _, err := hex.Decode(w[:], b); err != nil {
		return 0, false
	}
	return binary.BigEndian.Uint32(w[:]), true
}

// parseRoute6 is parseRoute4 for /proc/net/ipv6_route (kernel,
// net/ipv6/route.c): target, its length, source, its length, next hop, metric,
// two counts, flags, interface.
func parseRoute6(b []byte) ([]string, fault) {
	bad := malformed("/proc/net/ipv6_route has not the kernel's form")
	members := []string{}
	for len(b) > 0 {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		b = rest
		fields := bytes.Fields(line)
		if !whole || len(fields) != 10 || len(fields[0]) != 32 || len(fields[1]) != 2 || len(fields[4]) != 32 || len(fields[9]) >= unix.IFNAMSIZ || !utf8.Valid(fields[9]) {
			return nil, bad
		}
		var target, hop [16]byte
		var length [1]byte
		flags, ok := hexWord(fields[8])
		if _, err := hex.Decode(target[:], fields[0]); err != nil || !ok {
			return nil, bad
		}
		if _, err := hex.Decode(hop[:], fields[4]); err != nil {
			return nil, bad
		}
		if _, err := hex.Decode(length[:], fields[1]); err != nil || length[0] > 128 {
			return nil, bad
		}
		if length[0] != 0 || flags&(routeUp|routeReject) != routeUp {
			continue
		}
		member := string(fields[9])
		if hop != [16]byte{} {
			member += " " + netip.AddrFrom16(hop).String()
		}
		members = append(members, member)
	}
	return members, fault{}
}

func readDefaultRoutes(r *Root, o *out) {
	members, f := []string{}, absent("the kernel has no routes to show")
	for _, file := range []struct {
		path  string
		parse func([]byte) ([]string, fault)
	}{{route4, parseRoute4}, {route6, parseRoute6}} {
		b, bad := r.readFile(file.path)
		if bad.status == facts.Absent {
			continue // a kernel without this protocol
		}
		var found []string
		if !bad.is() {
			found, bad = file.parse(b)
		}
		if bad.is() {
			o.fault(0, bad)
			return
		}
		members, f = append(members, found...), fault{}
	}
	if f.is() {
		o.fault(0, f)
		return
	}
	o.set(0, members)
}

// parseResolv returns the name servers of resolv.conf(5).
func parseResolv(b []byte) ([]string, fault) {
	if !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		return nil, malformed("resolv.conf is no text")
	}
	members := []string{}
	for line := range bytes.Lines(b) {
		key, rest := field(line)
		if string(key) != "nameserver" {
			continue // search, options, comments
		}
		text, _ := field(rest)
		a, err := netip.ParseAddr(string(text))
		if err != nil {
			return nil, malformed("resolv.conf: a name server is not an address")
		}
		members = append(members, a.String())
	}
	return members, fault{}
}

func readResolv(r *Root, o *out) {
	b, f := r.readFile("etc/resolv.conf")
	var members []string
	if !f.is() {
		members, f = parseResolv(b)
	}
	if f.is() {
		o.fault(0, f)
		return
	}
	o.set(0, members)
}

// readWireless lists the interfaces with a wireless device behind them. A
// system that shows its interfaces and has none of these shows the empty set.
func readWireless(r *Root, o *out) {
	names, f := r.list("sys/class/net")
	if f.is() {
		o.fault(0, f)
		return
	}
	members := []string{}
	for _, n := range names {
		dir := "sys/class/net/" + n
		if n != "bonding_masters" && (r.exists(dir+"/phy80211") || r.exists(dir+"/wireless")) {
			members = append(members, n)
		}
	}
	o.set(0, members)
}

// readBluetooth lists the adapters; a name with a colon is a connection. A
// kernel without Bluetooth has none.
func readBluetooth(r *Root, o *out) {
	names, f := r.listUnder("sys/class", "bluetooth")
	if f.is() {
		o.fault(0, f)
		return
	}
	members := []string{}
	for _, n := range names {
		if strings.HasPrefix(n, "hci") && !strings.Contains(n, ":") {
			members = append(members, n)
		}
	}
	o.set(0, members)
}

// listUnder lists the devices of the class or bus name. One that is not there,
// while its parent is, has no devices.
func (r *Root) listUnder(parent, name string) ([]string, fault) {
	names, f := r.list(parent + "/" + name)
	if f.status == facts.Absent && r.exists(parent) {
		return nil, fault{}
	}
	return names, f
}
