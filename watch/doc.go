// Package watch looks at all profiles as they come, and keeps what it finds: it schedules the pure functions of package
// analyze over the store, gives each finding a life in the control database, and tells people.
package watch
