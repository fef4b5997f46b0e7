package talk_test

import (
	"testing"

	"github.com/miotfacts/miotfacts/talk"
)

func TestProtection(t *testing.T) {
	tls := func(version uint16) talk.Peer {
		return talk.Peer{Answered: 2, Security: talk.SecurityTLS, TLS: version}
	}
	for _, tt := range []struct {
		name  string
		peers []talk.Peer
		loss  talk.Loss
		want  talk.Protection
	}{
		{"nothing", nil, talk.Loss{}, talk.Protection{}},
		{"the lowest counts", []talk.Peer{tls(0x0304), tls(0x0302), tls(0x0303)}, talk.Loss{}, talk.Protection{Lowest: 0x0302}},
		{"QUIC is TLS 1.3", []talk.Peer{{Answered: 1, Security: talk.SecurityQUIC}}, talk.Loss{}, talk.Protection{Lowest: 0x0304}},
		{"without TLS", []talk.Peer{{Answered: 3, Security: talk.SecurityNone}, tls(0x0304)}, talk.Loss{}, talk.Protection{Lowest: 0x0304, Plain: 3}},
		{"nobody answered", []talk.Peer{{Attempts: 3, Security: talk.SecurityNone}}, talk.Loss{}, talk.Protection{}},
		{"refused", []talk.Peer{{Answered: 3, Security: talk.SecurityRefused}}, talk.Loss{}, talk.Protection{}},
		{"beginning not seen", []talk.Peer{{Answered: 3}, tls(0)}, talk.Loss{}, talk.Protection{Unseen: 5}},
		{"lost", []talk.Peer{tls(0x0304)}, talk.Loss{Packets: 9, Dropped: 1, Hellos: 2, Knocks: 7}, talk.Protection{Lowest: 0x0304, Unseen: 3}},
	} {
		if got := (&talk.Record{Peers: tt.peers, Loss: tt.loss}).Protection(); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}
