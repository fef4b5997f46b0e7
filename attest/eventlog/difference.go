package eventlog

import (
	"fmt"
	"slices"
	"strings"
)

// A Change is one difference between two boots.
type Change struct {
	PCR  int
	Text string // "the kernel command line gained init=/bin/sh"
}

func (c Change) String() string { return fmt.Sprintf("PCR %d: %s", c.PCR, c.Text) }

// Difference says in words how log differs from reference, ascending by PCR;
// it is empty when both extend the same digests in the same order into each
// PCR. It compares the logs' digests and so is worth as much as they are:
// verify both first. Claims are as in Explain, for both logs.
func Difference(reference, log *Log, claims ...string) ([]Change, error) {
	var both []Bank
	for _, b := range reference.Banks {
		if slices.Contains(log.Banks, b) && b.Replayable() && !slices.Contains(reference.Gaps(), b) && !slices.Contains(log.Gaps(), b) {
			both = append(both, b)
		}
	}
	bank, ok := log.strongest(both)
	if !ok {
		return nil, fmt.Errorf("cannot compare event logs: no bank in both of %v and %v", reference.Banks, log.Banks)
	}
	was, is := byPCR(reference.explain(bank, nil, claims)), byPCR(log.explain(bank, nil, claims))
	changes := []Change{}
	for pcr := range maxPCR + 1 {
		if pcr == 0 && reference.locality != log.locality {
			changes = append(changes, Change{0, fmt.Sprintf("the TPM started from locality %d instead of %d", log.locality, reference.locality)})
		}
		for _, text := range compare(was[pcr], is[pcr]) {
			changes = append(changes, Change{pcr, text})
		}
	}
	return changes, nil
}

func byPCR(lines []Line) map[int][]Line {
	m := map[int][]Line{}
	for _, l := range lines {
		if l.Digest != nil {
			m[l.PCR] = append(m[l.PCR], l)
		}
	}
	return m
}

// compare takes away what both have, then pairs what is left by subject. It is
// linear, where an alignment would be quadratic in what a device may send.
func compare(was, is []Line) []string {
	if slices.EqualFunc(was, is, func(a, b Line) bool { return string(a.Digest) == string(b.Digest) }) {
		return nil
	}
	lost, gained := without(was, is), without(is, was)
	if len(lost) == 0 && len(gained) == 0 {
		return []string{"the same was measured in another order"}
	}
	pairs := map[string][]Line{}
	for _, l := range gained {
		pairs[l.Subject] = append(pairs[l.Subject], l)
	}
	paired := map[int]bool{} // by event of the new log
	var texts []string
	for _, old := range lost {
		if list := pairs[old.Subject]; len(list) > 0 {
			pairs[old.Subject] = list[1:]
			paired[list[0].Event] = true
			texts = append(texts, changed(old, list[0]))
			continue
		}
		texts = append(texts, "missing: "+old.Text())
	}
	for _, l := range gained {
		if !paired[l.Event] {
			texts = append(texts, "new: "+l.Text())
		}
	}
	return texts
}

// without lists those of a whose digests b has not, or not so often.
func without(a, b []Line) []Line {
	has := map[string]int{}
	for _, l := range b {
		has[string(l.Digest)]++
	}
	var rest []Line
	for _, l := range a {
		if has[string(l.Digest)] > 0 {
			has[string(l.Digest)]--
			continue
		}
		rest = append(rest, l)
	}
	return rest
}

func changed(was, is Line) string {
	subject := is.Subject
	if strings.ToLower(subject[:1]) == subject[:1] { // no article before a name
		subject = "the " + subject
	}
	switch {
	case strings.HasSuffix(is.Subject, "command line") && was.Value != "" && is.Value != "":
		return subject + " " + changedWords(was.Value, is.Value)
	case was.Value != is.Value && was.Value != "" && is.Value != "":
		return fmt.Sprintf("%s changed from %s to %s", subject, was.Value, is.Value)
	case is.Value != "":
		return fmt.Sprintf("%s has another content: %s, digest %.8x instead of %.8x", subject, is.Value, is.Digest, was.Digest)
	}
	return fmt.Sprintf("%s has another content: digest %.8x instead of %.8x", subject, is.Digest, was.Digest)
}

// changedWords compares command lines word by word.
func changedWords(was, is string) string {
	gained, lost := wordsWithout(is, was), wordsWithout(was, is)
	var parts []string
	if len(gained) > 0 {
		parts = append(parts, "gained "+strings.Join(gained, " "))
	}
	if len(lost) > 0 {
		parts = append(parts, "lost "+strings.Join(lost, " "))
	}
	if len(parts) == 0 {
		return "has the same words in another order"
	}
	return strings.Join(parts, " and ")
}

func wordsWithout(a, b string) []string {
	has := map[string]int{}
	for _, w := range strings.Fields(b) {
		has[w]++
	}
	var rest []string
	for _, w := range strings.Fields(a) {
		if has[w] > 0 {
			has[w]--
			continue
		}
		rest = append(rest, w)
	}
	return rest
}
