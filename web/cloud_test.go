package web

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/api/cloudprofiler/v2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"

	"github.com/quantra-l/quantra/ingest/clienttest"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	cloudv2 "github.com/quantra-l/quantra/wire/cloudprofiler/v2"
)

// cloudServer is a server over a store with n CPU profiles of project p-1, of which every third begins when the one before does, a heap profile, and
// one of another project.
func cloudServer(t *testing.T, n int, change func(*Options)) string {
	t.Helper()
	srv := apiServer(t, func(o *Options) {
		add := func(name, project string, p *profile.Profile, from time.Time) {
			ls, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "shop"}, profile.Label{Name: profile.LabelVersion, Value: "v9"},
				profile.Label{Name: profile.LabelInstance, Value: "vm-1"}, profile.Label{Name: "cloud_availability_zone", Value: "a"},
				profile.Label{Name: "process_runtime_name", Value: "go"}, profile.Label{Name: "team", Value: "cart"}, profile.Label{Name: labelProject, Value: project})
			if err == nil {
				err = o.Store.Append(t.Context(), store.Upload{Name: name, Labels: ls, From: from, To: from.Add(10 * time.Second), Pprof: p.AppendPprof(nil), Profile: p})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			add("process_cpu", "p-1", apiProfile(int64(i+1)), apiNow.Add(-time.Hour+time.Duration(i-i%3/2)*time.Minute))
		}
		add("memory", "p-1", heapOf(100, 7000), apiNow.Add(-2*time.Hour))
		add("process_cpu", "p-2", apiProfile(1), apiNow.Add(-time.Hour))
		if change != nil {
			change(o)
		}
	})
	return srv.URL
}

// TestCloudList: Google's client library for Go lists profiles page by page, each once and in order, with its bytes.
func TestCloudList(t *testing.T) {
	const n = 20
	url := cloudServer(t, n, nil)
	c, err := cloudprofiler.NewService(t.Context(), option.WithEndpoint(url), option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	var all []*cloudprofiler.Profile
	pages := 0
	if err := c.Projects.Profiles.List("projects/p-1").PageSize(7).Pages(t.Context(), func(r *cloudprofiler.ListProfilesResponse) error {
		pages++
		if len(r.Profiles) > 7 || r.SkippedProfiles != 0 {
			t.Errorf("a page of %d profiles, %d skipped", len(r.Profiles), r.SkippedProfiles)
		}
		all = append(all, r.Profiles...)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(all) != n+1 || pages != 3 {
		t.Fatalf("%d profiles on %d pages", len(all), pages)
	}
	total := int64(0)
	for i, p := range all {
		if i > 0 && (p.StartTime < all[i-1].StartTime || p.Name == all[i-1].Name) {
			t.Errorf("%s at %s comes after %s at %s", p.Name, p.StartTime, all[i-1].Name, all[i-1].StartTime)
		}
		b, err := base64.StdEncoding.DecodeString(p.ProfileBytes)
		if err != nil {
			t.Fatal(err)
		}
		got, err := profile.DecodeBytes(b, profile.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if len(got.SampleTypes) != 2 || got.Total(0) != 100 || got.Total(1) != 7000 || p.ProfileType != "HEAP" {
				t.Errorf("heap: %s, %v", p.ProfileType, got.SampleTypes)
			}
			continue
		}
		total += got.Total(0)
		if p.ProfileType != "CPU" || p.Duration != "10s" || got.DurationNanos != int64(10*time.Second) || !strings.HasPrefix(p.Name, "projects/p-1/profiles/") {
			t.Errorf("%+v", p)
		}
		if d := p.Deployment; d.ProjectId != "p-1" || d.Target != "shop" || fmt.Sprint(d.Labels) != "map[language:go version:v9 zone:a]" || fmt.Sprint(p.Labels) != "map[instance:vm-1 team:cart]" {
			t.Errorf("%+v of %+v", p.Labels, d)
		}
	}
	if total != n*970+n*(n+1)/2 { // 970 is of the other functions
		t.Errorf("the profiles have %d in sum", total)
	}
	clienttest.Record(t, clienttest.Row{Protocol: "Google Cloud Profiler ListProfiles (JSON)", Client: "google.golang.org/api/cloudprofiler/v2", Version: apiVersion(t),
		Sent: "pages of 7 of a project", Seen: "each profile once, oldest first, with kind, deployment, labels, times and pprof bytes"})
	if r, err := c.Projects.Profiles.List("projects/-").Do(); err != nil || len(r.Profiles) != n+2+6 || r.NextPageToken != "" {
		t.Errorf("of all projects: %v", err)
	}
	if r, err := c.Projects.Profiles.List("projects/none").Do(); err != nil || len(r.Profiles) != 0 || r.NextPageToken != "" {
		t.Errorf("of no project: %v, %v", r, err)
	}
}

// apiVersion is the version of Google's client libraries that go.mod has.
func apiVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "google.golang.org/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// cloudCalls is the client of a call, by protocol.
func cloudCalls(url string) map[string]*connect.Client[cloudv2.ListProfilesRequest, cloudv2.ListProfilesResponse] {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	http2 := &http.Client{Transport: &http.Transport{Protocols: protocols}}
	of := func(o connect.ClientOption) *connect.Client[cloudv2.ListProfilesRequest, cloudv2.ListProfilesResponse] {
		return connect.NewClient[cloudv2.ListProfilesRequest, cloudv2.ListProfilesResponse](http2, url+cloudListProcedure, o)
	}
	return map[string]*connect.Client[cloudv2.ListProfilesRequest, cloudv2.ListProfilesResponse]{"gRPC": of(connect.WithGRPC()), "JSON": of(connect.WithProtoJSON())}
}

// crowded is a store that lists few profiles at once, as a full one does.
type crowded struct {
	store.Store
	most  int
	asked *int
}

func (c crowded) Profiles(ctx context.Context, q store.Query, limit int) (*store.ProfilesResult, error) {
	*c.asked++
	return c.Store.Profiles(ctx, q, min(limit, c.most))
}

// TestCloudWindows: whatever the size of a page and however many profiles there are at once, all are listed once, and not at the price of looking
// through everything for each page.
func TestCloudWindows(t *testing.T) {
	for _, most := range []int{3, store.MaxProfiles} {
		for _, size := range []int32{1, 8} {
			asked := 0
			url := cloudServer(t, 24, func(o *Options) { o.Store = crowded{o.Store, most, &asked} })
			for name, c := range cloudCalls(url) {
				asked = 0
				seen, pages, token := map[string]bool{}, 0, ""
				for {
					res, err := c.CallUnary(t.Context(), connect.NewRequest(&cloudv2.ListProfilesRequest{Parent: "projects/p-1", PageSize: size, PageToken: token}))
					if err != nil {
						t.Fatalf("%s, %d at once, pages of %d: %v", name, most, size, err)
					}
					if len(res.Msg.Profiles) == 0 || len(res.Msg.Profiles) > int(size) {
						t.Fatalf("a page of %d", len(res.Msg.Profiles))
					}
					for _, p := range res.Msg.Profiles {
						if seen[p.Name] {
							t.Errorf("%s, %d at once, pages of %d: %s twice", name, most, size, p.Name)
						}
						seen[p.Name] = true
					}
					pages++
					if token = res.Msg.NextPageToken; token == "" {
						break
					}
				}
				// Three types, each window asked for them; a page needs a window or two, and finding its length some more.
				if len(seen) != 25 || asked > 3*(4*pages+60) {
					t.Errorf("%s, %d at once, pages of %d: %d profiles on %d pages, %d questions", name, most, size, len(seen), pages, asked)
				}
			}
		}
	}
	asked := 0
	url := cloudServer(t, 24, func(o *Options) { o.Store = crowded{o.Store, 1, &asked} }) // two begin at the same nanosecond
	var err error
	for token, pages := "", 0; err == nil && pages < 5; pages++ {
		var res *connect.Response[cloudv2.ListProfilesResponse]
		if res, err = cloudCalls(url)["gRPC"].CallUnary(t.Context(), connect.NewRequest(&cloudv2.ListProfilesRequest{Parent: "projects/p-1", PageToken: token})); err == nil {
			token = res.Msg.NextPageToken
		}
	}
	if connect.CodeOf(err) != connect.CodeOutOfRange || asked > 300 {
		t.Errorf("%v after %d questions", err, asked)
	}
}

// TestCloudWrong: each wrong question is told so in the protocol's words.
func TestCloudWrong(t *testing.T) {
	url := cloudServer(t, 3, nil)
	c, err := cloudprofiler.NewService(t.Context(), option.WithEndpoint(url), option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	list := c.Projects.Profiles.List
	first, err := list("projects/p-1").PageSize(1).Do()
	if err != nil || first.NextPageToken == "" {
		t.Fatal(first, err)
	}
	for what, call := range map[string]*cloudprofiler.ProjectsProfilesListCall{
		"negative":             list("projects/p-1").PageSize(-1),
		"too large a number":   list("projects/p-1").PageSize(1 << 40),
		"no token":             list("projects/p-1").PageToken("x"),
		"a long token":         list("projects/p-1").PageToken(strings.Repeat("e30", 1000)),
		"another one's token":  list("projects/p-2").PageToken(first.NextPageToken),
		"fields are not there": list("projects/p-1").Fields("profiles/name"),
	} {
		var e *googleapi.Error
		if _, err := call.Do(); !errors.As(err, &e) || e.Code != http.StatusBadRequest || !strings.Contains(e.Body, "INVALID_ARGUMENT") || e.Message == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, parent := range []string{"", "projects/", "p-1", "projects/a/b"} {
		if _, err := cloudCalls(url)["gRPC"].CallUnary(t.Context(), connect.NewRequest(&cloudv2.ListProfilesRequest{Parent: parent})); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("parent %q: %v", parent, err)
		}
	}
}

// TestCloudScope: what an asker may not see is not listed, names that are hidden are hidden in the bytes too, and whoever may not see single profiles
// sees none.
func TestCloudScope(t *testing.T) {
	ask := func(allow func(context.Context, Question) (Scope, error)) (*cloudv2.ListProfilesResponse, error) {
		res, err := cloudCalls(cloudServer(t, 3, func(o *Options) { o.Allow = allow }))["gRPC"].CallUnary(t.Context(), connect.NewRequest(&cloudv2.ListProfilesRequest{Parent: "projects/-"}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	raw := 0
	if _, err := ask(scoped(&raw, Scope{})); connect.CodeOf(err) != connect.CodePermissionDenied || raw != 1 {
		t.Error(err, raw)
	}
	res, err := ask(func(context.Context, Question) (Scope, error) {
		return Scope{Services: []string{"shop"}, Rename: func(f string) (string, bool) { return "hidden", strings.HasPrefix(f, "shop.") }}, nil
	})
	if err != nil || len(res.Profiles) != 5 {
		t.Fatal(res, err)
	}
	for _, p := range res.Profiles {
		got, err := profile.DecodeBytes(p.ProfileBytes, profile.Limits{})
		if err != nil || slices.ContainsFunc(got.Strings, func(s string) bool { return strings.Contains(s, "shop.") }) || !slices.Contains(got.Strings, "hidden") {
			t.Errorf("%s: %v, %q", p.Name, err, got.Strings)
		}
	}
}

// TestCloudBytes: a page ends early by its bytes, and goes on after them.
func TestCloudBytes(t *testing.T) {
	big := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	rnd, name := rand.New(rand.NewChaCha8([32]byte{1})), make([]byte, 150)
	for i := range 4000 {
		for k := range name {
			name[k] = byte(rnd.Uint32())
		}
		f := big.Function(profile.Function{Name: big.String(base64.StdEncoding.EncodeToString(name))}) // does not pack
		big.Add(big.Stack(0, big.Location(profile.Location{}, profile.Line{Function: f})), 0, int64(i+1))
	}
	p := big.Profile()
	srv := apiServer(t, func(o *Options) {
		for i := range 8 {
			ls, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "big"}, profile.Label{Name: labelProject, Value: "p-1"})
			if err != nil {
				t.Fatal(err)
			}
			from := apiNow.Add(-time.Duration(i+1) * time.Minute)
			if err := o.Store.Append(t.Context(), store.Upload{Name: "process_cpu", Labels: ls, From: from, To: from.Add(time.Second), Pprof: p.AppendPprof(nil), Profile: p}); err != nil {
				t.Fatal(err)
			}
		}
	})
	c, token, sizes := cloudCalls(srv.URL)["gRPC"], "", []int{}
	n := 0
	for {
		res, err := c.CallUnary(t.Context(), connect.NewRequest(&cloudv2.ListProfilesRequest{Parent: "projects/p-1", PageToken: token}))
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		for _, p := range res.Msg.Profiles {
			size += len(p.ProfileBytes)
		}
		n, sizes = n+len(res.Msg.Profiles), append(sizes, size)
		if token = res.Msg.NextPageToken; token == "" {
			break
		}
	}
	if n != 8 || len(sizes) < 2 || slices.Max(sizes) > cloudPageBytes*3/2 {
		t.Errorf("%d profiles on pages of %v bytes", n, sizes)
	}
}
