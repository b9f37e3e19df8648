package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/store/clickhouse/clickhousetest"
)

// TestClickHouse: a server with ClickHouse behind it keeps what it acknowledged through kill -9, hands it over, and
// says whose bytes they are.
func TestClickHouse(t *testing.T) {
	database := clickhousetest.Database(t)
	addr := clickhousetest.Addr(t)
	t.Setenv(clickhousePassword, clickhousetest.Password)
	where := "clickhouse://" + clickhousetest.User + "@" + addr + "/" + database
	dir := t.TempDir()
	start := func() *server {
		s, err := startServer("--data", dir, "--no-self-profile", "--clickhouse", where, "--flush-every", "1s")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.stop(os.Kill) })
		return s
	}
	s := start()
	if !strings.Contains(s.ready, "ClickHouse   "+addr+"/"+database) {
		t.Errorf("ready: %s", s.ready)
	}
	if _, err := os.Stat(filepath.Join(dir, controlDB)); err != nil {
		t.Errorf("there is no control database: %v", err)
	}
	at := time.Now().Add(-time.Minute)
	var want int64
	for i := range int64(30) {
		v := (i + 1) * int64(time.Second)
		if code, err := push(s.base, "service_name=shop", testProfile(t, v, at.Add(time.Duration(i)*time.Second))); code/100 != 2 || err != nil {
			t.Fatal(code, err)
		}
		want += v
		if i == 20 {
			if _, err := s.stop(os.Kill); err != nil {
				t.Fatal(err)
			}
			s = start()
		}
	}
	total := func() (n int64, err error) {
		var series struct {
			Lines []lineJSON `json:"lines"`
		}
		if err := query(s, &series, "series", "--since", "1h", "--step", "1m"); err != nil {
			return 0, err
		}
		for _, l := range series.Lines {
			for _, pt := range l.Points {
				n += int64(pt.Value)
			}
		}
		return n, nil
	}
	eventually(t, "what was sent", func() (bool, error) { n, err := total(); return n == want, err })
	eventually(t, "all is in ClickHouse", func() (bool, error) {
		return clickhousetest.Query(t, database, "SELECT sum(profiles) FROM blocks") == "30", nil
	})
	if n, err := total(); n != want || err != nil {
		t.Errorf("a total of %d, want %d: %v", n, want, err)
	}
	if code, err := s.stop(os.Interrupt); code != exitOK || err != nil {
		t.Errorf("ended with %d, %v", code, err)
	}
	var stdout, stderr bytes.Buffer
	if code := run(context.Background(), []string{"store", "usage", "--clickhouse", where, "--by", "service,class"}, nil, &stdout, &stderr); code != exitOK || !strings.Contains(stdout.String(), "standard") {
		t.Errorf("usage ended with %d: %s%s", code, &stdout, &stderr)
	}
	for args, says := range map[string]string{
		"up --clickhouse clickhouse://u:secret@h/d":             "CLICKHOUSE_PASSWORD",
		"up --clickhouse clickhouse://h/d --bucket file:///tmp": "give one",
		"store usage --clickhouse " + where + "x":               "CREATE DATABASE",
	} {
		stderr.Reset()
		if code := run(context.Background(), strings.Fields(args), nil, &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), says) || strings.Contains(stderr.String(), "secret") {
			t.Errorf("%s: ended with %d: %s", args, code, &stderr)
		}
	}
}
