// Command bundle makes web/dist from web/ui: TypeScript and CSS go through
// esbuild's Go API, so that building the dashboard needs Go alone. It runs by
// `go generate ./web`, from the folder web; its output is committed, so that
// building quantraband needs not even this.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/evanw/esbuild/pkg/api"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("bundle: ")
	files, err := bundle("ui")
	if err != nil {
		log.Fatal(err)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join("dist", name), b, 0o644); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("dist/%s %d bytes\n", name, len(b))
	}
}

// bundle is the files of web/dist, by name, made from the sources in dir. The
// same sources give the same bytes on every machine: a test compares them with
// what is committed.
func bundle(dir string) (map[string][]byte, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	res := api.Build(api.BuildOptions{
		AbsWorkingDir: abs,
		EntryPointsAdvanced: []api.EntryPoint{
			{InputPath: "src/main.ts", OutputPath: "app"},
			{InputPath: "src/app.css", OutputPath: "app"},
		},
		Bundle:            true,
		MinifyWhitespace:  true,
		MinifyIdentifiers: true,
		MinifySyntax:      true,
		Charset:           api.CharsetUTF8,
		Format:            api.FormatIIFE,
		Target:            api.ES2022,
		Outdir:            "out",
		LogLevel:          api.LogLevelSilent, // its messages come back as errors
	})
	if len(res.Errors) > 0 {
		var all []error
		for _, m := range res.Errors {
			if m.Location != nil {
				all = append(all, fmt.Errorf("%s:%d:%d: %s", m.Location.File, m.Location.Line, m.Location.Column, m.Text))
			} else {
				all = append(all, errors.New(m.Text))
			}
		}
		return nil, errors.Join(all...)
	}
	files := map[string][]byte{}
	for _, f := range res.OutputFiles {
		files[filepath.Base(f.Path)] = f.Contents
	}
	for _, name := range []string{"index.html", "icon.svg"} {
		if files[name], err = os.ReadFile(filepath.Join(abs, name)); err != nil {
			return nil, err
		}
	}
	return files, nil
}
