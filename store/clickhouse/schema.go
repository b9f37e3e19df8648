package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// tableOf is how one of our tables is made. docs/clickhouse.md says what is in it.
type tableOf struct {
	name      string
	replacing string // column that says which of equal rows is the last; "": all rows stay
	columns   string
	partition string
	primary   string // if not order
	order     string
	shard     string // which shard of a cluster a row goes to
	time      string // when a row's time to live begins, a DateTime
	service   bool   // it has the column service
}

const (
	name = "LowCardinality(String) CODEC(ZSTD(1))"
	when = "DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1))"
	hash = "UInt64 CODEC(Delta(8), ZSTD(1))"
	word = "UInt64 CODEC(ZSTD(1))"
	sum  = "Int64 CODEC(ZSTD(1))"
)

// tables of version 1. A stack's rows lie together, by hour: the stack, its series and their times then
// cost next to nothing, and a question adds up runs of equal stacks. What names mean
// (stacks, frames, label_sets, series) is the same row whoever writes it, once a day.
var tables = []tableOf{
	{name: "samples", service: true,
		columns: "tenant " + name + ", type " + name + ", service " + name + ", series " + hash + ", time " + when + ", nth UInt32 CODEC(ZSTD(1)), labels " + hash +
			", stack " + hash + ", value " + sum + ", block " + name,
		partition: "toDate(time)", primary: "tenant, type, service, toStartOfHour(time)", order: "tenant, type, service, toStartOfHour(time), stack, series, time",
		shard: "series", time: "toDateTime(time)"},
	{name: "profiles", service: true,
		columns: "tenant " + name + ", type " + name + ", service " + name + ", series " + hash + ", time " + when + ", end_time " + when + ", nth UInt32 CODEC(ZSTD(1)), duration " + sum +
			", period " + sum + ", total " + sum + ", samples UInt32 CODEC(ZSTD(1)), id FixedString(16), block " + name,
		partition: "toDate(time)", order: "tenant, type, service, series, time", shard: "series", time: "toDateTime(time)"},
	{name: "functions", service: true,
		columns: "tenant " + name + ", type " + name + ", function String CODEC(ZSTD(1)), service " + name + ", series " + hash + ", minute DateTime64(0, 'UTC') CODEC(Delta(8), ZSTD(1)), self " + sum +
			", cumulative " + sum + ", samples " + sum + ", block " + name,
		partition: "toDate(minute)", order: "tenant, type, function, service, series, minute", shard: "series", time: "toDateTime(minute)"},
	{name: "stacks", replacing: "day",
		columns:   "tenant " + name + ", id " + hash + ", day Date, up " + word + ", path Array(UInt64) CODEC(ZSTD(1))",
		partition: "day", order: "tenant, id", shard: "id", time: "toDateTime(day) + 86400"},
	{name: "frames", replacing: "day",
		columns: "tenant " + name + ", location " + hash + ", day Date, function Array(LowCardinality(String)), system_name Array(LowCardinality(String)), file Array(LowCardinality(String)), start_line Array(Int64)" +
			", line Array(Int64), `column` Array(Int64), address UInt64, mapping " + name + ", build_id " + name + ", folded UInt8",
		partition: "day", order: "tenant, location", shard: "location", time: "toDateTime(day) + 86400"},
	{name: "label_sets", replacing: "day",
		columns:   "tenant " + name + ", labels " + hash + ", day Date, key Array(LowCardinality(String)), value Array(String) CODEC(ZSTD(1)), number Array(Int64), unit Array(LowCardinality(String))",
		partition: "day", order: "tenant, labels", shard: "labels", time: "toDateTime(day) + 86400"},
	{name: "series", replacing: "day",
		columns:   "tenant " + name + ", series " + hash + ", day Date, name " + name + ", label Array(LowCardinality(String)), value Array(String) CODEC(ZSTD(1))",
		partition: "day", order: "tenant, series", shard: "series", time: "toDateTime(day) + 86400"},
	{name: "blocks", replacing: "recorded",
		columns: "tenant " + name + ", block String CODEC(ZSTD(1)), region " + name + ", level UInt8, partition DateTime64(0, 'UTC'), first " + when + ", last " + when +
			", profiles UInt64, samples UInt64, sources Array(String), created DateTime64(3, 'UTC'), recorded DateTime64(3, 'UTC') DEFAULT now64(3)",
		partition: "toYYYYMM(partition)", order: "tenant, block", shard: "cityHash64(tenant)", time: "toDateTime(last) + 86400"},
}

// version of the schema. A program refuses a later one.
const version = 1

// migrations[i] leads from version i to i+1. Each can be repeated, and run by two servers at once.
var migrations = [version]func(target) []string{
	func(t target) []string {
		var out []string
		for i := range tables {
			out = append(out, t.create(&tables[i])...)
		}
		return out
	},
}

// onCluster is the clause that makes a statement run on all servers.
func (t target) onCluster() string {
	if t.cluster == "" {
		return ""
	}
	return " ON CLUSTER " + backquote(t.cluster)
}

func backquote(s string) string { return "`" + s + "`" }

// local is the table that holds a server's own rows.
func (t target) local(table string) string {
	if t.cluster != "" {
		table += "_local"
	}
	return backquote(t.database) + "." + table
}

// engine is a MergeTree; one that replaces is without the version "", one that does not.
func (t target) engine(table, replacing string) string {
	kind, args := "MergeTree", []string(nil)
	if replacing != "" {
		kind = "ReplacingMergeTree"
	}
	if t.cluster != "" {
		kind = "Replicated" + kind
		args = append(args, quote("/clickhouse/tables/{shard}/"+t.database+"/"+table), quote("{replica}"))
	}
	if replacing != "" {
		args = append(args, replacing)
	}
	return kind + "(" + strings.Join(args, ", ") + ")"
}

// tableNamed is the table of that name, which must be one of ours.
func tableNamed(name string) *tableOf {
	return &tables[slices.IndexFunc(tables, func(x tableOf) bool { return x.name == name })]
}

// create is the statements that make a table: one, or one on every server and one that spreads over them.
func (t target) create(x *tableOf) []string {
	settings := []string{"index_granularity = 8192", "non_replicated_deduplication_window = 10000", "replicated_deduplication_window = 10000", "replicated_deduplication_window_seconds = 604800"}
	if t.policy != "" {
		settings = append(settings, "storage_policy = "+quote(t.policy))
	}
	primary := ""
	if x.primary != "" {
		primary = " PRIMARY KEY (" + x.primary + ")"
	}
	out := []string{fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s%s (%s) ENGINE = %s PARTITION BY %s%s ORDER BY (%s) SETTINGS %s",
		t.local(x.name), t.onCluster(), x.columns, t.engine(x.name, x.replacing), x.partition, primary, x.order, strings.Join(settings, ", "))}
	if t.cluster != "" {
		out = append(out, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s.%s%s AS %s ENGINE = Distributed(%s, %s, %s_local, %s)",
			backquote(t.database), x.name, t.onCluster(), t.local(x.name), quote(t.cluster), quote(t.database), x.name, x.shard))
	}
	return out
}

// createSchema makes the table of what has been done to the others. On a cluster all servers share its rows.
func (t target) createSchema() string {
	engine := "ReplacingMergeTree(at)"
	if t.cluster != "" {
		engine = fmt.Sprintf("ReplicatedReplacingMergeTree(%s, '{shard}-{replica}', at)", quote("/clickhouse/tables/all/"+t.database+"/schema"))
	}
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s.schema%s (key String, value String, at DateTime64(3, 'UTC')) ENGINE = %s ORDER BY (key, value)",
		backquote(t.database), t.onCluster(), engine)
}

// lives is when a row goes, as an expression of its columns.
func lives(x *tableOf, retention time.Duration, keep []Keep) string {
	end := func(d time.Duration) string {
		if d < 0 {
			return "greatest(" + x.time + ", toDateTime('2106-01-01 00:00:00', 'UTC'))" // never; it must depend on a column
		}
		return x.time + " + toIntervalSecond(" + strconv.FormatInt(int64(d/time.Second), 10) + ")"
	}
	if !x.service {
		// What others refer to stays as long as any of them.
		for _, k := range keep {
			if k.For < 0 || retention >= 0 && k.For > retention {
				retention = k.For
			}
		}
		keep = nil
	}
	if len(keep) == 0 {
		return end(retention)
	}
	var cases []string
	for _, k := range keep {
		cond := "1"
		if k.Tenant != "" {
			cond = "tenant = " + quote(k.Tenant)
		}
		if k.Service != "" {
			cond += " AND service = " + quote(k.Service)
		}
		cases = append(cases, cond, end(k.For))
	}
	return "multiIf(" + strings.Join(append(cases, end(retention)), ", ") + ")"
}

// ttl is the statements that set how long rows stay, and where.
func (t target) ttl(opt *Options) []string {
	var out []string
	for i := range tables {
		x := &tables[i]
		ttl := lives(x, opt.Retention, opt.Keep) + " DELETE"
		if t.coldVolume != "" && opt.ColdAfter > 0 {
			ttl += ", " + x.time + " + toIntervalSecond(" + strconv.FormatInt(int64(opt.ColdAfter/time.Second), 10) + ") TO VOLUME " + quote(t.coldVolume)
		}
		// Where all rows of a day live equally long its parts are dropped whole, which costs nothing.
		whole := 1
		if x.service && len(opt.Keep) > 0 {
			whole = 0
		}
		alter := "ALTER TABLE " + t.local(x.name) + t.onCluster()
		out = append(out, fmt.Sprintf("%s MODIFY SETTING ttl_only_drop_parts = %d", alter, whole), alter+" MODIFY TTL "+ttl)
	}
	return out
}

// prepare makes sure of the server, and of the tables.
func (db *DB) prepare(ctx context.Context) error {
	if err := db.reach(ctx); err != nil {
		return err
	}
	if !db.opt.ReadOnly {
		if err := db.define(ctx, db.target.createSchema()); err != nil {
			return err
		}
	}
	done, err := db.schema(ctx)
	var e *Error
	if db.opt.ReadOnly && errors.As(err, &e) && e.Code == codeUnknownTable {
		return fmt.Errorf("%w: database %s has no tables of ours", store.ErrInvalid, db.target.database)
	}
	if err != nil {
		return err
	}
	at := 0
	for _, v := range done["version"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("%w: table schema says version %.100q", store.ErrCorrupt, v)
		}
		at = max(at, n)
	}
	if at > version {
		return fmt.Errorf("%w: the tables in database %s are of version %d, made by a later program; this one knows version %d: upgrade it", store.ErrInvalid, db.target.database, at, version)
	}
	if db.opt.ReadOnly {
		if at < version {
			return fmt.Errorf("%w: the tables in database %s are of version %d, this program's are of %d: start its server once", store.ErrInvalid, db.target.database, at, version)
		}
		return nil
	}
	for ; at < version; at++ {
		for _, sql := range migrations[at](db.target) {
			if err := db.define(ctx, sql); err != nil {
				return fmt.Errorf("upgrade to version %d: %w", at+1, err)
			}
		}
		if err := db.setSchema(ctx, "version", strconv.Itoa(at+1)); err != nil {
			return err
		}
	}
	ttl := db.target.ttl(&db.opt)
	text := strings.Join(ttl, ";\n")
	if had := done["ttl"]; len(had) > 0 && had[len(had)-1] == text {
		return nil
	}
	for _, sql := range ttl {
		// Rows that are there go by the new rule at their next merge: to rewrite all of them now could take hours.
		if err := db.define(ctx, sql, setting{"materialize_ttl_after_modify", "0"}); err != nil {
			return fmt.Errorf("retention: %w", err)
		}
	}
	return db.setSchema(ctx, "ttl", text)
}

// reach says what is wrong with the URL in words that help.
func (db *DB) reach(ctx context.Context) error {
	t := db.target
	rs, err := db.ask(ctx, "SELECT version()", "String")
	if err == nil {
		rs.next()
		db.opt.Logger.Info("clickhouse", "server", t.String(), "version", rs.text())
		err = rs.close()
	}
	var e *Error
	switch {
	case errors.As(err, &e) && (e.Code == codeAuthentication || e.Status == 401 || e.Status == 403):
		return fmt.Errorf("%w: the server refuses user %q: wrong password, or the user may not connect from here: %w", store.ErrInvalid, t.user, err)
	case errors.As(err, &e) && e.Code == codeUnknownDatabase:
		return fmt.Errorf("%w: there is no database %q: run CREATE DATABASE %s%s: %w", store.ErrInvalid, t.database, t.database, t.onCluster(), err)
	case errors.As(err, &e) && e.Code == codeUnknownSetting:
		return fmt.Errorf("%w: the server does not know a setting; is it older than ClickHouse 24.8, or is a select.SETTING of the URL misspelt? %w", store.ErrInvalid, err)
	case err != nil:
		return fmt.Errorf("the server cannot be reached: %w", err)
	}
	return nil
}

// define runs a statement that makes or alters a table.
func (db *DB) define(ctx context.Context, sql string, settings ...setting) error {
	if db.target.cluster != "" {
		settings = append(settings, setting{"distributed_ddl_task_timeout", strconv.Itoa(int(db.target.timeout / time.Second))})
	}
	err := db.http.exec(ctx, statement{sql: sql, settings: settings})
	var e *Error
	switch {
	case errors.As(err, &e) && (e.Code == codeNoCluster || e.Code == codeBadGet && strings.Contains(e.Text, "cluster")):
		return fmt.Errorf("%w: the server does not know the cluster %q: SELECT cluster FROM system.clusters lists those that it knows: %w", store.ErrInvalid, db.target.cluster, err)
	case errors.As(err, &e) && e.Code == codeUnknownPolicy:
		return fmt.Errorf("%w: the server has no storage policy %q: %w", store.ErrInvalid, db.target.policy, err)
	case errors.As(err, &e) && e.Code == codeAccessDenied:
		return fmt.Errorf("%w: user %q may not make tables in database %s: %w", store.ErrInvalid, db.target.user, db.target.database, err)
	}
	return err
}

// schema is what has been done, by key, the oldest first.
func (db *DB) schema(ctx context.Context) (map[string][]string, error) {
	rs, err := db.ask(ctx, "SELECT key, value FROM schema FINAL ORDER BY key, at, value", "String", "String")
	if err != nil {
		return nil, err
	}
	done := map[string][]string{}
	for rs.next() {
		key, value := rs.text(), rs.text()
		done[key] = append(done[key], value)
	}
	return done, rs.close()
}

func (db *DB) setSchema(ctx context.Context, key, value string) error {
	return db.http.exec(ctx, statement{sql: fmt.Sprintf("INSERT INTO schema (key, value, at) SELECT %s, %s, now64(3)", quote(key), quote(value))})
}

// serviceOf is the label that is a column of its own.
const serviceOf = profile.LabelService

// dayOf is a day as a literal.
func dayOf(t time.Time) string { return "toDate(" + quote(t.UTC().Format(time.DateOnly)) + ")" }
