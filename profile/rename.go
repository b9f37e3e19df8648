package profile

import "slices"

// Rename is p with functions under other names: rename is called for each with its name, and says what it is called then and whether
// that is another. Of those that are renamed the file, line and linker's name are gone, and nothing of p's strings has them any more.
// Where none is renamed it is p.
func (p *Profile) Rename(rename func(name string) (string, bool)) *Profile {
	out := *p
	keep := make([]bool, len(p.Strings)) // files of functions that are shown as they are
	for i, f := range p.Functions {
		name, other := rename(p.Strings[f.Name])
		if !other {
			// The linker's name of a function may be what gives it away.
			if name, other = rename(p.Strings[f.SystemName]); !other || f.SystemName == 0 {
				keep[f.File] = true
				continue
			}
		}
		if len(out.Functions) == 0 || &out.Functions[0] == &p.Functions[0] {
			out.Functions, out.Strings = slices.Clone(p.Functions), slices.Clone(p.Strings)
		}
		// In place: whatever else has this text, as a label that names the function, is renamed with it.
		out.Strings[f.Name] = name
		if f.SystemName != 0 {
			out.Strings[f.SystemName] = name
		}
		out.Functions[i] = Function{Name: f.Name, SystemName: f.SystemName}
	}
	if len(p.Functions) == 0 || &out.Functions[0] == &p.Functions[0] {
		return p
	}
	for i, f := range p.Functions {
		if out.Functions[i].File == 0 && f.File != 0 && !keep[f.File] {
			out.Strings[f.File] = ""
		}
	}
	return &out
}
