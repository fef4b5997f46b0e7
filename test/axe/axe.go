// Package axe looks for what makes a page hard to use with a screen reader, a
// keyboard or weak eyes, by the rules of axe-core, in a tab of a real browser. It
// finds what a machine can find; it does not replace people who try the page.
//
// axe.min.js is axe-core 4.14.1 as its authors publish it on npm (MPL-2.0, see
// LICENSE.axe-core; sources: package axe-core 4.14.1). It is part of no program
// that is handed out.
package axe

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/chromedp/chromedp"
)

//go:embed axe.min.js
var script string

// Serious returns the findings of impact serious and critical on the page that
// the tab of ctx shows, one a place. It refuses a page on which few rules applied,
// which would pass because it is empty.
func Serious(ctx context.Context) ([]string, error) {
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[chromedp.Void](script+";undefined")); err != nil {
		return nil, fmt.Errorf("cannot load axe-core: %w", err)
	}
	const look = `axe.run(document, { resultTypes: ["violations"] }).then((r) => {
		if (r.passes.length < 8) return ["only " + r.passes.length + " rules applied"];
		return r.violations.filter((v) => v.impact === "serious" || v.impact === "critical").flatMap((v) => v.nodes.map((n) => v.id + ": " + n.html.slice(0, 120)));
	})`
	found, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](look, chromedp.EvalAwaitPromise))
	if err != nil {
		return nil, fmt.Errorf("cannot run axe-core: %w", err)
	}
	return found, nil
}
