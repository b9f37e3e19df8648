package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// tlsDir is where a server keeps the CA that it has made, and what an ACME CA gave it, in the data folder.
const tlsDir = "tls"

// serving is a server's TLS. It knows which certificates it has shown, by which its own agent knows the server again.
type serving struct {
	config *tls.Config
	name   string       // to ask for a certificate by; "" is any
	http   http.Handler // of ACME's challenges by HTTP; nil is none

	mu    sync.Mutex
	shown [8][sha256.Size]byte // the last, oldest overwritten
	next  int
}

// serve makes the server's TLS: version 1.3 alone. nil is none.
func (o *tlsOptions) serve(dir string, hosts []string, log *slog.Logger) (*serving, error) {
	if !o.on() {
		return nil, nil
	}
	s := &serving{}
	get, err := s.source(o, dir, hosts, log)
	if err != nil {
		return nil, err
	}
	s.config = &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		c, err := get(hello)
		if err == nil {
			s.show(c)
		}
		return c, err
	}}
	if len(o.acme) > 0 {
		s.config.NextProtos = append(s.config.NextProtos, acme.ALPNProto)
	}
	if o.clientCA == "" {
		return s, nil
	}
	// Each connection is judged by the file as it is: who was signed by a CA that is no longer in it is nobody, also where the connection would
	// take an older one up again.
	cas, err := openReread("client CAs", o.clientCA, nil, func(path string) (*x509.CertPool, error) { return readPool(path, x509.NewCertPool()) }, log)
	if err != nil {
		return nil, usagef("--tls-client-ca: %w", err)
	}
	s.config.SessionTicketsDisabled, s.config.ClientAuth = true, tls.VerifyClientCertIfGiven
	base := s.config.Clone()
	s.config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.ClientCAs = cas.get()
		return c, nil
	}
	return s, nil
}

// source is where certificates come from: files, a CA of the server's own, or an ACME CA.
func (s *serving) source(o *tlsOptions, dir string, hosts []string, log *slog.Logger) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	switch {
	case len(o.acme) > 0:
		m, err := o.acmeManager(dir)
		if err != nil {
			return nil, err
		}
		s.name, s.http = o.acme[0], withoutPort(m.HTTPHandler(nil))
		return m.GetCertificate, nil
	case o.dev:
		ca, err := openDevCA(filepath.Join(dir, tlsDir), hosts, time.Now, log)
		if err != nil {
			return nil, err
		}
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.get() }, nil
	}
	certs, err := openReread("TLS certificate", o.cert, nil, func(string) (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(o.cert, o.key)
		return &c, err
	}, log)
	if err != nil {
		return nil, usagef("--tls-cert: %w", err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certs.get(), nil }, nil
}

// acmeManager gets certificates of an ACME CA, and renews them 30 days before they end. They lie in the data folder.
func (o *tlsOptions) acmeManager(dir string) (*autocert.Manager, error) {
	client := &acme.Client{DirectoryURL: o.acmeDirectory}
	if o.acmeCA != "" {
		pool, err := readPool(o.acmeCA, x509.NewCertPool())
		if err != nil {
			return nil, usagef("--acme-ca: %w", err)
		}
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
		client.HTTPClient = &http.Client{Transport: t, Timeout: time.Minute}
	}
	cache := filepath.Join(dir, tlsDir, "acme")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, err
	}
	return &autocert.Manager{Prompt: autocert.AcceptTOS, Cache: autocert.DirCache(cache), HostPolicy: autocert.HostWhitelist(o.acme...), Email: o.acmeEmail, Client: client}, nil
}

// withoutPort is next for requests whose host has no port: names are compared with those that were given, also behind a forwarded port.
func withoutPort(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host, _, err := net.SplitHostPort(r.Host); err == nil {
			r = r.Clone(r.Context())
			r.Host = host
		}
		next.ServeHTTP(w, r)
	})
}

// challenges answers an ACME CA by HTTP until the function that it returns is called; everything else is sent to https.
func (s *serving) challenges(ctx context.Context, address string, log *slog.Logger) (stop func(), err error) {
	if s == nil || s.http == nil || address == "" {
		return func() {}, nil
	}
	ln, err := listen(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("--acme-http: %w", err)
	}
	srv := newHTTPServer(s.http, log)
	return inBackground(ctx, func(ctx context.Context) {
		end := context.AfterFunc(ctx, func() { srv.Close() })
		defer end()
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("challenges of the ACME CA are not answered any more", "err", err)
		}
	}), nil
}

func (s *serving) show(c *tls.Certificate) {
	sum := sha256.Sum256(c.Certificate[0])
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.shown[:], sum) {
		s.shown[s.next] = sum
		s.next = (s.next + 1) % len(s.shown)
	}
}

// ownClient is how the server's own agent asks it: by the address that it listens on, whatever names its certificate has, and only if the
// certificate is one that this process has shown.
func (s *serving) ownClient() *http.Client {
	if s == nil {
		return nil
	}
	check := func(cs tls.ConnectionState) error {
		sum := sha256.Sum256(cs.PeerCertificates[0].Raw)
		s.mu.Lock()
		defer s.mu.Unlock()
		if !slices.Contains(s.shown[:], sum) {
			return errors.New("the certificate is not this server's")
		}
		return nil
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13, ServerName: s.name, InsecureSkipVerify: true, VerifyConnection: check} // verified by identity, not by name
	return &http.Client{Transport: t}
}

// How long what a server's own CA makes holds. A certificate is made anew when a third of its time is left, the CA itself a year before its end:
// both are in ca.pem until then.
const (
	devCertTTL = 30 * 24 * time.Hour
	devCALeft  = 365 * 24 * time.Hour
)

// devCA is a CA of the server's own, in a folder, for trying out.
type devCA struct {
	dir   string
	hosts []string
	now   func() time.Time
	log   *slog.Logger

	mu     sync.Mutex
	ca     tls.Certificate
	cert   *tls.Certificate
	tried  time.Time // when a new one was made last, or was not to be had
	reason string
}

// openDevCA opens the CA of a folder, or makes it.
func openDevCA(dir string, hosts []string, now func() time.Time, log *slog.Logger) (*devCA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	d := &devCA{dir: dir, hosts: append([]string{"localhost", "127.0.0.1", "::1"}, hosts...), now: now, log: log}
	return d, d.renew()
}

// get is the certificate now. One that cannot be renewed goes on until it ends, and that is said.
func (d *devCA) get() (*tls.Certificate, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if now.Before(d.cert.Leaf.NotAfter.Add(-devCertTTL/3)) || now.Sub(d.tried) < time.Minute {
		return d.cert, nil
	}
	if err := d.renew(); err != nil {
		if err.Error() != d.reason {
			d.reason = err.Error()
			d.log.Error("the server's certificate cannot be renewed, and goes on as it is", "until", d.cert.Leaf.NotAfter, "err", err)
		}
		return d.cert, nil
	}
	d.reason = ""
	d.log.Info("the server has a new certificate", "until", d.cert.Leaf.NotAfter)
	return d.cert, nil
}

// renew makes a certificate, and before that the CA where there is none, or little time of it is left.
func (d *devCA) renew() error {
	d.tried = d.now()
	path := filepath.Join(d.dir, "ca.pem")
	ca, err := tls.LoadX509KeyPair(path, filepath.Join(d.dir, "ca.key"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = d.newCA(nil)
	case err == nil && d.now().After(ca.Leaf.NotAfter.Add(-devCALeft)):
		err = d.newCA(ca.Certificate)
	case err == nil:
		d.ca = ca
	}
	if err != nil {
		return fmt.Errorf("the CA in %s: %w", d.dir, err)
	}
	template, err := newCertificate(d.hosts[0], d.now(), devCertTTL)
	if err != nil {
		return err
	}
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	forHosts(template, d.hosts)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, d.ca.Leaf, key.Public(), d.ca.PrivateKey)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err == nil {
		d.cert = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	}
	return err
}

// newCA makes a CA, and keeps the certificates of the one before behind its own, so that who reads ca.pem from now on trusts both.
func (d *devCA) newCA(before [][]byte) error {
	template, err := newCertificate("Quantra-L development CA", d.now(), caTTL)
	if err != nil {
		return err
	}
	asCA(template)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	var chain []byte
	for _, c := range append([][]byte{der}, before[:min(1, len(before))]...) {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	// The key first: a crash in between leaves a pair that does not fit, which is said, and no CA whose key is lost.
	err = writeSecret(filepath.Join(d.dir, "ca.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	if err == nil {
		err = writeSecret(filepath.Join(d.dir, "ca.pem"), string(chain))
	}
	if err != nil {
		return err
	}
	d.ca, err = tls.LoadX509KeyPair(filepath.Join(d.dir, "ca.pem"), filepath.Join(d.dir, "ca.key"))
	return err
}

// asCA makes a template one of a CA that signs certificates of servers and clients, and no other CA.
func asCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.MaxPathLenZero = true, true, true
	c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
}

func forHosts(c *x509.Certificate, hosts []string) {
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, host)
		}
	}
}

// agentURI names an agent in a client certificate (RFC 5280, 4.2.1.6): "quantra:agent:SERVICE", escaped as a URI's path.
const agentURI = "agent:"

func agentName(service string) *url.URL {
	return &url.URL{Scheme: "quantra", Opaque: agentURI + url.PathEscape(service)}
}
