package bucket

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"
	"gocloud.dev/blob/s3blob"
)

// s3Classes are ours in Amazon's words. GLACIER and DEEP_ARCHIVE are cheaper but take minutes to
// hours to read.
var s3Classes = map[Class]types.StorageClass{Standard: types.StorageClassStandard, Archive: types.StorageClassGlacierIr}

func openS3(ctx context.Context, b *cloud) error {
	pathStyle, err := b.bool("path_style")
	if err != nil {
		return err
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { pool(t, cap(b.requests)) })),
		config.WithLogger(logging.Nop{}),
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
	}
	if r := b.params.Get("region"); r != "" {
		load = append(load, config.WithRegion(r))
	}
	if p := b.params.Get("profile"); p != "" {
		load = append(load, config.WithSharedConfigProfile(p))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return fmt.Errorf("%w: the AWS configuration cannot be read: %w", ErrInvalid, brief{err})
	}
	endpoint := b.params.Get("endpoint")
	if cfg.Region == "" {
		if endpoint == "" {
			return fmt.Errorf("%w: the region is missing: s3://%s?region=eu-central-1, or AWS_REGION", ErrInvalid, b.name)
		}
		cfg.Region = "us-east-1" // what servers that have no regions sign with
	}
	creds, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return fmt.Errorf("%w: no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws, or run where the machine has a role: %w", ErrDenied, brief{err})
	}
	b.credentials = describeAWS(creds)
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		if endpoint != "" {
			o.BaseEndpoint = aws.String(endpoint)
		}
		o.UsePathStyle = pathStyle
		o.DisableLogOutputChecksumValidationSkipped = true
	})
	if b.b, err = s3blob.OpenBucket(ctx, client, b.name, nil); err != nil {
		return err
	}
	b.makeIt = "aws s3 mb s3://" + b.name + " --region " + cfg.Region
	if endpoint != "" {
		b.makeIt += " --endpoint-url " + endpoint
	}
	b.classOf = classOfS3
	b.setClass = func(ctx context.Context, key string, c Class) error {
		_, err := client.CopyObject(ctx, &s3.CopyObjectInput{
			Bucket: &b.name, Key: &key, StorageClass: s3Classes[c],
			CopySource:        aws.String(copySource(b.name, key)),
			MetadataDirective: types.MetadataDirectiveCopy,
		})
		return err
	}
	return nil
}

// copySource is an object's name in a header. A '+' is escaped too: servers differ in whether it is a space.
func copySource(bucket, key string) string {
	path := (&url.URL{Path: bucket + "/" + key}).EscapedPath()
	return strings.ReplaceAll(path, "+", "%2B")
}

func classOfS3(as func(any) bool) Class {
	var o types.Object
	if as(&o) {
		return s3Class(string(o.StorageClass))
	}
	var h s3.HeadObjectOutput
	if as(&h) {
		return s3Class(string(h.StorageClass))
	}
	return Standard
}

// s3Class is ours for Amazon's; an object that a lifecycle rule moved deeper is archived too.
func s3Class(name string) Class {
	if strings.HasPrefix(name, "GLACIER") || name == "DEEP_ARCHIVE" {
		return Archive
	}
	return Standard
}

// describeAWS names the key by its public half, and where it came from.
func describeAWS(c aws.Credentials) string {
	id := c.AccessKeyID
	if len(id) > 8 {
		id = id[:4] + "..." + id[len(id)-4:]
	}
	from := c.Source
	switch {
	case strings.HasPrefix(from, "EnvConfig"):
		from = "AWS_ACCESS_KEY_ID in the environment"
	case strings.HasPrefix(from, "SharedConfig"):
		from = "the shared AWS files"
		if p := os.Getenv("AWS_PROFILE"); p != "" {
			from += ", profile " + p
		}
	case strings.HasPrefix(from, "EC2Role"):
		from = "the machine's role"
	}
	return "access key " + id + " from " + from
}
