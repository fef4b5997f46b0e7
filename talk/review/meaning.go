package review

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/talk"
)

// A Meaning says which machines the groups of a MUD file stand for (RFC 8520,
// section 8). The file names them and leaves it to the network to know.
type Meaning struct {
	Controllers      map[string]Machines // by URI, as urn:ietf:params:mud:dns
	MyController     Machines            // what controls devices of this kind
	Manufacturers    map[string]Machines // by the authority of their MUD URLs, in lower case
	SameManufacturer Machines            // nil: those of Manufacturers with the file's own authority
	Local            Machines            // nil: private addresses
}

// Machines are names, addresses and networks.
type Machines []machine

type machine struct {
	name    string // in lower case; "" where it is a network
	network netip.Prefix
}

// ReadMachines reads names, addresses and networks with commas between.
func ReadMachines(text string) (Machines, error) {
	var out Machines
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if p, err := netip.ParsePrefix(part); err == nil {
			out = append(out, machine{network: p.Masked()})
		} else if a, err := netip.ParseAddr(part); err == nil && a.Zone() == "" {
			out = append(out, machine{network: netip.PrefixFrom(a, a.BitLen())})
		} else if part == "" || strings.ContainsAny(part, "/:=* ") {
			return nil, fmt.Errorf("cannot use %q: neither name, address nor network", part)
		} else {
			out = append(out, machine{name: hostOf(part)})
		}
	}
	return out, nil
}

func hostOf(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func (m Machines) has(p *talk.Peer) bool {
	addr := p.Address.Addr()
	return slices.ContainsFunc(m, func(x machine) bool {
		return x.name != "" && x.name == p.Name || x.name == "" && x.network.Contains(addr)
	})
}

// read returns the tests of one ietf-mud:mud container, or why there are none.
// All that stands in it has to hold.
func (m Meaning) read(raw json.RawMessage) (tests []test, why string) {
	var c struct {
		Controller       *string `json:"controller"`
		Manufacturer     *string `json:"manufacturer"`
		MyController     []any   `json:"my-controller"`     // [null]: it is there
		SameManufacturer []any   `json:"same-manufacturer"` //
		Local            []any   `json:"local-networks"`    //
	}
	if !strict(raw, &c) {
		return nil, "it matches by a group that is not read"
	}
	group := func(what string, machines Machines) {
		if machines == nil {
			why = "nobody said who " + what + " is"
			return
		}
		tests = append(tests, machines.has)
	}
	if c.Controller != nil {
		group("controller "+*c.Controller, m.Controllers[*c.Controller])
	}
	if c.Manufacturer != nil {
		group("manufacturer "+*c.Manufacturer, m.Manufacturers[strings.ToLower(*c.Manufacturer)])
	}
	if c.MyController != nil {
		group("my-controller", m.MyController)
	}
	if c.SameManufacturer != nil {
		group("same-manufacturer", m.SameManufacturer)
	}
	if c.Local != nil {
		if m.Local == nil {
			tests = append(tests, func(p *talk.Peer) bool { return talk.Private(p.Address.Addr()) })
		} else {
			tests = append(tests, m.Local.has)
		}
	}
	if why == "" && len(tests) == 0 {
		why = "its group is empty"
	}
	return tests, why
}
