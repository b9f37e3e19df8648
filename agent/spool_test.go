package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func spooledItem(n int) item {
	return item{name: "process_cpu", from: time.Unix(int64(n), 0), until: time.Unix(int64(n)+10, 0), labels: "service_name=x", body: fmt.Appendf(nil, "profile %d", n)}
}

func mustPut(t *testing.T, s *spool, i item) {
	t.Helper()
	if err := s.put(i); err != nil {
		t.Fatal(err)
	}
}

// bodies empties a spool.
func bodies(s *spool) (all []string) {
	for {
		i, ok := s.head()
		if !ok {
			return all
		}
		all = append(all, string(i.body))
		s.drop()
	}
}

// TestSpoolOrder: what was put comes back as it was, oldest first, and nothing is left on disk.
func TestSpoolOrder(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(dir, "shop/é", 1<<20)
	if _, ok := s.head(); ok || len(files(t, dir)) > 0 {
		t.Error("a new spool has something")
	}
	for n := range 12 {
		mustPut(t, s, spooledItem(n))
	}
	i, _ := s.head()
	if want := spooledItem(0); i.name != want.name || !i.from.Equal(want.from) || !i.until.Equal(want.until) || i.labels != want.labels || !bytes.Equal(i.body, want.body) {
		t.Errorf("%+v, want %+v", i, want)
	}
	got := bodies(s)
	if len(got) != 12 || got[0] != "profile 0" || got[11] != "profile 11" || s.bytes != 0 {
		t.Errorf("%q, %d bytes left", got, s.bytes)
	}
	s.close()
	if f := files(t, dir); len(f) > 0 {
		t.Errorf("left on disk: %q", f)
	}
}

func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSpoolAdopts: the next run takes over what one that ended left, and leaves a living one's alone.
func TestSpoolAdopts(t *testing.T) {
	dir := t.TempDir()
	ended, alive, other := newSpool(dir, "shop", 1<<20), newSpool(dir, "shop", 1<<20), newSpool(dir, "other", 1<<20)
	for n := range 3 {
		mustPut(t, ended, spooledItem(n))
		mustPut(t, alive, spooledItem(10+n))
		mustPut(t, other, spooledItem(20+n))
	}
	os.WriteFile(filepath.Join(ended.own, "0007.profile.half"), []byte("half"), 0o600)
	ended.close()
	next := newSpool(dir, "shop", 1<<20)
	next.adopt()
	mustPut(t, next, spooledItem(99))
	if got := bodies(next); strings.Join(got, ",") != "profile 0,profile 1,profile 2,profile 99" {
		t.Errorf("the next run has %q", got)
	}
	if _, err := os.Stat(ended.own); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the one that ended: %v", err)
	}
	if got := bodies(alive); len(got) != 3 {
		t.Errorf("the living one has %q", got)
	}
	if got := bodies(other); len(got) != 3 {
		t.Errorf("the other service has %q", got)
	}
}

// TestSpoolBound: past the bound the oldest go, and are counted.
func TestSpoolBound(t *testing.T) {
	s := newSpool(t.TempDir(), "shop", 1000)
	for n := range 50 {
		mustPut(t, s, spooledItem(n))
		if s.bytes > 1000 {
			t.Fatalf("%d bytes on disk, the bound is 1000", s.bytes)
		}
	}
	got := bodies(s)
	if len(got) == 0 || got[len(got)-1] != "profile 49" || s.lost != int64(50-len(got)) {
		t.Errorf("%q, %d lost", got, s.lost)
	}
}

// TestSpoolDamage: whatever became of a file, it is dropped and counted, and the rest comes.
func TestSpoolDamage(t *testing.T) {
	whole, err := encodeSpooled(spooledItem(7))
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x40
		if _, err := decodeSpooled(bad); err == nil {
			t.Errorf("byte %d altered: not seen", i)
		}
		if _, err := decodeSpooled(whole[:i]); err == nil {
			t.Errorf("cut at %d: not seen", i)
		}
	}
	s := newSpool(t.TempDir(), "shop", 1<<20)
	for n := range 4 {
		mustPut(t, s, spooledItem(n))
	}
	os.WriteFile(filepath.Join(s.own, s.entries[0].name), whole[:20], 0o600)
	os.Remove(filepath.Join(s.own, s.entries[1].name))
	os.Remove(filepath.Join(s.own, s.entries[2].name))
	os.Mkdir(filepath.Join(s.own, s.entries[2].name), 0o700)
	if got := bodies(s); len(got) != 1 || got[0] != "profile 3" || s.lost != 3 {
		t.Errorf("%q, %d lost", got, s.lost)
	}
}

// TestSpoolTakenAway: a folder that somebody removed is made anew, and what went with it is counted.
func TestSpoolTakenAway(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(dir, "shop", 1<<20)
	mustPut(t, s, spooledItem(1))
	if err := os.RemoveAll(s.root); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, spooledItem(2))
	if got := bodies(s); len(got) != 1 || got[0] != "profile 2" || s.lost != 1 {
		t.Errorf("%q, %d lost; want the new one, and the one that went with its folder lost", got, s.lost)
	}
	mustPut(t, s, spooledItem(3))
	os.RemoveAll(dir)
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.put(spooledItem(4)); err == nil {
		t.Error("it was put nowhere")
	}
}

func FuzzSpooled(f *testing.F) {
	for _, i := range []item{spooledItem(1), {name: "memory"}, {name: "x", body: bytes.Repeat([]byte{0xff}, 300), labels: "a=b&c=%00"}} {
		b, err := encodeSpooled(i)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := decodeSpooled(b)
		if err != nil {
			return
		}
		again, err := encodeSpooled(i)
		if err != nil {
			t.Fatal(err)
		}
		j, err := decodeSpooled(again)
		if err != nil || j.name != i.name || !j.from.Equal(i.from) || !bytes.Equal(j.body, i.body) {
			t.Fatalf("%+v became %+v, %v", i, j, err)
		}
	})
}

// TestSpoolSurvives: a program that ends while the server is away loses nothing; its next run delivers.
func TestSpoolSurvives(t *testing.T) {
	dir := t.TempDir()
	var windows int
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{reply: func(int, *http.Request) (*http.Response, error) { return nil, errors.New("away") }}
		o := fakeOptions(s)
		o.SpoolDir, o.SpoolBytes, o.Instance = dir, 1<<20, "first"
		cpu := new(fakeCPU)
		a := mustStart(t, o, cpu.sources())
		time.Sleep(5 * time.Minute)
		if err := a.Stop(t.Context()); err != nil {
			t.Errorf("Stop, with room on disk: %v", err)
		}
		windows = cpu.windows()
		if st := a.Status(); st.Spooled != windows || st.Dropped != 0 || st.Queued != 0 || st.SpooledBytes == 0 {
			t.Errorf("%d windows, status %+v", windows, st)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := new(fakeServer)
		o := fakeOptions(s)
		o.SpoolDir, o.SpoolBytes, o.Instance = dir, 1<<20, "second"
		a := mustStart(t, o, new(fakeCPU).sources())
		time.Sleep(5 * time.Second)
		got := s.uploads()
		if len(got) != windows {
			t.Fatalf("%d of %d profiles of the run before were delivered", len(got), windows)
		}
		for i, u := range got {
			if u.query.Get("service_instance_id") != "first" || u.query.Get("service_name") != "test" || u.body != fmt.Sprintf("cpu profile %d", i+1) {
				t.Errorf("profile %d is %q of %v", i, u.body, u.query)
			}
		}
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if f := files(t, dir); len(f) > 0 {
			t.Errorf("left on disk: %q", f)
		}
	})
}

// TestOutage: a server that was away gets every window, in order.
func TestOutage(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		s := &fakeServer{reply: func(int, *http.Request) (*http.Response, error) {
			if away.Load() {
				return answer(502, "<html>bad gateway</html>"), nil
			}
			return kept(), nil
		}}
		o := fakeOptions(s)
		o.SpoolDir, o.SpoolBytes, o.QueueBytes = dir, 1<<20, 1000
		cpu := new(fakeCPU)
		a := mustStart(t, o, cpu.sources())
		time.Sleep(2 * time.Minute)
		away.Store(true)
		time.Sleep(20 * time.Minute)
		if st := a.Status(); st.Spooled < 100 || st.Dropped != 0 {
			t.Errorf("in the outage: %+v", st)
		}
		away.Store(false)
		time.Sleep(3 * time.Minute)
		if st := a.Status(); st.Spooled != 0 || len(files(t, dir)) > 1 {
			t.Errorf("after it: %+v", st)
		}
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		got := s.uploads()
		if len(got) != cpu.windows() {
			t.Fatalf("%d windows, %d delivered", cpu.windows(), len(got))
		}
		for i, u := range got {
			if u.body != fmt.Sprintf("cpu profile %d", i+1) {
				t.Fatalf("upload %d is %q", i, u.body)
			}
		}
	})
}

// TestNoRoomOnDisk: where the folder takes nothing, profiles stay in memory within its bound, and Stop says what is lost.
func TestNoRoomOnDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{reply: func(int, *http.Request) (*http.Response, error) { return nil, errors.New("away") }}
		o := fakeOptions(s)
		o.SpoolDir, o.SpoolBytes, o.QueueBytes = file, 1<<20, 1000
		a := mustStart(t, o, new(fakeCPU).sources())
		time.Sleep(5 * time.Minute)
		st := a.Status()
		if st.SpoolError == "" || st.Spooled != 0 || st.QueuedBytes == 0 || st.QueuedBytes > 1000 || st.Dropped == 0 {
			t.Errorf("status %+v", st)
		}
		if err := a.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "profiles dropped") {
			t.Errorf("Stop: %v", err)
		}
	})
}

// TestWrongWay: what is wrong with the way, not with the profile, loses nothing, and is said.
func TestWrongWay(t *testing.T) {
	for _, c := range []struct {
		name string
		resp func() *http.Response
		says string
	}{
		{"redirect", func() *http.Response { return answer(307, "", "Location", "http://elsewhere/") }, "elsewhere"},
		{"login page", func() *http.Response { return answer(200, "<html>Please sign in</html>") }, "not as a server of profiles"},
		{"empty", func() *http.Response { return answer(204, "") }, "not as a server of profiles"},
		{"other region", func() *http.Response {
			return answer(421, `{"error":"eu only","endpoint":"http://stranger"}`)
		}, "stranger"},
		{"unsigned", func() *http.Response { return answer(401, `{"error":"no signature"}`) }, "no signature"},
		{"old server", func() *http.Response { return answer(404, "404 page not found") }, "404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &fakeServer{reply: func(n int, r *http.Request) (*http.Response, error) {
					if n < 3 {
						return c.resp(), nil
					}
					return kept(), nil
				}}
				cpu := new(fakeCPU)
				a := mustStart(t, fakeOptions(s), cpu.sources())
				time.Sleep(10 * time.Minute)
				if st := a.Status(); st.Failed != 3 || st.Rejected+st.Dropped != 0 || !strings.Contains(st.LastError, c.says) {
					t.Errorf("status %+v", st)
				}
				if err := a.Stop(t.Context()); err != nil {
					t.Error(err)
				}
				if len(s.uploads()) != cpu.windows() {
					t.Errorf("%d windows, %d uploads", cpu.windows(), len(s.uploads()))
				}
			})
		})
	}
}

// TestMisdirected: the server of another region is left for the one that it names, if that is one of ours.
func TestMisdirected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hosts []string
		s := &fakeServer{reply: func(n int, r *http.Request) (*http.Response, error) {
			hosts = append(hosts, r.URL.Host)
			if r.URL.Host == "eu.example" {
				return answer(421, `{"error":"not of eu","endpoint":"http://us.example/"}`), nil
			}
			return kept(), nil
		}}
		o := fakeOptions(s)
		o.Region, o.Endpoints = "eu", map[string]string{"eu": "http://eu.example", "us": "http://us.example"}
		a := mustStart(t, o, new(fakeCPU).sources())
		time.Sleep(3 * time.Minute)
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if len(hosts) < 5 || hosts[0] != "eu.example" || strings.Count(strings.Join(hosts, " "), "eu.example") != 1 {
			t.Errorf("asked %q", hosts)
		}
		if u := s.uploads()[0]; u.query.Get("region") != "eu" {
			t.Errorf("region %q", u.query.Get("region"))
		}
	})
}
