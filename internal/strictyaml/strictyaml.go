// Package strictyaml reads YAML that people write for us, in which a slip must not be passed over: no field but those that are known, each
// once, and every error with its line and field.
package strictyaml

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Node is a value in a file.
type Node = yaml.Node

// Error says what is wrong at which line, in which field.
type Error struct {
	Line  int    // 0 is of the whole
	Field string // "" is of the whole
	Text  string
}

func (e *Error) Error() string {
	s := e.Text
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	if e.Line > 0 {
		s = fmt.Sprintf("line %d: %s", e.Line, s)
	}
	return s
}

// Wrong is an error at n, which may be nil, in a field, which may be "".
func Wrong(n *Node, field, format string, args ...any) error {
	e := &Error{Field: field, Text: fmt.Sprintf(format, args...)}
	if n != nil {
		e.Line = n.Line
	}
	return e
}

// Parse reads a file of one document and at most most bytes. Errors that are not the reader's are [*Error].
func Parse(r io.Reader, most int64) (*Node, error) {
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > most {
		return nil, Wrong(nil, "", "it is larger than %d bytes", most)
	}
	dec := yaml.NewDecoder(strings.NewReader(string(b)))
	var doc, more Node
	switch err := dec.Decode(&doc); {
	case err == io.EOF:
		return nil, Wrong(nil, "", "it is empty")
	case err != nil:
		return nil, Wrong(nil, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := dec.Decode(&more); err != io.EOF {
		return nil, Wrong(&more, "", "it has more than one document")
	}
	return doc.Content[0], nil
}

// Reader reads one field's value.
type Reader func(n *Node, field string) error

// Fields hands each field of a mapping to its reader, and says which there were. One that has no reader, or that is there twice, is an error.
func Fields(n *Node, within string, read map[string]Reader) (seen []string, err error) {
	return Each(n, within, func(key, value *Node, field string) error {
		f, ok := read[key.Value]
		if !ok {
			var have []string
			for k := range read {
				have = append(have, k)
			}
			slices.Sort(have)
			return Wrong(key, field, "there is no such field; there are %s", strings.Join(have, ", "))
		}
		return f(value, field)
	})
}

// Each hands the fields of a mapping to read, and says which there were. One that is there twice is an error.
func Each(n *Node, within string, read func(key, value *Node, field string) error) (seen []string, err error) {
	if n.Kind != yaml.MappingNode {
		return nil, Wrong(n, within, "it must be fields with a colon after each")
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := key.Value
		if within != "" {
			field = within + "." + field
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			return nil, Wrong(key, field, "there is no such field: its name must be a word")
		case slices.Contains(seen, key.Value):
			return nil, Wrong(key, field, "it is there twice")
		}
		seen = append(seen, key.Value)
		if err := read(key, value, field); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

// Items hands the items of a list of at most most to read.
func Items(n *Node, field string, most int, read Reader) error {
	if n.Kind != yaml.SequenceNode {
		return Wrong(n, field, "it must be a list")
	}
	if len(n.Content) > most {
		return Wrong(n, field, "it has %d items, more than %d", len(n.Content), most)
	}
	for i, item := range n.Content {
		if err := read(item, fmt.Sprintf("%s[%d]", field, i)); err != nil {
			return err
		}
	}
	return nil
}

// Text reads a text of 1 to 128 bytes.
func Text(n *Node, field string) (string, error) { return Long(n, field, 128) }

// Long reads a text of 1 to most bytes.
func Long(n *Node, field string, most int) (string, error) {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || n.Value == "" || len(n.Value) > most {
		return "", Wrong(n, field, "it must be a text of 1 to %d bytes", most)
	}
	return n.Value, nil
}

// Bool reads true or false.
func Bool(n *Node, field string, to *bool) error {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
		return Wrong(n, field, "it must be true or false")
	}
	*to = strings.EqualFold(n.Value, "true")
	return nil
}

// Number reads a number from low to high.
func Number(n *Node, field string, low, high float64, to *float64) error {
	v, err := strconv.ParseFloat(n.Value, 64)
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!float" || err != nil || math.IsNaN(v) || v < low || v > high {
		return Wrong(n, field, "%q: it must be a number from %s to %s", n.Value, strconv.FormatFloat(low, 'f', -1, 64), strconv.FormatFloat(high, 'f', -1, 64))
	}
	*to = v
	return nil
}

// Duration reads a time as 90s or 1h30m, from low to high.
func Duration(n *Node, field string, low, high time.Duration, to *time.Duration) error {
	d, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || d < low || d > high {
		return Wrong(n, field, "%q: it must be a time as 90s or 1h30m, from %s to %s", n.Value, low, high)
	}
	*to = d
	return nil
}
