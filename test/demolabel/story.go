package main

import (
	"bytes"
	"os"
	"strings"
)

// devices are the examples, by the names of their files.
func devices() []string { return []string{"wearable", "wired", "wireless"} }

const keys = `version = 1
owner = "manufacturer"
sequence = 1
[[key]]
role = "label"
name = "EXAMPLE label signing"
file = "label.key.pub"
valid = { from = 2026-01-01, until = 2031-12-31 }
`

// at is the day of the demo.
const at = "2027-06-01"

// sign is the manufacturer's part.
func (s *story) sign() error {
	s.say("\n1. The manufacturer writes a label as text, has it checked, and signs it")
	if err := os.WriteFile(s.path("keys.toml"), []byte(keys), 0o644); err != nil {
		return err
	}
	for _, args := range [][]string{{"key", "new", "--out", "root.key"}, {"key", "new", "--out", "label.key"}, {"keys", "sign", "keys.toml", "--root", "root.key", "--out", "keys.signed"}} {
		a, err := s.factsctl(args...)
		if err != nil {
			return err
		}
		s.check(a.code == 0, "%s", strings.Join(args[:2], " "))
	}
	for _, d := range devices() {
		a, err := s.factsctl("label", "lint", d+".toml")
		if err != nil {
			return err
		}
		s.show(a.out)
		missing := strings.Count(a.out, "missing row")
		want := 4 // what the paper cannot know of the scanners
		if d == "wearable" {
			want = 0
		}
		s.check(a.code == 0 && missing == want, "%d rows missing, said with what to do about each", missing)
		if a, err = s.factsctl("label", "sign", d+".toml", "--key", "label.key", "--out", d+".label"); err != nil {
			return err
		}
		_, size, _ := strings.Cut(lastLine(a.errs), ": ")
		s.check(a.code == 0, "signed: %s", size)
	}
	return nil
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// render draws them for the box and for a page.
func (s *story) render() error {
	s.say("\n2. Drawn for the box and for a page, with the whole signed label in the code")
	for _, d := range devices() {
		for _, args := range [][]string{{d + ".png"}, {d + ".pdf", "--lang", "de"}, {d + ".html"}} {
			command := append([]string{"label", "render", d + ".label", "--out"}, args...)
			if args[0] == "wearable.html" {
				command = append(command, "--sbom", "wearable.cdx.json", "--vulnerabilities", "advisories")
			}
			a, err := s.factsctl(command...)
			if err != nil {
				return err
			}
			data, err := os.ReadFile(s.path(args[0]))
			if err != nil {
				return err
			}
			example := !strings.HasSuffix(args[0], ".html") || bytes.Contains(data, []byte("EXAMPLE")) // in pictures it is drawn
			s.check(a.code == 0 && len(data) > 1000 && example, "%s", args[0])
		}
	}
	return nil
}

// scan is anybody's part, offline.
func (s *story) scan() error {
	s.say("\n3. Anybody scans it and verifies it, offline")
	for _, d := range devices() {
		a, err := s.factsctl("label", "scan", d+".png", "--root", "root.key.pub", "--keys", "keys.signed", "--at", at, "--out", d+".scanned")
		if err != nil {
			return err
		}
		if d == "wearable" {
			s.show(a.out)
		}
		signed, err := os.ReadFile(s.path(d + ".label"))
		if err != nil {
			return err
		}
		scanned, err := os.ReadFile(s.path(d + ".scanned"))
		s.check(a.code == 0 && err == nil && bytes.Equal(signed, scanned) && strings.HasPrefix(a.out, "VERIFIED"), "%s: verified, and the same bytes that were signed", d)
	}
	signed, err := os.ReadFile(s.path("wearable.label"))
	if err != nil {
		return err
	}
	signed[bytes.Index(signed, []byte("wearable-1"))+9] ^= 1
	if err := os.WriteFile(s.path("altered.label"), signed, 0o644); err != nil {
		return err
	}
	if a, err := s.factsctl("label", "render", "altered.label", "--out", "altered.png"); err != nil || a.code != 0 {
		s.check(false, "the altered label is drawn: %s", a.errs)
		return err
	}
	a, err := s.factsctl("label", "scan", "altered.png", "--root", "root.key.pub", "--keys", "keys.signed", "--at", at)
	if err != nil {
		return err
	}
	s.show(a.errs)
	s.check(a.code == 1 && a.out == "" && strings.Contains(a.errs, "REFUSED") && strings.Contains(a.errs, "signature is not valid"), "altered by one bit: refused, with the reason")
	if a, err = s.factsctl("label", "page", "--root", "root.key.pub", "--keys", "keys.signed", "--out", "verify.html"); err != nil {
		return err
	}
	s.check(a.code == 0, "verify.html does the same in a browser, from a picture or the camera, without a network")
	return nil
}

// seen is what is known of one wearable after 15 months.
const seen = `model = "wearable-1"
device = "Infusion ward, 7"
on = 2027-06-01
[amounts]
operating_hours = 8000
[[firmware]]
version = "1.3.0"
first_seen = 2026-12-03
[[firmware]]
version = "1.4.0"
first_seen = 2027-03-03
[[temperature]]
celsius = 60
hours = 250
`

// date is the day of inspection, and what is open in the software.
func (s *story) date() error {
	s.say("\n4. When to inspect it, line by line")
	if err := os.WriteFile(s.path("ward-7.toml"), []byte(seen), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(s.path("bought.toml"), []byte("model = \"wired-scanner\"\npurchased = 2026-06-01\non = 2027-06-01\n[amounts]\nupdate_observed = 270\n"), 0o644); err != nil {
		return err
	}
	for _, c := range []struct {
		args         []string
		inspect, say string
	}{
		{[]string{"wearable.label"}, "2028-08-28", "of the label alone"},
		{[]string{"wearable.label", "--observed", "ward-7.toml", "--sbom", "wearable.cdx.json", "--vulnerabilities", "advisories", "--ics", "ward-7.ics"}, "2026-08-09", "with what was seen and what is open: two flaws count, two were taken out by the maker's VEX"},
		{[]string{"wired.label", "--observed", "bought.toml"}, "2027-01-17", "of the wired scanner, from the day it was bought: updates came late"},
	} {
		a, err := s.factsctl(append([]string{"label", "date"}, c.args...)...)
		if err != nil {
			return err
		}
		text, _, _ := strings.Cut(a.out, "\n\n- ")
		s.show(text)
		s.check(a.code == 0 && strings.Contains(text, "inspect          "+c.inspect), "%s: %s", c.inspect, c.say)
	}
	return nil
}

// talk compares whom the scanners talked to with what their labels declare.
func (s *story) talk() error {
	s.say("\n5. Whom they talk to (captures made by the tests from the names in the paper), compared with their labels")
	for _, c := range []struct {
		scanner, label, want, say string
	}{
		{"wireless", "wireless", "Companies that are not the manufacturer: 1 (Amazon)", "the wireless scanner: one company that is not the manufacturer"},
		{"wired", "wired", "Companies that are not the manufacturer: 4 (Amazon, Google, LaunchDarkly, Segment)", "the wired scanner: four companies that are not the manufacturer, derived"},
		{"wired", "wearable", "declared IT, NL, talks to US", "the same traffic behind a label that declares Italy and the Netherlands: contradicted"},
	} {
		a, err := s.factsctl("talk", "--pcap", c.scanner+".pcap", "--table", "networks.mmdb", "--parties", "parties.toml", "--label", c.label+".label")
		if err != nil {
			return err
		}
		s.show(a.out)
		s.check(a.code == 0 && strings.Contains(a.out, c.want), "%s", c.say)
	}
	return nil
}

// rank puts the makers in order.
func (s *story) rank() error {
	s.say("\n6. Which manufacturer looks after its devices: a late update makes a negative label")
	a, err := s.factsctl("label", "rank", "wearable.label", "wired.label", "wireless.label", "--observed", "ward-7.toml", "--observed", "bought.toml", "--at", at)
	if err != nil {
		return err
	}
	s.show(a.out)
	s.check(a.code == 0 && strings.Contains(a.out, "NEGATIVE: updates come every 90 days, promised were 60"), "each place with its reasons")
	return nil
}
