// Command nats is NATS as a system that `quantraband bench p2p` measures beside our nodes: a server with TLS on loopback, and a client of it for
// each node of the load, in one process. It speaks the protocol of bench/load over its standard input and output.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/quantra-l/quantra/bench/load"
)

// ready is how long the server may take to start, and messages to be flushed.
const ready = 10 * time.Second

func main() {
	signal.Ignore(os.Interrupt) // who measures ends it
	if err := load.Serve(context.Background(), os.Stdin, os.Stdout, open); err != nil {
		fmt.Fprintln(os.Stderr, "nats:", err)
		os.Exit(1)
	}
}

// fleet is the server and its clients.
type fleet struct {
	plan    load.Plan
	server  *server.Server
	clients []*nats.Conn
}

func open(_ context.Context, p load.Plan, heard func(int, []byte)) (_ *load.System, err error) {
	if p.Kind != load.Broadcast && p.Kind != "direct" || p.Count != p.Nodes {
		return nil, fmt.Errorf("a load of kind %q: it must be direct or broadcast, in one process", p.Kind)
	}
	f := &fleet{plan: p}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.close())
		}
	}()
	certificate, pool, err := certify()
	if err != nil {
		return nil, err
	}
	f.server, err = server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, MaxPayload: 1 << 20,
		TLS: true, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}})
	if err != nil {
		return nil, err
	}
	f.server.Start()
	if !f.server.ReadyForConnections(ready) {
		return nil, fmt.Errorf("the server is not ready after %s", ready)
	}
	for i := range p.Nodes {
		c, err := nats.Connect(f.server.ClientURL(), nats.Secure(&tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13}), nats.NoEcho(), nats.Timeout(ready))
		if err != nil {
			return nil, err
		}
		f.clients = append(f.clients, c)
		s, err := c.Subscribe(f.subject(i), func(m *nats.Msg) { heard(i, m.Data) })
		if err != nil {
			return nil, err
		}
		if err := errors.Join(s.SetPendingLimits(-1, -1), c.FlushTimeout(ready)); err != nil { // nothing is dropped for want of room
			return nil, err
		}
	}
	return &load.System{Connect: func(context.Context, []string) error { return nil }, Send: f.send, Close: f.close}, nil
}

// subject is what a node hears.
func (f *fleet) subject(node int) string {
	if f.plan.Kind == load.Broadcast {
		return "bench"
	}
	return fmt.Sprint("bench.", node)
}

func (f *fleet) send(_ context.Context, user int, body []byte) error {
	return f.clients[f.plan.Home(user)].Publish(f.subject(f.plan.Target(user)), body) // it has been copied when it returns
}

func (f *fleet) close() error {
	for _, c := range f.clients {
		c.Close()
	}
	if f.server != nil {
		f.server.Shutdown()
		f.server.WaitForShutdown()
	}
	return nil
}

// certify makes a certificate for loopback, which is its own authority for an hour.
func certify() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	from := time.Now().Add(-time.Minute)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: from.Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	raw, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, pool, nil
}
