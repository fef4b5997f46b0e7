package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/reference"
)

// maintain lets the device report that it is in maintenance.
func (h *hospital) maintain() {
	h.Helper()
	r := h.device.Report(attest.KindStage)
	r.IssuedAt = time.Now().Unix()
	r.Body.Stage, r.Body.Maintain = reference.StageMaintenance, &attest.Maintenance{Began: r.Body.End, Until: r.Body.End + 7_200_000}
	h.send(r)
}

func TestMaintenanceOffline(t *testing.T) {
	h := newHospital(t)
	key, trust := h.operator()
	id, out := h.device.UEID.String(), filepath.Join(t.TempDir(), "order.cbor")
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"begin", []string{"--for", "2h", "--out", out, "--valid", "4m"}, 0, ""},
		{"without an end", []string{"--out", out}, exitUsage, "for end"},
		{"both", []string{"--for", "2h", "--end", "--out", out}, exitUsage, "for end"},
		{"too long", []string{"--for", "25h", "--out", out}, exitUsage, "give --for 1s to 24h"},
		{"no time", []string{"--for", "0s", "--out", out}, exitUsage, "give --for 1s to 24h"},
		{"counts too long", []string{"--for", "2h", "--out", out, "--valid", "169h"}, exitUsage, "give --valid 1m to 168h"},
		{"nowhere to go", []string{"--for", "2h"}, exitUsage, "verifier"},
		{"another's key", []string{"--for", "2h", "--out", out, "--key", out}, exitUsage, "private key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ctl(t, tt.code, append([]string{"command", "maintenance", "--device", id, "--key", key}, tt.args...)...); !strings.Contains(got, tt.want) {
				t.Errorf("no %q in\n%s", tt.want, got)
			}
		})
	}
	for _, tt := range []struct {
		arg   string
		lasts uint32
		end   bool
	}{{"--for=2h", 7200, false}, {"--end", 0, true}} {
		ctl(t, 0, "command", "maintenance", "--device", id, "--key", key, tt.arg, "--out", out)
		order, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		o, err := trust.OpenCommand(order, reference.Maintenance, h.device.UEID[:], "pump-1", reference.At(time.Now().Unix()))
		if err != nil || o.Command().Lasts != tt.lasts || o.Command().End != tt.end {
			t.Errorf("the order says %+v, %v", o, err)
		}
	}
}

func TestMaintenanceOnline(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before func(h *hospital)
		args   []string
		answer func(h *hospital) // of the device, to the order; nil: none comes
		code   int
		want   string
	}{
		{"begins", func(*hospital) {}, []string{"--for", "2h", "--yes"}, (*hospital).maintain, 0, "in maintenance until 20"},
		{"ends", (*hospital).maintain, []string{"--end"}, (*hospital).resume, 0, "maintenance is over; the device says: integration"},
		{"refused", func(*hospital) {}, []string{"--for", "2h", "--yes"}, func(h *hospital) {
			r := h.device.Report(attest.KindFinding)
			r.Body.Notes = []string{"maintenance refused: the manifest allows no maintenance"}
			h.send(r)
		}, exitRefused, "the manifest allows no maintenance"},
		{"silent", func(*hospital) {}, []string{"--for", "2h", "--yes", "--wait", "300ms"}, func(*hospital) {}, exitIO, "error: no answer within 300ms"},
		{"paused", func(h *hospital) { h.pause("too fast") }, []string{"--for", "2h", "--yes"}, nil, exitRefused, "maintenance ends no pause"},
		{"in maintenance", (*hospital).maintain, []string{"--for", "2h", "--yes"}, nil, exitRefused, "is in maintenance already"},
		{"not in maintenance", func(*hospital) {}, []string{"--end"}, nil, exitRefused, "is not in maintenance"},
		{"nobody says yes", func(*hospital) {}, []string{"--for", "2h"}, nil, exitUsage, "give --yes when no patient is connected"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHospital(t)
			key, _ := h.operator()
			tt.before(h)
			p := start(t, nil, append([]string{"command", "maintenance", "--verifier", h.server.URL, "--device", h.device.UEID.String(), "--key", key}, tt.args...)...)
			if tt.answer != nil {
				select {
				case order := <-h.orders:
					if reference.UnverifiedKind(order) != reference.Maintenance {
						t.Errorf("the order is a %s", reference.UnverifiedKind(order))
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("no order came: %s", p.err.String())
				}
				tt.answer(h)
			}
			p.ends(t, tt.code)
			if got := p.out.String() + p.err.String(); !strings.Contains(got, tt.want) {
				t.Errorf("no %q in\n%s", tt.want, got)
			}
			if len(h.orders) != 0 {
				t.Error("another order was sent")
			}
		})
	}
}
