package blocks

import (
	"fmt"
	"path"
	"strings"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"
)

// TombstoneFile lies beside meta.json of a block that is deleted: nobody asks it
// from then on, and its bytes go later.
const TombstoneFile = "deleted.json"

// maxTenantKey is how long a tenant's part of a key may be: with room for what a file system adds to a name.
const maxTenantKey = 120

// checkRegion says why region cannot be part of a key.
func checkRegion(region string) error {
	if len(region) == 0 || len(region) > 63 || region[0] == '-' {
		return fmt.Errorf("region %.70q: it must have 1 to 63 of a-z, 0-9 and -, and start with no -", region)
	}
	for _, c := range []byte(region) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return fmt.Errorf("region %q: %q is not of a-z, 0-9 and -", region, c)
		}
	}
	return nil
}

// Prefix is where a block's objects are: <region>/<tenant>/blocks/<ULID>/.
func Prefix(region, tenant string, id ulid.ULID) string {
	return region + "/" + tenantKey(tenant) + "/blocks/" + id.String() + "/"
}

// tenantKey is a tenant as part of a key, also where keys are names of files and case does not count: letters
// that are not small, and all that is not a letter, digit, '-' or '_', are written as %XX.
// A tenant whose key would be too long is cut, and told from others by a hash.
func tenantKey(tenant string) string {
	var b strings.Builder
	for _, c := range []byte(tenant) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() <= maxTenantKey {
		return b.String()
	}
	return fmt.Sprintf("%s~%016x", b.String()[:maxTenantKey-17], xxh3.HashString(tenant))
}

// parseKey takes a key apart. It is false for keys that are not of a block.
func parseKey(key string) (prefix string, id ulid.ULID, file string, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) != 5 || parts[2] != "blocks" || parts[4] == "" {
		return "", id, "", false
	}
	id, err := ulid.ParseStrict(parts[3])
	if err != nil || id.String() != parts[3] {
		return "", id, "", false
	}
	return path.Join(parts[:4]...) + "/", id, parts[4], true
}
