// Package image says what a boot of an image will measure, before any device
// runs it: from the hash and the sections of PE files, such as unified kernel
// images and kernels with an EFI stub.
//
// It trusts its input no further than to be the file that will be booted, checks
// no signatures, reads no files and knows nothing of firmware: what an image
// cannot know comes from the log of another boot (eventlog.Predict).
//
// Specifications: Microsoft PE/COFF and its Authenticode hash, which PFP 1.06,
// 10.4.2, has firmware measure; UAPI.5 unified kernel images and UAPI.7 PCRs as
// systemd-stub implements them; Linux's EFI stub; U-Boot's measured boot.
package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// Limits of files and of their headers.
const (
	MaxSize     = 512 << 20 // bytes of an image
	maxSections = 96        // Windows's own limit
)

// A section of a PE file.
type section struct {
	name     string
	virtual  uint32 // bytes in memory
	start    uint32 // in the file
	raw      uint32 // bytes in the file
	contents []byte // of the file; shares memory
}

// memory is what the section has once it is loaded: cut, or filled up with zeros.
func (s *section) memory() []byte {
	n := min(int(s.virtual), len(s.contents))
	return append(slices.Clone(s.contents[:n]), make([]byte, int(s.virtual)-n)...)
}

type pe struct {
	data         []byte
	checksum     int // where in the file
	certificates int // where the entry of the table is, 0 for none
	signature    uint32
	headers      uint32
	sections     []section
}

func parsePE(data []byte) (*pe, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("more than %d bytes", MaxSize)
	}
	u16 := func(at int) int { return int(binary.LittleEndian.Uint16(data[at:])) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(data[at:]) }
	if len(data) < 64 || data[0] != 'M' || data[1] != 'Z' {
		return nil, fmt.Errorf("no PE file: it does not begin with MZ")
	}
	at := u32(0x3c)
	if uint64(at)+24+96 > uint64(len(data)) || !bytes.Equal(data[at:at+4], []byte("PE\x00\x00")) {
		return nil, fmt.Errorf("no PE file: no PE header at %#x", at)
	}
	coff := int(at) + 4
	n, size, optional := u16(coff+2), u16(coff+16), coff+20
	table := optional + size
	if n == 0 || n > maxSections || size < 96 || table+40*n > len(data) {
		return nil, fmt.Errorf("PE file with %d sections and an optional header of %d bytes", n, size)
	}
	p := &pe{data: data, checksum: optional + 64, headers: u32(optional + 60)}
	directories := optional + 96
	switch magic := u16(optional); magic {
	case 0x10b:
	case 0x20b:
		directories += 16
	default:
		return nil, fmt.Errorf("PE file with magic %#x", magic)
	}
	if directories > table {
		return nil, fmt.Errorf("PE file with an optional header of %d bytes", size)
	}
	if u32(directories-4) > 4 && directories+5*8 <= table {
		p.certificates = directories + 4*8
		p.signature = u32(p.certificates + 4)
	}
	if int64(p.headers) > int64(len(data)) || int(p.headers) < table+40*n || int64(p.signature) > int64(len(data)) {
		return nil, fmt.Errorf("PE file with %d bytes of headers and %d of signatures in %d", p.headers, p.signature, len(data))
	}
	for i := range n {
		h := data[table+40*i:]
		s := section{name: string(bytes.TrimRight(h[:8], "\x00")), virtual: binary.LittleEndian.Uint32(h[8:]),
			raw: binary.LittleEndian.Uint32(h[16:]), start: binary.LittleEndian.Uint32(h[20:])}
		if s.virtual > MaxSize || s.raw > 0 && uint64(s.start)+uint64(s.raw) > uint64(len(data)) {
			return nil, fmt.Errorf("PE file: section %q with %d bytes at %#x, the file has %d", s.name, s.raw, s.start, len(data))
		}
		if s.raw > 0 {
			s.contents = data[s.start : s.start+s.raw]
		}
		p.sections = append(p.sections, s)
	}
	return p, nil
}

// Authenticode returns the SHA-256 that firmware extends for a PE file: over all
// of it but its checksum, its signatures, and where they are.
func Authenticode(data []byte) ([]byte, error) {
	p, err := parsePE(data)
	if err != nil {
		return nil, fmt.Errorf("cannot hash image: %w", err)
	}
	return p.authenticode()
}

func (p *pe) authenticode() ([]byte, error) {
	h := sha256.New()
	h.Write(p.data[:p.checksum])
	rest := p.checksum + 4
	if p.certificates > 0 {
		h.Write(p.data[rest:p.certificates])
		rest = p.certificates + 8
	}
	h.Write(p.data[rest:p.headers])
	hashed := uint64(p.headers)
	ordered := slices.Clone(p.sections)
	slices.SortStableFunc(ordered, func(a, b section) int { return int(int64(a.start) - int64(b.start)) })
	for _, s := range ordered {
		h.Write(s.contents)
		hashed += uint64(len(s.contents))
	}
	end := uint64(len(p.data)) - uint64(p.signature)
	if hashed > end {
		return nil, fmt.Errorf("cannot hash image: sections and signatures have %d bytes more than the file", hashed-end)
	}
	h.Write(p.data[hashed:end])
	return h.Sum(nil), nil
}
