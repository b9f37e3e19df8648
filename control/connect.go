package control

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"time"

	driversqlite "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// busyFor is how long SQLite waits for a lock that another connection has; busyPause is between two attempts to connect.
const (
	busyFor   = 5 * time.Second
	busyPause = 5 * time.Millisecond
)

// patient makes connections to a SQLite file. The first that opens it and the last that closes it lock it whole, to begin and to end its write-ahead log,
// and for that lock SQLite does not wait as it does for others (https://sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY In WAL
// Mode"): whoever connects meanwhile is told that it is busy, and tries again.
type patient struct {
	driver driver.Driver
	dsn    string
}

// openSQLite is like [sql.Open].
func openSQLite(dsn string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", dsn) // the driver that is registered has what it knows of DSNs
	if err != nil {
		return nil, err
	}
	c := patient{driver: db.Driver(), dsn: dsn}
	return sql.OpenDB(c), db.Close()
}

// Driver implements [driver.Connector].
func (p patient) Driver() driver.Driver { return p.driver }

// Connect implements [driver.Connector].
func (p patient) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, busyFor)
	defer cancel()
	for {
		c, err := p.driver.Open(p.dsn)
		if err == nil || !isBusy(err) {
			return c, err
		}
		timer := time.NewTimer(busyPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// isBusy says that another connection has a lock: the low byte of an extended code is the code.
func isBusy(err error) bool {
	var e *driversqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY
}
