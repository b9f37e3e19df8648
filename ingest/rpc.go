package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Calls arrive as gRPC, gRPC-Web or Connect, in protobuf or JSON: connect-go tells them apart and frames the answers. What it must not do
// is read and unpack bodies, as it would outside of the budget, nor decode messages, as generated
// structs of tiny messages take a hundred times their bytes. So the body is read and unpacked here, it gets the plain one, and decoders of
// ours read the message.

// message is one message as bytes.
type message struct {
	b    []byte
	json bool
}

// call is one call on its way through connect-go.
type call struct {
	h     *hold
	name  string
	start time.Time
	msg   message
	taken bool // it has come to us, and is counted
}

type callKey struct{}

// rawCodec leaves messages as they are.
type rawCodec string

func (c rawCodec) Name() string { return string(c) }

// Marshal has our answers as they are, and connect-go's own: the details of an error.
func (c rawCodec) Marshal(m any) ([]byte, error) {
	switch m := m.(type) {
	case *message:
		return m.b, nil
	case proto.Message:
		return proto.Marshal(m)
	}
	return nil, fmt.Errorf("ingest: %T is no message", m)
}

func (c rawCodec) Unmarshal([]byte, any) error { return nil } // [call] has it

// rpcReceiver reads one call's message.
type rpcReceiver func(ctx context.Context, h *hold, m message) (batch, error)

// rpc is the route of one procedure. answer is its response, in protobuf or in JSON.
func (in *Ingest) rpc(name, procedure string, receive rpcReceiver, answer func(b batch, json bool) []byte) http.Handler {
	handler := connect.NewUnaryHandler(procedure, func(ctx context.Context, _ *connect.Request[message]) (*connect.Response[message], error) {
		c := ctx.Value(callKey{}).(*call)
		c.taken = true
		b, err := receive(ctx, c.h, c.msg)
		if err == nil {
			err = in.keep(ctx, c.h, &b)
		}
		if f := in.judged(ctx, c.name, c.start, b, err); f != nil {
			return nil, f.connect()
		}
		return connect.NewResponse(&message{b: answer(b, c.msg.json)}), nil
	}, connect.WithCodec(rawCodec("proto")), connect.WithCodec(rawCodec("json")), connect.WithCodec(rawCodec("json; charset=utf-8")))
	refusals := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{h: &hold{budget: &in.inFlight, method: http.MethodPost}, name: name, start: in.opt.Now()}
		defer c.h.release()
		r, leave, err := in.enter(w, r, c.h)
		defer leave()
		if err == nil {
			r, err = in.unwrap(r, c)
		}
		if err != nil {
			f := in.judged(r.Context(), c.name, c.start, batch{}, err)
			if !refusals.IsSupported(r) || f.status == http.StatusMethodNotAllowed {
				f.reply(w)
				return
			}
			refusals.Write(w, r, f.connect()) // an error means that the sender is gone
			return
		}
		handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
		if !c.taken { // connect-go has refused it: a content type or a frame that is none
			in.metrics.rejected(name, "protocol", in.opt.Now().Sub(c.start))
		}
	})
}

// frameHead is what gRPC and gRPC-Web put before a message: a flag byte and the length, big-endian.
const frameHead = 5

// unwrap reads the body of a call, unpacks it, and gives the request a plain one.
func (in *Ingest) unwrap(r *http.Request, c *call) (*http.Request, error) {
	kind := r.Header.Get("Content-Type")
	framed := strings.HasPrefix(kind, "application/grpc")
	c.msg.json = strings.Contains(kind, "json")
	header := "Content-Encoding"
	if framed {
		header = "Grpc-Encoding"
	}
	enc, err := encodingOf(r.Header.Get(header))
	if err != nil {
		return r, err
	}
	b, err := in.arrive(r, c.h)
	if err != nil {
		return r, err
	}
	c.msg.b = b
	if framed {
		if len(b) < frameHead || int64(binary.BigEndian.Uint32(b[1:])) != int64(len(b)-frameHead) {
			return r, faultf(http.StatusBadRequest, "protocol", "the call has no message, or more than one, or one of another length than it says")
		}
		c.msg.b = b[frameHead:]
		if b[0]&1 == 0 { // the message is not packed, whatever the header says
			enc = ""
		}
	}
	if enc != "" && len(c.msg.b) > 0 {
		if c.msg.b, err = undo(c.h, enc, c.msg.b, in.opt.Limits.Decoded, false); err != nil {
			return r, err
		}
	}
	// connect-go copies the body once.
	if err := c.h.grow(int64(len(c.msg.b))); err != nil {
		return r, err
	}
	r = r.Clone(r.Context())
	r.Header.Del(header)
	var body io.Reader = bytes.NewReader(c.msg.b)
	r.ContentLength = int64(len(c.msg.b))
	if framed {
		var head [frameHead]byte
		binary.BigEndian.PutUint32(head[1:], uint32(len(c.msg.b)))
		body = io.MultiReader(bytes.NewReader(head[:]), body)
		r.ContentLength += frameHead
	}
	r.Body = io.NopCloser(body)
	return r, nil
}

// connect is the fault as calls tell it. A client of OpenTelemetry's asks again after RESOURCE_EXHAUSTED only where it is told when.
func (f *fault) connect() *connect.Error {
	code := connect.CodeInternal
	switch f.status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType:
		code = connect.CodeInvalidArgument
	case http.StatusUnauthorized:
		code = connect.CodeUnauthenticated
	case http.StatusForbidden:
		code = connect.CodePermissionDenied
	case http.StatusNotFound:
		code = connect.CodeNotFound
	case http.StatusConflict:
		code = connect.CodeAborted
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		code = connect.CodeUnimplemented
	case http.StatusRequestTimeout:
		code = connect.CodeDeadlineExceeded
	case http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		code = connect.CodeResourceExhausted
	case http.StatusServiceUnavailable:
		code = connect.CodeUnavailable
	}
	err := connect.NewError(code, f)
	err.Meta().Set("Quantra-Code", f.code)
	if f.retry > 0 {
		err.Meta().Set("Retry-After", strconv.Itoa(int(f.retry.Seconds())))
		if d, derr := connect.NewErrorDetail(&errdetails.RetryInfo{RetryDelay: durationpb.New(f.retry)}); derr == nil {
			err.AddDetail(d)
		}
		if code == connect.CodeAborted { // where Cloud Profiler's agents look for it
			if b, merr := proto.Marshal(&errdetails.RetryInfo{RetryDelay: durationpb.New(f.retry)}); merr == nil {
				err.Meta().Set("google.rpc.retryinfo-bin", connect.EncodeBinaryHeader(b))
			}
		}
	}
	return err
}
