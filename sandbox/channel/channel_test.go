package channel_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/sandbox/channel"
)

type frame struct {
	kind    channel.Kind
	payload string
}

func encode(t testing.TB, frames ...frame) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, f := range frames {
		if err := channel.Write(&b, f.kind, []byte(f.payload)); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func decode(t testing.TB, b []byte) []frame {
	t.Helper()
	var out []frame
	r := channel.NewReader(bytes.NewReader(b))
	for {
		kind, payload, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, frame{kind, string(payload)})
	}
}

func upper(in io.Reader, out io.Writer) error {
	b, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	if string(b) == "bad" {
		return errors.New("no answer to bad")
	}
	_, err = io.WriteString(out, strings.ToUpper(string(b)))
	return err
}

func TestServe(t *testing.T) {
	big := strings.Repeat("x", 3*channel.MaxFrame+1)
	in := encode(t, frame{channel.Ping, "p1"},
		frame{channel.Data, "he"}, frame{channel.Data, ""}, frame{channel.End, "llo"},
		frame{channel.End, "bad"}, frame{channel.End, ""},
		frame{channel.Data, big[:channel.MaxFrame]}, frame{channel.Data, big[:channel.MaxFrame]}, frame{channel.Data, big[:channel.MaxFrame]}, frame{channel.End, "x"})
	var out bytes.Buffer
	if err := channel.Serve(bytes.NewReader(in), &out, upper); err != nil {
		t.Fatal(err)
	}
	got := decode(t, out.Bytes())
	want := []frame{{channel.Hello, "\x01"}, {channel.Ping, "p1"}, {channel.Data, "HELLO"}, {channel.End, ""},
		{channel.Fail, "no answer to bad"}, {channel.End, ""}}
	if len(got) < len(want) {
		t.Fatalf("got %d frames", len(got))
	}
	for i, w := range want {
		if got[i] != w {
			t.Errorf("frame %d is %v, not %v", i, got[i], w)
		}
	}
	answer := ""
	for _, f := range got[len(want):] {
		answer += f.payload
	}
	if answer != strings.ToUpper(big) {
		t.Errorf("the answer of several frames has %d bytes, not %d", len(answer), len(big))
	}
}

// A handler that does not read its call must not take the rest of it for the next call.
func TestServeDrains(t *testing.T) {
	in := encode(t, frame{channel.Data, "a"}, frame{channel.Data, "b"}, frame{channel.End, "c"}, frame{channel.End, "d"})
	calls := 0
	var out bytes.Buffer
	err := channel.Serve(bytes.NewReader(in), &out, func(io.Reader, io.Writer) error { calls++; return nil })
	if err != nil || calls != 2 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestServeRefuses(t *testing.T) {
	long := binary.BigEndian.AppendUint32([]byte{byte(channel.Data)}, channel.MaxFrame+1)
	for name, in := range map[string][]byte{
		"a kind that is none":     {9, 0, 0, 0, 0},
		"a frame that is too big": long,
		"half a header":           {2, 0},
		"half a payload":          {2, 0, 0, 0, 9, 'x'},
		"a hello of the host's":   encode(t, frame{channel.Hello, "\x01"}),
		"a ping within a call":    encode(t, frame{channel.Data, "x"}, frame{channel.Ping, ""}),
		"an end within a call":    encode(t, frame{channel.Data, "x"}),
	} {
		var out bytes.Buffer
		if err := channel.Serve(bytes.NewReader(in), &out, upper); !errors.Is(err, channel.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := channel.Write(io.Discard, channel.Data, make([]byte, channel.MaxFrame+1)); err == nil {
		t.Error("a frame that is too big was written")
	}
}

func FuzzServe(f *testing.F) {
	f.Add(encode(f, frame{channel.Ping, "p"}, frame{channel.Data, "he"}, frame{channel.End, "llo"}))
	f.Add(encode(f, frame{channel.End, "bad"}, frame{channel.End, ""}))
	f.Add([]byte{2, 0, 1, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		err := channel.Serve(bytes.NewReader(in), &out, upper)
		if err != nil && !errors.Is(err, channel.ErrCorrupt) {
			t.Fatal(err)
		}
		decode(t, out.Bytes()) // whatever came, what goes out are frames
	})
}
