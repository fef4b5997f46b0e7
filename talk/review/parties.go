package review

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

const maxParties = 1 << 20 // bytes

// Parties tells which company a name or a network belongs to. Somebody looked
// that up, in registries of names and networks, and wrote it down.
type Parties struct {
	Manufacturer string  `toml:"manufacturer"` // name of the party that made the device
	Party        []Party `toml:"party"`
}

// A Party is a company.
type Party struct {
	Name      string   `toml:"name"`
	Also      []string `toml:"also"`      // other names of it, as labels have them
	Domains   []string `toml:"domains"`   // that it owns, with all below them
	Operators []string `toml:"operators"` // as tables of networks call it
}

// ReadParties reads parties from TOML.
func ReadParties(data []byte) (*Parties, error) {
	p := new(Parties)
	if len(data) > maxParties {
		return nil, fmt.Errorf("cannot read parties: more than %d bytes", maxParties)
	}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(p); err != nil {
		return nil, fmt.Errorf("cannot read parties: %w", err)
	}
	for i, x := range p.Party {
		if x.Name == "" {
			return nil, fmt.Errorf("cannot read parties: party[%d] has no name", i)
		}
	}
	return p, nil
}

// owner returns the party that a name belongs to, the most particular one.
func (p *Parties) owner(name string) string {
	best, found := "", ""
	for _, x := range p.Party {
		for _, d := range x.Domains {
			d = strings.ToLower(d)
			if (name == d || strings.HasSuffix(name, "."+d)) && len(d) > len(best) {
				best, found = d, x.Name
			}
		}
	}
	return found
}

// operator returns the party that a table calls so, or else what it is called.
func (p *Parties) operator(called string) string {
	for _, x := range p.Party {
		for _, o := range x.Operators {
			if strings.EqualFold(o, called) {
				return x.Name
			}
		}
	}
	return called
}

// same reports whether two names are one party's.
func (p *Parties) same(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	for _, x := range p.Party {
		names := append([]string{x.Name}, x.Also...)
		hasA, hasB := false, false
		for _, n := range names {
			hasA = hasA || strings.EqualFold(n, a)
			hasB = hasB || strings.EqualFold(n, b)
		}
		if hasA && hasB {
			return true
		}
	}
	return false
}
