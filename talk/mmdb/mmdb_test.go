package mmdb_test

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/talk/mmdb"
	"github.com/miotfacts/miotfacts/talk/mmdb/mmdbtest"
)

var rows = []mmdbtest.Row{
	{Prefix: "203.0.113.0/25", Country: "US", City: "Ashburn", Operator: "AMAZON-AES"},
	{Prefix: "203.0.113.128/25", Country: "CA", Operator: "AMAZON-02"},
	{Prefix: "2001:db8:1::/48", Country: "DE", Operator: strings.Repeat("Long name ", 40)},
}

var wanted = map[string]mmdb.Origin{
	"203.0.113.7":   {Country: "US", City: "Ashburn", Operator: "AMAZON-AES"},
	"203.0.113.200": {Country: "CA", Operator: "AMAZON-02"},
	"2001:db8:1::9": {Country: "DE", Operator: strings.Repeat("Long name ", 40)},
	"198.51.100.1":  {},
	"2001:db8:2::9": {},
}

func TestLook(t *testing.T) {
	for _, size := range []int{24, 28, 32} {
		table, err := mmdb.Open(mmdbtest.Table(size, rows))
		if err != nil {
			t.Fatal(err)
		}
		for addr, want := range wanted {
			got, err := mmdb.Find([]*mmdb.Table{table}, netip.MustParseAddr(addr))
			if err != nil || got != want {
				t.Errorf("%d bits: %s is %+v, %v; want %+v", size, addr, got, err, want)
			}
		}
	}
}

// MaxMind's own reader finds the same in the tables of these tests.
func TestOtherReaderAgrees(t *testing.T) {
	lookup, err := exec.LookPath("mmdblookup")
	if err != nil {
		t.Fatalf("%v (Debian package mmdb-bin)", err)
	}
	for _, size := range []int{24, 28, 32} {
		file := filepath.Join(t.TempDir(), "t.mmdb")
		if err := os.WriteFile(file, mmdbtest.Table(size, rows), 0o644); err != nil {
			t.Fatal(err)
		}
		for addr, want := range wanted {
			out, err := exec.Command(lookup, "--file", file, "--ip", addr, "country", "iso_code").CombinedOutput()
			if want.Country == "" {
				if err == nil {
					t.Errorf("%s: found %s", addr, out)
				}
				continue
			}
			if err != nil || !strings.Contains(string(out), `"`+want.Country+`"`) {
				t.Errorf("%d bits: %s: %s, %v", size, addr, out, err)
			}
		}
	}
}

func TestRefused(t *testing.T) {
	good := mmdbtest.Table(24, rows)
	for what, file := range map[string][]byte{
		"empty": nil, "text": []byte("no table"), "cut in front": good[len(good)/2:], "cut behind": good[:len(good)-20],
	} {
		if _, err := mmdb.Open(file); !errors.Is(err, mmdb.ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, size := range []int{24, 28, 32} {
		f.Add(mmdbtest.Table(size, rows), []byte{203, 0, 113, 7})
	}
	f.Add(mmdbtest.Table(24, rows), make([]byte, 16))
	f.Fuzz(func(t *testing.T, file, addr []byte) {
		a, ok := netip.AddrFromSlice(addr)
		table, err := mmdb.Open(file)
		if err != nil || !ok {
			return
		}
		if _, _, err := table.Look(a); err != nil && !errors.Is(err, mmdb.ErrFormat) {
			t.Fatal(err)
		}
	})
}
