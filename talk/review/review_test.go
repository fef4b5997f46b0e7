package review_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/talk"
	"github.com/miotfacts/miotfacts/talk/capture"
	"github.com/miotfacts/miotfacts/talk/mmdb"
	"github.com/miotfacts/miotfacts/talk/mmdb/mmdbtest"
	"github.com/miotfacts/miotfacts/talk/review"
)

var update = flag.Bool("update", false, "write the fixtures and the sample in docs")

const dir = "../../testdata/talk/"

// The networks of the fixture. The addresses are those for documentation, what
// stands there is what section VI-C says of countries and operators.
var networks = []mmdbtest.Row{
	{Prefix: "192.0.2.0/24", Country: "CA", City: "Montreal", Operator: "AMAZON-02"},
	{Prefix: "198.51.100.0/24", Country: "US", Operator: "GOOGLE"},
	{Prefix: "203.0.113.0/24", Country: "US", Operator: "AMAZON-AES"},
}

// A visit is a connection of the fixture.
type visit struct {
	name, addr string
	version    uint16
}

// The nine names of section VI-C: two of the wireless scanner's app, where the
// maker's and the star stand for names that the paper does not give, and seven of
// the wired one's.
var scanners = map[string][]visit{
	"wireless": {
		{"cloud.scanner-a.example", "192.0.2.10", talk.VersionTLS12},
		{"any.amazonaws.com", "192.0.2.11", talk.VersionTLS12},
	},
	"wired": {
		{"firebase-settings.crashlytics.com", "198.51.100.10", talk.VersionTLS13},
		{"firebaseinstallations.googleapis.com", "198.51.100.11", talk.VersionTLS13},
		{"crashlyticsreports-pa.googleapis.com", "198.51.100.12", talk.VersionTLS13},
		{"clientstream.launchdarkly.com", "203.0.113.10", talk.VersionTLS12},
		{"mobile.launchdarkly.com", "203.0.113.11", talk.VersionTLS12},
		{"firehose.us-east-1.amazonaws.com", "203.0.113.12", talk.VersionTLS12},
		{"cdn-settings.segment.com", "203.0.113.13", talk.VersionTLS12},
	},
}

func be16(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

// hello makes the record of a ClientHello that asks for a name.
func hello(name string) []byte {
	entry := slices.Concat([]byte{0}, be16(len(name)), []byte(name))
	ext := slices.Concat(be16(0), be16(len(entry)+2), be16(len(entry)), entry)
	return record(1, slices.Concat(be16(0x0303), make([]byte, 32), []byte{0, 0, 2, 0x13, 1, 1, 0}, be16(len(ext)), ext))
}

func serverHello(version uint16) []byte {
	body := slices.Concat(be16(0x0303), make([]byte, 32), []byte{0, 0xc0, 0x2f, 0})
	if version == talk.VersionTLS13 {
		body = slices.Concat(be16(0x0303), make([]byte, 32), []byte{0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4})
	}
	return record(2, body)
}

func record(kind byte, body []byte) []byte {
	return slices.Concat([]byte{22, 3, 3}, be16(len(body)+4), []byte{kind, 0}, be16(len(body)), body)
}

// write makes the capture of a scanner's app.
func write(visits []visit) []byte {
	var b bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	for _, v := range []any{uint32(0xa1b2c3d4), uint16(2), uint16(4), uint64(0), uint32(65535), uint32(101)} {
		put(v)
	}
	clock := uint32(0)
	phone := netip.MustParseAddr("10.0.0.5")
	for i, v := range visits {
		server := netip.MustParseAddr(v.addr)
		seq := [2]uint32{100, 5000}
		segment := func(up bool, flags byte, payload []byte) {
			from, to, a, z, side := phone, server, 40000+i, 443, 0
			if !up {
				from, to, a, z, side = server, phone, 443, 40000+i, 1
			}
			tcp := slices.Concat(be16(a), be16(z), binary.BigEndian.AppendUint32(nil, seq[side]), make([]byte, 4), []byte{0x50, flags}, make([]byte, 6), payload)
			ip := slices.Concat([]byte{0x45, 0}, be16(20+len(tcp)), []byte{0, 0, 0, 0, 64, 6, 0, 0}, from.AsSlice(), to.AsSlice(), tcp)
			seq[side] += uint32(len(payload) + int(flags>>1&1))
			clock++
			for _, x := range []any{uint32(1798761600), clock * 1000, uint32(len(ip)), uint32(len(ip)), ip} {
				put(x)
			}
		}
		segment(true, 2, nil)
		segment(false, 0x12, nil)
		segment(true, 0x10, hello(v.name))
		segment(false, 0x10, serverHello(v.version))
		segment(true, 0x10, append([]byte{23, 3, 3, 1, 0}, make([]byte, 256)...))
		segment(true, 0x11, nil)
		segment(false, 0x11, nil)
	}
	return b.Bytes()
}

func golden(t *testing.T, file string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Errorf("%s is not what the code makes; go test ./talk/review -update", file)
	}
}

func sources(t *testing.T) review.Sources {
	t.Helper()
	table, err := mmdb.Open(mmdbtest.Table(24, networks))
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile("../../configs/talk-parties-example.toml")
	if err != nil {
		t.Fatal(err)
	}
	parties, err := review.ReadParties(data)
	if err != nil {
		t.Fatal(err)
	}
	return review.Sources{Tables: []*mmdb.Table{table}, Parties: parties}
}

func seen(t *testing.T, file []byte) *talk.Record {
	t.Helper()
	r, err := capture.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	table := talk.NewTable(talk.Workbench())
	for {
		p, err := r.Next()
		if err == io.EOF {
			return table.Record(0)
		}
		if err != nil {
			t.Fatal(err)
		}
		table.Add(p)
	}
}

// Section VI-C again, from captures: the names, their countries, TLS 1.2 or
// higher throughout, and how many companies are not the manufacturer.
func TestSectionVIC(t *testing.T) {
	s := sources(t)
	golden(t, dir+"networks.mmdb", mmdbtest.Table(24, networks))
	var sample strings.Builder
	names := 0
	for _, c := range []struct {
		scanner, maker, country string
		others                  []string
	}{
		{"wireless", "Scanner maker A", "CA", []string{"Amazon"}},
		{"wired", "Scanner maker B", "US", []string{"Amazon", "Google", "LaunchDarkly", "Segment"}},
	} {
		file := write(scanners[c.scanner])
		golden(t, dir+c.scanner+".pcap", file)
		s.Parties.Manufacturer = c.maker
		r, err := review.Make(seen(t, file), s)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(r.Others, c.others) {
			t.Errorf("%s: other companies %v, want %v", c.scanner, r.Others, c.others)
		}
		if len(r.Findings) != 0 {
			t.Errorf("%s: %v", c.scanner, r.Findings)
		}
		for _, v := range scanners[c.scanner] {
			if !slices.ContainsFunc(r.Peers, func(p review.Row) bool { return p.Name == v.name && p.Country == c.country }) {
				t.Errorf("%s: no %s in %s", c.scanner, v.name, c.country)
			}
		}
		names += len(r.Peers)
		sample.WriteString("$ factsctl talk --pcap " + c.scanner + ".pcap --table networks.mmdb --parties parties.toml\n" + r.Text() + "\n")
	}
	if names != 9 {
		t.Errorf("%d names, the paper has nine", names)
	}
	golden(t, "../../docs/talk-example.txt", []byte(sample.String()))

	// Derived: with nothing known of domains, only who runs the networks is left.
	s.Parties = &review.Parties{}
	r, err := review.Make(seen(t, write(scanners["wired"])), s)
	if err != nil || !slices.Equal(r.Others, []string{"AMAZON-AES", "GOOGLE"}) {
		t.Errorf("without parties: %v, %v", r.Others, err)
	}
}

// The record that factstalk would keep on the wired scanner: the fixture of
// factsctl talk --record.
func TestDeviceRecord(t *testing.T) {
	r := seen(t, write(scanners["wired"]))
	for i := range r.Peers {
		r.Peers[i].Process, r.Peers[i].Unit = "scannerd", "system.slice/scanner.service"
	}
	r.Loss.Dropped, r.Loss.Expired = 3, 12
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "record")
	if err := durable.Write(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	framed, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, dir+"wired.record", framed)
	report, err := review.Make(r, sources(t))
	if err != nil {
		t.Fatal(err)
	}
	page, err := report.HTML()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<th scope=\"col\">Unit</th>", "<td>scannerd</td><td>system.slice/scanner.service</td>"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page has no %s", want)
		}
	}
}

func TestAgainstLabel(t *testing.T) {
	wired := seen(t, write(scanners["wired"]))
	full := []label.Place{{Country: "US", By: "Google"}, {Country: "US", By: "LaunchDarkly"}, {Country: "US", By: "Segment"}, {Country: "US", By: "Amazon Web Services"}}
	for _, c := range []struct {
		what   string
		places []label.Place
		tables bool
		want   map[review.Code]int
	}{
		{"all declared", full, true, map[review.Code]int{}},
		{"declared EU, talks to US", []label.Place{{Country: "IT", By: "Amazon"}, {Country: "NL"}}, true, map[review.Code]int{review.CountryUndeclared: 7, review.PartyUndeclared: 6}},
		{"one party hidden", full[:3], true, map[review.Code]int{review.PartyUndeclared: 4}},
		{"nothing known", full, false, map[review.Code]int{review.CountryUnknown: 7}},
	} {
		s := sources(t)
		s.Label = &label.Label{Vendor: "Scanner maker B", Cloud: c.places}
		if !c.tables {
			s.Tables = nil
		}
		r, err := review.Make(wired, s)
		if err != nil {
			t.Fatal(err)
		}
		got := map[review.Code]int{}
		for _, f := range r.Findings {
			got[f.Code]++
		}
		for _, code := range []review.Code{review.CountryUndeclared, review.CountryUnknown, review.PartyUndeclared, review.PartyUnknown} {
			if got[code] != c.want[code] {
				t.Errorf("%s: %d findings %s, want %d: %v", c.what, got[code], code, c.want[code], r.Findings)
			}
		}
	}
}

func TestProtection(t *testing.T) {
	old := &talk.Record{Version: 1, Peers: []talk.Peer{
		{Protocol: talk.TCP, Address: []byte{198, 51, 100, 1}, Port: 443, Security: talk.SecurityTLS, TLS: talk.VersionTLS10, Attempts: 1},
		{Protocol: talk.TCP, Address: []byte{198, 51, 100, 1}, Port: 80, Security: talk.SecurityNone, Attempts: 1},
	}}
	r, err := review.Make(old, review.Sources{})
	if err != nil || len(r.Findings) != 2 || r.Findings[0].Code != review.OldTLS || r.Findings[1].Code != review.NotTLS {
		t.Errorf("%+v, %v", r.Findings, err)
	}
}

func TestReadPartiesRefuses(t *testing.T) {
	for _, text := range []string{"nonsense", "x = 1", "[[party]]\ndomains = [\"a.example\"]"} {
		if _, err := review.ReadParties([]byte(text)); err == nil {
			t.Errorf("%q passes", text)
		}
	}
}
