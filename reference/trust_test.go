package reference_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

const now = referencetest.Now

func listed(s *cose.Signer, role reference.Role) reference.ListedKey {
	return reference.ListedKey{Key: s.Public(), Role: role, Name: role.String(), NotBefore: 1, NotAfter: 4_000_000_000}
}

func list(owner reference.Owner, sequence uint64, keys ...reference.ListedKey) *reference.Keys {
	return &reference.Keys{Version: 1, Owner: owner, Sequence: sequence, Keys: append([]reference.ListedKey{}, keys...)}
}

// encodeAndSign signs what the package itself refuses to sign.
func encodeAndSign(t testing.TB, s *cose.Signer, typ cose.Type, v any) []byte {
	t.Helper()
	payload, err := cose.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return signBytes(t, s, typ, payload)
}

func signBytes(t testing.TB, s *cose.Signer, typ cose.Type, payload []byte) []byte {
	t.Helper()
	data, err := s.Sign(typ, payload)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func refused(t testing.TB, what string, err, want error, words string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: accepted", what)
	} else if want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: refused with %q, want %v %q", what, err, want, words)
	}
}

func TestNewTrustRefuses(t *testing.T) {
	k := referencetest.Signer(t).Public()
	for _, tt := range []struct {
		what  string
		roots []reference.Root
		words string
	}{
		{"no root", nil, "without a root key"},
		{"a root without a key", []reference.Root{{Owner: reference.Operator}}, "without a key"},
		{"a root of nobody", []reference.Root{{Key: k}}, "owner(0)"},
		{"one root for both owners", []reference.Root{{Key: k, Owner: reference.Manufacturer}, {Key: k, Owner: reference.Operator}}, "both owners"},
	} {
		_, err := reference.NewTrust(tt.roots...)
		refused(t, tt.what, err, nil, tt.words)
	}
}

func TestAddKeys(t *testing.T) {
	w := referencetest.New(t)
	good := listed(w.Manifest, reference.RoleManifest)
	change := func(f func(*reference.ListedKey)) reference.ListedKey {
		k := good
		f(&k)
		return k
	}
	root, other := w.ManufacturerRoot, referencetest.Signer(t)
	ours := reference.Manufacturer
	signed := encodeAndSign(t, root, cose.KeyList, list(ours, 1, good))
	many := list(ours, 1)
	for range reference.MaxKeys + 1 {
		many.Keys = append(many.Keys, good)
	}
	for _, tt := range []struct {
		what  string
		data  []byte
		want  error
		words string
	}{
		{"nothing", nil, nil, "cannot parse"},
		{"a cut list", signed[:len(signed)-1], nil, "cannot parse"},
		{"a changed list", flip(signed, len(signed)/2), nil, ""},
		{"a changed signature", flip(signed, len(signed)-1), cose.ErrSignature, ""},
		{"oversize", make([]byte, reference.MaxKeyListSize+1), nil, "the limit is 32768"},
		{"another root", encodeAndSign(t, other, cose.KeyList, list(ours, 1, good)), reference.ErrUnknownKey, "root"},
		{"a delegated key as root", encodeAndSign(t, w.Manifest, cose.KeyList, list(ours, 1, good)), reference.ErrUnknownKey, "root"},
		{"another type", encodeAndSign(t, root, cose.Manifest, list(ours, 1, good)), cose.ErrType, ""},
		{"the other owner's list", encodeAndSign(t, root, cose.KeyList, list(reference.Operator, 1, listed(w.Resume, reference.RoleResume))), reference.ErrRole, "a root of the manufacturer signed a list of the operator"},
		{"another version", encodeAndSign(t, root, cose.KeyList, &reference.Keys{Version: 2, Owner: ours, Sequence: 1, Keys: []reference.ListedKey{good}}), reference.ErrContent, "version 2 is not 1"},
		{"nobody's list", encodeAndSign(t, root, cose.KeyList, list(3, 1, good)), reference.ErrContent, "unknown owner 3"},
		{"sequence 0", encodeAndSign(t, root, cose.KeyList, list(ours, 0, good)), reference.ErrContent, "sequence 0"},
		{"sequence 2^63", encodeAndSign(t, root, cose.KeyList, list(ours, 1<<63, good)), reference.ErrContent, "outside 1 to 2^63-1"},
		{"too many keys", encodeAndSign(t, root, cose.KeyList, many), reference.ErrContent, "129 keys"},
		{"an unknown role", encodeAndSign(t, root, cose.KeyList, list(ours, 1, change(func(k *reference.ListedKey) { k.Role = 6 }))), reference.ErrContent, "entry 0: unknown role 6"},
		{"a role of the other owner", encodeAndSign(t, root, cose.KeyList, list(ours, 1, good, listed(w.Resume, reference.RoleResume))), reference.ErrContent, "entry 1: a key of the manufacturer cannot have role resume"},
		{"a key twice", encodeAndSign(t, root, cose.KeyList, list(ours, 1, good, change(func(k *reference.ListedKey) { k.Role = reference.RoleLabel }))), reference.ErrContent, "listed twice"},
		{"an empty validity", encodeAndSign(t, root, cose.KeyList, list(ours, 1, change(func(k *reference.ListedKey) { k.NotAfter = k.NotBefore }))), reference.ErrContent, "empty"},
		{"a negative revocation", encodeAndSign(t, root, cose.KeyList, list(ours, 1, change(func(k *reference.ListedKey) { k.RevokedFrom = -1 }))), reference.ErrContent, "before 1970"},
		{"a long name", encodeAndSign(t, root, cose.KeyList, list(ours, 1, change(func(k *reference.ListedKey) { k.Name = strings.Repeat("x", 129) }))), reference.ErrContent, "name of 129 bytes"},
		{"many models", encodeAndSign(t, root, cose.KeyList, list(ours, 1, change(func(k *reference.ListedKey) { k.Models = make([]string, 129) }))), reference.ErrContent, "129 models"},
		{"an empty model", encodeAndSign(t, root, cose.KeyList, list(ours, 1, change(func(k *reference.ListedKey) { k.Models = []string{""} }))), reference.ErrContent, "model of 0 bytes"},
		{"a root as key", encodeAndSign(t, root, cose.KeyList, list(ours, 1, listed(root, reference.RoleManifest))), reference.ErrRole, "is listed as a manifest key"},
		{"the other owner's root as key", encodeAndSign(t, root, cose.KeyList, list(ours, 1, listed(w.OperatorRoot, reference.RoleManifest))), reference.ErrRole, "is listed as a manifest key"},
		{"a payload that is not deterministic", signBytes(t, root, cose.KeyList, lengthen(t, list(ours, 1, good))), cose.ErrNotDeterministic, ""},
		{"an unknown field", signBytes(t, root, cose.KeyList, extend(t, list(ours, 1, good))), nil, "unknown field"},
	} {
		trust, err := reference.NewTrust(
			reference.Root{Key: root.Public(), Owner: ours}, reference.Root{Key: w.OperatorRoot.Public(), Owner: reference.Operator})
		if err != nil {
			t.Fatal(err)
		}
		_, err = trust.AddKeys(tt.data)
		refused(t, tt.what, err, tt.want, tt.words)
		if trust.KeySequence(ours) != 0 {
			t.Errorf("%s: refused, but taken", tt.what)
		}
	}
}

func flip(data []byte, i int) []byte {
	out := bytes.Clone(data)
	out[i] ^= 1
	return out
}

// lengthen returns the encoding of v with the value of its first key, a small
// integer, in two bytes instead of one.
func lengthen(t testing.TB, v any) []byte {
	t.Helper()
	data, err := cose.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if data[2] > 23 {
		t.Fatalf("%x does not begin with a small integer", data[:3])
	}
	return append([]byte{data[0], data[1], 0x18, data[2]}, data[3:]...)
}

// extend returns the encoding of v with one more key, 23, at the end.
func extend(t testing.TB, v any) []byte {
	t.Helper()
	data, err := cose.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if data[0]>>5 != 5 || data[0]&31 >= 23 {
		t.Fatalf("%x is no short map", data[0])
	}
	data[0]++
	return append(data, 23, 0)
}

func TestAddKeysOverTime(t *testing.T) {
	w := referencetest.New(t)
	trust := w.Trust(t)
	root := w.ManufacturerRoot
	two := encodeAndSign(t, root, cose.KeyList, list(reference.Manufacturer, 2, listed(w.Label, reference.RoleLabel)))
	if _, err := trust.AddKeys(two); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.AddKeys(two); err != nil {
		t.Errorf("the same list again: %v", err)
	}
	// Ed25519 signs the same bytes the same way; the content decides.
	_, err := trust.AddKeys(w.ManufacturerKeys)
	refused(t, "a lower sequence", err, reference.ErrRollback, "1, have 2")
	_, err = trust.AddKeys(encodeAndSign(t, root, cose.KeyList, list(reference.Manufacturer, 2, listed(w.Manifest, reference.RoleManifest))))
	refused(t, "the same sequence with another content", err, reference.ErrRollback, "another list has sequence 2")
	if trust.KeySequence(reference.Manufacturer) != 2 || trust.KeySequence(reference.Operator) != 1 {
		t.Errorf("sequences %d and %d", trust.KeySequence(reference.Manufacturer), trust.KeySequence(reference.Operator))
	}
	m := referencetest.Example()
	data, err := reference.SignManifest(&m, w.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	_, err = trust.OpenManifest(data, reference.Want{}, reference.At(now))
	refused(t, "a key that the newest list no longer has", err, reference.ErrUnknownKey, "")
}

func TestOpenManifest(t *testing.T) {
	w := referencetest.New(t)
	example := referencetest.Example()
	want := reference.Want{Vendor: example.Vendor, Model: example.Model, AgentVersion: "0.1.0", Floor: 3}
	data, err := reference.SignManifest(&example, w.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.Trust(t).OpenManifest(data, want, reference.At(now))
	if err != nil {
		t.Fatal(err)
	}
	if r.Signer() != w.Manifest.Public().ID() || r.Manifest().Sequence != 3 || r.Vocabulary().Name(1000) != "app.flow" {
		t.Errorf("opened as %+v", r)
	}

	signed := func(f func(*reference.Manifest)) []byte {
		m := referencetest.Example()
		f(&m)
		return encodeAndSign(t, w.Manifest, cose.Manifest, &m)
	}
	by := func(s *cose.Signer) []byte { return encodeAndSign(t, s, cose.Manifest, &example) }
	for _, tt := range []struct {
		what  string
		data  []byte
		want  reference.Want
		now   reference.Interval
		err   error
		words string
	}{
		{"nothing", nil, want, reference.At(now), nil, "cannot parse"},
		{"unsigned", encode(t, &example), want, reference.At(now), nil, "cannot parse"},
		{"cut", data[:len(data)-1], want, reference.At(now), nil, "cannot parse"},
		{"a trailing byte", append(bytes.Clone(data), 0), want, reference.At(now), nil, "cannot parse"},
		{"changed", flip(data, len(data)/2), want, reference.At(now), cose.ErrSignature, ""},
		{"a changed signature", flip(data, len(data)-1), want, reference.At(now), cose.ErrSignature, ""},
		{"oversize", make([]byte, reference.MaxManifestSize+1), want, reference.At(now), nil, "the limit is 65536"},
		{"another type", encodeAndSign(t, w.Manifest, cose.Label, &example), want, reference.At(now), cose.ErrType, ""},
		{"not deterministic", signBytes(t, w.Manifest, cose.Manifest, lengthen(t, &example)), want, reference.At(now), cose.ErrNotDeterministic, ""},
		{"an unknown field", signBytes(t, w.Manifest, cose.Manifest, extend(t, &example)), want, reference.At(now), nil, "unknown field"},
		{"an unknown key", by(referencetest.Signer(t)), want, reference.At(now), reference.ErrUnknownKey, ""},
		{"the root", by(w.ManufacturerRoot), want, reference.At(now), reference.ErrRole, "signs key lists only"},
		{"the label key", by(w.Label), want, reference.At(now), reference.ErrRole, "has role label, not manifest"},
		{"the operator's resume key", by(w.Resume), want, reference.At(now), reference.ErrRole, "has role resume, not manifest"},
		{"the operator's root", by(w.OperatorRoot), want, reference.At(now), reference.ErrRole, ""},
		{"another vendor", signed(func(m *reference.Manifest) { m.Vendor = "Other" }), want, reference.At(now), reference.ErrModel, "Other pump-1, this is Example Medical pump-1"},
		{"another model", signed(func(m *reference.Manifest) { m.Model = "pump-2" }), want, reference.At(now), reference.ErrModel, "Example Medical pump-2"},
		{"a lower sequence", signed(func(m *reference.Manifest) { m.Sequence = 2 }), want, reference.At(now), reference.ErrRollback, "2, have seen 3"},
		{"expired", data, want, reference.At(2_000_000_001), reference.ErrExpired, "valid until 2000000000, it is at least 2000000001"},
		{"expired for a device without a clock", data, want, reference.Interval{Earliest: 2_000_000_001}, reference.ErrExpired, ""},
		{"not yet valid", data, want, reference.At(1_699_999_999), reference.ErrNotYet, "valid from 1700000000, it is at most 1699999999"},
		{"a newer agent wanted", signed(func(m *reference.Manifest) { m.MinAgent = "0.2.0" }), want, reference.At(now), reference.ErrAgent, "wants 0.2.0, this is 0.1.0"},
		{"an agent of no version", data, reference.Want{AgentVersion: "new"}, reference.At(now), nil, `cannot parse version "new"`},
		{"content that Check finds wrong", signed(func(m *reference.Manifest) { m.Integration = nil }), want, reference.At(now), reference.ErrContent, "integration: no rule"},
	} {
		_, err := w.Trust(t).OpenManifest(tt.data, tt.want, tt.now)
		refused(t, tt.what, err, tt.err, tt.words)
	}

	// What is uncertain passes: a missing clock neither opens nor bricks.
	for _, tt := range []struct {
		what string
		now  reference.Interval
	}{
		{"the first second", reference.At(1_700_000_000)},
		{"the last second", reference.At(2_000_000_000)},
		{"no clock at all", reference.Interval{}},
		{"a clock that may be in the validity", reference.Interval{Earliest: 1, Latest: 3_000_000_000}},
	} {
		if _, err := w.Trust(t).OpenManifest(data, want, tt.now); err != nil {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
}

func TestListedKeys(t *testing.T) {
	w := referencetest.New(t)
	example := referencetest.Example()
	data, err := reference.SignManifest(&example, w.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what  string
		key   func(*reference.ListedKey)
		want  reference.Want
		now   reference.Interval
		err   error
		words string
	}{
		{"for this model", func(k *reference.ListedKey) { k.Models = []string{"pump-1"} }, reference.Want{Model: "pump-1"}, reference.At(now), nil, ""},
		{"for another model", func(k *reference.ListedKey) { k.Models = []string{"pump-2"} }, reference.Want{Model: "pump-1"}, reference.At(now), reference.ErrRole, `not for model "pump-1"`},
		{"for another model, any wanted", func(k *reference.ListedKey) { k.Models = []string{"pump-2"} }, reference.Want{}, reference.At(now), reference.ErrRole, `not for model "pump-1"`},
		{"revoked later", func(k *reference.ListedKey) { k.RevokedFrom = now + 1 }, reference.Want{}, reference.At(now), nil, ""},
		{"revoked", func(k *reference.ListedKey) { k.RevokedFrom = now }, reference.Want{}, reference.At(now), reference.ErrRevoked, ""},
		{"revoked, clock may be past it", func(k *reference.ListedKey) { k.RevokedFrom = now }, reference.Want{}, reference.Interval{Earliest: 1, Latest: now}, reference.ErrRevoked, ""},
		{"revoked, no clock", func(k *reference.ListedKey) { k.RevokedFrom = now }, reference.Want{}, reference.Interval{}, reference.ErrRevoked, ""},
		{"expired", func(k *reference.ListedKey) { k.NotAfter = now - 1 }, reference.Want{}, reference.At(now), reference.ErrExpired, "key "},
		{"expired, no upper bound of the time", func(k *reference.ListedKey) { k.NotAfter = now - 1 }, reference.Want{}, reference.Interval{Earliest: now}, reference.ErrExpired, ""},
		{"perhaps expired", func(k *reference.ListedKey) { k.NotAfter = now - 1 }, reference.Want{}, reference.Interval{Earliest: 1}, nil, ""},
		{"not yet valid", func(k *reference.ListedKey) { k.NotBefore = now + 1 }, reference.Want{}, reference.At(now), reference.ErrNotYet, ""},
	} {
		k := listed(w.Manifest, reference.RoleManifest)
		tt.key(&k)
		trust, err := reference.NewTrust(reference.Root{Key: w.ManufacturerRoot.Public(), Owner: reference.Manufacturer})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := trust.AddKeys(encodeAndSign(t, w.ManufacturerRoot, cose.KeyList, list(reference.Manufacturer, 1, k))); err != nil {
			t.Fatal(err)
		}
		_, err = trust.OpenManifest(data, tt.want, tt.now)
		if tt.err == nil && err != nil {
			t.Errorf("%s: %v", tt.what, err)
		} else if tt.err != nil {
			refused(t, tt.what, err, tt.err, tt.words)
		}
	}
}

// A key that both owners list has in each list's realm the role of that list,
// in whatever order the lists came.
func TestKeyOfBothOwners(t *testing.T) {
	w := referencetest.New(t)
	both := referencetest.Signer(t)
	m := encodeAndSign(t, w.ManufacturerRoot, cose.KeyList, list(reference.Manufacturer, 2, listed(both, reference.RoleManifest)))
	o := encodeAndSign(t, w.OperatorRoot, cose.KeyList, list(reference.Operator, 2, listed(both, reference.RoleResume)))
	example := referencetest.Example()
	manifest, err := reference.SignManifest(&example, both)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // an order of a map would show
		trust := w.Trust(t)
		for _, l := range [][]byte{m, o} {
			if _, err := trust.AddKeys(l); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := trust.OpenManifest(manifest, reference.Want{}, reference.At(now)); err != nil {
			t.Fatal(err)
		}
	}
}

func command() *reference.Command {
	return &reference.Command{
		Version: 1, Kind: reference.Resume, Device: bytes.Repeat([]byte{1}, 17), Pause: bytes.Repeat([]byte{2}, 16),
		Nonce: bytes.Repeat([]byte{3}, 16), NotBefore: now - 10, NotAfter: now + 10,
	}
}

func TestOpenCommand(t *testing.T) {
	w := referencetest.New(t)
	device := bytes.Repeat([]byte{1}, 17)
	data, err := reference.SignCommand(command(), w.Resume)
	if err != nil {
		t.Fatal(err)
	}
	o, err := w.Trust(t).OpenCommand(data, reference.Resume, device, "pump-1", reference.At(now))
	if err != nil || o.Signer() != w.Resume.Public().ID() || o.Command().Pause[0] != 2 {
		t.Fatalf("%+v, %v", o, err)
	}
	signed := func(f func(*reference.Command)) []byte {
		c := command()
		f(c)
		return encodeAndSign(t, w.Resume, cose.Command, c)
	}
	by := func(s *cose.Signer) []byte { return encodeAndSign(t, s, cose.Command, command()) }
	for _, tt := range []struct {
		what   string
		data   []byte
		kind   reference.Kind
		device []byte
		now    reference.Interval
		err    error
		words  string
	}{
		{"nothing", nil, reference.Resume, device, reference.At(now), nil, "cannot parse"},
		{"changed", flip(data, len(data)/2), reference.Resume, device, reference.At(now), nil, ""},
		{"a changed signature", flip(data, len(data)-1), reference.Resume, device, reference.At(now), cose.ErrSignature, ""},
		{"oversize", make([]byte, reference.MaxCommandSize+1), reference.Resume, device, reference.At(now), nil, "the limit is 1024"},
		{"another type", encodeAndSign(t, w.Resume, cose.Manifest, command()), reference.Resume, device, reference.At(now), cose.ErrType, ""},
		{"an unknown key", by(referencetest.Signer(t)), reference.Resume, device, reference.At(now), reference.ErrUnknownKey, ""},
		{"a resume by the command key", by(w.Command), reference.Resume, device, reference.At(now), reference.ErrRole, "has role command, not resume"},
		{"a resume by the manifest key", by(w.Manifest), reference.Resume, device, reference.At(now), reference.ErrRole, "has role manifest, not resume"},
		{"a resume by the operator's root", by(w.OperatorRoot), reference.Resume, device, reference.At(now), reference.ErrRole, "signs key lists only"},
		{"a resume where a challenge is wanted", encodeAndSign(t, w.Command, cose.Command, command()), reference.Challenge, device, reference.At(now), reference.ErrContent, "it is a resume"},
		{"another device", data, reference.Resume, bytes.Repeat([]byte{9}, 17), reference.At(now), reference.ErrDevice, ""},
		{"no device", data, reference.Resume, nil, reference.At(now), reference.ErrDevice, ""},
		{"expired", data, reference.Resume, device, reference.At(now + 11), reference.ErrExpired, ""},
		{"not yet valid", data, reference.Resume, device, reference.At(now - 11), reference.ErrNotYet, ""},
		{"another version", signed(func(c *reference.Command) { c.Version = 2 }), reference.Resume, device, reference.At(now), reference.ErrContent, "version 2"},
		{"an unknown kind", signed(func(c *reference.Command) { c.Kind = 6 }), reference.Resume, device, reference.At(now), reference.ErrContent, "unknown command 6"},
		{"a short device id", signed(func(c *reference.Command) { c.Device = c.Device[:16] }), reference.Resume, device, reference.At(now), reference.ErrContent, "16 bytes, want 17"},
		{"a resume of no pause", signed(func(c *reference.Command) { c.Pause = nil }), reference.Resume, device, reference.At(now), reference.ErrContent, "pause id of 0 bytes"},
		{"a short nonce", signed(func(c *reference.Command) { c.Nonce = c.Nonce[:8] }), reference.Resume, device, reference.At(now), reference.ErrContent, "nonce of 8 bytes"},
		{"an empty validity", signed(func(c *reference.Command) { c.NotAfter = c.NotBefore }), reference.Resume, device, reference.At(now), reference.ErrContent, "empty"},
		{"not deterministic", signBytes(t, w.Resume, cose.Command, lengthen(t, command())), reference.Resume, device, reference.At(now), cose.ErrNotDeterministic, ""},
		{"an unknown field", signBytes(t, w.Resume, cose.Command, extend(t, command())), reference.Resume, device, reference.At(now), nil, "unknown field"},
	} {
		_, err := w.Trust(t).OpenCommand(tt.data, tt.kind, tt.device, "pump-1", tt.now)
		refused(t, tt.what, err, tt.err, tt.words)
	}
	challenge := command()
	challenge.Kind, challenge.Pause = reference.Challenge, nil
	data = encodeAndSign(t, w.Command, cose.Command, challenge)
	if _, err := w.Trust(t).OpenCommand(data, reference.Challenge, device, "pump-1", reference.At(now)); err != nil {
		t.Errorf("a challenge by the command key: %v", err)
	}
	_, err = w.Trust(t).OpenCommand(encodeAndSign(t, w.Resume, cose.Command, challenge), reference.Challenge, device, "pump-1", reference.At(now))
	refused(t, "a challenge by the resume key", err, reference.ErrRole, "")
	challenge.Pause = bytes.Repeat([]byte{2}, 16)
	_, err = reference.SignCommand(challenge, w.Command)
	refused(t, "signing a challenge with a pause", err, reference.ErrContent, "")
}

func TestSignRefuses(t *testing.T) {
	s := referencetest.Signer(t)
	m := referencetest.Example()
	m.FailSafe[0].Max = nil
	_, err := reference.SignManifest(&m, s)
	refused(t, "a rule without an end", err, reference.ErrContent, "fail_safe[0]")
	m = referencetest.Example()
	m.Vendor = "\xff"
	_, err = reference.SignManifest(&m, s)
	refused(t, "a vendor that is not UTF-8", err, nil, "cannot sign manifest")
	m = referencetest.Example()
	lines := reference.Rule{Fact: 13, Op: reference.OneOf}
	for i := range 20 {
		lines.Values = append(lines.Values, facts.TextValue(strings.Repeat(string(rune('a'+i)), facts.MaxText)))
	}
	m.Integration = append(m.Integration, lines)
	_, err = reference.SignManifest(&m, s)
	refused(t, "an oversized manifest", err, nil, "the limit is 65024")
	_, err = reference.SignKeys(list(reference.Manufacturer, 1, listed(s, reference.RoleResume)), s)
	refused(t, "an operator's role", err, reference.ErrContent, "role resume")
}
