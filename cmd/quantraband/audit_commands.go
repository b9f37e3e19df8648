package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

func (a *app) auditCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "audit",
		GroupID: "main",
		Short:   "The log of what was decided and done: verify, tail, export, prove, key, rotate, prune, who",
		Long: `What a server decides and does to the fleet is in the audit log of its data folder: docs/audit.md. These commands read
that folder; they need no server, and may run beside one. Rotate and prune need the folder for themselves, or --server.`,
		Example: `  quantraband audit tail -f
  quantraband audit verify --since kept.checkpoint`,
	}, a.auditVerify(), a.auditTail(), a.auditExport(), a.auditProve(), a.auditKey(), a.auditRotate(), a.auditPrune(), a.auditWho())
}

// auditQuestion is what the commands have in common.
type auditQuestion struct {
	keyFile string // --audit-key
	keys    []string
}

func (q *auditQuestion) keyFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&q.keyFile, "audit-key", "", "`file` of the log's signing key, as of up")
}

func (q *auditQuestion) trustFlag(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&q.keys, "key", nil, "public `key` of the log that is trusted, or a file of such, one a line (default: that of the signing key, where that is the log's)")
}

// folderOf is the log that is asked about.
func folderOf(args []string) (string, error) {
	if len(args) > 0 {
		return filepath.Abs(args[0])
	}
	dir, err := dataDir("")
	return filepath.Join(dir, auditDir), err
}

// readKeys reads the keys that flags name, as text or as files.
func readKeys(flag string, values []string) (out []audit.PublicKey, err error) {
	for _, v := range values {
		text := v
		if k, err := audit.ParsePublicKey(v); err == nil {
			out = append(out, k)
			continue
		} else if strings.Count(v, "+") < 2 {
			raw, err := readBounded(v, 1<<20)
			if err != nil {
				return nil, usagef("%s: %w", flag, err)
			}
			text = string(raw)
		}
		n := 0
		for line := range strings.Lines(text) {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			k, err := audit.ParsePublicKey(line)
			if err != nil {
				return nil, usagef("%s: %w", flag, err)
			}
			out, n = append(out, k), n+1
		}
		if n == 0 {
			return nil, usagef("%s: there is no key in %s", flag, v)
		}
	}
	return out, nil
}

// readBounded is a file of at most limit bytes; one that is larger is none of ours.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, pathError("read", name, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return b, err
}

// trust is the keys that vouch for the log in dir: those of --key; else that of the signing key, if it is named or has kept a checkpoint
// of this very log, which is kept then, too.
func (q *auditQuestion) trust(dir string) (keys []audit.PublicKey, kept []byte, err error) {
	p, err := placeIn(dir, q.keyFile)
	if err != nil && q.keyFile != "" {
		return nil, nil, err
	}
	if err == nil {
		if kept, err = readBounded(p.anchor, 64<<10); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
	}
	if len(q.keys) > 0 {
		keys, err = readKeys("--key", q.keys)
		return keys, kept, err
	}
	if q.keyFile == "" && kept == nil {
		return nil, nil, nil
	}
	if _, err := os.Lstat(p.key); err != nil { // it is not made here
		return nil, nil, usagef("--audit-key: %w", pathError("read", p.key, err))
	}
	key, err := audit.OpenKey(p.key)
	if err != nil {
		return nil, nil, err
	}
	v, err := audit.OpenView(vfs.Default, dir, nil)
	if err != nil {
		return nil, nil, auditError(err)
	}
	return []audit.PublicKey{{Name: v.Keys()[0].Name, Key: key.Public()}}, kept, nil
}

// view opens the log to read.
func (q *auditQuestion) view(args []string) (*audit.View, error) {
	dir, err := folderOf(args)
	if err != nil {
		return nil, err
	}
	trust, _, err := q.trust(dir)
	if err != nil {
		return nil, err
	}
	v, err := audit.OpenView(vfs.Default, dir, trust)
	return v, auditError(err)
}

// auditError gives an error of the log its code.
func auditError(err error) error {
	if errors.Is(err, audit.ErrBroken) || errors.Is(err, audit.ErrKey) || errors.Is(err, audit.ErrProof) {
		return corruptf("%w", err)
	}
	return err
}

func (a *app) auditVerify() *cobra.Command {
	var q auditQuestion
	var since, witnesses []string
	var proof, archive string
	cmd := &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Say whether an audit log is as it was written, or which entry was altered, removed or moved",
		Long: `Read all of an audit log, and hold it to its signed checkpoint, its keys, and the checkpoints that were kept elsewhere. What is
not as it was written is named, and the code is 3.

Who can write the log's folder can put an older state of it there, or cut it: that shows by a checkpoint that was kept elsewhere.
Copy DIR/checkpoint somewhere else from time to time, and give it with --since.

With --proof it checks a proof that audit prove has written: no log is needed for that, only the public key.`,
		Example: `  quantraband audit verify
  quantraband audit verify /var/lib/quantra/audit --key audit.pub --since kept.checkpoint
  quantraband audit verify --proof entry17.tlog-proof --key audit.pub`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if proof != "" {
			return a.checkProof(&q, proof)
		}
		dir, err := folderOf(args)
		if err != nil {
			return err
		}
		o := audit.VerifyOptions{Archive: archive}
		var kept []byte
		if o.Trust, kept, err = q.trust(dir); err != nil {
			return err
		}
		if kept != nil {
			o.Since = append(o.Since, kept)
		}
		if o.Witnesses, err = readKeys("--witness", witnesses); err != nil {
			return err
		}
		for _, name := range since {
			raw, err := readBounded(name, 64<<10)
			if err != nil {
				return usagef("--since: %w", err)
			}
			o.Since = append(o.Since, raw)
		}
		r, err := audit.Verify(cmd.Context(), vfs.Default, dir, o)
		if err != nil {
			return auditError(err)
		}
		return a.tellReport(dir, &r, len(o.Since))
	}
	q.keyFlag(cmd)
	q.trustFlag(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&since, "since", nil, "`file` with a checkpoint of it that was kept elsewhere: it must have grown from that")
	f.StringArrayVar(&witnesses, "witness", nil, "public `key` of a witness that must have cosigned the checkpoint, or a file of such")
	f.StringVar(&archive, "archive", "", "`folder` that old entries were moved to by audit prune: read them, too")
	f.StringVar(&proof, "proof", "", "check this `file`, which audit prove has written, in place of a log")
	return cmd
}

func (a *app) tellReport(dir string, r *audit.Report, since int) error {
	w := bufio.NewWriter(a.stdout)
	fmt.Fprintf(w, "%s is whole: %d entries of %s\n", dir, r.Checkpoint.Size, r.Checkpoint.Origin)
	fmt.Fprintf(w, "  root %s, %d entries in tiles\n", r.Checkpoint.Root, r.Published)
	if since > 0 {
		fmt.Fprintf(w, "  it grew from %d that were kept elsewhere\n", since)
	}
	if r.Pruned > 0 {
		fmt.Fprintf(w, "  entries ahead of %d were pruned: %d are not here, their hashes are\n", r.Pruned, r.Absent)
	}
	if r.Dropped > 0 {
		fmt.Fprintf(w, "  %d events were not recorded, as the queue was full: the log says when\n", r.Dropped)
	}
	if n := len(r.Keys); n > 1 {
		fmt.Fprintf(w, "  its key was changed %d times, each time by the key before\n", n-1)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if !r.Trusted {
		a.warn("no key was given, so the log was held to the key that it names itself: who can write its folder can have made all of it; give --key")
	}
	return nil
}

func (a *app) checkProof(q *auditQuestion, name string) error {
	if len(q.keys) == 0 {
		return usagef("--proof needs the log's public key: --key")
	}
	trust, err := readKeys("--key", q.keys)
	if err != nil {
		return err
	}
	raw, err := readBounded(name, 1<<20)
	if err != nil {
		return err
	}
	p, err := audit.ParseProof(raw)
	if err != nil {
		return auditError(fmt.Errorf("%s: %w", name, err))
	}
	c, err := p.Check(trust)
	if err != nil {
		return auditError(fmt.Errorf("%s: %w", name, err))
	}
	_, err = fmt.Fprintf(a.stdout, "entry %d is in %s, of %d entries:\n%s\n", p.Index, c.Origin, c.Size, escaped(p.Entry))
	return err
}

func (a *app) auditProve() *cobra.Command {
	var q auditQuestion
	var index int64
	var out string
	cmd := &cobra.Command{
		Use:   "prove [DIR] --index N",
		Short: "Write a proof that an entry is in the log, for who has nothing but the log's public key",
		Long: `Write an entry with the proof that it is in the log (C2SP tlog-proof). It is checked by audit verify --proof, or by any other
program that reads the format, and needs no log for that.`,
		Example: `  quantraband audit prove --index 17 -o entry17.tlog-proof`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			v, err := q.view(args)
			if err != nil {
				return err
			}
			p, err := v.Prove(audit.Index(index))
			if err != nil {
				return auditError(err)
			}
			return a.emit(out, false, func(w io.Writer) error {
				_, err := w.Write(p.Encode())
				return err
			})
		},
	}
	q.keyFlag(cmd)
	q.trustFlag(cmd)
	cmd.Flags().Int64Var(&index, "index", 0, "the entry's number, from 0")
	cmd.Flags().StringVarP(&out, "output", "o", "", "`file` to write to (default: standard output)")
	_ = cmd.MarkFlagRequired("index")
	return cmd
}

func (a *app) auditKey() *cobra.Command {
	return &cobra.Command{
		Use:   "key [DIR]",
		Short: "The log's public keys, the current one last",
		Long: `Write the public keys of a log, one a line, the current one last: what audit verify --key takes. Keep the first, or any of them,
where the log's folder cannot be written: each key is named by the one before, so one is enough.`,
		Example: `  quantraband audit key > audit.pub`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := folderOf(args)
			if err != nil {
				return err
			}
			v, err := audit.OpenView(vfs.Default, dir, nil)
			if err != nil {
				return auditError(err)
			}
			for _, k := range v.Keys() {
				if _, err := fmt.Fprintln(a.stdout, k); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func (a *app) auditRotate() *cobra.Command {
	var q auditQuestion
	var server question
	cmd := &cobra.Command{
		Use:   "rotate [DIR]",
		Short: "Have a new key sign the log from now on, of a folder, or with --server of a server that runs",
		Long: `Make a new signing key, have the old one name it, and put it in the old one's place. Who trusts an old public key can verify the
log as before. The old key is gone then: whoever has a copy can still sign a checkpoint of before, but nothing that follows from this one.`,
		Example: `  quantraband audit rotate
  quantraband audit rotate --server 127.0.0.1:4040`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("server") {
				if len(args) > 0 || q.keyFile != "" {
					return usagef("rotate: --server is in place of a folder and its key")
				}
				return a.askRotate(cmd.Context(), &server)
			}
			dir, err := folderOf(args)
			if err != nil {
				return err
			}
			p, err := placeIn(dir, q.keyFile)
			if err != nil {
				return err
			}
			return a.rotate(p)
		},
	}
	q.keyFlag(cmd)
	server.serverFlags(cmd)
	return cmd
}

// rotate changes the key of a log that no server has.
func (a *app) rotate(p auditPlace) error {
	l, err := rotateKey(p, slog.New(slog.DiscardHandler))
	if l != nil {
		err = errors.Join(err, l.Close())
	}
	if err != nil {
		return heldByServer(err, "rotate")
	}
	_, err = fmt.Fprintf(a.stdout, "%s signs from now on\n", l.Key())
	return err
}

func (a *app) auditPrune() *cobra.Command {
	var q auditQuestion
	var server question
	var before age
	var archive string
	cmd := &cobra.Command{
		Use:   "prune [DIR] --before AGE",
		Short: "Move old entries into an archive, or remove them, of a folder, or with --server of a server that runs; their hashes stay",
		Long: `Remove the entries that are older than an age, in bundles of 256; with --archive they are copied there first. Their hashes stay, so
the log is verified as before, and it says itself what was removed.`,
		Example: `  quantraband audit prune --before 365d --archive /mnt/archive/audit
  quantraband audit prune --before 365d --server 127.0.0.1:4040`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if before <= 0 {
				return usagef("--before %s: it must be an age, as 365d", &before)
			}
			if cmd.Flags().Changed("server") {
				if len(args) > 0 || q.keyFile != "" || archive != "" {
					return usagef("prune: --server is in place of a folder, its key and --archive: the server copies to its own --audit-archive")
				}
				return a.askPrune(cmd.Context(), &server, time.Now().Add(-time.Duration(before)))
			}
			dir, err := folderOf(args)
			if err != nil {
				return err
			}
			p, err := placeIn(dir, q.keyFile)
			if err != nil {
				return err
			}
			for _, name := range []string{p.key, p.dir} {
				if _, err := os.Lstat(name); err != nil {
					return pathError("read", name, err)
				}
			}
			key, err := audit.OpenKey(p.key)
			if err != nil {
				return err
			}
			l, err := audit.Open(audit.Options{Dir: dir, Key: key, Anchor: p.anchor})
			if err != nil {
				return heldByServer(err, "prune")
			}
			done, err := l.Prune(cmd.Context(), time.Now().Add(-time.Duration(before)), archive)
			if err = errors.Join(err, l.Close()); err != nil {
				return auditError(err)
			}
			_, err = fmt.Fprintf(a.stdout, "%d bundles of 256 entries are pruned; entries from %d on are here\n", done.Bundles, done.Next)
			return err
		},
	}
	q.keyFlag(cmd)
	server.serverFlags(cmd)
	cmd.Flags().Var(&before, "before", "entries older than this, as 365d")
	cmd.Flags().StringVar(&archive, "archive", "", "`folder` to copy them to first (default: they are gone)")
	_ = cmd.MarkFlagRequired("before")
	return cmd
}

func (a *app) auditWho() *cobra.Command {
	var q auditQuestion
	var file string
	cmd := &cobra.Command{
		Use:   "who NAME...",
		Short: "The pseudonyms that names of people have in the log",
		Long: `Write the pseudonym of each name (an address of mail, a name of an account): what stands in the log in its place. It needs the key
of pseudonyms, which is beside the log's signing key. Who deletes that key makes all pseudonyms those of nobody, for ever.`,
		Example: `  quantraband audit who ann@example.com
  quantraband audit tail --by ann@example.com`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			names, err := q.pseudonyms(file)
			if err != nil {
				return err
			}
			for _, name := range args {
				if _, err := fmt.Fprintf(a.stdout, "%s %s\n", names.Of(name), plain(name)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	q.keyFlag(cmd)
	cmd.Flags().StringVar(&file, "pseudonyms", "", "`file` of the key of pseudonyms (default: beside --audit-key)")
	return cmd
}

// pseudonyms opens the key, which is not made here.
func (q *auditQuestion) pseudonyms(file string) (audit.Pseudonyms, error) {
	if file == "" {
		key, err := auditKeyPath(q.keyFile)
		if err != nil {
			return audit.Pseudonyms{}, err
		}
		file = filepath.Join(filepath.Dir(key), pseudonymsFile)
	}
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return audit.Pseudonyms{}, fmt.Errorf("%s is not there: without the key nobody can say who a pseudonym is", file)
	}
	return audit.OpenPseudonyms(file)
}
