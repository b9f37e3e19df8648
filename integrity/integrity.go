// Package integrity watches files against a signed list of what they were.
//
// A baseline ([Store.Create]) is a sorted list of entries: what is at each path, the hash of its bytes and all that the kernel says of it.
// [Baseline.Check] walks the same trees in the same order and says each difference once. A [Monitor] does so over time: the kernel's
// events say where to look, and only the look says what changed. So an event that is lost or doubled loses or doubles nothing, and where
// events were lost everything is looked at.
//
// What cannot be told is a [Problem], never silence: a file that changed while it was read, a folder that may not be read.
//
// Signatures, the audit log and alerts are func fields. The bytes are drawn in docs/format/integrity.md.
package integrity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Type is what is at a path. The letters are find(1)'s, so that a listing reads as people expect.
type Type byte

// The types.
const (
	Regular     Type = 'f'
	Directory   Type = 'd'
	Symlink     Type = 'l'
	FIFO        Type = 'p'
	Socket      Type = 's'
	CharDevice  Type = 'c'
	BlockDevice Type = 'b'
	Other       Type = 'o' // what the system has beside these
)

var typeNames = map[Type]string{Regular: "file", Directory: "directory", Symlink: "symlink", FIFO: "fifo", Socket: "socket", CharDevice: "character device", BlockDevice: "block device", Other: "other"}

func (t Type) String() string { return typeNames[t] }

// The bits of a mode above permissions, as POSIX has them.
const (
	setUID = 0o4000
	setGID = 0o2000
)

// HashSize is the length of a hash in bytes, of either algorithm.
const HashSize = 32

// Hash is of a file's bytes.
type Hash [HashSize]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Entry is what is at a path.
type Entry struct {
	// Path is absolute, with slashes on every system, and as the system has it: any bytes but NUL.
	Path string
	Type Type
	Mode uint32 // permissions, set-user-ID, set-group-ID and sticky: POSIX's 12 bits
	UID  uint32
	GID  uint32
	// Inode and CTime are 0 where the system has none (Windows). Of a directory times, size and links are 0: they follow from what is in
	// it, which has entries of its own.
	Inode  uint64
	Links  uint64 // hard links
	Size   int64  // of a regular file, in bytes
	MTime  int64  // of the bytes, in nanoseconds since 1970; programs can set it
	CTime  int64  // of bytes or metadata, likewise; only the kernel sets it
	Device uint64 // of a device: its number
	Target string // of a symlink
	// Hash is of a regular file's bytes, where Unread is false.
	Hash   Hash
	XAttrs []XAttr // sorted by name
	Mount  bool    // another file system is mounted here, and what is in it was not looked at
	// Unread says that bytes and extended attributes could not be read, which was said as a Problem.
	Unread bool
	// Racy says that it was looked at so soon after its change that a later one may bear the same CTime: its times prove nothing.
	Racy bool

	dev uint64 // of what it is on; not kept, as its number may be another after a restart
}

// XAttr is an extended attribute: an access list, a capability, a label.
type XAttr struct {
	Name string
	Hash Hash // of its value
}

// What is what happened to a path.
type What string

// What may happen.
const (
	Added   What = "added"
	Removed What = "removed"
	Changed What = "changed"
	Renamed What = "renamed" // from Change.From
)

// Aspect is a part of an entry that changed. An entry that was added has setuid and setgid among its own where it has these bits.
type Aspect string

// The aspects.
const (
	AspectType    Aspect = "type"
	AspectContent Aspect = "content"
	AspectSize    Aspect = "size"
	AspectTarget  Aspect = "target"
	AspectMode    Aspect = "mode" // but for the two below
	AspectSetUID  Aspect = "setuid"
	AspectSetGID  Aspect = "setgid"
	AspectOwner   Aspect = "owner"
	AspectGroup   Aspect = "group"
	AspectXAttrs  Aspect = "xattrs"
	AspectDevice  Aspect = "device"
	AspectMount   Aspect = "mount"
	AspectInode   Aspect = "inode"
	AspectLinks   Aspect = "links"
	AspectMTime   Aspect = "mtime"
	AspectCTime   Aspect = "ctime"
)

// Aspects are all there are, in the order in which a change has them.
var Aspects = []Aspect{AspectType, AspectContent, AspectSize, AspectTarget, AspectMode, AspectSetUID, AspectSetGID, AspectOwner, AspectGroup, AspectXAttrs,
	AspectDevice, AspectMount, AspectInode, AspectLinks, AspectMTime, AspectCTime}

// Change is one difference between a baseline and what is there: one for each path, with all of its aspects.
type Change struct {
	What    What
	Path    string
	From    string // of a rename: where it was
	Aspects []Aspect
	Before  *Entry // nil where it was added
	After   *Entry // nil where it was removed
	// Severity is what the rules say.
	Severity Severity
	// Who changed it, where the kernel told: the last few.
	Who []Who
}

// Who is a process that touched a path. What the system did not tell is its zero value.
type Who struct {
	PID  int    `json:"pid"`
	UID  *int   `json:"uid,omitempty"` // nil: the process had ended before it could be asked
	Exe  string `json:"exe,omitempty"`
	Args string `json:"args,omitempty"` // its command line, at most 256 bytes
}

// Problem is a path of which something could not be told.
type Problem struct {
	Path string
	Err  error
}

func (p Problem) Error() string { return fmt.Sprintf("%s: %v", printable(p.Path), p.Err) }

func (p Problem) Unwrap() error { return p.Err }

// Errors that callers branch on.
var (
	// ErrCorrupt says that bytes are not a baseline, or not as they were written.
	ErrCorrupt = errors.New("the baseline is corrupt")
	// ErrSignature says that a baseline is not signed by a key that is trusted.
	ErrSignature = errors.New("the baseline's signature does not verify")
	// ErrRollback says that a baseline is older than one that was in force.
	ErrRollback = errors.New("the baseline is older than one that was in force")
	// ErrNone says that there is no baseline yet.
	ErrNone = errors.New("there is no baseline")
)

// differ is how two entries of one path differ; nil is not at all. What was not read of either is not compared.
func differ(a, b *Entry) []Aspect {
	if a.Type != b.Type {
		return []Aspect{AspectType}
	}
	read := !a.Unread && !b.Unread
	mode := a.Mode ^ b.Mode
	var out []Aspect
	for _, c := range []struct {
		aspect Aspect
		differ bool
	}{
		{AspectContent, read && a.Hash != b.Hash},
		{AspectSize, a.Size != b.Size},
		{AspectTarget, read && a.Target != b.Target},
		{AspectMode, mode&^(setUID|setGID) != 0},
		{AspectSetUID, mode&setUID != 0},
		{AspectSetGID, mode&setGID != 0},
		{AspectOwner, a.UID != b.UID},
		{AspectGroup, a.GID != b.GID},
		{AspectXAttrs, read && !slices.Equal(a.XAttrs, b.XAttrs)},
		{AspectDevice, a.Device != b.Device},
		{AspectMount, a.Mount != b.Mount},
		{AspectInode, a.Inode != b.Inode},
		{AspectLinks, a.Links != b.Links},
		{AspectMTime, a.MTime != b.MTime},
		{AspectCTime, a.CTime != b.CTime},
	} {
		if c.differ {
			out = append(out, c.aspect)
		}
	}
	return out
}

// same says that stat has not changed between two looks at a path, which shows that nothing has where the times are proof.
func same(a, b *Entry) bool {
	return a.Type == b.Type && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Inode == b.Inode && a.Links == b.Links && a.Size == b.Size &&
		a.MTime == b.MTime && a.CTime == b.CTime && a.Device == b.Device && a.Mount == b.Mount
}

// change is the difference between a baseline's entry and one that is there, either of which may be nil; nil is none.
func change(before, after *Entry) *Change {
	switch {
	case before == nil:
		c := &Change{What: Added, Path: after.Path, After: after}
		if after.Type == Regular && after.Mode&setUID != 0 {
			c.Aspects = append(c.Aspects, AspectSetUID)
		}
		if after.Type == Regular && after.Mode&setGID != 0 {
			c.Aspects = append(c.Aspects, AspectSetGID)
		}
		return c
	case after == nil:
		return &Change{What: Removed, Path: before.Path, Before: before}
	}
	if a := differ(before, after); a != nil {
		return &Change{What: Changed, Path: after.Path, Aspects: a, Before: before, After: after}
	}
	return nil
}

// ID names this very change: the same path with the same states has the same one, and what is changed further has another. 32 hex digits.
func (c *Change) ID() string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00", c.What, c.Path, c.From)
	for _, e := range []*Entry{c.Before, c.After} {
		if e == nil {
			h.Write([]byte{0})
			continue
		}
		plain := *e
		plain.Racy = false // of the look, not of the file
		h.Write(appendEntry([]byte{1}, "", &plain))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Pair makes one rename of a removal and an addition that have one inode and the same bytes. The order is that of the paths.
func Pair(changes []*Change) []*Change {
	type key struct {
		inode uint64
		typ   Type
		hash  Hash
		to    string
	}
	keyOf := func(e *Entry) key { return key{e.Inode, e.Type, e.Hash, e.Target} }
	gone := map[key][]*Change{}
	for _, c := range changes {
		if c.What == Removed && c.Before.Inode != 0 && !c.Before.Unread {
			gone[keyOf(c.Before)] = append(gone[keyOf(c.Before)], c)
		}
	}
	paired := map[*Change]bool{}
	var out []*Change
	for _, c := range changes {
		if c.What == Added && !c.After.Unread {
			if from := gone[keyOf(c.After)]; len(from) > 0 {
				gone[keyOf(c.After)] = from[1:]
				paired[from[0]] = true
				r := *c
				r.What, r.From, r.Before, r.Who = Renamed, from[0].Path, from[0].Before, append(slices.Clone(c.Who), from[0].Who...)
				// The kernel sets the ctime of what is renamed: that is the rename.
				r.Aspects = slices.DeleteFunc(differ(r.Before, r.After), func(a Aspect) bool { return a == AspectCTime })
				r.Severity = max(c.Severity, from[0].Severity)
				out = append(out, &r)
				continue
			}
		}
		out = append(out, c)
	}
	return slices.DeleteFunc(out, func(c *Change) bool { return paired[c] })
}

// Within says that a change is at path or below, or was.
func (c *Change) Within(path string) bool {
	return within(c.Path, path) || c.From != "" && within(c.From, path)
}

// compare is the order of paths: component by component, so that what is in a folder follows the folder, before its next sibling. It is
// the order of bytes with the slash first.
func compare(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if x, y := a[i], b[i]; x != y {
			switch {
			case x == '/':
				return -1
			case y == '/':
				return 1
			}
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// within says that path is dir or below it.
func within(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(dir, "/"))
}

// printable is a path for people: what could act on a terminal or break a line is escaped.
func printable(path string) string {
	for _, r := range path {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || r >= 0x80 && r < 0xa0 {
			return fmt.Sprintf("%q", path)
		}
	}
	return path
}

// String is one line: what, where, and which aspects.
func (c *Change) String() string {
	s := fmt.Sprintf("%-8s %-8s ", c.Severity, c.What)
	if c.From != "" {
		s += printable(c.From) + " -> "
	}
	s += printable(c.Path)
	if len(c.Aspects) > 0 {
		s += " (" + join(c.Aspects) + ")"
	}
	for i, w := range c.Who {
		s += map[bool]string{true: " by ", false: ", "}[i == 0] + w.String()
	}
	return s
}

func (w Who) String() string {
	s := fmt.Sprintf("pid %d", w.PID)
	if w.UID != nil {
		s += fmt.Sprintf(" uid %d", *w.UID)
	}
	if w.Exe != "" {
		s += " " + printable(w.Exe)
	}
	return s
}

func join(aspects []Aspect) string {
	s := make([]string, len(aspects))
	for i, a := range aspects {
		s[i] = string(a)
	}
	return strings.Join(s, ", ")
}

// pathJSON is a path in JSON: text, and its bytes beside it where they are not UTF-8 and the text is not all of them.
type pathJSON struct {
	text  string
	bytes []byte
}

func inJSON(path string) pathJSON {
	if utf8.ValidString(path) {
		return pathJSON{text: path}
	}
	return pathJSON{strings.ToValidUTF8(path, "\uFFFD"), []byte(path)}
}

// MarshalJSON has paths that are not UTF-8 also as path_bytes, in base64.
func (c *Change) MarshalJSON() ([]byte, error) {
	path, from := inJSON(c.Path), inJSON(c.From)
	return json.Marshal(struct {
		ID        string   `json:"id"`
		What      What     `json:"what"`
		Path      string   `json:"path"`
		PathBytes []byte   `json:"path_bytes,omitempty"`
		From      string   `json:"from,omitempty"`
		FromBytes []byte   `json:"from_bytes,omitempty"`
		Severity  Severity `json:"severity"`
		Aspects   []Aspect `json:"aspects,omitempty"`
		Before    *Entry   `json:"before,omitempty"`
		After     *Entry   `json:"after,omitempty"`
		Who       []Who    `json:"who,omitempty"`
	}{c.ID(), c.What, path.text, path.bytes, from.text, from.bytes, c.Severity, c.Aspects, c.Before, c.After, c.Who})
}

// MarshalJSON leaves out what an entry of its type does not have.
func (e *Entry) MarshalJSON() ([]byte, error) {
	type xattr struct {
		Name string `json:"name"`
		Hash string `json:"hash"`
	}
	out := struct {
		Type   string  `json:"type"`
		Mode   string  `json:"mode"`
		UID    uint32  `json:"uid"`
		GID    uint32  `json:"gid"`
		Inode  uint64  `json:"inode,omitempty"`
		Links  uint64  `json:"links,omitempty"`
		Size   *int64  `json:"size,omitempty"`
		MTime  string  `json:"mtime,omitempty"`
		CTime  string  `json:"ctime,omitempty"`
		Hash   string  `json:"hash,omitempty"`
		Target string  `json:"target,omitempty"`
		Device uint64  `json:"device,omitempty"`
		XAttrs []xattr `json:"xattrs,omitempty"`
		Mount  bool    `json:"mount,omitempty"`
		Unread bool    `json:"unread,omitempty"`
	}{e.Type.String(), fmt.Sprintf("%04o", e.Mode), e.UID, e.GID, e.Inode, e.Links, nil, timeJSON(e.MTime), timeJSON(e.CTime), "",
		inJSON(e.Target).text, e.Device, nil, e.Mount, e.Unread}
	if e.Type == Regular {
		out.Size = &e.Size
		if !e.Unread {
			out.Hash = e.Hash.String()
		}
	}
	for _, x := range e.XAttrs {
		out.XAttrs = append(out.XAttrs, xattr{x.Name, x.Hash.String()})
	}
	return json.Marshal(out)
}

func timeJSON(ns int64) string {
	if ns == 0 {
		return ""
	}
	return time.Unix(0, ns).UTC().Format(time.RFC3339Nano)
}

// MarshalJSON is the path and what was wrong.
func (p Problem) MarshalJSON() ([]byte, error) {
	path := inJSON(p.Path)
	return json.Marshal(struct {
		Path      string `json:"path"`
		PathBytes []byte `json:"path_bytes,omitempty"`
		Error     string `json:"error"`
	}{path.text, path.bytes, p.Err.Error()})
}
