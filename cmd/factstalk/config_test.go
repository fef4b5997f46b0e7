package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

func TestConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	parse := func(text string) (*config, error) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return readConfig(file)
	}
	example, err := readConfig("../../configs/factstalk.toml")
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := parse("")
	if err != nil {
		t.Fatal(err)
	}
	if example.Interfaces = nil; !reflect.DeepEqual(example, defaults) {
		t.Errorf("configs/factstalk.toml shows %+v, what is left out has %+v", example, defaults)
	}
	text, err := os.ReadFile("../../configs/factstalk.toml")
	if err != nil {
		t.Fatal(err)
	}
	for f := range reflect.TypeFor[config]().NumField() {
		if key := reflect.TypeFor[config]().Field(f).Tag.Get("toml"); !strings.Contains(string(text), "\n"+key+" = ") {
			t.Errorf("configs/factstalk.toml does not show %s", key)
		}
	}
	if c, err := parse(`interfaces = ["eth0", "wlan0"]` + "\nrows = 8192"); err != nil || len(c.Interfaces) != 2 || c.Rows != 8192 {
		t.Errorf("%+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"rows = 0":                          "rows 0 is not from 1 to 8192",
		"rows = 8193":                       "rows 8193 is not",
		"keep_days = 0":                     "keep_days 0 is not",
		"write_minutes = 1441":              "write_minutes 1441 is not",
		`record = "talk.record"`:            "no absolute path",
		`user = ""`:                         "it would keep the rights of root",
		`interfaces = [""]`:                 "no name of an interface",
		`interfaces = ["a", "a"]`:           "stands there twice",
		`interfaces = ["abcdefghabcdefgh"]`: "no name of an interface",
		"row = 1":                           `line 1: unknown key "row"`,
		"rows = ":                           "line 1",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// What it says and how it ends, from outside.
func TestExitCodes(t *testing.T) {
	bin := build(t)
	dir, err := os.MkdirTemp("", "miotfacts-talk-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "good.toml")
	if err := os.WriteFile(good, []byte(`record = "`+dir+`/talk.record"`), 0o644); err != nil {
		t.Fatal(err)
	}
	stranger := filepath.Join(dir, "stranger.toml")
	if err := os.WriteFile(stranger, []byte(`user = "nobody-of-this-name"`), 0o644); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root.toml")
	if err := os.WriteFile(root, []byte(`user = "root"`), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args     []string
		asRoot   bool // else as nobody
		code     int
		out, err string
	}{
		{args: nil, code: exitUsage, err: "hint: run factstalk -h"},
		{args: []string{"-h"}, out: "factstalk run -config"},
		{args: []string{"version"}, out: version},
		{args: []string{"listen"}, code: exitUsage, err: `unknown command "listen"`},
		{args: []string{"run", "-x"}, code: exitUsage, err: "hint: run factstalk -h"},
		{args: []string{"run", "more"}, code: exitUsage, err: `unexpected argument "more"`},
		{args: []string{"run", "-config", dir + "/none"}, code: exitUsage, err: "hint: every key is explained in configs/factstalk.toml"},
		{args: []string{"run", "-config", good}, code: exitNeeds, err: "hint: start it as root, or with CAP_NET_RAW"},
		{args: []string{"run", "-config", stranger}, asRoot: true, code: exitNeeds, err: "hint: make the user"},
		{args: []string{"run", "-config", root}, asRoot: true, code: exitNeeds, err: "it is root"},
	} {
		cmd := exec.Command(bin, c.args...)
		switch {
		case c.asRoot && os.Getuid() != 0:
			t.Logf("NOT RUN: %v needs root", c.args)
			continue
		case !c.asRoot && os.Getuid() == 0:
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(said.String(), c.err) {
			t.Errorf("factstalk %v ends with %d:\n%s%s", c.args, code, out.String(), said.String())
		}
	}
}
