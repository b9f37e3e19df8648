package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/p2p"
	"github.com/quantra-l/quantra/p2p/broadcast"
	"github.com/quantra-l/quantra/p2p/direct"
)

// The bounds of what commands ask of a node.
const (
	maxMessage    = 1 << 20
	maxNodeBody   = maxMessage/3*4 + 4096 // a message as base64, and what is around it
	maxHistory    = 10_000
	maxSubscribed = 64 // topics of one command
	pingTime      = 10 * time.Second
)

// said is a message as commands see it.
type said struct {
	ID      string    `json:"id"`
	From    string    `json:"from"`
	To      string    `json:"to,omitempty"` // a peer
	Topic   string    `json:"topic,omitempty"`
	Group   string    `json:"group,omitempty"`
	Sent    time.Time `json:"sent"`
	Body    []byte    `json:"body"`
	Pending bool      `json:"pending,omitempty"` // it waits for the peer
}

func saidTo(m direct.Message) said {
	s := said{ID: m.ID, From: m.From.String(), To: m.To.String(), Sent: m.Sent.UTC(), Body: m.Body, Pending: m.Pending}
	if m.Group != (direct.GroupID{}) {
		s.Group = m.Group.String()
	}
	return s
}

func saidOn(m broadcast.Message) said {
	return said{ID: m.ID.String(), From: m.ID.From.String(), Topic: m.Topic, Sent: m.Signed.UTC(), Body: m.Payload}
}

// What commands send, and are answered.
type (
	sending struct {
		To    string `json:"to,omitempty"`
		Topic string `json:"topic,omitempty"`
		Body  []byte `json:"body"`
		Wait  bool   `json:"wait,omitempty"` // until the peer has it
	}
	sent struct {
		ID      string `json:"id"`
		Pending bool   `json:"pending"` // it waits for the peer, on disk
		Hearers int    `json:"hearers"` // neighbours that hear the topic
	}
	pinging struct {
		Peer string `json:"peer"`
	}
	pinged struct {
		RTT time.Duration `json:"rtt_ns"`
	}
	inviting struct {
		Address string `json:"address,omitempty"`
		Seconds int    `json:"seconds,omitempty"`
	}
	invited struct {
		Code    string    `json:"code,omitempty"`
		Expires time.Time `json:"expires,omitzero"`
		Peer    string    `json:"peer,omitempty"`
		Words   string    `json:"words,omitempty"`
		Fault   string    `json:"fault,omitempty"`
	}
	joining struct {
		Code string `json:"code"`
	}
)

// control serves commands until the function that it returns is called.
func (n *runningNode) control() (stop func(), err error) {
	ln, guard, err := listenControl(n.dir)
	if err != nil {
		return nil, fmt.Errorf("the node's socket: %w", err)
	}
	srv := newHTTPServer(guard(n.handler()), n.log)
	ctx, cancel := context.WithCancel(context.Background())
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			n.log.Error("the node's socket has ended", "err", err)
		}
	}()
	return func() {
		cancel() // those who hear, and those who wait for somebody to join
		if err := drain(context.Background(), srv, n.log); err != nil {
			n.log.Warn("the node's socket did not end in order", "err", err)
		}
		<-done
	}, nil
}

// handler answers commands.
func (n *runningNode) handler() http.Handler {
	door := &jsonapi.Door{Tenant: func(*http.Request) (string, error) { return "", nil }, Fault: nodeFault, Logger: n.log, MaxBody: maxNodeBody}
	mux := http.NewServeMux()
	door.Handle(mux, "GET /v1/node", nil, func(*http.Request, string) (any, error) { return n.status(), nil })
	door.Handle(mux, "POST /v1/ping", nil, n.answerPing)
	door.Handle(mux, "POST /v1/send", nil, n.answerSend)
	door.Handle(mux, "GET /v1/history", []string{"peer", "topic", "group", "limit"}, n.answerHistory)
	door.Handle(mux, "POST /v1/join", nil, n.answerJoin)
	door.Handle(mux, "GET /v1/files", nil, n.answerFiles)
	door.Handle(mux, "GET /v1/groups", nil, n.answerGroups)
	door.Handle(mux, "POST /v1/groups/create", nil, n.answerCreate)
	door.Handle(mux, "POST /v1/groups/change", nil, n.answerChange)
	door.Handle(mux, "POST /v1/groups/send", nil, n.answerGroupSend)
	mux.HandleFunc("POST /v1/files", n.streamFile)
	mux.HandleFunc("GET /v1/subscribe", n.streamMessages)
	mux.HandleFunc("POST /v1/invite", n.streamInvite)
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}))
	door.Else(mux)
	return mux
}

// nodeFault is what an error of the node's rooms means to a command. They have words of their own.
func nodeFault(err error) *jsonapi.Fault {
	switch {
	case errors.Is(err, p2p.ErrDenied), errors.Is(err, p2p.ErrUnguarded), errors.Is(err, direct.ErrDenied), errors.Is(err, broadcast.ErrDenied), errors.Is(err, direct.ErrNotMember):
		return &jsonapi.Fault{Status: http.StatusForbidden, Code: "permission_denied", Text: err.Error()}
	case errors.Is(err, p2p.ErrCorrupt), errors.Is(err, direct.ErrCorrupt), errors.Is(err, broadcast.ErrCorrupt):
		return jsonapi.Invalid("%w", err)
	case errors.Is(err, p2p.ErrUnavailable), errors.Is(err, p2p.ErrClosed), errors.Is(err, direct.ErrUnavailable), errors.Is(err, broadcast.ErrUnavailable),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &jsonapi.Fault{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: err.Error()}
	}
	return nil
}

// nodeStatus is the node as the page and commands see it.
type nodeStatus struct {
	Running bool `json:"running"`
	*p2p.Status
	Topics  []topicStatus  `json:"topics"`
	Pending map[string]int `json:"pending"` // private messages that wait, by peer
	Faults  []string       `json:"faults"`
}

type topicStatus struct {
	Topic     string   `json:"topic"`
	Listeners []string `json:"listeners"` // neighbours that hear it
}

func (n *runningNode) status() nodeStatus {
	st := n.core.Status()
	out := nodeStatus{Running: true, Status: &st, Topics: []topicStatus{}, Pending: map[string]int{}, Faults: []string{}}
	for _, s := range n.heard {
		t := topicStatus{Topic: s.Topic(), Listeners: []string{}}
		for _, p := range n.broadcast.Listeners(s.Topic()) {
			t.Listeners = append(t.Listeners, p.String())
		}
		out.Topics = append(out.Topics, t)
	}
	for _, k := range st.Known {
		if id, err := peer.Decode(k.ID); err == nil {
			if waiting := n.direct.Pending(id); waiting > 0 {
				out.Pending[k.ID] = waiting
			}
		}
	}
	for _, err := range []error{n.direct.Healthy(), n.broadcast.Health()} {
		if err != nil {
			out.Faults = append(out.Faults, err.Error())
		}
	}
	return out
}

// peerOf reads the id of a peer that is meant.
func peerOf(text string) (peer.ID, error) {
	info, err := p2p.ParsePeer(text)
	if err != nil || len(info.Addrs) > 0 {
		return "", jsonapi.Invalid("%.80q is no peer's id, as 12D3KooW...", text)
	}
	return info.ID, nil
}

func (n *runningNode) answerPing(r *http.Request, _ string) (any, error) {
	var q pinging
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	info, err := p2p.ParsePeer(q.Peer)
	if err != nil {
		return nil, jsonapi.Invalid("%w", err)
	}
	ctx, cancel := context.WithTimeout(r.Context(), pingTime)
	defer cancel()
	if err := n.core.Connect(ctx, info); err != nil {
		return nil, unreachable(err)
	}
	rtt, err := n.core.Ping(ctx, info.ID)
	return pinged{rtt}, unreachable(err)
}

// unreachable is an error of connecting, as one of the words: libp2p has none.
func unreachable(err error) error {
	if err == nil || errors.Is(err, p2p.ErrDenied) || errors.Is(err, p2p.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", p2p.ErrUnavailable, err)
}

func (n *runningNode) answerSend(r *http.Request, _ string) (any, error) {
	var q sending
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	if (q.To == "") == (q.Topic == "") {
		return nil, jsonapi.Invalid("a message is to a peer or to a topic")
	}
	if q.Topic != "" {
		if err := checkTopic(q.Topic); err != nil {
			return nil, jsonapi.Invalid("%w", err)
		}
		id, err := n.broadcast.Publish(r.Context(), q.Topic, q.Body)
		if err == nil {
			err = n.broadcast.Flush(r.Context())
		}
		return sent{ID: id.String(), Hearers: len(n.broadcast.Listeners(q.Topic))}, err
	}
	to, err := peerOf(q.To)
	if err != nil {
		return nil, err
	}
	if len(q.Body) > direct.MaxMessage {
		return nil, jsonapi.Invalid("a private message has at most %d bytes, this one %d", direct.MaxMessage, len(q.Body))
	}
	id, err := n.direct.Send(r.Context(), to, q.Body)
	if err == nil && q.Wait {
		err = n.direct.Flush(r.Context(), to)
	}
	return sent{ID: id, Pending: n.direct.Pending(to) > 0}, err
}

func (n *runningNode) answerHistory(r *http.Request, _ string) (any, error) {
	v := r.URL.Query()
	limit, err := jsonapi.Number("limit", v.Get("limit"), 100, 1, maxHistory)
	if err != nil {
		return nil, err
	}
	topic, who, group := v.Get("topic"), v.Get("peer"), v.Get("group")
	asked := 0
	for _, one := range []string{topic, who, group} {
		if one != "" {
			asked++
		}
	}
	if asked != 1 {
		return nil, jsonapi.Invalid("the history is that of a peer, of a topic or of a group")
	}
	out := []said{}
	if topic != "" {
		all := n.broadcast.History(topic)
		for _, m := range all[max(0, len(all)-limit):] {
			out = append(out, saidOn(m))
		}
		return map[string][]said{"messages": out}, nil
	}
	var all []direct.Message
	if who != "" {
		var p peer.ID
		if p, err = peerOf(who); err == nil {
			all, err = n.direct.History(p, limit)
		}
	} else {
		var id direct.GroupID
		if id, err = groupOf(group); err == nil {
			all, err = n.direct.GroupHistory(id, limit)
		}
	}
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		out = append(out, saidTo(m))
	}
	return map[string][]said{"messages": out}, nil
}

func (n *runningNode) answerJoin(r *http.Request, _ string) (any, error) {
	var q joining
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	met, err := n.core.Join(r.Context(), q.Code)
	return invited{Peer: met.Peer.String(), Words: met.Words}, err
}

// stream writes JSON values, a line each, as they come.
type stream struct {
	enc *json.Encoder
	out *http.ResponseController
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	s := &stream{json.NewEncoder(w), http.NewResponseController(w)}
	_ = s.out.Flush() // who hears knows from here on that nothing is missed
	return s
}

func (s *stream) put(v any) error {
	return cmp.Or(s.enc.Encode(v), s.out.Flush())
}

// streamMessages is what topics, and peers, say from now on.
func (n *runningNode) streamMessages(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	topics := q["topic"]
	fault := func(status int, code, text string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"code": code, "message": text})
	}
	if len(topics) > maxSubscribed {
		fault(http.StatusBadRequest, "invalid_argument", fmt.Sprintf("%d topics are more than %d", len(topics), maxSubscribed))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	heard := make(chan said)
	for _, name := range topics {
		if err := checkTopic(name); err != nil {
			fault(http.StatusBadRequest, "invalid_argument", err.Error())
			return
		}
		s, err := n.broadcast.Subscribe(name)
		if err != nil {
			fault(http.StatusServiceUnavailable, "unavailable", err.Error())
			return
		}
		defer s.Close()
		go func() {
			defer cancel()
			for {
				m, err := s.Next(ctx)
				if err != nil {
					return
				}
				select {
				case heard <- saidOn(m):
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	var private chan direct.Message
	if q.Get("private") == "true" {
		l := n.hub.listen()
		defer l.close()
		private = l.c
	}
	out := newStream(w)
	for {
		var s said
		select {
		case <-ctx.Done():
			return
		case m, ok := <-private:
			if !ok {
				return
			}
			s = saidTo(m)
		case s = <-heard:
		}
		if out.put(s) != nil {
			return
		}
	}
}

// streamInvite opens an invitation, says its code, and who has joined.
func (n *runningNode) streamInvite(w http.ResponseWriter, r *http.Request) {
	var q inviting
	r.Body = http.MaxBytesReader(w, r.Body, jsonapi.MaxBody)
	err := jsonapi.Body(r, &q)
	var v *p2p.Invitation
	if err == nil {
		v, err = n.core.Invite(q.Address, time.Duration(q.Seconds)*time.Second)
	}
	if err != nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"code": "invalid_argument", "message": err.Error()})
		return
	}
	defer v.Close()
	out := newStream(w)
	if out.put(invited{Code: v.Code, Expires: v.Expires.UTC()}) != nil {
		return
	}
	met, err := v.Wait(r.Context())
	if err != nil {
		_ = out.put(invited{Fault: err.Error()})
		return
	}
	_ = out.put(invited{Peer: met.Peer.String(), Words: met.Words})
}
