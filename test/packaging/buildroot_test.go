package packaging_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const external = "configs/buildroot"

// What Buildroot wants of an external tree, as far as it can be seen without it.
func TestBuildrootTree(t *testing.T) {
	for path, want := range map[string][]string{
		external + "/external.desc":               {"name: MIOTFACTS\n", "desc: "},
		external + "/Config.in":                   {`source "$BR2_EXTERNAL_MIOTFACTS_PATH/package/miotfacts/Config.in"`},
		external + "/external.mk":                 {"$(BR2_EXTERNAL_MIOTFACTS_PATH)/package/*/*.mk"},
		external + "/package/miotfacts/Config.in": {"config BR2_PACKAGE_MIOTFACTS\n\tbool \"miotfacts\"\n", "depends on BR2_PACKAGE_HOST_GO_TARGET_ARCH_SUPPORTS", "config BR2_PACKAGE_MIOTFACTS_TALK\n\tbool \"factstalk\"\n"},
		external + "/package/miotfacts/miotfacts.mk": {"MIOTFACTS_GOMOD = github.com/miotfacts/miotfacts\n", "MIOTFACTS_GO_ENV = CGO_ENABLED=0\n",
			"MIOTFACTS_LICENSE = Apache-2.0\n", "ifeq ($(BR2_PACKAGE_MIOTFACTS_TALK),y)\nMIOTFACTS_BUILD_TARGETS += cmd/factstalk\n", "$(eval $(golang-package))"},
		external + "/configs/miotfacts_qemu_aarch64_defconfig": {"BR2_PACKAGE_MIOTFACTS=y\n", "BR2_DOWNLOAD_FORCE_CHECK_HASHES=y\n"},
	} {
		text := read(t, path)
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s does not have %q", path, w)
			}
		}
		// An error since 2025.11.
		if strings.Contains(text, "_INSTALL_BINS") {
			t.Errorf("%s has INSTALL_BINS, which Buildroot no longer takes", path)
		}
	}
	// Every file that the package installs is in the source.
	for _, m := range regexp.MustCompile(`\$\(@D\)/(\S+)`).FindAllStringSubmatch(read(t, external+"/package/miotfacts/miotfacts.mk"), -1) {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Error(err)
		}
	}
	// Hashes are those of files that are here. What cannot be known is not there.
	line := regexp.MustCompile(`^sha256  ([0-9a-f]{64})  (\S+)$`)
	hashes := 0
	for text := range strings.Lines(read(t, external+"/package/miotfacts/miotfacts.hash")) {
		text = strings.TrimSuffix(text, "\n")
		if text == "" || strings.HasPrefix(text, "# ") {
			continue
		}
		m := line.FindStringSubmatch(text)
		if m == nil {
			t.Errorf("not a line of a hash file: %q", text)
			continue
		}
		hashes++
		if sum := fmt.Sprintf("%x", sha256.Sum256([]byte(read(t, m[2])))); sum != m[1] {
			t.Errorf("%s has the SHA-256 %s, the hash file says %s", m[2], sum, m[1])
		}
	}
	if hashes == 0 {
		t.Error("the hash file is empty")
	}
}

// With BUILDROOT= a checkout Buildroot itself reads the tree.
func TestBuildrootReads(t *testing.T) {
	tree := os.Getenv("BUILDROOT")
	if tree == "" {
		t.Log("skipped: BUILDROOT= names no checkout")
		return
	}
	ours, err := filepath.Abs(filepath.Join(root, external))
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	file := filepath.Join(out, ".config")
	run := func(target string) { must(t, nil, "make", "-s", "-C", tree, "O="+out, "BR2_EXTERNAL="+ours, target) }
	run("miotfacts_qemu_aarch64_defconfig")
	config, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(config), "\nBR2_PACKAGE_MIOTFACTS_TALK=y\n") {
		t.Error("factstalk is in an image that did not ask for it")
	}
	if err := os.WriteFile(file, append(config, "BR2_PACKAGE_MIOTFACTS_TALK=y\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	run("olddefconfig")
	run("miotfacts-show-info")
	if config, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	// A symbol whose dependencies are not met is dropped without a word.
	for _, symbol := range []string{"BR2_PACKAGE_MIOTFACTS", "BR2_PACKAGE_MIOTFACTS_TALK"} {
		if !strings.Contains(string(config), "\n"+symbol+"=y\n") {
			t.Errorf("%s is not in the configuration that Buildroot makes", symbol)
		}
	}
	files, err := filepath.Glob(filepath.Join(ours, "package/miotfacts/*"))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(must(t, nil, filepath.Join(tree, "utils/check-package"), append([]string{"-b"}, files...)...))
}
