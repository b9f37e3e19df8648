package access

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/quantra-l/quantra/control"
	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/seal"
)

// FactorPath takes the second factor of somebody who is logged in.
const FactorPath = "/login/mfa"

// Time-based one-time passwords (RFC 6238) as every authenticator has them: HMAC-SHA-1, 30 s, 6 digits, a secret of 160 bits (RFC 4226, 4, R6).
const (
	totpStep   = 30 * time.Second
	totpDigits = 6
	totpSecret = 20
	totpDrift  = 1 // steps that a clock may be off, either way (RFC 6238, 5.2)
)

// Wrong codes: after freeTries each costs a wait, which doubles from firstWait to longestWait. Three codes of a million are right at a time, so that
// who has somebody's session and guesses for a year is right with a chance of 3 %.
const (
	freeTries   = 5
	firstWait   = 30 * time.Second
	longestWait = time.Hour
)

var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

// totp is the code of a secret at a step (RFC 4226, 5.3).
func totp(secret []byte, step int64, digits int) string {
	var counter [8]byte
	binary.BigEndian.PutUint64(counter[:], uint64(step))
	h := hmac.New(sha1.New, secret)
	h.Write(counter[:])
	sum := h.Sum(nil)
	at := sum[len(sum)-1] & 15
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	mod := uint32(1)
	for range digits {
		mod *= 10
	}
	return fmt.Sprintf("%0*d", digits, n%mod)
}

// Factor is a person's second factor.
type Factor struct {
	Person    string    `json:"person"`
	Name      string    `json:"name,omitempty"`
	Created   time.Time `json:"created"`
	Confirmed bool      `json:"confirmed"` // a code of it was right once
}

type keptFactor struct {
	Factor
	Sealed []byte    `json:"sealed"`         // the secret, in a box
	Last   int64     `json:"last,omitempty"` // the step of the last code that was taken: none of it or before is taken again
	Wrong  int       `json:"wrong,omitempty"`
	Until  time.Time `json:"until,omitzero"` // no code is looked at before
}

// factorBox seals secrets of second factors: under a key that follows from the issuer's, which is not in the database.
func factorBox(issuer seal.Key) (*seal.Box, error) {
	key, err := hkdf.Key(sha256.New, issuer.Seed(), nil, "quantra second factors v1", seal.BoxKeySize)
	if err != nil {
		return nil, err
	}
	return seal.NewBox(key)
}

func factorContext(person string) []byte { return []byte("second factor of " + person) }

// EnrolFactor gives a person a new second factor, in place of the one that she has. uri has its secret, which is told once.
func (a *Access) EnrolFactor(ctx context.Context, p *Person) (uri string, err error) {
	secret := make([]byte, totpSecret)
	rand.Read(secret) // never fails: crypto/rand ends the program first
	sealed, err := a.factors.Seal(secret, factorContext(p.ID))
	if err != nil {
		return "", err
	}
	if _, err := a.db.DropAccess(ctx, kindFactor, p.ID, ""); err != nil {
		return "", a.word(err)
	}
	k := keptFactor{Factor: Factor{Person: p.ID, Created: a.opt.Now().UTC().Truncate(time.Second)}, Sealed: sealed}
	if err := a.keep(ctx, control.AccessRow{Kind: kindFactor, ID: p.ID, Owner: p.ID}, k); err != nil {
		return "", err
	}
	q := url.Values{"secret": {base32Text.EncodeToString(secret)}, "issuer": {"Quantra-L"}}
	return (&url.URL{Scheme: "otpauth", Host: "totp", Path: "/Quantra-L:" + p.Name, RawQuery: q.Encode()}).String(), nil
}

// factorOf is a person's factor, and its row; false where she has none.
func (a *Access) factorOf(ctx context.Context, person string) (k keptFactor, row control.AccessRow, ok bool, err error) {
	if row, ok, err = a.db.Access(ctx, kindFactor, person); err != nil || !ok {
		return k, row, false, a.word(err)
	}
	k, err = decodeRow[keptFactor](row)
	return k, row, err == nil, err
}

// errBusy says that another code of the same person is being looked at.
var errBusy = &Refusal{Status: http.StatusTooManyRequests, Code: "resource_exhausted", Text: "another code is being looked at: try again", RetryAfter: time.Second}

// checkFactor takes a code once. An *unproven is that it is not right; a *Refusal with RetryAfter that there were too many that were not. What it
// finds is written before it is told, so that codes that are tried at the same time count like others.
func (a *Access) checkFactor(ctx context.Context, person, code string) error {
	k, row, ok, err := a.factorOf(ctx, person)
	if err != nil {
		return err
	}
	if !ok {
		return &unproven{person, "there is no second factor to show"}
	}
	now := a.opt.Now()
	if wait := k.Until.Sub(now); wait > 0 {
		return &Refusal{Status: http.StatusTooManyRequests, Code: "resource_exhausted", Text: "too many codes were wrong", RetryAfter: min(wait, longestWait)}
	}
	secret, err := a.factors.Open(k.Sealed, factorContext(person))
	if err != nil {
		return fmt.Errorf("%w: the second factor was sealed by another server's key: an admin removes it, and it is set up anew", ErrUnavailable)
	}
	at, step := now.Unix()/int64(totpStep/time.Second), int64(-1)
	for s := at - totpDrift; s <= at+totpDrift; s++ { // all of them, whichever is right
		if subtle.ConstantTimeCompare([]byte(totp(secret, s, totpDigits)), []byte(code)) == 1 {
			step = s
		}
	}
	var wrong error
	switch {
	case step < 0:
		wrong = &unproven{person, "the code of the second factor is not right"}
	case step <= k.Last:
		wrong = &unproven{person, "the code of the second factor was used before: wait for the next"}
	}
	if wrong == nil {
		k.Confirmed, k.Last, k.Wrong, k.Until = true, step, 0, time.Time{}
	} else if k.Wrong++; k.Wrong >= freeTries {
		k.Until = now.Add(min(longestWait, firstWait<<min(k.Wrong-freeTries, 10)))
	}
	if err := a.keep(ctx, row, k); errors.Is(err, control.ErrConflict) {
		return errBusy
	} else if err != nil {
		return err
	}
	return wrong
}

// Factors are everybody's, without their secrets.
func (a *Access) Factors(ctx context.Context) ([]Factor, error) {
	rows, err := a.db.AccessRows(ctx, kindFactor, "", maxListed)
	if err != nil {
		return nil, a.word(err)
	}
	out := make([]Factor, 0, len(rows))
	for _, row := range rows {
		k, err := decodeRow[keptFactor](row)
		if err != nil {
			return nil, err
		}
		if p, err := a.Person(ctx, k.Person); err == nil { // else she has just been removed
			k.Name = p.Name
		}
		out = append(out, k.Factor)
	}
	return out, nil
}

// RemoveFactor takes a person's second factor away, and ends the sessions that it has raised.
func (a *Access) RemoveFactor(ctx context.Context, person string) error {
	n, err := a.db.DropAccess(ctx, kindFactor, person, "")
	if err != nil {
		return a.word(err)
	}
	if n == 0 {
		return fmt.Errorf("%w: %.60s has no second factor", ErrNotFound, person)
	}
	sessions, err := a.Sessions(ctx, person)
	for _, s := range sessions {
		if s.MFA && err == nil {
			if err = a.RevokeSession(ctx, s.ID); errors.Is(err, ErrNotFound) {
				err = nil
			}
		}
	}
	return err
}

// factorRoutes are those about second factors.
func (a *Access) factorRoutes(handle func(string, []string, func(context.Context, *http.Request, *Caller) (any, error))) {
	handle("GET "+APIPath+"/mfa", nil, func(ctx context.Context, _ *http.Request, _ *Caller) (any, error) {
		list, err := a.Factors(ctx)
		return map[string]any{"factors": list}, err
	})
	handle("POST "+APIPath+"/mfa", nil, a.askFactor)
	handle("DELETE "+APIPath+"/mfa/{id}", nil, func(ctx context.Context, r *http.Request, _ *Caller) (any, error) {
		p, err := a.Find(ctx, r.PathValue("id"))
		if err == nil {
			err = a.RemoveFactor(ctx, p.ID)
		}
		return struct{}{}, err
	})
}

// askFactor sets a second factor up: for somebody by who looks after people, or for oneself where the login is worth as much as what the factor
// will open. Else whoever has stolen a session would make a factor of his own, and be more than the session was.
func (a *Access) askFactor(ctx context.Context, r *http.Request, c *Caller) (any, error) {
	var q struct {
		Person string `json:"person"` // "" is oneself
	}
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	var p *Person
	var err error
	switch {
	case q.Person != "":
		if err = a.decide(ctx, c, c.roles(""), "administer", "people"); err == nil {
			p, err = a.Find(ctx, q.Person)
		}
	case c.Session == "":
		return nil, fmt.Errorf("%w: whose second factor? Name a person", ErrInvalid)
	case c.Trust < TrustCritical:
		return nil, fmt.Errorf("%w: a second factor is set up in a login by a one-time link, or by an admin: `quantraband access mfa enrol`", ErrDenied)
	default:
		if p, err = a.Person(ctx, c.Person); err == nil {
			err = a.decide(ctx, c, c.roles(""), "change", "people/"+c.Principal)
		}
		if err == nil && !c.MFA {
			if _, _, has, ferr := a.factorOf(ctx, p.ID); ferr != nil || has {
				err = errors.Join(ferr, fmt.Errorf("%w: you have a second factor: show it first, or have an admin remove it", ErrDenied))
			}
		}
	}
	if err != nil {
		return nil, err
	}
	uri, err := a.EnrolFactor(ctx, p)
	return map[string]any{"person": p.Name, "uri": uri}, err
}

// showFactor raises a session by a second factor: another session takes its place, which has another secret.
func (a *Access) showFactor(w http.ResponseWriter, r *http.Request) {
	if err := a.raise(w, r); err != nil {
		a.refuse(w, r, err)
		return
	}
	writeAnswer(w, struct{}{})
}

func (a *Access) raise(w http.ResponseWriter, r *http.Request) error {
	c := CallerOf(r.Context())
	var q struct {
		Code string `json:"code"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, maxLogin)).Decode(&q); err != nil {
		return &Refusal{Status: http.StatusBadRequest, Code: "invalid_argument", Text: "the body is not what is asked for: {\"code\": ...}"}
	}
	if c.Session == "" {
		return &Refusal{Status: http.StatusBadRequest, Code: "invalid_argument", Text: "a second factor raises a session of a browser; there is none"}
	}
	err := a.checkFactor(r.Context(), c.Person, q.Code)
	var u *unproven
	if errors.As(err, &u) {
		if err := a.record(r.Context(), u.id, r.URL.Path, u.why); err != nil {
			return err
		}
		return &Refusal{Status: http.StatusForbidden, Code: "permission_denied", Text: u.why, Reason: u.why}
	}
	if err != nil {
		return err
	}
	p, err := a.Person(r.Context(), c.Person)
	if err != nil {
		return err
	}
	return a.welcome(w, r, Login{Person: p, How: c.How, Trust: TrustCritical, MFA: true, TTL: c.Expires.Sub(a.opt.Now())})
}
