package reference

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ParseVersion parses "MAJOR.MINOR.PATCH" with an optional "-suffix", which is
// ignored: what a development build understands is what its release will.
func ParseVersion(s string) ([3]int, error) {
	var v [3]int
	core, _, _ := strings.Cut(strings.TrimPrefix(s, "v"), "-")
	parts := strings.Split(core, ".")
	if len(parts) != len(v) {
		return v, fmt.Errorf("cannot parse version %q: want three numbers such as 0.1.0", s)
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return v, fmt.Errorf("cannot parse version %q: %w", s, err)
		}
		v[i] = int(n)
	}
	return v, nil
}

// agentNewEnough reports whether an agent of version have understands what
// needs at least want.
func agentNewEnough(have, want string) (bool, error) {
	h, err := ParseVersion(have)
	if err != nil {
		return false, err
	}
	w, err := ParseVersion(want)
	if err != nil {
		return false, err
	}
	return slices.Compare(h[:], w[:]) >= 0, nil
}
