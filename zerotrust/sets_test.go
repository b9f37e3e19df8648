package zerotrust_test

import (
	"slices"

	"github.com/quantra-l/quantra/zerotrust/policy"
)

// The sets of policies that tests judge by, where the standard one is not enough.

// anything permits all, under conditions.
func anything(then policy.Conditions) *policy.Set {
	return policy.NewSet("anything", func(*policy.Request) bool { return true }, then)
}

// withRole permits all to those who have a role.
func withRole(role string) *policy.Set {
	return policy.NewSet("with-role", func(r *policy.Request) bool { return slices.Contains(r.Roles, role) }, policy.Conditions{})
}

// withTeam permits all to those whose attribute team has this value.
func withTeam(team string) *policy.Set {
	return policy.NewSet("with-team", func(r *policy.Request) bool { return r.Attributes["team"] == team }, policy.Conditions{})
}
