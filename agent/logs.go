package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
)

// logsAgain is the pause before the same piece of a log is sent again that the
// verifier has not acknowledged.
const logsAgain = 10 * time.Minute

// minPart is the room in a message, in bytes, below which no part is packed.
const minPart = 512

// A LogFile says where a log of the boot is read.
type LogFile struct {
	Log  attest.Log
	Path string
}

// bootLogs moves the logs of the boot to the verifier, in pieces and each piece
// once. It reads no record: what the logs say is the verifier's to find out.
//
// The verifier says how much it has, and that alone moves the place to read on
// from: whatever is lost on the way or on either side is sent again, and nothing
// has to be remembered over a restart.
type bootLogs struct {
	files []LogFile // ascending by Log
	log   *slog.Logger

	mu   sync.Mutex
	have map[attest.Log]uint64    // what the verifier has, in bytes
	end  map[attest.Log]uint64    // up to where the device has seen the log
	sent map[attest.Log]time.Time // when the piece after have was sent; zero once it was acknowledged
}

func newBootLogs(files []LogFile, log *slog.Logger) *bootLogs {
	l := &bootLogs{files: slices.Clone(files), log: log, have: map[attest.Log]uint64{}, end: map[attest.Log]uint64{}, sent: map[attest.Log]time.Time{}}
	slices.SortStableFunc(l.files, func(a, b LogFile) int { return int(a.Log) - int(b.Log) })
	return l
}

// missing says which logs cannot be sent and why.
func (l *bootLogs) missing() map[attest.Log]attest.Gap {
	var gaps map[attest.Log]attest.Gap
	for _, f := range l.files {
		file, err := os.Open(f.Path)
		if err == nil {
			file.Close()
			continue
		}
		if gaps == nil {
			gaps = map[attest.Log]attest.Gap{}
		}
		status := facts.Unreadable
		if errors.Is(err, fs.ErrNotExist) {
			status = facts.Absent
		}
		gaps[f.Log] = attest.Gap{Status: status, Reason: attest.Clip(err.Error(), attest.MaxNote)}
	}
	return gaps
}

// parts returns what is new in the logs, as far as it fits into room bytes of a
// message. With a demand, a piece is sent again that was sent a moment ago.
func (l *bootLogs) parts(now time.Time, room int, demand bool) []attest.Part {
	l.mu.Lock()
	defer l.mu.Unlock()
	var parts []attest.Part
	for _, f := range l.files {
		if room < minPart || !demand && now.Sub(l.sent[f.Log]) < logsAgain {
			continue
		}
		data, more, err := readFrom(f.Path, l.have[f.Log])
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				l.log.Error("cannot read a log of the boot", "log", f.Log, "err", err)
			}
			continue
		}
		l.end[f.Log] = l.have[f.Log] + uint64(len(data))
		if more {
			l.end[f.Log]++
		}
		if len(data) == 0 {
			continue
		}
		p, err := attest.Pack(f.Log, l.have[f.Log], data, more, room)
		if err != nil {
			l.log.Error("cannot send a log of the boot", "log", f.Log, "err", err)
			continue
		}
		l.sent[f.Log] = now
		parts = append(parts, p)
		room -= len(p.Packed) + 32
	}
	return parts
}

// acknowledge takes over what the verifier says that it has. It reports whether
// the device has seen more.
func (l *bootLogs) acknowledge(have map[attest.Log]uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	behind := false
	for log, n := range have {
		l.have[log] = n
		delete(l.sent, log)
		behind = behind || n < l.end[log]
	}
	return behind
}

// readFrom reads at most one part of a file from offset on, and says whether
// there is more.
func readFrom(path string, offset uint64) ([]byte, bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer file.Close()
	if _, err := file.Seek(int64(offset), io.SeekStart); err != nil {
		return nil, false, fmt.Errorf("cannot read %s from byte %d: %w", path, offset, err)
	}
	data, err := io.ReadAll(io.LimitReader(file, attest.MaxPart+1))
	if err != nil {
		return nil, false, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if len(data) > attest.MaxPart {
		return data[:attest.MaxPart], true, nil
	}
	return data, false, nil
}
