package main

import (
	"context"
	"flag"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/miotfacts/miotfacts/test/axe"
	"github.com/miotfacts/miotfacts/test/screenshot"
	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "take the pictures in docs anew")

// TestPages lets axe-core look at every page that a command writes, in a real browser,
// on a phone and on a screen, and takes the pictures of them that docs shows. What a
// person does in verify.html is looked at in the tests of label.
func TestPages(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	const configs, talk = "../../configs/", "../../testdata/talk/"
	keys := "version = 1\nowner = \"manufacturer\"\nsequence = 1\n[[key]]\nrole = \"label\"\nname = \"label\"\nfile = \"label.key.pub\"\nvalid = { from = 2026-01-01, until = 2031-12-31 }\n"
	if err := os.WriteFile(in("keys.toml"), []byte(keys), 0o600); err != nil {
		t.Fatal(err)
	}
	ctl(t, exitOK, "key", "new", "--out", in("root.key"))
	ctl(t, exitOK, "key", "new", "--out", in("label.key"))
	ctl(t, exitOK, "keys", "sign", in("keys.toml"), "--root", in("root.key"), "--out", in("keys.signed"))
	ctl(t, exitOK, "label", "sign", configs+"label-example.toml", "--key", in("label.key"), "--out", in("w.label"))
	software := []string{"--sbom", configs + "label-example.cdx.json", "--vulnerabilities", configs + "label-example-vulnerabilities"}
	pages := []struct {
		name    string // of the page, and of its picture in docs
		picture int64  // its height; 0: none
		args    []string
	}{
		{"label-plain", 0, []string{"label", "render", in("w.label"), "--out"}},
		{"label-page", 2340, append([]string{"label", "render", in("w.label")}, append(software, "--out")...)},
		{"label-page-de", 0, append([]string{"label", "render", in("w.label"), "--lang", "de"}, append(software, "--out")...)},
		{"verify", 0, []string{"label", "page", "--root", in("root.key.pub"), "--keys", in("keys.signed"), "--out"}},
		{"talk-report", 950, []string{"talk", "--pcap", talk + "wired.pcap", "--table", talk + "networks.mmdb", "--parties", configs + "talk-parties-example.toml", "--label", in("w.label"), "--html"}},
		{"maturity-report", 1100, []string{"maturity", "report", configs + "maturity-example.toml", "--data", configs + "maturity-example.json", "--out"}},
		{"maturity-report-de", 0, []string{"maturity", "report", configs + "maturity-example.toml", "--lang", "de", "--out"}},
	}
	looked := map[string]bool{}
	for _, p := range pages {
		command, _, err := newRootCommand().Find(p.args)
		if err != nil {
			t.Fatal(err)
		}
		looked[command.CommandPath()] = true
		ctl(t, exitOK, append(p.args, in(p.name+".html"))...)
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if text := c.Long + c.Flags().FlagUsages(); strings.Contains(text, ".html") || strings.Contains(text, "HTML") || c.Flags().Lookup("html") != nil {
			if !looked[c.CommandPath()] && !c.HasSubCommands() {
				t.Errorf("%s writes a page that this test does not look at", c.CommandPath())
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())

	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("cannot look at pages in a browser: install the package chromium (apt-get install chromium)")
	}
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.Flag("lang", "en"))...)
	t.Cleanup(cancel)
	tab, cancelTab := chromedp.NewContext(alloc)
	t.Cleanup(cancelTab)
	ctx, cancelTime := context.WithTimeout(tab, 3*time.Minute)
	t.Cleanup(cancelTime)
	for _, p := range pages {
		for _, width := range []int64{900, 375} {
			if _, err := chromedp.Run(ctx, chromedp.EmulateViewport(width, 1000)); err != nil {
				t.Fatal(err)
			}
			if _, err := chromedp.Run(ctx, chromedp.Navigate((&url.URL{Scheme: "file", Path: in(p.name + ".html")}).String())); err != nil {
				t.Fatal(err)
			}
			over, err := chromedp.Run(ctx, chromedp.Evaluate[int](`document.documentElement.scrollWidth - document.documentElement.clientWidth`))
			if err != nil || over > 0 {
				t.Errorf("%s at %d px is wider than the window by %d, %v", p.name, width, over, err)
			}
		}
		if bad, err := axe.Serious(ctx); err != nil || len(bad) > 0 {
			t.Errorf("%s: %q, %v", p.name, bad, err)
		}
		if p.picture == 0 {
			continue
		}
		if _, err := chromedp.Run(ctx, chromedp.EmulateViewport(900, p.picture)); err != nil {
			t.Fatal(err)
		}
		if err := screenshot.Keep(ctx, "../../docs/"+p.name+".png", 400<<10, *update, chromedp.CaptureScreenshot()); err != nil {
			t.Error(err)
		}
	}
}
