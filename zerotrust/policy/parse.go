package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cedar-policy/cedar-go"
	cedarast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// policyText is a policy with where it stands.
type policyText struct {
	file   string
	line   int
	text   string // the whole file
	tokens []token
	public *cedarast.Policy
	ast    *ast.Policy
}

// token is where a word of Cedar begins and ends in a file, in bytes.
type token struct{ from, to int }

func (t token) compare(offset int) int { return cmp.Compare(t.from, offset) }

// tokens splits a file into words, as far as it takes to know where they are and how deeply they nest: the parser, which knows better,
// comes after, and recurses as deeply as they do.
func tokens(text string) ([]token, *Error) {
	var out []token
	var open, ifs, begun int
	for i := 0; i < len(text); {
		from := i
		r, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return nil, at(text, from, "it is not UTF-8")
		case unicode.IsSpace(r):
			i += size
			continue
		case strings.HasPrefix(text[i:], "//"):
			i = end(text, i, "\n")
			continue
		case strings.HasPrefix(text[i:], "/*"):
			i = end(text, i+2, "*/")
			continue
		case r == '"':
			i = quoted(text, i)
		case r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			for i < len(text) && (r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r)) {
				i += size
				r, size = utf8.DecodeRuneInString(text[i:])
			}
		default:
			i += size
			if i < len(text) && slices.Contains([]string{"::", "==", "!=", "<=", ">=", "&&", "||"}, text[from:i+1]) {
				i++
			}
		}
		out = append(out, token{from, i})
		switch text[from:i] {
		case "(", "[", "{":
			open++
		case ")", "]", "}":
			open--
		case "if":
			ifs++
		case ";":
			open, ifs, begun = 0, 0, i
		}
		switch {
		case open+ifs > maxNesting:
			return nil, at(text, from, "it nests more than %d deep; write it as several policies", maxNesting)
		case i-begun > maxPolicy:
			return nil, at(text, begun, "the policy that follows here has more than %d bytes; write it as several", maxPolicy)
		}
	}
	return out, nil
}

// end is behind the next mark, or the end of the text.
func end(text string, from int, mark string) int {
	from = min(from, len(text))
	if i := strings.Index(text[from:], mark); i >= 0 {
		return from + i + len(mark)
	}
	return len(text)
}

// quoted is behind the string that begins at from, or the end of the text.
func quoted(text string, from int) int {
	for i := from + 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(text)
}

// offsetOf is where a line and column are: what at says of an offset, backwards.
func offsetOf(text string, line, column int) int {
	offset := 0
	for ; line > 1; line-- {
		offset = end(text, offset, "\n")
	}
	for ; column > 1 && offset < len(text); column-- {
		_, size := utf8.DecodeRuneInString(text[offset:])
		offset += size
	}
	return offset
}

// at is an error at an offset, whose file is not said yet.
func at(text string, offset int, format string, args ...any) *Error {
	before := text[:min(offset, len(text))]
	start := strings.LastIndexByte(before, '\n') + 1
	return &Error{Line: 1 + strings.Count(before, "\n"), Column: 1 + utf8.RuneCountInString(before[start:]), Text: shorten(fmt.Sprintf(format, args...))}
}

// shorten keeps an error that quotes much readable.
func shorten(text string) string {
	if r := []rune(text); len(r) > 400 {
		return string(r[:400]) + "..."
	}
	return text
}

// parse reads the policies of a file.
func parse(f sourceFile) ([]*policyText, *Error) {
	text := string(f.text)
	toks, wrong := tokens(text)
	if wrong != nil {
		wrong.File = f.name
		return nil, wrong
	}
	list, err := cedar.NewPolicyListFromBytes(f.name, f.text)
	if err != nil {
		return nil, syntax(f.name, text, toks, err)
	}
	var out []*policyText
	for i, p := range list {
		upTo := len(text)
		if i+1 < len(list) {
			upTo = list[i+1].Position().Offset
		}
		from := p.Position().Offset
		out = append(out, &policyText{file: f.name, line: p.Position().Line, text: text, tokens: between(toks, from, upTo), public: p.AST(), ast: (*ast.Policy)(p.AST())})
	}
	return out, nil
}

// between are the tokens of a part of the text.
func between(toks []token, from, to int) []token {
	i, _ := slices.BinarySearchFunc(toks, from, token.compare)
	j, _ := slices.BinarySearchFunc(toks, to, token.compare)
	return toks[i:j]
}

var (
	syntaxAt   = regexp.MustCompile(`<input>:(\d+):(\d+)(?: "(?:[^"\\]|\\.)*")?: ((?s).*)`)
	outOfRange = regexp.MustCompile(`ParseInt: parsing "(-?[0-9]+)"`)
	syntaxGot  = regexp.MustCompile(`(?s)^exact got (.*) want (\S+)$`)
)

// syntax is the parser's error at its place. The parser says where it goes on, which is behind the word that it did not expect.
func syntax(file, text string, toks []token, err error) *Error {
	m := syntaxAt.FindStringSubmatch(err.Error())
	if m == nil { // the parser says no place where a number or an escape is out of range
		e := &Error{File: file, Text: strings.TrimPrefix(err.Error(), "parser error: ")}
		if n := outOfRange.FindStringSubmatch(e.Text); n != nil {
			for _, t := range toks {
				if text[t.from:t.to] == strings.TrimPrefix(n[1], "-") {
					e = at(text, t.from, "%.40s does not fit into 64 bits", n[1]).in(file)
					break
				}
			}
		}
		return e
	}
	e := &Error{File: file, Text: m[3]}
	e.Line, _ = strconv.Atoi(m[1])
	e.Column, _ = strconv.Atoi(m[2])
	got := syntaxGot.FindStringSubmatch(m[3])
	if got == nil {
		return e
	}
	e.Text = fmt.Sprintf("there is %.40q where %q must be", got[1], got[2])
	if got[1] == "" {
		e.Text = fmt.Sprintf("it ends where %q must be", got[2])
		return e
	}
	i, ok := slices.BinarySearchFunc(toks, offsetOf(text, e.Line, e.Column), token.compare)
	if ok && i > 0 && text[toks[i].from:toks[i].to] != got[1] {
		here := at(text, toks[i-1].from, "")
		e.Line, e.Column = here.Line, here.Column
	}
	return e
}

// wrong is an error at the first place where the policy has these words one after the other, or else where it begins.
func (t *policyText) wrong(words, format string, args ...any) *Error {
	offset := t.ast.Position.Offset
	for i, tok := range t.tokens {
		for j, have := i, ""; words != "" && j < len(t.tokens) && len(have) < len(words); j++ {
			if have += t.text[t.tokens[j].from:t.tokens[j].to]; have == words {
				return at(t.text, tok.from, format, args...).in(t.file)
			}
		}
	}
	return at(t.text, offset, format, args...).in(t.file)
}

func (e *Error) in(file string) *Error { e.File = file; return e }

// annotate reads the annotations: what the policy is called, and its conditions. One that is not known is wrong, as it would hold nothing.
func (p *compiled) annotate(t *policyText) *Error {
	c := &p.conditions
	for _, a := range t.ast.Annotations {
		key, value := string(a.Key), string(a.Value)
		here := "@" + key
		if p.forbid && key != "id" && key != "doc" {
			return t.wrong(here, "@%s: a condition stands on a permit; a forbid has what it asks for in when or unless", key)
		}
		switch key {
		case "id":
			if !validID(value) {
				return t.wrong(here, "@id(%.40q): an id has 1 to 64 letters, digits, dots, dashes and underscores", value)
			}
			p.id = value
		case "doc":
			p.doc = value
		case "mfa":
			if value != "required" {
				return t.wrong(here, `@mfa(%.40q): it must be @mfa("required")`, value)
			}
			c.MFA = true
		case "read_only":
			if value != "true" {
				return t.wrong(here, `@read_only(%.40q): it must be @read_only("true")`, value)
			}
			c.ReadOnly = true
		case "isolation":
			if value == "" || !slices.Contains(Isolations, value) {
				return t.wrong(here, "@isolation(%.40q): it must be one of %s", value, strings.Join(Isolations[1:], ", "))
			}
			c.Isolation = value
		case "rate":
			var err error
			if c.Rate, err = ParseRate(value); err != nil {
				return t.wrong(here, "@rate: %v", err)
			}
		default:
			return t.wrong(here, "@%s: there is no such condition; there are @mfa, @isolation, @rate, @read_only, and @id and @doc, which name and explain a policy", key)
		}
	}
	return nil
}

func validID(id string) bool {
	return id != "" && len(id) <= 64 && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

// ParseRate reads a rate as 100/m: so many at once, and so many again in each second, minute, hour or day (s, m, h, d).
func ParseRate(text string) (Rate, error) {
	number, unit, _ := strings.Cut(text, "/")
	n, err := strconv.Atoi(number)
	d, ok := rateUnits[unit]
	if err != nil || !ok || n < 1 || n > 1e6 || number != strconv.Itoa(n) {
		return Rate{}, fmt.Errorf("%.40q must be a number from 1 to 1000000, a slash and one of s, m, h, d, as in 100/m", text)
	}
	return Rate{Burst: n, Every: every(d, n)}, nil
}
