//go:build !windows

package console

import "os"

// prepareOutput has nothing to do: terminals understand escape sequences.
func prepareOutput(*os.File) (undo func()) { return func() {} }
