// Package review says what a record of peers means: who stands behind each, in
// which country, how it was protected, and what of that the label of the device
// did not declare. Its report has the form of section VI-C of Gleissner et al.,
// "Improving IT Security of Medical IoT Devices".
//
// Countries and operators come from tables and parties from a list that somebody
// supplies, names from the device's own traffic: none of it is proved. What no
// table knows is shown as not known and never as in order.
package review

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/talk"
	"github.com/miotfacts/miotfacts/talk/mmdb"
)

// A Code names what a finding is about. Programs branch on it; it does not change.
type Code string

// The codes.
const (
	CountryUndeclared Code = "country-undeclared" // the label declares other countries
	CountryUnknown    Code = "country-unknown"    // no table knows it: not appraised
	PartyUndeclared   Code = "party-undeclared"   // the label declares other parties
	PartyUnknown      Code = "party-unknown"      // neither the list nor a table knows it: not appraised
	NotTLS            Code = "not-tls"            // a connection began without TLS
	OldTLS            Code = "old-tls"            // below TLS 1.2
)

// A Finding is something to look into.
type Finding struct {
	Code Code   `json:"code"`
	Peer string `json:"peer"`
	Text string `json:"text"`
}

// A Row is one peer.
type Row struct {
	Name     string `json:"name,omitempty"`
	Address  string `json:"address"`
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"` // "tcp" or "udp"
	Inbound  bool   `json:"inbound,omitempty"`
	Local    bool   `json:"local,omitempty"`    // a private address: no country and no party
	Owner    string `json:"owner,omitempty"`    // party that the name belongs to
	Operator string `json:"operator,omitempty"` // party that runs the network
	Country  string `json:"country,omitempty"`
	City     string `json:"city,omitempty"`
	Security string `json:"security"` // in words
	Cipher   string `json:"cipher,omitempty"`
	Issuer   string `json:"issuer"`            // of the certificate, or why it is not known
	Out      uint64 `json:"bytes_out"`         // 0 where not counted
	In       uint64 `json:"bytes_in"`          //
	Counted  bool   `json:"bytes_counted"`     //
	First    string `json:"first_seen"`        // RFC 3339
	Last     string `json:"last_seen"`         //
	Attempts uint64 `json:"attempts"`          //
	Answered uint64 `json:"answered"`          //
	Process  string `json:"process,omitempty"` //
	Unit     string `json:"unit,omitempty"`    //
}

// A Report is what a record means.
type Report struct {
	From     string    `json:"from"`
	Until    string    `json:"until"`
	Peers    []Row     `json:"peers"`
	Others   []string  `json:"other_companies"` // that are not the manufacturer, derived from owners and operators
	Findings []Finding `json:"findings"`
	Labelled bool      `json:"compared_with_label"`
	Loss     talk.Loss `json:"loss"`
}

// Sources is what a report draws on beside the record. Each may be missing.
type Sources struct {
	Tables  []*mmdb.Table
	Parties *Parties
	Label   *label.Label
}

// Make makes the report on a record.
func Make(record *talk.Record, s Sources) (*Report, error) {
	if s.Parties == nil {
		s.Parties = new(Parties)
	}
	r := &Report{From: stamp(record.From), Until: stamp(record.Until), Others: []string{}, Findings: []Finding{}, Labelled: s.Label != nil, Loss: record.Loss}
	for i := range record.Peers {
		row, err := newRow(&record.Peers[i], s)
		if err != nil {
			return nil, err
		}
		r.Peers = append(r.Peers, row)
		for _, x := range []string{row.Owner, row.Operator} {
			if x != "" && !s.isManufacturer(x) && !slices.ContainsFunc(r.Others, func(o string) bool { return s.Parties.same(o, x) }) {
				r.Others = append(r.Others, x)
			}
		}
		r.Findings = append(r.Findings, s.findings(row, &record.Peers[i])...)
	}
	slices.Sort(r.Others)
	return r, nil
}

func (s Sources) isManufacturer(party string) bool {
	if s.Parties.Manufacturer != "" && s.Parties.same(s.Parties.Manufacturer, party) {
		return true
	}
	return s.Label != nil && (s.Parties.same(s.Label.Vendor, party) || s.Parties.same(s.Label.Responsible.Name, party))
}

func stamp(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }

func newRow(p *talk.Peer, s Sources) (Row, error) {
	addr := p.Address.Addr()
	row := Row{
		Name: p.Name, Address: addr.String(), Port: p.Port, Protocol: "tcp", Inbound: p.Inbound, Local: talk.Private(addr), Issuer: issuer(p),
		Out: p.Out, In: p.In, Counted: p.Counted, First: stamp(p.First), Last: stamp(p.Last), Attempts: p.Attempts, Answered: p.Answered,
		Process: p.Process, Unit: p.Unit, Security: security(p),
	}
	if p.Protocol == talk.UDP {
		row.Protocol = "udp"
	}
	if p.Cipher != 0 {
		row.Cipher = tls.CipherSuiteName(p.Cipher)
	}
	row.Owner = s.Parties.owner(p.Name)
	if row.Local {
		return row, nil
	}
	o, err := mmdb.Find(s.Tables, addr)
	if err != nil {
		return Row{}, err
	}
	row.Country, row.City, row.Operator = plain(o.Country), plain(o.City), s.Parties.operator(plain(o.Operator))
	return row, nil
}

// plain keeps what a table says from a terminal's ears.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func security(p *talk.Peer) string {
	switch p.Security {
	case talk.SecurityNone:
		return "not TLS"
	case talk.SecurityRefused:
		return "TLS, refused"
	case talk.SecurityQUIC:
		return "QUIC, TLS 1.3"
	case talk.SecurityTLS:
		if p.TLS == 0 {
			return "TLS, version not seen"
		}
		return tls.VersionName(p.TLS)
	}
	return "not seen"
}

func issuer(p *talk.Peer) string {
	switch {
	case p.Issuer != "":
		return p.Issuer
	case p.TLS >= talk.VersionTLS13:
		return "not visible (encrypted in TLS 1.3)"
	}
	return "not seen"
}

func (r Row) title() string {
	if r.Name != "" {
		return r.Name
	}
	return r.Address
}

// findings compares one row with the label.
func (s Sources) findings(r Row, p *talk.Peer) (out []Finding) {
	add := func(c Code, format string, args ...any) {
		out = append(out, Finding{c, r.title(), fmt.Sprintf(format, args...)})
	}
	if p.Security == talk.SecurityNone {
		add(NotTLS, "a connection to port %d began without TLS", r.Port)
	}
	if p.TLS != 0 && p.TLS < talk.VersionTLS12 {
		add(OldTLS, "%s, below TLS 1.2", r.Security)
	}
	if s.Label == nil || r.Local {
		return out
	}
	var countries, parties []string
	for _, p := range slices.Concat(s.Label.Cloud, s.Label.Storage) {
		if c := string(p.Country); !slices.Contains(countries, c) {
			countries = append(countries, c)
		}
		if p.By != "" && !slices.Contains(parties, p.By) {
			parties = append(parties, p.By)
		}
	}
	switch {
	case r.Country == "":
		add(CountryUnknown, "no table knows the country of %s: not appraised", r.Address)
	case !slices.Contains(countries, r.Country):
		add(CountryUndeclared, "declared %s, talks to %s", listed(countries), r.Country)
	}
	if r.Owner == "" && r.Operator == "" {
		add(PartyUnknown, "nobody knows whose %s is: not appraised", r.Address)
	}
	for i, x := range []string{r.Owner, r.Operator} {
		if x == "" || s.isManufacturer(x) || i == 1 && x == r.Owner || slices.ContainsFunc(parties, func(d string) bool { return s.Parties.same(d, x) }) {
			continue
		}
		add(PartyUndeclared, "declared %s, talks to %s", listed(parties), x)
	}
	return out
}

func listed(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// Text returns the report for people.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Whom it talks to, seen from %s until %s\n\n", r.From, r.Until)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(r.Columns(), "\t")))
	for _, c := range r.Cells() {
		fmt.Fprintln(w, strings.Join(c, "\t"))
	}
	w.Flush()
	fmt.Fprintf(&b, "\nCompanies that are not the manufacturer: %d", len(r.Others))
	if len(r.Others) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(r.Others, ", "))
	}
	b.WriteString("\n")
	if !r.Labelled {
		b.WriteString("Not compared with a label.\n")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s: %s: %s\n", f.Code, f.Peer, f.Text)
	}
	b.WriteString(r.Lost())
	b.WriteString("\n")
	return b.String()
}

func known(s string) string {
	if s == "" {
		return "not known"
	}
	return s
}

// Columns returns the heads of what Cells returns. Only a device's own record
// knows programs.
func (r *Report) Columns() []string {
	heads := []string{"Peer", "Port", "Company", "Run by", "Country", "Protection", "Issuer", "Bytes out", "Bytes in"}
	if r.programs() {
		heads = append(heads, "Program", "Unit")
	}
	return heads
}

func (r *Report) programs() bool {
	return slices.ContainsFunc(r.Peers, func(p Row) bool { return p.Process != "" || p.Unit != "" })
}

// Cells returns the table of peers as it is printed.
func (r *Report) Cells() [][]string {
	var rows [][]string
	for _, p := range r.Peers {
		port := fmt.Sprintf("%s/%d", p.Protocol, p.Port)
		if p.Inbound {
			port = "in " + port
		}
		out, in := "not counted", "not counted"
		if p.Counted {
			out, in = fmt.Sprint(p.Out), fmt.Sprint(p.In)
		}
		country := p.Country
		switch {
		case p.Local:
			country = "local"
		case p.City != "":
			country += " (" + p.City + ")"
		}
		cells := []string{p.title(), port, known(p.Owner), known(p.Operator), known(country), p.Security, p.Issuer, out, in}
		if r.programs() {
			cells = append(cells, known(p.Process), known(p.Unit))
		}
		rows = append(rows, cells)
	}
	return rows
}

// Lost says what the report does not show.
func (r *Report) Lost() string {
	l := r.Loss
	text := fmt.Sprintf("Packets: %d seen, %d lost in the kernel, %d broken, %d fragments and %d of other protocols not looked into;\n", l.Packets, l.Dropped, l.Broken, l.Fragments, l.Other) +
		fmt.Sprintf("not shown: %d beginnings that could not be read, %d connections and %d rows given up for want of room.", l.Hellos, l.Flows, l.Peers)
	if l.Knocks+l.Names+l.Expired > 0 {
		text += fmt.Sprintf("\nNor are %d calls from outside without an answer, %d forgotten names, %d rows whose time was over.", l.Knocks, l.Names, l.Expired)
	}
	return text
}
