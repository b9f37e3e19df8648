package control

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// word puts the word to an error that the caller branches on. What is not known to
// be denied is unavailable: a database is repaired, and then the same call works.
func word(err error) error {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, ErrDenied), errors.Is(err, ErrNewer), errors.Is(err, ErrInvalid), errors.Is(err, ErrConflict), errors.Is(err, ErrUnavailable):
		return err
	case errors.As(err, &pg):
		switch {
		case strings.HasPrefix(pg.Code, "28"), pg.Code == "42501": // invalid authorization; insufficient privilege
			return fmt.Errorf("%w: %w", ErrDenied, err)
		case pg.Code == "3D000": // no such database
			return fmt.Errorf("%w: %w; make it with `createdb`", ErrInvalid, err)
		}
	case errors.Is(err, driver.ErrBadConn):
		return fmt.Errorf("%w: the connection broke", ErrUnavailable)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// scrubbed reads as err does, but for the password in a URL, which drivers may quote.
type scrubbed struct {
	err error
	url string
}

func (s scrubbed) Error() string { return scrub(s.err, s.url) }
func (s scrubbed) Unwrap() error { return s.err }

func scrub(err error, raw string) string {
	text := err.Error()
	if u, perr := url.Parse(raw); perr == nil && u.User != nil {
		if p, ok := u.User.Password(); ok && p != "" {
			text = strings.ReplaceAll(text, p, "xxxxx")
			text = strings.ReplaceAll(text, url.QueryEscape(p), "xxxxx")
			text = strings.ReplaceAll(text, url.PathEscape(p), "xxxxx")
		}
	}
	return strings.Join(strings.Fields(text), " ")
}
