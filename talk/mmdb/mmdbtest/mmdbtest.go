// Package mmdbtest makes small tables in MaxMind DB form for tests.
package mmdbtest

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// A Row is what a table says of a network.
type Row struct{ Prefix, Country, City, Operator string }

type node struct {
	child [2]*node
	row   *Row
	id    int
}

// Table makes a table with records of 24, 28 or 32 bits.
func Table(size int, rows []Row) []byte {
	root := &node{}
	all := []*node{root}
	for i := range rows {
		p := netip.MustParsePrefix(rows[i].Prefix)
		b, bits := p.Addr().AsSlice(), p.Bits()
		if p.Addr().Is4() { // in ::/96
			b, bits = append(make([]byte, 12), b...), bits+96
		}
		n := root
		for k := range bits {
			c := &n.child[b[k/8]>>(7-k%8)&1]
			if *c == nil {
				*c = &node{}
				if k+1 < bits {
					(*c).id = len(all)
					all = append(all, *c)
				}
			}
			n = *c
		}
		n.row = &rows[i]
	}
	var data []byte
	at := map[*Row]int{}
	for i := range rows {
		at[&rows[i]] = len(data)
		data = append(data, record(&rows[i])...)
	}
	var tree []byte
	for _, n := range all {
		var v [2]uint32
		for i, c := range n.child {
			switch {
			case c == nil:
				v[i] = uint32(len(all))
			case c.row != nil:
				v[i] = uint32(len(all) + 16 + at[c.row])
			default:
				v[i] = uint32(c.id)
			}
		}
		three := func(v uint32) []byte { return []byte{byte(v >> 16), byte(v >> 8), byte(v)} }
		switch size {
		case 24:
			tree = append(append(tree, three(v[0])...), three(v[1])...)
		case 28:
			tree = append(append(tree, three(v[0])...), byte(v[0]>>24<<4|v[1]>>24))
			tree = append(tree, three(v[1])...)
		case 32:
			tree = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(tree, v[0]), v[1])
		}
	}
	// MaxMind's reader wants each number in its own width.
	meta := dict(
		"binary_format_major_version", short(2), "binary_format_minor_version", short(0),
		"build_epoch", binary.BigEndian.AppendUint64([]byte{8, 2}, 1798761600),
		"database_type", text("Example"), "description", dict("en", text("made by a test")), "ip_version", short(6), "languages", []byte{0, 4},
		"node_count", binary.BigEndian.AppendUint32(head(6, 4), uint32(len(all))), "record_size", short(uint16(size)))
	return slices.Concat(tree, make([]byte, 16), data, []byte("\xab\xcd\xefMaxMind.com"), meta)
}

func record(r *Row) []byte {
	var pairs []any
	if r.Country != "" {
		pairs = append(pairs, "country", dict("iso_code", text(r.Country)))
	}
	if r.City != "" {
		pairs = append(pairs, "city", dict("names", dict("en", text(r.City))))
	}
	if r.Operator != "" {
		pairs = append(pairs, "autonomous_system_organization", text(r.Operator))
	}
	return dict(pairs...)
}

func head(kind, n int) []byte {
	switch {
	case n < 29:
		return []byte{byte(kind<<5 | n)}
	case n < 285:
		return []byte{byte(kind<<5 | 29), byte(n - 29)}
	}
	return []byte{byte(kind<<5 | 30), byte((n - 285) >> 8), byte(n - 285)}
}

func text(s string) []byte { return append(head(2, len(s)), s...) }

func short(n uint16) []byte { return binary.BigEndian.AppendUint16(head(5, 2), n) }

func dict(pairs ...any) []byte {
	out := head(7, len(pairs)/2)
	for _, p := range pairs {
		switch p := p.(type) {
		case string:
			out = append(out, text(p)...)
		case []byte:
			out = append(out, p...)
		}
	}
	return out
}
