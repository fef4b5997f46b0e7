package label

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/miotfacts/miotfacts/advisory"
)

// An Inspection is how the best-before-inspection date comes about: a base, and
// what moves it. It is signed with the label, so that everyone computes the same
// date and can see why. docs/best-before.md has a worked example.
type Inspection struct {
	Base       uint32      `cbor:"1,keyasint" toml:"base_days"`                   // days from the start to the inspection before anything moves it
	Parameters []Parameter `cbor:"2,keyasint" toml:"parameter"`                   //
	Components []Component `cbor:"3,keyasint,omitempty" toml:"component"`         // the one with the shortest life bounds the date
	DailyUse   uint8       `cbor:"4,keyasint,omitempty" toml:"use_hours_per_day"` // 1 to 24; with components
}

// A Parameter moves the date by Days for each whole Per of its amount, by no
// more than Limit.
type Parameter struct {
	Kind      Kind      `cbor:"1,keyasint" toml:"kind"`
	Direction Direction `cbor:"2,keyasint" toml:"direction"`
	Per       uint32    `cbor:"3,keyasint" toml:"per"`             // of the kind's unit, 1 or more
	Days      uint32    `cbor:"4,keyasint" toml:"days"`            // the weight
	Limit     uint32    `cbor:"5,keyasint" toml:"limit"`           // days
	Value     *uint32   `cbor:"6,keyasint,omitempty" toml:"value"` // what the manufacturer declares; what is observed counts before it; none for update_promised
	Reason    string    `cbor:"7,keyasint" toml:"reason"`
}

// A Component wears out.
type Component struct {
	Name string `cbor:"1,keyasint" toml:"name"`
	Life uint32 `cbor:"2,keyasint" toml:"life_hours"` // of operation
}

// Direction is where a parameter moves the date.
type Direction uint8

// The directions.
const (
	Later   Direction = 1
	Earlier Direction = 2
)

func directionNames() []string { return []string{"", "later", "earlier"} }

// UnmarshalText reads "later" or "earlier".
func (d *Direction) UnmarshalText(text []byte) error { return choose(d, text, directionNames()) }

// A Kind is what a parameter counts.
type Kind uint8

// The kinds. Their numbers are never reused.
const (
	UpdatePromised Kind = 1  // days between two updates, promised
	UpdateObserved Kind = 2  // days between two updates, as seen
	StillSold      Kind = 3  // 1: the product is sold, 0: it is not
	LineExists     Kind = 4  // 1: the product line goes on, 0: it does not
	NewVariants    Kind = 5  // new product variants of the manufacturer since this one
	AverageLife    Kind = 6  // days that products of this manufacturer live on average
	OperatingHours Kind = 7  // hours
	HotHours       Kind = 8  // hours above the temperature that the reason names
	FlashWear      Kind = 9  // per mille of the life of the flash memory
	BatteryCycles  Kind = 10 // full cycles
	CriticalFlaws  Kind = 11 // open vulnerabilities of severity critical
	HighFlaws      Kind = 12 // of severity high
	MediumFlaws    Kind = 13 // of severity medium
	LowFlaws       Kind = 14 // of severity low
)

func kindNames() []string {
	return []string{"", "update_promised", "update_observed", "still_sold", "line_exists", "new_variants", "average_life",
		"operating_hours", "hot_hours", "flash_wear", "battery_cycles", "flaws_critical", "flaws_high", "flaws_medium", "flaws_low"}
}

func (k Kind) String() string { return nameOf(kindNames(), int(k)) }

// UnmarshalText reads the name of a kind.
func (k *Kind) UnmarshalText(text []byte) error { return choose(k, text, kindNames()) }

// direction returns the only direction in which more of k may move the date, 0
// where the manufacturer may choose: no label may reward wear or flaws.
func (k Kind) direction() Direction {
	switch k {
	case StillSold, LineExists, AverageLife:
		return Later
	case NewVariants:
		return 0
	}
	return Earlier
}

// An Observation is what the holder of one device knows of it. Nothing of it is
// needed: what is not known is said to be so, and moves nothing.
type Observation struct {
	Model        string           // as in the label; "" fits any
	Device       string           // its name for people; no patient's
	On           Day              // the day of the observation; 0: none was made
	Purchased    Day              // the start where the label has no day of manufacture
	SupportEnded Day              // the day on which support has ended, if before what was promised
	Inspected    Day              // the day of the last inspection, from which the term begins anew; 0: none was made
	InspectedBy  string           // who answers for that inspection
	Amounts      map[Kind]uint32  // in the unit of the kind
	Temperature  []HoursAbove     // the lowest bound first
	Flaws        *advisory.Result // what advisories say of its software; nil: not compared
	basis        map[Kind]basis   // how amounts came about
}

// A basis says in words how an amount came about. It holds for that amount only.
type basis struct {
	amount uint32
	why    string
}

// A Step is one line of the explanation.
type Step struct {
	What  string // kind of a parameter, or "inspected", "base", "support", "component", "start"
	Days  int64  // by how much it moves the date
	Known bool   // false: no amount is known, it moves nothing
	Why   string // in words, the amount and the weight included
}

// A Date is a best-before-inspection date with its explanation: Start plus the
// days of all steps is Inspect.
type Date struct {
	Start, Inspect Day
	Steps          []Step
	Negative       []string // why the label counts as negative whatever the date is
}

// Explain writes the date down line by line.
func (d Date) Explain() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-16s %s\n", "start", d.Start)
	for _, s := range d.Steps {
		fmt.Fprintf(&b, "%-16s %+5d days   %s\n", s.What, s.Days, s.Why)
	}
	fmt.Fprintf(&b, "%-16s %s\n", "inspect", d.Inspect)
	for _, n := range d.Negative {
		fmt.Fprintf(&b, "NEGATIVE: %s\n", n)
	}
	return b.String()
}

// ErrNoStart says that neither the label nor the observation has a day to begin
// with.
var ErrNoStart = errors.New("no day of manufacture in the label and no day of purchase known")

// ErrModel says that an observation is of another model than the label.
var ErrModel = errors.New("an observation of another model")

const never = int64(1) << 40 // days; far behind every date

// BestBefore returns the day on which the device is to be inspected next. It depends
// on nothing but l and o. A worse amount never moves it to a later day, and an
// inspection never to an earlier one.
func (l *Label) BestBefore(o Observation) (Date, error) {
	d := Date{Start: l.Made}
	if d.Start == 0 {
		d.Start = o.Purchased
	}
	if o.Model != "" && o.Model != l.Model {
		return d, fmt.Errorf("cannot compute best-before-inspection date: %w: it is of %s", ErrModel, o.Model)
	}
	if d.Start == 0 {
		return d, fmt.Errorf("cannot compute best-before-inspection date: %w", ErrNoStart)
	}
	began := d.Start // of the term
	if o.Inspected != 0 {
		switch began = o.Inspected; {
		case began < d.Start:
			return d, fmt.Errorf("cannot compute best-before-inspection date: inspected on %s, before the start on %s", began, d.Start)
		case o.On != 0 && began > o.On:
			return d, fmt.Errorf("cannot compute best-before-inspection date: inspected on %s, after the day of the observation, %s", began, o.On)
		}
	}
	days := int64(0)
	step := func(what string, by int64, known bool, format string, args ...any) {
		days += by
		d.Steps = append(d.Steps, Step{what, by, known, fmt.Sprintf(format, args...)})
	}
	if o.Inspected != 0 {
		step("inspected", int64(began-d.Start), true, "on %s by %s: the term begins anew", began, o.InspectedBy)
	}
	step("base", int64(l.Inspection.Base), true, "%d days from %s", l.Inspection.Base, began)
	for _, p := range l.Inspection.Parameters {
		amount, by, known := l.amount(p, o)
		if !known {
			step(p.Kind.String(), 0, false, "not known; %s", p.Reason)
			continue
		}
		// Both factors are below 2^32, so the product fits.
		move := min(int64(amount/p.Per)*int64(p.Days), int64(p.Limit))
		if p.Direction == Earlier {
			move = -move
		}
		step(p.Kind.String(), move, true, "%d %s: %d days %s for each %d, at most %d; %s",
			amount, by, p.Days, directionNames()[p.Direction], p.Per, p.Limit, p.Reason)
	}
	for k := StillSold; k <= LowFlaws; k++ {
		if n, _ := o.amount(k); n > 0 && !l.weighs(k) && k != OperatingHours && k != FlashWear { // these bound the date below
			step(k.String(), 0, true, "%d observed; the label gives it no weight", n)
		}
	}
	if n, as := l.unrated(o); n > 0 && as == 0 {
		step("flaws", 0, true, "%d observed, severity not appraised; the label gives it no weight", n)
	}
	bound := func(what string, at int64, format string, args ...any) {
		at = max(at, int64(began))
		if days > at-int64(d.Start) {
			step(what, at-int64(d.Start)-days, true, format, args...)
		}
	}
	support := l.support(o)
	bound("support", int64(support), "not after support ends on %s", support)
	name, worn := l.wornOut(d.Start, o)
	bound("component", worn, "not after %s wears out on %s", name, Day(max(min(worn, maxDay), int64(d.Start))))
	if gone := int64(began - d.Start); days < gone {
		before := "the start"
		if o.Inspected != 0 {
			before = "the inspection"
		}
		step("start", gone-days, true, "not before %s", before)
	}
	d.Inspect = d.Start + Day(days)

	d.Negative = l.negative(o)
	return d, nil
}

// support returns the last day of security support.
func (l *Label) support(o Observation) Day {
	if o.SupportEnded != 0 {
		return min(l.Updates.SupportUntil, o.SupportEnded)
	}
	return l.Updates.SupportUntil
}

// negative says why the label counts as negative, in the words of the paper's section
// V-B: there is no support any more, or no continuous updates.
func (l *Label) negative(o Observation) []string {
	var why []string
	if support := l.support(o); o.On != 0 && o.On > support {
		why = append(why, fmt.Sprintf("support has ended on %s", support))
	}
	if n, ok := o.Amounts[UpdateObserved]; ok && n > l.Updates.Every {
		why = append(why, fmt.Sprintf("updates come every %d days, promised were %d%s", n, l.Updates.Every, o.because(UpdateObserved)))
	}
	return why
}

// unbounded returns the days from a start that is not known yet to the
// inspection, before any bound.
func (l *Label) unbounded() int64 {
	free := *l
	free.Made, free.Updates.SupportUntil, free.Inspection.Components = 1, maxDay, nil
	d, err := free.BestBefore(Observation{})
	if err != nil {
		return int64(l.Inspection.Base)
	}
	return int64(d.Inspect - d.Start)
}

// amount returns the amount of p and who says so.
func (l *Label) amount(p Parameter, o Observation) (uint32, string, bool) {
	if p.Kind == UpdatePromised {
		return l.Updates.Every, "promised", true
	}
	if n, ok := o.amount(p.Kind); ok {
		by := "observed"
		if b := o.basis[p.Kind]; b.why != "" && b.amount == n {
			by += " (" + b.why + ")"
		}
		if more, as := l.unrated(o); more > 0 && as == p.Kind {
			n, by = uint32(min(int64(n)+int64(more), math.MaxUint32)), fmt.Sprintf("observed, %d of them not appraised", more)
		}
		return n, by, true
	}
	if n, by, ok := o.hot(p.Reason); ok && p.Kind == HotHours {
		return n, by + " observed", true
	}
	if p.Value != nil {
		return *p.Value, "declared", true
	}
	return 0, "", false
}

// amount returns what was observed of k; of what a person counted and what
// advisories say the worse.
func (o Observation) amount(k Kind) (uint32, bool) {
	n, ok := o.Amounts[k]
	if o.Flaws != nil && k >= CriticalFlaws && k <= LowFlaws {
		return max(n, o.open(k)), true
	}
	return n, ok
}

// because returns how an amount came about, behind a comma.
func (o Observation) because(k Kind) string {
	if b := o.basis[k]; b.why != "" && b.amount == o.Amounts[k] {
		return ", " + b.why
	}
	return ""
}

// wornOut returns the component with the shortest life and the day on which it
// ends. Without hours of operation the declared daily use counts from start. The
// flash memory ends where it wears on at the pace that was observed.
func (l *Label) wornOut(start Day, o Observation) (string, int64) {
	name, end := "", never
	for _, c := range l.Inspection.Components {
		at := int64(start) + int64(c.Life)/int64(l.Inspection.DailyUse)
		if hours, ok := o.Amounts[OperatingHours]; ok && o.On != 0 {
			at = int64(o.On) + (int64(c.Life)-int64(hours))/int64(l.Inspection.DailyUse)
		}
		if at < end {
			name, end = c.Name, at
		}
	}
	if wear := o.Amounts[FlashWear]; wear > 0 && o.On > start {
		if at := int64(start) + int64(o.On-start)*1000/int64(wear); at < end {
			name, end = "the flash memory", at
		}
	}
	return name, end
}

// Tasks are what to do on the day, in the words of the paper's section V-B. The
// day is never a reason to throw the device away.
func Tasks(lang Lang) []string {
	return []string{
		lang.say("Check that the firmware is up to date.", "Prüfen, ob die Firmware aktuell ist."),
		lang.say("Restart the device and compare the boot with the manufacturer's integration values.", "Gerät neu starten und den Startvorgang mit den Integrationswerten des Herstellers vergleichen."),
		lang.say("Ask whether the manufacturer still gives support and updates.", "Klären, ob der Hersteller noch Support und Updates leistet."),
		lang.say("Renew the threat model.", "Bedrohungsmodell erneuern."),
		lang.say("Run the maturity model again.", "Reifegradmodell erneut durchführen."),
	}
}
