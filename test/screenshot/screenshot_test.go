package screenshot_test

import (
	"bytes"
	"context"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/miotfacts/miotfacts/test/screenshot"
)

// A picture counts as long as the page shows what it showed, times that go by left
// out.
func TestKeep(t *testing.T) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("cannot look at a page in a browser: install the package chromium (apt-get install chromium)")
	}
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()))...)
	t.Cleanup(cancel)
	tab, cancelTab := chromedp.NewContext(alloc)
	t.Cleanup(cancelTab)
	ctx, cancelTime := context.WithTimeout(tab, time.Minute)
	t.Cleanup(cancelTime)
	if _, err := chromedp.Run(ctx, chromedp.Navigate(`data:text/html,<style>p{color:red}</style><p>fits <time>1 s ago</time>`)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "page.png")
	keep := func(limit int64, update bool) error {
		return screenshot.Keep(ctx, file, limit, update, chromedp.CaptureScreenshot())
	}
	wants := func(err error, want string) {
		t.Helper()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	change := func(js string) {
		t.Helper()
		if _, err := chromedp.Run(ctx, chromedp.Evaluate[chromedp.Void](js+";undefined")); err != nil {
			t.Fatal(err)
		}
	}
	wants(keep(1<<20, false), "no picture of this page")
	wants(keep(1<<20, true), "")
	wants(keep(1<<20, false), "")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(data)); err != nil {
		t.Errorf("it is no picture any more: %v", err)
	}
	wants(keep(100, false), "the limit is 100")
	change(`document.querySelector("time").textContent = "2 s ago"`)
	wants(keep(1<<20, false), "")
	change(`document.querySelector("style").textContent = "p{color:blue}"`)
	wants(keep(1<<20, false), "is of the page as it was")
	wants(keep(1<<20, true), "")
	change(`document.querySelector("p").append("not")`)
	wants(keep(1<<20, false), "is of the page as it was")

	for want, bad := range map[string][]byte{
		"a picture of nobody knows which page": bytes.Replace(data, []byte("Page\x00"), []byte("page\x00"), 1),
		"no PNG":                               data[:20],
	} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		wants(keep(1<<20, false), want)
	}
}
