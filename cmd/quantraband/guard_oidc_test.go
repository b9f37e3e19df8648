package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestProviderFile: a slip in the provider's file ends the start, and names the place.
func TestProviderFile(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := "issuer: https://accounts.example.com\nclient_id: quantra\n"
	for text, want := range map[string]string{
		good: "", good + "client_secret_file: " + secret + "\n": "",
		good + "client_secret_file: " + filepath.Join(dir, "none") + "\n": "client_secret_file",
		good + "ca_file: " + secret + "\n":                                "has no certificate",
		good + "grants: [{all: true, give: [wizard]}]\n":                  "line 3",
	} {
		path := filepath.Join(dir, "oidc.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := openProvider(path, "https://profiles.example.com/")
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || exitCode(err) != exitUsage) {
			t.Errorf("%s: %v", text, err)
		}
		if err == nil && p.Issuer() != "https://accounts.example.com" {
			t.Error(p.Issuer())
		}
	}
	if _, err := openProvider(filepath.Join(dir, "none.yaml"), ""); exitCode(err) != exitUsage {
		t.Error(err)
	}
}
