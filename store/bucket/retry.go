package bucket

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"gocloud.dev/gcerrors"
	"golang.org/x/oauth2"
	"google.golang.org/api/googleapi"
)

// maxBackoff is the longest pause between two tries.
const maxBackoff = 5 * time.Second

// do runs one request until it succeeds, fails for good (see classify), or has been tried for
// b.retryFor. bytes is what it moves, for its time limit. final may be nil; it says that the
// last failure is of our own making.
func (b *cloud) do(ctx context.Context, what string, bytes int64, f func(context.Context) error, final func() bool) error {
	start := time.Now()
	pause := b.backoff
	for tries := 1; ; tries++ {
		err := b.once(ctx, bytes, f)
		if err == nil {
			return nil
		}
		if cerr := ctx.Err(); cerr != nil {
			return fmt.Errorf("bucket %s: %s: %w", b, what, cerr)
		}
		word := classify(err)
		if final != nil && final() {
			return fmt.Errorf("bucket %s: %s: what was to be sent cannot be read: %w", b, what, err)
		}
		if word != ErrUnavailable {
			return fmt.Errorf("bucket %s: %s: %w: %w", b, what, word, brief{err})
		}
		wait := pause/2 + rand.N(pause)
		if spent := time.Since(start); b.retryFor < 0 || spent+wait > b.retryFor {
			return fmt.Errorf("bucket %s: %s: %w: %s: %w", b, what, word, attempts(tries), brief{err})
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		pause = min(2*pause, maxBackoff)
	}
}

func attempts(n int) string {
	if n == 1 {
		return "tried once"
	}
	return fmt.Sprintf("tried %d times", n)
}

// once is one try: a slot, a time limit. A slot is not held while a call waits to try again.
func (b *cloud) once(ctx context.Context, bytes int64, f func(context.Context) error) error {
	select {
	case b.requests <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-b.requests }()
	limit := b.try + time.Duration(bytes>>20)*time.Second
	tctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	err := f(tctx)
	if err != nil && tctx.Err() != nil && ctx.Err() == nil {
		return context.Cause(tctx)
	}
	return err
}

// status is the answer's HTTP status and the provider's own code for the error; 0 if there was no answer.
func status(err error) (int, string) {
	var g *googleapi.Error
	if errors.As(err, &g) {
		code := ""
		if len(g.Errors) > 0 {
			code = g.Errors[0].Reason
		}
		return g.Code, code
	}
	var az *azcore.ResponseError
	if errors.As(err, &az) {
		return az.StatusCode, az.ErrorCode
	}
	code, n := "", 0
	var api smithy.APIError
	if errors.As(err, &api) {
		code = api.ErrorCode()
	}
	var sh *smithyhttp.ResponseError
	if errors.As(err, &sh) {
		n = sh.HTTPStatusCode()
	}
	return n, code
}

// deniedCodes are what S3 says of credentials with a status that does not tell.
var deniedCodes = map[string]bool{
	"AccessDenied": true, "InvalidAccessKeyId": true, "SignatureDoesNotMatch": true, "ExpiredToken": true,
	"InvalidToken": true, "TokenRefreshRequired": true, "RequestTimeTooSkewed": true, "AllAccessDisabled": true,
	"AuthorizationHeaderMalformed": true, "XAdminUserNotFound": true, // the last is versitygw's, with 404
}

// classify is the word for a provider's error. What is not known is taken for something that may
// pass: retries are bounded, and a wrong "denied" would stop what works.
func classify(err error) error {
	if err == nil {
		return nil
	}
	n, code := status(err)
	switch {
	case n == http.StatusUnauthorized, n == http.StatusForbidden, deniedCodes[code], noCredentials(err):
		return ErrDenied
	case n == http.StatusNotFound:
		return ErrNotFound
	case n == http.StatusTooManyRequests, n == http.StatusRequestTimeout, n >= 500, n == 0:
		if n == 0 && gcerrors.Code(err) == gcerrors.NotFound {
			return ErrNotFound // the storage client's ErrObjectNotExist has no status
		}
		return ErrUnavailable
	case n == http.StatusBadRequest && code == "RequestTimeout":
		return ErrUnavailable // S3's word for a body that came too slowly
	case n == http.StatusMovedPermanently, n == http.StatusBadRequest, n == http.StatusMethodNotAllowed:
		return ErrInvalid
	}
	return ErrUnavailable
}

// noCredentials says whether a request never left because there is nothing to sign it with, or
// because those who sign have refused.
func noCredentials(err error) bool {
	var token *oauth2.RetrieveError
	var az *azidentity.AuthenticationFailedError
	switch {
	case errors.As(err, &token):
		return token.Response == nil || token.Response.StatusCode < 500
	case errors.As(err, &az):
		return true
	}
	var dns *net.OpError
	return !errors.As(err, &dns) && strings.Contains(err.Error(), "failed to refresh cached credentials")
}

// outOfRange says whether a read began at or behind the end of an object that is there.
func outOfRange(err error) bool {
	n, code := status(err)
	return n == http.StatusRequestedRangeNotSatisfiable || code == "InvalidRange"
}

// noClasses says whether a server that only resembles S3 has refused a class that it does not have.
func noClasses(err error) bool {
	_, code := status(err)
	return code == "InvalidStorageClass" || code == "InvalidRequest" || code == "NotImplemented"
}

// noBucket tells a missing bucket from a missing object, where the provider does.
func noBucket(err error) bool {
	_, code := status(err)
	return code == "NoSuchBucket" || code == "ContainerNotFound" || strings.Contains(err.Error(), "bucket does not exist")
}

// brief is a provider's error in one line: some have pages.
type brief struct{ err error }

func (b brief) Unwrap() error { return b.err }

func (b brief) Error() string {
	n, code := status(b.err)
	text, _, _ := strings.Cut(b.err.Error(), "\n")
	if len(text) > 300 {
		text = text[:300] + "..."
	}
	if n == 0 {
		return text
	}
	if code == "" {
		code = http.StatusText(n)
	}
	return fmt.Sprintf("the server said %d %s", n, code)
}
