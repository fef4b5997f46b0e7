package attest

import (
	"errors"
	"fmt"

	"github.com/miotfacts/miotfacts/attest/cose"
)

// MaxBundleSize bounds a bundle in bytes: the logs, unpacked, and a message.
const MaxBundleSize = 100 << 20

// A Bundle is all that a device has to show of one boot, to be checked elsewhere:
// a message, and the logs that its quote proves. The keys in it are the word of
// whoever made it.
type Bundle struct {
	Version uint            `cbor:"1,keyasint"`           // of this format: 1
	Message []byte          `cbor:"2,keyasint"`           // as the device sent it: a boot report or the answer to a challenge
	Key     *cose.PublicKey `cbor:"3,keyasint"`           // device key
	AK      []byte          `cbor:"4,keyasint,omitempty"` // attestation key, TPMT_PUBLIC; missing without a TPM
	Logs    map[Log][]byte  `cbor:"5,keyasint,omitempty"` // as far as they came, from their beginning
}

// DecodeBundle decodes a bundle. Nothing in it has been checked.
func DecodeBundle(data []byte) (*Bundle, error) {
	b := new(Bundle)
	if err := cose.Decode(data, MaxBundleSize, b); err != nil {
		return nil, fmt.Errorf("cannot decode bundle: %w", err)
	}
	err := error(nil)
	switch {
	case b.Version != 1:
		err = fmt.Errorf("version %d is not 1", b.Version)
	case b.Key == nil:
		err = errors.New("no device key")
	}
	for l, data := range b.Logs {
		if !l.Known() || uint64(len(data)) > l.MaxSize() {
			err = fmt.Errorf("%s of %d bytes", l, len(data))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot decode bundle: %w", err)
	}
	return b, nil
}
