package maturity

import (
	"bytes"
	"fmt"
	"html/template"
)

// A page is what the report's template sees.
type page struct {
	*Evaluation
	Lang    Lang
	Picture template.HTML
	Rows    []pageRow
	Groups  []pageGroup
	Clashes []Result
}

// A pageRow is a line of the table of levels.
type pageRow struct {
	Dimension, Name, Kind string
	Score
}

// Cell is "2 of 3", with what does not apply.
func (r pageRow) Cell(level int, l Lang) string {
	text := fmt.Sprintf(Text{"%d of %d", "%d von %d"}.In(l), r.Met[level-1], r.Total[level-1])
	if n := r.Inapplicable[level-1]; n > 0 {
		text += fmt.Sprintf(Text{", %d n/a", ", %d entf."}.In(l), n)
	}
	return text
}

type pageGroup struct {
	Column
	Results []Result
}

// rows returns the lines of the table of levels.
func (e *Evaluation) rows(l Lang) []pageRow {
	var rows []pageRow
	for _, d := range []Dimension{Structure, Process, Outcome} {
		for _, c := range columns {
			if c.Dimension == d {
				rows = append(rows, pageRow{d.Name(l), c.Name.In(l), "column", e.Columns[c.ID]})
			}
		}
		rows = append(rows, pageRow{d.Name(l), Text{"whole dimension", "ganze Dimension"}.In(l), "sum", e.Dimensions[d]})
	}
	return append(rows, pageRow{Text{"All", "Alle"}.In(l), Text{"overall", "insgesamt"}.In(l), "sum", e.Overall})
}

func effort(n int, l Lang) string { return fmt.Sprintf("%d: %s", n, Efforts()[n-1].In(l)) }

var (
	ruleInWords = Text{
		"By the rule of the paper, a level with all its criteria met attains the next higher one. The stricter reading is the highest level that is complete together with all below it.",
		"Nach der Regel der Arbeit führt eine Stufe, deren Kriterien alle erfüllt sind, zur nächsthöheren. Die strengere Lesart ist die höchste Stufe, die mit allen darunter vollständig ist.",
	}
	sourceInWords = Text{
		"Criteria and rule: Gleißner et al., “Improving IT Security of Medical IoT Devices”, section IV and Tables II to IV, in the words of this tool.",
		"Kriterien und Regel: Gleißner u. a., „Improving IT Security of Medical IoT Devices“, Abschnitt IV und Tabellen II bis IV, in den Worten dieses Programms.",
	}
)

// HTML returns the report as one page that loads nothing.
func (e *Evaluation) HTML(l Lang) ([]byte, error) {
	p := page{Evaluation: e, Lang: l, Picture: template.HTML(e.SVG(l))} // SVG escapes what it is given
	p.Rows = e.rows(l)
	for _, c := range columns {
		g := pageGroup{Column: c}
		for _, r := range e.Results {
			if r.Criterion.Column == c.ID {
				g.Results = append(g.Results, r)
			}
			if r.Criterion.Column == c.ID && r.Dispute {
				p.Clashes = append(p.Clashes, r)
			}
		}
		p.Groups = append(p.Groups, g)
	}
	t, err := template.New("report").Funcs(template.FuncMap{
		"t":      func(en, de string) string { return Text{en, de}.In(l) },
		"level":  func(n int) string { return LevelName(n, l) },
		"levels": func() []int { return []int{1, 2, 3, 4, 5} },
		"effort": func(n int) string { return effort(n, l) },
		"rule":   func() string { return ruleInWords.In(l) },
		"source": func() string { return sourceInWords.In(l) },
	}).Parse(reportTemplate)
	if err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, p); err != nil {
		return nil, fmt.Errorf("internal error: %w", err)
	}
	return b.Bytes(), nil
}

const reportTemplate = `<!DOCTYPE html>
<html lang="{{.Lang}}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{t "Maturity" "Reifegrad"}}: {{.Assessment.Subject}}</title>
<style>
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.25rem; margin-top: 2rem; } h3 { font-size: 1.05rem; }
.award { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
.award li { border: 2px solid #0b4f8a; border-radius: 6px; padding: .6rem 1rem; }
.award strong { display: block; font-size: 1.3rem; }
.scroll { overflow-x: auto; } .scroll:focus { outline: 3px solid #0b4f8a; }
table { border-collapse: collapse; width: 100%; } caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { border: 1px solid #767676; padding: .3rem .5rem; text-align: left; vertical-align: top; }
thead th { background: #e8eef4; } tr.sum { background: #f3f3f3; font-weight: 600; }
.full { background: #e3f1e3; } .bad { color: #8a0f0f; font-weight: 600; } .good { color: #0f5c1f; }
code { font-size: .85em; overflow-wrap: anywhere; } small { display: block; color: #444; }
td.n { white-space: nowrap; }
svg { width: 100%; min-width: 34rem; max-width: 46rem; height: auto; display: block; }
@media print { body { max-width: none; padding: 0; font-size: 11px; } .scroll { overflow: visible; } tr { break-inside: avoid; } }
</style>
</head>
<body>
<main>
<h1>{{t "Maturity of secure medical IoT integration" "Reifegrad der sicheren Integration medizinischer IoT-Geräte"}}</h1>
<p>{{.Assessment.Subject}}, {{.Assessment.Date.Format "2006-01-02"}}<br>
{{with .Data}}{{t "Data" "Daten"}}: {{.In $.Lang}}{{else}}{{t "Without data: every answer is a person's word." "Ohne Daten: jede Antwort ist das Wort eines Menschen."}}{{end}}</p>
<ul class="award">
<li>{{t "Level by the rule of the paper" "Stufe nach der Regel der Arbeit"}}<strong>{{level .Overall.Literal}}</strong></li>
<li>{{t "Stricter reading" "Strengere Lesart"}}<strong>{{level .Overall.Strict}}</strong></li>
</ul>
<p>{{rule}}</p>
<h2>{{t "Picture" "Bild"}}</h2>
<div class="scroll" role="region" tabindex="0" aria-label="{{t "Picture" "Bild"}}">{{.Picture}}</div>
<h2>{{t "Levels" "Stufen"}}</h2>
<div class="scroll" role="region" tabindex="0" aria-label="{{t "Levels by column" "Stufen je Spalte"}}">
<table aria-label="{{t "Levels by column" "Stufen je Spalte"}}">
<caption>{{t "Criteria met, by level; ✓ marks a complete level" "Erfüllte Kriterien je Stufe; ✓ bezeichnet eine vollständige Stufe"}}</caption>
<thead><tr><th scope="col">{{t "Dimension" "Dimension"}}</th><th scope="col">{{t "Column" "Spalte"}}</th>{{range levels}}<th scope="col">{{t "Level" "Stufe"}} {{.}}</th>{{end}}<th scope="col">{{t "Attained" "Erreicht"}}</th><th scope="col">{{t "Stricter" "Strenger"}}</th></tr></thead>
<tbody>
{{range $row := .Rows}}<tr class="{{.Kind}}"><td>{{.Dimension}}</td><th scope="row">{{.Name}}</th>{{range levels}}<td class="n{{if $row.Complete .}} full{{end}}">{{$row.Cell . $.Lang}}{{if $row.Complete .}} ✓{{end}}</td>{{end}}<td>{{.Literal}}</td><td>{{.Strict}}</td></tr>
{{end}}</tbody>
</table>
</div>
<h2>{{t "Missing for the next level, cheapest first" "Was zur nächsten Stufe fehlt, Günstigstes zuerst"}}</h2>
{{with .Next}}<div class="scroll" role="region" tabindex="0" aria-label="{{t "Missing criteria" "Fehlende Kriterien"}}">
<table aria-label="{{t "Missing criteria" "Fehlende Kriterien"}}">
<caption>{{t "Efforts are a judgement of this tool, not of the paper" "Der Aufwand ist eine Einschätzung dieses Programms, nicht der Arbeit"}}</caption>
<thead><tr><th scope="col">{{t "Criterion" "Kriterium"}}</th><th scope="col">{{t "Level" "Stufe"}}</th><th scope="col">{{t "Standing" "Stand"}}</th><th scope="col">{{t "Effort" "Aufwand"}}</th><th scope="col">{{t "Because" "Weil"}}</th></tr></thead>
<tbody>
{{range .}}<tr><th scope="row">{{.Criterion.Text.In $.Lang}}<small><code>{{.Criterion.ID}}</code></small></th><td>{{.Criterion.Level}}</td><td>{{.Standing.Sign}} {{.Standing.Name $.Lang}}</td><td>{{effort .Criterion.Effort}}</td><td>{{.Criterion.Reason.In $.Lang}}</td></tr>
{{end}}</tbody>
</table>
</div>{{else}}<p>{{t "Nothing: every level is complete." "Nichts: alle Stufen sind vollständig."}}</p>{{end}}
<h2>{{t "Where data and people disagree" "Wo Daten und Menschen sich widersprechen"}}</h2>
{{with .Clashes}}<div class="scroll" role="region" tabindex="0" aria-label="{{t "Contradictions" "Widersprüche"}}">
<table aria-label="{{t "Contradictions" "Widersprüche"}}">
<thead><tr><th scope="col">{{t "Criterion" "Kriterium"}}</th><th scope="col">{{t "Standing" "Stand"}}</th><th scope="col">{{t "Data" "Daten"}}</th><th scope="col">{{t "Answer" "Antwort"}}</th></tr></thead>
<tbody>
{{range .}}<tr><th scope="row">{{.Criterion.Text.In $.Lang}}<small><code>{{.Criterion.ID}}</code></small></th><td class="{{if .Standing.Blocks}}bad{{else}}good{{end}}">{{.Standing.Sign}} {{.Standing.Name $.Lang}}{{with .Note $.Lang}}<small>{{.}}</small>{{end}}</td><td>{{range .Readings}}<code>{{.In $.Lang}}</code><br>{{end}}</td><td>{{.Answer.In $.Lang}}</td></tr>
{{end}}</tbody>
</table>
</div>{{else}}<p>{{t "Nowhere." "Nirgends."}}</p>{{end}}
<h2>{{t "All criteria" "Alle Kriterien"}}</h2>
{{range .Groups}}<h3>{{.Dimension.Name $.Lang}}: {{.Name.In $.Lang}} ({{t "Table" "Tabelle"}} {{.Table}})</h3>
<div class="scroll" role="region" tabindex="0" aria-label="{{.Name.In $.Lang}}">
<table aria-label="{{.Name.In $.Lang}}">
<thead><tr><th scope="col">{{t "Level" "Stufe"}}</th><th scope="col">{{t "Criterion" "Kriterium"}}</th><th scope="col">{{t "Standing" "Stand"}}</th><th scope="col">{{t "Answer and data" "Antwort und Daten"}}</th></tr></thead>
<tbody>
{{range .Results}}<tr><td>{{.Criterion.Level}}</td><th scope="row">{{.Criterion.Text.In $.Lang}}<small><code>{{.Criterion.ID}}</code></small></th><td class="{{if .Standing.Blocks}}bad{{else}}good{{end}}">{{.Standing.Sign}} {{.Standing.Name $.Lang}}{{with .Note $.Lang}}<small>{{.}}</small>{{end}}</td><td>{{.Answer.In $.Lang}}{{range .Readings}}<small><code>{{.In $.Lang}}</code></small>{{end}}</td></tr>
{{end}}</tbody>
</table>
</div>
{{end}}
<p>{{source}}</p>
</main>
</body>
</html>
`
