package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
)

// oracle decides by cedar-go alone, all policies at once, and by the rules of docs/policy.md written a second time.
func oracle(s *Set, r *Request) Result {
	if _, why := factsOf(r); why != "" {
		return Result{Reason: why}
	}
	all := cedar.PolicyMap{}
	for _, p := range s.policies {
		all[cedar.PolicyID(p.id)] = p.alone[cedar.PolicyID(p.id)]
	}
	q := s.ask(*r)
	decision, diag := cedar.Authorize(all, q.entities, q.request)
	var ids []string
	for _, reason := range diag.Reasons {
		ids = append(ids, string(reason.PolicyID))
	}
	slices.SortFunc(ids, func(a, b string) int { return slices.Index(s.ids, a) - slices.Index(s.ids, b) })
	switch {
	case decision == cedar.Deny && len(ids) > 0:
		return Result{Policies: ids, Reason: reasonForbidden}
	case len(diag.Errors) > 0:
		return Result{Reason: reasonError}
	case len(ids) == 0:
		return Result{Reason: reasonNone}
	}
	res := Result{Policies: ids, Allow: true, Reason: reasonAllowed}
	strongest := 0
	for _, p := range s.policies {
		if !slices.Contains(ids, p.id) {
			continue
		}
		a := all[cedar.PolicyID(p.id)].Annotations()
		res.Conditions.MFA = res.Conditions.MFA || a["mfa"] != ""
		res.Conditions.ReadOnly = res.Conditions.ReadOnly || a["read_only"] != ""
		if i := slices.Index(Isolations, string(a["isolation"])); i > strongest {
			strongest = i
		}
		if a["rate"] != "" {
			rate, _ := ParseRate(string(a["rate"]))
			if was := res.Conditions.Rate; was != (Rate{}) {
				rate = Rate{min(rate.Burst, was.Burst), max(rate.Every, was.Every)}
			}
			res.Conditions.Rate = rate
		}
	}
	res.Conditions.Isolation = Isolations[strongest]
	switch {
	case res.Conditions.MFA && !r.MFA:
		res.Allow, res.Reason = false, reasonMFA
	case slices.Index(Isolations, r.Isolation) < strongest:
		res.Allow, res.Reason = false, reasonIsolation
	case res.Conditions.ReadOnly && !slices.Contains([]string{"connect", "subscribe", "read"}, r.Action):
		res.Allow, res.Reason = false, reasonReadOnly
	}
	return res
}

// agree compares the set's answer with the oracle's.
func agree(t *testing.T, s *Set, r *Request) Result {
	t.Helper()
	got, want := s.Decide(r), oracle(s, r)
	if got.Allow != want.Allow || got.Reason != want.Reason || got.Conditions != want.Conditions || !slices.Equal(got.Policies, want.Policies) {
		t.Fatalf("%+v:\nwe   %+v\nCedar %+v\n", *r, got, want)
	}
	return got
}

// generator makes policies and requests of few words, so that they meet.
type generator struct{ *rand.Rand }

func (g generator) one(of ...string) string { return of[g.IntN(len(of))] }

var (
	somePaths  = []string{"critical", "critical/keys", "profiles", "profiles/raw", "profiles/raw/a", "profiles/rawer", "profiles/aggregate/a", "topic/chat", "peer/p1", "x", "x/y/z"}
	someIDs    = []string{"p1", "p2", "a", "alice"}
	someTeams  = []string{"a", "b", ""}
	someTimes  = []string{"2026-01-01", "2026-06-01T12:00:00Z", "1970-01-01"}
	someRanges = []string{"10.0.0.0/8", "10.1.2.3", "127.0.0.0/8", "::1", "::/0", "0.0.0.0/0", "fe80::/10", "::ffff:a00:0/104"}
	someAddrs  = []string{"10.1.2.3", "11.0.0.1", "127.0.0.1", "::1", "fe80::1%eth0", "::ffff:10.1.2.3", "::ffff:127.0.0.1"}
)

func (g generator) path() string { return fmt.Sprintf("Path::%q", g.one(somePaths...)) }

func (g generator) group() string {
	switch g.IntN(5) {
	case 0, 1:
		return fmt.Sprintf("Role::%q", g.one(Roles...))
	case 2, 3:
		return fmt.Sprintf("Level::%q", g.one(levels...))
	}
	return g.who()
}

func (g generator) who() string {
	return fmt.Sprintf("%s::%q", g.one("Peer", "Agent", "Person", "Token", "Service"), g.one(someIDs...))
}

func (g generator) act() string { return fmt.Sprintf("Action::%q", g.one(Actions...)) }

func (g generator) text() string {
	return g.one("principal.id", "resource.path", "resource.name", fmt.Sprintf("%q", g.one(slices.Concat(someIDs, somePaths)...)))
}

// boolean is an expression, mostly of what is native.
func (g generator) boolean(depth int) string {
	if depth > 0 && g.IntN(3) > 0 {
		a, b := g.boolean(depth-1), g.boolean(depth-1)
		switch g.IntN(6) {
		case 0, 1:
			return "(" + a + " && " + b + ")"
		case 2, 3:
			return "(" + a + " || " + b + ")"
		case 4:
			return "!(" + a + ")"
		}
		return "(if " + a + " then " + b + " else " + g.boolean(depth-1) + ")"
	}
	compare := g.one("<", "<=", ">", ">=", "==", "!=")
	switch g.IntN(22) {
	case 0, 1:
		return "principal in " + g.group()
	case 2:
		return g.one(
			fmt.Sprintf("principal in [Role::%q, Role::%q]", g.one(Roles...), g.one(Roles...)),
			fmt.Sprintf("principal in [Level::%q, Level::%q]", g.one(levels...), g.one(levels...)),
			fmt.Sprintf("principal in [Peer::%q, Peer::%q]", g.one(someIDs...), g.one(someIDs...)))
	case 3, 4:
		return "resource in " + g.path()
	case 5:
		return "resource in [" + g.path() + ", " + g.path() + "]"
	case 6:
		return "resource " + g.one("==", "!=") + " " + g.path()
	case 7:
		return "action in [" + g.act() + ", " + g.act() + "]"
	case 8:
		return "principal is " + g.one("Peer", "Person", "Agent") + g.one("", " in "+g.group())
	case 9:
		return fmt.Sprintf("principal.trust %s %d", compare, g.IntN(110)-5)
	case 10:
		return fmt.Sprintf("%d %s principal.trust", g.IntN(110)-5, compare)
	case 11:
		return g.one("principal.mfa", "principal.mfa == true", "false != principal.mfa", "true", "principal.mfa == (resource in "+g.path()+")")
	case 12:
		return g.text() + " " + g.one("==", "!=") + " " + g.text()
	case 13:
		return g.text() + " like \"" + g.one("*", "p*", "*a*", "profiles/*", "*/a", "profiles/*/a", "", "p1", `\*`) + "\""
	case 14:
		return fmt.Sprintf("(principal.attributes has team && principal.attributes.team %s %s)", g.one("==", "!="), g.one(`"a"`, "resource.name", `""`))
	case 15:
		return `(principal.attributes has team && ["a", "c"].contains(principal.attributes.team))`
	case 16:
		return fmt.Sprintf("context.isolation %s Isolation::%q", g.one("in", "==", "!="), g.one("none", "wasm", "process", "oci", "microvm"))
	case 17:
		return fmt.Sprintf("(context has remote && context.remote.%s)", g.one("isLoopback()", fmt.Sprintf("isInRange(ip(%q))", g.one(someRanges...))))
	case 18:
		return fmt.Sprintf("context.time %s datetime(%q)", compare, g.one(someTimes...))
	case 19: // what follows is not native
		return g.one("principal.trust + 1 > 30", "principal.trust * 9223372036854775807 > 0", "[principal.trust, 50].contains(50)")
	case 20:
		return g.one(`context.time.toTime() < duration("12h")`, "(context has remote && context.remote.isIpv6())")
	}
	return "principal == " + g.who()
}

func (g generator) policy(i int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "@id(\"p%d\")\n", i)
	effect := g.one("permit", "permit", "permit", "forbid")
	if effect == "permit" {
		b.WriteString(g.one("", "", "", `@mfa("required")`, `@read_only("true")`, `@isolation("process") @rate("7/m")`, `@rate("10/s")`, `@isolation("wasm")`) + "\n")
	}
	b.WriteString(effect + " (principal" + g.one("", "", "", " == "+g.who(), " in "+g.group(), " is Person", " is Peer in "+g.group()))
	b.WriteString(", action" + g.one("", "", " == "+g.act(), " in ["+g.act()+", "+g.act()+", "+g.act()+"]"))
	b.WriteString(", resource" + g.one("", "", " == "+g.path(), " in "+g.path(), " is Path", " is Path in "+g.path()) + ")\n")
	for range g.IntN(3) {
		fmt.Fprintf(&b, "%s { %s }\n", g.one("when", "when", "unless"), g.boolean(2))
	}
	return b.String() + ";\n"
}

func (g generator) request() *Request {
	trust := g.IntN(101)
	r := &Request{
		Principal: g.one(someIDs...), Kind: g.one(Kinds...), Action: g.one(Actions...), Resource: g.one(somePaths...),
		Trust: trust, Level: LevelOf(trust), MFA: g.IntN(2) == 0, Isolation: g.one(Isolations...),
		Time: time.Date(2026, time.Month(1+g.IntN(12)), 1, g.IntN(24), 0, 0, g.IntN(1e9), time.UTC),
	}
	if r.Level > Untrusted && g.IntN(4) == 0 {
		r.Level--
	}
	for range g.IntN(3) {
		r.Roles = append(r.Roles, g.one(slices.Concat(Roles, []string{"stranger"})...))
	}
	if g.IntN(2) == 0 {
		r.Attributes = map[string]string{"team": g.one(someTeams...), "undeclared": "a"}
	}
	if g.IntN(2) == 0 {
		r.Remote = netip.MustParseAddr(g.one(someAddrs...))
	}
	return r
}

const teamSchema = "type Attributes = { team?: String };\n"

func withTeam(t testing.TB, text string) (*Set, error) {
	t.Helper()
	return compile([]sourceFile{{"a.cedarschema", []byte(teamSchema)}, {"b.cedar", []byte(text)}})
}

// TestAgree: on random sets and requests we say what cedar-go says, with the same policies and conditions.
func TestAgree(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(7, 3))}
	sets, native, allowed, forbidden, failed, taken := 400, 0, 0, 0, 0, 0
	for range sets {
		var text strings.Builder
		for i := range 1 + g.IntN(8) {
			text.WriteString(g.policy(i))
		}
		s, err := withTeam(t, text.String())
		if err != nil {
			if strings.Contains(err.Error(), "it can never match") { // a scope that meets nothing, as Peer in Person::"x"
				continue
			}
			t.Fatalf("%v:\n%s", err, &text)
		}
		taken++
		for range 60 {
			res := agree(t, s, g.request())
			native += count(res.Native)
			allowed += count(res.Allow)
			forbidden += count(res.Reason == reasonForbidden)
			failed += count(res.Reason == reasonError)
		}
	}
	n := 60 * taken
	t.Logf("%d sets, %d requests: %d native, %d allowed, %d forbidden, %d failed", taken, n, native, allowed, forbidden, failed)
	if taken < sets/2 || native < n/3 || native > n*9/10 || allowed < n/20 || forbidden < n/20 || failed < n/1000 {
		t.Error("the generator no longer makes what is to be compared")
	}
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestAgreeStandard: the standard set is native, and decides as cedar-go does.
func TestAgreeStandard(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(7, 4))}
	s := Standard()
	allowed := 0
	for range 20000 {
		res := agree(t, s, g.request())
		if !res.Native {
			t.Fatal("the standard set needs cedar-go")
		}
		allowed += count(res.Allow)
	}
	if allowed < 200 {
		t.Errorf("%d of 20000 were allowed: the comparison shows little", allowed)
	}
}

// TestUndeclared: an attribute that no schema declares is not there, however it is asked for: the validator has not seen what hangs on it.
func TestUndeclared(t *testing.T) {
	for _, declared := range []string{"team", "undeclared"} {
		s, err := withTeam(t, "permit (principal, action, resource) when { (if principal.mfa then principal.attributes else principal.attributes) has "+declared+" };")
		if err != nil {
			t.Fatal(err)
		}
		r := benchRequest
		r.Attributes = map[string]string{declared: "x"}
		if res := s.Decide(&r); res.Allow != (declared == "team") || res.Native {
			t.Errorf("%s: %+v", declared, res)
		}
	}
}

// FuzzPolicy: whatever text is taken decides as cedar-go says; whatever is not is refused with its file.
func FuzzPolicy(f *testing.F) {
	for i, one := range strings.Split(string(standardText), "\n@id")[1:] { // one by one, as small seeds are quicker to work on
		f.Add("@id"+one, uint64(i))
	}
	f.Add("permit(principal, action, resource);", uint64(2))
	f.Add(`@id("a") @rate("5/s") permit(principal is Peer in Level::"basic", action == Action::"send", resource in Path::"topic") unless { principal.trust * 9223372036854775807 > 0 };`, uint64(3))
	f.Add(`permit(principal, action, resource) when { if context has remote then context.remote.isInRange(ip("10.0.0.0/8")) else context.time < datetime("2026-01-01") };`, uint64(4))
	f.Add(`forbid(principal, action, resource) when { principal.attributes has team && resource.path like "*\u{2a}/a" };`, uint64(5))
	f.Add("permit(principal, action, resource) when { "+strings.Repeat("(", 70)+"true"+strings.Repeat(")", 70)+" };", uint64(6))
	f.Add("permit(principal, action, resource) when { "+strings.Repeat("(", 60)+"principal.mfa"+strings.Repeat(" == principal.mfa)", 60)+" };", uint64(7)) // once took 2^60 steps
	g := generator{rand.New(rand.NewPCG(7, 5))}
	for i := range 10 {
		f.Add(g.policy(1)+g.policy(2), uint64(i))
	}
	f.Fuzz(func(t *testing.T, text string, seed uint64) {
		s, err := withTeam(t, text)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "b.cedar") && !strings.HasPrefix(line, ".") {
					t.Fatalf("no file: %q", line)
				}
				break
			}
			return
		}
		g := generator{rand.New(rand.NewPCG(seed, 1))}
		for range 20 {
			r := g.request()
			res := agree(t, s, r)
			if _, verdicts := s.Explain(r); len(verdicts) != s.Len() {
				t.Fatalf("%d verdicts", len(verdicts))
			} else {
				for _, v := range verdicts {
					if v.Decides && !v.Matches {
						t.Fatalf("%s decides %+v and does not match: %s", v.ID, res, v.Why)
					}
				}
			}
		}
	})
}

var benchRequest = Request{Principal: "alice", Kind: "person", Roles: []string{"analyst"}, Action: "read", Resource: "profiles/aggregate/checkout", Trust: 60, Level: Verified, Time: TestTime}

// onePolicy is what the figure of a single policy is of.
const onePolicy = `permit (principal in Role::"analyst", action == Action::"read", resource in Path::"profiles") when { principal.trust > 50 };`

func BenchmarkDecide(b *testing.B) {
	one, err := Parse("one.cedar", onePolicy)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		set  *Set
	}{{"one", one}, {"standard", Standard()}} {
		b.Run(c.name+"/native", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !c.set.Decide(&benchRequest).Allow {
					b.Fatal("denied")
				}
			}
		})
		all := cedar.PolicyMap{}
		for _, p := range c.set.policies {
			all[cedar.PolicyID(p.id)] = p.alone[cedar.PolicyID(p.id)]
		}
		b.Run(c.name+"/cedar", func(b *testing.B) { // with the entities made for each request, as they must be
			b.ReportAllocs()
			for b.Loop() {
				q := c.set.ask(benchRequest)
				if d, _ := cedar.Authorize(all, q.entities, q.request); d != cedar.Allow {
					b.Fatal("denied")
				}
			}
		})
		q := c.set.ask(benchRequest)
		b.Run(c.name+"/cedar-prepared", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if d, _ := cedar.Authorize(all, q.entities, q.request); d != cedar.Allow {
					b.Fatal("denied")
				}
			}
		})
	}
}

// BenchmarkLoad is of the largest set that is taken, with as many first segments of paths.
func BenchmarkLoad(b *testing.B) {
	dir := b.TempDir()
	for i := range 8 {
		var text strings.Builder
		for j := range MaxPolicies / 8 {
			fmt.Fprintf(&text, "permit (principal in Role::\"reader\", action, resource in Path::\"s%d/x\") when { principal.trust > %d && resource.path like \"*%d\" };\n", 8*j+i, j%100, j)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.cedar", i)), []byte(text.String()), 0o666); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := Load(dir); err != nil {
			b.Fatal(err)
		}
	}
}
