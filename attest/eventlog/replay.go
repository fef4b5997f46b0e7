package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"unicode/utf16"
)

// Replay extends what the log says and returns the value of each PCR that the
// log extends, in each bank that can be replayed. A log that begins after the
// firmware's, as systemd's does, is replayed from zero: use After.
func (l *Log) Replay() map[Bank]map[int][]byte {
	replay := map[Bank]map[int][]byte{}
	for _, b := range l.Banks {
		if b.Replayable() {
			replay[b] = l.replay(b)
		}
	}
	return replay
}

func (l *Log) replay(b Bank) map[int][]byte {
	pcrs := map[int][]byte{}
	for i := range l.Events {
		e := &l.Events[i]
		digest := e.Digest(b)
		if !e.extends() || digest == nil {
			continue
		}
		value := pcrs[e.PCR]
		if value == nil {
			value = make([]byte, len(digest))
			if e.PCR == 0 {
				value[len(value)-1] = byte(l.locality)
			}
		}
		pcrs[e.PCR] = b.sum(value, digest)
	}
	return pcrs
}

// Gaps lists the banks in which some event that extends a PCR has no digest.
func (l *Log) Gaps() []Bank {
	var gaps []Bank
	for _, b := range l.Banks {
		if slices.ContainsFunc(l.Events, func(e Event) bool { return e.extends() && e.Digest(b) == nil }) {
			gaps = append(gaps, b)
		}
	}
	return gaps
}

// After is l as the continuation of an earlier log of the same boot: systemd's
// log after the firmware's. Offsets stay those of each log.
func (l *Log) After(earlier *Log) *Log {
	joined := &Log{Format: l.Format, Banks: slices.Clone(earlier.Banks), Events: slices.Concat(earlier.Events, l.Events), locality: earlier.locality}
	for _, b := range l.Banks {
		if !slices.Contains(joined.Banks, b) {
			joined.Banks = append(joined.Banks, b)
		}
	}
	return joined
}

// A Proof says what an event's digest says about its data.
type Proof uint8

const (
	NotExtended  Proof = iota // nothing was extended: anybody can write this
	NotCovered                // the digest is over something else, such as a file
	Proved                    // the data hash to the digest
	ValueProved               // a value in the data does; what is around it, such as its name, is not covered
	Contradicted              // the type says they must, and they do not
)

func (p Proof) String() string {
	return [...]string{"not extended", "not covered", "proved", "value proved", "contradicted"}[p]
}

// Proof compares the event's data with its digest in bank b.
func (e *Event) Proof(b Bank) Proof {
	digest := e.Digest(b)
	if !e.extends() || digest == nil {
		return NotExtended
	}
	if !b.Replayable() {
		return NotCovered
	}
	if bytes.Equal(b.sum(e.Data), digest) {
		return Proved
	}
	for _, value := range e.values() {
		if bytes.Equal(b.sum(value), digest) {
			return ValueProved
		}
	}
	if types[e.Type].over {
		return Contradicted
	}
	return NotCovered
}

// values are the parts of the data that such an event's digest can be over.
func (e *Event) values() [][]byte {
	var list [][]byte
	switch e.Type {
	case Separator:
		// 10.4.1: after an error the data tell which, the digest is over 1.
		list = append(list, []byte{1, 0, 0, 0})
	case EFIVariableBoot: // EDK2 hashes the value alone
		if v, ok := readVariable(e.Data); ok {
			list = append(list, v.data)
		}
	case EFIVariableAuthority: // shim 15 logs remains of its memory behind the variable, and hashes all but one byte of them
		if v, ok := readVariable(e.Data); ok && v.size < len(e.Data) {
			list = append(list, e.Data[:len(e.Data)-1])
		}
	case EventTag:
		if tag, ok := readTag(e.Data); ok {
			list = append(list, tag.data)
		}
	case IPL, CompactHash, 0:
		text := bytes.TrimRight(e.Data, "\x00")
		list = append(list, text)
		for _, p := range grubPrefixes { // GRUB hashes what follows, Red Hat's with the zero
			if rest, ok := bytes.CutPrefix(text, []byte(p.prefix)); ok {
				list = append(list, rest, e.Data[len(p.prefix):])
			}
		}
		if text, ok := decodeUTF16(e.Data); ok { // systemd-stub hashes a section's name in ASCII
			list = append(list, append([]byte(text), 0))
		}
	}
	return list
}

// isError says whether a separator stands for an error (10.4.1).
func (e *Event) isError() bool {
	if e.Type != Separator || bytes.Equal(e.Data, []byte{0, 0, 0, 0}) || bytes.Equal(e.Data, []byte{0xff, 0xff, 0xff, 0xff}) {
		return false
	}
	// Windows separates with the text "WBCL"; what was hashed decides.
	for _, d := range e.Digests {
		if d.Bank.Replayable() && bytes.Equal(d.Bank.sum([]byte{1, 0, 0, 0}), d.Value) {
			return true
		}
	}
	return false
}

// encodings are the bytes that a text can have been measured as.
func encodings(text string) [][]byte {
	var wide []byte
	for _, u := range utf16.Encode([]rune(text)) {
		wide = binary.LittleEndian.AppendUint16(wide, u)
	}
	return [][]byte{[]byte(text), append([]byte(text), 0), wide, append(slices.Clone(wide), 0, 0)}
}

// Verified is a log that was compared with PCR values. Only Verify makes one.
type Verified struct {
	log         *Log
	bank        Bank
	explained   map[int]bool
	unexplained map[int]string // why
}

// Verify compares the log's replay with PCR values of one bank. The values must
// come out of a quote that was verified, all of them inside its selection: what
// is not in pcrs stays unproved. A PCR that the log does not touch is explained
// when it has the value of a reset.
//
// It is an error when the comparison cannot be made. That a log does not
// explain a PCR is a result: see Unexplained.
func (l *Log) Verify(bank Bank, pcrs map[int][]byte) (*Verified, error) {
	switch {
	case !bank.Replayable():
		return nil, fmt.Errorf("cannot verify event log: no hash for bank %v", bank)
	case !slices.Contains(l.Banks, bank):
		return nil, fmt.Errorf("cannot verify event log: it has banks %v, not %v", l.Banks, bank)
	case len(pcrs) == 0:
		return nil, fmt.Errorf("cannot verify event log: no PCR values to compare with")
	}
	v := &Verified{l, bank, map[int]bool{}, map[int]string{}}
	replay := l.replay(bank)
	size := banks[bank.index()].size
	for pcr, value := range pcrs {
		if pcr < 0 || pcr > maxPCR || len(value) != size {
			return nil, fmt.Errorf("cannot verify event log: value of %d bytes for PCR %d", len(value), pcr)
		}
		got, logged := replay[pcr]
		switch {
		case logged && bytes.Equal(got, value), !logged && isReset(pcr, value):
			v.explained[pcr] = true
		case logged:
			v.unexplained[pcr] = fmt.Sprintf("the log replays to %x, the PCR is %x", got, value)
		default:
			v.unexplained[pcr] = fmt.Sprintf("the log has nothing for it, the PCR is %x", value)
		}
	}
	return v, nil
}

// isReset says whether value is what the PCR has before anything is measured
// (PFP 1.06, 4.6.2: those of the dynamic root of trust begin with ones).
func isReset(pcr int, value []byte) bool {
	first := value[0]
	if first != 0 && (first != 0xff || pcr < 17 || pcr > 22) {
		return false
	}
	return bytes.Equal(value, bytes.Repeat([]byte{first}, len(value)))
}

// Bank is the bank that was compared.
func (v *Verified) Bank() Bank { return v.bank }

// Explained lists the PCRs whose value the log explains, ascending.
func (v *Verified) Explained() []int { return slices.Sorted(maps.Keys(v.explained)) }

// Unexplained says for each PCR that the log does not explain why not.
func (v *Verified) Unexplained() map[int]string { return maps.Clone(v.unexplained) }

// Complete says whether every PCR that was compared is explained.
func (v *Verified) Complete() bool { return len(v.unexplained) == 0 }

// A VerifiedEvent was extended in this place of the log.
type VerifiedEvent struct {
	Event
	Proof Proof // what is known about Data
}

// Events lists the events of explained PCRs, in order. Events that extended
// nothing in the bank are not among them.
func (v *Verified) Events() []VerifiedEvent {
	var list []VerifiedEvent
	for _, e := range v.log.Events {
		if v.explained[e.PCR] && e.extends() && e.Digest(v.bank) != nil {
			list = append(list, VerifiedEvent{e, e.Proof(v.bank)})
		}
	}
	return list
}

// Head is the log up to its nth event: a log goes on while a quote is taken.
func (l *Log) Head(n int) *Log {
	head := *l
	head.Events = l.Events[:min(n, len(l.Events))]
	return &head
}

// Only is v without the PCRs that are not in the list.
func (v *Verified) Only(pcrs []int) *Verified {
	only := &Verified{v.log, v.bank, map[int]bool{}, map[int]string{}}
	for _, pcr := range pcrs {
		if v.explained[pcr] {
			only.explained[pcr] = true
		}
		if why, ok := v.unexplained[pcr]; ok {
			only.unexplained[pcr] = why
		}
	}
	return only
}
