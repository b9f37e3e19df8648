package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
)

// proofDir is where the object is written that proves that one can be; nothing else is there.
const proofDir = "quantra-probe"

// prove does once what the bucket will be asked for. The error says which
// permission is missing by the step that failed.
func prove(ctx context.Context, b Bucket, readOnly bool) error {
	for _, err := range b.List(ctx, proofDir+"/", true) {
		if err != nil {
			return err
		}
		break
	}
	if readOnly {
		return nil
	}
	text := []byte("written by quantraband to prove that this bucket can be written\n" + rand.Text())
	key := proofDir + "/" + rand.Text()
	if err := b.Put(ctx, key, bytes.NewReader(text)); err != nil {
		return err
	}
	got, err := b.Get(ctx, key, 0, -1)
	if err == nil && !bytes.Equal(got, text) {
		err = fmt.Errorf("bucket %s: %w: an object just written reads back as %d other bytes; is something between us rewriting it?", b.URL(), ErrUnavailable, len(got))
	}
	return errors.Join(err, b.Delete(ctx, key))
}

// explain adds to an error of prove what to do about it.
func (b *cloud) explain(err error) error {
	what, _, _ := strings.Cut(err.Error(), "\n")
	say := func(word error, advice string) error {
		return &explained{text: what + "; " + advice, word: word, cause: err}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, ErrDenied):
		return say(ErrDenied, "used: "+b.credentials)
	case errors.Is(err, ErrNotFound):
		return say(ErrNotFound, "make it with: "+b.makeIt)
	case errors.Is(err, ErrUnavailable):
		return say(ErrUnavailable, "check the network and the endpoint")
	}
	return err
}

// explained is one line about what is wrong, over the error it was made from.
type explained struct {
	text        string
	word, cause error
}

func (e *explained) Error() string   { return e.text }
func (e *explained) Unwrap() []error { return []error{e.word, e.cause} }
