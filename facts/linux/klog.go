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

// initStart is what the kernel's log says of the first program.
func (r *Root) initStart() *initLog {
	log := new(initLog)
	log.read(r)
	return log
}

func (l *initLog) read(r *Root) {
	fd, err := r.open(kernelLog)
	if l.silent = errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist); err != nil {
		l.fault = faultOf("/"+kernelLog, err)
		return
	}
	defer unix.Close(fd)
	unix.SetNonblock(fd, true) // else it waits for the next record
	buf := make([]byte, maxRead)
	for more, n := true, 0; more && l.seen < maxRecords; {
		n, err = unix.Read(fd, buf)
		switch {
		case err == unix.EPIPE, err == unix.EINTR: // records were overwritten meanwhile
		case err != nil && err != unix.EAGAIN:
			l.fault = faultOf("/"+kernelLog, err)
			return
		default:
			more = n > 0 && l.takeAll(buf[:n])
		}
	}
	l.end()
}

// An initLog looks for the first program in records of the kernel's log, each
// "level,sequence,microseconds,flags;text" and lines of properties that begin
// with a space (ABI/testing/dev-kmsg).
type initLog struct {
	ms      int64  // since the kernel's clock began, when it ran the program
	program string // the first one
	fault   fault  // why that is not known
	// silent is a log that can say nothing in any boot: it is not there, the agent
	// may not read it, or it begins with the kernel and does not say (Linux before
	// 4.20). One that has lost its beginning may say it in the next boot.
	silent bool

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
	l.since += min(len(l.program), 1)
	program, run := bytes.CutPrefix(text, []byte("Run "))
	program, as := bytes.CutSuffix(program, []byte(" as init process"))
	if numbers[0] < 8 && run && as { // what programs write has another facility than the kernel's
		l.ms, l.program, l.since = numbers[2]/1000, string(program), 0
	}
}

// end tells what all records come to.
func (l *initLog) end() {
	switch {
	case l.trouble, l.seen == 0:
		l.fault = malformed("/" + kernelLog + ": it has not the form of the kernel's ABI/testing/dev-kmsg")
	case l.program == "":
		l.fault = absent("the kernel's log no longer has what it began with")
		l.silent = l.whole
	}
}

// kernelPhases takes the time until the first program ran from the kernel's log,
// and what can be told of the phases after it at uptime up: without an initial RAM
// file system user space began then; with one the kernel says when that began, and
// nothing when it ended.
//
// Without the log it stays at what is known besides: when the kernel made process
// 1, some time before it ran a program in it.
func (r *bootRecord) kernelPhases(root *Root, up int64) {
	log := root.initStart()
	if log.silent {
		return
	}
	kernel := phase{log.ms, log.fault}
	initrd, userspace := phase{fault: log.fault}, phase{up - log.ms, log.fault}
	if !log.fault.is() {
		initrd.fault = absent("there was none")
		switch {
		case log.program == "/init" || root.rdinit() == log.program:
			initrd.fault = absent("the kernel's log says when it began, and nothing says when it ended")
			userspace.fault = initrd.fault
		case r.readings[bootTotal].is(): // when the boot was complete is not known
			userspace = r.readings[bootTotal]
		}
	}
	r.readings[bootKernel], r.readings[bootInitrd], r.readings[bootUserspace] = kernel, initrd, userspace
}

// rdinit is another name for /init, where the kernel's command line gives one.
func (r *Root) rdinit() string {
	b, _ := r.readFile("proc/cmdline")
	program, _ := parameter(b, "rdinit")
	return string(program)
}
