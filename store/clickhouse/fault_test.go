package clickhouse_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/clickhouse"
	"github.com/quantra-l/quantra/store/clickhouse/clickhousetest"
	"github.com/quantra-l/quantra/store/storetest"
)

// proxy stands before ClickHouse. What happens to a statement is for fate to say.
type proxy struct {
	addr string // its own
	mu   sync.Mutex
	fate func(sql string) fate
}

type fate int

const (
	pass    fate = iota
	refuse       // the connection ends before the statement is run
	drop         // it is run, and the connection ends before the answer
	trouble      // status 503 from something before the server
)

func newProxy(t *testing.T) *proxy {
	t.Helper()
	p := &proxy{fate: func(string) fate { return pass }}
	target := clickhousetest.Addr(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		sql := r.URL.Query().Get("query")
		if sql == "" {
			sql = string(body)
		}
		p.mu.Lock()
		what := p.fate(sql)
		p.mu.Unlock()
		switch what {
		case refuse:
			panic(http.ErrAbortHandler)
		case trouble:
			http.Error(w, "upstream connect error", http.StatusServiceUnavailable)
			return
		}
		req, err := http.NewRequestWithContext(context.Background(), r.Method, "http://"+target+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			panic(err)
		}
		req.Header = r.Header.Clone()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || what == drop {
			panic(http.ErrAbortHandler)
		}
		for _, name := range []string{"X-ClickHouse-Exception-Code", "Content-Type"} {
			if v := resp.Header.Get(name); v != "" {
				w.Header().Set(name, v)
			}
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = w.Write(answer)
	}))
	srv.Config.ErrorLog = nil
	t.Cleanup(srv.Close)
	p.addr = strings.TrimPrefix(srv.URL, "http://")
	return p
}

// anything is a question about all of one type.
var anything = store.Query{Type: profile.Type{Name: "process_cpu", Sample: storetest.Kinds["process_cpu"][1], Period: storetest.Kinds["process_cpu"][1]}}

func (p *proxy) set(f func(sql string) fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fate = f
}

// uploads are appended to db until several segments are full.
func uploads(t *testing.T, db *store.DB, seed uint64, n int) (all []store.Upload) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 4))
	for i := range n {
		u := storetest.RandomUpload(rng, int(seed)*1000+i, 10)
		all = append(all, u)
		if err := db.Append(context.Background(), u); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func compare(t *testing.T, db *store.DB, all []store.Upload) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, 7))
	answered := 0
	for range 12 {
		answered += storetest.Compare(t, db, storetest.RandomQuery(rng), all)
	}
	if answered < 3 {
		t.Errorf("%d questions had an answer", answered)
	}
}

// TestAnswersLost: inserts that were made, and whose answers did not come, are made again, and count once.
func TestAnswersLost(t *testing.T) {
	for _, lost := range []int{1, 13} { // 1: the same statement is sent again; 13: the block is put again, after a count
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			name, _ := newDatabase(t)
			p := newProxy(t)
			fs := vfs.NewMem()
			back := openBackend(t, fs, clickhousetest.URL(p.addr, name), trusting)
			n := map[string]int{}
			p.set(func(sql string) fate {
				table, ok := strings.CutPrefix(sql, "INSERT INTO ")
				if !ok {
					return pass
				}
				table, _, _ = strings.Cut(table, " ")
				if n[table]++; n[table] <= lost && (lost == 1 || table == "samples") {
					return drop
				}
				return pass
			})
			db := openStore(t, fs, back)
			all := uploads(t, db, uint64(lost), 40)
			drained(t, db)
			if n["samples"] <= lost || n["blocks"] == 0 {
				t.Errorf("inserts: %v", n)
			}
			compare(t, db, all)
			if st := back.Stats(); st.Blocks == 0 || st.Profiles == 0 || st.Bytes == 0 || st.Retries == 0 || (st.PutFailed > 0) != (lost > 1) {
				t.Errorf("%+v", st)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCutShort: a process ends after any number of inserts, for ever; the next one puts the block again.
func TestCutShort(t *testing.T) {
	clickhousetest.Addr(t)
	for after := range 8 {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			name, url := newDatabase(t)
			p := newProxy(t)
			fs := vfs.NewMem()
			back := openBackend(t, fs, clickhousetest.URL(p.addr, name), trusting)
			left := after
			var refused atomic.Int32
			p.set(func(sql string) fate {
				if !strings.HasPrefix(sql, "INSERT") {
					return pass
				}
				if left--; left < 0 {
					refused.Add(1)
					return refuse
				}
				return pass
			})
			db := openStore(t, fs, back)
			all := uploads(t, db, 1, 40)
			for range 30_000 {
				if back.Stats().PutFailed > 0 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			compare(t, db, all) // what is half there is not asked
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			if refused.Load() == 0 {
				t.Fatal("nothing was refused")
			}
			db = openStore(t, fs, openBackend(t, fs, url, careful))
			drained(t, db)
			compare(t, db, all)
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// spy damages what was put, and puts it again as a process that does not know would.
type spy struct {
	store.Backend
	t     *testing.T
	again func() store.Backend
	harm  func(blocks string)
	done  bool
}

func (s *spy) Put(ctx context.Context, blocks []store.Staged) error {
	if err := s.Backend.Put(ctx, blocks); err == nil {
		s.t.Error("the last insert was not refused")
	}
	var ids []string
	for _, b := range blocks {
		ids = append(ids, "'"+b.Meta.ULID.String()+"'")
	}
	s.harm("block IN (" + strings.Join(ids, ",") + ")")
	other := s.again()
	defer other.Close()
	s.done = true
	return other.Put(ctx, blocks)
}

// TestPartThere: of an insert that never ended, some rows are there: they are counted, removed, and sent again.
func TestPartThere(t *testing.T) {
	name, url := newDatabase(t)
	fs := vfs.NewMem()
	p := newProxy(t)
	p.set(func(sql string) fate {
		if strings.HasPrefix(sql, "INSERT INTO blocks ") {
			return refuse
		}
		return pass
	})
	s := &spy{Backend: openBackend(t, fs, clickhousetest.URL(p.addr, name), trusting), t: t, again: func() store.Backend { return openBackend(t, fs, url, careful) }}
	s.harm = func(blocks string) {
		const set = " SETTINGS mutations_sync = 2"
		clickhousetest.Query(t, name, "ALTER TABLE samples DELETE WHERE cityHash64(stack) % 2 = 0 AND "+blocks+set)
		// As a process leaves it that ends between the removal and the new insert: the server remembers the old one.
		clickhousetest.Query(t, name, "ALTER TABLE functions DELETE WHERE "+blocks+set)
	}
	db := openStore(t, fs, s)
	all := uploads(t, db, 3, 40)
	drained(t, db)
	if !s.done {
		t.Fatal("nothing was handed over")
	}
	compare(t, db, all)
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// TestAway: with the server away uploads are kept, questions say so, health turns red after a while, and all is well again by itself.
func TestAway(t *testing.T) {
	ctx := context.Background()
	name, _ := newDatabase(t)
	p := newProxy(t)
	fs := vfs.NewMem()
	var mu sync.Mutex
	now := trusting
	back, err := clickhouse.Open(ctx, clickhouse.Options{URL: clickhousetest.URL(p.addr, name), FS: fs, Retention: -1, Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	db := openStore(t, fs, back)
	p.set(func(string) fate { return trouble })
	all := uploads(t, db, 5, 40)
	for range 30_000 {
		if back.Stats().PutFailed > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := back.Healthy(); err != nil {
		t.Errorf("at once: %v", err)
	}
	mu.Lock()
	now = now.Add(3 * time.Minute)
	mu.Unlock()
	if err := back.Healthy(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "503") {
		t.Errorf("after three minutes: %v", err)
	}
	if _, err := db.Select(ctx, anything); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a question: %v", err)
	}
	p.set(func(string) fate { return pass })
	drained(t, db)
	if err := back.Healthy(); err != nil {
		t.Error(err)
	}
	compare(t, db, all)
	done, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := db.Select(done, anything); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// TestMemory: a question past its bound says so.
func TestMemory(t *testing.T) {
	_, url := newDatabase(t)
	fs := vfs.NewMem()
	db := openStore(t, fs, openBackend(t, fs, url, trusting))
	uploads(t, db, 6, 60)
	drained(t, db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	small, err := clickhouse.Open(t.Context(), clickhouse.Options{URL: url, FS: fs, QueryMemory: 1000})
	if err == nil {
		db = openStore(t, fs, small)
		_, err = db.Select(t.Context(), anything)
		db.Close()
	}
	if !errors.Is(err, store.ErrTooLarge) {
		t.Error(err)
	}
}

// TestStrangeAnswers: what is no answer is an error, soon, whatever it claims.
func TestStrangeAnswers(t *testing.T) {
	var answer string
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer srv.Close()
	url := clickhousetest.URL(strings.TrimPrefix(srv.URL, "http://"), "q")
	for _, c := range []struct {
		status int
		answer string
	}{
		{200, ""},
		{200, "<html>welcome</html>"},
		{200, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
		{200, "\x01\x09version()\x06String\xff\xff\xff\xff\x7f"},
		{200, "\x01\x09version()\x05Int64\x00\x00\x00\x00\x00\x00\x00\x00"},
		{404, "Code: 60. DB::Exception: no\nmore"},
		{418, strings.Repeat("x", 1<<20)},
	} {
		status, answer = c.status, c.answer
		db, err := clickhouse.Open(t.Context(), clickhouse.Options{URL: url})
		if err == nil {
			db.Close()
			t.Errorf("%d %.40q: no error", c.status, c.answer)
		} else if len(err.Error()) > 2000 || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), clickhousetest.Password) {
			t.Errorf("%d %.40q: %.3000s", c.status, c.answer, err)
		}
	}
}

// TestOpenErrors: what is wrong at the start is said in words that help, without the password.
func TestOpenErrors(t *testing.T) {
	name, url := newDatabase(t)
	addr := clickhousetest.Addr(t)
	for _, c := range []struct {
		url, says string
		word      error
	}{
		{"clickhouse://quantra:wrong@" + addr + "/" + name, `refuses user "quantra"`, store.ErrInvalid},
		{clickhousetest.URL(addr, "nowhere"), "CREATE DATABASE nowhere", store.ErrInvalid},
		{clickhousetest.URL("127.0.0.1:1", name), "cannot be reached", store.ErrUnavailable},
		{url + "?cluster=nowhere", `does not know the cluster "nowhere"`, store.ErrInvalid},
		{url + "?storage_policy=nowhere", `no storage policy "nowhere"`, store.ErrInvalid},
		{url + "?select.no_such_setting=1", "misspelt", store.ErrInvalid},
	} {
		_, err := clickhouse.Open(t.Context(), clickhouse.Options{URL: c.url})
		if !errors.Is(err, c.word) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "wrong@") {
			t.Errorf("%s: %v", c.says, err)
		}
	}
}

// TestMigrations: two servers at once, again, and a later program's tables.
func TestMigrations(t *testing.T) {
	name, url := newDatabase(t)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			db, err := clickhouse.Open(context.Background(), clickhouse.Options{URL: url})
			if err != nil {
				t.Error(err)
				return
			}
			db.Close()
		})
	}
	wg.Wait()
	tables := func() string {
		return clickhousetest.Query(t, name, "SELECT name, create_table_query FROM system.tables WHERE database = '"+name+"' ORDER BY name")
	}
	before := tables()
	if !strings.Contains(before, "toIntervalSecond(2592000)") {
		t.Errorf("no retention of 30 days:\n%s", before)
	}
	again, err := clickhouse.Open(t.Context(), clickhouse.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if after := tables(); after != before {
		t.Errorf("a second start changed\n%s\nto\n%s", before, after)
	}
	other, err := clickhouse.Open(t.Context(), clickhouse.Options{URL: url, Retention: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	if after := tables(); !strings.Contains(after, "toIntervalSecond(3600)") || strings.Contains(after, "2592000") {
		t.Errorf("another retention:\n%s", after)
	}
	clickhousetest.Query(t, name, "INSERT INTO schema (key, value, at) VALUES ('version', '9', now64(3))")
	if _, err := clickhouse.Open(t.Context(), clickhouse.Options{URL: url}); !errors.Is(err, store.ErrInvalid) || !strings.Contains(err.Error(), "upgrade it") {
		t.Errorf("a later version: %v", err)
	}
}

// TestRetention: ClickHouse lets go by itself, by tenant and service.
func TestRetention(t *testing.T) {
	name, url := newDatabase(t)
	fs := vfs.NewMem()
	back, err := clickhouse.Open(t.Context(), clickhouse.Options{URL: url, FS: fs, Keep: []clickhouse.Keep{{Tenant: "other", For: -1}, {Service: "s1", For: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	// Years ago: every block is put carefully, and merges take most of its rows before they are counted.
	merging, merged := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(merged)
		for {
			select {
			case <-merging:
				return
			case <-time.After(20 * time.Millisecond):
				for _, table := range []string{"samples", "profiles", "functions"} {
					clickhousetest.Query(t, name, "OPTIMIZE TABLE "+table+" FINAL")
				}
			}
		}
	}()
	db := openStore(t, fs, back)
	all := uploads(t, db, 8, 60)
	drained(t, db)
	close(merging)
	<-merged
	if st := back.Stats(); st.PutFailed > 0 {
		t.Errorf("%+v", st)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"samples", "profiles", "functions", "stacks", "series"} {
		clickhousetest.Query(t, name, "OPTIMIZE TABLE "+table+" FINAL")
	}
	left := clickhousetest.Query(t, name, "SELECT DISTINCT tenant = 'other' OR service = 's1' FROM (SELECT tenant, service FROM profiles UNION ALL SELECT tenant, service FROM samples UNION ALL SELECT tenant, service FROM functions)")
	if left != "1" && left != "true" {
		t.Errorf("what is left: %q", left)
	}
	db = openStore(t, fs, openBackend(t, fs, url, careful))
	defer db.Close()
	services, err := db.Services(t.Context(), store.Query{})
	if err != nil || len(services) == 0 {
		t.Fatal(services, err)
	}
	kept := 0
	for _, u := range all {
		if u.Tenant == "" && u.Labels.Get("service_name") == "s1" {
			kept++
		}
	}
	for _, s := range services {
		// What had not been handed over is still in the log.
		if s.Name == "s1" && s.Profiles != kept {
			t.Errorf("%d profiles of s1, want %d", s.Profiles, kept)
		}
	}
	r, err := db.Select(t.Context(), store.Query{Tenant: "other", Type: anything.Type})
	if err != nil || r.Profiles == 0 || len(r.Warnings) > 0 {
		t.Errorf("the other tenant's: %d profiles, %v, %v", r.Profiles, r.Warnings, err)
	}
}

// TestUsage: whose bytes these are.
func TestUsage(t *testing.T) {
	name, url := newDatabase(t)
	fs := vfs.NewMem()
	back := openBackend(t, fs, url, trusting)
	db := openStore(t, fs, back)
	uploads(t, db, 9, 120)
	drained(t, db)
	us, err := back.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var profiles float64
	var size int64
	for _, u := range us {
		profiles += u.Profiles
		size += u.Bytes
		if u.Class != "standard" || u.Bytes <= 0 || u.Day.IsZero() || u.Type == "" || !strings.HasPrefix(u.Service, "s") {
			t.Errorf("%+v", u)
		}
	}
	want, err := strconv.ParseFloat(clickhousetest.Query(t, name, "SELECT sum(profiles) FROM blocks"), 64)
	if err != nil || profiles < want-0.01 || profiles > want+0.01 {
		t.Errorf("%v profiles, want %v: %v", profiles, want, err)
	}
	all, err := strconv.ParseInt(clickhousetest.Query(t, name, "SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = '"+name+"' AND table != 'blocks' AND table != 'schema'"), 10, 64)
	if err != nil || size > all || size < all*9/10 {
		t.Errorf("%d bytes, of %d: %v", size, all, err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
