package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/handover"
	"github.com/miotfacts/miotfacts/reference"
)

// What is no challenge is told apart, and nothing is signed for it. The way with a
// real device, code and console is tested with factsd.
func TestResumeScan(t *testing.T) {
	h := newHospital(t)
	key, trust := h.operator()
	challenge := &handover.Challenge{Device: h.device.UEID, Pause: [16]byte{9, 8, 7}}
	dir := t.TempDir()
	good := save(t, dir, "challenge.txt", []byte(strings.Join(challenge.Lines(), "\n")+"\n"))
	half := save(t, dir, "half.txt", []byte(challenge.Lines()[0]))
	out := filepath.Join(dir, "order.cbor")
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"lines", []string{good, "--yes"}, 0, "device " + h.device.UEID.String() + ", pause 09080700"},
		{"a file for a stick", []string{good, "--yes", "--out", out}, 0, "pause 09080700"},
		{"half of it", []string{half, "--yes"}, exitUsage, "take the picture straight and near"},
		{"a label", []string{"../../docs/verify-verified.png", "--yes"}, exitUsage, "take the picture straight and near"},
		{"not there", []string{filepath.Join(dir, "none"), "--yes"}, exitIO, "check the path"},
		{"nobody says yes", []string{good}, exitUsage, "give --yes when the cause is dealt with"},
		{"counts too long", []string{good, "--yes", "--valid", "169h"}, exitUsage, "give --valid 1m to 168h"},
		{"nobody types", []string{"--yes"}, exitUsage, "the challenge is not whole"},
		{"no key", []string{good, "--yes", "--key", good}, exitUsage, "private key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ctl(t, tt.code, append([]string{"resume", "scan", "--key", key}, tt.args...)...); !strings.Contains(got, tt.want) {
				t.Errorf("no %q in\n%s", tt.want, got)
			}
		})
	}
	p := start(t, nil, "resume", "scan", good, "--key", key, "--yes")
	p.ends(t, 0)
	lines := strings.Split(strings.TrimSpace(p.out.String()), "\n")
	if len(lines) != handover.OrderLines {
		t.Fatalf("%d lines:\n%s", len(lines), p.out.String())
	}
	document, err := challenge.ReadOrder(p.out.String())
	if err != nil {
		t.Fatal(err)
	}
	order, err := trust.OpenCommand(document, reference.Resume, h.device.UEID[:], "pump-1", reference.At(time.Now().Unix()))
	if err != nil || !bytes.Equal(order.Command().Pause, challenge.Pause[:]) || attest.UEID(order.Command().Device) != h.device.UEID {
		t.Errorf("%+v, %v", order, err)
	}
}
