package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// An entry is one file to be handed out: its content, or the file it is read
// from.
type entry struct {
	name string // in the archive or below the root of the device
	from string // path, "" for data
	data []byte
	mode fs.FileMode
}

func (e entry) content() ([]byte, error) {
	if e.from == "" {
		return e.data, nil
	}
	return os.ReadFile(e.from)
}

// tree returns the files below dir as entries below prefix.
func tree(dir, prefix string) ([]entry, error) {
	var out []entry
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		mode := fs.FileMode(0o644)
		if info, ierr := d.Info(); ierr == nil && info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		out = append(out, entry{name: path.Join(prefix, filepath.ToSlash(rel)), from: p, mode: mode})
		return err
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("cannot hand out %s: it is empty", dir)
	}
	return out, err
}

// archive writes the archive of one port and its bill of materials.
func (r *release) archive(p port, bin string) error {
	name := fmt.Sprintf("miotfacts-%s-linux-%s", r.version, p.name)
	var list []entry
	for _, c := range commands() {
		list = append(list, entry{name: name + "/bin/" + c, from: filepath.Join(bin, c), mode: 0o755})
	}
	for _, d := range []string{"configs", "docs"} {
		files, err := tree(filepath.Join(r.root, d), name+"/"+d)
		if err != nil {
			return err
		}
		list = append(list, files...)
	}
	for _, f := range []string{"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md"} {
		list = append(list, entry{name: name + "/" + f, from: filepath.Join(r.root, f), mode: 0o644})
	}
	linked, err := r.linked(bin, commands()...)
	if err != nil {
		return err
	}
	notices, err := r.notices(linked)
	if err != nil {
		return err
	}
	list = append(list, entry{name: name + "/THIRD-PARTY", data: notices, mode: 0o644})
	bom, err := r.bom(p, bin, linked)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.out, name+".cdx.json"), bom, 0o644); err != nil {
		return err
	}
	data, err := r.tar(list)
	if err != nil {
		return err
	}
	return compress(filepath.Join(r.out, name+".tar.gz"), data)
}

// tar packs entries in the order of their names, as root's, at the release's time.
func (r *release) tar(list []entry) ([]byte, error) {
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range list {
		data, err := e.content()
		if err != nil {
			return nil, err
		}
		h := &tar.Header{Name: e.name, Mode: int64(e.mode), Size: int64(len(data)), ModTime: r.time, Uname: "root", Gname: "root", Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buf.Bytes(), err
}

// source writes the archive of the commit.
func (r *release) source() error {
	cmd := exec.Command("git", "archive", "--format=tar", fmt.Sprintf("--prefix=miotfacts-%s/", r.version), "HEAD")
	cmd.Dir = r.root
	data, err := output(cmd)
	if err != nil {
		return err
	}
	return compress(filepath.Join(r.out, "miotfacts-"+r.version+".tar.gz"), data)
}

// compress writes data to path.
func compress(path string, data []byte) error {
	packed, err := gzipped(data, gzip.DefaultCompression)
	if err != nil {
		return err
	}
	return os.WriteFile(path, packed, 0o644)
}
