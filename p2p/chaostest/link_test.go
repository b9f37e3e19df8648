package chaostest

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestLink: what is held arrives when that is over and not before, what is delayed so much later, what is slow at its rate, and what is cut ends.
func TestLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		a, x := net.Pipe()
		y, b := net.Pipe()
		l.join(x, y)
		pass := func(n int) time.Duration {
			t.Helper()
			began := time.Now()
			go a.Write(make([]byte, n))
			if _, err := io.ReadFull(b, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		if got := pass(100); got != 0 {
			t.Errorf("on a clear day it takes %s", got)
		}
		l.Set(Weather{Delay: 70 * time.Millisecond})
		if got := pass(100); got != 70*time.Millisecond {
			t.Errorf("a delay of 70 ms is %s", got)
		}
		l.Set(Weather{Rate: 1000})
		if got := pass(500); got != 500*time.Millisecond {
			t.Errorf("500 bytes at 1,000 a second take %s", got)
		}
		l.Set(Weather{Hold: true})
		time.AfterFunc(time.Hour, func() { l.Set(Weather{}) })
		if got := pass(100); got != time.Hour {
			t.Errorf("what is held for an hour takes %s", got)
		}
		l.Cut()
		if _, err := b.Read(make([]byte, 1)); err == nil {
			t.Error("what was cut goes on")
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		a.Close()
	})
}
