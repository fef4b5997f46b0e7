package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkLive lets factstalk, as it is shipped, listen to live connections over
// the loopback of a network of its own: TLS 1.3, 64 KiB of data, one after the
// other. An operation is 1,000 of them. What is measured is the CPU time of the
// process factstalk, by the kernel's own account. What the filter costs whoever
// sends is not in it.
func BenchmarkLive(b *testing.B) {
	l := newLab(b)
	bench := connections(b, l)
	r := l.record(b, `interfaces = ["lo"]`)
	bench(100) // warm
	before := r.now(b).Loss
	start, begun := r.cpu(b), time.Now()
	b.ResetTimer()
	for range b.N {
		bench(1000)
	}
	b.StopTimer()
	lasted := time.Since(begun)
	got := r.now(b)
	used := r.cpu(b) - start
	if status, err := os.ReadFile("/proc/" + strconv.Itoa(r.cmd.Process.Pid) + "/status"); err == nil {
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		if kib, err := strconv.ParseFloat(strings.Fields(rest + " -")[0], 64); err == nil {
			b.ReportMetric(kib/1024, "MiB-at-most")
		}
	}
	n := float64(b.N)
	b.ReportMetric(used.Seconds()*1000/n, "cpu-ms/1000conn")
	b.ReportMetric(float64(got.Loss.Packets-before.Packets)/n, "packets/op")
	b.ReportMetric(float64(got.Loss.Dropped-before.Dropped+got.Loss.Hellos-before.Hellos+got.Loss.Flows-before.Flows), "lost")
	b.ReportMetric(n*1000/lasted.Seconds(), "conn/s")
	if len(got.Peers) != 1 || got.Peers[0].Name != "a.example" || got.Peers[0].TLS != tls.VersionTLS13 {
		b.Errorf("peers: %+v", got.Peers)
	}
}

// BenchmarkIdle gives the CPU time of ten seconds in which nothing happens.
func BenchmarkIdle(b *testing.B) {
	l := newLab(b)
	r := l.record(b, "")
	before := r.cpu(b)
	for range b.N {
		<-time.After(10 * time.Second)
	}
	b.ReportMetric(float64((r.cpu(b)-before).Microseconds())/float64(b.N), "cpu-us/10s")
}

// BenchmarkFlood sends datagrams as fast as one thread can, over a cable: each
// passes the filter and belongs to one connection. What is lost is what the ring
// had no room for.
func BenchmarkFlood(b *testing.B) {
	l := newLab(b)
	r := l.record(b, "")
	before := r.now(b).Loss
	start := r.cpu(b)
	const sent = 200000
	b.ResetTimer()
	for range b.N {
		l.device.in(b, func() error {
			conn, err := net.ListenPacket("udp", "10.77.0.2:5000")
			if err != nil {
				return err
			}
			defer conn.Close()
			to := &net.UDPAddr{IP: net.IPv4(203, 0, 113, 9), Port: 9} // nobody
			for range sent {
				if _, err := conn.WriteTo([]byte("flood"), to); err != nil {
					return err
				}
			}
			return nil
		})
	}
	b.StopTimer()
	lasted := b.Elapsed()
	got := r.now(b).Loss
	used := r.cpu(b) - start
	seen, lost := got.Packets-before.Packets, got.Dropped-before.Dropped
	b.ReportMetric(float64(sent*b.N)/lasted.Seconds(), "sent/s")
	b.ReportMetric(float64(seen)/float64(b.N), "seen/op")
	b.ReportMetric(float64(lost)/float64(b.N), "lost/op")
	b.ReportMetric(float64(used.Nanoseconds())/float64(seen), "cpu-ns/packet")
	if seen+lost < uint64(sent*b.N) {
		b.Errorf("%d packets seen and %d lost of %d", seen, lost, sent*b.N)
	}
}

// cpu is what all threads of factstalk have used (/proc/PID/task/TID/schedstat).
func (r *recording) cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	files, err := filepath.Glob("/proc/" + strconv.Itoa(r.cmd.Process.Pid) + "/task/*/schedstat")
	if err != nil || len(files) == 0 {
		b.Fatalf("no account of factstalk: %v", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			b.Fatal(err)
		}
		n, err := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n)
	}
	return sum
}

// connections returns what makes n connections over the loopback of the device.
func connections(b *testing.B, l *lab) func(n int) {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.example"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	var listener net.Listener
	l.device.in(b, func() (err error) { listener, err = net.Listen("tcp", "127.0.0.1:443"); return err })
	b.Cleanup(func() { listener.Close() })
	body := make([]byte, 64<<10)
	go func() {
		server := tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			conn.Write(body)
			conn.Close()
		}
	}()
	return func(n int) {
		l.device.in(b, func() error {
			for range n {
				conn, err := tls.Dial("tcp", "127.0.0.1:443", &tls.Config{ServerName: "a.example", InsecureSkipVerify: true})
				if err != nil {
					return err
				}
				got, err := io.Copy(io.Discard, conn)
				conn.Close()
				if err != nil || got != int64(len(body)) {
					b.Errorf("%d bytes, %v", got, err)
				}
			}
			return nil
		})
	}
}
