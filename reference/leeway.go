package reference

import "strings"

// Limits of what holds a pause back.
const (
	MaxUser = 32 // bytes of a user's name, as useradd(8) takes it
)

// A Leeway says what may hold a pause back, and for how long. Without one
// nothing may.
type Leeway struct {
	Defer       *Deferral          `cbor:"1,keyasint,omitempty"` // nil: no pause is deferred
	Maintenance *MaintenancePolicy `cbor:"2,keyasint,omitempty"` // nil: there is no maintenance
}

// A MaintenancePolicy lets operators take a device into maintenance, in which an
// extreme alarms and does not pause.
type MaintenancePolicy struct {
	Most    uint32 `cbor:"1,keyasint"` // s of one, 60 to 86400
	Signers uint8  `cbor:"2,keyasint"` // different operator keys that must sign its beginning: 1 or 2
}

// A Deferral lets the medical application put a pause off once, while stopping
// would harm more than going on.
type Deferral struct {
	Most           uint32 `cbor:"1,keyasint"`           // s of one, 1 to 3600
	Total          uint32 `cbor:"2,keyasint"`           // s of all within 24 hours, Most to 86400
	User           string `cbor:"3,keyasint"`           // that the application on the socket must run as: a name, or a number
	Answer         uint32 `cbor:"4,keyasint"`           // ms in which it has to ask, 1 to 1000
	NeverIntegrity bool   `cbor:"5,keyasint,omitempty"` // a pause for a fact of boot. or integrity. is never deferred
}

// Deferral returns what lets the pause for fail-safe rule i be deferred, nil when
// nothing does.
func (r *Reference) Deferral(i int) *Deferral {
	l := r.manifest.Leeway
	if l == nil || l.Defer == nil || i < 0 || i >= len(r.manifest.FailSafe) {
		return nil
	}
	if name := r.vocab.Name(r.manifest.FailSafe[i].Fact); l.Defer.NeverIntegrity && (strings.HasPrefix(name, "boot.") || strings.HasPrefix(name, "integrity.")) {
		return nil
	}
	return l.Defer
}

func (c *checker) leeway() {
	l := c.m.Leeway
	if l == nil {
		return
	}
	if *l == (Leeway{}) {
		c.bad("defer", "remove it", "nothing in it lets a pause wait")
	}
	if d := l.Defer; d != nil {
		c.deferral(d)
	}
	if m := l.Maintenance; m != nil {
		if m.Most < 60 || m.Most > 86400 {
			c.bad("maintenance.most", `write most = "4h"`, "%d s is outside 60 to 86400", m.Most)
		}
		if m.Signers < 1 || m.Signers > 2 {
			c.bad("maintenance.signers", "write 1, or 2 for the two-person rule", "%d signers, want 1 or 2", m.Signers)
		}
	}
}

func (c *checker) deferral(d *Deferral) {
	if d.Most < 1 || d.Most > 3600 {
		c.bad("defer.most", `write most = "5m"`, "%d s is outside 1 to 3600", d.Most)
	}
	if d.Total < d.Most || d.Total > 86400 {
		c.bad("defer.total", `write total = "15m", not less than most`, "%d s in 24 hours is outside %d to 86400", d.Total, d.Most)
	}
	if !isPlain(d.User, "._-") || len(d.User) > MaxUser {
		c.bad("defer.user", `write user = "pump", the user that the application runs as`, "%q is not the name or number of a user", d.User)
	}
	if d.Answer < 1 || d.Answer > 1000 {
		c.bad("defer.answer", `write answer = "200ms"`, "%d ms is outside 1 to 1000", d.Answer)
	}
	if c.m.Enforce != Pause {
		c.warn("defer", `remove it, or write enforce = "pause"`, "enforce is %q: there is no pause to be deferred", c.m.Enforce)
	}
}

func (f *formatter) leeway(l *Leeway) {
	if l == nil {
		return
	}
	if d := l.Defer; d != nil {
		never := ""
		if d.NeverIntegrity {
			never = ", never_integrity = true"
		}
		f.line("defer = { most = %s, total = %s, user = %s, answer = %s%s }", span(d.Most, "s"), span(d.Total, "s"), quote(d.User), span(d.Answer, "ms"), never)
	}
	if m := l.Maintenance; m != nil {
		f.line("maintenance = { most = %s, signers = %d }", span(m.Most, "s"), m.Signers)
	}
}

func (a *author) leeway(t *table) *Leeway {
	l := new(Leeway)
	if v := t.get("maintenance").table(); v != nil {
		l.Maintenance = &MaintenancePolicy{
			Most:    v.need("most", `write most = "4h"`).duration("s"),
			Signers: uint8(v.need("signers", "write signers = 1, or 2 for the two-person rule").number(255)),
		}
		v.close()
	}
	if v := t.get("defer").table(); v != nil {
		l.Defer = &Deferral{
			Most:           v.need("most", `write most = "5m"`).duration("s"),
			Total:          v.need("total", `write total = "15m"`).duration("s"),
			User:           v.need("user", `write user = "pump", the user that the application runs as`).text(),
			Answer:         v.need("answer", `write answer = "200ms"`).duration("ms"),
			NeverIntegrity: v.get("never_integrity").flag(),
		}
		v.close()
	}
	if *l == (Leeway{}) {
		return nil
	}
	return l
}
