package eventlog

import "slices"

// Predict is the log of a boot that has not been: the firmware's part of another
// boot's log, and in place of its loader, kernel, initial RAM disk and command
// line the events of a system, in bank SHA-256. Without a base the firmware is
// taken to do only what PFP 1.06, 10.4.2, has it do for what it starts.
//
// The base must be of the same firmware, started in the same way: programs before
// those that the system has (shim, a boot menu) are kept.
func Predict(base *Log, system []Event) *Log {
	out := &Log{Format: TCG2, Banks: []Bank{SHA256}}
	if base == nil {
		base = minimal(system)
	}
	out.locality = base.locality
	waiting := map[int][]Event{} // by PCR, in order
	for _, e := range system {
		waiting[e.PCR] = append(waiting[e.PCR], e)
	}
	replaced := map[int]bool{4: true, 8: true, 9: true, 11: true, 12: true, 13: true}
	for pcr := range waiting {
		replaced[pcr] = true
	}
	components := base.components()
	drop := func(i int) bool {
		e := &base.Events[i]
		return e.extends() && replaced[e.PCR] && components[i] >= Loader
	}
	before := -len(waiting[4]) // programs of the base that the system has none for
	for i := range base.Events {
		if drop(i) && base.Events[i].PCR == 4 {
			before++
		}
	}
	for i, e := range base.Events {
		switch {
		case !drop(i):
			out.Events = append(out.Events, e)
		case e.PCR == 4 && before > 0:
			before--
			out.Events = append(out.Events, e)
		case len(waiting[e.PCR]) > 0:
			out.Events = append(out.Events, waiting[e.PCR][0])
			waiting[e.PCR] = waiting[e.PCR][1:]
		}
	}
	for _, e := range system {
		if left := waiting[e.PCR]; len(left) > 0 && left[0].Digest(SHA256) != nil && string(left[0].Digest(SHA256)) == string(e.Digest(SHA256)) {
			out.Events = append(out.Events, e)
			waiting[e.PCR] = left[1:]
		}
	}
	return out
}

// minimal is what a firmware measures around an EFI program, if it starts any.
func minimal(system []Event) *Log {
	log := &Log{Format: TCG2, Banks: []Bank{SHA256}}
	if !slices.ContainsFunc(system, func(e Event) bool { return e.PCR == 4 }) {
		return log
	}
	for _, e := range []Event{
		{PCR: 4, Type: EFIAction, Data: []byte("Calling EFI Application from Boot Option")},
		{PCR: 4, Type: Separator, Data: []byte{0, 0, 0, 0}},
	} {
		e.Digests = []Digest{{SHA256, SHA256.sum(e.Data)}}
		log.Events = append(log.Events, e)
	}
	return log
}

// Measures says whether the log extends something of a component into a PCR.
func (l *Log) Measures(pcr int, c Component) bool {
	for i, of := range l.components() {
		if e := &l.Events[i]; of == c && e.PCR == pcr && e.extends() {
			return true
		}
	}
	return false
}
