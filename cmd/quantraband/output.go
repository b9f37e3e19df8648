package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// emit lets write write to the file called name, or to standard output where
// name is "" or "-". A file appears whole or not at all. Bytes that are not for
// eyes are refused to a terminal.
func (a *app) emit(name string, binary bool, write func(io.Writer) error) error {
	if name != "" && name != "-" {
		return writeFile(name, write)
	}
	if binary && isTerminal(a.stdout) {
		return usagef("will not write binary data to a terminal: add -o FILE, or redirect standard output")
	}
	w := bufio.NewWriterSize(a.stdout, 64<<10)
	if err := write(w); err != nil {
		return err
	}
	return w.Flush()
}

// writeFile makes name hold what write writes, by way of a file beside it that
// is renamed when it is complete: who reads name sees the old bytes or the new.
func writeFile(name string, write func(io.Writer) error) (err error) {
	// Renaming over a device or a pipe would replace it, so these are written straight.
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return fmt.Errorf("write %s: it is a folder; name a file in it", name)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return pathError("write", name, err)
		}
		return errors.Join(write(f), f.Close())
	}
	// Not os.CreateTemp: that makes the file 0600, and the reader's umask should say.
	tmp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+"."+rand.Text()[:8]+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return pathError("write", name, err)
	}
	defer func() {
		if err != nil {
			os.Remove(tmp)
		}
	}()
	w := bufio.NewWriterSize(f, 256<<10)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err = os.Rename(tmp, name); err != nil {
		return pathError("write", name, err)
	}
	return nil
}

// pathError is err without the path it may already name: the caller knows the
// path the user wrote, and a temporary one would only confuse.
func pathError(what, name string, err error) error {
	var pe *fs.PathError
	var le *os.LinkError
	switch {
	case errors.As(err, &pe):
		err = pe.Err
	case errors.As(err, &le):
		err = le.Err
	}
	return fmt.Errorf("%s %s: %w", what, name, err)
}
