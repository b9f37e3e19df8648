package p2p

import (
	"io"
	"math"

	"github.com/quantra-l/quantra/internal/strictyaml"
)

// MaxConfig bounds a file of settings.
const MaxConfig = 256 << 10

// Config are settings that an operator writes into a file: docs/node.md shows one.
type Config struct {
	Listen, Announce, Bootstrap, Relays []string
	MDNS, DHT, RelayService, HolePunch  bool
	Reach                               Reach
	Limits                              Limits
	PerAddress, PerSecond, PuzzleBits   int // of the admission, each 0 for its default
	// Inbox is how many bytes of files of others are kept. It is for whoever takes them: the node has no files itself.
	Inbox int64
}

// DefaultInbox is Config.Inbox where nothing else is said.
const DefaultInbox = 1 << 30

// DefaultListen is where a node listens where nothing else is said: on all addresses, TCP and QUIC, IPv4 and IPv6.
var DefaultListen = []string{"/ip4/0.0.0.0/tcp/4242", "/ip6/::/tcp/4242", "/ip4/0.0.0.0/udp/4242/quic-v1", "/ip6/::/udp/4242/quic-v1"}

// DefaultConfig is what holds where there is no file. A file changes what it names.
func DefaultConfig() Config {
	return Config{Listen: DefaultListen, MDNS: true, DHT: true, HolePunch: true, Inbox: DefaultInbox}
}

// ReadConfig reads a file over the defaults. What is wrong in it is a *strictyaml.Error with its line.
func ReadConfig(r io.Reader) (Config, error) {
	c := DefaultConfig()
	root, err := strictyaml.Parse(r, MaxConfig)
	if err != nil {
		return c, err
	}
	_, err = strictyaml.Fields(root, "", map[string]strictyaml.Reader{
		"listen":        addresses(&c.Listen, false),
		"announce":      addresses(&c.Announce, false),
		"bootstrap":     addresses(&c.Bootstrap, true),
		"relays":        addresses(&c.Relays, true),
		"mdns":          onOff(&c.MDNS),
		"dht":           onOff(&c.DHT),
		"relay_service": onOff(&c.RelayService),
		"hole_punching": onOff(&c.HolePunch),
		"reach":         c.readReach,
		"inbox_mib":     mebibytes(&c.Inbox, 0),
		"limits":        c.readLimits,
		"admission":     c.readAdmission,
	})
	return c, err
}

func onOff(to *bool) strictyaml.Reader {
	return func(n *strictyaml.Node, field string) error { return strictyaml.Bool(n, field, to) }
}

// addresses reads a list of addresses, of peers where each must end in /p2p/ID.
func addresses(to *[]string, peers bool) strictyaml.Reader {
	return func(n *strictyaml.Node, field string) error {
		*to = []string{}
		return strictyaml.Items(n, field, most, func(n *strictyaml.Node, field string) error {
			text, err := strictyaml.TextOf(n, field, 512)
			if err != nil {
				return err
			}
			if peers {
				_, err = ParsePeer(text)
			} else {
				_, err = ParseAddress(text)
			}
			if err != nil {
				return strictyaml.Wrong(n, field, "%s", err)
			}
			*to = append(*to, text)
			return nil
		})
	}
}

func (c *Config) readReach(n *strictyaml.Node, field string) error {
	text, err := strictyaml.Text(n, field)
	if err != nil {
		return err
	}
	switch text {
	case "auto":
		c.Reach = ReachAuto
	case "public", "private":
		c.Reach = Reach(text)
	default:
		return strictyaml.Wrong(n, field, "%q is none of auto, public, private", text)
	}
	return nil
}

func whole(to *int, low, high int) strictyaml.Reader {
	return func(n *strictyaml.Node, field string) error {
		var v float64
		if err := strictyaml.Number(n, field, float64(low), float64(high), &v); err != nil {
			return err
		}
		if v != math.Trunc(v) {
			return strictyaml.Wrong(n, field, "it must be a whole number")
		}
		*to = int(v)
		return nil
	}
}

// mebibytes reads a number of bytes.
func mebibytes(to *int64, low int) strictyaml.Reader {
	return func(n *strictyaml.Node, field string) error {
		var mib int
		err := whole(&mib, low, 1<<20)(n, field)
		*to = int64(mib) << 20
		return err
	}
}

func (c *Config) readLimits(n *strictyaml.Node, field string) error {
	l := &c.Limits
	_, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"peers":                   whole(&l.Peers, 1, 100_000),
		"connections":             whole(&l.Connections, 1, 200_000),
		"connections_per_address": whole(&l.ConnectionsAddress, 1, 100_000),
		"streams":                 whole(&l.Streams, 1, 10_000_000),
		"streams_per_peer":        whole(&l.StreamsPeer, 1, 100_000),
		"judging":                 whole(&l.Judging, 1, 10_000),
		"memory_mib":              mebibytes(&l.Memory, 16),
	})
	return err
}

func (c *Config) readAdmission(n *strictyaml.Node, field string) error {
	_, err := strictyaml.Fields(n, field, map[string]strictyaml.Reader{
		"per_address_a_minute": whole(&c.PerAddress, 1, 1_000_000),
		"per_second":           whole(&c.PerSecond, 1, 1_000_000),
		"puzzle_bits":          whole(&c.PuzzleBits, 1, 32),
	})
	return err
}

// Apply puts the settings into options.
func (c *Config) Apply(o *Options) {
	o.Listen, o.Announce, o.Bootstrap, o.Relays = c.Listen, c.Announce, c.Bootstrap, c.Relays
	o.MDNS, o.NoDHT, o.RelayService, o.HolePunch, o.Reach, o.Limits = c.MDNS, !c.DHT, c.RelayService, c.HolePunch, c.Reach, c.Limits
	o.Admission.PerAddress, o.Admission.Total, o.Admission.MaxBits = c.PerAddress, c.PerSecond, c.PuzzleBits
}
