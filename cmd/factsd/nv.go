package main

import (
	"sync"

	"github.com/miotfacts/miotfacts/attest/tpm"
)

// A lateTPM is the TPM for the latch, opened when it is needed and again after it
// could not be: without it the enforcer holds the pause by its files and says so,
// and does not stay away.
type lateTPM struct {
	open func() (*tpm.TPM, error)

	mu  sync.Mutex
	tpm *tpm.TPM
}

func (l *lateTPM) get() (*tpm.TPM, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tpm == nil {
		t, err := l.open()
		if err != nil {
			return nil, err
		}
		l.tpm = t
	}
	return l.tpm, nil
}

func (l *lateTPM) DefineLatch() error {
	t, err := l.get()
	if err != nil {
		return err
	}
	return t.DefineLatch()
}

func (l *lateTPM) ReadLatch() (tpm.LatchRecord, error) {
	t, err := l.get()
	if err != nil {
		return tpm.LatchRecord{}, err
	}
	return t.ReadLatch()
}

func (l *lateTPM) WriteLatch(r tpm.LatchRecord) error {
	t, err := l.get()
	if err != nil {
		return err
	}
	return t.WriteLatch(r)
}

func (l *lateTPM) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tpm != nil {
		l.tpm.Close()
	}
}
