package label_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectors = "../testdata/vectors/label"

// vector returns the example as it was when the vectors were made, before the bill of
// materials that it names was one, and before labels said how a boot is protected.
func vector(t *testing.T, change ...func(*label.Label)) *label.Label {
	digest, err := hex.DecodeString("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")
	if err != nil {
		t.Fatal(err)
	}
	return example(t, append([]func(*label.Label){func(l *label.Label) { l.SBOM.SHA256, l.Boot = digest, nil }}, change...)...)
}

// TestVectors holds the wire form: the bytes of every vector are those in
// testdata, and each is accepted or refused for the reason written beside it.
func TestVectors(t *testing.T) {
	good := sign(t, vector(t), fixed(t, "label"))
	broken := bytes.Clone(good)
	broken[bytes.Index(broken, []byte("wearable-1"))+9] ^= 1 // wearable-0
	all := []struct {
		name   string
		data   []byte
		reason error
	}{
		{"keys", keyList(t), nil},
		{"example", good, nil},
		{"boot", sign(t, vector(t, func(l *label.Label) { l.Boot = []label.Protection{label.SecureBoot, label.MeasuredBoot} }), fixed(t, "label")), nil},
		{"refused-boot", encode(t, vector(t, func(l *label.Label) { l.Boot = []label.Protection{label.SecureBoot, label.SecureBoot} }), cose.Label, fixed(t, "label")), reference.ErrContent},
		{"refused-bit", broken, cose.ErrSignature},
		{"refused-role", sign(t, vector(t), fixed(t, "manifest")), reference.ErrRole},
		{"refused-key", sign(t, vector(t), fixed(t, "stranger")), reference.ErrUnknownKey},
		{"refused-type", encode(t, vector(t), cose.Manifest, fixed(t, "label")), cose.ErrType},
		{"refused-expired", sign(t, vector(t, func(l *label.Label) { l.Until = label.DayOf(now) - 1 }), fixed(t, "label")), reference.ErrExpired},
		{"refused-missing-row", encode(t, vector(t, func(l *label.Label) { l.Responsible = label.Entity{} }), cose.Label, fixed(t, "label")), reference.ErrContent},
		{"refused-rewarded-wear", encode(t, vector(t, func(l *label.Label) { l.Inspection.Parameters[4].Direction = label.Later }), cose.Label, fixed(t, "label")), reference.ErrContent},
	}
	known := map[string]bool{"example": true}
	for _, v := range all {
		known[v.name] = true
		var err error
		if v.name == "keys" {
			trust(t)
		} else if _, err = label.Open(v.data, trust(t), reference.At(now)); !errors.Is(err, v.reason) {
			t.Errorf("%s: %v, want %v", v.name, err, v.reason)
		}
		text := notation(t, v.data, err)
		path := filepath.Join(vectors, v.name)
		if *update {
			if err := errors.Join(os.MkdirAll(vectors, 0o755), os.WriteFile(path+".cbor", v.data, 0o644), os.WriteFile(path+".diag", text, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		for ext, want := range map[string][]byte{".cbor": v.data, ".diag": text} {
			golden, err := os.ReadFile(path + ext)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(golden, want) {
				t.Errorf("%s%s holds other bytes: the wire form changed", v.name, ext)
			}
		}
	}
	// Another compressor may give other bytes for the same label, so the text of
	// the code is held in the direction that counts. The first form is only read.
	for _, name := range []string{"example.txt", "example-2.txt"} {
		path := filepath.Join(vectors, name)
		known[strings.TrimSuffix(name, ".txt")] = true
		if *update && name != "example.txt" {
			text, err := label.Text(good)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := label.FromText(strings.TrimSuffix(string(text), "\n")); err != nil || !bytes.Equal(got, good) {
			t.Errorf("%s holds another label: %v", name, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(vectors, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[strings.TrimSuffix(filepath.Base(f), filepath.Ext(f))] {
			t.Errorf("%s is no vector of this test", f)
		}
	}
}

// notation says in diagnostic notation (RFC 8949 section 8) what data is, and
// first what becomes of it.
func notation(t *testing.T, data []byte, refusal error) []byte {
	t.Helper()
	first := fmt.Sprintf("/ accepted at %d /\n", now)
	if refusal != nil {
		first = "/ refused: " + refusal.Error() + " /\n"
	}
	outer, err := cbor.Diagnose(data)
	if err != nil {
		return []byte(first + "/ not one well-formed item / h'" + hex.EncodeToString(data) + "'\n")
	}
	u, err := cose.Parse(data, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := cbor.Diagnose(u.UnverifiedPayload())
	if err != nil {
		t.Fatal(err)
	}
	return []byte(first + outer + "\n/ payload /\n" + payload + "\n")
}

// TestIndependentReader lets another implementation read a label from the text of
// its code: Python inflates it, cbor2 decodes it and gives the same bytes again,
// openssl verifies the signature over the Sig_structure of RFC 9052.
func TestIndependentReader(t *testing.T) {
	const script = `
import sys, zlib, cbor2
digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
text = open(sys.argv[1]).read().rstrip("\n")
assert text[:4] in ("MF1:", "MF2:")
n, z = [digits.index(c) for c in text[4:]], b""
for i in range(0, len(n), 3):
    g = n[i:i+3]
    z += sum(d * 45**k for k, d in enumerate(g)).to_bytes(len(g) - 1, "big")
if text.startswith("MF1:"):
    z = zlib.decompress(z)
else:
    z = zlib.decompressobj(-15, zdict=open(sys.argv[4], "rb").read()).decompress(z)
tag = cbor2.loads(z)
assert tag.tag == 18
protected, unprotected, payload, signature = tag.value
assert unprotected == {} and set(cbor2.loads(protected)) == {1, 4, 16}
content = cbor2.loads(payload)
assert cbor2.dumps(content, canonical=True) == payload
aad = b"miotfacts " + cbor2.loads(protected)[16].encode()
open(sys.argv[2], "wb").write(cbor2.dumps(["Signature1", protected, aad, payload]))
open(sys.argv[3], "wb").write(signature)
print(content[3])
`
	dir := t.TempDir()
	message, signature, public := filepath.Join(dir, "message"), filepath.Join(dir, "signature"), filepath.Join(dir, "public.pem")
	text, err := fixed(t, "label").Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(public, text, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(apt, name string, args ...string) string {
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v (Debian package %s)\n%s", name, err, apt, out)
		}
		return string(out)
	}
	for _, name := range []string{"example.txt", "example-2.txt"} {
		out := run("python3-cbor2", "/usr/bin/python3", "-c", script, filepath.Join(vectors, name), message, signature, "dictionary.bin") // where Debian puts it
		if strings.TrimSpace(out) != "wearable-1" {
			t.Errorf("%s: cbor2 reads %q, want the model", name, out)
		}
		run("openssl", "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", message, "-sigfile", signature)
	}
}

// TestDictionary holds that the dictionary is what it was when the first labels were
// printed with it, and that the page and the description have the same.
func TestDictionary(t *testing.T) {
	data, err := os.ReadFile("dictionary.bin")
	if err != nil {
		t.Fatal(err)
	}
	const sum = "f2097dac5194185c9a6677a90b25dd3e9536371807adc3bdd32917c52e279fd2"
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
		t.Errorf("dictionary.bin is another: %x", got)
	}
	for file, part := range map[string]string{"verify.html": base64.StdEncoding.EncodeToString(data), "../docs/label.cddl": sum} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(text, []byte(part)) {
			t.Errorf("%s has another dictionary", file)
		}
	}
}

// A label in words that the dictionary does not have is compressed less, and takes a
// lower level of error correction, no larger code.
func TestForeignWords(t *testing.T) {
	for name, change := range map[string]func(*label.Label){
		"as it is": func(*label.Label) {},
		"in other words": func(l *label.Label) {
			turn := func(s *string) {
				b := []byte(*s)
				if slices.ContainsFunc(b, func(c byte) bool { return c > 126 }) {
					return
				}
				for i, c := range b {
					if c >= 'a' && c <= 'z' {
						b[i] = 'a' + (c-'a'+byte(7*i)+11)%26
					}
				}
				*s = string(b)
			}
			for i := range l.Sensors {
				turn(&l.Sensors[i].Name)
				turn(&l.Sensors[i].Yields)
			}
			turn(&l.Actuators[0].Name)
			turn(&l.Actuators[0].Does)
			turn(&l.Responsible.Name)
			for i := range l.Deletion {
				turn(&l.Deletion[i].Of)
				turn(&l.Deletion[i].How)
			}
			for i := range l.Inspection.Parameters {
				turn(&l.Inspection.Parameters[i].Reason)
			}
		},
	} {
		text, err := label.Text(sign(t, example(t, change), fixed(t, "label")))
		if err != nil {
			t.Fatal(err)
		}
		c, err := label.NewCode(text)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d characters, version %d, level %s", name, len(text), c.Version, c.Level)
		if want := map[string]string{"as it is": "H", "in other words": "M"}[name]; c.Level != want || c.Version > label.MaxVersion {
			t.Errorf("%s: version %d, level %s, want at most %d, %s", name, c.Version, c.Level, label.MaxVersion, want)
		}
	}
}

// TestCDDL holds that docs/label.cddl names the keys that the wire structs have,
// and marks as optional those that may be left out.
func TestCDDL(t *testing.T) {
	text, err := os.ReadFile("../docs/label.cddl")
	if err != nil {
		t.Fatal(err)
	}
	for rule, wire := range map[string]any{
		"label": label.Label{}, "sensor": label.Sensor{}, "actuator": label.Actuator{}, "connection": label.Connection{},
		"place": label.Place{}, "entity": label.Entity{}, "attribute": label.Attribute{}, "deletion": label.Deletion{},
		"runtime": label.Runtime{}, "range": label.Range{}, "updates": label.Updates{}, "sbom": label.SBOM{},
		"inspection": label.Inspection{}, "parameter": label.Parameter{}, "component": label.Component{},
	} {
		_, body, ok := strings.Cut(string(text), "\n"+rule+" = {\n")
		body, _, ok2 := strings.Cut(body, "\n}")
		if !ok || !ok2 {
			t.Errorf("label.cddl has no rule %s", rule)
			continue
		}
		var got, want []string
		for _, m := range regexp.MustCompile(`(?m)^  (\? )?(\d+) => `).FindAllStringSubmatch(body, -1) {
			got = append(got, m[1]+m[2])
		}
		for f := range reflect.TypeOf(wire).Fields() {
			key, optional, _ := strings.Cut(f.Tag.Get("cbor"), ",keyasint")
			if optional == ",omitempty" {
				key = "? " + key
			}
			want = append(want, key)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("label.cddl, %s: keys %q, the struct has %q", rule, got, want)
		}
	}
}
