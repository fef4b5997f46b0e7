package label_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
)

const now = 1_800_000_000 // 2027-01-15

// fixed returns a signer that signs the same bytes for the same payload.
func fixed(t testing.TB, name string) *cose.Signer {
	t.Helper()
	seed := sha256.Sum256([]byte("miotfacts test vector " + name))
	s, err := cose.NewSigner(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func exampleTOML(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("../configs/label-example.toml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// example returns a new copy of the example of configs, which has every field
// but those of change.
func example(t testing.TB, change ...func(*label.Label)) *label.Label {
	t.Helper()
	l, problems := label.Author([]byte(exampleTOML(t)))
	if l == nil || len(problems) > 0 {
		t.Fatal(problems)
	}
	for _, f := range change {
		f(l)
	}
	return l
}

func sign(t testing.TB, l *label.Label, key *cose.Signer) []byte {
	t.Helper()
	data, err := label.Sign(l, key)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// encode signs whatever it is given.
func encode(t testing.TB, v any, typ cose.Type, key *cose.Signer) []byte {
	t.Helper()
	payload, err := cose.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	data, err := key.Sign(typ, payload)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// keyList lists the label key and a manifest key, changed by change.
func keyList(t testing.TB, change ...func(*reference.ListedKey)) []byte {
	t.Helper()
	k := reference.ListedKey{Key: fixed(t, "label").Public(), Role: reference.RoleLabel, Name: "label", NotBefore: now - 40_000_000, NotAfter: now + 400_000_000}
	m := k
	m.Key, m.Role, m.Name = fixed(t, "manifest").Public(), reference.RoleManifest, "manifest"
	for _, f := range change {
		f(&k)
	}
	data, err := reference.SignKeys(&reference.Keys{Version: 1, Owner: reference.Manufacturer, Sequence: 1, Keys: []reference.ListedKey{k, m}}, fixed(t, "manufacturer root"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func trust(t testing.TB, change ...func(*reference.ListedKey)) *reference.Trust {
	t.Helper()
	trust, err := reference.NewTrust(reference.Root{Key: fixed(t, "manufacturer root").Public(), Owner: reference.Manufacturer})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.AddKeys(keyList(t, change...)); err != nil {
		t.Fatal(err)
	}
	return trust
}

// TestTableI holds that the example has every row of the paper's Table I, and
// that a picture shows it, in both languages.
func TestTableI(t *testing.T) {
	signed := sign(t, example(t), fixed(t, "label"))
	for lang, rows := range map[label.Lang][]string{
		label.English: {
			"Temperature sensor", "Temperature in Celsius, real time", "Location sensor", "GPS, latitude and longitude, post processing",
			"Electric motor", "Rotation", "MQTT", "Cloud", "Bluetooth", "Local", "Gateways", "Cloud location", "Italy, EU",
			"Storage location", "Netherlands, EU", "Example Medical GmbH", "&#43;49 961 555 0100", "security@example.com", "Germany, EU",
			"GPS (latitude and longitude)", "every minute", "App; device itself", "1 easy to 5 complex", "2 several steps", "4 complex",
			"Start protected by", "Secure Boot; measured boot",
		},
		label.German: {"Echtzeit", "Nachverarbeitung", "Lokal", "Italien, EU", "Niederlande, EU", "Deutschland, EU", "jede Minute", "Gerät selbst", "4 aufwendig", "≤ 2,5 W", "Start geschützt durch", "Secure Boot; gemessener Start"},
	} {
		html, err := label.HTML(signed, lang, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if !strings.Contains(string(html), row) {
				t.Errorf("%s: the page does not show %q", lang, row)
			}
		}
	}
}

func TestLint(t *testing.T) {
	text := exampleTOML(t)
	without := func(block string) string {
		var out []string
		skip := false
		for _, line := range strings.Split(text, "\n") {
			if strings.HasPrefix(line, "[") {
				skip = line == "["+block+"]" || line == "[["+block+"]]"
			}
			if !skip && !strings.HasPrefix(line, block+" =") {
				out = append(out, line)
			}
		}
		return strings.Join(out, "\n")
	}
	change := func(old, new string) string {
		if strings.Count(text, old) == 0 {
			t.Fatalf("the example has no %q", old)
		}
		return strings.Replace(text, old, new, 1)
	}
	foreign := text
	for i := range 16 { // sensors with names that no dictionary has
		foreign += fmt.Sprintf("\n[[sensor]]\nname = \"%x\"\nyields = \"%x\"\nwhen = \"both\"\n", sha256.Sum256([]byte{byte(i)}), sha256.Sum256([]byte{byte(i), 1}))
	}
	line := func(part string) int { return 1 + strings.Count(text[:strings.Index(text, part)], "\n") }
	for _, tt := range []struct {
		name, text, path, message string
		line                      int // 0: missing from the document itself
		warning                   bool
	}{
		{"sensors", without("sensor"), "sensor", "missing row: sensors and what they yield", 0, false},
		{"actuators", without("actuator"), "actuator", "missing row: actuators", 0, false},
		{"connections", without("connection"), "connection", "missing row: connectivity", 0, false},
		{"gateways", without("gateway"), "gateway", "missing row: gateways", 0, false},
		{"cloud", without("cloud"), "cloud", "missing row: cloud location", 0, false},
		{"storage", without("storage"), "storage", "missing row: storage location", 0, false},
		{"responsible", without("responsible"), "responsible", "missing row: responsible entity", 0, false},
		{"attributes", without("attribute"), "attribute", "missing row: stored attributes", 0, false},
		{"control", without("user_control"), "user_control", "missing row: user control", 0, false},
		{"deletion", without("deletion"), "deletion", "missing row: deletion of data", 0, false},
		{"runtime", without("runtime"), "runtime", "missing row: runtime facts", 0, false},
		{"updates", without("updates"), "updates", "missing row: update promise", 0, false},
		{"sbom", without("sbom"), "sbom", "missing row: reference to the software bill", 0, true},
		{"mud", without("mud"), "mud", "missing row: address of the MUD file", 0, true},
		{"udi", without("udi"), "udi", "missing row: device identifier", 0, true},
		{"ce", without("ce"), "ce", "missing row: CE marking", 0, true},
		{"no boot", change(`boot = ["secure boot", "measured boot"]`, `boot = []`), "boot", "nothing is named", line("boot ="), false},
		{"boot", change(`boot = ["secure boot", "measured boot"]`, `boot = ["safe boot"]`), "", `"safe boot" is none of "secure boot", "measured boot", "verified root"`, 0, false},
		{"boot twice", change(`boot = ["secure boot", "measured boot"]`, `boot = ["verified root", "verified root"]`), "boot[1]", "verified root stands there twice", line("boot ="), false},
		{"unknown key", change("yields = \"Temp", "yield = \"Temp"), "sensor.yield", `unknown key "yield"`, line("yields = \"Temp"), false},
		{"wrong type", change("sequence = 1 ", "sequence = true "), "sequence", "cannot", line("sequence = 1"), false},
		{"no date", change("from = 2026-01-01", `from = "soon"`), "from", "it is no date", line("from ="), false},
		{"no validity", change("until = 2031-12-31", "until = 2025-12-31"), "until", "validity from 2026-01-01 until 2025-12-31 is empty", line("until ="), false},
		{"choice", change(`reach = "local"`, `reach = "moon"`), "", `"moon" is none of "cloud", "local", "both"`, 0, false},
		{"no cycle", change(`cycle = "1m"`, ""), "attribute[0].cycle", "no cycle", line(`[[attribute]]`), false},
		{"no country", change(`country = "NL"`, `country = "Nederland"`), "storage[0].country", `"Nederland" is no country code`, line(`country = "NL"`), false},
		{"no phone", change("+49 961 555 0100", "0961 5550100"), "responsible.phone", "is no phone number", line("phone ="), false},
		{"no mail", change(`email = "security@example.com"`, `email = "A <a@b.c>"`), "responsible.email", "is no mail address", line("email ="), false},
		{"no fact", change(`"cpu.usage"`, `"cpu.use"`), "runtime[1].fact", `no fact is called "cpu.use"`, line(`"cpu.usage"`), false},
		{"no number", change(`"cpu.usage"`, `"boot.secure"`), "runtime[1].fact", "is no number", line(`"cpu.usage"`), false},
		{"unit", change(`unit = "permille"`, `unit = "%"`), "runtime[1].unit", `unit "permille", not "%"`, line(`unit = "permille"`), false},
		{"nesting", change("operating = { max = 600 }", "operating = { max = 990 }"), "runtime[1].operating", "beyond the fail-safe range", line("operating = { max = 600 }"), false},
		{"empty range", change("{ min = 8000, max = 25000 }", "{ min = 8000, max = 1 }"), "runtime[0].integration", "the range is empty", line("{ min = 8000"), false},
		{"nothing of deletion", without("deletion") + "", "deletion", "missing row", 0, false},
		{"no support", change("end_of_security_support = 2031-12-31", ""), "updates.end_of_security_support", "missing", line("[updates]"), false},
		{"short digest", change("45f72461", ""), "", "want 64 hexadecimal digits", 0, false},
		{"plain http", change("https://example.com/wearable-1.mud.json", "http://example.com/m"), "mud", "is no https address", line("mud ="), false},
		{"ce", change(`ce = "0123"`, `ce = "yes"`), "ce", "is no notified body", line("\nce =") + 1, false},
		{"rewarded wear", change("kind = \"hot_hours\"\ndirection = \"earlier\"", "kind = \"hot_hours\"\ndirection = \"later\""), "inspection.parameter[4].direction", "cannot move the date later", line("kind = \"hot_hours\"") + 1, false},
		{"twice", change(`kind = "line_exists"`, `kind = "still_sold"`), "inspection.parameter[2].kind", "stands there twice", line(`kind = "line_exists"`), false},
		{"limit", change("limit = 180", "limit = 14"), "inspection.parameter[0].limit", "14 is outside 15, its weight", line("limit = 180"), false},
		{"promise in two places", change("limit = 180\n", "limit = 180\nvalue = 3\n"), "inspection.parameter[0].value", "what is promised is updates.every_days", line("limit = 180") + 1, false},
		{"no use", change("use_hours_per_day = 16", ""), "inspection.use_hours_per_day", "0 is outside 1 to 24", line("[inspection]"), false},
		{"text", change("Location sensor", `Location\u0007sensor`), "sensor[1].name", "is not plain text", line("Location sensor"), false},
		{"long", change("Location sensor", strings.Repeat("x", 161)), "sensor[1].name", "161 bytes, the limit is 160", line("Location sensor"), false},
		{"code too fine", foreign, "", "phones read version 25", 0, true},
	} {
		l, problems := label.Author([]byte(tt.text))
		if (l != nil) != tt.warning {
			t.Errorf("%s: signable is %v: %v", tt.name, l != nil, problems)
		}
		found := false
		for _, p := range problems {
			if tt.path == "" || p.Path == tt.path {
				ok := strings.Contains(p.Message, tt.message) && p.Warning == tt.warning && p.Fix != "" && (tt.path == "" || p.Line == tt.line)
				found = found || ok
			}
		}
		if !found {
			t.Errorf("%s: want %s, line %d: %s; got %+v", tt.name, tt.path, tt.line, tt.message, problems)
		}
	}
}

func TestOpen(t *testing.T) {
	data := sign(t, example(t), fixed(t, "label"))
	v, err := label.Open(data, trust(t), reference.At(now))
	if err != nil {
		t.Fatal(err)
	}
	if v.Signer() != fixed(t, "label").Public().ID() || !reflect.DeepEqual(v.Label(), example(t)) {
		t.Errorf("opened %+v by %s", v.Label(), v.Signer())
	}
	for _, tt := range []struct {
		name   string
		data   []byte
		trust  *reference.Trust
		at     int64
		reason error
	}{
		{"a manifest key", sign(t, example(t), fixed(t, "manifest")), trust(t), now, reference.ErrRole},
		{"the root", sign(t, example(t), fixed(t, "manufacturer root")), trust(t), now, reference.ErrRole},
		{"a stranger", sign(t, example(t), fixed(t, "stranger")), trust(t), now, reference.ErrUnknownKey},
		{"a lost key", data, trust(t, func(k *reference.ListedKey) { k.RevokedFrom = now }), now, reference.ErrRevoked},
		{"an old key", data, trust(t, func(k *reference.ListedKey) { k.NotAfter = now - 1 }), now, reference.ErrExpired},
		{"a key for others", data, trust(t, func(k *reference.ListedKey) { k.Models = []string{"pump-1"} }), now, reference.ErrUnknownKey},
		{"an old label", sign(t, example(t, func(l *label.Label) { l.Until = label.DayOf(now) - 1 }), fixed(t, "label")), trust(t), now, reference.ErrExpired},
		{"an early label", sign(t, example(t, func(l *label.Label) { l.From = label.DayOf(now) + 1 }), fixed(t, "label")), trust(t), now, reference.ErrNotYet},
		{"a manifest", encode(t, example(t), cose.Manifest, fixed(t, "label")), trust(t), now, cose.ErrType},
		{"a wrong label", encode(t, example(t, func(l *label.Label) { l.CE = "yes" }), cose.Label, fixed(t, "label")), trust(t), now, reference.ErrContent},
	} {
		if tt.name == "a key for others" {
			tt.reason = reference.ErrRole
		}
		if _, err := label.Open(tt.data, tt.trust, reference.At(tt.at)); !errors.Is(err, tt.reason) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.reason)
		}
	}
	last := (example(t).Until + 1).Start() - 1
	long := func(k *reference.ListedKey) { k.NotAfter = last + 10 }
	if _, err := label.Open(data, trust(t, long), reference.At(last)); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	if _, err := label.Open(data, trust(t, long), reference.At(last+1)); !errors.Is(err, reference.ErrExpired) {
		t.Errorf("a second later: %v", err)
	}
}

// TestOneBit holds that no bit of a signed label can change unseen, and none of
// the text in its code.
func TestOneBit(t *testing.T) {
	data := sign(t, example(t), fixed(t, "label"))
	tr := trust(t)
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << (i % 8)
		if _, err := label.Open(bad, tr, reference.At(now)); err == nil {
			t.Fatalf("bit %d of byte %d changed, still opened", i%8, i)
		}
	}
	text, err := label.Text(data)
	if err != nil {
		t.Fatal(err)
	}
	for i := range text {
		bad := []byte(text)
		bad[i] ^= 1
		got, err := label.FromText(string(bad))
		if err == nil && !bytes.Equal(got, data) {
			_, err = label.Open(got, tr, reference.At(now))
		}
		if err == nil {
			t.Fatalf("a bit of character %d changed, still opened", i)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	for name, change := range map[string]func(*label.Label){
		"content":      func(l *label.Label) { l.Version = 2 },
		"missing list": func(l *label.Label) { l.Sensors = nil },
		"no reach":     func(l *label.Label) { l.Connections[0].Reach = 9 },
		"cloud":        func(l *label.Label) { l.Cloud = []label.Place{} },
		"storage":      func(l *label.Label) { l.Storage = []label.Place{} },
		"deletion":     func(l *label.Label) { l.Deletion = []label.Deletion{} },
		"rows":         func(l *label.Label) { l.Gateways = make([]string, label.MaxRows+1) },
		"not UTF-8":    func(l *label.Label) { l.Model = "a\xff" },
	} {
		if _, err := label.Sign(example(t, change), fixed(t, "label")); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	none := func(l *label.Label) {
		*l = label.Label{
			Version: 1, Vendor: "v", Model: "m", Sequence: 1, From: 1, Until: 2, Sensors: []label.Sensor{}, Actuators: []label.Actuator{},
			Connections: []label.Connection{}, Gateways: []string{}, Cloud: []label.Place{}, Storage: []label.Place{}, Responsible: l.Responsible,
			Attributes: []label.Attribute{}, Control: []label.Control{}, Deletion: []label.Deletion{}, Runtime: []label.Runtime{}, Updates: l.Updates, Inspection: l.Inspection,
		}
	}
	l := example(t, none)
	if got, _, err := label.Parse(sign(t, l, fixed(t, "label"))); err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("a device with nothing in it: %+v, %v", got, err)
	}
}

func FuzzAuthor(f *testing.F) {
	f.Add([]byte(exampleTOML(f)))
	f.Add([]byte("sensor = [{ name = \"a\", when = \"both\" }]\nfrom = 2026-01-01\n[updates]\nevery_days = -1\n"))
	f.Add([]byte("from = 12:00:00\n[sbom]\nsha256 = \"00\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, problems := label.Author(data)
		if l == nil && len(problems) == 0 {
			t.Fatal("no label and no problem")
		}
		if l != nil {
			sign(t, l, fixed(t, "label"))
		}
	})
}

func FuzzFromText(f *testing.F) {
	text, err := label.Text(sign(f, example(f), fixed(f, "label")))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:len(text)-3])
	f.Add("MF1:")
	f.Add("MF2:")
	f.Add("MF2:GGW")
	first, err := os.ReadFile(vectors + "/example.txt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(bytes.TrimSpace(first)))
	f.Add(fmt.Sprint("MF1:", "GGW"))
	f.Fuzz(func(t *testing.T, text string) {
		data, err := label.FromText(text)
		if err != nil {
			return
		}
		if len(data) > label.MaxSize {
			t.Fatalf("%d bytes", len(data))
		}
		if l, _, err := label.Parse(data); err == nil {
			l.Sheet(label.German)
			if _, err := l.BestBefore(label.Observation{Purchased: 20000}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestScanners holds that the scanners of section VI can be labelled, that lint
// names what nobody knows of them, and that the label of the wired one shows the
// four companies which are not its maker.
func TestScanners(t *testing.T) {
	for model, companies := range map[string]int{"wireless": 1, "wired": 4} {
		data, err := os.ReadFile("../configs/label-scanner-" + model + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		l, problems := label.Author(data)
		if l == nil {
			t.Fatal(problems)
		}
		var missing []string
		for _, p := range problems {
			missing = append(missing, p.Path)
		}
		if got := strings.Join(missing, " "); got != "sbom mud udi ce" {
			t.Errorf("%s: lint names %q as missing", model, got)
		}
		others := map[string]bool{}
		for _, p := range append(l.Cloud, l.Storage...) {
			others[p.By] = true
		}
		if len(others) != companies {
			t.Errorf("%s: data go to %v, want %d companies that are not the maker", model, others, companies)
		}
		for _, f := range []label.Format{label.A6, label.Small} {
			if _, err := label.Draw(sign(t, l, fixed(t, "label")), f, label.German); err != nil {
				t.Errorf("%s: %v", model, err)
			}
		}
	}
}
