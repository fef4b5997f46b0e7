package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

func open(t testing.TB, addr string) *tpm.TPM {
	t.Helper()
	d, err := tpm.Open(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func provision(t testing.TB, d *tpm.TPM) *tpm.Identity {
	t.Helper()
	id, err := d.Provision()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// raw talks to a TPM beside the code under test.
type raw string

func (addr raw) Send(command []byte) ([]byte, error) {
	conn, err := net.Dial("unix", strings.TrimPrefix(string(addr), "unix:"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	return readMessage(conn)
}

// readMessage reads a command or a response.
func readMessage(r io.Reader) ([]byte, error) {
	header := make([]byte, 10)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(header[2:])-10)
	_, err := io.ReadFull(r, body)
	return append(header, body...), err
}

func (addr raw) extend(t testing.TB, pcr int) {
	t.Helper()
	digest := sha256.Sum256([]byte{byte(pcr)})
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
	}.Execute(addr)
	if err != nil {
		t.Error(err)
	}
}

// leftovers lists transient objects and sessions.
func (addr raw) leftovers(t testing.TB) []tpm2.TPMHandle {
	t.Helper()
	var all []tpm2.TPMHandle
	for _, class := range []uint32{0x80000000, 0x02000000, 0x03000000} {
		rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: class, PropertyCount: 64}.Execute(addr)
		if err != nil {
			t.Fatal(err)
		}
		list, err := rsp.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, list.Handle...)
	}
	return all
}

func (addr raw) lockoutCounter(t testing.TB) uint32 {
	t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTLockoutCounter), PropertyCount: 1}.Execute(addr)
	if err != nil {
		t.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil || len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != tpm2.TPMPTLockoutCounter {
		t.Fatal(list, err)
	}
	return list.TPMProperty[0].Value
}

// between stands between a TPM and its user. Each command goes to handle, which
// returns the response; nil breaks the connection.
func between(t testing.TB, addr string, handle func(command []byte, pass func() []byte) []byte) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if command, err := readMessage(conn); err == nil {
				conn.Write(handle(command, func() []byte {
					response, err := raw(addr).Send(command)
					if err != nil {
						return nil
					}
					return response
				}))
			}
			conn.Close()
		}
	})
	t.Cleanup(func() {
		listener.Close()
		wg.Wait()
	})
	return "tcp:" + listener.Addr().String()
}

func is(command []byte, cc tpm2.TPMCC) bool {
	return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == cc
}

func refusal(rc tpm2.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, 10}, uint32(rc))
}

func TestKeysSurvivePowerCuts(t *testing.T) {
	e := tpmtest.New(t)
	d := open(t, e.Addr)
	first := provision(t, d)
	public := d.Signer().Public()
	same := func(again *tpm.Identity) {
		t.Helper()
		if !bytes.Equal(first.EKPublic, again.EKPublic) || !bytes.Equal(first.AKPublic, again.AKPublic) || !bytes.Equal(first.DevicePublic, again.DevicePublic) {
			t.Errorf("the keys differ: %x, then %x", first, again)
		}
	}
	same(provision(t, d))
	e.Kill()
	e.PowerOn()
	// The one that was open the whole time has lost its handles.
	q, err := d.Quote([]byte("x"), []int{0})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.VerifyQuote(*q, first.AKPublic, []byte("x"), []int{0}); err != nil {
		t.Error(err)
	}
	same(provision(t, open(t, e.Addr)))
	key, err := tpm.VerifyCertify(*first)
	if err != nil || !key.Equal(public) {
		t.Errorf("certified is %v, the signer has %v: %v", key, public, err)
	}
	other := provision(t, open(t, tpmtest.Start(t)))
	if bytes.Equal(first.EKPublic, other.EKPublic) || bytes.Equal(first.AKPublic, other.AKPublic) {
		t.Error("two TPMs have the same keys")
	}
	if bytes.Equal(first.AKPublic, first.DevicePublic) {
		t.Error("attestation key and device key are the same")
	}
}

func TestQuote(t *testing.T) {
	e := tpmtest.New(t)
	d := open(t, e.Addr)
	id := provision(t, d)
	all := make([]int, 24)
	for i := range all {
		all[i] = i
	}
	nonce := bytes.Repeat([]byte{7}, 32)
	quote := func() (*tpm.Quote, *tpm.VerifiedQuote) {
		t.Helper()
		q, err := d.Quote(nonce, []int{23, 0, 0, 7}) // any order, any number of times
		if err != nil {
			t.Fatal(err)
		}
		v, err := tpm.VerifyQuote(*q, id.AKPublic, nonce, []int{0, 7, 23})
		if err != nil {
			t.Fatal(err)
		}
		return q, v
	}
	_, before := quote()
	raw(e.Addr).extend(t, 23)
	q, after := quote()
	zero := make([]byte, 32)
	values := sha256.Sum256([]byte{23})
	want := sha256.Sum256(append(bytes.Clone(zero), values[:]...))
	if got := after.PCRs(); !reflect.DeepEqual(got, map[int][]byte{0: zero, 7: zero, 23: want[:]}) {
		t.Errorf("PCRs %x, want PCR 23 to be %x", got, want)
	}
	digest := sha256.Sum256(slices.Concat(zero, zero, want[:]))
	if !bytes.Equal(after.Digest(), digest[:]) || bytes.Equal(after.Digest(), before.Digest()) {
		t.Errorf("digest %x, want %x; before %x", after.Digest(), digest, before.Digest())
	}
	if got, err := d.PCRDigest([]int{7, 0, 23}); err != nil || !bytes.Equal(got, digest[:]) {
		t.Errorf("PCRDigest %x, want %x: %v", got, digest, err)
	}
	if after.ResetCount() != before.ResetCount() || after.RestartCount() != before.RestartCount() || after.Clock() < before.Clock() || after.FirmwareVersion() == 0 || !after.Safe() {
		t.Errorf("in one boot: %+v, then %+v", before, after)
	}
	q24, err := d.Quote(nil, all)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := tpm.VerifyQuote(*q24, id.AKPublic, nil, all); err != nil || len(v.PCRs()) != 24 {
		t.Errorf("quote of all PCRs: %v", err)
	}
	for _, pcrs := range [][]int{nil, {24}, {-1, 3}} {
		if _, err := d.Quote(nonce, pcrs); err == nil {
			t.Errorf("quoted PCRs %v", pcrs)
		}
		if _, err := d.PCRDigest(pcrs); err == nil {
			t.Errorf("read PCRs %v", pcrs)
		}
		if _, err := tpm.VerifyQuote(*q, id.AKPublic, nonce, pcrs); !errors.Is(err, tpm.ReasonSelection) {
			t.Errorf("verified PCRs %v: %v", pcrs, err)
		}
	}
	if _, err := d.Quote(make([]byte, 100), all); err == nil {
		t.Error("quoted 100 bytes of extra data")
	}

	e.Kill()
	e.PowerOn()
	if _, v := quote(); v.ResetCount() != after.ResetCount()+1 {
		t.Errorf("reset count %d after %d and a power cut", v.ResetCount(), after.ResetCount())
	}
}

// Another implementation reads our quote.
func TestCheckquoteAccepts(t *testing.T) {
	d := open(t, tpmtest.Start(t))
	id := provision(t, d)
	q, err := d.Quote([]byte("nonce"), []int{0, 4, 10})
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm.PublicKey(id.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var values []byte
	for _, p := range q.PCRs {
		values = append(values, p.Digest...)
	}
	check := func(nonce string) error {
		out, err := exec.Command("tpm2_checkquote", "-g", "sha256",
			"-u", file("ak.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
			"-m", file("attest", q.Attest), "-s", file("signature", q.Signature),
			"-F", "values", "-l", "sha256:0,4,10", "-f", file("pcrs", values),
			"-q", hex.EncodeToString([]byte(nonce))).CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) {
			t.Fatal("cannot find tpm2_checkquote: install the Debian package tpm2-tools")
		}
		if err != nil {
			return errors.New(string(out))
		}
		return nil
	}
	if err := check("nonce"); err != nil {
		t.Errorf("tpm2_checkquote: %v", err)
	}
	if err := check("other"); err == nil {
		t.Error("tpm2_checkquote takes any nonce")
	}
}

func TestPCRMoves(t *testing.T) {
	e := tpmtest.New(t)
	for _, c := range []struct {
		name  string
		moves int32 // of the PCR between quote and reading
		ok    bool
	}{
		{"twice", 2, true},
		{"always", 1 << 30, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var quotes atomic.Int32
			d := open(t, between(t, e.Addr, func(command []byte, pass func() []byte) []byte {
				response := pass()
				if is(command, tpm2.TPMCCQuote) && quotes.Add(1) <= c.moves {
					raw(e.Addr).extend(t, 10)
				}
				return response
			}))
			id := provision(t, d)
			q, err := d.Quote(nil, []int{10})
			if !c.ok {
				if !errors.Is(err, tpm.ReasonPCRDigest) || !strings.Contains(err.Error(), "moved during each of 8 attempts") || quotes.Load() != 8 {
					t.Errorf("after %d quotes: %v", quotes.Load(), err)
				}
				return
			}
			if err != nil || quotes.Load() != c.moves+1 {
				t.Fatalf("after %d quotes: %v", quotes.Load(), err)
			}
			if _, err := tpm.VerifyQuote(*q, id.AKPublic, nil, []int{10}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestActivate(t *testing.T) {
	plain := tpmtest.New(t)
	manufactured, _ := tpmtest.Manufacture(t)
	for _, c := range []struct {
		name string
		e    *tpmtest.Emulator
	}{{"P-256", plain}, {"RSA-2048", manufactured}} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t, c.e.Addr)
			id := provision(t, d)
			secret := []byte("0123456789abcdef0123456789abcdef")
			name := func(public []byte) []byte {
				n, err := tpm.Name(public)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			try := func(ek, name []byte) ([]byte, error) {
				t.Helper()
				credential, enc, err := tpm.MakeCredential(ek, name, secret)
				if err != nil {
					t.Fatal(err)
				}
				return d.Activate(credential, enc)
			}
			if got, err := try(id.EKPublic, name(id.AKPublic)); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("secret %q: %v", got, err)
			}
			other := provision(t, open(t, tpmtest.Start(t)))
			for _, wrong := range []struct {
				name   string
				ek, ak []byte
			}{
				{"other AK", id.EKPublic, other.AKPublic},
				{"the device key as AK", id.EKPublic, id.DevicePublic},
				{"other EK", other.EKPublic, id.AKPublic},
			} {
				if got, err := try(wrong.ek, name(wrong.ak)); err == nil {
					t.Errorf("%s: the TPM gave %q", wrong.name, got)
				}
			}
			credential, enc, err := tpm.MakeCredential(id.EKPublic, name(id.AKPublic), secret)
			if err != nil {
				t.Fatal(err)
			}
			for _, cut := range [][2][]byte{{nil, nil}, {credential[:9], enc}, {credential, enc[:9]}, {append(credential, 0), enc}} {
				if _, err := d.Activate(cut[0], cut[1]); err == nil {
					t.Error("opened a cut credential")
				}
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
			if left := raw(c.e.Addr).leftovers(t); len(left) > 0 {
				t.Errorf("left in the TPM: %x", left)
			}
		})
	}
}

func TestNothingIsLeftInTheTPM(t *testing.T) {
	e := tpmtest.New(t)
	for range 50 {
		d, err := tpm.Open(e.Addr)
		if err != nil {
			t.Fatal(err)
		}
		provision(t, d)
		if _, err := d.Quote(nil, []int{0, 10}); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if left := raw(e.Addr).leftovers(t); len(left) > 0 {
		t.Errorf("left in the TPM: %x", left)
	}
	if n := raw(e.Addr).lockoutCounter(t); n != 0 {
		t.Errorf("lockout counter %d", n)
	}
}

// Behind a TPM's lockout stands a timer: a device that loses power three times
// must not wait a quarter of an hour for its identity.
func TestPowerCutsDoNotLockOut(t *testing.T) {
	e := tpmtest.New(t)
	for range 5 {
		d := open(t, e.Addr)
		id := provision(t, d)
		name, err := tpm.Name(id.AKPublic)
		if err != nil {
			t.Fatal(err)
		}
		credential, secret, err := tpm.MakeCredential(id.EKPublic, name, []byte("s"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Activate(credential, secret); err != nil {
			t.Fatal(err)
		}
		if err := d.DefineLatch(); err != nil {
			t.Fatal(err)
		}
		r, err := d.ReadLatch()
		if err != nil {
			t.Fatal(err)
		}
		if err := d.WriteLatch(tpm.LatchRecord{Paused: !r.Paused}); err != nil {
			t.Fatal(err)
		}
		e.Kill()
		e.PowerOn()
		if n := raw(e.Addr).lockoutCounter(t); n != 0 {
			t.Fatalf("lockout counter %d", n)
		}
	}
}

// Without a resource manager a killed process leaves its objects, until the TPM
// is full.
func TestLeftoversOfOthersAreCleared(t *testing.T) {
	e := tpmtest.New(t)
	killed := open(t, e.Addr)
	id := provision(t, killed)
	fill := func() {
		for range 20 {
			if _, err := (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}).Execute(raw(e.Addr)); errors.Is(err, tpm2.TPMRCObjectMemory) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			_, _, err := tpm2.PolicySession(raw(e.Addr), tpm2.TPMAlgSHA256, 16)
			if errors.Is(err, tpm2.TPMRCSessionMemory) || errors.Is(err, tpm2.TPMRCSessionHandles) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
		t.Fatal("the TPM takes any number of sessions")
	}
	fill()
	d := open(t, e.Addr)
	if again := provision(t, d); !bytes.Equal(again.AKPublic, id.AKPublic) {
		t.Error("another key")
	}
	fill()
	name, err := tpm.Name(id.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	credential, secret, err := tpm.MakeCredential(id.EKPublic, name, []byte("s"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Activate(credential, secret); err != nil || string(got) != "s" {
		t.Errorf("secret %q: %v", got, err)
	}
	// The first one finds other objects where its keys were.
	digest := sha256.Sum256(nil)
	if signature, err := killed.Signer().Sign(nil, digest[:], crypto.SHA256); err != nil {
		t.Error(err)
	} else if !ecdsa.VerifyASN1(killed.Signer().Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Error("signed with another key")
	}
	if _, err := killed.Quote(nil, []int{0}); err != nil {
		t.Error(err)
	}
}

// Other objects have come to stand where the keys were: the same templates, but
// of the owner hierarchy, so that their signatures look right.
func TestHandlesNameOtherKeys(t *testing.T) {
	e := tpmtest.New(t)
	d := open(t, e.Addr)
	id := provision(t, d)
	replace := func(public []byte) {
		t.Helper()
		for _, h := range raw(e.Addr).leftovers(t) {
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(raw(e.Addr)); err != nil {
				t.Fatal(err)
			}
		}
		template, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(*template)}).Execute(raw(e.Addr)); err != nil {
				t.Fatal(err)
			}
		}
	}
	replace(id.DevicePublic)
	digest := sha256.Sum256(nil)
	signature, err := d.Signer().Sign(nil, digest[:], crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(d.Signer().Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Errorf("signature %x: %v", signature, err)
	}
	if _, err := d.Quote(nil, []int{0}); err != nil { // loads it again
		t.Fatal(err)
	}
	replace(id.AKPublic)
	q, err := d.Quote(nil, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.VerifyQuote(*q, id.AKPublic, nil, []int{0}); err != nil {
		t.Error(err)
	}
}

func TestInactiveBank(t *testing.T) {
	d := open(t, between(t, tpmtest.Start(t), func(command []byte, pass func() []byte) []byte {
		if is(command, tpm2.TPMCCPCRRead) { // a response without selection and digests
			return slices.Concat([]byte{0x80, 0x01}, u32(22), u32(0), u32(1), u32(0), u32(0))
		}
		return pass()
	}))
	if _, err := d.PCRDigest([]int{0}); err == nil || !strings.Contains(err.Error(), "is the SHA-256 bank active?") {
		t.Errorf("error %v", err)
	}
}

func TestSigner(t *testing.T) {
	d := open(t, tpmtest.Start(t))
	if s := d.Signer(); s != nil {
		t.Fatal("a signer before there is a key")
	}
	provision(t, d)
	signer := d.Signer()

	// TLS 1.3 with the device key as a client's, from several goroutines.
	cert := selfSigned(t, signer)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			a, b := net.Pipe()
			peer := tls.Server(b, &tls.Config{
				Certificates: []tls.Certificate{softCert(t)}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13,
			})
			done := make(chan error, 1)
			go func() { done <- peer.Handshake() }()
			client := tls.Client(a, &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
			// The server's last message has to be read for its handshake to end.
			go io.Copy(io.Discard, client)
			if err := <-done; err != nil {
				t.Error(err)
			} else if got := peer.ConnectionState().PeerCertificates[0].PublicKey; !signer.Public().(*ecdsa.PublicKey).Equal(got) {
				t.Errorf("the client has key %v", got)
			}
			a.Close()
			b.Close()
		})
	}
	wg.Wait()

	// go-cose gives no options.
	digest := sha256.Sum256(nil)
	if signature, err := signer.Sign(nil, digest[:], nil); err != nil || !ecdsa.VerifyASN1(signer.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Errorf("signature %x without options: %v", signature, err)
	}
	if _, err := signer.Sign(rand.Reader, make([]byte, 32), crypto.SHA3_256); err == nil {
		t.Error("signed with SHA-3")
	}
	if _, err := signer.Sign(rand.Reader, make([]byte, 48), crypto.SHA384); err == nil {
		t.Error("signed with SHA-384")
	}
	if _, err := signer.Sign(rand.Reader, make([]byte, 20), crypto.SHA256); err == nil {
		t.Error("signed 20 bytes")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := signer.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); !errors.Is(err, os.ErrClosed) {
		t.Errorf("signed after Close: %v", err)
	}
	if _, err := d.Provision(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("provisioned after Close: %v", err)
	}
}

func selfSigned(t testing.TB, key crypto.Signer) tls.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestNoTPM(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	killed := tpmtest.New(t)
	killed.Kill()
	for _, c := range []struct {
		addr string
		none bool
		text string
	}{
		{"/dev/no-such-tpm", true, "no such file"},
		{"unix:" + filepath.Join(dir, "none"), true, "no such file"},
		{"tcp:" + closed.Addr().String(), true, "connection refused"},
		{killed.Addr, true, "connection refused"},
		{plain, false, "not a character device"},
		{dir, false, "not a character device"},
		{"/dev/null", false, "response of 0 bytes"},
		{"tpm0", false, "want"},
		{"", false, "want"},
	} {
		d, err := tpm.Open(c.addr)
		if d != nil || errors.Is(err, tpm.ErrNoTPM) != c.none || err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %q", c.addr, err, c.text)
		}
	}
	// A TPM 1.2 does not know the tag of a command: TPM_BADTAG.
	old := between(t, "", func([]byte, func() []byte) []byte { return []byte{0x00, 0xc4, 0, 0, 0, 10, 0, 0, 0, 0x1e} })
	if _, err := tpm.Open(old); err == nil || errors.Is(err, tpm.ErrNoTPM) {
		t.Errorf("TPM 1.2: %v", err)
	}
}

func TestTPMDies(t *testing.T) {
	t.Run("mid-command", func(t *testing.T) {
		e := tpmtest.New(t)
		d := open(t, between(t, e.Addr, func(command []byte, pass func() []byte) []byte {
			if is(command, tpm2.TPMCCQuote) {
				e.Stop() // so that it has the command and no answer yet
				conn, err := net.Dial("unix", strings.TrimPrefix(e.Addr, "unix:"))
				if err != nil {
					t.Error(err)
					return nil
				}
				defer conn.Close()
				conn.Write(command)
				e.Kill()
				if response, err := readMessage(conn); err == nil {
					return response
				}
				return nil
			}
			return pass()
		}))
		provision(t, d)
		_, err := d.Quote(nil, []int{0})
		if err == nil || !strings.Contains(err.Error(), "cannot quote: cannot read response: EOF") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("hangs", func(t *testing.T) {
		e := tpmtest.New(t)
		d, err := tpm.Options{Timeout: 500 * time.Millisecond}.Open(e.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		provision(t, d)
		e.Stop()
		if _, err := d.Quote(nil, []int{0}); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		e.Continue()
		if _, err := d.Quote(nil, []int{0}); err != nil {
			t.Errorf("after it continued: %v", err)
		}
	})
	t.Run("talks nonsense", func(t *testing.T) {
		e := tpmtest.New(t)
		for _, answer := range []string{"", "80", "8001000000090000", "80010000ffff00000000", "80010000000c00000000ff", "ffffffffffffffffffff", "8001000000120000000000000000000000ff", "80010000000a00000000"} {
			b, err := hex.DecodeString(answer)
			if err != nil {
				t.Fatal(err)
			}
			d := open(t, between(t, e.Addr, func(command []byte, pass func() []byte) []byte {
				if is(command, tpm2.TPMCCCreatePrimary) {
					return b
				}
				return pass()
			}))
			if _, err := d.Provision(); err == nil {
				t.Errorf("provisioned with the answer %q", answer)
			}
		}
	})
}

func TestBusyTPM(t *testing.T) {
	e := tpmtest.New(t)
	for _, c := range []struct {
		rc   tpm2.TPMRC
		busy int32 // answers before it does the work
		asks int32 // attempts in all; 0 means it gives up
	}{
		{tpm2.TPMRCRetry, 2, 3},
		{tpm2.TPMRCYielded, 1, 2},
		{tpm2.TPMRCNVRate, 1, 2},
		{tpm2.TPMRCTesting, 1, 2},
		{tpm2.TPMRCLockout, 1, 1},
		{tpm2.TPMRCRetry, 1 << 30, 0},
	} {
		var asked atomic.Int32
		timeout := 20 * time.Second // a busy machine is not a busy TPM
		if c.asks == 0 {
			timeout = 300 * time.Millisecond
		}
		d, err := tpm.Options{Timeout: timeout}.Open(between(t, e.Addr, func(command []byte, pass func() []byte) []byte {
			if is(command, tpm2.TPMCCPCRRead) && asked.Add(1) <= c.busy {
				return refusal(c.rc)
			}
			return pass()
		}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.PCRDigest([]int{0})
		if ok := c.asks == c.busy+1; (err == nil) != ok || !ok && !errors.Is(err, c.rc) || c.asks != 0 && asked.Load() != c.asks || asked.Load() < 2 && c.asks == 0 {
			t.Errorf("%v: asked %d times, want %d: %v", c.rc, asked.Load(), c.asks, err)
		}
	}
}

func TestOwnedTPM(t *testing.T) {
	e := tpmtest.New(t)
	id := provision(t, open(t, e.Addr))
	for _, h := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHEndorsement} {
		_, err := tpm2.HierarchyChangeAuth{
			AuthHandle: tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth(nil)},
			NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("secret")},
		}.Execute(raw(e.Addr))
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(t, e.Addr).Provision(); !errors.Is(err, tpm2.TPMRCBadAuth) {
		t.Errorf("provisioned without the password: %v", err)
	}
	if err := open(t, e.Addr).DefineLatch(); !errors.Is(err, tpm2.TPMRCBadAuth) {
		t.Errorf("defined latch without the password: %v", err)
	}
	if n := raw(e.Addr).lockoutCounter(t); n != 0 {
		t.Errorf("lockout counter %d", n)
	}
	d, err := tpm.Options{OwnerAuth: []byte("secret"), EndorsementAuth: []byte("secret")}.Open(e.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if again := provision(t, d); !bytes.Equal(again.AKPublic, id.AKPublic) {
		t.Error("the password changes the keys")
	}
	name, err := tpm.Name(id.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	credential, secret, err := tpm.MakeCredential(id.EKPublic, name, []byte("s"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Activate(credential, secret); err != nil {
		t.Error(err)
	}
	if err := d.DefineLatch(); err != nil {
		t.Error(err)
	}
}

func BenchmarkProvision(b *testing.B) {
	d := open(b, tpmtest.Start(b))
	for b.Loop() {
		provision(b, d)
	}
}

func BenchmarkQuote(b *testing.B) {
	d := open(b, tpmtest.Start(b))
	provision(b, d)
	for b.Loop() {
		if _, err := d.Quote(nil, []int{0, 1, 2, 3, 4, 5, 6, 7}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	d := open(b, tpmtest.Start(b))
	provision(b, d)
	s := d.Signer()
	for b.Loop() {
		if _, err := s.Sign(nil, make([]byte, 32), crypto.SHA256); err != nil {
			b.Fatal(err)
		}
	}
}
