package mqtt

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoff(t *testing.T) {
	const first, longest = 500 * time.Millisecond, 30 * time.Second
	for failures, want := range map[int]time.Duration{
		0: first, 1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: longest, 7: longest, 31: longest, 63: longest, 1 << 30: longest,
	} {
		spread := map[time.Duration]bool{}
		for range 100 {
			d := backoff(failures, first, longest)
			if d < want/2 || d > want {
				t.Errorf("after %d failures %v, want %v to %v", failures, d, want/2, want)
			}
			spread[d] = true
		}
		if len(spread) < 50 {
			t.Errorf("after %d failures only %d different waits", failures, len(spread))
		}
	}
}

// attempts connects for a time to a broker that refuses at once, and returns when.
func attempts(t *testing.T, p *pace, d time.Duration) (at []time.Duration) {
	t.Helper()
	for began := time.Now(); time.Since(began) < d; {
		at = append(at, time.Since(began))
		p.during(t.Context(), func(context.Context) {})
		wait := p.next()
		p.during(t.Context(), func(ctx context.Context) { sleep(ctx, wait) })
	}
	return at
}

func newPace(changed <-chan struct{}) *pace {
	return &pace{first: 500 * time.Millisecond, longest: 30 * time.Second, changed: changed}
}

// How often a broker that is not there is asked in an hour.
func TestAttemptsInAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if n := len(attempts(t, newPace(nil), time.Hour)); n < 120 || n > 250 {
			t.Errorf("%d attempts", n)
		}
	})
}

// A change of the network ends what waits, soon after it and once.
func TestChangeCutsAWaitShort(t *testing.T) {
	for _, tt := range []struct {
		name string
		tell time.Duration // after the beginning; negative: never
		busy time.Duration // with something else that ends by itself, at first
		from time.Duration // when the wait ends
		to   time.Duration
	}{
		{"nothing changes", -1, 0, time.Minute, time.Minute},
		{"in the middle", 10 * time.Second, 0, 10*time.Second + changeSettles, 10*time.Second + changeSettles + changeSpread},
		{"before", 0, 0, changeSettles, changeSettles + changeSpread},
		{"while something else ended by itself", 10 * time.Second, 10*time.Second + changeSettles/2, 10*time.Second + changeSettles, 10*time.Second + changeSettles + changeSpread},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				changed := make(chan struct{}, 1)
				p := newPace(changed)
				p.failures = 20
				began := time.Now()
				if tt.tell >= 0 {
					time.AfterFunc(tt.tell, func() { changed <- struct{}{} })
				}
				synctest.Wait()
				if tt.busy > 0 && p.during(t.Context(), func(ctx context.Context) { sleep(ctx, tt.busy) }) {
					t.Error("what ended by itself was cut short")
				}
				cut := p.during(t.Context(), func(ctx context.Context) { sleep(ctx, time.Until(began.Add(time.Minute))) })
				if took := time.Since(began); took < tt.from || took > tt.to || cut != (took < time.Minute) {
					t.Errorf("ended after %v, want %v to %v; cut short: %t", took, tt.from, tt.to, cut)
				}
				if cut != (p.failures == 0) {
					t.Errorf("cut short: %t, and then %d failures are counted", cut, p.failures)
				}
				began = time.Now()
				if p.during(t.Context(), func(ctx context.Context) { sleep(ctx, time.Minute) }) || time.Since(began) != time.Minute {
					t.Error("one change ended two waits")
				}
			})
		})
	}
}

// A link that never rests does not have a broker hammered.
func TestChangesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		changed := make(chan struct{}, 1)
		go func() {
			for sleep(ctx, 10*time.Millisecond) {
				select {
				case changed <- struct{}{}:
				default:
				}
			}
		}()
		at := attempts(t, newPace(changed), time.Hour)
		cancel()
		perMinute := map[time.Duration]int{}
		for _, when := range at {
			perMinute[when/time.Minute]++
		}
		for minute, n := range perMinute {
			limit := 14
			if minute == 0 {
				limit += 2 * changeBurst // each may meet an attempt of its own
			}
			if n > limit {
				t.Errorf("%d attempts in minute %d, want at most %d", n, minute, limit)
			}
		}
		if n := perMinute[0]; n < changeBurst {
			t.Errorf("%d attempts in the first minute, want at least %d", n, changeBurst)
		}
		t.Logf("%d attempts in an hour, %d in the first minute", len(at), perMinute[0])
	})
}
