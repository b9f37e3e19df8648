package optimize

import "encoding/json"

// beside is what else of c's kind is, or may be, in force, by target: what an actuator of settings that are given together must leave as it is.
// The round's own view of the other changes is up to date: one round is made at a time.
func (r *round) beside(c *Change) map[string][]json.RawMessage {
	var out map[string][]json.RawMessage
	for i := range r.all {
		o := &r.all[i]
		if o.ID == c.ID || o.Kind != c.Kind || o.Service != c.Service {
			continue
		}
		for k := range o.Units {
			if u := &o.Units[k]; u.inForce() {
				if out == nil {
					out = map[string][]json.RawMessage{}
				}
				out[u.ID] = append(out[u.ID], o.Spec)
			}
		}
	}
	return out
}
