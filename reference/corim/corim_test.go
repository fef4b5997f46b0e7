package corim_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/corim"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// That the result is what the draft defines, test/interop has another
// implementation say.
func TestExport(t *testing.T) {
	m := referencetest.Example()
	one, _, err := corim.Export(&m)
	if err != nil {
		t.Fatal(err)
	}
	if again, _, err := corim.Export(&m); err != nil || !bytes.Equal(one, again) {
		t.Errorf("another export of the same: %v", err)
	}
	if want := []byte{0xd9, 0x01, 0xf5}; !bytes.HasPrefix(one, want) {
		t.Errorf("%x, want tag 501", one[:3])
	}
	// Nothing of it has a form: no empty document is taken for one that says something.
	m.Integration, m.FailSafe, m.Boot = nil, nil, nil
	m.Operating = []reference.Rule{{Fact: 1, Op: reference.SubsetOf, Values: []facts.Value{facts.SetValue([]string{"a"})}}}
	if _, _, err := corim.Export(&m); err == nil || !strings.Contains(err.Error(), "no form for any") {
		t.Errorf("%v", err)
	}
}
