package reference

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/miotfacts/miotfacts/attest/cose"
)

// Reasons for which a statement is refused. Callers branch on them and show
// them to people.
var (
	ErrUnknownKey = errors.New("key is in no key list that is trusted here")
	ErrRole       = errors.New("key may not sign this")
	ErrRevoked    = errors.New("key was revoked")
	ErrExpired    = errors.New("validity has ended")
	ErrNotYet     = errors.New("validity has not begun")
	ErrRollback   = errors.New("sequence is below the newest one seen")
	ErrModel      = errors.New("made for another device model")
	ErrAgent      = errors.New("needs a newer agent")
	ErrContent    = errors.New("content breaks a rule of the format")
)

// An Interval is what a machine knows of the time: it is not before Earliest,
// and not after Latest. A device without a clock knows Earliest only; Latest is
// then 0. Both in Unix seconds.
type Interval struct{ Earliest, Latest int64 }

// At returns the interval of a machine whose clock is right.
func At(unix int64) Interval { return Interval{Earliest: unix, Latest: unix} }

// Within refuses a validity that has ended for certain or has not begun for
// certain. What is uncertain passes: a missing clock neither opens nor bricks.
func (t Interval) within(from, until int64) error {
	if t.Earliest > until {
		return fmt.Errorf("%w: valid until %d, it is at least %d", ErrExpired, until, t.Earliest)
	}
	if t.Latest != 0 && t.Latest < from {
		return fmt.Errorf("%w: valid from %d, it is at most %d", ErrNotYet, from, t.Latest)
	}
	return nil
}

// An Owner is whose root a key hangs from.
type Owner uint8

// The two owners. Their roles never overlap.
const (
	Manufacturer Owner = 1
	Operator     Owner = 2
)

func (o Owner) String() string {
	return name(ownerNames, int(o), "owner")
}

var ownerNames = []string{"", "manufacturer", "operator"}

// A Role is the one thing a key may sign.
type Role uint8

// The roles. Manifest and label are a manufacturer's, the others an operator's.
const (
	RoleManifest Role = 1
	RoleLabel    Role = 2
	RoleResume   Role = 3
	RoleCommand  Role = 4 // challenges and other orders that do not end a pause
	RoleResult   Role = 5 // attestation results
)

var roleNames = []string{"", "manifest", "label", "resume", "command", "result"}

func (r Role) String() string { return name(roleNames, int(r), "role") }

// ParseRole returns the role called s.
func ParseRole(s string) (Role, error) {
	if i := slices.Index(roleNames, s); i > 0 {
		return Role(i), nil
	}
	return 0, fmt.Errorf("unknown role %q: want one of %v", s, roleNames[1:])
}

func (r Role) owner() Owner {
	if r == RoleManifest || r == RoleLabel {
		return Manufacturer
	}
	return Operator
}

// MaxKeyListSize bounds a signed key list in bytes, MaxKeys its entries.
const (
	MaxKeyListSize = 32 << 10
	MaxKeys        = 128
)

// A Keys list says which keys count, for what and how long. A root signs it;
// only the newest list of an owner counts. It revokes a lost key in one message.
type Keys struct {
	Version  uint        `cbor:"1,keyasint"` // of this format: 1
	Owner    Owner       `cbor:"2,keyasint"`
	Sequence uint64      `cbor:"3,keyasint"` // only ever rises
	Keys     []ListedKey `cbor:"4,keyasint"`
}

// A ListedKey is one entry of a key list.
type ListedKey struct {
	Key         *cose.PublicKey `cbor:"1,keyasint"`
	Role        Role            `cbor:"2,keyasint"`
	Name        string          `cbor:"3,keyasint"`           // for people: "release signing 2026"
	NotBefore   int64           `cbor:"4,keyasint"`           // Unix seconds
	NotAfter    int64           `cbor:"5,keyasint"`           // Unix seconds, the last one of validity
	Models      []string        `cbor:"6,keyasint,omitempty"` // device models it may sign for; none: all
	RevokedFrom int64           `cbor:"7,keyasint,omitempty"` // Unix seconds; from then on nothing it signed counts
}

// Check returns an error for a list that must be neither signed nor used.
func (l *Keys) Check() error {
	i, err := l.check()
	if err != nil && i >= 0 {
		return fmt.Errorf("%w: key list entry %d: %w", ErrContent, i, err)
	}
	if err != nil {
		return fmt.Errorf("%w: key list: %w", ErrContent, err)
	}
	return nil
}

// check returns what is wrong and in which entry, -1 for the list as a whole.
func (l *Keys) check() (int, error) {
	switch {
	case l.Version != 1:
		return -1, fmt.Errorf("version %d is not 1", l.Version)
	case l.Owner != Manufacturer && l.Owner != Operator:
		return -1, fmt.Errorf("unknown owner %d", l.Owner)
	case l.Sequence < 1 || l.Sequence > math.MaxInt64:
		return -1, fmt.Errorf("sequence %d is outside 1 to 2^63-1", l.Sequence)
	case len(l.Keys) > MaxKeys:
		return -1, fmt.Errorf("%d keys, the limit is %d", len(l.Keys), MaxKeys)
	}
	seen := map[cose.KeyID]bool{}
	for i, k := range l.Keys {
		switch {
		case k.Key == nil:
			return i, errors.New("no key")
		case k.Role < RoleManifest || k.Role > RoleResult:
			return i, fmt.Errorf("unknown role %d", k.Role)
		case k.Role.owner() != l.Owner:
			return i, fmt.Errorf("a key of the %s cannot have role %s", l.Owner, k.Role)
		case seen[k.Key.ID()]:
			return i, fmt.Errorf("key %s is listed twice", k.Key.ID())
		case k.NotAfter <= k.NotBefore:
			return i, fmt.Errorf("validity from %d until %d is empty", k.NotBefore, k.NotAfter)
		case k.RevokedFrom < 0:
			return i, fmt.Errorf("revoked from %d, before 1970", k.RevokedFrom)
		case len(k.Name) > MaxName:
			return i, fmt.Errorf("name of %d bytes, the limit is %d", len(k.Name), MaxName)
		case len(k.Models) > MaxKeys:
			return i, fmt.Errorf("%d models, the limit is %d", len(k.Models), MaxKeys)
		}
		for _, m := range k.Models {
			if m == "" || len(m) > MaxName {
				return i, fmt.Errorf("model of %d bytes, want 1 to %d", len(m), MaxName)
			}
		}
		seen[k.Key.ID()] = true
	}
	return -1, nil
}

// SignKeys returns l as a document signed by a root.
func SignKeys(l *Keys, root *cose.Signer) ([]byte, error) {
	if err := l.Check(); err != nil {
		return nil, fmt.Errorf("cannot sign key list: %w", err)
	}
	payload, err := cose.Encode(l)
	if err != nil {
		return nil, err
	}
	if len(payload) > MaxKeyListSize-512 {
		return nil, fmt.Errorf("cannot sign key list: %d bytes, the limit is %d", len(payload), MaxKeyListSize-512)
	}
	return root.Sign(cose.KeyList, payload)
}

// A Trust decides whose statements count: the roots a device was given, and the
// newest key list of each owner. It is not safe for concurrent use.
type Trust struct {
	roots map[cose.KeyID]Root
	lists map[Owner]*Keys
}

// A Root is a key that a device was given in its configuration. It signs key
// lists and nothing else.
type Root struct {
	Key   *cose.PublicKey
	Owner Owner
}

// NewTrust returns a trust in roots with no key list yet, under which no
// statement opens. It refuses to be made without a root, which would check
// nothing.
func NewTrust(roots ...Root) (*Trust, error) {
	if len(roots) == 0 {
		return nil, errors.New("cannot trust without a root key")
	}
	t := &Trust{roots: map[cose.KeyID]Root{}, lists: map[Owner]*Keys{}}
	for _, r := range roots {
		if r.Key == nil || r.Owner != Manufacturer && r.Owner != Operator {
			return nil, fmt.Errorf("cannot trust root of %s without a key", r.Owner)
		}
		if old, ok := t.roots[r.Key.ID()]; ok && old.Owner != r.Owner {
			return nil, fmt.Errorf("cannot trust %s as root of both owners", r.Key.ID())
		}
		t.roots[r.Key.ID()] = r
	}
	return t, nil
}

// AddKeys takes a signed key list. A list with the sequence of the present one
// must be the same bytes to be accepted again; a lower one is a rollback.
func (t *Trust) AddKeys(data []byte) (*Keys, error) {
	l, err := t.openKeys(data)
	if err != nil {
		return nil, fmt.Errorf("cannot accept key list: %w", err)
	}
	if old := t.lists[l.Owner]; old != nil {
		if l.Sequence < old.Sequence {
			return nil, fmt.Errorf("cannot accept key list: %w: %d, have %d", ErrRollback, l.Sequence, old.Sequence)
		}
		if l.Sequence == old.Sequence {
			a, errA := cose.Encode(l)
			b, errB := cose.Encode(old)
			if errA != nil || errB != nil || string(a) != string(b) {
				return nil, fmt.Errorf("cannot accept key list: %w: another list has sequence %d already", ErrRollback, l.Sequence)
			}
		}
	}
	t.lists[l.Owner] = l
	return l, nil
}

func (t *Trust) openKeys(data []byte) (*Keys, error) {
	u, err := cose.Parse(data, MaxKeyListSize)
	if err != nil {
		return nil, err
	}
	root, ok := t.roots[u.KeyID()]
	if !ok {
		return nil, fmt.Errorf("%w: root %s", ErrUnknownKey, u.KeyID())
	}
	payload, err := u.Verify(cose.KeyList, root.Key)
	if err != nil {
		return nil, err
	}
	l := new(Keys)
	if err := cose.Decode(payload, MaxKeyListSize, l); err != nil {
		return nil, err
	}
	if err := l.Check(); err != nil {
		return nil, err
	}
	if l.Owner != root.Owner {
		return nil, fmt.Errorf("%w: a root of the %s signed a list of the %s", ErrRole, root.Owner, l.Owner)
	}
	for _, k := range l.Keys {
		if _, isRoot := t.roots[k.Key.ID()]; isRoot {
			return nil, fmt.Errorf("%w: root %s is listed as a %s key", ErrRole, k.Key.ID(), k.Role)
		}
	}
	return l, nil
}

// KeySequence returns the sequence of the newest list of owner, 0 without one.
func (t *Trust) KeySequence(o Owner) uint64 {
	if l := t.lists[o]; l != nil {
		return l.Sequence
	}
	return 0
}

// key returns the key id if it may sign for role and model now.
func (t *Trust) key(id cose.KeyID, role Role, model string, now Interval) (*cose.PublicKey, error) {
	// The list of the role's owner decides. The other one only tells better why
	// not: all its keys have other roles.
	for _, o := range []Owner{role.owner(), Manufacturer, Operator} {
		l := t.lists[o]
		if l == nil {
			continue
		}
		for _, k := range l.Keys {
			if k.Key.ID() != id {
				continue
			}
			switch {
			case k.Role != role:
				return nil, fmt.Errorf("%w: %s %q has role %s, not %s", ErrRole, id, k.Name, k.Role, role)
			case len(k.Models) > 0 && model != "" && !slices.Contains(k.Models, model):
				return nil, fmt.Errorf("%w: %s %q is not for model %q", ErrRole, id, k.Name, model)
			// Without an upper bound of the time the revocation counts: the
			// list with it is here, so its signer knew of the loss.
			case k.RevokedFrom != 0 && (now.Latest == 0 || now.Latest >= k.RevokedFrom):
				return nil, fmt.Errorf("%w: %s %q, from %d", ErrRevoked, id, k.Name, k.RevokedFrom)
			}
			if err := now.within(k.NotBefore, k.NotAfter); err != nil {
				return nil, fmt.Errorf("key %s %q: %w", id, k.Name, err)
			}
			return k.Key, nil
		}
	}
	if _, isRoot := t.roots[id]; isRoot {
		return nil, fmt.Errorf("%w: root %s signs key lists only", ErrRole, id)
	}
	return nil, fmt.Errorf("%w: %s", ErrUnknownKey, id)
}

// open checks the signature of data as a document of type typ by a key of role.
func (t *Trust) open(data []byte, limit int, typ cose.Type, role Role, model string, now Interval) ([]byte, cose.KeyID, error) {
	u, err := cose.Parse(data, limit)
	if err != nil {
		return nil, cose.KeyID{}, err
	}
	if u.Type() != typ {
		return nil, cose.KeyID{}, fmt.Errorf("%w: %s, want %s", cose.ErrType, u.Type(), typ)
	}
	key, err := t.key(u.KeyID(), role, model, now)
	if err != nil {
		return nil, cose.KeyID{}, err
	}
	payload, err := u.Verify(typ, key)
	return payload, u.KeyID(), err
}
