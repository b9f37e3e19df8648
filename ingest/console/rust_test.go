package console

import (
	"bytes"
	"context"
	"flag"
	"fmt"

	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/ingest/clienttest"
	"github.com/quantra-l/quantra/profile"
	consolev1 "github.com/quantra-l/quantra/wire/console/v1"
	"github.com/quantra-l/quantra/wire/console/v1/consolev1connect"
)

var record = flag.Bool("record", false, "write updates of the real program to testdata, as seeds of FuzzApply")

// freePort is an address that nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startRust starts the program of ingest/clients/rust-console; stop ends it, and is called when the test ends, too.
func startRust(t *testing.T, address string) (stop func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), clienttest.Need(t, "QUANTRA_RUST_CONSOLE", "the program of ingest/clients/rust-console"), address)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Errorf("the program ended with %v\n%s", err, &out)
		}
	})
	t.Cleanup(stop)
	return stop
}

// inProgram are the tasks of the program, with what is wrong with each.
var inProgram = map[string]string{
	"wakes-itself": SelfWakes, "never-yields": NeverYielded, "lost-waker": LostWaker, "large": LargeFuture, "boxed": AutoBoxed,
	"waits-for-permit": "", "spawns": "", "blocking": "",
}

// warnings are the codes of a program's tasks by their names, those of one name together.
func warnings(tasks []Task) map[string]string {
	out := map[string]string{}
	for _, task := range tasks {
		if task.Name == "short" { // it comes and goes
			continue
		}
		out[task.Name] += ""
		for _, w := range task.Warnings {
			out[task.Name] += w.Code
		}
	}
	return out
}

// TestRust: a real program with tokio and console-subscriber is watched, each task that is planted in it is seen for what it is and no other, its
// profile says where its time goes, and when it ends and is started anew it is watched anew.
func TestRust(t *testing.T) {
	address := freePort(t)
	stop := startRust(t, address)
	var mu sync.Mutex
	sums := map[string]map[string]int64{} // of profiles' columns by function
	keep := func(_ context.Context, p Profile) error {
		decoded, err := profile.DecodeBytes(p.Pprof, profile.Limits{})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, typ := range decoded.SampleTypes {
			if sums[typ.Type] == nil {
				sums[typ.Type] = map[string]int64{}
			}
			for name, v := range column(t, decoded, typ.Type) {
				sums[typ.Type][name] += v
			}
		}
		return nil
	}
	w, _ := watched(t, Options{Append: keep, Backoff: 50 * time.Millisecond}, map[string]string{"rust": "http://" + address})
	list := func() []Task {
		p := w.of("", "rust")[0]
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.model == nil {
			return nil
		}
		check(t, p.model)
		return p.model.list(maxShown)
	}
	want := maps.Clone(inProgram)
	want[""] = "" // the hundred that sleep
	var tasks []Task
	until(t, "each task is seen for what it is", func() bool {
		tasks = list()
		return maps.Equal(warnings(tasks), want)
	})
	sleeping, id := 0, uint64(0)
	for _, task := range tasks {
		if task.Name == "" && task.State == stateIdle && len(task.Waits) > 0 && strings.Contains(task.Waits[0], "Sleep") {
			sleeping++
		}
		if task.Name == "wakes-itself" {
			id = task.ID
		}
		if task.Name == "waits-for-permit" && (len(task.Waits) == 0 || !strings.Contains(strings.Join(task.Waits, " "), "Semaphore::acquire")) {
			t.Errorf("it waits for a permit of a semaphore, and not for %v", task.Waits)
		}
	}
	if sleeping != 100 {
		t.Errorf("%d tasks sleep, want 100", sleeping)
	}
	d, err := w.details(t.Context(), w.of("", "rust")[0], id)
	if err != nil || d.Polls == nil || d.Scheduled == nil || d.Polls.Count < 20 || d.Polls.P50 == 0 || d.Polls.Max < d.Polls.P99 || d.Task.Name != "wakes-itself" {
		t.Errorf("details: %+v, %v", d, err)
	}
	until(t, "profiles say where time goes", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return sums["busy"]["never-yields"] > int64(time.Second) && sums["self_wakes"]["wakes-itself"] > 100 && sums["spawned"]["short"] > 3 && sums["ended"]["short"] > 3 && sums["tasks"]["lost-waker"] > 0
	})
	h := w.Handler(func(*http.Request) (string, error) { return "", nil })
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", SnapshotPath+"?service=rust", nil))
	if body := rec.Body.String(); rec.Code != 200 || !strings.Contains(body, `"leaked":1`) || !strings.Contains(body, `"count":100`) {
		t.Errorf("%d %s", rec.Code, body)
	}
	if *record {
		recordUpdates(t, w)
	}
	stop()
	until(t, "it is gone, and so is what was known of it", func() bool { p := one(t, w, "rust"); return !p.Online && p.Tasks == 0 && w.held.used.Load() == 0 })
	startRust(t, address)
	until(t, "it is watched anew", func() bool { return one(t, w, "rust").Tasks > 100 })
	clienttest.Record(t, clienttest.Row{Protocol: "tokio-console", Client: "console-subscriber (Rust)", Version: "0.5.0",
		Sent: fmt.Sprintf("%d tasks of tokio 1.47.1 with their resources and operations: WatchUpdates, WatchTaskDetails", len(tasks)),
		Seen: "each planted task with its one warning (self-wakes, never-yielded, lost-waker, large-future, auto-boxed), what tasks wait for, poll times, profiles by place, a restart"})
}

// recordUpdates writes the first updates of a connection of its own, and details of a task. Where cargo is on this machine is not in them.
func recordUpdates(t *testing.T, w *Watcher) {
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) {
		b = bytes.ReplaceAll(b, []byte(home+"/"), []byte("/"+strings.Repeat("h", len(home)-1)+"/"))
		if err := os.WriteFile(filepath.Join("testdata", name+".update"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := w.of("", "rust")[0]
	s, err := watchStream(ctx, w, p, consolev1connect.InstrumentWatchUpdatesProcedure, &consolev1.InstrumentRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := range 3 {
		if !s.Receive() {
			t.Fatal(s.Err())
		}
		write(fmt.Sprint("rust-", i+1), s.Msg().b)
	}
	p.mu.Lock()
	var id uint64
	for _, task := range p.model.tasks {
		if task.site.name == "wakes-itself" {
			id = task.id
		}
	}
	p.mu.Unlock()
	d, err := watchStream(ctx, w, p, consolev1connect.InstrumentWatchTaskDetailsProcedure, &consolev1.TaskDetailsRequest{Id: &consolev1.Id{Id: id}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if !d.Receive() {
		t.Fatal(d.Err())
	}
	write("rust-details", d.Msg().b)
}
