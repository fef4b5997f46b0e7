package review

import (
	"bytes"
	"fmt"
	"html/template"
)

// page is the report as a page: real tables, no script, nothing loaded from
// elsewhere.
const page = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Whom it talks to</title>
<style>
body { margin: 0; padding: .75rem; background: #fff; color: #000; font: 1rem/1.35 Helvetica, Arial, sans-serif; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
caption { text-align: left; font-weight: bold; padding: .3rem 0; }
th, td { border: 1px solid #767676; padding: .2rem .5rem; text-align: left; vertical-align: top; font-weight: normal; }
thead th { font-weight: bold; }
</style>
</head>
<body>
<main>
<h1>Whom it talks to</h1>
<p>Seen from {{.From}} until {{.Until}}</p>
<div class="wide" role="region" aria-label="Peers" tabindex="0">
<table>
<caption>Peers</caption>
<thead><tr>{{range .Columns}}<th scope="col">{{.}}</th>{{end}}</tr></thead>
<tbody>
{{range .Cells}}<tr>{{range $i, $x := .}}{{if $i}}<td>{{$x}}</td>{{else}}<th scope="row">{{$x}}</th>{{end}}{{end}}</tr>
{{end}}</tbody>
</table>
</div>
<p>Companies that are not the manufacturer: {{len .Others}}{{range $i, $x := .Others}}{{if $i}}, {{else}}: {{end}}{{$x}}{{end}}</p>
{{if not .Labelled}}<p>Not compared with a label.</p>
{{end}}{{with .Findings}}<div class="wide" role="region" aria-label="Findings" tabindex="0">
<table>
<caption>Findings</caption>
<thead><tr><th scope="col">Code</th><th scope="col">Peer</th><th scope="col">What</th></tr></thead>
<tbody>
{{range .}}<tr><th scope="row">{{.Code}}</th><td>{{.Peer}}</td><td>{{.Text}}</td></tr>
{{end}}</tbody>
</table>
</div>
{{end}}<p>{{.Lost}}</p>
</main>
</body>
</html>
`

// HTML returns the report as a page.
func (r *Report) HTML() ([]byte, error) {
	t, err := template.New("talk").Parse(page)
	if err != nil {
		return nil, fmt.Errorf("internal error: cannot parse page: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, r); err != nil {
		return nil, fmt.Errorf("cannot write page: %w", err)
	}
	return b.Bytes(), nil
}
