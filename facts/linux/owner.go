package linux

import (
	"net/netip"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// An ownership knows cgroups by their id, as sock_diag(7) tells it of a socket.
type ownership struct {
	root   *Root
	dir    string // where cgroup v2 is mounted
	owners map[uint64]owner
	failed fault
	next   int64 // ns, when the cgroups may be walked again
	wait   int64 // ns until then
}

type owner struct {
	name  string
	known bool // a service or a container
}

// learn walks the cgroups when an id is not known, and not too often.
func (s *ownership) learn(sockets []endpoint) (changed bool) {
	now := s.root.now()
	if s.owners != nil && now < s.next {
		return false
	}
	if s.owners != nil && !slices.ContainsFunc(sockets, func(e endpoint) bool { _, ok := s.of(e); return !ok }) {
		s.wait = 0
		return false
	}
	s.wait = min(max(2*s.wait, rescanAfter), rescan)
	s.next = now + s.wait
	owners := map[uint64]owner{}
	s.failed = s.root.walkCgroups(s.dir, func(path string, number uint64) {
		name, known := ownerOf(path)
		owners[number] = owner{name, known}
	})
	s.owners = owners
	return true
}

// of returns the owner of a socket. Ids of a kernel of 32 bits hold the number of
// the cgroup in their lower half.
func (s *ownership) of(e endpoint) (owner, bool) {
	if x, ok := s.owners[e.cgroup]; ok {
		return x, true
	}
	x, ok := s.owners[e.cgroup&0xffffffff]
	return x, ok
}

// count returns how many sockets are not owned by a service or container.
func (s *ownership) count(sockets []endpoint) (n int64, f fault) {
	if s.failed.is() {
		return 0, s.failed
	}
	for _, e := range sockets {
		if e.cgroup == 0 {
			return 0, absent("the kernel does not tell the cgroup of a socket (before 5.7, or built without cgroups)")
		}
		if x, ok := s.of(e); !ok || !x.known {
			n++
		}
	}
	return n, fault{}
}

// owners reports the listening sockets with who owns them.
type owners struct {
	sockets   sockets
	ownership ownership
}

func (s *owners) read(o *out) {
	if s.sockets.noDiag {
		o.fault(0, absent(noOwners))
		return
	}
	found, f := s.sockets.dump(nil, listening[:])
	if s.sockets.noDiag {
		f = absent(noOwners)
	}
	if !f.is() {
		s.ownership.learn(found)
		_, f = s.ownership.count(found)
	}
	if f.is() {
		o.fault(0, f)
		return
	}
	members := make([]string, 0, len(found))
	for _, e := range found {
		name := "unknown"
		if x, ok := s.ownership.of(e); ok {
			name = x.name
		}
		members = append(members, e.member()+" "+name)
	}
	o.set(0, members)
}

const noOwners = "the kernel has no sock_diag, which tells the cgroup of a socket"

// member is how a listening socket is written.
func (e endpoint) member() string {
	proto := "tcp/"
	if e.proto == unix.IPPROTO_UDP {
		proto = "udp/"
	}
	return proto + netip.AddrPortFrom(e.address(), e.port).String()
}

// inode returns the number of a file.
func inode(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
