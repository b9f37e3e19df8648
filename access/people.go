package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/control"
)

// The kinds of rows.
const (
	kindPerson  = "person"
	kindName    = "name" // a person's id by the hash of her name, so that two servers do not make one person twice
	kindToken   = "token"
	kindSession = "session"
	kindLink    = "link"
	kindEnrol   = "enrol"
	kindAgent   = "agent"
	kindFactor  = "factor" // a person's second factor
)

// Person is somebody who may ask. ID is her pseudonym: records have it, and nothing else of her.
type Person struct {
	ID     string  `json:"id"`
	Name   string  `json:"name"` // as she logs in: an address of mail, or what an admin called her
	Grants []Grant `json:"grants"`
	// Given are grants by what the identity provider said of her at her last login, until GivenUntil.
	Given      []Grant   `json:"given,omitempty"`
	GivenUntil time.Time `json:"given_until,omitzero"`
	Created    time.Time `json:"created"`
	Last       time.Time `json:"last,omitzero"` // login
	Blocked    bool      `json:"blocked,omitempty"`

	version int64
}

// grants are all that she has now.
func (p *Person) grants(now time.Time) []Grant {
	if len(p.Given) == 0 || !now.Before(p.GivenUntil) {
		return p.Grants
	}
	out := slices.Clone(p.Grants)
	for _, g := range p.Given {
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

func checkName(name string) error {
	const most = 254 // of an address of mail: RFC 5321, 4.5.3.1.3
	if name == "" || len(name) > most || strings.TrimSpace(name) != name || strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return fmt.Errorf("%w: a person's name has 1 to %d bytes, no control characters, and no space at its ends", ErrInvalid, most)
	}
	return nil
}

func decodeRow[T any](row control.AccessRow) (v T, err error) {
	if err := json.Unmarshal(row.Doc, &v); err != nil {
		return v, fmt.Errorf("%w: the %s %s cannot be read: %w", ErrUnavailable, row.Kind, row.ID, err)
	}
	return v, nil
}

func (a *Access) keep(ctx context.Context, row control.AccessRow, doc any) error {
	raw, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	row.Doc = raw
	err = a.db.KeepAccess(ctx, row)
	if errors.Is(err, control.ErrConflict) {
		return err
	}
	return a.word(err)
}

// CreatePerson makes a person. ErrInvalid is that there is one of that name.
func (a *Access) CreatePerson(ctx context.Context, name string, grants []Grant) (*Person, error) {
	if err := errors.Join(checkName(name), checkGrants(grants)); err != nil {
		return nil, err
	}
	p := &Person{ID: "p-" + newID(), Name: name, Grants: grants, Created: a.opt.Now().UTC().Truncate(time.Second), version: 1}
	err := a.keep(ctx, control.AccessRow{Kind: kindName, ID: hashText(name), Owner: p.ID}, nil)
	if errors.Is(err, control.ErrConflict) {
		return nil, fmt.Errorf("%w: there is a person %q already", ErrInvalid, name)
	}
	if err == nil {
		err = a.keep(ctx, control.AccessRow{Kind: kindPerson, ID: p.ID}, p)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Person is one by her id.
func (a *Access) Person(ctx context.Context, id string) (*Person, error) {
	row, ok, err := a.db.Access(ctx, kindPerson, id)
	if err != nil {
		return nil, a.word(err)
	}
	if !ok {
		return nil, fmt.Errorf("%w: there is no person %.40s", ErrNotFound, id)
	}
	p, err := decodeRow[Person](row)
	p.version = row.Version
	return &p, err
}

// Find is one by her name or id.
func (a *Access) Find(ctx context.Context, name string) (*Person, error) {
	row, ok, err := a.db.Access(ctx, kindName, hashText(name))
	if err != nil {
		return nil, a.word(err)
	}
	if ok {
		return a.Person(ctx, row.Owner)
	}
	if strings.HasPrefix(name, "p-") {
		return a.Person(ctx, name)
	}
	return nil, fmt.Errorf("%w: there is no person %.100q", ErrNotFound, name)
}

// People are all, by name.
func (a *Access) People(ctx context.Context) ([]Person, error) {
	rows, err := a.db.AccessRows(ctx, kindPerson, "", maxListed)
	if err != nil {
		return nil, a.word(err)
	}
	out := make([]Person, 0, len(rows))
	for _, row := range rows {
		p, err := decodeRow[Person](row)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(x, y Person) int { return strings.Compare(x.Name, y.Name) })
	return out, nil
}

// changePerson changes one; change may be called more than once.
func (a *Access) changePerson(ctx context.Context, id string, change func(*Person) error) (*Person, error) {
	for range 8 {
		p, err := a.Person(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := change(p); err != nil {
			return nil, err
		}
		err = a.keep(ctx, control.AccessRow{Kind: kindPerson, ID: id, Version: p.version}, p)
		if err == nil {
			return p, nil
		}
		if !errors.Is(err, control.ErrConflict) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: the person %s is being changed by others", ErrUnavailable, id)
}

// GrantTo gives grants to a person, and takes others.
func (a *Access) GrantTo(ctx context.Context, id string, give, take []Grant) (*Person, error) {
	if err := checkGrants(give); err != nil {
		return nil, err
	}
	return a.changePerson(ctx, id, func(p *Person) error {
		p.Grants = slices.DeleteFunc(p.Grants, func(g Grant) bool { return slices.Contains(take, g) })
		for _, g := range give {
			if !slices.Contains(p.Grants, g) {
				p.Grants = append(p.Grants, g)
			}
		}
		return checkGrants(p.Grants)
	})
}

// RemovePerson removes a person with her sessions and tokens.
func (a *Access) RemovePerson(ctx context.Context, id string) error {
	p, err := a.Person(ctx, id)
	if err != nil {
		return err
	}
	// The person first: what is left of a crash in between is worth nothing without her.
	if _, err := a.db.DropAccess(ctx, kindPerson, id, ""); err != nil {
		return a.word(err)
	}
	for _, kind := range []string{kindSession, kindToken, kindLink, kindSubject, kindFactor} {
		if _, err := a.db.DropAccess(ctx, kind, "", id); err != nil {
			return a.word(err)
		}
	}
	_, err = a.db.DropAccess(ctx, kindName, hashText(p.Name), "")
	return a.word(err)
}
