package failsafe

import (
	"fmt"
	"time"

	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/reference"
)

// A Maintenance lasts until its time is over, an order ends it, or the enforcer
// starts anew, a reboot included: it is kept in memory only. No pause begins
// meanwhile, and none that is latched ends by it.
type Maintenance struct {
	Began int64 `cbor:"1,keyasint"` // ms since boot (CLOCK_BOOTTIME)
	Until int64 `cbor:"2,keyasint"` // when it ends at the latest
}

// acceptOrder judges a signed order of an operator.
func (e *Enforcer) acceptOrder(document []byte) error {
	e.reload() // a key list that revokes counts at once
	e.mu.Lock()
	defer e.mu.Unlock()
	if reference.UnverifiedKind(document) == reference.Maintenance {
		return e.acceptMaintenance(document)
	}
	return e.acceptResume(document)
}

// maintained returns what is left of the maintenance in ms, and ends it when
// nothing is. It is called with mu held.
func (e *Enforcer) maintained() int64 {
	if e.maintenance == nil {
		return 0
	}
	if left := e.maintenance.Until - uptime(); left > 0 {
		return left
	}
	e.endMaintenance("its time is over")
	return 0
}

func (e *Enforcer) endMaintenance(why string) {
	e.maintenance = nil
	// Who was stopped for it has time to come back.
	e.life, e.silent = time.Now(), false
	e.degrade("silence", nil)
	notify(e.beat)
	e.log.Warn("maintenance ended", "why", why)
}

// judgeMaintenance decides about one order of maintenance under the present trust.
func (e *Enforcer) judgeMaintenance(document []byte, now reference.Interval) (*reference.Order, error) {
	o, err := e.policy.trust.OpenCommand(document, reference.Maintenance, e.cfg.Device, e.cfg.Model, now)
	if err != nil {
		return nil, err
	}
	c := o.Command()
	var m *reference.Manifest
	if e.policy.valid {
		m = e.policy.ref.Manifest()
	}
	allowed := m != nil && m.Leeway != nil && m.Leeway.Maintenance != nil
	switch {
	case e.used.has(c.Nonce):
		return nil, fmt.Errorf("cannot accept maintenance: %w: nonce %x", ErrReplayed, c.Nonce)
	case c.End && e.maintained() == 0:
		return nil, fmt.Errorf("cannot end maintenance: %w", ErrNoMaintenance)
	case c.End:
		return o, nil
	case !allowed:
		return nil, fmt.Errorf("cannot accept maintenance: %w", ErrNotAllowed)
	case e.rec.Phase != PhaseClear:
		return nil, fmt.Errorf("cannot accept maintenance: %w: the latch is %s", ErrPaused, e.rec.Phase)
	case e.maintained() > 0:
		return nil, fmt.Errorf("cannot accept maintenance: %w", ErrMaintenance)
	case c.Lasts > m.Leeway.Maintenance.Most:
		return nil, fmt.Errorf("cannot accept maintenance: %w: it lasts %d s, the limit is %d s", ErrLifetime, c.Lasts, m.Leeway.Maintenance.Most)
	case c.NotAfter-c.NotBefore > int64(m.Resume.Lifetime):
		return nil, fmt.Errorf("cannot accept maintenance: %w: %d s, the limit is %d s", ErrLifetime, c.NotAfter-c.NotBefore, m.Resume.Lifetime)
	}
	return o, nil
}

// acceptMaintenance judges an order and, when enough different operators have
// signed, begins maintenance for the shortest time that they did. One ends it. It
// is called with mu held.
func (e *Enforcer) acceptMaintenance(document []byte) error {
	now := e.cfg.Now()
	order, err := e.judgeMaintenance(document, now)
	if err != nil {
		return err
	}
	signers := map[cose.KeyID]*reference.Order{order.Signer(): order}
	if !order.Command().End {
		signers = e.gather(&e.mending, document, func(d []byte) (*reference.Order, error) { return e.judgeMaintenance(d, now) })
		if want := e.policy.ref.Manifest().Leeway.Maintenance.Signers; len(signers) < int(want) {
			return fmt.Errorf("cannot begin maintenance yet: %w: %d of %d have", ErrSigners, len(signers), want)
		}
	}
	if err := e.use(signers, now); err != nil {
		return fmt.Errorf("cannot accept maintenance: %w", err)
	}
	e.mending = nil
	if order.Command().End {
		e.endMaintenance("an operator ended it")
		return nil
	}
	lasts := order.Command().Lasts
	for _, o := range signers {
		lasts = min(lasts, o.Command().Lasts)
	}
	began := uptime()
	e.maintenance = &Maintenance{Began: began, Until: began + int64(lasts)*1000}
	notify(e.beat)
	e.log.Warn("maintenance began: no pause until it ends", "seconds", lasts, "signers", len(signers))
	return nil
}
