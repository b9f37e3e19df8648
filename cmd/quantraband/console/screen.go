package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[2J" // the other screen, no cursor, empty
	leaveScreen = "\x1b[0m\x1b[?25h\x1b[?1049l"
	// drawEvery is how often the screen is looked at without an event: for its size, and for dots that move.
	drawEvery = 250 * time.Millisecond
)

// Run shows the console on a terminal until the user quits, or ctx ends, or the
// process is told to hang up; the error is ctx's then. The terminal is as it was
// before when Run returns, and also when it panics.
func Run(ctx context.Context, in, out *os.File, src *Source, o Options) (err error) {
	restore, err := openScreen(in, out)
	if err != nil {
		return err
	}
	defer restore()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(hangup)

	ctx, cancel := context.WithCancel(ctx)
	l := &loop{m: NewModel(src, o), out: out, keys: make(chan string), answers: make(chan answer, 1)}
	defer func() {
		cancel()
		for l.m.loading != 0 { // the source is not called any more when we return
			l.m.take(<-l.answers)
		}
	}()
	go l.read(ctx, in)
	return l.run(ctx, hangup)
}

// openScreen makes the terminal ours.
func openScreen(in, out *os.File) (restore func(), err error) {
	was, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("the terminal cannot be read key by key: %w", err)
	}
	undo := prepareOutput(out)
	fmt.Fprint(out, enterScreen)
	return func() {
		fmt.Fprint(out, leaveScreen)
		undo()
		term.Restore(int(in.Fd()), was)
	}, nil
}

type loop struct {
	m       *Model
	out     *os.File
	keys    chan string
	answers chan answer
	drawn   string
}

func (l *loop) run(ctx context.Context, hangup <-chan os.Signal) error {
	tick := time.NewTicker(drawEvery)
	defer tick.Stop()
	for {
		l.m.Tick(time.Now())
		if r, ok := l.m.next(); ok {
			go func() { l.answers <- ask(ctx, l.m.src, r) }()
		}
		if err := l.draw(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-hangup:
			return context.Canceled
		case key, ok := <-l.keys:
			if !ok || l.m.Key(key) {
				return nil
			}
		case a := <-l.answers:
			l.m.Tick(time.Now())
			l.m.take(a)
		case <-tick.C:
		}
	}
}

// draw writes the screen where it has changed.
func (l *loop) draw() error {
	width, height, err := term.GetSize(int(l.out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24 // some terminals do not say
	}
	var b strings.Builder
	b.WriteString("\x1b[H")
	for i, line := range l.m.Render(width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	if b.String() == l.drawn {
		return nil
	}
	l.drawn = b.String()
	_, err = io.WriteString(l.out, l.drawn)
	return err
}

// ask puts a request to the source. A panic in it is an error like any other: the terminal must be restored first.
func ask(ctx context.Context, src *Source, r request) (a answer) {
	a.request = r
	defer func() {
		if p := recover(); p != nil {
			a.err = fmt.Errorf("this is a fault of ours: %v %s", p, debug.Stack())
		}
	}()
	switch r.view {
	case Goroutines:
		a.value, a.err = src.Goroutines(ctx, r.full)
	case Hottest:
		a.value, a.err = src.Functions(ctx)
	case Memory:
		a.value, a.err = src.Runtime(ctx)
	case Trace:
		a.value, a.err = src.Trace(ctx)
	default:
		a.err = errors.New("there is nothing to ask for")
	}
	return a
}

// read passes on keys until the terminal is gone. A read cannot be interrupted: the
// goroutine ends with the key that comes after ctx, or with the process.
func (l *loop) read(ctx context.Context, in io.Reader) {
	defer close(l.keys)
	buf := make([]byte, 256)
	for {
		n, err := in.Read(buf)
		if err != nil || n == 0 {
			return
		}
		for rest := buf[:n]; len(rest) > 0; {
			var key string
			key, rest = nextKey(rest)
			if key == "" {
				continue
			}
			select {
			case l.keys <- key:
			case <-ctx.Done():
				return
			}
		}
	}
}

// sequences are the keys that terminals send as escape sequences, after the escape.
var sequences = map[string]string{
	"[A": "up", "[B": "down", "[C": "right", "[D": "left", "OA": "up", "OB": "down", "OC": "right", "OD": "left",
	"[H": "home", "[F": "end", "OH": "home", "OF": "end", "[1~": "home", "[4~": "end", "[7~": "home", "[8~": "end",
	"[5~": "pgup", "[6~": "pgdn",
}

// nextKey is the first key of what a terminal sent, "" for one that means nothing here.
func nextKey(b []byte) (key string, rest []byte) {
	switch b[0] {
	case 3, 4: // ctrl-c and ctrl-d
		return "ctrl-c", b[1:]
	case '\r', '\n':
		return "enter", b[1:]
	case 8, 127:
		return "backspace", b[1:]
	case 0x1b:
		if len(b) == 1 || b[1] == 0x1b {
			return "esc", b[1:]
		}
		if b[1] != '[' && b[1] != 'O' {
			return "", b[2:] // alt and a key
		}
		end := 2 // a sequence ends with a letter or a tilde (ECMA-48, 5.4)
		for end < len(b) && (b[end] < 0x40 || b[end] > 0x7e) {
			end++
		}
		end = min(end+1, len(b))
		return sequences[string(b[1:end])], b[end:]
	}
	r, n := utf8.DecodeRune(b)
	if unsafeRune(r) {
		return "", b[n:]
	}
	return string(b[:n]), b[n:]
}
