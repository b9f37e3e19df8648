package jfr

import (
	"strconv"
)

// description reads the chunk's own description: a tree of elements with attributes, all texts of which stand before it.
func (c *chunk) description() error {
	if err := c.head(typeMeta); err != nil {
		return err
	}
	if _, err := c.long(); err != nil { // the description's number
		return err
	}
	n, err := c.count(1)
	if err != nil {
		return err
	}
	texts := make([]string, 0, min(n, 4096))
	for range n {
		t, err := c.text()
		if err != nil {
			return err
		}
		texts = append(texts, t)
	}
	return c.element(texts, nil, 0)
}

// head reads what every event begins with that is not of a class: size, type, start, duration.
func (c *chunk) head(want int64) error {
	if _, err := c.int(); err != nil {
		return err
	}
	typ, err := c.long()
	if err != nil {
		return err
	}
	if typ != want {
		return c.corrupt("an event of type %d where one of %d must be", typ, want)
	}
	for range 2 {
		if _, err := c.long(); err != nil {
			return err
		}
	}
	return nil
}

// element reads one element and those in it; in is the class that it is in.
func (c *chunk) element(texts []string, in *class, depth int) error {
	if depth > maxDepth {
		return c.corrupt("elements in elements, more than %d deep", maxDepth)
	}
	text := func() (string, error) {
		i, err := c.int()
		if err != nil {
			return "", err
		}
		if i < 0 || int(i) >= len(texts) {
			return "", c.corrupt("text %d, and there are %d", i, len(texts))
		}
		return texts[i], nil
	}
	kind, err := text()
	if err != nil {
		return err
	}
	n, err := c.count(2)
	if err != nil {
		return err
	}
	attrs := map[string]string{}
	for range n {
		k, err := text()
		if err != nil {
			return err
		}
		if attrs[k], err = text(); err != nil {
			return err
		}
	}
	switch kind {
	case "class":
		if len(c.classes) >= maxClasses {
			return c.corrupt("more than %d classes", maxClasses)
		}
		id, err := strconv.ParseInt(attrs["id"], 10, 64)
		if err != nil {
			return c.corrupt("a class has the number %.40q", attrs["id"])
		}
		in = &class{name: attrs["name"], simple: attrs["simpleType"] == "true"}
		c.classes[id] = in
	case "field":
		if in == nil {
			break
		}
		if len(in.fields) >= maxFields {
			return c.corrupt("class %.40q has more than %d fields", in.name, maxFields)
		}
		id, err := strconv.ParseInt(attrs["class"], 10, 64)
		if err != nil {
			return c.corrupt("field %.40q is of class %.40q, which is no number", attrs["name"], attrs["class"])
		}
		in.fields = append(in.fields, field{name: attrs["name"], class: id, pool: attrs["constantPool"] == "true", array: attrs["dimension"] == "1"})
	}
	if n, err = c.count(3); err != nil {
		return err
	}
	for range n {
		if err := c.element(texts, in, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// constants reads one set of constants. It gives how far from it the set ahead of it is: less than 0, or 0 where it is the first.
func (c *chunk) constants() (delta int64, err error) {
	if err := c.head(typePool); err != nil {
		return 0, err
	}
	if delta, err = c.long(); err != nil {
		return 0, err
	}
	if _, err := c.take(1); err != nil { // which kind of checkpoint
		return 0, err
	}
	pools, err := c.count(2)
	if err != nil {
		return 0, err
	}
	for range pools {
		id, err := c.long()
		if err != nil {
			return 0, err
		}
		cl := c.classes[id]
		if cl == nil {
			return 0, c.corrupt("constants of class %d, which is not described", id)
		}
		n, err := c.count(1)
		if err != nil {
			return 0, err
		}
		for range n {
			key, err := c.long()
			if err != nil {
				return 0, err
			}
			if err := c.constant(cl, key); err != nil {
				return 0, err
			}
		}
	}
	return delta, nil
}

// constant reads one constant, and keeps it if it is of what stacks are made of.
func (c *chunk) constant(cl *class, key int64) (err error) {
	switch cl.name {
	case "jdk.types.StackTrace":
		var t trace
		err = c.structure(cl, 0, nil, func(f *field, n int) (bool, error) {
			frames := c.classes[f.class]
			if f.name != "frames" || f.pool || frames == nil {
				return false, nil
			}
			t = make(trace, 0, min(n, 4096))
			for range n {
				var fr frame
				if err := c.step(); err != nil {
					return false, err
				}
				err := c.structure(frames, 1, func(f *field, v value) {
					switch f.name {
					case "method":
						fr.method = v.num
					case "lineNumber":
						fr.line = v.num
					}
				}, nil)
				if err != nil {
					return false, err
				}
				t = append(t, fr)
			}
			return true, nil
		})
		c.stacks[key] = t
	case "jdk.types.Method":
		var m method
		err = c.structure(cl, 0, func(f *field, v value) {
			switch f.name {
			case "type":
				m.class = v.num
			case "name":
				m.name = v.num
			}
		}, nil)
		c.methods[key] = m
	case "java.lang.Class":
		err = c.structure(cl, 0, func(f *field, v value) {
			if f.name == "name" {
				c.names[key] = v.num
			}
		}, nil)
	case "jdk.types.Symbol":
		err = c.structure(cl, 0, func(f *field, v value) {
			if f.name == "string" {
				c.symbols[key] = v.text
			}
		}, nil)
	case "jdk.types.ThreadState":
		err = c.structure(cl, 0, func(f *field, v value) {
			if f.name == "name" {
				c.states[key] = v.text
			}
		}, nil)
	case "java.lang.String":
		c.texts[key], err = c.text()
	default:
		if err = c.step(); err == nil {
			err = c.structure(cl, 0, nil, nil)
		}
	}
	return err
}
