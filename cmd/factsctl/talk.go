package main

import (
	"errors"
	"io"
	"os"

	"github.com/miotfacts/miotfacts/talk"
	"github.com/miotfacts/miotfacts/talk/capture"
	"github.com/miotfacts/miotfacts/talk/mmdb"
	"github.com/miotfacts/miotfacts/talk/review"
	"github.com/spf13/cobra"
)

// maxTable bounds a table of countries and operators, in bytes.
const maxTable = 512 << 20

func newTalkCommand() *cobra.Command {
	var pcap, parties, labelFile string
	var tables []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "talk --pcap FILE",
		Short: "Say whom a device or an app talks to, from captured packets",
		Long: `Reads a capture (pcap or pcapng) and lists each peer: name, port, company, network,
country, TLS version, issuer of the certificate, bytes. Nothing is decrypted: in TLS
1.3 the issuer is not visible. --table names offline tables in MaxMind DB form for
countries and operators, --parties a TOML file that says whose names and networks
are (configs/talk-parties-example.toml), --label a signed label, unverified, whose
declared countries and parties are compared with what was seen. docs/talk.md says
how to capture.`,
		Example: `  factsctl talk --pcap app.pcap
  factsctl talk --pcap app.pcap --table country.mmdb --table asn.mmdb --parties parties.toml
  factsctl talk --pcap app.pcap --table country.mmdb --label scanner.label --json`,
		Args: cobra.NoArgs,
	}
	f := c.Flags()
	f.StringVar(&pcap, "pcap", "", "capture `file`, - for standard input")
	f.StringArrayVar(&tables, "table", nil, "`file` in MaxMind DB form; may be given several times")
	f.StringVar(&parties, "parties", "", "TOML `file` with companies, their domains and networks")
	f.StringVar(&labelFile, "label", "", "signed label `file` to compare with")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	required(c, "pcap")
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
		record, err := readCapture(c, pcap)
		if err != nil {
			return err
		}
		r, err := review.Make(record, s)
		if err != nil {
			return fail(exitUsage, "fetch the table again", "%w", err)
		}
		if asJSON {
			return printJSON(c.OutOrStdout(), r)
		}
		return write(c, "", []byte(r.Text()))
	}
	return c
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
