package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miotfacts/miotfacts/test/lab"
)

// A variant is one way to put the machine together.
type variant struct {
	name     string
	says     string // what is special
	firmware string // "edk2", "uboot" or "secure"
	uki      bool   // from an ESP as a unified kernel image
	esp      bool   // from an ESP by U-Boot's script
	busybox  bool   // init is busybox's, no systemd
	armv7    bool   // the agent is the one for 32 bits
	noTPM    bool   // a key file instead
	memory   string // what systemd lets both processes have together, "" for all
}

func variants() []variant {
	return []variant{
		{name: "edk2", says: "EDK2 starts the kernel, systemd", firmware: "edk2"},
		{name: "uboot", says: "U-Boot starts the kernel from an ESP by its script", firmware: "uboot", esp: true},
		{name: "uki-edk2", says: "EDK2 starts a unified kernel image", firmware: "edk2", uki: true},
		{name: "uki-uboot", says: "U-Boot starts a unified kernel image", firmware: "uboot", uki: true},
		{name: "secure", says: "Secure Boot is on, the kernel is signed", firmware: "secure"},
		{name: "busybox", says: "busybox init, no systemd", firmware: "edk2", busybox: true},
		{name: "armv7", says: "the agent for 32 bits on the kernel for 64", firmware: "edk2", armv7: true},
		{name: "no-tpm", says: "no TPM, a key file", firmware: "edk2", noTPM: true},
		{name: "64-mib", says: "64 MiB for both processes of the agent", firmware: "edk2", memory: "64M"},
	}
}

// hardware puts a variant together from a kit.
func (k *kit) hardware(ctx context.Context, v variant) (hardware, error) {
	hw := hardware{firmware: v.firmware, kernel: k.kernel, initrd: k.initrd, cmdline: cmdline, root: k.root, noTPM: v.noTPM}
	if v.busybox {
		hw.root = k.busy
	}
	at := func(name string) string { return filepath.Join(k.dir, v.name+name) }
	switch {
	case v.uki:
		hw.kernel, hw.esp = "", at(".esp")
		if err := mkuki(ctx, k.boot, k.kernel, k.initrd, hw.cmdline, at(".efi")); err != nil {
			return hw, err
		}
		return hw, mkesp(ctx, hw.esp, map[string]string{"EFI/BOOT/BOOTAA64.EFI": at(".efi")})
	case v.esp:
		hw.kernel, hw.esp = "", at(".esp")
		if err := mkscript(ctx, hw.cmdline, at(".scr")); err != nil {
			return hw, err
		}
		return hw, mkesp(ctx, hw.esp, map[string]string{"kernel": k.kernel, "initrd": k.initrd, "boot.scr": at(".scr")})
	case v.firmware == "secure":
		hw.kernel = at(".signed")
		return hw, sign(ctx, k.dir, k.kernel, hw.kernel)
	}
	return hw, nil
}

// A device is a machine with the agent in it, and its manufacturer and hospital
// around it.
type device struct {
	*lab.Lab
	m        *machine
	v        variant
	id       string
	verifier *lab.Proc
	accept   []string         // digests of sound boots, in hexadecimal
	expected map[int][]string // values by PCR, predicted from the image before the boot: one, or one for each phase
}

// bootPCRs are those that the firmware, its programs and the kernel's stub extend.
// PCR 10 is IMA's, which has no fixed value.
var bootPCRs = [...]int{0, 1, 2, 3, 4, 5, 6, 7, 9, 11}

// newDevice makes keys and the hospital's side for a machine.
func newDevice(ctx context.Context, k *kit, v variant) (*device, error) {
	l, err := lab.New(ctx)
	if err != nil {
		return nil, err
	}
	l.Bin = k.bin
	d := &device{Lab: l, v: v}
	hw, err := k.hardware(ctx, v)
	if err == nil {
		d.m, err = newMachine(ctx, filepath.Join(l.Dir, "machine"), hw)
	}
	if err == nil {
		err = d.predict(k, hw)
	}
	if err == nil {
		err = l.MakeKeys()
	}
	if err == nil {
		// Where the machine finds this one.
		_, err = l.Ctl("factsverifier", "init", l.Path("verifier"), "--host", "10.0.2.2")
	}
	if err == nil {
		err = l.SignKeyLists()
	}
	if err == nil {
		err = l.ConfigureVerifier()
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *device) close() {
	if d.m != nil {
		d.m.off()
	}
	d.Clean()
}

// predict computes from the files that will be started what the TPM will have. The
// firmware's part comes from a boot of another system that the same firmware started
// in the same way, recorded in testdata.
func (d *device) predict(k *kit, hw hardware) error {
	log := filepath.Join(k.source, "testdata/boot", d.v.name, "bios.bin")
	args := []string{"boot", "predict", "--json", "--name", "vm", "--firmware-log", log}
	switch {
	case d.v.uki:
		args = append(args, "--uki", filepath.Join(k.dir, d.v.name+".efi"))
	case d.v.name == "edk2": // QEMU's firmware finds the initial RAM disk by this name
		args = append(args, "--kernel", hw.kernel, "--initrd", hw.initrd, "--cmdline", d.Path("cmdline"))
		if err := d.Write("cmdline", hw.cmdline+" initrd=initrd"); err != nil {
			return err
		}
	case d.v.name == "uboot": // and here the kernel reads it itself, unmeasured
		args = append(args, "--kernel", k.kernel, "--initrd", k.initrd, "--cmdline", d.Path("cmdline"))
		if err := d.Write("cmdline", hw.cmdline+` initrd=\\initrd`); err != nil {
			return err
		}
	default:
		return nil
	}
	out, err := d.Ctl("factsctl", args...)
	if err != nil {
		return err
	}
	var p struct {
		PCRs   map[string]map[string]string `json:"pcrs"`
		Phases []struct {
			PCR11 string `json:"pcr11"`
		} `json:"phases"`
	}
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		return err
	}
	d.expected = map[int][]string{}
	for _, n := range []int{4, 9, 11, 12, 13} {
		if value := p.PCRs["sha256"][strconv.Itoa(n)]; value != "" {
			d.expected[n] = []string{value}
		}
	}
	for _, phase := range p.Phases {
		d.expected[11] = append(d.expected[11], phase.PCR11)
	}
	return nil
}

// asPredicted compares the TPM's registers with the prediction.
func (d *device) asPredicted(ctx context.Context) (string, error) {
	for n, want := range d.expected {
		have, err := d.m.run(ctx, fmt.Sprintf("cat /sys/class/tpm/tpm0/pcr-sha256/%d", n))
		if err != nil {
			return "", err
		}
		if !slices.Contains(want, strings.ToLower(have)) {
			return "", fmt.Errorf("PCR %d is %s, predicted %v", n, have, want)
		}
	}
	return fmt.Sprintf("PCRs %v", slices.Sorted(maps.Keys(d.expected))), nil
}

// digest returns the digest over the boot's PCRs, as a manifest accepts it. What was
// predicted stands as it was: the quote has to agree with it.
func (d *device) digest(ctx context.Context, pcrs []int) (string, error) {
	h := sha256.New()
	for _, n := range pcrs {
		text, err := d.m.run(ctx, fmt.Sprintf("cat /sys/class/tpm/tpm0/pcr-sha256/%d", n))
		if err != nil {
			return "", err
		}
		if want := d.expected[n]; want != nil && !slices.Contains(want, strings.ToLower(text)) {
			text = want[0]
		}
		value, err := hex.DecodeString(text)
		if err != nil {
			return "", err
		}
		h.Write(value)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// medical is the cgroup of the medical application.
func (d *device) medical() string {
	if d.v.busybox {
		return "medical"
	}
	return "system.slice/medical.service"
}

// An edition is what differs between the manifests of one device.
type edition struct {
	sequence int
	every    string // between routine reports, "2s"
	head     string // TOML: further keys of the head
	boot     string // TOML: what the TPM must prove
	rules    string // TOML: further rules
	chain    string // TOML: the reaction; "" for tell and freeze
}

// tellStep and freezeStep are steps of a chain.
const tellStep = `[[reaction]]
do = "tell"
within = "2s"

`

func (d *device) freezeStep() string {
	return fmt.Sprintf("[[reaction]]\ndo = \"freeze\"\ntarget = %q\nwithin = \"5s\"\n\n", d.medical())
}

// prepareStep gives the application so many seconds.
func prepareStep(seconds int) string {
	return fmt.Sprintf("[[reaction]]\ndo = \"prepare\"\nwithin = \"%ds\"\n\n", seconds)
}

// release is the rule of the kernel that runs.
func (d *device) release(ctx context.Context) (string, error) {
	release, err := d.m.run(ctx, "uname -r")
	return fmt.Sprintf("[[integration]]\nfact = \"software.kernel\"\nequal = %q\n", release), err
}

// sign makes and signs the manifest, from what the golden boot looked like.
func (d *device) sign(ctx context.Context, sequence int) error {
	e, err := d.golden(ctx, sequence)
	if err != nil {
		return err
	}
	return d.author(e)
}

// golden is a manifest that accepts the present boot.
func (d *device) golden(ctx context.Context, sequence int) (edition, error) {
	e := edition{sequence: sequence, every: "2s"}
	var err error
	if e.rules, err = d.release(ctx); err != nil || d.v.noTPM {
		return e, err
	}
	digest, err := d.digest(ctx, bootPCRs[:])
	if err != nil {
		return e, err
	}
	if !slices.Contains(d.accept, digest) {
		d.accept = append(d.accept, digest)
	}
	var quoted []string
	for _, a := range d.accept {
		quoted = append(quoted, strconv.Quote(a))
	}
	e.boot = fmt.Sprintf("[boot]\npcrs = %s\naccept = [%s]\n", strings.ReplaceAll(fmt.Sprint(bootPCRs), " ", ", "), strings.Join(quoted, ", "))
	return e, nil
}

// author writes, lints and signs a manifest.
func (d *device) author(e edition) error {
	if e.chain == "" {
		e.chain = tellStep + d.freezeStep()
	}
	text := fmt.Sprintf(`version = 1
vendor = %q
model = %q
sequence = %d
valid = { from = 2026-01-01, until = 2035-12-31 }
enforce = "pause"
report_every = %q
resume = { signers = 1, lifetime = "1h" }
%s
%s
[[app]]
key = 1000
name = "app.flow"
unit = "ml/h"
min = 0
max = 1000

[[app]]
key = 1001
name = "app.beats"
unit = "1"
min = 0
max = 1000000000

%s
[[operating]]
fact = "app.flow"
min = 0
max = 300
if_absent = "not-appraised"

[[fail_safe]]
fact = "app.flow"
min = 0
max = 500
hold = "1s"
if_absent = "not-appraised"
why = "above 500 ml/h the infusion harms"

%s`, lab.Vendor, lab.Model, e.sequence, e.every, e.head, e.boot, e.rules, e.chain)
	if err := d.Write("manifest.toml", text); err != nil {
		return err
	}
	if out, err := d.Ctl("factsctl", "manifest", "lint", d.Path("manifest.toml")); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	_, err := d.Ctl("factsctl", "manifest", "sign", d.Path("manifest.toml"), "--key", d.Path("manifest.key"), "--out", d.Path("manifest.cbor"))
	return err
}

// publish gives device and hospital another manifest, and waits until the device
// operates with it.
func (d *device) publish(ctx context.Context, e edition) error {
	if err := d.author(e); err != nil {
		return err
	}
	data, err := os.ReadFile(d.Path("manifest.cbor"))
	if err != nil {
		return err
	}
	if err := d.hospital(); err != nil {
		return err
	}
	packed, err := tarball(map[string][]byte{"var/lib/miotfacts/manifest.cbor": data})
	if err != nil {
		return err
	}
	seen := d.Device(d.id).Sequence
	out, code, err := d.m.link.run(ctx, "set -e; tar -x -C /; sync; systemctl restart factsd-enforce factsd", packed, 5*time.Minute)
	if err != nil || code != 0 {
		return errors.Join(err, fmt.Errorf("cannot put the manifest in place: exit status %d: %s", code, out))
	}
	if !d.Until("", 5*time.Minute, func() bool { v := d.Device(d.id); return v.Sequence > seen && v.Stage == "operating" }) {
		v := d.Device(d.id)
		return fmt.Errorf("with manifest %d: stage %q, tier %s, findings %v", e.sequence, v.Stage, v.Tier, v.Findings)
	}
	return nil
}

// dismiss stops the verifier.
func (d *device) dismiss() {
	if d.verifier != nil {
		d.verifier.Stop(syscall.SIGTERM)
		d.verifier = nil
	}
}

// hospital starts the verifier, or starts it anew after a new manifest.
func (d *device) hospital() error {
	d.dismiss()
	if err := d.StartVerifier(); err != nil {
		return err
	}
	d.verifier = d.Procs[len(d.Procs)-1]
	return nil
}

// provision puts configuration and references into the machine and starts the
// agent and the medical application.
func (d *device) provision(ctx context.Context) error {
	_, port, _ := strings.Cut(d.Broker, ":")
	key := `tpm = "/dev/tpmrm0"`
	if d.v.noTPM {
		key = `file = "/var/lib/miotfacts/device.key"`
	}
	config := fmt.Sprintf(`
[device]
vendor = %q
model = %q
serial = %q
[reference]
manifest = "/var/lib/miotfacts/manifest.cbor"
key_lists = ["/var/lib/miotfacts/manufacturer-keys.cbor", "/var/lib/miotfacts/operator-keys.cbor"]
manufacturer_roots = ["/etc/miotfacts/manufacturer-root.pub"]
operator_roots = ["/etc/miotfacts/operator-root.pub"]
[key]
%s
[clock]
trusted = true
[broker]
url = "tls://10.0.2.2:%s"
ca = "/etc/miotfacts/broker-ca.pem"
[application]
facts_socket = "/run/miotfacts/app/facts.sock"
users = [0]
tell_socket = "/run/medical/tell.sock"
[enforcer]
users = ["factsd"]
never_touch = ["sshd.service"]
`, lab.Vendor, lab.Model, "VM-"+d.v.name, key, port)
	files := map[string][]byte{"etc/miotfacts/factsd.toml": []byte(config), "etc/flow": []byte("120\n")}
	for to, from := range map[string]string{
		"etc/miotfacts/manufacturer-root.pub": "manufacturer-root.key.pub", "etc/miotfacts/operator-root.pub": "operator-root.key.pub",
		"etc/miotfacts/broker-ca.pem": "verifier/ca.pem", "var/lib/miotfacts/manifest.cbor": "manifest.cbor",
		"var/lib/miotfacts/manufacturer-keys.cbor": "manufacturer-keys.cbor", "var/lib/miotfacts/operator-keys.cbor": "operator-keys.cbor",
	} {
		data, err := os.ReadFile(d.Path(from))
		if err != nil {
			return err
		}
		files[to] = data
	}
	// The second half of the example: the application waits until the latch is clear.
	drop, err := os.ReadFile("../../configs/systemd/medical-application.conf")
	if errors.Is(err, os.ErrNotExist) {
		drop, err = os.ReadFile("configs/systemd/medical-application.conf")
	}
	if err != nil {
		return err
	}
	files["etc/systemd/system/medical.service.d/miotfacts.conf"] = uncomment(drop)
	if d.v.memory != "" {
		files["etc/systemd/system/miotfacts.slice"] = []byte("[Slice]\nMemoryMax=" + d.v.memory + "\nMemorySwapMax=0\n")
		for _, unit := range []string{"factsd", "factsd-enforce"} {
			files["etc/systemd/system/"+unit+".service.d/slice.conf"] = []byte("[Service]\nSlice=miotfacts.slice\n")
		}
	}
	script := "set -e; tar -x -C /; systemctl daemon-reload; systemctl -q enable factsd-enforce factsd medical; systemctl start factsd-enforce factsd medical; sync"
	if d.v.armv7 {
		allow, err := os.ReadFile("../../configs/systemd/32-bit.conf")
		if errors.Is(err, os.ErrNotExist) {
			allow, err = os.ReadFile("configs/systemd/32-bit.conf")
		}
		if err != nil {
			return err
		}
		for _, unit := range []string{"factsd", "factsd-enforce"} {
			files["etc/systemd/system/"+unit+".service.d/32-bit.conf"] = allow
		}
		script = "cp /opt/factsd-armv7 /usr/bin/factsd; " + script
	}
	if d.v.busybox {
		script = "set -e; tar -x -C /; cp /opt/factsd.init /etc/init.d/S60factsd; cp /opt/medical.init /etc/init.d/S70medical; chmod 755 /etc/init.d/S60factsd /etc/init.d/S70medical; /etc/init.d/S60factsd start; /etc/init.d/S70medical start; sync"
	}
	packed, err := tarball(files)
	if err != nil {
		return err
	}
	out, code, err := d.m.link.run(ctx, script, packed, 3*time.Minute)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d", code)
	}
	if err != nil {
		log, _ := d.m.run(ctx, "journalctl --no-pager -n 40 -u factsd -u factsd-enforce -u medical")
		return fmt.Errorf("cannot start the agent in the machine: %w\n%s\n%s", err, out, log)
	}
	d.id, err = d.m.run(ctx, "factsd provision -config /etc/miotfacts/factsd.toml 2>/dev/null")
	return err
}

// uncomment takes in what an example leaves to the reader.
func uncomment(text []byte) []byte {
	var out bytes.Buffer
	for line := range strings.Lines(string(text)) {
		bare := strings.TrimPrefix(line, "#")
		name, _, ok := strings.Cut(bare, "=")
		if bare != line && (strings.HasPrefix(bare, "[") || ok && !strings.ContainsAny(name, " .")) {
			line = bare
		}
		out.WriteString(line)
	}
	return out.Bytes()
}

func tarball(files map[string][]byte) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

// admit approves the device and waits until it operates.
func (d *device) admit() error {
	if err := d.Enrol(d.id); err != nil {
		return err
	}
	return d.stage("operating", 3*time.Minute)
}

// stage waits until the verifier sees the device in a stage.
func (d *device) stage(want string, limit time.Duration) error {
	var last lab.Device
	if d.Until("", limit, func() bool { last = d.Device(d.id); return last.Stage == want }) {
		return nil
	}
	return fmt.Errorf("the verifier says after %v: stage %q, want %q; %s %v", limit, last.Stage, want, last.Tier, last.Findings)
}

// flow sets the set point of the simulated infusion.
func (d *device) flow(ctx context.Context, n int) error {
	_, err := d.m.run(ctx, fmt.Sprintf("echo %d >/run/medical/flow.new && mv /run/medical/flow.new /run/medical/flow", n))
	return err
}
