package bucket

import (
	"strings"
	"testing"
)

// FuzzName: escaping loses nothing, and gives names that every file system takes.
func FuzzName(f *testing.F) {
	for _, s := range []string{"a", "meta.json", "CON", "nul.txt", "a b%2F", "é.", "..", ".x", "COM1", "lpt9.a.b", "01JABCDEFGH"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, part string) {
		name := escape(part)
		back, ours := unescape(name)
		if back != part || !ours {
			t.Fatalf("%q became %q and then %q, %v", part, name, back, ours)
		}
		if part != "" && (name[0] == '.' || name[len(name)-1] == '.' || reserved(name) || strings.ContainsAny(name, "/\\:*?\"<>| ")) {
			t.Fatalf("%q became %q", part, name)
		}
		if again, ours := unescape(part); ours && escape(again) != part {
			t.Fatalf("%q passes for ours", part)
		}
	})
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ url, want string }{
		{"gs://b", "gs://b"},
		{"gs://b/pre/fix/", "gs://b/pre/fix"},
		{"s3://b?region=eu-central-1&endpoint=http://127.0.0.1:9000&path_style=true", "s3://b at http://127.0.0.1:9000"},
		{"azblob://c?account=acc", "azblob://c"},
		{"file:///srv/profiles", "file:///srv/profiles"},
		{"file://localhost/srv", "file:///srv"},
		{"", "invalid: the URL cannot be read; " + forms},
		{"/srv", "invalid: the URL cannot be read; " + forms},
		{"ftp://x", "bucket ftp://x: invalid: no such kind of bucket; " + forms},
		{"mem://", "bucket mem://: invalid: no such kind of bucket; " + forms},
		{"s3://key:geheim@b", "credentials do not belong in a bucket's URL"},
		{"s3://b?geheim=1", `no such parameter as "geheim"; there are: region, endpoint, path_style, profile`},
		{"file:///x?create=1", `no such parameter as "create"; there are: none`},
		{"gs:///x", "the bucket's name is missing"},
		{"gs://b/a//b", "has an empty part"},
		{"gs://b/../b", "is a step, not a name"},
		{"file://srv/x", "the folder must be absolute"},
		{"file:x", forms},
		{"s3://b?endpoint=127.0.0.1:9000", "endpoint must be http"},
		{"s3://b?endpoint=http://u:geheim@h", "endpoint must be http"},
		{"s3://b?x=%zz", "what follows '?' cannot be read"},
		{"s3://b#x", forms},
	} {
		p, err := parse(c.url)
		got := p.String()
		if p.scheme == "file" {
			got = fileURL(p.name)
		}
		if err != nil {
			got = err.Error()
			if strings.Contains(got, "geheim@") || strings.Contains(got, ":geheim") {
				t.Errorf("%s: the error repeats a secret: %s", c.url, got)
			}
		}
		if !strings.Contains(got, c.want) || err == nil && got != c.want {
			t.Errorf("%s: %s\nwant %s", c.url, got, c.want)
		}
	}
}
