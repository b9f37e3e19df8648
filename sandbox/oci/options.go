package oci

// Options are the isolation's.
type Options struct {
	Runtime  string   // runc or runsc, by name or path; "" is runsc where it is installed, else runc
	Launcher string   // a binary whose main calls jail.Main; "" is this program's own
	Cgroup   string   // the cgroup to make groups in; "" is this process's own, or the one above
	Dir      string   // where bundles are made; "" is a new folder of the system's for temporary files
	Echo     []string // a static program that serves package channel by sending back, and its arguments
}
