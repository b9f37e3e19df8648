package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// regionBudget bounds the whole search. The metadata services answer from the
	// machine itself, within a few milliseconds; where there is none, packets are lost.
	regionBudget = 300 * time.Millisecond
	// maxMetadata bounds an answer. The longest in use is AWS's token, about 60 bytes.
	maxMetadata = 1 << 10

	regionDefault = "local"
)

// cloud is a provider's metadata service: where this machine is, or why that is not known.
type cloud struct {
	name string
	ask  func(ctx context.Context, getenv func(string) string, rt http.RoundTripper) (string, error)
}

// clouds are in the order of how well their answers prove who answers. Google's
// and AWS's have a marker of their own. Azure's is a bare word, and all of them
// share one address, so that it counts only where the others did not answer.
var clouds = []cloud{{"gcp", askGCP}, {"aws", askAWS}, {"azure", askAzure}}

// detectRegion is the region this program runs in and how that is known: "env"
// (QUANTRA_REGION, as it stands), "gcp", "aws" or "azure" (what their platforms put
// into the environment, else their metadata services, all asked at once), or
// "default", which is "local". It takes 300 ms at most, or until ctx ends, and
// leaves no goroutine of its own behind. rt sends the requests; nil is a transport that
// uses no proxy. Redirects are never followed.
func detectRegion(ctx context.Context, getenv func(string) string, rt http.RoundTripper) (region, source string) {
	// What its operator says holds as it is: residency must not hang on our notion of a region's name.
	if r := getenv(envRegion); r != "" {
		return r, "env"
	}
	if region, source = platformRegion(getenv); region != "" {
		return region, source
	}
	ctx, cancel := context.WithTimeout(ctx, regionBudget)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	if rt == nil {
		t := metadataTransport()
		defer t.CloseIdleConnections()
		rt = t
	}
	answers := make([]chan string, len(clouds)) // closed without a value where there is no answer
	for i, c := range clouds {
		answers[i] = make(chan string, 1)
		asking.Go(func() {
			defer close(answers[i])
			if r, err := c.ask(ctx, getenv, rt); err == nil {
				answers[i] <- r
			}
		})
	}
	// The first of the list that answers wins, not the fastest: the same machine has the same region each time.
	for i, c := range clouds {
		if r := <-answers[i]; r != "" {
			return r, c.name
		}
	}
	return regionDefault, "default"
}

// platformRegion is the region that a platform without a reachable metadata service
// puts into the environment. AWS_REGION alone proves nothing: programs
// anywhere set it to talk to AWS. It counts beside a variable that only Lambda or ECS set.
//
// Sources: "Defined runtime environment variables" (AWS Lambda), "Task metadata endpoint
// version 4" (Amazon ECS), "Environment variables and app settings" (Azure App Service).
func platformRegion(getenv func(string) string) (region, source string) {
	if r := getenv("AWS_REGION"); validRegion(r) {
		for _, sign := range []string{"AWS_LAMBDA_FUNCTION_NAME", "AWS_EXECUTION_ENV", "ECS_CONTAINER_METADATA_URI_V4"} {
			if getenv(sign) != "" {
				return r, "aws"
			}
		}
	}
	if getenv("WEBSITE_SITE_NAME") != "" {
		// "West Europe" here is "westeurope" everywhere else in Azure.
		if r := strings.ToLower(strings.ReplaceAll(getenv("REGION_NAME"), " ", "")); validRegion(r) {
			return r, "azure"
		}
	}
	return "", ""
}

// askGCP reads the zone, as Compute Engine and GKE have it, else the region, as Cloud Run has it.
// The answers are "projects/1/zones/europe-west1-b" and "projects/1/regions/europe-west1".
func askGCP(ctx context.Context, getenv func(string) string, rt http.RoundTripper) (string, error) {
	host := getenv("GCE_METADATA_HOST") // host or host:port, as Google's own libraries read it
	if host == "" {
		host = "metadata.google.internal"
	}
	base := "http://" + host + "/computeMetadata/v1/instance/"
	ask := func(what string) (string, error) {
		r, header, err := metadata(ctx, rt, http.MethodGet, base+what, "Metadata-Flavor", "Google")
		if err != nil {
			return "", err
		}
		if header.Get("Metadata-Flavor") != "Google" {
			return "", errors.New("the answer is not Google's")
		}
		return r[strings.LastIndexByte(r, '/')+1:], nil
	}
	zone, err := ask("zone")
	if err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		region, err := ask("region")
		if err != nil {
			return "", err
		}
		return checkedRegion(region)
	}
	i := strings.LastIndexByte(zone, '-')
	if i < 0 {
		return "", fmt.Errorf("%.64q is no zone", zone)
	}
	return checkedRegion(zone[:i])
}

// askAWS speaks IMDSv2: a token first, then the region. IMDSv1 is never used: any
// server that answers plain requests would pass for it.
func askAWS(ctx context.Context, getenv func(string) string, rt http.RoundTripper) (string, error) {
	if strings.EqualFold(getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		return "", errors.New("switched off by AWS_EC2_METADATA_DISABLED")
	}
	base := getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")
	switch {
	case base != "":
	case strings.EqualFold(getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"), "ipv6"):
		base = "http://[fd00:ec2::254]"
	default:
		base = "http://169.254.169.254"
	}
	base = strings.TrimSuffix(base, "/")
	token, _, err := metadataOf(ctx, rt, http.MethodPut, base+"/latest/api/token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60")
	if err != nil {
		return "", err
	}
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || r == '<' }) {
		return "", errors.New("the answer is no token")
	}
	region, _, err := metadataOf(ctx, rt, http.MethodGet, base+"/latest/meta-data/placement/region", "X-Aws-Ec2-Metadata-Token", token)
	if err != nil {
		return "", err
	}
	return checkedRegion(region)
}

func askAzure(ctx context.Context, _ func(string) string, rt http.RoundTripper) (string, error) {
	region, _, err := metadataOf(ctx, rt, http.MethodGet,
		"http://169.254.169.254/metadata/instance/compute/location?api-version=2021-02-01&format=text", "Metadata", "true")
	if err != nil {
		return "", err
	}
	return checkedRegion(region)
}

// metadataOf is metadata of a cloud other than Google, whose server marks all its
// answers, and has the same address.
func metadataOf(ctx context.Context, rt http.RoundTripper, method, url, key, value string) (string, http.Header, error) {
	text, header, err := metadata(ctx, rt, method, url, key, value)
	if err == nil && header.Get("Metadata-Flavor") != "" {
		return "", nil, errors.New("it is Google's server that answered")
	}
	return text, header, err
}

// metadata is one request with one header, and the text of its answer.
func metadata(ctx context.Context, rt http.RoundTripper, method, url, key, value string) (string, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return "", nil, err
	}
	req.Header.Set(key, value)
	req.Header.Set("User-Agent", "quantra-agent")
	// A transport, not a client: it follows no redirect.
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", nil, fmt.Errorf("status %s", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxMetadata+1))
	switch {
	case err != nil:
		return "", nil, err
	case len(text) > maxMetadata:
		return "", nil, fmt.Errorf("the answer has more than %d bytes", maxMetadata)
	}
	return strings.TrimSpace(string(text)), resp.Header, nil
}

func checkedRegion(r string) (string, error) {
	if !validRegion(r) {
		return "", fmt.Errorf("%.64q is no region", r)
	}
	return r, nil
}

// validRegion: [a-z0-9-]{1,64}, which all regions of the three are.
func validRegion(r string) bool {
	if r == "" || len(r) > 64 {
		return false
	}
	for _, c := range []byte(r) {
		if !(c == '-' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return true
}

// metadataTransport reaches this machine's own link only: no proxy, which would be
// another machine's link, and no connection is kept.
func metadataTransport() *http.Transport {
	d := &net.Dialer{
		Timeout: regionBudget,
		// The C library's look-ups cannot be cancelled.
		Resolver: &net.Resolver{PreferGo: true},
	}
	return &http.Transport{
		DialContext:            d.DialContext,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
	}
}
