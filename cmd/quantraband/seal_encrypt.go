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
	"strings"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/seal/pgp"
)

// openAny opens a file of any kind, or standard input.
func (a *app) openAny(ctx context.Context, in *input, name string) (io.ReadCloser, error) {
	var f io.ReadCloser
	if name == "-" || name == "" {
		if in.stdin {
			return nil, usagef("standard input (-) can be read only once")
		}
		if isTerminal(a.stdin) {
			return nil, usagef("standard input is a terminal: pipe something into it, or name a file")
		}
		in.stdin = true
		f = io.NopCloser(a.stdin)
	} else {
		file, err := os.Open(name)
		if err != nil {
			return nil, pathOf(name, err)
		}
		if info, err := file.Stat(); err == nil && info.IsDir() {
			file.Close()
			return nil, fmt.Errorf("%s: it is a folder", name)
		}
		f = file
	}
	return struct {
		io.Reader
		io.Closer
	}{&ctxReader{ctx, f}, f}, nil
}

func (a *app) encryptCommand() *cobra.Command {
	var folder keyFolder
	var pass passphrases
	var to, files, signers []string
	var out string
	var byPass, armored, isPGP bool
	cmd := &cobra.Command{
		Use:     "encrypt [FILE]",
		GroupID: "main",
		Short:   "Encrypt a file or a pipe to recipients or a passphrase",
		Long: `Encrypt a file, or standard input, of any size. It is age's format, which the age command opens too; with --pgp it is OpenPGP's.

A recipient is one of age's (age1...), an OpenSSH key (ssh-ed25519 AAAA...), 43 characters as key show says them, or a KEY of
one's own; with --pgp a key of OpenPGP in the folder of keys, or in a file where it has a "/" in it.

` + keysHelp + `

` + passphraseHelp,
		Example: `  quantraband encrypt -r age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p backup.tar -o backup.tar.age
  tar c photos | quantraband encrypt -r default -o photos.age
  quantraband encrypt --passphrase notes.txt -o notes.age
  quantraband encrypt --pgp -r ./bob.asc --sign release report.pdf -o report.pdf.pgp`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		byPass = byPass || pass.named()
		switch {
		case len(to)+len(files) == 0 && !byPass:
			return usagef("encrypt to whom? Name recipients with -r, or say --passphrase")
		case !isPGP && byPass && len(to)+len(files) > 0:
			return usagef("a passphrase is a file's only recipient: leave out -r, or --passphrase")
		case !isPGP && len(signers) > 0:
			return usagef("--sign is for --pgp: use quantraband sign on what is encrypted")
		case isPGP && len(files) > 0:
			return usagef("--recipients-file is for age's recipients: name keys of OpenPGP with -r")
		}
		var begin func(w io.Writer) (io.WriteCloser, error)
		var err error
		if isPGP {
			begin, err = a.beginPGP(ctx, &folder, to, signers, byPass, !armored, &pass)
		} else {
			begin, err = a.beginAge(ctx, &folder, to, files, byPass, armored, &pass)
		}
		if err != nil {
			return err
		}
		return a.through(ctx, args, out, !armored, begin)
	}
	folder.flags(cmd)
	pass.flags(cmd, false)
	f := cmd.Flags()
	f.StringArrayVarP(&to, "recipient", "r", nil, "encrypt to this `recipient`; may be repeated")
	f.StringArrayVarP(&files, "recipients-file", "R", nil, "encrypt to the recipients in `file`, one a line; may be repeated")
	f.BoolVarP(&byPass, "passphrase", "p", false, "encrypt to a passphrase")
	f.BoolVarP(&armored, "armor", "a", false, "write text")
	f.BoolVar(&isPGP, "pgp", false, "make an OpenPGP message")
	f.StringArrayVar(&signers, "sign", nil, "sign with this `KEY` of OpenPGP, with --pgp; may be repeated")
	f.StringVarP(&out, "output", "o", "", "write to `file` (default: standard output)")
	return cmd
}

// through pipes the input through what begin makes, to the output, which appears whole or not at all.
func (a *app) through(ctx context.Context, args []string, out string, binary bool, begin func(io.Writer) (io.WriteCloser, error)) error {
	src, err := a.openAny(ctx, &input{}, strings.Join(args, ""))
	if err != nil {
		return err
	}
	defer src.Close()
	return a.emit(out, binary, func(w io.Writer) error {
		e, err := begin(w)
		if err != nil {
			return err
		}
		if _, err := io.Copy(e, src); err != nil {
			return err
		}
		return e.Close()
	})
}

func (a *app) beginAge(ctx context.Context, folder *keyFolder, to, files []string, byPass, armored bool, pass *passphrases) (func(io.Writer) (io.WriteCloser, error), error) {
	var all []seal.Recipient
	if byPass {
		word, err := pass.askNew(ctx, "the file")
		if err != nil {
			return nil, err
		}
		defer clear(word)
		r, err := seal.PassphraseRecipient(word, 0)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	for _, said := range to {
		if isPublic(said) {
			r, err := seal.ParseRecipient(said)
			if err != nil {
				return nil, usagef("-r: %w", err)
			}
			all = append(all, r)
			continue
		}
		keys, err := folder.publicKeys(said)
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			r, err := k.Recipient()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", said, err)
			}
			all = append(all, r)
		}
	}
	for _, name := range files {
		lines, err := publicLines(name)
		if err != nil {
			return nil, err
		}
		if lines == nil {
			return nil, usagef("%s has a secret key, it must have recipients, one a line", name)
		}
		for _, line := range lines {
			r, err := seal.ParseRecipient(line)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, r)
		}
	}
	return func(w io.Writer) (io.WriteCloser, error) { return seal.Encrypt(w, armored, all...) }, nil
}

func (a *app) beginPGP(ctx context.Context, folder *keyFolder, to, signers []string, byPass, binary bool, pass *passphrases) (func(io.Writer) (io.WriteCloser, error), error) {
	o := pgp.Encryption{Binary: binary}
	for _, said := range to {
		at, err := folder.find(said, pgpSuffix)
		if err != nil {
			return nil, err
		}
		keys, err := readPGP(at)
		if err != nil {
			return nil, err
		}
		o.To = append(o.To, keys...)
	}
	for _, said := range signers {
		k, err := a.signerPGP(ctx, folder, said, pass)
		if err != nil {
			return nil, err
		}
		o.Signers = append(o.Signers, k)
	}
	if byPass {
		if len(signers) > 0 && pass.named() {
			return nil, usagef("one passphrase is named, for the file and for the key that signs: leave one of them to the terminal")
		}
		word, err := pass.askNew(ctx, "the file")
		if err != nil {
			return nil, err
		}
		o.Passphrase = word
	}
	return func(w io.Writer) (io.WriteCloser, error) { return pgp.Encrypt(w, o) }, nil
}

// signerPGP is a key of OpenPGP that can sign.
func (a *app) signerPGP(ctx context.Context, folder *keyFolder, said string, pass *passphrases) (*pgp.Key, error) {
	at, err := folder.find(said, pgpSuffix)
	if err != nil {
		return nil, err
	}
	keys, err := readPGP(at)
	if err != nil {
		return nil, err
	}
	if len(keys) != 1 {
		return nil, usagef("%s has %d keys: which signs?", at.file, len(keys))
	}
	if err := unlockPGP(keys[0], pass.ask(ctx, at.said)); err != nil {
		return nil, fmt.Errorf("%s: %w", at.file, err)
	}
	return keys[0], nil
}

func (a *app) decryptCommand() *cobra.Command {
	var folder keyFolder
	var pass passphrases
	var with, by []string
	var out string
	var isPGP bool
	cmd := &cobra.Command{
		Use:     "decrypt [FILE]",
		GroupID: "main",
		Short:   "Open what is encrypted to one of your keys or a passphrase",
		Long: `Open an encrypted file, or standard input: age's format, or with --pgp an OpenPGP message. What is written is authentic: of a file
that was changed or cut short, -o FILE leaves nothing, and a pipe gets what was whole before the damage, then the command fails with
code 3. An OpenPGP message is checked to its end before a pipe gets any of it.

-k names a KEY, or a file of age's keys. With --pgp, --by names a key of OpenPGP that must have signed the message.

` + keysHelp + `

` + passphraseHelp,
		Example: `  quantraband decrypt backup.tar.age -o backup.tar
  quantraband decrypt -k ~/.ssh/id_ed25519 photos.age | tar x
  quantraband decrypt --pgp -k release --by ./bob.asc report.pdf.pgp -o report.pdf`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		src, err := a.openAny(ctx, &input{}, strings.Join(args, ""))
		if err != nil {
			return err
		}
		defer src.Close()
		if isPGP {
			keys, err := folder.keysPGP(with, by)
			if err != nil {
				return err
			}
			return a.decryptPGP(ctx, src, out, keys, by, &folder, &pass)
		}
		if len(by) > 0 {
			return usagef("--by is for --pgp: use quantraband verify")
		}
		identities, err := a.identities(ctx, &folder, with, &pass)
		if err != nil {
			return err
		}
		buffered := bufio.NewReader(src)
		if start, _ := buffered.Peek(15); bytes.HasPrefix(start, []byte("-----BEGIN PGP ")) {
			return usagef("it is an OpenPGP message: add --pgp")
		}
		text, err := seal.Decrypt(buffered, identities...)
		if err != nil {
			return err
		}
		return a.emitText(out, text)
	}
	folder.flags(cmd)
	pass.flags(cmd, false)
	f := cmd.Flags()
	f.StringArrayVarP(&with, "key", "k", nil, "open with this `KEY`; may be repeated (default: the key \"default\", and a passphrase)")
	f.StringArrayVar(&by, "by", nil, "with --pgp, this `KEY` of OpenPGP must have signed it; may be repeated, one is enough")
	f.BoolVar(&isPGP, "pgp", false, "it is an OpenPGP message")
	f.StringVarP(&out, "output", "o", "", "write to `file` (default: standard output)")
	return cmd
}

// emitText writes what was encrypted: a terminal gets text, and nothing that could steer it.
func (a *app) emitText(out string, text io.Reader) error {
	return a.emit(out, false, func(w io.Writer) error {
		if (out == "" || out == "-") && isTerminal(a.stdout) {
			w = forEyes{w}
		}
		_, err := io.Copy(w, text)
		return err
	})
}

// forEyes refuses what is no text.
type forEyes struct{ w io.Writer }

func (f forEyes) Write(p []byte) (int, error) {
	for _, c := range p {
		if c < ' ' && c != '\n' && c != '\t' && c != '\r' || c == 0x7f {
			return 0, usagef("will not write binary data to a terminal: add -o FILE, or redirect standard output")
		}
	}
	return f.w.Write(p)
}

// identities are what opens an age file: the keys that are named, else the one "default" where there is one; and a passphrase.
func (a *app) identities(ctx context.Context, folder *keyFolder, with []string, pass *passphrases) ([]seal.Identity, error) {
	out := []seal.Identity{seal.AskIdentity(pass.ask(ctx, "the file"))}
	named := len(with) > 0
	if !named {
		with = []string{""}
	}
	for _, said := range with {
		at, err := folder.find(said, keySuffix)
		if err != nil {
			return nil, err
		}
		if _, err := os.Lstat(at.file); !named && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		ask := pass.ask(ctx, at.said)
		if at.said == at.file {
			raw, err := seal.ReadSecret(at.file)
			if err != nil {
				return nil, at.error(err)
			}
			if bytes.Contains(raw, []byte("AGE-SECRET-KEY-")) {
				more, err := seal.ParseIdentities(raw, ask)
				clear(raw)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", at.file, err)
				}
				out = append(out, more...)
				continue
			}
			clear(raw)
		}
		info, err := at.info()
		if err != nil {
			return nil, err
		}
		out = append(out, seal.LazyIdentity(info.Public, func() (seal.Key, error) { return at.load(ask) }))
	}
	return out, nil
}

// keysPGP are the keys that open a message and those whose signatures are wanted.
func (k *keyFolder) keysPGP(with, by []string) ([]*pgp.Key, error) {
	var all []*pgp.Key
	for _, said := range append(append([]string{}, with...), by...) {
		at, err := k.find(said, pgpSuffix)
		if err != nil {
			return nil, err
		}
		keys, err := readPGP(at)
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
	if len(with) > 0 {
		return all, nil
	}
	at, err := k.find("", pgpSuffix)
	if err != nil {
		return nil, err
	}
	if _, err := os.Lstat(at.file); err != nil {
		return all, nil // there is none: a passphrase may open it
	}
	keys, err := readPGP(at)
	return append(all, keys...), err
}

func (a *app) decryptPGP(ctx context.Context, src io.Reader, out string, keys []*pgp.Key, by []string, folder *keyFolder, pass *passphrases) error {
	return a.emitWhole(out, func(w io.Writer) error {
		o, err := pgp.Decrypt(w, src, keys, pgp.Passphrase(pass.ask(ctx, "the message or its key")))
		if err != nil {
			return err
		}
		if len(by) == 0 {
			return nil
		}
		wanted, err := folder.keysPGP(by, nil)
		if err != nil {
			return err
		}
		for _, k := range wanted {
			if o.By != nil && k.Fingerprint() == o.By.Fingerprint() {
				return nil
			}
		}
		return pgp.ErrSignature
	})
}

// emitWhole lets write write, and shows nothing of it to anybody until it has succeeded. What goes to a pipe waits in a temporary file,
// encrypted under a key that only this run has.
func (a *app) emitWhole(out string, write func(io.Writer) error) (err error) {
	if out != "" && out != "-" {
		return writeFile(out, write)
	}
	f, err := os.CreateTemp("", "quantra-*.tmp")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	k := seal.NewKey()
	defer k.Wipe()
	to, err := k.Public().Recipient()
	if err != nil {
		return err
	}
	by, err := k.Identity()
	if err != nil {
		return err
	}
	w, err := seal.Encrypt(f, false, to)
	if err != nil {
		return err
	}
	if err := write(w); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	text, err := seal.Decrypt(f, by)
	if err != nil {
		return err
	}
	return a.emitText("", text)
}
