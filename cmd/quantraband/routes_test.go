package main

import (
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/quantra-l/quantra/access"
	quantrav1 "github.com/quantra-l/quantra/wire/quantra/v1"
	querierv1 "github.com/quantra-l/quantra/wire/querier/v1"
)

// TestTableOfDemands: every row of the table is a route that the server has, and every method of the API has its row. That a route without a
// row is denied, access tests.
func TestTableOfDemands(t *testing.T) {
	s := mustStart(t, "--data", filepath.Join(t.TempDir(), "data"), "--no-self-profile")
	client := owner(s.base)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	rows := map[string]bool{}
	for _, row := range access.Rows() {
		method, path, ok := strings.Cut(row.Pattern, " ")
		if !ok {
			method, path = "POST", row.Pattern
		}
		rows[path] = true
		if strings.HasSuffix(path, "/") && path != "/" { // what is under these is denied
			continue
		}
		if path == "/" {
			method = "GET"
		}
		path = strings.NewReplacer("{$}", "", "{id}", "0123456789abcdef", "{service}", "nobody", "{kind}", "heap").Replace(path)
		if strings.HasSuffix(path, "/goroutines") || strings.HasSuffix(path, "/trace") || strings.Contains(path, "/tasks/") {
			path += "?service=nobody"
		}
		req, err := http.NewRequest(method, s.base+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		text := string(body)
		if err != nil || strings.Contains(text, "there is nothing at") || strings.Contains(text, "is nothing here") || res.StatusCode == http.StatusMethodNotAllowed || res.StatusCode == http.StatusUnauthorized && !strings.Contains(path, "/login") {
			t.Errorf("%s is answered %s %.200s: the table names what is not there", row.Pattern, res.Status, text)
		}
	}
	for _, file := range []protoreflect.FileDescriptor{quantrav1.File_quantra_v1_querier_proto, querierv1.File_querier_v1_querier_proto} {
		n := 0
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				n++
				if path := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name()); !rows[path] {
					t.Errorf("%s has no row: it is denied to everyone", path)
				}
			}
		}
		if n < 10 {
			t.Errorf("%s has %d methods: the test shows nothing", file.Path(), n)
		}
	}
}
