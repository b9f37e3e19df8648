package demo

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
)

// How much work a message is: about a fifth of a millisecond, so that 1,000 messages a second are a fifth to a third of a core.
const (
	relayPeers = 1000
	inboxSize  = 4  // messages that an inbox keeps
	parts      = 12 // of a message
	receivers  = 3
)

// Relay passes messages between peers: parse, verify, route, answer. It is the small request beside the shop's large ones, which a
// benchmark can send a thousand times a second.
type Relay struct {
	mu      sync.Mutex
	inboxes map[string]*inbox
}

// inbox is the last messages of a peer, the oldest overwritten.
type inbox struct {
	messages [inboxSize][]byte
	next     int
}

// Message is what a peer sends to /message.
type Message struct {
	ID        string   `json:"id"`
	From      string   `json:"from"`
	To        []string `json:"to"`
	Topic     string   `json:"topic"`
	Parts     []Part   `json:"parts"`
	Signature string   `json:"signature"` // hex of an HMAC-SHA-256 over all else
}

// Part is one reading, as a meter would send it.
type Part struct {
	Name   string            `json:"name"`
	Value  float64           `json:"value"`
	Labels map[string]string `json:"labels"`
}

// delivered is what /message answers.
type delivered struct {
	ID        string `json:"id"`
	Receivers int    `json:"receivers"`
	Receipt   string `json:"receipt"`
}

// relayKey signs the demo's messages. It is no secret: nothing but the demo is behind it.
var relayKey = []byte("quantra demo relay")

// NewRelay has peers with empty inboxes.
func NewRelay() *Relay {
	r := &Relay{inboxes: map[string]*inbox{}}
	for i := range relayPeers {
		r.inboxes[peerName(i)] = &inbox{}
	}
	return r
}

func peerName(i int) string { return fmt.Sprintf("peer-%04d", i) }

func (r *Relay) message(w http.ResponseWriter, q *http.Request) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, q.Body, 64<<10))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m, err := decodeMessage(raw)
	if err == nil {
		err = verifyMessage(m)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n := r.routeMessage(m)
	writeJSON(w, delivered{ID: m.ID, Receivers: n, Receipt: signReceiptOf(m.ID, n)})
}

//go:noinline
func decodeMessage(raw []byte) (m Message, err error) {
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("message: %w", err)
	}
	return m, nil
}

//go:noinline
func verifyMessage(m Message) error {
	have, err := hex.DecodeString(m.Signature)
	if err != nil || !hmac.Equal(have, signMessage(m)) {
		return fmt.Errorf("message %.40q: the signature is not the sender's", m.ID)
	}
	return nil
}

// signMessage is the HMAC of all but the signature.
//
//go:noinline
func signMessage(m Message) []byte {
	mac := hmac.New(sha256.New, relayKey)
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n", m.ID, m.From, strings.Join(m.To, " "), m.Topic)
	for _, p := range m.Parts {
		fmt.Fprintf(mac, "%s %g %d\n", p.Name, p.Value, len(p.Labels))
	}
	return mac.Sum(nil)
}

// routeMessage puts the message into its receivers' inboxes, and is how many there are.
//
//go:noinline
func (r *Relay) routeMessage(m Message) (n int) {
	for _, to := range m.To {
		if r.deliver(to, encodeDelivery(to, m)) {
			n++
		}
	}
	return n
}

// encodeDelivery is the message as one receiver gets it.
//
//go:noinline
func encodeDelivery(to string, m Message) []byte {
	m.To = []string{to}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil // what was JSON can be JSON again
	}
	return raw
}

//go:noinline
func (r *Relay) deliver(to string, raw []byte) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	in, ok := r.inboxes[to]
	if !ok {
		return false
	}
	in.messages[in.next%inboxSize] = raw
	in.next++
	return true
}

//go:noinline
func signReceiptOf(id string, n int) string {
	mac := hmac.New(sha256.New, relayKey)
	fmt.Fprintf(mac, "%s %d", id, n)
	return hex.EncodeToString(mac.Sum(nil))
}

// Messages are n bodies for /message that a relay accepts, the same for the same seed.
func Messages(n int, seed uint64) (bodies [][]byte) {
	r := rand.New(rand.NewPCG(seed, 3))
	for i := range n {
		m := Message{ID: fmt.Sprintf("m-%08x-%d", r.Uint32(), i), From: peerName(r.IntN(relayPeers)), Topic: "meters/" + fmt.Sprint(r.IntN(50))}
		for range receivers {
			m.To = append(m.To, peerName(r.IntN(relayPeers)))
		}
		for p := range parts {
			m.Parts = append(m.Parts, Part{
				Name: fmt.Sprintf("reading-%d", p), Value: float64(r.IntN(100_000)) / 100,
				Labels: map[string]string{"unit": "kWh", "phase": fmt.Sprint(r.IntN(3)), "site": fmt.Sprintf("site-%03d", r.IntN(500))},
			})
		}
		m.Signature = hex.EncodeToString(signMessage(m))
		body, err := json.Marshal(m)
		if err != nil {
			panic(err) // strings and numbers always encode
		}
		bodies = append(bodies, body)
	}
	return bodies
}
