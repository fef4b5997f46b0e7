package failsafe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miotfacts/miotfacts/reference"
)

// A Deferral is how the application put the present pause off. The pause is
// latched all the while: a restart of any kind comes up paused, and its chain
// runs at once.
type Deferral struct {
	Began int64 `cbor:"1,keyasint"`           // ms since boot (CLOCK_BOOTTIME)
	Until int64 `cbor:"2,keyasint"`           // when it ends at the latest
	Ended int64 `cbor:"3,keyasint,omitempty"` // 0 while it lasts
	Why   Ended `cbor:"4,keyasint,omitempty"` // it ended
}

// Ended is why a deferral ended.
type Ended uint8

// The reasons, with their numbers on the wire.
const (
	EndedTime        Ended = 1 // its time was over
	EndedApplication Ended = 2 // the application said so, or went away
	EndedReason      Ended = 3 // a reason to pause came that is not deferred
)

// permission lets the pause id be deferred.
type permission struct {
	pause []byte // nil: none is
	limit reference.Deferral
	kept  <-chan error // tells when the disk has the latch, or does not take it
}

// A grant is one deferral of those that count for the total.
type grant struct {
	At int64 `cbor:"1,keyasint"` // ms since boot
	Ms int64 `cbor:"2,keyasint"`
}

type grants struct {
	Given []grant `cbor:"1,keyasint,omitempty"`
}

const (
	maxGrants     = 64
	maxGrantsSize = 2048
	grantsFor     = 24 * 60 * 60 * 1000 // ms
)

// since returns what was given in the 24 hours before now.
func (g *grants) since(now int64) (recent []grant, ms int64) {
	for _, x := range g.Given {
		if now-x.At < grantsFor {
			recent = append(recent, x)
			ms += x.Ms
		}
	}
	return recent, ms
}

// grantsFile is in memory, as the socket is: a reboot forgets it, and a restart
// of the enforcer does not.
func (e *Enforcer) grantsFile() string { return e.cfg.Socket + ".deferred" }

// putOff asks the application whether it defers the pause id, and waits as long
// as it may and does:
//
//	> pending ID MS   the pause is latched; it can be put off for MS ms
//	< defer MS        put it off for so long
//	< go              the pause may come; also later, to end a deferral
//
// A deferral ends with the connection too. Only a pause that the disk has, and that
// a power cut does not end, is put off.
func (e *Enforcer) putOff(ctx context.Context, id []byte) {
	e.mu.Lock()
	may := e.may
	e.may = permission{}
	if !bytes.Equal(may.pause, id) {
		e.mu.Unlock()
		return
	}
	ctx, e.hurry = context.WithCancel(ctx)
	hurry := e.hurry
	e.mu.Unlock()
	defer hurry()
	defer e.progress()
	c, most, err := e.askToDefer(ctx, id, &may)
	if err != nil {
		e.log.Info("pause is not deferred", "reason", err)
		return
	}
	defer c.close()
	e.mu.Lock()
	began := uptime()
	e.deferral = &Deferral{Began: began, Until: began + most}
	e.mu.Unlock()
	e.log.Warn("pause deferred by the application", "ms", most)
	why := c.untilOver(ctx, began+most)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deferral == nil {
		return // resumed
	}
	e.deferral.Ended, e.deferral.Why = max(uptime(), began+1), why
	e.log.Warn("deferral ended", "why", why, "ms", e.deferral.Ended-began)
}

// askToDefer returns the conversation in which the application defers, and for
// how many ms.
func (e *Enforcer) askToDefer(ctx context.Context, id []byte, may *permission) (*conversation, int64, error) {
	limit := &may.limit
	first := time.Now().Add(time.Duration(limit.Answer) * time.Millisecond)
	dial, cancel := context.WithDeadline(ctx, first)
	defer cancel()
	select {
	case err := <-may.kept:
		if err != nil {
			return nil, 0, fmt.Errorf("the latch is not on the disk: %w", err)
		}
	case <-dial.Done():
		return nil, 0, errors.New("the latch is not on the disk yet")
	}
	var given grants
	if err := readState(e.grantsFile(), maxGrantsSize, &given); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("cannot tell how much was deferred before: %w", err)
	}
	now := uptime()
	recent, used := given.since(now)
	most := min(int64(limit.Most)*1000, int64(limit.Total)*1000-used)
	if most <= 0 || len(recent) >= maxGrants {
		return nil, 0, fmt.Errorf("%d ms were deferred in 24 hours, the limit is %d s", used, limit.Total)
	}
	c, err := e.hands.converseFor(ctx, dial)
	if err != nil {
		return nil, 0, err
	}
	ms, err := c.defers(ctx, id, limit.User, most, first)
	if err == nil {
		// Written down first: what cannot be counted is not given.
		given.Given = append(slices.Clone(recent), grant{now, ms})
		err = writeState(e.grantsFile(), given)
	}
	if err != nil {
		c.close()
		return nil, 0, err
	}
	return c, ms, nil
}

// defers returns for how many ms, at most most, the application of user defers
// the pause.
func (c *conversation) defers(ctx context.Context, id []byte, userName string, most int64, end time.Time) (int64, error) {
	uid, err := uidOf(userName)
	if err != nil {
		return 0, err
	}
	cred, err := peer(c.conn)
	if err != nil {
		return 0, err
	}
	if cred.Uid != uid {
		return 0, fmt.Errorf("the application runs as user %d, only %s may defer", cred.Uid, userName)
	}
	if err := c.say(fmt.Sprintf("pending %x %d\n", id, most)); err != nil {
		return 0, err
	}
	answer, err := c.hear(ctx, end)
	if err != nil {
		return 0, err
	}
	asked, ok := strings.CutPrefix(answer, "defer ")
	ms, err := strconv.ParseUint(asked, 10, 31)
	if !ok || err != nil || ms == 0 {
		return 0, fmt.Errorf("the application answered %q", answer)
	}
	return min(int64(ms), most), nil
}

// untilOver waits until a deferral is over, and returns why it is. Time in which
// the machine sleeps counts.
func (c *conversation) untilOver(ctx context.Context, until int64) Ended {
	for {
		left := until - uptime()
		if left <= 0 {
			return EndedTime
		}
		_, err := c.hear(ctx, time.Now().Add(min(time.Duration(left)*time.Millisecond, time.Second)))
		switch {
		case ctx.Err() != nil:
			return EndedReason
		case !errors.Is(err, errLate):
			return EndedApplication
		}
	}
}

// hasten ends a deferral: there is a reason to pause that is not deferred. It is
// called with mu held.
func (e *Enforcer) hasten() {
	e.may = permission{}
	if e.hurry != nil {
		e.hurry()
	}
}

// uidOf returns the number of a user, who may be written as a number.
func uidOf(name string) (uint32, error) {
	text := name
	if _, err := strconv.ParseUint(name, 10, 32); err != nil {
		u, err := user.Lookup(name)
		if err != nil {
			return 0, fmt.Errorf("cannot tell who user %q is: %w", name, err)
		}
		text = u.Uid
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == math.MaxUint32 { // which stands for no user (chown(2))
		return 0, fmt.Errorf("cannot tell who user %q is: %q is no number of a user", name, text)
	}
	return uint32(n), nil
}
