package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/web"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Limits of what a verifier is asked and given time for.
const (
	maxAnswer    = 16 << 20 // bytes: some thousand devices with all their findings
	answerWithin = 10 * time.Second
	quietAtMost  = 60 * time.Second // without a beat of the stream; one comes every 20 s
	tryAgain     = 2 * time.Second
)

// A verifierClient asks a verifier over its web interface (package web).
type verifierClient struct {
	base string
	http *http.Client
}

// verifierFlags are how a command reaches a verifier.
type verifierFlags struct{ url, ca string }

func (v *verifierFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&v.url, "verifier", "", "`URL` of the verifier, http://127.0.0.1:8443")
	c.Flags().StringVar(&v.ca, "ca", "", "`file` with certificates that sign the verifier's (PEM; default the system's)")
}

func (v *verifierFlags) client() (*verifierClient, error) {
	u, err := url.Parse(v.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fail(exitUsage, "write http://HOST:PORT or https://HOST:PORT", "cannot use verifier %q", v.url)
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13}, ResponseHeaderTimeout: answerWithin}
	if v.ca != "" {
		data, err := os.ReadFile(v.ca)
		if err != nil {
			return nil, ioFailure(err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, fail(exitUsage, "give certificates in PEM", "%s has no certificate", v.ca)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &verifierClient{strings.TrimSuffix(u.String(), "/"), &http.Client{Transport: transport}}, nil
}

// ask sends a request and returns the answer when its status is want.
func (v *verifierClient) ask(ctx context.Context, method, path string, body []byte, want int) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, v.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/cose")
	}
	answer, err := v.http.Do(r)
	if err != nil {
		return nil, fail(exitIO, "check --verifier, and that factsverifier runs there", "cannot reach verifier: %w", err)
	}
	if answer.StatusCode == want {
		return answer, nil
	}
	defer answer.Body.Close()
	var p web.Problem
	if json.NewDecoder(io.LimitReader(answer.Body, 64<<10)).Decode(&p) != nil || p.Error == "" {
		return nil, fail(exitIO, "check that --verifier is the address of a factsverifier", "the verifier answered %s", web.Clean(answer.Status))
	}
	code := exitRefused
	if answer.StatusCode >= http.StatusInternalServerError {
		code = exitIO
	}
	return nil, fail(code, web.Clean(p.Hint), "the verifier answered: %s", web.Clean(p.Error))
}

// get fills into from a JSON answer.
func (v *verifierClient) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	answer, err := v.ask(ctx, http.MethodGet, path, nil, http.StatusOK)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(into); err != nil {
		return fail(exitIO, "check that --verifier is the address of a factsverifier", "cannot read the verifier's answer: %w", err)
	}
	return nil
}

func (v *verifierClient) device(ctx context.Context, id string) (*web.Device, error) {
	d := new(web.Device)
	if err := v.get(ctx, "/api/devices/"+id, d); err != nil {
		return nil, err
	}
	return d, nil
}

func (v *verifierClient) reports(ctx context.Context, id string, limit int) ([]web.Report, error) {
	var r []web.Report
	return r, v.get(ctx, fmt.Sprintf("/api/devices/%s/reports?limit=%d", id, limit), &r)
}

// A streamed event: "time", "device" with its change, or "refused".
type streamed struct {
	kind    string
	change  web.Change
	refused web.Refused
}

// errQuiet says that the stream gave no sign of life.
var errQuiet = errors.New("the verifier's stream went quiet")

// follow reads the stream of changes into handle until ctx ends, the stream
// ends, or handle returns an error.
func (v *verifierClient) follow(ctx context.Context, handle func(streamed) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answer, err := v.ask(ctx, http.MethodGet, "/events", nil, http.StatusOK)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	quiet := time.AfterFunc(quietAtMost, func() { cancel(errQuiet) })
	defer quiet.Stop()
	err = readStream(answer.Body, func(e streamed) error {
		quiet.Reset(quietAtMost)
		return handle(e)
	})
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	}
	return fail(exitIO, "", "the verifier ended its stream")
}

// readStream reads Server-Sent Events to the end; events it does not know are
// handled as such.
func readStream(r io.Reader, handle func(streamed) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 64<<10)
	var e streamed
	for lines.Scan() {
		var err error
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch {
		case name == "event":
			e = streamed{kind: value}
		case name == "data" && e.kind == "device":
			err = json.Unmarshal([]byte(value), &e.change)
		case name == "data" && e.kind == "refused":
			err = json.Unmarshal([]byte(value), &e.refused)
		case name == "" && e.kind != "":
			err = handle(e)
			e = streamed{}
		}
		if err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fail(exitIO, "", "the verifier's stream broke: %w", err)
	}
	return nil
}

func newWatchCommand() *cobra.Command {
	var flags verifierFlags
	var once, asJSON bool
	c := &cobra.Command{
		Use:   "watch DEVICE|all --verifier URL",
		Short: "Watch a device, or all, as the verifier sees them",
		Long: `Shows a device as the verifier sees it: stage, result, findings, newest reports; live,
until Ctrl-C. A terminal is redrawn in place; otherwise each change is a line of its
own, and with --json a device in JSON (package web's Device). all shows one line a device.`,
		Example: `  factsctl watch all --verifier http://127.0.0.1:8443
  factsctl watch d00102030405060708090a0b0c0d0e0f --verifier http://127.0.0.1:8443
  factsctl watch all --once --json --verifier https://verifier.hospital.example:8443 --ca ca.pem`,
		Args: cobra.ExactArgs(1),
	}
	flags.add(c)
	c.Flags().BoolVar(&once, "once", false, "show what is known now, and end")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON: a device a line")
	required(c, "verifier")
	c.RunE = func(c *cobra.Command, args []string) error {
		client, err := flags.client()
		if err != nil {
			return err
		}
		id := args[0]
		if id == "all" {
			id = ""
		} else if _, err := attest.ParseUEID(id); err != nil {
			return fail(exitUsage, "see factsctl watch all --once", "%w", err)
		}
		w := &watcher{client: client, id: strings.ToLower(id), screen: newScreen(c.OutOrStdout()), said: map[string]web.Device{}}
		w.screen.json = asJSON
		if err := w.show(c.Context()); err != nil || once {
			return err
		}
		return w.watch(c)
	}
	return c
}

// A watcher shows what a verifier knows of one device, or of all.
type watcher struct {
	client  *verifierClient
	id      string // "" for all
	screen  *screen
	said    map[string]web.Device // as it was shown last
	refused []web.Refused         // that came while watching, newest last
}

// watch follows the stream until ctx ends, over breaks of the connection.
func (w *watcher) watch(c *cobra.Command) error {
	ctx := c.Context()
	for {
		err := w.client.follow(ctx, func(e streamed) error {
			switch {
			case e.kind == "refused" && (w.id == "" || e.refused.Device == w.id):
				w.refused = append(w.refused[max(0, len(w.refused)-4):], e.refused)
				if !w.screen.terminal && !w.screen.json {
					if err := w.screen.line(stampNow() + " refused: " + refusalWords(&e.refused)); err != nil {
						return err
					}
				}
			case e.kind == "device" && w.id != "" && e.change.ID != w.id:
				return nil
			}
			return w.show(ctx)
		})
		if ctx.Err() != nil {
			return nil // Ctrl-C is how it ends
		}
		if f, ok := errors.AsType[*failure](err); ok && f.code != exitIO {
			return err
		}
		note(c, "%v: trying again", err)
		w.screen.drawn = 0 // the note stands below what was drawn
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(tryAgain):
		}
	}
}

// show asks for what is known now, and shows what is new.
func (w *watcher) show(ctx context.Context) error {
	var devices []web.Device
	var reports []web.Report
	if w.id == "" {
		if err := w.client.get(ctx, "/api/devices", &devices); err != nil {
			return err
		}
	} else {
		d, err := w.client.device(ctx, w.id)
		if err != nil {
			return err
		}
		devices = []web.Device{*d}
		if reports, err = w.client.reports(ctx, w.id, 5); err != nil {
			return err
		}
	}
	switch {
	case w.screen.json:
		for i := range devices {
			if err := w.tellJSON(&devices[i]); err != nil {
				return err
			}
		}
		return nil
	case w.screen.terminal:
		return w.screen.draw(w.frame(devices, reports))
	}
	if len(devices) == 0 && len(w.said) == 0 {
		return w.screen.line("no device has asked to enrol yet")
	}
	for i := range devices {
		if err := w.tell(&devices[i]); err != nil {
			return err
		}
	}
	return nil
}

// tellJSON prints a device that is not as it was printed last.
func (w *watcher) tellJSON(d *web.Device) error {
	text, err := json.Marshal(d)
	if err != nil {
		return err
	}
	if old, known := w.said[d.ID]; known {
		if before, err := json.Marshal(old); err == nil && bytes.Equal(before, text) {
			return nil
		}
	}
	w.said[d.ID] = *d
	return w.screen.line(string(text))
}

// tell prints in lines what is new of a device.
func (w *watcher) tell(d *web.Device) error {
	old, known := w.said[d.ID]
	w.said[d.ID] = *d
	var lines []string
	if !known || d.Summary() != old.Summary() || why(d) != why(&old) {
		lines = append(lines, fmt.Sprintf("%s %s %s%s (key: %s, report %d)", stampNow(), d.ID, d.Summary(), why(d), d.KeyLabel(), d.Sequence))
	}
	for _, f := range d.Findings {
		if !says(old.Findings, f) {
			lines = append(lines, fmt.Sprintf("%s %s   + %s", stampNow(), d.ID, findingWords(f)))
		}
	}
	for _, f := range old.Findings {
		if !says(d.Findings, f) {
			lines = append(lines, fmt.Sprintf("%s %s   - %s", stampNow(), d.ID, findingWords(f)))
		}
	}
	for _, l := range lines {
		if err := w.screen.line(l); err != nil {
			return err
		}
	}
	return nil
}

// says reports whether f is in found. How long a device has been silent changes
// all the time and is no news.
func says(found []web.Finding, f web.Finding) bool {
	return slices.ContainsFunc(found, func(g web.Finding) bool {
		return g == f || g.Code == f.Code && f.Code == string(verifier.ReasonSilent)
	})
}

func why(d *web.Device) string {
	if d.Pause == nil {
		return ""
	}
	return ": " + d.Pause.Why()
}

func stampNow() string { return time.Now().UTC().Format(time.RFC3339) }

func findingWords(f web.Finding) string {
	if f.Tier == verifier.TierNone.String() {
		return "to know: " + web.Clean(f.Text)
	}
	return web.TierWords(f.Tier) + ": " + web.Clean(f.Text)
}

func refusalWords(r *web.Refused) string {
	return fmt.Sprintf("%s of %s, %s: %s", web.Clean(r.Topic), web.Clean(r.Device), web.Clean(r.Reason), web.Clean(r.Text))
}

// frame returns the lines of a terminal's picture.
func (w *watcher) frame(devices []web.Device, reports []web.Report) []string {
	now := time.Now().Unix()
	mark := w.screen.mark
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if w.id == "" {
		add("%d devices at %s, %s", len(devices), w.client.base, web.Stamp(now))
		for i := range devices {
			d := &devices[i]
			add("%s %s, seen %s, %s, %s%s", mark(d.Tier), d.Name(), web.Ago(now, d.LastSeen), d.KeyLabel(), d.State(), why(d))
		}
		if len(devices) == 0 {
			add("  no device has asked to enrol yet: start factsd with this verifier's broker in its configuration")
		}
	} else {
		d := &devices[0]
		add("%s, %s", d.Name(), web.Clean(d.Vendor))
		add("%s %s%s", mark(d.Tier), strings.ToUpper(d.State()), why(d))
		add("  key: %s; enrolment: %s; seen %s; report %d", d.KeyLabel(), d.Enrolled, web.Ago(now, d.LastSeen), d.Sequence)
		if d.Pause != nil {
			if d.Pause.Deferral != nil {
				add("    %s", d.Pause.Deferral.Words())
			}
			for _, e := range d.Pause.Effects {
				tier := verifier.TierAffirming
				if !e.Done {
					tier = verifier.TierContraindicated
				}
				add("    %s %s: %s, after %d ms", w.screen.colour(tier.String(), map[bool]string{true: "done", false: "NO EFFECT"}[e.Done]), e.Title(), web.Clean(e.Observed), e.Millis)
			}
		}
		add("findings")
		for _, f := range d.Findings {
			add("  %s", w.screen.colour(f.Tier, findingWords(f)))
		}
		if len(d.Findings) == 0 {
			add("  none")
		}
		add("newest reports")
		for _, r := range reports {
			quoted := ""
			if r.Quoted {
				quoted = ", TPM quote valid"
			}
			add("  %d  %s, %s, %s%s, %s", r.Sequence, r.Kind, r.Stage, web.TierWords(r.Tier), quoted, web.Ago(now, r.ReceivedAt))
		}
		if len(reports) == 0 {
			add("  none")
		}
	}
	for i := range w.refused {
		add("refused %s: %s", web.Ago(now, w.refused[i].At), refusalWords(&w.refused[i]))
	}
	return append(lines, "Ctrl-C ends")
}

// A screen is where a watcher shows: a terminal that is redrawn, or lines.
type screen struct {
	out      io.Writer
	file     *os.File // when it is a terminal
	terminal bool
	colours  bool
	json     bool
	drawn    int // lines of the present picture
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.file = f
		s.terminal = os.Getenv("TERM") != "dumb"
		s.colours = s.terminal && os.Getenv("NO_COLOR") == ""
	}
	return s
}

func (s *screen) line(text string) error {
	if _, err := fmt.Fprintln(s.out, text); err != nil {
		return ioFailure(err)
	}
	return nil
}

// draw replaces the picture. It is cut to the terminal: a line that wraps would
// leave its rest behind.
func (s *screen) draw(lines []string) error {
	width, height, err := term.GetSize(int(s.file.Fd()))
	if err != nil || width < 1 || height < 2 {
		width, height = 80, 24
	}
	if len(lines) > height-1 {
		lines = append(lines[:height-2:height-2], fmt.Sprintf("... %d more lines: enlarge the terminal", len(lines)-height+2))
	}
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	b.WriteString("\r\x1b[J")
	for _, l := range lines {
		b.WriteString(cut(l, width))
		b.WriteString("\n")
	}
	s.drawn = len(lines)
	if _, err := io.WriteString(s.out, b.String()); err != nil {
		return ioFailure(err)
	}
	return nil
}

// cut returns the first width characters of a line. Its own colour sequences,
// the only control characters in it, have no width.
func cut(line string, width int) string {
	var b strings.Builder
	n, escape, coloured := 0, false, false
	for _, r := range line {
		switch {
		case r == '\x1b':
			escape, coloured = true, true
		case escape:
			escape = r != 'm'
		case n == width-1:
			b.WriteString("…")
			if coloured {
				b.WriteString("\x1b[0m")
			}
			return b.String()
		default:
			n++
		}
		b.WriteRune(r)
	}
	return b.String()
}

// colour gives text the colour of a tier.
func (s *screen) colour(tier, text string) string {
	codes := map[string]string{"affirming": "32", "warning": "33", "contraindicated": "31"}
	if !s.colours || codes[tier] == "" {
		return text
	}
	return "\x1b[" + codes[tier] + "m" + text + "\x1b[0m"
}

// mark returns a tier as symbol and words.
func (s *screen) mark(tier string) string {
	symbols := map[string]string{"affirming": "+", "warning": "!", "contraindicated": "X"}
	symbol := symbols[tier]
	if symbol == "" {
		symbol = "o"
	}
	return s.colour(tier, "["+symbol+"] "+web.TierWords(tier)) + ":"
}
