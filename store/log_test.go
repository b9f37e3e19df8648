package store

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
)

func fixture(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/v1/log/00000001.qlog")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecordRoundTrip(t *testing.T) {
	s, err := scanSegment(fixture(t))
	if err != nil || len(s.bodies) != 5 || s.header != nil || len(s.gaps) != 0 {
		t.Fatalf("%d records, %v, %v", len(s.bodies), s.header, err)
	}
	for _, body := range s.bodies {
		u, k, err := parseRecord(body)
		if err != nil {
			t.Fatal(err)
		}
		meta := recordMeta(&u)
		if got := append(meta, u.Pprof...); !bytes.Equal(got, body) || uploadKey(meta, u.Pprof) != k {
			t.Errorf("record %q comes back as %q", body, got)
		}
		// Every shorter body is an error, and none panics.
		for n := range len(body) {
			if _, _, err := parseRecord(body[:n]); err == nil {
				t.Errorf("%d of %d bytes are read as a record", n, len(body))
			}
		}
	}
	u, _, err := parseRecord(s.bodies[0])
	if err != nil {
		t.Fatal(err)
	}
	// A key tells all apart that differ.
	keys := map[key]bool{}
	for _, change := range []func(*Upload){
		func(*Upload) {}, func(u *Upload) { u.Tenant = "t" }, func(u *Upload) { u.Name = "n" },
		func(u *Upload) { u.From = u.From.Add(1) }, func(u *Upload) { u.To = u.To.Add(time.Hour) },
		func(u *Upload) { u.Labels = profile.Labels{{Name: "a", Value: "b"}} }, func(u *Upload) { u.Pprof = append([]byte("x"), u.Pprof...) },
	} {
		v := u
		change(&v)
		keys[uploadKey(recordMeta(&v), v.Pprof)] = true
	}
	if len(keys) != 7 {
		t.Errorf("%d keys of 7 uploads", len(keys))
	}
}

// FuzzScan reads any bytes as a segment: what comes out is good records of those bytes.
func FuzzScan(f *testing.F) {
	good := fixture(f)
	f.Add(good)
	f.Add(good[:100])
	f.Add(append([]byte("QLOG"), good[30:]...))
	f.Add(bytes.Repeat(good[32:], 2))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := scanSegment(data)
		if err != nil {
			return
		}
		n := 0
		for _, b := range s.bodies {
			n += recordHeadLen + len(b)
			decodeRecord(b, profile.Limits{Decoded: 1 << 20})
		}
		for _, g := range s.gaps {
			n += g.len
		}
		if s.good > 0 && n+logHeaderLen != s.good || s.good > max(len(data), logHeaderLen) {
			t.Fatalf("records and gaps cover %d bytes, %d are good of %d", n, s.good, len(data))
		}
	})
}

// FuzzRecord reads any bytes as a record's body.
func FuzzRecord(f *testing.F) {
	s, err := scanSegment(fixture(f))
	if err != nil || len(s.bodies) == 0 {
		f.Fatal("no seeds: ", err)
	}
	for _, b := range s.bodies {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		u, k, err := parseRecord(body)
		if err != nil {
			return
		}
		meta := recordMeta(&u)
		again, k2, err := parseRecord(append(meta, u.Pprof...))
		if err != nil || again.Labels.String() != u.Labels.String() || !again.From.Equal(u.From) {
			t.Fatalf("%+v comes back as %+v (%v %v): %v", u, again, k, k2, err)
		}
	})
}
