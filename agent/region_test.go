package agent

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// metadataServers answers for the clouds' hosts without a network. A host that is
// not in it hangs, as packets into the void do.
type metadataServers map[string]http.HandlerFunc

func (s metadataServers) RoundTrip(r *http.Request) (*http.Response, error) {
	h := s[r.URL.Host]
	if h == nil {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	w := httptest.NewRecorder()
	h(w, r)
	return w.Result(), nil
}

const (
	gcpHost  = "metadata.google.internal"
	linkHost = "169.254.169.254" // AWS and Azure, told apart by path
)

// gcpServer is Google's as its documents describe it, values by the path below instance/.
func gcpServer(values map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		if r.Header.Get("Metadata-Flavor") != "Google" {
			http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
			return
		}
		v, ok := values[strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/instance/")]
		if !ok || r.Method != http.MethodGet {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, v)
	}
}

// awsServer gives regions for its token only.
func awsServer(region string) http.HandlerFunc {
	const token = "AQAEAPnVEfsQm5l_rL8nNGPFjVQ2tHDjUM0EHZGbJ2vlq0N9yIuN0g=="
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token" && r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "60":
			io.WriteString(w, token)
		case r.Method == http.MethodGet && r.URL.Path == "/latest/meta-data/placement/region" && r.Header.Get("X-aws-ec2-metadata-token") == token:
			io.WriteString(w, region)
		case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/latest/"):
			w.WriteHeader(http.StatusUnauthorized)
		default:
			http.NotFound(w, r)
		}
	}
}

func azureServer(location string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		switch {
		case r.URL.Path != "/metadata/instance/compute/location":
			http.NotFound(w, r)
		case r.Header.Get("Metadata") != "true" || q.Get("api-version") != "2021-02-01" || q.Get("format") != "text":
			w.WriteHeader(http.StatusBadRequest)
		default:
			io.WriteString(w, location)
		}
	}
}

// both answers AWS's paths with one and all others with the other.
func both(aws, other http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/latest/") {
			aws(w, r)
			return
		}
		other(w, r)
	}
}

func says(code int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		io.WriteString(w, body)
	}
}

func TestRegion(t *testing.T) {
	zone := gcpServer(map[string]string{"zone": "projects/1/zones/europe-west1-b"})
	for _, tt := range []struct {
		name           string
		env            map[string]string
		servers        metadataServers
		region, source string
	}{
		{"GCP", nil, metadataServers{gcpHost: zone}, "europe-west1", "gcp"},
		{"GCP, its address answering the others' paths too", nil, metadataServers{gcpHost: zone, linkHost: zone}, "europe-west1", "gcp"},
		{"Cloud Run", nil, metadataServers{gcpHost: gcpServer(map[string]string{"region": "projects/1/regions/us-central1"})}, "us-central1", "gcp"},
		{"GCP elsewhere", map[string]string{"GCE_METADATA_HOST": "127.0.0.9:99"}, metadataServers{"127.0.0.9:99": zone}, "europe-west1", "gcp"},
		{"AWS", nil, metadataServers{linkHost: awsServer("eu-central-1")}, "eu-central-1", "aws"},
		{"AWS over IPv6", map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": "IPv6"}, metadataServers{"[fd00:ec2::254]": awsServer("eu-central-1")}, "eu-central-1", "aws"},
		{"AWS elsewhere", map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.9:98/"}, metadataServers{"127.0.0.9:98": awsServer("eu-central-1")}, "eu-central-1", "aws"},
		{"AWS switched off", map[string]string{"AWS_EC2_METADATA_DISABLED": "TRUE"}, metadataServers{linkHost: awsServer("eu-central-1")}, "local", "default"},
		{"Azure", nil, metadataServers{linkHost: azureServer("westeurope")}, "westeurope", "azure"},
		{"Lambda", map[string]string{"AWS_REGION": "us-east-1", "AWS_LAMBDA_FUNCTION_NAME": "f"}, nil, "us-east-1", "aws"},
		{"ECS", map[string]string{"AWS_REGION": "us-east-1", "ECS_CONTAINER_METADATA_URI_V4": "http://169.254.170.2/v4/x"}, nil, "us-east-1", "aws"},
		{"App Service", map[string]string{"REGION_NAME": "West Europe", "WEBSITE_SITE_NAME": "shop"}, nil, "westeurope", "azure"},
		{"a client of AWS on GCP", map[string]string{"AWS_REGION": "us-east-1"}, metadataServers{gcpHost: zone}, "europe-west1", "gcp"},
		{"the operator", map[string]string{"QUANTRA_REGION": "EU (own racks)", "AWS_REGION": "us-east-1", "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE"}, metadataServers{gcpHost: zone}, "EU (own racks)", "env"},
		{"nobody", nil, nil, "local", "default"},

		{"two answer", nil, metadataServers{gcpHost: zone, linkHost: both(awsServer("eu-central-1"), azureServer("westeurope"))}, "europe-west1", "gcp"},
		{"two answer, Google's without its mark", nil, metadataServers{gcpHost: says(200, "projects/1/zones/europe-west1-b"), linkHost: awsServer("eu-central-1")}, "eu-central-1", "aws"},
		{"two answer, AWS without a token", nil, metadataServers{linkHost: both(says(404, ""), azureServer("westeurope"))}, "westeurope", "azure"},
		{"Google's address under the others' paths", nil, metadataServers{linkHost: says(200, "word", "Metadata-Flavor", "Google")}, "local", "default"},
		{"a zone that is none", nil, metadataServers{gcpHost: gcpServer(map[string]string{"zone": "nowhere"})}, "local", "default"},
		{"an upper-case zone", nil, metadataServers{gcpHost: gcpServer(map[string]string{"zone": "projects/1/zones/Europe-West1-b"})}, "local", "default"},
		{"a page for everything", nil, metadataServers{gcpHost: says(200, "<html>Welcome</html>"), linkHost: says(200, "<html>Welcome</html>")}, "local", "default"},
		{"a name too long", nil, metadataServers{linkHost: awsServer(strings.Repeat("a", 65))}, "local", "default"},
		{"more than a name", nil, metadataServers{linkHost: azureServer(strings.Repeat("\n", maxMetadata) + "westeurope")}, "local", "default"},
		{"a redirect", nil, metadataServers{gcpHost: says(302, "projects/1/zones/europe-west1-b", "Metadata-Flavor", "Google", "Location", "http://10.0.0.1/"), linkHost: says(307, "westeurope")}, "local", "default"},
		{"an error", nil, metadataServers{gcpHost: says(500, "europe-west1-b", "Metadata-Flavor", "Google"), linkHost: says(503, "westeurope")}, "local", "default"},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			region, source := detectRegion(t.Context(), mapEnv(tt.env), tt.servers)
			if region != tt.region || source != tt.source {
				t.Errorf("%s: region %q from %q, want %q from %q", tt.name, region, source, tt.region, tt.source)
			}
			if took := time.Since(began); took > regionBudget {
				t.Errorf("%s: took %v", tt.name, took)
			}
		})
	}
}

func mapEnv(m map[string]string) func(string) string {
	m = maps.Clone(m)
	return func(k string) string { return m[k] }
}

// TestRegionHangs: with packets lost everywhere the search ends within its budget, with the caller's
// context if that is sooner, and no request is left.
func TestRegionHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if r, s := detectRegion(t.Context(), mapEnv(nil), metadataServers{}); r != "local" || s != "default" || time.Since(began) != regionBudget {
			t.Errorf("%q from %q after %v", r, s, time.Since(began))
		}
		began = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Millisecond)
		defer cancel()
		if r, s := detectRegion(ctx, mapEnv(nil), metadataServers{}); r != "local" || s != "default" || time.Since(began) != 70*time.Millisecond {
			t.Errorf("%q from %q after %v with a context of 70 ms", r, s, time.Since(began))
		}
		// One cloud that answers late, but in time, is heard; all are asked at once.
		began = time.Now()
		late := metadataServers{linkHost: func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(regionBudget/2 - time.Millisecond)
			awsServer("eu-central-1")(w, r)
		}}
		if r, s := detectRegion(t.Context(), mapEnv(nil), late); r != "eu-central-1" || s != "aws" || time.Since(began) > regionBudget {
			t.Errorf("%q from %q after %v", r, s, time.Since(began))
		}
	})
}

// TestRegionLiars: real servers on loopback that hang, never end, or send elsewhere, with
// the transport that real searches use. What they lead to must not be asked.
func TestRegionLiars(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked["elsewhere"]++
		mu.Unlock()
		w.Header().Set("Metadata-Flavor", "Google")
		io.WriteString(w, "projects/1/zones/europe-west1-b")
	}))
	defer elsewhere.Close()
	for name, h := range map[string]http.HandlerFunc{
		"hangs": func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"hangs in its answer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Metadata-Flavor", "Google")
			w.Write([]byte("projects/1/zones/"))
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"never ends": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Metadata-Flavor", "Google")
			for {
				if _, err := w.Write([]byte("projects/1/zones/europe-west1-b\n")); err != nil {
					return
				}
			}
		},
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Metadata-Flavor", "Google")
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				asked[name]++
				mu.Unlock()
				h(w, r)
			}))
			defer s.Close()
			inner := metadataTransport()
			rt := loopback{inner, strings.TrimPrefix(s.URL, "http://")}
			if r, src := detectRegion(t.Context(), mapEnv(nil), rt); r != "local" || src != "default" {
				t.Errorf("region %q from %q", r, src)
			}
			mu.Lock()
			defer mu.Unlock()
			if asked[name] == 0 {
				t.Error("the server was not asked, so nothing was tried")
			}
		})
	}
	mu.Lock()
	defer mu.Unlock()
	if asked["elsewhere"] != 0 {
		t.Error("a redirect was followed")
	}
}

// loopback sends what is for a metadata service to one server on loopback; nothing leaves this machine.
type loopback struct {
	rt   *http.Transport
	host string
}

func (l loopback) RoundTrip(r *http.Request) (*http.Response, error) {
	if !strings.HasPrefix(l.host, "127.0.0.1:") {
		return nil, errors.New("not loopback")
	}
	r = r.Clone(r.Context())
	r.URL.Host = l.host
	return l.rt.RoundTrip(r)
}

// TestRegionNoProxy: a proxy in the environment is another machine, whose region is not ours.
func TestRegionNoProxy(t *testing.T) {
	if metadataTransport().Proxy != nil {
		t.Error("the metadata services are asked through a proxy")
	}
}
