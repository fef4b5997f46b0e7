package advisory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of a file. The largest CSAF documents of distributors have some 20 MiB.
const (
	MaxFile   = 64 << 20 // bytes
	maxDepth  = 64       // of nesting
	maxValues = 8 << 20  // in one file
	maxText   = 1024     // bytes of a name, a version or an identifier
	maxReason = 400      // bytes of a reason in words, which is cut
)

// A document is a tree of JSON with the first thing that is wrong in it. The
// schemas let every producer add members, so unknown ones are passed over; what
// is read must be of its type, and no member may stand there twice, because two
// readers would take different ones.
type document struct {
	err    error
	values int
}

func (d *document) fail(at, format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...))
	}
}

// A node is a place in a document. A place that is not there has no value.
type node struct {
	doc *document
	at  string
	v   any
}

// parse returns the root of a document.
func parse(data []byte) (node, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	switch {
	case len(data) > MaxFile:
		return node{}, fmt.Errorf("%d bytes, the limit is %d", len(data), MaxFile)
	case !utf8.Valid(data):
		return node{}, errors.New("it is not UTF-8")
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return node{}, errors.New("it is empty")
	}
	if !json.Valid(data) {
		var any any
		return node{}, json.Unmarshal(data, &any) // says where
	}
	d := &document{}
	in := json.NewDecoder(bytes.NewReader(data))
	in.UseNumber()
	v := d.value(in, "$", 0)
	return node{d, "$", v}, d.err
}

func (d *document) value(in *json.Decoder, at string, depth int) any {
	if d.err != nil {
		return nil
	}
	if d.values++; depth > maxDepth || d.values > maxValues {
		d.fail(at, "deeper than %d or more than %d values", maxDepth, maxValues)
		return nil
	}
	token, err := in.Token()
	if err != nil {
		d.fail(at, "%v", err)
		return nil
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for in.More() && d.err == nil {
			list = append(list, d.value(in, at+"["+strconv.Itoa(len(list))+"]", depth+1))
		}
		if d.err == nil {
			_, err = in.Token()
		}
		token = nil
		if err == nil {
			return list
		}
	case json.Delim('{'):
		object := map[string]any{}
		for in.More() && d.err == nil {
			key, err := in.Token()
			name, ok := key.(string)
			if err != nil || !ok {
				d.fail(at, "no name of a member: %v", err)
				return nil
			}
			if _, twice := object[name]; twice {
				d.fail(at, "%.80q stands there twice", name)
				return nil
			}
			object[name] = d.value(in, at+"."+short(name), depth+1)
		}
		if d.err == nil {
			_, err = in.Token()
		}
		if err == nil {
			return object
		}
	}
	if err != nil {
		d.fail(at, "%v", err)
	}
	return token
}

// short keeps a name that is shown within bounds.
func short(name string) string {
	if len(name) > 40 || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Sprintf("%.40q", name)
	}
	return name
}

func (n node) there() bool { return n.v != nil }

func (n node) object() map[string]any {
	o, ok := n.v.(map[string]any)
	if !ok && n.there() {
		n.doc.fail(n.at, "want an object")
	}
	return o
}

// get returns a member of an object.
func (n node) get(names ...string) node {
	for _, name := range names {
		n = node{n.doc, n.at + "." + name, n.object()[name]}
	}
	return n
}

// list returns the elements of an array.
func (n node) list() []node {
	list, ok := n.v.([]any)
	if !ok && n.there() {
		n.doc.fail(n.at, "want a list")
	}
	nodes := make([]node, len(list))
	for i, v := range list {
		nodes[i] = node{n.doc, n.at + "[" + strconv.Itoa(i) + "]", v}
	}
	return nodes
}

// text returns a name, a version or an identifier: one line that can be printed.
func (n node) text() string {
	s := n.words()
	if len(s) > maxText || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		n.doc.fail(n.at, "%.40q is not plain text of at most %d bytes", s, maxText)
		return ""
	}
	return s
}

func (n node) must() string {
	s := n.text()
	if s == "" {
		n.doc.fail(n.at, "missing or empty")
	}
	return s
}

// time returns a time (RFC 3339) in a form whose order is that of time.
func (n node) time() string {
	t, err := time.Parse(time.RFC3339, n.must())
	if err != nil {
		n.doc.fail(n.at, "%.40q is no time such as 2026-01-31T12:00:00Z", n.text())
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000000")
}

func (n node) texts() []string {
	var all []string
	for _, x := range n.list() {
		all = append(all, x.text())
	}
	return all
}

// words returns a string, whatever is in it.
func (n node) words() string {
	s, ok := n.v.(string)
	if !ok && n.there() {
		n.doc.fail(n.at, "want a string")
	}
	return s
}

// reason returns free text as one line that can be printed, cut where it is long.
func (n node) reason() string {
	s := strings.Join(strings.FieldsFunc(n.words(), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if len(s) <= maxReason {
		return s
	}
	at := maxReason
	for !utf8.RuneStart(s[at]) {
		at--
	}
	return s[:at] + "…"
}

// number returns a number, and whether there is one.
func (n node) number() (float64, bool) {
	x, ok := n.v.(json.Number)
	if !ok {
		if n.there() {
			n.doc.fail(n.at, "want a number")
		}
		return 0, false
	}
	f, err := x.Float64()
	if err != nil {
		n.doc.fail(n.at, "%s is no number", short(x.String()))
	}
	return f, err == nil
}
