package verifier

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
)

// A Verdict is what a check of the label came to.
type Verdict uint8

// The verdicts. What could not be appraised is shown beside what was.
const (
	Fits        Verdict = 1
	Contradicts Verdict = 2
	Open        Verdict = 3 // not appraised
)

func (v Verdict) String() string {
	switch v {
	case Fits:
		return "fits"
	case Contradicts:
		return "contradicts"
	case Open:
		return "not appraised"
	}
	return fmt.Sprintf("verdict(%d)", uint8(v))
}

// A Check holds one thing that the label says against what is known.
type Check struct {
	Code    Reason  // of the finding that a contradiction makes
	About   string  // for people: "wireless"
	Verdict Verdict //
	Text    string  // what the label says, and what is seen
}

// compare holds a label against the manifest and the facts of a device at now.
// It is pure. ref is nil where the device uses no manifest that is known; own
// are the hospital's networks, which are nobody's cloud.
func compare(l *label.Label, software *Software, ref *reference.Reference, d *Device, own []netip.Prefix, now int64) []Check {
	c := &comparison{label: l, ref: ref, device: d, seen: d.Seen}
	c.adapter(ReasonLabelRadio, "wireless", factWireless, "wifi", "wi-fi", "wlan", "802.11", "wireless")
	c.adapter(ReasonLabelBluetooth, "Bluetooth", factBluetooth, "bluetooth", "ble")
	c.network()
	c.cloud(own)
	c.services()
	c.ranges()
	c.boot()
	c.protected()
	c.materials(software)
	c.updates(now)
	c.support(now)
	c.add(ReasonLabelParts, "sensors and actuators", Open, "the label names %d sensors and %d actuators; no fact tells of them", len(l.Sensors), len(l.Actuators))
	return c.checks
}

type comparison struct {
	label  *label.Label
	ref    *reference.Reference
	device *Device
	seen   *Seen
	checks []Check
}

func (c *comparison) add(code Reason, about string, v Verdict, format string, args ...any) {
	c.checks = append(c.checks, Check{code, about, v, attest.Clip(fmt.Sprintf(format, args...), maxFinding)})
}

// list returns the first members of a list, for a text.
func list(members []string) string {
	const most = 8
	if len(members) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(members[:most], ", "), len(members)-most)
	}
	return strings.Join(members, ", ")
}

// declares reports whether a connection of the label has one of the words.
func (c *comparison) declares(words ...string) bool {
	return slices.ContainsFunc(c.label.Connections, func(x label.Connection) bool {
		name := strings.ToLower(x.Protocol)
		return slices.ContainsFunc(words, func(w string) bool {
			return slices.Contains(strings.FieldsFunc(name, separates), w) || len(w) > 3 && strings.Contains(name, w)
		})
	})
}

func separates(r rune) bool { return strings.ContainsRune(" ,;:()/", r) }

// adapter holds declared connections against the adapters of a kind.
func (c *comparison) adapter(code Reason, about string, k facts.Key, words ...string) {
	v, why := c.seen.reading(k)
	declared, found := c.declares(words...), v.Set()
	switch {
	case why != "":
		c.add(code, about, Open, "%s", why)
	case !declared && len(found) > 0:
		c.add(code, about, Contradicts, "the label declares no %s; the device has %s", about, list(found))
	case declared && len(found) == 0:
		c.add(code, about, Open, "the label declares %s; the device shows no adapter, which may be off or built in elsewhere", about)
	case declared:
		c.add(code, about, Fits, "declared, and the device has %s", list(found))
	default:
		c.add(code, about, Fits, "none declared, and the device has none")
	}
}

func (c *comparison) network() {
	v, why := c.seen.reading(factAddresses)
	switch {
	case why != "":
		c.add(ReasonLabelNetwork, "network", Open, "%s", why)
	case len(c.label.Connections) == 0 && len(v.Set()) > 0:
		c.add(ReasonLabelNetwork, "network", Contradicts, "the label declares no connection; the device has addresses: %s", list(v.Set()))
	default:
		c.add(ReasonLabelNetwork, "network", Fits, "%d connections declared, %d addresses seen", len(c.label.Connections), len(v.Set()))
	}
}

// cloud holds a label that declares local connections only against the peers of
// the device. Whose machines they are is for factsctl talk to find out.
func (c *comparison) cloud(own []netip.Prefix) {
	const about = "connections beyond the house"
	if slices.ContainsFunc(c.label.Connections, func(x label.Connection) bool { return x.Reach&label.Cloud != 0 }) {
		c.add(ReasonLabelCloud, about, Fits, "declared; whom it talks to, factsctl talk compares")
		return
	}
	v, why := c.seen.reading(factPeers)
	if why != "" {
		c.add(ReasonLabelCloud, about, Open, "%s", why)
		return
	}
	var far []string
	for _, peer := range v.Set() {
		if at, err := netip.ParseAddrPort(peer); err == nil && public(at.Addr().Unmap(), own) {
			far = append(far, peer)
		}
	}
	if len(far) > 0 {
		c.add(ReasonLabelCloud, about, Contradicts, "the label declares local connections only; the device is connected to %s", list(far))
		return
	}
	c.add(ReasonLabelCloud, about, Fits, "none declared, and none seen in the newest report")
}

// public reports whether an address is somewhere in the Internet.
func public(a netip.Addr, own []netip.Prefix) bool {
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10) // RFC 6598
	return a.IsGlobalUnicast() && !a.IsPrivate() && !shared.Contains(a) && !slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Contains(a) })
}

// portsOf are the ports of protocols by the names that labels use (IANA, service
// name and port number registry).
var portsOf = map[string][]uint16{
	"mqtt": {1883, 8883}, "http": {80, 8080}, "https": {443, 8443}, "ssh": {22}, "sftp": {22}, "ftp": {20, 21}, "telnet": {23},
	"dicom": {104, 2762, 11112}, "hl7": {2575}, "mllp": {2575}, "coap": {5683, 5684}, "opc": {4840}, "modbus": {502, 802},
	"snmp": {161}, "mdns": {5353}, "dns": {53}, "ntp": {123}, "ldap": {389, 636}, "rtsp": {554}, "websocket": {80, 443},
}

// firstEphemeral is the lowest port that Linux gives to clients by itself
// (ip_local_port_range). A UDP socket there may be one that only asks.
const firstEphemeral = 32768

// services holds what listens against the protocols of the label and the sockets
// that the manifest declares.
func (c *comparison) services() {
	const about = "services"
	v, why := c.seen.reading(factListening)
	if why != "" {
		c.add(ReasonLabelService, about, Open, "%s", why)
		return
	}
	strange := undeclared(c.label, c.ref, v.Set())
	if len(strange) > 0 {
		c.add(ReasonLabelService, about, Contradicts, "neither the label nor the manifest declares what listens at %s", list(strange))
		return
	}
	c.add(ReasonLabelService, about, Fits, "all that listens is declared")
}

// undeclared returns the listening sockets that can be reached from elsewhere and
// of which neither document speaks. Those that get the device its own address do
// not count (DHCP, RFC 2131 and RFC 8415).
func undeclared(l *label.Label, ref *reference.Reference, listening []string) []string {
	declared := map[string]bool{}
	if ref != nil {
		m := ref.Manifest()
		for _, r := range slices.Concat(m.Integration, m.Operating, m.FailSafe) {
			if r.Fact != factListening {
				continue
			}
			for _, v := range r.Values {
				for _, socket := range v.Set() {
					declared[socket] = true
				}
			}
		}
	}
	ports := map[uint16]bool{}
	for _, x := range l.Connections {
		for _, word := range strings.FieldsFunc(strings.ToLower(x.Protocol), separates) {
			for _, p := range portsOf[word] {
				ports[p] = true
			}
		}
	}
	var strange []string
	for _, socket := range listening {
		proto, place, _ := strings.Cut(socket, "/")
		at, err := netip.ParseAddrPort(place)
		switch {
		case declared[socket]:
		case err != nil:
			strange = append(strange, socket)
		case at.Addr().IsLoopback(), ports[at.Port()]:
		case proto == "udp" && (at.Port() == 68 || at.Port() == 546 || at.Port() >= firstEphemeral):
		default:
			strange = append(strange, socket)
		}
	}
	return strange
}

// ranges holds the runtime facts of the label against the rules of the manifest.
func (c *comparison) ranges() {
	const about = "runtime facts"
	if c.ref == nil {
		c.add(ReasonLabelRange, about, Open, "the manifest that the device uses is not known here")
		return
	}
	var differ []string
	for _, row := range c.label.Runtime {
		for _, s := range []struct {
			name  string
			stage reference.Stage
			says  *label.Range
		}{
			{"integration", reference.StageIntegration, row.Integration}, {"operating", reference.StageOperating, row.Operating}, {"fail-safe", reference.StagePaused, row.FailSafe},
		} {
			if s.says == nil {
				continue
			}
			if text := c.rangeOf(row.Fact, s.stage, s.says); text != "" {
				differ = append(differ, fmt.Sprintf("%s of %s (%s): %s", row.Fact, s.name, between(s.says.Min, s.says.Max), text))
			}
		}
	}
	m := c.ref.Manifest()
	if len(differ) > 0 {
		when := ""
		if c.label.From < label.DayOf(m.NotBefore) {
			when = fmt.Sprintf("; the label is of %s, the manifest of %s", c.label.From, label.DayOf(m.NotBefore))
		}
		c.add(ReasonLabelRange, about, Contradicts, "%s%s", strings.Join(differ, "; "), when)
		return
	}
	c.add(ReasonLabelRange, about, Fits, "%d rows are as manifest %d has them", len(c.label.Runtime), m.Sequence)
}

// rangeOf returns how the manifest differs from a range of the label, "" when a
// rule of it is the same.
func (c *comparison) rangeOf(fact string, stage reference.Stage, says *label.Range) string {
	def, ok := c.ref.Vocabulary().ByName(fact)
	if !ok {
		return "the manifest does not know this fact"
	}
	var has []string
	for _, r := range c.ref.Manifest().Rules(stage) {
		if r.Fact != def.Key || r.Op != reference.Range {
			continue
		}
		if sameEnd(r.Min, says.Min) && sameEnd(r.Max, says.Max) {
			return ""
		}
		has = append(has, between(r.Min, r.Max))
	}
	if len(has) == 0 {
		return "the manifest does not compare it"
	}
	return "the manifest has " + strings.Join(has, " and ")
}

func sameEnd(a, b *int64) bool { return a == b || a != nil && b != nil && *a == *b }

func between(from, to *int64) string {
	switch {
	case from == nil && to == nil:
		return "any"
	case from == nil:
		return fmt.Sprintf("at most %d", *to)
	case to == nil:
		return fmt.Sprintf("at least %d", *from)
	}
	return fmt.Sprintf("%d to %d", *from, *to)
}

// boot holds the manifest's promise that a TPM proves the boot against where the
// device keeps its key: the label itself says nothing of a TPM.
func (c *comparison) boot() {
	const about = "proof of the boot"
	switch {
	case c.ref == nil:
		c.add(ReasonLabelBoot, about, Open, "the manifest that the device uses is not known here")
	case c.ref.Manifest().Boot == nil && len(c.ref.Manifest().BootEvents) == 0:
		c.add(ReasonLabelBoot, about, Open, "neither the label nor the manifest promises one")
	case c.device.Protection != attest.ProtectionTPM:
		c.add(ReasonLabelBoot, about, Contradicts, "the manifest has references of the boot, which a TPM has to prove; the device has a %s", c.device.Protection)
	default:
		c.add(ReasonLabelBoot, about, Fits, "the manifest has references of the boot, and the device has a TPM")
	}
}

// protected holds what the label says of the boot's protection against the appraised
// boot, and where a quote cannot prove it against what the device says.
func (c *comparison) protected() {
	const about = "protection of the boot"
	if len(c.label.Boot) == 0 {
		c.add(ReasonLabelProtected, about, Open, "the label says nothing of it")
		return
	}
	worst := Fits
	var texts []string
	for _, p := range c.label.Boot {
		v, text := Open, "the label says "+p.String()+", which is not known here"
		switch p {
		case label.SecureBoot:
			v, text = c.secureBoot()
		case label.MeasuredBoot:
			v, text = c.measuredBoot()
		case label.VerifiedRoot:
			v, text = c.verifiedRoot()
		}
		if v == Contradicts || worst == Fits {
			worst = v
		}
		texts = append(texts, p.String()+": "+text)
	}
	c.add(ReasonLabelProtected, about, worst, "%s", strings.Join(texts, "; "))
}

// accepted reports whether a quote proves that PCR p is as the manifest's references
// have it.
func (c *comparison) accepted(p int) bool {
	b := c.device.Boot
	return b != nil && b.Quoted && b.State == nil && len(b.Found) == 0 && c.ref != nil && c.ref.Manifest().Boot != nil && slices.Contains(c.ref.Manifest().Boot.PCRs, p)
}

func (c *comparison) secureBoot() (Verdict, string) {
	if b := c.device.Boot; b != nil && b.Quoted && b.SecureBoot != "" {
		text := b.SecureBoot + ", as the event log and the quoted PCR 7 prove"
		if b.SecureBoot == "on" {
			return Fits, text
		}
		return Contradicts, text
	}
	v, why := c.seen.reading(factSecureBoot)
	switch {
	case why != "":
		return Open, why
	case !v.Bool():
		return Contradicts, "off, as the device says"
	case c.accepted(7): // which has Secure Boot and its keys (TCG, PC Client Platform Firmware Profile, 3.3.4.8)
		return Fits, "on, as the device says, and the quoted PCR 7 is the manifest's"
	}
	return Open, "on, as the device says; no quote proves it"
}

func (c *comparison) measuredBoot() (Verdict, string) {
	b := c.device.Boot
	switch {
	case c.device.Protection != attest.ProtectionTPM:
		return Contradicts, "the device has a " + c.device.Protection.String()
	case b == nil || !b.Quoted:
		return Open, "no quote of the present boot has come"
	case !slices.ContainsFunc(b.PCRs, func(p attest.PCR) bool { return slices.ContainsFunc(p.Digest, func(x byte) bool { return x != 0 }) }):
		return Contradicts, "all quoted PCRs are empty: nothing was measured"
	case b.State != nil:
		return Fits, "a quote proves what was measured, which is another boot than the manifest's"
	}
	return Fits, "a quote proves what was measured"
}

func (c *comparison) verifiedRoot() (Verdict, string) {
	v, why := c.seen.reading(factVerity)
	switch {
	case why != "":
		return Open, why
	case !v.Bool():
		return Contradicts, "no dm-verity device is active"
	}
	hash, why := c.seen.reading(factRootHash)
	if why != "" {
		return Open, "dm-verity is active, and nothing tells that it is the root file system's: " + why
	}
	return Fits, fmt.Sprintf("dm-verity is active, with the root hash %.8x… that the command line demands", hash.Bytes())
}

func (c *comparison) updates(now int64) {
	const about = "updates"
	promised := c.label.Updates.Every
	if c.seen == nil {
		c.add(ReasonLabelUpdates, about, Open, "no report has told its software")
		return
	}
	days, ok := c.seen.cycle(now)
	switch {
	case !ok:
		c.add(ReasonLabelUpdates, about, Open, "no report has told its software")
	case days > promised:
		c.add(ReasonLabelUpdates, about, Contradicts, "promised at least every %d days; %d days passed without a change of its software, %d changes were seen", promised, days, c.seen.Updates)
	case c.seen.Updates == 0 && now-c.seen.Versions[0].At < int64(promised)*86400:
		c.add(ReasonLabelUpdates, about, Open, "promised at least every %d days; it was not watched for that long yet", promised)
	default:
		c.add(ReasonLabelUpdates, about, Fits, "promised at least every %d days; at most %d days passed between two changes, %d were seen", promised, days, c.seen.Updates)
	}
}

func (c *comparison) support(now int64) {
	u, today := c.label.Updates, label.DayOf(now)
	switch {
	case u.EndOfLife != 0 && today > u.EndOfLife:
		c.add(ReasonLabelSupport, "support", Contradicts, "the device is used after its end of life, %s", u.EndOfLife)
	case today > u.SupportUntil:
		c.add(ReasonLabelSupport, "support", Contradicts, "security support has ended on %s", u.SupportUntil)
	default:
		c.add(ReasonLabelSupport, "support", Fits, "promised until %s", u.SupportUntil)
	}
}

// A Life is what a device's label says and what became of it.
type Life struct {
	Label  Shelved
	Checks []Check    // none without a valid label
	Date   label.Date // when to inspect it; with NoDate nothing
	NoDate string     // why there is no date; "" with one
	Tasks  []Task     // of the inspection; with NoDate none

	Software *Software // nil without a valid label
}

// A Task is one thing to do on the day of inspection.
type Task struct {
	Text  string // what to do
	Known string // what the verifier knows of it already; "" when nothing
}

// Due reports whether the day of inspection has come at now.
func (l *Life) Due(now int64) bool { return l.NoDate == "" && label.DayOf(now) >= l.Date.Inspect }

// life joins label, manifest and facts of a device at now; nil where the verifier
// was given no labels, or the device does not count.
func (v *Verifier) life(now int64, d *Device) *Life {
	p := v.policy.Load()
	if p.shelf == nil || d.Enrolled != Approved {
		return nil
	}
	l := &Life{Label: pick(p.shelf.at(now), d.Vendor, d.Model)}
	if l.Label.Label == nil {
		l.NoDate = "there is no valid label"
		return l
	}
	l.Software = p.shelf.software(&l.Label)
	l.Checks = compare(l.Label.Label, l.Software, p.referenceOf(d), d, p.ownNetworks, now)
	o, err := observe(d, p.observed[d.UEID], now)
	if err == nil && l.Software.Software != nil {
		o.Flaws = l.Software.Flaws
	}
	if err == nil {
		l.Date, err = l.Label.Label.BestBefore(o)
	}
	if err != nil {
		l.NoDate = err.Error()
		return l
	}
	known := p.known(d, l.Label.Label)
	for i, text := range label.Tasks(label.English) {
		t := Task{Text: text}
		if i < len(known) {
			t.Known = known[i]
		}
		l.Tasks = append(l.Tasks, t)
	}
	return l
}

// known returns what can be said of the first tasks, in their order:
// firmware, boot, support. The others are for people.
func (p *policy) known(d *Device, l *label.Label) []string {
	firmware := "no report has told its software"
	if d.Seen != nil && len(d.Seen.Versions) > 0 {
		last := d.Seen.Versions[len(d.Seen.Versions)-1]
		var names []string
		for _, k := range softwareFacts {
			if text := last.Software[k]; text != "" {
				names = append(names, text)
			}
		}
		firmware = fmt.Sprintf("%s; last change seen on %s", list(names), label.DayOf(d.Seen.lastChange()))
	}
	if newest, used := p.newest[model{d.Vendor, d.Model}], p.referenceOf(d); newest != nil && used != nil {
		if n, m := newest.Manifest().Sequence, used.Manifest().Sequence; n > m {
			firmware += fmt.Sprintf("; it uses manifest %d, the newest is %d", m, n)
		} else {
			firmware += fmt.Sprintf("; its manifest, %d, is the newest here", m)
		}
	}
	boot := "no boot of it is known"
	if d.Boot != nil {
		boot = fmt.Sprintf("in its present boot it is in stage %s", d.Stage)
		if d.Boot.Count != 0 {
			boot += fmt.Sprintf("; that is boot %d", d.Boot.Count)
		}
	}
	return []string{firmware, boot, fmt.Sprintf("the label promises support until %s", l.Updates.SupportUntil)}
}

// referenceOf returns the manifest that the device used last, nil if none is known.
func (p *policy) referenceOf(d *Device) *reference.Reference {
	if d.Manifest == nil || len(d.Manifest.Digest) != 32 {
		return nil
	}
	return p.byHash[[32]byte(d.Manifest.Digest)]
}

// findings returns what a person should know of it. None is more than a warning:
// a label speaks about the model, is changed by people, and may be wrong itself.
func (l *Life) findings(now int64) []Finding {
	if l == nil {
		return nil
	}
	var found []Finding
	add := func(code Reason, tier Tier, format string, args ...any) {
		found = append(found, Finding{code, tier, attest.Clip(fmt.Sprintf(format, args...), maxFinding)})
	}
	switch s := &l.Label; s.State {
	case LabelValid:
	case LabelMissing:
		add(ReasonLabelMissing, TierNone, "%s: what its label says is not appraised", s.Why)
		return found
	default:
		code := map[LabelState]Reason{LabelRevoked: ReasonLabelRevoked, LabelExpired: ReasonLabelExpired, LabelNotYet: ReasonLabelExpired}[s.State]
		if code == "" {
			code = ReasonLabelRefused
		}
		add(code, TierWarning, "the label of its model is %s: %s", s.State, s.Why)
		return found
	}
	var open []string
	for _, c := range l.Checks {
		switch c.Verdict {
		case Contradicts:
			add(c.Code, TierWarning, "label, %s: %s", c.About, c.Text)
		case Open:
			open = append(open, c.About)
		}
	}
	if l.Software != nil && l.Software.Software != nil && l.Software.Flaws == nil {
		open = append(open, "vulnerabilities ("+l.Software.NoFlaws+")")
	}
	if len(open) > 0 {
		add(ReasonLabelOpen, TierNone, "of the label not appraised: %s", strings.Join(open, ", "))
	}
	if l.Due(now) {
		add(ReasonInspection, TierNone, "the best-before-inspection day was %s: inspect the device; its page has the tasks", l.Date.Inspect)
	}
	return found
}

// observe returns what is known of a device for its day. What its reports tell
// counts before what people wrote down.
func observe(d *Device, written label.Observation, now int64) (label.Observation, error) {
	o, err := d.Seen.observed(now).Observation()
	if err != nil {
		return o, fmt.Errorf("internal error: %w", err)
	}
	o.Device, o.Model, o.Purchased, o.SupportEnded, o.Flaws = printable(d.Serial), written.Model, written.Purchased, written.SupportEnded, written.Flaws
	o.Inspected, o.InspectedBy = written.Inspected, written.InspectedBy
	if i := d.Inspected; i != nil && i.On >= o.Inspected {
		o.Inspected, o.InspectedBy = i.On, i.By
	}
	if o.Temperature == nil {
		o.Temperature = written.Temperature
	}
	for k, n := range written.Amounts {
		if _, told := o.Amounts[k]; !told && (k != label.HotHours || o.Temperature == nil) {
			o.Amounts[k] = n
		}
	}
	return o, nil
}
