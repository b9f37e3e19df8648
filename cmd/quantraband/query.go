package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	quantrav1 "github.com/quantra-l/quantra/wire/quantra/v1"
	"github.com/quantra-l/quantra/wire/quantra/v1/quantrav1connect"
)

const defaultServer = "http://127.0.0.1:4040"

// question is what the query commands share: whom to ask, and about what.
type question struct {
	server  string
	timeout time.Duration

	service, matchers string
	since             age
	from, to          string

	sampleType    string
	filter        profile.Filter
	sampleMatcher string
	ids           []string

	asJSON bool

	credentials
}

// serverFlags adds what says whom to ask.
func (q *question) serverFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	server := os.Getenv("QUANTRA_SERVER")
	f.StringVar(&q.server, "server", "", "`address` of the server (default: $QUANTRA_SERVER, else "+defaultServer+")")
	f.DurationVar(&q.timeout, "timeout", time.Minute, "how long to wait for the answer")
	f.BoolVar(&q.asJSON, "json", false, "write JSON")
	q.credentials.flags(cmd)
	cmd.PreRun = func(*cobra.Command, []string) {
		for _, s := range []string{server, defaultServer} {
			if q.server == "" {
				q.server = s
			}
		}
		if !strings.Contains(q.server, "://") {
			q.server = "http://" + q.server
		}
		q.server = strings.TrimRight(q.server, "/")
	}
}

// flags adds what every query has.
func (q *question) flags(cmd *cobra.Command) {
	q.serverFlags(cmd)
	f := cmd.Flags()
	q.since = age(15 * time.Minute)
	f.Var(&q.since, "since", "look back this long, as 15m, 24h or 7d; 0 for all there is")
	f.StringVar(&q.from, "from", "", "begin at `time`: RFC 3339, or now-15m (instead of --since)")
	f.StringVar(&q.to, "to", "", "end at `time`: RFC 3339, now, or now-5m (default: now)")
}

// seriesFlags adds what says whose profiles are meant.
func (q *question) seriesFlags(cmd *cobra.Command) {
	q.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&q.service, "service", "s", "", "only this service")
	f.StringVarP(&q.matchers, "matchers", "m", "", "only what matches, as `'service_version=\"v2\", region=~\"eu.*\"'`")
}

// sampleFlags adds what says which samples are meant.
func (q *question) sampleFlags(cmd *cobra.Command) {
	q.seriesFlags(cmd)
	cmd.Flags().StringVarP(&q.sampleType, "type", "t", "cpu",
		"profile `type`: cpu, alloc, heap, goroutine, mutex, block, a sample type, or all five parts")
	cmd.Flags().StringVar(&q.sampleMatcher, "samples", "", "only samples whose own labels match, as `'span_id=\"5f3a\"'`")
	cmd.Flags().StringSliceVar(&q.ids, "id", nil, "only the profiles with these `ids`, of query profiles")
	cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(friendlyNames(), cobra.ShellCompDirectiveNoFileComp))
}

func (q *question) client() quantrav1connect.QuerierServiceClient {
	return quantrav1connect.NewQuerierServiceClient(q.http(), q.server)
}

// http asks the server as whoever this user is there.
func (q *question) http() *http.Client {
	return q.credentials.client(q.server, &http.Client{Timeout: q.timeout})
}

// selector is the question's matchers in one.
func (q *question) selector() (string, error) {
	ms, err := store.ParseMatchers(q.matchers)
	if err != nil {
		return "", usagef("--matchers %s: %w", q.matchers, err)
	}
	if q.service != "" {
		ms = append(ms, store.Matcher{Name: profile.LabelService, Op: store.MatchEqual, Value: q.service})
	}
	if len(ms) == 0 {
		return "", nil
	}
	return store.FormatMatchers(ms), nil
}

// timeRange is the range of the question, as of now.
func (q *question) timeRange(now time.Time) (*quantrav1.TimeRange, error) {
	r := &quantrav1.TimeRange{}
	if q.since < 0 {
		return nil, usagef("--since %s: it must not be negative", &q.since)
	}
	if q.since > 0 {
		r.FromMs = now.Add(-time.Duration(q.since)).UnixMilli()
	}
	for _, end := range []struct {
		flag, text string
		to         *int64
	}{{"--from", q.from, &r.FromMs}, {"--to", q.to, &r.ToMs}} {
		if end.text == "" {
			continue
		}
		t, err := parseTime(end.text, now)
		if err != nil {
			return nil, usagef("%s %q: it must be RFC 3339 (2026-11-23T15:04:05Z), now, or now-15m", end.flag, end.text)
		}
		*end.to = t.UnixMilli()
	}
	if r.ToMs != 0 && r.FromMs >= r.ToMs {
		return nil, usagef("the range ends (%s) before it begins (%s); set both --from and --to",
			time.UnixMilli(r.ToMs).UTC().Format(time.RFC3339), time.UnixMilli(r.FromMs).UTC().Format(time.RFC3339))
	}
	return r, nil
}

func parseTime(s string, now time.Time) (time.Time, error) {
	if ago, ok := strings.CutPrefix(s, "now"); ok {
		if ago == "" {
			return now, nil
		}
		d, err := time.ParseDuration(ago)
		return now.Add(d), err
	}
	return time.Parse(time.RFC3339, s)
}

// selection is the question as the server takes it. The profile type is the
// one of the server's that the user's name for it fits.
func (q *question) selection(ctx context.Context, c quantrav1connect.QuerierServiceClient) (*quantrav1.Selection, error) {
	matchers, err := q.selector()
	if err != nil {
		return nil, err
	}
	r, err := q.timeRange(time.Now())
	if err != nil {
		return nil, err
	}
	resp, err := c.ProfileTypes(ctx, connect.NewRequest(&quantrav1.ProfileTypesRequest{Matchers: matchers, Range: r}))
	if err != nil {
		return nil, q.serverError(err)
	}
	typ, err := chooseType(q.sampleType, resp.Msg.ProfileTypes)
	if err != nil {
		return nil, err
	}
	return &quantrav1.Selection{ProfileType: typ, Matchers: matchers, Range: r, Filter: wireFilter(q.filter), SampleMatchers: q.sampleMatcher, ProfileIds: q.ids}, nil
}

func wireFilter(f profile.Filter) *quantrav1.Filter {
	if f == (profile.Filter{}) {
		return nil
	}
	return &quantrav1.Filter{
		Focus: f.Focus, Ignore: f.Ignore, Hide: f.Hide, Show: f.Show, ShowFrom: f.ShowFrom,
		TagFocus: f.TagFocus, TagIgnore: f.TagIgnore,
	}
}

// friendly are short names for profile types: the profile's name and the
// sample type that each means. Go's runtime and Pyroscope's SDK differ in a few names.
var friendly = []struct {
	name     string
	profiles []string
	samples  []string
}{
	{"cpu", []string{"process_cpu"}, []string{"cpu"}},
	{"alloc", []string{"memory"}, []string{"alloc_space"}},
	{"heap", []string{"memory"}, []string{"inuse_space"}},
	{"goroutine", []string{"goroutine", "goroutines"}, []string{"goroutine", "goroutines"}},
	{"mutex", []string{"mutex"}, []string{"delay"}},
	{"block", []string{"block"}, []string{"delay"}},
}

func friendlyNames() []string {
	var names []string
	for _, f := range friendly {
		names = append(names, f.name)
	}
	return names
}

// errNoProfiles says that a question is about nothing.
var errNoProfiles = errors.New("there are no profiles that match in this range; `quantraband query services --since 0` says what there is")

// chooseType is the one of have that want names: a friendly name, a full type,
// or a sample type that only one of them has.
func chooseType(want string, have []string) (string, error) {
	if len(have) == 0 {
		return "", errNoProfiles
	}
	var found []string
	for _, h := range have {
		t, err := profile.ParseType(h)
		if err != nil {
			continue // a newer server may know other shapes
		}
		if h == want {
			return h, nil
		}
		named := t.Sample.Type == want || t.Name+":"+t.Sample.Type == want
		for _, f := range friendly {
			if f.name == want {
				named = slices.Contains(f.profiles, t.Name) && slices.Contains(f.samples, t.Sample.Type)
			}
		}
		if named {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("there is no profile of type %q here; there are: %s", want, strings.Join(have, ", "))
	}
	return "", usagef("--type %q fits more than one: %s; name one of them", want, strings.Join(found, ", "))
}

// serverError says in the user's terms why the server did not answer.
func (q *question) serverError(err error) error {
	var op *net.OpError
	var ce *connect.Error
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.As(err, &op) && op.Op == "dial":
		return unavailablef("no server answers at %s (%w); start one with `quantraband up`, or name another with --server", q.server, op.Err)
	case errors.As(err, &ce):
		switch ce.Code() {
		case connect.CodeInvalidArgument:
			return usagef("%s", ce.Message())
		case connect.CodePermissionDenied, connect.CodeUnauthenticated:
			return deniedf("%s: %s", q.server, ce.Message())
		case connect.CodeDeadlineExceeded:
			return unavailablef("%s did not answer within %s; ask for less, or wait longer with --timeout", q.server, q.timeout)
		case connect.CodeUnavailable, connect.CodeResourceExhausted:
			return unavailablef("%s cannot answer now: %s", q.server, ce.Message())
		case connect.CodeUnimplemented, connect.CodeUnknown:
			return unavailablef("%s is not a quantraband server, or one of another version: %s", q.server, ce.Message())
		}
		return fmt.Errorf("%s: %w", q.server, err)
	}
	return unavailablef("%s: %w", q.server, err)
}

// checkServer refuses an address that no request could go to.
func (q *question) checkServer() error {
	u, err := url.Parse(q.server)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return usagef("--server %q: it must be an address like %s", q.server, defaultServer)
	}
	return nil
}

func (a *app) queryCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "query",
		GroupID: "main",
		Short:   "Ask a running server: services, labels, top, flame, series, trend, profiles, types, export",
		Long: `Ask a running server what its profiles say. The server is the one that --server
or the environment variable QUANTRA_SERVER names, else ` + defaultServer + `.`,
		Example: `  quantraband query services
  quantraband query top --service checkout --type alloc --since 1h
  quantraband query flame -m 'service_name="checkout", service_version="v2"'`,
	}, a.queryServices(), a.queryLabels(), a.queryTypes(), a.queryTop(), a.queryFlame(), a.querySeries(), a.queryTrend(), a.queryProfiles(), a.queryExport())
}
