package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/seal/pgp"
)

func (a *app) keyCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "key",
		GroupID: "main",
		Short:   "Make and keep keys: generate, show, list, import, export, passwd",
		Long: `Make and keep the keys that sign, and that open what is encrypted to them. docs/keys.md shows what to do with them.

` + keysHelp,
		Example: `  quantraband key generate
  quantraband key export --as ssh
  quantraband key list`,
	}, a.keyGenerate(), a.keyShow(), a.keyList(), a.keyImport(), a.keyExport(), a.keyPasswd())
}

// keyRow is what is shown of a key; all of it is public.
type keyRow struct {
	Name        string `json:"name"`
	Kind        string `json:"kind"` // "ed25519" or "openpgp"
	Public      string `json:"public,omitempty"`
	Fingerprint string `json:"fingerprint"`
	User        string `json:"user,omitempty"`
	Passphrase  bool   `json:"passphrase"` // it is encrypted
	File        string `json:"file,omitempty"`
}

func rowOf(p place, i seal.KeyInfo) keyRow {
	return keyRow{Name: p.said, Kind: "ed25519", Public: i.Public.String(), Fingerprint: i.Public.Fingerprint(), Passphrase: i.Encrypted, File: p.file}
}

func rowOfPGP(p place, k *pgp.Key) keyRow {
	return keyRow{Name: p.said, Kind: "openpgp", Fingerprint: k.Fingerprint(), User: plain(k.User()), Passphrase: k.Locked(), File: p.file}
}

func (a *app) showKey(r keyRow, asJSON bool) error {
	if asJSON {
		return writeJSON(a.stdout, r)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", name, value)
		}
	}
	line("name", r.Name)
	line("kind", r.Kind)
	line("user", r.User)
	line("public", r.Public)
	line("fingerprint", r.Fingerprint)
	line("passphrase", map[bool]string{true: "yes", false: "no"}[r.Passphrase])
	line("file", r.File)
	return w.Flush()
}

func (a *app) keyGenerate() *cobra.Command {
	var folder keyFolder
	var pass passphrases
	var asJSON, isPGP bool
	var name, email string
	var expires age
	cmd := &cobra.Command{
		Use:   "generate [KEY]",
		Short: "Make a key",
		Long: `Make an Ed25519 key, in a file that only its user can read, encrypted by a passphrase, or in the system's keyring.
With --pgp it is one of OpenPGP, for its owner's --name and --email. A key that is there is never replaced.

` + keysHelp + `

` + passphraseHelp,
		Example: `  quantraband key generate
  quantraband key generate deploy --passphrase-file ./pass
  quantraband key generate keyring:laptop
  quantraband key generate release --pgp --name 'Ada Lovelace' --email ada@example.test`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		suffix := keySuffix
		if isPGP {
			suffix = pgpSuffix
		} else if name != "" || email != "" || expires != 0 {
			return usagef("--name, --email and --expires are for keys of OpenPGP: add --pgp")
		}
		at, err := folder.findNew(strings.Join(args, ""), suffix)
		if err != nil {
			return err
		}
		if !isPGP {
			k := seal.NewKey()
			defer k.Wipe()
			if err := a.saveKey(cmd.Context(), at, k, &pass); err != nil {
				return err
			}
			return a.showKey(rowOf(at, seal.KeyInfo{Public: k.Public(), Encrypted: at.keyring == "" && !pass.none}), asJSON)
		}
		k, err := pgp.Generate(pgp.Options{Name: name, Email: email, Lifetime: time.Duration(expires)})
		if err != nil {
			return usagef("%w", err)
		}
		if err := a.savePGP(cmd.Context(), at, k, &pass); err != nil {
			return err
		}
		row := rowOfPGP(at, k)
		row.Passphrase = !pass.none
		return a.showKey(row, asJSON)
	}
	folder.flags(cmd)
	pass.flags(cmd, true)
	f := cmd.Flags()
	f.BoolVar(&isPGP, "pgp", false, "make a key of OpenPGP")
	f.StringVar(&name, "name", "", "its owner's `name`, with --pgp")
	f.StringVar(&email, "email", "", "its owner's `address`, with --pgp")
	f.Var(&expires, "expires", "how long it is valid, with --pgp, as 365d; without it for ever")
	f.BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

// findNew is where a key will be, which must be free.
func (k *keyFolder) findNew(said, suffix string) (place, error) {
	at, err := k.find(said, suffix)
	if err != nil || at.file == "" {
		return at, err
	}
	if _, err := os.Lstat(at.file); err == nil {
		return at, fmt.Errorf("%s is there already: it is not replaced. Take another name, or move it away", at.file)
	}
	if at.said != at.file {
		if err := os.MkdirAll(filepath.Dir(at.file), 0o700); err != nil {
			return at, pathError("make", filepath.Dir(at.file), err)
		}
	}
	return at, nil
}

func (a *app) saveKey(ctx context.Context, at place, k seal.Key, pass *passphrases) error {
	if at.keyring != "" {
		return seal.SaveKeyring(at.keyring, k, false)
	}
	word, err := pass.askNew(ctx, at.said)
	if err != nil {
		return err
	}
	defer clear(word)
	return pathOf(at.file, seal.SaveKey(at.file, k, seal.KeyOptions{Passphrase: word}))
}

func (a *app) savePGP(ctx context.Context, at place, k *pgp.Key, pass *passphrases) error {
	word, err := pass.askNew(ctx, at.said)
	if err != nil {
		return err
	}
	defer clear(word)
	var b bytes.Buffer
	if err := k.WriteSecret(&b, word); err != nil {
		return err
	}
	defer clear(b.Bytes())
	return pathOf(at.file, seal.WriteSecret(at.file, b.Bytes(), false))
}

func (a *app) keyShow() *cobra.Command {
	var folder keyFolder
	var asJSON, isPGP bool
	cmd := &cobra.Command{
		Use:   "show [KEY]",
		Short: "What a key is: its public part, fingerprint and place",
		Long: `Show what a key is. Nothing secret is shown, and no passphrase is asked for: of an encrypted key it is what its file says.

` + keysHelp,
		Example: `  quantraband key show
  quantraband key show ./deploy.key --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			said := strings.Join(args, "")
			if isPGP {
				at, err := folder.find(said, pgpSuffix)
				if err != nil {
					return err
				}
				keys, err := readPGP(at)
				if err != nil {
					return err
				}
				return a.showKey(rowOfPGP(at, keys[0]), asJSON)
			}
			at, err := folder.find(said, keySuffix)
			if err != nil {
				return err
			}
			info, err := at.info()
			if err != nil {
				return err
			}
			return a.showKey(rowOf(at, info), asJSON)
		},
	}
	folder.flags(cmd)
	cmd.Flags().BoolVar(&isPGP, "pgp", false, "it is a key of OpenPGP")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

// readPGP are the keys of OpenPGP in a file: at least one. A file with secrets must be its user's alone.
func readPGP(at place) ([]*pgp.Key, error) {
	raw, err := os.ReadFile(at.file)
	if err != nil {
		return nil, at.error(pathOf(at.file, err))
	}
	keys, err := pgp.ReadKeys(raw)
	clear(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at.file, err)
	}
	for _, k := range keys {
		if k.Secret() {
			raw, err := seal.ReadSecret(at.file)
			clear(raw)
			if err != nil {
				return nil, err
			}
			break
		}
	}
	return keys, nil
}

func (a *app) keyList() *cobra.Command {
	var folder keyFolder
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "The keys that are there",
		Long:  "List the keys of the folder of keys. What is no key, or could be read by others, is warned of.",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			dir, err := folder.path()
			if err != nil {
				return err
			}
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return pathError("read", dir, err)
			}
			rows := []keyRow{}
			for _, e := range entries {
				row, err := listed(dir, e.Name())
				if err != nil {
					a.warn(err.Error())
				} else if row.Name != "" {
					rows = append(rows, row)
				}
			}
			if asJSON {
				return writeJSON(a.stdout, rows)
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, r.Kind, r.Fingerprint, r.Public+r.User)
			}
			return w.Flush()
		},
	}
	folder.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

// listed is the row of a file in the folder of keys; one without a name is of a file that is none.
func listed(dir, file string) (keyRow, error) {
	at := place{file: filepath.Join(dir, file)}
	if name, ok := strings.CutSuffix(file, keySuffix); ok && keyNames.MatchString(name) {
		at.said = name
		info, err := at.info()
		return rowOf(at, info), err
	}
	if name, ok := strings.CutSuffix(file, pgpSuffix); ok && keyNames.MatchString(name) {
		at.said = name
		keys, err := readPGP(at)
		if err != nil {
			return keyRow{}, err
		}
		return rowOfPGP(at, keys[0]), nil
	}
	return keyRow{}, nil
}

func (a *app) keyImport() *cobra.Command {
	var folder keyFolder
	var pass, old passphrases
	var in input
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import KEY FILE",
		Short: "Take a key of OpenSSH, OpenSSL or OpenPGP into the folder of keys",
		Long: `Take a secret key into the folder of keys: OpenSSH's or PKCS #8 in PEM (both Ed25519), a key file of quantraband's, or one of
OpenPGP, which stays one. The passphrase that it has is asked for at the terminal, or is the first line of --old-passphrase-file.

` + passphraseHelp,
		Example: `  quantraband key import laptop ~/.ssh/id_ed25519
  gpg --export-secret-keys ada@example.test | quantraband key import ada - --no-passphrase`,
		Args: cobra.ExactArgs(2),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		raw, err := a.readSmall(cmd.Context(), &in, args[1])
		if err != nil {
			return err
		}
		defer clear(raw)
		if raw[0]&0x80 != 0 || bytes.Contains(raw, []byte("-----BEGIN PGP ")) {
			return a.importPGP(cmd.Context(), &folder, args[0], raw, &old, &pass, asJSON)
		}
		at, err := folder.findNew(args[0], keySuffix)
		if err != nil {
			return err
		}
		k, err := seal.DecodeKey(raw, old.ask(cmd.Context(), args[1]))
		if err != nil {
			return fmt.Errorf("%s: %w", args[1], err)
		}
		defer k.Wipe()
		if err := a.saveKey(cmd.Context(), at, k, &pass); err != nil {
			return err
		}
		return a.showKey(rowOf(at, seal.KeyInfo{Public: k.Public(), Encrypted: at.keyring == "" && !pass.none}), asJSON)
	}
	folder.flags(cmd)
	pass.flags(cmd, true)
	old.fd = -1
	cmd.Flags().StringVar(&old.file, "old-passphrase-file", "", "the passphrase that the key has is the first line of `file`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) importPGP(ctx context.Context, folder *keyFolder, said string, raw []byte, old, pass *passphrases, asJSON bool) error {
	at, err := folder.findNew(said, pgpSuffix)
	if err != nil {
		return err
	}
	keys, err := pgp.ReadKeys(raw)
	if err != nil {
		return err
	}
	if len(keys) != 1 {
		return usagef("%d keys are in it: import one at a time", len(keys))
	}
	k := keys[0]
	if !k.Secret() { // a public key, to encrypt to and verify by
		var b bytes.Buffer
		if err := k.WritePublic(&b); err != nil {
			return err
		}
		if err := seal.WriteSecret(at.file, b.Bytes(), false); err != nil {
			return pathOf(at.file, err)
		}
		return a.showKey(rowOfPGP(at, k), asJSON)
	}
	if err := unlockPGP(k, old.ask(ctx, k.Fingerprint())); err != nil {
		return err
	}
	if err := a.savePGP(ctx, at, k, pass); err != nil {
		return err
	}
	row := rowOfPGP(at, k)
	row.Passphrase = !pass.none
	return a.showKey(row, asJSON)
}

func unlockPGP(k *pgp.Key, ask seal.Passphrase) error {
	if !k.Locked() {
		return nil
	}
	word, err := ask()
	if err != nil {
		return err
	}
	defer clear(word)
	return k.Unlock(word)
}

// readSmall is a key's or a signature's file, or standard input.
func (a *app) readSmall(ctx context.Context, in *input, name string) ([]byte, error) {
	const most = 1 << 20
	src, err := a.openAny(ctx, in, name)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	raw, err := io.ReadAll(io.LimitReader(src, most+1))
	switch {
	case err != nil:
		return nil, pathError("read", name, err)
	case len(raw) == 0:
		return nil, corruptf("%s is empty", name)
	case len(raw) > most:
		return nil, corruptf("%s has more than %d bytes", name, most)
	}
	return raw, nil
}

func (a *app) keyExport() *cobra.Command {
	var folder keyFolder
	var pass passphrases
	var as, out string
	cmd := &cobra.Command{
		Use:   "export [KEY]",
		Short: "Write a key for another program",
		Long: `Write a key in the form that another program reads.

    public      43 characters, as agents name their keys (the default)
    ssh         a line as in OpenSSH's authorized_keys, and a recipient of age
    openssh     the secret key as ssh-keygen writes it, without a passphrase
    pkcs8       the secret key in PKCS #8, as openssl pkey reads it
    pgp         the public part of a key of OpenPGP
    pgp-secret  a key of OpenPGP with its secrets, as it is in its file

Secret keys are refused to a terminal, and are in a file (-o) that only its user can read.

` + keysHelp + `

` + passphraseHelp,
		Example: `  quantraband key export --as ssh
  quantraband key export deploy --as openssh -o id_ed25519
  quantraband key export release --as pgp > release.asc`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		said := strings.Join(args, "")
		raw, isSecret, err := folder.export(said, as, pass.ask(cmd.Context(), said))
		if err != nil {
			return err
		}
		defer clear(raw)
		switch {
		case isSecret && out != "" && out != "-":
			if err := seal.WriteSecret(out, raw, false); err != nil {
				return pathOf(out, err)
			}
			return nil
		case isSecret && isTerminal(a.stdout):
			return usagef("will not show a secret key on a terminal: add -o FILE")
		}
		return a.emit(out, false, func(w io.Writer) error {
			_, err := w.Write(raw)
			return err
		})
	}
	folder.flags(cmd)
	pass.flags(cmd, false)
	cmd.Flags().StringVar(&as, "as", "public", "`form` of the key")
	cmd.Flags().StringVarP(&out, "output", "o", "", "write to `file` (default: standard output)")
	return cmd
}

// export is a key in the form that as names.
func (k *keyFolder) export(said, as string, ask seal.Passphrase) (raw []byte, isSecret bool, err error) {
	switch as {
	case "pgp", "pgp-secret":
		at, err := k.find(said, pgpSuffix)
		if err != nil {
			return nil, false, err
		}
		keys, err := readPGP(at)
		if err != nil {
			return nil, false, err
		}
		if as == "pgp-secret" {
			if !keys[0].Secret() {
				return nil, false, fmt.Errorf("%s has only the public part of the key", at.file)
			}
			raw, err := seal.ReadSecret(at.file)
			return raw, true, err
		}
		var b bytes.Buffer
		err = keys[0].WritePublic(&b)
		return b.Bytes(), false, err
	case "public", "ssh", "openssh", "pkcs8":
	default:
		return nil, false, usagef("--as %q: it must be public, ssh, openssh, pkcs8, pgp or pgp-secret", as)
	}
	at, err := k.find(said, keySuffix)
	if err != nil {
		return nil, false, err
	}
	if as == "public" || as == "ssh" {
		info, err := at.info()
		if err != nil {
			return nil, false, err
		}
		text := info.Public.String()
		if as == "ssh" {
			text = info.Public.SSH()
		}
		return []byte(text + "\n"), false, nil
	}
	key, err := at.load(ask)
	if err != nil {
		return nil, false, err
	}
	defer key.Wipe()
	if as == "openssh" {
		raw, err = seal.EncodeOpenSSH(key, "", nil)
	} else {
		raw, err = seal.EncodePKCS8(key)
	}
	return raw, true, err
}

func (a *app) keyPasswd() *cobra.Command {
	var folder keyFolder
	var pass, old passphrases
	cmd := &cobra.Command{
		Use:   "passwd [KEY]",
		Short: "Give a key another passphrase",
		Long: `Give a key another passphrase, or none with --no-passphrase. The one it has is asked for at the terminal, or is the first line
of --old-passphrase-file. Copies of the file that are elsewhere keep the old one.

` + keysHelp + `

` + passphraseHelp,
		Example: `  quantraband key passwd
  quantraband key passwd deploy --old-passphrase-file ./old --passphrase-file ./new`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := folder.find(strings.Join(args, ""), keySuffix)
		if err != nil {
			return err
		}
		if at.keyring != "" {
			return usagef("%s: the keyring's keys have its passphrase", at.said)
		}
		k, err := at.load(old.ask(cmd.Context(), at.said))
		if err != nil {
			return err
		}
		defer k.Wipe()
		word, err := pass.askNew(cmd.Context(), at.said)
		if err != nil {
			return err
		}
		defer clear(word)
		return pathOf(at.file, seal.SaveKey(at.file, k, seal.KeyOptions{Passphrase: word, Replace: true}))
	}
	folder.flags(cmd)
	pass.flags(cmd, true)
	old.fd = -1
	cmd.Flags().StringVar(&old.file, "old-passphrase-file", "", "the passphrase that the key has is the first line of `file`")
	return cmd
}
