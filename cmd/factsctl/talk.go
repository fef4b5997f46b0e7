package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/talk"
	"github.com/miotfacts/miotfacts/talk/capture"
	"github.com/miotfacts/miotfacts/talk/mmdb"
	"github.com/miotfacts/miotfacts/talk/review"
	"github.com/spf13/cobra"
)

// maxTable bounds a table of countries and operators, in bytes.
const maxTable = 512 << 20

// seen is where a record of peers comes from.
type seen struct{ pcap, record string }

func (s *seen) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.pcap, "pcap", "", "capture `file`, - for standard input")
	f.StringVar(&s.record, "record", "", "`file` in which factstalk on the device keeps its record")
	c.MarkFlagsMutuallyExclusive("pcap", "record")
	c.MarkFlagsOneRequired("pcap", "record")
}

func newTalkCommand() *cobra.Command {
	var parties, labelFile, page string
	var from seen
	var tables []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "talk --pcap FILE | --record FILE",
		Short: "Say whom a device or an app talks to, from captured packets or the device's own record",
		Long: `Reads a capture (pcap or pcapng), or the record that factstalk keeps on a device, and
lists each peer: name, port, company, network, country, TLS version, issuer of the
certificate, bytes; from a record also the program and its unit. Nothing is decrypted:
in TLS 1.3 the issuer is not visible. --table names offline tables in MaxMind DB form
for countries and operators, --parties a TOML file that says whose names and networks
are (configs/talk-parties-example.toml), --label a signed label, unverified, whose
declared countries and parties are compared with what was seen. docs/talk.md says how
to capture, and how a device keeps a record.`,
		Example: `  factsctl talk --pcap app.pcap
  factsctl talk --record /var/lib/factstalk/talk.record --table country.mmdb --label pump.label
  factsctl talk --pcap app.pcap --table country.mmdb --table asn.mmdb --parties parties.toml
  factsctl talk --pcap app.pcap --table country.mmdb --label scanner.label --json`,
		Args: cobra.NoArgs,
	}
	from.flags(c)
	f := c.Flags()
	f.StringArrayVar(&tables, "table", nil, "`file` in MaxMind DB form; may be given several times")
	f.StringVar(&parties, "parties", "", "TOML `file` with companies, their domains and networks")
	f.StringVar(&labelFile, "label", "", "signed label `file` to compare with")
	f.StringVar(&page, "html", "", "`file` for the report as a page")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var s review.Sources
		for _, name := range tables {
			data, err := read(c, name, maxTable)
			if err != nil {
				return err
			}
			t, err := mmdb.Open(data)
			if err != nil {
				return fail(exitUsage, "give a table that ends with .mmdb", "%s: %w", name, err)
			}
			s.Tables = append(s.Tables, t)
		}
		if parties != "" {
			data, err := read(c, parties, maxAuthored)
			if err != nil {
				return err
			}
			if s.Parties, err = review.ReadParties(data); err != nil {
				return fail(exitUsage, "configs/talk-parties-example.toml shows the form", "%s: %w", parties, err)
			}
		}
		if labelFile != "" {
			_, l, _, err := readLabel(c, labelFile)
			if err != nil {
				return err
			}
			s.Label = l
		}
		record, err := from.read(c)
		if err != nil {
			return err
		}
		r, err := review.Make(record, s)
		if err != nil {
			return fail(exitUsage, "fetch the table again", "%w", err)
		}
		if page != "" {
			data, err := r.HTML()
			if err != nil {
				return err
			}
			if err := write(c, page, data); err != nil {
				return err
			}
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), r)
		}
		return write(c, "", []byte(r.Text()))
	}
	c.AddCommand(newTalkMUDCommand(), newTalkCheckCommand())
	return c
}

func newTalkMUDCommand() *cobra.Command {
	var url, at, out string
	var from seen
	c := &cobra.Command{
		Use:   "mud --pcap FILE | --record FILE --url URL",
		Short: "Write a MUD file of the connections that were begun",
		Long: `Writes a MUD file (RFC 8520) that allows the connections which the device began in
the capture or record, by name where one was seen. It says what was seen, not what is right:
read it before anybody enforces it.`,
		Example: `  factsctl talk mud --pcap device.pcap --url https://maker.example/device.json --out device.json`,
		Args:    cobra.NoArgs,
	}
	from.flags(c)
	f := c.Flags()
	f.StringVar(&url, "url", "", "`address` under which the file will be")
	f.StringVar(&at, "at", "", "`time` of the file, 2027-01-01 or 2027-01-01T12:00:00Z (default now)")
	f.StringVar(&out, "out", "", "`file` to write (default standard output)")
	required(c, "url")
	c.RunE = func(c *cobra.Command, _ []string) error {
		now, err := parseTime(at)
		if err != nil {
			return err
		}
		record, err := from.read(c)
		if err != nil {
			return err
		}
		data, err := review.MUD(record, url, now)
		if err != nil {
			return fail(exitUsage, "give an address that begins with https:// and a capture or record with connections of the device", "%w", err)
		}
		return write(c, out, data)
	}
	return c
}

func newTalkCheckCommand() *cobra.Command {
	var mud, mine, same, local string
	var controllers, manufacturers []string
	var from seen
	var asJSON bool
	c := &cobra.Command{
		Use:   "check --pcap FILE | --record FILE --mud FILE",
		Short: "Compare the connections that were begun with a MUD file",
		Long: `Compares the connections that the device began in the capture or record with a MUD file
(RFC 8520). Entries by name, network and groups are understood, with ranges of ports.
Whom a group stands for the file does not say: you do, by names, addresses and networks
with commas between. What matches by anything else, or by a group that nobody explained,
is shown as not appraised and allows nothing. Connections from outside are not
compared. The signature of the MUD file is not verified. It ends with exit code 1 when a
connection is not declared.`,
		Example: `  factsctl talk check --pcap device.pcap --mud device.json
  factsctl talk check --record talk.record --mud device.json \
    --controller urn:ietf:params:mud:dns=10.0.0.1 --my-controller broker.hospital.example \
    --manufacturer maker.example=cloud.maker.example,203.0.113.0/24`,
		Args: cobra.NoArgs,
	}
	from.flags(c)
	f := c.Flags()
	f.StringVar(&mud, "mud", "", "MUD `file`")
	f.StringArrayVar(&controllers, "controller", nil, "who a controller is, as `uri=machines`; may be given several times")
	f.StringVar(&mine, "my-controller", "", "`machines` that control devices of this kind")
	f.StringArrayVar(&manufacturers, "manufacturer", nil, "machines of a manufacturer, as `name=machines` with the host of its MUD files; may be given several times")
	f.StringVar(&same, "same-manufacturer", "", "`machines` of this device's manufacturer (default those of --manufacturer with the host of the MUD file)")
	f.StringVar(&local, "local-networks", "", "`networks` that are local (default private addresses)")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	required(c, "mud")
	c.RunE = func(c *cobra.Command, _ []string) error {
		data, err := read(c, mud, review.MaxMUD)
		if err != nil {
			return err
		}
		record, err := from.read(c)
		if err != nil {
			return err
		}
		m, err := meaning(controllers, manufacturers, mine, same, local)
		if err != nil {
			return err
		}
		v, err := review.CheckMUD(record, data, m)
		if err != nil {
			return fail(exitUsage, "give a MUD file in JSON, RFC 8520", "%s: %w", mud, err)
		}
		if asJSON {
			err = printJSON(c.OutOrStdout(), v)
		} else {
			var b strings.Builder
			for _, x := range v.Undeclared {
				fmt.Fprintf(&b, "undeclared: %s\n", x)
			}
			for _, x := range v.Undecided {
				fmt.Fprintf(&b, "not appraised: entry %s\n", x)
			}
			for _, x := range v.Unused {
				fmt.Fprintf(&b, "not seen: entry %s\n", x)
			}
			err = write(c, "", []byte(b.String()))
		}
		if err == nil && len(v.Undeclared) > 0 {
			return fail(exitRefused, "ask the maker, or declare them", "%d connections are not declared in %s", len(v.Undeclared), mud)
		}
		return err
	}
	return c
}

// meaning reads the flags that say whom groups of a MUD file stand for.
func meaning(controllers, manufacturers []string, mine, same, local string) (m review.Meaning, err error) {
	for _, g := range []struct {
		flag, text string
		into       *review.Machines
	}{{"my-controller", mine, &m.MyController}, {"same-manufacturer", same, &m.SameManufacturer}, {"local-networks", local, &m.Local}} {
		if g.text == "" {
			continue
		}
		if *g.into, err = review.ReadMachines(g.text); err != nil {
			return m, fail(exitUsage, "give names, addresses or networks with commas between", "--%s: %w", g.flag, err)
		}
	}
	m.Controllers, m.Manufacturers = map[string]review.Machines{}, map[string]review.Machines{}
	for _, g := range []struct {
		flag  string
		texts []string
		into  map[string]review.Machines
	}{{"controller", controllers, m.Controllers}, {"manufacturer", manufacturers, m.Manufacturers}} {
		for _, text := range g.texts {
			at := strings.LastIndexByte(text, '=') // a URI may have one as well
			if at < 1 {
				return m, fail(exitUsage, "give --"+g.flag+" NAME=MACHINES", "--%s: %q names nobody", g.flag, text)
			}
			name := text[:at]
			if g.flag == "manufacturer" {
				name = strings.ToLower(name)
			}
			machines, err := review.ReadMachines(text[at+1:])
			if err != nil {
				return m, fail(exitUsage, "give names, addresses or networks with commas between", "--%s: %w", g.flag, err)
			}
			g.into[name] = append(g.into[name], machines...)
		}
	}
	return m, nil
}

func (s *seen) read(c *cobra.Command) (*talk.Record, error) {
	if s.record == "" {
		return readCapture(c, s.pcap)
	}
	data, err := durable.Read(s.record, talk.MaxRecord)
	if errors.Is(err, durable.ErrDamaged) {
		return nil, fail(exitRefused, "give the file that factstalk wrote, as it is", "%w", err)
	}
	if err != nil {
		return nil, ioFailure(err)
	}
	record, err := talk.Decode(data)
	if err != nil {
		return nil, fail(exitRefused, "give the file that factstalk wrote, as it is", "%s: %w", s.record, err)
	}
	return record, nil
}

// readCapture reads a capture packet by packet, however large it is.
func readCapture(c *cobra.Command, name string) (*talk.Record, error) {
	in := c.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, ioFailure(err)
		}
		defer f.Close()
		in = f
	}
	r, err := capture.NewReader(in)
	if err != nil {
		return nil, fail(exitUsage, "give a file that tcpdump -w or Wireshark wrote", "%s: %w", name, err)
	}
	table := talk.NewTable(talk.Workbench())
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, capture.ErrFormat) {
			return nil, fail(exitUsage, "capture again, and end tcpdump with Ctrl-C", "%s: %w", name, err)
		}
		if err != nil {
			return nil, ioFailure(err)
		}
		table.Add(p)
	}
	if r.NotIP > 0 {
		note(c, "%d packets are not IP, or of a link type that is not read, and were left out", r.NotIP)
	}
	return table.Record(0), nil
}
