package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/miotfacts/miotfacts/agent"
	"github.com/miotfacts/miotfacts/agent/confine"
	"github.com/miotfacts/miotfacts/agent/failsafe"
	"github.com/miotfacts/miotfacts/agent/mqtt"
	"github.com/miotfacts/miotfacts/agent/spool"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/facts/linux"
	"github.com/miotfacts/miotfacts/reference"
)

// run is the measuring process.
func run(ctx context.Context, c *config, log *slog.Logger, _ io.Writer) error {
	log = log.With("process", "run")
	roots, err := c.roots()
	if err != nil {
		return fail(exitNeeds, "copy the root public keys to the device", err)
	}
	d, err := openDevice(c)
	if err != nil {
		return err
	}
	defer d.close()
	bootID, err := readBootID(c)
	if err != nil {
		return fail(exitNeeds, "", err)
	}
	queue, err := spool.Open(c.stateOf("spool"), spool.Options{MaxBytes: c.Spool.MaxBytes})
	if err != nil {
		return fail(exitNeeds, "is the state directory writable, and the disk not full?", err)
	}
	defer queue.Close()
	root, err := linux.OpenRoot(c.Root)
	if err != nil {
		return fail(exitUsage, "root must be a directory", err)
	}
	if err := os.MkdirAll(c.stateOf("run"), 0o700); err != nil {
		return fail(exitNeeds, "is the state directory writable?", err)
	}
	var a *agent.Agent // the boot record is read when it is there
	options := linux.Options{AgentVersion: version, StateDir: c.stateOf("run"), Services: true,
		Cgroups: strings.Trim(c.Enforcer.CgroupRoot, "/"), Application: c.Application.Cgroup, Processes: c.Application.Processes}
	if options.TamperLines, err = linux.NewLines(c.Device.TamperLines); err != nil {
		return fail(exitUsage, "see device.tamper_lines in configs/factsd.toml", err)
	}
	enforcer := failsafe.Dial(c.Enforcer.Socket)
	asking, asked := context.WithTimeout(ctx, time.Second) // measuring does not wait for it
	if _, err := enforcer.Status(asking); err != nil {     // what the clock is, before the first round
		log.Warn("cannot ask the enforcer yet", "err", err)
	}
	asked()
	options.Synchronised = enforcer.Synchronised
	options.EnergyModel = func() (linux.EnergyModel, bool) {
		m := a.EnergyModel()
		if m == nil {
			return linux.EnergyModel{}, false
		}
		return linux.EnergyModel{Idle: int64(m.Idle), CPU: int64(m.CPU), Network: int64(m.Network)}, true
	}
	events := linux.NewEvents(root, options, log)
	options.Events = events
	if d.tpm != nil {
		options.PCRDigest = func() ([]byte, error) { return d.tpm.PCRDigest(a.PCRs()) }
	}
	sources, err := linux.Sources(root, options)
	if err != nil {
		return err
	}
	watchdog := newWatchdog()
	wall := newClock(c, enforcer.Synchronised)
	config := agent.Config{
		StateDir: c.stateOf("run"), ManifestPath: c.Reference.Manifest, KeyLists: c.Reference.KeyLists, Roots: roots,
		UEID: d.ueid, Vendor: c.Device.Vendor, Model: c.Device.Model, Serial: c.Device.Serial, Version: version, BootID: bootID,
		Signer: d.signer, Protection: d.protection, Identity: d.identity,
		Sources: sources, Events: events, AppSocket: c.Application.FactsSocket, AppUIDs: c.applicationUIDs,
		Now: wall.now, Uptime: linux.Uptime,
		Enforcer: enforcer, Spool: queue, Alive: watchdog.alive, Log: log,
	}
	if c.Broker.Certificate == "" { // else another authority's certificate names the key
		config.Keys, config.Renewal, config.NextKey = d.keys, d.renewal, d.nextKey
	}
	if d.notRenewed != nil {
		log.Error("cannot follow the order to renew the device key", "err", d.notRenewed)
	}
	if d.tpm != nil {
		config.TPM = d.tpm
		config.Logs = []agent.LogFile{ // what proves nothing without a quote is not sent
			{Log: attest.LogFirmware, Path: c.below("sys/kernel/security/tpm0/binary_bios_measurements")},
			{Log: attest.LogUserspace, Path: c.below("run/log/systemd/tpm2-measure.log")},
			{Log: attest.LogIMA, Path: c.below("sys/kernel/security/ima/binary_runtime_measurements")},
		}
	}
	config.Notes = giveUp(c, log)
	if a, err = agent.New(config); err != nil {
		return fail(exitNeeds, "", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sent := make(chan error, 1)
	go func() { sent <- deliver(ctx, c, d, queue, a, events.Network(), log) }()
	// What only the start, and the first report with the logs of the boot, needed.
	defer time.AfterFunc(time.Minute, debug.FreeOSMemory).Stop()
	daemon.SdNotify(false, daemon.SdNotifyReady)
	log.Info("measuring", "device", d.ueid, "key", d.protection, "version", version, "clock", wall.words())
	err = a.Run(ctx)
	cancel()
	if derr := <-sent; derr != nil && !errors.Is(derr, context.Canceled) {
		return derr
	}
	if errors.Is(err, agent.ErrNewManifest) || errors.Is(err, agent.ErrNewKey) {
		log.Info("ending, to be started anew by the supervisor", "because", err)
		return nil
	}
	return err
}

// giveUp gives up what the measuring process does not need, and returns what this
// kernel does not let it give up.
func giveUp(c *config, log *slog.Logger) (notes []string) {
	if !c.Sandbox {
		return nil
	}
	missing := func(what string) {
		log.Warn("not confined by itself", "missing", what)
		notes = append(notes, "sandbox: "+what)
	}
	ports := []uint16{53} // name servers, where an answer is long
	if u, err := url.Parse(c.Broker.URL); err == nil {
		if port, err := strconv.ParseUint(cmp.Or(u.Port(), "8883"), 10, 16); err == nil {
			ports = append(ports, uint16(port))
		}
	}
	// In /proc/pressure the kernel is asked to tell of it.
	write := []string{c.stateOf("run"), c.stateOf("spool"), c.Key.TPM, os.DevNull, "/proc/pressure"}
	if c.Application.FactsSocket != "" {
		write = append(write, filepath.Dir(c.Application.FactsSocket))
	}
	version, err := confine.Landlock(confine.Reach{Write: write, Ports: ports})
	switch {
	case err != nil:
		missing(err.Error())
	case version < 4:
		missing(fmt.Sprintf("Landlock %d of this kernel does not tell ports apart", version))
	}
	if err := confine.Confine(confine.Programs()...); err != nil {
		missing(err.Error())
	}
	return notes
}

// deliver moves the spool's messages to the broker until ctx ends.
func deliver(ctx context.Context, c *config, d *device, queue *spool.Spool, a *agent.Agent, network <-chan struct{}, log *slog.Logger) error {
	if c.Broker.URL == "" {
		log.Warn("no broker: reports stay in the spool")
		<-ctx.Done()
		return ctx.Err()
	}
	tlsConfig, err := brokerTLS(c, d.tls)
	if err != nil {
		return err
	}
	client, err := mqtt.New(mqtt.Config{
		Broker: c.Broker.URL, ClientID: d.ueid.String(), TLS: tlsConfig, Prefix: c.Broker.Prefix, Ack: mqtt.AckMode(c.Broker.Ack), Changed: network, Logger: log,
	}, queue, func(_ string, payload []byte) { a.Deliver(payload) })
	if err != nil {
		return fail(exitUsage, "see the keys of [broker]", err)
	}
	return client.Run(ctx)
}

// netfilter returns the socket of the device's packet filter that systemd passes
// (sd_listen_fds(3)), nil without one.
func netfilter() *os.File {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDNAMES") != "netfilter" {
		return nil
	}
	const first = 3 // SD_LISTEN_FDS_START
	unix.CloseOnExec(first)
	return os.NewFile(first, "netfilter")
}

// latchTPM returns the TPM for the latch, nil without one.
func latchTPM(c *config) *lateTPM {
	if !c.Enforcer.NV || c.Key.TPM == "" {
		return nil
	}
	return &lateTPM{open: func() (*tpm.TPM, error) { return openTPM(c, 0) }}
}

// enforcerConfig is what both the enforcer and a look at its chain need.
func enforcerConfig(c *config, log *slog.Logger) (failsafe.Config, error) {
	roots, err := c.roots()
	if err != nil {
		return failsafe.Config{}, fail(exitNeeds, "copy the root public keys to the device", err)
	}
	var missing []string
	ueid, err := readIdentity(c)
	if err != nil {
		if _, serr := os.Stat(c.stateOf("enforce")); serr != nil {
			return failsafe.Config{}, fail(exitNeeds, "run factsd provision first", fmt.Errorf("cannot tell which device this is: %w", err))
		}
		// A pause is held all the same. By a name that nobody knows no order is made.
		rand.Read(ueid[:])
		missing = append(missing, fmt.Sprintf("cannot tell which device this is, no resume will do: %v", err))
	}
	broker := ""
	if u, err := url.Parse(c.Broker.URL); err == nil {
		broker = u.Host
	}
	verifier, err := failsafe.VerifierPeers(c.Enforcer.Verifier, broker)
	if err != nil {
		return failsafe.Config{}, fail(exitUsage, "write addresses as in configs/factsd.toml", fmt.Errorf("enforcer.verifier: %w", err))
	}
	return failsafe.Config{
		StateDir: c.stateOf("enforce"), Socket: c.Enforcer.Socket, AllowUIDs: append([]uint32{0}, c.enforcerUIDs...),
		Device: ueid[:], Vendor: c.Device.Vendor, Model: c.Device.Model, AgentVersion: version,
		ManifestPath: c.Reference.Manifest, KeyLists: c.Reference.KeyLists, Roots: roots, Now: newClock(c, nil).now, Synchronised: synchronised,
		AppSocket: c.Application.TellSocket, CgroupRoot: c.Enforcer.CgroupRoot, NeverTouch: c.Enforcer.NeverTouch, Logger: log,
		Verifier: verifier, Network: "/proc/1/ns/net", Sysfs: c.Enforcer.Sysfs, Hooks: reference.HookDir,
		Missing: missing,
	}, nil
}

// enforce is the process that holds the pause.
func enforce(ctx context.Context, c *config, log *slog.Logger, _ io.Writer) error {
	log = log.With("process", "enforce")
	config, err := enforcerConfig(c, log)
	if err != nil {
		return err
	}
	config.Netfilter = netfilter()
	// What is missing is said, and keeps nobody from holding the pause.
	hardware, err := openHardwareWatchdog(c.Enforcer.Watchdog)
	if err != nil {
		config.Missing = append(config.Missing, err.Error()+"; is the driver loaded, and does nobody else feed it? systemd does with RuntimeWatchdogSec=")
	}
	supervisor := newWatchdog()
	config.Alive = func() { supervisor.alive(); hardware.alive() }
	// What is ordered after the enforcer starts once a pause is in force again.
	config.Ready = func() { daemon.SdNotify(false, daemon.SdNotifyReady) }
	if t := latchTPM(c); t != nil {
		defer t.close()
		config.NV = t
	}
	// Each is worth having and none is worth a device that does not come up.
	if c.Sandbox {
		if err := confine.Confine(); err != nil {
			log.Warn("not confined by itself", "err", err)
		}
	}
	if c.Enforcer.Priority > 0 {
		// While the disk is written there is more to do.
		runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), 2))
		debug.FreeOSMemory() // what only the start needed; locked memory is never given back
		if err := errors.Join(stayInMemory(), comeFirst(c.Enforcer.Priority)); err != nil {
			log.Warn("a pause may wait for other processes", "err", err)
		}
	}
	e, err := failsafe.New(config)
	if err != nil {
		return fail(exitNeeds, "is the state directory writable?", err)
	}
	err = e.Run(ctx)
	if ctx.Err() != nil {
		hardware.close()
	}
	return err
}

// dryRun prints what each step of the chain would do.
func dryRun(c *config, asJSON bool, log *slog.Logger, out io.Writer) error {
	config, err := enforcerConfig(c, log)
	if err != nil {
		return err
	}
	if t := latchTPM(c); t != nil {
		defer t.close()
		config.NV = t
	}
	r, err := failsafe.DryRun(context.Background(), config)
	if err != nil {
		return fail(exitNeeds, "it opens the manifest and the key lists as factsd enforce does", err)
	}
	if asJSON {
		return json.NewEncoder(out).Encode(r)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(out, "note: %s\n", n)
	}
	for i, s := range r.Steps {
		fmt.Fprintf(out, "%d. %s\n   now:    %s\n", i+1, strings.TrimSpace(s.Do+" "+s.Target), s.Now)
		if s.Refuse != "" {
			fmt.Fprintf(out, "   fails:  %s\n", s.Refuse)
			continue
		}
		fmt.Fprintf(out, "   pause:  %s, within %d ms\n   resume: %s\n", s.Would, s.Within, s.Undo)
	}
	if len(r.Steps) == 0 {
		fmt.Fprintln(out, "the manifest has no steps")
	}
	return nil
}

// status prints what the enforcer says.
func status(ctx context.Context, c *config, _ *slog.Logger, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	s, err := failsafe.Dial(c.Enforcer.Socket).Status(ctx)
	if err != nil {
		return fail(exitNeeds, "is factsd enforce running, and may this user ask it?", err)
	}
	fmt.Fprintf(out, "latch: %s\n", s.Latch)
	if s.Reason != "" {
		fmt.Fprintf(out, "pause: %x\nreason: %s\n", s.PauseID, s.Reason)
	}
	if m := s.Maintenance; m != nil {
		fmt.Fprintf(out, "maintenance: for at most %d s more\n", (m.Until-linux.Uptime())/1000)
	}
	if d := s.Deferral; d != nil {
		if left := d.Until - linux.Uptime(); d.Ended == 0 {
			fmt.Fprintf(out, "deferred: by the application, for at most %d ms more\n", left)
		} else {
			fmt.Fprintf(out, "deferred: by the application, for %d ms\n", d.Ended-d.Began)
		}
	}
	for _, e := range s.Effects {
		fmt.Fprintf(out, "step: %s %s: %s (%d ms)\n", e.Kind, e.Target, e.Observed, e.Millis)
	}
	for _, d := range s.Degraded {
		fmt.Fprintf(out, "degraded: %s\n", d)
	}
	return nil
}

// readBootID reads the kernel's random id of this boot.
func readBootID(c *config) ([16]byte, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return [16]byte{}, fmt.Errorf("cannot read boot id: %w", err)
	}
	id, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(data)), "-", ""))
	if err != nil || len(id) != 16 {
		return [16]byte{}, fmt.Errorf("cannot read boot id: %q is not a UUID", data)
	}
	return [16]byte(id), nil
}

// A clock tells what the device knows of the time.
type clock struct {
	trusted      bool
	earliest     int64                // Unix seconds: when this program was made
	synchronised func() (bool, error) // by a time source
}

// buildTime is set at link time to the time of the release, in Unix seconds. A
// device without a clock knows at least that it is not earlier.
var buildTime = "1767225600" // 2026-01-01

// newClock returns a clock that asks the kernel, and other where it may not.
func newClock(c *config, other func() (bool, error)) *clock {
	n, err := strconv.ParseInt(buildTime, 10, 64)
	if err != nil {
		n = 0 // whoever links it so knows nothing of the time
	}
	return &clock{trusted: c.Clock.Trusted, earliest: n, synchronised: func() (bool, error) {
		is, err := synchronised()
		if errors.Is(err, unix.EPERM) && other != nil {
			return other()
		}
		return is, err
	}}
}

func (c *clock) now() reference.Interval {
	wall := time.Now().Unix()
	if wall >= c.earliest {
		if c.trusted {
			return reference.At(wall)
		}
		if is, err := c.synchronised(); err == nil && is {
			return reference.At(wall)
		}
	}
	return reference.Interval{Earliest: c.earliest}
}

// words says whether the clock is synchronised.
func (c *clock) words() string {
	switch is, err := c.synchronised(); {
	case err != nil:
		return "not known: " + err.Error()
	case is:
		return "synchronised"
	}
	return "not synchronised"
}

// synchronised reports whether the kernel says that a time source disciplines
// its clock (adjtimex(2), STA_UNSYNC).
func synchronised() (bool, error) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0, err
}
