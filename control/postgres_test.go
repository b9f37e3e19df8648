package control

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/quantra-l/quantra/control/controltest"
)

// TestMain ends the cluster, if a test has started one. With holderEnv set, the binary is the
// process that TestHolderKilled kills.
func TestMain(m *testing.M) {
	if os.Getenv(holderEnv) != "" {
		hold()
	}
	code := m.Run()
	controltest.Stop()
	os.Exit(code)
}

// each runs a test on both databases. fresh is the URL of a new database.
func each(t *testing.T, f func(t *testing.T, fresh func() string)) {
	t.Run("sqlite", func(t *testing.T) {
		f(t, func() string { return filepath.Join(t.TempDir(), "control.db") })
	})
	t.Run("postgres", func(t *testing.T) { f(t, func() string { return controltest.URL(t) }) })
}

func open(t *testing.T, url string, opt Options) *DB {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := Open(ctx, url, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}
