package quarantine

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzSplit holds that no answer breaks the reader, and that what it takes for an
// error of the kernel has a number.
func FuzzSplit(f *testing.F) {
	c := new(conn)
	object := c.appendMessage(nil, nftables|unix.NFT_MSG_NEWRULE, 0, unix.NFPROTO_INET, 0, []attr{nest(unix.NFTA_RULE_EXPRESSIONS, rules(unix.NF_INET_LOCAL_IN, nil)[0]...)})
	f.Add(object, true)
	f.Add(append(object, 20, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), true)
	f.Add([]byte{20, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff}, false)
	f.Add(object[:len(object)-3], false)
	f.Fuzz(func(t *testing.T, data []byte, list bool) {
		objects, _, err := split(data, 1, list)
		if no, ok := errors.AsType[unix.Errno](err); ok && no == 0 {
			t.Error("an error without a number")
		}
		for _, o := range objects {
			contains(o, nest(unix.NFTA_RULE_EXPRESSIONS, verdict(accepted)))
			count(o, unix.NFTA_RULE_EXPRESSIONS)
		}
	})
}

// What is written is read back, and a kernel without nf_tables is told apart.
func TestAttributes(t *testing.T) {
	want := rules(unix.NF_INET_LOCAL_OUT, nil)[1]
	data := nest(unix.NFTA_RULE_EXPRESSIONS, want...)
	if !contains(data, nest(unix.NFTA_RULE_EXPRESSIONS, want...)) || count(data, unix.NFTA_RULE_EXPRESSIONS) != len(want) {
		t.Errorf("%x", data)
	}
	want[0], want[2] = want[2], want[0]
	if contains(data, nest(unix.NFTA_RULE_EXPRESSIONS, want...)) {
		t.Error("in another order it is the same")
	}
	for _, no := range []unix.Errno{unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT, unix.EOPNOTSUPP} {
		if err := explain(fmt.Errorf("x: %w", no)); !errors.Is(err, ErrAbsent) {
			t.Error(err)
		}
	}
}
