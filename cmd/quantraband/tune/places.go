package tune

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/builds"
	"github.com/quantra-l/quantra/optimize/pull"
	"github.com/quantra-l/quantra/store/bucket"
)

// mostProfile bounds what is read of a place.
const mostProfile = 16 << 20

// Places are where builds take profiles from: files, objects in buckets, and repositories on GitHub, for which Token is asked each time. Buckets are opened
// when they are first needed, and held until Close.
type Places struct {
	Token func() string

	mu      sync.Mutex
	buckets map[string]bucket.Bucket // by URL
}

// Open is [builds.Options].Open.
func (p *Places) Open(w builds.Where) (builds.Place, error) {
	switch err := w.Check(); {
	case err != nil:
		return nil, fmt.Errorf("tune: %w: %w", optimize.ErrRefused, err)
	case w.Pull != nil:
		client, dry, err := p.clients(w.Pull)
		if err != nil {
			return nil, err
		}
		return &builds.Pulls{Pull: *w.Pull, Client: client, Dry: dry}, nil
	case strings.Contains(w.File, "://"):
		return p.object(w.File), nil
	}
	return file(w.File), nil
}

// Read is a profile as it is at a place; ok is false where there is none.
func (p *Places) Read(ctx context.Context, w builds.Where) (b []byte, ok bool, err error) {
	if w.Pull != nil {
		client, _, err := p.clients(w.Pull)
		if err != nil {
			return nil, false, err
		}
		owner, repo, _ := strings.Cut(w.Pull.Repository, "/")
		return client.File(ctx, owner, repo, w.Pull.Base, w.Pull.Path)
	}
	place, err := p.Open(w)
	if err != nil {
		return nil, false, err
	}
	f := place.(*builds.Files)
	return f.Read(ctx, f.Name)
}

// clients are one that sends, and one that rehearses.
func (p *Places) clients(w *builds.Pull) (client, dry *pull.Client, err error) {
	o := pull.Options{API: w.API, Token: p.Token()}
	if client, err = pull.New(o); err != nil {
		return nil, nil, fmt.Errorf("tune: %w: %w", optimize.ErrRefused, err)
	}
	o.DryRun = io.Discard
	dry, err = pull.New(o)
	return client, dry, err
}

// file is one on this machine. It is written beside, made durable and renamed.
func file(name string) *builds.Files {
	return &builds.Files{
		Name: name,
		Read: func(_ context.Context, name string) ([]byte, bool, error) {
			f, err := os.Open(name)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, false, nil
			}
			if err != nil {
				return nil, false, err
			}
			defer f.Close()
			b, err := io.ReadAll(io.LimitReader(f, mostProfile+1))
			if err == nil && len(b) > mostProfile {
				err = fmt.Errorf("tune: %s is larger than %d bytes: it is no profile for the compiler", name, mostProfile)
			}
			return b, err == nil, err
		},
		Write: func(_ context.Context, name string, b []byte) error {
			f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
			if err != nil {
				return err
			}
			_, err = f.Write(b)
			err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
			if err == nil {
				err = os.Rename(f.Name(), name)
			}
			if err != nil {
				return errors.Join(err, os.Remove(f.Name()))
			}
			return nil
		},
		Remove: func(_ context.Context, name string) error {
			if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		},
	}
}

// object is one in a bucket, by its whole URL.
func (p *Places) object(url string) *builds.Files {
	where, query, _ := strings.Cut(url, "?")
	folder, _ := path.Split(where)
	in := strings.TrimSuffix(folder, "/")
	if query != "" {
		in += "?" + query
	}
	key := func(name string) string { return strings.TrimPrefix(name, folder) }
	return &builds.Files{
		Name: where,
		Read: func(ctx context.Context, name string) ([]byte, bool, error) {
			b, err := p.bucket(ctx, in)
			if err != nil {
				return nil, false, err
			}
			body, err := b.Get(ctx, key(name), 0, mostProfile+1)
			switch {
			case errors.Is(err, bucket.ErrNotFound):
				return nil, false, nil
			case err == nil && len(body) > mostProfile:
				err = fmt.Errorf("tune: %s is larger than %d bytes: it is no profile for the compiler", name, mostProfile)
			}
			return body, err == nil, err
		},
		Write: func(ctx context.Context, name string, body []byte) error {
			b, err := p.bucket(ctx, in)
			if err != nil {
				return err
			}
			return b.Put(ctx, key(name), bytes.NewReader(body))
		},
		Remove: func(ctx context.Context, name string) error {
			b, err := p.bucket(ctx, in)
			if err != nil {
				return err
			}
			return b.Delete(ctx, key(name))
		},
	}
}

func (p *Places) bucket(ctx context.Context, url string) (bucket.Bucket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b := p.buckets[url]; b != nil {
		return b, nil
	}
	b, err := bucket.Open(ctx, url, bucket.Options{Create: true})
	if errors.Is(err, bucket.ErrInvalid) {
		return nil, fmt.Errorf("tune: %w: %w", optimize.ErrRefused, err)
	}
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	if p.buckets == nil {
		p.buckets = map[string]bucket.Bucket{}
	}
	p.buckets[url] = b
	return b, nil
}

// Close closes the buckets that were opened.
func (p *Places) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, b := range p.buckets {
		errs = append(errs, b.Close())
	}
	p.buckets = nil
	return errors.Join(errs...)
}
