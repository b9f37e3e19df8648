// Package clickhousetest starts a real ClickHouse for tests: libchdb, which is ClickHouse as a library,
// behind as much of its HTTP interface as a client needs: the statement in the URL or the body, settings as
// parameters, files that come along as temporary tables, errors with their code.
//
// CHDB_LIB_PATH names libchdb.so (npm package chdb has it). It runs in a child, which is the test's own program
// again, as libchdb brings its own signal handlers and allocator: a TestMain that calls [Main] first makes that
// possible. The child ends when its standard input does, so with the test, however that ends.
package clickhousetest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// TB is what is used of testing.TB, so that no production build has package testing.
type TB interface {
	Helper()
	Cleanup(func())
	Context() context.Context
	Skip(args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// User and Password are whom the server lets in.
const User, Password = "quantra", "s3cret/%41"

const childDir = "QUANTRA_TEST_CLICKHOUSE"

// Main does not return in a child that is to be the server.
func Main() {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	if err := serve(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(dir string) (err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	e, err := loadEngine(os.Getenv("CHDB_LIB_PATH"), filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	srv := &http.Server{Handler: &server{engine: e, dir: dir}}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is what counts
		_ = srv.Close()
	}()
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// server is ClickHouse's HTTP interface, one statement at a time.
type server struct {
	mu       sync.Mutex
	engine   *engine
	dir      string
	database string
}

var code = regexp.MustCompile(`^Code: (\d+)`)

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, msg := s.handle(r)
	if msg == "" {
		_, _ = w.Write(out) // a client that went away is the client's matter
		return
	}
	status, number := http.StatusInternalServerError, "0"
	if m := code.FindStringSubmatch(msg); m != nil {
		number = m[1]
	}
	switch number {
	case "516", "497":
		status = http.StatusForbidden
	case "60", "81", "47":
		status = http.StatusNotFound
	}
	w.Header().Set("X-ClickHouse-Exception-Code", number)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, msg+"\n")
}

// own are parameters that are no settings, or that this server sees to itself.
var own = map[string]bool{"query": true, "query_id": true, "default_format": true, "database": true, "wait_end_of_query": true, "readonly": true, "cancel_http_readonly_queries_on_client_close": true}

func (s *server) handle(r *http.Request) ([]byte, string) {
	if r.Header.Get("X-ClickHouse-User") != User || r.Header.Get("X-ClickHouse-Key") != Password {
		return nil, fmt.Sprintf("Code: 516. DB::Exception: %s: Authentication failed: password is incorrect, or there is no user with such name. (AUTHENTICATION_FAILED)", r.Header.Get("X-ClickHouse-User"))
	}
	q := r.URL.Query()
	if name := q.Get("database"); name != "" && name != s.database {
		if _, msg := s.engine.run("USE `"+name+"`", "Null"); msg != "" {
			return nil, msg
		}
		s.database = name
	}
	for name := range q {
		if own[name] || strings.HasPrefix(name, "_") {
			continue
		}
		defer s.engine.run("SET "+name+" = DEFAULT", "Null")
		if _, msg := s.engine.run(fmt.Sprintf("SET %s = '%s'", name, strings.ReplaceAll(q.Get(name), "'", "\\'")), "Null"); msg != "" {
			return nil, msg
		}
	}
	sql := q.Get("query")
	if kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && kind == "multipart/form-data" {
		names, msg := s.tables(multipart.NewReader(r.Body, params["boundary"]), q)
		for _, name := range names {
			defer s.engine.run("DROP TEMPORARY TABLE IF EXISTS "+name, "Null")
		}
		if msg != "" {
			return nil, msg
		}
	} else {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err.Error()
		}
		sql += string(body)
	}
	if q.Get("readonly") != "" && !strings.HasPrefix(sql, "SELECT ") {
		return nil, "Code: 164. DB::Exception: Cannot execute query in readonly mode. (READONLY)"
	}
	return s.engine.run(sql, q.Get("default_format"))
}

// tables makes temporary tables of the files that come along.
func (s *server) tables(parts *multipart.Reader, q url.Values) (names []string, msg string) {
	for {
		p, err := parts.NextPart()
		if err == io.EOF {
			return names, ""
		} else if err != nil {
			return names, err.Error()
		}
		name := p.FormName()
		f, err := os.CreateTemp(s.dir, "table")
		if err != nil {
			return names, err.Error()
		}
		_, err = io.Copy(f, p)
		if e := f.Close(); err == nil {
			err = e
		}
		if err != nil {
			return names, err.Error()
		}
		defer os.Remove(f.Name())
		structure := strings.ReplaceAll(q.Get(name+"_structure"), "'", "\\'")
		if _, msg := s.engine.run(fmt.Sprintf("CREATE TEMPORARY TABLE %s AS SELECT * FROM file('%s', '%s', '%s')", name, f.Name(), q.Get(name+"_format"), structure), "Null"); msg != "" {
			return names, msg
		}
		names = append(names, name)
	}
}

// running is the one server of all tests of a program.
var running struct {
	once sync.Once
	err  error
	addr string
	in   io.WriteCloser // the child ends when this is closed, with this process at the latest

	mu        sync.Mutex
	databases int
}

func start() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "quantra-clickhouse-")
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	if running.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		return fmt.Errorf("the child said nothing: %w", err)
	}
	running.addr = strings.TrimSpace(addr)
	return nil
}

// Addr is where ClickHouse listens, host:port. The test is skipped where there is none; in CI it fails.
func Addr(t TB) string {
	t.Helper()
	if os.Getenv("CHDB_LIB_PATH") == "" {
		const what = "CHDB_LIB_PATH does not name libchdb.so (npm package chdb): nothing is held to ClickHouse"
		if os.Getenv("QUANTRA_CI") != "" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	running.once.Do(func() { running.err = start() })
	if running.err != nil {
		t.Fatal(running.err)
	}
	return running.addr
}

// Query runs a statement in a database, and is its answer as lines of values that tabs part.
func Query(t TB, database, statement string) string {
	t.Helper()
	u := url.URL{Scheme: "http", Host: Addr(t), Path: "/", RawQuery: url.Values{"database": {database}, "default_format": {"TabSeparated"}}.Encode()}
	// Not the test's context: clean-up comes after it has ended.
	req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodPost, u.String(), strings.NewReader(statement))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-ClickHouse-User", User)
	req.Header.Set("X-ClickHouse-Key", Password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s\n%s %v", statement, b, err)
	}
	return strings.TrimSuffix(string(b), "\n")
}

// Database makes an empty database, which goes with the test.
func Database(t TB) (name string) {
	t.Helper()
	Addr(t)
	running.mu.Lock()
	running.databases++
	name = fmt.Sprintf("q%d", running.databases)
	running.mu.Unlock()
	Query(t, "default", "CREATE DATABASE "+name)
	t.Cleanup(func() { Query(t, "default", "DROP DATABASE "+name) })
	return name
}

// URL is that of a database, at host:port, with the password in it.
func URL(addr, database string) string {
	return (&url.URL{Scheme: "clickhouse", User: url.UserPassword(User, Password), Host: addr, Path: "/" + database}).String()
}
