package patch

import (
	"bytes"
	"slices"
	"strings"
	"unicode/utf8"
)

// text is a file with its lines, for finding what regions are.
type text struct {
	b     []byte
	lines []int // where each begins
	kind  string
}

// What columns and characters are counted in. The last is none of SARIF's: linters that count bytes have no word for that.
const (
	utf16Units = "utf16CodeUnits"
	codePoints = "unicodeCodePoints"
	utf8Units  = "utf8CodeUnits"
)

// ColumnKinds are the words of [Options].Columns.
var ColumnKinds = []string{utf16Units, codePoints, utf8Units}

// newText checks that a file is one that people edit. Lines end with LF, or CR LF.
func newText(name string, b []byte, ru *run) (*text, error) {
	t := &text{b: b, lines: []int{0}, kind: ru.ColumnKind}
	switch {
	case len(b) > MaxFile:
		return nil, wrong("%s has %d bytes: files of more than %d are not patched", name, len(b), MaxFile)
	case !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0:
		return nil, wrong("%s is no text in UTF-8", name)
	case bytes.HasPrefix(b, []byte("\xef\xbb\xbf")):
		return nil, wrong("%s begins with a byte order mark, from which regions may be counted or not: remove it first", name)
	case t.kind != "" && !slices.Contains(ColumnKinds, t.kind):
		return nil, wrong("columnKind %.40q is none of %v", t.kind, ColumnKinds)
	}
	for _, n := range ru.Newlines {
		if n != "\n" && n != "\r\n" && n != "" && bytes.Contains(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), []byte(n)) {
			return nil, wrong("%s has the character %q, which the report takes to end a line", name, n)
		}
	}
	for i, c := range b {
		if c == '\n' {
			t.lines = append(t.lines, i+1)
		}
	}
	return t, nil
}

// line is a line without its end, from 1.
func (t *text) line(n int) []byte {
	from, to := t.lines[n-1], len(t.b)
	if n < len(t.lines) {
		to = t.lines[n] - 1
		if to > from && t.b[to-1] == '\r' {
			to--
		}
	}
	return t.b[from:to]
}

// count goes so many units of a kind into b: the bytes that it went; ok is false where there are not so many, or it ends within a character.
func count(b []byte, units int, kind string) (at int, ok bool) {
	for units > 0 && at < len(b) {
		r, size := utf8.DecodeRune(b[at:])
		switch {
		case kind == utf8Units:
			units -= size
		case kind == utf16Units && r > 0xffff:
			units -= 2
		default:
			units--
		}
		at += size
	}
	return at, units == 0
}

// units goes so many into b. Without a kind all must lead to the same place: linters that do not say what they count count bytes, as those on go/token do, or
// characters.
func (t *text) units(b []byte, n int) (int, error) {
	if n < 0 {
		return 0, wrong("it is before the beginning")
	}
	kinds := ColumnKinds
	if t.kind != "" {
		kinds = []string{t.kind}
	}
	at, ok := count(b, n, kinds[0])
	for _, k := range kinds[1:] {
		if other, also := count(b, n, k); other != at || also != ok {
			return 0, wrong("the report has no columnKind, and there is a character before it that is counted as one or as more: say what the linter counts (--columns)")
		}
	}
	if !ok {
		return 0, wrong("it is behind the end, or within a character")
	}
	return at, nil
}

// at is where a line's column is, both from 1.
func (t *text) at(line, column int) (int, error) {
	if line < 1 || line > len(t.lines) {
		return 0, wrong("line %d: the file has %d", line, len(t.lines))
	}
	at, err := t.units(t.line(line), column-1)
	if err != nil {
		return 0, wrong("line %d, column %d: %v", line, column, reason(err))
	}
	return t.lines[line-1] + at, nil
}

// reason is an error of ours without what it begins with.
func reason(err error) string {
	return strings.TrimPrefix(err.Error(), "patch: "+ErrInvalid.Error()+": ")
}

// span is the bytes of a region (3.30): by lines and columns, characters or bytes. Where it is said in more than one way, all must agree.
func (t *text) span(r *region) (from, to int, err error) {
	var spans [][2]int
	if r.StartLine != nil {
		s, err := t.byLines(r)
		if err != nil {
			return 0, 0, err
		}
		spans = append(spans, s)
	}
	if r.CharOffset != nil && *r.CharOffset >= 0 { // -1 is that it is not said
		s, err := t.byChars(*r.CharOffset, value(r.CharLength, 0))
		if err != nil {
			return 0, 0, err
		}
		spans = append(spans, s)
	}
	if r.ByteOffset != nil && *r.ByteOffset >= 0 {
		from, n := *r.ByteOffset, value(r.ByteLength, 0)
		if from > len(t.b) || n < 0 || n > len(t.b)-from || !boundary(t.b, from) || !boundary(t.b, from+n) {
			return 0, 0, wrong("bytes %d to %d: the file has %d, or it is within a character", from, from+n, len(t.b))
		}
		spans = append(spans, [2]int{from, from + n})
	}
	if len(spans) == 0 {
		return 0, 0, wrong("a region says neither a line nor an offset")
	}
	for _, s := range spans[1:] {
		if s != spans[0] {
			return 0, 0, wrong("the region is bytes %d to %d by its lines, and %d to %d by its offsets: the report was made of another file", spans[0][0], spans[0][1], s[0], s[1])
		}
	}
	return spans[0][0], spans[0][1], nil
}

func boundary(b []byte, at int) bool { return at == len(b) || utf8.RuneStart(b[at]) }

func value(p *int, none int) int {
	if p == nil {
		return none
	}
	return *p
}

func (t *text) byLines(r *region) (s [2]int, err error) {
	first := *r.StartLine
	last := value(r.EndLine, first)
	if s[0], err = t.at(first, value(r.StartColumn, 1)); err != nil {
		return s, err
	}
	if r.EndColumn != nil {
		s[1], err = t.at(last, *r.EndColumn)
	} else if last < 1 || last > len(t.lines) {
		err = wrong("line %d: the file has %d", last, len(t.lines))
	} else {
		s[1] = t.lines[last-1] + len(t.line(last)) // to the line's end, which is not part of it
	}
	if err == nil && s[1] < s[0] {
		err = wrong("the region ends at line %d before it begins at line %d", last, first)
	}
	return s, err
}

func (t *text) byChars(from, n int) (s [2]int, err error) {
	if n < 0 {
		return s, wrong("charLength %d is below 0", n)
	}
	if s[0], err = t.units(t.b, from); err != nil {
		return s, wrong("charOffset %d: %v", from, reason(err))
	}
	at, err := t.units(t.b[s[0]:], n)
	if err != nil {
		return s, wrong("charOffset %d and charLength %d: %v", from, n, reason(err))
	}
	s[1] = s[0] + at
	return s, nil
}

// lineOf is the line that a byte is in, from 1.
func (t *text) lineOf(at int) int { return 1 + bytes.Count(t.b[:at], []byte{'\n'}) }
