package clickhouse_test

import (
	"os"
	"testing"

	"github.com/quantra-l/quantra/store/clickhouse/clickhousetest"
)

func TestMain(m *testing.M) {
	clickhousetest.Main()
	os.Exit(m.Run())
}

// newDatabase is an empty database and the URL to it.
func newDatabase(t testing.TB) (name, url string) {
	t.Helper()
	name = clickhousetest.Database(t)
	return name, clickhousetest.URL(clickhousetest.Addr(t), name)
}
