package policy_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/zerotrust/policy"
)

// TestWrong: each slip is refused at its place, with what to do.
func TestWrong(t *testing.T) {
	scope := "permit (principal, action, resource)"
	for text, want := range map[string]string{
		"":                                    "p.cedar: there are no policies",
		"// nothing":                          "there are no policies",
		"permit":                              "p.cedar:1:7: it ends where \"(\" must be",
		scope + "\n" + scope + ";":            "p.cedar:2:1: there is \"permit\" where \";\" must be",
		scope + "\n  when { true };\n\nallow": "p.cedar:4:",
		scope + " when { \"open };":           "literal not terminated",
		scope + " when { 1 == 99999999999999999999 };":                                                       "p.cedar:1:50: 99999999999999999999 does not fit into 64 bits",
		scope + "\nwhen { principal.turst < 3 };":                                                            "p.cedar:2:18: attribute `turst` not found; a principal has id, trust, mfa",
		scope + "\nwhen { context.mfa };":                                                                    "p.cedar:2:16: attribute `mfa`",
		scope + "\nwhen { principal.trust == \"3\" };":                                                       "the types Long and String are not compatible",
		scope + "\nwhen { principal.trust };":                                                                "expected Bool but saw Long",
		scope + "\nwhen { context.remote.isLoopback() };":                                                    "p.cedar:2:16: unable to guarantee safety of access to optional attribute `remote`; ask for it first",
		scope + " when { ip(\"300.0.0.1\").isLoopback() };":                                                  "failed to parse as IP address",
		scope + " when { ip(principal.id).isLoopback() };":                                                   "non-literal",
		"permit (principal, action == Action::\"raed\", resource);":                                          "p.cedar:1:30: unrecognized action `Action::\"raed\"`",
		"permit (principal is Persn, action, resource);":                                                     "p.cedar:1:22: unrecognized entity type `Persn`",
		scope + " when { principal is Persn };":                                                              "there is no kind Persn",
		"permit (principal in Role::\"raeder\", action, resource);":                                          "p.cedar:1:22: there is no Role::\"raeder\"; there are reader, analyst",
		"permit (principal in Level::\"high\", action, resource);":                                           "there is no Level::\"high\"; there are untrusted, basic",
		"permit (principal in Path::\"x\", action, resource);":                                               "it can never match",
		"permit (principal is Peer in Person::\"x\", action, resource);":                                     "it can never match",
		scope + " when { principal in [Level::\"basic\", Role::\"reader\"] };":                               "not compatible",
		scope + " when { principal in Path::\"x\" };":                                                        "principal is never in Path::\"x\": it can be in Role, Level, Peer",
		scope + " when { resource in [Role::\"reader\"] };":                                                  "resource is never in Role::\"reader\"",
		scope + " when { resource is Path in Role::\"reader\" };":                                            "resource is never in Role::\"reader\"",
		scope + " when { context.isolation in Isolation::\"vm\" };":                                          "there is no Isolation::\"vm\"; there are none, wasm, process, oci, microvm",
		scope + " when { context.isolation in Level::\"basic\" };":                                           "context.isolation is never in",
		"permit (principal, action, resource in Path::\"critical/\");":                                       "Path::\"critical/\" can never match: a path is segments",
		scope + " when { resource in [Path::\"a\", Path::\"/b\"] };":                                         "Path::\"/b\" can never match",
		scope + " when { principal.attributes has team };":                                                   "principal.attributes never has \"team\"; there are []; declare it in a file that ends in .cedarschema: type Attributes = { team?: String };",
		scope + " when { context has remtoe };":                                                              "p.cedar:1:57: context never has \"remtoe\"; there are [isolation, time, remote]",
		scope + " when { principal has trsut };":                                                             "principal never has",
		"@mfa(\"yes\") " + scope + ";":                                                                       "p.cedar:1:1: @mfa(\"yes\"): it must be @mfa(\"required\")",
		"@mfa " + scope + ";":                                                                                "it must be @mfa(\"required\")",
		"@id(\"a\")\n@read_only(\"no\") " + scope + ";":                                                      "p.cedar:2:1: @read_only(\"no\")",
		"@isolation(\"\") " + scope + ";":                                                                    "it must be one of wasm, process, oci, microvm",
		"@isolation(\"none\") " + scope + ";":                                                                "it must be one of wasm",
		"@rate(\"often\") " + scope + ";":                                                                    "@rate: \"often\" must be a number",
		"@Rate(\"5/s\") " + scope + ";":                                                                      "@Rate: there is no such condition; there are @mfa",
		"@id(\"a b\") " + scope + ";":                                                                        "an id has 1 to 64 letters",
		"@id " + scope + ";":                                                                                 "an id has 1 to 64 letters",
		"@id(\"a\") @id(\"b\") " + scope + ";":                                                               "duplicate annotation",
		"@rate(\"5/s\") forbid (principal, action, resource);":                                               "a condition stands on a permit",
		"@id(\"a\") " + scope + ";\n@id(\"a\") " + scope + ";":                                               "p.cedar:2:1: the id \"a\" is given twice, at p.cedar:1 as well",
		scope + " when { " + strings.Repeat("(", 65) + "true" + strings.Repeat(")", 65) + " };":              "nests more than 64 deep",
		scope + " when { " + strings.Repeat("if true then ", 65) + "true" + strings.Repeat(" else true", 65): "nests more than 64 deep",
		scope + " when { " + strings.Repeat("[", 65) + " /* ]]] */ \"]]]\"":                                  "nests more than 64 deep",
		scope + ";" + scope + " when { " + strings.Repeat("true && ", 1100) + "true };":                      "p.cedar:1:38: the policy that follows here has more than 8192 bytes",
		strings.Repeat(" ", policy.MaxFile+1):                                                                "p.cedar: it is larger than 262144 bytes",
		strings.Repeat(scope+";", policy.MaxPolicies+1):                                                      "there are 1025 policies, more than 1024",
		"permit (principal == ?principal, action, resource);":                                                "p.cedar:1:",
		scope + " when { principal.attributes.team == \"x\" };":                                              "p.cedar:1:55: attribute `attributes.team` not found",
		"permit (principal in Role::\"a\\0b\", action, resource);":                                           "there is no Role::",
		scope + " when { principal.id like \"a\\q\" };":                                                      "p.cedar:1:",
		scope + " when { \xff };":                                                                            "p.cedar:1:",
		scope + " when { Role::\"x\" in Role::\"y\" };":                                                      "there is no Role::",
	} {
		s, err := policy.Parse("p.cedar", text)
		var list policy.Errors
		if s != nil || !errors.Is(err, policy.ErrPolicy) || !errors.As(err, &list) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v, want %q", text, err, want)
		}
	}
}

// TestAllSlips: slips of one folder are told together, a bound of them.
func TestAllSlips(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.cedar", "permit (principal, action, resource) when { principal.turst < 3 };\npermit (principal is Pear, action, resource);")
	write(t, dir, "b.cedar", "permit")
	_, err := policy.Load(dir)
	var list policy.Errors
	if !errors.As(err, &list) || len(list) != 3 || list[0].Line != 1 || list[1].Line != 2 || !strings.HasSuffix(list[2].File, "b.cedar") {
		t.Errorf("%v", err)
	}
	write(t, dir, "a.cedar", strings.Repeat("@x permit (principal, action, resource);\n", 100))
	if _, err := policy.Load(dir); !errors.As(err, &list) || len(list) != 20 {
		t.Errorf("%d", len(list))
	}
}

// TestFolder: which files of a folder count, and in which order.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.cedar": `@id("b") permit (principal, action, resource);`, "a.cedar": "\n" + `forbid (principal, action, resource in Path::"x");`,
		"README.md": "no policy", ".hidden.cedar": "no policy", "tests.yaml": "", "a.cedar~": "no policy", "A.CEDAR": "no policy",
		"s.cedarschema": `type Attributes = { team?: String }; entity Role enum ["sre"];`,
		"c.cedar":       `@id("c") permit (principal in Role::"sre", action, resource) when { principal.attributes has "team" };`,
	} {
		write(t, dir, name, text)
	}
	for _, sub := range []string{".versions", "tests"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, ".versions/x.cedar", "no policy")
	write(t, dir, "tests/x.yaml", "")
	s, err := policy.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.IDs(); !slices.Equal(got, []string{"a.cedar:2", "b", "c"}) || s.Len() != 3 || len(s.Files()) != 4 || len(s.Digest()) != 64 {
		t.Error(got, s.Files())
	}
	infos := s.Policies()
	if i := infos[0]; i.Effect != "forbid" || i.Line != 2 || i.File != filepath.Join(dir, "a.cedar") || !i.Native {
		t.Errorf("%+v", i)
	}
	again, err := policy.Load(dir)
	if err != nil || again.Digest() != s.Digest() {
		t.Error("the digest is not of the files alone", err)
	}
	write(t, dir, "b.cedar", `@id("b") permit  (principal, action, resource);`)
	if again, err = policy.Load(dir); err != nil || again.Digest() == s.Digest() {
		t.Error("the digest is not of the bytes", err)
	}
	one, err := policy.Load(filepath.Join(dir, "b.cedar"))
	if err != nil || one.Len() != 1 {
		t.Error(err)
	}
	// A link, as a mounted ConfigMap has them, is followed; a pipe is not waited for.
	if err := os.Symlink(filepath.Join(".versions", "d.cedar"), filepath.Join(dir, "d.cedar")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, ".versions/d.cedar", `@id("d") permit (principal, action, resource);`)
	if s, err := policy.Load(dir); err != nil || !slices.Contains(s.IDs(), "d") {
		t.Error(err)
	}
	for name, want := range map[string]string{"sub.cedar": "it is not a regular file", "tests/deep.cedar": "policies lie in the folder itself", "t.cedarschema": "is a schema as well"} {
		if name == "sub.cedar" {
			if err := os.Symlink(dir, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		} else {
			write(t, dir, name, "")
		}
		if _, err := policy.Load(dir); !errors.Is(err, policy.ErrPolicy) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := policy.Load(filepath.Join(dir, "nosuch")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	write(t, dir, "big.cedar", strings.Repeat(" ", policy.MaxFile+1))
	if _, err := policy.Load(dir); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Error(err)
	}
}

// TestSchemas: a folder's schema declares attributes and roles, and nothing else.
func TestSchemas(t *testing.T) {
	load := func(schema string) error {
		dir := t.TempDir()
		write(t, dir, "s.cedarschema", schema)
		write(t, dir, "p.cedar", permitAll)
		_, err := policy.Load(dir)
		return err
	}
	for _, ok := range []string{`type Attributes = { team?: String, "a b"?: String };`, `entity Role enum ["x", "y"];`, `entity Role enum ["x"]; type Attributes = {};`} {
		if err := load(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for schema, want := range map[string]string{
		"":                                    "s.cedarschema:1:1: a schema here has",
		"entity":                              "s.cedarschema:1:",
		"\ntype Attrs = {};":                  "s.cedarschema:2:6: the type Attrs: a schema here has",
		`entity Rule enum ["x"];`:             "the entity Rule",
		"entity Peer;":                        "a schema here has",
		`action "x";`:                         "a schema here has",
		"namespace X { entity A; }":           "a schema here has",
		"type Attributes = { team: String };": "s.cedarschema:1:21: the attribute \"team\" must be written as `team?: String`",
		"type Attributes = { n?: Long };":     "the attribute \"n\" must be written",
		"type Attributes = String;":           "Attributes must be a record",
		`entity Role enum [""];`:              "the role \"\" must have 1 to 64 bytes",
		"type Attributes = {" + strings.Repeat("a", 65) + "?: String};": "the attribute",
		strings.Repeat("{", 100): "nests more than 64 deep",
	} {
		if err := load(schema); !errors.Is(err, policy.ErrPolicy) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", schema, err, want)
		}
	}
	dir := t.TempDir()
	write(t, dir, "s.cedarschema", `entity Role enum ["sre"];`)
	write(t, dir, "p.cedar", `permit (principal in Role::"reader", action, resource);`)
	if _, err := policy.Load(dir); err == nil || !strings.Contains(err.Error(), `there is no Role::"reader"; there are sre`) {
		t.Error(err)
	}
}
