// Package web is what people see of the fleet: pages, the JSON interface behind
// them, and a stream of changes. It shows what package verifier has decided and
// decides nothing itself.
//
// It trusts the verifier and its store. It does not trust what devices have said
// of themselves, which is escaped wherever it is shown, and it does not trust who
// asks: everybody who reaches the listener may read, and the one thing that can
// be sent, an operator's command, carries its authority in its signature, which
// the device checks. Who must not read is kept out in front of it.
//
// There are no sessions, no cookies and nothing from elsewhere on the pages; they
// work without JavaScript, and with it they follow the stream.
//
//	GET  /                                   page of the fleet; ?tier= shows one result
//	GET  /devices/{id}                       page of a device
//	GET  /labels                             page of the labels
//	GET  /events                             the stream (Server-Sent Events):
//	                                         device (Change), refused (Refused), time (Unix seconds)
//	GET  /api/devices                        list of Device
//	GET  /api/devices/{id}                   Device
//	GET  /api/devices/{id}/reports           list of Report, newest first; ?limit= up to 500
//	GET  /api/devices/{id}/reports/{sequence} the message as it came
//	GET  /api/devices/{id}/result            signed result (EAR) on the newest report
//	GET  /api/devices/{id}/evidence          boot report, quote, logs and keys in one bundle
//	                                         reports, results and bundles are conceptual messages with
//	                                         Accept: application/cmw+cbor
//	GET  /api/devices/{id}/tasks             Tasks of its inspection
//	GET  /api/devices/{id}/tasks.ics         the same as iCalendar; ?lang= en or de
//	GET  /api/devices/{id}/observed          what its reports tell for its day (label.Observed)
//	GET  /api/tasks                          list of Tasks, the earliest first
//	GET  /api/tasks.ics                      the same as iCalendar
//	GET  /api/labels                         list of Label
//	GET  /api/refused                        list of Refused, newest first; ?limit= up to 500
//	POST /api/devices/{id}/commands          a signed command; 202 when it is on its way
//	GET  /healthz                            ok
//
// An id is the UEID as 32 hexadecimal digits. What is not possible is answered
// with a fitting status and a Problem.
package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/verifier"
)

// A Fleet tells what is known of devices at a time; *verifier.Verifier does.
type Fleet interface {
	Devices(now int64) ([]verifier.Device, error)
	Device(now int64, id attest.UEID) (*verifier.Device, error) // verifier.ErrNotFound
	Evidence(id attest.UEID) ([]byte, error)                    // a bundle; verifier.ErrNotFound
}

// A History tells what devices have said, newest first; *store.Store does.
type History interface {
	Reports(id attest.UEID, limit int) ([]verifier.Record, error)
	Report(id attest.UEID, sequence uint64) (*verifier.Record, error) // verifier.ErrNotFound
	Refused(limit int) ([]verifier.Refused, error)
}

// A Commander forwards a signed command to a device. Errors that wrap
// verifier.ErrNotFound or verifier.ErrState are the asker's, others the
// verifier's own.
type Commander interface {
	Submit(id attest.UEID, document []byte) error
}

// A Shelf tells what became of the labels that the verifier was given, and what
// the days of inspection are computed from; *verifier.Verifier does.
type Shelf interface {
	Labels(now int64) []verifier.Shelved
	Observed(now int64, id attest.UEID) (*label.Observed, error) // verifier.ErrNotFound
}

// A Backend is what stands behind the pages. Every part is required.
type Backend struct {
	Fleet    Fleet
	History  History
	Commands Commander
	Labels   Shelf
	Changes  *Changes // the verifier tells them: Config.Changed = Changes.Tell
}

// Options change what is shown.
type Options struct {
	// URL is the address of the pages as people reach them, for the commands that
	// pages propose. "": as the browser called it.
	URL string
	// Broker is where devices connect, "tls://verifier.example:8883"; "" when it is
	// not to be shown.
	Broker string
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // for the verifier's own failures; nil: slog.Default()
}

// Limits of what is asked and shown.
const (
	defaultLimit = 50
	maxLimit     = 500 // of a list in one answer
	pageReports  = 20  // on the page of a device
	pageRefused  = 10
	pageDevices  = 500
)

type site struct {
	Backend
	opt   Options
	pages *template.Template
}

// New returns the handler of the pages, the JSON interface and the stream.
//
// The server that it runs in should have ReadHeaderTimeout 5 s, ReadTimeout 10 s,
// WriteTimeout 30 s, IdleTimeout 2 min and MaxHeaderBytes 16 KiB: the handler sets
// no deadline but that of the stream, which moves its own. Changes.Close belongs
// into RegisterOnShutdown, or open streams keep Shutdown waiting.
func New(b Backend, opt Options) http.Handler {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	s := &site{Backend: b, opt: opt, pages: parsePages()}
	mux := http.NewServeMux()
	for _, r := range []struct {
		method, path string
		serve        func(http.ResponseWriter, *http.Request) error
	}{
		{http.MethodGet, "/{$}", s.fleetPage},
		{http.MethodGet, "/devices/{id}", s.devicePage},
		{http.MethodGet, "/labels", s.labelsPage},
		{http.MethodGet, "/static/{name}", s.static},
		{http.MethodGet, "/events", s.events},
		{http.MethodGet, "/healthz", s.health},
		{http.MethodGet, "/api/devices", s.devices},
		{http.MethodGet, "/api/devices/{id}", s.device},
		{http.MethodGet, "/api/devices/{id}/reports", s.reports},
		{http.MethodGet, "/api/devices/{id}/reports/{sequence}", s.message},
		{http.MethodGet, "/api/devices/{id}/result", s.result},
		{http.MethodGet, "/api/devices/{id}/evidence", s.evidence},
		{http.MethodGet, "/api/devices/{id}/tasks", s.tasks},
		{http.MethodGet, "/api/devices/{id}/tasks.ics", s.deviceCalendar},
		{http.MethodGet, "/api/devices/{id}/observed", s.observed},
		{http.MethodGet, "/api/tasks", s.allTasks},
		{http.MethodGet, "/api/tasks.ics", s.fleetCalendar},
		{http.MethodGet, "/api/labels", s.labels},
		{http.MethodGet, "/api/refused", s.refused},
		{http.MethodPost, "/api/devices/{id}/commands", s.command},
		{"", "/", func(http.ResponseWriter, *http.Request) error {
			return &problem{http.StatusNotFound, "there is no such page", "begin at /"}
		}},
	} {
		mux.HandleFunc(r.path, func(w http.ResponseWriter, q *http.Request) {
			secure(w.Header())
			err := allow(w, q, r.method)
			if err == nil {
				err = r.serve(w, q)
			}
			if err != nil {
				s.fail(w, q, err)
			}
		})
	}
	return mux
}

// secure sets the headers of every answer: nothing from elsewhere, nothing
// inline, in no frame, kept in no cache.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// allow refuses any other method than the one; "" allows all.
func allow(w http.ResponseWriter, r *http.Request, method string) error {
	if method == "" || r.Method == method || method == http.MethodGet && r.Method == http.MethodHead {
		return nil
	}
	allowed := method
	if method == http.MethodGet {
		allowed = "GET, HEAD"
	}
	w.Header().Set("Allow", allowed)
	return &problem{http.StatusMethodNotAllowed, fmt.Sprintf("%s is not possible here", attest.Clip(r.Method, 16)), "allowed: " + allowed}
}

// A problem is an error that is the asker's, with its status.
type problem struct {
	status int
	text   string
	hint   string // what to do about it
}

func (p *problem) Error() string { return p.text }

// fail answers with err: as a page where a page was asked for, else as JSON.
func (s *site) fail(w http.ResponseWriter, r *http.Request, err error) {
	p, known := errors.AsType[*problem](err)
	switch {
	case known:
	case errors.Is(err, verifier.ErrNotFound):
		p = &problem{http.StatusNotFound, err.Error(), "see /api/devices for what is known"}
	case errors.Is(err, verifier.ErrState):
		p = &problem{http.StatusConflict, err.Error(), ""}
	default:
		s.opt.Log.Error("cannot answer", "path", attest.Clip(r.URL.Path, 128), "err", err)
		p = &problem{http.StatusInternalServerError, "the verifier failed", "its log says why"}
	}
	if strings.HasPrefix(r.URL.Path, "/api/") || r.URL.Path == "/events" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(p.status)
		_ = json.NewEncoder(w).Encode(Problem{p.text, p.hint}) // the connection is gone: nobody to tell
		return
	}
	s.show(w, p.status, "problem", problemPage{frame: s.frame("", "Not shown"), Text: p.text, Hint: p.hint, Status: p.status})
}

func (s *site) now() int64 { return s.opt.Now().Unix() }

// deviceID returns the device that the path names.
func deviceID(r *http.Request) (attest.UEID, error) {
	id, err := attest.ParseUEID(r.PathValue("id"))
	if err != nil {
		return id, &problem{http.StatusNotFound, fmt.Sprintf("no device is called %q", attest.Clip(r.PathValue("id"), 64)), "a device is named by 32 hexadecimal digits"}
	}
	return id, nil
}

// lookup returns the device that the path names.
func (s *site) lookup(r *http.Request) (*verifier.Device, error) {
	id, err := deviceID(r)
	if err != nil {
		return nil, err
	}
	d, err := s.Fleet.Device(s.now(), id)
	if errors.Is(err, verifier.ErrNotFound) {
		return nil, &problem{http.StatusNotFound, fmt.Sprintf("device %s is not known", id), "it has not asked to be enrolled here"}
	}
	return d, err
}

// limit returns the query's limit.
func limit(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxLimit {
		return 0, &problem{http.StatusBadRequest, fmt.Sprintf("limit %q is not a number from 1 to %d", attest.Clip(text, 16), maxLimit), ""}
	}
	return n, nil
}

func (s *site) health(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
	return nil
}
