package zerotrust

import (
	"encoding/binary"
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
	// 38 bytes, of which the first is zero and stands as one '1'. The rest is a number of 37 bytes, at most 51 digits: it is taken four
	// bytes at a time into limbs of five digits, the least first, as five are what fits with a carry.
	var raw [40]byte
	copy(raw[2:], idPrefix[:])
	copy(raw[2+len(idPrefix):], key[:])
	const limb = 58 * 58 * 58 * 58 * 58
	var limbs [11]uint64
	for i := 0; i < len(raw); i += 4 {
		carry := uint64(binary.BigEndian.Uint32(raw[i:]))
		for j := range limbs {
			v := limbs[j]<<32 | carry
			limbs[j], carry = v%limb, v/limb
		}
	}
	var out [1 + 5*len(limbs)]byte
	for j, v := range limbs {
		for k := range 5 {
			out[len(out)-1-5*j-k] = base58[v%58]
			v /= 58
		}
	}
	first := 1                    // out[0] is for the '1' in front
	for out[first] == base58[0] { // the prefix is not zero: there is another digit
		first++
	}
	out[first-1] = base58[0]
	return string(out[first-1:])
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
