// Package uitest holds the dashboard's tests: a real browser, the real API and a
// real store, in one process. It has no code but them.
//
//	go test ./web/uitest                                                  all of them
//	go test ./web/uitest -run TestServe -serve=127.0.0.1:8090             the same data, to look at
//	go test ./web/uitest -run TestScreenshot -screenshot=docs/img/dashboard.png -url=http://localhost:4040
package uitest
