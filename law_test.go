// The import law of DESIGN.md, section "The house", as a test. Keep the table true.
// It was shown red on: crossed halves, "testing" in a production build, an unlisted room,
// a missing package comment, a vanished room, agent importing anything but the standard library.
package quantra_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/quantra-l/quantra"

// law lists, for each room that exists, the rooms it may import directly.
// wire is generated code: everyone but the pure rooms may import it, and it
// may import only itself.
var law = map[string][]string{
	"access":                          {"access/oidc", "control", "internal/jsonapi", "seal", "zerotrust", "zerotrust/policy"},
	"access/oidc":                     {"internal/strictyaml"},
	"access/oidc/oidctest":            nil,
	"agent":                           {"agent/live"},
	"agent/live":                      nil,
	"agent/lock":                      {"agent"},
	"agent/spans":                     {"agent"},
	"analyze":                         {"profile", "analyze/change"},
	"analyze/change":                  nil,
	"analyze/price":                   {"analyze", "internal/strictyaml", "profile"},
	"analyze/sched":                   nil,
	"analyze/simulate":                {"analyze", "analyze/change", "profile"},
	"bench/compatibility":             nil,
	"bench/load":                      nil,
	"bench/render":                    {"agent", "profile"},
	"control":                         nil,
	"control/controltest":             nil,
	"examples/hello":                  {"agent"},
	"examples/pool":                   {"agent"},
	"examples/scrape":                 nil,
	"fleet":                           nil,
	"ingest":                          {"ingest/formats", "ingest/gcp", "ingest/jfr", "ingest/otlp", "profile"},
	"ingest/clienttest":               nil,
	"ingest/console":                  {"internal/jsonapi", "profile"},
	"ingest/files":                    {"ingest/formats", "ingest/jfr", "profile"},
	"ingest/formats":                  {"profile"},
	"ingest/gcp":                      {"profile"},
	"ingest/jfr":                      {"profile"},
	"ingest/otlp":                     {"profile"},
	"integrity":                       {"internal/strictyaml", "internal/vfs"},
	"internal/jsonapi":                nil,
	"internal/strictyaml":             nil,
	"internal/vfs":                    nil,
	"optimize":                        {"analyze", "internal/jsonapi", "profile", "optimize/judge"},
	"optimize/commands":               {"optimize"},
	"optimize/builds":                 {"analyze", "optimize", "optimize/patch", "optimize/pgo", "optimize/pull"},
	"optimize/journal":                {"control", "optimize"},
	"optimize/judge":                  {"analyze", "profile"},
	"optimize/simulate":               {"analyze", "optimize", "optimize/judge", "profile"},
	"optimize/measure":                {"analyze", "optimize", "optimize/judge", "profile", "store", "store/block"},
	"optimize/runtime":                {"analyze", "optimize", "optimize/judge", "profile"},
	"optimize/notices":                {"control", "optimize", "optimize/judge", "watch/alert"},
	"optimize/policyfile":             {"internal/strictyaml", "optimize", "optimize/judge", "optimize/rebalance", "optimize/rebalance/command", "optimize/scale", "optimize/scale/command"},
	"optimize/rebalance":              {"analyze", "optimize", "optimize/judge"},
	"optimize/rebalance/command":      {"optimize", "optimize/commands", "optimize/rebalance"},
	"optimize/scale":                  {"analyze", "optimize", "optimize/judge"},
	"optimize/scale/command":          {"optimize", "optimize/commands", "optimize/scale"},
	"optimize/scale/gce":              {"optimize", "optimize/scale"},
	"optimize/scale/kube":             {"optimize", "optimize/scale"},
	"optimize/scale/kube/kubetest":    nil,
	"optimize/scale/scaletest":        {"optimize", "optimize/scale"},
	"optimize/patch":                  nil,
	"optimize/pgo":                    {"profile"},
	"optimize/pull":                   nil,
	"optimize/pull/pulltest":          nil,
	"p2p/broadcast":                   {"internal/vfs", "seal"},
	"p2p/direct":                      {"internal/vfs", "p2p/noise", "seal"},
	"p2p":                             {"internal/strictyaml", "internal/vfs", "p2p/cpace", "p2p/noise", "seal", "zerotrust", "zerotrust/policy"},
	"p2p/chaostest":                   nil,
	"p2p/cpace":                       nil,
	"p2p/nodeapi":                     {"integrity", "internal/jsonapi", "p2p", "p2p/broadcast", "p2p/direct", "zerotrust"},
	"p2p/noise":                       {"seal"},
	"profile":                         nil,
	"sandbox":                         {"sandbox/channel"},
	"sandbox/channel":                 nil,
	"sandbox/jail":                    nil,
	"sandbox/microvm":                 {"sandbox", "sandbox/channel", "sandbox/jail", "sandbox/microvm/guest"},
	"sandbox/microvm/guest":           {"sandbox/jail"},
	"sandbox/oci":                     {"sandbox", "sandbox/jail"},
	"sandbox/process":                 {"sandbox", "sandbox/jail"},
	"sandbox/wasm":                    {"sandbox"},
	"sandbox/sandboxtest":             {"sandbox", "sandbox/channel"},
	"sandbox/sandboxtest/handler":     {"sandbox/channel", "sandbox/jail", "sandbox/microvm/guest"},
	"seal":                            nil,
	"seal/pgp":                        nil,
	"store":                           {"profile", "internal/vfs", "store/block"},
	"store/block":                     {"profile", "internal/vfs"},
	"store/bucket":                    {"internal/vfs"},
	"store/blocks":                    {"store", "store/block", "store/bucket", "internal/vfs", "profile"},
	"store/clickhouse":                {"store", "store/block", "internal/vfs", "profile"},
	"store/clickhouse/clickhousetest": nil,
	"store/bucket/buckettest":         nil,
	"store/storetest":                 {"store", "store/block", "profile"},
	"symbols":                         {"internal/jsonapi", "profile", "store/bucket"},
	"watch":                           {"analyze", "control", "internal/jsonapi", "profile", "store", "watch/alert"},
	"watch/alert":                     {"analyze"},
	"web":                             {"profile", "store"},
	"record":                          {"internal/strictyaml", "profile", "store"},
	"ingest/scrape":                   {"internal/jsonapi", "profile"},
	"web/bundle":                      nil,
	"web/uitest":                      nil,
	"wire":                            nil,
	"zerotrust/policy":                {"internal/strictyaml"},
	"zerotrust":                       {"internal/jsonapi", "internal/vfs", "seal", "zerotrust/policy"},
	"zerotrust/audit":                 {"seal", "internal/vfs"},
}

// importsTesting is the one dependency whose production build has package testing in it.
const importsTesting = "github.com/libp2p/go-libp2p-kad-dht"

// pure are the rooms that may not import wire.
var pure = []string{"agent", "agent/live", "agent/lock", "agent/spans", "analyze", "analyze/change", "analyze/price", "analyze/sched", "analyze/simulate", "optimize/judge", "optimize/patch", "optimize/pgo", "profile"}

// roomOf is the room that a package belongs to: itself, but for the tree of generated code.
func roomOf(pkg string) string {
	if pkg == "wire" || strings.HasPrefix(pkg, "wire/") {
		return "wire"
	}
	return pkg
}

type pkg struct {
	ImportPath, Doc string
	Imports, Deps   []string
}

func TestLaw(t *testing.T) {
	readTree(t) // go list runs in a child: without this the test cache misses source edits
	cmd := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,Deps", "./...")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		if path == module {
			continue
		}
		room := roomOf(path)
		if p.Doc == "" && room != "wire" {
			t.Errorf("%s: no package comment", path)
		}
		// A room named ...test is for tests; nothing of a production build imports it, or this would say so there.
		// Of what others wrote, the DHT imports testing for an option of its own tests; who has it below has testing by it.
		if (slices.Contains(p.Imports, "testing") || slices.Contains(p.Deps, "testing") && !slices.Contains(p.Deps, importsTesting)) && !strings.HasSuffix(room, "test") {
			t.Errorf("%s: production build imports testing", path)
		}
		if strings.HasPrefix(room, "cmd/") {
			continue
		}
		allowed, ok := law[room]
		if !ok {
			t.Errorf("%s: not a room in the law", room)
		}
		seen[room] = true
		for _, imp := range p.Imports {
			r, ours := strings.CutPrefix(imp, module+"/")
			if to := roomOf(r); ours && to != room && !slices.Contains(allowed, to) && !(to == "wire" && !slices.Contains(pure, room)) {
				t.Errorf("%s may not import %s", room, to)
			}
		}
	}
	if len(seen) != len(law) {
		t.Errorf("law names %d rooms, tree has %d", len(law), len(seen))
	}
}

// TestAgentIsStandardLibraryOnly: what a program builds that imports agent or agent/lock is the
// standard library and rooms of ours of which the same is true. The rooms beside them that need more
// (agent/spans) are not among them.
func TestAgentIsStandardLibraryOnly(t *testing.T) {
	readTree(t)
	out, err := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}} {{.Standard}}", "./agent", "./agent/lock").Output()
	if err != nil {
		t.Fatal(err)
	}
	std, self := 0, false
	for line := range strings.Lines(string(out)) {
		path, standard, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch r, ours := strings.CutPrefix(path, module+"/"); {
		case standard == "true":
			std++
		case !ours:
			t.Errorf("who imports agent builds %s, which is not of the standard library", path)
		case r == "agent":
			self = true
		default:
			t.Logf("agent has %s", r) // its own dependencies are in this list, too
		}
	}
	if !self || std < 50 {
		t.Errorf("agent itself is in the list: %v, with %d packages of the standard library: the test shows nothing", self, std)
	}
}

// TestOneRuleOfSignatures: nothing but seal verifies Ed25519, tests included, as the standard library's rule is another than seal's. It was shown
// red on a call, on the function as a value, under another name of the package, and on curve25519-voi outside seal.
func TestOneRuleOfSignatures(t *testing.T) {
	const std, voi = "crypto/ed25519", "github.com/oasisprotocol/curve25519-voi"
	files, signing := 0, 0
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		p = filepath.ToSlash(p)
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") {
			return err
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files++
		name := ""
		for _, spec := range f.Imports {
			switch path := strings.Trim(spec.Path.Value, "\""); {
			case path == std:
				signing++
				name = "ed25519"
				if spec.Name != nil {
					name = spec.Name.Name
				}
			case strings.HasPrefix(path, voi) && !strings.HasPrefix(p, "seal/") && (path != voi+"/primitives/x25519" || !strings.HasPrefix(p, "p2p/noise/")):
				t.Errorf("%s imports %s: seal alone does, but for X25519, which p2p/noise has, too", p, path)
			}
		}
		if name == "" || strings.HasPrefix(p, "seal/") && strings.HasSuffix(p, "_test.go") {
			return nil
		}
		if name == "." {
			t.Errorf("%s imports %s without a name: what it calls cannot be told", p, std)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && strings.HasPrefix(s.Sel.Name, "Verify") {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == name {
					t.Errorf("%s: %s.%s is another rule than seal's: use seal.PublicKey's Verify or VerifyNote", set.Position(s.Pos()), name, s.Sel.Name)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || files < len(law) || signing < 3 {
		t.Errorf("read %d files, %d of them import %s: %v", files, signing, std, err)
	}
}

// readTree opens every Go file so that the go command counts them as this test's inputs.
func readTree(t *testing.T) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") && p != "go.mod" {
			return err
		}
		n++
		_, err = os.ReadFile(p)
		return err
	})
	if err != nil || n < len(law) {
		t.Fatalf("read %d files: %v", n, err)
	}
}
