package ima_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	. "github.com/miotfacts/miotfacts/attest/ima"
)

// sized is one of template data.
func sized(data []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data...)
}

func measured(hash string, digest []byte, name string, sig []byte) Entry {
	return Entry{PCR: 10, Template: "ima-sig", Data: slices.Concat(sized(append([]byte(hash+":\x00"), digest...)), sized([]byte(name+"\x00")), sized(sig))}
}

// signature is what evmctl writes into security.ima.
func signature(kind, version, alg byte, sig []byte) []byte {
	return slices.Concat([]byte{kind, version, alg, 1, 2, 3, 4}, binary.BigEndian.AppendUint16(nil, uint16(len(sig))), sig)
}

func TestPolicy(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := NewPolicy()
	good, other := sha256.Sum256([]byte("good")), sha256.Sum256([]byte("other"))
	large := sha512.Sum512([]byte("good"))
	for name, digest := range map[string][]byte{"/usr/bin/good": good[:], "/usr/bin/large": large[:]} {
		if err := p.Allow(name, digest); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []crypto.PublicKey{ec.Public(), rs.Public()} {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Sign(der); err != nil {
			t.Fatal(err)
		}
	}
	p.Exclude("/var/lib/")
	ecSign := func(key *ecdsa.PrivateKey, digest []byte) []byte {
		sig, err := ecdsa.SignASN1(rand.Reader, key, digest)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	rsSig, err := rsa.SignPKCS1v15(rand.Reader, rs, crypto.SHA256, other[:])
	if err != nil {
		t.Fatal(err)
	}
	id := sha256.Sum256(append([]byte{6, 4}, other[:]...))
	for _, c := range []struct {
		name string
		e    Entry
		want Verdict
		text string
	}{
		{"allowed", measured("sha256", good[:], "/usr/bin/good", nil), Allowed, ""},
		{"allowed under another name", measured("sha256", good[:], "/init", nil), Allowed, ""},
		{"sha512", measured("sha512", large[:], "/usr/bin/large", nil), Allowed, ""},
		{"the digest of another hash", measured("sm3", good[:], "/usr/bin/good", nil), Unknown, "another content of /usr/bin/good: sm3"},
		{"another content", measured("sha256", other[:], "/usr/bin/good", nil), Unknown, "another content of /usr/bin/good: sha256"},
		{"unknown", measured("sha256", other[:], "/usr/bin/factsd", nil), Unknown, "unknown file executed or read: /usr/bin/factsd, sha256"},
		{"a name to trick people", measured("sha256", other[:], "/bin/a\n\x1b[2J", nil), Unknown, `"/bin/a\n\x1b[2J"`},
		{"excluded", measured("sha256", other[:], "/var/lib/x", nil), Excluded, ""},
		{"ECDSA", measured("sha256", other[:], "/bin/x", signature(3, 2, 4, ecSign(ec, other[:]))), Signed, ""},
		{"RSA", measured("sha256", other[:], "/bin/x", signature(3, 2, 4, rsSig)), Signed, ""},
		{"verity", measured("verity:sha256", other[:], "/bin/x", signature(6, 3, 4, ecSign(ec, id[:]))), Signed, ""},
		{"a signature of the file over verity", measured("sha256", other[:], "/bin/x", signature(6, 3, 4, ecSign(ec, id[:]))), Unknown, "type 6, version 3"},
		{"a stranger's signature", measured("sha256", other[:], "/bin/x", signature(3, 2, 4, ecSign(stranger, other[:]))), Unknown, "signed by nobody"},
		{"a signature of another file", measured("sha256", other[:], "/bin/x", signature(3, 2, 4, ecSign(ec, good[:]))), Unknown, "signed by nobody"},
		{"SHA-1", measured("sha1", other[:20], "/bin/x", signature(3, 2, 2, ecSign(ec, other[:20]))), Unknown, "hash 2"},
		{"a cut signature", measured("sha256", other[:], "/bin/x", signature(3, 2, 4, ecSign(ec, other[:]))[:30]), Unknown, "cannot be read"},
		{"an EVM signature", measured("sha256", other[:], "/bin/x", signature(5, 2, 4, ecSign(ec, other[:]))), Unknown, "type 5"},
		{"violation", Entry{Template: "ima-sig", Violation: true, Data: measured("sha256", make([]byte, 32), "/var/lib/x", nil).Data}, Violated, "/var/lib/x"},
		{"boot_aggregate", measured("sha256", other[:], "boot_aggregate", nil), Kernel, ""},
		{"unknown template", Entry{Template: "mine", Data: []byte{1}}, Unknown, "cannot be read"},
	} {
		if got, text := p.Look(&c.e); got != c.want || !strings.Contains(text, c.text) || (text == "") != (c.text == "") {
			t.Errorf("%s: %s %q, want %s %q", c.name, got, text, c.want, c.text)
		}
	}
}

func TestPolicyRefuses(t *testing.T) {
	p := NewPolicy()
	if err := p.Allow("/x", make([]byte, 20)); err == nil {
		t.Error("allowed by SHA-1")
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(weak.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range [][]byte{der, []byte("key")} {
		if err := p.Sign(key); err == nil {
			t.Error("took a weak signer or none")
		}
	}
}

// A list that comes in pieces, cut anywhere, is the list.
func TestNextParts(t *testing.T) {
	for _, b := range recorded(t) {
		whole := parsed(t, b.data)
		for _, step := range []int{1, 7, 333, 4096} {
			if step < 333 && len(b.data) > 4096 {
				continue
			}
			var rest []byte
			var state State
			for at := 0; at < len(b.data); at += step {
				rest = append(rest, b.data[at:min(at+step, len(b.data))]...)
				list, err := ParseNext(rest)
				if err != nil {
					t.Fatalf("%s, byte %d: %v", b.name, at, err)
				}
				for i := range list.Entries {
					rest = rest[list.Entries[i].Size:]
				}
				state = list.Replay(state)
			}
			if len(rest) != 0 || state.Entries != len(whole.Entries) || !bytes.Equal(state.PCR(10, SHA256, Hashed), whole.Replay(State{}).PCR(10, SHA256, Hashed)) {
				t.Errorf("%s in steps of %d: %d entries, %d bytes left", b.name, step, state.Entries, len(rest))
			}
		}
		broken := slices.Clone(b.data)
		broken[60] ^= 1
		if _, err := ParseNext(broken); err == nil {
			t.Errorf("%s: took a changed entry", b.name)
		}
	}
}

// bigEndian is a list as a big-endian machine writes it: the digests cover the
// lengths of the fields, in its byte order.
func bigEndian(t testing.TB, data []byte) []byte {
	t.Helper()
	be := func(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
	var swapped []byte
	for _, e := range parsed(t, data).Entries {
		list, err := e.Fields()
		if err != nil {
			t.Fatal(err)
		}
		var data []byte
		for _, f := range list {
			data = slices.Concat(data, be(len(f.Data)), f.Data)
		}
		swapped = slices.Concat(swapped, be(e.PCR), sum(SHA1, data), be(len(e.Template)), []byte(e.Template), be(len(data)), data)
	}
	return swapped
}

func TestBigEndian(t *testing.T) {
	b := recorded(t)[0]
	swapped := bigEndian(t, b.data)
	little, big := parsed(t, b.data), parsed(t, swapped)
	if !Detect(swapped) || len(big.Entries) != len(little.Entries) {
		t.Fatalf("%d entries, want %d", len(big.Entries), len(little.Entries))
	}
	for i := range big.Entries {
		was, _ := little.Entries[i].File()
		is, err := big.Entries[i].File()
		if err != nil || is.Name != was.Name || !slices.Equal(is.Digest, was.Digest) {
			t.Fatalf("entry %d: %v, %v, want %v", i, is, err, was)
		}
	}
	// The text of the first entry: which byte order it was, its digest says.
	e := big.Entries[0]
	f, _ := e.File()
	text := fmt.Appendf(nil, "10 %x %s %s:%x %s\n", e.Digest, e.Template, f.Hash, f.Digest, f.Name)
	if l := parsed(t, text); !l.Entries[0].BigEndian {
		t.Error("text is taken for little-endian")
	}
	text[3] ^= 1
	if _, err := Parse(text); err == nil {
		t.Error("text with another digest is accepted")
	}
}

// Whatever stands in an entry, a policy that allows nothing lets nothing pass but
// what it leaves out by name.
func FuzzPolicy(f *testing.F) {
	f.Add("ima-sig", []byte(measured("sha256", make([]byte, 32), "/bin/x", signature(3, 2, 4, []byte("sig"))).Data))
	f.Add("ima-ng", []byte{1})
	f.Add("d-ng|n-ng|sig|sig", []byte(measured("sha256", make([]byte, 32), "/bin/x", nil).Data))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, template string, data []byte) {
		p := NewPolicy()
		if err := p.Sign(der); err != nil {
			t.Fatal(err)
		}
		if template == "ima" && len(data) < 24 {
			return // which the parser refuses
		}
		e := Entry{Template: template, Data: data}
		if verdict, text := p.Look(&e); verdict != Unknown && verdict != Kernel || (verdict == Unknown) != (text != "") {
			t.Fatalf("%s %q", verdict, text)
		}
	})
}
