package linux

import (
	"context"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// A topic is what an event says something about: the facts of one source.
type topic uint8

// The topics.
const (
	topicAddresses topic = iota
	topicRoutes
	topicWireless
	topicBluetooth
	topicUSB
	topicModules
	topicSupplies
	topicVerity
	topicMounts
	topicAccounts
	topicResolv
	topicUpdates
	topicServices
	topicUnitFiles
	topicApplication
	topicContainers
	topicTamper
	topicCPUPressure
	topicMemoryPressure
	topicChannels
	topics
)

// topicFacts names a fact of the source that a topic is about.
var topicFacts = [topics]string{
	topicAddresses:      "network.addresses",
	topicRoutes:         "network.default_route",
	topicWireless:       "network.wireless",
	topicBluetooth:      "network.bluetooth",
	topicUSB:            "integrity.devices",
	topicModules:        "integrity.modules",
	topicSupplies:       "energy.mains",
	topicVerity:         "storage.verity",
	topicMounts:         "storage.mounts",
	topicAccounts:       "integrity.accounts",
	topicResolv:         "network.dns",
	topicUpdates:        "software.last_update",
	topicServices:       "service.active",
	topicUnitFiles:      "service.files",
	topicApplication:    "application.running",
	topicContainers:     "container.count",
	topicTamper:         "integrity.tamper_lines",
	topicCPUPressure:    "cpu.pressure",
	topicMemoryPressure: "memory.pressure",
	topicChannels:       "events.channels",
}

// hits is a set of topics.
type hits uint32

func of(list ...topic) (h hits) {
	for _, t := range list {
		h |= 1 << t
	}
	return h
}

// Limits of what events may cost. An event is told of at once; what they bound
// is a storm of them, and how much processor time whoever makes it can burn.
const (
	eventBurst = 10                     // of a topic, told one after the other as they come
	eventEvery = 100 * time.Millisecond // then this far apart
	eventPause = 5 * time.Millisecond   // between two looks at the kernel's queues, of which each takes one buffer
	eventRetry = time.Minute            // at most, between attempts to open a channel anew
)

// A channel is one way in which the kernel tells of events, as a descriptor.
type channel struct {
	name   string // a member of events.channels
	fd     int
	poll   uint32 // what it waits for, epoll_ctl(2)
	topics hits   // all that it can tell of
	// take reads what is there, without waiting. lost: events are missing.
	// An error closes the channel.
	take func(fd int, buf []byte) (h hits, lost bool, err error)
}

// Events waits for what the kernel and systemd tell of changes, and says which
// facts are to be read anew. While nothing happens it costs nothing: one
// goroutine waits in epoll_wait(2) for all of the kernel's descriptors, and one
// reads the system bus. (The runtime's poller could not stand in: it does not
// wait for EPOLLPRI, and an epoll instance within it loses the events of files
// that tell them only once.)
//
// Events are hints. What they say is not believed: the fact is read. When some
// were lost, every fact that they could have been about is read.
type Events struct {
	root    *Root
	log     *slog.Logger
	paced   [topics]pacer
	kernel  []func() (*channel, error)
	systemd func() bool
	network chan struct{}

	mu       sync.Mutex
	open     []string // names of the open channels
	lost     atomic.Int64
	held     atomic.Int64
	news     atomic.Int64 // events about services
	watching atomic.Bool
}

// NewEvents prepares events for the facts of root, as opt has them; Watch begins.
// A fixture has none.
func NewEvents(root *Root, opt Options, log *slog.Logger) *Events {
	e := &Events{root: root, log: log, systemd: root.systemd, network: make(chan struct{}, 1)}
	keys := map[string]facts.Key{}
	for _, d := range facts.Catalogue() {
		keys[d.Name] = d.Key
	}
	for t := range e.paced {
		p := &e.paced[t]
		if p.key = keys[topicFacts[t]]; p.key == 0 {
			panic("linux: no fact " + topicFacts[t])
		}
		p.held = &e.held
	}
	if root.Live() {
		e.kernel = []func() (*channel, error){openRouteEvents, openUevents, newFileWatch(opt).open, openMountEvents}
		for _, p := range []*pressureEvents{{resource: "cpu", topic: topicCPUPressure}, {resource: "memory", topic: topicMemoryPressure}} {
			p.passed = passed("pressure-" + p.resource)
			e.kernel = append(e.kernel, p.open)
		}
		if opt.TamperLines != nil {
			e.kernel = append(e.kernel, opt.TamperLines.channels()...)
		}
	}
	return e
}

// Watch calls changed with a fact of each source that may have something new,
// until ctx ends. Calls come from several goroutines. A channel that this
// machine does not have is left out; one that breaks is opened anew, and what it
// could have told of is read.
func (e *Events) Watch(ctx context.Context, changed func(facts.Key)) error {
	for t := range e.paced {
		e.paced[t].tell = changed
		defer e.paced[t].stop()
	}
	e.watching.Store(true)
	defer e.watching.Store(false)
	var wait sync.WaitGroup
	defer wait.Wait()
	if e.root.Live() || e.root.bus != systemBus {
		wait.Go(func() { e.watchBus(ctx) })
	}
	if len(e.kernel) == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	return e.watchKernel(ctx)
}

// Network receives, while Watch runs, when links, addresses or routes may have
// changed. Several changes may be received as one.
func (e *Events) Network() <-chan struct{} { return e.network }

func (e *Events) hit(h hits) {
	if h&of(topicAddresses, topicRoutes) != 0 {
		select {
		case e.network <- struct{}{}:
		default:
		}
	}
	for ; h != 0; h &= h - 1 {
		e.paced[bits.TrailingZeros32(uint32(h))].hit(time.Now())
	}
}

// missed tells of everything that lost events could have been about.
func (e *Events) missed(name string, h hits, why string) {
	e.lost.Add(1)
	e.log.Warn("events were lost: reading anew what they could have been about", "channel", name, "reason", why)
	e.hit(h)
}

func (e *Events) opened(name string) {
	e.mu.Lock()
	e.open = append(e.open, name)
	e.mu.Unlock()
	e.hit(of(topicChannels))
}

func (e *Events) closed(name string) {
	e.mu.Lock()
	if i := slices.Index(e.open, name); i >= 0 {
		e.open = slices.Delete(e.open, i, i+1)
	}
	e.mu.Unlock()
	e.hit(of(topicChannels))
}

// watchKernel waits for all of the kernel's descriptors.
func (e *Events) watchKernel(ctx context.Context) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot watch events: %w", err)
	}
	defer unix.Close(epoll)
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch events: %w", err)
	}
	defer unix.Close(end)
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, end, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}); err != nil {
		return fmt.Errorf("cannot watch events: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	waker := make(chan struct{})
	go func() {
		defer close(waker)
		<-ctx.Done()
		unix.Write(end, []byte{1, 0, 0, 0, 0, 0, 0, 1})
	}()
	defer func() { cancel(); <-waker }() // end must not be closed while it is written

	w := kernelWatch{events: e, epoll: epoll, channels: make([]*channel, len(e.kernel)), retry: make([]time.Time, len(e.kernel)), wait: make([]time.Duration, len(e.kernel)), buf: make([]byte, 16<<10)}
	defer w.close()
	for i := range e.kernel {
		w.open(i, time.Now())
	}
	for ctx.Err() == nil {
		timeout := -1
		if next := w.next(); !next.IsZero() {
			timeout = max(int(time.Until(next)/time.Millisecond)+1, 0)
		}
		var ready [16]unix.EpollEvent
		n, err := unix.EpollWait(epoll, ready[:], timeout)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot watch events: %w", err)
		}
		for _, r := range ready[:max(n, 0)] {
			w.take(int(r.Fd))
		}
		w.reopen(time.Now())
		pause(ctx, eventPause)
	}
	return ctx.Err()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// A kernelWatch is the state of watchKernel.
type kernelWatch struct {
	events   *Events
	epoll    int
	channels []*channel // nil where closed
	retry    []time.Time
	wait     []time.Duration
	buf      []byte
}

// open opens channel i. What happened before it was open it cannot tell, so all
// that it can tell of is read once it is.
func (w *kernelWatch) open(i int, now time.Time) {
	c, err := w.events.kernel[i]()
	if err == nil {
		if err = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: c.poll, Fd: int32(i)}); err != nil {
			unix.Close(c.fd)
		}
	}
	if err != nil {
		w.events.log.Debug("no events from here", "err", err)
		w.wait[i] = min(max(2*w.wait[i], time.Second), eventRetry)
		w.retry[i] = now.Add(w.wait[i])
		if f := faultOf("", err); f.status == facts.Absent {
			w.retry[i] = time.Time{} // this kernel does not have it
		}
		return
	}
	w.channels[i], w.wait[i], w.retry[i] = c, 0, time.Time{}
	w.events.opened(c.name)
	w.events.hit(c.topics)
}

// next returns when a channel is to be tried again; the zero time for never.
func (w *kernelWatch) next() (at time.Time) {
	for _, t := range w.retry {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	return at
}

func (w *kernelWatch) reopen(now time.Time) {
	for i, t := range w.retry {
		if !t.IsZero() && !now.Before(t) {
			w.open(i, now)
		}
	}
}

func (w *kernelWatch) take(i int) {
	if i < 0 || w.channels[i] == nil {
		return
	}
	c := w.channels[i]
	h, lost, err := c.take(c.fd, w.buf)
	switch {
	case err != nil:
		w.drop(i)
		w.retry[i] = time.Now().Add(time.Second)
		w.events.missed(c.name, c.topics, err.Error())
	case lost:
		w.events.missed(c.name, c.topics, "the queue overflowed")
	default:
		w.events.hit(h)
	}
}

func (w *kernelWatch) drop(i int) {
	if c := w.channels[i]; c != nil {
		unix.Close(c.fd) // which takes it out of the epoll instance
		w.events.closed(c.name)
		w.channels[i] = nil
	}
}

func (w *kernelWatch) close() {
	for i := range w.channels {
		w.drop(i)
	}
}

// A pacer tells of one topic at once, and of a storm only so often: what comes
// too fast is told of together, later.
type pacer struct {
	key  facts.Key
	tell func(facts.Key)
	held *atomic.Int64

	mu    sync.Mutex
	spent int       // of the burst
	since time.Time // up to when spent has been reduced
	timer *time.Timer
	ended bool
}

func (p *pacer) hit(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := int(min(now.Sub(p.since)/eventEvery, eventBurst)); n > 0 {
		p.spent, p.since = max(p.spent-n, 0), p.since.Add(time.Duration(n)*eventEvery)
		if p.spent == 0 {
			p.since = now
		}
	}
	switch {
	case p.ended:
	case p.timer != nil:
		p.held.Add(1)
	case p.spent < eventBurst:
		p.spent++
		p.tell(p.key)
	default:
		p.held.Add(1)
		p.timer = time.AfterFunc(eventEvery, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.timer = nil
			if !p.ended {
				p.spent, p.since = eventBurst, time.Now() // what was earned meanwhile is spent
				p.tell(p.key)
			}
		})
	}
}

func (p *pacer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// eventCounts reports how events are watched.
type eventCounts struct{ events *Events }

func (s *eventCounts) read(o *out) {
	if s.events == nil || !s.events.watching.Load() {
		o.faults(absent("nothing watches events here"))
		return
	}
	o.num(0, s.events.lost.Load())
	o.num(1, s.events.held.Load())
}

// eventChannels reports which channels are open.
type eventChannels struct{ events *Events }

func (s *eventChannels) read(o *out) {
	if s.events == nil || !s.events.watching.Load() {
		o.fault(0, absent("nothing watches events here"))
		return
	}
	s.events.mu.Lock()
	open := slices.Clone(s.events.open)
	s.events.mu.Unlock()
	o.set(0, append([]string{}, open...))
}
