package linux

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// State files keep a few lines "key value" over restarts and power cuts: a
// heading that tells the kind and the version, the lines, and a CRC-32 (IEEE)
// over all before it. They are no evidence and hold no secret; the checksum
// tells a damaged file from a sound one, not an honest one from a forged one.

type pair struct{ key, value string }

const (
	stateVersion = "1"
	maxState     = 64 << 10
)

var errState = errors.New("state file is damaged")

func encodeState(kind string, pairs []pair) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "miotfacts-%s %s\n", kind, stateVersion)
	for _, p := range pairs {
		fmt.Fprintf(&b, "%s %s\n", p.key, strings.Map(func(r rune) rune {
			if r < ' ' {
				return ' '
			}
			return r
		}, p.value))
	}
	fmt.Fprintf(&b, "crc32 %08x\n", crc32.ChecksumIEEE(b.Bytes()))
	return b.Bytes()
}

func decodeState(kind string, b []byte) ([]pair, error) {
	body, sum, ok := bytes.Cut(b, []byte("\ncrc32 "))
	if !ok {
		return nil, fmt.Errorf("%w: it has no checksum", errState)
	}
	body = b[:len(body)+1]
	if string(sum) != fmt.Sprintf("%08x\n", crc32.ChecksumIEEE(body)) {
		return nil, fmt.Errorf("%w: its checksum does not match", errState)
	}
	var pairs []pair
	first := true
	for line := range strings.Lines(string(body)) {
		k, v, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok {
			return nil, fmt.Errorf("%w: a line has no value", errState)
		}
		if first {
			if k != "miotfacts-"+kind || v != stateVersion {
				return nil, fmt.Errorf("%w: it is not of kind %s, version %s", errState, kind, stateVersion)
			}
			first = false
			continue
		}
		pairs = append(pairs, pair{k, v})
	}
	return pairs, nil
}

// loadState reads the state file kind in dir; nil pairs when there is none yet,
// errState when it is damaged.
func loadState(dir, kind string) ([]pair, error) {
	f, err := os.Open(filepath.Join(dir, kind))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read state: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read state: %w", err)
	}
	if len(b) > maxState {
		return nil, fmt.Errorf("%w: it is longer than %d bytes", errState, maxState)
	}
	return decodeState(kind, b)
}

// saveState replaces the state file kind in dir: after a power cut there is the
// old one or the new one.
func saveState(dir, kind string, pairs []pair) error {
	if err := replaceFile(filepath.Join(dir, kind), encodeState(kind, pairs)); err != nil {
		return fmt.Errorf("cannot write state: %w", err)
	}
	return nil
}

func replaceFile(path string, data []byte) (err error) {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err = os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func lookup(pairs []pair, key string) string {
	for _, p := range pairs {
		if p.key == key {
			return p.value
		}
	}
	return ""
}
