package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/zlib"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/csv"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"go/types"
	"html/template"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"text/tabwriter"
	texttemplate "text/template"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
)

// jobs are real work of the standard library and of what this program links, from which benchmarks get real profiles. Each
// runs for some milliseconds.
var jobs = []func(r *rand.Rand) error{
	jsonJob, regexpJob, textJob, htmlJob, goJob, xmlJob, gobJob, packJob, imageJob, tlsJob, httpJob, mathJob, tableJob, treeJob, profileJob,
}

// benchWork is a child of `bench store`: it does some of the jobs, by its seed, and writes the profile of its allocations. Each one's profile
// is another's program as a store sees it: other functions, depths and values.
func (a *app) benchWork() *cobra.Command {
	var seed uint64
	var out string
	cmd := &cobra.Command{
		Use: "work", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			runtime.MemProfileRate = 512
			r := rand.New(rand.NewPCG(seed, 1))
			mine := slices.Clone(jobs)
			r.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
			mine = mine[:2+r.IntN(len(mine)-2)]
			for end := time.Now().Add(time.Second); time.Now().Before(end); {
				if err := mine[r.IntN(len(mine))](r); err != nil {
					return err
				}
			}
			runtime.GC() // the profile is as of the last collection
			return writeFile(out, func(w io.Writer) error { return pprof.Lookup("allocs").WriteTo(w, 0) })
		},
	}
	cmd.Flags().Uint64Var(&seed, "seed", 0, "")
	cmd.Flags().StringVar(&out, "output", "", "")
	return cmd
}

func words(r *rand.Rand, n int) string {
	var b strings.Builder
	for range n {
		for range 1 + r.IntN(9) {
			b.WriteByte(byte('a' + r.IntN(26)))
		}
		b.WriteByte(' ')
	}
	return b.String()
}

func nested(r *rand.Rand, depth int) any {
	switch k := r.IntN(6); {
	case depth == 0 || k == 0:
		return words(r, 2)
	case k == 1:
		return r.Float64()
	case k < 4:
		out := make([]any, 1+r.IntN(4))
		for i := range out {
			out[i] = nested(r, depth-1)
		}
		return out
	default:
		out := map[string]any{}
		for range 1 + r.IntN(4) {
			out[words(r, 1)] = nested(r, depth-1)
		}
		return out
	}
}

func jsonJob(r *rand.Rand) error {
	raw, err := json.MarshalIndent(nested(r, 7), "", " ")
	if err != nil {
		return err
	}
	var back any
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&back); err != nil {
		return err
	}
	var out bytes.Buffer
	return json.Compact(&out, raw)
}

func regexpJob(r *rand.Rand) error {
	text := words(r, 500)
	for _, x := range []string{`(a|b)+[c-f]{2,3}`, `\b(\w+)\s(\w+)\b`, `(?i)x[^ ]*y|z.*? `, `^(?:[a-m]+ )+`} {
		re, err := regexp.Compile(x)
		if err != nil {
			return err
		}
		re.FindAllStringSubmatchIndex(text, -1)
		re.ReplaceAllStringFunc(text, strings.ToUpper)
	}
	return nil
}

const templateText = `{{define "item"}}<li class="{{.}}" onclick="f({{.}})">{{printf "%q" .}}{{if gt (len .) 5}} long{{end}}</li>{{end}}
<ul>{{range $i, $w := .}}{{if $w}}{{template "item" $w}}{{else}}none{{end}}{{end}}</ul><a href="/x?q={{index . 0}}">{{len .}}</a>`

func textJob(r *rand.Rand) error {
	t, err := texttemplate.New("t").Parse(templateText)
	if err != nil {
		return err
	}
	return t.Execute(io.Discard, strings.Split(words(r, 200), " "))
}

func htmlJob(r *rand.Rand) error {
	t, err := template.New("t").Parse(templateText)
	if err != nil {
		return err
	}
	return t.Execute(io.Discard, strings.Split(words(r, 200), " "))
}

// goJob parses, checks and formats a Go program.
func goJob(r *rand.Rand) error {
	var b strings.Builder
	b.WriteString("package p\ntype T struct { a, b int; next *T }\n")
	for i := range 30 {
		fmt.Fprintf(&b, "func f%d(x int, t *T) (y int) { for i := 0; i < x; i++ { if t != nil && t.a > i { y += t.b * %d } else { switch { case x > %d: y-- ; default: y = func(z int) int { return z << 2 }(y) } } }; return y }\n", i, r.IntN(100), r.IntN(100))
	}
	src, err := format.Source([]byte(b.String()))
	if err != nil {
		return err
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "p.go", src, parser.ParseComments)
	if err != nil {
		return err
	}
	n := 0
	ast.Inspect(f, func(ast.Node) bool { n++; return true })
	_, err = (&types.Config{}).Check("p", fset, []*ast.File{f}, &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}})
	return err
}

type document struct {
	Title string    `xml:"title,attr"`
	Parts []part    `xml:"part"`
	Next  *document `xml:"next"`
}

type part struct {
	Name  string
	Value float64
	Tags  []string
}

func documentOf(r *rand.Rand, depth int) *document {
	d := &document{Title: words(r, 2)}
	for range 5 {
		d.Parts = append(d.Parts, part{words(r, 1), r.Float64(), strings.Fields(words(r, 3))})
	}
	if depth > 0 {
		d.Next = documentOf(r, depth-1)
	}
	return d
}

func xmlJob(r *rand.Rand) error {
	raw, err := xml.MarshalIndent(documentOf(r, 6), "", " ")
	if err != nil {
		return err
	}
	return xml.Unmarshal(raw, new(document))
}

func gobJob(r *rand.Rand) error {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(documentOf(r, 6)); err != nil {
		return err
	}
	return gob.NewDecoder(&b).Decode(new(document))
}

func packJob(r *rand.Rand) error {
	raw := []byte(words(r, 3000))
	var b bytes.Buffer
	f, err := flate.NewWriter(&b, 1+r.IntN(9))
	if err != nil {
		return err
	}
	f.Write(raw)
	f.Close()
	if _, err := io.Copy(io.Discard, flate.NewReader(&b)); err != nil {
		return err
	}
	z := zlib.NewWriter(&b)
	z.Write(raw)
	z.Close()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.DecodeAll(e.EncodeAll(raw, nil), nil); err != nil {
		return err
	}
	zw := zip.NewWriter(&b)
	w, err := zw.Create("f")
	if err != nil {
		return err
	}
	w.Write(raw)
	return zw.Close()
}

func imageJob(r *rand.Rand) error {
	m := image.NewPaletted(image.Rect(0, 0, 64, 64), color.Palette{color.Black, color.White, color.Gray{100}})
	for i := range m.Pix {
		m.Pix[i] = byte(r.IntN(3))
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		return err
	}
	if _, err := png.Decode(&b); err != nil {
		return err
	}
	if err := jpeg.Encode(&b, m, nil); err != nil {
		return err
	}
	if _, err := jpeg.Decode(&b); err != nil {
		return err
	}
	return gif.Encode(&b, m, nil)
}

// certificate is a new one of its own authority.
func certificate(r *rand.Rand) (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(r.Int64()), Subject: pkix.Name{CommonName: "bench"}, DNSNames: []string{"bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(crand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool, nil
}

func tlsJob(r *rand.Rand) error {
	cert, pool, err := certificate(r)
	if err != nil {
		return err
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(a, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake() }()
	err = tls.Client(b, &tls.Config{RootCAs: pool, ServerName: "bench"}).Handshake()
	return errors.Join(err, <-done)
}

func httpJob(r *rand.Rand) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	text := words(r, 100)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, q.URL.Query().Get("q")+text) })}
	go srv.Serve(ln)
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for range 20 {
		q, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+ln.Addr().String()+"/?q=1", nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(q)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	return nil
}

func mathJob(r *rand.Rand) error {
	x, m := big.NewInt(r.Int64()), new(big.Int).Lsh(big.NewInt(1), 256)
	for range 20 {
		x.Exp(x, big.NewInt(65537), m)
		new(big.Rat).SetFrac(x, big.NewInt(1+r.Int64N(1e9))).FloatString(30)
		new(big.Float).SetPrec(200).Sqrt(new(big.Float).SetInt(x))
	}
	return nil
}

func tableJob(r *rand.Rand) error {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	for range 100 {
		w.Write(strings.Fields(words(r, 5)))
	}
	w.Flush()
	rows, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(io.Discard, 0, 0, 1, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

type tree struct {
	kids []*tree
	text string
}

// treeJob builds and walks a tree: recursion as deep as it comes.
func treeJob(r *rand.Rand) error {
	var grow func(depth int) *tree
	grow = func(depth int) *tree {
		t := &tree{text: strings.ToUpper(words(r, 1))}
		for range r.IntN(3) {
			if depth > 0 {
				t.kids = append(t.kids, grow(depth-1))
			}
		}
		return t
	}
	var all []string
	var walk func(t *tree)
	walk = func(t *tree) {
		all = append(all, t.text)
		for _, k := range t.kids {
			walk(k)
		}
	}
	for range 20 {
		walk(grow(14))
	}
	slices.Sort(all)
	return nil
}

func profileJob(*rand.Rand) error {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 0); err != nil {
		return err
	}
	p, err := profile.DecodeBytes(b.Bytes(), profile.Limits{})
	if err != nil {
		return err
	}
	return p.Encode(io.Discard)
}
