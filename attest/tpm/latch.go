package tpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// NV indices of the latch, in the range of the owner (Registry of Reserved TPM
// 2.0 Handles: 0x01800000 to 0x01bfffff). Both are read and written with owner
// authorization and are exempt from dictionary attack protection.
const (
	nvLatchCounter tpm2.TPMHandle = 0x01804d40 // TPM_NT_COUNTER, 8 bytes
	nvLatchRecord  tpm2.TPMHandle = 0x01804d41 // TPM_NT_ORDINARY, latchSize bytes
)

// latchMagic begins a record. After it: one byte paused, the pause id, counter
// and floor, big-endian.
const (
	latchMagic = "MFL1"
	latchSize  = len(latchMagic) + 1 + 16 + 8 + 8
)

// A LatchRecord is what the TPM remembers of a pause when the disk is replaced or
// set back. It guards against that, not against somebody with the rights to use
// the TPM on the running device, who can write it too.
type LatchRecord struct {
	Paused  bool
	PauseID [16]byte // of the pause, or of the one resumed last
	// Counter rises with each write and never falls, even if the indices are
	// deleted and defined again (part 1, 37.2.4). A state file that carries a
	// lower one is an old copy. WriteLatch sets it and ignores what it is given.
	Counter uint64
	// Floor is a sequence number below which the caller accepts nothing.
	// WriteLatch never lowers it.
	Floor uint64
}

// DefineLatch defines the NV indices and writes a clear record, unless they are
// there. The error wraps ErrNVFull when the TPM has no room, and then nothing is
// left behind.
func (t *TPM) DefineLatch() error {
	if err := t.lock(); err != nil {
		return fmt.Errorf("cannot define latch: %w", err)
	}
	defer t.mu.Unlock()
	if err := t.defineLatch(); err != nil {
		return fmt.Errorf("cannot define latch: %w", err)
	}
	return nil
}

func (t *TPM) defineLatch() error {
	fresh, err := t.nvDefine(nvLatchCounter, tpm2.TPMNTCounter, 8)
	if err != nil {
		return err
	}
	if _, err := t.nvDefine(nvLatchRecord, tpm2.TPMNTOrdinary, uint16(latchSize)); err != nil {
		if fresh {
			err = errors.Join(err, t.nvUndefine(nvLatchCounter))
		}
		return err
	}
	// A counter cannot be read before it was incremented once, nor a record
	// before it was written. A power cut between the commands ends here too.
	if _, err := t.readCounter(); errors.Is(err, ErrNVAbsent) {
		if err := t.nvIncrement(nvLatchCounter); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if _, err := t.nvRead(nvLatchRecord); errors.Is(err, ErrNVAbsent) {
		return t.putLatch(LatchRecord{})
	} else if err != nil {
		return err
	}
	return nil
}

// ReadLatch returns the record. The error wraps ErrNVAbsent when DefineLatch has
// not been run, or the TPM was cleared since; ErrNVDamaged when the indices are
// there and do not hold a record, which must not be read as "not paused".
func (t *TPM) ReadLatch() (LatchRecord, error) {
	if err := t.lock(); err != nil {
		return LatchRecord{}, fmt.Errorf("cannot read latch: %w", err)
	}
	defer t.mu.Unlock()
	r, err := t.readLatch()
	if err != nil {
		return LatchRecord{}, fmt.Errorf("cannot read latch: %w", err)
	}
	return r, nil
}

func (t *TPM) readLatch() (LatchRecord, error) {
	data, err := t.nvRead(nvLatchRecord)
	if err != nil {
		return LatchRecord{}, err
	}
	counter, err := t.readCounter()
	if err != nil {
		return LatchRecord{}, err
	}
	r, err := decodeLatch(data)
	if err != nil {
		return LatchRecord{}, err
	}
	// The record is written first: after a power cut in between it is one ahead.
	if r.Counter != counter && r.Counter != counter+1 {
		return LatchRecord{}, fmt.Errorf("%w: the record was written at %d, the counter is at %d", ErrNVDamaged, r.Counter, counter)
	}
	return r, nil
}

// WriteLatch writes the record if it differs in more than its counter from the one
// that is there: NV memory wears out.
func (t *TPM) WriteLatch(r LatchRecord) error {
	if err := t.lock(); err != nil {
		return fmt.Errorf("cannot write latch: %w", err)
	}
	defer t.mu.Unlock()
	if err := t.writeLatch(r); err != nil {
		return fmt.Errorf("cannot write latch: %w", err)
	}
	return nil
}

func (t *TPM) writeLatch(r LatchRecord) error {
	old, err := t.readLatch()
	if err != nil && !errors.Is(err, ErrNVDamaged) {
		return err
	}
	if err == nil {
		r.Floor = max(r.Floor, old.Floor)
		if r.Paused == old.Paused && r.PauseID == old.PauseID && r.Floor == old.Floor {
			return nil
		}
		if counter, err := t.readCounter(); err != nil {
			return err
		} else if old.Counter == counter+1 {
			// Cut off by a loss of power the last time; no two records may
			// have the same number.
			if err := t.nvIncrement(nvLatchCounter); err != nil {
				return err
			}
		}
	}
	return t.putLatch(r)
}

// putLatch writes the record and counts the write.
func (t *TPM) putLatch(r LatchRecord) error {
	counter, err := t.readCounter()
	if err != nil {
		return err
	}
	r.Counter = counter + 1
	data, err := t.nvPublic(nvLatchRecord)
	if err != nil {
		return err
	}
	_, err = tpm2.NVWrite{
		AuthHandle: t.owner(),
		NVIndex:    data.handle(),
		Data:       tpm2.TPM2BMaxNVBuffer{Buffer: encodeLatch(r)},
	}.Execute(t.link)
	if err != nil {
		return err
	}
	return t.nvIncrement(nvLatchCounter)
}

func encodeLatch(r LatchRecord) []byte {
	b := append(make([]byte, 0, latchSize), latchMagic...)
	if r.Paused {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = append(b, r.PauseID[:]...)
	b = binary.BigEndian.AppendUint64(b, r.Counter)
	return binary.BigEndian.AppendUint64(b, r.Floor)
}

func decodeLatch(data []byte) (LatchRecord, error) {
	b, ok := bytes.CutPrefix(data, []byte(latchMagic))
	if !ok || len(data) != latchSize || b[0] > 1 {
		return LatchRecord{}, fmt.Errorf("%w: %x", ErrNVDamaged, data)
	}
	return LatchRecord{
		Paused:  b[0] == 1,
		PauseID: [16]byte(b[1:17]),
		Counter: binary.BigEndian.Uint64(b[17:]),
		Floor:   binary.BigEndian.Uint64(b[25:]),
	}, nil
}

func (t *TPM) readCounter() (uint64, error) {
	data, err := t.nvRead(nvLatchCounter)
	if err != nil {
		return 0, err
	}
	if len(data) != 8 {
		return 0, fmt.Errorf("%w: counter of %d bytes", ErrNVDamaged, len(data))
	}
	return binary.BigEndian.Uint64(data), nil
}

func (t *TPM) owner() tpm2.AuthHandle { return hierarchy(tpm2.TPMRHOwner, t.opt.OwnerAuth) }

// An nvIndex is what the TPM says of an NV index (part 3, 31.6).
type nvIndex struct {
	public *tpm2.TPMSNVPublic
	name   tpm2.TPM2BName
}

func (n nvIndex) handle() tpm2.NamedHandle {
	return tpm2.NamedHandle{Handle: n.public.NVIndex, Name: n.name}
}

func (t *TPM) nvPublic(index tpm2.TPMHandle) (nvIndex, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.link)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nvIndex{}, fmt.Errorf("%w: %#x", ErrNVAbsent, uint32(index))
	}
	if err != nil {
		return nvIndex{}, err
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nvIndex{}, err
	}
	return nvIndex{public: public, name: rsp.NVName}, nil
}

// nvRead reads a whole index. One that was never written counts as absent.
func (t *TPM) nvRead(index tpm2.TPMHandle) ([]byte, error) {
	n, err := t.nvPublic(index)
	if err != nil {
		return nil, err
	}
	if !n.public.Attributes.Written {
		return nil, fmt.Errorf("%w: %#x was never written", ErrNVAbsent, uint32(index))
	}
	auth := t.owner()
	if !n.public.Attributes.OwnerRead {
		auth = tpm2.AuthHandle{Handle: index, Name: n.name, Auth: tpm2.PasswordAuth(nil)}
	}
	const chunk = 512 // not above MAX_NV_BUFFER_SIZE of any TPM
	var data []byte
	for size := int(n.public.DataSize); len(data) < size; {
		rsp, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    n.handle(),
			Size:       uint16(min(chunk, size-len(data))),
			Offset:     uint16(len(data)),
		}.Execute(t.link)
		if err != nil {
			return nil, fmt.Errorf("cannot read NV index %#x: %w", uint32(index), err)
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, fmt.Errorf("cannot read NV index %#x: it ends after %d of %d bytes", uint32(index), len(data), size)
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// nvDefine defines an index of the latch and reports whether it was not there.
func (t *TPM) nvDefine(index tpm2.TPMHandle, kind tpm2.TPMNT, size uint16) (fresh bool, err error) {
	want := tpm2.TPMSNVPublic{
		NVIndex:    index,
		NameAlg:    tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{OwnerRead: true, OwnerWrite: true, NoDA: true, NT: kind},
		DataSize:   size,
	}
	n, err := t.nvPublic(index)
	if err == nil {
		n.public.Attributes.Written = false
		if !bytes.Equal(tpm2.Marshal(n.public), tpm2.Marshal(want)) {
			return false, fmt.Errorf("%w: somebody else defined %#x", ErrNVDamaged, uint32(index))
		}
		return false, nil
	}
	if !errors.Is(err, ErrNVAbsent) {
		return false, err
	}
	_, err = tpm2.NVDefineSpace{AuthHandle: t.owner(), PublicInfo: tpm2.New2B(want)}.Execute(t.link)
	if errors.Is(err, tpm2.TPMRCNVSpace) {
		return false, fmt.Errorf("%w: no room for %d bytes at %#x", ErrNVFull, size, uint32(index))
	}
	return err == nil, err
}

func (t *TPM) nvUndefine(index tpm2.TPMHandle) error {
	n, err := t.nvPublic(index)
	if err != nil {
		return err
	}
	_, err = tpm2.NVUndefineSpace{AuthHandle: t.owner(), NVIndex: n.handle()}.Execute(t.link)
	return err
}

func (t *TPM) nvIncrement(index tpm2.TPMHandle) error {
	n, err := t.nvPublic(index)
	if err != nil {
		return err
	}
	_, err = tpm2.NVIncrement{AuthHandle: t.owner(), NVIndex: n.handle()}.Execute(t.link)
	return err
}
