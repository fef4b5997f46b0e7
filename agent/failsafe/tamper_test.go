package failsafe

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

// The indices of the latch, as package attest/tpm defines them.
const (
	nvCounter tpm2.TPMHandle = 0x01804d40
	nvRecord  tpm2.TPMHandle = 0x01804d41
)

func nvName(t *testing.T, bus transport.TPM, index tpm2.TPMHandle) tpm2.NamedHandle {
	t.Helper()
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(bus)
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.NamedHandle{Handle: index, Name: rsp.NVName}
}

// A paused device is switched off, and somebody with all rights over its disk
// or its TPM works on one of them. It comes up paused, and says what is wrong.
func TestTampering(t *testing.T) {
	forge := func(t *testing.T, path string, r record) {
		t.Helper()
		r.Generation = 1 << 40
		if err := writeState(path, r); err != nil {
			t.Fatal(err)
		}
	}
	both := func(f func(t *testing.T, path string)) func(*testing.T, *device, transport.TPM) {
		return func(t *testing.T, d *device, _ transport.TPM) {
			for _, name := range copyNames {
				f(t, filepath.Join(d.cfg.StateDir, name))
			}
		}
	}
	edit := func(change func([]byte) []byte) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path, change(data), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(names ...string) func(*testing.T, *device, transport.TPM) {
		return func(t *testing.T, d *device, _ transport.TPM) {
			for _, name := range names {
				if err := os.RemoveAll(filepath.Join(d.cfg.StateDir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	nvWrite := func(data string) func(*testing.T, *device, transport.TPM) {
		return func(t *testing.T, d *device, bus transport.TPM) {
			_, err := tpm2.NVWrite{AuthHandle: tpm2.TPMRHOwner, NVIndex: nvName(t, bus, nvRecord), Data: tpm2.TPM2BMaxNVBuffer{Buffer: []byte(data)}}.Execute(bus)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	undefine := func(t *testing.T, _ *device, bus transport.TPM) {
		for _, index := range []tpm2.TPMHandle{nvCounter, nvRecord} {
			if _, err := (tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHOwner, NVIndex: nvName(t, bus, index)}).Execute(bus); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		name string
		do   func(*testing.T, *device, transport.TPM)
		said string
	}{
		{"one copy removed", remove(copyNames[0]), "latch copy latch.a is missing"},
		{"both copies removed", remove(copyNames[:]...), "both copies of the latch are missing"},
		{"both copies and the marker removed", remove(copyNames[0], copyNames[1], fileMarker), "state damaged"},
		{"the whole directory removed", remove(""), "TPM says paused"},
		{"one bit of one copy", func(t *testing.T, d *device, _ transport.TPM) {
			edit(func(b []byte) []byte { b[9] ^= 1; return b })(t, filepath.Join(d.cfg.StateDir, copyNames[1]))
		}, "latch copy latch.b is damaged"},
		{"one bit of both copies", both(edit(func(b []byte) []byte { b[9] ^= 1; return b })), "no copy of the latch can be read"},
		{"both copies cut", both(edit(func(b []byte) []byte { return b[:len(b)/2] })), "no copy of the latch can be read"},
		{"both copies empty", both(edit(func([]byte) []byte { return nil })), "no copy of the latch can be read"},
		{"both copies with something behind", both(edit(func(b []byte) []byte { return append(b, "x"...) })), "no copy of the latch can be read"},
		{"both copies forged as clear", both(func(t *testing.T, p string) { forge(t, p, record{Version: 1, Phase: PhaseClear}) }), "TPM says paused, the files say otherwise"},
		{"both copies forged as an accepted resume", func(t *testing.T, d *device, bus transport.TPM) {
			data, err := os.ReadFile(filepath.Join(d.cfg.StateDir, copyNames[0]))
			if err != nil {
				t.Fatal(err)
			}
			r, err := decodeRecord(data[:len(data)-4])
			if err != nil {
				t.Fatal(err)
			}
			r.Phase = PhaseResuming
			both(func(t *testing.T, p string) { forge(t, p, r) })(t, d, bus)
		}, "the resume is void"},
		{"both copies forged as another pause's resume", both(func(t *testing.T, p string) {
			r := sample(PhaseResuming)
			forge(t, p, r)
		}), "TPM says paused, the files say otherwise"},
		{"both copies of a later version", both(func(t *testing.T, p string) {
			data, err := cose.Encode(record{Version: 2, Phase: PhaseClear})
			if err == nil {
				err = os.WriteFile(p, data, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}), "no copy of the latch can be read"},
		{"the directory of before the pause", func(t *testing.T, d *device, _ transport.TPM) {
			if err := os.RemoveAll(d.cfg.StateDir); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(d.path("before"), d.cfg.StateDir); err != nil {
				t.Fatal(err)
			}
		}, "TPM says paused, the files say otherwise"},
		{"nonces of used resumes damaged", func(t *testing.T, d *device, _ transport.TPM) {
			if err := os.WriteFile(filepath.Join(d.cfg.StateDir, fileUsed), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "nonces of used resumes are lost"},
		{"the TPM's record without its beginning", nvWrite("XXXX"), "NV index does not hold what was written there"},
		{"the TPM's record neither paused nor clear", nvWrite("MFL1\x02"), "NV index does not hold what was written there"},
		{"the TPM's counter moved", func(t *testing.T, _ *device, bus transport.TPM) {
			for range 2 {
				if _, err := (tpm2.NVIncrement{AuthHandle: tpm2.TPMRHOwner, NVIndex: nvName(t, bus, nvCounter)}).Execute(bus); err != nil {
					t.Fatal(err)
				}
			}
		}, "the counter is at"},
		{"the TPM's indices removed", undefine, "the TPM had no latch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			emulator := tpmtest.New(t)
			dev, err := tpm.Open(emulator.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			d := newDevice(t, nil)
			d.cfg.NV = dev
			r := d.start()
			r.stop()
			if err := os.CopyFS(d.path("before"), os.DirFS(d.cfg.StateDir)); err != nil {
				t.Fatal(err)
			}
			r = d.start()
			s := r.mustPause(t)
			r.untilPhase(t, PhasePaused)
			r.until(t, "in the TPM", func(Status) bool {
				rec, err := dev.ReadLatch()
				return err == nil && rec.Paused && bytes.Equal(rec.PauseID[:], s.PauseID[:])
			})
			r.stop()
			bus, err := linuxudstpm.Open(strings.TrimPrefix(emulator.Addr, "unix:"))
			if err != nil {
				t.Fatal(err)
			}
			tt.do(t, d, bus)
			bus.Close()
			r = d.start()
			after := r.status()
			said := fmt.Sprint(after.Reason, after.Degraded)
			if after.Latch != appraise.LatchPaused || !strings.Contains(said, tt.said) {
				t.Errorf("%+v, want %q said", after, tt.said)
			}
		})
	}
}
