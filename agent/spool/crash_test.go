package spool

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The test binary runs itself again as the process that is killed.
const childEnv = "SPOOL_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
		return
	}
	os.Exit(m.Run())
}

// child appends, removes and keeps until it is killed. It says what it has done
// on standard output, one write a line: "+ID class" after an Append that returned
// nil, "-ID" before a Done, "=ID" after a Keep that returned nil.
func child(dir string) {
	s, err := Open(dir, Options{MaxBytes: small})
	if err != nil {
		fmt.Println("!", err)
		return
	}
	for i := 0; ; i++ {
		class := Class(rand.N(classes))
		id, err := s.Append(class, "t", []byte(body(s.next)))
		if err != nil {
			fmt.Println("!", err)
			return
		}
		fmt.Printf("+%d %d\n", id, class)
		// Alarms and evidence must not fill the spool.
		for rand.N(3) == 0 || class != Routine && s.Stats().Pending[class] > 10 {
			m, ok := s.Next(class, 0)
			if !ok {
				break
			}
			fmt.Printf("-%d\n", m.ID)
			if err := s.Done(m.ID); err != nil {
				fmt.Println("!", err)
				return
			}
		}
		if rand.N(4) == 0 {
			fmt.Printf("-%d\n", id)
			if err := s.Done(id); err != nil {
				fmt.Println("!", err)
				return
			}
		}
		if err := s.Keep(id); err != nil {
			fmt.Println("!", err)
			return
		}
		fmt.Printf("=%d\n", id)
	}
}

// body is the payload of the message that gets this ID.
func body(id ID) string { return fmt.Sprintf("%d ", id) + strings.Repeat("x", int(id%1500)) }

// Whatever was accepted before kill -9 is there after it, in order; what was
// being removed may be, and one message that was being appended.
func TestKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	class := map[ID]Class{} // accepted, not dropped
	removed := map[ID]bool{}
	kills, appends := 0, 0
	for kills < 25 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// A number of lines, and from there some time, so that the kill can
		// come anywhere.
		lines, moment := 1+rand.N(200), time.Duration(rand.N(3000))*time.Microsecond
		for scan := bufio.NewScanner(out); scan.Scan(); {
			var id ID
			var c Class
			switch line := scan.Text(); line[0] {
			case '+':
				if _, err := fmt.Sscanf(line, "+%d %d", &id, &c); err != nil {
					t.Fatal(line)
				}
				class[id] = c
				appends++
			case '-':
				if _, err := fmt.Sscanf(line, "-%d", &id); err != nil {
					t.Fatal(line)
				}
				removed[id] = true
			case '=':
			default:
				t.Fatal(line)
			}
			if lines--; lines == 0 {
				time.AfterFunc(moment, func() { cmd.Process.Kill() })
			}
			if lines == -100000 {
				t.Fatal("the kill does not come")
			}
		}
		cmd.Wait()
		kills++

		s := open(t, dir, Options{MaxBytes: small})
		st := s.Stats()
		if st.Damaged != 0 {
			t.Fatalf("kill %d: %+v", kills, st)
		}
		present := map[ID]bool{}
		last := [classes]ID{}
		extra := 0
		for _, m := range pending(s) {
			if m.ID <= last[m.Class] {
				t.Fatalf("kill %d: message %d after %d", kills, m.ID, last[m.Class])
			}
			last[m.Class] = m.ID
			present[m.ID] = true
			if string(m.Payload) != body(m.ID) {
				t.Fatalf("kill %d: message %d has the payload of another", kills, m.ID)
			}
			if c, ok := class[m.ID]; !ok {
				extra++
				class[m.ID] = m.Class
			} else if c != m.Class {
				t.Fatalf("kill %d: message %d became %v", kills, m.ID, m.Class)
			}
		}
		if extra > 1 {
			t.Fatalf("kill %d: %d messages that were never accepted", kills, extra)
		}
		for id, c := range class {
			gap := st.Dropped[c]
			switch dropped := gap.First <= id && id <= gap.Last; {
			case present[id] && dropped:
				t.Fatalf("kill %d: %v %d is there and in the gap %+v", kills, c, id, gap)
			case !present[id] && !removed[id] && !dropped:
				t.Fatalf("kill %d: %v %d is lost; gap %+v", kills, c, id, gap)
			case c == Alarm && dropped:
				t.Fatalf("kill %d: alarm %d was dropped", kills, id)
			case !present[id] && (removed[id] || dropped):
				delete(class, id) // stays away from now on
				removed[id] = true
			}
		}
		s.Close()
	}
	if appends < 500 {
		t.Errorf("only %d appends in %d runs", appends, kills)
	}
	s := open(t, dir, Options{MaxBytes: small})
	if s.Stats().Dropped[Routine].Count == 0 {
		t.Error("the spool was never full")
	}
	t.Logf("%d kills, %d appends, %+v", kills, appends, s.Stats())
}

// Each Append is one write, and a message that is pending at its Keep has one
// fdatasync by then: what was written and not synced is what a power cut takes.
func TestOneWriteOneSync(t *testing.T) {
	log := filepath.Join(t.TempDir(), "strace")
	dir := filepath.Join(t.TempDir(), "spool")
	cmd := exec.Command("strace", "-f", "-y", "-s", "40", "-o", log, "-e", "trace=write,pwrite64,fdatasync,fsync,ftruncate,openat,unlinkat", os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot trace (apt install strace): %v", err)
	}
	scan := bufio.NewScanner(out)
	for range 200 {
		if !scan.Scan() || scan.Text()[0] == '!' {
			t.Fatalf("child ended: %q", scan.Text())
		}
	}
	// strace ends with the child, and the child when nobody reads what it says.
	out.Close()
	cmd.Wait()
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	accepted, kept := regexp.MustCompile(`write\(1<.*"\+\d`), regexp.MustCompile(`write\(1<.*"=(\d+)`)
	gone := regexp.MustCompile(`write\(1<.*"-(\d+)`)
	segment := regexp.MustCompile(`<` + regexp.QuoteMeta(dir) + `/[a-z]+-[0-9a-f]{16}>`)
	appends, writes, syncs, keeps, spared := 0, 0, 0, 0, 0
	created := false
	unsynced := map[string]bool{} // segments
	done := map[string]bool{}
	var wrote, last string // segment of the last write, and of the last Append
	for line := range strings.Lines(string(data)) {
		switch {
		case strings.Contains(line, "O_CREAT") && strings.Contains(line, dir):
			created = true
		case strings.Contains(line, "pwrite64(") && segment.MatchString(line):
			writes++
			wrote = segment.FindString(line)
			unsynced[wrote] = true
		case strings.Contains(line, "fdatasync(") && segment.MatchString(line):
			syncs++
			delete(unsynced, segment.FindString(line))
		case strings.Contains(line, "fsync(") && strings.Contains(line, "<"+dir+">"):
			created = false
		case gone.MatchString(line):
			done[gone.FindStringSubmatch(line)[1]] = true
		case accepted.MatchString(line):
			appends++
			last = wrote
		case kept.MatchString(line):
			keeps++
			switch id := kept.FindStringSubmatch(line)[1]; {
			case done[id]:
				spared++
			case unsynced[last] || created:
				t.Fatalf("message %s was kept, its segment not synced: %v, the directory not: %v", id, unsynced[last], created)
			}
		}
	}
	// Each class's segment begins with a record of its own; Done may write.
	if appends < 30 || writes < appends || writes > appends+appends/4+2*classes {
		t.Errorf("%d appends with %d writes", appends, writes)
	}
	// So it does when a full spool drops a segment.
	if keeps < 30 || spared == 0 || syncs > keeps-spared+keeps/4+2*classes {
		t.Errorf("%d messages kept, %d of them done before, with %d syncs", keeps, spared, syncs)
	}
	t.Logf("%d appends, %d writes; %d kept, %d of them done before, %d syncs", appends, writes, keeps, spared, syncs)
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{400, 4000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "spool"), Options{})
			payload := make([]byte, size)
			b.ReportAllocs()
			before := written(b)
			for b.Loop() {
				id, err := s.Append(Routine, "report", payload)
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Done(id); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(written(b)-before)/float64(b.N), "disk-B/op")
		})
	}
}

// written returns how many bytes this process caused to be written to disks.
func written(b *testing.B) (n int64) {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), "\nwrite_bytes: ")
	if _, err := fmt.Sscan(after, &n); err != nil {
		b.Fatal(err)
	}
	return n
}
