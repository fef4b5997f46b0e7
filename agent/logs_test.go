package agent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
)

// quoter stands in for a TPM where a test is about when a quote is taken.
type quoter struct {
	quotes int
	value  [32]byte // of PCR 0
	before func()
}

func (q *quoter) Quote([]byte, []int) (*tpm.Quote, error) {
	q.quotes++
	if q.before != nil {
		q.before()
	}
	return &tpm.Quote{Bank: 11, PCRs: []tpm.PCR{{Index: 0, Digest: q.value[:]}}}, nil
}

func (q *quoter) Activate(_, _ []byte) ([]byte, error) { return nil, errors.New("not by this test") }

type logBench struct {
	*bench
	tpm       *quoter
	bios, ima string
}

func newLogBench(t *testing.T) *logBench {
	t.Helper()
	b := &logBench{bench: newBench(t, nil), tpm: &quoter{}}
	dir := t.TempDir()
	b.bios, b.ima = filepath.Join(dir, "bios"), filepath.Join(dir, "ima")
	b.file(dir, "bios", []byte("firmware"))
	b.file(dir, "ima", []byte("first,"))
	b.cfg.TPM = b.tpm
	b.cfg.Logs = []LogFile{{attest.LogIMA, b.ima}, {attest.LogFirmware, b.bios}, {attest.LogUserspace, filepath.Join(dir, "none")}}
	b.cfg.Sources = append(b.cfg.Sources, &source{cadence: facts.Fast, readings: []facts.Reading{{Key: factIMACount, Value: facts.IntValue(1)}}})
	b.start()
	return b
}

func (b *logBench) imaCount(n int64) { b.cfg.Sources[2].(*source).set(factIMACount, facts.IntValue(n)) }

// newest returns the newest message.
func (b *logBench) newest() (*attest.Report, *attest.Message) {
	b.t.Helper()
	all := b.evidence()
	var m attest.Message
	if err := cose.Decode(all[len(all)-1].Payload, attest.MaxMessageSize, &m); err != nil {
		b.t.Fatal(err)
	}
	reports := b.reports()
	return reports[len(reports)-1], &m
}

// rounds runs rounds until there are n reports, and returns how many it took.
func (b *logBench) until(n int) int {
	b.t.Helper()
	for i := range 2000 {
		if len(b.evidence()) >= n {
			return i
		}
		b.round()
	}
	b.t.Fatalf("%d reports, want %d", len(b.evidence()), n)
	return 0
}

func (b *logBench) parts(want map[attest.Log]string) {
	b.t.Helper()
	_, m := b.newest()
	got := map[attest.Log]string{}
	for _, p := range m.Parts {
		data, err := p.Bytes()
		if err != nil {
			b.t.Fatal(err)
		}
		got[p.Log] = string(data)
	}
	if len(got) != len(want) {
		b.t.Errorf("parts %q, want %q", got, want)
	}
	for l, text := range want {
		if got[l] != text {
			b.t.Errorf("%s: %q, want %q", l, got[l], text)
		}
	}
}

func (b *logBench) has(seed [16]byte, have map[attest.Log]uint64) {
	b.t.Helper()
	down, err := cose.Encode(attest.Down{Have: &attest.Have{BootSeed: seed[:], Bytes: have}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.agent.receive(down)
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func TestLogsTravelAsFarAsTheyAreNew(t *testing.T) {
	b := newLogBench(t)
	b.tpm.before = func() { appendTo(t, b.ima, "during,") } // IMA goes on while the TPM signs
	b.until(1)
	b.tpm.before = nil
	r, m := b.newest()
	if r.Body.Kind != attest.KindBoot || m.Quote == nil || r.Body.NoLogs[attest.LogUserspace].Status != facts.Absent || len(r.Body.NoLogs) != 1 {
		t.Fatalf("boot report: quote %v, %+v", m.Quote, r.Body.NoLogs)
	}
	b.parts(map[attest.Log]string{attest.LogFirmware: "firmware", attest.LogIMA: "first,during,"})

	// A routine report carries neither; nothing has to be signed for it.
	b.until(2)
	if _, m := b.newest(); m.Quote != nil || m.Parts != nil {
		t.Errorf("routine report: %+v", m)
	}
	// IMA has measured something, the verifier has not answered: a quote, and no
	// log again.
	b.imaCount(2)
	appendTo(t, b.ima, "second,")
	b.until(3)
	if _, m := b.newest(); m.Quote == nil || m.Parts != nil {
		t.Errorf("without an acknowledgement: %+v", m)
	}
	// It answers late: what is new goes out at once.
	b.has([16]byte{1}, map[attest.Log]uint64{attest.LogFirmware: 0}) // of another boot: ignored
	b.has(b.cfg.BootID, map[attest.Log]uint64{attest.LogFirmware: 8, attest.LogIMA: 13})
	b.imaCount(3)
	b.until(4)
	b.parts(map[attest.Log]string{attest.LogIMA: "second,"})
	b.has(b.cfg.BootID, map[attest.Log]uint64{attest.LogIMA: 20})

	// The verifier has lost its memory: it says so, and gets all of it again.
	b.has(b.cfg.BootID, map[attest.Log]uint64{attest.LogFirmware: 0, attest.LogIMA: 0})
	if took := b.until(5); took > 10 {
		t.Errorf("the logs went after %d rounds", took)
	}
	b.parts(map[attest.Log]string{attest.LogFirmware: "firmware", attest.LogIMA: "first,during,second,"})

	// The agent has lost its own: it begins at the start, and is told.
	b.start()
	b.until(6)
	b.parts(map[attest.Log]string{attest.LogFirmware: "firmware", attest.LogIMA: "first,during,second,"})
	b.has(b.cfg.BootID, map[attest.Log]uint64{attest.LogFirmware: 8, attest.LogIMA: 20})
	if b.agent.logsDue {
		t.Error("wants to send what the verifier has")
	}
}

// A list that is larger than a message goes in several, each after the other was
// acknowledged, and never breaks the limit.
func TestLargeLogGoesInPieces(t *testing.T) {
	b := newLogBench(t)
	var list []byte
	for i := range 9000 {
		list = append(list, digestOf([]byte{byte(i), byte(i >> 8)})...)
	}
	b.file(filepath.Dir(b.ima), "ima", list)
	var got []byte
	for n := 1; len(got) < len(list); n++ {
		b.until(n)
		if size := len(b.evidence()[n-1].Payload); size > attest.MaxMessageSize {
			t.Fatalf("message of %d bytes", size)
		}
		_, m := b.newest()
		for _, p := range m.Parts {
			if p.Log != attest.LogIMA {
				continue
			}
			data, err := p.Bytes()
			if err != nil || p.Offset != uint64(len(got)) || p.More != (len(got)+len(data) < len(list)) {
				t.Fatalf("part at %d of %d bytes, more %v: %v", p.Offset, len(data), p.More, err)
			}
			got = append(got, data...)
		}
		b.has(b.cfg.BootID, map[attest.Log]uint64{attest.LogIMA: uint64(len(got))})
	}
	if !bytes.Equal(got, list) {
		t.Error("the list came changed")
	}
}

// An alarm waits for no TPM; the quote comes with the report after it.
func TestQuotes(t *testing.T) {
	b := newLogBench(t)
	b.until(1)
	before := b.tpm.quotes
	b.fast.set(1000, facts.IntValue(900))
	for range 6 {
		b.round()
	}
	quoted := 0
	for i, r := range b.reports()[1:] {
		var m attest.Message
		if err := cose.Decode(b.evidence()[i+1].Payload, attest.MaxMessageSize, &m); err != nil {
			t.Fatal(err)
		}
		if m.Quote != nil {
			quoted++
		}
		if r.Body.Kind == attest.KindAlarm && m.Quote != nil {
			t.Error("the alarm waited for a quote")
		}
	}
	if b.agent.state.Stage != reference.StagePaused || quoted != 1 || b.tpm.quotes != before+1 {
		t.Errorf("%s, %d reports with a quote after the alarm", b.agent.state.Stage, quoted)
	}
	// Nothing happens: a quote each quarter of an hour.
	before = b.tpm.quotes
	for range int(time.Hour / time.Second) {
		b.now = b.now.Add(time.Second)
		b.uptime += 1000
		b.agent.link.ask(context.Background())
		if err := b.agent.round(b.now); err != nil {
			t.Fatal(err)
		}
		for j, ok := b.agent.sealer.next(); ok; j, ok = b.agent.sealer.next() {
			if j.quote != nil {
				b.tpm.quotes++
			}
		}
	}
	if n := b.tpm.quotes - before; n < 3 || n > 4 {
		t.Errorf("%d quotes in an hour", n)
	}
}

// Values that the verifier has stay away, until they change or it says otherwise.
func TestQuoteLeavesOutWhatTheVerifierHas(t *testing.T) {
	b := newLogBench(t)
	reports := 1
	b.until(reports)
	has := func(seed [16]byte, digest []byte) {
		t.Helper()
		down, err := cose.Encode(attest.Down{Have: &attest.Have{BootSeed: seed[:], PCRs: digest}})
		if err != nil {
			t.Fatal(err)
		}
		b.agent.receive(down)
	}
	next := func() *attest.Quote {
		t.Helper()
		b.now = b.now.Add(quoteEvery)
		reports++
		b.until(reports)
		_, m := b.newest()
		if m.Quote == nil {
			t.Fatal("no quote")
		}
		return m.Quote
	}
	_, m := b.newest()
	digest := attest.PCRDigest(m.Quote.PCRs)
	if q := next(); q.PCRs == nil {
		t.Error("nobody said that the verifier has the values, and they do not come")
	}
	has([16]byte{9}, digest)
	if q := next(); q.PCRs == nil {
		t.Error("what the verifier has of another boot keeps the values away")
	}
	has(b.cfg.BootID, digest)
	if q := next(); q.PCRs != nil {
		t.Error("the verifier has the values, and they come again")
	}
	b.tpm.value[0] = 7
	if q := next(); q.PCRs == nil {
		t.Error("the values changed and do not come")
	}
	has(b.cfg.BootID, attest.PCRDigest([]attest.PCR{{Digest: b.tpm.value[:]}}))
	if q := next(); q.PCRs != nil {
		t.Error("the verifier has the changed values, and they come again")
	}
	has(b.cfg.BootID, attest.PCRDigest(nil)) // it has forgotten
	b.now = b.now.Add(findingPause)
	reports++
	if n := b.until(reports); n > 2 {
		t.Errorf("asked for the values, the device takes %d rounds", n)
	}
	if _, m := b.newest(); m.Quote == nil || m.Quote.PCRs == nil {
		t.Error("asked for the values, the device does not send them")
	}
}
