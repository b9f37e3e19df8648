package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"gocloud.dev/blob"
)

// partBytes is how much of a Put is in memory at once, and the size of a part of a multipart
// upload: S3 allows 10,000 parts, so an object may have 80 GB.
const partBytes = 8 << 20

// minPart is the smallest part that S3 takes of a multipart upload.
const minPart = 5 << 20

// cloud is a bucket of a provider. The drivers do not retry: that is done here, the same for all.
type cloud struct {
	place
	b           *blob.Bucket
	credentials string // what is used and where it came from, without secrets
	makeIt      string // the command that makes the bucket
	setClass    func(ctx context.Context, key string, c Class) error
	classOf     func(as func(any) bool) Class // of a blob.ListObject or blob.Attributes
	beforeWrite func(as func(any) bool) error // may be nil

	requests chan struct{} // a slot for each request at once
	try      time.Duration
	retryFor time.Duration
	backoff  time.Duration
}

func openCloud(ctx context.Context, p place, o Options) (*cloud, error) {
	b := &cloud{place: p, requests: make(chan struct{}, o.Requests), try: o.Try, retryFor: o.RetryFor, backoff: o.Backoff}
	open := map[string]func(context.Context, *cloud) error{"gs": openGCS, "s3": openS3, "azblob": openAzure}[p.scheme]
	ctx, cancel := context.WithTimeout(ctx, o.Try)
	defer cancel()
	if err := open(ctx, b); err != nil {
		if !errors.Is(err, ErrDenied) && !errors.Is(err, ErrInvalid) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return nil, fmt.Errorf("bucket %s: %w", p, err)
	}
	return b, nil
}

// transport is a connection pool that serves as many requests at once as the bucket may make.
func transport(requests int) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	pool(t, requests)
	return t
}

func pool(t *http.Transport, requests int) {
	t.MaxIdleConns, t.MaxIdleConnsPerHost = requests, requests
}

func (b *cloud) URL() string  { return b.String() }
func (b *cloud) Close() error { return b.b.Close() }

func (b *cloud) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	size, err := body.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("bucket %s: write %s: its size: %w", b, key, err)
	}
	var local error // reading body is not the bucket's to retry
	err = b.do(ctx, "write "+key, size, func(ctx context.Context) error {
		if _, local = body.Seek(0, io.SeekStart); local != nil {
			return local
		}
		local, err = b.send(ctx, key, body, size)
		return err
	}, func() bool { return local != nil })
	return err
}

// send writes one object. It goes through the driver's Upload, as its Write and Close race with
// each other when a request fails (Azure's).
func (b *cloud) send(ctx context.Context, key string, body io.Reader, size int64) (local, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	src := &source{r: body, left: size, cancel: cancel}
	err = b.b.Upload(ctx, b.prefix+key, src, &blob.WriterOptions{
		BufferSize:     int(max(minPart, min(size, partBytes))),
		MaxConcurrency: 2,
		ContentType:    "application/octet-stream",
		BeforeWrite:    b.beforeWrite,
	})
	if src.err != nil {
		return src.err, src.err // not the cancelled request that came of it
	}
	return nil, err
}

// source is a body on its way. When it cannot be read, or is not as long as it was, it ends
// the request: a driver that only saw the end of it would keep half an object.
type source struct {
	r      io.Reader
	left   int64
	cancel func()
	err    error // read by send once the driver has returned
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.left -= int64(n)
	switch {
	case err == io.EOF && s.left > 0:
		err = io.ErrUnexpectedEOF
	case s.left < 0:
		err = errors.New("it grew while it was read")
	}
	if err != nil && err != io.EOF {
		s.err = err
		s.cancel()
	}
	return n, err
}

func (b *cloud) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := checkRange(key, off); err != nil {
		return nil, err
	}
	if n == 0 {
		_, err := b.Stat(ctx, key)
		return nil, err
	}
	var p []byte
	past := false
	err := b.do(ctx, "read "+key, max(n, 0), func(ctx context.Context) error {
		var err error
		p, err = b.receive(ctx, key, off, n)
		past = outOfRange(err) // also a part of an empty object
		if past {
			return nil
		}
		return err
	}, nil)
	if err != nil {
		return nil, err
	}
	if past {
		return nil, nil
	}
	return p, nil
}

func (b *cloud) receive(ctx context.Context, key string, off, n int64) ([]byte, error) {
	r, err := b.b.NewRangeReader(ctx, b.prefix+key, off, n, nil)
	if err != nil {
		return nil, err
	}
	want := r.Size() - off
	if n >= 0 {
		want = min(n, want)
	}
	if want < 0 {
		return nil, r.Close()
	}
	p := make([]byte, want)
	m, err := io.ReadFull(r, p)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("%d of %d bytes came: %w", m, want, err)
	}
	return p, nil
}

func (b *cloud) Stat(ctx context.Context, key string) (Object, error) {
	if err := CheckKey(key); err != nil {
		return Object{}, err
	}
	var o Object
	err := b.do(ctx, "look up "+key, 0, func(ctx context.Context) error {
		a, err := b.b.Attributes(ctx, b.prefix+key)
		if err == nil {
			o = Object{Key: key, Bytes: a.Size, Modified: a.ModTime, Class: b.classOf(a.As)}
		}
		return err
	}, nil)
	return o, err
}

func (b *cloud) List(ctx context.Context, prefix string, dirs bool) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		o := &blob.ListOptions{Prefix: b.prefix + prefix}
		if dirs {
			o.Delimiter = "/"
		}
		token := blob.FirstPageToken
		for len(token) > 0 {
			var page []*blob.ListObject
			err := b.do(ctx, "list "+prefix, 0, func(ctx context.Context) error {
				var next []byte
				var err error
				page, next, err = b.b.ListPage(ctx, token, 1000, o)
				if err == nil {
					token = next
				}
				return err
			}, nil)
			if err != nil {
				yield(Object{}, err)
				return
			}
			for _, f := range page {
				found := Object{Key: strings.TrimPrefix(f.Key, b.prefix)}
				if !f.IsDir {
					found.Bytes, found.Modified, found.Class = f.Size, f.ModTime, b.classOf(f.As)
				}
				if !yield(found, nil) {
					return
				}
			}
		}
	}
}

func (b *cloud) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	err := b.do(ctx, "delete "+key, 0, func(ctx context.Context) error {
		err := b.b.Delete(ctx, b.prefix+key)
		if classify(err) == ErrNotFound && !noBucket(err) {
			return nil
		}
		return err
	}, nil)
	return err
}

func (b *cloud) SetClass(ctx context.Context, key string, c Class) error {
	if c != Standard && c != Archive {
		return fmt.Errorf("%w: class %q of %s", ErrInvalid, c, key)
	}
	o, err := b.Stat(ctx, key)
	if err != nil || o.Class == c {
		return err // moving costs money, also to where it is
	}
	return b.do(ctx, fmt.Sprintf("move %s to class %s", key, c), o.Bytes, func(ctx context.Context) error {
		err := b.setClass(ctx, b.prefix+key, c)
		if b.params.Get("endpoint") != "" && noClasses(err) {
			return nil
		}
		return err
	}, nil)
}
