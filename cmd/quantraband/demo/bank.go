package demo

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	// bankDistance is how long the bank takes to answer a new connection, as one does that is in another part of the world. It
	// makes the wait the same on every machine, which that of a disk would not be.
	bankDistance = 40 * time.Millisecond
	bankPatience = 2 * time.Second // for a whole conversation
)

// Bank is whom the shop asks before it sells: a TLS server on the loopback interface, which answers one question per connection. That
// the shop makes a connection for each checkout is the planted blocking call.
type Bank struct {
	l      net.Listener
	server *tls.Config
	client *tls.Config
	wg     sync.WaitGroup
}

// OpenBank listens, with a certificate of its own that lives in memory. Close ends it.
func OpenBank() (*Bank, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("demo: bank: %w", err)
	}
	now := time.Now()
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "demo bank"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("demo: bank: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("demo: bank: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("demo: bank: %w", err)
	}
	b := &Bank{
		l:      l,
		server: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true},
		client: &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{tls.X25519}},
	}
	b.wg.Go(b.serve)
	return b, nil
}

// Close ends the bank and waits for the conversations under way, 2 s at most.
func (b *Bank) Close() error {
	err := b.l.Close()
	b.wg.Wait()
	return err
}

func (b *Bank) serve() {
	for {
		c, err := b.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(bankDistance) // no descriptors left: there will be some again
			continue
		}
		b.wg.Go(func() { b.converse(c) })
	}
}

// converse answers a question, when its time has come.
func (b *Bank) converse(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(bankPatience))
	time.Sleep(bankDistance)
	t := tls.Server(c, b.server)
	question, err := bufio.NewReader(t).ReadString('\n')
	if err != nil {
		return // the shop went away
	}
	customer, _, _ := strings.Cut(question, " ")
	fmt.Fprintf(t, "paid-by-%s\n", customer)
	t.Close()
}

// authorisePayment asks the bank, over a connection that is made for this one question: the planted blocking call.
//
//go:noinline
func (b *Bank) authorisePayment(ctx context.Context, customer string, cents int64) (code string, err error) {
	d := tls.Dialer{Config: b.client}
	ctx, cancel := context.WithTimeout(ctx, bankPatience)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", b.l.Addr().String())
	if err != nil {
		return "", fmt.Errorf("bank: %w", err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(bankPatience))
	if _, err := fmt.Fprintf(c, "%s %d\n", customer, cents); err != nil {
		return "", fmt.Errorf("bank: %w", err)
	}
	code, err = bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("bank: %w", err)
	}
	return strings.TrimSpace(code), nil
}
