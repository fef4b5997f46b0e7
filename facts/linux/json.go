package linux

import (
	"strconv"
	"unicode/utf8"
)

// maxJSONDepth bounds how deep objects and lists are nested in what is read.
const maxJSONDepth = 32

// A jsonReader goes through a JSON text (RFC 8259) and tells of each string
// value. encoding/json would cost factsd 60 kB for the few names that are wanted.
type jsonReader struct {
	rest []byte
	path []string // names of the members that lead to the value; "" for one of a list
	tell func(path []string, value string)
}

// readJSON reports whether all of b is one JSON text. tell's path is valid until
// it returns.
func readJSON(b []byte, tell func(path []string, value string)) bool {
	r := &jsonReader{rest: b, tell: tell}
	return r.value() && r.next() == 0 && len(r.rest) == 0
}

// next skips white space and returns the byte that follows, 0 at the end.
func (r *jsonReader) next() byte {
	for len(r.rest) > 0 {
		switch c := r.rest[0]; c {
		case ' ', '\t', '\n', '\r':
			r.rest = r.rest[1:]
		default:
			return c
		}
	}
	return 0
}

// take skips white space and c, where c follows.
func (r *jsonReader) take(c byte) bool {
	if r.next() != c || c == 0 {
		return false
	}
	r.rest = r.rest[1:]
	return true
}

func (r *jsonReader) value() bool {
	if len(r.path) > maxJSONDepth {
		return false
	}
	switch c := r.next(); c {
	case '{':
		return r.members('{', '}')
	case '[':
		return r.members('[', ']')
	case '"':
		s, ok := r.text()
		if ok {
			r.tell(r.path, s)
		}
		return ok
	default:
		n := 0
		for n < len(r.rest) && (r.rest[n] >= 'a' && r.rest[n] <= 'z' || r.rest[n] >= '0' && r.rest[n] <= '9' || r.rest[n] == '-' || r.rest[n] == '+' || r.rest[n] == '.' || r.rest[n] == 'E') {
			n++
		}
		word := string(r.rest[:n])
		r.rest = r.rest[n:]
		switch word {
		case "true", "false", "null":
			return true
		}
		_, err := strconv.ParseFloat(word, 64)
		return err == nil && (word[0] == '-' || word[0] >= '0' && word[0] <= '9')
	}
}

func (r *jsonReader) members(open, end byte) bool {
	r.take(open)
	r.path = append(r.path, "")
	defer func() { r.path = r.path[:len(r.path)-1] }()
	if r.take(end) {
		return true
	}
	for {
		if open == '{' {
			if r.next() != '"' {
				return false
			}
			name, ok := r.text()
			if !ok || !r.take(':') {
				return false
			}
			r.path[len(r.path)-1] = name
		}
		if !r.value() {
			return false
		}
		if !r.take(',') {
			return r.take(end)
		}
	}
}

// text takes the string that follows, with its quotes. An escape that JSON has
// and Go has not, \/, is one that no name needs.
func (r *jsonReader) text() (string, bool) {
	for i := 1; i < len(r.rest); i++ {
		switch c := r.rest[i]; {
		case c < ' ':
			return "", false
		case c == '\\':
			i++
		case c == '"':
			s, err := strconv.Unquote(string(r.rest[:i+1]))
			r.rest = r.rest[i+1:]
			return s, err == nil && utf8.ValidString(s)
		}
	}
	return "", false
}
