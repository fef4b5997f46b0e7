package linux

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

var tcp4 = query{proto: unix.IPPROTO_TCP, family: unix.AF_INET, state: stateListen, text: "tcp"}

// A parser is one of the package's parsers of foreign bytes; its results are
// formatted, so that a table can hold them.
type parser struct {
	name string
	fn   func(b []byte) (string, fault)
	path string // the file of the fixtures that it reads, for seeds
}

func num(n int64, f fault) (string, fault) { return fmt.Sprint(n), f }

var parsers = []parser{
	{"stat", func(b []byte) (string, fault) {
		c, f := parseStat(b)
		return fmt.Sprint(c.user, c.system, c.idle, c.iowait, c.irq, c.steal), f
	}, "proc/stat"},
	{"kernellog", func(b []byte) (string, fault) {
		var l initLog
		l.takeAll(b)
		if l.end(); l.silent {
			return "silent", fault{}
		}
		return fmt.Sprint(l.ms, " ", l.program), l.fault
	}, kernelLog},
	{"loadavg", func(b []byte) (string, fault) {
		l, n, f := parseLoadavg(b)
		return fmt.Sprint(l, n), f
	}, "proc/loadavg"},
	{"pressure", func(b []byte) (string, fault) { return num(parsePressure(b)) }, "proc/pressure/cpu"},
	{"meminfo", func(b []byte) (string, fault) {
		t, a, f := parseMeminfo(b)
		return fmt.Sprint(t, a), f
	}, "proc/meminfo"},
	{"vmstat", func(b []byte) (string, fault) { return num(parseVmstat(b, "oom_kill")) }, "proc/vmstat"},
	{"usage", func(b []byte) (string, fault) { return num(parseUsage(b)) }, "sys/fs/cgroup/system.slice/pump.service/cpu.stat"},
	{"iostat", func(b []byte) (string, fault) { return num(parseIOStat(b)) }, "sys/fs/cgroup/system.slice/pump.service/io.stat"},
	{"cgroupevents", func(b []byte) (string, fault) {
		populated, frozen, told, f := parseCgroupEvents(b)
		return fmt.Sprint(populated, frozen, told), f
	}, "sys/fs/cgroup/system.slice/pump.service/cgroup.events"},
	{"docker", func(b []byte) (string, fault) { return parseDockerConfig(b) }, "var/lib/docker/containers/*/config.v2.json"},
	{"podman", func(b []byte) (string, fault) {
		names, f := parsePodmanNames(b)
		return fmt.Sprint(names), f
	}, "var/lib/containers/storage/overlay-containers/containers.json"},
	{"oci", func(b []byte) (string, fault) { return parseOCIConfig(b) }, "var/lib/containers/storage/overlay-containers/*/userdata/config.json"},
	{"loadertime", func(b []byte) (string, fault) { return num(parseLoaderTime(b)) }, "sys/firmware/efi/efivars/LoaderInfo" + loaderVendor},
	{"efitext", func(b []byte) (string, fault) { return parseEFIText(b) }, "sys/firmware/efi/efivars/LoaderInfo" + loaderVendor},
	{"uptime", func(b []byte) (string, fault) { return num(parseUptime(b)) }, "proc/uptime"},
	{"pidstat", func(b []byte) (string, fault) {
		name, n, f := parsePidStat(b)
		return fmt.Sprintf("%s %d", name, n), f
	}, "proc/1/stat"},
	{"netdev", func(b []byte) (string, fault) {
		list, f := parseNetDev(nil, b)
		s := ""
		for _, x := range list {
			s += fmt.Sprintf("%s %d %d;", bytes.TrimRight(x.name[:], "\x00"), x.rx, x.tx)
		}
		return s, f
	}, "proc/net/dev"},
	{"procnet", func(b []byte) (string, fault) {
		list, f := parseProcNet(nil, b, tcp4)
		return endpoints(list), f
	}, "proc/net/tcp"},
	{"procnet6", func(b []byte) (string, fault) {
		q := query{proto: unix.IPPROTO_TCP, family: unix.AF_INET6, state: stateEstablished, remote: true, text: "tcp6"}
		list, f := parseProcNet(nil, b, q)
		return endpoints(list), f
	}, "proc/net/tcp6"},
	{"lifetime", func(b []byte) (string, fault) { return num(parseLifeTime(b)) }, "sys/block/mmcblk0/device/life_time"},
	{"mountinfo", func(b []byte) (string, fault) {
		ro, writable, f := parseMounts(b)
		return fmt.Sprint(ro, writable), f
	}, "proc/self/mountinfo"},
	{"modules", func(b []byte) (string, fault) {
		names, f := parseModules(b)
		return strings.Join(names, " "), f
	}, "proc/modules"},
	{"lockdown", func(b []byte) (string, fault) {
		l, f := parseLockdown(b)
		return string(l), f
	}, "sys/kernel/security/lockdown"},
	{"efibool", func(b []byte) (string, fault) {
		v, f := parseEFIBool(b)
		return fmt.Sprint(v), f
	}, "sys/firmware/efi/efivars/SecureBoot" + efiGlobal},
	{"schedstat", func(b []byte) (string, fault) { return num(parseSchedstat(b)) }, "proc/schedstat"},
	{"swap", func(b []byte) (string, fault) { return num(parseSwap(b)) }, "proc/meminfo"},
	{"addresses", func(b []byte) (string, fault) { return joined(parseAddresses(b)) }, ".calls/addresses"},
	{"route4", func(b []byte) (string, fault) { return joined(parseRoute4(b)) }, route4},
	{"route6", func(b []byte) (string, fault) { return joined(parseRoute6(b)) }, route6},
	{"resolv", func(b []byte) (string, fault) { return joined(parseResolv(b)) }, "etc/resolv.conf"},
	{"lsm", func(b []byte) (string, fault) { return joined(parseLSM(b)) }, "sys/kernel/security/lsm"},
	{"flag", func(b []byte) (string, fault) {
		on, f := parseFlag(b)
		return fmt.Sprint(on), f
	}, "proc/sys/kernel/modules_disabled"},
	{"parameter", func(b []byte) (string, fault) {
		v, f := parameter(b, "rauc.slot")
		return string(v), f
	}, "proc/cmdline"},
	{"roothash", func(b []byte) (string, fault) {
		v, f := parseRootHash(b)
		return fmt.Sprintf("%x", v), f
	}, "proc/cmdline"},
	{"accounts", func(b []byte) (string, fault) {
		v, f := parseAccounts(b)
		return fmt.Sprintf("%.4x", v), f
	}, "etc/passwd"},
	{"usbid", func(b []byte) (string, fault) { return parseUSBID(b) }, "sys/bus/usb/devices/1-1/idVendor"},
	{"osrelease", func(b []byte) (string, fault) {
		s, f := parseOSRelease(b)
		return string(s), f
	}, "etc/os-release"},
	{"text", func(b []byte) (string, fault) {
		s, f := parseText(b)
		return string(s), f
	}, "proc/cmdline"},
	{"int", func(b []byte) (string, fault) {
		n, ok := parseInt(b)
		if !ok {
			return "", malformed("no number")
		}
		return fmt.Sprint(n), fault{}
	}, "proc/sys/kernel/tainted"},
	{"pairs", func(b []byte) (string, fault) {
		p, f := parsePairs(b)
		return fmt.Sprint(p), f
	}, ".calls/statfs"},
}

func joined(list []string, f fault) (string, fault) { return strings.Join(list, ";"), f }

func endpoints(list []endpoint) (s string) {
	for _, e := range list {
		s += netip.AddrPortFrom(e.address(), e.port).String() + " "
	}
	return strings.TrimSpace(s)
}

const (
	netDevHead = "Inter-|   Receive                                                |  Transmit\n" +
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
	route4Head  = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	zero6       = "00000000000000000000000000000000"
	procNetHead = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
)

func TestParsers(t *testing.T) {
	by := map[string]parser{}
	for _, p := range parsers {
		by[p.name] = p
	}
	const bad = "malformed"
	for _, tt := range []struct{ parser, in, want string }{
		{"stat", "cpu  10 1 5 100 3 2 4 7 50 60\ncpu0 1 2\n", "11 5 100 3 6 7"}, // guest times are in user already
		{"stat", "cpu 10 1 5 100\n", "11 5 100 0 0 0"},                          // Linux 2.4
		{"stat", "cpu 10 1 5\n", bad},
		{"stat", "cpu 10 1 5 100 -3\n", bad},
		{"stat", "cpu 10 1 5 100 3 2 4 7", bad}, // cut
		{"stat", "cpu0 10 1 5 100 3 2 4 7\n", bad},
		{"stat", "cpu 99999999999999999999 1 5 100 3 2 4 7\n", bad},
		{"loadavg", "12.34 0.50 0.40 3/512 12345\n", "12340 512"},
		{"loadavg", "0.05 0.01 0.00 1/99 1\n", "50 99"},
		{"loadavg", "0.5 0.01 0.00 1/99 1\n", bad},
		{"loadavg", "0.05 0.01 0.00 1/99\n", bad},
		{"loadavg", "nan 0.01 0.00 1/99 1\n", bad},
		{"kernellog", "6,0,0,-;Linux\n6,9,1984001,-;Run /sbin/init as init process\n SUBSYSTEM=x\n DEVICE=y\n7,10,1984010,c,caller=T1;  with arguments:\n", "1984 /sbin/init"},
		{"kernellog", "6,0,0,-;Linux\n6,9,1984001,-;Run /init as init process\n4,10,1984010,-;Failed to execute /init (error -2)\n6,11,1990000,-;Run /sbin/init as init process\n", "1990 /sbin/init"},
		{"kernellog", "6,0,0,-;Linux\n14,9,500,-;Run /bin/evil as init process\n6,11,1990000,-;Run /sbin/init as init process\n", "1990 /sbin/init"},
		{"kernellog", "6,0,0,-;Linux\n6,1,5,-;Run over\n", "silent"}, // old: it begins with the kernel and says nothing
		{"kernellog", "6,500,9000000,-;usb 1-1\n", "absent"},
		{"kernellog", "6,0,0,-;Linux\n6,1,x,-;Run /init as init process\n", bad},
		{"kernellog", "6,0,0;Linux\n", bad},
		{"kernellog", "6,0,0,-;Linux", bad},
		{"kernellog", " DEVICE=y\n", bad},
		{"kernellog", "", bad},
		{"pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n", "77"},
		{"pressure", "full avg10=0.00 avg60=0.00 avg300=0.00 total=9\n", bad},
		{"pressure", "some avg10=0.00 total=-1\n", bad},
		{"meminfo", "MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:  60 kB\n", "100 60"},
		{"meminfo", "MemTotal:  100 kB\nMemFree: 1 kB\n", bad},
		{"meminfo", "MemTotal:  100 kB\nMemAvailable:  101 kB\n", bad},
		{"meminfo", "MemTotal:  100 MB\nMemAvailable:  60 MB\n", bad},
		{"meminfo", "MemTotal: 0 kB\nMemAvailable: 0 kB\n", bad},
		{"vmstat", "nr_free 1\noom_kill 7\n", "7"},
		{"vmstat", "nr_free 1\n", "absent"},
		{"vmstat", "nr_free 1\noom_kill 7", bad},
		{"vmstat", "", bad},
		{"usage", "usage_usec 77\nuser_usec 7\n", "77"},
		{"usage", "user_usec 7\n", bad},
		{"usage", "usage_usec 77", bad}, // cut
		{"usage", "", bad},
		{"iostat", "8:0 rbytes=5 wbytes=7 rios=1 wios=1 dbytes=0 dios=0\n179:0 rbytes=1 wbytes=0\n", "13"},
		{"iostat", "", "0"},
		{"iostat", "8:0 rbytes=-5\n", bad},
		{"iostat", "8:0 rbytes\n", bad},
		{"iostat", "8:0 rbytes=9223372036854775807 wbytes=1\n", bad},
		{"iostat", "rbytes=1\n", bad},
		{"iostat", "8:0 rbytes=5", bad}, // cut
		{"cgroupevents", "populated 1\nfrozen 0\n", "true false true"},
		{"cgroupevents", "populated 0\n", "false false false"},
		{"cgroupevents", "populated 2\nfrozen 0\n", bad},
		{"cgroupevents", "frozen 0\n", bad},
		{"cgroupevents", "", bad},
		{"docker", `{"Name":"/pump","Config":{"Labels":{"a":"b"}}}`, "pump"},
		{"docker", `{"Name":"/pump","Config":{"Labels":{"miotfacts.name":"infusion"}}}`, "infusion"},
		{"docker", `{"Config":{}}`, bad},
		{"docker", `{"Name":7}`, bad},
		{"podman", `[{"id":"1a","names":["x","y"]},{"id":"2b"}]`, "map[1a:x]"},
		{"podman", `[{"id":"1a","names":["x"]}`, bad}, // cut
		{"loadertime", "\x06\x00\x00\x004\x002\x00\x00\x00", "42"},
		{"loadertime", "\x06\x00\x00\x004\x002\x00", bad},         // cut
		{"loadertime", "\x06\x00\x00\x00-\x002\x00\x00\x00", bad}, // before power-on
		{"loadertime", "\x06\x00\x00\x004\x01\x00\x00", bad},
		{"loadertime", "\x06\x00\x00\x00", bad},
		{"efitext", "\x06\x00\x00\x00a\x00 \x00b\x00\x00\x00", "a b"},
		{"uptime", "12.34 9.00\n", "12340"},
		{"uptime", "12 9\n", bad},
		{"pidstat", "1 (a) b (c)) S" + strings.Repeat(" 0", 18) + " 4711 0\n", "a) b (c) 4711"},
		{"pidstat", "1 (init) S 0 0\n", bad},
		{"pidstat", "1 )init( S" + strings.Repeat(" 0", 20), bad},
		{"netdev", netDevHead + "    lo: 5 0 0 0 0 0 0 0 5 0 0 0 0 0 0 0\n  eth0:100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n", "eth0 100 200;"},
		{"netdev", netDevHead, ""},
		{"netdev", netDevHead + "  eth0:100 1 0 0 0 0 0 0\n", bad},
		{"netdev", netDevHead + "  a-name-that-is-too-long:1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n", bad},
		{"netdev", "eth0: 1\n", bad},
		{"procnet", procNetHead + "   0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 56 1\n   1: 0100007F:0278 00000000:0000 01 0:0 0\n", "127.0.0.1:631"},
		{"procnet", procNetHead, ""},
		{"procnet", procNetHead + "   0: 0100007F:0277 00000000:0000 0A 0:0", bad}, // cut
		{"procnet", procNetHead + "   0: 7F:0277 00000000:0000 0A 0:0\n", bad},
		{"procnet", procNetHead + "   0: 0100007F:0277 00000000:0000 XX 0:0\n", bad},
		{"procnet", "", bad},
		{"procnet6", procNetHead + "   0: 00000000000000000000000001000000:0016 B80D0120000000000000000001000000:01BB 01 0:0\n", "[2001:db8::1]:443"},
		{"lifetime", "0x02 0x01\n", "200"},
		{"lifetime", "0x01 0x0b\n", "1100"},
		{"lifetime", "0x00 0x00\n", "absent"},
		{"lifetime", "0x01 0x0c\n", bad},
		{"lifetime", "1 2\n", bad},
		{"lifetime", "0x01\n", bad},
		{"mountinfo", "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:3 / /proc rw - proc proc rw\n3 1 8:2 / /a\\040b rw - vfat /dev/b rw\n", "false [/ ext4 /a\\040b vfat]"},
		{"mountinfo", "1 0 8:1 / / rw shared:1 master:2 - ext4 /dev/a ro,errors=x\n", "true []"},
		{"mountinfo", "1 0 8:1 / / ro,relatime - ext4 /dev/a rw\n", "true []"},
		{"mountinfo", "1 0 8:1 / / ro - ext4 /dev/a ro\n2 1 0:9 / / rw - overlay o rw\n", "false [/ overlay]"}, // mounted over
		{"mountinfo", "1 0 8:1 / /proc rw - proc p rw\n", bad},
		{"mountinfo", "1 0 8:1 / / rw - ext4\n", bad},
		{"mountinfo", "1 0 8:1 / / rw ext4 /dev/a rw\n", bad},
		{"modules", "a 1 2 b,c, Live 0x0\nb 3 - - Live 0x0 (OE)\n", "a b"},
		{"modules", "", ""},
		{"modules", "a one 2 b, Live 0x0\n", bad},
		{"modules", "a 1 2\n", bad},
		{"lockdown", "[none] integrity confidentiality\n", "none"},
		{"lockdown", "none integrity [confidentiality]\n", "confidentiality"},
		{"lockdown", "none integrity confidentiality\n", bad},
		{"lockdown", "[none] [integrity]\n", bad},
		{"lockdown", "[other]\n", bad},
		{"efibool", "\x06\x00\x00\x00\x01", "true"},
		{"efibool", "\x06\x00\x00\x00\x00", "false"},
		{"efibool", "\x06\x00\x00\x00\x02", bad},
		{"efibool", "\x06\x00\x00\x00", bad},
		{"osrelease", "# c\nID=debian\nVERSION_ID=\"12\"\n", "debian 12"},
		{"osrelease", "ID='arch'\n", "arch"},
		{"osrelease", "NAME=x\n", "linux"},
		{"osrelease", "ID=\"a\n", bad},
		{"osrelease", "ID=$(x)\n", bad},
		{"osrelease", "nothing\n", bad},
		{"schedstat", "version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 5 7 9\ndomain0 3 1 2\ncpu1 0 0 0 0 0 0 5 8 9\n", "15"},
		{"schedstat", "version 14\ntimestamp 1\ncpu0 0 0 0 0 0 0 5 7 9\n", bad}, // in jiffies
		{"schedstat", "version 15\ntimestamp 1\ncpu0 0 0 0 0 0 0 5\n", bad},
		{"schedstat", "version 15\ntimestamp 1\n", bad},
		{"schedstat", "version 15\ncpu0 0 0 0 0 0 0 5 9223372036854775807 9\ncpu1 0 0 0 0 0 0 5 1 9\n", bad},
		{"schedstat", "version 15\ncpu0 0 0 0 0 0 0 5 7 9", bad}, // cut
		{"swap", "SwapTotal: 100 kB\nSwapFree: 40 kB\n", "60"},
		{"swap", "SwapTotal: 0 kB\nSwapFree: 0 kB\n", "0"},
		{"swap", "SwapTotal: 10 kB\nSwapFree: 40 kB\n", bad},
		{"swap", "SwapTotal: 10 kB\n", bad},
		{"addresses", "eth0 10.0.0.1/8\neth0 fe80::1/64\n", "eth0 10.0.0.1/8;eth0 fe80::1/64"},
		{"addresses", "eth0 10.0.0.1\n", bad},
		{"addresses", "", bad},
		{"route4", route4Head + "eth0\t00000000\t0111A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\neth0\t0011A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n", "eth0 192.168.17.1"},
		{"route4", route4Head + "ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n", "ppp0"},
		{"route4", route4Head + "eth0\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n", ""}, // a reject route
		{"route4", route4Head + "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n", ""}, // half of all, 0.0.0.0/1
		{"route4", route4Head, ""},
		{"route4", route4Head + "eth0\t0000\t0111A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n", bad},
		{"route4", route4Head + "eth0\t00000000\t0111A8C0\t0003\n", bad},
		{"route4", "", bad},
		{"route6", zero6 + " 00 " + zero6 + " 00 fe800000000000000000000000000001 00000400 00000001 00000000 00450003     eth0\n", "eth0 fe80::1"},
		{"route6", zero6 + " 00 " + zero6 + " 00 " + zero6 + " ffffffff 00000001 00000000 00200200       lo\n", ""},
		{"route6", "fe800000000000000000000000000000 40 " + zero6 + " 00 " + zero6 + " 00000100 00000001 00000000 00000001 eth0\n", ""},
		{"route6", "", ""},
		{"route6", zero6 + " 00 " + zero6 + " 00 " + zero6 + " ffffffff 00000001 00000000 00200200\n", bad},
		{"route6", zero6 + " 99 " + zero6 + " 00 " + zero6 + " ffffffff 00000001 00000000 00200200 lo\n", bad},
		{"resolv", "# c\nsearch a b\nnameserver 10.0.0.1\nnameserver fe80::1%eth0 # c\n", "10.0.0.1;fe80::1%eth0"},
		{"resolv", "", ""},
		{"resolv", "nameserver example.org\n", bad},
		{"resolv", "nameserver\n", bad},
		{"resolv", "\xff", bad},
		{"lsm", "capability,yama", "capability;yama"},
		{"lsm", "capability,\n", bad},
		{"lsm", "", bad},
		{"flag", "1\n", "true"},
		{"flag", "N\n", "false"},
		{"flag", "2\n", bad},
		{"flag", "", bad},
		{"parameter", "quiet rauc.slot=A root=/dev/x\n", "A"},
		{"parameter", "a=\"x rauc.slot=B\" rauc.slot=\"A\"", "A"},
		{"parameter", "\"rauc.slot=A b\" rauc.slot=\"A b\"\n", "A b"},
		{"parameter", "rauc.slot=A rauc.slot=B\n", bad},
		{"parameter", "rauc.slot=\n", bad},
		{"parameter", "rauc.slots=A rauc.slot\n", "absent"},
		{"roothash", "ro roothash=00112233445566778899aabbccddeeff\n", "00112233445566778899aabbccddeeff"},
		{"roothash", "ro dm-mod.create=\"v,,,ro,0 8 verity 1 /dev/a /dev/b 4096 4096 1 2 sha256 00112233445566778899aabbccddeeff ab12\"\n", "00112233445566778899aabbccddeeff"},
		{"roothash", "ro dm-mod.create=\"v,,,ro,0 8 verity 1 /dev/a\"\n", bad},
		{"roothash", "ro dm-mod.create=\"v,,,ro,0 8 linear /dev/a 0\"\n", "absent"},
		{"roothash", "ro roothash=0011\n", bad},
		{"roothash", "ro roothash=/dev/x\n", bad},
		{"roothash", "ro\n", "absent"},
		{"accounts", "root:x:0:0:r:/:/bin/sh\na:x:5:5:::\n", "53840b00"},
		{"accounts", "# c\na:secret:5:9:other::/bin/true\n\nroot:*:0:0:::\n", "53840b00"}, // the same accounts
		{"accounts", "root:x:0:0:r:/:/bin/sh\na:x:0:5:::\n", "ce5697cc"},                  // one has become root
		{"accounts", "root:x:0:0:r:/\n", bad},
		{"accounts", "root:x:-1:0:r:/:/bin/sh\n", bad},
		{"accounts", "", bad},
		{"usbid", "1d6b\n", "1d6b"},
		{"usbid", "1D6B\n", bad},
		{"usbid", "1d6\n", bad},
		{"text", "a b\n\x00", "a b"},
		{"text", "\n", bad},
		{"text", "\xff\n", bad},
		{"text", strings.Repeat("x", facts.MaxText), strings.Repeat("x", facts.MaxText)},
		{"text", strings.Repeat("x", facts.MaxText+1), bad},
		{"int", " 42\n", "42"},
		{"int", "-9223372036854775807\n", "-9223372036854775807"},
		{"int", "9223372036854775807\n", "9223372036854775807"},
		{"int", "9223372036854775808\n", bad},
		{"int", "0x10", bad},
		{"int", "-", bad},
		{"int", "1 2", bad},
		{"pairs", "# c\na=1\nb=\n", "map[a:1 b:]"},
		{"pairs", "a\n", bad},
		{"pairs", "", bad},
	} {
		got, f := by[tt.parser].fn([]byte(tt.in))
		if f.is() {
			got = f.status.String()
		}
		if got != tt.want {
			t.Errorf("%s of %.60q: %q %s, want %q", tt.parser, tt.in, got, f.reason, tt.want)
		}
	}
}

func TestFaultOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want facts.Status
	}{
		{unix.ENOENT, facts.Absent},
		{unix.ENODEV, facts.Absent},
		{unix.ENXIO, facts.Absent},
		{unix.EOPNOTSUPP, facts.Absent}, // PSI that is built in and switched off
		{&fs.PathError{Op: "open", Path: "x", Err: unix.ENOENT}, facts.Absent},
		{unix.EACCES, facts.Unreadable},
		{unix.EPERM, facts.Unreadable},
		{unix.EIO, facts.Unreadable},
		{unix.EAGAIN, facts.Unreadable},
		{unix.ETIMEDOUT, facts.Unreadable},
		{unix.EISDIR, facts.Unreadable},
		{unix.ELOOP, facts.Unreadable},
		{errors.New("path escapes from parent"), facts.Unreadable},
	} {
		f := faultOf("/sys/x", tt.err)
		if f.status != tt.want || !strings.HasPrefix(f.reason, "/sys/x: ") {
			t.Errorf("%v: %s %q, want %s", tt.err, f.status, f.reason, tt.want)
		}
	}
}

func TestScale(t *testing.T) {
	for _, tt := range []struct{ n, mul, div, want int64 }{
		{1, 1000, 3, 333}, {0, 9, 1, 0}, {1 << 62, 1000, 1 << 62, 1000}, {1 << 62, 1 << 62, 1, 1<<63 - 1}, {1 << 62, 4, 2, 1<<63 - 1},
	} {
		if got := scale(tt.n, tt.mul, tt.div); got != tt.want {
			t.Errorf("%d*%d/%d = %d, want %d", tt.n, tt.mul, tt.div, got, tt.want)
		}
	}
}

// diagAnswer is a datagram as the kernel sends it: one socket, and the end.
func diagAnswer(seq uint32, state byte, addr netip.AddrPort) []byte {
	ne := binary.NativeEndian
	b := make([]byte, diagHeader+diagMessage+diagHeader+4)
	ne.PutUint32(b, diagHeader+diagMessage)
	ne.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	ne.PutUint16(b[6:], unix.NLM_F_MULTI)
	ne.PutUint32(b[8:], seq)
	m := b[diagHeader:]
	m[0], m[1] = unix.AF_INET, state
	if addr.Addr().Is6() {
		m[0] = unix.AF_INET6
	}
	binary.BigEndian.PutUint16(m[4:], addr.Port())
	copy(m[8:24], addr.Addr().AsSlice())
	end := b[diagHeader+diagMessage:]
	ne.PutUint32(end, diagHeader+4)
	ne.PutUint16(end[4:], unix.NLMSG_DONE)
	ne.PutUint32(end[8:], seq)
	return b
}

func TestParseDiag(t *testing.T) {
	ne := binary.NativeEndian
	good := diagAnswer(7, stateListen, netip.MustParseAddrPort("10.0.0.1:22"))
	edit := func(fn func(b []byte)) []byte {
		b := bytes.Clone(good)
		fn(b)
		return b
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want string
		done bool
		err  error
	}{
		{"one socket", good, "10.0.0.1:22", true, nil},
		{"IPv6", diagAnswer(7, stateListen, netip.MustParseAddrPort("[2001:db8::1]:443")), "[2001:db8::1]:443", true, nil},
		{"another state", diagAnswer(7, stateEstablished, netip.MustParseAddrPort("10.0.0.1:22")), "", true, nil},
		{"port 0", diagAnswer(7, stateListen, netip.MustParseAddrPort("10.0.0.1:0")), "", true, nil},
		{"answer to another request", diagAnswer(6, stateListen, netip.MustParseAddrPort("10.0.0.1:22")), "", false, nil},
		{"cut header", good[:10], "", false, unix.EBADMSG},
		{"cut message", good[:60], "", false, unix.EBADMSG},
		{"length 0", edit(func(b []byte) { ne.PutUint32(b, 0) }), "", false, unix.EBADMSG},
		{"length of a short body", edit(func(b []byte) { ne.PutUint32(b, diagHeader+8) }), "", false, unix.EBADMSG},
		{"interrupted", edit(func(b []byte) { ne.PutUint16(b[6:], unix.NLM_F_DUMP_INTR) }), "", false, unix.EINTR},
		{"error", edit(func(b []byte) {
			ne.PutUint16(b[4:], unix.NLMSG_ERROR)
			e := int32(unix.ENOENT)
			ne.PutUint32(b[diagHeader:], uint32(-e))
		}), "", false, unix.ENOENT},
	} {
		list, done, err := parseDiag(nil, tt.in, 7, tcp4)
		if endpoints(list) != tt.want || done != tt.done || err != tt.err {
			t.Errorf("%s: %q, done %v, error %v; want %q, %v, %v", tt.name, endpoints(list), done, err, tt.want, tt.done, tt.err)
		}
	}
}

// fuzz runs one parser over the fixtures' files and their damaged forms. No
// input panics, none yields a value beside a fault, and the statuses are those
// of content: malformed, or absent where a kernel does not tell something.
func fuzz(f *testing.F, name string) {
	var p parser
	for _, x := range parsers {
		if x.name == name {
			p = x
		}
	}
	paths, err := filepath.Glob(devices + "/*/" + p.path)
	if err != nil || len(paths) == 0 {
		f.Fatalf("no fixture has %s: %v", p.path, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte(nil))
	f.Add([]byte("\xff\x00 \n-1\n9999999999999999999999 : = / [] () \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		_, bad := p.fn(b)
		if !bytes.Equal(b, before) {
			t.Fatal("the parser changed its input")
		}
		if bad.is() && (bad.reason == "" || bad.status != facts.Malformed && bad.status != facts.Absent) {
			t.Fatalf("fault %+v", bad)
		}
	})
}

func FuzzStat(f *testing.F)         { fuzz(f, "stat") }
func FuzzKernelLog(f *testing.F)    { fuzz(f, "kernellog") }
func FuzzLoadavg(f *testing.F)      { fuzz(f, "loadavg") }
func FuzzPressure(f *testing.F)     { fuzz(f, "pressure") }
func FuzzMeminfo(f *testing.F)      { fuzz(f, "meminfo") }
func FuzzVmstat(f *testing.F)       { fuzz(f, "vmstat") }
func FuzzUsage(f *testing.F)        { fuzz(f, "usage") }
func FuzzIOStat(f *testing.F)       { fuzz(f, "iostat") }
func FuzzCgroupEvents(f *testing.F) { fuzz(f, "cgroupevents") }
func FuzzDocker(f *testing.F)       { fuzz(f, "docker") }
func FuzzPodman(f *testing.F)       { fuzz(f, "podman") }
func FuzzOCI(f *testing.F)          { fuzz(f, "oci") }
func FuzzLoaderTime(f *testing.F)   { fuzz(f, "loadertime") }
func FuzzEFIText(f *testing.F)      { fuzz(f, "efitext") }
func FuzzUptime(f *testing.F)       { fuzz(f, "uptime") }
func FuzzPidStat(f *testing.F)      { fuzz(f, "pidstat") }
func FuzzNetDev(f *testing.F)       { fuzz(f, "netdev") }
func FuzzProcNet(f *testing.F)      { fuzz(f, "procnet") }
func FuzzProcNet6(f *testing.F)     { fuzz(f, "procnet6") }
func FuzzLifeTime(f *testing.F)     { fuzz(f, "lifetime") }
func FuzzMountinfo(f *testing.F)    { fuzz(f, "mountinfo") }
func FuzzModules(f *testing.F)      { fuzz(f, "modules") }
func FuzzLockdown(f *testing.F)     { fuzz(f, "lockdown") }
func FuzzEFIBool(f *testing.F)      { fuzz(f, "efibool") }
func FuzzOSRelease(f *testing.F)    { fuzz(f, "osrelease") }
func FuzzSchedstat(f *testing.F)    { fuzz(f, "schedstat") }
func FuzzSwap(f *testing.F)         { fuzz(f, "swap") }
func FuzzAddresses(f *testing.F)    { fuzz(f, "addresses") }
func FuzzRoute4(f *testing.F)       { fuzz(f, "route4") }
func FuzzRoute6(f *testing.F)       { fuzz(f, "route6") }
func FuzzResolv(f *testing.F)       { fuzz(f, "resolv") }
func FuzzLSM(f *testing.F)          { fuzz(f, "lsm") }
func FuzzFlag(f *testing.F)         { fuzz(f, "flag") }
func FuzzParameter(f *testing.F)    { fuzz(f, "parameter") }
func FuzzRootHash(f *testing.F)     { fuzz(f, "roothash") }
func FuzzAccounts(f *testing.F)     { fuzz(f, "accounts") }
func FuzzUSBID(f *testing.F)        { fuzz(f, "usbid") }
func FuzzText(f *testing.F)         { fuzz(f, "text") }
func FuzzInt(f *testing.F)          { fuzz(f, "int") }
func FuzzPairs(f *testing.F)        { fuzz(f, "pairs") }

// FuzzJSON compares with encoding/json: what is taken here is JSON, and each of
// its strings is told.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a":["b",{"c":"d"}],"e":1e5,"f":[-0.5,true,null,{}]}`, `[]`, `"\u00e9\n"`, `{"a":"b"`, `[1,]`, `{"a" "b"}`, `01`, `"\x41"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		ok := readJSON(b, func([]string, string) { n++ })
		var v any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&v); ok && err != nil && !strings.Contains(string(b), "\\") && !bytes.ContainsAny(b, "0123456789") {
			t.Fatalf("%q is no JSON: %v", b, err)
		}
		if n > bytes.Count(b, []byte{'"'})/2 {
			t.Fatalf("%d strings in %q", n, b)
		}
	})
}

func FuzzDiag(f *testing.F) {
	for _, s := range []string{"10.0.0.1:22", "[::]:8443"} {
		b := diagAnswer(7, stateListen, netip.MustParseAddrPort(s))
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, done, err := parseDiag(nil, b, 7, tcp4)
		if len(list) > len(b)/diagMessage || done && err != nil {
			t.Fatalf("%d sockets out of %d bytes, done %v, error %v", len(list), len(b), done, err)
		}
	})
}

func FuzzState(f *testing.F) {
	good := encodeState("boot", []pair{{"boot_id", "x"}, {"count", "3"}, {"boot.total", "ok 5"}, {"boot.count", "ok 3"}})
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("miotfacts-boot 1\ncrc32 00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		pairs, err := decodeState("boot", b)
		if err != nil {
			if !errors.Is(err, errState) {
				t.Fatalf("error %v is not errState", err)
			}
			return
		}
		again, err := decodeState("boot", encodeState("boot", pairs))
		if err != nil || len(again) != len(pairs) {
			t.Fatalf("%q came back as %q, %v", pairs, again, err)
		}
		if r, err := decodeBoot(pairs); err == nil {
			if _, err := decodeBoot(r.encode()); err != nil {
				t.Fatalf("%+v cannot be read again: %v", r, err)
			}
		}
	})
}
