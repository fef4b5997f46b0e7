package linux

import (
	"bytes"
	"os"
	"strings"

	"github.com/miotfacts/miotfacts/facts"
)

// readLastUpdate takes the newest time at which something changed what the
// package managers write. No tree keeps such times, so a fixture tells them in
// .calls/mtime.
func readLastUpdate(r *Root, o *out) {
	var times map[string]string
	if !r.Live() {
		var f fault
		if times, f = r.call("mtime"); f.is() {
			o.fault(0, f)
			return
		}
	}
	var newest int64
	for _, path := range []string{"var/lib/dpkg/status", "var/lib/opkg/status", "etc/os-release"} {
		if !r.Live() {
			if t, ok := times[path]; ok {
				n, ok := parseInt([]byte(t))
				if !ok {
					o.fault(0, malformed("mtime of "+path+" is not a number"))
					return
				}
				newest = max(newest, n)
			}
			continue
		}
		info, err := os.Stat("/" + path)
		if err != nil {
			if f := faultOf("/"+path, err); f.status != facts.Absent {
				o.fault(0, f)
				return
			}
			continue
		}
		newest = max(newest, info.ModTime().Unix())
	}
	if newest == 0 {
		o.fault(0, absent("there is no package database or os-release"))
		return
	}
	o.num(0, newest)
}

// parseOSRelease returns ID and VERSION_ID of os-release(5) with a space
// between. ID defaults to "linux" there; VERSION_ID may be missing.
func parseOSRelease(b []byte) ([]byte, fault) {
	id, version := "linux", ""
	lines := 0
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, v, ok := strings.Cut(line, "=")
		if !ok {
			return nil, malformed("os-release: a line is not an assignment")
		}
		lines++
		switch k {
		case "ID":
			id, ok = unquote(v)
		case "VERSION_ID":
			version, ok = unquote(v)
		}
		if !ok {
			return nil, malformed("os-release: a value is not quoted as os-release(5) has it")
		}
	}
	if lines == 0 || id == "" {
		return nil, malformed("os-release tells no system")
	}
	return []byte(strings.TrimSpace(id + " " + version)), fault{}
}

// unquote takes the quotes of a shell assignment off. ID and VERSION_ID have no
// character that would need escaping.
func unquote(s string) (string, bool) {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		s = s[1 : n-1]
	}
	return s, !strings.ContainsAny(s, "\"'\\$`")
}

type software struct {
	root  *Root
	agent string
}

func (s *software) read(o *out) {
	b, f := s.root.readText("proc/sys/kernel/osrelease")
	o.text(0, b, f)

	b, f = s.root.readFile("etc/os-release")
	if f.status == facts.Absent {
		b, f = s.root.readFile("usr/lib/os-release")
	}
	if !f.is() {
		b, f = parseOSRelease(b)
	}
	o.text(1, b, f)

	for _, path := range []string{"sys/class/dmi/id/bios_version", chosen + "bootloader/version", "proc/device-tree/model"} {
		if b, f = s.root.readText(path); f.status != facts.Absent {
			break
		}
	}
	if f.status == facts.Absent {
		f = absent("there is no DMI table or device tree that tells it")
	}
	o.text(2, bytes.TrimSpace(b), f)

	b, f = s.root.loaderVersion()
	o.text(3, b, f)

	if s.agent == "" {
		f = absent("the agent was built without a version")
	} else {
		f = fault{}
	}
	o.text(4, []byte(s.agent), f)

	b, f = s.root.readText(chosen + "u-boot,bootconf")
	if f.status == facts.Absent {
		f = absent("no U-Boot tells in the device tree that it booted a FIT image")
	}
	o.text(5, b, f)
}

// chosen is the node of the device tree in which boot loaders leave word.
const chosen = "proc/device-tree/chosen/"

// loaderVersion returns what the boot loader says of itself: U-Boot and barebox in
// the device tree, others in an EFI variable.
func (r *Root) loaderVersion() ([]byte, fault) {
	for _, path := range []string{chosen + "u-boot,version", chosen + "barebox-version"} {
		if b, f := r.readText(path); f.status != facts.Absent {
			return b, f
		}
	}
	b, f := r.readFile(efivars + "LoaderInfo" + loaderVendor)
	var text string
	if !f.is() {
		text, f = parseEFIText(b)
	}
	if f.status == facts.Absent {
		f = absent("no boot loader tells it in the device tree or an EFI variable")
	}
	return []byte(text), f
}
