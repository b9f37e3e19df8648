package p2p

import (
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// The kinds of hints in a code.
const (
	hintIPv4  = 1 // 4 bytes, and a port of TCP
	hintIPv6  = 2 // 16 bytes, and a port of TCP
	hintMulti = 3 // a multiaddress with /p2p/ID: by a relay, and for all else

	passwordSize = 3 // bytes: a word each. Three tries of 2^24 are 1 in 5.6 million
	maxCode      = 600
	maxSlots     = 16
)

// crockford is the alphabet of base 32 without I, L, O and U (Crockford's).
var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// code is what one side reads out to the other: where to go, which of the invitations there, and what both know.
type code struct {
	slot     byte
	addr     ma.Multiaddr // with /p2p/ID only where it is hintMulti
	password [passwordSize]byte
}

// String is the code as it is read out: the hint, and three words.
func (c *code) String() string {
	kind, body := byte(hintMulti), c.addr.Bytes()
	if at, ok := tcpOf(c.addr); ok {
		kind = hintIPv4
		if at.Addr().Is6() {
			kind = hintIPv6
		}
		body = binary.BigEndian.AppendUint16(at.Addr().AsSlice(), at.Port())
	}
	hint := append([]byte{kind<<4 | c.slot}, body...)
	return crockford.EncodeToString(hint) + "-" + wordsOf(c.password[:], "-")
}

// tcpOf is an address that is nothing but an IP and a port of TCP.
func tcpOf(a ma.Multiaddr) (netip.AddrPort, bool) {
	if len(a) != 2 || a[1].Code() != ma.P_TCP {
		return netip.AddrPort{}, false
	}
	net, err := manet.ToNetAddr(a)
	if err != nil {
		return netip.AddrPort{}, false
	}
	at, err := netip.ParseAddrPort(net.String())
	if err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), true
}

// parseCode reads a code as people write it: in either case, with blanks for hyphens, O for 0, and I or L for 1.
func parseCode(text string) (*code, error) {
	bad := func(why string) (*code, error) {
		return nil, fmt.Errorf("%w: this is no invitation's code: %s", ErrCorrupt, why)
	}
	if len(text) > maxCode {
		return bad(fmt.Sprintf("it has %d characters, more than %d", len(text), maxCode))
	}
	parts := strings.FieldsFunc(text, func(r rune) bool { return r == '-' || r == ' ' })
	if len(parts) != 1+passwordSize {
		return bad(fmt.Sprintf("it has %d parts, not %d with hyphens between them", len(parts), 1+passwordSize))
	}
	hint, err := crockford.DecodeString(strings.NewReplacer("O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(parts[0])))
	if err != nil || len(hint) < 2 {
		return bad("its first part is no address")
	}
	c := &code{slot: hint[0] & 15}
	for i, word := range parts[1:] {
		var ok bool
		if c.password[i], ok = wordByte(word); !ok {
			return bad(fmt.Sprintf("%.40q is none of its words", word))
		}
	}
	body := hint[1:]
	switch kind := hint[0] >> 4; {
	case kind == hintIPv4 && len(body) == 6, kind == hintIPv6 && len(body) == 18:
		ip, _ := netip.AddrFromSlice(body[:len(body)-2])
		at := netip.AddrPortFrom(ip, binary.BigEndian.Uint16(body[len(body)-2:]))
		if kind == hintIPv6 && ip.Is4In6() || at.Port() == 0 {
			return bad("its first part is no address")
		}
		family := "ip4"
		if kind == hintIPv6 {
			family = "ip6"
		}
		if c.addr, err = ma.NewMultiaddr(fmt.Sprintf("/%s/%s/tcp/%d", family, ip, at.Port())); err != nil {
			return bad("its first part is no address")
		}
	case kind == hintMulti:
		if c.addr, err = ma.NewMultiaddrBytes(body); err != nil {
			return bad("its first part is no address")
		}
		if _, err := ParsePeer(c.addr.String()); err != nil {
			return bad("its address says no peer")
		}
	default:
		return bad("its first part is of another version")
	}
	return c, nil
}
