package reference_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// seeds adds what testdata/fuzz does not hold: the vectors and examples. With
// -update it writes one seed of each target there.
func seeds(f *testing.F, pattern string, content func([]byte) []byte) {
	f.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) == 0 {
		f.Fatalf("no seeds in %s: %v", pattern, err)
	}
	for i, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		if data = content(data); data == nil {
			continue
		}
		f.Add(data)
		if *update && i < 3 {
			dir := filepath.Join("testdata", "fuzz", f.Name())
			text := fmt.Appendf(nil, "go test fuzz v1\n[]byte(%q)\n", data)
			name := filepath.Base(path[:len(path)-len(filepath.Ext(path))])
			if err := os.MkdirAll(dir, 0o755); err != nil {
				f.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				f.Fatal(err)
			}
		}
	}
}

// payload returns what a vector signs, nil for one that is no signed document.
func payload(data []byte) []byte {
	u, err := cose.Parse(data, reference.MaxManifestSize)
	if err != nil {
		return nil
	}
	return u.UnverifiedPayload()
}

func FuzzAuthor(f *testing.F) {
	seeds(f, examples+"/*.toml", func(data []byte) []byte { return data })
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ps := reference.Author(data)
		lines := 1 + bytes.Count(data, []byte("\n"))
		for _, p := range ps {
			if p.Line < 0 || p.Line > lines || p.Message == "" || p.Fix == "" {
				t.Fatalf("problem %+v in %d lines", p, lines)
			}
		}
		if (m == nil) == slicesOK(ps) {
			t.Fatalf("manifest %v with %v", m != nil, ps)
		}
		if m != nil {
			roundTrip(t, m)
		}
	})
}

// The targets below sign what the fuzzer made: behind a signature nothing would
// be reached.

func FuzzOpenManifest(f *testing.F) {
	w := fixedWorld(f)
	seeds(f, vectors+"/manifest/*.cbor", payload)
	f.Fuzz(func(t *testing.T, data []byte) {
		trust := w.trust(t)
		if _, err := trust.AddKeys(w.keys); err != nil {
			t.Fatal(err)
		}
		if _, err := trust.OpenManifest(data, reference.Want{}, reference.At(now)); err == nil {
			t.Fatalf("bytes without a signature were opened: %x", data)
		}
		r, err := trust.OpenManifest(signBytes(t, w.manifest, cose.Manifest, data), reference.Want{}, reference.At(now))
		if err != nil {
			return
		}
		if !bytes.Equal(encode(t, r.Manifest()), data) || !slicesOK(r.Manifest().Check()) {
			t.Fatalf("opened as another manifest: %x", data)
		}
	})
}

func FuzzAddKeys(f *testing.F) {
	w := fixedWorld(f)
	seeds(f, vectors+"/keys/*.cbor", payload)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := w.trust(t).AddKeys(data); err == nil {
			t.Fatalf("bytes without a signature were taken: %x", data)
		}
		l, err := w.trust(t).AddKeys(signBytes(t, w.root, cose.KeyList, data))
		if err != nil {
			return
		}
		again, err := cose.Encode(l)
		if err != nil || !bytes.Equal(again, data) || l.Owner != reference.Manufacturer {
			t.Fatalf("taken as another list: %x, %v", data, err)
		}
	})
}

func FuzzOpenCommand(f *testing.F) {
	w := fixedWorld(f)
	device := bytes.Repeat([]byte{1}, 17)
	seeds(f, vectors+"/command/*.cbor", payload)
	f.Fuzz(func(t *testing.T, data []byte) {
		trust := w.trust(t)
		if _, err := trust.AddKeys(w.operatorKeys); err != nil {
			t.Fatal(err)
		}
		if _, err := trust.OpenCommand(data, reference.Resume, device, "pump-1", reference.At(now)); err == nil {
			t.Fatalf("bytes without a signature were accepted: %x", data)
		}
		o, err := trust.OpenCommand(signBytes(t, w.resume, cose.Command, data), reference.Resume, device, "pump-1", reference.At(now))
		if err != nil {
			return
		}
		again, err := cose.Encode(o.Command())
		if err != nil || !bytes.Equal(again, data) || len(o.Command().Pause) != 16 {
			t.Fatalf("accepted as another command: %x, %v", data, err)
		}
	})
}
