package zerotrust_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/zerotrust"
)

func TestHandler(t *testing.T) {
	h := open(t)
	k := keyOf(2)
	s, _, err := h.Begin(context.Background(), asks(document(t, k, h.issuer), k), channel)
	must(t, err)
	other, _, err := h.Begin(context.Background(), asks(document(t, keyOf(3), h.issuer), keyOf(3)), channel)
	must(t, err)
	handler := h.Handler(slog.New(slog.NewTextHandler(io.Discard, nil)))
	ask := func(method, path string, body []byte, status int) (out map[string]any) {
		t.Helper()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(method, zerotrust.APIPath+path, bytes.NewReader(body)))
		if w.Code != status {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		must(t, json.Unmarshal(w.Body.Bytes(), &out))
		return out
	}
	if st := ask("GET", "/status", nil, 200); st["connections"] != 2.0 || st["allowed"] != 2.0 {
		t.Errorf("%v", st)
	}
	if c := ask("GET", "/connections", nil, 200)["connections"].([]any); len(c) != 2 || c[0].(map[string]any)["level"] != "basic" {
		t.Errorf("%v", c)
	}
	ask("POST", "/connections/"+s.ID()+"/terminate", []byte(`{"reason":"night"}`), 200)
	ask("POST", "/connections/"+s.ID()+"/terminate", []byte(`{}`), 404)
	ask("POST", "/connections/"+s.ID()+"/terminate", []byte(`{"reason":"`+string(bytes.Repeat([]byte("x"), 200))+`"}`), 400)
	ask("POST", "/connections/"+s.ID()+"/terminate", []byte(`{"why":"x"}`), 400)
	ask("GET", "/nothing", nil, 404)
	ask("GET", "/status?x=1", nil, 400)
	ask("POST", "/revocations", []byte("noise"), 400)
	list := revoke(t, h.issuer, 1, zerotrust.Revocation{Principal: other.Principal(), At: epoch})
	ask("POST", "/revocations", revoke(t, keyOf(66), 1), 403)
	ask("POST", "/revocations", list, 200)
	if s.Err() == nil || other.Err() == nil {
		t.Error("they are still open")
	}
	foreign := httptest.NewRequest("POST", zerotrust.APIPath+"/revocations", bytes.NewReader(list))
	foreign.Header.Set("Origin", "https://elsewhere.example")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, foreign)
	if w.Code != http.StatusForbidden {
		t.Errorf("a page from elsewhere: %d", w.Code)
	}
}

// TestReadOnly: a folder is judged by while another guard has it, and nothing is written.
func TestReadOnly(t *testing.T) {
	mem := vfs.NewMem()
	h := open(t, func(o *zerotrust.Options) { o.Dir, o.FS = "/guard", mem })
	k := keyOf(2)
	r := asks(document(t, k, h.issuer), k)
	grow(t, h, r, 55)
	must(t, h.Failed(context.Background(), zerotrust.IDOf(k.Public())))
	must(t, h.Revoke(revoke(t, h.issuer, 4)))
	rec := &vfs.Recorder{}
	look := open(t, func(o *zerotrust.Options) { o.Dir, o.FS, o.ReadOnly = "/guard", vfs.Hook(mem, rec.Hook), true })
	if d := decide(t, look, r); d.Trust != 50 {
		t.Errorf("trust %d", d.Trust)
	}
	if st := look.Status(); st.Revocations[0].Number != 4 {
		t.Errorf("%+v", st)
	}
	must(t, look.Revoke(revoke(t, h.issuer, 5)))
	must(t, look.Close())
	if rec.String() != "" {
		t.Errorf("it has written:\n%s", rec)
	}
}
