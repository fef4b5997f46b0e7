package linux

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/facts"
)

// unitDirs is where service managers read what to start: systemd (systemd.unit(5)),
// OpenRC and the init of busybox and System V.
var unitDirs = []string{
	"etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system",
	"etc/init.d", "etc/conf.d", "etc/runlevels", "etc/inittab",
}

// Bounds of what is read of them; a Debian has some 600 entries.
const (
	maxUnitFiles = 8192
	maxUnitDepth = 8
)

// unitFiles digests what service managers read. Contents are read again only
// when the listing says that something has changed, by number, size and times.
type unitFiles struct {
	root  *Root
	seen  [sha256.Size]byte // of the listing
	value facts.Value
}

// A unitEntry is one file or link.
type unitEntry struct{ path, link string }

func (s *unitFiles) read(o *out) {
	var entries []unitEntry
	listing := sha256.New()
	for _, dir := range unitDirs {
		if dir == "lib/systemd/system" && s.root.readlink("lib") != "" {
			continue // it is usr/lib
		}
		f := s.list(&entries, listing, dir, 0)
		if f.is() && f.status != facts.Absent {
			o.fault(0, f)
			return
		}
	}
	if len(entries) == 0 {
		o.fault(0, absent("there are no files of a service manager"))
		return
	}
	sum := [sha256.Size]byte(listing.Sum(nil))
	if s.value.Kind() == 0 || sum != s.seen {
		digest, f := s.digest(entries)
		if f.is() {
			o.fault(0, f)
			return
		}
		s.seen, s.value = sum, facts.BytesValue(digest)
	}
	o.ok(0, s.value)
}

// list adds what is at path and below to entries and listing.
func (s *unitFiles) list(entries *[]unitEntry, listing hash.Hash, path string, depth int) fault {
	d, err := s.root.openDir(path)
	if errors.Is(err, unix.ENOTDIR) { // inittab
		*entries = append(*entries, unitEntry{path: path})
		return s.stamp(listing, path)
	}
	if err != nil {
		return faultOf("/"+path, err)
	}
	found, err := d.ReadDir(-1)
	d.Close()
	if err != nil {
		return faultOf("/"+path, err)
	}
	if len(*entries)+len(found) > maxUnitFiles || depth == maxUnitDepth {
		return malformed("/" + path + ": there are more unit files than can be read")
	}
	slices.SortFunc(found, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range found {
		below := path + "/" + e.Name()
		switch {
		case e.IsDir():
			if f := s.list(entries, listing, below, depth+1); f.is() && f.status != facts.Absent {
				return f
			}
		case e.Type()&fs.ModeSymlink != 0:
			link := s.root.readlink(below)
			*entries = append(*entries, unitEntry{below, link})
			listing.Write([]byte(below + "\x00" + link + "\x00"))
		default:
			*entries = append(*entries, unitEntry{path: below})
			if f := s.stamp(listing, below); f.is() && f.status != facts.Absent {
				return f
			}
		}
	}
	return fault{}
}

// stamp adds to listing what changes when the file at path does.
func (s *unitFiles) stamp(listing hash.Hash, path string) fault {
	info, err := s.root.stat(path)
	if err != nil {
		return faultOf("/"+path, err)
	}
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], uint64(info.Size()))
	binary.LittleEndian.PutUint64(b[8:], uint64(info.ModTime().UnixNano()))
	binary.LittleEndian.PutUint64(b[16:], inode(info))
	listing.Write(append([]byte(path+"\x00"), b[:]...))
	return fault{}
}

// digest is SHA-256 over, for each entry in order, its path and the digest of its
// content, or where it leads, each ended by NUL.
func (s *unitFiles) digest(entries []unitEntry) ([]byte, fault) {
	all := sha256.New()
	for _, e := range entries {
		all.Write([]byte(e.path + "\x00"))
		if e.link != "" {
			all.Write([]byte("link " + e.link + "\x00"))
			continue
		}
		b, f := s.root.readFile(e.path)
		if f.status == facts.Absent {
			continue // it left since the listing
		}
		if f.is() {
			return nil, f
		}
		sum := sha256.Sum256(b)
		all.Write(append(sum[:], 0))
	}
	return all.Sum(nil), fault{}
}
