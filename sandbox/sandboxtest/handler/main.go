// Command handler is what the tests of sandboxes run in them: it does as it is told, also what it may not. It is built for the host and for
// wasip1, and serves as launcher and as a machine's init as well.
//
// Its first argument says how it lives: "echo" sends calls back; "do" takes a call for an attempt (see attempt) and answers with "done: "
// or "refused: " and more; the others break the protocol.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/sandbox/channel"
	"github.com/quantra-l/quantra/sandbox/jail"
	"github.com/quantra-l/quantra/sandbox/microvm/guest"
)

func main() {
	jail.Main()
	guest.Main()
	how := "echo"
	if len(os.Args) > 1 {
		how = os.Args[1]
	}
	if err := live(how); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func live(how string) error {
	switch how {
	case "echo":
		return channel.Serve(os.Stdin, os.Stdout, func(in io.Reader, out io.Writer) error {
			_, err := io.Copy(out, in)
			return err
		})
	case "do":
		return channel.Serve(os.Stdin, os.Stdout, do)
	case "silent":
		select {}
	case "spin":
		spin()
	case "garbage":
		_, err := io.WriteString(os.Stdout, "this is no frame at all")
		return err
	case "die":
		return fmt.Errorf("dying at once, as told")
	}
	return fmt.Errorf("no life called %q", how)
}

func do(in io.Reader, out io.Writer) error {
	b, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return err
	}
	what, arg, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	said, err := attempt(what, arg, out)
	if err != nil {
		said = "refused: " + err.Error()
	} else {
		said = "done: " + said
	}
	_, err = io.WriteString(out, said)
	return err
}

// attempt does what a session may or may not do; its error is that it could not.
func attempt(what, arg string, out io.Writer) (string, error) {
	switch what {
	case "add":
		n, err := strconv.Atoi(arg)
		return strconv.Itoa(n + 1), err
	case "fail":
		return "", fmt.Errorf("failed as told")
	case "exit":
		os.Exit(7)
	case "env":
		return strings.Join(os.Environ(), "\n"), nil
	case "args":
		return strings.Join(os.Args, "\n"), nil
	case "read":
		b, err := os.ReadFile(arg)
		return string(b), err
	case "list":
		l, err := os.ReadDir(arg)
		return fmt.Sprint(len(l), l), err
	case "write":
		return arg, os.WriteFile(arg, []byte("x"), 0o600)
	case "dial":
		network, addr, _ := strings.Cut(arg, " ")
		c, err := net.DialTimeout(network, addr, time.Second)
		if err != nil {
			return "", err
		}
		return "connected", c.Close()
	case "listen":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		return "listening", l.Close()
	case "spin":
		spin()
	case "sleep":
		time.Sleep(time.Hour)
	case "alloc":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(len(hold(n))), nil
	case "flood":
		w := bufio.NewWriter(out)
		for {
			if _, err := w.WriteString("this goes on and on and on\n"); err != nil {
				return "", err
			}
		}
	case "shout":
		for {
			fmt.Fprintln(os.Stderr, "this goes on and on and on")
		}
	case "clock":
		return fmt.Sprint(time.Now().UnixNano()), nil
	}
	return attemptSystem(what, arg)
}

// spin computes for as long as anybody lets it.
func spin() {
	for n := uint64(1); n != 0; n = n*6364136223846793005 + 2 { // odd stays odd
	}
}

// hold takes n MiB and touches each page of them.
func hold(n int) [][]byte {
	var held [][]byte
	for range n {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	return held
}
