package clickhouse

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/store"
)

// client speaks ClickHouse's HTTP interface. It is ours, and not clickhouse-go, because an insert here
// is Parquet files that the server reads as external tables of one statement: several files a request,
// which drivers that deal in rows have no way to send. Answers are RowBinary, read
// within bounds by rows.go.
type client struct {
	t    target
	http *http.Client

	statements, retries atomic.Int64
}

// A statement is sent again after these pauses where no answer came, or one that says "later". All
// statements of this package can be repeated.
var pauses = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond}

const (
	maxErrorText = 64 << 10
	maxShownText = 1000
	connections  = 16
)

func newClient(t target) *client {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.MaxIdleConnsPerHost, tr.MaxConnsPerHost = connections, connections
	tr.DisableCompression = true // columns of hashes do not compress, and the network is near
	return &client{t: t, http: &http.Client{Transport: tr}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// Error is what the server says of a statement.
type Error struct {
	Status int    // of HTTP
	Code   int    // ClickHouse's; 0 if it gave none (a proxy's answer)
	Text   string // its first line
}

func (e *Error) Error() string {
	if e.Code == 0 {
		return fmt.Sprintf("clickhouse: HTTP status %d: %s", e.Status, e.Text)
	}
	return "clickhouse: " + e.Text
}

// Codes of ClickHouse, from its ErrorCodes.cpp.
const (
	codeUnknownTable    = 60
	codeUnknownDatabase = 81
	codeUnknownSetting  = 115
	codeUnknownPolicy   = 478
	codeAccessDenied    = 497
	codeAuthentication  = 516
	codeNoCluster       = 701
	codeBadGet          = 170 // a cluster that is not there, in older versions
)

// tooLarge and later are the codes that mean [store.ErrTooLarge] and [store.ErrUnavailable].
var (
	tooLarge = []int{158, 160, 191, 241, 307, 396}
	later    = []int{159, 164, 202, 203, 209, 210, 225, 236, 242, 243, 252, 279, 285, 286, 319, 394, 439, 473, 999}
)

// Is makes errors.Is branch on the store's words.
func (e *Error) Is(target error) bool {
	switch target {
	case store.ErrTooLarge:
		return slices.Contains(tooLarge, e.Code)
	case store.ErrUnavailable:
		return e.passing() || e.Code == codeAuthentication || e.Code == codeAccessDenied
	}
	return false
}

// passing says whether the same statement may do in a moment.
func (e *Error) passing() bool {
	return slices.Contains(later, e.Code) || e.Code == 0 && (e.Status == http.StatusTooManyRequests || e.Status >= 500)
}

// table is a file sent along with a statement, which reads it by name.
type table struct {
	name, format, structure string
	size                    int64
	open                    func() io.Reader // from the start; called for every attempt
}

// statement is SQL, with what goes with it.
type statement struct {
	sql      string
	tables   []table
	settings []setting
	read     bool // changes nothing: it may be cancelled by hanging up
}

// do runs a statement and gives the answer's body, to be closed. The error may be an [*Error].
func (c *client) do(ctx context.Context, st statement) (io.ReadCloser, error) {
	c.statements.Add(1)
	for i := 0; ; i++ {
		if i > 0 {
			c.retries.Add(1)
		}
		body, err := c.once(ctx, st)
		if err == nil {
			return body, nil
		}
		var e *Error
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		answered := errors.As(err, &e)
		if answered && !e.passing() {
			return nil, err
		}
		if i == len(pauses) {
			if !answered {
				err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
			}
			return nil, err
		}
		pause := time.NewTimer(pauses[i])
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		case <-pause.C:
		}
	}
}

// exec runs a statement whose answer does not matter.
func (c *client) exec(ctx context.Context, st statement) error {
	body, err := c.do(ctx, st)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(body, maxErrorText))
	return errors.Join(err, body.Close())
}

// bodyOf is the rest of a body with the timer that bounds it.
type bodyOf struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b bodyOf) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

func (c *client) once(ctx context.Context, st statement) (io.ReadCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, c.t.timeout)
	req, err := c.request(ctx, st)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode == http.StatusOK && resp.Header.Get("X-ClickHouse-Exception-Code") == "" {
		return bodyOf{resp.Body, cancel}, nil
	}
	defer cancel()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorText))
	return nil, errors.Join(errorOf(resp, string(text)), err, resp.Body.Close())
}

// errorOf reads "Code: 60. DB::Exception: Unknown table ... (UNKNOWN_TABLE) (version 26.7.2.1)".
func errorOf(resp *http.Response, text string) *Error {
	e := &Error{Status: resp.StatusCode}
	e.Code, _ = strconv.Atoi(resp.Header.Get("X-ClickHouse-Exception-Code")) // 0 where there is none
	if e.Code == 0 {
		if rest, ok := strings.CutPrefix(text, "Code: "); ok {
			n, _, _ := strings.Cut(rest, ".")
			e.Code, _ = strconv.Atoi(n)
		}
	}
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	if len(text) > maxShownText {
		text = text[:maxShownText] + " ..."
	}
	e.Text = strings.ToValidUTF8(text, "\uFFFD")
	return e
}

func (c *client) request(ctx context.Context, st statement) (*http.Request, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, err
	}
	q := url.Values{"database": {c.t.database}, "query_id": {"quantra-" + hex.EncodeToString(id[:])},
		"default_format": {"RowBinaryWithNamesAndTypes"}, "max_query_size": {strconv.Itoa(maxQuery)},
		// The answer begins when it is whole: what comes with status 200 is all of it.
		"wait_end_of_query": {"1"}}
	if st.read {
		q.Set("readonly", "2")
		q.Set("cancel_http_readonly_queries_on_client_close", "1")
	}
	for _, s := range st.settings {
		q.Set(s.name, s.value)
	}
	u := c.t.base
	var body *parts
	if len(st.tables) == 0 {
		body = &parts{all: []part{bytesPart([]byte(st.sql))}}
	} else {
		var err error
		if body, err = multiparted(st.tables, q); err != nil {
			return nil, err
		}
		q.Set("query", st.sql)
	}
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), body.open())
	if err != nil {
		return nil, err
	}
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(body.open()), nil }
	req.ContentLength = body.size()
	req.Header.Set("Content-Type", body.contentType)
	req.Header.Set("User-Agent", "quantra")
	if c.t.user != "" {
		req.Header.Set("X-ClickHouse-User", c.t.user)
		req.Header.Set("X-ClickHouse-Key", c.t.password)
	}
	return req, nil
}

// maxQuery bounds a statement's text; the names of a question's blocks are most of it.
const maxQuery = 64 << 20

// part is a piece of a request's body that can be read again.
type part struct {
	size int64
	open func() io.Reader
}

func bytesPart(b []byte) part {
	return part{int64(len(b)), func() io.Reader { return bytes.NewReader(b) }}
}

type parts struct {
	all         []part
	contentType string
}

func (p *parts) open() io.Reader {
	rs := make([]io.Reader, len(p.all))
	for i := range p.all {
		rs[i] = p.all[i].open()
	}
	return io.MultiReader(rs...)
}

func (p *parts) size() (n int64) {
	for i := range p.all {
		n += p.all[i].size
	}
	return n
}

// multiparted is the body that sends tables along, and their formats in q.
func multiparted(tables []table, q url.Values) (*parts, error) {
	p := &parts{}
	var head bytes.Buffer
	w := multipart.NewWriter(&head)
	p.contentType = w.FormDataContentType()
	cut := func() {
		p.all = append(p.all, bytesPart(slices.Clone(head.Bytes())))
		head.Reset()
	}
	for _, t := range tables {
		q.Set(t.name+"_format", t.format)
		q.Set(t.name+"_structure", t.structure)
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", fmt.Sprintf(`form-data; name=%q; filename=%q`, t.name, t.name))
		h.Set("Content-Type", "application/octet-stream")
		if _, err := w.CreatePart(h); err != nil {
			return nil, err
		}
		cut()
		p.all = append(p.all, part{t.size, t.open})
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	cut()
	return p, nil
}

// quote is s as a literal of ClickHouse's SQL.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < ' ':
			fmt.Fprintf(&b, `\x%02X`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// list is literals in parentheses, for IN.
func list[T any](xs []T, text func(T) string) string {
	var b strings.Builder
	b.WriteByte('(')
	for i, x := range xs {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(text(x))
	}
	b.WriteByte(')')
	return b.String()
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }
