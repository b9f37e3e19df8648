package main

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestDiffServer: versions, ranges and a branch's file against the server's profiles; what each costs; and what is not there.
func TestDiffServer(t *testing.T) {
	s := mustStart(t, "--no-self-profile", "--data", t.TempDir())
	dir := t.TempDir()
	profileOf := func(name string, evict int) string {
		rows := [][]any{{"shop.(*Cache).evict", "cache.go", 70, evict}}
		for f := range 12 {
			rows = append(rows, []any{fmt.Sprintf("shop.f%d", f), "shop.go", 10*f + 1, 80 + f*len(name)})
		}
		return gateProfile(t, filepath.Join(dir, name), rows...)
	}
	// Half an hour ago v1 ran alone, with 20 samples of 1443 or so in evict; now v2 runs beside it, with 400 more.
	now := time.Now()
	send := func(version, instance string, at time.Time, evict int) {
		t.Helper()
		body, err := os.ReadFile(profileOf("sent.pb", evict))
		if err != nil {
			t.Fatal(err)
		}
		q := url.Values{"name": {"process_cpu"}, "service_name": {"shop"}, "service_version": {version}, "service_instance_id": {instance}, "region": {"eu"},
			"from": {fmt.Sprint(at.Add(-10 * time.Second).UnixNano())}, "until": {fmt.Sprint(at.UnixNano())}}
		if code, err := push(s.base, q.Encode(), body); err != nil || code/100 != 2 {
			t.Fatalf("%d %v", code, err)
		}
	}
	for i, evict := range []int{20, 22, 21} {
		send("v1", fmt.Sprintf("a%d", i), now.Add(-30*time.Minute), evict)
		send("v1", fmt.Sprintf("a%d", i), now.Add(-time.Minute), evict+1)
		send("v2", fmt.Sprintf("b%d", i), now.Add(-time.Minute), 400+evict)
	}
	branch := profileOf("head.pb", 410)
	quiet := profileOf("same.pb", 21)
	prices := filepath.Join(dir, "prices.yaml")
	if err := os.WriteFile(prices, []byte("currency: EUR\nhours_a_month: 100\ndefault:\n  core_hour: 9\nrules:\n  - region: eu\n    core_hour: 1\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		code int
		args string
		want []string // regular expressions, of both streams
	}{
		{"versions", exitGate, "diff -s shop --base v1 --head v2 --fail-on 15%", []string{`(?m)^v1 -> v2: fails: .shop\.\(\*Cache\)\.evict. rose from [12]\.[0-9] % to 2[0-9]\.[0-9] % of shop's CPU \(95 % interval .* points, 3 and 3 instances\)`}},
		{"the way back", exitOK, "diff -s shop --base v2 --head v1 --fail-on 2%", []string{"passes: nothing is above 2%"}},
		// Three instances of 1444 samples of 10 ms in 10 s are 4.33 cores, of 1843 5.53; of these 9.86 cores 400 of 1843 are new, at 100 a month.
		{"money", exitGate, "diff -s shop --base v1 --head v2 --since 5m --fail-on 150eur --price " + prices, []string{`cost: of 9\.8[0-9]* cores of the service; 1 EUR a core-hour \(eu\), 100 h a month`, `\+2[0-9][0-9] \(`}},
		{"a matcher", exitGate, `diff -s shop --base service_version="v1" --head service_version="v2" --fail-on 15%`, []string{"fails"}},
		{"ranges", exitOK, "diff -s shop -m service_version=\"v1\" --base now-40m..now-20m --head now-20m..now --fail-on 5%", []string{"passes", `now-40m\.\.now-20m \(3 instances`}},
		{"a branch's file", exitGate, "diff -s shop --base v1 --head " + branch + " --fail-on 15%", []string{"fails", `head\.pb \(1 instance`, "is one replicate: it is taken to differ as much as those of the other side do", `cost: of 4\.3[0-9]* cores of the service`}},
		{"a branch that changed nothing", exitOK, "diff -s shop --base v1 --head " + quiet + " --fail-on 5%", []string{"passes"}},
		{"no such version", exitUndecided, "diff -s shop --base v1 --head v3 --fail-on 2%", []string{"nothing to compare: v3: there are no profiles that match"}},
		{"no such service", exitUndecided, "diff -s nosuch --base v1 --head v2", []string{"nothing to compare"}},
		{"another type", exitFailed, "diff -s shop --base v1 --head v2 -t heap", []string{`no profile of type "heap" here`}},
		{"no server", exitUnavailable, "diff -s shop --base v1 --head v2 --server http://127.0.0.1:1", []string{"no server answers"}},
		{"a range that ends before it begins", exitUsage, "diff -s shop --base now-1h..now-2h --head v2", []string{"ends .* before it begins"}},
		{"cost of services", exitOK, "cost --since 5m --price " + prices, []string{`(?m)^shop +6 +9\.86[0-9]+ +986\.[0-9] +986\.[0-9]+ EUR$`, "1 EUR a core-hour \\(eu\\), 100 h a month", `profiling itself, a month: the server [0-9.]+ EUR .*network [0-9.]+ EUR.*kept: not counted`}},
		{"cost of functions", exitOK, "cost -s shop --since 5m -n 3 --price " + prices, []string{`100\.0 % +9\.86[0-9]+ +0\.0000 .* EUR +main\.main`, `[0-9.]+ % +1\.[0-9]+ +1\.[0-9]+ .*evict`, "and 11 more"}},
		{"prices are checked", exitOK, "cost --check " + prices, []string{"is a price file: EUR, 100 hours a month, 1 rules", `(?m)^eu +- +- +1 +0 +100\.00$`}},
		{"no price file", exitFailed, "cost --check " + prices + "x", []string{"no such file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			args := strings.Fields(c.args)
			if !strings.Contains(c.args, "--server") {
				args = append(args, "--server", s.base)
			}
			if !strings.Contains(c.args, "--since") {
				args = append(args, "--since", "1h")
			}
			if code := run(context.Background(), args, strings.NewReader(""), &out, &out); code != c.code {
				t.Errorf("code %d, want %d: %s", code, c.code, &out)
			}
			for _, want := range c.want {
				if !regexp.MustCompile(want).MatchString(out.String()) {
					t.Errorf("no %s in:\n%s", want, &out)
				}
			}
		})
	}
}
