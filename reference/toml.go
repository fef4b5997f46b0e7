package reference

import (
	"bytes"
	"errors"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxAuthored bounds an authored manifest. Comments and reasons make it larger
// than the signed form; beyond this it is no manifest.
const maxAuthored = 1 << 20

// A node is a TOML value with the line it stands on, so that every complaint
// can name one.
type node struct {
	kind  unstable.Kind // a table of any form is an InlineTable, a list an Array
	line  int
	text  string // of a scalar
	keys  []string
	table map[string]*node
	list  []*node
}

func (n *node) child(key string, line int, kind unstable.Kind) *node {
	c := n.table[key]
	if c == nil {
		c = &node{kind: kind, line: line, table: map[string]*node{}}
		n.table[key] = c
		n.keys = append(n.keys, key)
	}
	return c
}

// parseTOML returns the document as a tree, or where it is not TOML.
func parseTOML(data []byte) (*node, *Problem) {
	if len(data) > maxAuthored {
		return nil, &Problem{Message: "the file is larger than 1 MiB", Fix: "give the TOML source of a manifest"}
	}
	// The whole grammar first, double keys and redefined tables included; the
	// walk over the syntax tree below then only collects.
	if err := toml.Unmarshal(data, &map[string]any{}); err != nil {
		p := &Problem{Message: strings.TrimPrefix(err.Error(), "toml: "), Fix: "correct the TOML; see toml.io for its grammar"}
		if at, ok := errors.AsType[*toml.DecodeError](err); ok {
			p.Line, _ = at.Position()
		}
		return nil, p
	}
	w := &walker{data: data}
	root := &node{kind: unstable.InlineTable, line: 1, table: map[string]*node{}}
	w.p.Reset(data)
	at := root
	for w.p.NextExpression() {
		switch e := w.p.Expression(); e.Kind {
		case unstable.Table:
			at, _ = w.descend(root, e.Key(), false)
		case unstable.ArrayTable:
			at, _ = w.descend(root, e.Key(), true)
		case unstable.KeyValue:
			w.keyValue(at, e)
		}
	}
	if err := w.p.Error(); err != nil {
		return nil, &Problem{Message: err.Error(), Fix: "correct the TOML; see toml.io for its grammar"}
	}
	return root, nil
}

type walker struct {
	p    unstable.Parser
	data []byte
}

func (w *walker) line(n *unstable.Node) int {
	return 1 + bytes.Count(w.data[:n.Raw.Offset], []byte("\n"))
}

// descend returns the table that a header names: for an array table a new last
// element, and on the way through one its last element.
func (w *walker) descend(n *node, key unstable.Iterator, array bool) (*node, int) {
	line := 0
	for key.Next() {
		k := key.Node()
		line = w.line(k)
		kind := unstable.InlineTable
		if array && key.IsLast() {
			kind = unstable.Array
		}
		n = n.child(string(k.Data), line, kind)
		if kind == unstable.Array {
			n.list = append(n.list, &node{kind: unstable.InlineTable, line: line, table: map[string]*node{}})
		}
		if len(n.list) > 0 {
			n = n.list[len(n.list)-1]
		}
	}
	return n, line
}

func (w *walker) keyValue(n *node, e *unstable.Node) {
	for key := e.Key(); key.Next(); {
		k := key.Node()
		if !key.IsLast() {
			n = n.child(string(k.Data), w.line(k), unstable.InlineTable)
			continue
		}
		*n.child(string(k.Data), 0, 0) = *w.value(e.Value(), w.line(k))
	}
}

func (w *walker) value(v *unstable.Node, line int) *node {
	if v.Raw.Length > 0 {
		line = w.line(v)
	}
	n := &node{kind: v.Kind, line: line, text: string(v.Data), table: map[string]*node{}}
	for it := v.Children(); it.Next(); {
		switch c := it.Node(); {
		case c.Kind == unstable.Comment:
		case v.Kind == unstable.InlineTable:
			w.keyValue(n, c)
		default:
			n.list = append(n.list, w.value(c, line))
		}
	}
	return n
}
