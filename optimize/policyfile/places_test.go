package policyfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize/policyfile"
	"github.com/quantra-l/quantra/optimize/scale"
)

// shown are the files that a page shows, of those that have places.
func shown(t testing.TB, page string) (out []string) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1) {
		if strings.Contains(string(m[1]), "places:") {
			out = append(out, string(m[1]))
		}
	}
	if len(out) == 0 {
		t.Fatalf("docs/%s shows no places", page)
	}
	return out
}

// TestShownPlaces: what docs/scale.md and docs/rebalance.md show are places.
func TestShownPlaces(t *testing.T) {
	for _, page := range []string{"scale.md", "rebalance.md"} {
		for _, text := range shown(t, page) {
			if f := decode(t, text); len(f.Places) == 0 {
				t.Errorf("%s: no places in\n%s", page, text)
			}
		}
	}
}

const places = `
places:
  checkout:
    replicas:
      kube: {kubeconfig: /etc/quantra/kubeconfig, context: prod, namespace: shop, name: checkout}
      floor: 3
      ceiling: 40
      target: 0.5
      up_every: 90s
      down_every: 10m
      peers_per_node: 200
      min_history: 0s
    machines:
      gce: {project: shop-1, zone: europe-west1-b}
      types: ["n2-standard-*", n2-highmem-4]
      others_gib: 1.5
  search:
    tenant: acme
    replicas:
      gce: {project: shop-1, region: europe-west1, group: search}
  rollout:
    replicas: {kube: {namespace: shop, kind: rollouts.v1alpha1.argoproj.io, name: front}}
  batch:
    replicas:
      command:
        group: batch
        get: [/usr/local/bin/pool, get, "{{.Group}}"]
        set: [/usr/local/bin/pool, set, "{{.Group}}", "{{.Replicas}}"]
        env: [PATH, HOME]
        timeout: 20s
    peers:
      nodes: [peers, nodes, "{{.Service}}"]
      check: [peers, check, "{{.From}}", "{{.To}}", "{{.Peers}}"]
      move: [peers, move, "{{.ID}}", "{{.From}}", "{{.To}}", "{{.Peers}}"]
      back: [peers, back, "{{.ID}}"]
      moved: [peers, moved, "{{.ID}}"]
      move_cost: 250ms
      settle: 1m
  feed:
    peers:
      members: [12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR, 12D3KooWLLrRn1tQUWSgj6BmWeVAtcSN6o9FfVNjca97KvMAxmto]
`

// TestPlaces: places mean what they say.
func TestPlaces(t *testing.T) {
	f := decode(t, places)
	name := func(service string) string {
		place, group := f.Places[service].Replicas.Place()
		return place + ":" + group
	}
	for service, want := range map[string]string{
		"checkout": "kube:deployments/shop/checkout", "search": "gce:projects/shop-1/regions/europe-west1/instanceGroupManagers/search",
		"rollout": "kube:rollouts.v1alpha1.argoproj.io/shop/front", "batch": "command:batch",
	} {
		if got := name(service); got != want {
			t.Errorf("%s is at %s, want %s", service, got, want)
		}
	}
	want := scale.Options{Floor: 3, Ceiling: 40, Target: 0.5, UpEvery: 90 * time.Second, DownEvery: 10 * time.Minute, Peers: 200, MinHistory: -1}
	if got := f.Places["checkout"].Replicas.Rules; got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if k := f.Places["checkout"].Replicas.Kube; k.Kubeconfig != "/etc/quantra/kubeconfig" || k.Context != "prod" {
		t.Errorf("%+v", k)
	}
	m := f.Places["checkout"].Machines
	if m.Project != "shop-1" || m.Others != 1.5*(1<<30) || !m.May("n2-standard-4") || !m.May("n2-highmem-4") || m.May("n2-highmem-8") || m.May("e2-standard-4") {
		t.Errorf("%+v", m)
	}
	if f.Places["search"].Tenant != "acme" || f.Places["search"].Machines != nil || f.Places["checkout"].Peers != nil {
		t.Errorf("%+v", f.Places)
	}
	getenv := func(name string) string { return map[string]string{"PATH": "/bin", "SECRET": "s"}[name] }
	if got := f.Places["batch"].Replicas.Command.Options(getenv); !reflect.DeepEqual(got.Env, []string{"PATH=/bin"}) || got.Timeout != 20*time.Second || len(got.Set) != 4 {
		t.Errorf("%+v", got)
	}
	if got := f.Places["feed"].Peers; got == nil || len(got.Members) != 2 || got.Nodes != nil {
		t.Errorf("members %+v", got)
	}
	p := f.Places["batch"].Peers
	if got := p.Options(getenv); got.Env == nil || len(got.Env) != 0 || len(got.Move) != 6 {
		t.Errorf("%+v: an environment that is not given is empty, not the server's", got)
	}
	if p.Rules.MoveCost != 0.25 || p.Rules.Settle != time.Minute {
		t.Errorf("%+v", p.Rules)
	}
	if f := decode(t, "budget: 1"); len(f.Places) != 0 {
		t.Errorf("%+v", f.Places)
	}
}

// TestPlacesRefused: a slip in a place is refused with its line and field.
func TestPlacesRefused(t *testing.T) {
	kube := "kube: {namespace: shop, name: a}"
	cmd := "get: [p, get], set: [p, set, '{{.Replicas}}']"
	for text, want := range map[string]string{
		"places: [a]":                  "places: it must be fields",
		"places:\n  a: {replica: {}}":  "line 2: places.a.replica: there is no such field; there are machines, peers, replicas, tenant",
		"places:\n  '': {}":            "a service has a name",
		"places: {a: {tenant: 'x y'}}": "places.a.tenant",
		"places: {a: {replicas: {}}}":  "places.a.replicas: it must have one of kube, gce and command",
		"places: {a: {replicas: {" + kube + ", gce: {project: p, zone: z, group: g}}}}":                                                                             "it has 2",
		"places:\n  a:\n    replicas:\n      " + kube + "\n      floor: 0":                                                                                          "line 5: places.a.replicas.floor",
		"places: {a: {replicas: {" + kube + ", floor: 4, ceiling: 3}}}":                                                                                             "places.a.replicas: floor 4, ceiling 3",
		"places: {a: {replicas: {" + kube + ", target: 0.9}}}":                                                                                                      "target",
		"places: {a: {replicas: {" + kube + ", up_for: 10s}}}":                                                                                                      "places.a.replicas.up_for",
		"places: {a: {replicas: {kube: {namespace: shop}}}}":                                                                                                        "places.a.replicas.kube.name: it is missing",
		"places: {a: {replicas: {kube: {namespace: Shop, name: a}}}}":                                                                                               "a name as Kubernetes has them",
		"places: {a: {replicas: {kube: {namespace: shop, name: a/b}}}}":                                                                                             "a name as Kubernetes has them",
		"places: {a: {replicas: {kube: {namespace: shop, name: a, kind: pod}}}}":                                                                                    `"pod": it must be deployment`,
		"places: {a: {replicas: {kube: {namespace: shop, name: a, context: c}}}}":                                                                                   "kubeconfig, which is missing",
		"places: {a: {replicas: {kube: {namespace: shop, name: a, token: t}}}}":                                                                                     "there is no such field",
		"places: {a: {replicas: {gce: {project: p, group: g}}}}":                                                                                                    "either zone or region",
		"places: {a: {replicas: {gce: {project: p, zone: z, region: r, group: g}}}}":                                                                                "either zone or region",
		"places: {a: {replicas: {gce: {project: p/q, zone: z, group: g}}}}":                                                                                         "a name as Google Cloud",
		"places: {a: {replicas: {command: {group: g, get: [p]}}}}":                                                                                                  "places.a.replicas.command.set: it is missing",
		"places: {a: {replicas: {command: {group: -g, " + cmd + "}}}}":                                                                                              "with no - first",
		"places: {a: {replicas: {command: {group: g, get: [p], set: [p, set]}}}}":                                                                                   "set: no argument has {{.Replicas}}",
		"places: {a: {replicas: {command: {group: g, get: [p], set: [p, '{{.Replicas']}}}}":                                                                         "set: argument 1",
		"places: {a: {replicas: {command: {group: g, " + cmd + ", drain: [p, '{{.Node}}']}}}}":                                                                      "undrain: it must be there",
		"places: {a: {replicas: {command: {group: g, " + cmd + ", env: [TOKEN=secret]}}}}":                                                                          "the name of a variable",
		"places: {a: {replicas: {command: {group: g, " + cmd + ", timeout: 5m}}}}":                                                                                  "command.timeout",
		"places: {a: {replicas: {command: {group: g, get: p, set: [p]}}}}":                                                                                          "get: it must be a list",
		"places: {a: {machines: {gce: {project: p, zone: z}, others_gib: 1}}}":                                                                                      "places.a.machines.types: it is missing",
		"places: {a: {machines: {gce: {project: p, zone: z}, types: [n2-*]}}}":                                                                                      "places.a.machines.others_gib: it is missing",
		"places: {a: {machines: {gce: {project: p, zone: z}, types: [], others_gib: 1}}}":                                                                           "nothing could be chosen",
		"places: {a: {machines: {gce: {project: p, zone: z}, types: ['['], others_gib: 1}}}":                                                                        "is no pattern",
		"places: {a: {machines: {gce: {project: p, zone: z}, types: ['*'], others_gib: 1, window: 24h}}}":                                                           "machines.window",
		"places: {a: {machines: {gce: {project: p, zone: z}, types: ['*'], others_gib: 1, target: 0.9}}}":                                                           "places.a.machines: window",
		"places: {a: {machines: {gce: {project: p}, types: ['*'], others_gib: 1}}}":                                                                                 "places.a.machines.gce.zone: it is missing",
		"places: {a: {peers: {members: [12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR]}}}":                                                                   "two members or more",
		"places: {a: {peers: {members: [x, y]}}}":                                                                                                                   "it must be a node's id, as 12D3KooW...",
		"places: {a: {peers: {members: [12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR, 12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR]}}}":             "is there twice",
		"places: {a: {peers: {nodes: [p], members: [12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR, 12D3KooWLLrRn1tQUWSgj6BmWeVAtcSN6o9FfVNjca97KvMAxmto]}}}": "or commands in their place",
		"places: {a: {peers: {nodes: [p]}}}":                                                                                                                        "places.a.peers.check: it is missing",
		"places: {a: {peers: {nodes: [p], check: [p, '{{.Peers}}'], move: [p], back: [p], moved: [p]}}}":                                                            "move: no argument has {{.ID}}",
		"places: {a: {replicas: {" + kube + "}}, b: {replicas: {" + kube + "}}}":                                                                                    "its replicas are those of a",
		"places: {a: {}, a: {}}":                              "it is there twice",
		"places: {a: {replicas: {" + kube + ", floor: 1.5}}}": "whole number",
	} {
		_, err := policyfile.Decode(strings.NewReader(text))
		if !errors.Is(err, policyfile.ErrFile) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.120q: %v, want %q", text, err, want)
		}
	}
	// The same name in another cluster is another.
	decode(t, "places: {a: {replicas: {"+kube+"}}, b: {replicas: {kube: {kubeconfig: /k, namespace: shop, name: a}}}}")
}
