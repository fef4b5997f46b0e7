// Package lab sets up the whole of miotfacts on one machine with the shipped
// programs and real parts: a manufacturer's keys and manifest, a verifier, a
// device with its two processes, and as medical application a SIMULATED infusion
// monitor. The demo and the system tests use it.
package lab

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/miotfacts/miotfacts/attest"
)

// A Lab is everything that the demo starts and makes, so that it can take it
// all away again.
type Lab struct {
	Ctx         context.Context
	Dir         string // temporary, removed at the end
	Bin         string
	Cgroup      string // "" without cgroup v2 or root
	CgroupRoot  string
	TPM         string // address of the software TPM; "" without one
	Web         string // base URL of the verifier's page
	Broker      string // host:port
	Admin       string // unix socket
	ReportEvery string // between routine reports; New makes it 2s
	Runtime     string // folder of the enforcer's socket; "": Dir
	Procs       []*Proc
}

type Proc struct {
	Name string
	Cmd  *exec.Cmd
	Log  string // file with its output
	Done chan struct{}
}

// Start runs a command in the background; its output is kept for the case that
// something goes wrong.
func (l *Lab) Start(name string, argv ...string) (*Proc, error) {
	p := &Proc{Name: name, Cmd: exec.Command(argv[0], argv[1:]...), Log: l.Path(name + ".log"), Done: make(chan struct{})}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	defer out.Close()
	p.Cmd.Stdout, p.Cmd.Stderr = out, out
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.Cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	go func() { p.Cmd.Wait(); close(p.Done) }()
	l.Procs = append(l.Procs, p)
	return p, nil
}

// Stop ends a process by the signal and waits for it.
func (p *Proc) Stop(sig syscall.Signal) {
	p.Cmd.Process.Signal(sig)
	select {
	case <-p.Done:
	case <-time.After(5 * time.Second):
		p.Cmd.Process.Kill()
		<-p.Done
	}
}

// Clean stops everything, thaws and removes the cgroup, removes the files.
func (l *Lab) Clean() {
	if l.Cgroup != "" {
		os.WriteFile(l.Cgroup+"/cgroup.freeze", []byte("0"), 0o644)
	}
	for _, p := range slices.Backward(l.Procs) {
		if p.Name == "infusion" {
			p.Cmd.Process.Signal(syscall.SIGCONT)
		}
		p.Stop(syscall.SIGTERM)
	}
	if l.Cgroup != "" {
		l.Until("", 3*time.Second, func() bool { return os.Remove(l.Cgroup) == nil || errors.Is(os.Remove(l.Cgroup), os.ErrNotExist) })
	}
	os.RemoveAll(l.Dir)
}

// Until waits for a condition, at most d. what is shown when it does not come.
func (l *Lab) Until(what string, d time.Duration, ok func() bool) bool {
	deadline := time.Now().Add(d)
	for !ok() {
		if time.Now().After(deadline) || l.Ctx.Err() != nil {
			if what != "" {
				fmt.Printf("      (waited %v for: %s)\n", d, what)
			}
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return true
}

// Ctl runs one of the project's commands to its end and returns its output.
func (l *Lab) Ctl(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(l.Ctx, filepath.Join(l.Bin, name), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func (l *Lab) Path(name string) string { return filepath.Join(l.Dir, name) }

func (l *Lab) Write(name, content string) error {
	return os.WriteFile(l.Path(name), []byte(content), 0o600)
}

// A Device is what the verifier's interface says of a device.
type Device struct {
	ID         string
	Protection string
	Enrolled   string
	Key        string
	Renewal    *struct {
		Count uint64
		From  uint64 `json:"from_report"`
	}
	Sequence uint64
	Stage    string
	Tier     string
	Findings []struct{ Code, Tier, Text string }
	Pause    *struct {
		ID       string
		Reason   string
		Effects  []Effect
		Deferral *struct {
			Lasted int64 `json:"ms"` // 0 while it lasts
			Why    string
		}
	}
}

// An Effect is what a step of a pause was seen to do.
type Effect struct {
	Kind, Target, Observed string
	Done                   bool
	Millis                 int64 `json:"ms"`
}

func (d Device) Finding(part string) string {
	for _, f := range d.Findings {
		if strings.Contains(f.Text, part) {
			return f.Text
		}
	}
	return ""
}

func (l *Lab) Get(path string, into any) error {
	resp, err := http.Get(l.Web + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, data)
	}
	if raw, ok := into.(*[]byte); ok {
		*raw = data
		return nil
	}
	return json.Unmarshal(data, into)
}

func (l *Lab) Device(id string) Device {
	var d Device
	if err := l.Get("/api/devices/"+id, &d); err != nil {
		return Device{}
	}
	return d
}

// reports returns the newest records of a device, newest first.
func (l *Lab) Reports(id string) []Record {
	var r []Record
	if err := l.Get("/api/devices/"+id+"/reports?limit=50", &r); err != nil {
		return nil
	}
	return r
}

type Record struct {
	Sequence uint64
	Kind     string
	Stage    string
	Pause    string // id of the confirmed pause, in hexadecimal
	Quoted   bool
	Findings []struct{ Code, Tier, Text string }
}

// refused returns the newest refusals, newest first.
func (l *Lab) Refused() []Refused {
	var r []Refused
	if err := l.Get("/api/refused?limit=50", &r); err != nil {
		return nil
	}
	return r
}

type Refused struct{ Device, Topic, Reason, Text string }

// FreePort returns a port that was free a moment ago.
func FreePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// AllReports returns what the verifier has of a device's reports, each opened
// anew from the bytes that it stored.
func (l *Lab) AllReports(id string) []Record {
	var out []Record
	for n := uint64(1); n <= l.Device(id).Sequence; n++ {
		var message []byte
		if err := l.Get(fmt.Sprintf("/api/devices/%s/reports/%d", id, n), &message); err != nil {
			continue
		}
		u, err := attest.Decode(message)
		if err != nil {
			continue
		}
		b := u.Unverified().Body
		r := Record{Sequence: b.Sequence, Kind: b.Kind.String(), Stage: b.Stage.String()}
		if b.Pause != nil {
			r.Pause = hex.EncodeToString(b.Pause.ID)
		}
		out = append(out, r)
	}
	return out
}
