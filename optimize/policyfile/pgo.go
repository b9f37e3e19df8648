package policyfile

import (
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/internal/strictyaml"
)

// PGO is where a service's profile for the Go compiler goes: a file, an object in a bucket, or a pull request. One of File and Repository is set.
type PGO struct {
	Service string
	File    string // a path, or an object's URL as gs://BUCKET/checkout/default.pgo
	// Of a pull request: OWNER/NAME, the file's path, the branch to merge into ("" is the repository's default), and the URL of the API ("" is github.com's).
	Repository, Path, Base, API string
	// Since is of how much of the past it is made; After how much there must be.
	Since, After time.Duration
}

// maxPGO bounds the services of the list.
const maxPGO = 1000

// pgo reads the list of services whose builds take a profile.
func pgo(to *[]PGO) strictyaml.Reader {
	return func(n *node, field string) error {
		seen := map[string]bool{}
		return strictyaml.Items(n, field, maxPGO, func(n *node, field string) error {
			g, err := pgoItem(n, field)
			if err != nil {
				return err
			}
			if seen[g.Service] {
				return strictyaml.Wrong(n, field+".service", "%.80q is there twice", g.Service)
			}
			seen[g.Service] = true
			*to = append(*to, g)
			return nil
		})
	}
}

func pgoItem(n *node, field string) (g PGO, err error) {
	g.Since, g.After = 7*24*time.Hour, 24*time.Hour
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"service": text(&g.Service),
		"file": func(n *node, f string) error {
			if err := text(&g.File)(n, f); err != nil {
				return err
			}
			if strings.HasSuffix(g.File, "/") {
				return strictyaml.Wrong(n, f, "%.80q is a folder: name the file, as default.pgo in it", g.File)
			}
			return nil
		},
		"pull_request": func(n *node, f string) error { return pgoPull(n, f, &g) },
		"since":        duration(time.Minute, &g.Since),
		"after":        duration(time.Minute, &g.After),
	})
	switch {
	case err != nil:
		return g, err
	case !slices.Contains(seen, "service"):
		return g, strictyaml.Wrong(n, field+".service", "it is missing")
	case slices.Contains(seen, "file") == slices.Contains(seen, "pull_request"):
		return g, strictyaml.Wrong(n, field, "it must have either file or pull_request")
	case g.After > g.Since:
		return g, strictyaml.Wrong(n, field, "after %s is more than since, %s: it would never be made", g.After, g.Since)
	}
	return g, nil
}

func text(to *string) strictyaml.Reader {
	return func(n *node, f string) (err error) { *to, err = strictyaml.Text(n, f); return err }
}

// repository reads a repository's name on GitHub.
func repository(to *string) strictyaml.Reader {
	return func(n *node, f string) error {
		if err := text(to)(n, f); err != nil {
			return err
		}
		if owner, name, ok := strings.Cut(*to, "/"); !ok || owner == "" || name == "" || strings.Contains(name, "/") {
			return strictyaml.Wrong(n, f, "%.80q: it must be OWNER/NAME", *to)
		}
		return nil
	}
}

// api reads the address of GitHub's API.
func api(to *string) strictyaml.Reader {
	return func(n *node, f string) error {
		if err := text(to)(n, f); err != nil {
			return err
		}
		if !strings.HasPrefix(*to, "https://") && !strings.HasPrefix(*to, "http://") {
			return strictyaml.Wrong(n, f, "%.80q: it must begin with https://, as https://HOST/api/v3", *to)
		}
		return nil
	}
}

func pgoPull(n *node, field string, g *PGO) error {
	seen, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"repository": repository(&g.Repository),
		"path":       text(&g.Path),
		"base":       text(&g.Base),
		"api":        api(&g.API),
	})
	if err != nil {
		return err
	}
	for _, f := range []string{"repository", "path"} {
		if !slices.Contains(seen, f) {
			return strictyaml.Wrong(n, field+"."+f, "it is missing")
		}
	}
	return nil
}
