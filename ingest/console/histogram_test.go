package console

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"errors"
	"io"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"

	consolev1 "github.com/quantra-l/quantra/wire/console/v1"
)

// TestHistogram: HdrHistogram's own implementation writes it, and counts as we do.
func TestHistogram(t *testing.T) {
	for _, c := range []struct {
		lowest, highest int64
		digits          int
		step            int64
	}{{1, 1_000_000_000, 2, 777_777}, {1, 1 << 40, 3, 1 << 33}, {1000, 1 << 50, 1, 1 << 43}, {1, 2, 2, 1}} {
		own := hdrhistogram.New(c.lowest, c.highest, c.digits)
		for v := c.lowest; v <= c.highest; v += c.step {
			if err := own.RecordValues(v, v%7+1); err != nil {
				t.Fatal(err)
			}
		}
		h, err := readHistogram(&consolev1.DurationHistogram{RawHistogram: rawV2(t, own)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if int64(h.Count) != own.TotalCount() {
			t.Errorf("%+v: %d counted, want %d", c, h.Count, own.TotalCount())
		}
		for q, got := range map[float64]uint64{50: h.P50, 90: h.P90, 95: h.P95, 99: h.P99, 100: h.Max} {
			if want := own.ValueAtQuantile(q); int64(got) != want {
				t.Errorf("%+v: %v %% is %d, want %d", c, q, got, want)
			}
		}
	}
}

// rawV2 is a histogram as the format has it before it is compressed and put into text, which this library does with it.
func rawV2(t *testing.T, h *hdrhistogram.Histogram) []byte {
	t.Helper()
	text, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		t.Fatal(err)
	}
	packed := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(packed, text)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zlib.NewReader(bytes.NewReader(packed[8:n]))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestHistogramCorrupt(t *testing.T) {
	own := hdrhistogram.New(1, 1_000_000_000, 2)
	if err := own.RecordValue(12_345); err != nil {
		t.Fatal(err)
	}
	good := rawV2(t, own)
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	zeroes := append(bytes.Clone(good[:40]), 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f) // so many that they are no histogram
	zeroes[7] = 6
	for name, b := range map[string][]byte{
		"short": good[:39], "cut": good[:len(good)-1], "cookie": change(0, 9), "digits": change(15, 9), "lowest": change(23, 0), "offset": change(11, 1), "long": make([]byte, maxHistogram+1), "zeroes": zeroes,
	} {
		if _, err := readHistogram(&consolev1.DurationHistogram{RawHistogram: b}, nil); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h, err := readHistogram(nil, good); err != nil || h.Count != 1 {
		t.Errorf("of an old program: %+v, %v", h, err)
	}
	if h, err := readHistogram(nil, nil); err != nil || h != nil {
		t.Errorf("none: %+v, %v", h, err)
	}
	h, err := readHistogram(&consolev1.DurationHistogram{RawHistogram: good, HighOutliers: 2, HighestOutlier: new(uint64(9e9))}, nil)
	if err != nil || h.Max != 9e9 || h.Outliers != 2 {
		t.Errorf("outliers: %+v, %v", h, err)
	}
}
