package live

import "strings"

const (
	stateRunning  = "running"
	stateRunnable = "runnable"
	stateWaiting  = "waiting"
	stateSyscall  = "syscall"
)

// states tells a goroutine's state from the functions at its leaf: the words are
// those of runtime/runtime2.go (waitReasonStrings) and traceback.go (gStatusStrings),
// the functions those that call gopark with that reason, in Go 1.21 to 1.26.
// A name that ends in * stands for all that begin so.
var states = map[string]string{
	"runtime.chanrecv":  "chan receive", // of a nil channel too: only the line would tell
	"runtime.chanrecv1": "chan receive",
	"runtime.chanrecv2": "chan receive",
	"runtime.chansend":  "chan send",
	"runtime.chansend1": "chan send",
	"runtime.selectgo":  "select",
	"runtime.block":     "select (no cases)",

	"runtime.netpollblock":           "IO wait",
	"internal/poll.runtime_pollWait": "IO wait",

	"sync.runtime_SemacquireMutex":          "sync.Mutex.Lock", // before Go 1.24
	"internal/sync.runtime_SemacquireMutex": "sync.Mutex.Lock",
	"sync.runtime_SemacquireRWMutexR":       "sync.RWMutex.RLock",
	"sync.runtime_SemacquireRWMutex":        "sync.RWMutex.Lock",
	"sync.runtime_SemacquireWaitGroup":      "sync.WaitGroup.Wait",
	"sync.runtime_Semacquire":               "semacquire",
	"internal/poll.runtime_Semacquire":      "semacquire",
	"runtime.semacquire":                    "semacquire",
	"sync.runtime_notifyListWait":           "sync.Cond.Wait",
	"time.Sleep":                            "sleep",

	"runtime.gcBgMarkWorker":           "GC worker (idle)",
	"runtime.bgsweep":                  "GC sweep wait",
	"runtime.bgscavenge":               "GC scavenge wait",
	"runtime.(*scavengerState).park":   "GC scavenge wait",
	"runtime.forcegchelper":            "force gc (idle)",
	"runtime.updateMaxProcsGoroutine":  "GOMAXPROCS updater (idle)",
	"runtime.runfinq":                  "finalizer wait",
	"runtime.runFinalizers":            "finalizer wait", // as it is called since Go 1.25
	"runtime.(*cleanupQueue).dequeue":  "cleanup wait",
	"runtime.gcParkAssist":             "GC assist wait",
	"runtime.gcAssistAlloc*":           "GC assist marking",
	"runtime.gcStart":                  "semacquire",
	"runtime.gcWaitOnMark":             "wait for GC cycle",
	"runtime.coroswitch*":              "coroutine",
	"runtime.readTrace0":               "trace reader (blocked)",
	"runtime.ReadTrace":                "trace reader (blocked)",
	"runtime.traceAdvance":             "semacquire",
	"runtime.stopTheWorld*":            "stopping the world",
	"internal/synctest.Run":            "synctest.Run",
	"internal/synctest.Wait":           "synctest.Wait",
	"runtime.synctestRun":              "synctest.Run",
	"runtime.synctestWait":             "synctest.Wait",
	"os/signal.signal_recv":            stateSyscall,
	"runtime.notetsleepg":              stateSyscall,
	"runtime.cgocall":                  stateSyscall,
	"runtime.asmcgocall":               stateSyscall,
	"runtime.syscall_*":                stateSyscall,
	"internal/runtime/syscall*":        stateSyscall,
	"syscall.Syscall*":                 stateSyscall,
	"syscall.RawSyscall*":              stateSyscall,
	"syscall.syscall*":                 stateSyscall, // macOS, which calls libc
	"syscall.rawSyscall*":              stateSyscall,
	"runtime.runtime_goroutineProfile": stateRunning,

	// Who makes the profile runs.
	"runtime.goroutineProfile*":               stateRunning,
	"runtime.GoroutineProfile":                stateRunning,
	"runtime.pprof_goroutineProfileInternal":  stateRunning,
	"runtime/pprof.runtime_goroutineProfile*": stateRunning,
	"runtime/pprof.pprof_goroutineProfile*":   stateRunning,
	"runtime/pprof.writeGoroutine*":           stateRunning,
	"runtime/pprof.writeRuntimeProfile":       stateRunning,
}

// prefixes are the names of states that end in *.
var prefixes = func() map[string]string {
	m := map[string]string{}
	for name, state := range states {
		if p, ok := strings.CutSuffix(name, "*"); ok {
			m[p] = state
		}
	}
	return m
}()

// waits are the states of goroutines that gave up their processor by gopark.
var waits = map[string]bool{
	"IO wait": true, "sync.Mutex.Lock": true, "sync.RWMutex.RLock": true, "sync.RWMutex.Lock": true,
	"sync.WaitGroup.Wait": true, "semacquire": true, "sync.Cond.Wait": true, "sleep": true,
}

// stateOf is the state of a goroutine with these frames, the leaf first. Only
// frames of the runtime and the packages it shows itself through are looked at;
// what is above them is the program's.
func stateOf(frames []Frame) string {
	awake := len(frames) > 0 && strings.HasPrefix(frames[0].Func, "runtime.")
	isParked := false
	for _, f := range frames {
		if f.Func == "runtime.gopark" || f.Func == "runtime.goparkunlock" {
			isParked, awake = true, false
			continue
		}
		if s := stateIn(f.Func); s != "" {
			if awake && s != stateSyscall && s != stateRunning {
				return stateRunnable // inside a channel operation, say, but not waiting in it
			}
			return s
		}
		if !strings.HasPrefix(f.Func, "runtime.") && !strings.HasPrefix(f.Func, "internal/runtime/") {
			break
		}
	}
	if isParked {
		return stateWaiting
	}
	return stateRunnable
}

// stateIn is the state of a goroutine that is in fn, "" if fn does not tell.
func stateIn(fn string) string {
	if s, ok := states[fn]; ok {
		return s
	}
	for p, s := range prefixes {
		if strings.HasPrefix(fn, p) {
			return s
		}
	}
	return ""
}
