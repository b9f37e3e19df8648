package demo

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/quantra-l/quantra/agent/lock"
)

// How much work a request is. Chosen so that no function dwarfs the others,
// and so that a few dozen requests a second keep a core about a third busy.
const (
	catalogueSize = 3000
	cacheSize     = 4000
	signRounds    = 3000
	reportRows    = 2000
	ledgerRounds  = 300
	// slowRounds are those of signReceipt in V3: about two thirds as much processor time again for a request.
	slowRounds = 16 * signRounds
)

// Shop is the checkout service.
type Shop struct {
	tracer    trace.Tracer
	catalogue []Product
	prices    *Cache
	ledger    Ledger
	relay     *Relay
	bank      *Bank // nil sells on trust
	rounds    int   // of a receipt's signature
}

// Product is what the shop sells.
type Product struct {
	SKU   string   `json:"sku"`
	Title string   `json:"title"`
	Tags  []string `json:"tags"`
	Cents int64    `json:"cents"`
}

// Order is what a customer sends to /checkout.
type Order struct {
	Customer string `json:"customer"`
	Items    []Item `json:"items"`
	Note     string `json:"note"`
}

// Item is a line of an order.
type Item struct {
	SKU      string `json:"sku"`
	Quantity int64  `json:"quantity"`
}

// Receipt is what /checkout answers.
type Receipt struct {
	Order     Order  `json:"order"`
	Cents     int64  `json:"cents"`
	Signature string `json:"signature"`
	Paid      string `json:"paid,omitempty"`
	Journal   int    `json:"journal_bytes"`
}

// NewShop opens a shop of a version, whose requests and their parts are spans of tracer; nil is no spans.
func NewShop(version string, tracer trace.Tracer) *Shop {
	if tracer == nil {
		tracer = noop.NewTracerProvider().Tracer("")
	}
	words := strings.Fields("red green blue small large wool cotton steel oak glass winter summer city garden kitchen travel light heavy classic modern")
	s := &Shop{tracer: tracer, ledger: Ledger{mu: lock.Mutex{Name: "ledger"}}, prices: NewCache(cacheSize, version != V1), relay: NewRelay(), rounds: signRounds}
	if version == V3 {
		s.rounds = slowRounds
	}
	for i := range catalogueSize {
		tags := []string{words[i%len(words)], words[i*7%len(words)], words[i*13%len(words)]}
		s.catalogue = append(s.catalogue, Product{
			SKU: fmt.Sprintf("sku-%05d", i), Title: strings.Join(tags, " ") + fmt.Sprintf(" no. %d", i),
			Tags: tags, Cents: int64(199 + i*37%20000),
		})
	}
	for i := range cacheSize {
		s.prices.Put(fmt.Sprintf("warm-%d", i), 0) // a cache that is not full evicts nothing
	}
	return s
}

// Handler serves /checkout, /search, /report and /message.
func (s *Shop) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(s.endpoint("/checkout", s.checkout))
	mux.Handle(s.endpoint("/search", s.search))
	mux.Handle(s.endpoint("/report", s.report))
	mux.Handle(labelled("/message", s.relay.message)) // without a span, which would cost more than the work
	return mux
}

// part begins a span for a part of a request; end ends it.
func (s *Shop) part(r *http.Request, name string) (end func()) {
	_, span := s.tracer.Start(r.Context(), name)
	return func() { span.End() }
}

func (s *Shop) checkout(w http.ResponseWriter, r *http.Request) {
	order, err := decodeOrder(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	end := s.part(r, "price order")
	cents := s.priceOrder(order)
	end()
	paid := ""
	if s.bank != nil && cents%2 == 0 { // the rest pay on delivery
		end = s.part(r, "authorise payment")
		paid, err = s.bank.authorisePayment(r.Context(), order.Customer, cents)
		end()
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
	}
	end = s.part(r, "book order")
	s.bookOrder(order, cents)
	end()
	end = s.part(r, "sign receipt")
	receipt := Receipt{Order: order, Cents: cents, Paid: paid, Signature: signReceipt(order.Customer, cents, s.rounds)}
	end()
	receipt.Journal = len(compressJournal(order))
	writeJSON(w, receipt)
}

//go:noinline
func decodeOrder(r interface{ Read([]byte) (int, error) }) (o Order, err error) {
	if err := json.NewDecoder(r).Decode(&o); err != nil {
		return o, fmt.Errorf("order: %w", err)
	}
	return o, nil
}

//go:noinline
func (s *Shop) priceOrder(o Order) (cents int64) {
	for _, it := range o.Items {
		// Prices depend on the customer, so most look-ups miss and evict another.
		key := o.Customer + "/" + it.SKU
		price, ok := s.prices.Get(key)
		if !ok {
			price = s.computePrice(o.Customer, it.SKU)
			s.prices.Put(key, price)
		}
		cents += price * it.Quantity
	}
	return cents
}

//go:noinline
func (s *Shop) computePrice(customer, sku string) int64 {
	h := fnv.New64a()
	for range 100 { // a pricing rule each
		h.Write([]byte(customer))
		h.Write([]byte(sku))
	}
	i, _ := slices.BinarySearchFunc(s.catalogue, sku, func(p Product, sku string) int { return strings.Compare(p.SKU, sku) })
	if i == len(s.catalogue) {
		return 0
	}
	discount := int64(h.Sum64() % 10)
	return s.catalogue[i].Cents * (100 - discount) / 100
}

// bookOrder posts the items at once, and they wait for each other in the ledger.
//
//go:noinline
func (s *Shop) bookOrder(o Order, cents int64) {
	var wg sync.WaitGroup
	for _, it := range o.Items {
		wg.Go(func() { s.ledger.Post(it.SKU, cents) })
	}
	wg.Wait()
}

// Ledger chains every booking to the one before, under one lock: the contended one.
type Ledger struct {
	mu    lock.Mutex
	chain [sha256.Size]byte
}

// Post books.
//
//go:noinline
func (l *Ledger) Post(account string, cents int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry := fmt.Appendf(l.chain[:], "%s %d", account, cents)
	for range ledgerRounds {
		l.chain = sha256.Sum256(entry)
		copy(entry, l.chain[:])
	}
}

//go:noinline
func signReceipt(customer string, cents int64, rounds int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", customer, cents))
	for range rounds {
		sum = sha256.Sum256(sum[:])
	}
	return hex.EncodeToString(sum[:])
}

// compressJournal makes a compressor for each order, with all its tables, and drops it: the planted garbage.
//
//go:noinline
func compressJournal(o Order) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestSpeed)
	if err != nil {
		return nil // the level is a valid one
	}
	enc := json.NewEncoder(w)
	for range 8 {
		if err := enc.Encode(o); err != nil {
			return nil
		}
	}
	w.Close()
	return out.Bytes()
}

func (s *Shop) search(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, rankProducts(s.matchProducts(r.URL.Query().Get("q"))))
}

type match struct {
	Product Product `json:"product"`
	Score   int     `json:"score"`
}

//go:noinline
func (s *Shop) matchProducts(query string) (found []match) {
	words := strings.Fields(strings.ToLower(query))
	for _, p := range s.catalogue {
		score := 0
		for _, w := range words {
			if strings.Contains(p.Title, w) {
				score += 2
			}
			if slices.Contains(p.Tags, w) {
				score++
			}
		}
		if score > 0 {
			found = append(found, match{p, score})
		}
	}
	return found
}

//go:noinline
func rankProducts(found []match) []match {
	slices.SortStableFunc(found, func(a, b match) int {
		if a.Score != b.Score {
			return b.Score - a.Score
		}
		return strings.Compare(a.Product.Title, b.Product.Title)
	})
	return found[:min(len(found), 20)]
}

func (s *Shop) report(w http.ResponseWriter, r *http.Request) {
	end := s.part(r, "build report")
	text := s.buildReport()
	end()
	end = s.part(r, "compress report")
	body := compressReport(text)
	end()
	w.Header().Set("Content-Type", "text/csv")
	w.Header().Set("Content-Encoding", "gzip")
	w.Write(body) // a customer that went away is no fault of ours
}

// buildReport is the path that allocates: a map and a string for each row, all garbage at once.
//
//go:noinline
func (s *Shop) buildReport() string {
	var lines []string
	for _, p := range s.catalogue[:reportRows] {
		row := map[string]string{
			"sku":   p.SKU,
			"title": strings.ToUpper(p.Title),
			"price": fmt.Sprintf("%d.%02d", p.Cents/100, p.Cents%100),
		}
		lines = append(lines, strings.Join([]string{row["sku"], row["title"], row["price"]}, ";"))
	}
	return strings.Join(lines, "\n")
}

//go:noinline
func compressReport(text string) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write([]byte(text)) // a bytes.Buffer does not fail
	w.Close()
	return out.Bytes()
}

//go:noinline
func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the customer went away
	}
}
