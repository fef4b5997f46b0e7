package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/broker"
	"github.com/miotfacts/miotfacts/verifier/store"
	"github.com/miotfacts/miotfacts/verifier/web"
)

func newRunCommand() *cobra.Command {
	path := defaultConfig
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the verifier",
		Long: `Runs broker, verifier, web page and admin socket until it gets SIGTERM or
SIGINT. It tells systemd when it is ready.

At SIGHUP it reads the configuration again and takes over what its section
[reference] names: manifests, key lists, labels, advisories, observations. If
any of it is wrong, all stays as it was, and the log says why.`,
		Example: `  factsverifier run --config /etc/miotfacts/factsverifier.toml`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := readConfig(path)
			if err != nil {
				return err
			}
			level, err := conf.level()
			if err != nil {
				return err
			}
			return run(c.Context(), conf, path, slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: level})))
		},
	}
	c.Flags().StringVar(&path, "config", path, "configuration `FILE`")
	return c
}

// A bus is the way to devices: an embedded broker or another one.
type bus interface {
	Run(ctx context.Context) error
	Send(id attest.UEID, payload []byte, until time.Time) error
	Announce(payload []byte) error
	Drop(id attest.UEID)
}

func run(ctx context.Context, c *config, path string, log *slog.Logger) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	s, err := store.Open(c.path(c.Store))
	if err != nil {
		return fail(exitNeeds, "is the directory writable, and no other verifier running?", err)
	}
	defer s.Close()
	changes := web.NewChanges()
	v, err := newVerifier(c, s, changes, log)
	if err != nil {
		return err
	}
	b, err := newBus(c, v, s, log)
	if err != nil {
		return err
	}
	pages := web.New(web.Backend{Fleet: v, History: s, Commands: &commander{v, b}, Labels: v, Changes: changes}, web.Options{URL: c.Web.URL, Broker: c.Broker.URL, Log: log})
	admin := (&admin{verifier: v, chronicle: s, certificates: c.Broker.URL == "", bus: b, log: log}).handler(pages)

	tasks := []func(context.Context) error{b.Run, func(ctx context.Context) error { return reload(ctx, hangup, path, v, log) }}
	socket, err := listenUnix(c.path(c.Admin.Socket))
	if err != nil {
		return fail(exitNeeds, "check admin.socket", err)
	}
	tasks = append(tasks, serve(socket, admin, changes))
	if c.Web.Listen != "" {
		l, err := listenWeb(c)
		if err != nil {
			return err
		}
		log.Info("the pages are", "at", l.Addr())
		tasks = append(tasks, serve(l, pages, changes))
	}
	if days := c.Retention.RoutineDays; days > 0 {
		tasks = append(tasks, func(ctx context.Context) error { return prune(ctx, s, days, log) })
	}
	if c.Freshness.Epoch > 0 {
		tasks = append(tasks, func(ctx context.Context) error { return epochs(ctx, v, b, log) })
	}
	if days := c.Enrolment.RenewDays; days > 0 {
		tasks = append(tasks, func(ctx context.Context) error { return renewOld(ctx, v, b, int64(days)*86400, log) })
	}
	log.Info("verifying", "version", version(), "store", c.path(c.Store))
	daemon.SdNotify(false, daemon.SdNotifyReady)
	err = together(ctx, tasks)
	daemon.SdNotify(false, daemon.SdNotifyStopping)
	if err != nil {
		return fail(exitFailed, "", err)
	}
	return nil
}

// together runs tasks until ctx ends or one of them does; then all end.
func together(ctx context.Context, tasks []func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(tasks))
	var wg sync.WaitGroup
	for i, task := range tasks {
		wg.Go(func() {
			defer cancel()
			errs[i] = task(ctx)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func newVerifier(c *config, s *store.Store, changes *web.Changes, log *slog.Logger) (*verifier.Verifier, error) {
	cfg := verifier.Config{
		RequireEKCert: c.Enrolment.RequireEKCertificate, MaxWaiting: c.Enrolment.MaxWaiting,
		Build: "factsverifier " + version(), Changed: changes.Tell, Epoch: time.Duration(c.Freshness.Epoch) * time.Second,
	}
	var err error
	if cfg.Result, err = c.signer("keys.result", c.Keys.Result); err != nil {
		return nil, err
	}
	if c.Keys.Command != "" {
		if cfg.Command, err = c.signer("keys.command", c.Keys.Command); err != nil {
			return nil, err
		}
	}
	if err := c.policy(&cfg, log); err != nil {
		return nil, err
	}
	if cfg.EKRoots, err = c.certificates("enrolment.ek_roots", c.Enrolment.EKRoots); err != nil {
		return nil, err
	}
	v, err := verifier.New(cfg, s)
	if err != nil {
		return nil, fail(exitUsage, "", err)
	}
	return v, nil
}

// policy adds to cfg what devices are held against.
func (c *config) policy(cfg *verifier.Config, log *slog.Logger) (err error) {
	cfg.NoReferences = c.Reference.Without
	if cfg.References, err = c.references(time.Now().Unix(), log); err != nil {
		return err
	}
	if cfg.Files, err = c.files(); err != nil {
		return err
	}
	return c.labels(cfg, log)
}

// reload takes over, at each signal, what devices are held against.
func reload(ctx context.Context, signals <-chan os.Signal, path string, v *verifier.Verifier, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals:
		}
		c, err := readConfig(path)
		var cfg verifier.Config
		if err == nil {
			err = c.policy(&cfg, log)
		}
		if err == nil {
			err = v.Reload(cfg)
		}
		if err != nil {
			log.Error("nothing is taken over, all stays as it was", "err", err)
			continue
		}
		log.Info("took over manifests, labels and observations; other keys count from the next start")
	}
}

func newBus(c *config, v *verifier.Verifier, s *store.Store, log *slog.Logger) (bus, error) {
	cfg := broker.Config{Prefix: c.Broker.Prefix, Handler: v, Log: log}
	if c.Broker.URL != "" {
		return newExternal(c, cfg)
	}
	pair, err := c.keyPair("broker", c.Broker.Certificate, c.Broker.Key)
	if err != nil {
		return nil, err
	}
	b, err := broker.Listen(cfg, broker.EmbeddedConfig{Address: c.Broker.Listen, TLS: pair, MaxClients: c.Broker.MaxClients, Devices: s})
	if err != nil {
		return nil, fail(exitNeeds, "check broker.listen: is the port free?", err)
	}
	log.Info("the broker listens", "at", b.Addr())
	return b, nil
}

func newExternal(c *config, cfg broker.Config) (bus, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS13}
	var err error
	if conf.RootCAs, err = c.certificates("broker.ca", []string{c.Broker.CA}); err != nil {
		return nil, err
	}
	if c.Broker.Certificate != "" {
		pair, err := c.keyPair("broker", c.Broker.Certificate, c.Broker.Key)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	ext := broker.ExternalConfig{URL: c.Broker.URL, TLS: conf, ClientID: c.Broker.ClientID, Username: c.Broker.Username, Group: c.Broker.Group}
	if c.Broker.Password != "" {
		data, err := c.read("broker.password_file", c.Broker.Password)
		if err != nil {
			return nil, err
		}
		ext.Password = strings.TrimRight(string(data), "\r\n")
	}
	x, err := broker.Connect(cfg, ext)
	if err != nil {
		return nil, fail(exitUsage, "check the keys of [broker]", err)
	}
	return x, nil
}

// A commander forwards operators' commands to devices.
type commander struct {
	verifier *verifier.Verifier
	bus      bus
}

// epochAgain is the pause before an epoch that could not be told is told again.
const epochAgain = 5 * time.Second

// commandLife bounds how long a command waits for its device.
const commandLife = 24 * time.Hour

func (c *commander) Submit(id attest.UEID, document []byte) error {
	data, err := c.verifier.Command(id, document)
	if err != nil {
		return err
	}
	until := time.Now().Add(commandLife)
	// Not verified: only to not keep what the device would refuse for its age.
	var order reference.Command
	if u, err := cose.Parse(document, reference.MaxCommandSize); err == nil && cose.Decode(u.UnverifiedPayload(), reference.MaxCommandSize, &order) == nil {
		if end := time.Unix(order.NotAfter, 0); end.Before(until) {
			until = end
		}
	}
	return c.bus.Send(id, data, until)
}

// listenUnix opens a socket that only this user may use.
func listenUnix(path string) (net.Listener, error) {
	// The store is locked, so a socket that is there is left from a crash.
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("cannot remove old socket: %w", err)
		}
	}
	old := syscall.Umask(0o177) // no moment in which others could connect
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("cannot open admin socket: %w", err)
	}
	return l, nil
}

func listenWeb(c *config) (net.Listener, error) {
	l, err := net.Listen("tcp", c.Web.Listen)
	if err != nil {
		return nil, fail(exitNeeds, "check web.listen: is the port free?", fmt.Errorf("cannot listen for the pages: %w", err))
	}
	if c.Web.Certificate == "" {
		return l, nil
	}
	pair, err := c.keyPair("web", c.Web.Certificate, c.Web.Key)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}), nil
}

// serve returns a task that serves HTTP.
func serve(l net.Listener, h http.Handler, changes *web.Changes) func(context.Context) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
	}
	s.RegisterOnShutdown(changes.Close)
	return func(ctx context.Context) error {
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(l) }()
		select {
		case err := <-ended:
			return fmt.Errorf("cannot serve %s: %w", l.Addr(), err)
		case <-ctx.Done():
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return s.Shutdown(ctx)
	}
}

// epochs tells all devices which epoch it is, again when the next one begins.
func epochs(ctx context.Context, v *verifier.Verifier, b bus, log *slog.Logger) error {
	for {
		again := epochAgain
		message, until, err := v.Epoch(time.Now().Unix())
		if err == nil {
			err = b.Announce(message)
		}
		if err != nil {
			log.Error("cannot tell the devices of an epoch", "err", err)
		} else {
			again = time.Until(time.Unix(until, 0))
		}
		wait := time.NewTimer(again)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-wait.C:
		}
	}
}

// renewOld orders the renewal of keys that are older than age, in seconds.
func renewOld(ctx context.Context, v *verifier.Verifier, b bus, age int64, log *slog.Logger) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		now := time.Now()
		old, err := v.KeysOlder(now.Unix(), age)
		for _, id := range old {
			data, rerr := v.Renew(now.Unix(), id, "by age")
			if rerr == nil {
				rerr = b.Send(id, data, now.Add(verifier.RenewLife*time.Second))
			}
			err = errors.Join(err, rerr)
		}
		if err != nil {
			log.Error("cannot renew old keys", "err", err)
		} else if len(old) > 0 {
			log.Info("ordered devices to renew old keys", "devices", len(old))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// prune drops old routine messages once an hour.
func prune(ctx context.Context, s *store.Store, days int, log *slog.Logger) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		n, err := s.Prune(time.Now().AddDate(0, 0, -days).Unix())
		if err != nil {
			log.Error("cannot drop old messages", "err", err)
		} else if n > 0 {
			log.Info("dropped old routine messages, their digests stay", "messages", n)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
