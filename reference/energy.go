package reference

// MaxEnergy bounds the numbers of an energy model: 1 kW, 1 kJ for a second of a
// processor, 1 mJ for a byte, far beyond what runs a device of this kind.
const MaxEnergy = 1_000_000

// An EnergyModel lets a device without a power sensor estimate what it draws. The
// manufacturer calibrates it against a meter (factsctl energy calibrate). What
// comes of it is estimated, and called so.
type EnergyModel struct {
	Idle    uint32 `cbor:"1,keyasint"`           // mW that the device draws with nothing to do, 1 to MaxEnergy
	CPU     uint32 `cbor:"2,keyasint"`           // mJ for a second of one processor's time, at most MaxEnergy
	Network uint32 `cbor:"3,keyasint,omitempty"` // nJ for a byte received or sent, at most MaxEnergy
	Error   uint32 `cbor:"4,keyasint"`           // root mean square error of the calibration, per mille of the mean power, at most 1000
}

func (c *checker) energy() {
	e := c.m.Energy
	if e == nil {
		return
	}
	const fix = "calibrate it again: factsctl energy calibrate"
	if e.Idle < 1 || e.Idle > MaxEnergy {
		c.bad("energy_model.idle", fix, "%d mW is outside 1 to %d", e.Idle, MaxEnergy)
	}
	if e.CPU > MaxEnergy {
		c.bad("energy_model.cpu", fix, "%d mJ for a second of a processor is above %d", e.CPU, MaxEnergy)
	}
	if e.Network > MaxEnergy {
		c.bad("energy_model.network", fix, "%d nJ for a byte is above %d", e.Network, MaxEnergy)
	}
	if e.Error > 1000 {
		c.bad("energy_model.error", fix, "an error of %d per mille is no model", e.Error)
	}
}

func (f *formatter) energy(e *EnergyModel) {
	if e == nil {
		return
	}
	f.line("energy_model = { idle = \"%dmW\", cpu = \"%dmJ\", network = %d, error = %d }", e.Idle, e.CPU, e.Network, e.Error)
}

func (a *author) energy(t *table) *EnergyModel {
	v := t.get("energy_model").table()
	if v == nil {
		return nil
	}
	within := func(n int64) uint32 { return uint32(min(max(n, 0), MaxEnergy+1)) } // what is beyond, Check tells
	e := &EnergyModel{
		Idle:    within(v.need("idle", `write idle = "1500mW"`).quantity("mW")),
		CPU:     within(v.need("cpu", `write what a second of one processor's time takes: cpu = "900mJ"`).quantity("mJ")),
		Network: within(v.get("network").number(MaxEnergy)),
		Error:   within(v.need("error", "write the error of the calibration in per mille: error = 30").number(1000)),
	}
	v.close()
	return e
}

// EnergyText returns m as a line of a manifest in TOML.
func EnergyText(m *EnergyModel) string {
	f := &formatter{}
	f.energy(m)
	return f.out.String()
}
