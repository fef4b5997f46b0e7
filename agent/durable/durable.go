// Package durable writes small state files so that a power cut at any moment
// leaves the old content or the new one, whole, and so that damage is told from
// absence.
//
// A write goes to a temporary file in the same directory: write, fsync, rename,
// fsync of the directory. The content is followed by its CRC-32C (Castagnoli)
// in four bytes, big endian. What changes every second is kept in Slots, which
// are written in place. The checksum finds accidents; it proves nothing against
// somebody who can write the file.
package durable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrDamaged says that a file is there and does not hold what was written.
var ErrDamaged = errors.New("state file is damaged")

func checksum(data []byte) uint32 { return checksumOn(0, data) }

// checksumOn goes on from the checksum of what stands before data.
func checksumOn(sum uint32, data []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), data)
}

// Write replaces the file at path by data. When it returns nil, data survives a
// power cut; when it returns an error, the old content does.
func Write(path string, data []byte, mode fs.FileMode) error {
	framed := binary.BigEndian.AppendUint32(append([]byte(nil), data...), checksum(data))
	if err := replace(path, framed, mode); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func replace(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err = f.Sync(); err != nil {
		f.Close()
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Read returns what Write wrote to path. The error wraps fs.ErrNotExist when
// there is no file, and ErrDamaged when its checksum does not fit.
func Read(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read state: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read state: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() < 4 || info.Size() > limit+4 {
		return nil, fmt.Errorf("cannot read %s: %w: size %d, limit %d", path, ErrDamaged, info.Size(), limit)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read state: %w", err)
	}
	if len(data) < 4 {
		return nil, fmt.Errorf("cannot read %s: %w: %d bytes", path, ErrDamaged, len(data))
	}
	body, sum := data[:len(data)-4], binary.BigEndian.Uint32(data[len(data)-4:])
	if checksum(body) != sum {
		return nil, fmt.Errorf("cannot read %s: %w: checksum does not fit", path, ErrDamaged)
	}
	return body, nil
}
