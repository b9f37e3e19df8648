package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestKeysDocs runs the boxes of docs/keys.md, one after the other, in an empty folder.
func TestKeysDocs(t *testing.T) {
	for _, name := range []string{"sh", "ssh-keygen", "age", "tar"} {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("QUANTRA_CI") != "" {
				t.Fatalf("no %s: .ci/run installs it", name)
			}
			t.Skipf("NOT TESTED: no %s here, which docs/keys.md shows", name)
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "keys.md"))
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		script.WriteString(block[1])
	}
	if n := strings.Count(script.String(), "quantraband "); n < 20 {
		t.Fatalf("only %d commands found", n)
	}
	dir := t.TempDir()
	cmd := exec.Command("sh", "-eux", "-c", script.String())
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir+"/xdg", "HOME="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := strings.Count(string(out), "\nhello\n"); got != 5 {
		t.Errorf("%d times hello came out:\n%s", got, out)
	}
}
