package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/acme/autocert"

	"github.com/quantra-l/quantra/access"
)

// How long what `quantraband tls` makes holds. A browser takes no server's certificate of more than 398 days (CA/Browser Forum, Baseline
// Requirements 6.3.2).
const (
	caTTL   = 10 * 365 * 24 * time.Hour
	certTTL = 397 * 24 * time.Hour
)

// tlsOptions say how a server is reached.
type tlsOptions struct {
	cert, key, clientCA                        string
	dev                                        bool
	acme                                       []string
	acmeDirectory, acmeEmail, acmeHTTP, acmeCA string
	insecure                                   bool
}

func (o *tlsOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.cert, "tls-cert", "", "`file` of the server's certificate and those above it, in PEM; it is read again when it changes")
	f.StringVar(&o.key, "tls-key", "", "`file` of its key, in PEM")
	f.StringVar(&o.clientCA, "tls-client-ca", "", "`file` of those who may sign client certificates: who shows one is the person of its common name, or the agent that it names; it is read again when it changes")
	f.BoolVar(&o.dev, "tls-dev", false, "speak TLS by a CA of the server's own, for trying out: tls/ca.pem in the data folder is for others to trust")
	f.StringSliceVar(&o.acme, "acme", nil, "host `names` whose certificates an ACME CA gives and renews; you agree to its terms")
	f.StringVar(&o.acmeDirectory, "acme-directory", autocert.DefaultACMEDirectory, "`URL` of the ACME CA's directory")
	f.StringVar(&o.acmeEmail, "acme-email", "", "`address` that the ACME CA writes to")
	f.StringVar(&o.acmeHTTP, "acme-http", "", "`address` to answer the CA's challenges by HTTP, as :80 (default: they are answered by TLS, on --listen, which the CA must reach at port 443)")
	f.StringVar(&o.acmeCA, "acme-ca", "", "`file` of the certificates by which the ACME CA itself is trusted (default: the system's)")
	f.BoolVar(&o.insecure, "insecure", false, "listen without TLS also where other machines reach the address")
}

func (o *tlsOptions) on() bool { return o.cert != "" || o.key != "" || o.dev || len(o.acme) > 0 }

// check refuses what would show profiles and tokens to whoever is on the way.
func (o *tlsOptions) check(listen string, demo bool) error {
	if (o.cert == "") != (o.key == "") {
		return usagef("--tls-cert and --tls-key belong together: give both")
	}
	ways := 0
	for _, way := range []bool{o.cert != "", o.dev, len(o.acme) > 0} {
		if way {
			ways++
		}
	}
	if ways > 1 {
		return usagef("--tls-cert, --tls-dev and --acme are three ways to have a certificate: give one")
	}
	if (o.acmeHTTP != "" || o.acmeEmail != "" || o.acmeCA != "") && len(o.acme) == 0 {
		return usagef("--acme-http, --acme-email and --acme-ca need --acme")
	}
	if o.clientCA != "" && !o.on() {
		return usagef("--tls-client-ca needs TLS: --tls-cert, --tls-dev or --acme")
	}
	if demo && o.on() {
		return usagef("--demo is for this machine: leave out --tls-cert, --tls-dev and --acme")
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil || o.on() || o.insecure || loopbackHost(host) {
		return nil // an address that is none is listen's to tell
	}
	return usagef("--listen %s: other machines reach it, so it needs --tls-cert and --tls-key, --acme, or --tls-dev for trying out, or --insecure behind a proxy that ends TLS", listen)
}

// certificateOf is whom a verified client certificate names.
func certificateOf(r *http.Request) access.Certificate {
	leaf := r.TLS.VerifiedChains[0][0]
	sum := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	for _, u := range leaf.URIs {
		if name, ok := strings.CutPrefix(u.Opaque, agentURI); ok && u.Scheme == "quantra" {
			service, err := url.PathUnescape(name)
			return access.Certificate{Agent: true, Service: service, Key: hex.EncodeToString(sum[:8]), Broken: err != nil || service == ""}
		}
	}
	return access.Certificate{Person: leaf.Subject.CommonName}
}

func readPool(path string, pool *x509.CertPool) (*x509.CertPool, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, pathError("read", path, err)
	}
	if !pool.AppendCertsFromPEM(raw) {
		return nil, corruptf("%s has no certificate", path)
	}
	return pool, nil
}

func (a *app) tlsCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "tls",
		GroupID: "main",
		Short:   "Certificates for trying out: a CA of your own, and what it signs",
		Long:    `Make a certificate authority and certificates for a server that is to be tried with TLS. For others, use those of your organisation.`,
		Example: `  quantraband tls ca -o ca
  quantraband tls cert -o server --ca ca localhost 127.0.0.1
  quantraband up --listen 0.0.0.0:4040 --tls-cert server.pem --tls-key server.key`,
	}, a.tlsCA(), a.tlsCert())
}

func (a *app) tlsCA() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:     "ca -o NAME",
		Short:   "Make a CA: NAME.pem, which others trust, and NAME.key (0600)",
		Example: `  quantraband tls ca -o ca`,
		Args:    cobra.NoArgs,
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		if out == "" {
			return usagef("ca needs -o NAME")
		}
		template, err := newCertificate("Quantra-L development CA", time.Now(), caTTL)
		if err != nil {
			return err
		}
		asCA(template)
		return a.makeCertificate(out, template, nil, nil)
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "`name` of the files, without their ends")
	return cmd
}

func (a *app) tlsCert() *cobra.Command {
	var out, ca string
	var client, agent bool
	cmd := &cobra.Command{
		Use:   "cert -o NAME --ca NAME HOST...",
		Short: "Make a certificate for hosts, or with --client for a person, --agent for a service's agents: NAME.pem and NAME.key (0600)",
		Example: `  quantraband tls cert -o server --ca ca localhost 127.0.0.1
  quantraband tls cert -o ann --ca ca --client ann@example.com
  quantraband tls cert -o checkout --ca ca --agent checkout`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if out == "" || ca == "" {
			return usagef("cert needs -o NAME and --ca NAME")
		}
		if client && agent || agent && len(args) != 1 {
			return usagef("a certificate is for hosts, for one person or for the agents of one service")
		}
		pair, err := tls.LoadX509KeyPair(ca+".pem", ca+".key")
		if err != nil {
			return fmt.Errorf("the CA %s: %w", ca, err)
		}
		template, err := newCertificate(args[0], time.Now(), certTTL)
		if err != nil {
			return err
		}
		template.KeyUsage = x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if !client {
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			forHosts(template, args)
		}
		if agent {
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
			template.URIs = []*url.URL{agentName(args[0])}
			template.DNSNames, template.IPAddresses = nil, nil
		}
		return a.makeCertificate(out, template, pair.Leaf, pair.PrivateKey)
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "`name` of the files, without their ends")
	f.StringVar(&ca, "ca", "", "`name` of the CA's files, without their ends")
	f.BoolVar(&client, "client", false, "for a person, of that name at the server")
	f.BoolVar(&agent, "agent", false, "for what sends profiles of the service of that name, and of no other")
	return cmd
}

func newCertificate(name string, now time.Time, ttl time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(ttl)}, nil
}

// makeCertificate makes a key and its certificate, signed by a parent or itself. The key's file is not replaced where there is one.
func (a *app) makeCertificate(out string, template, parent *x509.Certificate, signer crypto.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(out+".key", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return pathError("make", out+".key", err)
	}
	if err := errors.Join(pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: secret}), f.Close()); err != nil {
		return err
	}
	if err := os.WriteFile(out+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return pathError("write", out+".pem", err)
	}
	_, err = fmt.Fprintf(a.stderr, "%s.pem holds until %s; keep %s to yourself\n", out, template.NotAfter.Format(time.DateOnly), filepath.Base(out)+".key")
	return err
}
