package bucket

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// forms is what an error about a URL ends with.
const forms = "use file:///folder, gs://bucket, s3://bucket?region=..., or azblob://container?account=..."

// place is a bucket's URL, taken apart.
type place struct {
	scheme, name string
	prefix       string // of all keys: "" or ends in '/'
	params       url.Values
}

// parameters are what a URL may have behind its '?', by scheme.
var parameters = map[string][]string{
	"file":   nil,
	"gs":     {"endpoint"},
	"s3":     {"region", "endpoint", "path_style", "profile"},
	"azblob": {"account", "endpoint"},
}

// parse takes a URL apart. Its errors never repeat what may hold a password.
func parse(raw string) (place, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" {
		return place{}, fmt.Errorf("bucket: %w: the URL cannot be read; %s", ErrInvalid, forms)
	}
	fail := func(why string) (place, error) {
		return place{}, fmt.Errorf("bucket %s://%s%s: %w: %s", u.Scheme, u.Host, u.Path, ErrInvalid, why)
	}
	allowed, ok := parameters[u.Scheme]
	if !ok {
		return fail("no such kind of bucket; " + forms)
	}
	if u.User != nil {
		return fail("credentials do not belong in a bucket's URL: they come from the provider's usual places, see docs/buckets.md")
	}
	if u.Fragment != "" || u.Opaque != "" {
		return fail(forms)
	}
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return fail("what follows '?' cannot be read")
	}
	for name := range params {
		if !slices.Contains(allowed, name) {
			return fail(fmt.Sprintf("no such parameter as %q; there are: %s", name, orNone(allowed)))
		}
	}
	p := place{scheme: u.Scheme, name: u.Host, params: params}
	if u.Scheme == "file" {
		return p, p.folder(u)
	}
	if u.Host == "" {
		return fail("the bucket's name is missing; " + forms)
	}
	if prefix := strings.Trim(u.Path, "/"); prefix != "" {
		if err := CheckKey(prefix); err != nil {
			return fail(err.Error())
		}
		p.prefix = prefix + "/"
	}
	if e := params.Get("endpoint"); e != "" {
		if eu, err := url.Parse(e); err != nil || eu.Host == "" || eu.Scheme != "http" && eu.Scheme != "https" || eu.User != nil {
			return fail("endpoint must be http://host:port or https://host")
		}
	}
	return p, nil
}

func orNone(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, ", ")
}

func (p *place) folder(u *url.URL) error {
	path := u.Path
	if runtime.GOOS == "windows" && len(path) > 2 && path[0] == '/' && path[2] == ':' {
		path = path[1:] // file:///C:/profiles
	}
	if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(filepath.FromSlash(path)) {
		return fmt.Errorf("bucket file://%s%s: %w: the folder must be absolute: file:///srv/profiles, with three slashes", u.Host, u.Path, ErrInvalid)
	}
	p.name = filepath.FromSlash(path)
	return nil
}

func fileURL(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return (&url.URL{Scheme: "file", Path: path}).String()
}

// bool reads a parameter that is yes or no.
func (p place) bool(name string) (bool, error) {
	s := p.params.Get(name)
	if s == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%w: %s must be true or false", ErrInvalid, name)
	}
	return v, nil
}

// String is the URL as messages have it.
func (p place) String() string {
	s := p.scheme + "://" + p.name
	if p.prefix != "" {
		s += "/" + strings.TrimSuffix(p.prefix, "/")
	}
	if e := p.params.Get("endpoint"); e != "" {
		s += " at " + e
	}
	return s
}

// Open opens the bucket at a URL (docs/buckets.md has the forms), and proves that it can be
// used. Errors: ErrInvalid, ErrDenied, ErrNotFound, ErrUnavailable.
func Open(ctx context.Context, rawURL string, o Options) (Bucket, error) {
	o.fill()
	p, err := parse(rawURL)
	if err != nil {
		return nil, err
	}
	if p.scheme == "file" {
		b, err := openFolder(p.name, o)
		if err != nil {
			return nil, err
		}
		if err := prove(ctx, b, o.ReadOnly); err != nil {
			return nil, err
		}
		return b, nil
	}
	b, err := openCloud(ctx, p, o)
	if err != nil {
		return nil, err
	}
	if b.retryFor > 0 {
		b.retryFor = min(b.retryFor, 10*time.Second)
	}
	if err := prove(ctx, b, o.ReadOnly); err != nil {
		return nil, errors.Join(b.explain(err), b.Close())
	}
	b.retryFor = o.RetryFor
	return b, nil
}
