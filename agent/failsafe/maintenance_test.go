package failsafe

import (
	"crypto/rand"
	"errors"
	"testing"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// maintained lets operators take the device into maintenance.
func maintained(signers uint8) func(*reference.Manifest) {
	return func(m *reference.Manifest) {
		m.Reaction = []reference.Reaction{{Do: reference.Signal, Target: "/nonexistent/pump", Signal: 19, Deadline: 1000}}
		m.Leeway = &reference.Leeway{Maintenance: &reference.MaintenancePolicy{Most: 7200, Signers: signers}}
	}
}

// order returns a signed order of maintenance, as changed, by key.
func (d *device) order(key *cose.Signer, change func(*reference.Command)) []byte {
	d.t.Helper()
	c := reference.Command{
		Version: 1, Kind: reference.Maintenance, Device: deviceID, Nonce: make([]byte, 16),
		NotBefore: d.now.Load() - 10, NotAfter: d.now.Load() + 600, Lasts: 3600,
	}
	rand.Read(c.Nonce)
	if change != nil {
		change(&c)
	}
	data, err := cose.Encode(&c) // also what SignCommand would refuse
	if err == nil {
		data, err = key.Sign(cose.Command, data)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return data
}

func end(c *reference.Command) { c.Lasts, c.End = 0, true }

func (r *running) mustMaintain(t *testing.T, document []byte) Status {
	t.Helper()
	s, err := r.client.Resume(ctx10(t), document)
	if err != nil || s.Latch != appraise.LatchMaintenance || s.Maintenance == nil || s.Phase != PhaseClear {
		t.Fatalf("maintenance: %+v, %v", s, err)
	}
	return s
}

// In maintenance no pause begins; it ends by an order, by its time, and by a
// restart, and pauses begin again at once.
func TestMaintenance(t *testing.T) {
	for _, tt := range []struct {
		name  string
		lasts uint32
		end   func(*testing.T, *device, *running) *running
	}{
		{"by an order", 3600, func(t *testing.T, d *device, r *running) *running {
			if s, err := r.client.Resume(ctx10(t), d.order(d.world.Resume, end)); err != nil || s.Latch != appraise.LatchClear {
				t.Errorf("ended: %+v, %v", s, err)
			}
			return r
		}},
		{"by its time", 1, func(t *testing.T, _ *device, r *running) *running {
			r.until(t, "over", func(s Status) bool { return s.Latch == appraise.LatchClear })
			return r
		}},
		{"by a restart", 3600, func(_ *testing.T, d *device, r *running) *running {
			r.stop()
			return d.start()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t, maintained(1))
			r := d.start()
			document := d.order(d.world.Resume, func(c *reference.Command) { c.Lasts = tt.lasts })
			s := r.mustMaintain(t, document)
			if ms := s.Maintenance.Until - s.Maintenance.Began; ms != int64(tt.lasts)*1000 {
				t.Errorf("it lasts %d ms", ms)
			}
			if s, err := r.client.Pause(ctx10(t), crossing()); tt.lasts > 1 && (!errors.Is(err, ErrMaintenance) || s.Latch != appraise.LatchMaintenance) {
				t.Errorf("a pause in maintenance: %+v, %v", s, err)
			}
			if tt.lasts > 1 {
				if _, err := r.client.Resume(ctx10(t), d.order(d.world.Resume, nil)); !errors.Is(err, ErrMaintenance) {
					t.Errorf("maintenance over maintenance: %v", err)
				}
			}
			r = tt.end(t, d, r)
			if _, err := r.client.Resume(ctx10(t), document); !errors.Is(err, ErrReplayed) {
				t.Errorf("the same order again: %v", err)
			}
			if s := r.status(); s.Latch != appraise.LatchClear || s.Maintenance != nil {
				t.Errorf("after it: %+v", s)
			}
			r.mustPause(t)
		})
	}
}

func TestMaintenanceRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*reference.Manifest)
		order  func(*device) []byte
		reason error
	}{
		{"the manifest allows none", func(m *reference.Manifest) { maintained(1)(m); m.Leeway = nil }, func(d *device) []byte { return d.order(d.world.Resume, nil) }, ErrNotAllowed},
		{"longer than allowed", maintained(1), func(d *device) []byte {
			return d.order(d.world.Resume, func(c *reference.Command) { c.Lasts = 7201 })
		}, ErrLifetime},
		{"counts for too long", maintained(1), func(d *device) []byte {
			return d.order(d.world.Resume, func(c *reference.Command) { c.NotAfter += 7 * 86400 })
		}, ErrLifetime},
		{"a key for challenges", maintained(1), func(d *device) []byte { return d.order(d.world.Command, nil) }, reference.ErrRole},
		{"the manufacturer's key", maintained(1), func(d *device) []byte { return d.order(d.world.Manifest, nil) }, reference.ErrRole},
		{"a stranger", maintained(1), func(d *device) []byte { return d.order(referencetest.Signer(d.t), nil) }, reference.ErrUnknownKey},
		{"another device", maintained(1), func(d *device) []byte {
			return d.order(d.world.Resume, func(c *reference.Command) { c.Device = make([]byte, 17) })
		}, reference.ErrDevice},
		{"over", maintained(1), func(d *device) []byte {
			return d.order(d.world.Resume, func(c *reference.Command) { c.NotBefore, c.NotAfter = 1000, 2000 })
		}, reference.ErrExpired},
		{"without an end", maintained(1), func(d *device) []byte {
			return d.order(d.world.Resume, func(c *reference.Command) { c.Lasts = 0 })
		}, reference.ErrContent},
		{"an end of nothing", maintained(1), func(d *device) []byte { return d.order(d.world.Resume, end) }, ErrNoMaintenance},
		{"one of two persons", maintained(2), func(d *device) []byte { return d.order(d.world.Resume, nil) }, ErrSigners},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := newDevice(t, tt.edit)
			r := d.start()
			s, err := r.client.Resume(ctx10(t), tt.order(d))
			if !errors.Is(err, tt.reason) || s.Latch != appraise.LatchClear {
				t.Errorf("%+v, %v; want %v", s, err, tt.reason)
			}
			r.mustPause(t)
		})
	}
}

// Maintenance opens no pause, whatever order it comes in.
func TestMaintenanceOpensNoPause(t *testing.T) {
	cgroup := workload(t)
	d := newDevice(t, func(m *reference.Manifest) { maintained(1)(m); freezeStep(cgroup)(m) })
	r := d.start()
	id := r.mustPause(t).PauseID
	r.untilPhase(t, PhasePaused)
	for range 2 {
		if s, err := r.client.Resume(ctx10(t), d.order(d.world.Resume, nil)); !errors.Is(err, ErrPaused) || s.Latch != appraise.LatchPaused || s.PauseID != id || !frozen(t, cgroup) {
			t.Errorf("%+v, %v, frozen %v", s, err, frozen(t, cgroup))
		}
		r.stop()
		r = d.start()
	}
	if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
		t.Fatal(err)
	}
	r.untilPhase(t, PhaseClear)
	r.mustMaintain(t, d.order(d.world.Resume, nil))
}

// Two persons sign, each for himself; the shorter time counts.
func TestMaintenanceByTwoPersons(t *testing.T) {
	d := newDevice(t, maintained(2))
	r := d.start()
	first := d.order(d.world.Resume, nil)
	for range 2 {
		if _, err := r.client.Resume(ctx10(t), first); !errors.Is(err, ErrSigners) {
			t.Fatalf("one of two: %v", err)
		}
	}
	s := r.mustMaintain(t, d.order(d.world.Resume2, func(c *reference.Command) { c.Lasts = 1800 }))
	if ms := s.Maintenance.Until - s.Maintenance.Began; ms != 1800_000 {
		t.Errorf("it lasts %d ms", ms)
	}
	// One ends it.
	if s, err := r.client.Resume(ctx10(t), d.order(d.world.Resume, end)); err != nil || s.Latch != appraise.LatchClear {
		t.Errorf("%+v, %v", s, err)
	}
}

// Silence of the measuring process makes no pause in maintenance, and counts anew
// after it.
func TestSilenceInMaintenance(t *testing.T) {
	d := newDevice(t, func(m *reference.Manifest) {
		maintained(1)(m)
		m.Silence = &reference.Silence{After: 1000, Then: reference.Pause}
	})
	r := d.start()
	if _, err := r.client.Alive(ctx10(t)); err != nil {
		t.Fatal(err)
	}
	s := r.mustMaintain(t, d.order(d.world.Resume, func(c *reference.Command) { c.Lasts = 2 }))
	until := s.Maintenance.Until
	r.until(t, "paused", func(s Status) bool { return s.Latch == appraise.LatchPaused })
	if now := r.status().Uptime; now < until+1000 {
		t.Errorf("paused for silence %d ms after maintenance, with a limit of 1000 ms", now-until)
	}
}
