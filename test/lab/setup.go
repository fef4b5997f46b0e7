package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The simulated device.
const (
	Vendor = "Example Medical"
	Model  = "simulated infusion monitor" // every page shows it
	Prefix = "miotfacts"                  // of all topics
)

// New makes a lab in a temporary directory. Clean takes everything away again.
func New(ctx context.Context) (*Lab, error) {
	dir, err := os.MkdirTemp("", "miotfacts-lab-")
	if err != nil {
		return nil, err
	}
	return &Lab{Ctx: ctx, Dir: dir, Bin: dir, ReportEvery: "2s"}, nil
}

// Build builds the three programs from the module that the lab runs in.
func (l *Lab) Build() error {
	cmd := exec.CommandContext(l.Ctx, "go", "build", "-trimpath", "-o", l.Dir+"/",
		"github.com/miotfacts/miotfacts/cmd/factsd", "github.com/miotfacts/miotfacts/cmd/factsctl", "github.com/miotfacts/miotfacts/cmd/factsverifier")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot build: %w\n%s", err, out)
	}
	return nil
}

// StartTPM starts the software TPM swtpm for the device.
func (l *Lab) StartTPM() error {
	path, err := exec.LookPath("swtpm")
	if err != nil {
		return errors.New("swtpm is not installed (apt-get install swtpm)")
	}
	if err := os.Mkdir(l.Path("tpm"), 0o700); err != nil {
		return err
	}
	sock := l.Path("tpm.sock")
	if _, err := l.Start("swtpm", path, "socket", "--tpm2", "--server", "type=unixio,path="+sock,
		"--tpmstate", "dir="+l.Path("tpm"), "--flags", "not-need-init,startup-clear"); err != nil {
		return err
	}
	if !l.Until("the software TPM's socket", 5*time.Second, func() bool { _, err := os.Stat(sock); return err == nil }) {
		return errors.New("the software TPM did not start")
	}
	l.TPM = "unix:" + sock
	return nil
}

// StartWorkload starts the simulated infusion monitor, in a cgroup of its own
// where that can be made. self is a program that calls Infusion when its
// arguments are "infusion" and a directory.
func (l *Lab) StartWorkload(self string) error {
	if root := cgroup2(); root != "" && os.Geteuid() == 0 {
		dir := filepath.Join(root, "miotfacts-lab-"+filepath.Base(l.Dir)[len("miotfacts-lab-"):])
		if err := os.Mkdir(dir, 0o755); err == nil {
			l.CgroupRoot, l.Cgroup = root, dir
		}
	}
	if err := l.SetFlow(120); err != nil {
		return err
	}
	// A name of its own, so that a signal step finds it.
	data, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.Path("infusion"), data, 0o755); err != nil {
		return err
	}
	p, err := l.Start("infusion", l.Path("infusion"), "infusion", l.Dir)
	if err != nil {
		return err
	}
	if l.Cgroup != "" {
		if err := os.WriteFile(l.Cgroup+"/cgroup.procs", fmt.Append(nil, p.Cmd.Process.Pid), 0o644); err != nil {
			return fmt.Errorf("cannot move the workload into its cgroup: %w", err)
		}
	}
	if !l.Until("the workload's first beat", 5*time.Second, func() bool { _, err := os.Stat(l.Path("beats")); return err == nil }) {
		return errors.New("the workload did not start")
	}
	return nil
}

// cgroup2 returns where cgroup v2 is mounted, "" when it is not.
func cgroup2() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(dir + "/cgroup.controllers"); err == nil {
			return dir
		}
	}
	return ""
}

// SetFlow sets the simulated pump's flow in ml/h.
func (l *Lab) SetFlow(n int) error {
	tmp := l.Path("flow.new")
	if err := os.WriteFile(tmp, fmt.Append(nil, n), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, l.Path("flow"))
}

// Beating reports whether the workload makes progress.
func (l *Lab) Beating() bool {
	before, _ := os.ReadFile(l.Path("beats"))
	return l.Until("", 1500*time.Millisecond, func() bool {
		now, _ := os.ReadFile(l.Path("beats"))
		return len(now) > 0 && string(now) != string(before)
	})
}

// Stopped looks at the workload itself: frozen by the kernel's word, or stopped.
func (l *Lab) Stopped() (bool, string) {
	if l.Cgroup != "" {
		data, err := os.ReadFile(l.Cgroup + "/cgroup.events")
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(string(data), "frozen 1"), "cgroup.events: " + strings.ReplaceAll(strings.TrimSpace(string(data)), "\n", ", ")
	}
	for _, p := range l.Procs {
		if p.Name == "infusion" {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Cmd.Process.Pid))
			if err != nil {
				return false, err.Error()
			}
			_, rest, _ := strings.Cut(string(data), ") ")
			return strings.HasPrefix(rest, "T"), "process state " + rest[:min(1, len(rest))]
		}
	}
	return false, "no workload"
}

// MakeKeys makes the keys of manufacturer and operator, and one of a stranger.
func (l *Lab) MakeKeys() error {
	for _, k := range []string{"manufacturer-root", "manifest", "operator-root", "resume", "stranger"} {
		if _, err := l.Ctl("factsctl", "key", "new", "--out", l.Path(k+".key")); err != nil {
			return err
		}
	}
	return nil
}

// SignKeyLists signs the key lists of both owners; the verifier's keys must be
// there (InitVerifier).
func (l *Lab) SignKeyLists() error {
	if err := l.keyList("manufacturer", [][2]string{{"manifest.key.pub", "manifest"}}); err != nil {
		return err
	}
	return l.keyList("operator", [][2]string{{"resume.key.pub", "resume"}, {"verifier/command.key.pub", "command"}, {"verifier/result.key.pub", "result"}})
}

func (l *Lab) keyList(owner string, keys [][2]string) error {
	list := fmt.Sprintf("version = 1\nowner = %q\nsequence = 1\n", owner)
	for _, k := range keys {
		list += fmt.Sprintf("\n[[key]]\nfile = %q\nrole = %q\nname = %q\nvalid = { from = 2026-01-01, until = 2036-01-01 }\n", l.Path(k[0]), k[1], k[1])
	}
	if err := l.Write(owner+"-keys.toml", list); err != nil {
		return err
	}
	_, err := l.Ctl("factsctl", "keys", "sign", l.Path(owner+"-keys.toml"), "--root", l.Path(owner+"-root.key"), "--out", l.Path(owner+"-keys.cbor"))
	return err
}

// Draft records this machine for d and drafts a manifest in draft.toml.
func (l *Lab) Draft(d time.Duration) error {
	if _, err := l.Ctl("factsctl", "record", "--out", l.Path("golden.rec"), "--for", d.String(), "--period", "500ms"); err != nil {
		return err
	}
	_, err := l.Ctl("factsctl", "manifest", "draft", l.Path("golden.rec"), "--vendor", Vendor, "--model", Model, "--out", l.Path("draft.toml"))
	return err
}

// FinishManifest does what a manufacturer does with a draft: it replaces the
// suggested extremes by the safety limit of the device, leaves out what one
// short recording cannot bound, and adds what it cannot know. Then it lints and
// signs.
func (l *Lab) FinishManifest() error {
	draft, err := os.ReadFile(l.Path("draft.toml"))
	if err != nil {
		return err
	}
	head, tables := splitTOML(string(draft))
	kept := []string{}
	for _, t := range tables {
		switch {
		case !strings.HasPrefix(t, "[[integration]]") && !strings.HasPrefix(t, "[[operating]]"):
		case strings.Contains(t, "fact = \"cpu."), strings.Contains(t, "fact = \"memory."), strings.Contains(t, "fact = \"process."),
			strings.Contains(t, "fact = \"network.rx\""), strings.Contains(t, "fact = \"network.tx\""):
			// How loaded a device is, a recording of some seconds does not say.
		case strings.Contains(t, "fact = \"network.listening\""):
			// On this machine the hospital's verifier runs as well.
			kept = append(kept, strings.Replace(t, "subset_of = [", fmt.Sprintf("subset_of = [%q, %q, ", "tcp/"+l.Broker, "tcp/"+strings.TrimPrefix(l.Web, "http://")), 1))
		default:
			kept = append(kept, t)
		}
	}
	head = replaceKey(head, "enforce", `"pause"`)
	head = replaceKey(head, "report_every", strconv.Quote(l.ReportEvery))
	head = replaceKey(head, "resume", `{ signers = 1, lifetime = "1h" }`)
	step := fmt.Sprintf("[[reaction]]\ndo = \"signal\"\ntarget = %q\nsignal = 19\nwithin = \"2s\"\n", l.Path("infusion"))
	if l.Cgroup != "" {
		step = fmt.Sprintf("[[reaction]]\ndo = \"freeze\"\ntarget = %q\nwithin = \"2s\"\n", filepath.Base(l.Cgroup))
	}
	kept = append(kept,
		"[[app]]\nkey = 1000\nname = \"app.flow\"\nunit = \"ml/h\"\nmin = 0\nmax = 1000\n",
		"[[app]]\nkey = 1001\nname = \"app.beats\"\nunit = \"1\"\nmin = 0\nmax = 1000000000\n",
		"[[operating]]\nfact = \"app.flow\"\nmin = 0\nmax = 300\nhold = \"2s\"\nif_absent = \"not-appraised\"\nwhy = \"prescriptions go up to 300 ml/h\"\n",
		"[[fail_safe]]\nfact = \"app.flow\"\nmin = 0\nmax = 500\nhold = \"1s\"\nif_absent = \"not-appraised\"\nwhy = \"above 500 ml/h the infusion harms\"\n",
		"[[reaction]]\ndo = \"tell\"\nwithin = \"500ms\"\n", step)
	if err := l.Write("manifest.toml", head+"\n"+strings.Join(kept, "\n")); err != nil {
		return err
	}
	if out, err := l.Ctl("factsctl", "manifest", "lint", l.Path("manifest.toml")); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	_, err = l.Ctl("factsctl", "manifest", "sign", l.Path("manifest.toml"), "--key", l.Path("manifest.key"), "--out", l.Path("manifest.cbor"))
	return err
}

// splitTOML cuts a manifest into its head and its [[...]] tables.
func splitTOML(text string) (string, []string) {
	parts := strings.Split("\n"+text, "\n[[")
	for i := range parts[1:] {
		parts[i+1] = "[[" + parts[i+1] + "\n"
	}
	return strings.TrimPrefix(parts[0], "\n"), parts[1:]
}

// replaceKey sets a top-level key of a manifest's head.
func replaceKey(head, key, value string) string {
	lines := strings.Split(head, "\n")
	for i, line := range lines {
		if name, _, ok := strings.Cut(line, "="); ok && strings.TrimSpace(name) == key {
			lines[i] = key + " = " + value
			return strings.Join(lines, "\n")
		}
	}
	return strings.TrimRight(head, "\n") + "\n" + key + " = " + value + "\n"
}

// InitVerifier makes the hospital's side with its keys; it must be configured
// and started after the key lists are signed.
func (l *Lab) InitVerifier() error {
	_, err := l.Ctl("factsverifier", "init", l.Path("verifier"), "--host", "127.0.0.1")
	return err
}

// StartVerifier starts the verifier and waits for its page.
func (l *Lab) StartVerifier() error {
	if _, err := l.Start("verifier", filepath.Join(l.Bin, "factsverifier"), "run", "--config", l.Path("verifier/factsverifier.toml")); err != nil {
		return err
	}
	ok := l.Until("the verifier's page", 10*time.Second, func() bool {
		resp, err := http.Get(l.Web + "/healthz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	if !ok {
		return errors.New("the verifier did not start")
	}
	return nil
}

// Provision configures the device and gives it its identity, which it returns.
func (l *Lab) Provision() (string, error) {
	key := fmt.Sprintf("file = %q", l.Path("device.key"))
	if l.TPM != "" {
		key = fmt.Sprintf("tpm = %q", l.TPM)
	}
	root := l.CgroupRoot
	if root == "" {
		root = "/sys/fs/cgroup"
	}
	if err := l.Write("factsd.toml", fmt.Sprintf(`
state = %q
[device]
vendor = %q
model = %q
serial = "LAB-1"
[reference]
manifest = %q
key_lists = [%q, %q]
manufacturer_roots = [%q]
operator_roots = [%q]
[key]
%s
[clock]
trusted = true
[broker]
url = "tls://%s"
ca = %q
prefix = %q
[application]
facts_socket = %q
tell_socket = %q
[enforcer]
socket = %q
users = [%d]
cgroup_root = %q
never_touch = ["sshd.service"]
`, l.Path("state"), Vendor, Model, l.Path("manifest.cbor"), l.Path("manufacturer-keys.cbor"), l.Path("operator-keys.cbor"),
		l.Path("manufacturer-root.key.pub"), l.Path("operator-root.key.pub"), key, l.Broker, l.Path("verifier/ca.pem"), Prefix,
		l.Path("app.sock"), l.Path("tell.sock"), l.EnforceSocket(), os.Getuid(), root)); err != nil {
		return "", err
	}
	out, err := l.Ctl("factsd", "provision", "-config", l.Path("factsd.toml"))
	return strings.TrimSpace(out), err
}

// EnforceSocket is where the enforcer listens.
func (l *Lab) EnforceSocket() string {
	if l.Runtime != "" {
		return filepath.Join(l.Runtime, "enforce.sock")
	}
	return l.Path("enforce.sock")
}

// StartEnforce starts the device's enforcer.
func (l *Lab) StartEnforce() (*Proc, error) {
	return l.Start("enforce", l.Path("factsd"), "enforce", "-config", l.Path("factsd.toml"))
}

// StartRun starts the device's measuring process.
func (l *Lab) StartRun() (*Proc, error) {
	return l.Start("run", l.Path("factsd"), "run", "-config", l.Path("factsd.toml"))
}

// Enrol waits for the device to ask and approves it.
func (l *Lab) Enrol(id string) error {
	if !l.Until("the device to ask for enrolment", 20*time.Second, func() bool { return l.Device(id).Enrolled == "waits for approval" }) {
		return errors.New("the device did not ask to be enrolled")
	}
	_, err := l.Ctl("factsverifier", "approve", id, "--admin", l.Admin, "--by", "lab operator")
	return err
}

// ConfigureVerifier writes the verifier's configuration, on free ports.
func (l *Lab) ConfigureVerifier() error {
	var ports [2]string
	for i := range ports {
		var err error
		if ports[i], err = FreePort(); err != nil {
			return err
		}
	}
	l.Web, l.Broker, l.Admin = "http://127.0.0.1:"+ports[0], "127.0.0.1:"+ports[1], l.Path("verifier/admin.sock")
	return l.Write("verifier/factsverifier.toml", fmt.Sprintf(`
store = "fleet.db"
[reference]
manifests = [%q]
key_lists = [%q]
manufacturer_roots = [%q]
[keys]
result = "result.key"
command = "command.key"
[broker]
listen = %q
certificate = "server.pem"
key = "server.key"
prefix = %q
[web]
listen = "127.0.0.1:%s"
[admin]
socket = "admin.sock"
`, l.Path("manifest.cbor"), l.Path("manufacturer-keys.cbor"), l.Path("manufacturer-root.key.pub"), l.Broker, Prefix, ports[0]))
}

// Resume signs a resume of a pause with the operator's key and hands it in.
func (l *Lab) Resume(id, pause string) error {
	out := l.Path("resume-" + pause + ".cbor")
	if _, err := l.Ctl("factsctl", "resume", "--device", id, "--pause", pause, "--key", l.Path("resume.key"), "--out", out); err != nil {
		return err
	}
	return l.Post(id, out)
}

// Post hands a signed command to the verifier, which passes it on.
func (l *Lab) Post(id, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	resp, err := http.Post(l.Web+"/api/devices/"+id+"/commands", "application/octet-stream", bytes.NewReader(data))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("the verifier did not take the command: %s", resp.Status)
	}
	return nil
}
