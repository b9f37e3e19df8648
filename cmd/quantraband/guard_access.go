package main

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/access"
	"github.com/quantra-l/quantra/access/oidc"
	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/ingest"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/web"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// What of this lies in the data folder.
const (
	issuerKeyFile = "issuer.key"       // in guardDir: by it the server vouches for agents
	ownerFile     = "owner.credential" // of the server that runs: for commands of whoever can read it
)

// accessOptions say who may ask.
type accessOptions struct {
	openIngest bool
	redact     string
	proxies    []string
	oidc       string
}

func (o *accessOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.openIngest, "open-ingest", false, "take profiles from whoever reaches the address, without a key or a token; on this machine alone that holds unless --require-signed or --agent-keys is given")
	f.StringVar(&o.redact, "redact", "", "`file` of rules by which functions are shown to readers under another name: docs/access.md; it is read again when it changes")
	f.StringVar(&o.oidc, "oidc", "", "`file` of the OpenID provider by which people log in: docs/access.md; its client's secret is in a file that it names, or in "+oidcSecretEnv)
	f.StringSliceVar(&o.proxies, "proxy", nil, "`networks` of proxies whose X-Forwarded-For is believed, as 10.0.0.0/8 (default: nobody's)")
}

// openIssuer is the key by which the server vouches for its agents; made at the first start, and isNew says so.
func openIssuer(dir string) (key seal.Key, isNew bool, err error) {
	folder := filepath.Join(dir, guardDir)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return key, false, err
	}
	path := filepath.Join(folder, issuerKeyFile)
	_, err = os.Stat(path)
	isNew = errors.Is(err, fs.ErrNotExist)
	key, err = keyIn(path, true, nil)
	return key, isNew, err
}

// door is what stands before a server's routes.
type door struct {
	guard          *zerotrust.Guard
	policies       *policy.Source // keeps the guard's fresh; nil where they are the standard ones
	seats          *seats         // nil where nothing is isolated
	who            *access.Access
	began          time.Time // when this server began to remember requests, where another ran before it
	ownKey, secret string    // the file of its own agents' key, "" is none; its owner's credential
}

// openDoor opens the guard, and says who may ask. The door is to be closed.
func openDoor(dir string, o upOptions, addr *net.TCPAddr, db *control.DB, keys *agentKeys, audit *auditLog, log *slog.Logger) (*door, error) {
	issuer, isNew, err := openIssuer(dir)
	if err != nil {
		return nil, err
	}
	d := &door{}
	if !isNew { // nobody was here before a new folder's server
		d.began = time.Now()
	}
	if d.seats, err = openSeats(o.seats, log); err != nil {
		return nil, err
	}
	if d.guard, d.policies, err = openGuard(dir, o.guard, issuer.Public(), d.seats, recordTo(audit, log), log); err != nil {
		return nil, errors.Join(err, d.seats.close())
	}
	if d.who, err = openAccess(o, addr, db, d, recordTo(audit, log), issuer, keys, log); err == nil {
		d.secret = d.who.OwnerCredential()
		d.ownKey, err = enrolOwn(dir, d.who, o.demo || !o.noSelfProfile)
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// close ends the sessions, and then what they run in.
func (d *door) close() error { return errors.Join(d.guard.Close(), d.seats.close()) }

// work keeps the door's knowledge fresh until the function that it returns is called: of the policies, of what this host can isolate, and of
// what has expired.
func (d *door) work(ctx context.Context, log *slog.Logger) (stop func()) {
	ends := []func(){inBackground(ctx, sweep(d.who, log))}
	if d.policies != nil {
		ends = append(ends, inBackground(ctx, d.policies.Run))
	}
	if d.seats != nil {
		ends = append(ends, inBackground(ctx, d.seats.try))
	}
	return func() {
		for _, end := range slices.Backward(ends) {
			end()
		}
	}
}

// openAccess says who may ask. keys are those of --agent-keys, nil where there is no such file.
func openAccess(o upOptions, addr *net.TCPAddr, db *control.DB, d *door, record func(context.Context, zerotrust.Event) error, issuer seal.Key, keys *agentKeys, log *slog.Logger) (*access.Access, error) {
	opt := access.Options{
		Control: db, Evaluate: d.guard.Evaluate, Record: record, Issuer: issuer, Logger: log,
		Open:   o.access.openIngest || addr.IP.IsLoopback() && !o.signed(),
		Cookie: fmt.Sprint(addr.Port), Secure: o.tls.on(),
	}
	if o.tls.clientCA != "" {
		opt.Certificates = certificateOf
	}
	standard := policy.Standard()
	opt.Policy = func() *policy.Set { return standard }
	if d.policies != nil {
		opt.Policy = d.policies.Set
	}
	if keys != nil {
		opt.Allowed = func(k seal.PublicKey) bool { return keys.allow(ed25519.PublicKey(k[:])) == nil }
	}
	for _, text := range o.access.proxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, usagef("--proxy %q: it must be a network as 10.0.0.0/8", text)
		}
		opt.Proxies = append(opt.Proxies, p)
	}
	if o.access.oidc != "" {
		var err error
		if opt.Provider, err = openProvider(o.access.oidc, cmp.Or(o.url, baseURL(addr, o.tls.on()))); err != nil {
			return nil, err
		}
	}
	if o.access.redact != "" {
		rules, err := openReread("redaction rules", o.access.redact, nil, readRedaction, log)
		if err != nil {
			return nil, err
		}
		opt.Redact = rules.get
	}
	return access.New(opt)
}

// oidcSecretEnv has the secret by which the server shows itself to the OpenID provider.
const oidcSecretEnv = "QUANTRA_OIDC_SECRET"

// openProvider makes the OpenID provider of a file. base is this server as browsers reach it.
func openProvider(path, base string) (*oidc.Provider, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usagef("--oidc: %w", pathError("read", path, err))
	}
	defer f.Close()
	c, err := oidc.Decode(f, func(s string) error { _, err := access.ParseGrant(s); return err })
	if err != nil {
		return nil, usagef("--oidc: %s: %w", path, err)
	}
	o := oidc.Options{Config: *c}
	if o.Redirect == "" {
		o.Redirect = strings.TrimRight(base, "/") + oidc.CallbackPath
	}
	o.Secret = func() (string, error) { return os.Getenv(oidcSecretEnv), nil }
	if c.SecretFile != "" { // read at each login, so that it can be replaced
		o.Secret = func() (string, error) {
			f, err := os.Open(c.SecretFile)
			if err != nil {
				return "", pathError("read", c.SecretFile, err)
			}
			defer f.Close()
			return oidc.ReadSecret(f)
		}
		if _, err := o.Secret(); err != nil {
			return nil, usagef("--oidc: client_secret_file: %w", err)
		}
	}
	if c.CAFile != "" {
		if o.CAs, err = readPool(c.CAFile, x509.NewCertPool()); err != nil {
			return nil, usagef("--oidc: ca_file: %w", err)
		}
	}
	p, err := oidc.New(o)
	if err != nil {
		return nil, usagef("--oidc: %s: %w", path, err)
	}
	return p, nil
}

func readRedaction(path string) (*access.Redaction, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, pathError("read", path, err)
	}
	r, err := access.ParseRedaction(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// enrolOwn vouches for the server's own agents and the demo's: their key lies in the data folder, and is made there if it is missing. "" is that
// there are none.
func enrolOwn(dir string, a *access.Access, wanted bool) (keyFile string, err error) {
	if !wanted {
		return "", nil
	}
	path, pub, err := ownAgentKey(dir)
	if err != nil {
		return "", err
	}
	return path, a.EnrolOwn(seal.PublicKey(pub))
}

// firstLink is the one-time link of the server's owner, from its path on.
func firstLink(ctx context.Context, a *access.Access) (string, error) {
	p, err := a.FirstPerson(ctx)
	if err != nil {
		return "", err
	}
	code, err := a.Link(ctx, p)
	return access.LoginPath + "?code=" + code, err
}

// recordTo is where the guard's events stand: the audit log, and in the server's own log what was denied, and what one who is privileged
// has done but read. An owner is always privileged, and to write each page that she looks at would hide the rest.
func recordTo(audit *auditLog, log *slog.Logger) func(context.Context, zerotrust.Event) error {
	return func(ctx context.Context, e zerotrust.Event) error {
		if err := audit.decided(ctx, e); err != nil {
			return err
		}
		audit.recent.Decided(e)
		level := slog.LevelInfo
		if e.Allowed && (!e.Privileged || e.Action == "read") {
			level = slog.LevelDebug
		}
		log.Log(ctx, level, "guard", "what", e.What, "decision", e.Decision, "principal", e.Principal, "action", e.Action, "resource", e.Resource,
			"allowed", e.Allowed, "level", e.Level, "policies", e.Policies, "reason", e.Reason)
		return nil
	}
}

// allowQuestions is web.Options.Allow, in access's words: these two rooms do not know each other.
func allowQuestions(a *access.Access) func(context.Context, web.Question) (web.Scope, error) {
	return func(ctx context.Context, q web.Question) (web.Scope, error) {
		s, err := a.Allow(ctx, q.Raw, q.Services)
		if err != nil {
			return web.Scope{}, webRefusal(err)
		}
		out := web.Scope{Services: s.Services}
		if s.Redact != nil {
			out.Rename = s.Redact.Name
		}
		return out, nil
	}
}

func webRefusal(err error) error {
	var f *access.Refusal
	switch {
	case !errors.As(err, &f):
		return &web.Refusal{Code: connect.CodeUnavailable, Text: "it cannot be decided now who may ask: " + err.Error(), RetryAfter: 5 * time.Second}
	case f.RetryAfter > 0:
		return &web.Refusal{Code: connect.CodeResourceExhausted, Text: f.Text, RetryAfter: f.RetryAfter}
	case f.Status == http.StatusUnauthorized:
		return &web.Refusal{Code: connect.CodeUnauthenticated, Text: f.Text}
	}
	return &web.Refusal{Code: connect.CodePermissionDenied, Text: f.Text}
}

// byCaller is who asks, for histories and the audit log: she who is logged in, whatever the request says.
func byCaller(r *http.Request, said string) string {
	return access.CallerOf(r.Context()).By(said, func(name string) bool { return machines[name] })
}

// sendsBy is next for profiles whose sender may send them.
func sendsBy(a *access.Access, next func(context.Context, ingest.Push) error) func(context.Context, ingest.Push) error {
	return func(ctx context.Context, p ingest.Push) error {
		if p.Own { // the operator has said what is fetched
			return next(ctx, p)
		}
		key, err := keyOfName(p.SignedBy)
		if err != nil {
			return err
		}
		if err := a.Send(ctx, key, "write", p.Labels.Get(profile.LabelService)); err != nil {
			word := ingest.ErrUnavailable
			var f *access.Refusal
			if errors.As(err, &f) {
				if word = ingest.ErrDenied; f.RetryAfter > 0 {
					word = ingest.ErrOverloaded
				}
			}
			return &translated{err, word}
		}
		return next(ctx, p)
	}
}

// keyOfName is the key of a keyid; nil for "".
func keyOfName(name string) (*seal.PublicKey, error) {
	if name == "" {
		return nil, nil
	}
	raw, err := keyBytes(name)
	if err != nil {
		return nil, err
	}
	key := seal.PublicKey(raw)
	return &key, nil
}

// verifyAgents checks what agents send by the same signatures as uploads, and has the guard decide, in fleet's words: these rooms do not know
// each other.
func verifyAgents(v *ingest.Verifier, a *access.Access) func(*http.Request, []byte) (string, error) {
	return func(r *http.Request, body []byte) (string, error) {
		name, err := v.Verify(r, body)
		if e := (*ingest.SignatureError)(nil); errors.As(err, &e) {
			return "", &fleet.Refusal{Status: e.Status, Code: e.Code, Text: e.Text, RetryAfter: e.RetryAfter}
		}
		if err != nil {
			return "", err
		}
		key, err := keyOfName(name)
		if err != nil {
			return "", err
		}
		var about struct {
			Service string `json:"service"`
		}
		if strings.HasSuffix(r.URL.Path, "/poll") {
			_ = json.Unmarshal(body, &about) // what cannot be read is refused by fleet, which reads it next
		}
		if err := a.Send(r.Context(), key, "connect", about.Service); err != nil {
			var f *access.Refusal
			if !errors.As(err, &f) {
				return "", &fleet.Refusal{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: err.Error(), RetryAfter: 5 * time.Second}
			}
			if f.RetryAfter > 0 {
				return "", &fleet.Refusal{Status: http.StatusTooManyRequests, Code: "overloaded", Text: f.Text, RetryAfter: f.RetryAfter}
			}
			return "", &fleet.Refusal{Status: f.Status, Code: "denied", Text: f.Text}
		}
		return name, nil
	}
}

// openSigning makes what checks signatures: by keys that the server knows. began is when the server began to remember what it has taken,
// where another ran before it.
func openSigning(a *access.Access, share memoryShares, began time.Time) *ingest.Verifier {
	const nonceBytes = 64 // of one that is remembered, a map's slack included
	return ingest.NewVerifier(ingest.SignatureOptions{
		Nonces: int(share.nonces / nonceBytes), Since: began, Verify: verifyUpload,
		Keys: func(key ed25519.PublicKey) error {
			err := a.Known(context.Background(), seal.PublicKey(key))
			if errors.Is(err, access.ErrUnavailable) {
				return &translated{err, ingest.ErrUnavailable}
			}
			return err
		},
	})
}

// verifyUpload judges a signature of an upload by seal's rule. What is signed names its method and host's path, and the key signs nothing of
// another format: it has no domain (docs/format/signature.md).
func verifyUpload(key ed25519.PublicKey, message, signature []byte) bool {
	if len(key) != seal.PublicKeySize || len(signature) != seal.SignatureSize {
		return false
	}
	return seal.PublicKey(key).VerifyNote(message, seal.Signature(signature)) == nil
}

// owned is what lets commands of the same user ask the running server: its credential, in the data folder and where commands look for it by the
// server's port. It ends with the server.
type owned struct{ paths []string }

// leaveCredential writes the credential for whoever may read this user's files.
func leaveCredential(dir string, port int, secret string, log *slog.Logger) (*owned, error) {
	o := &owned{}
	first := filepath.Join(dir, ownerFile)
	if err := writeSecret(first, secret); err != nil {
		return nil, err
	}
	o.paths = append(o.paths, first)
	second, err := credentialOf(port)
	if err == nil {
		if err = os.MkdirAll(filepath.Dir(second), 0o700); err == nil {
			err = writeSecret(second, secret)
		}
	}
	if err != nil { // a service without a home: its commands name the file
		log.Debug("commands do not find the credential by themselves", "file", first, "err", err)
		return o, nil
	}
	o.paths = append(o.paths, second)
	return o, nil
}

// remove takes the files away. What is left behind by a crash opens nothing.
func (o *owned) remove() error {
	var err error
	for _, p := range o.paths {
		err = errors.Join(err, os.Remove(p))
	}
	return err
}

// writeSecret writes a file that only its user can read. It appears whole or not at all, and takes the place of a link instead of following it.
func writeSecret(path, secret string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".credential-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.WriteString(secret + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// sweep removes what has expired, now and then.
func sweep(a *access.Access, log *slog.Logger) func(context.Context) {
	return func(ctx context.Context) {
		tick := time.NewTicker(10 * time.Minute)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := a.Sweep(ctx); err != nil && ctx.Err() == nil {
					log.Warn("what has expired of sessions and tokens could not be removed; it is not valid all the same", "err", err)
				}
			}
		}
	}
}
