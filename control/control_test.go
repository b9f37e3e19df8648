package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/control/controltest"
)

// long is a time to live that no test outlives.
const long = time.Hour

func take(t *testing.T, d *DB, name, holder string, ttl time.Duration) *Lease {
	t.Helper()
	l, ok, err := d.Lease(t.Context(), name, holder, ttl)
	if err != nil || !ok {
		t.Fatalf("lease %s for %s: %v, %v", name, holder, ok, err)
	}
	t.Cleanup(func() { l.Release() })
	return l
}

func refused(t *testing.T, d *DB, name, holder string) {
	t.Helper()
	if _, ok, err := d.Lease(t.Context(), name, holder, long); ok || err != nil {
		t.Fatalf("lease %s for %s: %v, %v; it must be refused", name, holder, ok, err)
	}
}

func TestLeaseExcludes(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url := fresh()
		a, b := open(t, url, Options{}), open(t, url, Options{})
		l := take(t, a, "compact/x", "a", long)
		refused(t, b, "compact/x", "b")
		refused(t, a, "compact/x", "a")
		other := take(t, b, "compact/y", "b", long)
		if other.Token() <= l.Token() {
			t.Errorf("tokens %d, then %d", l.Token(), other.Token())
		}
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
		if l.Context().Err() == nil || errors.Is(context.Cause(l.Context()), ErrLost) {
			t.Errorf("after Release the context's cause is %v", context.Cause(l.Context()))
		}
		again := take(t, b, "compact/x", "b", long)
		if again.Token() <= other.Token() {
			t.Errorf("tokens %d, then %d", other.Token(), again.Token())
		}
		if err := l.Release(); err != nil { // once more does nothing to its successor
			t.Fatal(err)
		}
		refused(t, a, "compact/x", "a")
	})
}

// TestLeaseRace: of many who want one name, one at a time has it, and tokens grow.
func TestLeaseRace(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url := fresh()
		var holders, last atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			d := open(t, url, Options{})
			wg.Go(func() {
				for got := 0; got < 5; {
					l, ok, err := d.Lease(t.Context(), "one", "r", long)
					if err != nil {
						t.Error(err)
						return
					}
					if !ok {
						continue
					}
					got++
					if n := holders.Add(1); n != 1 {
						t.Errorf("%d hold the lease", n)
					}
					if before := last.Swap(l.Token()); before >= l.Token() {
						t.Errorf("token %d after %d", l.Token(), before)
					}
					holders.Add(-1)
					if err := l.Release(); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

// clock is a database's clock that tests move.
type clock struct{ micros atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.micros.Store(1_800_000_000_000_000)
	return c
}
func (c *clock) now() time.Time        { return time.UnixMicro(c.micros.Load()) }
func (c *clock) move(by time.Duration) { c.micros.Add(by.Microseconds()) }
func (c *clock) opt() Options          { return Options{Now: c.now} }

func TestLeaseExpires(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url, c := fresh(), newClock()
		a, b := open(t, url, c.opt()), open(t, url, c.opt())
		l := take(t, a, "n", "a", long)
		c.move(long - time.Second)
		refused(t, b, "n", "b")
		c.move(time.Second)
		l2 := take(t, b, "n", "b", long)
		if mine, err := l.touch(); mine || err != nil {
			t.Errorf("the first can still renew: %v, %v", mine, err)
		}
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
		refused(t, a, "n", "a")
		if mine, err := l2.touch(); !mine || err != nil {
			t.Errorf("the second cannot renew: %v, %v", mine, err)
		}
	})
}

// TestLeaseClockBack: a clock that goes back an hour must not leave a dead holder's lease for an
// hour more, nor take a living one's away.
func TestLeaseClockBack(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url, c := fresh(), newClock()
		a, b := open(t, url, c.opt()), open(t, url, c.opt())
		const ttl = time.Minute
		l := take(t, a, "alive", "a", ttl)
		take(t, a, "dead", "a", ttl) // its renewals are further apart than this test is long
		c.move(-time.Hour)
		refused(t, b, "alive", "b")
		refused(t, b, "dead", "b") // and from here on it counts anew
		c.move(ttl / 2)
		if mine, err := l.touch(); !mine || err != nil {
			t.Errorf("the living holder cannot renew: %v, %v", mine, err)
		}
		c.move(ttl / 2)
		refused(t, b, "alive", "b")
		take(t, b, "dead", "b", ttl)
	})
}

// TestLeaseIsRenewed: a holder that lives keeps its lease longer than ttl, by the real clock.
func TestLeaseIsRenewed(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url := fresh()
		a, b := open(t, url, Options{}), open(t, url, Options{})
		const ttl = 2 * time.Second
		l := take(t, a, "n", "a", ttl)
		after := time.NewTimer(2 * ttl)
		defer after.Stop()
		ask := time.NewTicker(ttl / 20)
		defer ask.Stop()
		for {
			select {
			case <-after.C:
				return
			case <-l.Context().Done():
				t.Fatal(context.Cause(l.Context()))
			case <-ask.C:
				refused(t, b, "n", "b")
			}
		}
	})
}

// TestLeaseTakenAway: the holder is told when the lease is another's, whatever the reason.
func TestLeaseTakenAway(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url, c := fresh(), newClock()
		a, b := open(t, url, c.opt()), open(t, url, c.opt())
		l := take(t, a, "n", "a", 600*time.Millisecond)
		c.move(time.Minute) // forward, all at once
		for {
			if _, ok, err := b.Lease(t.Context(), "n", "b", long); err != nil {
				t.Fatal(err)
			} else if ok {
				break
			}
			c.move(time.Minute) // it was renewed in between
		}
		<-l.Context().Done()
		if err := context.Cause(l.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("cause %v", err)
		}
	})
}

// TestLeaseCannotRenew: with the database away, the holder stops within ttl.
func TestLeaseCannotRenew(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		l := take(t, d, "n", "a", 600*time.Millisecond)
		d.Close()
		<-l.Context().Done()
		if err := context.Cause(l.Context()); !errors.Is(err, ErrLost) {
			t.Errorf("cause %v", err)
		}
		if err := l.Release(); !errors.Is(err, ErrUnavailable) {
			t.Errorf("release: %v", err)
		}
	})
}

// TestLeaseEndsWithContext: the work's context ends with its parent's, and Release still gives the lease back.
func TestLeaseEndsWithContext(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		d := open(t, fresh(), Options{})
		ctx, cancel := context.WithCancel(t.Context())
		l, ok, err := d.Lease(ctx, "n", "a", long)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		cancel()
		<-l.Context().Done()
		if err := l.Release(); err != nil {
			t.Fatal(err)
		}
		take(t, d, "n", "b", long)
	})
}

const holderEnv = "QUANTRA_TEST_LEASE_HOLDER"

// hold takes a lease, says so, and never ends by itself.
func hold() {
	d, err := Open(context.Background(), os.Getenv(holderEnv), Options{})
	if err == nil {
		_, _, err = d.Lease(context.Background(), "n", "child", time.Second)
	}
	fmt.Println("held", err)
	select {}
}

// TestHolderKilled: the lease of a process that was killed is free when ttl is over.
func TestHolderKilled(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url := fresh()
		d := open(t, url, Options{})
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), holderEnv+"="+url)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		said, err := bufio.NewReader(out).ReadString('\n')
		if said != "held <nil>\n" {
			t.Errorf("the child says %q, %v", said, err)
		}
		refused(t, d, "n", "b")
		child.Process.Kill()
		child.Wait()
		for ctx, cancel := context.WithTimeout(t.Context(), time.Minute); ; {
			l, ok, err := d.Lease(ctx, "n", "b", long)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				cancel()
				if err := l.Release(); err != nil {
					t.Error(err)
				}
				return
			}
		}
	})
}

func TestLeaseInvalid(t *testing.T) {
	d := open(t, filepath.Join(t.TempDir(), "c.db"), Options{})
	for _, c := range []struct {
		name string
		ttl  time.Duration
	}{{"", long}, {strings.Repeat("n", maxName+1), long}, {"n", 0}, {"n", maxTTL + 1}, {"n", -long}} {
		if _, ok, err := d.Lease(t.Context(), c.name, "h", c.ttl); ok || !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q %v: %v, %v", c.name, c.ttl, ok, err)
		}
	}
}

// TestExpiredRowsGo: names that nobody asks for again leave nothing behind.
func TestExpiredRowsGo(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		c := newClock()
		d := open(t, fresh(), c.opt())
		for i := range 5 {
			take(t, d, fmt.Sprint("partition", i), "a", long)
		}
		c.move(long + keepExpired + time.Second)
		take(t, d, "last", "a", long)
		var rows int
		if err := d.sql.QueryRow("select count(*) from leases").Scan(&rows); err != nil || rows != 1 {
			t.Errorf("%d rows, %v", rows, err)
		}
	})
}

func TestMigrate(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url := fresh()
		d := open(t, url, Options{})
		l := take(t, d, "n", "a", long)

		// Again, and by many at once: nothing changes.
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				d, err := Open(t.Context(), url, Options{})
				if err != nil {
					t.Error(err)
					return
				}
				d.Close()
			})
		}
		wg.Wait()

		// A later version is made in one step or not at all.
		more := append(append([]string(nil), migrations...), "create table later (a bigint)", "create table broken (")
		if err := d.migrate(t.Context(), more); err == nil || !strings.Contains(err.Error(), fmt.Sprint("migration ", len(more))) {
			t.Errorf("broken migration: %v", err)
		}
		if _, err := d.sql.Exec("select * from later"); err == nil {
			t.Error("half of a migration stayed")
		}
		if err := d.migrate(t.Context(), more[:len(more)-1]); err != nil {
			t.Fatal(err)
		}
		if mine, err := l.touch(); !mine || err != nil {
			t.Errorf("the lease did not survive the migration: %v, %v", mine, err)
		}
		if _, err := Open(t.Context(), url, Options{}); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "run the later quantraband") {
			t.Errorf("a later version is opened: %v", err)
		}
	})
}

// TestOpenTogether: servers that start at once on an empty database make its tables once.
func TestOpenTogether(t *testing.T) {
	each(t, func(t *testing.T, fresh func() string) {
		url := fresh()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				d, err := Open(t.Context(), url, Options{})
				if err != nil {
					t.Error(err)
					return
				}
				defer d.Close()
				if err := d.Check(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		d := open(t, url, Options{})
		var rows int
		if err := d.sql.QueryRow("select count(*) from tokens").Scan(&rows); err != nil || rows != 1 {
			t.Errorf("%d rows of tokens, %v", rows, err)
		}
	})
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk.db")
	if err := os.WriteFile(junk, []byte(strings.Repeat("this is no database ", 100)), 0o666); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	away := ln.Addr().String()
	ln.Close()
	for _, c := range []struct {
		url  string
		want error
		text string
	}{
		{"", ErrInvalid, "path of the file is empty"},
		{"sqlite:", ErrInvalid, "path of the file is empty"},
		{"mysql://root:hunter2@h/d", ErrInvalid, "postgres://USER@HOST/DATABASE"},
		{"postgres://u:hunter2%zz@h/d", ErrInvalid, "must be escaped"},
		{"postgres://u:hunter2@" + away + "/d", ErrUnavailable, "refused"},
		{junk, ErrUnavailable, "is not a database"},
		{filepath.Join(junk, "c.db"), ErrUnavailable, "not a directory"},
	} {
		_, err := Open(t.Context(), c.url, Options{})
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v, want %v and %q", c.url, err, c.want, c.text)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "control: ") {
			t.Errorf("%s: error is %q", c.url, err)
		}
	}
}

func TestPostgresErrors(t *testing.T) {
	good := controltest.URL(t)
	bad := strings.Replace(good, "s3cret", "hunter2", 1)
	if _, err := Open(t.Context(), bad, Options{}); !errors.Is(err, ErrDenied) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("wrong password: %v", err)
	}
	none := good[:strings.LastIndex(good, "/")] + "/nowhere?sslmode=disable"
	if _, err := Open(t.Context(), none, Options{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "createdb") {
		t.Errorf("no such database: %v", err)
	}
	if d := open(t, good, Options{}); strings.Contains(d.Name(), "s3cret") || !strings.HasPrefix(d.Name(), "postgres://127.0.0.1:") {
		t.Errorf("the name is %q", d.Name())
	}
}

// TestSQLiteIsDurable: the commit of a lease is on disk before it is given, readers do not wait for writers, and a file with odd
// characters in its name is that file.
func TestSQLiteIsDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c%d#e", "control.db")
	d := open(t, "sqlite:"+path, Options{})
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "5000"} {
		var got string
		if err := d.sql.QueryRow("pragma " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v", pragma, got, err)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// TestTimeout: a database that another holds is ErrUnavailable after the timeout, not a call that never returns.
func TestTimeout(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	d := open(t, path, Options{})
	tx, err := d.sql.Begin() // _txlock=immediate: it holds the write lock
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	d2 := &DB{sql: d.sql, name: "c", kind: sqlite, opt: Options{Timeout: 10 * time.Millisecond}}
	if _, _, err := d2.Lease(t.Context(), "n", "a", long); !errors.Is(err, ErrUnavailable) {
		t.Errorf("locked: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := d.Lease(ctx, "n", "a", long); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestDollars(t *testing.T) {
	if got := dollars("a = ?1 and b = ?2"); got != "a = $1 and b = $2" {
		t.Error(got)
	}
}
