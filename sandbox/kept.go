package sandbox

import (
	"os"
	"sync"
)

// Kept are files or folders that an isolation makes of handlers, so that it makes them once. What nobody uses is removed, the oldest first,
// when there are many. Its zero value is ready.
type Kept struct {
	mu    sync.Mutex
	known map[[32]byte]*kept
	tick  int64
}

type kept struct {
	path  string
	users int
	used  int64
}

// Take returns the path of what make has made of the image, now or before. Call drop when it is not used any more. make is called with the
// lock held: who asks at the same time would wait for the same.
func (k *Kept) Take(im *Image, make func() (path string, err error)) (path string, drop func(), err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.tick++
	e := k.known[im.Sum]
	if e == nil {
		if err := k.makeRoom(); err != nil {
			return "", nil, err
		}
		path, err := make()
		if err != nil {
			return "", nil, err
		}
		if k.known == nil {
			k.known = map[[32]byte]*kept{}
		}
		e = &kept{path: path}
		k.known[im.Sum] = e
	}
	e.users++
	e.used = k.tick
	return e.path, sync.OnceFunc(func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		e.users--
	}), nil
}

// makeRoom is called with the lock held.
func (k *Kept) makeRoom() error {
	if len(k.known) < maxImages {
		return nil
	}
	var oldest [32]byte
	var found *kept
	for sum, e := range k.known {
		if e.users == 0 && (found == nil || e.used < found.used) {
			oldest, found = sum, e
		}
	}
	if found == nil {
		return nil // all are in use, each by a session that has a seat
	}
	delete(k.known, oldest)
	return os.RemoveAll(found.path)
}
