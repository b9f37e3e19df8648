package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

// tokenEnv is a token for the commands that ask a server.
const tokenEnv = "QUANTRA_TOKEN"

// caEnv is a CA of one's own, for the same.
const caEnv = "QUANTRA_CA"

// maxCredential bounds a file of them, in bytes.
const maxCredential = 64 << 10

// credentials are by what a command shows who it is.
type credentials struct {
	token    string
	ca       string
	insecure bool
	// anonymous is that no token is shown: the request says by a signature who sends it.
	anonymous bool
}

func (c *credentials) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.token, "token", "", "`token` to show (default: $"+tokenEnv+", else that of login, else this user's own running server)")
	f.StringVar(&c.ca, "ca", os.Getenv(caEnv), "`file` of a CA to trust beside the system's, in PEM (default: $"+caEnv+")")
	f.BoolVar(&c.insecure, "insecure", false, "show the token also where others on the way can read it: by http to another machine")
}

// of is the token for a server; "" is none.
func (c *credentials) of(server *url.URL) (string, error) {
	if t := cmp.Or(c.token, os.Getenv(tokenEnv)); t != "" {
		return t, nil
	}
	logins, err := readLogins()
	if err != nil {
		return "", err
	}
	if t := logins[originOf(server)]; t != "" {
		return t, nil
	}
	if !loopbackHost(server.Hostname()) {
		return "", nil
	}
	port := cmp.Or(server.Port(), map[string]string{"http": "80", "https": "443"}[server.Scheme])
	n, err := net.LookupPort("tcp", port)
	if err != nil {
		return "", nil // no such server, which asking it says
	}
	path, err := credentialOf(n)
	if err != nil {
		return "", nil // no home, no credential
	}
	raw, err := readSecret(path)
	return strings.TrimSpace(string(raw)), err
}

// client asks with the token, at the server that it is for and nowhere else.
func (c *credentials) client(server string, hc *http.Client) *http.Client {
	hc.Transport = &showing{c: c, server: server, next: http.DefaultTransport}
	return hc
}

type showing struct {
	c      *credentials
	server string
	next   http.RoundTripper
	once   sync.Once
	bad    error
}

// trust takes up --ca.
func (s *showing) trust() error {
	s.once.Do(func() {
		if s.c.ca == "" {
			return
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if pool, err = readPool(s.c.ca, pool); err != nil {
			s.bad = usagef("--ca: %w", err)
			return
		}
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{RootCAs: pool}
		s.next = t
	})
	return s.bad
}

func (s *showing) RoundTrip(r *http.Request) (*http.Response, error) {
	to, err := url.Parse(s.server)
	if err != nil {
		return nil, err
	}
	if r.Header.Get("Authorization") != "" || originOf(r.URL) != originOf(to) {
		return s.next.RoundTrip(r)
	}
	token, err := s.c.of(to)
	if err != nil {
		return nil, err
	}
	if err := s.trust(); err != nil {
		return nil, err
	}
	if token == "" || s.c.anonymous {
		return s.next.RoundTrip(r)
	}
	if to.Scheme != "https" && !loopbackHost(to.Hostname()) && !s.c.insecure {
		return nil, usagef("--server %s: the token would go there in the clear: use https://, or say --insecure", s.server)
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return s.next.RoundTrip(r)
}

func originOf(u *url.URL) string { return u.Scheme + "://" + strings.ToLower(u.Host) }

func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// credentialOf is where a server on this port leaves its credential for commands of the same user.
func credentialOf(port int) (string, error) {
	dir, err := defaultDataDir(runtime.GOOS, os.Getenv, os.UserHomeDir)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "servers", fmt.Sprint(port)), nil
}

// loginsFile has the tokens of login, by the server's origin.
func loginsFile() (string, error) {
	dir, err := defaultDataDir(runtime.GOOS, os.Getenv, os.UserHomeDir)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "logins.json"), nil
}

func readLogins() (map[string]string, error) {
	path, err := loginsFile()
	if err != nil {
		return nil, nil // no home, no logins
	}
	raw, err := readSecret(path)
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	var out map[string]string
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, corruptf("%s: %w; delete it, and log in again", path, err)
	}
	return out, nil
}

// readSecret reads a file that only this user can read; nothing where there is none.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, pathError("read", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, pathError("read", path, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxCredential {
		return nil, corruptf("%s is not a file of ours", path)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 { // Windows has no such bits
		return nil, fmt.Errorf("%s can be read by others (%v): chmod 600 it, and have new secrets made", path, info.Mode().Perm())
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxCredential))
	if err != nil {
		return nil, pathError("read", path, err)
	}
	return raw, nil
}
