// Package control keeps the little that servers must agree on, in a database that others have written and
// proven: SQLite in the data folder of a single server, or PostgreSQL where several share a bucket.
// It never holds profiles: leases, which are taken anew if they are lost; findings with their history, which are found
// anew but for what people said of them; and changes with theirs, which say what is to be undone.
package control

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// The words a caller branches on; the text says what and where.
var (
	ErrUnavailable = errors.New("unavailable") // not now: no answer, busy, out of space
	ErrDenied      = errors.New("denied")      // the database refuses our credentials
	ErrInvalid     = errors.New("invalid")     // the URL, a lease's name
	ErrNewer       = errors.New("newer")       // a later version of this program has been here
	ErrLost        = errors.New("lease lost")  // the cause that ends a lease's context
	ErrConflict    = errors.New("conflict")    // it has been changed since it was read: read it again
)

// Options of [Open].
type Options struct {
	Logger *slog.Logger // nil is silent
	// Timeout of each statement; 0 is 10 s.
	Timeout time.Duration
	// Now replaces the database's clock. Nil is that clock, which is the one that servers
	// share; set it only where the test is the clock.
	Now func() time.Time
}

// DB is an open control database. Its methods may be called by many goroutines.
type DB struct {
	sql  *sql.DB
	name string // for messages, without secrets
	kind kind
	opt  Options
}

// kind is in what our two databases differ.
type kind struct {
	open  func(dsn string) (*sql.DB, error)
	clock string // Unix microseconds, now
	lock  string // taken first by a migration; the transaction ends it
	marks string // taken before a mark is read to be changed, likewise
	param func(query string) string
}

var (
	sqlite = kind{
		open:  openSQLite,
		clock: "cast(unixepoch('now', 'subsec') * 1000000 as integer)",
		param: func(q string) string { return q },
	}
	postgres = kind{
		open:  func(dsn string) (*sql.DB, error) { return sql.Open("pgx", dsn) },
		clock: "cast(extract(epoch from clock_timestamp()) * 1000000 as bigint)",
		lock:  "select pg_advisory_xact_lock(7810774)", // any number that no other program takes in this database
		marks: "lock table marks in exclusive mode",
		param: dollars,
	}
)

var questionMark = regexp.MustCompile(`\?\d`)

// dollars turns ?1 into $1.
func dollars(q string) string {
	return questionMark.ReplaceAllStringFunc(q, func(m string) string { return "$" + m[1:] })
}

// Open opens the database that url names, and brings its tables up to date. A path, or sqlite:PATH, is a
// SQLite file, made if need be; postgres:// is a PostgreSQL database, which must be there.
func Open(ctx context.Context, url string, opt Options) (*DB, error) {
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	opt.Timeout = cmp.Or(opt.Timeout, 10*time.Second)
	d := &DB{opt: opt, kind: sqlite}
	var dsn string
	var err error
	switch scheme, rest, ok := strings.Cut(url, ":"); {
	case ok && (scheme == "postgres" || scheme == "postgresql"):
		d.kind, dsn = postgres, url
		d.name, err = withoutSecrets(url)
	case ok && scheme == "sqlite":
		d.name = rest
		dsn, err = sqliteDSN(rest)
	case ok && strings.HasPrefix(rest, "//"):
		err = fmt.Errorf("%w: %s: it must be a file's path, sqlite:PATH or postgres://USER@HOST/DATABASE", ErrInvalid, scheme+"://")
	default:
		d.name = url
		dsn, err = sqliteDSN(url)
	}
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	if d.sql, err = d.kind.open(dsn); err != nil {
		return nil, fmt.Errorf("control: %s: %w: %s", d.name, ErrInvalid, scrub(err, url))
	}
	d.sql.SetMaxOpenConns(4) // little is asked: more would only hold the server's slots
	d.sql.SetMaxIdleConns(2)
	d.sql.SetConnMaxIdleTime(5 * time.Minute)
	if err := d.migrate(ctx, migrations); err != nil {
		return nil, errors.Join(fmt.Errorf("control: %s: %w", d.name, scrubbed{err, url}), d.sql.Close())
	}
	return d, nil
}

// sqliteDSN says how we want a file: readers beside a writer, a writer that waits its turn, and
// a commit that is on disk.
func sqliteDSN(path string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("%w: the path of the file is empty", ErrInvalid)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/ on Windows
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)&_txlock=immediate"}
	return u.String(), nil
}

func withoutSecrets(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("%w: the postgres URL cannot be read; characters like @ / %% in a password must be escaped", ErrInvalid)
	}
	return u.Scheme + "://" + u.Host + u.Path, nil
}

// Name is the database's, without secrets, to name it in a message.
func (d *DB) Name() string { return d.name }

// Check asks the database whether it answers.
func (d *DB) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	if err := d.sql.PingContext(ctx); err != nil {
		return fmt.Errorf("control: %s: %w", d.name, word(err))
	}
	return nil
}

// Close closes it. Leases that are held lie until they expire: release them first.
func (d *DB) Close() error { return d.sql.Close() }

// now is the SQL of the time in Unix microseconds.
func (d *DB) now() string {
	if d.opt.Now != nil {
		return fmt.Sprint(d.opt.Now().UnixMicro())
	}
	return d.kind.clock
}

// change runs f in one transaction, within the timeout.
func (d *DB) change(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	tx, err := d.sql.BeginTx(ctx, nil)
	if err != nil {
		return word(err)
	}
	if err := f(ctx, tx); err != nil {
		tx.Rollback() // the error that there is, is the one to tell
		return word(err)
	}
	return word(tx.Commit())
}
