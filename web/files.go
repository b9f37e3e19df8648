package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/gzip"
)

//go:embed dist
var dist embed.FS

// file is one file of the dashboard, ready to be sent.
type file struct {
	body, packed []byte // packed is gzip, nil where it would not be smaller
	kind, etag   string
}

// files are the dashboard's, by path: "/app.js".
type files map[string]*file

func loadFiles() (*files, error) {
	fsys := files{}
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f := new(file)
		if f.body, err = dist.ReadFile(name); err != nil {
			return err
		}
		if f.kind = kindOf(name); f.kind == "" {
			return fmt.Errorf("%s: what is its Content-Type?", name)
		}
		var z bytes.Buffer
		w, err := gzip.NewWriterLevel(&z, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := w.Write(f.body); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		if z.Len() < len(f.body)*9/10 {
			f.packed = z.Bytes()
		}
		sum := sha256.Sum256(f.body)
		f.etag = base64.RawURLEncoding.EncodeToString(sum[:12])
		fsys[strings.TrimPrefix(name, "dist")] = f
		return nil
	})
	if err == nil && fsys["/index.html"] == nil {
		err = fmt.Errorf("there is no dist/index.html: run go generate ./web")
	}
	return &fsys, err
}

// kindOf is the Content-Type of a file. The table is ours, for mime's depends on the machine.
func kindOf(name string) string {
	switch ext := path.Ext(name); ext {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".json", ".map", ".webmanifest":
		return "application/json"
	case ".woff2":
		return "font/woff2"
	default:
		return mime.TypeByExtension(ext)
	}
}

// ServeHTTP serves a file, or the page for every path that is none: the page's
// own script reads the path. A path with an extension asked for a file, and
// gets the truth.
func (fsys files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		replyError(w, http.StatusMethodNotAllowed, connect.CodeUnimplemented, r.Method+" is not understood here")
		return
	}
	f := fsys[path.Clean("/"+r.URL.Path)]
	if f == nil {
		if path.Ext(r.URL.Path) != "" {
			http.NotFound(w, r)
			return
		}
		f = fsys["/index.html"]
	}
	body, etag := f.body, `"`+f.etag+`"`
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "no-cache") // keep it, and ask each time whether it changed
	h.Set("Vary", "Accept-Encoding")
	if f.packed != nil && acceptsGzip(r) {
		body, etag = f.packed, `"`+f.etag+`-gzip"`
		h.Set("Content-Encoding", "gzip")
	}
	h.Set("ETag", etag)
	for tag := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodGet {
		w.Write(body) // an error means that the browser is gone
	}
}

func acceptsGzip(r *http.Request) bool {
	for enc := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(enc, ";")
		if strings.TrimSpace(name) == "gzip" {
			return strings.TrimSpace(q) != "q=0"
		}
	}
	return false
}
