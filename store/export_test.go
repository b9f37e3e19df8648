package store

// Tend does a round of upkeep, as the clock would, and returns when it is done.
func (db *DB) Tend() {
	heard := make(chan struct{})
	db.tend <- heard
	<-heard
}
