package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
)

// defaultDataDir is where this user's programs keep their data, by the custom
// of the system, and in it our folder.
func defaultDataDir(goos string, getenv func(string) string, home func() (string, error)) (string, error) {
	if goos == "windows" {
		if dir := getenv("LocalAppData"); dir != "" {
			return filepath.Join(dir, "quantra"), nil
		}
		return "", errors.New("%LocalAppData% is not set: name the data folder with --data")
	}
	// The XDG specification asks to ignore a path that is not absolute.
	if dir := getenv("XDG_DATA_HOME"); goos != "darwin" && filepath.IsAbs(dir) {
		return filepath.Join(dir, "quantra"), nil
	}
	dir, err := home()
	if err != nil {
		return "", errors.New("this user has no home folder: name the data folder with --data")
	}
	if goos == "darwin" {
		return filepath.Join(dir, "Library", "Application Support", "quantra"), nil
	}
	return filepath.Join(dir, ".local", "share", "quantra"), nil
}

// dataDir is the folder that --data names, or the default, as an absolute path.
func dataDir(flag string) (string, error) {
	if flag == "" {
		var err error
		if flag, err = defaultDataDir(runtime.GOOS, os.Getenv, os.UserHomeDir); err != nil {
			return "", usagef("%w", err)
		}
	}
	return filepath.Abs(flag)
}
