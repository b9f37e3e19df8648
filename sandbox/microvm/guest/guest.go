// Package guest is the first process of a virtual machine that package microvm starts: it loads the modules that the machine came with,
// opens the channel to the host, and becomes the handler, without rights and behind the same seccomp filter as everywhere. When that ends
// the machine ends with it.
package guest

// Word is the argument of a machine's init by which [Main] knows it; the order follows.
const Word = "quantra-guest"

// What the machine's memory disk has.
const (
	HandlerPath = "/handler"
	ModulesPath = "/modules" // in the order to load them
)

// Names of the virtio ports.
const (
	ChannelPort = "quantra.channel"
	StderrPort  = "quantra.stderr"
)

// Order is what a machine is told on the kernel's command line, as JSON in base64 (URL, without padding) after [Word].
type Order struct {
	Args  []string // the handler's, with its name
	Env   []string
	Vsock uint32 // a port of the host's to connect to for the channel; 0 is virtio ports
}

// User is the handler's in the machine.
const User = 65534
