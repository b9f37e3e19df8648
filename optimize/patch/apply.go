package patch

import (
	"bytes"
	"cmp"
	"crypto/sha1" // SARIF's hashes may be SHA-1
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// File is a file before and after.
type File struct {
	Path          string
	Before, After []byte
	Touched       []Touched
}

// Touched is what a replacement changes: lines of the file before, and the function that they are in.
type Touched struct {
	// Function is as Price, Cart.Price or Cart.Price for a pointer's method, too; "" is none, or that the file is not Go.
	Function string
	From, To int // lines, both included
}

// Patch is what a fix makes of files.
type Patch struct {
	Files    []File
	Diff     string // unified, with three lines of context
	Warnings []string
}

type edit struct {
	from, to int
	text     string
}

// Apply is what one of the finding's fixes (from 1) makes of the files that it is of, which read has; ok is false where there is no such file. It refuses regions that are
// not in the file or overlap, a region that is not what its snippet says, a file that is not what its hash says, Go that does not parse, or was not formatted before,
// what is generated, and what changes nothing: each [ErrInvalid], but for errors of read.
func (f *Finding) Apply(fix int, read func(path string) (b []byte, ok bool, err error)) (*Patch, error) {
	fx, err := f.fix(fix)
	if err != nil {
		return nil, err
	}
	by := map[string][]replacement{}
	var paths []string
	for i := range fx.Changes {
		ch := &fx.Changes[i]
		p, err := f.path(&ch.Artifact)
		if err != nil {
			return nil, err
		}
		if _, ok := by[p]; !ok {
			paths = append(paths, p)
		}
		by[p] = append(by[p], ch.Replacements...)
	}
	if len(paths) > MaxFiles {
		return nil, wrong("result %d: the fix changes %d files; it may change at most %d", f.N, len(paths), MaxFiles)
	}
	slices.Sort(paths)
	var out Patch
	proven := true
	for _, p := range paths {
		b, ok, err := read(p)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, wrong("%s is not there: was the report made of another repository, or below another folder (--under)?", p)
		}
		file, sure, err := f.file(p, b, by[p])
		if err != nil {
			return nil, err
		}
		if file == nil {
			continue
		}
		proven = proven && sure
		d, err := Diff(p, file.Before, file.After)
		if err != nil {
			return nil, err
		}
		out.Diff += d
		out.Files = append(out.Files, *file)
	}
	switch {
	case len(out.Files) == 0:
		return nil, wrong("result %d: the fix changes nothing: is it in already?", f.N)
	case len(out.Diff) > MaxDiff:
		return nil, wrong("result %d: the change has %d bytes as a diff, and a patch has at most %d: make it by hand, or in parts", f.N, len(out.Diff), MaxDiff)
	}
	if !proven {
		out.Warnings = append(out.Warnings, "The report says neither what the changed text was nor a hash of the file: that they are still what it was made of nobody has checked. Read the diff.")
	}
	return &out, nil
}

// file is a file with its replacements made; nil where they leave it as it is. sure says that the report has proven to be of this file.
func (f *Finding) file(p string, b []byte, rs []replacement) (out *File, sure bool, err error) {
	t, err := newText(p, b, f.run)
	if err != nil {
		return nil, false, err
	}
	hashed, err := f.checkHash(p, b)
	if err != nil {
		return nil, false, err
	}
	sure = true
	var edits []edit
	inserted := 0
	for i := range rs {
		r := &rs[i]
		e, snippet, err := t.edit(r)
		if err != nil {
			return nil, false, wrong("%s, replacement %d of result %d: %s", p, i+1, f.N, reason(err))
		}
		sure = sure && (snippet || hashed)
		if inserted += len(e.text); inserted > maxInserted {
			return nil, false, wrong("%s: more than %d bytes are put in", p, maxInserted)
		}
		edits = append(edits, e)
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	var after []byte
	at := 0
	for _, e := range edits {
		if e.from < at {
			return nil, false, wrong("%s: two replacements overlap at line %d", p, t.lineOf(e.from))
		}
		after = append(append(after, b[at:e.from]...), e.text...)
		at = e.to
	}
	after = append(after, b[at:]...)
	if len(after) > MaxFile {
		return nil, false, wrong("%s would have %d bytes: at most %d", p, len(after), MaxFile)
	}
	out = &File{Path: p, Before: b}
	if out.After, err = formatted(p, b, after); err != nil {
		return nil, false, err
	}
	if bytes.Equal(out.After, b) {
		return nil, sure, nil
	}
	out.Touched = t.touched(p, edits)
	return out, sure, nil
}

// edit is a replacement in bytes. snippet says that the report had the text that goes, and it is that.
func (t *text) edit(r *replacement) (e edit, snippet bool, err error) {
	if e.from, e.to, err = t.span(&r.Deleted); err != nil {
		return e, false, err
	}
	if c := r.Inserted; c != nil {
		if c.Binary != nil {
			return e, false, wrong("what is put in is binary")
		}
		if c.Text != nil {
			e.text = *c.Text
		}
	}
	if strings.ContainsAny(e.text, "\x00\ufffd") {
		return e, false, wrong("what is put in is no text in UTF-8")
	}
	if strings.ContainsFunc(e.text, func(r rune) bool { return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 }) {
		return e, false, wrong("what is put in has characters that turn the direction of text: a reader would see other code than a compiler (CVE-2021-42574)")
	}
	e.text = lf(e.text)
	if bytes.Contains(t.b, []byte("\r\n")) {
		e.text = strings.ReplaceAll(e.text, "\n", "\r\n")
	}
	if s := r.Deleted.Snippet; s != nil && s.Text != nil {
		if have := string(t.b[e.from:e.to]); lf(have) != lf(*s.Text) {
			return e, false, wrong("line %d has %.200q where the report has %.200q: it was made of another version; lint that branch again", t.lineOf(e.from), have, *s.Text)
		}
		snippet = e.from < e.to
	}
	return e, snippet, nil
}

func lf(s string) string { return strings.ReplaceAll(s, "\r\n", "\n") }

// checkHash compares a file with what the report says its hash is (3.24.11), by the strongest that is known here.
func (f *Finding) checkHash(p string, b []byte) (hashed bool, err error) {
	hashes := map[string]string{}
	for name, h := range f.hashes(p) {
		hashes[strings.ToLower(name)] = strings.ToLower(h)
	}
	for _, h := range []struct {
		name string
		sum  func() string
	}{
		{"sha-512", func() string { s := sha512.Sum512(b); return hex.EncodeToString(s[:]) }},
		{"sha-256", func() string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }},
		{"sha-1", func() string { s := sha1.Sum(b); return hex.EncodeToString(s[:]) }},
	} {
		want, ok := hashes[h.name]
		if !ok {
			continue
		}
		if h.sum() != want {
			return false, wrong("%s is not the file that the report was made of, by its %s: lint that branch again", p, h.name)
		}
		return true, nil
	}
	return false, nil
}

// formatted is a Go file as gofmt has it, and any other as it is. A file that was not formatted before is refused: the diff would be of more than the fix.
func formatted(p string, before, after []byte) ([]byte, error) {
	if !strings.HasSuffix(p, ".go") {
		return after, nil
	}
	was, err := gofmt(before)
	if err != nil {
		return nil, wrong("%s does not parse as it is: %v", p, err)
	}
	if n, same := firstOther(was, before); !same {
		return nil, wrong("%s is not formatted as it is, first in line %d: have gofmt do that first", p, n)
	}
	if f, err := parser.ParseFile(token.NewFileSet(), p, before, parser.ParseComments|parser.PackageClauseOnly); err == nil && ast.IsGenerated(f) {
		return nil, wrong("%s is generated: mend what generates it", p)
	}
	out, err := gofmt(after)
	if err != nil {
		return nil, wrong("with the fix %s does not parse any more: %v", p, err)
	}
	return out, nil
}

// gofmt formats a whole file; one whose lines all end in CR LF keeps that.
func gofmt(b []byte) ([]byte, error) {
	crlf := bytes.Contains(b, []byte("\r\n"))
	if crlf {
		b = bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	}
	// format.Source takes parts of a file, too, and that is not what is asked for.
	if _, err := parser.ParseFile(token.NewFileSet(), "", b, parser.SkipObjectResolution); err != nil {
		return nil, err
	}
	out, err := format.Source(b)
	if crlf {
		out = bytes.ReplaceAll(out, []byte("\n"), []byte("\r\n"))
	}
	return out, err
}

// firstOther is the first line in which two files differ.
func firstOther(a, b []byte) (n int, same bool) {
	if bytes.Equal(a, b) {
		return 0, true
	}
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	return 1 + bytes.Count(a[:i], []byte{'\n'}), false
}

// touched are the lines that edits change, with the functions that they are in.
func (t *text) touched(p string, edits []edit) (out []Touched) {
	var file *ast.File
	set := token.NewFileSet()
	if strings.HasSuffix(p, ".go") {
		file, _ = parser.ParseFile(set, p, t.b, parser.SkipObjectResolution) // it has been parsed before
	}
	for _, e := range edits {
		to := e.to
		if to > e.from && t.b[to-1] == '\n' {
			to-- // what ends with a line does not touch the next
		}
		h := Touched{From: t.lineOf(e.from), To: t.lineOf(to)}
		if file != nil {
			for _, d := range file.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if ok && set.Position(fn.Pos()).Offset <= e.from && e.to <= set.Position(fn.End()).Offset {
					h.Function = nameOf(fn)
				}
			}
		}
		if !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// nameOf is as Total, or Cart.Total, also of a pointer's or a generic type's method.
func nameOf(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	x := fn.Recv.List[0].Type
	for {
		switch y := x.(type) {
		case *ast.StarExpr:
			x = y.X
			continue
		case *ast.ParenExpr:
			x = y.X
			continue
		case *ast.IndexExpr:
			x = y.X
			continue
		case *ast.IndexListExpr:
			x = y.X
			continue
		case *ast.Ident:
			return y.Name + "." + fn.Name.Name
		}
		return fn.Name.Name
	}
}

// Where is as "Total in cart/price.go:12", of all that a patch touches; at most three.
func (p *Patch) Where() string {
	const most = 3
	var out []string
	for i := range p.Files {
		f := &p.Files[i]
		for _, t := range f.Touched {
			s := fmt.Sprintf("%s:%d", f.Path, t.From)
			if t.Function != "" {
				s = t.Function + " in " + s
			}
			out = append(out, s)
		}
	}
	if len(out) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(out[:most], ", "), len(out)-most)
	}
	return strings.Join(out, ", ")
}
