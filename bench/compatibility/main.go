// Compatibility makes docs/compatibility.md: the table of official clients that
// were run against ingest and web, what they sent, and what was seen. Its rows are JSON lines that the tests
// write to the file that QUANTRA_COMPATIBILITY names:
//
//	QUANTRA_COMPATIBILITY=/tmp/rows.jsonl go test ./...
//	go run ./bench/compatibility /tmp/rows.jsonl > docs/compatibility.md
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// row is as ingest/clienttest writes it.
type row struct {
	Protocol, Client, Version, Sent, Seen, Date string
}

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "compatibility:", err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer) error {
	if len(args) != 1 {
		return errors.New("one argument: the file of JSON lines that QUANTRA_COMPATIBILITY named")
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	rows, err := read(f)
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return write(w, rows)
}

// read reads rows; of several about the same client and protocol the last is left. No row at all is an error: nothing was tested.
func read(r io.Reader) ([]row, error) {
	last := map[[2]string]row{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		var x row
		if err := json.Unmarshal(lines.Bytes(), &x); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if x.Protocol == "" || x.Client == "" || x.Version == "" || x.Sent == "" || x.Seen == "" || x.Date == "" {
			return nil, fmt.Errorf("line %d: a row must have protocol, client, version, sent, seen and date", n)
		}
		last[[2]string{x.Protocol, x.Client}] = x
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(last) == 0 {
		return nil, errors.New("it has no row: no client was run")
	}
	var rows []row
	for _, x := range last {
		rows = append(rows, x)
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(strings.Compare(a.Protocol, b.Protocol), strings.Compare(a.Client, b.Client))
	})
	return rows, nil
}

func write(w io.Writer, rows []row) error {
	var b strings.Builder
	b.WriteString(`# Compatibility

Each row is a test that ran the official client, as its registry has it, and looked at what came of it. The table is made by ` + "`go run ./bench/compatibility`" + `
of what the tests wrote, and not by hand; ` + "`.ci/run race compatibility`" + ` makes it anew. What names and types become is in [model.md](model.md).

| protocol | client | version | sent | seen | date |
| --- | --- | --- | --- | --- | --- |
`)
	for _, x := range rows {
		cells := []string{x.Protocol, x.Client, x.Version, x.Sent, x.Seen, x.Date}
		for i, c := range cells {
			cells[i] = strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(c)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
