package linux

import (
	"bytes"
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	kernelLog = "dev/kmsg"
	// maxRecords bounds what is read of the kernel's log, which is a ring of some
	// thousand records. What is looked for stands among the first.
	maxRecords = 8192
	// maxRecord is the most that the kernel gives of one (kernel/printk).
	maxRecord = 8192
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
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	fd, err := -1, error(nil)
	if r.Live() {
		fd, err = unix.Open("/"+kernelLog, flags, 0)
	} else {
		fd, err = r.open(kernelLog)
	}
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) {
		return initStart{}, false, fault{}
	}
	if err != nil {
		return initStart{}, true, faultOf("/"+kernelLog, err)
	}
	defer unix.Close(fd)
	if !r.Live() { // the file has all records in one piece
		b, f := r.readFile(kernelLog)
		if f.is() {
			return initStart{}, true, f
		}
		return parseKernelLog(b)
	}
	var log initLog
	buf := make([]byte, maxRecord)
	for range maxRecords {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EAGAIN, err == nil && n == 0: // all that there is
			return log.end()
		case err == unix.EPIPE, err == unix.EINTR: // records were overwritten meanwhile
			continue
		case err == unix.EPERM:
			return initStart{}, false, fault{}
		case err != nil:
			return initStart{}, true, faultOf("/"+kernelLog, err)
		}
		if !log.take(buf[:n]) {
			break
		}
	}
	return log.end()
}

// parseKernelLog reads records one after the other.
func parseKernelLog(b []byte) (start initStart, told bool, f fault) {
	var log initLog
	for line := range bytes.Lines(b) {
		if !log.take(line) {
			break
		}
	}
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

// take takes a record, and reports whether more are wanted.
func (l *initLog) take(b []byte) bool {
	if len(b) > 0 && b[0] == ' ' && l.seen > 0 { // a property of the record before
		return true
	}
	head, text, ok := bytes.Cut(b, []byte(";"))
	fields := bytes.SplitN(head, []byte(","), 4)
	if !ok || len(fields) < 4 || len(b) == 0 || b[len(b)-1] != '\n' {
		l.trouble = true
		return false
	}
	level, ok1 := parseInt(fields[0])
	sequence, ok2 := parseInt(fields[1])
	us, ok3 := parseInt(fields[2])
	if !ok1 || !ok2 || !ok3 || level < 0 || sequence < 0 || us < 0 {
		l.trouble = true
		return false
	}
	l.whole = l.whole || sequence == 0
	l.seen++
	text, _, _ = bytes.Cut(text, []byte("\n"))
	program, run := bytes.CutPrefix(text, []byte("Run "))
	program, as := bytes.CutSuffix(program, []byte(" as init process"))
	switch {
	case level < 8 && run && as: // what programs write has another facility than the kernel's
		l.found, l.since = initStart{us / 1000, string(program)}, 0
	case l.found.program != "":
		l.since++
	}
	return l.since < afterInit
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
	case start.program == "/init" || r.hasArgument("rdinit="+start.program):
		open := phase{fault: absent("the kernel's log says when it began, and nothing says when it ended")}
		return phase{ms: start.ms}, open, open
	}
	return phase{ms: start.ms}, phase{fault: absent("there was none")}, phase{ms: up - start.ms}
}

func (r *Root) hasArgument(argument string) bool {
	b, f := r.readFile("proc/cmdline")
	return !f.is() && strings.Contains(" "+strings.TrimSpace(string(b))+" ", " "+argument+" ")
}
