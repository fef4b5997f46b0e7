package failsafe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/reference"
)

// ioctl passes arg, which the kernel may change, to a device.
func ioctl(fd uintptr, request uint32, arg []byte) error {
	_, _, no := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(unsafe.Pointer(unsafe.SliceData(arg))))
	runtime.KeepAlive(arg)
	if no != 0 {
		return no
	}
	return nil
}

// Version 2 of the GPIO character device (linux/gpio.h). Each structure is given
// by its size and the places of what is used in it.
const (
	gpioLineInfo  = 0xc100b405 // GPIO_V2_GET_LINEINFO_IOCTL, 256 bytes: consumer at 32, offset at 64, flags at 72
	gpioLine      = 0xc250b407 // GPIO_V2_GET_LINE_IOCTL, 592 bytes: offsets at 0, consumer at 256, configuration at 288, count at 560, descriptor at 588
	gpioSetConfig = 0xc110b40d // GPIO_V2_LINE_SET_CONFIG_IOCTL, 272 bytes: flags at 0, count of attributes at 8, the first at 32
	gpioGet       = 0xc010b40e // GPIO_V2_LINE_GET_VALUES_IOCTL, 16 bytes: bits at 0, mask at 8
	gpioSet       = 0xc010b40f // GPIO_V2_LINE_SET_VALUES_IOCTL

	gpioUsed         = 1 << 0
	gpioInput        = 1 << 2
	gpioOutput       = 1 << 3
	gpioOutputValues = 2 // GPIO_V2_LINE_ATTR_ID_OUTPUT_VALUES
)

// drive drives a GPIO line and holds it: the kernel lets go of a line with the
// process that asked for it, so that a restart asks again.
func (h *hands) drive(r reference.Reaction, before func(...string) error) (string, error) {
	level := r.Value[0] - '0'
	line := h.lines[r.Target]
	if line == nil {
		var was string
		var err error
		if line, was, err = h.takeLine(r.Target); err != nil {
			return "", err
		}
		if err := before(was); err != nil {
			line.Close()
			return "", err
		}
		h.lines[r.Target] = line
	}
	now, err := h.level(line)
	if err == nil {
		config := make([]byte, 272)
		binary.NativeEndian.PutUint64(config, gpioOutput)
		binary.NativeEndian.PutUint32(config[8:], 1)
		binary.NativeEndian.PutUint32(config[32:], gpioOutputValues)
		binary.NativeEndian.PutUint64(config[40:], uint64(level))
		binary.NativeEndian.PutUint64(config[48:], 1)
		if err = h.ioctl(line.Fd(), gpioSetConfig, config); err == nil {
			now, err = h.level(line)
		}
	}
	if err == nil && now != level {
		err = fmt.Errorf("the line is %d", now)
	}
	if err != nil {
		return "", fmt.Errorf("cannot drive %s: %w", r.Target, err)
	}
	return fmt.Sprintf("the line is %d", now), nil
}

// takeLine asks for a line as it is, and says what it was: "in", or "out=LEVEL".
func (h *hands) takeLine(target string) (*os.File, string, error) {
	name, number, _ := strings.Cut(target, ":")
	offset, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return nil, "", err
	}
	chip, err := os.OpenFile(filepath.Join(h.dev, name), os.O_RDWR, 0)
	if err != nil {
		return nil, "", err
	}
	defer chip.Close()
	info := make([]byte, 256)
	binary.NativeEndian.PutUint32(info[64:], uint32(offset))
	if err := h.ioctl(chip.Fd(), gpioLineInfo, info); err != nil {
		return nil, "", fmt.Errorf("cannot look at %s: %w", target, err)
	}
	flags := binary.NativeEndian.Uint64(info[72:])
	if flags&gpioUsed != 0 {
		return nil, "", fmt.Errorf("%s is in use by %q", target, strings.TrimRight(string(info[32:64]), "\x00"))
	}
	ask := make([]byte, 592)
	binary.NativeEndian.PutUint32(ask, uint32(offset))
	copy(ask[256:288], "factsd")
	binary.NativeEndian.PutUint32(ask[560:], 1)
	if err := h.ioctl(chip.Fd(), gpioLine, ask); err != nil {
		return nil, "", fmt.Errorf("cannot take %s: %w", target, err)
	}
	line := os.NewFile(uintptr(binary.NativeEndian.Uint32(ask[588:])), target)
	level, err := h.level(line)
	if err != nil {
		line.Close()
		return nil, "", err
	}
	if flags&gpioOutput != 0 {
		return line, fmt.Sprintf("out=%d", level), nil
	}
	return line, "in", nil
}

func (h *hands) level(line *os.File) (byte, error) {
	values := make([]byte, 16)
	binary.NativeEndian.PutUint64(values[8:], 1)
	if err := h.ioctl(line.Fd(), gpioGet, values); err != nil {
		return 0, fmt.Errorf("cannot read the line: %w", err)
	}
	return byte(binary.NativeEndian.Uint64(values) & 1), nil
}

// release makes a line what it was and lets go of it.
func (h *hands) release(r reference.Reaction, was []string) (string, error) {
	if len(was) != 1 || was[0] != "in" && was[0] != "out=0" && was[0] != "out=1" {
		return "", errors.New("what there was before is not known")
	}
	line := h.lines[r.Target]
	if line == nil {
		var err error
		if line, _, err = h.takeLine(r.Target); err != nil {
			return "", err
		}
	}
	delete(h.lines, r.Target)
	defer line.Close()
	config := make([]byte, 272)
	binary.NativeEndian.PutUint64(config, gpioInput)
	level, out := strings.CutPrefix(was[0], "out=")
	if out {
		binary.NativeEndian.PutUint64(config, gpioOutput)
		binary.NativeEndian.PutUint32(config[8:], 1)
		binary.NativeEndian.PutUint32(config[32:], gpioOutputValues)
		binary.NativeEndian.PutUint64(config[40:], uint64(level[0]-'0'))
		binary.NativeEndian.PutUint64(config[48:], 1)
	}
	if err := h.ioctl(line.Fd(), gpioSetConfig, config); err != nil {
		return "", fmt.Errorf("cannot put %s back: %w", r.Target, err)
	}
	now, err := h.level(line)
	if err == nil && out && strconv.Itoa(int(now)) != level {
		err = fmt.Errorf("the line is %d", now)
	}
	if err != nil {
		return "", err
	}
	return "the line is " + was[0] + " again", nil
}

// Sounds of input devices (linux/input.h).
const (
	eventSound = 0x12       // EV_SND
	soundTone  = 2          // SND_TONE
	soundState = 0x8008451a // EVIOCGSND of 8 bytes
	beepTime   = 200 * time.Millisecond
)

func tone(f *os.File, hz uint32) error {
	event := make([]byte, 2*unsafe.Sizeof(uintptr(0))+8) // struct input_event
	at := len(event) - 8
	binary.NativeEndian.PutUint16(event[at:], eventSound)
	binary.NativeEndian.PutUint16(event[at+2:], soundTone)
	binary.NativeEndian.PutUint32(event[at+4:], hz)
	_, err := f.Write(event)
	return err
}

// beep sounds for a moment. What can be observed is that the kernel takes the
// tone for on; whether anybody hears it cannot.
func (h *hands) beep(ctx context.Context, r reference.Reaction, before func(...string) error) (string, error) {
	hz, err := strconv.ParseUint(r.Value, 10, 32)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(filepath.Join(h.dev, "input", r.Target), os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := before(); err != nil {
		return "", err
	}
	if err := tone(f, uint32(hz)); err != nil {
		return "", err
	}
	defer tone(f, 0)
	state := make([]byte, 8)
	if err := h.ioctl(f.Fd(), soundState, state); err != nil {
		return "", fmt.Errorf("cannot tell whether it sounds: %w", err)
	}
	if binary.NativeEndian.Uint32(state)&(1<<soundTone) == 0 {
		return "", errors.New("the kernel says that no tone is on")
	}
	select {
	case <-ctx.Done():
	case <-time.After(beepTime):
	}
	return "the kernel says that the tone was on", nil
}

// silence ends a tone that a crash may have left on.
func (h *hands) silence(r reference.Reaction) (string, error) {
	f, err := os.OpenFile(filepath.Join(h.dev, "input", r.Target), os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := tone(f, 0); err != nil {
		return "", err
	}
	return "the tone is off", nil
}
