package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/verifier"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed static
var staticFiles embed.FS

func parsePages() *template.Template {
	return template.Must(template.New("").Funcs(template.FuncMap{
		"clean": Clean, "stamp": Stamp, "tier": TierWords, "short": short,
	}).ParseFS(pageFiles, "pages/*.html"))
}

// short returns the beginning of a long hexadecimal name.
func short(s string) string { return Clean(attest.Clip(s, 8)) }

// A frame is what all pages have.
type frame struct {
	Title string
	Only  string // the one device it is about; "" for none
	Now   int64
}

func (s *site) frame(device, title string) frame { return frame{title, device, s.now()} }

// A moment is a time as a page shows it.
type moment struct{ Machine, Exact, Ago string }

// Time returns the moment of Unix seconds; nil for never.
func (f frame) Time(at int64) *moment {
	if at == 0 {
		return nil
	}
	return &moment{time.Unix(at, 0).UTC().Format(time.RFC3339), Stamp(at), Ago(f.Now, at)}
}

type fleetPage struct {
	frame
	Counts  []count
	Show    string // the tier that is shown; "" for all
	Devices []*Device
	Hidden  int // devices beyond the limit of a page
	Total   int
	Refused []Refused
	Broker  string

	Labelled bool // labels are compared, so there are days of inspection
}

// A count is how many devices have a tier.
type count struct {
	Tier string
	N    int
}

type devicePage struct {
	frame
	*Device
	Reports []Report
	Refused []Refused
	URL     string // of the verifier, for commands to copy
}

type problemPage struct {
	frame
	Status     int
	Text, Hint string
}

func (s *site) fleetPage(w http.ResponseWriter, r *http.Request) error {
	all, err := s.Fleet.Devices(s.now())
	if err != nil {
		return err
	}
	// Worst first, and of these by name: a list that jumps with every report
	// cannot be read.
	slices.SortStableFunc(all, func(a, b verifier.Device) int {
		if a.Tier != b.Tier {
			return int(b.Tier) - int(a.Tier)
		}
		return strings.Compare(a.Model+"\x00"+a.Serial, b.Model+"\x00"+b.Serial)
	})
	p := fleetPage{frame: s.frame("", "Fleet"), Show: r.URL.Query().Get("tier"), Total: len(all), Broker: s.opt.Broker}
	for _, t := range []verifier.Tier{verifier.TierContraindicated, verifier.TierWarning, verifier.TierAffirming, verifier.TierNone} {
		c := count{Tier: t.String()}
		for i := range all {
			if all[i].Tier == t {
				c.N++
			}
		}
		p.Counts = append(p.Counts, c)
	}
	if !slices.ContainsFunc(p.Counts, func(c count) bool { return c.Tier == p.Show }) {
		p.Show = ""
	}
	for i := range all {
		if p.Show != "" && all[i].Tier.String() != p.Show {
			continue
		}
		if len(p.Devices) == pageDevices {
			p.Hidden++
			continue
		}
		d := newDevice(&all[i], p.Now)
		p.Devices = append(p.Devices, &d)
		p.Labelled = p.Labelled || d.Life != nil
	}
	refused, err := s.History.Refused(pageRefused)
	if err != nil {
		return err
	}
	for i := range refused {
		p.Refused = append(p.Refused, newRefused(&refused[i]))
	}
	s.show(w, http.StatusOK, "fleet", p)
	return nil
}

func (s *site) devicePage(w http.ResponseWriter, r *http.Request) error {
	known, err := s.lookup(r)
	if err != nil {
		return err
	}
	d := newDevice(known, s.now())
	records, err := s.History.Reports(known.UEID, pageReports)
	if err != nil {
		return err
	}
	refused, err := s.History.Refused(maxLimit)
	if err != nil {
		return err
	}
	p := devicePage{frame: s.frame(d.ID, d.Name()+": "+d.State()), Device: &d, URL: s.url(r)}
	for i := range records {
		p.Reports = append(p.Reports, newReport(&records[i]))
	}
	for i := range refused {
		if refused[i].Device == d.ID && len(p.Refused) < pageRefused {
			p.Refused = append(p.Refused, newRefused(&refused[i]))
		}
	}
	s.show(w, http.StatusOK, "device", p)
	return nil
}

// url returns where the verifier is reached. What a browser says of that goes
// into a command that people copy: a host that is none is left out.
func (s *site) url(r *http.Request) string {
	if s.opt.URL != "" {
		return s.opt.URL
	}
	u := url.URL{Scheme: "http", Host: r.Host}
	if r.TLS != nil {
		u.Scheme = "https"
	}
	if strings.Trim(u.Host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:[]") != "" {
		return "URL"
	}
	return u.String()
}

// show answers with a page. It is made whole before the first byte goes out, so
// that an error is no half page.
func (s *site) show(w http.ResponseWriter, status int, name string, page any) {
	var b bytes.Buffer
	if err := s.pages.ExecuteTemplate(&b, name+".html", page); err != nil {
		s.opt.Log.Error("cannot make page", "page", name, "err", err)
		http.Error(w, "the verifier failed; its log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the connection is gone: nobody to tell
}

// static answers with a file of the pages, which a browser may keep and has to
// ask about.
func (s *site) static(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	data, err := staticFiles.ReadFile("static/" + name)
	if err != nil {
		return &problem{http.StatusNotFound, "there is no such file", "begin at /"}
	}
	sum := sha256.Sum256(data)
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:8])+`"`)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(data))
	return nil
}

// Summary returns what is said aloud when the device changes.
func (d *Device) Summary() string {
	return fmt.Sprintf("%s: %s, %s", d.Name(), d.State(), TierWords(d.Tier))
}
