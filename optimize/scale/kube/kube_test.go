package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/scale"
	"github.com/quantra-l/quantra/optimize/scale/kube/kubetest"
	"github.com/quantra-l/quantra/optimize/scale/scaletest"
)

// admin is who sets up what the room under test finds, and plays the controllers' part.
type admin struct {
	*Cluster
	t *testing.T
}

func (a *admin) create(doc string) *unstructured.Unstructured {
	a.t.Helper()
	var obj unstructured.Unstructured
	if err := json.Unmarshal([]byte(doc), &obj.Object); err != nil {
		a.t.Fatalf("%v in %s", err, doc)
	}
	gvk := obj.GroupVersionKind()
	gvr := schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: strings.ToLower(gvk.Kind) + "s"}
	var made *unstructured.Unstructured
	var err error
	if ns := obj.GetNamespace(); ns != "" {
		made, err = a.client.Resource(gvr).Namespace(ns).Create(a.t.Context(), &obj, metav1.CreateOptions{})
	} else {
		made, err = a.client.Resource(gvr).Create(a.t.Context(), &obj, metav1.CreateOptions{})
	}
	if err != nil {
		a.t.Fatalf("create %s: %v", doc, err)
	}
	return made
}

// merge patches an object, or its status.
func (a *admin) merge(group, patch string, sub ...string) {
	a.t.Helper()
	g, err := ParseGroup(group)
	if err == nil {
		_, err = a.in(g).Patch(a.t.Context(), g.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, sub...)
	}
	if err != nil {
		a.t.Fatalf("patch %s of %s: %v", patch, group, err)
	}
}

// settle writes what controllers would once all pods are there.
func (a *admin) settle(group string) {
	a.t.Helper()
	st, err := a.Get(a.t.Context(), group)
	if err != nil {
		a.t.Fatal(err)
	}
	n := st.Replicas
	status := fmt.Sprintf(`{"status":{"replicas":%d,"readyReplicas":%d,"availableReplicas":%d,"updatedReplicas":%d}}`, n, n, n, n)
	switch {
	case strings.HasPrefix(group, "replicasets"):
		status = fmt.Sprintf(`{"status":{"replicas":%d,"readyReplicas":%d,"availableReplicas":%d}}`, n, n, n)
	case strings.HasPrefix(group, "rings"):
		status = fmt.Sprintf(`{"status":{"there":%d}}`, n)
	}
	a.merge(group, status, "status")
}

// workload is a resource with 4 replicas, in a namespace of its own.
func (a *admin) workload(kind, ns string) (group string) {
	a.t.Helper()
	a.create(fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, ns))
	template := `"selector":{"matchLabels":{"app":"checkout"}},"template":{"metadata":{"labels":{"app":"checkout"}},"spec":{"containers":[{"name":"c","image":"checkout:1"}]}}`
	version, spec := "apps/v1", `"replicas":4,`+template
	group = strings.ToLower(kind) + "s/" + ns + "/checkout"
	switch kind {
	case "StatefulSet":
		spec += `,"serviceName":"checkout"`
	case "Ring":
		version, spec, group = "example.com/v1beta2", `"members":4`, "rings.v1beta2.example.com/"+ns+"/checkout"
	}
	a.create(fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":"checkout","namespace":%q},"spec":{%s}}`, version, kind, ns, spec))
	a.settle(group)
	return group
}

// role lets a user do in a namespace what docs/scale.md says is needed, and no more.
func (a *admin) role(ns, user string) {
	a.t.Helper()
	a.create(fmt.Sprintf(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"quantra","namespace":%q},"rules":[
		{"apiGroups":["apps","example.com"],"resources":["deployments","statefulsets","replicasets","rings"],"verbs":["get"]},
		{"apiGroups":["apps","example.com"],"resources":["deployments/scale","statefulsets/scale","replicasets/scale","rings/scale"],"verbs":["get","patch"]},
		{"apiGroups":["autoscaling"],"resources":["horizontalpodautoscalers"],"verbs":["list"]}]}`, ns))
	a.create(fmt.Sprintf(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"quantra","namespace":%q},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"quantra"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":%q}]}`, ns, user))
	// The authorizer hears of it by a watch: until then the user may do nothing there.
	reviews := a.client.Resource(schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "subjectaccessreviews"})
	for deadline := time.After(time.Minute); ; {
		r, err := reviews.Create(a.t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": map[string]any{
				"user": user, "resourceAttributes": map[string]any{"namespace": ns, "verb": "get", "group": "apps", "resource": "deployments", "subresource": "scale"},
			},
		}}, metav1.CreateOptions{})
		if err != nil {
			a.t.Fatal(err)
		}
		if allowed, _, err := unstructured.NestedBool(r.Object, "status", "allowed"); err != nil {
			a.t.Fatal(err)
		} else if allowed {
			return
		}
		select {
		case <-deadline:
			a.t.Fatalf("%s has no role in %s after a minute", user, ns)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// rings are a custom resource whose replicas are called otherwise.
const rings = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"rings.example.com"},"spec":{"group":"example.com",
	"scope":"Namespaced","names":{"plural":"rings","singular":"ring","kind":"Ring"},"versions":[{"name":"v1beta2","served":true,"storage":true,
	"subresources":{"status":{},"scale":{"specReplicasPath":".spec.members","statusReplicasPath":".status.there"}},
	"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{
		"spec":{"type":"object","properties":{"members":{"type":"integer"}}},"status":{"type":"object","properties":{"there":{"type":"integer"}}}}}}}]}}`

func open(t *testing.T, kubeconfig string) *Cluster {
	t.Helper()
	c, err := New(Options{Kubeconfig: kubeconfig, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestServer is against a real API server, as a user who may do only what the documentation says is needed.
func TestServer(t *testing.T) {
	s := kubetest.Start(t, "quantra", "nobody")
	a := &admin{open(t, s.Kubeconfig(t, "admin")), t}
	user, nobody := open(t, s.Kubeconfig(t, "quantra")), open(t, s.Kubeconfig(t, "nobody"))
	a.create(rings)
	crds := a.client.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1beta2", Resource: "rings"}).Namespace("default")
	for deadline := time.After(time.Minute); ; {
		if _, err := crds.List(t.Context(), metav1.ListOptions{}); err == nil {
			break
		} else if !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		select {
		case <-deadline:
			t.Fatal("the custom resource is not served after a minute")
		case <-time.After(20 * time.Millisecond):
		}
	}
	n := 0
	namespace := func() string { n++; return fmt.Sprintf("shop%d", n) }

	for _, kind := range []string{"Deployment", "StatefulSet", "ReplicaSet", "Ring"} {
		t.Run(kind, func(t *testing.T) {
			scaletest.Run(t, func(t *testing.T) scaletest.Place {
				a, ns := &admin{a.Cluster, t}, namespace()
				group := a.workload(kind, ns)
				a.role(ns, "quantra")
				return scaletest.Place{
					Replicas: user, Group: group, Missing: strings.Replace(group, "/checkout", "/none", 1),
					Meddle: func(n int) {
						field := "replicas"
						if kind == "Ring" {
							field = "members"
						}
						a.merge(group, fmt.Sprintf(`{"spec":{%q:%d}}`, field, n))
					},
					Settle: func() { a.settle(group) },
					Remove: func() {
						g, err := ParseGroup(group)
						if err == nil {
							err = a.in(g).Delete(t.Context(), g.Name, metav1.DeleteOptions{})
						}
						if err != nil {
							t.Fatal(err)
						}
					},
				}
			})
		})
	}
	t.Run("made anew", func(t *testing.T) { madeAnew(t, a, user, namespace()) })
	t.Run("autoscaler", func(t *testing.T) { autoscaler(t, a, user, namespace()) })
	t.Run("may not", func(t *testing.T) { mayNot(t, a, nobody, namespace()) })
	t.Run("quota", func(t *testing.T) { partly(t, a, user, namespace()) })
}

// madeAnew: a change of what was removed and made again under the same name is not made, even between look and act.
func madeAnew(t *testing.T, a *admin, user *Cluster, ns string) {
	group := a.workload("Deployment", ns)
	a.role(ns, "quantra")
	was, err := user.Get(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	was.ID = "00000000-0000-0000-0000-000000000000"
	if err := user.Set(t.Context(), group, was, 5, false); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "somebody set it") {
		t.Errorf("another UID: %v, want refused", err)
	}
}

func autoscaler(t *testing.T, a *admin, user *Cluster, ns string) {
	group := a.workload("Deployment", ns)
	a.role(ns, "quantra")
	hpa := func(name, kind, target string) {
		a.create(fmt.Sprintf(`{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":%q,"namespace":%q},
			"spec":{"minReplicas":3,"maxReplicas":12,"scaleTargetRef":{"apiVersion":"apps/v1","kind":%q,"name":%q}}}`, name, ns, kind, target))
	}
	hpa("other", "Deployment", "cart")
	hpa("other-kind", "StatefulSet", "checkout")
	if st, err := user.Get(t.Context(), group); err != nil || st.Owner != "" {
		t.Fatalf("autoscalers of others: %+v, %v", st, err)
	}
	hpa("checkout", "Deployment", "checkout")
	act, err := scale.NewActuator(scale.ActuatorOptions{Place: scaletest.At("kube", scale.Place{Replicas: user})})
	if err != nil {
		t.Fatal(err)
	}
	spec := fmt.Sprintf(`{"place":"kube","group":%q,"from":4,"to":6}`, group)
	_, err = act.Snapshot(t.Context(), &optimize.Change{Proposal: optimize.Proposal{Spec: json.RawMessage(spec)}}, optimize.Target{})
	if !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "HorizontalPodAutoscaler "+ns+"/checkout (3 to 12) decides") {
		t.Errorf("%v: want it to name the autoscaler", err)
	}
	// A ReplicaSet of a Deployment is the Deployment's.
	owned := a.workload("ReplicaSet", ns+"-rs")
	a.role(ns+"-rs", "quantra")
	a.merge(owned, `{"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"checkout","uid":"1","controller":true}]}}`)
	if st, err := user.Get(t.Context(), owned); err != nil || !strings.Contains(st.Owner, "Deployment "+ns+"-rs/checkout") {
		t.Errorf("%+v, %v: want the Deployment as its owner", st, err)
	}
}

func mayNot(t *testing.T, a *admin, nobody *Cluster, ns string) {
	group := a.workload("Deployment", ns)
	was, err := a.Get(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	_, gerr := nobody.Get(t.Context(), group)
	for what, err := range map[string]error{
		"get":     gerr,
		"dry run": nobody.Set(t.Context(), group, was, 5, true),
		"set":     nobody.Set(t.Context(), group, was, 5, false),
	} {
		if !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), `User "nobody" cannot`) {
			t.Errorf("%s: %v: want refused, and what is missing", what, err)
		}
	}
	// Whoever may scale but not see the autoscalers must not act past one.
	a.create(fmt.Sprintf(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"half","namespace":%q},"rules":[
		{"apiGroups":["apps"],"resources":["deployments","deployments/scale"],"verbs":["get","patch"]}]}`, ns))
	a.create(fmt.Sprintf(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"half","namespace":%q},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"half"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"nobody"}]}`, ns))
	for deadline := time.After(time.Minute); ; { // the authorizer hears of it by a watch
		_, err := nobody.Get(t.Context(), group)
		if err != nil && strings.Contains(err.Error(), "horizontalpodautoscalers") {
			if !errors.Is(err, optimize.ErrRefused) {
				t.Errorf("%v: want refused", err)
			}
			return
		}
		select {
		case <-deadline:
			t.Fatalf("get: %v: want the list of autoscalers to be missing", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// partly: replicas that do not come, as a quota keeps them away, leave the change pending.
func partly(t *testing.T, a *admin, user *Cluster, ns string) {
	group := a.workload("Deployment", ns)
	a.role(ns, "quantra")
	act, err := scale.NewActuator(scale.ActuatorOptions{Place: scaletest.At("kube", scale.Place{Replicas: user})})
	if err != nil {
		t.Fatal(err)
	}
	c := &optimize.Change{Proposal: optimize.Proposal{Spec: json.RawMessage(fmt.Sprintf(`{"place":"kube","group":%q,"from":4,"to":6}`, group))}}
	snap, err := act.Snapshot(t.Context(), c, optimize.Target{})
	if err == nil {
		err = act.Apply(t.Context(), c, optimize.Target{}, snap)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.merge(group, `{"status":{"replicas":6,"readyReplicas":5}}`, "status")
	st, word, err := act.Standing(t.Context(), c, optimize.Target{}, snap)
	if st != optimize.Pending || err != nil || word != "6 asked for, 5 ready, 6 there" {
		t.Errorf("%q, %q, %v", st, word, err)
	}
}

func TestParseGroup(t *testing.T) {
	for s, want := range map[string]string{
		"deployments/shop/checkout":                          "apps/v1 deployments shop checkout",
		"deployments.apps/shop/checkout":                     "apps/v1 deployments shop checkout",
		"statefulsets/shop/db-0.a":                           "apps/v1 statefulsets shop db-0.a",
		"rollouts.v1alpha1.argoproj.io/shop/checkout":        "argoproj.io/v1alpha1 rollouts shop checkout",
		"deployments":                                        "",
		"deployments/shop":                                   "",
		"deployments/shop/checkout/scale":                    "",
		"deployments/../checkout":                            "",
		"deployments/shop/..":                                "",
		"deployments/shop/check out":                         "",
		"pods/shop/checkout":                                 "",
		"rollouts.argoproj.io/shop/checkout":                 "",
		"deployments/shop/" + strings.Repeat("a", 300):       "",
		"rollouts.v1." + strings.Repeat("a.", 300) + "/s/c":  "",
		"rollouts.v1alpha1.argoproj.io/shop/checkout\x00etc": "",
	} {
		g, err := ParseGroup(s)
		got := ""
		if err == nil {
			got = fmt.Sprintf("%s %s %s %s", g.Resource.GroupVersion(), g.Resource.Resource, g.Namespace, g.Name)
		} else if !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%q: %v: want refused", s, err)
		}
		if got != want {
			t.Errorf("%q is %q, want %q", s, got, want)
		}
	}
}

func FuzzParseGroup(f *testing.F) {
	for _, s := range []string{"deployments/shop/checkout", "rollouts.v1alpha1.argoproj.io/shop/checkout", "a/b/c", "//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, err := ParseGroup(s)
		if err == nil && (strings.ContainsAny(g.Name+g.Namespace+g.Resource.Resource, "/? %") || strings.Contains(g.Name, "/")) {
			t.Errorf("%q is %+v", s, g)
		}
	})
}

// status is the API's body of an error.
func status(code int, reason, message string) string {
	return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":%q,"reason":%q,"code":%d}`, message, reason, code)
}

const (
	scaleBody = `{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"checkout","namespace":"shop","uid":"u1","resourceVersion":"7"},"spec":{"replicas":4},"status":{"replicas":4,"selector":"app=checkout"}}`
	deployed  = `{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"checkout","namespace":"shop","uid":"u1"},"spec":{"replicas":4},"status":{"replicas":4,"readyReplicas":4}}`
	noScalers = `{"kind":"HorizontalPodAutoscalerList","apiVersion":"autoscaling/v2","metadata":{"resourceVersion":"9"},"items":[]}`
)

// speak is a cluster that answers by method and path.
func speak(t *testing.T, handler http.HandlerFunc, timeout time.Duration) *Cluster {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	p := filepath.Join(t.TempDir(), "config")
	doc := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters: [{name: x, cluster: {server: %q}}]\ncontexts: [{name: x, context: {cluster: x}}]\n", s.URL)
	if err := os.WriteFile(p, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Kubeconfig: p, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestErrors is what a server says when it does not do it, and what comes of that.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		code int
		body string
		kind error // nil is one that is tried again
		says string
	}{
		{"not found", 404, status(404, "NotFound", `deployments.apps "checkout" not found`), optimize.ErrGone, "not found"},
		{"forbidden", 403, status(403, "Forbidden", `deployments.apps "checkout" is forbidden: User "x" cannot patch`), optimize.ErrRefused, "grant it"},
		{"invalid", 422, status(422, "Invalid", "spec.replicas: Invalid value: -1"), optimize.ErrRefused, "Invalid value"},
		{"conflict", 409, status(409, "Conflict", "the object has been modified"), nil, "has been modified"},
		{"unauthorized", 401, status(401, "Unauthorized", "Unauthorized"), nil, "Unauthorized"},
		{"unavailable", 503, "upstream connect error", nil, "unable to handle"},
		{"broken", 500, status(500, "InternalError", "etcdserver: leader changed"), nil, "leader changed"},
		{"not JSON", 200, "<html>", nil, ""},
		{"something else", 200, `{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"uid":"u1"},"spec":{"replicas":"x"}}`, optimize.ErrRefused, "webhook"},
		{"a webhook made it another", 200, strings.Replace(scaleBody, `"replicas":4`, `"replicas":9`, 1), optimize.ErrRefused, "webhook"},
	} {
		t.Run(c.name, func(t *testing.T) {
			place := speak(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if r.Method != http.MethodPatch {
					fmt.Fprint(w, scaleBody)
					return
				}
				w.WriteHeader(c.code)
				fmt.Fprint(w, c.body)
			}, 5*time.Second)
			err := place.Set(t.Context(), "deployments/shop/checkout", scale.State{ID: "u1", Replicas: 4}, 5, false)
			if err == nil || !strings.Contains(err.Error(), c.says) || c.kind != nil && !errors.Is(err, c.kind) ||
				c.kind == nil && (errors.Is(err, optimize.ErrGone) || errors.Is(err, optimize.ErrRefused)) {
				t.Errorf("%v: want %v, and %q", err, c.kind, c.says)
			}
		})
	}
}

// TestRetryAfter: a server that is too busy is asked again when it says.
func TestRetryAfter(t *testing.T) {
	var asked atomic.Int64
	place := speak(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case asked.Add(1) == 1:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, status(429, "TooManyRequests", "too many requests, please try again later"))
		case strings.HasSuffix(r.URL.Path, "/scale"):
			fmt.Fprint(w, scaleBody)
		case strings.Contains(r.URL.Path, "horizontalpodautoscalers"):
			fmt.Fprint(w, noScalers)
		default:
			fmt.Fprint(w, deployed)
		}
	}, 10*time.Second)
	st, err := place.Get(t.Context(), "deployments/shop/checkout")
	if err != nil || st.Replicas != 4 || st.Ready != 4 || asked.Load() != 4 {
		t.Errorf("%+v, %v after %d questions: want 4 replicas after 4", st, err, asked.Load())
	}
}

// TestBounds: an answer without an end, and none at all, both end.
func TestBounds(t *testing.T) {
	endless := speak(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		b := []byte(strings.Repeat(" ", 1<<20))
		for r.Context().Err() == nil {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}, time.Minute)
	if _, err := endless.Get(t.Context(), "deployments/shop/checkout"); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an endless answer: %v", err)
	}
	never := speak(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 200*time.Millisecond)
	if _, err := never.Get(t.Context(), "deployments/shop/checkout"); err == nil || errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "did not answer") {
		t.Errorf("no answer: %v", err)
	}
}

func TestSetIsChecked(t *testing.T) {
	c := speak(t, func(w http.ResponseWriter, r *http.Request) { t.Errorf("it was asked: %s %s", r.Method, r.URL) }, time.Second)
	for name, set := range map[string]struct {
		was scale.State
		n   int
	}{
		"below 0":      {scale.State{ID: "u1", Replicas: 4}, -1},
		"switched off": {scale.State{ID: "u1"}, 4},
		"no UID":       {scale.State{Replicas: 4}, 5},
	} {
		if err := c.Set(t.Context(), "deployments/shop/checkout", set.was, set.n, false); !errors.Is(err, optimize.ErrRefused) {
			t.Errorf("%s: %v, want refused", name, err)
		}
	}
	for _, o := range []Options{{Kubeconfig: "/no/such/file"}, {Timeout: -1}, {}} { // the last is in no cluster
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
