// Package controltest gives tests a real PostgreSQL server of their own.
package controltest

import (
	"bufio"
	"database/sql"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// cluster is a real PostgreSQL server of the tests' own: from the folder that
// QUANTRA_POSTGRES_BIN names, or where Debian has it. It lives until the tests end.
type cluster struct {
	dir  string
	port int
	cmd  *exec.Cmd
	dbs  atomic.Int64
}

// Password is that of the cluster's owner: with characters that must be escaped in a URL.
const Password = "s3cret/with@signs"

var theCluster struct {
	sync.Once
	c       *cluster
	err     error
	missing bool
}

// URL is the URL of a new, empty database on the cluster, which is started if it has not been.
func URL(t *testing.T) string {
	t.Helper()
	theCluster.Do(func() {
		bin := postgresBin()
		if bin == "" {
			theCluster.missing = true
			return
		}
		theCluster.c, theCluster.err = startCluster(bin)
	})
	switch c := theCluster.c; {
	case theCluster.missing && os.Getenv("QUANTRA_CI") != "":
		t.Fatal("no PostgreSQL: install Debian's package postgresql, or set QUANTRA_POSTGRES_BIN to the folder that has initdb")
	case theCluster.missing:
		t.Skip("NOT TESTED: no PostgreSQL here; install Debian's package postgresql, or set QUANTRA_POSTGRES_BIN to the folder that has initdb")
	case theCluster.err != nil:
		t.Fatal(theCluster.err)
	default:
		name := fmt.Sprintf("t%d", c.dbs.Add(1))
		admin, err := sql.Open("pgx", c.url("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close()
		if _, err := admin.Exec("create database " + name); err != nil {
			t.Fatal(err)
		}
		return c.url(name)
	}
	return ""
}

func (c *cluster) url(db string) string {
	return fmt.Sprintf("postgres://owner:%s@127.0.0.1:%d/%s?sslmode=disable", strings.NewReplacer("/", "%2F", "@", "%40").Replace(Password), c.port, db)
}

func postgresBin() string {
	if bin := os.Getenv("QUANTRA_POSTGRES_BIN"); bin != "" {
		return bin
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return ""
	}
	slices.Sort(found)
	return filepath.Dir(found[len(found)-1])
}

// startCluster makes a cluster and waits until it answers. PostgreSQL refuses to run as root: then
// another user's name is borrowed.
func startCluster(bin string) (*cluster, error) {
	dir, err := os.MkdirTemp("", "quantra-postgres")
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir}
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte(Password+"\n"), 0o644); err != nil {
		return nil, err
	}
	var as []string
	if os.Getuid() == 0 {
		if as, err = c.giveAway("postgres", "nobody"); err != nil {
			return nil, err
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		line := append(slices.Clone(as), append([]string{filepath.Join(bin, name)}, args...)...)
		cmd := exec.Command(line[0], line[1:]...)
		cmd.Dir = dir
		return cmd
	}
	data := filepath.Join(dir, "data")
	out, err := command("initdb", "-D", data, "-U", "owner", "--auth=scram-sha-256", "--pwfile="+password, "--no-sync", "--locale=C", "-E", "UTF8").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c.port = ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	c.cmd = command("postgres", "-D", data, "-p", strconv.Itoa(c.port), "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "lc_messages=C", "-c", "log_min_messages=warning")
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	var said []string
	ready := make(chan bool, 1)
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if strings.Contains(lines.Text(), "ready to accept connections") {
				ready <- true
			}
			if len(ready) == 0 {
				said = append(said, lines.Text())
			}
		}
		close(ready)
	}()
	if !<-ready {
		return nil, fmt.Errorf("postgres: %w: %s", c.cmd.Wait(), strings.Join(said, "\n"))
	}
	return c, nil
}

// giveAway gives the folder to the first of the users that is there, and is the command that runs another as that user.
func (c *cluster) giveAway(names ...string) ([]string, error) {
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		return []string{"setpriv", "--reuid", u.Uid, "--regid", u.Gid, "--clear-groups", "--"}, os.Chown(c.dir, uid, gid)
	}
	return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user of %v", names)
}

func (c *cluster) stop() {
	c.cmd.Process.Signal(syscall.SIGQUIT) // at once: nothing of it is kept
	c.cmd.Wait()
	os.RemoveAll(c.dir)
}

// Stop ends the cluster, if a test has started one. Call it at the end of TestMain.
func Stop() {
	if c := theCluster.c; c != nil {
		c.stop()
	}
}
