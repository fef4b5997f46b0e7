package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// sign is the manufacturer's part: keys, recording, manifest. It also sets up
// the hospital's verifier, because the recording must see its sockets.
func (s *story) sign() error {
	s.say("\n1. The manufacturer records this machine and signs its runtime facts")
	for _, step := range []func() error{s.MakeKeys, s.InitVerifier, s.ConfigureVerifier, s.SignKeyLists} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := s.Draft(4 * time.Second); err != nil {
		return err
	}
	if err := s.FinishManifest(); err != nil {
		return err
	}
	info, err := os.Stat(s.Path("manifest.cbor"))
	if err != nil {
		return err
	}
	s.check(true, "manifest drafted from the recording, completed with the safety limit, linted, signed", fmt.Sprintf("%d bytes", info.Size()))
	return nil
}

// boot starts the device, lets an operator approve it, and waits for operation.
func (s *story) boot() error {
	s.say("\n2. Integration: the device boots, proves itself, and is compared")
	if err := s.StartVerifier(); err != nil {
		return err
	}
	id, err := s.Provision()
	if err != nil {
		return err
	}
	s.id = id
	s.say("  this device is %s", s.id)
	if err := s.startDevice(); err != nil {
		return err
	}
	if !s.Until("the device to ask for enrolment", 20*time.Second, func() bool { return s.Device(s.id).Enrolled == "waits for approval" }) {
		return errors.New("the device did not ask to be enrolled")
	}
	s.say("  it asked to be enrolled (%s); nothing it says counts until an operator approves", s.Device(s.id).Protection)
	if err := s.Enrol(s.id); err != nil {
		return err
	}
	ok := s.Until("operating", 20*time.Second, func() bool { return s.Device(s.id).Stage == "operating" })
	d := s.Device(s.id)
	s.check(ok, "integration passed, the device is operating", fmt.Sprintf("stage %s, result %s, report %d", d.Stage, d.Tier, d.Sequence))
	for _, f := range d.Findings {
		s.say("       %s: %s", f.Tier, f.Text)
	}
	if s.TPM != "" {
		ok := s.Until("a quoted boot report", 5*time.Second, func() bool {
			for _, r := range s.Reports(s.id) {
				if r.Kind == "boot" && r.Quoted {
					return true
				}
			}
			return false
		})
		s.check(ok, "the boot report carries a TPM quote that is bound to it", "")
	}
	s.say("  the verifier's page: %s/devices/%s", s.Web, s.id)
	return nil
}

// operate shows a deviation: reported, and the device works on.
func (s *story) operate() error {
	s.say("\n3. Operating: somebody opens a port that nobody declared")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	name := "tcp/" + l.Addr().String()
	ok := s.Until("a finding about "+name, 15*time.Second, func() bool { return s.Device(s.id).Finding(name) != "" })
	d := s.Device(s.id)
	s.check(ok, "the undeclared socket is reported", d.Finding(name))
	s.check(d.Stage == "operating" && s.Beating(), "the device works on meanwhile", "stage "+d.Stage)
	l.Close()
	ok = s.Until("the finding to go", 15*time.Second, func() bool { return s.Device(s.id).Finding(name) == "" })
	s.check(ok, "the port is closed again, and the finding is gone", "")
	return nil
}

// failsafe crosses an extreme, and kills both processes of the device.
func (s *story) failsafe() error {
	s.say("\n4. Fail-safe: the simulated pump runs away to 620 ml/h; the extreme is 500")
	crossed := time.Now()
	if err := s.SetFlow(620); err != nil {
		return err
	}
	ok := s.Until("the workload frozen", 10*time.Second, func() bool { f, _ := s.Stopped(); return f })
	_, saw := s.Stopped()
	s.check(ok, fmt.Sprintf("the workload was seen frozen %.1f s after the crossing (hold 1 s)", time.Since(crossed).Seconds()), saw)
	s.check(!s.Beating(), "it makes no progress", "")
	ok = s.Until("paused on the page", 10*time.Second, func() bool {
		d := s.Device(s.id)
		return d.Stage == "paused" && d.Pause != nil && d.Pause.ID != "" && len(d.Pause.Effects) > 0
	})
	d := s.Device(s.id)
	why := ""
	if d.Pause != nil {
		why = d.Pause.Reason
		for _, e := range d.Pause.Effects {
			s.say("       step %s: %s (%d ms)", strings.TrimSpace(e.Kind+" "+e.Target), e.Observed, e.Millis)
		}
	}
	s.check(ok && strings.Contains(why, "app.flow"), "the page says why", why)

	s.say("  both processes of the device are killed with -9 and started again")
	for _, p := range s.Procs {
		if p.Name == "run" || p.Name == "enforce" {
			p.Stop(syscall.SIGKILL)
		}
	}
	if err := s.SetFlow(120); err != nil {
		return err
	}
	if err := s.startDevice(); err != nil {
		return err
	}
	before := d.Sequence
	ok = s.Until("the device to come back", 15*time.Second, func() bool { return s.Device(s.id).Sequence > before+1 })
	d = s.Device(s.id)
	frozen, saw := s.Stopped()
	s.check(ok && d.Stage == "paused" && frozen, "it came back paused, the workload still frozen", saw)
	return nil
}

// resume tries a forged resume, then the true one, then the true one again.
func (s *story) resume() error {
	s.say("\n5. Resume: only by the right hand, and once")
	d := s.Device(s.id)
	if d.Pause == nil {
		return errors.New("the device is not paused")
	}
	order := func(key, out string) error {
		_, err := s.Ctl("factsctl", "resume", "--device", s.id, "--pause", d.Pause.ID, "--key", s.Path(key+".key"), "--out", s.Path(out))
		return err
	}
	if err := order("stranger", "forged.cbor"); err != nil {
		return err
	}
	if err := order("resume", "true.cbor"); err != nil {
		return err
	}
	if err := s.Post(s.id, s.Path("forged.cbor")); err != nil {
		return err
	}
	ok := s.Until("the refusal", 15*time.Second, func() bool { return s.said("resume refused") != "" })
	frozen, _ := s.Stopped()
	s.check(ok && frozen && s.Device(s.id).Stage == "paused", "a resume signed by a stranger is refused", s.said("resume refused"))
	if err := s.Post(s.id, s.Path("true.cbor")); err != nil {
		return err
	}
	ok = s.Until("operating again", 20*time.Second, func() bool { return s.Device(s.id).Stage == "operating" })
	through := false
	for _, r := range s.Reports(s.id) {
		through = through || r.Stage == "integration" && r.Sequence > d.Sequence
	}
	s.check(ok && s.Beating(), "the operator's resume ends the pause, the workload runs", "stage "+s.Device(s.id).Stage)
	s.check(through, "on its way it passed through integration", "")
	if err := s.Post(s.id, s.Path("true.cbor")); err != nil {
		return err
	}
	mark := s.Device(s.id).Sequence
	ok = s.Until("the second use to be refused", 15*time.Second, func() bool {
		for _, r := range s.Reports(s.id) {
			for _, f := range r.Findings {
				if r.Sequence >= mark && strings.Contains(f.Text, "resume refused") {
					return true
				}
			}
		}
		return false
	})
	s.check(ok && s.Device(s.id).Stage == "operating", "the same resume a second time is refused", s.said("resume refused"))
	return nil
}

// said returns the newest finding of any report that has this part.
func (s *story) said(part string) string {
	for _, r := range s.Reports(s.id) {
		for _, f := range r.Findings {
			if strings.Contains(f.Text, part) {
				return f.Text
			}
		}
	}
	return ""
}

// startDevice starts the two processes of the device.
func (s *story) startDevice() error {
	if _, err := s.StartEnforce(); err != nil {
		return err
	}
	return s.startRun()
}

func (s *story) startRun() error {
	p, err := s.StartRun()
	s.run = p
	return err
}
