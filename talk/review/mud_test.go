package review_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/talk"
	"github.com/miotfacts/miotfacts/talk/review"
)

func TestMUD(t *testing.T) {
	r := seen(t, write(scanners["wired"]))
	file, err := review.MUD(r, "https://scanner-b.example/mud.json", 1798761600)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, old, new                string
		undeclared, undecided, unused int
	}{
		{what: "itself"},
		{what: "another name", old: `"ietf-acldns:dst-dnsname": "mobile.launchdarkly.com"`, new: `"ietf-acldns:dst-dnsname": "x.example"`, undeclared: 1, unused: 1},
		{what: "another port", old: `"port": 443`, new: `"port": 80`, undeclared: 7, unused: 7},
		{what: "what is not read", old: `"ipv4": {`, new: `"ietf-mud:mud": {"controller": "urn:x"}, "ipv4": {`, undeclared: 7, undecided: 7},
		{what: "a narrower match", old: `"ipv4": {`, new: `"ipv4": {"dscp": 1,`, undeclared: 7, undecided: 7},
		{what: "dropped", old: `"forwarding": "accept"`, new: `"forwarding": "drop"`, undeclared: 7, undecided: 7},
	} {
		text := string(file)
		if c.old != "" && !strings.Contains(text, c.old) {
			t.Fatalf("%s: no %s in %s", c.what, c.old, text)
		}
		v, err := review.CheckMUD(r, []byte(strings.ReplaceAll(text, c.old, c.new)), review.Meaning{})
		if c.old == "" {
			v, err = review.CheckMUD(r, file, review.Meaning{})
		}
		if err != nil || len(v.Undeclared) != c.undeclared || len(v.Undecided) != c.undecided || len(v.Unused) != c.unused {
			t.Errorf("%s: %+v, %v", c.what, v, err)
		}
	}
	if _, err := review.MUD(r, "http://x", 0); err == nil {
		t.Error("an address without TLS passes")
	}
}

// What one entry allows of five peers, and what cannot be told.
func TestEntriesOfMUD(t *testing.T) {
	peer := func(name, addr string, protocol uint8, port uint16) talk.Peer {
		p := talk.Peer{Name: name, Address: netip.MustParseAddr(addr).AsSlice(), Protocol: protocol, Port: port}
		if name != "" {
			p.NameFrom = talk.FromDNS
		}
		return p
	}
	r := &talk.Record{Version: 1, Peers: []talk.Peer{
		peer("", "10.0.0.1", talk.UDP, 53),
		peer("broker.hospital.example", "10.0.0.2", talk.TCP, 8883),
		peer("cloud.maker.example", "203.0.113.5", talk.TCP, 443),
		peer("", "203.0.113.9", talk.TCP, 8443),
		peer("", "2001:db8::5", talk.TCP, 8400),
	}}
	machines := func(text string) review.Machines {
		t.Helper()
		m, err := review.ReadMachines(text)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := review.Meaning{
		Controllers:   map[string]review.Machines{"urn:ietf:params:mud:dns": machines("10.0.0.1"), "https://broker.hospital.example/": machines("Broker.hospital.example., 10.9.0.0/16")},
		MyController:  machines("10.0.0.2"),
		Manufacturers: map[string]review.Machines{"maker.example": machines("cloud.maker.example, 2001:db8::/32"), "other.example": machines("203.0.113.0/29")},
	}
	local := m
	local.Local = machines("203.0.113.0/24")
	same := m
	same.SameManufacturer = machines("203.0.113.9")
	mud := func(group string) string { return `"ietf-mud:mud": {` + group + `}` }
	ports := func(text string) string {
		return `"ipv4": {"destination-ipv4-network": "0.0.0.0/0"}, "tcp": {"destination-port": {` + text + `}}`
	}
	for _, c := range []struct {
		matches string
		meaning review.Meaning
		want    string // numbers of the peers that it allows, or why it cannot be told
	}{
		{ports(`"operator": "eq", "port": 443`), m, "2"},
		{ports(`"port": 443`), m, "2"},
		{ports(`"operator": "neq", "port": 443`), m, "1 3"},
		{ports(`"operator": "gte", "port": 8443`), m, "1 3"},
		{ports(`"operator": "lte", "port": 8443`), m, "2 3"},
		{ports(`"lower-port": 443, "upper-port": 8443`), m, "2 3"},
		{ports(`"lower-port": 443, "upper-port": 443`), m, "2"},
		{ports(`"lower-port": 8443, "upper-port": 443`), m, "its destination port is neither"},
		{ports(`"lower-port": 8443`), m, "its destination port is neither"},
		{ports(`"lower-port": 1, "upper-port": 9, "port": 4`), m, "its destination port is neither"},
		{ports(`"operator": "about", "port": 443`), m, "its destination port is neither"},
		{ports(`"port": 70000`), m, "it matches by a part of the TCP"},
		{mud(`"controller": "urn:ietf:params:mud:dns"`), m, "0"},
		{mud(`"controller": "https://broker.hospital.example/"`) + `, "tcp": {"destination-port": {"lower-port": 8000, "upper-port": 9000}}`, m, "1"},
		{mud(`"controller": "urn:ietf:params:mud:ntp"`), m, "nobody said who controller urn:ietf:params:mud:ntp is"},
		{mud(`"my-controller": [null]`), m, "1"},
		{mud(`"my-controller": [null]`), review.Meaning{}, "nobody said who my-controller is"},
		{mud(`"manufacturer": "Maker.example"`), m, "2 4"},
		{mud(`"manufacturer": "nobody.example"`), m, "nobody said who manufacturer nobody.example is"},
		{mud(`"same-manufacturer": [null]`), m, "2 4"},
		{mud(`"same-manufacturer": [null]`), same, "3"},
		{mud(`"same-manufacturer": [null]`), review.Meaning{}, "nobody said who same-manufacturer is"},
		{mud(`"local-networks": [null]`), m, "0 1"},
		{mud(`"local-networks": [null]`), local, "2 3"},
		{mud(`"local-networks": [null], "manufacturer": "other.example"`), local, "2"}, // both have to hold
		{mud(`"local-networks": [null]`) + `, "udp": {}`, m, "0"},
		{mud(`"model": "https://maker.example/mud.json"`), m, "it matches by a group that is not read"},
		{mud(``), m, "its group is empty"},
		{`"tcp": {"destination-port": {"port": 443}}`, m, "it allows everything"},
		{`"icmp": {"type": 8}`, m, "it matches by icmp"},
		{mud(`"local-networks": [null]`) + `, "tcp": {"source-port": {"port": 9}}`, m, "it matches by a port of the device"},
		{mud(`"local-networks": [null]`) + `, "tcp": {"ietf-mud:direction-initiated": "to-device"}`, m, "it is about connections to the device"},
	} {
		file := `{"ietf-mud:mud": {"mud-version": 1, "mud-url": "https://maker.example/pump.json", "from-device-policy": {"access-lists": {"access-list": [{"name": "a"}]}}},
			"ietf-access-control-list:access-lists": {"acl": [{"name": "a", "aces": {"ace": [{"name": "e", "matches": {` + c.matches + `}, "actions": {"forwarding": "accept"}}]}}]}}`
		v, err := review.CheckMUD(r, []byte(file), c.meaning)
		if err != nil {
			t.Errorf("%s: %v", c.matches, err)
			continue
		}
		var allowed []string
		for i := range r.Peers {
			title := cmp.Or(r.Peers[i].Name, r.Peers[i].Address.Addr().String())
			if !slices.Contains(v.Undeclared, fmt.Sprintf("%s port %d", title, r.Peers[i].Port)) {
				allowed = append(allowed, fmt.Sprint(i))
			}
		}
		if got := strings.Join(allowed, " "); len(v.Undecided) == 0 && got != c.want || len(v.Undecided) > 0 && (got != "" || !strings.HasPrefix(v.Undecided[0], "e: "+c.want)) {
			t.Errorf("%s: allows %q, not appraised %q, want %q", c.matches, got, v.Undecided, c.want)
		}
	}
	for _, text := range []string{"", "a,", "10.0.0.0/33", "https://x.example", "a b", "fe80::1%eth0", "*.example"} {
		if _, err := review.ReadMachines(text); err == nil {
			t.Errorf("machines %q pass", text)
		}
	}
}

func FuzzCheckMUD(f *testing.F) {
	f.Add([]byte(`{"ietf-mud:mud":{"mud-version":1,"from-device-policy":{"access-lists":{"access-list":[{"name":"a"}]}}},"ietf-access-control-list:access-lists":{"acl":[{"name":"a","aces":{"ace":[{"name":"e","matches":{"ietf-mud:mud":{"local-networks":[null]},"ipv4":{"protocol":6}},"actions":{"forwarding":"accept"}}]}}]}}`))
	f.Add([]byte(`{"ietf-mud:mud":{"mud-version":1,"mud-url":"https://a.example/b","from-device-policy":{"access-lists":{"access-list":[{"name":"a"}]}}},"ietf-access-control-list:access-lists":{"acl":[{"name":"a","aces":{"ace":[{"name":"e","matches":{"ietf-mud:mud":{"controller":"urn:x","same-manufacturer":[null]},"udp":{"destination-port":{"lower-port":1,"upper-port":9}}},"actions":{"forwarding":"accept"}}]}}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &talk.Record{Version: 1, Peers: []talk.Peer{{Protocol: talk.TCP, Address: []byte{10, 0, 0, 1}, Port: 443}}}
		v, err := review.CheckMUD(r, data, review.Meaning{Controllers: map[string]review.Machines{"urn:x": {}}, Local: review.Machines{}})
		if (v == nil) != (err != nil) {
			t.Fatalf("%v with %v", v, err)
		}
	})
}
