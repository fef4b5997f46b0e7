package linux

import (
	"bytes"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

const (
	kernelLog = "dev/kmsg"
	// maxRecords bounds what is read of the kernel's log, which is a ring of some
	// thousand records. What is looked for stands among the first.
	maxRecords = 8192
	// maxRead is more than the kernel gives of one, at most 8 KiB (kernel/printk), and
	// what a fixture has at most of all.
	maxRead = 32 << 10
	// afterInit is how many records after a program's start another one is looked
	// for: where a program cannot be run, the kernel tries the next at once.
	afterInit = 64
)

// An initStart is when the kernel ran the first program, and which.
type initStart struct {
	ms      int64 // since the kernel's clock began
	program string
}

// initStart is what the kernel's log says of the first program. told is false where
// that log can say nothing in any boot: it is not there, the agent may not read it,
// or it begins with the kernel and does not say (Linux before 4.20). One that has
// lost its beginning is absent.
func (r *Root) initStart() (start initStart, told bool, f fault) {
	fd, err := r.open(kernelLog)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return initStart{}, false, fault{}
	}
	if err != nil {
		return initStart{}, true, faultOf("/"+kernelLog, err)
	}
	defer unix.Close(fd)
	unix.SetNonblock(fd, true) // else it waits for the next record
	var log initLog
	buf := make([]byte, maxRead)
	for more, n := true, 0; more && log.seen < maxRecords; {
		n, err = unix.Read(fd, buf)
		switch {
		case err == unix.EPIPE, err == unix.EINTR: // records were overwritten meanwhile
		case err != nil && err != unix.EAGAIN:
			return initStart{}, true, faultOf("/"+kernelLog, err)
		default:
			more = n > 0 && log.takeAll(buf[:n])
		}
	}
	return log.end()
}

func parseKernelLog(b []byte) (start initStart, told bool, f fault) {
	var log initLog
	log.takeAll(b)
	return log.end()
}

// An initLog looks for the first program in records of the kernel's log, each
// "level,sequence,microseconds,flags;text" and lines of properties that begin
// with a space (ABI/testing/dev-kmsg).
type initLog struct {
	found   initStart
	seen    int  // records
	since   int  // of these, since one was found
	whole   bool // it has the kernel's first record
	trouble bool
}

// takeAll takes whole records, and reports whether more are wanted.
func (l *initLog) takeAll(b []byte) bool {
	for len(b) > 0 && !l.trouble && l.since < afterInit {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if b = rest; !whole {
			l.trouble = true
		} else if l.seen == 0 || len(line) == 0 || line[0] != ' ' { // else a property of the record before
			l.take(line)
		}
	}
	return !l.trouble && l.since < afterInit
}

// take takes a record without its properties.
func (l *initLog) take(b []byte) {
	head, text, ok := bytes.Cut(b, []byte(";"))
	var numbers [3]int64 // level, sequence, microseconds
	for i := range numbers {
		var number []byte
		var valid, more bool
		number, head, more = bytes.Cut(head, []byte(","))
		numbers[i], valid = parseInt(number)
		ok = ok && valid && more && numbers[i] >= 0
	}
	l.trouble = !ok
	l.whole = l.whole || numbers[1] == 0
	l.seen++
	l.since += min(len(l.found.program), 1)
	program, run := bytes.CutPrefix(text, []byte("Run "))
	program, as := bytes.CutSuffix(program, []byte(" as init process"))
	if numbers[0] < 8 && run && as { // what programs write has another facility than the kernel's
		l.found, l.since = initStart{numbers[2] / 1000, string(program)}, 0
	}
}

func (l *initLog) end() (start initStart, told bool, f fault) {
	switch {
	case l.trouble, l.seen == 0:
		return initStart{}, true, malformed("/" + kernelLog + ": it has not the form of the kernel's ABI/testing/dev-kmsg")
	case l.found.program != "":
		return l.found, true, fault{}
	case l.whole:
		return initStart{}, false, fault{}
	}
	return initStart{}, true, absent("the kernel's log no longer has what it began with")
}

// kernelPhases is the time until the first program ran, by the kernel's log, and
// what can be told of the phases after it at uptime up: without an initial RAM file
// system user space began then; with one the kernel says when that began, and
// nothing when it ended.
//
// Without the log, made is all that is known: when the kernel made process 1, some
// time before it ran a program in it.
func (r *Root) kernelPhases(made phase, up int64) (kernel, initrd, userspace phase) {
	start, told, f := r.initStart()
	switch {
	case !told:
		none := phase{fault: absent("systemd, which measures it, does not run here")}
		return made, none, none
	case f.is():
		return phase{fault: f}, phase{fault: f}, phase{fault: f}
	case start.program == "/init" || r.rdinit() == start.program:
		open := phase{fault: absent("the kernel's log says when it began, and nothing says when it ended")}
		return phase{ms: start.ms}, open, open
	}
	return phase{ms: start.ms}, phase{fault: absent("there was none")}, phase{ms: up - start.ms}
}

// rdinit is another name for /init, where the kernel's command line gives one.
func (r *Root) rdinit() string {
	b, _ := r.readFile("proc/cmdline")
	program, _ := parameter(b, "rdinit")
	return string(program)
}
