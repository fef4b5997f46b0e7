// Package interop has other implementations read what ours writes: cbor2 for
// the encoding, OpenSSL for the signatures, tpm2-tools for the quote.
package interop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// debianPython is the interpreter that python3-cbor2 is installed for.
const debianPython = "/usr/bin/python3"

func command(t *testing.T, pkg, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: apt-get install %s", name, pkg)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.Output()
	if err != nil {
		text := ""
		if e, ok := err.(*exec.ExitError); ok {
			text = string(e.Stderr)
		}
		t.Fatalf("%s %s: %v\n%s%s(package %s)", name, strings.Join(args, " "), err, out, text, pkg)
	}
	return string(out)
}

type document struct {
	Alg     int
	Kid     string
	Typ     string
	Payload map[string]any
}

// read has a document read by cbor2 and its signature verified by OpenSSL.
func read(t *testing.T, data []byte, typ cose.Type, key *cose.PublicKey) document {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "document")
	write(t, file, data)
	var d document
	out := command(t, "python3-cbor2", debianPython, "reader.py", file, "miotfacts "+string(typ))
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatal(err)
	}
	if d.Kid != key.ID().String() || d.Typ != string(typ) {
		t.Errorf("kid %s, typ %s; want %s, %s", d.Kid, d.Typ, key.ID(), typ)
	}
	opensslVerifies(t, file, key)
	return d
}

// opensslVerifies has OpenSSL verify file.sig over file.tbs.
func opensslVerifies(t *testing.T, file string, key *cose.PublicKey) {
	t.Helper()
	text, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	write(t, file+".pem", text)
	args := []string{"pkeyutl", "-verify", "-pubin", "-inkey", file + ".pem", "-rawin", "-in", file + ".tbs", "-sigfile", file + ".sig"}
	if key.Algorithm() == "ES256" {
		raw, err := os.ReadFile(file + ".sig")
		if err != nil || len(raw) != 64 {
			t.Fatalf("signature of %d bytes, %v", len(raw), err)
		}
		der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})
		if err != nil {
			t.Fatal(err)
		}
		write(t, file+".sig", der)
		args = append(args, "-digest", "sha256")
	}
	if out := command(t, "openssl", "openssl", args...); !strings.Contains(out, "Verified Successfully") {
		t.Errorf("openssl says %q", out)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func signers(t *testing.T) map[string]*cose.Signer {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*cose.Signer{}
	for name, k := range map[string]crypto.Signer{"ES256": ec, "Ed25519": ed} {
		if out[name], err = cose.NewSigner(k); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func TestManifest(t *testing.T) {
	for alg, s := range signers(t) {
		m := referencetest.Example()
		data, err := reference.SignManifest(&m, s)
		if err != nil {
			t.Fatal(err)
		}
		d := read(t, data, cose.Manifest, s.Public())
		if want := map[string]int{"ES256": -7, "Ed25519": -8}[alg]; d.Alg != want {
			t.Errorf("alg %d, want %d", d.Alg, want)
		}
		rules := d.Payload["12"].([]any)
		rule := rules[0].(map[string]any)
		if d.Payload["3"] != m.Model || d.Payload["4"] != float64(m.Sequence) || rule["1"] != float64(1000) || rule["4"] != float64(500) || rule["6"] != float64(3000) {
			t.Errorf("%s: cbor2 reads %v", alg, d.Payload)
		}
	}
}

func TestKeysAndCommand(t *testing.T) {
	w := referencetest.New(t)
	d := read(t, w.OperatorKeys, cose.KeyList, w.OperatorRoot.Public())
	if n := len(d.Payload["4"].([]any)); d.Payload["2"] != float64(reference.Operator) || n != 4 {
		t.Errorf("cbor2 reads owner %v with %d keys", d.Payload["2"], n)
	}
	c := reference.Command{Version: 1, Kind: reference.Resume, Device: make([]byte, 17), Pause: make([]byte, 16), Nonce: make([]byte, 16), NotBefore: 1, NotAfter: 2}
	data, err := reference.SignCommand(&c, w.Resume)
	if err != nil {
		t.Fatal(err)
	}
	if d := read(t, data, cose.Command, w.Resume.Public()); d.Payload["2"] != float64(reference.Resume) {
		t.Errorf("cbor2 reads %v", d.Payload)
	}
}

func report(t *testing.T) *attest.Report {
	t.Helper()
	w := referencetest.New(t)
	ref := w.Open(t, referencetest.Example())
	u := attest.NewUEID([16]byte{1, 2, 3})
	r := &attest.Report{IssuedAt: 1_800_000_000, UEID: u[:], Uptime: 60, Profile: attest.Profile, BootCount: 3, BootSeed: make([]byte, 16),
		SWName: "factsd", SWVersion: []string{"0.1.0"}}
	var fold facts.Fold
	c := appraise.NewComparison(ref)
	for i := range int64(3) {
		s := facts.Snapshot{Uptime: i * 1000, Readings: []facts.Reading{
			{Key: 6, Value: facts.IntValue(9000)}, {Key: 20, Value: facts.IntValue(100 + i)}, {Key: 44, Status: facts.Absent, Reason: "none"},
			{Key: 70, Value: facts.SetValue([]string{"tcp/0.0.0.0:22"})},
		}}
		fold.Add(s)
		r.SetResults(c.Compare(s))
	}
	r.SetFacts(&fold, func(facts.Key) bool { return true })
	r.Body.Kind, r.Body.Sequence, r.Body.Stage, r.Body.Protection = attest.KindRoutine, 1, reference.StageOperating, attest.ProtectionFile
	d := ref.Digest()
	r.Body.Manifest = &attest.Edition{Sequence: 3, Digest: d[:]}
	return r
}

func TestReport(t *testing.T) {
	for _, s := range signers(t) {
		signed, err := attest.Seal(report(t), s)
		if err != nil {
			t.Fatal(err)
		}
		d := read(t, signed, cose.Report, s.Public())
		body := d.Payload["-65537"].(map[string]any)
		usage := body["9"].(map[string]any)["20"].([]any)
		if d.Payload["265"] != attest.Profile || body["2"] != float64(1) || usage[0] != float64(102) || usage[1] != float64(100) {
			t.Errorf("cbor2 reads %v", d.Payload)
		}
	}
}

func TestQuote(t *testing.T) {
	dev, err := tpm.Open(tpmtest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	id, err := dev.Provision()
	if err != nil {
		t.Fatal(err)
	}
	s, err := cose.NewSigner(dev.Signer())
	if err != nil {
		t.Fatal(err)
	}
	r := report(t)
	r.Body.Protection = attest.ProtectionTPM
	signed, err := attest.Seal(r, s)
	if err != nil {
		t.Fatal(err)
	}
	read(t, signed, cose.Report, s.Public()) // a signature of the TPM itself
	extra := attest.ExtraData(nil, signed)
	q, err := dev.Quote(extra, []int{0, 1, 7})
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpm.PublicKey(id.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ak)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, dir+"/ak.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	write(t, dir+"/attest", q.Attest)
	write(t, dir+"/sig", q.Signature)
	command(t, "tpm2-tools", "tpm2_checkquote", "-u", dir+"/ak.pem", "-m", dir+"/attest", "-s", dir+"/sig", "-g", "sha256", "-q", hex.EncodeToString(extra))

	// The same through our own verifier, and not for another report.
	data, err := cose.Encode(attest.Message{Report: signed, Quote: attest.QuoteOf(q)})
	if err != nil {
		t.Fatal(err)
	}
	u, err := attest.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	v, err := u.Verify(s.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.VerifyQuote(id.AKPublic, []int{0, 1, 7}, nil); err != nil {
		t.Errorf("our verifier: %v", err)
	}
	r.Uptime++
	if signed, err = attest.Seal(r, s); err != nil {
		t.Fatal(err)
	}
	if data, err = cose.Encode(attest.Message{Report: signed, Quote: attest.QuoteOf(q)}); err != nil {
		t.Fatal(err)
	}
	if u, err = attest.Decode(data); err != nil {
		t.Fatal(err)
	}
	if v, err = u.Verify(s.Public()); err != nil {
		t.Fatal(err)
	}
	if _, err := v.VerifyQuote(id.AKPublic, []int{0, 1, 7}, nil); err == nil {
		t.Error("a quote was accepted with another report")
	}
}
