package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
)

// The PEM types of what this command writes.
const (
	pemIdentity    = "QUANTRA IDENTITY"
	pemRevocations = "QUANTRA REVOCATIONS"
	maxIdentity    = 64 << 10 // bytes of a document's file
)

func (a *app) identityCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "identity",
		GroupID: "main",
		Short:   "Who is who: make, show, list and revoke the identities that a guard believes",
		Long: `An identity is a signed document: whose key it is, what an issuer says of its owner, and from when to when that holds.
docs/guard.md tells of it, docs/format/identity.md draws it.`,
		Example: `  quantraband identity create --key issuer.key -o issuer.qid
  quantraband identity create --key node.key --issuer-key issuer.key --attr region=eu --roles reader -o node.qid
  quantraband identity show node.qid`,
	}, a.identityCreate(), a.identityShow(), a.identityList(), a.identityRevoke())
}

func (a *app) identityCreate() *cobra.Command {
	var key, issuerKey, kind, out string
	var attrs, roles []string
	var from string
	days := 365
	cmd := &cobra.Command{
		Use:   "create --key FILE -o FILE",
		Short: "Make an identity, and its key if there is none",
		Long: `Make an identity for the key of --key, which is made if the file is not there, and sign it with --issuer-key, or with itself.
Roles count only where an issuer signs, and so do attributes.`,
		Example: `  quantraband identity create --key node.key -o node.qid
  quantraband identity create --key node.key --issuer-key issuer.key --kind agent --attr team=payments --days 90 -o node.qid`,
		Args: cobra.NoArgs,
	}
	var pass passphrases
	pass.flags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if key == "" || out == "" {
			return usagef("create needs --key FILE and -o FILE")
		}
		start := time.Now()
		if from != "" {
			var err error
			if start, err = time.Parse(time.RFC3339, from); err != nil {
				return usagef("--from %q: it must be RFC 3339, as 2026-11-23T15:04:05Z", from)
			}
		}
		owner, err := keyIn(key, true, pass.ask(cmd.Context(), key))
		if err != nil {
			return err
		}
		issuer := owner
		if issuerKey != "" {
			if issuer, err = keyIn(issuerKey, false, pass.ask(cmd.Context(), issuerKey)); err != nil {
				return err
			}
		}
		d := zerotrust.Identity{Kind: kind, Key: owner.Public(), Issuer: issuer.Public(), NotBefore: start, Expires: start.AddDate(0, 0, days)}
		for _, text := range attrs {
			name, value, ok := strings.Cut(text, "=")
			if !ok {
				return usagef("--attr %q: it must be NAME=VALUE", text)
			}
			d.Attributes = append(d.Attributes, zerotrust.Attribute{Name: name, Value: value})
		}
		if len(roles) > 0 {
			d.Attributes = append(d.Attributes, zerotrust.Attribute{Name: zerotrust.RolesAttribute, Value: strings.Join(roles, ",")})
		}
		doc, err := d.Sign(issuer)
		if err != nil {
			return usagef("%w", err)
		}
		if err := a.emit(out, false, func(w io.Writer) error { return pem.Encode(w, &pem.Block{Type: pemIdentity, Bytes: doc}) }); err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.stderr, d.ID())
		return err
	}
	f := cmd.Flags()
	f.StringVar(&key, "key", "", "`file` of the owner's private key; it is made if it is not there")
	f.StringVar(&issuerKey, "issuer-key", "", "`file` of the issuer's private key (default: it vouches for itself)")
	f.StringVar(&kind, "kind", "peer", "what it is: "+strings.Join(zerotrust.Kinds, ", "))
	f.StringArrayVar(&attrs, "attr", nil, "something that is said of it, as `NAME=VALUE`; may be given more than once")
	f.StringSliceVar(&roles, "roles", nil, "`roles` that it is granted: reader, analyst, operator, admin")
	f.StringVar(&from, "from", "", "holds from this `time`, RFC 3339 (default: now)")
	f.IntVar(&days, "days", days, "for so many `days`")
	f.StringVarP(&out, "output", "o", "", "write to this `file`")
	return cmd
}

// readArmoured reads a PEM block of a type, or its bytes as they are.
func readArmoured(name, typ string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, pathError("read", name, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, pathError("read", name, err)
	}
	if int64(len(raw)) > most {
		return nil, corruptf("%s: it is longer than %d bytes", name, most)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("-----BEGIN")) {
		return raw, nil
	}
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != typ || len(block.Headers) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, corruptf("%s: it is not one PEM block %s", name, typ)
	}
	return block.Bytes, nil
}

// readIdentity reads a document and checks its signature.
func readIdentity(name string) (doc []byte, d *zerotrust.Identity, err error) {
	if doc, err = readArmoured(name, pemIdentity, maxIdentity); err != nil {
		return nil, nil, err
	}
	if d, err = zerotrust.VerifyDocument(doc); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return doc, d, nil
}

// shownIdentity is an identity as people and programs see it.
type shownIdentity struct {
	ID         string            `json:"id"`
	Kind       string            `json:"kind"`
	Issuer     string            `json:"issuer"`
	SelfSigned bool              `json:"self_signed"`
	NotBefore  time.Time         `json:"not_before"`
	Expires    time.Time         `json:"expires"`
	Attributes map[string]string `json:"attributes"`
	Document   string            `json:"document"` // its SHA-256
	State      string            `json:"state"`    // holds, not yet, expired or revoked
	File       string            `json:"file"`
}

func shown(file string, doc []byte, d *zerotrust.Identity, list *zerotrust.RevocationList) shownIdentity {
	sum := sha256.Sum256(doc)
	s := shownIdentity{
		ID: d.ID(), Kind: d.Kind, Issuer: zerotrust.IDOf(d.Issuer), SelfSigned: d.SelfSigned(), NotBefore: d.NotBefore, Expires: d.Expires,
		Attributes: map[string]string{}, Document: hex.EncodeToString(sum[:]), State: "holds", File: file,
	}
	for _, at := range d.Attributes {
		s.Attributes[at.Name] = at.Value
	}
	switch now := time.Now(); {
	case now.Before(d.NotBefore):
		s.State = "not yet"
	case !now.Before(d.Expires):
		s.State = "expired"
	}
	if list != nil {
		for i := range list.Entries {
			if e := &list.Entries[i]; e.Principal == s.ID || e.Principal == s.Issuer || e.Principal == "" && e.Document == sum {
				s.State = "revoked"
			}
		}
	}
	return s
}

func (a *app) identityShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "What an identity says, if its signature is good",
		Long: `Say what an identity says. Its signature was checked: whether its issuer is believed, and whether it was revoked, is the question of
the guard that it is shown to.`,
		Example: `  quantraband identity show node.qid`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		doc, d, err := readIdentity(args[0])
		if err != nil {
			return err
		}
		s := shown(args[0], doc, d, nil)
		if asJSON {
			return writeJSON(a.stdout, s)
		}
		issuer := s.Issuer
		if s.SelfSigned {
			issuer = "itself"
		}
		fmt.Fprintf(a.stdout, "%s\n  kind        %s\n  issuer      %s\n  holds from  %s\n  to          %s (%s)\n  document    %s\n",
			s.ID, s.Kind, issuer, s.NotBefore.Format(time.RFC3339), s.Expires.Format(time.RFC3339), s.State, s.Document)
		for _, at := range d.Attributes {
			fmt.Fprintf(a.stdout, "  %-11s %s\n", at.Name, plain(at.Value))
		}
		return nil
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) identityList() *cobra.Command {
	var asJSON bool
	var listFile string
	cmd := &cobra.Command{
		Use:   "list [FILE|FOLDER...]",
		Short: "The identities in files and folders (*.qid), and which still hold",
		Example: `  quantraband identity list ./identities
  quantraband identity list --list revoked.qrl a.qid b.qid --json`,
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			args = []string{"."}
		}
		var list *zerotrust.RevocationList
		if listFile != "" {
			var err error
			if _, list, err = readRevocationList(listFile); err != nil {
				return err
			}
		}
		all := []shownIdentity{}
		for _, arg := range args {
			names := []string{arg}
			if info, err := os.Stat(arg); err != nil {
				return pathError("read", arg, err)
			} else if info.IsDir() {
				if names, err = filepath.Glob(filepath.Join(arg, "*.qid")); err != nil {
					return err
				}
			}
			for _, name := range names {
				doc, d, err := readIdentity(name)
				if err != nil {
					return err
				}
				all = append(all, shown(name, doc, d, list))
			}
		}
		if asJSON {
			return writeJSON(a.stdout, all)
		}
		return a.lines("ID\tKIND\tSTATE\tEXPIRES\tFILE", func(line func(...any)) {
			for i := range all {
				s := &all[i]
				line(s.ID, s.Kind, s.State, s.Expires.Format(time.DateOnly), s.File)
			}
		})
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "write JSON")
	f.StringVar(&listFile, "list", "", "`file` of revocations to hold them against")
	return cmd
}

func readRevocationList(name string) (raw []byte, l *zerotrust.RevocationList, err error) {
	if raw, err = readArmoured(name, pemRevocations, 2*zerotrust.MaxRevocationList); err != nil {
		return nil, nil, err
	}
	if l, err = zerotrust.DecodeRevocations(raw); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return raw, l, nil
}

func (a *app) identityRevoke() *cobra.Command {
	var q question
	var issuerKey, listFile, reason string
	var documents, push bool
	cmd := &cobra.Command{
		Use:   "revoke ID|FILE... --issuer-key FILE --list FILE",
		Short: "Take identities back: write the issuer's next list, and give it to a running server",
		Long: `Add identities to the issuer's list of revocations, which is signed anew with the next number. An id, or an identity's file,
revokes all that its owner has; with --documents a file revokes that document alone. With --push the server of --server has the list
at once: open sessions of those who were revoked end.`,
		Example: `  quantraband identity revoke node.qid --issuer-key issuer.key --list revoked.qrl --reason stolen --push
  quantraband identity revoke --documents old.qid --issuer-key issuer.key --list revoked.qrl`,
	}
	q.serverFlags(cmd)
	var pass passphrases
	pass.flags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if issuerKey == "" || listFile == "" || len(args) == 0 && !push {
			return usagef("revoke needs whom to revoke, --issuer-key FILE and --list FILE")
		}
		issuer, err := keyIn(issuerKey, false, pass.ask(cmd.Context(), issuerKey))
		if err != nil {
			return err
		}
		raw, err := nextList(issuer, listFile, reason, args, documents)
		if err != nil {
			return err
		}
		if err := writeFile(listFile, func(w io.Writer) error { return pem.Encode(w, &pem.Block{Type: pemRevocations, Bytes: raw}) }); err != nil {
			return err
		}
		l, err := zerotrust.DecodeRevocations(raw)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "%s is list %d of %s, with %d entries\n", listFile, l.Number, zerotrust.IDOf(l.Issuer), len(l.Entries))
		if !push {
			return nil
		}
		if err := q.checkServer(); err != nil {
			return err
		}
		var st zerotrust.Status
		if err := q.ask(cmd.Context(), http.MethodPost, zerotrust.APIPath+"/revocations", raw, &st); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stderr, "%s has it in force\n", q.server)
		return err
	}
	f := cmd.Flags()
	f.StringVar(&issuerKey, "issuer-key", "", "`file` of the issuer's private key")
	f.StringVar(&listFile, "list", "", "`file` of the list; it is made if it is not there")
	f.StringVar(&reason, "reason", "", "why")
	f.BoolVar(&documents, "documents", false, "revoke the documents in the files alone, not their owners")
	f.BoolVar(&push, "push", false, "give the list to the server; without anybody to revoke, as it is")
	return cmd
}

// nextList is the list in a file with more revoked, or a first one. With nobody to revoke it stays as it is.
func nextList(issuer seal.Key, file, reason string, args []string, documents bool) ([]byte, error) {
	now := time.Now()
	l := &zerotrust.RevocationList{Issuer: issuer.Public()}
	raw, old, err := readRevocationList(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case old.Issuer != l.Issuer:
		return nil, usagef("%s is the list of another issuer, %s", file, zerotrust.IDOf(old.Issuer))
	case len(args) == 0:
		return raw, nil
	default:
		l = old
	}
	for _, arg := range args {
		r := zerotrust.Revocation{At: now, Reason: reason}
		if _, err := zerotrust.ParseID(arg); err == nil && !documents {
			r.Principal = arg
		} else {
			doc, d, err := readIdentity(arg)
			if err != nil {
				return nil, err
			}
			if r.Principal = d.ID(); documents {
				r.Principal, r.Document = "", sha256.Sum256(doc)
			}
		}
		if !slices.ContainsFunc(l.Entries, func(e zerotrust.Revocation) bool { return e.Principal == r.Principal && e.Document == r.Document }) {
			l.Entries = append(l.Entries, r)
		}
	}
	l.Number, l.Issued = l.Number+1, now
	return l.Sign(issuer)
}
