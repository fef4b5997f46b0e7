package maturity_test

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/miotfacts/miotfacts/maturity"
)

var langs = []maturity.Lang{maturity.English, maturity.German}

const hostile = `<script>alert(1)</script> & "x" 'y' ]]>`

func hostileEvaluation(t *testing.T) *maturity.Evaluation {
	e := example(t)
	a := *e.Assessment
	a.Subject = hostile
	a.Answers = slices.Clone(a.Answers)
	for i := range a.Answers {
		if a.Answers[i].Answer != maturity.Open {
			a.Answers[i].Who, a.Answers[i].Evidence = hostile, hostile
		}
	}
	d := *e.Data
	d.Source = hostile
	return maturity.Evaluate(&a, &d)
}

func TestPicture(t *testing.T) {
	for _, l := range langs {
		for _, e := range []*maturity.Evaluation{example(t), hostileEvaluation(t), maturity.Evaluate(&maturity.Assessment{Subject: "S"}, nil)} {
			if !bytes.Equal(e.SVG(l), e.SVG(l)) {
				t.Error("the picture differs from itself")
			}
			lookAt(t, e.SVG(l), l, e)
			lookAt(t, maturity.SVGChange(example(t), e, l), l, e, example(t))
		}
	}
}

// lookAt holds that a picture is well-formed, draws only, and says what it is
// about.
func lookAt(t *testing.T, svg []byte, l maturity.Lang, about ...*maturity.Evaluation) {
	t.Helper()
	dec := xml.NewDecoder(bytes.NewReader(svg))
	var texts []string
	for {
		token, err := dec.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch x := token.(type) {
		case xml.StartElement:
			if !slices.Contains([]string{"svg", "title", "desc", "rect", "polygon", "line", "circle", "text"}, x.Name.Local) {
				t.Errorf("element %s", x.Name.Local)
			}
		case xml.CharData:
			texts = append(texts, string(x))
		}
	}
	all := strings.Join(texts, "\n")
	for _, c := range maturity.Columns() {
		if words := strings.Fields(c.Name.In(l)); !strings.Contains(all, words[0]) {
			t.Errorf("%s is not in the picture", c.ID)
		}
	}
	for _, e := range about {
		if !strings.Contains(all, e.Assessment.Subject) || !strings.Contains(all, maturity.LevelName(e.Overall.Literal, l)) {
			t.Errorf("the picture says not what it is about: %s", all)
		}
	}
}

// The corners are where the levels are: level five is the outermost ring, and
// strict level zero the centre.
func TestPictureShowsLevels(t *testing.T) {
	polygons := func(e *maturity.Evaluation) []string {
		var all []string
		for _, m := range regexp.MustCompile(`<polygon points="([^"]*)"`).FindAllStringSubmatch(string(e.SVG(maturity.English)), -1) {
			all = append(all, m[1])
		}
		if len(all) != 7 { // five rings, outermost first, then strict and literal
			t.Fatalf("%d polygons", len(all))
		}
		return all
	}
	p := polygons(maturity.Evaluate(assess(func(maturity.Criterion) string { return maturity.Yes }), nil))
	if p[5] != p[0] || p[6] != p[0] {
		t.Errorf("everything met: %s, %s, want %s", p[5], p[6], p[0])
	}
	p = polygons(maturity.Evaluate(assess(func(maturity.Criterion) string { return maturity.No }), nil))
	if centre := strings.TrimSpace(strings.Repeat("400.0,295.0 ", 10)); p[5] != centre || p[6] != p[4] {
		t.Errorf("nothing met: %s, %s", p[5], p[6])
	}
}

// Of two evaluations the earlier is dashed and the later solid, each with its
// level by the rule.
func TestPictureOfChange(t *testing.T) {
	none := maturity.Evaluate(assess(func(maturity.Criterion) string { return maturity.No }), nil)
	all := maturity.Evaluate(assess(func(maturity.Criterion) string { return maturity.Yes }), nil)
	svg := string(maturity.SVGChange(none, all, maturity.English))
	p := regexp.MustCompile(`<polygon points="([^"]*)" fill="([^"]*)"`).FindAllStringSubmatch(svg, -1)
	if p[5][1] != p[0][1] || p[5][2] == "none" || p[6][1] != p[4][1] || p[6][2] != "none" {
		t.Errorf("polygons %v", p)
	}
	if strings.Count(svg, ": 1 → 5</text>") != 10 {
		t.Error("the levels do not stand beside the names")
	}
}

func TestReport(t *testing.T) {
	outside := regexp.MustCompile(`(?i)(src|href|action|data|srcset|url)\s*[=(]|@import|<(script|link|iframe|object|img|form)\b`)
	for _, l := range langs {
		for _, e := range []*maturity.Evaluation{example(t), hostileEvaluation(t), maturity.Evaluate(&maturity.Assessment{Subject: "S"}, nil)} {
			page, err := e.HTML(l)
			if err != nil {
				t.Fatal(err)
			}
			again, err := e.HTML(l)
			if err != nil || !bytes.Equal(page, again) {
				t.Errorf("the report differs from itself: %v", err)
			}
			if m := outside.Find(page); m != nil {
				t.Errorf("the page has %q", m)
			}
			for _, c := range maturity.Criteria() {
				if !bytes.Contains(page, []byte("<code>"+c.ID+"</code>")) {
					t.Errorf("%s is not in the report", c.ID)
				}
			}
			if !bytes.Contains(page, []byte(`<html lang="`+string(l)+`">`)) {
				t.Error("the page does not say its language")
			}
			if n, m := bytes.Count(page, []byte("<th")), bytes.Count(page, []byte(`<th scope="`))+bytes.Count(page, []byte("<thead")); n != m {
				t.Errorf("%d of %d header cells have a scope", m, n)
			}
		}
	}
	de, err := example(t).HTML(maturity.German)
	if err != nil {
		t.Fatal(err)
	}
	for _, english := range []string{"Level", "Standing", "Because", "person says", "contradicted", " of 3", "Table", "at least"} {
		if bytes.Contains(de, []byte(english)) {
			t.Errorf("the German report says %q", english)
		}
	}
}

// A real browser shows the page without asking anybody anything, runs nothing,
// and shows it on a phone.
func TestReportInBrowser(t *testing.T) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("cannot test the report in a browser: install the package chromium (apt-get install chromium)")
	}
	page, err := hostileEvaluation(t).HTML(maturity.German)
	if err != nil {
		t.Fatal(err)
	}
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-component-update", true))...)
	defer cancel()
	tab, cancelTab := chromedp.NewContext(alloc)
	defer cancelTab()
	ctx, cancelTime := context.WithTimeout(tab, 30*time.Second)
	defer cancelTime()
	name := filepath.Join(t.TempDir(), "report.html")
	if err := os.WriteFile(name, page, 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var asked []string
	err = chromedp.Listen(tab, func(event any) {
		if e, ok := event.(*network.EventRequestWillBeSent); ok {
			mu.Lock()
			asked = append(asked, e.Request.URL)
			mu.Unlock()
		}
	})
	if err == nil {
		_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	}
	if err == nil {
		_, err = chromedp.Run(ctx, chromedp.EmulateViewport(375, 800))
	}
	if err == nil {
		_, err = chromedp.Run(ctx, chromedp.Navigate("file://"+name))
	}
	if err != nil {
		t.Fatalf("cannot show the report in chromium: %v", err)
	}
	bad, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](faults))
	if err != nil {
		t.Fatal(err)
	}
	if len(bad) > 0 {
		t.Errorf("the page: %v", bad)
	}
	title, err := chromedp.Run(ctx, chromedp.Evaluate[string]("document.title"))
	if err != nil || !strings.HasSuffix(title, hostile) {
		t.Errorf("title %q, %v", title, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 1 || !strings.HasPrefix(asked[0], "file://") {
		t.Errorf("the page asks for %v", asked)
	}
}

// faults lists what somebody with a phone, a screen reader or weak eyes would
// stumble over. Contrast as in WCAG 2.2, 1.4.3.
const faults = `(() => {
	const bad = [];
	if (document.documentElement.scrollWidth > innerWidth) bad.push("scrolls sideways by " + (document.documentElement.scrollWidth - innerWidth));
	if (document.scripts.length) bad.push("scripts");
	if (document.querySelectorAll("table").length !== 13) bad.push("tables: " + document.querySelectorAll("table").length);
	for (const t of document.querySelectorAll("table")) if (!t.getAttribute("aria-label") || !t.querySelector("thead th[scope=col]") || !t.querySelector("tbody th[scope=row]")) bad.push("table without name or headers");
	for (const e of document.querySelectorAll(".scroll")) if (!e.getAttribute("aria-label") || e.tabIndex !== 0) bad.push("what scrolls cannot be reached by keyboard");
	for (const e of document.querySelectorAll("[aria-labelledby]")) for (const id of e.getAttribute("aria-labelledby").split(" ")) if (!document.getElementById(id)) bad.push("label of nothing: " + id);
	let level = 0;
	for (const h of document.querySelectorAll("h1,h2,h3")) { const n = Number(h.tagName[1]); if (n > level + 1) bad.push("heading " + h.textContent); level = n; }
	const rgba = (c) => { const n = c.match(/[\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
	const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const ground = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
	let seen = 0;
	for (const e of document.body.querySelectorAll("*")) {
		if (!Array.from(e.childNodes).some((n) => n.nodeType === 3 && n.data.trim())) continue;
		seen++;
		const a = light(rgba(e.closest("svg") ? getComputedStyle(e).fill : getComputedStyle(e).color)), b = light(ground(e));
		if ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5) bad.push("faint: " + e.textContent.trim().slice(0, 40));
		if (parseFloat(getComputedStyle(e).fontSize) < 11) bad.push("small: " + e.textContent.trim().slice(0, 40));
	}
	if (seen < 100) bad.push("found only " + seen + " texts");
	return bad;
})()`
