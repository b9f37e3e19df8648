package symbols

import (
	"strings"

	"github.com/ianlancetaylor/demangle"

	"github.com/quantra-l/quantra/profile"
)

// maxMangled bounds what is demangled, in bytes; what is longer stays as it is. A few bytes of a mangled name can stand for very many,
// so what comes of it is bounded, too (2^14).
const maxMangled = 8 << 10

// Name is a linker's name as people know it: C++ by the Itanium ABI, Rust by its old and new scheme, the parameters of
// functions left out. Any other name, and one that cannot be read, is as it was.
func Name(mangled string) string {
	if len(mangled) > maxMangled || !isMangled(mangled) {
		return mangled
	}
	name, err := demangle.ToString(strings.TrimPrefix(mangled, underscore(mangled)), demangle.NoParams, demangle.NoEnclosingParams, demangle.MaxLength(14))
	if err != nil || name == "" {
		return mangled
	}
	return strings.ToValidUTF8(name, "\uFFFD")
}

// isMangled: such a name begins with _Z or _R and a letter, a digit or an underscore; on macOS with one more underscore.
func isMangled(s string) bool {
	s = strings.TrimPrefix(s, underscore(s))
	return len(s) > 2 && s[0] == '_' && (s[1] == 'Z' || s[1] == 'R') &&
		(s[2] == '_' || s[2] >= '0' && s[2] <= '9' || s[2] >= 'A' && s[2] <= 'Z' || s[2] >= 'a' && s[2] <= 'z')
}

// underscore is the one that macOS puts before all names.
func underscore(s string) string {
	if strings.HasPrefix(s, "__Z") || strings.HasPrefix(s, "__R") {
		return "_"
	}
	return ""
}

// Demangle is p with the names of its functions as people know them. SystemName keeps what was mangled. Where there is nothing to do it is p.
func Demangle(p *profile.Profile) *profile.Profile {
	var w *writer
	for i := range p.Functions {
		mangled := p.Strings[p.Functions[i].Name]
		if !isMangled(mangled) {
			continue
		}
		name := Name(mangled)
		if name == mangled {
			continue
		}
		if w == nil {
			w = newWriter(p)
		}
		f := &w.out.Functions[i]
		if f.SystemName == 0 {
			f.SystemName = f.Name
		}
		f.Name = w.text(name)
	}
	if w == nil {
		return p
	}
	return w.out
}
