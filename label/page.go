package label

import (
	"bytes"
	_ "embed" // the page is part of the program; nothing is read when it runs
	"encoding/json"
	"fmt"

	"github.com/miotfacts/miotfacts/attest/cose"
)

// verifyPage is the page that verifies labels without a server. Its own scripts do
// there what Scan and Open do here; tests run both over the same documents.
//
//go:embed verify.html
var verifyPage []byte

// An Issuer is whom a page trusts: a root and the key lists that it signed.
type Issuer struct {
	Root  *cose.PublicKey
	Lists [][]byte // signed
}

// Page returns the page that verifies labels, with issuers written into it. It
// checks the lists itself when it is opened.
func Page(issuers ...Issuer) ([]byte, error) {
	type issuer struct {
		Root string   `json:"root"`
		Keys [][]byte `json:"keys"`
	}
	list := []issuer{}
	for _, i := range issuers {
		root, err := i.Root.PEM()
		if err != nil {
			return nil, fmt.Errorf("cannot make page: %w", err)
		}
		list = append(list, issuer{string(root), append([][]byte{}, i.Lists...)})
	}
	text, err := json.Marshal(list) // escapes what would end the element it stands in
	if err != nil {
		return nil, fmt.Errorf("cannot make page: %w", err)
	}
	const empty = `id="issuers">[]<`
	if bytes.Count(verifyPage, []byte(empty)) != 1 {
		return nil, fmt.Errorf("internal error: the page has no place for issuers")
	}
	return bytes.Replace(verifyPage, []byte(empty), fmt.Appendf(nil, `id="issuers">%s<`, text), 1), nil
}
