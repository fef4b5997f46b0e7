package linux

import (
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// Version 2 of the GPIO character device (kernel, userspace-api/gpio/chardev;
// include/uapi/linux/gpio.h).
const (
	gpioRequest = 0xc250b407 // GPIO_V2_GET_LINE_IOCTL, 592 bytes: offsets at 0, consumer at 256, flags at 288, count at 560, descriptor at 588
	gpioValues  = 0xc010b40e // GPIO_V2_LINE_GET_VALUES_IOCTL, 16 bytes: bits at 0, mask at 8

	gpioActiveLow = 1 << 1
	gpioInput     = 1 << 2
	gpioRising    = 1 << 4
	gpioFalling   = 1 << 5

	gpioEventSize  = 48 // struct gpio_v2_line_event: its id, 1 for a rising edge, at 8
	gpioRisingEdge = 1
)

// Lines are the tamper inputs of the machine: GPIO lines that this process holds
// from the first look on, so that nobody else can turn them into outputs.
type Lines struct {
	dev   string // where the chips are
	ioctl func(fd int, op uint, arg []byte) error
	lines []*line
	edges atomic.Int64 // to active, since the agent started
}

type line struct {
	name   string // as it was configured
	chip   string
	offset uint32
	low    bool // a low level is the active one

	mu sync.Mutex
	fd int // -1 when not held
}

// NewLines returns the lines called names: "gpiochip0:17", or "gpiochip0:17:low"
// for one that is active while it is low.
func NewLines(names []string) (*Lines, error) {
	l := &Lines{dev: "/dev/", ioctl: func(fd int, op uint, arg []byte) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(op), uintptr(unsafe.Pointer(&arg[0]))); errno != 0 {
			return errno
		}
		return nil
	}}
	for _, name := range names {
		chip, rest, _ := strings.Cut(name, ":")
		number, level, low := strings.Cut(rest, ":")
		offset, ok := parseInt([]byte(number))
		if digits, found := strings.CutPrefix(chip, "gpiochip"); !found || digits == "" || strings.Trim(digits, "0123456789") != "" || !ok || offset < 0 || offset > 1<<16 || low && level != "low" {
			return nil, fmt.Errorf("cannot use tamper line %q: it is not written like \"gpiochip0:17\" or \"gpiochip0:17:low\"", name)
		}
		l.lines = append(l.lines, &line{name: name, chip: chip, offset: uint32(offset), low: low, fd: -1})
	}
	return l, nil
}

// hold requests the line x as an input with its edges, if that was not done.
func (l *Lines) hold(x *line) (fd int, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fd >= 0 {
		return x.fd, nil
	}
	chip, err := unix.Open(l.dev+x.chip, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(chip)
	ne, req := binary.NativeEndian, make([]byte, 592)
	ne.PutUint32(req, x.offset)
	copy(req[256:], "factsd-tamper")
	flags := uint64(gpioInput | gpioRising | gpioFalling)
	if x.low {
		flags |= gpioActiveLow
	}
	ne.PutUint64(req[288:], flags)
	ne.PutUint32(req[560:], 1)
	if err := l.ioctl(chip, gpioRequest, req); err != nil {
		return -1, err
	}
	x.fd = int(ne.Uint32(req[588:]))
	return x.fd, nil
}

// channels returns how to open each line as a channel of events.
func (l *Lines) channels() (open []func() (*channel, error)) {
	for _, x := range l.lines {
		open = append(open, func() (*channel, error) {
			fd, err := l.hold(x)
			if err != nil {
				return nil, err
			}
			if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
				return nil, err
			}
			return &channel{name: "gpio", fd: fd, poll: unix.EPOLLIN, topics: of(topicTamper), take: func(fd int, buf []byte) (hits, bool, error) {
				n, err := unix.Read(fd, buf[:len(buf)/gpioEventSize*gpioEventSize])
				if err == unix.EAGAIN || err == unix.EINTR {
					return 0, false, nil
				}
				if err != nil {
					return 0, false, err
				}
				rising, ok := parseLineEvents(buf[:n])
				l.edges.Add(rising)
				return of(topicTamper), !ok, nil
			}}, nil
		})
	}
	return open
}

// parseLineEvents counts the rising edges in what was read of a line; ok is false
// for what are not whole events.
func parseLineEvents(b []byte) (rising int64, ok bool) {
	for ; len(b) >= gpioEventSize; b = b[gpioEventSize:] {
		if binary.NativeEndian.Uint32(b[8:]) == gpioRisingEdge {
			rising++
		}
	}
	return rising, len(b) == 0
}

// tamper reports which lines are active, and how many edges to active there were.
type tamper struct {
	lines  *Lines
	events *Events
}

func (s tamper) read(o *out) {
	if s.lines == nil || len(s.lines.lines) == 0 {
		o.faults(absent("no tamper lines are configured"))
		return
	}
	active := []string{}
	for _, x := range s.lines.lines {
		values := make([]byte, 16)
		binary.NativeEndian.PutUint64(values[8:], 1) // of the one line
		fd, err := s.lines.hold(x)
		if err == nil {
			err = s.lines.ioctl(fd, gpioValues, values)
		}
		if err != nil {
			o.faults(faultOf("GPIO line "+x.name, err))
			return
		}
		if binary.NativeEndian.Uint64(values)&1 != 0 {
			active = append(active, x.name)
		}
	}
	o.ok(0, facts.SetValue(active))
	if s.events == nil || !s.events.watching.Load() {
		o.fault(1, absent("nothing watches events here"))
		return
	}
	o.num(1, s.lines.edges.Load())
}
