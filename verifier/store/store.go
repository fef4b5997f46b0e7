// Package store remembers the fleet in one SQLite file: devices, their reports
// with results, and what was refused.
//
// What a method has stored when it returns survives kill -9 and a loss of power
// (write-ahead log, synchronous=FULL); a report and what it made of its device
// go in together or not at all. The file is trusted as far as its permissions
// go: reports are verified again when the verifier reads them, devices and their
// keys are not.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/attest/cose"
	"github.com/miotfacts/miotfacts/verifier"
)

// MaxRefused is how many refused messages are kept: a stranger can cause as
// many as he likes.
const MaxRefused = 10_000

// maxBody bounds a stored device in bytes.
const maxBody = 256 << 10

// schema are the steps from an empty file to the present version; a step is
// never changed once it was released.
var schema = []string{`
CREATE TABLE device (
	ueid BLOB PRIMARY KEY,
	body BLOB NOT NULL          -- verifier.Device in CBOR
) STRICT;
CREATE TABLE report (
	id          INTEGER PRIMARY KEY,
	device      BLOB NOT NULL REFERENCES device (ueid),
	chain       INTEGER NOT NULL,
	sequence    INTEGER NOT NULL,
	digest      BLOB NOT NULL,
	previous    BLOB NOT NULL,
	seed        BLOB NOT NULL,
	kind        INTEGER NOT NULL,
	stage       INTEGER NOT NULL,
	received_at INTEGER NOT NULL,
	quoted      INTEGER NOT NULL,
	tier        INTEGER NOT NULL,
	findings    BLOB,            -- NULL once it was pruned
	result      BLOB,
	message     BLOB,
	UNIQUE (device, chain, sequence)
) STRICT;
CREATE UNIQUE INDEX report_digest ON report (device, digest);
CREATE INDEX report_boot ON report (device, chain, seed, sequence) WHERE kind IN (1, 5);
CREATE INDEX report_age ON report (received_at) WHERE message IS NOT NULL AND kind = 2;
CREATE TABLE refused (
	id     INTEGER PRIMARY KEY AUTOINCREMENT,
	at     INTEGER NOT NULL,
	device TEXT NOT NULL,
	topic  TEXT NOT NULL,
	reason TEXT NOT NULL,
	text   TEXT NOT NULL,
	size   INTEGER NOT NULL
) STRICT;
`, `
CREATE TABLE log (
	device      BLOB NOT NULL REFERENCES device (ueid),
	chain       INTEGER NOT NULL,
	seed        BLOB NOT NULL,
	log         INTEGER NOT NULL,
	offset      INTEGER NOT NULL,
	size        INTEGER NOT NULL,
	packed      BLOB NOT NULL,
	received_at INTEGER NOT NULL,
	PRIMARY KEY (device, chain, seed, log, offset)
) STRICT, WITHOUT ROWID;
`, `
CREATE TABLE epoch (
	nonce    BLOB PRIMARY KEY,
	begin_at INTEGER NOT NULL,
	end_at   INTEGER NOT NULL
) STRICT;
`}

// A Store is an open file. It is safe for concurrent use by one process.
type Store struct {
	write *sql.DB // one connection: SQLite has one writer at a time
	read  *sql.DB
	lock  *os.File
}

var _ verifier.Store = (*Store)(nil)

// ErrInUse says that another process has the store open.
var ErrInUse = errors.New("another process has it open")

// Open opens the store at path, makes it if there is none, and brings its
// schema up to date.
func Open(path string) (*Store, error) {
	s, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open store %s: %w", path, err)
	}
	return s, nil
}

func open(path string) (_ *Store, err error) {
	s := new(Store)
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.lock, err = os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	// SQLite makes files as the umask says; what devices say is not for everybody.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "_txlock=immediate" +
		"&_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)"}
	if s.write, err = sql.Open("sqlite", dsn.String()); err != nil {
		return nil, err
	}
	s.write.SetMaxOpenConns(1)
	if err := s.migrate(); err != nil {
		return nil, err
	}
	if s.read, err = sql.Open("sqlite", dsn.String()+"&_pragma=query_only(1)"); err != nil {
		return nil, err
	}
	s.read.SetMaxOpenConns(4)
	return s, nil
}

func (s *Store) migrate() error {
	return s.transact(func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
			return err
		}
		if version > len(schema) {
			return fmt.Errorf("its schema has version %d, this program knows %d", version, len(schema))
		}
		for _, step := range schema[version:] {
			if _, err := tx.Exec(step); err != nil {
				return err
			}
		}
		_, err := tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", len(schema)))
		return err
	})
}

// Close closes the store.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

func (s *Store) transact(f func(tx *sql.Tx) error) error {
	tx, err := s.write.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// Device returns a device; verifier.ErrNotFound when there is none.
func (s *Store) Device(id attest.UEID) (*verifier.Device, error) {
	var body []byte
	err := s.read.QueryRow("SELECT body FROM device WHERE ueid = ?", id[:]).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("device %s: %w", id, verifier.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read device %s: %w", id, err)
	}
	return decodeDevice(body)
}

func decodeDevice(body []byte) (*verifier.Device, error) {
	d := new(verifier.Device)
	if err := cose.Decode(body, maxBody, d); err != nil {
		return nil, fmt.Errorf("cannot read device: %w", err)
	}
	return d, nil
}

// Devices returns all devices in the order of their UEIDs.
func (s *Store) Devices() ([]verifier.Device, error) {
	rows, err := s.read.Query("SELECT body FROM device ORDER BY ueid")
	if err != nil {
		return nil, fmt.Errorf("cannot read devices: %w", err)
	}
	defer rows.Close()
	var all []verifier.Device
	for rows.Next() {
		var body sql.RawBytes
		if err := rows.Scan(&body); err != nil {
			return nil, fmt.Errorf("cannot read devices: %w", err)
		}
		d, err := decodeDevice(body)
		if err != nil {
			return nil, err
		}
		all = append(all, *d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read devices: %w", err)
	}
	return all, nil
}

// Save stores a device.
func (s *Store) Save(d *verifier.Device) error {
	if err := s.transact(func(tx *sql.Tx) error { return save(tx, d) }); err != nil {
		return fmt.Errorf("cannot store device %s: %w", d.UEID, err)
	}
	return nil
}

func save(tx *sql.Tx, d *verifier.Device) error {
	body, err := cose.Encode(d)
	if err != nil {
		return err
	}
	_, err = tx.Exec("INSERT INTO device (ueid, body) VALUES (?, ?) ON CONFLICT (ueid) DO UPDATE SET body = excluded.body", d.UEID[:], body)
	return err
}

// Neighbours finds the report with this digest, in any chain of the device, and
// those at and around sequence in the chain.
func (s *Store) Neighbours(id attest.UEID, chain, sequence uint64, digest [32]byte) (verifier.Neighbours, error) {
	var n verifier.Neighbours
	fail := func(err error) (verifier.Neighbours, error) {
		return verifier.Neighbours{}, fmt.Errorf("cannot read reports of device %s: %w", id, err)
	}
	err := s.read.QueryRow("SELECT EXISTS (SELECT 1 FROM report WHERE device = ? AND digest = ?)", id[:], digest[:]).Scan(&n.Known)
	if err != nil {
		return fail(err)
	}
	rows, err := s.read.Query("SELECT sequence, digest, previous FROM report WHERE device = ? AND chain = ? AND sequence BETWEEN ? AND ?",
		id[:], int64(chain), int64(sequence)-1, int64(sequence)+1)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	for rows.Next() {
		l := new(verifier.Link)
		var digest, previous []byte
		if err := rows.Scan(&l.Sequence, &digest, &previous); err != nil {
			return fail(err)
		}
		copy(l.Digest[:], digest)
		copy(l.Previous[:], previous)
		switch l.Sequence {
		case sequence:
			n.At = l
		case sequence + 1:
			n.After = l
		default:
			n.Before = l
		}
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return n, nil
}

// BootReport returns the message of a boot report or challenge answer of a boot,
// that with this sequence, or the newest for 0.
func (s *Store) BootReport(id attest.UEID, chain uint64, seed [16]byte, sequence uint64) ([]byte, error) {
	var message []byte
	err := s.read.QueryRow("SELECT message FROM report WHERE device = ? AND chain = ? AND seed = ? AND kind IN (1, 5) AND ? IN (0, sequence) ORDER BY sequence DESC LIMIT 1",
		id[:], int64(chain), seed[:], int64(sequence)).Scan(&message)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("boot report of device %s: %w", id, verifier.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read boot report of device %s: %w", id, err)
	}
	return message, nil
}

// Accept stores a report and what the device has become. It refuses a report
// whose place in the chain is taken.
func (s *Store) Accept(d *verifier.Device, r *verifier.Record) error {
	err := s.transact(func(tx *sql.Tx) error {
		if err := save(tx, d); err != nil {
			return err
		}
		findings, err := cose.Encode(r.Findings)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO report (device, chain, sequence, digest, previous, seed, kind, stage, received_at, quoted, tier, findings, result, message)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			r.Device[:], int64(r.Chain), int64(r.Sequence), r.Digest[:], r.Previous[:], r.BootSeed[:], r.Kind, r.Stage, r.ReceivedAt, r.Quoted, r.Tier,
			findings, r.Result, r.Message)
		if err != nil {
			return err
		}
		return changeLogs(tx, r)
	})
	var conflict *sqlite.Error
	if errors.As(err, &conflict) && conflict.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE {
		return fmt.Errorf("cannot store report %d of device %s: its place is taken: %w", r.Sequence, r.Device, err)
	}
	if err != nil {
		return fmt.Errorf("cannot store report %d of device %s: %w", r.Sequence, r.Device, err)
	}
	return nil
}

// keptBoots is of how many boots of a device the logs are kept.
const keptBoots = 3

func changeLogs(tx *sql.Tx, r *verifier.Record) error {
	for _, c := range r.Logs {
		if c.Reset {
			if _, err := tx.Exec("DELETE FROM log WHERE device = ? AND chain = ? AND seed = ? AND log = ?", r.Device[:], int64(r.Chain), r.BootSeed[:], c.Log); err != nil {
				return err
			}
		}
		if c.Part == nil {
			continue
		}
		if _, err := tx.Exec("INSERT INTO log (device, chain, seed, log, offset, size, packed, received_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
			r.Device[:], int64(r.Chain), r.BootSeed[:], c.Log, int64(c.Part.Offset), c.Part.Size, c.Part.Packed, r.ReceivedAt); err != nil {
			return err
		}
		if c.Part.Offset > 0 {
			continue
		}
		if _, err := tx.Exec(`DELETE FROM log WHERE device = ?1 AND seed <> ?2 AND seed NOT IN
			(SELECT seed FROM log WHERE device = ?1 AND seed <> ?2 GROUP BY seed ORDER BY MAX(received_at) DESC LIMIT ?3)`, r.Device[:], r.BootSeed[:], keptBoots-1); err != nil {
			return err
		}
	}
	return nil
}

// Log returns the parts of a log of a boot from the one on that has byte from.
func (s *Store) Log(id attest.UEID, chain uint64, seed [16]byte, log attest.Log, from uint64) ([]attest.Part, error) {
	rows, err := s.read.Query("SELECT offset, size, packed FROM log WHERE device = ? AND chain = ? AND seed = ? AND log = ? AND offset + size > ? ORDER BY offset",
		id[:], int64(chain), seed[:], log, int64(from))
	if err != nil {
		return nil, fmt.Errorf("cannot read logs of device %s: %w", id, err)
	}
	defer rows.Close()
	var parts []attest.Part
	for rows.Next() {
		p := attest.Part{Log: log}
		if err := rows.Scan(&p.Offset, &p.Size, &p.Packed); err != nil {
			return nil, fmt.Errorf("cannot read logs of device %s: %w", id, err)
		}
		parts = append(parts, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read logs of device %s: %w", id, err)
	}
	return parts, nil
}

// Refuse stores a refused message and drops the oldest beyond MaxRefused.
func (s *Store) Refuse(r *verifier.Refused) error {
	err := s.transact(func(tx *sql.Tx) error {
		if _, err := tx.Exec("INSERT INTO refused (at, device, topic, reason, text, size) VALUES (?, ?, ?, ?, ?, ?)",
			r.At, r.Device, r.Topic, r.Reason, r.Text, r.Size); err != nil {
			return err
		}
		_, err := tx.Exec("DELETE FROM refused WHERE id <= (SELECT MAX(id) FROM refused) - ?", MaxRefused)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot store refusal: %w", err)
	}
	return nil
}

const columns = "device, chain, sequence, digest, previous, seed, kind, stage, received_at, quoted, tier, findings, result, message"

// Reports returns the newest reports of a device's present and earlier chains,
// at most limit, newest first.
func (s *Store) Reports(id attest.UEID, limit int) ([]verifier.Record, error) {
	rows, err := s.read.Query("SELECT "+columns+" FROM report WHERE device = ? ORDER BY chain DESC, sequence DESC LIMIT ?", id[:], limit)
	if err != nil {
		return nil, fmt.Errorf("cannot read reports of device %s: %w", id, err)
	}
	defer rows.Close()
	var all []verifier.Record
	for rows.Next() {
		r, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("cannot read reports of device %s: %w", id, err)
		}
		all = append(all, *r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read reports of device %s: %w", id, err)
	}
	return all, nil
}

// Report returns the report with this sequence in the device's newest chain
// that has one; verifier.ErrNotFound when there is none.
func (s *Store) Report(id attest.UEID, sequence uint64) (*verifier.Record, error) {
	r, err := scan(s.read.QueryRow("SELECT "+columns+" FROM report WHERE device = ? AND sequence = ? ORDER BY chain DESC LIMIT 1", id[:], int64(sequence)))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("report %d of device %s: %w", sequence, id, verifier.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read report %d of device %s: %w", sequence, id, err)
	}
	return r, nil
}

func scan(row interface{ Scan(...any) error }) (*verifier.Record, error) {
	r := new(verifier.Record)
	var device, digest, previous, seed, findings []byte
	err := row.Scan(&device, &r.Chain, &r.Sequence, &digest, &previous, &seed, &r.Kind, &r.Stage, &r.ReceivedAt, &r.Quoted, &r.Tier,
		&findings, &r.Result, &r.Message)
	if err != nil {
		return nil, err
	}
	copy(r.Device[:], device)
	copy(r.Digest[:], digest)
	copy(r.Previous[:], previous)
	copy(r.BootSeed[:], seed)
	if findings == nil {
		return r, nil
	}
	return r, cose.Decode(findings, maxBody, &r.Findings)
}

// Stages returns when reports of a device were accepted since a time, in Unix
// seconds, and its stage in each, in the order in which they came. It needs no
// messages, so it tells of pruned reports too.
func (s *Store) Stages(id attest.UEID, since int64) ([]verifier.Moment, error) {
	rows, err := s.read.Query("SELECT received_at, stage, kind FROM report WHERE device = ? AND received_at >= ? ORDER BY received_at, chain, sequence", id[:], since)
	if err != nil {
		return nil, fmt.Errorf("cannot read stages of device %s: %w", id, err)
	}
	defer rows.Close()
	var all []verifier.Moment
	for rows.Next() {
		var m verifier.Moment
		var kind attest.Kind
		if err := rows.Scan(&m.At, &m.Stage, &kind); err != nil {
			return nil, fmt.Errorf("cannot read stages of device %s: %w", id, err)
		}
		m.Alarm = kind == attest.KindAlarm
		all = append(all, m)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read stages of device %s: %w", id, err)
	}
	return all, nil
}

// Refused returns the newest refused messages, at most limit, newest first.
func (s *Store) Refused(limit int) ([]verifier.Refused, error) {
	rows, err := s.read.Query("SELECT at, device, topic, reason, text, size FROM refused ORDER BY id DESC LIMIT ?", limit)
	if err != nil {
		return nil, fmt.Errorf("cannot read refusals: %w", err)
	}
	defer rows.Close()
	var all []verifier.Refused
	for rows.Next() {
		var r verifier.Refused
		if err := rows.Scan(&r.At, &r.Device, &r.Topic, &r.Reason, &r.Text, &r.Size); err != nil {
			return nil, fmt.Errorf("cannot read refusals: %w", err)
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read refusals: %w", err)
	}
	return all, nil
}

// Epochs returns the epochs that are remembered, by their beginning.
func (s *Store) Epochs() ([]verifier.Epoch, error) {
	rows, err := s.read.Query("SELECT nonce, begin_at, end_at FROM epoch ORDER BY begin_at")
	if err != nil {
		return nil, fmt.Errorf("cannot read epochs: %w", err)
	}
	defer rows.Close()
	var all []verifier.Epoch
	for rows.Next() {
		var e verifier.Epoch
		var nonce []byte
		if err := rows.Scan(&nonce, &e.Begin, &e.End); err != nil {
			return nil, fmt.Errorf("cannot read epochs: %w", err)
		}
		copy(e.Nonce[:], nonce)
		all = append(all, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read epochs: %w", err)
	}
	return all, nil
}

// AddEpoch stores an epoch and forgets those that ended before a time.
func (s *Store) AddEpoch(e verifier.Epoch, before int64) error {
	err := s.transact(func(tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM epoch WHERE end_at < ?", before); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO epoch (nonce, begin_at, end_at) VALUES (?, ?, ?)", e.Nonce[:], e.Begin, e.End)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot store epoch: %w", err)
	}
	return nil
}

// Prune drops the messages and results of routine reports that came before the
// time, in Unix seconds, and returns of how many. Their digests stay, so the
// chain stays provable; boot reports, alarms and answers stay whole, and so does
// each device's newest report.
func (s *Store) Prune(before int64) (int64, error) {
	r, err := s.write.Exec(`UPDATE report SET message = NULL, result = NULL, findings = NULL
		WHERE received_at < ? AND message IS NOT NULL AND kind = 2
		AND EXISTS (SELECT 1 FROM report AS newer WHERE newer.device = report.device AND newer.chain = report.chain AND newer.sequence > report.sequence)`, before)
	if err != nil {
		return 0, fmt.Errorf("cannot prune reports: %w", err)
	}
	return r.RowsAffected()
}
