package pull

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// rehearsal sends what only reads, and of what would change something tells what it would send. The answers that it gives
// instead are as GitHub's, with the name of what each would have made where that is not known.
type rehearsal struct {
	next http.RoundTripper
	w    io.Writer
}

// RoundTrip is http.RoundTripper's.
func (d *rehearsal) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet {
		return d.next.RoundTrip(req)
	}
	var body []byte
	if req.Body != nil {
		defer req.Body.Close()
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
	}
	var sent map[string]any
	if err := json.Unmarshal(body, &sent); err != nil {
		return nil, fmt.Errorf("a request of our own is no JSON: %w", err)
	}
	kind := req.URL.Path[strings.LastIndexByte(req.URL.Path, '/')+1:]
	reply := map[string]any{"sha": "the " + strings.TrimSuffix(kind, "s") + " made above", "number": 0, "html_url": ""}
	if text, ok := sent["content"].(string); ok {
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("a request of our own is no base64: %w", err)
		}
		reply["sha"] = BlobID(b)
		sent["content"] = fmt.Sprintf("(%d bytes, %s)", len(b), BlobID(b))
	}
	var shown bytes.Buffer
	enc := json.NewEncoder(&shown)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(sent); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(d.w, "%s %s\n%s\n", req.Method, req.URL, &shown); err != nil {
		return nil, err
	}
	b, err := json.Marshal(reply)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: "201 Created", StatusCode: http.StatusCreated, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(b)), ContentLength: int64(len(b)), Request: req,
	}, nil
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
