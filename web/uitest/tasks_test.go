package uitest

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/ingest/console"
	"github.com/quantra-l/quantra/profile"
	consolev1 "github.com/quantra-l/quantra/wire/console/v1"
	"github.com/quantra-l/quantra/wire/console/v1/consolev1connect"
)

// rustProgram answers as a program with console-subscriber: what a real one sent is all that it sends.
type rustProgram struct {
	consolev1connect.UnimplementedInstrumentHandler
	update *consolev1.Update
}

func (p *rustProgram) WatchUpdates(ctx context.Context, _ *connect.Request[consolev1.InstrumentRequest], s *connect.ServerStream[consolev1.Update]) error {
	if err := s.Send(p.update); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// tasksOf are the routes of what the tasks of programs do, which are named as service and instance in turn.
func tasksOf(t *testing.T, names ...string) map[string]http.Handler {
	t.Helper()
	w, err := console.New(console.Options{Append: func(context.Context, console.Profile) error { return nil }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if len(names) > 0 {
		raw, err := os.ReadFile("../../ingest/console/testdata/rust-1.update")
		if err != nil {
			t.Fatal(err)
		}
		p := &rustProgram{update: &consolev1.Update{}}
		if err := proto.Unmarshal(raw, p.update); err != nil {
			t.Fatal(err)
		}
		_, h := consolev1connect.NewInstrumentHandler(p)
		srv := httptest.NewUnstartedServer(h)
		srv.Config.Protocols = &http.Protocols{}
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
		srv.Start()
		ctx, cancel := context.WithCancel(context.Background())
		var wait sync.WaitGroup
		t.Cleanup(func() { cancel(); wait.Wait(); srv.Close() })
		for i := 0; i < len(names); i += 2 {
			labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: names[i]}, profile.Label{Name: profile.LabelInstance, Value: names[i+1]})
			if err != nil {
				t.Fatal(err)
			}
			wait.Go(func() {
				w.Watch(ctx, console.Target{Labels: labels, URL: srv.URL, Interval: time.Hour}, func(bool, error) {})
			})
		}
	}
	h := w.Handler(func(*http.Request) (string, error) { return "", nil })
	return map[string]http.Handler{console.ProgramsPath: h, console.ProgramsPath + "/": h}
}

// TestTasksAreShown: a Rust program stands beside Go's on the page of goroutines: its tasks by where they were spawned, what they wait for, what
// is wrong with them, and nothing that only an agent could do.
func TestTasksAreShown(t *testing.T) {
	programs := bookOf()
	programs.rust = []string{"gateway", "gateway-1"}
	s := withAgents(t, openStore(t), fleet.Options{}, programs)
	scripted("checkout", "v1", "checkout-v1-0").run(t, s.URL)
	b := open(t, s.URL)
	b.visit("/live?service=gateway")
	b.until(`[...document.querySelectorAll(".g-row")].some((x) => x.textContent.includes("never-yields"))`)
	b.until(`/1\d\d tasks in/.test(` + text(".facts") + `) && /as the program tells/.test(` + text(".facts") + `)`)
	b.until(`/1 task leaked: nothing can wake it/.test(document.body.innerText) && /1 task wakes itself most of the time/.test(document.body.innerText)`)
	b.until(`!/Execution trace|goroutines in|Agent\b/.test(` + text(".live-page") + `)`)
	b.click(".g-row", "waits-for-permit")
	b.until(`/3 tasks/.test(` + text(".chosen") + `) && /busy .*scheduled .*idle /.test(` + text(".chosen") + `) && /tokio::spawn|spawn at main.rs/.test(` + text(".chosen") + `)`)
	b.visit("/live?service=checkout")
	b.until(`/goroutines in/.test(` + text(".facts") + `)`)
	b.quiet()
}
