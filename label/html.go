package label

import (
	"bytes"
	"fmt"
	"html/template"
)

// page is the label as a page: real tables, black on white, no script, nothing
// loaded from elsewhere, one column down to 320 px.
const page = `<!DOCTYPE html>
<html lang="{{.S.Lang}}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{{.S.Title}}: {{.S.Device}}</title>
<style>
body { margin: 0; padding: .75rem; background: #fff; color: #000; font: 1rem/1.35 Helvetica, Arial, sans-serif; }
main { max-width: 40rem; margin: auto; }
.label { border: 3px solid #000; padding: .6rem .8rem .9rem; }
.software { margin-top: 1rem; }
.software p { margin: .3rem 0; }
.software .wide { overflow-x: auto; }
.software th, .software td { overflow-wrap: break-word; }
.software td { text-align: left; }
.software thead th { font-weight: bold; }
h1 { margin: 0; font-size: clamp(1.5rem, 8.4vw, 3.1rem); line-height: 1.05; font-weight: 900; letter-spacing: -.02em; }
.device { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; margin: .35rem 0 0; padding-top: .25rem; border-top: 1px solid #000; font-size: 1.15rem; }
.example { margin: .15rem 0 0; font-weight: bold; }
table { width: 100%; border-collapse: collapse; margin: 0; }
.thick + table caption { border-top: 0; }
.thick { border-top: .7rem solid #000; margin-top: .5rem; }
caption { border-top: 3px solid #000; caption-side: top; text-align: left; font-weight: bold; padding: .3rem 0 .1rem; }
caption small { font-weight: normal; float: right; font-size: .85rem; padding-top: .15rem; }
table + table { margin-top: .25rem; }
th, td { border-top: 1px solid #767676; padding: .18rem 0 .18rem .7rem; text-align: left; vertical-align: top; font-weight: normal; overflow-wrap: anywhere; }
td { text-align: right; }
.stages th, .stages td { font-size: .85rem; padding-left: .4rem; }
.stages thead th { font-weight: bold; text-align: right; }
.stages thead th:first-child { text-align: left; }
.foot { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: flex-start; justify-content: space-between; padding-top: .5rem; }
.foot div { flex: 1 1 12rem; }
h2 { margin: 0; font-size: 1.1rem; }
.date { margin: 0; font-size: 2rem; line-height: 1.15; font-weight: 900; }
.foot p { margin: 0 0 .4rem; }
.foot svg { width: min(100%, 24rem); height: auto; }
.foot svg.link { width: 6rem; }
</style>
</head>
<body>
<main>
<div class="label">
<h1>{{.S.Title}}</h1>
<p class="device"><b>{{.S.Device}}</b> <span>{{.S.Vendor}}</span></p>
{{with .S.Example}}<p class="example">{{.}}</p>
{{end}}<div class="thick"></div>
{{range .S.Sections}}{{if .Stages}}<table class="stages">
<caption>{{.Title}}</caption>
<thead><tr>{{range .Head}}<th scope="col">{{.}}</th>{{end}}</tr></thead>
<tbody>
{{range .Rows}}<tr>{{range $i, $x := .}}{{if $i}}<td>{{$x}}</td>{{else}}<th scope="row">{{$x}}</th>{{end}}{{end}}</tr>
{{end}}</tbody>
</table>
{{else}}<table>
<caption>{{with .Note}}<small>{{.}}</small> {{end}}{{.Title}}</caption>
<tbody>
{{range .Rows}}<tr><th scope="row">{{index . 0}}</th><td>{{index . 1}}</td></tr>
{{end}}</tbody>
</table>
{{end}}{{end}}<div class="thick"></div>
<div class="foot">
<div>
<h2>{{.S.Inspect}}</h2>
<p class="date">{{.S.Date}}</p>
<p>{{.S.DateNote}}</p>
<p>{{.S.Scan}}</p>
<p>{{.S.Validity}}</p>
{{with .Link}}<svg class="link" xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 {{.Side}} {{.Side}}" role="img" aria-label="{{index $.S.Link 0}}"><path d="{{.Path}}" shape-rendering="crispEdges"/></svg>
{{range $.S.Link}}<p>{{.}}</p>
{{end}}{{end}}</div>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 -4 {{.Side}} {{.Side}}" role="img" aria-label="{{.S.Scan}}"><path d="{{.Path}}" shape-rendering="crispEdges"/></svg>
</div>
</div>
{{with .Software}}<section class="software">
<h2>{{.Title}}</h2>
{{range .Notes}}<p>{{.}}</p>
{{end}}{{if .Rows}}<div class="wide" role="region" aria-label="{{.Table}}" tabindex="0">
<table>
<caption>{{.Table}}</caption>
<thead><tr>{{range .Head}}<th scope="col">{{.}}</th>{{end}}</tr></thead>
<tbody>
{{range .Rows}}<tr>{{range $i, $x := .}}{{if $i}}<td>{{$x}}</td>{{else}}<th scope="row">{{$x}}</th>{{end}}{{end}}</tr>
{{end}}</tbody>
</table>
</div>
{{end}}</section>
{{end}}</main>
</body>
</html>
`

// HTML returns a signed label as a page. It needs not be verified, only
// well-formed, and the page does not say that it is. Below the label stands what is
// known of the software, which may be nil.
func HTML(signed []byte, lang Lang, software *Software) ([]byte, error) {
	l, _, err := Parse(signed)
	if err != nil {
		return nil, fmt.Errorf("cannot draw label: %w", err)
	}
	text, err := Text(signed)
	if err != nil {
		return nil, fmt.Errorf("cannot draw label: %w", err)
	}
	code, err := NewCode(text)
	if err != nil {
		return nil, fmt.Errorf("cannot draw label: %w", err)
	}
	t, err := template.New("label").Parse(page)
	if err != nil {
		return nil, fmt.Errorf("cannot draw label: %w", err)
	}
	var b bytes.Buffer
	type picture struct {
		Side int
		Path string
	}
	var link *picture
	if l.Details != "" {
		c, err := NewCode(l.Details)
		if err != nil {
			return nil, fmt.Errorf("cannot draw label: %w", err)
		}
		link = &picture{c.Size + 8, c.path(0, 0, 1)}
	}
	err = t.Execute(&b, struct {
		S *Sheet
		picture
		Link     *picture
		Software *softwareOnPage
	}{l.Sheet(lang), picture{code.Size + 8, code.path(0, 0, 1)}, link, software.onPage(lang)})
	if err != nil {
		return nil, fmt.Errorf("cannot draw label: %w", err)
	}
	return b.Bytes(), nil
}

type softwareOnPage struct {
	Title, Table string
	Notes, Head  []string
	Rows         [][]string
}

func (s *Software) onPage(lang Lang) *softwareOnPage {
	if s == nil {
		return nil
	}
	return &softwareOnPage{
		Title: lang.say("Software, not part of the signed label", "Software, nicht Teil des signierten Etiketts"),
		Table: lang.say("Known vulnerabilities", "Bekannte Schwachstellen"),
		Notes: s.Notes(lang), Head: lang.flawHead(), Rows: s.Rows(lang),
	}
}
