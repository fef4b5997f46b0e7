package spool

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// A segment is a sequence of records, each of
//
//	offset  size
//	     0     4  magic
//	     4     4  CRC-32C over the segment's base and the record's offset (8 bytes each), then bytes 8 to the end
//	     8     4  length of the whole record
//	    12     8  ID of the message; 0 in other records
//	    20     1  kind
//	    21     1  length of the topic; 0 in other records
//	    22        topic, then payload
//
// all big endian. The base and the offset in the check sum make a record valid
// only where it was written: neither a record inside a payload nor a stale block
// passes for one when the scan looks for the next record behind damage.
const (
	magic      = "\xf5SQ\x01"
	headerSize = 22
	gapSize    = headerSize + 24
)

const (
	kindMessage = 1
	kindDone    = 2 // payload: IDs of messages that are done, 8 bytes each
	kindGap     = 3 // payload: count, first and last ID of all that was dropped so far
)

// castagnoli is the CRC-32C of iSCSI (RFC 3720, section 12.1), which processors compute.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type record struct {
	kind    byte
	id      ID
	topic   []byte
	payload []byte
}

func appendRecord(dst []byte, base ID, at int64, r record) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(headerSize+len(r.topic)+len(r.payload)))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.id))
	dst = append(dst, r.kind, byte(len(r.topic)))
	dst = append(dst, r.topic...)
	dst = append(dst, r.payload...)
	binary.BigEndian.PutUint32(dst[start+4:], checksum(base, at, dst[start:]))
	return dst
}

// checksum computes the check sum of the whole record rec.
func checksum(base ID, at int64, rec []byte) uint32 {
	var place [16]byte
	binary.BigEndian.PutUint64(place[:], uint64(base))
	binary.BigEndian.PutUint64(place[8:], uint64(at))
	return crc32.Update(crc32.Update(0, castagnoli, place[:]), castagnoli, rec[8:])
}

// decodeRecord decodes the record that data begins with. The length is 0 if
// there is no intact one. The record points into data.
func decodeRecord(data []byte, base ID, at int64) (r record, length int) {
	if len(data) < headerSize || string(data[:4]) != magic {
		return record{}, 0
	}
	n := binary.BigEndian.Uint32(data[8:])
	if n < headerSize || uint64(n) > uint64(len(data)) {
		return record{}, 0
	}
	data = data[:n]
	if binary.BigEndian.Uint32(data[4:]) != checksum(base, at, data) {
		return record{}, 0
	}
	topicEnd := headerSize + int(data[21])
	if topicEnd > len(data) {
		return record{}, 0
	}
	return record{
		kind:    data[20],
		id:      ID(binary.BigEndian.Uint64(data[12:])),
		topic:   data[headerSize:topicEnd],
		payload: data[topicEnd:],
	}, int(n)
}

// scan visits each intact record of a segment. It returns how many damaged
// places lie between them and where the last one ends: what is behind it is a
// torn tail.
func scan(data []byte, base ID, visit func(at int64, length int, r record)) (damaged int, end int) {
	sound := true
	for off := 0; off < len(data); {
		r, n := decodeRecord(data[off:], base, int64(off))
		if n > 0 {
			if !sound {
				damaged++
				sound = true
			}
			visit(int64(off), n, r)
			off += n
			end = off
			continue
		}
		sound = false
		next := bytes.Index(data[off+1:], []byte(magic))
		if next < 0 {
			break
		}
		off += 1 + next
	}
	return damaged, end
}

func gapRecord(g Gap) record {
	p := binary.BigEndian.AppendUint64(nil, g.Count)
	p = binary.BigEndian.AppendUint64(p, uint64(g.First))
	p = binary.BigEndian.AppendUint64(p, uint64(g.Last))
	return record{kind: kindGap, payload: p}
}

// gap returns the gap of a gap record. One that cannot be is not believed: its
// last ID would make new messages look dropped.
func (r record) gap() (g Gap, ok bool) {
	if r.kind != kindGap || len(r.payload) != gapSize-headerSize {
		return Gap{}, false
	}
	g = Gap{
		Count: binary.BigEndian.Uint64(r.payload),
		First: ID(binary.BigEndian.Uint64(r.payload[8:])),
		Last:  ID(binary.BigEndian.Uint64(r.payload[16:])),
	}
	if g == (Gap{}) {
		return g, true
	}
	ok = g.Count > 0 && g.First > 0 && g.First <= g.Last && g.Last <= maxID && g.Count <= uint64(g.Last-g.First)+1
	return g, ok
}

func doneRecord(ids []ID) record {
	p := make([]byte, 0, 8*len(ids))
	for _, id := range ids {
		p = binary.BigEndian.AppendUint64(p, uint64(id))
	}
	return record{kind: kindDone, payload: p}
}

func (r record) done() []ID {
	if r.kind != kindDone {
		return nil
	}
	var ids []ID
	for p := r.payload; len(p) >= 8; p = p[8:] {
		ids = append(ids, ID(binary.BigEndian.Uint64(p)))
	}
	return ids
}
