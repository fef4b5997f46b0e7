// Package corim writes a manifest's reference values as a Concise Reference
// Integrity Manifest, so that verifiers of others can use them.
//
// It translates and checks nothing: who takes the result trusts whoever gave or
// signed it. What CoRIM has no form for is left out and named. Nothing here is read
// back: a device reads only its own, small form.
//
// Specification: draft-ietf-rats-corim, with the digests of
// draft-ietf-rats-eat-measured-component. It has no notion of a device's stages:
// each is a CoMID of its own, and the index of its class.
package corim

import (
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// The media types of what Export and Sign write.
const (
	MediaType       = "application/rim+cbor"
	SignedMediaType = "application/rim+cose"
)

// The CBOR tags of the draft, and of RFC 8949.
const (
	tagEpoch    = 1
	tagUnsigned = 501
	tagCoMID    = 506
	tagBytes    = 560
	tagRange    = 564
)

// Roles of entities.
const (
	manifestCreator = 1 // of a CoRIM
	tagCreator      = 0 // of a CoMID
)

// A corim is a corim-map.
type corim struct {
	ID       string     `cbor:"0,keyasint"`
	Tags     []cbor.Tag `cbor:"1,keyasint"`
	Validity validity   `cbor:"4,keyasint"`
	Entities []entity   `cbor:"5,keyasint"`
}

type validity struct {
	NotBefore cbor.Tag `cbor:"0,keyasint"`
	NotAfter  cbor.Tag `cbor:"1,keyasint"`
}

type entity struct {
	Name  string `cbor:"0,keyasint"`
	Roles []int  `cbor:"2,keyasint"`
}

// A comid is a concise-mid-tag.
type comid struct {
	Identity identity `cbor:"1,keyasint"`
	Entities []entity `cbor:"2,keyasint"`
	Triples  triples  `cbor:"4,keyasint"`
}

type identity struct {
	ID      string `cbor:"0,keyasint"`
	Version uint64 `cbor:"1,keyasint"` // the manifest's sequence
}

type triples struct {
	References []triple `cbor:"0,keyasint"`
}

// A triple is a reference-triple-record: its measurements belong together.
type triple struct {
	_            struct{} `cbor:",toarray"`
	Environment  environment
	Measurements []measurement
}

type environment struct {
	Class class `cbor:"0,keyasint"`
}

type class struct {
	Vendor string `cbor:"1,keyasint"`
	Model  string `cbor:"2,keyasint"`
	Index  uint   `cbor:"4,keyasint"` // the stage, by its number in reports; 0 for what holds in all
}

type measurement struct {
	Key    string `cbor:"0,keyasint"`
	Values values `cbor:"1,keyasint"`
}

// values is a measurement-values-map.
type values struct {
	Version *version `cbor:"0,keyasint,omitempty"`
	Digests []digest `cbor:"2,keyasint,omitempty"`
	Raw     any      `cbor:"4,keyasint,omitempty"`
	Name    string   `cbor:"11,keyasint,omitempty"`
	Range   any      `cbor:"15,keyasint,omitempty"` // a number, or tag 564 over two
}

type version struct {
	Version string `cbor:"0,keyasint"`
}

type digest struct {
	_         struct{} `cbor:",toarray"`
	Algorithm int      // of the Named Information Hash Algorithm Registry
	Value     []byte
}

// algorithms by the length of their digests.
var algorithms = map[int]int{32: 1, 48: 7, 64: 8}

// Export returns an unsigned CoRIM, and in words what it leaves out.
func Export(m *reference.Manifest) ([]byte, []string, error) {
	vocabulary, err := m.Vocabulary()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot export manifest: %w", err)
	}
	x := &exporter{m: m, vocabulary: vocabulary}
	for _, s := range []reference.Stage{reference.StageIntegration, reference.StageOperating, reference.StagePaused} {
		x.stage(s)
	}
	x.boot()
	x.files()
	id := fmt.Sprintf("%s/%s/%d", m.Vendor, m.Model, m.Sequence)
	out := corim{ID: id, Validity: validityOf(m),
		Entities: []entity{{m.Vendor, []int{manifestCreator}}}}
	for _, t := range x.tags {
		t.Identity = identity{id + "/" + t.Identity.ID, m.Sequence}
		t.Entities = []entity{{m.Vendor, []int{tagCreator}}}
		data, err := cose.Encode(t)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot export manifest: %w", err)
		}
		out.Tags = append(out.Tags, cbor.Tag{Number: tagCoMID, Content: data})
	}
	if len(out.Tags) == 0 {
		return nil, nil, fmt.Errorf("cannot export manifest: CoRIM has no form for any of its references")
	}
	data, err := cose.Encode(cbor.Tag{Number: tagUnsigned, Content: out})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot export manifest: %w", err)
	}
	return data, x.left, nil
}

// headerMeta is the protected header corim-meta.
const headerMeta = 8

// meta is a corim-meta-map.
type meta struct {
	Signer   signer   `cbor:"0,keyasint"`
	Validity validity `cbor:"1,keyasint"`
}

type signer struct {
	Name string `cbor:"0,keyasint"`
}

// Sign returns what Export wrote as a signed CoRIM, of the manifest's vendor and
// validity.
func Sign(m *reference.Manifest, exported []byte, key *cose.Signer) ([]byte, error) {
	header, err := cose.Encode(meta{signer{m.Vendor}, validityOf(m)})
	if err != nil {
		return nil, fmt.Errorf("cannot sign CoRIM: %w", err)
	}
	return key.SignForeign(cose.Foreign{Content: MediaType, Label: headerMeta, Header: header}, exported)
}

func validityOf(m *reference.Manifest) validity {
	return validity{cbor.Tag{Number: tagEpoch, Content: m.NotBefore}, cbor.Tag{Number: tagEpoch, Content: m.NotAfter}}
}

type exporter struct {
	m          *reference.Manifest
	vocabulary *facts.Vocabulary
	tags       []comid
	left       []string
}

// tag adds a CoMID of triples, each with its own measurements.
func (x *exporter) tag(name string, index uint, alternatives [][]measurement) {
	if len(alternatives) == 0 {
		return
	}
	t := comid{Identity: identity{ID: name}}
	for _, list := range alternatives {
		t.Triples.References = append(t.Triples.References, triple{Environment: environment{class{x.m.Vendor, x.m.Model, index}}, Measurements: list})
	}
	x.tags = append(x.tags, t)
}

func (x *exporter) leave(format string, args ...any) {
	x.left = append(x.left, fmt.Sprintf(format, args...))
}

// stage exports the rules of one comparison: a triple for each, and for each of its
// values where any of several is sound.
func (x *exporter) stage(s reference.Stage) {
	name := s.String()
	if s == reference.StagePaused {
		name = "fail-safe"
	}
	var list [][]measurement
	for i, r := range x.m.Rules(s) {
		key := fmt.Sprintf("fact %d", r.Fact)
		if def, ok := x.vocabulary.ByKey(r.Fact); ok {
			key = def.Name
		}
		one := func(v values) { list = append(list, []measurement{{key, v}}) }
		switch r.Op {
		case reference.Range:
			one(values{Range: cbor.Tag{Number: tagRange, Content: []*int64{r.Min, r.Max}}})
		case reference.Equal, reference.OneOf:
			for _, v := range r.Values {
				if form, ok := valuesOf(v); ok {
					one(form)
				} else {
					x.leave("%s rule %d, %s: a value of kind %v", name, i, key, v.Kind())
				}
			}
		default:
			x.leave("%s rule %d, %s: %v", name, i, key, r.Op)
		}
	}
	x.tag(name, uint(s), list)
}

func valuesOf(v facts.Value) (values, bool) {
	switch v.Kind() {
	case facts.Int:
		return values{Range: v.Int()}, true
	case facts.Bool:
		n := int64(0)
		if v.Bool() {
			n = 1
		}
		return values{Range: n}, true
	case facts.Text:
		return values{Name: v.Text()}, v.Text() != ""
	case facts.Bytes:
		return values{Raw: cbor.Tag{Number: tagBytes, Content: v.Bytes()}}, true
	}
	return values{}, false
}

// boot exports the sound versions of what boots: the events of a version belong
// together, and those that may be missing stand alone.
func (x *exporter) boot() {
	for _, g := range x.m.BootEvents {
		var list [][]measurement
		for _, v := range g.Versions {
			var whole []measurement
			for i, e := range v.Events {
				if len(e.Digest) == 0 {
					x.leave("boot %s %s, PCR %d: %s, which may be anything", g.Name, v.Name, e.PCR, e.Subject)
					continue
				}
				m := measurement{fmt.Sprintf("boot.%s.%d.pcr%d", g.Name, i, e.PCR), values{Version: &version{v.Name}, Digests: []digest{{Algorithm: algorithms[32], Value: e.Digest}}, Name: e.Subject}}
				if e.Optional {
					list = append(list, []measurement{m})
				} else {
					whole = append(whole, m)
				}
			}
			if len(whole) > 0 {
				list = append(list, whole)
			}
		}
		x.tag("boot."+g.Name, 0, list)
	}
}

// files exports the files that IMA may measure.
func (x *exporter) files() {
	f := x.m.Files
	if f == nil {
		return
	}
	var list [][]measurement
	for _, file := range f.Allow {
		list = append(list, []measurement{{"file." + file.Name, values{Digests: []digest{{Algorithm: algorithms[len(file.Digest)], Value: file.Digest}}}}})
	}
	x.tag("files", 0, list)
	if n := len(f.Signers); n > 0 {
		x.leave("%d signers of files", n)
	}
	if len(f.Attachment) > 0 {
		x.leave("the list of files with SHA-256 %x", f.Attachment)
	}
	if n := len(f.Exclude); n > 0 {
		x.leave("%d beginnings of names that are not looked at", n)
	}
}
