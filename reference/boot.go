package reference

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Limits of what a manifest says of the boot. A boot has some 30 events, a list
// of files in the manifest itself some hundred entries.
const (
	MaxBootGroups   = 8
	MaxBootVersions = 32  // of one group
	MaxBootEvents   = 256 // of one version
	MaxBootText     = 1024
	MaxFiles        = 1024 // in the manifest; more go into an attachment
	MaxSigners      = 8
	MaxExcluded     = 64
	MaxFilesSize    = 16 << 20 // bytes of an attachment
)

// A BootGroup is a part of a device that is replaced as a whole: its firmware, or
// kernel with initial RAM disk and command line. A sound boot has one of its
// versions; an update adds one before it removes the other.
type BootGroup struct {
	Name     string        `cbor:"1,keyasint"` // "system"
	Versions []BootVersion `cbor:"2,keyasint"` // any of them; both slots of an A/B pair
}

// A BootVersion is one sound state of a group.
type BootVersion struct {
	Name   string      `cbor:"1,keyasint"` // "1.2.0"
	Events []BootEvent `cbor:"2,keyasint"` // in the order of the log
}

// A BootEvent is one event of the log that a sound boot has (TCG PFP 1.06).
type BootEvent struct {
	_        struct{} `cbor:",toarray"`
	PCR      uint8
	What     BootComponent
	Digest   []byte // SHA-256 that is extended; empty: whatever is measured as Subject
	Subject  string // what it is, as factsctl evidence explain says
	Value    string // its value, for words; "" where it is not known
	Optional bool   // a sound boot may go without it
}

// A BootComponent is the part of the machine that an event is about. It chooses
// the reason code of a deviation and decides nothing.
type BootComponent uint8

// The components have the numbers of package attest/eventlog.
var bootComponentNames = []string{"other", "firmware", "settings", "keys", "loader", "kernel", "initrd", "cmdline", "userspace"}

func (c BootComponent) String() string {
	if int(c) < len(bootComponentNames) {
		return bootComponentNames[c]
	}
	return fmt.Sprintf("component(%d)", uint8(c))
}

// Files says which files IMA may measure on a sound device.
type Files struct {
	Allow      []File   `cbor:"1,keyasint,omitempty"`
	Signers    [][]byte `cbor:"2,keyasint,omitempty"` // SubjectPublicKeyInfo, DER: what they signed may run; RSA from 2048 bits, ECDSA
	Exclude    []string `cbor:"3,keyasint,omitempty"` // beginnings of names that are not looked at
	Attachment []byte   `cbor:"4,keyasint,omitempty"` // SHA-256 of a list of more files, which the verifier is given beside the manifest
	Violations uint32   `cbor:"5,keyasint,omitempty"` // in one boot that are not told
}

// A File is one file that may be measured.
type File struct {
	_      struct{} `cbor:",toarray"`
	Name   string   // for words: the digest counts whatever a process calls the file
	Digest []byte   // SHA-256, SHA-384 or SHA-512 of its content
}

// OpenFiles reads the attachment that f names: lines of digest, two spaces and
// name, as sha256sum writes them. The signed manifest has its digest, and that is
// all the signature it needs.
func (f *Files) OpenFiles(data []byte) ([]File, error) {
	files, err := f.openFiles(data)
	if err != nil {
		return nil, fmt.Errorf("cannot open list of files: %w", err)
	}
	return files, nil
}

func (f *Files) openFiles(data []byte) ([]File, error) {
	if len(data) > MaxFilesSize {
		return nil, fmt.Errorf("%d bytes, the limit is %d", len(data), MaxFilesSize)
	}
	if digest := sha256.Sum256(data); !bytes.Equal(digest[:], f.Attachment) {
		return nil, fmt.Errorf("its digest is %x, the manifest names %x", digest, f.Attachment)
	}
	var files []File
	for line := range strings.Lines(string(data)) {
		digits, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		digest, err := hex.DecodeString(digits)
		x := File{Name: name, Digest: digest}
		if err == nil && !ok {
			err = errors.New("not a digest, two spaces and a name")
		}
		if err == nil {
			err = x.check()
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(files)+1, err)
		}
		files = append(files, x)
	}
	return files, nil
}

func (x *File) check() error {
	if n := len(x.Digest); n != 32 && n != 48 && n != 64 {
		return fmt.Errorf("digest of %d bytes, want 32, 48 or 64", n)
	}
	if len(x.Name) > 255 {
		return fmt.Errorf("name of %d bytes, the limit is 255", len(x.Name))
	}
	return nil
}

// bootEvents checks the references by events.
func (c *checker) bootEvents() {
	groups := c.m.BootEvents
	if len(groups) == 0 {
		return
	}
	const at = "boot_group"
	if c.m.Boot == nil {
		c.bad(at, "write boot = { pcrs = [0, 2, 4, 7] }", "events of a boot without PCRs that prove them")
		return
	}
	if len(groups) > MaxBootGroups {
		c.bad(at, "merge groups that change together", "%d groups, the limit is %d", len(groups), MaxBootGroups)
	}
	covered := map[int]bool{10: true}
	for i, g := range groups {
		at := fmt.Sprintf("%s[%d]", at, i)
		if g.Name == "" || len(g.Name) > MaxName || slices.ContainsFunc(groups[:i], func(b BootGroup) bool { return b.Name == g.Name }) {
			c.bad(at+".name", `name each group differently, such as "system"`, "group %q", g.Name)
		}
		if len(g.Versions) == 0 || len(g.Versions) > MaxBootVersions {
			c.bad(at+".version", "drop versions that are out of use", "%d versions, want 1 to %d", len(g.Versions), MaxBootVersions)
		}
		for j, v := range g.Versions {
			at := fmt.Sprintf("%s.version[%d]", at, j)
			if v.Name == "" || len(v.Name) > MaxName || slices.ContainsFunc(g.Versions[:j], func(b BootVersion) bool { return b.Name == v.Name }) {
				c.bad(at+".name", `name each version differently, such as "1.2.0"`, "version %q", v.Name)
			}
			if len(v.Events) == 0 || len(v.Events) > MaxBootEvents {
				c.bad(at+".events", "record them: factsctl boot record", "%d events, want 1 to %d", len(v.Events), MaxBootEvents)
			}
			for k, e := range v.Events {
				c.bootEvent(fmt.Sprintf("%s.events[%d]", at, k), e)
				covered[int(e.PCR)] = true
			}
		}
	}
	for _, p := range c.m.Boot.PCRs {
		if !covered[p] {
			c.warn("boot.pcrs", "add its events, or leave it out", "PCR %d is quoted and no version has an event of it: whatever is measured there deviates", p)
		}
	}
}

func (c *checker) bootEvent(at string, e BootEvent) {
	switch {
	case !slices.Contains(c.m.Boot.PCRs, int(e.PCR)):
		c.bad(at, "add the PCR to boot.pcrs, or remove the event", "PCR %d is not among the quoted ones", e.PCR)
	case e.PCR == 10:
		c.bad(at, "use [files]", "PCR 10 is IMA's")
	}
	if int(e.What) >= len(bootComponentNames) {
		c.bad(at+".what", "write one of "+strings.Join(bootComponentNames, ", "), "unknown component %d", e.What)
	}
	if len(e.Digest) != 32 && len(e.Digest) != 0 {
		c.bad(at+".sha256", "write 64 hexadecimal digits", "digest of %d bytes, want 32", len(e.Digest))
	}
	if len(e.Digest) == 0 && e.Subject == "" {
		c.bad(at+".subject", "say what it is, or give its digest", "an event without digest and subject would accept anything")
	}
	if len(e.Subject) > MaxName || len(e.Value) > MaxBootText {
		c.bad(at, "shorten its words", "subject of %d bytes, value of %d, the limits are %d and %d", len(e.Subject), len(e.Value), MaxName, MaxBootText)
	}
}

// files checks the policy for IMA.
func (c *checker) files() {
	f := c.m.Files
	if f == nil {
		return
	}
	if c.m.Boot == nil || !slices.Contains(c.m.Boot.PCRs, 10) {
		c.bad("files", "add 10 to boot.pcrs", "PCR 10 is not quoted, so nothing proves the list of files")
	}
	if len(f.Allow) == 0 && len(f.Signers) == 0 && len(f.Attachment) == 0 {
		c.bad("files", "allow the files of a sound device: factsctl boot record --ima", "no file and no signer: every file would be unknown")
	}
	if len(f.Allow) > MaxFiles {
		c.bad("files.allow", "put them into an attachment", "%d files, the limit is %d", len(f.Allow), MaxFiles)
	}
	for i, x := range f.Allow {
		if err := x.check(); err != nil {
			c.bad(fmt.Sprintf("files.allow[%d]", i), "give a path and the hash of the content", "%v", err)
		}
	}
	if len(f.Signers) > MaxSigners {
		c.bad("files.signers", "drop signers that are out of use", "%d signers, the limit is %d", len(f.Signers), MaxSigners)
	}
	for i, s := range f.Signers {
		if len(s) < 32 || len(s) > 2048 || s[0] != 0x30 {
			c.bad(fmt.Sprintf("files.signers[%d]", i), "write the hexadecimal digits of its SubjectPublicKeyInfo", "%d bytes are no public key in DER", len(s))
		}
	}
	if len(f.Exclude) > MaxExcluded {
		c.bad("files.exclude", "merge them", "%d beginnings of names, the limit is %d", len(f.Exclude), MaxExcluded)
	}
	for i, x := range f.Exclude {
		if x == "" || x == "/" || len(x) > 255 {
			c.bad(fmt.Sprintf("files.exclude[%d]", i), `name a directory, such as "/var/lib/"`, "%q leaves out everything, or is too long", x)
		}
	}
	if n := len(f.Attachment); n != 0 && n != 32 {
		c.bad("files.attachment", "write 64 hexadecimal digits", "digest of %d bytes, want 32", n)
	}
}

// bootGroups reads [[boot_group]].
func (a *author) bootGroups(f field) []BootGroup {
	var groups []BootGroup
	for _, t := range f.tables() {
		g := BootGroup{Name: t.need("name", `write name = "system"`).text()}
		for _, v := range t.need("version", "write [[boot_group.version]] with name and events").tables() {
			x := BootVersion{Name: v.need("name", `write name = "1.2.0"`).text(), Events: []BootEvent{}}
			for _, e := range v.need("events", "record them: factsctl boot record").tables() {
				n := BootEvent{
					PCR:     uint8(e.need("pcr", "write pcr = 4").number(255)),
					What:    BootComponent(max(e.need("what", `write what = "kernel"`).choice(append([]string{""}, bootComponentNames...)), 1) - 1),
					Subject: e.get("subject").text(), Value: e.get("value").text(), Digest: []byte{},
				}
				if d := e.get("sha256"); d.n != nil {
					n.Digest = d.hex("")
				}
				if o := e.get("optional"); o.is(unstable.Bool, "true or false") {
					n.Optional = o.n.text == "true"
				}
				e.close()
				x.Events = append(x.Events, n)
			}
			v.close()
			g.Versions = append(g.Versions, x)
		}
		t.close()
		groups = append(groups, g)
	}
	return groups
}

// files reads [files].
func (a *author) files(t *table) *Files {
	if t == nil {
		return nil
	}
	f := &Files{Violations: uint32(t.get("violations").number(1<<32 - 1))}
	for _, e := range t.get("allow").tables() {
		x := File{Name: e.need("name", `write name = "/usr/bin/pump"`).text()}
		for _, hash := range []string{"sha256", "sha384", "sha512"} {
			if d := e.get(hash); d.n != nil {
				x.Digest = d.hex("")
			}
		}
		e.close()
		f.Allow = append(f.Allow, x)
	}
	for _, e := range t.get("signers").elems() {
		f.Signers = append(f.Signers, e.hex(""))
	}
	for _, e := range t.get("exclude").elems() {
		f.Exclude = append(f.Exclude, e.text())
	}
	if d := t.get("attachment"); d.n != nil {
		f.Attachment = d.hex("")
	}
	t.close()
	return f
}

// FormatBoot returns groups and files as the part of a manifest in TOML that
// Author reads.
func FormatBoot(groups []BootGroup, files *Files) []byte {
	f := new(formatter)
	f.boot(groups, files)
	return f.out.Bytes()
}

func (f *formatter) boot(groups []BootGroup, files *Files) {
	for _, g := range groups {
		f.line("\n[[boot_group]]\nname = %s", quote(g.Name))
		for _, v := range g.Versions {
			f.line("\n[[boot_group.version]]\nname = %s\nevents = [", quote(v.Name))
			for _, e := range v.Events {
				text := fmt.Sprintf("  { pcr = %d, what = %s", e.PCR, quote(e.What.String()))
				if len(e.Digest) > 0 {
					text += ", sha256 = " + quote(hex.EncodeToString(e.Digest))
				}
				for _, w := range []struct{ key, text string }{{"subject", e.Subject}, {"value", e.Value}} {
					if w.text != "" {
						text += ", " + w.key + " = " + quote(w.text)
					}
				}
				if e.Optional {
					text += ", optional = true"
				}
				f.line("%s },", text)
			}
			f.line("]")
		}
	}
	if files == nil {
		return
	}
	f.line("\n[files]")
	if len(files.Attachment) > 0 {
		f.line("attachment = %s", quote(hex.EncodeToString(files.Attachment)))
	}
	if files.Violations > 0 {
		f.line("violations = %d", files.Violations)
	}
	var exclude, signers []string
	for _, x := range files.Exclude {
		exclude = append(exclude, quote(x))
	}
	for _, s := range files.Signers {
		signers = append(signers, quote(hex.EncodeToString(s)))
	}
	if exclude != nil {
		f.line("exclude = %s", list(exclude))
	}
	if signers != nil {
		f.line("signers = %s", list(signers))
	}
	if len(files.Allow) > 0 {
		f.line("allow = [")
		for _, x := range files.Allow {
			f.line("  { name = %s, sha%d = %s },", quote(x.Name), len(x.Digest)*8, quote(hex.EncodeToString(x.Digest)))
		}
		f.line("]")
	}
}
