package bucket_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quantra-l/quantra/store/bucket"
	"github.com/quantra-l/quantra/store/bucket/buckettest"
)

// servers are the real servers.
var servers = map[string]func(buckettest.TB) buckettest.Server{"gs": buckettest.GCS, "s3": buckettest.S3, "azblob": buckettest.Azure}

func open(t testing.TB, url string, o bucket.Options) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), url, o)
	must(t, err)
	t.Cleanup(func() { must(t, b.Close()) })
	return b
}

func TestGCS(t *testing.T)   { conform(t, open(t, buckettest.GCS(t).URL, bucket.Options{})) }
func TestS3(t *testing.T)    { conform(t, open(t, buckettest.S3(t).URL, bucket.Options{})) }
func TestAzure(t *testing.T) { conform(t, open(t, buckettest.Azure(t).URL, bucket.Options{})) }

// TestPrefix: a bucket below a prefix sees nothing beside it.
func TestPrefix(t *testing.T) {
	s := buckettest.S3(t)
	whole := open(t, s.URL, bucket.Options{})
	put(t, whole, "other/x", "x")
	put(t, whole, "team/prod2/x", "x")
	part := open(t, strings.Replace(s.URL, "?", "/team/prod/?", 1), bucket.Options{})
	if want := "s3://profiles/team/prod at " + s.Endpoint; part.URL() != want {
		t.Errorf("URL %s, want %s", part.URL(), want)
	}
	put(t, part, "a/b", "mine")
	if got := keys(t, part, "", false); len(got) != 1 || got[0] != "a/b" {
		t.Errorf("listed %q", got)
	}
	if got := keys(t, part, "", true); len(got) != 1 || got[0] != "a/" {
		t.Errorf("listed %q", got)
	}
	if s := get(t, whole, "team/prod/a/b"); s != "mine" {
		t.Errorf("it is %q", s)
	}
	must(t, part.SetClass(t.Context(), "a/b", bucket.Archive))
	must(t, part.Delete(t.Context(), "a/b"))
}

// proxy stands before a server and does what networks and busy servers do.
type proxy struct {
	*httptest.Server
	fault func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	seen  atomic.Int64
}

func newProxy(t *testing.T, endpoint string) *proxy {
	target, err := url.Parse(endpoint)
	must(t, err)
	p := &proxy{}
	rp := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // signatures cover it
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.seen.Add(1)
		if p.fault != nil && p.fault(w, r) {
			return
		}
		rp.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

// answer is a fault that lasts for n requests.
func answer(n int64, f http.HandlerFunc) func(http.ResponseWriter, *http.Request) bool {
	var left atomic.Int64
	left.Store(n)
	return func(w http.ResponseWriter, r *http.Request) bool {
		if left.Add(-1) < 0 {
			return false
		}
		f(w, r)
		return true
	}
}

func code(n int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(n) }
}

// cut answers with half of a body, then drops the connection.
func cut(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, strings.Repeat("x", 500))
	panic(http.ErrAbortHandler)
}

// drop closes the connection without an answer.
func drop(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// hang answers when the client has given up.
func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // so that the server sees the client go
	<-r.Context().Done()
}

// TestFaults: what passes is overcome, by every provider, and what does not ends within its bound.
func TestFaults(t *testing.T) {
	faults := map[string]http.HandlerFunc{
		"500": code(500), "502": code(502), "503": code(503), "429": code(429),
		"cut": cut, "drop": drop, "hang": hang,
	}
	for scheme, start := range servers {
		t.Run(scheme, func(t *testing.T) {
			s := start(t)
			p := newProxy(t, s.Endpoint)
			b := open(t, strings.Replace(s.URL, s.Endpoint, p.URL, 1), bucket.Options{
				Try: 300 * time.Millisecond, Backoff: time.Millisecond, RetryFor: time.Minute})
			put(t, b, "f/x", strings.Repeat("y", 2000))
			for name, f := range faults {
				t.Run(name, func(t *testing.T) { overcome(t, b, p, f) })
			}
		})
	}
}

// overcome does each call while the first two requests of it fail.
func overcome(t *testing.T, b bucket.Bucket, p *proxy, f http.HandlerFunc) {
	ctx := t.Context()
	for what, call := range map[string]func() error{
		"put": func() error { return b.Put(ctx, "f/put", strings.NewReader("body")) },
		"get": func() error {
			got, err := b.Get(ctx, "f/x", 10, 20)
			if err == nil && string(got) != strings.Repeat("y", 20) {
				err = fmt.Errorf("got %q", got)
			}
			return err
		},
		"stat": func() error { _, err := b.Stat(ctx, "f/x"); return err },
		"list": func() error {
			n := 0
			for _, err := range b.List(ctx, "f/x", false) {
				if err != nil {
					return err
				}
				n++
			}
			if n != 1 {
				return fmt.Errorf("%d objects", n)
			}
			return nil
		},
		"delete": func() error { return b.Delete(ctx, "f/gone") },
	} {
		p.fault, p.seen = answer(2, f), atomic.Int64{}
		if err := call(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if n := p.seen.Load(); n < 3 {
			t.Errorf("%s: %d requests, at least 3 must have been made", what, n)
		}
	}
	p.fault = nil
	if s := get(t, b, "f/put"); s != "body" {
		t.Errorf("put while the server failed left %q", s)
	}
}

// TestFaultsLast: a server that stays away is ErrUnavailable, and what was refused is not asked again.
func TestFaultsLast(t *testing.T) {
	for scheme, start := range servers {
		t.Run(scheme, func(t *testing.T) {
			s := start(t)
			p := newProxy(t, s.Endpoint)
			u := strings.Replace(s.URL, s.Endpoint, p.URL, 1)
			b := open(t, u, bucket.Options{Try: 10 * time.Second, Backoff: time.Millisecond, RetryFor: 200 * time.Millisecond})
			p.fault = answer(1<<40, code(503))
			_, err := b.Get(t.Context(), "f/x", 0, -1)
			if !errors.Is(err, bucket.ErrUnavailable) || !strings.Contains(err.Error(), "tries") && !strings.Contains(err.Error(), "tried") {
				t.Errorf("503 for ever: %v", err)
			}
			for _, n := range []int{401, 403} {
				p.fault, p.seen = answer(1<<40, code(n)), atomic.Int64{}
				if _, err := b.Get(t.Context(), "f/x", 0, -1); !errors.Is(err, bucket.ErrDenied) {
					t.Errorf("%d: %v", n, err)
				}
				if n := p.seen.Load(); n != 1 {
					t.Errorf("%d requests were made after a refusal", n)
				}
			}
			p.fault = nil
			p.Close()
			_, err = bucket.Open(t.Context(), u, bucket.Options{Backoff: time.Millisecond, RetryFor: 50 * time.Millisecond})
			if !errors.Is(err, bucket.ErrUnavailable) || !strings.HasSuffix(err.Error(), "; check the network and the endpoint") {
				t.Errorf("nobody there: %v", err)
			}
		})
	}
}

// TestClassRequest: the servers that forget a class are asked for the right one, once each way, as the copy
// is what costs.
func TestClassRequest(t *testing.T) {
	for scheme, want := range map[string][2]string{
		"gs": {`"storageClass":"ARCHIVE"`, `/rewriteTo/`},
		"s3": {"GLACIER_IR", "profiles/cl/a%20b%2Bc"},
	} {
		t.Run(scheme, func(t *testing.T) {
			s := servers[scheme](t)
			p := newProxy(t, s.Endpoint)
			b := open(t, strings.Replace(s.URL, s.Endpoint, p.URL, 1), bucket.Options{})
			put(t, b, "cl/a b+c", "x")
			var asked []string
			p.fault = func(_ http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("X-Amz-Copy-Source") != "" || strings.Contains(r.URL.Path, "/rewriteTo/") {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					r.Body = io.NopCloser(bytes.NewReader(body))
					asked = append(asked, r.URL.Path+" "+r.Header.Get("X-Amz-Storage-Class")+" "+r.Header.Get("X-Amz-Copy-Source")+" "+string(body))
				}
				return false
			}
			must(t, b.SetClass(t.Context(), "cl/a b+c", bucket.Standard)) // it is: nothing to ask
			must(t, b.SetClass(t.Context(), "cl/a b+c", bucket.Archive))
			if len(asked) != 1 || !strings.Contains(asked[0], want[0]) || !strings.Contains(asked[0], want[1]) {
				t.Errorf("asked %q, want once %q", asked, want)
			}
			if err := b.SetClass(t.Context(), "cl/a b+c", "frozen"); !errors.Is(err, bucket.ErrInvalid) {
				t.Errorf("a class that there is not: %v", err)
			}
		})
	}
}

// golden replaces what differs from run to run.
func golden(err error, s buckettest.Server) string {
	if err == nil {
		return "no error"
	}
	return strings.ReplaceAll(err.Error(), s.Endpoint, "ENDPOINT")
}

// TestOpenErrors: what is wrong is said in one line, when the bucket is opened.
func TestOpenErrors(t *testing.T) {
	for _, c := range []struct {
		scheme, name string
		env          map[string]string
		from, to     string // in the URL
		word         error
		want         string
	}{
		{"gs", "missing", nil, "profiles", "nowhere", bucket.ErrNotFound,
			"bucket gs://nowhere at ENDPOINT: list quantra-probe/: not found: the server said 404 notFound; make it with: gcloud storage buckets create gs://nowhere --uniform-bucket-level-access --location=..."},
		{"s3", "missing", nil, "profiles", "nowhere", bucket.ErrNotFound,
			"bucket s3://nowhere at ENDPOINT: list quantra-probe/: not found: the server said 404 NoSuchBucket; make it with: aws s3 mb s3://nowhere --region us-east-1 --endpoint-url ENDPOINT"},
		{"s3", "bad key", map[string]string{"AWS_ACCESS_KEY_ID": "AKIAWRONGWRONGWRONG"}, "", "", bucket.ErrDenied,
			"bucket s3://profiles at ENDPOINT: list quantra-probe/: denied: the server said 404 XAdminUserNotFound; used: access key AKIA...RONG from AWS_ACCESS_KEY_ID in the environment"},
		{"s3", "bad secret", map[string]string{"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, "", "", bucket.ErrDenied,
			"bucket s3://profiles at ENDPOINT: list quantra-probe/: denied: the server said 403 SignatureDoesNotMatch; used: access key quan...test from AWS_ACCESS_KEY_ID in the environment"},
		{"s3", "no credentials", map[string]string{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "", "", bucket.ErrDenied,
			"bucket s3://profiles at ENDPOINT: denied: no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws, or run where the machine has a role: "},
		{"azblob", "missing", nil, "profiles", "nowhere", bucket.ErrNotFound,
			"bucket azblob://nowhere at ENDPOINT/devstoreaccount1: list quantra-probe/: not found: the server said 404 ContainerNotFound; make it with: az storage container create --name nowhere --account-name devstoreaccount1"},
		{"azblob", "bad key", map[string]string{"AZURE_STORAGE_KEY": "d3Jvbmc="}, "", "", bucket.ErrDenied,
			"bucket azblob://profiles at ENDPOINT/devstoreaccount1: list quantra-probe/: denied: the server said 403 AuthorizationFailure; used: the key of account devstoreaccount1 from AZURE_STORAGE_KEY"},
		{"azblob", "no base64", map[string]string{"AZURE_STORAGE_KEY": "!!"}, "", "", bucket.ErrDenied,
			"bucket azblob://profiles at ENDPOINT/devstoreaccount1: denied: AZURE_STORAGE_KEY is not base64"},
	} {
		t.Run(c.scheme+"/"+c.name, func(t *testing.T) {
			s := servers[c.scheme](t)
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			_, err := bucket.Open(t.Context(), strings.Replace(s.URL, c.from, c.to, 1), bucket.Options{})
			if got := golden(err, s); !errors.Is(err, c.word) || got != c.want && !(strings.HasSuffix(c.want, ": ") && strings.HasPrefix(got, c.want)) || strings.Contains(got, "\n") {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// TestOpenErrorsAlone are those that need no server.
func TestOpenErrorsAlone(t *testing.T) {
	for _, k := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_CONNECTION_STRING", "STORAGE_EMULATOR_HOST"} {
		t.Setenv(k, "")
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	key := filepath.Join(t.TempDir(), "key.json")
	must(t, os.WriteFile(key, []byte("{not json"), 0o600))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", key)
	for _, c := range []struct {
		url, want string
		word      error
	}{
		{"s3://b", "bucket s3://b: invalid: the region is missing: s3://b?region=eu-central-1, or AWS_REGION", bucket.ErrInvalid},
		{"s3://b?region=x&path_style=maybe", "bucket s3://b: invalid: path_style must be true or false", bucket.ErrInvalid},
		{"azblob://c", "bucket azblob://c: invalid: the account is missing: azblob://c?account=NAME, or AZURE_STORAGE_ACCOUNT", bucket.ErrInvalid},
		{"gs://b", "bucket gs://b: denied: no Google credentials: set GOOGLE_APPLICATION_CREDENTIALS to a key file, ", bucket.ErrDenied},
	} {
		_, err := bucket.Open(t.Context(), c.url, bucket.Options{})
		if !errors.Is(err, c.word) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s:\n%v\nwant\n%s", c.url, err, c.want)
		}
	}
}
