package failsafe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/appraise"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
	"github.com/miotfacts/miotfacts/reference"
)

// withoutNetlink takes the netlink sockets from this process, as
// RestrictAddressFamilies= of a unit does, and as a kernel without them.
func withoutNetlink() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	f := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},                                    // number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jt: 0, Jf: 3},       //
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16},                                   // its first argument
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_NETLINK, Jt: 0, Jf: 1},       //
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)}, //
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	p := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(f)
	if errno != 0 {
		return errno
	}
	return nil
}

// A wornTPM stands in front of a real one and refuses to write NV memory, as
// one whose cells are worn does (TPM_RC_NV_UNAVAILABLE). It returns its address.
func wornTPM(t *testing.T, e *tpmtest.Emulator, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "worn")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			command := make([]byte, 4096)
			n, err := conn.Read(command)
			if command = command[:n]; err == nil && n >= 10 {
				answer := binary.BigEndian.AppendUint32([]byte{0x80, 1, 0, 0, 0, 10}, uint32(tpm2.TPMRCNVUnavailable))
				if code := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])); code != tpm2.TPMCCNVWrite {
					answer, err = e.Send(command)
				}
				if err == nil {
					conn.Write(answer)
				}
			}
			conn.Close()
		}
	}()
	return "unix:" + path
}

// fillNV leaves no room in the NV memory of a TPM.
func fillNV(t *testing.T, e *tpmtest.Emulator) {
	t.Helper()
	for size := uint16(1024); size > 0; {
		for index := tpm2.TPMHandle(0x01900000); ; index++ {
			if _, err := (tpm2.NVReadPublic{NVIndex: index}).Execute(e); err == nil {
				continue
			}
			_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
				NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: size,
				Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, NT: tpm2.TPMNTOrdinary},
			})}.Execute(e)
			if errors.Is(err, tpm2.TPMRCNVSpace) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		size /= 4
	}
}

// kinds are those of a chain of all sorts, in its order.
var allKinds = []reference.ReactionKind{
	reference.Tell, reference.Freeze, reference.Signal, reference.StopUnit, reference.MaskUnit, reference.Quarantine,
	reference.BlockUSB, reference.GPIO, reference.LED, reference.Beep, reference.Sysfs, reference.Hook,
}

// simulate puts simulated files of /sys and /dev, a hook, and a program to stop
// into a device's directory.
func simulate(t *testing.T, d *device) {
	t.Helper()
	d.env = append(d.env, "FAILSAFE_SIMULATED=1")
	for name, text := range map[string]string{
		"sys/kernel/pump": "100", "sys/class/leds/red:alarm/trigger": "none", "sys/class/leds/red:alarm/brightness": "0",
		"sys/bus/usb/devices/usb1/authorized_default": "1", "sys/bus/usb/devices/1-1/authorized": "1",
		"sys/bus/usb/devices/1-1/removable": "removable", "sys/bus/usb/devices/1-1/bDeviceClass": "00",
		"dev/gpiochip0": "", "dev/" + simulatedLine: "in   ", "dev/input/event0": "",
		"hooks/relay": "#!/bin/sh\necho $1 > " + d.path("hooked") + "\n",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(d.path(name)), 0o755), os.WriteFile(d.path(name), []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
}

// startPump starts a program of the device's own, for the step that signals it.
func startPump(t *testing.T, d *device) *exec.Cmd {
	t.Helper()
	sleep, err := exec.LookPath("sleep")
	if err == nil {
		var data []byte
		if data, err = os.ReadFile(sleep); err == nil {
			err = os.WriteFile(d.path("pump"), data, 0o755)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(d.path("pump"), "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func (d *device) reaction(do reference.ReactionKind, cgroup string) reference.Reaction {
	r := reference.Reaction{Do: do, Deadline: 2000}
	switch do {
	case reference.Freeze:
		r.Target = cgroup
	case reference.Signal:
		r.Target, r.Signal = d.path("pump"), sigStop
	case reference.StopUnit, reference.MaskUnit:
		r.Target = "pump.service"
	case reference.GPIO:
		r.Target, r.Value = "gpiochip0:17", "1"
	case reference.LED:
		r.Target, r.Value = "red:alarm", "255"
	case reference.Beep:
		r.Target, r.Value = "event0", "2000"
	case reference.Sysfs:
		r.Target, r.Value = "/sys/kernel/pump", "0"
	case reference.Hook:
		r.Target = "relay"
	}
	return r
}

// TestDegraded takes one thing after the other from an enforcer and its device,
// pauses it with a chain of all sorts, kills it, and lets it come back: paused
// each time, all other steps done, and what is missing said in the status, which
// the next report carries, and in the log. docs/safety.md has the same rows.
func TestDegraded(t *testing.T) {
	doc, err := os.ReadFile("../../docs/safety.md")
	if err != nil {
		t.Fatal(err)
	}
	type world struct {
		d    *device
		argv []string // the enforcer runs under it
		disk func()   // takes the disk away when the device has been provisioned
		back func()   // and brings it back
	}
	shell := func(script string) []string { return []string{"unshare", "-m", "sh", "-c", script + `; exec "$0"`} }
	for _, tt := range []struct {
		without string // as in docs/safety.md
		take    func(t *testing.T, w *world)
		fails   []reference.ReactionKind
		effect  string // in the words of each step that fails
		said    string // in what the status says besides
	}{
		{"all is there", func(*testing.T, *world) {}, nil, "", ""},
		{"application", func(_ *testing.T, w *world) { w.d.cfg.AppSocket = w.d.path("none") }, []reference.ReactionKind{reference.Tell}, "cannot reach the application", ""},
		{"D-Bus", func(_ *testing.T, w *world) {
			w.d.env = append(w.d.env, "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent")
		},
			[]reference.ReactionKind{reference.StopUnit, reference.MaskUnit}, "cannot reach the system bus", ""},
		{"systemd", func(t *testing.T, w *world) { w.d.env = append(w.d.env, "DBUS_SYSTEM_BUS_ADDRESS="+newBus(t)) },
			[]reference.ReactionKind{reference.StopUnit, reference.MaskUnit}, "cannot reach systemd", ""},
		{"cgroup v2", func(_ *testing.T, w *world) { w.argv = shell("umount " + cgroupRoot) }, []reference.ReactionKind{reference.Freeze}, "cannot reach cgroup", ""},
		{"nf_tables", func(_ *testing.T, w *world) { w.d.env = append(w.d.env, "FAILSAFE_NETLINK=none") }, []reference.ReactionKind{reference.Quarantine}, "this kernel has no nf_tables", ""},
		{"CAP_NET_ADMIN", func(_ *testing.T, w *world) {
			w.argv = []string{"setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"}
		}, []reference.ReactionKind{reference.Quarantine}, "CAP_NET_ADMIN is missing", ""},
		{"GPIO chip", func(t *testing.T, w *world) { gone(t, w.d.path("dev/gpiochip0")) }, []reference.ReactionKind{reference.GPIO}, "no such file", ""},
		{"/sys", func(t *testing.T, w *world) { gone(t, w.d.path("sys")) },
			[]reference.ReactionKind{reference.BlockUSB, reference.LED, reference.Sysfs}, "no such file", ""},
		{"hooks", func(t *testing.T, w *world) { gone(t, w.d.path("hooks")) }, []reference.ReactionKind{reference.Hook}, "no such file", ""},
		{"TPM", func(t *testing.T, w *world) { w.d.env = append(w.d.env, "FAILSAFE_TPM=unix:/nonexistent") }, nil, "", "the files alone hold the latch"},
		{"room in the TPM", func(t *testing.T, w *world) {
			e := tpmtest.New(t)
			fillNV(t, e)
			w.d.env = append(w.d.env, "FAILSAFE_TPM="+e.Addr)
		}, nil, "", "the files alone hold the latch"},
		{"NV cells that can be written", func(t *testing.T, w *world) {
			w.d.env = append(w.d.env, "FAILSAFE_TPM="+wornTPM(t, tpmtest.New(t), w.d.dir))
		}, nil, "", "the files alone hold the latch"},
		{"what the TPM held", func(t *testing.T, w *world) {
			e := tpmtest.New(t)
			w.d.env = append(w.d.env, "FAILSAFE_TPM="+e.Addr)
			w.disk = e.Clear
		}, nil, "", "it is new or was cleared"},
		{"room on the disk", func(t *testing.T, w *world) {
			w.disk = func() { fill(t, w.d.cfg.StateDir) }
			w.back = func() { gone(t, filepath.Join(w.d.cfg.StateDir, "ballast")) }
		}, nil, "", "no space left on device"},
		{"a disk that can be written", func(t *testing.T, w *world) {
			remount := func(flags uintptr) {
				if err := syscall.Mount("none", w.d.cfg.StateDir, "", syscall.MS_REMOUNT|flags, ""); err != nil {
					t.Fatal(err)
				}
			}
			w.disk, w.back = func() { remount(syscall.MS_RDONLY) }, func() { remount(0) }
		}, nil, "", "read-only file system"},
	} {
		t.Run(strings.ReplaceAll(tt.without, "/", ""), func(t *testing.T) {
			if tt.without != "all is there" && !bytes.Contains(doc, []byte("\n| "+tt.without+" | ")) {
				t.Errorf("docs/safety.md has no row %q", tt.without)
			}
			in := ownNetwork(t)
			cgroup := workload(t)
			d := small(t, 256<<10)
			simulate(t, d)
			startPump(t, d)
			d.manifest(func(m *reference.Manifest) {
				m.Reaction = nil
				for _, do := range allKinds {
					m.Reaction = append(m.Reaction, d.reaction(do, cgroup))
				}
			})
			f := newFakeSystemd(t, newBus(t))
			d.env = append(d.env, "DBUS_SYSTEM_BUS_ADDRESS="+f.address, "FAILSAFE_LOG="+d.path("log"))
			f.add(t, "pump.service", "active", nil)
			d.cfg.AppSocket = d.path("app")
			pretend(t, d.cfg.AppSocket, func(_ string, conn net.Conn) { io.WriteString(conn, "ok\n") })
			w := &world{d: d}
			tt.take(t, w)
			var c *child
			start := func() {
				t.Helper()
				in(func() {
					if c = d.childUnder(w.argv...); c == nil {
						t.Error("the enforcer ended before it was ready")
					}
				})
				if c == nil {
					t.FailNow()
				}
			}
			start()
			if w.disk != nil {
				c.kill()
				w.disk()
				start()
			}
			look := func(when string) Status {
				t.Helper()
				s := untilPhaseOf(t, c, PhasePaused)
				if s.Latch != appraise.LatchPaused || len(s.Effects) != len(allKinds) {
					t.Fatalf("%s: %+v", when, s)
				}
				for _, e := range s.Effects {
					// What is frozen or stopped already is not told again.
					told := e.Kind == reference.Tell && strings.Contains(e.Observed, "is frozen or stopped already")
					if want := !slices.Contains(tt.fails, e.Kind); e.Done != want && !told || !want && !strings.Contains(e.Observed, tt.effect) {
						t.Errorf("%s: %s: done %v, %q", when, e.Kind, e.Done, e.Observed)
					}
				}
				if said := strings.Join(s.Degraded, "\n"); !strings.Contains(said, tt.said) {
					t.Errorf("%s: said %q, want %q in it", when, said, tt.said)
				}
				return s
			}
			if s, err := c.client.Pause(ctx10(t), crossing()); err != nil || s.Latch != appraise.LatchPaused {
				t.Fatalf("%+v, %v", s, err)
			}
			id := look("paused").PauseID
			c.kill()
			if w.disk != nil {
				w.disk()
			}
			start()
			s := look("after a restart")
			if s.PauseID != id {
				t.Errorf("it came back with another pause: %x, %x", s.PauseID, id)
			}
			for _, words := range []string{tt.effect, tt.said} {
				if log, err := os.ReadFile(d.path("log")); err != nil || !bytes.Contains(log, []byte(words)) {
					t.Errorf("the log does not say %q: %v", words, err)
				}
			}
			order := d.resume(id, d.world.Resume, nil)
			_, err := c.client.Resume(ctx10(t), order)
			if w.back != nil {
				// What cannot be written down does not count.
				if s, serr := c.client.Status(ctx10(t)); err == nil || serr != nil || s.Latch != appraise.LatchPaused {
					t.Errorf("resumed: %v, %+v, %v", err, s, serr)
				}
				w.back()
				_, err = c.client.Resume(ctx10(t), order)
			}
			if err != nil {
				t.Fatal(err)
			}
			untilPhaseOf(t, c, PhaseClear)
			if frozen(t, cgroup) {
				t.Error("resumed and frozen")
			}
		})
	}
}

func gone(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// fill leaves no room in a folder's file system.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// untilPhaseOf waits until an enforcer in a process of its own is in a phase.
func untilPhaseOf(t *testing.T, c *child, p Phase) Status {
	t.Helper()
	ctx := ctx10(t)
	for {
		s, err := c.client.Status(ctx)
		if err != nil {
			t.Fatalf("never %s: %v", p, err)
		}
		if s.Phase == p {
			return s
		}
	}
}

// A TPM that could not be read at the start is read before it is written: what it
// says counts then, but for a pause that was resumed meanwhile.
func TestTPMComesLate(t *testing.T) {
	for _, tt := range []struct {
		name           string
		paused, resume bool // the TPM says paused; that pause is resumed before it is back
		want           Phase
	}{
		{"it says clear", false, false, PhaseClear},
		{"it says paused, and the files were put back", true, false, PhasePaused},
		{"it says paused, and that was resumed", true, true, PhaseClear},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := tpmtest.New(t)
			d := newDevice(t, nil)
			d.cfg.NV = &lateNV{addr: e.Addr}
			r := d.start()
			var id [16]byte
			says := func(paused bool) func(Status) bool {
				return func(Status) bool {
					rec, err := d.cfg.NV.ReadLatch()
					return err == nil && rec.Paused == paused && rec.Floor == 3
				}
			}
			r.until(t, "clear in the TPM", says(false))
			if tt.paused {
				id = r.mustPause(t).PauseID
				r.until(t, "paused in the TPM", says(true))
			}
			r.stop()
			e.Kill()
			if tt.paused && !tt.resume {
				// As they were before the pause.
				clear := record{Version: 1, Generation: 9, Phase: PhaseClear}
				for _, name := range copyNames {
					if err := writeState(filepath.Join(d.cfg.StateDir, name), clear); err != nil {
						t.Fatal(err)
					}
				}
			}
			r = d.start()
			if said := strings.Join(r.status().Degraded, "\n"); !strings.Contains(said, "the files alone hold the latch") {
				t.Errorf("said %q", said)
			}
			if tt.resume {
				if _, err := r.client.Resume(ctx10(t), d.resume(id, d.world.Resume, nil)); err != nil {
					t.Fatal(err)
				}
			}
			r.untilPhase(t, PhaseClear)
			e.PowerOn()
			r.reload() // as every minute
			s := r.untilPhase(t, tt.want)
			r.until(t, "in step with the TPM", says(tt.want == PhasePaused))
			s = r.until(t, "not degraded", func(s Status) bool { return !strings.Contains(strings.Join(s.Degraded, "\n"), "the files alone") })
			if s.Phase != tt.want || tt.want == PhasePaused && !strings.Contains(s.Reason, "the latch in the TPM says paused") {
				t.Errorf("%+v", s)
			}
		})
	}
}
