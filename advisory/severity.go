package advisory

import (
	"math"
	"strconv"
	"strings"
)

// Severity is how bad a vulnerability is, by the scale of CVSS.
type Severity uint8

// The severities. What CVSS calls none is Low here: it stays in the count.
const (
	Unknown  Severity = 0 // nobody said; not appraised
	Low      Severity = 1 // 0.0 to 3.9
	Medium   Severity = 2 // 4.0 to 6.9
	High     Severity = 3 // 7.0 to 8.9
	Critical Severity = 4 // 9.0 to 10.0
)

func (s Severity) String() string {
	return [...]string{"not appraised", "low", "medium", "high", "critical"}[min(s, Critical)]
}

// A rating is a severity and what says so.
type rating struct {
	severity Severity
	basis    string
}

// worse returns the worse of two ratings; one that is known counts before none.
func (r rating) worse(o rating) rating {
	if o.severity > r.severity {
		return o
	}
	return r
}

// scored rates by a score of CVSS 3 or 4.
func scored(score float64, basis string) rating {
	r := rating{basis: basis + " " + strconv.FormatFloat(score, 'f', 1, 64)}
	switch {
	case math.IsNaN(score) || score < 0 || score > 10:
		return rating{}
	case score >= 9:
		r.severity = Critical
	case score >= 7:
		r.severity = High
	case score >= 4:
		r.severity = Medium
	default:
		r.severity = Low
	}
	return r
}

// named rates by a word, as databases write it.
func named(word, basis string) rating {
	s := Unknown
	switch strings.ToLower(word) {
	case "critical":
		s = Critical
	case "high", "important":
		s = High
	case "medium", "moderate":
		s = Medium
	case "low", "none", "info", "negligible":
		s = Low
	default:
		return rating{}
	}
	return rating{s, basis + " " + strings.ToLower(word)}
}

// vectored rates by a vector of CVSS 3.0, 3.1 or 4.0. Nothing is computed from
// vectors of other versions.
func vectored(vector string) rating {
	score, ok := BaseScore(vector)
	if !ok {
		return rating{}
	}
	return scored(score, vector[:len("CVSS:3.1")]+" computed")
}

// BaseScore computes the base score of a vector of CVSS 3.0, 3.1 (specification,
// section 7.1) or 4.0 (section 8.2), and reports whether it is one, each base metric
// once. Metrics of threat and environment are left out: they are somebody else's.
func BaseScore(vector string) (float64, bool) {
	version, rest, _ := strings.Cut(vector, "/")
	if len(vector) > maxText {
		return 0, false
	}
	m := map[string]string{}
	for metric := range strings.SplitSeq(rest, "/") {
		name, value, ok := strings.Cut(metric, ":")
		if _, twice := m[name]; !ok || twice {
			return 0, false
		}
		m[name] = value
	}
	switch version {
	case "CVSS:3.0", "CVSS:3.1":
		return score3(m)
	case "CVSS:4.0":
		return score4(m)
	}
	return 0, false
}

func score3(m map[string]string) (float64, bool) {
	good := true
	weight := func(metric string, of map[string]float64) float64 {
		w, ok := of[m[metric]]
		good = good && ok
		return w
	}
	scopes := weight("S", map[string]float64{"U": 0, "C": 1})
	privileges := map[string]float64{"N": 0.85, "L": 0.62, "H": 0.27}
	if scopes == 1 {
		privileges["L"], privileges["H"] = 0.68, 0.5
	}
	harm := map[string]float64{"H": 0.56, "L": 0.22, "N": 0}
	exploitability := 8.22 * weight("AV", map[string]float64{"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2}) *
		weight("AC", map[string]float64{"L": 0.77, "H": 0.44}) * weight("PR", privileges) * weight("UI", map[string]float64{"N": 0.85, "R": 0.62})
	base := 1 - (1-weight("C", harm))*(1-weight("I", harm))*(1-weight("A", harm))
	if !good {
		return 0, false
	}
	impact := 6.42 * base
	if scopes == 1 {
		impact = 7.52*(base-0.029) - 3.25*math.Pow(base-0.02, 15)
	}
	if impact <= 0 {
		return 0, true
	}
	sum := impact + exploitability
	if scopes == 1 {
		sum *= 1.08
	}
	return roundUp(min(sum, 10)), true
}

// roundUp is the rounding of CVSS 3.1, appendix A: to one place, upwards, without
// the last digits of binary fractions.
func roundUp(x float64) float64 {
	n := int(math.Round(x * 100_000))
	if n%10_000 == 0 {
		return float64(n) / 100_000
	}
	return (math.Floor(float64(n)/10_000) + 1) / 10
}
