package main

import (
	"slices"
	"testing"

	"github.com/miotfacts/miotfacts/facts"
)

// What events tell of is read once; a rate is left to the round.
func TestNews(t *testing.T) {
	key := map[string]facts.Key{}
	for _, d := range facts.Catalogue() {
		key[d.Name] = d.Key
	}
	n := newNews()
	for _, name := range []string{"service.active", "cpu.pressure", "integrity.accounts", "service.active"} {
		n.add(key[name])
	}
	if got, want := n.take(), []facts.Key{key["service.active"], key["integrity.accounts"]}; !slices.Equal(got, want) {
		t.Errorf("took %v, want %v", got, want)
	}
	if got := n.take(); len(got) != 0 {
		t.Errorf("took %v again", got)
	}
}
