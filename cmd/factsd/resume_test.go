package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/handover"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
)

// A desk is one end of a pseudo terminal, with a program at the other.
type desk struct {
	*testing.T
	master *os.File
	cmd    *exec.Cmd
	mu     sync.Mutex
	seen   bytes.Buffer
	more   chan struct{} // something was shown; room for one
}

// at runs a program whose console is a pseudo terminal.
func at(t *testing.T, dir, program string, args ...string) *desk {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	d := &desk{T: t, master: master, cmd: exec.Command(program, args...), more: make(chan struct{}, 1)}
	d.cmd.Dir, d.cmd.Stdin, d.cmd.Stdout, d.cmd.Stderr = dir, tty, tty, tty
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var p [4096]byte
		for {
			n, err := master.Read(p[:])
			d.mu.Lock()
			d.seen.Write(p[:n])
			d.mu.Unlock()
			select {
			case d.more <- struct{}{}:
			default:
			}
			if err != nil {
				close(d.more)
				return
			}
		}
	}()
	t.Cleanup(func() { d.cmd.Process.Kill(); d.cmd.Wait(); master.Close(); <-done })
	return d
}

// shows waits until the console has shown what matches, and returns all of it.
func (d *desk) shows(pattern string) string {
	d.Helper()
	late := time.After(20 * time.Second)
	for open := true; ; {
		d.mu.Lock()
		text := strings.ReplaceAll(d.seen.String(), "\r", "")
		d.mu.Unlock()
		if regexp.MustCompile(pattern).MatchString(text) {
			return text
		}
		if !open {
			d.Fatalf("ended without %q:\n%s", pattern, text)
		}
		select {
		case _, open = <-d.more:
		case <-late:
			d.Fatalf("never shows %q:\n%s", pattern, text)
		}
	}
}

func (d *desk) types(text string) {
	d.Helper()
	if _, err := d.master.WriteString(text); err != nil {
		d.Fatal(err)
	}
}

func (d *desk) ends(code int) {
	d.Helper()
	d.cmd.Wait()
	if got := d.cmd.ProcessState.ExitCode(); got != code {
		d.Fatalf("exit code %d, want %d:\n%s", got, code, d.seen.String())
	}
}

// photo draws the QR code that a console shows, as a camera would see it.
func photo(t *testing.T, shown, path string) {
	t.Helper()
	var rows [][]rune
	for _, line := range strings.Split(shown, "\n") {
		if text, ok := strings.CutPrefix(line, "\x1b[30;107m"); ok {
			rows = append(rows, []rune(strings.TrimSuffix(text, "\x1b[0m")))
		}
	}
	if len(rows) == 0 {
		t.Fatalf("no code in:\n%s", shown)
	}
	const scale = 6
	img := image.NewGray(image.Rect(0, 0, len(rows[0])*scale, 2*len(rows)*scale))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			upper := y/scale%2 == 0
			switch r := rows[y/scale/2][x/scale]; {
			case r == '█', r == '▀' && upper, r == '▄' && !upper:
				img.SetGray(x, y, color.Gray{})
			}
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A site is a device without network and two technicians, with the shipped programs.
type site struct {
	*testing.T
	dir, factsd, factsctl string
	id                    string // of the device
	client                *failsafe.Client
}

func newSite(t *testing.T, programs string, signers uint8) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "site") // paths of sockets are limited to 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{T: t, dir: dir, factsd: filepath.Join(programs, "factsd"), factsctl: filepath.Join(programs, "factsctl")}
	w := referencetest.New(t)
	m := referencetest.Example()
	m.NotBefore, m.NotAfter = time.Now().Unix()-1000, time.Now().Unix()+1_000_000
	m.Reaction = []reference.Reaction{{Do: reference.Signal, Target: "/nonexistent/pump", Signal: 19, Deadline: 1000}}
	m.Resume.Signers = signers
	m.Leeway = &reference.Leeway{Maintenance: &reference.MaintenancePolicy{Most: 3600, Signers: 1}}
	manifest, err := reference.SignManifest(&m, w.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	list := reference.Keys{Version: 1, Owner: reference.Operator, Sequence: 2}
	for _, name := range []string{"anna", "bert"} {
		s.run(s.factsctl, 0, "key", "new", "--out", name+".key")
		data, err := os.ReadFile(filepath.Join(dir, name+".key.pub"))
		if err != nil {
			t.Fatal(err)
		}
		key, err := cose.ParsePublicKey(data)
		if err != nil {
			t.Fatal(err)
		}
		list.Keys = append(list.Keys, reference.ListedKey{Key: key, Role: reference.RoleResume, Name: name, NotBefore: 1, NotAfter: 4_000_000_000})
	}
	operators, err := reference.SignKeys(&list, w.OperatorRoot)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"manifest": manifest, "mkeys": w.ManufacturerKeys, "okeys": operators, "factsd.toml": []byte(`state = "state"
[device]
vendor = "Example Medical"
model = "pump-1"
[reference]
manifest = "manifest"
key_lists = ["mkeys", "okeys"]
manufacturer_roots = ["mroot.pub"]
operator_roots = ["oroot.pub"]
[key]
file = "device.key"
[clock]
trusted = true
[enforcer]
socket = "` + filepath.Join(dir, "s") + `"
`)}
	for name, root := range map[string]*cose.Signer{"mroot.pub": w.ManufacturerRoot, "oroot.pub": w.OperatorRoot} {
		if files[name], err = root.Public().PEM(); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.id = regexp.MustCompile(`(?m)^[0-9a-f]{32}$`).FindString(s.run(s.factsd, 0, "provision", "-config", "factsd.toml"))
	enforcer := exec.Command(s.factsd, "enforce", "-config", "factsd.toml")
	enforcer.Dir, enforcer.Stderr = dir, t.Output()
	enforcer.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := enforcer.Start(); err != nil {
		t.Fatal(err)
	}
	s.client = failsafe.Dial(filepath.Join(dir, "s"))
	t.Cleanup(func() { s.client.Close(); enforcer.Process.Kill(); enforcer.Wait() })
	s.until("it answers", func(failsafe.Status) bool { return true })
	return s
}

// run runs a program to its end and returns what it says.
func (s *site) run(program string, code int, args ...string) string {
	s.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = s.dir
	out, _ := cmd.CombinedOutput() // the exit code is looked at below
	if got := cmd.ProcessState.ExitCode(); got != code {
		s.Fatalf("%s %q: exit code %d, want %d\n%s", filepath.Base(program), args, got, code, out)
	}
	return string(out)
}

func (s *site) until(what string, ok func(failsafe.Status) bool) failsafe.Status {
	s.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		status, err := s.client.Status(s.Context())
		if err == nil && ok(status) {
			return status
		}
		if time.Now().After(deadline) {
			s.Fatalf("never: %s: %+v, %v", what, status, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (s *site) pause() failsafe.Status {
	s.Helper()
	status, err := s.client.Pause(context.Background(), failsafe.PauseRequest{Fact: 1000, Reading: facts.Reading{Key: 1000, Value: facts.IntValue(612)}, Lasted: 3100})
	if err != nil {
		s.Fatal(err)
	}
	return status
}

// TestWithoutNetwork gives orders to a device that has no network, with the shipped
// programs.
func TestWithoutNetwork(t *testing.T) {
	programs := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", programs, "../factsd", "../factsctl").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Run("resume at the console", func(t *testing.T) { resumeAtTheConsole(newSite(t, programs, 2)) })
	t.Run("resume from a file", func(t *testing.T) { resumeFromAFile(newSite(t, programs, 1)) })
	t.Run("maintenance from a file", func(t *testing.T) { maintenanceFromAFile(newSite(t, programs, 1)) })
}

// resumeAtTheConsole resumes a device that has no network and no verifier, from
// its console: two operators, one of whom photographs the
// code and one of whom types the challenge.
func resumeAtTheConsole(s *site) {
	t := s.T
	t.Helper()
	if got := s.run(s.factsd, 1, "resume", "-config", "factsd.toml"); !strings.Contains(got, "nothing is paused") {
		t.Error(got)
	}
	paused := s.pause()
	console := at(t, s.dir, s.factsd, "resume", "-config", "factsd.toml")
	shown := console.shows("line 1 of 6: ")
	if !strings.Contains(shown, "app.flow is 612 ml/h") {
		t.Errorf("it does not say why:\n%s", shown)
	}
	photo(t, shown, filepath.Join(s.dir, "photo.png"))
	challenge := regexp.MustCompile(`(?m)^(?:[0-9A-Z]{4} ?){8}$`).FindAllString(shown, -1)
	if len(challenge) != handover.ChallengeLines {
		t.Fatalf("challenge %q in:\n%s", challenge, shown)
	}

	// The first operator photographs it.
	answer := s.run(s.factsctl, 0, "resume", "scan", "photo.png", "--key", "anna.key", "--yes")
	if !strings.Contains(answer, hex.EncodeToString(paused.PauseID[:])) {
		t.Errorf("the operator is not told the pause:\n%s", answer)
	}
	order := regexp.MustCompile(`(?m)^(?:[0-9A-Z]{4} ?){8}$`).FindAllString(answer, -1)
	if len(order) != handover.OrderLines {
		t.Fatalf("order %q in:\n%s", order, answer)
	}
	wrong := []byte(order[0])
	wrong[7] ^= 1
	console.types(string(wrong) + "\n")
	console.shows("line 1: a character is wrong in it")
	console.types(strings.ToLower(order[0]) + "\n")
	console.shows("line 2 of 6: ")
	console.types(strings.Join(order[1:], "\n") + "\n")
	console.shows("another operator has to sign as well")
	console.ends(1)

	// The second one types it, with a mistake first, and says yes.
	console = at(t, s.dir, s.factsd, "resume", "-config", "factsd.toml")
	console.shows("line 1 of 6: ")
	technician := at(t, s.dir, s.factsctl, "resume", "scan", "--key", "bert.key")
	technician.shows("line 1 of 2: ")
	technician.types(challenge[1] + "\n")
	technician.shows("line 1: a character is wrong in it, or it is another line")
	technician.types(challenge[0] + "\n")
	technician.shows("line 2 of 2: ")
	technician.types(challenge[1] + "\n")
	technician.shows("Is the cause dealt with")
	technician.types("yes\n")
	technician.ends(0)
	signed := technician.shows("(?m)^(?:[0-9A-Z]{4} ?){8}$")
	order = regexp.MustCompile(`(?m)^(?:[0-9A-Z]{4} ?){8}$`).FindAllString(signed, -1)
	order = order[len(order)-handover.OrderLines:]
	console.types(strings.Join(order, "") + "\n") // as a reader of codes types it
	console.shows("accepted: ")
	console.ends(0)
	s.until("resumed", func(x failsafe.Status) bool { return x.Latch == appraise.LatchClear })

	// The same lines do nothing for the next pause.
	s.pause()
	console = at(t, s.dir, s.factsd, "resume", "-config", "factsd.toml")
	console.shows("line 1 of 6: ")
	console.types(strings.Join(order, "\n") + "\n")
	console.shows("error: .*signature is not valid")
	console.ends(1)
	s.until("paused", func(x failsafe.Status) bool { return x.Latch == appraise.LatchPaused })
}

// maintenanceFromAFile takes a device without network into maintenance and out
// of it.
func maintenanceFromAFile(s *site) {
	t := s.T
	t.Helper()
	order := func(code int, want string, args ...string) {
		t.Helper()
		s.run(s.factsctl, 0, append([]string{"command", "maintenance", "--device", s.id, "--key", "anna.key", "--out", "order"}, args...)...)
		if got := s.run(s.factsd, code, "resume", "-config", "factsd.toml", "order"); !strings.Contains(got, want) {
			t.Errorf("%q: no %q in\n%s", args, want, got)
		}
	}
	status := func(want string) {
		t.Helper()
		if got := s.run(s.factsd, 0, "status", "-config", "factsd.toml"); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	order(1, "it lasts 7200 s, the limit is 3600 s", "--for", "2h")
	order(0, "accepted: clear", "--for", "1h")
	status(`(?m)^latch: maintenance\nmaintenance: for at most 3[56]\d\d s more$`)
	order(1, "is in maintenance", "--for", "1h")
	order(0, "accepted: clear", "--end")
	status("(?m)^latch: clear$")
	s.pause()
	order(1, "maintenance ends no pause", "--for", "1h")
	status("(?m)^latch: paused$")
}

// resumeFromAFile resumes from what a stick carries: the signed order, or its
// lines.
func resumeFromAFile(s *site) {
	t := s.T
	t.Helper()
	for _, lines := range []bool{false, true} {
		id := s.pause().PauseID
		console := at(t, s.dir, s.factsd, "resume", "-config", "factsd.toml")
		shown := console.shows("line 1 of 6: ")
		photo(t, shown, filepath.Join(s.dir, "photo.png"))
		if lines {
			text := s.run(s.factsctl, 0, "resume", "scan", "photo.png", "--key", "anna.key", "--yes", "--code")
			if !strings.Contains(text, "▀") {
				t.Errorf("no code in:\n%s", text)
			}
			order := regexp.MustCompile(`(?m)^(?:[0-9A-Z]{4} ?){8}$`).FindAllString(text, -1)
			if err := os.WriteFile(filepath.Join(s.dir, "order"), []byte(strings.Join(order, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			s.run(s.factsctl, 0, "resume", "scan", "photo.png", "--key", "anna.key", "--yes", "--out", "order")
		}
		for name, data := range map[string][]byte{"empty": nil, "large": make([]byte, 5000), "text": []byte("resume please")} {
			if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
			s.run(s.factsd, 1, "resume", "-config", "factsd.toml", name)
		}
		s.run(s.factsd, 3, "resume", "-config", "factsd.toml", "not-there")
		s.run(s.factsd, 2, "resume", "-config", "factsd.toml", "order", "order")
		if got := s.run(s.factsd, 0, "resume", "-config", "factsd.toml", "order"); !strings.Contains(got, "accepted: ") {
			t.Error(got)
		}
		s.until("resumed", func(x failsafe.Status) bool { return x.Latch == appraise.LatchClear && x.PauseID != id })
		if got := s.run(s.factsd, 1, "resume", "-config", "factsd.toml", "order"); !strings.Contains(got, "was used before") && !strings.Contains(got, "signature is not valid") {
			t.Errorf("the same file again: %s", got)
		}
	}
}
