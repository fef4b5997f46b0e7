package label

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/reference"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

const maxAuthored = 256 << 10 // bytes of TOML; comments make it larger than the label

// Author reads a label as people write it, in TOML, and checks it. It returns
// every problem it finds in the order of their lines; the label is nil if one of
// them is more than a warning.
func Author(data []byte) (*Label, []reference.Problem) {
	if len(data) > maxAuthored {
		return nil, []reference.Problem{{Message: "the file is larger than 256 KiB", Fix: "give the TOML source of a label"}}
	}
	l := new(Label)
	if err := decode(data, l); err != nil {
		return nil, decodeProblems(err)
	}
	found := l.Check()
	if !wrong(found) {
		found = append(found, l.budget()...)
	}
	lines := lineIndex(data)
	for i := range found {
		found[i].Line = lines.of(found[i].Path)
	}
	slices.SortStableFunc(found, func(p, q reference.Problem) int { return p.Line - q.Line })
	if wrong(found) {
		return nil, found
	}
	return l, found
}

func decode(data []byte, v any) error {
	return toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().EnableUnmarshalerInterface().Decode(v)
}

func wrong(ps []reference.Problem) bool {
	return slices.ContainsFunc(ps, func(p reference.Problem) bool { return !p.Warning })
}

func decodeProblems(err error) []reference.Problem {
	var found []reference.Problem
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		for _, e := range strict.Errors {
			line, _ := e.Position()
			path := strings.Join(e.Key(), ".")
			found = append(found, reference.Problem{Path: path, Line: line, Message: fmt.Sprintf("unknown key %q", e.Key()[len(e.Key())-1]), Fix: "remove it, or correct its name; configs/label-example.toml has all"})
		}
		return found
	}
	p := reference.Problem{Message: strings.TrimPrefix(err.Error(), "toml: "), Fix: "correct it; configs/label-example.toml shows the form"}
	if e, ok := errors.AsType[*toml.DecodeError](err); ok {
		p.Line, _ = e.Position()
		p.Path = strings.Join(e.Key(), ".")
	}
	return []reference.Problem{p}
}

// index has the line of each path in a document.
type index map[string]int

// of returns the line of path, or of what it would stand in; 0 for what is
// missing from the document itself.
func (x index) of(path string) int {
	for path != "" {
		if l, ok := x[path]; ok {
			return l
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

// lineIndex walks over a document that was decoded before.
func lineIndex(data []byte) index {
	x, counts := index{}, map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	line := func(n *unstable.Node) int { return 1 + bytes.Count(data[:n.Raw.Offset], []byte("\n")) }
	var value func(at string, v *unstable.Node)
	// key returns the path below at, with the last element of each array table.
	key := func(at string, it unstable.Iterator, array bool) string {
		for it.Next() {
			k := it.Node()
			if at != "" {
				at += "."
			}
			at += string(k.Data)
			if array && it.IsLast() {
				if counts[at] == 0 {
					x[at] = line(k)
				}
				counts[at]++
			}
			if n := counts[at]; n > 0 {
				at = fmt.Sprintf("%s[%d]", at, n-1)
			}
			if _, ok := x[at]; !ok {
				x[at] = line(k)
			}
		}
		return at
	}
	value = func(at string, v *unstable.Node) {
		i := 0
		for it := v.Children(); it.Next(); {
			switch c := it.Node(); {
			case c.Kind == unstable.Comment:
			case v.Kind == unstable.InlineTable:
				value(key(at, c.Key(), false), c.Value())
			case v.Kind == unstable.Array:
				elem := fmt.Sprintf("%s[%d]", at, i)
				if c.Raw.Length > 0 {
					x[elem] = line(c)
				} else {
					x[elem] = x[at]
				}
				value(elem, c)
				i++
			}
		}
	}
	at := ""
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table:
			at = key("", e.Key(), false)
		case unstable.ArrayTable:
			at = key("", e.Key(), true)
		case unstable.KeyValue:
			value(key(at, e.Key(), false), e.Value())
		}
	}
	return x
}
