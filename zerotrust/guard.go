package zerotrust

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// Options are a guard's. Record has no default.
type Options struct {
	// Dir is the folder of the records and revocations; "" keeps them in memory only.
	Dir string
	FS  vfs.FS // of Dir; nil is the host's
	// ReadOnly looks at Dir as it is, also while another process has it, and keeps nothing: to judge on files.
	ReadOnly bool
	// Policy is the policies in force; nil is [policy.Standard].
	Policy func() *policy.Set
	// Issuers are the keys that may vouch for others and revoke. SelfSigned are the kinds of identities that may vouch for themselves;
	// nil is none.
	Issuers    []seal.PublicKey
	SelfSigned []string
	// Record takes what was decided before it is answered: an error of it is a denial. It may be called by many goroutines.
	Record func(context.Context, Event) error
	// Capacity gives a seat in a sandbox to a session of level privileged or above. nil is that there is none: such are refused.
	Capacity func(context.Context, policy.Level) (release func(), err error)
	// Isolated is why the isolation that a session wants to run in cannot be had, nil where it can: such a session is refused, never run in
	// less. nil believes the caller.
	Isolated func(ctx context.Context, isolation string) error
	// Seats and PolicyStatus tell [Guard.Status] of what Capacity and Policy come from; nil tells nothing.
	Seats        func() Seats
	PolicyStatus func() policy.Status
	// MaxRecords bounds the records; 0 is [DefaultMaxRecords]. Cache is how many verified documents are remembered; 0 is [DefaultCache].
	MaxRecords, Cache int
	Now               func() time.Time // nil is time.Now
}

// Guard judges. Its methods may be called by many goroutines.
type Guard struct {
	opt       Options
	authority atomic.Pointer[authority]
	revoking  sync.Mutex // held while an authority is replaced
	cache     *cache
	records   *records
	journal   *journal
	requests  sync.Pool    // of *policy.Request: what a policy is asked with outlives the stack
	floor     atomic.Int64 // Unix seconds: the latest time that was ever seen
	start     time.Time
	counts    [8]count
	verified  atomic.Uint64
	sessions  [16]sessionShard
	closed    atomic.Bool
}

// count is a part of the sums, so that cores do not wait for each other's.
type count struct {
	allowed, denied atomic.Uint64
	_               [48]byte
}

// New makes a guard and reads what was kept in its folder, which it has for itself until [Guard.Close].
func New(o Options) (*Guard, error) {
	if o.Record == nil {
		return nil, errors.New("zerotrust: Options.Record is nil: there is no decision without a record")
	}
	if o.MaxRecords < 0 || o.Cache < 0 {
		return nil, fmt.Errorf("zerotrust: Options.MaxRecords %d, Cache %d: they must not be negative", o.MaxRecords, o.Cache)
	}
	if o.MaxRecords == 0 {
		o.MaxRecords = DefaultMaxRecords
	}
	if o.Cache == 0 {
		o.Cache = DefaultCache
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Policy == nil {
		standard := policy.Standard()
		o.Policy = func() *policy.Set { return standard }
	}
	issuers, err := issuerSet(o.Issuers)
	if err != nil {
		return nil, err
	}
	self := map[string]bool{}
	for _, k := range o.SelfSigned {
		if !slices.Contains(Kinds, k) {
			return nil, fmt.Errorf("zerotrust: Options.SelfSigned: %.20q is none of %s", k, strings.Join(Kinds, ", "))
		}
		self[k] = true
	}
	g := &Guard{opt: o, cache: newCache(o.Cache), records: newRecords(o.MaxRecords, o.Now), start: o.Now()}
	g.requests.New = func() any { return new(policy.Request) }
	for i := range g.sessions {
		g.sessions[i].open = map[*Session]struct{}{}
	}
	var lists map[seal.PublicKey]*revocations
	switch {
	case o.Dir != "" && o.ReadOnly:
		kept, err := readDir(o.FS, o.Dir)
		if err != nil {
			return nil, err
		}
		kept.fill(g.records)
		g.floor.Store(kept.floor)
		if lists, err = readRevocations(o.FS, o.Dir); err != nil {
			return nil, err
		}
	case o.Dir != "":
		if g.journal, err = openJournal(o.FS, o.Dir, g.records, &g.floor, compactAt); err != nil {
			return nil, err
		}
		if lists, err = readRevocations(o.FS, o.Dir); err != nil {
			return nil, errors.Join(err, g.journal.close())
		}
	}
	a := newAuthority(issuers, self, lists)
	g.authority.Store(a)
	g.floor.Store(max(g.floor.Load(), a.revokedAt().Unix()))
	return g, nil
}

// Close ends all sessions and writes what is not yet on disk.
func (g *Guard) Close() error {
	g.closed.Store(true)
	for _, s := range g.openSessions() {
		s.Close()
	}
	if g.journal == nil {
		return nil
	}
	return g.journal.close()
}

// Healthy is why what changed cannot be kept, nil where it can.
func (g *Guard) Healthy() error {
	if g.journal == nil {
		return nil
	}
	return g.journal.healthy()
}

// Request is what somebody wants to do. Who it is stands in Document, or in Principal.
type Request struct {
	// Document is the identity's, and Key the key that the channel has shown to belong to whoever is at its other end: a document
	// without its key is worth nothing.
	Document []byte
	Key      seal.PublicKey
	// Principal, where there is no document, is somebody whom the caller has authenticated (a person who logged in, a token): a
	// pseudonym, as it stands in records. Kind is person, token or service.
	Principal, Kind string
	Roles           []string // granted here, beside those that an issuer has signed
	// Trust, where there is no document, is what the caller's authentication has proved, 1 to 100: docs/policy.md, "People". What the
	// principal's failures have cost it is taken off. 0 is by its record, as of everybody else.
	Trust int

	Action, Resource string // see [policy.Request]
	MFA              bool
	Isolation        string // what the session will run in: "" is nothing
	Remote           netip.Addr
}

// DecisionID names a decision in records: 16 random bytes.
type DecisionID [16]byte

func (id DecisionID) String() string { return hex.EncodeToString(id[:]) }

// Decision is what was decided. Unless Allow is true it is a denial, whatever else it says.
type Decision struct {
	ID         DecisionID
	Allow      bool
	Principal  string // "" where nobody is shown to be there
	Kind       string
	Trust      int
	Level      policy.Level
	Policies   []string // that decided; not to be changed
	Conditions policy.Conditions
	Reason     string
	// RetryAfter is, of a denial for its rate alone, when it may be asked again; 0 otherwise.
	RetryAfter time.Duration

	release func()
}

// Release gives back the seat that a decision may hold, when what it allowed is over.
func (d *Decision) Release() {
	if d.release != nil {
		d.release()
		d.release = nil
	}
}

// Event is what is recorded. It has no address and no name: principals are ids and pseudonyms.
type Event struct {
	Time       time.Time
	What       string // decision, challenge, behaviour, drift, session, revocation
	Decision   DecisionID
	Principal  string
	Kind       string
	Action     string
	Resource   string
	Allowed    bool
	Trust      int
	Level      policy.Level
	Policies   []string
	Reason     string
	Privileged bool // is not to be answered before it is durable
}

// privileged says what is not done before its record is durable.
func privileged(level policy.Level, action, resource string) bool {
	if action == "write" && level < policy.Privileged && !isCritical(resource) {
		return false // uploads come by the thousand, and their bytes are durable by themselves
	}
	return level >= policy.Privileged || action == "change" || action == "administer" || isCritical(resource) || strings.HasPrefix(resource, "profiles/raw")
}

func isCritical(resource string) bool {
	return resource == "critical" || strings.HasPrefix(resource, "critical/")
}

// Evaluate decides a request. What it denies has a reason; what it cannot decide, or cannot record, is an error as well, and a denial.
// An allowed decision is to be released.
//
// The order: the identity holds (document, key, time), is vouched for and not revoked; trust and level; policy; what no policy can give
// (critical resources demand level critical); the conditions; a seat; the record.
func (g *Guard) Evaluate(ctx context.Context, req Request) (Decision, error) {
	d, _, err := g.evaluate(ctx, &req, nil)
	return d, err
}

// moment is the time of a decision.
type moment struct {
	now  time.Time
	unix int64 // seconds; never before what was seen before, so that a clock set back makes nothing valid again
	mono int64 // nanoseconds since the guard's start
}

func (g *Guard) moment() moment {
	m := moment{now: g.opt.Now()}
	m.unix, m.mono = m.now.Unix(), int64(m.now.Sub(g.start))
	for {
		floor := g.floor.Load()
		if m.unix <= floor {
			m.unix = floor
			return m
		}
		if g.floor.CompareAndSwap(floor, m.unix) {
			return m
		}
	}
}

// who is the one at the other end.
type who struct {
	principal, kind string
	c               *cached // nil where the caller has authenticated it
	r               *record // nil where it has none yet
	roles           []string
	attributes      map[string]string
	vouched         bool
}

// evaluate is Evaluate; of a session that is open already it asks for no other seat.
func (g *Guard) evaluate(ctx context.Context, req *Request, s *Session) (d Decision, w who, err error) {
	m := g.moment()
	d.ID = newDecisionID()
	if g.closed.Load() {
		return d, w, fmt.Errorf("%w: the guard is closed", ErrUnavailable)
	}
	if err := ctx.Err(); err != nil {
		d.Reason = "the asker is gone"
		return d, w, err
	}
	reason := ""
	switch {
	case !resourceOK(req.Resource) || req.Action == "" || len(req.Action) > maxName:
		reason = reasonRequest
	case s != nil:
		w, reason = s.w, s.holds(m)
	default:
		w, reason = g.identify(req, m)
	}
	if reason == "" {
		reason, err = g.judge(ctx, &w, req, s, m, &d)
	}
	d.Principal, d.Kind = w.principal, w.kind
	d.Allow, d.Reason = reason == "", reason
	if d.Allow {
		d.Reason = "a policy permits it"
	}
	e := Event{
		Time: m.now, What: "decision", Decision: d.ID, Principal: d.Principal, Kind: d.Kind, Action: req.Action, Resource: req.Resource,
		Allowed: d.Allow, Trust: d.Trust, Level: d.Level, Policies: d.Policies, Reason: d.Reason, Privileged: privileged(d.Level, req.Action, req.Resource),
	}
	if rerr := g.opt.Record(ctx, e); rerr != nil {
		d.Release()
		d.Allow, d.Reason = false, reasonRecord
		err = fmt.Errorf("%w: %s: %w", ErrUnavailable, reasonRecord, rerr)
	}
	part := &g.counts[d.ID[0]&7]
	if d.Allow {
		part.allowed.Add(1)
	} else {
		part.denied.Add(1)
	}
	return d, w, err
}

// newDecisionID is random, and takes no lock.
func newDecisionID() (id DecisionID) {
	a, b := rand.Uint64(), rand.Uint64()
	for i := range 8 {
		id[i], id[8+i] = byte(a>>(8*i)), byte(b>>(8*i))
	}
	return id
}

// resourceOK says that a path means one thing only: no empty parts, no dots, nothing that is not printable.
func resourceOK(path string) bool {
	const most = 512
	if path == "" || len(path) > most {
		return false
	}
	start := 0
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			if path[i] <= ' ' || path[i] > '~' {
				return false
			}
			continue
		}
		part := path[start:i]
		if part == "" || part == "." || part == ".." {
			return false
		}
		start = i + 1
	}
	return true
}

// identify finds out who asks, or why nobody is shown to.
func (g *Guard) identify(req *Request, m moment) (w who, reason string) {
	if req.Document == nil {
		switch req.Kind {
		case "person", "token", "service":
		default:
			return w, reasonUnverified
		}
		if !principalOK(req.Principal) {
			return w, reasonUnverified
		}
		w = who{principal: req.Principal, kind: req.Kind, roles: req.Roles, vouched: true, r: g.records.get(req.Principal)}
		if _, ok := g.authority.Load().principals[req.Principal]; ok {
			return w, reasonRevoked
		}
		return w, ""
	}
	c := g.cached(req.Document)
	if c == nil {
		// What costs nothing is asked first: who would have to be believed, and whether the key is the channel's.
		d, err := Decode(req.Document)
		switch {
		case err != nil:
			g.blame(req.Key)
			return w, reasonIdentity + ": " + err.Error()
		case d.Key != req.Key:
			g.blame(req.Key)
			return w, reasonProof
		case !g.authority.Load().vouched(d):
			return w, reasonIssuer
		}
		if c, err = g.verify(d, req.Document); err != nil {
			g.blame(req.Key)
			return w, reasonIdentity + ": " + err.Error()
		}
	}
	if c.Key != req.Key {
		g.blame(req.Key)
		return w, reasonProof
	}
	w = who{principal: c.id, kind: c.Kind, c: c, roles: c.roles, attributes: c.attributes, vouched: !c.SelfSigned()}
	if len(req.Roles) > 0 {
		w.roles = slices.Concat(c.roles, req.Roles)
	}
	if w.r = c.record.Load(); w.r == nil || w.r.gone.Load() {
		w.r = g.records.get(c.id)
		c.record.Store(w.r)
	}
	return w, g.holds(c, m)
}

// holds is why a document does not hold now, "" where it does.
func (g *Guard) holds(c *cached, m moment) string {
	switch {
	case m.unix >= c.to:
		return reasonExpired
	case m.now.Unix() < c.from:
		return reasonNotYet
	}
	a := g.authority.Load()
	if c.checked.Load() == a {
		return ""
	}
	if reason := a.refuses(&c.passport); reason != "" {
		return reason
	}
	c.checked.Store(a)
	return ""
}

// cached is a document that was verified before, nil where it was not.
func (g *Guard) cached(doc []byte) *cached {
	if len(doc) > MaxDocument {
		return nil
	}
	return g.cache.get(doc)
}

// verify checks a document's signature, and remembers it where it is believed.
func (g *Guard) verify(d *Identity, doc []byte) (*cached, error) {
	g.verified.Add(1)
	a := g.authority.Load()
	p, err := a.newPassport(d, doc)
	if err != nil {
		return nil, err
	}
	c := &cached{passport: *p}
	if a = g.authority.Load(); a.refuses(p) == "" { // what is in force now, after the time that a signature takes
		c.checked.Store(a)
		if !p.SelfSigned() {
			c.class = vouched
		}
		g.cache.put(c)
	}
	return c, nil
}

// blame counts a failed verification against whoever the channel has shown to be there: never against the one that a false document
// names, or anybody could ruin anybody's trust.
func (g *Guard) blame(key seal.PublicKey) {
	if r := g.records.get(IDOf(key)); r != nil {
		g.records.update(r, (*Record).failed)
	}
}

// judge goes from who it is to the seat. The reason is "" where it is allowed.
func (g *Guard) judge(ctx context.Context, w *who, req *Request, s *Session, m moment, d *Decision) (reason string, err error) {
	d.Trust, d.Level = startTrust, policy.LevelOf(startTrust)
	if w.r != nil {
		d.Trust = g.records.trustOf(w.r, m.now)
		d.Level = min(policy.LevelOf(d.Trust), policy.Level(w.r.ceiling.Load()))
	}
	if w.c == nil && req.Trust > 0 { // a login proves at once what a program earns
		d.Trust = min(req.Trust, maxTrust)
		ceiling := policy.Critical
		if w.r != nil {
			d.Trust = max(0, d.Trust-w.r.penalty())
			ceiling = policy.Level(w.r.ceiling.Load())
		}
		d.Level = min(policy.LevelOf(d.Trust), ceiling)
	}
	p := g.requests.Get().(*policy.Request)
	*p = policy.Request{
		Principal: w.principal, Kind: w.kind, Roles: w.roles, Action: req.Action, Resource: req.Resource, Trust: d.Trust, Level: d.Level,
		MFA: req.MFA, Isolation: req.Isolation, Attributes: w.attributes, Remote: req.Remote, Time: m.now,
	}
	set := g.opt.Policy()
	if set == nil {
		return reasonPolicy, fmt.Errorf("%w: there are no policies in force", ErrUnavailable)
	}
	res := set.Decide(p)
	*p = policy.Request{}
	g.requests.Put(p)
	d.Policies, d.Conditions = res.Policies, res.Conditions
	if !res.Allow {
		if res.Reason == "" {
			return reasonPolicy, nil
		}
		return res.Reason, nil
	}
	if isCritical(req.Resource) && d.Level < policy.Critical {
		return reasonCritical, nil
	}
	if reason := g.conditions(req, &res.Conditions); reason != "" {
		return reason, nil
	}
	if w.r == nil {
		if w.r, err = g.records.need(w.principal, w.vouched, false, m.now); err != nil {
			return reasonRoom, err
		}
		if w.c != nil {
			w.c.record.Store(w.r)
		}
	}
	if rate := res.Conditions.Rate; rate != (policy.Rate{}) && !(bucket{rate.Every, rate.Burst}).take(&w.r.arrival, m.mono) {
		d.RetryAfter = rate.Every
		return reasonRate, nil
	}
	if req.Isolation != "" && s == nil && g.opt.Isolated != nil {
		if err := g.opt.Isolated(ctx, req.Isolation); err != nil {
			return because(reasonIsolated, err), fmt.Errorf("%w: %s: %w", ErrUnavailable, reasonIsolated, err)
		}
	}
	if d.Level < policy.Privileged || s != nil || w.c == nil && req.Trust > 0 { // who logs in asks, and runs nothing
		return "", nil
	}
	if g.opt.Capacity == nil {
		return reasonSeat, nil
	}
	if d.release, err = g.opt.Capacity(ctx, d.Level); err != nil {
		d.release = nil
		return because(reasonSeat, err), fmt.Errorf("%w: %s: %w", ErrUnavailable, reasonSeat, err)
	}
	return "", nil
}

// because is a reason with what is behind it, so that the record says it as well.
func because(reason string, err error) string {
	const most = 200
	text := strings.ToValidUTF8(err.Error(), "?")
	return reason + ": " + text[:min(len(text), most)]
}

// conditions is which of what a policy asks for is not met, "" where all is. What is not understood is not met.
func (g *Guard) conditions(req *Request, c *policy.Conditions) string {
	if c.MFA && !req.MFA {
		return reasonMFA
	}
	if c.Isolation != "" {
		need, has := slices.Index(policy.Isolations, c.Isolation), slices.Index(policy.Isolations, req.Isolation)
		if need < 0 || has < need {
			return reasonIsolation
		}
	}
	if c.ReadOnly {
		switch req.Action {
		case "read", "subscribe", "connect":
		default:
			return reasonReadOnly
		}
	}
	return ""
}

// Record is what is known of a principal; false where it has no record.
func (g *Guard) Record(principal string) (Record, bool) {
	r := g.records.get(principal)
	if r == nil {
		return Record{}, false
	}
	g.records.trustOf(r, g.opt.Now()) // what is due for age
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, true
}

// Failed counts a failed verification against a principal who has shown that it is he: what a stranger does in somebody's name is not.
// It returns when that is on disk.
func (g *Guard) Failed(ctx context.Context, principal string) error {
	r := g.records.get(principal)
	if r == nil {
		return nil
	}
	g.records.update(r, (*Record).failed)
	return g.records.commit(ctx)
}
