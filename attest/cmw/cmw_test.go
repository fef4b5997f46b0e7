package cmw_test

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	. "github.com/miotfacts/miotfacts/attest/cmw"
)

func TestWrap(t *testing.T) {
	for want, r := range map[string]Record{
		"8319010742a10004":                  {Format: EAT, Value: []byte{0xa1, 0}, Kind: EvidenceKind},
		"82" + "63612f62" + "4101":          {Type: "a/b", Value: []byte{1}},
		"83" + "63612f62" + "4101" + "181f": {Type: "a/b", Value: []byte{1}, Kind: 31},
	} {
		data, err := Wrap(r)
		if err != nil || hex.EncodeToString(data) != want {
			t.Errorf("%x, %v, want %s", data, err, want)
		}
		got, err := Unwrap(data, 100)
		if err != nil || got.Type != r.Type || got.Format != r.Format || got.Kind != r.Kind || !bytes.Equal(got.Value, r.Value) {
			t.Errorf("%+v, %v, want %+v", got, err, r)
		}
	}
}

func TestRefused(t *testing.T) {
	for data, want := range map[string]string{
		"":                         "no record",
		"a0":                       "no record",
		"84190107410041004100":     "no record",
		"8219010740":               "no value",
		"8219010701":               "no value",
		"8219010741":               "cannot read",
		"82fb3ff00000000000004101": "neither a media type nor a content format",
		"821a0001000041 01":        "neither a media type nor a content format",
		"82604101":                 "neither a media type nor a content format",
		"83190107410100":           "none of five bits",
		"831901074101 1820":        "none of five bits",
		"8319010741 0120":          "none of five bits",
		"82190107410100":           "cannot read",
		"821a000001074101":         "deterministic",
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(data, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Unwrap(raw, 100); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", data, err, want)
		}
	}
	if _, err := Unwrap([]byte{0x82, 0x19, 1, 7, 0x41, 1}, 5); err == nil {
		t.Error("too large")
	}
}

func FuzzUnwrap(f *testing.F) {
	for _, r := range []Record{{Format: EAT, Value: []byte("report"), Kind: EvidenceKind}, {Type: Evidence, Value: []byte("bundle")}} {
		data, err := Wrap(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Unwrap(data, 1<<16)
		if err != nil {
			return
		}
		again, err := Wrap(r)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x is %+v and wraps to %x, %v", data, r, again, err)
		}
	})
}
