package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/quantra-l/quantra/ingest"
	"github.com/quantra-l/quantra/seal"
)

// keyFileEnv tells an agent where its key is, as agent.Options.KeyFile does.
const keyFileEnv = "QUANTRA_KEY_FILE"

// ownKeyFile is the key of the server's own agent and of the demo, in the data folder.
const ownKeyFile = "agent.key"

// The bounds on --agent-keys.
const (
	maxKeyFile = 16 << 20
	maxKeyLine = 4 << 10
)

// keyCheckEvery is how often the file is looked at for a change, at most: when a signed request comes.
const keyCheckEvery = time.Second

// keyName is a public key as signatures and key files name it.
func keyName(k ed25519.PublicKey) string { return base64.RawURLEncoding.EncodeToString(k) }

// keyBytes are the 32 bytes of a key's name.
func keyBytes(name string) ([]byte, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(name)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("%.60q is not a public key: it must be %d bytes in base64url without padding (43 characters), as agents name theirs", name, ed25519.PublicKeySize)
	}
	return b, nil
}

// agentKeys are the keys that --agent-keys names. The file is read again when it has changed; one that is wrong then is said so in
// the log, and the keys stay what they were: a slip of an editor must not shut every agent out.
type agentKeys struct {
	path string
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex
	keys    map[[ed25519.PublicKeySize]byte]bool
	checked time.Time
	seen    keyStamp
}

// keyStamp tells one state of a file from another.
type keyStamp struct {
	modified time.Time
	size     int64
	loose    bool   // it was read so soon after it was written that another write may have the same time
	fault    string // what was wrong when it was looked at
}

// openAgentKeys reads the file for the first time, when what is wrong with it is an error. Without a path there are none.
func openAgentKeys(path string, log *slog.Logger) (*agentKeys, error) {
	if path == "" {
		return nil, nil
	}
	k := &agentKeys{path: path, log: log, now: time.Now}
	keys, stamp, err := k.read()
	if err != nil {
		return nil, usagef("--agent-keys: %w", err)
	}
	k.keys, k.seen, k.checked = keys, stamp, k.now()
	return k, nil
}

// allow is ingest.SignatureOptions.Keys.
func (k *agentKeys) allow(key ed25519.PublicKey) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.now(); now.Sub(k.checked) >= keyCheckEvery {
		k.checked = now
		k.refresh()
	}
	if !k.keys[[ed25519.PublicKeySize]byte(key)] {
		return errors.New("it is not one of the server's agent keys: add it to the file that up --agent-keys names, or give the agent one that is there")
	}
	return nil
}

// refresh reads the file anew if it has changed.
func (k *agentKeys) refresh() {
	info, err := os.Stat(k.path)
	if err == nil && !k.seen.loose && k.seen.fault == "" && info.ModTime().Equal(k.seen.modified) && info.Size() == k.seen.size {
		return
	}
	keys, stamp, err := k.read()
	if err != nil {
		if err.Error() != k.seen.fault { // once
			k.log.Warn("the agent keys could not be read again, and stay what they were", "err", err, "keys", len(k.keys))
		}
		k.seen = keyStamp{fault: err.Error()}
		return
	}
	if k.seen.fault != "" || !stamp.modified.Equal(k.seen.modified) || stamp.size != k.seen.size {
		k.log.Info("agent keys were read again", "file", k.path, "keys", len(keys))
	}
	k.keys, k.seen = keys, stamp
}

func (k *agentKeys) read() (map[[ed25519.PublicKeySize]byte]bool, keyStamp, error) {
	f, err := os.Open(k.path)
	if err != nil {
		return nil, keyStamp{}, pathError("read", k.path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, keyStamp{}, pathError("read", k.path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, keyStamp{}, fmt.Errorf("%s is not a regular file", k.path)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, keyStamp{}, pathError("read", k.path, err)
	}
	if len(raw) > maxKeyFile {
		return nil, keyStamp{}, fmt.Errorf("%s has more than %d bytes", k.path, maxKeyFile)
	}
	keys, err := parseAgentKeys(raw)
	if err != nil {
		return nil, keyStamp{}, fmt.Errorf("%s: %w", k.path, err)
	}
	const coarsest = 3 * time.Second // FAT has 2 s
	return keys, keyStamp{modified: info.ModTime(), size: info.Size(), loose: k.now().Sub(info.ModTime()) < coarsest}, nil
}

// parseAgentKeys reads a key a line. What follows the key is for people, and so is a line that begins with #.
func parseAgentKeys(raw []byte) (map[[ed25519.PublicKeySize]byte]bool, error) {
	keys := map[[ed25519.PublicKeySize]byte]bool{}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, maxKeyLine)
	n := 0
	for lines.Scan() {
		n++
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		b, err := keyBytes(fields[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if err := ingest.CheckKey(b); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		keys[[ed25519.PublicKeySize]byte(b)] = true
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: it is longer than %d bytes", n+1, maxKeyLine)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key in it: every agent would be refused")
	}
	return keys, nil
}

// ownAgentKey is the key with which the server's own agents sign, in its data folder, and made there if it is missing. The server has
// the folder for itself, so nobody else makes it at the same time.
func ownAgentKey(dir string) (path string, pub ed25519.PublicKey, err error) {
	path = filepath.Join(dir, ownKeyFile)
	k, err := keyIn(path, true, nil)
	defer k.Wipe()
	switch public := k.Public(); {
	case err == nil:
		return path, public[:], nil
	case errors.Is(err, seal.ErrUnsafe):
		return "", nil, fmt.Errorf("%w; or delete it, and a new one is made", err)
	case errors.As(err, new(*fs.PathError)), errors.As(err, new(*os.LinkError)):
		return "", nil, pathError("read", path, err)
	}
	return "", nil, fmt.Errorf("%w; delete it, and a new one is made", err)
}

// keyIn reads the key in a file, whose passphrase is asked for if it has one. A missing one is made where that is wanted, without.
func keyIn(path string, orMake bool, ask seal.Passphrase) (seal.Key, error) {
	k, err := seal.LoadKey(path, ask)
	if orMake && errors.Is(err, fs.ErrNotExist) {
		k = seal.NewKey()
		err = seal.SaveKey(path, k, seal.KeyOptions{})
	}
	return k, err
}
