package talk_test

import (
	"crypto/tls"
	"net/netip"
	"testing"

	"github.com/miotfacts/miotfacts/talk"
)

// BenchmarkConnections takes connections with a TLS 1.2 handshake and 64 KiB of
// data each, in segments of 1460 bytes. An operation is 1,000 connections, on one
// thread: ns/op is the CPU time that they take.
func BenchmarkConnections(b *testing.B) {
	up, down := handshake(b, &tls.Config{ServerName: "a.example"}, tls.VersionTLS12)
	down = append(down, make([]byte, 64<<10)...)
	packets, lost := uint64(0), uint64(0)
	for b.Loop() {
		s := newStory(talk.Workbench())
		for i := range 1000 {
			s.session(netip.AddrPortFrom(device.Addr(), uint16(10000+i)), server, up, down, 1460)
		}
		l := s.table.Record(0).Loss
		packets += l.Packets
		lost += l.Broken + l.Flows + l.Hellos + l.Peers
	}
	b.ReportMetric(float64(packets)/b.Elapsed().Seconds(), "packets/s")
	b.ReportMetric(float64(lost)/float64(b.N), "lost/op")
}
