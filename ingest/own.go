package ingest

import (
	"context"
)

// Keep takes a profile that nobody has sent: the server fetched or read it itself, so there is no request. Tenant, Name, Labels, From, To and
// Pprof of p are given, Name and the times where they are known. Limits, in-flight bytes and checks are those of every route, rates of tenants
// are not: what is fetched is the operator's to say. name is the route that it is counted under.
func (in *Ingest) Keep(ctx context.Context, name string, p Push) error {
	start := in.opt.Now()
	if in.opt.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, in.opt.Timeout)
		defer cancel()
	}
	h := &hold{budget: &in.inFlight, tenant: p.Tenant}
	defer h.release()
	b := batch{pushes: []Push{p}}
	err := in.keepOwn(ctx, h, &b)
	if f := in.judged(ctx, name, start, b, err); f != nil {
		return f
	}
	return nil
}

func (in *Ingest) keepOwn(ctx context.Context, h *hold, b *batch) (err error) {
	p := &b.pushes[0]
	if err := h.grow(int64(len(p.Pprof))); err != nil {
		return err
	}
	if p.Profile, err = in.decode(ctx, h, p.Pprof); err != nil {
		return err
	}
	if p.From, p.To, err = in.window(p.From, p.To, p.Profile); err != nil {
		return err
	}
	p.Own = true
	return in.keep(ctx, h, b)
}
