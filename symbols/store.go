package symbols

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/bucket"
)

// ErrFull says that a tenant has as many tables as it may.
var ErrFull = errors.New("too many symbols")

// maxTables bounds the tables of a tenant.
const maxTables = 2000

// missingFor is how long a table that was not there is not looked for again: another server may have been sent it.
const missingFor = time.Minute

// maxMissing bounds the build ids that are remembered as missing.
const maxMissing = 10_000

// StoreOptions are what a store stands on. Bucket has no default.
type StoreOptions struct {
	Bucket bucket.Bucket
	// CacheBytes bounds the tables that are held in memory, by their size before it was packed, which is a fifth to a third of what they take. One is held
	// however large it is. 0 is 64 MiB.
	CacheBytes int64
	Logger     *slog.Logger     // for tables that cannot be read; nil is slog.Default()
	Now        func() time.Time // nil is time.Now
}

// Store keeps tables in a bucket, by tenant and build id, beside the blocks of profiles: symbols/<tenant>/<build id>.
// It is safe for many goroutines.
type Store struct {
	opt StoreOptions

	loading sync.Mutex // one table at a time is unpacked, however many ask; before mu

	mu      sync.Mutex
	tables  map[string]*held // by key
	bytes   int64            // of those
	clock   int64            // counts uses
	missing map[string]time.Time
}

type held struct {
	table *Table
	bytes int64
	used  int64
}

// NewStore checks o and fills in its defaults.
func NewStore(o StoreOptions) (*Store, error) {
	if o.Bucket == nil {
		return nil, errors.New("symbols: StoreOptions.Bucket is nil: there is nowhere to keep them")
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{opt: o, tables: map[string]*held{}, missing: map[string]time.Time{}}, nil
}

// prefix is where a tenant's tables are; who names tenants must not reach into another's.
func prefix(tenant string) string { return "symbols/" + keyPart(tenant) + "/" }

// keyPart is a text as part of a key: itself where it is small letters and digits only, else its hash.
func keyPart(s string) string {
	plain := len(s) > 0 && len(s) <= 80 && !strings.ContainsFunc(s, func(c rune) bool { return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9') })
	if plain {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "-" + hex.EncodeToString(sum[:])
}

// Info says what there is of one table.
type Info struct {
	BuildIDs  []string  `json:"buildIds"`
	File      string    `json:"file"`
	Source    string    `json:"source"` // dwarf, pclntab or symtab
	Functions int       `json:"functions"`
	Inlined   int       `json:"inlined"`
	Lines     int       `json:"lines"`
	Bytes     int64     `json:"bytes"` // as it is kept
	Uploaded  time.Time `json:"uploaded"`
}

// Put keeps a table, packed or not, for a tenant; one that was there under a build id is replaced. The error wraps [ErrCorrupt], [ErrTooLarge] or [ErrFull], or is the
// bucket's.
func (s *Store) Put(ctx context.Context, tenant string, b []byte) (Info, error) {
	s.loading.Lock()
	defer s.loading.Unlock()
	raw, err := unpack(b)
	if err != nil {
		return Info{}, err
	}
	t, err := Decode(raw)
	if err != nil {
		return Info{}, err
	}
	have := map[string]bool{}
	for o, err := range s.opt.Bucket.List(ctx, prefix(tenant), false) {
		if err != nil {
			return Info{}, err
		}
		have[o.Key] = true
	}
	packed := Pack(raw)
	for _, id := range t.BuildIDs {
		key := prefix(tenant) + keyPart(id)
		if !have[key] && len(have) >= maxTables {
			return Info{}, fmt.Errorf("%w: there are %d already, for one tenant", ErrFull, len(have))
		}
		have[key] = true
		if err := s.opt.Bucket.Put(ctx, key, bytes.NewReader(packed)); err != nil {
			return Info{}, err
		}
		s.mu.Lock()
		s.forget(key)
		delete(s.missing, key)
		s.mu.Unlock()
	}
	return Info{t.BuildIDs, t.File, t.Source, len(t.funcs), len(t.inlined), len(t.lines), int64(len(packed)), s.opt.Now().UTC()}, nil
}

// headBytes is enough of a packed table to have its header: the ids, names and counts.
const headBytes = 16 << 10

// List says what a tenant has, by file and build id. A table under two build ids is there once.
func (s *Store) List(ctx context.Context, tenant string) ([]Info, error) {
	var out []Info
	seen := map[string]bool{}
	for o, err := range s.opt.Bucket.List(ctx, prefix(tenant), false) {
		if err != nil {
			return nil, err
		}
		b, err := s.opt.Bucket.Get(ctx, o.Key, 0, headBytes)
		if errors.Is(err, bucket.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		t := &Table{}
		d := &decoder{b: unpackHead(b)}
		counts := d.head(t)
		if d.err != nil {
			return nil, fmt.Errorf("%s/%s: %w", s.opt.Bucket.URL(), o.Key, d.err)
		}
		if id := strings.Join(t.BuildIDs, " "); !seen[id] {
			seen[id] = true
			out = append(out, Info{t.BuildIDs, t.File, t.Source, int(counts[2]), int(counts[3]), int(counts[4]), o.Bytes, o.Modified.UTC()})
		}
	}
	slices.SortFunc(out, func(a, b Info) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return strings.Compare(a.BuildIDs[0], b.BuildIDs[0])
	})
	return out, nil
}

// Named is p with names for what of it are addresses, as far as there are tables of its build ids. A bucket that cannot be read is an error;
// then p is as it was.
func (s *Store) Named(ctx context.Context, tenant string, p *profile.Profile, whence Whence) (*profile.Profile, error) {
	ids := Unnamed(p)
	if len(ids) == 0 {
		return p, nil
	}
	tables := make(map[string]*Table, len(ids))
	for _, id := range ids {
		t, err := s.table(ctx, prefix(tenant)+keyPart(id))
		if err != nil {
			return p, err
		}
		tables[id] = t
	}
	return Resolve(p, tables, whence), nil
}

// table is a table, nil where there is none.
func (s *Store) table(ctx context.Context, key string) (*Table, error) {
	if t, known := s.known(key); known {
		return t, nil
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	if t, known := s.known(key); known { // somebody else has just loaded it
		return t, nil
	}
	b, err := s.opt.Bucket.Get(ctx, key, 0, -1)
	var t *Table
	var raw []byte
	switch {
	case errors.Is(err, bucket.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		if raw, err = unpack(b); err == nil {
			t, err = Decode(raw)
		}
		if err != nil { // as if it were not there: a profile is more than its names
			s.opt.Logger.Warn("a table of symbols cannot be read; upload it again", "key", s.opt.Bucket.URL()+"/"+key, "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t == nil {
		if len(s.missing) >= maxMissing {
			clear(s.missing)
		}
		s.missing[key] = s.opt.Now()
		return nil, nil
	}
	s.clock++
	s.tables[key] = &held{t, int64(len(raw)), s.clock}
	for s.bytes += int64(len(raw)); s.bytes > s.opt.CacheBytes && len(s.tables) > 1; {
		oldest := ""
		for k, h := range s.tables {
			if k != key && (oldest == "" || h.used < s.tables[oldest].used) {
				oldest = k
			}
		}
		s.forget(oldest)
	}
	return t, nil
}

// known is what memory says of a table.
func (s *Store) known(key string) (*Table, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.tables[key]; h != nil {
		s.clock++
		h.used = s.clock
		return h.table, true
	}
	at, ok := s.missing[key]
	return nil, ok && s.opt.Now().Sub(at) < missingFor
}

// forget drops a table from memory. The caller holds mu.
func (s *Store) forget(key string) {
	if h := s.tables[key]; h != nil {
		s.bytes -= h.bytes
		delete(s.tables, key)
	}
}

// Pack packs a table's bytes, for the way and for keeping. The header is a frame of its own: zstd tells nothing of a block before all of it is
// there, and who lists tables reads no more than their beginnings.
func Pack(b []byte) []byte {
	d := &decoder{b: b}
	d.head(&Table{})
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil { // cannot be: the options are constants
		panic(err)
	}
	defer z.Close()
	return z.EncodeAll(b[d.off:], z.EncodeAll(b[:d.off], nil))
}

var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// unpack undoes Pack, within MaxTable.
func unpack(b []byte) ([]byte, error) {
	if !bytes.HasPrefix(b, zstdMagic) {
		return b, nil
	}
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxTable))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer z.Close()
	out, err := io.ReadAll(io.LimitReader(z, MaxTable+1))
	switch {
	case len(out) > MaxTable, errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxTable)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return out, nil
}

// unpackHead is as much as the beginning of a packed table tells.
func unpackHead(b []byte) []byte {
	if !bytes.HasPrefix(b, zstdMagic) {
		return b
	}
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxTable))
	if err != nil {
		return nil
	}
	defer z.Close()
	out := make([]byte, 8<<10)
	n, _ := io.ReadFull(z, out) // that it breaks off is expected
	return out[:n]
}
