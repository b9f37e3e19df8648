package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/optimize"
)

// TestBank: payments are authorised, over a connection each; a bank that has closed says so, and leaves nothing.
func TestBank(t *testing.T) {
	b, err := OpenBank()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		code, err := b.authorisePayment(t.Context(), "customer-1", 12)
		if err != nil || code != "paid-by-customer-1" {
			t.Errorf("%q, %v", code, err)
		}
	}
	// One that goes away in the middle.
	c, err := net.Dial("tcp", b.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.authorisePayment(ctx, "x", 1); err == nil {
		t.Error("a customer who left has paid")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := b.authorisePayment(t.Context(), "x", 1); err == nil {
		t.Error("a closed bank authorises")
	}
	// Close has waited for the bank's own goroutines.
	buf := make([]byte, 1<<20)
	if all := string(buf[:runtime.Stack(buf, true)]); strings.Contains(all, "(*Bank).") {
		t.Errorf("goroutines are left:\n%s", all)
	}
}

// TestShopPays: with a bank some orders are paid there.
func TestShopPays(t *testing.T) {
	s := NewShop(V1, nil)
	var err error
	if s.bank, err = OpenBank(); err != nil {
		t.Fatal(err)
	}
	defer s.bank.Close()
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	paid, onTrust := 0, 0
	for range 200 {
		resp, err := http.Post(srv.URL+"/checkout", "application/json", bytes.NewReader(randomOrder()))
		if err != nil {
			t.Fatal(err)
		}
		var r Receipt
		err = json.NewDecoder(resp.Body).Decode(&r)
		resp.Body.Close()
		switch {
		case err != nil:
			t.Fatal(err)
		case r.Paid == "":
			onTrust++
		case r.Paid == "paid-by-"+r.Order.Customer:
			paid++
		default:
			t.Fatalf("%s has paid %q", r.Order.Customer, r.Paid)
		}
		if paid > 0 && onTrust > 0 {
			return
		}
	}
	t.Errorf("%d orders were paid, %d were not: want both", paid, onTrust)
}

// TestPolicy: what the demo may do is right, and nothing starts by itself.
func TestPolicy(t *testing.T) {
	p := Policy()
	if err := p.Check(); err != nil {
		t.Error(err)
	}
	for _, k := range optimize.Kinds {
		if p.For(k, Service).Mode == optimize.Auto {
			t.Errorf("%s starts by itself", k)
		}
	}
}

// TestPlantedAreThere: the functions that are promised exist under these names.
func TestPlantedAreThere(t *testing.T) {
	pkg := strings.TrimSuffix(reflect.TypeFor[Cache]().PkgPath(), "/")
	methods := []any{(*Cache).evict, (*Cache).Put, (*Ledger).Post, (*Bank).authorisePayment, compressJournal, signReceipt}
	names := map[string]bool{}
	for _, m := range methods {
		names[runtime.FuncForPC(reflect.ValueOf(m).Pointer()).Name()] = true
	}
	for _, p := range Planted() {
		if p.Function != "" && !names[p.Function] {
			t.Errorf("%s is not in %s", p.Function, pkg)
		}
	}
	if !names[SlowFunction] {
		t.Errorf("%s is not in %s", SlowFunction, pkg)
	}
	if len(Planted()) < 6 {
		t.Errorf("%d plants", len(Planted()))
	}
}
