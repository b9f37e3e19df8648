package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// How long what `quantraband tls` makes holds. A browser takes no server's certificate of more than 398 days (CA/Browser Forum, Baseline
// Requirements 6.3.2).
const (
	caTTL   = 10 * 365 * 24 * time.Hour
	certTTL = 397 * 24 * time.Hour
)

// tlsOptions say how a server is reached.
type tlsOptions struct {
	cert, key, clientCA string
	insecure            bool
}

func (o *tlsOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.cert, "tls-cert", "", "`file` of the server's certificate and those above it, in PEM; it is read again when it changes")
	f.StringVar(&o.key, "tls-key", "", "`file` of its key, in PEM")
	f.StringVar(&o.clientCA, "tls-client-ca", "", "`file` of those who may sign client certificates: who shows one is the person of its common name")
	f.BoolVar(&o.insecure, "insecure", false, "listen without TLS also where other machines reach the address")
}

func (o *tlsOptions) on() bool { return o.cert != "" || o.key != "" }

// check refuses what would show profiles and tokens to whoever is on the way.
func (o *tlsOptions) check(listen string, demo bool) error {
	if (o.cert == "") != (o.key == "") {
		return usagef("--tls-cert and --tls-key belong together: give both")
	}
	if o.clientCA != "" && !o.on() {
		return usagef("--tls-client-ca needs --tls-cert and --tls-key")
	}
	if demo && o.on() {
		return usagef("--demo is for this machine: leave out --tls-cert")
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil || o.on() || o.insecure || loopbackHost(host) {
		return nil // an address that is none is listen's to tell
	}
	return usagef("--listen %s: other machines reach it, so it needs --tls-cert and --tls-key (`quantraband tls` makes some for trying out), or --insecure behind a proxy that ends TLS", listen)
}

// config is the server's TLS: version 1.3 alone. nil is none.
func (o *tlsOptions) config(log *slog.Logger) (*tls.Config, error) {
	if !o.on() {
		return nil, nil
	}
	load := func(string) (*tls.Certificate, error) {
		c, err := tls.LoadX509KeyPair(o.cert, o.key)
		return &c, err
	}
	certs, err := openReread("TLS certificate", o.cert, nil, load, log)
	if err != nil {
		return nil, usagef("--tls-cert: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certs.get(), nil }}
	if o.clientCA != "" {
		if c.ClientCAs, err = readPool(o.clientCA, x509.NewCertPool()); err != nil {
			return nil, usagef("--tls-client-ca: %w", err)
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return c, nil
}

// personOf is the person whom a verified client certificate names.
func personOf(r *http.Request) string { return r.TLS.VerifiedChains[0][0].Subject.CommonName }

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

// ownClient is how the server's own agent asks it: by the address that it listens on, whatever names its certificate has, and only if the
// certificate is the very one in the file.
func (o *tlsOptions) ownClient() (*http.Client, error) {
	if !o.on() {
		return nil, nil
	}
	pair := func() (tls.Certificate, error) { return tls.LoadX509KeyPair(o.cert, o.key) }
	if _, err := pair(); err != nil {
		return nil, err
	}
	check := func(cs tls.ConnectionState) error {
		own, err := pair()
		if err == nil && !cs.PeerCertificates[0].Equal(own.Leaf) {
			err = errors.New("the certificate is not this server's")
		}
		return err
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: check} // verified by identity, not by name
	return &http.Client{Transport: t}, nil
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
		template, err := newCertificate("Quantra-L development CA", caTTL)
		if err != nil {
			return err
		}
		template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero = true, true, true
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		return a.makeCertificate(out, template, nil, nil)
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "`name` of the files, without their ends")
	return cmd
}

func (a *app) tlsCert() *cobra.Command {
	var out, ca string
	var client bool
	cmd := &cobra.Command{
		Use:   "cert -o NAME --ca NAME HOST...",
		Short: "Make a certificate for hosts, or with --client for a person: NAME.pem and NAME.key (0600)",
		Example: `  quantraband tls cert -o server --ca ca localhost 127.0.0.1
  quantraband tls cert -o ann --ca ca --client ann@example.com`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if out == "" || ca == "" {
			return usagef("cert needs -o NAME and --ca NAME")
		}
		pair, err := tls.LoadX509KeyPair(ca+".pem", ca+".key")
		if err != nil {
			return fmt.Errorf("the CA %s: %w", ca, err)
		}
		template, err := newCertificate(args[0], certTTL)
		if err != nil {
			return err
		}
		template.KeyUsage = x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if !client {
			template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
			for _, host := range args {
				if ip := net.ParseIP(host); ip != nil {
					template.IPAddresses = append(template.IPAddresses, ip)
				} else {
					template.DNSNames = append(template.DNSNames, host)
				}
			}
		}
		return a.makeCertificate(out, template, pair.Leaf, pair.PrivateKey)
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "`name` of the files, without their ends")
	f.StringVar(&ca, "ca", "", "`name` of the CA's files, without their ends")
	f.BoolVar(&client, "client", false, "for a person, of that name at the server")
	return cmd
}

func newCertificate(name string, ttl time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	now := time.Now()
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
