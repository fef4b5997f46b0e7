package tpm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/miotfacts/miotfacts/attest/tpm"
	"github.com/miotfacts/miotfacts/attest/tpm/tpmtest"
)

const (
	counterIndex tpm2.TPMHandle = 0x01804d40
	recordIndex  tpm2.TPMHandle = 0x01804d41
)

func read(t testing.TB, d *tpm.TPM) tpm.LatchRecord {
	t.Helper()
	r, err := d.ReadLatch()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func write(t testing.TB, d *tpm.TPM, r tpm.LatchRecord) {
	t.Helper()
	if err := d.WriteLatch(r); err != nil {
		t.Fatal(err)
	}
}

func (addr raw) define(t testing.TB, index tpm2.TPMHandle, kind tpm2.TPMNT, size uint16) error {
	t.Helper()
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: size,
			Attributes: tpm2.TPMANV{OwnerRead: true, OwnerWrite: true, NoDA: true, NT: kind},
		}),
	}.Execute(addr)
	return err
}

func (addr raw) undefine(t testing.TB, index tpm2.TPMHandle) {
	t.Helper()
	if _, err := (tpm2.NVUndefineSpace{AuthHandle: tpm2.TPMRHOwner, NVIndex: addr.nv(t, index)}).Execute(addr); err != nil {
		t.Fatal(err)
	}
}

func (addr raw) nv(t testing.TB, index tpm2.TPMHandle) tpm2.NamedHandle {
	t.Helper()
	rsp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(addr)
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.NamedHandle{Handle: index, Name: rsp.NVName}
}

func TestLatch(t *testing.T) {
	e := tpmtest.New(t)
	d := open(t, e.Addr)
	if _, err := d.ReadLatch(); !errors.Is(err, tpm.ErrNVAbsent) {
		t.Errorf("read before it was defined: %v", err)
	}
	if err := d.WriteLatch(tpm.LatchRecord{Paused: true}); !errors.Is(err, tpm.ErrNVAbsent) {
		t.Errorf("written before it was defined: %v", err)
	}
	if err := d.DefineLatch(); err != nil {
		t.Fatal(err)
	}
	first := read(t, d)
	if first.Paused || first.Counter == 0 || first.Floor != 0 {
		t.Errorf("fresh record %+v", first)
	}

	paused := tpm.LatchRecord{Paused: true, PauseID: [16]byte{1, 2, 15: 16}, Counter: 99, Floor: 7}
	write(t, d, paused)
	want := paused
	want.Counter = first.Counter + 1
	if got := read(t, d); got != want {
		t.Errorf("record %+v, want %+v", got, want)
	}
	if err := d.DefineLatch(); err != nil {
		t.Fatal(err)
	}
	write(t, d, paused)                                                 // nothing new
	write(t, d, tpm.LatchRecord{Paused: true, PauseID: paused.PauseID}) // nor here: the floor does not fall
	if got := read(t, d); got != want {
		t.Errorf("record %+v, want %+v", got, want)
	}
	e.Kill()
	e.PowerOn()
	if got := read(t, d); got != want {
		t.Errorf("record %+v after a power cut, want %+v", got, want)
	}
	write(t, d, tpm.LatchRecord{PauseID: paused.PauseID, Floor: 3})
	want.Paused, want.Counter = false, want.Counter+1
	if got := read(t, d); got != want {
		t.Errorf("record %+v, want %+v", got, want)
	}

	// Deleting and defining it again does not turn the counter back.
	raw(e.Addr).undefine(t, counterIndex)
	raw(e.Addr).undefine(t, recordIndex)
	if err := d.DefineLatch(); err != nil {
		t.Fatal(err)
	}
	if got := read(t, d); got.Counter <= want.Counter {
		t.Errorf("counter %d after %d", got.Counter, want.Counter)
	}
}

// The power goes between any two commands of a write, or of the definition.
func TestLatchPowerCuts(t *testing.T) {
	pause := func(d *tpm.TPM) error { return d.WriteLatch(tpm.LatchRecord{Paused: true}) }
	define := (*tpm.TPM).DefineLatch
	for _, c := range []struct {
		name    string
		do      func(d *tpm.TPM) error
		command tpm2.TPMCC
		nth     int  // that is not answered any more
		done    bool // and yet done
		paused  bool // afterwards
	}{
		{"write, before the record", pause, tpm2.TPMCCNVWrite, 1, false, false},
		{"write, after the record", pause, tpm2.TPMCCNVWrite, 1, true, true},
		{"write, before the count", pause, tpm2.TPMCCNVIncrement, 1, false, true},
		{"write, after the count", pause, tpm2.TPMCCNVIncrement, 1, true, true},
		{"definition, after the counter", define, tpm2.TPMCCNVDefineSpace, 1, true, false},
		{"definition, after the record", define, tpm2.TPMCCNVDefineSpace, 2, true, false},
		{"definition, after the first count", define, tpm2.TPMCCNVIncrement, 1, true, false},
		{"definition, after the first record", define, tpm2.TPMCCNVWrite, 1, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := tpmtest.New(t)
			if strings.HasPrefix(c.name, "write") {
				if err := open(t, e.Addr).DefineLatch(); err != nil {
					t.Fatal(err)
				}
			}
			n := 0
			d := open(t, between(t, e.Addr, func(command []byte, pass func() []byte) []byte {
				if is(command, c.command) {
					if n++; n == c.nth {
						if c.done {
							pass()
						}
						e.Kill()
						return nil
					}
				}
				return pass()
			}))
			if err := c.do(d); err == nil {
				t.Fatal("no error")
			}
			e.PowerOn()
			again := open(t, e.Addr)
			if err := again.DefineLatch(); err != nil {
				t.Fatal(err)
			}
			r := read(t, again)
			if r.Paused != c.paused {
				t.Errorf("record %+v, want paused %v", r, c.paused)
			}
			write(t, again, tpm.LatchRecord{Paused: !c.paused})
			if got := read(t, again); got.Counter <= r.Counter || got.Paused == c.paused {
				t.Errorf("record %+v after %+v", got, r)
			}
		})
	}
}

func TestLatchIsDamaged(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte // written over the record's beginning
		also func(t *testing.T, addr raw)
	}{
		{"no magic", []byte("XXXX"), nil},
		{"neither paused nor clear", []byte("MFL1\x02"), nil},
		{"counter from elsewhere", []byte("MFL1\x00" + "0123456789abcdef" + "\x00\x00\x00\x00\x00\x00\x00\xff"), nil},
		{"counter behind", nil, func(t *testing.T, addr raw) {
			for range 2 {
				if _, err := (tpm2.NVIncrement{AuthHandle: tpm2.TPMRHOwner, NVIndex: addr.nv(t, counterIndex)}).Execute(addr); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := raw(tpmtest.Start(t))
			d := open(t, string(addr))
			if err := d.DefineLatch(); err != nil {
				t.Fatal(err)
			}
			if c.data != nil {
				_, err := tpm2.NVWrite{AuthHandle: tpm2.TPMRHOwner, NVIndex: addr.nv(t, recordIndex), Data: tpm2.TPM2BMaxNVBuffer{Buffer: c.data}}.Execute(addr)
				if err != nil {
					t.Fatal(err)
				}
			}
			if c.also != nil {
				c.also(t, addr)
			}
			if r, err := d.ReadLatch(); !errors.Is(err, tpm.ErrNVDamaged) {
				t.Errorf("read %+v: %v", r, err)
			}
			write(t, d, tpm.LatchRecord{Paused: true}) // a pause must still be possible
			if r := read(t, d); !r.Paused {
				t.Errorf("record %+v", r)
			}
		})
	}
	t.Run("index of somebody else", func(t *testing.T) {
		addr := raw(tpmtest.Start(t))
		if err := addr.define(t, recordIndex, tpm2.TPMNTOrdinary, 5); err != nil {
			t.Fatal(err)
		}
		if err := open(t, string(addr)).DefineLatch(); !errors.Is(err, tpm.ErrNVDamaged) {
			t.Errorf("error %v", err)
		}
	})
}

func TestNVIsFull(t *testing.T) {
	addr := raw(tpmtest.Start(t))
	next := tpm2.TPMHandle(0x01800000)
	for _, size := range []uint16{2000, 256, 32, 1} {
		for {
			err := addr.define(t, next, tpm2.TPMNTOrdinary, size)
			if errors.Is(err, tpm2.TPMRCNVSpace) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			next++
		}
	}
	d := open(t, string(addr))
	if err := d.DefineLatch(); !errors.Is(err, tpm.ErrNVFull) {
		t.Errorf("error %v", err)
	}
	if _, err := d.ReadLatch(); !errors.Is(err, tpm.ErrNVAbsent) {
		t.Errorf("error %v", err)
	}
	// Room for one index and not for both: nothing stays behind.
	for next--; ; next-- {
		addr.undefine(t, next)
		err := d.DefineLatch()
		if err == nil {
			break
		}
		if !errors.Is(err, tpm.ErrNVFull) {
			t.Fatal(err)
		}
		if _, err := (tpm2.NVReadPublic{NVIndex: counterIndex}).Execute(addr); !errors.Is(err, tpm2.TPMRCHandle) {
			t.Fatalf("the counter stayed: %v", err)
		}
	}
}
