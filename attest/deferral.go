package attest

import (
	"fmt"

	"github.com/miotfacts/miotfacts/reference"
)

// MaxDeferral is the longest deferral that a manifest allows, in ms.
const MaxDeferral = 3600 * 1000

// A Deferral is how the medical application put the present pause off. The pause
// is latched all the while, and the device does not count as operating.
type Deferral struct {
	Began int64 `cbor:"1,keyasint"`           // uptime in ms
	Until int64 `cbor:"2,keyasint"`           // when it ends at the latest
	Ended int64 `cbor:"3,keyasint,omitempty"` // missing while it lasts
	Why   Ended `cbor:"4,keyasint,omitempty"` // it ended; missing while it lasts
}

// A Maintenance is what a device is in whose enforcer takes no pause for a while.
type Maintenance struct {
	Began int64 `cbor:"1,keyasint"` // uptime in ms
	Until int64 `cbor:"2,keyasint"` // when it ends at the latest
}

func (m *Maintenance) check() error {
	if m.Began < 0 || m.Until <= m.Began || m.Until-m.Began > reference.MaxMaintenance*1000 {
		return fmt.Errorf("maintenance from %d to %d ms, the longest is %d s", m.Began, m.Until, reference.MaxMaintenance)
	}
	return nil
}

// Ended is why a deferral ended.
type Ended uint8

// The reasons.
const (
	EndedTime        Ended = 1 // its time was over
	EndedApplication Ended = 2 // the application said so, or went away
	EndedReason      Ended = 3 // a reason to pause came that is not deferred
)

func (e Ended) String() string {
	switch e {
	case EndedTime:
		return "its time was over"
	case EndedApplication:
		return "the application let it come"
	case EndedReason:
		return "a reason came that is not deferred"
	}
	return fmt.Sprintf("ended(%d)", uint8(e))
}

func (d *Deferral) check() error {
	switch {
	case d.Began < 0 || d.Until <= d.Began || d.Until-d.Began > MaxDeferral:
		return fmt.Errorf("deferral from %d to %d ms, the longest is %d ms", d.Began, d.Until, MaxDeferral)
	case (d.Ended == 0) != (d.Why == 0) || d.Why > EndedReason:
		return fmt.Errorf("deferral that ended at %d ms for reason %d", d.Ended, d.Why)
	case d.Ended != 0 && d.Ended <= d.Began:
		return fmt.Errorf("deferral that ended at %d ms, before it began at %d ms", d.Ended, d.Began)
	}
	return nil
}
