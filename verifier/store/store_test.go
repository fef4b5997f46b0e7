package store_test

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/store"
)

func open(t testing.TB, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func device(key *cose.PublicKey) *verifier.Device {
	return &verifier.Device{
		UEID: attest.NewUEID([16]byte{1, 2, 3}), Vendor: "Example Medical", Model: "pump-1", Serial: "7", Key: key, Protection: attest.ProtectionTPM,
		Identity: &attest.Identity{EK: []byte{1}, AK: []byte{2}, Device: []byte{3}, Attest: []byte{4}, Signature: []byte{5}},
		Enrolled: verifier.Approved, AskedAt: 1, ProvedAt: 2, ApprovedAt: 3, ApprovedBy: "ward 3", Chain: 1, First: 1, Sequence: 9,
		Digest: [32]byte{9}, LastSeen: 10, Stage: reference.StagePaused, Tier: verifier.TierContraindicated,
		Findings: []verifier.Finding{{Code: verifier.ReasonPaused, Tier: verifier.TierContraindicated, Text: "paused"}},
		Pause:    &attest.Pause{ID: make([]byte, 16), Reason: "flow", Effects: []attest.Effect{{Kind: reference.Freeze, Target: "x", Done: true, Observed: "frozen", Millis: 3}}},
		Boot: &verifier.Boot{Seed: make([]byte, 16), Count: 4, Quoted: true, State: &verifier.Finding{Code: verifier.ReasonBootState, Text: "x"},
			PCRs: []attest.PCR{{Index: 4, Digest: make([]byte, 32)}}, Judged: []byte{1}, Versions: []string{"system 1"},
			Logs:  map[attest.Log]*verifier.LogState{attest.LogIMA: {Bytes: 5, More: true, Gap: &attest.Gap{Status: 1, Reason: "x"}, Again: true}},
			Found: []verifier.Finding{{Code: verifier.ReasonBootKernel, Text: "x"}},
			Files: &verifier.Files{Manifest: []byte{1}, Offset: 1, Replay: []byte{1}, Found: []verifier.Finding{{Code: verifier.ReasonFile}}, Told: 1, Allowed: 2, Signed: 3,
				Excluded: 4, Violations: 5, Open: []verifier.Finding{{Code: verifier.ReasonFileList}}, Summary: []verifier.Finding{{Code: verifier.ReasonMore}}}},
		Clock: &verifier.Clock{Sequence: 9, ResetCount: 4}, Challenge: &verifier.Challenge{Nonce: make([]byte, 16), At: 5},
		Manifest: &attest.Edition{Sequence: 3, Digest: make([]byte, 32)},
		Seen: &verifier.Seen{
			Facts: map[facts.Key]attest.Fact{77: {Value: facts.SetValue([]string{"wlan0"})}}, Gaps: map[facts.Key]attest.Gap{78: {Status: facts.Unreadable, Reason: "x"}},
			Versions: []verifier.Version{{At: 1, Software: map[facts.Key]string{111: "debian 12"}, Manifest: 3, Changed: 1}}, Updates: 1, Unexplained: 1, Longest: 2,
			Watched: 3, Heat: []uint64{2, 1}, Seed: make([]byte, 16), Counted: 4,
		},
	}
}

func record(d *verifier.Device, sequence uint64, kind attest.Kind) *verifier.Record {
	r := &verifier.Record{
		Device: d.UEID, Chain: d.Chain, Sequence: sequence, BootSeed: [16]byte{8}, Kind: kind, Stage: reference.StageOperating,
		ReceivedAt: int64(sequence), Quoted: kind == attest.KindBoot, Tier: verifier.TierWarning, Message: fmt.Appendf(nil, "message %d", sequence),
		Findings: []verifier.Finding{{Code: verifier.ReasonNote, Tier: verifier.TierWarning, Text: "note"}}, Result: []byte("result"),
	}
	copy(r.Digest[:], strconv.FormatUint(sequence, 10))
	copy(r.Previous[:], strconv.FormatUint(sequence-1, 10))
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A new field of a device has to come back from the disk.
func TestWhatIsStoredComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet ? #.db") // a name that is no URL
	s := open(t, path)
	d := device(referencetest.Signer(t).Public())
	must(t, s.Save(d))
	boot, routine := record(d, 1, attest.KindBoot), record(d, 2, attest.KindRoutine)
	must(t, s.Accept(d, boot))
	must(t, s.Accept(d, routine))
	refused := verifier.Refused{At: 5, Device: "x", Topic: "report", Reason: verifier.ReasonFork, Text: "words", Size: 7}
	must(t, s.Refuse(&refused))
	must(t, s.Close())

	s = open(t, path)
	got, err := s.Device(d.UEID)
	must(t, err)
	if !reflect.DeepEqual(got, d) {
		t.Errorf("device\n%+v, want\n%+v", got, d)
	}
	all, err := s.Devices()
	must(t, err)
	if len(all) != 1 || !reflect.DeepEqual(&all[0], d) {
		t.Errorf("devices %+v", all)
	}
	records, err := s.Reports(d.UEID, 10)
	must(t, err)
	if len(records) != 2 || !reflect.DeepEqual(&records[0], routine) || !reflect.DeepEqual(&records[1], boot) {
		t.Errorf("reports %+v", records)
	}
	if records, err = s.Reports(d.UEID, 1); err != nil || len(records) != 1 || records[0].Sequence != 2 {
		t.Errorf("newest report %+v %v", records, err)
	}
	one, err := s.Report(d.UEID, 1)
	must(t, err)
	if !reflect.DeepEqual(one, boot) {
		t.Errorf("report %+v", one)
	}
	messages, err := s.Refused(10)
	must(t, err)
	if len(messages) != 1 || messages[0] != refused {
		t.Errorf("refused %+v", messages)
	}
	if data, err := s.BootReport(d.UEID, 1, [16]byte{8}, 0); err != nil || string(data) != "message 1" {
		t.Errorf("boot report %q %v", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
}

// Logs come back in order, from where they are wanted on; a boot's logs go when
// newer ones have come.
func TestLogs(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	d := device(referencetest.Signer(t).Public())
	must(t, s.Save(d))
	part := func(offset uint64, text string) verifier.LogChange {
		return verifier.LogChange{Log: attest.LogIMA, Part: &attest.Part{Log: attest.LogIMA, Offset: offset, Size: uint32(len(text)), Packed: []byte(text)}}
	}
	next := uint64(0)
	accept := func(boot byte, changes ...verifier.LogChange) error {
		next++
		r := record(d, next, attest.KindRoutine)
		r.BootSeed, r.Logs = [16]byte{boot}, changes
		return s.Accept(d, r)
	}
	want := func(boot byte, from uint64, want string) {
		t.Helper()
		parts, err := s.Log(d.UEID, d.Chain, [16]byte{boot}, attest.LogIMA, from)
		must(t, err)
		got := ""
		for _, p := range parts {
			got += string(p.Packed)
		}
		if got != want {
			t.Errorf("boot %d from %d: %q, want %q", boot, from, got, want)
		}
	}
	must(t, accept(1, part(0, "abc"), verifier.LogChange{Log: attest.LogFirmware, Part: &attest.Part{Size: 1, Packed: []byte("x")}}))
	must(t, accept(1, part(3, "def")))
	want(1, 0, "abcdef")
	want(1, 2, "abcdef")
	want(1, 3, "def")
	want(1, 6, "")
	want(2, 0, "")
	if err := accept(1, part(3, "other")); err == nil {
		t.Error("two parts in one place")
	}
	want(1, 0, "abcdef")
	next--
	must(t, accept(1, verifier.LogChange{Log: attest.LogIMA, Reset: true}, part(0, "new")))
	want(1, 0, "new")
	for boot := byte(2); boot <= 4; boot++ {
		must(t, accept(boot, part(0, "boot")))
	}
	want(1, 0, "")
	for boot := byte(2); boot <= 4; boot++ {
		want(boot, 0, "boot")
	}
}

func TestWhatIsNotThere(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	d := device(referencetest.Signer(t).Public())
	_, err := s.Device(d.UEID)
	_, err2 := s.Report(d.UEID, 1)
	_, err3 := s.BootReport(d.UEID, 1, [16]byte{}, 0)
	for _, err := range []error{err, err2, err3} {
		if !errors.Is(err, verifier.ErrNotFound) {
			t.Errorf("%v", err)
		}
	}
	if n, err := s.Neighbours(d.UEID, 1, 1, [32]byte{}); err != nil || n != (verifier.Neighbours{}) {
		t.Errorf("%+v %v", n, err)
	}
	if all, err := s.Devices(); err != nil || len(all) != 0 {
		t.Errorf("%+v %v", all, err)
	}
}

func TestNeighbours(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	d := device(referencetest.Signer(t).Public())
	for _, n := range []uint64{4, 5, 7} {
		must(t, s.Accept(d, record(d, n, attest.KindRoutine)))
	}
	digest := func(n uint64) [32]byte { return record(d, n, attest.KindRoutine).Digest }
	for _, c := range []struct {
		chain, sequence   uint64
		digest            [32]byte
		known             bool
		before, at, after uint64
	}{
		{1, 6, digest(6), false, 5, 0, 7},
		{1, 5, digest(5), true, 4, 5, 0},
		{1, 5, digest(6), false, 4, 5, 0},
		{1, 9, digest(4), true, 0, 0, 0},
		{2, 5, digest(5), true, 0, 0, 0}, // another chain: known, and nothing around it
		{1, 1<<53 - 1, digest(1), false, 0, 0, 0},
	} {
		n, err := s.Neighbours(d.UEID, c.chain, c.sequence, c.digest)
		must(t, err)
		got := func(l *verifier.Link) uint64 {
			if l == nil {
				return 0
			}
			if l.Digest != digest(l.Sequence) || l.Previous != digest(l.Sequence-1) {
				t.Errorf("link %+v", l)
			}
			return l.Sequence
		}
		if n.Known != c.known || got(n.Before) != c.before || got(n.At) != c.at || got(n.After) != c.after {
			t.Errorf("chain %d sequence %d: %+v", c.chain, c.sequence, n)
		}
	}
}

// Two reports cannot have one place, whatever their sender has checked; and a
// device does not change with a report that was not stored.
func TestAcceptIsAllOrNothing(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	d := device(referencetest.Signer(t).Public())
	must(t, s.Accept(d, record(d, 1, attest.KindBoot)))
	changed := *d
	changed.Sequence = 77
	other := record(d, 1, attest.KindBoot)
	other.Digest[31] = 1
	if err := s.Accept(&changed, other); err == nil || !strings.Contains(err.Error(), "place is taken") {
		t.Errorf("%v", err)
	}
	if got, err := s.Device(d.UEID); err != nil || got.Sequence != d.Sequence {
		t.Errorf("%+v %v", got, err)
	}
}

func TestRefusalsAreBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	s := open(t, path)
	must(t, s.Close())
	db, err := sql.Open("sqlite", path)
	must(t, err)
	_, err = db.Exec("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 10000) INSERT INTO refused (at, device, topic, reason, text, size) SELECT i, '', '', '', '', 0 FROM n")
	must(t, err)
	must(t, db.Close())
	s = open(t, path)
	must(t, s.Refuse(&verifier.Refused{At: 10001}))
	all, err := s.Refused(20_000)
	must(t, err)
	if len(all) != store.MaxRefused || all[0].At != 10001 || all[len(all)-1].At != 2 {
		t.Errorf("%d refusals, from %d to %d", len(all), all[len(all)-1].At, all[0].At)
	}
}

func TestPrune(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	d := device(referencetest.Signer(t).Public())
	kinds := []attest.Kind{attest.KindBoot, attest.KindRoutine, attest.KindAlarm, attest.KindRoutine, attest.KindChallenge, attest.KindRoutine, attest.KindRoutine}
	for i, k := range kinds {
		must(t, s.Accept(d, record(d, uint64(i+1), k)))
	}
	n, err := s.Prune(100)
	must(t, err)
	if n != 3 {
		t.Errorf("pruned %d, want 3: all routine reports but the newest", n)
	}
	for i, k := range kinds {
		r, err := s.Report(d.UEID, uint64(i+1))
		must(t, err)
		gone := k == attest.KindRoutine && i+1 < len(kinds)
		if (len(r.Message) == 0) != gone || (len(r.Result) == 0) != gone || r.Digest != record(d, uint64(i+1), k).Digest {
			t.Errorf("report %d, %s: message of %d bytes", i+1, k, len(r.Message))
		}
	}
	if n, err := s.Prune(100); err != nil || n != 0 {
		t.Errorf("again %d %v", n, err)
	}
	if n, err := s.Prune(2); err != nil || n != 0 {
		t.Errorf("younger %d %v", n, err)
	}
}

// Stages are told in the order in which reports came, of pruned ones too.
func TestStages(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "fleet.db"))
	d := device(referencetest.Signer(t).Public())
	for _, r := range []struct {
		sequence uint64
		at       int64
		kind     attest.Kind
		stage    reference.Stage
	}{
		{1, 100, attest.KindBoot, reference.StageIntegration}, {3, 200, attest.KindAlarm, reference.StagePaused}, {2, 300, attest.KindRoutine, reference.StageOperating},
	} {
		x := record(d, r.sequence, r.kind)
		x.ReceivedAt, x.Stage = r.at, r.stage
		must(t, s.Accept(d, x))
	}
	_, err := s.Prune(1000)
	must(t, err)
	all, err := s.Stages(d.UEID, 0)
	want := []verifier.Moment{{At: 100, Stage: reference.StageIntegration}, {At: 200, Stage: reference.StagePaused, Alarm: true}, {At: 300, Stage: reference.StageOperating}}
	if err != nil || !slices.Equal(all, want) {
		t.Errorf("%+v, %v; want %+v", all, err, want)
	}
	if late, err := s.Stages(d.UEID, 201); err != nil || !slices.Equal(late, want[2:]) {
		t.Errorf("since 201: %+v, %v", late, err)
	}
	if none, err := s.Stages(attest.NewUEID([16]byte{9}), 0); err != nil || len(none) != 0 {
		t.Errorf("of another device: %+v, %v", none, err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	s := open(t, path)
	if _, err := store.Open(path); !errors.Is(err, store.ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	must(t, s.Close())
	open(t, path)
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	must(t, open(t, path).Close())
	db, err := sql.Open("sqlite", path)
	must(t, err)
	_, err = db.Exec("PRAGMA user_version = 99")
	must(t, err)
	must(t, db.Close())
	if _, err := store.Open(path); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("%v", err)
	}
}

func TestDamagedFileIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	must(t, os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600))
	if _, err := store.Open(path); err == nil {
		t.Error("opened")
	}
}

// A process that stores and says so, until it is killed.
const childPath = "MIOTFACTS_TEST_STORE"

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		s, err := store.Open(path)
		if err != nil {
			panic(err)
		}
		all, err := s.Devices()
		if err != nil {
			panic(err)
		}
		d := &all[0]
		for n := d.Sequence + 1; ; n++ {
			d.Sequence = n
			if err := s.Accept(d, record(d, n, attest.KindRoutine)); err != nil {
				panic(err)
			}
			fmt.Println(n) // the acknowledgement
		}
	}
	os.Exit(m.Run())
}

func TestKilledWhileStoring(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fleet.db")
	s := open(t, path)
	d := device(referencetest.Signer(t).Public())
	d.Sequence = 0
	must(t, s.Save(d))
	must(t, s.Close())
	acknowledged := uint64(0)
	for _, after := range []int{1, 3, 20, 50} {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childPath+"="+path)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		must(t, err)
		must(t, child.Start())
		lines := bufio.NewScanner(out)
		for i := 0; lines.Scan(); i++ {
			n, err := strconv.ParseUint(lines.Text(), 10, 64)
			must(t, err)
			acknowledged = n
			if i == after {
				must(t, child.Process.Kill()) // SIGKILL; what it said before is read still
			}
		}
		child.Wait()

		s := open(t, path)
		got, err := s.Device(d.UEID)
		must(t, err)
		if got.Sequence < acknowledged || got.Sequence > acknowledged+1 {
			t.Errorf("device at %d, acknowledged %d", got.Sequence, acknowledged)
		}
		for n := uint64(1); n <= got.Sequence; n++ {
			if r, err := s.Report(d.UEID, n); err != nil || string(r.Message) != fmt.Sprintf("message %d", n) {
				t.Errorf("report %d of %d: %v", n, acknowledged, err)
			}
		}
		if _, err := s.Report(d.UEID, got.Sequence+1); !errors.Is(err, verifier.ErrNotFound) {
			t.Errorf("a report beyond the device's newest: %v", err)
		}
		must(t, s.Close())
	}
	if acknowledged < 70 {
		t.Errorf("only %d were acknowledged", acknowledged)
	}
}
