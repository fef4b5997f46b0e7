package linux

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	busChannel = "dbus"
	// maxSignals bounds how many signals of systemd are taken a second. Beyond,
	// the bus is left for the rest of it, and the services are asked for anew.
	maxSignals = 500
)

var busTopics = of(topicServices)

// watchBus listens to systemd. It keeps a connection of its own; one that breaks
// is made anew.
func (e *Events) watchBus(ctx context.Context) {
	wait := time.Second
	for ctx.Err() == nil && e.systemd() {
		err := e.listenBus(ctx, func() { wait = time.Second })
		if ctx.Err() != nil {
			return
		}
		e.log.Debug("no events from systemd", "err", err)
		pause(ctx, wait)
		wait = min(2*wait, eventRetry)
	}
}

// listenBus listens until the connection breaks.
func (e *Events) listenBus(ctx context.Context, ready func()) error {
	s := &signals{events: e}
	conn, err := dbus.Connect(e.root.bus, dbus.WithContext(ctx), dbus.WithSignalHandler(s))
	if err != nil {
		return err
	}
	defer conn.Close()
	s.leave = func() { conn.Close() }
	call, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	for _, m := range [][]dbus.MatchOption{
		{dbus.WithMatchInterface("org.freedesktop.DBus.Properties"), dbus.WithMatchMember("PropertiesChanged"), dbus.WithMatchPathNamespace(busPath + "/unit")},
		{dbus.WithMatchInterface(manager), dbus.WithMatchMember("UnitRemoved")},
		{dbus.WithMatchInterface(manager), dbus.WithMatchMember("UnitFilesChanged")},
	} {
		if err := conn.AddMatchSignalContext(call, append(m, dbus.WithMatchSender(busName))...); err != nil {
			return err
		}
	}
	// systemd signals changes of units only while somebody has subscribed.
	if err := conn.Object(busName, busPath).CallWithContext(call, manager+".Subscribe", 0).Err; err != nil {
		return err
	}
	ready()
	e.opened(busChannel)
	defer e.closed(busChannel)
	e.news.Add(1)
	e.hit(busTopics)
	<-conn.Context().Done()
	if ctx.Err() == nil {
		why := "the connection broke"
		if s.storm.Load() {
			why = "more signals than can be taken"
		}
		e.news.Add(1)
		e.missed(busChannel, busTopics, why)
	}
	return conn.Context().Err()
}

// signals takes the signals of systemd as they come off the wire.
type signals struct {
	events *Events
	leave  func()
	storm  atomic.Bool
	second time.Time
	count  int
}

// DeliverSignal implements dbus.SignalHandler.
func (s *signals) DeliverSignal(_, _ string, m *dbus.Signal) {
	if now := time.Now(); now.Sub(s.second) >= time.Second {
		s.second, s.count = now, 0
	}
	if s.count++; s.count > maxSignals {
		if !s.storm.Swap(true) {
			go s.leave() // it waits for the reader, which is here
		}
		return
	}
	if aboutService(m) {
		s.events.news.Add(1)
		s.events.hit(busTopics)
	}
}

// ofServices counts what may have changed services since the start.
func (e *Events) ofServices() int64 {
	if e == nil {
		return 0
	}
	return e.news.Load()
}

// aboutService reports whether a signal of systemd is about a service. The path
// of a unit is its name with all but letters and digits escaped.
func aboutService(m *dbus.Signal) bool {
	switch m.Name {
	case "org.freedesktop.DBus.Properties.PropertiesChanged":
		return strings.HasSuffix(string(m.Path), "_2eservice")
	case manager + ".UnitRemoved":
		name, _ := first(m.Body)
		return strings.HasSuffix(name, ".service")
	case manager + ".UnitFilesChanged":
		return true
	}
	return false
}

func first(body []any) (string, bool) {
	if len(body) == 0 {
		return "", false
	}
	s, ok := body[0].(string)
	return s, ok
}
