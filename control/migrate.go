package control

import (
	"context"
	"database/sql"
	"fmt"
)

// migrations bring the tables from each version to the next. They are only ever added to: one that has been
// released is never changed. Each is written so that both databases take it.
var migrations = []string{
	// 1: leases. tokens has one row, so that a token is never given twice, also after
	// its lease's row has gone. Times are Unix microseconds of the database's clock.
	`create table tokens (last bigint not null);
	insert into tokens (last) values (0);
	create table leases (
		name    text   primary key,
		holder  text   not null,
		token   bigint not null,
		renewed bigint not null,
		ttl     bigint not null
	)`,
	// 2: findings with their history, and marks: how far something has come. Docs are JSON that this package does
	// not read; seen is Unix microseconds of the profiles' time.
	`create table findings (
		tenant  text   not null,
		id      text   not null,
		service text   not null,
		kind    text   not null,
		state   text   not null,
		seen    bigint not null,
		version bigint not null,
		doc     text   not null,
		primary key (tenant, id)
	);
	create index findings_by_service on findings (tenant, service, seen);
	create table finding_events (
		tenant  text   not null,
		finding text   not null,
		seq     bigint not null,
		doc     text   not null,
		primary key (tenant, finding, seq)
	);
	create table marks (
		tenant text not null,
		name   text not null,
		doc    text not null,
		primary key (tenant, name)
	)`,
	// 3: changes of the fleet with their history. seen is when something last happened to it, in Unix microseconds.
	`create table changes (
		tenant  text   not null,
		id      text   not null,
		service text   not null,
		kind    text   not null,
		state   text   not null,
		seen    bigint not null,
		version bigint not null,
		doc     text   not null,
		primary key (tenant, id)
	);
	create index changes_by_state on changes (tenant, state, seen);
	create table change_events (
		tenant text   not null,
		change text   not null,
		seq    bigint not null,
		doc    text   not null,
		primary key (tenant, change, seq)
	)`,
	// 4: who may ask: people, their tokens and sessions, agents. Secrets are not here, only what they hash to. expires is Unix
	// microseconds, 0 is never.
	`create table access (
		kind    text   not null,
		id      text   not null,
		owner   text   not null,
		expires bigint not null,
		version bigint not null,
		doc     text   not null,
		primary key (kind, id)
	);
	create index access_by_owner on access (kind, owner)`,
}

// migrate brings the tables to the last version, in one transaction: a crash leaves the
// old version or the new. Of two servers that start at once one does it and the other waits.
func (d *DB) migrate(ctx context.Context, migrations []string) error {
	return d.change(ctx, func(ctx context.Context, tx *sql.Tx) error {
		if d.kind.lock != "" {
			if _, err := tx.ExecContext(ctx, d.kind.lock); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, "create table if not exists quantra_version (version bigint not null)"); err != nil {
			return err
		}
		var version int
		var rows int
		if err := tx.QueryRowContext(ctx, "select coalesce(max(version), 0), count(*) from quantra_version").Scan(&version, &rows); err != nil {
			return err
		}
		if version > len(migrations) {
			return fmt.Errorf("%w: the tables are of version %d, this program knows %d; run the later quantraband", ErrNewer, version, len(migrations))
		}
		for i := version; i < len(migrations); i++ {
			if _, err := tx.ExecContext(ctx, migrations[i]); err != nil {
				return fmt.Errorf("migration %d: %w", i+1, err)
			}
		}
		set := "update quantra_version set version = ?1"
		if rows == 0 {
			set = "insert into quantra_version (version) values (?1)"
		}
		if version < len(migrations) || rows == 0 {
			_, err := tx.ExecContext(ctx, d.kind.param(set), len(migrations))
			return err
		}
		return nil
	})
}
