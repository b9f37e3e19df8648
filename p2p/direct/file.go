package direct

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
)

const (
	fileVersion  = 1
	maxFileName  = 255
	maxFileSize  = 1 << 42 // 4 TiB
	maxTransfers = 16      // files that are received at once
	acceptTime   = 5 * time.Minute
	// syncEvery is how many bytes are received before they are made durable: what is received again after a crash is less.
	syncEvery = 8 << 20
	// partAge is when what was begun and not gone on with is removed.
	partAge    = 7 * 24 * time.Hour
	partPrefix = ".quantra-"
	stateMagic = "QLDP"
	maxNames   = 1000 // "name (2)" and so on, before it is given up
)

// FileOffer is a file that a peer wants to send.
type FileOffer struct {
	From   peer.ID
	Name   string // of the file alone: one that is a name in any folder
	Size   int64  // bytes
	SHA256 [32]byte
}

// Part is the beginning of the names under which the file is on its way in its folder: of its bytes, and of how far they are. The sender is
// in it: nobody goes on with what another began.
func (o FileOffer) Part() string {
	id := sha256.Sum256(append(append([]byte(o.From), o.SHA256[:]...), o.Name...))
	return partPrefix + hex.EncodeToString(id[:16])
}

// fileRoom is files that are on their way to us.
type fileRoom struct {
	room  chan struct{} // holds one for each
	every int64         // syncEvery

	mu      sync.Mutex
	parts   map[string]bool // partial files that are written to
	streams map[network.Stream]peer.ID
}

// CheckFileName is an error for what is not a file's name alone: a path, a hidden file, what shows as another name than it is.
func CheckFileName(name string) error {
	bad := func(why string) error { return fmt.Errorf("%q is not taken as a file's name: %s", name, why) }
	switch {
	case name == "" || len(name) > maxFileName || !utf8.ValidString(name):
		return bad(fmt.Sprintf("it has 1 to %d bytes of UTF-8", maxFileName))
	case strings.ContainsAny(name, `/\:`) || !filepath.IsLocal(name):
		return bad("it is a path, or a device")
	case name[0] == '.' || strings.HasSuffix(name, ".") || strings.HasSuffix(name, " "):
		return bad("it begins or ends with a dot, or ends with a space")
	}
	for _, r := range name {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return bad("it has control characters")
		}
	}
	return nil
}

// SendFile sends a file and returns when the peer has it on its disk, whole. It is read twice, as the peer is told its hash first. What the
// peer has of it from an attempt before is not sent again. progress is told how many bytes the peer was sent or has had, these at first; nil is nobody.
func (s *Service) SendFile(ctx context.Context, p peer.ID, name string, r io.ReadSeeker, progress func(done, size int64)) error {
	if err := CheckFileName(name); err != nil {
		return err
	}
	if !s.enter() {
		return errClosed
	}
	defer s.work.Done()
	h := sha256.New()
	size, err := io.Copy(h, r)
	if err != nil {
		return err
	}
	if size > maxFileSize {
		return fmt.Errorf("a file of %d bytes, of at most %d", size, int64(maxFileSize))
	}
	if err := s.o.Allow(p, "connect", s.here); err != nil {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	stream, err := s.host.NewStream(network.WithAllowLimitedConn(ctx, "a file"), p, ProtocolFiles)
	if err != nil {
		return fmt.Errorf("%w: %s is not reached: %w", ErrUnavailable, p, err)
	}
	defer stream.Reset() // after an end in order there is nothing to reset
	for _, c := range []context.Context{ctx, s.ctx} {
		stop := context.AfterFunc(c, func() { stream.Reset() })
		defer stop()
	}
	err = s.offer(stream, r, FileOffer{Name: name, Size: size, SHA256: [32]byte(h.Sum(nil))}, progress)
	switch {
	case err == nil:
		s.m.files.WithLabelValues("sent").Inc()
		return stream.Close()
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !errors.Is(err, ErrDenied) && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrUnavailable):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

func (s *Service) offer(stream network.Stream, r io.ReadSeeker, o FileOffer, progress func(done, size int64)) error {
	c, err := secure(stream, s.keys, true, s.o.Now())
	if err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint64([]byte{fileVersion}, uint64(o.Size))
	b = append(append(b, o.SHA256[:]...), o.Name...)
	buf := new(record)
	if err := c.write(buf, b, s.o.Stall); err != nil {
		return err
	}
	at, err := s.verdict(c, buf, acceptTime+s.o.Stall)
	if err != nil {
		return err
	}
	if at > uint64(o.Size) {
		return fmt.Errorf("%w: it has %d bytes of a file of %d", ErrCorrupt, at, o.Size)
	}
	if _, err := r.Seek(int64(at), io.SeekStart); err != nil {
		return err
	}
	if progress != nil {
		progress(int64(at), o.Size)
	}
	// The receiver says how it ended when it has all, or before: its disk is full.
	result, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		_, err := s.verdict(c, new(record), 0)
		result <- err
	}()
	if err := s.pour(c, buf, r, int64(at), o.Size, result, progress); err != nil {
		stream.Reset()
		<-ended
		return err
	}
	if err := stream.SetReadDeadline(time.Now().Add(acceptTime)); err != nil {
		return err
	}
	return <-result
}

// pour sends a file from a place on, until its end, or until the receiver says that it takes no more.
func (s *Service) pour(c *secured, buf *record, r io.Reader, at, size int64, result chan error, progress func(done, size int64)) error {
	chunk := make([]byte, maxPlain)
	for done := at; done < size; {
		select {
		case err := <-result:
			if err == nil {
				err = fmt.Errorf("%w: it says that it has the file after %d of %d bytes", ErrCorrupt, done, size)
			}
			return err
		default:
		}
		n, err := r.Read(chunk[:min(int64(len(chunk)), size-done)])
		if n > 0 {
			if err := c.write(buf, chunk[:n], s.o.Stall); err != nil {
				return err
			}
			if done += int64(n); progress != nil {
				progress(done, size)
			}
		}
		if err == io.EOF && done < size {
			return fmt.Errorf("the file had %d bytes and has %d: it was changed", size, done)
		} else if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// verdict is what the receiver says: a code, a number, a reason.
func (s *Service) verdict(c *secured, buf *record, within time.Duration) (uint64, error) {
	n, err := c.next(within)
	if err != nil {
		return 0, err
	}
	plain, err := c.read(buf, n, s.o.Stall)
	if err != nil {
		return 0, err
	}
	f := scan{b: plain}
	code, at := f.u8(), f.u64()
	why := string(f.rest())
	if f.bad {
		return 0, fmt.Errorf("%w: an answer of %d bytes", ErrCorrupt, len(plain))
	}
	if code != 0 {
		return 0, refusal(idOf(c.bundle.key), code, why)
	}
	return at, nil
}

func (s *Service) say(c *secured, buf *record, at uint64, err error) error {
	b := []byte{0}
	why := ""
	if err != nil {
		b[0], why = codeOf(err), err.Error()
	}
	b = append(binary.BigEndian.AppendUint64(b, at), why[:min(len(why), maxReason)]...)
	return c.write(buf, b, s.o.Stall)
}

// end breaks off what comes from a peer.
func (f *fileRoom) end(p peer.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for stream, from := range f.streams {
		if from == p {
			stream.Reset()
		}
	}
}

// acceptFile is the handler of the protocol of files.
func (s *Service) acceptFile(stream network.Stream) {
	p := stream.Conn().RemotePeer()
	if !s.enter() {
		stream.Reset()
		return
	}
	defer s.work.Done()
	stop := context.AfterFunc(s.ctx, func() { stream.Reset() })
	defer stop()
	s.files.mu.Lock()
	s.files.streams[stream] = p
	s.files.mu.Unlock()
	err := s.fileFrom(stream, p)
	s.files.mu.Lock()
	delete(s.files.streams, stream)
	s.files.mu.Unlock()
	switch {
	case err == nil:
		s.m.files.WithLabelValues("received").Inc()
		stream.Close()
		return
	case errors.Is(err, errSaid):
		s.m.files.WithLabelValues("refused").Inc()
		stream.CloseWrite() // what was said is to arrive
		stream.SetReadDeadline(time.Now().Add(s.o.Stall))
		io.Copy(io.Discard, stream)
	default:
		s.m.files.WithLabelValues("broken").Inc()
	}
	s.o.Log.Debug("a file was not received", "from", p, "error", err)
	stream.Reset()
}

// errSaid says that the other side was told.
var errSaid = errors.New("the sender was told")

func (s *Service) fileFrom(stream network.Stream, p peer.ID) error {
	if err := s.mayWrite(p); err != nil {
		return err
	}
	select {
	case s.files.room <- struct{}{}:
		defer func() { <-s.files.room }()
	default:
		return fmt.Errorf("%w: %d files are received at once", ErrUnavailable, maxTransfers)
	}
	c, err := secure(stream, s.keys, false, s.o.Now())
	if err != nil {
		return err
	}
	buf := new(record)
	n, err := c.next(s.o.Stall)
	if err != nil {
		return err
	}
	plain, err := c.read(buf, n, s.o.Stall)
	if err != nil {
		return err
	}
	refuse := func(err error) error { return errors.Join(err, errSaid, s.say(c, buf, 0, err)) }
	o, err := decodeOffer(plain)
	if err != nil {
		return refuse(err)
	}
	o.From = p
	dir, err := s.mayReceive(o)
	if err != nil {
		return refuse(err)
	}
	path, err := s.takeFile(c, buf, dir, o, refuse)
	if s.o.FileEnded != nil {
		s.o.FileEnded(o, path, err)
	}
	return err
}

// takeFile takes a file that was let in. It says where it is, if it is whole, whether or not the sender could be told.
func (s *Service) takeFile(c *secured, buf *record, dir string, o FileOffer, refuse func(error) error) (path string, err error) {
	part, err := s.openPart(dir, o)
	if err != nil {
		return "", refuse(err)
	}
	defer part.close()
	// A sender that was not told how it ended asks again.
	if path, err = s.whole(dir, o); err != nil {
		return "", refuse(fmt.Errorf("%w: the folder cannot be read: %w", ErrUnavailable, err))
	}
	if path != "" {
		part.discard()
		return path, errors.Join(s.say(c, buf, uint64(o.Size), nil), s.say(c, buf, uint64(o.Size), nil))
	}
	if err := s.say(c, buf, uint64(part.at), nil); err != nil {
		return "", err
	}
	if err := s.fill(c, buf, part); err != nil {
		part.pause()
		if errors.Is(err, errSaid) {
			return "", refuse(err)
		}
		return "", err
	}
	if path, err = part.finish(); err != nil {
		return "", refuse(err)
	}
	return path, s.say(c, buf, uint64(o.Size), nil)
}

// whole is where a file is that was offered, "" where it is not there under a name that it would have had.
func (s *Service) whole(dir string, o FileOffer) (path string, err error) {
	for i := 1; i < maxNames; i++ {
		path := filepath.Join(dir, o.nameOf(i))
		st, err := s.o.FS.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		} else if err != nil {
			return "", err
		}
		if st.Dir || st.Size != o.Size {
			continue
		}
		same, err := s.hashed(path, o.SHA256)
		if same || err != nil {
			return path, err
		}
	}
	return "", nil
}

// hashed says whether a file has a hash.
func (s *Service) hashed(path string, want [32]byte) (bool, error) {
	f, err := s.o.FS.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return false, err
	}
	return [32]byte(h.Sum(nil)) == want, nil
}

func decodeOffer(b []byte) (o FileOffer, err error) {
	f := scan{b: b}
	version, size := f.u8(), f.u64()
	copy(o.SHA256[:], f.next(32))
	o.Name = string(f.rest())
	if f.bad || version != fileVersion || size > maxFileSize {
		return o, fmt.Errorf("%w: an offer of a file of version %d, %d bytes", ErrCorrupt, version, size)
	}
	o.Size = int64(size)
	if err := CheckFileName(o.Name); err != nil {
		return o, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return o, nil
}

func (s *Service) mayReceive(o FileOffer) (dir string, err error) {
	if s.o.AcceptFile == nil {
		return "", fmt.Errorf("%w: no files are taken here", ErrDenied)
	}
	ctx, cancel := context.WithTimeout(s.ctx, acceptTime)
	defer cancel()
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrDenied, err)
		}
	}()
	defer recovered(&err)
	return s.o.AcceptFile(ctx, o)
}

// fill takes what comes until the file is whole. An error that is the receiver's own is marked errSaid: it is to be said.
func (s *Service) fill(c *secured, buf *record, part *partFile) error {
	for part.at < part.offer.Size {
		n, err := c.next(s.o.Stall)
		if err != nil {
			return err
		}
		plain, err := c.read(buf, n, s.o.Stall)
		if err != nil {
			return err
		}
		if int64(len(plain)) > part.offer.Size-part.at {
			return fmt.Errorf("%w: more bytes came than the file has", ErrCorrupt)
		}
		if err := part.write(plain); err != nil {
			return errors.Join(fmt.Errorf("%w: the file cannot be written: %w", ErrUnavailable, err), errSaid)
		}
	}
	return nil
}

// partFile is a file that is not all there: its bytes under a temporary name, and beside them how many are on disk and the state of
// SHA-256 after them, so that going on does not read them again.
type partFile struct {
	fs    vfs.FS
	files *fileRoom
	dir   string
	name  string // the part's
	offer FileOffer
	file  vfs.File
	hash  hash.Hash
	at    int64 // bytes that are written
	saved int64 // bytes that are durable, by the state
}

// openPart opens what there is of a file, or begins it.
func (s *Service) openPart(dir string, o FileOffer) (*partFile, error) {
	if err := s.removeStale(dir); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	p := &partFile{fs: s.o.FS, files: &s.files, dir: dir, name: o.Part() + ".part", offer: o, hash: sha256.New()}
	s.files.mu.Lock()
	busy := s.files.parts[p.path()]
	s.files.parts[p.path()] = true
	s.files.mu.Unlock()
	if busy {
		return nil, fmt.Errorf("%w: this file is being received", ErrUnavailable)
	}
	if err := p.open(); err != nil {
		p.close()
		return nil, fmt.Errorf("%w: the file cannot be written: %w", ErrUnavailable, err)
	}
	return p, nil
}

// open goes on with what there is, or, where there is nothing or it is damaged, begins.
func (p *partFile) open() (err error) {
	if p.resume() == nil {
		return nil
	}
	p.discard()
	p.at, p.saved = 0, 0
	p.hash.Reset()
	if p.file, err = p.fs.Create(p.path()); err != nil {
		return err
	}
	return p.fs.SyncDir(p.dir)
}

func (p *partFile) path() string  { return filepath.Join(p.dir, p.name) }
func (p *partFile) state() string { return strings.TrimSuffix(p.path(), ".part") + ".state" }

// resume goes on from the last state that was saved.
func (p *partFile) resume() error {
	raw, err := readWhole(p.fs, p.state(), 1<<10)
	if err != nil {
		return err
	}
	at, mid, err := decodeState(raw)
	if err != nil {
		return err
	}
	if err := p.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(mid); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if p.file, err = p.fs.Append(p.path()); err != nil {
		return err
	}
	size, err := p.file.Size()
	if err == nil && (size < at || at > p.offer.Size) {
		err = fmt.Errorf("%w: a part of %d bytes, of which %d were saved", ErrCorrupt, size, at)
	}
	if err == nil {
		err = p.file.Truncate(at)
	}
	if err != nil {
		err = errors.Join(err, p.file.Close())
		p.file = nil
		return err
	}
	p.at, p.saved = at, at
	return nil
}

func encodeState(at int64, mid []byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte(stateMagic), uint64(at))
	b = append(b, mid...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeState(b []byte) (at int64, mid []byte, err error) {
	n := len(b) - 4
	if n < 12 || string(b[:4]) != stateMagic || binary.BigEndian.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli) ||
		binary.BigEndian.Uint64(b[4:]) > maxFileSize {
		return 0, nil, fmt.Errorf("%w: it is no state of a file", ErrCorrupt)
	}
	return int64(binary.BigEndian.Uint64(b[4:])), b[12:n], nil
}

func (p *partFile) write(b []byte) error {
	if _, err := p.file.Write(b); err != nil {
		return err
	}
	p.hash.Write(b)
	p.at += int64(len(b))
	if p.at-p.saved >= p.files.every {
		return p.save()
	}
	return nil
}

// save makes what is there durable, and then says so in the state.
func (p *partFile) save() error {
	if err := p.file.Sync(); err != nil {
		return err
	}
	mid, err := p.hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	if err := writeNew(p.fs, p.state()+".tmp", encodeState(p.at, mid)); err != nil {
		return err
	}
	p.saved = p.at
	return p.fs.Rename(p.state()+".tmp", p.state())
}

// pause keeps what is there for another attempt.
func (p *partFile) pause() {
	if p.file != nil && p.at > p.saved {
		_ = p.save() // less is kept then
	}
}

// finish gives the file its name when it is what was offered, and says where it is. A file that is there is never replaced: the name gets a number.
func (p *partFile) finish() (string, error) {
	if [32]byte(p.hash.Sum(nil)) != p.offer.SHA256 {
		p.discard()
		return "", fmt.Errorf("%w: the file is not the one that was offered: its hash is another", ErrCorrupt)
	}
	err := p.file.Sync()
	err = errors.Join(err, p.file.Close())
	p.file = nil
	if err != nil {
		p.discard() // what of it is on disk is not known
		return "", fmt.Errorf("%w: the file cannot be kept: %w", ErrUnavailable, err)
	}
	name, err := p.reserve()
	if err == nil {
		if err = p.fs.Rename(p.path(), name); err == nil {
			err = p.fs.SyncDir(p.dir)
		}
	}
	if err != nil {
		return "", fmt.Errorf("%w: the file cannot be kept: %w", ErrUnavailable, err)
	}
	_ = p.fs.Remove(p.state()) // a state without a part is not gone on with
	return name, nil
}

// nameOf is the file's name, or where that is taken its i-th.
func (o FileOffer) nameOf(i int) string {
	if i == 1 {
		return o.Name
	}
	ext := filepath.Ext(o.Name)
	return fmt.Sprintf("%s (%d)%s", strings.TrimSuffix(o.Name, ext), i, ext)
}

// reserve makes an empty file of a free name, which the part takes the place of.
func (p *partFile) reserve() (string, error) {
	for i := 1; i < maxNames; i++ {
		name := p.offer.nameOf(i)
		f, err := p.fs.Create(filepath.Join(p.dir, name))
		if errors.Is(err, fs.ErrExist) {
			continue
		} else if err != nil {
			return "", err
		}
		return filepath.Join(p.dir, name), f.Close()
	}
	return "", fmt.Errorf("there are %d files of that name", maxNames-1)
}

// discard removes what there is of the file.
func (p *partFile) discard() {
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
	for _, name := range []string{p.path(), p.state(), p.state() + ".tmp"} {
		_ = p.fs.Remove(name) // what stays is begun anew, or removed by age
	}
}

func (p *partFile) close() {
	if p.file != nil {
		p.file.Close()
	}
	p.files.mu.Lock()
	delete(p.files.parts, p.path())
	p.files.mu.Unlock()
}

// removeStale removes parts that nobody has gone on with for long.
func (s *Service) removeStale(dir string) error {
	names, err := s.o.FS.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, partPrefix) || !strings.HasSuffix(name, ".part") && !strings.HasSuffix(name, ".state") && !strings.HasSuffix(name, ".tmp") {
			continue
		}
		path := filepath.Join(dir, name)
		s.files.mu.Lock()
		busy := s.files.parts[path]
		s.files.mu.Unlock()
		st, err := s.o.FS.Stat(path)
		if err == nil && !busy && !st.Dir && s.o.Now().Sub(st.Modified) > partAge {
			if err := s.o.FS.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
