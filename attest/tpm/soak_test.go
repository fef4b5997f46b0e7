package tpm_test

import (
	"bufio"
	"crypto/sha256"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

// everyKind has the soak tests run on each kind of TPM, as make test-tpm does. An
// RSA key takes a software TPM as long as a slow chip.
var everyKind = flag.Bool("every-kind", false, "soak every kind of TPM, not only one")

// kinds are the TPMs that devices come with.
var kinds = []tpmtest.Spec{
	{EK: "P-256"},
	{EK: "P-256", Banks: tpmtest.FourBanks},
	{EK: "P-384"},
	{EK: "P-384", Banks: tpmtest.FourBanks},
	{EK: "RSA-2048"},
	{EK: "RSA-2048", Banks: tpmtest.FourBanks},
}

// soak runs f on the kinds of TPM, or on the one that is quick.
func soak(t *testing.T, f func(t *testing.T, e *tpmtest.Emulator)) {
	list := kinds[1:2]
	if *everyKind {
		list = kinds
	}
	for _, k := range list {
		t.Run(kindName(k), func(t *testing.T) {
			e, _ := k.Manufacture(t)
			f(t, e)
		})
	}
}

func kindName(s tpmtest.Spec) string {
	if s.Banks == "" {
		return s.EK + " one bank"
	}
	return s.EK + " four banks"
}

// TestMain makes this program a process that attests for ever, for the tests
// that kill one.
func TestMain(m *testing.M) {
	if addr := os.Getenv("TPM_ATTEST_FOR_EVER"); addr != "" {
		attestForEver(addr)
	}
	os.Exit(m.Run())
}

func attestForEver(addr string) {
	for n := uint64(0); ; n++ {
		err := func() error {
			d, err := tpm.Open(addr)
			if err != nil {
				return err
			}
			defer d.Close()
			id, err := d.Provision()
			if err != nil {
				return err
			}
			extra := sha256.Sum256(fmt.Append(nil, n))
			q, err := d.Quote(extra[:], []int{0, 7})
			if err != nil {
				return err
			}
			_, err = tpm.VerifyQuote(*q, id.AKPublic, extra[:], []int{0, 7})
			return err
		}()
		fmt.Println(err) // "<nil>" for an attestation that was made and verified
		if err != nil {
			os.Exit(1)
		}
	}
}

// TestSoakAttestations makes 500 attestations in a row, each with a connection
// of its own, and looks at what they leave in the TPM.
func TestSoakAttestations(t *testing.T) { soak(t, soakAttestations) }

func soakAttestations(t *testing.T, e *tpmtest.Emulator) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TPM_ATTEST_FOR_EVER="+e.Addr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for n := range 500 {
		if !lines.Scan() || lines.Text() != "<nil>" {
			t.Fatalf("attestation %d: %q", n, lines.Text())
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	settled(t, e)
}

// TestSoakKills kills a process that attests with -9 at 100 random moments.
func TestSoakKills(t *testing.T) { soak(t, soakKills) }

func soakKills(t *testing.T, e *tpmtest.Emulator) {
	rng := rand.New(rand.NewPCG(1, 2))
	attested := 0
	limit := 60 * time.Millisecond
	for kills := range 100 {
		if attested < kills/5 {
			limit += limit / 10 // a busy machine: it is killed before it begins
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TPM_ATTEST_FOR_EVER="+e.Addr)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(rng.Int64N(int64(limit))), func() { cmd.Process.Kill() })
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if lines.Text() != "<nil>" {
				t.Errorf("after %d attestations: %s", attested, lines.Text())
			}
			attested++
		}
		cmd.Wait()
		timer.Stop()
	}
	t.Logf("%d attestations between 100 kills", attested)
	if attested < 20 {
		t.Errorf("only %d attestations: the kills came before anything could be left behind", attested)
	}
	settled(t, e)
}

// TestSoakPowerCuts cuts the TPM's power 20 times while commands are under way.
func TestSoakPowerCuts(t *testing.T) { soak(t, soakPowerCuts) }

func soakPowerCuts(t *testing.T, e *tpmtest.Emulator) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TPM_ATTEST_FOR_EVER="+e.Addr)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + rng.IntN(3) {
			if !lines.Scan() || lines.Text() != "<nil>" {
				t.Fatalf("after a power cut: %q", lines.Text())
			}
		}
		e.Kill()
		// The process ends with an error of its own, and does not hang.
		for lines.Scan() {
		}
		cmd.Wait()
		e.PowerOn()
	}
	settled(t, e)
}

// settled holds that nothing of an attestation is left. A killed process cannot
// clean up, and this TPM has no resource manager; the next one does it.
func settled(t *testing.T, e *tpmtest.Emulator) {
	t.Helper()
	d := open(t, e.Addr)
	provision(t, d)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if left := raw(e.Addr).leftovers(t); len(left) != 0 {
		t.Errorf("left in the TPM: %v", left)
	}
	if n := raw(e.Addr).lockoutCounter(t); n != 0 {
		t.Errorf("lockout counter %d, want 0", n)
	}
}
