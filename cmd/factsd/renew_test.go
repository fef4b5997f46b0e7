package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/agent"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

var _ agent.Keys = (*keyState)(nil)

// A renewing device is its state directory, and what the verifier knows of it.
type renewing struct {
	*testing.T
	fleet  *verifiertest.Fleet
	config *config
	device *verifiertest.Device
}

func newRenewing(t *testing.T, tpmAddr string) *renewing {
	t.Helper()
	dir := t.TempDir()
	text := strings.ReplaceAll(provisionConfig, "STATE", filepath.Join(dir, "state"))
	if tpmAddr != "" {
		text = strings.ReplaceAll(text, "file = \""+filepath.Join(dir, "state")+"/device.key\"", "tpm = \""+tpmAddr+"\"")
	}
	path := filepath.Join(dir, "factsd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, stderr strings.Builder
	if code := mainCode([]string{"provision", "-config", path}, &out, &stderr); code != exitOK {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	r := &renewing{T: t, fleet: verifiertest.New(t)}
	var err error
	if r.config, err = readConfig(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(r.config.stateOf("run"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.device = r.fleet.NewDevice()
	d := r.open()
	r.device.UEID = d.ueid
	r.device.Enrolled()
	d.close()
	return r
}

// open starts the device with the key that its state says.
func (r *renewing) open() *device {
	r.Helper()
	d, err := openDevice(r.config)
	if err != nil {
		r.Fatal(err)
	}
	if d.notRenewed != nil {
		r.Fatal(d.notRenewed)
	}
	r.device.Signer, r.device.Identity, r.device.Protection, r.device.TPM = d.signer, d.identity, d.protection, d.tpm
	return d
}

func (r *renewing) order() []byte {
	r.Helper()
	data, err := r.fleet.Renew(r.fleet.Now, r.device.UEID, "ward 3")
	if err != nil {
		r.Fatal(err)
	}
	order, err := r.fleet.World.Trust(r).OpenCommand(r.fleet.Down(data).Command, reference.Renew, r.device.UEID[:], "pump-1", reference.At(r.fleet.Now))
	if err != nil {
		r.Fatal(err)
	}
	return order.Command().Nonce
}

// ask sends the renewal that was begun, and returns the key that counts then.
func (r *renewing) ask(d *device) []byte {
	r.Helper()
	m := r.device.Delivery(d.renewal)
	m.Kind = "enrol"
	reply := r.fleet.Take(m)
	if reply.Refused != nil {
		r.Fatalf("%+v", reply.Refused)
	}
	return r.fleet.Down(reply.Down).Renewed
}

// finish goes on from whatever state the device is in, as a device does that is
// started: it asks until it is answered, takes the key over, and reports under it.
func (r *renewing) finish() {
	r.Helper()
	d := r.open()
	if d.renewal != nil {
		if got := r.ask(d); !bytes.Equal(got, d.nextKey[:]) {
			r.Fatalf("the verifier says that %x counts, asked for %s", got, d.nextKey)
		}
		r.device.Accepted(r.device.Message(attest.KindRoutine)) // the present one counts still
		if err := d.keys.Renewed(); err != nil {
			r.Fatal(err)
		}
		d.close()
		if d = r.open(); d.renewal != nil {
			r.Fatal("it goes on asking")
		}
	}
	defer d.close()
	r.device.Accepted(r.device.Message(attest.KindBoot))
	if known := r.device.View(); known.Key.ID() != d.signer.Public().ID() || known.Renewals != 1 {
		r.Errorf("the device has %s, the verifier knows %s after %d renewals", d.signer.Public().ID(), known.Key.ID(), known.Renewals)
	}
	if key, ok := d.tls.PrivateKey.(crypto.Signer); !ok || !key.Public().(*ecdsa.PublicKey).Equal(d.signer.Public().Key()) {
		r.Error("the broker is shown another key")
	}
}

// Killed at any moment of a renewal, the device has one of the two keys, and the
// renewal ends well after the next start.
func TestRenewalKilledAtEachStep(t *testing.T) {
	for _, kind := range []string{"file", "TPM"} {
		for _, step := range []string{"before the order is kept", "while it is written", "after it is kept", "after the verifier has taken it", "while the key is taken over", "after that"} {
			t.Run(kind+" "+step, func(t *testing.T) {
				addr := ""
				if kind == "TPM" {
					addr = tpmtest.Start(t)
				}
				r := newRenewing(t, addr)
				d := r.open()
				first := d.signer.Public().ID()
				r.device.Accepted(r.device.Message(attest.KindBoot))
				nonce := r.order()
				torn := filepath.Join(r.config.stateOf("run"), "key.new")
				switch step {
				case "before the order is kept":
					// The order is given again by whoever sees that nothing has come of it.
					d.close()
					d = r.open()
				case "while it is written":
					if err := os.WriteFile(torn, []byte("half"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if fresh, err := d.keys.Renew(nonce); err != nil || !fresh {
					t.Fatal(fresh, err)
				}
				if fresh, err := d.keys.Renew(nonce); err != nil || fresh {
					t.Fatalf("the same order twice: %v, %v", fresh, err)
				}
				d.close()
				if step == "after the verifier has taken it" || step == "while the key is taken over" || step == "after that" {
					d = r.open()
					if d.signer.Public().ID() != first {
						t.Fatal("another key before the verifier has taken it")
					}
					r.ask(d)
					if step == "while the key is taken over" {
						if err := os.WriteFile(torn, []byte("half"), 0o600); err != nil {
							t.Fatal(err)
						}
					}
					if step == "after that" {
						if err := d.keys.Renewed(); err != nil {
							t.Fatal(err)
						}
					}
					d.close()
				}
				r.finish()
				d = r.open()
				defer d.close()
				if d.signer.Public().ID() == first {
					t.Error("still the first key")
				}
				if fresh, err := d.keys.Renew(nonce); err != nil || fresh {
					t.Errorf("an order that was followed is taken again: %v, %v", fresh, err)
				}
			})
		}
	}
}

// Which key counts is told, or nothing: a damaged file is not taken for none.
func TestDamagedKeyState(t *testing.T) {
	r := newRenewing(t, "")
	d := r.open()
	defer d.close()
	if _, err := d.keys.Renew(r.order()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.config.stateOf("run"), "key")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openDevice(r.config); err == nil || !strings.Contains(err.Error(), "which device key counts") {
		t.Errorf("%v", err)
	}
}

// renewForEver is a process that renews its key without an end, to be killed.
func renewForEver() {
	c := &config{State: os.Args[1]}
	c.Key.File = "none"
	s, err := readKeyState(c)
	for n := uint64(0); err == nil; n++ {
		nonce := make([]byte, 16)
		nonce[0], nonce[1], nonce[2] = byte(n), byte(n>>8), byte(os.Getpid())
		if _, err = s.Renew(nonce); err == nil {
			err = s.Renewed()
		}
	}
	os.Stderr.WriteString(err.Error() + "\n")
	os.Exit(1)
}

// After kill -9 at random moments there is one whole state, with a usable key.
func TestRenewalKilledAtRandom(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := &config{State: dir}
	c.Key.File = "none"
	rng := rand.New(rand.NewPCG(5, 6))
	seen := map[string]bool{}
	limit := 50 * time.Millisecond
	for range 40 {
		cmd := exec.Command(os.Args[0], dir)
		cmd.Args[0] = "renew-for-ever"
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(rng.Int64N(int64(limit))), func() { cmd.Process.Kill() })
		cmd.Wait()
		timer.Stop()
		if stderr.Len() > 0 {
			t.Fatal(stderr.String())
		}
		s, err := readKeyState(c)
		if err != nil {
			t.Fatal(err)
		}
		if (s.Order == nil) != (s.Next == nil) {
			t.Fatalf("half an order: %+v", s)
		}
		for _, key := range [][]byte{s.Key, s.Next} {
			if key == nil {
				continue
			}
			if _, err := cose.ParsePrivateKey(key); err != nil {
				t.Fatal(err)
			}
			seen[string(key)] = true
		}
		if len(seen) < 5 {
			limit += limit / 10 // a busy machine: it is killed before it begins
		}
	}
	if len(seen) < 5 {
		t.Errorf("%d keys after 40 kills: they came before anything was written", len(seen))
	}
}
