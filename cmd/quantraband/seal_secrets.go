package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/quantra-l/quantra/seal"
)

const keysHelp = `A KEY is the name of a key in the folder of keys (--keys), a file where it has a "/" in it, or keyring:NAME. Without
one it is the key "default".`

const passphraseHelp = `A passphrase is asked for at the terminal, or is the first line of what --passphrase-file, -fd or -env names. It is never
an argument, which every user of the machine could read.`

// maxPassphrase bounds a passphrase.
const maxPassphrase = 1 << 10

// passphrases says where passphrases come from.
type passphrases struct {
	file string
	env  string
	fd   int
	none bool
}

func (p *passphrases) flags(cmd *cobra.Command, creates bool) {
	f := cmd.Flags()
	f.StringVar(&p.file, "passphrase-file", "", "the passphrase is the first line of `file`, which nobody else can read")
	f.IntVar(&p.fd, "passphrase-fd", -1, "the passphrase is the first line of what is read from file descriptor `N`")
	f.StringVar(&p.env, "passphrase-env", "", "the passphrase is in the environment variable `NAME`")
	if creates {
		f.BoolVar(&p.none, "no-passphrase", false, "keep the key as it is: who can read its file has it")
	}
	before := cmd.PreRun // with PreRunE cobra does not call it
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if before != nil {
			before(cmd, args)
		}
		n := 0
		for _, set := range []bool{p.file != "", p.fd >= 0, p.env != "", p.none} {
			if set {
				n++
			}
		}
		if n > 1 {
			return usagef("one of --passphrase-file, -fd and -env names the passphrase, or --no-passphrase says that there is none")
		}
		return nil
	}
	hideDefault(cmd, "passphrase-fd")
}

// hideDefault keeps a default that means none out of the help.
func hideDefault(cmd *cobra.Command, name string) { cmd.Flags().Lookup(name).DefValue = "" }

func (p *passphrases) named() bool { return p.file != "" || p.fd >= 0 || p.env != "" }

// ask is for a passphrase that exists.
func (p *passphrases) ask(ctx context.Context, what string) seal.Passphrase {
	return func() ([]byte, error) {
		if p.named() {
			return p.read()
		}
		return readTerminal(ctx, "Passphrase of "+what+": ")
	}
}

// askNew is for one that is being made: typed twice; nil where there shall be none.
func (p *passphrases) askNew(ctx context.Context, what string) ([]byte, error) {
	if p.none {
		return nil, nil
	}
	if p.named() {
		return p.read()
	}
	pass, err := readTerminal(ctx, "New passphrase of "+what+": ")
	if err != nil {
		return nil, err
	}
	if len(pass) == 0 {
		return nil, usagef("an empty passphrase protects nothing: type one, or say --no-passphrase")
	}
	again, err := readTerminal(ctx, "The same again: ")
	if err != nil {
		return nil, err
	}
	defer clear(again)
	if !bytes.Equal(pass, again) {
		return nil, errors.New("the two passphrases differ")
	}
	return pass, nil
}

func (p *passphrases) read() ([]byte, error) {
	var raw []byte
	var err error
	switch {
	case p.file != "":
		if raw, err = seal.ReadSecret(p.file); err != nil {
			return nil, fmt.Errorf("--passphrase-file: %w", pathOf(p.file, err))
		}
	case p.env != "":
		text, ok := os.LookupEnv(p.env)
		if !ok {
			return nil, usagef("--passphrase-env: the environment has no %s", p.env)
		}
		raw = []byte(text)
	default:
		f := os.NewFile(uintptr(p.fd), "descriptor "+strconv.Itoa(p.fd))
		if f == nil {
			return nil, usagef("--passphrase-fd %d is no file descriptor", p.fd)
		}
		if raw, err = io.ReadAll(io.LimitReader(f, maxPassphrase+2)); err != nil {
			return nil, fmt.Errorf("--passphrase-fd %d: %w", p.fd, err)
		}
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 || len(line) > maxPassphrase {
		return nil, usagef("a passphrase has 1 to %d bytes, this one has %d", maxPassphrase, len(line))
	}
	return line, nil
}

// pathOf is err naming the path once.
func pathOf(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: no such file", path)
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return fmt.Errorf("%s: %w", path, pe.Err)
	}
	return err
}

// readTerminal asks at the terminal itself, whatever the standard streams are, and shows nothing of what is typed.
func readTerminal(ctx context.Context, prompt string) ([]byte, error) {
	name := "/dev/tty"
	if runtime.GOOS == "windows" {
		name = "CONIN$"
	}
	tty, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, usagef("a passphrase is needed and there is no terminal to ask at: name it by --passphrase-file, -fd or -env")
	}
	out := io.Writer(tty)
	if runtime.GOOS == "windows" {
		out = os.Stderr
	}
	fmt.Fprint(out, prompt)
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return nil, errors.Join(err, tty.Close())
	}
	type typed struct {
		line []byte
		err  error
	}
	done := make(chan typed, 1)
	go func() { // nothing ends a read of a terminal: it is left behind when the user interrupts
		line, err := term.ReadPassword(int(tty.Fd()))
		done <- typed{line, err}
	}()
	select {
	case t := <-done:
		fmt.Fprintln(out)
		if len(t.line) > maxPassphrase {
			return nil, usagef("a passphrase has at most %d bytes", maxPassphrase)
		}
		return t.line, errors.Join(t.err, tty.Close())
	case <-ctx.Done():
		term.Restore(int(tty.Fd()), before)
		fmt.Fprintln(out)
		return nil, ctx.Err()
	}
}

// keyFolder is where keys are.
type keyFolder struct{ dir string }

func (k *keyFolder) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.dir, "keys", "", "`folder` of keys (default: keys, in this user's data folder of quantra)")
}

// path is the folder.
func (k *keyFolder) path() (string, error) {
	if k.dir != "" {
		return k.dir, nil
	}
	dir, err := defaultDataDir(runtime.GOOS, os.Getenv, os.UserHomeDir)
	if err != nil {
		return "", usagef("%w", errors.New("this user has no home folder: name the folder of keys with --keys"))
	}
	return filepath.Join(dir, "keys"), nil
}

const (
	keySuffix     = ".key"
	pgpSuffix     = ".asc"
	keyringPrefix = "keyring:"
)

var keyNames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// place is where a key is: a file, or a name in the keyring.
type place struct {
	said    string // as the user said it
	file    string
	keyring string
}

// find is where the key is that the user means; suffix is that of the files of its kind.
func (k *keyFolder) find(said, suffix string) (place, error) {
	if said == "" {
		said = "default"
	}
	if name, ok := strings.CutPrefix(said, keyringPrefix); ok {
		if suffix == pgpSuffix {
			return place{}, usagef("%s: keys of OpenPGP are in files", said)
		}
		if !keyNames.MatchString(name) {
			return place{}, usagef("%q is not a name of a key: letters, digits and . _ -, 64 at most", name)
		}
		return place{said: said, keyring: name}, nil
	}
	if strings.ContainsAny(said, `/\`) {
		return place{said: said, file: said}, nil
	}
	if !keyNames.MatchString(said) {
		return place{}, usagef("%.80q is not a name of a key (letters, digits and . _ -, 64 at most), and a file has a / in it: ./NAME", said)
	}
	dir, err := k.path()
	if err != nil {
		return place{}, err
	}
	return place{said: said, file: filepath.Join(dir, said+suffix)}, nil
}

// load is the key that is there.
func (p place) load(ask seal.Passphrase) (seal.Key, error) {
	if p.keyring != "" {
		return seal.LoadKeyring(p.keyring)
	}
	k, err := seal.LoadKey(p.file, ask)
	return k, p.error(err)
}

// error says of a key that is not there what to do.
func (p place) error(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		if p.said == p.file {
			return fmt.Errorf("%s: no such file", p.file)
		}
		return fmt.Errorf("there is no key %s (%s): key generate makes one, key list shows those that are there", p.said, p.file)
	}
	return err
}

// info is what its file says of a key, and for one of the keyring what that has.
func (p place) info() (seal.KeyInfo, error) {
	if p.keyring != "" {
		k, err := seal.LoadKeyring(p.keyring)
		if err != nil {
			return seal.KeyInfo{}, err
		}
		defer k.Wipe()
		return seal.KeyInfo{Public: k.Public(), Format: "keyring"}, nil
	}
	raw, err := seal.ReadSecret(p.file)
	if err != nil {
		return seal.KeyInfo{}, p.error(err)
	}
	defer clear(raw)
	info, err := seal.InspectKey(raw)
	if err != nil {
		return info, fmt.Errorf("%s: %w", p.file, err)
	}
	return info, nil
}

// isPublic says that a text is a public key or a recipient, not the name of one.
func isPublic(text string) bool {
	return strings.HasPrefix(text, "ssh-") || strings.HasPrefix(text, "age1") || len(text) == 43 && !strings.ContainsAny(text, `/\.`)
}

// publicKeys are the keys that a user names: one in text, the public part of a KEY, or a file with a key a line.
func (k *keyFolder) publicKeys(said string) ([]seal.PublicKey, error) {
	if isPublic(said) {
		p, err := seal.ParsePublicKey(said)
		return []seal.PublicKey{p}, wrapUsage(err)
	}
	at, err := k.find(said, keySuffix)
	if err != nil {
		return nil, err
	}
	if at.file != "" && at.said == at.file {
		if keys, err := publicKeyFile(at.file); err != nil || keys != nil {
			return keys, err
		}
	}
	info, err := at.info()
	return []seal.PublicKey{info.Public}, err
}

// publicKeyFile are the keys in a file that has one a line; nil where it is not such a file.
func publicKeyFile(name string) ([]seal.PublicKey, error) {
	lines, err := publicLines(name)
	if err != nil || lines == nil {
		return nil, err
	}
	var keys []seal.PublicKey
	for _, line := range lines {
		p, err := seal.ParsePublicKey(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		keys = append(keys, p)
	}
	return keys, nil
}

// publicLines are the lines of a file of public keys, without comments; nil where the file has a block of a secret one.
func publicLines(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, pathOf(name, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, pathOf(name, err)
	}
	if len(raw) > maxKeyFile {
		return nil, corruptf("%s has more than %d bytes", name, maxKeyFile)
	}
	if bytes.Contains(raw, []byte("-----BEGIN ")) {
		return nil, nil
	}
	var out []string
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, maxKeyLine)
	for lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	if lines.Err() != nil || len(out) == 0 {
		return nil, corruptf("%s is not a file of keys, one a line", name)
	}
	return out, nil
}

func wrapUsage(err error) error {
	if err == nil {
		return nil
	}
	return usagef("%w", err)
}
