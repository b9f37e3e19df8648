package process

// Options are the isolation's.
type Options struct {
	Launcher string   // a binary whose main calls jail.Main; "" is this program's own
	Cgroup   string   // the cgroup to make groups in; "" is this process's own, or the one above
	Echo     []string // a static program that serves package channel by sending back, and its arguments
}
