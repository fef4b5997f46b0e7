package label_test

import (
	"bytes"
	"context"
	"image/png"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/test/axe"
)

// unreadable lists what makes the page hard to read, for eyes and for a screen
// reader: contrast below 7:1 (WCAG 2.2, 1.4.6), tables without name or heads, what
// is wider than the window.
const unreadable = `(() => {
	const rgb = (c) => c.match(/[\d.]+/g).map(Number);
	const light = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
	const bad = [], white = light(rgb(getComputedStyle(document.body).backgroundColor));
	let seen = 0;
	for (const e of document.body.querySelectorAll("*")) {
		if (!Array.from(e.childNodes).some((n) => n.nodeType === 3 && n.data.trim())) continue;
		seen++;
		if ((white + 0.05) / (light(rgb(getComputedStyle(e).color)) + 0.05) < 7) bad.push("faint: " + e.textContent);
		if (parseFloat(getComputedStyle(e).fontSize) < 12) bad.push("small: " + e.textContent);
	}
	if (seen < 60) bad.push("only " + seen + " texts");
	for (const t of document.querySelectorAll("table")) if (!t.caption || !t.caption.textContent.trim()) bad.push("table without name");
	for (const r of document.querySelectorAll("tbody tr")) if (!r.querySelector("th[scope=row]")) bad.push("row without head: " + r.textContent);
	for (const q of ["html[lang]", "main", "h1", "h2", "svg[role=img][aria-label]:not(.link)", "svg.link[role=img][aria-label]"]) if (document.querySelectorAll(q).length !== 1) bad.push("not one " + q);
	const over = document.documentElement.scrollWidth - document.documentElement.clientWidth;
	if (over > 0) bad.push("wider than the window by " + over);
	return bad;
})()`

// TestBrowser looks at the page with a real browser, on a phone and on a screen,
// and scans the code from what the browser shows.
func TestBrowser(t *testing.T) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("cannot test the page in a browser: install the package chromium (apt-get install chromium)")
	}
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()))...)
	t.Cleanup(cancel)
	tab, cancelTab := chromedp.NewContext(alloc)
	t.Cleanup(cancelTab)
	ctx, cancelTime := context.WithTimeout(tab, 60*time.Second)
	t.Cleanup(cancelTime)

	signed := sign(t, example(t), fixed(t, "label"))
	for _, lang := range []label.Lang{label.English, label.German} {
		html, err := label.HTML(signed, lang, nil)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "label.html")
		if err := os.WriteFile(file, html, 0o600); err != nil {
			t.Fatal(err)
		}
		do(t, ctx, chromedp.Navigate((&url.URL{Scheme: "file", Path: file}).String()))
		for _, width := range []int64{375, 1280} {
			do(t, ctx, chromedp.EmulateViewport(width, 900))
			if bad := do(t, ctx, chromedp.Evaluate[[]string](unreadable)); len(bad) > 0 {
				t.Errorf("%s at %d px: %v", lang, width, bad)
			}
		}
		if bad, err := axe.Serious(ctx); err != nil || len(bad) > 0 {
			t.Errorf("%s: %q, %v", lang, bad, err)
		}
		img, err := png.Decode(bytes.NewReader(do(t, ctx, chromedp.FullScreenshot(100))))
		if err != nil {
			t.Fatal(err)
		}
		if got := scan(t, img); !bytes.Equal(got, signed) {
			t.Errorf("%s: the browser shows the code of another label", lang)
		}
	}
}

func do[T any](t *testing.T, ctx context.Context, action chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
