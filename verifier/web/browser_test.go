package web_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/miotfacts/miotfacts/test/axe"
	"github.com/miotfacts/miotfacts/test/screenshot"
)

var (
	screenshots = flag.String("screenshots", "", "`directory` for pictures of the pages")
	update      = flag.Bool("update", false, "take the pictures in docs anew")
)

// A browser is a real one with one tab, and what it complained of.
type browser struct {
	context.Context
	t       testing.TB
	mu      sync.Mutex
	faults  []string
	foreign []string // requests to anybody but the server
}

func openBrowser(t *testing.T, server string) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("cannot test the pages in a browser: install the package chromium (apt-get install chromium)")
	}
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))...)
	t.Cleanup(cancel)
	tab, cancelTab := chromedp.NewContext(alloc)
	t.Cleanup(cancelTab)
	b := &browser{Context: tab, t: t}
	err = chromedp.Listen(tab, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.faults = append(b.faults, e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			b.faults = append(b.faults, fmt.Sprintf("console.%s", e.Type))
		case *log.EventEntryAdded:
			b.faults = append(b.faults, e.Entry.Text+" "+e.Entry.URL)
		case *page.EventJavascriptDialogOpening:
			b.faults = append(b.faults, "a dialog opened: "+e.Message)
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, server+"/") {
				b.foreign = append(b.foreign, e.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatalf("cannot start chromium: %v", err)
	}
	call(b, network.Enable, network.EnableParams{})
	call(b, log.Enable, cdp.Empty{})
	return b
}

// call runs one command of the protocol.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) {
	b.t.Helper()
	if _, err := chromedp.Call(b, command, params); err != nil {
		b.t.Fatal(err)
	}
}

// run runs an action in bounded time and returns its value.
func run[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b, 20*time.Second)
	defer cancel()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// open goes to a page and waits until it follows the stream.
func (b *browser) open(url string) {
	b.t.Helper()
	run(b, chromedp.Navigate(url))
	b.wait(`document.getElementById("stream").dataset.state === "on"`)
}

// wait waits until a JavaScript expression is true.
func (b *browser) wait(expression string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b, 20*time.Second)
	defer cancel()
	promise := `new Promise((done) => { const look = () => ` + expression + ` ? done(true) : setTimeout(look, 20); look(); })`
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](promise, chromedp.EvalAwaitPromise)); err != nil {
		b.t.Fatalf("never true: %s: %v\n%s", expression, err, run(b, chromedp.Evaluate[string]("document.body.innerText")))
	}
}

// look sets width and colours, and keeps a picture.
func (b *browser) look(name string, width int64, colours string) {
	b.t.Helper()
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: colours}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	run(b, chromedp.EmulateViewport(width, 900))
	if *screenshots == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(*screenshots, name+".png"), run(b, chromedp.FullScreenshot(100)), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// tooFaint lists texts with less than 4.5:1 between them and their ground (WCAG 2.2, 1.4.3).
const tooFaint = `(() => {
	const rgba = (c) => { const n = c.match(/[\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
	const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const ground = (e) => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
	const bad = [];
	let seen = 0;
	for (const e of document.body.querySelectorAll("*")) {
		if (!Array.from(e.childNodes).some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
		seen++;
		const a = light(rgba(getComputedStyle(e).color)), b = light(ground(e));
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) bad.push(e.textContent.trim().slice(0, 40) + " " + ratio.toFixed(2));
	}
	if (seen < 10) bad.push("found only " + seen + " texts");
	return bad;
})()`

// noStructure lists what a screen reader would miss.
const noStructure = `(() => {
	const bad = [];
	const want = (selector, n) => { const m = document.querySelectorAll(selector).length; if (n === undefined ? m === 0 : m !== n) bad.push(selector + ": " + m); };
	want("html[lang]", 1); want("main", 1); want("body > header", 1); want("body > footer", 1); want("nav[aria-label]"); want("h1", 1); want("[aria-live]", 1);
	for (const t of document.querySelectorAll("table")) if (!t.querySelector("thead th[scope=col]") || !t.matches("[aria-label],[aria-labelledby]")) bad.push("table without headers or name");
	const ids = Array.from(document.querySelectorAll("[id]"), (e) => e.id);
	for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) bad.push("twice: " + id);
	for (const e of document.querySelectorAll("[aria-labelledby]")) if (!document.getElementById(e.getAttribute("aria-labelledby"))) bad.push("label of nothing");
	let level = 0;
	for (const h of document.querySelectorAll("h1,h2,h3")) { const n = Number(h.tagName[1]); if (n > level + 1) bad.push("heading " + h.textContent); level = n; }
	for (const e of document.querySelectorAll(".tier")) if (!e.querySelector("svg") || !e.textContent.trim()) bad.push("a result without symbol or words");
	return bad;
})()`

// check looks at the page wide and narrow, in light and dark.
func (b *browser) check(name string) {
	b.t.Helper()
	if bad := run(b, chromedp.Evaluate[[]string](noStructure)); len(bad) > 0 {
		b.t.Errorf("%s: structure: %v", name, bad)
	}
	for _, colours := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 375} {
			b.look(fmt.Sprintf("%s-%s-%d", name, colours, width), width, colours)
			if bad := run(b, chromedp.Evaluate[[]string](tooFaint)); len(bad) > 0 {
				b.t.Errorf("%s, %s: contrast below 4.5: %v", name, colours, bad)
			}
			found, err := axe.Serious(b)
			if err != nil {
				b.t.Fatal(err)
			}
			if len(found) > 0 {
				b.t.Errorf("%s, %s, %d px: axe-core: %q", name, colours, width, found)
			}
			if overflow := run(b, chromedp.Evaluate[int](`document.documentElement.scrollWidth - document.documentElement.clientWidth`)); overflow > 0 {
				b.t.Errorf("%s at %d px scrolls sideways by %d px", name, width, overflow)
			}
		}
	}
}

func TestBrowser(t *testing.T) {
	m := example(t)
	server := serve(t, m, 0)
	b := openBrowser(t, server.URL)
	row := "document.getElementById('d" + ueid(1).String() + "')"

	b.open(server.URL + "/")
	b.wait(row + `.innerText.includes("operating")`)
	b.check("fleet")

	// A change is pushed: the row shows it, the page was not loaded again.
	run(b, chromedp.Evaluate[chromedp.Void](`window.first = true; document.getElementById("a`+ueid(1).String()+`").focus()`))
	m.put(paused(t, 1))
	b.wait(row + `.innerText.includes("paused by fail-safe") && window.first === true`)
	b.wait(`document.getElementById("said").textContent === "pump-1 SN-1: paused by fail-safe, do not rely on it"`)
	b.wait(`document.activeElement.id === "a` + ueid(1).String() + `"`)

	b.open(server.URL + "/devices/" + ueid(2).String())
	b.check("paused")
	m.put(operating(t, 2))
	b.wait(`document.getElementById("state").textContent === "operating" && document.title.includes("operating")`)
	b.check("operating")
	for _, n := range []byte{3, 4, 5} {
		b.open(server.URL + "/devices/" + ueid(n).String())
		b.check(fmt.Sprintf("device-%d", n))
	}

	b.open(server.URL + "/labels")
	b.check("labels")

	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	run(b, chromedp.Navigate(server.URL+"/"))
	text := run(b, chromedp.Evaluate[string](`document.getElementById("main").innerText`))
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{})
	if !strings.Contains(text, "paused by fail-safe") {
		t.Errorf("without JavaScript the page does not show the fleet:\n%s", text)
	}

	b.mu.Lock()
	if len(b.faults) > 0 || len(b.foreign) > 0 {
		t.Errorf("the browser complains: %q, it asked elsewhere: %q", b.faults, b.foreign)
	}
	b.mu.Unlock()

	// The page says when it no longer follows.
	b.open(server.URL + "/")
	m.changes.Close()
	b.wait(`document.getElementById("stream").textContent === "connection lost, trying again"`)
}

// TestBrowserLabel looks at a device whose label does not fit, and keeps the picture
// of docs/label.md.
func TestBrowserLabel(t *testing.T) {
	m := newMemory()
	d := labelled(t, 5)
	d.Model = d.Life.Label.Model
	for i := range d.Life.Software.Flaws.Vulnerabilities {
		x := &d.Life.Software.Flaws.Vulnerabilities[i]
		x.Where, x.Why = x.Where[:1], strings.ReplaceAll(x.Why, hostile, "the maker looks into it")
	}
	m.put(d)
	server := serve(t, m, 0)
	b := openBrowser(t, server.URL)
	b.open(server.URL + "/devices/" + ueid(5).String())
	run(b, chromedp.Evaluate[chromedp.Void](`document.querySelectorAll("details").forEach((d) => { d.open = true; })`))
	found, err := axe.Serious(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 {
		t.Errorf("axe-core, with the steps of the day open: %q", found)
	}
	// The stream may renew the page at any moment, so what the picture is not about is hidden by a rule.
	run(b, chromedp.Evaluate[chromedp.Void](`document.styleSheets[0].insertRule("main > section:not([aria-labelledby=label]), #said, details > :not(summary) { display: none !important; }", document.styleSheets[0].cssRules.length)`))
	b.look("verifier-label", 1024, "light")
	if err := screenshot.Keep(b, "../../docs/verifier-label.png", 400<<10, *update, chromedp.FullScreenshot(100)); err != nil {
		t.Error(err)
	}
}

func TestBrowserEmptyFleet(t *testing.T) {
	m := newMemory()
	server := serve(t, m, 0)
	b := openBrowser(t, server.URL)
	b.open(server.URL + "/")
	b.check("empty")
	m.put(operating(t, 1))
	b.wait(`document.getElementById("main").innerText.includes("pump-1 SN-1")`)
	b.open(server.URL + "/devices/none")
	b.check("problem")
}
