// Package kube scales what Kubernetes runs: Deployments, StatefulSets, ReplicaSets, and every custom resource that has a scale
// subresource. It is the only room that knows client-go, and of that only the REST client, its configuration and the dynamic
// client: the typed clients of all of Kubernetes' resources are not in the build.
//
// It needs these verbs in a namespace: get on the resource, get and patch on its scale subresource, and list on horizontalpodautoscalers.
package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/scale"
)

const (
	maxAnswer   = 32 << 20 // bytes of one answer; etcd's objects are up to 1.5 MiB, and a page of a list is 500 of them at most
	pageOfLists = 500
	maxPages    = 20
	maxReplicas = 1<<31 - 1 // the API's replicas are an int32
)

// Options are of a [Cluster].
type Options struct {
	// Kubeconfig is the path of the file that says which cluster and as whom; "" is the cluster that this process runs in, as its service
	// account. Context is the file's context; "" is its current one.
	Kubeconfig, Context string
	// UserAgent names this program to the cluster's audit log; "" is "quantra".
	UserAgent string
	// Timeout is how long one call may take, retries included; 0 is 15 s.
	Timeout time.Duration
}

// Cluster is a place of replicas. It implements [scale.Replicas].
type Cluster struct {
	client  dynamic.Interface
	timeout time.Duration
}

var _ scale.Replicas = (*Cluster)(nil)

// New reads the configuration; it does not call the cluster yet.
func New(o Options) (*Cluster, error) {
	o.Timeout = cmp.Or(o.Timeout, 15*time.Second)
	if o.Timeout < 0 {
		return nil, fmt.Errorf("scale/kube: timeout %v: it must be above 0", o.Timeout)
	}
	var config *rest.Config
	var err error
	if o.Kubeconfig == "" {
		config, err = rest.InClusterConfig()
	} else {
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
			&clientcmd.ClientConfigLoadingRules{ExplicitPath: o.Kubeconfig}, &clientcmd.ConfigOverrides{CurrentContext: o.Context}).ClientConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("scale/kube: how to reach the cluster: %w", err)
	}
	config.UserAgent = cmp.Or(o.UserAgent, "quantra")
	config.WarningHandler = rest.NoWarnings{}
	config.QPS, config.Burst = 20, 40 // one change is some ten calls
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return bounded{next} })
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("scale/kube: %w", err)
	}
	return &Cluster{client, o.Timeout}, nil
}

// bounded holds answers to maxAnswer bytes.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}

// Group is a resource in a namespace.
type Group struct {
	Resource        schema.GroupVersionResource
	Namespace, Name string
}

// builtin are the resources whose group and version need not be said.
var builtin = map[string]bool{"deployments": true, "statefulsets": true, "replicasets": true}

var (
	dnsName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	resource = regexp.MustCompile(`^([a-z][a-z0-9]{0,62})\.(v[a-z0-9]{1,62})\.([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)$`)
)

// ParseGroup reads RESOURCE/NAMESPACE/NAME. A resource is one of deployments, statefulsets and replicasets (".apps" may follow), or has
// its version and group: rollouts.v1alpha1.argoproj.io.
func ParseGroup(s string) (g Group, err error) {
	parts := strings.Split(s, "/")
	if len(parts) != 3 || !dnsName.MatchString(parts[1]) || !dnsName.MatchString(parts[2]) {
		return g, fmt.Errorf("scale/kube: group %.300q: %w: it must be RESOURCE/NAMESPACE/NAME, as deployments/shop/checkout", s, optimize.ErrRefused)
	}
	g.Namespace, g.Name = parts[1], parts[2]
	if name := strings.TrimSuffix(parts[0], ".apps"); builtin[name] {
		g.Resource = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: name}
		return g, nil
	}
	m := resource.FindStringSubmatch(parts[0])
	if m == nil {
		return g, fmt.Errorf("scale/kube: group %.300q: %w: resource %.100q must be deployments, statefulsets or replicasets, or have its version and group: rollouts.v1alpha1.argoproj.io",
			s, optimize.ErrRefused, parts[0])
	}
	g.Resource = schema.GroupVersionResource{Resource: m[1], Version: m[2], Group: m[3]}
	return g, nil
}

func (c *Cluster) in(g Group) dynamic.ResourceInterface {
	return c.client.Resource(g.Resource).Namespace(g.Namespace)
}

// Get implements [scale.Replicas].
func (c *Cluster) Get(ctx context.Context, group string) (scale.State, error) {
	g, err := ParseGroup(group)
	if err != nil {
		return scale.State{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	sub, err := c.in(g).Get(ctx, g.Name, metav1.GetOptions{}, "scale")
	if err != nil {
		return scale.State{}, told(group, "get of its scale", err)
	}
	st, err := readScale(sub)
	if err != nil {
		return st, fmt.Errorf("scale/kube: %s: %w", group, err)
	}
	obj, err := c.in(g).Get(ctx, g.Name, metav1.GetOptions{})
	if err != nil {
		return st, told(group, "get", err)
	}
	if string(obj.GetUID()) != st.ID {
		return st, fmt.Errorf("scale/kube: %s: it was made anew just now", group)
	}
	// Resources that do not say how many are ready are taken by their word of how many there are.
	st.Ready = st.Current
	if status, ok, _ := unstructured.NestedMap(obj.Object, "status"); ok || builtin[g.Resource.Resource] {
		if n, ok, _ := unstructured.NestedInt64(status, "readyReplicas"); ok || builtin[g.Resource.Resource] {
			st.Ready = int(n)
		}
	}
	st.Owner, err = c.owner(ctx, group, g, obj)
	return st, err
}

// readScale reads a scale subresource.
func readScale(sub *unstructured.Unstructured) (st scale.State, err error) {
	n, _, err := unstructured.NestedInt64(sub.Object, "spec", "replicas") // 0 may be left out
	if err != nil {
		return st, fmt.Errorf("its scale cannot be read: %v", err)
	}
	there, _, err := unstructured.NestedInt64(sub.Object, "status", "replicas")
	if err != nil || n < 0 || n > maxReplicas || there < 0 || there > maxReplicas {
		return st, fmt.Errorf("its scale cannot be read: spec.replicas %d, status.replicas %d, %v", n, there, err)
	}
	return scale.State{ID: string(sub.GetUID()), Replicas: int(n), Current: int(there)}, nil
}

// owner is who else sets the number: the resource that made it, or an autoscaler that targets it.
func (c *Cluster) owner(ctx context.Context, group string, g Group, obj *unstructured.Unstructured) (string, error) {
	if o := metav1.GetControllerOf(obj); o != nil {
		return fmt.Sprintf("%s %s/%s, which made it,", o.Kind, g.Namespace, o.Name), nil
	}
	autoscalers := c.client.Resource(schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}).Namespace(g.Namespace)
	o := metav1.ListOptions{Limit: pageOfLists}
	for range maxPages {
		list, err := autoscalers.List(ctx, o)
		if err != nil {
			return "", told(group, "whether an autoscaler has it: list of horizontalpodautoscalers", err)
		}
		for i := range list.Items {
			if targets(&list.Items[i], g, obj.GetKind()) {
				low, ok, _ := unstructured.NestedInt64(list.Items[i].Object, "spec", "minReplicas")
				if !ok {
					low = 1
				}
				high, _, _ := unstructured.NestedInt64(list.Items[i].Object, "spec", "maxReplicas")
				return fmt.Sprintf("HorizontalPodAutoscaler %s/%s (%d to %d)", g.Namespace, list.Items[i].GetName(), low, high), nil
			}
		}
		if o.Continue = list.GetContinue(); o.Continue == "" {
			return "", nil
		}
	}
	return "", fmt.Errorf("scale/kube: %s: %w: namespace %s has more than %d autoscalers", group, optimize.ErrRefused, g.Namespace, maxPages*pageOfLists)
}

// targets says that an autoscaler's target is the resource.
func targets(hpa *unstructured.Unstructured, g Group, kind string) bool {
	ref, _, err := unstructured.NestedStringMap(hpa.Object, "spec", "scaleTargetRef")
	if err != nil || ref["kind"] != kind || ref["name"] != g.Name {
		return false
	}
	gv, err := schema.ParseGroupVersion(ref["apiVersion"])
	return err == nil && gv.Group == g.Resource.Group
}

// Set implements [scale.Replicas]. The API server itself compares: the patch tests the identity and the number, and is refused as a whole
// if somebody was faster. Pods are ended by Kubernetes, with their grace period, and with what their disruption budget lets it.
func (c *Cluster) Set(ctx context.Context, group string, was scale.State, n int, dry bool) error {
	g, err := ParseGroup(group)
	if err != nil {
		return err
	}
	switch {
	case n < 0 || n > maxReplicas:
		return fmt.Errorf("scale/kube: %s: %w: %d replicas", group, optimize.ErrRefused, n)
	case was.Replicas == 0:
		return fmt.Errorf("scale/kube: %s: %w: it is switched off: it has 0 replicas", group, optimize.ErrRefused)
	case was.ID == "":
		return fmt.Errorf("scale/kube: %s: %w: its UID is not known", group, optimize.ErrRefused)
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": was.ID},
		{"op": "test", "path": "/spec/replicas", "value": was.Replicas},
		{"op": "replace", "path": "/spec/replicas", "value": n},
	})
	if err != nil {
		return err
	}
	o := metav1.PatchOptions{FieldManager: "quantra"}
	what := fmt.Sprintf("patch of its scale to %d", n)
	if dry {
		o.DryRun = []string{metav1.DryRunAll}
		what = "dry run of a " + what
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	sub, err := c.in(g).Patch(ctx, g.Name, types.JSONPatchType, patch, o, "scale")
	if err != nil {
		if apierrors.IsInvalid(err) { // as a test that failed is, too
			if now, gerr := c.in(g).Get(ctx, g.Name, metav1.GetOptions{}, "scale"); gerr == nil {
				if st, rerr := readScale(now); rerr == nil && (st.ID != was.ID || st.Replicas != was.Replicas) {
					return fmt.Errorf("scale/kube: %s: %w: it had %d replicas, and somebody set it to %d", group, optimize.ErrRefused, was.Replicas, st.Replicas)
				}
			}
		}
		return told(group, what, err)
	}
	// An admission webhook may have changed what was asked for.
	if st, err := readScale(sub); err != nil || st.Replicas != n {
		return fmt.Errorf("scale/kube: %s: %w: %s was taken, but made %d (%v): does an admission webhook change it?", group, optimize.ErrRefused, what, st.Replicas, err)
	}
	return nil
}

// told makes of an API error one that says whether it is final.
func told(group, what string, err error) error {
	var kind error
	hint := ""
	switch {
	case apierrors.IsNotFound(err):
		kind = optimize.ErrGone
	case apierrors.IsForbidden(err):
		kind, hint = optimize.ErrRefused, ": grant it to this account by a Role, or look at the quota and the admission webhooks"
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsMethodNotSupported(err), apierrors.IsNotAcceptable(err):
		kind = optimize.ErrRefused
	case errors.Is(err, context.DeadlineExceeded):
		hint = " (the cluster did not answer in time)"
	}
	if kind != nil {
		return fmt.Errorf("scale/kube: %s: %s: %w: %v%s", group, what, kind, err, hint)
	}
	return fmt.Errorf("scale/kube: %s: %s: %w%s", group, what, err, hint)
}
