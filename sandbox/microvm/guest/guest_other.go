//go:build !linux || !(amd64 || arm64)

package guest

// Main does nothing on this system: it is no machine's.
func Main() {}
