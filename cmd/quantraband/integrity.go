package main

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/integrity"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust/audit"
)

// What lies in the data folder.
const (
	integrityDir     = "integrity"     // the baselines
	integrityKeyFile = "integrity.key" // what they are signed with, unless --key names another
	approvalsDir     = "approvals"
)

// integrityOptions are the flags that all commands on files have.
type integrityOptions struct {
	data, store, key, public string
	rules                    string
	atLeast                  string
	keyFile                  string // that key or the default names, once open has been called
	json                     bool
	rate                     byteSize
	background               bool
}

func (o *integrityOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "`folder` of data (default: quantra in the user's data home)")
	f.StringVar(&o.store, "store", "", "`folder` of baselines (default: "+integrityDir+" in the folder of data)")
	f.StringVar(&o.key, "key", "", "`file` of the key that baselines are signed with (default: "+integrityKeyFile+" in the folder of data, made with the first baseline)")
	f.StringVar(&o.rules, "rules", "", "`file` of rules that say how bad a change is: docs/integrity.md")
	f.BoolVar(&o.json, "json", false, "write JSON")
}

func (o *integrityOptions) readFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.public, "public", "", "the `key` that baselines must be signed with, as `integrity baseline` says it, where --key is kept elsewhere")
	cmd.Flags().StringVar(&o.atLeast, "at-least", "", "a baseline, as `N:HASH`, that was in force: an older one is refused")
}

func (o *integrityOptions) paceFlags(cmd *cobra.Command) {
	cmd.Flags().Var(&o.rate, "rate", "read at most so much a second, as 100MB")
	cmd.Flags().BoolVar(&o.background, "background", true, "leave processors and disks to all other programs first")
}

// open is the store that the flags name. With makeKey a missing default key is made.
func (o *integrityOptions) open(makeKey bool) (*integrity.Store, *integrity.Rules, error) {
	if o.data == "" && o.store != "" && (o.key != "" || o.public != "") {
		o.data = filepath.Dir(o.store) // nothing of it is asked for
	}
	dir, err := dataDir(o.data)
	if err != nil {
		return nil, nil, err
	}
	rules, err := readIntegrityRules(o.rules)
	if err != nil {
		return nil, nil, err
	}
	o.keyFile = cmp.Or(o.key, filepath.Join(dir, integrityKeyFile))
	s, err := openIntegrityStore(cmp.Or(o.store, filepath.Join(dir, integrityDir)), o.keyFile, o.public, makeKey && o.key == "")
	return s, rules, err
}

func readIntegrityRules(name string) (*integrity.Rules, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, usagef("--rules: %w", err)
	}
	defer f.Close()
	rules, err := integrity.ReadRules(f)
	if err != nil {
		return nil, usagef("--rules %s: %w", name, err)
	}
	return rules, nil
}

// openIntegrityStore gives a store its key: a file to sign with, or a public key ("": the file's) that signatures must be of.
func openIntegrityStore(dir, name, public string, makeKey bool) (*integrity.Store, error) {
	s := &integrity.Store{Dir: dir}
	var pub seal.PublicKey
	if public != "" {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(public)
		if err != nil || len(raw) != len(pub) {
			return nil, usagef("--public %q: it must be %d bytes in base64url without padding (43 characters)", public, len(pub))
		}
		copy(pub[:], raw)
	}
	if makeKey {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return nil, err
		}
	}
	key, err := keyIn(name, makeKey, nil)
	switch {
	case err == nil:
		if public == "" {
			pub = key.Public()
		}
		s.Sign = func(domain string, message []byte) ([]byte, error) {
			sig, err := key.Sign(domain, message)
			return sig[:], err
		}
		s.Record = func(ctx context.Context, e integrity.Event) error {
			return recordApproval(ctx, filepath.Join(dir, approvalsDir), key, e)
		}
	case errors.Is(err, fs.ErrNotExist) && public != "":
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w; make a baseline first (`quantraband integrity baseline`), or name the key with --key or --public", err)
	default:
		return nil, err
	}
	s.Verify = func(domain string, message, signature []byte) error {
		if len(signature) != seal.SignatureSize {
			return seal.ErrSignature
		}
		return pub.Verify(domain, message, seal.Signature(signature))
	}
	return s, nil
}

// recordApproval writes what was approved into a transparency log of its own beside the baselines, before it is in force. The store's lock is
// held: nobody else appends. The log's key is made of the baselines' (HKDF, RFC 5869), as one that signs checkpoints shall sign nothing else.
func recordApproval(ctx context.Context, dir string, key seal.Key, e integrity.Event) error {
	seed, err := hkdf.Key(sha256.New, key.Seed(), nil, "quantra integrity approvals v1", 32)
	if err != nil {
		return err
	}
	own, err := seal.KeyFromSeed(seed)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	log, err := audit.Open(audit.Options{Dir: dir, Key: own})
	if err != nil {
		return err
	}
	_, err = log.Append(ctx, raw, true)
	return errors.Join(err, log.Close())
}

// integrityError gives an error its code: 1 is that something changed, so what has no code of its own is 4.
func integrityError(err error) error {
	var coded *codedError
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case errors.Is(err, integrity.ErrCorrupt), errors.Is(err, integrity.ErrSignature), errors.Is(err, integrity.ErrRollback):
		return &codedError{exitCorrupt, err}
	case exitCode(err) == exitFailed:
		return &codedError{exitUnavailable, err}
	}
	return err
}

func (a *app) integrityCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "integrity",
		GroupID: "main",
		Short:   "Say which files changed since a signed baseline: baseline, check, watch, diff, approve",
		Long: `Make a signed list of what files are, and say what changed since: bytes, rights, owners, links, attributes,
what came and what went. docs/integrity.md says what is seen, and what is not.

These commands end with code 0 where nothing changed, 1 where something did, and others where they could not look:
3 where the baseline is corrupt, not rightly signed or too old, 4 where there is none or a file system fails, 5 where
another process makes one or watches, 6 where some of it could not be told.`,
		Example: `  quantraband integrity baseline /etc /usr/bin
  quantraband integrity check
  quantraband integrity approve /etc/hosts`,
	}, a.integrityBaseline(), a.integrityCheck(), a.integrityWatch(), a.integrityDiff(), a.integrityApprove())
}

func (a *app) integrityBaseline() *cobra.Command {
	var o integrityOptions
	var h integrity.Header
	var algorithm string
	var replace bool
	cmd := &cobra.Command{
		Use:   "baseline [PATH...]",
		Short: "Make a signed baseline of files as they are now",
		Long: `Read all files at the paths and below, and sign what they are. Without a path these are this program and the keys in
the folder of data. A path that is a link is watched together with what it leads to. What is mounted below a path is
left out, unless --cross-mounts is given.

It prints the public key and the baseline's mark, its number and hash: kept elsewhere, they show by --public and
--at-least that nobody put another baseline in its place.`,
		Example: `  quantraband integrity baseline /etc /usr --exclude /etc/mtab --exclude '**/__pycache__'
  quantraband integrity baseline --replace /etc        # what changed since is taken as right`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return integrityError(a.makeBaseline(cmd.Context(), &o, h, algorithm, args, replace))
		},
	}
	o.flags(cmd)
	o.paceFlags(cmd)
	cmd.Flags().StringArrayVar(&h.Exclude, "exclude", nil, "`pattern` of paths that are left out, with all below: * is within a name, ** across them")
	cmd.Flags().BoolVar(&h.CrossMounts, "cross-mounts", false, "go into what is mounted below the paths")
	cmd.Flags().StringVar(&algorithm, "hash", integrity.BLAKE3.String(), "`name` of the hash: blake3 or sha256")
	cmd.Flags().BoolVar(&replace, "replace", false, "put it in the place of the one in force")
	return cmd
}

func (o *integrityOptions) look() integrity.Look {
	if o.background {
		// Where the system refuses it looks with the claim it has.
		_ = integrity.Background()
	}
	return integrity.Look{Pace: integrity.Pace{BytesPerSecond: int64(o.rate)}}
}

func (a *app) makeBaseline(ctx context.Context, o *integrityOptions, h integrity.Header, algorithm string, paths []string, replace bool) error {
	var err error
	if h.Algorithm, err = integrity.ParseAlgorithm(algorithm); err != nil {
		return usagef("--hash: %w", err)
	}
	s, _, err := o.open(true)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		dir, err := dataDir(o.data)
		if err != nil {
			return err
		}
		if paths, err = ownFiles(dir); err != nil {
			return err
		}
	}
	if h.Roots, err = integrity.Roots(paths); err != nil {
		return usagef("%w", err)
	}
	made, err := s.Create(ctx, h, o.look(), replace)
	if err != nil {
		return err
	}
	private, err := keyIn(o.keyFile, false, nil)
	if err != nil {
		return err
	}
	public := private.Public()
	key := keyName(public[:])
	if o.json {
		return writeJSON(a.stdout, struct {
			*integrity.Made
			Public string `json:"public"`
		}{made, key})
	}
	for _, p := range made.Problems {
		a.warn(p.Error())
	}
	_, err = fmt.Fprintf(a.stdout, "%d entries, %d files read (%s) in %.1f s\nbaseline %s\npublic   %s\n", made.Entries, made.Hashed, sizeText(made.Bytes), made.Seconds, made.Baseline, key)
	return err
}

// ownFiles are this program and the keys in the folder of data, and further files that are given and there.
func ownFiles(dir string, more ...string) ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	keys, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil {
		return nil, err
	}
	return append(append([]string{exe}, keys...), slices.DeleteFunc(more, func(f string) bool { return f == "" })...), nil
}

func (o *integrityOptions) baseline(s *integrity.Store) (*integrity.Baseline, error) {
	floor, err := integrity.ParseMark(o.atLeast)
	if err != nil {
		return nil, usagef("--at-least %q: %w", o.atLeast, err)
	}
	return s.Open(floor)
}

func (a *app) integrityCheck() *cobra.Command {
	var o integrityOptions
	var quick bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what changed since the baseline (code 1), or that nothing did (0)",
		Long: `Compare files with the baseline in force. Every file is read, unless --quick is given: then those whose size, inode and
times are the baseline's are taken as unchanged. The change time is the kernel's, so only who sets the clock or writes
below the file system can hide from that.`,
		Example: `  quantraband integrity check
  quantraband integrity check --quick --json
  quantraband integrity check --public K... --at-least 7:9f86...`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.checkFiles(cmd.Context(), &o, !quick)
			if err != nil {
				return integrityError(err)
			}
			return a.sayReport(r, o.json)
		},
	}
	o.flags(cmd)
	o.readFlags(cmd)
	o.paceFlags(cmd)
	cmd.Flags().BoolVar(&quick, "quick", false, "do not read files whose size, inode and times are the baseline's")
	return cmd
}

func (a *app) checkFiles(ctx context.Context, o *integrityOptions, full bool) (r *integrity.Report, err error) {
	s, rules, err := o.open(false)
	if err != nil {
		return nil, err
	}
	b, err := o.baseline(s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	l := o.look()
	l.Full, l.Rules = full, rules
	return b.Check(ctx, l)
}

// sayReport writes what was found, and is the exit code's error.
func (a *app) sayReport(r *integrity.Report, asJSON bool) error {
	if asJSON {
		if err := writeJSON(a.stdout, r); err != nil {
			return err
		}
	} else {
		for _, c := range r.Changes {
			if _, err := fmt.Fprintf(a.stdout, "%s  %s\n", c.ID(), c); err != nil {
				return err
			}
		}
		for _, p := range r.Problems {
			a.warn(p.Error())
		}
	}
	problems := len(r.Problems) + r.MoreProblems
	switch n := len(r.Changes) + r.More; {
	case n > 0:
		return &codedError{exitFailed, fmt.Errorf("%d of %d entries changed since baseline %d", n, r.Entries, r.Baseline.Number)}
	case problems > 0:
		return undecidedf("nothing changed among what could be looked at; of %d paths that could not be told", problems)
	case asJSON:
		return nil
	}
	_, err := fmt.Fprintf(a.stdout, "nothing changed: %d entries are as in baseline %s; %d files read (%s) in %.1f s\n", r.Entries, r.Baseline, r.Hashed, sizeText(r.Bytes), r.Seconds)
	return err
}

func (a *app) integrityWatch() *cobra.Command {
	var o integrityOptions
	var m integrity.Options
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Keep watching, and say each change as it happens",
		Long: `Look at everything, and then at what the kernel tells of: by fanotify, which tells which process it was (root only), else
by inotify, else from time to time. It says each change once, and says it when a file is as it was again. Where the
kernel drops events everything is looked at. Interrupt it to end it: with code 0 where nothing differs then, or 1.`,
		Example: `  quantraband integrity watch
  quantraband integrity watch --json --rehash 6h | jq .`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return integrityError(a.watchFiles(cmd.Context(), &o, m)) },
	}
	o.flags(cmd)
	o.readFlags(cmd)
	o.paceFlags(cmd)
	f := cmd.Flags()
	f.DurationVar(&m.Every, "every", 10*time.Minute, "look at everything by its times so often, also where the kernel tells")
	f.DurationVar(&m.Poll, "poll", time.Minute, "the same where it does not tell, or not of all")
	f.DurationVar(&m.Rehash, "rehash", 24*time.Hour, "read every file so often")
	f.DurationVar(&m.Settle, "settle", 250*time.Millisecond, "leave a file alone for so long after an event before it is looked at")
	f.BoolVar(&m.Blind, "no-events", false, "do without the kernel's events")
	return cmd
}

func (a *app) watchFiles(ctx context.Context, o *integrityOptions, m integrity.Options) error {
	s, rules, err := o.open(false)
	if err != nil {
		return err
	}
	if m.Floor, err = integrity.ParseMark(o.atLeast); err != nil {
		return usagef("--at-least %q: %w", o.atLeast, err)
	}
	if m.Every <= 0 || m.Poll <= 0 || m.Settle <= 0 || m.Rehash <= 0 {
		return usagef("--every, --poll, --settle and --rehash must be more than 0")
	}
	m.Store, m.Look = s, o.look()
	m.Look.Rules = rules
	m.Logger = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	m.Record = func(_ context.Context, e integrity.Event) error {
		if o.json {
			return json.NewEncoder(a.stdout).Encode(e)
		}
		_, err := fmt.Fprintf(a.stdout, "%s %s\n", e.Time.Format(time.RFC3339), e)
		return err
	}
	monitor, err := integrity.NewMonitor(m)
	if err != nil {
		return err
	}
	if err := monitor.Run(ctx); err != nil {
		return err
	}
	if st := monitor.Status(); st.Changes > 0 {
		return &codedError{exitFailed, fmt.Errorf("%d entries differ from baseline %d", st.Changes, st.Baseline.Number)}
	}
	return nil
}

func (a *app) integrityDiff() *cobra.Command {
	var o integrityOptions
	cmd := &cobra.Command{
		Use:     "diff [OLD [NEW]]",
		Short:   "Say how two baselines differ (code 1), by their numbers",
		Long:    `Compare two baselines of the store: the one in force with the one before, with OLD, or NEW with OLD.`,
		Example: "  quantraband integrity diff\n  quantraband integrity diff 3 5 --json",
		Args:    cobra.MaximumNArgs(2),
		RunE:    func(_ *cobra.Command, args []string) error { return integrityError(a.diffBaselines(&o, args)) },
	}
	o.flags(cmd)
	o.readFlags(cmd)
	return cmd
}

func (a *app) diffBaselines(o *integrityOptions, args []string) (err error) {
	s, rules, err := o.open(false)
	if err != nil {
		return err
	}
	var numbers []uint64
	for _, arg := range args {
		n, err := strconv.ParseUint(arg, 10, 64)
		if err != nil || n == 0 {
			return usagef("%q is no number of a baseline", arg)
		}
		numbers = append(numbers, n)
	}
	now, err := o.baseline(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, now.Close()) }()
	if len(numbers) == 2 {
		newer, err := s.OpenNumber(numbers[1])
		if err != nil {
			return err
		}
		now, err = newer, now.Close()
		if err != nil {
			return err
		}
	}
	if len(numbers) == 0 {
		if now.Number == 1 {
			return usagef("baseline 1 is the first: there is none before it")
		}
		numbers = []uint64{now.Number - 1}
	}
	old, err := s.OpenNumber(numbers[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	changes, err := now.Diff(old, rules)
	if err != nil {
		return err
	}
	if o.json {
		if err := writeJSON(a.stdout, append([]*integrity.Change{}, changes...)); err != nil {
			return err
		}
	} else {
		for _, c := range changes {
			if _, err := fmt.Fprintln(a.stdout, c); err != nil {
				return err
			}
		}
	}
	if len(changes) > 0 {
		return &codedError{exitFailed, fmt.Errorf("baseline %d has %d changes since baseline %d", now.Number, len(changes), old.Number)}
	}
	return nil
}

func (a *app) integrityApprove() *cobra.Command {
	var o integrityOptions
	var all bool
	cmd := &cobra.Command{
		Use:   "approve ID|PATH... | --all",
		Short: "Take changes as right: a new baseline has them",
		Long: `Look at everything, and sign a new baseline that has the changes named, and else is the old one. An ID, as check says it,
names one change as it was seen: where the file has changed further since, it is refused. A path names what changed
there and below, whatever it is now. What is written down in ` + approvalsDir + ` of the store before the new baseline is in
force, with its mark.`,
		Example: `  quantraband integrity approve 5d41402abc4b2a76b9719d911017c592
  quantraband integrity approve /etc/hosts /usr/lib/python3`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return integrityError(a.approveChanges(cmd.Context(), &o, args, all))
		},
	}
	o.flags(cmd)
	o.readFlags(cmd)
	o.paceFlags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "all that changed")
	return cmd
}

func (a *app) approveChanges(ctx context.Context, o *integrityOptions, names []string, all bool) (err error) {
	if all == (len(names) > 0) {
		return usagef("say what: IDs of changes, paths, or --all")
	}
	s, _, err := o.open(false)
	if err != nil {
		return err
	}
	if s.Sign == nil {
		return usagef("approving takes the key: name it with --key")
	}
	b, err := o.baseline(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	l := o.look()
	l.Full = true
	// Rules that ignore a change do not keep it from being approved.
	r, err := b.Check(ctx, l)
	if err != nil {
		return err
	}
	chosen := r.Changes
	if !all {
		if chosen, err = chooseChanges(r.Changes, names); err != nil {
			return err
		}
	}
	if len(chosen) == 0 {
		return usagef("nothing changed: there is nothing to approve")
	}
	mark, err := s.Approve(ctx, b, chosen)
	if err != nil {
		return err
	}
	if o.json {
		return writeJSON(a.stdout, struct {
			Baseline integrity.Mark      `json:"baseline"`
			Approved []*integrity.Change `json:"approved"`
		}{mark, chosen})
	}
	for _, c := range chosen {
		if _, err := fmt.Fprintln(a.stdout, c); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(a.stdout, "%d of %d changes approved\nbaseline %s\n", len(chosen), len(r.Changes), mark)
	return err
}

// chooseChanges are those that are named, each of which must be there.
func chooseChanges(changes []*integrity.Change, names []string) ([]*integrity.Change, error) {
	var chosen []*integrity.Change
	taken := map[*integrity.Change]bool{}
	for _, name := range names {
		abs := name
		id := len(name) == 32 && !strings.ContainsAny(name, `/\`)
		if !id {
			var err error
			if abs, err = filepath.Abs(name); err != nil {
				return nil, err
			}
			// As roots are: the folders on the way are resolved, where they are still there.
			if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
				abs = filepath.Join(dir, filepath.Base(abs))
			}
			abs = filepath.ToSlash(abs)
		}
		found := false
		for _, c := range changes {
			if id && c.ID() == name || !id && c.Within(abs) {
				found = true
				if !taken[c] {
					taken[c] = true
					chosen = append(chosen, c)
				}
			}
		}
		switch {
		case found:
		case id:
			return nil, usagef("no change has the ID %s now: the file may have changed further; check again", name)
		default:
			return nil, usagef("nothing changed at %s or below", name)
		}
	}
	return chosen, nil
}

// watchOwnFiles watches the files of the baseline in the data folder, or the server's own, until the function that it returns is called. Events go
// into the audit log, and what is worse than a note into the log of the server as well.
func watchOwnFiles(ctx context.Context, dir string, o upOptions, audit *auditLog, alerts *fileAlerts, log *slog.Logger) (stop func(), err error) {
	if !o.integrity && o.integrityRules == "" {
		return func() {}, nil
	}
	rules, err := readIntegrityRules(o.integrityRules)
	if err != nil {
		return nil, err
	}
	s, err := openIntegrityStore(filepath.Join(dir, integrityDir), filepath.Join(dir, integrityKeyFile), "", true)
	if err != nil {
		return nil, err
	}
	switch _, err := s.Head(); {
	case errors.Is(err, integrity.ErrNone):
		paths, err := ownFiles(dir, o.agentKeys, o.alerts, o.prices, o.machines, o.policy, o.integrityRules)
		if err != nil {
			return nil, err
		}
		roots, err := integrity.Roots(paths)
		if err != nil {
			return nil, err
		}
		made, err := s.Create(ctx, integrity.Header{Roots: roots}, integrity.Look{}, false)
		if err != nil {
			return nil, err
		}
		log.Info("a baseline of this server's own files was made: what they are now is taken as right", "baseline", made.Baseline, "files", made.Hashed)
	case err != nil:
		return nil, err
	}
	m, err := integrity.NewMonitor(integrity.Options{
		Store: s, Look: integrity.Look{Rules: rules, Pace: integrity.Pace{Yield: true}}, Logger: log,
		Record: func(ctx context.Context, e integrity.Event) error {
			err := audit.files(ctx, e)
			if err == nil {
				alerts.count(e)
			}
			return err
		},
		Alert: alerts.alert,
	})
	if err != nil {
		return nil, err
	}
	stopTelling := inBackground(ctx, alerts.run)
	stopWatching := inBackground(ctx, func(ctx context.Context) {
		if err := m.Run(ctx); err != nil {
			log.Error("files are not watched", "err", err)
		}
	})
	return func() {
		stopWatching()
		stopTelling()
	}, nil
}
