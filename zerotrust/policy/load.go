package policy

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// ErrPolicy says that a file is no policy, or no schema. The error that wraps it says what is wrong where: it is an [Errors].
var ErrPolicy = errors.New("not a policy")

// Bounds of what Load reads.
const (
	MaxFile     = 256 << 10 // bytes of a file
	MaxFiles    = 64        // files of a folder
	MaxPolicies = 1024      // policies of a set
	maxEntries  = 4096      // entries of a folder, with those of folders in it
	maxPolicy   = 8 << 10   // bytes of a policy, which bounds how long a chain of && can be: checking it takes time with its square
	maxNesting  = 64        // parentheses, brackets, braces and ifs within each other
	maxErrors   = 20        // errors that are told at once
)

// Error is one thing that is wrong.
type Error struct {
	File         string
	Line, Column int // from 1; 0 where it is of the whole file
	Text         string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Text)
}

// Errors are all that is wrong, up to 20, in the order of the files.
type Errors []*Error

func (e Errors) Error() string {
	var lines []string
	for _, one := range e {
		lines = append(lines, one.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap is [ErrPolicy].
func (e Errors) Unwrap() error { return ErrPolicy }

// Set is policies, checked and compiled. It does not change; it is safe for concurrent use.
type Set struct {
	policies   []*compiled
	ids        []string        // of policies, in their order
	programs   [5][7][]program // by kind, action and place of the path's first segment in firsts, and one for all other paths
	firsts     map[string]int
	attributes map[string]bool // declared ones
	roles      []string        // declared ones: at most 64, the bits of facts.roles
	files      []string
	digest     string

	lists   atomic.Pointer[map[listKey][]string]
	keeping sync.Mutex // of lists, for who adds to it
}

// compiled is one policy.
type compiled struct {
	id         string
	doc        string
	file       string
	line       int
	forbid     bool
	conditions Conditions
	ast        *ast.Policy
	alone      cedar.PolicyMap // it alone, for cedar-go
	native     bool            // for all kinds and actions
}

// program is what has to be tested for one kind of principal, one action and one first segment of paths.
type program struct{ forbids, permits []step }

// step is one policy: it matches where all tests hold. Where cedar says so they are those of its scope alone, and cedar-go decides the rest.
type step struct {
	tests  []test
	policy uint16
	cedar  bool
}

// Len is how many policies there are.
func (s *Set) Len() int { return len(s.policies) }

// IDs are the policies' ids, in the order of files and lines.
func (s *Set) IDs() []string { return slices.Clone(s.ids) }

// Files are those that were read.
func (s *Set) Files() []string { return slices.Clone(s.files) }

// Digest names what the set was made of: the SHA-256, in hex, of its files' names and bytes.
func (s *Set) Digest() string { return s.digest }

// sourceFile is one file.
type sourceFile struct {
	name string
	text []byte
}

//go:embed standard.cedar
var standardText []byte

// StandardText is the standard set as a file, to be kept in a folder and changed there.
func StandardText() string { return string(standardText) }

// standard is compiled when it is first asked for: it is what the binary has, so a fault in it is one of the build, which its test finds.
var standard = sync.OnceValue(func() *Set {
	s, err := compile([]sourceFile{{"standard.cedar", standardText}})
	if err != nil {
		panic(err)
	}
	return s
})

// Standard is the set that holds where no folder is given: docs/policy.md has each of its policies.
func Standard() *Set { return standard() }

// Load reads a file of policies, or all *.cedar files of a folder in the order of their names, and at most one *.cedarschema, which declares
// signed attributes and roles. Names that begin with a dot are passed over, and so is what ends in anything else. What is wrong with them is
// [Errors]; no policies at all is wrong, too.
func Load(dirOrFile string) (*Set, error) {
	files, err := read(dirOrFile)
	if err != nil {
		return nil, err
	}
	return compile(files)
}

// Parse is Load of one file's text.
func Parse(name, text string) (*Set, error) {
	if len(text) > MaxFile {
		return nil, Errors{{File: name, Text: fmt.Sprintf("it is larger than %d bytes", MaxFile)}}
	}
	return compile([]sourceFile{{name, []byte(text)}})
}

func wanted(name string) bool {
	return !strings.HasPrefix(name, ".") && (path.Ext(name) == ".cedar" || path.Ext(name) == ".cedarschema")
}

// read reads what Load is of, in the order of names.
func read(dirOrFile string) ([]sourceFile, error) {
	info, err := os.Stat(dirOrFile)
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	if !info.IsDir() {
		text, err := readFile(dirOrFile)
		return []sourceFile{{dirOrFile, text}}, err
	}
	var files []sourceFile
	entries := 0
	err = fs.WalkDir(os.DirFS(dirOrFile), ".", func(name string, d fs.DirEntry, err error) error {
		hidden := name != "." && strings.HasPrefix(d.Name(), ".")
		switch {
		case err != nil:
			return err
		case hidden && d.IsDir():
			return fs.SkipDir // the versions of a mounted ConfigMap, to which the names above are links
		case hidden || d.IsDir() || !wanted(d.Name()):
		case path.Dir(name) != ".":
			return &Error{File: filepath.Join(dirOrFile, name), Text: "policies lie in the folder itself, not in a folder within it; move it up or rename it"}
		case len(files) == MaxFiles:
			return &Error{File: dirOrFile, Text: fmt.Sprintf("it has more than %d files of policies", MaxFiles)}
		default:
			text, err := readFile(filepath.Join(dirOrFile, name))
			if err != nil {
				return err
			}
			files = append(files, sourceFile{filepath.Join(dirOrFile, name), text})
		}
		if entries++; entries > maxEntries {
			return &Error{File: dirOrFile, Text: fmt.Sprintf("it has more than %d entries; is it the folder that you mean?", maxEntries)}
		}
		return nil
	})
	var wrong *Error
	if errors.As(err, &wrong) {
		return nil, Errors{wrong}
	}
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	if len(files) == 0 {
		return nil, Errors{{File: dirOrFile, Text: noPolicies}}
	}
	return files, nil
}

// readFile reads a regular file of at most MaxFile bytes.
func readFile(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	if !info.Mode().IsRegular() { // opening a pipe would wait for ever
		return nil, Errors{{File: name, Text: "it is not a regular file"}}
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("policies: %w", err)
	}
	if len(text) > MaxFile {
		return nil, Errors{{File: name, Text: fmt.Sprintf("it is larger than %d bytes", MaxFile)}}
	}
	return text, nil
}

// digestOf names files by their names, without folders, and their bytes.
func digestOf(files []sourceFile) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%d %s %d\n", len(filepath.Base(f.name)), filepath.Base(f.name), len(f.text))
		h.Write(f.text)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// compile makes a set of files.
func compile(files []sourceFile) (*Set, error) {
	s := &Set{digest: digestOf(files)}
	s.lists.Store(&map[listKey][]string{})
	m, wrong := modelOf(files)
	if wrong != nil {
		return nil, wrong
	}
	s.attributes, s.roles = m.attributes, m.roles
	var all Errors
	lines := map[string]string{} // where an id was given
	for _, f := range files {
		s.files = append(s.files, f.name)
		if path.Ext(f.name) == ".cedarschema" {
			continue
		}
		texts, wrong := parse(f)
		if wrong != nil {
			all = append(all, wrong)
			continue
		}
		for _, t := range texts {
			if len(all) >= maxErrors {
				break
			}
			p, wrong := m.compile(t)
			all = append(all, wrong...)
			if wrong != nil {
				continue
			}
			if at, ok := lines[p.id]; ok {
				all = append(all, t.wrong("@id", "the id %q is given twice, at %s as well; each must be one policy's", p.id, at))
			}
			lines[p.id] = fmt.Sprintf("%s:%d", p.file, p.line)
			s.policies, s.ids = append(s.policies, p), append(s.ids, p.id)
		}
	}
	switch {
	case len(all) > 0:
		return nil, all[:min(len(all), maxErrors)]
	case len(s.policies) == 0:
		return nil, Errors{{File: nameOf(files), Text: noPolicies}}
	case len(s.policies) > MaxPolicies:
		return nil, Errors{{File: nameOf(files), Text: fmt.Sprintf("there are %d policies, more than %d", len(s.policies), MaxPolicies)}}
	}
	s.link()
	return s, nil
}

const noPolicies = "there are no policies, which would deny everything; write a file that ends in .cedar, as `quantraband policy standard` does"

// nameOf names files as a whole.
func nameOf(files []sourceFile) string {
	if len(files) == 1 {
		return files[0].name
	}
	return filepath.Dir(files[0].name)
}

// maxFirsts is how many first segments have programs of their own: those that most policies name.
const maxFirsts = 16

// link makes the programs.
func (s *Set) link() {
	type linked struct {
		test  *test
		cedar bool
	}
	var all [5][7][]linked
	named := map[string]int{}
	for _, p := range s.policies {
		p.native = true
		for kind := range Kinds {
			for action := range Actions {
				c := compiler{kind, action, s.roles}
				l := linked{test: c.scope(p.ast)}
				if cond, ok := c.conditions(p.ast); ok {
					l.test = and(l.test, cond)
				} else {
					l.cedar, p.native = true, false
				}
				l.test.firsts(named)
				all[kind][action] = append(all[kind][action], l)
			}
		}
	}
	firsts := slices.SortedFunc(maps.Keys(named), func(a, b string) int {
		return cmp.Or(cmp.Compare(named[b], named[a]), cmp.Compare(a, b))
	})
	firsts = firsts[:min(len(firsts), maxFirsts)]
	s.firsts = map[string]int{}
	for i, first := range firsts {
		s.firsts[first] = i
	}
	for kind := range all {
		for action := range all[kind] {
			programs := make([]program, len(firsts)+1)
			for at := range programs {
				for i, l := range all[kind][action] {
					t := l.test
					if at < len(firsts) {
						t = t.under(firsts[at])
					}
					if t != never {
						programs[at].add(s.policies[i].forbid, step{tests: t.conjuncts(), policy: uint16(i), cedar: l.cedar})
					}
				}
			}
			s.programs[kind][action] = programs
		}
	}
}

func (p *program) add(forbid bool, st step) {
	if forbid {
		p.forbids = append(p.forbids, st)
	} else {
		p.permits = append(p.permits, st)
	}
}

// programFor is the program that decides a request.
func (s *Set) programFor(f *facts) *program {
	programs := s.programs[f.kind][f.action]
	if at, ok := s.firsts[firstSegment(f.r.Resource)]; ok {
		return &programs[at]
	}
	return &programs[len(programs)-1]
}

// compile checks one policy against the model.
func (m *model) compile(t *policyText) (*compiled, Errors) {
	p := &compiled{file: t.file, line: t.line, forbid: t.ast.Effect == ast.EffectForbid, ast: t.ast}
	p.id = fmt.Sprintf("%s:%d", filepath.Base(t.file), t.line)
	if column := t.ast.Position.Column; column > 1 {
		p.id = fmt.Sprintf("%s:%d", p.id, column)
	}
	if wrong := p.annotate(t); wrong != nil {
		return nil, Errors{wrong}
	}
	var all Errors
	all = append(all, m.lint(t)...)
	if err := m.validator.Policy("", t.ast); err != nil {
		all = append(all, m.validation(t, err)...)
	}
	if len(all) > 0 {
		return nil, all
	}
	p.alone = cedar.PolicyMap{cedar.PolicyID(p.id): cedar.NewPolicyFromAST(t.public)}
	return p, nil
}
