package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/blocks"
	"github.com/quantra-l/quantra/store/bucket"
	"github.com/quantra-l/quantra/store/clickhouse"
	"github.com/quantra-l/quantra/symbols"
)

// leaseTTL is how long the work of a server that died lies before another takes it up.
const leaseTTL = time.Minute

// The folders and files in the data folder, beside those of package store.
const (
	blocksDir  = "blocks"
	bucketDir  = "bucket"
	controlDB  = "control.db"
	quarantine = "quarantine"
)

// engineOptions say where profiles are kept, and within which bounds.
type engineOptions struct {
	bucket, region, control string
	clickhouse              string
	flushEvery              time.Duration
	retention, archiveAfter age
	keep                    keepRules
	compactEvery            time.Duration
	memory, queryMemory     byteSize
	cacheBytes, queueBytes  byteSize
	tenantRate              byteSize
	tenantSeries            int
}

// placeFlags adds what says where the blocks are, which the store commands share.
func (o *engineOptions) placeFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.bucket, "bucket", "", "`URL` of the bucket: file:///FOLDER, gs://, s3:// or azblob:// (default: the folder bucket in the data folder)")
	f.StringVar(&o.region, "region", "local", "`name` of the region whose profiles these are: a-z, 0-9 and -")
}

func (o *engineOptions) clickhouseFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.clickhouse, "clickhouse", "", "profiles are kept in ClickHouse, not in a bucket: `URL`, as clickhouse://USER@HOST:8123/DATABASE; the password is in "+clickhousePassword)
}

func (o *engineOptions) flags(cmd *cobra.Command) {
	o.placeFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.control, "control", "", "`database` that servers on one bucket share: postgres://USER@HOST/DATABASE (default: a file in the data folder, for one server)")
	o.clickhouseFlag(cmd)
	f.DurationVar(&o.flushEvery, "flush-every", time.Minute, "how long profiles stay in memory and in the log before they become a block")
	o.retention = age(30 * 24 * time.Hour)
	f.Var(&o.retention, "retention", "how long profiles are kept")
	f.Var(&o.keep, "keep", "an exception to --retention, as `TENANT/SERVICE=AGE`: * is any, the age may be forever; the first that matches holds")
	o.archiveAfter = age(7 * 24 * time.Hour)
	f.Var(&o.archiveAfter, "archive-after", "how old blocks are when they move to the bucket's archive class; 0 is never")
	f.DurationVar(&o.compactEvery, "compact-every", 30*time.Second, "how often there is a look at which blocks to merge or delete")
	f.Var(&o.memory, "memory", "memory to stay within; the bounds below follow from it (default: GOMEMLIMIT, else the control group's limit)")
	f.Var(&o.queryMemory, "query-memory", "memory that one question may take (default: 256MiB, at most an eighth of --memory)")
	o.tenantRate = 4e6
	f.Var(&o.tenantRate, "tenant-rate", "bytes a second that one tenant may send, over time; 0 is no limit")
	f.IntVar(&o.tenantSeries, "tenant-series", 10_000, "series (distinct label sets) that one tenant may have in memory")
	o.cacheBytes = 8 << 30
	f.Var(&o.cacheBytes, "cache-bytes", "local disk for copies of what is in the bucket; 0 is none. A bucket that is a local folder needs none")
	o.queueBytes = 4 << 30
	f.Var(&o.queueBytes, "queue-bytes", "local disk for what waits for the bucket; past it uploads are refused until the bucket takes them")
}

func (o *engineOptions) check() error {
	switch {
	case o.clickhouse != "" && o.bucket != "":
		return usagef("--clickhouse and --bucket are two places for the same profiles: give one")
	case o.retention <= 0:
		return usagef("--retention %s: it must be more than 0", &o.retention)
	case o.archiveAfter < 0:
		return usagef("--archive-after %s: it must not be less than 0", &o.archiveAfter)
	case o.compactEvery <= 0:
		return usagef("--compact-every %s: it must be more than 0", o.compactEvery)
	case o.tenantSeries <= 0:
		return usagef("--tenant-series %d: it must be more than 0", o.tenantSeries)
	case o.flushEvery <= 0:
		return usagef("--flush-every %s: it must be more than 0", o.flushEvery)
	case o.queueBytes <= 0:
		return usagef("--queue-bytes %s: it must be more than 0", &o.queueBytes)
	case o.memory != 0 && o.memory < minMemory:
		return usagef("--memory %s: it must be at least %dMiB", &o.memory, minMemory>>20)
	}
	return nil
}

// longest is how old a profile may be that is kept by any rule.
func (o *engineOptions) longest() time.Duration {
	d := time.Duration(o.retention)
	for _, r := range o.keep {
		if r.Keep < 0 {
			return forever
		}
		d = max(d, r.Keep)
	}
	return d
}

func (o *engineOptions) retain() blocks.RetentionOptions {
	r := blocks.RetentionOptions{Keep: time.Duration(o.retention), ArchiveAfter: time.Duration(o.archiveAfter), Rules: o.keep}
	if r.ArchiveAfter == 0 {
		r.ArchiveAfter = -1
	}
	return r
}

// engine is the store with all it stands on.
type engine struct {
	db         *store.DB
	blocks     *blocks.Blocks // nil where clickhouse is
	bucket     bucket.Bucket  // nil where clickhouse is
	clickhouse *clickhouse.DB
	control    *control.DB
	share      memoryShares
	symbols    *symbols.Store
	folder     bucket.Bucket // of symbols, where profiles are in ClickHouse
}

// openEngine opens what is in the data folder and in the bucket. What the data folder is locked by is said as such.
func (a *app) openEngine(ctx context.Context, dir string, o engineOptions, log *slog.Logger) (e *engine, err error) {
	e = &engine{}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	limit := memoryLimit(int64(o.memory), hostFile)
	share := shares(limit, int64(o.queryMemory))
	e.share = share
	var backend store.Backend
	if e.control, err = control.Open(ctx, cmp.Or(o.control, "sqlite:"+filepath.Join(dir, controlDB)), control.Options{Logger: log}); err != nil {
		return e, controlError(err)
	}
	if o.clickhouse != "" {
		backend, err = e.openClickHouse(ctx, o, log)
	} else {
		backend, err = e.openBlocks(ctx, dir, o, log)
	}
	if err != nil {
		return e, err
	}
	if err = e.openSymbols(ctx, dir, log); err != nil {
		return e, err
	}
	var bar *progress
	var before int64
	e.db, err = store.Open(ctx, dir, store.Options{
		Logger: log, Backend: backend, Region: o.region,
		Retention: o.longest(), FlushEvery: o.flushEvery,
		MaxBytes: int64(o.queueBytes), MaxHeadBytes: share.head, MaxInFlight: share.inFlight, QueryMemory: share.query, MaxSeries: o.tenantSeries,
		Progress: func(done, total int64) {
			if bar == nil {
				bar = a.progress("reading "+dir, total)
			}
			bar.add(done - before)
			before = done
		},
	})
	if bar != nil {
		bar.end()
	}
	return e, engineError(dir, err)
}

// openBlocks opens the bucket and what is in it.
func (e *engine) openBlocks(ctx context.Context, dir string, o engineOptions, log *slog.Logger) (_ store.Backend, err error) {
	if e.bucket, err = openBucket(ctx, dir, o.bucket, false); err != nil {
		return nil, err
	}
	if o.control == "" && !strings.HasPrefix(e.bucket.URL(), "file://") {
		log.Info("the control database is a file of this server's own: servers that share the bucket need one together; see --control")
	}
	cache := int64(o.cacheBytes)
	if cache == 0 {
		cache = -1
	}
	e.blocks, err = blocks.Open(ctx, e.bucket, blocks.Options{
		Dir: filepath.Join(dir, blocksDir), Region: o.region, Logger: log,
		QueueBytes: int64(o.queueBytes), CacheBytes: cache, MemoryBytes: e.share.columns,
		Lease: leases(e.control, log), Retention: o.retain(), Compact: blocks.CompactOptions{Every: o.compactEvery},
	})
	if err != nil {
		return nil, engineError(dir, err)
	}
	return e.blocks, nil
}

// clickhousePassword is where the password is read: on a command line all who list processes would see it.
const clickhousePassword = "CLICKHOUSE_PASSWORD"

func (e *engine) openClickHouse(ctx context.Context, o engineOptions, log *slog.Logger) (_ store.Backend, err error) {
	opt := clickhouse.Options{Logger: log, Retention: time.Duration(o.retention), ColdAfter: o.retain().ArchiveAfter, DictionaryBytes: e.share.columns}
	for _, k := range o.keep {
		opt.Keep = append(opt.Keep, clickhouse.Keep{Tenant: k.Tenant, Service: k.Service, For: k.Keep})
	}
	if e.clickhouse, err = openClickHouse(ctx, o.clickhouse, opt); err != nil {
		return nil, err
	}
	return e.clickhouse, nil
}

// openClickHouse opens what the flag names.
func openClickHouse(ctx context.Context, flag string, opt clickhouse.Options) (db *clickhouse.DB, err error) {
	if opt.URL, err = clickhouseURL(flag, os.Getenv(clickhousePassword)); err != nil {
		return nil, err
	}
	db, err = clickhouse.Open(ctx, opt)
	switch {
	case errors.Is(err, store.ErrInvalid):
		return nil, usagef("--clickhouse: %w", err)
	case errors.Is(err, store.ErrUnavailable):
		return nil, unavailablef("%w", err)
	}
	return db, err
}

// clickhouseURL is the flag's URL with the password of the environment.
func clickhouseURL(flag, password string) (string, error) {
	u, err := url.Parse(flag)
	if err != nil {
		return "", usagef("--clickhouse: not a URL; it should be clickhouse://USER@HOST:8123/DATABASE")
	}
	if _, ok := u.User.Password(); ok {
		return "", usagef("--clickhouse: a password on the command line is seen by all who list processes; give it in %s", clickhousePassword)
	}
	if password != "" {
		u.User = url.UserPassword(u.User.Username(), password)
	}
	return u.String(), nil
}

// Close closes all that is open, in the order in which it stands on each other.
func (e *engine) Close() error {
	var errs []error
	switch {
	case e.db != nil:
		errs = append(errs, e.db.Close()) // closes its backend
	case e.blocks != nil:
		errs = append(errs, e.blocks.Close())
	case e.clickhouse != nil:
		errs = append(errs, e.clickhouse.Close())
	}
	if e.control != nil {
		errs = append(errs, e.control.Close())
	}
	for _, b := range []bucket.Bucket{e.bucket, e.folder} {
		if b != nil {
			errs = append(errs, b.Close())
		}
	}
	return errors.Join(errs...)
}

// engineError says whose the data folder is, where that is what is wrong.
func engineError(dir string, err error) error {
	switch {
	case errors.Is(err, vfs.ErrLocked):
		return inUsef("%s is in use by another process: end it, or choose another folder with --data", dir)
	case errors.Is(err, store.ErrInvalid):
		return usagef("%w", err)
	}
	return err
}

// openBucket opens the bucket that the flag names, or the folder bucket in the data folder.
func openBucket(ctx context.Context, dir, flag string, readOnly bool) (bucket.Bucket, error) {
	where := flag
	if where == "" {
		where = folderURL(filepath.Join(dir, bucketDir))
	}
	b, err := bucket.Open(ctx, where, bucket.Options{Create: flag == "" && !readOnly, ReadOnly: readOnly})
	switch {
	case errors.Is(err, bucket.ErrInvalid):
		return nil, usagef("--bucket: %w", err)
	case errors.Is(err, bucket.ErrUnavailable):
		return nil, unavailablef("%w", err)
	}
	return b, err
}

// folderURL is the file:// URL of an absolute path.
func folderURL(path string) string {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/ on Windows
	}
	return (&url.URL{Scheme: "file", Path: path}).String()
}

func controlError(err error) error {
	switch {
	case errors.Is(err, control.ErrInvalid):
		return usagef("--control: %w", err)
	case errors.Is(err, control.ErrUnavailable):
		return unavailablef("%w", err)
	}
	return err
}

// leases takes leases in the control database, for this process.
func leases(db *control.DB, log *slog.Logger) func(context.Context, string) (context.Context, func(), bool, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	holder := fmt.Sprintf("%s/%d/%s", host, os.Getpid(), rand.Text()[:8])
	return func(ctx context.Context, name string) (context.Context, func(), bool, error) {
		l, ok, err := db.Lease(ctx, name, holder, leaseTTL)
		if err != nil || !ok {
			return nil, nil, false, err
		}
		return l.Context(), func() {
			if err := l.Release(); err != nil {
				log.Warn("a lease could not be given back; it ends by itself", "err", err)
			}
		}, true, nil
	}
}
