package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
	"github.com/miotfacts/miotfacts/verifier/web"
)

func TestWatchOnce(t *testing.T) {
	h := newHospital(t)
	id := h.device.UEID.String()
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	defer elsewhere.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"one", []string{id, "--verifier", h.server.URL}, 0, id + " pump-1 0001: operating, as specified (key: key file, no TPM, report 1)"},
		{"in capitals", []string{strings.ToUpper(id), "--verifier", h.server.URL + "/"}, 0, "+ to know: the device key is in a file"},
		{"all", []string{"all", "--verifier", h.server.URL}, 0, id + " pump-1 0001: operating"},
		{"unknown", []string{strings.Repeat("0", 32), "--verifier", h.server.URL}, exitRefused, "is not known\nhint: it has not asked to be enrolled here"},
		{"no id", []string{"pump", "--verifier", h.server.URL}, exitUsage, "want 32 hexadecimal digits"},
		{"no verifier", []string{"all"}, exitUsage, "verifier"},
		{"no URL", []string{"all", "--verifier", "127.0.0.1:8443"}, exitUsage, "write http://HOST:PORT"},
		{"no verifier there", []string{"all", "--verifier", elsewhere.URL}, exitIO, "the verifier answered 404"},
		{"nobody there", []string{"all", "--verifier", gone.URL}, exitIO, "hint: check --verifier"},
		{"no certificates", []string{"all", "--verifier", h.server.URL, "--ca", "watch.go"}, exitUsage, "has no certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := ctl(t, tt.code, append([]string{"watch", "--once"}, tt.args...)...); !strings.Contains(got, tt.want) {
				t.Errorf("no %q in\n%s", tt.want, got)
			}
		})
	}
	var d web.Device
	if err := json.Unmarshal([]byte(ctl(t, 0, "watch", "all", "--once", "--json", "--verifier", h.server.URL)), &d); err != nil || d.Stage != "operating" {
		t.Errorf("JSON says %+v, %v", d, err)
	}
}

func TestWatchLines(t *testing.T) {
	h := newHospital(t)
	p := start(t, nil, "watch", h.device.UEID.String(), "--verifier", h.server.URL)
	p.out.wait(t, "operating, as specified")
	h.device.Set(verifiertest.Listening, facts.SetValue([]string{"tcp/0.0.0.0:22", "tcp/0.0.0.0:4444"}))
	h.device.Accepted(h.device.Message(attest.KindFinding))
	p.out.wait(t, "+ warning: operating: network.listening has tcp/0.0.0.0:4444, which nobody declared")
	h.device.Set(verifiertest.Listening, facts.SetValue([]string{"tcp/0.0.0.0:22"}))
	h.device.Accepted(h.device.Message(attest.KindFinding))
	p.out.wait(t, "- warning: operating: network.listening has tcp/0.0.0.0:4444")

	// A break of the connection is told and mended.
	h.server.CloseClientConnections()
	p.err.wait(t, "trying again")
	h.pause("fail-safe: app.flow is 620 ml/h\x1b[2J")
	p.out.wait(t, "paused by fail-safe, do not rely on it: app.flow is 620 ml/h\ufffd[2J")

	message := h.device.Message(attest.KindRoutine)
	message[len(message)-3] ^= 1
	if reply := h.device.Send(message); reply.Refused == nil {
		t.Fatal("a flipped bit was accepted")
	}
	p.out.wait(t, "refused: report of "+h.device.UEID.String()+", signature:")
	p.cancel()
	p.ends(t, 0)
	if strings.Contains(p.out.String(), "\x1b") {
		t.Errorf("control characters in a pipe: %q", p.out.String())
	}
}

func TestWatchTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	h := newHospital(t)
	x := newTerminal(t, 60, 20)
	p := start(t, x.tty, "watch", h.device.UEID.String(), "--verifier", h.server.URL)
	x.wait(t, "[+] as specified\x1b[0m: OPERATING")
	h.pause("fail-safe: app.flow is 620 ml/h; expected at most 500 ml/h")
	x.wait(t, "[X] do not rely on it\x1b[0m: PAUSED BY FAIL-SAFE: app.flow is 620…")
	x.wait(t, "freeze medical.slice: frozen 1, after 3 ms")
	if !strings.Contains(x.String(), "A\r\x1b[J") {
		t.Errorf("the terminal is not redrawn in place: %q", x.String())
	}
	p.cancel()
	p.ends(t, 0)
}

func TestCut(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"short", "short"},
		{"exactly10", "exactly10"},
		{"more than ten", "more than…"},
		{"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"},
		{"\x1b[31mmore than ten\x1b[0m", "\x1b[31mmore than…\x1b[0m"},
		{"äöüäöüäöüäöü", "äöüäöüäöü…"},
	} {
		if got := cut(tt.line, 10); got != tt.want {
			t.Errorf("%q is cut to %q, want %q", tt.line, got, tt.want)
		}
	}
}

func TestSilenceIsToldOnce(t *testing.T) {
	silent := func(text string) []web.Finding { return []web.Finding{{Code: "silent", Tier: "warning", Text: text}} }
	if !says(silent("for 300 s"), silent("for 320 s")[0]) || says(nil, silent("for 300 s")[0]) {
		t.Error("silence is news each time, or never")
	}
}

func FuzzStream(f *testing.F) {
	f.Add("event: time\ndata: 1800000000\n\n")
	f.Add("event: device\ndata: {\"id\":\"d0\",\"sequence\":42}\n\nevent: refused\ndata: {\"at\":1,\"device\":\"x\",\"reason\":\"signature\"}\n\n")
	f.Add("event: device\ndata: {\"id\":[]}\n\n")
	f.Add("event: device\ndata: ")
	f.Add(": a comment\n\ndata: 1\n\nevent\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		events := 0
		err := readStream(strings.NewReader(text), func(e streamed) error {
			events++
			if e.kind != "device" && e.change != (web.Change{}) || e.kind != "refused" && e.refused != (web.Refused{}) {
				t.Errorf("event %q has the data of another: %+v", e.kind, e)
			}
			return nil
		})
		if n := strings.Count(text, "event: "); err == nil && events > n {
			t.Errorf("%d events of %d", events, n)
		}
	})
}
