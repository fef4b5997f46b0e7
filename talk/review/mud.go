package review

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
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
	Src       *mudEqual `json:"source-port,omitempty"`
	Dst       *mudEqual `json:"destination-port,omitempty"`
}

type mudEqual struct {
	Operator string `json:"operator"`
	Port     uint16 `json:"port"`
}

// MUD writes the connections that the device began as a MUD file: what it was
// seen to need. Whoever publishes it answers for it. last is Unix seconds.
func MUD(r *talk.Record, url string, last int64) ([]byte, error) {
	if !strings.HasPrefix(url, "https://") {
		return nil, fmt.Errorf("cannot write MUD file: %.80q is no https address", url)
	}
	var f mudFile
	f.MUD.Version, f.MUD.URL, f.MUD.Updated, f.MUD.Cache, f.MUD.Supported = 1, url, time.Unix(last, 0).UTC().Format(time.RFC3339), 48, true
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
			eq := &mudEqual{"eq", p.Port}
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
	Undecided  []string `json:"not_appraised"` // entries that could allow something match by what is not read here
	Unused     []string `json:"not_seen"`      // entries that nothing used
}

// CheckMUD compares a record with a MUD file. Entries by name, by network and by
// local-networks, with protocol and one destination port, are read; a matching by
// anything else, as controller or manufacturer, is listed as not appraised and
// allows nothing.
func CheckMUD(r *talk.Record, data []byte) (*Verdict, error) {
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
	v := &Verdict{Undeclared: []string{}, Undecided: []string{}, Unused: []string{}}
	allowed := make([]bool, len(r.Peers))
	for _, list := range f.MUD.From.Lists.List {
		for _, acl := range f.Lists.ACL {
			if acl.Name != list.Name {
				continue
			}
			for _, ace := range acl.ACEs.ACE {
				match, ok := ace.read()
				if !ok {
					v.Undecided = append(v.Undecided, plain(ace.Name))
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

// strict reads JSON into v and refuses what v has no place for: what is not
// understood must not be passed over, it narrows an entry.
func strict(raw json.RawMessage, v any) bool {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	return d.Decode(v) == nil
}

// read returns what an entry allows, or false where it cannot be told.
func (a mudACE) read() (func(*talk.Peer) bool, bool) {
	if a.Actions.Forwarding != "accept" {
		return nil, false
	}
	var ip mudIP
	var port mudPort
	family, transport, local := 0, uint8(0), false
	for k, raw := range a.Matches {
		switch k {
		case "ipv4", "ipv6":
			if family = int(k[3] - '0'); !strict(raw, &ip) {
				return nil, false
			}
		case "tcp", "udp":
			if transport = talk.TCP; k == "udp" {
				transport = talk.UDP
			}
			if !strict(raw, &port) {
				return nil, false
			}
		case "ietf-mud:mud":
			var m struct {
				Local []any `json:"local-networks"`
			}
			if !strict(raw, &m) || m.Local == nil {
				return nil, false
			}
			local = true
		default:
			return nil, false
		}
	}
	network := ip.Dst4 + ip.Dst6
	prefix, err := netip.ParsePrefix(network)
	if network != "" && err != nil || ip.SrcName+ip.Src4+ip.Src6 != "" || port.Src != nil || port.Dst != nil && port.Dst.Operator != "eq" || port.Initiated == "to-device" {
		return nil, false
	}
	if !local && network == "" && ip.DstName == "" {
		return nil, false // it allows everything, which is no declaration
	}
	return func(p *talk.Peer) bool {
		addr := p.Address.Addr()
		return (family == 0 || (family == 6) == addr.Is6()) &&
			(ip.Protocol == 0 || ip.Protocol == p.Protocol) && (transport == 0 || transport == p.Protocol) &&
			(port.Dst == nil || port.Dst.Port == p.Port) && (!local || talk.Private(addr)) &&
			(network == "" || prefix.Contains(addr)) && (ip.DstName == "" || strings.EqualFold(strings.TrimSuffix(ip.DstName, "."), p.Name))
	}, true
}
