package advisory

import "strings"

// macroVectors has the scores of the sets of vectors that CVSS 4.0 calls macro
// vectors (FIRST, CVSS v4.0 specification, section 8.2, table of lookups), in tenths:
// by equivalence class EQ1, by EQ2, by EQ3 and EQ6 together (00, 01, 10, 11, 21), by
// EQ4 from 1 on. It has those that base metrics alone can reach, and their next
// lower ones: exploit maturity is Attacked (EQ5 is 0), and no impact is on Safety
// (EQ4 is not 0).
var macroVectors = [3][2][5][2]int{
	{
		{{100, 93}, {96, 90}, {93, 88}, {92, 80}, {79, 69}},
		{{95, 92}, {91, 81}, {92, 84}, {82, 70}, {71, 63}},
	},
	{
		{{94, 87}, {89, 75}, {86, 72}, {76, 57}, {65, 53}},
		{{90, 77}, {77, 66}, {74, 61}, {59, 52}, {58, 23}},
	},
	{
		{{86, 70}, {74, 54}, {72, 53}, {57, 36}, {47, 24}},
		{{73, 54}, {55, 43}, {61, 46}, {51, 18}, {24, 10}},
	},
}

// score4 computes the base score of CVSS 4.0: that of the macro vector, less the mean
// of how far the vector lies on the way to each of the next lower ones.
func score4(m map[string]string) (float64, bool) {
	good := true
	steps := func(metric, values string) int { // below the worst value, which comes first
		n := strings.Index(values, m[metric])
		good = good && len(m[metric]) == 1 && n >= 0
		return n
	}
	vector, privileges, interaction := steps("AV", "NALP"), steps("PR", "NLH"), steps("UI", "NPA")
	attack := steps("AC", "LH") + steps("AT", "NP")
	c, i, a := steps("VC", "HLN"), steps("VI", "HLN"), steps("VA", "HLN")
	sc, si, sa := steps("SC", "HLN"), steps("SI", "HLN"), steps("SA", "HLN")
	if !good {
		return 0, false
	}
	if c+i+a+sc+si+sa == 12 { // no impact on anything
		return 0, true
	}
	eq1, eq2, eq3, eq4 := 1, min(attack, 1), 1, 0
	switch {
	case vector+privileges+interaction == 0:
		eq1 = 0
	case vector == 3 || vector > 0 && privileges > 0 && interaction > 0:
		eq1 = 2
	}
	switch {
	case c == 0 && i == 0:
		eq3 = 0
	case c > 0 && i > 0 && a > 0:
		eq3 = 2 // EQ6 is 1: nothing that is required highly is lost
	}
	if sc > 0 && si > 0 && sa > 0 {
		eq4 = 1
	}
	of := func(eq1, eq2, impact, eq4 int) int { return macroVectors[eq1][eq2][impact][eq4] }
	impact := 2 * eq3
	score := of(eq1, eq2, impact, eq4)

	// Distances are counted from the worst vector of the macro vector, and are a part
	// of its depth (specification, table of depths). 280 is a multiple of all depths.
	// The way to a lower exploit maturity is there always, and none of it is gone.
	ways, gone := 1, 0
	way := func(lower, distance, depth int) {
		ways++
		gone += (score - lower) * distance * (280 / depth)
	}
	if eq1 < 2 {
		way(of(eq1+1, eq2, impact, eq4), vector+privileges+interaction-eq1, [2]int{1, 4}[eq1])
	}
	if eq2 < 1 {
		way(of(eq1, 1, impact, eq4), 0, 1)
	}
	switch distance := c + i + a; eq3 {
	case 0:
		way(max(of(eq1, eq2, 1, eq4), of(eq1, eq2, 2, eq4)), distance, 7)
	case 1:
		way(of(eq1, eq2, 3, eq4), distance-1, 8)
	}
	if eq4 < 1 {
		way(of(eq1, eq2, impact, 1), sc+si+sa, 5)
	}
	tenths := (2*280*ways*score - 2*gone + 280*ways) / (2 * 280 * ways) // rounded
	return float64(tenths) / 10, true
}
