package chaos

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/test/lab"
)

// withEpochs has the verifier begin an epoch every ten seconds.
func withEpochs(l *lab.Lab) error {
	path := l.Path("verifier/factsverifier.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, "[freshness]\nepoch = 10\n"...), 0o600)
}

func isOld(f struct{ Code, Tier, Text string }) bool { return f.Code == "epoch" }

// TestKeyIsRenewed orders the renewal of a key in a real device, over MQTT, while
// `factsd run` is killed with -9 at random moments. Each ends with the verifier and
// the device under the same new key, and with one chain of reports.
func TestKeyIsRenewed(t *testing.T) {
	for _, kind := range []string{"TPM", "file"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			t.Logf("seed %d", *seed)
			rng := rand.New(rand.NewPCG(*seed, 2))
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
			defer cancel()
			l, err := lab.New(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Clean()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			self, err := os.Executable()
			must(err)
			steps := []func() error{
				l.Build, func() error { return l.StartWorkload(self) }, l.MakeKeys, l.InitVerifier, l.ConfigureVerifier, func() error { return withEpochs(l) }, l.SignKeyLists,
				func() error { return l.Draft(2 * time.Second) }, l.FinishManifest, l.StartVerifier,
			}
			if kind == "TPM" {
				steps = append([]func() error{l.StartTPM}, steps...)
			}
			for _, step := range steps {
				must(step())
			}
			id, err := l.Provision()
			must(err)
			_, err = l.StartEnforce()
			must(err)
			run, err := l.StartRun()
			must(err)
			must(l.Enrol(id))
			if !l.Until("a report", 30*time.Second, func() bool { return l.Device(id).Sequence > 0 }) {
				t.Fatal("nothing came")
			}
			keys := map[string]bool{l.Device(id).Key: true}
			for n := uint64(1); n <= 2; n++ {
				_, err := l.Ctl("factsverifier", "renew", id, "--by", "ward 3", "--admin", l.Admin)
				must(err)
				killed := 0
				nextKill := time.Now().Add(time.Duration(rng.IntN(1000)) * time.Millisecond)
				done := l.Until("the renewal", 60*time.Second, func() bool {
					select {
					case <-run.Done: // it ends by itself to start with another key
						run, err = l.StartRun()
						must(err)
					default:
						if killed < 3 && time.Now().After(nextKill) {
							run.Stop(syscall.SIGKILL)
							run, err = l.StartRun()
							must(err)
							killed++
							nextKill = time.Now().Add(time.Duration(rng.IntN(1500)) * time.Millisecond)
						}
					}
					d := l.Device(id)
					return killed == 3 && d.Renewal != nil && d.Renewal.Count == n && d.Renewal.From > 0
				})
				if !done {
					t.Fatalf("renewal %d did not end: %+v", n, l.Device(id))
				}
				if key := l.Device(id).Key; keys[key] {
					t.Errorf("renewal %d ended with the key %s again", n, key)
				} else {
					keys[key] = true
				}
			}
			before := l.Device(id).Sequence
			if !l.Until("reports under the new key", 30*time.Second, func() bool { return l.Device(id).Sequence > before+1 }) {
				t.Fatal("it does not go on")
			}
			// The device has heard of the epochs, and its newest quote is of one.
			if !l.Until("a fresh quote", 60*time.Second, func() bool { return !slices.ContainsFunc(l.Device(id).Findings, isOld) }) {
				t.Errorf("findings %+v", l.Device(id).Findings)
			}
			run.Stop(syscall.SIGTERM)
			for _, r := range l.Refused() {
				if r.Reason != "replay" { // the newest report is sent again after a kill
					t.Errorf("refused: %s: %s", r.Reason, r.Text)
				}
			}
		})
	}
}
