package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"unicode"
)

// Bounds of a file of rules.
const (
	maxRules     = 200
	maxRuleBytes = 64 << 10
	maxRuleLine  = 1 << 10
)

// Redaction are rules by which functions are shown under another name. The first that matches holds.
type Redaction struct {
	rules []rule
}

type rule struct {
	match *regexp.Regexp
	name  string
}

// ParseRedaction reads rules, one a line: a regular expression (RE2), a space, =>, a space, and the name that is shown. $1 in it is what the
// expression's first group matched. Lines that begin with # are for people.
func ParseRedaction(raw []byte) (*Redaction, error) {
	if len(raw) > maxRuleBytes {
		return nil, fmt.Errorf("%w: %d bytes of rules, at most %d", ErrInvalid, len(raw), maxRuleBytes)
	}
	out := &Redaction{}
	n := 0
	for line := range bytes.Lines(raw) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if len(text) > maxRuleLine || len(out.rules) == maxRules {
			return nil, fmt.Errorf("%w: line %d: a line has at most %d bytes, and there are at most %d rules", ErrInvalid, n, maxRuleLine, maxRules)
		}
		expr, name, ok := strings.Cut(text, " => ")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return nil, fmt.Errorf("%w: line %d: it must be: EXPRESSION => NAME", ErrInvalid, n)
		}
		re, err := regexp.Compile(strings.TrimSpace(expr))
		if err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrInvalid, n, err)
		}
		out.rules = append(out.rules, rule{re, name})
	}
	if len(out.rules) == 0 {
		return nil, fmt.Errorf("%w: there are no rules: nothing would be hidden", ErrInvalid)
	}
	return out, nil
}

// Name is what a function is called, and whether that is another name than its own.
func (r *Redaction) Name(function string) (string, bool) {
	if r == nil {
		return function, false
	}
	for i := range r.rules {
		rule := &r.rules[i]
		if m := rule.match.FindStringSubmatchIndex(function); m != nil {
			return string(rule.match.ExpandString(nil, rule.name, function, m)), true
		}
	}
	return function, false
}

// maxRedacted bounds an answer in which names are replaced: lists of findings and changes are bounded well below.
const maxRedacted = 32 << 20

// Redacted is next, whose JSON answers name functions in sentences and fields, for callers from whom names are hidden: every word in them that can
// be a function's name is shown as the rules have it. Others get the answers as they are.
func (a *Access) Redacted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := CallerOf(r.Context())
		var rules *Redaction
		if c != nil {
			rules = a.redaction(c, r.URL.Query()["service"])
		}
		if rules == nil {
			next.ServeHTTP(w, r)
			return
		}
		r = r.Clone(r.Context())
		r.Header.Del("Accept-Encoding") // words must be read
		held := &heldAnswer{header: w.Header(), status: http.StatusOK}
		next.ServeHTTP(held, r)
		body, err := rules.inJSON(held.body.Bytes())
		if err != nil || held.over {
			a.opt.Logger.Error("access: names could not be hidden in an answer, which is not given", "path", r.URL.Path, "err", err)
			a.refuse(w, r, &Refusal{Status: http.StatusInternalServerError, Code: "internal", Text: "the names in this answer cannot be hidden from you, so it is not shown"})
			return
		}
		w.Header().Del("Content-Length")
		w.Header().Del("ETag")
		w.WriteHeader(held.status)
		w.Write(body) // an error means that the asker is gone
	})
}

// heldAnswer keeps an answer until it is whole.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
	over   bool
}

func (h *heldAnswer) Header() http.Header    { return h.header }
func (h *heldAnswer) WriteHeader(status int) { h.status = status }

func (h *heldAnswer) Write(b []byte) (int, error) {
	if h.body.Len()+len(b) > maxRedacted {
		h.over = true
		return 0, errors.New("the answer is too long")
	}
	return h.body.Write(b)
}

// inJSON hides names in all texts of a JSON value, not in the names of its fields. What is no JSON is an error, unless it is empty.
func (r *Redaction) inJSON(raw []byte) ([]byte, error) {
	if len(bytes.TrimSpace(raw)) == 0 {
		return raw, nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is more than one value")
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(r.value(v))
	return out.Bytes(), err
}

func (r *Redaction) value(v any) any {
	switch v := v.(type) {
	case string:
		return r.Text(v)
	case []any:
		for i := range v {
			v[i] = r.value(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = r.value(v[k])
		}
	}
	return v
}

// Text is a sentence with the functions in it under the names that are shown. A function's name has a dot, a slash or two colons in it and a
// letter; around it may stand what ends a word or a sentence. A text that is no sentence, as it ends without a full stop, is taken for one name
// as well, spaces included, as C++ and Rust have them: what is hidden too much of is a title.
func (r *Redaction) Text(s string) string {
	if !strings.ContainsAny(s, "./") && !strings.Contains(s, "::") {
		return s
	}
	if name, ok := r.Name(s); ok && !strings.HasSuffix(s, ".") {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		j := i
		for j < len(s) && !isGap(s[j]) {
			j++
		}
		word := s[i:j]
		tail := ""
		for word != "" && strings.ContainsRune(".:!?", rune(word[len(word)-1])) {
			word, tail = word[:len(word)-1], word[len(word)-1:]+tail
		}
		if strings.ContainsAny(word, "./") || strings.Contains(word, "::") {
			if strings.ContainsFunc(word, unicode.IsLetter) {
				word, _ = r.Name(word)
			}
		}
		b.WriteString(word + tail)
		for i = j; i < len(s) && isGap(s[i]); i++ {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// isGap says that a byte stands between words. Parentheses, stars and brackets are parts of Go's names: "(*T).M", "F[...]".
func isGap(c byte) bool { return c <= ' ' || c == ',' || c == ';' || c == '"' || c == '`' || c == '\'' }
