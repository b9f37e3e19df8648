package zerotrust_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/quantra-l/quantra/zerotrust/policy"
)

// The sets of policies that tests judge by, where the standard one is not enough.

// parsed is the set of a text, which must be one.
func parsed(text string) *policy.Set {
	set, err := policy.Parse("test.cedar", text)
	if err != nil {
		panic(err)
	}
	return set
}

// anything permits all, under conditions.
func anything(then policy.Conditions) *policy.Set {
	text := `@id("anything")`
	if then.MFA {
		text += ` @mfa("required")`
	}
	if then.ReadOnly {
		text += ` @read_only("true")`
	}
	if then.Isolation != "" {
		text += fmt.Sprintf(" @isolation(%q)", then.Isolation)
	}
	if then.Rate != (policy.Rate{}) {
		text += fmt.Sprintf(" @rate(%q)", then.Rate)
	}
	return parsed(text + " permit (principal, action, resource);")
}

// withRole permits all to those who have a role.
func withRole(role string) *policy.Set {
	return parsed(fmt.Sprintf(`@id("with-role") permit (principal in Role::%q, action, resource);`, role))
}

// withTeam permits all to those whose attribute team has this value.
func withTeam(t testing.TB, team string) *policy.Set {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"team.cedarschema": "type Attributes = { team?: String };",
		"team.cedar":       fmt.Sprintf(`@id("with-team") permit (principal, action, resource) when { principal.attributes has team && principal.attributes.team == %q };`, team),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	set, err := policy.Load(dir)
	must(t, err)
	return set
}
