package console

import (
	"os"

	"golang.org/x/sys/windows"
)

// prepareOutput lets the console understand escape sequences, which Windows' own does only when it is told to.
func prepareOutput(out *os.File) (undo func()) {
	h := windows.Handle(out.Fd())
	var mode uint32
	if err := windows.GetConsoleMode(h, &mode); err != nil {
		return func() {}
	}
	if err := windows.SetConsoleMode(h, mode|windows.ENABLE_PROCESSED_OUTPUT|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING); err != nil {
		return func() {}
	}
	return func() { windows.SetConsoleMode(h, mode) }
}
