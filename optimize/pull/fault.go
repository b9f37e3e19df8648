package pull

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-github/v92/github"
)

// status is the HTTP status that err is about, 0 if it is about none.
func status(err error) int {
	var e *github.ErrorResponse
	if errors.As(err, &e) && e.Response != nil {
		return e.Response.StatusCode
	}
	return 0
}

// fault is err in our words: what was to be done, what GitHub said, and what to do about it.
func fault(what string, err error) error {
	var rate *github.RateLimitError
	var abuse *github.AbuseRateLimitError
	var otp *github.TwoFactorAuthError
	var e *github.ErrorResponse
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &rate):
		return fmt.Errorf("%w: %s: GitHub's limit of requests is reached; try again after %s", ErrUnavailable, what, rate.Rate.Reset.UTC().Format(time.RFC3339))
	case errors.As(err, &abuse):
		later := "in a few minutes"
		if abuse.RetryAfter != nil {
			later = "in " + abuse.RetryAfter.Round(time.Second).String()
		}
		return fmt.Errorf("%w: %s: GitHub asks for fewer requests; try again %s", ErrUnavailable, what, later)
	case errors.As(err, &otp):
		return fmt.Errorf("%w: %s: the account asks for a second factor; use a token", ErrDenied, what)
	case errors.As(err, &e) && e.Response != nil:
		return answer(what, e)
	}
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, err)
}

func answer(what string, e *github.ErrorResponse) error {
	said := e.Message
	for _, d := range e.Errors {
		text := d.Message
		if text == "" {
			text = strings.TrimSpace(d.Resource + " " + d.Field + " " + d.Code)
		}
		said += "; " + text
	}
	if len(said) > 500 {
		said = said[:500]
	}
	said = strings.TrimPrefix(said, "; ")
	seconds := e.Response.Header.Get("Retry-After")
	switch code := e.Response.StatusCode; {
	case code == http.StatusUnauthorized:
		return fmt.Errorf("%w: %s: GitHub does not know the token (%s); is it expired?", ErrDenied, what, said)
	case code == http.StatusForbidden && seconds != "":
		return fmt.Errorf("%w: %s: GitHub asks for fewer requests (%s); try again in %s seconds", ErrUnavailable, what, said, seconds)
	case code == http.StatusForbidden:
		return fmt.Errorf("%w: %s: the token may not (%s); it needs contents: write and pull requests: write for this repository", ErrDenied, what, said)
	case code == http.StatusNotFound:
		return fmt.Errorf("%w: %s: there is none, or the token may not see it (%s)", ErrNotFound, what, said)
	case code == http.StatusConflict:
		return fmt.Errorf("%w: %s: it conflicts (%s); is the repository empty, or was the branch changed just now?", ErrRefused, what, said)
	case code == http.StatusTooManyRequests, code >= 500:
		return fmt.Errorf("%w: %s: GitHub answers %d (%s); try again later", ErrUnavailable, what, code, said)
	default:
		return fmt.Errorf("%w: %s: GitHub answers %d (%s)", ErrRefused, what, code, said)
	}
}
