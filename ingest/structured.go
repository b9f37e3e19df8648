package ingest

import (
	"fmt"
	"strings"
)

// A reader of Structured Field Values' dictionaries (RFC 9651, 4.2.2), which Signature-Input, Signature and
// Content-Digest are. It must take what other signatures beside ours may look like, so it knows all types, and keeps the text
// of each; what the text must be is for who uses it to say.

type sfKind byte

const (
	sfNumber sfKind = iota + 1 // integer or decimal
	sfString                   // text is without quotes and escapes
	sfToken
	sfBinary // text is the base64
	sfBool
	sfDate
	sfDisplay
)

type sfItem struct {
	kind      sfKind
	text      string
	hasParams bool // of an item in a list
}

// sfParam is one parameter.
type sfParam struct {
	key string
	sfItem
}

// sfMember is one member of a dictionary: an item, or a list of items.
type sfMember struct {
	key    string
	isList bool
	item   sfItem
	list   []sfItem
	params []sfParam // of the item, or of the list as a whole
}

// maxMembers bounds members, items of a list, and parameters of each. The grammar has no deeper nesting.
const maxMembers = 32

type sfReader struct {
	s string
	i int
}

func parseDictionary(s string) ([]sfMember, error) {
	r := &sfReader{s: s}
	var out []sfMember
	r.skip(" ")
	for r.i < len(r.s) {
		if len(out) == maxMembers {
			return nil, r.errorf("more than %d members", maxMembers)
		}
		m, err := r.member()
		if err != nil {
			return nil, err
		}
		out = append(out, m)
		r.skip(" \t")
		if r.i == len(r.s) {
			return out, nil
		}
		if !r.eat(',') {
			return nil, r.errorf("a comma must follow a member")
		}
		r.skip(" \t")
		if r.i == len(r.s) {
			return nil, r.errorf("nothing follows the last comma")
		}
	}
	return out, nil
}

func (r *sfReader) errorf(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %s", r.i, fmt.Sprintf(format, args...))
}

func (r *sfReader) skip(set string) {
	for r.i < len(r.s) && strings.IndexByte(set, r.s[r.i]) >= 0 {
		r.i++
	}
}

// peek is the next byte, 0 at the end: no 0 is part of any value.
func (r *sfReader) peek() byte {
	if r.i < len(r.s) {
		return r.s[r.i]
	}
	return 0
}

func (r *sfReader) eat(c byte) bool {
	if r.peek() != c || c == 0 {
		return false
	}
	r.i++
	return true
}

// span takes bytes as long as they are in the class.
func (r *sfReader) span(in func(c byte) bool) string {
	from := r.i
	for r.i < len(r.s) && in(r.s[r.i]) {
		r.i++
	}
	return r.s[from:r.i]
}

func lower(c byte) bool { return c >= 'a' && c <= 'z' }
func alpha(c byte) bool { return lower(c | 0x20) }
func digit(c byte) bool { return c >= '0' && c <= '9' }

func (r *sfReader) key() (string, error) {
	if c := r.peek(); !lower(c) && c != '*' {
		return "", r.errorf("a key must begin with a lower-case letter or *")
	}
	return r.span(func(c byte) bool { return lower(c) || digit(c) || strings.IndexByte("_-.*", c) >= 0 }), nil
}

func (r *sfReader) member() (m sfMember, err error) {
	if m.key, err = r.key(); err != nil {
		return m, err
	}
	switch {
	case !r.eat('='):
		m.item = sfItem{kind: sfBool, text: "1"}
	case r.peek() == '(':
		m.isList = true
		m.list, err = r.innerList()
	default:
		m.item, err = r.bare()
	}
	if err != nil {
		return m, err
	}
	m.params, err = r.parameters()
	return m, err
}

func (r *sfReader) innerList() (out []sfItem, err error) {
	r.eat('(')
	for {
		r.skip(" ")
		if r.eat(')') {
			return out, nil
		}
		if len(out) == maxMembers {
			return nil, r.errorf("more than %d items in a list", maxMembers)
		}
		item, err := r.bare()
		if err != nil {
			return nil, err
		}
		params, err := r.parameters()
		if err != nil {
			return nil, err
		}
		item.hasParams = len(params) > 0
		out = append(out, item)
		if c := r.peek(); c != ' ' && c != ')' {
			return nil, r.errorf("a space or ) must follow an item of a list")
		}
	}
}

func (r *sfReader) parameters() (out []sfParam, err error) {
	for r.eat(';') {
		if len(out) == maxMembers {
			return nil, r.errorf("more than %d parameters", maxMembers)
		}
		r.skip(" ")
		p := sfParam{sfItem: sfItem{kind: sfBool, text: "1"}}
		if p.key, err = r.key(); err != nil {
			return nil, err
		}
		if r.eat('=') {
			if p.sfItem, err = r.bare(); err != nil {
				return nil, err
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func (r *sfReader) bare() (sfItem, error) {
	switch c := r.peek(); {
	case c == '-' || digit(c):
		return r.number()
	case c == '"':
		text, err := r.quoted()
		return sfItem{kind: sfString, text: text}, err
	case c == '*' || alpha(c):
		return sfItem{kind: sfToken, text: r.span(func(c byte) bool {
			return alpha(c) || digit(c) || strings.IndexByte("!#$%&'*+-.^_`|~:/", c) >= 0
		})}, nil
	case c == ':':
		r.i++
		text := r.span(func(c byte) bool { return alpha(c) || digit(c) || strings.IndexByte("+/=", c) >= 0 })
		if !r.eat(':') {
			return sfItem{}, r.errorf("bytes must be base64 and end with a colon")
		}
		return sfItem{kind: sfBinary, text: text}, nil
	case c == '?':
		r.i++
		if c := r.peek(); c != '0' && c != '1' {
			return sfItem{}, r.errorf("a boolean is ?0 or ?1")
		}
		r.i++
		return sfItem{kind: sfBool, text: r.s[r.i-1 : r.i]}, nil
	case c == '@':
		r.i++
		n, err := r.number()
		if err == nil && strings.IndexByte(n.text, '.') >= 0 {
			err = r.errorf("a date is whole seconds")
		}
		return sfItem{kind: sfDate, text: n.text}, err
	case c == '%':
		r.i++
		if r.peek() != '"' {
			return sfItem{}, r.errorf(`a display string begins with %%"`)
		}
		// Its escapes are not looked at: no part of ours is one.
		r.i++
		text := r.span(func(c byte) bool { return c >= 0x20 && c < 0x7f && c != '"' })
		if !r.eat('"') {
			return sfItem{}, r.errorf("a display string must end with a quote")
		}
		return sfItem{kind: sfDisplay, text: text}, nil
	}
	return sfItem{}, r.errorf("a value must follow")
}

// number reads at most 15 digits, or 12 and 3 after the point.
func (r *sfReader) number() (sfItem, error) {
	from := r.i
	r.eat('-')
	whole := r.span(digit)
	switch fraction := ""; {
	case whole == "" || len(whole) > 15:
		return sfItem{}, r.errorf("a number has 1 to 15 digits")
	case r.eat('.'):
		if fraction = r.span(digit); len(whole) > 12 || fraction == "" || len(fraction) > 3 {
			return sfItem{}, r.errorf("a decimal has at most 12 digits before its point, and 1 to 3 after it")
		}
	}
	return sfItem{kind: sfNumber, text: r.s[from:r.i]}, nil
}

func (r *sfReader) quoted() (string, error) {
	r.eat('"')
	var b strings.Builder
	for r.i < len(r.s) {
		c := r.s[r.i]
		r.i++
		switch {
		case c == '"':
			return b.String(), nil
		case c == '\\':
			if c = r.peek(); c != '"' && c != '\\' {
				return "", r.errorf(`only " and \ may be escaped`)
			}
			r.i++
		case c < 0x20 || c >= 0x7f:
			r.i--
			return "", r.errorf("a string is printable ASCII")
		}
		b.WriteByte(c)
	}
	return "", r.errorf("a string must end with a quote")
}
