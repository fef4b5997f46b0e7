package label

import (
	"bytes"
	"testing"
)

// The examples of RFC 9285, section 4.3 and 4.4.
func TestBase45(t *testing.T) {
	for plain, coded := range map[string]string{"": "", "AB": "BB8", "Hello!!": "%69 VD92EX0", "base-45": "UJCLQE7W581", "ietf!": "QED8WEX0", "\xff\xff": "FGW"} {
		if got := base45([]byte(plain)); got != coded {
			t.Errorf("%q is %q, want %q", plain, got, coded)
		}
		if got, err := fromBase45(coded); err != nil || string(got) != plain {
			t.Errorf("%q is %q, %v, want %q", coded, got, err, plain)
		}
	}
	for _, bad := range []string{"GGW", ":::", "A", "BB8A", "::", "ab8", "BB8\n0", "Ä0"} {
		if got, err := fromBase45(bad); err == nil {
			t.Errorf("%q was accepted as %q", bad, got)
		}
	}
}

func FuzzBase45(f *testing.F) {
	for _, s := range []string{"", "BB8", "%69 VD92EX0", "GGW", "A"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if back, err := fromBase45(base45([]byte(s))); err != nil || !bytes.Equal(back, []byte(s)) {
			t.Fatalf("%q came back as %q, %v", s, back, err)
		}
		if data, err := fromBase45(s); err == nil && base45(data) != s {
			t.Fatalf("%q is a second form of %q", s, base45(data))
		}
	})
}
