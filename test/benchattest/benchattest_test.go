// Package benchattest measures what an attestation costs: the TPM, the network and
// the verifier, each beside its floor in the same run and the goals of the project.
// It measures on a software TPM and on this machine, and nothing passes or fails by
// it.
package benchattest

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/facts/linux"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/store"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

// routineFacts is how many facts the goal for sizes speaks of.
const routineFacts = 60

// BenchmarkAttest prints the table; make bench-attest runs it once.
func BenchmarkAttest(b *testing.B) {
	fmt.Printf("%-52s %10s %10s  %s\n", "", "measured", "floor", "goal")
	line := func(what string, value, floor any, goal string) {
		fmt.Printf("%-52s %10v %10v  %s\n", what, value, floor, goal)
	}
	e := tpmtest.New(b)
	quoteTimes(b, e, line)
	commands(b, e, line)
	m := referencetest.Example()
	m.Boot = &reference.Boot{PCRs: []int{0, 1, 2, 3, 4, 5, 6, 7}}
	f := verifiertest.Of(b, m)
	d := f.NewTPMDevice(e.Addr).Enrolled()
	sizes(b, d, line)
	verification(b, f, d, line)
}

type printer func(what string, value, floor any, goal string)

// A race is how long each of several functions took, round by round.
type race [][]time.Duration

// alternate runs functions in turn: what else the machine does falls on all of them
// alike.
func alternate(rounds int, run ...func()) race {
	times := make(race, len(run))
	for range rounds {
		for i, f := range run {
			begin := time.Now()
			f()
			times[i] = append(times[i], time.Since(begin))
		}
	}
	return times
}

// median returns the median time of a function.
func (r race) median(i int) time.Duration {
	return slices.Sorted(slices.Values(r[i]))[len(r[i])/2]
}

// ratio returns the median over the rounds of how many times longer a function took
// than another one in the same round: the machine is not the same in all of them.
func (r race) ratio(i, floor int) string {
	var ratios []float64
	for n := range r[i] {
		ratios = append(ratios, float64(r[i][n])/float64(r[floor][n]))
	}
	slices.Sort(ratios)
	return fmt.Sprintf("%.2f x", ratios[len(ratios)/2])
}

func us(d time.Duration) string { return fmt.Sprintf("%d us", d.Microseconds()) }

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

var bootPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7}

// quoteTimes compares Quote with the bytes of its own command sent to the TPM.
func quoteTimes(b *testing.B, e *tpmtest.Emulator, line printer) {
	addr, seen := record(b, e)
	d, err := tpm.Open(addr)
	must(b, err)
	id, err := d.Provision()
	must(b, err)
	extra := sha256.Sum256([]byte("report"))
	_, err = d.Quote(extra[:], bootPCRs)
	must(b, err)
	var bare []byte
	for _, c := range seen() {
		if binary.BigEndian.Uint32(c[6:]) == 0x158 { // TPM_CC_Quote
			bare = c
		}
	}
	direct, err := tpm.Open(e.Addr)
	must(b, err)
	defer direct.Close()
	_, err = direct.Quote(extra[:], bootPCRs)
	must(b, err)
	send := func() {
		response, err := e.Send(bare)
		must(b, err)
		if binary.BigEndian.Uint32(response[6:]) != 0 {
			b.Fatalf("the bare command is refused: %x", response)
		}
	}
	var q *tpm.Quote
	t := alternate(1001, send, func() {
		q, err = direct.Quote(extra[:], bootPCRs)
		must(b, err)
	})
	_, err = tpm.VerifyQuote(*q, id.AKPublic, extra[:], bootPCRs)
	must(b, err)
	line("quote, bare TPM2_Quote beside it", us(t.median(1)), us(t.median(0)), "")
	line("  against the TPM's own time", t.ratio(1, 0), "1.00 x", "at most 1.10 x")
	must(b, d.Close())
	// What it costs to have attestation key and device key anew at each start, and
	// to find them persistent, which takes two of few places in NV, and the owner's
	// password to put them there.
	var templates []tpm2.TPM2BPublic
	var kept []tpm2.TPMHandle
	for i, area := range [][]byte{id.AKPublic, id.DevicePublic} {
		template, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
		must(b, err)
		templates = append(templates, tpm2.New2B(*template))
		key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: templates[i]}.Execute(e)
		must(b, err)
		kept = append(kept, tpm2.TPMHandle(0x81018f00)+tpm2.TPMHandle(i))
		_, err = tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: &tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name}, PersistentHandle: kept[i]}.Execute(e)
		must(b, err)
		_, err = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(e)
		must(b, err)
	}
	t = alternate(51, func() {
		for _, template := range templates {
			key, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: template}.Execute(e)
			must(b, err)
			_, err = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(e)
			must(b, err)
		}
	}, func() {
		for _, h := range kept {
			_, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(e)
			must(b, err)
		}
	})
	line("two keys made from the seed; found persistent", us(t.median(0)), us(t.median(1)), "")
}

// commands counts what an attestation asks of the TPM.
func commands(b *testing.B, e *tpmtest.Emulator, line printer) {
	addr, seen := record(b, e)
	d, err := tpm.Open(addr)
	must(b, err)
	defer d.Close()
	_, err = d.Provision()
	must(b, err)
	count := func(pcrs []int) int {
		before := len(seen())
		_, err := d.Quote([]byte("x"), pcrs)
		must(b, err)
		return len(seen()) - before
	}
	all := make([]int, 24)
	for i := range all {
		all[i] = i
	}
	line("TPM commands, first attestation of a boot, PCRs 0-7", count(bootPCRs), 1, "at most 4 (peers 17)")
	line("TPM commands, first attestation of a boot, PCRs 0-23", count(all), 1, "at most 4 (peers 17)")
	line("TPM commands, each further one", count(all), 1, "1")
}

// record stands between a TPM and its user and keeps the commands.
func record(b *testing.B, e *tpmtest.Emulator) (addr string, seen func() [][]byte) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	b.Cleanup(func() { listener.Close() })
	var mu sync.Mutex
	var commands [][]byte
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			command := make([]byte, 10)
			if _, err := io.ReadFull(conn, command); err == nil {
				command = append(command, make([]byte, binary.BigEndian.Uint32(command[2:])-10)...)
				if _, err := io.ReadFull(conn, command[10:]); err == nil {
					mu.Lock()
					commands = append(commands, command)
					mu.Unlock()
					if response, err := e.Send(command); err == nil {
						_, _ = conn.Write(response) // who hung up asks again
					}
				}
			}
			conn.Close()
		}
	}()
	return "tcp:" + listener.Addr().String(), func() [][]byte {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(commands)
	}
}

// sizes seals reports as an agent does: a whole one, then routine ones that leave
// out what is as before.
func sizes(b *testing.B, d *verifiertest.Device, line printer) {
	root, err := linux.OpenRoot("/")
	must(b, err)
	defer root.Close()
	sources, err := linux.Sources(root, linux.Options{AgentVersion: "0.1.0"})
	must(b, err)
	var uptime atomic.Int64 // each time it is asked, a second has passed: rates need two samples
	collector, err := facts.NewCollector(sources, time.Second, func() int64 { return uptime.Add(1000) })
	must(b, err)
	defer collector.Close()
	now := time.Now()
	tick := time.NewTicker(100 * time.Millisecond) // in which things move, though less than in a second
	defer tick.Stop()
	interval := func() *facts.Fold {
		fold := new(facts.Fold)
		for range 20 {
			<-tick.C
			now = now.Add(time.Second)
			fold.Add(collector.Collect(now))
		}
		return fold
	}
	cadence := map[facts.Key]facts.Cadence{}
	for _, def := range facts.Catalogue() {
		cadence[def.Key] = def.Cadence
	}
	whole := d.Report(attest.KindBoot)
	whole.SetFacts(interval(), func(facts.Key) bool { return true })
	d.Seal(whole)
	r := d.Report(attest.KindRoutine)
	r.SetFacts(interval(), func(k facts.Key) bool { return cadence[k] != facts.Boot })
	what := fmt.Sprintf("routine report of this machine: %d facts, %d absent", len(r.Body.Facts), len(r.Body.Gaps))
	full := len(verifiertest.Encode(b, d.Seal(r)))
	r.LeaveOut(whole)
	left := len(r.Body.Same.Keys())
	signed := d.Seal(r)
	size := len(verifiertest.Encode(b, signed))
	line(what, fmt.Sprintf("%d B", size), "", "at most 700 B")
	signed.Quote = d.Quote(nil, signed.Report, bootPCRs)
	values := len(verifiertest.Encode(b, signed))
	signed.Quote.PCRs = nil
	line("  with quote over PCRs 0-7, logs and values known", fmt.Sprintf("%d B", len(verifiertest.Encode(b, signed))), fmt.Sprintf("%d B", size+217), "at most 1000 B (peers 10500, 5500, 2600)")
	line("  with quote and its PCR values", fmt.Sprintf("%d B", values), "", "")
	line(fmt.Sprintf("  with the %d facts that are as before, no quote", left), fmt.Sprintf("%d B", full), "", "")

	whole = d.Report(attest.KindBoot)
	whole.SetFacts(simulated(0), func(facts.Key) bool { return true })
	d.Seal(whole)
	r = d.Report(attest.KindRoutine)
	r.SetFacts(simulated(60), func(facts.Key) bool { return true })
	all := len(r.Body.Facts)
	r.LeaveOut(whole)
	line(fmt.Sprintf("routine report of %d numbers, %d moved (simulated)", all, len(r.Body.Facts)), fmt.Sprintf("%d B", len(verifiertest.Encode(b, d.Seal(r)))), "", "")
}

// simulated returns 60 numbers over a minute, of which every second one moved by
// this much.
func simulated(by int64) *facts.Fold {
	fold := new(facts.Fold)
	for round := range int64(60) {
		s := facts.Snapshot{Uptime: 60_000 + round*1000}
		for i := range int64(routineFacts) {
			value := 1000 * i
			if i%2 == 0 {
				value += by * round / 60
			}
			s.Readings = append(s.Readings, facts.Reading{Key: facts.Key(20 + i), Value: facts.IntValue(value)})
		}
		fold.Add(s)
	}
	return fold
}

// verification compares a report with a quote with bare signatures.
func verification(b *testing.B, f *verifiertest.Fleet, d *verifiertest.Device, line printer) {
	data := d.Message(attest.KindBoot)
	known, err := f.Store.Device(d.UEID)
	must(b, err)
	key, ak := known.Key, known.Identity.AK
	soft := tpmtest.Key(b, 1)
	digest := sha256.Sum256([]byte("report"))
	signature, err := ecdsa.SignASN1(nil, soft, digest[:])
	must(b, err)
	v, err := verifier.New(verifier.Config{References: []*reference.Reference{f.Ref}, Result: f.World.Result}, &amnesic{f.Store, verifiertest.Encode(b, known)})
	must(b, err)
	t := alternate(1001, func() {
		if !ecdsa.VerifyASN1(&soft.PublicKey, digest[:], signature) {
			b.Fatal("not valid")
		}
	}, func() {
		u, err := attest.Decode(data)
		must(b, err)
		r, err := u.Verify(key)
		must(b, err)
		_, err = r.VerifyQuote(ak, bootPCRs, nil)
		must(b, err)
	}, func() {
		reply, err := v.Handle(f.Now, d.Delivery(data))
		must(b, err)
		if reply.Refused != nil {
			b.Fatalf("%+v", reply.Refused)
		}
	})
	line("verify a report with quote; one bare ECDSA P-256", us(t.median(1)), us(t.median(0)), "")
	line("  against bare verifications (it has two signatures)", t.ratio(1, 0), "2.00 x", "at most 2.50 x")
	line("  a second a core", int(time.Second/t.median(1)), int(time.Second/t.median(0)), "peers 840-1450")
	line("and appraise it anew, and sign the result", us(t.median(2)), "", "")
	line("  against bare verifications", t.ratio(2, 0), "2.00 x", "")
}

// amnesic knows devices and never a report, so that one message can be verified
// again and again without the disk.
type amnesic struct {
	*store.Store
	device []byte
}

func (a *amnesic) Device(attest.UEID) (*verifier.Device, error) {
	d := new(verifier.Device)
	return d, cose.Decode(a.device, 256<<10, d)
}

func (a *amnesic) Neighbours(attest.UEID, uint64, uint64, [32]byte) (verifier.Neighbours, error) {
	return verifier.Neighbours{}, nil
}

func (a *amnesic) Accept(*verifier.Device, *verifier.Record) error { return nil }
