package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/quantra-l/quantra/analyze/price"
)

var update = flag.Bool("update", false, "write docs/cli.md anew")

// commands visits every command that a user sees.
func commands(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, c := range cmd.Commands() {
		if !c.Hidden && c.Name() != "help" {
			commands(c, visit)
		}
	}
}

func testRoot() *cobra.Command {
	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard}
	return a.rootCommand()
}

// TestDocs: docs/cli.md says what the commands say of themselves.
func TestDocs(t *testing.T) {
	t.Setenv("QUANTRA_SERVER", "")
	var b strings.Builder
	b.WriteString("# The command line\n\nWritten by `go test ./cmd/quantraband -run TestDocs -update` from the commands themselves.\n")
	n := 0
	commands(testRoot(), func(cmd *cobra.Command) {
		n++
		describe(&b, cmd)
	})
	if n < 15 {
		t.Fatalf("only %d commands found", n)
	}
	name := filepath.Join("..", "..", "docs", "cli.md")
	if *update {
		if err := os.WriteFile(name, []byte(b.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if strings.ReplaceAll(string(have), "\r\n", "\n") != b.String() {
		t.Error("docs/cli.md is not what the commands say; run: go test ./cmd/quantraband -run TestDocs -update")
	}
}

func describe(b *strings.Builder, cmd *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n", cmd.CommandPath())
	if cmd.Runnable() && !cmd.HasAvailableSubCommands() {
		fmt.Fprintf(b, "    %s\n\n", cmd.UseLine())
	}
	text := cmd.Long
	if text == "" {
		text = cmd.Short + "."
	}
	b.WriteString(text + "\n")
	if cmd.Example != "" {
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", regexp.MustCompile(`(?m)^  `).ReplaceAllString(cmd.Example, ""))
	}
	if cmd.HasAvailableSubCommands() {
		b.WriteString("\n| command | |\n| --- | --- |\n")
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand() {
				fmt.Fprintf(b, "| `%s` | %s |\n", c.CommandPath(), c.Short)
			}
		}
	}
	if cmd.LocalFlags().HasAvailableFlags() {
		b.WriteString("\n| flag | |\n| --- | --- |\n")
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Name == "help" {
				return
			}
			arg, usage := pflag.UnquoteUsage(f)
			name := "--" + f.Name
			if f.Shorthand != "" {
				name = "-" + f.Shorthand + ", " + name
			}
			switch f.DefValue {
			case "", "false", "[]", "0", "0s":
			default:
				usage += " (default " + f.DefValue + ")"
			}
			fmt.Fprintf(b, "| `%s` | %s |\n", strings.TrimSpace(name+" "+arg), strings.ReplaceAll(usage, "|", `\|`))
		})
	}
}

// TestExamplesParse: every line of every example is a command line that is
// accepted, so that help never shows what does not work.
func TestExamplesParse(t *testing.T) {
	n := 0
	commands(testRoot(), func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			for _, args := range ourCommands(line) {
				n++
				if err := parses(args); err != nil {
					t.Errorf("example of %q: %s: %v", cmd.CommandPath(), strings.TrimSpace(line), err)
				}
			}
		}
	})
	if n < 20 {
		t.Errorf("only %d examples found", n)
	}
}

// TestReadmeParses: the commands that README shows are commands we have.
func TestReadmeParses(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for line := range strings.Lines(block[1]) {
			line = strings.Replace(line, "go run ./cmd/quantraband", "quantraband", 1)
			for _, args := range ourCommands(line) {
				n++
				if err := parses(args); err != nil {
					t.Errorf("README: %s: %v", strings.TrimSpace(line), err)
				}
			}
		}
	}
	if n == 0 {
		t.Error("README shows no command of ours")
	}
}

// ourCommands finds the calls of quantraband in a line of shell: not a shell's
// grammar, but words, single quotes, pipes, redirections and comments.
func ourCommands(line string) [][]string {
	var all [][]string
	line = regexp.MustCompile(`\s#.*`).ReplaceAllString(strings.TrimSpace(line), "")
	line = strings.NewReplacer("<(", "| ", ")", "").Replace(line)
	for part := range strings.SplitSeq(line, "|") {
		part, _, _ = strings.Cut(part, " > ")
		var args []string
		for _, m := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(part, -1) {
			args = append(args, m[1]+m[2])
		}
		if len(args) > 0 && args[0] == "quantraband" {
			all = append(all, args[1:])
		}
	}
	return all
}

// parses says why args are not a command line that would be run.
func parses(args []string) error {
	cmd, rest, err := testRoot().Find(args)
	if err != nil {
		return err
	}
	if cmd.HasSubCommands() && len(rest) > 0 && !strings.HasPrefix(rest[0], "-") {
		return fmt.Errorf("%s has no command %q", cmd.CommandPath(), rest[0])
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// TestGuardsParse shows the check red: what is not ours is refused.
func TestGuardsParse(t *testing.T) {
	for _, bad := range []string{"quantraband frob", "quantraband profile frob", "quantraband profile top --frob x", "quantraband profile diff a", "x | quantraband query nosuch"} {
		for _, args := range ourCommands(bad) {
			if parses(args) == nil {
				t.Errorf("%q is taken", bad)
			}
		}
		if len(ourCommands(bad)) != 1 {
			t.Errorf("%q: %d commands found", bad, len(ourCommands(bad)))
		}
	}
}

// TestOperations: the commands that docs/operations.md tells people to run are commands, with flags that they have.
func TestOperations(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(raw)) {
		line, ok := strings.CutPrefix(line, "    quantraband ")
		if !ok {
			continue
		}
		n++
		line, _, _ = strings.Cut(line, "#")
		cmd, args, err := testRoot().Find(strings.Fields(strings.ReplaceAll(line, "'", "")))
		if err == nil && cmd.HasSubCommands() {
			err = fmt.Errorf("%s is no command that does something", cmd.CommandPath())
		}
		if err == nil {
			err = cmd.ParseFlags(args)
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil {
			t.Errorf("quantraband %s: %v", strings.TrimSpace(line), err)
		}
	}
	if n < 8 {
		t.Errorf("only %d commands found", n)
	}
}

// TestDiffDocs: the commands that docs/diff.md and docs/price.md show are commands with flags that they have; the price file that is shown is one.
func TestDiffDocs(t *testing.T) {
	n := 0
	for _, name := range []string{"diff.md", "price.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(block[1]) {
				for _, args := range ourCommands(line) {
					n++
					if err := parses(args); err != nil {
						t.Errorf("%s: %s: %v", name, strings.TrimSpace(line), err)
					}
				}
			}
		}
		if name != "price.md" {
			continue
		}
		m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)
		if m == nil {
			t.Fatal("docs/price.md shows no file")
		}
		if p, err := price.Decode(strings.NewReader(string(m[1]))); err != nil || len(p.Rules) != 2 {
			t.Errorf("docs/price.md: %v", err)
		}
	}
	if n < 8 {
		t.Errorf("only %d commands found", n)
	}
}
