package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/challtestsrv"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
)

var silent = slog.New(slog.DiscardHandler)

// made makes files by the commands that people make them by.
func made(t *testing.T, args ...string) {
	t.Helper()
	var stderr bytes.Buffer
	if code := run(t.Context(), append([]string{"tls"}, args...), nil, io.Discard, &stderr); code != exitOK {
		t.Fatalf("tls %s: %d %s", strings.Join(args, " "), code, &stderr)
	}
}

func poolOf(t *testing.T, path string) *x509.CertPool {
	t.Helper()
	pool, err := readPool(path, x509.NewCertPool())
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func TestDevCA(t *testing.T) {
	dir := t.TempDir()
	var now atomic.Int64
	now.Store(time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC).UnixNano())
	clock := func() time.Time { return time.Unix(0, now.Load()).UTC() }
	ahead := func(d time.Duration) { now.Add(int64(d)) }
	var said bytes.Buffer
	d, err := openDevCA(dir, []string{"profiles.test"}, clock, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(dir, "ca.pem")
	get := func() *x509.Certificate {
		t.Helper()
		c, err := d.get()
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf
	}
	trusted := func(c *x509.Certificate, pool *x509.CertPool) error {
		for _, name := range []string{"profiles.test", "localhost", "127.0.0.1"} {
			if _, err := c.Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: clock()}); err != nil {
				return err
			}
		}
		return nil
	}
	first, old := get(), poolOf(t, caFile)
	if err := trusted(first, old); err != nil {
		t.Fatal(err)
	}
	ahead(devCertTTL * 2 / 3)
	second := get()
	if second.Equal(first) || trusted(second, old) != nil || !second.NotAfter.Equal(clock().Add(devCertTTL).Truncate(time.Second)) {
		t.Errorf("with a third of its time left: until %s", second.NotAfter)
	}
	again, err := openDevCA(dir, nil, clock, silent)
	if err != nil || again.cert.Leaf.CheckSignatureFrom(d.ca.Leaf) != nil {
		t.Errorf("a restart has another CA: %v", err)
	}

	// A key that cannot be read: what there is goes on, and that is said once.
	key := filepath.Join(dir, "ca.key")
	good, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, []byte("noise"), 0o600); err != nil {
		t.Fatal(err)
	}
	ahead(devCertTTL * 2 / 3)
	for range 3 {
		if !get().Equal(second) {
			t.Error("it has another certificate")
		}
		ahead(2 * time.Minute)
	}
	if strings.Count(said.String(), "cannot be renewed") != 1 {
		t.Errorf("it said %s", &said)
	}
	if _, err := openDevCA(dir, nil, clock, silent); err == nil {
		t.Error("a start with a broken key makes another CA")
	}
	if err := os.WriteFile(key, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if get().Equal(second) {
		t.Error("the key is back, and nothing was renewed")
	}

	// A year before the CA's end there is another; who reads ca.pem trusts both.
	ahead(caTTL - devCALeft)
	third := get()
	if err := trusted(third, poolOf(t, caFile)); err != nil {
		t.Error(err)
	}
	if trusted(third, old) == nil {
		t.Error("it is the old CA")
	}
	raw, err := os.ReadFile(caFile)
	if err != nil || bytes.Count(raw, []byte("BEGIN CERTIFICATE")) != 2 {
		t.Errorf("%s, %v", raw, err)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
}

// listens serves s on loopback, and says who has shown which certificate.
func listens(t *testing.T, s *serving) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{TLSConfig: s.config, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.VerifiedChains) > 0 {
			c := certificateOf(r)
			io.WriteString(w, c.Person+c.Service)
		}
	})}
	go srv.ServeTLS(ln, "", "") // ends with Close
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// TestTLSFiles: files that change are taken without a restart, a bad one is not; a client's CA that is gone opens nothing any more.
func TestTLSFiles(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	made(t, "ca", "-o", at("ca"))
	made(t, "ca", "-o", at("other"))
	made(t, "cert", "-o", at("one"), "--ca", at("ca"), "localhost", "127.0.0.1")
	made(t, "cert", "-o", at("two"), "--ca", at("ca"), "localhost", "127.0.0.1")
	made(t, "cert", "-o", at("ann"), "--ca", at("ca"), "--client", "ann")
	made(t, "cert", "-o", at("checkout"), "--ca", at("ca"), "--agent", "check/out ü")
	put := func(from, to string) {
		t.Helper()
		raw, err := os.ReadFile(at(from))
		if err == nil {
			err = os.WriteFile(at(to), raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	pair := func(from string) { put(from+".key", "server.key"); put(from+".pem", "server.pem") }
	pair("one")
	put("ca.pem", "clients.pem")
	o := tlsOptions{cert: at("server.pem"), key: at("server.key"), clientCA: at("clients.pem")}
	s, err := o.serve(dir, nil, silent)
	if err != nil {
		t.Fatal(err)
	}
	addr := listens(t, s)
	ask := func(client string) (leaf *x509.Certificate, who string, err error) {
		c := &tls.Config{RootCAs: poolOf(t, at("ca.pem"))}
		if client != "" {
			p, err := tls.LoadX509KeyPair(at(client+".pem"), at(client+".key"))
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{p}
		}
		tr := &http.Transport{TLSClientConfig: c}
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr}).Get("https://" + addr)
		if err != nil {
			return nil, "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return res.TLS.PeerCertificates[0], string(b), err
	}
	serial := func(name string) string {
		p, err := tls.LoadX509KeyPair(at(name+".pem"), at(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return p.Leaf.SerialNumber.String()
	}
	comes := func(want string) {
		t.Helper()
		eventually(t, "the certificate "+want, func() (bool, error) {
			leaf, _, err := ask("")
			return err == nil && leaf.SerialNumber.String() == serial(want), err
		})
	}
	comes("one")
	for client, want := range map[string]string{"": "", "ann": "ann", "checkout": "check/out ü"} {
		if _, who, err := ask(client); err != nil || who != want {
			t.Errorf("%q is %q, %v", client, who, err)
		}
	}
	if res, err := s.ownClient().Get("https://" + addr); err != nil {
		t.Errorf("the server's own agent: %v", err)
	} else {
		res.Body.Close()
	}
	stranger := httptest.NewTLSServer(http.NotFoundHandler())
	defer stranger.Close()
	stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
	if res, err := s.ownClient().Get(stranger.URL); err == nil {
		res.Body.Close()
		t.Error("the server's own agent speaks to another server")
	}
	if err := os.WriteFile(at("server.pem"), []byte("noise"), 0o600); err != nil {
		t.Fatal(err)
	}
	certs := time.NewTimer(2 * rereadEvery) // so that the bad file was looked at
	<-certs.C
	comes("one")
	pair("two")
	comes("two")

	if err := os.WriteFile(at("clients.pem"), []byte("noise"), 0o600); err != nil {
		t.Fatal(err)
	}
	certs.Reset(2 * rereadEvery)
	<-certs.C
	if _, who, err := ask("ann"); err != nil || who != "ann" {
		t.Errorf("with a bad file of client CAs: %q, %v", who, err)
	}
	put("other.pem", "clients.pem")
	eventually(t, "the other CA", func() (bool, error) {
		_, _, err := ask("ann")
		return err != nil, nil
	})
	if _, who, err := ask(""); err != nil || who != "" {
		t.Errorf("without a certificate: %q, %v", who, err)
	}
}

// TestTLSWays: what does not go together is said before anything is opened.
func TestTLSWays(t *testing.T) {
	for what, o := range map[string]tlsOptions{
		"three ways": {cert: "a", key: "b", dev: true}, "one": {dev: true, acme: []string{"a"}}, "need --acme": {dev: true, acmeHTTP: ":80"},
		"both": {cert: "a"}, "needs TLS": {clientCA: "a"},
	} {
		if err := o.check("127.0.0.1:0", false); exitCode(err) != exitUsage {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := (&tlsOptions{dev: true}).check("0.0.0.0:0", true); exitCode(err) != exitUsage {
		t.Errorf("the demo with TLS: %v", err)
	}
	if err := (&tlsOptions{acme: []string{"a.example"}}).check("0.0.0.0:443", false); err != nil {
		t.Error(err)
	}
	u := agentName("a/b:c?d#e %")
	c := certificateOf(&http.Request{TLS: &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{URIs: agentURIs(t, u.String())}}}}})
	if c.Service != "a/b:c?d#e %" || !c.Agent || c.Broken || c.Person != "" || c.Key == "" {
		t.Errorf("%+v", c)
	}
	if c := certificateOf(&http.Request{TLS: &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{URIs: agentURIs(t, "quantra:agent:")}}}}}); !c.Broken {
		t.Errorf("%+v", c)
	}
}

// TestACME: a certificate comes of an ACME CA, Let's Encrypt's own for tests, by each of its two challenges; it is there after a restart without the
// CA; a name that was not given is refused without asking.
func TestACME(t *testing.T) {
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	dns := freeAddress(t)
	names, err := challtestsrv.New(challtestsrv.Config{DNSAddrs: []string{dns}, Log: log.New(io.Discard, "", 0)})
	if err != nil {
		t.Fatal(err)
	}
	names.SetDefaultDNSIPv4("127.0.0.1")
	names.SetDefaultDNSIPv6("")
	go names.Run()
	t.Cleanup(names.Shutdown)
	eventually(t, "the names", func() (bool, error) {
		c, err := net.Dial("tcp", dns)
		if err == nil {
			c.Close()
		}
		return err == nil, err
	})
	for _, challenge := range []string{"tls", "http"} {
		t.Run(challenge, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			dir := t.TempDir()
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			httpAddr := freeAddress(t)
			ports := map[string]int{"tls": ln.Addr().(*net.TCPAddr).Port, "http": 1}
			if challenge == "http" {
				ports = map[string]int{"tls": 1, "http": portOf(t, httpAddr)}
			}
			quiet := log.New(io.Discard, "", 0)
			store := db.NewMemoryStore()
			authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {}})
			front := wfe.New(quiet, store, va.New(quiet, ports["http"], ports["tls"], false, dns, store), authority, []string{"pebble.test"}, false, false, 1, 1)
			pebble := httptest.NewTLSServer(front.Handler())
			defer pebble.Close()
			caFile := filepath.Join(dir, "acme.pem")
			if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pebble.Certificate().Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
			o := tlsOptions{acme: []string{"profiles.test"}, acmeDirectory: pebble.URL + wfe.DirectoryPath, acmeCA: caFile, acmeHTTP: httpAddr}
			s, err := o.serve(dir, nil, silent)
			if err != nil {
				t.Fatal(err)
			}
			stop, err := s.challenges(ctx, o.acmeHTTP, silent)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			srv := &http.Server{TLSConfig: s.config, Handler: http.NotFoundHandler(), ErrorLog: quiet}
			go srv.ServeTLS(ln, "", "") // ends with Close
			defer srv.Close()
			roots := x509.NewCertPool()
			root, err := x509.ParseCertificate(authority.GetRootCert(0).DER)
			if err != nil {
				t.Fatal(err)
			}
			roots.AddCert(root)
			dial := func(addr, name string) (*x509.Certificate, error) {
				c, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, RootCAs: roots})
				if err != nil {
					return nil, err
				}
				defer c.Close()
				return c.ConnectionState().PeerCertificates[0], nil
			}
			cert, err := dial(ln.Addr().String(), "profiles.test")
			if err != nil || cert.VerifyHostname("profiles.test") != nil {
				t.Fatalf("%v", err)
			}
			if _, err := dial(ln.Addr().String(), "other.test"); err == nil {
				t.Error("a certificate for a name that was not given")
			}
			pebble.Close()
			again, err := o.serve(dir, nil, silent)
			if err != nil {
				t.Fatal(err)
			}
			if same, err := dial(listens(t, again), "profiles.test"); err != nil || !same.Equal(cert) {
				t.Errorf("after a restart without the CA: %v", err)
			}
		})
	}
}

func agentURIs(t *testing.T, text string) []*url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return []*url.URL{u}
}

// freeAddress is one that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}
