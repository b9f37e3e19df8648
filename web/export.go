package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/profile"
	v1 "github.com/quantra-l/quantra/wire/quantra/v1"
)

// exportFormat is one value of ?format.
type exportFormat struct {
	ext, kind string
	write     func(w io.Writer, x *exported) error
	diff      func(w io.Writer, x *exported) error // nil: a difference cannot be written so
}

// exported is what is being downloaded.
type exported struct {
	*selected           // of a difference, the head
	base      *selected // nil but in a difference
	normalize bool
	title     string
}

func (x *exported) tree() *profile.Tree { return profile.NewTree(x.Profile, 0) }

func (x *exported) diffTree() *profile.DiffTree {
	return profile.NewDiffTree(profile.NewTree(x.base.Profile, 0), x.tree(), x.normalize)
}

func (x *exported) svg() profile.SVGOptions {
	return profile.SVGOptions{Title: x.title, Subtitle: x.From.UTC().Format(time.RFC3339) + " to " + x.To.UTC().Format(time.RFC3339), Unit: x.typ.Sample.Unit, Icicle: true}
}

var exportFormats = map[string]exportFormat{
	"pprof": {".pb.gz", "application/octet-stream",
		func(w io.Writer, x *exported) error { return x.Profile.Encode(w) }, nil},
	"folded": {".folded", "text/plain; charset=utf-8",
		func(w io.Writer, x *exported) error { return profile.WriteFolded(w, x.Profile, 0) }, nil},
	"speedscope": {".speedscope.json", "application/json",
		func(w io.Writer, x *exported) error { return profile.WriteSpeedscope(w, x.Profile) }, nil},
	"svg": {".svg", "image/svg+xml",
		func(w io.Writer, x *exported) error { return profile.WriteSVG(w, x.tree(), x.svg()) },
		func(w io.Writer, x *exported) error { return profile.WriteDiffSVG(w, x.diffTree(), x.svg()) }},
	"top": {".txt", "text/plain; charset=utf-8",
		func(w io.Writer, x *exported) error {
			return profile.WriteTop(w, profile.Top(x.Profile, 0), profile.TextOptions{Unit: x.typ.Sample.Unit, Total: x.Profile.Total(0)})
		},
		func(w io.Writer, x *exported) error {
			d := x.diffTree()
			return profile.WriteTop(w, d.Top(), profile.TextOptions{Unit: x.typ.Sample.Unit, Diff: true, Total: d.Total[0], Base: d.BaseTotal[0]})
		}},
}

// exportParams are all that /api/v1/export understands; each that names samples
// may also have base_ before it.
var exportParams = []string{"profile_type", "matchers", "sample_matchers", "from", "to", "focus", "ignore", "hide", "show", "show_from", "tag_focus", "tag_ignore"}

// export is GET /api/v1/export: a selection as a file.
func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		replyError(w, http.StatusMethodNotAllowed, connect.CodeUnimplemented, r.Method+" is not understood here: GET a file")
		return
	}
	started := false
	err := s.ask(r.Context(), "Export", func(ctx context.Context) error {
		x, format, err := s.exportOf(ctx, r.URL.RawQuery)
		if err != nil {
			return err
		}
		write := format.write
		if x.base != nil {
			write = format.diff
		}
		h := w.Header()
		h.Set("Content-Type", format.kind)
		h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", x.filename()+format.ext))
		h.Set("Cache-Control", "no-store")
		// An SVG has a script in it: should a browser show it in place, it is nobody's origin.
		h.Set("Content-Security-Policy", "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'")
		started = true
		if r.Method == http.MethodHead {
			return nil
		}
		if err := write(w, x); err != nil && ctx.Err() == nil && r.Context().Err() == nil {
			return fmt.Errorf("%T of %s: %w", w, x.typ, err)
		}
		return nil
	})
	var c *connect.Error
	if !errors.As(err, &c) {
		return
	}
	if started {
		panic(http.ErrAbortHandler) // the file is cut short: a broken connection says so, a clean end would not
	}
	replyError(w, statusOf(c.Code()), c.Code(), c.Message())
}

// exportOf reads the parameters and asks the store.
func (s *Server) exportOf(ctx context.Context, rawQuery string) (*exported, exportFormat, error) {
	all, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, exportFormat{}, invalid("the query cannot be read: %w", err)
	}
	for name, values := range all {
		if name != "format" && name != "normalize" && !slices.Contains(exportParams, strings.TrimPrefix(name, "base_")) {
			return nil, exportFormat{}, invalid("parameter %.40q is not understood; there are format, normalize, and with or without base_ before it %s", name, strings.Join(exportParams, ", "))
		}
		if len(values) > 1 {
			return nil, exportFormat{}, invalid("parameter %s is given %d times", name, len(values))
		}
	}
	name := all.Get("format")
	if name == "" {
		name = "pprof"
	}
	format, ok := exportFormats[name]
	if !ok {
		return nil, format, invalid("format=%.40q is not understood: ask for pprof, folded, speedscope, svg or top", name)
	}
	isDiff := slices.ContainsFunc(exportParams, func(p string) bool { return all.Has("base_" + p) })
	if isDiff && format.diff == nil {
		return nil, format, invalid("format=%s cannot hold a difference: ask for svg or top, or leave out base_", name)
	}
	x := &exported{}
	if x.normalize, err = strconv.ParseBool(all.Get("normalize")); err != nil && all.Get("normalize") != "" {
		return nil, format, invalid("normalize=%.40q must be true or false", all.Get("normalize"))
	}
	raw := name == "pprof" // it has the samples' labels; the others are sums
	head, err := s.exportSelection(all, "")
	if err != nil {
		return nil, format, err
	}
	if !isDiff {
		if x.selected, err = s.selectProfile(ctx, head, raw); err != nil {
			return nil, format, err
		}
		x.describe(head, nil)
		return x, format, nil
	}
	base, err := s.exportSelection(all, "base_")
	if err != nil {
		return nil, format, err
	}
	if base.ProfileType == "" {
		base.ProfileType = head.ProfileType
	}
	if x.base, x.selected, err = s.selectBoth(ctx, base, head, raw); err != nil {
		return nil, format, err
	}
	x.describe(head, base)
	return x, format, nil
}

// exportSelection is one side's parameters.
func (s *Server) exportSelection(all url.Values, prefix string) (*v1.Selection, error) {
	get := func(name string) string { return all.Get(prefix + name) }
	sel := &v1.Selection{ProfileType: get("profile_type"), Matchers: get("matchers"), SampleMatchers: get("sample_matchers"), Range: &v1.TimeRange{}, Filter: &v1.Filter{
		Focus: get("focus"), Ignore: get("ignore"), Hide: get("hide"), Show: get("show"), ShowFrom: get("show_from"),
		TagFocus: get("tag_focus"), TagIgnore: get("tag_ignore"),
	}}
	var err error
	if sel.Range.FromMs, err = s.timeMs(prefix+"from", get("from")); err != nil {
		return nil, err
	}
	sel.Range.ToMs, err = s.timeMs(prefix+"to", get("to"))
	return sel, err
}

// timeMs reads Unix milliseconds, RFC 3339, now or now-15m; "" is an open end.
func (s *Server) timeMs(name, v string) (int64, error) {
	if v == "" {
		return 0, nil
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return n, nil
	}
	if ago, ok := strings.CutPrefix(v, "now"); ok {
		if ago == "" {
			return s.opt.Now().UnixMilli(), nil
		}
		if d, err := time.ParseDuration(ago); err == nil && d <= 0 {
			return s.opt.Now().Add(d).UnixMilli(), nil
		}
	}
	if t, err := time.Parse(time.RFC3339, v); err == nil {
		return t.UnixMilli(), nil
	}
	return 0, invalid("%s=%.40q is not a time: it must be Unix milliseconds, RFC 3339 as 2006-01-02T15:04:05Z, now, or now-15m", name, v)
}

// describe names the picture, and writes into the profile when it was, for
// `go tool pprof` shows it.
func (x *exported) describe(head, base *v1.Selection) {
	x.title = x.typ.Name + " " + x.typ.Sample.Type
	if head.Matchers != "" {
		x.title += " of " + head.Matchers
	}
	if head.SampleMatchers != "" {
		x.title += ", samples " + head.SampleMatchers
	}
	if base != nil {
		x.title += ", compared with " + base.Matchers
	}
	if x.Profile.TimeNanos == 0 && !x.From.IsZero() {
		p := *x.Profile // the store's answer may be shared: it is not ours to change
		p.TimeNanos, p.DurationNanos = x.From.UnixNano(), int64(x.To.Sub(x.From))
		x.Profile = &p
	}
}

// filename is what the file is called without its extension: plain ASCII, so
// that every shell and every header carries it.
func (x *exported) filename() string {
	name := x.typ.Name + "-" + x.typ.Sample.Type
	if x.base != nil {
		name += "-diff"
	}
	if !x.From.IsZero() {
		name += "-" + x.From.UTC().Format("20060102T150405Z")
	}
	return strings.Map(func(c rune) rune {
		if c == '-' || c == '_' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			return c
		}
		return '_'
	}, name)
}

// statusOf is the HTTP status that Connect gives a code.
func statusOf(c connect.Code) int {
	switch c {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return http.StatusBadRequest
	case connect.CodePermissionDenied:
		return http.StatusForbidden
	case connect.CodeUnauthenticated:
		return http.StatusUnauthorized
	case connect.CodeResourceExhausted:
		return http.StatusTooManyRequests
	case connect.CodeUnavailable:
		return http.StatusServiceUnavailable
	case connect.CodeDeadlineExceeded:
		return http.StatusGatewayTimeout
	case connect.CodeCanceled:
		return 499 // as Connect's specification has it
	}
	return http.StatusInternalServerError
}
