package web

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/ingest/clienttest"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	querierv1 "github.com/quantra-l/quantra/wire/querier/v1"
)

// TestGrafanaClient: the published client of Pyroscope's API asks what Grafana asks, of a full store and an empty one.
func TestGrafanaClient(t *testing.T) {
	program := clienttest.Need(t, "QUANTRA_GRAFANA_CLIENT", "the client in ingest/clients/grafana, built")
	ask := func(url, selector, total string) []string {
		out, err := exec.CommandContext(t.Context(), program, url, apiCPU, selector, fmt.Sprint(apiRange[0]), fmt.Sprint(apiRange[1]), total).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	db, err := store.Open(t.Context(), t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ask(apiServer(t, func(o *Options) { o.Store = db }).URL, "{}", "0")
	lines := ask(apiServer(t, nil).URL, `{service_name="checkout"}`, "6810")
	if len(lines) != 15 { // five steps in three protocols
		t.Fatal(lines)
	}
	build, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(build.Deps, func(m *debug.Module) bool { return m.Path == "github.com/grafana/pyroscope/api" })
	if i < 0 {
		t.Fatal("the client is not built from Pyroscope's API")
	}
	clienttest.Record(t, clienttest.Row{Protocol: "querier.v1 (Grafana)", Client: "Pyroscope API for Go, as Grafana's data source and Drilldown call it", Version: build.Deps[i].Version,
		Sent: "types, labels, series, flame graph, heat map, pprof and difference, by Connect, JSON and gRPC-Web", Seen: strings.TrimPrefix(lines[2], "Connect: ")})
}

// TestGrafanaFiles: what deploy/grafana asks is what the server answers, and the dashboard's data source is the one that is provisioned.
func TestGrafanaFiles(t *testing.T) {
	folder := filepath.Join("..", "deploy", "grafana")
	raw, err := os.ReadFile(filepath.Join(folder, "dashboards", "service.json"))
	if err != nil {
		t.Fatal(err)
	}
	type source struct{ Type, UID string }
	var board struct {
		UID        string
		Templating struct {
			List []struct {
				Name       string
				Datasource source
				Query      struct{ Type, ProfileTypeID, LabelName string }
			}
		}
		Panels []struct {
			ID         int
			Title      string
			Datasource source
			Targets    []struct {
				Datasource                              source
				QueryType, ProfileTypeID, LabelSelector string
				GroupBy                                 []string
			}
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	provisioned, err := os.ReadFile(filepath.Join(folder, "provisioning", "datasources", "quantra.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := source{"grafana-pyroscope-datasource", "quantra"}
	if s := string(provisioned); !strings.Contains(s, "uid: "+want.UID+"\n") || !strings.Contains(s, "type: "+want.Type+"\n") {
		t.Errorf("the provisioned data source is not %v", want)
	}
	c := grafanaClients(apiServer(t, nil).URL)["json"]
	seen := 0
	for _, p := range board.Panels {
		for _, q := range p.Targets {
			seen++
			if p.Datasource != want || q.Datasource != want {
				t.Errorf("%s: data source %v", p.Title, q.Datasource)
			}
			if _, err := profile.ParseType(q.ProfileTypeID); err != nil {
				t.Errorf("%s: %v", p.Title, err)
			}
			selector := strings.ReplaceAll(q.LabelSelector, "$service", "checkout")
			switch q.QueryType {
			case "profile":
				_, err = c.SelectMergeStacktraces(t.Context(), connect.NewRequest(&querierv1.SelectMergeStacktracesRequest{ProfileTypeID: q.ProfileTypeID, LabelSelector: selector}))
			case "metrics":
				_, err = c.SelectSeries(t.Context(), connect.NewRequest(&querierv1.SelectSeriesRequest{ProfileTypeID: q.ProfileTypeID, LabelSelector: selector, GroupBy: q.GroupBy, Step: 15}))
			default:
				err = fmt.Errorf("queryType %q is not the data source's", q.QueryType)
			}
			if err != nil {
				t.Errorf("%s: %v", p.Title, err)
			}
		}
	}
	if seen < 5 || len(board.Templating.List) != 1 || board.Templating.List[0].Datasource != want {
		t.Errorf("%d queries, variables %v: the test shows nothing", seen, board.Templating.List)
	}
}
