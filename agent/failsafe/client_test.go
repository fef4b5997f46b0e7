package failsafe

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// Who asks for the clock is the sampling loop: it waits for no answer of an
// enforcer that hangs.
func TestClockIsKnownWithoutWaiting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, err = conn.Read(make([]byte, maxRequest)) // and no answer
		}
		asked <- err
	}()
	c := Dial(path)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { c.Status(ctx); close(ended) }()
	if err := <-asked; err != nil {
		t.Fatal(err)
	}
	known := make(chan error, 1)
	go func() { _, err := c.Synchronised(); known <- err }()
	select {
	case err := <-known:
		if err == nil {
			t.Error("the clock is known before there was an answer")
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for the answer to another question")
	}
	cancel()
	<-ended
}
