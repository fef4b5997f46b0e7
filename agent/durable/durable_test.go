package durable_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/miotfacts/miotfacts/agent/durable"
)

func TestWriteRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if _, err := durable.Read(path, 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, want := range []string{"one", "", "a longer second one"} {
		if err := durable.Write(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := durable.Read(path, 100)
		if err != nil || string(got) != want {
			t.Errorf("%q came back as %q, %v", want, got, err)
		}
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestEveryDamageIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := durable.Write(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(data []byte, what string) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := durable.Read(path, 100); !errors.Is(err, durable.ErrDamaged) {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	for i := range good {
		damaged(good[:i], "cut")
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		damaged(bad, "changed")
	}
	damaged(append(bytes.Clone(good), 0), "grown")
	damaged(make([]byte, 200), "oversize")
}

func TestFailedWriteKeepsTheOld(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	if err := durable.Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A directory in the temporary file's place makes the write fail.
	if err := os.Mkdir(path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.Write(path, []byte("new"), 0o600); err == nil {
		t.Fatal("the write did not fail")
	}
	if got, err := durable.Read(path, 100); err != nil || string(got) != "old" {
		t.Errorf("%q, %v", got, err)
	}
}
