package patch

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	around   = 3    // lines of context
	maxEdits = 1500 // lines that go or come, of one file: the search takes the square of that in memory
)

// FileDiff is what a unified diff says of one file.
type FileDiff struct {
	Path  string
	hunks []hunk
}

// hunk is some lines together, with their ends, where they have any; ops says of each that it stays (a space), goes or comes.
type hunk struct {
	was, is int // where it begins, from 1; 0 where it has no line
	ops     []byte
	lines   []string
}

// side is the lines before (but for '+'), or after (but for '-').
func (h *hunk) side(without byte) (out []string) {
	for i, op := range h.ops {
		if op != without {
			out = append(out, h.lines[i])
		}
	}
	return out
}

func split(b []byte) []string { return slices.Collect(strings.Lines(string(b))) }

// Diff is the unified diff from before to after, "" where they are the same. [ErrInvalid] is that they differ in too much.
func Diff(path string, before, after []byte) (string, error) {
	ops, lines, err := script(split(before), split(after))
	if err != nil {
		return "", wrong("%s: %v", path, reason(err))
	}
	var b strings.Builder
	was, is := 1, 1 // of the line at i
	for i := 0; i < len(ops); {
		first := i
		for first < len(ops) && ops[first] == ' ' {
			first++
		}
		if first == len(ops) {
			break
		}
		// A hunk ends where twice the context and more stays as it is.
		last, end := first, first
		for end < len(ops) && end-last <= 2*around {
			if ops[end] != ' ' {
				last = end
			}
			end++
		}
		from, to := max(i, first-around), min(len(ops), last+1+around)
		was, is = was+from-i, is+from-i
		h := hunk{was, is, ops[from:to], lines[from:to]}
		if b.Len() == 0 {
			fmt.Fprintf(&b, "--- a/%s\n+++ b/%s\n", path, path)
		}
		h.write(&b)
		was, is, i = was+len(h.side('+')), is+len(h.side('-')), to
	}
	return b.String(), nil
}

func (h *hunk) write(b *strings.Builder) {
	was, is := len(h.side('+')), len(h.side('-'))
	at := func(from, n int) string {
		switch n {
		case 0:
			return fmt.Sprintf("%d,0", from-1)
		case 1:
			return strconv.Itoa(from)
		}
		return fmt.Sprintf("%d,%d", from, n)
	}
	fmt.Fprintf(b, "@@ -%s +%s @@\n", at(h.was, was), at(h.is, is))
	for i, op := range h.ops {
		b.WriteByte(op)
		b.WriteString(h.lines[i])
		if !strings.HasSuffix(h.lines[i], "\n") {
			b.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

// script is how a becomes b, line by line, with the fewest that go or come (Myers, An O(ND) Difference Algorithm, 1986).
func script(a, b []string) (ops []byte, lines []string, err error) {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	middle, err := myers(a[head:len(a)-tail], b[head:len(b)-tail])
	if err != nil {
		return nil, nil, err
	}
	ops = append(append(bytes.Repeat([]byte{' '}, head), middle...), bytes.Repeat([]byte{' '}, tail)...)
	i, k := 0, 0
	for _, op := range ops {
		if op == '+' {
			lines = append(lines, b[k])
		} else {
			lines = append(lines, a[i])
			i++
		}
		if op != '-' {
			k++
		}
	}
	return ops, lines, nil
}

func myers(a, b []string) (ops []byte, err error) {
	n, m := len(a), len(b)
	most := min(n+m, maxEdits)
	v := make([]int32, 2*most+3) // the furthest x on diagonal k, at most+1+k
	var seen [][]int32           // v before each d, but for diagonals that it has not reached
	for d := 0; d <= most; d++ {
		seen = append(seen, slices.Clone(v[most+1-d:most+2+d]))
		for k := -d; k <= d; k += 2 {
			at := most + 1 + k
			x := int(v[at-1]) + 1
			if k == -d || k != d && v[at-1] < v[at+1] {
				x = int(v[at+1])
			}
			y := x - k
			for x < n && y < m && a[x] == b[y] {
				x, y = x+1, y+1
			}
			if v[at] = int32(x); x >= n && y >= m {
				return backtrack(seen, n, m, d), nil
			}
		}
	}
	return nil, wrong("more than %d lines differ: that is no patch of one finding", maxEdits)
}

// backtrack is the way to (n, m) that took d steps.
func backtrack(seen [][]int32, x, y, d int) (ops []byte) {
	for ; d > 0; d-- {
		v, k := seen[d], x-y // diagonal k at d+k
		get := func(k int) int32 {
			if k < -d || k > d {
				return -1
			}
			return v[d+k]
		}
		before := k - 1
		if k == -d || k != d && get(k-1) < get(k+1) {
			before = k + 1
		}
		// One line goes or comes, and behind it lines stay as they are.
		stay := int(get(before))
		if before == k-1 {
			stay++
		}
		for ; x > stay; x, y = x-1, y-1 {
			ops = append(ops, ' ')
		}
		if before == k+1 {
			ops, y = append(ops, '+'), y-1
		} else {
			ops, x = append(ops, '-'), x-1
		}
	}
	for ; x > 0; x-- {
		ops = append(ops, ' ')
	}
	slices.Reverse(ops)
	return ops
}

// ParseDiff reads a diff as [Diff] writes it, of one or more files, each once. Errors are [ErrInvalid].
func ParseDiff(diff string) (out []FileDiff, err error) {
	if len(diff) > MaxDiff {
		return nil, wrong("a diff of %d bytes; it has at most %d", len(diff), MaxDiff)
	}
	lines := split([]byte(diff))
	for i := 0; i < len(lines); {
		p, ok := strings.CutPrefix(lines[i], "--- a/")
		if !ok || i+1 == len(lines) || lines[i+1] != "+++ b/"+p {
			return nil, wrong("line %d of the diff is not where a file begins", i+1)
		}
		f := FileDiff{Path: strings.TrimSuffix(p, "\n")}
		if clean, err := repositoryPath(f.Path); err != nil || clean != f.Path {
			return nil, wrong("line %d of the diff: %.200q is no path", i+1, f.Path)
		}
		if slices.ContainsFunc(out, func(o FileDiff) bool { return o.Path == f.Path }) || len(out) == MaxFiles {
			return nil, wrong("line %d of the diff: a file that is there already, or more than %d", i+1, MaxFiles)
		}
		for i += 2; i < len(lines) && strings.HasPrefix(lines[i], "@@ "); {
			h, next, err := parseHunk(lines, i)
			if err != nil {
				return nil, err
			}
			was, is := 1, 1 // the end of the hunk before
			if k := len(f.hunks); k > 0 {
				last := &f.hunks[k-1]
				was, is = last.was+len(last.side('+')), last.is+len(last.side('-'))
			}
			if h.was < was || h.is-is != h.was-was {
				return nil, wrong("line %d of the diff: the hunk is not where the lines before it have it", i+1)
			}
			f.hunks, i = append(f.hunks, h), next
		}
		if len(f.hunks) == 0 {
			return nil, wrong("line %d of the diff: %s has no hunk", i, f.Path)
		}
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, wrong("the diff is empty")
	}
	return out, nil
}

func parseHunk(lines []string, i int) (h hunk, next int, err error) {
	var counts [2]int
	head := strings.Fields(lines[i])
	if len(head) != 4 || head[3] != "@@" {
		return h, 0, wrong("line %d of the diff is no head of a hunk", i+1)
	}
	for side, to := range []*int{&h.was, &h.is} {
		at, n, more := strings.Cut(head[1+side][1:], ",")
		counts[side] = 1
		a, err := strconv.Atoi(at)
		if err == nil && more {
			counts[side], err = strconv.Atoi(n)
		}
		if err != nil || head[1+side][0] != "-+"[side] || a < 0 || a > MaxFile || counts[side] < 0 || counts[side] > MaxDiff {
			return h, 0, wrong("line %d of the diff is no head of a hunk", i+1)
		}
		if counts[side] == 0 {
			a++ // it is written as the line before
		}
		*to = a
	}
	changed := false
	for next = i + 1; counts[0] > 0 || counts[1] > 0; next++ {
		if next == len(lines) {
			return h, 0, wrong("the diff ends within a hunk")
		}
		op, text := lines[next][0], lines[next][1:]
		switch op {
		case ' ':
			counts[0], counts[1] = counts[0]-1, counts[1]-1
		case '-':
			counts[0]--
		case '+':
			counts[1]--
		default:
			return h, 0, wrong("line %d of the diff neither stays, goes nor comes", next+1)
		}
		if counts[0] < 0 || counts[1] < 0 || !strings.HasSuffix(text, "\n") {
			return h, 0, wrong("line %d of the diff: the hunk has more lines than it says, or ends without one", next+1)
		}
		changed = changed || op != ' '
		if next+1 < len(lines) && lines[next+1][0] == '\\' {
			text = strings.TrimSuffix(text, "\n")
			next++
			if text == "" {
				return h, 0, wrong("line %d of the diff: a line without text and without an end", next)
			}
		}
		h.ops, h.lines = append(h.ops, op), append(h.lines, text)
	}
	if !changed {
		return h, 0, wrong("line %d of the diff: the hunk changes nothing", i+1)
	}
	return h, next, nil
}

// Apply makes the change in the very file that it is of: each hunk where it says.
func (f *FileDiff) Apply(b []byte) ([]byte, error) {
	out, ok := f.run(split(b), '+', '-', true)
	if !ok {
		return nil, wrong("%s is not the file that the diff is of", f.Path)
	}
	return out, nil
}

// Find is how the change is in a file that others may have gone on with: has says that all of it is there, and back is the file without it; had that none
// of it is. Hunks are looked for near where they would be, whole, with their context.
func (f *FileDiff) Find(b []byte) (back []byte, has, had bool) {
	lines := split(b)
	if back, has = f.run(lines, '-', '+', false); has {
		return back, true, false
	}
	_, had = f.run(lines, '+', '-', false)
	return nil, false, had
}

// run puts the lines of each hunk without to in the place of those without from.
func (f *FileDiff) run(lines []string, from, to byte, exact bool) (out []byte, ok bool) {
	at, moved := 0, 0
	var b bytes.Buffer
	ended := false // by a line without an end, which only the last can be
	write := func(lines []string) bool {
		for _, s := range lines {
			if ended {
				return false
			}
			b.WriteString(s)
			ended = !strings.HasSuffix(s, "\n")
		}
		return true
	}
	for i := range f.hunks {
		h := &f.hunks[i]
		old := h.side(from)
		expect := h.was - 1
		if from == '-' {
			expect = h.is - 1
		}
		found := find(lines, old, at, expect+moved, exact)
		if found < 0 {
			return nil, false
		}
		moved = found - expect
		if !write(lines[at:found]) || !write(h.side(to)) {
			return nil, false
		}
		at = found + len(old)
	}
	ok = write(lines[at:])
	return b.Bytes(), ok
}

// find is where old is in lines, from first on, the nearest to expect; -1 is nowhere.
func find(lines, old []string, first, expect int, exact bool) int {
	is := func(at int) bool {
		return at >= first && at+len(old) <= len(lines) && slices.Equal(lines[at:at+len(old)], old)
	}
	if exact {
		if !is(expect) {
			return -1
		}
		return expect
	}
	for d := 0; d <= len(lines)+max(expect, -expect); d++ {
		if is(expect - d) {
			return expect - d
		}
		if is(expect + d) {
			return expect + d
		}
	}
	return -1
}
