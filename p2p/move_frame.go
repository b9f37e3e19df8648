package p2p

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/seal"
)

// What a node is asked: docs/format/move.md.
const (
	moveNode   = "node"   // what it bears
	moveTake   = "take"   // a ticket, by which peers come to it
	moveGive   = "give"   // to ask peers to follow a ticket
	moveStop   = "stop"   // to ask nobody more, and turn back who comes
	moveBack   = "back"   // to ask those who came by a move to follow a ticket back
	moveMoved  = "moved"  // how a move stands here
	moveFollow = "follow" // to go where a ticket leads
	moveCame   = "came"   // by which ticket one has come, or from where it has come home
)

// The bounds of frames and tickets.
const (
	maxMoveFrame = 32 << 10
	maxTicket    = 12 << 10
	ticketDomain = "quantra move ticket v1"
)

// MoveRequest is what a node is asked.
type MoveRequest struct {
	Op     string `json:"op"`
	ID     string `json:"id,omitempty"`    // of the move
	From   string `json:"from,omitempty"`  // of take: who gives
	Peers  int    `json:"peers,omitempty"` // of take and give
	Back   bool   `json:"back,omitempty"`  // of take: the move is taken back
	Ticket []byte `json:"ticket,omitempty"`
	// Others are the nodes among which peers are moved, and who asks: they are none of those peers.
	Others []string `json:"others,omitempty"`
}

// MoveAnswer is what it says.
type MoveAnswer struct {
	Code    string    `json:"code,omitempty"` // denied, unavailable or corrupt: it does not, and why
	Message string    `json:"message,omitempty"`
	Node    *MoveNode `json:"node,omitempty"`
	Ticket  []byte    `json:"ticket,omitempty"`
	Given   bool      `json:"given,omitempty"` // the move is one from here, and was not taken back
	From    string    `json:"from,omitempty"`  // the move is one to here, from this node
	Here    int       `json:"here,omitempty"`  // its peers that are here
	Home    bool      `json:"home,omitempty"`  // of came: the move was taken back, and who came is to go home
}

// MoveNode is what a node bears.
type MoveNode struct {
	Peers    int       `json:"peers"`     // that could be moved
	InFlight float64   `json:"in_flight"` // requests at a time, on average over the last minute
	Latency  float64   `json:"latency"`   // seconds: their median
	Since    time.Time `json:"since"`     // when peers last went or came, or it began
}

// RequestNode asks what a node bears, the others not counted.
func RequestNode(others []peer.ID) MoveRequest {
	return MoveRequest{Op: moveNode, Others: idsOf(others)}
}

func idsOf(list []peer.ID) (out []string) {
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

// RequestTake asks a node for a ticket, by which peers of another come to it; back, by which those of its own come back that the move has taken.
func RequestTake(id string, from peer.ID, peers int, back bool) MoveRequest {
	return MoveRequest{Op: moveTake, ID: id, From: from.String(), Peers: peers, Back: back}
}

// RequestGive asks a node to give peers by a ticket, none of the others.
func RequestGive(id string, peers int, ticket []byte, others []peer.ID) MoveRequest {
	return MoveRequest{Op: moveGive, ID: id, Peers: peers, Ticket: ticket, Others: idsOf(others)}
}

// RequestStop asks a node to give no more, and to turn back who comes by a move.
func RequestStop(id string) MoveRequest { return MoveRequest{Op: moveStop, ID: id} }

// RequestBack asks a node to lead back who came by a move.
func RequestBack(id string, ticket []byte) MoveRequest {
	return MoveRequest{Op: moveBack, ID: id, Ticket: ticket}
}

// RequestMoved asks a node how a move stands.
func RequestMoved(id string) MoveRequest { return MoveRequest{Op: moveMoved, ID: id} }

// fault puts an error into an answer.
func (a *MoveAnswer) fault(err error) {
	const longest = 512
	switch {
	case err == nil:
		return
	case errors.Is(err, ErrDenied), errors.Is(err, ErrUnguarded):
		a.Code = "denied"
	case errors.Is(err, ErrCorrupt):
		a.Code = "corrupt"
	default:
		a.Code = "unavailable"
	}
	a.Message = err.Error()
	a.Message = a.Message[:min(len(a.Message), longest)]
}

// err is the error that an answer has.
func (a *MoveAnswer) err() error {
	word := map[string]error{"denied": ErrDenied, "corrupt": ErrCorrupt}[a.Code]
	switch {
	case a.Code == "":
		return nil
	case word == nil:
		word = ErrUnavailable
	}
	return fmt.Errorf("%w: it says: %.512q", word, a.Message)
}

// exchangeMove is one request and its answer.
func exchangeMove(rw io.ReadWriter, q *MoveRequest) (a MoveAnswer, err error) {
	if err := writeMove(rw, q); err != nil {
		return a, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if err := readMove(rw, &a); err != nil {
		if !errors.Is(err, ErrCorrupt) {
			err = fmt.Errorf("%w: it does not answer: %w", ErrUnavailable, err)
		}
		return a, err
	}
	return a, a.err()
}

// writeMove writes a frame: four bytes of length, the most significant first, and JSON.
func writeMove(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMoveFrame {
		return fmt.Errorf("%w: a frame of %d bytes, of at most %d", ErrCorrupt, len(b), maxMoveFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

// readMove reads a frame into v.
func readMove(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMoveFrame {
		return fmt.Errorf("%w: a frame of %d bytes, of at most %d", ErrCorrupt, n, maxMoveFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// ticket is a node's word that it takes peers of another: its signature, and what it has signed.
type ticket struct {
	ID    string   `json:"id"` // of the move
	From  string   `json:"from"`
	To    string   `json:"to"` // who has signed
	Peers int      `json:"peers"`
	Back  bool     `json:"back,omitempty"` // they come back
	Until int64    `json:"until"`          // Unix seconds
	Addrs []string `json:"addresses"`
}

func (t *ticket) sign(k seal.Key) ([]byte, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	sig, err := k.Sign(ticketDomain, b)
	if err != nil {
		return nil, err
	}
	if b = append(sig[:], b...); len(b) > maxTicket {
		return nil, fmt.Errorf("%w: a ticket of %d bytes, of at most %d", ErrCorrupt, len(b), maxTicket)
	}
	return b, nil
}

// decodeTicket reads a ticket, and verifies that the node has signed it to which it leads.
func decodeTicket(raw []byte) (*ticket, error) {
	var sig seal.Signature
	if len(raw) < len(sig) || len(raw) > maxTicket {
		return nil, fmt.Errorf("%w: a ticket of %d bytes", ErrCorrupt, len(raw))
	}
	copy(sig[:], raw)
	body := raw[len(sig):]
	t := new(ticket)
	if err := json.Unmarshal(body, t); err != nil {
		return nil, fmt.Errorf("%w: a ticket: %w", ErrCorrupt, err)
	}
	to, err := peer.Decode(t.To)
	key, ok := KeyOf(to)
	if err != nil || !ok || t.ID == "" || len(t.ID) > maxMoveID || t.Peers < 1 || len(t.Addrs) == 0 || len(t.Addrs) > maxAddrs {
		return nil, fmt.Errorf("%w: a ticket to %.80q for %d peers, with %d addresses", ErrCorrupt, t.To, t.Peers, len(t.Addrs))
	}
	if err := key.Verify(ticketDomain, body, sig); err != nil {
		return nil, fmt.Errorf("%w: a ticket that %s has not signed: %w", ErrDenied, t.To, err)
	}
	return t, nil
}
