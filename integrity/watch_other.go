//go:build !linux

package integrity

func openKernel(*folder) (kernel, error) { return nil, errNoWatch }
