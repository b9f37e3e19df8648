package builds

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// Files is a [Place] that is a file among others, for a profile: in a folder, or an object in a bucket. What was there is kept beside it, as NAME.before-CHANGE, so
// that whoever undoes has it.
type Files struct {
	Name string // of the file
	// Read is a file's content; ok is false where there is none.
	Read func(ctx context.Context, name string) (b []byte, ok bool, err error)
	// Write writes one whole or not at all; Remove removes it, and that there is none is no error.
	Write  func(ctx context.Context, name string, b []byte) error
	Remove func(ctx context.Context, name string) error
}

// fileWas is what was there: the SHA-256 of its bytes, "" where there was no file.
type fileWas struct {
	Sum string `json:"sum"`
}

func (f *Files) before(p Put) string { return f.Name + ".before-" + p.Change }

// only is the one file that there is: here it has the place's name, whatever who puts it calls it.
func only(files map[string][]byte) []byte {
	for _, b := range files {
		return b
	}
	return nil
}

// now is what is there, "" for no file.
func (f *Files) now(ctx context.Context) (b []byte, sum string, err error) {
	b, ok, err := f.Read(ctx, f.Name)
	if err != nil || !ok {
		return nil, "", err
	}
	return b, Sum(b), nil
}

// read is what was there when the change began, and what is now.
func (f *Files) read(ctx context.Context, p Put) (was fileWas, b []byte, now string, err error) {
	if err := json.Unmarshal(p.Was, &was); err != nil {
		return was, nil, "", fmt.Errorf("builds: %s: %w: the snapshot cannot be read: %v", f.Name, optimize.ErrRefused, err)
	}
	b, now, err = f.now(ctx)
	return was, b, now, err
}

// Was implements [Place].
func (f *Files) Was(ctx context.Context, _ Put, files map[string][]byte) (json.RawMessage, error) {
	_, now, err := f.now(ctx)
	if err != nil {
		return nil, err
	}
	if now == Sum(only(files)) {
		return nil, fmt.Errorf("builds: %s is there already, byte by byte: %w", f.Name, optimize.ErrRefused)
	}
	return json.Marshal(fileWas{now})
}

// Rehearse implements [Place]: what is there is kept beside it and read again; the profile, too, which is removed again then.
func (f *Files) Rehearse(ctx context.Context, p Put, files map[string][]byte) error {
	was, b, now, err := f.read(ctx, p)
	switch {
	case err != nil:
		return err
	case now != was.Sum:
		return fmt.Errorf("builds: %s is not what it was a moment ago: %w", f.Name, optimize.ErrRefused)
	}
	if was.Sum != "" {
		if err := f.keep(ctx, f.before(p), b); err != nil {
			return err
		}
	}
	trial := f.Name + ".trial-" + p.Change
	return errors.Join(f.keep(ctx, trial, only(files)), f.Remove(ctx, trial))
}

// keep writes a file and reads it again.
func (f *Files) keep(ctx context.Context, name string, b []byte) error {
	if err := f.Write(ctx, name, b); err != nil {
		return err
	}
	again, ok, err := f.Read(ctx, name)
	if err == nil && (!ok || !bytes.Equal(again, b)) {
		err = fmt.Errorf("builds: %s is not what was written there", name)
	}
	return err
}

// Put implements [Place].
func (f *Files) Put(ctx context.Context, p Put, files map[string][]byte) error {
	was, _, now, err := f.read(ctx, p)
	switch {
	case err != nil:
		return err
	case now == p.Sum:
		return nil
	case now != was.Sum:
		return f.other()
	}
	return f.Write(ctx, f.Name, only(files))
}

func (f *Files) other() error {
	return fmt.Errorf("builds: %s: %w: somebody else has written it: it is left so", f.Name, optimize.ErrRefused)
}

// Back implements [Place].
func (f *Files) Back(ctx context.Context, p Put) error {
	was, _, now, err := f.read(ctx, p)
	switch {
	case err != nil:
		return err
	case now == was.Sum:
		return f.Remove(ctx, f.before(p))
	case now != p.Sum:
		return f.other()
	case was.Sum == "":
		return f.Remove(ctx, f.Name)
	}
	b, ok, err := f.Read(ctx, f.before(p))
	switch {
	case err != nil:
		return err
	case !ok || Sum(b) != was.Sum:
		return fmt.Errorf("builds: %s has not what was in %s before: put it back by hand", f.before(p), f.Name)
	}
	return f.Write(ctx, f.Name, b)
}

// Look implements [Place].
func (f *Files) Look(ctx context.Context, p Put) (Look, error) {
	was, _, now, err := f.read(ctx, p)
	switch {
	case err != nil:
		return Look{}, err
	case now == p.Sum:
		return Look{State: There}, nil
	case now == was.Sum:
		return Look{State: Before}, nil
	}
	return Look{State: Other, Note: f.Name + " is what somebody else has written"}, nil
}

// Every implements [Place].
func (f *Files) Every() time.Duration { return 0 }
