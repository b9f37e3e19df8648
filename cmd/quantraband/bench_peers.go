package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// benchPeer is another profile store, which runs already and is spoken to by its public API.
type benchPeer struct {
	kind, url string
	pid       int    // of its process on this machine; 0: not known
	data      string // its data folder on this machine; "": not known
	client    *http.Client
}

// errBusy says that a store turned an upload away and may take it later.
var errBusy = errors.New("busy")

// parsePeer reads KIND=URL[,pid=N][,data=FOLDER].
func parsePeer(s string) (*benchPeer, error) {
	bad := func(why string) (*benchPeer, error) {
		return nil, usagef("--peer %s: %s; it should be pyroscope=URL or parca=URL, with ,pid=N and ,data=FOLDER behind it where they are known", s, why)
	}
	parts := strings.Split(s, ",")
	kind, where, _ := strings.Cut(parts[0], "=")
	if kind != "pyroscope" && kind != "parca" {
		return bad("unknown kind of store")
	}
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "http" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return bad("the URL must be http://host:port")
	}
	p := &benchPeer{kind: kind, url: "http://" + u.Host}
	for _, part := range parts[1:] {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "pid":
			if p.pid, err = strconv.Atoi(value); err != nil || p.pid <= 0 {
				return bad("a pid is a number")
			}
		case "data":
			p.data = value
		default:
			return bad(fmt.Sprintf("unknown %q", name))
		}
	}
	return p, nil
}

// connections lets so many requests be under way. Parca speaks gRPC, which is HTTP/2.
func (p *benchPeer) connections(n int) {
	tr := &http.Transport{MaxIdleConnsPerHost: n, DisableCompression: true}
	if p.kind == "parca" {
		tr.Protocols = new(http.Protocols)
		tr.Protocols.SetUnencryptedHTTP2(true)
	}
	p.client = &http.Client{Transport: tr, Timeout: 5 * time.Minute}
}

// message builds a protobuf message field by field.
type message []byte

func (m message) text(field protowire.Number, s string) message {
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), s)
}

func (m message) bytes(field protowire.Number, b []byte) message {
	return protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), b)
}

func (m message) number(field protowire.Number, n uint64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), n)
}

// timestamp is a google.protobuf.Timestamp.
func (m message) timestamp(field protowire.Number, t time.Time) message {
	return m.bytes(field, message(nil).number(1, uint64(t.Unix())).number(2, uint64(t.Nanosecond())))
}

// push sends an upload: push.v1.PusherService/Push of Pyroscope, ProfileStoreService/WriteRaw of Parca.
func (p *benchPeer) push(ctx context.Context, u *benchUpload) error {
	label := func(name, value string) []byte { return message(nil).text(1, name).text(2, value) }
	labels := [][]byte{label("__name__", benchName), label("service_name", u.service), label("service_instance_id", u.pod)}
	sample := message(nil).bytes(1, u.body)
	var series message
	if p.kind == "pyroscope" {
		for _, l := range labels {
			series = series.bytes(1, l)
		}
		_, err := p.call(ctx, "/push.v1.PusherService/Push", message(nil).bytes(1, series.bytes(2, sample)))
		return err
	}
	var set message
	for _, l := range labels {
		set = set.bytes(1, l)
	}
	series = series.bytes(1, set).bytes(2, sample)
	_, err := p.call(ctx, "/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw", message(nil).bytes(2, series))
	return err
}

// ask asks what the peer's own page would: a flame graph as it draws it, or merged pprof.
func (p *benchPeer) ask(ctx context.Context, q *benchQuestion, typ string) error {
	matchers := "{}"
	if q.service != "" {
		matchers = fmt.Sprintf("{service_name=%q}", q.service)
	}
	var n int64
	var err error
	if p.kind == "pyroscope" {
		method := "SelectMergeStacktraces"
		if q.pprof {
			method = "SelectMergeProfile"
		}
		n, err = p.call(ctx, "/querier.v1.QuerierService/"+method,
			message(nil).text(1, typ).text(2, matchers).number(3, uint64(q.from.UnixMilli())).number(4, uint64(q.to.UnixMilli())))
	} else {
		const merge, flameArrow, pprof = 2, 5, 1 // QueryRequest.Mode and .ReportType
		report := uint64(flameArrow)
		if q.pprof {
			report = pprof
		}
		// Parca tells profiles of a span of time from others by :delta.
		of := message(nil).text(1, typ+":delta"+matchers).timestamp(2, q.from).timestamp(3, q.to)
		n, err = p.call(ctx, "/parca.query.v1alpha1.QueryService/Query", message(nil).number(1, merge).bytes(3, of).number(5, report))
	}
	if err == nil && n < 100 {
		return fmt.Errorf("%s answers %d bytes: it has nothing of %s%s", p.kind, n, typ, matchers)
	}
	return err
}

// call makes one unary call, by Connect or gRPC, and is how many bytes the answer had.
func (p *benchPeer) call(ctx context.Context, path string, m message) (int64, error) {
	body, kind := []byte(m), "application/proto"
	if p.kind == "parca" {
		// A gRPC message: not compressed, its length, itself.
		body = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
		kind = "application/grpc"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", kind)
	if p.kind == "parca" {
		req.Header.Set("TE", "trailers")
	} else {
		req.Header.Set("Connect-Protocol-Version", "1")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000)) // the status is what counts
		if resp.StatusCode == http.StatusTooManyRequests {
			return 0, errBusy
		}
		return 0, fmt.Errorf("%s answers %s: %s", p.kind, resp.Status, oneLine(string(text)))
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || p.kind != "parca" {
		return n, err
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status") // an answer that is nothing but its end
	}
	const exhausted = "8" // of gRPC's codes
	switch status {
	case "0":
		return n, nil
	case exhausted:
		return 0, errBusy
	}
	return 0, fmt.Errorf("%s answers with gRPC status %q: %s", p.kind, status, resp.Trailer.Get("Grpc-Message")+resp.Header.Get("Grpc-Message"))
}
