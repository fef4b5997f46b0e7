package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/agent/durable"
	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/attest/tpm"
)

// provision gives the device its UEID: derived from the TPM's endorsement key,
// or random for a key file, which it makes. Run as root it lets the measuring
// process read both, whatever the umask. Run again it changes nothing.
func provision(_ context.Context, c *config, log *slog.Logger, out io.Writer) error {
	if _, err := os.Stat(c.State); errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(os.MkdirAll(c.State, 0o755), os.Chmod(c.State, 0o755)); err != nil {
			return fail(exitNeeds, "run it as root, or name another state directory", fmt.Errorf("cannot provision: %w", err))
		}
	}
	ueid, err := newUEID(c, log)
	if err != nil {
		return err
	}
	have, err := readIdentity(c)
	switch {
	case err == nil && c.Key.TPM != "" && have != ueid:
		return fail(exitNeeds, "after a replaced mainboard move "+c.stateOf("identity")+" aside and enrol the device again",
			fmt.Errorf("cannot provision: this device is %s, its TPM says %s", have, ueid))
	case err == nil:
		ueid = have
	case errors.Is(err, fs.ErrNotExist):
		if err := durable.Write(c.stateOf("identity"), []byte(ueid.String()), 0o644); err != nil {
			return fail(exitNeeds, "run it as root", err)
		}
	default:
		return fail(exitNeeds, "restore the file or enrol the device anew", err)
	}
	if err := share(c); err != nil {
		return fail(exitNeeds, "does the user of factsd run exist?", fmt.Errorf("cannot let factsd run read what it needs: %w", err))
	}
	fmt.Fprintln(out, ueid)
	return nil
}

// share lets the measuring process read the identity and, through its group, a
// key file. It may write neither. What root did not make is its own already.
func share(c *config) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.Chmod(c.stateOf("identity"), 0o644); err != nil {
		return err
	}
	if c.Key.File == "" {
		return nil
	}
	i := slices.IndexFunc(c.enforcerUIDs, func(uid uint32) bool { return uid != 0 })
	if i < 0 {
		return nil // it runs as root
	}
	// As for the enforcer's socket: the group of the first user that is not root.
	u, err := user.LookupId(strconv.FormatUint(uint64(c.enforcerUIDs[i]), 10))
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	return errors.Join(os.Chown(c.Key.File, 0, gid), os.Chmod(c.Key.File, 0o640))
}

func newUEID(c *config, log *slog.Logger) (attest.UEID, error) {
	if c.Key.TPM != "" {
		t, err := openTPM(c, 0)
		if err != nil {
			return attest.UEID{}, err
		}
		defer t.Close()
		id, err := t.Provision()
		if err != nil {
			return attest.UEID{}, fail(exitNeeds, "is the TPM cleared, or owned with a password?", err)
		}
		if c.Enforcer.NV {
			if err := t.DefineLatch(); err != nil {
				log.Warn("no latch in the TPM: the files alone will hold it", "err", err)
			}
		}
		return attest.UEIDOfEK(id.EKPublic), nil
	}
	if _, err := os.Stat(c.Key.File); errors.Is(err, fs.ErrNotExist) {
		if err := writeKeyFile(c.Key.File); err != nil {
			return attest.UEID{}, fail(exitNeeds, "run it as root", err)
		}
		log.Warn("made a key file: whoever reads it is the device", "file", c.Key.File)
	}
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return attest.UEID{}, err
	}
	return attest.NewUEID(id), nil
}

// newKey returns a new device key as a key file has it.
func newKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make device key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("cannot make device key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func writeKeyFile(path string) error {
	data, err := newKey()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot make device key: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("cannot make device key: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

func readIdentity(c *config) (attest.UEID, error) {
	data, err := durable.Read(c.stateOf("identity"), 64)
	if err != nil {
		return attest.UEID{}, err
	}
	return attest.ParseUEID(strings.TrimSpace(string(data)))
}

// openTPM opens the TPM for a device key of this generation.
func openTPM(c *config, generation uint64) (*tpm.TPM, error) {
	options := tpm.Options{Generation: generation}
	for _, p := range []struct {
		file     string
		password *[]byte
	}{{c.Key.EndorsementPassword, &options.EndorsementAuth}, {c.Key.OwnerPassword, &options.OwnerAuth}} {
		if p.file == "" {
			continue
		}
		data, err := os.ReadFile(p.file)
		if err != nil {
			return nil, fail(exitNeeds, "may this user read it?", fmt.Errorf("cannot read a password of the TPM: %w", err))
		}
		*p.password = bytes.TrimRight(data, "\r\n")
	}
	t, err := options.Open(c.Key.TPM)
	if errors.Is(err, tpm.ErrNoTPM) {
		return nil, fail(exitNeeds, "load the TPM's driver, correct key.tpm, or provision this device with key.file instead", err)
	}
	if err != nil {
		return nil, fail(exitNeeds, "may this user open it (group tss)? Is it in use?", err)
	}
	return t, nil
}

// A device is who this machine is: its name, its key, and its TPM if it has one.
type device struct {
	ueid       attest.UEID
	signer     *cose.Signer
	protection attest.Protection
	tpm        *tpm.TPM         // nil for a key file
	identity   *attest.Identity // nil for a key file
	tls        tls.Certificate
	keys       *keyState
	renewal    []byte     // to be sent until the verifier has taken the next key; nil without an order
	nextKey    cose.KeyID // that it asks for
	notRenewed error      // why it cannot be made
}

func openDevice(c *config) (*device, error) {
	ueid, err := readIdentity(c)
	if err != nil {
		return nil, fail(exitNeeds, "run factsd provision first", fmt.Errorf("cannot tell which device this is: %w", err))
	}
	d := &device{ueid: ueid}
	if d.keys, err = readKeyState(c); err != nil {
		return nil, err
	}
	var request []byte
	// What goes wrong with the next key must not stop the device with the present one.
	request, d.nextKey, d.notRenewed = d.keys.request(c, ueid)
	var key crypto.Signer
	if c.Key.TPM != "" {
		if d.tpm, err = openTPM(c, d.keys.Generation); err != nil {
			return nil, err
		}
		id, err := d.tpm.Provision()
		if err != nil {
			d.tpm.Close()
			return nil, fail(exitNeeds, "is the TPM cleared, or owned with a password?", err)
		}
		if own := attest.UEIDOfEK(id.EKPublic); own != ueid {
			d.tpm.Close()
			return nil, fail(exitNeeds, "after a replaced mainboard run factsd provision", fmt.Errorf("cannot use the TPM: it belongs to device %s, this is %s", own, ueid))
		}
		key, d.identity, d.protection = d.tpm.Signer(), attest.IdentityOf(id), attest.ProtectionTPM
	} else {
		data := d.keys.Key
		if data == nil {
			if data, err = os.ReadFile(c.Key.File); err != nil {
				return nil, fail(exitNeeds, "run factsd provision first", fmt.Errorf("cannot read device key: %w", err))
			}
		}
		if key, err = cose.ParsePrivateKey(data); err != nil {
			return nil, fail(exitNeeds, "restore the key, or enrol the device anew", err)
		}
		d.protection = attest.ProtectionFile
	}
	if d.signer, err = cose.NewSigner(key); err != nil {
		return nil, err
	}
	if request != nil && d.notRenewed == nil {
		d.renewal, d.notRenewed = attest.SealRenewal(request, d.signer)
	}
	if c.Broker.Certificate != "" {
		d.tls, err = issuedCertificate(c.Broker.Certificate, key)
	} else {
		d.tls, err = clientCertificate(key, ueid)
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// issuedCertificate returns the chain in file, which must be for the device key.
func issuedCertificate(file string, key crypto.Signer) (tls.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return tls.Certificate{}, fail(exitNeeds, "have your authority answer the request of factsd csr", fmt.Errorf("cannot read broker.certificate: %w", err))
	}
	cert := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			cert.Certificate = append(cert.Certificate, block.Bytes)
		}
	}
	if len(cert.Certificate) == 0 {
		return tls.Certificate{}, fail(exitUsage, "it must hold certificates in PEM", fmt.Errorf("cannot use broker.certificate %s: no certificate in it", file))
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return tls.Certificate{}, fail(exitUsage, "it must hold certificates in PEM", fmt.Errorf("cannot use broker.certificate %s: %w", file, err))
	}
	if public, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(key.Public()) {
		return tls.Certificate{}, fail(exitNeeds, "have your authority answer the request of factsd csr", fmt.Errorf("cannot use broker.certificate %s: it is for another key", file))
	}
	return cert, nil
}

// csr prints a certificate request for the device key.
func csr(_ context.Context, c *config, _ *slog.Logger, out io.Writer) error {
	c.Broker.Certificate = "" // the one that is asked for
	d, err := openDevice(c)
	if err != nil {
		return err
	}
	defer d.close()
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: d.ueid.String()}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, d.tls.PrivateKey)
	if err != nil {
		return fmt.Errorf("cannot make certificate request: %w", err)
	}
	return pem.Encode(out, &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func (d *device) close() {
	if d.tpm != nil {
		d.tpm.Close()
	}
}

// clientCertificate returns a self-signed certificate over the device key. The
// broker knows a device by its key, so the dates mean nothing.
func clientCertificate(key crypto.Signer, ueid attest.UEID) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: ueid.String()},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, 4.1.2.5: no expiry
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make client certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

func brokerTLS(c *config, cert tls.Certificate) (*tls.Config, error) {
	data, err := os.ReadFile(c.Broker.CA)
	if err != nil {
		return nil, fail(exitNeeds, "copy the verifier's certificate there", fmt.Errorf("cannot read broker.ca: %w", err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fail(exitUsage, "it must hold certificates in PEM", fmt.Errorf("cannot use broker.ca %s: no certificate in it", filepath.Base(c.Broker.CA)))
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{cert}}, nil
}
