// Package mmdb looks addresses up in an offline table in MaxMind DB form, version
// 2.0, which somebody supplies: who operates an address, and in which country it
// is. It opens no file itself, holds the table as it was given, and refuses what
// points out of it. What the table says is its maker's opinion.
//
// Form: the MaxMind DB file format specification, version 2.0.
package mmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Limits of one look-up. No table needs as much.
const (
	maxDepth = 16   // of maps in maps
	maxItems = 4096 // values
)

// ErrFormat says that a file is no such table, or a damaged one.
var ErrFormat = errors.New("not a table in MaxMind DB form, or damaged")

// A Table is an opened table.
type Table struct {
	tree  []byte
	data  []byte
	nodes uint
	size  uint // bits of a record: 24, 28 or 32
	start uint // of IPv4 addresses
	v6    bool

	Kind  string // as its maker calls it: "GeoLite2-Country"
	Built int64  // Unix seconds
}

var marker = []byte("\xab\xcd\xefMaxMind.com")

// Open reads what the table says of itself.
func Open(file []byte) (*Table, error) {
	at := bytes.LastIndex(file[max(0, len(file)-128<<10):], marker)
	if at < 0 {
		return nil, fmt.Errorf("cannot open table: %w: it has no metadata", ErrFormat)
	}
	at += max(0, len(file)-128<<10)
	d := decoder{data: file[at+len(marker):]}
	meta, _, ok := d.value(0, 0)
	m, isMap := meta.(map[string]any)
	if !ok || !isMap {
		return nil, fmt.Errorf("cannot open table: %w: metadata", ErrFormat)
	}
	number := func(k string) uint {
		n, _ := m[k].(uint64)
		return uint(min(n, 1<<32-1))
	}
	t := &Table{nodes: number("node_count"), size: number("record_size"), v6: number("ip_version") == 6}
	t.Kind, _ = m["database_type"].(string)
	t.Built = int64(number("build_epoch"))
	tree := uint64(t.nodes) * uint64(t.size) / 4
	switch {
	case number("binary_format_major_version") != 2:
		return nil, fmt.Errorf("cannot open table: %w: version %d, this program reads version 2", ErrFormat, number("binary_format_major_version"))
	case t.size != 24 && t.size != 28 && t.size != 32:
		return nil, fmt.Errorf("cannot open table: %w: records of %d bits", ErrFormat, t.size)
	case tree+16 > uint64(at):
		return nil, fmt.Errorf("cannot open table: %w: %d nodes do not fit", ErrFormat, t.nodes)
	}
	t.tree, t.data = file[:tree], file[tree+16:at]
	if t.v6 {
		for range 96 { // IPv4 is where ::/96 leads
			if t.start >= t.nodes {
				break
			}
			t.start = t.child(t.start, 0)
		}
	}
	return t, nil
}

// child returns one of the two records of a node.
func (t *Table) child(node uint, bit byte) uint {
	n := t.tree[uint64(node)*uint64(t.size)/4:]
	switch t.size {
	case 24:
		n = n[3*int(bit):]
		return uint(n[0])<<16 | uint(n[1])<<8 | uint(n[2])
	case 28:
		high := uint(n[3]) >> 4
		if bit == 1 {
			high = uint(n[3]) & 15
			n = n[4:]
		}
		return high<<24 | uint(n[0])<<16 | uint(n[1])<<8 | uint(n[2])
	}
	return uint(binary.BigEndian.Uint32(n[4*int(bit):]))
}

// Look returns what the table has on an address: a tree of maps, lists, text and
// numbers. ok is false when it has nothing.
func (t *Table) Look(a netip.Addr) (v any, ok bool, err error) {
	a = a.Unmap()
	node, b := uint(0), a.AsSlice()
	if a.Is4() {
		node = t.start
	} else if !t.v6 {
		return nil, false, nil
	}
	for i := 0; i < 8*len(b) && node < t.nodes; i++ {
		node = t.child(node, b[i/8]>>(7-i%8)&1)
	}
	if node == t.nodes {
		return nil, false, nil
	}
	if node < t.nodes+16 {
		return nil, false, fmt.Errorf("cannot look up %v: %w", a, ErrFormat)
	}
	d := decoder{data: t.data}
	if v, _, ok = d.value(node-t.nodes-16, 0); !ok {
		return nil, false, fmt.Errorf("cannot look up %v: %w", a, ErrFormat)
	}
	return v, true, nil
}

// A decoder reads values of the data section.
type decoder struct {
	data  []byte
	items int
}

// Types of values.
const (
	typePointer = 1
	typeText    = 2
	typeDouble  = 3
	typeBytes   = 4
	typeUint16  = 5
	typeUint32  = 6
	typeMap     = 7
	typeInt32   = 8
	typeUint64  = 9
	typeUint128 = 10
	typeArray   = 11
	typeBool    = 14
	typeFloat   = 15
)

// value reads the value at an offset and returns where the next one begins.
func (d *decoder) value(at uint, depth int) (v any, next uint, ok bool) {
	if d.items++; d.items > maxItems || depth > maxDepth {
		return nil, 0, false
	}
	take := func(n uint) ([]byte, bool) {
		if at > uint(len(d.data)) || n > uint(len(d.data))-at {
			return nil, false
		}
		at += n
		return d.data[at-n : at], true
	}
	b, ok := take(1)
	if !ok {
		return nil, 0, false
	}
	kind, size := b[0]>>5, uint(b[0]&31)
	if kind == typePointer {
		n := size>>3 + 1
		p, ok := take(n)
		if !ok {
			return nil, 0, false
		}
		to := uint(0)
		if n < 4 {
			to = size & 7
		}
		for _, c := range p {
			to = to<<8 | uint(c)
		}
		to += [...]uint{0, 2048, 526336, 0}[n-1]
		v, _, ok = d.value(to, depth+1)
		return v, at, ok
	}
	if kind == 0 {
		if b, ok = take(1); !ok || b[0] > 8 {
			return nil, 0, false
		}
		kind = b[0] + 7
	}
	if size >= 29 {
		n := size - 28
		if b, ok = take(n); !ok {
			return nil, 0, false
		}
		size = [...]uint{29, 285, 65821}[n-1]
		more := uint(0)
		for _, c := range b {
			more = more<<8 | uint(c)
		}
		size += more
	}
	switch kind {
	case typeMap:
		m := map[string]any{}
		for range size {
			k, next, ok := d.value(at, depth+1)
			name, isText := k.(string)
			if !ok || !isText {
				return nil, 0, false
			}
			v, next, ok := d.value(next, depth+1)
			if !ok {
				return nil, 0, false
			}
			m[name], at = v, next
		}
		return m, at, true
	case typeArray:
		var list []any
		for range size {
			v, next, ok := d.value(at, depth+1)
			if !ok {
				return nil, 0, false
			}
			list, at = append(list, v), next
		}
		return list, at, true
	case typeBool:
		return size != 0, at, size < 2
	}
	if b, ok = take(size); !ok {
		return nil, 0, false
	}
	switch kind {
	case typeText:
		return string(b), at, true
	case typeUint16, typeUint32, typeUint64, typeInt32:
		if size > 8 {
			return nil, 0, false
		}
		n := uint64(0)
		for _, c := range b {
			n = n<<8 | uint64(c)
		}
		return n, at, true
	case typeBytes, typeUint128, typeDouble, typeFloat:
		return nil, at, true // nothing here asks for these
	}
	return nil, 0, false
}

// An Origin is what tables say of an address; what none says is empty.
type Origin struct {
	Country  string // ISO 3166-1 alpha-2
	City     string
	Operator string // of the network
}

// Find collects what the tables say, the first that says it. It knows the
// fields of MaxMind's and IP2Location's country, city and ASN tables
// (country.iso_code, city.names.en, autonomous_system_organization), and of
// IPinfo's (country_code, as_name).
func Find(tables []*Table, a netip.Addr) (Origin, error) {
	var o Origin
	for _, t := range tables {
		v, ok, err := t.Look(a)
		if err != nil {
			return Origin{}, err
		}
		if !ok {
			continue
		}
		set(&o.Country, text(v, "country", "iso_code"), text(v, "country_code"), text(v, "registered_country", "iso_code"))
		set(&o.City, text(v, "city", "names", "en"))
		set(&o.Operator, text(v, "autonomous_system_organization"), text(v, "as_name"), text(v, "organization"))
	}
	return o, nil
}

func set(to *string, from ...string) {
	for _, s := range from {
		if *to == "" {
			*to = s
		}
	}
}

func text(v any, path ...string) string {
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[p]
	}
	s, _ := v.(string)
	return s
}
