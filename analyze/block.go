package analyze

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

const (
	minBlocked   = 8    // observations of requests that are blocked, before anything is said
	minSnapshots = 10   // snapshots of goroutines
	setUpCPU     = 0.03 // least share of the CPU that connections which are made in requests take, where it is the CPU that tells
)

// requestEntries are where a server hands a request to the program: what is below them is done for a request. Where a server waits for
// the next request, for a connection or for a timer, they are not on the stack.
var requestEntries = wordSet(`net/http.serverHandler.ServeHTTP google.golang.org/grpc.(*Server).processUnaryRPC google.golang.org/grpc.(*Server).processStreamingRPC
	net/rpc.(*service).call github.com/valyala/fasthttp.(*Server).serveConn`)

// blockClass is a way to block in a request that a program can do without, at that place.
type blockClass struct {
	subject string
	doing   string // "spend 62 % of their time DOING"
	next    string
	names   map[string]bool
	prefix  []string
}

// blockClasses are the ways. Waiting for another service's answer, for a lock or for a channel is none: the first is the work of that
// service, the others have kinds of their own or are how programs are built.
var blockClasses = []blockClass{
	{
		subject: "connection set-up", doing: "setting up connections",
		next:   "Keep connections for the next request: one client for all of them, with keep-alive and enough idle connections.",
		names:  wordSet("crypto/tls.dial crypto/tls.(*Conn).clientHandshake net/http.(*Transport).getConn golang.org/x/crypto/ssh.Dial"),
		prefix: []string{"net.(*Dialer).Dial", "net.Dial", "net.(*sysDialer).", "crypto/tls.(*Dialer).Dial", "crypto/tls.Dial"},
	},
	{
		subject: "database connection", doing: "waiting for a connection to the database",
		next:  "Allow more open and idle connections (SetMaxOpenConns, SetMaxIdleConns), and close rows as soon as they are read.",
		names: wordSet("database/sql.(*DB).conn github.com/jackc/pgx/v5/pgxpool.(*Pool).Acquire"),
	},
	{
		subject: "DNS look-up", doing: "looking up names in DNS",
		next:   "Keep the connection, or its address, for the next request.",
		prefix: []string{"net.(*Resolver).", "net.Lookup"},
	},
	{
		subject: "fsync", doing: "waiting until the disk has it",
		next:  "Sync once for all requests that wait (a group commit), or after the answer where it need not be safe by then.",
		names: wordSet("os.(*File).Sync internal/poll.(*FD).Fsync syscall.Fsync syscall.Fdatasync golang.org/x/sys/unix.Fsync golang.org/x/sys/unix.Fdatasync golang.org/x/sys/unix.Msync"),
	},
	{
		subject: "child process", doing: "waiting for a child process",
		next:  "Keep the process for the next request, or do its work in this one.",
		names: wordSet("os/exec.(*Cmd).Run os/exec.(*Cmd).Wait os/exec.(*Cmd).Start os/exec.(*Cmd).Output os/exec.(*Cmd).CombinedOutput os.(*Process).Wait os.StartProcess"),
	},
	{
		subject: "file I/O", doing: "reading and writing files",
		next: "Keep what is read in memory; hand what is written to a goroutine that writes for many.",
		names: wordSet(`os.(*File).Read os.(*File).ReadAt os.(*File).Write os.(*File).WriteAt os.(*File).WriteString os.(*File).ReadDir os.(*File).Readdirnames
			os.OpenFile os.Open os.Create os.ReadFile os.WriteFile os.Stat os.Lstat os.Remove os.RemoveAll os.Rename os.Mkdir os.MkdirAll os.ReadDir os.CreateTemp`),
	},
	{
		subject: "sleep", doing: "sleeping",
		next:  "Wait for the event instead of for a time.",
		names: wordSet("time.Sleep"),
	},
	{
		subject: "system call", doing: "in system calls",
		next:   "See the flame graph for which one.",
		prefix: []string{"syscall.Syscall", "syscall.RawSyscall", "syscall.Flock", "golang.org/x/sys/unix.Flock", "golang.org/x/sys/unix.Syscall"},
	},
}

// blockedIn is an own function that blocks in a way: where, and how much of it is seen in a tree.
type blockedIn struct {
	class    int
	function string
}

// blockPlaces sums up, over the samples below a request's entry, where they block. all is those below an entry, blocking or not.
func (t *wasteTree) blockPlaces() (places map[blockedIn]float64, details map[blockedIn]map[string]float64, all float64) {
	class := make([]int8, len(t.Names)) // +1, by name
	entry, network := make([]bool, len(t.Names)), make([]bool, len(t.Names))
	for i, n := range t.Names {
		entry[i], network[i] = requestEntries[n], strings.HasPrefix(n, "net.(*netFD).")
		for c := range blockClasses {
			if blockClasses[c].names[n] || hasAnyPrefix(n, blockClasses[c].prefix) {
				class[i] = int8(c) + 1
				break
			}
		}
	}
	type state struct {
		request bool
		network bool  // on an established connection
		class   int8  // of the outermost call that blocks, +1
		at      int32 // the own function that makes it
		detail  int32 // the innermost call that blocks
	}
	st := make([]state, t.Len())
	places, details = map[blockedIn]float64{}, map[blockedIn]map[string]float64{}
	for i := 1; i < t.Len(); i++ {
		s := st[t.Parent[i]]
		n := t.Name[i]
		s.request, s.network = s.request || entry[n], s.network || network[n]
		if class[n] > 0 && t.owner[i] > 0 {
			if s.class == 0 && !s.network {
				s.class, s.at = class[n], t.owner[i]
			}
			s.detail = int32(i)
		}
		st[i] = s
		if !s.request || t.Self[i] == 0 {
			continue
		}
		all += float64(t.Self[i])
		if s.class > 0 {
			b := blockedIn{int(s.class) - 1, t.name(s.at)}
			places[b] += float64(t.Self[i])
			if details[b] == nil {
				details[b] = map[string]float64{}
			}
			details[b][t.name(s.detail)] += float64(t.Self[i])
		}
	}
	return places, details, all
}

// blocking is calls that block on the path of requests. By Little's law the mean number of requests that are in a call is their rate
// times the time each is there, so the part of all requests that are seen in it is the part of their time that they spend in it. Where
// connections are made for requests the CPU profile tells as well: a TLS handshake computes.
func (w *waste) blocking() []Finding {
	waits, details, all := map[blockedIn]float64{}, map[blockedIn]map[string]float64{}, 0.0
	sample := "goroutine"
	p, col, ok := w.s.Goroutines.column("goroutine")
	if !ok {
		p, col, ok = w.s.Goroutines.column("goroutines")
	}
	if ok {
		waits, details, all = newWasteTree(p, col).blockPlaces()
	} else if p, col, ok = w.s.Block.column("delay"); ok {
		return w.blockingByDelay(newWasteTree(p, col))
	} else {
		sample = "cpu"
	}
	costs := map[blockedIn]float64{}
	if w.cpu != nil && w.cpu.samples(w.cpu.total) >= minSamples {
		costs, _, _ = w.cpu.blockPlaces()
	}
	places := map[blockedIn]bool{}
	for b := range waits {
		places[b] = true
	}
	for b := range costs {
		places[b] = true
	}
	var out []Finding
	for b := range places {
		k := waits[b]
		share := Share(k, all)
		seen := k >= minBlocked && w.s.GoroutineSnapshots >= minSnapshots && share.Low >= w.o.Blocking
		cpu := Estimate{}
		if w.cpu != nil {
			cpu = w.cpu.share(costs[b])
		}
		setUp := blockClasses[b.class].subject == "connection set-up"
		if computed := setUp && cpu.Low >= setUpCPU; !seen && !computed {
			continue
		}
		out = append(out, w.blockFinding(b, sample, k, all, share, cpu, details[b]))
	}
	slices.SortFunc(out, func(a, b Finding) int { return cmp.Compare(a.ID(), b.ID()) })
	return out
}

// blockedByCPU is the test of a finding whose share is of the CPU, and not of requests' time.
const blockedByCPU = "part of the CPU, Wilson's interval"

func (w *waste) blockFinding(b blockedIn, sample string, k, all float64, share, cpu Estimate, details map[string]float64) Finding {
	c := blockClasses[b.class]
	f := w.finding(Blocking, sample, "total")
	f.Function, f.Subject, f.Unit, f.After, f.Change, f.Samples = b.function, c.subject, "share", share, share, k
	if k >= minBlocked {
		f.Test = "part of the requests seen, Wilson's interval"
		f.Sentence = fmt.Sprintf("Requests to %s spend %s of their time (%s) in %s %s%s: %.2g of them at any moment in each instance.",
			w.s.Service, percents(share.Value), percentInterval(share), quote(b.function), c.doing, blockDetail(c.subject, details, k), k/float64(max(1, w.s.GoroutineSnapshots)))
		if k < 30 {
			f.Warnings = append(f.Warnings, fmt.Sprintf("It rests on %.0f of %.0f requests that were seen in %d snapshots of goroutines.", k, all, w.s.GoroutineSnapshots))
		}
	} else {
		f.Test, f.After, f.Change, f.Samples = blockedByCPU, cpu, cpu, w.cpu.samples(cpu.Value*w.cpu.total)
		f.Sentence = fmt.Sprintf("%s is %s on the path of requests: that alone takes %s of %s's CPU (%s).",
			quote(b.function), c.doing, percents(cpu.Value), w.s.Service, percentInterval(cpu))
		f.Warnings = append(f.Warnings, "How long requests wait for it is not known: too few of them were seen doing so.")
	}
	f.Next = c.next
	if c.subject == "connection set-up" && cpu.Low > 0.005 {
		f.Next += fmt.Sprintf(" The %s of the CPU that it takes would be saved, too.", percents(cpu.Value))
		f.Saving, f.SavingUnit = cpu.Value*w.cores, "cores"
	}
	return f
}

// blockDetail names the innermost call where most of it is another than the whole.
func blockDetail(class string, details map[string]float64, k float64) string {
	top := heaviest(details)
	if len(top) == 0 || top[0].value < 0.6*k {
		return ""
	}
	switch n := top[0].name; {
	case strings.HasPrefix(n, "crypto/tls."):
		return ", mostly the TLS handshake"
	case strings.HasPrefix(n, "net.(*Resolver).") && class != "DNS look-up":
		return ", mostly the DNS look-up"
	}
	return ""
}

// blockingByDelay is the same by the runtime's block profile, for programs whose goroutines are not listed. It knows of waits for
// channels alone, so of connections and names that another goroutine gets.
func (w *waste) blockingByDelay(t *wasteTree) []Finding {
	places, details, all := t.blockPlaces()
	n := 0.0 // waits of requests
	if p, col, ok := w.s.Block.column("contentions"); ok {
		_, _, n = newWasteTree(p, col).blockPlaces()
	}
	var out []Finding
	for b, v := range places {
		share := Share(v/all*n, n)
		if perSecond := v / 1e9 / w.covered; share.Low < w.o.Blocking || perSecond < 0.01 {
			continue
		}
		f := w.finding(Blocking, "delay", "total")
		f.Function, f.Subject, f.Unit, f.After, f.Change, f.Samples = b.function, blockClasses[b.class].subject, "share", share, share, v/all*n
		f.Sentence = fmt.Sprintf("Of the time that requests to %s are blocked, %s is in %s %s%s: %s in every second of each instance.",
			w.s.Service, percents(share.Value), quote(b.function), blockClasses[b.class].doing, blockDetail(blockClasses[b.class].subject, details[b], v), secondsText(v/1e9/w.covered))
		f.Next = blockClasses[b.class].next
		f.Warnings = append(f.Warnings, "It is by the block profile, which does not see system calls; a list of goroutines would tell the part of requests' time.")
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Finding) int { return cmp.Compare(a.ID(), b.ID()) })
	return out
}
