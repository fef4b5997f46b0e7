package maturity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// MaxData bounds a file of observations, in bytes; one with every observation
// has less than 4 KiB.
const MaxData = 64 << 10

// An Observation is a number that somebody counted over the fleet.
type Observation struct {
	ID      string
	Max     int64  // from 0 to Max
	By      string // who can know it: "verifier", from signed reports, or "facility", from its own books
	Meaning Text   // with its unit
}

// Observations returns what a data file may hold, sorted by id.
func Observations() []Observation { return slices.Clone(observations) }

const (
	verifier = "verifier"
	facility = "facility"

	all      = 1000      // per mille of the devices that report
	maxCount = 1_000_000 // of anything in a year
	maxHours = 366 * 24
)

var observations = []Observation{
	{"boot_evidence_share", all, verifier, Text{"devices whose boot evidence a TPM quote proves, per mille", "Geräte, deren Startnachweis ein TPM-Quote belegt, in Promille"}},
	{"certificate_share", all, verifier, Text{"devices that authenticate by a certificate, per mille", "Geräte, die sich mit Zertifikat ausweisen, in Promille"}},
	{"downtime_high_hours", maxHours, verifier, Text{"longest downtime of a device of high criticality, hours begun", "längster Ausfall eines Geräts hoher Kritikalität, begonnene Stunden"}},
	{"downtime_low_hours", maxHours, verifier, Text{"longest downtime of a device of low criticality, hours begun", "längster Ausfall eines Geräts geringer Kritikalität, begonnene Stunden"}},
	{"downtime_medium_hours", maxHours, verifier, Text{"longest downtime of a device of medium criticality, hours begun", "längster Ausfall eines Geräts mittlerer Kritikalität, begonnene Stunden"}},
	{"hardware_identity_share", all, verifier, Text{"devices whose identity a certified TPM endorsement key proves, per mille", "Geräte, deren Identität ein zertifizierter Endorsement Key des TPM belegt, in Promille"}},
	{"plaintext_connections", maxCount, verifier, Text{"connections without TLS that devices were seen with", "beobachtete Verbindungen von Geräten ohne TLS"}},
	{"runtime_appraised_share", all, verifier, Text{"devices whose runtime facts are appraised and whose manifest enforces a pause, per mille", "Geräte, deren Laufzeitwerte geprüft werden und deren Manifest eine Pause erzwingt, in Promille"}},
	{"secure_boot_share", all, verifier, Text{"devices that booted with secure boot on, per mille", "Geräte, die mit eingeschaltetem Secure Boot starteten, in Promille"}},
	{"security_budget", 10_000, facility, Text{"IT security's part of the facility's budget, in 1/100 of a per cent", "Anteil der IT-Sicherheit am Budget der Einrichtung, in 1/100 Prozent"}},
	{"security_events", maxCount, facility, Text{"security-related events in the whole facility in the period", "sicherheitsrelevante Ereignisse der ganzen Einrichtung im Zeitraum"}},
	{"shared_keys", maxCount, verifier, Text{"device keys that more than one device showed", "Geräteschlüssel, die mehr als ein Gerät zeigte"}},
	{"tamper_alarm_share", all, verifier, Text{"devices that raise an alarm on tampering by themselves, per mille", "Geräte, die bei Manipulation von selbst alarmieren, in Promille"}},
	{"tamper_logged_share", all, verifier, Text{"devices whose tampering facts came in an unbroken chain of signed reports, per mille", "Geräte, deren Manipulationswerte in lückenloser Kette signierter Berichte kamen, in Promille"}},
	{"tls_min_version", 13, verifier, Text{"lowest TLS version seen, times ten: 12 is TLS 1.2", "niedrigste beobachtete TLS-Version mal zehn: 12 ist TLS 1.2"}},
	{"tpm_backed_share", all, verifier, Text{"devices whose key was created in and stays in a TPM, per mille", "Geräte, deren Schlüssel in einem TPM entstand und bleibt, in Promille"}},
	{"unchecked_links", maxCount, facility, Text{"links other than IP, such as Bluetooth, whose version nobody checked", "Verbindungen außer IP, etwa Bluetooth, deren Version niemand geprüft hat"}},
	{"undeclared_services", maxCount, verifier, Text{"services seen running that the manufacturer did not declare", "laufende Dienste, die der Hersteller nicht angegeben hat"}},
	{"unexplained_updates", maxCount, verifier, Text{"changes of software that no signed manifest explains", "Änderungen der Software, die kein signiertes Manifest erklärt"}},
	{"updated_in_cycle_share", all, verifier, Text{"devices updated within the cycle the manufacturer promised, per mille", "Geräte, die im zugesagten Zyklus aktualisiert wurden, in Promille"}},
}

// A Condition is what an observation has to be.
type Condition struct {
	Observation string
	AtLeast     bool  // the value must be Limit or more; else Limit or less
	Limit       int64 // holds from here on
	Breaks      int64 // what is beyond this contradicts; between the two nothing is said
}

func (c Condition) holds(v int64) bool {
	return c.AtLeast && v >= c.Limit || !c.AtLeast && v <= c.Limit
}

func (c Condition) breaks(v int64) bool {
	return c.AtLeast && v < c.Breaks || !c.AtLeast && v > c.Breaks
}

// A Rule says how observations speak about a criterion. All its conditions
// together are needed to prove; one that breaks is enough to contradict.
type Rule struct {
	Criterion  string
	Conditions []Condition
	Proves     bool // false: what holds is necessary only, a person has to say yes
	Yearly     bool // proves only over a year or more
	Why        Text
}

// Rules returns how data speaks, in the order of the tables.
func Rules() []Rule { return slices.Clone(rules) }

func share(observation string, breaks int64) []Condition {
	return []Condition{{observation, true, all, breaks}}
}

func most(observation string, limit int64) []Condition {
	return []Condition{{observation, false, limit, limit}}
}

func budget(least int64) []Condition {
	return []Condition{{"security_budget", true, least, least}}
}

var (
	whyBudget   = Text{"a band of the budget, read by its lower end", "ein Band des Budgets, an seinem unteren Ende gelesen"}
	whyDowntime = Text{"the longest downtime of a year is the most there was", "der längste Ausfall eines Jahres ist der größte"}
	whyEvents   = Text{"counted over a year or more", "über ein Jahr oder mehr gezählt"}
)

var rules = []Rule{
	{"structure.organisation.3.device_identifier", share("hardware_identity_share", all), true, false, Text{"the endorsement key is unique and does not leave the chip", "der Endorsement Key ist einmalig und verlässt den Chip nicht"}},
	{"structure.organisation.4.minimal_services", most("undeclared_services", 0), false, false, Text{"a service nobody declared is not essential; a declared one may be needless too", "ein nicht angegebener Dienst ist nicht notwendig; auch ein angegebener kann unnötig sein"}},
	{"structure.data.1.crypto_coprocessor", share("tpm_backed_share", 1), true, false, Text{"a TPM is a cryptographic coprocessor", "ein TPM ist ein kryptographischer Koprozessor"}},
	{"structure.data.3.tpm", share("tpm_backed_share", 1), true, false, Text{"the part that devices can prove: their key is in a TPM", "was Geräte belegen können: ihr Schlüssel liegt in einem TPM"}},
	{"structure.data.3.protocol_versions", []Condition{{"tls_min_version", true, 12, 12}, {"plaintext_connections", false, 0, 0}, {"unchecked_links", false, 0, maxCount}}, true, false, Text{"TLS 1.2 or higher everywhere, and no other link left unchecked", "überall TLS 1.2 oder höher, und keine andere Verbindung ungeprüft"}},
	{"structure.data.4.secure_boot", share("secure_boot_share", all), true, false, Text{"one device without it is one too many for \"only\"", "ein Gerät ohne ist für „nur“ eines zu viel"}},
	{"structure.data.5.root_of_trust", share("boot_evidence_share", 1), true, false, Text{"a quote rests on certified keys", "ein Quote beruht auf zertifizierten Schlüsseln"}},
	{"structure.authentication.2.separate_secrets", most("shared_keys", 0), false, false, Text{"device keys are not all the secrets there are", "Geräteschlüssel sind nicht alle Geheimnisse"}},
	{"structure.authentication.4.multi_factor", share("certificate_share", 0), true, false, Text{"certificates suffice; without them several factors may", "Zertifikate genügen; ohne sie können es mehrere Faktoren"}},
	{"process.updates.1.regular", share("updated_in_cycle_share", all), false, false, Text{"the promised cycle is kept; whether it is short enough a person says", "der zugesagte Zyklus ist eingehalten; ob er kurz genug ist, sagt ein Mensch"}},
	{"process.updates.2.validation", most("unexplained_updates", 0), false, false, Text{"that none came past the validation does not show that there is one", "dass nichts an der Prüfung vorbeikam, zeigt nicht, dass es sie gibt"}},
	{"process.malfunction.1.runtime_protection", share("runtime_appraised_share", 1), true, false, Text{"facts are compared in use and an extreme pauses the device", "Werte werden im Betrieb verglichen, ein Extrem hält das Gerät an"}},
	{"process.malfunction.2.log_tampering", share("tamper_logged_share", all), true, false, Text{"a chain of signed reports without a gap loses no event", "eine lückenlose Kette signierter Berichte verliert kein Ereignis"}},
	{"process.malfunction.3.tamper_alerts", share("tamper_alarm_share", 1), true, false, Text{"alarms overtake reports and need nobody to look", "Alarme überholen Berichte, ohne dass jemand nachsieht"}},
	{"outcome.costs.1.budget", budget(1), true, false, whyBudget},
	{"outcome.costs.2.budget", budget(100), true, false, whyBudget},
	{"outcome.costs.3.budget", budget(200), true, false, whyBudget},
	{"outcome.costs.4.budget", budget(400), true, false, whyBudget},
	{"outcome.costs.5.budget", budget(801), true, false, whyBudget},
	{"outcome.downtime.1.low_3_days", most("downtime_low_hours", 72), true, true, whyDowntime},
	{"outcome.downtime.2.low_24_hours", most("downtime_low_hours", 24), true, true, whyDowntime},
	{"outcome.downtime.3.medium_3_days", most("downtime_medium_hours", 72), true, true, whyDowntime},
	{"outcome.downtime.4.medium_24_hours", most("downtime_medium_hours", 24), true, true, whyDowntime},
	{"outcome.downtime.5.high_24_hours", most("downtime_high_hours", 24), true, true, whyDowntime},
	{"outcome.threats.1.below_25", most("security_events", 24), true, true, whyEvents},
	{"outcome.threats.2.below_20", most("security_events", 19), true, true, whyEvents},
	{"outcome.threats.3.below_15", most("security_events", 14), true, true, whyEvents},
	{"outcome.threats.4.below_10", most("security_events", 9), true, true, whyEvents},
	{"outcome.threats.5.below_5", most("security_events", 4), true, true, whyEvents},
}

// Data is what was counted over a fleet in a period.
type Data struct {
	Source      string // who counted
	From, Until time.Time
	Inventory   int64 // medical IoT devices that the facility has
	Devices     int64 // of them, those that the numbers are about
	Values      map[string]int64
}

type verdict int

const (
	silent verdict = iota
	supports
	proves
	contradicts
)

// A Reading is an observation held against a condition.
type Reading struct {
	Condition
	Value int64
}

// Holds reports whether the value is within the condition's limit.
func (r Reading) Holds() bool { return r.holds(r.Value) }

// Contradicts reports whether the value is beyond what the criterion allows.
func (r Reading) Contradicts() bool { return r.breaks(r.Value) }

// about says what the data says about a criterion to an assessment of a date.
func (d *Data) about(criterion string, date time.Time) (verdict, []Reading) {
	if d == nil {
		return silent, nil
	}
	i := slices.IndexFunc(rules, func(r Rule) bool { return r.Criterion == criterion })
	if i < 0 {
		return silent, nil
	}
	rule := rules[i]
	var readings []Reading
	broken, held, ofDevices := false, 0, false
	for _, c := range rule.Conditions {
		v, ok := d.Values[c.Observation]
		if !ok {
			continue
		}
		r := Reading{c, v}
		readings = append(readings, r)
		ofDevices = ofDevices || byVerifier(c.Observation)
		broken = broken || r.Contradicts()
		if r.Holds() {
			held++
		}
	}
	whole := (d.Devices == d.Inventory || !ofDevices) && (!rule.Yearly || d.Until.AddDate(0, 0, 1).Sub(d.From) >= 365*24*time.Hour)
	fresh := !d.Until.Before(date.AddDate(-1, 0, 0))
	switch {
	case len(readings) == 0:
		return silent, nil
	case broken:
		return contradicts, readings
	case held < len(rule.Conditions) && held < len(readings):
		return silent, readings
	case held == len(rule.Conditions) && rule.Proves && whole && fresh:
		return proves, readings
	}
	return supports, readings
}

func byVerifier(observation string) bool {
	return slices.ContainsFunc(observations, func(o Observation) bool { return o.ID == observation && o.By == verifier })
}

// ReadData reads a file of observations: one JSON object (docs/maturity.md).
func ReadData(data []byte) (*Data, error) {
	if len(data) > MaxData {
		return nil, fmt.Errorf("observations have more than %d bytes", MaxData)
	}
	fields, err := object(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read observations: %w", err)
	}
	d := &Data{Values: map[string]int64{}}
	var version int64
	take := func(key string, read func(json.RawMessage) error) {
		raw, ok := fields[key]
		delete(fields, key)
		if err != nil {
			return
		}
		if !ok {
			err = fmt.Errorf("no %q", key)
		} else if e := read(raw); e != nil {
			err = fmt.Errorf("%s: %w", key, e)
		}
	}
	take("version", number(&version, 1, 1))
	take("source", func(raw json.RawMessage) error {
		if e := json.Unmarshal(raw, &d.Source); e != nil {
			return errors.New("want a text")
		}
		return line(d.Source)
	})
	take("from", day(&d.From))
	take("until", day(&d.Until))
	take("inventory", number(&d.Inventory, 1, maxCount))
	take("devices", number(&d.Devices, 1, maxCount))
	take("observations", func(raw json.RawMessage) error {
		values, e := object(raw)
		if e != nil {
			return e
		}
		for _, o := range observations {
			raw, ok := values[o.ID]
			if !ok {
				continue
			}
			delete(values, o.ID)
			var v int64
			if e := number(&v, 0, o.Max)(raw); e != nil {
				return fmt.Errorf("%s: %w", o.ID, e)
			}
			d.Values[o.ID] = v
		}
		return unknown(values)
	})
	switch e := unknown(fields); {
	case err != nil:
		return nil, err
	case e != nil:
		return nil, e
	case d.Until.Before(d.From):
		return nil, fmt.Errorf("until %s is before from %s", d.Until.Format(time.DateOnly), d.From.Format(time.DateOnly))
	case d.Devices > d.Inventory:
		return nil, fmt.Errorf("%d devices are more than the inventory of %d", d.Devices, d.Inventory)
	}
	return d, nil
}

// JSON returns the file that ReadData reads, the same bytes for the same data.
func (d *Data) JSON() ([]byte, error) {
	text, err := json.MarshalIndent(struct {
		Version      int              `json:"version"`
		Source       string           `json:"source"`
		From         string           `json:"from"`
		Until        string           `json:"until"`
		Inventory    int64            `json:"inventory"`
		Devices      int64            `json:"devices"`
		Observations map[string]int64 `json:"observations"`
	}{1, d.Source, d.From.Format(time.DateOnly), d.Until.Format(time.DateOnly), d.Inventory, d.Devices, d.Values}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("cannot write observations: %w", err)
	}
	text = append(text, '\n')
	if _, err := ReadData(text); err != nil {
		return nil, fmt.Errorf("cannot write observations: %w", err)
	}
	return text, nil
}

// object reads one JSON object; encoding/json alone would let a key stand twice
// and in any case of letters.
func object(data []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("want a JSON object")
	}
	fields := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		key, ok := t.(string)
		if !ok {
			return nil, errors.New("want a key")
		}
		if _, twice := fields[key]; twice {
			return nil, fmt.Errorf("%q stands there twice", key)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		fields[key] = raw
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return fields, nil
}

func unknown(fields map[string]json.RawMessage) error {
	var names []string
	for name := range fields {
		names = append(names, fmt.Sprintf("%q", name))
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return fmt.Errorf("unknown %s", strings.Join(names, ", "))
}

func number(to *int64, least, most int64) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		// null would leave what is there.
		if err := json.Unmarshal(raw, to); err != nil || string(raw) == "null" {
			return fmt.Errorf("want an integer, not %.40q", raw)
		}
		if *to < least || *to > most {
			return fmt.Errorf("%d is not from %d to %d", *to, least, most)
		}
		return nil
	}
}

func day(to *time.Time) func(json.RawMessage) error {
	return func(raw json.RawMessage) error {
		var text string
		err := json.Unmarshal(raw, &text)
		if err == nil {
			*to, err = time.Parse(time.DateOnly, text)
		}
		if err != nil {
			return fmt.Errorf("want a date such as \"2026-03-31\", not %.40q", raw)
		}
		return nil
	}
}
