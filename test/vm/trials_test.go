package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
)

// A trial is a set of checks for which one variant is enough. Each begins with the
// same operating device: the moment is kept and gone back to.
type trial struct {
	name string
	all  bool // only with make test-vm-all
	run  func(context.Context, *bench, *kit, *device)
}

func trials() []trial {
	return []trial{
		{"units", false, unitChecks},
		{"network", false, network},
		{"application", true, application},
		{"cuts", false, cuts},
		{"changed", true, changed},
		{"watchdog", true, watchdogs},
		{"memory", true, memory},
		{"packages", true, packages},
		{"slots", true, slots},
		{"clock", true, clock},
		{"dropins", true, dropins},
		{"stick", true, stick},
		{"day", true, day},
		{"cost", true, cost},
	}
}

// full runs the trials that TRIALS, a regular expression, names. CUTS is another
// number of power cuts.
func (b *bench) full(ctx context.Context, k *kit, d *device, how string) error {
	which, err := regexp.Compile("^(" + os.Getenv("TRIALS") + ")")
	if err != nil {
		return err
	}
	b.cuts = 1
	if how == "all" {
		b.cuts = 20
	}
	if n := os.Getenv("CUTS"); n != "" {
		if b.cuts, err = strconv.Atoi(n); err != nil {
			return fmt.Errorf("CUTS: %w", err)
		}
	}
	var begin *moment
	for _, t := range trials() {
		if how == "quick" && t.name != "units" || how == "most" && t.all || !which.MatchString(t.name) {
			continue
		}
		if how != "quick" {
			if begin == nil {
				begin, err = d.keep(ctx, "begin")
			} else {
				err = d.back(ctx, begin)
			}
			if err != nil {
				return err
			}
		}
		failed := len(b.results)
		t.run(ctx, b, k, d)
		for _, r := range b.results[failed:] {
			if r.err != nil {
				b.t.Logf("%s: after its failure: %v", t.name, d.why(ctx, errors.New(r.check)))
			}
		}
	}
	return nil
}
