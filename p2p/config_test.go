package p2p

import (
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/internal/strictyaml"
	"github.com/quantra-l/quantra/seal"
)

// TestConfig: the file that docs/node.md shows is one, and says the defaults; what it names is taken, and slips are said with their line.
func TestConfig(t *testing.T) {
	page, err := os.ReadFile("../docs/node.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(page)
	if shown == nil {
		t.Fatal("docs/node.md shows no file")
	}
	c, err := ReadConfig(strings.NewReader(string(shown[1])))
	if err != nil {
		t.Fatal(err)
	}
	var defaults Limits
	if err := defaults.defaults(); err != nil {
		t.Fatal(err)
	}
	defaults.Waiting, defaults.RememberedAddresses = 0, 0 // which a file does not name
	if c.Limits != defaults {
		t.Errorf("the page shows %+v, the defaults are %+v", c.Limits, defaults)
	}
	if want := DefaultConfig(); c.MDNS != want.MDNS || c.DHT != want.DHT || c.HolePunch != want.HolePunch || c.RelayService || c.Reach != ReachAuto {
		t.Errorf("the page shows %+v", c)
	}
	empty, err := ReadConfig(strings.NewReader("{}"))
	if err != nil || !reflect.DeepEqual(empty, DefaultConfig()) {
		t.Errorf("an empty file is %+v, %v", empty, err)
	}
	var o Options
	c.Apply(&o)
	if o.NoDHT || len(o.Listen) != 2 || o.Admission.Total != 1000 {
		t.Errorf("options %+v", o)
	}
	for text, line := range map[string]int{
		"": 0, "listen: x": 1, "mdns: true\nmdns: false": 2, "mdns: true\nnosuch: 1": 2, "listen: [/ip4/x]": 1, "bootstrap: [/ip4/127.0.0.1/tcp/1]": 1,
		"reach: sideways": 1, "limits: {peers: 0}": 1, "limits: {peers: 1.5}": 1, "limits:\n  nosuch: 1": 2, "admission: {puzzle_bits: 33}": 1, "limits: {memory_mib: 1}": 1,
	} {
		_, err := ReadConfig(strings.NewReader(text))
		if e := (*strictyaml.Error)(nil); !errors.As(err, &e) || e.Line != line {
			t.Errorf("%q: %v, want one of line %d", text, err, line)
		}
	}
}

// TestOptions: what cannot be is refused at the start.
func TestOptions(t *testing.T) {
	good := func() Options { return Options{Key: keyOf(1), Guard: newGuard(t)} }
	for name, change := range map[string]func(*Options){
		"no key": func(o *Options) { o.Key = seal.Key{} }, "no guard": func(o *Options) { o.Guard = nil }, "no way": func(o *Options) { o.Reach = "x" },
		"negative": func(o *Options) { o.Limits.Peers = -1 }, "no memory": func(o *Options) { o.Limits.Memory = -1 }, "no time": func(o *Options) { o.JudgeTime = -1 },
		"many": func(o *Options) { o.Listen = make([]string, most+1) }, "no document": func(o *Options) { o.Document = []byte{1} },
		"no address": func(o *Options) { o.Listen = []string{"x"} }, "no peer": func(o *Options) { o.Bootstrap = []string{"/ip4/127.0.0.1/tcp/1"} },
		"no relay": func(o *Options) { o.Relays = []string{"x"} }, "before": func(o *Options) { o.Before = func(*Node) error { return errors.New("planted") } },
		"another's document": func(o *Options) {
			other := good()
			other.Key = keyOf(2)
			if err := other.defaults(); err != nil {
				t.Fatal(err)
			}
			o.Document = other.Document
		},
	} {
		o := good()
		change(&o)
		if n, err := New(t.Context(), o); err == nil {
			n.Close()
			t.Errorf("%s is taken", name)
		}
	}
}
