package blocks

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/bucket"
)

// Reindex drops all in the local folder that is a copy of what the bucket has, and learns it anew from there. What waits
// for the bucket stays. No other process may have the folder.
func Reindex(ctx context.Context, b bucket.Bucket, opt Options) (Stats, error) {
	opt = opt.withDefaults()
	if err := dropCopies(opt.FS, opt.Dir); err != nil {
		return Stats{}, fmt.Errorf("blocks: reindex %s: %w: %w", opt.Dir, store.ErrUnavailable, err)
	}
	opt.Compact.Off = true
	bs, err := Open(ctx, b, opt)
	if err != nil {
		return Stats{}, err
	}
	// A listing that failed is no error of Open's: then nothing is known, and all has been dropped.
	err = bs.Refresh(ctx)
	return bs.Stats(), errors.Join(err, bs.Close())
}

// dropCopies removes the folders of which the bucket has the originals.
func dropCopies(fsys vfs.FS, dir string) error {
	if err := makeDir(fsys, dir); err != nil {
		return err
	}
	lock, err := fsys.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range []string{localDir, metasDir, cacheDir, workDir} {
		errs = append(errs, vfs.RemoveAll(fsys, filepath.Join(dir, name)))
	}
	errs = append(errs, fsys.SyncDir(dir), lock.Close())
	return errors.Join(errs...)
}
