package demo

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
)

// post sends a body to a handler's /message.
func post(h http.Handler, body []byte) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/message", bytes.NewReader(body)))
	return w
}

// TestRelay: what Messages makes is delivered to all its receivers; what was altered on the way is refused.
func TestRelay(t *testing.T) {
	s := NewShop(V1, nil)
	bodies := Messages(20, 1)
	for _, body := range bodies {
		w := post(s.Handler(), body)
		var d delivered
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != http.StatusOK || d.Receivers != receivers || d.Receipt == "" {
			t.Fatalf("%d %s, %v", w.Code, w.Body, err)
		}
	}
	kept := 0
	for _, in := range s.relay.inboxes {
		for _, m := range in.messages {
			if m != nil {
				kept++
			}
		}
	}
	if kept != 20*receivers {
		t.Errorf("%d messages in the inboxes, want %d", kept, 20*receivers)
	}
	altered := bytes.Replace(bodies[0], []byte(`"topic":"meters/`), []byte(`"topic":"matters/`), 1)
	if bytes.Equal(altered, bodies[0]) {
		t.Fatal("nothing was altered")
	}
	for _, bad := range [][]byte{altered, []byte("{"), bytes.Repeat([]byte("x"), 70<<10)} {
		if w := post(s.Handler(), bad); w.Code != http.StatusBadRequest {
			t.Errorf("%.30q: %d", bad, w.Code)
		}
	}
}

// TestMessagesRepeat: a seed is a load.
func TestMessagesRepeat(t *testing.T) {
	a, b, c := Messages(5, 1), Messages(5, 1), Messages(5, 2)
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			t.Error("another load of the same seed")
		}
		if bytes.Equal(a[i], c[i]) {
			t.Error("the same message of another seed")
		}
	}
}

func BenchmarkRelay(b *testing.B) {
	h, bodies := NewShop(V1, nil).Handler(), Messages(256, 1)
	i := 0
	for b.Loop() {
		if w := post(h, bodies[i%len(bodies)]); w.Code != http.StatusOK {
			b.Fatal(w.Code, w.Body)
		}
		i++
	}
}
