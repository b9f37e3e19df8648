package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// controlFile has where the node listens on this machine, and what is to be shown there, a line each.
const controlFile = "control.token"

// listenControl listens on a port of this machine, and takes requests that show the token. The file is in the node's folder.
func listenControl(dir string) (net.Listener, func(http.Handler) http.Handler, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	raw := make([]byte, 32)
	rand.Read(raw) // never fails: crypto/rand ends the program first
	token := hex.EncodeToString(raw)
	if err := writeSecret(filepath.Join(dir, controlFile), ln.Addr().String()+"\n"+token); err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	return ln, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+token)) != 1 {
				http.Error(w, "the token is not shown", http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	}, nil
}

// dialControl is how a command reaches the node of a folder, and what it shows.
func dialControl(dir string) (dial func(context.Context) (net.Conn, error), token string, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, controlFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	addr, token, ok := strings.Cut(strings.TrimSpace(string(raw)), "\n")
	return func(ctx context.Context) (net.Conn, error) {
		if !ok {
			return nil, fs.ErrNotExist
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}, token, nil
}
