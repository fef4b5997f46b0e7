package web_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cmw"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/web"
)

const now = referencetest.Now

// hostile is what a device could call itself.
const hostile = `"><script>alert(1)</script><img src=x onerror=alert(2)>` + "\u202e\x1b[31m{{.}}"

// memory is a fleet that a test changes.
type memory struct {
	mu        sync.Mutex
	devices   map[attest.UEID]verifier.Device
	reports   []verifier.Record // newest first
	refused   []verifier.Refused
	submitted [][]byte
	labels    []verifier.Shelved
	broken    error // of every answer
	changes   *web.Changes
}

func newMemory() *memory {
	return &memory{devices: map[attest.UEID]verifier.Device{}, changes: web.NewChanges()}
}

func (m *memory) Devices(int64) ([]verifier.Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []verifier.Device
	for _, d := range m.devices {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b verifier.Device) int { return bytes.Compare(a.UEID[:], b.UEID[:]) })
	return all, m.broken
}

func (m *memory) Device(_ int64, id attest.UEID) (*verifier.Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.devices[id]
	if !ok {
		return nil, verifier.ErrNotFound
	}
	return &d, m.broken
}

func (m *memory) Evidence(id attest.UEID) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.devices[id]; d.Boot == nil {
		return nil, fmt.Errorf("evidence: %w", verifier.ErrNotFound)
	}
	return []byte("bundle"), m.broken
}

func (m *memory) Reports(id attest.UEID, limit int) ([]verifier.Record, error) {
	var found []verifier.Record
	for _, r := range m.reports {
		if r.Device == id && len(found) < limit {
			found = append(found, r)
		}
	}
	return found, m.broken
}

func (m *memory) Report(id attest.UEID, sequence uint64) (*verifier.Record, error) {
	for _, r := range m.reports {
		if r.Device == id && r.Sequence == sequence {
			return &r, m.broken
		}
	}
	return nil, verifier.ErrNotFound
}

func (m *memory) Labels(int64) []verifier.Shelved { return m.labels }

func (m *memory) Observed(int64, attest.UEID) (*label.Observed, error) {
	return &label.Observed{Version: 1, On: label.DayOf(now), Amounts: map[string]uint32{"flash_wear": 7}}, m.broken
}

func (m *memory) Refused(limit int) ([]verifier.Refused, error) {
	return m.refused[:min(limit, len(m.refused))], m.broken
}

func (m *memory) Submit(id attest.UEID, document []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.devices[id]; d.Enrolled != verifier.Approved {
		return fmt.Errorf("cannot forward command: %w", verifier.ErrState)
	}
	m.submitted = append(m.submitted, document)
	return m.broken
}

// put stores a device and tells.
func (m *memory) put(d verifier.Device) {
	m.mu.Lock()
	m.devices[d.UEID] = d
	m.mu.Unlock()
	m.changes.Tell(verifier.Event{Device: d.UEID.String(), Sequence: d.Sequence})
}

func (m *memory) handler() http.Handler {
	return web.New(web.Backend{Fleet: m, History: m, Commands: m, Labels: m, Changes: m.changes}, web.Options{
		Now: func() time.Time { return time.Unix(now, 0) },
		Log: slog.New(slog.DiscardHandler),
	})
}

// serve starts a server whose deadlines are timeout, 0 for none.
func serve(t testing.TB, m *memory, timeout time.Duration) *httptest.Server {
	server := httptest.NewUnstartedServer(m.handler())
	server.Config.ReadTimeout, server.Config.WriteTimeout = timeout, timeout
	server.Config.RegisterOnShutdown(m.changes.Close)
	server.Start()
	t.Cleanup(func() {
		if err := server.Config.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return server
}

func ueid(b byte) attest.UEID { return attest.NewUEID([16]byte{0xd0, 15: b}) }

// operating returns a sound device.
func operating(t testing.TB, b byte) verifier.Device {
	return verifier.Device{
		UEID: ueid(b), Vendor: "Example Medical", Model: "pump-1", Serial: fmt.Sprintf("SN-%d", b), Key: referencetest.Signer(t).Public(),
		Protection: attest.ProtectionTPM, Enrolled: verifier.Approved, AskedAt: now - 9000, ApprovedAt: now - 8000, ApprovedBy: "A. Nurse",
		Sequence: 42, LastSeen: now - 30, Stage: reference.StageOperating, Tier: verifier.TierAffirming,
		Manifest: &attest.Edition{Sequence: 3, Digest: bytes.Repeat([]byte{0xdd}, 32)},
	}
}

// paused returns a device that a fail-safe extreme has paused.
func paused(t testing.TB, b byte) verifier.Device {
	d := operating(t, b)
	d.Stage, d.Tier, d.Protection, d.Sequence = reference.StagePaused, verifier.TierContraindicated, attest.ProtectionFile, 43
	d.Pause = &attest.Pause{ID: bytes.Repeat([]byte{0x99}, 16), Since: now - 60, Reason: "fail-safe: app.flow is 620 ml/h; expected at most 500 ml/h; outside for 3.2 s", Effects: []attest.Effect{
		{Kind: reference.Tell, Done: true, Observed: "acknowledged by the application", Millis: 12},
		{Kind: reference.Freeze, Target: "medical.slice", Done: true, Observed: "frozen 1", Millis: 3},
		{Kind: reference.StopUnit, Target: "radio.service", Observed: "still active", Millis: 2000},
	}}
	d.Crossing = &attest.History{Fact: 1000, Samples: []attest.Sample{{At: 1000, Value: 120}, {At: 2000, Value: 120}, {At: 3000, Value: 620}}}
	d.Crossed = &verifier.Crossed{Name: "app.flow", Unit: "ml/h"}
	d.Findings = []verifier.Finding{
		{Code: verifier.ReasonKeyFile, Tier: verifier.TierNone, Text: "the device key is in a file: whoever reads it is the device"},
		{Code: verifier.ReasonDeviates, Tier: verifier.TierWarning, Text: "operating: network.listening has tcp/0.0.0.0:4444, which nobody declared; expected nothing but {tcp/0.0.0.0:22}"},
		{Code: verifier.ReasonExtreme, Tier: verifier.TierContraindicated, Text: "fail-safe: app.flow is 620 ml/h; expected at most 500 ml/h; outside for 3.2 s (above 500 ml/h the infusion harms)"},
	}
	return d
}

func record(d verifier.Device, sequence uint64, kind attest.Kind) verifier.Record {
	return verifier.Record{
		Device: d.UEID, Sequence: sequence, Digest: [32]byte{byte(sequence)}, Kind: kind, Stage: d.Stage, ReceivedAt: now - 60*int64(43-sequence) - 2,
		Quoted: kind == attest.KindBoot, Message: []byte("message"), Tier: d.Tier, Findings: d.Findings, Result: []byte("signed result"),
	}
}

// example fills a fleet: one sound device, one paused, one that waits, one hostile.
func example(t testing.TB) *memory {
	m := newMemory()
	renewed := operating(t, 1)
	renewed.Renewed, renewed.RenewalBy, renewed.Renewals = &verifier.Renewed{Key: referencetest.Signer(t).Public(), At: now - 7000, From: 40}, hostile, 1
	renewed.Renewal = &verifier.Challenge{Nonce: make([]byte, 16), At: now - 50}
	m.put(renewed)
	sick := paused(t, 2)
	m.put(sick)
	waits := operating(t, 3)
	waits.Enrolled, waits.Sequence, waits.LastSeen, waits.Stage, waits.Tier = verifier.Proved, 0, 0, 0, 0
	waits.ApprovedAt, waits.ApprovedBy, waits.Manifest = 0, "", nil
	waits.EKProblem = "EK certificate of an unknown root: approve by inventory"
	m.put(waits)
	bad := operating(t, 4)
	bad.Vendor, bad.Model, bad.Serial, bad.ApprovedBy = hostile, hostile, hostile, hostile
	bad.Tier, bad.Findings = verifier.TierWarning, []verifier.Finding{{Code: verifier.ReasonNote, Tier: verifier.TierWarning, Text: "the device says: " + hostile}}
	m.put(bad)
	m.put(labelled(t, 5))
	for n := uint64(43); n > 38; n-- {
		kind := attest.KindRoutine
		if n == 43 {
			kind = attest.KindAlarm
		}
		m.reports = append(m.reports, record(sick, n, kind))
	}
	m.reports[4].Kind, m.reports[4].Quoted, m.reports[4].Message = attest.KindBoot, true, nil
	m.labels = shelf()
	m.refused = []verifier.Refused{
		{At: now - 20, Device: sick.UEID.String(), Topic: "report", Reason: verifier.ReasonSignature, Text: "signature is not valid", Size: 702},
		{At: now - 4000, Device: hostile, Topic: hostile, Reason: verifier.ReasonTopic, Text: hostile, Size: 3},
	}
	return m
}

func command(t testing.TB, id attest.UEID) []byte {
	t.Helper()
	data, err := reference.SignCommand(&reference.Command{
		Version: 1, Kind: reference.Resume, Device: id[:], Pause: bytes.Repeat([]byte{0x99}, 16), Nonce: make([]byte, 16), NotBefore: now, NotAfter: now + 600,
	}, referencetest.Signer(t))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAnswers(t *testing.T) {
	labelled := "/devices/" + ueid(5).String()
	sound, sick, waits, unknown := "/devices/"+ueid(1).String(), "/devices/"+ueid(2).String(), "/devices/"+ueid(3).String(), "/devices/"+ueid(9).String()
	manifest, err := referencetest.Signer(t).Sign(cose.Manifest, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, path string
		body         []byte
		status       int
		want         string // part of the answer
	}{
		{"GET", "/healthz", nil, 200, "ok"},
		{"HEAD", "/healthz", nil, 200, ""},
		{"GET", "/api/devices", nil, 200, `"stage":"operating","tier":"affirming","findings":[],"pause":null`},
		{"GET", "/api" + sick, nil, 200, `"effects":[{"kind":"tell","target":"","done":true,"observed":"acknowledged by the application","ms":12},`},
		{"GET", "/api" + sick, nil, 200, `"findings":[{"code":"extreme","tier":"contraindicated"`},
		{"GET", "/api" + sick, nil, 200, `"protection":"key file, no TPM"`},
		{"GET", "/api" + waits, nil, 200, `"enrolled":"waits for approval"`},
		{"GET", "/api" + waits, nil, 200, `"ek_problem":"EK certificate of an unknown root: approve by inventory"`},
		{"GET", "/api" + unknown, nil, 404, `"hint":"it has not asked to be enrolled here"`},
		{"GET", "/api/devices/nonsense", nil, 404, `32 hexadecimal digits`},
		{"GET", "/api" + sick + "/reports?limit=2", nil, 200, `[{"sequence":43,`},
		{"GET", "/api" + sound + "/reports", nil, 200, "[]\n"},
		{"GET", "/api" + sick + "/reports?limit=0", nil, 400, `is not a number from 1 to 500`},
		{"GET", "/api" + sick + "/reports?limit=501", nil, 400, `is not a number from 1 to 500`},
		{"GET", "/api" + sick + "/reports?limit=many", nil, 400, `is not a number from 1 to 500`},
		{"GET", "/api" + unknown + "/reports", nil, 404, "not known"},
		{"GET", "/api" + sick + "/reports/43", nil, 200, "message"},
		{"GET", "/api" + sick + "/reports/39", nil, 410, "dropped as too old"},
		{"GET", "/api" + sick + "/reports/7", nil, 404, "report 7"},
		{"GET", "/api" + sick + "/reports/-1", nil, 404, "sequence number"},
		{"GET", "/api" + sick + "/result", nil, 200, "signed result"},
		{"GET", "/api" + waits + "/result", nil, 404, "no result"},
		{"GET", "/api" + waits + "/evidence", nil, 404, "no evidence"},
		{"GET", "/api/refused", nil, 200, `"reason":"signature"`},
		{"GET", "/api/refused?limit=1", nil, 200, `"size":702}]`},
		{"GET", "/api/nothing", nil, 404, `{"error":`},
		{"POST", "/api/devices", nil, 405, `POST is not possible here`},
		{"DELETE", "/api" + sick, nil, 405, `"hint":"allowed: GET, HEAD"`},
		{"GET", "/api" + sick + "/commands", nil, 405, `allowed: POST`},
		{"POST", "/", nil, 405, "<h1>405"},
		{"POST", "/api" + sick + "/commands", command(t, ueid(2)), 202, ""},
		{"POST", "/api" + sick + "/commands", command(t, ueid(1)), 409, "another device"},
		{"POST", "/api" + sick + "/commands", nil, 400, "no signed command"},
		{"POST", "/api" + sick + "/commands", manifest, 400, "of another type"},
		{"POST", "/api" + sick + "/commands", bytes.Repeat([]byte{1}, reference.MaxCommandSize+1), 413, "at most 1024 bytes"},
		{"POST", "/api" + waits + "/commands", command(t, ueid(3)), 409, "not possible now"},
		{"POST", "/api" + unknown + "/commands", command(t, ueid(9)), 404, "not known"},
		{"GET", "/", nil, 200, "paused by fail-safe"},
		{"GET", "/?tier=warning", nil, 200, `aria-current="true"`},
		{"GET", "/?tier=nonsense", nil, 200, "pump-1 SN-1"},
		{"GET", sick, nil, 200, "freeze medical.slice"},
		{"GET", sick, nil, 200, "factsctl resume --verifier http://example.com --device " + ueid(2).String()},
		{"GET", sick, nil, 200, "key file, no TPM"},
		{"GET", sick, nil, 200, "signature is not valid"},
		{"GET", sound, nil, 200, "None: the newest report is as the manufacturer says"},
		{"GET", waits, nil, 200, "factsverifier approve " + ueid(3).String()},
		{"GET", waits, nil, 200, "TPM, maker not proved"},
		{"GET", unknown, nil, 404, "<h1>404"},
		{"GET", "/devices/../../etc/passwd", nil, 307, ""},
		{"GET", "/static/style.css", nil, 200, "color-scheme"},
		{"GET", "/static/..%2fpages%2ffleet.html", nil, 404, ""},
		{"GET", "/static/none", nil, 404, ""},
		{"GET", "/nothing", nil, 404, "there is no such page"},
		{"GET", "/labels", nil, 200, "says: <bdi>Example Medical</bdi>"},
		{"GET", "/api/labels", nil, 200, `"file":"torn.label","state":"unreadable","why":"cannot read label: `},
		{"GET", "/api" + sound, nil, 200, `"life":null`},
		{"GET", "/api" + labelled, nil, 200, `{"code":"label-radio","about":"wireless","verdict":"contradicts","text":"the label declares no wireless; the device has wlan0"}`},
		{"GET", "/api" + labelled, nil, 200, `"inspection":{"on":"2026-05-21","due":true,"start":"2026-03-02","steps":[{"what":"base","days":730,`},
		{"GET", labelled, nil, 200, "due since 2026-05-21"},
		{"GET", labelled, nil, 200, "Renew the threat model."},
		{"GET", labelled, nil, 200, "Known vulnerabilities: 2 open, 1 not affected or fixed, by 3 documents"},
		{"GET", labelled, nil, 200, "<span>open: under investigation</span>"},
		{"GET", labelled, nil, 200, "vulnerable code not in execute path"},
		{"GET", "/api" + labelled, nil, 200, `{"id":"CVE-2026-0003","aliases":[],"severity":"high","open":false,"state":"not affected","where":["example-shell 1.36"],`},
		{"GET", labelled, nil, 200, "last change seen on 2026-01-02"},
		{"GET", "/api" + labelled + "/tasks", nil, 200, `"serial":"SN-5","on":"2026-05-21","due":true,"tasks":[{"text":"Check that the firmware is up to date.","known":"debian 12;`},
		{"GET", "/api" + sound + "/tasks", nil, 404, "not held against a label"},
		{"GET", "/api" + unknown + "/tasks", nil, 404, "not known"},
		{"GET", "/api" + labelled + "/tasks.ics", nil, 200, "DUE;VALUE=DATE:20260521\r\n"},
		{"GET", "/api" + sound + "/tasks.ics", nil, 404, "no day of inspection"},
		{"GET", "/api" + sound + "/observed", nil, 200, `{"version":1,"on":"2027-01-15","amounts":{"flash_wear":7}}`},
		{"GET", "/api" + unknown + "/observed", nil, 404, "not known"},
		{"GET", "/api/tasks", nil, 200, `[{"device":"` + ueid(5).String() + `"`},
		{"GET", "/api/tasks.ics?lang=de", nil, 200, "SUMMARY:Prüfen: Example Medical wearable-1 SN-5\r\n"},
		{"GET", "/api/tasks.ics?lang=fr", nil, 400, "unknown language"},
		{"GET", labelled, nil, 200, "the device has wlan0"},
		{"GET", labelled, nil, 200, "the label is <b>negative</b>"},
		{"GET", "/", nil, 200, `<span>due</span>`},
	} {
		m := example(t)
		r := httptest.NewRequest(tt.method, tt.path, bytes.NewReader(tt.body))
		r.Header.Set("Content-Type", "application/cose")
		w := httptest.NewRecorder()
		m.handler().ServeHTTP(w, r)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s: %d, want %d with %q:\n%s", tt.method, tt.path, w.Code, tt.status, tt.want, w.Body)
		}
		if w.Code != http.StatusTemporaryRedirect && !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "default-src 'none';") {
			t.Errorf("%s %s: answered without a policy for its content", tt.method, tt.path)
		}
		if w.Code == http.StatusMethodNotAllowed && w.Header().Get("Allow") == "" {
			t.Errorf("%s %s: 405 without Allow", tt.method, tt.path)
		}
		if (len(m.submitted) == 1) != (tt.status == http.StatusAccepted) {
			t.Errorf("%s %s: %d commands went on", tt.method, tt.path, len(m.submitted))
		}
	}
}

// What a verifier of others asks for: the same, and what it is.
func TestConceptualMessages(t *testing.T) {
	m := example(t)
	d := m.devices[ueid(2)]
	message, err := os.ReadFile("../../testdata/vectors/report/alarm.cbor")
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.reports {
		m.reports[i].Message = message
	}
	d.Boot = new(verifier.Boot)
	m.devices[ueid(2)] = d
	parts := new(attest.Message)
	if err := cose.Decode(message, attest.MaxMessageSize, parts); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]cmw.Record{
		fmt.Sprintf("/reports/%d", d.Sequence): {Format: cmw.EAT, Value: parts.Report, Kind: cmw.EvidenceKind},
		"/result":                              {Format: cmw.EAT, Value: []byte("signed result"), Kind: cmw.AttestationResult},
		"/evidence":                            {Type: cmw.Evidence, Value: []byte("bundle"), Kind: cmw.EvidenceKind},
	} {
		for _, accept := range []string{"", "application/cmw+cbor", "application/json;q=0.1, application/cmw+cbor"} {
			r := httptest.NewRequest("GET", "/api/devices/"+ueid(2).String()+path, nil)
			r.Header.Set("Accept", accept)
			w := httptest.NewRecorder()
			m.handler().ServeHTTP(w, r)
			got, err := cmw.Unwrap(w.Body.Bytes(), 1<<20)
			if wrapped := w.Header().Get("Content-Type") == cmw.MediaType; w.Code != 200 || wrapped != (accept != "") || w.Header().Get("Vary") != "Accept" {
				t.Errorf("%s, %q: %d %q", path, accept, w.Code, w.Header())
			}
			if accept != "" && (err != nil || got.Format != want.Format || got.Type != want.Type || got.Kind != want.Kind || !bytes.Equal(got.Value, want.Value)) {
				t.Errorf("%s: %+v, %v, want %+v", path, got, err, want)
			}
		}
	}
}

func TestCommandFromAnotherPage(t *testing.T) {
	m := example(t)
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
		r := httptest.NewRequest("POST", "/api/devices/"+ueid(2).String()+"/commands", bytes.NewReader(command(t, ueid(2))))
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		m.handler().ServeHTTP(w, r)
		if w.Code != http.StatusUnsupportedMediaType || len(m.submitted) != 0 {
			t.Errorf("%q, which a form elsewhere can send: %d", kind, w.Code)
		}
	}
}

// TestHostileTexts shows what a device says of itself as text, nowhere as markup.
func TestHostileTexts(t *testing.T) {
	m := example(t)
	p := m.devices[ueid(2)]
	p.Pause = &attest.Pause{ID: make([]byte, 16), Reason: hostile, Effects: []attest.Effect{{Kind: reference.Freeze, Target: hostile, Observed: hostile}}}
	m.devices[ueid(2)] = p
	for _, path := range []string{"/", "/devices/" + ueid(2).String(), "/devices/" + ueid(4).String(), "/devices/" + hostilePath} {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.Path = path
		w := httptest.NewRecorder()
		m.handler().ServeHTTP(w, r)
		page := w.Body.String()
		for _, bad := range []string{"<script>alert", "<img", "\u202e", "\x1b", "{{"} {
			if strings.Contains(strings.ReplaceAll(page, "{{.}}", ""), bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
		if !strings.Contains(page, "&lt;script&gt;alert(1)") {
			t.Errorf("%s does not show the text at all:\n%s", path, page)
		}
	}
}

// TestDeferral shows that a pause is put off, and by what name the number goes
// that crossed.
func TestDeferral(t *testing.T) {
	m := example(t)
	for _, tt := range []struct {
		deferral *verifier.Deferral
		want     []string
	}{
		{nil, []string{"paused by fail-safe", "<code>app.flow</code></bdi> over the last minute: from <bdi>120 ml/h</bdi> to <bdi>620 ml/h</bdi>"}},
		{&verifier.Deferral{Until: now + 240}, []string{"pause deferred", "latched and deferred by the application until 2027-01-15 08:04:00 UTC", "does not count as operating"}},
		{&verifier.Deferral{Until: now + 240, Lasted: 61_500, Why: attest.EndedTime}, []string{"paused by fail-safe", "The pause was deferred by the application for 61.5 s, until its time was over"}},
	} {
		d := paused(t, 2)
		d.Deferral = tt.deferral
		m.devices[ueid(2)] = d
		w := httptest.NewRecorder()
		m.handler().ServeHTTP(w, httptest.NewRequest("GET", "/devices/"+ueid(2).String(), nil))
		for _, want := range tt.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("the page does not say %q:\n%s", want, w.Body)
			}
		}
	}
}

// TestMaintenance shows until when, and how to end it.
func TestMaintenance(t *testing.T) {
	m := example(t)
	d := operating(t, 2)
	d.Stage, d.Tier, d.Maintained = reference.StageMaintenance, verifier.TierContraindicated, now+7200
	m.devices[ueid(2)] = d
	for path, want := range map[string]string{
		"/": "maintenance: extremes alarm and do not pause", "/devices/" + ueid(2).String(): "In maintenance until 2027-01-15 10:00:00 UTC at the latest",
		"/api/devices/" + ueid(2).String(): `"maintenance_until":1800007200`,
	} {
		w := httptest.NewRecorder()
		m.handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s does not say %q:\n%s", path, want, w.Body)
		}
	}
}

const hostilePath = "<script>alert(1)"

// TestBoot shows what booted, what of the logs is here, and what is not appraised.
func TestBoot(t *testing.T) {
	m := example(t)
	d := operating(t, 2)
	d.Identity = &attest.Identity{AK: []byte("ak")}
	d.Boot = &verifier.Boot{
		Quoted: true, Versions: []string{"firmware 1", "system " + hostile},
		Logs: map[attest.Log]*verifier.LogState{
			attest.LogFirmware: {Bytes: 1866}, attest.LogUserspace: {Gap: &attest.Gap{Status: 1, Reason: "no such file"}}, attest.LogIMA: {Bytes: 32402, More: true},
		},
	}
	m.devices[ueid(2)] = d
	show := func() string {
		w := httptest.NewRecorder()
		m.handler().ServeHTTP(w, httptest.NewRequest("GET", "/devices/"+ueid(2).String(), nil))
		return w.Body.String()
	}
	page := show()
	for _, want := range []string{"<bdi>firmware 1</bdi>", "&lt;script&gt;", "1866 bytes<", "32402 bytes, not all of it", "no such file", "not appraised", "/evidence\""} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q:\n%s", want, page)
		}
	}
	d.Boot.Files = &verifier.Files{Offset: 1, Allowed: 17, Signed: 3, Excluded: 2, Violations: 1}
	m.devices[ueid(2)] = d
	if page = show(); !strings.Contains(page, "17 allowed, 3 signed, 2 not looked at, 1 violations") {
		t.Error("the page does not count files")
	}
}

func TestHostileHost(t *testing.T) {
	m := example(t)
	r := httptest.NewRequest("GET", "/devices/"+ueid(2).String(), nil)
	r.Host = "x;reboot"
	w := httptest.NewRecorder()
	m.handler().ServeHTTP(w, r)
	if strings.Contains(w.Body.String(), "reboot") || !strings.Contains(w.Body.String(), "--verifier URL ") {
		t.Error("the page proposes a command with the host that the browser made up")
	}
}

func TestEmptyFleet(t *testing.T) {
	w := httptest.NewRecorder()
	newMemory().handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for _, want := range []string{"No device has asked to enrol yet", "factsd run -config", "None. A message"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the empty page does not say %q", want)
		}
	}
}

func TestOwnFailure(t *testing.T) {
	m := example(t)
	m.broken = errors.New("disk full at /secret/path")
	for _, path := range []string{"/", "/api/devices", "/api/refused"} {
		w := httptest.NewRecorder()
		m.handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: %d\n%s", path, w.Code, w.Body)
		}
	}
}

// A stream is what a client reads of /events.
type stream struct {
	t     testing.TB
	lines *bufio.Scanner
}

func openStream(t testing.TB, url string) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", url+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	if answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("answer %s of type %q", answer.Status, answer.Header.Get("Content-Type"))
	}
	return &stream{t, bufio.NewScanner(answer.Body)}
}

// next returns the next event, "" at the end of the stream.
func (s *stream) next() (event, data string) {
	for s.lines.Scan() {
		switch line := s.lines.Text(); {
		case strings.HasPrefix(line, "event: "):
			event = line[7:]
		case strings.HasPrefix(line, "data: "):
			data = line[6:]
		case line == "":
			return event, data
		}
	}
	return "", ""
}

func TestStream(t *testing.T) {
	m := example(t)
	server := serve(t, m, 100*time.Millisecond)
	s := openStream(t, server.URL)
	if event, data := s.next(); event != "time" || data != fmt.Sprint(int64(now)) {
		t.Fatalf("the stream begins with %q %s", event, data)
	}
	// The server's deadlines have passed when it gives up on this connection.
	idle, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, idle); err != nil {
		t.Fatal(err)
	}
	m.put(paused(t, 1))
	var change web.Change
	event, data := s.next()
	if err := json.Unmarshal([]byte(data), &change); err != nil || event != "device" || change != (web.Change{ID: ueid(1).String(), Sequence: 43}) {
		t.Fatalf("event %q %s %v", event, data, err)
	}
	m.changes.Tell(verifier.Event{Refused: &verifier.Refused{Device: hostile, Reason: verifier.ReasonTopic, Text: "a\nb"}})
	var refused web.Refused
	event, data = s.next()
	if err := json.Unmarshal([]byte(data), &refused); err != nil || event != "refused" || refused.Device == "" || refused.Text != "a\nb" {
		t.Fatalf("event %q %s %v", event, data, err)
	}
	m.changes.Close()
	if event, _ := s.next(); event != "" {
		t.Fatalf("event %q after the end", event)
	}
	answer, err := http.Get(server.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a stream after the end: %s", answer.Status)
	}
}

// TestSlowReader tells a lot while nobody reads: what is kept is bounded, and
// what changed often is told once.
func TestSlowReader(t *testing.T) {
	m := example(t)
	server := serve(t, m, 0)
	s := openStream(t, server.URL)
	s.next()
	for n := range uint64(5000) {
		m.changes.Tell(verifier.Event{Device: ueid(1).String(), Sequence: n})
		m.changes.Tell(verifier.Event{Refused: &verifier.Refused{At: int64(n), Text: strings.Repeat("x", 1<<10)}})
	}
	for {
		event, data := s.next()
		if event == "" {
			t.Fatal("the stream ended without the newest refusal")
		}
		if event == "refused" && strings.HasPrefix(data, `{"at":4999,`) {
			break
		}
	}
}

func TestTooManyStreams(t *testing.T) {
	m := newMemory()
	server := serve(t, m, 0)
	for range 256 {
		openStream(t, server.URL)
	}
	answer, err := http.Get(server.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "too many streams") {
		t.Errorf("stream 257: %s %s %v", answer.Status, body, err)
	}
}

// BenchmarkFleetPage makes the page of 1000 devices, of which it shows 500.
func BenchmarkFleetPage(b *testing.B) {
	m := newMemory()
	d := paused(b, 0)
	for n := range 1000 {
		d.UEID = attest.NewUEID([16]byte{14: byte(n >> 8), 15: byte(n)})
		m.put(d)
	}
	h := m.handler()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		b.SetBytes(int64(w.Body.Len()))
	}
}
