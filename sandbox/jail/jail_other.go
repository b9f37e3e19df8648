//go:build !linux || !(amd64 || arm64)

package jail

// Main does nothing on this system: no program is started by [Start].
func Main() {}
