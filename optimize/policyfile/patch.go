package policyfile

import (
	"slices"

	"github.com/quantra-l/quantra/internal/strictyaml"
)

// Patch is where a service's source is, which patches may be proposed for.
type Patch struct {
	Service string
	// OWNER/NAME, the branch to merge into ("" is the repository's default), and the URL of the API ("" is github.com's).
	Repository, Base, API string
}

// maxPatch bounds the services of the list.
const maxPatch = 1000

// patches reads the list of services whose source may be patched.
func patches(to *[]Patch) strictyaml.Reader {
	return func(n *node, field string) error {
		seen := map[string]bool{}
		return strictyaml.Items(n, field, maxPatch, func(n *node, field string) error {
			var p Patch
			have, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
				"service":    text(&p.Service),
				"repository": repository(&p.Repository),
				"base":       text(&p.Base),
				"api":        api(&p.API),
			})
			if err != nil {
				return err
			}
			for _, f := range []string{"service", "repository"} {
				if !slices.Contains(have, f) {
					return strictyaml.Wrong(n, field+"."+f, "it is missing")
				}
			}
			if seen[p.Service] {
				return strictyaml.Wrong(n, field+".service", "%.80q is there twice", p.Service)
			}
			seen[p.Service] = true
			*to = append(*to, p)
			return nil
		})
	}
}
