package interop

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cmw"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/corim"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// TestCorim has cbor2 read a manifest's CoRIM and hold it against the draft's
// definitions, and compares what it found with the manifest.
func TestCorim(t *testing.T) {
	m := referencetest.Example()
	digest := bytes.Repeat([]byte{0xd1}, 32)
	low, high := int64(-5), int64(1<<40)
	m.Integration = []reference.Rule{
		{Fact: 1, Op: reference.Range, Min: &low, Max: &high},
		{Fact: 1, Op: reference.Range, Max: &high},
		{Fact: 12, Op: reference.OneOf, Values: []facts.Value{facts.BytesValue(digest), facts.BytesValue([]byte{1})}},
		{Fact: 13, Op: reference.Equal, Values: []facts.Value{facts.TextValue("quiet")}},
		{Fact: 1, Op: reference.IsAbsent},
	}
	m.Boot = &reference.Boot{PCRs: []int{4}}
	m.BootEvents = []reference.BootGroup{{Name: "system", Versions: []reference.BootVersion{
		{Name: "1.2.0", Events: []reference.BootEvent{{PCR: 4, Digest: digest, Subject: "boot application"}, {PCR: 11, Digest: digest, Subject: "boot phase", Optional: true}, {PCR: 9, Subject: "initial RAM disk"}}},
		{Name: "1.3.0", Events: []reference.BootEvent{{PCR: 4, Digest: digest, Subject: "boot application"}}},
	}}}
	m.Files = &reference.Files{Allow: []reference.File{{Name: "/bin/a", Digest: digest}, {Name: "/bin/b", Digest: bytes.Repeat([]byte{2}, 64)}}, Attachment: digest}
	data, left, err := corim.Export(&m)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "corim")
	write(t, file, data)
	var read struct {
		ID     string             `json:"id"`
		COMIDs map[string][][]any `json:"comids"`
		Until  int64              `json:"until"`
	}
	if err := json.Unmarshal([]byte(command(t, "python3-cbor2", debianPython, "corim.py", file)), &read); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("%s/%s/%d", m.Vendor, m.Model, m.Sequence)
	if read.ID != id || read.Until != m.NotAfter {
		t.Errorf("%s until %d", read.ID, read.Until)
	}
	name := func(k facts.Key) string {
		v, err := m.Vocabulary()
		if err != nil {
			t.Fatal(err)
		}
		def, _ := v.ByKey(k)
		return def.Name
	}
	d := hex.EncodeToString(digest)
	for comid, want := range map[string][]string{
		"integration": {
			fmt.Sprintf("[1 %s map[15:[-5 1.099511627776e+12]]]", name(1)), fmt.Sprintf("[1 %s map[15:[<nil> 1.099511627776e+12]]]", name(1)),
			fmt.Sprintf("[1 %s map[4:%s]]", name(12), d), fmt.Sprintf("[1 %s map[4:01]]", name(12)), fmt.Sprintf("[1 %s map[11:quiet]]", name(13)),
		},
		"boot.system": {
			fmt.Sprintf("[0 boot.system.1.pcr11 map[0:map[0:1.2.0] 11:boot phase 2:[[1 %s]]]]", d), fmt.Sprintf("[0 boot.system.0.pcr4 map[0:map[0:1.2.0] 11:boot application 2:[[1 %s]]]]", d),
			fmt.Sprintf("[0 boot.system.0.pcr4 map[0:map[0:1.3.0] 11:boot application 2:[[1 %s]]]]", d),
		},
		"files": {fmt.Sprintf("[0 file./bin/a map[2:[[1 %s]]]]", d), "[0 file./bin/b map[2:[[8 " + strings.Repeat("02", 64) + "]]]]"},
	} {
		var got []string
		for _, x := range read.COMIDs[id+"/"+comid] {
			got = append(got, fmt.Sprint(x))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", comid, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	for _, want := range []string{"absent", "PCR 9: initial RAM disk, which may be anything", "the list of files"} {
		if !slices.ContainsFunc(left, func(l string) bool { return strings.Contains(l, want) }) {
			t.Errorf("nothing says that %q is left out: %q", want, left)
		}
	}
}

// TestConceptualMessage has cbor2 read a record of RFC 9999.
func TestConceptualMessage(t *testing.T) {
	data, err := cmw.Wrap(cmw.Record{Type: corim.MediaType, Value: []byte("rim"), Kind: cmw.ReferenceValues})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cmw")
	write(t, file, data)
	out := command(t, "python3-cbor2", debianPython, "-c", "import cbor2, sys; print(cbor2.load(open(sys.argv[1], 'rb')))", file)
	if want := "['application/rim+cbor', b'rim', 1]\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
}

// TestSignedCorim has cbor2 read a signed CoRIM and OpenSSL verify it, as a reader who
// knows nothing of us does; and nothing of ours takes it for a document of ours.
func TestSignedCorim(t *testing.T) {
	m := referencetest.Example()
	data, _, err := corim.Export(&m)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range signers(t) {
		signed, err := corim.Sign(&m, data, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cose.Parse(signed, 1<<20); err == nil {
			t.Errorf("%s: it passes for a document of ours", name)
		}
		dir := t.TempDir()
		file := filepath.Join(dir, "corim")
		write(t, file, signed)
		const script = `
import cbor2, sys
d = cbor2.load(open(sys.argv[1], 'rb'))
assert d.tag == 18
protected, unprotected, payload, signature = d.value
head = cbor2.loads(protected)
meta = cbor2.loads(head[8])
assert sorted(head) == [1, 3, 4, 8] and unprotected == {} and cbor2.loads(payload).tag == 501, head
open(sys.argv[1] + '.tbs', 'wb').write(cbor2.dumps(['Signature1', protected, b'', payload], canonical=True))
open(sys.argv[1] + '.sig', 'wb').write(signature)
open(sys.argv[1] + '.payload', 'wb').write(payload)
print(head[1], head[3], meta[0][0], int(meta[1][1].timestamp()))
`
		out := command(t, "python3-cbor2", debianPython, "-c", script, file)
		alg := map[string]int{"ES256": -7, "Ed25519": -8}[name]
		if want := fmt.Sprintf("%d application/rim+cbor %s %d\n", alg, m.Vendor, m.NotAfter); out != want {
			t.Errorf("%s: %q, want %q", name, out, want)
		}
		command(t, "python3-cbor2", debianPython, "corim.py", file+".payload")
		opensslVerifies(t, file, key.Public())
	}
}
