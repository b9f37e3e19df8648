package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// LoadOptions is a steady load of customers.
type LoadOptions struct {
	Targets []string // base URLs of services, at least one unless Updates brings them
	// Rate is requests a second, over all targets together. 0 is 100; <0 is an error.
	Rate float64
	// Concurrency bounds the requests under way; past it customers go away
	// unserved, so that a slow service is not buried. 0 is 32; <0 is an error.
	Concurrency int
	// Updates replaces the targets while the load runs, as when a service came
	// back elsewhere. nil is never.
	Updates <-chan []string
}

// LoadStats is what a load did.
type LoadStats struct{ OK, Failed, Skipped int64 }

// Load sends requests until ctx ends, at the rate whatever the services do (an
// open loop, as customers are), in the mix of a shop: in 10 requests 6
// checkouts, 3 searches and a report. Requests that fail are counted.
func Load(ctx context.Context, o LoadOptions) (LoadStats, error) {
	if o.Rate == 0 {
		o.Rate = 100
	}
	if o.Concurrency == 0 {
		o.Concurrency = 32
	}
	if o.Rate < 0 || o.Rate > 1e6 || o.Concurrency < 0 {
		return LoadStats{}, fmt.Errorf("demo: load: rate %g and concurrency %d must be above 0, the rate at most 1e6", o.Rate, o.Concurrency)
	}
	if len(o.Targets) == 0 && o.Updates == nil {
		return LoadStats{}, errors.New("demo: load: no targets; name at least one base URL")
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: o.Concurrency}}
	defer client.CloseIdleConnections()
	var (
		mu     sync.Mutex
		stats  LoadStats
		wg     sync.WaitGroup
		slots  = make(chan struct{}, o.Concurrency)
		ticker = time.NewTicker(time.Duration(float64(time.Second) / o.Rate))
	)
	defer ticker.Stop()
	defer wg.Wait()
	count := func(n *int64) {
		mu.Lock()
		*n++
		mu.Unlock()
	}
	for n := 0; ; {
		select {
		case <-ctx.Done():
			wg.Wait()
			return stats, nil
		case targets, ok := <-o.Updates:
			if !ok {
				o.Updates = nil // no more; a closed channel would be ready for ever
				continue
			}
			o.Targets = targets
			continue
		case <-ticker.C:
		}
		if len(o.Targets) == 0 {
			continue
		}
		// Round robin with a step between kinds, so that all services get all kinds.
		target, kind := o.Targets[n%len(o.Targets)], n/len(o.Targets)%10
		n++
		select {
		case slots <- struct{}{}:
		default:
			count(&stats.Skipped)
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := visit(ctx, client, target, kind); err != nil {
				count(&stats.Failed)
				return
			}
			count(&stats.OK)
		})
	}
}

// visit is one request of a customer.
func visit(ctx context.Context, client *http.Client, target string, kind int) error {
	method, path, body := http.MethodGet, "/report", []byte(nil)
	switch {
	case kind < 6:
		method, path, body = http.MethodPost, "/checkout", randomOrder()
	case kind < 9:
		words := []string{"red wool", "blue glass garden", "oak", "summer travel light", "modern kitchen"}
		path = "/search?q=" + url.QueryEscape(words[rand.IntN(len(words))])
	}
	req, err := http.NewRequestWithContext(ctx, method, target+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return nil
}

func randomOrder() []byte {
	o := Order{Customer: fmt.Sprintf("customer-%04d", rand.IntN(5000)), Note: "leave it with the neighbour, please"}
	for range 12 {
		o.Items = append(o.Items, Item{SKU: fmt.Sprintf("sku-%05d", rand.IntN(catalogueSize)), Quantity: 1 + rand.Int64N(3)})
	}
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return b
}
