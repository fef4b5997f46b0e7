package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A debPackage is one Debian package. What dpkg reads of it stands in
// configs/debian/NAME: control, and conffiles and scripts where it has them.
type debPackage struct {
	name  string
	files map[string]string // path on the device: path in the repository
}

func debPackages() []debPackage {
	return []debPackage{
		{"factsd", map[string]string{
			"etc/miotfacts/factsd.toml":                              "configs/factsd.toml",
			"lib/systemd/system/factsd.service":                      "configs/systemd/factsd.service",
			"lib/systemd/system/factsd-enforce.service":              "configs/systemd/factsd-enforce.service",
			"lib/systemd/system/factsd-netfilter.socket":             "configs/systemd/factsd-netfilter.socket",
			"lib/systemd/system/factsd-resume.service":               "configs/systemd/factsd-resume.service",
			"lib/systemd/system/run-miotfacts.stick.mount":           "configs/systemd/run-miotfacts.stick.mount",
			"usr/lib/systemd/system-preset/80-factsd.preset":         "configs/systemd/factsd.preset",
			"usr/lib/sysusers.d/miotfacts.conf":                      "configs/sysusers/miotfacts.conf",
			"usr/lib/tmpfiles.d/miotfacts.conf":                      "configs/tmpfiles/miotfacts.conf",
			"usr/share/doc/factsd/examples/medical-application.conf": "configs/systemd/medical-application.conf",
			"usr/share/doc/factsd/examples/quarantine.conf":          "configs/systemd/quarantine.conf",
			"usr/share/doc/factsd/examples/pressure.conf":            "configs/systemd/pressure.conf",
			"usr/share/doc/factsd/examples/steps.conf":               "configs/systemd/steps.conf",
			"usr/share/doc/factsd/examples/watchdog.conf":            "configs/systemd/watchdog.conf",
			"usr/share/doc/factsd/examples/verifier.conf":            "configs/systemd/verifier.conf",
			"usr/share/doc/factsd/examples/32-bit.conf":              "configs/systemd/32-bit.conf",
			"usr/share/doc/factsd/examples/openrc/factsd":            "configs/openrc/factsd",
			"usr/share/doc/factsd/examples/openrc/factsd-enforce":    "configs/openrc/factsd-enforce",
		}},
		{"factstalk", map[string]string{
			"etc/miotfacts/factstalk.toml":                             "configs/factstalk.toml",
			"lib/systemd/system/factstalk.service":                     "configs/systemd/factstalk.service",
			"usr/lib/systemd/system-preset/80-factstalk.preset":        "configs/systemd/factstalk.preset",
			"usr/share/doc/factstalk/examples/openrc/factstalk":        "configs/openrc/factstalk",
			"usr/share/doc/factstalk/examples/sysusers/factstalk.conf": "configs/sysusers/factstalk.conf",
		}},
		{"factsctl", map[string]string{
			"usr/share/doc/factsctl/examples/gateway.toml":              "configs/examples/gateway.toml",
			"usr/share/doc/factsctl/examples/raspberry-pi-monitor.toml": "configs/examples/raspberry-pi-monitor.toml",
			"usr/share/doc/factsctl/examples/virtual-machine.toml":      "configs/examples/virtual-machine.toml",
		}},
		{"factsverifier", map[string]string{
			"lib/systemd/system/factsverifier.service":                "configs/systemd/factsverifier.service",
			"usr/lib/sysusers.d/factsverifier.conf":                   "configs/sysusers/factsverifier.conf",
			"usr/lib/tmpfiles.d/factsverifier.conf":                   "configs/tmpfiles/factsverifier.conf",
			"usr/share/doc/factsverifier/examples/factsverifier.toml": "configs/factsverifier.toml",
		}},
	}
}

// packages makes the Debian packages of one port.
func (r *release) packages(p port, bin string) error {
	for _, d := range debPackages() {
		if err := r.deb(p, bin, d); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

func (r *release) deb(p port, bin string, d debPackage) error {
	own := filepath.Join(r.root, "configs/debian", d.name)
	doc := "usr/share/doc/" + d.name + "/"
	linked, err := r.linked(bin, d.name)
	if err != nil {
		return err
	}
	notices, err := r.notices(linked)
	if err != nil {
		return err
	}
	changes, err := r.debianChanges(d.name)
	if err != nil {
		return err
	}
	third, err := gzipped(notices, gzip.BestCompression)
	if err != nil {
		return err
	}
	list := []entry{
		{name: "usr/bin/" + d.name, from: filepath.Join(bin, d.name), mode: 0o755},
		{name: doc + "copyright", from: filepath.Join(r.root, "configs/debian/copyright"), mode: 0o644},
		{name: doc + "changelog.gz", data: changes, mode: 0o644},
		{name: doc + "THIRD-PARTY.gz", data: third, mode: 0o644},
		{name: "usr/share/lintian/overrides/" + d.name, data: []byte(d.name + ": statically-linked-binary [usr/bin/" + d.name + "]\n" + d.name + ": initial-upload-closes-no-bugs [" + doc + "changelog.gz:1]\n"), mode: 0o644},
	}
	for to, from := range d.files {
		list = append(list, entry{name: to, from: filepath.Join(r.root, from), mode: 0o644})
	}
	pages, err := filepath.Glob(filepath.Join(r.root, "docs/man", d.name+"*.[18]"))
	if err != nil {
		return err
	}
	if len(pages) == 0 {
		return fmt.Errorf("no manual page in docs/man")
	}
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		packed, err := gzipped(text, gzip.BestCompression)
		if err != nil {
			return err
		}
		list = append(list, entry{name: "usr/share/man/man" + page[len(page)-1:] + "/" + filepath.Base(page) + ".gz", data: packed, mode: 0o644})
	}
	size := 0
	for _, e := range list {
		data, err := e.content()
		if err != nil {
			return err
		}
		size += (len(data) + 1023) / 1024
	}
	control, err := os.ReadFile(filepath.Join(own, "control"))
	if err != nil {
		return err
	}
	filled := strings.NewReplacer("@VERSION@", r.version, "@ARCHITECTURE@", p.debian, "@SIZE@", fmt.Sprint(size)).Replace(string(control))
	list = append(list, entry{name: "DEBIAN/control", data: []byte(filled), mode: 0o644})
	for name, mode := range map[string]fs.FileMode{"conffiles": 0o644, "postinst": 0o755, "prerm": 0o755, "postrm": 0o755} {
		if _, err := os.Stat(filepath.Join(own, name)); err == nil {
			list = append(list, entry{name: "DEBIAN/" + name, from: filepath.Join(own, name), mode: mode})
		}
	}
	stage := filepath.Join(r.work, p.name+"-"+d.name)
	if err := r.lay(stage, list); err != nil {
		return err
	}
	cmd := exec.Command("dpkg-deb", "--root-owner-group", "-Zxz", fmt.Sprintf("-z%d", r.xz), "-b", stage, filepath.Join(r.out, fmt.Sprintf("%s_%s_%s.deb", d.name, r.version, p.debian)))
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", r.time.Unix()), "DPKG_DEB_THREADS_MAX=1")
	_, err = output(cmd)
	return err
}

// lay writes entries below dir, all with the time of the release: dpkg-deb keeps
// times that are earlier.
func (r *release) lay(dir string, list []entry) error {
	for _, e := range list {
		data, err := e.content()
		if err != nil {
			return err
		}
		to := filepath.Join(dir, e.name)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, data, e.mode); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644) // whatever the umask
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		if err := os.Chmod(p, mode); err != nil {
			return err
		}
		return os.Chtimes(p, r.time, r.time)
	})
}

// debianChanges is the changelog in the form of deb-changelog(5).
func (r *release) debianChanges(name string) ([]byte, error) {
	control, err := os.ReadFile(filepath.Join(r.root, "configs/debian", name, "control"))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(control), "\nMaintainer: ")
	who, _, _ := strings.Cut(rest, "\n")
	return gzipped(fmt.Appendf(nil, "%s (%s) unstable; urgency=medium\n\n  * Version %s of miotfacts. Its CHANGELOG.md says what is new.\n\n -- %s  %s\n",
		name, r.version, r.version, who, r.time.Format("Mon, 02 Jan 2006 15:04:05 -0700")), gzip.BestCompression)
}

// gzipped compresses data without a name and a time in its header.
func gzipped(data []byte, level int) ([]byte, error) {
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, level)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err = w.Close()
	return buf.Bytes(), err
}
