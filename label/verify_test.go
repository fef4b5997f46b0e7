package label_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/test/axe"
	"github.com/miotfacts/miotfacts/test/screenshot"
	"golang.org/x/image/draw"
)

// TestPolicyOfPage holds that the page runs its own scripts and no others, and may
// ask nobody for anything. go test ./label -update writes the hashes anew.
func TestPolicyOfPage(t *testing.T) {
	const path = "verify.html"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var hashes []string
	for _, m := range regexp.MustCompile(`(?s)<script>(.*?)</script>`).FindAllSubmatch(text, -1) {
		sum := sha256.Sum256(m[1])
		hashes = append(hashes, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	policy := regexp.MustCompile(`content="default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; script-src [^"]*"`)
	want := []byte(`content="default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; script-src ` + strings.Join(hashes, " ") + `"`)
	if *update {
		if err := os.WriteFile(path, policy.ReplaceAllLiteral(text, want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if len(hashes) == 0 || !bytes.Equal(policy.Find(text), want) {
		t.Errorf("the policy of verify.html is not %s", want)
	}
}

// A verifier is the page in a real browser without a network.
type verifier struct {
	context.Context
	t      testing.TB
	mu     sync.Mutex
	faults []string // what the browser complained of, and whom it asked
}

// openPage starts a browser whose camera shows frame.
func openPage(t testing.TB, frame image.Image, issuers ...label.Issuer) *verifier {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("cannot test the page in a browser: install the package chromium (apt-get install chromium)")
	}
	dir := t.TempDir()
	html, err := label.Page(issuers...)
	if err != nil {
		t.Fatal(err)
	}
	file, video := filepath.Join(dir, "verify.html"), filepath.Join(dir, "camera.y4m")
	if err := errors.Join(os.WriteFile(file, html, 0o600), os.WriteFile(video, y4m(frame), 0o600)); err != nil {
		t.Fatal(err)
	}
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.Flag("lang", "en"),
		chromedp.Flag("use-fake-ui-for-media-stream", true), chromedp.Flag("use-fake-device-for-media-stream", true),
		chromedp.Flag("use-file-for-fake-video-capture", video),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND"))...)
	t.Cleanup(cancel)
	tab, cancelTab := chromedp.NewContext(alloc)
	t.Cleanup(cancelTab)
	v := &verifier{Context: tab, t: t}
	complain := func(format string, args ...any) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.faults = append(v.faults, fmt.Sprintf(format, args...))
	}
	err = chromedp.Listen(tab, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			complain("%s", e.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			complain("%s %s", e.Entry.Text, e.Entry.URL)
		case *page.EventJavascriptDialogOpening:
			complain("a dialog: %s", e.Message)
		case *network.EventRequestWillBeSent:
			if !strings.HasPrefix(e.Request.URL, "file://"+dir) {
				complain("a request: %.100s", e.Request.URL)
			}
		}
	})
	if err != nil {
		t.Fatalf("cannot start chromium: %v", err)
	}
	call(v, network.Enable, network.EnableParams{})
	call(v, log.Enable, cdp.Empty{})
	call(v, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: fmt.Sprintf("Date.now = () => %d", int64(now)*1000)})
	v.do(chromedp.EmulateViewport(375, 900))
	look(v, chromedp.Navigate((&url.URL{Scheme: "file", Path: file}).String()))
	call(v, network.EmulateNetworkConditionsByRule, network.EmulateNetworkConditionsByRuleParams{MatchedNetworkConditions: []*network.Conditions{{Offline: true}}})
	v.eval("ready.then(() => true)")
	return v
}

func call[P, R any](v *verifier, command cdp.Command[P, R], params P) {
	v.t.Helper()
	if _, err := chromedp.Call(v, command, params); err != nil {
		v.t.Fatal(err)
	}
}

func look[T any](v *verifier, action chromedp.Action[T]) T {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v, 30*time.Second)
	defer cancel()
	x, err := chromedp.Run(ctx, action)
	if err != nil {
		v.t.Fatal(err)
	}
	return x
}

func (v *verifier) do(action chromedp.Action[chromedp.Void]) { v.t.Helper(); look(v, action) }

func (v *verifier) eval(expression string) string {
	v.t.Helper()
	return look(v, chromedp.Evaluate[string](`Promise.resolve(`+expression+`).then((x) => typeof x === "string" ? x : JSON.stringify(x))`, chromedp.EvalAwaitPromise))
}

// wait waits until an expression is true.
func (v *verifier) wait(expression string) {
	v.t.Helper()
	v.eval(`new Promise((done) => { const look = () => ` + expression + ` ? done(true) : setTimeout(look, 10); look(); })`)
}

// give puts files into an input and waits for the verdict.
func (v *verifier) give(input string, files ...string) {
	v.t.Helper()
	v.eval(`(() => { document.getElementById("verdict").className = ""; delete document.getElementById("verdict").dataset.ms; return true })()`)
	v.do(chromedp.SetUploadFiles("#"+input, files))
	if input == "file" {
		v.wait(`document.getElementById("verdict").dataset.ms`)
	}
}

// camera holds what is before the camera to it, and waits for the verdict.
func (v *verifier) camera() {
	v.t.Helper()
	v.eval(`(() => { delete document.getElementById("verdict").dataset.ms; return true })()`)
	v.do(chromedp.Click("#camera"))
	v.wait(`document.getElementById("verdict").dataset.ms`)
}

// screenshot holds that docs has a picture of the page as it is, and renews it with
// -update.
func (v *verifier) screenshot(name string) {
	v.t.Helper()
	if err := screenshot.Keep(v, filepath.Join("../docs", name+".png"), 150<<10, *update, chromedp.CaptureScreenshot()); err != nil {
		v.t.Error(err)
	}
}

func (v *verifier) accessible(what string) {
	v.t.Helper()
	bad, err := axe.Serious(v)
	if err != nil || len(bad) > 0 {
		v.t.Errorf("%s: %q, %v", what, bad, err)
	}
	if over := v.eval(`document.documentElement.scrollWidth - document.documentElement.clientWidth`); over != "0" {
		v.t.Errorf("%s is wider than the window by %s", what, over)
	}
}

// y4m returns a film of a picture (YUV4MPEG2, 4:2:0), 1280 x 960.
func y4m(img image.Image) []byte {
	const width, height = 1280, 960
	frame := image.NewGray(image.Rect(0, 0, width, height))
	draw.Draw(frame, frame.Bounds(), image.White, image.Point{}, draw.Src)
	b := img.Bounds()
	scale := min(float64(width)/float64(b.Dx()), float64(height)/float64(b.Dy()))
	w, h := int(float64(b.Dx())*scale), int(float64(b.Dy())*scale)
	at := image.Rect((width-w)/2, (height-h)/2, (width+w)/2, (height+h)/2)
	draw.BiLinear.Scale(frame, at, img, b, draw.Src, nil)
	out := fmt.Appendf(nil, "YUV4MPEG2 W%d H%d F10:1 Ip A1:1 C420\n", width, height)
	for range 2 {
		out = append(out, "FRAME\n"...)
		out = append(out, frame.Pix...)
		out = append(out, bytes.Repeat([]byte{128}, width*height/2)...)
	}
	return out
}

func pngFile(t *testing.T, img image.Image) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "*.png")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join((&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(f, img), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func issuer(t testing.TB, change ...func(*reference.ListedKey)) label.Issuer {
	return label.Issuer{Root: fixed(t, "manufacturer root").Public(), Lists: [][]byte{keyList(t, change...)}}
}

// codeOf draws the code of a signed document, whatever it is.
func codeOf(t *testing.T, signed []byte) image.Image {
	t.Helper()
	text, err := label.Text(signed)
	if err != nil {
		t.Fatal(err)
	}
	c, err := label.NewCode(text)
	if err != nil {
		t.Fatal(err)
	}
	return codeImage(c, cover{})
}

// TestVerifyPage goes the way of a person: load the issuer, choose a picture, hold
// the label before the camera, change the language. There is no network.
func TestVerifyPage(t *testing.T) {
	_, large, signed := picture(t, label.A6, label.English)
	b := large.Bounds()
	corner := large.(*image.Gray).SubImage(image.Rect(b.Max.X*55/100, b.Max.Y*68/100, b.Max.X, b.Max.Y))
	v := openPage(t, photograph(t, corner, 4, 60))
	verdict := func(name, class, reason string, words ...string) {
		t.Helper()
		got := v.eval(`(() => { const e = document.getElementById("verdict"); return e.className + "|" + e.dataset.reason + "|" + e.innerText })()`)
		if !strings.HasPrefix(got, class+"|"+reason+"|") {
			t.Errorf("%s: %.300s", name, got)
		}
		for _, w := range words {
			if !strings.Contains(got, w) {
				t.Errorf("%s: it does not say %q: %.300s", name, w, got)
			}
		}
		if name == "in German" || reason == "signature" {
			v.accessible(name)
		}
	}
	v.accessible("the page at first")

	v.give("file", pngFile(t, large))
	verdict("nobody is trusted", "refused", "key", "REFUSED", "Forged or unknown")
	dir := t.TempDir()
	root, err := fixed(t, "manufacturer root").Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "root.key.pub"), root, 0o600), os.WriteFile(filepath.Join(dir, "keys.signed"), keyList(t), 0o600)); err != nil {
		t.Fatal(err)
	}
	v.give("trust-files", filepath.Join(dir, "keys.signed"), filepath.Join(dir, "root.key.pub"))
	v.wait(`document.getElementById("issuers-shown").innerText.includes("key list number 1")`)

	v.give("file", pngFile(t, large))
	verdict("A6 from a file", "ok", "", "VERIFIED", "wearable-1", "Italy, EU", "28 August 2028", "EXAMPLE")
	v.screenshot("verify-verified")
	if digest := sha256.Sum256(signed); !strings.Contains(v.eval(`document.body.innerText`), fmt.Sprintf("%x", digest)) {
		t.Error("the page opened another label")
	}
	for name, img := range coveredCodes(t, 15) {
		v.give("file", pngFile(t, img))
		if got := v.eval(`document.getElementById("verdict").className`); got != "ok" {
			t.Errorf("15 %% covered, %s: %s", name, v.eval(`document.getElementById("verdict").innerText`))
		}
	}
	v.do(chromedp.Click(`[data-lang=de]`))
	verdict("in German", "ok", "", "GEPRÜFT", "Italien, EU", "28.08.2028")
	v.do(chromedp.Click(`[data-lang=en]`))

	changed := bytes.Clone(signed)
	changed[bytes.Index(changed, []byte("wearable-1"))+9] ^= 1
	for _, c := range []struct {
		name   string
		img    image.Image
		reason string
		words  string
	}{
		{"altered by one bit", codeOf(t, changed), "signature", "Altered or forged"},
		{"forged", codeOf(t, sign(t, example(t), fixed(t, "stranger"))), "key", "Forged or unknown"},
		{"expired", codeOf(t, sign(t, example(t, func(l *label.Label) { l.Until = label.DayOf(now) - 1 }), fixed(t, "label"))), "expired", "Expired"},
		{"another code", func() image.Image {
			c, err := label.NewCode("HTTPS://EXAMPLE.COM")
			if err != nil {
				t.Fatal(err)
			}
			return codeImage(c, cover{})
		}(), "other", "It is another code"},
		{"no code", image.NewGray(image.Rect(0, 0, 400, 300)), "nocode", "No QR code could be read"},
	} {
		v.give("file", pngFile(t, c.img))
		verdict(c.name, "refused", c.reason, "REFUSED", c.words)
		red := v.eval(`getComputedStyle(document.getElementById("verdict")).color`)
		if red != "rgb(160, 0, 22)" {
			t.Errorf("%s: the words are %s", c.name, red)
		}
		if c.reason == "signature" {
			v.screenshot("verify-refused")
		}
	}
	lost := filepath.Join(dir, "keys-2.signed")
	if err := os.WriteFile(lost, keyList(t, func(k *reference.ListedKey) { k.RevokedFrom = now - 1 }), 0o600); err != nil {
		t.Fatal(err)
	}
	v.give("trust-files", lost)
	v.wait(`document.getElementById("verdict").dataset.reason === "content"`) // another list of the same number
	verdict("another list", "refused", "content", "this file is not trusted", "is not above")

	v.camera()
	verdict("the camera", "ok", "", "VERIFIED", "wearable-1")
	t.Logf("from the picture of the camera to the verdict: %s ms", v.eval(`document.getElementById("verdict").dataset.ms`))
	if v.eval(`stream === null`) != "true" {
		t.Error("the camera still runs")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.faults) > 0 {
		t.Errorf("the browser complains: %q", v.faults)
	}
}

// reasonOf is the page's name for what Open refuses.
func reasonOf(t *testing.T, err error) string {
	for _, r := range []struct {
		err  error
		name string
	}{
		{cose.ErrSignature, "signature"}, {cose.ErrType, "type"}, {reference.ErrUnknownKey, "key"}, {reference.ErrRole, "role"}, {reference.ErrRevoked, "revoked"},
		{reference.ErrExpired, "expired"}, {reference.ErrNotYet, "early"}, {reference.ErrContent, "content"},
	} {
		if errors.Is(err, r.err) {
			return r.name
		}
	}
	if err != nil {
		return "form"
	}
	return ""
}

// TestPageRefusesTheSame opens the same documents with Open and with the page:
// both open them, or both refuse them for the same reason.
func TestPageRefusesTheSame(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := cose.NewSigner(ec)
	if err != nil {
		t.Fatal(err)
	}
	type opening struct {
		name string
		data []byte
		keys []byte
		at   int64
	}
	good, list := sign(t, example(t), fixed(t, "label")), keyList(t)
	all := []opening{
		{"es256", sign(t, example(t), p256), keyList(t, func(k *reference.ListedKey) { k.Key = p256.Public() }), now},
		{"cut", good[:len(good)-1], list, now},
		{"trailing", append(bytes.Clone(good), 0), list, now},
		{"empty", []byte{}, list, now},
		{"by the root", sign(t, example(t), fixed(t, "manufacturer root")), list, now},
		{"revoked", good, keyList(t, func(k *reference.ListedKey) { k.RevokedFrom = now }), now},
		{"old key", good, keyList(t, func(k *reference.ListedKey) { k.NotAfter = now - 1 }), now},
		{"early key", good, keyList(t, func(k *reference.ListedKey) { k.NotBefore = now + 1; k.NotAfter = now + 2 }), now},
		{"key for others", good, keyList(t, func(k *reference.ListedKey) { k.Models = []string{"pump-1"} }), now},
		{"early label", sign(t, example(t, func(l *label.Label) { l.From = label.DayOf(now) + 1 }), fixed(t, "label")), list, now},
	}
	last := (example(t).Until + 1).Start() - 1
	long := keyList(t, func(k *reference.ListedKey) { k.NotAfter = last + 10 })
	all = append(all, opening{"last second", good, long, last}, opening{"a second later", good, long, last + 1})
	for _, model := range []string{"wired", "wireless"} {
		toml, err := os.ReadFile("../configs/label-scanner-" + model + ".toml")
		if err != nil {
			t.Fatal(err)
		}
		l, problems := label.Author(toml)
		if l == nil {
			t.Fatal(problems)
		}
		all = append(all, opening{"scanner " + model, sign(t, l, fixed(t, "label")), list, now})
	}
	files, err := filepath.Glob(filepath.Join(vectors, "*.cbor"))
	if err != nil || len(files) < 9 {
		t.Fatalf("%d vectors: %v", len(files), err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, opening{filepath.Base(f), data, list, now})
	}
	for name, change := range map[string]func(*label.Label){
		"version": func(l *label.Label) { l.Version = 2 }, "sequence": func(l *label.Label) { l.Sequence = 0 }, "huge sequence": func(l *label.Label) { l.Sequence = 1<<63 - 1 },
		"long text": func(l *label.Label) { l.Vendor = strings.Repeat("ä", 81) }, "control": func(l *label.Label) { l.Model = "a\u0007" }, "space": func(l *label.Label) { l.Model = " a" },
		"empty validity": func(l *label.Label) { l.Until = l.From - 1 }, "when": func(l *label.Label) { l.Sensors[0].When = 4 }, "reach": func(l *label.Label) { l.Connections[0].Reach = 0 },
		"no cloud": func(l *label.Label) { l.Cloud = []label.Place{} }, "no storage": func(l *label.Label) { l.Storage = []label.Place{} }, "no deletion": func(l *label.Label) { l.Deletion = []label.Deletion{} },
		"country": func(l *label.Label) { l.Cloud[0].Country = "it" }, "phone": func(l *label.Label) { l.Responsible.Phone = "112" }, "mail": func(l *label.Label) { l.Responsible.Email = "a" },
		"cycle": func(l *label.Label) { l.Attributes[0].Cycle = 0 }, "ease": func(l *label.Label) { l.Deletion[0].Ease = 6 }, "control kind": func(l *label.Label) { l.Control[0] = 4 },
		"no range": func(l *label.Label) { l.Runtime[0].Integration = nil }, "open range": func(l *label.Label) { l.Runtime[0].Integration = &label.Range{} },
		"nesting": func(l *label.Label) { l.Runtime[1].Operating.Max = l.Runtime[1].Operating.Min }, "updates": func(l *label.Label) { l.Updates.Every = 0 },
		"support": func(l *label.Label) { l.Updates.SupportUntil = 0 }, "weight": func(l *label.Label) { l.Inspection.Parameters[0].Limit = 1 }, "twice": func(l *label.Label) { l.Inspection.Parameters[1] = l.Inspection.Parameters[2] },
		"component": func(l *label.Label) { l.Inspection.DailyUse = 0 }, "sbom": func(l *label.Label) { l.SBOM.SHA256 = l.SBOM.SHA256[:31] }, "mud": func(l *label.Label) { l.MUD = "http://a.example" },
		"ce": func(l *label.Label) { l.CE = "yes" }, "no ce": func(l *label.Label) { l.CE = "" }, "not made": func(l *label.Label) { l.Made = 0 }, "33 rows": func(l *label.Label) { l.Gateways = make([]string, 33) },
	} {
		all = append(all, opening{name, encode(t, example(t, change), cose.Label, fixed(t, "label")), list, now})
	}
	for i := 0; i < len(good); i += 17 {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		all = append(all, opening{fmt.Sprintf("bit of byte %d", i), bad, list, now})
	}

	v := openPage(t, codeOf(t, good))
	root, err := fixed(t, "manufacturer root").Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	type shown struct {
		Title, Device, Vendor, Date, Inspect, Note, Validity, Example string
		Sections                                                      []struct {
			Title, Note string
			Rows        [][]string
		}
	}
	opened := 0
	for _, o := range all {
		tr, err := reference.NewTrust(reference.Root{Key: fixed(t, "manufacturer root").Public(), Owner: reference.Manufacturer})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tr.AddKeys(o.keys); err != nil {
			t.Fatal(err)
		}
		verified, refusal := label.Open(o.data, tr, reference.At(o.at))
		arguments, err := json.Marshal([]any{string(root), o.keys, o.data, o.at})
		if err != nil {
			t.Fatal(err)
		}
		got := v.eval(`(async ([root, keys, data, at]) => {
			const bytes = (s) => Uint8Array.from(atob(s), (c) => c.charCodeAt(0)), t = new Trust();
			await t.addRoot(root);
			await t.addKeys(bytes(keys));
			try { const o = await open(bytes(data), t, at); return JSON.stringify(["en", "de"].map((l) => sheet(o.label, l))); } catch (e) { if (!e.reason) throw e; return e.reason; }
		})(` + string(arguments) + `)`)
		if refusal != nil {
			// A bit in a header may be refused as one thing or the other.
			if want := reasonOf(t, refusal); got != want && (got == "" || got[0] == '[' || !strings.HasPrefix(o.name, "bit of")) {
				t.Errorf("%s: the page says %.200q, Open %q: %v", o.name, got, want, refusal)
			}
			continue
		}
		opened++
		var sheets []shown
		if err := json.Unmarshal([]byte(got), &sheets); err != nil || len(sheets) != 2 {
			t.Errorf("%s: the page refuses what Open opens: %.200q", o.name, got)
			continue
		}
		for i, lang := range []label.Lang{label.English, label.German} {
			s := verified.Label().Sheet(lang)
			want := shown{Title: s.Title, Device: s.Device, Vendor: s.Vendor, Date: s.Date, Inspect: s.Inspect, Note: s.DateNote, Validity: s.Validity, Example: s.Example}
			for _, x := range s.Sections {
				want.Sections = append(want.Sections, struct {
					Title, Note string
					Rows        [][]string
				}{x.Title, x.Note, x.Rows})
			}
			if d := cmp.Diff(want, sheets[i]); d != "" {
				t.Errorf("%s, %s: the page shows something else (-Sheet +page):\n%s", o.name, lang, d)
			}
		}
	}
	if opened < 6 {
		t.Errorf("only %d documents were opened", opened)
	}
}
