// Package tpm is all that the project has to do with a TPM 2.0, in two halves.
//
// The device's half talks to a TPM: Open, then Provision for the keys and their
// certification, Signer, Activate, Quote, and a latch in NV memory. The keys are
// primaries, made anew from the TPM's endorsement seed each time they are
// needed: nothing is stored, and a reboot brings the same keys. All of them, and
// the NV indices, are exempt from dictionary attack protection, so that power
// cuts cannot lock the device out of its own identity (TPM 2.0 part 1, 19.8).
//
// The verifier's half is pure functions over bytes that a stranger sent:
// VerifyQuote, VerifyCertify, VerifyEKCert, MakeCredential, Name, PublicKey. It
// has its own strict parser, never talks to a TPM and names each refusal by a
// Reason.
//
// Trusted: that the TPM does what its specification says, once its endorsement
// key has been vouched for by a certificate or by an operator. Not done here:
// the event log, what PCR values mean, whether a nonce is fresh.
//
// Specifications: TCG TPM 2.0 Library, rev 1.59, parts 1 to 3 ("part 2, 10.12.12"
// in comments); TCG EK Credential Profile 2.5; TCG Registry of Reserved TPM 2.0
// Handles. Keys are ECDSA P-256 with SHA-256 and the PCR bank is SHA-256; only an
// endorsement key may be RSA-2048.
package tpm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// Errors of the device's half that callers branch on.
var (
	ErrNoTPM     = errors.New("there is no TPM")
	ErrNVAbsent  = errors.New("NV index is not defined")
	ErrNVFull    = errors.New("NV memory is full")
	ErrNVDamaged = errors.New("NV index does not hold what was written there")
)

// errOtherKey is a signature that the key meant did not make: its handle has
// come to name another object.
var errOtherKey = errors.New("another key signed")

// Options are for a TPM that somebody took ownership of. The zero value is right
// for most devices.
type Options struct {
	OwnerAuth       []byte        // of TPM_RH_OWNER, for the NV latch
	EndorsementAuth []byte        // of TPM_RH_ENDORSEMENT, for the keys
	Generation      uint64        // of the device key: how often it was renewed; each is another key
	Timeout         time.Duration // of one command; 0 means 30 s. Making a key may take ten times as long
}

// A TPM is an open TPM. Its methods may be called from several goroutines; it
// does one thing at a time, and a command takes 1 to 500 ms on real devices.
type TPM struct {
	mu     sync.Mutex
	link   link
	opt    Options
	ak     key
	device key
	pcrs   []PCR // as they were last read; never trusted without a signed digest
}

// Open opens the TPM at addr: "/dev/tpmrm0", or "/dev/tpm0" where the kernel has
// no resource manager; "unix:/path" or "tcp:127.0.0.1:2321" for a swtpm that
// speaks the bare protocol. The error wraps ErrNoTPM when there is none.
func Open(addr string) (*TPM, error) { return Options{}.Open(addr) }

// Open opens the TPM at addr as the function Open does.
func (o Options) Open(addr string) (*TPM, error) {
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	l, err := dial(addr, o.Timeout)
	if err != nil {
		return nil, fmt.Errorf("cannot open TPM %s: %w", addr, err)
	}
	t := &TPM{link: l, opt: o, ak: key{template: akTemplate()}, device: key{template: deviceTemplate(o.Generation)}}
	// A TPM 1.2 answers too, with an error of its own.
	if _, err := t.property(tpm2.TPMPTFamilyIndicator); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot open TPM %s: %w", addr, err)
	}
	return t, nil
}

// Close flushes the keys from the TPM and ends the connection. Closing twice is
// no error.
func (t *TPM) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.link == nil {
		return nil
	}
	err := errors.Join(t.flush(&t.ak), t.flush(&t.device), t.link.Close())
	t.link = nil
	if err != nil {
		return fmt.Errorf("cannot close TPM: %w", err)
	}
	return nil
}

// lock begins an operation; it fails on a closed TPM. On success the caller
// unlocks t.mu.
func (t *TPM) lock() error {
	t.mu.Lock()
	if t.link == nil {
		t.mu.Unlock()
		return fmt.Errorf("the TPM: %w", os.ErrClosed)
	}
	return nil
}

func (t *TPM) property(p tpm2.TPMPT) (uint32, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(t.link)
	if err != nil {
		return 0, err
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return 0, err
	}
	if len(list.TPMProperty) != 1 || list.TPMProperty[0].Property != p {
		return 0, fmt.Errorf("the TPM does not know its property %#x", uint32(p))
	}
	return list.TPMProperty[0].Value, nil
}

// A key is a primary key of the endorsement hierarchy, loaded while it is in use.
type key struct {
	template tpm2.TPMTPublic
	handle   tpm2.TPMHandle // 0 while not loaded
	name     tpm2.TPM2BName
	public   []byte // TPMT_PUBLIC as the TPM made it
}

// auth is the key as a command names it. The keys have no password: possession
// of the TPM is what they prove.
func (k *key) auth() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: tpm2.PasswordAuth(nil)}
}

func (t *TPM) endorsement() tpm2.AuthHandle {
	return hierarchy(tpm2.TPMRHEndorsement, t.opt.EndorsementAuth)
}

// hierarchy names a hierarchy with its password. A password is proved in an HMAC
// session and does not travel (part 1, 19.6); one that can be guessed can still be
// found by who listened. Most devices have none, and need no session.
func hierarchy(h tpm2.TPMHandle, password []byte) tpm2.AuthHandle {
	if len(password) == 0 {
		return tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth(nil)}
	}
	return tpm2.AuthHandle{Handle: h, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Auth(password))}
}

// load makes the key with TPM2_CreatePrimary (part 3, 24.1) unless it is there.
func (t *TPM) load(k *key) error {
	if k.handle != 0 {
		return nil
	}
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: t.endorsement(), InPublic: tpm2.New2B(k.template)}.Execute(t.link)
	if err != nil {
		return fmt.Errorf("cannot make key: %w", err)
	}
	k.handle, k.name, k.public = rsp.ObjectHandle, rsp.Name, rsp.OutPublic.Bytes()
	return nil
}

func (t *TPM) flush(k *key) error {
	if k.handle == 0 {
		return nil
	}
	_, err := tpm2.FlushContext{FlushHandle: k.handle}.Execute(t.link)
	k.handle = 0
	return err
}

// use runs f with keys loaded. When the TPM is full, or no longer has one of them
// as after its reset, they are made anew; all of it can happen in turn.
func (t *TPM) use(f func() error, keys ...*key) error {
	try := func() error {
		for _, k := range keys {
			if err := t.load(k); err != nil {
				return err
			}
		}
		return f()
	}
	for n := 1; ; n++ {
		err := try()
		var rc tpm2.TPMRC
		switch {
		case err == nil || n == 6:
			return err
		case full(err):
			if err := t.evict(err, keys); err != nil {
				return err
			}
		case errors.Is(err, errOtherKey) || errors.As(err, &rc):
			// A handle may have come to name another object, of which a command
			// can be refused for any reason.
			if lost, err := t.forget(keys); err != nil {
				return err
			} else if lost {
				continue
			}
			return err
		default:
			return err
		}
	}
}

// forget drops the handles that no longer name the keys they were for.
func (t *TPM) forget(keys []*key) (lost bool, err error) {
	for _, k := range keys {
		if k.handle == 0 {
			continue
		}
		rsp, err := tpm2.ReadPublic{ObjectHandle: k.handle}.Execute(t.link)
		var rc tpm2.TPMRC
		if err != nil && !errors.As(err, &rc) {
			return false, err
		}
		if err != nil || !bytes.Equal(rsp.Name.Buffer, k.name.Buffer) || !bytes.Equal(rsp.QualifiedName.Buffer, qualifiedName(k.name.Buffer)) {
			k.handle, lost = 0, true
		}
	}
	return lost, nil
}

func full(err error) bool {
	return errors.Is(err, tpm2.TPMRCObjectMemory) || errors.Is(err, tpm2.TPMRCSessionMemory) || errors.Is(err, tpm2.TPMRCSessionHandles)
}

// gone says that a command named something that is no longer there.
func gone(err error) bool {
	var rc tpm2.TPMRC
	return errors.As(err, &rc) && (rc >= tpm2.TPMRCReferenceH0 && rc <= tpm2.TPMRCReferenceH6 || errors.Is(rc, tpm2.TPMRCHandle))
}

// sweep flushes copies of our keys that a killed process left behind in a TPM
// without a resource manager, and returns how many. Objects of others stay, and
// so do the handles in keep. Another process of ours that loses a key by it makes
// it anew.
func (t *TPM) sweep(keep []tpm2.TPMHandle, names ...tpm2.TPM2BName) (n int, err error) {
	loaded, err := t.handles(tpm2.TPMHTTransient)
	if err != nil {
		return 0, err
	}
	for _, h := range loaded {
		if slices.Contains(keep, h) {
			continue
		}
		rsp, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(t.link)
		if err != nil {
			continue // gone meanwhile, or not ours to read
		}
		if slices.ContainsFunc(names, func(n tpm2.TPM2BName) bool { return bytes.Equal(n.Buffer, rsp.Name.Buffer) }) {
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t.link); err != nil && !gone(err) {
				return n, fmt.Errorf("cannot flush object %#x: %w", uint32(h), err)
			}
			n++
		}
	}
	return n, nil
}

// handles lists what is loaded of a class.
func (t *TPM) handles(class tpm2.TPMHT) ([]tpm2.TPMHandle, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(class) << 24, PropertyCount: 64}.Execute(t.link)
	if err != nil {
		return nil, fmt.Errorf("cannot list loaded objects: %w", err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil, fmt.Errorf("cannot list loaded objects: %w", err)
	}
	return list.Handle, nil
}

// evict makes room in a TPM without a resource manager, where a killed process
// leaves its objects and sessions behind: of what is full, and no more than must
// be. First go keys of ours that are not in use, then those of the dead. Behind
// /dev/tpmrm0 it sees only what is ours; /dev/tpm0 has one user at a time.
func (t *TPM) evict(cause error, keys []*key) error {
	class := tpm2.TPMHTLoadedSession
	var keep []tpm2.TPMHandle
	if errors.Is(cause, tpm2.TPMRCObjectMemory) {
		class = tpm2.TPMHTTransient
		if _, err := t.forget([]*key{&t.ak, &t.device}); err != nil {
			return err
		}
		names := []tpm2.TPM2BName{t.ak.name, t.device.name}
		for _, k := range keys {
			names, keep = append(names, k.name), append(keep, k.handle)
		}
		for _, k := range []*key{&t.ak, &t.device} {
			if !slices.Contains(keys, k) {
				k.handle = 0
			}
		}
		if n, err := t.sweep(keep, names...); n > 0 || err != nil {
			return err
		}
	}
	loaded, err := t.handles(class)
	if err != nil {
		return err
	}
	for _, h := range loaded {
		if slices.Contains(keep, h) {
			continue
		}
		if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(t.link); err != nil && !gone(err) {
			return fmt.Errorf("cannot flush object %#x: %w", uint32(h), err)
		}
	}
	return nil
}
