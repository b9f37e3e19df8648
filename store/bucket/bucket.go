// Package bucket is object storage behind one face: a folder, Google Cloud
// Storage, S3 and what speaks like it, Azure Blob Storage, by URL.
//
// [Open] proves that the bucket can do what will be asked of it (list, write,
// read, delete) before anything depends on it. After that every method is one
// object or one listing; what may pass by itself (a lost connection, a server
// that is busy) is tried again within a bound, and what will not (no such
// object, no permission) is said at once.
//
// Memory is bounded by the requests under way ([Options.Requests]): each holds what its
// Get was asked for, or about 24 MiB of what its Put sends.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/quantra-l/quantra/internal/vfs"
)

// The words a caller branches on; the text says what and where.
var (
	ErrNotFound    = errors.New("not found")   // no such object, or no such bucket
	ErrDenied      = errors.New("denied")      // credentials are missing, wrong, or not enough
	ErrUnavailable = errors.New("unavailable") // not now; what is worth a retry has been retried
	ErrInvalid     = errors.New("invalid")     // the URL or the key is wrong and will never do
)

// Class is a storage class: what an object costs to keep, and to read.
type Class string

// The classes; each provider's own names are beside them in docs/buckets.md.
const (
	Standard Class = "standard"
	Archive  Class = "archive" // cheapest that can still be read within milliseconds
)

// Object is what a listing says of one.
type Object struct {
	Key      string
	Bytes    int64
	Modified time.Time
	Class    Class
}

// Bucket is a flat store of objects by key; '/' in keys is a convention, but a
// key may not be the folder of another ("a" and "a/b"): a file system cannot
// keep both. An object is there whole or not at all, and once Put has returned
// nil it is durable. All methods may be called by many goroutines, and end
// early with ctx's error.
type Bucket interface {
	// URL is the bucket's, without secrets, to name it in a message.
	URL() string
	// Put writes an object, replacing one that is there. It reads body from its start, more than once if it must retry.
	Put(ctx context.Context, key string, body io.ReadSeeker) error
	// Get reads n bytes from off, fewer only at the object's end; n < 0 is to the end. ErrNotFound.
	Get(ctx context.Context, key string, off, n int64) ([]byte, error)
	// Stat is ErrNotFound if there is none.
	Stat(ctx context.Context, key string) (Object, error)
	// List is the objects whose keys start with prefix, in order. With dirs, keys are cut after the
	// first '/' past the prefix and each is given once, ending in '/'. After an error it ends.
	List(ctx context.Context, prefix string, dirs bool) iter.Seq2[Object, error]
	// Delete is nil if there is none.
	Delete(ctx context.Context, key string) error
	// SetClass moves an object to a class. It does nothing where there are none (a folder).
	SetClass(ctx context.Context, key string, c Class) error
	Close() error
}

// Options are the choices of [Open]; the zero value is ready to use.
type Options struct {
	FS       vfs.FS // of file://; nil is the host's
	Create   bool   // make the folder of a file:// that is not there
	ReadOnly bool   // Open does not prove that it may write and delete

	Requests int           // at once; 0 is 64
	Try      time.Duration // one request may take this, and a second more for each MiB; 0 is 30 s
	RetryFor time.Duration // a call tries again for this long; 0 is 1 min, < 0 never. Open: at most 10 s
	Backoff  time.Duration // the first pause between tries, doubled up to 5 s, with jitter; 0 is 100 ms
}

func (o *Options) fill() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Requests <= 0 {
		o.Requests = 64
	}
	if o.Try <= 0 {
		o.Try = 30 * time.Second
	}
	if o.RetryFor == 0 {
		o.RetryFor = time.Minute
	}
	if o.Backoff <= 0 {
		o.Backoff = 100 * time.Millisecond
	}
}

// Keys are held to what every provider and every file system can take.
const (
	maxKey     = 800 // bytes; S3, GCS and Azure allow 1,024
	maxSegment = 200 // bytes between two '/', as escape writes them; file systems allow 255
)

// CheckKey says why a key cannot be used: ErrInvalid.
func CheckKey(key string) error {
	fail := func(why string) error { return fmt.Errorf("%w: key %q %s", ErrInvalid, key, why) }
	switch {
	case key == "":
		return fail("is empty")
	case len(key) > maxKey:
		return fmt.Errorf("%w: key %q... has %d bytes, at most %d are allowed", ErrInvalid, key[:40], len(key), maxKey)
	case !utf8.ValidString(key):
		return fail("is not UTF-8")
	}
	for part := range strings.SplitSeq(key, "/") {
		switch {
		case part == "":
			return fail("has an empty part: no '/' at its ends, no two together")
		case part == "." || part == "..":
			return fail("has a part that is a step, not a name")
		case len(escape(part)) > maxSegment:
			return fail(fmt.Sprintf("has a part that is too long: at most %d bytes, three for each but a-z, A-Z, 0-9 and a few", maxSegment))
		}
	}
	for _, r := range key {
		if r < ' ' || r == 0x7f || r == '\\' {
			return fail(fmt.Sprintf("has the character %q", r))
		}
	}
	return nil
}

// checkRange is for Get.
func checkRange(key string, off int64) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if off < 0 {
		return fmt.Errorf("%w: read of %s from %d", ErrInvalid, key, off)
	}
	return nil
}
