package tpm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

// On every kind of TPM: enrol, quote, verify, clear, enrol again.
func TestEveryKind(t *testing.T) {
	for _, k := range kinds {
		t.Run(kindName(k), func(t *testing.T) {
			e, roots := k.Manufacture(t)
			first := attestOnce(t, e, func(id *tpm.Identity) {
				if err := tpm.VerifyEKCert(id.EKCert, id.EKPublic, roots); err != nil {
					t.Error(err)
				}
			})
			e.Clear()
			again := attestOnce(t, e, func(*tpm.Identity) {})
			// TPM2_Clear leaves the endorsement seed alone (part 3, 24.6).
			if !bytes.Equal(first.EKPublic, again.EKPublic) || !bytes.Equal(first.AKPublic, again.AKPublic) || !bytes.Equal(first.DevicePublic, again.DevicePublic) {
				t.Error("clearing the TPM changed its keys")
			}
			if left := raw(e.Addr).leftovers(t); len(left) != 0 {
				t.Errorf("left in the TPM: %x", left)
			}
			if n := raw(e.Addr).lockoutCounter(t); n != 0 {
				t.Errorf("lockout counter %d", n)
			}
		})
	}
}

// attestOnce enrols and quotes as a device and a verifier do.
func attestOnce(t *testing.T, e *tpmtest.Emulator, enrolled func(id *tpm.Identity)) *tpm.Identity {
	t.Helper()
	d := open(t, e.Addr)
	id := provision(t, d)
	enrolled(id)
	if _, err := tpm.VerifyCertify(*id); err != nil {
		t.Fatal(err)
	}
	name, err := tpm.Name(id.AKPublic)
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte("0123456789abcdef0123456789abcdef")
	credential, encrypted, err := tpm.MakeCredential(id.EKPublic, name, secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Activate(credential, encrypted); err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("secret %x: %v", got, err)
	}
	q, err := d.Quote([]byte("x"), []int{0, 7, 10})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tpm.VerifyQuote(*q, id.AKPublic, []byte("x"), []int{0, 7, 10}); err != nil {
		t.Fatal(err)
	}
	if err := d.DefineLatch(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return id
}

// A wire is what somebody sees who listens between processor and TPM.
type wire struct {
	mu       sync.Mutex
	seen     []byte
	commands []tpm2.TPMCC
}

func listen(t testing.TB, addr string) (string, *wire) {
	w := new(wire)
	return between(t, addr, func(command []byte, pass func() []byte) []byte {
		response := pass()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.seen = slices.Concat(w.seen, command, response)
		w.commands = append(w.commands, tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])))
		return response
	}), w
}

// No secret crosses the bus in the clear: not that of a credential, and no
// password.
func TestBusShowsNoSecret(t *testing.T) {
	for _, k := range []tpmtest.Spec{{EK: "P-256"}, {EK: "P-384"}, {EK: "RSA-2048"}} {
		t.Run(k.EK, func(t *testing.T) {
			e, _ := k.Manufacture(t)
			for _, h := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHEndorsement} {
				if _, err := (tpm2.HierarchyChangeAuth{AuthHandle: h, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("hospital password")}}).Execute(raw(e.Addr)); err != nil {
					t.Fatal(err)
				}
			}
			addr, bus := listen(t, e.Addr)
			d, err := tpm.Options{OwnerAuth: []byte("hospital password"), EndorsementAuth: []byte("hospital password")}.Open(addr)
			if err != nil {
				t.Fatal(err)
			}
			id := provision(t, d)
			name, err := tpm.Name(id.AKPublic)
			if err != nil {
				t.Fatal(err)
			}
			secret := []byte("the secret in a credential, 32 B")
			credential, encrypted, err := tpm.MakeCredential(id.EKPublic, name, secret)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := d.Activate(credential, encrypted); err != nil || !bytes.Equal(got, secret) {
				t.Fatalf("secret %q: %v", got, err)
			}
			if err := d.DefineLatch(); err != nil {
				t.Fatal(err)
			}
			if err := d.WriteLatch(tpm.LatchRecord{Paused: true}); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(bus.seen, id.AKPublic) {
				t.Fatal("the listener heard nothing")
			}
			if bytes.Contains(bus.seen, secret) || bytes.Contains(bus.seen, []byte("hospital password")) {
				t.Error("the bus shows a secret")
			}
			if left := raw(e.Addr).leftovers(t); len(left) != 0 {
				t.Errorf("left in the TPM: %x", left)
			}
		})
	}
}

// Firmware TPMs leave out what the platform's profile calls optional. What is used
// here is on the list of what every TPM has (TCG PC Client PTP 1.05, 4.6.2).
func TestCommandsEveryTPMHas(t *testing.T) {
	e, _ := tpmtest.Manufacture(t)
	addr, bus := listen(t, e.Addr)
	proxied := &tpmtest.Emulator{Addr: addr}
	attestOnce(t, proxied, func(*tpm.Identity) {})
	every := []tpm2.TPMCC{
		tpm2.TPMCCGetCapability, tpm2.TPMCCCreatePrimary, tpm2.TPMCCFlushContext, tpm2.TPMCCReadPublic, tpm2.TPMCCCertify,
		tpm2.TPMCCQuote, tpm2.TPMCCPCRRead, tpm2.TPMCCSign, tpm2.TPMCCStartAuthSession, tpm2.TPMCCPolicySecret,
		tpm2.TPMCCActivateCredential, tpm2.TPMCCNVReadPublic, tpm2.TPMCCNVRead, tpm2.TPMCCNVWrite, tpm2.TPMCCNVIncrement, tpm2.TPMCCNVDefineSpace,
	}
	for _, c := range bus.commands {
		if !slices.Contains(every, c) {
			t.Errorf("command %#x is not on the list", uint32(c))
		}
	}
	if len(bus.commands) < 20 {
		t.Errorf("only %d commands", len(bus.commands))
	}
}

// A TPM that has a certificate for a key which it cannot make: with the code that
// the specification gives for each lack. Simulated, between a sound TPM and us.
func TestFirmwareLacksAlgorithms(t *testing.T) {
	both, roots := tpmtest.Manufacture(t) // certificates for RSA-2048 and P-384
	one, _ := tpmtest.Spec{EK: "P-384"}.Manufacture(t)
	const second = 0x240 // the second parameter is at fault (part 1, 39.4)
	for _, c := range []struct {
		name      string
		e         *tpmtest.Emulator
		lacks     string // in the template
		rc        tpm2.TPMRC
		certified bool // by another key that has a certificate
		fails     bool // the keys of the project are of P-256
	}{
		{"P-384", one, "\x00\x10\x00\x04\x00\x10", tpm2.TPMRCCurve + second, false, false},
		{"SHA-384", one, "\x00\x23\x00\x0c", tpm2.TPMRCHash + second, false, false},
		{"AES-256", one, "\x00\x06\x01\x00\x00\x43", tpm2.TPMRCKeySize + second, false, false},
		{"RSA", both, "\x00\x01\x00\x0b", tpm2.TPMRCAsymmetric + second, true, false},
		{"P-256", both, "\x00\x18\x00\x0b\x00\x03", tpm2.TPMRCCurve + second, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused := false
			d := open(t, between(t, c.e.Addr, func(command []byte, pass func() []byte) []byte {
				if is(command, tpm2.TPMCCCreatePrimary) && bytes.Contains(command, []byte(c.lacks)) {
					refused = true
					return refusal(c.rc)
				}
				return pass()
			}))
			id, err := d.Provision()
			switch {
			case !refused:
				t.Error("nothing was refused")
			case c.fails != errors.Is(err, tpm2.TPMRCCurve):
				t.Errorf("error %v", err)
			case c.fails:
			case err != nil:
				t.Error(err)
			case !c.certified && id.EKCert != nil:
				t.Errorf("certificate %x for another key", id.EKCert)
			case c.certified:
				if err := tpm.VerifyEKCert(id.EKCert, id.EKPublic, roots); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Two others use the TPM, which has no resource manager, all the time: one has an
// object in it, one a session. All get done what they want.
func TestTPMIsShared(t *testing.T) {
	e := tpmtest.New(t)
	stop := make(chan struct{})
	var others sync.WaitGroup
	var signed int
	others.Go(func() {
		template, err := tpm2.Unmarshal[tpm2.TPMTPublic](tpm2.Marshal(tpm2.ECCSRKTemplate))
		if err != nil {
			t.Error(err)
			return
		}
		for {
			select {
			case <-stop:
				return
			default:
			}
			srk, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(*template)}.Execute(raw(e.Addr))
			if errors.Is(err, tpm2.TPMRCObjectMemory) {
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			_, closed, err := tpm2.PolicySession(raw(e.Addr), tpm2.TPMAlgSHA256, 16)
			if err == nil {
				_ = closed() // may be gone: we may have needed the room
			}
			_, _ = tpm2.FlushContext{FlushHandle: srk.ObjectHandle}.Execute(raw(e.Addr)) // likewise
			signed++
		}
	})
	for range 20 {
		attestOnce(t, e, func(*tpm.Identity) {})
	}
	close(stop)
	others.Wait()
	if signed == 0 {
		t.Error("the other one was kept out the whole time")
	}
	if n := raw(e.Addr).lockoutCounter(t); n != 0 {
		t.Errorf("lockout counter %d", n)
	}
}
