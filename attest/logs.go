package attest

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// A Log names one of the logs that a boot leaves on a device.
type Log uint8

// The logs, with their wire numbers.
const (
	LogFirmware  Log = 1 // of firmware and loaders: /sys/kernel/security/tpm0/binary_bios_measurements
	LogUserspace Log = 2 // of systemd: /run/log/systemd/tpm2-measure.log
	LogIMA       Log = 3 // of Linux IMA: /sys/kernel/security/ima/binary_runtime_measurements
)

func (l Log) String() string {
	switch l {
	case LogFirmware:
		return "firmware's event log"
	case LogUserspace:
		return "userspace's event log"
	case LogIMA:
		return "IMA list"
	}
	return fmt.Sprintf("log(%d)", uint8(l))
}

// Known says whether l is one of the logs.
func (l Log) Known() bool { return l >= LogFirmware && l <= LogIMA }

// MaxSize is how many bytes of the log are taken in one boot; it is 0 of an
// unknown one. They are the limits of the packages that read them.
func (l Log) MaxSize() uint64 {
	switch l {
	case LogFirmware, LogUserspace:
		return 16 << 20
	case LogIMA:
		return 64 << 20
	}
	return 0
}

// MaxPart bounds a part, unpacked, in bytes: what packs well must not make the
// receiver hold a thousand times of what came.
const MaxPart = 256 << 10

// A Part is a piece of one log, from where the verifier has it on.
//
// No digest of it stands in the report. A quote is bound to the report and the
// IMA list has to be read after the quote, so a digest would always be one of
// another list; and it would be no more than the device's word. What proves a
// part is the quote: a log counts as far as its replay leads to quoted PCRs, and
// no further. Whoever changes a part on its way makes it lead nowhere, and the
// verifier asks for it again.
type Part struct {
	Log    Log    `cbor:"1,keyasint"`
	Offset uint64 `cbor:"2,keyasint"`           // bytes of the log before it
	Size   uint32 `cbor:"3,keyasint"`           // bytes, 0 to MaxPart
	Packed []byte `cbor:"4,keyasint"`           // the bytes as DEFLATE (RFC 1951)
	More   bool   `cbor:"5,keyasint,omitempty"` // the log was longer when it was read
}

// Pack returns the part of a log that holds as much of data as fits into limit
// bytes packed. The data stand at offset of the log; more says that the log goes
// on behind them.
func Pack(log Log, offset uint64, data []byte, more bool, limit int) (Part, error) {
	data, more = data[:min(len(data), MaxPart)], more || len(data) > MaxPart
	for {
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, flate.DefaultCompression)
		if err != nil {
			return Part{}, err
		}
		if _, err = w.Write(data); err == nil {
			err = w.Close()
		}
		if err != nil {
			return Part{}, fmt.Errorf("cannot pack %s: %w", log, err)
		}
		if b.Len() <= limit {
			return Part{Log: log, Offset: offset, Size: uint32(len(data)), Packed: b.Bytes(), More: more}, nil
		}
		if len(data) == 0 {
			return Part{}, fmt.Errorf("cannot pack %s into %d bytes", log, limit)
		}
		data, more = data[:max(min(len(data)*7/8, len(data)*limit/b.Len()-64), 0)], true
	}
}

// Bytes returns the part unpacked.
func (p *Part) Bytes() ([]byte, error) {
	out := make([]byte, 0, min(p.Size, MaxPart))
	packed := bytes.NewReader(p.Packed)
	buf := bytes.NewBuffer(out)
	n, err := io.Copy(buf, io.LimitReader(flate.NewReader(packed), int64(p.Size)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot unpack %s: %w", p.Log, err)
	case n != int64(p.Size) || packed.Len() > 0:
		return nil, fmt.Errorf("cannot unpack %s: it is not the %d bytes that it names", p.Log, p.Size)
	}
	return buf.Bytes(), nil
}

// checkParts refuses parts that break a rule of the form.
func checkParts(parts []Part) error {
	for i, p := range parts {
		switch {
		case !p.Log.Known():
			return fmt.Errorf("part of unknown log %d", p.Log)
		case i > 0 && p.Log <= parts[i-1].Log:
			return fmt.Errorf("part of log %d follows part of log %d", p.Log, parts[i-1].Log)
		case p.Size > MaxPart:
			return fmt.Errorf("part of %d bytes, the limit is %d", p.Size, MaxPart)
		case p.Offset > p.Log.MaxSize() || p.Offset+uint64(p.Size) > p.Log.MaxSize():
			return fmt.Errorf("%s of more than %d bytes", p.Log, p.Log.MaxSize())
		}
	}
	return nil
}

// Have says how much the verifier has of what a boot's quotes prove. It is a hint
// that nobody signs: a false one makes the device send too much or nothing, and
// the verifier then sees that something is missing.
type Have struct {
	BootSeed []byte         `cbor:"1,keyasint"`           // 16 bytes, of the boot that it is about
	Bytes    map[Log]uint64 `cbor:"2,keyasint,omitempty"` // of the logs; what is not named stays as it was
	PCRs     []byte         `cbor:"3,keyasint,omitempty"` // PCRDigest of the values that it has, 32 bytes
}

func (h *Have) check() error {
	if len(h.BootSeed) != 16 {
		return fmt.Errorf("bootseed of %d bytes, want 16", len(h.BootSeed))
	}
	switch {
	case h.PCRs != nil && len(h.PCRs) != sha256.Size:
		return fmt.Errorf("digest of PCR values of %d bytes, want %d", len(h.PCRs), sha256.Size)
	case h.Bytes != nil && len(h.Bytes) == 0 || h.Bytes == nil && h.PCRs == nil:
		return errors.New("no log is named, and no PCR value")
	}
	for l, n := range h.Bytes {
		if !l.Known() || n > l.MaxSize() {
			return fmt.Errorf("log %d with %d bytes", l, n)
		}
	}
	return nil
}
