package review_test

import (
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
		v, err := review.CheckMUD(r, []byte(strings.ReplaceAll(text, c.old, c.new)))
		if c.old == "" {
			v, err = review.CheckMUD(r, file)
		}
		if err != nil || len(v.Undeclared) != c.undeclared || len(v.Undecided) != c.undecided || len(v.Unused) != c.unused {
			t.Errorf("%s: %+v, %v", c.what, v, err)
		}
	}
	if _, err := review.MUD(r, "http://x", 0); err == nil {
		t.Error("an address without TLS passes")
	}
}

func FuzzCheckMUD(f *testing.F) {
	f.Add([]byte(`{"ietf-mud:mud":{"mud-version":1,"from-device-policy":{"access-lists":{"access-list":[{"name":"a"}]}}},"ietf-access-control-list:access-lists":{"acl":[{"name":"a","aces":{"ace":[{"name":"e","matches":{"ietf-mud:mud":{"local-networks":[null]},"ipv4":{"protocol":6}},"actions":{"forwarding":"accept"}}]}}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &talk.Record{Version: 1, Peers: []talk.Peer{{Protocol: talk.TCP, Address: []byte{10, 0, 0, 1}, Port: 443}}}
		v, err := review.CheckMUD(r, data)
		if (v == nil) != (err != nil) {
			t.Fatalf("%v with %v", v, err)
		}
	})
}
