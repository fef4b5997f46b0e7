package reference

import (
	"fmt"
	"math/big"
	"strings"
)

// A scaled is a unit in which people may write a number, and how many of the
// fact's own unit it is.
type scaled struct {
	unit   string
	factor int64
}

// scales returns the units in which a number of unit may be written; first the
// unit itself. Only what converts without rounding is in the table: a
// manifest's numbers are what was written, or refused.
func scales(unit string) []scaled {
	switch unit {
	case "", "1":
		return nil
	case "ms":
		return []scaled{{"ms", 1}, {"s", 1000}, {"min", 60_000}, {"h", 3_600_000}, {"d", 86_400_000}}
	case "s":
		return []scaled{{"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86_400}}
	case "h":
		return []scaled{{"h", 1}, {"d", 24}}
	case "mJ":
		return []scaled{{"mJ", 1}, {"J", 1000}, {"kJ", 1_000_000}, {"Wh", 3_600_000}, {"kWh", 3_600_000_000}}
	case "mW":
		return []scaled{{"mW", 1}, {"W", 1000}, {"kW", 1_000_000}}
	case "mV":
		return []scaled{{"mV", 1}, {"V", 1000}}
	case "m°C":
		return []scaled{{"m°C", 1}, {"°C", 1000}}
	case "KiB":
		return []scaled{{"KiB", 1}, {"MiB", 1 << 10}, {"GiB", 1 << 20}}
	case "permille":
		return []scaled{{"permille", 1}, {"‰", 1}, {"%", 10}}
	case "kHz":
		return []scaled{{"kHz", 1}, {"MHz", 1000}, {"GHz", 1_000_000}}
	case "B/s":
		return []scaled{{"B/s", 1}, {"kB/s", 1000}, {"KiB/s", 1 << 10}, {"MB/s", 1_000_000}, {"MiB/s", 1 << 20}}
	}
	return []scaled{{unit, 1}}
}

// scale returns the number that text, "1.5W" or "30 s", is in the first of units.
func scale(text string, units []scaled) (int64, error) {
	digits := text[:len(text)-len(strings.TrimLeft(text, "+-.0123456789"))]
	unit := strings.TrimSpace(text[len(digits):])
	r, ok := new(big.Rat).SetString(digits)
	if !ok || len(digits) > 24 || strings.HasPrefix(digits, ".") || strings.HasSuffix(digits, ".") {
		return 0, fmt.Errorf("%.40q is not a number with a unit", text)
	}
	for _, s := range units {
		if s.unit != unit {
			continue
		}
		r.Mul(r, new(big.Rat).SetInt64(s.factor))
		if !r.IsInt() || !r.Num().IsInt64() {
			return 0, fmt.Errorf("%q is not a whole number of %s", text, units[0].unit)
		}
		return r.Num().Int64(), nil
	}
	if len(units) == 0 {
		return 0, fmt.Errorf("%.40q is text; the number has no unit", text)
	}
	return 0, fmt.Errorf("%.40q has not a unit that fits %s", text, units[0].unit)
}
