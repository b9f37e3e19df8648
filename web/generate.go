// Package web is the HTTP and Connect API over a store, and the dashboard that
// asks it.
package web

// The dashboard's files in dist are made from those in ui.
//
//go:generate go run ./bundle
