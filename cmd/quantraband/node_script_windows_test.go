package main

import "github.com/rogpeppe/go-internal/testscript"

// nodeScripts are the commands of scripts that have nodes, which are ended by signals: none here.
var nodeScripts map[string]func(ts *testscript.TestScript, neg bool, args []string)
