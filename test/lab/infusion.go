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
// answers when it is told to pause. In the files prepare and defer are for how many
// ms it asks before a pause; without them it asks for none. It is ready a little
// before its time is over. The file told has the last thing that it was told.
func Infusion(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	l, err := net.Listen("unix", dir+"/tell.sock")
	if err != nil {
		return err
	}
	defer l.Close()
	var paused atomic.Bool
	go answer(l, dir, &paused)

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
		flow := number(dir + "/flow")
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

// number returns the number in a file, 0 without one.
func number(file string) int {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return n
}

// answer says what an application says when it is told of a pause and its end
// (docs/application.md).
func answer(l net.Listener, dir string, paused *atomic.Bool) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			ready := time.AfterFunc(time.Hour, func() { fmt.Fprintln(c, "ready") })
			defer ready.Stop()
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				word, _, _ := strings.Cut(lines.Text(), " ")
				ready.Stop()
				os.WriteFile(dir+"/told", []byte(word+"\n"), 0o644)
				switch word {
				case "pending":
					if ms := number(dir + "/defer"); ms > 0 {
						fmt.Fprintln(c, "defer", ms)
					} else {
						fmt.Fprintln(c, "go")
					}
				case "prepare":
					ms := number(dir + "/prepare")
					if ms > 0 {
						fmt.Fprintln(c, "wait", ms)
					}
					ready.Reset(time.Duration(ms) * 3 / 4 * time.Millisecond)
				case "pause", "hold":
					paused.Store(true)
					fmt.Fprintln(c, "ok")
				case "resume":
					paused.Store(false)
					fmt.Fprintln(c, "ok")
				}
			}
		}()
	}
}
