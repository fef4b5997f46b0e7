package reference

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Author reads a manifest as people write it, in TOML (docs/manifest.md), and
// checks it, also for devices that protect never. It returns every problem it
// finds, in the order of their lines; the manifest is nil if one of them is more
// than a warning.
func Author(data []byte, never ...string) (*Manifest, []Problem) {
	a, root := newAuthor(data)
	if root == nil {
		return nil, a.found
	}
	m := a.manifest(root)
	if a.finish(append(m.Check(), m.neverTouched(never)...)) {
		return nil, a.found
	}
	return m, a.found
}

// AuthorKeys reads a key list as people write it, in TOML (docs/manifest.md).
// It calls load for the public key file of each entry. The list is nil if there
// is a problem that is more than a warning.
func AuthorKeys(data []byte, load func(file string) (*cose.PublicKey, error)) (*Keys, []Problem) {
	a, root := newAuthor(data)
	if root == nil {
		return nil, a.found
	}
	l := a.keys(root, load)
	var found []Problem
	if len(a.found) == 0 {
		if i, err := l.check(); err != nil {
			found = []Problem{{Path: fmt.Sprintf("key[%d]", i), Message: err.Error(), Fix: "correct the entry"}}
			if i < 0 {
				found[0].Path, found[0].Fix = "", "correct the list"
			}
		}
	}
	if a.finish(found) {
		return nil, a.found
	}
	return l, a.found
}

// newAuthor returns an author with the parsed document; without one it holds
// the reason.
func newAuthor(data []byte) (*author, *table) {
	root, problem := parseTOML(data)
	if problem != nil {
		return &author{found: []Problem{*problem}}, nil
	}
	a := &author{lines: map[string]int{}}
	a.index("", root)
	return a, field{a: a, n: root}.table()
}

// finish adds what a check of the content found to what reading found, in the
// order of the lines. It reports whether something is more than a warning.
func (a *author) finish(checked []Problem) bool {
	for _, q := range a.found {
		a.unread = append(a.unread, q.Path)
	}
	for _, p := range checked {
		// What was not read is not there to be checked: one cause, one complaint.
		if !slices.ContainsFunc(a.unread, func(at string) bool { return within(p.Path, at) || within(at, p.Path) }) {
			p.Line = a.line(p.Path)
			a.found = append(a.found, p)
		}
	}
	slices.SortStableFunc(a.found, func(p, q Problem) int { return p.Line - q.Line })
	return firstError(a.found) != nil
}

// within reports whether path is that of outer or of something in it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

type author struct {
	lines   map[string]int // by path
	vocab   *facts.Vocabulary
	noNames bool // the app facts are wrong, so their names are not in vocab
	found   []Problem
	unread  []string // paths of what could not be read, beside those of found
}

func (a *author) index(at string, n *node) {
	a.lines[at] = n.line
	for _, k := range n.keys {
		a.index(join(at, k), n.table[k])
	}
	for i, e := range n.list {
		a.index(fmt.Sprintf("%s[%d]", at, i), e)
	}
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}

// line returns the line of path, or of what it would stand in; 0 for what is
// missing from the document itself.
func (a *author) line(path string) int {
	for path != "" {
		if l, ok := a.lines[path]; ok {
			return l
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return 0
}

func (a *author) bad(path, fix, format string, args ...any) {
	a.found = append(a.found, Problem{Path: path, Line: a.line(path), Message: fmt.Sprintf(format, args...), Fix: fix})
}

func (a *author) manifest(t *table) *Manifest {
	m := &Manifest{
		Version:     uint(t.need("version", "write version = 1").number(1 << 31)),
		Vendor:      t.need("vendor", `name the manufacturer: vendor = "..."`).text(),
		Model:       t.need("model", `name the device model: model = "..."`).text(),
		Sequence:    uint64(t.need("sequence", "write sequence = 1 and raise it with every edition").number(1<<63 - 1)),
		MinAgent:    t.get("min_agent").text(),
		Enforce:     Enforce(t.need("enforce", `write enforce = "observe", "alarm" or "pause"`).choice(enforceNames)),
		ReportEvery: t.need("report_every", `write report_every = "60s"`).duration("s"),
	}
	if v := t.need("valid", "write valid = { from = 2026-01-01, until = 2028-12-31 }").table(); v != nil {
		m.NotBefore = v.need("from", "write from = 2026-01-01").date(0)
		m.NotAfter = v.need("until", "write until = 2028-12-31").date(lastSecond)
		v.close()
	}
	if v := t.need("resume", `write resume = { signers = 1, lifetime = "1h" }`).table(); v != nil {
		m.Resume.Signers = uint8(v.need("signers", "write signers = 1, or 2 for the two-person rule").number(255))
		m.Resume.Lifetime = v.need("lifetime", `write lifetime = "1h"`).duration("s")
		v.close()
	}
	if v := t.get("silence").table(); v != nil {
		m.Silence = &Silence{
			After: v.need("after", `write after = "30s"`).duration("ms"),
			Then:  Enforce(v.need("then", `write then = "observe", "alarm" or "pause"`).choice(enforceNames)),
		}
		v.close()
	}
	m.Leeway = a.leeway(t)
	m.Energy = a.energy(t)
	if v := t.get("boot").table(); v != nil {
		m.Boot = &Boot{Accept: [][]byte{}}
		for _, e := range v.need("pcrs", "write pcrs = [0, 2, 4, 7]").elems() {
			m.Boot.PCRs = append(m.Boot.PCRs, int(e.number(1<<20)))
		}
		for _, e := range v.get("accept").elems() {
			m.Boot.Accept = append(m.Boot.Accept, e.hex(""))
		}
		v.close()
	}
	m.BootEvents = a.bootGroups(t.get("boot_group"))
	m.Files = a.files(t.get("files").table())
	for _, v := range t.get("app").tables() {
		m.Apps = append(m.Apps, AppFact{
			Key:  facts.Key(v.need("key", "write key = 1000, or the next free number up to 1999").number(1<<32 - 1)),
			Name: v.need("name", `write name = "app." and lower-case letters, digits or _`).text(),
			Unit: v.need("unit", `write the unit as people read it; unit = "1" for a count`).text(),
			Min:  v.need("min", "write the least number the application may hand in").quantity(""),
			Max:  v.need("max", "write the greatest number the application may hand in").quantity(""),
		})
		v.close()
	}
	var err error
	if a.vocab, err = m.Vocabulary(); err != nil { // Check tells which app fact and why
		a.noNames = true
		a.vocab = new(facts.Vocabulary)
		if v, err := facts.NewVocabulary(nil); err == nil {
			a.vocab = v
		}
	}
	m.Integration = a.rules(t.get("integration"))
	m.Operating = a.rules(t.get("operating"))
	m.FailSafe = a.rules(t.get("fail_safe"))
	for _, v := range t.get("reaction").tables() {
		r := Reaction{
			Do:       ReactionKind(v.need("do", `write do = "`+strings.Join(reactionNames[1:], `", "`)+`"`).choice(reactionNames)),
			Target:   v.get("target").text(),
			Deadline: v.need("within", `write within = "2s"`).duration("ms"),
			Signal:   uint8(v.get("signal").number(255)),
			Value:    v.get("value").text(),
		}
		for _, e := range v.get("peers").elems() {
			r.Peers = append(r.Peers, e.text())
		}
		if c := v.get("only_if"); c.n != nil {
			r.OnlyIf = OnlyIf(c.choice(onlyIfNames))
		}
		m.Reaction = append(m.Reaction, r)
		v.close()
	}
	t.close()
	return m
}

func (a *author) keys(t *table, load func(string) (*cose.PublicKey, error)) *Keys {
	l := &Keys{
		Version:  uint(t.need("version", "write version = 1").number(1 << 31)),
		Owner:    Owner(t.need("owner", `write owner = "manufacturer" or "operator"`).choice(ownerNames)),
		Sequence: uint64(t.need("sequence", "write sequence = 1 and raise it with every edition").number(1<<63 - 1)),
	}
	for _, v := range t.get("key").tables() {
		k := ListedKey{
			Role: Role(v.need("role", `write role = "`+strings.Join(roleNames[1:], `", "`)+`"`).choice(roleNames)),
			Name: v.need("name", `write what people call it: name = "release signing 2026"`).text(),
		}
		file := v.need("file", `write the path of the public key: file = "release.key.pub"`)
		if name := file.text(); name != "" {
			var err error
			if k.Key, err = load(name); err != nil {
				file.bad("give a public key that factsctl key new wrote", "%v", err)
			}
		}
		if d := v.need("valid", "write valid = { from = 2026-01-01, until = 2028-12-31 }").table(); d != nil {
			k.NotBefore = d.need("from", "write from = 2026-01-01").date(0)
			k.NotAfter = d.need("until", "write until = 2028-12-31").date(lastSecond)
			d.close()
		}
		for _, e := range v.get("models").elems() {
			k.Models = append(k.Models, e.text())
		}
		k.RevokedFrom = v.get("revoked_from").date(0)
		v.close()
		l.Keys = append(l.Keys, k)
	}
	t.close()
	return l
}

func (a *author) rules(f field) []Rule {
	var rules []Rule
	for _, t := range f.tables() {
		rules = append(rules, a.rule(t))
	}
	return rules
}

// rule returns a rule whatever is wrong with it, so that those after it keep
// their place in the list and their path.
func (a *author) rule(t *table) Rule {
	name := t.need("fact", `write fact = "..."; factsctl facts list shows all`)
	r := Rule{Hold: t.get("hold").duration("ms"), Why: t.get("why").text()}
	if p := t.get("if_absent"); p.n != nil {
		r.Absent = AbsentPolicy(max(p.choice(absentNames), 1) - 1)
	}
	low, high := t.get("min"), t.get("max")
	var ops []Op
	if low.n != nil || high.n != nil {
		ops = append(ops, Range)
	}
	var want field
	for op := Equal; op <= IsAbsent; op++ {
		if f := t.get(op.String()); f.n != nil {
			ops, want = append(ops, op), f
		}
	}
	clean := t.close()

	a.unread = append(a.unread, t.at) // until all of it is read
	d, ok := a.vocab.ByName(name.text())
	switch {
	case name.n == nil || name.n.kind != unstable.String:
		return r // told already
	case !ok:
		if !a.noNames || !strings.HasPrefix(name.n.text, "app.") {
			fix := "see factsctl facts list; an app fact needs its own [[app]] table"
			if n := a.nearestFact(name.n.text); n != "" {
				fix = fmt.Sprintf("write fact = %q", n)
			}
			name.bad(fix, "no fact is called %q", name.n.text)
		}
		return r
	case len(ops) == 0 && !clean:
		return r // the comparison is what was written wrong
	case len(ops) != 1:
		fix := "write min and max, equal, one_of, subset_of, superset_of or absent = true"
		if len(ops) > 1 {
			fix = "write a rule of its own for each"
		}
		a.bad(t.at, fix, "%s: %d comparisons %v, want one", d.Name, len(ops), ops)
		return r
	}
	a.unread = a.unread[:len(a.unread)-1]
	r.Fact, r.Op = d.Key, ops[0]
	switch r.Op {
	case Range:
		r.Min, r.Max = low.end(d), high.end(d)
	case Equal:
		r.Values = []facts.Value{want.value(d)}
	case OneOf:
		for _, e := range want.elems() {
			r.Values = append(r.Values, e.value(d))
		}
	case SubsetOf, SupersetOf:
		r.Values = []facts.Value{want.value(facts.Def{Name: d.Name, Kind: facts.Set})}
	case IsAbsent:
		if want.n.kind != unstable.Bool || want.n.text != "true" {
			want.bad("write absent = true, or remove it", "%s: %q is not true", d.Name, want.n.text)
		}
	}
	return r
}

func (a *author) nearestFact(name string) string {
	var names []string
	for _, d := range a.vocab.Defs() {
		names = append(names, d.Name)
	}
	return nearest(name, names)
}

// A table is a TOML table whose keys are taken one by one; close reports what
// nobody asked for.
type table struct {
	a     *author
	at    string
	n     *node
	known []string
}

func (t *table) get(key string) field {
	t.known = append(t.known, key)
	return field{a: t.a, path: join(t.at, key), n: t.n.table[key]}
}

const missing = "missing"

func (t *table) need(key, fix string) field {
	f := t.get(key)
	if f.n == nil {
		f.bad(fix, missing)
	}
	return f
}

// close reports keys that nobody asked for, and whether there were none.
func (t *table) close() bool {
	clean := true
	for _, k := range t.n.keys {
		if slices.Contains(t.known, k) {
			continue
		}
		clean = false
		fix := "remove it; known here: " + strings.Join(t.known, ", ")
		if n := nearest(k, t.known); n != "" {
			fix = "write " + n
			meant := join(t.at, n)
			t.a.unread = append(t.a.unread, meant)
			t.a.found = slices.DeleteFunc(t.a.found, func(p Problem) bool { return p.Path == meant && p.Message == missing })
		}
		t.a.bad(join(t.at, k), fix, "unknown key %q", k)
	}
	return clean
}

// nearest returns the one of known that s is most likely meant to be, "" if
// none is near.
func nearest(s string, known []string) string {
	best, at := "", len(s)/3+1
	if len(s) > MaxName {
		return ""
	}
	for _, k := range known {
		if d := distance(s, k); d <= at && (best == "" || d < at) {
			best, at = k, d
		}
	}
	return best
}

// distance is that of Levenshtein, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// A field is a value in the document, or the place of one that is not there:
// it then yields zero values and no further complaint.
type field struct {
	a    *author
	path string
	n    *node
}

func (f field) bad(fix, format string, args ...any) { f.a.bad(f.path, fix, format, args...) }

func kindName(k unstable.Kind) string {
	switch k {
	case unstable.InlineTable:
		return "a table"
	case unstable.Array:
		return "a list"
	case unstable.String:
		return "text"
	case unstable.Bool:
		return "a boolean"
	case unstable.Integer:
		return "an integer"
	case unstable.Float:
		return "a floating-point number"
	}
	return "a date or time"
}

// is reports whether the value is there and of kind k, and complains about one
// of another kind.
func (f field) is(k unstable.Kind, example string) bool {
	if f.n == nil {
		return false
	}
	if f.n.kind != k {
		f.bad("write "+example, "want %s, this is %s", kindName(k), kindName(f.n.kind))
	}
	return f.n.kind == k
}

func (f field) table() *table {
	if !f.is(unstable.InlineTable, "a table: { ... }") {
		return nil
	}
	return &table{a: f.a, at: f.path, n: f.n}
}

func (f field) elems() []field {
	var fs []field
	if f.is(unstable.Array, "a list: [ ... ]") {
		for i, e := range f.n.list {
			fs = append(fs, field{a: f.a, path: fmt.Sprintf("%s[%d]", f.path, i), n: e})
		}
	}
	return fs
}

func (f field) tables() []*table {
	var ts []*table
	for _, e := range f.elems() {
		if t := e.table(); t != nil {
			ts = append(ts, t)
		}
	}
	return ts
}

func (f field) text() string {
	if !f.is(unstable.String, `text in quotes: "..."`) {
		return ""
	}
	return f.n.text
}

func (f field) flag() bool {
	return f.is(unstable.Bool, "true or false") && f.n.text == "true"
}

func (f field) integer() (int64, bool) {
	n, err := strconv.ParseInt(strings.ReplaceAll(f.n.text, "_", ""), 0, 64)
	if err != nil {
		f.bad("write a smaller number", "%s does not fit into 64 bits", f.n.text)
	}
	return n, err == nil
}

// number returns an integer from 0 to limit, the greatest its Go type holds;
// what the format allows is for Check to say.
func (f field) number(limit int64) int64 {
	if !f.is(unstable.Integer, "a number without quotes") {
		return 0
	}
	n, ok := f.integer()
	if ok && (n < 0 || n > limit) {
		f.bad("write a number that is in the range", "%d is outside 0 to %d", n, limit)
	}
	return n
}

// choice returns the place of the value in names, of which place 0 is no choice.
func (f field) choice(names []string) int {
	want := `"` + strings.Join(names[1:], `", "`) + `"`
	if !f.is(unstable.String, "one of "+want) {
		return 0
	}
	i := slices.Index(names[1:], f.n.text)
	if i < 0 {
		fix := "write one of " + want
		if n := nearest(f.n.text, names[1:]); n != "" {
			fix = fmt.Sprintf("write %q", n)
		}
		f.bad(fix, "%q is not one of %s", f.n.text, want)
	}
	return i + 1
}

// lastSecond is what a date as the end of a validity has more than as its begin.
const lastSecond = 24*60*60 - 1

// date returns a date or a date-time, UTC where no offset is written, in Unix
// seconds. A date alone means its first second plus dayEnd.
func (f field) date(dayEnd int64) int64 {
	if f.n == nil {
		return 0
	}
	const fix = "write a date such as 2026-01-01, or 2026-01-01T12:00:00Z, without quotes"
	text := strings.ToUpper(strings.Replace(f.n.text, " ", "T", 1))
	var layout string
	switch f.n.kind {
	case unstable.LocalDate:
		layout = time.DateOnly
	case unstable.LocalDateTime:
		layout, dayEnd = "2006-01-02T15:04:05", 0
	case unstable.DateTime:
		layout, dayEnd = time.RFC3339, 0
	default:
		f.bad(fix, "want a date, this is %s", kindName(f.n.kind))
		return 0
	}
	t, err := time.Parse(layout, text)
	if err != nil || t.Nanosecond() != 0 {
		f.bad(fix, "%s is not a date, or a time in whole seconds", f.n.text)
		return 0
	}
	return t.Unix() + dayEnd
}

// duration returns a text such as "30s" in unit. It wants the unit written: in
// a manifest seconds and milliseconds are too near to each other.
func (f field) duration(unit string) uint32 {
	if !f.is(unstable.String, `a duration with its unit, such as "30s"`) {
		return 0
	}
	n := f.quantity(unit)
	if n < 0 || n > 1<<32-1 {
		f.bad(`write a duration such as "30s"`, "%q is out of range", f.n.text)
		return 0
	}
	return uint32(n)
}

func (f field) end(d facts.Def) *int64 {
	switch {
	case f.n == nil:
		return nil
	case d.Kind != facts.Int:
		f.bad("use equal, one_of or, for a set, subset_of", "%s is of kind %s, integers only have a range", d.Name, d.Kind)
		return nil
	}
	n := f.quantity(d.Unit)
	return &n
}

// quantity returns an integer as it stands, or a text with a unit that unit can
// express exactly.
func (f field) quantity(unit string) int64 {
	if f.n == nil {
		return 0
	}
	units := scales(unit)
	example := "an integer"
	if len(units) > 0 {
		names := make([]string, len(units))
		for i, s := range units {
			names[i] = s.unit
		}
		example = fmt.Sprintf("an integer in %s, or text with a unit: %s", unit, strings.Join(names, ", "))
	}
	switch f.n.kind {
	case unstable.Integer:
		n, _ := f.integer()
		return n
	case unstable.String:
		n, err := scale(f.n.text, units)
		if err != nil {
			f.bad("write "+example, "%v", err)
		}
		return n
	}
	f.bad("write "+example, "want an integer, this is %s", kindName(f.n.kind))
	return 0
}

func (f field) value(d facts.Def) facts.Value {
	switch d.Kind {
	case facts.Int:
		return facts.IntValue(f.quantity(d.Unit))
	case facts.Bool:
		ok := f.is(unstable.Bool, "true or false")
		return facts.BoolValue(ok && f.n.text == "true")
	case facts.Text:
		return facts.TextValue(f.text())
	case facts.Bytes:
		return facts.BytesValue(f.hex("hex:"))
	}
	members := []string{}
	for _, e := range f.elems() {
		members = append(members, e.text())
	}
	return facts.SetValue(members)
}

func (f field) hex(prefix string) []byte {
	const fix = `write hexadecimal digits: "%s0123..."`
	if !f.is(unstable.String, fmt.Sprintf(`text: "%s0123..."`, prefix)) {
		return nil
	}
	digits, ok := strings.CutPrefix(f.n.text, prefix)
	b, err := hex.DecodeString(digits)
	if !ok || err != nil {
		f.bad(fmt.Sprintf(fix, prefix), "%.40q is not %s and hexadecimal digits", f.n.text, strconv.Quote(prefix))
	}
	return b
}
