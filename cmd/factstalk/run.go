package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/miotfacts/miotfacts/agent/confine"
	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/talk"
	"github.com/miotfacts/miotfacts/talk/listen"
)

// How often it asks the kernel for bytes of connections, and how many questions
// for the owner of a new one it has in a second: a scan of ports begins more.
const (
	askEvery = time.Minute
	maxAsked = 100
)

// A recorder is the loop: packets and what the kernel says of connections go into
// the table, the table goes into the file.
type recorder struct {
	config   *config
	log      *slog.Logger
	table    *talk.Table
	packets  *listen.Listener
	sockets  *listen.Sockets
	programs *listen.Programs
	before   map[talk.Conn][2]uint64 // bytes that a connection had when it was first seen
	asked    int
	second   int64 // in which they were asked
	dropped  uint64
	missing  int
	passing  bool // it was said that packets are left out
}

// run listens until it is told to end.
func run(c *config, log *slog.Logger) (err error) {
	r := &recorder{config: c, log: log, before: map[talk.Conn][2]uint64{}}
	r.table = talk.NewTable(talk.Options{
		Flows: 4096, Peers: c.Rows, Names: 4096, Begin: 2 << 20, Keep: time.Duration(c.KeepDays) * 24 * time.Hour, Sparse: true,
	})
	stop, told, err := signals()
	if err != nil {
		return err
	}
	if r.packets, err = listen.Open(c.Interfaces); err != nil {
		hint := ""
		if errors.Is(err, syscall.EPERM) {
			hint = "start it as root, or with CAP_NET_RAW as configs/systemd/factstalk.service does"
		}
		return fail(exitNeeds, hint, err)
	}
	defer func() { err = errors.Join(err, r.packets.Close()) }()
	if r.sockets, err = listen.OpenSockets(); err != nil {
		return fail(exitNeeds, "", err)
	}
	defer func() { err = errors.Join(err, r.sockets.Close()) }()
	if err := r.giveUp(); err != nil {
		return err
	}
	// Without seccomp in the kernel what else was given up has to do.
	if err := confine.Confine(append(confine.Network(), confine.Programs()...)...); err != nil {
		log.Warn("not confined by itself", "error", err)
	}
	r.programs = listen.NewPrograms("/")
	if err := r.restore(); err != nil {
		return err
	}
	// What cannot be written later is found out now.
	if err := r.write(); err != nil {
		return fail(exitNeeds, "make the folder of the record, owned by the user that factstalk runs as", err)
	}
	where := "all but the loopback"
	if !r.packets.Everywhere() {
		where = strings.Join(c.Interfaces, ", ")
	}
	log.Info("recording", "file", c.Record, "interfaces", where)
	return r.loop(stop, told)
}

// giveUp drops all privileges. Nothing was read from the network before.
func (r *recorder) giveUp() error {
	if os.Geteuid() == 0 {
		uid, gid, err := account(r.config.User)
		if err != nil {
			return fail(exitNeeds, "make the user, as configs/sysusers/factstalk.conf does, or name another", err)
		}
		if err := become(uid, gid); err != nil {
			return err
		}
	}
	return renounce()
}

// signals returns a descriptor that can be read when there is a signal, and the
// signal.
func signals() (int, <-chan os.Signal, error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return 0, nil, fmt.Errorf("cannot wait for signals: %w", err)
	}
	caught, told := make(chan os.Signal, 8), make(chan os.Signal, 8)
	signal.Notify(caught, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for s := range caught {
			told <- s
			_, _ = syscall.Write(fds[1], []byte{0}) // full: it can be read already
		}
	}()
	return fds[0], told, nil
}

// restore takes up the record of before. Where there is none it begins anew; a
// damaged one is laid aside, and said.
func (r *recorder) restore() error {
	data, err := durable.Read(r.config.Record, talk.MaxRecord)
	var old *talk.Record
	if err == nil {
		old, err = talk.Decode(data)
		if err != nil {
			err = errors.Join(durable.ErrDamaged, err)
		}
	}
	switch {
	case err == nil:
		r.table.Restore(old)
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, durable.ErrDamaged):
		aside := r.config.Record + ".damaged"
		if err := os.Rename(r.config.Record, aside); err != nil {
			return fail(exitNeeds, "", fmt.Errorf("cannot lay damaged record aside: %w", err))
		}
		r.log.Warn("the record is damaged; a new one begins", "aside", aside, "error", err)
	default:
		return fail(exitNeeds, "let the user that factstalk runs as read it, or move it away", err)
	}
	return nil
}

func (r *recorder) loop(stop int, told <-chan os.Signal) error {
	write, ask := time.Now(), time.Time{}
	every := time.Duration(r.config.WriteMinutes) * time.Minute
	buf := make([]byte, 16)
	for {
		now := time.Now()
		if now.Sub(ask) >= askEvery {
			ask = now
			r.look()
			r.ask(now.UnixNano())
		}
		if now.Sub(write) >= every {
			write = now
			// The disk may have room again before it ends.
			if err := r.write(); err != nil {
				r.log.Error("cannot keep the record", "error", err)
			}
		}
		signalled, err := r.packets.Wait(stop, min(askEvery-now.Sub(ask), every-now.Sub(write)))
		if err != nil {
			return err
		}
		r.packets.Read(r.packet)
		if r.packets.Losing() {
			r.count()
		}
		if !signalled {
			continue
		}
		_, _ = syscall.Read(stop, buf)
		for len(told) > 0 {
			s := <-told
			r.drain()
			r.look()
			r.ask(time.Now().UnixNano())
			if err := r.write(); err != nil {
				return fail(exitFailed, "", err)
			}
			if s != syscall.SIGHUP {
				return nil
			}
			write = time.Now()
		}
	}
}

// drain waits for what the kernel holds back for a moment.
func (r *recorder) drain() {
	for end := time.Now().Add(listen.HeldBack); time.Now().Before(end); {
		// Nothing can be read from -1: it waits for packets alone.
		if _, err := r.packets.Wait(-1, time.Until(end)); err != nil {
			r.log.Warn("cannot wait for the last packets", "error", err)
			return
		}
		r.packets.Read(r.packet)
	}
}

// packet takes a packet, and asks whose a connection is that begins.
func (r *recorder) packet(p talk.Packet) {
	c, began := r.table.Add(p)
	if !began {
		return
	}
	if s := p.At / int64(time.Second); s != r.second {
		r.second, r.asked = s, 0
	}
	if r.asked++; r.asked > maxAsked {
		return // the next look at all connections may find it
	}
	s, err := r.sockets.Of(c)
	if err != nil {
		if !errors.Is(err, listen.ErrNone) {
			r.log.Warn("cannot tell whose a connection is", "error", err)
		}
		return
	}
	process, unit := r.programs.Of(s)
	r.table.Tell(p.At, talk.Socket{Conn: c, Process: process, Unit: unit})
}

// look finds interfaces that have come or gone, and says so once.
func (r *recorder) look() {
	missing, err := r.packets.Look()
	if err != nil {
		r.log.Error("cannot listen on new interfaces", "error", err)
	}
	if missing != r.missing && missing > 0 {
		r.log.Warn("interfaces are not there: nothing is heard on them", "missing", missing)
	}
	r.missing = missing
}

// ask tells the table what the kernel knows of all connections: bytes, owners,
// and those that were there before it listened.
func (r *recorder) ask(at int64) {
	all, listening, err := r.sockets.All()
	if err != nil {
		r.log.Warn("cannot ask the kernel for connections", "error", err)
		return
	}
	open, there := make(map[talk.Conn][2]uint64, len(all)), make(map[talk.Conn]bool, len(all))
	for _, s := range all {
		there[s.Conn] = true
		if !s.Established() {
			continue
		}
		if s.Remote.Addr().IsLoopback() && r.packets.Everywhere() {
			continue
		}
		watched := r.table.Watches(s.Conn)
		if !watched && !r.packets.Everywhere() {
			continue // nobody knows which interface it goes over
		}
		start, known := r.before[s.Conn]
		if !known && !watched {
			start = [2]uint64{s.Out, s.In}
		}
		open[s.Conn] = start
		process, unit := r.programs.Of(s)
		r.table.Tell(at, talk.Socket{
			Conn: s.Conn, Inbound: listening[s.Local.Port()], Process: process, Unit: unit,
			Counted: s.Counted, Out: s.Out - start[0], In: s.In - start[1],
		})
	}
	r.before = open
	r.table.Lost(at, func(c talk.Conn) bool { return there[c] })
}

// count takes what the kernel lost into the record.
func (r *recorder) count() {
	n, err := r.packets.Dropped()
	if err != nil {
		r.log.Warn("cannot count lost packets", "error", err)
		return
	}
	r.dropped += n
	r.table.Dropped(n)
}

// write puts the record into its file, whole or not at all.
func (r *recorder) write() error {
	r.count()
	if r.dropped > 0 {
		r.log.Warn("packets were lost: they came faster than they were read", "packets", r.dropped)
		r.dropped = 0
	}
	if r.packets.Passing > 0 && !r.passing {
		r.passing = true
		r.log.Info("what the device forwards for others is left out")
	}
	data, err := r.table.Record(time.Now().UnixNano()).Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(r.config.Record), 0o700); err != nil {
		return fmt.Errorf("cannot make folder of the record: %w", err)
	}
	return durable.Write(r.config.Record, data, 0o600)
}
