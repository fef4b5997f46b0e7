package talk_test

import (
	"crypto/tls"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/talk"
)

// cpu is what this process has used, user and system, all threads (getrusage(2)).
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkConnections takes connections with a TLS 1.2 handshake and 64 KiB of
// data each, in segments of 1460 bytes, from memory. An operation is 1,000
// connections; its CPU time is that of the process, the garbage collector's too.
func BenchmarkConnections(b *testing.B) {
	up, down := handshake(b, &tls.Config{ServerName: "a.example"}, tls.VersionTLS12)
	down = append(down, make([]byte, 64<<10)...)
	// The packets are made before, so that only what reads them is measured.
	var packets []talk.Packet
	record := func(p talk.Packet) { packets = append(packets, p) }
	for i := range 1000 {
		s := story{at: int64(i) * int64(time.Millisecond), send: record}
		s.session(netip.AddrPortFrom(device.Addr(), uint16(10000+i)), server, up, down, 1460)
	}
	seen, lost := uint64(0), uint64(0)
	before := cpu(b)
	for b.Loop() {
		t := talk.NewTable(talk.Workbench())
		for _, p := range packets {
			t.Add(p)
		}
		l := t.Record(0).Loss
		seen += l.Packets
		lost += l.Dropped + l.Broken + l.Fragments + l.Flows + l.Hellos + l.Peers + l.Names
	}
	used := cpu(b) - before
	b.ReportMetric(used.Seconds()*1000/float64(b.N), "cpu-ms/1000conn")
	b.ReportMetric(float64(seen)/used.Seconds(), "packets/cpu-s")
	b.ReportMetric(float64(lost)/float64(b.N), "lost/op")
}
