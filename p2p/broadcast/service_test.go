package broadcast

import (
	"fmt"
	"testing"
)

// TestTwo: what one publishes the other hears once, with its id, and so does the publisher.
func TestTwo(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	connect(t, a.host, b.host)
	mine, theirs := a.subscribe(t, "news"), b.subscribe(t, "news")
	a.hears(t, "news", b)
	const many = 1000
	sent := map[ID]string{}
	for i := range many {
		text := fmt.Sprintf("message %d", i%10) // equal payloads are different messages
		sent[a.publish(t, "news", text)] = text
	}
	if len(sent) != many {
		t.Fatalf("%d ids for %d messages", len(sent), many)
	}
	for _, sub := range []*Subscription{mine, theirs} {
		heard := map[ID]bool{}
		for range many {
			m := next(t, sub)
			if sent[m.ID] != string(m.Payload) || heard[m.ID] || m.Topic != "news" || m.ID.From != a.host.ID() || m.Via != a.host.ID() {
				t.Fatalf("heard %v %q via %s: it was not sent so, or was heard before", m.ID, m.Payload, m.Via)
			}
			heard[m.ID] = true
		}
	}
}
