package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/p2p"
)

// nodeQuestion is what the commands of p2p share: which node is asked.
type nodeQuestion struct {
	data    string
	timeout time.Duration
	asJSON  bool
}

func (q *nodeQuestion) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&q.data, "data", "", "data `folder` of the node (default: quantra in the user's data home)")
	f.DurationVar(&q.timeout, "timeout", time.Minute, "how long to wait")
	f.BoolVar(&q.asJSON, "json", false, "write JSON")
}

// maxNodeAnswer bounds an answer: that of a whole history.
const maxNodeAnswer = 64 << 20

// open asks the node of the folder, and returns its answer when that begins.
func (q *nodeQuestion) open(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	dir, err := dataDir(q.data)
	if err != nil {
		return nil, err
	}
	dial, token, err := dialControl(filepath.Join(dir, nodeDir))
	if err != nil {
		return nil, err
	}
	var send io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		send = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, send)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}
	res, err := client.Do(req)
	if err != nil {
		switch {
		case errors.Is(err, context.Canceled):
			return nil, context.Canceled
		case errors.Is(err, context.DeadlineExceeded):
			return nil, unavailablef("the node did not answer within %s; wait longer with --timeout", q.timeout)
		}
		return nil, unavailablef("no node of %s answers: start one with `quantraband node%s`, or name its data folder with --data", dir, dataFlag(dir))
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		raw, err := io.ReadAll(io.LimitReader(res.Body, maxNodeAnswer))
		if err != nil {
			return nil, unavailablef("the node has ended: %w", err)
		}
		return nil, faultOf("the node", res.Status, raw)
	}
	return res.Body, nil
}

// ask asks, and reads the whole answer.
func (q *nodeQuestion) ask(ctx context.Context, method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	r, err := q.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := json.NewDecoder(io.LimitReader(r, maxNodeAnswer)).Decode(answer); err != nil {
		return unavailablef("the node has ended, or is of another version: %w", err)
	}
	return nil
}

// each reads an answer that comes line by line, until it ends or done is true.
func (q *nodeQuestion) each(ctx context.Context, method, path string, body any, line func([]byte) (done bool, err error)) error {
	r, err := q.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer r.Close()
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxNodeBody)
	for lines.Scan() {
		if done, err := line(lines.Bytes()); done || err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return unavailablef("the node has ended")
}

func (a *app) p2pCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "p2p",
		GroupID: "main",
		Short:   "Speak by a running node: peers, ping, send, files, groups, subscribe, history, invite, join",
		Long: `Speak by the node that runs on this machine, of the same user: quantraband node, or up --node. These commands start none;
they ask the one whose data folder it is, over a socket that is this user's alone. docs/node.md tells of it.`,
		Example: `  quantraband p2p peers
  quantraband p2p send --topic news --message hello`,
	}, a.p2pPeers(), a.p2pPing(), a.p2pSend(), a.p2pSendFile(), a.p2pFiles(), a.p2pSubscribe(), a.p2pHistory(), a.p2pGroup(), a.p2pInvite(), a.p2pJoin())
}

func (a *app) p2pPeers() *cobra.Command {
	var q nodeQuestion
	cmd := &cobra.Command{
		Use:   "peers",
		Short: "The node, and the peers that are let in",
		Example: `  quantraband p2p peers
  quantraband p2p peers --json | jq -r '.peers[].id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var st nodeStatus
			st.Status = &p2p.Status{}
			if err := q.ask(cmd.Context(), http.MethodGet, "/v1/node", nil, &st); err != nil {
				return err
			}
			if q.asJSON {
				return writeJSON(a.stdout, st)
			}
			fmt.Fprintf(a.stdout, "%s\n", plain(st.ID))
			for _, addr := range st.Addresses {
				fmt.Fprintf(a.stdout, "  %s\n", plain(addr))
			}
			if len(st.Peers) == 0 {
				_, err := fmt.Fprintln(a.stdout, "no peer is let in")
				return err
			}
			return a.lines("PEER\tLEVEL\tTRUST\tRTT\tIN/s\tOUT/s\tSINCE\tADDRESS", func(line func(...any)) {
				for _, p := range st.Peers {
					line(plain(p.ID), plain(p.Level), p.Trust, p.RTT.Round(10*time.Microsecond), int(p.BytesIn), int(p.BytesOut), p.Since.Format(time.RFC3339), plain(p.Address))
				}
			})
		},
	}
	q.flags(cmd)
	return cmd
}

func (a *app) p2pPing() *cobra.Command {
	var q nodeQuestion
	cmd := &cobra.Command{
		Use:   "ping PEER",
		Short: "How long a message to a peer takes, there and back",
		Long:  `Connect to a peer if it is not connected, have it let in, and say how long a message takes there and back. PEER is an id, or an address that ends in /p2p/ID.`,
		Example: `  quantraband p2p ping 12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR
  quantraband p2p ping /ip4/192.0.2.1/tcp/4242/p2p/12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var got pinged
			if err := q.ask(cmd.Context(), http.MethodPost, "/v1/ping", pinging{args[0]}, &got); err != nil {
				return err
			}
			if q.asJSON {
				return writeJSON(a.stdout, got)
			}
			_, err := fmt.Fprintln(a.stdout, got.RTT)
			return err
		},
	}
	q.flags(cmd)
	return cmd
}

func (a *app) p2pSend() *cobra.Command {
	var q nodeQuestion
	var m sending
	var text string
	cmd := &cobra.Command{
		Use:   "send --to PEER|--topic NAME",
		Short: "Send a message to a peer, or to all who hear a topic",
		Long: `Send a message. To a peer it is private: when this command has ended it is on the node's disk, and is sent until the peer has it; --wait
waits for that. To a topic it is signed, and gone to the neighbours. Without --message it is read from standard input.`,
		Example: `  quantraband p2p send --to 12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR --message hello --wait
  quantraband p2p send --topic news --message hello`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (m.To == "") == (m.Topic == "") {
				return usagef("send needs --to PEER or --topic NAME")
			}
			m.Body = []byte(text)
			if !cmd.Flags().Changed("message") {
				var err error
				if m.Body, err = io.ReadAll(io.LimitReader(a.stdin, maxMessage+1)); err != nil {
					return err
				}
			}
			if len(m.Body) > maxMessage {
				return usagef("the message has more than %d bytes", maxMessage)
			}
			var got sent
			if err := q.ask(cmd.Context(), http.MethodPost, "/v1/send", m, &got); err != nil {
				return err
			}
			if q.asJSON {
				return writeJSON(a.stdout, got)
			}
			state := ""
			if got.Pending {
				state = " waits for the peer"
			}
			_, err := fmt.Fprintf(a.stdout, "%s%s\n", plain(got.ID), state)
			return err
		},
	}
	q.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&m.To, "to", "", "id of the `peer`")
	f.StringVar(&m.Topic, "topic", "", "`name` of the topic")
	f.StringVar(&text, "message", "", "`text` of the message (default: standard input)")
	f.BoolVar(&m.Wait, "wait", false, "wait until the peer has it")
	return cmd
}

// writeSaid writes a message as one line, or as JSON.
func (a *app) writeSaid(s said, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(a.stdout).Encode(s)
	}
	where := "private"
	switch {
	case s.Topic != "":
		where = s.Topic
	case s.Group != "":
		where = s.Group
	}
	body := fmt.Sprintf("%q", s.Body)
	if utf8.Valid(s.Body) && !strings.ContainsFunc(string(s.Body), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		body = string(s.Body)
	}
	state := ""
	if s.Pending {
		state = " (waits)"
	}
	_, err := fmt.Fprintf(a.stdout, "%s  %s  %s%s  %s\n", s.Sent.Format(time.RFC3339), plain(s.From), plain(where), state, harmless(body))
	return err
}

// harmless is text without what would move a terminal's cursor or colour it.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '?'
		}
		return r
	}, s)
}

func (a *app) p2pSubscribe() *cobra.Command {
	var q nodeQuestion
	var topics []string
	var private bool
	var count int
	cmd := &cobra.Command{
		Use:   "subscribe [TOPIC...]",
		Short: "Write what topics, and peers, say from now on, until interrupted",
		Long: `Write messages as they come, a line each: those of the topics, and with --private those that peers send to this node. Without a topic it is
the private ones. What nobody hears at the time is in the history.`,
		Example: `  quantraband p2p subscribe news
  quantraband p2p subscribe --private --count 1 --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, t := range args {
				if err := checkTopic(t); err != nil {
					return err
				}
			}
			topics = args
			v := url.Values{"topic": topics}
			if private || len(topics) == 0 {
				v.Set("private", "true")
			}
			n := 0
			return q.each(cmd.Context(), http.MethodGet, "/v1/subscribe?"+v.Encode(), nil, func(line []byte) (bool, error) {
				var s said
				if err := json.Unmarshal(line, &s); err != nil {
					return true, unavailablef("the node is of another version: %w", err)
				}
				n++
				return n == count, a.writeSaid(s, q.asJSON)
			})
		},
	}
	q.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&private, "private", false, "private messages as well")
	f.IntVar(&count, "count", 0, "end after so many `messages` (default: never)")
	return cmd
}

func (a *app) p2pHistory() *cobra.Command {
	var q nodeQuestion
	var who, topic string
	limit := 100
	cmd := &cobra.Command{
		Use:   "history --peer PEER|--topic NAME",
		Short: "What was said last with a peer, or on a topic that the node hears",
		Example: `  quantraband p2p history --peer 12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR
  quantraband p2p history --topic news --limit 10`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (who == "") == (topic == "") {
				return usagef("history needs --peer PEER or --topic NAME")
			}
			v := url.Values{"limit": {fmt.Sprint(limit)}}
			if who != "" {
				v.Set("peer", who)
			} else {
				v.Set("topic", topic)
			}
			return a.showHistory(cmd.Context(), &q, v)
		},
	}
	q.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&who, "peer", "", "id of the `peer`")
	f.StringVar(&topic, "topic", "", "`name` of the topic")
	f.IntVar(&limit, "limit", limit, "so many `messages` at most")
	return cmd
}

// showHistory writes what was said, as a question has it.
func (a *app) showHistory(ctx context.Context, q *nodeQuestion, v url.Values) error {
	var got struct {
		Messages []said `json:"messages"`
	}
	if err := q.ask(ctx, http.MethodGet, "/v1/history?"+v.Encode(), nil, &got); err != nil {
		return err
	}
	for _, s := range got.Messages {
		if err := a.writeSaid(s, q.asJSON); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) p2pInvite() *cobra.Command {
	var q nodeQuestion
	var o inviting
	life := p2p.DefaultInvitation
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Print a code by which somebody on another machine joins, and wait for that",
		Long: `Print a short code for somebody else: an address of this node, and three words that nobody else knows. Who joins by it is known to
this node from then on, and this node to the other one. The code is good once, for --for, and for three tries. Both sides show the same five
words: compare them by telephone.`,
		Example: `  quantraband p2p invite
  quantraband p2p invite --address 192.0.2.1:4242 --for 1h`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if life < time.Second || life > 24*time.Hour {
				return usagef("--for %s: it must be a second to a day", life)
			}
			o.Seconds = int(life / time.Second)
			return q.each(cmd.Context(), http.MethodPost, "/v1/invite", o, func(line []byte) (bool, error) {
				var v invited
				if err := json.Unmarshal(line, &v); err != nil {
					return true, unavailablef("the node is of another version: %w", err)
				}
				switch {
				case v.Fault != "":
					return true, deniedf("nobody was met: %s", plain(v.Fault))
				case q.asJSON:
					return v.Peer != "", json.NewEncoder(a.stdout).Encode(v)
				case v.Code != "":
					_, err := fmt.Fprintf(a.stdout, "%s\n\nOn the other machine: quantraband p2p join %[1]s\nIt is good once, until %s.\n", v.Code, v.Expires.Local().Format("15:04:05"))
					return false, err
				}
				return true, a.writeMet(v)
			})
		},
	}
	q.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Address, "address", "", "`address` at which the other side reaches this node, as 192.0.2.1:4242 (default: the best that it knows of)")
	f.DurationVar(&life, "for", life, "how long the code is good")
	return cmd
}

// writeMet says who was met, and what is to be compared.
func (a *app) writeMet(v invited) error {
	_, err := fmt.Fprintf(a.stdout, "\nmet %s\n\nThe other side must see these words: %s\n", plain(v.Peer), plain(v.Words))
	return err
}

func (a *app) p2pJoin() *cobra.Command {
	var q nodeQuestion
	cmd := &cobra.Command{
		Use:     "join CODE",
		Short:   "Join by the code of an invitation",
		Long:    `Join by the code that invite has printed on another machine. Both sides show the same five words: compare them by telephone.`,
		Example: `  quantraband p2p join 2Q0000G72290-apron-donkey-muffin`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v invited
			if err := q.ask(cmd.Context(), http.MethodPost, "/v1/join", joining{strings.Join(args, "-")}, &v); err != nil {
				return err
			}
			if q.asJSON {
				return writeJSON(a.stdout, v)
			}
			return a.writeMet(v)
		},
	}
	q.flags(cmd)
	return cmd
}
