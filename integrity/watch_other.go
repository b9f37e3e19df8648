//go:build !linux

package integrity

import "errors"

func openKernel(*folder) (kernel, error) {
	return nil, errors.New("this system has no events that are used here")
}
