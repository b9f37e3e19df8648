package access

import (
	"fmt"
	"strings"
)

// maxBy is how many bytes of a name stand in a history.
const maxBy = 200

// By is who asks, as histories show it, where the request's body claims to be by said. A person is she who is logged in and a program its token,
// whatever the body says. Only of the server's owner the body is believed: who has that credential can write the histories themselves. reserved are
// names of what is no person.
func (c *Caller) By(said string, reserved func(string) bool) string {
	name := ""
	switch {
	case c == nil:
		return said
	case c.How == "local":
		if name = said; name == "" {
			name = c.Principal
		}
		return name
	case c.Kind == "token":
		name = fmt.Sprintf("token %s (%s)", c.Name, c.Principal)
	case c.Kind == "person":
		if name = c.Name; reserved != nil && reserved(name) {
			name = "person " + name
		}
	default:
		name = c.Principal
	}
	return strings.ToValidUTF8(name[:min(len(name), maxBy)], "")
}
