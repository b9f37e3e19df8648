package analyze

import (
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// codeKind says whose code a function is: what the reader can change, and what only takes part.
type codeKind uint8

const (
	codeOwn      codeKind = iota
	codeLibrary           // of others, as far as known by name
	codeStandard          // Go's standard library
	codeRuntime           // Go's runtime, and what it is made of
	codeProfiler          // what takes the profiles
	codeRoot              // where every stack begins
)

// standardPackages are the first elements of the import paths of Go's standard library.
var standardPackages = wordSet(`archive bufio bytes cmp compress container context crypto database debug embed encoding errors expvar flag fmt go hash
	html image index internal io iter log maps math mime net os path plugin reflect regexp runtime slices sort strconv strings structs sync syscall
	testing text time unicode unique unsafe vendor weak type`)

// runtimePrefixes are packages that the compiler puts under everything. A function of theirs is never what to change.
var runtimePrefixes = []string{"runtime.", "runtime/internal/", "internal/runtime/", "internal/bytealg.", "internal/abi.", "internal/cpu.", "internal/goarch.", "type:."}

// profilerPrefixes are what costs a program its profiling.
var profilerPrefixes = []string{
	"github.com/quantra-l/quantra/agent", "github.com/grafana/pyroscope-go", "cloud.google.com/go/profiler.", "runtime/pprof.(*profileBuilder)",
	"runtime/pprof.profileWriter", "runtime/pprof.writeRuntimeProfile", "runtime/pprof.writeHeap", "net/http/pprof.",
}

// libraryPrefixes are modules that most programs only use. A list is never whole: what is missing counts as the reader's own, and
// then the name in a finding is one frame deeper than would help most.
var libraryPrefixes = []string{
	"golang.org/x/", "google.golang.org/", "go.opentelemetry.io/", "k8s.io/", "sigs.k8s.io/", "gopkg.in/", "go.uber.org/", "go.mongodb.org/", "cloud.google.com/",
	"connectrpc.com/", "modernc.org/", "gorm.io/", "github.com/aws/", "github.com/Azure/", "github.com/bytedance/sonic", "github.com/cespare/xxhash",
	"github.com/gin-gonic/gin", "github.com/go-chi/chi", "github.com/go-redis/", "github.com/go-sql-driver/", "github.com/gogo/protobuf", "github.com/goccy/go-json",
	"github.com/golang/", "github.com/google/", "github.com/gorilla/", "github.com/jackc/pgx", "github.com/json-iterator/", "github.com/klauspost/", "github.com/labstack/echo",
	"github.com/lib/pq", "github.com/mattn/", "github.com/parquet-go/", "github.com/pierrec/", "github.com/prometheus/client_golang", "github.com/redis/", "github.com/rs/zerolog",
	"github.com/segmentio/", "github.com/sirupsen/logrus", "github.com/valyala/", "github.com/zeebo/",
}

func wordSet(s string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(s) {
		m[w] = true
	}
	return m
}

func hasAnyPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// codeOf is whose a Go function is, by its name.
func codeOf(name string) codeKind {
	switch name {
	case "runtime.main", "runtime.goexit", "main.main", "testing.tRunner", "root", "total":
		return codeRoot
	}
	if hasAnyPrefix(name, profilerPrefixes) {
		return codeProfiler
	}
	if hasAnyPrefix(name, runtimePrefixes) {
		return codeRuntime
	}
	// What a function was made for, in brackets, has names of its own.
	path, _, _ := strings.Cut(name, "[")
	i := strings.IndexAny(path, "/.")
	if i < 0 {
		return codeRuntime // assembly without a package: memeqbody, aeshashbody
	}
	if first := path[:i]; path[i] == '.' && strings.Contains(packagePart(path), "/") {
		if hasAnyPrefix(path, libraryPrefixes) { // a host: github.com/...
			return codeLibrary
		}
		return codeOwn
	} else if standardPackages[first] {
		return codeStandard
	}
	return codeOwn
}

// packagePart is a name as far as its package goes: to the receiver, which may hold other packages' names.
func packagePart(path string) string {
	path, _, _ = strings.Cut(path, "(")
	return path
}

// isGo says whether a profile is of a Go program: by the runtime, and by methods of pointers, which only Go writes so.
func isGo(p *profile.Profile) bool {
	for i := range p.Functions {
		if n := p.Strings[p.Functions[i].Name]; strings.HasPrefix(n, "runtime.") || strings.Contains(n, ".(*") {
			return true
		}
	}
	return false
}

// shortFunction is a function's name without the path of its package: "demo.(*Cache).evict". What is within brackets keeps its own.
func shortFunction(name string) string {
	end := len(name)
	if i := strings.IndexAny(name, "[("); i >= 0 {
		end = i
	}
	if i := strings.LastIndexByte(name[:end], '/'); i >= 0 {
		return name[i+1:]
	}
	return name
}
