package sandbox

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// MaxImage is the most bytes of a handler's file.
const MaxImage = 256 << 20

// Image is a handler's file, held open: what was checked is what runs, whatever is put in its place meanwhile.
type Image struct {
	Path string
	Sum  [sha256.Size]byte // of all bytes
	File *os.File          // for reading at offsets; nil where the image is in memory only
	data []byte

	users int // under the images' lock
	stale bool
}

// NewImage is an image that is in memory only.
func NewImage(name string, data []byte) *Image {
	return &Image{Path: name, Sum: sha256.Sum256(data), data: data}
}

// OpenImage opens a handler's file and reads all of it once, for its sum. Close it in the end.
func OpenImage(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("handler: %w", err)
	}
	im, err := imageOf(path, f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("handler %s: %w", path, err), f.Close())
	}
	return im, nil
}

func imageOf(path string, f *os.File) (*Image, error) {
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case info.Size() > MaxImage:
		return nil, fmt.Errorf("it has %d bytes, the limit is %d", info.Size(), MaxImage)
	}
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, MaxImage+1))
	if err != nil {
		return nil, err
	}
	if n != info.Size() {
		return nil, errors.New("it changed while it was read")
	}
	im := &Image{Path: path, File: f}
	h.Sum(im.Sum[:0])
	return im, nil
}

// Bytes are all bytes of the image.
func (im *Image) Bytes() ([]byte, error) {
	if im.File == nil {
		return im.data, nil
	}
	b, err := io.ReadAll(io.NewSectionReader(im.File, 0, MaxImage+1))
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(b) != im.Sum {
		return nil, fmt.Errorf("%s was changed in place while it was in use", im.Path)
	}
	return b, nil
}

// Static says what keeps the image from running where there is no other file: it is no program of Linux's, or one that needs libraries.
func (im *Image) Static() error {
	var at io.ReaderAt = bytes.NewReader(im.data)
	if im.File != nil {
		at = im.File
	}
	f, err := elf.NewFile(at)
	if err != nil {
		return fmt.Errorf("%s is no program of Linux's (ELF): %w", im.Path, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs libraries, and in the sandbox is none: build it static (Go: CGO_ENABLED=0)", im.Path)
		}
	}
	return nil
}

// Close closes the image's file.
func (im *Image) Close() error {
	if im.File == nil {
		return nil
	}
	return im.File.Close()
}

// maxImages is how many handlers stay open and known by their sum while nobody uses them.
const maxImages = 16

// images are the handlers that are known, by path. A file that is not what it was (by the system's identity, size and time) is read anew.
type images struct {
	mu    sync.Mutex
	known map[string]*knownImage
	tick  int64
}

type knownImage struct {
	*Image
	info os.FileInfo
	used int64
}

// take returns the image of a path; give it back with drop.
func (s *images) take(path string) (*Image, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("handler: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick++
	if k := s.known[path]; k != nil {
		if os.SameFile(k.info, info) && k.info.Size() == info.Size() && k.info.ModTime().Equal(info.ModTime()) {
			k.used = s.tick
			k.users++
			return k.Image, nil
		}
		s.forget(path)
	}
	im, err := OpenImage(path)
	if err != nil {
		return nil, err
	}
	if info, err = im.File.Stat(); err != nil {
		return nil, errors.Join(err, im.Close())
	}
	if len(s.known) >= maxImages {
		oldest := ""
		for p, k := range s.known {
			if oldest == "" || k.used < s.known[oldest].used {
				oldest = p
			}
		}
		s.forget(oldest)
	}
	if s.known == nil {
		s.known = map[string]*knownImage{}
	}
	im.users++
	s.known[path] = &knownImage{Image: im, info: info, used: s.tick}
	return im, nil
}

// forget is called with the lock held.
func (s *images) forget(path string) {
	k := s.known[path]
	delete(s.known, path)
	k.stale = true
	if k.users == 0 {
		k.Close()
	}
}

func (s *images) drop(im *Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	im.users--
	if im.users == 0 && im.stale {
		im.Close()
	}
}

func (s *images) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path := range s.known {
		s.forget(path)
	}
}
