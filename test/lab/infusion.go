package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Infusion is the lab's medical application: a SIMULATED infusion monitor. It
// pumps nothing. It hands in its flow as a fact, takes a new set point from a
// file, counts its beats into another file so that a freeze can be seen, and
// answers when it is told to pause.
func Infusion(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	l, err := net.Listen("unix", dir+"/tell.sock")
	if err != nil {
		return err
	}
	defer l.Close()
	var paused atomic.Bool
	go answer(l, &paused)

	// An abstract address (unix(7)): the kernel removes it with the socket.
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@miotfacts-infusion-" + strconv.Itoa(os.Getpid()), Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	to := &net.UnixAddr{Name: dir + "/app.sock", Net: "unixgram"}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for beat := 0; ; beat++ {
		flow := setPoint(dir)
		if paused.Load() {
			flow = 0
		}
		// Without factsd nobody listens; the application works all the same.
		conn.WriteToUnix(fmt.Appendf(nil, "app.flow %d\napp.beats %d\n", flow, beat), to)
		if err := os.WriteFile(dir+"/beats", []byte(strconv.Itoa(beat)), 0o644); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func setPoint(dir string) int {
	data, err := os.ReadFile(dir + "/flow")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return n
}

// answer acknowledges "pause" and "resume" lines.
func answer(l net.Listener, paused *atomic.Bool) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				switch word, _, _ := strings.Cut(lines.Text(), " "); word {
				case "pause":
					paused.Store(true)
				case "resume":
					paused.Store(false)
				default:
					continue
				}
				fmt.Fprintln(c, "ok")
			}
		}()
	}
}
