package packaging_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// What `make dist` makes of one port.
func TestDistribution(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("NOT RUN: this test has binaries for amd64")
	}
	program(t, "dpkg-deb", "dpkg")
	dist := distribute(t, "amd64", "archive,deb")
	t.Run("archive", func(t *testing.T) { testArchive(t, dist) })
	t.Run("packages", func(t *testing.T) { testPackages(t, dist) })
	t.Run("boot", func(t *testing.T) { testBoot(t, dist) })
	t.Run("install", func(t *testing.T) { testInstall(t, dist) })
	t.Run("read-only root", func(t *testing.T) { testReadOnly(t, dist) })
	t.Run("squashfs and busybox", func(t *testing.T) { testBusybox(t, dist) })
	t.Run("OpenRC", func(t *testing.T) { testOpenRC(t, dist) })
	t.Run("RAUC hook cut", func(t *testing.T) { testRAUCHookCut(t, dist) })
	t.Run("lintian", func(t *testing.T) {
		lintian := program(t, "lintian", "lintian")
		out, err := command([]string{"HOME=" + dist}, "env", "--chdir=/", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", lintian, "--profile", "debian", "--fail-on", "error", filepath.Join(dist, "factsd_0.1.0_amd64.deb"), filepath.Join(dist, "factstalk_0.1.0_amd64.deb"),
			filepath.Join(dist, "factsctl_0.1.0_amd64.deb"), filepath.Join(dist, "factsverifier_0.1.0_amd64.deb"))
		if err != nil {
			t.Errorf("lintian: %v\n%s", err, out)
		}
	})
}

// Packages are installed, upgraded, removed and purged in a folder: dpkg with
// its scripts outside of a chroot, which therefore must keep to DPKG_ROOT.
func testPackages(t *testing.T, dist string) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: dpkg --root needs root")
	}
	program(t, "systemd-sysusers", "systemd")
	deb := func(name string) string { return only(t, filepath.Join(dist, name+"_*_amd64.deb")) }
	device := t.TempDir()
	for path, text := range map[string]string{
		"var/lib/dpkg/status": "", "var/lib/dpkg/info/format": "1\n", "var/lib/dpkg/updates/.keep": "",
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n", "usr/lib/sysusers.d/.keep": "",
	} {
		at := filepath.Join(device, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(device, "var/lib/dpkg/updates/.keep")); err != nil {
		t.Fatal(err)
	}
	passwd := func() string {
		data, err := os.ReadFile("/etc/passwd")
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	before := passwd()
	dpkg := func(args ...string) {
		t.Helper()
		must(t, nil, "dpkg", append([]string{"--root=" + device, "--force-script-chrootless", "--force-depends", "--force-not-root", "--force-confold"}, args...)...)
	}
	is := func(path string) bool {
		_, err := os.Lstat(filepath.Join(device, path))
		return err == nil
	}
	want := func(when string, there bool, paths ...string) {
		t.Helper()
		for _, p := range paths {
			if is(p) != there {
				t.Errorf("%s: %s is there: %t", when, p, !there)
			}
		}
	}
	status := func(name string) string {
		out, _ := command(nil, "dpkg-query", "--admindir="+filepath.Join(device, "var/lib/dpkg"), "-W", "-f", "${Status}", name)
		return out
	}

	for _, name := range []string{"factsd", "factsctl", "factsverifier", "factstalk"} {
		if files := must(t, nil, "dpkg-deb", "--ctrl-tarfile", deb(name)); strings.Contains(files, "triggers") {
			t.Errorf("%s has triggers", name)
		}
	}
	dpkg("-i", deb("factsd"), deb("factsctl"), deb("factsverifier"), deb("factstalk"))
	want("installed", true, "usr/bin/factsd", "usr/bin/factsctl", "usr/bin/factsverifier", "etc/miotfacts/factsd.toml", "lib/systemd/system/factsd-enforce.service",
		"usr/share/man/man8/factsd.8.gz", "usr/share/man/man1/factsctl.1.gz", "usr/bin/factstalk", "etc/miotfacts/factstalk.toml", "lib/systemd/system/factstalk.service",
		"usr/lib/systemd/system-preset/80-factstalk.preset", "usr/share/man/man8/factstalk.8.gz", "usr/share/doc/factsd/copyright", "usr/share/doc/factsd/THIRD-PARTY.gz")
	users, err := os.ReadFile(filepath.Join(device, "etc/passwd"))
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.ReadFile(filepath.Join(device, "etc/group"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(users), "factsd:x:") || !strings.Contains(string(users), "factsverifier:x:") || !strings.Contains(string(groups), ":factsd\n") {
		t.Errorf("users and groups after the installation:\n%s%s", users, groups)
	}

	// An edited configuration survives an upgrade and a removal; so does the state.
	conf, state := filepath.Join(device, "etc/miotfacts/factsd.toml"), filepath.Join(device, "var/lib/miotfacts/enforce/latch.a")
	if err := os.WriteFile(conf, []byte("# mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(state), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(state, []byte("latched"), 0o600); err != nil {
		t.Fatal(err)
	}
	dpkg("-i", newer(t, deb("factsd")))
	if data, err := os.ReadFile(conf); err != nil || string(data) != "# mine\n" {
		t.Errorf("after the upgrade the configuration is %q, %v", data, err)
	}
	dpkg("-r", "factsd")
	want("removed", false, "usr/bin/factsd", "lib/systemd/system/factsd.service")
	want("removed", true, "etc/miotfacts/factsd.toml", "var/lib/miotfacts/enforce/latch.a")
	if s := status("factsd"); s != "deinstall ok config-files" {
		t.Errorf("removed: %q", s)
	}
	want("installed", false, "etc/systemd/system/multi-user.target.wants/factstalk.service")
	dpkg("-P", "factsd", "factsverifier", "factsctl", "factstalk")
	want("purged", false, "etc/miotfacts", "var/lib/miotfacts", "var/lib/factsverifier", "usr/share/doc/factsd", "usr/bin/factsverifier", "usr/bin/factstalk")
	if passwd() != before {
		t.Error("the users of this machine have changed")
	}

}

// only is the file that a pattern means.
func only(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", pattern, found, err)
	}
	return found[0]
}

// unpacked is where the archive for this machine is unpacked to.
func unpacked(t *testing.T, dist string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, nil, "tar", "-xzf", only(t, filepath.Join(dist, "*-linux-amd64.tar.gz")), "-C", dir, "--strip-components=1", "--no-same-owner")
	return dir
}

// newer is the package as its next version, with another configuration.
func newer(t *testing.T, deb string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, nil, "dpkg-deb", "-R", deb, dir+"/x")
	control, err := os.ReadFile(dir + "/x/DEBIAN/control")
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(control, []byte("\nVersion: "), []byte("\nVersion: 1:"), 1)
	if err := os.WriteFile(dir+"/x/DEBIAN/control", changed, 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, nil, "sh", "-c", `echo "# of the next version" >>"$0"`, dir+"/x/etc/miotfacts/factsd.toml")
	must(t, nil, "dpkg-deb", "-Znone", "--root-owner-group", "-b", dir+"/x", dir+"/new.deb")
	return dir + "/new.deb"
}

// An archive holds what it says, and its bill of materials what is linked.
func testArchive(t *testing.T, dist string) {
	must(t, nil, "sh", "-c", "cd '"+dist+"' && sha256sum -c SHA256SUMS")
	dir := unpacked(t, dist)
	for _, f := range []string{"LICENSE", "THIRD-PARTY", "configs/systemd/factsd.service", "configs/busybox/factsd.init", "docs/install.md"} {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			t.Error(err)
		}
	}
	if out := must(t, nil, dir+"/bin/factsd", "version"); !strings.Contains(read(t, "cmd/factsd/main.go"), `var version = "`+strings.TrimSpace(out)+`"`) {
		t.Errorf("factsd calls itself %q", out)
	}
	data, err := os.ReadFile(only(t, filepath.Join(dist, "*.cdx.json")))
	if err != nil {
		t.Fatal(err)
	}
	var bom struct {
		BomFormat, SpecVersion, SerialNumber string
		Components                           []struct {
			Type, Name, Version, Purl string
			Hashes                    []struct{ Alg, Content string }
			Licenses                  []struct{ License struct{ ID, Name string } }
		}
		Dependencies []struct {
			Ref       string
			DependsOn []string
		}
	}
	if err := json.Unmarshal(data, &bom); err != nil {
		t.Fatal(err)
	}
	if bom.BomFormat != "CycloneDX" || bom.SpecVersion != "1.6" || !strings.HasPrefix(bom.SerialNumber, "urn:uuid:") {
		t.Errorf("bill of materials: %s %s %s", bom.BomFormat, bom.SpecVersion, bom.SerialNumber)
	}
	libraries := map[string]bool{}
	for _, c := range bom.Components {
		if len(c.Licenses) != 1 || c.Licenses[0].License.ID+c.Licenses[0].License.Name == "" {
			t.Errorf("%s has no licence", c.Name)
		}
		if c.Type == "library" {
			libraries[c.Name+" "+c.Version] = true
			continue
		}
		binary, err := os.ReadFile(filepath.Join(dir, "bin", c.Name))
		if err != nil {
			t.Fatal(err)
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(binary)); len(c.Hashes) != 1 || c.Hashes[0].Content != sum {
			t.Errorf("%s: %v, it has %s", c.Name, c.Hashes, sum)
		}
	}
	// Another way to the same list.
	for line := range strings.Lines(must(t, nil, "go", "version", "-m", dir+"/bin/factsd", dir+"/bin/factstalk", dir+"/bin/factsctl", dir+"/bin/factsverifier")) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "dep" {
			if !libraries[f[1]+" "+f[2]] {
				t.Errorf("the bill of materials does not have %s %s", f[1], f[2])
			}
		}
	}
	refs := map[string]bool{}
	for _, d := range bom.Dependencies {
		refs[d.Ref] = true
	}
	for _, d := range bom.Dependencies {
		for _, on := range d.DependsOn {
			if !refs[on] {
				t.Errorf("%s depends on %s, which is not there", d.Ref, on)
			}
		}
	}
}

// distribute makes the files of one port.
func distribute(t *testing.T, port, kinds string) string {
	t.Helper()
	// Others than root have to read it.
	dir, err := os.MkdirTemp("", "miotfacts-packaging-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("make", "-s", "-C", root, "dist", "DISTFLAGS=-out "+dir+"/out -ports "+port+" -kinds "+kinds+" -xz 1")
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1767225600")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir + "/out"
}
