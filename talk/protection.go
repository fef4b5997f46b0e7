package talk

// Protection is what a record says of how connections are protected.
type Protection struct {
	Lowest uint16 // version of TLS, RFC 8446, section 4.2.1; 0: none was seen
	Plain  uint64 // answered connections that began without TLS
	Unseen uint64 // connections whose beginning or version was not seen, and all that was lost
}

// Protection counts. Connections that were not answered or refused carry nothing.
func (r *Record) Protection() Protection {
	l := &r.Loss
	p := Protection{Unseen: l.Dropped + l.Broken + l.Fragments + l.Flows + l.Hellos + l.Peers + l.Expired}
	for i := range r.Peers {
		x := &r.Peers[i]
		version := x.TLS
		if x.Security == SecurityQUIC {
			version = VersionTLS13
		}
		switch {
		case x.Answered == 0 || x.Security == SecurityRefused:
		case x.Security == SecurityNone:
			p.Plain += x.Answered
		case version == 0:
			p.Unseen += x.Answered
		case p.Lowest == 0 || version < p.Lowest:
			p.Lowest = version
		}
	}
	return p
}
