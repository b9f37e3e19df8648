package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// largeProfile is a CPU profile of so many stacks, 20 frames deep, that does not pack well.
func largeProfile(t testing.TB, stacks int) []byte {
	t.Helper()
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	for i := range stacks {
		stack := uint32(0)
		for depth := range 20 {
			name := fmt.Sprintf("pkg%d.Function%x", depth, uint32(i/(1+depth*3))*2654435761)
			fn := b.Function(profile.Function{Name: b.String(name), SystemName: b.String(name), File: b.String("main.go")})
			stack = b.Stack(stack, b.Location(profile.Location{}, profile.Line{Function: fn, Line: int64(depth)}))
		}
		b.Add(stack, 0, int64(i+1))
	}
	p := b.Profile()
	p.PeriodType = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	p.Period = 10_000_000
	var out bytes.Buffer
	if err := p.Encode(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// residentOf is what the kernel says of a process's memory, in bytes: "VmHWM" is the most that was resident, "RssFile" what of it is
// now mapped from files.
func residentOf(t *testing.T, pid int, field string) int64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(field + `:\s+(\d+) kB`).FindSubmatch(raw)
	if m == nil {
		t.Fatalf("no %s in %s", field, raw)
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// TestOverload has 64 clients send as fast as they can to a server with little memory: it lives, stays near its limit,
// turns away what is too much in words that a client understands, answers questions meanwhile, and after a kill -9
// has each upload that it acknowledged, once. QUANTRA_OVERLOAD=5m is the long form.
func TestOverload(t *testing.T) {
	for_ := 3 * time.Second
	if s := os.Getenv("QUANTRA_OVERLOAD"); s != "" {
		var err error
		if for_, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	const limit, clients = 256 << 20, 64
	t.Setenv("GOMEMLIMIT", fmt.Sprint(limit))
	dir := t.TempDir()
	s := mustStart(t, "--data", dir, "--no-self-profile", "--flush-every", "1s", "--tenant-rate", "0")
	// The pages of the executable are the kernel's to map and to drop, and how many of them are mapped is chance: they are not counted.
	// More come during the test, so that the peak below is an upper bound.
	var executable int64
	if runtime.GOOS == "linux" {
		executable = residentOf(t, s.cmd.Process.Pid, "RssFile")
	}
	stacks := 3000
	if underRace {
		stacks = 300
	}
	body := largeProfile(t, stacks)
	begin := time.Now().Add(-time.Hour)
	var acked, doubtful [clients]int
	var refused, other atomic.Int64
	var wrong sync.Map
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: time.Minute}
	end := time.Now().Add(for_)
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				from := begin.Add(time.Duration(i) * 10 * time.Millisecond)
				resp, err := client.Post(fmt.Sprintf("%s/api/v1/profiles?service_name=flood&client=%d&from=%d&until=%d", s.base, c, from.UnixNano(), from.Add(10*time.Millisecond).UnixNano()),
					"application/octet-stream", bytes.NewReader(body))
				if err != nil {
					doubtful[c]++
					continue
				}
				text, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				switch resp.StatusCode {
				case 200:
					acked[c]++
				case 429, 503:
					refused.Add(1)
					if resp.Header.Get("Retry-After") == "" {
						wrong.Store(fmt.Sprint(resp.StatusCode, " without Retry-After"), true)
					}
					time.Sleep(10 * time.Millisecond) // less than it asks for: that is the point
				default:
					other.Add(1)
					wrong.Store(fmt.Sprintf("%d %s", resp.StatusCode, text), true)
				}
			}
		})
	}
	var services []serviceJSON
	if err := query(s, &services, "services", "--since", "0"); err != nil {
		t.Errorf("a question meanwhile: %v", err)
	}
	group.Wait()
	select {
	case <-s.ended:
		t.Fatalf("the server ended with %d: %s", s.code, &s.stderr)
	default:
	}
	wrong.Range(func(k, _ any) bool { t.Errorf("answers: %v", k); return true })
	if runtime.GOOS == "linux" {
		// The limit is Go's to aim at, not a wall; half as much again is what a control group would have to leave it.
		peak := residentOf(t, s.cmd.Process.Pid, "VmHWM") - executable
		t.Logf("peak memory %d MiB with GOMEMLIMIT=%d MiB, beside %d MiB of the executable", peak>>20, limit>>20, executable>>20)
		if peak > limit*3/2 && !underRace {
			t.Errorf("it took %d MiB", peak>>20)
		}
	}
	if err := s.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-s.ended
	s = mustStart(t, "--data", dir, "--no-self-profile")
	var series struct {
		Lines []lineJSON `json:"lines"`
	}
	if err := query(s, &series, "series", "--since", "0", "--step", "1h", "--by", "client"); err != nil {
		t.Fatal(err)
	}
	sum, kept := 0, map[string]int{}
	for _, l := range series.Lines {
		for _, p := range l.Points {
			kept[l.Labels["client"]] += int(p.Profiles)
		}
	}
	for c := range clients {
		sum += acked[c]
		if got := kept[fmt.Sprint(c)]; got < acked[c] || got > acked[c]+doubtful[c] {
			t.Errorf("client %d has %d acknowledged uploads and %d without an answer; %d are there", c, acked[c], doubtful[c], got)
		}
	}
	if sum == 0 {
		t.Errorf("nothing was acknowledged: %s", strings.TrimSpace(s.stderr.String()))
	}
	t.Logf("%d acknowledged, %d turned away in %v", sum, refused.Load(), for_)
}
