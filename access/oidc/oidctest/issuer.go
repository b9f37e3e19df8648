// Package oidctest is an OpenID provider on loopback, for tests only: zitadel's, which is certified, with users, groups and faults that a test
// plants.
package oidctest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// ClientID and Secret are those of the one client.
const (
	ClientID = "quantra"
	Secret   = "the client's secret"
)

// User is somebody who can log in, with the password "password".
type User struct {
	Email      string
	Unverified bool // the address
	Groups     []string
	AMR        []string
}

// Issuer is the provider. Its fields may be changed between logins, under Lock.
type Issuer struct {
	URL string
	sync.Mutex
	Users map[string]*User // by subject, which is the name to log in by
	// Tamper changes an ID token's claims before it is signed; nil does nothing. Sign signs it in the issuer's place; nil is the issuer's key.
	Tamper func(claims map[string]any)
	Sign   func(payload []byte) string
	// Answer answers in the issuer's place where it returns true.
	Answer func(w http.ResponseWriter, r *http.Request) bool

	keys     []key // the last signs
	requests map[string]int
}

type key struct {
	id      string
	private *ecdsa.PrivateKey
}

func (k key) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k key) Key() any                                    { return k.private }
func (k key) ID() string                                  { return k.id }

type public struct{ key }

func (k public) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k public) Use() string                        { return "sig" }
func (k public) Key() any                           { return &k.private.PublicKey }

// Start starts a provider that sends people back to redirect. It ends with the test.
func Start(t testing.TB, redirect string) *Issuer {
	t.Helper()
	i := &Issuer{Users: map[string]*User{}, requests: map[string]int{}}
	i.RotateKey()
	srv := httptest.NewUnstartedServer(nil)
	i.URL = "http://" + srv.Listener.Addr().String()
	client := storage.WebClient(ClientID, Secret, redirect)
	quiet := slog.New(slog.DiscardHandler)
	real := exampleop.SetupServer(i.URL, &house{storage.NewStorageWithClients(users{i}, map[string]*storage.Client{ClientID: client}), i}, quiet, false)
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { i.serve(w, r, real) })
	srv.Start()
	t.Cleanup(srv.Close)
	return i
}

// serve is the provider with what a test has planted.
func (i *Issuer) serve(w http.ResponseWriter, r *http.Request, real http.Handler) {
	i.Lock()
	i.requests[r.URL.Path]++
	answer, changed := i.Answer, i.Tamper != nil || i.Sign != nil
	i.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	if !changed || !strings.HasSuffix(r.URL.Path, "/token") {
		real.ServeHTTP(w, r)
		return
	}
	rec := httptest.NewRecorder()
	real.ServeHTTP(rec, r)
	body := rec.Body.Bytes()
	var token map[string]any
	if rec.Code == http.StatusOK && json.Unmarshal(body, &token) == nil {
		token["id_token"] = i.forge(token["id_token"].(string))
		body, _ = json.Marshal(token) // it was JSON
	}
	maps.Copy(w.Header(), rec.Header())
	w.Header().Del("Content-Length")
	w.WriteHeader(rec.Code)
	w.Write(body) // an error means that the test is gone
}

// forge makes another ID token of one.
func (i *Issuer) forge(raw string) string {
	i.Lock()
	defer i.Unlock()
	signed, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return raw
	}
	payload := signed.UnsafePayloadWithoutVerification()
	if i.Tamper != nil {
		var claims map[string]any
		dec := json.NewDecoder(bytes.NewReader(payload))
		dec.UseNumber()
		if dec.Decode(&claims) == nil {
			i.Tamper(claims)
			payload, _ = json.Marshal(claims) // they were JSON
		}
	}
	if i.Sign != nil {
		return i.Sign(payload)
	}
	return SignES256(payload, i.keys[len(i.keys)-1].private, i.keys[len(i.keys)-1].id)
}

// SignES256 is a JWT of a payload.
func SignES256(payload []byte, private *ecdsa.PrivateKey, id string) string {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: id}}, nil)
	if err != nil {
		return err.Error()
	}
	signed, err := s.Sign(payload)
	if err != nil {
		return err.Error()
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		return err.Error()
	}
	return text
}

// RotateKey has the provider sign with a new key; the old one is forgotten.
func (i *Issuer) RotateKey() {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err) // of the test's own making
	}
	i.Lock()
	defer i.Unlock()
	n := 0
	if len(i.keys) > 0 {
		n, _ = strconv.Atoi(i.keys[0].id) // it is one
	}
	i.keys = []key{{strconv.Itoa(n + 1), private}}
}

// Requests is how often a path was asked.
func (i *Issuer) Requests(path string) int {
	i.Lock()
	defer i.Unlock()
	return i.requests[path]
}

// Browse is a browser that is sent to the provider, where somebody logs in: it returns where the provider sends her back to.
func (i *Issuer) Browse(t testing.TB, to, user string) *url.URL {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var back *url.URL
	client := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if "http://"+r.URL.Host != i.URL {
			back = r.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	res, err := client.Get(to)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	if back != nil {
		return back
	}
	id := res.Request.URL.Query().Get("authRequestID")
	if id == "" {
		t.Fatalf("%s: %s %.300s", res.Request.URL, res.Status, body)
	}
	res, err = client.PostForm(res.Request.URL.Scheme+"://"+res.Request.URL.Host+res.Request.URL.Path, url.Values{"id": {id}, "username": {user}, "password": {"password"}})
	if err != nil {
		t.Fatal(err)
	}
	body, _ = io.ReadAll(res.Body) // for the failure's text alone
	res.Body.Close()
	if back == nil {
		t.Fatalf("%s: %s %.500s", res.Request.URL, res.Status, body)
	}
	return back
}

// users are an issuer's, in the words of its storage.
type users struct{ i *Issuer }

func (u users) ExampleClientID() string { return ClientID }

func (u users) GetUserByUsername(name string) *storage.User { return u.GetUserByID(name) }

func (u users) GetUserByID(id string) *storage.User {
	u.i.Lock()
	defer u.i.Unlock()
	user := u.i.Users[id]
	if user == nil {
		return nil
	}
	return &storage.User{ID: id, Username: id, Password: "password", Email: user.Email, EmailVerified: !user.Unverified}
}

// house is the storage with keys that change, groups, and what somebody has logged in by.
type house struct {
	*storage.Storage
	i *Issuer
}

func (h *house) SigningKey(context.Context) (op.SigningKey, error) {
	h.i.Lock()
	defer h.i.Unlock()
	return h.i.keys[len(h.i.keys)-1], nil
}

func (h *house) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

func (h *house) KeySet(context.Context) ([]op.Key, error) {
	h.i.Lock()
	defer h.i.Unlock()
	var out []op.Key
	for _, k := range h.i.keys {
		out = append(out, public{k})
	}
	return out, nil
}

func (h *house) SetUserinfoFromToken(ctx context.Context, info *oidc.UserInfo, token, subject, origin string) error {
	err := h.Storage.SetUserinfoFromToken(ctx, info, token, subject, origin)
	h.i.Lock()
	defer h.i.Unlock()
	if u := h.i.Users[subject]; err == nil && u != nil && u.Groups != nil {
		info.AppendClaims("groups", u.Groups)
	}
	return err
}

func (h *house) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	r, err := h.Storage.AuthRequestByCode(ctx, code)
	if err != nil {
		return nil, err
	}
	return &request{r, h.i}, nil
}

type request struct {
	op.AuthRequest
	i *Issuer
}

func (r *request) GetAMR() []string {
	r.i.Lock()
	defer r.i.Unlock()
	if u := r.i.Users[r.GetSubject()]; u != nil && u.AMR != nil {
		return u.AMR
	}
	return r.AuthRequest.GetAMR()
}
