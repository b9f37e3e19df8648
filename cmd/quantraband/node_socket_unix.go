//go:build !windows

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
)

// controlFile is the socket by which commands of the same user speak with a node.
const controlFile = "control.sock"

// maxSocket is the longest path that a socket may have: 104 bytes with the final zero on macOS and BSD, 108 on Linux.
const maxSocket = 103

// controlPath is where a node's socket is: in its folder, or where that has too long a name, in one of the user's own beside other
// temporary files.
func controlPath(dir string) (path string, own bool) {
	if path = filepath.Join(dir, controlFile); len(path) <= maxSocket {
		return path, false
	}
	h := sha256.Sum256([]byte(dir))
	return filepath.Join(os.TempDir(), fmt.Sprintf("quantra-%d", os.Getuid()), hex.EncodeToString(h[:8])+".sock"), true
}

// listenControl opens the socket, for this user alone. The node's folder is locked by then: a socket that is there is of one that has died.
func listenControl(dir string) (net.Listener, func(http.Handler) http.Handler, error) {
	path, own := controlPath(dir)
	if own {
		if err := privateFolder(filepath.Dir(path)); err != nil {
			return nil, nil, err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	return ln, func(h http.Handler) http.Handler { return h }, nil
}

// privateFolder makes a folder that is this user's alone, or says why the one that is there is not.
func privateFolder(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(st.Uid) != os.Getuid() {
		return fmt.Errorf("%s is not a folder of this user's alone: remove it, or choose a data folder with a shorter name", dir)
	}
	return nil
}

// dialControl is how a command reaches the node of a folder, and what it shows.
func dialControl(dir string) (dial func(context.Context) (net.Conn, error), token string, err error) {
	path, _ := controlPath(dir)
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}, "", nil
}
