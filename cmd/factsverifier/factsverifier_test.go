package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/facts"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/reference"
	"github.com/miotfacts/miotfacts/reference/referencetest"
	"github.com/miotfacts/miotfacts/verifier/verifiertest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"factsverifier": func() { os.Exit(mainCode()) }})
}

func TestScripts(t *testing.T) {
	world := referencetest.New(t)
	manifest := referencetest.Example()
	manifest.NotBefore, manifest.NotAfter = 1, 4_000_000_000
	ended := referencetest.Example()
	ended.Sequence, ended.NotBefore, ended.NotAfter = 1, 1, 2
	// The workbench reads what this program writes.
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin, "../factsctl").CombinedOutput(); err != nil {
		t.Fatalf("cannot build factsctl: %v\n%s", err, out)
	}
	known := knownFleet(t, world, manifest)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
			root, err := world.ManufacturerRoot.Public().PEM()
			if err != nil {
				return err
			}
			signed, err := reference.SignManifest(&manifest, world.Manifest)
			if err != nil {
				return err
			}
			old, err := reference.SignManifest(&ended, world.Manifest)
			if err != nil {
				return err
			}
			authored, err := os.ReadFile(filepath.Join("..", "..", "configs", "label-example.toml"))
			if err != nil {
				return err
			}
			authoredLabel, problems := label.Author([]byte(strings.Replace(string(authored), "wearable-1", "pump-1", 1)))
			if authoredLabel == nil {
				return fmt.Errorf("label: %v", problems)
			}
			labelled, err := label.Sign(authoredLabel, world.Label)
			if err != nil {
				return err
			}
			bom, err := os.ReadFile(filepath.Join("..", "..", "configs", "label-example.cdx.json"))
			if err != nil {
				return err
			}
			stranger, err := label.Sign(authoredLabel, referencetest.Signer(t))
			if err != nil {
				return err
			}
			for name, data := range map[string][]byte{
				"root.pub": root, "keys.cbor": world.ManufacturerKeys, "manifest.cbor": signed, "ended.cbor": old,
				"pump.label": labelled, "stranger.label": stranger, "known.db": known, "bom.json": bom,
			} {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), data, 0o644); err != nil {
					return err
				}
			}
			for _, name := range []string{"BROKER", "WEB"} {
				// Free a moment ago; the kernel gives others to those who ask next.
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return err
				}
				env.Setenv(name, l.Addr().String())
				if err := l.Close(); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "await": await, "expand": expand, "enrol": enrol, "json": validJSON,
		},
	})
}

// knownFleet returns a store in which one device has reported, just now.
func knownFleet(t *testing.T, world *referencetest.World, manifest reference.Manifest) []byte {
	t.Helper()
	f := verifiertest.In(t, world, manifest)
	f.Now = time.Now().Unix() - 10
	d := f.NewDevice().Enrolled()
	d.Set(10, facts.BoolValue(false)) // Secure Boot
	d.Accepted(d.Message(attest.KindBoot))
	if err := f.Store.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(f.File)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// exits N PROGRAM ARG...: the program ends with exit code N; where N is not 0,
// with an error line.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	if stderr := ts.ReadFile("stderr"); want != 0 && !strings.Contains("\n"+stderr, "\nerror: ") {
		ts.Fatalf("no error line in %q", stderr)
	}
}

// await PATTERN PROGRAM ARG...: runs the program until its output has the pattern.
func await(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[0])
	deadline := time.Now().Add(20 * time.Second)
	for ts.Exec(args[1], args[2:]...) != nil || !pattern.MatchString(ts.ReadFile("stdout")) {
		if time.Now().After(deadline) {
			ts.Fatalf("waited 20 s for %q in\n%s", args[0], ts.ReadFile("stdout"))
		}
	}
}

// expand IN OUT: replaces variables of the environment.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o644))
}

// json: the last standard output is one JSON document.
func validJSON(ts *testscript.TestScript, _ bool, _ []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
}

// enrol CA BROKER: a device with a new key asks to be enrolled; its name goes to
// the variable DEVICE.
func enrol(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	signer, err := cose.NewSigner(key)
	ts.Check(err)
	var id [16]byte
	rand.Read(id[:])
	ueid := attest.NewUEID(id)
	request, err := attest.SealEnrolment(&attest.Enrolment{
		Version: 1, UEID: ueid[:], Vendor: "Example Medical", Model: "pump-1", Serial: "7\x1b[2J", Key: signer.Public(), Protection: attest.ProtectionFile,
	}, signer)
	ts.Check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: ueid.String()}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ts.ReadFile(args[0]))) {
		ts.Fatalf("no certificate in %s", args[0])
	}
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tls://" + args[1]).SetClientID(ueid.String()).SetProtocolVersion(4).
		SetTLSConfig(&tls.Config{RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}))
	for _, token := range []func() paho.Token{
		c.Connect,
		func() paho.Token { return c.Publish("miotfacts/"+ueid.String()+"/enrol", 1, false, request) },
	} {
		t := token()
		if !t.WaitTimeout(20 * time.Second) {
			ts.Fatalf("the broker does not answer")
		}
		ts.Check(t.Error())
	}
	ts.Defer(func() { c.Disconnect(0) })
	ts.Setenv("DEVICE", ueid.String())
}

// The commented configuration is one, and explains every key.
func TestExampleConfiguration(t *testing.T) {
	path := filepath.Join("..", "..", "configs", "factsverifier.toml")
	if _, err := readConfig(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for f := range typ.Fields() {
			name := f.Tag.Get("toml")
			switch {
			case name == "":
			case f.Type.Kind() == reflect.Struct:
				if !strings.Contains(string(text), "\n["+name+"]\n") {
					t.Errorf("no table [%s]", name)
				}
				walk(name+".", f.Type)
			case !regexp.MustCompile(`(?m)^(# )?` + name + ` = `).Match(text):
				t.Errorf("%s%s is not explained", prefix, name)
			}
		}
	}
	walk("", reflect.TypeFor[config]())
}

// Without manifests labels still need who may sign them.
func TestLabelsWithoutKeys(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	text := "[reference]\nwithout = true\nlabels = \"l\"\n[keys]\nresult = \"r\"\n[broker]\nlisten = \":1\"\ncertificate = \"c\"\nkey = \"k\"\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readConfig(path); err == nil || !strings.Contains(err.Error(), "no label could be trusted") {
		t.Errorf("%v", err)
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	const sound = `
[reference]
manifests = ["m"]
key_lists = ["k"]
manufacturer_roots = ["r"]
[keys]
result = "result.key"
[broker]
listen = ":8883"
certificate = "c"
key = "k"
[web]
listen = "127.0.0.1:0"
[enrolment]
[retention]
[log]
`
	for _, c := range []struct{ old, new, words string }{
		{"", "", ""},
		{`manifests = ["m"]`, "", "reference.manifests is empty"},
		{`manifests = ["m"]`, "manifests = [\"m\"]\nwithout = true", "contradicts"},
		{`key_lists = ["k"]`, "", "no manifest could be trusted"},
		{`result = "result.key"`, "", "keys.result"},
		{`listen = ":8883"`, "", "embedded broker"},
		{`listen = ":8883"`, "listen = \":8883\"\nurl = \"tls://x\"", "not both"},
		{`listen = ":8883"`, `url = "tls://x"`, "broker.ca"},
		{`certificate = "c"`, "", "broker.certificate"},
		{`listen = "127.0.0.1:0"`, `listen = ":80"`, "can be reached from elsewhere"},
		{`listen = "127.0.0.1:0"`, `listen = "192.0.2.1:80"`, "can be reached from elsewhere"},
		{`listen = "127.0.0.1:0"`, "listen = \"\"\nkey = \"k\"", "belong together"},
		{"[enrolment]", "[enrolment]\nrequire_ek_certificate = true", "no TPM could be enrolled"},
		{"[keys]", "observed = \"o\"\n[keys]", "no inspection date"},
		{"[keys]", "labels = \"l\"\nadvisories = \"a\"\n[keys]", "flaws are looked for in bills of materials"},
		{"[keys]", "own_networks = [\"192.0.2.1\"]\n[keys]", "reference.own_networks"},
		{`manifests = ["m"]`, "without = true\nlabels = \"l\"", ""},
		{"[retention]", "[retention]\nroutine_days = -1", "too low"},
		{"[log]", "[log]\nlevel = \"loud\"", "loud"},
		{"[log]", "[log]\nlvl = 1", `unknown key "log.lvl"`},
		{"[log]", "[log", "line"},
	} {
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, []byte(strings.Replace(sound, c.old, c.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readConfig(path)
		switch {
		case c.words == "" && err != nil:
			t.Errorf("sound: %v", err)
		case c.words != "" && (err == nil || !strings.Contains(err.Error(), c.words)):
			t.Errorf("%s: %v, want %q", c.new, err, c.words)
		case c.words != "":
			if f, ok := errors.AsType[*failure](err); !ok || f.code != exitUsage {
				t.Errorf("%s: %v", c.new, fmt.Sprintf("%T", err))
			}
		}
	}
}
