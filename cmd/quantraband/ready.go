package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/quantra-l/quantra/access"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// writeReady says that the server is ready, where it is, what it found, and how
// to send it profiles.
func writeReady(w io.Writer, base, link, dir string, e *engine, node *runningNode, o upOptions) error {
	var b strings.Builder
	kept := 0
	if e.blocks != nil {
		kept = e.blocks.Stats().Asked
	}
	fmt.Fprintf(&b, "quantraband is ready.\n\n  dashboard    %s\n  log in       %s\n               once, within %s; `quantraband login --link` makes another\n  data folder  %s (%s)\n", base, base+link, access.LinkTTL, dir, recovered(e.db.Stats(), kept))
	if e.clickhouse != nil {
		fmt.Fprintf(&b, "  ClickHouse   %s\n", e.clickhouse)
	}
	if o.engine.bucket != "" {
		fmt.Fprintf(&b, "  bucket       %s\n", e.bucket.URL())
	}
	if !o.noSelfProfile {
		b.WriteString("  itself       profiled as the service quantraband; --no-self-profile turns it off\n")
	}
	if node != nil {
		fmt.Fprintf(&b, "  node         %s\n", node.core.ID())
	}
	if o.demo {
		b.WriteString("  demo         4 processes of the service checkout, v1 and v2, under load; their\n" +
			"               profiles go to the data folder above, --data chooses another\n")
	}
	if o.signed() {
		who := "a key that has enrolled"
		if o.agentKeys != "" {
			who = "a key in " + o.agentKeys
		}
		fmt.Fprintf(&b, "  signatures   required, by %s; see docs/operations.md\n", who)
	}
	server := ""
	if base != defaultServer {
		server = fmt.Sprintf(", Server: %q", base)
	}
	fmt.Fprintf(&b, `
Send profiles from

  Go             agent.Start(ctx, agent.Options{Service: "shop"%[1]s})
                 of github.com/quantra-l/quantra/agent
`, server)
	if !o.signed() { // these two cannot sign
		fmt.Fprintf(&b, "  Pyroscope SDK  ServerAddress: %[1]q\n  any file       curl --data-binary @cpu.pb.gz '%[1]s/api/v1/profiles?service_name=shop'\n", base)
	}
	b.WriteString("\nCtrl-C stops it.\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// recovered says what the start found, and what of it was not whole.
func recovered(s store.Stats, blocks int) string {
	r := s.Recovered
	text := "nothing was waiting in the log"
	switch {
	case r.Profiles == 0 && r.Torn == 0 && r.Skipped == 0 && blocks == 0:
		return "new"
	case r.Profiles == 1:
		text = "recovered 1 profile"
	case r.Profiles > 1 || r.Torn > 0 || r.Skipped > 0:
		text = fmt.Sprintf("recovered %d profiles", r.Profiles)
	}
	if blocks == 1 {
		text += "; 1 block"
	} else if blocks > 1 {
		text += fmt.Sprintf("; %d blocks", blocks)
	}
	if r.Torn > 0 {
		text += fmt.Sprintf("; cut off %s of a write that never finished", profile.FormatValue(r.Torn, "bytes"))
	}
	if r.Skipped > 0 {
		text += fmt.Sprintf("; skipped %s that are damaged", profile.FormatValue(r.Skipped, "bytes"))
	}
	if r.Undecodable > 0 {
		text += fmt.Sprintf("; %d records hold no readable profile", r.Undecodable)
	}
	return text
}
