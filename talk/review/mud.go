package review

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/talk"
)

// MaxMUD bounds a MUD file, in bytes.
const MaxMUD = 1 << 20

// The parts of a MUD file (RFC 8520) that are written and read here.
type mudFile struct {
	MUD struct {
		Version   int       `json:"mud-version"`
		URL       string    `json:"mud-url"`
		Updated   string    `json:"last-update"`
		Cache     int       `json:"cache-validity,omitempty"`
		Supported bool      `json:"is-supported"`
		Info      string    `json:"systeminfo,omitempty"`
		From      mudPolicy `json:"from-device-policy"`
		To        mudPolicy `json:"to-device-policy"`
	} `json:"ietf-mud:mud"`
	Lists struct {
		ACL []mudACL `json:"acl"`
	} `json:"ietf-access-control-list:access-lists"`
}

type mudPolicy struct {
	Lists struct {
		List []mudName `json:"access-list"`
	} `json:"access-lists"`
}

type mudName struct {
	Name string `json:"name"`
}

type mudACL struct {
	Name string `json:"name"`
	Type string `json:"type"`
	ACEs struct {
		ACE []mudACE `json:"ace"`
	} `json:"aces"`
}

type mudACE struct {
	Name    string                     `json:"name"`
	Matches map[string]json.RawMessage `json:"matches"`
	Actions struct {
		Forwarding string `json:"forwarding"`
	} `json:"actions"`
}

type mudIP struct {
	Protocol uint8  `json:"protocol,omitempty"`
	DstName  string `json:"ietf-acldns:dst-dnsname,omitempty"`
	SrcName  string `json:"ietf-acldns:src-dnsname,omitempty"`
	Dst4     string `json:"destination-ipv4-network,omitempty"`
	Src4     string `json:"source-ipv4-network,omitempty"`
	Dst6     string `json:"destination-ipv6-network,omitempty"`
	Src6     string `json:"source-ipv6-network,omitempty"`
}

type mudPort struct {
	Initiated string    `json:"ietf-mud:direction-initiated,omitempty"`
	Src       *mudRange `json:"source-port,omitempty"`
	Dst       *mudRange `json:"destination-port,omitempty"`
}

// A mudRange is one port with an operator, or a range (RFC 8519, section 4.2,
// port-range-or-operator).
type mudRange struct {
	Operator string  `json:"operator,omitempty"` // eq unless given
	Port     *uint16 `json:"port,omitempty"`
	Lower    *uint16 `json:"lower-port,omitempty"`
	Upper    *uint16 `json:"upper-port,omitempty"`
}

// has returns what tells whether a port is meant, or false where the range says
// nothing, or two things.
func (r *mudRange) has() (func(uint16) bool, bool) {
	switch {
	case r.Port == nil && r.Operator == "" && r.Lower != nil && r.Upper != nil && *r.Lower <= *r.Upper:
		return func(p uint16) bool { return *r.Lower <= p && p <= *r.Upper }, true
	case r.Port == nil || r.Lower != nil || r.Upper != nil:
		return nil, false
	}
	switch r.Operator {
	case "", "eq":
		return func(p uint16) bool { return p == *r.Port }, true
	case "neq":
		return func(p uint16) bool { return p != *r.Port }, true
	case "lte":
		return func(p uint16) bool { return p <= *r.Port }, true
	case "gte":
		return func(p uint16) bool { return p >= *r.Port }, true
	}
	return nil, false
}

// MUD writes the connections that the device began as a MUD file: what it was
// seen to need. Whoever publishes it answers for it. last is Unix seconds.
func MUD(r *talk.Record, address string, last int64) ([]byte, error) {
	if !strings.HasPrefix(address, "https://") {
		return nil, fmt.Errorf("cannot write MUD file: %.80q is no https address", address)
	}
	var f mudFile
	f.MUD.Version, f.MUD.URL, f.MUD.Updated, f.MUD.Cache, f.MUD.Supported = 1, address, time.Unix(last, 0).UTC().Format(time.RFC3339), 48, true
	acl := map[string]*mudACL{}
	for _, way := range []string{"from", "to"} {
		for _, v := range []string{"ipv4", "ipv6"} {
			acl[way+v] = &mudACL{Name: way + "-" + v, Type: v + "-acl-type"}
		}
	}
	done := map[string]bool{}
	for i := range r.Peers {
		p := &r.Peers[i]
		addr := p.Address.Addr()
		family, bits := "ipv4", "/32"
		if addr.Is6() {
			family, bits = "ipv6", "/128"
		}
		target := p.Name
		if target == "" {
			target = addr.String()
		}
		transport := "tcp"
		if p.Protocol == talk.UDP {
			transport = "udp"
		}
		name := fmt.Sprintf("%s-%s-%d", target, transport, p.Port)
		if p.Inbound || done[family+name] {
			continue
		}
		done[family+name] = true
		for _, way := range []string{"from", "to"} {
			ip := mudIP{Protocol: p.Protocol}
			port := mudPort{}
			eq := &mudRange{Operator: "eq", Port: &p.Port}
			out := way == "from"
			switch {
			case p.Name != "" && out:
				ip.DstName = p.Name
			case p.Name != "":
				ip.SrcName = p.Name
			case family == "ipv4" && out:
				ip.Dst4 = addr.String() + bits
			case family == "ipv4":
				ip.Src4 = addr.String() + bits
			case out:
				ip.Dst6 = addr.String() + bits
			default:
				ip.Src6 = addr.String() + bits
			}
			if port.Src = eq; out {
				port.Src, port.Dst = nil, eq
			}
			if transport == "tcp" {
				port.Initiated = "from-device"
			}
			ace := mudACE{Name: way + "-" + name, Matches: map[string]json.RawMessage{}}
			ace.Actions.Forwarding = "accept"
			for k, v := range map[string]any{family: ip, transport: port} {
				raw, err := json.Marshal(v)
				if err != nil {
					return nil, fmt.Errorf("cannot write MUD file: %w", err)
				}
				ace.Matches[k] = raw
			}
			l := acl[way+family]
			l.ACEs.ACE = append(l.ACEs.ACE, ace)
		}
	}
	for _, k := range []string{"fromipv4", "fromipv6", "toipv4", "toipv6"} {
		if len(acl[k].ACEs.ACE) == 0 {
			continue
		}
		policy := &f.MUD.From
		if strings.HasPrefix(k, "to") {
			policy = &f.MUD.To
		}
		policy.Lists.List = append(policy.Lists.List, mudName{acl[k].Name})
		f.Lists.ACL = append(f.Lists.ACL, *acl[k])
	}
	if len(f.Lists.ACL) == 0 {
		return nil, errors.New("cannot write MUD file: the device began no connection")
	}
	data, err := json.MarshalIndent(&f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot write MUD file: %w", err)
	}
	return append(data, '\n'), nil
}

// A Verdict is what a MUD file says of the connections that the device began.
type Verdict struct {
	Undeclared []string `json:"undeclared"`    // no entry allows them
	Undecided  []string `json:"not_appraised"` // entries that could allow something, and why that cannot be told
	Unused     []string `json:"not_seen"`      // entries that nothing used
}

// CheckMUD compares a record with a MUD file. Entries are read by name, by
// network, by the groups that m gives a meaning to, with protocol and destination
// ports. What matches by anything else, or by a group that nobody explained, is
// listed as not appraised and allows nothing.
func CheckMUD(r *talk.Record, data []byte, m Meaning) (*Verdict, error) {
	var f mudFile
	if len(data) > MaxMUD {
		return nil, fmt.Errorf("cannot read MUD file: more than %d bytes", MaxMUD)
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("cannot read MUD file: %w", err)
	}
	if f.MUD.Version != 1 {
		return nil, fmt.Errorf("cannot read MUD file: mud-version %d, this program reads 1", f.MUD.Version)
	}
	if m.SameManufacturer == nil {
		m.SameManufacturer = m.Manufacturers[authority(f.MUD.URL)]
	}
	v := &Verdict{Undeclared: []string{}, Undecided: []string{}, Unused: []string{}}
	allowed := make([]bool, len(r.Peers))
	for _, list := range f.MUD.From.Lists.List {
		for _, acl := range f.Lists.ACL {
			if acl.Name != list.Name {
				continue
			}
			for _, ace := range acl.ACEs.ACE {
				match, why := ace.read(m)
				if why != "" {
					v.Undecided = append(v.Undecided, plain(ace.Name+": "+why))
					continue
				}
				used := false
				for i := range r.Peers {
					if !r.Peers[i].Inbound && match(&r.Peers[i]) {
						allowed[i], used = true, true
					}
				}
				if !used {
					v.Unused = append(v.Unused, plain(ace.Name))
				}
			}
		}
	}
	for i := range r.Peers {
		p := &r.Peers[i]
		if p.Inbound || allowed[i] {
			continue
		}
		name := p.Name
		if name == "" {
			name = p.Address.Addr().String()
		}
		v.Undeclared = append(v.Undeclared, fmt.Sprintf("%s port %d", name, p.Port))
	}
	return v, nil
}

// authority returns the host of a MUD URL, which is the manufacturer's name (RFC
// 8520, section 8, manufacturer).
func authority(mudURL string) string {
	rest, ok := strings.CutPrefix(strings.ToLower(mudURL), "https://")
	if !ok {
		return ""
	}
	host, _, _ := strings.Cut(rest, "/")
	host, _, _ = strings.Cut(host, ":")
	return host
}

// strict reads JSON into v and refuses what v has no place for: what is not
// understood must not be passed over, it narrows an entry.
func strict(raw json.RawMessage, v any) bool {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	return d.Decode(v) == nil
}

// A test tells whether a peer is meant.
type test func(*talk.Peer) bool

// read returns what an entry allows, or why it cannot be told.
func (a mudACE) read(m Meaning) (match test, why string) {
	if a.Actions.Forwarding != "accept" {
		return nil, "it does not accept"
	}
	var tests []test // all of them have to hold
	narrow := false  // one of them names machines
	for k, raw := range a.Matches {
		var more []test
		var names bool
		switch k {
		case "ipv4", "ipv6":
			more, names, why = readIP(raw, k == "ipv6")
		case "tcp", "udp":
			more, why = readPorts(raw, k == "udp")
		case "ietf-mud:mud":
			more, why = m.read(raw)
			names = true
		default:
			why = "it matches by " + k
		}
		if why != "" {
			return nil, why
		}
		tests, narrow = append(tests, more...), narrow || names
	}
	if !narrow {
		return nil, "it allows everything, which is no declaration"
	}
	return func(p *talk.Peer) bool {
		return !slices.ContainsFunc(tests, func(t test) bool { return !t(p) })
	}, ""
}

func readIP(raw json.RawMessage, six bool) (tests []test, names bool, why string) {
	var ip mudIP
	if !strict(raw, &ip) {
		return nil, false, "it matches by a part of the IP header that is not read"
	}
	if ip.SrcName+ip.Src4+ip.Src6 != "" {
		return nil, false, "it matches by the source of what the device sends"
	}
	tests = append(tests, func(p *talk.Peer) bool { return p.Address.Addr().Is6() == six })
	if ip.Protocol != 0 {
		tests = append(tests, func(p *talk.Peer) bool { return p.Protocol == ip.Protocol })
	}
	if ip.DstName != "" {
		tests = append(tests, Machines{{name: hostOf(ip.DstName)}}.has)
	}
	for _, network := range []string{ip.Dst4, ip.Dst6} {
		if network == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(network)
		if err != nil {
			return nil, false, "its network is none"
		}
		tests = append(tests, Machines{{network: prefix}}.has)
	}
	return tests, ip.DstName+ip.Dst4+ip.Dst6 != "", ""
}

func readPorts(raw json.RawMessage, udp bool) (tests []test, why string) {
	var port mudPort
	protocol := uint8(talk.TCP)
	if udp {
		protocol = talk.UDP
	}
	switch {
	case !strict(raw, &port):
		return nil, "it matches by a part of the TCP or UDP header that is not read"
	case port.Src != nil:
		return nil, "it matches by a port of the device"
	case port.Initiated == "to-device":
		return nil, "it is about connections to the device"
	}
	tests = append(tests, func(p *talk.Peer) bool { return p.Protocol == protocol })
	if port.Dst != nil {
		has, ok := port.Dst.has()
		if !ok {
			return nil, "its destination port is neither a port nor a range"
		}
		tests = append(tests, func(p *talk.Peer) bool { return has(p.Port) })
	}
	return tests, ""
}
