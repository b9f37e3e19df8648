package zerotrust

import (
	"fmt"

	"github.com/quantra-l/quantra/seal"
)

// What stands before an Ed25519 key in a libp2p peer id: an identity multihash (code 0x00) of 36 bytes, which are the key's protobuf
// (field 1, the type, is 1 for Ed25519; field 2 is 32 bytes of key). Source: the libp2p specification, peer-ids.md.
var idPrefix = [...]byte{0x00, 0x24, 0x08, 0x01, 0x12, 0x20}

// base58 is the alphabet of base58btc: no 0, O, I or l.
const base58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

// IDOf is the id of a key: its libp2p peer id as text, 52 characters that begin with 12D3KooW.
func IDOf(key seal.PublicKey) string {
	raw := append(idPrefix[:], key[:]...)
	// 38 bytes, of which the first is zero and stands as one '1'; the rest is a number of 37 bytes, at most 51 digits.
	var digits [52]byte // least first
	n := 0
	for _, b := range raw[1:] {
		carry := int(b)
		for i := range n {
			carry += int(digits[i]) << 8
			digits[i] = byte(carry % 58)
			carry /= 58
		}
		for ; carry > 0; carry /= 58 {
			digits[n] = byte(carry % 58)
			n++
		}
	}
	out := make([]byte, 0, n+1)
	out = append(out, base58[0])
	for i := n - 1; i >= 0; i-- {
		out = append(out, base58[digits[i]])
	}
	return string(out)
}

// ParseID is the key of an id. Each key has one id: what [IDOf] does not write is refused.
func ParseID(id string) (seal.PublicKey, error) {
	var key seal.PublicKey
	const want = 52
	if len(id) != want {
		return key, fmt.Errorf("%w: an id has %d characters, not %d", ErrCorrupt, want, len(id))
	}
	var num [38]byte // most first
	for i := range len(id) {
		d := -1
		for j := range len(base58) {
			if base58[j] == id[i] {
				d = j
				break
			}
		}
		if d < 0 {
			return key, fmt.Errorf("%w: character %d of the id is none of base58's", ErrCorrupt, i+1)
		}
		carry := d
		for j := len(num) - 1; j >= 0; j-- {
			carry += int(num[j]) * 58
			num[j] = byte(carry)
			carry >>= 8
		}
		if carry != 0 {
			return key, fmt.Errorf("%w: the id is too large a number", ErrCorrupt)
		}
	}
	if [6]byte(num[:6]) != idPrefix || id[0] != base58[0] {
		return key, fmt.Errorf("%w: the id is not that of an Ed25519 key", ErrCorrupt)
	}
	copy(key[:], num[6:])
	return key, nil
}
