package access

import "net/http"

// OIDC is an identity provider by which people log in.
type OIDC struct{}

func (a *Access) startOIDC(w http.ResponseWriter, r *http.Request) {}
func (a *Access) endOIDC(w http.ResponseWriter, r *http.Request)   {}
