//go:build !linux

package overhead

import "time"

func sleeper() (sleep func(time.Duration), done func()) { return time.Sleep, func() {} }
