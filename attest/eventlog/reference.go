package eventlog

import (
	"fmt"
	"slices"
	"strings"
)

// A Group is a part of a machine that is replaced as a whole, such as its
// firmware, or kernel with initial RAM disk and command line. A sound boot has
// one version of each group, and nothing else.
type Group struct {
	Name     string
	Versions []Version
}

// A Version is one sound state of a group: a release, or the slot of an A/B
// pair.
type Version struct {
	Name   string
	Events []Expected // in the order of the log
}

// An Expected is one event of a version.
type Expected struct {
	PCR       int
	Component Component
	Digest    []byte // in the bank that is compared; nil: whatever is measured as Subject
	Subject   string // what was measured, as Explain says it
	Value     string // what it was, for words; nothing is compared with it
	Optional  bool   // a sound boot may go without it, such as a phase that is yet to come
}

// A Deviation is one thing that is not as the reference says.
type Deviation struct {
	PCR       int
	Component Component
	Text      string // "the kernel command line gained init=/bin/sh"
}

// A Match is what a comparison with a reference came to.
type Match struct {
	Versions   []string    // of each group, the one that fits best: "system 1.2.0"
	Deviations []Deviation // ascending by PCR; none: the boot is the reference's
	False      []string    // what the log says and its digests disprove
	Any        []string    // what was accepted whatever it was, "PCR 1: boot order: 0000"
}

// Match compares what booted with a reference. It looks at the PCRs that the log
// explains, all of them: what is in no version deviates. Claims are as in
// Explain.
//
// Digests are compared, as a set for each PCR, and their order within each
// version. A word of the log decides nothing.
func (v *Verified) Match(reference []Group, claims ...string) Match {
	m := &matcher{left: map[string][]Line{}, explained: v.explained}
	for _, line := range v.log.explain(v.bank, v.explained, claims) {
		m.left[place(line.PCR, line.Digest)] = append(m.left[place(line.PCR, line.Digest)], line)
		m.lines = append(m.lines, line)
		if line.Proof == Contradicted {
			m.match.False = append(m.match.False, line.String())
		}
	}
	var missing []lost
	var any []lost
	for _, g := range reference {
		if len(g.Versions) == 0 {
			continue
		}
		best := m.best(g)
		m.match.Versions = append(m.match.Versions, strings.TrimSpace(g.Name+" "+best.Name))
		missing, any = m.take(best, missing, any)
	}
	var rest []Line // what is in no version, in order
	for _, line := range m.lines {
		if at := place(line.PCR, line.Digest); len(m.left[at]) > 0 {
			m.left[at] = m.left[at][1:]
			rest = append(rest, line)
		}
	}
	for _, x := range any {
		i := slices.IndexFunc(rest, func(l Line) bool { return l.PCR == x.PCR && l.Subject == x.Subject })
		switch {
		case i >= 0:
			m.match.Any = append(m.match.Any, rest[i].String())
			rest = slices.Delete(rest, i, i+1)
		case !x.Optional:
			missing = append(missing, x)
		}
	}
	m.tell(missing, rest)
	slices.SortStableFunc(m.match.Deviations, func(a, b Deviation) int { return a.PCR - b.PCR })
	return m.match
}

func place(pcr int, digest []byte) string { return string(rune(pcr)) + string(digest) }

// A lost event is one that the chosen version has and the boot does not.
type lost struct {
	Expected
	version string
}

type matcher struct {
	lines     []Line
	left      map[string][]Line // not yet taken, by PCR and digest
	explained map[int]bool
	match     Match
}

func (m *matcher) deviate(pcr int, c Component, format string, args ...any) {
	m.match.Deviations = append(m.match.Deviations, Deviation{pcr, c, fmt.Sprintf(format, args...)})
}

// best returns the version of a group that lacks the fewest events, of these the
// one that has the most.
func (m *matcher) best(g Group) *Version {
	best, lack, has := &g.Versions[0], -1, 0
	for i := range g.Versions {
		v := &g.Versions[i]
		lacking, having := 0, 0
		used := map[string]int{}
		for _, e := range v.Events {
			at := place(e.PCR, e.Digest)
			switch {
			case e.Digest == nil || !m.explained[e.PCR]:
			case used[at] < len(m.left[at]):
				used[at]++
				having++
			case !e.Optional:
				lacking++
			}
		}
		if lack < 0 || lacking < lack || lacking == lack && having > has {
			best, lack, has = v, lacking, having
		}
	}
	return best
}

// take removes a version's events from those that are left.
func (m *matcher) take(v *Version, missing, any []lost) ([]lost, []lost) {
	last := map[int]int{} // the newest event of each PCR
	disorder := map[int]bool{}
	for _, e := range v.Events {
		at := place(e.PCR, e.Digest)
		switch {
		case !m.explained[e.PCR]: // told elsewhere
		case e.Digest == nil:
			any = append(any, lost{e, v.Name})
		case len(m.left[at]) > 0:
			line := m.left[at][0]
			m.left[at] = m.left[at][1:]
			if line.Event < last[e.PCR] && !disorder[e.PCR] {
				disorder[e.PCR] = true
				m.deviate(e.PCR, e.Component, "%s was measured in another order than in version %s", line.Subject, v.Name)
			}
			last[e.PCR] = line.Event
		case !e.Optional:
			missing = append(missing, lost{e, v.Name})
		}
	}
	return missing, any
}

// tell pairs what is missing with what came in its place.
func (m *matcher) tell(missing []lost, rest []Line) {
	for _, x := range missing {
		i := slices.IndexFunc(rest, func(l Line) bool { return l.PCR == x.PCR && l.Component == x.Component && l.Subject == x.Subject })
		if i < 0 {
			i = slices.IndexFunc(rest, func(l Line) bool { return l.PCR == x.PCR && l.Component == x.Component })
		}
		if i < 0 {
			m.deviate(x.PCR, x.Component, "missing: %s, which version %s has", said(x.Subject, x.Value), x.version)
			continue
		}
		m.deviate(x.PCR, x.Component, "%s", replaced(x, rest[i]))
		rest = slices.Delete(rest, i, i+1)
	}
	for _, l := range rest {
		m.deviate(l.PCR, l.Component, "%s was measured and is in no version of the reference: digest %.8x", l.Text(), l.Digest)
	}
}

func said(subject, value string) string {
	if value == "" {
		return subject
	}
	return subject + ": " + value
}

// replaced says how what was measured differs from what was expected.
func replaced(was lost, is Line) string {
	value := ""
	if is.Proof == Proved || is.Proof == ValueProved {
		value = is.Value
	}
	digests := fmt.Sprintf("digest %.8x instead of %.8x of version %s", is.Digest, was.Digest, was.version)
	switch was.Component {
	case CommandLine:
		if was.Value != "" && value != "" && value != was.Value {
			return "the kernel command line " + changedWords(was.Value, value)
		}
		return "another kernel command line, and what the device says of it does not hash to it: " + digests
	case Kernel, Initrd, Loader, Firmware:
		text := "another " + map[Component]string{Kernel: "kernel", Initrd: "initrd", Loader: "boot loader", Firmware: was.Subject}[was.Component]
		if value != "" && was.Value != "" && value != was.Value && was.Component == Firmware {
			return fmt.Sprintf("%s: %s instead of %s", text, value, was.Value)
		}
		if is.Value != "" && value == "" && is.Component != Initrd {
			text += ", which the log calls " + is.Value
		}
		return text + ": " + digests
	}
	if was.Value != "" && value != "" && was.Value != value && was.Subject == is.Subject {
		return fmt.Sprintf("%s changed from %s to %s", is.Subject, was.Value, value)
	}
	return fmt.Sprintf("%s has another content: %s", is.Subject, digests)
}

// Record returns the log's events in words that a reference is made of, for the
// PCRs of which it is true. The values are those that the digests prove.
func (v *Verified) Record(pcr func(int) bool, claims ...string) []Expected {
	var list []Expected
	for _, l := range v.log.explain(v.bank, v.explained, claims) {
		if !pcr(l.PCR) {
			continue
		}
		e := Expected{PCR: l.PCR, Component: l.Component, Digest: l.Digest, Subject: l.Subject}
		if l.Proof == Proved || l.Proof == ValueProved {
			e.Value = l.Value
		}
		e.Optional = l.Component == Userspace
		list = append(list, e)
	}
	return list
}
