package seal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// ErrClosed says that a [Verifier] was closed before it came to a signature.
var ErrClosed = errors.New("the verifier of signatures is closed")

// VerifierOptions are those of a [Verifier]; the zero value is ready.
type VerifierOptions struct {
	Size    int           // signatures of a batch at most. 0 is 64; larger ones are hardly faster for each
	Wait    time.Duration // how long the first of a batch waits for others. 0 is 1 ms, below 0 for none but those that wait already
	Queue   int           // signatures that wait for a batch; who comes then waits to wait. 0 is 1,024
	Workers int           // batches at a time. 0 is one; more only help where there are more processors
	Cache   *KeyCache     // keys in the form that is verified by fastest; nil is none

	// Batched is told how many signatures each batch had, by the goroutines that verify, so it must be quick. Nil is not told.
	Batched func(signatures int)
}

// Verifier collects the signatures of many callers into batches. Its goroutines end with [Verifier.Close].
type Verifier struct {
	o     VerifierOptions
	queue chan *request
	done  chan struct{}
	close sync.Once
	wait  sync.WaitGroup
}

// request is one signature that waits. Who swaps state from waiting owns the message: the worker, or the caller who gave up.
type request struct {
	domain    string
	key       PublicKey
	message   []byte
	signature Signature
	state     atomic.Uint32
	answer    chan error // has room for one
}

const (
	waiting = iota
	taken   // a worker reads the message, and will answer
	left    // the caller has gone
)

// NewVerifier starts a verifier.
func NewVerifier(o VerifierOptions) (*Verifier, error) {
	for _, v := range []struct {
		name           string
		n              *int
		standard, most int
	}{{"Size", &o.Size, 64, 4096}, {"Queue", &o.Queue, 1024, 1 << 20}, {"Workers", &o.Workers, 1, 1024}} {
		if *v.n == 0 {
			*v.n = v.standard
		}
		if *v.n < 1 || *v.n > v.most {
			return nil, fmt.Errorf("VerifierOptions.%s is %d: it must be 1 to %d, or 0 for %d", v.name, *v.n, v.most, v.standard)
		}
	}
	if o.Wait == 0 {
		o.Wait = time.Millisecond
	}
	v := &Verifier{o: o, queue: make(chan *request, o.Queue), done: make(chan struct{})}
	for range o.Workers {
		v.wait.Go(v.work)
	}
	return v, nil
}

// Close ends the goroutines and waits for them. Signatures that no batch has yet are answered with [ErrClosed].
func (v *Verifier) Close() {
	v.close.Do(func() { close(v.done) })
	v.wait.Wait()
}

// Verify is [PublicKey.Verify] as part of a batch. The message is not read any more when it returns. It returns the context's error
// where that ends before a batch has taken the signature.
func (v *Verifier) Verify(ctx context.Context, domain string, k PublicKey, message []byte, s Signature) error {
	if err := checkDomain(domain); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r := &request{domain: domain, key: k, message: message, signature: s, answer: make(chan error, 1)}
	select {
	case <-v.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	case v.queue <- r:
	}
	select {
	case err := <-r.answer:
		return err
	case <-v.done:
		return r.leave(ErrClosed)
	case <-ctx.Done():
		return r.leave(ctx.Err())
	}
}

// leave gives up, unless a worker has the request: then its answer is near.
func (r *request) leave(why error) error {
	if r.state.CompareAndSwap(waiting, left) {
		return why
	}
	return <-r.answer
}

// work makes batches of what is queued until the verifier is closed.
func (v *Verifier) work() {
	b := Batch{Cache: v.o.Cache}
	requests := make([]*request, 0, v.o.Size)
	take := func(r *request) {
		if r.state.CompareAndSwap(waiting, taken) {
			b.Add(r.domain, r.key, r.message, r.signature)
			requests = append(requests, r)
		}
	}
	for {
		select {
		case <-v.done:
			return
		case r := <-v.queue:
			take(r)
		}
		v.collect(take, &requests)
		if v.o.Batched != nil && len(requests) > 0 {
			v.o.Batched(len(requests))
		}
		answer(&b, requests)
		clear(requests) // the messages are their callers' again
		requests = requests[:0]
	}
}

// collect takes more until the batch is full, its time is over or the verifier is closed.
func (v *Verifier) collect(take func(*request), requests *[]*request) {
	var over <-chan time.Time
	if v.o.Wait > 0 {
		timer := time.NewTimer(v.o.Wait)
		defer timer.Stop()
		over = timer.C
	}
	for len(*requests) < v.o.Size {
		select {
		case r := <-v.queue:
			take(r)
			continue
		default:
		}
		if over == nil {
			return
		}
		select {
		case r := <-v.queue:
			take(r)
		case <-over:
			return
		case <-v.done:
			return
		}
	}
}

func answer(b *Batch, requests []*request) {
	bad := b.Verify()
	for i, r := range requests {
		var err error
		if len(bad) > 0 && bad[0] == i {
			bad, err = bad[1:], ErrSignature
		}
		r.answer <- err
	}
}
