package gce

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/scale"
	"github.com/quantra-l/quantra/optimize/scale/scaletest"
)

// server speaks the compute API's payloads: resources, and operations that are PENDING and RUNNING before they are DONE.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	mig   map[string]any // nil is none
	inst  map[string]any // nil is none
	types map[string]string
	may   []string
	// fail answers a call, as "POST stop", with a code and a reason; failOp ends its operation with a code.
	fail   map[string]int
	reason string
	failOp map[string]string
	ops    map[string]*operation
	calls  []string // that change something
	// after is what comes after so many more polls of an instance: it stops by itself.
	gets int
	at   map[int]func()
}

type operation struct {
	polls int // until it is done
	kind  string
	do    func()
	code  string
}

const (
	zonal    = "projects/p1/zones/europe-west3-a/instanceGroupManagers/checkout"
	regional = "projects/p1/regions/europe-west3/instanceGroupManagers/checkout"
	machine  = "projects/p1/zones/europe-west3-a/instances/checkout-1"
)

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{fail: map[string]int{}, failOp: map[string]string{}, ops: map[string]*operation{}, at: map[int]func(){}, may: []string{
		"compute.instances.get", "compute.instances.stop", "compute.instances.setMachineType", "compute.instances.start"}}
	s.mig = map[string]any{"kind": "compute#instanceGroupManager", "id": "41", "name": "checkout", "fingerprint": "xV=", "targetSize": 4,
		"status": map[string]any{"isStable": true}, "currentActions": map[string]any{"none": 4, "creating": 0, "deleting": 0}}
	s.inst = map[string]any{"kind": "compute#instance", "id": "77", "name": "checkout-1", "status": "RUNNING", "lastStartTimestamp": "2026-11-01T08:00:00.000-08:00",
		"machineType": "https://www.googleapis.com/compute/v1/projects/p1/zones/europe-west3-a/machineTypes/n2-standard-8",
		"disks":       []any{map[string]any{"type": "PERSISTENT", "boot": true, "deviceName": "persistent-disk-0"}}}
	s.types = map[string]string{
		"n2-standard-8": `{"kind":"compute#machineType","name":"n2-standard-8","guestCpus":8,"memoryMb":32768}`,
		"n2-standard-4": `{"kind":"compute#machineType","name":"n2-standard-4","guestCpus":4,"memoryMb":16384}`,
		"n2-standard-2": `{"kind":"compute#machineType","name":"n2-standard-2","guestCpus":2,"memoryMb":8192,"deprecated":{"state":"OBSOLETE"}}`,
		"e2-micro":      `{"kind":"compute#machineType","name":"e2-micro","guestCpus":2,"memoryMb":1024,"isSharedCpu":true}`,
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/")
	verb := path[strings.LastIndex(path, "/")+1:]
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	if code := s.fail[r.Method+" "+verb]; code != 0 {
		apiError(w, code, s.reason, "planted")
		return
	}
	switch {
	case strings.Contains(path, "/operations/"):
		s.operation(w, strings.Split(path[strings.Index(path, "/operations/")+12:], "/")[0])
	case path == zonal || path == regional:
		s.answer(w, s.mig, path)
	case path == zonal+"/resize" || path == regional+"/resize":
		size := r.URL.Query().Get("size")
		s.begin(w, "resize", func() { s.mig["targetSize"] = json.RawMessage(size) })
	case path == machine:
		s.gets++
		if do := s.at[s.gets]; do != nil {
			do()
		}
		s.answer(w, s.inst, path)
	case path == machine+"/stop":
		s.inst["status"] = "STOPPING"
		s.begin(w, "stop", func() { s.inst["status"] = "TERMINATED" })
	case path == machine+"/setMachineType":
		var body struct{ MachineType string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || s.inst["status"] != "TERMINATED" {
			apiError(w, 400, "invalid", fmt.Sprintf("Instance must be TERMINATED, not %v (%v)", s.inst["status"], err))
			return
		}
		s.begin(w, "setMachineType", func() {
			s.inst["machineType"] = "https://www.googleapis.com/compute/v1/projects/p1/" + body.MachineType
		})
	case path == machine+"/start":
		s.inst["status"] = "STAGING"
		s.begin(w, "start", func() { s.inst["status"], s.inst["lastStartTimestamp"] = "RUNNING", "2026-11-20T08:00:00.000-08:00" })
	case path == machine+"/testIamPermissions":
		s.answer(w, map[string]any{"kind": "compute#testPermissionsResponse", "permissions": s.may}, path)
	case strings.HasSuffix(path, "/machineTypes"):
		page := r.URL.Query().Get("pageToken")
		if page == "" {
			fmt.Fprintf(w, `{"kind":"compute#machineTypeList","nextPageToken":"2","items":[%s,%s]}`, s.types["n2-standard-8"], s.types["e2-micro"])
			return
		}
		fmt.Fprintf(w, `{"kind":"compute#machineTypeList","items":[%s,%s]}`, s.types["n2-standard-4"], s.types["n2-standard-2"])
	case strings.Contains(path, "/machineTypes/") && s.types[verb] != "":
		fmt.Fprint(w, s.types[verb])
	default:
		apiError(w, 404, "notFound", "The resource '"+path+"' was not found")
	}
}

func apiError(w http.ResponseWriter, code int, reason, message string) {
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"error":{"code":%d,"message":%q,"errors":[{"message":%q,"domain":"global","reason":%q}]}}`, code, message, message, reason)
}

func (s *server) answer(w http.ResponseWriter, doc map[string]any, path string) {
	if doc == nil {
		apiError(w, 404, "notFound", "The resource '"+path+"' was not found")
		return
	}
	_ = json.NewEncoder(w).Encode(doc) // the client sees it if it fails
}

// begin starts an operation.
func (s *server) begin(w http.ResponseWriter, kind string, do func()) {
	s.calls = append(s.calls, kind)
	id := fmt.Sprintf("operation-%d", len(s.calls))
	s.ops[id] = &operation{polls: 2, kind: kind, do: do, code: s.failOp[kind]}
	fmt.Fprintf(w, `{"kind":"compute#operation","id":"9","name":%q,"operationType":%q,"status":"PENDING","progress":0}`, id, kind)
}

func (s *server) operation(w http.ResponseWriter, id string) {
	op := s.ops[id]
	if op == nil {
		apiError(w, 404, "notFound", "no such operation")
		return
	}
	op.polls--
	switch {
	case op.polls > 0:
		fmt.Fprintf(w, `{"kind":"compute#operation","name":%q,"status":"RUNNING","progress":50}`, id)
	case op.code != "":
		if op.kind == "start" {
			s.inst["status"] = "TERMINATED"
		}
		fmt.Fprintf(w, `{"kind":"compute#operation","name":%q,"status":"DONE","progress":100,"httpErrorStatusCode":503,"error":{"errors":[{"code":%q,"message":"planted"}]}}`, id, op.code)
	default:
		if op.polls == 0 {
			op.do()
		}
		fmt.Fprintf(w, `{"kind":"compute#operation","name":%q,"status":"DONE","progress":100}`, id)
	}
}

// with changes the server's state as something else would.
func (s *server) with(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

func (s *server) cloud(t *testing.T) *Cloud {
	t.Helper()
	c, err := New(t.Context(), Options{Endpoint: s.URL + "/", NoCredentials: true, Timeout: 20 * time.Second, Poll: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGroups(t *testing.T) {
	for _, group := range []string{zonal, regional} {
		t.Run(strings.Split(group, "/")[2], func(t *testing.T) {
			scaletest.Run(t, func(t *testing.T) scaletest.Place {
				s := newServer(t)
				return scaletest.Place{
					Replicas: s.cloud(t), Group: group, Missing: strings.TrimSuffix(group, "checkout") + "none",
					Meddle: func(n int) { s.with(func() { s.mig["targetSize"] = n }) },
					Settle: func() { s.with(func() { s.mig["currentActions"] = map[string]any{"none": s.mig["targetSize"]} }) },
					Remove: func() { s.with(func() { s.mig = nil }) },
				}
			})
		})
	}
}

func TestGroupReadings(t *testing.T) {
	s := newServer(t)
	s.mig["currentActions"] = map[string]any{"none": 3, "creating": 1, "deleting": 2, "verifying": 1}
	s.mig["status"] = map[string]any{"autoscaler": "https://www.googleapis.com/compute/v1/projects/p1/zones/europe-west3-a/autoscalers/checkout-as"}
	st, err := s.cloud(t).Get(t.Context(), zonal)
	if err != nil || st.Ready != 3 || st.Current != 7 || st.Owner != "autoscaler checkout-as" || st.ID != "41" || st.Zone != "europe-west3-a" {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestDryRun sets the size that there is, and no other.
func TestDryRun(t *testing.T) {
	s := newServer(t)
	c := s.cloud(t)
	was, err := c.Get(t.Context(), zonal)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), zonal, was, 9, true); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Get(t.Context(), zonal); err != nil || st.Replicas != 4 || len(s.calls) != 1 {
		t.Errorf("%+v, %v after %v: want one resize to 4", st, err, s.calls)
	}
	s.fail["POST resize"], s.reason = 403, "forbidden"
	if err := c.Set(t.Context(), zonal, was, 9, true); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("a resize that may not be: %v", err)
	}
}

// TestErrors is what the API says when it does not do it, and what comes of that.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		code   int
		reason string
		op     string
		kind   error // nil is one that is tried again
		says   string
	}{
		{name: "forbidden", code: 403, reason: "forbidden", kind: optimize.ErrRefused, says: "grant it"},
		{name: "rate", code: 403, reason: "rateLimitExceeded", says: "403"},
		{name: "bad request", code: 400, reason: "invalid", kind: optimize.ErrRefused, says: "planted"},
		{name: "not ready", code: 400, reason: "resourceNotReady", says: "planted"},
		{name: "gone", code: 404, reason: "notFound", kind: optimize.ErrGone, says: "planted"},
		{name: "conflict", code: 409, reason: "conflict", says: "409"},
		{name: "condition", code: 412, reason: "conditionNotMet", says: "412"},
		{name: "too many", code: 429, reason: "rateLimitExceeded", says: "429"},
		{name: "unavailable", code: 503, reason: "backendError", says: "503"},
		{name: "quota", op: "QUOTA_EXCEEDED", kind: optimize.ErrRefused, says: "QUOTA_EXCEEDED: planted"},
		{name: "no room", op: "ZONE_RESOURCE_POOL_EXHAUSTED", says: "ZONE_RESOURCE_POOL_EXHAUSTED"},
		{name: "vanished", op: "RESOURCE_NOT_FOUND", kind: optimize.ErrGone, says: "RESOURCE_NOT_FOUND"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			if c.code != 0 {
				s.fail["POST resize"], s.reason = c.code, c.reason
			}
			s.failOp["resize"] = c.op
			err := s.cloud(t).Set(t.Context(), zonal, scale.State{ID: "41", Replicas: 4}, 5, false)
			if err == nil || !strings.Contains(err.Error(), c.says) || c.kind != nil && !errors.Is(err, c.kind) ||
				c.kind == nil && (errors.Is(err, optimize.ErrGone) || errors.Is(err, optimize.ErrRefused)) {
				t.Errorf("%v: want %v, and %q", err, c.kind, c.says)
			}
		})
	}
}

// TestOperationWithoutEnd is given up after the timeout, and is not final.
func TestOperationWithoutEnd(t *testing.T) {
	s := newServer(t)
	c := s.cloud(t)
	c.o.Timeout = 300 * time.Millisecond
	s.with(func() { s.ops["operation-1"] = nil })
	h := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/operations/") {
			fmt.Fprint(w, `{"name":"operation-1","status":"RUNNING"}`)
			return
		}
		h.ServeHTTP(w, r)
	})
	err := c.Set(t.Context(), zonal, scale.State{ID: "41", Replicas: 4}, 5, false)
	if err == nil || errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "operation-1 is ") {
		t.Errorf("%v", err)
	}
}

func TestNames(t *testing.T) {
	c := newServer(t).cloud(t)
	for _, g := range []string{"", "checkout", "projects/p/zones/z/instances/n", "projects/p/zones/z/instanceGroupManagers/n/../x", "projects/p/zones/z/instanceGroupManagers/n?x=1",
		"projects//zones/z/instanceGroupManagers/n", "projects/p/global/z/instanceGroupManagers/n"} {
		if _, err := c.Get(t.Context(), g); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%q: %v, want refused", g, err)
		}
	}
	if n, err := parseGroup("projects/example.com:p1/regions/europe-west3/instanceGroupManagers/a-1"); err != nil || n.project != "example.com:p1" || n.region != "europe-west3" || n.zone != "" {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestShapes(t *testing.T) {
	got, err := newServer(t).cloud(t).Shapes(t.Context(), "p1", "europe-west3-a")
	if err != nil || len(got) != 4 {
		t.Fatalf("%+v, %v: want 4 of two pages", got, err)
	}
	for i, want := range []scale.Shape{{Name: "n2-standard-8", Cores: 8, Memory: 32 << 30}, {Name: "e2-micro", Cores: 2, Memory: 1 << 30, Odd: "its cores are shared"},
		{Name: "n2-standard-4", Cores: 4, Memory: 16 << 30}, {Name: "n2-standard-2", Cores: 2, Memory: 8 << 30, Odd: "it is obsolete"}} {
		if got[i] != want {
			t.Errorf("%+v, want %+v", got[i], want)
		}
	}
}
