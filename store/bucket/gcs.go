package bucket

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"cloud.google.com/go/storage"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/gcp"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/option"
)

// gcsClasses are ours in Google's words. All of its classes are read within milliseconds.
var gcsClasses = map[Class]string{Standard: "STANDARD", Archive: "ARCHIVE"}

func openGCS(ctx context.Context, b *cloud) error {
	base := transport(cap(b.requests))
	client := &gcp.HTTPClient{Client: http.Client{Transport: base}}
	options := &gcsblob.Options{ClientOptions: []option.ClientOption{storage.WithJSONReads()}}
	endpoint := b.params.Get("endpoint")
	if host := os.Getenv("STORAGE_EMULATOR_HOST"); endpoint == "" && host != "" {
		endpoint = host
		if !strings.Contains(host, "://") {
			endpoint = "http://" + host
		}
	}
	if endpoint != "" {
		// What is not Google is an emulator, or a proxy that signs by itself: Google's tokens are not for it.
		b.credentials = "none, as the endpoint is not Google's"
		options.ClientOptions = append(options.ClientOptions, option.WithEndpoint(strings.TrimSuffix(endpoint, "/")+"/storage/v1/"))
	} else {
		creds, err := gcp.DefaultCredentials(context.WithoutCancel(ctx)) // its tokens are renewed for as long as the bucket is open
		if err != nil {
			return fmt.Errorf("%w: no Google credentials: set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run gcloud auth application-default login, or run where the machine has a service account: %w", ErrDenied, brief{err})
		}
		b.credentials = describeGoogle(creds)
		if client, err = gcp.NewHTTPClient(base, gcp.CredentialsTokenSource(creds)); err != nil {
			return err
		}
	}
	var err error
	if b.b, err = gcsblob.OpenBucket(ctx, client, b.name, options); err != nil {
		return err
	}
	var sc *storage.Client
	if !b.b.As(&sc) {
		return fmt.Errorf("%w: the driver has no storage client", ErrInvalid)
	}
	sc.SetRetry(storage.WithPolicy(storage.RetryNever))
	b.makeIt = "gcloud storage buckets create gs://" + b.name + " --uniform-bucket-level-access --location=..."
	b.classOf = classOfGCS
	b.setClass = func(ctx context.Context, key string, c Class) error {
		o := sc.Bucket(b.name).Object(key)
		// A rewrite onto itself: in one location Google moves no bytes.
		copier := o.CopierFrom(o)
		copier.StorageClass = gcsClasses[c]
		_, err := copier.Run(ctx)
		return err
	}
	return nil
}

func classOfGCS(as func(any) bool) Class {
	var a storage.ObjectAttrs
	if as(&a) && (a.StorageClass == "ARCHIVE" || a.StorageClass == "COLDLINE") {
		return Archive
	}
	return Standard
}

// describeGoogle names who the credentials are of: an account and a file, no key.
func describeGoogle(c *google.Credentials) string {
	var key struct {
		Type  string `json:"type"`
		Email string `json:"client_email"`
	}
	from := "the machine's service account (metadata server)"
	if len(c.JSON) > 0 {
		from = "gcloud's application-default file"
		if f := os.Getenv("GOOGLE_APPLICATION_CREDENTIALS"); f != "" {
			from = f + " (GOOGLE_APPLICATION_CREDENTIALS)"
		}
		if json.Unmarshal(c.JSON, &key) == nil && key.Email != "" {
			return key.Email + " from " + from
		}
	}
	return from
}
