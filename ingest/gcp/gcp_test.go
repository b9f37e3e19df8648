package gcp

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "google.golang.org/genproto/googleapis/devtools/cloudprofiler/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quantra-l/quantra/profile"
)

func create(target, zone string, kinds ...Kind) Create {
	return Create{Parent: "projects/p", Deployment: Deployment{Project: "p", Target: target, Labels: map[string]string{"zone": zone}}, Kinds: kinds}
}

// TestPace: 50 instances of one service and zone take one profile a minute together, the kinds in turn; another zone has its own pace.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(Options{})
		type taken struct {
			at   time.Duration
			kind Kind
			who  int
		}
		began := time.Now()
		all := make(chan taken, 1000)
		for who := range 50 {
			go func() {
				for time.Since(began) < time.Hour {
					q, err := p.Next(t.Context(), "", create("shop", "a", CPU, Heap, Threads))
					if later := (*Later)(nil); errors.As(err, &later) {
						time.Sleep(later.After) // virtual
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					all <- taken{time.Since(began), q.Kind, who}
					time.Sleep(10 * time.Second)
				}
			}()
		}
		if q, err := p.Next(t.Context(), "", create("shop", "b", Heap)); err != nil || time.Since(began) != 0 || q.Duration != 0 {
			t.Error(q, err, time.Since(began))
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		close(all)
		var got []taken
		who := map[int]bool{}
		for x := range all {
			got = append(got, x)
			who[x.who] = true
		}
		if n := len(got); n < 58 || n > 62 {
			t.Errorf("%d profiles in an hour", n)
		}
		for i := 1; i < len(got); i++ {
			if got[i].at-got[i-1].at < time.Minute-time.Minute/jitter || got[i].kind == got[i-1].kind {
				t.Errorf("%v after %v", got[i], got[i-1])
			}
		}
		if len(who) < 15 {
			t.Errorf("%d of 50 instances were asked", len(who))
		}
	})
}

// TestGone: an agent that goes away while it waits costs nobody a turn.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(Options{Every: 40 * time.Second})
		began := time.Now()
		c := create("shop", "a", CPU)
		if _, err := p.Next(t.Context(), "", c); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel()
		}()
		if _, err := p.Next(ctx, "", c); !errors.Is(err, ctx.Err()) {
			t.Error(err)
		}
		if _, err := p.Next(t.Context(), "", c); err != nil || time.Since(began) < 40*time.Second || time.Since(began) > 42*time.Second {
			t.Error(err, time.Since(began))
		}
		if p.Waiting() != 0 {
			t.Error(p.Waiting())
		}
	})
}

// TestClose: whoever waits when the server stops is told to come later, at once, and so is who comes then.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(Options{})
		began := time.Now()
		if _, err := p.Next(t.Context(), "", create("shop", "a", CPU)); err != nil {
			t.Fatal(err)
		}
		ends := make(chan error, 10)
		wait := func() {
			_, err := p.Next(t.Context(), "", create("shop", "a", CPU))
			ends <- err
		}
		time.Sleep(30 * time.Second) // virtual; the next turn is within the time that a call may hang
		for range 10 {
			go wait()
		}
		synctest.Wait()
		if p.Waiting() != 10 {
			t.Fatal(p.Waiting())
		}
		p.Close()
		p.Close()
		for range 10 {
			if later := (*Later)(nil); !errors.As(<-ends, &later) || later.After < time.Second || later.After > time.Second+stopSpread {
				t.Error(later)
			}
		}
		wait()
		if later := (*Later)(nil); !errors.As(<-ends, &later) || time.Since(began) != 30*time.Second {
			t.Error(later, time.Since(began))
		}
	})
}

func TestCame(t *testing.T) {
	now := time.Unix(1e9, 0)
	p := NewPacer(Options{Now: func() time.Time { return now }})
	q, err := p.Next(t.Context(), "acme", create("shop", "a", CPU))
	if err != nil {
		t.Fatal(err)
	}
	got := Profile{Name: q.Name}
	if err := p.Came("other", &got); err != ErrNotAsked {
		t.Errorf("another tenant's: %v", err)
	}
	if err := p.Came("acme", &got); err != nil || got.Deployment.Target != "shop" || got.Kind != CPU || got.Duration != 10*time.Second {
		t.Error(got, err)
	}
	p.Done(q.Name)
	if err := p.Came("acme", &Profile{Name: q.Name}); err != ErrNotAsked {
		t.Errorf("a second time: %v", err)
	}
	other := Profile{Name: "projects/p/profiles/of-another-server", Kind: Heap, Deployment: Deployment{Target: "shop"}}
	if err := p.Came("acme", &other); err != nil {
		t.Error(err)
	}
	if q, err = p.Next(t.Context(), "acme", create("shop", "b", CPU)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(askedFor + 1)
	if err := p.Came("acme", &Profile{Name: q.Name}); err != ErrNotAsked {
		t.Errorf("too late: %v", err)
	}
}

func theirs() *pb.Profile {
	return &pb.Profile{
		Name: "projects/p/profiles/1", ProfileType: pb.ProfileType_HEAP_ALLOC, Duration: durationpb.New(1500 * time.Millisecond), ProfileBytes: []byte{1, 2, 3},
		Labels:     map[string]string{"instance": "i"},
		Deployment: &pb.Deployment{ProjectId: "p", Target: "shop", Labels: map[string]string{"zone": "a", "version": "v"}},
	}
}

// TestAgreement: our reader and Google's own see the same, in both forms, and Google's reads what we write.
func TestAgreement(t *testing.T) {
	want := Profile{"projects/p/profiles/1", HeapAlloc, Deployment{"p", "shop", map[string]string{"zone": "a", "version": "v"}}, 1500 * time.Millisecond, time.Time{}, []byte{1, 2, 3}, map[string]string{"instance": "i"}}
	check := func(b []byte, err error, asJSON, offline bool) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadProfile(b, asJSON, offline)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	b, err := proto.Marshal(&pb.UpdateProfileRequest{Profile: theirs()})
	check(b, err, false, false)
	b, err = proto.Marshal(&pb.CreateOfflineProfileRequest{Parent: "projects/p", Profile: theirs()})
	check(b, err, false, true)
	b, err = protojson.Marshal(theirs())
	check(b, err, true, false)
	b, err = protojson.Marshal(&pb.UpdateProfileRequest{Profile: theirs()})
	check(b, err, true, false)

	ask := &pb.CreateProfileRequest{Parent: "projects/p", Deployment: theirs().Deployment, ProfileType: []pb.ProfileType{pb.ProfileType_CPU, 99, pb.ProfileType_CPU, pb.ProfileType_WALL}}
	for _, asJSON := range []bool{false, true} {
		b, err := proto.Marshal(ask)
		if asJSON {
			b, err = protojson.Marshal(ask)
		}
		c, rerr := ReadCreate(b, asJSON)
		if err != nil || rerr != nil || c.Parent != "projects/p" || !slices.Equal(c.Kinds, []Kind{CPU, Wall}) || !maps.Equal(c.Deployment.Labels, want.Deployment.Labels) {
			t.Errorf("%+v, %v", c, rerr)
		}
		out, err := want.Append(nil, asJSON)
		var back pb.Profile
		if asJSON {
			err = errors.Join(err, protojson.Unmarshal(out, &back))
		} else {
			err = errors.Join(err, proto.Unmarshal(out, &back))
		}
		expect := theirs()
		expect.ProfileBytes = nil
		if err != nil || !proto.Equal(&back, expect) {
			t.Errorf("%v, %v", &back, err)
		}
	}
}

// FuzzRead: nothing that arrives does harm, errors say that it is corrupt, and what is read is within bounds.
func FuzzRead(f *testing.F) {
	for _, m := range []proto.Message{
		&pb.CreateProfileRequest{Parent: "projects/p", Deployment: theirs().Deployment, ProfileType: []pb.ProfileType{1, 3}},
		&pb.UpdateProfileRequest{Profile: theirs()}, &pb.CreateOfflineProfileRequest{Profile: theirs()}, theirs(),
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		if b, err = protojson.Marshal(m); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		asJSON := len(b) > 0 && b[0] == '{'
		c, err := ReadCreate(b, asJSON)
		if err != nil && !errors.Is(err, profile.ErrCorrupt) || err == nil && (len(c.Kinds) == 0 || len(c.Kinds) > 7) {
			t.Error(c, err)
		}
		p, err := ReadProfile(b, asJSON, len(b)%2 == 0)
		if err != nil && !errors.Is(err, profile.ErrCorrupt) || err == nil && (p.Duration < 0 || len(p.Labels) > profile.MaxLabels) {
			t.Error(p, err)
		}
	})
}
