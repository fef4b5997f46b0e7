// Package imagetest makes small PE files and unified kernel images for the tests
// of other packages. They have the form of real ones and cannot run.
package imagetest

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// A Section of a PE file.
type Section struct {
	Name string
	Data []byte
}

// PE returns a PE32+ file for ARM64 with sections.
func PE(sections ...Section) []byte {
	const align, header = 512, 1024
	round := func(n int) int { return (n + align - 1) / align * align }
	var b bytes.Buffer
	le := func(values ...any) {
		for _, v := range values {
			_ = binary.Write(&b, binary.LittleEndian, v) // a buffer does not fail
		}
	}
	b.WriteString("MZ")
	b.Write(make([]byte, 0x3a))
	le(uint32(0x40))
	b.WriteString("PE\x00\x00")
	le(uint16(0xaa64), uint16(len(sections)), uint32(0), uint32(0), uint32(0), uint16(240), uint16(0x206))
	size := uint32(0x1000)
	for _, s := range sections {
		size += uint32(len(s.Data)+0xfff) &^ 0xfff
	}
	le(uint16(0x20b), uint16(0), uint32(align), uint32(0), uint32(0), uint32(0x1000), uint32(0x1000))
	le(uint64(0), uint32(0x1000), uint32(align), [6]uint16{}, uint32(0), size, uint32(header), uint32(0x12345678), uint16(10), uint16(0), [4]uint64{}, uint32(0), uint32(16))
	b.Write(make([]byte, 16*8))
	at, virtual := header, uint32(0x1000)
	for _, s := range sections {
		name := make([]byte, 8)
		copy(name, s.Name)
		b.Write(name)
		le(uint32(len(s.Data)), virtual, uint32(round(len(s.Data))), uint32(at), [3]uint32{}, uint32(0x60000020))
		at += round(len(s.Data))
		virtual += uint32(len(s.Data)+0xfff) &^ 0xfff
	}
	out := slices.Grow(b.Bytes(), at)[:at]
	at = header
	for _, s := range sections {
		copy(out[at:], s.Data)
		at += round(len(s.Data))
	}
	return out
}

// Kernel is a PE file that stands for a kernel with an EFI stub.
func Kernel(text string) []byte { return PE(Section{".text", []byte(text)}) }

// UKI is a unified kernel image with a stub of a version, such as "252.39-1".
func UKI(version string, sections ...Section) []byte {
	stub := []Section{{".text", []byte("stub")}, {".sdmagic", []byte("#### LoaderInfo: systemd-stub " + version + " ####")}}
	return PE(append(stub, sections...)...)
}
